"""Mistakes that people make in an RLScaler, and what they should be told of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from shop import QUERY

# --- what is refused


class Refused(NamedTuple):
    """Fields of the spec that neither the API server nor `rlscaler validate` takes. None: the field is left out.

    by_server, by_reader: words that each one's answer has.
    """

    spec: Mapping[str, Any]
    by_server: tuple[str, ...]
    by_reader: tuple[str, ...]


_UNITS = "(h|m|s|ms)"
REFUSED = {
    "interval without a unit": Refused(
        {"interval": "15"},
        ("spec.interval", '"15"', _UNITS, "expected a duration at least 1s and at most 5m", "write 15s"),
        ("spec.interval: 15 has no unit; write 15s if seconds are meant",),
    ),
    "interval as a number": Refused(
        {"interval": 15},
        ("spec.interval", "15 has no unit; write 15s if seconds are meant"),
        ("spec.interval: 15 has no unit; write 15s",),
    ),
    "interval in minutes": Refused(
        {"interval": "15m"},
        ('spec.interval: Invalid value: "15m": expected a duration at least 1s and at most 5m',),
        ("spec.interval: 15m is out of bounds; expected at least 1s and at most 5m",),
    ),
    "latency in bare milliseconds": Refused(
        {"objective": {"latency": "500"}},
        ("spec.objective.latency", '"500"', _UNITS, "expected a duration above 0s"),
        ("spec.objective.latency: 500 has no unit",),
    ),
    "target with a % sign": Refused(
        {"objective": {"target": "99.9%"}},
        ("spec.objective.target", '"99.9%"', "expected a number above 0 and below 100"),
        ('spec.objective.target: 99.9% has a % sign; write "99.9"',),
    ),
    "target that cannot be met": Refused(
        {"objective": {"target": "100"}},
        ("spec.objective.target", '"100"', "expected a number above 0 and below 100"),
        ("spec.objective.target: 100 is out of bounds; expected above 0 and below 100",),
    ),
    "target as a bare fraction": Refused(
        {"objective": {"target": 99.9}},
        ("spec.objective.target", "number"),
        ('spec.objective.target: 99.9 is a bare fraction; write "99.9" in quotes',),
    ),
    "quantile in percent": Refused(
        {"metrics": {"load": {"query": "up"}, "latency": {"query": "up", "quantile": "95"}}},
        ("spec.metrics.latency.quantile", '"95"', "expected a number above 0 and below 1"),
        ("spec.metrics.latency.quantile: 95 is out of bounds; expected above 0 and below 1",),
    ),
    "capacity in milli-requests": Refused(
        {"capacity": {"perReplica": "50m"}},
        ("objective.latency must be above the time that one request takes, concurrency / perReplica seconds",),
        ("spec.objective.latency: 500ms is not above the 20 s", "perReplica 0.05", "expected a longer latency, or"),
    ),
    "capacity with a unit": Refused(
        {"capacity": {"perReplica": "50rps"}},
        ("spec.capacity.perReplica", '"50rps"', "expected a quantity above 0"),
        ("spec.capacity.perReplica: 50rps is not a quantity; expected one such as 50",),
    ),
    "negative capacity": Refused(
        {"capacity": {"perReplica": "-50"}},
        ("spec.capacity.perReplica", '"-50"', "expected a quantity above 0"),
        ("spec.capacity.perReplica: -50 is out of bounds; expected above 0",),
    ),
    "capacity of zero": Refused(
        {"capacity": {"perReplica": 0}},
        ("spec.capacity.perReplica", "expected a quantity above 0"),
        ("spec.capacity.perReplica: 0 is out of bounds; expected above 0",),
    ),
    "more at least than at most": Refused(
        {"minReplicas": 60},
        ("minReplicas must be at most maxReplicas",),
        ("spec.minReplicas: 60 is above maxReplicas 50; expected at most 50",),
    ),
    "negative count": Refused(
        {"minReplicas": -1},
        ("spec.minReplicas: Invalid value: -1", "greater than or equal to 0"),
        ("spec.minReplicas: -1 is out of bounds; expected 0 or more",),
    ),
    "no upper bound": Refused(
        {"maxReplicas": None},
        ("spec.maxReplicas: Required value",),
        ("spec.maxReplicas: missing; expected a whole number, 1 or more",),
    ),
    "fallback without a count": Refused(
        {"onMetricLoss": {"action": "Replicas"}},
        ("spec.onMetricLoss", "replicas is required unless action is Hold"),
        ("spec.onMetricLoss.replicas: missing; expected a whole number, since action is Replicas",),
    ),
    "misspelt field": Refused(
        {"minReplica": 4},
        ('unknown field "spec.minReplica"',),
        ("spec.minReplica: unknown field; did you mean minReplicas?",),
    ),
    "misspelt mode": Refused(
        {"mode": "active"},
        ('spec.mode: Unsupported value: "active": supported values: "Shadow", "Active", "Paused"',),
        ("spec.mode: active is not known; expected one of Shadow, Active, Paused",),
    ),
    "two policies": Refused(
        {"policy": {"name": "default", "server": "gpu"}},
        ("spec.policy", "expected exactly one of name and server"),
        ("spec.policy: both name and server are given; expected one of them",),
    ),
    "kind in lower case": Refused(
        {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "deployment", "name": "web"}},
        ("spec.scaleTargetRef.kind", '"deployment"', "^[A-Z]"),
        ("spec.scaleTargetRef.kind: deployment is not allowed; expected a kind such as Deployment",),
    ),
    "empty query": Refused(
        {"metrics": {"load": {"query": " "}}},
        ("spec.metrics.load.query", "should match"),
        ("spec.metrics.load.query: empty text; expected a PromQL query",),
    ),
}


# --- what is taken, and told of in a condition


class Told(NamedTuple):
    """Fields of the spec and annotations that are taken, and the condition that tells what is wrong with them.

    Its reason, its status, and words that its message has. In all texts {name} is the workload's name. target: the
    Deployment of that name is there.
    """

    condition: str
    status: str
    reason: str
    words: tuple[str, ...]
    spec: Mapping[str, Any] = {}
    annotations: Mapping[str, str] = {}


def _load(reason: str, query: str, *words: str, match: Mapping[str, str] | None = None) -> Told:
    labels = {"deployment": "{name}"} if match is None else dict(match)
    metrics = {"load": {"query": query, "match": labels}}
    return Told("ScalingActive", "False", reason, ("spec.metrics.load", *words), {"metrics": metrics})


def _also(name: str, query: str, *words: str, **more: str) -> Told:
    """Return a mistake in a metric beside the load."""
    load = {"query": QUERY, "match": {"deployment": "{name}"}}
    metrics = {"load": load, name: {"query": query, **more}}
    return Told("ScalingActive", "True", "MetricMissing", (f"spec.metrics.{name}", *words), {"metrics": metrics})


def _target(reason: str, api_version: str, kind: str, name: str, *words: str) -> Told:
    reference = {"apiVersion": api_version, "kind": kind, "name": name}
    return Told("Ready", "False", reason, ("spec.scaleTargetRef: ", *words), {"scaleTargetRef": reference})


def _policy(reason: str, *words: str, **policy: str) -> Told:
    return Told("Ready", "False", reason, words, {"policy": policy})


def _force(value: str) -> Told:
    words = ("annotation rlscaler.io/force-replicas", repr(value), "expected a whole number, 0 or more, or remove it")
    return Told("Ready", "False", "InvalidAnnotation", words, annotations={"rlscaler.io/force-replicas": value})


_PATIENT = {"objective": {"latency": "2s"}}
TOLD = {
    # PromQL
    "unclosed": _load("BadQuery", "sum(rate(load_rps[1m])", ".query: ", "parse error", "unclosed left parenthesis"),
    "unknown-function": _load("BadQuery", "summe(load_rps)", ".query: ", 'unknown function with name "summe"'),
    "range-vector": _load("BadQuery", "load_rps[5m]", ".query: ", "a range of values ([5m]); put rate()"),
    "text": _load("BadQuery", '"load_rps"', ".query: ", "expected one that returns numbers"),
    "dashboard-variable": _load("BadQuery", "rate(load_rps[$__rate_interval])", ".query: ", "parse error"),
    "many-to-many": _load("BadQuery", "load_rps / on() group_left() load_rps", ".query: ", "many-to-many"),
    # Series
    "misspelt-metric": _load("NoData", "lood_rps", "no series", "does the metric exist", match={}),
    "misspelt-value": _load(
        "NoMatch", QUERY, 'has deployment="wbe"', "deployment is there as", match={"deployment": "wbe"}
    ),
    "misspelt-label": _load(
        "NoMatch", QUERY, "they have no label deploy, only deployment", match={"deploy": "{name}"}
    ),
    "label-summed-away": _load("NoMatch", "sum(load_rps)", 'has deployment="{name}"', "no label deployment, only none"),
    "no-match-written": _load("AmbiguousSeries", QUERY, "series, which differ in deployment", "match", match={}),
    "several-pods": _load(
        "AmbiguousSeries", "load_rps", '2 series with deployment="{name}"', "differ in pod", "sum by"
    ),
    "division-by-zero": _load("NotANumber", "load_rps / 0", "no finite number", "ratio with 0 below"),
    "negative": _load("NegativeValue", "-load_rps", "returns -60", "expected 0 or more"),
    # Metrics beside the load
    "bad-backlog": _also("backlog", "sum(", ".query: ", "parse error"),
    "utilization-in-percent": _also("utilization", "vector(73)", "returns 73; expected a share", "by 100"),
    "errors-in-percent": _also("errors", "vector(2.5)", "returns 2.5; expected a share", "by 100"),
    "latency-in-milliseconds": _also(
        "latency", "vector(250)", "returns 250, 500 times", "expected seconds: divide milliseconds by 1000",
        quantile="0.95",
    ),
    # References
    "no-such-source": Told(
        "ScalingActive", "False", "SourceUnknown",
        ("spec.metrics.source: 'prometheus' is no source", "expected one of default"),
        {"metrics": {"source": "prometheus", "load": {"query": "up"}}},
    ),
    "no-such-target": _target(
        "TargetNotFound", "apps/v1", "Deployment", "wbe",
        "there is no Deployment", "/wbe; create it, or correct the name",
    ),
    "kind-not-served": _target(
        "TargetNotWatched", "example.com/v1", "Widget", "web",
        "Widget of example.com is not watched", "Deployment (apps)", "under targets in the operator's configuration",
    ),
    "wrong-group": _target(
        "TargetNotWatched", "v1", "Deployment", "{name}", "Deployment of the core group", "Deployment (apps)"
    ),
    "no-such-policy": _policy("PolicyNotFound", "spec.policy.name", "defualt", "default", name="defualt"),
    "no-such-server": _policy("PolicyNotFound", "spec.policy.server: 'gpu' is no inference server", server="gpu"),
    "digest-of-a-rule": _policy(
        "PolicyRefused", "spec.policy.digest: hpa", "leave it out", name="hpa", digest=f"sha256:{'0' * 64}"
    ),
    # Units that the schema lets pass
    "target-as-a-share": Told(
        "Ready", "False", "UnitSlip", ("spec.objective.target: 0.999 is in percent", 'write "99.9" if'),
        {"objective": {"target": "0.999"}},
    ),
    "tolerance-in-percent": Told(
        "Ready", "False", "UnitSlip", ("spec.behavior.scaleDown.tolerance: 10 is a share", "1000 %", 'write "0.1"'),
        {"behavior": {"scaleDown": {"tolerance": "10"}}},
    ),
    "capacity-far-too-small": Told(
        "ScalingLimited", "True", "TooManyReplicas",
        ("spec.maxReplicas is 4", "spec.metrics.load returns 60 requests/s", "serves 1 (spec.capacity.perReplica)",
         "60 replicas are needed", "in another unit?"),
        {"capacity": {"perReplica": "1"}, "maxReplicas": 4, **_PATIENT},
    ),
    "capacity-far-too-large": Told(
        "ScalingLimited", "True", "TooFewReplicas",
        ("spec.minReplicas is 2", "serves 1e+06 (spec.capacity.perReplica)", "in another unit?"),
        {"capacity": {"perReplica": "1M"}},
    ),
    "capacity-left-out": Told(
        "ScalingActive", "False", "CapacityUnknown",
        ("spec.capacity.perReplica is left out, and so is spec.metrics.utilization", 'perReplica: "50"'),
        {"capacity": {}},
    ),
    # Annotations
    "force-in-words": _force("ten"),
    "force-negative": _force("-1"),
    "force-fraction": _force("2.5"),
    "pause-misspelt": Told(
        "Ready", "False", "InvalidAnnotation", ("annotation rlscaler.io/pause: ", "expected rlscaler.io/paused"),
        annotations={"rlscaler.io/pause": "true"},
    ),
    "paused-no": Told(
        "AbleToScale", "False", "Paused", ("rlscaler.io/paused is set", 'all but "false" pauses', "remove it"),
        annotations={"rlscaler.io/paused": "no"},
    ),
    "force-in-shadow": Told(
        "AbleToScale", "Unknown", "Shadow", ("rlscaler.io/force-replicas: 9 is not obeyed in mode Shadow",),
        {"mode": "Shadow"}, {"rlscaler.io/force-replicas": "9"},
    ),
}  # fmt: skip
