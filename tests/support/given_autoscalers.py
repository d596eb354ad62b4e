"""HorizontalPodAutoscalers and ScaledObjects that people have: builders of named cases, and strategies for any."""

import string
from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]


def hpa(
    *metrics: Json, name: str = "web", namespace: str | None = "shop", kind: str = "Deployment", **spec: Any
) -> Json:
    """Return an HPA of autoscaling/v2 with these metrics; spec: other fields, None for one that is left out."""
    fields = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": name},
        "minReplicas": 2,
        "maxReplicas": 20,
        "metrics": list(metrics) or None,
    } | spec
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name} | ({} if namespace is None else {"namespace": namespace}),
        "spec": {field: value for field, value in fields.items() if value is not None},
    }


def scaled(*triggers: Json, name: str = "worker", **spec: Any) -> Json:
    """Return a ScaledObject with these triggers; spec: other fields."""
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"scaleTargetRef": {"name": name}, "triggers": list(triggers)} | spec,
    }


def trigger(kind: str, **metadata: str) -> Json:
    """Return a trigger."""
    return {"type": kind, "metadata": metadata}


def resource(name: str = "cpu", **target: Any) -> Json:
    """Return a Resource metric; the target is 60 % of the request where none is given."""
    return {
        "type": "Resource",
        "resource": {"name": name, "target": target or {"type": "Utilization", "averageUtilization": 60}},
    }


def average(value: Any) -> Json:
    """Return a target of each replica."""
    return {"type": "AverageValue", "averageValue": value}


def pods(name: str, value: Any = "10", **selector: Any) -> Json:
    """Return a Pods metric."""
    return {"type": "Pods", "pods": {"metric": {"name": name, "selector": selector}, "target": average(value)}}


def external(name: str, target: Json, **selector: Any) -> Json:
    """Return an External metric."""
    return {"type": "External", "external": {"metric": {"name": name, "selector": selector}, "target": target}}


def deployment(name: str = "web", *requests: str | None, kind: str = "Deployment") -> Json:
    """Return a workload of shop whose containers request these cores; None: states none."""
    containers = [
        {"name": f"c{index}", "resources": {} if cores is None else {"requests": {"cpu": cores}}}
        for index, cores in enumerate(requests)
    ]
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"template": {"spec": {"containers": containers}}},
    }


NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?(\.[a-z0-9]{1,9})?", fullmatch=True)
WORDS = st.text(min_size=1, max_size=30).filter(lambda text: bool(text.strip()))
QUANTITIES = st.from_regex(r"[1-9][0-9]{0,8}(\.[0-9]{1,4})?(m|k|Ki|M|Mi|n|u)?", fullmatch=True) | st.integers(1, 2**31)
COUNTS = st.integers(0, 200)
SELECTORS = st.fixed_dictionaries(
    {},
    optional={
        "matchLabels": st.dictionaries(WORDS.filter(lambda text: text != "__name__"), WORDS, max_size=2),
        "matchExpressions": st.lists(
            st.one_of(
                st.fixed_dictionaries(
                    {
                        "key": st.sampled_from(["a", "app.kubernetes.io/name", "9"]),
                        "operator": st.sampled_from(["In", "NotIn"]),
                        "values": st.lists(WORDS, min_size=1, max_size=3),
                    }
                ),
                st.fixed_dictionaries({"key": st.just("b-c"), "operator": st.sampled_from(["Exists", "DoesNotExist"])}),
            ),
            max_size=2,
        ),
    },
)


def _targets(*ways: str) -> st.SearchStrategy[Json]:
    forms = {
        "Utilization": st.fixed_dictionaries(
            {"type": st.just("Utilization"), "averageUtilization": st.integers(1, 400)}
        ),
        "AverageValue": st.builds(average, QUANTITIES),
        "Value": st.fixed_dictionaries({"type": st.just("Value"), "value": QUANTITIES}),
    }
    return st.one_of([forms[way] for way in ways])


_IDENTITY = st.fixed_dictionaries({"name": WORDS}, optional={"selector": SELECTORS})
METRICS = st.one_of(
    st.builds(
        lambda name, target: {"type": "Resource", "resource": {"name": name, "target": target}},
        st.sampled_from(["cpu", "memory"]),
        _targets("Utilization", "AverageValue"),
    ),
    st.builds(
        lambda container, target: {
            "type": "ContainerResource",
            "containerResource": {"name": "cpu", "container": container, "target": target},
        },
        NAMES,
        _targets("Utilization", "AverageValue"),
    ),
    st.builds(
        lambda metric, target: {"type": "Pods", "pods": {"metric": metric, "target": target}},
        _IDENTITY,
        _targets("AverageValue"),
    ),
    st.builds(
        lambda metric, target, name: {
            "type": "Object",
            "object": {"metric": metric, "target": target, "describedObject": {"kind": "Ingress", "name": name}},
        },
        _IDENTITY,
        _targets("AverageValue", "Value"),
        NAMES,
    ),
    st.builds(
        lambda metric, target: {"type": "External", "external": {"metric": metric, "target": target}},
        _IDENTITY,
        _targets("AverageValue", "Value"),
    ),
)
_RULES = st.fixed_dictionaries(
    {},
    optional={
        "stabilizationWindowSeconds": st.integers(0, 3600),
        "selectPolicy": st.sampled_from(["Max", "Min", "Disabled"]),
        "tolerance": st.sampled_from(["0.05", "1", "50m", 1]),
        "policies": st.lists(
            st.fixed_dictionaries(
                {
                    "type": st.sampled_from(["Pods", "Percent"]),
                    "value": st.integers(1, 100),
                    "periodSeconds": st.integers(1, 1800),
                }
            ),
            min_size=1,
            max_size=3,
        ),
    },
)
BEHAVIORS = st.fixed_dictionaries({}, optional={"scaleUp": _RULES, "scaleDown": _RULES})
KINDS = st.sampled_from(["Deployment", "StatefulSet", "ReplicaSet", "Rollout"])


@st.composite
def hpas(draw: st.DrawFn) -> Json:
    """Return an HPA as an API server would take it."""
    low = draw(COUNTS)
    value = hpa(
        *draw(st.lists(METRICS, max_size=3)),
        name=draw(NAMES),
        namespace=draw(st.none() | st.from_regex("[a-z]{1,10}", fullmatch=True)),
        kind=draw(KINDS),
        minReplicas=draw(st.just(low) | st.none()),
        maxReplicas=max(1, low) + draw(COUNTS),
    )
    if draw(st.booleans()):
        value["spec"]["behavior"] = draw(BEHAVIORS)
    return value


_PARAMETERS = st.text(string.ascii_letters + string.digits + '-_."\\/ ', min_size=1, max_size=20).filter(str.strip)
_RATES = st.sampled_from(["5", "0.5", "100.50", "1e3", "250m", "1e-9", "1e12"])
TRIGGERS = st.one_of(
    st.builds(
        lambda query, threshold, way: (
            trigger("prometheus", query=query, threshold=threshold, serverAddress="http://p:9090") | way
        ),
        st.sampled_from(
            ["sum(rate(a_total[2m]))", "up", "1e3", "sum(\n  a\n)\n", " a", "a # b", "on", 'a{b="\\\\d: x"}']
        ),
        _RATES,
        st.sampled_from([{}, {"metricType": "Value"}, {"metricType": "AverageValue"}]),
    ),
    st.builds(
        lambda threshold, horizon: trigger("predictkube", query="up", threshold=threshold, predictHorizon=horizon),
        _RATES,
        _PARAMETERS,
    ),
    st.builds(
        lambda value: trigger("cpu", value=value) | {"metricType": "Utilization"}, st.sampled_from(["50", "150"])
    ),
    st.builds(lambda topic, group: trigger("kafka", topic=topic, consumerGroup=group), _PARAMETERS, _PARAMETERS),
    st.builds(
        lambda queue, mode, value: trigger("rabbitmq", queueName=queue, mode=mode, value=value),
        _PARAMETERS,
        st.sampled_from(["QueueLength", "MessageRate"]),
        _RATES,
    ),
    st.builds(lambda kind: trigger(kind, whatever="1"), st.sampled_from(["cron", "memory", "aws-sqs-queue"])),
)


@st.composite
def scaled_objects(draw: st.DrawFn) -> Json:
    """Return a ScaledObject as KEDA would take it."""
    value = scaled(*draw(st.lists(TRIGGERS, min_size=1, max_size=3)), name=draw(NAMES))
    low = draw(COUNTS)
    more: Json = {
        "minReplicaCount": low,
        "maxReplicaCount": max(1, low) + draw(COUNTS),
        "idleReplicaCount": 0,
        "cooldownPeriod": 300,
        "fallback": {
            "failureThreshold": draw(st.integers(0, 10_000)),
            "replicas": draw(COUNTS),
            "behavior": draw(st.sampled_from(["static", "currentReplicas", "currentReplicasIfLower", "else"])),
        },
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": draw(BEHAVIORS)}},
    }
    for field, given in more.items():
        if draw(st.booleans()):
            value["spec"][field] = given
    if value["spec"].get("minReplicaCount", 0) > value["spec"].get("maxReplicaCount", 100):
        value["spec"]["maxReplicaCount"] = value["spec"]["minReplicaCount"]
    return value
