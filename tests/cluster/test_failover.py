"""Leaders that die, end and are robbed: another one goes on as if nothing had happened."""

import random
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fault_scene import HOME, LEASE, SHOP, Scene, began, ended, who
from operator_process import OperatorProcess
from processes import wait_until
from shop import condition, replicas, status

pytestmark = pytest.mark.components("kubernetes", "kwok", "prometheus")

KILLS = 20
WINDOW = 45.0
"""Seconds of the scale-down window that is in progress while leaders are killed."""
PERIOD = 5.0
"""Seconds of the scale-up policy that leaders are killed under."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("failover")) as scene:
        yield scene


def counts(scene: Scene, name: str) -> list[tuple[float, int, int]]:
    """Return the changes of a Deployment's replicas by operators: when, from what, to what."""
    found = []
    for event in scene.resizes(name):
        test, change = event["requestObject"]
        assert (test["op"], test["path"]) == ("test", "/spec/replicas"), "a write without its precondition"
        found.append((began(event), test["value"], change["value"]))
    return found


def leases(scene: Scene) -> list[tuple[float, str]]:
    """Return who held the Lease from when on."""
    found: list[tuple[float, str]] = []
    for event in scene.cluster.audit(resource="leases", namespace=HOME):
        if event["verb"] in ("create", "update", "patch") and event["responseStatus"]["code"] < 300:
            holder = event["responseObject"]["spec"].get("holderIdentity") or ""
            found.append((ended(event), holder.rpartition("-")[0]))
    return found


def only_the_holder_wrote(scene: Scene) -> None:
    """Check that whatever an operator wrote, but for the Lease itself, it wrote while it held the Lease."""
    held = leases(scene)
    for event in scene.cluster.audit():
        if who(event) and event["verb"] not in ("get", "list", "watch") and event["objectRef"]["resource"] != "leases":
            at = began(event)
            holders = [name for since, name in held if since <= at][-1:]
            holders += [name for since, name in held if at < since <= ended(event)]
            assert holders and set(holders) == {who(event)}, f"{holders} held the Lease: {event}"


def test_twenty_leaders_are_killed_in_a_scale_up(scene: Scene) -> None:
    """A load that rises at each kill, a scale-up at a limited pace, and a scale-down window: none of them notices."""
    rng = random.Random(20)
    started = iter(range(100))
    alive: dict[str, OperatorProcess] = {}

    def start() -> None:
        name = f"k{next(started)}"
        alive[name] = scene.operator(name).start(ready=False)

    load = 50.0
    scene.workload("rising", load, maxReplicas=100)
    pace = {"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": int(PERIOD)}]}}
    scene.workload("paced", 300.0, maxReplicas=40, behavior=pace)
    window = {"scaleDown": {"stabilizationWindowSeconds": int(WINDOW)}}
    scene.workload("window", 200.0, replicas=24, behavior=window)
    start()
    start()
    for name in ("rising", "paced", "window"):
        wait_until(lambda name=name: "decision" in status(scene.cluster, SHOP, name), f"{name} is not decided", 60.0)
    wait_until(lambda: scene.cluster.audit(resource="configmaps", namespace=HOME) != [], "nothing is kept", 60.0)
    high = replicas(scene.cluster, SHOP, "window")
    scene.load("window", 50.0)
    fell = time.time()
    killed: list[str] = []
    for _ in range(KILLS):
        wait_until(lambda: scene.holder() in alive, "nobody takes over", 30.0, *(p.process for p in alive.values()))
        time.sleep(rng.uniform(0.0, 1.5))  # some die before they have decided, some in the middle of a write
        name = scene.holder()
        alive.pop(name).stop(9)
        killed.append(name)
        load += 25.0
        scene.load("rising", load)
        start()
    assert len(set(killed)) == KILLS

    wanted = load / 10.0
    wait_until(lambda: replicas(scene.cluster, SHOP, "rising") >= wanted, "the rising load is not followed", 30.0)
    wait_until(lambda: replicas(scene.cluster, SHOP, "paced") >= 30, "the paced scale-up does not end", 60.0)
    wait_until(lambda: replicas(scene.cluster, SHOP, "window") < high, "the window never ends", WINDOW + 30.0)

    for name in ("rising", "paced", "window"):
        changes = counts(scene, name)
        for (_, _, before), (_, after, _) in pairwise(changes):
            assert after == before, f"{name}: a count that nobody wrote, or a write that is lost: {changes}"
        assert replicas(scene.cluster, SHOP, name) == changes[-1][2]
    only_the_holder_wrote(scene)
    assert all(after > before for _, before, after in counts(scene, "rising")), counts(scene, "rising")
    paced = counts(scene, "paced")
    for at, _, after in paced:
        earlier = [before for when, before, _ in paced if at - (PERIOD - 1.0) <= when <= at]
        assert after - earlier[0] <= 2, f"more than the policy allows: {paced}"
    first = next(at for at, before, after in counts(scene, "window") if after < before)
    assert WINDOW - 2.0 <= first - fell <= WINDOW + 12.0, f"the window took {first - fell:.1f} s"
