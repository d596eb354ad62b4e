"""Writes to targets that no checkpoint holds, since the leader died right after them. Pure.

Scaling policies of `behavior` limit by how much the replicas change within a period, so whoever takes over has to know
of each change. The witness is the target: its count and the field manager that set it are written in one request, and
survive whatever happens to the writer. When it was is told by the resource's status where that was still written; else
it is taken to have happened now, which can hold back a change for a period and never allows one too many.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rlscaler_operator.checkpoint import Batch
from rlscaler_operator.model import Key, Target, Workload
from rlscaler_operator.timestamps import seconds_of

_PENDING = ("pending_time", "pending_from", "pending_to")


class Sight(NamedTuple):
    """A target that rlscaler set: replicas that it asked for when the memory was kept, and now; when they changed.

    changed_at: decision time, NaN = unknown.
    """

    kept: int
    present: int
    changed_at: float = math.nan


def changed_at(workload: Workload, target: Target) -> float:
    """Return when the target was given its present count, by the resource's status; NaN where that does not tell.

    To the second and rounded down, which is less than the time between two decisions.
    """
    if workload.status.get("desiredReplicas") != target.desired:
        return math.nan
    return seconds_of(workload.status.get("lastScaleTime"))


def counted(batch: Batch, sights: Mapping[Key, Sight], now: float) -> Batch:
    """Return the batch with each change that it does not know of as a decision that was written.

    Several changes are counted as one, at the time of the last. now: decision time.
    """
    guard = batch.parts.get("guard", {})
    if any(name not in guard for name in _PENDING):
        return batch
    time, before, after = (np.array(guard[name], np.float64) for name in _PENDING)
    for row, key in enumerate(batch.keys):
        if (sight := sights.get(key)) is None:
            continue
        waits = math.isfinite(after[row])  # a decision whose write was not seen when the memory was kept
        base, known = (before[row], after[row]) if waits else (sight.kept, sight.kept)
        if sight.present in (base, known):
            continue
        told = max(sight.changed_at, float(batch.time[row]))
        time[row] = min(told, now) if math.isfinite(sight.changed_at) else now
        before[row], after[row] = base, sight.present
    found = dict(zip(_PENDING, (time, before, after), strict=True))
    return batch._replace(parts={**batch.parts, "guard": {**guard, **found}})
