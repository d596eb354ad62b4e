"""The dry-run in the terminal: who won, why, the figures, and the load against what was ready.

Readable at 80 columns, at fewer with the least telling columns left out, and in plain ASCII where the
terminal has no more. Names come from users, so they are never read as markup and control characters never
reach the terminal.
"""

import math
from collections.abc import Callable

import numpy as np
from rich.box import HORIZONTALS, Box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rlscaler_sim.result import Contender, DryRun
from rlscaler_sim.verdict import COLUMNS, Column, assumptions, counted, figure, percent, verdict

Writer = Callable[[str], str]

BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.:-=+*#"
MARKS = 3
"""Columns of the terminal before a name."""

_LEAST_TELLING = (
    "max_replicas", "wait_p95_s", "rescales", "replica_hours", "regret", "violation_share", "cost_ratio",
)  # fmt: skip
_DASHES = Box("    \n    \n -- \n    \n -- \n -- \n    \n    \n", ascii=True)
_PLAIN = str.maketrans({"–": "-", "—": "-", "…": ".", "×": "x", "★": "*", "▸": ">"})


def print_table(run: DryRun, console: Console | None = None) -> None:
    """Print the summary of a dry-run to `console` (the terminal by default), as wide and rich as it can show."""
    terminal = console or Console()
    ascii_only = not terminal.encoding.lower().startswith("utf")
    terminal.print(summary(run, terminal.width, ascii_only=ascii_only))


def summary(run: DryRun, width: int, *, ascii_only: bool = False) -> RenderableType:
    """Return the summary for a terminal of `width` columns, in ASCII only where asked."""
    write = writer(ascii_only=ascii_only)
    headline, why = verdict(run)
    facts = f" on {run.trace}, policy {run.policy}, {counted(run.decisions)}"
    columns, left_out = _fitting(run, width, write)
    lines: list[RenderableType] = [
        Text.assemble((write(run.resource), "bold"), (write(facts), "dim")),
        Text(),
        _table(run, columns, width, write, _DASHES if ascii_only else HORIZONTALS),
        *(Text(write(line), style="dim") for line in (_caption(run), *assumptions(run))),
        Text(),
        Text(write(f"{headline}: {why[:1].lower()}{why[1:]}"), style="bold"),
    ]
    if run.lower_bound is not None and math.isfinite(run.lower_bound):
        lines.append(Text(f"No policy can score below {run.lower_bound:.3f} on this trace (proven).", "dim"))
    if left_out:
        lines.append(Text(f"Left out for width: {', '.join(c.long.lower() for c in left_out)}.", "dim"))
    lines += [Text(), *_sparklines(run, width, write, ASCII_BLOCKS if ascii_only else BLOCKS)]
    return Group(*lines)


def writer(*, ascii_only: bool) -> Writer:
    """Return a function that makes any text safe to print: no control characters, and ASCII where asked."""

    def write(text: str) -> str:
        safe = "".join(c if c.isprintable() else "?" for c in text)
        return safe.translate(_PLAIN).encode("ascii", "replace").decode() if ascii_only else safe

    return write


def _fitting(run: DryRun, width: int, write: Writer) -> tuple[list[Column], list[Column]]:
    """Return the columns that fit beside a readable name, and those that do not."""
    names = max(cell_len(write(c.name)) for c in run.contenders)
    columns = list(COLUMNS)
    for key in _LEAST_TELLING:
        used = MARKS + min(names, 20) + sum(_width(run, column, write) for column in columns)
        if used <= width:
            break
        columns = [column for column in columns if column.key != key]
    return columns, [column for column in COLUMNS if column not in columns]


def _width(run: DryRun, column: Column, write: Writer) -> int:
    """Return the columns of the terminal that a column of figures takes, the gap before it included."""
    heading = max(map(len, column.short.split("\n")))
    return 2 + max(heading, *(cell_len(write(column.text(c))) for c in run.contenders))


def _table(run: DryRun, columns: list[Column], width: int, write: Writer, box: Box) -> Table:
    """Return the table, best score first, the clairvoyant below a rule as the limit."""
    room = max(8, width - MARKS - sum(_width(run, column, write) for column in columns))
    table = Table(box=box, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, border_style="dim")
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column.short, justify="right", vertical="bottom", no_wrap=True, header_style="dim")

    def add(contender: Contender, style: str, *, won: bool = False) -> None:
        name = write(contender.name)
        if cell_len(name) > room:
            name = set_cell_size(name, room - 1) + write("…")
        mark = write(("▸" if contender.name == run.policy else " ") + ("★" if won else " "))
        cells = [Text(write(column.text(contender))) for column in columns]
        table.add_row(Text(f"{mark} {name}"), *cells, style=style)

    for place, contender in enumerate(run.ranked):
        won = place == 0 and math.isfinite(contender.score)
        add(contender, "bold cyan" if contender.name == run.policy else "bold" if won else "", won=won)
    if run.limit is not None:
        table.add_section()
        add(run.limit, "dim")
    return table


def _caption(run: DryRun) -> str:
    """Return what the marks and the score mean."""
    caption = "▸ policy under test  ★ best score (cost + 20 × late)"
    return caption if run.limit is None else f"{caption}  {run.limit.name}: the limit"


def peaks(values: np.ndarray, columns: int) -> np.ndarray:
    """Return the place (int) of the largest of values (T,) in each of at most `columns` equal stretches.

    Where all of a stretch is NaN, it is the place of its beginning.
    """
    starts = np.linspace(0, len(values), min(columns, len(values)), endpoint=False).astype(int)
    parts = np.split(np.where(np.isnan(values), -np.inf, values), starts[1:])
    return np.array([start + int(np.argmax(part)) for start, part in zip(starts, parts, strict=True)], dtype=int)


def sparkline(values: np.ndarray, top: float, blocks: str = BLOCKS) -> str:
    """Return one of `blocks` for each of values, from 0 to `top`; a blank where the value is unknown."""
    share = np.asarray(values, np.float64) / top if top > 0 else np.where(np.isfinite(values), 0.0, np.nan)
    level = np.clip(np.ceil(np.nan_to_num(share) * len(blocks)) - 1, 0, len(blocks) - 1).astype(int)
    return "".join(blocks[i] if np.isfinite(s) else " " for s, i in zip(share, level, strict=True))


def _sparklines(run: DryRun, width: int, write: Writer, blocks: str) -> list[Text]:
    """Return the load at its peaks above the policy's ready capacity at these moments, on one scale."""
    series = run.series
    capacity = series.capacity_per_replica
    if math.isnan(capacity):  # without any load, which whatever is ready can serve; its line is in replicas then
        capacity = 1.0
    ready = series.ready[[c.name for c in run.contenders].index(run.policy)] * capacity
    load = np.where(series.known, series.load, np.nan)
    seen = np.isfinite(load) & np.isfinite(ready)
    peak = float(load[seen].max()) if seen.any() else math.nan
    short = float(np.mean(load[seen] > ready[seen])) if seen.any() else math.nan
    lack = "never below the load" if short == 0 else f"below the load {percent(short)} of time"
    notes = [f"peak {figure(peak, ',.0f' if peak >= 9.95 else '.2g')} requests/s", lack]
    room = max(8, min(width - 10 - max(map(len, notes)), 120))
    at = peaks(load, room)
    bars = [load[at], ready[at]]
    top = float(np.nanmax(np.concatenate([*bars, [0.0]])))
    return [
        Text.assemble((f"  {label:<6}", "dim"), (sparkline(bar, top, blocks), style), (f"  {write(note)}", "dim"))
        for label, bar, style, note in zip(("load", "ready"), bars, ("", "cyan"), notes, strict=True)
    ]
