"""A sweep's page: its trials as a table and in parallel coordinates, every axis a setting and the last one the score.

One file without scripts, that asks nothing of the network.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

from rlscaler_training.sweep_trials import Best, Trial
from rlscaler_training.sweeps import Choices, Space, Span, Sweep

WIDTH, HEIGHT, TOP, SIDE = 960, 360, 40, 70
"""Pixels of the figure, and of its margins."""
_STYLE = """
:root{color-scheme:light dark;--ink:light-dark(#1a1a1a,#e8e8e8);--faint:light-dark(#c3c7cc,#4a4f57);
--best:light-dark(#c2410c,#fb923c);--line:light-dark(#2563eb,#7aa2f7);--ground:light-dark(#fff,#15181d)}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);max-width:64rem;margin:2rem auto;
padding:0 1rem}table{border-collapse:collapse;width:100%}td,th{padding:.2rem .6rem;text-align:right;
border-bottom:1px solid var(--faint)}td:first-child,th:first-child{text-align:left}tr.best{font-weight:700}
svg{width:100%;height:auto}svg text{fill:var(--ink);font-size:12px}.axis{stroke:var(--ink)}
.trial{fill:none;stroke:var(--line);stroke-opacity:.55}.stopped{stroke:var(--faint)}
.chosen{stroke:var(--best);stroke-width:3;stroke-opacity:1}figure{margin:1rem 0;overflow-x:auto}
"""


def render(sweep: Sweep, trials: Sequence[Trial], best: Best) -> str:
    """Return the page as HTML."""
    title = f"Sweep of {sweep.tuned}"
    rows = sorted(trials, key=lambda each: (each.state != "finished", each.score if each.score == each.score else 1e9))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("trial", *sweep.search, "share", "score", "state"))
    body = "".join(_row(each, sweep.search, each.number == best.trial.number) for each in rows)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{html.escape(title)}</h1><p>{html.escape(verdict(sweep, trials, best))}</p>"
        f"<figure>{figure(sweep.search, trials, best)}<figcaption>Each line is a trial; grey ones were stopped early, "
        "the thick one is the best. The last axis is the score J, lower is better.</figcaption></figure>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></body></html>\n"
    )


def verdict(sweep: Sweep, trials: Sequence[Trial], best: Best) -> str:
    """Return in a sentence or two what came of it."""
    count = {state: sum(each.state == state for each in trials) for state in ("finished", "stopped", "failed")}
    told = (f"{len(trials)} trials: {count['finished']} finished, {count['stopped']} stopped early, "
            f"{count['failed']} failed. ")  # fmt: skip
    if math.isnan(best.usual):
        return told + f"The best, trial {best.trial.number}, has a score of {best.score:.4f} on other draws."
    if best.trial.number == 0:
        return told + f"Nothing is better than the defaults, with {best.score:.4f} on other draws."
    apart = "better" if best.score < best.usual else "no better"
    return (told + f"On draws of which nothing was chosen by, trial {best.trial.number} has {best.score:.4f} and the "
            f"defaults {best.usual:.4f}: it is {apart}.")  # fmt: skip


def _row(trial: Trial, space: Space, is_best: bool) -> str:
    cells = [str(trial.number), *(shown(trial.drawn.get(name)) for name in space), f"{trial.share:.0f} %",
             "-" if math.isnan(trial.score) else f"{trial.score:.4f}", trial.state]  # fmt: skip
    mark = ' class="best"' if is_best else ""
    return f"<tr{mark}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def shown(value: Any) -> str:
    """Return a setting's value as a reader wants it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def figure(space: Space, trials: Sequence[Trial], best: Best) -> str:
    """Return the parallel coordinates as SVG; trials without a score are left out."""
    scored = [each for each in trials if math.isfinite(each.score)]
    names = [*space, "score"]
    gap = (WIDTH - 2 * SIDE) / (len(names) - 1)
    low, high = min(each.score for each in scored), max(each.score for each in scored)
    parts = []
    for k, name in enumerate(names):
        x = SIDE + k * gap
        ends = (f"{low:.4g}", f"{high:.4g}") if name == "score" else _ends(space[name])
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - TOP}"/>')
        for y, text in ((TOP - 22, name), (TOP - 6, ends[1]), (HEIGHT - TOP + 16, ends[0])):
            parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{html.escape(text)}</text>')
    for each in sorted(scored, key=lambda each: (each.number == best.trial.number, each.state == "finished")):
        heights = [_height(space[name], each.drawn.get(name)) for name in space]
        heights.append((each.score - low) / (high - low) if high > low else 0.5)
        points = " ".join(f"{SIDE + k * gap:.1f},{HEIGHT - TOP - h * (HEIGHT - 2 * TOP):.1f}"
                          for k, h in enumerate(heights))  # fmt: skip
        kind = " chosen" if each.number == best.trial.number else "" if each.state == "finished" else " stopped"
        told = f"trial {each.number}: {each.score:.4f}"
        parts.append(f'<polyline class="trial{kind}" points="{points}"><title>{html.escape(told)}</title></polyline>')
    label = f"{len(scored)} trials in parallel coordinates"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _ends(space: Span | Choices) -> tuple[str, str]:
    if isinstance(space, Choices):
        return shown(space.values[0]), shown(space.values[-1])
    return f"{space.low:.4g}", f"{space.high:.4g}" + (" (log)" if space.log else "")


def _height(space: Span | Choices, value: Any) -> float:
    """Return how high a value lies on its axis, from 0 to 1; the defaults may lie outside of what is searched."""
    if isinstance(space, Choices):
        known = [shown(each) for each in space.values]
        return known.index(shown(value)) / max(len(known) - 1, 1) if shown(value) in known else 0.5
    low, high, at = space.low, space.high, float(value)
    if space.log:
        low, high, at = math.log(low), math.log(high), math.log(max(at, 1e-300))
    return min(max((at - low) / (high - low), 0.0), 1.0)
