"""Worlds to train in: the standard one, or worlds drawn around it (domain randomisation, Tobin et al. 2017, arXiv
1703.06907), near it first and further away as training goes on (a curriculum, Bengio et al. 2009).

A world has a level from 0 to 1. At 0 it is the standard world, or the one that a scenario states; at 1 every value may
be anywhere in its range (`Ranges`); between, ranges are narrowed towards the standard value by the level. A world
follows from a generator and its level alone, so that a resumed run meets the worlds of an unbroken one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler import Objective, Settings
from rlscaler.errors import UserError
from rlscaler_sim import patterns, scenarios
from rlscaler_sim.contenders import standard_settings
from rlscaler_sim.evaluation import standard_world
from rlscaler_sim.load import Load, LoadError, realise
from rlscaler_sim.patterns import Pattern
from rlscaler_sim.scenarios import Scenario
from rlscaler_sim.trace import Trace
from rlscaler_sim.world import WorldConfig
from rlscaler_training import hyper
from rlscaler_training.hyper import setting

STANDARD_REPLICAS = 25.0
"""Replicas that the 95th percentile of a load needs in the standard world."""
BOUND = 4.0
"""The upper bound over that percentile, at least: 100 over 25 in the standard world."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """What worlds are drawn from. A pair is the lowest and the highest value at level 1."""

    replicas: tuple[float, ...] = setting(
        (1.0, 400.0), 0.1, 100_000.0, "Fully used replicas that the 95th percentile of the load needs: one replica more"
        " is everything at 1 and nothing at 400; most workloads have under 10, large ones hundreds."
    )  # fmt: skip
    fano: tuple[float, ...] = setting(
        (1.0, 8.0), 1.0, 100.0, "Over-dispersion of arrivals, variance over mean: 1 is Poisson, queues and retries"
        " clump more than the standard 2."
    )  # fmt: skip
    jitter: tuple[float, ...] = setting(
        (0.0, 0.15), 0.0, 1.0, "Relative noise of a made-up load with a correlation time of a minute; recorded loads in"
        " coarse buckets get 5 to 9 %."
    )  # fmt: skip
    mixture: tuple[float, ...] = setting(
        (0.0, 0.5), 0.0, 1.0, "Weight of a second made-up load on top of the first: a service has several kinds of"
        " clients."
    )  # fmt: skip
    startup: tuple[float, ...] = setting(
        (5.0, 600.0), 0.0, 3600.0, "Mean seconds until a pod is ready: a small process on a warm node, to a large model"
        " that is loaded on a new one."
    )  # fmt: skip
    startup_spread: tuple[float, ...] = setting(
        (0.0, 0.25), 0.0, 1.0, "Coefficient of variation of the start-up that the pods of one order share: images"
        " cached or pulled, nodes there or not."
    )  # fmt: skip
    startup_jitter: tuple[float, ...] = setting(
        (0.0, 0.2), 0.0, 0.8, "The same among the pods of one order. Both lengthen the plan of pods that every step"
        " goes through, so they are no wider."
    )  # fmt: skip
    lag: tuple[float, ...] = setting(
        (5.0, 120.0), 0.0, 3600.0, "Age of the newest metrics in seconds: scraped every 5 s and read at once, to every"
        " minute through an adapter that keeps them another."
    )  # fmt: skip
    window: tuple[float, ...] = setting(
        (15.0, 60.0), 1.0, 3600.0, "Seconds that the load is averaged over: of one interval, to the usual rate(x[1m])."
    )  # fmt: skip
    capacity_error: tuple[float, ...] = setting(
        (0.7, 1.4), 0.1, 10.0, "Requests/s that a replica really serves over those that the autoscaler believes in: a"
        " release made it slower or faster, or it was measured under other requests."
    )  # fmt: skip
    crash_rate: tuple[float, ...] = setting(
        (0.0, 0.5), 0.0, 100.0, "Crashes of a ready pod an hour: none, to a leak that ends it every other hour."
    )  # fmt: skip
    gap_rate: tuple[float, ...] = setting(
        (0.0, 4.0), 0.0, 100.0, "Gaps of the metrics an hour: none, to a scraper that restarts all the time."
    )  # fmt: skip
    gap_duration: tuple[float, ...] = setting(
        (15.0, 240.0), 1.0, 3600.0, "Seconds of a gap: one missed scrape, to beyond the three minutes after which"
        " onMetricLoss acts."
    )  # fmt: skip
    foreign: float = setting(
        0.5, 0.0, 1.0, "Share of the worlds at level 1 whose load is of any made-up family, not of those trained on."
    )  # fmt: skip
    worlds: int = setting(
        64, 1, 10_000, "Worlds that are drawn, beside the standard ones; level k of n is sqrt(k / n), so that half of"
        " them lie above 0.7. An episode meets one of those that are open."
    )  # fmt: skip
    rise: float = setting(
        0.6, 0.0, 1.0, "Share of the training over which the level rises from 0 to 1, in a straight line; a world is"
        " open from its level on, for good. 0: all from the start. Not tuned."
    )  # fmt: skip


PAIRS = tuple(each.name for each in fields(Ranges) if isinstance(each.default, tuple))
"""Ranges that are a pair, in the order in which they are drawn."""
STANDARD: Mapping[str, float] = {
    "replicas": STANDARD_REPLICAS, "jitter": 0.0, "mixture": 0.0, "capacity_error": 1.0,
    **{name: float(getattr(WorldConfig(), name)) for name in PAIRS if hasattr(WorldConfig(), name)},
}  # fmt: skip
"""What the standard world has of each pair."""
FAMILIES: tuple[Scenario, ...] = tuple(scenarios.LOADS.values())
"""Families of made-up load."""


def read(path: str | Path) -> Ranges:
    """Return the ranges of a JSON file; what it leaves out is as by default. Raises UserError naming file and key."""
    return checked(hyper.read(Ranges, path, {}), f"{path}: ")


def checked(ranges: Ranges, where: str = "") -> Ranges:
    """Return the ranges. Raises UserError where a pair is none, or does not ascend."""
    for name in PAIRS:
        pair = getattr(ranges, name)
        if len(pair) != 2 or pair[0] > pair[1]:
            raise UserError(f"{where}{name} is {list(pair)}; expected two numbers, the lower one first")
    return ranges


@dataclass(frozen=True, slots=True)
class World:
    """A load and what serves it. level: 0 to 1. scenario: the load and what is fixed of its world. told: value of
    each of PAIRS. offset: share of the load's time that is skipped, as far as it can be spared. other: what is mixed
    in by the weight `mixture`."""

    level: float
    scenario: Scenario
    told: Mapping[str, float]
    offset: float = 0.0
    other: Scenario | None = None
    config: WorldConfig = field(init=False)
    settings: Settings = field(init=False)

    def __post_init__(self) -> None:
        """Make the world's configuration, and what the autoscaler is told of it."""
        own = {name: value for name, value in self.told.items() if name in WorldConfig.__dataclass_fields__}
        config = replace(standard_world(standard_settings()), **(own | dict(self.scenario.world)))
        believed = float(config.capacity_per_replica)
        settings = replace(
            standard_settings(),
            max_replicas=max(int(standard_settings().max_replicas), math.ceil(BOUND * self.told["replicas"])),
            capacity_per_replica=believed,
            startup=float(config.startup),
            lag=float(config.lag),
            concurrency=float(config.concurrency),
            objective=Objective(latency=float(config.slo_wait + config.concurrency / believed)),
            load_counts="Completions" if config.completions else "Arrivals",
        )
        object.__setattr__(self, "config", replace(config, capacity_per_replica=believed * self.told["capacity_error"]))
        object.__setattr__(self, "settings", settings)


def stated(scenario: Scenario) -> World:
    """Return the world at level 0: the standard one, but for what the scenario states."""
    told = {**STANDARD} | {name: float(value) for name, value in scenario.world.items() if name in STANDARD}
    return World(0.0, scenario, told | ({"replicas": scenario.scale_to} if scenario.scale_to else {}))


def drawn(rng: np.random.Generator, level: float, known: Sequence[Scenario], ranges: Ranges) -> World:
    """Return a world of this level, whose load is one of those known or of another family.

    What a scenario states stays as it is. The same generator at another level gives the same world, nearer to the
    standard one or further from it.
    """
    place, family, other = (float(part) for part in rng.random(3))
    foreign = float(rng.random()) < level * ranges.foreign
    scenario = FAMILIES[int(family * len(FAMILIES))] if foreign else known[int(place * len(known))]
    base = stated(scenario)
    fixed = {*scenario.world, *(["replicas"] if scenario.scale_to else [])}
    told = {}
    for name in PAIRS:
        value = between(float(rng.random()), getattr(ranges, name), STANDARD[name], level)
        told[name] = base.told[name] if name in fixed else value
    offset = level * float(rng.random())
    return World(level, scenario, told, offset, FAMILIES[int(other * len(FAMILIES))])


def between(share: float, pair: Sequence[float], standard: float, level: float) -> float:
    """Return the value at this share of a pair that is narrowed by the level towards the standard value.

    Even in the logarithm where the pair begins above 0. A standard value outside of the pair counts as its nearer end.
    """
    low, high = pair
    middle = min(max(standard, low), high)
    if low > 0.0:
        least, most = (middle * (end / middle) ** level for end in (low, high))
        return float(least * (most / least) ** share)
    least, most = (middle + level * (end - middle) for end in (low, high))
    return float(least + share * (most - least))


def load(world: World, seconds: float, rng: np.random.Generator) -> Load:
    """Return the load of a world, `seconds` at most. Raises LoadError, TraceError and PatternError."""
    scenario, told = world.scenario, world.told
    source = scenario.source
    if isinstance(source, Pattern):
        source = _mixed(source, world)
    whole = source.duration if isinstance(source, Trace) else scenario.duration
    interval = float(world.config.interval)
    spare = max(0.0, min(whole, scenario.duration) - seconds)
    start = math.floor(world.offset * spare / interval) * interval

    def realised(start: float) -> Load:
        return realise(
            source, duration=min(seconds, scenario.duration), start=start, scale_to=told["replicas"],
            capacity=float(world.config.capacity_per_replica), rng=rng,
        )  # fmt: skip

    try:
        return realised(start)
    except LoadError:
        if not start:
            raise
        return realised(0.0)  # a long gap of a recording


def _mixed(pattern: Pattern, world: World) -> Pattern:
    """Return a made-up load with the second one and the noise that the world has."""
    weight, spread = world.told["mixture"], world.told["jitter"]
    if weight and world.other is not None and isinstance(world.other.load, Pattern):
        pattern = pattern + world.other.load.scaled(weight)
    return pattern * patterns.PATTERNS["jitter"](spread=spread) if spread else pattern


def conditions(worlds: Sequence[World]) -> tuple[WorldConfig, Settings]:
    """Return the worlds and settings of all, each field a number where it is the same in all, else (P,)."""
    configs, settings = [each.config for each in worlds], [each.settings for each in worlds]
    objective = replace(Objective(), **_columns([each.objective for each in settings]))
    first = settings[0]
    told = _columns(settings, leave=("objective", "behavior", "loss"))
    return replace(configs[0], **_columns(configs)), replace(first, **told, objective=objective)


def _columns(parts: Sequence[Any], leave: Sequence[str] = ()) -> dict[str, Any]:
    """Return each field of dataclasses of one kind: the value that all have, or an array of theirs."""
    found: dict[str, Any] = {}
    for each in fields(parts[0]):
        if each.name not in leave:
            values = [getattr(part, each.name) for part in parts]
            found[each.name] = values[0] if all(value == values[0] for value in values) else np.array(values)
    return found
