"""HorizontalPodAutoscalers, of autoscaling/v2, v2beta2 (the same shape) and v1.

Source of the fields and their defaults: k8s.io/api/autoscaling/v2, and kubernetes/pkg/apis/autoscaling/v2/defaults.go:
one replica at least, and CPU use of 80 % where no metric is stated.
"""

from dataclasses import replace

from rlscaler.convert import measures
from rlscaler.convert.autoscaler import Autoscaler, Measure, Rank
from rlscaler.convert.given import Given
from rlscaler.convert.measures import Who
from rlscaler.convert.objects import Object
from rlscaler.convert.promql import Matcher
from rlscaler.convert.workloads import Workloads, target
from rlscaler.quantities import shown
from rlscaler.resource_behavior import BEHAVIOR

GROUP, KIND = "autoscaling", "HorizontalPodAutoscaler"
VERSIONS = ("v2", "v2beta2", "v1")
SOURCES = ("Resource", "ContainerResource", "Pods", "Object", "External")
DEFAULT_UTILIZATION = 80
_HIDDEN = "autoscaling.alpha.kubernetes.io/"
"""Prefix of the annotations in which autoscaling/v1 carries what it has no fields for."""


def made_by(source: Object) -> str | None:
    """Return the name of the ScaledObject that an HPA belongs to, None where it is nobody's; raises Refused."""
    owners = source.given.at("metadata", "ownerReferences")
    for owner in owners.items("a list of owners") if owners is not None else ():
        kind = owner.get("kind")
        if kind is not None and kind.node.text == "ScaledObject":
            return owner.need("name", "the name of the owner").scalar("the name of the owner")
    return None


def read(source: Object, workloads: Workloads) -> Autoscaler:
    """Return an HPA as it is carried over; raises Refused."""
    if source.version not in VERSIONS:
        version = source.given.need("apiVersion", "autoscaling/v2")
        raise version.refused(f"{source.api_version} is not read; expected autoscaling/v2, as kubectl get "
                              f"hpa.v2.autoscaling gives it")  # fmt: skip
    name, namespace = source.name(), source.namespace()
    spec = source.given.need("spec", "what the HPA asks for")
    reference = spec.need("scaleTargetRef", "a mapping with apiVersion, kind, name")
    to = target(reference, "HPA")
    where = namespace or "default"
    who = Who(where, to[1].value, to[2].value, workloads.get((to[1].value, where, to[2].value)))
    low = spec.get("minReplicas")
    high = spec.need("maxReplicas", "a whole number, 1 or more")
    fewest = 1 if low is None else low.whole(0)
    most = high.whole(1)
    if low is not None and fewest > most:
        raise low.refused(f"{fewest} is above maxReplicas {most}; expected at most {most}")
    behavior = spec.get("behavior")
    if behavior is not None:
        behavior = checked_behavior(behavior)
    return Autoscaler(
        source=source,
        short="HPA",
        name=name,
        namespace=namespace,
        target=to,
        min_replicas=fewest,
        min_comment="the HPA's minReplicas" if low is not None else "HPA's default",
        max_replicas=most,
        max_comment="the HPA's maxReplicas",
        behavior=None if behavior is None else behavior.node,
        behavior_comment="the HPA's behavior",
        measures=_version1(source, spec, who) if source.version == "v1" else _metrics(spec, who),
    )


def checked_behavior(behavior: Given) -> Given:
    """Return `behavior` as an RLScaler takes it: a tolerance as text, fields that are null left out; raises Refused."""
    entries = []
    for name in behavior.names():
        rules = behavior.need(name, "rules")
        if rules.node.kind == "mapping":
            fields = [
                (key, replace(value, kind="text") if key.text == "tolerance" and value.kind == "number" else value)
                for key, value in rules.node.entries
                if value.kind != "null"
            ]
            entries.append((next(k for k, _ in behavior.node.entries if k.text == name),
                            replace(rules.node, entries=fields)))  # fmt: skip
        else:
            entries.append((next(k for k, _ in behavior.node.entries if k.text == name), rules.node))
    found = Given(replace(behavior.node, entries=entries), behavior.place)
    found.value(BEHAVIOR)
    return found


def _version1(source: Object, spec: Given, who: Who) -> list[Measure]:
    """Return the measures of autoscaling/v1, which has a field for CPU use alone."""
    annotations = source.given.at("metadata", "annotations")
    for name in annotations.names() if annotations is not None else ():
        if annotations is not None and name in (f"{_HIDDEN}metrics", f"{_HIDDEN}behavior"):
            raise annotations.refused(
                f"{name} carries what autoscaling/v1 has no field for; expected the HPA as autoscaling/v2, as "
                f"kubectl get hpa.v2.autoscaling {who.name} -o yaml gives it"
            )
    field = spec.get("targetCPUUtilizationPercentage")
    return [_default_cpu(who)] if field is None else [_cpu(who, str(field.whole(1)))]


def _default_cpu(who: Who) -> Measure:
    found = _cpu(who, str(DEFAULT_UTILIZATION))
    return replace(found, notes=[*found.notes, f"the HPA states no metric, so its default was CPU use of "
                                               f"{DEFAULT_UTILIZATION} %"])  # fmt: skip


def _cpu(who: Who, percent: str) -> Measure:
    return measures.cpu(who, "CPU use", percent, None, utilization=True)


def _metrics(spec: Given, who: Who) -> list[Measure]:
    listed = spec.get("metrics")
    found = [_measure(each, who) for each in listed.items("a list of metrics")] if listed is not None else []
    return found or [_default_cpu(who)]


def _measure(metric: Given, who: Who) -> Measure:
    kind = metric.need("type", f"one of {', '.join(SOURCES)}").word(SOURCES)
    field = kind[0].lower() + kind[1:]
    source = metric.need(field, f"what the {kind} metric is, since type is {kind}")
    if kind in ("Resource", "ContainerResource"):
        return _resource(source, kind, who)
    return _series(source, kind, who)


def _resource(source: Given, kind: str, who: Who) -> Measure:
    name = source.need("name", "cpu or memory").scalar("cpu or memory")
    expected = "the name of the container"
    container = source.need("container", expected).scalar(expected) if kind == "ContainerResource" else None
    way, target_value = _target(source, ("Utilization", "AverageValue"))
    if name != "cpu":
        return Measure(
            called=f"the use of {shown(name)}", rank=Rank.NONE,
            missing="it does not follow the load",
        )  # fmt: skip
    called = "CPU use" if container is None else f"the CPU use of container {shown(container)}"
    return measures.cpu(who, called, target_value, container, utilization=way == "Utilization")


def _series(source: Given, kind: str, who: Who) -> Measure:
    expected = "a mapping with name"
    identity = source.need("metric", expected)
    metric = identity.need("name", "the name of the metric").scalar("the name of the metric")
    selected, notes = measures.matchers(identity.get("selector"))
    way, value = _target(source, ("AverageValue",) if kind == "Pods" else ("AverageValue", "Value"))
    of: list[Matcher] = []
    if kind == "Pods":
        of, origin = who.pods, "the custom-metrics API's"
    elif kind == "Object":
        described = source.need("describedObject", "a mapping with kind and name")
        label, name = (described.need(f, f"the object's {f}").scalar(f"the object's {f}") for f in ("kind", "name"))
        of = [Matcher("namespace", "=", who.namespace), Matcher(measures.label_of(label), "=", name)]
        origin = "the custom-metrics API's"
    else:
        origin = "the external-metrics API's"
    found = measures.series(metric, [*of, *selected], f"the {kind} metric {shown(metric)}", origin,
                            of_pods=kind == "Pods")  # fmt: skip
    found = replace(found, notes=[*found.notes, *notes])
    return measures.per_replica(found, value) if way == "AverageValue" else found


def _target(source: Given, ways: tuple[str, ...]) -> tuple[str, str]:
    """Return the type of a target and its value, percent or a quantity."""
    given = source.need("target", f"a mapping with type, one of {', '.join(ways)}")
    way = given.need("type", f"one of {', '.join(ways)}").word(ways)
    if way == "Utilization":
        return way, str(given.need("averageUtilization", "percent of the request, since type is Utilization").whole(1))
    field = way[0].lower() + way[1:]
    return way, given.need(field, f"a quantity above 0, since type is {way}").quantity()
