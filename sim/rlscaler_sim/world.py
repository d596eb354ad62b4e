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
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from rlscaler.arrays import Array, State, column, namespace
from rlscaler.snapshot import Snapshot
from rlscaler_sim import pods, telemetry
from rlscaler_sim.queueing import Tail, Ticks, run_ticks

TICK = 3.0
"""Seconds that an internal tick comes close to."""
_SLOW = 0.1
"""Service times above this share of a tick make the offered load lag behind the arrivals."""
_LATENCY_SHARE = 0.05
"""The latency that is measured is the one that this share of the requests exceeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """What is true of the environments; every field a number or one value for each of N environments.

    capacity_per_replica: requests/s of a ready replica. concurrency: requests that a replica serves at once, each
    for concurrency / capacity_per_replica seconds on average. slo_wait: seconds of waiting above which a request is
    late. fano: variance over mean of the arrivals in any span of ticks, 1 (Poisson) or more.
    startup: mean seconds from a pod's creation until it is ready; startup_spread: coefficient of variation that the
    pods of one order share; startup_jitter: the same among the pods of one order. drain: seconds that a removed
    ready pod is still billed.
    lag, window: the load read now is the mean over `window` seconds that ended `lag` seconds ago. completions: load
    is counted when requests end, not when they arrive.
    crash_rate: crashes of a ready pod an hour. gap_rate: gaps of the metrics an hour, each of gap_duration seconds.
    node_pods: pods that fit on a node (0: nodes are no limit); node_startup: seconds until a further node is there;
    max_nodes: 0 = no limit.
    interval: seconds between decisions, one number.
    """

    capacity_per_replica: Any = 10.0
    concurrency: Any = 1
    slo_wait: Any = 0.4
    fano: Any = 2.0
    startup: Any = 60.0
    startup_spread: Any = 0.0
    startup_jitter: Any = 0.0
    drain: Any = 0.0
    lag: Any = 15.0
    window: Any = 15.0
    completions: Any = False
    crash_rate: Any = 0.0
    gap_rate: Any = 0.0
    gap_duration: Any = 60.0
    node_pods: Any = 0
    node_startup: Any = 180.0
    max_nodes: Any = 0
    interval: float = 15.0


_POSITIVE = {"capacity_per_replica": "requests/s", "window": "seconds", "interval": "seconds"}
_AT_LEAST_ZERO = {
    "slo_wait": "seconds",
    "startup": "seconds",
    "drain": "seconds",
    "lag": "seconds",
    "crash_rate": "crashes an hour",
    "gap_rate": "gaps an hour",
    "gap_duration": "seconds",
    "node_startup": "seconds",
}
_BOUNDED = {"startup_spread": (0.0, 1.0), "startup_jitter": (0.0, 0.8), "completions": (0.0, 1.0)}
_WHOLE = {"concurrency": 1, "node_pods": 0, "max_nodes": 0}
_LONGEST = 7200.0
"""Seconds that start-up, lag, window and node start-up may take at most: the state keeps a row for each tick."""


def _values(config: WorldConfig, n: int) -> dict[str, np.ndarray]:
    """Return the fields as (n,) float64 arrays. Raises ValueError where one is out of its range."""
    values: dict[str, np.ndarray] = {}
    for field in fields(config):
        try:
            values[field.name] = column(getattr(config, field.name), n)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{field.name} of the world: {error}") from error

    def check(name: str, ok: np.ndarray, expected: str) -> None:
        if not ok.all():
            bad = values[name][np.flatnonzero(~ok)[0]]
            raise ValueError(f"{name} of the world is {bad:g}; expected {expected}")

    for name, value in values.items():
        check(name, np.isfinite(value), "a finite number")
    for name, unit in _POSITIVE.items():
        check(name, values[name] > 0.0, f"{unit} above 0")
    for name, unit in _AT_LEAST_ZERO.items():
        check(name, values[name] >= 0.0, f"0 or more {unit}")
    for name, (low, high) in _BOUNDED.items():
        check(name, (values[name] >= low) & (values[name] <= high), f"{low:g} to {high:g}")
    for name, low in _WHOLE.items():
        check(name, (values[name] >= low) & (values[name] % 1.0 == 0.0), f"a whole number, {low} or more")
    for name in ("startup", "lag", "window", "node_startup", "interval", "drain"):
        check(name, values[name] <= _LONGEST, f"{_LONGEST:g} seconds at most")
    check("fano", values["fano"] >= 1.0, "1 (Poisson) or more")
    check("interval", values["interval"] == values["interval"][0], "one interval for all environments")
    return values


@dataclass(frozen=True, slots=True)
class Params:
    """Constants of N environments in the form that a step uses (see `compiled`); arrays (N,) float32.

    n: environments. ticks: K, ticks of a step. interval, tick: seconds of a step and of a tick. wait_edges: seconds.
    excess: (fano - 1) / tick, None where all are Poisson. servers: requests that a pod serves at once.
    capacity: requests that a pod serves in a tick. needed: pod-seconds of a request. slo: requests that a pod serves
    within slo_wait. service: seconds of a request's service. memory, carried: what is left after a tick of a
    difference between offered and arriving load, and its mean over the tick; None where all services are short.
    """

    xp: Any
    n: int
    ticks: int
    interval: float
    tick: float
    wait_edges: tuple[float, ...]
    excess: Array | None
    servers: Array
    capacity: Array
    needed: Array
    slo: Array
    service: Array
    memory: Array | None
    carried: Array | None
    pods: pods.PodParams
    metrics: telemetry.MetricParams


def compiled(config: WorldConfig, n: int, like: Array = None, wait_edges: Sequence[float] = ()) -> Params:
    """Return the constants of n environments.

    like: an array whose library and device the world runs on (None: NumPy). wait_edges: seconds; every step then
    counts the requests that wait longer than each (`Outcome.late_over`). Raises ValueError where a field has a value
    that no world can have, or a shape other than () or (n,).
    """
    if n < 1:
        raise ValueError(f"the world has {n} environments; expected 1 or more")
    xp = np if like is None else namespace(like)
    device = getattr(like, "device", None)
    values = _values(config, n)
    if xp is np:
        _keep_memory()

    def array(value: np.ndarray) -> Array:
        return xp.asarray(np.ascontiguousarray(value, dtype=np.float32), device=device)

    interval = float(values["interval"][0])
    ticks = max(1, round(interval / TICK))
    tick = interval / ticks
    capacity, concurrency = values["capacity_per_replica"], values["concurrency"]
    service = concurrency / capacity
    left = np.exp(-tick / service)
    slow = bool((service > _SLOW * tick).any())
    over = values["fano"] > 1.0
    return Params(
        xp=xp,
        n=n,
        ticks=ticks,
        interval=interval,
        tick=tick,
        wait_edges=tuple(float(edge) for edge in wait_edges),
        excess=array((values["fano"] - 1.0) / tick) if over.any() else None,
        servers=array(concurrency),
        capacity=array(capacity * tick),
        needed=array(1.0 / capacity),
        slo=array(capacity * values["slo_wait"]),
        service=array(service),
        memory=array(left) if slow else None,
        carried=array((1.0 - left) * service / tick) if slow else None,
        pods=pods.compiled(array, values, ticks, interval),
        metrics=telemetry.compiled(array, values, ticks, interval),
    )


def selected(params: Params, which: Array) -> Params:
    """Return the constants of M environments that are like those of `which`, (M,) indices, repetition allowed.

    The states of both have the same rows, so an environment can go on under the constants of another.
    """
    found: Params = _columns(params.xp, params, params.n, which)
    return replace(found, n=int(which.shape[0]))


def _columns(xp: Any, constants: Any, n: int, which: Array) -> Any:
    """Return a dataclass with the columns `which` of its arrays (..., n), and of those in dataclasses within it."""
    found = {}
    for field in fields(constants):
        value = getattr(constants, field.name)
        if is_dataclass(value):
            found[field.name] = _columns(xp, value, n, which)
        elif isinstance(shape := getattr(value, "shape", None), tuple) and shape[-1:] == (n,):
            found[field.name] = xp.take(value, which, axis=-1)
    return replace(constants, **found)


def _keep_memory() -> None:
    """Let the allocator keep freed memory: a step makes and drops many arrays of the same few sizes.

    Once a large block has been freed, glibc no longer hands smaller ones back to the system, which otherwise takes
    longer than the arithmetic. The block is never touched, so it costs no memory.
    """
    np.empty(1 << 24, np.uint8)


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
