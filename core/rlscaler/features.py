"""What the history says at this moment: named numbers relative to the present level, for rules and observations.

They depend on the load alone, not on what was decided, so they can be computed once for a trace and looked up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from rlscaler import growth, history, period
from rlscaler.arrays import Array, State

LAGS = (30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1200.0, 2400.0, 3600.0)
"""Ages in seconds of single samples that are told."""
SPANS = (60.0, 180.0, 300.0, 900.0, 3600.0)
"""Spans in seconds over which means are told; extremes over those of EXTREMES."""
EXTREMES = (300.0, 900.0, 3600.0)
NOISES = (300.0, 3600.0)
"""Spans in seconds over which the root mean square of the log steps is told."""
AHEAD = 8
"""Points of the seasonal profile that are told, half a reaction time apart."""
SOURCES = ("hour", "sixhours", "daylong", "weeklong", "trend", "level")
"""Histograms whose statistics are told: four windows, and those of the present class of trend and of level."""
TREND = (30.0, 180.0)
"""Seconds of the means that the trend compares."""
UPPER_SIGMA = 1.3


def label(seconds: float) -> str:
    """Return a span as it stands in the names of features: 30s, 5m, 1h."""
    if seconds < 60:
        return f"{seconds:g}s"
    return f"{seconds / 60:g}m" if seconds < 3600 else f"{seconds / 3600:g}h"


_RELATIVE = ("rel_latest", *(f"lag_{label(span)}" for span in LAGS), *(f"mean_{label(span)}" for span in SPANS),
             *(f"{end}_{label(span)}" for end in ("max", "min") for span in EXTREMES))  # fmt: skip
"""Features that are the logarithm of something less that of the level."""
_NOISES = tuple(f"noise_{label(span)}" for span in NOISES)
_TOLD = tuple(f"{source}_{statistic}" for source in SOURCES for statistic in growth.STATISTICS)
_MEANS = tuple(sorted({*TREND, *SPANS}))


@cache
def _counts(interval: float, spans: tuple[float, ...]) -> tuple[int, ...]:
    """Return how many samples of the last hour each of the spans has."""
    hour = history.slots(3600.0, interval)
    return tuple(min(hour, history.slots(span, interval)) for span in spans)


def _profile_at(xp: Any, state: State, rows: Array, time: Array) -> Array:
    """Return (N, P) the usual load (requests/s) at `time` (N, P): the week's profile, else the day's, else NaN.

    The times of a row ascend.
    """
    where = time / history.QUARTER_SECONDS - 0.5
    low = xp.floor(where)
    share = xp.astype(where - low, xp.float32)
    low = xp.astype(low, xp.int64)
    # All points of a row lie within a few quarter-hours: these are looked up once, and the points among them.
    first, line = low[:, :1], xp.arange(low.shape[0], device=getattr(time, "device", None))[:, None]
    place = low - first
    width = int(xp.max(place)) + 2 if time.shape[0] else 2
    quarters = first + xp.arange(width, device=getattr(time, "device", None))[None, :]
    week = state["week"][rows[:, None], quarters % history.QUARTERS_WEEK]
    day = state["day"][rows[:, None], quarters % history.QUARTERS_DAY]
    usual = xp.where(xp.isnan(week), day, week)
    before, after = usual[line, place], usual[line, place + 1]
    before = xp.where(xp.isnan(before), after, before)
    after = xp.where(xp.isnan(after), before, after)
    return before + share * (after - before)


def _coarse_at(xp: Any, state: State, rows: Array, time: Array) -> Array:
    """Return (N, P) the five-minute means (requests/s) interpolated at past `time` (N, P), NaN where unknown."""
    where = time / history.COARSE_SECONDS - 0.5
    low = xp.floor(where)
    share = xp.astype(where - low, xp.float32)
    low = xp.astype(low, xp.int64)
    before = state["coarse"][rows[:, None], low % history.COARSE]
    after = state["coarse"][rows[:, None], (low + 1) % history.COARSE]
    return before + share * (after - before)


@dataclass(slots=True)
class Past:
    """What the features of R rows are made of.

    recent: (R, K) float32 requests/s, the last hour, newest first. seen: (R,) bool, there was a sample. code: (R,)
    int64 present class, -1 = unknown. summary: (R, histograms, statistics). moments: (R, 2) of this quarter-hour's
    growth. then, later: (R, 2) load at this time yesterday and a week ago, and one reaction later. usual:
    (R, AHEAD + 1) seasonal profile from now on. known_seconds: (R,). capacity: (R,) float32. period: (R,) float32
    seconds after which the load repeats itself, 0 = it does not. coming: (R,) float32 requests/s, the most within one
    reaction time if it does, NaN = it does not.
    """

    recent: Array
    seen: Array
    code: Array
    summary: Array
    moments: Array
    then: Array
    later: Array
    usual: Array
    known_seconds: Array
    capacity: Array
    period: Array
    coming: Array


def features(xp: Any, state: State, rows: Array, time: Array, settings: Mapping[str, Array], interval: float) -> State:
    """Return the features of the rows: float32 arrays (N,), `ahead` (N, AHEAD).

    `level` and `latest` are in replicas; all else is the logarithm of a ratio to `level` (half a replica added to
    both sides), or a statistic of log growth. Where the capacity or every sample is unknown, `level` is NaN.
    """
    growth.refresh(xp, state, rows, time, settings)
    history.refresh_period(xp, state, rows, time, settings, interval)
    return told(xp, gathered(xp, state, rows, time, settings, interval), interval)


def gathered(xp: Any, state: State, rows: Array, time: Array, settings: Mapping[str, Array], interval: float) -> Past:
    """Return what the history holds that features are made of."""
    seen = state["slot"][rows] >= 0
    slot = xp.where(seen, state["slot"][rows], 0)
    horizon = xp.clip(state["summary_horizon"][rows], 0, len(growth.LADDER) - 1)
    then, later, usual = seasonal(xp, state, rows, time, settings)
    return Past(
        recent=history.newest(xp, state["load"], rows, slot, history.slots(3600.0, interval) + 1),
        seen=seen,
        code=xp.astype(state["classes"][rows, slot % history.RING], xp.int64),
        summary=state["summary"][rows],
        moments=state["quarter"][rows, quarter_of(xp, time), horizon],
        then=then,
        later=later,
        usual=usual,
        known_seconds=state["known_seconds"][rows],
        capacity=xp.astype(settings["capacity_per_replica"], xp.float32),
        period=interval * xp.astype(state["period"][rows], xp.float32),
        coming=_coming(xp, state, rows, slot, settings, interval),
    )


def _coming(xp: Any, state: State, rows: Array, slot: Array, settings: Mapping[str, Array], interval: float) -> Array:
    def samples(which: Array, ages: Array) -> Array:
        return state["load"][rows[which][:, None], (slot[which][:, None] - ages) % history.RING]

    return period.ahead(xp, state["period"][rows], period.reach(xp, settings, interval, history.RING), samples)


def quarter_of(xp: Any, time: Array) -> Array:
    """Return the quarter-hour of the day, int64."""
    return xp.astype(xp.floor(time / history.QUARTER_SECONDS), xp.int64) % history.QUARTERS_DAY


def seasonal(
    xp: Any, state: State, rows: Array, time: Array, settings: Mapping[str, Array]
) -> tuple[Array, Array, Array]:
    """Return `then`, `later` and `usual` of `Past`."""
    reaction = settings["interval"] + settings["lag"] + settings["startup"]
    ago = [time - growth.DAY, time - 7 * growth.DAY]
    past = _coarse_at(xp, state, rows, xp.stack([*ago, *(each + reaction for each in ago)], axis=1))
    halves = 0.5 * xp.arange(AHEAD + 1, dtype=xp.float64, device=getattr(time, "device", None))
    points = time[:, None] + halves * reaction[:, None]
    return past[:, :2], past[:, 2:], _profile_at(xp, state, rows, points)


def _means(xp: Any, array: Array, counts: tuple[int, ...]) -> list[Array]:
    """Return the means of the first columns of (R, K), as many as each of the counts says."""
    return [xp.sum(array[:, :count], axis=1) / min(count, array.shape[1]) for count in counts]


def _extremes(xp: Any, logs: Array, counts: tuple[int, ...]) -> tuple[list[Array], list[Array]]:
    """Return the highest and the lowest of the first columns of (R, K); the counts of columns ascend."""
    highs: list[Array] = []
    lows: list[Array] = []
    begin = 0
    for count in counts:
        if count > begin:
            block = logs[:, begin:count]
            top, bottom = xp.max(block, axis=1), xp.min(block, axis=1)
            highs.append(xp.maximum(highs[-1], top) if highs else top)
            lows.append(xp.minimum(lows[-1], bottom) if lows else bottom)
            begin = count
        else:
            highs.append(highs[-1])
            lows.append(lows[-1])
    return highs, lows


def again(xp: Any, coming: Array, level: Array, capacity: Array) -> Array:
    """Return (N,) float32 the logarithm of what is to come (requests/s) over the level (replicas), 0 where unknown."""
    half = 0.5 * capacity
    found = xp.log((coming + half) / (level * capacity + half))
    return xp.where(xp.isnan(found), 0.0, found)


def told(xp: Any, past: Past, interval: float) -> State:
    """Return the features, see `features`."""
    recent = past.recent / past.capacity[:, None]
    logs = xp.log(recent + 0.5)
    level = xp.where(past.seen, 0.5 * (recent[:, 0] + recent[:, 1]), float("nan"))
    base = xp.log(level + 0.5)
    out: State = {"level": level, "latest": xp.where(past.seen, recent[:, 0], float("nan"))}

    lags = [logs[:, count] for count in _counts(interval, LAGS)]
    means = xp.log(xp.stack(_means(xp, recent, _counts(interval, _MEANS)), axis=0) + 0.5)
    mean = dict(zip(_MEANS, means, strict=True))
    out["trend"] = mean[TREND[0]] - mean[TREND[1]]
    highs, lows = _extremes(xp, logs, _counts(interval, EXTREMES))
    columns = xp.stack([logs[:, 0], *lags, *(mean[span] for span in SPANS), *highs, *lows], axis=0)
    out |= zip(_RELATIVE, columns - base, strict=True)
    squares = logs[:, :-1] - logs[:, 1:]
    squares *= squares
    noises = xp.sqrt(xp.stack(_means(xp, squares, _counts(interval, NOISES)), axis=0))
    out |= zip(_NOISES, noises, strict=True)

    code = xp.where(past.code < 0, growth.TRENDS // 2, past.code)
    row = xp.arange(code.shape[0], device=getattr(code, "device", None))
    trend = past.summary[row, growth.WINDOWS + code % growth.TRENDS]
    usual = past.summary[row, growth.WINDOWS + growth.TRENDS + code // growth.TRENDS]
    windows = xp.reshape(past.summary[:, : growth.WINDOWS], (code.shape[0], -1))
    out |= zip(_TOLD, xp.concat([windows, trend, usual], axis=1).T, strict=True)

    mean_growth = past.moments[:, 0]
    spread = xp.sqrt(xp.clip(past.moments[:, 1] - mean_growth * mean_growth, 0.0, None))
    out["quarter_mean"], out["quarter_high"] = mean_growth, mean_growth + UPPER_SIGMA * spread
    half = 0.5 * past.capacity[:, None]
    grown = xp.log((past.later + half) / (past.then + half))
    grown = xp.where(xp.isnan(grown), 0.0, grown)
    out["yesterday"], out["lastweek"] = grown[:, 0], grown[:, 1]
    ahead = xp.log((past.usual[:, 1:] + half) / (past.usual[:, :1] + half))
    out["ahead"] = xp.where(xp.isnan(ahead), 0.0, ahead)
    at_now = past.usual[:, 0] / past.capacity
    out["versus_profile"] = xp.where(xp.isnan(at_now), 0.0, base - xp.log(at_now + 0.5))
    out["again"] = again(xp, past.coming, level, past.capacity)
    out["period"] = past.period
    out["experience"] = xp.astype(xp.log(1.0 + past.known_seconds / 3600.0), xp.float32)
    return out
