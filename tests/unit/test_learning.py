"""What the operator learns of a workload: readings of every kind in, numbers and words out, and over a restart."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler import Autoscaler, Settings, capacity, learning, startup
from rlscaler.arrays import State
from rlscaler.capacity import Finding
from rlscaler.rows import put, stacked, taken
from rlscaler_sim.load import generator, realise
from rlscaler_sim.patterns import parse
from rlscaler_sim.world import World, WorldConfig

NAN, INF = float("nan"), float("inf")
EPOCH = 1.7e9
N, HOURS = 4, 3.0


class Day:
    """Readings (T, N) of a world whose replicas follow the load: 10 requests/s each, started in 60 s."""

    def __init__(self) -> None:
        """Let the world run."""
        sources = [parse(text) for text in ("working-day", "daily*jitter", "sine-curve*jitter", "working-day*jitter")]
        rates = [realise(s, duration=HOURS * 3600, start=8 * 3600.0, rng=generator(s.name, 1)).rates for s in sources]
        place = World(WorldConfig(), N, seed=3)
        place.reset(3, 25)
        desired, found = np.full(N, 25.0), []
        for step in range(int(HOURS * 240)):
            now = place.readings()
            names = ("load", "ready", "starting", "desired", "utilization")
            found.append([np.asarray(getattr(now, name), float) for name in names])
            wanted = np.clip(np.ceil(np.nan_to_num(found[-1][0], nan=150.0) / 10.0 / 0.6), 1.0, None)
            desired = np.where((wanted > desired) | (wanted < 0.8 * desired), wanted, desired)
            place.step(desired, np.stack([rate[step * 5 : step * 5 + 5] for rate in rates], axis=1))
        self.readings = np.array(found)


@pytest.fixture(scope="module")
def day() -> Day:
    return Day()


def run(state: State, readings: np.ndarray, rows: np.ndarray, *, start: float = EPOCH, interval: float = 15.0) -> State:
    """Let rows learn from readings (T, 5, N)."""
    for tick, reading in enumerate(readings):
        learning.record(np, state, rows, np.full(len(rows), start + interval * tick), *reading)
    return state


def test_both_are_learned_of_a_workload_that_is_scaled(day: Day) -> None:
    found = learning.learned(run(learning.state(N), day.readings, np.arange(N)), np.arange(N))
    np.testing.assert_allclose(found["capacity"], 10.0, rtol=0.1)
    np.testing.assert_allclose(found["startup"], 60.0, atol=15.0)
    np.testing.assert_allclose(found["within"], 15.0, rtol=0.05)
    assert (found["finding"] == Finding.Known).all()
    assert (found["error"] < capacity.ERROR).all()


def test_the_desired_count_may_be_left_to_ready_and_starting(day: Day) -> None:
    readings = day.readings.copy()
    readings[:, 3] = np.where(readings[:, 3] == readings[:, 1] + readings[:, 2], NAN, readings[:, 3])
    assert np.isnan(readings[:, 3]).mean() > 0.9
    found = learning.learned(run(learning.state(N), readings, np.arange(N)), np.arange(N))
    np.testing.assert_allclose(found["startup"], 60.0, atol=15.0)


def test_rows_are_independent_and_can_be_moved(day: Day) -> None:
    """Rows that join, leave and move between states learn as they would have alone."""
    half = len(day.readings) // 2
    rows = np.arange(N)
    whole = run(learning.state(N), day.readings, rows)
    first = run(learning.state(N), day.readings[:half], rows)
    second = stacked(taken(first, rows[2:]), learning.state(3))
    put(second, np.array([3, 4]), taken(first, rows[:2]))
    run(second, day.readings[half:][:, :, [2, 3, 0, 1]], np.array([0, 1, 3, 4]), start=EPOCH + 15.0 * half)
    for name, array in taken(second, np.array([3, 4, 0, 1])).items():
        np.testing.assert_array_equal(array, whole[name], err_msg=name)


def test_the_work_of_rows_is_spread_over_the_ticks() -> None:
    state, rows = learning.state(300), np.arange(300)
    learning.record(np, state, rows, np.full(300, EPOCH), *np.full((5, 300), NAN))
    counts, _ = np.histogram(state["capacity/phase"], bins=12, range=(0.0, capacity.BLOCK))
    assert counts.min() >= 20


def test_a_reading_that_is_not_later_is_left_out(day: Day) -> None:
    rows = np.arange(N)
    once = run(learning.state(N), day.readings[:200], rows)
    twice = learning.state(N)
    for tick, reading in enumerate(day.readings[:200]):
        time = np.full(N, EPOCH + 15.0 * tick)
        learning.record(np, twice, rows, time, *reading)
        learning.record(np, twice, rows, time - np.array([0.0, 15.0, 3600.0, NAN]), *(7.0 * reading))
    for name, array in once.items():
        np.testing.assert_array_equal(array, twice[name], err_msg=name)


def test_the_moment_of_a_request_makes_its_start_up_sharper() -> None:
    told = []
    for asked in (None, np.full(1, EPOCH + 14.0)):
        state = learning.state(1)
        for tick, (desired, ready) in enumerate([(5, 5), (6, 5), (6, 5), (6, 5), (6, 5), (6, 6)]):
            load, served, starting, wanted, use = (np.full(1, float(v)) for v in (NAN, ready, NAN, desired, NAN))
            time = np.full(1, EPOCH + 15.0 * tick)
            learning.record(np, state, np.zeros(1, np.int64), time, load, served, starting, wanted, use, asked)
        told.append((state["startup/usual"][0], float(learning.learned(state, np.zeros(1, np.int64))["within"][0])))
    assert told[0] == pytest.approx((60.0, 15.0))
    assert told[1][0] == pytest.approx(53.5)
    assert told[1][1] < 12.0


VALUES = st.sampled_from([NAN, INF, -INF, 0.0, -1.0, 1e-300, 1e-9, 0.5, 1.0, 2.0, 5.0, 80.0, 1e9, 1e15, 1e300])
READING = st.tuples(*[VALUES] * 5)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([NAN, INF, 0.0, -15.0, 15.0, 15.0, 15.0, 15.0, 300.0, 1e6]), READING),
                min_size=1, max_size=80))  # fmt: skip
def test_no_reading_leads_to_a_crash_or_to_nonsense(steps: list[tuple[float, tuple[float, ...]]]) -> None:
    state, row, time = learning.state(1), np.zeros(1, np.int64), EPOCH
    with np.errstate(all="raise", under="ignore"):
        for step, reading in steps:
            now = time + step
            learning.record(np, state, row, np.full(1, now), *np.array(reading)[:, None])
            time = max(time, now) if math.isfinite(now) else time
    found = learning.learned(state, row)
    for name, low, high in (("capacity", 0.0, 1e300), ("startup", 0.0, startup.LONGEST), ("error", 0.0, capacity.ERROR),
                            ("usable", 0.0, 1e5), ("requests", 0.0, 100.0), ("within", 0.0, 1e4)):  # fmt: skip
        value = float(found[name][0])
        assert math.isnan(value) or low <= value <= high, (name, value)
    assert found["capacity"][0] != 0.0
    assert learning.sentence(found, 0)
    again = learning.recalled(learning.kept(state))
    for name in ("capacity", "startup"):
        np.testing.assert_array_equal(learning.learned(again, row)[name], found[name])


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.4))
def test_bad_readings_among_good_ones_do_not_mislead(seed: int, share: float) -> None:
    rng, n = np.random.default_rng(seed), 3
    state, rows, ordered = learning.state(n), np.arange(n), [np.full(n, 20.0)] * 5
    bad = np.array([NAN, INF, -INF, -1.0, 1e300])
    for tick in range(480):
        move = np.where(rng.random(n) < 0.05, rng.integers(-4, 5, n), 0)
        ordered = [*ordered[1:], np.clip(ordered[-1] + move, 18.0, 45.0)]
        ready = np.minimum.reduce(ordered)
        load = 120.0 * np.exp(0.25 * np.sin(tick / 30.0 + rows) + 0.03 * rng.standard_normal(n))
        use = np.clip(load / (10.0 * ready), 0.0, 1.0)
        reading = np.array([load, ready, ordered[-1] - ready, ordered[-1], use])
        reading = np.where(rng.random(reading.shape) < share, rng.choice(bad, reading.shape), reading)
        learning.record(np, state, rows, np.full(n, EPOCH + 15.0 * tick), *reading)
    found = learning.learned(state, rows)
    known = np.isfinite(found["capacity"])
    np.testing.assert_allclose(found["capacity"][known], 10.0, rtol=0.1)
    if share < 0.2:
        assert known.all()
    told = found["startup"][np.isfinite(found["startup"])]
    assert ((told > 30.0) & (told < 150.0)).all(), told


# --- over a restart


def test_what_is_known_is_known_after_a_restart(day: Day) -> None:
    rows = np.arange(N)
    before = run(learning.state(N), day.readings, rows)
    small = learning.kept(before)
    assert sum(array.nbytes for array in small.values()) == 24 * N
    after = learning.recalled({name: array.copy() for name, array in small.items()})
    old, new = (learning.learned(state, rows) for state in (before, after))
    for name in ("capacity", "error", "startup", "finding"):
        np.testing.assert_array_equal(new[name], old[name])
    np.testing.assert_allclose(new["within"], old["within"], rtol=1e-5)
    assert learning.sentence(new, 0) == learning.sentence(old, 0)
    later = learning.learned(run(after, day.readings, rows, start=EPOCH + 1e5), rows)
    np.testing.assert_allclose(later["capacity"], 10.0, rtol=0.1)
    np.testing.assert_allclose(later["startup"], 60.0, atol=15.0)


def test_some_rows_can_be_kept(day: Day) -> None:
    state = run(learning.state(N), day.readings[: len(day.readings) // 2], np.arange(N))
    some = np.array([3, 1])
    for name, array in learning.kept(state, some).items():
        np.testing.assert_array_equal(array, learning.kept(state)[name][some])


def test_what_is_unknown_stays_unknown_over_a_restart() -> None:
    found = learning.learned(learning.recalled(learning.kept(learning.state(3))), np.arange(3))
    assert np.isnan(found["capacity"]).all()
    assert np.isnan(found["startup"]).all()
    assert (found["finding"] == Finding.TooFewSamples).all()


def test_a_kept_start_up_gives_way_to_what_is_seen() -> None:
    state = learning.recalled(_small(startup=60.0, usual=60.0, requests=9.0, noise=37.5))
    time, count, row = EPOCH, 5.0, np.zeros(1, np.int64)
    told = []
    for _ in range(12):
        for t in np.arange(0.0, 240.0, 15.0):
            reading = (np.full(1, value) for value in (NAN, count + (t > 120.0), NAN, count + (t > 0.0), NAN))
            learning.record(np, state, row, np.full(1, time + t), *reading)
        time, count = time + 240.0, count + 1.0
        told.append(float(learning.learned(state, row)["startup"][0]))
    assert told[-1] == pytest.approx(120.0, rel=0.15)


def _small(**values: float) -> State:
    names = learning.kept(learning.state(0))
    return {name: np.array([values.get(name, NAN)], np.float32) for name in names}


@pytest.mark.parametrize("value", [INF, -INF, -1.0, 0.0, 1e30])
def test_kept_values_that_can_be_none_are_unknown(value: float) -> None:
    small = {name: np.full(1, value, np.float32) for name in learning.kept(learning.state(0))}
    found = learning.learned(learning.recalled(small), np.zeros(1, np.int64))
    assert np.isnan(found["capacity"][0])
    assert np.isnan(found["startup"][0])
    assert found["requests"][0] == 0.0


@pytest.mark.parametrize(
    ("small", "message"),
    [
        ({}, "the estimators has nothing for"),
        ({**_small(), "more": np.zeros(1, np.float32)}, "expected nothing"),
        ({**_small(), "capacity": np.zeros(1)}, "float64 of shape .1,. for capacity"),
        ({**_small(), "noise": np.zeros((1, 2), np.float32)}, "for noise"),
    ],
    ids=["nothing", "too much", "other type", "other shape"],
)
def test_what_is_no_such_memory_is_refused(small: State, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learning.recalled(small)


# --- what becomes of it


def test_only_a_move_is_worth_setting() -> None:
    before = np.array([10.0, 10.0, 10.0, NAN, 10.0, NAN, 0.0])
    now = np.array([10.4, 10.6, 9.4, 10.0, NAN, NAN, 5.0])
    np.testing.assert_array_equal(learning.moved(before, now), [False, True, True, True, True, False, True])


def test_what_is_learned_is_what_an_autoscaler_takes(day: Day) -> None:
    rows = np.arange(N)
    found = learning.learned(run(learning.state(N), day.readings, rows), rows)
    scaler = Autoscaler("default", Settings(), workloads=N)
    scaler.learn(rows, capacity_per_replica=found["capacity"], startup=found["startup"])
    np.testing.assert_array_equal(scaler.settings(rows)["capacity_per_replica"], found["capacity"])


SENTENCES: dict[str, tuple[dict[str, float], dict[str, Any], str]] = {
    "nothing yet": (
        {"usable": 540.0},
        {},
        "What a replica serves is not known yet: 9 of at least 30 minutes of load and utilization together, at 8 % to "
        "93 % use and of 50 requests or more in each three, are there; or state spec.capacity.perReplica. Its start-up "
        "is taken for 1m until three scale-ups were seen from begin to end (none yet).",
    ),
    "all known": (
        {"capacity": 48.213, "error": 0.034, "finding": 0, "startup": 72.2, "within": 15.0, "requests": 6.3},
        {},
        "A replica serves 48.21 requests/s at full use, give or take 3 %, as load and utilization tell. It starts in "
        "1m12s, give or take 15s, as its last scale-ups tell.",
    ),
    "no longer told": (
        {"capacity": 48.0, "error": 0.034, "finding": int(Finding.LoadTooSteady)},
        {"startup": False},
        "A replica serves 48 requests/s at full use, give or take 3 %, as load and utilization told earlier; of late, "
        "the load of a replica has hardly moved yet.",
    ),
    "disagreement": (
        {"usable": 3600.0},
        {"startup": False},
        "What a replica serves is not known yet: what load and utilization tell does not stay the same for long enough "
        "yet; or state spec.capacity.perReplica.",
    ),
    "percent": (
        {"finding": int(Finding.UtilizationInPercent)},
        {"startup": False},
        "What a replica serves is not known yet: utilization is above 1.5; expected a share from 0 to 1, so divide the "
        "query by 100, or name CPU use as a share of what replicas can use where it is one of their requests; or state "
        "spec.capacity.perReplica.",
    ),
    "long interval": (
        {},
        {"startup": False, "interval": 120.0},
        "What a replica serves is not known yet: readings every 2m are too few, so let spec.interval be 1m30s at most; "
        "or state spec.capacity.perReplica.",
    ),
    "start-up alone": (
        {"requests": 1.9, "usable": 0.0},
        {"capacity": False},
        "Its start-up is taken for 1m until three scale-ups were seen from begin to end (two so far).",
    ),
    "short start-up": (
        {"startup": 4.26, "within": 0.4},
        {"capacity": False},
        "It starts in 4s300ms, give or take 1s, as its last scale-ups tell.",
    ),
    "all stated": ({}, {"capacity": False, "startup": False}, ""),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_person_is_told_what_is_known_how_sure_and_what_is_missing(name: str) -> None:
    values, given_, expected = SENTENCES[name]
    found = learning.learned(learning.state(2), np.arange(2))
    row: Mapping[str, float] = {"finding": int(Finding.TooFewSamples), **values}
    for key, value in row.items():
        found[key][1] = value
    assert learning.sentence(found, 1, **given_) == expected


@pytest.mark.parametrize("finding", Finding)
def test_every_finding_has_words(finding: Finding) -> None:
    found = learning.learned(learning.state(1), np.zeros(1, np.int64))
    found["finding"][0] = finding
    if finding is Finding.Known:
        found["capacity"][0] = 5.0
    assert learning.sentence(found, 0, startup=False).endswith(".")
