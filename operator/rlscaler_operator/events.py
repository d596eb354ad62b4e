"""The events of a workload: what a person who runs `kubectl describe` should find in order of time. Pure.

They are made from the difference of two statuses, the one that was written before and the one that is written now, so
they tell the same story as the conditions, a restart tells nothing twice, and what never reached the status makes no
noise. A rescale alone is told from the account itself. HPA's names stand where HPA has one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from rlscaler.reasons import sentence
from rlscaler_operator.condition_reasons import NOTED
from rlscaler_operator.model import Account
from rlscaler_operator.status import decides_as, is_fine

Kind = Literal["Normal", "Warning"]


class Event(NamedTuple):
    """One event; reason: a word for programs."""

    kind: Kind
    reason: str
    message: str


_NAMED: Final[Mapping[str, str]] = {
    "ScalingActive": "FailedGetMetrics",
    "FallbackActive": "FallbackActive",
    "Conflict": "Conflict",
}
"""Conditions whose event bears one name whatever the reason; the message then begins with the reason."""
_OWN_NAMES: Final = frozenset({"ScalingDisabled", "CapacityUnknown", "PolicyNotFound", "PolicyRefused"}) | NOTED
"""Reasons that are told under their own name nevertheless."""
_ENDED: Final[Mapping[str, tuple[str, str]]] = {
    "Ready": ("Ready", ""),
    "ScalingActive": ("ValidMetricFound", ""),
    "AbleToScale": ("ReadyForNewScale", "The target can be scaled again."),
    "FallbackActive": ("FallbackEnded", "What the spec asks for decides again."),
    "Conflict": ("ConflictEnded", "Nobody else scales the target any more."),
}
"""Event and message ("": the condition's) at the end of what a condition told."""

REASONS: Final = (
    ("Normal", "SuccessfulRescale", "The target was scaled; the message has the new size and what shaped it."),
    ("Warning", "FailedUpdateScale", "The target could not be scaled."),
    ("Warning", "FailedGetMetrics", "The load is unknown; the message begins with the reason of ScalingActive."),
    ("Warning", "MetricMissing", "The load is known, another metric is not."),
    ("Warning", "CapacityOverstated", "Replicas carry less than spec.capacity.perReplica says; more are asked for."),
    ("Warning", "ObjectiveMissed", "More was late within spec.objective.window than allowed; more headroom is held."),
    ("Warning", "FallbackActive", "Something else than what the spec asks for decides."),
    ("Warning", "Conflict", "Somebody else scales the target; the reason comes first. Normal in Shadow and Paused."),
    ("Warning", "Forced", "rlscaler.io/force-replicas is obeyed from now on."),
    ("Normal", "ForceEnded", "rlscaler.io/force-replicas is gone."),
    ("Normal", "Paused", "spec.mode or rlscaler.io/paused holds the target from now on."),
    ("Normal", "Resumed", "The pause is over."),
    ("Normal", "ModeChanged", "spec.mode went from Shadow to Active or back."),
    ("Normal", "PolicyLoaded", "Another policy, or another version of it, decides from now on."),
    *(
        ("Normal", reason, message or "The condition of that name is True again.")
        for reason, message in _ENDED.values()
    ),
)
"""The events that are not reasons of a condition (`condition_reasons`): kind, reason, meaning."""


def rescale(account: Account) -> list[Event]:
    """Return the event of a write to the target at this tick, nothing where there was none."""
    if not account.wrote:
        return []
    force, decision = account.workload.force, account.decision
    if force is not None:
        why = "rlscaler.io/force-replicas"
    else:
        why = sentence(decision.bits) if decision is not None else "the last decision"
    return [Event("Normal", "SuccessfulRescale", f"New size: {account.wanted}; reason: {why}")]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Event]:
    """Return the events between two statuses; `before` is empty for a workload that is new."""
    found = [*_modes(before, after), *_policies(before, after)]
    old = _by_type(before)
    for condition in _listed(after):
        name = str(condition.get("type"))
        found += _turned(old.get(name), condition, _kind(name, before), _kind(name, after))
    unique: dict[str, Event] = {}
    for event in found:  # a policy that is not there stands in Ready and in FallbackActive
        unique.setdefault(event.reason, event)
    return list(unique.values())


def _kind(name: str, status: Mapping[str, Any]) -> Kind:
    """Return how bad a condition's trouble is: beside Shadow, or a pause, somebody else may well scale the target."""
    return "Normal" if name == "Conflict" and status.get("mode") in ("Shadow", "Paused") else "Warning"


def _turned(before: Mapping[str, Any] | None, after: Mapping[str, Any], was: Kind, kind: Kind) -> Iterable[Event]:
    """Yield the event of one condition's change, or of its becoming worse. was, kind: of its trouble then and now."""
    old, new = None if before is None else _trouble(before), _trouble(after)
    if old == new and (new is None or (was, kind) != ("Normal", "Warning")):
        return
    name, message = str(after.get("type")), str(after.get("message") or "")
    if new is not None and name in _NAMED and new not in _OWN_NAMES:
        yield Event(kind, _NAMED[name], f"{new}: {message}")
    elif new is not None:
        yield Event(kind, new, message)
    elif is_fine(after):
        ended, text = _ENDED[name]
        yield Event("Normal", ended, text or message)


def _trouble(condition: Mapping[str, Any]) -> str | None:
    """Return the reason of a condition that somebody should hear of, None where there is nothing to hear.

    Limits are everyday scaling, and what else keeps a decision from the target is told by Ready, Conflict or the mode.
    """
    name, reason = condition.get("type"), str(condition.get("reason"))
    if name not in _ENDED or (name == "AbleToScale" and reason != "FailedUpdateScale"):
        return None
    if reason in NOTED:
        return reason
    return None if is_fine(condition) or condition.get("status") == "Unknown" else reason


def _modes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[Event]:
    old, new = before.get("mode"), after.get("mode")
    if old == new or (old is None and new not in ("Paused", "Forced")):
        return
    able = _by_type(after).get("AbleToScale", {})
    if new == "Forced":
        yield Event("Warning", "Forced", str(able.get("message") or "rlscaler.io/force-replicas is obeyed."))
    elif new == "Paused":
        if able.get("reason") == "Paused":
            yield Event("Normal", "Paused", str(able.get("message") or ""))
    elif old == "Forced":
        yield Event("Normal", "ForceEnded", f"rlscaler.io/force-replicas is gone; mode {new} goes on.")
    elif old == "Paused":
        yield Event("Normal", "Resumed", f"The pause is over; mode {new} goes on.")
    else:
        yield Event("Normal", "ModeChanged", f"Mode {new} from now on, {old} before.")


def _policies(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[Event]:
    old, new = before.get("policy"), after.get("policy")
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)) or decides_as(old) == decides_as(new):
        return
    yield Event("Normal", "PolicyLoaded", f"{_policy(new)} decides from now on, {_policy(old)} before.")


def _policy(policy: Mapping[str, Any]) -> str:
    digest, mode = str(policy.get("digest") or ""), decides_as(policy)["tenure"]
    text = f"Policy {policy.get('name')}" + (f" ({digest[:19]})" if digest else "")
    return text + (f" with tenure {mode}" if mode else "")


def _listed(status: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found = status.get("conditions")
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _by_type(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(each.get("type")): each for each in _listed(status)}


@dataclass(slots=True)
class Allowance:
    """How many events of one kind a workload may still have: `most` at once, then one every `every` seconds."""

    most: int = 20
    every: float = 60.0
    left: float = math.nan
    time: float = math.nan
    refused: int = 0

    def take(self, now: float) -> bool:
        """Take one event out of the allowance; False, and it is counted as refused, where there is none left."""
        if math.isnan(self.left):
            self.left = float(self.most)
        else:
            self.left = min(float(self.most), self.left + max(0.0, now - self.time) / self.every)
        self.time = now
        if self.left < 1.0:
            self.refused += 1
            return False
        self.left -= 1.0
        return True


@dataclass(slots=True)
class Budget:
    """Both allowances of a workload: a rescale in every minute does not silence a warning."""

    normal: Allowance
    warning: Allowance

    @classmethod
    def fresh(cls) -> "Budget":
        """Return a full one."""
        return cls(Allowance(), Allowance())

    def allowed(self, events: Sequence[Event], now: float) -> list[Event]:
        """Return the events that may be told; the first one after some were left out says how many those were."""
        found = []
        for event in dict.fromkeys(events):
            allowance = self.warning if event.kind == "Warning" else self.normal
            if not allowance.take(now):
                continue
            if allowance.refused:
                event = event._replace(message=f"{event.message} ({allowance.refused} events left out before this)")
                allowance.refused = 0
            found.append(event)
        return found
