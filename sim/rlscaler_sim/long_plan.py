"""The clairvoyant's plan for a long load, made in parts side by side.

What was right half an hour ago says nothing about now, so each part is planned with some time around it, and what is
kept of the plans fits together. The bound is a sum: no orders cost less in a part than the best that may begin it with
any queue and any replicas. Each part's first start-up is left out of it, as replicas that rise there were paid before.
"""

import math
from dataclasses import replace

import numpy as np

from rlscaler import Settings
from rlscaler_sim import clairvoyant, world
from rlscaler_sim.clairvoyant import Question
from rlscaler_sim.contest import START_TARGET
from rlscaler_sim.evaluation import GAP_WEIGHT, Known, Limit, clairvoyant_plan
from rlscaler_sim.load import Load
from rlscaler_sim.measure import gridded
from rlscaler_sim.noise import Noise
from rlscaler_sim.result import LATE_WEIGHT

LEAST = 8192
"""Steps from which on a load is planned in parts."""
PART, BOUNDED = 720, 2880
"""Steps of a part, for the plan and for the bound."""
AROUND = 120
"""Steps that a part is planned with before and after it."""
AT_ONCE = 48
"""Parts that are planned at once: tables have a column for each count that any of them needs."""


def plan(
    load: Load,
    seed: int,
    config: world.WorldConfig,
    settings: Settings,
    start: np.ndarray | None = None,
    *,
    bounded: bool = True,
) -> Limit:
    """Return the clairvoyant's orders (1, T) and the bound (1,) for one load; start as of `contest.play`.

    bounded: false where nobody asks for the bound, which is 0 then.
    """
    if len(load.rates) // world.compiled(config, 1).ticks < LEAST:
        return clairvoyant_plan([load], [seed], config, settings, start)
    return _in_parts(known_to_the_end(load, seed, config), config, settings, start, bounded)


def known_to_the_end(load: Load, seed: int, config: world.WorldConfig) -> Known:
    """Return what `evaluation.known_to_the_end` does for one load, all steps at once."""
    ticks = world.compiled(config, 1).ticks
    rates, _, scored = gridded([load], ticks)
    steps = rates.shape[1]
    params = world.compiled(config, 1)
    draws = {name: array.T for name, array in Noise(params, [(load.name, seed)], 1).whole(steps).items()}
    arrivals = world.modulated(world.compiled(config, steps), rates[0].T, draws).T[None] * load.tick
    weight = scored.mean(axis=2)
    needed = (weight * rates.mean(axis=2, dtype=np.float64)).sum(axis=1)
    return Known(arrivals, weight, needed * float(config.interval) / float(config.capacity_per_replica))


def _in_parts(
    known: Known, config: world.WorldConfig, settings: Settings, start: np.ndarray | None, bounded: bool
) -> Limit:
    steps = known.weight.shape[1]
    interval, capacity = float(settings.interval), float(config.capacity_per_replica)
    total = float((known.arrivals[0].sum(axis=1, dtype=np.float64) * known.weight[0]).sum())
    late = LATE_WEIGHT / max(total, 1e-9) * max(float(known.needed[0]), 1e-9) / interval

    def asked(size: int, around: int, weigh: float, unscored: int, start_of: np.ndarray) -> Question:
        """Return the question of all parts, in replica-steps; weigh: of steps that are not scored."""
        at = np.arange(0, steps, size)[:, None] + np.arange(-around, size + around)
        there = (at >= 0) & (at < steps)
        at = np.clip(at, 0, steps - 1)
        arrivals = np.where(there[:, :, None], known.arrivals[0][at], np.float32(0.0))
        weight = np.where(there, np.maximum(known.weight[0][at], weigh), 0.0)
        weight[:, :unscored] = 0.0
        mine = (arrivals.sum(axis=2, dtype=np.float64) * weight).sum(axis=1)
        return Question(
            arrivals,
            capacity_per_replica=capacity,
            concurrency=float(config.concurrency),
            slo_wait=float(config.slo_wait),
            interval=interval,
            startup=float(config.startup),
            low=int(settings.min_replicas),
            high=int(settings.max_replicas),
            start=start_of,
            price=late * np.maximum(mine, 1e-9),
            weight=weight,
            needed=np.full(len(at), interval),
        )

    tick = interval / known.arrivals.shape[2]
    demand = known.arrivals[0] / (capacity * tick)
    low, high = max(1.0, float(settings.min_replicas)), float(settings.max_replicas)
    begins = np.maximum(np.arange(0, steps, PART) - AROUND, 0)
    guess = np.clip(np.ceil(demand[begins].mean(axis=1) / START_TARGET), low, high)
    if start is not None:
        guess[begins == 0] = start[0]
    weigh = 0.0 if (known.weight > 0).all() else GAP_WEIGHT
    question = asked(PART, AROUND, weigh, 0, guess)
    orders = np.empty((len(begins), PART), np.int32)
    for some in _alike(question):
        plan = clairvoyant.plan(_only(question, some), bounded=False)
        orders[some] = plan.orders[:, AROUND : AROUND + PART]
    orders = orders.reshape(1, -1)[:, :steps]
    if not bounded:
        return Limit(orders, np.zeros(1))

    peak = np.maximum.reduceat(demand.max(axis=1), np.arange(0, steps, BOUNDED))
    most = np.ceil(1.25 * (peak + 6.0 * np.sqrt(peak / float(config.concurrency)) + 2.0) + 3.0)
    startup = math.ceil(float(config.startup) / interval) + 1
    question = asked(BOUNDED, 0, 0.0, startup, np.clip(most, low, high))
    bound = np.empty(len(peak))
    for some in _alike(question):
        bound[some] = clairvoyant.lower_bound(_only(question, some))
    unit = interval / max(float(known.needed[0]), 1e-9)
    return Limit(orders, np.array([bound.sum() * unit]))


def _alike(question: Question) -> list[np.ndarray]:
    """Return the parts (indices) of a question, those together that need about as many replicas."""
    most = question.arrivals.max(axis=(1, 2))
    found: list[np.ndarray] = np.array_split(np.argsort(most, kind="stable"), -(-len(most) // AT_ONCE))
    return found


def _only(question: Question, some: np.ndarray) -> Question:
    """Return some parts of a question."""
    mine = {name: getattr(question, name)[some] for name in ("arrivals", "start", "price", "weight", "needed")}
    return replace(question, **mine)
