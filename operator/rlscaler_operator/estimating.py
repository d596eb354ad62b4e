"""What is learned of the workloads whose resource does not state it: capacity of a replica, time of its start.

The estimators lie in `rlscaler.learning`; here are their rows, by key. Pure: no I/O, no clock.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlscaler import learning
from rlscaler.arrays import Array, State
from rlscaler.custom_resource import Resource
from rlscaler.rows import put, stacked, taken
from rlscaler_operator.model import Key

_READ = ("time", "load", "ready", "starting", "desired", "utilization")


class Learned(NamedTuple):
    """What is known of workloads, (N,) float64; NaN where nothing is, or where the resource states it."""

    capacity: np.ndarray
    startup: np.ndarray


class Estimates:
    """The estimators' memory of some workloads."""

    def __init__(self) -> None:
        """Start without workloads."""
        self._rows: dict[Key, int] = {}
        self._asked: dict[Key, tuple[bool, bool]] = {}
        self._free: list[int] = []
        self._state: State = {}

    def __contains__(self, key: object) -> bool:
        """Tell whether anything is learned of the workload."""
        return key in self._rows

    def put(self, key: Key, resource: Resource) -> None:
        """Learn of a workload what its resource leaves out; what has been learned stays."""
        stated = resource.spec.capacity
        asked = (stated.per_replica is None, stated.startup is None)
        if not any(asked):
            self.drop(key)
            return
        if key not in self._rows:
            if not self._free:
                self._grow()
            self._rows[key] = row = self._free.pop()
            put(self._state, np.array([row]), learning.state(1))
        self._asked[key] = asked

    def _grow(self) -> None:
        have = len(self._rows)
        more = max(16, have // 2)
        fresh = learning.state(more)
        self._state = stacked(self._state, fresh) if self._state else fresh
        self._free.extend(range(have + more - 1, have - 1, -1))

    def drop(self, key: Key) -> None:
        """Forget a workload; unknown ones are passed over."""
        if (row := self._rows.pop(key, None)) is not None:
            self._free.append(row)
            del self._asked[key]

    def _of(self, keys: Iterable[Key]) -> np.ndarray:
        return np.array([self._rows[key] for key in keys], np.int64)

    def record(self, keys: Sequence[Key], snapshot: Mapping[str, Array]) -> None:
        """Take in readings of workloads, those that are not learned of among them.

        snapshot: arrays (N,) by name, in the keys' order: time, load, ready, starting, desired, utilization.
        """
        at = np.array([i for i, key in enumerate(keys) if key in self._rows], np.int64)
        if len(at):
            read = {name: np.asarray(snapshot[name], np.float64)[at] for name in _READ}
            learning.record(np, self._state, self._of(keys[i] for i in at), **read)

    def learned(self, keys: Sequence[Key]) -> Learned:
        """Return what is known of workloads, those that are not learned of among them."""
        capacity, startup = np.full(len(keys), np.nan), np.full(len(keys), np.nan)
        at = np.array([i for i, key in enumerate(keys) if key in self._rows], np.int64)
        if len(at):
            known = learning.learned(self._state, self._of(keys[i] for i in at))
            asked = np.array([self._asked[keys[i]] for i in at])
            capacity[at] = np.where(asked[:, 0], known["capacity"], np.nan)
            startup[at] = np.where(asked[:, 1], known["startup"], np.nan)
        return Learned(capacity, startup)

    def sentences(self, keys: Sequence[Key], intervals: np.ndarray) -> list[str]:
        """Return what there is to say about workloads' estimates, "" where nothing is learned of one.

        intervals: (N,) seconds between decisions.
        """
        at = [i for i, key in enumerate(keys) if key in self._rows]
        found = learning.learned(self._state, self._of(keys[i] for i in at)) if at else {}
        told = [""] * len(keys)
        for place, i in enumerate(at):
            capacity, startup = self._asked[keys[i]]
            told[i] = learning.sentence(found, place, capacity=capacity, startup=startup, interval=float(intervals[i]))
        return told

    def has_capacity(self, key: Key) -> bool:
        """Tell whether the capacity of a workload is learned, and known by now."""
        return self.learns_capacity(key) and bool(np.isfinite(self.learned([key]).capacity[0]))

    def learns_capacity(self, key: Key) -> bool:
        """Tell whether the capacity of a workload is learned, be it known or not yet."""
        return key in self._rows and self._asked[key][0]

    def remeasure(self, key: Key, factor: float) -> None:
        """Take in that the load of a workload is told as so many times what it was; NaN: forget its capacity."""
        rows = self._of([key])
        put(self._state, rows, learning.remeasured(self._state, rows, np.array([factor])))

    def forget(self, key: Key) -> bool:
        """Begin anew with a workload, and return whether its capacity was known; unknown ones are passed over."""
        known = self.has_capacity(key)
        if key in self._rows:
            put(self._state, self._of([key]), learning.state(1))
        return known

    def memory(self, keys: Sequence[Key]) -> State:
        """Return the little that is worth keeping of workloads, each array with a row for every key."""
        kept = learning.kept(learning.state(len(keys)))
        at = np.array([i for i, key in enumerate(keys) if key in self._rows], np.int64)
        if len(at):
            put(kept, at, learning.kept(taken(self._state, self._of(keys[i] for i in at))))
        return kept

    def recall(self, keys: Sequence[Key], kept: State) -> None:
        """Put back what `memory` returned. Raises ValueError, with nothing changed, where it does not fit."""
        at = np.array([i for i, key in enumerate(keys) if key in self._rows], np.int64)
        if len(at):
            put(self._state, self._of(keys[i] for i in at), learning.recalled(taken(kept, at)))


def moved(known: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Tell where an estimate is known and differs from what is used by more than noise would; (N,) bool."""
    off: np.ndarray = np.isfinite(known) & ~(np.abs(known - used) <= learning.MOVE * np.abs(used))
    return off
