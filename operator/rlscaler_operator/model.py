"""What the rooms of the operator tell each other: plain values, no behaviour.

Times are decision times (`clock.Clock.now`): seconds since the epoch that neither jump nor run backwards.
Unknown numbers are NaN.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rlscaler.custom_resource import Resource
from rlscaler.resource_objects import Metrics
from rlscaler.standing import Standing


class Key(NamedTuple):
    """Names one RLScaler."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return namespace/name."""
        return f"{self.namespace}/{self.name}"


class TargetKey(NamedTuple):
    """Names what is scaled, whatever API version it is spoken of in. group: "" is the core group."""

    namespace: str
    group: str
    kind: str
    name: str

    def __str__(self) -> str:
        """Return Kind namespace/name."""
        return f"{self.kind} {self.namespace}/{self.name}"


class Note(NamedTuple):
    """Something that a person should know: a typed reason in CamelCase, and a sentence that says what to do."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Target:
    """A scale target as its watch shows it.

    desired: spec.replicas (left out means 1). replicas: pods that exist. ready: pods that serve.
    manager: the field manager that last set spec.replicas, "" where nobody says so; managed_at: epoch seconds.
    selector: the pods' label selector as text, "" where unknown.
    """

    key: TargetKey
    uid: str
    desired: int
    replicas: int
    ready: int
    selector: str = ""
    manager: str = ""
    managed_at: float = math.nan

    @property
    def starting(self) -> int:
        """Replicas asked for that do not serve yet."""
        return max(0, self.desired - self.ready)


@dataclass(frozen=True, slots=True)
class Workload:
    """One RLScaler as its watch shows it.

    resource: what its spec says; None where it cannot be used, and `problem` says why.
    paused, force: the annotations rlscaler.io/paused and rlscaler.io/force-replicas (None: not set).
    annotation_problem: what is wrong with one of them. status: the last status that the API server showed.
    claims: the target that a spec names which cannot be used, None in mode Shadow: nobody younger is to take it over.
    """

    key: Key
    uid: str
    generation: int
    created: float
    resource: Resource | None
    problem: Note | None = None
    paused: bool = False
    force: int | None = None
    annotation_problem: Note | None = None
    status: Mapping[str, Any] = field(default_factory=dict)
    claims: TargetKey | None = None


@dataclass(frozen=True, slots=True)
class Readings:
    """What the metrics of one workload were at one tick; problems: by field of the resource (spec.metrics.load).

    asked: the spec.metrics that they were asked by, None where nobody says so.
    """

    time: float
    load: float = math.nan
    backlog: float = math.nan
    latency: float = math.nan
    errors: float = math.nan
    utilization: float = math.nan
    problems: Mapping[str, Note] = field(default_factory=dict)
    asked: Metrics | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided for one workload.

    replicas: -1 where nothing can be decided. bits: of `rlscaler.reasons.Reason`. proposal, recommendation,
    demand: replicas. capacity: requests/s of a replica and startup: seconds, as stated or learned (NaN: unknown).
    coverage: seconds of load that are known of this workload. error: what the policy raised, "" if nothing.
    learning: what there is to say about what is learned, "" where all is stated. standing: who has which say, None
    where nobody has to earn it. overstated: by how much the stated capacity is taken to be too high, 1 = not at all.
    late: share of requests that were late in the objective's window, as reckoned, 0 where none is stated, NaN where
    nothing is known. spare: by how much headroom is multiplied for that.
    """

    time: float
    replicas: int
    proposal: float
    recommendation: float
    demand: float
    bits: int
    capacity: float
    startup: float
    coverage: float
    error: str = ""
    learning: str = ""
    standing: Standing | None = None
    overstated: float = 1.0
    late: float = 0.0
    spare: float = 1.0


@dataclass(frozen=True, slots=True)
class PolicyInUse:
    """Which policy decides. digest: "sha256:..." of an artifact, "" of a rule. schema: of its observation.

    tenure: "On" or "Advisory" where say is earned (`rlscaler.tenured`), "" where none is.
    """

    name: str
    digest: str = ""
    schema: str = ""
    tenure: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """All that is known of one workload after a tick: status, events, metrics and log lines are made from it.

    target_problem, source_problem, policy_problem, conflict: None where all is well. server_problem: why the inference
    server's answer was not used at this decision. write_problem: the last write
    to the target failed. wanted: replicas that the target should have after all (decision, force, pause), None where
    nothing is wanted of it. wrote: the target was changed at this tick, from `target.desired` to `wanted`.
    virtual: what Shadow's own replicas would be. yielding: seconds for which another owner is given way.
    """

    time: float
    workload: Workload
    target: Target | None = None
    readings: Readings | None = None
    decision: Decision | None = None
    policy: PolicyInUse | None = None
    target_problem: Note | None = None
    source_problem: Note | None = None
    policy_problem: Note | None = None
    server_problem: Note | None = None
    conflict: Note | None = None
    write_problem: Note | None = None
    wanted: int | None = None
    wrote: bool = False
    last_scale: float = math.nan
    comparison: Mapping[str, Any] | None = None
