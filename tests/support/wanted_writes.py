"""Accounts of workloads whose targets are to be written, as the loop hands them to the actuator."""

from dataclasses import replace
from typing import Any

from rlscaler.custom_resource import Resource, resource_from_object
from rlscaler.resource_objects import TargetRef
from rlscaler_operator.model import Account, Key, Target, TargetKey, Workload

DEPLOYMENT = TargetRef(api_version="apps/v1", kind="Deployment", name="web")


def account(
    seen: int,
    wanted: int | None,
    *,
    namespace: str = "shop",
    ref: TargetRef = DEPLOYMENT,
    mode: str = "Active",
    interval: str = "15s",
    **of_workload: Any,
) -> Account:
    """Return what is known of a workload: its target asks for `seen` replicas, and `wanted` are wanted.

    of_workload: other fields of the Workload, such as paused and force.
    """
    key = Key(namespace, ref.name)
    workload = Workload(key, "uid", 1, 0.0, resource(ref, namespace, mode, interval))
    group = ref.api_version.rpartition("/")[0]
    target = Target(TargetKey(namespace, group, ref.kind, ref.name), "uid", seen, seen, seen)
    return Account(time=0.0, workload=replace(workload, **of_workload), target=target, wanted=wanted)


def resource(ref: TargetRef, namespace: str, mode: str, interval: str) -> Resource:
    """Return the RLScaler of a target."""
    target = {"apiVersion": ref.api_version, "kind": ref.kind, "name": ref.name}
    spec = {
        "scaleTargetRef": target,
        "mode": mode,
        "interval": interval,
        "maxReplicas": 100,
        "metrics": {"load": {"query": "up"}},
    }
    metadata = {"namespace": namespace, "name": ref.name}
    whole = {"apiVersion": "rlscaler.io/v1alpha1", "kind": "RLScaler", "metadata": metadata, "spec": spec}
    return resource_from_object(whole)
