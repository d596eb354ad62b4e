"""What a field of a resource may be, stated once.

A table of `Field` is read in two ways: `Block.read` checks YAML nodes against it and makes typed objects,
and `Block.schema` turns it into a structural OpenAPI schema for the CRD. What such a schema cannot say
(bounds of durations, one field against another) is a CEL rule beside its Python twin; every `Problem` names
the rule it comes from, or none where the schema itself refuses the value.

Source of the limits of a schema: "Specifying a structural schema" and "Validation rules" in the Kubernetes
page "Extend the Kubernetes API with CustomResourceDefinitions".
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rlscaler.quantities import shown
from rlscaler.resource_values import BAD, Kind, Place, Report, Text, matches, text_of, wrong_kind
from rlscaler.yaml_nodes import Node, from_object

_NULL: Final = Node("null")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a block: its name in YAML, what it may be, and what it means.

    default: what stands where the field is left out, as it would be written; None = nothing.
    attribute: its name in Python.
    """

    name: str
    kind: Kind
    description: str
    required: bool = False
    default: Any = None

    @property
    def attribute(self) -> str:
        """The field's name in Python: minReplicas becomes min_replicas."""
        return re.sub("([A-Z])", lambda m: "_" + m[1].lower(), self.name)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a schema cannot say, once for the API server (cel) and once for here (check).

    check: the block's values by attribute -> what is wrong, as a sentence, or None. It is asked only where
    all the values of `needs` could be read. blames: the path of the field whose line the problem is given.
    """

    cel: str
    message: str
    check: Callable[[Mapping[str, Any]], str | None]
    needs: tuple[str, ...]
    blames: str = ""


@dataclass(frozen=True, slots=True)
class TextMap:
    """A mapping of text to text; read as a dict, without entries that are null.

    keys, values: what they must be; the schema does not say it, so only for what the API server checks by itself.
    """

    most: int
    longest: int
    keys: Text | None = None
    values: Text | None = None
    expected: str = "a mapping of text to text"

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        value = {"type": "string", "maxLength": self.longest}
        return {"type": "object", "additionalProperties": value, "maxProperties": self.most}

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the mapping."""
        if node.kind != "mapping":
            return report.add(place, wrong_kind(node, self.expected))
        count = sum(value.kind != "null" for _, value in node.entries)
        if count > self.most:
            return report.add(place, f"{count} entries; expected at most {self.most}")
        out: dict[str, Any] = {}
        for name, (line, value) in entries(node, place, report).items():
            if value.kind == "null":
                continue
            inner = place.inner(shown(name), line)
            if self.keys and not matches(self.keys.pattern, name):
                report.add(inner, f"the key is not allowed; expected {self.keys.expected}")
            text = text_of(value, inner, report, "text")
            if text is not BAD and len(text) > self.longest:
                text = report.add(inner, f"{len(text)} characters; expected at most {self.longest}")
            elif text is not BAD and self.values and not matches(self.values.pattern, text):
                text = report.add(inner, f"{shown(text)} is not allowed; expected {self.values.expected}")
            out[name] = text
        return BAD if any(value is BAD for value in out.values()) else out


@dataclass(frozen=True, slots=True)
class Items:
    """A list of one kind of value, not empty; read as a tuple."""

    item: Kind
    most: int

    @property
    def expected(self) -> str:
        """The number of entries."""
        return f"a list of 1 to {self.most} entries"

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        items = {"type": "array", "items": self.item.schema(), "minItems": 1, "maxItems": self.most}
        return items | {"x-kubernetes-list-type": "atomic"}

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the entries."""
        if node.kind != "list":
            return report.add(place, wrong_kind(node, self.expected))
        if not 1 <= len(node.items) <= self.most:
            return report.add(place, f"{len(node.items)} entries; expected {self.expected}")
        values = [
            self.item.read(item, Place(f"{place.path}[{i}]", item.line or place.line), report)
            for i, item in enumerate(node.items)
        ]
        return BAD if BAD in values else tuple(values)


@dataclass(frozen=True, slots=True)
class Ignored:
    """What the API server keeps beside a resource (status, managedFields): any value, read as None."""

    expected: str = "anything"

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return nothing."""
        return None


@dataclass(frozen=True, slots=True)
class Block:
    """A mapping with known fields. build: makes the typed object from the values by attribute."""

    fields: tuple[Field, ...]
    build: Callable[..., Any]
    rules: tuple[Rule, ...] = ()

    @property
    def expected(self) -> str:
        """The names of the fields."""
        names = [f.name for f in self.fields if not isinstance(f.kind, Ignored)]
        return f"a mapping with {', '.join(names)}"

    def schema(self) -> dict[str, Any]:
        """Return the OpenAPI schema."""
        out: dict[str, Any] = {"type": "object"}
        if required := [f.name for f in self.fields if f.required]:
            out["required"] = required
        out["properties"] = {}
        for each in self.fields:
            default = {} if each.default is None else {"default": each.default}
            out["properties"][each.name] = {"description": each.description} | each.kind.schema() | default
        if self.rules:
            out["x-kubernetes-validations"] = [{"rule": r.cel, "message": r.message} for r in self.rules]
        return out

    def read(self, node: Node, place: Place, report: Report) -> Any:
        """Return the built object."""
        if node.kind != "mapping":
            return report.add(place, wrong_kind(node, self.expected))
        before = len(report.problems)
        written = entries(node, place, report)
        known = [f.name for f in self.fields if not isinstance(f.kind, Ignored)]
        for name, (line, _) in written.items():
            if not any(name == f.name for f in self.fields):
                report.add(place.inner(shown(name), line), f"unknown field; {_suggestion(name, known)}")
        values = {f.attribute: self._value(f, written, place, report) for f in self.fields}
        for rule in self.rules:
            if all(values[name] is not BAD for name in rule.needs) and (text := rule.check(values)):
                report.add(_blamed(rule.blames, written, place), text, rule.cel)
        if len(report.problems) > before:
            return BAD
        return self.build(**{f.attribute: values[f.attribute] for f in self.fields if not isinstance(f.kind, Ignored)})

    def _value(self, each: Field, written: dict[str, tuple[int | None, Node]], place: Place, report: Report) -> Any:
        """Return the value of a field; null counts as left out, which is what the API server makes of it."""
        line, value = written.get(each.name, (place.line, _NULL))
        inner = place.inner(each.name, line)
        if value.kind != "null":
            return each.kind.read(value, inner, report)
        if each.required:
            return report.add(inner, f"missing; expected {each.kind.expected}")
        if each.default is None:
            return None
        return each.kind.read(from_object(each.default), inner, report)


def _blamed(path: str, written: dict[str, tuple[int | None, Node]], place: Place) -> Place:
    """Return the place of a field by its path from `place`, with the line of the innermost block written."""
    for name in path.split(".") if path else ():
        line, node = written.get(name, (place.line, _NULL))
        place = place.inner(name, line)
        written = {key.text: (key.line, value) for key, value in node.entries}
    return place


def entries(node: Node, place: Place, report: Report) -> dict[str, tuple[int | None, Node]]:
    """Return the entries of a mapping by name, with their lines; wrong and repeated keys are reported."""
    out: dict[str, tuple[int | None, Node]] = {}
    for key, value in node.entries:
        line = key.line or place.line
        if key.kind in ("mapping", "list", "null", "tagged value"):
            report.add(Place(place.path, line), f"a key is a {key.kind}; expected the name of a field")
        elif key.kind == "merge key":
            report.add(Place(place.path, line), "a merge key (<<) is not read here; write the fields out")
        elif key.kind != "text":
            text = f'the key is a {key.kind} to YAML; write "{key.text[:64]}" in quotes'
            report.add(place.inner(shown(key.text), line), text)
        elif key.text in out:
            first = out[key.text][0]
            report.add(place.inner(shown(key.text), line), f"written twice, first on line {first}; keep one")
        else:
            out[key.text] = line, value
    return out


def _suggestion(name: str, known: list[str]) -> str:
    """Return the nearest known name as a question, or all of them."""
    near = difflib.get_close_matches(name.lower()[:64], [k.lower() for k in known], n=1)
    if near:
        return f"did you mean {next(k for k in known if k.lower() == near[0])}?"
    return f"expected one of {', '.join(known)}"
