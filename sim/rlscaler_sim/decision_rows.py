"""The decisions of the policy under test as rows of a table: those that changed something, and why.

A day has 5,760 decisions and most of them change nothing. Where even the changes are too many to read, the
largest are kept and the page says how many there were.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from rlscaler_sim.result import DryRun
from rlscaler_sim.verdict import clock, figure

MAX_ROWS = 300
"""Rows that the table has at most."""

PRINTED_ROWS = 40
"""Rows that are printed where the table is not filtered."""


@dataclass(frozen=True, slots=True)
class DecisionRows:
    """What the page shows of the decisions.

    note: what is shown and what is not. paper_note: what is printed of it, empty where that is everything.
    reasons: names of those in the rows. rows: HTML, oldest first.
    """

    note: str
    paper_note: str
    reasons: list[str]
    rows: list[str]


def changes(replicas: np.ndarray) -> np.ndarray:
    """Return the indices of the decisions (D,) whose replica count differs from the known one before."""
    change = np.diff(np.asarray(replicas, np.float64))
    return np.flatnonzero(np.isfinite(change) & (change != 0)) + 1


def most_telling(index: np.ndarray, size: np.ndarray, limit: int) -> np.ndarray:
    """Return at most `limit` of `index` (K,), in order: the largest by `size` (K,), ties evenly spread."""
    if len(index) <= limit:
        return index
    threshold = np.sort(size)[-limit]
    larger, equal = np.flatnonzero(size > threshold), np.flatnonzero(size == threshold)
    spread = equal[np.linspace(0, len(equal), limit - len(larger), endpoint=False).astype(int)]
    chosen: np.ndarray = index[np.sort(np.concatenate([larger, spread]))]
    return chosen


def decision_rows(run: DryRun, limit: int = MAX_ROWS) -> DecisionRows:
    """Return the rows of the changes that the policy under test made, at most `limit`."""
    log = run.log
    replicas = np.asarray(log.replicas, np.float64)
    every = changes(replicas)
    size = np.abs(replicas[every] - replicas[every - 1])
    kept: list[int] = most_telling(every, np.nan_to_num(size), limit).tolist()
    printed = set(most_telling(every, np.nan_to_num(size), min(PRINTED_ROWS, limit)).tolist())
    start, end = float(run.series.time[0]), float(run.series.time[-1])
    rows = []
    for i in kept:
        before, after = replicas[i - 1], replicas[i]
        direction = "up" if after > before else "down"
        time = float(log.time[i])
        arrow = "▲" if direction == "up" else "▼"
        cells = (
            f'<button type="button" class="link" data-time="{round(time * 1000)}">{clock(time, start, end)}</button>',
            f"{figure(before, '.0f')} → <strong>{figure(after, '.0f')}</strong> "
            f'<span class="{direction}">{arrow}</span>',
            *(figure(float(row[i]), ".1f") for row in (log.demand, log.recommendation, log.proposal)),
            f'{escape(log.sentence[i])} <span class="why">{_tags(log.reasons[i])}</span>',
        )
        lesser = "" if i in printed else ' class="lesser"'
        rows.append(
            f'<tr{lesser} data-direction="{direction}" data-reasons="{escape(" ".join(log.reasons[i]))}">'
            f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        )
    found = sorted({name for i in kept for name in log.reasons[i]})
    return DecisionRows(_note(len(log.time), len(every), len(kept)), _paper_note(len(kept), len(printed)), found, rows)


def _tags(reasons: Sequence[str]) -> str:
    return " ".join(f'<span class="tag">{escape(reason)}</span>' for reason in reasons)


def _paper_note(kept: int, printed: int) -> str:
    return f"Printed: the {printed:,} largest; the page itself has {kept:,}." if printed < kept else ""


def _note(decisions: int, changed: int, kept: int) -> str:
    if not changed and decisions == 1:
        return "The only decision did not change the replica count."
    if not changed:
        return f"None of the {decisions:,} decisions changed the replica count."
    note = f"{changed:,} of {decisions:,} decisions changed the replica count."
    if kept < changed:
        note += f" The {kept:,} largest changes are shown."
    return note + " A time leads to its place in the plots."
