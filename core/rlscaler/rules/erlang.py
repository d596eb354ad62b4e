"""The queueing controller: the fewest replicas with which an M/M/c queue meets the objective.

The rate is the demand now at an upper confidence bound (counts scatter), with an allowance for growth until
an order serves. A request is late when it waits longer than the objective's latency less its own service
time.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from rlscaler.arrays import State
from rlscaler.erlang import replicas_needed
from rlscaler.policy import Proposal, View
from rlscaler.rules.parameters import Parameter, backlog_replicas, check, unknown, values

_SHORTEST_WAIT = 1e-3
"""Seconds that a request may wait at least, where the service time alone takes up the objective."""
_MOST_REPLICAS = 20_000.0
_STANDARD_PRICE = 20.0


@dataclass(slots=True, kw_only=True, eq=False)
class Erlang:
    """Erlang-C for the share of late requests; each constant a float or an array of shape (N,).

    `late` is 1 - target share at the standard price of 20 (an objective of 99.9 %) and moves against the
    price, so that a stricter objective never lowers replicas.
    """

    PARAMETERS: ClassVar[dict[str, Parameter]] = {
        "late": Parameter(0.005, 1e-5, 0.2, True, "share of requests that may be late, 1 - target, at a price of 20"),
        "confidence": Parameter(2.0, 0.0, 4.0, False, "standard deviations of the measured rate added to it"),
        "growth": Parameter(0.25, 0.0, 1.0, False, "growth allowed for until an order serves, share of the rate"),
        "fano": Parameter(2.0, 0.5, 10.0, True, "variance of arrivals over their mean within the window"),
        "window": Parameter(15.0, 5.0, 120.0, True, "seconds over which the rate is measured"),
        "drain": Parameter(15.0, 2.0, 120.0, True, "seconds within which the backlog is to be drained"),
        "hold": Parameter(60.0, 0.0, 300.0, False, "seconds to keep replicas before lowering them"),
    }
    late: Any = PARAMETERS["late"].default
    confidence: Any = PARAMETERS["confidence"].default
    growth: Any = PARAMETERS["growth"].default
    fano: Any = PARAMETERS["fano"].default
    window: Any = PARAMETERS["window"].default
    drain: Any = PARAMETERS["drain"].default
    hold: Any = PARAMETERS["hold"].default
    name: str = "erlang"

    def __post_init__(self) -> None:
        """Raise ValueError for a parameter that is no finite number."""
        check(self)

    def state(self, n: int) -> State:
        """Return no state."""
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the fewest replicas for the objective, NaN where the demand is unknown. Never falls with
        load.

        The measured rate of r requests/s over w seconds has variance r x fano / w.
        """
        xp, p, settings = view.xp, values(self, view), view.settings
        capacity, concurrency = settings["capacity_per_replica"], settings["concurrency"]
        known = ~xp.isnan(view.demand) & ~xp.isnan(capacity)
        capacity = xp.where(known, capacity, xp.ones_like(capacity))
        rate = xp.where(known, view.demand, xp.zeros_like(capacity)) * capacity
        rate = rate + p["confidence"] * xp.sqrt(rate * p["fano"] / p["window"])
        demand = rate * (1.0 + p["growth"]) / capacity + backlog_replicas(view, p["drain"])
        service = concurrency / capacity
        wait = xp.clip(settings["latency"] - service, _SHORTEST_WAIT, None)
        late = xp.clip(p["late"] * _STANDARD_PRICE / settings["price"], 1e-7, 0.5)
        demand = xp.clip(demand, 0.0, _MOST_REPLICAS)
        replicas = replicas_needed(xp, demand, concurrency, wait / service, late)
        patience = xp.zeros_like(replicas) + p["hold"]
        return Proposal(replicas=xp.where(known, replicas, unknown(view)), patience=patience), state
