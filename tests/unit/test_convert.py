"""What becomes of an HPA or a ScaledObject: what is carried over, what is told, and that it is always a resource."""

import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from converted import Json, made, only, told
from given_autoscalers import (
    average,
    deployment,
    external,
    hpa,
    hpas,
    pods,
    resource,
    scaled,
    scaled_objects,
    trigger,
)
from rlscaler.convert.converting import convert
from rlscaler.convert.draft import CALMER, EAGERER, Options
from rlscaler.convert.page import page
from rlscaler.convert.promql import pods_of
from rlscaler.errors import UserError

OF_PODS = 'namespace="shop", pod=~"web-[a-z0-9]{6,10}-[a-z0-9]{5}"'
CPU = f'sum(rate(container_cpu_usage_seconds_total{{{OF_PODS}, container!=""}}[2m]))'


# --- what is carried over of both


def test_bounds_target_and_names_are_carried_over() -> None:
    (found,) = made(hpa(resource()))
    assert found["metadata"] == {"name": "web", "namespace": "shop"}
    assert found["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    assert (found["spec"]["minReplicas"], found["spec"]["maxReplicas"]) == (2, 20)
    assert "behavior" not in found["spec"]
    assert "onMetricLoss" not in found["spec"]


def test_what_is_left_out_is_what_kubernetes_and_keda_have() -> None:
    (found,) = made(hpa(resource(), namespace=None, minReplicas=None))
    assert (found["metadata"]["namespace"], found["spec"]["minReplicas"]) == ("default", 1)
    spec = only(scaled(trigger("prometheus", query="a", threshold="5")))
    assert (spec["minReplicas"], spec["maxReplicas"]) == (0, 100)
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"}


@pytest.mark.parametrize(
    ("reference", "version"),
    [
        ({"kind": "StatefulSet", "name": "web"}, "apps/v1"),
        ({"kind": "Deployment", "name": "web", "apiVersion": "extensions/v1beta1"}, "apps/v1"),
        ({"kind": "ReplicationController", "name": "web"}, "v1"),
        ({"kind": "Rollout", "name": "web", "apiVersion": "argoproj.io/v1alpha1"}, "argoproj.io/v1alpha1"),
    ],
)
def test_the_version_of_the_target_is_one_that_is_served(reference: Json, version: str) -> None:
    assert only(hpa(resource(), scaleTargetRef=reference))["scaleTargetRef"]["apiVersion"] == version


def test_behavior_is_carried_over_as_it_is() -> None:
    behavior = {
        "scaleDown": {
            "stabilizationWindowSeconds": 60,
            "selectPolicy": "Min",
            "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}],
        },
        "scaleUp": {"tolerance": 0.05},
    }
    spec = only(hpa(resource(), behavior=behavior))
    assert spec["behavior"] == behavior | {"scaleUp": {"tolerance": "0.05"}}
    advanced = {"horizontalPodAutoscalerConfig": {"name": "mine", "behavior": {"scaleDown": behavior["scaleDown"]}}}
    spec = only(scaled(trigger("prometheus", query="a", threshold="5"), advanced=advanced))
    assert spec["behavior"] == {"scaleDown": behavior["scaleDown"]}


def test_how_to_change_the_count_less_often_is_told_where_nothing_is_stated() -> None:
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 60}}
    assert CALMER in told(hpa(resource()))
    assert CALMER not in told(hpa(resource(), behavior=behavior))
    rate = trigger("prometheus", query="a", threshold="5")
    assert CALMER in told(scaled(rate))
    assert CALMER not in told(scaled(rate, advanced={"horizontalPodAutoscalerConfig": {"behavior": behavior}}))


@pytest.mark.parametrize(
    ("behavior", "expected"),
    [
        (None, False),
        ({}, True),
        ({"scaleDown": {"tolerance": "0.2"}}, True),
        ({"scaleUp": {"stabilizationWindowSeconds": 0}}, True),
        ({"scaleUp": {"tolerance": "0.1"}}, False),
    ],
)
def test_a_tolerance_that_only_an_hpa_has_is_told(behavior: Json | None, expected: bool) -> None:
    assert (EAGERER in told(hpa(resource(), behavior=behavior))) == expected


@pytest.mark.parametrize(
    ("behavior", "expected"),
    [
        (None, {"action": "Replicas", "replicas": 6}),
        ("static", {"action": "Replicas", "replicas": 6}),
        ("currentReplicas", {"action": "Hold"}),
        ("currentReplicasIfHigher", {"action": "ReplicasIfHigher", "replicas": 6}),
        ("currentReplicasIfLower", {"action": "ReplicasIfLower", "replicas": 6}),
        ("triggerScoped", {"action": "ReplicasIfHigher", "replicas": 6}),
    ],
)
def test_a_fallback_becomes_on_metric_loss(behavior: str | None, expected: Json) -> None:
    fallback = {"failureThreshold": 3, "replicas": 6} | ({} if behavior is None else {"behavior": behavior})
    spec = only(scaled(trigger("prometheus", query="a", threshold="5"), fallback=fallback, pollingInterval=20))
    assert spec["onMetricLoss"] == {"after": "1m"} | expected


# --- the load


@pytest.mark.parametrize(
    ("metric", "query", "capacity"),
    [
        (pods("rps", "1k"), '{__name__="rps", ' + OF_PODS + "}", "1k"),
        (pods("http_requests", 7.5, matchLabels={"code": "200"}), "http_requests{" + OF_PODS + ', code="200"}', "7.5"),
        (external("a_b", average("500m")), "a_b", "500m"),
        (external("a_b", {"type": "Value", "value": 3}), "a_b", None),
        (external("a_b", average("1u")), "a_b", None),
        (external("a_b", average("2Gi")), "a_b", None),
        (
            external("a_b", average(5), matchLabels={"x.y/z": 'q"\\'}, matchExpressions=[
                {"key": "k", "operator": "In", "values": ["a.b", "c"]},
                {"key": "l", "operator": "NotIn", "values": ["d"]},
                {"key": "m", "operator": "Exists"},
                {"key": "n", "operator": "DoesNotExist"},
            ]),
            r'a_b{x_y_z="q\"\\", k=~"a\\.b|c", l!~"d", m!="", n=""}',
            "5",
        ),
        (
            {"type": "Object", "object": {"metric": {"name": "a_b"}, "target": average(5),
                                          "describedObject": {"kind": "Ingress", "name": "main"}}},
            'a_b{namespace="shop", ingress="main"}',
            "5",
        ),
    ],
)  # fmt: skip
def test_a_metric_of_an_adapter_is_a_template(metric: Json, query: str, capacity: str | None) -> None:
    spec = only(hpa(metric))
    assert spec["metrics"]["load"] == {"query": f"sum({query})"}
    assert spec.get("capacity", {}).get("perReplica") == capacity


def test_a_counter_is_read_by_its_rate() -> None:
    assert only(hpa(external("a_total", average(5))))["metrics"]["load"]["query"] == "sum(rate(a_total[2m]))"


@pytest.mark.parametrize(
    ("requests", "cores"),
    [
        ((), None),
        (("500m",), "0.5"),
        (("500m", "0.25"), "0.75"),
        (("1", None), None),
    ],
)
def test_cpu_use_is_in_percent_of_the_request(requests: tuple[str | None, ...], cores: str | None) -> None:
    others = [deployment("web", *requests)] if requests else []
    spec = only(hpa(resource()), *others)
    of = "avg(sum by (pod) (kube_pod_container_resource_requests{" + OF_PODS + ', resource="cpu"}))'
    assert spec["metrics"]["load"] == {"query": f"100 * {CPU} / {cores or of}", "counts": "Completions"}
    assert spec["capacity"] == {"perReplica": "100"}


def test_a_container_has_its_own_use_and_request() -> None:
    metric = {"type": "ContainerResource", "containerResource": {
        "name": "cpu", "container": "c1", "target": {"type": "Utilization", "averageUtilization": 60}}}  # fmt: skip
    query = only(hpa(metric), deployment("web", "1", "250m"))["metrics"]["load"]["query"]
    assert 'container="c1"' in query
    assert query.endswith(" / 0.25")


def test_a_target_in_cores_is_the_capacity() -> None:
    spec = only(hpa(resource(type="AverageValue", averageValue="250m")))
    assert spec["metrics"]["load"]["query"] == f"1000 * {CPU}"
    assert spec["capacity"] == {"perReplica": "250"}


@pytest.mark.parametrize(
    ("metric", "careful"),
    [
        (external("a_b", average(35)), True),
        (resource(type="AverageValue", averageValue="250m"), True),
        (resource(), False),
    ],
)
def test_a_target_for_a_capacity_is_said_to_make_what_scales_now_look_late(metric: Json, careful: bool) -> None:
    found = convert([("x", yaml.safe_dump(hpa(metric)))], Options())
    assert ("what scales now looks late beside it" in " ".join(page(found.drafts[0]).split())) == careful


@pytest.mark.parametrize("metrics", [None, []])
def test_without_a_metric_it_is_the_cpu_use(metrics: list[Json] | None) -> None:
    found = told(hpa(metrics=metrics))
    assert "load is CPU use" in found[0]
    assert any("the HPA states no metric" in note for note in found)


def test_the_first_version_has_cpu_use_alone() -> None:
    first = hpa(targetCPUUtilizationPercentage=70) | {"apiVersion": "autoscaling/v1"}
    assert only(first)["metrics"]["load"]["query"].startswith("100 * sum(rate(container_cpu")
    hidden = {"name": "web", "annotations": {"autoscaling.alpha.kubernetes.io/metrics": "[]"}}
    with pytest.raises(UserError, match=r"kubectl get hpa\.v2\.autoscaling web"):
        made(first | {"metadata": hidden})


def test_several_metrics_make_one_load_and_the_rest_is_told() -> None:
    objects = hpa(resource(), resource("memory"), external("a_b", average(5)), pods("http_requests"))
    spec = only(objects)
    assert spec["metrics"]["load"]["query"] == "sum(a_b)"
    assert spec["metrics"]["utilization"]["query"] == (
        f'clamp_max({CPU} / sum(kube_pod_container_resource_requests{{{OF_PODS}, resource="cpu"}}), 1)'
    )
    notes = told(objects)
    assert any(note.startswith("the use of memory: it does not follow the load") for note in notes)
    assert any(note.startswith("the Pods metric http_requests: one load decides") for note in notes)
    assert any(note.startswith("CPU use: it is read as metrics.utilization") for note in notes)


def test_cpu_use_beyond_the_request_is_no_utilization() -> None:
    busy = resource(type="Utilization", averageUtilization=200)
    assert "utilization" not in only(hpa(busy, external("a_b", average(5))))["metrics"]


@pytest.mark.parametrize("version", ["v2", "v2beta2"])
def test_a_kind_of_somebody_elses_is_told(version: str) -> None:
    reference = {"apiVersion": "media.example.com/v1", "kind": "EncoderPool", "name": "web"}
    notes = told(hpa(resource(), scaleTargetRef=reference) | {"apiVersion": f"autoscaling/{version}"})
    assert "kind EncoderPool: the operator scales it where targets of its chart name it" in notes
    assert any("its pods are picked by names that begin with web-" in note for note in notes)


def test_a_load_that_is_read_from_the_pods_needs_one() -> None:
    assert only(hpa(resource(), minReplicas=0))["minReplicas"] == 1
    assert only(hpa(external("a_b", average(5)), minReplicas=0))["minReplicas"] == 0


@pytest.mark.parametrize(("capacity", "latency"), [("100", "500ms"), ("4", "500ms"), ("3", "1s"), ("10m", "3m20s")])
def test_the_latency_is_above_the_time_of_a_request(capacity: str, latency: str) -> None:
    assert only(hpa(external("a_b", average(capacity))))["objective"]["latency"] == latency


@pytest.mark.parametrize(
    ("kind", "name", "pod", "other"),
    [
        ("Deployment", "web", "web-5d4f8c7b9-abcde", "web-api-5d4f8c7b9-abcde"),
        ("Deployment", "web", "web-59c6dx-abcde", "web-api-0"),
        ("Deployment", "a.b", "a.b-5d4f8c7b9-abcde", "axb-5d4f8c7b9-abcde"),
        ("StatefulSet", "web", "web-12", "web-api-0"),
        ("ReplicaSet", "web", "web-abcde", "web-api-abcde"),
        ("Rollout", "web", "web-5d4f8c7b9-abcde", "web-api-5d4f8c7b9-abcde"),
        ("EncoderPool", "web", "web-1", "webs-1"),
        ("Deployment", "w" * 50, "w" * 50 + "-5d4f8c7abcde", "w" * 49 + "-5d4f8c7abcde"),
        ("Deployment", "w" * 60, "w" * 58 + "abcde", "w" * 57 + "abcde"),
    ],
)
def test_pods_are_picked_by_the_names_that_their_kind_gives_them(kind: str, name: str, pod: str, other: str) -> None:
    pattern = pods_of("shop", kind, name)[1].value
    assert re.fullmatch(pattern, pod)
    assert not re.fullmatch(pattern, other)


# --- triggers


def test_the_query_of_a_prometheus_trigger_is_the_load_as_it_stands() -> None:
    text = 'sum(\n  rate(jobs_total{queue="a: \\"b\\" # c"}[2m])\n)\n'
    objects = scaled(trigger("prometheus", query=text, threshold="100.5", serverAddress="http://p:9090"))
    spec = only(objects, source="main")
    assert spec["metrics"]["load"] == {"query": text}
    assert spec["metrics"]["source"] == "main"
    assert spec["capacity"] == {"perReplica": "100.5"}
    found = convert([("x", yaml.safe_dump(objects))], Options(source="main"))
    assert "sources.main.url of the operator's chart has to be http://p:9090" in page(found.drafts[0])


@pytest.mark.parametrize(
    ("one", "load", "backlog", "capacity"),
    [
        (
            trigger("kafka", topic="orders", consumerGroup='g"1', lagThreshold="50"),
            'sum(rate(kafka_topic_partition_current_offset{topic="orders"}[2m]))',
            r'sum(clamp_min(kafka_consumergroup_lag{consumergroup="g\"1", topic="orders"}, 0))',
            None,
        ),
        (
            trigger("rabbitmq", queueName="jobs", mode="QueueLength", value="20", vhostName="/"),
            'sum(rate(rabbitmq_queue_messages_published_total{queue="jobs"}[2m]))',
            'sum(rabbitmq_queue_messages_ready{queue="jobs", vhost="/"})',
            None,
        ),
        (
            trigger("rabbitmq", queueName="jobs", mode="MessageRate", value="20"),
            'sum(rate(rabbitmq_queue_messages_published_total{queue="jobs"}[2m]))',
            'sum(rabbitmq_queue_messages_ready{queue="jobs"})',
            "20",
        ),
    ],
)
def test_a_queue_has_its_arrivals_as_load_and_its_length_as_backlog(
    one: Json, load: str, backlog: str, capacity: str | None
) -> None:
    spec = only(scaled(one))
    assert spec["metrics"]["load"]["query"] == load
    assert spec["metrics"]["backlog"]["query"] == backlog
    assert spec.get("capacity", {}).get("perReplica") == capacity


@pytest.mark.parametrize(
    "one",
    [
        trigger("aws-sqs-queue", queueURL="x"),
        trigger("cron", start="0 8 * * *"),
        trigger("memory", value="60"),
        trigger("kafka", consumerGroup="g"),
        trigger("rabbitmq", queueName="a.*", useRegex="true"),
    ],
)
def test_without_a_load_there_is_no_resource_until_one_is_given(one: Json) -> None:
    found = convert([("x", yaml.safe_dump(scaled(one)))], Options())
    assert found.drafts == []
    assert len(found.refused) == 1
    assert "with --load QUERY" in found.refused[0]
    spec = only(scaled(one), load="sum(a)", capacity="2.5", startup="30s")
    assert spec["metrics"]["load"]["query"] == "sum(a)"
    assert spec["capacity"] == {"perReplica": "2.5", "startup": "30s"}


def test_a_schedule_beside_a_load_is_told() -> None:
    notes = told(scaled(trigger("cron", start="x"), trigger("prometheus", query="rate(a_total[2m])", threshold="5")))
    assert any(note.startswith("trigger cron: a schedule is no load") for note in notes)


@pytest.mark.parametrize("name", ["paused", "paused-replicas"])
def test_a_pause_of_keda_is_told(name: str) -> None:
    objects = scaled(trigger("prometheus", query="a", threshold="5"))
    objects["metadata"]["annotations"] = {f"autoscaling.keda.sh/{name}": "4"}
    assert any(f"autoscaling.keda.sh/{name}: 4" in note for note in told(objects))


@pytest.mark.parametrize("text", ["queue_length", "sum(kafka_lag)", "sqs_messages_visible"])
def test_what_reads_like_a_backlog_is_told(text: str) -> None:
    assert any("by its name it is a backlog" in note for note in told(hpa(external(text, average(5)))))
    assert not any("backlog" in note for note in told(hpa(external("queue_messages_per_second", average(5)))))


def test_an_hpa_of_keda_is_passed_over_for_its_scaled_object() -> None:
    owned = hpa(external("s0-prometheus", average(5)), name="keda-hpa-worker")
    owned["metadata"]["ownerReferences"] = [
        {"kind": "ScaledObject", "name": "worker", "apiVersion": "keda.sh/v1alpha1"}
    ]
    assert [each["metadata"]["name"] for each in made(owned, scaled(trigger("cpu", value="60")))] == ["worker"]
    alone = convert([("x", yaml.safe_dump(owned))], Options())
    assert alone.drafts == []
    assert "give that instead: kubectl get scaledobject worker -n shop -o yaml" in alone.refused[0]


# --- always a resource


@settings(max_examples=100, deadline=None, derandomize=True)
@given(hpas() | scaled_objects(), st.sampled_from([Options(), Options(load="sum(a)"), Options(capacity="0.5")]))
def test_what_is_made_is_always_valid(value: Json, options: Options) -> None:
    found = made(value, **options._asdict())
    if value["kind"] == "HorizontalPodAutoscaler" and options.load:
        assert len(found) == 1
    for each in found:
        assert each["spec"]["maxReplicas"] == value["spec"].get(
            "maxReplicas", value["spec"].get("maxReplicaCount", 100)
        )
        behavior = value["spec"].get("behavior")
        if behavior is not None:
            kept = json.loads(json.dumps(each["spec"]["behavior"]))
            for rules in (*kept.values(), *behavior.values()):
                rules.update({"tolerance": str(rules["tolerance"])} if "tolerance" in rules else {})
            assert kept == behavior


_ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, each in inner for found in _paths(each, (*path, key)))]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(hpas() | scaled_objects(), _ODD, st.data())
def test_an_odd_value_is_a_sentence_or_a_resource(value: Json, odd: Any, data: st.DataObject) -> None:
    value = json.loads(json.dumps(value))
    path = data.draw(st.sampled_from([path for path in _paths(value) if path]))
    place = value
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = odd
    try:
        made(value, deployment("web", "1"))
    except UserError as error:
        for line in str(error).splitlines():
            assert line.startswith("x"), line


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError):
        convert([("x", text.encode("utf-8", "replace"))], Options())
