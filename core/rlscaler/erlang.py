"""Erlang's delay formula for arrays of any size, without the recursion over servers.

The recursion for the probability of waiting in an M/M/c queue takes c steps, which N workloads of up to
10,000 replicas cannot afford at every decision. Here it is the uniform expansion in 1/c that Janssen, van
Leeuwaarden and Zwart use ("Refining square-root safety staffing by expanding Erlang C", Operations Research
59(6), 2011), with the coefficients of Temme's expansion of the incomplete gamma function (DLMF, section
8.12). It is off by less than 0.3 % with one server and by less than 0.01 % from ten on, whatever the load.
"""

from typing import Any

from rlscaler.arrays import Array

_TAIL = (0.319381530, -0.356563782, 1.781477937, -1.821255978, 1.330274429)
_HALF_LOG_TAU = 0.9189385332046727
_LARGEST_EXPONENT = 600.0
_NEAR = 0.02
"""Spare share of the servers below which the coefficients are taken from their series."""
_BISECTIONS = 11
"""Enough for every workload of up to 40,000 replicas: the searched range is 6 sqrt(offered) + 20 servers."""


def normal_tail(xp: Any, z: Array) -> Array:
    """Return P(Z > z) of the standard normal distribution, within 7.5e-8 (Abramowitz and Stegun 26.2.17).

    NumPy and the array standard have no error function, hence this one.
    """
    size = xp.abs(z)
    tail = _tail_polynomial(size) * xp.exp(-0.5 * size * size - _HALF_LOG_TAU)
    return xp.where(z < 0.0, 1.0 - tail, tail)


def _tail_polynomial(size: Array) -> Array:
    """Return P(Z > size) / density(size) for size >= 0."""
    t = 1.0 / (1.0 + 0.2316419 * size)
    total = _TAIL[4] * t
    for coefficient in (_TAIL[3], _TAIL[2], _TAIL[1], _TAIL[0]):
        total += coefficient
        total *= t
    return total


def wait_probability(xp: Any, servers: Array, offered: Array) -> Array:
    """Return the probability that an arrival to an M/M/c queue has to wait (Erlang C).

    servers: c, 1 or more, need not be whole. offered: arrival rate x mean service time, in servers, 0 or
    more. Float64 of one shape; 1 where the offered load reaches the servers.
    """
    stable = offered < servers
    c = xp.where(stable, servers, 1.0)
    rho = xp.where(stable, xp.clip(offered / c, 1e-9, 1.0 - 1e-9), 0.5)
    spare = 1.0 - rho
    wide = xp.maximum(spare, _NEAR)
    # eta^2 / 2 = rho - 1 - ln(rho), eta < 0; `root` is -eta. Powers are products: pow() of a negative base is slow.
    root = xp.sqrt(2.0 * (-wide - xp.log(xp.minimum(rho, 1.0 - _NEAR))))
    inverse, gap = 1.0 / root, 1.0 / wide
    c0 = inverse - gap
    c1 = gap * gap * gap - inverse * inverse * inverse - gap * gap + gap / 12.0
    near = spare < _NEAR
    if bool(xp.any(near)):
        root[near], c0[near], c1[near] = _near_full_use(xp, spare[near])
    stirling = 1.0 + (1.0 / 12.0 + 1.0 / 288.0 / c) / c
    rooted = xp.sqrt(c)
    alpha = root * rooted
    exponent = xp.minimum(0.5 * alpha * alpha, _LARGEST_EXPONENT)
    mills = xp.exp(exponent + _HALF_LOG_TAU) - _tail_polynomial(alpha)
    blocked = 1.0 + stirling * (rooted * mills + c0 + c1 / c)
    waits = 1.0 / (rho + spare * blocked)
    return xp.where(stable, xp.where(offered > 0.0, waits, 0.0), 1.0)


def _near_full_use(xp: Any, spare: Array) -> tuple[Array, Array, Array]:
    """Return -eta, c0 and c1 from their series, as the differences cancel near full use."""
    series = 1.0 + spare * (2 / 3 + spare * (1 / 2 + spare * (2 / 5 + spare * (1 / 3 + spare * (2 / 7)))))
    root = spare * xp.sqrt(series)
    c0 = -1 / 3 - root * (1 / 12 + root * (2 / 135 + root * (1 / 864)))
    c1 = -1 / 540 + root * (1 / 288 + root * (25 / 12096))
    return root, c0, c1


def late_share(xp: Any, servers: Array, offered: Array, service_times: Array) -> Array:
    """Return P(wait > t) of an M/M/c queue: C exp(-(c mu - lambda) t), or 1 in overload.

    servers, offered: see `wait_probability`. service_times: t in mean service times (t mu), 0 or more.
    """
    spare = xp.clip(servers - offered, 0.0, None)
    return wait_probability(xp, servers, offered) * xp.exp(-spare * service_times)


def replicas_needed(xp: Any, demand: Array, concurrency: Array, service_times: Array, late: Array) -> Array:
    """Return the least replicas with which at most a share `late` of requests waits too long, whole, float64.

    demand: replicas in use at the arrival rate, 0 to 40,000. concurrency: requests a replica serves at once,
    whole. service_times: the tolerable wait in mean service times. late: share, 1e-7 or more. All (N,)
    float64, finite. Zero demand needs no replica.

    Bisection: at `floor(demand)` replicas the queue is unstable or full, and 6 standard deviations of the
    Poisson number of busy servers, plus 20 servers for small loads, are enough for every share from 1e-7 up.
    """
    offered = demand * concurrency
    low = xp.floor(demand)
    high = xp.ceil((offered + 6.0 * xp.sqrt(offered) + 20.0) / concurrency)
    for _ in range(_BISECTIONS):
        middle = xp.floor(0.5 * (low + high))
        servers = xp.clip(middle * concurrency, 1.0, None)
        enough = (late_share(xp, servers, offered, service_times) <= late) & (middle > low)
        high = xp.where(enough, middle, high)
        low = xp.where(enough, low, middle)
    return xp.where(demand > 0.0, high, xp.zeros_like(high))
