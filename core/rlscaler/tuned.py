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


def constants(rule: str, family: str | None = None) -> dict[str, float]:
    """Return the tuned constants of a rule: of the fold that held this source family out, else of all load."""
    data = table()
    for fold in data.get("folds", []):
        if family is not None and family in fold["held_out"]:
            return dict(fold["constants"].get(rule, {}))
    return dict(data["constants"].get(rule, {}))
