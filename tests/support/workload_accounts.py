"""Workloads and accounts to report on: a web shop at noon, changed by what a test is about."""

from dataclasses import replace
from typing import Any

import yaml

from minimal_resource import MINIMAL
from rlscaler.custom_resource import Resource, resource_from_object
from rlscaler_operator.model import Account, Decision, Key, PolicyInUse, Readings, Target, TargetKey, Workload

NOON = 1_750_000_000.0
"""Decision time of the accounts."""
NOTHING = float("nan")


def resource(name: str = "web", namespace: str = "shop", **spec: Any) -> Resource:
    """Return a resource: the shortest one, Active, 2 to 10 replicas, 50 requests/s a replica, changed by `spec`."""
    value = yaml.safe_load(MINIMAL)
    value["metadata"] = {"name": name, "namespace": namespace}
    value["spec"] |= {"mode": "Active", "minReplicas": 2, "capacity": {"perReplica": "50", "startup": "60s"}} | spec
    return resource_from_object(value)


def workload(
    name: str = "web", namespace: str = "shop", *, spec: dict[str, Any] | None = None, **fields: Any
) -> Workload:
    """Return a workload whose resource has these fields of the spec."""
    made: dict[str, Any] = {"resource": resource(name, namespace, **(spec or {}))} | fields
    return Workload(key=Key(namespace, name), uid=made.pop("uid", f"uid-{name}"), generation=made.pop("generation", 1),
                    created=NOON - 86_400.0, **made)  # fmt: skip


def target(name: str = "web", namespace: str = "shop", **fields: Any) -> Target:
    """Return a Deployment with 4 replicas, all of them ready."""
    made: dict[str, Any] = {"desired": 4, "replicas": 4, "ready": 4, "selector": f"app={name}"} | fields
    return Target(TargetKey(namespace, "apps", "Deployment", name), uid=f"target-{name}", **made)


def decision(**fields: Any) -> Decision:
    """Return a decision for 4 replicas that nothing shaped."""
    made: dict[str, Any] = {
        "time": NOON, "replicas": 4, "proposal": 3.61, "recommendation": 3.2, "demand": 2.64, "bits": 0,
        "capacity": 50.0, "startup": 60.0, "coverage": 23_400.0,
    }  # fmt: skip
    return Decision(**(made | fields))


def account(*, time: float = NOON, **fields: Any) -> Account:
    """Return the account of a tick at which all was well: 132 requests/s, 4 replicas asked for and there."""
    made: dict[str, Any] = {
        "workload": workload(),
        "target": target(),
        "readings": Readings(time=time, load=132.0),
        "decision": decision(time=time),
        "policy": PolicyInUse("default"),
        "wanted": 4,
    }
    return Account(time=time, **(made | fields))


def later(before: Account, seconds: float, **fields: Any) -> Account:
    """Return an account of another tick, with other fields."""
    return replace(before, time=before.time + seconds, **fields)
