"""The loads on which a policy loses most, as one picture: load, and what policy, HPA and clairvoyant had ready."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscaler import Settings
from rlscaler_sim import contenders, drawing
from rlscaler_sim.contest import Entrant, play
from rlscaler_sim.drawing import LOAD, MUTED
from rlscaler_sim.evaluation import clairvoyant_plan, limit, standard_world
from rlscaler_sim.load import generator, realise
from rlscaler_sim.palette import LIGHT, MATPLOTLIB_DASHES
from rlscaler_sim.result import CLAIRVOYANT
from rlscaler_sim.stress import Hard
from rlscaler_sim.totals import Traced

WIDTH, ROW, MARGIN = 1400, 400, 80
"""Pixels, those for each load, and those around them."""
_COLOURS = (LIGHT[0], LIGHT[1], LIGHT[-1])
_DASHES = ("solid", "dash", "dot")


@dataclass(frozen=True, slots=True)
class Course:
    """One load step by step, on its first draw: hours and demand (T,); ready replicas and late share (3, T) of the
    policy, the HPA tuned on the load and the clairvoyant."""

    hard: Hard
    hours: np.ndarray
    demand: np.ndarray
    ready: np.ndarray
    late: np.ndarray


def course(hard: Hard, entrant: Entrant, settings: Settings) -> Course:
    """Run one load again, on the first of its draws."""
    config, seed = standard_world(settings), hard.seeds[0]
    capacity = float(settings.capacity_per_replica)
    pattern = hard.source.pattern
    load = realise(pattern, duration=hard.source.duration, interval=float(settings.interval), capacity=capacity,
                   rng=generator(pattern.name, seed))  # fmt: skip
    own = contenders.hpa_entrant(contenders.OWN, settings, hard.own)
    best = limit(clairvoyant_plan([load], [seed], config, settings), settings)
    traced = Traced()
    play([load], [entrant, own, best], config, settings, [seed], waits=False, traced=traced)
    time = np.array(traced.time)
    return Course(
        hard,
        (time - time[0]) / 3600.0,
        np.array(traced.load) / capacity,
        traced.array("ready"),
        traced.array("violations"),
    )


def png(courses: Sequence[Course], policy: str) -> bytes:
    """Return the picture of some loads, one below the other, as PNG. Raises UserError without matplotlib."""
    height = ROW * len(courses) + MARGIN

    def draw(figure: Any) -> None:
        panels = figure.subplots(2 * len(courses), 1, gridspec_kw={
            "height_ratios": [3.0, 1.0] * len(courses), "hspace": 0.55, "left": 0.06, "right": 0.985,
            "top": 1.0 - 64 / height, "bottom": 60 / height,
        })  # fmt: skip
        for index, each in enumerate(courses):
            _draw(panels[2 * index], panels[2 * index + 1], each, policy, index == 0)
        panels[-1].set_xlabel("hours since the start", labelpad=2)

    return drawing.png(WIDTH, height, draw)


def _draw(upper: Any, lower: Any, course: Course, policy: str, legend: bool) -> None:
    """Draw one load: ready replicas over the load, and late requests below."""
    names = (policy, "hpa-own", CLAIRVOYANT)
    upper.fill_between(course.hours, course.demand, color=LOAD, linewidth=0, zorder=1, label="load, in replicas")
    for axes, values in ((upper, course.ready), (lower, 100.0 * course.late)):
        for i in (2, 1, 0):
            look = {"color": _COLOURS[i], "linestyle": MATPLOTLIB_DASHES[_DASHES[i]]}
            axes.plot(course.hours, values[i], **look, linewidth=1.1 if i == 0 else 0.8, zorder=5 - i,
                      label=names[i], drawstyle="steps-post")  # fmt: skip
        axes.set_xlim(0.0, float(course.hours[-1]))
        axes.locator_params(axis="y", nbins=4 if axes is upper else 2)
    upper.set_ylim(bottom=0.0)
    lower.set_ylim(0.0, 100.0)
    upper.tick_params(labelbottom=False)
    hard = course.hard
    upper.set_title(f"{hard.source.title}: loss {hard.loss(policy):.2f}", loc="left", fontweight="bold", fontsize=7)
    lower.set_title("late requests, %", loc="left", fontsize=6, color=MUTED, pad=2)
    if legend:
        upper.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, frameon=False, borderaxespad=0.2)
