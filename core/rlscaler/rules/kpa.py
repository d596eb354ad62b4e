"""Knative's way: the mean load of a minute, and a panic in which the count only rises.

What is mirrored (knative.dev/serving, pkg/autoscaler/scaling/autoscaler.go, with the metric `rps`):

- desired = ceil(mean over the stable window / target); the same over the panic window, a share of the former.
- Both lie between the ready pods / max-scale-down-rate, rounded down, and the ready pods x max-scale-up-rate, rounded
  up; where no pod is ready, one counts.
- A panic begins where the panic window asks for threshold x the ready pods, and with the first decision of a workload
  of several replicas; it ends once a stable window has passed without that. During it the larger of both windows is
  asked for, and never less than before in the same panic.

Knative decides every 2 s on samples of a second. Here a decision and a sample come at the workload's interval, so a
panic window that is shorter than that holds the last sample alone. The activator, which keeps requests while there is
no pod, is not part of a rule.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.policy import Proposal, View
from rlscaler.rules.parameters import Parameter, check, like, unknown, values

SAMPLES = 60
"""Samples that are kept at most: five minutes of one every 5 s."""


@dataclass(slots=True, kw_only=True, eq=False)
class Kpa:
    """The Knative Pod Autoscaler on requests/s; each constant a float or an array (N,)."""

    PARAMETERS: ClassVar[dict[str, Parameter]] = {
        "target": Parameter(0.7, 0.3, 0.98, False, "load per replica, share of a replica's capacity"),
        "window": Parameter(60.0, 6.0, 300.0, True, "stable window, seconds"),
        "panic": Parameter(0.1, 0.01, 1.0, True, "panic window, share of the stable one"),
        "threshold": Parameter(2.0, 1.1, 10.0, True, "panic threshold, multiples of the ready replicas"),
        "rise": Parameter(1000.0, 1.1, 1000.0, True, "max-scale-up-rate, multiples of the ready replicas"),
        "fall": Parameter(2.0, 1.1, 1000.0, True, "max-scale-down-rate, by which the ready replicas are divided"),
    }
    target: Any = PARAMETERS["target"].default
    window: Any = PARAMETERS["window"].default
    panic: Any = PARAMETERS["panic"].default
    threshold: Any = PARAMETERS["threshold"].default
    rise: Any = PARAMETERS["rise"].default
    fall: Any = PARAMETERS["fall"].default
    name: str = "kpa"

    def __post_init__(self) -> None:
        """Raise ValueError for a parameter that is no finite number."""
        check(self)

    def state(self, n: int) -> State:
        """Return `loads` (replicas) and `times` (n, SAMPLES), oldest first; `panic_at`, `most` (n,); all float64.

        panic_at: when the threshold was passed last, NaN before the first decision, -inf without a panic. most:
        replicas asked for in this panic.
        """
        return {
            "loads": np.full((n, SAMPLES), np.nan),
            "times": np.full((n, SAMPLES), np.nan),
            "panic_at": np.full(n, np.nan),
            "most": np.zeros(n),
        }

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return whole replicas, NaN where the load or the ready replicas are unknown (the state stays as it is)."""
        xp, p = view.xp, values(self, view)
        now, ready = view.snapshot["time"], view.snapshot["ready"]
        known = ~xp.isnan(view.demand) & ~xp.isnan(ready)
        old = {name: like(view, array) for name, array in state.items()}
        loads = xp.concat([old["loads"][:, 1:], view.demand[:, None]], axis=1)
        times = xp.concat([old["times"][:, 1:], now[:, None]], axis=1)
        some = xp.clip(ready, 1.0, None)
        least, largest = xp.floor(some / p["fall"]), xp.ceil(some * p["rise"])
        stable, panic = (
            xp.ceil(_mean(xp, loads, times, now, seconds) / p["target"] - 1e-9) + 0.0
            for seconds in (p["window"], p["panic"] * p["window"])
        )

        first = xp.isnan(old["panic_at"])
        never = xp.full_like(now, -xp.inf)
        began = xp.where(first, xp.where(ready > 1.0, now, never), old["panic_at"])
        most = xp.where(first, xp.where(ready > 1.0, ready, 0.0), old["most"])
        over = panic / some >= p["threshold"]
        began = xp.where(over, now, xp.where(began + p["window"] < now, never, began))
        panics = xp.isfinite(began)
        wanted = xp.clip(stable, least, largest)
        most = xp.where(panics, xp.maximum(most, xp.maximum(wanted, xp.clip(panic, least, largest))), 0.0)
        replicas = xp.where(panics, most, wanted)

        news = {"loads": loads, "times": times, "panic_at": began, "most": most}
        after = {
            name: xp.where(known if array.ndim == 1 else known[:, None], array, old[name])
            for name, array in news.items()
        }
        tied = known & (replicas != xp.maximum(stable, xp.where(panics, panic, stable)))
        return Proposal(replicas=xp.where(known, replicas, unknown(view)), tolerated=known, relative=tied), after


def _mean(xp: Any, loads: Array, times: Array, now: Array, seconds: Array) -> Array:
    """Return the mean of the samples of the last seconds, and at least of the newest, (N,)."""
    age = now[:, None] - times
    used = xp.isfinite(loads) & (age < xp.clip(xp.zeros_like(now) + seconds, 1e-3, None)[:, None])
    count = xp.clip(xp.sum(xp.astype(used, xp.float64), axis=1), 1.0, None)
    return xp.sum(xp.where(used, loads, 0.0), axis=1) / count
