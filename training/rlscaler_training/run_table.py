"""The command `rlscaler runs`: what has been trained, what is being trained, and what waits to be gone on with."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlscaler.quantities import printable

if TYPE_CHECKING:
    from rlscaler_training.run_record import Record

ROOT = "runs"
"""Where runs go that no folder is named for."""
WIDE = 180
"""Columns of a table that goes to a file or a pipe: nothing is left out there."""


@dataclass(frozen=True, slots=True)
class Column:
    """heading: of the table. text: of a run. right: numbers stand at the right."""

    heading: str
    text: "Callable[[Record], str]"
    right: bool = True


def duration(seconds: float | None) -> str:
    """Return a time in two units: 8 s, 3 min 20 s, 2 h 5 min; "-" where it is unknown."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def large(value: float | None) -> str:
    """Return a count in three digits: 950, 25.6k, 1.2M; "-" where it is unknown."""
    if value is None:
        return "-"
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * limit:  # where three digits are those of the next unit
            return f"{value / limit:.3g}{letter}"
    return f"{value:.0f}"


def figure(value: float | None) -> str:
    """Return a score; "-" where there is none."""
    return "-" if value is None else f"{value:.3f}"


def when(moment: datetime | None) -> str:
    """Return a moment in UTC to the minute; "-" where it is unknown."""
    return "-" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def state_of(run: "Record") -> str:
    """Return the state, and of a run that is not finished how far it came in the learner's own count."""
    if run.state == "finished" or (reached := run.reached) is None:
        return run.state
    return f"{run.state} at {reached:,}"


COLUMNS = (
    Column("run", lambda r: r.name, right=False),
    Column("learner", lambda r: r.learner, right=False),
    Column("seed", lambda r: "-" if r.seed is None else str(r.seed)),
    Column("state", state_of, right=False),
    Column("best\nscore", lambda r: figure(r.best)),
    Column("final\nscore", lambda r: figure(_told(r, "score"))),
    Column("its\nrule", lambda r: figure(_told(r, "untrained_score"))),
    Column("steps", lambda r: large(r.steps)),
    Column("time", lambda r: duration(r.seconds)),
    Column("steps/s", lambda r: large(r.rate)),
    Column("device", lambda r: r.device or "-", right=False),
    Column("begun (UTC)", lambda r: when(r.began), right=False),
)
LEAST_TELLING = ("device", "steps/s", "its\nrule", "steps", "begun (UTC)", "time", "final\nscore", "seed")
"""Headings in the order in which columns are left out where the terminal is too narrow."""
MEANING = (
    "best: J = cost + price x late on the validation load, lower is better\n"
    "final: the kept policy on draws that it was not chosen by; its rule: the untrained rule on the same draws"
)


def _told(run: "Record", key: str) -> float | None:
    from rlscaler_training.run_record import number

    return number(run.report.get(key))


def told(run: "Record") -> dict[str, Any]:
    """Return a run in JSON's types; what is unknown is None."""
    return {
        "run": run.name,
        "folder": str(run.folder),
        "learner": run.learner,
        "seed": run.seed,
        "state": run.state,
        "resume": run.resumption if run.state == "interrupted" else None,
        "learner_step": run.step,
        "best_score": run.best,
        "score": _told(run, "score"),
        "untrained_score": _told(run, "untrained_score"),
        "steps": run.steps,
        "seconds": run.seconds,
        "steps_per_second": run.rate,
        "device": run.device or None,
        "began": run.began.isoformat() if run.began else None,
        "policy": str(run.policy) if run.policy else None,
    }


def fitting(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return the indices of the columns that fit side by side, the least telling left out first."""
    sizes = []
    for index, column in enumerate(COLUMNS):
        cells = [*column.heading.split("\n"), *(row[index] for row in rows)]
        sizes.append(2 + max(map(len, cells)))
    kept = list(range(len(COLUMNS)))
    for heading in LEAST_TELLING:
        if sum(sizes[i] for i in kept) <= width:
            break
        kept = [i for i in kept if COLUMNS[i].heading != heading]
    return kept


def print_runs(runs: "Sequence[Record]", width: int | None = None) -> None:
    """Print the table, and how to go on with those that were interrupted."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=width or (None if sys.stdout.isatty() else WIDE), soft_wrap=False)
    rows = [[printable(column.text(run)) for column in COLUMNS] for run in runs]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    kept = fitting(rows, console.width)
    for index in kept:
        table.add_column(COLUMNS[index].heading, justify="right" if COLUMNS[index].right else "left",
                         vertical="bottom", no_wrap=True, overflow="ellipsis", header_style="dim")  # fmt: skip
    styles = {"finished": "", "running": "bold cyan", "interrupted": "yellow"}
    for run, row in zip(runs, rows, strict=True):
        table.add_row(*(Text(row[index]) for index in kept), style=styles[run.state])
    console.print(table)
    console.print(Text(MEANING, style="dim"))
    if waiting := [run for run in runs if run.state == "interrupted"]:
        console.print()
        console.print("Interrupted; go on by:")
        for run in waiting:
            click.echo(f"  {printable(run.resumption)}")


@click.command()
@click.argument("folder", default=ROOT, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runs(folder: str, as_json: bool) -> None:
    """List the runs in FOLDER (default: runs), the oldest first.

    \b
    Examples:
      rlscaler runs
      rlscaler runs /data/runs --json
    """
    from rlscaler_training import run_record

    nothing_yet = folder == ROOT and not Path(folder).exists()
    found, problems = ([], []) if nothing_yet else run_record.found(Path(folder))
    if as_json:
        click.echo(json.dumps({"runs": [told(run) for run in found], "unreadable": problems}, indent=2))
    elif found:
        print_runs(found)
    elif not problems:
        click.echo(f"no runs in {folder}; train one with 'rlscaler train q-learning'")
    for problem in problems:
        click.echo(f"unreadable: {printable(problem)}", err=True)
