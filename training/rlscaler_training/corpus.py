"""The load that a policy for any workload is trained on: recorded, variants of it, and made up.

Two fifths recorded, two fifths variants of recorded load (`augment`), one fifth variants of made-up load: each alone
does worse on load of other sources. Variants mix loads of one fold only, so that leaving the fold out leaves nothing of
it behind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlscaler_sim import scenarios
from rlscaler_sim.contenders import standard_settings
from rlscaler_sim.evaluation import standard_world
from rlscaler_sim.load import Load, generator, realise
from rlscaler_sim.pool import Pool, prepare
from rlscaler_sim.trace import Trace, family
from rlscaler_training import augment

MADE_UP = "made up"
"""The source family of load that was not recorded."""
SAMPLED = 9
"""One load of so many follows a training."""
_STREAM = 0x636F7270
_REPLICAS = 25.0


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
    for trace in traces:
        own = family(trace.name)
        others = [whole[t.name] for t in traces if _kin(place, own, family(t.name))]
        for draw in range(draws):
            rng = np.random.default_rng([_STREAM, seed, draw, *trace.name.encode()])
            again = realise(trace, duration=float("inf"), rng=rng)
            window = augment.begun(again, ticks, rng, per)
            loads.append(augment.to_size(window, _REPLICAS, capacity))
            made = augment.variant(again, others, ticks, rng, per=per, capacity=capacity, replicas=_REPLICAS)
            loads.append(made)
            families += [own, own]
    names = [name for name in scenarios.LOADS if name != "weekly"]
    for index in range(made_up):
        rng = np.random.default_rng([_STREAM, seed, index])
        scenario = scenarios.LOADS[names[index % len(names)]]
        plain = realise(scenario.source, duration=2.0 * days * 86400.0, rng=rng)
        loads.append(augment.variant(plain, [], ticks, rng, per=per, capacity=capacity, replicas=_REPLICAS))
        families.append(MADE_UP)
    loads = [replace(load, name=f"{load.name}-{index}") for index, load in enumerate(loads)]
    return Corpus(prepare(loads, config, settings, seed), tuple(families))


def _kin(place: Mapping[str, int], one: str, other: str) -> bool:
    """Tell whether two families are different ones of one fold."""
    return one != other and place.get(one) == place.get(other)


def _picked(pool: Pool, which: np.ndarray) -> Pool:
    """Return some loads of a pool, (M,) indices."""
    return replace(
        pool, rates=pool.rates[which], seen=pool.seen[which], start=pool.start[which],
        features={name: array[which] for name, array in pool.features.items()},
        mean_needed=pool.mean_needed[which], mean_arrivals=pool.mean_arrivals[which], levels=pool.levels[which],
        _observed=None,
    )  # fmt: skip
