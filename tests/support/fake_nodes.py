"""Nodes and pods that only exist in the API: kwok plays their kubelets."""

from typing import Any

import yaml

READY_AFTER = "test.rlscaler.io/ready-after"
"""Annotation of a pod: how long it takes until it is ready ("5s"), in place of the default."""

_NODE_READY = """\
conditions:
{{ range NodeConditions }}
- lastHeartbeatTime: {{ Now | Quote }}
  lastTransitionTime: {{ Now | Quote }}
  message: {{ .message | Quote }}
  reason: {{ .reason | Quote }}
  status: {{ .status | Quote }}
  type: {{ .type | Quote }}
{{ end }}
allocatable: {cpu: 1k, memory: 1Ti, pods: 1M}
capacity: {cpu: 1k, memory: 1Ti, pods: 1M}
phase: Running
"""
_POD_READY = """\
{{ $now := Now }}
conditions:
{{ range $type := list "Initialized" "Ready" "ContainersReady" }}
- lastTransitionTime: {{ $now | Quote }}
  status: "True"
  type: {{ $type | Quote }}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- image: {{ .image | Quote }}
  name: {{ .name | Quote }}
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
phase: Running
startTime: {{ $now | Quote }}
"""


def kwok_configuration(ready_after: float) -> str:
    """Return kwok's configuration; ready_after: seconds from a pod's binding to its readiness."""
    ready: dict[str, Any] = {
        "durationMilliseconds": round(1000 * ready_after),
        "durationFrom": {"expressionFrom": f'.metadata.annotations["{READY_AFTER}"]'},
    }
    deleted = ".metadata.deletionTimestamp"
    stages = [
        _stage(
            "node-ready",
            "Node",
            [_match('.status.conditions.[] | select( .type == "Ready" ) | .status', "NotIn", "True")],
            {"statusTemplate": _NODE_READY},
        ),
        _stage(
            "pod-ready",
            "Pod",
            [_match(deleted, "DoesNotExist"), _match(".status.phase", "In", "Pending")],
            {"statusTemplate": _POD_READY},
            ready,
        ),
        _stage("pod-delete", "Pod", [_match(deleted, "Exists")], {"delete": True}),
    ]
    return yaml.safe_dump_all(stages)


def node(name: str) -> dict[str, Any]:
    """Return a node's manifest."""
    labels = {"kubernetes.io/hostname": name, "type": "kwok"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def _stage(
    name: str, kind: str, expressions: list[dict[str, Any]], then: dict[str, Any], delay: dict[str, Any] | None = None
) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "resourceRef": {"apiGroup": "v1", "kind": kind},
        "selector": {"matchExpressions": expressions},
        "next": then,
    }
    if delay:
        spec["delay"] = delay
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}


def _match(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}
