"""The guard: named cases, and what no proposal whatsoever can get past."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler import MetricLoss, Settings, guard
from rlscaler.arrays import State
from rlscaler.autoscaler import Autoscaler
from rlscaler.behavior import DEFAULT
from rlscaler.policy import Proposal, View
from rlscaler.reasons import Reason
from rlscaler.snapshot import Snapshot

NAN = float("nan")


@dataclass
class Says:
    """A policy that says what it is told to."""

    replicas: Any
    extra: dict[str, Any] = field(default_factory=dict)
    name: str = "says"

    def state(self, n: int) -> State:
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        full = {k: np.broadcast_to(np.asarray(v), view.demand.shape).copy() for k, v in self.extra.items()}
        replicas = np.broadcast_to(np.asarray(self.replicas, float), view.demand.shape).copy()
        return Proposal(replicas=replicas, **full), state


def decide(says: Any, *, extra: dict[str, Any] | None = None, about: dict[str, Any] | None = None, **snap: Any) -> Any:
    """Return the decision on one workload of capacity 10 that stands at 5 replicas."""
    policy = Says(says, extra or {})
    stated: dict[str, Any] = {"capacity_per_replica": 10.0} | (about or {})
    scaler = Autoscaler(policy, Settings(**stated), 1)
    reading = {"time": 1000.0, "load": 30.0, "ready": 5, "starting": 0, "desired": 5} | snap
    return scaler.decide(Snapshot(**reading))


CASES: dict[str, tuple[dict[str, Any], int, Reason]] = {
    "the proposal stands": ({"says": 7}, 7, Reason.DesiredWithinRange),
    "parts are rounded up": ({"says": 6.2}, 7, Reason.DesiredWithinRange),
    "the last bits of float32 are not a replica": ({"says": 7.0000003}, 7, Reason.DesiredWithinRange),
    "above the maximum": ({"says": 700}, 100, Reason.TooManyReplicas),
    "below the minimum": ({"says": 0, "about": {"min_replicas": 2, "floor": False}}, 2, Reason.TooFewReplicas),
    "a proposal of just the demand stands": ({"says": 3}, 3, Reason.DesiredWithinRange),
    "no less than the demand": ({"says": 1}, 3, Reason.ReactiveFloor),
    "no less than demand and backlog": ({"says": 1, "backlog": 1200.0}, 5, Reason.ReactiveFloor),
    "the floor can be off": ({"says": 1, "about": {"floor": False}}, 1, Reason.DesiredWithinRange),
    "an unknown load holds": ({"says": 9, "load": NAN}, 5, Reason.MetricsUnknown),
    "a negative load is unknown": ({"says": 9, "load": -1.0}, 5, Reason.MetricsUnknown),
    "an infinite load is unknown": ({"says": 9, "load": float("inf")}, 5, Reason.MetricsUnknown),
    "a stale load is unknown": ({"says": 1, "age": 600.0}, 5, Reason.MetricsUnknown),
    "an unknown load holds nobody back who is not to be held": (
        {"says": 9, "load": NAN, "about": {"holds": False}}, 9, Reason.DesiredWithinRange),
    "without any answer either, the count is held": (
        {"says": NAN, "load": NAN, "about": {"holds": False}}, 5, Reason.MetricsUnknown),
    "an unknown capacity holds": ({"says": 9, "about": {"capacity_per_replica": NAN}}, 5, Reason.CapacityUnknown),
    "an unknown capacity is no loss of metrics": (
        {"says": 9, "load": NAN, "about": {
            "capacity_per_replica": NAN, "loss": MetricLoss(after=0.0, action="Replicas", replicas=9)}},
        5, Reason.CapacityUnknown),
    "unknown replicas decide nothing": ({"says": 9, "ready": NAN, "desired": NAN}, -1, Reason.ReplicasUnknown),
    "desired is ready and starting where not told": ({"says": 9, "desired": NAN}, 9, Reason.DesiredWithinRange),
    "switched off stays off": ({"says": 9, "desired": 0, "ready": 0}, 0, Reason.ScalingDisabled),
    "from zero where zero is allowed": (
        {"says": 9, "desired": 0, "ready": 0, "about": {"min_replicas": 0}}, 9, Reason.DesiredWithinRange),
    "to zero where zero is allowed": (
        {"says": 0, "load": 0.0, "about": {"min_replicas": 0}}, 0, Reason.DesiredWithinRange),
    "the last bits of float32 are no first replica": (
        {"says": 1e-8, "load": 0.0, "about": {"min_replicas": 0}}, 0, Reason.DesiredWithinRange),
    "a negative proposal asks for none": (
        {"says": -3, "load": 0.0, "about": {"min_replicas": 0}}, 0, Reason.DesiredWithinRange),
    "above the bounds goes to the bound at once": (
        {"says": 150, "desired": 150, "ready": 150}, 100, Reason.TooManyReplicas),
    "a saturated completion counter is at least this much": (
        {"says": 5, "load": 50.0, "utilization": 1.0, "about": {"load_counts": "Completions"}},
        7, Reason.LoadSaturated),
    "a completion counter below saturation is what it says": (
        {"says": 5, "load": 50.0, "utilization": 0.96, "about": {"load_counts": "Completions"}},
        5, Reason.DesiredWithinRange),
    "without a utilization the demand tells of saturation": (
        {"says": 5, "load": 50.0, "about": {"load_counts": "Completions"}}, 7, Reason.LoadSaturated),
    "nothing is saturated where nothing is ready": (
        {"says": 5, "load": 30.0, "ready": 0, "about": {"load_counts": "Completions"}}, 5, Reason.DesiredWithinRange),
    "within the tolerance of behavior": ({"says": 5.4, "about": {"behavior": DEFAULT}}, 5, Reason.WithinTolerance),
    "the floor is beyond any tolerance": (
        {"says": 1, "load": 54.0, "about": {"behavior": DEFAULT}}, 6, Reason.ReactiveFloor),
    "beyond the tolerance of behavior": (
        {"says": 5.6, "about": {"behavior": DEFAULT}}, 6, Reason.DesiredWithinRange),
    "no tolerance keeps the first replica away": (
        {"says": 1, "load": 5.0, "desired": 0, "ready": 0, "about": {"min_replicas": 0, "behavior": DEFAULT}},
        1, Reason.DesiredWithinRange),
    "a policy that applied the tolerance is not asked twice": (
        {"says": 5.4, "extra": {"tolerated": True}, "about": {"behavior": DEFAULT}}, 6, Reason.DesiredWithinRange),
    "scale-down waits for the window": ({"says": 3, "about": {"behavior": DEFAULT}}, 5, Reason.ScaleDownStabilized),
    "scale-up is limited": ({"says": 90, "about": {"behavior": DEFAULT}}, 10, Reason.ScaleUpLimit),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_named_case(case: str) -> None:
    arguments, replicas, reason = CASES[case]
    decided = decide(**arguments)
    assert int(decided.replicas[0]) == replicas, decided.explain()
    assert int(decided.reasons[0]) & reason == reason, decided.explain()
    if reason == Reason.DesiredWithinRange:
        assert int(decided.reasons[0]) == 0, decided.explain()


@pytest.mark.parametrize("answer", [NAN, float("inf"), -float("inf")])
def test_no_answer_gives_way_to_the_rule(answer: float) -> None:
    decided = decide(answer)
    assert Reason.PolicyFailed & int(decided.reasons[0])
    assert decided.replicas[0] == np.ceil(decided.recommendation[0] - 1e-6) > 3


def test_where_the_rule_has_no_answer_either_the_count_is_held_and_no_window_remembers_it() -> None:
    says = Says(NAN)
    slow = replace(DEFAULT, up=replace(DEFAULT.up, window=60.0))
    scaler = Autoscaler(says, Settings(capacity_per_replica=10.0, behavior=slow), 1, fallback=says)

    def replicas(time: float) -> int:
        return int(scaler.decide(Snapshot(time=time, load=30.0, ready=5, starting=0, desired=5)).replicas[0])

    assert [replicas(time) for time in (0.0, 15.0, 30.0, 45.0)] == [5] * 4
    says.replicas = 8
    assert replicas(61.0) == 8, "the last recommendation, of the count that was found, is more than a window ago"


def test_where_the_rule_has_no_answer_either_the_floor_still_has_one() -> None:
    scaler = Autoscaler(Says(NAN), Settings(capacity_per_replica=10.0), 1, fallback=Says(NAN))
    decided = scaler.decide(Snapshot(time=0.0, load=90.0, ready=5, starting=0, desired=5))
    assert decided.replicas[0] == 9
    assert decided.reasons[0] & Reason.ReactiveFloor


def test_an_input_outside_of_the_training_range_gives_way_to_the_rule() -> None:
    decided = decide(50, extra={"trained": False})
    assert Reason.OutOfTrainingRange & int(decided.reasons[0])
    assert decided.replicas[0] == np.ceil(decided.recommendation[0] - 1e-6)
    assert decide(50, extra={"trained": False}, about={"fallback": False}).replicas[0] == 50
    within = decide(50, extra={"trained": True})
    assert (within.replicas[0], within.reasons[0]) == (50, 0)


def test_a_policy_that_raises_gives_way_to_the_rule_and_says_what_it_raised() -> None:
    class Broken(Says):
        def propose(self, view: View, state: State) -> tuple[Proposal, State]:
            raise KeyError("weights")

    scaler = Autoscaler(Broken(1), Settings(capacity_per_replica=10.0), 1)
    decided = scaler.decide(Snapshot(time=0.0, load=30.0, ready=5, starting=0, desired=5))
    assert decided.error == "KeyError: 'weights'"
    assert Reason.PolicyFailed & int(decided.reasons[0])
    assert decided.replicas[0] >= 3


@pytest.mark.parametrize(
    ("action", "stated", "after"),
    [("Hold", 0, 5), ("Replicas", 3, 3), ("Replicas", 9, 9), ("ReplicasIfHigher", 3, 5), ("ReplicasIfHigher", 9, 9),
     ("ReplicasIfLower", 3, 3), ("ReplicasIfLower", 9, 5)],
)  # fmt: skip
def test_metric_loss_holds_for_the_stated_time_and_then_does_as_stated(action: Any, stated: int, after: int) -> None:
    loss = MetricLoss(after=60.0, action=action, replicas=stated)
    scaler = Autoscaler(Says(1), Settings(capacity_per_replica=10.0, loss=loss), 1)
    seen = [
        int(scaler.decide(Snapshot(time=t, load=NAN, ready=5, starting=0, desired=5)).replicas[0])
        for t in (0.0, 15.0, 45.0, 59.0, 60.0, 75.0)
    ]
    assert seen == [5, 5, 5, 5, after, after]
    back = scaler.decide(Snapshot(time=90.0, load=45.0, ready=5, starting=0, desired=5))
    assert back.replicas[0] == 5
    again = scaler.decide(Snapshot(time=105.0, load=NAN, ready=5, starting=0, desired=5))
    assert again.replicas[0] == 5, "the clock of the loss starts again"


def test_patience_keeps_the_largest_proposal() -> None:
    policy = Says(20, {"patience": 60.0})
    scaler = Autoscaler(policy, Settings(capacity_per_replica=10.0, floor=False), 1)
    found = []
    for step, wanted in enumerate([20, 10, 12, 5, 5, 5, 5, 5, 5, 5, 5]):
        policy.replicas = wanted
        decided = scaler.decide(Snapshot(time=15.0 * step, load=30.0, ready=20, starting=0, desired=20))
        found.append(int(decided.replicas[0]))
        assert bool(decided.reasons[0] & Reason.Patience) == (found[-1] > wanted), "said where it keeps replicas alone"
    assert found == [20, 20, 20, 20, 20, 12, 12, 5, 5, 5, 5]


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=60),
    st.sampled_from([0.0, 15.0, 40.0, 60.0, 75.0, 120.0, 285.0, 1000.0]),
    st.randoms(use_true_random=False),
)
def test_patience_is_the_largest_within_it(wanted: list[int], patience: float, random: Any) -> None:
    """Beside a list of all proposals: exact as far as there is memory, and beyond it by a part of the patience."""
    times = np.cumsum([random.choice([15.0, 15.0, 15.0, 14.8, 15.2, 45.0]) for _ in wanted])
    memory = guard.unkept(1)
    part = patience / (guard.KEPT - 1)
    for step, now in enumerate(times):
        found = guard.patient(np, memory, times[[step]], np.array([float(wanted[step])]), np.array([patience]))[0]
        ages = now - times[: step + 1]
        largest = max(w for w, age in zip(wanted, ages, strict=False) if age <= patience)
        surely = max(w for w, age in zip(wanted, ages, strict=False) if age <= max(patience - part, 0.0))
        assert surely <= found <= largest
        if part <= 15.0:
            assert found == largest, "each is remembered"


def test_a_slow_fall_is_kept_for_most_of_a_long_patience() -> None:
    memory, patience = guard.unkept(2, 3), np.full((2, 3), 300.0)
    found = [
        guard.patient(np, memory, np.full((2, 3), 15.0 * step), np.full((2, 3), 100.0 - step), patience)
        for step in range(100)
    ]
    behind = np.array([each[1, 2] - (100.0 - step) for step, each in enumerate(found)])[20:]
    assert behind.max() == 20.0, "as much as falls in 300 s"
    assert behind.min() == 17.0, "what is remembered lies 60 s apart, and the next one holds an interval before"


def test_patience_keeps_replicas_and_asks_for_none() -> None:
    """A proposal that a bound cut off is not caught up with when the bound is gone."""
    policy = Says(50, {"patience": 60.0})
    scaler = Autoscaler(policy, Settings(capacity_per_replica=10.0, max_replicas=8), 1)
    first = scaler.decide(Snapshot(time=1000.0, load=30.0, ready=5, starting=0, desired=5))
    assert first.replicas.tolist() == [8]
    scaler.update([0], Settings(capacity_per_replica=10.0, max_replicas=100))
    policy.replicas = 4
    kept = scaler.decide(Snapshot(time=1015.0, load=30.0, ready=8, starting=0, desired=8))
    assert kept.replicas.tolist() == [8]
    assert kept.reasons[0] & Reason.Patience


def test_the_flap_budget_pauses_scale_down_only() -> None:
    policy = Says(5)
    scaler = Autoscaler(policy, Settings(capacity_per_replica=10.0, flap_budget=4, floor=False), 1)
    current, spent, lowered = 10, 0, 0
    for step in range(40):
        policy.replicas = 10 if step % 2 else 5
        decided = scaler.decide(Snapshot(time=15.0 * step, load=30.0, ready=current, starting=0, desired=current))
        held = bool(int(decided.reasons[0]) & Reason.FlapBudgetSpent)
        assert not held or policy.replicas < current == decided.replicas[0], "said only where a count is held"
        spent += held
        lowered += int(decided.replicas[0]) < current
        assert policy.replicas == 5 or decided.replicas[0] == 10, "scale-up is never held"
        current = int(decided.replicas[0])
    assert spent > 10
    assert lowered <= 4


TO_AND_FRO: list[tuple[float, float]] = [(0, 8), (15, 5), (30, 8), (45, 5), (60, 8)]
FLAPS: dict[str, tuple[list[tuple[float, float]], int]] = {
    "the first move is no turn": (TO_AND_FRO[:4], 5),
    "turns beyond the budget hold": ([*TO_AND_FRO, (75, 5)], 8),
    "they are forgotten at the rate of the budget, not sooner": ([*TO_AND_FRO, (3500, 5)], 8),
    "they are forgotten at the rate of the budget": ([*TO_AND_FRO, (3700, 5)], 5),
    "steps in one direction are no turns": ([(0, 9), (15, 8), (30, 7), (45, 6), (60, 5)], 5),
    "a count that stays is no turn": ([(0, 6), (15, 6), (30, 7), (45, 7), (60, 8), (75, 8), (90, 5)], 5),
}  # fmt: skip
"""(Seconds, proposal) beginning at 5 replicas with a budget of two turns in an hour, and where that ends."""


@pytest.mark.parametrize("case", FLAPS)
def test_turns_count_against_the_flap_budget(case: str) -> None:
    script, end = FLAPS[case]
    policy, current = Says(5), 5
    scaler = Autoscaler(policy, Settings(capacity_per_replica=10.0, flap_budget=2, floor=False), 1)
    for time, policy.replicas in script:
        decided = scaler.decide(Snapshot(time=time, load=30.0, ready=current, starting=0, desired=current))
        current = int(decided.replicas[0])
    assert current == end


readings = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 30.0, 1e9, -5.0, 1e308]))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    script=st.lists(st.tuples(readings, readings, readings, st.integers(0, 300), readings), min_size=1, max_size=12),
    low=st.integers(0, 20),
    span=st.integers(0, 80),
    behavior=st.sampled_from([None, DEFAULT]),
)
def test_no_policy_and_no_reading_gets_past_the_guard(
    script: list[tuple[float, float, float, int, float]], low: int, span: int, behavior: Any
) -> None:
    policy = Says(0)
    high = max(1, low + span)
    scaler = Autoscaler(
        policy, Settings(min_replicas=low, max_replicas=high, capacity_per_replica=10.0, behavior=behavior), 1
    )
    for step, (wanted, load, backlog, current, ready) in enumerate(script):
        policy.replicas = wanted
        decided = scaler.decide(
            Snapshot(time=15.0 * step, load=load, backlog=backlog, ready=ready, starting=0, desired=current)
        )
        replicas = int(decided.replicas[0])
        if current == 0 and low > 0:
            assert replicas == 0, "switched off by somebody"
            continue
        assert low <= replicas <= high, decided.explain()
        known = 0 <= load <= 1e15
        if not known and low <= current <= high:
            assert replicas == current, f"an unknown load changed the count: {decided.explain()}"
        if known and behavior is None and low <= current <= high:
            assert replicas >= min(high, np.ceil(load / 10.0 - 1e-4 * max(1.0, load))), decided.explain()
