"""A demo as a file: an animated SVG that needs nothing else, a GIF, or a terminal recording (asciicast).

The SVG holds each agent's curves once and uncovers them from the left; figures stand on a strip, one line for each
frame, that is moved up by steps. Only CSS moves it, so it also plays where an image is shown in a page.
"""

import io
import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.errors import UserError
from rlscaler.files import write_bytes_atomically, write_text_atomically
from rlscaler.quantities import printable
from rlscaler_training.demo_play import Play, clock, colour_of, corners

FRAMES = 100
"""Frames of figures in an SVG and of pictures in a GIF."""
HOLD = 0.1
"""Share of the time for which the end is shown."""
COLUMNS, PANEL_WIDTH, PANEL_HEIGHT, GAP, MARGIN, HEAD = 4, 292, 188, 12, 20, 66
CHART = (14, 36, 264, 92)
"""x, y, width and height of the chart in its panel."""
STRIP = 34
"""Height of a frame's figures."""
FIGURES = {"asked": 40, "ready": 38, "backlog": 50, "cost": 40, "late": 38, "score": 50}
"""What is told of an agent, as terms call it, and how far right of its label."""
SHORTEST, LONGEST = 4.0, 120.0
"""Seconds that an animation lasts."""
CAST_FRAMES, CAST_ROWS = 4.0, 7
"""Frames a second of a terminal recording, and rows of its charts."""


def seconds_of(play: Play, speed: float) -> float:
    """Return how long an animation lasts: the load's time at this speed, within SHORTEST and LONGEST."""
    return float(np.clip(play.time[-1] / speed, SHORTEST, LONGEST))


def frames(play: Play) -> list[int]:
    """Return the steps that are shown, evenly spread, the last among them."""
    return sorted({round(i) for i in np.linspace(0, play.steps - 1, min(FRAMES, play.steps))})


def write(play: Play, path: str | Path, speed: float) -> None:
    """Write the demo to a file, whole or not at all; its ending tells the kind. Raises UserError."""
    kind = kind_of(path)
    if kind == "gif":
        write_bytes_atomically(path, gif(play, speed))
    else:
        write_text_atomically(path, svg(play, speed) if kind == "svg" else cast(play, speed))


def kind_of(path: str | Path) -> str:
    """Return svg, gif or cast. Raises UserError for another ending."""
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in ("svg", "gif", "cast"):
        raise UserError(f"--record {path}: expected a name that ends in .svg, .gif or .cast")
    return kind


STYLE = """
:root { --page: #ffffff; --card: #f7f8fa; --text: #161b22; --muted: #566071; --line: #dde1e7; --load: #aab2bf;
  --bad: #c62a1f; --good: #0b6b43; }
@media (prefers-color-scheme: dark) { :root { --page: #0d1015; --card: #151a21; --text: #e7ebf1; --muted: #98a3b3;
  --line: #2b323d; --load: #566071; --bad: #ff6b5e; --good: #4fce97; } }
text { font: 12px ui-sans-serif, system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--text);
  font-variant-numeric: tabular-nums; }
.page { fill: var(--page); } .card { fill: var(--card); stroke: var(--line); } .cover { fill: var(--card); }
.title { font-weight: 650; font-size: 14px; } .head { font-weight: 650; font-size: 18px; }
.muted { fill: var(--muted); }
.load { fill: var(--load); opacity: 0.55; } .late { fill: var(--bad); opacity: 0.4; }
.ready { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.now { stroke: var(--text); stroke-width: 1; opacity: 0.5; }
.axis { stroke: var(--line); } .best { fill: var(--good); font-weight: 700; } .some { fill: var(--bad); }
"""


def svg(play: Play, speed: float) -> str:
    """Return the demo as an animated SVG; agents that read no motion see its end."""
    shown, lasts = frames(play), seconds_of(play, speed)
    count = len(shown)
    held = max(1, round(HOLD * count))
    total = count + held
    columns = min(COLUMNS, len(play.agents))
    rows = -(-len(play.agents) // columns)
    width = 2 * MARGIN + columns * (PANEL_WIDTH + GAP) - GAP
    height = MARGIN + HEAD + rows * (PANEL_HEIGHT + GAP) - GAP + MARGIN + 14
    strip, head_line, last = STRIP * total, 24, count - 1
    moving = f"""
@keyframes uncover {{ 0% {{ transform: translateX(0) }}
  {100 * count / total:.3f}%, 100% {{ transform: translateX({CHART[2]}px) }} }}
@keyframes strip {{ to {{ transform: translateY(-{strip}px) }} }}
@keyframes clock {{ to {{ transform: translateY(-{head_line * total}px) }} }}
.uncover {{ animation: uncover {lasts:.2f}s linear infinite; }}
.strip {{ animation: strip {lasts:.2f}s steps({total}) infinite; }}
.clock {{ animation: clock {lasts:.2f}s steps({total}) infinite; }}
@media (prefers-reduced-motion: reduce) {{ .uncover {{ animation: none; transform: translateX({CHART[2]}px); }}
  .strip {{ animation: none; transform: translateY(-{STRIP * last}px); }}
  .clock {{ animation: none; transform: translateY(-{head_line * last}px); }} }}
"""
    colours = "".join(f"--a{i}:{colour_of(i, dark=False)};" for i in range(len(play.agents)))
    dark = "".join(f"--a{i}:{colour_of(i)};" for i in range(len(play.agents)))
    colours = f":root{{{colours}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}"
    x, y, w, h = CHART
    told = [*shown, *([shown[-1]] * held)]
    names = ", ".join(agent.name for agent in play.agents)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-labelledby="what">',
        f'<title id="what">{escape(printable(f"{play.terms.count.capitalize()} of {names} under {play.scenario}"))}'
        "</title>",
        f"<style>{STYLE}{colours}{moving}</style>",
        f'<defs><path id="load" d="{_area(play)}"/>'
        f'<clipPath id="chart"><rect x="{x}" y="{y}" width="{w}" height="{h}"/></clipPath>'
        f'<clipPath id="figures"><rect x="0" y="{y + h + 10}" width="{PANEL_WIDTH}" height="{STRIP}"/></clipPath>'
        f'<clipPath id="time"><rect x="0" y="0" width="{width}" height="{head_line}"/></clipPath></defs>',
        f'<rect class="page" width="{width}" height="{height}" rx="10"/>',
        f'<text class="head" x="{MARGIN}" y="{MARGIN + 16}">rlscaler</text>',
        f'<text x="{MARGIN + 84}" y="{MARGIN + 16}">{escape(printable(play.scenario))}</text>',
        f'<g transform="translate({MARGIN},{MARGIN + 22})"><g clip-path="url(#time)"><g class="clock">',
        *(f'<text class="muted" x="0" y="{16 + head_line * i}">{clock(float(play.time[step]))}, load '
          f"{play.load[step]:,.0f} {play.terms.load} = {play.demand[step]:.1f} {play.terms.count} at full use</text>"
          for i, step in enumerate(told)),
        "</g></g></g>",
        f'<text class="muted" x="{MARGIN}" y="{height - 12}">grey: {play.terms.grey}; line: {play.terms.line}; red: '
        f"{play.terms.strip}</text>",
    ]  # fmt: skip
    for agent in range(len(play.agents)):
        left = MARGIN + agent % columns * (PANEL_WIDTH + GAP)
        top = MARGIN + HEAD + agent // columns * (PANEL_HEIGHT + GAP)
        parts.append(f'<g transform="translate({left},{top})">{_panel(play, agent, told)}</g>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _at(play: Play, step: float) -> float:
    return CHART[0] + CHART[2] * step / max(1, play.steps - 1)


def _up(play: Play, replicas: float) -> float:
    return CHART[1] + CHART[3] * (1.0 - min(replicas / play.top, 1.0))


def _area(play: Play) -> str:
    """Return the outline of the load, as an area from the bottom."""
    points = " ".join(f"{_at(play, i):.1f},{_up(play, float(v)):.1f}" for i, v in enumerate(play.demand))
    bottom = CHART[1] + CHART[3]
    return f"M{CHART[0]},{bottom} L{points} L{_at(play, play.steps - 1):.1f},{bottom} Z"


def _panel(play: Play, agent: int, told: list[int]) -> str:
    """Return one agent's panel: its curves under a cover, and its figures on a strip."""
    x, y, w, h = CHART
    ready = play.ready[agent]
    path: list[str] = []
    for step in corners(ready):
        right, height = f"{_at(play, step):.1f}", f"{_up(play, float(ready[step])):.1f}"
        path.append(f"H{right}V{height}" if path else f"M{right},{height}")
    late = "".join(
        f'<rect x="{_at(play, i):.1f}" y="{y}" width="{max(1.0, w / play.steps):.1f}" height="{h}" '
        f'opacity="{min(1.0, 0.25 + float(share)):.2f}"/>'
        for i, share in enumerate(play.late[agent]) if share > 0.01
    )  # fmt: skip
    line = y + h + 24
    places = [(x + across, line + 16 * row) for row in (0, 1) for across in (0, 86, 180)]
    terms = play.terms
    labels = "".join(
        f'<text class="muted" x="{across}" y="{down}">{getattr(terms, label)}</text>'
        for (across, down), label in zip(places, FIGURES, strict=True)
    )
    figures = []
    for i, step in enumerate(told):
        backlog, best = float(play.backlog[agent, step]), play.best(step) == agent
        values = (
            (f"{play.replicas[agent, step]:.0f}", ""), (f"{ready[step]:.0f}", ""),
            (f"{backlog:,.0f}", "some" if play.short(agent, step) else ""), (f"{play.cost[agent, step]:.2f}", ""),
            (terms.late_told(float(play.late_share[agent, step])), ""),
            (f"{terms.sign * play.score[agent, step]:.2f}", "best" if best else ""),
        )  # fmt: skip
        for (left, down), shift, (value, mark) in zip(places, FIGURES.values(), values, strict=True):
            kind = f' class="{mark}"' if mark else ""
            figures.append(f'<text{kind} x="{left + shift}" y="{down + STRIP * i}">{value}</text>')
    name = escape(play.title(agent)[:34])
    return (
        f'<rect class="card" x="0.5" y="0.5" width="{PANEL_WIDTH - 1}" height="{PANEL_HEIGHT - 1}" rx="8"/>'
        f'<text class="title" x="{x}" y="24" style="fill:var(--a{agent})">{name}</text>'
        f'<g clip-path="url(#chart)"><g class="late">{late}</g><use href="#load" class="load"/>'
        f'<path class="ready" style="stroke:var(--a{agent})" d="{"".join(path)}"/>'
        f'<g class="uncover"><rect class="cover" x="{x}" y="{y}" width="{w + 2}" height="{h}"/>'
        f'<line class="now" x1="{x}" x2="{x}" y1="{y}" y2="{y + h}"/></g></g>'
        f'<line class="axis" x1="{x}" x2="{x + w}" y1="{y + h}" y2="{y + h}"/>'
        f'<text class="muted" x="{x + w}" y="24" text-anchor="end">up to {play.top:.0f} {terms.count}</text>'
        f'{labels}<g clip-path="url(#figures)"><g class="strip">{"".join(figures)}</g></g>'
    )


def cast(play: Play, speed: float, columns: int = 120) -> str:
    """Return the demo as a terminal recording, asciicast version 2: a header, and [time, "o", text] a line."""
    from rich.console import Console

    from rlscaler_training.demo_screen import AROUND, BESIDE, PANEL, Layout, screen

    rows = AROUND + -(-len(play.agents) // (columns // PANEL)) * (CAST_ROWS + BESIDE)
    layout = Layout.of(len(play.agents), columns, rows)
    lasts = seconds_of(play, speed)
    header = {"version": 2, "width": columns, "height": rows, "title": f"rlscaler demo: {play.scenario}"}
    out = [json.dumps(header)]
    count = max(2, round(lasts * CAST_FRAMES))
    for frame, place in enumerate(np.linspace(0, play.steps - 1, count)):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=True, color_system="truecolor", width=columns, height=rows,
                          legacy_windows=False)  # fmt: skip
        console.print(screen(play, round(place), play.time[-1] / lasts, layout, keys=False))
        text = stream.getvalue().rstrip("\n").replace("\n", "\r\n")
        first = "\x1b[2J" if frame == 0 else ""
        out.append(json.dumps([round(frame * lasts / count, 3), "o", f"{first}\x1b[H{text}"]))
    return "\n".join(out) + "\n"


def gif(play: Play, speed: float) -> bytes:
    """Return the demo as an animated GIF. Raises UserError where matplotlib is not installed.

    What never changes is drawn once; each frame adds lines and figures to it.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from PIL import Image
    except ModuleNotFoundError as error:
        wanted = "a GIF needs matplotlib; install it with: pip install 'rlscaler[report]', or record an SVG"
        raise UserError(wanted) from error
    from rlscaler_sim.drawing import STYLE as LOOK

    shown, lasts = frames(play), seconds_of(play, speed)
    columns = min(COLUMNS, len(play.agents))
    rows = -(-len(play.agents) // columns)
    height = 1.75 * rows + 0.5
    with mpl.rc_context({**LOOK, "font.size": 7.0}):
        figure = Figure(figsize=(2.4 * columns, height), dpi=110, facecolor="white")
        canvas: Any = FigureCanvasAgg(figure)
        figure.subplots_adjust(left=0.035, right=0.99, bottom=0.25 / height, top=1 - 0.5 / height, hspace=0.35,
                               wspace=0.12)  # fmt: skip
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        update = _pictures(figure, panels, play)
        canvas.draw()
        still = canvas.copy_from_bbox(figure.bbox)
        pictures = []
        for step in shown:
            canvas.restore_region(still)
            for artist in update(step):
                figure.draw_artist(artist)
            picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
            pictures.append(picture.quantize(64, dither=Image.Dither.NONE))
    out = io.BytesIO()
    each = 1000.0 * lasts * (1.0 - HOLD) / len(shown)
    durations = [round(each)] * (len(shown) - 1) + [round(each + 1000.0 * lasts * HOLD)]
    pictures[0].save(out, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    return out.getvalue()


def _pictures(figure: Any, panels: Any, play: Play) -> Callable[[int], list[Any]]:
    """Draw what stays, and return the function that returns what is to be drawn of a step."""
    hours = play.time / 3600.0
    head = figure.text(0.035, 0.98, "", fontsize=9, fontweight="bold", va="top", animated=True)
    found: list[Any] = [head]
    lines, notes = [], []
    for place, axes in enumerate(panels.ravel()):
        if place >= len(play.agents):
            axes.set_visible(False)
            continue
        colour = colour_of(place, dark=False)
        axes.set_xlim(0.0, hours[-1])
        axes.set_ylim(0.0, play.top)
        axes.locator_params(nbins=4)
        axes.fill_between(hours, play.demand, color="#d9dde3", linewidth=0)
        axes.set_title(play.title(place)[:30], fontsize=8, fontweight="bold", loc="left", color=colour)
        lines.append(axes.plot([], [], color=colour, drawstyle="steps-post", linewidth=1.2, animated=True)[0])
        notes.append(axes.text(0.98, 0.97, "", transform=axes.transAxes, va="top", ha="right", fontsize=6.5,
                               animated=True))  # fmt: skip
    found += lines + notes

    def update(step: int) -> list[Any]:
        terms = play.terms
        head.set_text(f"{play.scenario}, {clock(float(play.time[step]))}: load {play.load[step]:,.0f} {terms.load}")
        for agent, (line, note) in enumerate(zip(lines, notes, strict=True)):
            line.set_data(hours[: step + 1], play.ready[agent, : step + 1])
            note.set_text(
                f"{terms.ready} {play.ready[agent, step]:.0f}  "
                f"{terms.backlog} {play.backlog[agent, step]:,.0f}\n{terms.cost} "
                f"{play.cost[agent, step]:.2f}  {terms.score} {terms.sign * play.score[agent, step]:.2f}"
            )
        return found

    return update
