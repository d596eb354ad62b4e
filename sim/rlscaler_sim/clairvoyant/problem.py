"""What a clairvoyant plans for, in the units of its programmes, and the replay of a plan in the world's queue."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlscaler.arrays import column
from rlscaler_sim.clairvoyant.programme import Programme
from rlscaler_sim.queueing import run_ticks

_SLOW = 0.1
"""As in the world: service times above this share of a tick make the offered load lag behind."""
_CERTAIN = 0.75
"""With this share of the mean demand and less, practically every request of a step is late."""
_CHUNK = 8192
_SAME = 1e-4
"""Relative difference below which a queue counts as unchanged."""
_ROUNDS = 24
"""Rounds in which all steps run at once, before the rest is taken step by step."""
_TRICKLE = np.float32(1e-6)
"""Requests of a tick at least: without servers the queue of no requests is undefined."""

Queue = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Content, variance, ratio (see `run_ticks`) and requests waiting, each (E,) float32."""


@dataclass(frozen=True, slots=True)
class Question:
    """L loads that are known to the end, and what may be ordered for them.

    arrivals: (L, T, K) expected requests of each tick as drawn (modulated rates x tick). capacity_per_replica:
    requests/s. concurrency: requests that a replica serves at once. slo_wait: seconds. interval, startup: seconds,
    the same for all loads. low, high: bounds of the orders. start: replicas ready at the beginning. price: of the
    share of late requests. All but the arrivals and the two durations: a scalar or (L,).
    weight: (L, T) 0 to 1, how much of a step is scored (None: all of it). needed: (L,) needed pod-seconds over the
    scored steps, the denominator of the cost (None: what the arrivals need).
    """

    arrivals: Any
    capacity_per_replica: Any
    concurrency: Any
    slo_wait: Any
    interval: float
    startup: float
    low: Any
    high: Any
    start: Any
    price: Any
    weight: Any = None
    needed: Any = None


@dataclass(frozen=True, slots=True)
class Problem:
    """L loads of T steps. Rows are the L x T steps, load by load.

    arrivals, offered: (K, rows) float32. capacity, servers, work: (L,) float32 per replica: requests served in a
    tick, requests in service, requests served within the SLO. unit: (L,) J of a replica-step. start: (L,) replicas.
    least, most: (L,) replicas that are worth a thought.
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
    least: np.ndarray
    most: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @property
    def patience(self) -> np.ndarray:
        """Steps that a request may wait, (L,) float64."""
        return np.asarray(self.work, np.float64) / (np.asarray(self.capacity, np.float64) * len(self.arrivals))

    @property
    def programmes(self) -> tuple[Programme, ...]:
        """The programmes to plan with: where start-up ends within a step, also one that counts on the next step."""
        later = replace(self.programme, delay=self.programme.delay + 1)
        return (self.programme, later) if self.ragged else (self.programme,)

    def load_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the load that each row belongs to."""
        return rows // self.steps

    def only(self, loads: np.ndarray) -> "Problem":
        """Return the problem of some of the loads (indices), as if there were no others."""
        rows = (loads[:, None] * self.steps + np.arange(self.steps)).reshape(-1)
        names = ("capacity", "servers", "work", "unit", "start", "least", "most")
        mine = {name: getattr(self, name)[loads] for name in names}
        by_row = {name: getattr(self, name)[..., rows] for name in ("arrivals", "offered", "first", "last")}
        bottom, top = int(mine["least"].min()), int(mine["most"].max())
        by_row["first"] = np.clip(by_row["first"], bottom - 1, top - 1)
        by_row["last"] = np.clip(by_row["last"], bottom, top)
        counts = np.arange(bottom, top + 1, dtype=np.float64)
        return replace(self, loads=len(loads), programme=self.programme.only(loads, counts), **mine, **by_row)


def compiled(asked: Question) -> Problem:
    """Return the problem. Raises ValueError where shapes do not fit, and for bounds without room."""
    come = np.asarray(asked.arrivals, np.float32)
    if come.ndim != 3 or 0 in come.shape:
        raise ValueError(f"arrivals have shape {come.shape}; expected (loads, steps, ticks), none of them 0")
    loads, steps, ticks = come.shape
    tick = asked.interval / ticks
    capacity, servers = column(asked.capacity_per_replica, loads), column(asked.concurrency, loads)
    scored = np.ones((loads, steps)) if asked.weight is None else np.asarray(asked.weight, np.float64)
    if scored.shape != (loads, steps):
        raise ValueError(f"weight has shape {scored.shape}; expected {(loads, steps)}")
    total = (come.sum(axis=2, dtype=np.float64) * scored).sum(axis=1)
    seconds = total / capacity if asked.needed is None else column(asked.needed, loads)
    unit = asked.interval / np.maximum(seconds, 1e-9)
    lowest, highest = np.round(column(asked.low, loads)), np.round(column(asked.high, loads))
    if (lowest > highest).any() or (lowest < 0.0).any():
        raise ValueError(f"low is {asked.low} and high is {asked.high}; expected 0 <= low <= high")
    begin = np.minimum(np.round(column(asked.start, loads)), highest)

    flat = np.ascontiguousarray(come.reshape(-1, ticks).T)
    demand = flat / np.repeat(capacity * tick, steps).astype(np.float32)
    first = np.floor(_CERTAIN * demand.mean(axis=0)).astype(np.int64)
    peak = demand.max(axis=0)
    # beyond the peak: until nobody waits, or nobody for long, each to about 1e-8
    nobody = 6.0 * np.sqrt(peak / np.repeat(servers, steps))
    nobody_long = 18.0 / np.maximum(np.repeat(column(asked.slo_wait, loads) * capacity, steps), 1e-9)
    last = np.ceil(peak + np.minimum(nobody, nobody_long)).astype(np.int64) + 1
    least = np.minimum(lowest, begin).astype(np.int64)
    useful = np.minimum(highest, last.reshape(loads, steps).max(axis=1) * 1.25 + 2.0)
    most = np.maximum.reduce([useful, begin, lowest]).astype(np.int64)
    bottom, top = int(least.min()), int(most.max())
    ends = math.ceil(asked.startup / tick - 0.5)
    return Problem(
        loads=loads,
        steps=steps,
        arrivals=flat,
        offered=_offered(come, servers / capacity, tick),
        capacity=(capacity * tick).astype(np.float32),
        servers=servers.astype(np.float32),
        work=(capacity * column(asked.slo_wait, loads)).astype(np.float32),
        unit=unit,
        ragged=ends % ticks,
        start=begin.astype(np.int64),
        programme=Programme(
            delay=ends // ticks,
            weight=scored,
            price=column(asked.price, loads) / np.maximum(total, 1e-9) / unit,
            counts=np.arange(bottom, top + 1, dtype=np.float64),
            low=lowest,
            high=highest,
            start=begin,
        ),
        least=least,
        most=most,
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


def pairs(problem: Problem, last: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
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


def served(
    problem: Problem, rows: np.ndarray, counts: np.ndarray, before: np.ndarray, queue: Queue
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


def replayed(problem: Problem, ready: np.ndarray, likely: Queue | None = None) -> tuple[np.ndarray, Queue]:
    """Return the late requests (L, T) with these replicas ready, (L, T), and the queue before each step, (rows,).

    likely: the queue before each step, as far as it is known; empty where None. All steps run at once from it; then
    those whose queue turns out otherwise run again. Where a backlog goes on and on, that is no faster than the steps
    in turn, so after some rounds these are taken.
    """
    count = ready.reshape(-1)
    before = np.concatenate([problem.start[:, None], ready[:, :-1]], axis=1).reshape(-1)
    zero = np.zeros(count.size, np.float32)
    queue = (zero, zero.copy(), zero + np.float32(1.0), zero.copy()) if likely is None else likely
    late = zero.copy()

    def run(rows: np.ndarray) -> np.ndarray:
        """Run these steps, and return the ones after them whose queue that changes."""
        start = (queue[0][rows], queue[1][rows], queue[2][rows], queue[3][rows])
        late[rows], after = served(problem, rows, count[rows], before[rows], start)
        goes_on = (rows + 1) % problem.steps != 0
        following = rows[goes_on] + 1
        new = [part[goes_on] for part in after]
        moved = np.zeros(following.size, bool)
        for part, value in zip(queue, new, strict=True):
            moved |= np.abs(value - part[following]) > _SAME * (1.0 + np.abs(value))
        rows = following[moved]
        for part, value in zip(queue, new, strict=True):
            part[rows] = value[moved]
        return rows

    rows = np.arange(count.size)
    for _ in range(_ROUNDS):
        rows = run(rows)
        if not rows.size:
            return late.reshape(ready.shape), queue
    waiting = np.zeros(count.size, bool)
    waiting[rows] = True
    for step in range(problem.steps):
        rows = np.flatnonzero(waiting[step :: problem.steps]) * problem.steps + step
        if rows.size:
            waiting[run(rows)] = True
    return late.reshape(ready.shape), queue


def scored(problem: Problem, orders: np.ndarray, late: np.ndarray) -> np.ndarray:
    """Return J (L,) float64 of these orders (L, T), with which these requests (L, T) are late."""
    programme = problem.programme
    total: np.ndarray = (programme.weight * (orders + programme.price[:, None] * late)).sum(axis=1)
    total *= problem.unit
    return total
