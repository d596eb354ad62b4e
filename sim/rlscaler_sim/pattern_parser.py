"""Patterns as text, for resources, scenarios and the command line: names with parameters, sums, products, methods."""

import ast
import re
from collections.abc import Mapping
from typing import Any

from rlscaler_sim.pattern_algebra import Kind, Pattern, PatternError, as_pattern, nearest

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = "such as daily+flash-crowd, spike(every=1h,height=3) or 0.5*daily.then(steady,at=6h)"
_METHODS = {"then": ("after", "at"), "shifted": ("seconds",), "scaled": ("factor",)}


def parse(text: str, known: Mapping[str, Kind]) -> Pattern:
    """Return the pattern of an expression over the `known` kinds; see `patterns.parse`."""
    source = re.sub(r"(?<=[a-z])-(?=[a-z])", "_", text.strip().lower())
    source = re.sub(r"(?<![\w.])(\d+(?:\.\d+)?)([smhd])\b", lambda m: repr(float(m[1]) * _UNITS[m[2]]), source)
    if len(source) > 500:
        raise PatternError(f"pattern {text[:40]!r}... is too long; expected at most 500 characters")
    try:
        return as_pattern(_built(ast.parse(source, mode="eval").body, text, known))
    except PatternError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        raise PatternError(f"pattern {text!r} cannot be read; expected an expression {_FORM}") from None


def _built(node: ast.expr, text: str, known: Mapping[str, Kind]) -> Any:
    """Return what an expression stands for: a Pattern, or a number."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -float(value)
        case ast.BinOp(left=left, op=ast.Add() | ast.Mult() as op, right=right):
            one, two = _built(left, text, known), _built(right, text, known)
            return one + two if isinstance(op, ast.Add) else one * two
        case ast.Name(id=name):
            return _kind(name, known)()
        case ast.Call(func=ast.Name(id=name), args=[], keywords=given):
            return _kind(name, known)(**{k.arg or "**": _built(k.value, text, known) for k in given})
        case ast.Call(func=ast.Attribute(value=inner, attr=attr), args=args, keywords=given) if attr in _METHODS:
            values = dict(zip(_METHODS[attr], (_built(a, text, known) for a in args), strict=False))
            values |= {k.arg or "**": _built(k.value, text, known) for k in given}
            numbers = all(isinstance(v, float) for k, v in values.items() if k != "after")
            if numbers and set(values) == set(_METHODS[attr]) and len(args) + len(given) == len(values):
                return getattr(as_pattern(_built(inner, text, known)), attr)(**values)
            raise PatternError(
                f"pattern {text!r} misuses .{attr}; "
                "expected .then(PATTERN,at=SECONDS), .shifted(SECONDS) or .scaled(FACTOR)"
            )
        case _:
            raise PatternError(f"pattern {text!r} has a part that is no pattern; expected an expression {_FORM}")


def _kind(name: str, known: Mapping[str, Kind]) -> Kind:
    name = name.replace("_", "-")
    if name not in known:
        raise PatternError(f"no pattern is called {name!r}; {nearest(name, known)}")
    return known[name]
