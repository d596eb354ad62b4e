"""Schedules over replicas and backlog together, for objectives under which requests may wait.

A step's late requests depend on what the steps before left behind, so the programme runs over two quantities at once:

    V_t(m, q) = min_n  w_t n + B_t (n - m)^+ + price late_t(n, q) + V_{t+1}(n, q'_t(n, q)),

the least cost from step t on, with m ready in the step before, and q waiting. w, B and the price are those of
`programme`. It is found backwards in time on a grid of q that is fine near 0, with the mean behaviour of `queueing` in
a few sub-steps and a variance that is a fixed share of the stationary one, then followed forwards in the world's own
queue, tick by tick: in each step the n is taken that is best for the queue as it really is. So the coarseness of V
costs little, and does not add up. No share is right for every wait; some are tried (SPREADS), all in one sweep.

In the sweep the units are a replica's ticks of work, so that loads of any capacity share one form.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rlscaler_sim.clairvoyant.problem import Problem, Queue, replayed, scored, served
from rlscaler_sim.clairvoyant.programme import Programme
from rlscaler_sim.queueing import inverse_wait_probability

SPREADS, FRESH = (0.7, 1.0), (0.1, 0.3)
"""Standard deviation of the number waiting, over that of the stationary queue; FRESH too where the load is so short
that no backlog gets old: its variance takes some (number waiting)^2 / requests that come and go."""
LEVELS = 40
"""Points of the grid of waiting requests."""
COUNTS = 128
"""Points of the grid of replicas at most."""
_KEPT = 2.5e8
"""Bytes that V may take; a longer load is planned in stretches."""
_AHEAD = 240
"""Steps beyond the end of a stretch, at least, that its plan looks ahead."""
_BLOCK = 256
"""Steps for which waiting is told at once."""
_FARTHEST = 50.0
"""Exponent at which the share of late requests is cut off, as in `queueing`."""
_OUT_OF_BOUNDS = 1e9
"""Replica-steps that a count outside of the bounds costs."""


def schedules(problem: Problem) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield orders (L, T) int32 and their J (L,), one schedule after the other.

    Memory is that of few loads; with many, the stretches that are planned at once get short, and planning slower.
    """
    sweep = _Sweep.of(problem)
    for planned, ready, queue in zip(sweep.programmes, *_followed(problem, sweep), strict=True):
        orders = planned.orders(ready)
        late, _ = replayed(problem, problem.programme.ready(orders), queue)
        yield orders, scored(problem, orders, late)


@dataclass(frozen=True, slots=True)
class _Sweep:
    """P plans for L loads over N counts and Q levels of what waits.

    programmes: P of them (they differ in delay). spread: (P, 1, 1, 1). counts: (N,) int64. levels: (L, Q) waiting.
    fineness, scale: (L, 1, 1), level number of q = fineness x log(1 + q / scale). parts: ticks after which each
    sub-step ends, from 0. patience, service, price: (L, 1, 1): ticks that a request may wait, and is served; and
    replica-steps that a late unit of work costs. rises: (T, P, L) B, see `programme`. All but the counts float32.
    """

    programmes: tuple[Programme, ...]
    spread: np.ndarray
    counts: np.ndarray
    levels: np.ndarray
    fineness: np.ndarray
    scale: np.ndarray
    parts: tuple[int, ...]
    patience: np.ndarray
    service: np.ndarray
    price: np.ndarray
    rises: np.ndarray

    @property
    def stride(self) -> int:
        """The widest gap between two counts."""
        return int(np.diff(self.counts).max(initial=1))

    @classmethod
    def of(cls, problem: Problem) -> "_Sweep":
        ticks, counts = len(problem.arrivals), problem.programme.counts
        if counts.size > COUNTS:
            counts = np.unique(np.round(np.linspace(counts[0], counts[-1], COUNTS)))
        steps = problem.patience
        come = problem.arrivals.reshape(ticks, problem.loads, -1).sum(axis=0, dtype=np.float64)
        demand = come / problem.capacity[:, None]
        top = 1.5 * np.maximum(steps * counts[-1] * ticks, _unavoidable(demand, problem.programme.high * ticks))
        top = np.maximum(top, ticks * counts[-1] * 0.5)
        scale = np.full(problem.loads, 0.1 * ticks)
        numbers = np.arange(LEVELS)
        fineness = (LEVELS - 1) / np.log1p(top / scale)
        parts = int(np.clip(np.ceil(1.0 / max(float(steps.min()), 1e-9)), 2, 5))
        edges = np.unique(np.round(np.linspace(0, ticks, parts + 1)).astype(int))
        # requests that come and go while a backlog takes its shape, for one of a quarter of what may wait
        aging = (steps * ticks) ** 2 * problem.capacity * np.maximum(problem.programme.start, 1.0) / 96.0
        spreads = SPREADS + (FRESH if problem.steps * ticks < 4.0 * aging.max() else ())
        plans = [(spread, programme) for programme in problem.programmes for spread in spreads]

        def single(values: np.ndarray) -> np.ndarray:
            return np.asarray(values, np.float32)[:, None, None]

        return cls(
            programmes=tuple(programme for _, programme in plans),
            spread=np.array([spread for spread, _ in plans], np.float32)[:, None, None, None],
            counts=counts.astype(np.int64),
            levels=(scale[:, None] * np.expm1(numbers / fineness[:, None])).astype(np.float32),
            fineness=single(fineness),
            scale=single(scale),
            parts=tuple(int(edge) for edge in edges),
            patience=single(steps * ticks),
            service=single(problem.servers / problem.capacity),
            price=single(problem.programme.price * problem.capacity),
            rises=np.stack([p.rise()[:, :, 0] for _, p in plans], axis=1).astype(np.float32),
        )

    def value_at(self, values: np.ndarray, counts: np.ndarray, waiting: np.ndarray) -> np.ndarray:
        """Return V of one step, (P, L, N, Q), at counts and waiting (P, L, M), between the points of the grids."""
        low = np.clip(np.searchsorted(self.counts, counts, side="right") - 1, 0, max(self.counts.size - 2, 0))
        high = np.minimum(low + 1, self.counts.size - 1)
        width = np.maximum(self.counts[high] - self.counts[low], 1)
        along = (np.clip(counts, self.counts[0], self.counts[-1]) - self.counts[low]) / width
        at, part = self.level_at(waiting[..., None])
        at, part = at[..., 0], part[..., 0]
        plan, load = np.ogrid[: values.shape[0], : values.shape[1]]
        plan, load = plan[..., None], load[..., None]
        found = 0.0
        for row, share in ((low, 1.0 - along), (high, along)):
            there = values[plan, load, row, at]
            found = found + share * (there + (values[plan, load, row, at + 1] - there) * part)
        result: np.ndarray = np.asarray(found)
        return result

    def value_on_grid(self, values: np.ndarray, waiting: np.ndarray) -> np.ndarray:
        """Return V of one step, (P, L, N, Q), at all counts of the grid and waiting (P, L, N), float64."""
        at, part = self.level_at(waiting[..., None])
        at += np.arange(waiting.size).reshape(at.shape) * LEVELS
        flat = values.reshape(-1)
        low, high = flat.take(at[..., 0]), flat.take(at[..., 0] + 1)
        return np.asarray(low + (high - low) * part[..., 0], np.float64)

    def level_at(self, waiting: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the level at or below `waiting`, (..., L, N, Q), and how far it is to the next one, 0 to 1.

        Beyond the last level it is farther, so that V goes on as a straight line: were it flat, who has given up would
        lose nothing by what comes then.
        """
        number = waiting / self.scale
        np.log1p(number, out=number)
        number *= self.fineness
        np.minimum(number, np.float32(LEVELS - 1.001), out=number)
        at = number.astype(np.intp)
        number -= at
        top, width = self.levels[:, -1, None, None], self.levels[:, -1, None, None] - self.levels[:, -2, None, None]
        number += np.maximum(waiting - top, 0.0) / width
        return at, number


def _unavoidable(demand: np.ndarray, served: np.ndarray) -> np.ndarray:
    """Return the largest backlog (L,) of a demand (L, T) of which at most `served` (L,) is done in a step."""
    total = np.cumsum(demand - served[:, None], axis=1)
    lowest = np.minimum(np.minimum.accumulate(total, axis=1), 0.0)
    largest: np.ndarray = (total - lowest).max(axis=1)
    return largest


def _followed(problem: Problem, sweep: _Sweep) -> tuple[np.ndarray, list[Queue]]:
    """Return what each plan makes ready, (P, L, T) int64, and the queue before each step for each plan."""
    plans, loads, steps = len(sweep.programmes), problem.loads, problem.steps
    shape = (plans, loads, sweep.counts.size, LEVELS)
    kept = max(64, int(_KEPT / (4 * np.prod(shape))))
    longest = max(p.delay for p in sweep.programmes) + int(np.ceil(problem.patience.max()))
    ahead = max(_AHEAD, 4 * longest)
    if kept < 2 * ahead:
        kept = 2 * ahead
    ready = np.empty((plans, loads, steps), np.int64)
    before = np.repeat(problem.start[None], plans, axis=0)
    zero = np.zeros((plans, loads), np.float32)
    queue: Queue = (zero, zero.copy(), zero + np.float32(1.0), zero.copy())
    seen = [np.empty((plans, loads, steps), np.float32) for _ in queue]
    for begin in range(0, steps, kept):
        end = min(begin + kept, steps)
        values = _values(problem, sweep, begin, end, min(end + ahead, steps))
        for t in range(begin, end):
            for part, now in zip(seen, queue, strict=True):
                part[:, :, t] = now
            before, queue = _next(problem, sweep, t, before, queue, values[t + 1 - begin])
            ready[:, :, t] = before
    queues = [(parts[0], parts[1], parts[2], parts[3]) for parts in zip(*([part[p].reshape(-1) for p in range(plans)]
              for part in seen), strict=True)]  # fmt: skip
    return ready, queues


def _values(problem: Problem, sweep: _Sweep, begin: int, end: int, last: int) -> np.ndarray:
    """Return V, (end - begin + 1, P, L, N, Q) float32, at the steps from `begin` to `end`, with no cost from `last` on.

    V is relative: what all states of a load have in common has been taken off at some steps.
    """
    plans, loads, steps = len(sweep.programmes), problem.loads, problem.steps
    size, ticks = sweep.counts.size, len(problem.arrivals)
    scale = problem.capacity[None, :, None]
    come = problem.arrivals.reshape(ticks, loads, steps) / scale
    offered = problem.offered.reshape(ticks, loads, steps) / scale
    starts, ends = sweep.parts[:-1], sweep.parts[1:]
    lengths = np.diff(sweep.parts)
    come = np.stack([come[a:b].sum(axis=0) for a, b in zip(starts, ends, strict=True)])
    offered = np.stack([offered[a:b].mean(axis=0) for a, b in zip(starts, ends, strict=True)])

    count = sweep.counts.astype(np.float32)[:, None]
    hands = sweep.service * count
    work = sweep.patience * count
    waits = sweep.levels[:, None, :]
    narrow = 1.0 - sweep.spread
    weight = problem.programme.weight.astype(np.float32)
    allowed = np.where(problem.programme.allowed, 0.0, _OUT_OF_BOUNDS)
    barred = allowed[:, sweep.counts - int(problem.programme.counts[0])].astype(np.float32)[:, :, None]
    delays = np.array([p.delay for p in sweep.programmes])
    row = np.arange(loads * size).reshape(loads, size, 1) * LEVELS

    result = np.zeros((end - begin + 1, plans, loads, size, LEVELS), np.float32)
    value = np.zeros(result.shape[1:], np.float32)
    chances = busy = np.zeros(0, np.float32)
    first = last
    for t in range(last - 1, begin - 1, -1):
        if t < first:
            first = max(begin, first - _BLOCK)
            chances, busy = _waiting_chances(problem, sweep, offered[:, :, first : min(first + _BLOCK, last)])
        chance_of, busy_of = chances[t - first], busy[t - first]
        content = waits + hands * busy_of
        late = np.zeros(1, np.float32)
        waiting = waits
        for part, length in enumerate(lengths):
            chance = chance_of[part]
            arriving = come[part, :, t][:, None, None]
            half = content + (arriving - count * np.float32(length) - hands - chance)
            half *= 0.5
            product = content + arriving
            product *= chance
            magnitude = np.abs(half)
            root = half * half
            root += product
            np.sqrt(root, out=root)
            root += magnitude
            half += magnitude
            product /= root
            half += product
            waiting = half
            found = waiting + chance
            if part < len(lengths) - 1:
                content = waiting / found
                content *= hands
                content += waiting
            share = work - narrow * found
            share /= sweep.spread * found
            np.clip(share, 0.0, _FARTHEST, out=share)
            np.negative(share, out=share)
            np.exp(share, out=share)
            share *= arriving
            late = late + share
        late *= (sweep.price[:, 0, 0] * weight[:, t])[:, None, None]
        late += barred + weight[:, t][:, None, None] * count
        at, beyond = sweep.level_at(waiting)
        at += row
        for plan in range(plans):
            flat = value[plan].reshape(-1)
            low = flat.take(at)
            high = flat.take(at + 1)
            high -= low
            high *= beyond
            low += high
            late[plan] += low
        value = np.minimum.accumulate(late, axis=2)
        for plan in np.flatnonzero(t >= delays).tolist():
            ramp = sweep.rises[t, plan][:, None, None] * count
            up = late[plan] + ramp
            np.minimum.accumulate(up[:, ::-1], axis=1, out=up[:, ::-1])
            up -= ramp
            np.minimum(value[plan], up, out=value[plan])
        if t % 8 == 0:
            value -= value.min(axis=(2, 3), keepdims=True)
        if t < end + 1:
            result[t - begin] = value
    return result


def _waiting_chances(problem: Problem, sweep: _Sweep, offered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the content that Erlang's probability of waiting stands for (see `run_ticks`), (B, parts, L, N, 1), and
    the share of the servers that are busy at first, (B, L, N, 1). offered: (parts, L, B), work of a tick.
    """
    count = sweep.counts.astype(np.float32)
    load = np.moveaxis(offered, 2, 0)[..., None]
    utilization = np.clip(load / np.maximum(count, np.float32(1e-9)), 1e-6, 1.0).astype(np.float32)
    servers = np.broadcast_to(problem.servers[:, None] * count, utilization.shape)
    chance = 1.0 / inverse_wait_probability(np, servers, utilization)
    chance /= problem.capacity[:, None]
    return chance[..., None], utilization[:, 0, :, :, None]


def _next(
    problem: Problem, sweep: _Sweep, step: int, before: np.ndarray, queue: Queue, values: np.ndarray
) -> tuple[np.ndarray, Queue]:
    """Return the best replicas (P, L) in this step, and the queue after it, (P, L) each.

    before: (P, L) replicas of the step before. queue: at its end. values: (P, L, N, Q) V of the next step.
    """
    counts = np.broadcast_to(sweep.counts, (*before.shape, sweep.counts.size))
    best, after = _cheapest(problem, sweep, step, before, queue, values, counts, on_grid=True)
    if sweep.stride > 1:
        near = best[..., None] + np.arange(1 - sweep.stride, sweep.stride)
        near = np.clip(near, sweep.counts[0], sweep.counts[-1])
        best, after = _cheapest(problem, sweep, step, before, queue, values, near, on_grid=False)
    return best, after


def _cheapest(
    problem: Problem,
    sweep: _Sweep,
    step: int,
    before: np.ndarray,
    queue: Queue,
    values: np.ndarray,
    counts: np.ndarray,
    *,
    on_grid: bool,
) -> tuple[np.ndarray, Queue]:
    """Return the cheapest of the counts (P, L, M) for this step, and the queue after it, (P, L) each."""
    programme = problem.programme
    rows = np.arange(problem.loads) * problem.steps + step
    start = (queue[0][..., None], queue[1][..., None], queue[2][..., None], queue[3][..., None])
    late, after = served(problem, rows[None, :, None], counts, before[..., None], start)
    shaped = [np.broadcast_to(part, counts.shape) for part in after]
    waiting = shaped[3] / problem.capacity[:, None]
    cost = sweep.value_on_grid(values, waiting) if on_grid else sweep.value_at(values, counts, waiting)
    weight = programme.weight[:, step][:, None]
    cost += weight * counts
    cost += (weight * programme.price[:, None]) * late
    cost += sweep.rises[step][..., None] * np.maximum(counts - before[..., None], 0)
    lowest = np.minimum(programme.low, programme.start)[:, None]
    cost += _OUT_OF_BOUNDS * ((counts < lowest) | (counts > programme.high[:, None]))
    best = cost.argmin(axis=2)
    plan, load = np.ogrid[: best.shape[0], : best.shape[1]]
    picked = [part[plan, load, best] for part in (counts, *shaped)]
    return picked[0], (picked[1], picked[2], picked[3], picked[4])
