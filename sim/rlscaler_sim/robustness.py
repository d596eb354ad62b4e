"""The score under other conditions than the standard world's: what a policy is worth where its facts are wrong.

Each condition changes one thing of the world or of what the autoscaler is told, and everyone is scored there anew, the
HPA by which regret is measured too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rlscaler import Settings
from rlscaler_sim import evaluation
from rlscaler_sim.contenders import standard_settings
from rlscaler_sim.evaluation import Scored
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE
from rlscaler_sim.trace import Trace
from rlscaler_sim.verdict import counted
from rlscaler_sim.world import WorldConfig

STANDARD = "standard"
UNSEEN_SEED = 500
"""First seed of the draws that nothing was ever tuned, trained or compared on."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition: what it is in words, and what differs of the settings and of the world."""

    words: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    world: Mapping[str, Any] = field(default_factory=dict)
    first_seed: int = 0

    def told(self) -> Settings:
        """Return what the autoscaler is told."""
        return replace(standard_settings(), **self.settings)

    def config(self, settings: Settings) -> WorldConfig:
        """Return the world."""
        return replace(evaluation.standard_world(settings), **self.world)


CONDITIONS: dict[str, Condition] = {
    STANDARD: Condition("the standard world"),
    "seeds": Condition("other draws of the noise", first_seed=UNSEEN_SEED),
    "startup-5s": Condition("pods start in 5 s", {"startup": 5.0}),
    "startup-30s": Condition("pods start in 30 s", {"startup": 30.0}),
    "startup-120s": Condition("pods start in 120 s", {"startup": 120.0}),
    "startup-600s": Condition("pods start in 10 minutes", {"startup": 600.0}),
    "interval-6s": Condition("a decision every 6 s", {"interval": 6.0}),
    "interval-60s": Condition("a decision every 60 s", {"interval": 60.0}),
    "capacity-0.7": Condition("a replica serves 0.7 of what is stated", world={"capacity_per_replica": 7.0}),
    "capacity-1.4": Condition("a replica serves 1.4 of what is stated", world={"capacity_per_replica": 14.0}),
    "lag-60s": Condition("load is 60 s old, and 15 s are stated", world={"lag": 60.0}),
    "completions": Condition("load is counted when requests end", {"load_counts": "Completions"}),
    "missing-1": Condition("1 % of the readings are missing", world={"gap_rate": 0.6, "gap_duration": 60.0}),
    "missing-10": Condition("10 % of the readings are missing", world={"gap_rate": 6.0, "gap_duration": 60.0}),
}
"""By name; capacities are of the standard 10 requests/s, rates of gaps an hour."""


def table(
    traces: Sequence[Trace],
    policies: Sequence[str],
    names: Sequence[str],
    *,
    seeds: int,
    duration: float,
    rules: Sequence[str] = (),
    jobs: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, list[Scored]]:
    """Return the scores under each condition, beside the tuned HPA and the clairvoyant.

    policies, rules: who is scored besides. names: of CONDITIONS. seeds, duration, jobs: see `evaluation.evaluate`.
    """
    found = {}
    for name in names:
        condition = CONDITIONS[name]
        settings = condition.told()
        found[name] = evaluation.evaluate(
            traces,
            policies,
            seeds=range(condition.first_seed, condition.first_seed + seeds),
            duration=duration,
            settings=settings,
            config=condition.config(settings),
            rules=(REFERENCE, *rules, CLAIRVOYANT),
            jobs=jobs,
            progress=None if progress is None else partial(_under, progress, name),
        )
    return found


def _under(progress: Callable[[str, int, int], None], name: str, what: str, done: int, of: int) -> None:
    progress(f"{name}: {what}", done, of)


def markdown(found: Mapping[str, Sequence[Scored]], command: str) -> str:
    """Return the table as Markdown: median regret and mean of everyone but the HPA, under each condition."""
    first = next(iter(found.values()))
    names = [c.name for c in first[0].contenders if c.name not in (REFERENCE, CLAIRVOYANT)]
    lines = [
        f"Made by `{command}`.",
        "",
        "Regret, median (mean) over the headline traces: 0 is the clairvoyant, 1 the HPA with target, window and"
        f" tolerance tuned on other load, each under the same condition; {counted(first[0].seeds, 'seed')}.",
        "",
        f"| condition | traces | {' | '.join(names)} |",
        "|---|---:" + "|---:" * len(names) + "|",
    ]
    for name, scored in found.items():
        summary = evaluation.summary(scored)
        cells = [_cell(summary[each]) for each in names]
        lines.append(f"| {CONDITIONS[name].words} | {summary[REFERENCE]['traces']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any]) -> str:
    median, mean = row.get("median_regret"), row.get("mean_regret")
    return "-" if median is None or mean is None else f"{median:.2f} ({mean:.2f})"
