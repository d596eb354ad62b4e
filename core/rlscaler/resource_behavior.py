"""The fields of `behavior`: exactly autoscaling/v2 HorizontalPodAutoscalerBehavior.

Bounds are those of the API server (kubernetes/pkg/apis/autoscaling/validation); what is left out gets the
defaults of Kubernetes for that direction, which `behavior.DEFAULT` states, but for a tolerance towards more
replicas (`custom_resource.to_settings`).
"""

from typing import Any

from rlscaler.behavior import (
    DEFAULT,
    LONGEST_PERIOD,
    LONGEST_WINDOW,
    POLICY_TYPES,
    SELECT_POLICIES,
    TOLERANCE,
    Behavior,
    ScalingPolicy,
    ScalingRules,
)
from rlscaler.resource_schema import Block, Field, Items
from rlscaler.resource_values import QUANTITY, Amount, Choice, Whole


def _scaling_policy(period_seconds: int, **values: Any) -> ScalingPolicy:
    return ScalingPolicy(period=float(period_seconds), **values)


def _scaling_rules(
    stabilization_window_seconds: int, select_policy: Any, policies: Any, tolerance: float | None
) -> ScalingRules:
    return ScalingRules(float(stabilization_window_seconds), select_policy, policies, tolerance)


def _behavior(scale_up: ScalingRules, scale_down: ScalingRules) -> Behavior:
    return Behavior(scale_up, scale_down)


SCALING_POLICIES = Items(
    Block(
        (
            Field(
                "type",
                Choice(POLICY_TYPES),
                "What value counts: pods, or percent of the replicas.",
                required=True,
            ),
            Field("value", Whole(1), "How much the replica count may change within the period.", required=True),
            Field("periodSeconds", Whole(1, int(LONGEST_PERIOD)), "The period, in seconds.", required=True),
        ),
        _scaling_policy,
    ),
    100,
)


def _scaling_rules_block(rules: ScalingRules, tolerated: str) -> Block:
    """Return one half of `behavior`, with the defaults of Kubernetes for that direction.

    tolerated: what a tolerance that is left out is taken for.
    """
    policies = [{"type": p.type, "value": p.value, "periodSeconds": int(p.period)} for p in rules.policies]
    return Block(
        (
            Field(
                "stabilizationWindowSeconds",
                Whole(0, int(LONGEST_WINDOW)),
                "Seconds of past recommendations that are looked back at, so that the count does not flap.",
                default=int(rules.window),
            ),
            Field(
                "selectPolicy",
                Choice(SELECT_POLICIES),
                "Which policy counts: the one that allows the most change, the least, or none in this direction.",
                default=rules.select,
            ),
            Field("policies", SCALING_POLICIES, "How fast the replica count may change.", default=policies),
            Field(
                "tolerance",
                Amount(QUANTITY, 0),
                'Share by which the recommendation may be off before anything changes, such as "0.05". Left out: '
                f"{tolerated}.",
            ),
        ),
        _scaling_rules,
    )


BEHAVIOR = Block(
    (
        Field(
            "scaleUp",
            _scaling_rules_block(DEFAULT.up, "0, as policies ask for no more than they need; 0.1 where policy is hpa"),
            "Scaling up; HPA's defaults where left out.",
            default={},
        ),
        Field(
            "scaleDown",
            _scaling_rules_block(DEFAULT.down, f"{TOLERANCE:g}"),
            "Scaling down; HPA's defaults where left out.",
            default={},
        ),
    ),
    _behavior,
)
