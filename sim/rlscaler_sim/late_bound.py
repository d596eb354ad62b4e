"""The least requests that can be late in a step, whatever happened before it: a proven bound on the world's queue.

The queue of `queueing` is not monotone: a little more backlog can mean a little less waiting afterwards, because a
backlog varies less than the stationary queue. So the late requests from an empty queue bound nothing, and this module
minimises over all states that a step can start in.

Notation of `run_ticks`, for one tick: M = content + arrivals, c servers that serve K, S = K + c, C the probability of
waiting, f = 2/C - 1, G = growth, q = ratio, V = variance, h = C q, L what an arrival finds, A = f L^2.

1. L is the root of (L - h)(1 + S/L) = M, so it rises with the content and with q.
2. V' = (V + G) A / (A + G) rises with V and L; q'^2 = min(1, (V + G) / (A + G)) rises with V and falls with L.
3. The content after the tick is (L - h)(1 + c/L) >= (L - C)(1 + c/L), which rises with L; and as the busy share
   is at most min(1, M/S), it is at least max(M - K, M / (1 + K/c)).
4. The share of late requests is that of a shape Q = q'^2 f <= f. It rises with L at a fixed Q; over an interval of Q
   it is least at one of the ends; for L >= W, the work that is served within the SLO, at the upper one.

A class of states is {content >= x, V >= v, q >= r, late so far >= y}. After each tick the states are sorted into bins
of L; by 1 to 4 those of a bin lie in one class, whose constants follow from those of the classes that can reach the
bin. The first class is {0, 0, 0, 0}, which holds every state, and the least y of the last ones is the bound. More bins
raise it; any bins are valid.
"""

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
    columns = (arrivals, offered, servers, capacity, services, work)
    parts = [
        _least_late(*(np.ascontiguousarray(values[..., at : at + _CHUNK]) for values in columns), edges=edges)
        for at in range(0, servers.size, _CHUNK)
    ]
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
        waits = _wait_probability(servers, capacity, load)
        form = 2.0 / waits - 1.0
        growth = queueing._RELAXATION * waits * (come + capacity)
        usual = _found(undisturbed + come, total, waits)
        lower = np.concatenate([np.minimum(factors * usual, work), work[None]])
        upper = np.concatenate([lower[1:], np.full_like(lower[:1], infinite)])

        reach = _found(content + come, total, waits * ratio)
        least, paid_in, variance_in, content_in = (np.full_like(lower, infinite) for _ in range(4))
        for found, *constants in zip(reach, paid, variance, content, strict=True):
            barred = np.where((found < upper) & np.isfinite(constants[0]), np.float32(0.0), infinite)
            for merged, constant in zip((least, paid_in, variance_in, content_in), (found, *constants), strict=True):
                np.minimum(merged, constant + barred, out=merged)
        empty = ~np.isfinite(paid_in) | (least >= upper) | (lower >= upper)
        variance_in[empty], content_in[empty], least[empty] = 0.0, 0.0, 1.0
        least = np.maximum(least, lower)
        least[empty] = 1.0

        spread = least * least * form
        widest = growth + variance_in
        smallest = np.minimum(widest[:-1] / (upper[:-1] * upper[:-1] * form + growth + 1e-30), 1.0)
        share = waits * np.exp(-np.minimum(work * waits / (least + 1e-30), 80.0))
        share[:-1] = np.minimum(share[:-1], _share_over(work, least[:-1], smallest * form))
        paid = np.where(empty, infinite, paid_in + come * share)
        variance = widest * spread / (spread + growth + 1e-30)
        ratio = np.concatenate([np.sqrt(smallest), np.zeros_like(lower[:1])])
        content = np.maximum(
            _least_content(content_in + come, capacity, services),
            (least - waits) * (1.0 + servers / (least + 1e-30)),
        )
        undisturbed = _least_content(undisturbed + come, capacity, services)
    late: np.ndarray = paid.min(axis=0) * np.float32(_ROUNDING)
    return late


def _wait_probability(servers: np.ndarray, capacity: np.ndarray, offered: np.ndarray) -> np.ndarray:
    """Return Erlang's C as `run_ticks` has it."""
    utilization = np.clip(offered / np.clip(capacity, 1e-9, None), 1e-6, 1.0)
    waits: np.ndarray = 1.0 / queueing.inverse_wait_probability(np, servers, utilization)
    return waits


def _found(content: np.ndarray, total: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Return the root L >= chance of (L - chance)(1 + total/L) = content."""
    half = 0.5 * (content - total + chance)
    product = chance * total
    root = np.sqrt(half * half + product) + np.abs(half)
    root += 1e-30
    return np.where(half > 0.0, root, product / root)


def _least_content(mass: np.ndarray, capacity: np.ndarray, services: np.ndarray) -> np.ndarray:
    """Return what is at least left of `mass` = content + arrivals."""
    return np.maximum(mass - capacity, mass / (1.0 + services))


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
    exceeds `work`: with fewer replicas there are no fewer such ticks and their backlog is no smaller, so point 4
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
