"""Two worlds for each workload, side by side: what the replicas that it has, and those that rlscaler would have given
it, would have met with the same load.

Both are the simulator's world with the workload's own settings (standard physics, nothing random in it): mean
behaviour of the queue, pods that take exactly the start-up time, and within an interval the over-dispersion of the
standard world, laid out as quantiles in an order that changes from interval to interval. The two meet the same rates
to the bit, so they differ by their replicas alone.

Time is kept as a decision meets it. A load that is read now is the mean over one interval that ended `lag` ago, so the
worlds' queues run that far behind and each order acts on the load that truly followed it; pods need no load and run in
the present. A change of the live count was made at an unknown moment since the last tick; it is dated at that last
tick, so what is uncertain of its time is in favour of the live scaler.

Pure: a state is named arrays whose first axis is the workloads; the second axis of those of a world is the side, LIVE
or OWN.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.rows import taken
from rlscaler_sim import pods, telemetry, world

LIVE, OWN = 0, 1
"""The sides: replicas as observed, and rlscaler's own."""
FANO = 2.0
"""Variance over mean of the arrivals within an interval, that of the standard world."""
MOST_BEHIND = 16
"""Intervals that the queues run behind at most; an older load than that is taken to be so old."""
LONGEST_STARTUP = 7200.0
"""Seconds of start-up that the world takes."""
_RING = MOST_BEHIND + 2
_ORDERS_OF_QUANTILES = 64
_NARROW = 32
"""Ticks of a start-up up to which workloads are stepped together; beyond, each doubling is a batch of its own."""
_SLOW = 0.1
"""As in `world`: service times above this share of a tick make the offered load lag behind the arrivals."""


@dataclass(frozen=True, slots=True)
class Passed:
    """What a step of n workloads was.

    scored: (n,) bool, an interval with known load has been lived through; else the sums below are 0. arrivals: (n,)
    requests. late: (n, 2) requests that waited longer than the objective leaves, NaN where a request alone takes
    longer than it. billed: (n, 2) pod-seconds. rescaled: (n, 2) bool, the order differs from the one before.
    own: what an autoscaler with rlscaler's own replicas would read now, (n,) each: ready, starting, desired, and
    backlog, utilization, latency (NaN before the first interval).
    """

    scored: np.ndarray
    arrivals: np.ndarray
    late: np.ndarray
    billed: np.ndarray
    rescaled: np.ndarray
    own: dict[str, np.ndarray]


def unstarted(n: int) -> State:
    """Return the state of n workloads whose worlds have not begun (`ticks` is -1)."""
    sides = {name: np.zeros((n, 2), np.float32) for name in ("content", "waiting", "variance", "offered", "order")}
    return sides | {
        "ratio": np.ones((n, 2), np.float32),
        "plan": np.zeros((n, 2, 1), np.float32),
        "ahead": np.zeros((n, 1), np.float32),
        "ahead_order": np.zeros(n, np.float32),
        "orders": np.zeros((n, 2, _RING), np.float32),
        "ticks": np.full(n, -1, np.int64),
        "load": np.zeros(n),
        "known": np.zeros(n, bool),
    }


def started(settings: Mapping[str, Array], replicas: np.ndarray, load: np.ndarray) -> State:
    """Return worlds that begin now, both sides alike and settled: all replicas ready, no backlog.

    settings: compiled, of these workloads. replicas: (n,) that the target has. load: (n,) requests/s.
    """
    n = len(replicas)
    state = unstarted(n)
    ready = np.round(replicas).astype(np.float32)
    concurrency = np.asarray(settings["concurrency"])
    interval = np.asarray(settings["interval"])
    service = concurrency / np.asarray(settings["capacity_per_replica"])
    tick = interval / np.maximum(1.0, np.round(interval / world.TICK))
    both = ready[:, None]
    state["content"][:] = np.minimum(load * service, ready * concurrency)[:, None]
    state["offered"][:] = (load * tick)[:, None]
    state["plan"][:] = state["orders"][:] = both[:, :, None]
    state["ahead"][:] = state["order"][:] = both
    state["ahead_order"][:] = ready
    state["ticks"][:] = 0
    state["load"][:] = load
    state["known"][:] = True
    return state


def behind(settings: Mapping[str, Array]) -> np.ndarray:
    """Return the intervals that the queues run behind the decisions, (n,) int64."""
    share = np.asarray(settings["lag"]) / np.asarray(settings["interval"])
    steps: np.ndarray = np.minimum(np.ceil(share - 1e-9), MOST_BEHIND).astype(np.int64)
    return steps


def ordered(state: State, replicas: np.ndarray) -> None:
    """Write down rlscaler's own decision of this tick, (n,) replicas, in place."""
    state["orders"][np.arange(len(replicas)), OWN, state["ticks"] % _RING] = replicas


def step(
    settings: Mapping[str, Array], state: State, time: np.ndarray, live: np.ndarray, load: np.ndarray
) -> tuple[State, Passed]:
    """Let one interval pass in worlds that have begun; the state is written to.

    time: (n,) seconds, now. live: (n,) replicas that the target asks for. load: (n,) requests/s read now, NaN =
    unknown: the worlds go on with the last known load, and nothing is scored. Until `ordered` says otherwise
    rlscaler's own order stays.
    """
    n = len(time)
    index = np.arange(n)
    known = np.isfinite(load)
    held = np.where(known, load, state["load"])
    before, tick = state["ticks"], state["ticks"] + 1
    orders = state["orders"]
    orders[index, LIVE, before % _RING] = live
    orders[index, :, tick % _RING] = orders[index, :, before % _RING]
    lag = behind(settings)
    ran = tick - 1 - lag
    # the share of the interval that the load read at the tick before speaks of
    older = np.clip(lag - np.asarray(settings["lag"]) / np.asarray(settings["interval"]), 0.0, 1.0)
    scored = known & (state["known"] | (older < 1e-9)) & (ran >= 0)

    passed = Passed(
        scored=scored,
        arrivals=np.zeros(n),
        late=np.zeros((n, 2)),
        billed=np.zeros((n, 2)),
        rescaled=np.zeros((n, 2), bool),
        own={name: np.full(n, np.nan) for name in ("ready", "backlog", "utilization", "latency")},
    )
    own_order = orders[index, OWN, before % _RING]
    for rows in _batches(settings, ran >= 0):
        part, facts = taken(state, rows), _Facts(settings, rows)
        ready = _ready_now(facts, part, own_order[rows])
        passed.own["ready"][rows] = ready
        if ran[rows[0]] >= 0:
            now = orders[rows, :, ran[rows] % _RING]
            rates = facts.rates(time[rows], state["load"][rows], held[rows], older[rows])
            outcome, reading = _live_through(facts, part, now, rates)
            weight = scored[rows]
            passed.arrivals[rows] = weight * outcome.arrivals[: len(rows)]
            passed.late[rows] = weight[:, None] * facts.judged[:, None] * _sides(outcome.late)
            passed.billed[rows] = weight[:, None] * _sides(outcome.billed)
            last = orders[rows, :, np.maximum(ran[rows] - 1, 0) % _RING]
            passed.rescaled[rows] = (now != last) & weight[:, None]
            for name, value in reading.items():
                passed.own[name][rows] = value
        for name in ("plan", "ahead"):
            state[name] = wider(state[name], part[name].shape[-1])
            part[name] = wider(part[name], state[name].shape[-1])
        for name in ("content", "waiting", "variance", "ratio", "offered", "order", "plan", "ahead", "ahead_order"):
            state[name][rows] = part[name]
    passed.own["desired"] = own_order.astype(np.float64)
    passed.own["starting"] = np.maximum(passed.own["desired"] - passed.own["ready"], 0.0)
    state["ticks"] = tick
    state["load"], state["known"] = held, known
    return state, passed


def _batches(settings: Mapping[str, Array], runs: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the workloads (positions) that one world can hold without one of them changing what another meets."""
    interval = np.asarray(settings["interval"])
    tick = interval / np.maximum(1.0, np.round(interval / world.TICK))
    slow = np.asarray(settings["concurrency"]) / np.asarray(settings["capacity_per_replica"]) > _SLOW * tick
    width = np.log2(np.maximum(np.asarray(settings["startup"]) / tick / _NARROW, 1.0))
    kinds = np.stack([interval, runs, slow, np.ceil(width)], axis=1)
    if (kinds == kinds[:1]).all():
        yield np.arange(len(interval))
        return
    _, which = np.unique(kinds, axis=0, return_inverse=True)
    for kind in range(int(which.max()) + 1):
        yield np.flatnonzero(which == kind)


class _Facts:
    """The worlds of some workloads: the live sides first, then rlscaler's own."""

    def __init__(self, settings: Mapping[str, Array], rows: np.ndarray) -> None:
        def both(name: str) -> np.ndarray:
            return np.tile(np.asarray(settings[name])[rows], 2)

        capacity, concurrency = both("capacity_per_replica"), both("concurrency")
        interval = float(np.asarray(settings["interval"])[rows[0]])
        slack = both("latency") - concurrency / capacity
        config = world.WorldConfig(
            capacity_per_replica=capacity,
            concurrency=np.maximum(np.round(concurrency), 1.0),
            slo_wait=np.maximum(slack, 0.0),
            fano=1.0,
            startup=np.minimum(both("startup"), LONGEST_STARTUP),
            lag=0.0,
            window=interval,
            interval=interval,
        )
        self.n = len(rows)
        self.params = world.compiled(config, 2 * self.n)
        self.judged = np.where(slack[: self.n] > 0.0, 1.0, np.nan)

    def rates(self, time: np.ndarray, before: np.ndarray, load: np.ndarray, older: np.ndarray) -> np.ndarray:
        """Return requests/s of each tick, (K, 2 n) float32: on average the load that was read, over-dispersed."""
        params = self.params
        middles = (np.arange(params.ticks)[:, None] + 0.5) / params.ticks
        rates = np.where(middles < older, before, load)
        variance = np.log1p((FANO - 1.0) / params.tick / np.maximum(rates, 0.1 / params.tick))
        slot = np.floor(time / params.interval).astype(np.int64) % _ORDERS_OF_QUANTILES
        factor = np.exp(np.sqrt(variance) * quantiles(params.ticks)[:, slot])
        factor /= factor.mean(axis=0)
        return np.tile((rates * factor).astype(np.float32), (1, 2))


@cache
def quantiles(ticks: int) -> np.ndarray:
    """Return (ticks, orders) normal quantiles in the middles of equal shares, in many fixed orders.

    Their variance is that of normal numbers of which the mean is known, for ticks up to 5 within a tenth.
    """
    shares = (np.arange(ticks) + 0.5) / ticks
    steps = np.linspace(-6.0, 6.0, 4001)
    below = np.array([0.5 * (1.0 + math.erf(x / math.sqrt(2.0))) for x in steps])
    values = np.interp(shares, below, steps)
    rng = np.random.default_rng(ticks)
    return np.stack([rng.permutation(values) for _ in range(_ORDERS_OF_QUANTILES)], axis=1)


def _ready_now(facts: _Facts, part: State, order: np.ndarray) -> np.ndarray:
    """Let an interval pass for rlscaler's own pods in the present, in place, and return those ready at its end."""
    both = facts.params.pods
    n, started = facts.n, both.started
    own = replace(both, delay=both.delay[:n], started=None if started is None else started[:, :n])
    plan = wider(part["ahead"], own.rows)[:, : own.rows].T
    after, _ = pods.step(np, own, {"plan": plan, "order": part["ahead_order"]}, order, {})
    part["ahead"], part["ahead_order"] = after["plan"].T, after["order"]
    return np.asarray(after["plan"][0], np.float64)


def _live_through(
    facts: _Facts, part: State, orders: np.ndarray, rates: np.ndarray
) -> tuple[world.Outcome, dict[str, np.ndarray]]:
    """Let an interval pass in the worlds, in place, and return what happened, and what is measured of our own side."""
    params, n = facts.params, facts.n
    width = params.pods.rows
    state = {name: _joined(part[name]) for name in ("content", "waiting", "variance", "ratio", "order")}
    state["plan"] = np.ascontiguousarray(wider(part["plan"], width)[:, :, :width].transpose(2, 1, 0)).reshape(width, -1)
    if params.memory is not None:
        state["offered"] = _joined(part["offered"])
    # the metrics' window is the interval, so nothing of theirs is carried from step to step
    state |= telemetry.initial(np, params.metrics, params.capacity)
    drawn = {name: np.zeros(shape, np.float32) for name, (_, shape) in world.draw_kinds(params).items()}
    after, outcome = world.step(params, state, _joined(orders), rates, drawn)
    for name in ("content", "waiting", "variance", "ratio", "order"):
        part[name] = _sides(after[name])
    part["plan"] = after["plan"].reshape(width, 2, n).transpose(2, 1, 0)
    if params.memory is not None:
        part["offered"] = _sides(after["offered"])
    else:
        part["offered"] = np.repeat((rates[-1, :n] * params.tick)[:, None], 2, axis=1)
    seen = world.readings(params, after, 0.0)
    own = slice(n, None)
    reading = {name: np.asarray(getattr(seen, name)[own], np.float64) for name in ("backlog", "utilization", "latency")}
    return outcome, reading


def _joined(sides: np.ndarray) -> np.ndarray:
    """Return (n, 2) as (2 n,), live sides first."""
    return np.ascontiguousarray(sides.T).reshape(-1)


def _sides(joined: np.ndarray) -> np.ndarray:
    """Return (2 n,) as (n, 2)."""
    return joined.reshape(2, -1).T


def wider(plan: np.ndarray, width: int) -> np.ndarray:
    """Return plans with the last axis at least this long; beyond what is planned, the last value stays."""
    short = width - plan.shape[-1]
    if short <= 0:
        return plan
    return np.concatenate([plan, np.repeat(plan[..., -1:], short, axis=-1)], axis=-1)
