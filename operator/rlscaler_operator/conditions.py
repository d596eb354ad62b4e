"""The conditions of a workload, for the person on call: what holds, what was found, what to do. Pure.

Ready says whether the resource can be used at all (spec, policy, target), ScalingActive whether data flow and a
count can be computed, AbleToScale whether a decision would reach the target. They are kept apart so that a gap in
the metrics does not make a workload look misconfigured. What is not known at a tick keeps the condition that stood
before it, unless the target itself is gone. Reasons: `condition_reasons`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rlscaler.custom_resource import Resource
from rlscaler.quantities import duration_text
from rlscaler.reasons import SENTENCES, Reason
from rlscaler.resource_objects import Spec
from rlscaler.resource_status import CONDITION_TYPES
from rlscaler_operator.model import Account, Decision, Note, PolicyInUse, Target, Workload
from rlscaler_operator.queries import bare_counter
from rlscaler_operator.redaction import redacted
from rlscaler_operator.timestamps import stamp

LONGEST: Final = 1000
"""Characters of a message."""

LOAD: Final = "spec.metrics.load"

_OTHER_UNIT: Final = "is one of the two in another unit?"

FAR_ABOVE: Final = 10.0
"""Multiples of maxReplicas above which a demand is doubted."""
NOTEWORTHY: Final = 1.1
"""Multiple of the headroom from which on an objective that is not kept is worth a word."""
FAR_BELOW: Final = 0.001
"""Part of minReplicas below which it is."""


class Finding(NamedTuple):
    """What one condition says at one tick."""

    status: str
    reason: str
    message: str


def conditions(account: Account, previous: Sequence[Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
    """Return the conditions after a tick, in the order of `CONDITION_TYPES`.

    previous: those before it, as they stand in the status; what is no condition is left out of account.
    lastTransitionTime changes with the status alone.
    """
    before = {str(each.get("type")): each for each in previous if isinstance(each, Mapping)}
    out = []
    for name in CONDITION_TYPES:
        finding, old = _FINDERS[name](account), before.get(name)
        if finding is None and old is not None and old.get("status") and old.get("reason"):
            out.append({key: old[key] for key in _KEYS if key in old})
            continue
        finding = finding or Finding("Unknown", "Pending", _PENDING[name])
        since = old.get("lastTransitionTime") if old is not None and old.get("status") == finding.status else None
        new = {
            "type": name,
            "status": finding.status,
            "reason": finding.reason,
            # Most messages are those of the tick before, and striking secrets out costs more than all else here.
            "message": finding.message
            if old is not None and old.get("message") == finding.message
            else _fitted(finding.message),
            "lastTransitionTime": since if isinstance(since, str) and since else stamp(now),
            "observedGeneration": account.workload.generation,
        }
        # The same object goes on where nothing changed: a fleet's statuses share most of their memory.
        out.append(old if isinstance(old, dict) and old == new else new)
    return out


_KEYS = ("type", "status", "reason", "message", "lastTransitionTime", "observedGeneration")

_PENDING = {
    "Ready": "The target or the policy has not been seen yet; this takes seconds after the operator starts.",
    "ScalingActive": "Nothing has been read or decided yet; this takes one interval after the operator starts.",
    "AbleToScale": "The target has not been seen yet; this takes seconds after the operator starts.",
    "ScalingLimited": "Nothing has been decided yet.",
    "FallbackActive": "Nothing has been decided yet.",
    "Conflict": "The target has not been seen yet.",
}


def mode_in_force(workload: Workload) -> str:
    """Return Shadow, Active, Paused, or Forced where rlscaler.io/force-replicas is obeyed.

    A count is forced on a target only where spec.mode is Active, and then in a pause by annotation too.
    """
    if workload.resource is None:
        return "Paused"
    if workload.force is not None and workload.resource.spec.mode == "Active":
        return "Forced"
    return "Paused" if workload.paused else workload.resource.spec.mode


def _fitted(message: str) -> str:
    message = redacted(message)
    return message if len(message) <= LONGEST else message[: LONGEST - 3] + "..."


def _told(note: Note, field: str = "") -> str:
    """Return a note's message, with the field in front where the message does not name one."""
    return f"{field}: {note.message}" if field and "spec." not in note.message else note.message


def _bits(account: Account) -> int:
    return account.decision.bits if account.decision is not None else 0


def is_gone(account: Account) -> bool:
    """Tell whether the target is known not to be there: what was found of a former one of its name says nothing now."""
    problem = account.target_problem
    return account.target is None and problem is not None and problem.reason == "TargetNotFound"


# --- Ready


def _ready(account: Account) -> Finding | None:
    workload = account.workload
    problem = workload.problem
    if workload.resource is None:
        problem = problem or Note("InvalidSpec", "The spec cannot be read; see `rlscaler validate`.")
    elif problem is None and account.target_problem is not None:
        problem = Note(account.target_problem.reason, _told(account.target_problem, "spec.scaleTargetRef"))
    elif problem is None and account.policy_problem is not None and not _asked_for(account.policy, workload.resource):
        problem = Note(account.policy_problem.reason, _told(account.policy_problem, "spec.policy"))
    problem = problem or workload.annotation_problem
    if problem is None and workload.resource is not None:
        problem = _unit_slip(workload.resource.spec)
    if problem is not None:
        return Finding("False", problem.reason, problem.message)
    if account.target is None or account.policy is None:
        return None
    return Finding(
        "True", "Ready", f"The spec is valid, {_policy(account.policy)} is loaded, {account.target.key} is there."
    )


def _unit_slip(spec: Spec) -> Note | None:
    """Return what in a spec is allowed, and decided by, but hardly meant: a share for a percentage, or the reverse."""
    target = float(spec.objective.target)
    if target < 1.0:
        return Note("UnitSlip", f"spec.objective.target: {target:g} is in percent, so that all but {target:g} % of the "
                                f'requests may be late; write "{100.0 * target:g}" if that is meant')  # fmt: skip
    behavior = spec.behavior
    for name, rules in (("scaleUp", behavior.up), ("scaleDown", behavior.down)) if behavior is not None else ():
        share = rules.tolerance
        if share is not None and share >= 1.0:
            percent = f"{100.0 * share:g} %"
            return Note("UnitSlip", f"spec.behavior.{name}.tolerance: {share:g} is a share, which is {percent}; write "
                                    f'"{share / 100.0:g}" if {share:g} % is meant')  # fmt: skip
    return None


def _asked_for(policy: PolicyInUse | None, resource: Resource) -> bool:
    """Tell whether the policy that decides is one that the spec allows, be it the last good one."""
    wanted = resource.spec.policy
    if policy is None or policy.name not in (wanted.name, wanted.server):
        return False
    return wanted.digest is None or policy.digest == wanted.digest


def _policy(policy: PolicyInUse) -> str:
    return f"policy {policy.name}" + (f" ({policy.digest[:19]})" if policy.digest else "")


# --- ScalingActive


def _active(account: Account) -> Finding | None:
    resource, target, readings = account.workload.resource, account.target, account.readings
    if resource is None:
        return Finding("Unknown", "InvalidSpec", "Nothing is read until the spec is corrected; see Ready.")
    if is_gone(account):
        return Finding("Unknown", "Pending", "Nothing is read or decided while the target is not there; see Ready.")
    spec, bits = resource.spec, _bits(account)
    if bits & Reason.ScalingDisabled.value and target is not None:
        text = (
            f"{target.key} stands at 0 replicas and spec.minReplicas is {spec.min_replicas}: somebody switched it off, "
            f"so it is left alone. Scale it to 1 or more to hand it back."
        )
        return Finding("False", "ScalingDisabled", text)
    problems = dict(readings.problems) if readings is not None else {}
    load = problems.pop(LOAD, None)
    if load is None and account.source_problem is not None:
        load = account.source_problem
    if load is not None:
        return Finding("False", load.reason, _joined(_told(load, LOAD), problems) + _held(account))
    if account.decision is None or readings is None:
        return None
    if bits & Reason.CapacityUnknown.value:
        return Finding("False", "CapacityUnknown", _joined(_capacity(account, spec), problems) + _held(account))
    if bits & Reason.MetricsUnknown.value:
        text = f"{LOAD}: no reading is fresh enough."
        return Finding("False", "MetricsUnknown", _joined(text, problems) + _held(account))
    if problems:
        return Finding("True", "MetricMissing", _joined("The load is known.", problems))
    if bits & Reason.CapacityOverstated.value:
        return Finding("True", "CapacityOverstated", _overstated(account.decision, spec))
    if bits & Reason.ObjectiveMissed.value and account.decision.spare >= NOTEWORTHY:
        return Finding("True", "ObjectiveMissed", _missed(account.decision, spec))
    text = "The load is known and a count can be computed from it."
    window = float(spec.objective.window)
    if math.isfinite(window) and not bits & Reason.ObjectiveMissed.value:
        text += f" By it and the ready replicas spec.objective is kept over {duration_text(window)}, so far."
    return Finding("True", "ValidMetricFound", text)


def _overstated(decision: Decision, spec: Spec) -> str:
    # Coarse, for each new number is another status to write.
    carried = round(20.0 / decision.overstated) / 20.0
    text = f"The load is known. By their utilization replicas carry some {100.0 * carried:.0f} % of "
    more = f"{1.0 / carried:.2g} times as many"
    if spec.capacity.per_replica is None:
        return f"{text}what was learned of them, so {more} are asked for until it is learned anew."
    return (
        f"{text}spec.capacity.perReplica, which is {spec.capacity.per_replica:g}, so {more} are asked for; "
        f"state {carried * spec.capacity.per_replica:.3g}, or leave it out to have it learned."
    )


def _missed(decision: Decision, spec: Spec) -> str:
    # Coarse, as above.
    late, spare = float(f"{100.0 * decision.late:.1g}"), max(1.1, round(5.0 * decision.spare) / 5.0)
    return (
        f"The load is known. By the load and the ready replicas some {late:g} % of the requests seen in the "
        f"last {duration_text(float(spec.objective.window))} were late, and spec.objective.target allows "
        f"{100.0 - float(spec.objective.target):.3g} %, so {spare:.2g} times the headroom is held."
    )


def _joined(text: str, problems: Mapping[str, Note]) -> str:
    """Return the text and what else is wrong with the metrics; what is wrong with several, as a source, once."""
    found = [text]
    for field, note in sorted(problems.items()):
        told = _told(note, field)
        cause = told.removeprefix(field)
        same = next((k for k, each in enumerate(found) if told != cause and each.endswith(cause)), None)
        if same is None:
            found.append(told)
        else:
            found[same] = f"{found[same].removesuffix(cause)}, {told}"
    return " ".join(part if part.endswith((".", "!", "?")) else part + "." for part in found)


def _held(account: Account) -> str:
    """Return what happens to the target meanwhile, as the end of a message."""
    if _bits(account) & Reason.MetricLossFallback.value:
        return " The fallback of spec.onMetricLoss applies."
    if account.target is None:
        return ""
    return f" Meanwhile the target is held at {account.target.desired} replicas."


def _capacity(account: Account, spec: Spec) -> str:
    if spec.metrics.utilization is None:
        return (
            "spec.capacity.perReplica is left out, and so is spec.metrics.utilization, from which it would be learned: "
            'state one of them (perReplica: "50" is 50 requests/s of a ready replica).'
        )
    text = "spec.capacity.perReplica is left out, so it is learned from load and utilization"
    if "spec.metrics.utilization" in (account.readings.problems if account.readings else {}):
        return f"{text}, and the utilization is unknown."
    learning = account.decision.learning if account.decision is not None else ""
    return f"{text}. {learning}".rstrip()


# --- AbleToScale


def _able(account: Account) -> Finding | None:
    workload, target = account.workload, account.target
    if workload.resource is None:
        return Finding("Unknown", "InvalidSpec", "Nothing is written until the spec is corrected; see Ready.")
    if account.target_problem is not None:
        return Finding("False", "FailedGetScale", _told(account.target_problem, "spec.scaleTargetRef"))
    if target is None:
        return None
    mode = mode_in_force(workload)
    if mode == "Paused":
        return Finding("False", "Paused", _paused(workload, target))
    if mode == "Shadow":
        text = "Mode Shadow writes nothing to the target; set spec.mode to Active to let rlscaler scale it."
        if workload.force is not None:
            text = f"rlscaler.io/force-replicas: {workload.force} is not obeyed in mode Shadow. {text}"
        return Finding("Unknown", "Shadow", text)
    if account.write_problem is not None:
        return Finding("False", "FailedUpdateScale", _told(account.write_problem))
    if account.conflict is not None and not account.wrote and account.wanted is None:
        return Finding("False", account.conflict.reason, _told(account.conflict))
    if mode == "Forced":
        return Finding("True", "Forced", _forced(workload))
    if _bits(account) & Reason.ReplicasUnknown.value:
        return Finding("False", "FailedGetScale", f"The replica count of {target.key} is unknown.")
    return _writable(account, target)


def _writable(account: Account, target: Target) -> Finding:
    bits = _bits(account)
    if account.wrote:
        return Finding("True", "SucceededRescale", f"Scaled from {target.desired} to {account.wanted} replicas.")
    for bit in (Reason.ScaleDownStabilized, Reason.ScaleUpStabilized):
        if bits & bit.value:
            return Finding("True", str(bit.name), SENTENCES[bit])
    return Finding("True", "ReadyForNewScale", f"The target is held at {target.desired} replicas until more or "
                                               f"fewer are decided.")  # fmt: skip


def _paused(workload: Workload, target: Target) -> str:
    by_annotation = workload.paused
    annotation = 'the annotation rlscaler.io/paused is set (all but "false" pauses)'
    cause = annotation if by_annotation else "spec.mode is Paused"
    end = "remove it" if by_annotation else "set spec.mode to Active or Shadow"
    text = f"Paused: {cause}. The target is left at {target.desired} replicas; {end} to go on."
    if workload.force is not None:
        mode = workload.resource.spec.mode if workload.resource is not None else "Paused"
        text += f" rlscaler.io/force-replicas: {workload.force} is not obeyed, since spec.mode is {mode}."
    return text


def _forced(workload: Workload) -> str:
    force, resource = workload.force, workload.resource
    end, outside = "to go on.", ""
    if resource is not None and force is not None:
        low, high = resource.spec.min_replicas, resource.spec.max_replicas
        if not low <= force <= high:
            outside = f" {force} is outside of minReplicas {low} to maxReplicas {high}."
        if force == 0 < low:
            end = "and scale the target to 1 or more to go on: at 0 it is taken to be switched off, and left alone."
    return (
        f"rlscaler.io/force-replicas: {force} is obeyed; no decision is written. Remove the annotation {end}{outside}"
    )


# --- ScalingLimited, FallbackActive, Conflict


def _limited(account: Account) -> Finding | None:
    resource, decision = account.workload.resource, account.decision
    if resource is None or decision is None or decision.replicas < 0:
        return None
    if text := _outside(account, resource.spec):
        return Finding("False", "DesiredWithinRange", text)
    for bit, advice in _limits(resource.spec):
        if decision.bits & bit.value:
            return Finding("True", str(bit.name), f"{SENTENCES[bit]} {advice}{_doubt(account, resource.spec)}")
    return Finding("False", "DesiredWithinRange", "Neither bounds nor policies changed the count.")


def _outside(account: Account, spec: Spec) -> str:
    """Return what there is to say where the target, and not what is wanted, lies outside of the bounds; else ""."""
    target, decision = account.target, account.decision
    if target is None or decision is None or not math.isfinite(decision.proposal):
        return ""
    if target.desired > spec.max_replicas >= decision.proposal:
        where = f"above spec.maxReplicas, which is {spec.max_replicas}"
    elif 0 < target.desired < spec.min_replicas <= decision.proposal:
        where = f"below spec.minReplicas, which is {spec.min_replicas}"
    else:
        return _brought_back(decision, spec)
    return f"The target has {target.desired} replicas, {where}; {decision.proposal:.3g} are wanted, which is within."


def _brought_back(decision: Decision, spec: Spec) -> str:
    """Return what there is to say once a target that lay outside of the bounds is written to the bound; else ""."""
    low, high, wanted, bits = spec.min_replicas, spec.max_replicas, decision.proposal, decision.bits
    if bits & ~_OF_THE_PRESENT or not low < wanted < high:
        return ""
    for bit, bound, where in (
        (Reason.TooManyReplicas, high, f"more than spec.maxReplicas, which is {high}"),
        (Reason.TooFewReplicas, low, f"fewer than spec.minReplicas, which is {low}"),
    ):
        if bits & bit.value and decision.replicas == bound:
            return f"The target had {where}; {wanted:.3g} are wanted, which is within."
    return ""


_OF_THE_PRESENT: Final = int(Reason.TooManyReplicas | Reason.TooFewReplicas | Reason.Patience | Reason.WithinTolerance)
"""Reasons by which a bound can be met though what is proposed lies within: the present count is outside of it."""


def _limits(spec: Spec) -> Iterable[tuple[Reason, str]]:
    """Return the limits, in the order in which they matter, each with what can be done."""
    return (
        (Reason.TooManyReplicas, f"spec.maxReplicas is {spec.max_replicas}; raise it if the load is real."),
        (Reason.TooFewReplicas, f"spec.minReplicas is {spec.min_replicas}; lower it to save them."),
        (Reason.ScaleUpLimit, "The rest follows; spec.behavior.scaleUp sets the pace."),
        (Reason.ScaleDownLimit, "The rest follows; spec.behavior.scaleDown sets the pace."),
        (Reason.FlapBudgetSpent, "It ends by itself; a noisy load is smoothed by a longer window in its query."),
    )


def _doubt(account: Account, spec: Spec) -> str:
    """Return the question, as the end of a message, whether a demand far beyond the bounds comes of a wrong unit."""
    decision, readings = account.decision, account.readings
    if decision is None or readings is None or not (math.isfinite(readings.load) and readings.load > 0.0):
        return ""
    if not (decision.demand > FAR_ABOVE * spec.max_replicas or decision.demand < FAR_BELOW * spec.min_replicas):
        return ""
    counter = bare_counter(spec.metrics.load.query)
    guess = f"the query takes the counter {counter} as it is: is rate() missing?" if counter else _OTHER_UNIT
    return (
        f" {LOAD} returns {readings.load:g} requests/s, and a replica serves {decision.capacity:g} "
        f"(spec.capacity.perReplica), so {decision.demand:.3g} replicas are needed; {guess}"
    )


def _fallback(account: Account) -> Finding | None:
    resource, decision, problem = account.workload.resource, account.decision, account.policy_problem
    if problem is not None and account.policy is not None:
        text = _joined(_told(problem, "spec.policy"), {})
        last = resource is not None and _asked_for(account.policy, resource)
        which = f"The last good one, {_policy(account.policy)}," if last else f"Meanwhile {_policy(account.policy)}"
        return Finding("True", problem.reason, f"{text} {which} decides.")
    if account.server_problem is not None and account.policy is not None:
        text = _joined(_told(account.server_problem, "spec.policy.server"), {})
        return Finding("True", account.server_problem.reason, f"{text} Meanwhile {_policy(account.policy)} decides.")
    if resource is None or decision is None:
        return None
    bits = decision.bits
    if bits & Reason.MetricLossFallback.value:
        loss = resource.spec.on_metric_loss
        text = (
            f"{LOAD} has been unknown for {duration_text(float(loss.after))} or longer, so spec.onMetricLoss.action "
            f"{loss.action} applies with {loss.replicas} replicas. ScalingActive says why."
        )
        return Finding("True", "MetricLossFallback", text)
    if bits & Reason.PolicyFailed.value:
        cause = f" ({decision.error})" if decision.error else ""
        return Finding("True", "PolicyFailed", f"The policy gave no usable answer{cause}, so the rule decided.")
    if bits & Reason.OutOfTrainingRange.value:
        return Finding("True", "OutOfTrainingRange", SENTENCES[Reason.OutOfTrainingRange])
    return Finding("False", "NoFallback", "What the spec asks for decides.")


def _conflict(account: Account) -> Finding | None:
    if account.conflict is not None:
        return Finding("True", account.conflict.reason, _told(account.conflict))
    if is_gone(account):
        return Finding("Unknown", "Pending", "The target is not there, so nobody can scale it; see Ready.")
    if account.target is None:
        return None
    return Finding("False", "NoConflict", "Nobody else scales the target.")


_FINDERS = {
    "Ready": _ready,
    "ScalingActive": _active,
    "AbleToScale": _able,
    "ScalingLimited": _limited,
    "FallbackActive": _fallback,
    "Conflict": _conflict,
}
