"""What is counted of each twin, measured and predicted alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Changes = Sequence[tuple[float, int]]


@dataclass(slots=True)
class Figures:
    """One contender's: seconds are those of the cluster.

    replica_seconds: billed, from a pod's creation to its end. unmet: replica-seconds by which the ready replicas were
    fewer than the demand at full use. rescales: changes of the count that is asked for. peak: most that was asked for.
    """

    name: str
    replica_seconds: float = 0.0
    unmet: float = 0.0
    rescales: int = 0
    peak: int = 0

    def add(self, replica_seconds: float, unmet: float, rescales: int, replicas: int) -> None:
        """Add what happened in a stretch of time."""
        self.replica_seconds += replica_seconds
        self.unmet += unmet
        self.rescales += rescales
        self.peak = max(self.peak, replicas)


def counted(
    name: str, orders: Changes, pods: Changes, ready: Changes, demand: np.ndarray, began: float, tick: float
) -> Figures:
    """Return the figures of a twin from what was seen of it.

    orders: (time, replicas asked for) from before `began` on. pods, ready: (time, +1 or -1), see `twin_log.TwinLog`.
    demand: (K,) replicas that are needed at full use in each tick from `began` on, `tick` seconds each.
    """
    edges = began + tick * np.arange(len(demand) + 1)
    seen = [at for changes in (pods, ready) for at, _ in changes if edges[0] < at < edges[-1]]
    starts = np.unique([*edges, *seen])
    seconds, starts = np.diff(starts), starts[:-1]
    needed = demand[np.searchsorted(edges, starts, "right") - 1]
    asked = [replicas for at, replicas in orders if at <= began][-1:]
    changed = [replicas for at, replicas in orders if began < at < edges[-1]]
    return Figures(
        name,
        replica_seconds=float(seconds @ _sum_until(pods, starts)),
        unmet=float(seconds @ np.clip(needed - _sum_until(ready, starts), 0.0, None)),
        rescales=len(changed),
        peak=max(asked + changed),
    )


def _sum_until(changes: Changes, times: np.ndarray) -> np.ndarray:
    """Return the sum of the changes up to each time, that at the time itself included."""
    at = np.array([when for when, _ in changes])
    sums = np.cumsum([0, *(change for _, change in changes)])
    return sums[np.searchsorted(at, times, "right")]
