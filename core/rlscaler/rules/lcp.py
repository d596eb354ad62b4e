"""Lazy capacity provisioning: keep the count until the best course so far would hold fewer, or more.

Minghong Lin, Adam Wierman, Lachlan Andrew, Eno Thereska, "Dynamic right-sizing for power-proportional data
centers", INFOCOM 2011; for whole replicas Susanne Albers, Jens Quedenfeld, arXiv 1807.05112: never worse than
three times the clairvoyant, and no deterministic rule without a forecast does better. With convex costs f_t
and a switching cost of beta per added replica, let C_t(x) be the least cost of a course over the steps so far
that ends in x (its work function). The lower bound is the smallest minimiser of C_t, the upper bound the
largest minimiser of C_t(x) - beta x (the same course with releases paid instead of additions). The last
decision is projected between.

The step C_t = f_t + min-plus of C_{t-1} with the switching cost is, for a convex C, nothing but clipping the
slopes of C_{t-1} to [0, beta] and adding those of f_t. So both work functions are kept as one array of
slopes, between neighbouring levels of a grid; the bounds are counts of slopes below 0 and of slopes up to
beta. Exact wherever the grid holds every whole number (up to 127 replicas); beyond, costs are linear between
the grid's levels.

The algorithm knows no start-up delay. It sees demand that is `lag` old and its orders serve after `startup`,
that is, it runs on demand shifted by both; `growth` allows for what happens in between.

Cost of a step, in replicas x intervals: f(x) = x + price x d x late(x - d), with late(free) = exp(-sharpness
x free) above the demand d, and continued by its tangent, 1 - sharpness x free, where replicas are missing
(convex, and unbounded, as a backlog's cost must be). beta = switching x startup / interval: the bill of a
start-up.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.policy import Proposal, View
from rlscaler.rules.parameters import Parameter, backlog_replicas, check, like, unknown, values

LEVELS = 128
EXACT = 64


@dataclass(slots=True, kw_only=True, eq=False)
class Lcp:
    """Lazy capacity provisioning; each constant a float or an array of shape (N,)."""

    PARAMETERS: ClassVar[dict[str, Parameter]] = {
        "growth": Parameter(0.1, -0.1, 0.6, False, "log growth allowed for between a sample and its order serving"),
        "sharpness": Parameter(1.0, 0.1, 8.0, True, "decay of the late share for each free replica"),
        "price": Parameter(1.0, 0.1, 10.0, True, "multiples of the objective's price of late requests"),
        "switching": Parameter(1.0, 0.1, 30.0, True, "cost of adding a replica, multiples of its start-up's bill"),
        "drain": Parameter(15.0, 2.0, 120.0, True, "seconds within which the backlog is to be drained"),
    }
    growth: Any = PARAMETERS["growth"].default
    sharpness: Any = PARAMETERS["sharpness"].default
    price: Any = PARAMETERS["price"].default
    switching: Any = PARAMETERS["switching"].default
    drain: Any = PARAMETERS["drain"].default
    name: str = "lcp"

    def __post_init__(self) -> None:
        """Raise ValueError for a parameter that is no finite number."""
        check(self)

    def state(self, n: int) -> State:
        """Return `slopes` (n, 127) float32, and `decision` and `top`, (n,) float64.

        slopes: of the work function. decision: the last one. top: the last level of the grid. Both are NaN
        before the first decision.
        """
        return {
            "slopes": np.zeros((n, LEVELS - 1), np.float32),
            "decision": np.full(n, np.nan),
            "top": np.full(n, np.nan),
        }

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the projected decision, NaN where the demand is unknown (the state then stays as it is).

        A row starts, or starts again when maxReplicas (and with it the grid) changed, from the current count.
        """
        xp, p, settings = view.xp, values(self, view), view.settings
        known = ~xp.isnan(view.demand)
        demand = xp.where(known, view.demand, 0.0) * xp.exp(p["growth"]) + backlog_replicas(view, p["drain"])
        beta = p["switching"] * settings["startup"] / settings["interval"]
        top = xp.clip(settings["max_replicas"], LEVELS - 1.0, None)
        old = {name: like(view, array) for name, array in state.items()}
        fresh = xp.isnan(old["decision"]) | (old["top"] != top)
        start = xp.where(xp.isnan(view.current), xp.ceil(demand), view.current)
        start = xp.clip(start, 0.0, top)
        decision = xp.where(fresh, start, old["decision"])

        def rows(value: Array) -> Array:
            return xp.astype(value, xp.float32)[..., None]

        index = xp.arange(LEVELS, dtype=xp.float32, device=getattr(demand, "device", None))[None, :]
        last, cap = rows(top), rows(beta)
        grid = level(xp, index, last)
        slopes = xp.where(fresh[:, None], xp.where(grid[:, :-1] >= rows(start), cap, xp.zeros_like(cap)), old["slopes"])
        cost = step_cost(xp, grid, rows(demand), rows(settings["price"] * p["price"]), rows(p["sharpness"]))
        slopes = advanced(xp, slopes, cost, grid, cap)
        lower, upper = (xp.astype(level(xp, rows(bound), last)[:, 0], xp.float64) for bound in bounds(xp, slopes, cap))
        lazy = xp.clip(decision, lower, upper)
        after = {
            "slopes": xp.where(known[:, None], slopes, old["slopes"]),
            "decision": xp.where(known, lazy, old["decision"]),
            "top": xp.where(known, top, old["top"]),
        }
        return Proposal(replicas=xp.where(known, lazy, unknown(view))), after


def level(xp: Any, index: Array, top: Array) -> Array:
    """Return the replicas that a place of the grid stands for: 0..64 exactly, then geometric up to `top`.

    index: 0 to 127, floating. top: 127 or more, which for 127 gives every whole number. Broadcasts.
    """
    share = (index - EXACT) / (LEVELS - 1 - EXACT)
    geometric = xp.round(EXACT * xp.exp(share * xp.log(top / EXACT)))
    return xp.where((index > EXACT) & (geometric > index), geometric, index)


def step_cost(xp: Any, replicas: Array, demand: Array, price: Array, sharpness: Array) -> Array:
    """Return replicas + price x demand x late share, in replicas for one interval; convex, broadcasts."""
    free = replicas - demand
    late = xp.exp(-sharpness * xp.clip(free, 0.0, None)) - sharpness * xp.clip(free, None, 0.0)
    return replicas + price * demand * late


def advanced(xp: Any, slopes: Array, cost: Array, grid: Array, beta: Array) -> Array:
    """Return the work function's slopes after a step: clipped to [0, beta], plus those of the step's cost.

    slopes: (N, G - 1). cost, grid: (N, G). beta: (N, 1).
    """
    return xp.clip(slopes, 0.0, beta) + (cost[:, 1:] - cost[:, :-1]) / (grid[:, 1:] - grid[:, :-1])


def bounds(xp: Any, slopes: Array, beta: Array) -> tuple[Array, Array]:
    """Return the places on the grid of the lower and the upper bound, (N,) whole numbers."""
    return xp.count_nonzero(slopes < 0.0, axis=1), xp.count_nonzero(slopes <= beta, axis=1)
