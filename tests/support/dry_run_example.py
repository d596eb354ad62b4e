"""A made-up day with its contenders: realistic enough to look at, deterministic, and quick to build.

Not a world: pods start after a minute, demand has a daily profile, bursts and noise, and each contender is
a plain formula. The pages and tables under test only show what they are given.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from rlscaler_sim.result import Contender, DecisionLog, DryRun, Series

ROWS = ("replicas", "ready", "violations", "backlog", "cost")
"""Fields of `Series` with one row for each contender."""

STEP = 15.0
PER_REPLICA = 10.0
WORLD = {
    "decision interval": "15 s",
    "start-up": "60 s",
    "metric lag": "15 to 30 s",
    "requests/s per replica": PER_REPLICA,
    "bounds": "1 to 100 replicas",
    "objective": "wait under 0.4 s",
    "arrivals": "Fano factor 2 over 3 s",
    "seed": 7,
}


def demand_of(steps: int, seed: int) -> np.ndarray:
    """Return (steps,) replicas needed: a day's profile, noise with memory, and a few bursts."""
    rng = np.random.default_rng(seed)
    hour = np.arange(steps) * STEP / 3600
    profile = 14 - 8 * np.cos(2 * np.pi * (hour - 3.5) / 24) + 2.2 * np.sin(4 * np.pi * hour / 24)
    noise = np.convolve(rng.normal(0, 1, steps + 60), np.exp(-np.arange(60) / 12.0), "same")[:steps]
    demand = profile * (1 + 0.022 * noise)
    for start in rng.integers(0, max(steps - 200, 1), 6):
        length = np.arange(min(160, steps - start))
        rise = rng.uniform(4, 14) * np.minimum(length / 8, 1) * np.exp(-length / 45)
        demand[start : start + len(length)] += rise
    return np.maximum(demand, 0.4)


def wanted(demand: np.ndarray) -> dict[str, np.ndarray]:
    """Return replicas asked for at each step by name."""
    seen = np.pad(demand, (2, 0), "edge")[:-2]
    trail = np.lib.stride_tricks.sliding_window_view(np.pad(seen, (19, 0), "edge"), 20)
    growth = np.maximum(0, seen - np.pad(seen, (8, 0), "edge")[:-8])
    ahead = np.lib.stride_tricks.sliding_window_view(np.pad(demand, (0, 5), "edge"), 6).max(1)
    return {
        "growth-quantile": 1.12 * trail[:, -8:].max(1) + 0.9 * growth,
        "hpa-tuned": trail.max(1) / 0.72,
        "hpa-default": trail.max(1) / 0.5,
        "two-thresholds": 1.4 * trail.mean(1),
        "clairvoyant": 1.02 * ahead,
    }


def replay(demand: np.ndarray, replicas: np.ndarray) -> dict[str, np.ndarray]:
    """Return what each contender's replicas (C, T) do to the load: ready, late, backlog and cost so far."""
    count, steps = replicas.shape
    ready = np.minimum(replicas, np.pad(replicas, ((0, 0), (4, 0)), "edge")[:, :-4])
    backlog, late = np.zeros((count, steps)), np.zeros((count, steps))
    queue = np.zeros(count)
    for t in range(steps):
        arrivals = demand[t] * PER_REPLICA * STEP
        served = ready[:, t] * PER_REPLICA * STEP
        queue = np.maximum(queue + arrivals - served, 0)
        backlog[:, t] = queue
        late[:, t] = np.minimum(1, queue / arrivals + 0.02 * np.exp(-9 * (ready[:, t] / demand[t] - 1)))
    late[late < 1e-4] = 0
    cost = np.cumsum(np.maximum(replicas, ready), 1) / np.cumsum(demand)
    return {"ready": ready, "violations": late, "backlog": backlog, "cost": cost}


def log_of(time: np.ndarray, demand: np.ndarray, replicas: np.ndarray) -> DecisionLog:
    """Return the decisions behind one contender's replicas (T,), with reasons at some of them."""
    before = np.concatenate([replicas[:1], replicas[:-1]])
    up, down = replicas > before + 2, replicas < before
    names = [
        ["ReactiveFloor"] if u else ["Patience", "ScaleDownStabilized"] if d else ["DesiredWithinRange"]
        for u, d in zip(up, down, strict=True)
    ]
    texts = {
        "ReactiveFloor": "The demand now and the backlog need more replicas than were proposed.",
        "Patience": "The policy keeps replicas for its patience before it lowers them. "
        "A higher recommendation within the scale-down stabilisation window holds replicas.",
        "DesiredWithinRange": "The proposal stands.",
    }
    return DecisionLog(
        time=time,
        demand=demand,
        recommendation=np.ceil(demand / 0.72),
        proposal=replicas - 0.3,
        replicas=replicas,
        reasons=names,
        sentence=[texts[n[0]] for n in names],
    )


def day(
    *, steps: int = 5760, seed: int = 7, start: float = 0.0, policy: str = "growth-quantile", **changes: Any
) -> DryRun:
    """Return a day (5,760 steps of 15 s) with four contenders and the clairvoyant; `changes` replace
    fields.
    """
    demand = demand_of(steps, seed)
    names = list(wanted(demand))
    replicas = np.clip(np.ceil(np.stack(list(wanted(demand).values()))), 1, 100)
    known = np.ones(steps, bool)
    known[steps // 3 : steps // 3 + steps // 60] = False
    happened = replay(demand, replicas)
    cost, late = happened["cost"][:, -1], (happened["violations"] * demand).sum(1) / demand.sum()
    score = cost + 20 * late
    best, tuned = score[names.index("clairvoyant")], score[names.index("hpa-tuned")]
    contenders = [
        Contender(
            name=name,
            cost_ratio=float(cost[i]),
            violation_share=float(late[i]),
            score=float(score[i]),
            regret=float((score[i] - best) / (tuned - best)),
            replica_hours=float(replicas[i].sum() * STEP / 3600),
            rescales=int((np.diff(replicas[i]) != 0).sum()),
            wait_p95_s=0.05 + 4.0 * float(late[i]),
            max_replicas=int(replicas[i].max()),
        )
        for i, name in enumerate(names)
    ]
    time = start + STEP * np.arange(steps)
    fields: dict[str, Any] = {
        "resource": "shop/web",
        "trace": "a made-up day",
        "world": WORLD,
        "policy": policy,
        "contenders": contenders,
        "lower_bound": float(0.97 * best),
        "decisions": steps,
        "elapsed_s": 1.84,
        "series": Series(
            time=time, load=demand * PER_REPLICA, demand=demand, known=known, replicas=replicas, **happened
        ),
        "log": log_of(time, demand, replicas[names.index(policy)] if policy in names else replicas[0]),
    }
    return DryRun(**(fields | changes))


def quiet(run: DryRun) -> DryRun:
    """Return the run without any load, and so without scores."""
    none, rows = 0.0 * run.series.load, 0.0 * run.series.ready
    series = replace(run.series, load=none, demand=none, violations=rows, backlog=rows, cost=rows * math.nan)
    unscored = [replace(c, cost_ratio=math.nan, violation_share=math.nan, score=math.nan, regret=None,
                        wait_p95_s=math.nan) for c in run.contenders]  # fmt: skip
    return replace(run, contenders=unscored, lower_bound=None, series=series)


def enlarged(run: DryRun, count: int) -> DryRun:
    """Return the run with `count` more contenders."""
    extra = [replace(run.contenders[2], name=f"rule-{i}", score=3.0 + i) for i in range(count)]
    rows = [*range(len(run.contenders)), *([2] * count)]
    arrays = {key: getattr(run.series, key)[rows] for key in ROWS}
    return replace(run, contenders=[*run.contenders, *extra], series=replace(run.series, **arrays))
