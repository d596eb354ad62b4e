"""The settings of the benchmark: for each and a seed, what is trained on and what is scored on, never the same.

Every contender of a setting and seed meets the same load with the same noise, so that their scores are paired.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from rlscaler import Settings
from rlscaler.errors import UserError
from rlscaler.policy import Policy
from rlscaler_sim import contenders, evaluation, patterns, scenarios
from rlscaler_sim.contest import Entrant, play
from rlscaler_sim.load import Load, generator, realise
from rlscaler_sim.pool import prepare
from rlscaler_sim.result import CLAIRVOYANT
from rlscaler_sim.scenarios import Scenario
from rlscaler_sim.trace import Trace, TraceError, events_per_bucket, family, read_trace, trace_files
from rlscaler_sim.tuner import FOLDS, folds_of
from rlscaler_sim.world import WorldConfig
from rlscaler_training import augment, loads, worlds
from rlscaler_training.loads import VALIDATION_SEED, Pools
from rlscaler_training.worlds import Ranges

CLASSIC = ("steady", "sine-curve", "sinusoidal", "spike", "poisson", "random-walk")
"""The six patterns of earlier work, as scenarios of the standard world."""
HOURS = {"classic": 6.0, "worlds": 6.0, "traces": 24.0}
"""Load of each source, in training and in the test."""
TEST = 20_000
"""Added to the seed for what is drawn in the test."""
SCORED_FOLD = 0
"""Fold of the source families (see `tuner.folds_of`) that recorded load is scored on."""
TRAINED_IN, SCORED_IN, LONGEST = 96, 16, 3.0
"""Randomised worlds that are trained in beside standard ones, and scored in; hours of load of the latter at most."""
WILD_SPREAD, WILD_SHARE = (0.2, 3.0), (0.03, 0.5)
"""Of wild variants of recorded load: range of the deviation of a factor's logarithm, and of the time that one which
comes and goes is there."""
WILD_CORRELATION = (10.0, 300.0)
"""Range of the seconds over which either holds."""
REPLICAS = 25.0
"""Replicas that the 95th percentile of a wild variant needs, as of every load here."""
RULES = (CLAIRVOYANT, "hpa-tuned", "growth-quantile", "threshold", "constant", "churn", "random")
"""The contenders that learn nothing. growth-quantile is the rule that learned policies correct; the constants of all
are those tuned on recorded load, with a trace's own source family held out."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Loads that are scored in one world. families: of recorded load, for the rules' constants; else none."""

    loads: tuple[Load, ...]
    config: WorldConfig
    settings: Settings
    families: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Arena:
    """What one seed of a setting is trained and scored on. seed: of the noise of the test."""

    pools: Pools
    scenes: tuple[Scene, ...]
    seed: int


@dataclass(slots=True)
class Figures:
    """Scores of one contender by task: J, and its two parts."""

    score: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    late: dict[str, float] = field(default_factory=dict)


def classic(seed: int, hours: float) -> Arena:
    """Return the six patterns: draws to train on, others to validate on, and others to score on."""
    pools = loads.pools(CLASSIC, None, hours, seed)
    test = tuple(replace(_drawn(found, hours, TEST + seed), name=found.name) for found in map(scenarios.get, CLASSIC))
    return Arena(pools, (Scene(test, pools.config, pools.settings),), TEST + seed)


def _drawn(found: Scenario, hours: float, seed: int) -> Load:
    return realise(found.source, duration=min(found.duration, hours * 3600.0), rng=generator(found.name, seed))


@lru_cache(maxsize=1)
def _read(folder: str) -> tuple[Trace, ...]:
    """Return the traces of a folder with an event a bucket or more. Raises UserError."""
    try:
        found = tuple(t for t in map(read_trace, trace_files(Path(folder))) if events_per_bucket(t) >= 1.0)
    except TraceError as error:
        raise UserError(str(error)) from error
    if (families := len({family(t.name) for t in found})) < 2 * FOLDS:
        raise UserError(f"{folder}: holds {families} source families; expected at least {2 * FOLDS}, two for each fold")
    return found


def split(families: Sequence[str], fold: int) -> tuple[list[str], list[str], list[str]]:
    """Return the source families to train on, to validate on (every third of the rest), and to score on."""
    folds = folds_of(families)
    rest = sorted(name for index, names in enumerate(folds) if index != fold for name in names)
    validated = rest[1::3]
    return [name for name in rest if name not in validated], validated, folds[fold]


@lru_cache(maxsize=1)
def _trace_pools(folder: str, fold: int, hours: float) -> Pools:
    """Return the load of a fold to train and validate on; the same for all seeds."""
    traces = _read(folder)
    train, validate, _ = split([family(t.name) for t in traces], fold)
    settings = contenders.standard_settings()
    config = evaluation.standard_world(settings)

    def drawn(families: Sequence[str], seed: int) -> list[Load]:
        mine = (t for t in traces if family(t.name) in families)
        return [realise(t, duration=hours * 3600.0, rng=generator(t.name, seed)) for t in mine]

    training, validation = drawn(train, fold), drawn(validate, fold + VALIDATION_SEED)
    capacity = float(np.max(config.capacity_per_replica))
    training += drawn(train, fold + 1) + [
        wild(load, np.random.default_rng([fold, gated, index]), capacity, gated=bool(gated))
        for gated in (0, 1) for index, load in enumerate(training)
    ]  # fmt: skip
    return Pools(
        train=prepare(training, config, settings, fold, cold=loads.COLD),
        validation=prepare(validation, config, settings, fold + VALIDATION_SEED),
        config=config,
        settings=settings,
        trained_on=tuple(dict.fromkeys(load.name for load in training)),
        validated_on=tuple(load.name for load in validation),
    )


def wild(load: Load, rng: np.random.Generator, capacity: float, *, gated: bool) -> Load:
    """Return a variant of the load that jumps about more than a recorded one, or that comes and goes (gated).

    The recordings of some sources are calm, those of others are not; who met calm load alone is outside of its training
    range on the others. capacity: requests/s of a replica.
    """

    def between(pair: tuple[float, float]) -> float:
        return float(np.exp(rng.uniform(*np.log(pair))))

    noise = patterns.ar1(rng, len(load.rates), load.tick, between(WILD_CORRELATION))
    spread, share = between(WILD_SPREAD), between(WILD_SHARE)
    there = noise > np.quantile(noise, 1.0 - share)
    factor = there / share if gated else np.exp(spread * noise - 0.5 * spread * spread)
    return augment.to_size(replace(load, rates=load.rates * factor.astype(np.float32)), REPLICAS, capacity)


def traces(folder: str, seed: int, hours: float) -> Arena:
    """Return recorded load; the same third of the source families is scored on by every seed, so that seeds compare."""
    fold = SCORED_FOLD
    found = _read(folder)
    _, _, scored_on = split([family(t.name) for t in found], fold)
    test = tuple(t for t in found if family(t.name) in scored_on)
    drawn = tuple(realise(t, duration=hours * 3600.0, rng=generator(t.name, TEST + seed)) for t in test)
    pools = _trace_pools(folder, fold, hours)
    return Arena(pools, (Scene(drawn, pools.config, pools.settings, tuple(family(t.name) for t in test)),), TEST + seed)


def randomised(seed: int, hours: float) -> Arena:
    """Return worlds around the standard one (`worlds`): some to train in, others to validate in, others to score in.

    Those of the test are of levels from 0.25 to 1, in the proportion of a training; they are the same for every seed,
    their load and noise are not.
    """
    ranges = Ranges(worlds=TRAINED_IN)
    pools = loads.pools((), None, hours, seed, ranges)
    assert pools.elsewhere is not None
    pools = replace(pools, validation=pools.elsewhere, elsewhere=None)
    scenes = []
    for number in range(SCORED_IN):
        name = f"world-{number}"
        level = ((number + 1) / SCORED_IN) ** 0.5
        world = worlds.drawn(np.random.default_rng([TEST, number]), level, worlds.FAMILIES, ranges)
        load = worlds.load(world, min(hours, LONGEST) * 3600.0, generator(name, TEST + seed))
        scenes.append(Scene((replace(load, name=name),), world.config, world.settings))
    return Arena(pools, tuple(scenes), TEST + seed)


def rule(name: str, scene: Scene, seed: int) -> Entrant:
    """Return one of RULES as contender in a scene; the clairvoyant plans for the draw of this seed."""
    if name == CLAIRVOYANT:
        seeds = [seed] * len(scene.loads)
        return evaluation.limit(
            evaluation.clairvoyant_plan(scene.loads, seeds, scene.config, scene.settings), scene.settings
        )
    if scene.families:
        return contenders.folded(name, scene.settings, scene.families)
    return contenders.entrant(name, scene.settings)


def scored(
    arena: Arena,
    rules: Sequence[str],
    policies: Mapping[str, Policy],
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Figures]:
    """Return the figures of rules and policies, all on the same draws, by the name of the contender.

    tell: takes a line about what is being done.
    """
    found = {name: Figures() for name in (*rules, *policies)}
    for scene in arena.scenes:
        tell(f"scoring {len(found)} contenders on {len(scene.loads)} loads")
        entrants = [rule(name, scene, arena.seed) for name in rules]
        entrants += [Entrant(name, policy, scene.settings) for name, policy in policies.items()]
        sums = play(scene.loads, entrants, scene.config, scene.settings, [arena.seed] * len(scene.loads), waits=False)
        figures = (sums.score, sums.cost_ratio, sums.violation_share)
        for index, name in enumerate((*rules, *policies)):
            mine = found[name]
            for column, load in enumerate(scene.loads):
                values = (float(array[index, column]) for array in figures)
                mine.score[load.name], mine.cost[load.name], mine.late[load.name] = values
    return found


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return the values with None for what is not finite, as JSON has no word for it."""
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
