"""What a HorizontalPodAutoscaler decides for one workload: plain lists and loops, as slow and as plain as can
be.

A restatement of kubernetes/pkg/controller/podautoscaler (v1.37), function by function and under its names,
that tests hold the vectorised rules against. Times are seconds, quantities are thousandths, as in the
controller.
"""

import math
from dataclasses import dataclass, field
from typing import Any

MAX_INT32 = 2**31 - 1


@dataclass
class ScaleEvent:
    change: int
    time: float
    outdated: bool = False


@dataclass
class Controller:
    """horizontal.go for one object. `behavior` has up and down with window, select, policies."""

    behavior: Any
    min_replicas: int
    max_replicas: int
    recommendations: list[tuple[float, float]] | None = None
    scale_up_events: list[ScaleEvent] = field(default_factory=list)
    scale_down_events: list[ScaleEvent] = field(default_factory=list)

    def reconcile(self, now: float, current: int, desired: int | None) -> tuple[int, set[str]]:
        """reconcileAutoscaler up to the write: replicas and reasons; desired None = metrics failed."""
        if self.recommendations is None:
            self.recommendations = [(current, now)]
        if current == 0 and self.min_replicas != 0:
            return current, {"ScalingDisabled"}
        if current > self.max_replicas:
            return self.max_replicas, {"TooManyReplicas"}
        if current < self.min_replicas:
            return self.min_replicas, {"TooFewReplicas"}
        if desired is None:
            return current, set()
        return self.normalize(now, current, desired)

    def normalize(self, now: float, current: int, desired: int) -> tuple[int, set[str]]:
        reasons = set()
        stabilized, reason = self.stabilize(now, current, desired)
        if stabilized != desired:
            reasons.add(reason)
        replicas, reason = self.rate_limit(now, current, stabilized)
        if replicas != stabilized:
            reasons.add(reason)
        return replicas, reasons

    def stabilize(self, now: float, current: int, desired: int) -> tuple[int, str]:
        """stabilizeRecommendationWithBehaviors."""
        assert self.recommendations is not None
        up_recommendation, up_cutoff = desired, now - self.behavior.up.window
        down_recommendation, down_cutoff = desired, now - self.behavior.down.window
        old = None
        for i, (value, time) in enumerate(self.recommendations):
            if time > up_cutoff:
                up_recommendation = min(int(value), up_recommendation)
            if time > down_cutoff:
                down_recommendation = max(int(value), down_recommendation)
            if time < up_cutoff and time < down_cutoff:
                old = i
        recommendation = current
        if recommendation < up_recommendation:
            recommendation = up_recommendation
        if recommendation > down_recommendation:
            recommendation = down_recommendation
        if old is not None:
            self.recommendations[old] = (desired, now)
        else:
            self.recommendations.append((desired, now))
        return recommendation, "ScaleUpStabilized" if desired >= current else "ScaleDownStabilized"

    def rate_limit(self, now: float, current: int, desired: int) -> tuple[int, str]:
        """convertDesiredReplicasWithBehaviorRate."""
        if desired > current:
            limit = max(self.scale_up_limit(now, current), current)
            if self.max_replicas > limit:
                allowed, reason = limit, "ScaleUpLimit"
            else:
                allowed, reason = self.max_replicas, "TooManyReplicas"
            if desired > allowed:
                return int(allowed), reason
        elif desired < current:
            limit = min(self.scale_down_limit(now, current), current)
            if self.min_replicas < limit:
                allowed, reason = limit, "ScaleDownLimit"
            else:
                allowed, reason = self.min_replicas, "TooFewReplicas"
            if desired < allowed:
                return int(allowed), reason
        return desired, ""

    def period_start(self, now: float, current: int, period: float) -> int:
        """getReplicasChangePerPeriod, for both kinds of events."""
        added: int = sum(event.change for event in self.scale_up_events if event.time > now - period)
        deleted = sum(event.change for event in self.scale_down_events if event.time > now - period)
        return current - added + deleted

    def scale_up_limit(self, now: float, current: int) -> float:
        """calculateScaleUpLimitWithScalingRules; no policies = no limit (the API server refuses that)."""
        rules = self.behavior.up
        if rules.select == "Disabled":
            return current
        if not rules.policies:
            return math.inf
        proposals: list[int] = []
        for policy in rules.policies:
            start = self.period_start(now, current, policy.period)
            if policy.type == "Pods":
                proposals.append(start + policy.value)
            else:
                proposals.append(math.ceil(start * (1 + policy.value / 100)))
        return min(proposals) if rules.select == "Min" else max(proposals)

    def scale_down_limit(self, now: float, current: int) -> float:
        """calculateScaleDownLimitWithBehaviors."""
        rules = self.behavior.down
        if rules.select == "Disabled":
            return current
        if not rules.policies:
            return -math.inf
        proposals: list[int] = []
        for policy in rules.policies:
            start = self.period_start(now, current, policy.period)
            if policy.type == "Pods":
                proposals.append(start - policy.value)
            else:
                proposals.append(int(start * (1 - policy.value / 100)))
        return max(proposals) if rules.select == "Min" else min(proposals)

    def rescaled(self, now: float, before: int, after: int) -> None:
        """storeScaleEvent, after a write that succeeded; without any policy nothing is stored (behavior
        nil)."""
        up, down = self.behavior.up, self.behavior.down
        if not (up.policies or down.policies or "Disabled" in (up.select, down.select)):
            return
        rules, events = (up, self.scale_up_events) if after > before else (down, self.scale_down_events)
        longest = max((policy.period for policy in rules.policies), default=0.0)
        old = None
        for i, event in enumerate(events):
            if event.time < now - longest:
                event.outdated = True
            if event.outdated:
                old = i
        event = ScaleEvent(abs(after - before), now)
        if old is not None:
            events[old] = event
        else:
            events.append(event)


@dataclass(frozen=True)
class Tolerances:
    up: float = 0.1
    down: float = 0.1

    def within(self, ratio: float) -> bool:
        return 1.0 - self.down <= ratio <= 1.0 + self.up


@dataclass(frozen=True)
class Pod:
    """A pod that is neither failed nor being deleted. usage: None = no metrics. unready: its metrics are
    ignored."""

    usage: int | None
    unready: bool = False
    request: int = 1000


def _divided(a: int, b: int) -> int:
    """Go's integer division, which truncates."""
    return abs(a) // b * (1 if a >= 0 else -1)


def pods_replicas(
    current: int, pods: list[Pod], target: int, tolerances: Tolerances, *, utilization: bool
) -> int | None:
    """GetResourceReplicas (utilization: target in percent) or calcPlainMetricReplicas; None = error."""
    if not pods:
        return None
    unready = [name for name, pod in enumerate(pods) if pod.unready]
    missing = [name for name, pod in enumerate(pods) if pod.usage is None and not pod.unready]
    metrics = {n: pod.usage for n, pod in enumerate(pods) if pod.usage is not None and not pod.unready}
    if not metrics:
        return None
    ready = len(metrics)

    def usage_ratio() -> float:
        total = sum(metrics.values())
        if utilization:
            return _divided(total * 100, sum(pods[name].request for name in metrics)) / target
        return _divided(total, len(metrics)) / target

    ratio = usage_ratio()
    scale_up_with_unready = bool(unready) and ratio > 1.0
    if not scale_up_with_unready and not missing:
        return current if tolerances.within(ratio) else math.ceil(ratio * ready)
    for name in missing:
        if ratio < 1.0:
            metrics[name] = pods[name].request * max(100, target) // 100 if utilization else target
        elif ratio > 1.0:
            metrics[name] = 0
    if scale_up_with_unready:
        metrics.update(dict.fromkeys(unready, 0))
    new_ratio = usage_ratio()
    if tolerances.within(new_ratio) or (ratio < 1.0 < new_ratio) or (ratio > 1.0 > new_ratio):
        return current
    replicas = math.ceil(new_ratio * len(metrics))
    if (new_ratio < 1.0 and replicas > current) or (new_ratio > 1.0 and replicas < current):
        return current
    return replicas


def value_replicas(current: int, ready: int, usage: int, target: int, tolerances: Tolerances) -> int:
    """GetObjectMetricReplicas, GetExternalMetricReplicas: getUsageRatioReplicaCount."""
    ratio = usage / target
    if current == 0:
        return math.ceil(ratio)
    if tolerances.within(ratio):
        return current
    return min(math.ceil(ratio * ready), MAX_INT32)


def average_value_replicas(status: int, usage: int, target: int, tolerances: Tolerances) -> int:
    """GetObjectPerPodMetricReplicas, GetExternalPerPodMetricReplicas; in Go x / 0 is infinite and 0 / 0 is
    NaN."""
    ratio = usage / (target * status) if status else math.inf
    if tolerances.within(ratio):
        return status
    return min(math.ceil(usage / target), MAX_INT32)


def largest(current: int, proposals: list[int | None]) -> int | None:
    """computeReplicasForMetrics; None = error: the replica count is left alone."""
    replicas = max((proposal for proposal in proposals if proposal is not None), default=0)
    invalid = proposals.count(None)
    if invalid >= len(proposals) or (invalid > 0 and replicas < current):
        return None
    return replicas
