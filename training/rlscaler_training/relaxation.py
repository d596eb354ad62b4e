"""The world with soft edges: what orders cost, differentiable in the orders, for whole stretches of load at once.

Load does not depend on what is ordered, so nothing has to be stepped through: with a certain start-up, ready is the
smallest of the orders within it, billed is the present order, and a queue is what has come less what could be served,
above its lowest point (Lindley 1952). The wait below saturation is the world's own formula (`queueing`). Two edges are
softened: orders are rounded up with the gradient of the identity, and a queue's requests are late by a sigmoid whose
width is an argument. Held against the world itself by the tests.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlscaler_sim.queueing import inverse_wait_probability

_FARTHEST = 30.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """Load of N workloads over T decisions of K ticks, and the world that serves it. Tensors of one device, float32.

    rates: (N, T, K) requests/s. needed: (N,) pod-seconds and arrivals: (N,) requests of one decision, on average over
    the whole load. capacity: (N,) requests/s of a replica. startup: (N,) seconds. slo: (N,) seconds of waiting.
    price: (N,) of the share of late requests. low, high: (N,) bounds of the replicas. interval: seconds.
    """

    rates: Tensor
    needed: Tensor
    arrivals: Tensor
    capacity: Tensor
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
    before = torch.cat([torch.zeros_like(after[:, :1]), after[:, :-1]], dim=1)
    queue = (0.5 * (before + after)).reshape(shape)
    delay = queue / could
    slo = stretch.slo[:, None, None]
    overdue = torch.sigmoid((delay - slo) / width)
    overdue = torch.where(queue > 1e-3, overdue, torch.zeros_like(overdue))
    busy = (come / could).clamp(1e-6, 1.0 - 1e-4)
    waits = 1.0 / _InverseWait.apply(serving.clamp(min=1e-3), busy)
    # of those that wait, as many wait longer than the objective as the surplus of servers leaves
    left = (slo * could * (1.0 - busy)).clamp(max=_FARTHEST)
    chance = waits * torch.exp(-left)
    share: Tensor = 1.0 - (1.0 - overdue) * (1.0 - chance)
    return share


class _InverseWait(torch.autograd.Function):
    """`queueing.inverse_wait_probability` with a gradient, from differences: the formula works in place."""

    @staticmethod
    def forward(ctx: Any, servers: Tensor, busy: Tensor) -> Tensor:
        """Return 1 / Erlang's probability of waiting."""
        ctx.save_for_backward(servers, busy)
        found: Tensor = inverse_wait_probability(torch, servers, busy)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of servers and of the busy share."""
        servers, busy = (saved.double() for saved in ctx.saved_tensors)
        step = 1e-4 * torch.minimum(busy, 1.0 - busy)
        more = 1e-4 * servers
        by_busy = inverse_wait_probability(torch, servers, busy + step)
        by_busy = (by_busy - inverse_wait_probability(torch, servers, busy - step)) / (2.0 * step)
        by_servers = inverse_wait_probability(torch, servers + more, busy)
        by_servers = (by_servers - inverse_wait_probability(torch, servers - more, busy)) / (2.0 * more)
        return (gradients[0] * by_servers).float(), (gradients[0] * by_busy).float()


def score(stretch: Stretch, orders: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Return billed over needed, and price x late over arrivals, (N,) each: means over the stretch after its lead.

    orders: (N, T) replicas.
    """
    lead = stretch.lead
    late = late_share(stretch, ready(stretch, orders), width) * stretch.rates * stretch.tick
    cost = orders[:, lead:].mean(dim=1) * stretch.interval / stretch.needed
    missed = late[:, lead:].sum(dim=2).mean(dim=1) / stretch.arrivals
    return cost, stretch.price * missed
