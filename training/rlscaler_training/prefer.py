"""The command `rlscaler prefer`: two episodes of one load side by side, and which of them is the better one."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlscaler.errors import UserError
from rlscaler.ranges import FiniteRange

if TYPE_CHECKING:
    from rlscaler_training.preference_pairs import Answer, Player, Segments

PERSON, PAIRS, TAUGHT = "person", 20, 500
"""Who answers where no name is given, and how many pairs: a person's ten minutes, a scripted teacher's."""
KEYS = {"a": "a", "b": "b", "e": "equal", "equal": "equal", "s": "skip", "skip": "skip", "q": "", "quit": ""}


@click.command()
@click.argument("file", type=click.Path(dir_okay=False), metavar="FILE.jsonl")
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Load to show, by name ('rlscaler "
              "scenarios' lists them); several times.  [default: those that are trained on]")  # fmt: skip
@click.option("--hours", default=3.0, show_default=True, type=FiniteRange(1.0, 24.0 * 14),
              help="Load of each scenario.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of loads and episodes.")
@click.option("--pairs", type=click.IntRange(1, 1_000_000), help="Pairs that are to be answered, those that the file "
              f"has among them.  [default: {PAIRS}; with --teacher {TAUGHT}]")  # fmt: skip
@click.option("--by", default=PERSON, show_default=True, metavar="NAME", help="Who answers, kept with each answer.")
@click.option("--page", type=click.Path(dir_okay=False), metavar="FILE.html", help="Also write each pair as a page, "
              "which shows the next one by itself.")  # fmt: skip
@click.option("--teacher", type=click.Choice(["slo", "cost", "flap"]), help="Let a script answer: fewer late requests, "
              "fewer replicas billed, or fewer changes of the replicas.")  # fmt: skip
@click.option("--error", default=0.0, show_default=True, type=FiniteRange(0.0, 1.0),
              help="Share of the teacher's choices that are turned round.")  # fmt: skip
def prefer(
    file: str, scenarios: tuple[str, ...], hours: float, seed: int, pairs: int | None, by: str, page: str | None,
    teacher: str | None, error: float,
) -> None:  # fmt: skip
    """Say which of two episodes scaled better; 'rlscaler train bdq|apg --preferences FILE' learns from it.

    Both meet the same load from the same moment on; they differ in how much headroom is kept and how long. Each answer
    is a line of FILE.jsonl, on the disk before the next pair is shown; pairs that FILE.jsonl has an answer to are not
    asked again.

    \b
    Examples:
      rlscaler prefer mine.jsonl
      rlscaler prefer mine.jsonl --scenario flash-crowd --page pair.html
      rlscaler prefer slo.jsonl --teacher slo --error 0.1 --pairs 500
      rlscaler train apg --preferences slo.jsonl
    """
    from rlscaler.files import require_ending, require_writable
    from rlscaler_training import preference_pairs
    from rlscaler_training.preference_pairs import Source

    if error and teacher is None:
        raise UserError("--error is given without --teacher; a person's errors are not chosen")
    require_ending({"--page": page}, ".html", ".htm")
    for path in (file, page):
        if path is not None:
            require_writable(path)
    for note in preference_pairs.mended(file):
        click.echo(f"note: {note}", err=True)
    source = Source(tuple(scenarios), hours, seed)
    answered = preference_pairs.read(file)[0] if Path(file).exists() else []
    there = {each.pair for each in answered if each.source == source}
    wanted = pairs if pairs is not None else TAUGHT if teacher else PAIRS
    numbers: list[int] = []
    number = 0
    while len(there) + len(numbers) < wanted:
        if number not in there:
            numbers.append(number)
        number += 1
    if not numbers:
        click.echo(f"{file}: {_pairs(len(there))} of {_loads(source.scenarios)} {_are(len(there))} answered; ask for "
                   "more by --pairs")  # fmt: skip
        return
    click.echo(f"preparing {_loads(source.scenarios)} ...", err=True)
    player = preference_pairs.player(source)
    if teacher is not None:
        _taught(file, player, numbers, teacher, error)
    else:
        _asked(file, player, numbers, by, page, len(there))


def _loads(scenarios: tuple[str, ...]) -> str:
    return ", ".join(scenarios) if scenarios else "the loads that are trained on"


def _pairs(count: int) -> str:
    return f"{count} pair{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _answer(player: "Player", pair: int, said: str, by: str, found: "Segments", row: int) -> "Answer":
    from rlscaler_training.preference_pairs import Answer

    source = player.source
    return Answer(pair, source.scenarios, source.hours, source.seed, said, by, found.digest(row))


def _taught(file: str, player: "Player", numbers: list[int], teacher: str, error: float) -> None:
    """Let a teacher answer, a round of pairs at a time."""
    import numpy as np

    from rlscaler_training import preference_pairs, preference_teachers

    counts = {"a": 0, "b": 0, "equal": 0}
    for begin in range(0, len(numbers), preference_pairs.ROUND):
        part = numbers[begin : begin + preference_pairs.ROUND]
        found = player.play(part)
        said = preference_teachers.answers(teacher, found, np.array(part), error, player.source.seed)
        by = f"teacher:{teacher}" + (f" {error:g}" if error else "")
        preference_pairs.append(
            file, [_answer(player, part[row], each, by, found, row) for row, each in enumerate(said)]
        )
        for each in said:
            counts[each] += 1
    what, _, _ = preference_teachers.TEACHERS[teacher]
    count = f"{len(numbers)} answer{'' if len(numbers) == 1 else 's'}"
    click.echo(f"{file}: {count} of a teacher that wants {what} and errs in {error:.0%}: "
               f"A {counts['a']}, B {counts['b']}, equal {counts['equal']}")  # fmt: skip


def _asked(file: str, player: "Player", numbers: list[int], by: str, page: str | None, before: int) -> None:
    """Ask a person, pair by pair, until all are answered or they have had enough."""
    from rich.console import Console

    from rlscaler.files import write_text_atomically
    from rlscaler_training import prefer_page, preference_pairs
    from rlscaler_training.prefer_screen import beside

    console = Console(highlight=False)
    total, done = before + len(numbers), 0
    for pair in numbers:
        found = player.play([pair])
        title = f"pair {before + done + 1} of {total}: {found.names[0]}"
        console.print(beside(found, 0, title, console.width, not console.encoding.lower().startswith("utf")))
        if page is not None:
            write_text_atomically(page, prefer_page.render(found, 0, title))
        said = _said()
        if not said:
            break
        preference_pairs.append(file, [_answer(player, pair, said, by, found, 0)])
        done += 1
        click.echo(f"kept: {said}")
    left = len(numbers) - done
    more = f"; {left} {_are(left)} left, go on by the same command" if left else ""
    click.echo(f"{file}: {_pairs(before + done)} {_are(before + done)} answered{more}")


def _said() -> str:
    """Return the answer, empty where the person leaves; anything else is asked again."""
    while True:
        try:
            told = click.prompt("which is better? A, B, equal, skip or quit", prompt_suffix=" [a/b/e/s/q]: ")
        except click.exceptions.Abort:
            click.echo()
            return ""
        if (found := KEYS.get(str(told).strip().lower())) is not None:
            return found
        click.echo(f"{told!r} is none of a, b, e, s and q")
