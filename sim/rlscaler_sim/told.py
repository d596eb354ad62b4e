"""A load, step by step, and what is known of it before anything is decided: readings, features, the noise's draws.

None of it depends on what is decided, unless load is counted at completion; so it is told once, and shared by all who
play the load and by all the stretches that it is cut into.
"""

from dataclasses import dataclass, replace

import numpy as np

from rlscaler import Settings
from rlscaler.arrays import State
from rlscaler_sim import contest, telemetry, world
from rlscaler_sim.load import Load
from rlscaler_sim.measure import gridded, measured
from rlscaler_sim.noise import Noise

LEAST = 1024
"""Steps from which on a load is cut."""
LANE = 720
"""Steps of a stretch for what is measured."""


@dataclass(slots=True)
class Told:
    """A load, step by step, and what is known of it before anything is decided. T steps of K ticks.

    rates: (T, K) float32 requests/s. known, weight: (T,), measured at all, and the share that is scored. time: (T,)
    seconds. features: name -> (T, ...). read: (T,) requests/s that are read, recorded where `seen` was given. draws: of
    the noise, name -> (T,) or (T, K).
    """

    name: str
    rates: np.ndarray
    known: np.ndarray
    weight: np.ndarray
    time: np.ndarray
    features: State
    read: np.ndarray
    recorded: bool
    draws: State


def worth_it(load: Load, config: world.WorldConfig, settings: Settings) -> bool:
    """Return whether a load is cut: it is long, and neither its readings nor an objective's window hang on orders."""
    ticks = world.compiled(replace(config, interval=float(settings.interval)), 1).ticks
    free = not config.completions and not np.isfinite(settings.objective.window).any()
    return free and len(load.rates) // ticks >= LEAST


def beforehand(
    load: Load, config: world.WorldConfig, settings: Settings, seed: int, seen: np.ndarray | None = None
) -> Told:
    """Return what is known of a load beforehand. seen: (1, T) as of `contest.play`."""
    params = world.compiled(replace(config, interval=float(settings.interval)), 1)
    rates, known, scored = gridded([load], params.ticks)
    steps = rates.shape[1]
    draws = Noise(params, [(load.name, seed)], 1).whole(steps)
    read = _measured(params, rates[0], known[0].all(axis=1), draws) if seen is None else seen
    if read is None:
        read = measured(params, rates, known.all(axis=2), Noise(params, [(load.name, seed)], 1)).seen
    features = contest.told_beforehand(config, settings, rates, known, np.array([load.start]), [load], [seed], read)
    return Told(
        name=load.name,
        rates=rates[0],
        known=known[0].all(axis=1),
        weight=scored[0].mean(axis=1),
        time=load.start + np.arange(steps) * params.ticks * load.tick,
        features={name: array[:, 0] for name, array in features.items()},
        read=read[0],
        recorded=seen is not None,
        draws=draws,
    )


def _measured(params: world.Params, rates: np.ndarray, known: np.ndarray, draws: State) -> np.ndarray | None:
    """Return what `measure.measured` says is read, (1, T); None where that has to be told step by step.

    The pipeline's memory has an end, so stretches that begin early enough forget where they began.
    """
    steps = len(rates)
    if params.metrics.gap is not None or steps < LEAST:
        return None
    early, lanes = params.metrics.rows // params.ticks + 2, max(1, steps // LANE)
    size = -(-steps // lanes)
    many = world.selected(params, np.zeros(lanes, np.int64))
    state = telemetry.initial(np, many.metrics, many.capacity)
    first, zero = {name: array.copy() for name, array in state.items()}, np.zeros(lanes, np.float32)
    found = np.empty((lanes, size))
    for step in range(-early, size):
        if step == 0:
            for name, array in first.items():
                state[name][..., 0] = array[..., 0]
        place = np.clip(np.arange(lanes) * size + step, 0, steps - 1)
        if step >= 0:
            found[:, step] = telemetry.readings(np, many.metrics, state, 0.0, zero, zero, None).load
        drawn = {name: array[place].T for name, array in draws.items()}
        counted = world.modulated(many, rates[place].T, drawn) * many.tick
        state = telemetry.step(np, many.metrics, state, counted, counted.sum(axis=0), [zero] * many.ticks, zero, zero,
                               drawn, known[place])  # fmt: skip
    return found.reshape(1, -1)[:, :steps]
