"""What the decision remembers of a workload: the last hour, its own growth, its day and week.

The same whether filled tick by tick or read back from a store: samples sit on absolute multiples of the interval.
An unknown sample repeats the last known value in the ring and is marked, so that windows stay whole while nothing
is learned from it. 39 kB a workload (`nbytes`).
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from rlscaler import growth, period
from rlscaler.arrays import Array, State
from rlscaler.rows import Picked

RING = 720
"""Samples kept one by one: an hour at 5 s, more at longer intervals."""
COARSE_SECONDS, COARSE = 300.0, 2028
"""Means of five minutes, for a week and an hour."""
QUARTER_SECONDS, QUARTERS_DAY, QUARTERS_WEEK = 900.0, 96, 672
DAY_RATE, WEEK_RATE = 0.12, 0.25
"""Weight of one five-minute mean in the day and the week profile (three fall into each quarter-hour)."""
QUARTER_RATE = 0.3
"""Weight of one day in the growth by quarter-hour."""
KNOWN_SHARE = 0.8
"""Share of a span's samples that must be known for its growth to count."""
LEVEL_HALF_LIFE = 2 * growth.DAY
LARGEST_HALF = 1e20
"""Half a capacity is taken for this at most, and for one over it at least: beyond, float32 has infinity and 0, and
growth from a load of 0 is then no number."""


def state(n: int) -> State:
    """Return the empty history of n workloads; every array has the workloads as its first axis."""
    horizons = len(growth.LADDER)
    return {
        **growth.state(n),
        **period.state(n),
        "slot": np.full(n, -1, np.int64),
        "load": np.zeros((n, RING), np.float32),
        "classes": np.full((n, RING), -1, np.int8),
        "usual": np.full(n, np.nan, np.float32),
        "quarter": np.zeros((n, QUARTERS_DAY, horizons, 2), np.float32),
        "day": np.full((n, QUARTERS_DAY), np.nan, np.float32),
        "week": np.full((n, QUARTERS_WEEK), np.nan, np.float32),
        "coarse": np.full((n, COARSE), np.nan, np.float32),
        "coarse_slot": np.full(n, -1, np.int64),
        "coarse_sum": np.zeros(n, np.float32),
        "coarse_count": np.zeros(n, np.float32),
        "known_seconds": np.zeros(n, np.float64),
    }


def nbytes(state: State) -> int:
    """Return the bytes that one workload's history takes."""
    return sum(array[:1].nbytes for array in state.values())


def newest(xp: Any, ring: Array, rows: Array, slot: Array, count: int) -> Array:
    """Return (N, count) the newest entries of a ring (rows, size) indexed by slot, newest first; maybe a view of it."""
    size = ring.shape[1]
    first = int(slot[0])
    if bool(xp.all(slot == first)):
        position, which = first % size, _run(xp, rows)
        if position + 1 >= count:
            block = ring[which, position + 1 - count : position + 1]
        else:
            block = xp.concat([ring[which, size + position + 1 - count :], ring[which, : position + 1]], axis=1)
        return xp.flip(block, axis=1)
    offsets = xp.arange(count, device=getattr(ring, "device", None))
    return ring[rows[:, None], (slot[:, None] - offsets[None, :]) % size]


def _run(xp: Any, rows: Array) -> Array | slice:
    """Return the rows as a slice where each follows the one before, so that nothing has to be copied."""
    first, n = int(rows[0]), rows.shape[0]
    if n == 1 or bool(xp.all(rows == xp.arange(first, first + n, device=getattr(rows, "device", None)))):
        return slice(first, first + n)
    return rows


def samples(xp: Any, state: State, rows: Array, after: Array, count: int) -> tuple[Array, Array]:
    """Return (N, count) slots, int64, that follow `after` (N,), and the loads in them; NaN = unknown or not there."""
    wanted = after[:, None] + 1 + xp.arange(count, device=getattr(after, "device", None))[None, :]
    newest_slot, at = state["slot"][rows][:, None], wanted % RING
    known = (state["classes"][rows[:, None], at] >= 0) & (wanted <= newest_slot) & (wanted > newest_slot - RING)
    return wanted, xp.where(known, state["load"][rows[:, None], at], float("nan"))


@cache
def slots(seconds: float, interval: float) -> int:
    """Return how many samples span `seconds`, at least one and at most the ring."""
    return min(RING - 2, max(1, round(seconds / interval)))


@cache
def _spans(interval: float) -> np.ndarray:
    """Return how many samples each horizon of the ladder has, int64."""
    return np.array([slots(horizon, interval) for horizon in growth.LADDER], np.int64)


def record(
    xp: Any, state: State, rows: Array, time: Array, load: Array, settings: Mapping[str, Array], interval: float
) -> None:
    """Take in one sample for each of the rows, in place.

    rows: (N,) int64. time: (N,) seconds, absolute. load: (N,) requests/s, NaN = unknown. settings: of these rows.
    A second sample within the same slot of `interval` seconds is ignored.
    """
    slot = xp.astype(xp.floor(time / interval + 1e-6), xp.int64)
    before = state["slot"][rows]
    fresh = slot > before
    if not bool(xp.all(fresh)):
        if not bool(xp.any(fresh)):
            return
        rows, time, load, slot, before = rows[fresh], time[fresh], load[fresh], slot[fresh], before[fresh]
        settings = Picked(settings, fresh)
    known = xp.isfinite(load)
    first = known & (before < 0)
    load32 = xp.astype(load, xp.float32)
    if bool(xp.any(first)):
        state["load"][rows[first]] = load32[first][:, None]
    if bool(xp.any(~known)):
        started = known | (before >= 0)
        if not bool(xp.all(started)):
            if not bool(xp.any(started)):
                return
            rows, time, load32, slot, before, known = (a[started] for a in (rows, time, load32, slot, before, known))
            settings = Picked(settings, started)
        load32 = xp.where(known, load32, state["load"][rows, before % RING])

    gap = xp.where(before < 0, 1, slot - before)
    longest = min(int(xp.max(gap)), RING)
    if longest > 1:
        carried = state["load"][rows, before % RING]
        for step in range(1, longest):
            late = gap > step
            state["load"][rows[late], (slot - step)[late] % RING] = carried[late]
            state["classes"][rows[late], (slot - step)[late] % RING] = -1
    state["load"][rows, slot % RING] = load32
    state["slot"][rows] = slot

    recent = newest(xp, state["load"], rows, slot, slots(growth.LADDER[-1], interval) + 2)
    level = 0.5 * (recent[:, 0] + recent[:, 1])
    usual = usual_level(xp, state["usual"][rows], level, known, interval)
    state["usual"][rows] = usual
    half, usable = offset(xp, settings)
    kind = classify(xp, recent, level, usual, half, interval)
    state["classes"][rows, slot % RING] = xp.astype(xp.where(known, kind, -1), xp.int8)

    classes = newest(xp, state["classes"], rows, slot, slots(growth.LADDER[-1], interval) + 1)
    grown, valid, kinds = completed(xp, recent, classes, half, usable, interval)
    growth.record(xp, state, rows, time, grown, valid, kinds)
    fold_quarters(xp, state, rows, time, grown, valid, interval)
    fold_profile(xp, state, rows, time, level, known)
    state["known_seconds"][rows] = state["known_seconds"][rows] + interval * xp.astype(known, xp.float64)


def offset(xp: Any, settings: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return half a replica's capacity (N,) float32 requests/s, 1 where it is unknown, and where it is known."""
    half = xp.astype(xp.clip(0.5 * settings["capacity_per_replica"], 1.0 / LARGEST_HALF, LARGEST_HALF), xp.float32)
    usable = ~xp.isnan(half)
    return xp.where(usable, half, 1.0), usable


def refresh_period(
    xp: Any, state: State, rows: Array, time: Array, settings: Mapping[str, Array], interval: float
) -> None:
    """Look for the period of the rows that are due, in place; see `period.refresh`."""

    def newest_of(some: Array) -> tuple[Array, Array]:
        which = rows[some]
        slot = xp.where(state["slot"][which] >= 0, state["slot"][which], 0)
        known = newest(xp, state["classes"], which, slot, RING) >= 0
        age = xp.arange(1, RING + 1, device=getattr(slot, "device", None))
        return newest(xp, state["load"], which, slot, RING), xp.max(xp.where(known, age, 0), axis=1)

    half, _ = offset(xp, settings)
    period.refresh(xp, state, rows, time, settings, interval, half=half, newest=newest_of, most=RING)


def usual_level(xp: Any, usual: Array, level: Array, known: Array, interval: float) -> Array:
    """Return the slow mean of the level (N,) float32 after one more sample; NaN before the first."""
    rate = 1.0 - 2.0 ** (-interval / LEVEL_HALF_LIFE)
    return xp.where(xp.isnan(usual), level, usual + rate * xp.astype(known, xp.float32) * (level - usual))


def classify(xp: Any, recent: Array, level: Array, usual: Array, half: Array, interval: float) -> Array:
    """Return the class of the moment, trend + TRENDS * level class, (N,) int64, from samples newest first (N, K)."""
    short, long = slots(30.0, interval), slots(180.0, interval)
    fast = xp.sum(recent[:, :short], axis=1) / short
    slow = xp.sum(recent[:, :long], axis=1) / long
    trend = xp.log((fast + half) / (slow + half))
    ratio = (level + half) / (usual + half)
    kind = xp.zeros(level.shape, dtype=xp.int64, device=getattr(level, "device", None))
    for cut in growth.TREND_CUTS:
        kind = kind + xp.astype(trend > cut, xp.int64)
    for cut in growth.LEVEL_CUTS:
        kind = kind + growth.TRENDS * xp.astype(ratio > cut, xp.int64)
    return kind


def completed(
    xp: Any, recent: Array, classes: Array, half: Array, usable: Array, interval: float
) -> tuple[Array, Array, Array]:
    """Return the growth over the spans that end with the newest sample, one for each horizon of the ladder.

    recent: (N, K) samples and classes: (N, K - 1) their classes, newest first, -1 where a sample is unknown. Returns
    growth (N, horizons) float32, where it counts, and the class at the start of each span, int64.
    """
    device = getattr(recent, "device", None)
    spans = _spans(interval)
    counted = xp.cumulative_sum(xp.astype(classes >= 0, xp.float32), axis=1)
    tops: list[Array] = []
    begin = 0
    for span in spans.tolist():
        peak = xp.max(recent[:, begin:span], axis=1) if span > begin else tops[-1]
        tops.append(xp.maximum(tops[-1], peak) if tops else peak)
        begin = span
    at = xp.asarray(spans, device=device)
    start = 0.5 * (xp.take(recent, at, axis=1) + xp.take(recent, at + 1, axis=1))
    grown = xp.log((xp.stack(tops, axis=1) + half[:, None]) / (start + half[:, None]))
    kinds = xp.take(classes, at, axis=1)
    least = xp.asarray((KNOWN_SHARE * spans).astype(np.float32), device=device)
    enough = xp.take(counted, at - 1, axis=1) >= least
    valid = (kinds >= 0) & enough & usable[:, None]
    return grown, valid, xp.astype(xp.where(kinds >= 0, kinds, 0), xp.int64)


def fold_quarters(xp: Any, state: State, rows: Array, time: Array, grown: Array, valid: Array, interval: float) -> None:
    """Move the growth's moments, of the quarter-hours in which the spans began, towards the new growth, in place."""
    device = getattr(time, "device", None)
    spans = _spans(interval) * interval
    began = time[:, None] - xp.asarray(spans, device=device)[None, :]
    quarter = xp.astype(xp.floor(began / QUARTER_SECONDS), xp.int64) % QUARTERS_DAY
    cells = (rows[:, None] * QUARTERS_DAY + quarter) * len(spans) + xp.arange(len(spans), device=device)
    weight = QUARTER_RATE * min(1.0, interval / QUARTER_SECONDS) * xp.astype(valid, xp.float32)
    flat = xp.reshape(state["quarter"], (-1,))
    for moment, new in enumerate((grown, grown * grown)):
        places = 2 * cells + moment
        old = flat[places]
        flat[places] = old + weight * (new - old)


def fold_profile(xp: Any, state: State, rows: Array, time: Array, level: Array, known: Array) -> None:
    """Keep the five-minute means, and fold each that is complete into the day and the week profile."""
    now = xp.astype(xp.floor(time / COARSE_SECONDS), xp.int64)
    current = state["coarse_slot"][rows]
    closing = (current >= 0) & (now > current)
    if bool(xp.any(closing)):
        which, ended, opened = rows[closing], current[closing], now[closing]
        count = state["coarse_count"][which]
        mean = state["coarse_sum"][which] / xp.where(count > 0, count, 1.0)
        mean = xp.where(count > 0, mean, float("nan"))
        skipped = min(int(xp.max(opened - ended)), COARSE)
        for step in range(1, skipped):
            late = (opened - ended) > step
            state["coarse"][which[late], (ended + step)[late] % COARSE] = float("nan")
        state["coarse"][which, ended % COARSE] = xp.where(opened - ended < COARSE, mean, float("nan"))
        quarter = xp.astype(xp.floor(ended * COARSE_SECONDS / QUARTER_SECONDS), xp.int64)
        for name, size, rate in (("day", QUARTERS_DAY, DAY_RATE), ("week", QUARTERS_WEEK, WEEK_RATE)):
            old = state[name][which, quarter % size]
            new = xp.where(xp.isnan(old), mean, old + rate * (mean - old))
            state[name][which, quarter % size] = xp.where(xp.isnan(mean), old, new)
    changed = now != current
    fresh = xp.where(changed, 0.0, 1.0)
    weight = xp.astype(known, xp.float32)
    sums, counts = state["coarse_sum"][rows], state["coarse_count"][rows]
    state["coarse_sum"][rows] = xp.astype(fresh, xp.float32) * sums + weight * level
    state["coarse_count"][rows] = xp.astype(fresh, xp.float32) * counts + weight
    state["coarse_slot"][rows] = now
