"""What a dry-run says beforehand of the twins: the same load with the same noise in the simulator's world."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

import twin_burst
from rlscaler import Autoscaler, Snapshot
from rlscaler.autoscaler import Panel
from rlscaler_sim import pods, world
from rlscaler_sim.noise import Noise
from twin_burst import Burst
from twin_figures import Figures
from twins import Twin

SETTLES = 8
"""Intervals that the world runs before anyone decides, so that its metrics are there."""
USUAL, SOONEST, LATEST = 1.0, 0.0, 2.0
"""Intervals from a change of the load's gauge until someone decides by it: on average, and at the least and the most,
for a change is scraped up to an interval later, and what was scraped is read up to another interval later."""
MISSED = 1.0
"""Intervals that a scrape or a read costs that misses its beat, which a busy machine makes one of now and then."""


def predicted(
    burst: Burst,
    contenders: Sequence[Twin],
    began: float,
    lags: Sequence[float] = (USUAL, SOONEST, LATEST),
    late: float = 0.0,
) -> list[dict[str, Figures]]:
    """Return the figures of the twins by name, for each of the lags.

    began: seconds since the epoch at which the play begins, for what depends on the time of day. lags: intervals
    until a change is decided by. late: seconds by which pods are ready, and changes are decided by, later than stated.

    Every contender sees what it sees in the cluster: the load and its replicas, but no queue, for no query of theirs
    asks for one.
    """
    twins, past = len(contenders), burst.past
    count = twins * len(lags)
    behind = np.repeat(np.asarray(lags) * burst.interval + late, twins)
    config = replace(twin_burst.world(burst.speed), lag=behind, startup=burst.startup + late)
    params = world.compiled(config, count)
    noise = Noise(params, [(burst.load.name, burst.seed)], count)
    rates = burst.load.rates.reshape(-1, params.ticks)
    scaler, times = _ready(burst, contenders, len(lags), began)
    state = world.initial(params, burst.start)
    orders = np.full(count, float(burst.start))
    found = [Figures(contenders[row % twins].name) for row in range(count)]
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
            changed = orders != before
            for row, figures in enumerate(found):
                figures.add(float(outcome.billed[row]), float(lacks[row]), int(changed[row]), int(orders[row]))
    return [{each.name: each for each in found[first : first + twins]} for first in range(0, count, twins)]


def _ready(burst: Burst, contenders: Sequence[Twin], copies: int, began: float) -> tuple[Autoscaler, np.ndarray]:
    """Return an autoscaler with a row for each contender, `copies` times, that knows the past, and all times."""
    entrants = [twin.entrant(burst) for twin in contenders]
    rows = np.arange(len(contenders) * copies)
    scaler = Autoscaler(Panel([(policy, rows[row :: len(contenders)]) for row, (policy, _) in enumerate(entrants)]))
    for row in rows:
        scaler.add([str(row)], entrants[row % len(contenders)][1])
    times = began + burst.interval * (np.arange(len(burst.shown)) - burst.past)
    known = slice(0, burst.past)
    scaler.fill(rows, times[known], np.tile(burst.shown[known], (len(rows), 1)))
    return scaler, times
