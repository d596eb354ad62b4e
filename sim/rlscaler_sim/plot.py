"""The dry-run as one picture for a README or a ticket: load and replicas, late requests, cost."""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.files import write_bytes_atomically
from rlscaler_sim import drawing
from rlscaler_sim.chart_data import Thinning, gaps
from rlscaler_sim.drawing import DPI, LOAD, MUTED
from rlscaler_sim.palette import LIGHT, MATPLOTLIB_DASHES, looks
from rlscaler_sim.result import DryRun
from rlscaler_sim.verdict import YEAR, percent, verdict
from rlscaler_sim.verdict import figure as figure_text

WIDTH, HEIGHT = 1400, 900
"""Pixels."""
_GRID_OF_PANELS = {
    "height_ratios": [3.2, 1.25, 1.25],
    "hspace": 0.5,
    "left": 0.045,
    "right": 0.79,
    "top": 0.83,
    "bottom": 0.08,
}
_LINE_HEIGHT = 8.5
_TICK_HOURS = (1 / 60, 1 / 12, 1 / 4, 0.5, 1, 2, 3, 6, 12, 24, 48, 168, 336, 720)
_DRAWN_POINTS = 2 * WIDTH
"""Two points for each pixel of width: the picture shows no more."""


def write_plot(run: DryRun, path: str | Path) -> None:
    """Write the picture of `run` to `path` as PNG, whole or not at all.

    Raises UserError where matplotlib is not installed or the file cannot be written.
    """
    write_bytes_atomically(path, png(run))


def png(run: DryRun) -> bytes:
    """Return the picture as PNG. Raises UserError where matplotlib is not installed."""
    return drawing.png(WIDTH, HEIGHT, lambda figure: _draw(figure, run))


def shown(run: DryRun) -> list[int]:
    """Return the rows that are drawn: the policy under test, the reference, and the best of the others."""
    names = [c.name for c in run.contenders]
    chosen = [run.policy] + ([run.reference.name] if run.reference else [])
    chosen += [c.name for c in run.ranked if c.name not in chosen][: 3 - len(chosen)]
    return [names.index(name) for name in chosen]


def _draw(figure: Any, run: DryRun) -> None:
    """Draw the headline and three panels over one time axis, each with its labels at the right end."""
    series, rows, look = run.series, shown(run), looks(run)
    thin = Thinning.of(len(series.time), _DRAWN_POINTS)
    hours, unit_of_time, ticks = _time_axis(np.asarray(series.time, np.float64))
    x = hours[thin.points]
    panels = figure.subplots(3, 1, sharex=True, gridspec_kw=_GRID_OF_PANELS)
    drawn = ((panels[0], series.ready), (panels[1], 100 * series.violations), (panels[2], series.cost))
    panels[0].fill_between(x, thin.envelope(series.demand), color=LOAD, linewidth=0, zorder=1)
    for axes, values in drawn:
        for i in reversed(rows):
            axes.plot(
                x,
                thin.envelope(values[i]),
                color=LIGHT[look[i].colour],
                linestyle=MATPLOTLIB_DASHES[look[i].dash],
                linewidth=1.15 if look[i].strong else 0.8,
                zorder=4 if look[i].strong else 3,
                drawstyle="default" if axes is panels[2] else "steps-post",
            )
        for start, end in gaps(hours, series.known):
            axes.axvspan(start / 1000, end / 1000, color=MUTED, alpha=0.16, linewidth=0, zorder=0)
        axes.locator_params(axis="y", nbins=5 if axes is panels[0] else 3)
    panels[0].set_ylim(bottom=0)
    panels[1].set_ylim(0, max(1.0, panels[1].get_ylim()[1]))
    panels[2].set_ylim(*_settled(series.cost[rows]))
    panels[2].set_xlim(hours[0], max(hours[-1], hours[0] + 1e-6))
    panels[2].set_xticks([at for at, _ in ticks], [text for _, text in ticks])
    panels[2].set_xlabel(unit_of_time, labelpad=2)

    each = figure_text(run.capacity_per_replica, ",.4g", " requests/s each")
    _title(panels[0], "Ready replicas", f"grey: the load, in replicas at full use ({each})")
    _title(panels[1], "Late requests", "% of the requests in a step; at the right, of all")
    _title(panels[2], "Cost so far", "replica-hours billed / needed")
    found = [(run.contenders[i], LIGHT[look[i].colour], i) for i in rows]
    _label(panels[0], [(_last(series.ready[i]), colour, c.name) for c, colour, i in found])
    _label(panels[1], [(math.nan, colour, f"{percent(c.violation_share)}  {c.name}") for c, colour, _ in found])
    _label(
        panels[2],
        [(_last(series.cost[i]), colour, f"{figure_text(c.cost_ratio, '.3f')}  {c.name}") for c, colour, i in found],
    )
    headline, why = verdict(run)
    figure.text(0.012, 0.958, _cut(f"{run.resource}: {headline}", 80), fontsize=9.5, fontweight="bold", va="center")
    figure.text(0.012, 0.912, _cut(why, 140), color=MUTED, va="center")


def _title(axes: Any, title: str, unit: str) -> None:
    place = {"xycoords": "axes fraction", "textcoords": "offset points"}
    drawn = axes.annotate(title, (0, 1), (0, 5), fontweight="bold", fontsize=7, **place)
    axes.annotate(unit, (1, 0), (5, 0), xycoords=drawn, textcoords="offset points", color=MUTED, va="bottom")


def _label(axes: Any, labels: list[tuple[float, str, str]]) -> None:
    """Write (value, colour, text) at the right end, each beside its value and none over another.

    The first is the policy under test. Where a value is NaN the labels stand in their order from the top.
    """
    height = axes.bbox.height * 72 / DPI
    low, high = axes.get_ylim()
    wanted = [height * (value - low) / (high - low) if math.isfinite(value) else height for value, *_ in labels]
    placed = math.inf
    spots: dict[int, float] = {}
    for i in sorted(range(len(labels)), key=lambda i: -wanted[i]):
        placed = min(min(max(wanted[i], 4), height), placed - _LINE_HEIGHT)
        spots[i] = placed
    rise = max(0.0, 4 - placed)
    for i, (_, colour, text) in enumerate(labels):
        axes.annotate(
            _cut(text, 24),
            (1, 0),
            (6, spots[i] + rise),
            xycoords="axes fraction",
            textcoords="offset points",
            color=colour,
            fontweight="bold" if i == 0 else "normal",
            va="center",
            annotation_clip=False,
        )


def _last(values: np.ndarray) -> float:
    """Return the last known of values (T,), NaN where none is known."""
    known = np.asarray(values, np.float64)[np.isfinite(values)]
    return float(known[-1]) if known.size else math.nan


def _settled(cost: np.ndarray) -> tuple[float, float]:
    """Return the range of the cost (R, T) after the first 2 % of the steps, in which it swings."""
    after = np.asarray(cost, np.float64)[:, cost.shape[1] // 50 :]
    after = after[np.isfinite(after)]
    if not after.size:
        return 0.0, 1.0
    pad = max(0.08 * float(np.ptp(after)), 0.02)
    return float(after.min()) - pad, float(after.max()) + pad


def _time_axis(time: np.ndarray) -> tuple[np.ndarray, str, list[tuple[float, str]]]:
    """Return time in hours since its first midnight, the label of the axis, and ticks of (hours, text)."""
    midnight = math.floor(time[0] / 86400) * 86400 if time[0] >= YEAR else 0.0
    hours = (time - midnight) / 3600
    span = max(float(hours[-1] - hours[0]), 1e-6)
    step = next((s for s in _TICK_HOURS if span / s <= 9), span / 8)
    at = np.arange(math.ceil(hours[0] / step - 1e-9) * step, hours[-1] + 1e-9, step)
    if time[0] >= YEAR:
        dates = [datetime.fromtimestamp(round(midnight + 3600 * h), UTC) for h in at]
        texts = [f"{d:%d %b}" if span > 24 and d.hour == d.minute == 0 else f"{d:%H:%M}" for d in dates]
        return (
            hours,
            f"UTC, from {datetime.fromtimestamp(time[0], UTC):%Y-%m-%d}",
            list(zip(at, texts, strict=True)),
        )
    if step >= 24:
        return hours, "days since the start", [(h, f"{h / 24:.0f}") for h in at]
    texts = [f"{round(60 * h) // 60}:{round(60 * h) % 60:02}" for h in at]
    return hours, "hours since the start", list(zip(at, texts, strict=True))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
