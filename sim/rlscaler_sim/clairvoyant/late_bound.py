"""The least requests that can be late in a step, whatever happened before it: a proven bound on the world's queue.

The queue of `queueing` is not monotone: a little more backlog can mean a little less waiting afterwards, because a
backlog varies less than the stationary queue. So the late requests from an empty queue bound nothing, and this module
minimises over all states that a step can start in.

In one tick of `run_ticks`, M is content + arrivals, c servers serve K, S = K + c, C is the probability of waiting
in the stationary queue, q the ratio, V the variance, L what an arrival finds, A(L) the stationary variance and G(L) the
growth, both rising with L, and F(L) = A / L^2, which is at least 1 and falls with L.

1. L is the root of (L - Cq)(1 + S/L) = M, so it rises with the content and with q.
2. V' = (V + G) A / (A + G) rises with V and A, and with G where V <= A; and V' >= A where V >= A. So with v <= V and
   l <= L, V' >= (u + G(l)) A(l) / (A(l) + G(l)) for u = min(v, A(l)).
3. q'^2 = min(1, (V + G) / (A + G)), so q'^2 >= min(1, (v + G(l)) / (A(u) + G(l))) for l <= L <= u.
4. The content after the tick is (L - Cq)(1 + c/L) >= (L - C)(1 + c/L), which rises with L; and as the busy share
   is at most min(1, M/S), it is at least max(M - K, M / (1 + K/c)).
5. The share of late requests is that of a mean L and a variance Q L^2 with Q = q'^2 F. At a fixed Q it rises with L;
   over an interval of Q it is least at one of the ends; for L >= W, the work that is served within the SLO, at the
   upper one.

A class of states is {content >= x, V >= v, q >= r, late so far >= y}. After each tick the states are sorted into bins
of L; by 1 to 5 those of a bin lie in one class, whose constants follow from those of the classes that can reach the
bin. The first class is {0, 0, 0, 0}, which holds every state, and the least y of the last ones is the bound. More bins
raise it; any bins are valid.
"""

from dataclasses import dataclass

import numpy as np

from rlscaler_sim import queueing

EDGES = (0.7, 0.9, 1.05, 1.2, 1.4, 1.7, 2.1, 2.8, 4.0, 6.0)
"""Edges of the bins over the L of an undisturbed queue; chosen for the highest bound at this many."""
_CHUNK = 4096
_ROUNDING = 0.999
"""Takes float32's rounding, in the world and here, off the bound."""


def least_late(
    arrivals: np.ndarray,
    offered: np.ndarray,
    servers: np.ndarray,
    capacity: np.ndarray,
    services: np.ndarray,
    work: np.ndarray,
    edges: tuple[float, ...] = EDGES,
) -> np.ndarray:
    """Return a lower bound of the late requests of E steps, (E,) float32.

    arrivals, offered: (K, E) float32, see `run_ticks`. servers, capacity: (E,) float32, constant over the K ticks.
    services: (E,) requests that one server serves in a tick (also where there are no servers). work: (E,) requests
    served within the SLO.
    """
    parts = []
    for at in range(0, servers.size, _CHUNK):
        part = slice(at, at + _CHUNK)
        parts.append(
            _least_late(
                arrivals[:, part], offered[:, part], servers[part], capacity[part], services[part], work[part], edges
            )
        )
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _least_late(
    arrivals: np.ndarray,
    offered: np.ndarray,
    servers: np.ndarray,
    capacity: np.ndarray,
    services: np.ndarray,
    work: np.ndarray,
    edges: tuple[float, ...],
) -> np.ndarray:
    """Return `least_late` of a chunk that fits the cache."""
    infinite = np.float32(np.inf)
    total = capacity + servers
    factors = np.array((0.0, *edges), np.float32)[:, None]
    content = variance = ratio = paid = np.zeros((1, servers.size), np.float32)
    undisturbed = np.zeros_like(servers)
    for come, load in zip(arrivals, offered, strict=True):
        queue = _Tick.of(servers, capacity, come, load)
        usual = _found(undisturbed + come, total, queue.waits)
        lower = np.concatenate([np.minimum(factors * usual, work), work[None]])
        upper = np.concatenate([lower[1:], np.full_like(lower[:1], infinite)])

        reach = _found(content + come, total, queue.waits * ratio)
        least, paid_in, variance_in, content_in = (np.full_like(lower, infinite) for _ in range(4))
        for found, *constants in zip(reach, paid, variance, content, strict=True):
            barred = np.where((found < upper) & np.isfinite(constants[0]), np.float32(0.0), infinite)
            for merged, constant in zip((least, paid_in, variance_in, content_in), (found, *constants), strict=True):
                np.minimum(merged, constant + barred, out=merged)
        least = np.maximum(least, lower)
        empty = ~np.isfinite(paid_in) | (least >= upper)
        variance_in[empty], content_in[empty], least[empty] = 0.0, 0.0, 1.0

        shape, growth = queue.shape(least), queue.growth(least)
        spread = shape * least * least
        slimmest = queue.shape(upper[:-1])
        widest = slimmest * upper[:-1] * upper[:-1]
        smallest = np.minimum((variance_in[:-1] + growth[:-1]) / (widest + growth[:-1] + 1e-30), 1.0)
        share = _share_over(work, least, shape)
        narrow = _share_over(work, least[:-1], smallest * slimmest)
        share[:-1] = np.minimum(share[:-1], narrow)
        paid = np.where(empty, infinite, paid_in + come * share)
        variance = (np.minimum(variance_in, spread) + growth) * spread / (spread + growth + 1e-30)
        ratio = np.concatenate([np.sqrt(smallest), np.zeros_like(lower[:1])])
        content = np.maximum(
            _least_content(content_in + come, capacity, services),
            (least - queue.waits) * (1.0 + servers / (least + 1e-30)),
        )
        undisturbed = _least_content(undisturbed + come, capacity, services)
    late: np.ndarray = paid.min(axis=0) * np.float32(_ROUNDING)
    return late


@dataclass(frozen=True, slots=True)
class _Tick:
    """The stationary queue of one tick, as `run_ticks` has it; arrays (E,).

    waits: C. extra: 2 (1/C - 1). typical: L of the stationary queue. idle: 1 - utilization. moves: growth of the
    variance while all servers are busy.
    """

    waits: np.ndarray
    extra: np.ndarray
    typical: np.ndarray
    idle: np.ndarray
    moves: np.ndarray

    @classmethod
    def of(cls, servers: np.ndarray, capacity: np.ndarray, come: np.ndarray, offered: np.ndarray) -> "_Tick":
        utilization = np.clip(offered / np.clip(capacity, 1e-9, None), 1e-6, 1.0)
        idle = 1.0 - utilization
        inverse = queueing.inverse_wait_probability(np, servers, utilization)
        return cls(
            waits=1.0 / inverse,
            extra=2.0 * (inverse - 1.0),
            typical=1.0 / inverse / np.clip(idle, 1e-4, None),
            idle=idle,
            moves=queueing._RELAXATION * (come + capacity),
        )

    def shape(self, found: np.ndarray) -> np.ndarray:
        """Return F(L)."""
        result: np.ndarray = 1.0 + self.extra * np.minimum(self.typical / (found + 1e-30), 1.0)
        return result

    def growth(self, found: np.ndarray) -> np.ndarray:
        """Return G(L)."""
        result: np.ndarray = np.minimum(np.maximum(self.idle * found, self.waits), 1.0) * self.moves
        return result


def _found(content: np.ndarray, total: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Return the root L >= chance of (L - chance)(1 + total/L) = content."""
    half = 0.5 * (content - total + chance)
    product = chance * total
    root = np.sqrt(half * half + product) + np.abs(half)
    root += 1e-30
    found: np.ndarray = np.where(half > 0.0, root, product / root)
    return found


def _least_content(mass: np.ndarray, capacity: np.ndarray, services: np.ndarray) -> np.ndarray:
    """Return what is at least left of `mass` = content + arrivals."""
    least: np.ndarray = np.maximum(mass - capacity, mass / (1.0 + services))
    return least


def _share_over(work: np.ndarray, found: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Return the share of requests that find more than `work`, for the mean `found` and variance `shape` found^2."""
    narrow = np.minimum(np.sqrt(shape), 1.0)
    narrow *= found
    delayed = np.minimum(2.0 / (1.0 + shape), 1.0)
    excess = np.maximum(work - (found - narrow), 0.0)
    excess *= delayed
    excess /= narrow + 1e-30
    share: np.ndarray = delayed * np.exp(-np.minimum(excess, 80.0))
    return share


def surely_late(
    arrivals: np.ndarray, offered: np.ndarray, servers: np.ndarray, capacity: np.ndarray, work: np.ndarray
) -> np.ndarray:
    """Return a lower bound of the late requests of E steps with these or fewer replicas, (E,) float32.

    Arguments as in `least_late`. Counts the ticks with an offered load above capacity (C = 1) whose fluid backlog
    exceeds `work`: with fewer replicas there are no fewer such ticks and their backlog is no smaller, so point 5
    holds with a smaller W and a larger L.
    """
    content = np.zeros_like(capacity)
    late = np.zeros_like(capacity)
    for come, load in zip(arrivals, offered, strict=True):
        mass = content + come
        found = mass - capacity - servers
        sure = (found >= work) & (load >= capacity)
        late += np.where(sure, come * np.exp(-work / np.maximum(found, work + 1e-30)), 0.0)
        content = np.maximum(mass - capacity, 0.0)
    late *= np.float32(_ROUNDING)
    return late
