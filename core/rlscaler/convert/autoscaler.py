"""An autoscaler that somebody has, as far as an RLScaler can say the same: bounds, target, what is measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, NamedTuple

from rlscaler.convert.objects import Object
from rlscaler.settings import LossAction
from rlscaler.yaml_nodes import Node

LARGEST = "takes the largest of what each asks for"


class Rank(IntEnum):
    """How well something measured serves as the load; lower is better."""

    RATE = 0
    """With a target per replica."""
    TOTAL = 1
    """With a target of the whole, which says nothing of one replica."""
    QUEUE = 2
    """A queue, whose arrivals a well-known exporter counts."""
    CPU = 3
    NONE = 9
    """No load, and nothing that one could be made of."""


class Said(NamedTuple):
    """A value as it is to be written, and the comment that tells where it comes from."""

    value: str
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One metric of an HPA or one trigger of a ScaledObject.

    called: what people call it. load, backlog, utilization: PromQL, None where it has none. about: comments at the
    load. capacity: what a replica serves, as far as the target says it, or why it does not. of_pods: whether its
    series come from the pods themselves, so that there are none at 0 replicas. notes: what is not carried over.
    """

    called: str
    rank: Rank
    load: str | None = None
    counts: Literal["Arrivals", "Completions"] = "Arrivals"
    about: Sequence[str] = ()
    per_replica: str | None = None
    capacity: str = ""
    backlog: str | None = None
    utilization: str | None = None
    of_pods: bool = False
    source_url: str | None = None
    missing: str = ""
    notes: Sequence[str] = ()


class Fallback(NamedTuple):
    """KEDA's fallback: seconds until it applies, and what it does then."""

    after: int
    action: LossAction
    replicas: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscaler:
    """What is carried over of one autoscaler; namespace: None where none is written."""

    source: Object
    short: str
    name: str
    namespace: str | None
    target: tuple[Said, Said, Said]
    """apiVersion, kind, name."""
    min_replicas: int
    min_comment: str
    max_replicas: int
    max_comment: str
    behavior: Node | None
    behavior_comment: str = ""
    fallback: Fallback | None = None
    measures: Sequence[Measure]
    several: str = LARGEST
    """What it does with several measures."""
    notes: list[str] = field(default_factory=list)
    of_zero: Sequence[str] = ()
    """Notes that hold where there may be 0 replicas."""

    @property
    def where(self) -> str:
        """The namespace in force."""
        return self.namespace or "default"

    @property
    def key(self) -> str:
        """namespace/name."""
        return f"{self.where}/{self.name}"
