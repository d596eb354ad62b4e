"""What is known of the workloads at one moment. Missing, NaN, infinite, negative or stale is unknown, never zero."""

from dataclasses import dataclass
from typing import Any

from rlscaler.arrays import Array, State

METRICS = ("load", "backlog", "utilization", "latency", "errors")
COUNTS = ("ready", "starting", "desired")
_NAMES = ("time", "age", *METRICS, *COUNTS)
LARGEST = 1e15
"""A reading above this is no reading: no workload has so many requests or replicas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Readings of N workloads, each a scalar or of shape (N,); NaN = unknown; only `time` is required.

    time: seconds, the same clock at every call, never running backwards (absolute, so that time of day is known).
    load: requests/s, total over the workload. backlog: requests waiting, total.
    utilization: share of capacity in use, 0 to 1. latency: seconds. errors: share of failed requests, 0 to 1.
    ready: replicas that serve. starting: replicas created and not yet ready. desired: replicas that the target
    asks for now, starting ones included.
    age: seconds since the readings were current, beyond the usual lag; older than `stale_after` = unknown.
    """

    time: Any
    load: Any = float("nan")
    backlog: Any = float("nan")
    utilization: Any = float("nan")
    latency: Any = float("nan")
    errors: Any = float("nan")
    ready: Any = float("nan")
    starting: Any = float("nan")
    desired: Any = float("nan")
    age: Any = 0.0


def cleaned(xp: Any, snapshot: Snapshot, n: int, like: Array, stale_after: float = 60.0) -> State:
    """Return the snapshot as float64 arrays of shape (n,) in which everything unknown is NaN.

    like: an array whose library and device the result has. Raises ValueError for readings of another shape.
    """
    device = getattr(like, "device", None)

    readings = xp.empty((len(_NAMES), n), dtype=xp.float64, device=device)
    for place, name in enumerate(_NAMES):
        value = xp.asarray(getattr(snapshot, name), dtype=xp.float64, device=device)
        if value.ndim and value.shape != (n,):
            raise ValueError(f"snapshot.{name} has shape {tuple(value.shape)}; expected a number or {n} of them")
        readings[place] = value
    age, found = readings[1], readings[2:]
    known = (found >= 0.0) & (found <= LARGEST)
    known[: len(METRICS)] &= xp.isnan(age) | (age <= stale_after)
    readings[2:] = xp.where(known, found, float("nan"))
    return dict(zip(_NAMES, readings, strict=True))
