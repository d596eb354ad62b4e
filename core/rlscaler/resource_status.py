"""The status of an RLScaler: names, types and meaning of all that the operator reports.

This table is the only place that states them; the CRD's schema and the reference are made from it. The schema is
loose on purpose: the API server must never refuse a report because a number surprised it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rlscaler.tenured import ADVISORY, ON

TIME: Final[Mapping[str, Any]] = {"type": "string", "format": "date-time"}
TEXT: Final[Mapping[str, Any]] = {"type": "string"}
WHOLE: Final[Mapping[str, Any]] = {"type": "integer", "format": "int64"}
NUMBER: Final[Mapping[str, Any]] = {"type": "number"}
FLAG: Final[Mapping[str, Any]] = {"type": "boolean"}
TEXTS: Final[Mapping[str, Any]] = {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "atomic"}

MODES: Final = ("Shadow", "Active", "Paused", "Forced")
"""The modes that a workload can be in: those of spec.mode, and Forced while rlscaler.io/force-replicas is obeyed."""

CONDITION_TYPES: Final = ("Ready", "ScalingActive", "AbleToScale", "ScalingLimited", "FallbackActive", "Conflict")
"""The conditions, in the order in which they are reported."""


@dataclass(frozen=True, slots=True)
class StatusField:
    """One field of the status.

    kind: its OpenAPI type, or the fields of a block. description: what it says, its unit, when it is left out.
    """

    name: str
    kind: "Mapping[str, Any] | tuple[StatusField, ...]"
    description: str

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        return {"description": self.description} | (
            _block(self.kind) if isinstance(self.kind, tuple) else dict(self.kind)
        )


_CONDITION = (
    StatusField("type", TEXT, "What the condition is about."),
    StatusField("status", {**TEXT, "enum": ["True", "False", "Unknown"]}, "Whether it holds."),
    StatusField("reason", TEXT, "Why, in one word for programs."),
    StatusField("message", TEXT, "Why, in words: the field, what was found, what to do."),
    StatusField("lastTransitionTime", TIME, "When the status last changed."),
    StatusField("observedGeneration", WHOLE, "The generation of the spec that this speaks of."),
)


def _block(fields: tuple[StatusField, ...]) -> dict[str, Any]:
    return {"type": "object", "properties": {each.name: each.schema() for each in fields}}


_CONDITIONS: Final[Mapping[str, Any]] = {
    "type": "array",
    "items": _block(_CONDITION) | {"required": ["type", "status", "reason", "message", "lastTransitionTime"]},
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
}

_SIDE = (
    StatusField("podHours", NUMBER, "Pod-hours that were billed."),
    StatusField("withinObjective", NUMBER, "Percent of the requests within objective.latency."),
    StatusField("rescales", WHOLE, "Changes of the replica count."),
)

_TENURE = (
    StatusField("mode", {**TEXT, "enum": [ON, ADVISORY]}, "Whether say decides, or is only told of."),
    StatusField("leader", TEXT, "The candidate with the most say; left out while nothing has been replayed."),
    StatusField("share", NUMBER, "The leader's share of the say, 0 to 1."),
    StatusField(
        "margin",
        NUMBER,
        "By how much the leader's replayed score (cost ratio plus the price of late requests) is below the tuned "
        "rule's; below 0 where it is above.",
    ),
    StatusField("learned", NUMBER, "The learned policy's share of the say, 0 to 1."),
    StatusField("history", TEXT, "How much replayed past the say rests on, old hours counting less, a duration."),
)

FIELDS: Final = (
    StatusField("observedGeneration", WHOLE, "The generation of the spec that this report speaks of."),
    StatusField(
        "mode",
        {**TEXT, "enum": list(MODES)},
        "The mode in force: spec.mode, Paused by the annotation rlscaler.io/paused, or Forced by "
        "rlscaler.io/force-replicas.",
    ),
    StatusField(
        "reason",
        TEXT,
        "What a person should know first, in one word: the reason of the most urgent condition, or of the decision.",
    ),
    StatusField("currentReplicas", WHOLE, "Pods of the target that exist."),
    StatusField("readyReplicas", WHOLE, "Pods of the target that serve."),
    StatusField(
        "desiredReplicas",
        WHOLE,
        "What the target should have by the last decision, or by force-replicas; in Shadow mode nobody asks it for it.",
    ),
    StatusField("lastScaleTime", TIME, "When rlscaler last changed the target."),
    StatusField("selector", TEXT, "The label selector of the target's pods."),
    StatusField(
        "policy",
        (
            StatusField("name", TEXT, "Its name."),
            StatusField("digest", TEXT, "sha256 of the artifact that is in use; left out for a rule."),
            StatusField("schema", TEXT, "Version of the observation that it takes; left out for a rule."),
            StatusField("tenure", _TENURE, "Who has which say by now; left out where nobody has to earn it."),
        ),
        "The policy that decides.",
    ),
    StatusField(
        "capacity",
        (
            StatusField("perReplica", TEXT, "Requests/s that a ready replica serves at full use, a quantity."),
            StatusField("startup", TEXT, "Time from a pod's creation until it serves, a duration."),
            StatusField("learned", FLAG, "Whether one of them was learned from history and not stated in the spec."),
        ),
        "What a replica can do, as the decision took it; what is unknown is left out.",
    ),
    StatusField(
        "decision",
        (
            StatusField("time", TIME, "When it was made."),
            StatusField("demand", NUMBER, "Replicas that the load would keep fully busy."),
            StatusField("recommendation", NUMBER, "Replicas that the rule would have."),
            StatusField("proposal", NUMBER, "Replicas that the policy proposed."),
            StatusField("replicas", WHOLE, "Replicas that were decided, after the guard."),
            StatusField("reasons", TEXTS, "What shaped it, one word each; `rlscaler schema` says what they mean."),
            StatusField("message", TEXT, "The same in words."),
        ),
        "The last decision that was worth reporting; unknown numbers are left out.",
    ),
    StatusField(
        "history",
        (StatusField("coverage", TEXT, "How much past load is known, a duration."),),
        "What is remembered of the workload.",
    ),
    StatusField(
        "comparison",
        (
            StatusField("since", TIME, "When the comparison began."),
            StatusField("over", TEXT, "Time with known load that it covers, a duration."),
            StatusField("live", _SIDE, "The replicas that the target had."),
            StatusField("virtual", _SIDE, "The replicas that rlscaler would have had."),
            StatusField("savings", NUMBER, "Percent of the live pod-hours that rlscaler would have saved."),
            StatusField("estimate", FLAG, "True: all of it is a simulation's answer."),
        ),
        "In Shadow mode: estimates of what the live replicas and rlscaler's own would have cost and given, both "
        "replayed in one simulated world.",
    ),
    StatusField("conditions", _CONDITIONS, f"The state of the workload: {', '.join(CONDITION_TYPES)}."),
)


def status_schema() -> dict[str, Any]:
    """Return the OpenAPI schema of `.status`, structural, every field described."""
    # Copied through JSON, so that no part is shared with the table or with another part.
    schema: dict[str, Any] = json.loads(json.dumps(_block(FIELDS)))
    return {"description": "What the operator reports."} | schema


def complete(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return a merge patch that makes a stored status equal to `status`, whatever was stored: None = remove."""
    return _complete(FIELDS, status)


def _complete(fields: tuple[StatusField, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for each in fields:
        value = values.get(each.name)
        block = isinstance(each.kind, tuple) and isinstance(value, Mapping)
        out[each.name] = _complete(each.kind, value) if block else value  # type: ignore[arg-type]
    return out


def clean(status: Any) -> dict[str, Any]:
    """Return what of a status is as this table has it; a status may come from another version or another hand."""
    return _clean(FIELDS, status) or {}


def _clean(fields: tuple[StatusField, ...], values: Any) -> dict[str, Any] | None:
    if not isinstance(values, Mapping):
        return None
    found = {each.name: _cleaned(each.kind, values.get(each.name)) for each in fields}
    return {name: value for name, value in found.items() if value is not None}


def _cleaned(kind: "Mapping[str, Any] | tuple[StatusField, ...]", value: Any) -> Any:
    """Return a value of one kind, None where it is none."""
    if isinstance(kind, tuple):
        return _clean(kind, value)
    if kind is _CONDITIONS:
        found = [_clean(_CONDITION, each) for each in value] if isinstance(value, list) else []
        needed = _CONDITIONS["items"]["required"]
        return [each for each in found if each and all(name in each for name in needed)] or None
    if kind is TEXTS:
        return value if isinstance(value, list) and all(isinstance(each, str) for each in value) else None
    types = _TYPES[kind["type"]]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        return None
    return value if value in kind.get("enum", (value,)) else None


_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
