"""Workloads of a scene: made, waited for and looked into.

Their Deployments are paused, so that no pods are made: a count that is asked for is all that matters there.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from fault_scene import SHOP, Scene
from operator_process import OperatorProcess
from processes import wait_until
from shop import condition, deployment, replicas, rlscaler, status

PATIENCE = 90.0
"""Seconds for what takes a few, on a busy machine."""
SCALERS = f"/apis/rlscaler.io/v1alpha1/namespaces/{SHOP}/rlscalers"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def podless(name: str, count: int = 3) -> dict[str, Any]:
    """Return a Deployment whose rollout is paused."""
    made = deployment(SHOP, name, count)
    made["spec"]["paused"] = True
    return made


def make(scene: Scene, *names: str, load: float = 50.0, mode: str = "Active", **spec: Any) -> None:
    """Make workloads, all at this load."""
    for name in names:
        scene.load(name, load)
    scene.cluster.apply(*(podless(name) for name in names), *(rlscaler(SHOP, name, mode, **spec) for name in names))


def clear(scene: Scene) -> None:
    """Take all workloads away."""
    scene.exporter.clear()
    for kind in ("rlscalers", "deployments"):
        scene.cluster.kubectl("delete", kind, "--all", "-n", SHOP, "--wait=false")
    wait_until(lambda: not scene.cluster.request("GET", SCALERS)["items"], "the workloads do not go", PATIENCE)


def follows(scene: Scene, name: str, load: float, what: str = "", *operators: OperatorProcess) -> None:
    """Return once a Deployment has what a load needs, at the capacity of `shop.rlscaler`."""
    processes = (operator.process for operator in operators)
    wait_until(
        lambda: count(scene, name) >= load / 10.0, f"{name} does not follow its load {what}", PATIENCE, *processes
    )


def says(scene: Scene, name: str, kind: str, reason: str) -> dict[str, Any]:
    """Return a condition of a workload once it has a reason."""
    found: dict[str, Any] = {}

    def told() -> bool:
        found.clear()
        found.update(condition(scene.cluster, SHOP, name, kind))
        return found.get("reason") == reason

    try:
        wait_until(told, f"{name} does not say {reason}", PATIENCE)
    except RuntimeError as error:
        raise RuntimeError(f"{error}; {kind} is {found}") from None
    return found


def reports(scene: Scene, name: str, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
    """Return the status of a workload once it is as wanted."""
    wait_until(lambda: wanted(status(scene.cluster, SHOP, name)), f"{name} does not report {what}", PATIENCE)
    return status(scene.cluster, SHOP, name)


def count(scene: Scene, name: str) -> int:
    """Return the replicas that a Deployment asks for."""
    return replicas(scene.cluster, SHOP, name)


def steps(scene: Scene, name: str) -> list[tuple[int, int]]:
    """Return what operators changed a Deployment's count from and to, by the API server's log."""
    changes = []
    for event in scene.resizes(name):
        test, change = event["requestObject"]
        assert (test["op"], test["path"]) == ("test", "/spec/replicas"), "a write without its precondition"
        changes.append((test["value"], change["value"]))
    return changes


def chain(scene: Scene, name: str) -> list[tuple[int, int]]:
    """Return the same where nobody but operators has changed the count since their first change."""
    changes = steps(scene, name)
    for (_, before), (after, _) in pairwise(changes):
        assert after == before, f"{name}: a count that nobody wrote, or a write that is lost: {changes}"
    assert changes[-1][1] == count(scene, name)
    return changes


def unharmed(operator: OperatorProcess) -> None:
    """Check that no part of an operator has failed, and that none of its libraries spoke for it."""
    odd = [line for line in operator.log() if "Traceback" in str(line) or line.get("logger", "").startswith("kopf")]
    assert not odd, odd[0]
    assert operator.process.running


def served(scene: Scene, name: str) -> bool:
    """Tell whether a CRD is served."""
    conditions = scene.cluster.request("GET", f"{CRD}/{name}").get("status", {}).get("conditions") or ()
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
