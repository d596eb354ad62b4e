"""KEDA's ScaledObjects (keda.sh/v1alpha1).

Source of the fields and their defaults: kedacore/keda, apis/keda/v1alpha1/scaledobject_types.go: apps/v1 Deployment, 0
to 100 replicas, a look every 30 s, 300 s before 0, a fallback to just its replicas.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rlscaler.convert import triggers
from rlscaler.convert.autoscaler import LARGEST, Autoscaler, Fallback, Measure, Rank
from rlscaler.convert.given import Given
from rlscaler.convert.hpa import checked_behavior
from rlscaler.convert.measures import Who
from rlscaler.convert.objects import Object
from rlscaler.convert.workloads import Workloads, target
from rlscaler.quantities import shown
from rlscaler.settings import LossAction

GROUP, KIND = "keda.sh", "ScaledObject"
VERSION = "v1alpha1"
DEFAULT_MOST, DEFAULT_POLLING, DEFAULT_COOLDOWN = 100, 30, 300
_PAUSED_REPLICAS = "paused-replicas"
_PAUSES = ("paused", _PAUSED_REPLICAS, "paused-scale-in", "paused-scale-out", "paused-scale-down")
_LONGEST_LOSS = 86_400
_FALLBACKS: dict[str, LossAction] = {
    "static": "Replicas",
    "currentReplicas": "Hold",
    "currentReplicasIfHigher": "ReplicasIfHigher",
    "currentReplicasIfLower": "ReplicasIfLower",
}
"""KEDA's fallback.behavior: the present count where that is higher (lower), else the stated one (pkg/fallback)."""


def read(source: Object, workloads: Workloads) -> Autoscaler:
    """Return a ScaledObject as it is carried over; raises Refused."""
    if source.version != VERSION:
        version = source.given.need("apiVersion", f"{GROUP}/{VERSION}")
        raise version.refused(f"{source.api_version} is not read; expected {GROUP}/{VERSION}")
    name, namespace = source.name(), source.namespace()
    spec = source.given.need("spec", "what the ScaledObject asks for")
    to = target(spec.need("scaleTargetRef", "a mapping with name"), "ScaledObject", kind_left_out="Deployment")
    where = namespace or "default"
    who = Who(where, to[1].value, to[2].value, workloads.get((to[1].value, where, to[2].value)))
    low, high = spec.get("minReplicaCount"), spec.get("maxReplicaCount")
    fewest = 0 if low is None else low.whole(0)
    most = DEFAULT_MOST if high is None else high.whole(1)
    if fewest > most:
        bounds = low or spec
        raise bounds.refused(f"{fewest} is above maxReplicaCount {most}; expected at most {most}")
    behavior = spec.at("advanced", "horizontalPodAutoscalerConfig", "behavior")
    listed = spec.need("triggers", "a list of triggers")
    found = [triggers.measure(each, who) for each in listed.items("a list of triggers")]
    if not found:
        raise listed.refused("empty; expected at least one trigger")
    found = [replace(each, called=called) for each, called in zip(found, _apart(listed, found), strict=True)]
    formula = spec.at("advanced", "scalingModifiers", "formula")
    if formula is not None:
        found = [_beside_formula(each) for each in found]
    return Autoscaler(
        source=source,
        short="ScaledObject",
        name=name,
        namespace=namespace,
        target=to,
        min_replicas=fewest,
        min_comment="KEDA's default" if low is None else "the ScaledObject's minReplicaCount",
        max_replicas=most,
        max_comment="KEDA's default" if high is None else "the ScaledObject's maxReplicaCount",
        behavior=None if behavior is None else checked_behavior(behavior).node,
        behavior_comment="the ScaledObject's advanced.horizontalPodAutoscalerConfig.behavior",
        fallback=_fallback(spec),
        measures=found,
        several=LARGEST if formula is None else "has a formula of them",
        notes=[*_pauses(source), *_of_spec(spec, fewest)],
        of_zero=_of_zero(spec, listed, found),
    )


def _apart(listed: Given, found: Sequence[Measure]) -> list[str]:
    """Return what people call each trigger; of several that read the same, by its name or, as KEDA does, its index."""
    alike = Counter(each.called for each in found)
    out = []
    for index, (trigger, measure) in enumerate(zip(listed.items(), found, strict=True)):
        name = trigger.get("name")
        if alike[measure.called] == 1:
            out.append(f"trigger {measure.called}")
        elif name is not None and name.node.text.strip():
            out.append(f"trigger {shown(name.node.text)} ({measure.called})")
        else:
            out.append(f"trigger s{index}-{measure.called}")
    return out


def _beside_formula(measure: Measure) -> Measure:
    """Return a measure whose own target KEDA does not ask, since what a formula makes of several has one."""
    if measure.rank is not Rank.RATE:
        return measure
    text = "its threshold is not asked beside advanced.scalingModifiers, whose target is of the formula"
    return replace(measure, rank=Rank.TOTAL, per_replica=None, capacity=text)


def _of_zero(spec: Given, listed: Given, found: Sequence[Measure]) -> list[str]:
    """Return notes on what KEDA waits for before it goes to 0 and leaves it."""
    cooldown = spec.get("cooldownPeriod")
    text = f"{DEFAULT_COOLDOWN} s before 0, KEDA's default" if cooldown is None else f"{cooldown.whole(0)} s before 0"
    notes = [f"cooldownPeriod of {text}: the policy decides on that"]
    for each, measure in zip(listed.items(), found, strict=True):
        metadata = each.need("metadata", "the trigger's parameters")
        for name in metadata.names():
            value = metadata.need(name, "text").node.text.strip()
            if name.startswith("activation") and value not in ("", "0"):
                notes.append(f"{measure.called}: {shown(name)} of {shown(value)}, up to which KEDA stays at 0: here "
                             "any load asks for a replica")  # fmt: skip
    return notes


def _fallback(spec: Given) -> Fallback | None:
    given = spec.get("fallback")
    if given is None:
        return None
    failures = given.need("failureThreshold", "a whole number, 0 or more").whole(0)
    replicas = given.need("replicas", "a whole number, 0 or more").whole(0)
    behavior = given.get("behavior")
    word = "static" if behavior is None else behavior.scalar("a behavior of KEDA's fallback")
    polling = spec.get("pollingInterval")
    seconds = failures * (DEFAULT_POLLING if polling is None else polling.whole(1))
    # Of a behavior that is not known here, the reading that takes nothing away.
    action = _FALLBACKS.get(word, "ReplicasIfHigher")
    return Fallback(min(seconds, _LONGEST_LOSS), action, None if action == "Hold" else replicas)


def _pauses(source: Object) -> list[str]:
    """Return notes on the annotations by which KEDA is held still."""
    annotations = source.given.at("metadata", "annotations")
    out = []
    for name in _PAUSES:
        found = None if annotations is None else annotations.get(f"autoscaling.keda.sh/{name}")
        if found is not None and (name == _PAUSED_REPLICAS or not found.is_no()):
            out.append(f"KEDA is held still by autoscaling.keda.sh/{name}: {shown(found.node.text)}")
    return out


def _of_spec(spec: Given, fewest: int) -> list[str]:
    """Return notes on what has no counterpart."""
    notes = []
    idle = spec.get("idleReplicaCount")
    if idle is not None:
        notes.append(f"idleReplicaCount of {idle.whole(0)}: without load there are minReplicas, {fewest}")
    formula = spec.at("advanced", "scalingModifiers", "formula")
    if formula is not None:
        notes.append("advanced.scalingModifiers.formula: one trigger is taken as the load, as it stands")
    restored = spec.at("advanced", "restoreToOriginalReplicaCount")
    if restored is not None and restored.node.text == "true":
        notes.append("advanced.restoreToOriginalReplicaCount: set it to false before you delete the ScaledObject, or "
                     "KEDA puts back the count of before it")  # fmt: skip
    behavior = spec.at("fallback", "behavior")
    if behavior is not None and behavior.node.text not in _FALLBACKS:
        notes.append(f"fallback.behavior {shown(behavior.node.text)}: written as ReplicasIfHigher, which takes nothing "
                     "away")  # fmt: skip
    return notes
