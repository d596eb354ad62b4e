"""Simulated workloads whose truth is known, as a monitoring system would have recorded them."""

from dataclasses import dataclass

import numpy as np

from rlscaler import startup
from rlscaler.profile import Recording
from rlscaler_sim.load import generator, realise
from rlscaler_sim.patterns import parse
from rlscaler_sim.world import World, WorldConfig

EPOCH = 1_767_571_200.0
"""A Monday at midnight."""
STEP, EVERY = 5.0, 3
"""Seconds of a step of the world, and steps from one reading to the next."""
FIXED = 0.15
"""Share of the workloads whose replicas nobody changes."""
LOADS = ("working-day", "daily*jitter", "sine-curve*jitter", "working-day*jitter", "daily+flash-crowd", "random-walk",
         "working-day+batch", "weekly*jitter")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true of one workload.

    startup: the quantile of the starts that decisions use, seconds. window: seconds that load and utilization are means
    over; they are 15 s old.
    """

    load: str
    capacity: float
    startup: float
    fano: float
    idle: float
    window: float


def simulated(count: int, hours: float, seed: int) -> list[tuple[Truth, Recording]]:
    """Return workloads of different loads, capacities, start-ups, noises and idle shares, scaled as an HPA would.

    The autoscaler acts every 15 s, at moments of its own between the readings.
    """
    rng = np.random.default_rng(seed)
    capacity = np.exp(rng.uniform(np.log(1.0), np.log(300.0), count))
    mean, spread = np.exp(rng.uniform(np.log(20.0), np.log(240.0), count)), rng.uniform(0.0, 0.2, count)
    fano, idle = rng.uniform(1.0, 4.0, count), rng.choice([0.0, 0.03, 0.08, 0.15], count)
    noise, target, size = rng.uniform(0.0, 0.05, count), rng.uniform(0.45, 0.75, count), rng.uniform(8, 40, count)
    window = rng.choice([15.0, 30.0, 60.0], count)
    names = [LOADS[i % len(LOADS)] for i in range(count)]
    rates = []
    for i, name in enumerate(names):
        load = realise(parse(name), tick=2.5, interval=STEP, duration=hours * 3600.0,
                       capacity=float(capacity[i]), scale_to=float(size[i]),
                       rng=generator(name, seed * 1000 + i))  # fmt: skip
        rates.append(load.rates)
    stacked = np.stack(rates, axis=1)
    place = World(
        WorldConfig(capacity_per_replica=capacity, startup=mean, startup_spread=spread, fano=fano, window=window,
                    concurrency=rng.choice([1, 4, 8], count), interval=STEP), count, seed=seed,
    )  # fmt: skip
    desired = np.clip(np.ceil(stacked.mean(axis=0) / capacity / target), 1.0, None)
    place.reset(seed, desired)
    highest, found = [desired] * (20 * EVERY), []
    phase, stays = rng.integers(0, EVERY, count), rng.random(count) < FIXED
    per = place.params.ticks
    for step in range(len(stacked) // per):
        now = place.readings()
        if step % EVERY == 0:
            series_of = (now.load, now.desired, now.ready, now.utilization, now.latency)
            found.append([np.asarray(series, float) for series in series_of])
        use = np.nan_to_num(np.asarray(now.utilization, float), nan=0.6)
        wanted = np.where(np.abs(use / target - 1.0) > 0.1, np.ceil(np.asarray(now.ready) * use / target), desired)
        acts = (step % EVERY == phase) & ~stays
        highest = [np.where(acts, np.clip(wanted, 1.0, 400.0), 0.0), *highest[: 20 * EVERY - 1]]
        wanted = np.maximum(highest[0], np.minimum(desired, np.max(highest, axis=0)))
        desired = np.where(acts, wanted, desired)
        place.step(desired, stacked[step * per : (step + 1) * per])
    series = np.array(found)
    use = idle + (1.0 - idle) * series[:, 3]
    series[:, 3] = np.clip(use * (1.0 + noise * rng.standard_normal(use.shape)), 0.0, 1.0)
    result = []
    for i in range(count):
        truth = Truth(names[i], float(capacity[i]), _quantile(float(mean[i]), float(spread[i])), float(fano[i]),
                      float(idle[i]), float(window[i]))  # fmt: skip
        columns = (np.ascontiguousarray(series[:, each, i], np.float32) for each in range(5))
        result.append((truth, Recording(EPOCH, 15.0, *columns)))
    return result


def _quantile(mean: float, spread: float) -> float:
    """Return the quantile of the world's start-up (see `rlscaler_sim.pods`)."""
    draws = np.clip(np.random.default_rng(0).standard_normal(100_000), -3.0, 3.0)
    sigma = np.sqrt(np.log1p(spread**2))
    return float(np.quantile(mean * np.exp(sigma * draws - 0.5 * sigma**2), startup.QUANTILE))
