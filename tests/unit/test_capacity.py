"""Capacity learned from readings, held against a world in which it is known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlscaler import capacity
from rlscaler.arrays import State
from rlscaler.capacity import Finding
from rlscaler_sim.load import generator, realise
from rlscaler_sim.patterns import Pattern, parse
from rlscaler_sim.trace import Trace, read_trace, traces_folder
from rlscaler_sim.world import World, WorldConfig

NAN = float("nan")
EPOCH = 1.7e9
HOUR = 240
"""Readings of an hour."""
FOLDER = traces_folder()
RECORDED = (
    "worldcup98_1998-05_60s",
    "nasa_http_1995-07-13_10s",
    "twitter_stream_2021-08_60s",
    "nab_elb_requests_2014-04_300s",
    "ms_ingress1_2018-04_60s",
    "ms_mongo_app1_2018-04_60s",
    "servegen_m-large_600s",
    "bank_calls_2003-03_300s",
)


class Readings:
    """Load, ready replicas and utilization (T, N) of the world under some loads."""

    def __init__(self, sources: list[Trace | Pattern], *, follows: bool, hours: float, **config: Any) -> None:
        """Let the world run; follows: replicas follow utilization as an HPA has it, else they stay."""
        per = config["capacity_per_replica"] = config.get("capacity_per_replica", 10.0)
        loads = [
            realise(s, duration=hours * 3600, start=self._start(s, hours), capacity=per, rng=generator(s.name, 1))
            for s in sources
        ]
        ticks = min(len(load.rates) for load in loads)
        rates = np.stack([load.rates[:ticks] for load in loads], axis=1)
        self.capacity = per
        place = World(WorldConfig(**config), len(loads), seed=3)
        desired = np.clip(np.ceil(rates.mean(axis=0) / per / 0.5), 1.0, None)
        place.reset(3, desired)
        highest = [desired] * 20
        found = []
        for step in range(ticks // place.params.ticks):
            now = place.readings()
            found.append([np.asarray(a, float) for a in (now.load, now.ready, now.utilization)])
            if follows:
                use = np.nan_to_num(now.utilization, nan=0.6)
                wanted = np.where(np.abs(use / 0.6 - 1.0) > 0.1, np.ceil(np.asarray(now.ready) * use / 0.6), desired)
                highest = [np.clip(wanted, 1.0, None), *highest[:-1]]
                desired = np.maximum(highest[0], np.minimum(desired, np.max(highest, axis=0)))
            place.step(desired, rates[step * place.params.ticks : (step + 1) * place.params.ticks])
        self.load, self.ready, self.use = (np.stack(series) for series in zip(*found, strict=True))

    @staticmethod
    def _start(source: Trace | Pattern, hours: float) -> float:
        return min(8 * 3600.0, source.duration - hours * 3600.0) if isinstance(source, Trace) else 8 * 3600.0


def learned(load: np.ndarray, ready: np.ndarray, use: np.ndarray, interval: float = 15.0) -> tuple[np.ndarray, State]:
    """Return the capacity after each reading (T, N), and the state after the last."""
    n = load.shape[1]
    state, rows, found = capacity.state(n), np.arange(n), []
    for tick in range(len(load)):
        capacity.record(np, state, rows, np.full(n, EPOCH + interval * tick), load[tick], ready[tick], use[tick])
        found.append(state["capacity"].copy())
    return np.stack(found), state


def noisy(use: np.ndarray, relative: float, absolute: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    factor = 1.0 + relative * rng.standard_normal(use.shape)
    return np.clip(use * factor + absolute * rng.standard_normal(use.shape), 0.0, None)


MADE_UP: list[Trace | Pattern] = [parse(text) for text in ("working-day", "daily*jitter", "sine-curve*jitter")]


@pytest.fixture(scope="module")
def made_up() -> Readings:
    return Readings(MADE_UP * 2, follows=False, hours=5)


@pytest.mark.skipif(FOLDER is None, reason="no folder of recorded traces; RLSCALER_TRACES names one")
@pytest.mark.parametrize("follows", [False, True], ids=["replicas stay", "replicas follow"])
@pytest.mark.parametrize("completions", [False, True], ids=["arrivals", "completions"])
def test_capacity_is_learned_within_an_hour_on_recorded_load(follows: bool, completions: bool) -> None:
    assert FOLDER is not None
    sources: list[Trace | Pattern] = [read_trace(FOLDER / f"{name}.csv.gz") for name in RECORDED]
    seen = Readings(sources, follows=follows, hours=2.5, completions=completions, concurrency=4)
    for what, use in (("exact", seen.use), ("noisy", noisy(seen.use, 0.05, 0.01)), ("idle", 0.05 + 0.95 * seen.use)):
        found, _ = learned(seen.load, seen.ready, use)
        error = found / seen.capacity - 1.0
        # A load that lies still for an hour, and one that overloads the replicas, take longer.
        assert np.isfinite(found[HOUR]).sum() >= len(RECORDED) - 2, f"{what}: {found[HOUR]}"
        assert np.isfinite(found[-1]).sum() >= len(RECORDED) - 1, f"{what}: {found[-1]}"
        assert np.nanmax(np.abs(error[HOUR])) < 0.1, f"{what}: {error[HOUR]}"
        assert np.nanmax(np.abs(error[-1])) < 0.1, f"{what}: {error[-1]}"


@pytest.mark.parametrize(("per", "concurrency", "interval"), [(10.0, 1, 15.0), (0.5, 1, 15.0), (300.0, 8, 5.0)])
def test_capacity_is_learned_whatever_its_size(per: float, concurrency: int, interval: float) -> None:
    sources = MADE_UP[1:]
    seen = Readings(
        sources, follows=False, hours=2.5, capacity_per_replica=per, concurrency=concurrency, interval=interval
    )
    found, state = learned(seen.load, seen.ready, seen.use, interval)
    np.testing.assert_allclose(found[-1], per, rtol=0.1)
    assert (state["error"] < capacity.ERROR).all()
    assert (state["finding"] == Finding.Known).all()


Distorted = Callable[[Readings], tuple[np.ndarray, np.ndarray, np.ndarray]]


def _with(use: Callable[[np.ndarray], np.ndarray]) -> Distorted:
    return lambda seen: (seen.load, seen.ready, use(seen.use))


def _late(series: np.ndarray, ticks: int) -> np.ndarray:
    return np.concatenate([np.full((ticks, series.shape[1]), NAN), series[:-ticks]])


def _walk(use: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(7)
    return np.asarray(np.clip(0.5 * np.exp(np.cumsum(0.02 * rng.standard_normal(use.shape), axis=0)), 0.02, 1.0))


def _outliers(seen: Readings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    bad = rng.random(seen.load.shape) < 0.04
    load = np.where(bad, seen.load * rng.choice([0.01, 10.0, 50.0], bad.shape), seen.load)
    return load, seen.ready, np.where(rng.random(bad.shape) < 0.03, rng.random(bad.shape), seen.use)


UNRELATED = Finding.UtilizationUnrelated
ADVERSARIAL: dict[str, tuple[Distorted, Finding | None, bool]] = {
    # name: readings, the finding at the end (None: any), whether it may be known
    "constant": (_with(lambda u: np.full_like(u, 0.5)), UNRELATED, False),
    "constant and noise": (_with(lambda u: noisy(np.full_like(u, 0.5), 0.05, 0.01)), UNRELATED, False),
    "random": (_with(lambda u: np.random.default_rng(1).uniform(0.1, 0.9, u.shape)), UNRELATED, False),
    "random walk": (_with(_walk), UNRELATED, False),
    "of another workload": (_with(lambda u: u[:, [1, 2, 0, 4, 5, 3]][::-1]), None, False),
    "percent": (_with(lambda u: 100.0 * u), Finding.UtilizationInPercent, False),
    "zero": (_with(np.zeros_like), Finding.TooFewSamples, False),
    "unknown": (_with(lambda u: np.full_like(u, NAN)), Finding.TooFewSamples, False),
    "always low": (_with(lambda u: 0.1 * u), None, True),
    "60 s late": (_with(lambda u: _late(u, 4)), None, True),
    "load 60 s late": (lambda seen: (_late(seen.load, 4), seen.ready, seen.use), None, True),
    "heavy idle work": (_with(lambda u: 0.3 + 0.7 * u), None, True),
    "heavy noise": (_with(lambda u: noisy(u, 0.15, 0.02)), None, True),
    "outliers": (_outliers, None, True),
    "gaps": (lambda seen: (np.where(np.arange(len(seen.load))[:, None] % 7 < 3, NAN, seen.load), seen.ready, seen.use),
             None, True),
    "steady load": (lambda seen: (np.full_like(seen.load, 90.0), np.full_like(seen.ready, 20.0),
                                  noisy(np.full_like(seen.use, 0.45), 0.02, 0.0)), Finding.LoadTooSteady, False),
    "no replicas": (lambda seen: (seen.load, np.zeros_like(seen.ready), seen.use), Finding.TooFewSamples, False),
}  # fmt: skip


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_capacity_is_never_confident_and_wrong(name: str, made_up: Readings) -> None:
    distort, finding, may = ADVERSARIAL[name]
    found, state = learned(*distort(made_up))
    error = np.abs(found / made_up.capacity - 1.0)
    if name == "always low":
        error = np.abs(found / (10.0 * made_up.capacity) - 1.0)
    assert not (error > 0.25).any(), f"{np.nanmax(error):.2f} off at tick {np.nanargmax(np.nanmax(error, axis=1))}"
    assert may or np.isnan(found[-1]).all(), found[-1]
    if finding is not None:
        assert {Finding(f) for f in state["finding"]} == {finding}
    assert all(capacity.SENTENCES[Finding(f)] for f in state["finding"])


def test_what_turns_out_to_be_percent_is_no_longer_known(made_up: Readings) -> None:
    part = made_up.load[: 3 * HOUR, :2], made_up.ready[: 3 * HOUR, :2]
    use = made_up.use[: 3 * HOUR, :2].copy()
    use[-HOUR // 2 :] *= 100.0
    found, state = learned(*part, use)
    assert np.isfinite(found[-HOUR // 2 - 1]).all()
    assert np.isnan(found[-1]).all()
    assert (state["finding"] == Finding.UtilizationInPercent).all()


@pytest.mark.parametrize("factor", [0.4, 0.6, 1.6, 2.5])
@pytest.mark.parametrize("completions", [False, True], ids=["arrivals", "completions"])
def test_a_deploy_that_changes_the_capacity_is_followed_within_hours(factor: float, completions: bool) -> None:
    n, steps, deploy = 2, 6 * HOUR, 2 * HOUR
    sources = MADE_UP[:2]
    rates = np.stack(
        [realise(s, duration=6 * 3600.0, start=8 * 3600.0, rng=generator(s.name, 2)).rates for s in sources], 1
    )
    place = World(WorldConfig(completions=completions), n, seed=1)
    place.reset(1, 25)
    state, rows, desired, found = capacity.state(n), np.arange(n), np.full(n, 30.0), []
    for step in range(steps):
        if step == deploy:
            after = World(WorldConfig(capacity_per_replica=10.0 * factor, completions=completions), n, seed=2)
            after.state, after.time = place.state, place.time
            place = after
        now = place.readings()
        load, ready, use = (np.asarray(a, float) for a in (now.load, now.ready, now.utilization))
        capacity.record(np, state, rows, np.full(n, EPOCH + 15.0 * step), load, ready, use)
        found.append(state["capacity"].copy())
        wanted = np.ceil(load / found[-1] / 0.7)
        desired = np.where(np.isfinite(wanted), np.clip(wanted, 1.0, 500.0), desired)
        place.step(desired, rates[step * 5 : step * 5 + 5])
    np.testing.assert_allclose(found[deploy], 10.0, rtol=0.1)
    np.testing.assert_allclose(found[-1], 10.0 * factor, rtol=0.1)


def test_a_drain_of_backlog_refutes_no_capacity() -> None:
    place = World(WorldConfig(), 1, seed=5)
    place.reset(5, 20)
    state, rows, found = capacity.state(1), np.zeros(1, np.int64), []
    for step in range(4 * HOUR):
        now = place.readings()
        readings = (np.asarray(a, float) for a in (now.load, now.ready, now.utilization))
        capacity.record(np, state, rows, np.full(1, EPOCH + 15.0 * step), *readings)
        found.append(float(state["capacity"][0]))
        base = 100.0 + 40.0 * np.sin(step / 20.0)
        place.step(20, 2000.0 if 2 * HOUR <= step < 2 * HOUR + 8 else base)
    backlog = float(np.asarray(place.readings().backlog)[0])
    assert np.isfinite(found[2 * HOUR])
    np.testing.assert_allclose(found[2 * HOUR :], 10.0, rtol=0.1)
    assert backlog < 1.0, "the backlog was drained within the run"


def waves(hours: int, mean: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return load of ten replicas (T, 3) that serve ten a second each, their number, and how much of them is used."""
    rng = np.random.default_rng(4)
    tick, period = np.arange(hours * HOUR)[:, None], np.array([61.0, 150.0, 700.0])
    use = mean * (1.0 + 0.25 * np.sin(tick / period)) * np.exp(0.02 * rng.standard_normal((len(tick), 3)))
    return 100.0 * use, np.full_like(use, 10.0), use


def test_an_hourly_job_costs_the_capacity_no_more_than_its_own_time() -> None:
    """Ten minutes of cron at the top of the hour had it halved for 60 % of the time, as if by a slow deploy."""
    load, ready, use = waves(24, 0.6)
    busy = np.arange(len(use)) % HOUR < 40
    found, _ = learned(load, ready, np.clip(use + 0.45 * busy[:, None], 0.0, 1.0))
    off = np.abs(found / 10.0 - 1.0)[2 * HOUR :]
    assert (off < 0.1).mean() >= 0.85
    assert (off[~busy[2 * HOUR :]] < 0.1).mean() >= 0.9
    assert (found[2 * HOUR :] <= 11.0).all(), "it comes back to what it was, and no further"


def test_idle_work_beside_a_high_use_refutes_no_capacity() -> None:
    """At 80 % to 93 % use, half of which was idle work, it was lowered by a third."""
    load, ready, use = waves(12, 0.6)
    found, _ = learned(load[:, :2], ready[:, :2], 0.5 + 0.5 * use[:, :2])
    np.testing.assert_allclose(found[4 * HOUR :], 10.0, rtol=0.1)


@pytest.mark.parametrize("cap", [0.6, 0.7, 0.8, 1.0])
def test_a_utilization_that_its_source_caps_teaches_the_same(cap: float) -> None:
    """The blocks at the cap seemed to be of more capable replicas: up to 36 % more, for hours at a time."""
    load, ready, use = waves(24, 0.65)
    found, _ = learned(load, ready, np.minimum(1.2 * use, cap))
    assert np.isfinite(found[-1]).all()
    np.testing.assert_allclose(found[2 * HOUR :][np.isfinite(found[2 * HOUR :])], 10.0 / 1.2, rtol=0.1)


def test_a_row_learns_the_same_in_any_company(made_up: Readings) -> None:
    many, _ = learned(made_up.load, made_up.ready, made_up.use)
    for row in (0, 4):
        alone, _ = learned(made_up.load[:, [row]], made_up.ready[:, [row]], made_up.use[:, [row]])
        np.testing.assert_array_equal(alone[:, 0], many[:, row])


def test_the_phase_only_shifts_the_work(made_up: Readings) -> None:
    n = made_up.load.shape[1]
    state, rows = capacity.state(n), np.arange(n)
    state["phase"][:] = np.linspace(0.0, 170.0, n)
    for tick in range(3 * HOUR):
        now = np.full(n, EPOCH + 15.0 * tick)
        capacity.record(np, state, rows, now, made_up.load[tick], made_up.ready[tick], made_up.use[tick])
    np.testing.assert_allclose(state["capacity"], 10.0, rtol=0.1)
