"""What no orders can save: nearly all of the work that arrives has to be paid for, served or late.

In a stretch of T scored steps that begins with any queue, and in units of requests, let A arrive, `work` be what a
replica serves within the SLO, c what it serves at once, K what it serves in a step, and H the most replicas that can
be ready.

1. `run_ticks` ends at most capacity x busy share <= K r_t requests in a step with r_t ready. Beyond that, removed
   replicas take along what they have in service: c each. Replicas removed are at most those of the beginning (H) and
   those that rose. In the terms of `programme`, a level that rises is billed D steps before; within the stretch all of
   them, but for its first D steps, in which each level rises once at most. So with c <= K D the steps' bill is at least
   (requests ended - 2 c H) / K. Otherwise no more replicas can be removed after a step than were ready in it, and the
   bill is at least (requests ended - c H) / (K + c).
2. What is in the system at the end of a tick is at most L + c H, with L what an arrival of the tick finds. Where
   L >= work x r, the share of late requests is at least B / e with B = 2 / (1 + F) (point 5 of `late_bound`: least at
   Q = F), and F <= 1 + 2 R / L with R = (1 - C) / (1 - load / capacity), which is below 1 + 1.26 sqrt(c r): the limit
   at full load is sqrt(pi c r / 2), by Halfin and Whitt ("Heavy-traffic limits for queues with many exponential
   servers", Operations Research 29, 1981). So from some M >= work x H on, a late request costs no less than serving it.
3. After the last tick with L < M every arrival costs its service at least; before it all but M + c H are served.

So a stretch costs at least the service of A - M - 3 c H requests; unscored steps cut stretches and cost nothing.
"""

import math

import numpy as np

from rlscaler_sim.clairvoyant.problem import Problem

_ROUNDING = 0.999
"""Takes float32's rounding off the share of late requests, as in `late_bound`."""


def work_bound(problem: Problem) -> np.ndarray:
    """Return a lower bound of J, (L,) float64; 0 where none is proven."""
    programme = problem.programme
    ticks = len(problem.arrivals)
    step, at_once = problem.capacity.astype(np.float64) * ticks, problem.servers.astype(np.float64)
    most = np.maximum(programme.high, programme.start)
    # share of late requests from which on they cost what serving them does, over the least share 1 / e at L >= work x H
    dear = math.e / np.maximum(programme.price * step * _ROUNDING, 1e-30)
    spread = 1.0 + 1.26 * np.sqrt(at_once * most)
    held = np.maximum(problem.work * most, spread * dear / np.maximum(1.0 - dear, 1e-9))
    come = problem.arrivals.sum(axis=0, dtype=np.float64).reshape(problem.loads, problem.steps)
    paid = at_once <= step * programme.delay
    lost = held + np.where(paid, 3.0, 2.0) * at_once * most

    work = np.zeros(problem.loads)
    stretch = np.zeros(problem.loads)
    for t in range(problem.steps):
        full = programme.weight[:, t] >= 1.0
        work += np.where(full, 0.0, np.maximum(stretch - lost, 0.0))
        stretch = np.where(full, stretch + come[:, t], 0.0)
    work += np.maximum(stretch - lost, 0.0)
    found: np.ndarray = work / np.where(paid, step, step + at_once) * problem.unit
    return np.where(dear < 1.0, found, 0.0)
