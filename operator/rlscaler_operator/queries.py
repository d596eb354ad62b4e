"""Which queries a workload needs, when they are asked, and which series of an answer is the workload's.

Workloads that share a query share one request: `match` picks each one's series. Requests are spread over the
interval by a stable hash of the query, so that the same query is asked at the same moments by every operator that
ever runs, and history samples sit on one grid.
"""

import hashlib
import heapq
import json
import math
import re
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import NamedTuple, Protocol

from rlscaler.quantities import shown
from rlscaler.resource_objects import Metrics, Query, Spec
from rlscaler_operator.model import Note

METRICS = ("load", "backlog", "latency", "errors", "utilization")
"""The readings of a workload, by the names of spec.metrics."""
MOST_TABLES = 8
"""Sets of labels by which an answer is looked up at once. Each costs a pass over all series, and megabytes where they
are many, and who writes resources may think of any number of sets: the series of a further one are sifted."""

_COUNTER = re.compile(r"(?<![\w:])[a-zA-Z_]\w*_total(?![\w:])")
_CHANGE = re.compile(r"\b(?:rate|irate|increase|delta|idelta|deriv)\s*\(")


class Ask(NamedTuple):
    """One PromQL query to one source."""

    source: str
    query: str


class Group(NamedTuple):
    """Workloads that are decided at the same moments: those with the same load query and interval (seconds)."""

    load: Ask
    interval: float

    @property
    def phase(self) -> float:
        """Seconds after each multiple of the interval at which the group is due, in [0, interval)."""
        text = f"{self.load.source}\0{self.load.query}".encode()
        share = int.from_bytes(hashlib.blake2b(text, digest_size=6).digest()) / 2.0**48
        return share * self.interval

    def due_after(self, time: float) -> float:
        """Return the first moment above `time` (seconds since the epoch) at which the group is due."""
        phase, interval = self.phase, self.interval
        due = (math.floor((time - phase) / interval) + 1) * interval + phase
        return due if due > time else due + interval


def bare_counter(query: str) -> str:
    """Return the counter that a query takes as it is, by its name's customary end, without rate(); "" for none."""
    found = None if _CHANGE.search(query) else _COUNTER.search(query)
    return "" if found is None else found.group()


class Labelled(Protocol):
    """A series of an instant answer."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        ...

    @property
    def value(self) -> float:
        """Its value, NaN where it is not finite."""
        ...


def group_of(spec: Spec) -> Group:
    """Return the group that a resource belongs to."""
    return Group(Ask(spec.metrics.source, spec.metrics.load.query), float(spec.interval))


def load_of(spec: Spec) -> tuple[Ask, Mapping[str, str]]:
    """Return what tells the load of a resource from another one: its query, and which series of the answer it is."""
    return group_of(spec).load, spec.metrics.load.match


def fingerprint(load: tuple[Ask, Mapping[str, str]]) -> str:
    """Return what tells a load from another one in few bytes; how its query is laid out makes no difference."""
    ask, match = load
    told = json.dumps([ask.source, " ".join(ask.query.split()), sorted(match.items())])
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


def asked(metrics: Metrics) -> dict[str, tuple[Ask, Query]]:
    """Return what is asked for a workload, by the reading's name."""
    found = {name: getattr(metrics, name) for name in METRICS}
    return {name: (Ask(metrics.source, query.query), query) for name, query in found.items() if query is not None}


class Index:
    """The series of one answer, found by the labels of `match` without a look at each for each workload."""

    def __init__(self, series: Sequence[Labelled]) -> None:
        """Take the answer."""
        self._series = series
        self._by: dict[tuple[str, ...], dict[tuple[str, ...], list[Labelled]]] = {}
        self._of: dict[str, dict[str, list[Labelled]]] = {}
        self._instead: dict[str, str] = {}

    def __len__(self) -> int:
        """Return the number of series."""
        return len(self._series)

    def matching(self, match: Mapping[str, str]) -> Sequence[Labelled]:
        """Return the series whose labels have all the values of `match`; a label that is left out is ""."""
        if not match:
            return self._series
        names = tuple(sorted(match))
        table = self._by.get(names)
        if table is None and len(self._by) < MOST_TABLES:
            table = self._by[names] = {}
            for one in self._series:
                table.setdefault(tuple(map(one.labels.get, names, repeat(""))), []).append(one)
        if table is not None:
            return table.get(tuple(match[name] for name in names), ())
        fewest = min((self.having(name).get(match[name], []) for name in names), key=len)
        return [one for one in fewest if all(one.labels.get(name, "") == value for name, value in match.items())]

    def having(self, name: str) -> Mapping[str, list[Labelled]]:
        """Return the series by their values of one label."""
        found = self._of.get(name)
        if found is None:
            found = self._of[name] = {}
            for one in self._series:
                found.setdefault(one.labels.get(name, ""), []).append(one)
        return found

    def instead(self, name: str) -> str:
        """Return what the series have of a label, the end of a sentence; worked out once for all who ask."""
        if name not in self._instead:
            present = self.having(name)
            values = heapq.nsmallest(3, filter(None, present))
            if values:
                told = f"{name} is there as {', '.join(map(shown, values))}{', ...' if len(present) > 3 else ''}"
            else:
                have = heapq.nsmallest(6, {label for one in self._series for label in one.labels})
                told = f"they have no label {name}, only {', '.join(map(shown, have)) or 'none'}"
            self._instead[name] = told
        return self._instead[name]


def picked(index: Index, query: Query, field: str) -> tuple[float, Note | None]:
    """Return the workload's value in an answer, NaN where it is unknown, and then why.

    field: the field of the resource that asks, such as spec.metrics.load; the note's message names it.
    """
    found = index.matching(query.match)
    if len(found) == 1:
        value = float(found[0].value)
        if not math.isfinite(value):
            return math.nan, Note("NotANumber", f"{field}: the query returns no finite number; is it a ratio with 0 "
                                                f"below? `A / (B > 0) or 0 * B` is 0 then")  # fmt: skip
        if value < 0.0:
            return math.nan, Note("NegativeValue", f"{field}: the query returns {value:g}; expected 0 or more")
        return value, None
    wanted = ", ".join(f'{name}="{value}"' for name, value in sorted(query.match.items()))
    if found:
        return math.nan, Note("AmbiguousSeries", f"{field}: the query returns {len(found)} series"
                              f"{' with ' + wanted if wanted else ''}, which differ in {_differing(found)}; aggregate "
                              f"them in the query (sum by ...), or add the label to match")  # fmt: skip
    if not wanted or not len(index):
        return math.nan, Note("NoData", f"{field}: the query returns no series; does the metric exist, and is its "
                                        f"exporter up? Without data it is unknown, not 0")  # fmt: skip
    return math.nan, Note("NoMatch", f"{field}: none of the {len(index)} series of the query has {wanted}; "
                                     f"{_nearest(index, query.match)}")  # fmt: skip


def _differing(found: Sequence[Labelled]) -> str:
    names = sorted({name for one in found[:20] for name in one.labels})
    several = [name for name in names if len({one.labels.get(name) for one in found[:20]}) > 1]
    return ", ".join(map(shown, several[:4])) or "no label (the same series twice)"


def _nearest(index: Index, match: Mapping[str, str]) -> str:
    """Return what the series have instead, for the first label of match that none of them fits."""
    for name in sorted(match):
        if match[name] not in index.having(name):
            return index.instead(name)
    return "no series has all of these labels at once"
