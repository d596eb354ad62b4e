"""The fields of an RLScaler resource: names, kinds, defaults, bounds, meaning and the rules between them.

This table (with `resource_behavior`) is the only place that states them; reading, the CRD's schema and the
reference are made from it. The actions of `onMetricLoss` are KEDA's fallback behaviours.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from rlscaler.policies import RULES
from rlscaler.quantities import duration_text
from rlscaler.resource_behavior import BEHAVIOR
from rlscaler.resource_objects import (
    Capacity,
    LatencyQuery,
    LoadQuery,
    Manifest,
    Metadata,
    Metrics,
    PolicyRef,
    Query,
    Spec,
    TargetRef,
)
from rlscaler.resource_schema import Block, Field, Ignored, Rule, TextMap
from rlscaler.resource_values import DURATION, NUMBER, QUANTITY, Amount, Choice, Text, Whole
from rlscaler.settings import LOSS_ACTIONS, MetricLoss, Objective
from rlscaler.tenured import MODES, OFF

API_VERSION = "rlscaler.io/v1alpha1"
KIND = "RLScaler"

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
LABEL_NAME = Text("a DNS-1123 label: lower-case letters, digits and '-', at most 63", f"^{_LABEL}$", 63)
OBJECT_NAME = Text(
    "a DNS-1123 name: lower-case letters, digits, '-' and '.', at most 253", rf"^{_LABEL}(\.{_LABEL})*$", 253
)
_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_KEY = "a name of at most 63 letters, digits, '-', '_' and '.', after a DNS-1123 name and '/' where it has a prefix"
_PREFIX = rf"(?=[^/]{{1,253}}/){_LABEL}(\.{_LABEL})*/"
LABEL_KEY = Text(_KEY, rf"^({_PREFIX})?(?=[^/]{{1,63}}$){_NAME}$", 317)
# The API server looks at annotations in lower case.
ANNOTATION_KEY = Text(_KEY, rf"^((?i:{_PREFIX}))?(?=[^/]{{1,63}}$){_NAME}$", 317)
LABEL_VALUE = Text(
    "at most 63 letters, digits, '-', '_' and '.', none of these three first or last", rf"^({_NAME})?$", 63
)
PROMQL = Text("a PromQL query", r"[^ \t\r\n]", 8192)


def _query(*, match: Mapping[str, str] | None, **values: Any) -> Query:
    return Query(match=match or {}, **values)


def _load(*, match: Mapping[str, str] | None, **values: Any) -> LoadQuery:
    return LoadQuery(match=match or {}, **values)


def _latency(*, match: Mapping[str, str] | None, **values: Any) -> LatencyQuery:
    return LatencyQuery(match=match or {}, **values)


def _metadata(**values: Any) -> Metadata:
    given: dict[str, Any] = {name: {} if value is None else value for name, value in values.items()}
    return Metadata(**given)


def _metric_loss(**values: Any) -> MetricLoss:
    return MetricLoss(**{name: value for name, value in values.items() if value is not None})


_QUERY = (
    Field("query", PROMQL, "PromQL query, evaluated at each decision.", required=True),
    Field(
        "match",
        TextMap(16, 1024),
        "Labels and values that pick this workload's series out of the answer, so that resources whose query is the "
        "same share one request. Left out: the query returns one series.",
    ),
)


def _queries(meaning: str, build: Callable[..., Any], *more: Field) -> dict[str, Any]:
    return {"kind": Block((*_QUERY, *more), build), "description": meaning}


METRICS = Block(
    (
        Field(
            "source",
            LABEL_NAME,
            "Name of a Prometheus source in the operator's configuration.",
            default="default",
        ),
        Field(
            "load",
            required=True,
            **_queries(
                "Load of the whole workload, in requests/s (or messages/s, jobs/s).",
                _load,
                Field(
                    "counts",
                    Choice(("Arrivals", "Completions")),
                    "What the query counts: requests that arrive, or requests that are done. A counter of done "
                    "requests saturates in overload, and is then read as 'at least this much'.",
                    default="Arrivals",
                ),
            ),
        ),
        Field(
            "backlog",
            **_queries("Requests waiting, the whole workload's; 0 where there is no queue.", _query),
        ),
        Field(
            "latency",
            **_queries(
                "Latency, in seconds.",
                _latency,
                Field(
                    "quantile",
                    Amount(NUMBER, 0, 1, above=True, below=True),
                    "The quantile of the latency that the query returns, as text.",
                    required=True,
                ),
            ),
        ),
        Field("errors", **_queries("Share of failed requests, 0 to 1.", _query)),
        Field("utilization", **_queries("Share of the ready replicas' capacity in use, 0 to 1.", _query)),
    ),
    Metrics,
)


def _one_policy(values: Mapping[str, Any]) -> str | None:
    found = [name for name in ("name", "server") if values[name] is not None]
    if len(found) == 1:
        return None
    return f"{'both name and server are' if found else 'neither name nor server is'} given; expected one of them"


def _tenure_of_ours(values: Mapping[str, Any]) -> str | None:
    if values["tenure"] is None or values["server"] is None:
        return None
    return "given beside server; expected name, since say is earned by a policy that decides here"


def _tenure_of_learned(values: Mapping[str, Any]) -> str | None:
    if values["tenure"] in (None, OFF) or values["name"] not in RULES:
        return None
    return f"{values['tenure']}, and {values['name']} is a rule; expected a learned policy in name, or leave tenure out"


_RULE_NAMES = ", ".join(f"'{name}'" for name in RULES)

POLICY = Block(
    (
        Field("name", OBJECT_NAME, "Name of a policy: built in, of a mounted folder, or of a ConfigMap."),
        Field("server", LABEL_NAME, "Name of an inference server in the operator's configuration."),
        Field(
            "digest",
            Text("sha256: and 64 hexadecimal digits in lower case", r"^sha256:[0-9a-f]{64}$", 71),
            "Digest that the policy must have; a policy with another one is not used.",
        ),
        Field(
            "tenure",
            Choice(MODES),
            "Whether a learned policy earns its say on the workload's own past, beside rules that are replayed on it: "
            "'On' decides by the mean of all, each with the say that it has earned; Advisory only tells of it, and the "
            "learned policy decides alone; 'Off' does neither. In YAML, On and Off need quotes. Left out: as the "
            "policy has it, 'On' for default and 'Off' for others.",
        ),
    ),
    PolicyRef,
    rules=(
        Rule(
            "has(self.name) != has(self.server)",
            "expected exactly one of name and server",
            _one_policy,
            needs=("name", "server"),
        ),
        Rule(
            "!has(self.tenure) || !has(self.server)",
            "tenure is earned by a policy that decides here; leave it out beside server",
            _tenure_of_ours,
            needs=("tenure", "server"),
            blames="tenure",
        ),
        Rule(
            f"!has(self.tenure) || self.tenure == '{OFF}' || !has(self.name) || !(self.name in [{_RULE_NAMES}])",
            "tenure is for learned policies; leave it out beside the name of a rule",
            _tenure_of_learned,
            needs=("tenure", "name"),
            blames="tenure",
        ),
    ),
)


def _replicas_given(values: Mapping[str, Any]) -> str | None:
    if values["action"] == "Hold" or values["replicas"] is not None:
        return None
    return f"missing; expected a whole number, since action is {values['action']}"


METRIC_LOSS = Block(
    (
        Field(
            "after",
            Amount(DURATION, 0, 86400),
            "How long the load must have been unknown; the replica count is held until then.",
            default="3m",
        ),
        Field(
            "action",
            Choice(LOSS_ACTIONS),
            "Hold the count, go to replicas, or go to replicas only where that is more, or fewer, than now.",
            default="Hold",
        ),
        Field("replicas", Whole(0), "The replica count of the actions other than Hold."),
    ),
    _metric_loss,
    rules=(
        Rule(
            # The API server checks the default {} of the block before the defaults of its fields are filled in.
            "!has(self.action) || self.action == 'Hold' || has(self.replicas)",
            "replicas is required unless action is Hold",
            _replicas_given,
            needs=("action", "replicas"),
            blames="replicas",
        ),
    ),
)


def _min_within_max(values: Mapping[str, Any]) -> str | None:
    low, high = values["min_replicas"], values["max_replicas"]
    return f"{low} is above maxReplicas {high}; expected at most {high}" if low > high else None


def _latency_feasible(values: Mapping[str, Any]) -> str | None:
    """Return what is wrong where even a request that never waits is late.

    Compared in whole milliseconds, as fine as CEL counts a duration, and with a billionth to spare, by which the API
    server's arithmetic on quantities may be off (0.3 is 3 * 0.1 there): equal is refused by both.
    """
    objective: Objective = values["objective"]
    capacity: Capacity = values["capacity"]
    if capacity.per_replica is None:
        return None
    milliseconds = math.floor(objective.latency * 1000.0 + 1e-6)
    if milliseconds * capacity.per_replica > 1000.000001 * capacity.concurrency:
        return None
    return (
        f"{duration_text(milliseconds / 1000.0)} is not above the "
        f"{capacity.concurrency / capacity.per_replica:.3g} s that one request takes (concurrency "
        f"{capacity.concurrency} / perReplica {capacity.per_replica:g}); expected a longer latency, or the right "
        f"concurrency and perReplica"
    )


def _objective(*, latency: float, target: float, window: float | None) -> Objective:
    return Objective(latency=latency, target=target, window=math.inf if window is None else window)


SPEC = Block(
    (
        Field(
            "scaleTargetRef",
            Block(
                (
                    Field(
                        "apiVersion",
                        Text(
                            "a group and version such as apps/v1",
                            rf"^({_LABEL}(\.{_LABEL})*/)?v[0-9]+((alpha|beta)[0-9]+)?$",
                            253,
                        ),
                        "API group and version of the target.",
                        required=True,
                    ),
                    Field(
                        "kind",
                        Text("a kind such as Deployment", "^[A-Z][A-Za-z0-9]*$", 63),
                        "Kind of the target.",
                        required=True,
                    ),
                    Field(
                        "name",
                        OBJECT_NAME,
                        "Name of the target, in the namespace of this resource.",
                        required=True,
                    ),
                ),
                TargetRef,
            ),
            "What is scaled: anything with a scale subresource.",
            required=True,
        ),
        Field(
            "mode",
            Choice(("Shadow", "Active", "Paused")),
            "Shadow decides and writes nothing to the target, Active scales it, Paused does neither.",
            default="Shadow",
        ),
        Field("minReplicas", Whole(0), "Fewest replicas. 0 lets the workload stand still.", default=1),
        Field("maxReplicas", Whole(1), "Most replicas.", required=True),
        Field(
            "interval",
            Amount(DURATION, 1, 300),
            "Time between decisions. Policies are trained for 5s to 60s; beyond, the guard may fall back to the rule.",
            default="15s",
        ),
        Field(
            "objective",
            Block(
                (
                    Field(
                        "latency",
                        Amount(DURATION, 0, 3600, above=True),
                        "Time within which a request should be answered; above concurrency / perReplica seconds.",
                        default="500ms",
                    ),
                    Field(
                        "target",
                        Amount(NUMBER, 0, 100, above=True, below=True),
                        "Percent of requests that should be answered within it. It sets the price of a late "
                        "request: a higher target never lowers replicas.",
                        default="99.9",
                    ),
                    Field(
                        "window",
                        Amount(DURATION, 3600, 7776000),
                        "Time over which the target is to be kept, such as 168h: while it is not, by what is reckoned "
                        "from load and ready replicas, up to twice the headroom is held. Left out: the target "
                        "sets a price alone.",
                    ),
                ),
                _objective,
            ),
            "What users of the workload should get.",
            default={},
        ),
        Field(
            "capacity",
            Block(
                (
                    Field(
                        "perReplica",
                        Amount(QUANTITY, 0, 1e9, above=True),
                        "Requests/s that one ready replica serves at full use. Left out: learned from history, for "
                        "which metrics.utilization is needed.",
                    ),
                    Field(
                        "startup",
                        Amount(DURATION, 0, 3600),
                        "Time from a pod's creation until it serves. Left out: learned from the pods.",
                    ),
                    Field(
                        "concurrency",
                        Whole(1, 100_000),
                        "Requests that a replica serves at once, each for concurrency / perReplica seconds.",
                        default=1,
                    ),
                ),
                Capacity,
            ),
            "What a replica can do.",
            default={},
        ),
        Field("metrics", METRICS, "Where the readings come from.", required=True),
        Field("policy", POLICY, "Which policy decides.", default={"name": "default"}),
        Field(
            "behavior",
            BEHAVIOR,
            "As autoscaling/v2 HorizontalPodAutoscalerBehavior, with its defaults once written, but for scaleUp's "
            "tolerance. Left out: the policy itself decides how long to keep replicas.",
        ),
        Field("onMetricLoss", METRIC_LOSS, "What happens when the load is unknown for long.", default={}),
    ),
    Spec,
    rules=(
        Rule(
            # An object from before the schema may lack what is required, and must still be given a status.
            "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            "minReplicas must be at most maxReplicas",
            _min_within_max,
            needs=("min_replicas", "max_replicas"),
            blames="minReplicas",
        ),
        Rule(
            f"!has(self.capacity.perReplica) || !{QUANTITY.readable('self.capacity.perReplica')} || "
            f"!{DURATION.readable('self.objective.latency')} || "
            "double(duration(string(self.objective.latency)).getMilliseconds()) * "
            "quantity(string(self.capacity.perReplica)).asApproximateFloat() > "
            "1000.000001 * double(self.capacity.concurrency)",
            "objective.latency must be above the time that one request takes, concurrency / perReplica seconds",
            _latency_feasible,
            needs=("objective", "capacity"),
            blames="objective.latency",
        ),
    ),
)

_KEPT_BY_SERVER = (
    "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName",
    "generation", "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid",
)  # fmt: skip

METADATA = Block(
    (
        Field("name", OBJECT_NAME, "Name of the resource.", required=True),
        Field("namespace", LABEL_NAME, "Namespace of the resource and of its target.", default="default"),
        Field("labels", TextMap(1000, 63, LABEL_KEY, LABEL_VALUE), "Labels."),
        Field("annotations", TextMap(1000, 262_144, ANNOTATION_KEY), "Annotations."),
        *(Field(name, Ignored(), "Kept by the API server.") for name in _KEPT_BY_SERVER),
    ),
    _metadata,
)

RESOURCE = Block(
    (
        Field("apiVersion", Choice((API_VERSION,)), "Version of this schema.", required=True),
        Field("kind", Choice((KIND,)), "RLScaler.", required=True),
        Field("metadata", METADATA, "Name, namespace, labels and annotations.", required=True),
        Field("spec", SPEC, "What is asked for.", required=True),
        Field("status", Ignored(), "What the operator reports."),
    ),
    Manifest,
)
