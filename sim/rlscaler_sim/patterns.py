"""Made-up load: small generators with a name, that add, multiply and follow one another.

Rates are relative, about 1 at the 95th percentile, and become requests/s when the load is realised. Times are
seconds; 0 is Monday, 00:00. A pattern that uses chance draws on a grid of its own from the first time on, in
order: a longer run begins with the shorter one, and finer times show the same course. Each part of a compound
draws from its own stream.

The six classic patterns (steady, sine-curve, sinusoidal, spike, poisson, random-walk) are those of the
gym-scaling environment and its descendants, with its steps of 300 s read as decisions of 15 s.
"""

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from rlscaler.arrays import Array
from rlscaler.snapshot import LARGEST

HOUR = 3600.0
DAY = 86400.0
WEEK = 7 * DAY
_CELL = 15.0  # seconds of the grid on which random events fall
_MOST_CELLS = 2**26  # draws of one pattern that still fit into memory


class PatternError(ValueError):
    """A pattern cannot be made from what was given; the message names the value and what is expected."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A load over time. Two patterns are equal where their expressions are.

    name: the expression, which `parse` reads back. draw: times, generator -> rates. atom: the expression
    needs no brackets inside another.
    """

    name: str
    draw: Callable[[np.ndarray, np.random.Generator], Array] = field(compare=False, repr=False)
    atom: bool = field(default=True, compare=False, repr=False)

    def rates(self, times: np.ndarray, rng: np.random.Generator) -> Array:
        """Return the rate at each of the rising `times`.

        times: (T,) seconds. rng: the source of chance. Returns (T,) float64, relative, finite, 0 or more.
        """
        return self.draw(times, rng) if times.size else np.zeros(0)

    def __str__(self) -> str:
        """Return the expression."""
        return self.name

    def __add__(self, other: "Pattern | float") -> "Pattern":
        """Return one load on top of another."""
        return _both(self, _pattern(other), "+", np.add)

    def __radd__(self, other: float) -> "Pattern":
        """Return this load on top of a steady one."""
        return _pattern(other) + self

    def __mul__(self, other: "Pattern | float") -> "Pattern":
        """Return this load modulated by another, or scaled by a number."""
        return _both(self, other, "*", np.multiply) if isinstance(other, Pattern) else self.scaled(other)

    def __rmul__(self, other: float) -> "Pattern":
        """Return this load scaled by a number."""
        return self.scaled(other)

    def scaled(self, factor: float) -> "Pattern":
        """Return this load times a factor of 0 or more."""
        if not 0.0 <= factor <= LARGEST:
            raise PatternError(f"a load is multiplied by {factor:g}; expected a number from 0 to {LARGEST:g}")
        return Pattern(f"{_text(factor)}*{_operand(self)}", lambda t, rng: factor * self.rates(t, rng), atom=False)

    def shifted(self, seconds: float) -> "Pattern":
        """Return this load, later by `seconds` (earlier where negative)."""
        seconds = _moment("shifted by", seconds)
        return Pattern(f"{_operand(self)}.shifted({_text(seconds)})", lambda t, rng: self.rates(t - seconds, rng))

    def then(self, after: "Pattern | float", at: float) -> "Pattern":
        """Return this load until `at` seconds, and from there `after`, whose own clock starts at 0 there."""
        second, at = _pattern(after), _moment("followed by another at", at)

        def draw(times: np.ndarray, rng: np.random.Generator) -> Array:
            one, two = rng.spawn(2)
            cut = int(np.searchsorted(times, at))
            return np.concatenate((self.rates(times[:cut], one), second.rates(times[cut:] - at, two)))

        return Pattern(f"{_operand(self)}.then({second},at={_text(at)})", draw)


def _both(first: Pattern, second: Pattern, symbol: str, join: Callable[[Array, Array], Array]) -> Pattern:
    def draw(times: np.ndarray, rng: np.random.Generator) -> Array:
        one, two = rng.spawn(2)
        return join(first.rates(times, one), second.rates(times, two))

    return Pattern(f"{_operand(first)}{symbol}{_operand(second)}", draw, atom=False)


def _pattern(value: Pattern | float) -> Pattern:
    return value if isinstance(value, Pattern) else steady(level=float(value))


def _text(number: float) -> str:
    return repr(float(number)).removesuffix(".0")


def _operand(pattern: Pattern) -> str:
    return pattern.name if pattern.atom else f"({pattern.name})"


def _moment(what: str, seconds: float) -> float:
    if not np.isfinite(seconds):
        raise PatternError(f"a load is {what} {seconds:g}; expected a number of seconds")
    return float(seconds)


PATTERNS: dict[str, "Kind"] = {}
"""Every named pattern."""

_ABOVE_ZERO = frozenset(
    ("correlation", "duration", "events", "every", "long", "middle", "on", "period", "short", "step", "width")
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A named kind of pattern; called with parameters (all have defaults) it gives a Pattern.

    name: kebab-case. parameters: name -> default. description: what it is, and each parameter with its unit.
    """

    name: str
    parameters: Mapping[str, float]
    description: str
    generate: Callable[..., Array] = field(repr=False)

    def __call__(self, **given: float) -> Pattern:
        """Return the pattern with these parameters.

        Raises PatternError where one is unknown, negative or not finite, or 0 where that has no meaning.
        """
        for key, value in given.items():
            if key not in self.parameters:
                raise PatternError(f"{self.name} has no parameter {key!r}; {nearest(key, self.parameters)}")
            least = 1e-3 if key in _ABOVE_ZERO else 0.0
            if not isinstance(value, int | float) or not least <= value <= LARGEST:
                shown = f"{value:g}" if isinstance(value, int | float) else str(value)
                raise PatternError(f"{self.name}: {key} is {shown}; expected a number from {least:g} to {LARGEST:g}")
        values = {key: float(given.get(key, default)) for key, default in self.parameters.items()}
        if values.get("low", 0.0) > values.get("high", np.inf):
            raise PatternError(f"{self.name}: low is {values['low']:g}; expected at most high ({values['high']:g})")
        stated = ",".join(f"{k}={_text(v)}" for k, v in values.items() if v != self.parameters[k])
        return Pattern(self.name + (f"({stated})" if stated else ""), partial(self.generate, **values))


def _named(generate: Callable[..., Array]) -> Kind:
    parameters = list(inspect.signature(generate).parameters.values())[2:]
    name = generate.__name__.replace("_", "-")
    kind = Kind(name, {p.name: float(p.default) for p in parameters}, inspect.getdoc(generate) or "", generate)
    PATTERNS[name] = kind
    return kind


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


@_named
def steady(times: np.ndarray, rng: np.random.Generator, *, level: float = 1.0) -> Array:
    """The same load for ever (classic).

    level: relative rate.
    """
    return np.full(times.shape, level)


@_named
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


@_named
def sinusoidal(
    times: np.ndarray, rng: np.random.Generator, *, long: float = 21600.0, middle: float = 5400.0,
    short: float = 900.0, low: float = 0.1, high: float = 1.1,
) -> Array:  # fmt: skip
    """Three overlapping cycles of 60 %, 30 % and 10 % of the swing (classic).

    long, middle, short: seconds of a cycle. low, high: relative rates that are never left.
    """
    swing = 0.6 * _wave(times, long) + 0.3 * _wave(times, middle) + 0.1 * _wave(times, short)
    return low + (high - low) * np.clip(0.5 * (1.0 + swing), 0.0, 1.0)


@_named
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


@_named
def poisson(
    times: np.ndarray, rng: np.random.Generator, *, level: float = 0.85, events: float = 100.0,
    step: float = 15.0,
) -> Array:  # fmt: skip
    """A steady load counted in Poisson numbers (classic).

    level: mean relative rate. events: mean count of a step; the noise is 1 / sqrt(events). step: seconds.
    """
    index, n = _cells(times, step)
    return level / events * rng.poisson(events, n)[index]


@_named
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


@_named
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


@_named
def ramp(
    times: np.ndarray, rng: np.random.Generator, *, begin: float = 0.2, end: float = 1.0, at: float = 1800.0,
    duration: float = 3600.0,
) -> Array:  # fmt: skip
    """A straight change from one level to another, which stays.

    begin, end: relative rates. at: second at which the change starts. duration: seconds that it takes.
    """
    return begin + (end - begin) * np.clip((times - at) / duration, 0.0, 1.0)


@_named
def flash_crowd(
    times: np.ndarray, rng: np.random.Generator, *, at: float = 5400.0, height: float = 1.0,
    rise: float = 120.0, hold: float = 600.0, decay: float = 900.0,
) -> Array:  # fmt: skip
    """A crowd that comes within minutes and goes slowly; nothing else, so add it to a load.

    at: second at which it starts. height: relative rate of its peak. rise: seconds to the peak. hold: seconds
    at the peak. decay: seconds in which it falls to 1/e after that.
    """
    return height * _surge(times - at, rise, hold, decay)


@_named
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


@_named
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


@_named
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


@_named
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


@_named
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


@_named
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


@_named
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


@_named
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


_UNITS = {"s": 1.0, "m": 60.0, "h": HOUR, "d": DAY}
_FORM = "such as daily+flash-crowd, spike(every=1h,height=3) or 0.5*daily.then(steady,at=6h)"
_METHODS = {"then": ("after", "at"), "shifted": ("seconds",), "scaled": ("factor",)}


def parse(text: str) -> Pattern:
    """Return the pattern of an expression: names with parameters, +, *, numbers, .then, .shifted and .scaled.

    A number may carry a unit of time: 90s, 15m, 2h, 1d. Raises PatternError for what it does not know, naming
    the nearest that it does.
    """
    source = re.sub(r"(?<=[a-z])-(?=[a-z])", "_", text.strip().lower())
    source = re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)([smhd])\b", lambda m: repr(float(m[1]) * _UNITS[m[2]]), source)
    if len(source) > 500:
        raise PatternError(f"pattern {text[:40]!r}... is too long; expected at most 500 characters")
    try:
        return _pattern(_built(ast.parse(source, mode="eval").body, text))
    except PatternError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        raise PatternError(f"pattern {text!r} cannot be read; expected an expression {_FORM}") from None


def _built(node: ast.expr, text: str) -> Any:
    """Return what an expression stands for: a Pattern, or a number."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -float(value)
        case ast.BinOp(left=left, op=ast.Add() | ast.Mult() as op, right=right):
            one, two = _built(left, text), _built(right, text)
            return one + two if isinstance(op, ast.Add) else one * two
        case ast.Name(id=name):
            return _kind(name)()
        case ast.Call(func=ast.Name(id=name), args=[], keywords=given):
            return _kind(name)(**{k.arg or "**": _built(k.value, text) for k in given})
        case ast.Call(func=ast.Attribute(value=inner, attr=attr), args=args, keywords=given) if attr in _METHODS:
            values = dict(zip(_METHODS[attr], (_built(a, text) for a in args), strict=False))
            values |= {k.arg or "**": _built(k.value, text) for k in given}
            numbers = all(isinstance(v, float) for k, v in values.items() if k != "after")
            if numbers and set(values) == set(_METHODS[attr]) and len(args) + len(given) == len(values):
                return getattr(_pattern(_built(inner, text)), attr)(**values)
            raise PatternError(
                f"pattern {text!r} misuses .{attr}; "
                "expected .then(PATTERN,at=SECONDS), .shifted(SECONDS) or .scaled(FACTOR)"
            )
        case _:
            raise PatternError(f"pattern {text!r} has a part that is no pattern; expected an expression {_FORM}")


def _kind(name: str) -> Kind:
    name = name.replace("_", "-")
    if name not in PATTERNS:
        raise PatternError(f"no pattern is called {name!r}; {nearest(name, PATTERNS)}")
    return PATTERNS[name]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a half sentence for an error: the known word that is nearest, and all that are known."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return (f"did you mean {near[0]!r}? " if near else "") + f"expected one of {', '.join(known)}"
