"""How often replicas change on recorded load, and what it costs to change them more seldom.

    python -m rlscaler_sim.calm --traces FOLDER --results docs/results.json

A pod that ends has connections to close and caches that were warm, of which the score knows nothing. On the draws of an
evaluation the policy `default` is played with the scale-down halves of `behavior` by which its count moves less, and
stands beside those of the evaluation. Weights and constants are of other sources than the trace, as there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlscaler import Settings
from rlscaler.behavior import DEFAULT, Behavior
from rlscaler_sim import contenders
from rlscaler_sim.again import Evaluation, told_beside
from rlscaler_sim.contest import Entrant
from rlscaler_sim.load import Load
from rlscaler_sim.markdown import figures_table
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE
from rlscaler_sim.trace import family

DAY = 86_400.0
DOWN = {
    "`default`, a tolerance of 0.07": (0.0, 0.07),
    "`default`, a tolerance of 0.1": (0.0, 0.1),
    "`default`, a tolerance of 0.1 and a window of 300 s": (300.0, 0.1),
}
"""What is stated of scaleDown: its stabilisation window in seconds, and its tolerance. The last is an HPA's."""
BESIDE = ("default", contenders.OWN, REFERENCE, "keda", "hpa", CLAIRVOYANT)
"""Contenders of the evaluation beside them."""
_FIGURES = ("score", "violation_share", "cost_ratio", "rescales")


@dataclass(frozen=True, slots=True)
class Fared:
    """Scores, shares of late requests, pods over those that were needed, and rescales a day, each (traces,)."""

    score: np.ndarray
    late: np.ndarray
    pods: np.ndarray
    rescales: np.ndarray


def stated(window: float, tolerance: float) -> Behavior:
    """Return the `behavior` of a resource that states these of scaleDown (seconds, share), and nothing else."""
    return Behavior(replace(DEFAULT.up, tolerance=0.0), replace(DEFAULT.down, window=window, tolerance=tolerance))


def fared(draws: Evaluation) -> dict[str, Fared]:
    """Return how everyone fared, by name; those of the evaluation as it tells."""

    def entrants(loads: Sequence[Load], settings: Settings) -> list[Entrant]:
        behaviors = [stated(window, tolerance) for window, tolerance in DOWN.values()]
        families = [family(load.name) for load in loads]
        return [contenders.tested("default", replace(settings, behavior=each), families) for each in behaviors]

    figures = np.zeros((4, len(DOWN), len(draws.traces)))
    for _, sums, places in draws.play(entrants):
        each = np.stack([sums.score, sums.violation_share, sums.cost_ratio, sums.rescales])
        for trace, columns in places:
            figures[:, :, trace] = each[:, :, columns].mean(axis=2)
    days = np.array([min(trace.duration, draws.seconds) for trace in draws.traces]) / DAY
    found = {name: figures[:, i] for i, name in enumerate(DOWN)}
    found |= {f"`{name}`": np.array([draws.of(name, figure) for figure in _FIGURES]) for name in BESIDE}
    return {name: Fared(score, late, pods, rescales / days) for name, (score, late, pods, rescales) in found.items()}


def table(found: Mapping[str, Fared]) -> str:
    """Return a Markdown table of medians over the traces; regrets as in an evaluation."""
    heads = ("median of the traces", "rescales a day", "late", "pods", "regret", "regret_own")
    rows = []
    least, tuned, own = (found[f"`{name}`"].score for name in (CLAIRVOYANT, REFERENCE, contenders.OWN))
    for name, each in sorted(found.items(), key=lambda pair: -float(np.median(pair[1].rescales))):
        over = each.score - least
        rows.append([name, f"{np.median(each.rescales):,.0f}", f"{100.0 * np.median(each.late):.2f} %",
                 f"{np.median(each.pods):.2f}", f"{np.median(over / (tuned - least)):.2f}",
                 f"{np.median(over / (own - least)):.2f}"])  # fmt: skip
    return figures_table(heads, rows)


def main() -> None:
    """Score, and print the table."""
    told_beside("calm", __doc__ or "", fared, table)


if __name__ == "__main__":
    main()
