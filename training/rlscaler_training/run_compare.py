"""The command `rlscaler compare`: what runs were asked differently, what they reached, who is better on equal terms.

Scores that were reached on the way stand beside each other, but each run was validated on draws of its own seed. Who
is better is therefore told by differences on new draws that all policies meet alike: by scenario and seed, with
Student's interval over whole scenarios, since the draws of one resemble each other. A bootstrap over ten of them is too
narrow: it calls one of two policies that are alike better in 9 % of comparisons. Of several runs, the first is the one
that did best on these very draws, so the intervals hold for all pairs together (Bonferroni): of ten runs that are
alike, it would else be called better than another in four of five comparisons.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import comb
from typing import Any

import click
import numpy as np

from rlscaler.errors import UserError
from rlscaler.quantities import printable
from rlscaler.ranges import FiniteRange
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE
from rlscaler_sim.verdict import counted
from rlscaler_training.run_curves import asked, differing
from rlscaler_training.run_record import Record, number
from rlscaler_training.run_table import WIDE, duration, figure, large
from rlscaler_training.trials import Candidate, Trials

LOADS = ("steady", "sine-curve", "sinusoidal", "spike", "poisson", "random-walk", "working-day", "level-shift",
         "flash-crowd", "on-off")  # fmt: skip
"""Scenarios that runs are compared on where none is named: the classic patterns, and four of other character."""
LEVEL = 0.95
"""Of the intervals."""
FEWEST = 5
"""Scenarios below which an interval over them says nothing, so that single draws are counted instead; with fewer of
these, too, nobody is called better."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How the score of `one` differs from that of `other` on the same draws: the mean of one - other (below 0: one is
    better), its interval over so many units, and on how many of the scenarios one is ahead, and both even."""

    one: str
    other: str
    mean: float
    low: float
    high: float
    units: int
    ahead: int
    scenarios: int
    even: int = 0

    @property
    def behind(self) -> int:
        """Scenarios on which the other is ahead."""
        return self.scenarios - self.ahead - self.even

    @property
    def better(self) -> str | None:
        """Who is better; None where it cannot be told."""
        if self.units < FEWEST or self.low <= 0.0 <= self.high:
            return None
        return self.one if self.mean < 0.0 else self.other

    def words(self) -> str:
        """Return it in a sentence."""
        if self.low == self.mean == self.high == 0.0:
            return f"{self.one} and {self.other} decide alike: their scores are equal on every draw."
        if self.better is None:
            why = f" from {counted(self.units, 'draw')}" if self.units < FEWEST else ""
            return (
                f"It cannot be told{why} whether {self.one} or {self.other} is better: {self.one} - {self.other} is "
                f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]."
            )
        first = self.better == self.one
        worse, ahead = (self.other, self.ahead) if first else (self.one, self.behind)
        near, far = sorted((abs(self.low), abs(self.high)))
        return (
            f"{self.better} is better than {worse} by {abs(self.mean):.3f} [{near:.3f}, {far:.3f}], ahead on {ahead} "
            f"of {self.scenarios} {'scenario' if self.scenarios == 1 else 'scenarios'}."
        )


def difference(trials: Trials, one: str, other: str, *, pairs: int = 1) -> Difference:
    """Return how two entrants differ on the draws that both have met.

    pairs: out of how many the two were chosen by these draws; the interval holds for all of them together.
    """
    mine, theirs = (trials.scores[trials.names.index(name)] for name in (one, other))
    apart = mine - theirs
    scenarios = len(apart)
    units = apart.mean(axis=1) if scenarios >= FEWEST else apart.ravel()
    middle, low, high = student(units, 1.0 - (1.0 - LEVEL) / pairs)
    means = apart.mean(axis=1)
    ahead, even = int((means < 0.0).sum()), int((means == 0.0).sum())
    return Difference(one, other, middle, low, high, len(units), ahead, scenarios, even)


def student(values: np.ndarray, level: float) -> tuple[float, float, float]:
    """Return the mean of values (n,) and Student's interval of it; without end for a single value."""
    n, mean = len(values), float(values.mean())
    if n < 2:
        return mean, -np.inf, np.inf
    # t = sqrt(n - 1) tan(angle) has the density cos(angle)^(n - 2), which is summed up to the quantile
    edges = np.linspace(0.0, np.pi / 2, 100_001)
    share = np.cumsum(np.cos((edges[1:] + edges[:-1]) / 2) ** (n - 2))
    quantile = np.sqrt(n - 1) * np.tan(np.interp(level, share / share[-1], edges[1:]))
    reach = float(quantile * values.std(ddof=1) / np.sqrt(n))
    return mean, mean - reach, mean + reach


def settings_table(runs: Sequence[Record]) -> dict[str, list[Any]]:
    """Return what differs between the runs: learner and seed first, then what was asked, a value for each run.

    A setting that runs of one learner alone have is left out where they agree on it.
    """
    rows: dict[str, list[Any]] = {"learner": [run.learner for run in runs], "seed": [run.seed for run in runs]}
    rows = {name: values for name, values in rows.items() if len(set(values)) > 1}
    for name, values in differing(runs).items():
        if differing([run for run in runs if name in asked(run)]).get(name):
            rows[name] = values
    return rows


def named(runs: Sequence[Record]) -> list[str]:
    """Return a name for each run: its folder's, or the whole path where two folders have one name."""
    short = [run.name for run in runs]
    return [name if short.count(name) == 1 else str(run.folder) for name, run in zip(short, runs, strict=True)]


def told(
    runs: Sequence[Record], trials: Trials | None, differences: Sequence[Difference], draws: int, hours: float
) -> dict[str, Any]:
    """Return the comparison in JSON's types; what is unknown is None."""
    names = named(runs)
    rows = []
    for name, run in zip(names, runs, strict=True):
        scored = trials is not None and name in trials.names
        rows.append({
            "run": name, "learner": run.learner, "seed": run.seed, "state": run.state,
            "best_score": run.best, "final_score": number(run.report.get("score")), "steps": run.steps,
            "seconds": run.seconds, "steps_per_second": run.rate,
            "mean_score": trials.mean(name) if trials is not None and scored else None,
        })  # fmt: skip
    return {
        "runs": rows,
        "differs": settings_table(runs),
        "on": {"scenarios": list(trials.loads) if trials else [], "draws": draws, "hours": hours, "level": LEVEL},
        "scores": {name: dict(zip(trials.loads, map(float, row.mean(axis=1)), strict=True))
                   for name, row in zip(trials.names, trials.scores, strict=True)} if trials else {},
        "differences": [asdict(each) | {"better": each.better, "words": each.words()} for each in differences],
    }  # fmt: skip


def print_comparison(
    runs: Sequence[Record], trials: Trials | None, differences: Sequence[Difference], draws: int, hours: float
) -> None:
    """Print what differs, the scores side by side, and who is better in words."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    names = [printable(name) for name in named(runs)]

    def table(title: str, rows: dict[str, Sequence[str]], heads: Sequence[str], marked: bool = False) -> None:
        console.print(Text(title, style="bold"))
        made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        made.add_column("", style="dim")
        for head in heads:
            made.add_column(head, justify="right", overflow="fold")
        for label, cells in rows.items():
            values = [float(c) if marked else 0.0 for c in cells]
            lowest = min(values[: len(runs)]) if marked else None
            made.add_row(
                Text(printable(label)),
                *(Text(printable(cell), style="bold green" if marked and i < len(runs) and values[i] == lowest else "")
                  for i, cell in enumerate(cells)),
            )  # fmt: skip
        console.print(made)
        console.print()

    apart = settings_table(runs)
    if apart:
        table("What differs", {key: [_shown(value) for value in values] for key, values in apart.items()}, names)
    else:
        console.print("Nothing differs in what was asked.\n")
    table("Training", {
        "state": [run.state for run in runs],
        "best score": [figure(run.best) for run in runs],
        "final score": [figure(number(run.report.get("score"))) for run in runs],
        "its rule": [figure(number(run.report.get("untrained_score"))) for run in runs],
        "steps": [large(run.steps) for run in runs],
        "time": [duration(run.seconds) for run in runs],
        "steps/s": [large(run.rate) for run in runs],
    }, names)  # fmt: skip
    if trials is None:
        console.print(
            "Fewer than two of the runs have a policy that can be served, so nobody can be compared on the same draws."
        )
        return
    playing = [name for name in named(runs) if name in trials.names]
    order = [*playing, REFERENCE, CLAIRVOYANT]
    means = trials.scores.mean(axis=2)
    rows = {load: [f"{means[trials.names.index(n), i]:.3f}" for n in order] for i, load in enumerate(trials.loads)}
    rows["mean"] = [f"{trials.mean(name):.3f}" for name in order]
    what = f"Score on the same {counted(draws, 'draw')} of {hours:g} h, none of them seen before (J; lower is better)"
    table(what, dict(rows), [printable(name) for name in order], marked=len(playing) == len(runs))
    for each in differences:
        console.print(Text(printable(each.words())))
    over = "scenarios" if len(trials.loads) >= FEWEST else "draws"
    all_pairs = comb(len(playing), 2)
    chosen = f", for all {all_pairs:,} pairs together, as the first is the best on these very draws" * (all_pairs > 1)
    console.print(Text(f"Brackets: {100 * LEVEL:.0f} % interval over {over}{chosen}.", style="dim"))


def _shown(value: Any) -> str:
    from rlscaler_training.run_curves import text

    found = text(value)
    return found if len(found) <= 60 else found[:59] + "…"


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(), metavar="RUN RUN...")
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME",
              help="Load to compare on ('rlscaler scenarios' lists them); several times.  [default: ten patterns of "
              "different character]")  # fmt: skip
@click.option("--draws", default=5, show_default=True, type=click.IntRange(1, 100), help="Draws of each scenario.")
@click.option("--hours", default=2.0, show_default=True, type=FiniteRange(0.25, 48.0), help="Load of each draw.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def compare(
    folders: Sequence[str], scenarios: Sequence[str], draws: int, hours: float, as_json: bool, quiet: bool
) -> None:
    """Compare training runs: settings that differ, scores, and paired differences on the same new draws.

    A difference is told only where its interval leaves out 0. Of three runs or more it is wide enough for all
    pairs together, since the best is chosen by the draws that it is judged on.

    \b
    Examples:
      rlscaler compare runs/ppo-1 runs/ppo-2
      rlscaler compare runs/* --scenario working-day --scenario load.csv.gz --draws 20 --json
    """
    from rlscaler_sim.commands import known_policy, progress_bar
    from rlscaler_training import run_record
    from rlscaler_training.trials import found_scenarios, tried, unservable

    if len(folders) < 2:
        raise UserError("compare needs two runs or more; 'rlscaler runs' lists them, 'rlscaler report' shows one")
    runs = [run_record.read(folder) for folder in folders]
    resolved = [run.folder.resolve() for run in runs]
    if twice := [str(run.folder) for i, run in enumerate(runs) if resolved[i] in resolved[:i]]:
        raise UserError(f"{twice[0]}: is named twice; expected every run once")
    loads = tuple(dict.fromkeys(scenarios)) or LOADS
    found_scenarios(loads)
    candidates = []
    for name, run in zip(named(runs), runs, strict=True):
        if run.policy is not None and (problem := unservable(run.policy)):
            click.echo(f"note: {name} is not scored: {problem}", err=True)
        elif run.policy is not None:
            candidates.append(Candidate(name, run.policy))
    trials, differences = None, []
    if len(candidates) > 1:
        with progress_bar(quiet or as_json) as progress, known_policy():
            trials = tried(candidates, (REFERENCE,), loads, draws=draws, seconds=3600.0 * hours, progress=progress)
        order = sorted((c.name for c in candidates), key=trials.mean)
        pairs = list(combinations(order, 2)) if len(order) <= 3 else [(order[0], other) for other in order[1:]]
        together = comb(len(order), 2)
        differences = [difference(trials, *pair, pairs=together) for pair in [*pairs, (order[0], REFERENCE)]]
    if as_json:
        click.echo(json.dumps(told(runs, trials, differences, draws, hours), indent=2))
    else:
        print_comparison(runs, trials, differences, draws, hours)
