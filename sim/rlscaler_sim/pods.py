"""Pods, from the order that creates them to the last second that is billed.

The pods of an environment are one plan: how many are ready in each coming tick if nothing more is ordered. An order
below the plan cuts it (a minimum: those that would be ready last go first, ready ones after them). An order above
it raises the plan from the tick on at which the new pods are ready. With a fixed start-up time, ready is therefore
the smallest of the orders within the last start-up.

Billed is a pod that has a node, from the order that creates it to the order that removes it, and after that for the
seconds that a ready pod drains. A pod that finds no room on the nodes present starts `node_startup` later; one for
which `max_nodes` leaves no room stays pending: it counts as starting and is not billed. A node leaves NODE_LINGER
after it was last needed. A crashed pod starts again on its node and stays billed.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscaler.arrays import Array, State

NODE_LINGER = 600.0
"""Seconds that a node stays unneeded (the default scale-down-unneeded-time of the cluster autoscaler)."""
_WIDEST = 3.0
"""A burst's common factor is cut off at this many standard deviations of its logarithm."""
_THIRDS = math.sqrt(1.5)
"""Three equal groups at -x, 0 and x have the standard deviation x / sqrt(1.5)."""
_UNLIMITED = 1e9
_FEW = 2.0
"""Up to this many expected crashes are drawn from the Poisson distribution, above it from a bell curve."""
_COUNTED = 10
"""Crashes that a draw from the Poisson distribution can reach: one in 100,000 draws at _FEW would be above."""


@dataclass(frozen=True, slots=True)
class PodParams:
    """Constants of the pods of N environments. An array is (N,) float32 unless stated, None where no environment
    uses it.

    ticks: K, ticks of a step. interval: seconds of a step. rows: ticks that the plan covers, K or more.
    middles: (rows, 1) middles of the plan's ticks. delay: start-up in ticks. started: (rows, N) 1 where a pod that
    is ordered at tick 0 is ready, if that is certain. burst: standard deviation of the logarithm of a burst's common
    factor. jitter: distance of the outer thirds of a burst, over the delay. crash: crashes of a ready pod in a step.
    drain_billed: (S, N) seconds of a step that are billed for a pod removed 0 .. S-1 steps ago. draining: (S, N) 1
    where it still drains at the end of the step. node_pods: pods of a node. max_pods: pods on all nodes at most.
    node_delay: start-up of a node in ticks. node_rows, linger_rows: steps that a node starts, and stays unneeded.
    """

    ticks: int
    interval: float
    rows: int
    middles: Array
    delay: Array
    started: Array | None
    burst: Array | None
    jitter: Array | None
    crash: Array | None
    drain_billed: Array | None
    draining: Array | None
    node_pods: Array | None
    max_pods: Array | None
    node_delay: Array | None
    node_rows: int
    linger_rows: int


@dataclass(slots=True)
class Moves:
    """What a step did to the pods, (N,) each unless stated.

    ready: (K, N) ready pods of each tick. created, removed: pods. left: ready pods that were removed, over those
    ready before. billed: pod-seconds. draining: pods that drain at the end of the step.
    """

    ready: Array
    created: Array
    removed: Array
    left: Array
    billed: Array
    draining: Array


def compiled(array: Any, values: dict[str, np.ndarray], ticks: int, interval: float) -> PodParams:
    """Return the constants.

    array: makes a float32 array of the wanted library. values: the fields of `world.WorldConfig`, checked, (N,)
    float64 each. ticks, interval: of a step.
    """

    def used(value: np.ndarray, wanted: np.ndarray) -> Array | None:
        return array(value) if wanted.any() else None

    tick = interval / ticks
    delay = values["startup"] / tick
    burst = np.sqrt(np.log1p(values["startup_spread"] ** 2))
    jitter = _THIRDS * values["startup_jitter"]
    on_nodes = values["node_pods"] > 0
    node_delay = np.where(on_nodes, values["node_startup"] / tick, 0.0)
    slowest = delay * np.exp(_WIDEST * burst - 0.5 * burst**2) * (1.0 + jitter) + node_delay
    rows = max(math.floor(float(slowest.max()) + 0.5), ticks)
    middles = np.arange(rows)[:, None] + 0.5
    certain = not (burst.any() or jitter.any() or on_nodes.any())
    started = middles >= delay
    drain = values["drain"]
    since = np.arange(max(1, math.ceil(float(drain.max()) / interval)))[:, None] * interval
    node_pods = np.where(on_nodes, values["node_pods"], _UNLIMITED)
    max_nodes = np.where(on_nodes & (values["max_nodes"] > 0), values["max_nodes"], _UNLIMITED)
    return PodParams(
        ticks=ticks,
        interval=interval,
        rows=rows,
        middles=array(middles),
        delay=array(delay),
        started=used(started, started) if certain else None,
        burst=used(burst, burst),
        jitter=used(jitter, jitter),
        crash=used(values["crash_rate"] * interval / 3600.0, values["crash_rate"]),
        drain_billed=used(np.clip(drain - since, 0.0, interval), drain),
        draining=used(drain > since + interval, drain),
        node_pods=used(node_pods, on_nodes),
        max_pods=used(np.minimum(node_pods * max_nodes, _UNLIMITED), on_nodes),
        node_delay=used(node_delay, on_nodes),
        node_rows=math.ceil(float(node_delay.max()) / ticks),
        linger_rows=max(1, math.ceil(NODE_LINGER / interval)),
    )


def draw_kinds(params: PodParams) -> dict[str, str]:
    """Return which draws a step takes, each of shape (N,): name to "normal" or "uniform"."""
    kinds = {}
    if params.burst is not None:
        kinds["startup"] = "normal"
    if params.crash is not None:
        kinds["crash"] = "uniform"
    return kinds


def initial(xp: Any, params: PodParams, replicas: Array) -> State:
    """Return the pods' state with `replicas` (N,) float32 ready and nothing starting."""
    state = {
        "plan": _repeated(xp, replicas, params.rows),
        "order": xp.asarray(replicas, copy=True),
        "desired": xp.asarray(replicas, copy=True),
    }
    if params.drain_billed is not None:
        state["drained"] = xp.zeros_like(params.drain_billed)
    if params.node_pods is not None:
        nodes = xp.ceil(replicas / params.node_pods)
        state["node_plan"] = _repeated(xp, nodes, max(params.node_rows, 1))
        state["node_need"] = _repeated(xp, nodes, params.linger_rows)
    return state


def step(xp: Any, params: PodParams, state: State, desired: Array, draws: State) -> tuple[State, Moves]:
    """Apply the desired counts, (N,) float32 whole and 0 or more, and let the pods live for one step.

    draws: see `draw_kinds`. The state handed in is not written to.
    """
    after: State = {"desired": desired}
    order = desired if params.max_pods is None else xp.minimum(desired, params.max_pods)
    before, plan = state["order"], state["plan"]
    change = order - before
    zero = xp.zeros_like(change)
    created = xp.maximum(change, zero)
    plan_now = plan[0, ...]
    plan = xp.minimum(plan, order)
    gone = plan_now - plan[0, ...]
    left = gone / xp.clip(plan_now, 1.0, None)

    certain = params.burst is None and params.jitter is None and params.node_pods is None
    if certain and params.crash is None:
        if params.started is not None:
            plan += params.started * created
    else:
        delay = params.delay if params.burst is None else params.delay * _factor(xp, params.burst, draws["startup"])
        crashed = (
            None if params.crash is None else _crashes(xp, params.crash * plan[0, ...], draws["crash"], plan[0, ...])
        )
        slow = zero if params.node_pods is None else _without_room(xp, params, state, after, order, created)
        for count, late in _groups(xp, params, created - slow, slow, delay):
            plan += (params.middles >= late) * count
        if crashed is not None:
            plan -= (params.middles < delay) * crashed

    billed = order * params.interval
    draining = zero
    if params.drain_billed is not None:
        drained = xp.concat([xp.expand_dims(gone, axis=0), state["drained"][:-1, ...]])
        billed = billed + xp.sum(drained * params.drain_billed, axis=0)
        draining = xp.sum(drained * params.draining, axis=0)
        after["drained"] = drained
    ready = plan[: params.ticks, ...]
    after["plan"] = xp.concat([plan[params.ticks :, ...], xp.broadcast_to(order, ready.shape)])
    after["order"] = order
    moves = Moves(ready=ready, created=created, removed=created - change, left=left, billed=billed, draining=draining)
    return after, moves


def _repeated(xp: Any, row: Array, rows: int) -> Array:
    return xp.stack([row] * rows)  # a copied broadcast would lie in memory the slow way round


def _factor(xp: Any, sigma: Array, normal: Array) -> Array:
    """Return the common start-up factor of a burst, log-normal of mean 1."""
    bounded = xp.clip(normal, -_WIDEST, _WIDEST)
    return xp.exp(sigma * bounded - 0.5 * sigma * sigma)


def _groups(xp: Any, params: PodParams, quick: Array, slow: Array, delay: Array) -> list[tuple[Array, Array]]:
    """Return the pods of a burst as (count, ticks until ready); `slow` ones wait for a node first."""
    parts = [(quick, delay)]
    if params.node_delay is not None:
        parts.append((slow, delay + params.node_delay))
    if params.jitter is None:
        return parts
    groups = []
    for count, late in parts:
        early = xp.floor(count / 3.0)
        last = xp.floor((count + 1.0) / 3.0)
        shift = params.jitter * delay
        groups += [(early, xp.clip(late - shift, 0.0, None)), (count - early - last, late), (last, late + shift)]
    return groups


def _without_room(xp: Any, params: PodParams, state: State, after: State, order: Array, created: Array) -> Array:
    """Return how many of the created pods find no room on the nodes present, and step the nodes."""
    need = xp.concat([state["node_need"][1:, ...], xp.expand_dims(xp.ceil(order / params.node_pods), axis=0)])
    nodes = xp.max(need, axis=0)
    plan = xp.minimum(state["node_plan"], nodes)
    present = plan[0, ...] if params.node_rows else nodes
    after["node_need"] = need
    after["node_plan"] = xp.concat([plan[1:, ...], xp.expand_dims(nodes, axis=0)])
    room = present * params.node_pods - state["order"]
    return xp.minimum(xp.clip(created - xp.clip(room, 0.0, None), 0.0, None), created)


def _crashes(xp: Any, mean: Array, uniform: Array, ready: Array) -> Array:
    """Return the number of crashes: Poisson with this mean, from a uniform draw, and at most `ready`."""
    density = xp.exp(-mean)
    below = density
    few = xp.astype(uniform >= below, mean.dtype)
    for k in range(1, _COUNTED):
        density = density * mean / k
        below = below + density
        few += xp.astype(uniform >= below, mean.dtype)
    odds = xp.clip(uniform, 1e-6, 1.0 - 1e-6)
    # the logistic quantile, scaled to unit variance, stands in for the normal one
    bell = xp.log(odds / (1.0 - odds)) * (math.sqrt(3.0) / math.pi)
    many = xp.clip(xp.round(mean + xp.sqrt(mean) * bell), 0.0, None)
    return xp.minimum(xp.where(mean > _FEW, many, few), ready)
