"""The clairvoyant optimum: the best orders for a load that is known to the end, and a bound that none can beat.

Known are the rates that the ticks really have; Poisson's scatter within a tick stays unknown. The score is
J = billed / needed + price x late / arrivals over the scored steps. Every start-up takes the same time.

With g_t(n) at most the late requests of step t with n ready, whatever the queue holds (`late_bound`), the programme of
`programme` has a value that bounds J from below: it charges ready replicas no more than their orders are billed.

The same programme with other g gives schedules. The first g takes the queue empty at the start of each step. The next
ones start each step with the queue that the previous schedule leaves there, and add what the step's backlog does to the
next one. Each is replayed in full; the best is the plan.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlscaler.arrays import column
from rlscaler_sim.late_bound import least_late, surely_late
from rlscaler_sim.programme import Programme
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
_CHUNK = 8192
_SAME = 1e-4
"""Relative difference below which a queue counts as unchanged."""
_SLACK = 1e-6
"""Takes rounding off the bound."""
_TRICKLE = np.float32(1e-6)
"""Requests of a tick at least: without servers the queue of no requests is undefined."""

Queue = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Content, variance, ratio (see `run_ticks`) and requests waiting, each (E,) float32."""


@dataclass(frozen=True, slots=True)
class Plan:
    """orders: (L, T) int32 replicas to ask for. lower_bound: (L,) float64, J of no orders is below it.

    candidates: the schedules that `orders` are chosen from, each (L, T) int32. scores: (candidates, L) their J.
    """

    orders: np.ndarray
    lower_bound: np.ndarray
    candidates: tuple[np.ndarray, ...]
    scores: np.ndarray


@dataclass(frozen=True, slots=True)
class _Problem:
    """L loads of T steps. Rows are the L x T steps, load by load.

    arrivals, offered: (K, rows) float32. capacity, servers, work: (L,) float32 per replica: requests served in a
    tick, requests in service, requests served within the SLO. unit: (L,) J of a replica-step. start: (L,) replicas.
    ragged: ticks from the programme's start-up to the true one. first, last: (rows,) with the former and less, nearly
    all requests are late; above the latter, none.
    """

    loads: int
    steps: int
    arrivals: np.ndarray
    offered: np.ndarray
    capacity: np.ndarray
    servers: np.ndarray
    work: np.ndarray
    unit: np.ndarray
    ragged: int
    start: np.ndarray
    programme: Programme
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
    scored steps, the denominator of the cost (None: what the arrivals need).

    Takes O(L T N) time and memory, N about 1.25 times the largest demand in replicas. Raises ValueError for other
    shapes, and for bounds without room.
    """
    problem = _compiled(
        arrivals, capacity_per_replica, concurrency, slo_wait, interval, startup, low, high, start, price,
        weight, needed,
    )  # fmt: skip
    empty, least = _first_tables(problem)
    candidates, scores = zip(*_schedules(problem, empty), strict=True)
    best = np.argmin(np.stack(scores), axis=0)
    return Plan(
        orders=np.stack(candidates)[best, np.arange(problem.loads)],
        lower_bound=problem.programme.value(least) * problem.unit * (1.0 - _SLACK),
        candidates=candidates,
        scores=np.stack(scores),
    )


def _schedules(problem: _Problem, empty: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield orders (L, T) int32 and their J (L,) of one schedule after the other. empty: see `_first_tables`."""
    programme = problem.programme
    # where start-up ends within a step, orders may as well count on the next one
    for planned in [programme, replace(programme, delay=programme.delay + 1)][: 2 if problem.ragged else 1]:
        table = empty
        for left in range(PASSES, -1, -1):
            orders = planned.orders(planned.best(table))
            ready = programme.ready(orders)
            late, queue = _replayed(problem, ready)
            scored = (programme.weight * (orders + programme.price[:, None] * late)).sum(axis=1)
            yield orders, problem.unit * scored
            if left:
                table = _next_table(problem, ready, queue)


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
    if (lowest > highest).any() or (lowest < 0.0).any():
        raise ValueError(f"low is {low} and high is {high}; expected 0 <= low <= high")
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
        unit=unit,
        ragged=ends % ticks,
        start=begin.astype(np.int64),
        programme=Programme(
            delay=ends // ticks,
            weight=scored,
            price=column(price, loads) / np.maximum(total, 1e-9) / unit,
            counts=np.arange(bottom, top + 1, dtype=np.float64),
            low=lowest,
            high=highest,
            start=begin,
        ),
        first=np.clip(first, bottom - 1, top - 1),
        last=np.clip(last, bottom, top),
    )


def _offered(come: np.ndarray, service: np.ndarray, tick: float) -> np.ndarray:
    """Return the load that decides how likely a request waits, (K, L x T), as the world smooths it."""
    loads, _, ticks = come.shape
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


def _pairs(problem: _Problem, last: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
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
    counts = problem.programme.counts
    return np.where(counts <= problem.first[:, None], below[:, None], np.float32(0.0)).astype(np.float32)


def _first_tables(problem: _Problem) -> tuple[np.ndarray, np.ndarray]:
    """Return two tables of scored late requests, (rows, N): from an empty queue, and at least (see `late_bound`)."""
    bottom = int(problem.programme.counts[0])
    everyone = problem.arrivals.sum(axis=0)
    empty = _table(problem, everyone)
    ragged = problem.ragged
    at_most = np.maximum(problem.first, 0).astype(np.float32)
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
        late, _ = _served(problem, rows, counts, counts, (zero, zero, zero + np.float32(1.0), zero))
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
    scored = problem.programme.weight.reshape(-1, 1).astype(np.float32)
    return empty * scored, least * scored


def _served(
    problem: _Problem, rows: np.ndarray, counts: np.ndarray, before: np.ndarray, queue: Queue
) -> tuple[np.ndarray, Queue]:
    """Return the late requests of steps with `counts` ready, (E,), and the queue after them.

    queue: at the end of the step before, which had `before` ready. Removed replicas take along what they serve.
    """
    load = problem.load_of(rows)
    come = np.maximum(problem.arrivals[:, rows], _TRICKLE)
    size = np.repeat(counts[None].astype(np.float32), len(come), axis=0)
    size[: problem.ragged] = np.minimum(size[: problem.ragged], before.astype(np.float32))
    content, variance, ratio, waiting = queue
    left = np.clip(before - counts, 0, None) / np.clip(before, 1, None)
    content = content - (content - waiting) * left.astype(np.float32)
    ticks = run_ticks(
        np, content, variance, ratio, come, problem.offered[:, rows], size * problem.servers[load],
        size * problem.capacity[load],
    )  # fmt: skip
    late = ticks.tail.share_over(np, size * problem.work[load])
    late *= come
    return late.sum(axis=0), (ticks.content, ticks.variance, ticks.ratio, ticks.waiting)


def _replayed(problem: _Problem, ready: np.ndarray) -> tuple[np.ndarray, Queue]:
    """Return the late requests (L, T) with these replicas ready, (L, T), and the queue before each step, (rows,).

    All steps run at once from an empty queue; then those whose queue turns out otherwise run again, until none does.
    """
    count = ready.reshape(-1)
    before = np.concatenate([problem.start[:, None], ready[:, :-1]], axis=1).reshape(-1)
    zero = np.zeros(count.size, np.float32)
    queue = (zero, zero.copy(), zero + np.float32(1.0), zero.copy())
    late = zero.copy()
    rows = np.arange(count.size)
    while rows.size:
        start = (queue[0][rows], queue[1][rows], queue[2][rows], queue[3][rows])
        late[rows], after = _served(problem, rows, count[rows], before[rows], start)
        goes_on = (rows + 1) % problem.steps != 0
        following = rows[goes_on] + 1
        new = [part[goes_on] for part in after]
        moved = np.zeros(following.size, bool)
        for part, value in zip(queue, new, strict=True):
            moved |= np.abs(value - part[following]) > _SAME * (1.0 + np.abs(value))
        rows = following[moved]
        for part, value in zip(queue, new, strict=True):
            part[rows] = value[moved]
    return late.reshape(ready.shape), queue


def _next_table(problem: _Problem, ready: np.ndarray, queue: Queue) -> np.ndarray:
    """Return scored late requests (rows, N) of each step and the next, if only that step had N ready.

    ready: (L, T) of the schedule. queue: (rows,) before each step with it.
    """
    bottom, counts = int(problem.programme.counts[0]), problem.programme.counts
    steps, weight = problem.steps, problem.programme.weight.reshape(-1)
    count = ready.reshape(-1)
    before = np.concatenate([problem.start[:, None], ready[:, :-1]], axis=1).reshape(-1)
    ends = np.arange(1, count.size + 1) % steps == 0
    follow = np.where(ends, 0.0, np.append(weight[1:], 0.0))
    everyone = problem.arrivals.sum(axis=0)
    worst = everyone * weight + np.append(everyone[1:], 0.0) * follow
    drained = np.ceil(queue[3] / problem.capacity[problem.load_of(np.arange(count.size))])
    last = np.minimum(problem.last + drained.astype(np.int64), int(counts[-1]))
    late = _table(problem, worst.astype(np.float32))
    for rows, size in _pairs(problem, last):
        start = (queue[0][rows], queue[1][rows], queue[2][rows], queue[3][rows])
        now, after = _served(problem, rows, size, before[rows], start)
        nexts = np.where(ends[rows], rows, rows + 1)
        then, _ = _served(problem, nexts, count[nexts], size, after)
        late[rows, size - bottom] = now * weight[rows] + then * follow[rows]
    edge = late[np.arange(count.size), last - bottom]
    return np.where(counts > last[:, None], edge[:, None], late)
