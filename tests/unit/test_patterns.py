"""Made-up load: every pattern is sane and documented, compounds obey algebra, expressions read back."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler_sim.patterns import DAY, HOUR, PATTERNS, WEEK, Pattern, PatternError, ar1, parse, steady

NAMES = tuple(PATTERNS)
CLASSIC = ("steady", "sine-curve", "sinusoidal", "spike", "poisson", "random-walk")
RANDOM = {"poisson", "random-walk", "jitter", "level-shift", "on-off", "batch", "working-day"}
TIMES = 3.0 * (np.arange(28_800) + 0.5)


def drawn(pattern: Pattern, times: np.ndarray = TIMES, seed: int = 0) -> np.ndarray:
    return np.asarray(pattern.rates(times, np.random.default_rng(seed)))


def test_the_registry_has_the_patterns_that_are_promised() -> None:
    assert set(NAMES) == {*CLASSIC, "ramp", "flash-crowd", "idle-then-spike", "daily", "weekly",
                          "level-shift", "launch", "on-off", "batch", "working-day", "jitter"}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_rates_are_finite_and_not_negative(name: str) -> None:
    for times in (TIMES, TIMES - 0.5 * DAY, TIMES + 40 * WEEK, np.array([7.0]), np.zeros(0)):
        rates = drawn(PATTERNS[name](), times)
        assert rates.dtype == np.float64
        assert rates.shape == times.shape
        assert np.isfinite(rates).all()
        assert (rates >= 0.0).all()


@pytest.mark.parametrize("name", NAMES)
def test_relative_units(name: str) -> None:
    """A day's 95th percentile is about 1, so that sums of patterns mean something; a crowd alone is short."""
    level = np.mean([np.percentile(drawn(PATTERNS[name](), seed=seed), 95.0) for seed in range(8)])
    if name == "flash-crowd":
        assert drawn(PATTERNS[name]()).max() == pytest.approx(1.0)
    else:
        assert 0.85 <= level <= 1.15


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_documented_with_its_unit(name: str) -> None:
    text = PATTERNS[name].description
    for parameter in PATTERNS[name].parameters:
        assert re.search(rf"\b{parameter}\b[^:]*:", text), f"{name}: {parameter} is not in the description"
    units = ("second", "relative", "multiple", "share", "no unit", "mean count")
    described = re.split(r"(?<=[.)])\s+(?=\w+(?:, \w+)*: )|\n\n", text)[1:]
    for sentence in described:
        assert any(unit in sentence for unit in units), f"{name}: no unit in {sentence!r}"


@pytest.mark.parametrize("name", NAMES)
def test_chance_comes_from_the_generator_alone(name: str) -> None:
    pattern = PATTERNS[name]()
    first, again, other = drawn(pattern), drawn(pattern), drawn(pattern, seed=1)
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == (name not in RANDOM)


@pytest.mark.parametrize("name", NAMES)
def test_a_longer_run_begins_with_the_shorter_one(name: str) -> None:
    pattern = PATTERNS[name]()
    np.testing.assert_array_equal(drawn(pattern)[:9_000], drawn(pattern, TIMES[:9_000]))


@pytest.mark.parametrize("name", NAMES)
def test_finer_times_show_the_same_course(name: str) -> None:
    pattern = PATTERNS[name]()
    middles = TIMES[2::5]
    np.testing.assert_allclose(drawn(pattern)[2::5], drawn(pattern, middles), rtol=1e-12, atol=1e-12)


def test_shapes_that_the_names_promise() -> None:
    def at(text: str, *seconds: float) -> list[float]:
        return [float(x) for x in drawn(parse(text), np.array(seconds))]

    assert at("steady(level=0.5)", 0, 1e6) == [0.5, 0.5]
    assert at("sine-curve(period=400,low=1,high=3)", 0, 100, 200, 300) == pytest.approx([2, 3, 2, 1])
    assert at("spike(every=1000,width=100,height=3)", 400, 450, 475, 500, 550) == pytest.approx([1, 1, 2, 3, 1])
    assert at("ramp(begin=1,end=3,at=10,duration=10)", 0, 10, 15, 20, 99) == pytest.approx([1, 1, 2, 3, 3])
    crowd = at("flash-crowd(at=100,rise=10,hold=10,decay=50,height=2)", 99, 105, 110, 120, 170)
    assert crowd == pytest.approx([0, 1, 2, 2, 2 * np.exp(-1)])
    assert at("idle-then-spike(at=100,rise=10,every=1000)", 50, 1050, 1110) == pytest.approx([0.02, 0.02, 1.02])
    assert at("daily(low=1,high=3,peak=12h)", 0, 6 * HOUR, 12 * HOUR) == pytest.approx([1, 2, 3])
    week = at("weekly(low=1,high=1,weekend=0.5)", HOUR * 12, HOUR * (24 * 5 + 12), WEEK + HOUR * 12)
    assert week == pytest.approx([1, 0.5, 1])
    launch = at("launch(at=100,rise=10,decay=50,before=0,peak=2,plateau=1)", 99, 110, 160, 1e5)
    assert launch == pytest.approx([0, 2, 1 + np.exp(-1), 1])
    assert at("on-off(on=10,off=20,spread=0)", 0, 9.9, 10, 29, 31) == [1, 1, 0, 0, 1]


def test_noise_is_what_it_says() -> None:
    times = 15.0 * (np.arange(400_000) + 0.5)
    x = drawn(parse("jitter(spread=0.2,correlation=60)"), times)
    log = np.log(x)
    assert x.mean() == pytest.approx(1.0, abs=0.004)
    assert log.std() == pytest.approx(0.2, rel=0.02)
    assert np.corrcoef(log[:-4], log[4:])[0, 1] == pytest.approx(np.exp(-1.0), abs=0.02)
    counts = drawn(parse("poisson(level=1,events=50)"), times) * 50.0
    assert counts.mean() == pytest.approx(50.0, rel=0.01)
    assert counts.var() == pytest.approx(50.0, rel=0.02)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
    on = drawn(parse("on-off(on=300,off=900)"), times)
    assert on.mean() == pytest.approx(0.25, abs=0.01)
    batches = drawn(parse("batch(every=600,width=300,size=1,base=0)"), times)
    assert batches.mean() == pytest.approx(0.5, rel=0.05)
    walk = drawn(parse("random-walk(low=1,high=2)"), times)
    assert (walk.min(), walk.max()) == pytest.approx((1.0, 2.0), abs=0.01)
    levels = drawn(parse("level-shift(every=600,low=1,high=2)"), times)
    assert np.count_nonzero(np.diff(levels)) == pytest.approx(times[-1] / 600.0, rel=0.05)
    assert np.median(levels) == pytest.approx(np.sqrt(2.0), rel=0.02)


def test_working_day_has_its_parts() -> None:
    day = drawn(parse("working-day(noise=0,crowd=0)"), np.arange(0.0, DAY, 60.0))
    hour = {h: float(day[round(h * 60)]) for h in (4, 8, 11.5, 12.75, 14.25, 19, 23.9)}
    assert hour[4] == pytest.approx(0.12)
    assert hour[4] < hour[8] < hour[11.5] == pytest.approx(1.0)
    assert hour[12.75] == pytest.approx(0.75)
    assert hour[12.75] < hour[14.25]
    assert 0.4 < hour[19] < 0.5
    assert hour[23.9] < hour[19]
    crowded = drawn(parse("working-day(noise=0)"), np.arange(0.0, 2 * DAY, 60.0))
    extra = crowded - np.tile(day, 2)
    starts = [int(np.argmax(part > 0.01)) * 60.0 for part in np.split(extra, 2)]
    assert extra.max() == pytest.approx(0.6, abs=1e-6)
    assert all(abs(start - 55_800.0) < 2_760.0 for start in starts)
    assert starts[0] != starts[1]


@pytest.mark.parametrize("correlation", [1.0, 60.0, 600.0, 1e5])
def test_ar1_is_the_plain_recursion(correlation: float) -> None:
    found = ar1(np.random.default_rng(7), 5_000, 15.0, correlation)
    noise = np.random.default_rng(7).standard_normal(5_000)
    a = float(np.exp(-15.0 / correlation))
    plain = [float(noise[0])]
    for e in noise[1:]:
        plain.append(a * plain[-1] + float(np.sqrt(1.0 - a * a) * e))
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found[:800], ar1(np.random.default_rng(7), 800, 15.0, correlation))


numbers = st.floats(0.0, 1e6).map(lambda x: round(x, 3))
fixed = st.sampled_from([n for n in NAMES if n not in RANDOM]).map(lambda n: PATTERNS[n]())


def grown(children: st.SearchStrategy[Pattern]) -> st.SearchStrategy[Pattern]:
    return st.one_of(
        st.builds(lambda a, b: a + b, children, children),
        st.builds(lambda a, b: a * b, children, children),
        st.builds(lambda a, k: a.scaled(k), children, numbers),
        st.builds(lambda a, s: a.shifted(s), children, numbers.map(lambda s: s - 5e5)),
        st.builds(lambda a, b, s: a.then(b, at=s), children, children, numbers),
        st.builds(lambda a, k: a + k, children, numbers),
    )


compounds = st.recursive(
    st.one_of(st.sampled_from(NAMES).map(lambda n: PATTERNS[n]()), numbers.map(lambda x: steady(level=x))),
    grown,
    max_leaves=5,
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(pattern=compounds)
def test_compounds_read_back_and_stay_sane(pattern: Pattern) -> None:
    times = TIMES[:200]
    rates = drawn(pattern, times)
    assert rates.shape == times.shape
    assert np.isfinite(rates).all()
    assert (rates >= 0.0).all()
    if len(str(pattern)) <= 500:
        again = parse(str(pattern))
        assert again == pattern
        np.testing.assert_array_equal(drawn(again, times), rates)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(a=fixed, b=fixed, c=fixed, k=st.floats(0.0, 10.0), s=st.integers(-90_000, 90_000))
def test_algebra_of_patterns_without_chance(a: Pattern, b: Pattern, c: Pattern, k: float, s: int) -> None:
    x, y, z = drawn(a), drawn(b), drawn(c)
    np.testing.assert_array_equal(drawn(a + b), x + y)
    np.testing.assert_array_equal(drawn(a * b), x * y)
    np.testing.assert_allclose(drawn(a * (b + c)), x * y + x * z)
    np.testing.assert_allclose(drawn(k * a), k * x)
    np.testing.assert_array_equal(drawn(a.shifted(s)), drawn(a, TIMES - s))
    np.testing.assert_allclose(drawn(a.shifted(s).shifted(-s)), x)
    np.testing.assert_array_equal(
        drawn(a.then(b, at=s)), np.where(s > TIMES, x, np.append(np.zeros(0), drawn(b, TIMES - s)))
    )
    assert drawn(a + 0.5).tolist() == (x + 0.5).tolist() == drawn(0.5 + a).tolist()


def test_parts_of_a_compound_draw_from_streams_of_their_own() -> None:
    pattern = parse("poisson(level=1)+poisson(level=1)")
    alone = drawn(parse("poisson(level=1)+0"))
    assert not np.array_equal(drawn(pattern), 2.0 * alone)
    np.testing.assert_array_equal(drawn(parse("poisson(level=1)+0")), drawn(parse("poisson(level=1)+steady(level=0)")))
    other = drawn(pattern) - alone
    assert abs(np.corrcoef(alone[::5], other[::5])[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("daily+flash-crowd", "daily + flash-crowd"),
        ("spike(every=3600,height=4)", "SPIKE(every=1h, height=4)"),
        ("steady(level=6)", "2*3"),
        ("0.5*daily", "daily*0.5"),
        ("sine-curve.shifted(-90)", "SINE_CURVE.shifted(-90s)"),
        ("daily.then(steady,at=21600)", "daily.then(steady,6h)"),
        ("daily.then(steady(level=0.5),at=21600)", "daily.then(0.5,at=0.25d)"),
        ("spike", "spike(every=7500)"),
        ("2*daily", "daily.scaled(2)"),
        ("steady+0.1", "steady+steady(level=0.1)"),
    ],
)
def test_parse(text: str, same: str) -> None:
    assert parse(text) == parse(same)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dayly", ["'dayly'", "did you mean 'daily'?", "working-day"]),
        ("flash-crow+daily", ["'flash-crow'", "did you mean 'flash-crowd'?"]),
        ("spike(evry=3)", ["spike", "'evry'", "did you mean 'every'?", "width"]),
        ("spike(every=0)", ["spike: every is 0", "from 0.001"]),
        ("spike(every=-1)", ["spike: every is -1"]),
        ("spike(height=1e999)", ["spike: height is inf"]),
        ("spike(every=daily)", ["spike: every is daily"]),
        ("spike(**daily)", ["spike has no parameter"]),
        ("spike(3)", ["'spike(3)'", "expected an expression"]),
        ("daily(low=2)", ["low is 2", "high (1)"]),
        ("daily*-1", ["multiplied by -1"]),
        ("daily.shifted(1e999)", ["shifted by inf"]),
        ("daily.then(steady)", [".then", "at=SECONDS"]),
        ("daily.shifted(1,seconds=2)", [".shifted"]),
        ("daily.scaled(daily)", [".scaled"]),
        ("daily.rates(1)", ["no pattern"]),
        ("daily**2", ["no pattern"]),
        ("-daily", ["no pattern"]),
        ("daily+'x'", ["no pattern"]),
        ("__import__(name=1)", ["no pattern is called"]),
        ("", ["cannot be read"]),
        ("daily+", ["cannot be read"]),
        ("(" * 300, ["cannot be read"]),
        ("steady(level=" + "9" * 400 + ")", ["cannot be read"]),
        ("daily" * 200, ["too long"]),
    ],
)  # fmt: skip
def test_what_cannot_be_parsed(text: str, words: list[str]) -> None:
    with pytest.raises(PatternError) as caught:
        parse(text)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_a_grid_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(PatternError, match=r"every 0\.001 s over 1e\+06 s; expected a longer step"):
        drawn(parse("jitter(step=0.001)"), np.array([0.0, 1e6]))
