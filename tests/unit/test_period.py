"""Load that comes again is told from load that does not, and what is next is then ordered before it is there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlscaler import Autoscaler, Settings, Snapshot, history, period
from rlscaler.features import features
from rlscaler.policies import load_policy
from rlscaler.policy import View
from rlscaler.replay import features_over_time
from rlscaler.rules.periodic import Periodic
from rlscaler.settings import compiled

INTERVAL, CAPACITY, START = 15.0, 10.0, 86400.0 * 18_000
SETTINGS = Settings(capacity_per_replica=CAPACITY, interval=INTERVAL, lag=15.0, startup=60.0, min_replicas=1,
                    max_replicas=100)  # fmt: skip
APART = 6
"""Samples within one reaction time of SETTINGS."""


def job(
    every: float, lasts: float, hours: float, *, seed: int = 0, uneven: float = 0.0, late: float = 0.0
) -> np.ndarray:
    """Return requests/s, a sample each 15 s, of a job that adds 17 replicas of load to 8, with counts' scatter.

    uneven: share by which height and length may differ from one time to the next. late: seconds by which it may begin
    late.
    """
    rng = np.random.default_rng(seed)
    seconds = np.full(round(hours * 3600.0), 8.0 * CAPACITY)
    for begin in np.arange(0.0, len(seconds), every):
        more = 1.0 + uneven * rng.uniform(-1.0, 1.0, 2)
        first = begin + late * rng.uniform()
        seconds[int(first) : int(first + lasts * more[0])] += 17.0 * CAPACITY * more[1]
    rates = seconds.reshape(-1, round(INTERVAL)).mean(axis=1)
    return np.asarray(rng.poisson(rates * INTERVAL) / INTERVAL)


def looked(load: np.ndarray, apart: int = APART) -> int:
    """Return the period in samples that a look finds in the newest samples of a load, oldest first."""
    newest = load[-history.RING :][::-1]
    padded = np.concatenate([newest, np.full(history.RING - len(newest), load[0])]).astype(np.float32)
    found = period.found(padded[None], np.array([len(newest)]), np.array([apart]), np.array([0.5 * CAPACITY]))
    return int(found[0])


@pytest.mark.parametrize("minutes", [5, 10, 15, 20, 30, 60])
@pytest.mark.parametrize("lasts", [60.0, 120.0])
def test_a_job_on_the_minute_is_found_whatever_its_period(minutes: int, lasts: float) -> None:
    found = looked(job(60.0 * minutes, lasts, 3.0))
    assert found > 0
    assert found * INTERVAL % (60.0 * minutes) == 0.0


@pytest.mark.parametrize("every", [513.0, 700.0, 1320.0])
def test_a_period_need_not_be_one_of_the_clock_or_a_whole_number_of_samples(every: float) -> None:
    cycles = looked(job(every, 90.0, 3.0)) * INTERVAL / every
    assert cycles > 0.5
    assert abs(cycles - round(cycles)) * every <= 1.5 * INTERVAL


@pytest.mark.parametrize("seed", range(5))
def test_jobs_of_uneven_length_and_height_that_begin_late_are_found(seed: int) -> None:
    cycles = looked(job(600.0, 60.0, 3.0, seed=seed, uneven=0.2, late=20.0)) / 40.0
    assert cycles > 0.0
    assert cycles == pytest.approx(round(cycles), abs=0.1)


def test_three_cycles_are_needed_and_enough() -> None:
    load = job(600.0, 60.0, 1.0)
    assert looked(load[: 3 * 36]) == 0
    assert looked(load[: 3 * 40 + 1]) == 40


def _walk(rng: np.random.Generator) -> np.ndarray:
    return 100.0 * np.exp(np.cumsum(0.05 * rng.standard_normal(history.RING)))


def _bursts(rng: np.random.Generator) -> np.ndarray:
    load = np.full(history.RING, 80.0)
    for begin in np.cumsum(rng.exponential(40.0, 60)).astype(int):
        load[begin : begin + 4] += 170.0
    return load


def _scatter(rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(150.0, history.RING) / 15.0


def _crowd(rng: np.random.Generator) -> np.ndarray:
    load = np.full(history.RING, 100.0)
    load[rng.integers(100, 600) :][:60] = 400.0
    return load


def _ramp(rng: np.random.Generator) -> np.ndarray:
    return np.linspace(10.0, 1000.0, history.RING)


def _day(rng: np.random.Generator) -> np.ndarray:
    return 100.0 - 80.0 * np.cos(np.arange(history.RING) / 900.0 + rng.uniform(0.0, 6.0))


def _nothing(rng: np.random.Generator) -> np.ndarray:
    return np.zeros(history.RING)


@pytest.mark.parametrize("made", [_walk, _bursts, _scatter, _crowd, _ramp, _day, _nothing])
@pytest.mark.parametrize("seed", range(6))
def test_load_that_does_not_come_again_has_no_period(
    made: Callable[[np.random.Generator], np.ndarray], seed: int
) -> None:
    assert looked(made(np.random.default_rng(seed))) == 0


def test_scatter_of_calm_load_is_nobodys_business() -> None:
    """A wave of a twentieth repeats itself as well, but needs no other headroom than what is there."""
    wave = np.sin(2.0 * np.pi * np.arange(history.RING) / 40.0)
    assert looked(100.0 + 4.0 * wave) == 0
    assert looked(100.0 + 40.0 * wave) > 0


def plain(load: np.ndarray, apart: int, half: float) -> int:
    """Return what `looked` does, by its definition: every pair of samples, one difference after the other."""
    n = len(load)
    d = {
        k: np.mean([(load[t] - load[t - k]) ** 2 for t in range(k, n)])
        for k in [apart, *range(apart + 1, -(-n // 3) + 1)]
    }
    if d[apart] <= (period.STRONG * (load.mean() + half)) ** 2 or n < period.CYCLES * (apart + 1):
        return 0
    longer = [k for k in d if k > apart]
    first = next(k for k in longer if d[k] <= period.NEAR * min(d[k] for k in longer) + 1e-9 * d[apart])
    best = min((k for k in longer if first <= k <= first + max(2, first // 8)), key=lambda k: d[k])
    return best if d[best] <= period.CLEAR * d[apart] else 0


@pytest.mark.parametrize("seed", range(12))
def test_what_is_found_is_what_its_definition_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    every, length = rng.uniform(150.0, 900.0), int(rng.integers(60, 400))
    load = job(float(every), 60.0, 3.0, seed=seed, uneven=0.4, late=30.0)[:length]
    apart = int(rng.integers(1, 12))
    assert looked(load, apart) == plain(load.astype(np.float32).astype(np.float64), apart, 0.5 * CAPACITY)


def test_each_load_is_looked_at_alone() -> None:
    loads = [job(600.0, 60.0, 3.0)[:700], _walk(np.random.default_rng(1)), job(900.0, 120.0, 3.0), np.zeros(100)]
    rows = np.stack([np.pad(each[::-1], (0, history.RING - len(each))) for each in loads]).astype(np.float32)
    count, apart = np.array([len(each) for each in loads]), np.array([6, 6, 10, 6])
    together = period.found(rows, count, apart, np.full(4, 5.0))
    assert (together > 0).tolist() == [True, False, True, False]
    for row in range(4):
        at = slice(row, row + 1)
        np.testing.assert_array_equal(period.found(rows[at], count[at], apart[at], np.full(1, 5.0)), together[at])


def test_what_is_to_come_is_the_most_of_one_reaction_time_one_and_two_periods_ago() -> None:
    load = np.random.default_rng(3).uniform(0.0, 100.0, 300).astype(np.float32)
    periods, apart = np.array([0, 40, 9, 100]), np.array([6, 6, 8, 12])
    found = period.ahead(np, periods, apart, lambda rows, ages: load[::-1][ages])
    expected = [max(load[299 - back * p + step] for back in (1, 2) for step in range(a + 2))
                for p, a in zip(periods, apart, strict=True) if p]  # fmt: skip
    assert np.isnan(found[0])
    np.testing.assert_array_equal(found[1:], np.array(expected, np.float32))


def test_a_reaction_time_beyond_the_period_asks_for_what_there_was_up_to_now() -> None:
    load = np.arange(100.0, dtype=np.float32)
    found = period.ahead(np, np.array([10]), np.array([50]), lambda rows, ages: load[::-1][ages])
    np.testing.assert_array_equal(found, [99.0])


def test_one_look_alone_counts_for_nothing() -> None:
    """Chance makes a period of what rose two or three times, and the next look, five minutes later, none."""
    load, facts = job(600.0, 60.0, 2.0), compiled(SETTINGS, 1)
    told = features_over_time(START + INTERVAL * np.arange(len(load)), load, facts, INTERVAL)
    first = int(np.argmax(told["period"] > 0.0))
    looks = [t for t in range(0, len(load), 20) if looked(load[: t + 1])]
    assert looks[1] == looks[0] + 20
    assert first == looks[1]
    assert set(told["period"].tolist()) <= {0.0, 600.0, 1200.0, 1800.0, 2400.0}


@pytest.mark.parametrize("ticks", [500, 507, 519])
def test_load_read_back_from_a_store_tells_the_same_as_load_that_was_seen(ticks: int) -> None:
    load = job(600.0, 60.0, 3.0)[:ticks]
    time = START + INTERVAL * np.arange(ticks)
    seen, read = Autoscaler("growth-quantile", SETTINGS, 1), Autoscaler("growth-quantile", SETTINGS, 1)
    for now, value in zip(time, load, strict=True):
        seen.remember(Snapshot(time=now, load=value))
    read.fill([0], time, load[None])
    after = Snapshot(time=time[-1] + INTERVAL, load=80.0)
    told, expected = read.remember(after), seen.remember(after)
    assert expected["period"][0] > 0.0
    for name in ("period", "again"):
        np.testing.assert_array_equal(told[name], expected[name])


def _knowing() -> tuple[Autoscaler, float]:
    """Return an autoscaler that knows a period of ten minutes, and when it was asked last."""
    scaler, load = Autoscaler("growth-quantile", SETTINGS, 1), job(600.0, 60.0, 1.0)
    time = START + INTERVAL * np.arange(len(load))
    scaler.fill([0], time, load[None])
    assert scaler.remember(Snapshot(time=time[-1], load=load[-1]))["period"][0] > 0.0
    return scaler, float(time[-1])


def test_a_period_is_told_in_samples_and_looked_for_anew_at_another_interval() -> None:
    scaler, now = _knowing()
    scaler.update([0], replace(SETTINGS, interval=60.0))
    assert scaler.remember(Snapshot(time=now + 60.0, load=80.0))["period"][0] == 0.0
    found = [scaler.remember(Snapshot(time=now + 60.0 * (2 + k), load=80.0))["period"][0] for k in range(2)]
    assert found == [0.0, 0.0]


def test_what_an_older_version_saved_knows_no_period_yet(tmp_path: Path) -> None:
    scaler, now = _knowing()
    for name in period.state(0):
        del scaler._history[name]
    scaler.save(tmp_path / "kept.npz")
    again = Autoscaler.load(tmp_path / "kept.npz", "growth-quantile")
    assert again.remember(Snapshot(time=now + INTERVAL, load=80.0))["period"][0] == 0.0
    heights = [
        again.remember(Snapshot(time=now + INTERVAL * k, load=80.0 + 170.0 * (k % 40 < 4)))["period"][0]
        for k in range(2, 42)
    ]
    assert heights[-1] > 0.0


def test_a_sample_that_is_missing_does_not_make_the_hourly_job_unknown() -> None:
    load = job(3600.0, 120.0, 4.0)
    load[np.random.default_rng(2).random(len(load)) < 0.1] = np.nan
    told = features_over_time(START + INTERVAL * np.arange(len(load)), load, compiled(SETTINGS, 1), INTERVAL)
    assert (told["period"][-40:] == 3600.0).all()


@pytest.mark.parametrize("interval", [5.0, 15.0, 60.0])
def test_a_whole_load_at_once_tells_what_comes_again_to_the_bit(interval: float) -> None:
    rng = np.random.default_rng(5)
    load = np.repeat(job(900.0, 120.0, 6.0), 3) if interval < 15.0 else np.tile(job(900.0, 120.0, 6.0), 4)
    load = load[:900] if interval <= 15.0 else load.reshape(-1, 4).mean(axis=1)
    load[rng.random(len(load)) < 0.02] = np.nan
    load[:2] = np.nan
    time, facts = START + 105.0 + interval * np.arange(len(load)), compiled(Settings(
        capacity_per_replica=CAPACITY, interval=interval, lag=15.0, startup=60.0), 1)  # fmt: skip
    whole = features_over_time(time, load, facts, interval)
    state, row = history.state(1), np.zeros(1, np.int64)
    for t in range(len(load)):
        history.record(np, state, row, time[t : t + 1], load[t : t + 1], facts, interval)
        told = features(np, state, row, time[t : t + 1], facts, interval)
        for name in ("period", "again"):
            np.testing.assert_array_equal(told[name], whole[name][t : t + 1], err_msg=f"{name} at {t}")
    assert (whole["period"] > 0.0).any()


def _view(level: float, latest: float, again: float, seconds: float, demand: float) -> View:
    facts = compiled(SETTINGS, 1)
    features = {"level": level, "latest": latest, "again": again, "period": seconds}
    return View(xp=np, settings=facts, snapshot={"backlog": np.full(1, np.nan)},
                features={name: np.full(1, value, np.float32) for name, value in features.items()},
                demand=np.full(1, demand), current=np.full(1, 9.0))  # fmt: skip


@pytest.mark.parametrize(
    ("latest", "again", "seconds", "demand", "expected"),
    [
        pytest.param(8.0, np.log(25.5 / 8.5), 600.0, 8.0, 27.5, id="a rise is to come"),
        pytest.param(8.0, 0.0, 600.0, 8.0, 8.0 + 0.5 * 8.0**0.5, id="nothing is to come"),
        pytest.param(36.0, np.log(25.5 / 8.5), 600.0, 36.0, 39.0, id="there is more already"),
        pytest.param(8.0, 1.0, 0.0, 8.0, np.nan, id="it does not come again"),
        pytest.param(8.0, 1.0, 600.0, np.nan, np.nan, id="the load is unknown"),
    ],
)
def test_the_rule_orders_what_came_one_period_ago(
    latest: float, again: float, seconds: float, demand: float, expected: float
) -> None:
    proposal, state = Periodic().propose(_view(8.0, latest, again, seconds, demand), {})
    np.testing.assert_allclose(proposal.replicas, [expected], rtol=1e-5)
    assert state == {}


@pytest.mark.parametrize("policy", ["default", "tenure"])
@pytest.mark.parametrize("minutes", [10, 30])
def test_replicas_are_there_before_a_job_that_comes_again(policy: str, minutes: int) -> None:
    """From the fifth time on, as long as a pod needs to start before it; and they are gone in between."""
    load = job(60.0 * minutes, 120.0, minutes / 60.0 * 9.0)
    scaler = Autoscaler(load_policy(policy), SETTINGS, 1)
    wanted, before = [], 12.0
    for step, now in enumerate(load):
        snapshot = Snapshot(time=START + INTERVAL * step, load=now, ready=before, desired=before)
        before = float(scaler.decide(snapshot).replicas[0])
        wanted.append(before)
    every = 4 * minutes
    for begin in range(6 * every, len(load) - every, every):
        ahead = wanted[begin - 4]
        assert ahead >= 25.0, f"{ahead} replicas a minute before a job that needs 25, at {begin}"
        assert min(wanted[begin + 12 : begin + every - 8]) <= 14.0
