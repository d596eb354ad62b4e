"""What an audit log tells of leaders: who held the Lease when, and which replicas each of them wrote."""

import time
from itertools import pairwise
from typing import Any

from fault_scene import HOME, SHOP, Scene, began, ended, who
from processes import wait_until
from shop import replicas, status

READS = ("get", "list", "watch")
LATE = 20.0
"""Seconds that a machine with two busy cores may need for what takes one."""


def counts(scene: Scene, name: str) -> list[tuple[float, int, int]]:
    """Return the changes of a Deployment's replicas by operators: when, from what, to what."""
    found = []
    for event in scene.resizes(name):
        test, change = event["requestObject"]
        assert (test["op"], test["path"]) == ("test", "/spec/replicas"), "a write without its precondition"
        found.append((began(event), test["value"], change["value"]))
    return found


def nothing_is_lost(scene: Scene, name: str) -> list[tuple[float, int, int]]:
    """Return the changes of a Deployment; check that they follow from one another up to what stands now."""
    changes = counts(scene, name)
    for (_, _, before), (_, after, _) in pairwise(changes):
        assert after == before, f"{name}: a count that nobody wrote, or a write that is lost: {changes}"
    if changes:
        assert replicas(scene.cluster, SHOP, name) == changes[-1][2]
    return changes


def leases(scene: Scene) -> list[tuple[float, str]]:
    """Return who held the Lease from when on: the name that the test gave, "" for nobody."""
    found: list[tuple[float, str]] = []
    for event in scene.cluster.audit(resource="leases", namespace=HOME):
        if event["verb"] in ("create", "update", "patch") and event["responseStatus"]["code"] < 300:
            holder = event["responseObject"]["spec"].get("holderIdentity") or ""
            found.append((ended(event), holder.rpartition("-")[0]))
    return found


def only_the_holder_wrote(scene: Scene, since: float) -> None:
    """Check that whatever an operator wrote, but for the Lease itself, it wrote while it held the Lease.

    since: epoch seconds.
    """
    held = leases(scene)
    for event in scene.cluster.audit():
        at = began(event)
        if not who(event) or event["verb"] in READS or event["objectRef"]["resource"] == "leases" or at < since:
            continue
        holders = [name for from_, name in held if from_ <= at][-1:]
        holders += [name for from_, name in held if at < from_ <= ended(event)]
        assert set(holders) == {who(event)}, f"{holders} held the Lease: {event}"


def window(seconds: float) -> dict[str, Any]:
    """Return a behaviour with this scale-down window."""
    return {"scaleDown": {"stabilizationWindowSeconds": round(seconds)}}


def settled(scene: Scene, name: str, demand: float) -> int:
    """Return the replicas of a Deployment once they are what was decided for this demand."""

    def done() -> bool:
        found, count = status(scene.cluster, SHOP, name), replicas(scene.cluster, SHOP, name)
        return found.get("desiredReplicas") == count >= demand and found["decision"].get("demand") == demand

    wait_until(done, f"{name} is not decided", 60.0 + LATE)
    return replicas(scene.cluster, SHOP, name)


def kept_for(scene: Scene, name: str, high: int, since: float, expected: float) -> float:
    """Return the seconds that a Deployment was kept at `high` after `since`, once it is lowered."""
    wait_until(
        lambda: replicas(scene.cluster, SHOP, name) < high,
        f"{name} is never lowered",
        max(0.0, since + expected - time.time()) + 3.0 * LATE,
    )
    return next(at for at, before, after in counts(scene, name) if after < before and at > since) - since
