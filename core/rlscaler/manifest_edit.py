"""Fills values into the YAML of a resource and leaves all else as it was written, comments and order among it.

The places are those of PyYAML's nodes, so that what is replaced is what is read.
"""

import yaml

from rlscaler.errors import UserError


def with_capacity(text: str, document: int, per_replica: str | None, startup: str | None) -> str:
    """Return the text with spec.capacity.perReplica and spec.capacity.startup of one of its documents set.

    document: its number, 1 for the first. per_replica, startup: as they are written in a resource; None: left as it
    is. Raises UserError where the document is no resource that can be filled in.
    """
    wanted = {"perReplica": per_replica and f'"{per_replica}"', "startup": startup}
    for key, value in wanted.items():
        if value is not None:
            text = _set(text, document, key, value)
    return text


def _set(text: str, document: int, key: str, value: str) -> str:
    """Return the text with one key of spec.capacity set."""
    spec = _child(_root(text, document), "spec")
    if not isinstance(spec, yaml.MappingNode) or not spec.value:
        raise UserError("spec is empty; expected a resource that can be filled in")
    capacity = _child(spec, "capacity")
    if capacity is None:
        return _inserted(text, spec, f"capacity: {{{key}: {value}}}")
    if not isinstance(capacity, yaml.MappingNode) or not capacity.value:
        start, end = capacity.start_mark.index, capacity.end_mark.index
        return text[:start] + (" " if start == end else "") + f"{{{key}: {value}}}" + text[end:]
    old = _child(capacity, key)
    if old is None:
        return _inserted(text, capacity, f"{key}: {value}")
    return text[: old.start_mark.index] + value + text[old.end_mark.index :]


def _root(text: str, document: int) -> yaml.Node | None:
    """Return the top of one document; empty ones are not counted."""
    roots = yaml.compose_all(text, Loader=yaml.SafeLoader)
    there = [root for root in roots if not (isinstance(root, yaml.ScalarNode) and root.value == "" and not root.style)]
    return there[document - 1] if document <= len(there) else None


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    """Return the value of a key of a mapping."""
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == key), None)
    return None


def _inserted(text: str, mapping: yaml.MappingNode, entry: str) -> str:
    """Return the text with an entry before the first one of a mapping."""
    first = mapping.value[0][0].start_mark
    rest = ", " if mapping.flow_style else "\n" + " " * first.column
    return text[: first.index] + entry + rest + text[first.index :]
