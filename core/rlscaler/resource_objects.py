"""The typed objects that a resource is read into; names and meaning as in the YAML, in snake case.

Durations are seconds, quantities and percentages plain floats; None = left out and without a default.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rlscaler.behavior import Behavior
from rlscaler.settings import MetricLoss, Objective

Mode = Literal["Shadow", "Active", "Paused"]
LoadCounts = Literal["Arrivals", "Completions"]
TenureMode = Literal["On", "Advisory", "Off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Who the resource is."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRef:
    """The thing that is scaled: any kind with a scale subresource."""

    api_version: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a replica can do. per_replica: requests/s. startup: seconds. Both None = to be learned."""

    per_replica: float | None
    startup: float | None
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A PromQL query and the labels that pick its series."""

    query: str
    match: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadQuery(Query):
    """The query of the load, requests/s over the whole workload, and what it counts."""

    counts: LoadCounts


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyQuery(Query):
    """The query of the latency, seconds, and the quantile that it returns."""

    quantile: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Where the readings come from."""

    source: str
    load: LoadQuery
    backlog: Query | None
    latency: LatencyQuery | None
    errors: Query | None
    utilization: Query | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRef:
    """Which policy decides: one by name, or an inference server of the operator's configuration.

    tenure: whether a learned policy has to earn its say (None: as the policy has it), see `tenured.MODES`.
    """

    name: str | None
    server: str | None
    digest: str | None
    tenure: TenureMode | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What is asked for."""

    scale_target_ref: TargetRef
    mode: Mode
    min_replicas: int
    max_replicas: int
    interval: float
    objective: Objective
    capacity: Capacity
    metrics: Metrics
    policy: PolicyRef
    behavior: Behavior | None
    on_metric_loss: MetricLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A whole document."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: Spec
