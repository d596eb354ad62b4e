"""A run in the environment of earlier work as a picture: how it learned, and what it does. Needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.files import write_bytes_atomically
from rlscaler_sim import drawing, legacy
from rlscaler_sim.drawing import LOAD, MUTED
from rlscaler_sim.palette import LIGHT
from rlscaler_training.legacy import PUBLISHED, Verdict

WIDTH, HEIGHT = 2000, 1250
"""Pixels."""
_OWN, _OTHER = LIGHT[0], LIGHT[1]


def write(path: Path, learner: str, rows: Sequence[Mapping[str, float]], found: Verdict) -> None:
    """Write the picture as PNG, whole or not at all. rows: what the run measured. Raises UserError."""
    drawn = drawing.png(WIDTH, HEIGHT, lambda figure: _draw(figure, learner, rows, found))
    write_bytes_atomically(path, drawn)


def _draw(figure: Any, learner: str, rows: Sequence[Mapping[str, float]], found: Verdict) -> None:
    total = found.episode.total
    words = f"{learner} on the environment of earlier work: {total:.2f}, where {found.optimum:.2f} is the best there is"
    figure.text(0.035, 0.965, words, fontsize=10.5, fontweight="bold", va="center")
    figure.text(0.035, 0.935, "Return of 200 steps of SINE_CURVE, trained on and published alike",
                color=MUTED, va="center")  # fmt: skip
    grid = figure.add_gridspec(3, 2, height_ratios=[1.6, 1.2, 0.8], hspace=0.55, wspace=0.5,
                               left=0.05, right=0.975, top=0.87, bottom=0.065)  # fmt: skip
    _learning(figure.add_subplot(grid[0, 0]), rows, found)
    _returns(figure.add_subplot(grid[0, 1]), learner, found)
    first = figure.add_subplot(grid[1, :])
    _instances(first, found)
    _queue(figure.add_subplot(grid[2, :], sharex=first), found)


def _title(axes: Any, title: str, unit: str) -> None:
    drawn = axes.annotate(title, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points",
                          fontweight="bold", fontsize=7)  # fmt: skip
    axes.annotate(unit, (1, 0), (5, 0), xycoords=drawn, textcoords="offset points", color=MUTED, va="bottom")


def _learning(axes: Any, rows: Sequence[Mapping[str, float]], found: Verdict) -> None:
    """Draw the return of each evaluation on the way, and of the best so far."""
    scored = [row for row in rows if "score" in row]
    steps = [row["step"] for row in scored]
    returns = np.array([-row["score"] for row in scored])
    axes.plot(steps, returns, color=_OTHER, linewidth=0.8, label="greedy policy")
    axes.plot(steps, np.maximum.accumulate(returns), color=_OWN, linewidth=1.2, drawstyle="steps-post", label="best")
    axes.axhline(found.optimum, color=MUTED, linewidth=0.8, linestyle=(0, (1, 1.3)), label="the best there is")
    axes.set_yscale("symlog", linthresh=1.0)
    ticks = [-200, -100, -50, -20, -10, -5, -3]
    axes.set_yticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes.minorticks_off()
    axes.set_ylim(min(float(returns.min()) * 1.3, -30.0), -2.2)
    axes.set_xlabel("steps", labelpad=2)
    axes.legend(frameon=False, fontsize=6, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1,
                handlelength=1.2, columnspacing=1.2)  # fmt: skip
    _title(axes, "Learning", "return, logarithmic")


def _returns(axes: Any, learner: str, found: Verdict) -> None:
    """Draw the returns as bars; the best at the top."""
    rows = found.rows()
    names = [name.replace("this run", f"this run, {learner}", 1) for name, _ in rows]
    losses = [-value for _, value in rows]
    colours = [_OWN if name.startswith("this run") else LOAD for name, _ in rows]
    axes.barh(range(len(rows)), losses, color=colours, height=0.7)
    for place, (_, value) in enumerate(rows):
        axes.annotate(f"{value:.2f}", (-value, place), (3, 0), textcoords="offset points", va="center", fontsize=6)
    axes.set_yticks(range(len(rows)), names, fontsize=6)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(1.0, 260.0)
    axes.set_xticks([1, 3, 10, 30, 100], ["-1", "-3", "-10", "-30", "-100"])
    axes.minorticks_off()
    axes.grid(visible=False, axis="y")
    _title(axes, "Beside what was published", f"{len(PUBLISHED)} agents and their rule; logarithmic")


def _instances(axes: Any, found: Verdict) -> None:
    """Draw instances over those that the load needs."""
    episode = found.episode
    steps = np.arange(1, len(episode.instances) + 1)
    axes.fill_between(steps, episode.influx / legacy.CAPACITY, color=LOAD, linewidth=0, zorder=1)
    axes.plot(steps, episode.instances, color=_OWN, linewidth=1.1, drawstyle="steps-post", zorder=3)
    axes.set_ylim(0, max(55.0, 1.1 * float(episode.instances.max())))
    axes.set_xlim(1, max(len(steps), 2))
    _title(axes, "Its episode", "instances; grey: as many as the load needs")


def _queue(axes: Any, found: Verdict) -> None:
    """Draw the queue."""
    queue = found.episode.queue
    axes.fill_between(np.arange(1, len(queue) + 1), queue, color=_OTHER, linewidth=0, step="post")
    axes.set_ylim(0, max(10.0, 1.1 * float(queue.max())))
    axes.locator_params(axis="y", nbins=3)
    axes.set_xlabel("steps of 300 s", labelpad=2)
    if not queue.any():
        axes.annotate("none", (0.5, 0.5), xycoords="axes fraction", ha="center", va="center", color=MUTED)
    _title(axes, "Queue", "items that wait; 10 are punished at 91 % of what 43,500 are")
