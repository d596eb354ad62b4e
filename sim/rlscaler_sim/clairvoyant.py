"""The clairvoyant optimum: the best orders for a load that is known to the end, and a bound that none can beat.

Known are the rates that the ticks really have; Poisson's scatter within a tick stays unknown. The score is
J = billed / needed + price x late / arrivals over the scored steps. Start-up takes D whole steps, always.

With ready r_t = min(o_{t-D} .. o_t) of the orders o, billing splits by levels: the l-th replica is billed while
o_t >= l. The steps with r_t >= l fall into runs, each of which needs the D steps before it too, and between two runs
lie more than D steps (an order below l bars D + 1 steps). So the runs with their D steps are disjoint and

    sum w_t o_t >= sum w_t r_t + sum B_t (r_t - r_{t-1})^+,   B_t = w_{t-D} + .. + w_{t-1},

with equality for o_t = max(r_t .. r_{t+D}). With g_t(n) <= the late requests of step t with n ready, whatever the
queue holds (`late_bound`), the least over all sequences r of sum w_t r_t + B_t rises + (price) g_t(r_t) therefore
bounds J from below. It is a dynamic programme over n alone, solved by running minima in O(T N):

    V_t(n) = w_t n + g_t(n) + min( min_{m >= n} V_{t-1}(m), min_{m <= n} V_{t-1}(m) + B_t (n - m) ).

The start's replicas count as ordered for ever before, so nothing rises before step D. A start-up that ends within a
step counts as the shorter D for the bound, which then starts its queue empty at that tick, and as the longer for plans.

The same programme with other g gives schedules. The first g takes the queue empty at the start of each step. The next
ones start each step with the queue that the previous schedule leaves there, and add what the step's backlog does to the
next one. Each is replayed in full; the best is the plan.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscaler.arrays import column
from rlscaler_sim.late_bound import least_late, surely_late
from rlscaler_sim.queueing import run_ticks

PASSES = 2
"""Schedules beside the first; further ones alternate between two that differ by 0.01 % in J."""
_SLOW = 0.1
"""As in the world: service times above this share of a tick make the offered load lag behind."""
_CERTAIN = 0.75
"""With this share of the mean demand and less, practically every request of a step is late."""
_HOPELESS = 0.3
"""Share of late requests above which a rough bound does."""
_NEGLIGIBLE = 1e-7
"""Share of late requests below which they count as none in the bound."""
_CHUNK = 16384
_SAME = 1e-4
"""Relative difference below which a queue counts as unchanged."""
_SLACK = 1e-6
"""Takes rounding off the bound."""
_IMPOSSIBLE = 1e15

Queue = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Content, variance, ratio (see `run_ticks`) and requests waiting, each (E,) float32."""


@dataclass(frozen=True, slots=True)
class Plan:
    """orders: (L, T) int32 replicas to ask for. lower_bound: (L,) float64, J of no orders is below it."""

    orders: np.ndarray
    lower_bound: np.ndarray


@dataclass(frozen=True, slots=True)
class _Problem:
    """L loads of T steps. Rows are the L x T steps, load by load.

    arrivals, offered: (K, rows) float32. capacity, servers, work: (L,) float32 per replica: requests served in a
    tick, requests in service, requests served within the SLO. price: (L,) replica-steps that a late request costs.
    unit: (L,) J of a replica-step. weight: (L, T). delay, whole: steps of start-up, rounded up and down; ragged: ticks
    between the latter and the start-up's end. low, high, start: (L,). counts: (N,) float64, the replicas considered.
    """

    loads: int
    steps: int
    arrivals: np.ndarray
    offered: np.ndarray
    capacity: np.ndarray
    servers: np.ndarray
    work: np.ndarray
    price: np.ndarray
    unit: np.ndarray
    weight: np.ndarray
    delay: int
    whole: int
    ragged: int
    low: np.ndarray
    high: np.ndarray
    start: np.ndarray
    counts: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def load_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the load that each row belongs to."""
        return rows // self.steps


def plan(
    arrivals: Any,
    capacity_per_replica: Any,
    concurrency: Any,
    slo_wait: Any,
    interval: float,
    startup: float,
    low: Any,
    high: Any,
    start: Any,
    price: Any,
    weight: Any = None,
    needed: Any = None,
) -> Plan:
    """Return the best orders found for L loads, and the bound.

    arrivals: (L, T, K) expected requests of each tick as drawn (modulated rates x tick). capacity_per_replica:
    requests/s. concurrency: requests that a replica serves at once. slo_wait: seconds. interval, startup: seconds,
    the same for all loads. low, high: bounds of the orders. start: replicas ready at the beginning. price: of the
    share of late requests. All but the arrivals and the two durations: a scalar or (L,).
    weight: (L, T) 0 to 1, how much of a step is scored (None: all of it). needed: (L,) needed pod-seconds over the
    scored steps, the denominator of the cost (None: what the arrivals need). Raises ValueError for other shapes.
    """
    problem = _compiled(
        arrivals, capacity_per_replica, concurrency, slo_wait, interval, startup, low, high, start, price, weight, needed
    )  # fmt: skip
    ready, bound = _first(problem)
    ready, score, queue = _replayed(problem, ready)
    best, lowest = ready, score
    for _ in range(PASSES):
        ready, score, queue = _replayed(problem, _next(problem, ready, queue))
        better = score < lowest
        best, lowest = np.where(better[:, None], ready, best), np.where(better, score, lowest)
    return Plan(orders=_orders(problem, best), lower_bound=bound)


def candidates(
    arrivals: Any,
    capacity_per_replica: Any,
    concurrency: Any,
    slo_wait: Any,
    interval: float,
    startup: float,
    low: Any,
    high: Any,
    start: Any,
    price: Any,
    weight: Any = None,
    needed: Any = None,
) -> list[np.ndarray]:
    """Return the orders of each of the 1 + PASSES schedules, (L, T) int32; arguments of `plan`."""
    problem = _compiled(
        arrivals, capacity_per_replica, concurrency, slo_wait, interval, startup, low, high, start, price, weight, needed
    )  # fmt: skip
    ready, _, queue = _replayed(problem, _first(problem)[0])
    found = [_orders(problem, ready)]
    for _ in range(PASSES):
        ready, _, queue = _replayed(problem, _next(problem, ready, queue))
        found.append(_orders(problem, ready))
    return found


def _compiled(
    arrivals: Any,
    capacity_per_replica: Any,
    concurrency: Any,
    slo_wait: Any,
    interval: float,
    startup: float,
    low: Any,
    high: Any,
    start: Any,
    price: Any,
    weight: Any,
    needed: Any,
) -> _Problem:
    come = np.asarray(arrivals, np.float32)
    if come.ndim != 3 or 0 in come.shape:
        raise ValueError(f"arrivals have shape {come.shape}; expected (loads, steps, ticks), none of them 0")
    loads, steps, ticks = come.shape
    tick = interval / ticks
    capacity, servers = column(capacity_per_replica, loads), column(concurrency, loads)
    scored = np.ones((loads, steps)) if weight is None else np.asarray(weight, np.float64)
    if scored.shape != (loads, steps):
        raise ValueError(f"weight has shape {scored.shape}; expected {(loads, steps)}")
    total = (come.sum(axis=2, dtype=np.float64) * scored).sum(axis=1)
    seconds = total / capacity if needed is None else column(needed, loads)
    unit = interval / np.maximum(seconds, 1e-9)
    lowest, highest = np.round(column(low, loads)), np.round(column(high, loads))
    begin = np.minimum(np.round(column(start, loads)), highest)

    flat = np.ascontiguousarray(come.reshape(-1, ticks).T)
    demand = flat / np.repeat(capacity * tick, steps).astype(np.float32)
    first = np.floor(_CERTAIN * demand.mean(axis=0)).astype(np.int64)
    peak = demand.max(axis=0)
    # beyond the peak: until nobody waits, or nobody for long, each to about 1e-8
    nobody = 6.0 * np.sqrt(peak / np.repeat(servers, steps))
    nobody_long = 18.0 / np.maximum(np.repeat(column(slo_wait, loads) * capacity, steps), 1e-9)
    last = np.ceil(peak + np.minimum(nobody, nobody_long)).astype(np.int64) + 1
    bottom = int(min(lowest.min(), begin.min()))
    top = max(int(min(highest.max(), last.max() * 1.25 + 2.0)), int(begin.max()), int(lowest.max()))
    ends = math.ceil(startup / tick - 0.5)
    return _Problem(
        loads=loads,
        steps=steps,
        arrivals=flat,
        offered=_offered(come, servers / capacity, tick),
        capacity=(capacity * tick).astype(np.float32),
        servers=servers.astype(np.float32),
        work=(capacity * column(slo_wait, loads)).astype(np.float32),
        price=column(price, loads) / np.maximum(total, 1e-9) / unit,
        unit=unit,
        weight=scored,
        delay=-(-ends // ticks),
        whole=ends // ticks,
        ragged=ends % ticks,
        low=lowest,
        high=highest,
        start=begin,
        counts=np.arange(bottom, top + 1, dtype=np.float64),
        first=np.clip(first, bottom - 1, top - 1),
        last=np.clip(last, bottom, top),
    )


def _offered(come: np.ndarray, service: np.ndarray, tick: float) -> np.ndarray:
    """Return the load that decides how likely a request waits, (K, L x T), as the world smooths it."""
    loads, steps, ticks = come.shape
    if not (service > _SLOW * tick).any():
        return np.ascontiguousarray(come.reshape(-1, ticks).T)
    memory = np.exp(-tick / service).astype(np.float32)
    carried = ((1.0 - np.exp(-tick / service)) * service / tick).astype(np.float32)
    rows = come.reshape(loads, -1)
    result = np.empty_like(rows)
    level = np.zeros(loads, np.float32)
    for at in range(rows.shape[1]):
        gap = level - rows[:, at]
        result[:, at] = rows[:, at] + gap * carried
        level = rows[:, at] + gap * memory
    return np.ascontiguousarray(result.reshape(-1, ticks).T)


def _pairs(problem: _Problem, last: np.ndarray) -> Any:
    """Yield (rows, counts) of flat pairs, first < count <= last of each row, in chunks that fit the cache."""
    many = np.maximum(last - problem.first, 0)
    ends = np.cumsum(many)
    chunk, rows = 0, np.arange(many.size)
    while chunk < many.size:
        begin = ends[chunk] - many[chunk]
        stop = max(chunk + 1, int(np.searchsorted(ends, begin + _CHUNK, side="right")))
        part = rows[chunk:stop]
        index = np.repeat(part, many[chunk:stop])
        offset = np.arange(index.size) - np.repeat(ends[part] - many[part] - begin, many[part])
        yield index, problem.first[index] + 1 + offset
        chunk = stop


def _table(problem: _Problem, below: np.ndarray) -> np.ndarray:
    """Return late requests (rows, N) float32: `below` (rows,) up to `first`, 0 above it."""
    counts = problem.counts
    return np.where(counts <= problem.first[:, None], below[:, None], np.float32(0.0)).astype(np.float32)


def _first(problem: _Problem) -> tuple[np.ndarray, np.ndarray]:
    """Return ready replicas (L, T) of the schedule with an empty queue at each step, and the bound (L,)."""
    bottom = int(problem.counts[0])
    everyone = problem.arrivals.sum(axis=0)
    empty = _table(problem, everyone)
    ragged = problem.ragged
    at_most = problem.first.astype(np.float32)
    load = problem.load_of(np.arange(everyone.size))
    surely = surely_late(
        problem.arrivals[ragged:],
        problem.offered[ragged:],
        at_most * problem.servers[load],
        at_most * problem.capacity[load],
        at_most * problem.work[load],
    )
    least = _table(problem, surely)
    for rows, counts in _pairs(problem, problem.last):
        zero = np.zeros(rows.size, np.float32)
        late, _ = _served(problem, rows, counts, (zero, zero, zero + 1.0, zero))
        empty[rows, counts - bottom] = late
        share = late / np.maximum(everyone[rows], 1e-30)
        for chosen, rough in ((share > _HOPELESS, True), ((share > _NEGLIGIBLE) & (share <= _HOPELESS), False)):
            r, n = rows[chosen], counts[chosen]
            owner = problem.load_of(r)
            size = n.astype(np.float32)
            options: dict[str, Any] = {"edges": ()} if rough else {}
            least[r, n - bottom] = least_late(
                problem.arrivals[ragged:, r],
                problem.offered[ragged:, r],
                size * problem.servers[owner],
                size * problem.capacity[owner],
                problem.capacity[owner] / problem.servers[owner],
                size * problem.work[owner],
                **options,
            )
    scored = problem.weight.reshape(-1, 1)
    ready, _ = _solved(problem, empty * scored, problem.delay, True)
    _, value = _solved(problem, least * scored, problem.whole, False)
    return ready, value * problem.unit * (1.0 - _SLACK)


def _served(problem: _Problem, rows: np.ndarray, counts: np.ndarray, queue: Queue) -> tuple[np.ndarray, Queue]:
    """Return the late requests of steps with `counts` ready from `queue`, (E,), and the queue after them."""
    load = problem.load_of(rows)
    size = counts.astype(np.float32)
    come = problem.arrivals[:, rows]
    servers = np.repeat((size * problem.servers[load])[None], len(come), axis=0)
    capacity = np.repeat((size * problem.capacity[load])[None], len(come), axis=0)
    ticks = run_ticks(np, *queue[:3], come, problem.offered[:, rows], servers, capacity)
    late = ticks.tail.share_over(np, size * problem.work[load])
    late *= come
    return late.sum(axis=0), (ticks.content, ticks.variance, ticks.ratio, ticks.waiting)


def _resized(queue: Queue, before: np.ndarray, after: np.ndarray) -> Queue:
    """Return the queue without what removed replicas have in service."""
    content, variance, ratio, waiting = queue
    left = np.clip(before - after, 0, None) / np.clip(before, 1, None)
    return content - (content - waiting) * left.astype(np.float32), variance, ratio, waiting


def _solved(problem: _Problem, late: np.ndarray, delay: int, traced: bool) -> tuple[np.ndarray, np.ndarray]:
    """Solve the programme of the module for scored late requests (rows, N).

    Returns ready replicas (L, T) int64, empty unless `traced`, and the value in replica-steps (L,) float64.
    """
    loads, steps, counts = problem.loads, problem.steps, problem.counts
    weight = problem.weight
    lowest = np.minimum(problem.low, problem.start)[:, None]
    barred = np.where((counts >= lowest) & (counts <= problem.high[:, None]), 0.0, np.inf)
    cost = np.empty((steps, loads, counts.size))
    np.multiply(late.reshape(loads, steps, -1).transpose(1, 0, 2), problem.price[:, None], out=cost)
    cost += weight.T[:, :, None] * counts
    cost += barred
    sums = np.concatenate([np.zeros((loads, 1)), np.cumsum(weight, axis=1)], axis=1)
    rise = np.full((steps, loads, 1), _IMPOSSIBLE)
    if delay < steps:
        rise[delay:, :, 0] = (sums[:, delay:steps] - sums[:, : steps - delay]).T

    history = np.empty((steps + 1 if traced else 2, loads, counts.size))
    value = history[0]
    value[:] = np.where(counts == problem.start[:, None], 0.0, np.inf)
    offset = np.zeros(loads)
    best, ramp, up = np.empty_like(value), np.empty_like(value), np.empty_like(value)
    for t in range(steps):
        np.minimum.accumulate(value[:, ::-1], axis=1, out=best[:, ::-1])
        if t >= delay:
            np.multiply(rise[t], counts, out=ramp)
            np.subtract(value, ramp, out=up)
            np.minimum.accumulate(up, axis=1, out=up)
            up += ramp
            np.minimum(best, up, out=best)
        if t % 64 == 0:  # keeps the sums small, so that no digits are lost
            shift = best.min(axis=1)
            offset += shift
            best -= shift[:, None]
        value = history[(t + 1) % len(history)]
        np.add(best, cost[t], out=value)

    ready = np.empty((loads, steps if traced else 0), np.int64)
    at = value.argmin(axis=1)
    for t in range(ready.shape[1] - 1, -1, -1):
        ready[:, t] = at
        before = np.clip(counts[at][:, None] - counts, 0.0, None)
        before *= rise[t]
        before += history[t]
        at = before.argmin(axis=1)
    ready += int(counts[0])
    return ready, offset + value.min(axis=1)


def _orders(problem: _Problem, ready: np.ndarray) -> np.ndarray:
    """Return the least orders with which these replicas are ready, (L, T) int32."""
    orders = ready.copy()
    for ahead in range(1, min(problem.delay, problem.steps - 1) + 1):
        np.maximum(orders[:, :-ahead], ready[:, ahead:], out=orders[:, :-ahead])
    return np.clip(orders, problem.low[:, None], problem.high[:, None]).astype(np.int32)


def _ready(problem: _Problem, orders: np.ndarray) -> np.ndarray:
    """Return what these orders make ready, (L, T) int64."""
    delay, steps = problem.delay, problem.steps
    past = np.repeat(problem.start[:, None].astype(np.int64), delay, axis=1)
    longer = np.concatenate([past, orders.astype(np.int64)], axis=1)
    ready = longer[:, delay:].copy()
    for ago in range(1, delay + 1):
        np.minimum(ready, longer[:, delay - ago : delay - ago + steps], out=ready)
    return ready


def _replayed(problem: _Problem, ready: np.ndarray) -> tuple[np.ndarray, np.ndarray, Queue]:
    """Return what is ready with the orders for `ready`, (L, T), their J (L,), and the queue before each step, (rows,).

    All steps run at once from an empty queue; then those whose queue turns out otherwise run again, until none does.
    """
    orders = _orders(problem, ready)
    ready = _ready(problem, orders)
    count = ready.reshape(-1)
    before = np.concatenate([problem.start[:, None].astype(np.int64), ready[:, :-1]], axis=1).reshape(-1)
    zero = np.zeros(count.size, np.float32)
    queue = (zero, zero.copy(), zero + np.float32(1.0), zero.copy())
    late = zero.copy()
    rows = np.arange(count.size)
    while rows.size:
        start = tuple(part[rows] for part in queue)
        late[rows], after = _served(problem, rows, count[rows], _resized(start, before[rows], count[rows]))
        goes_on = (rows + 1) % problem.steps != 0
        following = rows[goes_on] + 1
        new = [part[goes_on] for part in after]
        moved = np.zeros(following.size, bool)
        for part, value in zip(queue, new, strict=True):
            moved |= np.abs(value - part[following]) > _SAME * (1.0 + np.abs(value))
        rows = following[moved]
        for part, value in zip(queue, new, strict=True):
            part[rows] = value[moved]
    scored = (late.reshape(ready.shape) * problem.weight).sum(axis=1) * problem.price
    score = problem.unit * ((orders * problem.weight).sum(axis=1) + scored)
    return ready, score, queue


def _next(problem: _Problem, ready: np.ndarray, queue: Queue) -> np.ndarray:
    """Return a schedule (L, T) for which each step starts with the queue given and pays for what it leaves behind."""
    bottom, counts = int(problem.counts[0]), problem.counts
    steps, weight = problem.steps, problem.weight.reshape(-1)
    count = ready.reshape(-1)
    before = np.concatenate([problem.start[:, None].astype(np.int64), ready[:, :-1]], axis=1).reshape(-1)
    ends = np.arange(1, count.size + 1) % steps == 0
    follow = np.where(ends, 0.0, np.append(weight[1:], 0.0))
    everyone = problem.arrivals.sum(axis=0)
    worst = everyone * weight + np.append(everyone[1:], 0.0) * follow
    drained = np.ceil(queue[3] / problem.capacity[problem.load_of(np.arange(count.size))])
    last = np.minimum(problem.last + drained.astype(np.int64), int(counts[-1]))
    late = _table(problem, worst.astype(np.float32))
    for rows, size in _pairs(problem, last):
        start = tuple(part[rows] for part in queue)
        now, after = _served(problem, rows, size, _resized(start, before[rows], size))
        nexts = np.where(ends[rows], rows, rows + 1)
        then, _ = _served(problem, nexts, count[nexts], _resized(after, size, count[nexts]))
        late[rows, size - bottom] = now * weight[rows] + then * follow[rows]
    edge = late[np.arange(count.size), last - bottom]
    late = np.where(counts > last[:, None], edge[:, None], late)
    return _solved(problem, late, problem.delay, True)[0]
