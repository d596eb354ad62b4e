"""Who keeps an objective of 99.9 % on recorded load, and with how many pods.

    python -m rlscaler_sim.kept_objectives --traces FOLDER --results docs/results.json

A score weighs late requests against pods; whoever has promised 99.9 % asks how often that was kept, and what it cost.
On the draws of an evaluation the policy `default` is played with `objective.window`, within which the objective is to
be kept, and stands beside those of the evaluation. Weights and constants are of other sources than the trace, as there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rlscaler import Settings
from rlscaler_sim import contenders
from rlscaler_sim.again import Evaluation, told_beside
from rlscaler_sim.contest import Entrant
from rlscaler_sim.load import Load
from rlscaler_sim.markdown import figures_table
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE
from rlscaler_sim.trace import family

WINDOW = 7 * 86_400.0
"""Seconds over which the objective is to be kept."""
WITH = "`default`, `window: 168h`"
"""What the policy is called with a window."""
BESIDE = ("default", contenders.OWN, REFERENCE, "hpa", "keda", CLAIRVOYANT)
"""Contenders of the evaluation beside it."""
ALLOWED = 0.001
"""Share of requests that may be late."""
NEARLY = 1.5
"""Multiple of that within which an objective counts as nearly kept."""

Fared = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Name -> share of late requests and pods over those that were needed, each (traces,)."""


def fared(draws: Evaluation) -> Fared:
    """Return how everyone fared; of those of the evaluation as it tells."""

    def entrants(loads: Sequence[Load], settings: Settings) -> list[Entrant]:
        objective = replace(settings.objective, window=WINDOW)
        families = [family(load.name) for load in loads]
        return [contenders.tested("default", replace(settings, objective=objective), families)]

    late, pods = np.zeros((2, len(draws.traces)))
    for _, sums, places in draws.play(entrants):
        for trace, columns in places:
            late[trace] = (sums.late / sums.arrivals)[0, columns].mean()
            pods[trace] = (sums.billed / sums.needed)[0, columns].mean()
    beside = {f"`{name}`": (draws.of(name, "violation_share"), draws.of(name, "cost_ratio")) for name in BESIDE}
    return {WITH: (late, pods)} | beside


def table(found: Fared) -> str:
    """Return a Markdown table: how often an objective was kept, what was late, and pods where both keep it."""
    mine, my_pods = found[WITH]
    heads = ("", f"kept, of {len(mine)}", "nearly", "late, median", "pods, median", "both keep it",
             "and then fewer pods with a window")  # fmt: skip
    rows = []
    for name, (late, pods) in found.items():
        both = (late <= ALLOWED) & (mine <= ALLOWED)
        fewer = f"{100.0 * (1.0 - (my_pods[both] / pods[both]).mean()):+.0f} %" if both.any() and name != WITH else ""
        rows.append([name, f"{(late <= ALLOWED).sum()}", f"{(late <= NEARLY * ALLOWED).sum()}",
                 f"{100.0 * np.median(late):.2f} %", f"{np.median(pods):.2f}",
                 f"{both.sum()}" if name != WITH else "", fewer])  # fmt: skip
    return figures_table(heads, rows)


def main() -> None:
    """Score, and print the table."""
    told_beside("kept_objectives", __doc__ or "", fared, table)


if __name__ == "__main__":
    main()
