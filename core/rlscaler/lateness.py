"""What share of an interval's requests is late with so many replicas ready, reckoned without a simulated world."""

from typing import Any

from rlscaler import erlang
from rlscaler.arrays import Array

LEAST_WAIT = 0.1
"""Share of the objective's latency that a request may always wait, however long it takes itself."""


def allowed_wait(xp: Any, latency: Array, concurrency: Array, capacity: Array) -> Array:
    """Return the seconds that a request may wait before it is late: what its own service leaves of the latency."""
    return xp.maximum(latency - concurrency / capacity, LEAST_WAIT * latency)


def late_share(
    xp: Any,
    before: Array,
    after: Array,
    need: Array,
    ready: Array,
    concurrency: Array,
    capacity: Array,
    allowed: Array,
    interval: Array,
) -> Array:
    """Return (N, K) the share of an interval's requests that wait longer than `allowed` seconds.

    before, after: backlog in replica-seconds at its ends, between which it moves evenly. Where there is none, the queue
    is in its steady state (Erlang C). `need` is a count of Poisson arrivals, and scatters by more than what it counts:
    that much of a backlog is left out, and the mean of the steady state's exponential is taken without it.
    """
    scatter = xp.sqrt(need * interval / capacity)
    most = xp.maximum(allowed * ready + scatter, 1e-9)
    low, high = xp.minimum(before, after), xp.maximum(before, after)
    stuck = xp.clip((high - most) / xp.maximum(high - low, 1e-9), 0.0, 1.0)
    servers = xp.maximum(ready * concurrency, 1.0) + 0.0 * need
    counted = xp.maximum(1.0 - 0.5 * allowed / interval, 0.5)
    offered = xp.minimum(need * counted * concurrency + 0.0 * servers, servers)
    times = allowed * capacity / concurrency + 0.0 * servers
    calm = xp.where(offered < servers, erlang.late_share(xp, servers, offered, times), 0.0)
    return xp.where(high > scatter, stuck, calm)
