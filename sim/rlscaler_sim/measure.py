"""What the draws make of a load before anything is decided: the rates that arrive, and the load that is measured.

Neither depends on replicas (unless the load is counted at completion), so both can be told for a whole load at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlscaler.arrays import Array
from rlscaler_sim import telemetry, world
from rlscaler_sim.load import Load
from rlscaler_sim.noise import Noise


@dataclass(frozen=True, slots=True)
class Measured:
    """rates: (L, S, K) float32 requests/s of each tick after over-dispersion. seen: (L, S) float64 requests/s that the
    autoscaler reads at the start of each step, NaN = unknown."""

    rates: np.ndarray
    seen: np.ndarray


def gridded(loads: Sequence[Load], per_step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rates (L, S, K) float32, known and scored (L, S, K) bool, padded to the longest by what is neither."""
    steps = max(-(-len(load.rates) // per_step) for load in loads)
    shape = (len(loads), steps * per_step)
    rates, known, scored = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    for row, load in enumerate(loads):
        for target, values in ((rates, load.rates), (known, load.known), (scored, load.scored)):
            target[row, : len(values)] = values
    by_step = (len(loads), steps, per_step)
    return rates.reshape(by_step), known.reshape(by_step), scored.reshape(by_step)


def arriving(params: world.Params, rates: np.ndarray, noise: Noise) -> np.ndarray:
    """Return the rates that the ticks really have, (L, S, K) float32 requests/s; arguments as of `measured`."""
    found = np.empty(rates.shape, np.float32)
    for step in range(rates.shape[1]):
        found[:, step] = world.modulated(params, rates[:, step].T, noise.step()).T
    return found


def measured(params: world.Params, rates: np.ndarray, known: Array, noise: Noise) -> Measured:
    """Return what arrives and what is measured.

    params: of L environments. rates: (L, S, K) requests/s of the load. known: (L, S) bool, the source has an
    observation. noise: of the L loads, from its first step on.
    """
    count, steps, _ = rates.shape
    zero = np.zeros(count, np.float32)
    idle = [zero] * params.ticks
    state = telemetry.initial(np, params.metrics, params.capacity)
    arriving = np.empty(rates.shape, np.float32)
    seen = np.empty((count, steps))
    for step in range(steps):
        drawn = noise.step()
        seen[:, step] = telemetry.readings(np, params.metrics, state, 0.0, zero, zero, None).load
        now = world.modulated(params, rates[:, step].T, drawn)
        arriving[:, step] = now.T
        counted = now * params.tick
        state = telemetry.step(
            np, params.metrics, state, counted, counted.sum(axis=0), idle, zero, zero, drawn, known[:, step]
        )
    return Measured(arriving, seen)
