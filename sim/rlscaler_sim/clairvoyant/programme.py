"""The cheapest replicas to have ready, step by step, when late requests cost and start-up takes time.

With start-up of D steps, ready is r_t = min(o_{t-D} .. o_t) of the orders o; those before the first step equal the
start. Billing splits by levels: the l-th replica is billed while o_t >= l. The steps with r_t >= l fall into runs, each
of which needs the D steps before it too, and between two runs lie more than D steps (an order below l bars D + 1 of
them). So the runs with their D steps are disjoint, and with the weights w of the steps

    sum w_t o_t >= sum w_t r_t + sum B_t (r_t - r_{t-1})^+,   B_t = w_{t-D} + .. + w_{t-1},

with equality for o_t = max(r_t .. r_{t+D}). Nothing rises before step D. So no orders cost less, with late requests g,
than the least over all sequences r, which a dynamic programme over r_t alone finds by running minima in O(T N):

    V_t(n) = w_t n + price g_t(n) + min( min_{m >= n} V_{t-1}(m), min_{m <= n} V_{t-1}(m) + B_t (n - m) ).

(Lin, Wierman, Andrew and Thereska, "Dynamic right-sizing for power-proportional data centers", INFOCOM 2011, have the
same programme with switching costs in the place of start-up.) Where start-up ends within a step, D is rounded down and
r_t is what is ready at the step's end; min(r_{t-1}, r_t) are ready before.
"""

from dataclasses import dataclass, replace

import numpy as np

IMPOSSIBLE = 1e15
_RESET = 64
"""Steps after which the sums start from 0 again, so that no digits are lost."""


@dataclass(frozen=True, slots=True)
class Programme:
    """L programmes of T steps over the same replica counts.

    delay: D. weight: (L, T) w, 0 or more. price: (L,) replica-steps that a late request costs. counts: (N,) whole
    numbers, ascending by 1. low, high: (L,) bounds of the orders. start: (L,) replicas ready at first, one of counts
    and at most `high`.
    """

    delay: int
    weight: np.ndarray
    price: np.ndarray
    counts: np.ndarray
    low: np.ndarray
    high: np.ndarray
    start: np.ndarray

    def only(self, loads: np.ndarray, counts: np.ndarray) -> "Programme":
        """Return the programmes of some of the loads (indices), over other counts."""
        mine = {name: getattr(self, name)[loads] for name in ("weight", "price", "low", "high", "start")}
        return replace(self, counts=counts, **mine)

    @property
    def allowed(self) -> np.ndarray:
        """Which of the counts may be ready, (L, N) bool."""
        lowest = np.minimum(self.low, self.start)[:, None]
        allowed: np.ndarray = (self.counts >= lowest) & (self.counts <= self.high[:, None])
        return allowed

    def value(self, late: np.ndarray) -> np.ndarray:
        """Return the least cost in replica-steps, (L,) float64. late: (L x T, N) scored late requests."""
        return self._solved(late, 2)[1]

    def best(self, late: np.ndarray) -> np.ndarray:
        """Return the cheapest sequence of ready replicas, (L, T) int64. late: (L x T, N) scored late requests."""
        loads, steps = self.weight.shape
        history, _ = self._solved(late, steps + 1)
        rise = self.rise()
        at = history[-1].argmin(axis=1)
        ready = np.empty((loads, steps), np.int64)
        for t in range(steps - 1, -1, -1):
            ready[:, t] = at
            before = np.clip(self.counts[at][:, None] - self.counts, 0.0, None)
            before *= rise[t]
            before += history[t]
            at = before.argmin(axis=1)
        return ready + int(self.counts[0])

    def rise(self) -> np.ndarray:
        """Return B, (T, L, 1): replica-steps that are billed for a replica before it is first ready in a step."""
        loads, steps = self.weight.shape
        rise = np.full((steps, loads, 1), IMPOSSIBLE)
        if self.delay < steps:
            sums = np.concatenate([np.zeros((loads, 1)), np.cumsum(self.weight, axis=1)], axis=1)
            rise[self.delay :, :, 0] = (sums[:, self.delay : steps] - sums[:, : steps - self.delay]).T
        return rise

    def _solved(self, late: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
        """Return V before the first and after each step, the last `kept` of them in turn, and the least cost (L,).

        The former has shape (kept, L, N) and is relative: constants have been taken off each step's values.
        """
        loads, steps = self.weight.shape
        counts = self.counts
        cost = np.empty((steps, loads, counts.size))
        np.multiply(late.reshape(loads, steps, -1).transpose(1, 0, 2), self.price[:, None], out=cost)
        cost += self.weight.T[:, :, None] * counts
        cost += np.where(self.allowed, 0.0, np.inf)
        rise = self.rise()

        history = np.empty((kept, loads, counts.size))
        value = history[0]
        value[:] = np.where(counts == self.start[:, None], 0.0, np.inf)
        offset = np.zeros(loads)
        best, ramp, up = np.empty_like(value), np.empty_like(value), np.empty_like(value)
        for t in range(steps):
            np.minimum.accumulate(value[:, ::-1], axis=1, out=best[:, ::-1])
            if t >= self.delay:
                np.multiply(rise[t], counts, out=ramp)
                np.subtract(value, ramp, out=up)
                np.minimum.accumulate(up, axis=1, out=up)
                up += ramp
                np.minimum(best, up, out=best)
            if t % _RESET == 0:
                shift = best.min(axis=1)
                offset += shift
                best -= shift[:, None]
            value = history[(t + 1) % kept]
            np.add(best, cost[t], out=value)
        return history, offset + value.min(axis=1)

    def orders(self, ready: np.ndarray) -> np.ndarray:
        """Return the least orders with which these replicas are ready, (L, T) int32, within the bounds."""
        orders = ready.copy()
        for ahead in range(1, min(self.delay, ready.shape[1] - 1) + 1):
            np.maximum(orders[:, :-ahead], ready[:, ahead:], out=orders[:, :-ahead])
        bounded: np.ndarray = np.clip(orders, self.low[:, None], self.high[:, None]).astype(np.int32)
        return bounded

    def ready(self, orders: np.ndarray) -> np.ndarray:
        """Return what these orders make ready, (L, T) int64."""
        past = np.repeat(self.start[:, None].astype(np.int64), self.delay, axis=1)
        longer = np.concatenate([past, orders.astype(np.int64)], axis=1)
        steps = orders.shape[1]
        ready = longer[:, self.delay :].copy()
        for ago in range(1, self.delay + 1):
            np.minimum(ready, longer[:, self.delay - ago : self.delay - ago + steps], out=ready)
        return ready
