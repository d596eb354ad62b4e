"""The chart on a real API server: installed, upgraded and uninstalled by real helm; the rights it gives, no more.

The control plane is one of this file's own, since the definition that a release owns would be in the way elsewhere.
"""

import copy
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster_access import KubectlError
from control_plane import ControlPlane
from helm_chart import CHART, NAME, NAMESPACE, RELEASE
from processes import wait_until
from programs import program
from rlscaler.crd import columns, crd
from rlscaler.resource_objects import TargetRef
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.model import Key, Workload

pytestmark = pytest.mark.components("kubernetes", "kwok", "helm")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rlscalers.rlscaler.io"
POOL = {"group": "media.example.com", "version": "v1", "kind": "EncoderPool", "plural": "encoderpools"}
VALUES: dict[str, Any] = {"targets": [POOL]}


class Helm:
    """helm on one cluster."""

    def __init__(self, plane: ControlPlane, home: Path) -> None:
        self._plane = plane
        self._environment = {**os.environ, **{f"HELM_{n}_HOME": str(home / n) for n in ("CACHE", "CONFIG", "DATA")}}

    def __call__(self, *arguments: str | Path, values: Mapping[str, Any] | None = None) -> str:
        command = [str(program("helm")), *map(str, arguments), "--kubeconfig", str(self._plane.kubeconfig)]
        command += [] if values is None else ["--values", "-"]
        text = None if values is None else yaml.safe_dump(dict(values))
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=self._environment)
        assert done.returncode == 0, f"helm {arguments}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Return a control plane whose namespace for the operator takes only pods of the `restricted` standard."""
    with ControlPlane(tmp_path_factory.mktemp("chart"), scheduler=True, kwok=2) as plane:
        plane.apply(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
            },
            *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in ("shop", "media")),
        )
        plane.kubectl("apply", "-f", str(EXAMPLES / "workloads" / "encoderpools.yaml"))
        yield plane


@pytest.fixture(scope="module")
def helm(plane: ControlPlane) -> Helm:
    return Helm(plane, plane.directory / "helm")


@pytest.fixture(scope="module")
def notes(plane: ControlPlane, helm: Helm) -> str:
    """Install the chart, wait for its pods, and return what helm tells."""
    return helm("install", RELEASE, CHART, "-n", NAMESPACE, "--wait", "--timeout", "120s", values=VALUES)


@pytest.fixture
def installed(notes: str, plane: ControlPlane) -> ControlPlane:
    """Return the control plane once the chart is installed."""
    return plane


# --- installed


def test_pods_of_the_restricted_standard_come_up(installed: ControlPlane) -> None:
    deployment = installed.request("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}")
    assert deployment["status"]["availableReplicas"] == 2
    nodes = installed.kubectl("get", "pods", "-n", NAMESPACE, "-o", "jsonpath={.items[*].spec.nodeName}").split()
    assert sorted(nodes) == ["node-0", "node-1"], "spread over the nodes"


def test_the_release_test_would_be_let_in(installed: ControlPlane, helm: Helm) -> None:
    hooks = helm("get", "hooks", RELEASE, "-n", NAMESPACE)
    installed.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", input=hooks)


COMBINATIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        **{name: {"enabled": True} for name in ("networkPolicy", "dashboard")},
        "targets": [POOL],
        "sources": {
            "default": {"url": "https://p", "secret": {"name": "s", "bearerToken": "t", "headers": {"X-A": "a"}}},
            "other": {"url": "https://p", "basic": {"username": "u"}, "secret": {"name": "s", "password": "p"}},
        },
        "policies": {"volume": {"persistentVolumeClaim": {"claimName": "policies"}}},
        "decisions": {"enabled": True, "megabytes": 1_000_000},
        "image": {"digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "priorityClassName": "system-cluster-critical",
        "podDisruptionBudget": {"maxUnavailable": "50%"},
        "networkPolicy": {"enabled": True, "metricsFrom": [{"namespaceSelector": {}}], "egress": [{"to": []}]},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "affinity": {"podAntiAffinity": {}},
        "commonLabels": {"team": "platform"},
        "podAnnotations": {"a": "b"},
        "serviceAccount": {"annotations": {"a": "b"}},
        "service": {"annotations": {"prometheus.io/scrape": "true"}},
    },
    "namespaced": {"watchNamespaces": ["shop", "media"], "targets": [POOL]},
}


@pytest.mark.parametrize("values", COMBINATIONS.values(), ids=list(COMBINATIONS))
def test_the_api_server_takes_every_object_strictly(plane: ControlPlane, helm: Helm, values: dict[str, Any]) -> None:
    manifest = helm("template", "another", CHART, "-n", NAMESPACE, values=values)
    told = plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", input=manifest)
    assert told.count("(server dry run)") == sum(item is not None for item in yaml.safe_load_all(manifest))


def test_the_operator_cannot_be_drained_away(installed: ControlPlane) -> None:
    budget = installed.request("GET", f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/{NAME}")
    assert (budget["status"]["expectedPods"], budget["status"]["disruptionsAllowed"]) == (2, 1)


# --- the definition


def test_the_definition_is_served_as_it_is_made(installed: ControlPlane) -> None:
    found = installed.request("GET", DEFINITION)
    conditions = {each["type"]: each["status"] for each in found["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in conditions
    expected = crd()["spec"]["versions"][0]
    (version,) = found["spec"]["versions"]
    assert version["schema"] == expected["schema"]
    assert version["subresources"] == expected["subresources"]


def test_explain_tells_every_field(installed: ControlPlane, tmp_path: Path) -> None:
    def published() -> bool:  # the API server publishes a definition's schema some time after it serves its resources
        return "apis/rlscaler.io/v1alpha1" in installed.kubectl("get", "--raw", "/openapi/v3")

    def explain(path: str) -> str:
        return installed.kubectl("explain", f"rls.{path}", "--cache-dir", str(tmp_path))  # of before the installation

    wait_until(published, "the schema of rlscalers in the API server's OpenAPI")
    told = explain("spec.onMetricLoss")
    assert "enum: Hold, Replicas, ReplicasIfHigher, ReplicasIfLower" in told
    assert "is held until\n    then. A duration: 500ms, 15s, 1m30s or 2h. Default: 3m." in told
    for path in ("spec", "spec.metrics.load", "spec.behavior.scaleDown.policies", "status", "status.decision"):
        assert "<no description>" not in explain(path)


@pytest.fixture
def web(installed: ControlPlane) -> Iterator[str]:
    """Return the path of the web example's resource, applied and with a status."""
    installed.kubectl("apply", "-f", str(EXAMPLES / "workloads" / "web.yaml"), "-f", str(EXAMPLES / "web.yaml"))
    path = "/apis/rlscaler.io/v1alpha1/namespaces/shop/rlscalers/web"
    condition = {"status": "True", "reason": "Fine", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {
        "mode": "Paused",
        "reason": "Paused",
        "currentReplicas": 3,
        "desiredReplicas": 4,
        "selector": "app=web",
        "lastScaleTime": "2026-01-01T00:00:00Z",
        "policy": {"name": "default"},
        "conditions": [condition | {"type": name} for name in ("Ready", "ScalingActive")],
    }
    installed.request("PATCH", f"{path}/status", {"status": status})
    yield path
    installed.request("DELETE", path)


def test_the_columns_tell_the_state(installed: ControlPlane, web: str) -> None:
    header, row = installed.kubectl("get", "rls", "-n", "shop").splitlines()
    assert " ".join(header.split()) == "NAME TARGET MODE MIN MAX CURRENT DESIRED READY ACTIVE REASON AGE"
    assert " ".join(row.split()[:-1]) == "web web Paused 2 100 3 4 True True Paused"
    header, row = installed.kubectl("get", "rls", "-n", "shop", "-o", "wide").splitlines()
    assert " ".join(header.split()).endswith("AGE KIND POLICY LEADER LAST SCALE")
    assert row.split()[-3:-1] == ["Deployment", "default"]
    assert "rlscaler.rlscaler.io/web" in installed.kubectl("get", "all", "-n", "shop")


def test_its_scale_is_its_floor(installed: ControlPlane, web: str) -> None:
    scale = installed.request("GET", f"{web}/scale")
    assert (scale["spec"], scale["status"]) == ({"replicas": 2}, {"replicas": 3, "selector": "app=web"})
    installed.kubectl("scale", "rls/web", "-n", "shop", "--replicas=20")
    assert installed.request("GET", web)["spec"]["minReplicas"] == 20
    with pytest.raises(KubectlError, match="minReplicas must be at most maxReplicas"):
        installed.kubectl("scale", "rls/web", "-n", "shop", "--replicas=101")


@pytest.mark.parametrize("name", ["web", "worker", "beside-hpa", "custom-target"])
def test_the_examples_are_taken_strictly(installed: ControlPlane, name: str) -> None:
    workload = "encoders" if name == "custom-target" else name
    files = [EXAMPLES / "workloads" / f"{workload}.yaml", EXAMPLES / f"{name}.yaml"]
    arguments = [part for file in files for part in ("-f", str(file))]
    installed.kubectl("apply", "--dry-run=server", "--validate=strict", *arguments)
    target = yaml.safe_load(files[1].read_text())
    described = [item for item in yaml.safe_load_all(files[0].read_text()) if item["kind"] != "Namespace"]
    ref = target["spec"]["scaleTargetRef"]
    assert (ref["apiVersion"], ref["kind"], ref["name"], target["metadata"]["namespace"]) in {
        (item["apiVersion"], item["kind"], item["metadata"]["name"], item["metadata"]["namespace"])
        for item in described
    }


# --- rights


def rights(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Return group/resource, verb and name of each right."""
    return {
        (f"{group}/{resource}", verb, name)
        for rule in rules
        for group in rule.get("apiGroups", ())
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames") or [""]
    }


def held(plane: ControlPlane, account: str, namespace: str) -> set[tuple[str, str, str]]:
    """Return what the API server says that an account may do in a namespace, but for what everyone may."""

    def asked(name: str) -> set[tuple[str, str, str]]:
        body = {"kind": "SelfSubjectRulesReview", "apiVersion": "authorization.k8s.io/v1", "spec": {}}
        body["spec"] = {"namespace": namespace}
        with plane.client_for(plane.token_for(NAMESPACE, name)) as client:
            answer = client.call_api(
                *client.param_serialize(
                    "POST",
                    "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
                    header_params={"Content-Type": "application/json", "Accept": "application/json"},
                    body=body,
                    auth_settings=["BearerToken"],
                )
            )
            answer.read()
            status: dict[str, Any] = yaml.safe_load(answer.data or b"")["status"]
        assert not status["incomplete"]
        return rights(status["resourceRules"])

    return asked(account) - asked("default")


WATCHED = ("apps/deployments", "apps/statefulsets", "apps/replicasets", "media.example.com/encoderpools",
           "autoscaling/horizontalpodautoscalers", "keda.sh/scaledobjects", "rlscaler.io/rlscalers")  # fmt: skip
ANYWHERE = {
    *((kind, verb, "") for kind in WATCHED for verb in ("list", "watch")),
    *((f"{kind}/scale", "patch", "") for kind in WATCHED[:4]),
    ("media.example.com/encoderpools/scale", "get", ""),
    ("rlscaler.io/rlscalers", "get", ""),
    ("rlscaler.io/rlscalers/status", "patch", ""),
    ("/events", "create", ""),
}
AT_HOME = {
    ("coordination.k8s.io/leases", "create", ""),
    ("coordination.k8s.io/leases", "get", "rlscaler"),
    ("coordination.k8s.io/leases", "update", "rlscaler"),
    *(("/configmaps", verb, "") for verb in ("list", "create", "update", "delete")),
}


def test_the_operator_may_do_what_it_needs_and_nothing_else(installed: ControlPlane) -> None:
    assert held(installed, NAME, "shop") == ANYWHERE
    assert held(installed, NAME, NAMESPACE) == ANYWHERE | AT_HOME


def test_what_the_operator_does_with_them_is_allowed(installed: ControlPlane, web: str, tmp_path: Path) -> None:
    """Every request that the operator's own wrapper of the API can make, as the chart's ServiceAccount."""
    installed.kubectl("apply", "-f", str(EXAMPLES / "workloads" / "encoders.yaml"))
    token = installed.token_for(NAMESPACE, NAME)
    cluster = Cluster.connect(str(installed.kubeconfig_for(token, tmp_path / "operator.kubeconfig")))
    deployment = TargetRef(api_version="apps/v1", kind="Deployment", name="web")
    pool = TargetRef(api_version="media.example.com/v1", kind="EncoderPool", name="encoders")
    key = Key("shop", "web")
    (resource,) = cluster.list_rlscalers()
    workload = Workload(key, resource["metadata"]["uid"], 1, 0.0, None)
    try:
        cluster.resize("shop", deployment, 2, 5)
        cluster.resize("media", pool, cluster.scale("media", pool).desired, 4)
        assert cluster.get_rlscaler(key)["metadata"]["name"] == "web"
        cluster.patch_status(key, {"reason": "Written"})
        cluster.create_event(workload, "Normal", "Tried", "The rights suffice.", 1.0e9)
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {}}
        made = cluster.create_lease(lease | {"metadata": {"namespace": NAMESPACE, "name": "rlscaler"}})
        assert cluster.lease(NAMESPACE, "rlscaler") == made
        cluster.replace_lease(made)
        for content in (b"one", b"two"):
            cluster.put_config_map(NAMESPACE, "kept", {"kept": "true"}, {"data": content})
        (kept,) = cluster.list_config_maps(NAMESPACE, "kept=true")
        assert kept.binary_data == {"data": b"two"}
        cluster.delete_config_map(NAMESPACE, "kept")
    finally:
        cluster.close()
    assert installed.request("GET", "/apis/apps/v1/namespaces/shop/deployments/web/scale")["spec"] == {"replicas": 5}
    installed.kubectl("scale", "deployment/web", "-n", "shop", "--replicas=2")


REFUSED = [
    ("GET", "/api/v1/namespaces/shop/secrets"),
    ("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets"),
    ("GET", "/api/v1/namespaces/shop/configmaps"),
    ("GET", "/api/v1/namespaces"),
    ("GET", "/api/v1/nodes"),
    ("GET", "/apis/apps/v1/namespaces/shop/deployments/web"),
    ("PATCH", "/apis/apps/v1/namespaces/shop/deployments/web"),
    ("GET", "/apis/apps/v1/namespaces/shop/deployments/web/scale"),
    ("PUT", "/apis/apps/v1/namespaces/shop/deployments/web/scale"),
    ("DELETE", "/apis/apps/v1/namespaces/shop/deployments/web"),
    ("PATCH", "/apis/rlscaler.io/v1alpha1/namespaces/shop/rlscalers/web"),
    ("DELETE", "/apis/rlscaler.io/v1alpha1/namespaces/shop/rlscalers/web"),
    ("PATCH", "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/web"),
    ("POST", "/apis/coordination.k8s.io/v1/namespaces/shop/leases"),
    ("GET", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/other"),
    ("GET", DEFINITION),
    ("POST", "/api/v1/namespaces/shop/pods"),
    ("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/shop/rolebindings"),
]


@pytest.mark.parametrize(("method", "path"), REFUSED, ids=[" ".join(each) for each in REFUSED])
def test_what_it_does_not_need_is_refused(installed: ControlPlane, method: str, path: str) -> None:
    client = installed.client_for(installed.token_for(NAMESPACE, NAME))
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    with client:
        headers = {"Authorization": client.configuration.api_key["BearerToken"], "Content-Type": kind}
        answer = client.rest_client.pool_manager.request(
            method, installed.server + path, headers=headers, body=None if method in ("GET", "DELETE") else "{}"
        )
    assert answer.status == 403, answer.data


def may(plane: ControlPlane, role: str, verb: str, resource: str) -> bool:
    """Tell whether someone who has a role of the cluster in `shop` may do something there."""
    user = f"{role}-of-shop"
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": user, "namespace": "shop"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    plane.apply(binding)
    name, _, sub = resource.partition("/")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user,
            "resourceAttributes": {"namespace": "shop", "verb": verb, "group": "rlscaler.io", "resource": name}
            | ({"subresource": sub} if sub else {}),
        },
    }
    return bool(
        plane.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"]
    )


def test_who_may_view_or_edit_a_namespace_may_do_so_with_its_rlscalers(installed: ControlPlane) -> None:
    wait_until(lambda: may(installed, "admin", "delete", "rlscalers"), "the roles are not aggregated", 30.0)
    for role in ("view", "edit", "admin"):
        assert may(installed, role, "list", "rlscalers"), role
        assert may(installed, role, "get", "rlscalers/scale"), role
        assert not may(installed, role, "patch", "rlscalers/status"), "the status is the operator's"
    for verb, resource in (("create", "rlscalers"), ("delete", "rlscalers"), ("patch", "rlscalers/scale")):
        assert may(installed, "edit", verb, resource)
        assert may(installed, "admin", verb, resource)
        assert not may(installed, "view", verb, resource)


# --- what helm tells


def test_every_command_of_the_notes_works(installed: ControlPlane, notes: str, web: str, tmp_path: Path) -> None:
    """What people are told to type is typed here; helm's and the Deployment's own commands apart."""
    example = yaml.safe_load(notes.partition("--- web.yaml\n")[2].partition("---\n")[0])
    file = tmp_path / "web.yaml"
    file.write_text(yaml.safe_dump(example))
    commands = [line.partition("#")[0].strip() for line in notes.splitlines() if line.strip().startswith("kubectl ")]
    typed = [line for line in commands if " exec " not in line]
    assert len(typed) >= 8
    for line in typed:
        arguments = line.replace("web.yaml", str(file)).split()[1:]
        installed.kubectl(*[part.strip("'") for part in arguments])
    freed = installed.request("GET", "/apis/rlscaler.io/v1alpha1/namespaces/default/rlscalers/web")
    assert freed["spec"]["mode"] == "Active"
    assert not any(name.startswith("rlscaler.io/") for name in freed["metadata"]["annotations"])
    assert installed.request("GET", web)["metadata"]["annotations"]["rlscaler.io/paused"] == "true"
    assert installed.request("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}")["spec"]["replicas"] == 0


# --- upgraded and uninstalled


def older(tmp_path: Path) -> Path:
    """Return a copy of the chart as an older version would have been: a definition without some of the fields."""
    chart = tmp_path / "rlscaler"
    shutil.copytree(CHART, chart)
    definition = crd()
    version = definition["spec"]["versions"][0]
    version["additionalPrinterColumns"] = columns()[:3]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["onMetricLoss"]
    (chart / "files" / "crd.yaml").write_text(yaml.safe_dump(definition))
    return chart


def test_an_upgrade_brings_the_new_definition_and_leaves_the_resources(
    plane: ControlPlane, helm: Helm, notes: str, tmp_path: Path
) -> None:
    arguments = ("-n", NAMESPACE, "--wait", "--timeout", "120s")
    helm("upgrade", RELEASE, older(tmp_path), *arguments, values=VALUES)
    assert len(plane.request("GET", DEFINITION)["spec"]["versions"][0]["additionalPrinterColumns"]) == 3
    resource = yaml.safe_load((EXAMPLES / "web.yaml").read_text())
    plain = copy.deepcopy(resource)
    del plain["spec"]["onMetricLoss"]
    plane.apply(plain)
    helm("upgrade", RELEASE, CHART, *arguments, values=VALUES | {"replicas": 1})
    version = plane.request("GET", DEFINITION)["spec"]["versions"][0]
    assert version["schema"] == crd()["spec"]["versions"][0]["schema"]
    plane.apply(resource)
    kept = plane.request("GET", "/apis/rlscaler.io/v1alpha1/namespaces/shop/rlscalers/web")
    assert kept["spec"]["onMetricLoss"] == {"after": "3m", "action": "Hold"}


def test_uninstalling_keeps_definition_resources_and_workloads(plane: ControlPlane, helm: Helm, notes: str) -> None:
    plane.kubectl("apply", "-f", str(EXAMPLES / "workloads" / "web.yaml"), "-f", str(EXAMPLES / "web.yaml"))
    uid = plane.request("GET", DEFINITION)["metadata"]["uid"]
    workload = "/apis/apps/v1/namespaces/shop/deployments/web"
    before = plane.request("GET", workload)["metadata"]["resourceVersion"]
    helm("uninstall", RELEASE, "-n", NAMESPACE, "--wait")
    with pytest.raises(KubectlError, match="NotFound"):
        plane.kubectl("get", "deployment", NAME, "-n", NAMESPACE)
    left = plane.kubectl(
        "get", "clusterroles,clusterrolebindings", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name"
    )
    assert left == ""
    assert plane.request("GET", DEFINITION)["metadata"]["uid"] == uid
    assert plane.request("GET", "/apis/rlscaler.io/v1alpha1/namespaces/shop/rlscalers/web")
    assert plane.request("GET", workload)["metadata"]["resourceVersion"] == before
    helm("install", RELEASE, CHART, "-n", NAMESPACE)
    assert plane.request("GET", DEFINITION)["metadata"]["uid"] == uid, "the same definition, taken over again"
    helm("uninstall", RELEASE, "-n", NAMESPACE, "--wait")


def test_a_release_of_some_namespaces_has_no_rights_elsewhere(plane: ControlPlane, helm: Helm) -> None:
    values = {"watchNamespaces": ["shop"], "targets": [POOL], "crds": {"install": False}, "rbac": {"aggregate": False}}
    helm("install", "narrow", CHART, "-n", NAMESPACE, values=values)
    try:
        assert held(plane, "narrow-rlscaler", "shop") == ANYWHERE
        assert held(plane, "narrow-rlscaler", "media") == set()
        assert held(plane, "narrow-rlscaler", NAMESPACE) == AT_HOME
    finally:
        helm("uninstall", "narrow", "-n", NAMESPACE, "--wait")
