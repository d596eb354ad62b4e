"""What the operator asks of a cluster does what it says, on a real API server."""

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.config import incluster_config

from cluster_access import ApiError, ClusterAccess
from minimal_resource import MINIMAL
from processes import wait_until
from rlscaler.resource_objects import TargetRef
from rlscaler_operator import cluster as cluster_module
from rlscaler_operator import discovery
from rlscaler_operator.cluster import Cluster, ClusterError
from rlscaler_operator.connection import Connection
from rlscaler_operator.model import Key, Workload

GROUP = "tests.rlscaler.io"


def target(api_version: str, kind: str, name: str = "web") -> TargetRef:
    return TargetRef(api_version=api_version, kind=kind, name=name)


WIDGET = target(f"{GROUP}/v1", "Widget")
TARGETS = {
    "Deployment": target("apps/v1", "Deployment"),
    "StatefulSet": target("apps/v1", "StatefulSet"),
    "ReplicaSet": target("apps/v1", "ReplicaSet"),
    "ReplicationController": target("v1", "ReplicationController"),
    "Widget": WIDGET,
}
PLURALS = {"Widget": "widgets", **{kind: f"{kind.lower()}s" for kind in TARGETS if kind != "Widget"}}


def widget_crd(plural: str = "widgets", kind: str = "Widget", group: str = GROUP) -> dict[str, Any]:
    """Return the CRD of a kind that keeps its count in spec.size."""
    count = {"type": "object", "properties": {"size": {"type": "integer"}, "selector": {"type": "string"}}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": count, "status": count}}},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.size",
                            "statusReplicasPath": ".status.size",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                }
            ],
        },
    }


def install(access: ClusterAccess, definition: dict[str, Any]) -> None:
    access.apply(definition)
    group, plural = definition["spec"]["group"], definition["spec"]["names"]["plural"]

    def is_served() -> bool:
        try:
            listed = access.request("GET", f"/apis/{group}/v1")["resources"]
            access.request("GET", f"/apis/{group}/v1/{plural}")
        except ApiError:
            return False
        return any(item["name"] == plural for item in listed)

    wait_until(is_served, f"{plural} are not served", 30.0)


@pytest.fixture(scope="module", autouse=True)
def widgets(control_plane: ClusterAccess) -> Iterator[None]:
    install(control_plane, widget_crd())
    yield
    control_plane.kubectl("delete", "crd", f"widgets.{GROUP}", "--wait=false")


@pytest.fixture
def cluster(control_plane: ClusterAccess) -> Iterator[Cluster]:
    cluster = Cluster.connect(str(control_plane.kubeconfig))
    yield cluster
    cluster.close()


def manifest(ref: TargetRef, namespace: str, replicas: int | None) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    if replicas is not None:
        spec["size" if ref.kind == "Widget" else "replicas"] = replicas
    if ref.kind != "Widget":
        labels = {"app": f"{ref.kind.lower()}-{ref.name}"}
        spec["selector"] = labels if ref.kind == "ReplicationController" else {"matchLabels": labels}
        container = {"name": "web", "image": "web"}
        spec["template"] = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    if ref.kind == "StatefulSet":
        spec["serviceName"] = "web"
    metadata = {"namespace": namespace, "name": ref.name}
    return {"apiVersion": ref.api_version, "kind": ref.kind, "metadata": metadata, "spec": spec}


def path(ref: TargetRef, namespace: str) -> str:
    start = "/api" if "/" not in ref.api_version else "/apis"
    return f"{start}/{ref.api_version}/namespaces/{namespace}/{PLURALS[ref.kind]}/{ref.name}"


def count(access: ClusterAccess, ref: TargetRef, namespace: str) -> Any:
    spec = access.request("GET", path(ref, namespace))["spec"]
    return spec.get("size" if ref.kind == "Widget" else "replicas")


def failure(call: Callable[..., object], *arguments: Any) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        call(*arguments)
    return caught.value


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("replicas", [None, 0, 3])
def test_the_scale_of_every_kind_is_read(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster, kind: str, replicas: int | None
) -> None:
    ref = TARGETS[kind]
    control_plane.apply(manifest(ref, namespace, replicas))
    if kind == "Widget" and replicas is None:
        error = failure(cluster.scale, namespace, ref)
        assert error.reason == "Invalid"
        assert '".spec.size" does not exist' in error.message
        return
    assert cluster.scale(namespace, ref).desired == (1 if replicas is None else replicas)


def test_a_scale_tells_the_pods_that_exist_and_their_selector(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster
) -> None:
    ref = TARGETS["Deployment"]
    control_plane.apply(manifest(ref, namespace, 2))
    wait_until(lambda: cluster.scale(namespace, ref).replicas == 2, "there are no pods", 30.0)
    assert cluster.scale(namespace, ref) == (2, 2, "app=deployment-web")
    control_plane.apply(manifest(WIDGET, namespace, 2))
    assert cluster.scale(namespace, WIDGET) == (2, 0, "")


@pytest.mark.parametrize("kind", TARGETS)
def test_a_target_is_resized_if_it_asks_for_what_was_seen(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster, kind: str
) -> None:
    ref = TARGETS[kind]
    control_plane.apply(manifest(ref, namespace, 1))
    seen = 1
    for wanted in (4, 0, 3, 1, 0, 2):
        for wrong in {0, 1, 7} - {seen}:
            error = failure(cluster.resize, namespace, ref, wrong, wanted)
            assert error.reason == "Stale"
            assert error.message == (
                f"cannot resize {kind} {namespace}/web: it does not ask for {wrong} replicas any more"
            )
            assert count(control_plane, ref, namespace) == seen
        cluster.resize(namespace, ref, seen, wanted)
        assert count(control_plane, ref, namespace) == wanted
        seen = wanted


@pytest.mark.parametrize("kind", TARGETS)
def test_a_write_tells_the_version_that_it_made(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster, kind: str
) -> None:
    """A Scale has the resourceVersion of its object; controllers may have gone on with a built-in one meanwhile."""
    ref = TARGETS[kind]
    control_plane.apply(manifest(ref, namespace, 1))

    def version() -> int:
        return int(control_plane.request("GET", path(ref, namespace))["metadata"]["resourceVersion"])

    before = version()
    made = cluster.resize(namespace, ref, 1, 2)
    after = version()
    assert before < made <= after
    assert kind != "Widget" or made == after


def test_a_deployment_that_says_no_count_is_resized(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster
) -> None:
    ref = TARGETS["Deployment"]
    control_plane.apply(manifest(ref, namespace, None))
    cluster.resize(namespace, ref, 1, 2)
    assert count(control_plane, ref, namespace) == 2


@pytest.mark.parametrize("kind", ["Deployment", "Widget"])
def test_a_write_has_our_name_on_it(control_plane: ClusterAccess, namespace: str, cluster: Cluster, kind: str) -> None:
    ref = TARGETS[kind]
    control_plane.apply(manifest(ref, namespace, 1))
    cluster.resize(namespace, ref, 1, 2)
    fields = control_plane.request("GET", path(ref, namespace))["metadata"]["managedFields"]
    assert [entry.get("subresource") for entry in fields if entry["manager"] == "rlscaler"] == ["scale"]


def test_a_count_that_the_server_refuses_is_not_taken_for_a_stale_one(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster
) -> None:
    control_plane.apply(manifest(WIDGET, namespace, 1), manifest(TARGETS["Deployment"], namespace, 1))
    for ref, field in ((TARGETS["Deployment"], "spec.replicas"), (WIDGET, ".spec.size")):
        error = failure(cluster.resize, namespace, ref, 1, -1)
        assert error.reason == "Invalid"
        assert field in error.message


@pytest.mark.parametrize(
    ("ref", "reason", "says"),
    [
        (target("apps/v1", "Deployment"), "NotFound", 'deployments.apps "web" not found'),
        (target("apps/v1", "Deploymnt"), "NotFound", "no kind Deploymnt in apps/v1"),
        (target("apps/v9", "Deployment"), "NotFound", "no kind Deployment in apps/v9"),
        (target("no.such.group/v1", "Thing"), "NotFound", "no kind Thing in no.such.group/v1"),
        (target("v1", "ConfigMap"), "Invalid", "ConfigMap of v1 has no scale subresource"),
        (target("v1", "Namespace"), "Invalid", "Namespace of v1 is not namespaced"),
    ],
)
def test_a_target_that_cannot_be_scaled_says_why(
    namespace: str, cluster: Cluster, ref: TargetRef, reason: str, says: str
) -> None:
    for call in (lambda: cluster.scale(namespace, ref), lambda: cluster.resize(namespace, ref, 1, 2)):
        error = failure(call)
        assert (error.reason, error.transient) == (reason, False)
        assert says in error.message


def test_a_kind_that_comes_later_or_changes_its_plural_is_found(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = f"late.{GROUP}"
    ref = target(f"{group}/v1", "Gadget")
    assert failure(cluster.scale, namespace, ref).reason == "NotFound"
    gadget = {"apiVersion": f"{group}/v1", "kind": "Gadget", "metadata": {"namespace": namespace, "name": "web"}}
    for plural, size in (("gadgets", 3), ("gadgetries", 4)):
        definition = widget_crd(plural, "Gadget", group)
        install(control_plane, definition)
        where = f"/apis/{group}/v1/namespaces/{namespace}/{plural}"
        control_plane.request("POST", where, gadget | {"spec": {"size": size}})  # kubectl would remember the old plural
        error = failure(cluster.scale, namespace, ref)
        assert error.reason == "NotFound"  # as it was seen last
        monkeypatch.setattr(discovery, "REREAD", 0.0)
        assert cluster.scale(namespace, ref).desired == size
        name = definition["metadata"]["name"]
        control_plane.kubectl("delete", "crd", name, "--wait")


def test_served_tells_what_the_api_server_has(cluster: Cluster) -> None:
    asked = {
        ("apps", "Deployment"): True,
        ("apps", "deployments"): True,
        ("apps", "Nothing"): False,
        ("", "Pod"): True,
        ("", "ScaledObject"): False,
        ("keda.sh", "ScaledObject"): False,
        (GROUP, "widgets"): True,
        ("autoscaling", "HorizontalPodAutoscaler"): True,
    }
    assert {question: cluster.served(*question) for question in asked} == asked


def rlscaler(access: ClusterAccess, namespace: str, name: str = "web") -> Workload:
    resource = yaml.safe_load(MINIMAL)
    resource["metadata"]["name"] = name
    created = access.request("POST", f"/apis/rlscaler.io/v1alpha1/namespaces/{namespace}/rlscalers", resource)
    return Workload(Key(namespace, name), created["metadata"]["uid"], 1, 0.0, None)


def test_our_resources_are_listed_and_read(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "PAGE", 2)
    names = [f"web-{number}" for number in range(5)]
    for name in names:
        rlscaler(control_plane, namespace, name)
    assert [item["metadata"]["name"] for item in cluster.list_rlscalers(namespace)] == names
    everywhere = [item["metadata"]["name"] for item in cluster.list_rlscalers()]
    assert set(names) <= set(everywhere)
    assert len(everywhere) == len(control_plane.request("GET", "/apis/rlscaler.io/v1alpha1/rlscalers")["items"])
    one = cluster.get_rlscaler(Key(namespace, "web-3"))
    assert one["spec"]["maxReplicas"] == 10
    assert failure(cluster.get_rlscaler, Key(namespace, "other")).reason == "NotFound"


def test_a_list_that_grew_too_old_is_read_in_one_piece() -> None:
    asked: list[str] = []

    class Compacted(Connection):
        def __init__(self) -> None:
            pass

        def request(self, method: str, path: str, *_: Any, **__: Any) -> Any:
            asked.append(path)
            if "continue=" in path:
                raise ClusterError("Invalid", "the token is too old", 410)
            rest = {"continue": "x"} if "limit=" in path else {}
            return {"items": [{"a": 1}] if rest else [{"a": 1}, {"a": 2}], "metadata": rest}

    assert Cluster(Compacted()).list_rlscalers() == [{"a": 1}, {"a": 2}]
    assert len(asked) == 3


def test_fields_of_a_status_are_merged(control_plane: ClusterAccess, namespace: str, cluster: Cluster) -> None:
    workload = rlscaler(control_plane, namespace)
    before = cluster.get_rlscaler(workload.key)
    cluster.patch_status(workload.key, {"currentReplicas": 3, "selector": "app=web"})
    cluster.patch_status(workload.key, {"desiredReplicas": 4, "selector": None})
    after = cluster.get_rlscaler(workload.key)
    assert after["status"] == {"currentReplicas": 3, "desiredReplicas": 4}
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert {f["manager"] for f in after["metadata"]["managedFields"] if f.get("subresource")} == {"rlscaler"}
    error = failure(cluster.patch_status, Key(namespace, "other"), {"currentReplicas": 3})
    assert error.reason == "NotFound"
    assert failure(cluster.patch_status, workload.key, {"currentReplicas": "three"}).reason == "Invalid"
    assert failure(cluster.patch_status, workload.key, {"currentReplicas": math.nan}).reason == "Invalid"


def test_events_are_shown_by_kubectl(control_plane: ClusterAccess, namespace: str, cluster: Cluster) -> None:
    workload = rlscaler(control_plane, namespace)
    now = time.time()
    cluster.create_event(workload, "Normal", "SuccessfulRescale", "New size: 3", now - 130.0)
    cluster.create_event(workload, "Warning", "FailedGetLoad", "x" * 5000, now)
    cluster.create_event(workload, "Warning", "FailedGetLoad", "again", now)
    shown = control_plane.kubectl("describe", "rlscaler", "web", "-n", namespace).partition("Events:")[2].split("\n")
    found = sorted(line.split(maxsplit=4) for line in shown if line.strip() and "---" not in line)
    assert found[0][:4] == ["Normal", "SuccessfulRescale", "2m10s", "rlscaler"] or found[0][2].startswith("2m1")
    assert found[0][4] == "New size: 3"
    assert [line[4][-7:] for line in found[2:]] == ["again", "xxxx..."]
    listed = control_plane.kubectl("get", "events", "-n", namespace, "--sort-by=.lastTimestamp", "-o", "json")
    assert next((item["reason"], item["count"]) for item in json.loads(listed)["items"]) == ("SuccessfulRescale", 1)


def test_a_lease_is_created_read_and_replaced_by_version(namespace: str, cluster: Cluster) -> None:
    assert cluster.lease(namespace, "rlscaler") is None
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"namespace": namespace, "name": "rlscaler"},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15},
    }
    first = cluster.create_lease(lease)
    assert failure(cluster.create_lease, lease).reason == "Conflict"
    second = cluster.replace_lease(first | {"spec": first["spec"] | {"holderIdentity": "b"}})
    assert failure(cluster.replace_lease, first).reason == "Conflict"
    assert cluster.lease(namespace, "rlscaler") == second
    assert second["spec"]["holderIdentity"] == "b"


def test_config_maps_hold_what_was_put_last(control_plane: ClusterAccess, namespace: str, cluster: Cluster) -> None:
    owner = control_plane.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
    reference = {"apiVersion": "v1", "kind": "ServiceAccount", "name": "default", "uid": owner["metadata"]["uid"]}
    content = {"a": bytes(range(256)), "b": b""}
    cluster.put_config_map(namespace, "one", {"app": "x", "part": "1"}, {"old": b"1"})
    cluster.put_config_map(namespace, "one", {"app": "x"}, content, reference)
    cluster.put_config_map(namespace, "two", {"app": "y"}, {})
    (one,) = cluster.list_config_maps(namespace, "app=x")
    assert (one.name, one.namespace, one.labels, one.binary_data, one.data) == (
        "one", namespace, {"app": "x"}, content, {},
    )  # fmt: skip
    stored = control_plane.request("GET", f"/api/v1/namespaces/{namespace}/configmaps/one")
    assert [item["uid"] for item in stored["metadata"]["ownerReferences"]] == [reference["uid"]]
    assert [item.name for item in cluster.list_config_maps(namespace, "app in (x,y)")] == ["one", "two"]
    assert failure(cluster.put_config_map, namespace, "big", {}, {"a": bytes(2**20 + 1)}).reason == "Invalid"
    for _ in range(2):
        cluster.delete_config_map(namespace, "one")
    assert cluster.list_config_maps(namespace, "app=x") == []


@pytest.fixture
def limited(control_plane: ClusterAccess, namespace: str, tmp_path: Path) -> Iterator[Cluster]:
    """Return the cluster as a service account sees it that may read Deployments and nothing else."""
    control_plane.kubectl("create", "serviceaccount", "limited", "-n", namespace)
    control_plane.kubectl("create", "role", "limited", "--verb=get", "--resource=deployments", "-n", namespace)
    account = f"--serviceaccount={namespace}:limited"
    control_plane.kubectl("create", "rolebinding", "limited", "--role=limited", account, "-n", namespace)
    token = control_plane.token_for(namespace, "limited")
    cluster = Cluster.connect(str(control_plane.kubeconfig_for(token, tmp_path / "limited")))
    wait_until(lambda: cluster.can_i("get", "apps", "deployments", "", namespace), "the role is not honoured", 10.0)
    yield cluster
    cluster.close()


def test_what_is_not_granted_is_said(control_plane: ClusterAccess, namespace: str, limited: Cluster) -> None:
    control_plane.apply(manifest(TARGETS["Deployment"], namespace, 1))
    key = Key(namespace, "web")
    lease = {"metadata": {"namespace": namespace, "name": "rlscaler"}, "spec": {}}
    calls: dict[str, Callable[[], object]] = {
        "verb 'get' on 'deployments/scale' of API group 'apps' in namespace": lambda: limited.scale(
            namespace, TARGETS["Deployment"]
        ),
        "verb 'patch' on 'deployments/scale' of API group 'apps' in namespace": lambda: limited.resize(
            namespace, TARGETS["Deployment"], 1, 2
        ),
        "verb 'list' on 'rlscalers' of API group 'rlscaler.io' in the whole cluster": limited.list_rlscalers,
        "verb 'list' on 'rlscalers' of API group 'rlscaler.io' in namespace": lambda: limited.list_rlscalers(namespace),
        "verb 'patch' on 'rlscalers/status' of API group 'rlscaler.io' in namespace": lambda: limited.patch_status(
            key, {}
        ),
        "verb 'create' on 'events' of API group '' in namespace": lambda: limited.create_event(
            Workload(key, "1", 1, 0.0, None), "Normal", "A", "a", 0.0
        ),
        "verb 'get' on 'leases' of API group 'coordination.k8s.io' in namespace": lambda: limited.lease(namespace, "a"),
        "verb 'create' on 'leases' of API group 'coordination.k8s.io' in namespace": lambda: limited.create_lease(
            lease
        ),
        "verb 'update' on 'configmaps' of API group '' in namespace": lambda: limited.put_config_map(
            namespace, "a", {}, {}
        ),
        "verb 'delete' on 'configmaps' of API group '' in namespace": lambda: limited.delete_config_map(namespace, "a"),
    }
    for grant, call in calls.items():
        error = failure(call)
        assert error.reason == "Forbidden"
        assert f"grant the operator's service account the {grant}" in error.message
    assert count(control_plane, TARGETS["Deployment"], namespace) == 1


def test_rights_can_be_asked_for(namespace: str, cluster: Cluster, limited: Cluster) -> None:
    assert cluster.can_i("patch", "apps", "deployments", "scale")
    assert not limited.can_i("patch", "apps", "deployments", "scale", namespace)
    assert not limited.can_i("get", "apps", "deployments", "", "default")
    assert not limited.can_i("get", "apps", "deployments")


def test_a_pods_service_account_is_used_and_its_rotated_token(
    control_plane: ClusterAccess, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, now = tmp_path / "token", [0.0]
    host, port = control_plane.server.removeprefix("https://").rsplit(":", 1)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(control_plane.ca))
    token.write_text("of another time")
    cluster = Cluster(Connection.open(None, None, 10.0, lambda: now[0]))
    assert failure(cluster.can_i, "get", "", "pods").reason == "Unauthorized"
    token.write_text(control_plane.token_for(namespace, "default"))
    now[0] += 11.0
    assert cluster.can_i("create", "authorization.k8s.io", "selfsubjectaccessreviews")
    cluster.close()


def test_many_threads_share_a_cluster(control_plane: ClusterAccess, namespace: str, cluster: Cluster) -> None:
    names = [f"web-{number}" for number in range(12)]
    refs = [target(WIDGET.api_version, "Widget", name) for name in names]
    control_plane.apply(*(manifest(ref, namespace, 0) for ref in refs))

    def climb(ref: TargetRef) -> int:
        for seen in range(10):
            cluster.resize(namespace, ref, seen, seen + 1)
        return cluster.scale(namespace, ref).desired

    with ThreadPoolExecutor(len(refs)) as threads:
        assert list(threads.map(climb, refs)) == [10] * len(refs)
