"""Load on the world's ticks: averages, gaps, scale, noise, batches; and the scenarios that name it."""

import gzip
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler_sim import scenarios
from rlscaler_sim.load import Load, LoadError, Loads, Source, generator, realise, realise_many
from rlscaler_sim.patterns import PatternError, parse
from rlscaler_sim.scenarios import LOADS, VARIANTS, ScenarioError
from rlscaler_sim.trace import Trace, TraceError

NAN = float("nan")
WORLD = {"capacity_per_replica", "concurrency", "slo_wait", "fano", "startup", "startup_spread",
         "startup_jitter", "drain", "lag", "window", "completions", "crash_rate", "gap_rate", "gap_duration",
         "node_pods", "node_startup", "max_nodes"}  # fmt: skip


def made(step: float, rates: list[float] | np.ndarray, name: str = "made", start: float = 0.0) -> Trace:
    return Trace(name, start, step, np.asarray(rates, np.float64))


def bumpy(step: float, n: int, name: str = "bumpy") -> Trace:
    return made(step, 50.0 + 40.0 * np.sin(np.arange(n)) + 5.0 * (np.arange(n) % 7), name)


def plain(source: Source, **options: float) -> Load:
    """Return the load without noise and scale."""
    return realise(source, rng=np.random.default_rng(0), jitter=False, scale_to=None, **options)


rate_lists = st.lists(st.floats(0.0, 1000.0), min_size=15, max_size=60)


@settings(deadline=None, derandomize=True, max_examples=80)
@given(rates=rate_lists, step=st.sampled_from([0.7, 1.0, 3.0, 5.0, 10.0, 14.0, 15.0]))
def test_fine_traces_keep_every_average(rates: list[float], step: float) -> None:
    trace = made(step, rates)
    if trace.duration < 15.0:
        return
    load = plain(trace)
    assert load.rates.size == int(trace.duration / 15.0 + 1e-9) * 5
    edges = 3.0 * np.arange(load.rates.size + 1)
    for k, (begin, end) in enumerate(pairwise(edges)):
        bucket = np.arange(trace.rates.size) * step
        overlap = np.maximum(np.minimum(end, bucket + step) - np.maximum(begin, bucket), 0.0)
        assert load.rates[k] == pytest.approx(float((overlap * trace.rates).sum() / 3.0), rel=1e-5, abs=1e-4)
    assert load.known.all()


@settings(deadline=None, derandomize=True, max_examples=40)
@given(rates=rate_lists, step=st.sampled_from([30.0, 60.0, 300.0, 3600.0]))
def test_coarse_traces_are_straight_lines_between_centres(rates: list[float], step: float) -> None:
    load = plain(made(step, rates))
    centres = step * (np.arange(len(rates)) + 0.5)
    middles = 3.0 * (np.arange(load.rates.size) + 0.5)
    np.testing.assert_allclose(load.rates, np.interp(middles, centres, rates), rtol=1e-6, atol=1e-9)
    assert load.rates.mean(dtype=np.float64) == pytest.approx(np.mean(rates), rel=1e-5)


@pytest.mark.parametrize("step", [10.0, 15.0, 60.0])
def test_gaps_are_served_but_neither_known_nor_scored(step: float) -> None:
    trace = made(step, [1.0, 2.0, NAN, NAN, 8.0, 9.0])
    load = plain(trace)
    middles = 3.0 * (np.arange(load.rates.size) + 0.5)
    first, last = middles - 1.5, middles + 1.5
    expected = (last <= 2 * step) | (first >= 4 * step)
    np.testing.assert_array_equal(load.known, expected)
    np.testing.assert_array_equal(load.scored, expected)
    assert not np.shares_memory(load.known, load.scored)
    gap = load.rates[~load.known]
    assert (gap > 1.99).all()
    assert (gap < 8.01).all()
    assert (np.diff(gap) >= 0.0).all()


def test_gaps_at_the_ends_hold_the_nearest_value() -> None:
    load = plain(made(60.0, [NAN, 4.0, 6.0, NAN]))
    assert load.rates[0] == 4.0
    assert load.rates[-1] == 6.0
    assert load.known.tolist() == [False] * 20 + [True] * 40 + [False] * 20


@pytest.mark.parametrize(
    "source",
    [
        bumpy(10.0, 400),
        bumpy(60.0, 100),
        bumpy(300.0, 50),
        made(60.0, [1.0, NAN, 500.0, 3.0, NAN, 2.0] * 10),
        parse("working-day"),
        parse("spike"),
    ],
    ids=["fine", "coarse", "coarser", "gaps", "day", "spike"],
)
@pytest.mark.parametrize("scale_to", [25.0, 3.0])
def test_the_95th_percentile_of_known_demand_is_the_scale(source: Source, scale_to: float) -> None:
    for start, duration in ((0.0, None), (600.0, 1800.0)):
        load = realise(
            source,
            start=start,
            duration=duration,
            scale_to=scale_to,
            capacity=7.0,
            rng=np.random.default_rng(3),
        )
        demand = load.rates[load.known].astype(np.float64) / 7.0
        assert np.percentile(demand, 95.0) == pytest.approx(scale_to, rel=3e-7)
        assert duration is None or load.rates.size == 600


def test_scale_of_sparse_and_idle_loads() -> None:
    sparse = realise(made(15.0, [0.0] * 99 + [4.0]), rng=np.random.default_rng(0))
    assert sparse.rates.max() == pytest.approx(250.0)
    idle = realise(made(15.0, [0.0] * 10), rng=np.random.default_rng(0))
    assert not idle.rates.any()
    own = realise(made(15.0, [2.0] * 10), scale_to=None, rng=np.random.default_rng(0))
    assert own.rates.tolist() == [2.0] * 50


def test_noise_is_that_of_the_standard_world() -> None:
    def log_noise(step: float) -> np.ndarray:
        trace = made(step, [100.0] * int(40 * 86400 / step))
        load = realise(trace, scale_to=None, rng=np.random.default_rng(5))
        noise = load.rates.reshape(-1, 5)
        np.testing.assert_array_equal(noise, np.repeat(noise[:, :1], 5, axis=1))
        factor = noise[:, 0].astype(np.float64) / 100.0
        assert factor.mean() == pytest.approx(1.0, abs=0.002)
        return np.log(factor)

    fast = log_noise(60.0)
    assert fast.std() == pytest.approx(0.05, rel=0.02)
    assert np.corrcoef(fast[:-4], fast[4:])[0, 1] == pytest.approx(np.exp(-1.0), abs=0.02)
    both = log_noise(300.0)
    assert both.std() == pytest.approx(np.hypot(0.05, 0.07), rel=0.03)
    slow_share = 0.07**2 / (0.05**2 + 0.07**2)
    assert np.corrcoef(both[:-40], both[40:])[0, 1] == pytest.approx(slow_share * np.exp(-1.0), abs=0.04)
    none = realise(made(15.0, [100.0] * 99), scale_to=None, rng=np.random.default_rng(5))
    assert set(none.rates.tolist()) == {100.0}


def test_a_longer_run_has_the_same_noise() -> None:
    trace = bumpy(300.0, 100)
    long = realise(trace, scale_to=None, rng=generator("bumpy", 1))
    short = realise(trace, scale_to=None, duration=7200.0, rng=generator("bumpy", 1))
    np.testing.assert_array_equal(long.rates[: short.rates.size], short.rates)


def test_start_and_duration_choose_the_span() -> None:
    trace = made(60.0, np.arange(100.0), start=1_000_000.0)
    load = plain(trace, start=600.0, duration=1207.0)
    assert load.start == 1_000_600.0
    assert load.rates.size == 400  # whole intervals of 15 s
    np.testing.assert_allclose(load.rates, plain(trace).rates[200:600], rtol=1e-6)
    assert plain(trace, duration=1e9).rates.size == plain(trace, duration=np.inf).rates.size == 2000
    assert plain(parse("daily")).rates.size == 28_800
    middles = 3.0 * (np.arange(20) + 0.5)
    day = plain(parse("daily"), start=3600.0, duration=60.0)
    expected = parse("daily").rates(3600.0 + middles, np.random.default_rng(0))
    np.testing.assert_allclose(day.rates, expected, rtol=1e-6)
    assert (day.start, day.name, day.tick) == (3600.0, "daily", 3.0)


BATCH: list[Source] = [
    bumpy(60.0, 90, "one"),
    parse("working-day"),
    made(300.0, [3.0, NAN, 5.0, 4.0, 6.0, 2.0], "two"),
    bumpy(10.0, 500, "three"),
]


def same(row: Load, alone: Load) -> None:
    assert (row.name, row.tick, row.start) == (alone.name, alone.tick, alone.start)
    for name in ("rates", "known", "scored"):
        np.testing.assert_array_equal(getattr(row, name), getattr(alone, name))
        assert getattr(row, name).dtype == getattr(alone, name).dtype


def test_a_row_does_not_depend_on_its_batch() -> None:
    seeds = (0, 7, 123)
    loads = realise_many(BATCH, seeds, duration=4000.0)
    assert len(loads) == 12
    assert loads.rates.dtype == np.float32
    again = realise_many(BATCH, seeds, duration=4000.0)
    np.testing.assert_array_equal(loads.rates, again.rates)
    mixed = realise_many(BATCH[::-1][:3], (7, 5), duration=4000.0)
    for s, source in enumerate(BATCH):
        for k, seed in enumerate(seeds):
            row = loads.row(s * 3 + k)
            assert (loads.source[s * 3 + k], loads.seeds[s * 3 + k]) == (s, seed)
            same(row, realise(source, duration=4000.0, rng=generator(source.name, seed)))
    for s, source in enumerate(BATCH[::-1][:3]):
        same(mixed.row(2 * s), loads.row(3 * BATCH.index(source) + 1))


def test_rows_are_padded_with_what_does_not_count() -> None:
    loads: Loads = realise_many(BATCH, (1, 2))
    assert loads.rates.shape == (8, int(loads.lengths.max()))
    assert loads.lengths.tolist() == [1800, 1800, 28800, 28800, 600, 600, 1665, 1665]
    for r, length in enumerate(loads.lengths.tolist()):
        assert not loads.rates[r, length:].any()
        assert not loads.known[r, length:].any()
        assert not loads.scored[r, length:].any()
    assert not np.array_equal(loads.rates[0], loads.rates[1])
    np.testing.assert_array_equal(loads.rates[6], loads.rates[7])  # fine buckets need no noise


def test_noise_depends_on_name_and_seed() -> None:
    a, b = bumpy(60.0, 60, "a"), bumpy(60.0, 60, "b")
    one = realise(a, rng=generator("a", 1)).rates
    assert not np.array_equal(one, realise(a, rng=generator("a", 2)).rates)
    assert not np.array_equal(one, realise(b, rng=generator("b", 1)).rates)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tick": 0.0}, "tick is 0"),
        ({"tick": 4.0}, "interval is 15 s; expected whole ticks of 4 s"),
        ({"interval": 1.0}, "interval is 1 s"),
        ({"duration": -1.0}, "duration is -1"),
        ({"duration": 10.0}, r"10 s are left from 0 s on; expected at least one interval of 15 s"),
        ({"start": -5.0}, "start is -5"),
        ({"start": 6000.0}, "made: 0 s are left from 6000 s on"),
        ({"start": 600.0, "duration": 600.0}, "made: nothing is known from 600 to 1200 s"),
        ({"scale_to": 0.0}, "scale_to is 0"),
        ({"capacity": NAN}, "capacity is nan"),
        ({"scale_to": 1e300}, "made: rates reach"),
    ],
)
def test_errors(options: dict[str, float], words: str) -> None:
    trace = made(60.0, [5.0] * 10 + [NAN] * 10 + [5.0] * 80)
    with pytest.raises(LoadError, match=words):
        realise(trace, rng=np.random.default_rng(0), **options)  # type: ignore[arg-type]


def test_errors_of_batches_and_seeds() -> None:
    with pytest.raises(LoadError, match="0 sources and 1 seeds"):
        realise_many([], (1,))
    with pytest.raises(LoadError, match="1 sources and 0 seeds"):
        realise_many(BATCH[:1], ())
    with pytest.raises(LoadError, match="seed is -1"):
        generator("a", -1)
    with pytest.raises(LoadError, match="daily: duration is infinite"):
        plain(parse("daily"), duration=np.inf)


@pytest.mark.parametrize("name", scenarios.names())
def test_every_scenario_runs(name: str) -> None:
    scenario = scenarios.get(name)
    assert scenario.name == name
    assert scenario.description
    assert set(scenario.world) <= WORLD
    assert bool(scenario.world) == (name in VARIANTS)
    load = realise(scenario.source, duration=scenario.duration, rng=generator(name, 0))
    assert scenario.duration == pytest.approx(load.rates.size * load.tick)
    demand = load.rates / 10.0
    assert np.percentile(demand, 95.0) == pytest.approx(25.0, rel=1e-5)
    assert demand.max() < 300.0


def test_the_classic_patterns_and_the_promised_worlds_have_names() -> None:
    assert {"steady", "sine-curve", "sinusoidal", "spike", "poisson", "random-walk"} <= set(LOADS)
    assert set(VARIANTS) == {"slow-start", "lossy-metrics", "crashes", "slow-nodes", "laggy-metrics"}
    assert scenarios.get().name == scenarios.DEFAULT == "working-day"
    assert scenarios.get("slow-start").world == {"startup": 300.0}


def test_loads_and_variants_combine() -> None:
    one = scenarios.get("spike/slow-start")
    assert one.load == parse("spike")
    assert one.world == {"startup": 300.0}
    assert one.duration == LOADS["spike"].duration
    several = scenarios.get("daily+flash-crowd/crashes/laggy-metrics")
    assert several.load == parse("daily+flash-crowd")
    assert several.world == {**VARIANTS["crashes"].world, **VARIANTS["laggy-metrics"].world}
    assert "; " in several.description
    assert scenarios.get("slow-start/crashes").world == {"startup": 300.0, **VARIANTS["crashes"].world}
    assert scenarios.get("spike(every=1h)").load == parse("spike(every=3600)")


def test_a_trace_file_is_a_scenario(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv.gz"
    path.write_bytes(gzip.compress(b"t_s,rate\n0,1\n60,2\n"))
    scenario = scenarios.get(f"{path}/slow-nodes")
    assert scenario.load == path
    assert scenario.duration == float("inf")
    assert scenario.world == VARIANTS["slow-nodes"].world
    source = scenario.source
    assert source.name == "shop"
    with pytest.raises(TraceError, match="cannot be read"):
        _ = scenarios.get(str(tmp_path / "none.csv")).source


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("working-dya", ScenarioError, "did you mean 'working-day'"),
        ("spike/slow-strat", ScenarioError, "no variant of the world is called 'slow-strat'; did you mean"),
        ("slow-start/spike", ScenarioError, "no variant of the world is called 'spike'"),
        ("", ScenarioError, "no scenario is called ''"),
        ("spike(evry=1)", PatternError, "did you mean 'every'"),
    ],
)
def test_unknown_scenarios_name_the_nearest(name: str, error: type[ValueError], words: str) -> None:
    with pytest.raises(error, match=words):
        scenarios.get(name)
