"""The features of a whole load at once, to the bit those that the history tells tick by tick.

Load does not depend on what is decided, so what the history says at every moment can be told beforehand: for training,
where a load is seen many times, and for a dry-run of one workload, where a tick costs more in calls than in arithmetic.
The functions are those of `history`, `growth` and `features`. Only what truly follows from the tick before is looped,
over what depends on each other alone: the cells of a histogram are sums over time, the quarter-hours of the day know
nothing of each other, and the profile changes every five minutes. So a month at 15 s takes seconds.
"""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rlscaler import features, growth, history, period
from rlscaler.arrays import Array, State

_BLOCK = 512
_LONG = 4096
"""Ticks whose histograms are summed at once."""


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
    """Return a view (T, count) of the newest entries at each tick, newest first; `before` where there are none."""
    padded = np.concatenate([np.full(count - 1, before, series.dtype), series])
    return sliding_window_view(padded, count)[:, ::-1]


def _repeated(array: np.ndarray, count: int) -> np.ndarray:
    return np.broadcast_to(array, (count, *array.shape[1:]))


def _replayed(time: np.ndarray, load: np.ndarray, settings: State, interval: float) -> State:
    """Return the features from the first known sample on."""
    steps = len(time)
    known = np.isfinite(load)
    last = np.maximum.accumulate(np.where(known, np.arange(steps), 0))
    sample = load.astype(np.float32)[last]
    level = 0.5 * (sample + np.concatenate([sample[:1], sample[:-1]]))
    grown, valid, kinds, codes = _growth(sample, level, known, settings, interval)
    summary = _summaries(time, grown, valid, kinds, settings)
    span = history.slots(growth.LADDER[int(growth.horizon_index(np, settings)[0])], interval)
    moments = _moments(time, grown, valid, span, interval)
    then, later, usual = _seasons(time, level, known, settings)

    periods, coming = periods_over_time(time, sample, known, settings, interval)
    recent = _windows(sample, sample[0], history.slots(3600.0, interval) + 1)
    seconds = np.cumsum(np.where(known, interval, 0.0))
    capacity = settings["capacity_per_replica"].astype(np.float32)
    out: State = {}
    for part in _parts(steps, _BLOCK):
        count = part.stop - part.start
        past = features.Past(
            recent=np.ascontiguousarray(recent[part]),
            seen=np.ones(count, bool),
            code=codes[part].astype(np.int64),
            summary=summary[part],
            moments=moments[part],
            then=then[part],
            later=later[part],
            usual=usual[part],
            known_seconds=seconds[part],
            capacity=_repeated(capacity, count),
            period=periods[part],
            coming=coming[part],
        )
        for name, array in features.told(np, past, interval).items():
            out.setdefault(name, np.empty((steps, *array.shape[1:]), np.float32))[part] = array
    return out


def _parts(steps: int, size: int) -> list[slice]:
    return [slice(begin, min(begin + size, steps)) for begin in range(0, steps, size)]


def _growth(
    sample: np.ndarray, level: np.ndarray, known: np.ndarray, settings: State, interval: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the growth that is complete at each tick of the horizon in use, (T,) float32; where it counts; its class;
    and the class of each tick itself, -1 where the sample is unknown."""
    steps = len(sample)
    half, usable = history.offset(np, settings)
    horizon = int(growth.horizon_index(np, settings)[0])
    width = history.slots(growth.LADDER[-1], interval) + 2
    usual = _usual_levels(level, known, interval)
    recent = _windows(sample, sample[0], width)
    codes = np.empty(steps, np.int8)
    for part in _parts(steps, _LONG):
        kind = history.classify(np, np.ascontiguousarray(recent[part]), level[part], usual[part],
                                _repeated(half, part.stop - part.start), interval)  # fmt: skip
        codes[part] = np.where(known[part], kind, -1)
    classes = _windows(codes, -1, width - 1)
    grown, valid, kinds = np.empty(steps, np.float32), np.empty(steps, bool), np.empty(steps, np.int64)
    for part in _parts(steps, _LONG):
        count = part.stop - part.start
        found = history.completed(np, np.ascontiguousarray(recent[part]), np.ascontiguousarray(classes[part]),
                                  _repeated(half, count), _repeated(usable, count), interval)  # fmt: skip
        grown[part], valid[part], kinds[part] = (array[:, horizon] for array in found)
    return grown, valid, kinds, codes


def periods_over_time(
    time: np.ndarray, sample: np.ndarray, known: np.ndarray, settings: State, interval: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return `period` and `coming` of `features.Past` at each tick, (T,) float32.

    time: (T,) seconds, one tick an interval without a break. sample: (T,) float32 requests/s, the last known one where
    the load is unknown. known: (T,) bool, from the first on. settings: compiled, of one workload.
    """
    steps = len(time)
    slot = np.floor(time / period.EVERY).astype(np.int64)
    due = np.flatnonzero(np.concatenate([[True], slot[1:] > slot[:-1]]))
    following = np.minimum.accumulate(np.where(known, np.arange(steps), steps)[::-1])[::-1]
    count = due + 1 - np.minimum(following[np.maximum(due - history.RING + 1, 0)], due + 1)
    apart = period.reach(np, settings, interval, history.RING)
    half, _ = history.offset(np, settings)
    windows = _windows(sample, sample[0], history.RING)
    found = np.empty(len(due), np.int16)
    for part in _parts(len(due), _BLOCK):
        facts = (_repeated(each, part.stop - part.start) for each in (apart, half))
        found[part] = period.found(windows[due[part]], count[part], *facts)
    found = period.lasting(np, np.concatenate([np.zeros(1, np.int16), found[:-1]]), found)
    periods = found[np.searchsorted(due, np.arange(steps), side="right") - 1]
    coming = period.ahead(np, periods, _repeated(apart, steps),
                          lambda which, ages: sample[np.maximum(which[:, None] - ages, 0)])  # fmt: skip
    return interval * periods.astype(np.float32), coming


def _usual_levels(level: np.ndarray, known: np.ndarray, interval: float) -> np.ndarray:
    """Return `history.usual_level` after each tick, (T,) float32; the first sample is known."""
    rate = np.float32(1.0 - 2.0 ** (-interval / history.LEVEL_HALF_LIFE))
    slow, found = level[0], np.empty_like(level)
    for t, (now, there) in enumerate(zip(level, known.tolist(), strict=True)):
        if there:
            slow = slow + rate * (now - slow)
        found[t] = slow
    return found


def _summaries(
    time: np.ndarray, grown: np.ndarray, valid: np.ndarray, kinds: np.ndarray, settings: State
) -> np.ndarray:
    """Return what the histograms say at each tick, (T, histograms, statistics) float32, refreshed as in `growth`.

    A cell's weight is the running sum, in float32 as there, of the weights of the growth that fell into it.
    """
    steps = len(time)
    slot = np.floor(time / growth.PHASE_SECONDS).astype(np.int64)
    before = np.concatenate([slot[:1] - len(growth.PHASES), slot[:-1]])
    due = [slot - (slot - phase) % len(growth.PHASES) > before for phase in range(len(growth.PHASES))]
    place = np.searchsorted(growth.EDGES[1:-1].astype(np.float32), grown, side="right")
    trend, level = kinds % growth.TRENDS, kinds // growth.TRENDS
    histograms = np.empty((steps, growth.WINDOWS + 2), np.int64)
    histograms[:, : growth.WINDOWS] = np.arange(growth.WINDOWS)
    histograms[:, growth.WINDOWS] = growth.WINDOWS + trend
    histograms[:, growth.WINDOWS + 1] = growth.WINDOWS + growth.TRENDS + level

    summary = np.empty((steps, growth.HISTOGRAMS, len(growth.STATISTICS)), np.float32)
    mass = np.zeros((growth.HISTOGRAMS, growth.BINS), np.float32)
    newest = np.zeros((growth.HISTOGRAMS, len(growth.STATISTICS)), np.float32)
    for part, ref, shrink in _stretches(time):
        count = part.stop - part.start
        if shrink is not None:
            mass = mass * shrink[:, None]
        age = time[part] - ref
        weight = (2.0 ** (age[:, None] / growth.HALF_LIVES[None, : growth.WINDOWS + 1])).astype(np.float32)
        weight = valid[part, None].astype(np.float32) * weight[:, [*range(growth.WINDOWS), *[growth.WINDOWS] * 2]]
        sums = np.zeros((count + 1, growth.HISTOGRAMS, growth.BINS), np.float32)
        sums[0] = mass
        sums[np.arange(1, count + 1)[:, None], histograms[part], place[part, None]] = weight
        np.add.accumulate(sums, axis=0, out=sums)
        mass = sums[-1].copy()
        for (low, high), ready in zip(growth.PHASES, due, strict=True):
            which = np.flatnonzero(ready[part])
            fresh = np.empty((len(which) + 1, high - low, len(growth.STATISTICS)), np.float32)
            fresh[0] = newest[low:high]
            for some in _parts(len(which), _BLOCK):
                at = which[some]
                fresh[1:][some] = growth.summarize(np, sums[at + 1, low:high], age[at], growth.HALF_LIVES[low:high],
                                                   _repeated(settings["price"], len(at)))  # fmt: skip
            summary[part, low:high] = fresh[np.cumsum(ready[part])]
            newest[low:high] = fresh[-1]
    return summary


def _stretches(time: np.ndarray) -> list[tuple[slice, float, np.ndarray | None]]:
    """Return stretches of ticks that are weighed from one moment on, that moment, and by what older weights shrink."""
    found: list[tuple[slice, float, np.ndarray | None]] = []
    ref, begin, shrink = float(time[0]), 0, None
    while begin < len(time):
        late = int(np.searchsorted(time - ref > growth.RENORMALIZE_AFTER, True))
        end = min(begin + _LONG, late)
        if end > begin:
            found.append((slice(begin, end), ref, shrink))
            begin, shrink = end, None
        if end == late < len(time):
            shrink = (2.0 ** (-(time[late] - ref) / growth.HALF_LIVES)).astype(np.float32)
            ref = float(time[late])
    return found


def _moments(time: np.ndarray, grown: np.ndarray, valid: np.ndarray, span: int, interval: float) -> np.ndarray:
    """Return the moments of this quarter-hour's growth at each tick, (T, 2) float32, as `history.fold_quarters` does.

    grown, valid: of a horizon whose spans are `span` ticks long. Each of the day's quarter-hours follows its own past
    alone, so all of them step at once.
    """
    cells = np.floor((time - span * interval) / history.QUARTER_SECONDS).astype(np.int64) % history.QUARTERS_DAY
    writes = np.flatnonzero(valid)
    keys = cells[writes] * len(time) + writes
    order = np.argsort(keys)
    keys, writes = keys[order], writes[order]
    firsts = np.searchsorted(keys, np.arange(history.QUARTERS_DAY + 1) * len(time))
    longest = int(np.diff(firsts).max())
    new = np.zeros((longest, history.QUARTERS_DAY, 2), np.float32)
    place = np.arange(len(writes)) - firsts[cells[writes]]
    new[place, cells[writes]] = np.stack([grown[writes], grown[writes] * grown[writes]], axis=1)
    after = np.zeros((longest + 1, history.QUARTERS_DAY, 2), np.float32)
    weight = np.float32(history.QUARTER_RATE * min(1.0, interval / history.QUARTER_SECONDS))
    for k in range(longest):
        after[k + 1] = after[k] + weight * (new[k] - after[k])
    now = features.quarter_of(np, time)
    seen = np.searchsorted(keys, now * len(time) + np.arange(len(time)), side="right") - firsts[now]
    found: np.ndarray = after[seen, now]
    return found


def _seasons(
    time: np.ndarray, level: np.ndarray, known: np.ndarray, settings: State
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `features.seasonal` at each tick; what it looks at changes when five minutes are over."""
    steps, row, none = len(time), np.zeros(1, np.int64), np.zeros(1, bool)
    state = history.state(1)
    coarse = np.floor(time / history.COARSE_SECONDS).astype(np.int64)
    begins = np.concatenate([[0], np.flatnonzero(np.diff(coarse)) + 1])
    ends = np.append(begins[1:], steps)
    within = np.arange(steps) - np.repeat(begins, ends - begins)
    which = np.repeat(np.arange(begins.size), ends - begins)
    parts = np.zeros((2, begins.size, int((ends - begins).max())), np.float32)
    weight = known.astype(np.float32)
    parts[0, which, within], parts[1, which, within] = weight * level, weight
    sums, counts = np.add.accumulate(parts, axis=2)[:, :, -1]

    found: list[tuple[Array, Array, Array]] = []
    same = {name: _repeated(settings[name], parts.shape[2]) for name in ("interval", "lag", "startup")}
    for place, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        history.fold_profile(np, state, row, time[begin : begin + 1], level[begin : begin + 1], none)
        state["coarse_sum"][0], state["coarse_count"][0] = sums[place], counts[place]
        some = {name: array[: end - begin] for name, array in same.items()}
        found.append(features.seasonal(np, state, np.zeros(end - begin, np.int64), time[begin:end], some))
    joined = [np.concatenate([seasons[i] for seasons in found]) for i in range(3)]
    return joined[0], joined[1], joined[2]
