"""YAML text as nodes with line numbers, before anything is made of them.

A resource is checked on these nodes and not on loaded objects, since loading loses what people need to find
a mistake (the line, the duplicate key) and what YAML 1.1 made of their text (`on` as a boolean, `1:30` as
90). Nothing is constructed, so no tag can run anything; an alias is a reference to its node and is never
copied out, so a few lines that would expand to gigabytes stay a few lines.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

Kind = Literal[
    "text",
    "whole number",
    "number",
    "boolean",
    "null",
    "date",
    "merge key",
    "mapping",
    "list",
    "tagged value",
]

MOST_VALUES = 100_000
"""Values that a document may have with its aliases written out."""
_TAG = "tag:yaml.org,2002:"
_KINDS: dict[str, Kind] = {
    _TAG + "bool": "boolean",
    _TAG + "null": "null",
    _TAG + "timestamp": "date",
    _TAG + "merge": "merge key",
}
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")


@dataclass(slots=True)
class Node:
    """A value of a document. text: a scalar as written. entries: (key, value) of a mapping. items: of a list.

    line: the 1-based line where the value starts; None for values that come from no file.
    """

    kind: Kind
    line: int | None = None
    text: str = ""
    entries: list[tuple["Node", "Node"]] = field(default_factory=list)
    items: list["Node"] = field(default_factory=list)


class YamlError(ValueError):
    """Text that is no YAML; `line` is where reading stopped, 1-based, or None."""

    def __init__(self, message: str, line: int | None = None) -> None:
        """Take the message without the place."""
        super().__init__(message)
        self.line = line


def documents(text: str) -> Iterator[Node]:
    """Yield the documents of `text` that are not empty.

    Raises YamlError at the first thing that is no YAML; the documents before it have been yielded then.
    """
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_node():
            root = loader.get_node()
            # An empty document is how a stray `---` reads; kubectl skips it too.
            if root is not None and not (isinstance(root, yaml.ScalarNode) and root.value == "" and not root.style):
                yield _converted(root, {})
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(f"not YAML: {what}", mark.line + 1 if mark else None) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        raise YamlError(f"not YAML: the character U+{error.character:04X} is not allowed; remove it", line) from error
    except RecursionError as error:
        raise YamlError("nested too deeply; a resource has at most 7 levels") from error
    except (ValueError, OverflowError) as error:
        # PyYAML hands the number of an escape to chr() unchecked.
        raise YamlError(r"not YAML: a quoted escape such as \UFFFFFFFF or \uD800 is no character") from error


def require_small(root: Node) -> None:
    """Raise YamlError where a document with its aliases written out, as objects have them, would be endless or huge."""
    sizes: dict[int, float] = {}

    def size(node: Node) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = math.inf  # of a node within itself
            inner = (each for entry in node.entries for each in entry)
            sizes[id(node)] = 1.0 + sum(map(size, inner)) + sum(map(size, node.items))
        return sizes[id(node)]

    if size(root) > MOST_VALUES:
        raise YamlError(f"not read: its aliases stand for more than {MOST_VALUES} values; write them out", root.line)


def from_object(value: Any) -> Node:
    """Return plain objects (as JSON gives them) as nodes without lines.

    Raises TypeError for an object that JSON cannot hold.
    """
    if isinstance(value, Mapping):
        return Node("mapping", entries=[(from_object(k), from_object(v)) for k, v in value.items()])
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return Node("list", items=[from_object(item) for item in value])
    if value is None:
        return Node("null")
    if isinstance(value, str):
        return Node("text", text=value)
    if isinstance(value, bool):
        return Node("boolean", text=str(value).lower())
    if isinstance(value, int):
        return Node("whole number", text=str(value))
    if isinstance(value, float):
        # 3.0 as well: a rule of the API server that expects a whole number refuses it, and what it keeps reads 3.
        return Node("number", text=repr(value))
    raise TypeError(f"{type(value).__name__} is no part of a resource; expected what JSON can hold")


def _converted(node: yaml.Node, known: dict[int, Node]) -> Node:
    """Return PyYAML's node as ours; an alias, also one to a node that holds it, becomes the same object again."""
    if id(node) in known:
        return known[id(node)]
    out = known[id(node)] = Node("tagged value", node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        out.kind = "mapping"
        out.entries = [(_converted(key, known), _converted(value, known)) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        out.kind = "list"
        out.items = [_converted(item, known) for item in node.value]
    elif isinstance(node, yaml.ScalarNode):
        # A lone surrogate, which PyYAML makes of "\uD800", could never be printed or sent.
        node.value.encode("utf-8")
        out.text = node.value
        out.kind = _scalar_kind(node)
    else:
        out.text = node.tag
    return out


def _scalar_kind(node: yaml.ScalarNode) -> Kind:
    """Return what the API server's YAML reader makes of a scalar.

    Plain text that only looks like a number (1e3, 08) is one there, and not to PyYAML; what only PyYAML
    takes for a whole number (0x1F, 1:30, 1_000) is told apart from plain decimals, which are all that a
    field takes.
    """
    whole = _WHOLE.fullmatch(node.value)
    if node.tag == _TAG + "str":
        return "text" if node.style or whole or not _NUMBER.fullmatch(node.value) else "number"
    if node.tag in (_TAG + "int", _TAG + "float"):
        return "whole number" if whole else "number"
    return _KINDS.get(node.tag, "tagged value")
