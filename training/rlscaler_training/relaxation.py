"""The world with soft edges: what orders cost, differentiable in the orders, for whole stretches of load at once.

Load does not depend on what is ordered, so nothing has to be stepped through: with a certain start-up, ready is the
smallest of the orders within it, billed is the present order, and a queue is what has come less what could be served,
above its lowest point (Lindley 1952). The wait below saturation is the world's own formula (`queueing`), at the load of
the last few ticks, since a queue does not take its stationary shape within one. Two edges are softened: orders are
rounded up with the gradient of the identity, and a queue's requests are late by a sigmoid whose width is an argument.
What is ordered for a backlog is stepped through, without a gradient (`for_backlog`). Held against the world itself by
the tests.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlscaler.action import DRAIN
from rlscaler_sim.queueing import inverse_wait_probability

MEMORY = 0.35
"""Weight of the tick before, over a tick's own, in the mean load that requests below saturation wait by."""
FULL = 30.0
"""Seconds that a queue at saturation has had to grow, so that its length is no infinity. Both are fitted to the world's
late requests at ticks of 3 s, under orders of trained policies."""
MOST_IDLE = 0.7
"""Share of the replicas that FULL leaves idle at most: where hardly any request comes it says nothing."""
_REMEMBERED = 8
_FARTHEST = 30.0
_RARE = 20.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """Load of N workloads over T decisions of K ticks, and the world that serves it. Tensors of one device, float32.

    rates: (N, T, K) requests/s. needed: (N,) pod-seconds and arrivals: (N,) requests of one decision, on average over
    the whole load. capacity: (N,) requests/s of a replica, believed: (N,) what the decision takes it for. startup: (N,)
    seconds. slo: (N,) seconds of waiting. price: (N,) of the share of late requests. low, high: (N,) bounds of the
    replicas. interval: seconds.
    """

    rates: Tensor
    needed: Tensor
    arrivals: Tensor
    capacity: Tensor
    believed: Tensor
    startup: Tensor
    slo: Tensor
    price: Tensor
    low: Tensor
    high: Tensor
    interval: float

    @property
    def tick(self) -> float:
        """Seconds of a tick."""
        return self.interval / self.rates.shape[2]

    @property
    def lead(self) -> int:
        """Decisions at the beginning whose costs do not count, as pods ordered before them would serve."""
        return math.ceil(float(self.startup.max()) / self.interval) + 1


def rounded_up(replicas: Tensor) -> Tensor:
    """Return whole replicas, as the guard rounds, with the gradient of the identity."""
    whole = torch.ceil(replicas.detach() - 1e-6 * replicas.detach().clamp(min=1.0))
    return replicas + (whole - replicas.detach())


def kept(replicas: Tensor, decisions: int) -> Tensor:
    """Return the largest of so many last proposals, (N, T): what patience makes of them."""
    largest = replicas
    for back in range(1, decisions):
        earlier = torch.cat([replicas[:, :1].expand(-1, back), replicas[:, :-back]], dim=1)
        largest = torch.maximum(largest, earlier)
    return largest


def ready(stretch: Stretch, orders: Tensor) -> Tensor:
    """Return the ready replicas of each tick, (N, T, K): the smallest order within the start-up before it."""
    ticks = stretch.rates.shape[2]
    middle = (torch.arange(ticks, device=orders.device) + 0.5) * stretch.tick
    # an order serves from its start-up on, so at a tick those count that have been in effect since then
    back = torch.ceil((stretch.startup[:, None] - middle) / stretch.interval).clamp(min=0.0).long()
    least = [orders]
    for steps in range(1, int(back.max()) + 1):
        earlier = torch.cat([orders[:, :1].expand(-1, steps), orders[:, :-steps]], dim=1)
        least.append(torch.minimum(least[-1], earlier))
    table = torch.stack(least, dim=-1)
    index = back[:, None, :].expand(-1, orders.shape[1], -1)
    return torch.gather(table, 2, index)


def waiting(work: Tensor, served: Tensor) -> Tensor:
    """Return the fluid queue after each tick of (N, S) requests that come and could be served."""
    net = torch.cumsum(work - served, dim=1)
    return net - torch.cummin(net, dim=1).values.clamp(max=0.0)


def late_share(stretch: Stretch, serving: Tensor, width: float) -> Tensor:
    """Return the share of the requests of each tick that wait too long, (N, T, K).

    serving: (N, T, K) ready replicas. width: seconds of waiting over which a queue's requests become late.
    """
    shape = serving.shape
    capacity = stretch.capacity[:, None, None]
    could = (serving * capacity).clamp(min=1e-3)
    come = stretch.rates
    after = waiting((come * stretch.tick).flatten(1), (could * stretch.tick).flatten(1))
    queue = after.reshape(shape)
    busy = utilisation(recent(come), could)
    waits = 1.0 / inverse_wait(serving.clamp(min=1e-3), busy)
    delay = torch.hypot(queue, waits * busy / (1.0 - busy)) / could
    slo = stretch.slo[:, None, None]
    overdue = torch.sigmoid((delay - slo) / width)
    overdue = torch.where(queue > 1e-3, overdue, torch.zeros_like(overdue))
    # of those that wait, as many wait longer than the objective as the surplus of servers leaves
    left = (slo * could * (1.0 - busy)).clamp(max=_FARTHEST)
    chance = waits * torch.exp(-left)
    share: Tensor = 1.0 - (1.0 - overdue) * (1.0 - chance)
    return share


def utilisation(rates: Tensor, could: Tensor) -> Tensor:
    """Return the utilisation of replicas that could serve so many requests/s, as far below 1 as FULL leaves it.

    A queue that is served as fast as it is fed grows like a random walk, by the root of 2 x rate x time.
    """
    idle = torch.sqrt(2.0 / (could * FULL)).clamp(max=MOST_IDLE)
    return torch.minimum(rates / could, 1.0 - idle).clamp(min=1e-6)


def recent(rates: Tensor) -> Tensor:
    """Return the mean rate of each tick and those before it, (N, T, K), the older the less."""
    flat = rates.flatten(1)
    total, weights = flat.clone(), 1.0
    for back in range(1, min(_REMEMBERED, flat.shape[1])):
        weight = MEMORY**back
        total[:, back:] += weight * flat[:, :-back]
        total[:, :back] += weight * flat[:, :1]
        weights += weight
    return (total / weights).reshape(rates.shape)


def inverse_wait(servers: Tensor, busy: Tensor) -> Tensor:
    """Return 1 / Erlang's probability of waiting: `queueing.inverse_wait_probability`, which works in place, with a
    gradient."""
    idle = 1.0 - busy
    exponent = ((torch.log(busy) + idle) * servers).clamp(-_RARE, -1e-7)
    below = 1.0 - 1.17692 * exponent + 1.75542 * torch.sqrt(-exponent)
    rest = (1.0 + idle * (-0.27585 * idle - 0.42809)) / below
    found: Tensor = torch.sqrt(2.0 * math.pi * servers + 1.06542) * idle * torch.exp(-exponent) + rest
    return found


def for_backlog(stretch: Stretch, wanted: Tensor, needed: Tensor, patience: int) -> Tensor:
    """Return the replicas (N, T) that the decision adds to those wanted so that the backlog drains, without a gradient.

    wanted: (N, T) replicas proposed for the load alone. needed: (N, T) replicas that the guard asks for at least.
    patience: decisions for which replicas are kept. The backlog is a fluid's, or what waits below saturation; it is a
    decision old when it is read.
    """
    given = (wanted, needed, stretch.rates.mean(dim=2), recent(stretch.rates)[..., -1])
    want, floor, rates, last = (each.detach().cpu().numpy() for each in given)
    capacity, believed, low, high = (
        each.detach().cpu().numpy() for each in (stretch.capacity, stretch.believed, stretch.low, stretch.high)
    )
    delay = np.ceil(stretch.startup.detach().cpu().numpy() / stretch.interval).astype(np.int64)
    count, steps = want.shape
    asked, orders, added, idle = (np.zeros((steps, count), np.float32) for _ in range(4))
    queue = np.zeros((steps + 1, count), np.float32)
    for t in range(steps):
        if t > 1:
            added[t] = np.hypot(queue[t - 1], idle[t - 2]) / (believed * DRAIN)
        asked[t] = np.maximum(want[:, t] + added[t], floor[:, t])
        kept_now = asked[max(0, t - patience + 1) : t + 1].max(axis=0)
        orders[t] = np.clip(np.ceil(kept_now - 1e-5), low, high)
        ready_now = orders[t]
        for back in range(1, int(delay.max(initial=0)) + 1):
            ready_now = np.where(back <= delay, np.minimum(ready_now, orders[max(0, t - back)]), ready_now)
        queue[t + 1] = np.maximum(queue[t] + (rates[:, t] - ready_now * capacity) * stretch.interval, 0.0)
        serving = np.maximum(ready_now, 1e-3)
        could = serving * capacity
        free = np.minimum(np.sqrt(2.0 / (could * FULL)), MOST_IDLE)
        busy = np.clip(last[:, t] / could, 1e-6, 1.0 - free)
        idle[t] = busy / ((1.0 - busy) * inverse_wait_probability(np, serving, busy))
    return torch.as_tensor(added.T.copy(), dtype=wanted.dtype, device=wanted.device)


def score(stretch: Stretch, orders: Tensor, width: float, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return billed over needed, and price x late over arrivals, (N,) each: means over the stretch after its lead.

    orders: (N, T) replicas. counts: (N, T) bool, decisions whose costs count (None: all).
    """
    lead = stretch.lead
    late = (late_share(stretch, ready(stretch, orders), width) * stretch.rates * stretch.tick).sum(dim=2)[:, lead:]
    billed = orders[:, lead:] * stretch.interval
    if counts is not None:
        late, billed = (each * counts[:, lead:] for each in (late, billed))
    number: int | Tensor = late.shape[1] if counts is None else counts[:, lead:].sum(dim=1).clamp(min=1)
    cost = billed.sum(dim=1) / (stretch.needed * number)
    missed = late.sum(dim=1) / (stretch.arrivals * number)
    return cost, stretch.price * missed
