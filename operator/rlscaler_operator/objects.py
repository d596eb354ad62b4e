"""What the operator needs of the objects that its watches show, taken out of their JSON. Pure; nothing keeps a body.

Nothing here raises on what an object says: a resource that cannot be used becomes a workload with a problem, and a
number that is none counts as left out.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from sys import intern
from typing import Any, NamedTuple

from rlscaler.custom_resource import Resource, ResourceError, resource_from_object
from rlscaler.resource_values import INT32_MAX
from rlscaler_operator.conflicts import MANAGER, RivalKind
from rlscaler_operator.model import Key, Note, Target, TargetKey, Workload
from rlscaler_operator.timestamps import seconds_of

PAUSED = "rlscaler.io/paused"
FORCE_REPLICAS = "rlscaler.io/force-replicas"
_OURS = "rlscaler.io/"
"""What begins the name of every annotation that is meant for the operator."""
_MOST_PROBLEMS = 3
"""Problems of a resource that its condition names; `rlscaler validate` shows all."""


class Identity(NamedTuple):
    """Which object it is, and in which state. version: its resourceVersion, -1 where that is no number."""

    namespace: str
    name: str
    uid: str
    version: int


class Owner(NamedTuple):
    """An autoscaler of another kind. keda: the ScaledObject that an HPA belongs to, "" where it is nobody's."""

    kind: RivalKind
    namespace: str
    name: str
    uid: str
    target: TargetKey
    keda: str


class Packed(Mapping[str, Any]):
    """A JSON object that is kept as text and read at each access: a tenth of the memory, for what is seldom read."""

    __slots__ = ("_text",)

    def __init__(self, value: Mapping[str, Any]) -> None:
        """Pack the object."""
        self._text = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

    def __getitem__(self, name: str) -> Any:
        """Return a value of the object."""
        return json.loads(self._text)[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(json.loads(self._text))

    def __len__(self) -> int:
        """Return the number of names."""
        return len(json.loads(self._text))


def identity(body: Mapping[str, Any]) -> Identity:
    """Return which object a body shows."""
    metadata = _mapping(body.get("metadata"))
    version = str(metadata.get("resourceVersion", ""))
    number = int(version) if version.isascii() and version.isdigit() else -1
    return Identity(intern(_text(metadata, "namespace")), _text(metadata, "name"), _text(metadata, "uid"), number)


def is_going(body: Mapping[str, Any]) -> bool:
    """Tell whether somebody has deleted the object, though it may still be there for a while."""
    return bool(_mapping(body.get("metadata")).get("deletionTimestamp"))


def workload(body: Mapping[str, Any], last: Workload | None = None) -> Workload:
    """Return the workload of an RLScaler. last: what was known of it, whose spec is taken over if it is the same."""
    metadata = _mapping(body.get("metadata"))
    who = identity(body)
    key, generation = Key(who.namespace, who.name), _whole(metadata.get("generation"), 0)
    if last is not None and (last.uid, last.generation) == (who.uid, generation) and generation > 0:
        key, resource, problem, claims = last.key, last.resource, last.problem, last.claims
    else:
        resource, problem = _resource(body, who)
        claims = _claims(body, who) if resource is None else None
    annotations = _mapping(metadata.get("annotations"))
    force, annotation_problem = _force(annotations.get(FORCE_REPLICAS))
    return Workload(
        key=key,
        uid=who.uid,
        generation=generation,
        created=seconds_of(metadata.get("creationTimestamp")),
        resource=resource,
        problem=problem,
        paused=PAUSED in annotations and annotations[PAUSED] != "false",
        force=force,
        annotation_problem=annotation_problem or _unread(annotations),
        status=Packed(_mapping(body.get("status"))),
        claims=claims,
    )


def target_key(body: Mapping[str, Any]) -> TargetKey:
    """Return what names an object as a target."""
    who = identity(body)
    return TargetKey(who.namespace, _group(body), intern(_text(body, "kind")), who.name)


def target(body: Mapping[str, Any]) -> Target:
    """Return the target of a Deployment, StatefulSet or ReplicaSet, or of anything with the same fields."""
    spec, status = _mapping(body.get("spec")), _mapping(body.get("status"))
    manager, managed_at = set_by(body)
    return Target(
        key=target_key(body),
        uid=identity(body).uid,
        desired=_whole(spec.get("replicas"), 1),
        replicas=_whole(status.get("replicas"), 0),
        ready=_whole(status.get("readyReplicas"), 0),
        selector=selector_text(_mapping(spec.get("selector"))),
        manager=manager,
        managed_at=managed_at,
    )


def ready_of(body: Mapping[str, Any]) -> int | None:
    """Return the ready replicas that a custom object tells of, None where it does not."""
    status = _mapping(body.get("status"))
    for name in ("readyReplicas", "availableReplicas"):
        if isinstance(status.get(name), int):
            return _whole(status[name], 0)
    return None


def owner(body: Mapping[str, Any]) -> Owner | None:
    """Return the owner of a HorizontalPodAutoscaler or ScaledObject, None where it names no target."""
    metadata, who = _mapping(body.get("metadata")), identity(body)
    ref = _mapping(_mapping(body.get("spec")).get("scaleTargetRef"))
    if not isinstance(ref.get("name"), str):
        return None
    kind: RivalKind = "ScaledObject" if body.get("kind") == "ScaledObject" else "HorizontalPodAutoscaler"
    keda = ""
    if kind == "HorizontalPodAutoscaler":
        references = metadata.get("ownerReferences")
        for reference in references if isinstance(references, list) else ():
            if _mapping(reference).get("kind") == "ScaledObject":
                keda = _text(reference, "name")
    # KEDA's defaults; an HPA always states both.
    group = str(ref.get("apiVersion") or "apps/v1").rpartition("/")[0]
    names = TargetKey(who.namespace, intern(group), intern(str(ref.get("kind") or "Deployment")), ref["name"])
    return Owner(kind, who.namespace, who.name, who.uid, names, keda)


def set_by(body: Mapping[str, Any]) -> tuple[str, float]:
    """Return the field manager that last set the replicas, and when; ("", NaN) where the object does not tell.

    Whoever writes through /scale is recorded as such whatever the field is called, but without a time; others are
    found if the field is spec.replicas. Several that are recorded agree on the count: we come first, then the latest.
    """
    found: list[tuple[bool, float, str]] = []
    entries = _mapping(body.get("metadata")).get("managedFields")
    for entry in entries if isinstance(entries, list) else ():
        entry = _mapping(entry)
        fields = _mapping(_mapping(entry.get("fieldsV1")).get("f:spec"))
        if (entry.get("subresource") == "scale" and fields) or "f:replicas" in fields:
            manager, at = intern(_text(entry, "manager")), seconds_of(entry.get("time"))
            found.append((manager == MANAGER, -math.inf if math.isnan(at) else at, manager))
    if not found:
        return "", math.nan
    _, at, manager = max(found)
    return manager, at if math.isfinite(at) else math.nan


def selector_text(selector: Mapping[str, Any]) -> str:
    """Return a label selector as the API takes it in a query (`app=web,tier in (a,b),!old`)."""
    parts = [f"{key}={value}" for key, value in sorted(_mapping(selector.get("matchLabels")).items())]
    for rule in selector.get("matchExpressions") or ():
        rule = _mapping(rule)
        key, operator = _text(rule, "key"), rule.get("operator")
        values = ",".join(sorted(map(str, rule.get("values") or ())))
        if operator in ("In", "NotIn"):
            parts.append(f"{key} {str(operator).lower()} ({values})")
        else:
            parts.append(key if operator == "Exists" else f"!{key}")
    return ",".join(parts)


def _resource(body: Mapping[str, Any], who: Identity) -> tuple[Resource | None, Note | None]:
    spec = body.get("spec")
    plain = {"apiVersion": body.get("apiVersion"), "kind": body.get("kind")}
    plain["metadata"] = {"name": who.name, "namespace": who.namespace}
    if spec is not None:
        plain["spec"] = _shared(spec)
    try:
        return resource_from_object(plain), None
    except ResourceError as error:
        problems = [f"{p.place.path}: {p.text}" if p.place.path else p.text for p in error.problems]
    more = len(problems) - _MOST_PROBLEMS
    text = "; ".join(problems[:_MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
    return None, Note("InvalidSpec", text)


def _claims(body: Mapping[str, Any], who: Identity) -> TargetKey | None:
    """Return the target that a spec names which cannot be used, None in mode Shadow or where it names none."""
    spec = _mapping(body.get("spec"))
    ref = _mapping(spec.get("scaleTargetRef"))
    named = [_text(ref, part) for part in ("apiVersion", "kind", "name")]
    if not all(named) or spec.get("mode", "Shadow") == "Shadow":
        return None
    return TargetKey(who.namespace, intern(named[0].rpartition("/")[0]), intern(named[1]), named[2])


def _shared(spec: Any) -> Any:
    """Return a spec whose queries are one string in memory however many resources ask them."""
    metrics = _mapping(spec).get("metrics")
    if not isinstance(metrics, dict):
        return spec
    shared = {
        name: metric | {"query": intern(metric["query"])}
        if isinstance(metric, dict) and type(metric.get("query")) is str
        else metric
        for name, metric in metrics.items()
    }
    return spec | {"metrics": shared}


def _force(text: object) -> tuple[int | None, Note | None]:
    if text is None:
        return None, None
    if re.fullmatch(r"[0-9]{1,10}", str(text)) and int(str(text)) <= INT32_MAX:
        return int(str(text)), None
    shown = str(text) if len(str(text)) <= 40 else f"{str(text)[:40]}..."
    message = f"annotation {FORCE_REPLICAS}: {shown!r} is no count; expected a whole number, 0 or more, or remove it"
    return None, Note("InvalidAnnotation", message)


def _unread(annotations: Mapping[str, Any]) -> Note | None:
    """Return what is wrong with a name such as rlscaler.io/pause: who stops it in a hurry has to hear of a slip."""
    for name in sorted(annotations):
        if name.startswith(_OURS) and name not in (PAUSED, FORCE_REPLICAS):
            message = f"annotation {name}: nothing reads it; expected {PAUSED} or {FORCE_REPLICAS}, or remove it"
            return Note("InvalidAnnotation", message)
    return None


def _group(body: Mapping[str, Any]) -> str:
    return intern(_text(body, "apiVersion").rpartition("/")[0])


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) else ""


def _whole(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
