"""Contenders on paired draws: every entrant meets the same load, the same noise and the same failures.

All entrants of all loads are rows of one batch: one world, one autoscaler with a panel of policies. What the load
alone decides (history, features) is computed once for a load and shared by its entrants, unless the load is counted
at completion, where it depends on what was decided, or the entrants' objectives price late requests differently.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlscaler import Autoscaler, Settings, Snapshot
from rlscaler.arrays import State
from rlscaler.autoscaler import Panel
from rlscaler.observation import NAMES, SCHEMA, observe
from rlscaler.policy import Policy, Proposal, View
from rlscaler.replay import features_over_time
from rlscaler.rows import Picked
from rlscaler.settings import compiled
from rlscaler_sim import world
from rlscaler_sim.load import Load
from rlscaler_sim.measure import gridded, measured
from rlscaler_sim.noise import Noise
from rlscaler_sim.totals import WAIT_EDGES, Totals, Traced

REPLAYED = 4
"""Up to so many loads, features are told for the whole load at once; more share the cost of each tick."""
START_TARGET = 0.7
"""Utilisation that every entrant starts at."""
TOLD = ("billed", "needed", "late", "arrivals")
"""What is told of the interval after a decision that is kept: pod-seconds, and requests."""


class ContestError(RuntimeError):
    """A policy raised: a defect must not pass for a score, as the guard's fallback would let it."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A policy with the settings that it runs under (its guard and behaviour; the workload's facts are shared).

    copies: how many times it enters, each with constants of its own: the policy's parameters and the settings are
    then arrays of shape (copies x loads,), all loads of the first copy first.
    """

    name: str
    policy: Policy
    settings: Settings
    copies: int = 1


@dataclass(slots=True)
class Schedule:
    """Orders fixed beforehand: how a clairvoyant plan is replayed in the world.

    orders: (N, T) replicas. patience: (N, T) seconds to keep replicas (None: 0).
    """

    orders: np.ndarray
    name: str = "clairvoyant"
    patience: np.ndarray | None = None

    def repeated(self, rows: int) -> "Schedule":
        """Return it for so many rows, of which each is the first."""
        wide = (rows, self.orders.shape[1])
        patience = None if self.patience is None else np.broadcast_to(self.patience, wide)
        return Schedule(np.broadcast_to(self.orders, wide), self.name, patience)

    def state(self, n: int) -> State:
        """Return `step`: (n,) int64, decisions made."""
        return {"step": np.zeros(n, np.int64)}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the orders of this step."""
        at = np.arange(len(state["step"])), np.minimum(state["step"], self.orders.shape[1] - 1)
        patience = None if self.patience is None else self.patience[at]
        proposal = Proposal(replicas=self.orders[at].astype(np.float64), patience=patience)
        return proposal, {"step": state["step"] + 1}


def start_replicas(loads: Sequence[Load], settings: Settings) -> np.ndarray:
    """Return the replicas that each load starts with: the first demand at START_TARGET, within the bounds."""
    first = np.array([float(load.rates[: max(1, int(60 / load.tick))].mean()) for load in loads])
    needed = np.ceil(first / float(np.max(settings.capacity_per_replica)) / START_TARGET)
    return np.clip(needed, max(1.0, float(np.max(settings.min_replicas))), float(np.max(settings.max_replicas)))


def priced_alike(entrants: Sequence[Entrant], settings: Settings) -> bool:
    """Tell whether every entrant's objective sets the price of late requests that the settings' does."""
    price = settings.objective.price
    return all(np.all(entrant.settings.objective.price == price) for entrant in entrants)


def told_beforehand(
    config: world.WorldConfig,
    settings: Settings,
    rates: np.ndarray,
    known: np.ndarray,
    clock: np.ndarray,
    loads: Sequence[Load],
    seeds: Sequence[int],
    seen: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return the features of every step of every load, name -> (T, L, ...)."""
    count = len(loads)
    params = world.compiled(replace(config, interval=float(settings.interval)), count)
    if seen is None:
        noise = Noise(params, [(load.name, seed) for load, seed in zip(loads, seeds, strict=True)], 1)
        told = measured(params, rates, known.all(axis=2), noise).seen
    else:
        told = seen
    steps = told.shape[1]
    facts = compiled(settings, 1)
    each = [
        features_over_time(clock[i] + params.interval * np.arange(steps), told[i], facts, params.interval)
        for i in range(count)
    ]
    return {name: np.stack([features[name] for features in each], axis=1) for name in each[0]}


def play(
    loads: Sequence[Load],
    entrants: Sequence[Entrant],
    config: world.WorldConfig,
    settings: Settings,
    seeds: Sequence[int],
    *,
    watch: int | None = None,
    traced: Traced | None = None,
    waits: bool = True,
    seen: np.ndarray | None = None,
    start: np.ndarray | None = None,
    unread: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Totals:
    """Run every entrant over every load and return the sums.

    loads: L of them, each with its seed (what the noise is drawn from). config: one world for all. settings: the
    workload's facts; each entrant's own settings differ from them in guard, behaviour and objective only. watch: the
    entrant whose decisions are kept in `traced`, which then holds load 0 step by step. waits: count WAIT_EDGES too.
    seen: (L, T) float64 requests/s that were read at each step, NaN = unknown, where that is recorded; else simulated.
    start: (L,) replicas that are ready at first, by default `start_replicas`. unread: fields of the snapshot that no
    query reads, so that they are unknown.
    """
    many, count = sum(e.copies for e in entrants), len(loads)
    rows = many * count
    tick = loads[0].tick
    params = world.compiled(
        replace(config, interval=float(settings.interval)), rows, wait_edges=WAIT_EDGES if waits else ()
    )
    per_step = params.ticks
    rates, known, scored = gridded(loads, per_step)
    total = rates.shape[1]
    clock = np.array([load.start for load in loads])
    noise = Noise(params, [(load.name, seed) for load, seed in zip(loads, seeds, strict=True)], many)

    members, begin = [], 0
    apart = bool(config.completions) or not priced_alike(entrants, settings)
    scaler = Autoscaler(Panel([]), remembers=apart)
    for entrant in entrants:
        end = begin + entrant.copies * count
        members.append((entrant.policy, np.arange(begin, end)))
        begin = end
    scaler.policy = Panel(members)
    scaler.reserve(rows)  # all at once: no row is spare then, and entrants' rows follow each other
    for (_, mine), entrant in zip(members, entrants, strict=True):
        scaler.add(mine.tolist(), entrant.settings)
    replayed = not apart and count <= REPLAYED
    told = told_beforehand(config, settings, rates, known, clock, loads, seeds, seen) if replayed else {}
    memory = None if apart or replayed else Autoscaler("growth-quantile", settings, count)

    state = world.initial(params, np.tile(start_replicas(loads, settings) if start is None else start, many))
    before: np.ndarray | None = None
    sums = Totals.empty(many, count)
    which = np.tile(np.arange(count), many)
    row = 0 if watch is None else count * sum(e.copies for e in entrants[:watch])
    for step in range(total):
        there = np.asarray(known[:, step].all(axis=1))
        time = clock + step * per_step * tick
        reading = world.readings(params, state, np.tile(time, many))
        if seen is not None:
            reading = replace(reading, load=np.tile(seen[:, step], many), age=0.0)
        if unread:
            reading = replace(reading, **dict.fromkeys(unread, np.nan))
        features = Picked(Picked(told, step), which) if replayed else None
        if memory is not None:
            first = {name: np.broadcast_to(getattr(reading, name), (rows,))[:count] for name in ("time", "load", "age")}
            features = Picked(memory.remember(Snapshot(**first)), which)
        view = scaler.view(reading, features=features)
        decisions = scaler.decide_on(view)
        if decisions.error:
            raise ContestError(f"a policy failed at step {step}: {decisions.error}")
        orders = decisions.replicas.astype(np.float32)
        now = np.tile(rates[:, step].T, (1, many))
        state, outcome = world.step(params, state, orders, now, noise.step(), np.tile(there, many))
        sums.add(outcome, orders, before, scored[:, step].mean(axis=1))
        before = orders
        if traced is not None:
            traced.add(float(time[0]), float(rates[0, step].mean()), bool(there[0]), outcome, orders, count)
            if watch is not None:
                entry: dict[str, Any] = decisions.explain(row)
                if traced.observe:
                    happened = {name: np.asarray(getattr(outcome, name))[row] for name in TOLD}
                    entry |= also_told(happened, observed(view, np.array([row]))[0])
                traced.decisions.append(entry)
        if progress is not None:
            progress(step + 1, total)
    return sums


def observed(view: View, rows: np.ndarray) -> np.ndarray:
    """Return the observation of some rows, (rows, fields) float32."""
    some = View(
        xp=np,
        settings=Picked(view.settings, rows),
        snapshot=Picked(view.snapshot, rows),
        features=Picked(view.features, rows),
        demand=view.demand[rows],
        current=view.current[rows],
    )
    found: np.ndarray = observe(some)
    return found


def also_told(outcome: Mapping[str, Any], observation: np.ndarray) -> dict[str, Any]:
    """Return what is kept of a decision beside itself: `outcome` of TOLD, and the observation by name of field."""
    return {
        "outcome": {name: round(float(value), 6) for name, value in outcome.items()},
        "observation_schema": SCHEMA,
        "observation": {name: round(float(value), 5) for name, value in zip(NAMES, observation, strict=True)},
    }
