"""What no policy can do, whatever it learned: the guard's limits, more load, a higher target, other units.

Every policy that the package knows by name, and artifacts with random and with senseless weights, stand for all.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lived import Lived, lived
from rlscaler import Autoscaler, Settings, Snapshot, behavior
from rlscaler.artifact import Artifact, dumps, loads
from rlscaler.behavior import Behavior, ScalingPolicy, ScalingRules
from rlscaler.guard import SATURATED, SATURATED_GROWTH
from rlscaler.mlp import MlpPolicy
from rlscaler.policies import BUILT_IN, from_artifact, load_policy
from rlscaler.policy import Policy
from rlscaler.reasons import Reason
from rlscaler.settings import MetricLoss, Objective
from served_artifacts import branching, network, table

HUGE = np.float32(3e38)
TINY = 5e-324
LARGEST = 1e15
"""A reading above this is none."""


def _senseless(output: str, weight: float) -> Policy:
    """Return a network whose every weight is the same huge number or NaN."""
    arrays = {name: np.full_like(array, weight) for name, array in network(output).arrays.items()}
    policy = from_artifact(network(output))
    assert isinstance(policy, MlpPolicy)
    layers = (arrays["weight_0"], arrays["weight_1"]), (arrays["bias_0"], -arrays["bias_1"])
    policy.network = replace(policy.network, weights=layers[0], biases=layers[1])
    return policy


MADE: dict[str, Callable[[], Policy]] = {
    **{name: partial(load_policy, name) for name in BUILT_IN},
    "random table": lambda: from_artifact(table()),
    "random choices": lambda: from_artifact(network()),
    "random steps": lambda: from_artifact(network(actions="step")),
    "random correction": lambda: from_artifact(network("correction")),
    "random branches": lambda: from_artifact(branching()),
    "huge weights": lambda: _senseless("correction", float(HUGE)),
    "huge choices": lambda: _senseless("choices", float(HUGE)),
    "weights that are none": lambda: _senseless("correction", float("nan")),
    "choices by what is none": lambda: _senseless("choices", float("nan")),
}
"""Policies by name."""
every_policy = pytest.mark.parametrize("name", MADE)


@cache
def policy(name: str) -> Policy:
    return MADE[name]()


# --- what the guard allows


STRICT = Behavior(
    up=ScalingRules(0.0, "Min", (ScalingPolicy("Pods", 2, 60.0), ScalingPolicy("Percent", 50, 30.0)), 0.05),
    down=ScalingRules(120.0, "Max", (ScalingPolicy("Percent", 10, 60.0),), 0.0),
)
NO_DOWN = Behavior(up=ScalingRules(0.0, "Max", (), 0.0), down=ScalingRules(0.0, "Disabled", (), 0.0))
BEHAVIORS = (None, behavior.DEFAULT, STRICT, NO_DOWN)
ABSURD = np.array([np.nan, np.inf, -np.inf, -1.0, -TINY, 0.0, TINY, 1e-310, 1e-38, 1.0, LARGEST, 2e15, 1e38, 1e300])
ROWS, TICKS = 64, 12
PERIOD = 75.0
"""Seconds: the longest period of these behaviours, and half an interval more."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What an onlooker who knows the settings makes of a reading. need: replicas for demand and backlog."""

    current: np.ndarray
    known: np.ndarray
    need: np.ndarray


def drawn_settings(rng: np.random.Generator) -> Settings:
    low = rng.choice([0, 1, 3], ROWS)
    return Settings(
        min_replicas=low,
        max_replicas=low + rng.choice([1, 50, 100_000], ROWS),
        capacity_per_replica=rng.choice([1e-9, 1e-3, 10.0, 1e12, np.nan], ROWS, p=[0.05, 0.1, 0.7, 0.1, 0.05]),
        lag=rng.choice([0.0, 15.0, 600.0], ROWS),
        startup=rng.choice([0.0, 60.0, 3600.0], ROWS, p=[0.1, 0.8, 0.1]),
        objective=Objective(latency=rng.choice([1e-3, 0.5, 60.0], ROWS), target=rng.choice([1.0, 99.9, 99.99], ROWS)),
        load_counts=rng.choice(np.array(["Arrivals", "Completions"], object), ROWS).tolist(),
        behavior=[BEHAVIORS[row % len(BEHAVIORS)] for row in range(ROWS)],
        loss=MetricLoss(after=60.0, action="ReplicasIfHigher", replicas=7),
        flap_budget=rng.choice([4.0, np.inf], ROWS),
    )


def drawn(rng: np.random.Generator, time: float, level: np.ndarray, current: np.ndarray) -> dict[str, Any]:
    """Return readings of which every fourth is absurd, absent or out of all proportion."""

    def some(values: np.ndarray) -> np.ndarray:
        return np.where(rng.random(ROWS) < 0.25, rng.choice(ABSURD, ROWS), values)

    ages = [np.nan, -np.inf, -5.0, 0.0, 59.9, 60.1, 1e300, np.inf]
    moved = np.where(rng.random(ROWS) < 0.1, np.floor(current * rng.choice([0.0, 0.5, 3.0], ROWS)), current)
    return {
        "time": time, "load": some(level), "backlog": some(level * rng.exponential(5.0, ROWS)),
        "utilization": some(rng.random(ROWS)), "latency": some(rng.exponential(0.3, ROWS)),
        "errors": some(rng.random(ROWS)), "ready": some(np.floor(current * rng.random(ROWS))),
        "starting": some(np.floor(rng.exponential(2.0, ROWS))),
        "desired": np.where(rng.random(ROWS) < 0.05, np.nan, moved),
        "age": rng.choice(ages, ROWS, p=[0.05, 0.05, 0.05, 0.6, 0.1, 0.05, 0.05, 0.05]),
    }  # fmt: skip


def seen(reading: dict[str, Any], stated: Settings) -> Sight:
    def valid(name: str) -> np.ndarray:
        value = np.asarray(reading[name], np.float64)
        return np.where((value >= 0.0) & (value <= LARGEST), value, np.nan)

    fresh = ~(reading["age"] > 60.0)
    capacity = np.asarray(stated.capacity_per_replica, np.float64)
    load, backlog = np.where(fresh, valid("load"), np.nan), np.where(fresh, valid("backlog"), np.nan)
    with np.errstate(over="ignore"):
        demand = load / capacity
        need = demand + np.nan_to_num(backlog / (capacity * stated.drain_time), posinf=np.inf)
    ready, busy = valid("ready"), np.where(fresh, valid("utilization"), np.nan)
    busy = np.where(np.isnan(busy), demand / np.maximum(ready, 0.5), busy)
    saturated = (np.array(stated.load_counts) == "Completions") & (busy >= SATURATED) & (ready > 0.0)
    need = np.where(saturated, np.fmax(need, SATURATED_GROWTH * ready), need)
    desired = valid("desired")
    return Sight(np.where(np.isnan(desired), ready + valid("starting"), desired), np.isfinite(demand), need)


def rounded_up(replicas: np.ndarray) -> np.ndarray:
    return np.asarray(np.ceil(replicas - 1e-5 * np.maximum(1.0, replicas)))


def breaches(
    stated: Settings, sight: Sight, replicas: np.ndarray, least: np.ndarray, most: np.ndarray
) -> dict[str, np.ndarray]:
    """Return what must not be -> where it is, told from what goes in and comes out alone.

    least, most: (N,) the count less what was added, and with what was removed, within PERIOD: policies reckon from it.
    """
    low, high, current = np.asarray(stated.min_replicas), np.asarray(stated.max_replicas), sight.current
    off = (current == 0.0) & (low > 0)
    inside = (current >= low) & (current <= high) & ~off
    kind = np.arange(ROWS) % len(BEHAVIORS)
    floor = np.minimum(high, rounded_up(np.minimum(sight.need, 1e9)))
    return {
        "a count for a target that nobody has counted": np.isnan(current) & (replicas != -1),
        "no count": ~np.isnan(current) & (replicas < 0),
        "switched off, and scaled": off & (replicas != 0),
        "out of bounds": ~np.isnan(current) & ~off & ((replicas < low) | (replicas > high)),
        "lower while the load is unknown": ~sight.known & (replicas < np.minimum(np.floor(current), high)) & ~off,
        "below what demand and backlog need": sight.known & inside & (kind % 3 == 0) & (replicas < floor),
        "up faster than the defaults": inside & (kind == 1) & (replicas > np.maximum(2.0 * most, most + 4.0)),
        "up faster than the behaviour": inside & (kind == 2) & (replicas > np.maximum(current, most + 2.0)),
        "down faster than the behaviour": inside & (kind == 2) & (replicas < np.floor(0.9 * least)),
        "down where that is disabled": inside & (kind == 3) & (replicas < np.floor(current)),
    }


@every_policy
@settings(max_examples=2, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_no_observation_leads_past_the_guard(name: str, seed: int) -> None:
    """NaN, infinities, denormals, negative, huge and stale readings, long gaps and changes by hand: all at once."""
    rng = np.random.default_rng(seed)
    stated = drawn_settings(rng)
    scaler = Autoscaler(policy(name), stated, ROWS)
    current = rng.integers(0, 60, ROWS).astype(np.float64)
    capacity = np.nan_to_num(stated.capacity_per_replica, nan=10.0)
    level, time = capacity * np.exp(rng.uniform(-3.0, 7.0, ROWS)), 1_700_000_000.0
    changes: list[tuple[float, np.ndarray]] = []
    for _ in range(TICKS):
        level = np.minimum(level * np.exp(0.5 * rng.standard_normal(ROWS)), LARGEST)
        reading = drawn(rng, time, level, current)
        with np.errstate(all="ignore"):
            done = scaler.decide(Snapshot(**reading))
        sight = seen(reading, stated)
        recent = np.array([np.zeros(ROWS), *(change for at, change in changes if time - at <= PERIOD)])
        least, most = sight.current - recent.clip(0.0).sum(axis=0), sight.current - recent.clip(None, 0.0).sum(axis=0)
        for what, where in breaches(stated, sight, done.replicas, least, most).items():
            assert not where.any(), f"{what}: row {np.flatnonzero(where)[0]}, seed {seed}"
        changes.append((time, np.nan_to_num(done.replicas - sight.current)))
        current = np.where(done.replicas >= 0, done.replicas, current).astype(np.float64)
        time += rng.choice([0.0, 1.0, 15.0, 15.0, 15.0, 15.0, 900.0, 700_000.0])


# --- more load


STEPS = np.exp(np.linspace(-2.5, 2.5, 20))
"""Factors of the newest sample."""
RISING = ("static", "threshold", "hpa", "keda", "kpa", "phpa", "erlang", "lcp", "constant", "churn", "random")
"""Rules that never order less for more load."""
STARTUPS = {"learned": (60.0,)}
"""What a policy was trained for, where the rule would decide elsewhere."""


@cache
def at_the_end(name: str, seed: int = 5, rows: int = 64) -> Lived:
    with np.errstate(all="ignore"):
        return lived(policy(name), seed, rows, startups=STARTUPS.get(name, (5.0, 60.0, 300.0)))


@every_policy
def test_more_load_never_leads_below_what_more_load_needs(name: str) -> None:
    """The reactive floor rises with the load, and no policy gets below it; those of RISING never order less at all."""
    past = at_the_end(name)
    rows, copies = len(past.reading["time"]), len(STEPS)
    factor = np.tile(STEPS, rows)
    load = np.repeat(past.reading["load"], copies) * factor
    with np.errstate(all="ignore"):
        done = past.branched(copies, load=load)
    capacity = np.repeat(np.asarray(past.settings.capacity_per_replica), copies)
    need = (load + np.repeat(past.reading["backlog"], copies) / past.settings.drain_time) / capacity
    off = np.repeat((past.reading["desired"] == 0) & (np.asarray(past.settings.min_replicas) > 0), copies)
    floor = rounded_up(need)
    replicas = done.replicas.reshape(rows, copies)
    assert (off | (done.replicas >= floor)).all()
    assert (np.diff(floor.reshape(rows, copies), axis=1) >= 0).all()
    if name in RISING:
        assert (np.diff(replicas, axis=1) >= 0).all()
    with_load = ("random steps", "random branches", "random")
    assert name in with_load or (replicas[:, -1] >= replicas[:, 0]).mean() > 0.9, "e^5 times the load"


LEAST = {"default": 0.05, "growth-quantile": 0.02, "tenure": 0.03, "mpc": 0.02, "learned": 0.05}


@pytest.mark.parametrize("name", LEAST)
def test_where_more_load_leads_to_fewer_it_seldom_does(name: str) -> None:
    """A moment that is put into another class of trend has another past to go by; what it does stays above the load."""
    past = at_the_end(name)
    rows, copies = len(past.reading["time"]), len(STEPS)
    done = past.branched(copies, load=np.repeat(past.reading["load"], copies) * np.tile(STEPS, rows))
    falls = np.diff(done.replicas.reshape(rows, copies), axis=1) < 0
    assert falls.mean() < LEAST[name]


# --- a higher target


TARGETS = (50.0, 90.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999)
PRICED = ("growth-quantile", "erlang", "mpc", "lcp")
"""Rules that the target matters to; where policies have to earn their say, it also decides who has it."""


@pytest.mark.parametrize("name", [*PRICED, "static", "threshold", "hpa", "keda", "kpa", "phpa", "constant", "churn"])
def test_a_higher_target_never_leads_to_fewer(name: str) -> None:
    """The same load and the same counts, lived through under each target; decided with one memory of the guard."""
    rows, copies = 40, len(TARGETS)
    past = lived(policy(name), 9, rows, copies=copies, objective=Objective(target=np.tile(TARGETS, rows)))
    found = past.branched(1).replicas.reshape(rows, copies)
    assert (np.diff(found, axis=1) >= 0).all()
    assert (found[:, -1] > found[:, 0]).any() == (name in PRICED)


# --- the units of load


UNITS = (1.0, 2.0**-10, 2.0**20, 1e-3, 0.7, 1e6)
EXACT = 3
"""Of UNITS, so many are powers of two."""
COUNTING = ("hpa", "phpa", "erlang", "tenure", "default")
"""Rules that count: HPA's quantities are whole thousandths, and the queues of Erlang's serve whole requests."""


@pytest.mark.parametrize("name", [name for name in MADE if name not in (*COUNTING, "random")])
def test_the_unit_of_load_changes_nothing(name: str) -> None:
    """To the bit for powers of two; else but for growth beside the edge of a bin, then by a replica or 2 %."""
    rows, copies = 48, len(UNITS)
    with np.errstate(all="ignore"):
        past = lived(policy(name), 3, rows, copies=copies, startups=STARTUPS.get(name, (60.0,)),
                     unit=np.tile(UNITS, rows))  # fmt: skip
        done = past.branched(1)
    replicas, proposal = done.replicas.reshape(rows, copies), done.proposal.reshape(rows, copies)
    for unit in range(1, EXACT):
        np.testing.assert_array_equal(replicas[:, unit], replicas[:, 0])
        np.testing.assert_array_equal(proposal[:, unit], proposal[:, 0])
    off = np.abs(replicas - replicas[:, :1])
    assert (off <= np.maximum(1.0, 0.02 * replicas[:, :1])).all()
    assert (off > 0).mean() <= 0.02


def test_an_unknown_count_is_not_remembered_as_a_proposal() -> None:
    """Patience keeps a known count, so a moment at which nothing is known holds nobody back later."""
    scaler = Autoscaler("keda", Settings(capacity_per_replica=10.0), 1)
    assert scaler.decide(Snapshot(time=0.0)).replicas.tolist() == [-1]
    assert scaler.decide(Snapshot(time=15.0, load=95.0, ready=2, starting=0, desired=2)).replicas[0] >= 10


@pytest.mark.parametrize(
    ("whole", "array"),
    [(network(), "bias_1"), (network(actions="step"), "bias_1"), (branching(), "branch_1_bias_0"), (table(), "values")],
    ids=["headroom", "step", "branching", "table"],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_choice_by_values_that_are_no_numbers_gives_way_to_the_rule(
    whole: Artifact, array: str, value: float
) -> None:
    """The highest of them would be the first: the least headroom that there is, for every workload."""
    manifest = {key: each for key, each in whole.manifest.items() if key != "digest"} | {"arrays": {}}
    manifest["arrays"] = {array: {"finite": False}}
    broken = Artifact(manifest, {**whole.arrays, array: np.full_like(whole.arrays[array], value)})
    scaler = Autoscaler(from_artifact(loads(dumps(broken))), Settings(capacity_per_replica=10.0), 3)
    at = [50.0, 100.0, 500.0]
    ticks = (Snapshot(time=15.0 * t, load=at, ready=10, starting=0, desired=10, backlog=0) for t in range(8))
    with np.errstate(invalid="ignore"):
        done = [scaler.decide(snapshot) for snapshot in ticks][-1]
    assert (done.reasons & Reason.PolicyFailed != 0).all()
    assert np.isnan(done.proposal).all()
    assert (done.replicas >= done.recommendation).all()
