"""What a replica serves and how long it takes to start, from a whole past at once, with honest intervals. Pure.

The estimators are the operator's (`capacity`, `startup`). Here a past is cut into pieces, each a row that they learn
alone, side by side; what the pieces remember is then put together.

Capacity. `capacity.estimate` over the blocks of all pieces tells the value. Its own error shrinks with the number of
blocks, but what idle work is taken for does not become surer by more of the same; so the error is the mean of what
the pieces state on their own, or that of the whole where it is larger, beside MODEL and IDLE. Where the pieces show
that the capacity changed, only those since then count. What stands at a cap of its source tells no use and is left out.

Start-up. `startup.estimate` over groups of GROUP scale-ups each, whose mean is told. The interval is that of the same
over scale-ups drawn anew (bootstrap), widened by the time between two readings, which the starts may always lie alike
in.
"""

from dataclasses import dataclass, replace

import numpy as np

from rlscaler import capacity, startup
from rlscaler.capacity import Finding
from rlscaler.profile import Estimate, Recording, unknown
from rlscaler.quantities import duration_text

NORMAL = 1.96
"""Standard deviations of a 95 % interval."""
MODEL, IDLE = 0.005, 0.01
"""What no amount of data takes away: relative error, as load and utilization are windows of different ages, and share
of use by which what is taken for idle work may be off, which weighs the more the less the replicas have to do."""
CHANGED, CLEAR, SIDE = 0.12, 4.0, 3
"""A change of the capacity: in its logarithm at least, in standard errors at least, with so many pieces either side."""
HALF_HOUR, DRIFTS = 10, 0.05
"""Blocks whose median is taken for a drift, and drift from which on something else moves the utilization."""
SELDOM_USED = 0.5
"""Highest utilization below which what is told of full use is far from what was seen."""
CAPPED, APART = 0.02, 4
"""A cap of the utilization: share of its readings that are exactly the highest, and so many times as many as are the
next lower; capacity.HELD of them at least, and capacity.SPREAD between the loads of a replica meanwhile."""
STRETCH, GROUP, MOST = 21_600.0, 15, 300
"""Seconds of a piece in which start-ups are looked for; scale-ups of a group; newest scale-ups that count."""
FEW = 0.5
"""Relative width, over the number of scale-ups, by which a few of them may look more alike than starts are."""
DRAWS = 200
"""Times that the scale-ups are drawn anew."""


@dataclass(frozen=True, slots=True, eq=False)
class CapacityFit:
    """The capacity and what tells it.

    idle: share of use without load, None where the capacity is unknown. loads, uses: (B,) blocks of three minutes,
    requests/s of a replica and utilization, newest first, that the estimate is made of. times, values, errors: (P,)
    the pieces that tell a capacity on their own: middle (seconds since the epoch), requests/s and relative standard
    error. since: when the capacity changed to this, None where it did not. before: requests/s before that.
    """

    estimate: Estimate
    idle: float | None
    loads: np.ndarray
    uses: np.ndarray
    times: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    since: float | None = None
    before: float | None = None
    drift: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class StartupFit:
    """The start-up and what tells it. starts: (S,) seconds, each the middle of what it may have been."""

    estimate: Estimate
    starts: np.ndarray


def capacity_fit(recording: Recording) -> CapacityFit:
    """Return what a ready replica serves at full use; where `ready` is unknown, those asked for stand in."""
    empty = np.empty(0)
    loads, uses, begins = _blocks(recording)
    nothing = CapacityFit(unknown(""), None, empty, empty, empty, empty, empty)
    if isinstance(loads, str):
        return _without(nothing, loads)
    values, errors, findings = capacity.estimate(np, loads, uses)
    known = findings == int(Finding.Known)
    begin, before = _changed(np.log(values[known]), errors[known])
    first = int(np.flatnonzero(known)[begin]) if begin else 0
    used = slice(first, None)
    whole_loads, whole_uses = _joined(loads[used]), _joined(uses[used])
    told = known.copy()
    told[:first] = False
    middles = begins + 0.5 * capacity.BLOCK * capacity.KEPT
    fit = CapacityFit(unknown(""), None, whole_loads, whole_uses, middles[known], values[known], errors[known],
                      float(begins[first]) if begin else None, before)  # fmt: skip
    if len(whole_loads) < capacity.LEAST:
        return _without(fit, capacity.SENTENCES[Finding.TooFewSamples])
    value, error, finding = (float(each[0]) for each in capacity.estimate(np, whole_loads[None], whole_uses[None]))
    if finding != Finding.Known:
        if not told.any():
            return _without(fit, capacity.SENTENCES[Finding(int(finding))])
        value, error = float(np.exp(np.log(values[told]).mean())), 0.0
    share = whole_loads / value
    blurred = MODEL + IDLE * (1.0 / float(np.median(np.clip(share, 0.01, 1.0))) - 1.0)
    error = float(np.hypot(max(error, errors[told].mean() if told.any() else capacity.ERROR), blurred))
    idle = float(np.clip(np.median((whole_uses - share) / np.clip(1.0 - share, 0.05, None)), 0.0, 0.9))
    drift = _drift(np.log(whole_uses / (idle + (1.0 - idle) * share)))
    error = float(np.hypot(error, drift))
    minutes = len(whole_loads) * capacity.BLOCK
    why = (f"load and utilization of {duration_text(minutes)}, at {100.0 * whole_uses.min():.0f} % to "
           f"{100.0 * whole_uses.max():.0f} % use, tell it")  # fmt: skip
    factor = float(np.exp(NORMAL * error))
    estimate = Estimate(value, value / factor, value * factor, "learned", why)
    return replace(fit, estimate=estimate, idle=idle, drift=drift)


def cap(recording: Recording) -> float | None:
    """Return the utilization that its source lets none exceed, None where none is seen.

    From `capacity.SATURATED` on there is none: such readings are left out, capped or not.
    """
    ready, use = _ready(recording), recording.utilization
    known = np.isfinite(use) & np.isfinite(recording.load) & (ready > 0.0)
    levels, counts = np.unique(use[known], return_counts=True)
    if len(levels) < 2 or levels[-1] >= capacity.SATURATED:
        return None
    if counts[-1] < max(capacity.HELD, CAPPED * known.sum(), APART * counts[-2]):
        return None
    at = known & (use == levels[-1])
    low, high = np.percentile(recording.load[at] / ready[at], (5.0, 95.0))
    return float(levels[-1]) if high > capacity.SPREAD * low else None


def _ready(recording: Recording) -> np.ndarray:
    """Return the ready replicas (T,), those asked for where they are unknown."""
    return np.where(np.isfinite(recording.ready), recording.ready, recording.replicas)


def _without(fit: CapacityFit, why: str) -> CapacityFit:
    return replace(fit, estimate=unknown(why))


def _blocks(recording: Recording) -> tuple[np.ndarray | str, np.ndarray, np.ndarray]:
    """Return the blocks (P, KEPT) of load of a replica and of utilization, newest first, and when each piece begins.

    Where there can be none, a sentence on why takes the place of the first.
    """
    interval, nothing = recording.interval, np.empty(0)
    ready, use = _ready(recording), recording.utilization
    for name, series in (("utilization", use), ("replicas", ready)):
        if not np.isfinite(series).any():
            return f"{name} is not known: name a query or a file of it", nothing, nothing
    if interval > 0.5 * capacity.BLOCK:
        longest = duration_text(0.5 * capacity.BLOCK)
        return f"readings every {duration_text(interval)} are too few: {longest} at most", nothing, nothing
    length = int(capacity.BLOCK * capacity.KEPT / interval)
    if (highest := cap(recording)) is not None:
        use = np.where(use == np.float32(highest), np.nan, use)
    load, ready, use = (_pieces(series, length) for series in (recording.load, ready, use))
    count = load.shape[1]
    state, rows = capacity.state(count), np.arange(count)
    for tick in range(length):
        capacity.record(np, state, rows, np.full(count, interval * tick), load[tick], ready[tick], use[tick])
    late = np.full(count, capacity.BLOCK * (capacity.KEPT + 1))
    capacity.record(np, state, rows, late, *np.full((3, count), np.nan))  # so that the last blocks end
    percent = state["finding"] == int(Finding.UtilizationInPercent)
    if percent.sum() > 0.5 * np.isfinite(use).any(axis=0).sum():
        return capacity.SENTENCES[Finding.UtilizationInPercent], nothing, nothing
    fresh = np.arange(capacity.KEPT)[None, :] < state["blocks"][:, None]
    fresh &= ~percent[:, None]
    order = np.argsort(~fresh[:, ::-1], axis=1, kind="stable")
    newest = [np.take_along_axis(np.where(fresh, state[name], np.nan)[:, ::-1], order, axis=1).astype(np.float64)
              for name in ("loads", "uses")]  # fmt: skip
    return newest[0], newest[1], recording.start + interval * length * np.arange(count)


def _pieces(series: np.ndarray, length: int) -> np.ndarray:
    """Return a series (T,) in pieces (length, P), the last one filled up with NaN."""
    count = -(-len(series) // length)
    whole = np.full(count * length, np.nan)
    whole[: len(series)] = series
    return np.ascontiguousarray(whole.reshape(count, length).T)


def _joined(blocks: np.ndarray) -> np.ndarray:
    """Return the blocks (P, KEPT) of pieces in order of time as one row, newest first."""
    newest = blocks[::-1].reshape(-1)
    return np.asarray(newest[np.isfinite(newest)])


def _drift(left: np.ndarray) -> float:
    """Return the scatter of half-hours, less what scatter of single blocks makes of it.

    left: (B,) logarithms of what the load does not explain of the utilization, in order of time.
    """
    groups = left[: len(left) // HALF_HOUR * HALF_HOUR].reshape(-1, HALF_HOUR)
    if len(groups) < 2:
        return 0.0
    middles = np.median(groups, axis=1)
    # The median of n scatters by 1.57 times the variance of one over n.
    within = 1.57 * float(np.median((groups - middles[:, None]) ** 2)) / 0.4549 / HALF_HOUR
    return float(np.sqrt(max(float(middles.var()) - within, 0.0)))


def _changed(values: np.ndarray, errors: np.ndarray) -> tuple[int, float | None]:
    """Return the first piece since the capacity last changed, 0 if never, and the capacity before.

    values: (P,) logarithms of the capacity, in order of time. errors: (P,) their standard errors.
    """
    begin, before = 0, None
    while len(values) - begin >= 2 * SIDE:
        rest, count = values[begin:], len(values) - begin
        best = (0.0, 0)
        for split in range(SIDE, count - SIDE + 1):
            left, right = rest[:split], rest[split:]
            within = np.sqrt((left.var() * split + right.var() * (count - split)) / count)
            scatter = max(float(within), float(errors[begin:].mean()))
            gap = abs(float(np.median(right) - np.median(left)))
            clear = gap / (scatter * np.sqrt(1.0 / split + 1.0 / (count - split)))
            if gap >= CHANGED and clear >= CLEAR and clear > best[0]:
                best = (clear, split)
        if not best[1]:
            break
        before = float(np.exp(np.median(rest[: best[1]])))
        begin += best[1]
    return begin, before


def startup_fit(recording: Recording, seed: int = 0) -> StartupFit:
    """Return how long replicas take from being asked for until they serve."""
    for name, series in (("replicas that were asked for", recording.replicas), ("ready replicas", recording.ready)):
        if not np.isfinite(series).any():
            return StartupFit(unknown(f"the {name} are not known: name a query or a file of them"), np.empty(0))
    starts, noises, shares = _starts(recording)
    number = float(shares.sum())
    if number < startup.LEAST:
        seen = {0: "none was", 1: "one was"}.get(round(number), "two were")
        return StartupFit(unknown(f"three scale-ups from begin to end tell it, and {seen} seen"), starts)
    requests = _requests(starts, noises, shares)
    count = len(requests)
    value = float(_grouped(requests, np.arange(count)[None, :])[0])
    draws = np.random.default_rng(seed).integers(0, count, (DRAWS, count))
    drawn = _grouped(requests, draws)
    low, high = np.quantile(drawn, (0.025, 0.975))
    few = _student(count - 1) / NORMAL * np.sqrt(count / (count - 1.0)) if count > 1 else 1.0
    # The sum of two moments, each spread evenly between two readings, reaches so far at most.
    within = float(np.sqrt(6.0 * np.average(noises, weights=shares)))
    unseen = FEW * value / count
    low, high = (value + few * (each - value) for each in (min(low, value), max(high, value)))
    low, high = low - unseen, high + unseen
    why = (f"{count} scale-ups tell it; {startup.QUANTILE:.0%} of their replicas serve within it, and readings every "
           f"{duration_text(recording.interval)} leave {duration_text(round(within))} open")  # fmt: skip
    return StartupFit(Estimate(value, max(0.0, float(low) - within), float(high) + within, "learned", why), starts)


def _starts(recording: Recording) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return seconds, variances and shares of a request (S,) of the starts that were seen, newest first."""
    interval = recording.interval
    length = max(1, int(STRETCH / interval))
    desired, ready = _pieces(recording.replicas, length), _pieces(recording.ready, length)
    count = desired.shape[1]
    state, rows = startup.state(count), np.arange(count)
    for tick in range(length):
        startup.record(np, state, rows, np.full(count, interval * tick), desired[tick], ready[tick])
    found = [state[name][::-1].astype(np.float64).reshape(-1) for name in ("starts", "noises", "shares")]
    there = found[2] > 0.0
    newest = np.cumsum(np.where(there, found[2], 0.0)) <= MOST
    return found[0][there & newest], found[1][there & newest], found[2][there & newest]


def _requests(starts: np.ndarray, noises: np.ndarray, shares: np.ndarray) -> list[np.ndarray]:
    """Return the starts (3, S) of each request: those that follow each other until their shares make up one."""
    which = np.floor(np.cumsum(shares) - shares + 1e-6).astype(np.int64)
    cuts = np.flatnonzero(np.diff(which)) + 1
    return np.split(np.stack([starts, noises, shares]), cuts, axis=1)


def _grouped(requests: list[np.ndarray], draws: np.ndarray) -> np.ndarray:
    """Return the mean start-up over groups of GROUP requests, for each row of indices (D, R)."""
    groups = max(1, draws.shape[1] // GROUP)
    parts = [[np.concatenate([requests[i] for i in part], axis=1) for part in np.array_split(row, groups)]
             for row in draws]  # fmt: skip
    width = max(part.shape[1] for row in parts for part in row)
    table = np.zeros((3, len(parts) * groups, width))
    for place, part in enumerate(part for row in parts for part in row):
        table[:, place, : part.shape[1]] = part
    found, _ = startup.estimate(np, *table)
    return np.asarray(found.reshape(len(parts), groups).mean(axis=1))


def _student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t (Cornish-Fisher expansion; within 4 % from 2 degrees of freedom on)."""
    return NORMAL + 2.372 / freedom + 2.823 / freedom**2 + 2.556 / freedom**3
