"""The choice of what becomes of an autoscaler: which measure is the load, and what is told of the rest.

An HPA takes the largest of what its metrics ask for; an RLScaler has one load. So the best measure becomes the load and
the others are told of, but for the CPU use, which tells how busy the replicas are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rlscaler.convert import promql
from rlscaler.convert.autoscaler import Autoscaler, Measure, Rank, Said
from rlscaler.convert.workloads import APPS
from rlscaler.quantities import duration_text, exact_quantity, shown
from rlscaler.yaml_nodes import Node

USUAL_LATENCY, LONGEST_LATENCY = 0.5, 3600.0
MOST_CAPACITY = 1e9
CALIBRATE = "rlscaler calibrate tells from the past what a replica serves, where metrics.utilization is known"
CALMER = (
    "scale-down: HPA's default window of 300 s and tolerance of a tenth are not carried over; the policy changes the "
    "count more often. For fewer changes state behavior.scaleDown, such as {stabilizationWindowSeconds: 0, tolerance: "
    '"0.1"}'
)
EAGERER = (
    "scale-up: a tolerance that behavior leaves out, a tenth with HPA, is none here: the policy asks for no more than "
    "it needs"
)


class Options(NamedTuple):
    """What the command line states: PromQL, a quantity, a duration, the name of a source; None where it does not."""

    load: str | None = None
    capacity: str | None = None
    startup: str | None = None
    source: str = "default"


class NoLoad(Exception):  # noqa: N818  (a fact about an autoscaler, which the command tells)
    """Nothing that an autoscaler measures can serve as a load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A resource to be written. notes: what is not carried over, a sentence each."""

    autoscaler: Autoscaler
    min_replicas: Said
    load: str
    load_called: str
    counts: Literal["Arrivals", "Completions"]
    about: Sequence[str]
    latency: Said
    per_replica: Said | None
    capacity_missing: str
    by_target: bool
    startup: str | None
    source: Said
    backlog: Said | None
    utilization: Said | None
    notes: Sequence[str]

    @property
    def summary(self) -> str:
        """What people should know at once, in one line."""
        if self.per_replica is None:
            capacity = f"capacity is left out: {self.capacity_missing}"
        else:
            capacity = f"a replica serves {self.per_replica.value} ({self.per_replica.comment})"
        return f"{self.autoscaler.key}: load is {self.load_called}; {capacity}"

    @property
    def per_replica_more(self) -> Sequence[str]:
        """What else to say of the capacity, in the resource alone."""
        return [CALIBRATE] if self.by_target else []


def draft(autoscaler: Autoscaler, options: Options) -> Draft:
    """Return what becomes of an autoscaler; raises NoLoad."""
    measures = autoscaler.measures
    chosen = None if options.load is not None else min(measures, key=lambda measure: measure.rank)
    load = options.load if chosen is None else chosen.load
    if load is None:
        raise NoLoad(_no_load(autoscaler))
    notes = [*autoscaler.notes, *_on_target(autoscaler, chosen), *_on_behavior(autoscaler.behavior)]
    per_replica, missing = _capacity(chosen, options, notes)
    fewest = _fewest(autoscaler, chosen, notes)
    notes += autoscaler.of_zero if fewest.value == "0" else []
    notes += [f"{chosen.called}: {note}" for note in chosen.notes] if chosen is not None else []
    busy = _busy(measures, chosen)
    notes += [_not_taken(other, autoscaler, is_busy=other is busy) for other in measures if other is not chosen]
    if busy is not None:
        missing += ", so it is learned from load and metrics.utilization"
    else:
        missing += ", and nothing is decided (CapacityUnknown) until it is stated, as by --capacity"
    backlog = next((m.backlog for m in measures if m.backlog is not None and chosen in (m, None)), None)
    return Draft(
        autoscaler=autoscaler,
        min_replicas=fewest,
        load=load,
        load_called="the query of --load" if chosen is None else chosen.called,
        counts="Arrivals" if chosen is None else chosen.counts,
        about=() if chosen is None else chosen.about,
        latency=_latency(per_replica),
        per_replica=per_replica,
        capacity_missing=missing,
        by_target=options.capacity is None and chosen is not None and chosen.rank is Rank.RATE,
        startup=options.startup,
        source=_source(chosen, options, autoscaler.short),
        backlog=None if backlog is None else Said(backlog, "messages that wait"),
        utilization=None if busy is None or busy.utilization is None else Said(
            busy.utilization, f"{busy.called} as a share of the request, at most 1: how busy the replicas are"
        ),
        notes=notes,
    )  # fmt: skip


def _on_behavior(behavior: Node | None) -> list[str]:
    """Return notes on what an HPA does where nothing is stated, and an RLScaler does not."""
    if behavior is None:
        return [CALMER]
    stated = [field.text for name, rules in behavior.entries if name.text == "scaleUp" for field, _ in rules.entries]
    return [] if "tolerance" in stated else [EAGERER]


def _on_target(autoscaler: Autoscaler, chosen: Measure | None) -> list[str]:
    """Return notes on a target that is no kind of Kubernetes' own."""
    kind, name = autoscaler.target[1].value, autoscaler.target[2].value
    notes = [] if kind in APPS else [f"kind {kind}: the operator scales it where targets of its chart name it"]
    if chosen is not None and chosen.of_pods and not promql.has_known_pods(kind):
        notes.append(f"kind {kind}: its pods are picked by names that begin with {name}-, which others' may as well")
    return notes


def _busy(measures: Sequence[Measure], chosen: Measure | None) -> Measure | None:
    """Return the measure that tells how busy the replicas are; none where CPU use is the load itself."""
    if chosen is not None and chosen.rank is Rank.CPU:
        return None
    return next((measure for measure in measures if measure.utilization is not None), None)


def _no_load(autoscaler: Autoscaler) -> str:
    told = "; ".join(f"{measure.called}: {measure.missing}" for measure in autoscaler.measures)
    return (
        f"{autoscaler.key}: nothing in the {autoscaler.short} is a load ({told}); give this one alone, with "
        "--load QUERY, the PromQL of the requests/s or messages/s that arrive"
    )


def _capacity(chosen: Measure | None, options: Options, notes: list[str]) -> tuple[Said | None, str]:
    """Return what a replica serves, or why that is not known."""
    if options.capacity is not None:
        return Said(options.capacity, "as --capacity has it"), ""
    if chosen is None:
        return None, "the targets are not of the load of --load"
    if chosen.per_replica is None:
        return None, chosen.capacity
    value = float(exact_quantity(chosen.per_replica))
    if not 2.0 / LONGEST_LATENCY <= value <= MOST_CAPACITY:
        text = f"the target of {chosen.per_replica} a replica is no rate/s of requests"
        notes.append(f"{chosen.called}: {text}")
        return None, text
    return Said(chosen.per_replica, chosen.capacity), ""


def _not_taken(other: Measure, autoscaler: Autoscaler, *, is_busy: bool) -> str:
    if is_busy:
        return f"{other.called}: it is read as metrics.utilization, and asks for no replicas of its own"
    if other.load is None:
        return f"{other.called}: {other.missing}"
    return f"{other.called}: one load decides, where the {autoscaler.short} {autoscaler.several}"


def _fewest(autoscaler: Autoscaler, chosen: Measure | None, notes: list[str]) -> Said:
    fewest = autoscaler.min_replicas
    if fewest == 0 and chosen is not None and chosen.of_pods:
        text = "the load is read from the pods, and without any it would stay unknown"
        notes.append(f"minReplicas is 1 and not 0: {text}")
        return Said("1", f"not 0: {text}")
    return Said(str(fewest), autoscaler.min_comment)


def _latency(per_replica: Said | None) -> Said:
    """Return a latency above the time of one request: twice that, where the default is not."""
    if per_replica is None:
        return Said(duration_text(USUAL_LATENCY), "")
    taken = 1.0 / float(exact_quantity(per_replica.value))
    if 2.0 * taken <= USUAL_LATENCY:
        return Said(duration_text(USUAL_LATENCY), "")
    text = duration_text(min(float(math.ceil(2.0 * taken)), LONGEST_LATENCY))
    return Said(text, f"above the {taken:.3g} s that one request takes, 1 / perReplica")


def _source(chosen: Measure | None, options: Options, short: str) -> Said:
    name = options.source
    value = f"sources.{name}.url of the operator's chart"
    if chosen is None or chosen.source_url is None:
        return Said(name, f"{value}: a Prometheus that has these series")
    return Said(name, f"{value} has to be {shown(chosen.source_url)}, the {short}'s Prometheus")
