"""The report on training runs as one picture: curves, scores on the classic patterns, what is decided, an episode."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.files import write_bytes_atomically
from rlscaler_sim import drawing
from rlscaler_sim.drawing import DPI, LOAD, MUTED
from rlscaler_sim.palette import LIGHT, MATPLOTLIB_DASHES, looks
from rlscaler_sim.plot import shown
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE
from rlscaler_training import run_curves, surfaces
from rlscaler_training.run_record import SCORE
from rlscaler_training.run_summary import Summary, verdict

WIDTH, HEIGHT, CURVES_ALONE = 2000, 1500, 640
"""Pixels, pixels, and pixels of height where there is no policy yet."""
FAR = 8.0
"""Where the longest training took so many times the steps of the shortest, curves are drawn over their share."""
_CURVES = 3


def write_dashboard(found: Summary, path: str | Path) -> None:
    """Write the picture to `path` as PNG, whole or not at all.

    Raises UserError where matplotlib is not installed or the file cannot be written.
    """
    write_bytes_atomically(path, png(found))


def png(found: Summary) -> bytes:
    """Return the picture as PNG. Raises UserError where matplotlib is not installed."""
    height = HEIGHT if found.trials is not None else CURVES_ALONE
    return drawing.png(WIDTH, height, lambda figure: _draw(figure, found))


def _draw(figure: Any, found: Summary) -> None:
    """Draw the headline, a row of curves and, where there is a policy, scores and surfaces, and the episode."""
    headline, why, _ = verdict(found)
    pixel = 1.0 / (figure.get_figheight() * DPI)
    figure.text(0.03, 1 - 40 * pixel, _cut(headline, 90), fontsize=10.5, fontweight="bold", va="center")
    figure.text(0.03, 1 - 77 * pixel, _whole(why, 205), color=MUTED, va="center")
    whole = found.trials is not None
    rows = figure.add_gridspec(3 if whole else 1, 1, height_ratios=[1.0, 1.0, 1.05] if whole else None, hspace=0.42,
                               left=0.045, right=0.975, top=1 - 150 * pixel, bottom=68 * pixel)  # fmt: skip
    names = run_curves.names(found.groups)[:_CURVES]
    if names:
        for axes, name in zip(rows[0].subgridspec(1, len(names), wspace=0.16).subplots(squeeze=False)[0], names,
                              strict=True):  # fmt: skip
            _curve(axes, found, name)
    if not whole:
        return
    count = 1 + min(3, len(found.surfaces))
    middle = rows[1].subgridspec(1, count, width_ratios=[1.75, *([1.0] * (count - 1))], wspace=0.27)
    _scores(figure.add_subplot(middle[0]), found)
    every = np.concatenate([s.headroom.ravel() for s in found.surfaces])
    low, high = np.nanpercentile(every, [1.0, 99.0])
    for place, surface in enumerate(found.surfaces[: count - 1]):
        drawn = _surface(figure.add_subplot(middle[place + 1]), surface, low, high, labelled=place == 0)
        if place == count - 2:
            bar = figure.colorbar(drawn, ax=figure.axes[-1], fraction=0.05, pad=0.03)
            bar.outline.set_visible(False)
    _episode(rows[2].subgridspec(2, 1, height_ratios=[2.2, 1.0], hspace=0.28).subplots(sharex=True), found)


def _title(axes: Any, title: str, unit: str) -> None:
    place = {"xycoords": "axes fraction", "textcoords": "offset points"}
    drawn = axes.annotate(title, (0, 1), (0, 5), fontweight="bold", fontsize=7, **place)
    axes.annotate(unit, (1, 0), (5, 0), xycoords=drawn, textcoords="offset points", color=MUTED, va="bottom")


def _curve(axes: Any, found: Summary, name: str) -> None:
    """Draw one measure of every group as line and band."""
    scaled = run_curves.in_environment_steps(found.groups)
    bands = [(g, b) for g in found.groups if (b := run_curves.band(g, name, environment_steps=scaled)) is not None]
    ends = [max(float(b.x[-1]), 1.0) for g in found.groups
            if (b := run_curves.band(g, SCORE, environment_steps=scaled)) is not None]  # fmt: skip
    far = bool(ends) and max(ends) > FAR * min(ends)
    for group, band in bands:
        colour = LIGHT[found.colours[group.label]]
        x = band.x / max(float(band.x[-1]), 1.0) * 100.0 if far else band.x
        if band.seeds > 1:
            axes.fill_between(x, band.low, band.high, color=colour, alpha=0.18, linewidth=0)
        label = group.label if band.seeds == 1 else f"{group.label} ({band.seeds} seeds)"
        axes.plot(x, band.middle, color=colour, linewidth=1.1, label=_cut(label, 40))
        if name == SCORE and (rule := run_curves.rule(group)) is not None:
            axes.axhline(rule, color=colour, linewidth=0.8, linestyle=(0, (1, 1.3)))
    title, unit = run_curves.TITLES.get(name, (name, ""))
    _title(axes, title, unit)
    axes.set_xlabel("% of the training" if far else run_curves.unit_of(scaled), labelpad=2)
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 5), useMathText=False)
    axes.locator_params(nbins=5)
    axes.yaxis.set_offset_position("right")  # at the left a power of ten would stand on the title
    axes.legend(frameon=False, fontsize=6, loc="best")


def _scores(axes: Any, found: Summary) -> None:
    """Draw the mean score of everyone on each pattern, with the range over draws."""
    trials, replay = found.trials, found.replay
    assert trials is not None
    assert replay is not None
    look = dict(zip((c.name for c in replay.contenders), looks(replay), strict=True))
    order = [*found.candidates, REFERENCE, CLAIRVOYANT]
    for place, name in enumerate(order):
        scores = trials.scores[trials.names.index(name)]
        at = np.arange(len(trials.loads)) + 0.62 * ((place + 0.5) / len(order) - 0.5)
        means = scores.mean(axis=1)
        marker = {REFERENCE: "s", CLAIRVOYANT: "_"}.get(name, "o")
        spread = [means - scores.min(axis=1), scores.max(axis=1) - means]
        axes.errorbar(at, means, yerr=spread, fmt=marker, markersize=7 if marker == "_" else 3.2, elinewidth=0.7,
                      color=LIGHT[look[name].colour], label=_cut(name, 20))  # fmt: skip
    axes.set_xticks(np.arange(len(trials.loads)), trials.loads, fontsize=5.8)
    axes.margins(y=0.12)
    columns = min(3, len(order))
    rows = math.ceil(len(order) / columns)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.1 * rows * (high - low))  # room for the legend
    axes.legend(frameon=False, fontsize=5.6, ncols=columns, loc="upper left", columnspacing=1.0, handletextpad=0.3)
    _title(axes, "Score by pattern", "J on new draws; lower is better")


def _surface(axes: Any, surface: surfaces.Surface, low: float, high: float, *, labelled: bool) -> Any:
    """Draw headroom over demand and change of load, and return what a colour bar is made of."""
    drawn = axes.imshow(surface.headroom, origin="lower", aspect="auto", cmap="viridis", vmin=low, vmax=high)
    axes.grid(visible=False)
    levels = range(0, len(surfaces.LEVELS), 2)
    axes.set_xticks(levels, [f"{surfaces.LEVELS[i]:g}" for i in levels])
    changes = range(0, len(surfaces.CHANGES), 2) if labelled else []
    axes.set_yticks(changes, [f"{surfaces.CHANGES[i]:+.0%}" for i in changes])
    axes.set_xlabel("demand now, replicas", labelpad=2)
    if labelled:
        axes.set_ylabel(f"load in {surfaces.RAMP / 60:g} min", labelpad=2)
    _title(axes, _cut(surface.name, 22), "headroom")
    return drawn


def _episode(panels: Any, found: Summary) -> None:
    """Draw ready replicas over the load, and late requests, of the policies that matter most."""
    run = found.replay
    assert run is not None
    look, rows = looks(run), shown(run)
    hours = (np.asarray(run.series.time) - run.series.time[0]) / 3600.0
    panels[0].fill_between(hours, run.series.demand, color=LOAD, linewidth=0, zorder=1)
    for axes, values in ((panels[0], run.series.ready), (panels[1], 100.0 * run.series.violations)):
        for row in reversed(rows):
            each = look[row]
            axes.plot(hours, values[row], color=LIGHT[each.colour], linestyle=MATPLOTLIB_DASHES[each.dash],
                      linewidth=1.1 if each.strong else 0.8, zorder=4 if each.strong else 3, drawstyle="steps-post",
                      label=_cut(run.contenders[row].name, 24))  # fmt: skip
        axes.set_xlim(hours[0], max(float(hours[-1]), 1e-6))
        axes.set_ylim(bottom=0)
    panels[0].locator_params(axis="y", nbins=5)
    panels[1].set_ylim(0.0, max(1.0, panels[1].get_ylim()[1]))  # rounding makes a late share of 1e-14
    panels[1].locator_params(axis="y", nbins=3)
    panels[0].legend(frameon=False, fontsize=6, loc="upper left", ncols=len(rows))
    panels[1].set_xlabel("hours since the start", labelpad=2)
    _title(panels[0], f"One episode: {_cut(run.trace, 40)}", "ready replicas; grey: the load, in replicas at full use")
    _title(panels[1], "Late requests", "% of the requests in a step")


def _whole(text: str, most: int) -> str:
    """Return as many sentences of a text as fit into so many letters, the first in any case."""
    while len(text) > most and ". " in text:
        text = text[: text.rindex(". ") + 1]
    return _cut(text, most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
