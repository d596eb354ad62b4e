"""What an autoscaler remembers of a row goes with it: to another autoscaler, another policy, another interval."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler import Autoscaler, Settings, Snapshot
from rlscaler.arrays import State
from rlscaler.behavior import DEFAULT, Behavior, ScalingPolicy, ScalingRules
from rlscaler.memory import condensed
from rlscaler.policies import load_policy

LONG = Behavior(
    up=ScalingRules(60.0, "Min", (ScalingPolicy("Pods", 3, 90.0), ScalingPolicy("Percent", 50, 1800.0))),
    down=ScalingRules(3600.0, "Max", (ScalingPolicy("Percent", 10, 120.0),), tolerance=0.0),
)
KINDS: list[dict[str, Any]] = [
    {"capacity_per_replica": 10.0},
    {"capacity_per_replica": 10.0, "behavior": DEFAULT},
    {"capacity_per_replica": 7.0, "behavior": LONG, "flap_budget": 2.0},
    {"capacity_per_replica": 10.0, "behavior": Behavior(DEFAULT.up, LONG.down), "max_replicas": 25},
]


class Driven:
    """An autoscaler with one row, a load of its own and writes that may fail."""

    def __init__(self, scaler: Autoscaler, row: int, seed: int, interval: float = 15.0) -> None:
        self.scaler, self.row, self.seed, self.interval, self.current = scaler, row, seed, interval, 10

    def tick(self, step: int) -> tuple[int, int, str, str]:
        rng = np.random.default_rng([self.seed, step])
        load = 150.0 * np.exp(np.sin(step / 9.0) + 0.3 * rng.standard_normal())
        snapshot = Snapshot(
            time=1.7e9 + self.interval * step + rng.uniform(0.0, 2.0),
            load=np.nan if rng.random() < 0.05 else load,
            backlog=rng.uniform(0.0, 20.0),
            ready=self.current,
            starting=0,
            desired=self.current,
        )
        found = self.scaler.decide(snapshot, [self.row])
        if rng.random() < 0.1:
            self.scaler.write_failed([self.row])
        else:
            self.current = int(found.replicas[0])
        return int(found.replicas[0]), int(found.reasons[0]), str(found.proposal[0]), str(found.recommendation[0])


def crowded(policy: str, kind: int, others: list[int]) -> tuple[Autoscaler, int]:
    """Return an autoscaler with rows of other kinds around the one of the kind, and its row."""
    scaler = Autoscaler(policy)
    for place, other in enumerate(others):
        scaler.add([f"other {place}"], Settings(**KINDS[other]))
    row = int(scaler.add(["mine"], Settings(**KINDS[kind]))[0])
    scaler.add(["last"], Settings(**KINDS[(kind + 1) % len(KINDS)]))
    return scaler, row


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    policy=st.sampled_from(["growth-quantile", "lcp", "keda", "hpa"]),
    kind=st.integers(0, len(KINDS) - 1),
    before=st.lists(st.integers(0, len(KINDS) - 1), max_size=3),
    after=st.lists(st.integers(0, len(KINDS) - 1), max_size=3),
    moved_at=st.integers(0, 60),
    condense=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_row_that_moves_decides_on_to_the_bit(
    policy: str, kind: int, before: list[int], after: list[int], moved_at: int, condense: bool, seed: int
) -> None:
    stays = Driven(*crowded(policy, kind, before), seed)
    moves = Driven(*crowded(policy, kind, before), seed)
    for step in range(moved_at):
        assert stays.tick(step) == moves.tick(step)
    there, row = crowded(policy, kind, after)
    memory = moves.scaler.memory([moves.row])
    if condense:
        now = np.array([1.7e9 + 15.0 * moved_at])
        memory["guard"] = condensed(memory["guard"], moves.scaler.settings([moves.row]), now)
    there.recall([row], memory)
    moves.scaler.remove([moves.row])
    moves.scaler, moves.row = there, row
    for step in range(moved_at, moved_at + 60):
        assert stays.tick(step) == moves.tick(step), f"step {step}"


def test_a_condensed_memory_is_narrow_and_says_the_same_again() -> None:
    scaler, row = crowded("default", 1, [2, 3])
    driven = Driven(scaler, row, 5)
    for step in range(300):
        driven.tick(step)
    guard, own = scaler.memory([row])["guard"], scaler.settings([row])
    now = np.array([1.7e9 + 15.0 * 300])
    once = condensed(guard, own, now)
    assert guard["recommended_time"].shape == (1, 483)
    assert once["recommended_time"].shape == (1, 43)
    assert 20 <= np.isfinite(once["recommended_time"]).sum() <= 22, "300 s of decisions"
    for name, array in condensed(once, own, now).items():
        np.testing.assert_array_equal(array, once[name], err_msg=name)


def test_another_policy_takes_over_history_and_guard() -> None:
    own, other = Driven(*crowded("lcp", 1, []), 3), Driven(*crowded("growth-quantile", 1, []), 3)
    for step in range(40):
        own.tick(step)
        other.tick(step)
    guard = own.scaler.memory([own.row], ["guard"])["guard"]
    other.scaler.recall([other.row], {"guard": guard})
    other.current = own.current
    own.scaler.follow(load_policy("growth-quantile"))
    for step in range(40, 80):
        assert own.tick(step) == other.tick(step), f"step {step}"


def state_of(scaler: Autoscaler, row: int) -> State:
    return scaler.memory([row], ["history"])["history"]


@pytest.mark.parametrize(("old", "new"), [(15.0, 30.0), (15.0, 5.0), (30.0, 15.0), (10.0, 15.0), (60.0, 15.0)])
def test_history_goes_on_at_another_interval(old: float, new: float) -> None:
    about: dict[str, Any] = {"capacity_per_replica": 10.0}
    changed, fresh = (Autoscaler("default", Settings(interval=i, **about), 2) for i in (old, new))

    def load(time: np.ndarray) -> np.ndarray:
        return 200.0 + 100.0 * np.sin(time / 900.0)

    end = 86_400.0
    for scaler, interval in ((changed, old), (fresh, new)):
        times = np.arange(end - 7200.0, end, interval)
        scaler.fill([0, 1], times, np.tile(load(times), (2, 1)))
    changed.update([0, 1], Settings(interval=new, **about))
    times = np.arange(end, end + 1200.0, new)
    for scaler in (changed, fresh):
        scaler.fill([0, 1], times, np.tile(load(times), (2, 1)))
    mine, theirs = state_of(changed, 1), state_of(fresh, 1)
    np.testing.assert_array_equal(mine["slot"], theirs["slot"])
    hour = int(3600 / new)
    newest = (mine["slot"][0] - np.arange(hour)) % 720
    np.testing.assert_allclose(mine["load"][0, newest], theirs["load"][0, newest], rtol=0.03)
    assert (mine["classes"][0, newest] >= 0).mean() > 0.98, "the samples are known ones"
    snapshot = Snapshot(time=end + 1200.0, load=load(np.array(end + 1200.0)), ready=20, starting=0, desired=20)
    a, b = changed.decide(snapshot), fresh.decide(snapshot)
    np.testing.assert_allclose(a.proposal, b.proposal, rtol=0.05)


def test_history_read_back_equals_history_seen_to_the_bit() -> None:
    about = Settings(capacity_per_replica=10.0, interval=[15.0, 30.0, 15.0])
    rng = np.random.default_rng(4)
    loads = 200 * np.exp(0.2 * rng.standard_normal((3, 300)))
    loads[1, 50:70] = np.nan
    seen, read = Autoscaler("default", about, 3), Autoscaler("default", about, 3)
    for t in range(300):
        seen.decide(Snapshot(time=30.0 * t, load=loads[:, t], ready=20, starting=0, desired=20))
    times = 30.0 * np.arange(300)
    for begin in range(0, 300, 50):
        read.fill(np.arange(3), times[begin : begin + 50], loads[:, begin : begin + 50])
    mine, theirs = seen.memory(range(3))["history"], read.memory(range(3))["history"]
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_memory_that_does_not_fit_is_refused_whole() -> None:
    scaler = Autoscaler("lcp", Settings(capacity_per_replica=1.0), 2)
    other = Autoscaler("keda", Settings(capacity_per_replica=1.0), 2)
    before = scaler.memory([0, 1])
    memory = other.memory([0, 1])
    with pytest.raises(ValueError, match="memory of the policy has bool of shape") as refused:
        scaler.recall([0, 1], memory)
    assert "for active; expected nothing" in str(refused.value)
    with pytest.raises(ValueError, match=r"int8 of shape \(2,\) for direction; expected int8 of shape \(1,\)"):
        scaler.recall([0], {"guard": memory["guard"]})
    with pytest.raises(ValueError, match="memory of the guard is not whole: KeyError"):
        scaler.recall([0, 1], {"guard": {}})
    for part, state in scaler.memory([0, 1]).items():
        for name, array in state.items():
            np.testing.assert_array_equal(array, before[part][name], err_msg=name)


def test_reserved_rows_are_used_and_decide_as_any() -> None:
    plain, roomy = (Autoscaler("default", Settings(**KINDS[2]), 1) for _ in range(2))
    roomy.reserve(5)
    for scaler in (plain, roomy):
        scaler.add(["a", "b"], Settings(**KINDS[1]))
    assert len(roomy) == 3
    assert len(roomy.keys) == 6
    for step in range(30):
        snapshot = Snapshot(time=15.0 * step, load=100.0 + 9.0 * step, ready=10, starting=0, desired=10)
        a, b = plain.decide(snapshot), roomy.decide(snapshot)
        np.testing.assert_array_equal(a.replicas, b.replicas)
        np.testing.assert_array_equal(a.proposal, b.proposal)


def test_what_is_learned_is_decided_with() -> None:
    scaler = Autoscaler("default", Settings(), 2)
    snapshot = Snapshot(time=0.0, load=100.0, ready=5, starting=0, desired=5)
    assert scaler.decide(snapshot).replicas.tolist() == [5, 5]
    scaler.learn([1], capacity_per_replica=4.0, startup=90.0)
    assert scaler.settings([0, 1])["startup"].tolist() == [60.0, 90.0]
    held, grown = scaler.decide(Snapshot(time=15.0, load=100.0, ready=5, starting=0, desired=5)).replicas.tolist()
    assert held == 5
    assert grown >= 25
    with pytest.raises(ValueError, match="capacity_per_replica is -1"):
        scaler.learn([1], capacity_per_replica=-1.0)


def test_a_write_that_failed_is_no_scale_event() -> None:
    """Somebody else's change after a failed write of ours is not taken for ours."""
    limited = Behavior(ScalingRules(0.0, "Max", (ScalingPolicy("Pods", 4, 600.0),), 0.0), DEFAULT.down)
    told, untold = (Autoscaler("default", Settings(capacity_per_replica=10.0, behavior=limited), 1) for _ in range(2))
    first = Snapshot(time=0.0, load=900.0, ready=10, starting=0, desired=10)
    assert [int(scaler.decide(first).replicas[0]) for scaler in (told, untold)] == [14, 14]
    told.write_failed([0])
    changed = Snapshot(time=15.0, load=900.0, ready=12, starting=0, desired=12)
    assert [int(scaler.decide(changed).replicas[0]) for scaler in (told, untold)] == [16, 12]
