"""Hyper-parameters said once: a dataclass field gives the default, the range, the help and the flag.

    @dataclass(frozen=True, slots=True)
    class Config:
        steps: int = setting(2000, 1, 10_000_000, "Steps of every environment.")
        target: str = choice("hard", ("hard", "soft"), "How the target network follows.")

`flags(Config)` decorates a click command with an option for each of them, `read(Config, file, given)` returns the
settings of a JSON file with the given flags on top, all checked.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import click

from rlscaler.errors import UserError

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])
_KEY = "rlscaler"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a setting may be. low, high: of numbers; options: of words; check: of anything else, in the file only.

    about: one sentence or two, with the source of the default where it has one.
    """

    about: str
    low: float = -float("inf")
    high: float = float("inf")
    options: tuple[str, ...] = ()
    check: Callable[[Any], Any] | None = None
    expected: str = ""


def setting(default: Any, low: float, high: float, about: str) -> Any:
    """Return the field of a number from `low` to `high`; whole where the default is, one number of a list of them."""
    return field(default=default, metadata={_KEY: Kind(about, low, high)})


def choice(default: str, options: Sequence[str], about: str) -> Any:
    """Return the field of a word out of some."""
    return field(default=default, metadata={_KEY: Kind(about, options=tuple(options))})


def switch(default: bool, about: str) -> Any:
    """Return the field of a yes or no."""
    return field(default=default, metadata={_KEY: Kind(about)})


def structure(default: Callable[[], Any], check: Callable[[Any], Any], expected: str, about: str) -> Any:
    """Return the field of anything else, set by the file alone.

    check: returns the value as the learner wants it, or raises ValueError or TypeError. expected: what that is.
    """
    return field(default_factory=default, metadata={_KEY: Kind(about, check=check, expected=expected)})


def _default(of: Field[Any]) -> Any:
    return of.default_factory() if of.default_factory is not MISSING else of.default


def _kind(of: Field[Any]) -> Kind:
    kind: Kind = of.metadata[_KEY]
    return kind


def flags(config: type[Any]) -> Callable[[F], F]:
    """Return a decorator that gives a click command a flag for each field; one that is not given is None."""

    def decorate(command: F) -> F:
        for each in reversed(fields(config)):
            kind, default = _kind(each), _default(each)
            if kind.check is not None:
                continue
            name, parameter = each.name, "--" + each.name.replace("_", "-")
            shown = ", ".join(map(str, default)) if isinstance(default, tuple) else default
            about = f"{kind.about}  [default: {shown}]"
            if isinstance(default, bool):
                command = click.option(f"{parameter}/--no-{parameter[2:]}", name, default=None, help=about)(command)
            elif isinstance(default, tuple):
                command = click.option(parameter, name, type=str, metavar="N,N,...", help=about)(command)
            else:
                kinds: Any = click.Choice(kind.options) if kind.options else type(default)
                command = click.option(parameter, name, type=kinds, help=about)(command)
        return command

    return decorate


def read(
    config: type[C], path: str | Path | None, given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> C:
    """Return the settings of a JSON file, if there is one, with the flags that are not None on top.

    defaults: what a setting is that neither has, before its own default. Raises UserError naming the file or the
    setting.
    """
    values = dict(defaults or {}) | (_file(config, path) if path else {})
    values |= {name: value for name, value in given.items() if value is not None}
    known = {each.name: each for each in fields(config)}  # type: ignore[arg-type]
    where = f"{path}: " if path else ""
    return config(**{name: _checked(known[name], value, where) for name, value in values.items()})


def _file(config: type[Any], path: str | Path) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a JSON object of settings") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a JSON object of settings") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}; expected an object of settings")
    known = [each.name for each in fields(config)]
    for name in values:
        if name not in known:
            raise UserError(f"{path}: no setting is called {name!r}; expected one of {', '.join(known)}")
    return values


def _checked(of: Field[Any], value: Any, where: str) -> Any:
    """Return the value of a setting as the learner wants it. Raises UserError."""
    kind, default, name = _kind(of), _default(of), of.name
    if kind.check is not None:
        try:
            return kind.check(value)
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{where}{name} is {json.dumps(value)[:80]}; expected {kind.expected}") from error
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"{where}{name} is {value!r}; expected true or false")
        return value
    if kind.options:
        if value not in kind.options:
            raise UserError(f"{where}{name} is {value!r}; expected one of {', '.join(kind.options)}")
        return value
    if isinstance(default, tuple):
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)) or not parts:
            raise UserError(f"{where}{name} is {value!r}; expected numbers, such as {', '.join(map(str, default))}")
        return tuple(_number(name, _parsed(part), kind, isinstance(default[0], int), where) for part in parts)
    return _number(name, value, kind, isinstance(default, int), where)


def _parsed(part: Any) -> Any:
    if not isinstance(part, str):
        return part
    try:
        return int(part)
    except ValueError:
        try:
            return float(part)
        except ValueError:
            return part


def _number(name: str, value: Any, kind: Kind, whole: bool, where: str) -> Any:
    kinds = int if whole else (int, float)
    # held to its range first: a whole number may be too large for isfinite
    if isinstance(value, kinds) and not isinstance(value, bool) and kind.low <= value <= kind.high and isfinite(value):
        return value if whole else float(value)
    what = "a whole number" if whole else "a number"
    raise UserError(f"{where}{name} is {value!r}; expected {what} from {kind.low:,.15g} to {kind.high:,.15g}")
