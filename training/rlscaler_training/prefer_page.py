"""A pair of episodes as a page that needs no script and nothing of the network: load, capacity, backlog and cost."""

from html import escape

import numpy as np

from rlscaler_training.demo_play import Play, colour_of
from rlscaler_training.prefer_screen import SIDES, figures, play_of
from rlscaler_training.preference_pairs import Segments

WIDTH, HEIGHT, LOW = 520, 190, 90
"""Of the chart of load and capacity, and the height of those of backlog and cost."""
LEFT, BOTTOM = 44, 20
EVERY = 2
"""Seconds after which the page shows what it has become: the next pair."""
STYLE = """
:root { color-scheme: light dark; --page: light-dark(#ffffff, #0d1015); --text: light-dark(#161b22, #e7ebf1);
  --muted: light-dark(#566071, #98a3b3); --line: light-dark(#dde1e7, #2b323d); --load: light-dark(#aab2bf, #566071);
  --bad: light-dark(#c62a1f, #ff6b5e); }
body { margin: 0 auto; max-width: 1180px; padding: 16px 20px; background: var(--page); color: var(--text);
  font: 15px/1.5 ui-sans-serif, system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 20px; margin: 0 0 2px; } h2 { font-size: 18px; margin: 12px 0 4px; }
p { margin: 0; color: var(--muted); } main { display: grid; gap: 8px 32px;
  grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); }
dl { display: grid; grid-template-columns: repeat(4, 1fr); gap: 4px 16px; margin: 0 0 8px; }
dt { color: var(--muted); font-size: 13px; } dd { margin: 0; font-weight: 650; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 12px; fill: var(--muted); }
.load { fill: var(--load); opacity: 0.55; } .wait { fill: var(--bad); opacity: 0.7; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .asked { stroke-dasharray: 3 3; opacity: 0.6; }
.axis { stroke: var(--line); }
"""


def render(found: Segments, row: int, title: str) -> str:
    """Return the page of a pair."""
    play = play_of(found, row)
    colours = "".join(f".c{i}{{stroke:light-dark({colour_of(i, dark=False)},{colour_of(i)})}}" for i in range(2))
    sides = "".join(_side(play, found, row, side) for side in range(2))
    minutes = play.steps * play.interval / 60.0
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{EVERY}">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{STYLE}{colours}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>The same {minutes:g} minutes of load, {play.demand.mean():.1f} replicas needed on average. Which one "
        f"scaled better? Answer in the terminal; this page then shows the next pair.</p><main>{sides}</main>"
        "</body></html>\n"
    )


def _side(play: Play, found: Segments, row: int, side: int) -> str:
    """Return one episode; both have the same axes."""
    told = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in figures(found, row, side).items())
    cost = found.cost[row]
    charts = [
        _chart("replicas: load (grey), ready (line), asked for (dashes)", HEIGHT, play.top,
               [("load", play.demand, True), (f"line c{side}", play.ready[side], False),
                (f"line asked c{side}", play.replicas[side], False)]),
        _chart("requests that wait", LOW, max(1.0, float(play.backlog.max())), [("wait", play.backlog[side], True)]),
        _chart("cost: billed over needed", LOW, max(1.0, 1.05 * float(cost.max())),
               [(f"line c{side}", cost[side], False)]),
    ]  # fmt: skip
    return f'<section aria-label="{SIDES[side]}"><h2>{SIDES[side]}</h2><dl>{told}</dl>{"".join(charts)}</section>'


def _chart(title: str, height: int, top: float, curves: list[tuple[str, np.ndarray, bool]]) -> str:
    """Return a chart over the steps, from 0 to `top`. curves: class, values (T,), whether filled."""
    floor, ceiling = height - BOTTOM, 18
    steps = len(curves[0][1])

    def y(value: float) -> float:
        return floor - (floor - ceiling) * min(max(value / top, 0.0), 1.0)

    def x(step: int) -> float:
        return LEFT + (WIDTH - LEFT - 4) * step / steps

    drawn = []
    for kind, values, filled in curves:
        points = "".join(f"L{x(i):.1f} {y(v):.1f}L{x(i + 1):.1f} {y(v):.1f}" for i, v in enumerate(values.tolist()))
        path = f"M{x(0):.1f} {floor}{points}L{x(steps):.1f} {floor}Z" if filled else "M" + points[1:]
        drawn.append(f'<path class="{kind}" d="{path}"/>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f'<text x="{LEFT}" y="12">{escape(title)}</text><text x="{LEFT - 6}" y="{ceiling + 8}" text-anchor="end">'
        f'{top:.3g}</text><text x="{LEFT - 6}" y="{floor}" text-anchor="end">0</text>'
        f'<path class="axis" fill="none" d="M{LEFT} {ceiling}V{floor}H{WIDTH - 4}"/>{"".join(drawn)}</svg>'
    )
