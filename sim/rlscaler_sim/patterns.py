"""Made-up load: small generators with a name, that add, multiply and follow one another (see `pattern_algebra`).

Rates are relative, about 1 at the 95th percentile, and become requests/s when the load is realised. Times are
seconds; 0 is Monday, 00:00. A pattern that uses chance draws on a grid of its own from the first time on, in
order: a longer run begins with the shorter one, and finer times show the same course.

The six classic patterns (steady, sine-curve, sinusoidal, spike, poisson, random-walk) are those of the
gym-scaling environment and its descendants, with its steps of 300 s read as decisions of 15 s.
"""

import numpy as np

from rlscaler.arrays import Array
from rlscaler_sim import pattern_parser
from rlscaler_sim.pattern_algebra import PATTERNS, Kind, Pattern, PatternError, named, nearest, steady

__all__ = ["DAY", "HOUR", "PATTERNS", "WEEK", "Kind", "Pattern", "PatternError", "ar1", "nearest", "parse", "steady"]

HOUR = 3600.0
DAY = 86400.0
WEEK = 7 * DAY
_CELL = 15.0  # seconds of the grid on which random events fall
_MOST_CELLS = 2**26  # draws of one pattern that still fit into memory


def ar1(rng: np.random.Generator, n: int, step: float, correlation: float) -> np.ndarray:
    """Return n values of a stationary AR(1) process with mean 0 and variance 1, (n,) float64.

    step: seconds between values. correlation: seconds after which the autocorrelation has fallen to 1/e.
    The recursion x[t] = a x[t-1] + e[t] is summed by doubling: x <- x + a^k x[t-k] for k = 1, 2, 4, ... until
    a^k no longer counts. No loop over time, no growing power, and the first values are the same for any n.
    """
    x = rng.standard_normal(n)
    a = float(np.exp(-step / correlation))
    x[1:] *= np.sqrt(1.0 - a * a)
    k = 1
    while k < n and a**k > 1e-12:
        x[k:] += a**k * x[:-k]
        k *= 2
    return x


def _cells(times: np.ndarray, step: float) -> tuple[np.ndarray, int]:
    """Return the cell of `step` seconds in which each time lies, counted from the first, and how many."""
    cell = np.floor(times / step)
    if cell[-1] - cell[0] >= _MOST_CELLS:
        span = times[-1] - times[0]
        raise PatternError(f"a pattern draws every {step:g} s over {span:g} s; expected a longer step or shorter run")
    index = (cell - cell[0]).astype(np.int64)
    return index, int(index[-1]) + 1


def _wave(times: np.ndarray, period: float) -> Array:
    return np.sin(2.0 * np.pi * times / period)


def _eased(part: np.ndarray) -> Array:
    """Return a smooth course from 0 to 1 for a part that may lie outside of 0 to 1."""
    part = np.clip(part, 0.0, 1.0)
    return part * part * (3.0 - 2.0 * part)


def _surge(after: np.ndarray, rise: float, hold: float, decay: float) -> Array:
    """Return 0 before 0 s, a smooth rise to 1, a hold, and an exponential fall with that time constant."""
    down = np.maximum(after - rise - hold, 0.0) / max(decay, 1e-3)
    return np.where(after >= 0.0, _eased(after / max(rise, 1e-3)) * np.exp(-down), 0.0)


@named
def sine_curve(
    times: np.ndarray,
    rng: np.random.Generator,
    *,
    period: float = 9420.0,
    low: float = 0.0,
    high: float = 1.0,
) -> Array:
    """One sine, rising through its middle at 0 (classic: 628 decisions).

    period: seconds. low, high: relative rates that it swings between.
    """
    return low + (high - low) * 0.5 * (1.0 + _wave(times, period))


@named
def sinusoidal(
    times: np.ndarray, rng: np.random.Generator, *, long: float = 21600.0, middle: float = 5400.0,
    short: float = 900.0, low: float = 0.1, high: float = 1.1,
) -> Array:  # fmt: skip
    """Three overlapping cycles of 60 %, 30 % and 10 % of the swing (classic).

    long, middle, short: seconds of a cycle. low, high: relative rates that are never left.
    """
    swing = 0.6 * _wave(times, long) + 0.3 * _wave(times, middle) + 0.1 * _wave(times, short)
    return low + (high - low) * np.clip(0.5 * (1.0 + swing), 0.0, 1.0)


@named
def spike(
    times: np.ndarray, rng: np.random.Generator, *, every: float = 7500.0, width: float = 300.0,
    base: float = 1.0, height: float = 3.0,
) -> Array:  # fmt: skip
    """Triangular spikes on a steady base, the first after half of `every` (classic: 20 in 500 decisions).

    every: seconds from spike to spike. width: seconds of a spike. base: relative rate between spikes.
    height: the peak as a multiple of the base.
    """
    off = np.abs(np.mod(times, every) - 0.5 * every)
    return base * (1.0 + (height - 1.0) * np.clip(1.0 - off / (0.5 * width), 0.0, 1.0))


@named
def poisson(
    times: np.ndarray, rng: np.random.Generator, *, level: float = 0.85, events: float = 100.0,
    step: float = 15.0,
) -> Array:  # fmt: skip
    """A steady load counted in Poisson numbers (classic).

    level: mean relative rate. events: mean count of a step; the noise is 1 / sqrt(events). step: seconds.
    """
    index, n = _cells(times, step)
    return level / events * rng.poisson(events, n)[index]


@named
def random_walk(
    times: np.ndarray, rng: np.random.Generator, *, low: float = 0.1, high: float = 1.05, step: float = 60.0,
    move: float = 0.03,
) -> Array:  # fmt: skip
    """A random walk between two walls that reflect it, from the middle on (classic: random).

    low, high: the walls, relative rates. step: seconds of a step. move: standard deviation of a step, as a
    share of the distance between the walls.
    """
    index, n = _cells(times, step)
    free = 0.5 + move * np.cumsum(rng.standard_normal(n + 1))
    walk = np.abs(np.mod(free + 1.0, 2.0) - 1.0)  # folding the free walk reflects it at 0 and 1
    part = times / step - np.floor(times / step)
    return low + (high - low) * (walk[index] + part * (walk[index + 1] - walk[index]))


@named
def jitter(
    times: np.ndarray, rng: np.random.Generator, *, spread: float = 0.05, correlation: float = 60.0,
    step: float = 15.0,
) -> Array:  # fmt: skip
    """Noise of mean 1 to multiply a load with: exp(x - var/2), x an AR(1) process.

    spread: standard deviation of x, a relative rate. correlation: its correlation time in seconds.
    step: seconds that a value holds.
    """
    index, n = _cells(times, step)
    return np.exp(spread * ar1(rng, n, step, correlation) - 0.5 * spread**2)[index]


@named
def ramp(
    times: np.ndarray, rng: np.random.Generator, *, begin: float = 0.2, end: float = 1.0, at: float = 1800.0,
    duration: float = 3600.0,
) -> Array:  # fmt: skip
    """A straight change from one level to another, which stays.

    begin, end: relative rates. at: second at which the change starts. duration: seconds that it takes.
    """
    return begin + (end - begin) * np.clip((times - at) / duration, 0.0, 1.0)


@named
def flash_crowd(
    times: np.ndarray, rng: np.random.Generator, *, at: float = 5400.0, height: float = 1.0,
    rise: float = 120.0, hold: float = 600.0, decay: float = 900.0,
) -> Array:  # fmt: skip
    """A crowd that comes within minutes and goes slowly; nothing else, so add it to a load.

    at: second at which it starts. height: relative rate of its peak. rise: seconds to the peak. hold: seconds
    at the peak. decay: seconds in which it falls to 1/e after that.
    """
    return height * _surge(times - at, rise, hold, decay)


@named
def idle_then_spike(
    times: np.ndarray, rng: np.random.Generator, *, idle: float = 0.02, height: float = 1.0,
    at: float = 7200.0, rise: float = 60.0, hold: float = 1800.0, decay: float = 300.0,
    every: float = 14400.0,
) -> Array:  # fmt: skip
    """Hours of next to nothing, then full load within a minute, over and over.

    idle: relative rate between spikes. height: relative rate that a spike adds. at: seconds of idleness
    before a spike. rise, hold: seconds of the rise and at the peak. decay: seconds in which it falls to 1/e.
    every: seconds from one spike to the next.
    """
    return idle + height * _surge(np.mod(times, every) - at, rise, hold, decay)


@named
def daily(
    times: np.ndarray, rng: np.random.Generator, *, low: float = 0.25, high: float = 1.0,
    peak: float = 50400.0, sharpness: float = 1.0,
) -> Array:  # fmt: skip
    """A smooth day, every day the same.

    low, high: relative rates of night and day. peak: second of the day with the highest load. sharpness: 1 is
    a cosine, above it the peak is narrower, below it broader (no unit).
    """
    day = np.clip(0.5 * (1.0 + np.cos(2.0 * np.pi * (times - peak) / DAY)), 0.0, 1.0)
    return low + (high - low) * day**sharpness


@named
def weekly(
    times: np.ndarray, rng: np.random.Generator, *, low: float = 0.25, high: float = 1.05,
    peak: float = 50400.0, weekend: float = 0.5,
) -> Array:  # fmt: skip
    """A daily curve that is lower at the weekend (day 0 is a Monday).

    low, high: relative rates of night and day. peak: second of the day with the highest load. weekend: the
    load of Saturday and Sunday as a multiple of that of other days; the change takes six hours at midnight.
    """
    day = daily(low=low, high=high, peak=peak).rates(times, rng)
    at = DAY * np.array([0.0, 0.125, 4.875, 5.125, 6.875, 7.0])
    off = np.array([0.5, 0.0, 0.0, 1.0, 1.0, 0.5])
    return day * (1.0 + (weekend - 1.0) * np.interp(np.mod(times, WEEK), at, off))


@named
def level_shift(
    times: np.ndarray, rng: np.random.Generator, *, low: float = 0.2, high: float = 1.1, every: float = 7200.0
) -> Array:
    """A load that jumps to another level at random moments and stays there.

    low, high: relative rates between which the levels lie, evenly in the logarithm (a low of 0 counts as 1 %
    of high). every: mean seconds from jump to jump.
    """
    index, n = _cells(times, _CELL)
    jump, place = rng.random((n, 2)).T
    which = np.cumsum(jump < -np.expm1(-_CELL / every))
    least = max(low, 0.01 * high)
    level = np.power(high / least, place) if high > 0.0 else np.zeros(n)
    return least * level[which - which[0]][index]


@named
def launch(
    times: np.ndarray, rng: np.random.Generator, *, at: float = 3600.0, rise: float = 600.0,
    decay: float = 7200.0, before: float = 0.02, peak: float = 1.2, plateau: float = 0.5,
) -> Array:  # fmt: skip
    """Next to nothing, then a launch: a steep rise, and a slow fall to a plateau.

    at: second of the launch. rise: seconds to the peak. decay: seconds in which the excess falls to 1/e.
    before, peak, plateau: relative rates.
    """
    up = _eased((times - at) / max(rise, 1e-3))
    fallen = -np.expm1(-np.maximum(times - at - rise, 0.0) / max(decay, 1e-3))
    return before * (1.0 - up) + up * (peak * (1.0 - fallen) + plateau * fallen)


@named
def on_off(
    times: np.ndarray, rng: np.random.Generator, *, on: float = 600.0, off: float = 1200.0, high: float = 1.0,
    low: float = 0.0, spread: float = 1.0,
) -> Array:  # fmt: skip
    """Work that is on or off.

    on, off: seconds of work and seconds without in each cycle. high, low: relative rates of either.
    spread: share of the time off by which the start of the work may move; 0 is clockwork, 1 the most.
    """
    index, n = _cells(times, on + off)
    begin = (min(spread, 1.0) * off * rng.random(n))[index]
    into = np.mod(times, on + off)
    return np.where((into >= begin) & (into < begin + on), high, low)


@named
def batch(
    times: np.ndarray, rng: np.random.Generator, *, every: float = 1800.0, width: float = 300.0,
    size: float = 0.75, base: float = 0.05,
) -> Array:  # fmt: skip
    """Batches that arrive at random moments (Poisson), of random size (exponential), each at an even rate.

    every: mean seconds between arrivals. width: seconds that a batch lasts. size: mean relative rate of a
    batch. base: relative rate of everything else.
    """
    index, n = _cells(times, _CELL)
    one, two = rng.spawn(2)
    arrived = np.cumsum(two.standard_gamma(one.poisson(_CELL / every, n)))
    lasts = max(1, round(width / _CELL))
    running = arrived - np.concatenate((np.zeros(min(lasts, n)), arrived[:-lasts]))
    return base + size * np.maximum(running, 0.0)[index]


@named
def working_day(
    times: np.ndarray, rng: np.random.Generator, *, night: float = 0.12, lunch: float = 0.75,
    evening: float = 0.45, crowd: float = 0.6, crowd_at: float = 55800.0, crowd_spread: float = 2700.0,
    noise: float = 0.03,
) -> Array:  # fmt: skip
    """A working day: night, morning rise, lunch dip, afternoon, evening tail, noise, and a flash crowd a day.

    night, lunch, evening: relative rates; morning and afternoon are about 1. crowd: relative rate that the
    flash crowd adds. crowd_at: second of the day at which it comes. crowd_spread: seconds by which it may
    come earlier or later. noise: relative standard deviation of an AR(1) noise with 60 s correlation time.
    """
    midnight = 0.5 * (night + evening)
    hours = np.array([0.0, 2.5, 6.0, 9.75, 11.5, 12.75, 14.25, 16.5, 18.75, 21.0, 24.0])
    level = np.array([midnight, night, night, 0.95, 1.0, lunch, 0.98, 0.92, evening, 1.1 * evening, midnight])
    hour = np.mod(times, DAY) / HOUR
    last = np.searchsorted(hours[1:-1], hour, side="right")
    part = _eased((hour - hours[last]) / (hours[last + 1] - hours[last]))
    one, two = rng.spawn(2)
    day, n = _cells(times, DAY)
    start = crowd_at + crowd_spread * (2.0 * one.random(n) - 1.0)
    surge = _surge(np.mod(times, DAY) - start[day], rise=120.0, hold=480.0, decay=600.0)
    curve = level[last] + part * (level[last + 1] - level[last]) + crowd * surge
    return curve * jitter(spread=noise).rates(times, two)


def parse(text: str) -> Pattern:
    """Return the pattern of an expression: names with parameters, +, *, numbers, .then, .shifted and .scaled.

    A number may carry a unit of time: 90s, 15m, 2h, 1d. Raises PatternError for what it does not know, naming the
    nearest that it does.
    """
    return pattern_parser.parse(text, PATTERNS)
