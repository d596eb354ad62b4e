"""A learner's settings from a JSON file and from flags, checked before anything runs.

The file holds an object with the names of `q_learning.Config`; a flag that was given wins over it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from math import isfinite, prod
from pathlib import Path
from typing import Any

from rlscaler.errors import UserError
from rlscaler.observation import NAMES
from rlscaler_training.q_learning import Config

LARGEST_TABLE = 100_000
"""States of a table at most."""

WHOLE = {
    "steps": (1, 10_000_000),
    "envs": (1, 65_536),
    "evaluate_every": (1, 10_000_000),
    "lookahead": (1, 100),
    "repeat": (1, 1000),
    "episode": (8, 5000),
}
"""Settings that are whole numbers, with their ranges."""

NUMBERS = {
    "gamma": (0.0, 0.9999),
    "rate": (1e-6, 1.0),
    "rate_visits": (1.0, 1e9),
    "rate_floor": (0.0, 1.0),
    "epsilon": (0.0, 1.0),
    "epsilon_end": (0.0, 1.0),
    "epsilon_share": (0.0, 1.0),
}
"""Settings that are numbers, with their ranges."""

OTHERS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bins": (
        lambda bins: (
            bool(bins)
            and all(n in NAMES and list(c) == sorted(c) and all(map(isfinite, c)) for n, c in bins.items())
            and prod(len(c) + 1 for c in bins.values()) <= LARGEST_TABLE
        ),
        'fields of the observation with ascending cuts, such as {"trend": [-0.04, 0.04]}, and at most '
        f"{LARGEST_TABLE:,} states",
    ),
    "margins": (
        lambda margins: bool(margins) and all(margin >= 0.0 and isfinite(margin) for margin in margins),
        "a list of numbers of 0 or more",
    ),
    "double": (lambda double: isinstance(double, bool), "true or false"),
    "actions": (lambda actions: actions in ("headroom", "step"), "headroom or step"),
}
"""The other settings: whether a value fits, and what is expected."""


def settings(path: str | None, flags: Mapping[str, Any]) -> Config:
    """Return the settings of the file, if there is one, with the flags that are not None on top.

    Raises UserError naming the file or the setting.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    config = replace(Config(), **((_read(path) if path else {}) | given))
    _check(config)
    return config


def _read(path: str) -> dict[str, Any]:
    """Return the settings that a file holds, lists as tuples of numbers."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}; expected an object of settings")
    known = [field.name for field in fields(Config)]
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{path}: no setting is called {key!r}; expected one of {', '.join(known)}")
        try:
            if key == "bins":
                values[key] = {str(name): tuple(float(cut) for cut in cuts) for name, cuts in value.items()}
            if key == "margins":
                values[key] = tuple(float(margin) for margin in value)
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path}: {key} is {json.dumps(value)[:80]}; expected {OTHERS[key][1]}") from error
    return values


def _check(config: Config) -> None:
    """Refuse settings that nothing can be learned with."""
    for ranges, kinds, what in ((WHOLE, int, "whole number"), (NUMBERS, (int, float), "number")):
        for key, (low, high) in ranges.items():
            value = getattr(config, key)
            if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
                raise UserError(f"{key} is {value!r}; expected a {what} from {low:,.15g} to {high:,.15g}")
    for key, (fits, expected) in OTHERS.items():
        if not fits(getattr(config, key)):
            raise UserError(f"{key} is {json.dumps(getattr(config, key))[:80]}; expected {expected}")
