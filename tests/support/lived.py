"""Workloads with a past behind them, branched so that one thing differs at the next decision and nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlscaler import Autoscaler, Settings, Snapshot
from rlscaler.decisions import Decisions
from rlscaler.memory import PARTS
from rlscaler.policy import Policy
from rlscaler.rows import taken

START, INTERVAL = 1_700_000_000.0, 15.0
DECIDED = 12
"""Last ticks of a past at which the policy decides; before them its history is filled."""


def demands(rng: np.random.Generator, rows: int, ticks: int) -> np.ndarray:
    """Return loads in replicas (rows, ticks): walks, ramps, swings, on-off, jumps, spikes, from idle, steady; noisy."""
    tick = np.arange(ticks)[None]
    walk = np.cumsum(rng.standard_normal((rows, ticks)) * rng.uniform(0.0, 0.15, (rows, 1)), axis=1)
    since = ticks - rng.integers(1, 20, (rows, 1))
    forms = np.stack([
        np.exp(walk),
        np.exp(np.linspace(0.0, 1.0, ticks)[None] * rng.uniform(-3.0, 3.0, (rows, 1))),
        1.0 + 0.8 * np.sin(2.0 * np.pi * tick / rng.uniform(10.0, 200.0, (rows, 1))),
        np.where((tick // rng.integers(4, 40, (rows, 1))) % 2, 1.0, rng.uniform(0.0, 0.3, (rows, 1))),
        np.where(tick >= since, rng.uniform(0.2, 6.0, (rows, 1)), 1.0),
        1.0 + 10.0 * (rng.random((rows, ticks)) < 0.02),
        np.where(tick >= since, 1.0, 0.0),
        np.ones((rows, ticks)),
    ])  # fmt: skip
    shaped = forms[rng.integers(0, len(forms), rows), np.arange(rows)]
    noise = np.exp(rng.uniform(0.0, 0.2, (rows, 1)) * rng.standard_normal((rows, ticks)))
    return np.asarray(np.exp(rng.uniform(-1.5, 5.5, (rows, 1))) * shaped * noise)


@dataclass(frozen=True, slots=True)
class Lived:
    """N workloads about to be decided on. settings: each an array (N,) or a scalar. memory: of the autoscaler.

    reading: the next one's fields, each (N,), load in requests/s.
    """

    policy: Policy
    settings: Settings
    memory: Mapping[str, Mapping[str, np.ndarray]]
    reading: Mapping[str, np.ndarray]

    def branched(self, copies: int, **reading: np.ndarray) -> Decisions:
        """Return the decisions on `copies` of each workload, with readings (N x copies,) in place of their own."""
        rows = np.repeat(np.arange(len(self.reading["time"])), copies)
        changed = {name: _picked(getattr(self.settings, name), rows) for name in SPREAD}
        scaler = Autoscaler(self.policy, replace(self.settings, **changed), len(rows))
        scaler.recall(scaler.rows, {part: taken(dict(state), rows) for part, state in self.memory.items()})
        return scaler.decide(Snapshot(**{name: array[rows] for name, array in self.reading.items()} | reading))


SPREAD = ("min_replicas", "capacity_per_replica", "startup")
"""Settings that differ between the workloads of a past."""


def _picked(value: Any, rows: np.ndarray) -> Any:
    return np.asarray(value)[rows] if np.ndim(value) else value


def lived(
    policy: Policy,
    seed: int,
    rows: int,
    *,
    ticks: int = 140,
    startups: Sequence[float] = (5.0, 60.0, 60.0, 300.0),
    unit: Any = 1.0,
    copies: int = 1,
    **settings: Any,
) -> Lived:
    """Return workloads whose target has followed the policy's decisions, ready replicas late.

    unit: of the load, by which load and capacity are multiplied. copies: of each workload, in rows that follow each
    other; their counts, and in the end what the guard remembers, are those of the first. Settings that are given, and
    the unit, are one for all or one for each of the rows x copies.
    """
    rng = np.random.default_rng(seed)
    each = np.repeat(np.arange(rows), copies)
    first = each * copies
    capacity = np.exp(rng.uniform(-1.0, 6.0, rows))[each]
    stated = Settings(
        min_replicas=rng.integers(0, 4, rows)[each], startup=rng.choice(startups, rows)[each], max_replicas=100_000,
        capacity_per_replica=capacity * unit, interval=INTERVAL,
    )  # fmt: skip
    stated = replace(stated, **settings)
    demand = demands(rng, rows, ticks)[each]
    rows = len(each)
    time = START + INTERVAL * np.arange(ticks)
    scaler = Autoscaler(policy, stated, rows)
    rate = demand * (capacity * unit)[:, None]
    scaler.fill(scaler.rows, time[:-DECIDED], rate[:, :-DECIDED])
    current = np.maximum(1.0, np.ceil(1.3 * demand[:, -DECIDED - 1]))
    ready = current.copy()
    waits = np.where(rng.random(rows) < 0.3, np.exp(rng.uniform(-2.0, 3.0, rows)), 0.0)[first]
    reading: dict[str, np.ndarray] = {}
    for tick in range(ticks - DECIDED, ticks):
        if reading:
            done = scaler.decide(Snapshot(**reading))
            ready = np.where(rng.random(rows)[first] < 0.3, current, np.minimum(ready, current))
            current = done.replicas[first].astype(np.float64)
            scaler.recall(scaler.rows, scaler.memory(first, ("guard",)))
        reading = {
            "time": np.full(rows, time[tick]), "load": rate[:, tick], "desired": current,
            "ready": np.minimum(ready, current), "starting": np.maximum(current - ready, 0.0),
            "backlog": waits * capacity * unit,
        }  # fmt: skip
    return Lived(policy, stated, scaler.memory(scaler.rows, PARTS), reading)
