"""From `helm install` to `helm uninstall`: the examples scale by load, with the chart's own rights and nothing more."""

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from control_plane import ControlPlane
from installed_operator import Release
from load_exporter import Exporter
from processes import wait_until
from prometheus_server import PrometheusServer
from rlscaler_operator.reporting import WRITES_EVERY
from shop import condition, events, replicas, status

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TARGETS = [{"group": "media.example.com", "version": "v1", "kind": "EncoderPool", "plural": "encoderpools"}]

SAID = 10.0 + 2 * WRITES_EVERY
"""Seconds within which a status shows a change, where it changes so often that its writes have to wait."""

pytestmark = pytest.mark.components("kubernetes", "kwok", "helm", "prometheus")


class Shop(NamedTuple):
    """A cluster with the chart installed, a Prometheus that scrapes an exporter, and the operator's pod."""

    cluster: ControlPlane
    exporter: Exporter
    release: Release


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("installed")
    with (
        ControlPlane(directory, scheduler=True, kwok=3, audit=True, sync_period="1s") as cluster,
        Exporter() as exporter,
        PrometheusServer(directory / "prometheus", {"shop": exporter.address}) as prometheus,
    ):
        cluster.create_namespace("shop")
        values = {"sources": {"default": {"url": prometheus.url}}, "targets": TARGETS}
        release = Release(cluster, directory / "release", "rlscaler", values)
        yield Shop(cluster, exporter, release)
        release.close()


def quick(path: Path, mode: str) -> list[dict[str, object]]:
    """Return an example with its times cut to what a test can wait for: intervals of a second, windows of ten."""
    text = path.read_text().replace("[1m]", "[5s]").replace("[2m]", "[5s]")
    found = []
    for item in yaml.safe_load_all(text):
        spec = item["spec"]
        spec["interval"], spec["mode"] = "1s", mode
        spec["capacity"]["startup"] = "2s"
        for rules in spec.get("behavior", {}).values():
            rules["stabilizationWindowSeconds"] = 10
            rules["policies"][0]["periodSeconds"] = 5
        found.append(item)
    return found


def test_the_examples_are_scaled_by_their_load(shop: Shop) -> None:
    cluster, exporter, release = shop
    for name in ("web", "worker", "encoderpools", "encoders", "beside-hpa"):
        cluster.kubectl("apply", "-f", str(EXAMPLES / "workloads" / f"{name}.yaml"))
    exporter.rate("http_requests_total", 200.0, namespace="shop", deployment="web")
    exporter.rate("jobs_done_total", 10.0, queue="thumbnails")
    exporter.set("jobs_waiting", 0.0, queue="thumbnails")
    for name, mode in (("web", "Active"), ("worker", "Active"), ("custom-target", "Active"), ("beside-hpa", "Shadow")):
        cluster.apply(*quick(EXAMPLES / f"{name}.yaml", mode))
    operator = release.pod().start()

    def web() -> int:
        return replicas(cluster, "shop", "web")

    wait_until(lambda: 4 <= web() <= 10, "web does not follow 200 requests/s", 40.0, operator.process)
    exporter.rate("http_requests_total", 1000.0, namespace="shop", deployment="web")
    wait_until(lambda: web() >= 20, "web does not follow the rise", 30.0, operator.process)

    exporter.set("jobs_waiting", 900.0, queue="thumbnails")
    what = "the worker does not follow its backlog"
    wait_until(lambda: replicas(cluster, "shop", "thumbnails") >= 10, what, 30.0, operator.process)

    table = cluster.kubectl("get", "rls", "-n", "shop")
    assert table.split()[:5] == ["NAME", "TARGET", "MODE", "MIN", "MAX"]
    assert {line.split()[0] for line in table.splitlines()[1:]} == {"web", "thumbnails", "api"}
    assert condition(cluster, "shop", "web", "Ready")["status"] == "True"
    assert any(event["reason"] == "SuccessfulRescale" for event in events(cluster, "shop", "web"))


def test_a_scale_down_keeps_to_the_behavior(shop: Shop) -> None:
    """The worker may lose half of its replicas in five seconds, after a window of ten; web has no behavior."""
    cluster, exporter, _ = shop
    most = replicas(cluster, "shop", "web")
    exporter.rate("http_requests_total", 100.0, namespace="shop", deployment="web")
    began, high = time.monotonic(), replicas(cluster, "shop", "thumbnails")
    assert high >= 8
    exporter.set("jobs_waiting", 0.0, queue="thumbnails")
    exporter.rate("jobs_done_total", 2.0, queue="thumbnails")
    seen = [(0.0, high)]
    while seen[-1][1] > 4 and seen[-1][0] < 100.0:
        time.sleep(0.1)
        seen.append((time.monotonic() - began, replicas(cluster, "shop", "thumbnails")))
    changes = [after for before, after in pairwise(seen) if after[1] != before[1]]
    falls = [after for before, after in pairwise(seen) if after[1] < before[1]]
    assert seen[-1][1] <= 4, f"did not come down: {changes}"
    assert falls[0][0] >= 8.0, f"came down before the window was over: {changes}"
    for at, count in seen:
        # Half a second's slack: what this test sees is late by its own polls.
        before = max(value for when, value in seen if at - 4.5 <= when <= at)
        assert count >= before // 2, f"more than half went within five seconds, at {at:.1f} s: {changes}"
    wait_until(lambda: replicas(cluster, "shop", "web") < most, "web does not follow the fall", 60.0)


def test_a_custom_target_is_scaled_through_its_scale_subresource(shop: Shop) -> None:
    cluster, exporter, release = shop
    path = "/apis/media.example.com/v1/namespaces/media/encoderpools/encoders/scale"
    assert cluster.request("GET", path)["spec"]["replicas"] == 2
    exporter.set("encoder_clips_waiting", 0.0, pool="encoders")
    exporter.rate("encoder_clips_received_total", 4.0, pool="encoders")
    wait_until(lambda: cluster.request("GET", path)["spec"]["replicas"] >= 8, "the pool is not scaled", 60.0)
    user = f"system:serviceaccount:{release.namespace}:{release.account}"
    (patch, *_) = cluster.audit(user=user, resource="encoderpools", subresource="scale", verb="patch")
    assert patch["requestObject"][0] == {"op": "test", "path": "/spec/replicas", "value": 2}


def test_beside_an_hpa_nothing_is_written_and_the_conflict_is_said(shop: Shop) -> None:
    cluster, exporter, release = shop
    exporter.rate("http_requests_total", 300.0, namespace="shop", deployment="api")
    wait_until(lambda: "decision" in status(cluster, "shop", "api"), "no decision beside the HPA", 30.0)
    assert condition(cluster, "shop", "api", "Conflict")["reason"] == "OwnedByHPA"
    cluster.kubectl("patch", "rls", "api", "-n", "shop", "--type=merge", "-p", '{"spec":{"mode":"Active"}}')
    wait_until(lambda: status(cluster, "shop", "api").get("mode") == "Active", "the mode is not taken in", 20.0)
    user = f"system:serviceaccount:{release.namespace}:{release.account}"
    time.sleep(3.0)  # three intervals in which nothing may be written
    writes = cluster.audit(user=user, resource="deployments", subresource="scale", name="api")
    assert [event for event in writes if event["verb"] != "get"] == []


def test_force_and_pause_are_obeyed_at_once(shop: Shop) -> None:
    cluster, exporter, _ = shop
    cluster.kubectl("annotate", "rls", "web", "-n", "shop", "rlscaler.io/force-replicas=133")
    wait_until(lambda: replicas(cluster, "shop", "web") == 133, "force-replicas is not obeyed", 10.0)
    wait_until(lambda: status(cluster, "shop", "web").get("mode") == "Forced", "it is not said", SAID)
    cluster.kubectl("annotate", "rls", "web", "-n", "shop", "rlscaler.io/paused=true")
    cluster.kubectl("annotate", "rls", "web", "-n", "shop", "rlscaler.io/force-replicas-")
    wait_until(lambda: status(cluster, "shop", "web").get("mode") == "Paused", "the pause is not said", SAID)
    exporter.rate("http_requests_total", 2000.0, namespace="shop", deployment="web")
    time.sleep(3.0)
    assert replicas(cluster, "shop", "web") == 133
    cluster.kubectl("annotate", "rls", "web", "-n", "shop", "rlscaler.io/paused-")
    wait_until(lambda: replicas(cluster, "shop", "web") <= 100, "it does not go on", 20.0)


def test_only_what_the_chart_grants_is_used(shop: Shop) -> None:
    """The process speaks with the account's token alone; the API server's log tells what it was refused: nothing."""
    cluster, _, release = shop
    user = f"system:serviceaccount:{release.namespace}:{release.account}"
    used = cluster.audit(user=user)
    assert used, "the operator's requests are not in the log"
    refused = [event for event in used if event["responseStatus"]["code"] in (401, 403)]
    assert not refused, json.dumps(refused[:3], indent=1)
    written = {
        (event["objectRef"]["resource"], event["objectRef"].get("subresource", ""))
        for event in used
        if event["verb"] not in ("get", "list", "watch")
    }
    allowed = {(kind, "scale") for kind in ("deployments", "encoderpools")} | {("rlscalers", "status")}
    allowed |= {(kind, "") for kind in ("events", "leases", "configmaps")}
    assert written <= allowed


def test_uninstall_leaves_the_workloads_as_they_are(shop: Shop) -> None:
    cluster, exporter, release = shop
    exporter.rate("http_requests_total", 500.0, namespace="shop", deployment="web")
    release.close()
    before = {name: replicas(cluster, "shop", name) for name in ("web", "thumbnails", "api")}
    release.uninstall()
    assert {name: replicas(cluster, "shop", name) for name in before} == before
    assert before["web"] > 2
    kept = cluster.request("GET", "/apis/rlscaler.io/v1alpha1/rlscalers")["items"]
    assert len(kept) == 4, "the CRD is to stay, and the resources with it"
    assert not cluster.request("GET", f"/apis/apps/v1/namespaces/{release.namespace}/deployments")["items"]
