"""The world that a decision is tried in: N environments, one step of the decision's interval at a time.

A step is K internal ticks of about three seconds. In a tick the rate is constant: the load's, times a log-normal
factor that makes arrivals over-dispersed. It carries only the variance above Poisson's, because the queue's formulas
(`queueing`) have that of Poisson arrivals in them, and measured counts get it in the metrics pipeline (`telemetry`).
Pods (`pods`) are ready, starting or draining by whole ticks.

Every function is pure in time and randomness: `draws` makes the random arrays of a step, `step` uses them. All
environments of a batch share the interval; everything else is an array, so each can have a world of its own. Arrays
have the environments as their last axis and run on NumPy or any library that array-api-compat knows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.snapshot import Snapshot
from rlscaler_sim import pods, telemetry
from rlscaler_sim.queueing import Tail, Ticks, run_ticks
from rlscaler_sim.world_config import TICK as TICK
from rlscaler_sim.world_config import Params as Params
from rlscaler_sim.world_config import WorldConfig as WorldConfig
from rlscaler_sim.world_config import compiled as compiled
from rlscaler_sim.world_config import selected as selected

_LATENCY_SHARE = 0.05
"""The latency that is measured is the one that this share of the requests exceeds."""


@dataclass(slots=True)
class Outcome:
    """What happened in a step, arrays (N,) float32 unless stated.

    arrivals, served: requests; arrivals - served = change of the requests in the system. late: requests that waited
    longer than slo_wait (expected). wait_seconds: request-seconds of waiting. late_over: (M, N) requests that waited
    longer than each of the M wait_edges. billed, needed: pod-seconds. backlog: requests waiting at the end.
    ready, starting, draining: pods at the end. created, removed: pods, by this step's order.
    """

    arrivals: Array
    served: Array
    late: Array
    wait_seconds: Array
    late_over: Array | None
    billed: Array
    needed: Array
    backlog: Array
    ready: Array
    starting: Array
    draining: Array
    created: Array
    removed: Array


def initial(params: Params, replicas: Any) -> State:
    """Return a state with `replicas` ready, (N,) or a scalar, an empty queue and metrics that know nothing."""
    xp, like = params.xp, params.capacity
    ready = _counts(params, replicas)
    zero = xp.zeros_like(like)
    state = {"content": zero, "waiting": zero, "variance": zero, "ratio": xp.ones_like(like)}
    if params.memory is not None:
        state["offered"] = zero
    return state | pods.initial(xp, params.pods, ready) | telemetry.initial(xp, params.metrics, like)


def replaced(params: Params, state: State, fresh: State, rows: Any) -> State:
    """Return `state` with the environments `rows` (indices) taken from `fresh`; neither is written to."""
    result = {}
    for name, value in state.items():
        result[name] = params.xp.asarray(value, copy=True)
        result[name][..., rows] = fresh[name][..., rows]
    return result


def draw_kinds(params: Params) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the random arrays that a step takes: name to ("normal" or "uniform" on [0, 1), shape)."""
    kinds = pods.draw_kinds(params.pods) | telemetry.draw_kinds(params.metrics)
    result: dict[str, tuple[str, tuple[int, ...]]] = {name: (kind, (params.n,)) for name, kind in kinds.items()}
    if params.excess is not None:
        result["rate"] = ("normal", (params.ticks, params.n))
    return result


def draws(params: Params, rng: np.random.Generator) -> State:
    """Return the random arrays of one step, float32 (see `draw_kinds`), in the library of the world."""
    xp, device = params.xp, getattr(params.capacity, "device", None)
    kinds = draw_kinds(params)
    sizes = {name: math.prod(shape) for name, (kind, shape) in kinds.items() if kind == "normal"}
    normal = _normal(rng, sum(sizes.values()))
    result: State = {}
    start = 0
    for name, (kind, shape) in kinds.items():
        if kind == "normal":
            values = normal[start : start + sizes[name]].reshape(shape)
            start += sizes[name]
        else:
            values = rng.random(shape, dtype=np.float32)
        result[name] = values if xp is np else xp.asarray(values, device=device)
    return result


def _normal(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return standard normal numbers (size,) float32 by Box and Muller: vectorised, so faster than a ziggurat."""
    half = (size + 1) // 2
    radius, angle = rng.random((2, half), dtype=np.float32)
    np.subtract(1.0, radius, out=radius)
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    angle *= 2.0 * math.pi
    result = np.empty((2, half), np.float32)
    np.cos(angle, out=result[0])
    np.sin(angle, out=result[1])
    result *= radius
    return result.reshape(-1)[:size]


def modulated(params: Params, rates: Any, drawn: State) -> Array:
    """Return the rates that the ticks really have, (K, N) float32 requests/s: over-dispersed, of the given mean.

    rates: requests/s, (K, N), (N,) for the whole step, (K,) for all environments (where K = N, one axis means the
    environments), or a scalar. Relative variance (fano - 1) / (rate x tick), so that counts over any number of ticks
    have the Fano factor `fano`, Poisson scatter included; below a tenth of a request in a tick it grows no more.
    Raises ValueError for other shapes.
    """
    xp, rates = params.xp, _by_tick(params, rates)
    if params.excess is None:
        return xp.broadcast_to(rates, (params.ticks, params.n))
    variance = params.excess / xp.clip(rates, 0.1 / params.tick, None)
    variance = xp.log1p(variance)
    exponent = drawn["rate"] * xp.sqrt(variance)
    variance *= 0.5
    exponent -= variance
    exponent = xp.exp(exponent)
    exponent *= rates
    return exponent


def step(
    params: Params, state: State, desired: Any, rates: Any, drawn: State, known: Any = None
) -> tuple[State, Outcome]:
    """Apply the desired replica counts and let the world run for one interval.

    desired: (N,) replicas, rounded to whole ones. rates: requests/s, see `modulated`. drawn: of `draws`. known: (N,)
    bool or a scalar, False where nothing of this step is measured (None: everything is). Returns the new state and
    what happened; the state handed in is not written to.
    """
    xp = params.xp
    after, moves = pods.step(xp, params.pods, state, _counts(params, desired), drawn)
    arrivals = modulated(params, rates, drawn) * params.tick
    servers = moves.ready * params.servers
    capacity = moves.ready * params.capacity
    offered = arrivals if params.memory is None else _smoothed(params, state, after, arrivals)
    # removed pods finish what they have in service, outside of the queue
    content = state["content"]
    content = content - (content - state["waiting"]) * moves.left
    ticks = run_ticks(xp, content, state["variance"], state["ratio"], arrivals, offered, servers, capacity)
    after |= {
        "content": ticks.content,
        "waiting": ticks.waiting,
        "variance": ticks.variance,
        "ratio": ticks.ratio,
    }
    come = xp.sum(arrivals, axis=0)
    late = ticks.tail.share_over(xp, moves.ready * params.slo)
    late *= arrivals
    over = None
    if params.wait_edges:
        edges = xp.asarray(params.wait_edges, dtype=xp.float32, device=getattr(capacity, "device", None))
        work = (edges / params.tick)[:, None, None] * capacity
        over = xp.sum(ticks.tail.share_over(xp, work) * arrivals, axis=1)
    after |= _measured(params, state, arrivals, come, capacity, ticks, drawn, known)
    ready = after["plan"][0, ...]
    outcome = Outcome(
        arrivals=come,
        served=come - (ticks.content - state["content"]),
        late=xp.sum(late, axis=0),
        wait_seconds=ticks.waited * params.tick,
        late_over=over,
        billed=moves.billed,
        needed=xp.mean(_by_tick(params, rates), axis=0) * (params.needed * params.interval),
        backlog=ticks.waiting,
        ready=ready,
        starting=after["desired"] - ready,
        draining=moves.draining,
        created=moves.created,
        removed=moves.removed,
    )
    return after, outcome


def _counts(params: Params, value: Any) -> Array:
    """Return replica counts as (N,) float32 whole numbers of 0 or more."""
    xp = params.xp
    counts = xp.asarray(value, dtype=xp.float32, device=getattr(params.capacity, "device", None))
    return xp.clip(xp.round(xp.broadcast_to(counts, (params.n,))), 0.0, None)


def _by_tick(params: Params, rates: Any) -> Array:
    """Return rates as float32 of shape (1 or K, 1 or N)."""
    xp, ticks, n = params.xp, params.ticks, params.n
    rates = xp.asarray(rates, dtype=xp.float32, device=getattr(params.capacity, "device", None))
    if rates.ndim < 2:
        by_tick = rates.ndim == 1 and rates.shape[0] == ticks != n
        rates = xp.reshape(rates, (-1, 1) if by_tick else (1, -1))
    if rates.ndim != 2 or rates.shape[0] not in (1, ticks) or rates.shape[1] not in (1, n):
        raise ValueError(f"rates have the shape {tuple(rates.shape)}; expected ({ticks}, {n}), ({n},) or ({ticks},)")
    return rates


def _smoothed(params: Params, state: State, after: State, arrivals: Array) -> Array:
    """Return the mean load of each tick when every request counts for its service time (the modified offered load
    of Jagerman), (K, N) in requests of a tick.
    """
    offered, rows = state["offered"], []
    for come in arrivals:
        gap = offered - come
        rows.append(come + gap * params.carried)
        offered = come + gap * params.memory
    after["offered"] = offered
    return params.xp.stack(rows)


def _measured(
    params: Params,
    state: State,
    arrivals: Array,
    come: Array,
    capacity: Array,
    ticks: Ticks,
    drawn: State,
    known: Any,
) -> State:
    """Return the state of the metrics after the step."""
    xp, counted, total = params.xp, arrivals, come
    if params.metrics.completions is not None:
        counted = xp.where(params.metrics.completions, capacity * xp.stack(ticks.busy), arrivals)
        total = xp.sum(counted, axis=0)
    tail, last = ticks.tail, capacity[-1, ...]
    found = Tail(tail.delayed[-1, ...], tail.start[-1, ...], tail.scale[-1, ...])
    wait = found.exceeded_by(xp, _LATENCY_SHARE) * (params.tick / xp.clip(last, 1e-9, None))
    latency = wait - math.log(_LATENCY_SHARE) * params.service
    # without a ready pod nothing is answered, so there is no latency to measure
    latency = xp.where(last > 0.0, latency, xp.full_like(latency, float("nan")))
    if known is not None:
        known = xp.asarray(known, dtype=xp.bool, device=getattr(params.capacity, "device", None))
    return telemetry.step(xp, params.metrics, state, counted, total, ticks.busy, ticks.waiting, latency, drawn, known)


def readings(params: Params, state: State, time: Any, known: Any = None) -> Snapshot:
    """Return what an autoscaler reads now, arrays (N,) float32.

    time: seconds, passed on. known: (N,) bool or a scalar, False where the metrics are unknown now (None: known).
    """
    return telemetry.readings(params.xp, params.metrics, state, time, state["plan"][0, ...], state["desired"], known)


class World:
    """The world with its own clock and random numbers, on NumPy: for trying things, and for callers that hold no
    state. The same seed and the same calls give the same results to the bit.
    """

    def __init__(self, config: WorldConfig, n: int = 1, seed: int = 0, wait_edges: Sequence[float] = ()) -> None:
        """Take the arguments of `compiled`, and start with one pod at time 0."""
        self.params = compiled(config, n, wait_edges=wait_edges)
        self.reset(seed)

    def reset(self, seed: int, replicas: Any = 1, time: float = 0.0) -> None:
        """Start anew at `time` with `replicas` ready, (N,) or a scalar."""
        self.rng = np.random.default_rng(seed)
        self.state = initial(self.params, replicas)
        self.time = float(time)

    def step(self, desired: Any, rates: Any, known: Any = None) -> Outcome:
        """Apply the desired counts and let one interval pass; arguments of `step`."""
        self.state, outcome = step(self.params, self.state, desired, rates, draws(self.params, self.rng), known)
        self.time += self.params.interval
        return outcome

    def readings(self, known: Any = None) -> Snapshot:
        """Return what an autoscaler reads now."""
        return readings(self.params, self.state, self.time, known)
