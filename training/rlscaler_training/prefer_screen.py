"""A pair of episodes in the terminal: load, capacity, backlog and cost side by side, in a frame that favours none."""

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlscaler.quantities import printable
from rlscaler_sim.result import LATE_WEIGHT
from rlscaler_training.demo_play import Agent, Play, colour_of
from rlscaler_training.demo_screen import ASCII_BLOCKS, BLOCKS, COLUMN, RED, chart
from rlscaler_training.preference_pairs import Segments
from rlscaler_training.run_table import large

SIDES = ("A", "B")
ROWS = 8
NARROWEST, FRAME = 34, 4
LEGEND = "grey: load in replicas; line: ready replicas; red: load that is not served, requests that wait"


def play_of(found: Segments, row: int) -> Play:
    """Return a pair as a demo shows two agents."""
    steps = found.rate.shape[1]
    capacity = float(found.capacity[row])
    cost = np.cumsum(found.cost[row], axis=1) / np.arange(1, steps + 1)
    come = np.maximum(np.cumsum(found.arrivals[row]), 1e-9)
    share = np.cumsum(found.late[row], axis=1) / come
    late = found.late[row] / np.maximum(found.arrivals[row], 1e-9)
    return Play(
        scenario=found.names[row], agents=tuple(Agent(name, name, False) for name in SIDES), interval=found.interval,
        capacity=capacity, time=found.interval * np.arange(steps), load=found.rate[row],
        demand=found.rate[row] / capacity, ready=found.ready[row], replicas=found.replicas[row],
        backlog=found.backlog[row], late=late, cost=cost, late_share=share, score=cost + LATE_WEIGHT * share,
    )  # fmt: skip


def figures(found: Segments, row: int, side: int) -> dict[str, str]:
    """Return in words what an episode came to."""
    waits = found.backlog[row, side].max()
    rescales = int((np.diff(found.replicas[row, side]) != 0).sum())
    return {
        "cost": f"{found.cost[row, side].mean():.2f} x needed",
        "late": f"{100.0 * found.late_share[row, side]:.2f} %",
        "backlog": "none" if waits < 0.5 else f"{large(float(waits))} at most",
        "changes": f"{rescales} of {found.rate.shape[1]}",
    }


def beside(found: Segments, row: int, title: str, width: int, ascii_only: bool) -> RenderableType:
    """Return a pair side by side, or one above the other where the terminal is narrow."""
    play = play_of(found, row)
    columns = -(-play.steps // COLUMN)
    across = 2 if width >= 2 * max(NARROWEST, columns + FRAME) else 1
    grid = Table.grid()
    panels = [_panel(play, found, row, side, columns, ascii_only) for side in range(2)]
    for begin in range(0, 2, across):
        grid.add_row(*panels[begin : begin + across])
    minutes = play.steps * play.interval / 60.0
    head = Text(f"{printable(title)}, {minutes:g} minutes, {play.demand.mean():.1f} replicas needed on average")
    return Group(head, grid, Text(LEGEND, style="dim"))


def _panel(play: Play, found: Segments, row: int, side: int, columns: int, ascii_only: bool) -> Panel:
    blocks = ASCII_BLOCKS if ascii_only else BLOCKS
    top = max(1.0, float(play.backlog.max()))
    waits = [play.backlog[side, begin : begin + COLUMN].max() for begin in range(0, play.steps, COLUMN)]
    backlog = Text("".join(blocks[int(np.ceil(8.0 * each / top)) if each >= 0.5 else 0] for each in waits), style=RED)
    table = Table.grid(padding=(0, 1))
    for name, value in figures(found, row, side).items():
        table.add_row(Text(name, style="dim"), value)
    body = Group(chart(play, side, play.steps - 1, columns, ROWS, ascii_only=ascii_only), backlog, table)
    return Panel(
        body, title=Text(SIDES[side], style=f"bold {colour_of(side)}"), title_align="left",
        width=max(NARROWEST, columns + FRAME), box=box.ASCII if ascii_only else box.ROUNDED, border_style="grey50",
    )  # fmt: skip
