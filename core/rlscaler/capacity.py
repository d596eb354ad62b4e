"""What a replica can serve at full use, learned from load, ready replicas and utilization.

    utilization = idle + (1 - idle) * load / (ready * capacity)

Readings are averaged over blocks of `BLOCK` seconds, so that load and utilization may be windows of other lengths and
lags. What says little is left out: utilization so low that idle work is most of it; blocks near saturation, where
arrivals are what is asked for and not what is served; readings at a cap of the source, where utilization is the same
to the last digit while the load is not; blocks of few requests, whose number is chance; readings while
the replica count moves, which load and utilization follow later; and readings far from the usual.

Under each of a few idle shares, every block gives a capacity. The share under which the blocks agree best is believed
most; a prior stands in where the load hardly moves. The capacity is known when all of this holds at `STREAK` looks in
a row: at least `LEAST` blocks; the load of a replica moved, and utilization moved with it from one block to the next
(two series that only drift alike do not pass) and as the idle share says; and the relative standard error, to which
the difference between the older and the newer half of the blocks adds, is at most `ERROR`.

A capacity once known stays until another is, or until utilization turns out to be no share. Blocks reach back some
hours of usable load, so a deploy is followed within hours: its capacity is taken as soon as the newest hour alone
knows it. Replicas that are saturated by a load that they should carry, as after a deploy that made them slower, would
never be learned; but they have served no more than what has arrived since they were last at ease, and where that
refutes the capacity it is lowered to it. Where they did other work meanwhile, as by cron, each block at ease shows what
they carry in the use that they have, which is no more than the capacity: it raises the lowered one again, up to what
it was. A load that never moves teaches nothing.
"""

from enum import IntEnum
from typing import Any

import numpy as np

from rlscaler.arrays import Array, State

BLOCK = 180.0
"""Seconds that are averaged."""
KEPT, RECENT = 48, 20
"""Blocks that are remembered, and those that the newest hour can hold."""
LEAST, STREAK, ERROR = 8, 3, 0.07
"""Blocks, looks in a row, and relative standard error with which a capacity is known."""
SOONEST = (LEAST + STREAK - 1) * BLOCK
"""Seconds of usable readings after which a capacity can be known."""
OFTEN, SELDOM = 24, 4
"""A look follows each of the first OFTEN blocks, then each SELDOM-th."""
LOWEST, SATURATED, PERCENT = 0.08, 0.93, 1.5
"""Utilization below which a block says nothing, from which a reading may be of an overload, and above which it is no
share."""
TRIES, DOUBTED = 40.0, 0.05
"""Readings over which the share of readings above PERCENT is averaged; beyond DOUBTED all are taken for percentages."""
REQUESTS = 50.0
"""Requests of a block whose number is taken for more than chance."""
AT_EASE, LONG, REFUTED, LOWERED = 0.8, 600.0, 0.9, 0.85
"""Utilization below which nothing waits; seconds of saturation, and the share of the capacity that is carried in them,
with which it is refuted; share of what is carried that then stands for it, as some of that waits."""
FADING = 0.85
"""Share that stays of what was counted at ease: saturation begins a little before it shows."""
HELD, SPREAD = 20, 1.15
"""Readings that are exactly the highest ever, each of a load of a replica by that factor above the least that came with
it: from so many on, and from so many lower ones, its source caps the utilization."""
SETTLE, STEADY = 30.0, 0.05
"""Seconds within which load and utilization follow the replica count; its relative change that halves a reading's
weight."""
FAR = 1.0
"""Logarithm of the factor from the usual capacity beyond which a reading is left out."""
IDLES = np.array([0.0, 0.02, 0.05, 0.09, 0.14, 0.2, 0.28, 0.38, 0.5])
"""Idle shares that are tried."""
IDLE_SCALE = 0.06
"""Mean of the idle share (exponential) before anything is seen."""
FLOOR = 0.01
"""Relative scatter of blocks below which no idle share is better than another."""
EXPLAINED, CLEAR = 0.5, 3.7
"""Share of the load's scatter that may be left, and how many standard deviations clear the changes must agree."""
SCALES = (1, 2, 4)
"""Blocks that are joined to see whether changes agree, so that a lag of minutes hides nothing."""


class Finding(IntEnum):
    """Why a capacity is known or not."""

    Known = 0
    TooFewSamples = 1
    UtilizationInPercent = 2
    LoadTooSteady = 3
    UtilizationUnrelated = 4
    Uncertain = 5


SENTENCES: dict[Finding, str] = {
    Finding.Known: "the load and the utilization of the replicas tell it",
    Finding.TooFewSamples: "there are not 30 minutes yet of load and utilization at 8 % to 93 % use that agree, of 50 "
    "requests or more in each three",
    Finding.UtilizationInPercent: "utilization is above 1.5; expected a share from 0 to 1, so divide the query by 100, "
    "or name CPU use as a share of what replicas can use where it is one of their requests",
    Finding.LoadTooSteady: "the load of a replica has hardly moved yet",
    Finding.UtilizationUnrelated: "utilization does not follow the load of a replica; look at both queries",
    Finding.Uncertain: "load and utilization leave it open by more than 7 %",
}
"""The rest of a sentence about each finding."""


def state(n: int) -> State:
    """Return the fresh memory of n workloads; every array has the workloads as its first axis.

    capacity: float32 requests/s, NaN = unknown. error: float32, its relative standard error, NaN = none known.
    finding: int8, the last `Finding`. streak: int8, looks in a row at which it was known. blocks: int64, so far.
    loads, uses: (n, KEPT) float32 rings of blocks: requests/s of a replica and utilization. block: int64, in progress.
    sums: (n, 6) float64 of the weight, and weighted of load, ready and busy replicas; requests; saturated readings.
    pressed: (n, 3) float64 since the replicas were last at ease: seconds, requests that arrived, busy replica-seconds.
    top: (n, 4) float64 of the highest utilization ever, the least load of a replica at it, its readings of much more,
    and readings of lower utilization.
    use: float64, mean of utilization over a minute. phase: float64 seconds by which the blocks are shifted, for the
    caller to spread the work. former: float32 requests/s, the capacity before it was lowered, NaN = it was not or is
    learned anew. usual: float64, logarithm of the capacity that readings usually give. ready, time:
    float64, the count as load and utilization follow it, and when. percent: float32, share of readings above PERCENT.
    """
    return {
        "capacity": np.full(n, np.nan, np.float32),
        "error": np.full(n, np.nan, np.float32),
        "former": np.full(n, np.nan, np.float32),
        "finding": np.full(n, Finding.TooFewSamples, np.int8),
        "streak": np.zeros(n, np.int8),
        "blocks": np.zeros(n, np.int64),
        "loads": np.full((n, KEPT), np.nan, np.float32),
        "uses": np.full((n, KEPT), np.nan, np.float32),
        "block": np.full(n, -1, np.int64),
        "sums": np.zeros((n, 6)),
        "top": np.tile([0.0, np.inf, 0.0, 0.0], (n, 1)),
        "use": np.full(n, np.nan),
        "pressed": np.full((n, 3), np.nan),
        "phase": np.zeros(n),
        "usual": np.full(n, np.nan),
        "ready": np.full(n, np.nan),
        "time": np.full(n, np.nan),
        "percent": np.zeros(n, np.float32),
    }


def record(xp: Any, state: State, rows: Array, time: Array, load: Array, ready: Array, use: Array) -> None:
    """Take in one reading for each of the rows, in place.

    rows: (N,) int64. time: (N,) seconds. load: (N,) requests/s of the workload. ready: (N,) replicas. use: (N,)
    utilization, 0 to 1. NaN = unknown.
    """
    block = xp.astype(xp.floor((time - state["phase"][rows]) / BLOCK), xp.int64)
    ended = (block != state["block"][rows]) & (state["sums"][rows, 4] > 0.0)
    if bool(xp.any(ended)):
        _close(xp, state, rows[ended])
    state["block"][rows] = block

    known = xp.isfinite(load) & xp.isfinite(use) & xp.isfinite(ready)
    share = state["percent"][rows]
    share = xp.where(known, share + (xp.astype(use > PERCENT, xp.float32) - share) / TRIES, share)
    state["percent"][rows] = share
    if bool(xp.any(share > DOUBTED)):
        doubted = rows[share > DOUBTED]
        state["capacity"][doubted] = float("nan")
        state["error"][doubted] = float("nan")
        state["finding"][doubted] = int(Finding.UtilizationInPercent)

    since, smooth = _followed(xp, state, rows, time, ready)
    full = xp.clip(smooth, 0.5, None)
    usable = known & (load > 0.0) & (use > 0.0) & (use < SATURATED) & (smooth >= 0.5)
    usable = usable & ~_capped(xp, state, rows, known, load / full, use)
    seen = xp.log(xp.where(usable, load, 1.0)) - xp.log(xp.where(usable, use * full, 1.0))
    usual = state["usual"][rows]
    usual = xp.where(xp.isnan(usual), seen, usual)
    state["usual"][rows] = xp.where(usable, usual + 0.1 * xp.clip(seen - usual, -0.5, 0.5), state["usual"][rows])
    usable = usable & (xp.abs(seen - usual) < FAR)
    weight = xp.where(usable, 1.0 / (1.0 + ((ready - smooth) / (full * STEADY)) ** 2), 0.0)
    span = xp.where(known & (since <= BLOCK), since, float("nan"))
    saturated = xp.astype(known & (use >= SATURATED), xp.float64)
    parts = [xp.where(usable, weight * of, 0.0) for of in (xp.ones_like(weight), load, smooth, smooth * use)]
    requests = xp.where(xp.isnan(span), 0.0, load * span)
    state["sums"][rows] = state["sums"][rows] + xp.stack([*parts, requests, saturated], axis=1)
    _refute(xp, state, rows, span, load, xp.minimum(ready, smooth), use)


def _capped(xp: Any, state: State, rows: Array, known: Array, load: Array, use: Array) -> Array:
    """Tell which readings stand at a cap of their source. load: (N,) requests/s of a replica."""
    top, least, held, lower = (state["top"][rows, part] for part in range(4))
    higher, at = known & (use > top), known & (use == top)
    least = xp.where(higher, load, xp.where(at, xp.minimum(least, load), least))
    held = xp.where(higher, 0.0, held + xp.astype(at & (load > SPREAD * least), xp.float64))
    lower = lower + xp.astype(known & (use < top), xp.float64)
    state["top"][rows] = xp.stack([xp.where(higher, use, top), least, held, lower], axis=1)
    return at & (held >= HELD) & (lower >= HELD) & (top < SATURATED)


def _refute(xp: Any, state: State, rows: Array, span: Array, load: Array, ready: Array, use: Array) -> None:
    """Lower the capacity of rows whose replicas have long been saturated by less than it.

    span: (N,) seconds that the reading stands for, NaN where it or the time before it is unknown.
    """
    known = ~xp.isnan(span)
    usual = state["use"][rows]
    usual = xp.where(known, xp.where(xp.isnan(usual), use, usual + 0.2 * (use - usual)), usual)
    state["use"][rows] = usual
    more = xp.stack([span, load * span, ready * use * span], axis=1)
    before = state["pressed"][rows]
    eased = xp.where(xp.isnan(before), 0.0, FADING * before)
    pressed = more + xp.where((known & (usual < AT_EASE))[:, None], eased, before)
    state["pressed"][rows] = pressed
    carried = pressed[:, 1] / xp.where(pressed[:, 2] > 0.0, pressed[:, 2], float("nan"))
    # Between the two, use that is idle work would count for carried.
    refuted = (pressed[:, 0] >= LONG) & (usual >= SATURATED) & (carried < REFUTED * state["capacity"][rows])
    if bool(xp.any(refuted)):
        lower = rows[refuted]
        former, capacity = state["former"][lower], state["capacity"][lower]
        state["former"][lower] = xp.where(former > capacity, former, capacity)
        state["capacity"][lower] = xp.astype(LOWERED * carried[refuted], xp.float32)
        for name in ("error", "loads", "uses"):
            state[name][lower] = float("nan")
        for name in ("blocks", "streak"):
            state[name][lower] = 0


def _followed(xp: Any, state: State, rows: Array, time: Array, ready: Array) -> tuple[Array, Array]:
    """Return seconds since the reading before (0 at the first) and the count as load and utilization follow it."""
    before, since = state["ready"][rows], time - state["time"][rows]
    since = xp.where(xp.isnan(since), 0.0, since)
    smooth = before + (1.0 - xp.exp(-since / SETTLE)) * (ready - before)
    smooth = xp.where(xp.isnan(before), ready, smooth)
    smooth = xp.where(xp.isfinite(ready), smooth, before)
    state["ready"][rows] = smooth
    state["time"][rows] = time
    return since, smooth


def _close(xp: Any, state: State, rows: Array) -> None:
    """Move the blocks that ended into the rings, and look at those whose turn it is."""
    sums = state["sums"][rows]
    state["sums"][rows] = 0.0
    ready = xp.where(sums[:, 2] > 0.0, sums[:, 2], 1.0)
    load, use = sums[:, 1] / ready, sums[:, 3] / ready
    good = (sums[:, 0] >= 1.5) & (use >= LOWEST) & (sums[:, 4] >= REQUESTS) & (sums[:, 5] == 0.0)
    rows = rows[good]
    place = state["blocks"][rows] % KEPT
    state["loads"][rows, place] = xp.astype(load[good], xp.float32)
    state["uses"][rows, place] = xp.astype(use[good], xp.float32)
    count = state["blocks"][rows] + 1
    state["blocks"][rows] = count
    former, capacity = state["former"][rows], state["capacity"][rows]
    shown = xp.astype(load[good] / xp.where(use[good] > 0.0, use[good], 1.0), xp.float32)
    raised = xp.minimum(former, xp.maximum(capacity, shown))
    state["capacity"][rows] = xp.where(former > capacity, raised, capacity)
    turn = xp.astype(state["phase"][rows], xp.int64)
    due = (count >= LEAST) & ((count <= OFTEN) | ((count + turn) % SELDOM == 0))
    due = due & (state["percent"][rows] <= DOUBTED)
    if bool(xp.any(due)):
        _look(xp, state, rows[due])


def _look(xp: Any, state: State, rows: Array) -> None:
    """Tell the capacity of the rows anew."""
    count, back = state["blocks"][rows][:, None], xp.arange(KEPT, device=getattr(rows, "device", None))[None, :]
    place = (count - 1 - back) % KEPT
    load, use = state["loads"][rows[:, None], place], state["uses"][rows[:, None], place]
    recent = xp.where(back < RECENT, load, float("nan"))
    # Both in one call: looks are at few rows, so the number of calls is what they cost.
    both, some = estimate(xp, xp.concat([load, recent]), xp.concat([use, use])), rows.shape[0]
    every, newest = (tuple(each[part] for each in both) for part in (slice(0, some), slice(some, None)))
    known = int(Finding.Known)
    newer = (newest[2] == known) & ((every[2] != known) | (xp.abs(xp.log(newest[0] / every[0])) > 0.15))
    capacity, error, finding = (xp.where(newer, a, b) for a, b in zip(newest, every, strict=True))
    streak = xp.where(finding == known, xp.clip(state["streak"][rows] + 1, 0, STREAK), 0)
    state["streak"][rows] = xp.astype(streak, xp.int8)
    sure = streak >= STREAK
    state["capacity"][rows] = xp.where(sure, xp.astype(capacity, xp.float32), state["capacity"][rows])
    state["error"][rows] = xp.where(sure, xp.astype(error, xp.float32), state["error"][rows])
    state["former"][rows] = xp.where(sure, float("nan"), state["former"][rows])
    finding = xp.where((finding == known) & ~sure, int(Finding.TooFewSamples), finding)
    state["finding"][rows] = xp.astype(finding, xp.int8)


def estimate(xp: Any, load: Array, use: Array) -> tuple[Array, Array, Array]:
    """Return capacity (M,) float64, relative standard error (M,) and `Finding` (M,) int64 of blocks.

    load, use: (M, K) requests/s of a replica and utilization, newest first, NaN = no block.
    """
    device = getattr(load, "device", None)
    there = xp.isfinite(load)
    count = xp.sum(xp.astype(there, xp.float64), axis=1)
    use = xp.where(there, xp.astype(use, xp.float64), 0.5)
    moves = xp.log(xp.where(there, xp.astype(load, xp.float64), 1.0))
    idle = xp.asarray(IDLES, device=device)[None, :, None]
    net = use[:, None, :] - idle
    possible = there[:, None, :] & (net > 0.02)
    net = xp.where(possible, net, 1.0)
    weight = xp.where(possible, net**2 / (net**2 + 0.15**2), 0.0)
    values = moves[:, None, :] + xp.log((1.0 - idle) / net)
    place, scale = _robust(xp, values, weight)

    # Neighbouring blocks are alike, so they count for half.
    prior = xp.asarray(np.log(np.gradient(IDLES)) - IDLES / IDLE_SCALE, device=device)
    score = prior[None, :] - 0.5 * count[:, None] * xp.log(xp.clip(scale, FLOOR, None))
    usable = xp.sum(xp.astype(possible, xp.float64), axis=2) >= 0.9 * count[:, None]
    score = xp.where(usable, score, -1e9)
    belief = xp.exp(score - xp.max(score, axis=1)[:, None])
    belief = belief / xp.sum(belief, axis=1)[:, None]
    mean = xp.sum(belief * place, axis=1)
    between = xp.sum(belief * (place - mean[:, None]) ** 2, axis=1)
    effective = 0.5 * xp.sum(weight, axis=2) ** 2 / xp.clip(xp.sum(weight**2, axis=2), 1e-9, None)
    within = xp.sum(belief * 1.5 * scale**2 / xp.clip(effective, 1.0, None), axis=1)

    best, line = xp.argmax(belief, axis=1), xp.arange(count.shape[0], device=device)
    weight, values, left = weight[line, best], values[line, best], scale[line, best]
    _, moved = _robust(xp, moves, weight)
    newer = xp.arange(load.shape[1], device=device)[None, :] < 0.5 * count[:, None]
    halves = [_robust(xp, values, xp.where(half, weight, 0.0))[0] for half in (newer, ~newer)]
    error = xp.sqrt(between + within + 0.25 * (halves[0] - halves[1]) ** 2)

    unrelated = (left > EXPLAINED * moved) | (_agreement(xp, moves, xp.log(use), there) < CLEAR)
    finding = xp.where(error <= ERROR, int(Finding.Known), int(Finding.Uncertain))
    finding = xp.where(unrelated, int(Finding.UtilizationUnrelated), finding)
    finding = xp.where(unrelated & (moved < 0.03), int(Finding.LoadTooSteady), finding)
    finding = xp.where(count < LEAST, int(Finding.TooFewSamples), finding)
    return xp.exp(mean), error, finding


def _median(xp: Any, values: Array, weight: Array) -> Array:
    """Return the weighted medians along the last axis; what has no weight is left out."""
    order = xp.argsort(xp.where(weight > 0.0, values, float("inf")), axis=-1)
    below = xp.cumulative_sum(xp.take_along_axis(weight, order, axis=-1), axis=-1)
    middle = xp.count_nonzero(below < 0.5 * below[..., -1:], axis=-1)[..., None]
    place = xp.take_along_axis(order, xp.clip(middle, 0, values.shape[-1] - 1), axis=-1)
    return xp.take_along_axis(values, place, axis=-1)[..., 0]


def _robust(xp: Any, values: Array, weight: Array) -> tuple[Array, Array]:
    """Return location and scale along the last axis, what is off by more than 2.5 scales cut down to that."""
    middle = _median(xp, values, weight)[..., None]
    reach = 2.5 * 1.4826 * _median(xp, xp.abs(values - middle), weight)[..., None] + 1e-9
    total = xp.clip(xp.sum(weight, axis=-1), 1e-9, None)
    cut = xp.clip(values - middle, -reach, reach)
    shift = xp.sum(weight * cut, axis=-1) / total
    square = xp.sum(weight * (cut - shift[..., None]) ** 2, axis=-1) / total
    return middle[..., 0] + shift, xp.sqrt(square)


def _agreement(xp: Any, load: Array, use: Array, there: Array) -> Array:
    """Return (M,) how many standard deviations clear it is that the changes of two series (M, K) agree."""
    found = []
    for scale in SCALES:
        groups = load.shape[1] // scale

        def joined(series: Array, scale: int = scale, groups: int = groups) -> Array:
            return xp.mean(xp.reshape(series[:, : groups * scale], (-1, groups, scale)), axis=2)

        whole = joined(xp.astype(there, xp.float64)) == 1.0
        both = whole[:, 1:] & whole[:, :-1]
        weight = xp.astype(both, xp.float64)
        changes = []
        for series in (joined(load), joined(use)):
            change = xp.where(both, series[:, 1:] - series[:, :-1], 0.0)
            reach = 4.0 * _median(xp, xp.abs(change), weight)[:, None] + 1e-9
            changes.append(xp.clip(change, -reach, reach))
        a, b = changes
        size = xp.sqrt(xp.sum(a * a, axis=1) * xp.sum(b * b, axis=1))
        alike = xp.clip(xp.sum(a * b, axis=1) / xp.clip(size, 1e-12, None), -0.9999, 0.9999)
        found.append(xp.atanh(alike) * xp.sqrt(xp.clip(xp.sum(weight, axis=1) - 3.0, 0.0, None)))
    return xp.max(xp.stack(found), axis=0)
