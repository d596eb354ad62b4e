"""A policy tried out without a world: named situations, any input at all, and the same input again.

What is found holds for every policy, as they only propose: the guard after it is probed with it. All is drawn from
fixed seeds, so the same policy is always found to be the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from rlscaler import behavior
from rlscaler.arrays import State
from rlscaler.autoscaler import Autoscaler
from rlscaler.decisions import Decisions
from rlscaler.observation import NAMES, observe
from rlscaler.policy import Policy, Proposal, View
from rlscaler.reasons import Reason, names
from rlscaler.rows import taken
from rlscaler.settings import MetricLoss, Settings
from rlscaler.snapshot import Snapshot
from rlscaler.tenured import ON, mode

CAPACITY = 10.0
"""Requests/s of a replica in the situations, as in the standard world."""
PAST = 7200.0
"""Seconds of load before the moment of a situation."""
INTERVAL = 15.0
START = 1_700_000_000.0
"""A moment: seconds since 1970."""
STEPS_OF_LOAD = np.linspace(0.5, 2.0, 16)
"""Factors of the newest sample that `monotonic` compares decisions over."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a workload may be in. about: in words. demand: of seconds before now (T,), in replicas (T,).

    ready, starting: replicas. backlog: seconds that the ready replicas need for it alone.
    """

    about: str
    demand: Callable[[np.ndarray], np.ndarray]
    ready: float
    starting: float = 0.0
    backlog: float = 0.0


def _level(replicas: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda before: np.full(before.shape, replicas)


def _moved(old: float, new: float, seconds: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return a demand that went from one level to another, evenly over the last seconds."""
    return lambda before: new + (old - new) * np.clip(before / seconds, 0.0, 1.0)


def _last_unknown(before: np.ndarray) -> np.ndarray:
    return np.where(before < INTERVAL, np.nan, 10.0)


SITUATIONS: dict[str, Situation] = {
    "steady": Situation("a demand of 10 replicas for two hours, 14 ready", _level(10.0), 14),
    "rising": Situation("from 5 to 15 within ten minutes, 18 ready", _moved(5.0, 15.0, 600.0), 18),
    "falling": Situation("from 20 to 8 within ten minutes, 25 ready", _moved(20.0, 8.0, 600.0), 25),
    "jump": Situation("from 10 to 20 at the newest sample, 14 ready", _moved(10.0, 20.0, INTERVAL / 2), 14),
    "swinging": Situation(
        "4 and 16 in turn, ten minutes each, 16 ready", lambda before: np.where(before % 1200.0 < 600.0, 4.0, 16.0), 16
    ),
    "starting": Situation("from 10 to 20 two minutes ago, 14 ready, 10 on the way", _moved(10.0, 20.0, 120.0), 14, 10),
    "overloaded": Situation("a demand of 20, 12 ready, a minute's work waits", _level(20.0), 12, backlog=60.0),
    "idle": Situation("no load for two hours, 3 ready", _level(0.0), 3),
    "tiny": Situation("a demand of a tenth of a replica, 1 ready", _level(0.1), 1),
    "large": Situation("a demand of 2,000 replicas, 2,600 ready", _level(2000.0), 2600),
    "unknown": Situation("10 replicas until the newest sample, which is missing", _last_unknown, 14),
}
"""Situations by name."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A policy's answer in a situation. demand: replicas (None: unknown). proposal: replicas (None: no answer).

    patience: seconds (None: none asked for). replicas: decided. rule: what the fallback rule recommends. outside:
    fields of the observation that lie outside of the training range.
    """

    situation: str
    about: str
    demand: float | None
    ready: int
    proposal: float | None
    patience: float | None
    replicas: int
    rule: float | None
    reasons: tuple[str, ...]
    outside: tuple[str, ...]


def _settings() -> Settings:
    return Settings(min_replicas=1, max_replicas=5000, interval=INTERVAL, capacity_per_replica=CAPACITY)


@cache
def _past() -> tuple[State, np.ndarray]:
    """Return the history of each situation as an autoscaler remembers it, and the demand that comes now; read-only."""
    before = np.arange(PAST, -1.0, -INTERVAL)
    noise = np.exp(0.03 * np.random.default_rng(1).standard_normal(before.shape))
    demand = np.stack([each.demand(before) * noise for each in SITUATIONS.values()])
    scaler = Autoscaler("default", _settings(), workloads=len(demand))
    scaler.fill(scaler.rows, START - before[:-1], demand[:, :-1] * CAPACITY)
    return scaler.memory(scaler.rows, ("history",))["history"], demand[:, -1]


def _begun(policy: Policy, copies: int) -> tuple[Autoscaler, np.ndarray]:
    """Return an autoscaler with the past of `copies` rows of each situation, and the demand that comes now."""
    history, demand = _past()
    rows = np.repeat(np.arange(len(demand)), copies)
    scaler = Autoscaler(policy, _settings(), workloads=len(rows))
    scaler.recall(scaler.rows, {"history": taken(history, rows)})
    return scaler, demand[rows]


def _now(demand: np.ndarray, copies: int) -> Snapshot:
    ready, starting, waits = (
        np.repeat([getattr(each, name) for each in SITUATIONS.values()], copies).astype(np.float64)
        for name in ("ready", "starting", "backlog")
    )
    load = demand * CAPACITY
    return Snapshot(time=START, load=load, ready=ready, starting=starting, desired=ready + starting,
                    backlog=waits * ready * CAPACITY)  # fmt: skip


def probe(policy: Policy) -> list[Probe]:
    """Return what is proposed and decided in each of SITUATIONS."""
    scaler, demand = _begun(policy, 1)
    view = scaler.view(_now(demand, 1))
    proposal, _ = scaler.propose(view)
    done = scaler.settle(view, proposal)
    outside = _outside(policy, view)

    def number(values: Any, row: int) -> float | None:
        return None if values is None or not np.isfinite(values[row]) else round(float(values[row]), 3)

    return [
        Probe(
            situation=name,
            about=each.about,
            demand=number(view.demand, row),
            ready=int(each.ready),
            proposal=number(proposal.replicas, row),
            patience=number(proposal.patience, row),
            replicas=int(done.replicas[row]),
            rule=number(done.recommendation, row),
            reasons=names(int(done.reasons[row])),
            outside=tuple(NAMES[column] for column in np.flatnonzero(outside[row])),
        )
        for row, (name, each) in enumerate(SITUATIONS.items())
    ]


def _outside(policy: Policy, view: View) -> np.ndarray:
    """Return where the observation lies outside of the range that the artifact's manifest states, (N, F) bool."""
    seen = observe(view)
    out = np.zeros(seen.shape, bool)
    artifact = getattr(policy, "artifact", None)
    for name, (low, high) in (artifact.manifest["training_range"] if artifact is not None else {}).items():
        column = NAMES.index(name)
        out[:, column] = (seen[:, column] < np.float32(low)) | (seen[:, column] > np.float32(high))
    return out


def monotonic(policy: Policy) -> tuple[int, int]:
    """Return how often more load gave fewer replicas within one decision, and of how many comparisons.

    Compared in every situation of a known load, over STEPS_OF_LOAD times the newest sample with the same past.
    """
    copies = len(STEPS_OF_LOAD)
    scaler, demand = _begun(policy, copies)
    steps = np.tile(STEPS_OF_LOAD, len(SITUATIONS))
    done = scaler.decide(_now(demand * steps, copies))
    replicas = done.replicas.reshape(-1, copies)
    known = (demand.reshape(-1, copies) > 0.0).all(axis=1)
    return int((np.diff(replicas[known], axis=1) < 0).sum()), int(known.sum()) * (copies - 1)


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """What came of any input at all. decisions: how many were taken. fallbacks: how many the rule took instead.

    wrong: sentences on what must not be, empty for a sane policy.
    """

    decisions: int
    fallbacks: int
    wrong: tuple[str, ...]


def fuzzed(policy: Policy, rows: int = 256, ticks: int = 24, seed: int = 0) -> Fuzzed:
    """Put NaN, infinities, negative, stale, absent and huge readings to the policy and hold the decisions to the rules.

    Those are: the policy never raises and always answers a known load; every decision lies within the bounds (or holds
    a target that is switched off); nothing is decided where the present count is unknown; unknown load never lowers
    the count; and where the policy has no answer, or sees input outside of its training range, the rule decides. One
    that earns its say has rules among its candidates for that: hold its `learned` to it by itself.
    """
    rng = np.random.default_rng(seed)
    settings = _drawn_settings(rng, rows)
    scaler = Autoscaler(policy, settings, workloads=rows)
    rule = Autoscaler("default", settings, workloads=rows)
    wrong: dict[str, int] = {}
    decisions = fallbacks = 0
    replicas = rng.integers(1, 60, rows).astype(np.float64)
    level = np.exp(rng.uniform(-3.0, 9.0, rows))
    for tick in range(ticks):
        level = level * np.exp(0.3 * rng.standard_normal(rows))
        view = scaler.view(_drawn(rng, START + tick * INTERVAL, level, replicas))
        before = scaler.memory(scaler.rows, ("guard",))
        proposal, error = scaler.propose(view)
        done = scaler.settle(view, proposal)
        rule.recall(rule.rows, before)
        ruled = rule.settle(view, Proposal(replicas=done.recommendation, patience=proposal.patience))
        fell = (done.reasons & int(Reason.PolicyFailed | Reason.OutOfTrainingRange)) != 0
        for told, where in _breaches(policy, view, proposal, done, ruled, fell).items():
            wrong[told] = wrong.get(told, 0) + int(where.sum())
        if error:
            wrong[f"raised {error}"] = wrong.get(f"raised {error}", 0) + rows
        decisions, fallbacks = decisions + rows, fallbacks + int(fell.sum())
        replicas = np.where(done.replicas >= 0, done.replicas, replicas).astype(np.float64)
    sentences = tuple(f"{what} ({count:,} of {decisions:,} decisions)" for what, count in wrong.items() if count)
    return Fuzzed(decisions, fallbacks, sentences)


def _breaches(
    policy: Policy, view: View, proposal: Proposal, done: Decisions, ruled: Decisions, fell: np.ndarray
) -> dict[str, np.ndarray]:
    """Return what must not be -> where it is, (N,) bool."""
    settings, current, replicas = view.settings, view.current, done.replicas
    low, high = settings["min_replicas"], settings["max_replicas"]
    held = np.isnan(current)
    off = (current == 0.0) & (low > 0.0)
    known = np.isfinite(view.demand) & np.isfinite(view.features["level"])
    lost = (done.reasons & int(Reason.MetricLossFallback)) != 0
    outside = _outside(policy, view).any(axis=1) & settings["fallback"] & (mode(policy) != ON)
    answered = np.isfinite(proposal.replicas)
    return {
        "a decision where the present count is unknown": held & (replicas != -1),
        "no decision where the present count is known": ~held & (replicas == -1),
        "a count outside of minReplicas and maxReplicas": ~held & ~off & ((replicas < low) | (replicas > high)),
        "a target that is switched off is scaled": off & (replicas != 0),
        "unknown load lowers the count": ~held & ~known & ~lost & (replicas < np.minimum(np.floor(current), high)),
        "no usable answer to a known load": ~held & known & ~answered,
        "input outside of the training range, and the rule does not decide": known & outside & ~fell,
        "the fallback is not the rule's decision": known & fell & (replicas != ruled.replicas),
    }


def _drawn_settings(rng: np.random.Generator, rows: int) -> Settings:
    low = rng.integers(0, 6, rows)
    capacity = np.exp(rng.uniform(0.0, 6.0, rows))
    return Settings(
        min_replicas=low,
        max_replicas=np.maximum(low, 1) + rng.integers(0, 2000, rows),
        interval=INTERVAL,
        lag=rng.choice([0.0, 15.0, 60.0], rows, p=[0.1, 0.8, 0.1]),
        startup=rng.choice([5.0, 60.0, 300.0], rows, p=[0.1, 0.8, 0.1]),
        capacity_per_replica=np.where(rng.random(rows) < 0.1, np.nan, capacity),
        load_counts=rng.choice(np.array(["Arrivals", "Completions"], object), rows).tolist(),
        behavior=[behavior.DEFAULT if plain else None for plain in rng.random(rows) < 0.3],
        loss=MetricLoss(after=60.0, action="ReplicasIfHigher", replicas=3),
    )


def _drawn(rng: np.random.Generator, time: float, level: np.ndarray, replicas: np.ndarray) -> Snapshot:
    """Return readings about a level (N,) requests/s, of which one in eight is absent or absurd."""
    rows = len(level)
    absurd = np.array([np.nan, np.inf, -np.inf, -1.0, 0.0, 1e-9, 1e300, 1e15])

    def some(values: np.ndarray) -> np.ndarray:
        return np.where(rng.random(rows) < 0.125, rng.choice(absurd, rows), values)

    return Snapshot(
        time=time,
        load=some(level),
        backlog=some(level * rng.exponential(2.0, rows)),
        utilization=some(rng.random(rows)),
        latency=some(rng.exponential(0.3, rows)),
        errors=some(0.1 * rng.random(rows)),
        ready=some(replicas),
        starting=some(np.floor(rng.exponential(2.0, rows))),
        desired=some(replicas),
        age=rng.choice([0.0, 5.0, 1e9, np.nan, np.inf], rows, p=[0.7, 0.2, 0.04, 0.03, 0.03]),
    )


def repeatable(policy: Policy, again: Policy, seed: int = 1) -> str:
    """Return how answers to the same view differ, "" where they do not: twice, in another order, and row by row.

    again: the same policy, read anew. To the bit, since a workload's decision must not hang on its neighbours.
    """
    rng = np.random.default_rng(seed)
    rows = 96
    scaler = Autoscaler(policy, _drawn_settings(rng, rows), workloads=rows)
    level = np.exp(rng.uniform(-3.0, 9.0, rows))
    view = scaler.view(_drawn(rng, START, level, np.full(rows, 12.0)))
    for tick in range(1, 8):
        level = level * np.exp(0.3 * rng.standard_normal(rows))
        view = scaler.view(_drawn(rng, START + tick * INTERVAL, level, np.full(rows, 12.0)))
    whole = _answers(policy, view, np.arange(rows))
    order = rng.permutation(rows)
    tried = {
        "asked twice": _answers(policy, view, np.arange(rows)),
        "read anew": _answers(again, view, np.arange(rows)),
        "in another order": _answers(policy, view, order)[:, np.argsort(order)],
        "row by row": np.concatenate([_answers(policy, view, np.array([row])) for row in range(rows)], axis=1),
    }
    for how, answers in tried.items():
        if different := int((~np.isclose(whole, answers, rtol=0.0, atol=0.0, equal_nan=True)).any(axis=0).sum()):
            return f"{different} of {rows} answers differ {how}"
    return ""


def _answers(policy: Policy, view: View, rows: np.ndarray) -> np.ndarray:
    """Return replicas and patience that are proposed for some rows of a view, (2, rows)."""

    def part(arrays: Any) -> State:
        return taken(dict(arrays), rows)

    one = View(xp=np, settings=part(view.settings), snapshot=part(view.snapshot), features=part(view.features),
               demand=view.demand[rows], current=view.current[rows])  # fmt: skip
    proposal, _ = policy.propose(one, policy.state(len(rows)))
    patience = np.zeros(len(rows)) if proposal.patience is None else proposal.patience
    return np.stack([np.asarray(proposal.replicas, np.float64), np.asarray(patience, np.float64)])
