"""The reasons that a condition can give, with their meaning: the documentation's table is made from this one.

HPA's names stand where autoscaling/v2 has one (ValidMetricFound, ScalingDisabled, ReadyForNewScale, ...). Where HPA
has one name for many faults (FailedGetExternalMetric) each fault has its own here, since each asks for another deed.
"""

from typing import Final, NamedTuple


class Meaning(NamedTuple):
    """What a condition says by a reason. statuses: those that it comes with."""

    condition: str
    statuses: str
    reason: str
    meaning: str


_DATA = (
    ("SourceUnknown", "spec.metrics.source names no source of the operator's configuration."),
    ("Unreachable", "The source cannot be connected to."),
    ("Timeout", "The source did not answer in time."),
    ("Overloaded", "The source answers that it is too busy."),
    ("ServerError", "The source, or a proxy before it, answers with an error of its own."),
    ("Unauthorized", "The source refuses the operator's credentials."),
    ("BadQuery", "The source refuses the query."),
    ("BadAnswer", "The source's answer is none of Prometheus."),
    ("TooLarge", "The source's answer is larger than is read."),
    ("NoData", "The query returns no series: unknown, which is not zero."),
    ("NoMatch", "The query returns series, but none with the labels of match."),
    ("AmbiguousSeries", "The query returns several series for one workload."),
    ("NotANumber", "The query returns NaN or infinity."),
    ("NegativeValue", "The query returns a number below zero."),
    ("UnitSlip", "The query returns a number of another unit, such as a percentage for a share."),
)
_SERVER = (
    ("ServerTimeout", "The inference server of spec.policy.server did not answer in time."),
    ("ServerUnreachable", "The inference server cannot be connected to."),
    ("ServerOverloaded", "The inference server answers that it is too busy."),
    ("ServerError", "The inference server, or a proxy before it, answers with an error of its own."),
    ("ServerUnauthorized", "The inference server refuses the operator's credentials."),
    ("ServerBadAnswer", "The inference server's answer is not whole: another shape, NaN, or no answer at all."),
    ("ServerOtherPolicy", "The inference server does not serve the policy or the digest that is asked for."),
)
_OWNERS = (
    ("OwnedByHPA", "A HorizontalPodAutoscaler scales the same target; rlscaler writes nothing."),
    ("OwnedByScaledObject", "A KEDA ScaledObject scales the same target; rlscaler writes nothing."),
    ("OwnedByRLScaler", "An older RLScaler scales the same target; this one writes nothing."),
    ("SharedTarget", "A younger RLScaler names the same target; it writes nothing, this one goes on."),
    ("ReplicasRewritten", "Somebody else changed spec.replicas; that count is respected for a while."),
    ("Yielding", "Somebody else changed spec.replicas again and again; rlscaler gives way until the time stated."),
)

NOTED: Final = frozenset({"MetricMissing", "CapacityOverstated", "ObjectiveMissed"})
"""Reasons of conditions that are fine, which somebody should hear of all the same."""

MEANINGS: tuple[Meaning, ...] = (
    Meaning("Ready", "True", "Ready", "The spec is valid, the policy is loaded, the target is there."),
    Meaning("Ready", "Unknown", "Pending", "The operator has only begun to look at it."),
    Meaning("Ready", "False", "InvalidSpec", "The spec cannot be used; the message names the field."),
    Meaning("Ready", "False", "InvalidAnnotation", "An annotation of rlscaler.io, or its value, means nothing."),
    Meaning("Ready", "False", "UnitSlip", "A number of the spec is allowed, but hardly meant in that unit."),
    Meaning("Ready", "False", "TargetNotFound", "spec.scaleTargetRef names nothing that exists."),
    Meaning("Ready", "False", "TargetUnreadable", "The target is there, but its scale subresource cannot be read."),
    Meaning("Ready", "False", "TargetNotWatched", "The operator's configuration does not name the target's kind."),
    Meaning("Ready", "False", "PolicyNotFound", "spec.policy names no policy that the operator has."),
    Meaning("Ready", "False", "PolicyRefused", "The policy is there but corrupt, foreign, or of another digest."),
    Meaning("ScalingActive", "True", "ValidMetricFound", "The load is known and a count can be computed."),
    Meaning("ScalingActive", "True", "MetricMissing", "The load is known, another metric of the spec is not."),
    Meaning("ScalingActive", "True", "CapacityOverstated", "Replicas carry less than spec.capacity.perReplica says."),
    Meaning(
        "ScalingActive", "True", "ObjectiveMissed", "More was late within spec.objective.window than the target allows."
    ),
    Meaning("ScalingActive", "Unknown", "Pending", "Nothing has been read or decided yet."),
    Meaning("ScalingActive", "Unknown", "InvalidSpec", "Nothing is read, since the spec cannot be used."),
    Meaning("ScalingActive", "False", "ScalingDisabled", "The target stands at 0 and minReplicas is above 0."),
    Meaning("ScalingActive", "False", "CapacityUnknown", "What a replica can serve is neither stated nor learned yet."),
    Meaning("ScalingActive", "False", "MetricsUnknown", "The load is unknown, so the count is held."),
    *(Meaning("ScalingActive", "False", reason, meaning) for reason, meaning in _DATA),
    Meaning("AbleToScale", "True", "ReadyForNewScale", "A decision would be written to the target."),
    Meaning("AbleToScale", "True", "SucceededRescale", "The target was changed at this decision."),
    Meaning("AbleToScale", "True", "ScaleDownStabilized", "Replicas are kept within the scale-down window."),
    Meaning("AbleToScale", "True", "ScaleUpStabilized", "An increase waits within the scale-up window."),
    Meaning("AbleToScale", "True", "Forced", "rlscaler.io/force-replicas states the count, within or without bounds."),
    Meaning("AbleToScale", "Unknown", "Shadow", "Mode Shadow writes nothing to the target, so it was not tried."),
    Meaning("AbleToScale", "Unknown", "Pending", "The target has not been seen yet."),
    Meaning("AbleToScale", "Unknown", "InvalidSpec", "Nothing is written, since the spec cannot be used."),
    Meaning("AbleToScale", "False", "Paused", "spec.mode or rlscaler.io/paused holds the target as it is."),
    Meaning("AbleToScale", "False", "FailedGetScale", "The target's scale cannot be read."),
    Meaning("AbleToScale", "False", "FailedUpdateScale", "The target's scale cannot be written."),
    *(Meaning("AbleToScale", "False", reason, meaning) for reason, meaning in _OWNERS if reason != "SharedTarget"),
    Meaning("ScalingLimited", "False", "DesiredWithinRange", "Neither bounds nor policies changed the count."),
    Meaning("ScalingLimited", "Unknown", "Pending", "Nothing has been decided yet."),
    Meaning("ScalingLimited", "True", "TooManyReplicas", "More were wanted than maxReplicas."),
    Meaning("ScalingLimited", "True", "TooFewReplicas", "Fewer were wanted than minReplicas."),
    Meaning("ScalingLimited", "True", "ScaleUpLimit", "The scale-up policies allow no faster increase."),
    Meaning("ScalingLimited", "True", "ScaleDownLimit", "The scale-down policies allow no faster decrease."),
    Meaning("ScalingLimited", "True", "FlapBudgetSpent", "The direction changed too often; scale-down pauses."),
    Meaning("FallbackActive", "False", "NoFallback", "What the spec asks for decides."),
    Meaning("FallbackActive", "Unknown", "Pending", "Nothing has been decided yet."),
    Meaning("FallbackActive", "True", "MetricLossFallback", "The load was unknown for onMetricLoss.after."),
    Meaning("FallbackActive", "True", "PolicyFailed", "The policy gave no usable answer; the rule decided."),
    Meaning("FallbackActive", "True", "OutOfTrainingRange", "The input lies outside of what it was trained on."),
    Meaning("FallbackActive", "True", "PolicyNotFound", "The policy asked for is not there; another one decides."),
    Meaning(
        "FallbackActive",
        "True",
        "PolicyRefused",
        "The policy asked for is refused; another one decides.",
    ),
    *(
        Meaning("FallbackActive", "True", reason, f"{meaning[:-1]}; the local policy decides.")
        for reason, meaning in _SERVER
    ),
    Meaning("Conflict", "False", "NoConflict", "Nobody else scales the target."),
    Meaning("Conflict", "Unknown", "Pending", "The target has not been seen yet."),
    *(Meaning("Conflict", "True", reason, meaning) for reason, meaning in _OWNERS),
)
"""Every reason that the operator itself gives; what another API says may add to them."""
