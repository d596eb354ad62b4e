"""The chart's rights: all that the operator does is granted by them, and nothing else is, in any namespace.

Whether something is granted is asked of the API server, as the operator's account, for each verb of each resource that
it serves; whether it is needed shows the audit log of an operator that runs with nothing but that account's token.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import urllib3

from control_plane import ControlPlane
from installed_operator import Release
from load_exporter import Exporter
from operator_process import OperatorProcess
from processes import wait_until
from prometheus_server import PrometheusServer
from shadow_world import POOL
from shop import condition, deployment, rlscaler, status

pytestmark = pytest.mark.components("kubernetes", "kwok", "helm", "prometheus")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
SPECIAL = {("", "users"): "impersonate", ("", "groups"): "impersonate", ("", "serviceaccounts"): "impersonate",
           ("rbac.authorization.k8s.io", "roles"): "escalate", ("rbac.authorization.k8s.io", "clusterroles"): "bind",
           ("*", "*"): "*"}  # fmt: skip
"""Rights by which somebody gets more of them, of resources that need not be served."""
WATCHED, ELSEWHERE = "shop", "elsewhere"


KEDA = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "scaledobjects.keda.sh"},
    "spec": {
        "group": "keda.sh",
        "names": {"kind": "ScaledObject", "plural": "scaledobjects"},
        "scope": "Namespaced",
        "versions": [{"name": "v1alpha1", "served": True, "storage": True,
                      "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}],
    },
}  # fmt: skip
"""What an operator sees of KEDA where it is installed."""


class Right(NamedTuple):
    """Something that may be done. name: of the only object, "" for all."""

    group: str
    resource: str
    verb: str
    name: str = ""


TARGETS = {
    Right("apps", resource, verb)
    for kind in ("deployments", "statefulsets", "replicasets")
    for resource, verb in ((kind, "list"), (kind, "watch"), (f"{kind}/scale", "patch"))
}
CUSTOM = {
    *(Right("media.example.com", "encoderpools", verb) for verb in ("list", "watch")),
    *(Right("media.example.com", "encoderpools/scale", verb) for verb in ("get", "patch")),
}
WHERE_IT_SCALES = TARGETS | {
    *(Right("rlscaler.io", "rlscalers", verb) for verb in ("get", "list", "watch")),
    Right("rlscaler.io", "rlscalers/status", "patch"),
    *(Right("autoscaling", "horizontalpodautoscalers", verb) for verb in ("list", "watch")),
    *(Right("keda.sh", "scaledobjects", verb) for verb in ("list", "watch")),
    Right("", "events", "create"),
}
AT_HOME = {
    Right("coordination.k8s.io", "leases", "create"),
    *(Right("coordination.k8s.io", "leases", verb, "rlscaler") for verb in ("get", "update")),
    *(Right("", "configmaps", verb) for verb in ("list", "create", "update", "delete")),
}


class House(NamedTuple):
    """A cluster with two releases: one for all namespaces and a custom target, one for the namespace `shop`.

    everyones: rights of any account, to ask what it may do.
    """

    cluster: ControlPlane
    exporter: Exporter
    wide: Release
    narrow: Release
    sources: dict[str, Any]
    everyones: set[Right]

    def granted(self, release: Release, namespace: str) -> set[Right]:
        """Return what a release's account may do in a namespace, beyond what everyone may."""
        token = self.cluster.token_for(release.namespace, release.account)
        return rights(self.cluster, token, namespace) - self.everyones


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("rbac")
    with (
        ControlPlane(directory, scheduler=True, kwok=2, audit=True) as cluster,
        Exporter() as exporter,
        PrometheusServer(directory / "prometheus", {"shop": exporter.address}) as prometheus,
    ):
        for name in (WATCHED, ELSEWHERE):
            cluster.create_namespace(name)
        cluster.kubectl("apply", "-f", str(EXAMPLES / "workloads" / "encoderpools.yaml"))
        cluster.apply(KEDA)
        cluster.kubectl("wait", "crd/scaledobjects.keda.sh", "--for=condition=Established")
        sources = {"sources": {"default": {"url": prometheus.url}}}
        wide = Release(cluster, directory / "wide", "wide", sources | {"targets": [POOL]})
        narrow = Release(cluster, directory / "narrow", "narrow", sources | NARROW)
        everyones = rights(cluster, cluster.token_for(ELSEWHERE, "default"), ELSEWHERE)
        yield House(cluster, exporter, wide, narrow, sources, everyones)
        narrow.close()


NARROW = {"watchNamespaces": [WATCHED], "crds": {"install": False}, "rbac": {"aggregate": False}}


def served(cluster: ControlPlane) -> set[tuple[str, str]]:
    """Return group and name of all resources that the API server serves, their parts included (`pods/log`)."""
    groups = [group["preferredVersion"]["groupVersion"] for group in cluster.request("GET", "/apis")["groups"]]
    paths = ["/api/v1", *(f"/apis/{group}" for group in groups)]
    return {
        (path.removeprefix("/apis/").rpartition("/")[0] if "/apis/" in path else "", resource["name"])
        for path in paths
        for resource in cluster.request("GET", path)["resources"]
    }


def rights(cluster: ControlPlane, token: str, namespace: str) -> set[Right]:
    """Return what the owner of a token may do in a namespace, asked of the API server right by right.

    Whatever is granted for one object by name is found by the only name that the operator has, `rlscaler`.
    """
    asked = [Right(*resource, verb, name) for resource in served(cluster)
             for verb in VERBS for name in ("", "rlscaler")]  # fmt: skip
    asked += [Right(*resource, verb) for resource, verb in SPECIAL.items()]
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    url = f"{cluster.server}/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

    with urllib3.PoolManager(ca_certs=str(cluster.ca), maxsize=8) as http, ThreadPoolExecutor(8) as pool:

        def may(right: Right) -> bool:
            resource, _, part = right.resource.partition("/")
            attributes = {"namespace": namespace, "verb": right.verb, "group": right.group, "resource": resource,
                          "subresource": part, "name": right.name}  # fmt: skip
            body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                    "spec": {"resourceAttributes": attributes}}  # fmt: skip
            answer = http.request("POST", url, body=json.dumps(body), headers=headers)
            assert answer.status == 201, answer.data
            return bool(json.loads(answer.data)["status"]["allowed"])

        found = {right for right, allowed in zip(asked, pool.map(may, asked), strict=True) if allowed}
    return {right for right in found if not right.name or right._replace(name="") not in found}


def test_for_all_namespaces_each_verb_that_is_not_needed_is_refused(house: House) -> None:
    everywhere = WHERE_IT_SCALES | CUSTOM
    assert house.granted(house.wide, ELSEWHERE) == everywhere
    assert house.granted(house.wide, house.wide.namespace) == everywhere | AT_HOME


def test_for_some_namespaces_nothing_is_granted_elsewhere(house: House) -> None:
    assert house.granted(house.narrow, WATCHED) == WHERE_IT_SCALES
    assert house.granted(house.narrow, house.narrow.namespace) == AT_HOME
    assert house.granted(house.narrow, ELSEWHERE) == set()
    assert house.granted(house.narrow, "") == set(), "in all namespaces, and of what has none"


# --- an operator with the rights for one namespace


def workload(cluster: ControlPlane, namespace: str, name: str, kind: str) -> None:
    """Make a target and its RLScaler."""
    custom = kind == "EncoderPool"
    group = "media.example.com/v1" if custom else "apps/v1"
    made = deployment(namespace, name)
    made |= {"kind": kind, "apiVersion": group}
    if custom:
        made["spec"] = {"replicas": 3}
    if kind == "StatefulSet":
        made["spec"] |= {"serviceName": name}
    cluster.apply(made, rlscaler(namespace, name, scaleTargetRef={"apiVersion": group, "kind": kind, "name": name}))


@pytest.fixture(scope="module")
def operator(house: House) -> OperatorProcess:
    """Return the release's operator, started, with targets in its namespace and one elsewhere."""
    for kind in ("Deployment", "StatefulSet", "ReplicaSet", "EncoderPool"):
        house.exporter.set("load_rps", 100.0, deployment=kind.lower())
        workload(house.cluster, WATCHED, kind.lower(), kind)
    house.exporter.set("load_rps", 100.0, deployment="outside")
    workload(house.cluster, ELSEWHERE, "outside", "Deployment")
    return house.narrow.pod().start()


@pytest.fixture(scope="module")
def upgraded(house: House, operator: OperatorProcess) -> OperatorProcess:
    """Return the operator after an upgrade to values that name the custom target; it was not watched before."""
    wait_until(lambda: bool(condition(house.cluster, WATCHED, "encoderpool", "Ready")), "no condition", 60.0)
    assert condition(house.cluster, WATCHED, "encoderpool", "Ready")["reason"] == "TargetNotWatched"
    operator.stop()
    house.narrow.upgrade(house.sources | NARROW | {"targets": [POOL]})
    return house.narrow.pod("two").start()


def scaled(house: House, plural: str, group: str = "apps/v1") -> bool:
    path = f"/apis/{group}/namespaces/{WATCHED}/{plural}/{plural.removesuffix('s')}/scale"
    return bool(house.cluster.request("GET", path)["spec"]["replicas"] > 10)


@pytest.mark.parametrize("plural", ["deployments", "statefulsets", "replicasets"])
def test_with_these_rights_its_targets_are_scaled(house: House, operator: OperatorProcess, plural: str) -> None:
    wait_until(lambda: scaled(house, plural), f"{plural} are not scaled", 60.0, operator.process)


def test_a_custom_target_needs_the_charts_values(house: House, upgraded: OperatorProcess) -> None:
    assert house.granted(house.narrow, WATCHED) == WHERE_IT_SCALES | CUSTOM
    pool = "encoderpools", "media.example.com/v1"
    wait_until(lambda: scaled(house, *pool), "it is not scaled", 60.0, upgraded.process)


def test_it_uses_what_it_is_granted_and_is_refused_nothing(house: House, upgraded: OperatorProcess) -> None:
    cluster, release = house.cluster, house.narrow
    program = Path(sys.executable).with_name("rlscaler")
    arguments = ("explain", "deployment", "-n", WATCHED, "--kubeconfig", release.directory / "two.kubeconfig")
    told = subprocess.run([program, *arguments], capture_output=True, text=True)  # as `kubectl exec` runs it
    assert told.returncode == 0, told.stderr
    used = cluster.audit(user=f"system:serviceaccount:{release.namespace}:{release.account}")
    used = [event for event in used if event["objectRef"]["resource"] != "selfsubjectaccessreviews"]
    assert [event["objectRef"] for event in used if event["responseStatus"]["code"] in (401, 403)] == []
    assert {event["objectRef"].get("namespace") for event in used} == {WATCHED, release.namespace}
    done = {(event["objectRef"].get("apiGroup", ""), _resource(event["objectRef"]), event["verb"]) for event in used}
    allowed = {right[:3] for right in WHERE_IT_SCALES | CUSTOM | AT_HOME}
    assert allowed - done == {("", "configmaps", "delete")}, "which a fleet that shrinks needs"
    assert status(cluster, ELSEWHERE, "outside") == {}


def _resource(about: dict[str, Any]) -> str:
    return "/".join(filter(None, (about["resource"], about.get("subresource"))))
