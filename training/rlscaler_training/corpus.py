"""The load that a policy for any workload is trained on: recorded, variants of it, and made up.

Two fifths recorded, two fifths variants of recorded load (`augment`), one fifth variants of made-up load: each alone
does worse on load of other sources. Variants mix loads of one fold only, so that leaving the fold out leaves nothing of
it behind. About half of it is served in the standard world, the rest by pods that start faster or slower, under other
objectives, with a few replicas or a thousand, so that none of these is foreign to what is learned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from rlscaler import Objective, Settings
from rlscaler_sim import scenarios
from rlscaler_sim.contenders import standard_settings
from rlscaler_sim.evaluation import standard_world
from rlscaler_sim.load import Load, generator, realise
from rlscaler_sim.pool import Pool, prepare, settings_of
from rlscaler_sim.trace import Trace, family
from rlscaler_sim.world import WorldConfig
from rlscaler_training import augment

MADE_UP = "made up"
"""The source family of load that was not recorded."""
SAMPLED = 9
"""One load of so many follows a training."""
_STREAM = 0x636F7270
_REPLICAS = 25.0
STANDARD = 0.55
"""Share of the draws of each fact that are the standard world's; the others are one of the following."""
STARTUPS = (5.0, 15.0, 30.0, 30.0, 120.0, 120.0, 300.0, 600.0)
"""Start-up delays, seconds."""
TARGETS = (99.0, 99.5, 99.8, 99.95, 99.99)
"""Percent of the requests within the objective."""
SIZES = (1.5, 1500.0)
"""Range of the replicas that the 95th percentile of the demand is."""
ROOM = 4.0
"""Most replicas, in those that the 95th percentile needs; 100 at least."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a load is served by: seconds of start-up, percent of requests in time, replicas at its 95th percentile."""

    startup: float
    target: float
    replicas: float


def facts(rng: np.random.Generator, settings: Settings) -> Facts:
    """Draw the facts of one load. settings: of the standard world."""
    other = rng.random(3) >= STANDARD
    low, high = np.log(SIZES)
    startup, target, size = rng.choice(STARTUPS), rng.choice(TARGETS), np.exp(rng.uniform(low, high))
    return Facts(
        float(startup if other[0] else settings.startup),
        float(target if other[1] else settings.objective.target),
        float(size if other[2] else _REPLICAS),
    )


def served(each: Sequence[Facts], settings: Settings, config: WorldConfig) -> tuple[WorldConfig, Settings]:
    """Return the worlds and settings of loads with these facts, a value of each for each load."""
    startup = np.array([one.startup for one in each])
    most = np.array([max(float(np.max(settings.max_replicas)), np.ceil(ROOM * one.replicas)) for one in each])
    target = np.array([one.target for one in each])
    objective: Objective = replace(settings.objective, target=target)
    return replace(config, startup=startup), replace(
        settings, startup=startup, max_replicas=most.astype(np.int64), objective=objective
    )


@dataclass(frozen=True, slots=True)
class Corpus:
    """pool: the loads. families: of each, MADE_UP where it is none's."""

    pool: Pool
    families: tuple[str, ...]

    def without(self, held_out: Sequence[str]) -> Pool:
        """Return the load of all other families."""
        return _picked(self.pool, self._others(held_out))

    def sample(self, held_out: Sequence[str]) -> Pool:
        """Return a few of the same, to follow a training by."""
        return _picked(self.pool, self._others(held_out)[::SAMPLED])

    def _others(self, held_out: Sequence[str]) -> np.ndarray:
        return np.flatnonzero([name not in held_out for name in self.families])


def corpus(
    traces: Sequence[Trace], folds: Sequence[Sequence[str]], *, days: float, draws: int, made_up: int, seed: int
) -> Corpus:
    """Return what is trained on, in the standard world, deterministic with the arguments.

    traces: recorded load. folds: their families in groups. days: of each load at most. draws: recorded loads, and as
    many variants, of each trace. made_up: loads that are not recorded. seed: of everything random; 0 or more.
    """
    settings = standard_settings()
    config = standard_world(settings)
    capacity = float(np.max(config.capacity_per_replica))
    per = round(float(config.interval) / 3.0)
    ticks = round(days * 86400.0 / float(config.interval)) * per
    whole = {t.name: realise(t, duration=float("inf"), rng=generator(t.name, seed)) for t in traces}
    place = {name: index for index, group in enumerate(folds) for name in group}
    loads: list[Load] = []
    families: list[str] = []
    told: list[Facts] = []
    for trace in traces:
        own = family(trace.name)
        others = [whole[t.name] for t in traces if _kin(place, own, family(t.name))]
        for draw in range(draws):
            rng = np.random.default_rng([_STREAM, seed, draw, *trace.name.encode()])
            again = realise(trace, duration=float("inf"), rng=rng)
            window = augment.begun(again, ticks, rng, per)
            told += [facts(rng, settings), facts(rng, settings)]
            loads.append(augment.to_size(window, told[-2].replicas, capacity))
            made = augment.variant(again, others, ticks, rng, per=per, capacity=capacity, replicas=told[-1].replicas)
            loads.append(made)
            families += [own, own]
    names = [name for name in scenarios.LOADS if name != "weekly"]
    for index in range(made_up):
        rng = np.random.default_rng([_STREAM, seed, index])
        scenario = scenarios.LOADS[names[index % len(names)]]
        plain = realise(scenario.source, duration=2.0 * days * 86400.0, rng=rng)
        told.append(facts(rng, settings))
        loads.append(augment.variant(plain, [], ticks, rng, per=per, capacity=capacity, replicas=told[-1].replicas))
        families.append(MADE_UP)
    loads = [replace(load, name=f"{load.name}-{index}") for index, load in enumerate(loads)]
    return Corpus(prepare(loads, *served(told, settings, config), seed), tuple(families))


def _kin(place: Mapping[str, int], one: str, other: str) -> bool:
    """Tell whether two families are different ones of one fold."""
    return one != other and place.get(one) == place.get(other)


def _picked(pool: Pool, which: np.ndarray) -> Pool:
    """Return some loads of a pool, (M,) indices."""
    several = {each.name: getattr(pool.config, each.name) for each in fields(pool.config)}
    own = {name: value[which] for name, value in several.items() if np.ndim(value) == 1}
    return replace(
        pool, config=replace(pool.config, **own), settings=settings_of(pool.settings, which),
        rates=pool.rates[which], seen=pool.seen[which], start=pool.start[which],
        features={name: array[which] for name, array in pool.features.items()},
        mean_needed=pool.mean_needed[which], mean_arrivals=pool.mean_arrivals[which], levels=pool.levels[which],
        _observed=None,
    )  # fmt: skip
