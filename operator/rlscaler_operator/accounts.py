"""What is wanted of a target after the decision, people's annotations and other owners had their say. Pure."""

import math

from rlscaler.resource_objects import Mode
from rlscaler_operator.conflicts import Verdict
from rlscaler_operator.model import Decision, Target, Workload


def mode_of(workload: Workload) -> Mode:
    """Return the mode in force: the resource's, but Paused while rlscaler.io/paused is set."""
    if workload.resource is None or workload.paused:
        return "Paused"
    return workload.resource.spec.mode


def wanted(workload: Workload, target: Target, decision: Decision | None, verdict: Verdict) -> int | None:
    """Return the replicas that the target should have, None where nothing is wanted of it.

    rlscaler.io/force-replicas comes first, outside of the bounds and while paused too. A pause wants nothing. While
    another owner's count is respected, no change is wanted unless the demand now
    is more than it can serve.
    """
    if workload.force is not None:
        return workload.force
    if mode_of(workload) == "Paused" or decision is None or decision.replicas < 0:
        return None
    if verdict.may_write:
        return decision.replicas
    overloaded = math.isfinite(decision.demand) and decision.demand > target.desired
    return max(decision.replicas, target.desired) if verdict.may_raise_to_floor and overloaded else None


def is_active(workload: Workload) -> bool:
    """Tell whether the workload's target may be written at all: mode Active, and not paused unless forced."""
    if workload.resource is None or workload.resource.spec.mode != "Active":
        return False
    return workload.force is not None or not workload.paused
