"""KEDA's way: two `prometheus` triggers (request rate, backlog) that feed an HPA, and scaling to zero.

What is mirrored (KEDA 2.x, keda.sh/docs, scalers/prometheus and concepts/scaling-deployments):

- Each trigger is an external metric of type AverageValue. HPA asks for ceil(metric / threshold), keeps the
  count where metric / (threshold x count) is within its tolerance of 1, and takes the largest answer of the
  triggers.
- A trigger is active where its metric is strictly greater than its activation threshold. KEDA looks once in a
  polling interval, takes a target from 0 to max(1, minReplicas) when any trigger is active, and from N to 0
  when none was for the cooldown period; with minReplicas above 0 neither happens. Between, HPA never goes
  below 1.
- HPA's scale-down stabilisation is asked for as patience (`hold`).

Unlike KEDA, whose `ignoreNullValues` reads a missing metric as 0, an unknown load gives no answer. An unknown
backlog leaves the rate alone to decide. Thresholds are relative to the capacity of a replica, so that one set
of constants serves every workload: threshold = `target` x capacity requests/s, and `wait` x capacity
requests.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.policy import Proposal, View
from rlscaler.reasons import Reason
from rlscaler.rules.parameters import Parameter, check, like, stabilized, unknown, values


@dataclass(slots=True, kw_only=True, eq=False)
class Keda:
    """Request rate and backlog over thresholds, the larger count; each constant a float or an array (N,)."""

    PARAMETERS: ClassVar[dict[str, Parameter]] = {
        "target": Parameter(0.7, 0.3, 0.98, False, "threshold of the request rate, share of a replica's capacity"),
        "wait": Parameter(5.0, 0.5, 120.0, True, "threshold of the backlog, seconds of a replica's work"),
        "tolerance": Parameter(0.1, 0.0, 0.2, False, "HPA's tolerance, share of the metric's target"),
        "hold": Parameter(300.0, 0.0, 300.0, False, "HPA's scale-down stabilisation, seconds"),
        "activation": Parameter(0.0, 0.0, 0.1, False, "demand that activates, replicas; a backlog always does"),
        "cooldown": Parameter(300.0, 0.0, 3600.0, False, "seconds without activity before going to 0"),
        "polling": Parameter(30.0, 5.0, 60.0, False, "seconds between looks at activity"),
    }
    target: Any = PARAMETERS["target"].default
    wait: Any = PARAMETERS["wait"].default
    tolerance: Any = PARAMETERS["tolerance"].default
    hold: Any = PARAMETERS["hold"].default
    activation: Any = PARAMETERS["activation"].default
    cooldown: Any = PARAMETERS["cooldown"].default
    polling: Any = PARAMETERS["polling"].default
    name: str = "keda"

    def __post_init__(self) -> None:
        """Raise ValueError for a parameter that is no finite number."""
        check(self)

    def state(self, n: int) -> State:
        """Return `polled`, `active_at` (n,) float64, seconds, -inf before; and `active` (n,) bool."""
        return {
            "polled": np.full(n, -np.inf),
            "active_at": np.full(n, -np.inf),
            "active": np.zeros(n, np.bool),
        }

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return whole replicas, NaN where the load is unknown (the state then stays as it is)."""
        xp, p = view.xp, values(self, view)
        demand, current, time = view.demand, view.current, view.snapshot["time"]
        work = view.snapshot["backlog"] / view.settings["capacity_per_replica"]
        work = xp.where(xp.isnan(work), 0.0, work)

        known = ~xp.isnan(demand)
        due = known & (time - like(view, state["polled"]) >= p["polling"])
        seen = (demand > p["activation"]) | (work > 0.0)
        active = xp.where(due, seen, like(view, state["active"]))
        active_at = xp.where(due & seen, time, like(view, state["active_at"]))
        after = {
            "polled": xp.where(due, time, like(view, state["polled"])),
            "active_at": active_at,
            "active": active,
        }

        by_rate, rate_held = _average_value(xp, demand / p["target"], current, p["tolerance"])
        by_work, work_held = _average_value(xp, work / p["wait"], current, p["tolerance"])
        steady = xp.clip(xp.maximum(by_rate, by_work), 1.0, None)
        within = xp.where(by_rate >= by_work, rate_held, work_held) & (steady == current)

        to_zero = view.settings["min_replicas"] <= 0
        idle = ~active & (time - active_at > p["cooldown"])
        one = xp.ones_like(steady)
        from_zero = xp.where(active, xp.where(to_zero, one, view.settings["min_replicas"]), xp.zeros_like(steady))
        replicas = xp.where(current == 0.0, from_zero, xp.where(to_zero & idle, xp.zeros_like(steady), steady))
        replicas = xp.where(known, replicas, unknown(view))
        held = within & known & (replicas == current)
        reasons = xp.astype(held, xp.int64) * int(Reason.WithinTolerance)
        patience = xp.zeros_like(demand) + stabilized(view, p["hold"])
        return Proposal(replicas=replicas, reasons=reasons, patience=patience, tolerated=known, relative=held), after


def _average_value(xp: Any, wanted: Array, current: Array, tolerance: Array) -> tuple[Array, Array]:
    """Return HPA's count for an AverageValue metric, and where it lies within the tolerance.

    wanted: metric / threshold, in replicas, not rounded. From 0 replicas the tolerance says nothing.
    """
    ratio = wanted / xp.where(current > 0.0, current, xp.ones_like(current))
    held = (current > 0.0) & (ratio >= 1.0 - tolerance) & (ratio <= 1.0 + tolerance)
    return xp.where(held, current, xp.ceil(wanted - 1e-9)), held
