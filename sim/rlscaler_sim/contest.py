"""Contenders on paired draws: every entrant meets the same load, the same noise and the same failures.

All entrants of all loads are rows of one batch: one world, one autoscaler with a panel of policies. What the load
alone decides (history, features) is computed once for a load and shared by its entrants, unless the load is counted
at completion, where it depends on what was decided.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rlscaler import Autoscaler, Settings, Snapshot
from rlscaler.arrays import State
from rlscaler.autoscaler import Panel
from rlscaler.observation import NAMES, observe
from rlscaler.policy import Policy, Proposal, View
from rlscaler.replay import features_over_time
from rlscaler.rows import Picked
from rlscaler.settings import compiled
from rlscaler_sim import world
from rlscaler_sim.load import Load
from rlscaler_sim.measure import measured
from rlscaler_sim.noise import Noise

WAIT_EDGES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0,
              40.0, 80.0, 160.0, 320.0, 640.0)  # fmt: skip
"""Waits in seconds at which the distribution is counted, for its 95th percentile."""
REPLAYED = 4
"""Up to so many loads, features are told for the whole load at once; more share the cost of each tick."""
START_TARGET = 0.7
"""Utilisation that every entrant starts at."""


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
    """Orders fixed beforehand: how a clairvoyant plan is replayed in the world. orders: (N, T) replicas."""

    orders: np.ndarray
    name: str = "clairvoyant"

    def state(self, n: int) -> State:
        """Return `step`: (n,) int64, decisions made."""
        return {"step": np.zeros(n, np.int64)}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the orders of this step."""
        step = np.minimum(state["step"], self.orders.shape[1] - 1)
        replicas = self.orders[np.arange(len(step)), step].astype(np.float64)
        return Proposal(replicas=replicas), {"step": state["step"] + 1}


@dataclass(slots=True)
class Traced:
    """What happened step by step to one load: arrays (T, entrants), and the decisions of one entrant.

    observe: keep the observation of each decision too.
    """

    observe: bool = False
    time: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    known: list[bool] = field(default_factory=list)
    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)
    decisions: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **columns: np.ndarray) -> None:
        """Append one step."""
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(np.array(values))

    def array(self, name: str) -> np.ndarray:
        """Return a column as (entrants, T)."""
        return np.stack(self.columns[name], axis=1)


@dataclass(slots=True)
class Totals:
    """Sums over the scored steps, arrays (entrants, loads) float64; an entrant's copies follow each other.

    billed, needed: pod-seconds. late, arrivals: requests. waits: (edges, entrants, loads) requests that waited
    longer than each of WAIT_EDGES. rescales: changes of the count. largest: most replicas asked for.
    """

    billed: np.ndarray
    needed: np.ndarray
    late: np.ndarray
    arrivals: np.ndarray
    waits: np.ndarray
    rescales: np.ndarray
    largest: np.ndarray
    steps: int = 0

    @property
    def cost_ratio(self) -> np.ndarray:
        """C: billed over needed pod-seconds; infinite where nothing was needed."""
        return np.divide(self.billed, self.needed, out=np.full_like(self.billed, np.inf), where=self.needed > 0)

    @property
    def violation_share(self) -> np.ndarray:
        """V: share of requests over the SLO."""
        return self.late / np.maximum(self.arrivals, 1e-9)

    @property
    def score(self) -> np.ndarray:
        """J = C + 20 V."""
        return self.cost_ratio + 20.0 * self.violation_share

    def wait_quantile(self, q: float = 0.95) -> np.ndarray:
        """Return the q-quantile of the wait in seconds, (entrants, loads), interpolated between WAIT_EDGES."""
        over = self.waits / np.maximum(self.arrivals, 1e-9)
        edges = np.array(WAIT_EDGES)
        out = np.zeros(over.shape[1:])
        for index in np.ndindex(*out.shape):
            share = np.minimum.accumulate(over[(slice(None), *index)])
            out[index] = float(np.interp(-(1.0 - q), -share, edges)) if share[0] > 1.0 - q else 0.0
        return out


def start_replicas(loads: Sequence[Load], settings: Settings) -> np.ndarray:
    """Return the replicas that each load starts with: the first demand at START_TARGET, within the bounds."""
    first = np.array([float(load.rates[: 1 + int(60 / load.tick)].mean()) for load in loads])
    needed = np.ceil(first / float(np.max(settings.capacity_per_replica)) / START_TARGET)
    return np.clip(
        needed, max(1.0, float(np.max(settings.min_replicas))), float(np.max(settings.max_replicas))
    )


def told_beforehand(
    config: world.WorldConfig,
    settings: Settings,
    rates: np.ndarray,
    known: np.ndarray,
    clock: np.ndarray,
    loads: Sequence[Load],
    seeds: Sequence[int],
) -> dict[str, np.ndarray]:
    """Return the features of every step of every load, name -> (T, L, ...)."""
    count = len(loads)
    params = world.compiled(replace(config, interval=float(settings.interval)), count)
    shape = (count, -1, params.ticks)
    noise = Noise(params, [(load.name, seed) for load, seed in zip(loads, seeds, strict=True)], 1)
    seen = measured(params, rates.reshape(shape), known.reshape(shape).all(axis=2), noise).seen
    steps = seen.shape[1]
    facts = compiled(settings, 1)
    each = [
        features_over_time(clock[i] + params.interval * np.arange(steps), seen[i], facts, params.interval)
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
    progress: Callable[[int, int], None] | None = None,
) -> Totals:
    """Run every entrant over every load and return the sums.

    loads: L of them, each with its seed (what the noise is drawn from). config: one world for all. settings: the
    workload's facts; each entrant's own settings differ from them in guard and behaviour only. watch: the entrant
    whose decisions are kept in `traced`, which then holds load 0 step by step. waits: count WAIT_EDGES too.
    """
    many, count = sum(e.copies for e in entrants), len(loads)
    rows = many * count
    steps_of = np.array([load.rates.shape[0] for load in loads])
    tick = loads[0].tick
    params = world.compiled(
        replace(config, interval=float(settings.interval)), rows, wait_edges=WAIT_EDGES if waits else ()
    )
    per_step = params.ticks
    total = -(-int(steps_of.max()) // per_step)
    rates = np.zeros((count, total * per_step), np.float32)
    known = np.zeros((count, total * per_step), bool)
    scored = np.zeros((count, total * per_step), bool)
    for index, load in enumerate(loads):
        rates[index, : len(load.rates)] = load.rates
        known[index, : len(load.rates)] = load.known
        scored[index, : len(load.rates)] = load.scored
    clock = np.array([load.start for load in loads])
    noise = Noise(params, [(load.name, seed) for load, seed in zip(loads, seeds, strict=True)], many)

    members, begin = [], 0
    scaler = Autoscaler(Panel([]), remembers=bool(config.completions))
    for entrant in entrants:
        end = begin + entrant.copies * count
        members.append((entrant.policy, np.arange(begin, end)))
        begin = end
    scaler.policy = Panel(members)
    for (_, mine), entrant in zip(members, entrants, strict=True):
        scaler.add(mine.tolist(), entrant.settings)
    replayed = not config.completions and count <= REPLAYED
    told = told_beforehand(config, settings, rates, known, clock, loads, seeds) if replayed else {}
    memory = None if config.completions or replayed else Autoscaler("growth-quantile", settings, count)

    state = world.initial(params, np.tile(start_replicas(loads, settings), many))
    shape = (many, count)
    zeros = [np.zeros(shape) for _ in range(6)]
    sums = Totals(*zeros[:4], np.zeros((len(WAIT_EDGES), *shape)), *zeros[4:])
    which = np.tile(np.arange(count), many)
    before = None
    for step in range(total):
        ticks = slice(step * per_step, (step + 1) * per_step)
        seen = known[:, ticks].all(axis=1)
        time = clock + step * per_step * tick
        reading = world.readings(params, state, np.tile(time, many))
        features = Picked(Picked(told, step), which) if replayed else None
        if memory is not None:
            first = {
                name: np.broadcast_to(getattr(reading, name), (rows,))[:count]
                for name in ("time", "load", "age")
            }
            features = Picked(memory.remember(Snapshot(**first)), which)
        view = scaler.view(reading, features=features)
        decisions = scaler.decide_on(view)
        orders = decisions.replicas.astype(np.float32)
        state, outcome = world.step(params, state, orders, np.tile(rates[:, ticks].T, (1, many)), noise.step(),
                                    np.tile(seen, many))  # fmt: skip
        weight = scored[:, ticks].mean(axis=1)
        for target, name in ((sums.billed, "billed"), (sums.needed, "needed"), (sums.late, "late"),
                             (sums.arrivals, "arrivals")):  # fmt: skip
            target += getattr(outcome, name).reshape(shape) * weight
        if waits:
            sums.waits += outcome.late_over.reshape(-1, *shape) * weight
        if before is not None:
            sums.rescales += (orders != before).reshape(shape) * (weight > 0)
        sums.largest = np.maximum(sums.largest, orders.reshape(shape) * (weight > 0))
        before = orders
        if traced is not None:
            _trace(traced, shape, float(time[0]), rates[0, ticks], bool(seen[0]), outcome, orders)
            if watch is not None:
                entry: dict[str, Any] = decisions.explain(watch * count)
                if traced.observe:
                    entry["observation"] = _observed(view, watch * count)
                traced.decisions.append(entry)
        if progress is not None:
            progress(step + 1, total)
    sums.steps = total
    return sums


def _observed(view: View, row: int) -> dict[str, float]:
    """Return the observation of one row by name of field."""
    one = np.array([row])
    single = View(
        xp=np,
        settings=Picked(view.settings, one),
        snapshot=Picked(view.snapshot, one),
        features=Picked(view.features, one),
        demand=view.demand[one],
        current=view.current[one],
    )
    return {name: round(float(value), 5) for name, value in zip(NAMES, observe(single)[0], strict=True)}


def _trace(
    traced: Traced,
    shape: tuple[int, int],
    time: float,
    rates: np.ndarray,
    seen: bool,
    outcome: world.Outcome,
    orders: np.ndarray,
) -> None:
    """Keep this step of load 0."""

    def first(values: Any) -> np.ndarray:
        return np.asarray(values).reshape(shape)[:, 0]

    traced.time.append(time)
    traced.load.append(float(rates.mean()))
    traced.known.append(seen)
    arrivals = first(outcome.arrivals)
    traced.add(
        replicas=first(orders),
        ready=first(outcome.ready),
        violations=first(outcome.late) / np.maximum(arrivals, 1e-9),
        backlog=first(outcome.backlog),
        billed=first(outcome.billed),
        needed=first(outcome.needed),
    )
