"""An HPA that looks ahead: a straight line through its last counts, continued for a while; the larger answer wins.

What is mirrored is the PredictiveHorizontalPodAutoscaler (github.com/jthomperoo/predictive-horizontal-pod-autoscaler,
0.13) with one model of type Linear and decisionType maximum, its default:

- At each sync the count that an HPA would take, tolerance included, joins a history; a sync without one adds nothing.
- A line is fitted to the history by ordinary least squares over time, and read at now + lookAhead; a history of one
  entry says what it is. The last historySize entries and the new one are fitted, as old ones are dropped afterwards.
- The larger of the line, rounded up, and the HPA's count is asked for; scale-down stabilisation is patience (`hold`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.policy import Proposal, View
from rlscaler.reasons import Reason
from rlscaler.rules.hpa import average, desired_replicas
from rlscaler.rules.parameters import Parameter, check, like, stabilized, unknown, values

LONGEST = 40
"""Entries of the history that are kept at most."""


@dataclass(slots=True, kw_only=True, eq=False)
class Phpa:
    """An HPA on the load per replica and a linear model of its counts; each constant a float or an array (N,)."""

    PARAMETERS: ClassVar[dict[str, Parameter]] = {
        "target": Parameter(0.7, 0.3, 0.98, False, "load per replica, share of a replica's capacity"),
        "tolerance": Parameter(0.1, 0.0, 0.2, False, "share of the target by which nothing changes"),
        "hold": Parameter(300.0, 0.0, 300.0, False, "scale-down stabilisation, seconds"),
        "ahead": Parameter(10.0, 5.0, 300.0, True, "lookAhead of the model, seconds"),
        "size": Parameter(6.0, 2.0, float(LONGEST), True, f"historySize of the model, {LONGEST} at most"),
    }
    target: Any = PARAMETERS["target"].default
    tolerance: Any = PARAMETERS["tolerance"].default
    hold: Any = PARAMETERS["hold"].default
    ahead: Any = PARAMETERS["ahead"].default
    size: Any = PARAMETERS["size"].default
    name: str = "phpa"

    def __post_init__(self) -> None:
        """Raise ValueError for a parameter that is no finite number."""
        check(self)

    def state(self, n: int) -> State:
        """Return `counts`, `times` (n, LONGEST) float64, oldest first, NaN where there is no entry yet."""
        return {"counts": np.full((n, LONGEST), np.nan), "times": np.full((n, LONGEST), np.nan)}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return whole replicas; NaN where an HPA would report an error, and the history then stays as it is."""
        xp, p, settings = view.xp, values(self, view), view.settings
        metric = average(xp, view.snapshot["load"], p["target"] * settings["capacity_per_replica"])
        count, held = desired_replicas(
            xp, view.current, view.snapshot["ready"], [metric], p["tolerance"], p["tolerance"]
        )
        known = ~xp.isnan(count)
        now = view.snapshot["time"]
        counts, times = (like(view, state[name]) for name in ("counts", "times"))
        both = (xp.concat([old, new[:, None]], axis=1) for old, new in ((counts, count), (times, now)))
        seen_counts, seen_times = both
        line = xp.ceil(_read(xp, seen_counts, seen_times, now, p["ahead"], p["size"]) - 1e-9) + 0.0
        after = {
            "counts": xp.where(known[:, None], seen_counts[:, 1:], counts),
            "times": xp.where(known[:, None], seen_times[:, 1:], times),
        }
        replicas = xp.where(known, xp.maximum(count, line), unknown(view))
        held = held & known & (replicas == view.current)
        reasons = xp.astype(held, xp.int64) * int(Reason.WithinTolerance)
        patience = xp.zeros_like(replicas) + stabilized(view, p["hold"])
        return Proposal(replicas=replicas, reasons=reasons, patience=patience, tolerated=known, relative=held), after


def _read(xp: Any, counts: Array, times: Array, now: Array, ahead: Array, size: Array) -> Array:
    """Return where the line stands at now + ahead, (N,) float64.

    counts, times: (N, LONGEST + 1), the newest last, NaN = no entry. size: of the history, before the newest joins.
    """
    place = xp.arange(LONGEST, -1, -1, dtype=xp.float64, device=getattr(now, "device", None))
    used = xp.isfinite(counts) & (place <= xp.floor(xp.zeros_like(now) + size)[:, None])
    weight = xp.astype(used, xp.float64)
    # Seconds before the moment that is asked about, so that the line is read at 0.
    age = xp.where(used, (now + ahead)[:, None] - times, 0.0)
    count = xp.where(used, counts, 0.0)
    n = xp.clip(xp.sum(weight, axis=1), 1.0, None)
    age_mean, count_mean = xp.sum(age, axis=1) / n, xp.sum(count, axis=1) / n
    off = (age - age_mean[:, None]) * weight
    spread = xp.sum(off * off, axis=1)
    slope = xp.sum(off * count, axis=1) / xp.where(spread > 0.0, spread, 1.0)
    return count_mean - slope * age_mean * xp.astype(spread > 0.0, xp.float64)
