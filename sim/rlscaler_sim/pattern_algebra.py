"""What a pattern is: a load over time with a name, that adds, multiplies and follows another.

A kind of pattern is a function of times, a generator and parameters; `named` puts it among `PATTERNS`. Each part of a
compound draws from its own stream. A number in a compound stands for a steady load, so that kind is here too.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from rlscaler.arrays import Array
from rlscaler.snapshot import LARGEST


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
        return _both(self, as_pattern(other), "+", np.add)

    def __radd__(self, other: float) -> "Pattern":
        """Return this load on top of a steady one."""
        return as_pattern(other) + self

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
        second, at = as_pattern(after), _moment("followed by another at", at)

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


def as_pattern(value: Pattern | float) -> Pattern:
    """Return a pattern as it is, and a number as a steady load."""
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
        low, high = values.get("low", 0.0), values.get("high", float("inf"))
        if low > high:
            raise PatternError(f"{self.name}: low is {low:g}; expected at most high ({high:g})")
        stated = ",".join(f"{k}={_text(v)}" for k, v in values.items() if v != self.parameters[k])
        return Pattern(self.name + (f"({stated})" if stated else ""), partial(self.generate, **values))


def named(generate: Callable[..., Array]) -> Kind:
    """Put a generator (times, rng, *, parameters) among PATTERNS by its own name, with hyphens; return its kind."""
    parameters = list(inspect.signature(generate).parameters.values())[2:]
    name = generate.__name__.replace("_", "-")
    kind = Kind(name, {p.name: float(p.default) for p in parameters}, inspect.getdoc(generate) or "", generate)
    PATTERNS[name] = kind
    return kind


@named
def steady(times: np.ndarray, rng: np.random.Generator, *, level: float = 1.0) -> Array:
    """The same load for ever (classic).

    level: relative rate.
    """
    return np.full(times.shape, level)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a half sentence for an error: the known word that is nearest, and all that are known."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return (f"did you mean {near[0]!r}? " if near else "") + f"expected one of {', '.join(known)}"
