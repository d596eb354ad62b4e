"""What a world is like: what people state of it, and the constants in the form that a step uses."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from rlscaler.arrays import Array, column, namespace
from rlscaler_sim import pods, telemetry

TICK = 3.0
"""Seconds that an internal tick comes close to."""
_SLOW = 0.1
"""Service times above this share of a tick make the offered load lag behind the arrivals."""


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
