"""Why a decision is what it is: one bit for each reason, and a sentence for people.

Where HPA has a word for it, its word is used (conditions of autoscaling/v2).
"""

from enum import IntFlag
from functools import cache


class Reason(IntFlag):
    """Reasons of a decision; a decision carries the union of all that applied."""

    DesiredWithinRange = 0
    CapacityUnknown = 1 << 0
    ScalingDisabled = 1 << 1
    MetricsUnknown = 1 << 2
    MetricLossFallback = 1 << 3
    PolicyFailed = 1 << 4
    OutOfTrainingRange = 1 << 5
    WithinTolerance = 1 << 6
    ReactiveFloor = 1 << 7
    LoadSaturated = 1 << 8
    FlapBudgetSpent = 1 << 9
    ScaleUpStabilized = 1 << 10
    ScaleDownStabilized = 1 << 11
    ScaleUpLimit = 1 << 12
    ScaleDownLimit = 1 << 13
    TooFewReplicas = 1 << 14
    TooManyReplicas = 1 << 15
    ReplicasUnknown = 1 << 16
    Patience = 1 << 17
    CapacityOverstated = 1 << 18
    ObjectiveMissed = 1 << 19


SENTENCES: dict[Reason, str] = {
    Reason.CapacityUnknown: "The capacity of a replica is not known yet, so the replica count is held.",
    Reason.ScalingDisabled: "The target stands at 0 replicas and minReplicas is above 0: somebody switched it off.",
    Reason.MetricsUnknown: "The load is unknown, so the replica count is held and not lowered.",
    Reason.MetricLossFallback: "The load has been unknown for longer than onMetricLoss.after; its fallback applies.",
    Reason.PolicyFailed: "The policy gave no usable answer, so the rule decided.",
    Reason.OutOfTrainingRange: "The input is outside of what the policy was trained on, so the rule decided.",
    Reason.WithinTolerance: "The change is within spec.behavior's tolerance (scaleDown: 0.1 if left out).",
    Reason.ReactiveFloor: "The demand now and the backlog need more replicas than were proposed.",
    Reason.LoadSaturated: "All replicas are busy and the load counts completions: the demand is at least this much.",
    Reason.FlapBudgetSpent: "The direction changed too often within the hour, so scale-down pauses.",
    Reason.ScaleUpStabilized: "A lower recommendation within the scale-up stabilisation window limits the increase.",
    Reason.ScaleDownStabilized: "A higher recommendation within the scale-down stabilisation window holds replicas.",
    Reason.ScaleUpLimit: "The scale-up policies allow no faster increase.",
    Reason.ScaleDownLimit: "The scale-down policies allow no faster decrease.",
    Reason.TooFewReplicas: "The desired count is below minReplicas.",
    Reason.TooManyReplicas: "The desired count is above maxReplicas.",
    Reason.ReplicasUnknown: "The present replica count of the target is unknown, so nothing is decided.",
    Reason.Patience: "The policy keeps replicas for its patience before it lowers them.",
    Reason.CapacityOverstated: "Replicas carry less than the stated capacity, so more are asked for by that factor.",
    Reason.ObjectiveMissed: "More requests were late within the objective's window than it allows: more is kept spare.",
}
"""One sentence for each reason."""


@cache
def names(bits: int) -> tuple[str, ...]:
    """Return the names of the reasons in `bits`, in the order of the enumeration; ("DesiredWithinRange",) if none."""
    found = tuple(str(reason.name) for reason in Reason if reason and bits & reason)
    return found or ("DesiredWithinRange",)


@cache
def sentence(bits: int) -> str:
    """Return the sentences of the reasons in `bits`, joined."""
    found = [SENTENCES[reason] for reason in Reason if reason and bits & reason]
    return " ".join(found) or "The proposal stands."
