"""The operator's decisions beside the core's: what is learned, what is slow, what fails beside a decision."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from rlscaler.arrays import State
from rlscaler.custom_resource import Resource
from rlscaler.learning import MOVE
from rlscaler.policies import load_policy
from rlscaler.policy import Policy, Proposal, View
from rlscaler.reasons import Reason
from rlscaler.rules.growth import Growth
from rlscaler_operator import checkpoint
from rlscaler_operator.deciding import Admission, Decider
from rlscaler_operator.estimating import Estimates, moved
from rlscaler_operator.model import Decision, Key, PolicyInUse, Readings
from rlscaler_operator.pools import BUDGET, EACH, LEAST_REST, NARROW, REST
from workload_accounts import resource, target

KEY = Key("shop", "web")
OTHER = Key("shop", "other")
IN_USE = PolicyInUse("growth-quantile")
BEGIN = 1_750_000_000.0
INTERVAL = 15.0
SERVED = 40.0
"""Requests/s that a replica serves in truth."""


def learning(**capacity: str) -> Resource:
    """Return a resource that leaves out what is not given."""
    metrics = {"load": {"query": "up"}, "utilization": {"query": "busy"}}
    return resource(capacity=capacity, metrics=metrics)


def day(decider: Decider, hours: float, begin: float = BEGIN, key: Key = KEY) -> Iterator[Decision]:
    """Let a workload live: a load that swings, four replicas, and utilization as they really have it."""
    rng = np.random.default_rng(5)
    for tick in range(int(hours * 3600.0 / INTERVAL)):
        now = begin + tick * INTERVAL
        load = SERVED * 4.0 * (0.5 + 0.25 * np.sin(now / 600.0)) * rng.normal(1.0, 0.02)
        readings = Readings(now, load=load, utilization=load / (4.0 * SERVED))
        yield decider.decide({key: now}, {key: readings}, {key: target()})[key]


def test_a_capacity_that_is_left_out_is_learned_and_used() -> None:
    """Until it is known the count is held; then decisions use it."""
    decider = Decider()
    decider.put(KEY, learning(startup="60s"), load_policy("growth-quantile"), IN_USE)
    decisions = list(day(decider, 3.0))
    assert decisions[0].bits & Reason.CapacityUnknown
    assert np.isnan(decisions[0].capacity)
    assert "not known yet" in decisions[0].learning
    assert not decisions[-1].bits & Reason.CapacityUnknown
    assert decisions[-1].capacity == pytest.approx(SERVED, rel=0.1)
    assert decisions[-1].startup == 60.0
    assert "requests/s at full use" in decisions[-1].learning


def test_what_is_stated_is_not_learned() -> None:
    """A capacity in the spec stays, whatever the readings say."""
    decider = Decider()
    decider.put(KEY, learning(perReplica="10", startup="60s"), load_policy("growth-quantile"), IN_USE)
    *_, last = day(decider, 2.0)
    assert last.capacity == 10.0
    assert last.learning == ""


def test_a_capacity_that_is_stated_too_high_is_told_with_the_factor() -> None:
    """The settings stay as stated, and more is asked for by what the readings say."""
    decider = Decider()
    decider.put(KEY, learning(perReplica="57", startup="60s"), load_policy("growth-quantile"), IN_USE)
    first, *_, last = day(decider, 2.0)
    assert not first.bits & Reason.CapacityOverstated
    assert first.overstated == 1.0
    assert last.bits & Reason.CapacityOverstated
    assert last.overstated == pytest.approx(57.0 / SERVED, rel=0.03)
    assert last.capacity == 57.0


def test_an_objective_that_is_not_kept_is_told_with_what_is_held_for_it() -> None:
    decider = Decider()
    stated = resource(capacity={"perReplica": "30", "startup": "60s"}, objective={"target": "99.9", "window": "24h"})
    decider.put(KEY, stated, load_policy("growth-quantile"), IN_USE)
    first, *rest, last = day(decider, 2.0)
    assert not first.bits & Reason.ObjectiveMissed
    assert math.isnan(first.late), "nothing is known yet"
    assert any(each.late > 0.0 for each in rest if not each.bits & Reason.ObjectiveMissed), "told while it is kept, too"
    assert last.bits & Reason.ObjectiveMissed
    assert last.late > 0.001
    assert 1.0 < last.spare <= 2.0


def test_new_settings_keep_what_is_learned() -> None:
    """Editing a resource does not send it back to CapacityUnknown; stating the capacity ends the learning."""
    decider = Decider()
    decider.put(KEY, learning(startup="60s"), load_policy("growth-quantile"), IN_USE)
    *_, last = day(decider, 3.0)
    edited = resource(capacity={"startup": "60s"}, metrics={"load": {"query": "up"}, "utilization": {"query": "busy"}},
                      minReplicas=3)  # fmt: skip
    decider.put(KEY, edited, load_policy("growth-quantile"), IN_USE)
    (again,) = [next(iter(day(decider, 1.0, BEGIN + 3.0 * 3600.0)))]
    assert again.capacity == pytest.approx(last.capacity, rel=MOVE)
    decider.put(KEY, learning(perReplica="25", startup="60s"), load_policy("growth-quantile"), IN_USE)
    assert next(iter(day(decider, 1.0, BEGIN + 4.0 * 3600.0))).capacity == 25.0


def reread(factor: float, hours: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the last hour of `day` as another query tells it: times and loads (T,)."""
    now = BEGIN + hours * 3600.0
    times = np.arange(now - 3600.0, now, INTERVAL) + 7.0  # at other moments of the intervals
    return times, factor * SERVED * 4.0 * (0.5 + 0.25 * np.sin(times / 600.0))


def learned_once() -> tuple[Decider, float]:
    """Return a decider that has learned what a replica serves, and that capacity."""
    decider = Decider()
    decider.put(KEY, learning(startup="60s"), load_policy("growth-quantile"), IN_USE)
    *_, last = day(decider, 3.0)
    return decider, last.capacity


def next_capacity(decider: Decider) -> float:
    return next(iter(day(decider, 1.0, BEGIN + 3.0 * 3600.0))).capacity


@pytest.mark.parametrize("factor", [60.0, 1.0 / 60.0, 1.3])
def test_what_is_learned_goes_along_with_the_unit_of_the_load(factor: float) -> None:
    """A query in requests/min in place of requests/s would else ask for 60 times the replicas, or for a 60th."""
    decider, before = learned_once()
    decider.forget_past([KEY])
    assert decider.measure_anew({KEY: reread(factor)}) == {KEY: pytest.approx(factor, rel=0.05)}
    assert next_capacity(decider) == pytest.approx(factor * before, rel=0.05)
    memory = decider.memory([KEY])
    fresh = Decider()
    fresh.put(KEY, learning(startup="60s"), load_policy("growth-quantile"), IN_USE)
    fresh.recall(memory[0])
    assert next_capacity(fresh) == pytest.approx(factor * before, rel=0.05)
    assert decider.measure_anew({KEY: reread(1.0)}) == {}, "once for each change"


def test_a_load_is_measured_though_the_interval_was_changed_too() -> None:
    decider, before = learned_once()
    decider.forget_past([KEY])
    metrics = {"load": {"query": "up"}, "utilization": {"query": "busy"}}
    slower = resource(capacity={"startup": "60s"}, metrics=metrics, interval="60s")
    decider.put(KEY, slower, load_policy("growth-quantile"), IN_USE)
    times, loads = reread(60.0)
    assert decider.measure_anew({KEY: (times[::4], loads[::4])}) == {KEY: pytest.approx(60.0, rel=0.05)}
    assert next_capacity(decider) == pytest.approx(60.0 * before, rel=0.05)


def test_a_load_that_is_told_in_other_words_changes_nothing_that_is_learned() -> None:
    decider, before = learned_once()
    decider.forget_past([KEY])
    assert decider.measure_anew({KEY: reread(1.01)}) == {KEY: 1.0}
    assert next_capacity(decider) == pytest.approx(before, rel=MOVE)


NO_MEASURE = {
    "it has no past": (np.zeros(0), np.zeros(0)),
    "it is unknown": (reread(1.0)[0], np.full(240, np.nan)),
    "it was zero": (reread(1.0)[0], np.zeros(240)),
    "it has nothing to do with the former": (reread(1.0)[0], np.geomspace(1.0, 5000.0, 240)),
    "it is of another day": (reread(1.0)[0] - 86400.0, reread(1.0)[1]),
}


@pytest.mark.parametrize("past", NO_MEASURE.values(), ids=NO_MEASURE)
def test_what_is_learned_of_a_load_that_cannot_be_compared_is_forgotten(past: tuple[np.ndarray, np.ndarray]) -> None:
    """The target is then held until the capacity is learned anew; a wrong one would scale it to a bound."""
    decider, _ = learned_once()
    decider.forget_past([KEY])
    (factor,) = decider.measure_anew({KEY: past}).values()
    assert np.isnan(factor)
    decision = next(iter(day(decider, 1.0, BEGIN + 3.0 * 3600.0)))
    assert np.isnan(decision.capacity)
    assert decision.bits & Reason.CapacityUnknown
    *_, last = day(decider, 3.0, BEGIN + 3.0 * 3600.0 + INTERVAL)
    assert last.capacity == pytest.approx(SERVED, rel=0.1)


def test_of_a_load_that_is_not_another_one_nothing_is_measured_anew() -> None:
    decider, before = learned_once()
    assert decider.measure_anew({KEY: reread(60.0)}) == {}
    assert next_capacity(decider) == pytest.approx(before, rel=MOVE)
    decider.put(KEY, learning(perReplica="25", startup="60s"), load_policy("growth-quantile"), IN_USE)
    decider.forget_past([KEY])
    assert decider.measure_anew({KEY: reread(60.0)}) == {}
    assert next_capacity(decider) == 25.0


def test_what_is_learned_outlives_the_process() -> None:
    """A process that takes over from a checkpoint decides with the capacity at once."""
    before = Decider()
    before.put(KEY, learning(startup="60s"), load_policy("growth-quantile"), IN_USE)
    *_, last = day(before, 3.0)
    kept, problem = checkpoint.unpacked(checkpoint.packed(before.memory([KEY]), {}), "test")
    assert problem is None
    after = Decider()
    after.put(KEY, learning(startup="60s"), load_policy("growth-quantile"), IN_USE)
    for batch in checkpoint.joined(kept, last.time):
        after.recall(batch)
    first = next(iter(day(after, 1.0, last.time + INTERVAL)))
    assert first.capacity == pytest.approx(last.capacity, rel=MOVE)


def test_ticks_that_are_decided_again_teach_nothing() -> None:
    """A tick that is decided again lacks all but the load, so it must not count as a reading."""
    decider = Decider()
    decider.put(KEY, learning(startup="60s"), load_policy("growth-quantile"), IN_USE)
    readings = Readings(BEGIN, load=100.0, utilization=0.5)
    decider.decide({KEY: BEGIN}, {KEY: readings}, {KEY: target()}, live=False)
    fresh = Decider()
    fresh.put(KEY, learning(startup="60s"), load_policy("growth-quantile"), IN_USE)
    for ours, theirs in zip(decider.memory([KEY]), fresh.memory([KEY]), strict=True):
        for name, array in ours.parts["learned"].items():
            np.testing.assert_array_equal(array, theirs.parts["learned"][name])


@pytest.mark.parametrize(
    ("known", "used", "told"),
    [
        (np.nan, 60.0, False),
        (61.0, 60.0, False),
        (66.0, 60.0, True),
        (54.0, 60.0, True),
        (40.0, np.nan, True),
        (np.nan, np.nan, False),
        (5.0, 0.0, True),
    ],
)
def test_estimates_are_used_where_they_have_moved(known: float, used: float, told: bool) -> None:
    """An unknown estimate never replaces a value; a known one does beyond noise, or where there was none."""
    assert moved(np.array([known]), np.array([used])).tolist() == [told]


def test_rows_of_estimates_come_and_go() -> None:
    """A row that is used again knows nothing of the workload before it, and many come and go unharmed."""
    estimates = Estimates()
    keys = [Key("shop", f"w{number}") for number in range(40)]
    for key in keys:
        estimates.put(key, learning())
    for tick in range(20):
        now = np.full(40, BEGIN + tick * INTERVAL)
        counts = np.full(40, 4.0)
        estimates.record(
            keys,
            {
                "time": now, "load": 90.0 + 10.0 * np.arange(40), "utilization": np.full(40, 0.6), "ready": counts,
                "starting": 0.0 * counts, "desired": counts,
            },
        )  # fmt: skip
    told = estimates.memory(keys)
    for key in keys[::2]:
        estimates.drop(key)
        estimates.drop(key)
    new = [Key("shop", f"n{number}") for number in range(20)]
    for key in new:
        estimates.put(key, learning())
    kept = estimates.memory(keys[1::2])
    for name, array in told.items():
        np.testing.assert_array_equal(kept[name], array[1::2])
    fresh = Estimates()
    fresh.put(KEY, learning())
    for name, array in estimates.memory(new).items():
        np.testing.assert_array_equal(array, np.repeat(fresh.memory([KEY])[name], 20, axis=0))
    assert keys[0] not in estimates
    assert keys[1] in estimates


@dataclass(slots=True)
class Slow:
    """A policy that takes time; `timer` is the clock that it takes it from."""

    name: str = "slow"
    takes: float = 0.0
    now: float = 0.0
    asked: int = field(default=0, compare=False)
    rule: Policy = field(default_factory=Growth)

    def state(self, n: int) -> State:
        return self.rule.state(n)

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        self.asked += 1
        self.now += self.takes
        return self.rule.propose(view, state)


def decided(decider: Decider, now: float) -> Decision:
    """Return one decision about a steady load."""
    return decider.decide({KEY: now}, {KEY: Readings(now, load=132.0)}, {KEY: target()})[KEY]


def test_a_slow_policy_gives_way_to_the_rule_and_is_tried_again() -> None:
    """It rests for many times what it took, says so, and decides again when it has become fast."""
    policy = Slow()
    decider = Decider(timer=lambda: policy.now)
    decider.put(KEY, resource(), policy, PolicyInUse("slow", "sha256:1"))
    policy.takes = BUDGET + EACH
    assert not decided(decider, BEGIN).bits & Reason.PolicyFailed
    policy.takes = 4.0
    late = decided(decider, BEGIN + 15.0)
    assert not late.bits & Reason.PolicyFailed, "what it answered, late as it is, is used"
    asked = policy.asked
    rests = decided(decider, BEGIN + 30.0)
    assert policy.asked == asked
    assert rests.bits & Reason.PolicyFailed
    assert "took 4 s" in rests.error
    assert rests.replicas >= 2
    rule = Decider()
    rule.put(KEY, resource(), load_policy("growth-quantile"), IN_USE)
    *_, alone = [decided(rule, BEGIN + 15.0 * tick) for tick in range(3)]
    assert rests.recommendation == alone.recommendation
    assert rests.replicas == alone.replicas
    policy.takes, policy.now = 0.0, policy.now + max(LEAST_REST, REST * 4.0)
    assert not decided(decider, BEGIN + 120.0).bits & Reason.PolicyFailed
    assert policy.asked == asked + 1


def test_the_rule_itself_is_never_rested() -> None:
    """There is nothing that could decide instead."""
    now = [0.0]

    def timer() -> float:
        now[0] += 100.0
        return now[0]

    decider = Decider(timer=timer)
    decider.put(KEY, resource(), load_policy("growth-quantile"), IN_USE)
    for tick in range(3):
        assert not decided(decider, BEGIN + 15.0 * tick).bits & Reason.PolicyFailed


def test_a_comparison_that_fails_leaves_the_decision_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Shadow's estimate is worth nothing beside a decision that is late or missing."""

    def broken(*_: Any, **__: Any) -> None:
        raise FloatingPointError("comparison")

    with_it, without = Decider(), Decider()
    for decider in (with_it, without):
        decider.put(KEY, resource(), load_policy("growth-quantile"), IN_USE)
    with_it.compare(KEY, True)
    monkeypatch.setattr("rlscaler_operator.comparison.Comparison.advance", broken)
    assert decided(with_it, BEGIN) == decided(without, BEGIN)
    assert "comparison" in caplog.text
    assert with_it.comparison(KEY) is None


def test_many_workloads_are_admitted_in_linear_time_and_little_memory() -> None:
    """Adding a workload copies no other: the arrays grow by eighths."""
    decider = Decider()
    made = resource()
    for number in range(600):
        decider.put(Key("shop", f"w{number}"), made, load_policy("growth-quantile"), IN_USE)
    scaler, _ = decider.home(Key("shop", "w0")) or (None, 0)
    assert scaler is not None
    assert 600 <= len(scaler.keys) <= 600 * 9 / 8
    assert len(scaler) == 600


SPECS: dict[str, dict[str, Any]] = {
    "plain": {},
    "another interval and capacity": {"interval": "30s", "capacity": {"perReplica": "20", "startup": "15s"}},
    "bounds and objective": {"minReplicas": 3, "maxReplicas": 7, "objective": {"latency": "2s", "target": "99"}},
    "a fallback and completions": {
        "onMetricLoss": {"after": "60s", "action": "Replicas", "replicas": 5},
        "metrics": {"load": {"query": "up", "counts": "Completions"}},
    },
    "HPA's behaviour": {"behavior": {}},
    "a long window": {"interval": "5s", "behavior": {"scaleDown": {"stabilizationWindowSeconds": 3600}}},
}


def test_workloads_that_are_admitted_together_are_decided_as_those_admitted_one_by_one() -> None:
    together, alone = Decider(timer=lambda: 0.0), Decider(timer=lambda: 0.0)
    admissions = [
        Admission(Key("shop", name), resource(f"w{number}", **spec), load_policy("growth-quantile"), IN_USE)
        for number, (name, spec) in enumerate(SPECS.items())
    ]
    together.put_all(admissions)
    for each in admissions:
        alone.put(*each)
    keys = [each.key for each in admissions]
    rng = np.random.default_rng(5)
    for tick in range(60):
        loads = dict(zip(keys, rng.uniform(20.0, 600.0, len(keys)), strict=True))
        made = [tick_of(decider, loads, BEGIN + 30.0 * tick) for decider in (together, alone)]
        assert made[0] == made[1]


def tick_of(decider: Decider, loads: Mapping[Key, float], now: float) -> dict[Key, Decision]:
    """Decide for targets of 4 replicas."""
    due = dict.fromkeys(loads, now)
    return decider.decide(
        due, {key: Readings(now, load) for key, load in loads.items()}, dict.fromkeys(loads, target())
    )


def test_one_that_looks_back_for_an_hour_costs_the_others_no_memory() -> None:
    decider = Decider()
    policy, wide = load_policy("growth-quantile"), {"interval": "4s", **LONG}
    decider.put_all([Admission(Key("shop", f"w{i}"), resource(), policy, IN_USE) for i in range(20)])
    decider.put(KEY, resource(**wide), policy, IN_USE)
    assert [len(batch.keys) for batch in decider.memory([*decider.keys])] == [20, 1]
    scaler, _ = decider.home(Key("shop", "w0")) or (None, 0)
    assert scaler is not None
    assert sum(array.nbytes for array in scaler.memory([0], ["guard"])["guard"].values()) < NARROW


LONG: dict[str, Any] = {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 3600}}}


@pytest.mark.parametrize("policy", ["default", "keda", "lcp"])
def test_a_window_that_is_widened_and_narrowed_again_forgets_nothing(policy: str) -> None:
    """Whoever moves among pools decides as one whose neighbours were as wide from the start, so that nobody moves."""
    moving, still = Decider(timer=lambda: 0.0), Decider(timer=lambda: 0.0)
    short: dict[str, Any] = {"interval": "4s", "behavior": {"scaleDown": {"stabilizationWindowSeconds": 120}}}
    specs = [short, short | LONG, short]
    rng = np.random.default_rng(7)
    loads, now = 50.0 * rng.integers(1, 12, 120), BEGIN
    with pytest.MonkeyPatch.context() as patch:
        for spec in specs:
            for decider, narrow in ((moving, NARROW), (still, 10**9)):
                patch.setattr("rlscaler_operator.pools.NARROW", narrow)
                decider.put(KEY, resource(**spec), load_policy(policy), IN_USE)
            for load in loads:
                now += 4.0
                assert tick_of(moving, {KEY: float(load)}, now) == tick_of(still, {KEY: float(load)}, now)
