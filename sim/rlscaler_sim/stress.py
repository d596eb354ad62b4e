"""How much a policy may lose on load that is hard for it: named patterns, and load found by search against it.

The loss of a load is (J - J_own) / max(J_own - J*, 0.05): J_own is the HPA that was tuned in hindsight on that very
load (target, window and tolerance), J* the clairvoyant on the same draws. A policy is within the bound where its loss
is 0.5 at most: then its excess over the clairvoyant is at most half as much again as that HPA's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from rlscaler import Settings
from rlscaler_sim import contenders, world
from rlscaler_sim.adversary import Family, Found, search
from rlscaler_sim.contest import Entrant, play
from rlscaler_sim.evaluation import clairvoyant_plan, limit, own_constants, standard_world
from rlscaler_sim.load import Load, Loads, generator, realise
from rlscaler_sim.patterns import Pattern
from rlscaler_sim.result import CLAIRVOYANT

BOUND, LEAST_SPAN = 0.5, 0.05
"""Loss up to which a policy is within the bound; and the excess of the HPA's J that counts at least."""
NAMED = ("steady", "sine-curve", "sinusoidal", "spike", "poisson", "random-walk", "flash-crowd", "idle-then-spike",
         "batch")  # fmt: skip
"""The six classic patterns, and three of what happens to services."""
SEARCHED, SCORED = 10_000, 700
"""First draw of noise of the search, and of what is scored: a load is never scored on a draw that found it."""
BATCH = 96
"""Loads of a search that run at once."""
TARGETS, WINDOWS, TOLERANCE = (0.5, 0.6, 0.7, 0.78, 0.86, 0.92), (0.0, 60.0, 300.0), 0.05
"""The HPAs that a load is searched beside, of which the best stands for the one that is tuned on all of the grid."""


def loss(score: np.ndarray, own: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Return (J - J_own) / max(J_own - J*, LEAST_SPAN) of arrays of any one shape."""
    found: np.ndarray = (score - own) / np.maximum(own - least, LEAST_SPAN)
    return found


@dataclass(frozen=True, slots=True)
class Source:
    """A load to score. title: what the table calls it. against: the policy that it was searched against, "" = none."""

    title: str
    pattern: Pattern
    duration: float
    against: str = ""


@dataclass(frozen=True, slots=True)
class Hard:
    """One load, scored.

    scores: contender -> (seeds,) J, among them hpa-own and the clairvoyant. own: the constants of hpa-own. seeds: the
    draws of noise.
    """

    source: Source
    scores: dict[str, np.ndarray]
    own: dict[str, float]
    seeds: tuple[int, ...]

    def score(self, name: str) -> float:
        """Return J of a contender, the mean over the seeds."""
        return float(self.scores[name].mean())

    def loss(self, name: str) -> float:
        """Return the loss of a contender."""
        each = (self.score(who) for who in (name, contenders.OWN, CLAIRVOYANT))
        return float(loss(*(np.array(score) for score in each)))

    def error(self, name: str) -> float:
        """Return the standard error of the loss by the draws of noise, NaN with one of them."""
        if len(self.seeds) < 2:
            return float("nan")
        more = self.scores[name] - self.scores[contenders.OWN]
        span = max(self.score(contenders.OWN) - self.score(CLAIRVOYANT), LEAST_SPAN)
        return float(more.std(ddof=1) / np.sqrt(len(more)) / span)

    def within(self, name: str) -> bool:
        """Tell whether a contender keeps to the bound."""
        return self.loss(name) <= BOUND


def rough_losses(
    entrant: Entrant,
    patterns: Sequence[Pattern],
    draws: Sequence[int],
    *,
    duration: float,
    settings: Settings,
    config: world.WorldConfig,
) -> np.ndarray:
    """Return the loss (N,) of each load on one draw of noise, beside a small grid of HPAs.

    In place of J* stands the proven bound below it, which makes the loss smaller, never larger.
    """
    loads = [
        realise(pattern, duration=duration, interval=float(settings.interval),
                capacity=float(settings.capacity_per_replica), rng=generator(pattern.name, SEARCHED + draw))
        for pattern, draw in zip(patterns, draws, strict=True)
    ]  # fmt: skip
    seeds = [SEARCHED + draw for draw in draws]
    grid = np.array(list(product(TARGETS, WINDOWS)))
    constants = {
        "target": np.repeat(grid[:, 0], len(loads)),
        "window": np.repeat(grid[:, 1], len(loads)),
        "tolerance": np.full(len(grid) * len(loads), TOLERANCE),
    }
    own = contenders.hpa_entrant(contenders.OWN, settings, constants, len(grid))
    score = play(loads, [entrant, own], config, settings, seeds, waits=False).score
    least = clairvoyant_plan(loads, seeds, config, settings).lower_bound
    return loss(score[0], score[1:].min(axis=0), least)


def searched(
    entrant: Entrant,
    space: Family,
    *,
    settings: Settings,
    budget: int,
    seed: int,
    starts: int,
    batch: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Found]:
    """Return the worst load of each start of a search against one policy, see `adversary.search`."""
    config = standard_world(settings)

    def losses(patterns: Sequence[Pattern], draws: Sequence[int]) -> np.ndarray:
        return rough_losses(entrant, patterns, draws, duration=space.duration, settings=settings, config=config)

    return search(losses, space, budget=budget, seed=seed, starts=starts, batch=batch, progress=progress)


def realised(sources: Sequence[Source], seeds: Sequence[int], settings: Settings) -> Loads:
    """Return every source with every seed as load, each for its own time, in the scale of the standard world."""
    interval, capacity = float(settings.interval), float(settings.capacity_per_replica)
    rows = [
        realise(source.pattern, duration=source.duration, interval=interval, capacity=capacity,
                rng=generator(source.pattern.name, seed))
        for source in sources for seed in seeds
    ]  # fmt: skip
    lengths = np.array([len(row.rates) for row in rows], np.int64)
    shape = (len(rows), int(lengths.max()))
    rates, known, scored = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    for index, row in enumerate(rows):
        for target, values in ((rates, row.rates), (known, row.known), (scored, row.scored)):
            target[index, : len(values)] = values
    return Loads(
        names=tuple(row.name for row in rows),
        seeds=np.tile(np.asarray(seeds, np.int64), len(sources)),
        source=np.repeat(np.arange(len(sources)), len(seeds)),
        tick=rows[0].tick,
        rates=rates,
        known=known,
        scored=scored,
        lengths=lengths,
        start=np.array([row.start for row in rows]),
    )


def scored(
    sources: Sequence[Source],
    entrants: Sequence[Entrant],
    *,
    settings: Settings,
    seeds: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Hard]:
    """Return the scores of everyone on every source, beside the HPA tuned on it and the clairvoyant.

    entrants: with distinct names, none of them hpa-own or the clairvoyant. seeds: number of draws of noise.
    """
    config = standard_world(settings)
    draws = tuple(range(SCORED, SCORED + seeds))
    loads = realised(sources, draws, settings)
    rows: list[Load] = [loads.row(r) for r in range(len(loads.names))]
    row_seeds = loads.seeds.tolist()
    own = own_constants(loads, config, settings, progress)[contenders.OWN]
    constants = {key: np.array([own[s][key] for s in loads.source]) for key in own[0]}
    everyone = [*entrants, contenders.hpa_entrant(contenders.OWN, settings, constants)]
    if progress is not None:
        progress("planning the clairvoyant", 0, 1)
    everyone.append(limit(clairvoyant_plan(rows, row_seeds, config, settings), settings))

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress("scoring", done, total)

    score = play(rows, everyone, config, settings, row_seeds, waits=False, progress=told).score
    return [
        Hard(
            source,
            {entrant.name: score[index, loads.source == place] for index, entrant in enumerate(everyone)},
            own[place],
            draws,
        )
        for place, source in enumerate(sources)
    ]
