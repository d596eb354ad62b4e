"""What becomes of a ScaledObject as KEDA takes it: each scaler's parameters, and what KEDA does with them."""

import pytest

from converted import only, told
from given_autoscalers import scaled, trigger


@pytest.mark.parametrize(
    ("mode", "way", "capacity"),
    [
        ("MessageRate", {}, "20"),
        ("MessageRate", {"metricType": "AverageValue"}, "20"),
        ("MessageRate", {"metricType": "Value"}, None),
        ("DeliverGetRate", {}, "20"),
        ("PublishedToDeliveredRatio", {}, None),
        ("ExpectedQueueConsumptionTime", {}, None),
    ],
)
def test_a_rabbitmq_trigger_of_any_mode_is_read(mode: str, way: dict[str, str], capacity: str | None) -> None:
    given = scaled(trigger("rabbitmq", queueName="jobs", mode=mode, value="20", hostFromEnv="HOST") | way)
    spec = only(given)
    assert spec.get("capacity", {}).get("perReplica") == capacity
    assert spec["metrics"]["load"]["query"] == 'sum(rate(rabbitmq_queue_messages_published_total{queue="jobs"}[2m]))'
    if capacity is None:
        (summary, *_) = told(given)
        assert ("metricType: Value" if way else mode) in summary
