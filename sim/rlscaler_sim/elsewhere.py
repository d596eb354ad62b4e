"""The same load and the same contenders in worlds that differ from the one that decisions are told of.

What is asked there is only how everyone fares: no step is kept, and no bound is proven. What follows from the load
alone is taken as it is known already, and worlds of a load that is cut are played side by side.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rlscaler import Settings
from rlscaler_sim import contenders, long_plan, stretches, world
from rlscaler_sim.contest import Entrant
from rlscaler_sim.evaluation import Limit, beating, figures, limit
from rlscaler_sim.load import Load
from rlscaler_sim.result import CLAIRVOYANT, Contender
from rlscaler_sim.told import Told


def plans(
    load: Load, configs: Sequence[world.WorldConfig], settings: Settings, seed: int, start: np.ndarray | None
) -> list[Limit]:
    """Return what the clairvoyant orders in each world. start: see `stretches.play`."""
    return [long_plan.plan(load, seed, config, settings, start, bounded=False) for config in configs]


def elsewhere(
    load: Load,
    entrants: Sequence[Entrant],
    configs: Sequence[world.WorldConfig],
    settings: Settings,
    seed: int,
    *,
    planned: Sequence[Limit],
    own: Sequence[Entrant],
    told: Told | None,
    seen: np.ndarray | None,
    start: np.ndarray | None,
    unread: Sequence[str],
) -> list[list[Contender]]:
    """Return everyone's figures in each world, without regrets.

    entrants: with the clairvoyant, which is the last of the figures. configs: differ in capacity and start-up. planned:
    the clairvoyant's `plans` for them; own: `hpa-own` as it is tuned on each, where it is among the entrants. told,
    seen, start, unread: see `stretches.play`.
    """
    casts, many = [], len(entrants) + 1
    for index, plan in enumerate(planned):
        there = [own[index] if each.name == contenders.OWN else each for each in entrants]
        casts.append([*there, limit(plan, settings)])
    found: list[list[Contender]] = []
    for some in _side_by_side(configs, told, entrants):
        cast = [entrant for index in some for entrant in casts[index]]
        sums = stretches.play(load, cast, _merged([configs[index] for index in some], many), settings, seed,
                              seen=seen, start=start, unread=unread, known=told)  # fmt: skip
        waits, column = sums.wait_quantile(), np.array([0])
        fared = [figures(entrant.name, sums, waits, i, column) for i, entrant in enumerate(cast)]
        found += [fared[begin : begin + many] for begin in range(0, len(fared), many)]
    for each in found:
        if (best := beating(each)) is not None:
            each[-1] = replace(each[best], name=CLAIRVOYANT)
    return found


def _side_by_side(
    configs: Sequence[world.WorldConfig], told: Told | None, entrants: Sequence[Entrant]
) -> list[list[int]]:
    """Return the worlds (indices, in turn) that are played at once: those whose queues are reckoned alike."""
    groups: list[list[int]] = []
    together = told is not None and not any(stretches.remembers(entrant.policy) for entrant in entrants)
    for index, config in enumerate(configs):
        slow = world.compiled(config, 1).memory is not None
        if together and groups and slow == (world.compiled(configs[groups[-1][0]], 1).memory is not None):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _merged(configs: Sequence[world.WorldConfig], many: int) -> world.WorldConfig:
    """Return the worlds as one, each for `many` entrants after the other."""
    if len(configs) == 1:
        return configs[0]
    capacity, startup = (
        np.repeat([float(getattr(config, name)) for config in configs], many)
        for name in ("capacity_per_replica", "startup")
    )
    return replace(configs[0], capacity_per_replica=capacity, startup=startup)
