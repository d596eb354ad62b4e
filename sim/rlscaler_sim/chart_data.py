"""The series of a dry-run as the page's plots take them: thinned without losing a spike, and compact.

A plot of 100,000 points is slow and no sharper than one of 6,000. Above that, each stretch of equal length is
drawn as its lowest and highest value in the order in which they occurred (the min/max envelope): a spike of a
single step stays, and only its place within the stretch is lost.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscaler_sim.palette import looks
from rlscaler_sim.result import CLAIRVOYANT, RECORDED, DryRun, plain

MAX_POINTS = 6000
"""Points of a series beyond which it is thinned."""


@dataclass(frozen=True, slots=True)
class Thinning:
    """How T points are drawn. steps: T. stretch: steps that one stretch covers; 1 = every point is drawn."""

    steps: int
    stretch: int

    @staticmethod
    def of(steps: int, max_points: int = MAX_POINTS) -> "Thinning":
        """Return the least thinning that draws at most `max_points` of `steps` points."""
        return Thinning(steps, 1 if steps <= max_points else -(-steps // (max_points // 2)))

    @property
    def points(self) -> np.ndarray:
        """(P,) indices of the steps at whose time the points are drawn: two in each stretch."""
        if self.stretch == 1:
            return np.arange(self.steps)
        starts = np.arange(0, self.steps, self.stretch)
        return np.stack([starts, np.minimum(starts + self.stretch // 2, self.steps - 1)], 1).ravel()

    def envelope(self, values: np.ndarray) -> np.ndarray:
        """Return (P,) the lowest and highest of values (T,) in each stretch, in the order of their
        occurrence.

        NaN where a stretch holds nothing else.
        """
        values = np.asarray(values, np.float64)
        if self.stretch == 1:
            return values
        stretches = -(-self.steps // self.stretch)
        padded = np.full(stretches * self.stretch, np.nan)
        padded[: self.steps] = values
        block = padded.reshape(stretches, self.stretch)
        low = np.where(np.isnan(block), np.inf, block).argmin(1)
        high = np.where(np.isnan(block), -np.inf, block).argmax(1)
        pair = np.stack([np.minimum(low, high), np.maximum(low, high)], 1)
        return np.take_along_axis(block, pair, 1).ravel()


def runs(values: np.ndarray, decimals: int) -> dict[str, list[Any]]:
    """Return values (T,) as runs of equal rounded values: {"v": values, "n": lengths}; not finite is None."""
    rounded = np.round(np.asarray(values, np.float64), decimals)
    rounded = np.where(np.isfinite(rounded), rounded, np.nan)
    same = (rounded[1:] == rounded[:-1]) | (np.isnan(rounded[1:]) & np.isnan(rounded[:-1]))
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    lengths = np.diff(np.append(starts, len(rounded)))
    kept = [None if v != v else int(v) if v == int(v) else v for v in rounded[starts].tolist()]
    return {"v": kept, "n": lengths.tolist()}


def decimals_for(values: np.ndarray, digits: int = 4) -> int:
    """Return the decimals that keep `digits` significant digits of the largest of `values`, 0 to 6."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    return int(np.clip(digits - 1 - np.floor(np.log10(largest)), 0, 6)) if largest > 0 else 0


def chart_data(run: DryRun, max_points: int = MAX_POINTS) -> dict[str, Any]:
    """Return what the page's plots need, in JSON's types: times in milliseconds, lateness in percent."""
    series = run.series
    thin = Thinning.of(len(series.time), max_points)
    time = np.round(np.asarray(series.time, np.float64)[thin.points] * 1000)
    panels = {
        "ready": series.ready,
        "replicas": series.replicas,
        "late": 100 * np.asarray(series.violations, np.float64),
        "backlog": series.backlog,
        "cost": series.cost,
    }
    shown = {c.name for c in (run.tested, run.reference, *run.ranked[:1]) if c is not None} | {RECORDED}
    return {
        "start": int(time[0]),
        "steps": runs(np.diff(time), 0) if len(time) > 1 else {"v": [], "n": []},
        "stretch": thin.stretch,
        "perReplica": plain(run.capacity_per_replica),
        "load": runs(thin.envelope(series.load), decimals_for(series.load)),
        "demand": runs(thin.envelope(series.demand), max(2, decimals_for(series.demand))),
        "gaps": gaps(series.time, series.known),
        "windows": windows(run),
        "contenders": [
            {
                "name": contender.name,
                "colour": look.colour,
                "dash": look.dash,
                "strong": look.strong,
                "limit": contender.name == CLAIRVOYANT,
                "shown": contender.name in shown,
                **{
                    key: runs(thin.envelope(rows[i]), 4 if key == "cost" else 3 if key == "late" else 1)
                    for key, rows in panels.items()
                },
            }
            for i, (contender, look) in enumerate(zip(run.contenders, looks(run), strict=True))
        ],
    }


def gaps(time: np.ndarray, known: np.ndarray) -> list[list[int]]:
    """Return the stretches in which nothing is known, each as [start, end] in milliseconds."""
    edge = np.diff(np.concatenate([[0], (~np.asarray(known, bool)).astype(int), [0]]))
    ends = np.append(np.asarray(time, np.float64), 2 * time[-1] - time[-2] if len(time) > 1 else time[-1])
    starts, stops = ends[:-1][edge[:-1] == 1], ends[np.flatnonzero(edge == -1)]
    found: list[list[int]] = np.round(np.stack([starts, stops], 1) * 1000).astype(np.int64).tolist()
    return found


def windows(run: DryRun, span: float = 3600.0) -> dict[str, list[int]]:
    """Return stretches of about `span` seconds worth a look, as [start, end] in milliseconds.

    peak: around the highest load. worst: the policy's hour with the most late requests; left out if none is
    late.
    """
    series = run.series
    time = np.asarray(series.time, np.float64)
    if time[-1] - time[0] <= span:
        return {}
    row = [c.name for c in run.contenders].index(run.policy)
    load = np.nan_to_num(np.where(series.known, series.load, 0.0))
    late = np.concatenate([[0.0], np.cumsum(np.nan_to_num(series.violations[row]) * load)])
    stops = np.searchsorted(time, time + span, side="left")
    within = np.where(time + span <= time[-1] + 1e-9, late[stops] - late[:-1], -1.0)
    centre = min(max(time[int(load.argmax())] - span / 2, time[0]), time[-1] - span)
    found = {"peak": [round(centre * 1000), round((centre + span) * 1000)]}
    if within.max() > 0:
        start = time[int(within.argmax())]
        found["worst"] = [round(start * 1000), round((start + span) * 1000)]
    return found
