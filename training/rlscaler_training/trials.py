"""Trained policies side by side on paired draws: every one meets the same load, noise and failures.

What runs are reported and compared by. The draws are new ones: their seeds are far from those of training and of the
validation that a policy was chosen by.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rlscaler import Settings
from rlscaler.artifact import ArtifactError, load
from rlscaler.errors import UserError
from rlscaler.policies import PolicyError, load_policy
from rlscaler.quantities import duration_text
from rlscaler_sim import contenders
from rlscaler_sim.contest import Entrant, play
from rlscaler_sim.evaluation import clairvoyant_plan, figures, limit, standard_world, with_regrets
from rlscaler_sim.load import Load, LoadError, realise_many
from rlscaler_sim.patterns import PatternError
from rlscaler_sim.result import Contender
from rlscaler_sim.scenarios import Scenario, ScenarioError
from rlscaler_sim.scenarios import get as scenario
from rlscaler_sim.totals import Traced
from rlscaler_sim.trace import TraceError
from rlscaler_sim.world import WorldConfig
from rlscaler_training.legacy import ID

CLASSIC = ("steady", "sine-curve", "sinusoidal", "spike", "poisson", "random-walk")
"""The six patterns of the gym-scaling environment and its descendants."""
OF_EARLIER_WORK = "it is of the environment of earlier work; 'rlscaler demo --environment legacy' plays it"
FIRST_SEED = 90_000
"""Seed of the first draw."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy that takes part: what it is called here, and its artifact's path or a rule's name."""

    name: str
    policy: str | Path


@dataclass(frozen=True, slots=True)
class Trials:
    """What came of it. names: of the C entrants, the clairvoyant's last. loads: names of the L scenarios.

    scores, costs: (C, L, D) J and billed over needed pod-seconds, for each of D draws. late: (C, L, D) share of late
    requests. contenders: for each scenario, everyone's figures as means over the draws.
    """

    names: tuple[str, ...]
    loads: tuple[str, ...]
    scores: np.ndarray
    costs: np.ndarray
    late: np.ndarray
    contenders: list[list[Contender]]

    def mean(self, name: str) -> float:
        """Return the mean score of one entrant over scenarios and draws."""
        return float(self.scores[self.names.index(name)].mean())


def unservable(policy: str | Path) -> str:
    """Return why a policy cannot take part, empty where it can."""
    try:
        load_policy(policy)
    except (PolicyError, ArtifactError) as error:
        return OF_EARLIER_WORK if of_environment(policy) == ID else str(error)
    return ""


def of_environment(policy: str | Path) -> str | None:
    """Return the environment that an artifact belongs to alone; None for workloads, and for what cannot be read."""
    try:
        found = load(policy).manifest["parameters"].get("environment")
    except ArtifactError:
        return None
    return None if found is None else str(found)


def entrants(candidates: Sequence[Candidate], rules: Sequence[str], settings: Settings) -> list[Entrant]:
    """Return the policies under their names, then those rules that are none of them; rules as an SRE would run them.

    Raises UserError where a policy cannot be served.
    """
    found = []
    for candidate in candidates:
        policy = str(candidate.policy)
        if policy != "default" and (contenders.is_rule(policy) or policy.startswith("hpa")):
            found.append(replace(contenders.entrant(policy, settings), name=candidate.name))
            continue
        try:
            made = contenders.tested(policy, settings)
        except (PolicyError, ArtifactError) as error:
            raise UserError(str(error)) from error
        found.append(replace(made, name=candidate.name))
    names = [candidate.name for candidate in candidates]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{twice[0]!r} is the name of two policies; expected every name once")
    return found + [contenders.entrant(rule, settings) for rule in rules if rule not in names]


def found_scenarios(names: Sequence[str]) -> list[Scenario]:
    """Return scenarios of the standard world by name. Raises UserError."""
    try:
        found = [scenario(name) for name in names]
    except (ScenarioError, PatternError) as error:
        raise UserError(f"--scenario: {error}; 'rlscaler scenarios' lists them") from error
    if varied := [s.name for s in found if s.world]:
        raise UserError(f"--scenario {varied[0]}: is a variant of the world; expected a load, since policies are "
                        "compared in the standard world")  # fmt: skip
    return found


def tried(
    candidates: Sequence[Candidate],
    rules: Sequence[str],
    names: Sequence[str] = CLASSIC,
    *,
    draws: int = 3,
    seconds: float = 3 * 3600.0,
    progress: Progress | None = None,
) -> Trials:
    """Return how everyone fares over `seconds` of each scenario, on `draws` draws of it.

    Raises UserError where a policy cannot be served or a scenario is not there.
    """
    settings = contenders.standard_settings()
    config = standard_world(settings)
    playing = entrants(candidates, rules, settings)
    loads, seeds = _drawn(found_scenarios(names), draws, seconds, settings)
    plan = clairvoyant_plan(loads, seeds, config, settings)
    playing.append(limit(plan, settings))
    sums = play(loads, playing, config, settings, seeds,
                progress=None if progress is None else lambda done, of: progress("playing", done, of))  # fmt: skip
    waits = sums.wait_quantile()
    shape = (len(playing), len(names), draws)
    found = [
        with_regrets([figures(e.name, sums, waits, i, np.arange(s * draws, (s + 1) * draws))
                      for i, e in enumerate(playing)])
        for s in range(len(names))
    ]  # fmt: skip
    return Trials(
        names=tuple(e.name for e in playing),
        loads=tuple(names),
        scores=sums.score.reshape(shape),
        costs=sums.cost_ratio.reshape(shape),
        late=sums.violation_share.reshape(shape),
        contenders=found,
    )


def _drawn(found: Sequence[Scenario], draws: int, seconds: float, settings: Settings) -> tuple[list[Load], list[int]]:
    """Return the loads, scenario by scenario, and the seed of each. Raises UserError."""
    seeds = [FIRST_SEED + k for k in range(draws)]
    loads: list[Load] = []
    try:
        for each in found:
            made = realise_many([each.source], seeds, interval=float(settings.interval),
                                duration=min(seconds, each.duration),
                                capacity=float(settings.capacity_per_replica))  # fmt: skip
            loads += [made.row(row) for row in range(draws)]
            if not all(load.rates.any() for load in loads[-draws:]):
                span = duration_text(min(seconds, each.duration))
                raise UserError(f"{each.name} has no load within {span}, so that there is no score; run for longer, "
                                "or choose another scenario")  # fmt: skip
    except (TraceError, LoadError, PatternError) as error:
        raise UserError(str(error)) from error
    return loads, seeds * len(found)


@dataclass(frozen=True, slots=True)
class Episode:
    """One load played by everyone, step by step. load: its name. watched: whose decisions are kept (the first's)."""

    load: Load
    names: tuple[str, ...]
    contenders: list[Contender]
    traced: Traced
    lower_bound: float
    settings: Settings
    config: WorldConfig
    seed: int


def episode(
    candidates: Sequence[Candidate],
    rules: Sequence[str],
    name: str,
    *,
    seconds: float,
    start: float = 0.0,
    seed: int = FIRST_SEED,
    scale_to: float = 25.0,
    clairvoyant: bool = True,
    progress: Progress | None = None,
) -> Episode:
    """Return one draw of a scenario, played by everyone in the same world. Raises UserError.

    The scenario may be a variant of the world. clairvoyant: let it take part, last.
    """
    from rlscaler_sim.dry_run import conditions, found_scenario, realised

    settings, config, _ = conditions(None, found := found_scenario(name))
    playing = entrants(candidates, rules, settings)
    if start >= found.duration:
        ends = duration_text(found.duration)
        raise UserError(f"--from {duration_text(start)}: {found.name} ends after {ends}; start earlier")
    load, _ = realised(found, settings, scale_to=scale_to, seed=seed, start=start,
                       duration=min(seconds, found.duration - start))  # fmt: skip
    bound = np.nan
    if clairvoyant:
        plan = clairvoyant_plan([load], [seed], config, settings)
        playing.append(limit(plan, settings))
        bound = float(plan.lower_bound[0])
    traced = Traced()
    sums = play([load], playing, config, settings, [seed], watch=0, traced=traced,
                progress=None if progress is None else lambda done, of: progress("playing", done, of))  # fmt: skip
    waits, column = sums.wait_quantile(), np.array([0])
    figured = [figures(e.name, sums, waits, i, column) for i, e in enumerate(playing)]
    return Episode(load, tuple(e.name for e in playing), with_regrets(figured), traced, bound, settings, config, seed)
