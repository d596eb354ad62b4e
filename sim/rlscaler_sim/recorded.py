"""What was recorded of a workload, as a backtest needs it: the load that was read at each decision, and the replicas.

Nothing is silently used: what is missing, ambiguous or strange is told in `Past.notes`. Unknown is NaN, never zero.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

from rlscaler.custom_resource import Resource
from rlscaler.errors import UserError
from rlscaler.prometheus_config import SourceConfig
from rlscaler.quantities import duration, duration_text
from rlscaler_sim.trace import Trace

LEAST = 3600.0
"""Seconds of load that a backtest needs at least."""
DEADLINE = 120.0
"""Seconds for all requests of one series."""
STAIRS, REGULAR = 20, 0.9
"""Changes of a load at least, and the share of the times between them, that tell how often it is scraped."""
MOVES, FALLS = 50, 0.02
"""Changes of a load at least, and the share of them that falls at most, that tell a counter."""
AT_QUERY = ("BadQuery", "TooLarge", "Timeout")
"""Reasons of a SourceError that lie in the query, of which there are several: it is named then."""
LOAD = "spec.metrics.load"
SKEW = 30.0
"""Seconds by which two clocks may differ before it is worth a word."""
_WORKLOADS = {
    "Deployment": 'kube_deployment_spec_replicas{{namespace="{namespace}",deployment="{name}"}}',
    "StatefulSet": 'kube_statefulset_replicas{{namespace="{namespace}",statefulset="{name}"}}',
    "ReplicaSet": 'kube_replicaset_spec_replicas{{namespace="{namespace}",replicaset="{name}"}}',
}
"""Series of kube-state-metrics that hold spec.replicas."""
_COUNTS = re.compile(r"\b(increase|delta)\s*\(")
_WINDOW = re.compile(r"\[(\d+[smhd])[\]:]")


@dataclass(frozen=True, slots=True)
class Use:
    """What a past is read for: seconds of load that it takes, and the ends of the sentences on what is missing."""

    least: float
    needs: str
    gap: str
    uncounted: str


BACKTEST = Use(
    LEAST,
    f"a backtest needs {duration_text(LEAST)} at least, and a day to show how a policy uses the time of day",
    "decided as in a cluster, and not scored",
    "taken as the last known",
)


class Asked(Protocol):
    """A Prometheus, as `rlscaler.prometheus.Source` is one."""

    config: SourceConfig

    def range(self, query: str, start: float, end: float, step: float, *, deadline: float | None = None) -> "Found":
        """Return the series of a query at start, start + step, ... up to end."""
        ...


class Found(Protocol):
    """S series at T times: labels, times (T,) seconds, values (S, T), NaN = missing."""

    @property
    def labels(self) -> tuple[Mapping[str, str], ...]:
        """Return the labels of each series."""
        ...

    @property
    def times(self) -> np.ndarray:
        """Return the times."""
        ...

    @property
    def values(self) -> np.ndarray:
        """Return the values."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """What was read of one workload, one decision interval after the other.

    name: what tables call it. times: (T,) seconds since the epoch, of each reading. load: (T,) requests/s, NaN =
    unknown. replicas: (T,) that the target asked for, NaN = unknown; None = not recorded. notes: what is worth knowing
    of the data, a sentence each.
    """

    name: str
    times: np.ndarray
    load: np.ndarray
    replicas: np.ndarray | None
    notes: tuple[str, ...] = ()


def replicas_query(resource: Resource) -> str | None:
    """Return the query of the target's replicas by kube-state-metrics, None where that does not tell them."""
    target = resource.spec.scale_target_ref
    query = _WORKLOADS.get(target.kind)
    return None if query is None else query.format(namespace=resource.namespace, name=target.name)


def from_prometheus(
    source: Asked,
    resource: Resource,
    start: float,
    end: float,
    replicas: str | None,
    skew: float = 0.0,
    use: Use = BACKTEST,
    named: str = LOAD,
) -> Past:
    """Return what a Prometheus holds of a resource's workload from `start` to `end`, seconds since the epoch.

    replicas: the query of the replicas that were asked for; None: that of kube-state-metrics. skew: seconds by which
    the server's clock is ahead. named: what messages call the query of the load. Raises UserError where a query is
    wrong, or it holds no load, or too little; SourceError.
    """
    interval, query = resource.spec.interval, resource.spec.metrics.load
    first = np.ceil(start / interval) * interval
    found = series_of(source, named, query.query, float(first), end, interval)
    load, strange = one_series(found, query.match, named)
    load = np.where(np.isfinite(load) & (load >= 0.0), load, np.nan)
    notes = [*strange, *_odd(load, query.query, interval)]
    if abs(skew) > SKEW:
        notes.append(f"the clock of Prometheus is {duration_text(abs(round(skew)))} "
                     f"{'ahead of' if skew > 0 else 'behind'} this machine's; times are Prometheus'")  # fmt: skip
    times = found.times
    inside = slice(*_extent(load))
    if inside.start >= inside.stop:
        raise UserError(
            f"{named}: Prometheus holds nothing of this query from {_moment(start)} to {_moment(end)}"
            f"{_matched(query.match)}; try the query on its own page: {query.query}"
        )
    early = float(times[inside.start]) - start
    if early > 10.0 * interval:
        notes.append(f"the data begin {_span(early)} later than asked: Prometheus keeps no more, or the workload is "
                     "younger")  # fmt: skip
    late = end + min(skew, 0.0) - float(times[inside.stop - 1])  # a clock that is behind has not come to the end yet
    if late > 10.0 * interval:
        notes.append(f"the data end {_span(late)} earlier than asked: the workload is gone, Prometheus has stopped "
                     "reading it, or the end is still to come")  # fmt: skip
    asked = replicas or replicas_query(resource)
    counts = None
    if asked is None:
        notes.append(f"what was done at the time is not known: --replicas QUERY tells how many replicas of a "
                     f"{resource.spec.scale_target_ref.kind} were asked for")  # fmt: skip
    else:
        answer = series_of(source, "--replicas" if replicas else "replicas", asked, float(first), end, interval)
        if len(answer.labels) == 1:
            counts = answer.values[0]
        else:
            notes.append(f"what was done at the time is not known: {len(answer.labels)} series are found for the "
                         f"replicas, expected one; name it by --replicas QUERY (asked: {asked})")  # fmt: skip
    return checked(Past(
        resource.key, times[inside], load[inside], None if counts is None else counts[inside], tuple(notes)
    ), interval, use)  # fmt: skip


def series_of(source: Asked, named: str, query: str, start: float, end: float, interval: float) -> Found:
    """Return the series of one of several queries. Raises UserError that names it where it is wrong; SourceError."""
    try:
        return source.range(query, start, end, interval, deadline=DEADLINE)
    except Exception as error:  # SourceError, whose module needs what reading files does not
        if getattr(error, "reason", None) not in AT_QUERY:
            raise
        raise UserError(f"{named}: {error}; the query: {query}") from error


def from_traces(load: Trace, replicas: Trace | None, interval: float, use: Use = BACKTEST) -> Past | None:
    """Return what two files hold; None where the load's buckets are longer than the interval, and hide what was read.

    Raises UserError where there is too little.
    """
    if load.step > interval * (1.0 + 1e-9):
        return None
    steps = int(load.duration / interval + 1e-9)
    edges = interval * np.arange(steps + 1)
    buckets = load.step * np.arange(load.rates.size + 1)
    events = np.append(0.0, np.cumsum(np.nan_to_num(load.rates) * load.step))
    covered = np.append(0.0, np.cumsum(np.isfinite(load.rates) * load.step))
    whole = np.diff(np.interp(edges, buckets, covered)) > interval * (1.0 - 1e-6)
    rates = np.where(whole, np.diff(np.interp(edges, buckets, events)) / interval, np.nan)
    times = load.start + edges[1:]
    counts = None if replicas is None else counts_at(replicas, times)
    return checked(Past(load.name, times, rates, counts, warnings_of(load, replicas)), interval, use)


def warnings_of(load: Trace, replicas: Trace | None) -> tuple[str, ...]:
    """Return what reading the two files had to say."""
    return (*load.warnings, *(f"replicas: {said}" for said in (replicas.warnings if replicas else ())))


def counts_at(replicas: Trace, times: np.ndarray) -> np.ndarray:
    """Return (T,) the replicas recorded at the times, NaN outside of the record.

    The record's end belongs to it: the last bucket of a load that ends with it is read there.
    """
    place = np.floor((times - replicas.start) / replicas.step + 1e-9).astype(np.int64)
    there = (place >= 0) & (times <= replicas.start + replicas.duration * (1.0 + 1e-9))
    return np.where(there, replicas.rates[np.clip(place, 0, replicas.rates.size - 1)], np.nan)


def checked(past: Past, interval: float, use: Use = BACKTEST) -> Past:
    """Return the past with notes on how much it is and what it cannot say.

    Raises UserError where it is too little.
    """
    known = np.isfinite(past.load)
    seconds = float(known.sum()) * interval
    if seconds < use.least:
        raise UserError(f"{past.name}: {duration_text(round(seconds))} of load are known; {use.needs}")
    notes = list(past.notes)
    if seconds < 86400.0:
        notes.append(f"{duration_text(round(seconds))} of load are known: no daily pattern can be seen, and the figures"
                     " hold for these hours alone")  # fmt: skip
    elif seconds < 7 * 86400.0:
        notes.append(f"{seconds / 86400.0:.1f} days of load are known: weekends and weekly patterns cannot be seen")
    moves = np.diff(past.load[known])
    moves = moves[moves != 0.0]  # a counter rests while nobody comes, and between two scrapes
    if len(moves) >= MOVES and (moves < 0.0).mean() < FALLS:
        notes.append("the load rises nearly all the time, as a counter does: is rate() missing where it was queried?")
    gaps = 1.0 - known.mean()
    if gaps > 0.0:
        notes.append(f"load is unknown for {100.0 * gaps:.2g} % of the time, in one piece for "
                     f"{duration_text(round(_longest(~known) * interval))} at most: {use.gap}")  # fmt: skip
    if past.replicas is not None:
        missing = 1.0 - np.isfinite(past.replicas).mean()
        if missing == 1.0:
            notes.append("what was done at the time is not known: the recorded replicas do not overlap with the load")
            return Past(past.name, past.times, past.load, None, tuple(notes))
        if missing > 0.0:
            notes.append(f"recorded replicas are missing for {100.0 * missing:.2g} % of the time: {use.uncounted}")
    return Past(past.name, past.times, past.load, past.replicas, tuple(notes))


def one_series(found: Found, match: Mapping[str, str], field: str) -> tuple[np.ndarray, list[str]]:
    """Return (T,) the values of the series that `match` picks, NaN where not exactly one has one, and what was odd."""
    rows = [i for i, labels in enumerate(found.labels) if all(labels.get(k) == v for k, v in match.items())]
    if not rows:
        if found.labels:
            raise UserError(f"{field}.match: none of the {len(found.labels)} series has {_pairs(match)}; "
                            f"expected one, found {_some(found.labels)}")  # fmt: skip
        return np.full(len(found.times), np.nan), []
    values, theirs = found.values[rows], _some([found.labels[row] for row in rows])
    several = np.isfinite(values).sum(axis=0)
    if (several > 1).any() and not (several == 1).any():
        raise UserError(
            f"{field}: {len(rows)} series{_matched(match)}, expected one: {theirs}; sum them in the query, or pick one "
            "by match"
        )
    notes = []
    if (several > 1).any():
        notes.append(f"{field} finds several series at once for {100.0 * (several > 1).mean():.2g} % of the time: "
                     "unknown there")  # fmt: skip
    elif len(rows) > 1:
        notes.append(f"{field} finds {len(rows)} series one after the other, joined: {theirs}")
    return np.where(several == 1, np.nansum(values, axis=0), np.nan), notes


def _span(seconds: float) -> str:
    """Return a time in the unit that reads best, days where it is some."""
    return f"{seconds / 86400.0:.1f} days" if seconds >= 3 * 86400.0 else duration_text(round(seconds))


def _moment(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M} UTC"


def _odd(load: np.ndarray, query: str, interval: float) -> list[str]:
    """Return what is strange about the load that a query returned."""
    notes = []
    steady = _steady(load)
    if steady > 1:
        notes.append(f"the load changes every {duration_text(round(steady * interval))} only, as where it is scraped "
                     f"that seldom, and is read every {duration_text(interval)}: what happens in between is not in the "
                     "record")  # fmt: skip
    if _COUNTS.search(query):
        notes.append("the query counts requests by increase() or delta(): are they divided by the seconds of its "
                     "window? rate() tells requests/s")  # fmt: skip
    if windows := _WINDOW.findall(query):
        notes.append(f"the query averages over {windows[0]}: peaks shorter than that are not in the record")
    return notes


def _steady(load: np.ndarray) -> int:
    """Return for how many readings a load mostly keeps each value, 1 where it is no staircase."""
    moves = np.flatnonzero(np.diff(load[np.isfinite(load)]) != 0.0)
    lasting = np.diff(moves)
    if len(lasting) < STAIRS:
        return 1
    usual = int(np.median(lasting))
    # a load of few requests rests now and then; a scrape comes round at a fixed time
    return usual if (lasting % usual == 0).mean() >= REGULAR else 1


def averaged_over(query: str) -> float | None:
    """Return the seconds that a query averages over, None where it does not say."""
    found = [each for each in _WINDOW.findall(query) if not each.endswith("d")]
    return duration(found[0]) if found else None


def _extent(load: np.ndarray) -> tuple[int, int]:
    """Return the begin and end of what is known."""
    known = np.flatnonzero(np.isfinite(load))
    return (int(known[0]), int(known[-1]) + 1) if len(known) else (0, 0)


def _longest(mask: np.ndarray) -> int:
    """Return the length of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _pairs(match: Mapping[str, str]) -> str:
    return ", ".join(f'{key}="{value}"' for key, value in match.items())


def _matched(match: Mapping[str, str]) -> str:
    return f" with {_pairs(match)}" if match else ""


def _some(labels: Sequence[Mapping[str, str]]) -> str:
    """Return the first few label sets as text."""
    shown = ["{" + _pairs(each) + "}" for each in labels[:3]]
    return ", ".join(shown) + (", ..." if len(labels) > 3 else "")
