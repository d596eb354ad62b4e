"""The features of a whole load at once, to the bit those that the history tells tick by tick.

Load does not depend on what is decided, so what the history says at every moment can be told beforehand: for training,
where a load is seen many times, and for a dry-run of one workload, where a tick costs more in calls than in arithmetic.
The functions are those of `history`, `growth` and `features`; only what truly follows from the tick before is looped.
"""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rlscaler import features, growth, history
from rlscaler.arrays import Array, State

_BLOCK = 512


def features_over_time(time: np.ndarray, load: np.ndarray, settings: State, interval: float) -> State:
    """Return the features at every tick of one load: float32 arrays (T,), `ahead` (T, AHEAD).

    time: (T,) seconds, one tick an interval without a break. load: (T,) requests/s, NaN = unknown. settings: compiled,
    of one workload.
    """
    known = np.isfinite(load)
    began = int(known.argmax()) if known.any() else len(load)
    blank = _untold(time[:began], settings, interval)
    if began == len(load):
        return blank
    found = _replayed(time[began:], load[began:], settings, interval)
    return {name: np.concatenate([blank[name], array]) for name, array in found.items()} if began else found


def _untold(time: np.ndarray, settings: State, interval: float) -> State:
    """Return the features of the ticks before the first sample."""
    state, rows = history.state(1), np.zeros(1, np.int64)
    told = [features.features(np, state, rows, time[t : t + 1], settings, interval) for t in range(max(1, len(time)))]
    return {name: np.concatenate([f[name] for f in told])[: len(time)] for name in told[0]}


def _windows(series: np.ndarray, before: Any, count: int) -> np.ndarray:
    """Return (T, count) the newest entries at each tick, newest first; `before` stands where there are none."""
    padded = np.concatenate([np.full(count - 1, before, series.dtype), series])
    return np.ascontiguousarray(sliding_window_view(padded, count)[:, ::-1])


def _repeated(array: np.ndarray, count: int) -> np.ndarray:
    return np.broadcast_to(array, (count, *array.shape[1:]))


def _replayed(time: np.ndarray, load: np.ndarray, settings: State, interval: float) -> State:
    """Return the features from the first known sample on."""
    steps = len(time)
    known = np.isfinite(load)
    last = np.maximum.accumulate(np.where(known, np.arange(steps), 0))
    sample = load.astype(np.float32)[last]
    half, usable = history.offset(np, settings)

    width = history.slots(growth.LADDER[-1], interval) + 2
    level = 0.5 * (sample + np.concatenate([sample[:1], sample[:-1]]))
    usual = np.empty(steps, np.float32)
    slow = np.full(1, np.nan, np.float32)
    for t in range(steps):
        slow = history.usual_level(np, slow, level[t : t + 1], known[t : t + 1], interval)
        usual[t] = slow[0]
    recent = _windows(sample, sample[0], width)
    kind = history.classify(np, recent, level, usual, _repeated(half, steps), interval)
    codes = np.where(known, kind, -1).astype(np.int8)
    grown, valid, kinds = history.completed(
        np, recent, _windows(codes, -1, width - 1), _repeated(half, steps), _repeated(usable, steps), interval
    )
    summary, moments, seasons = _followed(time, level, known, grown, valid, kinds, settings, interval)

    hour = history.slots(3600.0, interval) + 1
    recent = _windows(sample, sample[0], hour)
    seconds = np.cumsum(np.where(known, interval, 0.0))
    capacity = settings["capacity_per_replica"].astype(np.float32)
    out: State = {}
    for begin in range(0, steps, _BLOCK):
        part = slice(begin, min(begin + _BLOCK, steps))
        count = part.stop - part.start
        past = features.Past(
            recent=recent[part],
            seen=np.ones(count, bool),
            code=codes[part].astype(np.int64),
            summary=summary[part],
            moments=moments[part],
            then=seasons[0][part],
            later=seasons[1][part],
            usual=seasons[2][part],
            known_seconds=seconds[part],
            capacity=_repeated(capacity, count),
        )
        for name, array in features.told(np, past, interval).items():
            out.setdefault(name, np.empty((steps, *array.shape[1:]), np.float32))[part] = array
    return out


def _followed(
    time: np.ndarray,
    level: np.ndarray,
    known: np.ndarray,
    grown: np.ndarray,
    valid: np.ndarray,
    kinds: np.ndarray,
    settings: State,
    interval: float,
) -> tuple[np.ndarray, np.ndarray, tuple[Array, Array, Array]]:
    """Return summaries (T, histograms, statistics), moments (T, 2) and seasons at each tick, following the ticks."""
    steps, row = len(time), np.zeros(1, np.int64)
    state = history.state(1)
    horizon = int(growth.horizon_index(np, settings)[0])
    slot = np.floor(time / growth.PHASE_SECONDS).astype(np.int64)
    before = np.concatenate([slot[:1] - len(growth.PHASES), slot[:-1]])
    quarter = features.quarter_of(np, time)
    coarse = np.floor(time / history.COARSE_SECONDS).astype(np.int64)
    ends = np.append(np.flatnonzero(np.diff(coarse)), steps - 1)

    weights = np.empty((steps, growth.HISTOGRAMS, growth.BINS), np.float32)
    age = np.empty(steps)
    moments = np.empty((steps, 2), np.float32)
    seasons: list[tuple[Array, Array, Array]] = []
    begin = 0
    for end in ends:
        for t in range(begin, end + 1):
            now = slice(t, t + 1)
            growth.record(np, state, row, time[now], grown[now], valid[now], kinds[now])
            history.fold_quarters(np, state, row, time[now], grown[now], valid[now], interval)
            history.fold_profile(np, state, row, time[now], level[now], known[now])
            weights[t] = state["growth"][0, horizon]
            age[t] = time[t] - state["growth_ref"][0]
            moments[t] = state["quarter"][0, quarter[t], horizon]
        part = slice(begin, end + 1)
        count = end + 1 - begin
        same = {name: _repeated(settings[name], count) for name in ("interval", "lag", "startup")}
        seasons.append(features.seasonal(np, state, np.zeros(count, np.int64), time[part], same))
        begin = end + 1

    summary = np.empty((steps, growth.HISTOGRAMS, len(growth.STATISTICS)), np.float32)
    price = _repeated(settings["price"], steps)
    for phase, (low, high) in enumerate(growth.PHASES):
        due = slot - (slot - phase) % len(growth.PHASES) > before
        which = np.flatnonzero(due)
        fresh = np.empty((len(which), high - low, len(growth.STATISTICS)), np.float32)
        for start in range(0, len(which), _BLOCK):
            some = which[start : start + _BLOCK]
            fresh[start : start + _BLOCK] = growth.summarize(
                np, weights[some, low:high], age[some], growth.HALF_LIVES[low:high], price[some]
            )
        summary[:, low:high] = fresh[np.cumsum(due) - 1]
    joined = tuple(np.concatenate([s[i] for s in seasons]) for i in range(3))
    return summary, moments, (joined[0], joined[1], joined[2])
