"""Who else scales a target: it is seen, said and not fought; by the rules of `rlscaler_operator.conflicts`.

The HPA is the real one with its real controller, kubectl is the real one; KEDA's is a ScaledObject without KEDA.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from fault_scene import SHOP, Scene
from operator_process import OperatorProcess
from processes import wait_until
from scene_shop import PATIENCE, SCALERS, chain, clear, count, follows, make, podless, says, served, steps, unharmed
from shop import condition, events, replicas, rlscaler

pytestmark = pytest.mark.components("kubernetes", "prometheus")


def scaled_objects() -> dict[str, Any]:
    """Return a CRD like KEDA's that takes anything."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "scaledobjects.keda.sh"},
        "spec": {"group": "keda.sh", "scope": "Namespaced", "versions": [version],
                 "names": {"kind": "ScaledObject", "plural": "scaledobjects"}},
    }  # fmt: skip


def scaled_object(name: str, spec: Any) -> dict[str, Any]:
    names = {"name": name, "namespace": SHOP}
    return {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": names, "spec": spec}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("owners")) as scene:
        scene.cluster.apply(scaled_objects())
        wait_until(lambda: served(scene, "scaledobjects.keda.sh"), "KEDA's kind is not served", PATIENCE)
        yield scene


@pytest.fixture(scope="module")
def operator(scene: Scene) -> Iterator[OperatorProcess]:
    with scene.operator("one", lease=30.0) as operator:
        yield operator


@pytest.fixture(autouse=True)
def cleared(scene: Scene) -> Iterator[None]:
    """Take away what a test made."""
    yield
    scene.cluster.kubectl("delete", "hpa,scaledobjects", "--all", "-n", SHOP)
    clear(scene)


def still(scene: Scene, operator: OperatorProcess, name: str, count: int) -> None:
    """Check that a target keeps its count, and no operator writes to it, while decisions go on."""
    wait_until(lambda: replicas(scene.cluster, SHOP, name) == count, f"{name} does not get to {count}", PATIENCE)
    workloads = len(scene.cluster.request("GET", SCALERS)["items"])
    before, made = steps(scene, name), operator.metric("rlscaler_decisions_total")
    wait_until(lambda: operator.metric("rlscaler_decisions_total") >= made + 4 * workloads, "no decisions", PATIENCE)
    assert steps(scene, name) == before
    assert replicas(scene.cluster, SHOP, name) == count


def free(scene: Scene, name: str) -> None:
    """Wait until nobody else is said to scale a target."""
    says(scene, name, "Conflict", "NoConflict")


# --- other autoscalers


def hpa(name: str, high: int, **metadata: Any) -> dict[str, Any]:
    """Return an HPA; that it has no metrics to read does not keep it from enforcing its bounds."""
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    spec = {"scaleTargetRef": ref, "minReplicas": 2, "maxReplicas": high, "metrics": [cpu]}
    names = {"name": f"{name}-hpa", "namespace": SHOP} | metadata
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": names, "spec": spec}


def test_a_real_hpa_goes_first_and_what_it_sets_stands(scene: Scene, operator: OperatorProcess) -> None:
    make(scene, "web", "api", load=200.0)
    follows(scene, "web", 200.0, "alone", operator)
    scene.cluster.apply(hpa("web", 8))
    owned = says(scene, "web", "Conflict", "OwnedByHPA")
    assert "HorizontalPodAutoscaler web-hpa" in owned["message"]
    assert "delete it, or set mode: Shadow" in owned["message"]
    assert says(scene, "web", "AbleToScale", "OwnedByHPA")["status"] == "False"
    still(scene, operator, "web", 8)
    scene.load("api", 300.0)
    follows(scene, "api", 300.0, "beside a conflict", operator)
    scene.cluster.kubectl("delete", "hpa/web-hpa", "-n", SHOP)
    follows(scene, "web", 200.0, "once the HPA is gone", operator)
    free(scene, "web")
    told = [
        event["message"].split(":")[0] for event in events(scene.cluster, SHOP, "web") if event["reason"] == "Conflict"
    ]
    assert told == ["OwnedByHPA"], "once, and its writes are not taken for somebody's rewriting"


def test_a_scaled_object_goes_first_and_its_hpa_is_told_as_it(scene: Scene, operator: OperatorProcess) -> None:
    make(scene, "queue", load=200.0)
    follows(scene, "queue", 200.0, "alone", operator)
    scene.cluster.apply(
        *(scaled_object(f"broken-{i}", spec) for i, spec in enumerate(["x", {}, {"scaleTargetRef": 3}]))
    )
    scene.cluster.apply(scaled_object("keda", {"scaleTargetRef": {"name": "queue"}}))
    assert "ScaledObject keda" in says(scene, "queue", "Conflict", "OwnedByScaledObject")["message"]
    path = f"/apis/keda.sh/v1alpha1/namespaces/{SHOP}/scaledobjects/keda"
    reference = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "name": "keda", "controller": True}
    uid = scene.cluster.request("GET", path)["metadata"]["uid"]
    scene.cluster.apply(hpa("queue", 6, ownerReferences=[reference | {"uid": uid}]))
    still(scene, operator, "queue", 6)
    message = condition(scene.cluster, SHOP, "queue", "Conflict")["message"]
    assert "ScaledObject keda" in message
    assert "HorizontalPodAutoscaler" not in message
    scene.cluster.kubectl("delete", "scaledobject/keda", "hpa/queue-hpa", "-n", SHOP)
    follows(scene, "queue", 200.0, "once KEDA is gone", operator)
    free(scene, "queue")
    unharmed(operator)


def test_of_two_rlscalers_the_older_goes_on_until_it_is_gone(scene: Scene, operator: OperatorProcess) -> None:
    make(scene, "elder", load=200.0)
    follows(scene, "elder", 200.0, "alone", operator)
    scene.load("younger", 490.0)
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "elder"}
    scene.cluster.apply(rlscaler(SHOP, "younger", scaleTargetRef=ref))
    assert "RLScaler elder" in says(scene, "younger", "Conflict", "OwnedByRLScaler")["message"]
    assert "RLScaler younger" in says(scene, "elder", "Conflict", "SharedTarget")["message"]
    assert says(scene, "elder", "AbleToScale", "ReadyForNewScale")["status"] == "True"
    still(scene, operator, "elder", count(scene, "elder"))
    scene.load("elder", 300.0)
    follows(scene, "elder", 300.0, "beside a younger one", operator)
    assert count(scene, "elder") < 49
    scene.cluster.kubectl("delete", "rlscaler/elder", "-n", SHOP)
    follows(scene, "elder", 490.0, "of the younger one", operator)
    free(scene, "younger")
    chain(scene, "elder")


# --- people and what deploys for them


def scaled(scene: Scene, name: str, to: int) -> None:
    """Scale by hand."""
    scene.cluster.kubectl("scale", f"deployment/{name}", f"--replicas={to}", "-n", SHOP)


def synced(scene: Scene, name: str, to: int | None, manager: str = "argocd-controller") -> None:
    """Apply a manifest as GitOps tools do: server-side, and over whoever owns a field. to: its replicas, None: none."""
    manifest = podless(name, to or 0)
    manifest["metadata"]["labels"] = {"revision": str(time.monotonic_ns())}
    if to is None:
        del manifest["spec"]["replicas"]
    arguments = ("--server-side", "--force-conflicts", f"--field-manager={manager}")
    scene.cluster.kubectl("apply", *arguments, "-f", "-", input=yaml.safe_dump(manifest))


def test_a_count_that_a_person_sets_is_respected_but_for_the_demand(scene: Scene, operator: OperatorProcess) -> None:
    make(scene, "raised", "cut", "paused", load=100.0)
    for name in ("raised", "cut", "paused"):
        follows(scene, name, 100.0, "alone", operator)
    scene.cluster.kubectl("annotate", "rlscaler/paused", "rlscaler.io/paused=true", "-n", SHOP)
    says(scene, "paused", "AbleToScale", "Paused")
    scaled(scene, "raised", 30)
    scaled(scene, "cut", 2)
    scaled(scene, "paused", 4)
    rewritten = says(scene, "raised", "Conflict", "ReplicasRewritten")
    assert "kubectl set Deployment shop/raised to 30 replicas" in rewritten["message"]
    follows(scene, "cut", 100.0, "in spite of too low a count", operator)
    says(scene, "cut", "Conflict", "ReplicasRewritten")
    still(scene, operator, "raised", 30)
    still(scene, operator, "paused", 4)
    free(scene, "paused")
    scene.load("raised", 400.0)
    follows(scene, "raised", 400.0, "above the count that is respected", operator)
    scaled(scene, "raised", 5)
    yields = says(scene, "raised", "Conflict", "Yielding")
    assert "nothing is written until" in yields["message"]
    still(scene, operator, "raised", 5)
    scene.load("paused", 200.0)
    scene.cluster.kubectl("annotate", "rlscaler/paused", "rlscaler.io/paused-", "-n", SHOP)
    follows(scene, "paused", 200.0, "after the pause", operator)
    free(scene, "paused")
    unharmed(operator)


def test_gitops_that_rewrites_replicas_is_given_way_and_without_them_is_no_conflict(
    scene: Scene, operator: OperatorProcess
) -> None:
    make(scene, "synced", "silent", "applied", load=100.0)
    for name in ("synced", "silent", "applied"):
        follows(scene, name, 100.0, "alone", operator)
    manifest = podless("applied", 25)
    scene.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(manifest))
    for _ in range(3):
        synced(scene, "silent", None)
    synced(scene, "synced", 4)
    follows(scene, "synced", 100.0, "after a deploy that resets it", operator)
    assert "argocd-controller set" in says(scene, "synced", "Conflict", "ReplicasRewritten")["message"]
    synced(scene, "synced", 4)
    assert "argocd-controller changes" in says(scene, "synced", "Conflict", "Yielding")["message"]
    still(scene, operator, "synced", 4)
    assert "kubectl-client-side-apply set" in says(scene, "applied", "Conflict", "ReplicasRewritten")["message"]
    still(scene, operator, "applied", 25)
    free(scene, "silent")
    scene.load("silent", 200.0)
    follows(scene, "silent", 200.0, "beside a manifest without replicas", operator)
    chain(scene, "silent")
    assert not [event for event in events(scene.cluster, SHOP, "silent") if event["reason"] == "Conflict"]
