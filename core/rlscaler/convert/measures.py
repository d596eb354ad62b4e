"""Measures that HPAs and ScaledObjects have in common: CPU use, and series whose name an adapter gives.

What a measure is to a replica: a target of type AverageValue is what one replica should have of it, so load over target
is the count that the autoscaler wants. A target is below what a replica can serve, so taking it for the capacity errs
to the side of too many pods. In comparisons it errs against the autoscaler, whose replicas then seem to be full.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from rlscaler.convert import promql
from rlscaler.convert.autoscaler import Measure, Rank
from rlscaler.convert.given import Given
from rlscaler.convert.objects import Object
from rlscaler.convert.promql import Matcher
from rlscaler.convert.workloads import cpu_request
from rlscaler.quantities import exact_quantity, shown

CAREFUL = (
    "what a replica should have and not what it can serve: rather too many pods than too few, and what scales now "
    "looks late beside it"
)
_BACKLOG = re.compile(r"queue|backlog|lag\b|_lag|pending|undelivered|waiting|depth|messages_(ready|visible)", re.I)
_RATED = re.compile(r"\b(i?rate|increase|deriv)\s*\(|per_?sec|_rps|_qps|:rate", re.I)


class Who(NamedTuple):
    """Whose metric it is: its namespace, the kind and name of what is scaled, and its manifest where it is given."""

    namespace: str
    kind: str
    name: str
    workload: Object | None

    @property
    def pods(self) -> list[Matcher]:
        """What picks its pods."""
        return promql.pods_of(self.namespace, self.kind, self.name)


def rate_notes(text: str) -> list[str]:
    """Return what to say of a metric or query that by its words is no rate."""
    if _BACKLOG.search(text) and not _RATED.search(text):
        return ["by its name it is a backlog; a load is a rate, such as messages/s that arrive"]
    return []


def cpu(who: Who, called: str, target: str, container: str | None, *, utilization: bool) -> Measure:
    """Return the measure of CPU use.

    target: percent of the request for utilization, else the cores of a replica as a quantity.
    """
    use = promql.cpu_use(who.pods, container)
    what = "CPU use of all pods" if container is None else f"CPU use of container {shown(container)} in all pods"
    about = ["cAdvisor's series; it cannot rise above what the pods can use, so it counts what is done (Completions)"]
    notes = [f"its target of {target} % is not kept: the policy decides how much headroom is held"]
    if not utilization:
        # In thousandths of a core, so that the time that one unit takes is far below any objective.
        cores = exact_quantity(target) * 1000
        return Measure(
            called=called, rank=Rank.CPU, load=f"1000 * {use}", counts="Completions",
            about=[f"{what}, in thousandths of a core", *about], per_replica=plain(cores), of_pods=True,
            capacity=f"the target of {target} cores, {CAREFUL}",
        )  # fmt: skip
    request = None if who.workload is None else cpu_request(who.workload, container)
    if request is not None and request.cores is not None:
        cores_text = plain(request.cores)
        load, origin = f"100 * {use} / {cores_text}", f"the {cores_text} cores that the {who.kind} requests"
    else:
        load = f"100 * {use} / {promql.cpu_request(who.pods, container)}"
        origin = "what the pods request, as kube-state-metrics has it"
        if request is not None:
            notes.append(f"{who.kind} {who.name} was given, and {request.lacking}")
    share = promql.cpu_requests(who.pods, container)
    return Measure(
        called=called, rank=Rank.CPU, load=load, counts="Completions",
        about=[f"{what}, in percent of {origin}", *about], per_replica="100", of_pods=True,
        capacity="100 % of its CPU request; state less where it is slow before that",
        utilization=f"clamp_max({use} / {share}, 1)" if exact_quantity(target) <= 100 else None, notes=notes,
    )  # fmt: skip


def series(metric: str, matchers: Sequence[Matcher], called: str, origin: str, *, of_pods: bool) -> Measure:
    """Return the measure of a metric of an adapter, as the sum of the series of that name; without a capacity.

    origin: what the name is, such as "the custom-metrics API's".
    """
    found = promql.selector(metric, matchers)
    counter = metric.endswith("_total")
    rate = "it has to be a rate of the whole workload, such as requests/s"
    load = f"sum(rate({found}[2m]))" if counter else f"sum({found})"
    about = [
        f"a template: the name is {origin}, and the series behind it in Prometheus may have another, and other labels",
        f"{rate}; by its name it is a counter" if counter else rate,
    ]
    return Measure(
        called=called, rank=Rank.TOTAL, load=load, about=about, of_pods=of_pods, notes=rate_notes(metric),
        capacity="its target is of the whole and says nothing of one replica",
    )  # fmt: skip


def per_replica(measure: Measure, target: str) -> Measure:
    """Return a measure whose target is what one replica should have of it."""
    return replace(measure, rank=Rank.RATE, per_replica=target, capacity=f"the target, {CAREFUL}")


def label_of(kind: str) -> str:
    """Return the label under which the usual adapter has the object of a kind: ingress for Ingress."""
    return promql.label_name(kind.lower())


def matchers(selected: Given | None) -> tuple[list[Matcher], list[str]]:
    """Return a LabelSelector as conditions on labels, and notes on names that Prometheus lacks; raises Refused."""
    found: list[Matcher] = []
    notes: list[str] = []

    def add(key: str, place: Given, operator: str, value: str) -> None:
        if key == "__name__" or not key:
            raise place.refused(f"{shown(key)} is no label; expected the name of a label")
        name = promql.label_name(key)
        if name != key:
            notes.append(f"label {shown(key)} is written {name}, as Prometheus takes it")
        found.append(Matcher(name, operator, value))

    labels = None if selected is None else selected.get("matchLabels")
    for key in labels.names() if labels is not None else ():
        value = labels.get(key) if labels is not None else None
        if labels is not None and value is not None:
            text = "" if value.node.kind == "text" and not value.node.text.strip() else value.scalar("text")
            add(key, labels, "=", text)
    expressions = None if selected is None else selected.get("matchExpressions")
    for each in expressions.items("a list of requirements") if expressions is not None else ():
        key = each.need("key", "the name of a label").scalar("the name of a label")
        operator = each.need("operator", "one of In, NotIn, Exists, DoesNotExist").word(
            ("In", "NotIn", "Exists", "DoesNotExist")
        )
        if operator in ("Exists", "DoesNotExist"):
            add(key, each, "!=" if operator == "Exists" else "=", "")
            continue
        values = [v.scalar("text") for v in each.need("values", "a list of text").items("a list of text")]
        if not values:
            raise each.refused(f"values is empty; expected at least one, since operator is {operator}")
        pattern = "|".join(promql.escaped(value) for value in values)
        add(key, each, "=~" if operator == "In" else "!~", pattern)
    return found, notes


def plain(value: Decimal) -> str:
    """Return a number without an exponent and without zeros at its end."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
