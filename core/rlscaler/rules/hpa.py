"""What a HorizontalPodAutoscaler recommends for N workloads: metrics to replicas, before any `behavior`.

It is the rule that everyone has, so learned policies are measured against it and people read decisions in its
terms. The arithmetic follows kubernetes/pkg/controller/podautoscaler/replica_calculator.go (v1.37) in its
order of operations, so that rounding agrees; sets of pods are given as counts and sums, which is all that it
looks at as long as the pods of a workload request the same. Quantities of pods are thousandths (milli-values)
as there, because it truncates their means to whole thousandths and their utilisation to whole percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.policy import Proposal, View
from rlscaler.reasons import Reason
from rlscaler.rules.parameters import Parameter, like, stabilized

Kind = Literal["Value", "AverageValue", "Pods", "Utilization"]

MAX_REPLICAS = 2.0**31 - 1.0
"""math.MaxInt32, where the controller caps a count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric of N workloads; total has shape (N,), the others (N,) or (), float64; NaN = unknown.

    kind: "Value" and "AverageValue" targets of an Object or External metric, where only total / target
    counts; "Pods", the mean over pods of a Pods metric or of a resource with an AverageValue target;
    "Utilization", the mean over pods of a resource in percent of its request. target: above 0; thousandths
    for Pods, percent for Utilization. total: sum over the workload; over the `pods` that are ready and have
    metrics for Pods and Utilization, in thousandths. missing: pods without metrics. unready: pods whose
    metrics do not count yet, pending ones included. request: thousandths that each pod requests.
    """

    kind: Kind
    target: Array
    total: Array
    pods: Array = 0.0
    missing: Array = 0.0
    unready: Array = 0.0
    request: Array = 1000.0


def within(ratio: Array, up_tolerance: Array, down_tolerance: Array) -> Array:
    """Return where the ratio of usage to target asks for no action: Tolerances.isWithin, ends included."""
    return (1.0 - down_tolerance <= ratio) & (ratio <= 1.0 + up_tolerance)


def desired_replicas(
    xp: Any,
    current: Array,
    ready: Array,
    metrics: Sequence[Metric],
    up_tolerance: Array,
    down_tolerance: Array,
) -> tuple[Array, Array]:
    """Return the replicas that the metrics ask for, and where that is `current` because of the tolerance.

    current: (N,) float64 replicas that the target asks for, and is taken to have. ready: (N,) float64 running
    and ready pods. Returns (N,) float64 whole replicas, NaN where the controller reports an error and leaves
    the target alone, and (N,) bool.

    computeReplicasForMetrics: the largest proposal wins; a metric that could not be read stops a scale-down
    but no scale-up; without any metric nothing happens.
    """
    largest, held = xp.zeros_like(current), xp.zeros_like(current, dtype=xp.bool)
    every, some = xp.ones_like(held), xp.zeros_like(held)
    for metric in metrics:
        if metric.kind == "Value":
            replicas, kept, valid = _value(xp, metric, current, ready, up_tolerance, down_tolerance)
        elif metric.kind == "AverageValue":
            replicas, kept, valid = _average_value(xp, metric, current, up_tolerance, down_tolerance)
        else:
            replicas, kept, valid = _pods(xp, metric, current, up_tolerance, down_tolerance)
        valid = valid & xp.isfinite(metric.total / metric.target)
        replicas = xp.where(valid, replicas, 0.0)
        held = xp.where(replicas > largest, kept & valid, held | (kept & valid & (replicas == largest)))
        largest = xp.maximum(largest, replicas)
        every, some = every & ~valid, some | ~valid
    failed = every | (some & (largest < current)) | xp.isnan(current)
    return xp.where(failed, float("nan"), largest), held & ~failed


def _value(xp: Any, metric: Metric, current: Array, ready: Array, up: Array, down: Array) -> tuple[Array, Array, Array]:
    """Return replicas, held, valid: getUsageRatioReplicaCount, as Object and External metrics use it.

    From zero neither ready pods nor the tolerance count.
    """
    ratio = metric.total / metric.target
    zero = current == 0.0
    held = within(ratio, up, down) & ~zero
    replicas = xp.where(held, current, xp.ceil(ratio * xp.where(zero, 1.0, ready)))
    return xp.clip(replicas, None, MAX_REPLICAS), held, held | zero | xp.isfinite(ready)


def _average_value(xp: Any, metric: Metric, current: Array, up: Array, down: Array) -> tuple[Array, Array, Array]:
    """Return replicas, held, valid: GetObjectPerPodMetricReplicas, GetExternalPerPodMetricReplicas."""
    zero = current == 0.0
    ratio = metric.total / (metric.target * xp.where(zero, 1.0, current))
    held = within(ratio, up, down) & ~zero
    replicas = xp.where(held, current, xp.ceil(metric.total / metric.target))
    return xp.clip(replicas, None, MAX_REPLICAS), held, xp.isfinite(current)


def _pods(xp: Any, metric: Metric, current: Array, up: Array, down: Array) -> tuple[Array, Array, Array]:
    """Return replicas, held, valid: calcPlainMetricReplicas, or GetResourceReplicas for a utilisation.

    Where pods are missing or would dampen a scale-up, the mean is taken again with them: missing pods at 100
    % of the request (the target where that is more, and for Pods) on the way down and at 0 on the way up,
    unready pods at 0 on the way up. A change of direction or a ratio within the tolerance then holds.
    """
    ratio = _usage_ratio(xp, metric, metric.total, metric.pods)
    falls, rises = ratio < 1.0, ratio > 1.0
    fill = metric.target
    if metric.kind == "Utilization":
        fill = xp.trunc(metric.request * xp.clip(metric.target, 100.0, None) / 100.0)
    total = metric.total + xp.where(falls, metric.missing * fill, 0.0)
    pods = metric.pods + xp.where(falls | rises, metric.missing, 0.0) + xp.where(rises, metric.unready, 0.0)
    again = _usage_ratio(xp, metric, total, pods)
    replicas = xp.ceil(again * pods)
    plain = (metric.missing == 0.0) & ~(rises & (metric.unready > 0.0))
    turned = (falls & (again > 1.0)) | (rises & (again < 1.0))
    turned = turned | ((again < 1.0) & (replicas > current)) | ((again > 1.0) & (replicas < current))
    held = within(again, up, down) | (~plain & turned)
    return xp.where(held, current, replicas), held, metric.pods > 0.0


def _usage_ratio(xp: Any, metric: Metric, total: Array, pods: Array) -> Array:
    """Return (N,): GetMetricUsageRatio, GetResourceUtilizationRatio, whose divisions are of integers."""
    pods = xp.where(pods > 0.0, pods, 1.0)
    if metric.kind == "Utilization":
        return xp.trunc(total * 100.0 / (metric.request * pods)) / metric.target
    return xp.trunc(total / pods) / metric.target


@dataclass(slots=True, eq=False)
class Hpa:
    """An HPA on the load per replica, and on utilisation and backlog where targets for these are given.

    Every constant is a number, or an array (N,) with one for each row of the view.

    target: load per replica that it aims at, share of a replica's capacity (an External metric of type
    AverageValue). utilization: mean share of capacity in use that it aims at (a resource; starting replicas
    are unready). wait: backlog per replica that it aims at, seconds of a replica's work (AverageValue). None:
    no such metric. tolerance: both ways, share of the target; None: the tolerances of the workload's
    `behavior`. hold: seconds of a scale-down window, where `behavior` has none.
    """

    PARAMETERS: ClassVar[dict[str, Parameter]] = {
        "target": Parameter(0.7, 0.3, 0.98, False, "load per replica, share of a replica's capacity"),
        "tolerance": Parameter(0.1, 0.0, 0.2, False, "share of the target by which nothing changes"),
        "hold": Parameter(0.0, 0.0, 300.0, False, "scale-down stabilisation, seconds"),
    }
    BROADCASTS: ClassVar[bool] = True
    """Constants (K,) and a view of (N, 1) make proposals (N, K)."""
    target: Any = PARAMETERS["target"].default
    name: str = "hpa"
    tolerance: Any = None
    hold: Any = PARAMETERS["hold"].default
    utilization: Any = None
    wait: Any = None

    def __post_init__(self) -> None:
        """Raise ValueError for a constant that is no number in its range."""
        for name in ("target", "tolerance", "hold", "utilization", "wait"):
            given, positive = getattr(self, name), name not in ("tolerance", "hold")
            value = np.asarray(1.0 if given is None else given, np.float64)
            if value.ndim > 1 or not (np.isfinite(value) & (value >= 0.0) & ((value > 0.0) | (not positive))).all():
                least = "above 0" if positive else "of 0 or more"
                raise ValueError(f"{self.name}: {name} is {given!r}; expected a number {least}, or one for each row")

    def state(self, n: int) -> State:
        """Return no state."""
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return whole replicas; NaN where an HPA would report an error, as without load or capacity."""
        xp, settings, snapshot = view.xp, view.settings, view.snapshot
        capacity = settings["capacity_per_replica"]
        metrics = [average(xp, snapshot["load"], like(view, self.target, xp.float64) * capacity)]
        if self.wait is not None:
            metrics.append(average(xp, snapshot["backlog"], like(view, self.wait, xp.float64) * capacity))
        if self.utilization is not None:
            metrics.append(
                Metric(
                    kind="Utilization",
                    target=xp.clip(xp.round(100.0 * like(view, self.utilization, xp.float64)), 1.0, None),
                    total=xp.round(1000.0 * snapshot["utilization"] * snapshot["ready"]),
                    pods=snapshot["ready"],
                    unready=xp.where(xp.isnan(snapshot["starting"]), 0.0, snapshot["starting"]),
                )
            )
        up, down = settings["up_tolerance"], settings["down_tolerance"]
        if self.tolerance is not None:
            up = down = like(view, self.tolerance, xp.float64)
        replicas, held = desired_replicas(xp, view.current, snapshot["ready"], metrics, up, down)
        patience = None
        if np.ndim(self.hold) or self.hold:
            patience = xp.zeros_like(replicas) + stabilized(view, self.hold)
        reasons = xp.astype(held, xp.int64) * int(Reason.WithinTolerance)
        known = ~xp.isnan(replicas)
        relative = held if self.utilization is None else known
        return Proposal(
            replicas=replicas, reasons=reasons, patience=patience, tolerated=known, relative=relative
        ), state


def average(xp: Any, total: Array, target: Array) -> Metric:
    """Return an AverageValue metric in whole thousandths, so that a multiple of the target stays one."""
    return Metric(
        kind="AverageValue",
        target=xp.clip(xp.round(1000.0 * target), 1.0, None),
        total=xp.round(1000.0 * total),
    )
