"""What the load alone tells of a workload: its noise, its days and weeks, how far it was seen in use. Pure."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rlscaler import capacity
from rlscaler.profile import Estimate, LoadFacts, Recording, Saturation, unknown
from rlscaler.quantities import duration_text

DAY, QUARTER = 86_400.0, 900.0
DRAWS = 400
"""Times that days, or pieces of the record, are drawn anew for an interval."""
LEVELS, LEAST_READINGS, FEW = 12, 240, 50.0
"""Groups of like load in which noise is looked for, readings that it takes, and requests in a reading below which the
median is no measure of their scatter, so that others are looked at where there are enough."""
TERM = 4.0
"""Misfit, in squared standard errors, that a further term of the model has to take away."""
BLUR = 0.15
"""Share of the lowest scatter, over the mean, that is seen at any load by which the noise may be off."""
DAYS, KNOWN_DAY = 3, 0.8
"""Days without which no day profile can be tested, and share of its quarter-hours that must be known of each."""
SHIFTS, PAIRED = 16, 0.2
"""Readings by which two series are shifted at most, and correlation without which a shift says nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class SeasonFit:
    """The day profile. day, week: share of variance explained. low, middle, high: (96,) requests/s by quarter-hour of
    the day in UTC, the 10th, 50th and 90th percentile over the days, NaN = unknown.
    """

    day: Estimate
    week: Estimate
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray


def load_facts(recording: Recording) -> LoadFacts:
    """Return what load was read. Raises ValueError where none is known."""
    known = np.isfinite(recording.load)
    if not known.any():
        raise ValueError("no load is known")
    seen = recording.load[known].astype(np.float64)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~known, [False]]).astype(np.int8)))
    lengths = edges[1::2] - edges[::2]
    times = recording.times
    return LoadFacts(begin=float(times[0]), end=float(times[-1]), mean=float(seen.mean()),
                     p95=float(np.percentile(seen, 95.0)), peak=float(seen.max()), coverage=float(known.mean()),
                     gaps=len(lengths), longest_gap=float(lengths.max(initial=0) * recording.interval))  # fmt: skip


def three_minutes(recording: Recording) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return utilization, load of a ready replica and latency as means over three minutes, (B,) each, NaN = unknown."""
    per = max(1, round(capacity.BLOCK / recording.interval))
    ready = np.where(np.isfinite(recording.ready), recording.ready, recording.replicas)
    load = recording.load / np.where(ready >= 1.0, ready, np.nan)
    found = []
    for series in (recording.utilization, load, recording.latency):
        parts = series[: len(series) // per * per].reshape(-1, per).astype(np.float64)
        there = np.isfinite(parts)
        enough = there.sum(axis=1) >= 0.5 * per
        sums = np.where(there, parts, 0.0).sum(axis=1)
        found.append(np.where(enough, sums / np.maximum(there.sum(axis=1), 1), np.nan))
    return found[0], found[1], found[2]


def saturation(recording: Recording) -> Saturation:
    """Return how far the workload was seen in use; nothing of the use where that is no share, such as percentages."""
    use, load, _ = three_minutes(recording)
    highest = [float(np.nanmax(each)) if np.isfinite(each).any() else None for each in (use, load)]
    known = np.isfinite(recording.utilization)
    if highest[0] is not None and highest[0] > capacity.PERCENT:
        return Saturation(utilization=None, load_per_replica=highest[1], saturated=None)
    saturated = float((recording.utilization[known] >= capacity.SATURATED).sum() * recording.interval)
    return Saturation(utilization=highest[0], load_per_replica=highest[1], saturated=saturated if known.any() else None)


def noise_fit(recording: Recording, window: float | None = None, seed: int = 0) -> Estimate:
    """Return variance over mean of the requests of one reading, that which grows with the load.

    Second differences take slopes out of the load; in groups of like load their variance is what noise of counts
    (in proportion to the mean), a walk (the same at all loads) and a jitter (in proportion to the square) make of it.
    The interval is that of the same over pieces of the record drawn anew. window: seconds that a reading averages over,
    where these are more than the interval; then readings that do not overlap are looked at.
    """
    span = max(recording.interval, window or 0.0)
    every = max(1, int(np.ceil(span / recording.interval - 1e-9)))
    counts = recording.load[::every].astype(np.float64) * span
    bend = (counts[:-2] - 2.0 * counts[1:-1] + counts[2:]) / np.sqrt(6.0)
    level = (counts[:-2] + counts[1:-1] + counts[2:]) / 3.0
    good = np.isfinite(bend) & (level > 0.0)
    if (good & (level >= FEW)).sum() >= LEAST_READINGS:
        good &= level >= FEW
    if good.sum() < LEAST_READINGS:
        return unknown(f"{LEAST_READINGS} readings in a row above 0 and without a gap tell it, and {int(good.sum())} "
                       "are there")  # fmt: skip
    piece = np.arange(len(bend))[good] * 24 // len(bend)
    bend, level = bend[good], level[good]
    order = np.argsort(level, kind="stable")
    groups = np.array_split(order, LEVELS)
    value, least_fano, most_fano, jitter, least = _parted(bend, level, groups)
    rng, drawn = np.random.default_rng(seed), []
    members = [[group[piece[group] == each] for each in range(24)] for group in groups]
    for _ in range(DRAWS // 4):
        which = rng.integers(0, 24, 24)
        again = [np.concatenate([parts[i] for i in which]) for parts in members]
        drawn.append(_parted(bend, level, [part for part in again if len(part) >= 8]).fano)
    low, high = (float(each) for each in np.quantile(drawn, (0.025, 0.975)))
    low, high = max(min(low, least_fano) - BLUR * least, 0.0), max(high, most_fano) + BLUR * least
    if value < 0.25 or high > 5.0 * value:
        if jitter <= 0.002:
            return unknown("the scatter from one reading to the next does not grow with the load, or the load hardly "
                           "changes, so that noise of counts cannot be told from movements")  # fmt: skip
        return unknown(f"the load moves by {100.0 * jitter:.2g} % from one reading to the next, beside which noise of "
                       "counts cannot be seen")  # fmt: skip
    also = f", beside a jitter of {100.0 * jitter:.2g} % of the load" if jitter > 0.002 else ""
    return Estimate(value, low, high, "learned", f"changes between readings of {duration_text(span)} tell it{also}")


class _Parts(NamedTuple):
    """Variance over mean of the best model, and of all that fit about as well; the jitter; the least of any group."""

    fano: float
    low: float
    high: float
    jitter: float
    least: float


def _parted(bend: np.ndarray, level: np.ndarray, groups: list[np.ndarray]) -> _Parts:
    """Return what makes the scatter of the groups.

    Variance over mean of a group is modelled as walk / mean + fano + square x mean, none of them negative. Of the
    choices of terms the one with the least misfit and TERM for each is best.
    """
    means, ratios = [], []
    for group in groups:
        mean, parts = float(np.median(level[group])), bend[group] ** 2 / level[group]
        # The median of a squared normal is 0.455 of its variance; it passes over jumps.
        means.append(mean)
        ratios.append(float(np.median(parts)) / 0.4549 if mean >= FEW else float(parts.mean()))
    m, v = np.array(means), np.maximum(np.array(ratios), 1e-12)
    # A scatter that is told by a median is uncertain by a variance of 5.4 over the number, relative to its square.
    weight = np.sqrt(np.array([len(group) for group in groups]) / 5.4) / np.maximum(v, 1e-3 * v.max())
    table = np.stack([np.ones_like(m), m / m.mean(), m.mean() / m], axis=1) * weight[:, None]
    fits: list[tuple[float, np.ndarray]] = []
    for terms in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        found, *_ = np.linalg.lstsq(table[:, terms], v * weight, rcond=None)
        if (found >= 0.0).all():
            whole = np.zeros(3)
            whole[list(terms)] = found
            fits.append((float(((table @ whole - v * weight) ** 2).sum()) + TERM * len(terms), whole))
    score, best = min(fits, key=lambda fit: fit[0])
    alike = [float(fit[0]) for off, fit in fits if off <= score + TERM]
    return _Parts(float(best[0]), min(alike), max(alike), float(np.sqrt(best[1] / m.mean())), float(v.min()))


def season_fit(recording: Recording, seed: int = 0) -> SeasonFit:
    """Return how much of the load its time of day and its weekday explain, and the day profile.

    Each day is predicted from the means of the others at the same quarter-hour: of all, and of the same weekday. The
    share is that of the variance of the logarithm that this takes away; the interval is that over days drawn anew.
    """
    days = _days(recording)
    with np.errstate(all="ignore"):
        profile = [_percentile(days, share) for share in (10.0, 50.0, 90.0)]
    whole = np.isfinite(days).mean(axis=1) >= KNOWN_DAY
    number = int(whole.sum())

    def fit(day: Estimate, week: Estimate) -> SeasonFit:
        return SeasonFit(day, week, *profile)

    if number < DAYS:
        why = f"{DAYS} whole days tell it, and {number} are there"
        return fit(unknown(why), unknown("three weeks tell it"))
    weekday = ((recording.start // DAY + np.arange(len(days)) + 3) % 7)[whole].astype(np.int64)
    kept = days[whole]
    smallest = 0.01 * float(np.nanmean(kept)) + 1e-12
    logs = np.log(kept + smallest)
    total, left = _errors(logs, np.zeros(number, np.int64))
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, number, (DRAWS, number))
    day = _explained(total, left, draws, f"{number} days tell it")
    same = np.array([(weekday == each).sum() for each in weekday])
    if (same >= 3).mean() < 0.9:
        return fit(day, unknown(f"three of each weekday tell it, and {number} days are there"))
    _, also = _errors(logs, weekday)
    gain = np.maximum(left.sum() - also.sum(), 0.0) / total.sum()
    drawn = np.clip((left[draws].sum(axis=1) - also[draws].sum(axis=1)) / total[draws].sum(axis=1), 0.0, 1.0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    week = Estimate(float(gain), min(float(low), float(gain)), max(float(high), float(gain)), "learned",
                    f"{number} days tell it")  # fmt: skip
    return fit(day, week)


def _days(recording: Recording) -> np.ndarray:
    """Return the means of each quarter-hour of each day in UTC, (D, 96), NaN = unknown."""
    place = np.floor(recording.times / QUARTER + 1e-9).astype(np.int64)
    first = int(place[0] // 96) * 96
    size = (int(place[-1]) // 96 + 1) * 96 - first
    known = np.isfinite(recording.load)
    sums = np.bincount(place[known] - first, weights=recording.load[known], minlength=size)
    counts = np.bincount(place[known] - first, minlength=size)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).reshape(-1, 96)


def _percentile(days: np.ndarray, share: float) -> np.ndarray:
    """Return the percentile of each quarter-hour over the days, (96,), NaN where no day knows it."""
    found = np.full(days.shape[1], np.nan)
    for column in range(days.shape[1]):
        seen = days[np.isfinite(days[:, column]), column]
        if len(seen):
            found[column] = np.percentile(seen, share)
    return found


def _errors(logs: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared error of each day, (D,) each: beside the mean of the others, and their profile of its kind."""
    known = np.isfinite(logs)
    values = np.where(known, logs, 0.0)
    total, left = np.zeros(len(logs)), np.zeros(len(logs))
    for day in range(len(logs)):
        others = np.arange(len(logs)) != day
        alike = others & (kinds == kinds[day])
        count = known[alike].sum(axis=0)
        here = known[day] & (count > 0)
        mean = values[others].sum() / known[others].sum()
        profile = values[alike].sum(axis=0)[here] / count[here]
        # A mean of n days is off by a share of 1/n of the scatter of a day, which is none of the season's fault.
        left[day] = (((logs[day][here] - profile) ** 2) * (count[here] / (count[here] + 1.0))).sum()
        total[day] = ((logs[day][here] - mean) ** 2).sum()
    return total, left


def _explained(total: np.ndarray, left: np.ndarray, draws: np.ndarray, why: str) -> Estimate:
    """Return the share of the variance that is explained."""
    if total.sum() <= 0.0:
        return Estimate(0.0, 0.0, 0.0, "learned", "the load does not move")
    value = float(np.clip(1.0 - left.sum() / total.sum(), 0.0, 1.0))
    drawn = np.clip(1.0 - left[draws].sum(axis=1) / np.maximum(total[draws].sum(axis=1), 1e-12), 0.0, 1.0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(value, min(float(low), value), max(float(high), value), "learned", why)


def lag_fit(recording: Recording, seed: int = 0) -> Estimate:
    """Return by how many seconds changes of the load are read later than those of the replica count.

    Utilization is compared with the load, and, the load's part taken out, with the count of ready replicas: at which
    shift do their changes agree best? Whole readings and the peak of a parabola through the best three; the interval
    is that over pieces of the record drawn anew, and half a reading beside it.
    """
    interval = recording.interval
    series = [recording.load, recording.utilization, recording.ready]
    if not all(np.isfinite(each).any() for each in series):
        return unknown("load, utilization and ready replicas together tell it")
    load, use, ready = (np.log(np.where(each > 0.0, each, np.nan).astype(np.float64)) for each in series)
    full = (recording.utilization >= capacity.SATURATED) | (recording.utilization < capacity.LOWEST)
    use = np.where(full, np.nan, use)
    first = _shift(np.diff(use), np.diff(load), 1.0)
    if first is None:
        return unknown("utilization does not follow the load closely enough")
    ahead, drawn = _peaks(first, seed)
    late = round(ahead)
    shifted = np.full_like(load, np.nan)  # the load as it will be read when its part of the utilization is read
    if late >= 0:
        shifted[: len(load) - late] = load[late:]
    else:
        shifted[-late:] = load[:late]
    second = _shift(np.diff(use - shifted), np.diff(ready), -1.0)
    if second is None:
        return unknown("the replicas were changed too seldom for it")
    behind, others = _peaks(second, seed + 1)
    values = interval * (np.array(drawn) - np.array(others))
    value = interval * (ahead - behind)
    # What is read is a mean over the interval before it, at least; its middle is half of one old.
    value, values = value - 0.5 * interval, values - 0.5 * interval
    low, high = np.quantile(values, (0.025, 0.975))
    low, high = min(float(low), value) - 0.5 * interval, max(float(high), value) + 0.5 * interval
    return Estimate(max(value, 0.0), max(low, 0.0), max(high, 0.0), "learned",
                    "utilization after changes of the load, and of the replicas, tells it")  # fmt: skip


def _shift(one: np.ndarray, other: np.ndarray, sign: float) -> np.ndarray | None:
    """Return the products (24, 2 SHIFTS + 1) of changes in pieces, `other` shifted by -SHIFTS .. SHIFTS readings.

    Column SHIFTS + k pairs one[t] with other[t + k]. None where no shift is clear.
    """
    found = []
    for shift in range(-SHIFTS, SHIFTS + 1):
        moved = np.full_like(other, np.nan)
        if shift >= 0:
            moved[: len(other) - shift] = other[shift:]
        else:
            moved[-shift:] = other[:shift]
        both = np.isfinite(one) & np.isfinite(moved)
        product = np.where(both, one * moved, 0.0)
        found.append([part.sum() for part in np.array_split(product, 24)])
    table = sign * np.array(found).T
    there = np.isfinite(one)
    size = np.sqrt(np.nansum(one[there] ** 2) * np.nansum(other[np.isfinite(other)] ** 2))
    whole = table.sum(axis=0)
    best = int(np.argmax(whole))
    if size <= 0.0 or whole[best] / size < PAIRED or best in (0, 2 * SHIFTS):
        return None
    return np.asarray(table)


def _peaks(table: np.ndarray, seed: int) -> tuple[float, list[float]]:
    """Return the shift where the products of all pieces are highest, and the same of pieces drawn anew."""
    rng = np.random.default_rng(seed)
    return _peak(table.sum(axis=0)), [
        _peak(table[rng.integers(0, len(table), len(table))].sum(axis=0)) for _ in range(DRAWS // 4)
    ]


def _peak(values: np.ndarray) -> float:
    best = int(np.clip(np.argmax(values), 1, len(values) - 2))
    left, middle, right = values[best - 1 : best + 2]
    bend = left - 2.0 * middle + right
    return best - SHIFTS + (0.5 * (left - right) / bend if bend < 0.0 else 0.0)
