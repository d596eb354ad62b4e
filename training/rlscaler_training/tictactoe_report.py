"""What the Tic-Tac-Toe benchmark says: lines for the terminal, and the page.

    python -m rlscaler_training.tictactoe_report docs/tictactoe.json docs/tictactoe.md

makes the page, and the picture beside it, anew from stored results.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from rlscaler.errors import UserError
from rlscaler.files import write_bytes_atomically, write_text_atomically

SECONDS = {1: 295.8, 12: 228.6}
"""Published of earlier work: Tic-Tac-Toe DQN on Ray, 100,000 games, 12 virtual processors; workers -> seconds."""
RATES = {1: 338.0, 12: 438.0}
"""The same in episodes per second."""
WINS = {"first": (0.60, 0.65), "second": (0.31, 0.35)}
"""Published shares of wins against a player of chance: the least and the most."""
SPEEDUP = 1.29
"""Published for 12 workers, against one."""
AT_REST = 0.5
"""Processes that want to run, for each processor, up to which a machine is at rest."""
HEAD = ("workers", "start, s", "training, s", "episodes/s", "updates", "speed-up", "efficiency", "learner waits",
        "stale", "dropped", "replaced", "workers alone: episodes/s", "efficiency alone")  # fmt: skip
PLAYERS = (("random_first", "random, first"), ("random_second", "random, second"), ("perfect_first", "perfect, first"),
           ("perfect_second", "perfect, second"), ("itself", "itself"))  # fmt: skip


def base(told: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the row of one worker, None where it was not measured."""
    return next((row for row in told["rows"] if row["workers"] == 1), None)


def ratio(told: Mapping[str, Any], row: Mapping[str, Any], alone: bool = False) -> float | None:
    """Return how many times as many episodes/s as one worker; alone: while nobody learns. None: it cannot be told."""
    one = base(told)
    if one is None or not row["workers"]:
        return None
    if alone:
        return float(row["alone"]["episodes_per_s"] / one["alone"]["episodes_per_s"])
    return float(row["episodes_per_s"] / one["episodes_per_s"])


def name(row: Mapping[str, Any]) -> str:
    """Return what a row is called."""
    if not row["workers"]:
        return "in this process"
    return f"{row['workers']}{' (oversubscribed)' if row['oversubscribed'] else ''}"


def cells(told: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Return a row of the table, as HEAD has it."""
    counts, alone = row["counts"], row["alone"]
    speedup, alone_speedup = ratio(told, row), ratio(told, row, alone=True)
    workers = max(row["workers"], 1)
    return [
        name(row),
        f"{row['start']:.1f}",
        f"{row['seconds']:.1f}",
        f"{row['episodes_per_s']:,.0f}",
        f"{row['updates']:,}",
        "-" if speedup is None else f"{speedup:.2f}",
        "-" if speedup is None else f"{speedup / workers:.0%}",
        f"{counts['waited'] / row['seconds']:.0%}" if row["workers"] else "-",
        f"{counts['stale']:,} of {counts['chunks']:,}",
        f"{counts['dropped'] + counts['mismatched']:,}",
        f"{counts['replaced']:,}",
        f"{alone['episodes_per_s']:,.0f}",
        "-" if alone_speedup is None else f"{alone_speedup / workers:.0%}",
    ]


def _shares(found: Mapping[str, float]) -> str:
    """Return wins, draws and losses in percent; what is not 0 is not shown as 0."""

    def share(value: float) -> str:
        return "0" if value < 1e-9 else "100" if value > 1 - 1e-9 else f"{min(max(100 * value, 0.1), 99.9):.1f}"

    return " / ".join(share(found[key]) for key in ("wins", "draws", "losses"))


def players(told: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return who played, with the strength of each."""
    rows = [(f"DQN, {name(row)}" if not row["workers"] else f"DQN, workers: {name(row)}", row["strength"])
            for row in told["rows"]]  # fmt: skip
    return [("chance", told["chance"]), ("table", told["table"]["strength"]), *rows, ("perfect", told["perfect"])]


def spoken(told: Mapping[str, Any]) -> list[str]:
    """Return the lines for a terminal."""
    lines = _aligned([HEAD[:9], *(cells(told, row)[:9] for row in told["rows"])])
    lines += ["", *_aligned([("workers alone", "episodes/s", "efficiency"),
                             *((cells(told, row)[0], *cells(told, row)[11:]) for row in told["rows"])])]  # fmt: skip
    lines += ["", "wins / draws / losses in %, over all games that there are"]
    lines += _aligned([("against", *(what for _, what in PLAYERS)),
                       *((who, *(_shares(found[key]) for key, _ in PLAYERS))
                         for who, found in players(told))])  # fmt: skip
    return [*lines, "", _published_line(told), *(line.removeprefix("- ") for line in _noise(told))]


def _published_line(told: Mapping[str, Any]) -> str:
    best = max(told["rows"], key=lambda row: row["episodes_per_s"])
    first, second = (f"{100 * low:.0f} to {100 * high:.0f} %" for low, high in WINS.values())
    return (
        f"published, on 12 processors: {RATES[1]:,.0f} to {RATES[12]:,.0f} episodes/s, {SPEEDUP} times at 12 workers;"
        f" wins {first} first and {second} second. Here, on {told['machine']['usable_processors']}:"
        f" {best['episodes_per_s']:,.0f} episodes/s at best"
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) if at == 0 else cell.rjust(width)
                      for at, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]  # fmt: skip


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
    return [f"| {' | '.join(line)} |" for line in lines]


def markdown(told: Mapping[str, Any], picture: str | None = "tictactoe.png") -> str:
    """Return the page. picture: its file beside the page, if there is one."""
    machine, settings = told["machine"], told["settings"]
    published = [[f"published, {count}", "", f"{SECONDS[count]}", f"{RATES[count]:.0f}", "", f"{times:.2f}",
                  f"{times / count:.0%}"] for count, times in ((1, 1.0), (12, SPEEDUP))]  # fmt: skip
    rows = [[*row, *[""] * (len(HEAD) - len(row))] for row in [*(cells(told, row) for row in told["rows"]), *published]]
    table, count = told["table"], machine["usable_processors"]
    lines = [
        "# Rollouts on Ray, by Tic-Tac-Toe",
        "",
        f"`{told['command']}` (`make tictactoe`), on {count} processors ({machine['architecture']}, Python"
        f" {machine['python']}, torch {machine['versions']['torch']}). Published figures are of 12 virtual processors.",
        "",
        f"A deep Q-network plays itself for {settings['episodes']:,} games. Workers play"
        f" {settings['envs']:,} games at once and give back chunks of {settings['envs'] * settings['horizon']:,} moves;"
        f" the learner makes a gradient update of {settings['batch']:,} moves for every"
        f" {settings['moves_per_update']:,} that are played, whoever played them. Rows differ in who plays and in"
        " nothing else.",
        "",
        *([f"![Episodes per second and strength]({picture})", ""] if picture else []),
        "## Speed",
        "",
        *_table(HEAD, rows),
        "",
        *_reading(told),
        *_noise(told),
        "",
        "## Strength",
        "",
        "Wins / draws / losses in percent. A player is a table over all 5,478 positions, so shares are summed over all"
        " games that there are; nothing is sampled. No loss to chance means that no sequence of replies beats it.",
        "",
        *_table(
            ("", *(f"against {what}" for _, what in PLAYERS)),
            [
                *((who, *(_shares(found[key]) for key, _ in PLAYERS)) for who, found in players(told)),
                ("published DQN", *(f"{100 * low:.0f} to {100 * high:.0f} won" for low, high in WINS.values()), *"   "),
            ],
        ),
        "",
        f"`table`: tabular Q-learning on as many games in this process, {table['seconds']:.1f} s,"
        f" {table['episodes_per_s']:,.0f} episodes/s. `perfect`: draws one of the moves that minimax finds best; it"
        " does not hope for mistakes, which is why a learned player may win more often against chance.",
    ]
    return "\n".join([*lines, ""])


def _reading(told: Mapping[str, Any]) -> list[str]:
    """Return how the table of speeds is to be read."""
    rows = told["rows"]
    local, one = next((row for row in rows if not row["workers"]), None), base(told)
    settings = told["settings"]
    long = settings["envs"] * settings["horizon"] * told.get("alone_times", 1)
    lines = [
        "- `training`: from the first chunk that was asked for to the last update; `start`: until every worker had"
        " played, once. `learner waits`: share of the training in which no chunk was there.",
        "- `speed-up` and `efficiency` (speed-up over workers) are against one worker on Ray. The learner's updates are"
        " the same work in every row and take a processor of their own; once it never waits, more workers can add"
        f" nothing. `workers alone` is the same workers while nobody learns, in chunks of {long:,} moves.",
        "- `stale`: chunks made by weights older than the newest when they were used (DQN learns off its policy);"
        f" `dropped`: more than {told['settings']['limit']:,} versions behind, or not of the version that was asked"
        " for; `replaced`: workers that died or did not answer.",
    ]
    if any(row["oversubscribed"] for row in rows):
        lines.append("- `oversubscribed`: more workers than processors, which says nothing of a machine that has them.")
    if local is not None and one is not None:
        share = one["episodes_per_s"] / local["episodes_per_s"]
        lines.append(f"- One worker on Ray is {share:.2f} times as fast as the same loop in one process.")
    return lines


def _noise(told: Mapping[str, Any]) -> list[str]:
    """Return what is to be said of a machine that was not at rest."""
    load, count = told["machine"].get("load"), told["machine"]["usable_processors"]
    if load is None or load < AT_REST * count:
        return []
    return [
        f"- The machine was not at rest: {load:.0f} other processes wanted its {count} processors when this began."
        " Rates are lower than on one that is, and speed-up and efficiency tell of what else was running, not of the"
        " workers."
    ]


@click.command()
@click.argument("stored", type=click.Path())
@click.argument("page", type=click.Path())
def main(stored: str, page: str) -> None:
    """Make the page of stored results anew, and its picture."""
    from rlscaler_training import tictactoe_picture

    try:
        told = json.loads(Path(stored).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{stored}: cannot be read as JSON: {error}") from error
    picture = Path(page).with_suffix(".png")
    write_text_atomically(page, markdown(told, picture.name))
    write_bytes_atomically(picture, tictactoe_picture.png(told))


if __name__ == "__main__":
    main()
