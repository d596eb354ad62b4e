"""What becomes of a ScaledObject as KEDA takes it: each scaler's parameters, and what KEDA does with them."""

import json

import pytest

from converted import Json, only, told
from given_autoscalers import scaled, trigger
from rlscaler.convert.converting import convert
from rlscaler.convert.draft import Options
from rlscaler.convert.page import page


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


def test_topics_of_apache_kafka_are_read_one_by_one() -> None:
    several = only(scaled(trigger("apache-kafka", topic="orders, returns.v2", consumerGroup="g")))["metrics"]
    of_topics = r'topic=~"orders|returns\\.v2"'
    assert several["load"]["query"] == f"sum(rate(kafka_topic_partition_current_offset{{{of_topics}}}[2m]))"
    assert (
        several["backlog"]["query"] == f'sum(clamp_min(kafka_consumergroup_lag{{consumergroup="g", {of_topics}}}, 0))'
    )
    one = only(scaled(trigger("apache-kafka", topic="orders", consumerGroup="g")))["metrics"]
    assert one["load"]["query"] == 'sum(rate(kafka_topic_partition_current_offset{topic="orders"}[2m]))'


def test_a_threshold_beside_a_formula_is_no_capacity() -> None:
    """KEDA compares what the formula gives with the formula's own target; thresholds there are placeholders."""
    rates = [
        trigger("prometheus", query=f"sum(rate({name}_total[2m]))", threshold="1") | {"name": name} for name in "ab"
    ]
    given = scaled(*rates, advanced={"scalingModifiers": {"formula": "(a + b) / 2", "target": "100"}})
    spec = only(given)
    assert "capacity" not in spec
    assert spec["objective"]["latency"] == "500ms"
    summary, *notes = told(given)
    assert "whose target is of the formula" in summary
    assert not any("takes the largest" in note for note in notes)


def test_triggers_of_one_type_are_told_apart() -> None:
    """By the name that people gave, else as KEDA calls their metrics: s0-prometheus."""
    first, second = (trigger("prometheus", query=f"sum(rate({name}_total[2m]))", threshold="5") for name in "ab")
    active = trigger("prometheus", query="c_rps", threshold="5", activationThreshold="2") | {"name": "night shift"}
    summary, *notes = told(scaled(trigger("cron"), first, second, active))
    assert summary.startswith("shop/worker: load is trigger s1-prometheus; ")
    largest = "one load decides, where the ScaledObject takes the largest of what each asks for"
    assert f"trigger s2-prometheus: {largest}" in notes
    assert f"trigger 'night shift' (prometheus): {largest}" in notes
    assert any(note.startswith("trigger 'night shift' (prometheus): activationThreshold of 2, ") for note in notes)
    assert "trigger cron: a schedule is no load; the profile of the day is learned from the load" in notes
    one = trigger("kafka", topic="orders", consumerGroup="a")
    assert "load is trigger s0-kafka of topic orders; " in told(scaled(one, one))[0]


def test_cpu_use_beside_a_formula_keeps_its_capacity() -> None:
    cpu = trigger("cpu", value="50") | {"metricType": "Utilization"}
    other = trigger("aws-sqs-queue", queueLength="1") | {"name": "a"}
    spec = only(scaled(cpu, other, advanced={"scalingModifiers": {"formula": "a / 2", "target": "9"}}))
    assert spec["capacity"]["perReplica"] == "100"


RATE = trigger("prometheus", query="sum(rate(a_total[2m]))", threshold="5")


def test_a_count_that_keda_restores_is_told() -> None:
    """Whoever deletes the ScaledObject to let an RLScaler scale would be put back to the count of long ago."""
    given = scaled(RATE, advanced={"restoreToOriginalReplicaCount": True})
    assert [note for note in told(given) if note.startswith("advanced.restoreToOriginalReplicaCount: ")]
    given["spec"]["advanced"]["restoreToOriginalReplicaCount"] = False
    assert not [note for note in told(given) if "restoreToOriginalReplicaCount" in note]


def test_what_keda_asks_of_going_to_0_and_back_is_told() -> None:
    """Left out, cooldownPeriod is 300 s; up to its activation value a trigger asks for no replica."""
    quiet = scaled(RATE)
    assert "cooldownPeriod of 300 s before 0, KEDA's default: the policy decides on that" in told(quiet)
    active = scaled(
        trigger("prometheus", query="sum(rate(a_total[2m]))", threshold="5", activationThreshold="2.5"),
        trigger("cron", activationValue="0"),
        cooldownPeriod=60,
    )
    assert "cooldownPeriod of 60 s before 0: the policy decides on that" in told(active)
    assert [note for note in told(active) if "activation" in note] == [
        "trigger prometheus: activationThreshold of 2.5, up to which KEDA stays at 0: here any load asks for a replica"
    ]


@pytest.mark.parametrize("at_least", [{"minReplicaCount": 1}, {"triggers": [
    trigger("cpu", value="50", activationValue="2") | {"metricType": "Utilization"}
]}])  # fmt: skip
def test_nothing_is_told_of_0_where_there_are_never_0(at_least: Json) -> None:
    given = scaled(trigger("prometheus", query="a_rps", threshold="5", activationThreshold="2"))
    given["spec"] |= {"cooldownPeriod": 60} | at_least
    assert not [note for note in told(given) if "cooldown" in note or "activation" in note]


def test_an_empty_answer_is_what_it_is_to_keda() -> None:
    def about(**more: str) -> str:
        one = json.dumps(scaled(trigger("prometheus", query="a_rps", threshold="5", **more)))
        return page(convert([("x", one)], Options()).drafts[0])

    assert "an empty answer is 0 to KEDA and unknown here" in about()
    assert "an empty answer is 0 to KEDA and unknown here" in about(ignoreNullValues="true")
    for word in ("false", "False", "f", "0"):
        assert "an empty answer is a failure to KEDA, as it is unknown here" in about(ignoreNullValues=word)


def test_the_query_that_predictkube_foretells_is_the_load() -> None:
    """Parameters as in KEDA's page of the scaler; what is to come is for the policy to tell."""
    query, foretold = "sum(rate(a_total[2m]))", {"predictHorizon": "2h", "historyTimeWindow": "7d", "queryStep": "2m"}
    asked = trigger("predictkube", prometheusAddress="http://p:9090", query=query, threshold="100.50", **foretold)
    given = scaled(asked | {"authenticationRef": {"name": "predictkube"}})
    spec = only(given)
    assert spec["metrics"]["load"] == {"query": query}
    assert spec["capacity"] == {"perReplica": "100.50"}
    assert "capacity" not in only(scaled(asked | {"metricType": "Value"}))
    text = page(convert([("x", json.dumps(given))], Options()).drafts[0])
    assert "sources.default.url of the operator's chart has to be http://p:9090" in text
    assert "KEDA compares what PredictKube foretells of it" in text
    assert "an empty answer" not in text, "PredictKube answers, not Prometheus"
    assert (
        "trigger predictkube: predictHorizon of 2h, historyTimeWindow of 7d, queryStep of 2m: of PredictKube's "
        "forecast, which is not asked; the policy looks ahead itself"
    ) in told(given)


@pytest.mark.parametrize(("name", "value", "paused"), [
    ("paused", "false", False),
    ("paused", "False", False),
    ("paused", "0", False),
    ("paused", "true", True),
    ("paused", "now", True),
    ("paused-scale-in", "F", False),
    ("paused-replicas", "0", True),
])  # fmt: skip
def test_a_pause_is_what_keda_takes_for_one(name: str, value: str, paused: bool) -> None:
    given = scaled(RATE)
    given["metadata"]["annotations"] = {f"autoscaling.keda.sh/{name}": value}
    assert any("KEDA is held still" in note for note in told(given)) is paused
