"""A recorded burst of load in fast motion: what the twin Deployments of the side-by-side test meet, second by second.

Time alone is compressed, and with it everything that is measured in it: at a speed of 15, an interval of 15 s becomes
one of 1 s, a start-up of 60 s one of 4 s, a window of 300 s one of 20 s, and 10 requests/s of a replica 150. A request
is a request, so counts, and with them the noise of counts, are those of the standard world. What is not compressed are
the spans of time that a policy of rlscaler has in itself (its hold, the horizons and half-lives of its history): they
are seconds of the cluster. At a speed of 1 nothing is compressed.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlscaler import Settings
from rlscaler.custom_resource import resource_from_object, to_settings
from rlscaler.quantities import duration_text
from rlscaler_sim.evaluation import standard_world
from rlscaler_sim.load import PERCENTILE, Load, LoadError, Source, generator, realise
from rlscaler_sim.measure import gridded, measured
from rlscaler_sim.noise import Noise
from rlscaler_sim.patterns import parse
from rlscaler_sim.trace import read_trace, traces_folder
from rlscaler_sim.world import WorldConfig, compiled

INTERVAL, STARTUP, CAPACITY, LATENCY = 15.0, 60.0, 10.0, 0.5
"""Of the standard world, before time is compressed: seconds, seconds, requests/s of a replica, seconds."""
LOW, HIGH = 1, 100
"""Bounds of the replicas."""
SCALE = 25.0
"""Replicas that the 95th percentile of demand comes to, of the part that counts."""
RECORDED, RECORDED_START = "twitter_stream_2021-08_day10_10s.csv.gz", 59_400.0
"""The recorded load that is played, from this second on: after three minutes it rises to five times what it was, within
a minute, stays there for nine, and is nearly back another five later."""
MADE_UP, MADE_UP_START = "0.2*jitter+idle-then-spike(idle=0.0,rise=60.0,hold=480.0,decay=120.0)", 64_620.0
"""What is played where no recorded load is at hand: much the same."""
PAST = 3600.0
"""Seconds of the cluster for which load is known before the play begins: what the operator reads back as it starts."""
LEAD = 25.0
"""Seconds of the cluster at least that are played before anything counts. By then every contender decides, and has
forgotten what was before."""


@dataclass(frozen=True, slots=True, eq=False)
class Burst:
    """Load in fast motion: S intervals of K ticks. All times are seconds of the cluster, all rates requests/s there.

    source: its name. begins: seconds into the source from which on it counts. speed: of time. seed: of the noise.
    load: rates before over-dispersion; what is scored counts. arrivals: (S, K) requests/s that come in each tick.
    shown: (S,) requests/s that a gauge shows as each interval begins: the mean of the interval before as metrics count
    it. past: intervals before the play begins.
    counted: the first interval that counts; all that follow do.
    """

    source: str
    begins: float
    speed: float
    seed: int
    load: Load
    arrivals: np.ndarray
    shown: np.ndarray
    past: int
    counted: int

    @property
    def interval(self) -> float:
        """Seconds between two decisions, and between two scrapes."""
        return INTERVAL / self.speed

    @property
    def tick(self) -> float:
        """Seconds for which arrivals keep their rate."""
        return self.load.tick

    @property
    def needed(self) -> float:
        """Replica-seconds at full use of what counts."""
        return float(self.demand[self.counted :].sum() * self.tick)

    @property
    def startup(self) -> float:
        """Seconds from a pod's creation until it is ready."""
        return STARTUP / self.speed

    @property
    def capacity(self) -> float:
        """Requests/s that a replica serves."""
        return CAPACITY * self.speed

    @property
    def demand(self) -> np.ndarray:
        """(S, K) replicas that are needed at full use."""
        return self.arrivals / self.capacity

    @property
    def start(self) -> int:
        """Replicas that everyone begins the play with: its first demand at 70 % use."""
        return max(LOW, int(np.ceil(self.demand[self.past : self.past + 4].mean() / 0.7)))


def recorded_or_made_up() -> tuple[Source, float]:
    """Return the usual load, and the second of it from which on it counts: recorded where there is a copy of it."""
    folder = traces_folder()
    if folder is not None and (folder / RECORDED).is_file():
        return read_trace(folder / RECORDED), RECORDED_START
    return parse(MADE_UP), MADE_UP_START


def burst(source: Source, start: float, minutes: float, speed: float, seed: int = 0) -> Burst:
    """Return a part of a load in fast motion, with a lead-in and a past before it.

    start: seconds into the source; a past that would reach further back than the source is shorter. minutes: of the
    source, from `start` on. speed: 15 at most, for rlscaler decides once a second at most.
    Raises LoadError where the source has no load there, or too little before.
    """
    interval = INTERVAL / speed
    ticks = compiled(world(speed), 1).ticks
    lead = int(np.ceil(max(LEAD, 1.1 * 300.0 / speed) / interval))
    if start < lead * INTERVAL:
        raise LoadError(
            f"{source.name}: starts {start:g} s into it; expected {lead * INTERVAL:g} s or more, which lead in"
        )
    past = max(0, min(round(PAST / interval), int(start / INTERVAL) - lead))
    counted, steps = past + lead, past + lead + round(60.0 * minutes / INTERVAL)
    slow = realise(
        source,
        tick=INTERVAL / ticks,
        interval=INTERVAL,
        duration=steps * INTERVAL,
        start=start - counted * INTERVAL,
        scale_to=None,
        capacity=CAPACITY,
        rng=generator(source.name, seed),
    )
    scored = slow.scored & (np.arange(len(slow.rates)) >= counted * ticks)
    level = float(np.percentile(slow.rates[scored], PERCENTILE)) if scored.any() else 0.0
    if level <= 0.0:
        raise LoadError(f"{source.name}: there is no load from {start:g} s on for {minutes:g} minutes; start elsewhere")
    factor = speed * SCALE * CAPACITY / level
    load = Load(source.name, slow.tick / speed, slow.rates * np.float32(factor), slow.known, scored)
    params = compiled(replace(world(speed), lag=0.0), 1)
    rates, known, _ = gridded([load], ticks)
    found = measured(params, rates, known.all(axis=2), Noise(params, [(load.name, seed)], 1))
    return Burst(source.name, start, speed, seed, load, found.rates[0], found.seen[0], past, counted)


def spec(speed: float, query: str) -> dict[str, Any]:
    """Return what an RLScaler says of the workload in fast motion, but for its target and mode."""
    return {
        "minReplicas": LOW,
        "maxReplicas": HIGH,
        "interval": duration_text(INTERVAL / speed),
        "objective": {"latency": duration_text(LATENCY / speed)},
        "capacity": {"perReplica": f"{CAPACITY * speed:g}", "startup": duration_text(STARTUP / speed)},
        "metrics": {"load": {"query": query}},
    }


def settings(speed: float, behavior: dict[str, Any] | None = None) -> Settings:
    """Return what the operator makes of such an RLScaler."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    written = spec(speed, "up") | {"scaleTargetRef": target} | ({"behavior": behavior} if behavior else {})
    manifest = {"apiVersion": "rlscaler.io/v1alpha1", "kind": "RLScaler", "metadata": {"name": "web"}, "spec": written}
    return to_settings(resource_from_object(manifest))


def world(speed: float) -> WorldConfig:
    """Return the standard world in fast motion; metrics are late by an interval, as by two clocks that do not agree."""
    return replace(standard_world(settings(speed)), lag=INTERVAL / speed)
