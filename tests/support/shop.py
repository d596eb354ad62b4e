"""Workloads that cluster tests scale, and what is read of them."""

from typing import Any

from cluster_access import ClusterAccess

QUERY = "sum by (deployment) (load_rps)"
"""PromQL of the load: one series for each Deployment, as `Exporter.set("load_rps", ..., deployment=...)` makes them."""


def deployment(namespace: str, name: str, replicas: int = 3) -> dict[str, Any]:
    """Return a Deployment whose pods do nothing."""
    container = {"name": "app", "image": "registry.invalid/app:1"}
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template},
    }


def rlscaler(namespace: str, name: str, mode: str = "Active", **spec: Any) -> dict[str, Any]:
    """Return an RLScaler of the Deployment of the same name: 10 requests/s a replica, decided every second."""
    usual = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "mode": mode,
        "minReplicas": 2,
        "maxReplicas": 50,
        "interval": "1s",
        "capacity": {"perReplica": "10", "startup": "2s"},
        "metrics": {"load": {"query": QUERY, "match": {"deployment": name}}},
    }
    return {
        "apiVersion": "rlscaler.io/v1alpha1",
        "kind": "RLScaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": usual | spec,
    }


def replicas(cluster: ClusterAccess, namespace: str, name: str) -> int:
    """Return the replicas that a Deployment asks for."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
    return int(cluster.request("GET", path)["spec"]["replicas"])


def status(cluster: ClusterAccess, namespace: str, name: str) -> dict[str, Any]:
    """Return the status of an RLScaler, {} where it has none."""
    path = f"/apis/rlscaler.io/v1alpha1/namespaces/{namespace}/rlscalers/{name}"
    found: dict[str, Any] = cluster.request("GET", path).get("status") or {}
    return found


def condition(cluster: ClusterAccess, namespace: str, name: str, kind: str) -> dict[str, Any]:
    """Return a condition of an RLScaler, {} where it has none of that type."""
    for each in status(cluster, namespace, name).get("conditions", ()):
        if each["type"] == kind:
            found: dict[str, Any] = each
            return found
    return {}


def events(cluster: ClusterAccess, namespace: str, name: str) -> list[dict[str, Any]]:
    """Return the events of an RLScaler."""
    query = {"fieldSelector": f"involvedObject.kind=RLScaler,involvedObject.name={name}"}
    found: list[dict[str, Any]] = cluster.request("GET", f"/api/v1/namespaces/{namespace}/events", query=query)["items"]
    return found
