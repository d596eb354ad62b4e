"""The draws of an evaluation once more, for what is to stand beside its results."""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rlscaler import Settings
from rlscaler.errors import UserError
from rlscaler.files import require_writable
from rlscaler_sim import contenders, evaluation
from rlscaler_sim.contest import Entrant, play
from rlscaler_sim.load import Load, LoadError, realise_many
from rlscaler_sim.totals import Totals
from rlscaler_sim.trace import Trace, TraceError, read_trace, since_first_load, trace_files

Found = TypeVar("Found")
AT_ONCE = 12
"""Traces, of about one length, that are played at once."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The headline traces of an evaluation, `told` as its results tell of them, and how they were played."""

    traces: Sequence[Trace]
    told: Sequence[Mapping[str, Any]]
    seeds: int
    seconds: float
    scale_to: float
    startup: float

    def of(self, contender: str, figure: str) -> np.ndarray:
        """Return a figure of a contender on each trace, (traces,) float64."""
        by_name = [{each["name"]: each for each in trace["contenders"]} for trace in self.told]
        return np.array([each[contender][figure] for each in by_name], np.float64)

    def play(
        self, entrants: Callable[[Sequence[Load], Settings], Sequence[Entrant]]
    ) -> Iterator[tuple[Sequence[Entrant], Totals, list[tuple[int, np.ndarray]]]]:
        """Yield entrants on some of the loads, what came of them, and which columns (L,) are of which trace.

        entrants: returns them for these loads, in the standard settings.
        """
        settings = contenders.standard_settings(self.startup)
        config = evaluation.standard_world(settings)
        order = sorted(range(len(self.traces)), key=lambda i: min(self.traces[i].duration, self.seconds))
        for begin in range(0, len(order), AT_ONCE):
            part = order[begin : begin + AT_ONCE]
            loads = realise_many(
                [self.traces[i] for i in part], range(self.seeds), interval=float(settings.interval),
                duration=self.seconds, scale_to=self.scale_to, capacity=float(settings.capacity_per_replica),
            )  # fmt: skip
            rows = [loads.row(r) for r in range(len(loads.names))]
            who = entrants(rows, settings)
            sums = play(rows, who, config, settings, [int(seed) for seed in loads.seeds], waits=False)
            yield who, sums, [(trace, np.flatnonzero(loads.source == at)) for at, trace in enumerate(part)]


def evaluation_of(traces: Path, results: Path) -> Evaluation:
    """Return what `rlscaler evaluate --output` wrote of the recorded loads in a folder.

    Raises UserError where it is no such file or a trace is not there, TraceError, and OSError.
    """
    found = {trace.name: trace for trace in (since_first_load(read_trace(file)) for file in trace_files(traces))}
    try:
        value = json.loads(results.read_text(encoding="utf-8"))
        told = [each for each in value["traces"] if each["headline"]]
        if missing := [each["trace"] for each in told if each["trace"] not in found]:
            raise UserError(f"{traces}: there is no {missing[0]}, which {results} tells of")
        world, mine = value["world"], [found[each["trace"]] for each in told]
        return Evaluation(
            mine, told, int(world["seeds"]), float(world["seconds"]), float(world["scale_to"]), float(world["startup"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{results} is not what `rlscaler evaluate --output FILE.json` writes: {error!r}") from None


def told_beside(
    name: str,
    purpose: str,
    find: Callable[[Evaluation], Found],
    tell: Callable[[Found], str],
    keep: Callable[[Found, Path], None] | None = None,
) -> None:
    """Run a module's command line: `find` in the evaluation that is named, and print what `tell` makes of it.

    name: of the module. purpose: its docstring, whose first line is shown. keep: writes what was found to a file, where
    that is asked for. Exits with one sentence on a user's mistake.
    """
    parser = argparse.ArgumentParser(description=purpose.splitlines()[0])
    parser.add_argument("--traces", type=Path, required=True, help="folder of recorded load")
    parser.add_argument("--results", type=Path, required=True, help="what `rlscaler evaluate --output` wrote of it")
    if keep is not None:
        parser.add_argument("--output", type=Path, metavar="FILE.json", help="keep what was found")
    asked = parser.parse_args()
    output = asked.output if keep is not None else None
    try:
        if output is not None:
            require_writable(output)
        found = find(evaluation_of(asked.traces, asked.results))
        if keep is not None and output is not None:
            keep(found, output)
    except (UserError, TraceError, LoadError, OSError) as error:
        parser.exit(2, f"{name}: {error}\n")
    print(tell(found))
