"""The environment of earlier work reproduces the published numbers, and says what they are made of."""

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.arrays import Array, State
from rlscaler_sim import legacy

REMOVE, HOLD, ADD = 0, 1, 2


class Episode(NamedTuple):
    returns: np.ndarray
    steps: np.ndarray
    instances: np.ndarray
    loads: np.ndarray


def run(
    policy: Callable[[State, int], Any], influx: np.ndarray | None = None, *, n: int = 1, steps: int = 200
) -> Episode:
    """Run n environments side by side; those that have ended stay out of the sums."""
    state, total, lasted, alive = legacy.start(n), np.zeros(n), np.zeros(n, int), np.ones(n, bool)
    instances, loads = [state["instances"]], []
    for time in range(1, steps + 1):
        arriving = None if influx is None else np.full(n, influx[time])
        action = np.broadcast_to(policy(state, time), (n,))
        state, reward, ended = legacy.step(state, action, arriving)
        total += np.where(alive, reward, 0.0)
        lasted += alive
        instances.append(np.where(alive, state["instances"], instances[-1]))
        loads.append(state["load"])
        alive &= ~ended
    return Episode(total, lasted, np.array(instances), np.array(loads))


def baseline(state: State, time: int) -> Array:
    return legacy.threshold(state)


def best_two_thresholds(state: State, time: int) -> Array:
    return legacy.threshold(state, 98.0, 91.0, 0.0)


# Published or measured on the original: return, published dollars, dollars of the instance-hours.
NUMBERS = {
    "threshold": (baseline, -27.9537, 579889.536, 182.736),
    "always add": (lambda state, time: ADD, -115.5955, 592615.68, 299.6),
    "do nothing": (lambda state, time: HOLD, -14.025, 591600.0, 160.0),
    "best two thresholds": (best_two_thresholds, -5.8681, 367835.352, 147.12),
    "remove and add in turn": (lambda state, time: REMOVE if time % 2 else ADD, -77.283547, 53693.28, 158.4),
}


@pytest.mark.parametrize(("policy", "value", "published", "real"), NUMBERS.values(), ids=NUMBERS)
def test_the_published_numbers(policy: Any, value: float, published: float, real: float) -> None:
    episode = run(policy)
    assert episode.returns[0] == pytest.approx(value, abs=1e-6)
    assert legacy.published_cost(episode.instances)[0] == pytest.approx(published, abs=1e-6)
    assert legacy.instance_cost(episode.instances)[0] == pytest.approx(real, abs=1e-9)


def test_the_rest_of_the_published_row_of_the_threshold_rule() -> None:
    """evaluation_results.json of the fork: average load, instances, and the actions taken."""
    actions: list[int] = []

    def policy(state: State, time: int) -> Array:
        action = legacy.threshold(state)
        actions.append(int(action[0]))
        return action

    episode = run(policy)
    assert episode.loads.mean() == pytest.approx(75.06)
    assert episode.instances[1:].mean() == pytest.approx(57.105)
    assert [actions.count(action) for action in (ADD, REMOVE, HOLD)] == [15, 1, 184]


def test_removing_for_ever_crashes_at_step_50_and_scores_better_than_the_published_dqn() -> None:
    episode = run(lambda state, time: REMOVE)
    assert episode.steps[0] == 50
    assert episode.returns[0] == pytest.approx(-31.738459, abs=1e-6)
    assert episode.returns[0] > run(lambda state, time: ADD).returns[0]


def test_no_pair_of_thresholds_does_better_than_the_best_one_named() -> None:
    high, low = (grid.ravel() for grid in np.meshgrid(np.arange(50, 101.0), np.arange(0, 101.0)))
    for patience in (0.0, 100.0):
        returns = run(lambda state, time: legacy.threshold(state, high, low, patience), n=len(high)).returns  # noqa: B023
        best = {(high[i], low[i]) for i in np.flatnonzero(returns > returns.max() - 1e-9)}
        assert returns.max() == pytest.approx(-5.8681, abs=1e-6)
        assert (98.0, 91.0) in best


def test_the_optimum_of_the_published_trace() -> None:
    trace = legacy.influx("SINE_CURVE", 200, np.random.default_rng(0))
    best = legacy.optimum(trace)
    assert best.value == pytest.approx(-3.0948, abs=1e-9)
    replayed = run(lambda state, time: best.actions[time - 1], trace)
    assert replayed.returns[0] == pytest.approx(best.value, abs=1e-9)
    assert replayed.steps[0] == 200


@settings(deadline=None, derandomize=True, max_examples=15)
@given(st.lists(st.sampled_from([0, 500, 4350, 4400, 4437, 4524, 9000, 30_000, 45_000]), min_size=1, max_size=7))
def test_the_optimum_is_that_of_trying_everything(items: list[int]) -> None:
    trace = np.array([0.0, *items])
    plans = np.array(list(itertools.product((REMOVE, HOLD, ADD), repeat=len(items))))
    tried = run(lambda state, time: plans[:, time - 1], trace, n=len(plans), steps=len(items))
    best = legacy.optimum(trace)
    assert best.value == pytest.approx(tried.returns.max(), abs=1e-9)
    again = run(lambda state, time: best.actions[time - 1], trace, steps=len(items))
    assert again.returns[0] == pytest.approx(best.value, abs=1e-9)


@pytest.mark.parametrize("pattern", legacy.PATTERNS)
def test_nothing_beats_the_optimum_of_any_pattern(pattern: str) -> None:
    trace = legacy.influx(pattern, 60, np.random.default_rng(1))
    best = legacy.optimum(trace)
    rng = np.random.default_rng(2)
    tried = [
        run(best_two_thresholds, trace, steps=60).returns,
        run(lambda state, time: rng.integers(0, 3, 500), trace, n=500, steps=60).returns,
    ]
    assert best.value >= np.concatenate(tried).max() - 1e-9
    assert run(lambda s, t: best.actions[t - 1], trace, steps=60).returns[0] == pytest.approx(best.value, abs=1e-9)


@pytest.mark.parametrize("trace", [[1], [[0, 1]], [0, 0.5], [0, -1], [0, float("nan")]], ids=str)
def test_the_optimum_needs_whole_items(trace: list[Any]) -> None:
    with pytest.raises(ValueError, match="whole numbers of items"):
        legacy.optimum(np.array(trace))


# The dynamics, against the plainest form of them: one environment, Python numbers, a list of instances.


class Plain:
    """The order of operations, one environment at a time; `ages` holds (step of birth, dollars an hour)."""

    def __init__(self) -> None:
        self.time, self.pending, self.load, self.queue, self.dollars = 0, 0, 0, 0, 0.0
        self.ages: list[tuple[int, float]] = [(0, 87.0)] * 50

    def step(self, action: int, items: int) -> tuple[list[float], float, bool]:
        self.time += 1
        capacity = 87 * len(self.ages)
        waiting = items + self.queue
        processed = min(waiting, capacity)
        self.load, self.queue = math.ceil(processed / capacity * 100), waiting - processed
        for born, price in self.ages:
            if (self.time - born) % 12 == 0:
                self.dollars += price / 12 * (self.time - born)
        reward = 0.0
        if not 2 <= len(self.ages) + self.pending <= 100:
            reward -= 0.1
        elif self.pending > 0:
            self.ages.append((self.time, 0.192))
        elif self.pending < 0:
            self.ages.pop(0)
        self.pending = action - 1
        reward -= (1 - self.load / 100) * len(self.ages) / 100 + self.queue / (1 + self.queue)
        seen = [len(self.ages) / 100, self.load / 100, capacity, items, self.queue]
        return seen, reward, self.queue > 43_500


def drive(rng: np.random.Generator, lanes: int, steps: int) -> np.ndarray:
    """Return actions (steps, lanes), each lane leaning one way for long enough to hit a bound."""
    lean = rng.choice([REMOVE, HOLD, ADD], (1, lanes))
    return np.where(rng.random((steps, lanes)) < 0.6, lean, rng.integers(0, 3, (steps, lanes)))


def test_the_batched_form_is_the_plain_one() -> None:
    rng, lanes, steps = np.random.default_rng(3), 24, 150
    actions, items = drive(rng, lanes, steps), rng.integers(0, 6000, (steps, lanes))
    items[:, ::4] //= 10
    plain = [Plain() for _ in range(lanes)]
    state = legacy.start(lanes)
    counts, hit, ends = [state["instances"]], 0, 0
    for time in range(steps):
        before = {name: value.copy() for name, value in state.items()}
        after, reward, ended = legacy.step(state, actions[time], items[time].astype(float))
        assert all(np.array_equal(state[name], before[name]) for name in state), "step is pure"
        state = after
        counts.append(state["instances"])
        expected = [lane.step(int(actions[time, i]), int(items[time, i])) for i, lane in enumerate(plain)]
        np.testing.assert_allclose(legacy.observe(state), [seen for seen, _, _ in expected], rtol=0, atol=1e-12)
        np.testing.assert_allclose(reward, [value for _, value, _ in expected], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(ended, [over for _, _, over in expected])
        hit += int(np.sum((state["instances"] == counts[-2]) & (before["pending"] != 0)))
        ends += int(np.sum(ended))
    np.testing.assert_allclose(legacy.published_cost(np.array(counts)), [lane.dollars for lane in plain], rtol=1e-12)
    assert hit > 0
    assert ends > 0


def test_torch_runs_the_same_source() -> None:
    torch = pytest.importorskip("torch")
    actions = drive(np.random.default_rng(4), 8, 650)
    ours, theirs = legacy.start(8), legacy.start(8, like=torch.zeros(1))
    for action in actions:
        ours, reward, ended = legacy.step(ours, action)
        theirs, other_reward, other_ended = legacy.step(theirs, torch.asarray(action))
        np.testing.assert_allclose(legacy.observe(theirs).numpy(), legacy.observe(ours), rtol=0, atol=1e-12)
        np.testing.assert_allclose(other_reward.numpy(), reward, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(other_ended.numpy(), ended)
        np.testing.assert_array_equal(legacy.threshold(theirs).numpy(), legacy.threshold(ours))


def test_the_episode_ends_above_the_limit_of_the_queue_and_not_at_it() -> None:
    _, _, ended = legacy.step(legacy.start(2), np.array([HOLD, HOLD]), 4350.0 + 43_500.0 + np.array([0.0, 1.0]))
    assert ended.tolist() == [False, True]


@pytest.mark.parametrize("action", [-1, 3])
def test_an_action_that_is_none_is_refused(action: int) -> None:
    with pytest.raises(ValueError, match="an action is outside of 0 to 2"):
        legacy.step(legacy.start(2), np.array([1, action]))


# Arrivals.


def fork(pattern: str, time: int) -> int:
    """The deterministic patterns as the fork computes them, in its floating-point steps."""
    low, span = 500, 3850.0
    if pattern == "SINE_CURVE":
        return math.ceil((math.sin(time * 0.01) + 1) * 4350.0 / 2)
    if pattern == "STEADY":
        return int(low + span * 0.5)
    if pattern == "SINUSOIDAL":
        return math.ceil((math.sin(time * 0.01) + 1) * span / 2) + low
    base, top, phase = low + span * 0.3, low + span * 0.8, time % 500
    if phase >= 20:
        return int(base)
    if phase < 10:
        return int(base + (top - base) * (phase / 10.0))
    return int(top - (top - base) * ((phase - 10) / 10.0))


@pytest.mark.parametrize("pattern", ["SINE_CURVE", "STEADY", "SINUSOIDAL", "SPIKE"])
def test_deterministic_patterns_are_the_forks(pattern: str) -> None:
    expected = [fork(pattern, time) for time in range(1301)]
    np.testing.assert_array_equal(legacy.influx(pattern, 1300, np.random.default_rng(0)), expected)


@pytest.mark.parametrize(
    ("pattern", "mean", "spread"), [("POISSON", 2425, 2425**0.5), ("RANDOM", 2425, 3850 / 12**0.5)]
)
def test_random_patterns_keep_their_law_and_their_seed(pattern: str, mean: float, spread: float) -> None:
    trace = legacy.influx(pattern, 20_000, np.random.default_rng(5))
    np.testing.assert_array_equal(trace, legacy.influx(pattern, 20_000, np.random.default_rng(5)))
    assert not np.array_equal(trace, legacy.influx(pattern, 20_000, np.random.default_rng(6)))
    assert trace.min() >= 500
    assert trace.max() <= 4350
    assert np.all(trace == np.floor(trace))
    assert trace.mean() == pytest.approx(mean, abs=4 * spread / 20_000**0.5)
    assert trace.std() == pytest.approx(spread, rel=0.02)


def test_a_value_stays_for_the_change_rate() -> None:
    trace = legacy.influx("RANDOM", 25, np.random.default_rng(7), change_rate=10)
    np.testing.assert_array_equal(trace, np.repeat(trace[[0, 10, 20]], 10)[:26])
    assert len(set(trace)) == 3
    slow = legacy.influx("RANDOM", 200, np.random.default_rng(7), legacy.CHANGE_RATE)
    assert np.all(slow == slow[0])


def test_a_wrong_pattern_or_rate_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="pattern is 'SQUARE'; expected one of SINE_CURVE, STEADY"):
        legacy.influx("SQUARE", 10, np.random.default_rng(0))
    with pytest.raises(ValueError, match="change_rate is 0; expected 1 step or more"):
        legacy.influx("STEADY", 10, np.random.default_rng(0), 0)


# Gymnasium.


def test_the_batched_form_needs_no_gymnasium() -> None:
    code = "import sys; sys.modules['gymnasium'] = None; import rlscaler_sim.legacy"
    root = Path(legacy.__file__).parents[2]
    paths = {"PYTHONPATH": f"{root / 'core'}:{root / 'sim'}"}
    subprocess.run([sys.executable, "-c", code], check=True, env=paths)


@pytest.fixture(name="make")
def _make() -> Any:
    pytest.importorskip("gymnasium")
    from rlscaler_sim.legacy_env import LegacyScalingEnv

    return LegacyScalingEnv


@pytest.mark.parametrize("pattern", legacy.PATTERNS)
def test_gymnasium_and_stable_baselines3_accept_the_environment(make: Any, pattern: str) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(make(pattern), skip_render_check=True)
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(make(pattern))


@pytest.mark.parametrize("rate", [1, 7])
@pytest.mark.parametrize("pattern", legacy.PATTERNS)
def test_the_environment_is_the_batched_form(make: Any, pattern: str, rate: int) -> None:
    env = make(pattern, change_rate=rate)
    actions = drive(np.random.default_rng(8), 3, 130)
    for episode in range(3):
        seed = None if episode == 2 else 9
        before = env.np_random.bit_generator.state if seed is None else None
        seen, info = env.reset(seed=seed)
        rng = np.random.default_rng(9)
        if before is not None:
            rng.bit_generator.state = before
        trace = legacy.influx(pattern, len(actions), rng, rate)
        state = legacy.start(1, trace[0])
        assert info == {}
        counts = [state["instances"]]
        for time, action in enumerate(actions[:, episode], start=1):
            np.testing.assert_array_equal(seen, legacy.observe(state)[0].astype(np.float32))
            seen, reward, terminated, truncated, info = env.step(action)
            state, expected, ended = legacy.step(state, np.array([action]), trace[time : time + 1])
            counts.append(state["instances"])
            assert (reward, terminated, truncated) == (expected[0], ended[0], False)
            assert env.published_cost == legacy.published_cost(np.array(counts))[0]
            assert env.instance_cost == legacy.instance_cost(np.array(counts))[0]
            assert info == (
                {"published_cost": env.published_cost, "instance_cost": env.instance_cost} if ended[0] else {}
            )


def test_the_published_return_comes_out_of_the_environment_too(make: Any) -> None:
    env = make()
    seen, _ = env.reset(seed=0)
    assert env.published_cost == 0.0
    total = 0.0
    for _ in range(200):
        load, queue = seen[1] * 100, seen[4]
        action = ADD if load > 80 or queue > 100 else REMOVE if load < 40 and queue == 0 else HOLD
        seen, reward, terminated, truncated, _ = env.step(action)
        assert not terminated
        assert not truncated
        total += reward
    assert total == pytest.approx(-27.9537, abs=1e-6)
    assert env.published_cost == pytest.approx(579889.536, abs=1e-6)


def test_a_crash_terminates_and_stays_within_the_declared_space(make: Any) -> None:
    env = make()
    env.reset(seed=0)
    info: dict[str, float] = {}
    for time in range(1, 51):
        seen, _, terminated, truncated, info = env.step(REMOVE)
        assert seen in env.observation_space
        assert terminated == (time == 50)
        assert not truncated
    assert info["published_cost"] == pytest.approx(13_920.0)


def test_wrong_arguments_of_the_environment_are_refused_at_once(make: Any) -> None:
    with pytest.raises(ValueError, match="pattern is 'SQUARE'"):
        make("SQUARE")
    with pytest.raises(ValueError, match="change_rate is 0"):
        make(change_rate=0)
    with pytest.raises(ValueError, match=r"change_rate is 1\.5; expected a whole number"):
        make(change_rate=1.5)
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="outside of 0 to 2"):
        env.step(3)
    for wrong in (1.5, float("nan"), None, "1", [1, 2]):
        with pytest.raises(ValueError, match=r"an action is .*; expected 0 \(remove\), 1 \(hold\) or 2 \(add\)"):
            env.step(wrong)
