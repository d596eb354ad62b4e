"""Mean behaviour of a queue with many servers, tick by tick, for N queues at once.

Following every request is exact and slow; a fluid is fast and knows no wait below saturation. This is the middle:
the expected state of an M(t)/M/c(t) queue (Poisson arrivals, exponential service, first come first served) whose
rate and servers are constant within a tick. Two moments are carried.

* Mean number in the system, by the pointwise-stationary fluid-flow approximation (Wang, Tipper and Banerjee, "A new
  approximation method to determine the transient behavior of queues", 1996): the servers work as if the present
  content were stationary. With the busy share r and C, Erlang's probability of waiting at the tick's load,
  content = c r + C' r / (1 - r), and arrivals - completions = change of content, solved implicitly: stable for any
  tick, exactly the fluid in overload, exactly M/M/c when stationary.
* Variance of the number waiting: arrivals and completions raise it while all servers are busy, and it is drawn to
  that of the stationary shape (an atom at 0 and an exponential). A queue that has just filled, or holds a backlog,
  varies less than that, and so runs empty less often: C' = C x the ratio of the two standard deviations.

Mean and variance fix what an arrival finds before it (`Tail`): an atom at 0 and an exponential, or, where the
variance is small, an exponential that starts above 0.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscaler.arrays import Array

_RARE = 20.0
"""Exponent at which the probability of waiting is cut off, near 1e-9."""
_FARTHEST = 50.0
"""Exponent at which tails are cut off, so that no product of theirs is denormal (which processors are slow at)."""
_RELAXATION = 3.0
"""How fast the variance takes the stationary shape, over how fast it grows; fitted to the exact Markov chain."""


def erlang_c_exact(servers: Any, utilization: Any) -> np.ndarray:
    """Return the probability that a request waits in M/M/c, float64, by Erlang's recursion.

    servers: whole numbers, 0 or more. utilization: offered load per server; 1 or more gives 1. They broadcast.
    Takes as many steps as the largest server count.
    """
    c, rho = np.broadcast_arrays(np.asarray(servers, np.int64), np.asarray(utilization, np.float64))
    rho = np.clip(rho, 0.0, 1.0)
    load = c * rho
    blocked = np.ones(c.shape)
    result = np.ones(c.shape)
    for k in range(1, int(c.max(initial=0)) + 1):
        blocked = load * blocked / (k + load * blocked)
        result = np.where(c == k, blocked / (1.0 - rho * (1.0 - blocked)), result)
    return result


def inverse_wait_probability(xp: Any, servers: Array, utilization: Array) -> Array:
    """Return 1 / (Erlang C), at least 1 and cut off near 1e9; any shape, which the arguments share.

    servers: 0 or more, need not be whole. utilization: above 0 and at most 1.

    1/C = (1 - rho) / P(Poisson(c rho) = c) + H: Stirling's formula for the first term (as in Janssen, van
    Leeuwaarden and Zwart, "Refining square-root safety staffing by expanding Erlang C", Operations Research 59,
    2011), and for H a rational function fitted to the recursion for 1 to 10,000 servers. Within 0.25 % wherever
    C > 1e-4.
    """
    idle = 1.0 - utilization
    exponent = xp.log(utilization)
    exponent += idle
    exponent *= servers
    exponent = xp.clip(exponent, -_RARE, 0.0)
    root = xp.sqrt(-exponent)
    root *= 1.75542
    denominator = -1.17692 * exponent
    denominator += root
    denominator += 1.0
    rest = -0.27585 * idle
    rest -= 0.42809
    rest *= idle
    rest += 1.0
    rest /= denominator
    inverse = (2.0 * math.pi) * servers
    inverse += 1.06542
    inverse = xp.sqrt(inverse)
    inverse *= idle
    inverse *= xp.exp(-exponent)
    inverse += rest
    return inverse


@dataclass(slots=True)
class Tail:
    """Distribution of the work that a request finds before it, in requests: P(work > x) = delayed at x < start, and
    delayed * exp(-(x - start) / scale) above. Each of shape (K, N).
    """

    delayed: Array
    start: Array
    scale: Array

    def share_over(self, xp: Any, work: Array) -> Array:
        """Return the share of requests that find more than `work`, (K, N); at work = 0, those that wait at all."""
        excess = work - self.start
        excess /= self.scale
        excess = xp.clip(excess, 0.0, _FARTHEST)
        share = xp.exp(-excess)
        share *= self.delayed
        return share

    def exceeded_by(self, xp: Any, share: float) -> Array:
        """Return the work that this share of the requests exceeds, (K, N); 0 where fewer wait at all.

        (Where not all wait, `start` is 0.)
        """
        ratio = xp.clip(self.delayed / share, 1.0, None)
        return self.start + self.scale * xp.log(ratio)


@dataclass(slots=True)
class Ticks:
    """What K ticks did.

    content, variance, ratio: (N,) state after the last tick, see `run_ticks`. waiting: (N,) mean number waiting
    after the last tick. waited: (N,) sum over the ticks of the number waiting at their end. busy: K arrays (N,),
    share of the servers in use. tail: what the arrivals of each tick find.
    """

    content: Array
    variance: Array
    ratio: Array
    waiting: Array
    waited: Array
    busy: list[Array]
    tail: Tail


def run_ticks(
    xp: Any,
    content: Array,
    variance: Array,
    ratio: Array,
    arrivals: Array,
    offered: Array,
    servers: Array,
    capacity: Array,
) -> Ticks:
    """Advance N queues by K ticks. All arrays of one dtype; none is written to.

    content: (N,) mean number in the system, waiting and in service. variance: (N,) of the number waiting.
    ratio: (N,) its standard deviation over that of the stationary shape, at most 1.
    arrivals: (K, N) expected requests of each tick. offered: (K, N) the load that decides how likely a request
    waits, in requests of a tick: arrivals, smoothed over the service time where that is long.
    servers: (K, N) requests in service at most. capacity: (K, N) requests served in a tick by all of them.
    """
    utilization = offered / xp.clip(capacity, 1e-9, None)
    utilization = xp.clip(utilization, 1e-6, 1.0)
    idle = 1.0 - utilization
    atom = inverse_wait_probability(xp, servers, utilization)
    delay = 1.0 / atom
    # the stationary queue has found = C / idle and the variance found^2 + 2 (1/C - 1) found^2 (the second term is the
    # atom's; beyond the stationary length it grows like found, as a backlog leaves less and less of the atom)
    atom -= 1.0
    atom += atom
    typical = delay / xp.clip(idle, 1e-4, None)
    surplus = arrivals - capacity
    surplus -= servers
    events = arrivals + capacity
    events *= _RELAXATION
    events += 1e-6  # without pods and requests nothing moves, and the ratio must not become 0

    one = xp.ones_like(content)
    waited = xp.zeros_like(content)
    waiting = waited
    found_in, spread, busy = [], [], []
    for coming, spare, hands, likely, free, usual, extra, moves in zip(
        arrivals, surplus, servers, delay, idle, typical, atom, events, strict=True
    ):
        chance = likely * ratio
        # the number waiting w solves w^2 - 2 half w - product = 0; written so that neither sign of `half` cancels
        half = content + spare
        half -= chance
        half *= 0.5
        product = content + coming
        product *= chance
        size = xp.abs(half)
        root = half * half
        root += product
        root = xp.sqrt(root)
        root += size
        half += size
        waiting = product / root
        waiting += half
        waited = waited + waiting
        found = waiting + chance
        share = waiting / found
        content = hands * share
        content += waiting
        stationary = xp.minimum(found, usual)
        stationary *= extra
        stationary += found
        stationary *= found
        # moves change the number waiting only while all servers are busy
        free = free * found
        growth = xp.minimum(xp.maximum(free, likely), one)
        growth *= moves
        squared = variance + growth
        growth += stationary
        squared /= growth
        variance = squared * stationary
        squared = xp.minimum(squared, one)
        ratio = xp.sqrt(squared)
        squared *= stationary
        found_in.append(found)
        spread.append(squared)
        busy.append(share)
    return Ticks(
        content=content,
        variance=variance,
        ratio=ratio,
        waiting=waiting,
        waited=waited,
        busy=busy,
        tail=_tail(xp, xp.stack(found_in), xp.stack(spread)),
    )


def _tail(xp: Any, found: Array, variance: Array) -> Tail:
    """Return the distribution of this mean and variance."""
    dispersion = variance / (found * found)
    scale = xp.sqrt(dispersion)
    scale = xp.minimum(scale, xp.ones_like(scale))
    scale *= found
    dispersion += 1.0
    delayed = 2.0 / dispersion
    delayed = xp.minimum(delayed, xp.ones_like(delayed))
    start = found - scale
    scale /= delayed
    return Tail(delayed=delayed, start=start, scale=scale)
