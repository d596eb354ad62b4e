"""Seasonal forecast with model-predictive control: plan four reaction times ahead, make the first order.

Forecast. With R = interval + lag + start-up (the reaction time), demand is forecast for the slots j = 0..8,
half a reaction time apart: ln(D_j + 1/2) is normal with mean ln(level + 1/2) + bias + season x ahead_j,
`ahead` being the log growth of the workload's own day and week profile, and with standard deviation sigma x
noise x sqrt(k_j), k_j the decision intervals between the middle of the samples behind `level` and slot j
(errors of a random walk grow with the square root of the horizon).

Plan. Minimise, over the replicas n_j of the slots,

    sum_j n_j + price x lack x E[(D_j - n_j)+]  +  restart x start-up / (R/2) x sum_j (n_j - n_{j-1})+

in replicas x half reaction times: the bill, the requests above capacity (each missing replica makes `lack`
replicas' worth of requests late, those that queue behind it included), and the bill of replicas that start
and do not serve. An order made now serves from slot 2 on, a release acts at once, so replicas that do not
stand today cannot be used in slots 0 and 1, and the order that carries out a plan is max(n_0, n_1, n_2).

Solution. E[(D - n)+] is convex with slope -P(D > n), so the plan splits into independent layers: the x-th
replica (x real) is worth keeping in a slot at m_j(x) = 1 - price x lack x P(D_j > x), the newsvendor's
marginal cost, and starting it costs the third term. Each layer is on or off: a dynamic programme with two
states over nine slots, exact. m_j rises with x, so the layers that are on are nested, and bisection on x
finds the highest layer that is on in slot 0, 1 or 2: the order. Where a layer stands already this is the rule
of keep or release: it is kept through a lull whenever the lull's bill is below the cost of starting again.
Splitting convex problems with switching costs into layers: Lin, Wierman, Andrew, Thereska, INFOCOM 2011;
Albers, Quedenfeld, arXiv 1807.05112.

The plan takes the forecast's mean as it stands, though it is made of two noisy samples: `hold` (patience)
keeps one low pair from releasing what the next would start again.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from rlscaler.arrays import Array, State
from rlscaler.erlang import normal_tail
from rlscaler.policy import Proposal, View
from rlscaler.rules.parameters import Parameter, backlog_replicas, check, unknown, values

SLOTS = 9
_LIMIT = 4.0
"""Layers are searched between level / e^4 and level x e^4."""
_BISECTIONS = 20
"""Finds a layer within 8 / 2^20 of itself: less than a tenth of a replica up to 10,000."""
_LEAST_SIGMA = 0.005
_NOISE_UNKNOWN = 0.1


@dataclass(slots=True, kw_only=True, eq=False)
class Mpc:
    """Seasonal forecast and a plan over nine slots; each constant a float or an array of shape (N,)."""

    PARAMETERS: ClassVar[dict[str, Parameter]] = {
        "bias": Parameter(0.0, -0.2, 0.3, False, "added to the forecast's logarithm"),
        "season": Parameter(1.0, 0.0, 1.5, False, "weight of the growth that the day and week profile foretells"),
        "sigma": Parameter(0.7, 0.05, 3.0, True, "forecast error over one interval, multiples of the load's noise"),
        "lack": Parameter(4.0, 0.2, 50.0, True, "late requests for each missing replica, replicas' worth"),
        "restart": Parameter(1.0, 0.1, 20.0, True, "cost of starting a replica, multiples of its start-up's bill"),
        "slack": Parameter(0.3, 0.0, 1.5, False, "replicas for each square root of the level, on top of the plan"),
        "drain": Parameter(15.0, 2.0, 120.0, True, "seconds within which the backlog is to be drained"),
        "hold": Parameter(60.0, 0.0, 300.0, False, "seconds to keep replicas before lowering them"),
    }
    bias: Any = PARAMETERS["bias"].default
    season: Any = PARAMETERS["season"].default
    sigma: Any = PARAMETERS["sigma"].default
    lack: Any = PARAMETERS["lack"].default
    restart: Any = PARAMETERS["restart"].default
    slack: Any = PARAMETERS["slack"].default
    drain: Any = PARAMETERS["drain"].default
    hold: Any = PARAMETERS["hold"].default
    name: str = "mpc"

    def __post_init__(self) -> None:
        """Raise ValueError for a parameter that is no finite number."""
        check(self)

    def state(self, n: int) -> State:
        """Return no state: the plan is made anew at every decision."""
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the plan's first order, NaN where the demand is unknown.

        Reads the features `level` (replicas), `noise_5m`, `noise_1h` (root mean square of log steps) and
        `ahead` (N, 8); where one of them is NaN, the demand now, a noise of 0.1, and no growth stand in.
        """
        xp, p, settings = view.xp, values(self, view), view.settings
        level = xp.astype(view.features["level"], xp.float64)
        level = xp.where(xp.isnan(level), view.demand, level)
        short, long = (xp.astype(view.features[name], xp.float64) for name in ("noise_5m", "noise_1h"))
        noise = xp.sqrt(0.5 * (short * short + long * long))
        noise = xp.where(xp.isnan(noise), _NOISE_UNKNOWN, noise)
        ahead = xp.astype(view.features["ahead"], xp.float64)
        ahead = xp.where(xp.isnan(ahead), 0.0, ahead)
        ahead = xp.concat([xp.zeros_like(ahead[:, :1]), ahead], axis=1).T

        interval, lag, startup = settings["interval"], settings["lag"], settings["startup"]
        half = 0.5 * (interval + lag + startup)
        slot = xp.arange(SLOTS, dtype=xp.float64, device=getattr(level, "device", None))[:, None]
        steps = (slot * half + lag) / interval + 0.5
        mean = p["bias"] + p["season"] * ahead
        sigma = xp.clip(p["sigma"] * noise * xp.sqrt(steps), _LEAST_SIGMA, None)
        extra = p["slack"] * xp.sqrt(level) + backlog_replicas(view, p["drain"])
        standing = xp.log(xp.clip(view.current - extra + 0.5, 1e-9, None) / (level + 0.5))
        headroom = first_order(xp, mean, sigma, standing, settings["price"] * p["lack"], p["restart"] * startup / half)
        replicas = xp.clip((level + 0.5) * xp.exp(headroom) - 0.5, 0.0, None) + extra
        replicas = xp.where(xp.isnan(view.demand), unknown(view), replicas)
        return Proposal(replicas=replicas, patience=xp.zeros_like(replicas) + p["hold"]), state


def first_order(xp: Any, mean: Array, sigma: Array, standing: Array, lack: Array, restart: Array) -> Array:
    """Return the order of the best plan as a log headroom, (N,) float64, within 8e-6 below it.

    mean, sigma: (9, N) of the log demand relative to the present level. standing: (N,) log headroom of the
    replicas that are ordered now. lack: (N,) cost of a missing replica in one slot, and restart: (N,) cost of
    starting one, both in replicas x slots.
    """
    low = xp.full_like(standing, -_LIMIT)
    high = xp.full_like(standing, _LIMIT)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        marginal = 1.0 - lack * normal_tail(xp, (middle - mean) / sigma)
        ordered = _is_ordered(xp, marginal, middle <= standing, restart)
        low = xp.where(ordered, middle, low)
        high = xp.where(ordered, high, middle)
    return low


def _is_ordered(xp: Any, marginal: Array, stands: Array, restart: Array) -> Array:
    """Return whether a layer is on in slot 0, 1 or 2 of its best plan, (N,) bool; off where it makes no
    difference.

    marginal: (9, N) cost of being on in each slot against being off. stands: (N,) the layer is on now.
    """
    on = off = xp.zeros_like(restart)
    for slot in range(SLOTS - 1, 2, -1):
        stay = marginal[slot, ...] + on
        on, off = xp.minimum(stay, off), xp.minimum(off, restart + stay)
    stay = marginal[2, ...] + on
    started = xp.minimum(off, restart + stay)
    kept = xp.minimum(off, stay)
    kept = xp.minimum(started, marginal[1, ...] + kept)
    kept = xp.minimum(started, marginal[0, ...] + kept)
    return xp.where(stands, kept, started) < off
