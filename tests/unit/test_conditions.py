"""The conditions that a person on call reads: what each case says, and how they change over time."""

import ast
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rlscaler_operator
from rlscaler import prometheus_faults
from rlscaler.reasons import Reason
from rlscaler.resource_status import CONDITION_TYPES
from rlscaler_operator.condition_reasons import MEANINGS
from rlscaler_operator.conditions import LONGEST, conditions, mode_in_force
from rlscaler_operator.model import Account, Note, PolicyInUse, Readings
from rlscaler_operator.timestamps import seconds_of, stamp
from workload_accounts import NOON, NOTHING, account, decision, later, target, workload

LOAD = "spec.metrics.load"


def found(given_account: Account, previous: Any = ()) -> dict[str, dict[str, Any]]:
    """Return the conditions by type."""
    return {each["type"]: each for each in conditions(given_account, previous, given_account.time)}


def unread(reason: str, message: str, *more: tuple[str, Note], bits: Reason = Reason.MetricsUnknown) -> Account:
    """Return an account whose load is unknown."""
    problems = {LOAD: Note(reason, message), **dict(more)}
    return account(
        readings=Readings(time=NOON, problems=problems),
        decision=decision(bits=int(bits), demand=NOTHING, proposal=NOTHING),
    )


def of_bits(*bits: Reason, **fields: Any) -> Account:
    return account(decision=decision(bits=int(sum(bits)), **fields))


class Case(NamedTuple):
    """What one condition should say: status, reason, and words that its message has to hold."""

    name: str
    account: Account
    type: str
    status: str
    reason: str
    words: tuple[str, ...] = ()


CASES = (
    Case("all is well", account(), "Ready", "True", "Ready", ("policy default", "Deployment shop/web")),
    Case("all is well", account(), "ScalingActive", "True", "ValidMetricFound"),
    Case("all is well", account(), "AbleToScale", "True", "ReadyForNewScale", ("4 replicas",)),
    Case("all is well", account(), "ScalingLimited", "False", "DesiredWithinRange"),
    Case("all is well", account(), "FallbackActive", "False", "NoFallback"),
    Case("all is well", account(), "Conflict", "False", "NoConflict"),
    # Ready
    Case(
        "a spec that cannot be used",
        account(
            workload=workload(resource=None, problem=Note("InvalidSpec", "spec.interval: 15 has no unit; write 15s")),
            target=None, readings=None, decision=None, policy=None, wanted=None,
        ),
        "Ready", "False", "InvalidSpec", ("spec.interval", "15s"),
    ),
    Case(
        "no such target",
        account(target=None, decision=None, readings=None, target_problem=Note("TargetNotFound", "no Deployment web")),
        "Ready", "False", "TargetNotFound", ("spec.scaleTargetRef: no Deployment web",),
    ),
    Case(
        "no such target",
        account(target=None, decision=None, readings=None, target_problem=Note("TargetNotFound", "no Deployment web")),
        "AbleToScale", "False", "FailedGetScale", ("no Deployment web",),
    ),
    Case(
        "no such policy: the rule decides meanwhile",
        account(
            workload=workload(spec={"policy": {"name": "mine"}}),
            policy_problem=Note("PolicyNotFound", "spec.policy.name: there is no policy mine"),
        ),
        "Ready", "False", "PolicyNotFound", ("spec.policy.name",),
    ),
    Case(
        "no such policy: the rule decides meanwhile",
        account(
            workload=workload(spec={"policy": {"name": "mine"}}),
            policy_problem=Note("PolicyNotFound", "spec.policy.name: there is no policy mine"),
        ),
        "FallbackActive", "True", "PolicyNotFound", ("Meanwhile policy default decides",),
    ),
    Case(
        "a bad new version, and the last good one goes on",
        account(policy_problem=Note("PolicyRefused", "spec.policy: default.rlz is cut short")),
        "Ready", "True", "Ready",
    ),
    Case(
        "a bad new version, and the last good one goes on",
        account(policy_problem=Note("PolicyRefused", "spec.policy: default.rlz is cut short")),
        "FallbackActive", "True", "PolicyRefused", ("cut short. The last good one, policy default, decides",),
    ),
    Case(
        "another digest than the one asked for",
        account(
            workload=workload(spec={"policy": {"name": "mine", "digest": f"sha256:{'a' * 64}"}}),
            policy=PolicyInUse("mine", f"sha256:{'b' * 64}"),
            policy_problem=Note("PolicyRefused", "spec.policy.digest: found bbb"),
        ),
        "Ready", "False", "PolicyRefused", ("spec.policy.digest",),
    ),
    Case(
        "an annotation that means nothing",
        account(workload=workload(annotation_problem=Note("InvalidAnnotation", "rlscaler.io/force-replicas: 'ten'"))),
        "Ready", "False", "InvalidAnnotation", ("force-replicas",),
    ),
    Case(
        "a share in place of a percentage", account(workload=workload(spec={"objective": {"target": "0.95"}})),
        "Ready", "False", "UnitSlip", ("spec.objective.target: 0.95 is in percent", 'write "95" if that is meant'),
    ),
    Case(
        "a percentage in place of a share",
        account(workload=workload(spec={"behavior": {"scaleUp": {"tolerance": "5"}}})),
        "Ready", "False", "UnitSlip",
        ("spec.behavior.scaleUp.tolerance: 5 is a share, which is 500 %", 'write "0.05" if 5 % is meant'),
    ),
    Case(
        "low aims that are meant",
        account(workload=workload(spec={
            "objective": {"target": "1"}, "behavior": {"scaleDown": {"tolerance": "0.99"}, "scaleUp": {}}
        })),
        "Ready", "True", "Ready",
    ),
    Case(
        "the operator has just begun",
        account(target=None, decision=None, readings=None, policy=None, wanted=None),
        "Ready", "Unknown", "Pending",
    ),
    # ScalingActive
    Case(
        "no data",
        unread("NoData", f"{LOAD}: the query returns no series"),
        "ScalingActive", "False", "NoData", (f"{LOAD}: the query", "Meanwhile the target is held at 4 replicas."),
    ),
    Case(
        "a note that names no field",
        unread("Timeout", "source default did not answer within 3 s"),
        "ScalingActive", "False", "Timeout", (f"{LOAD}: source default",),
    ),
    Case(
        "the whole source is down",
        account(readings=None, source_problem=Note("Unreachable", "source default cannot be reached"), decision=None),
        "ScalingActive", "False", "Unreachable", ("source default",),
    ),
    Case(
        "two mistakes at once",
        unread("NoData", f"{LOAD}: no series", ("spec.metrics.latency", Note("BadQuery", "spec.metrics.latency: )"))),
        "ScalingActive", "False", "NoData", ("spec.metrics.load", "spec.metrics.latency: )."),
    ),
    Case(
        "another metric than the load",
        account(
            readings=Readings(
                time=NOON, load=132.0, problems={"spec.metrics.backlog": Note("NoData", "spec.metrics.backlog: empty")}
            )
        ),
        "ScalingActive", "True", "MetricMissing", ("The load is known. spec.metrics.backlog: empty.",),
    ),
    Case(
        "replicas that carry less than is stated",
        account(decision=decision(bits=int(Reason.CapacityOverstated), overstated=1.44)),
        "ScalingActive", "True", "CapacityOverstated",
        ("some 70 % of spec.capacity.perReplica, which is 50, so 1.4 times as many", "state 35, or leave it out"),
    ),
    Case(
        "replicas that carry less than was learned",
        account(
            workload=workload(spec={"capacity": {}}),
            decision=decision(bits=int(Reason.CapacityOverstated), overstated=2.0),
        ),
        "ScalingActive", "True", "CapacityOverstated", ("some 50 % of what was learned", "so 2 times as many"),
    ),
    Case(
        "an objective that is not kept",
        account(
            workload=workload(spec={"objective": {"target": "99.9", "window": "168h"}}),
            decision=decision(bits=int(Reason.ObjectiveMissed), late=0.0034, spare=1.83),
        ),
        "ScalingActive", "True", "ObjectiveMissed",
        ("some 0.3 % of the requests seen in the last 168h were late", "allows 0.1 %", "so 1.8 times the headroom"),
    ),
    Case(
        "an objective that most requests miss",
        account(
            workload=workload(spec={"objective": {"target": "99.9", "window": "168h"}}),
            decision=decision(bits=int(Reason.ObjectiveMissed), late=0.23, spare=2.0),
        ),
        "ScalingActive", "True", "ObjectiveMissed", ("some 20 % of the requests seen",),
    ),
    Case(
        "an objective that is kept",
        account(workload=workload(spec={"objective": {"target": "99.9", "window": "168h"}})),
        "ScalingActive", "True", "ValidMetricFound", ("spec.objective is kept over 168h, so far",),
    ),
    Case(
        "an objective that is hardly missed",
        account(
            workload=workload(spec={"objective": {"target": "99.9", "window": "168h"}}),
            decision=decision(bits=int(Reason.ObjectiveMissed), late=0.0009, spare=1.05),
        ),
        "ScalingActive", "True", "ValidMetricFound", (),
    ),
    Case(
        "an unknown load without a cause", of_bits(Reason.MetricsUnknown), "ScalingActive", "False", "MetricsUnknown",
        (LOAD, "held at 4"),
    ),
    Case(
        "somebody switched it off",
        account(target=target(desired=0, replicas=0, ready=0), decision=decision(bits=int(Reason.ScalingDisabled))),
        "ScalingActive", "False", "ScalingDisabled", ("Deployment shop/web stands at 0", "minReplicas is 2"),
    ),
    Case(
        "nothing to learn the capacity from",
        account(
            workload=workload(spec={"capacity": {}}),
            decision=decision(bits=int(Reason.CapacityUnknown), capacity=NOTHING),
        ),
        "ScalingActive", "False", "CapacityUnknown",
        ("spec.capacity.perReplica is left out", "spec.metrics.utilization", 'perReplica: "50"'),
    ),
    Case(
        "capacity being learned",
        account(
            workload=workload(
                spec={"capacity": {}, "metrics": {"load": {"query": "up"}, "utilization": {"query": "busy"}}}
            ),
            decision=decision(
                bits=int(Reason.CapacityUnknown), capacity=NOTHING, learning="3 of at least 24 minutes are there."
            ),
        ),
        "ScalingActive", "False", "CapacityUnknown",
        ("spec.capacity.perReplica is left out", "is learned", "3 of at least 24 minutes", "held at 4 replicas"),
    ),
    Case(
        "capacity to be learned from a utilization that is missing",
        account(
            workload=workload(
                spec={"capacity": {}, "metrics": {"load": {"query": "up"}, "utilization": {"query": "busy"}}}
            ),
            readings=Readings(
                time=NOON, load=1.0,
                problems={"spec.metrics.utilization": Note("UnitSlip", "spec.metrics.utilization: returns 63")},
            ),
            decision=decision(bits=int(Reason.CapacityUnknown), capacity=NOTHING),
        ),
        "ScalingActive", "False", "CapacityUnknown", ("utilization is unknown", "spec.metrics.utilization: returns 63"),
    ),
    # AbleToScale
    Case(
        "a rescale", account(wrote=True, wanted=7), "AbleToScale", "True", "SucceededRescale",
        ("from 4 to 7 replicas",),
    ),
    Case(
        "a write that failed", account(write_problem=Note("Forbidden", "may not patch deployments/scale")),
        "AbleToScale", "False", "FailedUpdateScale", ("may not patch",),
    ),
    Case(
        "HPA's window", of_bits(Reason.ScaleDownStabilized), "AbleToScale", "True", "ScaleDownStabilized", ("window",)
    ),
    Case("HPA's window up", of_bits(Reason.ScaleUpStabilized), "AbleToScale", "True", "ScaleUpStabilized"),
    Case(
        "shadow", account(workload=workload(spec={"mode": "Shadow"})), "AbleToScale", "Unknown", "Shadow",
        ("set spec.mode to Active",),
    ),
    Case(
        "forced in shadow", account(workload=workload(spec={"mode": "Shadow"}, force=9), wanted=9),
        "AbleToScale", "Unknown", "Shadow", ("force-replicas: 9 is not obeyed",),
    ),
    Case(
        "paused by annotation", account(workload=workload(paused=True), wanted=None), "AbleToScale", "False", "Paused",
        ("rlscaler.io/paused is set (all but \"false\" pauses)", "left at 4 replicas"),
    ),
    Case(
        "paused by mode", account(workload=workload(spec={"mode": "Paused"}), wanted=None),
        "AbleToScale", "False", "Paused", ("spec.mode is Paused", "set spec.mode to Active"),
    ),
    Case(
        "forced out of the bounds", account(workload=workload(force=50), wanted=50), "AbleToScale", "True", "Forced",
        ("force-replicas: 50 is obeyed", "50 is outside of minReplicas 2 to maxReplicas 10"),
    ),
    Case(
        "forced to nothing, which no decision ends", account(workload=workload(force=0), wanted=0),
        "AbleToScale", "True", "Forced",
        ("Remove the annotation and scale the target to 1 or more to go on", "minReplicas 2"),
    ),
    Case(
        "forced to nothing where nothing is allowed",
        account(workload=workload(spec={"minReplicas": 0}, force=0), wanted=0),
        "AbleToScale", "True", "Forced", ("Remove the annotation to go on.",),
    ),
    Case(
        "forced beats paused", account(workload=workload(force=5, paused=True), wanted=5),
        "AbleToScale", "True", "Forced", ("5 is obeyed",),
    ),
    Case(
        "a force does not beat mode Paused", account(workload=workload(spec={"mode": "Paused"}, force=5), wanted=5),
        "AbleToScale", "False", "Paused", ("5 is not obeyed, since spec.mode is Paused",),
    ),
    Case(
        "another owner", account(conflict=Note("OwnedByHPA", "HPA shop/web scales it too"), wanted=None),
        "AbleToScale", "False", "OwnedByHPA", ("HPA shop/web",),
    ),
    Case(
        "the older of two RLScalers goes on",
        account(conflict=Note("SharedTarget", "RLScaler shop/b names the same target"), wanted=4),
        "AbleToScale", "True", "ReadyForNewScale",
    ),
    Case(
        "an unknown count", of_bits(Reason.ReplicasUnknown, replicas=-1), "AbleToScale", "False", "FailedGetScale",
        ("unknown",),
    ),
    # The rest
    Case(
        "at the upper bound", of_bits(Reason.TooManyReplicas, Reason.ScaleUpLimit),
        "ScalingLimited", "True", "TooManyReplicas", ("spec.maxReplicas is 10",),
    ),
    Case("at the lower bound", of_bits(Reason.TooFewReplicas), "ScalingLimited", "True", "TooFewReplicas", ("is 2",)),
    Case(
        "far above the upper bound", of_bits(Reason.TooManyReplicas, demand=132.0, capacity=1.0),
        "ScalingLimited", "True", "TooManyReplicas",
        ("spec.maxReplicas is 10", "a replica serves 1 (spec.capacity.perReplica), so 132 replicas", "another unit?"),
    ),
    Case(
        "a counter for a load",
        replace(
            of_bits(Reason.TooManyReplicas, demand=8_000.0),
            workload=workload(spec={"metrics": {"load": {"query": "sum(http_requests_total)"}}}),
        ),
        "ScalingLimited", "True", "TooManyReplicas",
        ("the query takes the counter http_requests_total as it is: is rate() missing?",),
    ),
    Case(
        "far below the lower bound", of_bits(Reason.TooFewReplicas, demand=132e-6, capacity=1e6),
        "ScalingLimited", "True", "TooFewReplicas", ("spec.minReplicas is 2", "0.000132 replicas", "another unit?"),
    ),
    Case(
        "above the upper bound, with less wanted",
        replace(of_bits(Reason.TooManyReplicas, replicas=10, proposal=3.61), target=target(desired=14)),
        "ScalingLimited", "False", "DesiredWithinRange",
        ("The target has 14 replicas, above spec.maxReplicas, which is 10; 3.61 are wanted, which is within.",),
    ),
    Case(
        "brought back to the upper bound, with less wanted",
        of_bits(Reason.TooManyReplicas, Reason.Patience, replicas=10, proposal=3.61),
        "ScalingLimited", "False", "DesiredWithinRange",
        ("The target had more than spec.maxReplicas, which is 10; 3.61 are wanted, which is within.",),
    ),
    Case(
        "brought back to the lower bound, with more wanted",
        replace(of_bits(Reason.TooFewReplicas, replicas=2, proposal=3.61), target=target(desired=2)),
        "ScalingLimited", "False", "DesiredWithinRange", ("had fewer than spec.minReplicas, which is 2; 3.61",),
    ),
    Case(
        "at the upper bound, with more wanted than proposed",
        replace(of_bits(Reason.TooManyReplicas, Reason.ReactiveFloor, proposal=3.61), target=target(desired=10)),
        "ScalingLimited", "True", "TooManyReplicas", ("raise it if the load is real",),
    ),
    Case(
        "at the upper bound, with all orders at it",
        replace(of_bits(Reason.TooManyReplicas, replicas=10, proposal=10.0), target=target(desired=10)),
        "ScalingLimited", "True", "TooManyReplicas", ("raise it if the load is real",),
    ),
    Case(
        "above the upper bound, with more wanted",
        replace(of_bits(Reason.TooManyReplicas, replicas=10, proposal=12.1), target=target(desired=14)),
        "ScalingLimited", "True", "TooManyReplicas", ("raise it if the load is real",),
    ),
    Case(
        "below the lower bound, with more wanted",
        replace(of_bits(Reason.TooFewReplicas, replicas=2, proposal=3.61), target=target(desired=1)),
        "ScalingLimited", "False", "DesiredWithinRange", ("has 1 replicas, below spec.minReplicas, which is 2",),
    ),
    Case("a policy's pace", of_bits(Reason.ScaleUpLimit), "ScalingLimited", "True", "ScaleUpLimit"),
    Case("a policy's pace down", of_bits(Reason.ScaleDownLimit), "ScalingLimited", "True", "ScaleDownLimit"),
    Case("flapping", of_bits(Reason.FlapBudgetSpent), "ScalingLimited", "True", "FlapBudgetSpent"),
    Case(
        "metrics lost for long",
        account(
            workload=workload(spec={"onMetricLoss": {"after": "5m", "action": "Replicas", "replicas": 8}}),
            decision=decision(bits=int(Reason.MetricLossFallback | Reason.MetricsUnknown)),
        ),
        "FallbackActive", "True", "MetricLossFallback", ("for 5m or longer", "action Replicas", "8 replicas"),
    ),
    Case(
        "a policy that fails",
        of_bits(Reason.PolicyFailed, error="ValueError: no"), "FallbackActive", "True", "PolicyFailed",
        ("(ValueError: no)", "the rule decided"),
    ),
    Case(
        "foreign input", of_bits(Reason.OutOfTrainingRange), "FallbackActive", "True", "OutOfTrainingRange",
        ("trained",),
    ),
    Case(
        "another owner", account(conflict=Note("OwnedByHPA", "HPA shop/web scales it too"), wanted=None),
        "Conflict", "True", "OwnedByHPA", ("HPA shop/web",),
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.type}: {case.name}")
def test_a_case_says_what_it_is_and_what_to_do(case: Case) -> None:
    said = found(case.account)[case.type]
    assert (said["status"], said["reason"]) == (case.status, case.reason), said
    for words in case.words:
        assert words in said["message"], said["message"]


@pytest.mark.parametrize(("bit", "demand"), [(Reason.TooManyReplicas, 99.0), (Reason.TooFewReplicas, 0.003)])
def test_a_demand_that_may_be_right_is_not_doubted(bit: Reason, demand: float) -> None:
    assert "unit?" not in found(of_bits(bit, demand=demand))["ScalingLimited"]["message"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.type}: {case.name}")
def test_every_condition_is_there_in_order_and_its_reason_is_documented(case: Case) -> None:
    documented = {(each.condition, each.statuses, each.reason) for each in MEANINGS}
    said = conditions(case.account, (), NOON)
    assert tuple(each["type"] for each in said) == CONDITION_TYPES
    for each in said:
        assert (each["type"], each["status"], each["reason"]) in documented
        assert each["message"]
        assert each["observedGeneration"] == 1
        assert seconds_of(each["lastTransitionTime"]) == NOON


def test_every_reason_in_the_table_is_written_once_in_camel_case() -> None:
    keys = [(each.condition, each.statuses, each.reason) for each in MEANINGS]
    assert len(keys) == len(set(keys))
    for each in MEANINGS:
        assert each.reason.isalnum(), each
        assert each.reason[0].isupper(), each
        assert each.meaning.endswith("."), each


def test_every_note_that_the_operator_makes_has_a_documented_reason() -> None:
    documented = {each.reason for each in MEANINGS}
    made = dict.fromkeys(get_args(prometheus_faults.Reason), "prometheus_faults.py")
    for path in Path(str(rlscaler_operator.__file__)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="Note"), args=[ast.Constant(value=str(reason)), *_]):
                    made[reason] = path.name
    assert len(made) > 10, "the operator makes notes"
    of_the_process = {"CheckpointUnreadable", "ConfigurationInvalid", "PolicyPassedOver"}  # log lines, no conditions
    assert made.keys() - of_the_process <= documented, made


@pytest.mark.parametrize("load_is_known", [False, True])
def test_what_is_wrong_with_a_source_is_told_once(load_is_known: bool) -> None:
    gone = "source default refuses the connection; does it run there?"
    fields = ["backlog", "utilization"] if load_is_known else ["load", "backlog", "utilization"]
    problems = {f"spec.metrics.{name}": Note("Unreachable", f"spec.metrics.{name}: {gone}") for name in fields}
    problems["spec.metrics.latency"] = Note("NoData", "spec.metrics.latency: the query returns no series")
    message = found(account(readings=Readings(time=NOON, problems=problems)))["ScalingActive"]["message"]
    assert message.count(gone) == 1
    assert f"{', '.join(f'spec.metrics.{name}' for name in fields)}: {gone}" in message
    assert "spec.metrics.latency: the query returns no series." in message


# --- over time


def test_the_time_of_a_transition_changes_with_the_status_alone() -> None:
    first = conditions(account(), (), NOON)
    waits = unread("NoData", f"{LOAD}: a")
    second = found(later(waits, 60.0), first)["ScalingActive"]
    assert second["lastTransitionTime"] == stamp(NOON + 60.0)
    other = unread("Timeout", f"{LOAD}: b")
    third = found(later(other, 120.0), [second])["ScalingActive"]
    assert third["reason"] == "Timeout"
    assert third["lastTransitionTime"] == stamp(NOON + 60.0), "False before and after"
    fourth = found(later(account(), 180.0), [third])["ScalingActive"]
    assert fourth["lastTransitionTime"] == stamp(NOON + 180.0)


@pytest.mark.parametrize(
    "gap",
    [
        {"target": None},
        {"policy": None},
        {"decision": None, "readings": None},
        {"target": None, "policy": None, "decision": None, "readings": None, "wanted": None},
    ],
    ids=lambda gap: "+".join(gap),
)
def test_a_tick_that_knows_less_changes_nothing(gap: dict[str, Any]) -> None:
    before = conditions(account(), (), NOON)
    assert conditions(later(account(), 15.0, **gap), before, NOON + 15.0) == before


@pytest.mark.parametrize("name", ["ScalingActive", "Conflict"])
@pytest.mark.parametrize(
    "before",
    [account(), unread("NotANumber", f"{LOAD}: x"), account(conflict=Note("ReplicasRewritten", "until 12:05"))],
    ids=["all was well", "the load was unknown", "somebody else had scaled it"],
)
def test_of_a_target_that_is_gone_nothing_stands_that_was_found_of_it(before: Account, name: str) -> None:
    """Else a Deployment deleted for good has a load that is known, or an owner until five past twelve, for ever."""
    gone = replace(before, target=None, target_problem=Note("TargetNotFound", "no Deployment web"), conflict=None)
    told = found(later(gone, 900.0), conditions(before, (), NOON))[name]
    assert (told["status"], told["reason"]) == ("Unknown", "Pending")
    assert "see Ready" in told["message"]


def test_a_gap_of_the_metrics_leaves_the_resource_ready() -> None:
    before = conditions(account(), (), NOON)
    after = found(later(unread("NoData", f"{LOAD}: a"), 15.0), before)
    assert after["Ready"] == before[0]


def test_what_a_tick_did_not_look_at_keeps_the_generation_it_was_seen_with() -> None:
    before = conditions(account(), (), NOON)
    changed = replace(account(), workload=workload(generation=2), policy=None, time=NOON + 15.0)
    after = found(changed, before)
    assert after["Ready"]["observedGeneration"] == 1
    assert after["Conflict"]["observedGeneration"] == 2


def test_a_condition_that_stays_is_the_same_object() -> None:
    before = conditions(account(), (), NOON)
    after = conditions(later(account(), 15.0), before, NOON + 15.0)
    assert all(new is old for new, old in zip(after, before, strict=True)), "statuses of a fleet share memory"


@pytest.mark.parametrize("junk", [None, 3, "x", {}, {"type": "Ready"}, {"type": "Ready", "status": "True"}])
def test_a_status_that_somebody_has_edited_does_no_harm(junk: Any) -> None:
    assert len(conditions(account(target=None, policy=None), [junk], NOON)) == len(CONDITION_TYPES)
    assert len(conditions(account(), [junk], NOON)) == len(CONDITION_TYPES)


def test_a_message_is_bounded_and_carries_no_secret() -> None:
    long = unread("Unreachable", "http://joe:hunter2@prometheus/ " + "x" * 5000)
    message = found(long)["ScalingActive"]["message"]
    assert len(message) <= LONGEST
    assert "hunter2" not in message
    assert "joe" in message


MODES: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "Active"),
    ({"spec": {"mode": "Shadow"}}, "Shadow"),
    ({"spec": {"mode": "Paused"}}, "Paused"),
    ({"paused": True}, "Paused"),
    ({"spec": {"mode": "Shadow"}, "paused": True}, "Paused"),
    ({"force": 3}, "Forced"),
    ({"force": 0}, "Forced"),
    ({"force": 3, "paused": True}, "Forced"),
    ({"spec": {"mode": "Shadow"}, "force": 3}, "Shadow"),
    ({"spec": {"mode": "Paused"}, "force": 3}, "Paused"),
    ({"resource": None}, "Paused"),
)


@pytest.mark.parametrize(("fields", "mode"), MODES)
def test_the_mode_in_force(fields: dict[str, Any], mode: str) -> None:
    assert mode_in_force(workload(**fields)) == mode


NOTES = st.none() | st.builds(Note, st.sampled_from(["NoData", "Other", ""]), st.text(max_size=20))
NUMBERS = st.floats(0, 1e6) | st.just(math.nan)


def any_account(draw: Callable[[Any], Any]) -> Account:
    """Draw an account of any state, possible or not."""
    some = workload(
        spec={"mode": draw(st.sampled_from(["Active", "Shadow", "Paused"]))},
        paused=draw(st.booleans()),
        force=draw(st.none() | st.integers(0, 1000)),
        annotation_problem=draw(NOTES),
        problem=draw(NOTES),
    )
    some = replace(some, resource=draw(st.sampled_from([some.resource, None])))
    keys = st.sampled_from([LOAD, "spec.metrics.backlog", "spec.metrics.utilization"])
    readings = st.builds(
        Readings, time=st.just(NOON), load=NUMBERS, problems=st.dictionaries(keys, NOTES.filter(bool), max_size=3)
    )
    decided = st.builds(
        lambda **fields: decision(**fields), bits=st.integers(0, (1 << 18) - 1), replicas=st.integers(-1, 50),
        demand=NUMBERS, coverage=NUMBERS, capacity=NUMBERS, startup=NUMBERS,
    )  # fmt: skip
    return account(
        time=NOON + draw(st.integers(0, 10_000)),
        workload=some,
        target=draw(st.none() | st.builds(lambda n: target(desired=n), st.integers(0, 50))),
        readings=draw(st.none() | readings),
        decision=draw(st.none() | decided),
        policy=draw(st.none() | st.just(PolicyInUse("default"))),
        wanted=draw(st.none() | st.integers(0, 50)),
        wrote=draw(st.booleans()),
        **{f"{name}_problem": draw(NOTES) for name in ("target", "source", "policy", "write")},
        conflict=draw(NOTES),
    )


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_two_states_give_whole_conditions_and_a_transition_only_with_the_status(data: st.DataObject) -> None:
    first, second = any_account(data.draw), any_account(data.draw)
    before = conditions(first, (), first.time)
    after = conditions(second, before, second.time)
    for old, new in zip(before, after, strict=True):
        assert new["status"] in ("True", "False", "Unknown")
        assert all(isinstance(new[key], str) for key in ("type", "status", "reason", "message", "lastTransitionTime"))
        same = old["status"] == new["status"]
        assert (old["lastTransitionTime"] == new["lastTransitionTime"]) or not same
        if not same:
            assert new["lastTransitionTime"] == stamp(second.time)
