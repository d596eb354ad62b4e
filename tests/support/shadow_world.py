"""Random workloads in mode Shadow with random metrics, owners and annotations, and what happens to them, from a seed.

Everything that could make an operator write to a target is here: loads far above and below what the replicas serve,
losses of metrics with every fallback, forced counts, pauses, people and other autoscalers that change the same target.
"""

import math
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from cluster_access import ApiError, ClusterAccess
from fuzzed_resources import fuzzed_resources
from load_exporter import Exporter
from shop import deployment

POOL = {"group": "media.example.com", "version": "v1", "kind": "EncoderPool", "plural": "encoderpools"}
"""The custom target of examples/workloads/encoderpools.yaml, as the operator's configuration names it."""
TARGETS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "ReplicaSet": "replicasets"}
METRICS = ("load", "backlog", "latency", "errors", "utilization")
_PLAIN = {"load": 60.0, "backlog": 5.0, "latency": 0.2, "errors": 0.01, "utilization": 0.5}
_ODD = (0.0, math.nan, math.inf, -3.0, 1e-9, 1e12)
_BAD_QUERIES = ("sum(", "nothing_of_this_name", "load", "vector(NaN)", "1/0", "load[5m]")


class Shadowed(NamedTuple):
    """A workload in mode Shadow; path: of its target in the API."""

    name: str
    path: str


def target(namespace: str, name: str, kind: str, rng: random.Random) -> tuple[str, dict[str, Any]]:
    """Return where targets of a kind are made, and one of them. Half of the Deployments never get a pod."""
    made = deployment(namespace, name, rng.randint(1, 4))
    made["kind"] = kind
    if kind == "EncoderPool":
        made |= {"apiVersion": "media.example.com/v1", "spec": {"replicas": 3}}
        return f"/apis/media.example.com/v1/namespaces/{namespace}/{POOL['plural']}", made
    if kind == "Deployment" and rng.random() < 0.5:
        made["spec"] |= {"paused": True, "replicas": rng.randint(1, 20)}
    if kind == "StatefulSet":
        made["spec"] |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    return f"/apis/apps/v1/namespaces/{namespace}/{TARGETS[kind]}", made


def resources(namespace: str, seed: int) -> Iterator[dict[str, Any]]:
    """Yield fuzzed RLScalers without end, `w-0`, `w-1` ...: named, in mode Shadow, most with a target and a load.

    Not all of them are valid; what is fuzzed beyond that stays (capacity, objective, behavior, onMetricLoss, policy,
    bounds). Their own targets have their names.
    """
    rng = random.Random(seed)
    for number, fuzzed in enumerate(fuzzed_resources(seed)):
        name, spec = f"w-{number}", fuzzed.resource.get("spec")
        if not isinstance(spec, dict):
            continue
        metadata: dict[str, Any] = {"name": name, "namespace": namespace}
        spec["interval"] = rng.choice(("1s", "1s", "2s"))
        spec["mode"] = "Shadow"
        if rng.random() < 0.2:
            del spec["mode"]  # Shadow is the default
        if rng.random() < 0.9:
            kind = rng.choice((*TARGETS, "Deployment", "Deployment", "EncoderPool"))
            version = "media.example.com/v1" if kind == "EncoderPool" else "apps/v1"
            spec["scaleTargetRef"] = {"apiVersion": version, "kind": kind, "name": name}
        if rng.random() < 0.9:
            spec["metrics"] = {metric: _query(rng, metric, name) for metric in ("load", *_some(rng, METRICS[1:]))}
        if rng.random() < 0.7:
            spec["capacity"] = {"perReplica": rng.choice(("10", "50", "1")), "startup": "2s"}
            spec.pop("objective", None)
        if rng.random() < 0.5:
            action = rng.choice(("Hold", "Replicas", "ReplicasIfHigher", "ReplicasIfLower"))
            held = {"after": "3s", "action": action}
            spec["onMetricLoss"] = held if action == "Hold" else {**held, "replicas": rng.randint(1, 9)}
        if rng.random() < 0.4:
            metadata["annotations"] = annotations(rng)
        if rng.random() < 0.7:
            spec.pop("policy", None)
        yield {"apiVersion": "rlscaler.io/v1alpha1", "kind": "RLScaler", "metadata": metadata, "spec": spec}


def hpa(namespace: str, name: str) -> dict[str, Any]:
    """Return an HPA of a Deployment that never has metrics to go by."""
    used = {"type": "Utilization", "averageUtilization": 50}
    metric = {"type": "Resource", "resource": {"name": "cpu", "target": used}}
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    spec = {"scaleTargetRef": ref, "minReplicas": 1, "maxReplicas": 9, "metrics": [metric]}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def annotations(rng: random.Random) -> dict[str, str]:
    """Return annotations of the person on call, right and wrong ones."""
    found = {}
    if rng.random() < 0.7:
        found["rlscaler.io/force-replicas"] = rng.choice(("7", "0", "500", "-1", "many", "3.5", "99999999999"))
    if rng.random() < 0.5:
        found["rlscaler.io/paused"] = rng.choice(("true", "false", "", "yes"))
    return found


class Weather:
    """What changes from one moment to the next: metrics, annotations, modes between Shadow and Paused, and people."""

    def __init__(self, cluster: ClusterAccess, namespace: str, exporter: Exporter, seed: int) -> None:
        """Take where to make it; nothing changes yet."""
        self._cluster, self._namespace, self._exporter = cluster, namespace, exporter
        self._rng = random.Random(seed)
        self._loads: dict[str, float] = {}
        self.rewritten: dict[str, int] = {}

    def begin(self, workloads: list[Shadowed]) -> None:
        """Give all of them metrics in which nothing is odd."""
        for workload in workloads:
            self._loads[workload.name] = 10.0 ** self._rng.uniform(-1.0, 2.5)
            for metric in METRICS:
                self._exporter.set(metric, self._plain(metric, workload.name), of=workload.name)

    def change(self, workloads: list[Shadowed]) -> None:
        """Change something of a third of the workloads."""
        self._exporter.broken = self._rng.random() < 0.15
        for workload in self._rng.sample(workloads, len(workloads) // 3):
            name, draw = workload.name, self._rng.random()
            self._loads[name] = min(1e4, self._loads[name] * self._rng.choice((0.01, 0.1, 0.3, 1.2, 3.0, 30.0)) + 0.1)
            metric = self._rng.choice(("load", "load", *METRICS))
            odd = self._rng.random() < 0.2
            self._exporter.set(metric, self._rng.choice(_ODD) if odd else self._plain(metric, name), of=name)
            if draw < 0.05:
                self._change_resource(name, {"metadata": {"annotations": _NONE | annotations(self._rng)}})
            elif draw < 0.08:
                mode = self._rng.choice(("Shadow", "Shadow", "Paused"))
                self._change_resource(name, {"spec": {"mode": mode}})
            elif draw < 0.16:
                self._rewrite(workload)

    def _plain(self, metric: str, name: str) -> float:
        return self._loads[name] if metric == "load" else _PLAIN[metric] * self._rng.uniform(0.2, 2.0)

    def _change_resource(self, name: str, patch: dict[str, Any]) -> None:
        path = f"/apis/rlscaler.io/v1alpha1/namespaces/{self._namespace}/rlscalers/{name}"
        self._cluster.request("PATCH", path, patch)

    def _rewrite(self, workload: Shadowed) -> None:
        """Set a target's replicas, as a person would."""
        replicas = self._rng.randint(1, 5)
        try:
            answer = self._cluster.request("PATCH", f"{workload.path}/scale", {"spec": {"replicas": replicas}})
        except ApiError as error:
            if error.status != 404:
                raise
            return
        self.rewritten[workload.name] = answer["spec"]["replicas"]


_NONE = {"rlscaler.io/force-replicas": None, "rlscaler.io/paused": None}


def _some(rng: random.Random, values: tuple[str, ...]) -> list[str]:
    return [value for value in values if rng.random() < 0.3]


def _query(rng: random.Random, metric: str, name: str) -> dict[str, Any]:
    """Return a metric of a workload: shared with all others, its own, or one that cannot be used."""
    draw = rng.random()
    if draw < 0.1:
        return {"query": rng.choice(_BAD_QUERIES)}
    if draw < 0.4:
        return {"query": f'{metric}{{of="{name}"}}'}
    return {"query": f"sum by (of) ({metric})", "match": {"of": name}}
