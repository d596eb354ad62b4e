"""The demo in the terminal: a panel for each agent, side by side, moved by time and by keys.

Every panel shows the same load (grey; red where it is not served) under the agent's own capacity (a line), so the
difference between two agents is what one sees.
"""

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlscaler.quantities import printable
from rlscaler_training.demo_play import Play, Terms, clock, colour_of
from rlscaler_training.run_table import large

PANEL, WIDEST, HIGHEST = 38, 60, 9
"""Columns that a panel takes at least and at most, with its frame; rows of its chart at most."""
AROUND, BESIDE = 4, 4
"""Lines of the screen that belong to no panel, and lines of a panel that are no chart."""
COLUMN = 2
"""Steps that a column of the chart covers."""
FRAMES = 12.0
"""Frames a second."""
SPEEDS = (1.0, 15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3840.0, 7680.0)
"""What + and - step through: seconds of the load in a second."""
BLOCKS, LINES = " ▁▂▃▄▅▆▇█", "▁─▔"
ASCII_BLOCKS, ASCII_LINES = " ........#"[:9], "_-~"
GREY, RED = "grey50", "red3"
KEYS = "[space] pause  [+/-] speed  [←/→] {move}  [q] quit"
MOVE = 60.0
"""Seconds that an arrow moves by, or a step where that is longer."""


@dataclass(slots=True)
class Playback:
    """Where the demo is, and how fast it goes. at: seconds since the start. end: of the last step. move: seconds that
    an arrow moves by."""

    at: float
    end: float
    speed: float
    move: float = MOVE
    paused: bool = False
    quit: bool = False

    def press(self, key: str) -> None:
        """Follow a key."""
        if key in ("q", "Q", "\x1b", "\x03"):
            self.quit = True
        elif key == " ":
            self.paused = not self.paused
        elif key in ("+", "="):
            self.speed = next((s for s in SPEEDS if s > self.speed), self.speed)
        elif key in ("-", "_"):
            self.speed = next((s for s in reversed(SPEEDS) if s < self.speed), self.speed)
        elif key in ("\x1b[C", "\x1b[D"):
            self.at = float(np.clip(self.at + (self.move if key.endswith("C") else -self.move), 0.0, self.end))

    def advance(self, seconds: float) -> None:
        """Let so many seconds of the wall pass."""
        if not self.paused:
            self.at = min(self.end, self.at + seconds * self.speed)

    @property
    def over(self) -> bool:
        """Whether there is nothing more to show."""
        return self.quit or (self.at >= self.end and not self.paused)


@dataclass(frozen=True, slots=True)
class Layout:
    """How panels stand on a screen: so many across, so wide, with so many rows of chart; the first `shown` fit."""

    across: int
    width: int
    rows: int
    shown: int

    @classmethod
    def of(cls, agents: int, width: int, height: int) -> "Layout":
        """Return how the panels of so many agents fit a screen of `width` columns and `height` lines."""
        across = int(np.clip(width // PANEL, 1, agents))
        down = -(-agents // across)
        rows = int(np.clip((height - AROUND) // down - BESIDE, 1, HIGHEST))
        fits = max(1, (height - AROUND) // (rows + BESIDE))
        return cls(across, min(WIDEST, max(PANEL, width // across)), rows, min(agents, fits * across))


def chart(play: Play, agent: int, step: int, width: int, rows: int, *, ascii_only: bool = False) -> Text:
    """Return the chart of one agent up to a step: rows of `width` columns, COLUMN steps each, the newest right.

    A load above what is ready is red from the capacity up.
    """
    blocks, marks = (ASCII_BLOCKS, ASCII_LINES) if ascii_only else (BLOCKS, LINES)
    stops = step + 1 - COLUMN * np.arange(width)[::-1]
    eighths = 8.0 * rows / play.top
    columns = []
    for stop in stops:
        part = slice(max(0, stop - COLUMN), max(0, stop))
        if part.stop == 0:
            columns.append((0, -1, False))
            continue
        load, ready = play.demand[part].max(), play.ready[agent, part].min()
        columns.append((round(load * eighths), min(round(ready * eighths), 8 * rows - 1), bool(load > ready)))
    out, line_style = Text(), colour_of(agent)
    for row in reversed(range(rows)):
        cells = []
        for load, ready, short in columns:
            filled = int(np.clip(load - 8 * row, 0, 8))
            if ready >= 0 and ready // 8 == row:
                under = f" on {GREY}" if filled == 8 and not ascii_only else ""
                cells.append((marks[min(2, ready % 8 // 3)], f"bold {line_style}{under}"))
            else:
                cells.append((blocks[filled], RED if short and ready // 8 < row else GREY))
        for style, run in groupby(cells, key=lambda cell: cell[1]):
            out.append("".join(mark for mark, _ in run), style=style)
        out.append("\n")
    out.right_crop(1)
    return out


def panel(play: Play, agent: int, step: int, layout: Layout, *, ascii_only: bool = False) -> Panel:
    """Return the panel of one agent."""
    best, colour, terms = play.best(step) == agent, colour_of(agent), play.terms
    waiting, late = large(float(play.backlog[agent, step])), float(play.late_share[agent, step])
    total = terms.sign * float(play.score[agent, step])
    facts = Text.assemble(
        (f"{terms.ready} ", "dim"), (f"{play.ready[agent, step]:>3.0f}", f"bold {colour}"),
        (f" {terms.asked} ", "dim"), f"{play.replicas[agent, step]:>3.0f}",
        (f" {terms.backlog} ", "dim"), (f"{waiting:>6}", RED if play.short(agent, step) else ""),
        "\n",
        (f"{terms.cost} ", "dim"), f"{play.cost[agent, step]:>{3 + terms.digits}.{terms.digits}f}",
        (f" {terms.late} ", "dim"), f"{terms.late_told(late, 1):>{6 if terms.percent else 5}}",
        (f" {terms.score} ", "dim"),
        (f"{total:>5.{1 if abs(total) >= 100.0 else 2}f}", "bold green" if best else "bold"),
    )  # fmt: skip
    body = Group(chart(play, agent, step, layout.width - 4, layout.rows, ascii_only=ascii_only), facts)
    title = Text(play.title(agent)[: layout.width - 8], style=f"bold {colour}")
    return Panel(body, title=title, title_align="left", width=layout.width,
                 box=box.ASCII if ascii_only else box.ROUNDED, border_style="green" if best else "grey37")  # fmt: skip


def screen(
    play: Play, step: int, speed: float, layout: Layout, *, paused: bool = False, keys: bool = True,
    ascii_only: bool = False,
) -> RenderableType:  # fmt: skip
    """Return everything at one step."""
    head = Text.assemble(
        ("rlscaler demo", "bold"), f"  {printable(play.scenario)}  ", (clock(float(play.time[step])), "bold"),
        f"  load {play.load[step]:,.0f} {play.terms.load} = {play.demand[step]:.1f} {play.terms.count}  ",
        ("paused" if paused else f"{speed:g}x", "bold yellow" if paused else "dim"),
        no_wrap=True, overflow="ellipsis",
    )  # fmt: skip
    grid = Table.grid()
    panels = [panel(play, agent, step, layout, ascii_only=ascii_only) for agent in range(layout.shown)]
    for begin in range(0, len(panels), layout.across):
        grid.add_row(*panels[begin : begin + layout.across])
    hidden = len(play.agents) - layout.shown
    more = f"; {hidden} more need a larger terminal" if hidden else ""
    lines = [Text(f"{legend(play.terms)}{more}", style="dim", no_wrap=True, overflow="ellipsis")]
    if keys:
        told = KEYS.format(move="a minute" if play.interval <= MOVE else "a step")
        lines.append(Text(told.replace("←/→", "left/right") if ascii_only else told, style="dim", no_wrap=True))
    return Group(head, grid, *lines)


def legend(terms: Terms) -> str:
    """Return what the parts of a chart are."""
    return f"grey: {terms.grey}; line: {terms.line}; red: {terms.red}; green frame: {terms.by}"


def ranking(play: Play, step: int) -> Table:
    """Return who stands where at a step, the best score first."""
    terms = play.terms
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in (terms.score, terms.cost, terms.late, "rescales"):
        table.add_column(heading, justify="right", header_style="dim")
    for place, agent in enumerate(play.ranking(step)):
        rescales = int((np.diff(play.replicas[agent, : step + 1]) != 0).sum())
        table.add_row(
            Text(play.title(agent)), f"{terms.sign * play.score[agent, step]:.3f}", f"{play.cost[agent, step]:.3f}",
            terms.late_told(float(play.late_share[agent, step])), str(rescales), style="bold" if place == 0 else "",
        )  # fmt: skip
    return table


@contextmanager
def pressed() -> Iterator[Callable[[float], str]]:
    """Give a function that waits up to so many seconds for a key and returns it, "" where there was none.

    The terminal gives keys at once meanwhile, and is put back as it was. Without a terminal there are no keys.
    """
    try:
        import termios
        import tty

        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
    except Exception:  # no terminal, or no standard input at all
        import time

        def wait(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield wait
        return

    def key(seconds: float) -> str:
        ready, _, _ = select.select([handle], [], [], seconds)
        return os.read(handle, 8).decode("ascii", "replace") if ready else ""

    tty.setcbreak(handle)
    try:
        yield key
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


def watch(play: Play, console: Console, key: Callable[[float], str], now: Callable[[], float], speed: float) -> int:
    """Show the play until its end or until it is quit, and return the last step that was shown.

    key: see `pressed`. now: seconds of the wall.
    """
    playback = Playback(0.0, float(play.time[-1]), speed, max(MOVE, play.interval))
    ascii_only = not console.encoding.lower().startswith("utf")
    step, before = 0, now()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            step = int(np.searchsorted(play.time, playback.at + 1e-9, side="right")) - 1
            layout = Layout.of(len(play.agents), console.width, console.height)
            shown = screen(play, step, playback.speed, layout, paused=playback.paused, ascii_only=ascii_only)
            live.update(shown, refresh=True)
            if playback.over:
                return step
            for each in keys_in(key(1.0 / FRAMES)):
                playback.press(each)
            present = now()
            playback.advance(present - before)
            before = present


def keys_in(read: str) -> list[str]:
    """Return the keys of what was read at once: an arrow is three letters and one key."""
    found = []
    while read:
        size = 3 if read.startswith("\x1b[") and len(read) >= 3 else 1
        found.append(read[:size])
        read = read[size:]
    return found
