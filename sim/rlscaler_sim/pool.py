"""Load prepared for training: realised once, measured once, its history computed once and looked up.

Load does not depend on what is decided, so the features of every moment can be told beforehand. They are made by
the same tick-by-tick code as everywhere else (`rlscaler.history`), with the pool's loads as rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler import Autoscaler, Settings, Snapshot
from rlscaler.arrays import State
from rlscaler.observation import observe_load
from rlscaler_sim import world
from rlscaler_sim.load import Load
from rlscaler_sim.measure import measured
from rlscaler_sim.noise import Noise

WARM_UP = 240
"""Decisions at the start of each load that no episode starts in, so that there is some history."""

IDLE = 0.05
"""Replicas that a load is taken to need at least, so that the cost of an idle one stays finite."""


@dataclass(slots=True)
class Pool:
    """P loads of S decision steps each.

    rates: (P, S, K) float32 requests/s for each tick. seen: (P, S) float64 the load that the autoscaler reads at
    each decision, NaN = unknown. features: name -> (P, S, ...) float32. start: (P,) seconds.
    mean_needed: (P,) pod-seconds, and mean_arrivals: (P,) requests, of one step, on average over the load.
    """

    rates: np.ndarray
    seen: np.ndarray
    features: State
    start: np.ndarray
    mean_needed: np.ndarray
    mean_arrivals: np.ndarray
    interval: float
    _observed: np.ndarray | None = field(default=None, repr=False)

    def observed(self) -> np.ndarray:
        """Return the columns of the observation that the load alone makes, (P, S, len(LOAD_FIELDS)) float32."""
        if self._observed is None:
            parts = ({name: array[load] for name, array in self.features.items()} for load in range(self.loads))
            self._observed = np.stack([observe_load(np, part) for part in parts])
        return self._observed

    @property
    def loads(self) -> int:
        """P, the number of loads."""
        return int(self.rates.shape[0])

    @property
    def steps(self) -> int:
        """S, the number of decision steps of each load."""
        return int(self.rates.shape[1])


def prepare(
    loads: Sequence[Load], config: world.WorldConfig, settings: Settings, seed: int, progress: Any = None
) -> Pool:
    """Measure the loads as the world's metrics pipeline would, and compute the features of every step.

    Loads shorter than the longest are repeated. The over-dispersion is drawn here, so the world that serves the
    pool must draw none (`fano=1`).
    """
    count = len(loads)
    params = world.compiled(config, count)
    ticks = params.ticks
    steps = max(len(load.rates) for load in loads) // ticks
    rates = np.stack([np.resize(load.rates, steps * ticks) for load in loads]).reshape(count, steps, ticks)
    known = np.stack([np.resize(load.known, steps * ticks) for load in loads]).reshape(count, steps, ticks)
    # numbered, because several loads of a pool may be draws of one source
    noise = Noise(params, [(f"{load.name}#{index}", seed) for index, load in enumerate(loads)], 1)
    memory = Autoscaler("growth-quantile", settings, count)
    start = np.array([load.start for load in loads], np.float64)
    capacity = np.broadcast_to(np.asarray(config.capacity_per_replica, np.float64), (count,))
    interval = float(config.interval)
    found = measured(params, rates, known.all(axis=2), noise)
    served, seen = found.rates, found.seen
    features: State = {}
    for step in range(steps):
        told = memory.remember(Snapshot(time=start + step * interval, load=seen[:, step]))
        for name, value in told.items():
            if step == 0:
                features[name] = np.zeros((count, steps, *value.shape[1:]), np.float32)
            features[name][:, step] = value
        if progress is not None:
            progress(step + 1, steps)
    arrivals = np.maximum(served.mean(axis=(1, 2)), IDLE * capacity) * interval
    return Pool(
        rates=served,
        seen=seen,
        features=features,
        start=start,
        mean_needed=arrivals / capacity,
        mean_arrivals=arrivals,
        interval=interval,
    )
