"""A search for the load that a policy handles worst, over a family of made-up loads.

A load of the family is a level with parts on top of it, each there or not: a wave, a change of level, one crowd, two
trains of bursts, work that is on or off, and noise. Every load is an expression of `patterns`, so that what is found
can be run again anywhere by its name.

The search is an evolution over batches: the best of each batch are kept and crossed part by part, their children
changed at random, less and less. A loss is scattered by chance, so what is kept is drawn anew with each batch and ranks
by its mean: a load that was only unlucky once does not last.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlscaler_sim.load import PERCENTILE, generator
from rlscaler_sim.patterns import PATTERNS, Pattern, steady

MOST_PEAK = 3.2
"""Peak over the 95th percentile at most: at 25 replicas 80, which the standard bounds of 1 to 100 can serve."""
GRID = 15.0
"""Seconds between the moments at which a peak is looked for."""
KEPT = 0.25
"""Share of a batch that is kept for the next."""
STRANGERS = 0.1
"""Share of a batch that is drawn over the whole family."""
CHANGED, ANEW = 0.3, 0.05
"""Chance of a gene to be changed a little, and to be drawn anew."""
FIRST_STEP, LAST_STEP = 0.25, 0.04
"""Standard deviation of a little change at the beginning and at the end of a search, as a share of the range."""
FINALISTS = 4
"""Loads of each start that the last batch draws again, as often as fits into it."""
Losses = Callable[[Sequence[Pattern], Sequence[int]], np.ndarray]
"""The loss of some loads (N,), each on the draw of noise of that number."""


class AdversaryError(ValueError):
    """A search cannot be made as asked; the message names the value and what is expected."""


@dataclass(frozen=True, slots=True)
class Gene:
    """The range of one parameter. log: even in the logarithm. of: another parameter, of which it is a share."""

    low: float
    high: float
    log: bool = False
    of: str = ""

    def value(self, place: float) -> float:
        """Return the value at a place from 0 to 1, to two significant digits (three from 100 on)."""
        if self.log:
            found = float(np.exp(np.log(self.low) + place * (np.log(self.high) - np.log(self.low))))
        else:
            found = self.low + place * (self.high - self.low)
        return float(f"{found:.{3 if abs(found) >= 100.0 else 2}g}")


@dataclass(frozen=True, slots=True)
class Family:
    """The loads that are searched.

    duration: seconds of a load. parts: what may stand on the level: the name of a kind of pattern and its parameters,
    fixed ones as numbers. level, noise: of the base, and of the jitter that multiplies all.
    """

    duration: float
    level: Gene
    parts: tuple[tuple[str, Mapping[str, Gene | float]], ...]
    noise: Mapping[str, Gene]

    @property
    def blocks(self) -> list[slice]:
        """Return which genes belong together: the level, each part and the noise."""
        sizes = [1, *(1 + len(_genes(part)) for _, part in self.parts), 1 + len(self.noise)]
        ends = np.cumsum(sizes).tolist()
        return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    def pattern(self, genes: np.ndarray) -> Pattern:
        """Return the load of genes (G,) from 0 to 1; the first gene of a part says from 0.5 on that it is there."""
        first, *blocks, last = self.blocks
        load = steady(level=self.level.value(float(genes[first.start])))
        for (kind, part), block in zip(self.parts, blocks, strict=True):
            if genes[block.start] >= 0.5:
                load = load + PATTERNS[kind](**_values(part, genes[block.start + 1 : block.stop]))
        if genes[last.start] >= 0.5:
            load = load * PATTERNS["jitter"](**_values(self.noise, genes[last.start + 1 : last.stop]))
        return load

    def servable(self, pattern: Pattern) -> bool:
        """Tell whether its peak is one that the bounds can serve, see MOST_PEAK."""
        rates = pattern.rates(np.arange(0.5 * GRID, self.duration, GRID), generator(pattern.name, 0))
        level = float(np.percentile(rates, PERCENTILE))
        return level > 0.0 and float(rates.max()) <= MOST_PEAK * level


def _genes(part: Mapping[str, Gene | float]) -> dict[str, Gene]:
    return {name: gene for name, gene in part.items() if isinstance(gene, Gene)}


def _values(part: Mapping[str, Gene | float], places: np.ndarray) -> dict[str, float]:
    """Return the parameters of a part."""
    found = {name: float(gene) for name, gene in part.items() if not isinstance(gene, Gene)}
    genes = _genes(part)
    for (name, gene), place in zip(genes.items(), places.tolist(), strict=True):
        found[name] = gene.value(place)
    for name, gene in genes.items():
        if gene.of:
            found[name] = float(f"{found[name] * found[gene.of]:.3g}")
    return found


def family(duration: float) -> Family:
    """Return the family of loads of so many seconds.

    Heights are relative to one another: a load is scaled as a whole before it is run.
    """
    height, share = Gene(0.05, 1.5), Gene(0.0, 0.95, of="every")
    bursts: dict[str, Gene | float] = {
        "idle": 0.0,
        "height": height,
        "every": Gene(300.0, duration, log=True),
        "at": share,
        "rise": Gene(15.0, 900.0, log=True),
        "hold": Gene(15.0, 3600.0, log=True),
        "decay": Gene(1.0, 1800.0, log=True),
    }
    return Family(
        duration,
        level=Gene(0.02, 1.0, log=True),
        parts=(
            ("sine-curve", {"high": height, "period": Gene(180.0, 2.0 * duration, log=True)}),
            ("ramp", {"begin": Gene(0.0, 1.5), "end": Gene(0.0, 1.5), "at": Gene(0.0, duration),
                      "duration": Gene(15.0, duration, log=True)}),
            ("flash-crowd", {"height": height, "at": Gene(0.0, duration), "rise": Gene(15.0, 1800.0, log=True),
                             "hold": Gene(15.0, 3600.0, log=True), "decay": Gene(1.0, 3600.0, log=True)}),
            ("idle-then-spike", bursts),
            ("idle-then-spike", bursts),
            ("on-off", {"high": height, "on": Gene(30.0, 3600.0, log=True), "off": Gene(30.0, 3600.0, log=True),
                        "spread": Gene(0.0, 1.0)}),
        ),
        noise={"spread": Gene(0.01, 0.15), "correlation": Gene(30.0, 1800.0, log=True)},
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """The worst load of one start. loss: the mean over `draws` draws of noise that the search saw."""

    pattern: Pattern
    loss: float
    draws: int


def drawn(space: Family, rng: np.random.Generator) -> np.ndarray:
    """Return the genes (G,) of a load that can be served, anywhere in the family."""
    while True:
        genes: np.ndarray = rng.random(space.blocks[-1].stop)
        if space.servable(space.pattern(genes)):
            return genes


def child(space: Family, rng: np.random.Generator, one: np.ndarray, two: np.ndarray, step: float) -> np.ndarray:
    """Return the genes (G,) of a load that can be served, made of two: part by part of either, and changed.

    step: standard deviation of a little change.
    """
    while True:
        genes = one.copy()
        for block in space.blocks:
            if rng.random() < 0.5:
                genes[block] = two[block]
        changed = rng.random(genes.size) < CHANGED
        genes = genes + np.where(changed, step * rng.standard_normal(genes.size), 0.0)
        genes = np.abs(np.mod(genes + 1.0, 2.0) - 1.0)  # reflected at 0 and 1
        genes = np.where(rng.random(genes.size) < ANEW, rng.random(genes.size), genes)
        if space.servable(space.pattern(genes)):
            return genes


class _Start:
    """One evolution of its own: genes (B, G), and the losses of each load on the draws that it has seen."""

    def __init__(self, space: Family, rng: np.random.Generator, batch: int) -> None:
        self.space, self.rng, self.batch = space, rng, batch
        self.genes = [drawn(space, rng) for _ in range(batch)]
        self.losses: list[list[float]] = [[] for _ in range(batch)]

    def patterns(self) -> list[Pattern]:
        return [self.space.pattern(genes) for genes in self.genes]

    def told(self, losses: np.ndarray) -> None:
        for seen, loss in zip(self.losses, losses.tolist(), strict=True):
            seen.append(loss)

    def best(self, count: int) -> list[int]:
        return sorted(range(len(self.genes)), key=lambda i: -float(np.mean(self.losses[i])))[:count]

    def breed(self, step: float) -> None:
        """Keep the best, and fill the batch up with their children and with strangers."""
        kept = self.best(max(2, round(KEPT * self.batch)))
        genes, losses = [self.genes[i] for i in kept], [self.losses[i] for i in kept]
        while len(genes) < self.batch:
            if self.rng.random() < STRANGERS:
                genes.append(drawn(self.space, self.rng))
            else:
                one, two = self.rng.integers(len(kept), size=2)
                genes.append(child(self.space, self.rng, genes[one], genes[two], step))
            losses.append([])
        self.genes, self.losses = genes, losses

    def finals(self) -> None:
        """Fill the batch with the best alone, as often as fits."""
        kept = self.best(min(FINALISTS, self.batch))
        self.genes = [self.genes[kept[i % len(kept)]] for i in range(self.batch)]
        self.losses = [[] for _ in self.genes]

    def worst(self) -> Found:
        """Return the load with the largest mean loss over the draws of the last batch."""
        seen: dict[str, tuple[Pattern, list[float]]] = {}
        for pattern, losses in zip(self.patterns(), self.losses, strict=True):
            seen.setdefault(pattern.name, (pattern, []))[1].extend(losses)
        pattern, told = max(seen.values(), key=lambda each: float(np.mean(each[1])))
        return Found(pattern, float(np.mean(told)), len(told))


def search(
    losses: Losses,
    space: Family,
    *,
    budget: int,
    seed: int,
    starts: int = 3,
    batch: int = 96,
    progress: Callable[[int, int], None] | None = None,
) -> list[Found]:
    """Return the load with the largest loss of each start, the largest first; the same for the same arguments.

    losses: called with a batch at a time. budget: loads that are run at most, at least two batches. starts: searches
    from other beginnings, which share a batch. Raises AdversaryError where budget or batch are too small.
    """
    if starts < 1 or batch < FINALISTS * starts:
        raise AdversaryError(f"a batch of {batch} loads for {starts} starts; expected {FINALISTS} or more for each")
    if budget < 2 * batch:
        raise AdversaryError(f"a budget of {budget} loads; expected {2 * batch} or more, two batches of {batch}")
    each = batch // starts
    rounds = budget // (each * starts)
    islands = [_Start(space, np.random.default_rng([seed, start]), each) for start in range(starts)]
    for generation in range(rounds):
        last = generation == rounds - 1
        for island in islands if generation else ():
            if last:
                island.finals()
            else:
                island.breed(FIRST_STEP * (LAST_STEP / FIRST_STEP) ** (generation / rounds))
        patterns = [pattern for island in islands for pattern in island.patterns()]
        # copies of one load have to meet a noise of their own each
        found = losses(patterns, [generation + (i % each if last else 0) for i in range(len(patterns))])
        for index, island in enumerate(islands):
            island.told(found[index * each : (index + 1) * each])
        if progress is not None:
            progress(generation + 1, rounds)
    return sorted((island.worst() for island in islands), key=lambda each: -each.loss)
