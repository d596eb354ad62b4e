"""Load that comes again after some minutes: how long its period is, and what is next if it comes again.

Jobs that start every ten minutes, pollers and batches rise at once and without a warning, so neither the present nor
the distribution of growth tells when. Their own repetition does. d(k) = E[(x_t - x_{t-k})^2] of the samples x that are
kept is made of their autocorrelation, and that by the fast Fourier transform (Wiener 1930, Khinchin 1934). A load
repeats itself where d of some k is far below that of the samples one reaction time apart: what was there one period ago
then tells more of the coming load than what is there now. To find a repeating pattern by Fourier transform and
autocorrelation, and to order what it says, is what PRESS does (Gong, Gu and Wilkes, "PRESS: PRedictive Elastic ReSource
Scaling for cloud systems", 2010).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.lean import is_numpy

EVERY = 300.0
"""Seconds of absolute time after which the period is looked for again."""
LOOKS = 3 * EVERY
"""Seconds in which there are two looks at least, which is all that is remembered of them."""
CYCLES = 3
"""Periods that must have been seen, but for two samples; so half an hour tells of what comes every ten minutes."""
CLEAR = 0.3
"""A period counts where d of it is at most this share of d one reaction time apart, at two looks in a row."""
NEAR = 1.1
"""The shortest period counts whose d is at most so many times the least, as its multiples fit as well."""
STRONG = 0.1
"""Least root of d one reaction time apart, as a share of the mean load and half a replica; else nothing is to win."""
BACK = 2
"""Periods back to which one looks for what is next, of which the most counts."""
_ROWS = 128


def state(n: int) -> State:
    """Return what is known of the periods of n workloads.

    period: (n,) int16 samples, 0 = none. period_seen: the same, of the last look alone. period_slot: (n,) int64, when
    that was.
    """
    return {
        "period": np.zeros(n, np.int16),
        "period_seen": np.zeros(n, np.int16),
        "period_slot": np.full(n, -1, np.int64),
    }


def reach(xp: Any, settings: Mapping[str, Array], interval: float, most: int) -> Array:
    """Return (N,) int64 samples within one reaction time, at least one and at most a quarter of `most`."""
    seconds = interval + settings["lag"] + settings["startup"]
    return xp.astype(xp.clip(xp.ceil(seconds / interval - 1e-6), 1.0, most // 4), xp.int64)


def found(samples: np.ndarray, count: np.ndarray, apart: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Return the period (N,) int16 in samples, 0 where a load does not repeat itself.

    samples: (N, K) requests/s, newest first. count: (N,) how many of them, the newest, are the workload's own; unknown
    ones among them repeat the one before. apart: (N,) int64 samples within one reaction time, below which no period is
    looked for. half: (N,) requests/s of half a replica.
    """
    n, width = samples.shape
    out = np.zeros(n, np.int16)
    count = np.minimum(count, width)
    enough = np.flatnonzero(count >= CYCLES * (apart + 1))
    for begin in range(0, len(enough), _ROWS):
        rows = enough[begin : begin + _ROWS]
        out[rows] = _found(samples[rows].astype(np.float64), count[rows], apart[rows], half[rows])
    return out


def _found(samples: np.ndarray, count: np.ndarray, apart: np.ndarray, half: np.ndarray) -> np.ndarray:
    n, width = samples.shape
    place, row = np.arange(width), np.arange(n)
    own = place < count[:, None]
    mean = np.where(own, samples, 0.0).sum(axis=1) / count
    around = np.where(own, samples - mean[:, None], 0.0)
    out = np.zeros(n, np.int16)
    # d one reaction time apart, without a transform: most loads are too calm to go on.
    pairs = place + apart[:, None] < count[:, None]
    later = np.take_along_axis(around, np.minimum(place + apart[:, None], width - 1), axis=1)
    now = (np.where(pairs, around - later, 0.0) ** 2).sum(axis=1) / np.maximum(count - apart, 1)
    strong = np.flatnonzero(now > (STRONG * (mean + half)) ** 2)
    if not strong.size:
        return out
    around, count, apart, now, row = around[strong], count[strong], apart[strong], now[strong], row[: len(strong)]
    wide = 1 << int(2 * width - 1).bit_length()
    spectrum = np.fft.rfft(around, wide, axis=1)
    products = np.fft.irfft(spectrum.real**2 + spectrum.imag**2, wide, axis=1)[:, :width]
    squares = np.concatenate([np.zeros((len(row), 1)), np.cumsum(around * around, axis=1)], axis=1)
    total = squares[:, -1:]
    left = np.maximum(count[:, None] - place, 0)
    newer = np.take_along_axis(squares, left, axis=1)
    difference = np.maximum(newer + total - squares[:, :-1] - 2.0 * products, 0.0) / np.maximum(left, 1)
    difference[(place <= apart[:, None]) | (place > (-(-count // CYCLES))[:, None])] = np.inf
    limit = NEAR * difference.min(axis=1) + 1e-9 * now
    first = (difference <= limit[:, None]).argmax(axis=1)
    nearby = (place >= first[:, None]) & (place <= (first + np.maximum(2, first // 8))[:, None])
    best = np.where(nearby, difference, np.inf).argmin(axis=1)
    out[strong] = np.where(difference[row, best] <= CLEAR * now, best, 0)
    return out


def refresh(
    xp: Any,
    state: State,
    rows: Array,
    time: Array,
    settings: Mapping[str, Array],
    interval: float,
    *,
    half: Array,
    newest: Callable[[Array], tuple[Array, Array]],
    most: int,
) -> None:
    """Look for the period of the rows that are due, in place.

    half: (N,) requests/s of half a replica. newest: returns the `most` newest samples of some of the rows, (M, most)
    requests/s, newest first, and how many there are up to the oldest that is known, (M,).
    """
    slot = xp.astype(xp.floor(time / EVERY), xp.int64)
    due = slot > state["period_slot"][rows]
    if not bool(xp.any(due)):
        return
    which = rows[due]
    samples, count = newest(due)
    host = [_host(each) for each in (samples, count, reach(xp, settings, interval, most)[due], half[due])]
    seen = found(host[0], host[1].astype(np.int64), host[2], host[3])
    if not is_numpy(xp):
        seen = xp.asarray(seen, device=getattr(time, "device", None))
    state["period"][which] = lasting(xp, state["period_seen"][which], seen)
    state["period_seen"][which], state["period_slot"][which] = seen, slot[due]


def lasting(xp: Any, before: Array, seen: Array) -> Array:
    """Return (N,) the period that counts, of those found at one look and at the next; 0 = none."""
    return xp.where(before > 0, seen, 0)


def _host(array: Array) -> np.ndarray:
    """Return an array as NumPy's, copied from where it lies."""
    return np.asarray(array.cpu() if hasattr(array, "cpu") else array)


def ahead(xp: Any, period: Array, apart: Array, samples: Callable[[Array, Array], Array]) -> Array:
    """Return (N,) float32 the most that is to come within one reaction time if the load repeats itself, NaN = unknown.

    period: (N,) samples, 0 = none. apart: (N,) int64 samples within one reaction time. samples: takes rows (M,) and
    ages in samples (M, W), both int64, and returns those samples, (M, W) requests/s.
    """
    out = xp.full(period.shape, float("nan"), dtype=xp.float32, device=getattr(period, "device", None))
    which = xp.nonzero(period > 0)[0]
    if not which.shape[0]:
        return out
    long, far = xp.astype(period[which], xp.int64), apart[which]
    steps = xp.arange(int(xp.max(far)) + 2, device=getattr(period, "device", None))
    # One sample more than the reaction time, as what comes again may come a moment early.
    inside = steps[None, :] <= (far + 1)[:, None]
    best = None
    for back in range(1, BACK + 1):
        ages = xp.where(inside, back * long[:, None] - steps[None, :], back * long[:, None])
        # A start-up that was learned to be longer since may reach beyond the period.
        seen = xp.max(samples(which, xp.clip(ages, 0, None)), axis=1)
        best = seen if best is None else xp.maximum(best, seen)
    out[which] = best
    return out
