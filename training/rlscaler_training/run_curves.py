"""Learning curves of several runs: those of one learner with the same settings are draws of one thing, and a band.

A band is the median over seeds with the whole range, or with the interquartile range from FEW seeds on.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscaler_training.run_record import SCORE, Record

FEW = 5
"""Seeds from which on a band is the interquartile range instead of the whole."""
RULE = "rule"
"""The name under which learners log the score of the rule on the same draws."""
TITLES = {
    SCORE: ("Validation score", "J = cost + price × late; lower is better"),
    "cost": ("Cost", "billed over needed pod-seconds"),
    "late": ("Late", "price × share of late requests"),
    "loss": ("Loss", "of the learner's own objective"),
}
"""What the measures of most learners are called; others go by their own name."""
FIRST = tuple(TITLES)
USUAL: tuple[Any, ...] = (None, "", (), [], "standard")
"""Arguments that say nothing: those that were not given."""
LEFT_OUT = ("step", RULE, "best")
"""What is no curve of its own: the rule is a line in the panel of the score, and the best is its lowest point."""


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that differ in the seed alone. label: what they are called in the charts."""

    label: str
    runs: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Band:
    """One measure of one group: x (K,) steps, and of each the median over seeds and the band's edges (K,).

    seeds: how many runs there are. NaN where no run has measured so far.
    """

    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def asked(run: Record) -> dict[str, Any]:
    """Return all that was asked of a run, by name: the arguments but name and seed, and its settings."""
    given = {key: value for key, value in run.arguments.items() if key not in ("seed", "name") and value not in USUAL}
    if "decisions" in given:  # which is a setting's name, too
        given["decision_logs"] = given.pop("decisions")
    return {**given, **run.settings}


def differing(runs: Sequence[Record]) -> dict[str, list[Any]]:
    """Return what was asked of the runs differently: name -> a value for each run, None where it has none."""
    every = [asked(run) for run in runs]
    rows = {name: [one.get(name) for one in every] for name in dict.fromkeys(name for one in every for name in one)}
    return {name: row for name, row in rows.items() if len({text(value) for value in row}) > 1}


def text(value: Any) -> str:
    """Return a setting as text."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def grouped(runs: Sequence[Record]) -> list[Group]:
    """Return the runs by learner and settings, in the order in which they are first met."""
    found: dict[tuple[str, str], list[Record]] = {}
    for run in runs:
        found.setdefault((run.learner, json.dumps(asked(run), sort_keys=True)), []).append(run)
    members = list(found.values())
    groups = []
    for mine in members:
        same = [other[0] for other in members if other[0].learner == mine[0].learner]
        label = mine[0].learner
        if len(same) > 1:
            own = asked(mine[0])
            label += ": " + ", ".join(f"{name} {text(own.get(name))}" for name in differing(same))
        groups.append(Group(label, tuple(mine)))
    return groups


def in_environment_steps(groups: Sequence[Group]) -> bool:
    """Return whether all learners' own steps can be told in steps of environments."""
    return all(run.per_step is not None for group in groups for run in group.runs)


def names(groups: Sequence[Group]) -> list[str]:
    """Return what was measured, the measures that most learners share first."""
    measured = dict.fromkeys(name for group in groups for run in group.runs for name in run.measured)
    return [n for n in FIRST if n in measured] + [n for n in measured if n not in FIRST and n not in LEFT_OUT]


def band(group: Group, name: str, *, environment_steps: bool) -> Band | None:
    """Return a measure's band over the runs of a group, None where none has measured it.

    Between two of its measurements a run is taken to lie on the line between them.
    """
    curves = []
    for run in group.runs:
        if name in run.measured:
            known = np.isfinite(run.measured[name])
            scale = (run.per_step or math.nan) if environment_steps else 1.0
            if known.any():
                curves.append((run.measured["step"][known] * scale, run.measured[name][known]))
    if not curves:
        return None
    x = np.unique(np.concatenate([at for at, _ in curves]))
    values = np.stack([np.interp(x, at, y, left=np.nan, right=np.nan) for at, y in curves])
    edges = (25.0, 75.0) if len(curves) >= FEW else (0.0, 100.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where no run has measured there is nothing to tell
        low, middle, high = np.nanpercentile(values, [edges[0], 50.0, edges[1]], axis=0)
    return Band(x, middle, low, high, len(curves))


def rule(group: Group) -> float | None:
    """Return the rule's score on the draws of the validation score, the median over seeds; None where none logged."""
    found = [run.measured[RULE][np.isfinite(run.measured[RULE])] for run in group.runs if RULE in run.measured]
    last = [float(values[-1]) for values in found if len(values)]
    return float(np.median(last)) if last else None


def told(groups: Sequence[Group], colours: Mapping[str, int]) -> dict[str, Any]:
    """Return the curves in JSON's types; colours: label -> index into the palette."""
    scaled = in_environment_steps(groups)
    panels = []
    for name in names(groups):
        lines = []
        for group in groups:
            if (found := band(group, name, environment_steps=scaled)) is not None:
                lines.append({
                    "label": group.label, "colour": colours[group.label], "seeds": found.seeds,
                    "rule": rule(group) if name == SCORE else None, "x": _plain(found.x),
                    "middle": _plain(found.middle), "low": _plain(found.low), "high": _plain(found.high),
                })  # fmt: skip
        title, unit = TITLES.get(name, (name, ""))
        panels.append({"name": name, "title": title, "unit": unit, "lines": lines})
    return {"unit": unit_of(scaled), "panels": panels}


def unit_of(scaled: bool) -> str:
    """Return what the steps of the charts are."""
    return "steps of environments" if scaled else "steps of the learner's own count"


def band_words(groups: Sequence[Group]) -> str:
    """Return what the bands are, in a sentence; empty where every group is one run."""
    most = max((len(group.runs) for group in groups), default=0)
    if most < 2:
        return ""
    edges = "the middle half" if most >= FEW else "the whole range"
    return f"Line: the median over seeds; band: {edges} of them."


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values.tolist()]
