"""What becomes of a learned capacity where a workload's load is another one from now on, perhaps in another unit."""

import math
from collections.abc import Mapping, Set

import numpy as np

from rlscaler import Autoscaler, learning
from rlscaler.history import RING
from rlscaler_operator.checkpoint import Batch
from rlscaler_operator.model import Key

COMPARED = 8
"""Moments at least at which two loads have to be known for one to be measured by the other."""
ALIKE = 0.25
"""Logarithm of the ratio of two loads by which half of the moments may be further from the median."""
LEARNED = "learned"
"""The part of a memory that is of the replicas."""


class Former:
    """The loads that workloads had before, until they can be compared with those that are asked for now."""

    def __init__(self) -> None:
        """Start without workloads."""
        self._loads: dict[Key, tuple[float, dict[int, float]]] = {}

    def keep(self, key: Key, scaler: Autoscaler, row: int, interval: float) -> None:
        """Keep what an autoscaler remembers of the load of a workload in a row, before it forgets it.

        interval: seconds between decisions now, which may be others by the time it is compared. Of several changes in
        a row it is the load before the first that a capacity was learned by.
        """
        slots, values = scaler.samples([row], scaler.slots([row]) - RING, RING)
        self._loads.setdefault(key, (interval, dict(zip(slots[0].tolist(), values[0].tolist(), strict=True))))

    def forget(self, key: Key) -> None:
        """Forget a workload; unknown ones are passed over."""
        self._loads.pop(key, None)

    def times_what_it_was(self, key: Key, times: np.ndarray, loads: np.ndarray) -> float | None:
        """Return by how much the load now is more than the former one, which is forgotten; None where there is none.

        times, loads: (T,) seconds and the load now, NaN = unknown. NaN where the two cannot be compared.
        """
        former = self._loads.pop(key, None)
        if former is None:
            return None
        interval, before = former
        at = np.floor(times / interval + 1e-6).astype(np.int64)
        return ratio_of(before, dict(zip(at.tolist(), loads.tolist(), strict=True)))


def ratio_of(before: Mapping[int, float], now: Mapping[int, float]) -> float:
    """Return by how much a load is more than another one, both by slot; NaN where they do not go together.

    1 where the difference may be noise.
    """
    both = [slot for slot in now if slot in before]
    old, new = (np.array([loads[slot] for slot in both], np.float64) for loads in (before, now))
    known = (old > learning.SMALLEST) & (new > learning.SMALLEST)  # neither is true of NaN
    if known.sum() < COMPARED:
        return float("nan")
    times = np.log(new[known]) - np.log(old[known])
    middle = float(np.median(times))
    if float(np.median(np.abs(times - middle))) > ALIKE:
        return float("nan")
    factor = math.exp(middle)
    return 1.0 if abs(factor - 1.0) <= learning.MOVE else factor


def unlearned(batch: Batch, loads: Set[Key], targets: Set[Key]) -> Batch:
    """Return the batch without what was learned of the replicas of some workloads.

    loads: that have another load now, which tells nothing of how long a replica starts. targets: that have another one.
    """
    if LEARNED not in batch.parts or not (loads or targets):
        return batch
    capacity = np.array([key in loads or key in targets for key in batch.keys], bool)
    rest = np.array([key in targets for key in batch.keys], bool)
    known = {name: np.where(capacity if name in ("capacity", "error") else rest, np.nan, values).astype(values.dtype)
             for name, values in batch.parts[LEARNED].items()}  # fmt: skip
    return batch._replace(parts={**batch.parts, LEARNED: known})
