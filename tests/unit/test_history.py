"""The history and its features, held against a plain one-workload computation over lists."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler import features, growth, history, replay

START = 1_600_000_020.0


def facts(n: int, capacity: Any = 10.0, startup: Any = 60.0, interval: float = 15.0) -> dict[str, np.ndarray]:
    return {
        "interval": np.full(n, interval),
        "lag": np.full(n, 15.0),
        "startup": np.broadcast_to(np.asarray(startup, float), (n,)).copy(),
        "capacity_per_replica": np.broadcast_to(np.asarray(capacity, float), (n,)).copy(),
        "price": np.full(n, 20.0),
    }


def run(loads: np.ndarray, interval: float = 15.0, start: float = START, **kwargs: Any) -> tuple[Any, list[Any]]:
    """Feed (N, T) loads tick by tick; return the state and the features of every tick."""
    n = len(loads)
    state, rows, about = history.state(n), np.arange(n), facts(n, interval=interval, **kwargs)
    told = []
    for t in range(loads.shape[1]):
        time = np.full(n, start + t * interval)
        history.record(np, state, rows, time, loads[:, t], about, interval)
        told.append(features.features(np, state, rows, time, about, interval))
    return state, told


class Plain:
    """One workload, lists and dictionaries, decay applied to every sample at every look."""

    def __init__(self, interval: float, capacity: float) -> None:
        self.interval, self.half = interval, 0.5 * capacity
        self.values: list[float] = []
        self.kinds: list[int] = []
        self.usual = math.nan
        self.samples: list[tuple[float, int, int, float]] = []  # time, horizon, kind, growth
        self.means: dict[int, list[float]] = {}  # levels of each five minutes

    def level(self, at: int) -> float:
        return 0.5 * (self.values[at] + self.values[max(0, at - 1)])

    def mean(self, seconds: float) -> float:
        k = max(1, round(seconds / self.interval))
        padded = [self.values[0]] * k + self.values
        return sum(padded[-k:]) / k

    def tick(self, time: float, load: float) -> None:
        known = math.isfinite(load)
        if not known and not self.values:
            return
        self.values.append(load if known else self.values[-1])
        now = len(self.values) - 1
        level = self.level(now)
        self.means.setdefault(int(time // 300), []).extend([level] * known)
        rate = 1 - 2 ** (-self.interval / history.LEVEL_HALF_LIFE)
        self.usual = level if math.isnan(self.usual) else self.usual + rate * known * (level - self.usual)
        trend = math.log((self.mean(30) + self.half) / (self.mean(180) + self.half))
        ratio = (level + self.half) / (self.usual + self.half)
        kind = sum(trend > c for c in growth.TREND_CUTS) + growth.TRENDS * sum(ratio > c for c in growth.LEVEL_CUTS)
        self.kinds.append(kind if known else -1)
        for h, seconds in enumerate(growth.LADDER):
            k = max(1, round(seconds / self.interval))
            base = now - k
            if base < 0 or self.kinds[base] < 0:
                continue
            if sum(x >= 0 for x in self.kinds[base + 1 : now + 1]) < history.KNOWN_SHARE * k:
                continue
            top = max(self.values[base + 1 : now + 1])
            grown = math.log((top + self.half) / (self.level(base) + self.half))
            self.samples.append((time, h, self.kinds[base], grown))

    def miss(self) -> None:
        if self.values:
            self.values.append(self.values[-1])
            self.kinds.append(-1)

    def quarters(self) -> np.ndarray:
        """Return the moments of growth by the quarter-hour in which it began."""
        out = np.zeros((96, len(growth.LADDER), 2))
        for time, h, _, grown in self.samples:
            span = max(1, round(growth.LADDER[h] / self.interval)) * self.interval
            cell = out[int((time - span) // 900) % 96, h]
            cell += history.QUARTER_RATE * min(1.0, self.interval / 900) * (np.array([grown, grown**2]) - cell)
        return out

    def profile(self, quarters: int, rate: float) -> np.ndarray:
        """Return the usual level in each quarter-hour of so many, of five minutes that are over."""
        out = np.full(quarters, np.nan)
        for slot in sorted(self.means)[:-1]:
            if found := self.means[slot]:
                at, mean = slot // 3 % quarters, sum(found) / len(found)
                out[at] = mean if math.isnan(out[at]) else out[at] + rate * (mean - out[at])
        return out

    def histogram(self, now: float, horizon: int, which: int) -> np.ndarray:
        out = np.zeros(growth.BINS)
        for time, h, kind, grown in self.samples:
            if h != horizon:
                continue
            trend, level = kind % growth.TRENDS, kind // growth.TRENDS
            mine = which < growth.WINDOWS or which - growth.WINDOWS in (trend, growth.TRENDS + level)
            if mine:
                bin_ = int(np.searchsorted(growth.EDGES[1:-1], grown, side="right"))
                out[bin_] += 2 ** (-(now - time) / growth.HALF_LIVES[which])
        return out


@pytest.mark.parametrize("interval", [5.0, 15.0, 60.0])
def test_histograms_equal_the_plain_computation(interval: float) -> None:
    rng = np.random.default_rng(7)
    load = 80 * np.exp(np.cumsum(0.08 * rng.standard_normal(300)))
    load[rng.random(300) < 0.06] = np.nan
    state, _ = run(load[None, :], interval)
    plain = Plain(interval, 10.0)
    for t, value in enumerate(load):
        plain.tick(START + t * interval, float(value))
    now = START + 299 * interval
    decay = 2.0 ** (-(now - state["growth_ref"][0]) / growth.HALF_LIVES)
    for horizon in range(len(growth.LADDER)):
        for which in range(growth.HISTOGRAMS):
            found = state["growth"][0, horizon, which] * decay[which]
            expected = plain.histogram(now, horizon, which)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=f"{horizon=} {which=}")


def test_days_and_weeks_equal_the_plain_computation() -> None:
    """Of rows that begin at different times, lack readings, miss ticks and stand apart among others."""
    interval, ticks, n = 120.0, 850, 4
    rng = np.random.default_rng(8)
    loads = 80 * np.exp(np.cumsum(0.05 * rng.standard_normal((n, ticks)), axis=1))
    loads[rng.random((n, ticks)) < 0.04] = np.nan
    loads[1, 300:340] = loads[2, :7] = np.nan
    missed = rng.random((n, ticks)) < 0.03
    missed[3, 600:800] = True
    missed[:, -1] = False
    ahead = interval * np.array([0, 0, 41, 700])
    state, every, about = history.state(9), np.array([3, 5, 8, 1]), facts(n, interval=interval)
    plain = [Plain(interval, 10.0) for _ in range(n)]
    for tick in range(ticks):
        time = START + ahead + interval * tick
        for some in (np.flatnonzero(~missed[:2, tick]), 2 + np.flatnonzero(~missed[2:, tick])):
            if len(some):
                part = {name: array[some] for name, array in about.items()}
                history.record(np, state, every[some], time[some], loads[some, tick], part, interval)
        for each in range(n):
            if missed[each, tick]:
                plain[each].miss()
            else:
                plain[each].tick(float(time[each]), float(loads[each, tick]))
    for row, own in zip(every, plain, strict=True):
        newest = max(own.means)
        means = np.full(history.COARSE, np.nan)
        for slot, levels in own.means.items():
            if levels and slot < newest:
                means[slot % history.COARSE] = sum(levels) / len(levels)
        expected = {
            "quarter": own.quarters(),
            "day": own.profile(96, history.DAY_RATE),
            "week": own.profile(672, history.WEEK_RATE),
            "coarse": means,
            "usual": np.array(own.usual),
        }
        for name, array in expected.items():
            np.testing.assert_allclose(state[name][row], array, rtol=1e-4, atol=1e-5, err_msg=f"{name} of {row}")
    others = np.setdiff1d(np.arange(9), every)
    for name, array in history.state(1).items():
        np.testing.assert_array_equal(state[name][others], np.repeat(array, len(others), axis=0), err_msg=name)


def test_old_weights_are_renormalised_without_changing_what_they_say() -> None:
    state, rows, about = history.state(1), np.arange(1), facts(1)
    plain = Plain(15.0, 10.0)
    rng = np.random.default_rng(3)
    for t in np.concatenate([np.arange(0, 3600, 15), 45 * 3600.0 + np.arange(0, 900, 15)]):
        value = 100 * float(np.exp(0.2 * rng.standard_normal()))
        if t == 45 * 3600.0:
            plain.values, plain.kinds = [plain.values[-1]] * 800 + [], [-1] * 800
        history.record(np, state, rows, np.array([START + t]), np.array([value]), about, 15.0)
        plain.tick(START + t, value)
    now = START + 45 * 3600 + 885
    assert now - state["growth_ref"][0] < 3600, "the reference moved"
    decay = 2.0 ** (-(now - state["growth_ref"][0]) / growth.HALF_LIVES)
    for which in (0, 1, 2, 3):
        np.testing.assert_allclose(
            state["growth"][0, 2, which] * decay[which], plain.histogram(now, 2, which), rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize(
    ("interval", "lag", "startup", "horizon"),
    [
        (5.0, 0.0, 1.0, 30.0),
        (15.0, 0.0, 15.0, 30.0),
        (15.0, 0.0, 15.5, 60.0),
        (15.0, 15.0, 60.0, 90.0),
        (15.0, 15.0, 300.0, 330.0),
        (60.0, 30.0, 300.0, 660.0),
        (60.0, 60.0, 900.0, 660.0),
    ],
)
def test_growth_is_told_of_the_first_horizon_that_covers_the_reaction(
    interval: float, lag: float, startup: float, horizon: float
) -> None:
    about = {"interval": np.array([interval]), "lag": np.array([lag]), "startup": np.array([startup])}
    assert growth.LADDER[int(growth.horizon_index(np, about)[0])] == horizon


def test_a_summary_says_what_the_histogram_says() -> None:
    weights = np.zeros((1, 1, growth.BINS), np.float32)
    weights[0, 0, 20] = 1e6
    weights[0, 0, 40] = 1e4
    stats = growth.summarize(np, weights, np.zeros(1), np.array([3600.0]), np.array([20.0]))[0, 0]
    told = dict(zip(growth.STATISTICS, stats, strict=True))
    assert told["q50"] == pytest.approx(growth.EDGES[21])
    assert told["q97"] == pytest.approx(growth.EDGES[21])
    cost = np.exp(growth.EDGES[1:]) + 20 * np.array([1e4 / 1.01e6 if b < 40 else 0.0 for b in range(growth.BINS)])
    cost[:20] = np.inf
    assert told["cheap"] == pytest.approx(growth.EDGES[1:][np.argmin(cost)])


def test_a_higher_price_never_lowers_the_cheapest_headroom() -> None:
    rng = np.random.default_rng(0)
    weights = rng.gamma(0.3, size=(200, 1, growth.BINS)).astype(np.float32)
    prices = [np.full(200, p) for p in (0.2, 1.0, 5.0, 20.0, 100.0, 2000.0)]
    found = [growth.summarize(np, weights, np.zeros(200), np.array([3600.0]), p)[:, 0, -2] for p in prices]
    for low, high in pairwise(found):
        assert (high >= low).all()


def test_rows_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(1)
    loads = np.exp(rng.standard_normal((5, 80))) * np.array([[1], [1e3], [1e6], [0], [50]])
    loads[4, 30:60] = np.nan
    together, told = run(loads)
    for row in range(5):
        alone, single = run(loads[row : row + 1])
        for name in alone:
            np.testing.assert_array_equal(together[name][row], alone[name][0], err_msg=name)
        for name in single[-1]:
            np.testing.assert_array_equal(told[-1][name][row], single[-1][name][0], err_msg=name)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(scale=st.sampled_from([1e-3, 0.5, 2.0, 1024.0, 1e6]), seed=st.integers(0, 1000))
def test_the_unit_of_load_does_not_matter(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    load = np.exp(rng.standard_normal((1, 50))) * 40
    _, told = run(load)
    _, scaled = run(load * scale, capacity=10.0 * scale)
    for name in told[-1]:
        np.testing.assert_allclose(scaled[-1][name], told[-1][name], atol=2e-4, rtol=2e-4, err_msg=name)


def test_unknown_samples_teach_nothing() -> None:
    load = np.full((1, 200), 50.0)
    load[0, 100:] = np.nan
    state, told = run(load)
    at_loss = run(load[:, :100])[0]
    for name in ("usual", "day", "week"):
        np.testing.assert_allclose(state[name][0], at_loss[name][0], rtol=1e-6, err_msg=name)
    assert told[-1]["level"][0] == pytest.approx(5.0), "the last known level stands"
    assert state["known_seconds"][0] == 100 * 15


@pytest.mark.parametrize("missed", [1, 5, 100, 1000])
def test_ticks_that_never_came_are_unknown(missed: int) -> None:
    state, rows, about = history.state(1), np.arange(1), facts(1)
    for t in [*range(40), 40 + missed]:
        history.record(np, state, rows, np.array([START + 15.0 * t]), np.array([50.0 + t]), about, 15.0)
    slot = int(state["slot"][0])
    gap = min(missed, history.RING - 1)
    marks = state["classes"][0, [(slot - k) % history.RING for k in range(1, gap + 1)]]
    assert (marks == -1).all()
    assert state["classes"][0, slot % history.RING] >= 0
    assert np.isfinite(state["load"]).all()


def test_a_second_sample_in_the_same_slot_is_ignored() -> None:
    state, rows, about = history.state(1), np.arange(1), facts(1)
    history.record(np, state, rows, np.array([START]), np.array([50.0]), about, 15.0)
    before = {name: array.copy() for name, array in state.items()}
    history.record(np, state, rows, np.array([START + 7.0]), np.array([500.0]), about, 15.0)
    for name, array in state.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_yesterday_and_the_profile_are_remembered() -> None:
    ticks = np.arange(0, 9 * 86400, 60.0)
    load = 100 * (1 + 0.8 * np.sin(2 * np.pi * ticks / 86400))
    told = replay.features_over_time(86400.0 * 18_000 + ticks, load, facts(1, interval=60.0), 60.0)
    late, hour = ticks > 8.1 * 86400, ticks % 86400 / 3600
    rising, falling = late & (hour < 3), late & (hour > 8) & (hour < 12)
    for name in ("yesterday", "lastweek"):
        assert (told[name][rising] > 0).all(), name
        assert (told[name][falling] < 0).all(), name
    assert (told["ahead"][rising, -1] > told["ahead"][rising, 0]).all()
    assert (told["ahead"][rising, 0] > 0).all()
    assert (told["ahead"][falling, -1] < 0).all()


@pytest.mark.parametrize("beyond", [0, 1, 10, history.COARSE, 3 * history.COARSE + 7])
def test_a_pause_longer_than_the_ring_of_means_leaves_none_of_before(beyond: int) -> None:
    """Else the last mean before the pause would stand for five minutes after it; beside one that was read meanwhile."""
    state, rows, about = history.state(2), np.arange(2), facts(2)
    begin = 1_699_999_800.0
    again = begin + history.COARSE_SECONDS * (history.COARSE + beyond)
    for start, load in ((begin, 100.0), (again, 200.0)):
        history.record(np, state, rows[1:], np.array([start - 600.0]), np.array([load]), facts(1), 15.0)
        for tick in range(40):
            history.record(np, state, rows, np.full(2, start + 15.0 * tick), np.full(2, load), about, 15.0)
    newest = int(state["coarse_slot"][0])
    past = newest - 1 - np.arange(history.COARSE - 1)
    kept = {int(slot): float(state["coarse"][0, slot % history.COARSE]) for slot in past}
    known = {slot: value for slot, value in kept.items() if math.isfinite(value)}
    assert set(known) == {int(again // history.COARSE_SECONDS)}
    assert min(known.values()) > 195.0


@pytest.mark.parametrize("absurd", [1e99, 1e-60])
def test_an_absurd_capacity_leaves_nothing_behind(absurd: float) -> None:
    """NaN in the moments of a quarter-hour would stay for ever, and with it a rule that has no answer at that time."""
    state, rows = history.state(1), np.arange(1)
    for tick in range(300):
        about = facts(1, capacity=absurd if tick < 100 else 10.0)
        load = np.array([(1e15, 100.0 + tick % 7, 0.0)[tick // 8 % 3]])
        history.record(np, state, rows, np.array([START + 15.0 * tick]), load, about, 15.0)
    for name in ("growth", "quarter", "usual"):
        assert np.isfinite(state[name]).all(), name


def test_a_workload_costs_at_most_forty_kilobytes() -> None:
    assert history.nbytes(history.state(3)) <= 40_000


def test_before_the_first_sample_the_level_is_unknown() -> None:
    _, told = run(np.array([[np.nan, np.nan, 30.0]]))
    assert np.isnan(told[1]["level"][0])
    assert told[2]["level"][0] == pytest.approx(3.0)
    assert all(np.isfinite(v).all() for v in told[2].values())


def test_torch_gives_the_same_features() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import array_api_compat.torch as xp

    rng = np.random.default_rng(5)
    loads = 60 * np.exp(np.cumsum(0.1 * rng.standard_normal((4, 120)), axis=1))
    loads[1, 40:50] = np.nan
    _, told = run(loads)
    state = {name: torch.from_numpy(array) for name, array in history.state(4).items()}
    about = {name: torch.from_numpy(array) for name, array in facts(4).items()}
    rows = torch.arange(4)
    for t in range(120):
        time = torch.full((4,), START + 15.0 * t, dtype=torch.float64)
        history.record(xp, state, rows, time, torch.from_numpy(loads[:, t]), about, 15.0)
        found = features.features(xp, state, rows, time, about, 15.0)
        for name, value in found.items():
            np.testing.assert_allclose(value.numpy(), told[t][name], rtol=2e-4, atol=2e-4, err_msg=f"{name} at {t}")


@pytest.mark.parametrize("interval", [5.0, 15.0, 60.0])
def test_a_whole_load_at_once_tells_the_same_to_the_bit(interval: float) -> None:
    rng = np.random.default_rng(11)
    ticks = 700
    load = 60 * np.exp(np.cumsum(0.07 * rng.standard_normal(ticks)))
    load[:3] = np.nan
    load[rng.random(ticks) < 0.04] = np.nan
    load[400:430] = np.nan
    start = START + 86400.0 * 3 - 900.0
    _, told = run(load[None, :], interval, start)
    found = replay.features_over_time(start + interval * np.arange(ticks), load, facts(1, interval=interval), interval)
    for name in told[0]:
        expected = np.concatenate([f[name] for f in told])
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_days_at_once_tell_the_same_to_the_bit() -> None:
    ticks = np.arange(0, 1.6 * 86400, 60.0)
    rng = np.random.default_rng(12)
    load = 100 * (1 + 0.8 * np.sin(2 * np.pi * ticks / 86400)) * np.exp(0.1 * rng.standard_normal(len(ticks)))
    _, told = run(load[None, :], 60.0, 86400.0 * 18_000)
    found = replay.features_over_time(86400.0 * 18_000 + ticks, load, facts(1, interval=60.0), 60.0)
    for name in told[0]:
        np.testing.assert_array_equal(found[name], np.concatenate([f[name] for f in told]), err_msg=name)
