"""What a workload profile is used for in a dry-run and a backtest: capacity, start-up, noise and the recorded load."""

from dataclasses import replace

import numpy as np

from rlscaler import profile as profiles
from rlscaler.custom_resource import Resource
from rlscaler.errors import UserError
from rlscaler.profile import Estimate, Profile, Recording
from rlscaler_sim.recorded import Past, checked
from rlscaler_sim.scenarios import Scenario
from rlscaler_sim.trace import Trace

LEAST_NOISE = 1.0
"""The world's arrivals scatter as Poisson's at least."""


def with_profile(resource: Resource, path: str) -> tuple[Resource, Profile]:
    """Return the resource with the capacity and the start-up of a profile's file, and the profile.

    What was not learned stays as the resource states it, and is as it was stated to the calibration where this one
    leaves it out. Raises UserError where neither tells a capacity.
    """
    profile = profiles.read(path)
    known = resource.spec.capacity
    per_replica = _chosen(profile.capacity, known.per_replica)
    if per_replica is None:
        raise UserError(
            f"{path}: tells no capacity ({profile.capacity.why}), and spec.capacity.perReplica of {resource.key} is "
            "left out; state it"
        )
    startup = _chosen(profile.startup, known.startup)
    spec = replace(resource.spec, capacity=replace(known, per_replica=per_replica, startup=startup))
    return replace(resource, manifest=replace(resource.manifest, spec=spec)), profile


def _chosen(found: Estimate, stated: float | None) -> float | None:
    return stated if found.told != "learned" and stated is not None else found.value


def capacity_factors(profile: Profile) -> tuple[float, ...]:
    """Return the ends of the capacity's interval over its value; none where it was not learned."""
    found = profile.capacity
    if found.told != "learned" or found.value is None or found.low is None or found.high is None:
        return ()
    return (found.low / found.value, found.high / found.value)


def startup_ends(profile: Profile) -> tuple[float, ...]:
    """Return the ends of the start-up's interval, seconds, where they are not its value; none where it is unknown."""
    found = profile.startup
    if found.value is None or found.low is None or found.high is None:
        return ()
    return tuple(end for end in (found.low, found.high) if end != found.value)


def recorded_past(profile: Profile, path: str, resource: Resource) -> Past:
    """Return the readings of a profile as a backtest takes them. Raises UserError."""
    recording = profiles.read_recording(profile, path)
    interval = resource.spec.interval
    if recording.interval != interval:
        raise UserError(
            f"{path}: was read every {recording.interval:g}s, and spec.interval is {interval:g}s; calibrate with "
            f"--interval {interval:g}s, or name the past by --prometheus or --trace"
        )
    counts = recording.replicas.astype(np.float64)
    replicas = counts if np.isfinite(counts).any() else None
    past = Past(profile.workload, recording.times, recording.load.astype(np.float64), replicas, profile.notes)
    found = checked(past, interval)
    return replace(found, notes=tuple(dict.fromkeys(found.notes)))  # the profile's notes tell much of the same


def recorded_load(profile: Profile, path: str) -> Scenario:
    """Return the recorded load of a profile as a scenario; its noise is in the record. Raises UserError."""
    recording: Recording = profiles.read_recording(profile, path)
    trace = Trace(profile.workload, recording.start, recording.interval, recording.load.astype(np.float64))
    return Scenario(profile.workload, f"the recorded load of {path}", trace, float("inf"), {"fano": LEAST_NOISE})


def with_noise(scenario: Scenario, profile: Profile) -> Scenario:
    """Return a made-up load's scenario with the noise of the profile, where that is known."""
    if profile.noise.value is None or "fano" in scenario.world:
        return scenario
    return replace(scenario, world={**scenario.world, "fano": max(LEAST_NOISE, profile.noise.value)})
