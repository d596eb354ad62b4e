"""The past loads of workloads, read back group by group from the sources that they are decided by."""

import asyncio
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from rlscaler.resource_objects import Query
from rlscaler_operator import past
from rlscaler_operator.leading import Leader
from rlscaler_operator.model import Key, Note
from rlscaler_operator.queries import Group

SLICE = 32
"""Samples of the past that are taken in at a stretch."""
FEWER = 8
"""Part of the times that are asked for again where an answer for them is too large."""


class Loads(NamedTuple):
    """Past load of one workload: times and values, both (T,), ascending."""

    times: np.ndarray
    values: np.ndarray


class PastLoads:
    """Reads the past of the workloads that a leader has."""

    def __init__(self, leader: Leader) -> None:
        """Take whose groups and sources are asked."""
        self._leader = leader

    def asked(self, key: Key) -> object:
        """Return which load is decided by, None of a workload that is gone: what is read of another one is no past."""
        ledger = self._leader.ledgers.get(key)
        return None if ledger is None else ledger.load

    async def between(self, keys: Iterable[Key], start: float, end: float) -> dict[Key, Loads]:
        """Return the loads of workloads in (start, end], without those whose source has no answer."""
        groups = self.groups(keys).items()
        found: dict[Key, Loads] = {}
        for part in await asyncio.gather(*(self.of_group(group, of, start, end) for group, of in groups)):
            found |= part
        return found

    def groups(self, keys: Iterable[Key]) -> dict[Group, dict[Key, Query]]:
        """Return the groups of those that are decided, each with what picks its members' series."""
        groups: dict[Group, dict[Key, Query]] = {}
        for key in keys:
            workload = self._leader.fleet.workloads.get(key)
            if workload is not None and workload.resource is not None and key in self._leader.roster:
                groups.setdefault(self._leader.roster.group(key), {})[key] = workload.resource.spec.metrics.load
        return groups

    async def of_group(self, group: Group, members: Mapping[Key, Query], start: float, end: float) -> dict[Key, Loads]:
        """Return the loads of a group's members in (start, end], nothing where their source has no answer."""
        line = self._leader.collector.lines.get(group.load.source)
        if line is None:
            return {}
        offset = await line.offset(line.timeout)
        pieces: dict[Key, list[np.ndarray]] = {key: [] for key in members}
        times: list[np.ndarray] = []
        series, least = len(members), 1
        while start < end:
            (since, until), *_ = past.spans(group, start, end, series)
            found = await past.loads(line, group, members, since, until, offset)
            if isinstance(found, Note):
                points = math.floor((until - since) / group.interval)
                if found.reason != "TooLarge" or points < FEWER:
                    return {}
                # it has more series than members: less at a time
                series = least = max(series, FEWER * past.POINTS // points)
                continue
            times.append(found[0])
            for key, values in found[1].items():
                pieces[key].append(values)
            start, series = until, max(found[2], least)
        grid = np.concatenate(times)
        return {key: Loads(grid, np.concatenate(values)) for key, values in pieces.items()} if len(grid) else {}


def alike(loads: Mapping[Key, Loads]) -> Iterable[list[Key]]:
    """Return workloads together whose samples are as many at the same interval."""
    alike: dict[tuple[int, float], list[Key]] = {}
    for key, (times, _) in loads.items():
        step = float(times[1] - times[0]) if len(times) > 1 else 0.0
        alike.setdefault((len(times), round(step, 6)), []).append(key)
    return alike.values()
