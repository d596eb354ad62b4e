"""How long a replica takes from being asked for until it serves, learned from two counts: asked for, and ready.

Each rise of the desired count is a request; replicas that become ready answer the oldest requests first. Only counts
are looked at, so it works for anything that can be scaled. What the counts cannot tell is left out:

- When replicas are lost (a crash, a rollout, an eviction) or first seen while some do not serve, those that come next
  may be these, so the age of all that is outstanding is unknown from then on. What is answered then tells nothing.
- A lowered count takes back the newest requests. Ready replicas beyond what was asked for are a rollout's.
- A replica that never comes (no room, no image, a crash at every start) must not make all that follow look late: what
  is overdue is answered last, and given up in the end.

Both moments are known only to lie between two readings. A start is taken for the middle of what it may have been, and
the scatter that this adds is taken out of the scatter of the starts. Where the moment of the request is known (the
caller wrote it), that is used. What is told may still be off by the time between two readings, or by half of it with
the moment known: starts that always begin and end at the same places between readings show no more. A request weighs
1 however many replicas it is for, for they tend to start alike.

What decisions use is the quantile `QUANTILE`: headroom has to last until most of a request serves, and the slowest
tenth must not set it (a node that had to be bought). Old requests fade with a half-life of `HALF_LIFE` newer ones.
"""

from typing import Any

import numpy as np

from rlscaler.arrays import Array, State

QUANTILE = 0.9
"""Share of a request's replicas that serve within the start-up time that is told."""
FAR = 3.0
"""Multiple of the median start that is the most that is told, and to which longer starts are cut down."""
LEAST = 2.5
"""Answered requests, fading, without which nothing is known: three in a row."""
HALF_LIFE = 10.0
"""Newer requests after which one weighs half."""
KEPT = 48
"""Starts that are remembered."""
OUTSTANDING = 16
"""Requests that are remembered until they are answered; more are joined with the newest."""
LONGEST, SILENCE = 3600.0, 330.0
"""Seconds after which a request is given up, and without a reading after which no age is known."""
PATIENCE, SHORTEST, UNKNOWN = 3.0, 120.0, 600.0
"""A request is overdue after so many usual starts, and not before so many seconds; seconds where none is usual."""


def state(n: int) -> State:
    """Return the fresh memory of n workloads; every array has the workloads as its first axis.

    startup: float32 seconds, NaN = unknown. usual: float32, the same from however few starts. requests: float32,
    answered so far, fading. starts, noises, shares: (n, KEPT) float32, newest first: seconds, variance by which they
    are uncertain, and share of the request that it is (0 = none). time, desired, ready: float64, the last reading.
    asked: (n, 4, OUTSTANDING) float64, oldest first: earliest and latest moment of the request and share of it that
    a replica is (NaN = unknown), and when it was first seen. owed: (n, OUTSTANDING) float64, replicas of it that do
    not serve yet; 0 = none. gone: float64, replicas that are given up.
    """
    return {
        "startup": np.full(n, np.nan, np.float32),
        "usual": np.full(n, np.nan, np.float32),
        "requests": np.zeros(n, np.float32),
        "starts": np.zeros((n, KEPT), np.float32),
        "noises": np.zeros((n, KEPT), np.float32),
        "shares": np.zeros((n, KEPT), np.float32),
        "time": np.full(n, np.nan),
        "desired": np.full(n, np.nan),
        "ready": np.full(n, np.nan),
        "asked": np.full((n, 4, OUTSTANDING), np.nan),
        "owed": np.zeros((n, OUTSTANDING)),
        "gone": np.zeros(n),
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

    queue, owed, gone = state["asked"][some], state["owed"][some], state["gone"][some]
    late = time[:, None] - queue[:, 3] > LONGEST
    gone = gone + xp.sum(xp.where(late, owed, 0.0), axis=1)
    owed = xp.where(late, 0.0, owed)
    lost = first | (served - ready > xp.clip(wanted - desired, 0.0, None)) | (served > wanted)
    queue = _aged(xp, queue, lost[:, None], queue[:, 3])

    rise = xp.clip(desired - wanted, 0.0, None)
    moment = xp.full_like(time, float("nan")) if asked is None else asked[news]
    within = (moment >= since) & (moment <= time)
    begun = (xp.where(within, moment, since), xp.where(within, moment, time), 1.0 / xp.clip(rise, 1.0, None), time)
    queue, owed = _pushed(xp, queue, owed, xp.stack(begun, axis=1), rise)

    usual = xp.astype(state["usual"][some], xp.float64)
    patience = xp.where(xp.isnan(usual), UNKNOWN, xp.clip(PATIENCE * usual, SHORTEST, LONGEST))
    overdue = time[:, None] - queue[:, 3] > patience[:, None]
    answered, owed = _answered(xp, owed, overdue, xp.clip(ready - served, 0.0, None))
    foggy = (answered > 0.0) & xp.isnan(queue[:, 0]) & ~overdue
    unclear = xp.any(foggy, axis=1)[:, None]
    _learn(xp, state, some, queue, xp.where(unclear, 0.0, answered), since, time)
    # Who was answered is unknown, so any of the rest may be as old as the oldest of them.
    oldest = xp.min(xp.where(foggy, queue[:, 3], float("inf")), axis=1)[:, None]
    queue = _aged(xp, queue, unclear & ~overdue, xp.minimum(queue[:, 3], oldest))

    total = xp.clip(desired - ready, 0.0, None)
    gone = xp.minimum(gone, total)
    owed = _balanced(xp, owed, total - gone)
    # What is owed beyond the requests is of unknown age: replicas that were lost, or asked for before the first sight.
    nothing = xp.full_like(time, float("nan"))
    more = xp.stack([nothing, nothing, nothing, time], axis=1)
    queue, owed = _pushed(xp, queue, owed, more, total - gone - xp.sum(owed, axis=1))
    state["asked"][some], state["owed"][some], state["gone"][some] = queue, owed, gone


def _aged(xp: Any, queue: Array, which: Array, seen: Array) -> Array:
    """Return the queue with the requests of `which` (N, OUTSTANDING) of unknown age, first seen at `seen`."""
    parts = [xp.where(which, float("nan"), queue[:, part]) for part in range(3)]
    return xp.stack([*parts, xp.where(which, seen, queue[:, 3])], axis=1)


def _pushed(xp: Any, queue: Array, owed: Array, request: Array, count: Array) -> tuple[Array, Array]:
    """Return the queue with a request (N, 4) for `count` replicas (0: none) behind it, empty places in front."""
    order = xp.argsort(xp.astype(owed > 0.0, xp.int8), axis=1, stable=True)
    owed = xp.take_along_axis(owed, order, axis=1)
    queue = xp.stack([xp.take_along_axis(queue[:, part], order, axis=1) for part in range(4)], axis=1)
    pushed = count > 0.0
    full = pushed & (owed[:, 0] > 0.0)
    moved = xp.where(pushed & ~full, 1, 0)[:, None]
    place = xp.arange(OUTSTANDING, device=getattr(owed, "device", None))[None, :]
    source = xp.clip(place + moved, 0, OUTSTANDING - 1)
    owed = xp.take_along_axis(owed, source, axis=1)
    queue = xp.stack([xp.take_along_axis(queue[:, part], source, axis=1) for part in range(4)], axis=1)
    owed[:, -1] = xp.where(pushed, xp.where(full, owed[:, -1] + count, count), owed[:, -1])
    joined = xp.stack([xp.full_like(count, float("nan"))] * 3 + [queue[:, 3, -1]], axis=1)
    queue[:, :, -1] = xp.where(pushed[:, None], xp.where(full[:, None], joined, request), queue[:, :, -1])
    return queue, owed


def _answered(xp: Any, owed: Array, overdue: Array, served: Array) -> tuple[Array, Array]:
    """Return how many replicas of each request became ready, the oldest first and the overdue last, and what is owed.

    owed: (N, OUTSTANDING) replicas. overdue: (N, OUTSTANDING) bool. served: (N,) replicas that became ready.
    """
    order = xp.argsort(xp.astype(overdue, xp.int8), axis=1, stable=True)
    turn = xp.take_along_axis(owed, order, axis=1)
    before = xp.cumulative_sum(turn, axis=1) - turn
    answered = xp.clip(xp.minimum(served[:, None] - before, turn), 0.0, None)
    answered = xp.take_along_axis(answered, xp.argsort(order, axis=1), axis=1)
    return answered, owed - answered


def _balanced(xp: Any, owed: Array, total: Array) -> Array:
    """Return what is owed, the newest requests taken back until it is at most `total`."""
    older = xp.cumulative_sum(owed, axis=1) - owed
    return xp.clip(xp.minimum(total[:, None] - older, owed), 0.0, None)


def _learn(xp: Any, state: State, rows: Array, queue: Array, answered: Array, since: Array, time: Array) -> None:
    """Remember the replicas that were answered, and tell the start-up anew."""
    told = (answered > 0.0) & xp.isfinite(queue[:, 0])
    which = xp.any(told, axis=1)
    if not bool(xp.any(which)):
        return
    rows, queue, told, answered = rows[which], queue[which], told[which], answered[which]
    since, time = since[which][:, None], time[which][:, None]
    middle = 0.5 * (since + time) - 0.5 * (queue[:, 0] + queue[:, 1])
    # Of two moments between the same readings the second is later: a third of the time between these on average.
    middle = xp.maximum(middle, (time - queue[:, 0]) / 3.0)
    noise = ((time - since) ** 2 + (queue[:, 1] - queue[:, 0]) ** 2) / 12.0
    new = {"starts": xp.clip(middle, 0.0, LONGEST), "noises": noise, "shares": answered * queue[:, 2]}
    # Newest first, as in what is remembered; what says nothing goes to the end.
    new = {name: xp.flip(xp.where(told, array, 0.0), axis=1) for name, array in new.items()}
    order = xp.argsort(xp.astype(xp.concat([new["shares"], state["shares"][rows]], axis=1) <= 0.0, xp.int8),
                       axis=1, stable=True)[:, :KEPT]  # fmt: skip
    for name, array in new.items():
        joined = xp.concat([xp.astype(array, xp.float32), state[name][rows]], axis=1)
        state[name][rows] = xp.take_along_axis(joined, order, axis=1)
    usual, requests = estimate(xp, *(state[name][rows] for name in ("starts", "noises", "shares")))
    usual, requests = xp.astype(usual, xp.float32), xp.astype(requests, xp.float32)
    state["usual"][rows], state["requests"][rows] = usual, requests
    state["startup"][rows] = xp.where(requests >= LEAST, usual, state["startup"][rows])


def estimate(xp: Any, starts: Array, noises: Array, shares: Array) -> tuple[Array, Array]:
    """Return the start-up (M,) float64 seconds, NaN where there is nothing, and requests (M,), fading, that tell it.

    starts: (M, K) seconds, newest first. noises: (M, K) variance by which each is uncertain. shares: (M, K) of a
    request, 0 = none.
    """
    starts, noises, shares = (xp.astype(array, xp.float64) for array in (starts, noises, shares))
    weight = shares * 2.0 ** (-(xp.cumulative_sum(shares, axis=1) - shares) / HALF_LIFE)
    requests = xp.sum(weight, axis=1)
    total = xp.where(requests > 0.0, requests, 1.0)
    order = xp.argsort(xp.where(weight > 0.0, starts, float("inf")), axis=1)
    starts, noises, weight = (xp.take_along_axis(array, order, axis=1) for array in (starts, noises, weight))
    # Each start stands for the middle of its share (Hazen), which for few starts errs to neither side.
    place = (xp.cumulative_sum(weight, axis=1) - 0.5 * weight) / total[:, None]
    last = xp.clip(xp.count_nonzero(weight > 0.0, axis=1) - 1, 0, None)
    line = xp.arange(starts.shape[0], device=getattr(starts, "device", None))

    def quantile(share: float) -> Array:
        above = xp.minimum(xp.count_nonzero(place < share, axis=1), last)
        under = xp.clip(above - 1, 0, None)
        gap = place[line, above] - place[line, under]
        part = xp.clip((share - place[line, under]) / xp.where(gap > 0.0, gap, 1.0), 0.0, 1.0)
        return starts[line, under] + part * (starts[line, above] - starts[line, under])

    starts = xp.minimum(starts, FAR * quantile(0.5)[:, None])
    mean = xp.sum(weight * starts, axis=1) / total
    scatter = xp.sum(weight * (starts - mean[:, None]) ** 2, axis=1) / total
    noise = xp.sum(weight * noises, axis=1) / total
    true = xp.clip(1.0 - noise / xp.clip(scatter, 1e-9, None), 0.0, 1.0)
    found = mean + xp.sqrt(true) * (quantile(QUANTILE) - mean)
    return xp.where(requests > 0.0, found, float("nan")), requests
