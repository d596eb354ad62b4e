"""Load read back from Prometheus: the last hour before the first decision, the rest of the past in the background.

Samples are asked for on the same grid of moments at which the group is decided, so that the past that was read and
the past that was lived through are the same history. Only load is read: a backlog, latency or utilization of the past
shapes no history, and decisions that are made again for missed ticks do without them.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from rlscaler.resource_objects import Query
from rlscaler_operator.collecting import Line
from rlscaler_operator.model import Key, Note
from rlscaler_operator.queries import Group, Index

HOUR = 3600.0
POINTS = 200_000
"""Values that one answer may hold: some 5 MB of JSON."""
DEADLINE = 20.0
"""Seconds for one answer of the past."""


def grid(group: Group, start: float, end: float) -> np.ndarray:
    """Return the moments of the group in (start, end], seconds since the epoch, ascending, float64."""
    first = group.due_after(start)
    count = math.floor((end - first) / group.interval + 1e-9) + 1
    return first + group.interval * np.arange(max(0, count))


def spans(group: Group, start: float, end: float, series: int) -> Iterator[tuple[float, float]]:
    """Split (start, end] into parts whose answers hold at most POINTS values, oldest first.

    series: how many the query returned lately.
    """
    step = group.interval * max(1, POINTS // max(1, series))
    while start < end:
        yield start, min(start + step, end)
        start += step


async def loads(
    line: Line, group: Group, members: Mapping[Key, Query], start: float, end: float, offset: float
) -> tuple[np.ndarray, dict[Key, np.ndarray], int] | Note:
    """Return the group's moments in (start, end], each member's load at them (NaN = unknown), and the series seen.

    offset: the source's time less decision time.
    """
    times = grid(group, start, end)
    if not len(times):
        return times, {key: np.zeros(0) for key in members}, 0
    found = await line.range(
        group.load.query, float(times[0]) + offset, float(times[-1]) + offset, group.interval, DEADLINE
    )
    if isinstance(found, Note):
        return found
    values = np.full((len(found.labels), len(times)), np.nan)
    width = min(len(times), found.values.shape[1])
    values[:, :width] = found.values[:, :width]
    values[~(np.isfinite(values) & (values >= 0.0))] = np.nan
    index = Index([_Row(labels, float(row)) for row, labels in enumerate(found.labels)])
    return times, {key: _own(index, values, query) for key, query in members.items()}, len(found.labels)


class _Row(NamedTuple):
    labels: Mapping[str, str]
    value: float


def _own(index: Index, values: np.ndarray, query: Query) -> np.ndarray:
    """Return the values of the series that `match` picks, NaN where not exactly one of them has a value."""
    rows = [int(one.value) for one in index.matching(query.match)]
    if not rows:
        return np.full(values.shape[1], np.nan)
    mine = values[rows]
    return np.where(np.isfinite(mine).sum(axis=0) == 1, np.nansum(mine, axis=0), np.nan)
