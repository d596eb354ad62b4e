"""How much of what a policy loses could be foreseen: the regret of those who know more than anyone can.

    python -m rlscaler_sim.foresight --traces FOLDER --results docs/results.json

On the draws of an evaluation, and beside its references, are scored

- orders made with the coming rate known to the bit, as far as an order reaches, but not the noise of the arrivals: what
  a perfect forecast of the load would be worth;
- the policies of the package as they are shipped, which were trained on these very traces: what is left to a network
  that has met the load before, so that unseen load is not what it lacks.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler import Settings
from rlscaler.errors import UserError
from rlscaler.policies import load_policy
from rlscaler_sim import contenders, evaluation
from rlscaler_sim.contest import Entrant, Schedule, play
from rlscaler_sim.load import Load, LoadError, realise_many
from rlscaler_sim.measure import gridded
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE
from rlscaler_sim.trace import Trace, TraceError, read_trace, since_first_load, trace_files

SPARES = tuple((share, root) for share in (0.0, 0.03, 0.06) for root in (0.2, 0.3, 0.4, 0.5))
"""Replicas above the peak of the coming rate, as a share of it and in its square roots, of which the best is taken."""
AT_ONCE = 12
"""Traces, of about one length, that are played at once."""
KNOWN = "the coming rate known, the noise not"
"""The name of who knows it."""


def peaks(loads: Sequence[Load], settings: Settings, per_step: int) -> np.ndarray:
    """Return the largest demand that the order of each step has to serve, (L, T) replicas at full use.

    An order is ready one start-up later, and what it takes away goes at once: so it is the largest of the steps from
    its own to that in which it is ready. Steps after the load's end need nothing.
    """
    rates, _, _ = gridded(loads, per_step)
    need = rates.max(axis=2) / float(settings.capacity_per_replica)
    reach = math.ceil(float(settings.startup) / float(settings.interval))
    padded = np.pad(need, ((0, 0), (0, reach)))
    found: np.ndarray = np.lib.stride_tricks.sliding_window_view(padded, reach + 1, axis=1).max(axis=2)
    return found


def foreseeing(loads: Sequence[Load], settings: Settings, per_step: int) -> list[Entrant]:
    """Return contenders that know the coming rate, one for each of SPARES; nothing but their bounds limits them."""
    bare = replace(settings, behavior=None, floor=False, flap_budget=np.inf, holds=False)
    peak = peaks(loads, settings, per_step)
    low, high = float(settings.min_replicas), float(settings.max_replicas)
    return [
        Entrant(
            f"{KNOWN} {share:g} {root:g}",
            Schedule(np.clip(np.ceil(peak * (1.0 + share) + root * np.sqrt(peak)), low, high).astype(np.int32)),
            bare,
        )
        for share, root in SPARES
    ]


def scores(traces: Sequence[Trace], seeds: int, seconds: float, scale_to: float, startup: float) -> dict[str, Any]:
    """Return the score of each who knows more on each trace, name -> (traces,), a mean over the seeds.

    The arguments are those of the evaluation that it is to stand beside.
    """
    settings = contenders.standard_settings(startup)
    config = evaluation.standard_world(settings)
    per_step = round(float(settings.interval) / 3.0)
    order = sorted(range(len(traces)), key=lambda i: min(traces[i].duration, seconds))
    found: dict[str, np.ndarray] = {}
    for begin in range(0, len(order), AT_ONCE):
        part = order[begin : begin + AT_ONCE]
        loads = realise_many(
            [traces[i] for i in part], range(seeds), interval=float(settings.interval), duration=seconds,
            scale_to=scale_to, capacity=float(settings.capacity_per_replica),
        )  # fmt: skip
        rows = [loads.row(r) for r in range(len(loads.names))]
        who = foreseeing(rows, settings, per_step)
        who += [
            Entrant(f"`{name}`, has met the very traces", load_policy(name), settings) for name in contenders.SHIPPED
        ]
        sums = play(rows, who, config, settings, [int(seed) for seed in loads.seeds], waits=False)
        for entrant, score in zip(who, sums.score, strict=True):
            mine = found.setdefault(entrant.name, np.zeros(len(traces)))
            for source, trace in enumerate(part):
                mine[trace] = score[loads.source == source].mean()
    return found


def regrets(found: Mapping[str, np.ndarray], told: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """Return regret and regret_own, name -> reference -> (traces,), of the best of SPARES and of all others.

    found: of `scores`. told: the traces as an evaluation tells them. Those who were evaluated there follow.
    """
    score = [{each["name"]: each["score"] for each in trace["contenders"]} for trace in told]
    limit = np.array([each[CLAIRVOYANT] for each in score])
    spans = {name: np.array([each[name] for each in score]) - limit for name in (REFERENCE, contenders.OWN)}

    def of(scores: np.ndarray) -> dict[str, np.ndarray]:
        return {name: (scores - limit) / span for name, span in spans.items()}

    foreseen = [of(values) for name, values in found.items() if name.startswith(KNOWN)]
    best = min(foreseen, key=lambda each: float(each[contenders.OWN].mean()))
    return (
        {KNOWN: best}
        | {name: of(values) for name, values in found.items() if not name.startswith(KNOWN)}
        | {
            f"`{name}`, has met none of their sources": of(np.array([each[name] for each in score]))
            for name in contenders.SHIPPED
        }
    )


def table(found: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Return a Markdown table: median, mean and worst of both regrets."""
    lines = ["| | regret, median | mean | worst | regret_own, median | mean | worst |", "|---|" + "---:|" * 6]
    for name, each in found.items():
        values = [how(regret) for regret in each.values() for how in (np.median, np.mean, np.max)]
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def main() -> None:
    """Score, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--traces", type=Path, required=True, help="folder of recorded load")
    parser.add_argument("--results", type=Path, required=True, help="what `rlscaler evaluate --output` wrote of it")
    asked = parser.parse_args()
    try:
        results = json.loads(asked.results.read_text(encoding="utf-8"))
        traces = [since_first_load(read_trace(file)) for file in trace_files(asked.traces)]
        by_name = {trace.name: trace for trace in traces}
        told = [each for each in results["traces"] if each["headline"]]
        if missing := [each["trace"] for each in told if each["trace"] not in by_name]:
            raise UserError(f"{asked.traces}: there is no {missing[0]}, which {asked.results} tells of")
        world = results["world"]
        found = scores(
            [by_name[each["trace"]] for each in told], int(world["seeds"]), float(world["seconds"]),
            float(world["scale_to"]), float(world["startup"]),
        )  # fmt: skip
    except (UserError, TraceError, LoadError, OSError) as error:
        sys.exit(f"foresight: {error}")
    except (ValueError, KeyError, TypeError) as error:
        sys.exit(f"foresight: {asked.results} is not what `rlscaler evaluate --output FILE.json` writes: {error!r}")
    print(table(regrets(found, told)))


if __name__ == "__main__":
    main()
