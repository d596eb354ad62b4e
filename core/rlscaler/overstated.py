"""How much less replicas carry than their stated capacity says, learned from their own utilization.

    replicas that were kept busy / replicas that the load should have kept busy = stated capacity / carried

Demand is the load over the stated capacity, so where that is too high every proposal is too low by the same factor, and
nothing in the load tells. Utilization tells. Readings are summed over stretches of minutes; what of the load went to or
came from a backlog is left out of it. Utilization and load are means that lag behind the replica count, so a reading
counts for the fewest replicas of that time: replicas that just came are taken for no sign of a low capacity.

Some use is of no request (an idle share), which at low use looks like a low capacity. So only stretches at high use may
raise the factor, two of them in a row, and the lesser of the two counts. Any stretch may lower it, at once, but one of
an overload whose backlog nobody counts: more came than was served. It is never below 1: a capacity that is stated lower
than what replicas carry may be stated by their latency.
"""

from typing import Any

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.capacity import PERCENT
from rlscaler.policy import View

STRETCH, READINGS = 120.0, 4.0
"""Seconds of a stretch, and how many intervals it has at least; half of its readings must be known."""
BUSY = 0.7
"""Mean utilization from which on a stretch may raise the factor; below, idle work may be much of it."""
FULL = 0.97
"""Utilization from which on more may arrive than is served."""
BAND, LARGEST = 1.1, 2.0
"""Factor up to which nothing is amiss, as readings scatter, and the largest one that is believed."""
AMPLE = 4.0
"""Replicas over demand beyond which a proposal lacks nothing."""


def state(n: int) -> State:
    """Return the memory of n workloads that nothing is known of.

    ratios: (n, 2) float64, what the last two stretches said, newest first, 1 where nothing was amiss. stretch: (n, 5)
    float64, sums of the stretch in progress: busy replicas, served demand in replicas, replicas, readings, and those of
    an overload without a backlog.
    stretch_time: float64, when it began. fewest: (n, 2) float64, the fewest ready replicas within the present and the
    former span of lag and interval, fewest_time: when the present one began. queue: float64 requests, queue_time: when
    they were read.
    """
    return {
        "ratios": np.ones((n, 2)),
        "stretch": np.zeros((n, 5)),
        "stretch_time": np.full(n, -np.inf),
        "fewest": np.full((n, 2), np.nan),
        "fewest_time": np.full(n, -np.inf),
        "queue": np.full(n, np.nan),
        "queue_time": np.full(n, -np.inf),
    }


def factor(xp: Any, state: State) -> Array:
    """Return by how much the stated capacity is taken to be too high, (N,) float64 from 1 to LARGEST.

    Up to BAND it is 1; from there it rises steeply, without a jump, to the ratio itself.
    """
    ratio = xp.minimum(state["ratios"][:, 0], state["ratios"][:, 1])
    return xp.clip(xp.minimum(ratio, (ratio / BAND) ** 2), 1.0, None)


def corrected(xp: Any, replicas: Array, demand: Array, factor: Array) -> Array:
    """Return proposed replicas times the factor, of more than AMPLE times the demand only that part.

    So a policy that goes by the replicas that it finds, and does not say so, runs into a limit.
    """
    return xp.maximum(replicas, factor * xp.minimum(replicas, AMPLE * (demand + 1.0)))


def recorded(xp: Any, view: View, state: State) -> None:
    """Take in the readings of a view, in place on `state`; what they say counts from the end of their stretch on."""
    settings, snap, time = view.settings, view.snapshot, view.snapshot["time"]
    interval = settings["interval"]
    span = xp.clip(READINGS * interval, STRETCH, None)
    began = xp.floor(time / span) * span
    ended = began != state["stretch_time"]
    state["ratios"] = _judged(xp, state, ended, 0.5 * span / interval)
    state["stretch_time"] = began

    ready, use = _fewest(xp, state, time, settings["lag"] + interval, snap["ready"]), snap["utilization"]
    served = view.demand - _queued(xp, state, view)
    usable = settings["floor"] & xp.isfinite(served) & (view.demand > 0.0) & (ready >= 1.0)
    usable = usable & (use > 0.0) & (use <= PERCENT)
    over = (use >= FULL) & ~(snap["backlog"] > 0.0) & ~settings["completions"]
    one = xp.ones_like(served)
    reading = xp.stack([ready * xp.clip(use, None, 1.0), served, ready, one, xp.where(over, one, 0.0)], axis=1)
    sums = xp.where(ended[:, None], 0.0, state["stretch"])
    state["stretch"] = sums + xp.where(usable[:, None], reading, 0.0)


def _judged(xp: Any, state: State, ended: Array, least: Array) -> Array:
    """Return the ratios after the stretches that ended. least: (N,) readings that a stretch must have."""
    sums, ratios = state["stretch"], state["ratios"]
    busy, served, replicas, readings, over = (sums[:, part] for part in range(5))
    told = ended & (readings >= least) & (served > 0.0)
    said = xp.minimum(busy, LARGEST * served) / xp.where(told, served, 1.0)
    before = xp.minimum(ratios[:, 0], ratios[:, 1])
    said = xp.where(busy >= BUSY * replicas, said, xp.minimum(before, BAND * said))
    said = xp.where(over > 0.0, xp.maximum(before, said), said)
    said = xp.where(said > BAND, said, 1.0)
    return xp.where(told[:, None], xp.stack([said, ratios[:, 0]], axis=1), ratios)


def _fewest(xp: Any, state: State, time: Array, span: Array, ready: Array) -> Array:
    """Return the fewest ready replicas since a time between one and two spans ago, NaN where one is unknown."""
    span = xp.clip(span, 1.0, None)
    began = xp.floor(time / span) * span
    present, former = state["fewest"][:, 0], state["fewest"][:, 1]
    new = began != state["fewest_time"]
    former = xp.where(new, present, former)
    present = xp.where(new, ready, xp.minimum(present, ready))
    state["fewest"], state["fewest_time"] = xp.stack([present, former], axis=1), began
    return xp.minimum(present, former)


def _queued(xp: Any, state: State, view: View) -> Array:
    """Return by how much the backlog grew since the reading before, in replicas; 0 where that is unknown.

    A load that is counted at completion is what was served already.
    """
    settings, time, queue = view.settings, view.snapshot["time"], view.snapshot["backlog"]
    since = time - state["queue_time"]
    told = ~settings["completions"] & (since > 0.0) & (since <= 2.0 * settings["interval"])
    told = told & xp.isfinite(queue) & xp.isfinite(state["queue"])
    rate = (queue - state["queue"]) / xp.where(told, since, 1.0)
    state["queue"], state["queue_time"] = queue, time + 0.0
    return xp.where(told, rate / settings["capacity_per_replica"], 0.0)
