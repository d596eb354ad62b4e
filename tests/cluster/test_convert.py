"""What `rlscaler convert` makes, before a real API server and a real Prometheus: taken by both."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings

from cluster_access import ClusterAccess
from given_autoscalers import average, deployment, external, hpa, hpas, pods, resource, scaled, scaled_objects, trigger
from prometheus_server import PrometheusServer
from rlscaler.convert.command import convert as command
from rlscaler.convert.converting import convert
from rlscaler.convert.draft import Options
from rlscaler.convert.page import page
from rlscaler.custom_resource import parse_resources

pytestmark = pytest.mark.components("kubernetes", "kwok", "prometheus")

Json = dict[str, Any]
NOW = 1_700_000_000
"""Time of the last sample, seconds since the epoch."""
HPAS = "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers"
BEHAVIOR = {"scaleDown": {"stabilizationWindowSeconds": 60}, "scaleUp": {"tolerance": "50m"}}
REAL: dict[str, Json] = {
    "cpu": hpa(resource()),
    "nothing-stated": hpa(minReplicas=None),
    "all": hpa(
        resource(),
        resource("memory", **average("200Mi")),
        pods("http_requests_per_second", "1k", matchLabels={"code": "200"}),
        external("queue_depth", {"type": "Value", "value": "30"}),
        behavior=BEHAVIOR,
    ),
    "object": hpa(
        {
            "type": "Object",
            "object": {
                "metric": {"name": "requests_total"},
                "target": average("500m"),
                "describedObject": {"kind": "Ingress", "name": "main", "apiVersion": "networking.k8s.io/v1"},
            },
        },
        kind="StatefulSet",
    ),
}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """Return a Prometheus in which shop/web has one pod, which requests half a core and uses a whole one."""
    of_web = 'namespace="shop",pod="web-5d4f8c7b9-abcde",container="c0"'
    of_other = of_web.replace("web-", "web-api-")
    times = range(NOW - 600, NOW + 1, 15)
    lines = ["# TYPE container_cpu_usage_seconds counter"]
    lines += [f"container_cpu_usage_seconds_total{{{of_web}}} {t - NOW + 600} {t}" for t in times]
    lines += [f"container_cpu_usage_seconds_total{{{of_other}}} {7 * (t - NOW + 600)} {t}" for t in times]
    lines += ["# TYPE kube_pod_container_resource_requests gauge"]
    lines += [f'kube_pod_container_resource_requests{{{of_web},resource="cpu"}} 0.5 {t}' for t in times]
    history = "\n".join([*lines, "# EOF", ""])
    with PrometheusServer(tmp_path_factory.mktemp("prometheus"), history=history) as server:
        yield server


def ask(server: PrometheusServer, what: str, query: str) -> Any:
    """Return the data of Prometheus' answer; raises AssertionError with its words where it refuses the query."""
    asked = urllib.parse.urlencode({"query": query, "time": NOW})
    try:
        with urllib.request.urlopen(f"{server.url}/api/v1/{what}?{asked}") as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{query}: {error.read().decode()}") from error


def queries(*objects: Json) -> list[str]:
    """Return all queries of what is made of objects."""
    found = convert([("x", "---\n".join(yaml.safe_dump(each) for each in objects))], Options())
    text = "---\n".join(page(each) for each in found.drafts)
    made = list(yaml.safe_load_all(text))
    return [part["query"] for each in made for part in each["spec"]["metrics"].values() if isinstance(part, dict)]


@pytest.mark.parametrize("case", REAL)
def test_an_hpa_as_the_server_has_it_becomes_a_resource_that_it_takes(
    control_plane: ClusterAccess, namespace: str, case: str
) -> None:
    given_hpa = json.loads(json.dumps(REAL[case]))
    given_hpa["metadata"]["namespace"] = namespace
    control_plane.request("POST", HPAS.format(namespace), given_hpa)
    for version in ("v2", "v1"):
        of_kubectl = control_plane.kubectl("get", f"hpa.{version}.autoscaling", "-n", namespace, "-o", "yaml",
                                           "--show-managed-fields")  # fmt: skip
        result = CliRunner().invoke(command, ["-f", "-"], input=of_kubectl)
        if version == "v1" and result.exception is not None:
            # It has what autoscaling/v1 carries in annotations, and is refused for that.
            assert "kubectl get hpa.v2.autoscaling web" in str(result.exception)
            continue
        assert result.exit_code == 0, result.output
        (made,) = parse_resources(result.stdout, "made")
        control_plane.kubectl("apply", "--validate=strict", "-f", "-", input=result.stdout)
        path = f"/apis/rlscaler.io/v1alpha1/namespaces/{namespace}/rlscalers/web"
        kept = control_plane.request("GET", path)["spec"]
        assert (kept["mode"], kept["maxReplicas"]) == ("Shadow", made.spec.max_replicas)
        assert kept.get("behavior", {}).get("scaleDown", {}).get("stabilizationWindowSeconds") == (
            60 if case == "all" else None
        )


def test_a_raw_list_of_the_server_has_its_kind_in_the_list_alone(control_plane: ClusterAccess, namespace: str) -> None:
    value = json.loads(json.dumps(REAL["cpu"]))
    value["metadata"]["namespace"] = namespace
    control_plane.request("POST", HPAS.format(namespace), value)
    raw = control_plane.kubectl("get", "--raw", HPAS.format(namespace))
    result = CliRunner().invoke(command, ["-f", "-"], input=raw)
    assert result.exit_code == 0, result.output
    assert [each.name for each in parse_resources(result.stdout, "made")] == ["web"]


@pytest.mark.parametrize(
    "objects",
    [
        [hpa(resource())],
        [hpa(resource()), deployment("web", "500m")],
    ],
)
def test_cpu_use_is_what_the_series_say(prometheus: PrometheusServer, objects: list[Json]) -> None:
    """Twice the request: a core in use where half a core is requested; another Deployment's pods are not counted."""
    (query,) = queries(*objects)
    (found,) = ask(prometheus, "query", query)["result"]
    assert float(found["value"][1]) == pytest.approx(200.0)


def test_cpu_use_as_a_share_is_at_most_one(prometheus: PrometheusServer) -> None:
    load, share = queries(hpa(resource(), external("a_b", average(5))))
    assert ask(prometheus, "query", load)["result"] == []
    (found,) = ask(prometheus, "query", share)["result"]
    assert float(found["value"][1]) == 1.0


@pytest.mark.parametrize(
    "word", ["by", "sum", "group_left", "count_values", "inf", "NaN", "offset", "on", "a-b", "ü", "a:b"]
)
def test_a_metric_may_have_any_name(prometheus: PrometheusServer, word: str) -> None:
    for query in queries(hpa(external(word, average(5), matchLabels={"by": "x", "on/off": 'q"\\\n'}))):
        ask(prometheus, "format_query", query)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hpas() | scaled_objects())
def test_every_template_is_promql(prometheus: PrometheusServer, value: Json) -> None:
    given_queries = [one["metadata"].get("query") for one in value["spec"].get("triggers", [])]
    for query in queries(value):
        if query not in given_queries:
            ask(prometheus, "format_query", query)


def test_queues_are_promql(prometheus: PrometheusServer) -> None:
    kafka = trigger("kafka", topic='or"ders', consumerGroup="a\\b")
    rabbit = trigger("rabbitmq", queueName="jobs", vhostName="/", mode="MessageRate", value="5")
    for query in [*queries(scaled(kafka)), *queries(scaled(rabbit))]:
        ask(prometheus, "format_query", query)
