"""What the history says at this moment: named numbers relative to the present level, for rules and observations.

They depend on the load alone, not on what was decided, so they can be computed once for a trace and looked up.
"""

from dataclasses import dataclass
from typing import Any

from rlscaler import growth, history
from rlscaler.arrays import Array, State

LAGS = (30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1200.0, 2400.0, 3600.0)
"""Ages in seconds of single samples that are told."""
SPANS = (60.0, 180.0, 300.0, 900.0, 3600.0)
"""Spans in seconds over which means are told; extremes over those of EXTREMES."""
EXTREMES = (300.0, 900.0, 3600.0)
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
    """Return (N,) the five-minute mean (requests/s) interpolated at a past `time`, NaN where unknown."""
    where = time / history.COARSE_SECONDS - 0.5
    low = xp.floor(where)
    share = xp.astype(where - low, xp.float32)
    low = xp.astype(low, xp.int64)
    before = state["coarse"][rows, low % history.COARSE]
    after = state["coarse"][rows, (low + 1) % history.COARSE]
    return before + share * (after - before)


@dataclass(slots=True)
class Past:
    """What the features of R rows are made of.

    recent: (R, K) float32 requests/s, the last hour, newest first. seen: (R,) bool, there was a sample. code: (R,)
    int64 present class, -1 = unknown. summary: (R, histograms, statistics). moments: (R, 2) of this quarter-hour's
    growth. then, later: (R, 2) load at this time yesterday and a week ago, and one reaction later. usual:
    (R, AHEAD + 1) seasonal profile from now on. known_seconds: (R,). capacity: (R,) float32.
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


def features(xp: Any, state: State, rows: Array, time: Array, settings: State, interval: float) -> State:
    """Return the features of the rows: float32 arrays (N,), `ahead` (N, AHEAD).

    `level` and `latest` are in replicas; all else is the logarithm of a ratio to `level` (half a replica added to
    both sides), or a statistic of log growth. Where the capacity or every sample is unknown, `level` is NaN.
    """
    growth.refresh(xp, state, rows, time, settings)
    return told(xp, gathered(xp, state, rows, time, settings, interval), interval)


def gathered(xp: Any, state: State, rows: Array, time: Array, settings: State, interval: float) -> Past:
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
    )


def quarter_of(xp: Any, time: Array) -> Array:
    """Return the quarter-hour of the day, int64."""
    return xp.astype(xp.floor(time / history.QUARTER_SECONDS), xp.int64) % history.QUARTERS_DAY


def seasonal(xp: Any, state: State, rows: Array, time: Array, settings: State) -> tuple[Array, Array, Array]:
    """Return `then`, `later` and `usual` of `Past`."""
    reaction = settings["interval"] + settings["lag"] + settings["startup"]
    back = (growth.DAY, 7 * growth.DAY)
    then = xp.stack([_coarse_at(xp, state, rows, time - b) for b in back], axis=1)
    later = xp.stack([_coarse_at(xp, state, rows, time - b + reaction) for b in back], axis=1)
    points = xp.stack([time + 0.5 * j * reaction for j in range(AHEAD + 1)], axis=1)
    return then, later, _profile_at(xp, state, rows, points)


def _mean(xp: Any, array: Array, count: int) -> Array:
    """Return the mean of the first columns of (R, K)."""
    some = array[:, :count]
    return xp.sum(some, axis=1) / some.shape[1]


def told(xp: Any, past: Past, interval: float) -> State:
    """Return the features, see `features`."""
    hour = history.slots(3600.0, interval)
    recent = past.recent / past.capacity[:, None]
    logs = xp.log(recent + 0.5)
    level = xp.where(past.seen, 0.5 * (recent[:, 0] + recent[:, 1]), float("nan"))
    base = xp.log(level + 0.5)

    def count(span: float) -> int:
        return min(hour, history.slots(span, interval))

    out: State = {"level": level, "latest": xp.where(past.seen, recent[:, 0], float("nan"))}
    out["rel_latest"] = logs[:, 0] - base
    for lag in LAGS:
        out[f"lag_{label(lag)}"] = logs[:, count(lag)] - base
    means = {span: xp.log(_mean(xp, recent, count(span)) + 0.5) for span in (*TREND, *SPANS)}
    for span in SPANS:
        out[f"mean_{label(span)}"] = means[span] - base
    out["trend"] = means[TREND[0]] - means[TREND[1]]
    begin, high, low = 0, None, None
    for span in EXTREMES:
        if count(span) > begin:
            block = logs[:, begin : count(span)]
            top, bottom = xp.max(block, axis=1), xp.min(block, axis=1)
            high = top if high is None else xp.maximum(high, top)
            low = bottom if low is None else xp.minimum(low, bottom)
            begin = count(span)
        out[f"max_{label(span)}"], out[f"min_{label(span)}"] = high - base, low - base
    steps = logs[:, :-1] - logs[:, 1:]
    squares = steps * steps
    for name, span in (("noise_5m", 300.0), ("noise_1h", 3600.0)):
        out[name] = xp.sqrt(_mean(xp, squares, count(span)))

    code = xp.where(past.code < 0, growth.TRENDS // 2, past.code)
    row = xp.arange(code.shape[0], device=getattr(code, "device", None))
    picks = [past.summary[:, w] for w in range(growth.WINDOWS)]
    picks.append(past.summary[row, growth.WINDOWS + code % growth.TRENDS])
    picks.append(past.summary[row, growth.WINDOWS + growth.TRENDS + code // growth.TRENDS])
    for source, values in zip(SOURCES, picks, strict=True):
        for column, statistic in enumerate(growth.STATISTICS):
            out[f"{source}_{statistic}"] = values[:, column]

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
    out["experience"] = xp.astype(xp.log(1.0 + past.known_seconds / 3600.0), xp.float32)
    return out
