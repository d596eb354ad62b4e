"""What a dry-run says beforehand of the twins: the same load with the same noise in the simulator's world."""

from collections.abc import Sequence

import numpy as np

import twin_burst
from rlscaler import Autoscaler, Snapshot
from rlscaler.autoscaler import Panel
from rlscaler_sim import pods, world
from rlscaler_sim.noise import Noise
from twin_burst import Burst
from twin_figures import Figures
from twins import Twin

SETTLES = 4
"""Intervals that the world runs before anyone decides, so that its metrics are there."""


def predicted(burst: Burst, contenders: Sequence[Twin], began: float) -> dict[str, Figures]:
    """Return the figures of the twins by name.

    began: seconds since the epoch at which the play begins, for what depends on the time of day.

    Every contender sees what it sees in the cluster: the load and its replicas, but no queue, for no query of theirs
    asks for one.
    """
    count, past = len(contenders), burst.past
    params = world.compiled(twin_burst.world(burst.speed), count)
    noise = Noise(params, [(burst.load.name, burst.seed)], count)
    rates = burst.load.rates.reshape(-1, params.ticks)
    scaler, times = _ready(burst, contenders, began)
    state = world.initial(params, burst.start)
    orders = np.full(count, float(burst.start))
    found = [Figures(twin.name) for twin in contenders]
    for step, time in enumerate(times):
        drawn = noise.step()
        if step < past - SETTLES:
            continue
        before = orders
        if step >= past:
            now = world.readings(params, state, np.full(count, time))
            seen = Snapshot(time=now.time, load=now.load, ready=now.ready, starting=now.starting, desired=now.desired)
            orders = scaler.decide(seen).replicas.astype(float)
        ready = pods.step(np, params.pods, state, orders.astype(np.float32), drawn)[1].ready
        state, outcome = world.step(params, state, orders, np.tile(rates[step][:, None], (1, count)), drawn)
        if step >= burst.counted:
            lacks = np.clip(burst.demand[step][:, None] - ready, 0.0, None).sum(axis=0) * params.tick
            for row, figures in enumerate(found):
                figures.add(float(outcome.billed[row]), float(lacks[row]), int(orders[row] != before[row]), int(orders[row]))  # fmt: skip
    return {figures.name: figures for figures in found}


def _ready(burst: Burst, contenders: Sequence[Twin], began: float) -> tuple[Autoscaler, np.ndarray]:
    """Return an autoscaler with a row for each contender that knows the past, and the times of all intervals."""
    entrants = [twin.entrant(burst) for twin in contenders]
    scaler = Autoscaler(Panel([(policy, np.array([row])) for row, (policy, _) in enumerate(entrants)]))
    for twin, (_, settings) in zip(contenders, entrants, strict=True):
        scaler.add([twin.name], settings)
    times = began + burst.interval * (np.arange(len(burst.shown)) - burst.past)
    known = slice(0, burst.past)
    rows = np.arange(len(contenders))
    scaler.fill(rows, times[known], np.tile(burst.shown[known], (len(rows), 1)))
    return scaler, times
