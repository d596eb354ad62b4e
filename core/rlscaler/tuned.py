"""The rules' tuned constants, kept as data with where they come from (made by `rlscaler tune`)."""

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def table() -> dict[str, Any]:
    """Return the contents of data/tuned.json: provenance, constants tuned on all, and on each fold's training load."""
    text = files("rlscaler").joinpath("data/tuned.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


_LIKE = {"tenure": "growth-quantile"}
"""Rules that are made of another one, and have its constants."""


def constants(rule: str, family: str | None = None) -> dict[str, float]:
    """Return the tuned constants of a rule: of the fold that held this source family out, else of all load."""
    data, given, rule = table(), rule, _LIKE.get(rule, rule)
    for fold in data.get("folds", []):
        if family is not None and family in fold["held_out"]:
            return _own(fold["constants"].get(rule, {}), given)
    return _own(data["constants"].get(rule, {}), given)


def _own(found: dict[str, float], rule: str) -> dict[str, float]:
    """Return the constants that the rule has."""
    return {name: value for name, value in found.items() if rule not in _LIKE or name != "hold"}
