"""Single values of a resource: text, words, whole numbers, amounts with a unit; how each is read and told
to OpenAPI.

Every value is checked on its YAML node, so that a message can say what was written, where, and what YAML
made of it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, NamedTuple, Protocol

from rlscaler import quantities
from rlscaler.quantities import QuantityError, shown
from rlscaler.yaml_nodes import Node

BAD: Final[Any] = object()
"""Stands for a value that was refused; its problem has been reported."""

INT32_MAX = 2**31 - 1
_LONGEST_AMOUNT = 64


class Place(NamedTuple):
    """Where a value stands: its path (spec.minReplicas) and 1-based line (None: it comes from no file)."""

    path: str
    line: int | None

    def inner(self, name: str, line: int | None) -> "Place":
        """Return the place of a field of this one."""
        return Place(f"{self.path}.{name}" if self.path else name, line)


class Problem(NamedTuple):
    """One thing that is wrong. rule: the CEL rule that says so too; None where the schema alone refuses it."""

    place: Place
    text: str
    rule: str | None = None


class TooManyProblems(Exception):  # noqa: N818  (ends the reading of a file; it is not an error of its own)
    """The file has so many problems that reading on serves nobody."""


@dataclass(slots=True)
class Report:
    """Collects the problems of a file, up to `most`; then `TooManyProblems` ends the reading."""

    most: int = 100
    problems: list[Problem] = field(default_factory=list)

    def add(self, place: Place, text: str, rule: str | None = None) -> Any:
        """Add a problem and return `BAD`."""
        if len(self.problems) == self.most:
            raise TooManyProblems
        self.problems.append(Problem(place, text, rule))
        return BAD


class Kind(Protocol):
    """What a value may be."""

    @property
    def expected(self) -> str:
        """The end of the sentence "expected ..."."""
        ...

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema of the value."""
        ...

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the value of a node, or `BAD` where it was refused."""
        ...


def matches(pattern: str, text: str) -> bool:
    """Tell whether `text` matches as RE2 has it, where $ is the end and not also a line break before the end."""
    return re.search(re.sub(r"\$$", r"\\Z", pattern), text) is not None


def wrong_kind(node: Node, expected: str) -> str:
    """Return the sentence for a value of the wrong kind."""
    if node.kind == "null":
        return f"empty; expected {expected}"
    if node.kind in ("mapping", "list"):
        return f"a {node.kind}; expected {expected}"
    if node.kind == "tagged value":
        return f"{shown(node.text)} carries a YAML tag; expected {expected}"
    if node.kind == "text":
        return f"{shown(node.text)} is text; expected {expected}"
    return f"{shown(node.text)} is a {node.kind} to YAML; expected {expected}"


def text_of(node: Node, place: Place, report: Report, expected: str) -> Any:
    """Return the text of a node that must be text, or `BAD`."""
    if node.kind == "text":
        return node.text
    if node.kind in ("boolean", "number", "whole number", "date"):
        return report.add(place, f'{shown(node.text)} is a {node.kind} to YAML; write "{node.text[:64]}" in quotes')
    return report.add(place, wrong_kind(node, expected))


@dataclass(frozen=True, slots=True)
class Text:
    """Text of at most `longest` characters that matches a pattern; `expected` says so to people."""

    expected: str
    pattern: str
    longest: int

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        return {"type": "string", "pattern": self.pattern, "maxLength": self.longest}

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the text."""
        text = text_of(node, place, report, self.expected)
        if text is BAD:
            return BAD
        if len(text) > self.longest:
            return report.add(place, f"{len(text)} characters; expected at most {self.longest}")
        if not text.strip(" \t\r\n"):  # the spaces that the patterns know, not all of Unicode's
            return report.add(place, f"empty text; expected {self.expected}")
        if not matches(self.pattern, text):
            return report.add(place, f"{shown(text)} is not allowed; expected {self.expected}")
        return text


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        """The words."""
        return self.words[0] if len(self.words) == 1 else f"one of {', '.join(self.words)}"

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        return {"type": "string", "enum": list(self.words)}

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the word."""
        if node.kind == "boolean" and node.text in self.words:
            return text_of(node, place, report, self.expected)
        if node.kind != "text":
            return report.add(place, wrong_kind(node, self.expected))
        if node.text not in self.words:
            return report.add(place, f"{shown(node.text)} is not known; expected {self.expected}")
        return node.text


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within bounds, both included."""

    low: int
    high: int = INT32_MAX

    @property
    def expected(self) -> str:
        """The bounds."""
        return f"a whole number, {self._bounds()}"

    def _bounds(self) -> str:
        return f"{self.low} or more" if self.high == INT32_MAX else f"{self.low} to {self.high}"

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        return {"type": "integer", "format": "int32", "minimum": self.low, "maximum": self.high}

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the number as int."""
        if node.kind == "text" and re.fullmatch("-?[0-9]{1,10}", node.text):
            return report.add(place, f'"{node.text}" is text; write {node.text} without quotes')
        if node.kind == "number":
            return report.add(place, f"{shown(node.text)} is not a plain whole number; expected {self.expected}")
        if node.kind == "text":
            return report.add(place, f"{shown(node.text)} is not a number; expected {self.expected}")
        if node.kind != "whole number":
            return report.add(place, wrong_kind(node, self.expected))
        if len(node.text) > 20 or not self.low <= int(node.text) <= self.high:
            below = node.text.startswith("-") or (len(node.text) <= 20 and int(node.text) < self.low)
            bounds = self._bounds() if below else f"{self.low} to {self.high}"
            return report.add(place, f"{shown(node.text)} is out of bounds; expected {bounds}")
        return int(node.text)


class Unit(NamedTuple):
    """How an amount is written. cel: (operator, bound as text) -> the comparison of `self` with it.

    readable: a path in CEL -> whether its value has the form of such an amount. Each rule asks first: an object that is
    stored with another value must still be given a status, and the API server lets pass what was wrong before and is
    not touched, but not a rule that cannot be evaluated.
    """

    noun: str
    parse: Callable[[str], float | Decimal]
    write: Callable[[float], str]
    pattern: str
    whole_too: bool
    cel: Callable[[str, str], str]
    readable: Callable[[str], str]


DURATION = Unit(
    "a duration", quantities.duration, quantities.duration_text, quantities.DURATION_PATTERN, False,
    lambda operator, bound: f"duration(string(self)) {operator} duration('{bound}')",
    lambda path: f"string({path}).matches(r'{quantities.DURATION_PATTERN}')",
)  # fmt: skip
QUANTITY = Unit(
    "a quantity", quantities.exact_quantity, "{:.15g}".format, quantities.QUANTITY_PATTERN, True,
    lambda operator, bound: f"quantity(string(self)).compareTo(quantity('{bound}')) {operator} 0",
    lambda path: f"string({path}).matches(r'{quantities.QUANTITY_PATTERN}')",
)  # fmt: skip
NUMBER = Unit(
    "a number", quantities.number, "{:.15g}".format, quantities.NUMBER_PATTERN, True,
    lambda operator, bound: f"double(self) {operator} {float(bound)!r}",
    lambda path: f"string({path}).matches(r'^-?{quantities.NUMBER_PATTERN.removeprefix('^')}')",
)  # fmt: skip
HAS_UNIT: Final = r"!string(self).matches(r'^[0-9]+(\.[0-9]+)?$')"
"""The rule that refuses a duration without a unit, 15 for 15s: a schema that did so could not say what to write."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A number with a unit, within bounds; `above` and `below` leave the bound itself out.

    Read as float, in seconds for durations. The API server takes whole numbers or text for quantities and
    plain numbers, never bare fractions, so neither does this.
    """

    unit: Unit
    low: float
    high: float | None = None
    above: bool = False
    below: bool = False

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        low = f"above {self.unit.write(self.low)}" if self.above else f"at least {self.unit.write(self.low)}"
        if self.high is None:
            return low
        return f"{low} and {'below' if self.below else 'at most'} {self.unit.write(self.high)}"

    @property
    def expected(self) -> str:
        """The unit and the bounds."""
        return f"{self.unit.noun} {self.bounds}"

    @property
    def rule(self) -> str:
        """The bounds in CEL."""
        parts = [self.unit.cel(">" if self.above else ">=", self.unit.write(self.low))]
        if self.high is not None:
            parts.append(self.unit.cel("<" if self.below else "<=", self.unit.write(self.high)))
        return " && ".join([self.unit.readable("self"), *parts])

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        rules = [{"rule": self.rule, "message": f"expected {self.expected}"}]
        if not self.unit.whole_too:
            told = "string(self) + ' has no unit; write ' + string(self) + 's if seconds are meant'"
            rules.append({"rule": HAS_UNIT, "message": f"expected {self.expected}", "messageExpression": told})
        return {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "pattern": self.unit.pattern,
            "maxLength": _LONGEST_AMOUNT,
            "x-kubernetes-validations": rules,
        }

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the amount as float."""
        if node.kind not in ("text", "whole number", "number"):
            return report.add(place, wrong_kind(node, self.expected))
        if node.kind == "number" and self.unit.whole_too:
            return report.add(place, f'{shown(node.text)} is a bare fraction; write "{node.text[:64]}" in quotes')
        if node.kind == "whole number" and (len(node.text) > 20 or not -(2**63) <= int(node.text) < 2**63):
            return report.add(place, f"{shown(node.text)} is out of bounds; expected {self.bounds}")
        try:
            value = self.unit.parse(node.text)
        except QuantityError as error:
            rule = HAS_UNIT if node.text.isdecimal() else self.rule
            return report.add(place, str(error), rule if node.kind == "whole number" else None)
        low = value > self.low if self.above else value >= self.low
        high = self.high is None or (value < self.high if self.below else value <= self.high)
        if not (low and high):
            # The pattern of a plain number refuses a sign already.
            by_rule = node.kind == "whole number" or matches(self.unit.pattern, node.text)
            return report.add(
                place, f"{node.text} is out of bounds; expected {self.bounds}", self.rule if by_rule else None
            )
        return float(value)
