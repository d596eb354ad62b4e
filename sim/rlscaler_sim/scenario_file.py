"""Scenarios in files of YAML (or JSON, which YAML reads), for worlds that have no name yet.

load: working-day+0.5*flash-crowd   # a scenario, an expression, or a trace file beside this one
description: the shop before a sale
duration: 8h
scale_to: 40                        # replicas that the 95th percentile needs
world:                              # what differs from the standard world
  startup: 2m
  crash_rate: 0.2
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rlscaler.quantities import QuantityError, duration, shown
from rlscaler.yaml_nodes import Node, YamlError, documents
from rlscaler_sim import world

SUFFIXES = (".yaml", ".yml", ".json")
KEYS = ("load", "description", "duration", "scale_to", "world")
WORLD_KEYS = tuple(each.name for each in fields(world.WorldConfig) if each.name != "interval")
"""What of the world a file may state: all but the interval, which is the decision's."""
SECONDS = ("slo_wait", "startup", "drain", "lag", "window", "gap_duration", "node_startup")
"""What of it may be written as a duration."""
MOST_REPLICAS = 1e6
LARGEST_FILE = 1_000_000
"""Bytes; a scenario has some hundred."""


class ScenarioFileError(ValueError):
    """A file is no scenario; the message names it, the line and the key."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What a file states; None where it says nothing. duration: seconds. scale_to: replicas."""

    load: str
    description: str | None
    duration: float | None
    scale_to: float | None
    world: dict[str, float | int | bool]


def read(path: str | Path) -> Stated:
    """Return what the file states. Raises ScenarioFileError."""
    try:
        if (size := Path(path).stat().st_size) > LARGEST_FILE:
            raise ScenarioFileError(f"{path}: has {size:,} bytes; expected a scenario, which has some hundred")
        found = list(documents(Path(path).read_text(encoding="utf-8")))
    except YamlError as error:
        raise ScenarioFileError(f"{path}{f':{error.line}' if error.line else ''}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ScenarioFileError(f"{path}: cannot be read: {reason}") from error
    if len(found) != 1:
        raise ScenarioFileError(f"{path}: holds {len(found)} documents; expected one, with the keys {', '.join(KEYS)}")
    told = _entries(path, found[0], "", KEYS)
    if "load" not in told:
        raise ScenarioFileError(f"{path}: load is missing; expected a scenario, an expression or a trace file")
    named = {key: _text(path, key, told[key]) for key in ("load", "description") if key in told}
    span = _number(path, "duration", told["duration"], True) if "duration" in told else None
    scale = _number(path, "scale_to", told["scale_to"], False) if "scale_to" in told else None
    for key, value, most in (("duration", span, math.inf), ("scale_to", scale, MOST_REPLICAS)):
        if value is not None and not 0.0 < value <= most:
            wanted = f"above 0{'' if math.isinf(most) else f', up to {most:,.0f}'}"
            raise _wrong(path, told[key], key, told[key].text, f"a number {wanted}")
    values = {
        key: _value(path, key, node)
        for key, node in (_entries(path, told["world"], "world.", WORLD_KEYS) if "world" in told else {}).items()
    }
    return Stated(named["load"], named.get("description"), span, scale, values)


def _wrong(path: str | Path, node: Node, key: str, value: str, expected: str) -> ScenarioFileError:
    line = f":{node.line}" if node.line else ""
    return ScenarioFileError(f"{path}{line}: {key} is {shown(value)}; expected {expected}")


def _entries(path: str | Path, node: Node, prefix: str, known: Iterable[str]) -> dict[str, Node]:
    """Return a mapping's values by key, all of them known."""
    if node.kind != "mapping":
        raise _wrong(path, node, prefix.rstrip(".") or "it", f"a {node.kind}", f"keys: {', '.join(known)}")
    found: dict[str, Node] = {}
    for key, value in node.entries:
        if key.text not in known:
            near = difflib.get_close_matches(key.text, list(known), n=1)
            hint = f"did you mean {prefix}{near[0]}? " if near else ""
            where = f"{path}:{key.line}" if key.line else f"{path}"
            raise ScenarioFileError(
                f"{where}: no key is called {shown(prefix + key.text)}; {hint}expected one of {', '.join(known)}"
            )
        if key.text in found:
            raise ScenarioFileError(f"{path}:{key.line}: {prefix}{key.text} is there twice; expected it once")
        found[key.text] = value
    return found


def _text(path: str | Path, key: str, node: Node) -> str:
    if node.kind in ("mapping", "list", "null", "tagged value") or not node.text.strip():
        raise _wrong(path, node, key, node.text or f"a {node.kind}", "text")
    return node.text.strip()


def _number(path: str | Path, key: str, node: Node, timed: bool) -> float:
    """Return a number, or where it is timed the seconds of a duration."""
    expected = "seconds, or a duration such as 5m" if timed else "a number"
    try:
        if node.kind in ("number", "whole number"):
            return float(node.text)
        if node.kind == "text" and timed:
            return duration(node.text)
    except (ValueError, QuantityError) as error:
        raise _wrong(path, node, key, node.text, expected) from error
    raise _wrong(path, node, key, node.text or f"a {node.kind}", expected)


def _value(path: str | Path, key: str, node: Node) -> float | int | bool:
    """Return a value of the world, within its range."""
    default: Any = getattr(world.WorldConfig(), key)
    value: float | int | bool
    if isinstance(default, bool):
        if node.kind != "boolean":
            raise _wrong(path, node, f"world.{key}", node.text or f"a {node.kind}", "true or false")
        value = node.text.lower() == "true"
    else:
        value = _number(path, f"world.{key}", node, key in SECONDS)
        if isinstance(default, int) and value % 1.0 == 0.0:
            value = int(value)
    try:
        world.compiled(world.WorldConfig(**{key: value}), 1)
    except ValueError as error:
        expected = str(error).partition("; expected ")[2] or str(error)
        raise _wrong(path, node, f"world.{key}", node.text, expected) from error
    return value
