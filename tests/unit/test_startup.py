"""Start-up learned from counts, held against a world in which it is known, and against pods one by one."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from rlscaler import startup
from rlscaler.arrays import State
from rlscaler_sim.world import World, WorldConfig

NAN = float("nan")
EPOCH = 1.7e9


def started(n: int, hours: float, *, interval: float = 15.0, move: float = 0.04, **config: Any) -> tuple[State, State]:
    """Return what is learned of n workloads whose counts go up and down at random in a world of the config.

    The first is told when each request was made, the second is not.
    """
    place = World(WorldConfig(interval=interval, **config), n, seed=4)
    place.reset(4, 20)
    rng = np.random.default_rng(4)
    told, untold = startup.state(n), startup.state(n)
    rows, desired, asked = np.arange(n), np.full(n, 20.0), np.full(n, NAN)
    for _ in range(int(hours * 3600 / interval)):
        now = place.readings()
        time = EPOCH + place.time
        counts = [np.asarray(a, float) for a in (now.desired, now.ready)]
        startup.record(np, told, rows, np.full(n, time), counts[0], counts[1], asked)
        startup.record(np, untold, rows, np.full(n, time), counts[0], counts[1])
        draw, by = rng.random(n), rng.integers(1, 12, n)
        after = desired + np.where(draw < move, by, np.where(draw < 2 * move, -by, 0))
        after = np.clip(after, 2.0, 80.0)
        asked = np.where(after != desired, time, asked)
        desired = after
        place.step(desired, np.zeros(n))
    return told, untold


def true_quantile(mean: float, spread: float, jitter: float) -> float:
    """Return the quantile of the world's start-up (see `rlscaler_sim.pods`)."""
    rng = np.random.default_rng(0)
    sigma = np.sqrt(np.log1p(spread**2))
    factor = np.exp(sigma * np.clip(rng.standard_normal(100_000), -3.0, 3.0) - 0.5 * sigma**2)
    group = 1.0 + rng.choice([-1.0, 0.0, 1.0], 100_000) * np.sqrt(1.5) * jitter
    return float(np.quantile(mean * factor * group, startup.QUANTILE))


@pytest.mark.parametrize(
    ("mean", "spread", "jitter", "interval"),
    [
        (20, 0.0, 0.0, 15.0),
        (60, 0.0, 0.0, 15.0),
        (200, 0.0, 0.0, 15.0),
        (60, 0.0, 0.0, 30.0),
        (60, 0.3, 0.0, 5.0),
        (60, 0.3, 0.0, 15.0),
        (120, 0.3, 0.3, 15.0),
    ],
)
def test_startup_is_learned_as_the_world_has_it(mean: float, spread: float, jitter: float, interval: float) -> None:
    world: dict[str, Any] = {"startup": mean, "startup_spread": spread, "startup_jitter": jitter}
    expected = true_quantile(mean, spread, jitter)
    # The world's orders follow a reading at once, so that what lies between two readings never shows.
    for state, quantum in zip(
        started(20, 0.4 * interval, interval=interval, move=interval / 400, **world), (0.5, 1.0), strict=True
    ):
        found = state["startup"]
        assert np.isfinite(found).all()
        assert abs(np.median(found) - expected) <= 0.1 * expected + quantum * interval, (np.median(found), expected)


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_crashes_do_not_mislead(rate: float) -> None:
    for state in started(12, 4, startup=60.0, crash_rate=rate):
        np.testing.assert_allclose(state["startup"], 60.0, atol=15.0)


class Pod(NamedTuple):
    created: float
    ready: float
    removed: float = np.inf


class Life(NamedTuple):
    """What happens to the pods of one workload.

    first: pods that never become ready, from the start. stuck: share of later ones. crashes: an hour, of each pod.
    lost: share of readings that are missing. burst: requests in a row, 15 s apart. spread: of the logarithm of the
    start-up.
    """

    first: int = 0
    stuck: float = 0.0
    crashes: float = 0.0
    lost: float = 0.0
    burst: int = 1
    spread: float = 0.0


def lived(seconds: float, life: Life, *, interval: float = 15.0, hours: float = 8.0, seed: int = 0) -> np.ndarray:
    """Return the start-up told after each reading of pods that start in `seconds`, requests coming at any moment."""
    rng, end = np.random.default_rng(seed), 3600.0 * hours
    pods = [Pod(-1e4, -1e4) for _ in range(5)] + [Pod(-1e4, np.inf) for _ in range(life.first)]
    orders = [(0.0, len(pods))]
    time = 100.0
    while (time := time + rng.exponential(600.0)) < end:
        desired = orders[-1][1]
        if desired > 8 + life.first and (rng.random() < 0.5 or desired > 30):
            fewer = int(rng.integers(1, 4))
            alive = sorted((i for i, pod in enumerate(pods) if pod.removed > time and pod.ready < np.inf),
                           key=lambda i: -pods[i].ready)  # fmt: skip
            for i in alive[:fewer]:
                pods[i] = pods[i]._replace(removed=time)
            orders.append((time, desired - min(fewer, len(alive))))
            continue
        for _ in range(life.burst):
            more = int(rng.integers(1, 5))
            desired += more
            orders.append((time, desired))
            for _ in range(more):
                took = seconds * np.exp(life.spread * rng.standard_normal())
                pods.append(Pod(time, np.inf if rng.random() < life.stuck else time + took))
            time += 15.0
    for i, pod in enumerate(list(pods)):
        crash = pod.ready + rng.exponential(3600.0 / life.crashes) if life.crashes else np.inf
        if crash < min(pod.removed, end):
            pods[i] = pod._replace(removed=crash)
            pods.append(Pod(crash, crash + seconds, pod.removed))
    ready, removed = (np.array([getattr(pod, name) for pod in pods]) for name in ("ready", "removed"))
    moments, counts = (np.array(column, float) for column in zip(*orders, strict=True))
    state, row, told = startup.state(1), np.zeros(1, np.int64), []
    for now in np.arange(0.0, end, interval):
        if rng.random() >= life.lost:
            desired = counts[np.searchsorted(moments, now, side="right") - 1]
            serves = float(((ready <= now) & (now < removed)).sum())
            startup.record(np, state, row, *(np.full(1, value) for value in (now, desired, serves)))
        told.append(float(state["startup"][0]))
    return np.array(told)


LIVES = {
    "all is well": Life(),
    "requests in a row": Life(burst=6),
    "one pod never comes": Life(first=1),
    "three pods never come": Life(first=3),
    "one in twenty never comes": Life(stuck=0.05),
    "pods crash": Life(crashes=0.5),
    "readings are lost": Life(lost=0.3),
}


@pytest.mark.parametrize("seconds", [45.0, 120.0, 300.0])
@pytest.mark.parametrize("name", LIVES)
def test_pods_that_fail_and_readings_that_are_lost_do_not_mislead(name: str, seconds: float) -> None:
    found = np.array([lived(seconds, LIVES[name], seed=seed)[-1] for seed in range(2)])
    np.testing.assert_allclose(found, seconds, rtol=0.1, atol=2.0 if name == "all is well" else 5.0)


@pytest.mark.parametrize("name", LIVES)
def test_nothing_wild_is_told_on_the_way(name: str) -> None:
    told = lived(60.0, LIVES[name], seed=5)
    assert np.isfinite(told[-1])
    assert np.nanmin(told) > 30.0
    assert np.nanmax(told) < 180.0


def test_starts_that_differ_are_told_by_their_ninetieth_percentile() -> None:
    found = np.array([lived(60.0, Life(spread=0.3), hours=12, seed=seed)[-1] for seed in range(5)])
    assert abs(np.median(found) - 60.0 * np.exp(0.3 * 1.2816)) < 12.0


def test_one_start_that_took_forever_does_not_set_the_start_up() -> None:
    readings: list[tuple[float, float, float]] = []
    for begin, took in ((0.0, 1800.0), (2000.0, 60.0), (3000.0, 60.0), (4000.0, 60.0)):
        count = 5.0 + len({reading[1] for reading in readings}) // 2 * 1.0
        readings += [(begin + t, count + (t > 0.0), count + (t > took)) for t in np.arange(0.0, 1900.0, 15.0)
                     if t <= took + 30.0]  # fmt: skip
    assert 60.0 <= fed(readings)["startup"][0] <= startup.FAR * 75.0


def test_a_deploy_that_starts_slowly_is_followed() -> None:
    state, row, time, count = startup.state(1), np.zeros(1, np.int64), 0.0, 5.0
    told = []
    for request in range(30):
        took = 60.0 if request < 15 else 400.0
        for t in np.arange(0.0, took + 90.0, 15.0):
            counts = (time + t, count + (t > 0.0), count + (t > took))
            startup.record(np, state, row, *(np.full(1, value) for value in counts))
        time, count = time + took + 90.0, count + 1.0
        told.append(float(state["startup"][0]))
    assert abs(told[14] - 60.0) < 15.0
    assert abs(told[-1] - 400.0) < 40.0


@pytest.mark.parametrize("interval", [5.0, 15.0, 60.0])
def test_coarse_readings_leave_no_bias(interval: float) -> None:
    """Starts of every length, seen now and then, have the mean that they have."""
    rng = np.random.default_rng(2)
    truth = rng.uniform(20.0, 180.0, 400)
    begun = 4000.0 * (1 + np.arange(400)) + rng.uniform(0.0, interval, 400)
    state, row = startup.state(1), np.zeros(1, np.int64)
    means: list[float] = []
    for begin, took in zip(begun, truth, strict=True):
        edge = np.floor(begin / interval) * interval
        for time in np.arange(edge - interval, begin + took + 2 * interval, interval):
            desired, ready = (5.0 if time < begin else 6.0), (5.0 if time < begin + took else 6.0)
            startup.record(np, state, row, *(np.full(1, v) for v in (time, desired, ready)))
        means.append(float(np.average(state["starts"][0], weights=state["shares"][0])))
    assert abs(np.mean(means[50:]) - truth.mean()) < 6.0


@pytest.mark.parametrize(
    ("starts", "noises", "expected"),
    [
        ([60.0] * 10, [40.0] * 10, 60.0),
        ([], [], NAN),
        ([50.0], [0.0], 50.0),
        ([45.0, 75.0] * 5, [225.0] * 10, 60.0),
        ([float(7 * k % 20) for k in range(20)], [0.0] * 20, 17.5),
        ([60.0, 3000.0, 60.0, 60.0, 3000.0, 60.0], [0.0] * 6, 180.0),
    ],
    ids=["alike", "none", "one", "all scatter is the readings'", "nine tenths", "two far off"],
)
def test_estimate_is_the_quantile_without_what_the_readings_add(
    starts: list[float], noises: list[float], expected: float
) -> None:
    padding = [0.0] * (startup.KEPT - len(starts))
    shares = [1.0] * len(starts) + padding
    arrays = (np.array([values], np.float32) for values in (starts + padding, noises + padding, shares))
    found, requests = startup.estimate(np, *arrays)
    np.testing.assert_allclose(found, expected, rtol=0.06)
    assert requests[0] == pytest.approx(sum(2.0 ** (-k / startup.HALF_LIFE) for k in range(len(starts))))


def fed(readings: list[tuple[float, float, float]]) -> State:
    """Return the state after readings of (time, desired, ready) of one workload."""
    state, row = startup.state(1), np.zeros(1, np.int64)
    for reading in readings:
        startup.record(np, state, row, *(np.full(1, value) for value in reading))
    return state


def ups(begin: float, counts: list[tuple[float, float]]) -> list[tuple[float, float, float]]:
    return [(begin + 15.0 * i, *pair) for i, pair in enumerate(counts)]


def test_a_few_scale_ups_are_enough() -> None:
    readings: list[tuple[float, float, float]] = []
    for k in range(3):
        assert np.isnan(fed(readings)["startup"][0])
        count = 5.0 + k
        counts = [(count, count)] + [(count + 1, count)] * 4 + [(count + 1, count + 1)] * 3
        readings += ups(1000.0 * k, counts)
    assert fed(readings)["startup"][0] == pytest.approx(60.0)


NOTHING_LEARNED: dict[str, list[tuple[float, float]]] = {
    "a rollout that surges": [(5, 5), (5, 6), (5, 7), (5, 6), (5, 5)],
    "a rollout that lowers": [(5, 5), (5, 4), (5, 4), (5, 5), (5, 4), (5, 5)],
    "a crash": [(5, 5), (5, 4), (5, 4), (5, 4), (5, 5)],
    "a crash while pods start": [(5, 5), (7, 5), (7, 4), (7, 4), (7, 6), (7, 7)],
    "a request while a pod is replaced": [(5, 5), (5, 4), (6, 4), (6, 5), (6, 6)],
    "cancelled scale-ups": [(5, 5), (9, 5), (9, 5), (5, 5), (5, 5), (9, 5), (5, 5)],
    "first seen while pods start": [(9, 5), (9, 5), (9, 7), (9, 9)],
    "unknown counts": [(5, 5), (NAN, 5), (9, NAN), (NAN, NAN)],
    "scaled to nothing": [(5, 5), (0, 5), (0, 2), (0, 0)],
}


@pytest.mark.parametrize("name", NOTHING_LEARNED)
def test_what_tells_nothing_teaches_nothing(name: str) -> None:
    state = fed(ups(0.0, NOTHING_LEARNED[name] + NOTHING_LEARNED[name][-1:] * 3))
    assert state["shares"].sum() == 0.0
    assert np.isnan(state["startup"][0])


def test_a_cancelled_part_leaves_the_rest_to_be_learned() -> None:
    state = fed(ups(0.0, [(5, 5), (9, 5), (9, 5), (7, 5), (7, 5), (7, 7), (7, 7)]))
    assert state["requests"][0] == pytest.approx(0.5)
    assert state["owed"].sum() == 0.0


def test_requests_are_answered_in_their_order() -> None:
    state = fed(ups(0.0, [(5, 5), (6, 5), (8, 5), (8, 5), (8, 6), (8, 7), (8, 8), (8, 8)]))
    np.testing.assert_allclose(state["starts"][0, :4], [60.0, 45.0, 45.0, 0.0])
    np.testing.assert_allclose(state["shares"][0, :4], [0.5, 0.5, 1.0, 0.0])


def test_two_requests_that_are_answered_at_once_are_two() -> None:
    state = fed(ups(0.0, [(5, 5), (6, 5), (8, 5), (8, 5), (8, 8)]))
    np.testing.assert_allclose(state["starts"][0, :3], [30.0, 45.0, 0.0])
    np.testing.assert_allclose(state["shares"][0, :3], [1.0, 1.0, 0.0])


def test_a_start_between_two_readings_is_longer_than_nothing() -> None:
    state = fed(ups(0.0, [(5, 5), (6, 6), (6, 6)]))
    assert state["starts"][0, 0] == pytest.approx(5.0)


def test_what_never_came_is_given_up_in_the_end() -> None:
    stuck = [(15.0 * k, 5.0 + (k > 0), 5.0) for k in range(300)]
    state = fed([*stuck, (4500.0, 7.0, 5.0), (4515.0, 7.0, 5.0), (4530.0, 7.0, 6.0)])
    assert state["gone"][0] == 1.0
    np.testing.assert_allclose(state["starts"][0, :2], [30.0, 0.0])
    later = fed([*stuck, (4500.0, 7.0, 5.0), (4530.0, 7.0, 6.0), (4545.0, 7.0, 7.0)])
    assert later["gone"][0] == 0.0


def test_a_long_silence_forgets_what_is_outstanding() -> None:
    state = fed([(0.0, 5, 5), (15.0, 9, 5), (900.0, 9, 9), (915.0, 9, 9)])
    assert state["shares"].sum() == 0.0


def test_more_requests_than_are_remembered_do_no_harm() -> None:
    counts = [(5.0 + k, 5.0) for k in range(40)]
    counts += [(44.0, 5.0 + k) for k in range(1, 40)]
    state = fed(ups(0.0, counts))
    assert state["owed"].sum() == 0.0
    assert 400.0 < state["startup"][0] < 700.0


def test_startup_is_learned_the_same_in_any_company() -> None:
    n = 6
    place = World(WorldConfig(startup=60.0), n, seed=1)
    place.reset(1, 10)
    rng = np.random.default_rng(0)
    together, alone = startup.state(n), [startup.state(1) for _ in range(n)]
    desired = np.full(n, 10.0)
    for step in range(300):
        now = place.readings()
        counts = [np.asarray(a, float) for a in (now.desired, now.ready)]
        due = np.flatnonzero(rng.random(n) < 0.8)
        startup.record(np, together, due, np.full(len(due), 15.0 * step), *(c[due] for c in counts))
        for row in due.tolist():
            own = (np.full(1, 15.0 * step), counts[0][[row]], counts[1][[row]])
            startup.record(np, alone[row], np.zeros(1, np.int64), *own)
        desired = np.clip(desired + rng.integers(-3, 4, n) * (rng.random(n) < 0.1), 1.0, None)
        place.step(desired, np.zeros(n))
    assert np.isfinite(together["startup"]).any()
    for row in range(n):
        for name, array in alone[row].items():
            np.testing.assert_array_equal(array[0], together[name][row], err_msg=name)
