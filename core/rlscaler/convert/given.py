"""Values of a Kubernetes object as they were given, each with its place.

Unlike an RLScaler resource, an object of somebody else's is read by the fields that are asked for: what else it has is
its own business. The first thing that is wrong with a field ends the reading of its object (`Refused`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rlscaler.quantities import shown
from rlscaler.resource_schema import entries
from rlscaler.resource_values import QUANTITY, Amount, Kind, Place, Problem, Report, Whole, wrong_kind
from rlscaler.yaml_nodes import Node

_SCALARS = ("text", "number", "whole number", "boolean", "date")
POSITIVE = Amount(QUANTITY, 0, above=True)
_NO = ("0", "f", "F", "false", "FALSE", "False")


class Refused(Exception):  # noqa: N818  (ends the reading of one object; the command makes one error of all)
    """An object holds something that cannot be read; `problems` tell what, each with its place."""

    def __init__(self, *problems: Problem) -> None:
        """Take what is wrong."""
        super().__init__("; ".join(problem.text for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Given:
    """One value and its place; `Refused` is raised by whatever asks it for what it does not hold."""

    node: Node
    place: Place

    def refused(self, text: str) -> Refused:
        """Return what to raise where this value is wrong; text: what was found, and what is expected."""
        return Refused(Problem(self.place, text))

    def get(self, name: str) -> "Given | None":
        """Return a field of this mapping; None where it is left out or null."""
        if self.node.kind != "mapping":
            raise self.refused(wrong_kind(self.node, f"a mapping with {name}"))
        report = Report()
        found = entries(self.node, self.place, report).get(name)
        _raise(report)
        if found is None or found[1].kind == "null":
            return None
        return Given(found[1], self.place.inner(shown(name), found[0]))

    def need(self, name: str, expected: str) -> "Given":
        """Return a field of this mapping that must be there."""
        found = self.get(name)
        if found is None:
            raise Refused(Problem(self.place.inner(name, self.place.line), f"missing; expected {expected}"))
        return found

    def at(self, *path: str) -> "Given | None":
        """Return a field of a field ... of this mapping; None where any of them is left out."""
        found: Given | None = self
        for name in path:
            found = found.get(name) if found is not None else None
        return found

    def names(self) -> list[str]:
        """Return the names of this mapping's fields that are not null, in their order."""
        if self.node.kind != "mapping":
            raise self.refused(wrong_kind(self.node, "a mapping"))
        report = Report()
        found = entries(self.node, self.place, report)
        _raise(report)
        return [name for name, (_, value) in found.items() if value.kind != "null"]

    def items(self, expected: str = "a list") -> Iterator["Given"]:
        """Yield the entries of this list."""
        if self.node.kind != "list":
            raise self.refused(wrong_kind(self.node, expected))
        for index, item in enumerate(self.node.items):
            yield Given(item, Place(f"{self.place.path}[{index}]", item.line or self.place.line))

    def value(self, kind: Kind) -> Any:
        """Return this value as `kind` reads it."""
        report = Report()
        value = kind.read(self.node, self.place, report)
        _raise(report)
        return value

    def scalar(self, expected: str) -> str:
        """Return this value as text, whatever YAML took it for; expected: for the sentence where it is none."""
        if self.node.kind not in _SCALARS:
            raise self.refused(wrong_kind(self.node, expected))
        if not self.node.text.strip():
            raise self.refused(f"empty; expected {expected}")
        return self.node.text

    def is_no(self) -> bool:
        """Tell whether this text is a no to Go (strconv.ParseBool)."""
        return self.node.text in _NO

    def whole(self, low: int) -> int:
        """Return this value as a whole number, `low` or more."""
        return int(self.value(Whole(low)))

    def quantity(self, kind: Amount = POSITIVE) -> str:
        """Return this value as the text of a quantity above 0; a plain number is one, as it is to the API server."""
        node = replace(self.node, kind="text") if self.node.kind == "number" else self.node
        Given(node, self.place).value(kind)
        return self.node.text

    def word(self, words: tuple[str, ...]) -> str:
        """Return this value as one of a few words."""
        text = self.scalar(f"one of {', '.join(words)}")
        if text not in words:
            raise self.refused(f"{shown(text)} is not known; expected one of {', '.join(words)}")
        return text


def _raise(report: Report) -> None:
    if report.problems:
        raise Refused(*report.problems)
