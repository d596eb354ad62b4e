"""Load prepared for training: realised once, measured once, its history computed once and looked up.

Load does not depend on what is decided, so the features of every moment can be told beforehand. They are made by
the same tick-by-tick code as everywhere else (`rlscaler.history`), with the pool's loads as rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from rlscaler import Autoscaler, Settings, Snapshot
from rlscaler.arrays import State, column
from rlscaler.observation import observe_load
from rlscaler_sim import world
from rlscaler_sim.load import Load
from rlscaler_sim.measure import measured
from rlscaler_sim.noise import Noise

WARM_UP = 240
"""Decisions at the start of each load, an hour, in which episodes start only as far as a pool's `cold` has it."""

IDLE = 0.05
"""Replicas that a load is taken to need at least, so that the cost of an idle one stays finite."""


@dataclass(slots=True)
class Pool:
    """P loads of S decision steps each.

    rates: (P, S, K) float32 requests/s for each tick. seen: (P, S) float64 the load that the autoscaler reads at
    each decision, NaN = unknown. features: name -> (P, S, ...) float32. start: (P,) seconds.
    mean_needed: (P,) pod-seconds, and mean_arrivals: (P,) requests, of one step, on average over the load.
    config, settings: the worlds that serve the loads and what the autoscaler is told of them, as `prepare` was given
    them. levels: (P,) ascending, 0 to 1, how far each is from the standard world. rise: share of a training after
    which all levels are open (see `opened`). cold: share of the episodes that start within the first WARM_UP decisions
    of a load, when its history says little; the others start after it.
    """

    rates: np.ndarray
    seen: np.ndarray
    features: State
    start: np.ndarray
    mean_needed: np.ndarray
    mean_arrivals: np.ndarray
    interval: float
    config: world.WorldConfig
    settings: Settings
    levels: np.ndarray
    rise: float = 0.0
    cold: float = 0.0
    _observed: np.ndarray | None = field(default=None, repr=False)

    def observed(self) -> np.ndarray:
        """Return the columns of the observation that the load alone makes, (P, S, len(LOAD_FIELDS)) float32."""
        if self._observed is None:
            parts = ({name: array[load] for name, array in self.features.items()} for load in range(self.loads))
            self._observed = np.stack([observe_load(np, part) for part in parts])
        return self._observed

    def opened(self, progress: float) -> int:
        """Return how many loads, from the first on, are trained on after this share of a training (a curriculum).

        The level rises in a straight line from 0 to 1 and stays there: progress / rise.
        """
        level = 1.0 if progress >= self.rise else progress / self.rise
        return max(1, int(np.searchsorted(self.levels, level, side="right")))

    @property
    def loads(self) -> int:
        """P, the number of loads."""
        return int(self.rates.shape[0])

    @property
    def steps(self) -> int:
        """S, the number of decision steps of each load."""
        return int(self.rates.shape[1])


def varied(config: world.WorldConfig, settings: Settings) -> bool:
    """Tell whether some of their fields have a value for each load."""
    values = [getattr(config, each.name) for each in fields(config)]
    for part in (settings, settings.objective, settings.loss):
        values += [getattr(part, each.name) for each in fields(part)]
    return any(np.ndim(value) > 0 for value in values if not isinstance(value, str))


def settings_of(settings: Settings, loads: np.ndarray) -> Settings:
    """Return the settings of some loads, (M,) indices; settings: scalars, or a value for each load."""

    def taken(part: Any) -> dict[str, Any]:
        values = {each.name: getattr(part, each.name) for each in fields(part)}
        return {name: np.asarray(value)[loads] for name, value in values.items() if np.ndim(value) == 1}

    objective = replace(settings.objective, **taken(settings.objective))
    return replace(
        settings, **taken(settings), objective=objective, loss=replace(settings.loss, **taken(settings.loss))
    )


def _alike(config: world.WorldConfig, count: int) -> Iterator[tuple[np.ndarray, world.WorldConfig]]:
    """Yield the loads whose metrics take the same kinds of draws, as indices, with their worlds.

    A load's draws come in blocks of all kinds, so what one load needs must not be drawn for another: a load is
    measured the same, to the bit, whatever else is in the pool.
    """
    config = replace(config, crash_rate=0.0, startup_spread=0.0)  # these are drawn when the load is served
    told: dict[str, Any] = {each.name: getattr(config, each.name) for each in fields(config)}
    told = {name: np.asarray(value) for name, value in told.items() if np.ndim(value)}
    gaps, scatter = (column(value, count) for value in (config.gap_rate, config.fano))
    kinds = (gaps > 0.0) + 2 * (scatter > 1.0)
    for kind in np.unique(kinds):
        which = np.flatnonzero(kinds == kind)
        yield which, replace(config, **{name: value[which] for name, value in told.items()})


def prepare(
    loads: Sequence[Load],
    config: world.WorldConfig,
    settings: Settings,
    seed: int,
    progress: Any = None,
    levels: Sequence[float] | None = None,
    rise: float = 0.0,
    cold: float = 0.0,
) -> Pool:
    """Measure the loads as the world's metrics pipeline would, and compute the features of every step.

    Loads shorter than the longest are repeated. The over-dispersion is drawn here, so the world that serves the
    pool must draw none (`fano=1`). config, settings: fields are scalars, or have a value for each load, which then has
    a world of its own; the interval is one. levels: ascending, see `Pool` (None: all 0). rise, cold: see `Pool`. Raises
    ValueError where levels do not ascend.
    """
    count = len(loads)
    heights = np.zeros(count) if levels is None else np.asarray(levels, np.float64)
    if heights.shape != (count,) or (np.diff(heights) < 0.0).any():
        raise ValueError(f"levels are {heights.tolist()}; expected {count}, ascending")
    params = world.compiled(config, count)
    ticks = params.ticks
    steps = max(len(load.rates) for load in loads) // ticks
    rates = np.stack([np.resize(load.rates, steps * ticks) for load in loads]).reshape(count, steps, ticks)
    known = np.stack([np.resize(load.known, steps * ticks) for load in loads]).reshape(count, steps, ticks)
    memory = Autoscaler("growth-quantile", settings, count)
    start = np.array([load.start for load in loads], np.float64)
    capacity = np.broadcast_to(np.asarray(config.capacity_per_replica, np.float64), (count,))
    interval = float(config.interval)
    served, seen = np.empty(rates.shape, np.float32), np.empty((count, steps))
    for which, worlds in _alike(config, count):
        part = world.compiled(worlds, len(which))
        # numbered, because several loads of a pool may be draws of one source
        noise = Noise(part, [(f"{loads[index].name}#{index}", seed) for index in which], 1)
        found = measured(part, rates[which], known[which].all(axis=2), noise)
        served[which], seen[which] = found.rates, found.seen
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
        config=config,
        settings=settings,
        levels=heights,
        rise=rise,
        cold=cold,
    )
