"""Objects that are broken, vanish or come anew, before an operator that runs: it is told, and holds up nobody else."""

from collections.abc import Iterator
from typing import Any

import pytest

from cluster_access import ApiError
from fault_scene import SHOP, Scene
from processes import wait_until
from rlscaler.crd import crd
from rlscaler_operator.cluster import Cluster, ClusterError
from rlscaler_operator.model import Key
from scene_shop import PATIENCE, SCALERS, clear, follows, make, podless, says, unharmed
from shop import condition, events, rlscaler, status

pytestmark = pytest.mark.components("kubernetes", "prometheus")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("object-faults")) as scene:
        yield scene


@pytest.fixture(autouse=True)
def cleared(scene: Scene) -> Iterator[None]:
    """Take away what a test made."""
    yield
    clear(scene)


REF = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
USABLE = {"scaleTargetRef": REF, "maxReplicas": 9, "metrics": {"load": {"query": "up"}}}
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "spec"),
    "number": ({"spec": USABLE | {"scaleTargetRef": 7}}, "spec.scaleTargetRef"),
    "list": ({"spec": USABLE | {"metrics": ["up"]}}, "spec.metrics"),
    "bounds": ({"spec": USABLE | {"minReplicas": 12}}, "minReplicas"),
    "mode": ({"spec": USABLE | {"mode": "Turbo"}}, "spec.mode"),
    "lacking": ({"spec": {"scaleTargetRef": REF}}, "spec.maxReplicas"),
    "unit": ({"spec": USABLE | {"interval": 15}}, "spec.interval"),
    "duration": ({"spec": USABLE | {"interval": "soon"}}, "spec.interval"),
    "quantity": ({"spec": USABLE | {"capacity": {"perReplica": "ten"}}}, "spec.capacity.perReplica"),
}
"""Objects that the schema would not take, from before it was in force; and what their condition names."""
WORSE: dict[str, dict[str, Any]] = {"text": {"spec": "scale it"}, "types": {"spec": USABLE | {"maxReplicas": "ten"}}}
"""Objects on which the API server cannot even evaluate the schema's rules, so that it takes no status of them."""
ODD_STATUS = {"conditions": "none", "decision": [1], "policy": 3, "desiredReplicas": "many"}


def loose() -> dict[str, Any]:
    """Return the CRD with a schema that takes anything, and without the subresources, which would look at it too."""
    definition = crd()
    (version,) = definition["spec"]["versions"]
    version["schema"]["openAPIV3Schema"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    del version["subresources"]
    return definition


def test_broken_objects_among_200_are_told_and_hold_up_nobody(scene: Scene) -> None:
    old = {name: body for name, (body, _) in BROKEN.items()} | WORSE
    old["odd-status"] = {"spec": rlscaler(SHOP, "odd-status")["spec"], "status": ODD_STATUS}
    usual = [f"usual-{number:03d}" for number in range(200 - len(old))]
    kind = {"apiVersion": "rlscaler.io/v1alpha1", "kind": "RLScaler"}
    scene.load("odd-status", 50.0)
    scene.cluster.apply(loose(), podless("odd-status"))
    for name, body in old.items():
        made = kind | {"metadata": {"name": name, "namespace": SHOP}} | body

        def taken(made: dict[str, Any] = made) -> bool:
            try:
                scene.cluster.request("POST", SCALERS, made)
            except ApiError as error:  # the loose schema is not in force yet
                return error.status == 409
            return True

        wait_until(taken, f"{name} is not taken", PATIENCE)
    scene.cluster.apply(crd())
    make(scene, *usual, mode="Shadow", interval="5s")
    make(scene, "active")

    def undecided() -> list[str]:
        found = scene.cluster.quiet().request("GET", SCALERS)["items"]
        told = {item["metadata"]["name"]: item.get("status", {}) for item in found}
        return [name for name in usual if "decision" not in told[name]]

    with scene.operator("broken") as operator:
        for name in ("active", "odd-status"):
            follows(scene, name, 50.0, "beside broken ones", operator)
        wait_until(lambda: not undecided(), "not all are decided", PATIENCE, operator.process)
        for name, (_, field) in BROKEN.items():
            ready = says(scene, name, "Ready", "InvalidSpec")
            assert ready["status"] == "False"
            assert field in ready["message"], (name, ready["message"])
        said = [line.get("message", "") for line in operator.log()]
        assert any(f"{SHOP}/{name}: " in text and "is invalid" in text for name in WORSE for text in said)
        scene.load("active", 200.0)
        follows(scene, "active", 200.0, "beside broken ones", operator)
        scene.cluster.kubectl("delete", "rlscaler/bounds", "-n", SHOP)
        make(scene, "bounds")
        follows(scene, "bounds", 50.0, "once it is mended", operator)
        unharmed(operator)


def test_a_target_that_is_deleted_and_made_anew(scene: Scene) -> None:
    """Told while it is gone; the new one is scaled from where it begins, and its count is nobody's rewriting."""
    with scene.operator("anew") as operator:
        make(scene, "web", "api", load=200.0)
        for name in ("web", "api"):
            follows(scene, name, 200.0, "at first", operator)
        scene.cluster.kubectl("delete", "deployment/web", "-n", SHOP)
        says(scene, "web", "Ready", "TargetNotFound")
        assert condition(scene.cluster, SHOP, "web", "AbleToScale")["reason"] == "FailedGetScale"
        scene.load("api", 300.0)
        follows(scene, "api", 300.0, "beside a lost target", operator)
        for count in (3, 1):  # at leisure, and in one breath
            scene.cluster.apply(podless("web", count))
            follows(scene, "web", 200.0, "on the new one", operator)
            says(scene, "web", "Ready", "Ready")
            assert condition(scene.cluster, SHOP, "web", "Conflict")["reason"] == "NoConflict"
            scene.cluster.kubectl("delete", "deployment/web", "-n", SHOP)
        scene.cluster.kubectl("delete", "rlscaler/web", "-n", SHOP)
        scene.cluster.apply(podless("web", 2), rlscaler(SHOP, "web", "Shadow"))
        wait_until(
            lambda: status(scene.cluster, SHOP, "web").get("mode") == "Shadow", "a new one is not told", PATIENCE
        )
        unharmed(operator)
    assert not [event for event in events(scene.cluster, SHOP, "web") if event["reason"] == "Conflict"]


def test_a_status_is_never_written_to_an_object_made_anew(scene: Scene) -> None:
    cluster = Cluster.connect(str(scene.cluster.kubeconfig))
    key, path = Key(SHOP, "web"), f"{SCALERS}/web"
    scene.cluster.apply(rlscaler(SHOP, "web"))
    uid = scene.cluster.request("GET", path)["metadata"]["uid"]
    cluster.patch_status(key, {"mode": "Active", "desiredReplicas": 3}, uid)
    cluster.patch_status(key, {"mode": None, "desiredReplicas": 4}, uid)
    assert status(scene.cluster, SHOP, "web") == {"desiredReplicas": 4}
    scene.cluster.kubectl("delete", "rlscaler/web", "-n", SHOP)
    for anew in (False, True):
        if anew:
            scene.cluster.apply(rlscaler(SHOP, "web"))
        with pytest.raises(ClusterError) as caught:
            cluster.patch_status(key, {"desiredReplicas": 5}, uid)
        assert caught.value.reason == "NotFound"
        assert ("made anew" in caught.value.message) == anew
    assert status(scene.cluster, SHOP, "web") == {}
    cluster.close()
