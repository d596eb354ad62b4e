"""How long a replica takes from being asked for until it serves, learned from two counts: asked for, and ready.

Each rise of the desired count is a request; replicas that become ready answer the oldest requests first. Only counts
are looked at, so it works for anything that can be scaled. What the counts cannot tell is left out: when replicas are
lost (a crash, a rollout, an eviction), those that come next may be their replacements, so all that is outstanding is
forgotten; a lowered count takes back the newest requests. Ready replicas beyond what was asked for are a rollout's.

Both moments are known only to lie between two readings, so a start is an interval, and its weight is spread over it.
Where the moment of the request is known (the caller wrote it), that is used; else both moments are off by half a
reading on average, which cancels. A request weighs 1 however many replicas it is for, for they tend to start alike.

What decisions use is the quantile `QUANTILE`: headroom has to last until most of a request serves, and the slowest
tenth must not set it (a node that had to be bought). Old requests fade with a half-life of `HALF_LIFE` newer ones.
"""

from typing import Any

import numpy as np

from rlscaler.arrays import Array, State

QUANTILE = 0.9
"""Share of a request's replicas that serve within the start-up time that is told."""
LEAST = 2.5
"""Answered requests, fading, without which nothing is known: three in a row."""
HALF_LIFE = 10.0
"""Newer requests after which one weighs half."""
OUTSTANDING = 16
"""Requests that are remembered until they are answered; more are joined with the newest."""
LONGEST, SILENCE = 3600.0, 120.0
"""Seconds after which a request is given up, and without a reading after which all are."""
EDGES = np.concatenate([[0.0], np.geomspace(1.0, LONGEST, 64)])
"""Edges of the bins in seconds."""


def state(n: int) -> State:
    """Return the fresh memory of n workloads; every array has the workloads as its first axis.

    startup: float32 seconds, NaN = unknown. weights: (n, bins) float32, requests by the seconds they took. requests:
    float32, answered so far, fading. time, desired, ready: float64, the last reading. asked: (n, 3, OUTSTANDING)
    float64, oldest first: earliest and latest moment of the request (NaN = unknown), share of it that a replica is.
    owed: (n, OUTSTANDING) float64, replicas of it that do not serve yet; 0 = none.
    """
    return {
        "startup": np.full(n, np.nan, np.float32),
        "weights": np.zeros((n, len(EDGES) - 1), np.float32),
        "requests": np.zeros(n, np.float32),
        "time": np.full(n, np.nan),
        "desired": np.full(n, np.nan),
        "ready": np.full(n, np.nan),
        "asked": np.full((n, 3, OUTSTANDING), np.nan),
        "owed": np.zeros((n, OUTSTANDING)),
    }


def record(
    xp: Any, state: State, rows: Array, time: Array, desired: Array, ready: Array, asked: Array | None = None
) -> None:
    """Take in one reading for each of the rows, in place.

    rows: (N,) int64. time: (N,) seconds. desired, ready: (N,) replicas, NaN = unknown. asked: (N,) seconds, when the
    desired count was last changed, NaN = unknown (None: nowhere known).
    """
    known = xp.isfinite(desired) & xp.isfinite(ready)
    wanted, served, since = (state[name][rows] for name in ("desired", "ready", "time"))
    still = (wanted == desired) & (served == ready) & (time - since <= SILENCE)
    state["time"][rows] = xp.where(known, time, since)
    news = known & ~still
    if not bool(xp.any(news)):
        return
    some = rows[news]
    time, since, wanted, served = time[news], since[news], wanted[news], served[news]
    desired, ready = desired[news], ready[news]
    state["desired"][some], state["ready"][some] = desired, ready
    first = xp.isnan(since) | (time - since > SILENCE)
    since = xp.where(first, time, since)
    wanted, served = xp.where(first, desired, wanted), xp.where(first, ready, served)

    queue, owed = state["asked"][some], state["owed"][some]
    late = time[:, None] - queue[:, 0] > LONGEST
    queue = xp.where(late[:, None, :], float("nan"), queue)
    fewer = xp.clip(wanted - desired, 0.0, None)
    lost = (served - ready > fewer) | (served > wanted)
    queue = xp.where((first | lost)[:, None, None], float("nan"), queue)

    rise = xp.clip(desired - wanted, 0.0, None)
    moment = xp.full_like(time, float("nan")) if asked is None else asked[news]
    within = (moment >= since) & (moment <= time)
    begun = xp.stack([xp.where(within, moment, since), xp.where(within, moment, time), 1.0 / xp.clip(rise, 1.0, None)])
    queue, owed = _pushed(xp, queue, owed, xp.permute_dims(begun, (1, 0)), rise)
    answered, owed = _answered(xp, owed, xp.clip(ready - served, 0.0, None))
    _learn(xp, state, some, queue, answered, since, time)
    owed = _balanced(xp, owed, xp.clip(desired - ready, 0.0, None))
    # What is owed beyond the requests is of unknown age: replicas that were lost, or asked for before the first sight.
    more = xp.clip(desired - ready, 0.0, None) - xp.sum(owed, axis=1)
    unknown = xp.full((some.shape[0], 3), float("nan"), dtype=xp.float64, device=getattr(time, "device", None))
    queue, owed = _pushed(xp, queue, owed, unknown, more)
    state["asked"][some], state["owed"][some] = queue, owed


def _pushed(xp: Any, queue: Array, owed: Array, request: Array, count: Array) -> tuple[Array, Array]:
    """Return the queue with a request (N, 3) for `count` replicas (0: none) behind it, empty places in front."""
    order = xp.argsort(xp.astype(owed > 0.0, xp.int8), axis=1, stable=True)
    owed = xp.take_along_axis(owed, order, axis=1)
    queue = xp.stack([xp.take_along_axis(queue[:, part], order, axis=1) for part in range(3)], axis=1)
    pushed = count > 0.0
    full = pushed & (owed[:, 0] > 0.0)
    moved = xp.where(pushed & ~full, 1, 0)[:, None]
    place = xp.arange(OUTSTANDING, device=getattr(owed, "device", None))[None, :]
    source = xp.clip(place + moved, 0, OUTSTANDING - 1)
    owed = xp.take_along_axis(owed, source, axis=1)
    queue = xp.stack([xp.take_along_axis(queue[:, part], source, axis=1) for part in range(3)], axis=1)
    owed[:, -1] = xp.where(pushed, xp.where(full, owed[:, -1] + count, count), owed[:, -1])
    queue[:, :, -1] = xp.where(pushed[:, None], xp.where(full[:, None], float("nan"), request), queue[:, :, -1])
    return queue, owed


def _answered(xp: Any, owed: Array, served: Array) -> tuple[Array, Array]:
    """Return how many replicas of each request became ready, the oldest first, and what is owed then."""
    before = xp.cumulative_sum(owed, axis=1) - owed
    answered = xp.clip(xp.minimum(served[:, None] - before, owed), 0.0, None)
    return answered, owed - answered


def _balanced(xp: Any, owed: Array, total: Array) -> Array:
    """Return what is owed, the newest requests taken back until it is at most `total`."""
    behind = xp.flip(xp.cumulative_sum(xp.flip(owed, axis=1), axis=1), axis=1)
    older = xp.sum(owed, axis=1)[:, None] - behind
    return xp.clip(xp.minimum(total[:, None] - older, owed), 0.0, None)


def _learn(xp: Any, state: State, rows: Array, queue: Array, answered: Array, since: Array, time: Array) -> None:
    """Add the answered replicas to the rows' weights, and tell the start-up anew."""
    told = (answered > 0.0) & xp.isfinite(queue[:, 0])
    which = xp.any(told, axis=1)
    if not bool(xp.any(which)):
        return
    rows, queue, told, since, time = rows[which], queue[which], told[which], since[which], time[which]
    low = xp.clip(since[:, None] - queue[:, 1], 0.0, LONGEST - 1.0)
    high = xp.clip(time[:, None] - queue[:, 0], 1e-3, LONGEST)
    weight = xp.where(told, answered[which] * queue[:, 2], 0.0)
    low, high = xp.where(told, low, 0.0), xp.where(told, high, 1.0)
    edges = xp.asarray(EDGES, device=getattr(time, "device", None))
    inside = xp.clip((edges - low[:, :, None]) / (high - low)[:, :, None], 0.0, 1.0)
    added = xp.sum(weight[:, :, None] * (inside[:, :, 1:] - inside[:, :, :-1]), axis=1)
    new = xp.sum(weight, axis=1)
    fade = xp.astype(2.0 ** (-new / HALF_LIFE), xp.float32)
    weights = state["weights"][rows] * fade[:, None] + xp.astype(added, xp.float32)
    requests = state["requests"][rows] * fade + xp.astype(new, xp.float32)
    state["weights"][rows], state["requests"][rows] = weights, requests
    found = xp.astype(quantile(xp, weights), xp.float32)
    state["startup"][rows] = xp.where(requests >= LEAST, found, state["startup"][rows])


def quantile(xp: Any, weights: Array, share: float = QUANTILE) -> Array:
    """Return the seconds (M,) within which `share` of the weights (M, bins) lie; NaN where there is none."""
    edges = xp.asarray(EDGES, device=getattr(weights, "device", None))
    below = xp.cumulative_sum(xp.astype(weights, xp.float64), axis=1)
    total = below[:, -1]
    wanted = share * total
    place = xp.clip(xp.count_nonzero(below < wanted[:, None], axis=1), 0, len(EDGES) - 2)
    line = xp.arange(place.shape[0], device=getattr(weights, "device", None))
    here = xp.astype(weights[line, place], xp.float64)
    part = xp.clip((wanted - (below[line, place] - here)) / xp.where(here > 0.0, here, 1.0), 0.0, 1.0)
    seconds = edges[place] + part * (edges[place + 1] - edges[place])
    return xp.where(total > 0.0, seconds, float("nan"))
