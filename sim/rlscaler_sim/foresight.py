"""How much of what a policy loses could be foreseen: the regret of those who know more than anyone can.

    python -m rlscaler_sim.foresight --traces FOLDER --results docs/results.json

On the draws of an evaluation, and beside its references, are scored

- orders made with the coming rate known to the bit, as far as an order reaches, but not the noise of the arrivals: what
  a perfect forecast of the load would be worth;
- the policies of the package as they are shipped, which were trained on these very traces: what is left to a network
  that has met the load before, so that unseen load is not what it lacks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rlscaler import Settings
from rlscaler.policies import load_policy
from rlscaler_sim import contenders
from rlscaler_sim.again import Evaluation, told_beside
from rlscaler_sim.contest import Entrant, Schedule
from rlscaler_sim.load import Load
from rlscaler_sim.markdown import figures_table
from rlscaler_sim.measure import gridded
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE

SPARES = tuple((share, root) for share in (0.0, 0.03, 0.06) for root in (0.2, 0.3, 0.4, 0.5))
"""Replicas above the peak of the coming rate, as a share of it and in its square roots, of which the best is taken."""
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


def scores(draws: Evaluation) -> dict[str, np.ndarray]:
    """Return the score of each who knows more on each trace, name -> (traces,), a mean over the seeds."""
    per_step = round(float(contenders.standard_settings(draws.startup).interval) / 3.0)

    def entrants(loads: Sequence[Load], settings: Settings) -> list[Entrant]:
        met = [
            Entrant(f"`{name}`, has met the very traces", load_policy(name), settings) for name in contenders.SHIPPED
        ]
        return [*foreseeing(loads, settings, per_step), *met]

    found: dict[str, np.ndarray] = {}
    for who, sums, places in draws.play(entrants):
        for entrant, score in zip(who, sums.score, strict=True):
            mine = found.setdefault(entrant.name, np.zeros(len(draws.traces)))
            for trace, columns in places:
                mine[trace] = score[columns].mean()
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
    heads = ("", "regret, median", "mean", "worst", "regret_own, median", "mean", "worst")
    rows = []
    for name, each in found.items():
        values = [how(regret) for regret in each.values() for how in (np.median, np.mean, np.max)]
        rows.append([name, *(f"{value:.2f}" for value in values)])
    return figures_table(heads, rows)


def main() -> None:
    """Score, and print the table."""
    told_beside("foresight", __doc__ or "", lambda draws: regrets(scores(draws), draws.told), table)


if __name__ == "__main__":
    main()
