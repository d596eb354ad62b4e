"""Schedules for waits that are short against a step: the programme with tables of late requests.

The first table takes the queue empty at the start of each step. The next ones start each step with the queue that the
previous schedule leaves there, and add what the step's backlog does to the next one. Each schedule is replayed in full.

Where requests may wait for a good part of a step this goes wrong: a step from an empty queue then has no late requests
with too few replicas, and their backlog grows (see `backlog` for those).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from rlscaler_sim.clairvoyant.late_bound import least_late, surely_late
from rlscaler_sim.clairvoyant.problem import Problem, Queue, pairs, replayed, scored, served

PASSES = 2
"""Schedules beside the first; further ones alternate between two that differ by 0.01 % in J."""
_HOPELESS = 0.3
"""Share of late requests above which a rough bound does."""
_NEGLIGIBLE = 1e-7
"""Share of late requests below which they count as none in the bound."""


def schedules(problem: Problem, empty: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield orders (L, T) int32 and their J (L,) of one schedule after the other. empty: of `empty_table`."""
    first = _scored(problem, empty)
    # where start-up ends within a step, orders may as well count on the next one
    for planned in problem.programmes:
        table = first
        for left in range(PASSES, -1, -1):
            orders = planned.orders(planned.best(table))
            ready = problem.programme.ready(orders)
            late, queue = replayed(problem, ready)
            yield orders, scored(problem, orders, late)
            if left:
                table = _next_table(problem, ready, queue)


def _table(problem: Problem, below: np.ndarray) -> np.ndarray:
    """Return late requests (rows, N) float32: `below` (rows,) up to `first`, 0 above it."""
    counts = problem.programme.counts
    return np.where(counts <= problem.first[:, None], below[:, None], np.float32(0.0)).astype(np.float32)


def empty_table(problem: Problem) -> np.ndarray:
    """Return late requests from an empty queue, (rows, N) float32, scored or not."""
    bottom = int(problem.programme.counts[0])
    empty = _table(problem, problem.arrivals.sum(axis=0))
    for rows, counts in pairs(problem, problem.last):
        empty[rows, counts - bottom] = _from_empty(problem, rows, counts)
    return empty


def least_table(problem: Problem, empty: np.ndarray | None = None) -> np.ndarray:
    """Return the scored late requests that there are at least (see `late_bound`), (rows, N) float32.

    empty: of `empty_table`, where it is there already.
    """
    bottom = int(problem.programme.counts[0])
    everyone = problem.arrivals.sum(axis=0)
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
    for rows, counts in pairs(problem, problem.last):
        late = _from_empty(problem, rows, counts) if empty is None else empty[rows, counts - bottom]
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
    return _scored(problem, least)


def _from_empty(problem: Problem, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    zero = np.zeros(rows.size, np.float32)
    return served(problem, rows, counts, counts, (zero, zero, zero + np.float32(1.0), zero))[0]


def _scored(problem: Problem, table: np.ndarray) -> np.ndarray:
    found: np.ndarray = table * problem.programme.weight.reshape(-1, 1).astype(np.float32)
    return found


def _next_table(problem: Problem, ready: np.ndarray, queue: Queue) -> np.ndarray:
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
    for rows, size in pairs(problem, last):
        start = (queue[0][rows], queue[1][rows], queue[2][rows], queue[3][rows])
        now, after = served(problem, rows, size, before[rows], start)
        nexts = np.where(ends[rows], rows, rows + 1)
        then, _ = served(problem, nexts, count[nexts], size, after)
        late[rows, size - bottom] = now * weight[rows] + then * follow[rows]
    edge = late[np.arange(count.size), last - bottom]
    return np.where(counts > last[:, None], edge[:, None], late)
