"""PromQL of the series that autoscalers read, or of those that stand behind what they read.

Names of series: cAdvisor's container_cpu_usage_seconds_total and kube-state-metrics'
kube_pod_container_resource_requests, both as any Prometheus of a cluster has them.
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

_IDENTIFIER = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_KEYWORDS = {"group_left", "group_right", "count_values", "limit_ratio"}
_LONGEST_BASE = 58
"""Characters of a pod's name before its five random ones; more are cut off (SimpleNameGenerator, k8s.io/apiserver)."""
_OF_REVISIONS = "{name}-[a-z0-9]{{6,10}}-[a-z0-9]{{5}}"
_PODS = {
    "Deployment": _OF_REVISIONS,
    "Rollout": _OF_REVISIONS,
    "ReplicaSet": "{name}-[a-z0-9]{{5}}",
    "ReplicationController": "{name}-[a-z0-9]{{5}}",
    "StatefulSet": "{name}-[0-9]+",
}
_ROOM = {"Deployment": len("-0123456789-"), "Rollout": len("-0123456789-"), "ReplicaSet": 1, "ReplicationController": 1}
"""Characters that stand between the name and the random ones."""


class Matcher(NamedTuple):
    """A condition on a label: its name, one of = != =~ !~, and a value."""

    label: str
    operator: str
    value: str


def quoted(text: str) -> str:
    """Return text as a string of PromQL, whose escapes are those of Go."""
    return json.dumps(text, ensure_ascii=False)


def escaped(text: str) -> str:
    """Return text as a regular expression (RE2) that matches it alone."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)


def any_of(label: str, values: Sequence[str]) -> Matcher:
    """Return the condition that a label has one of these values."""
    if len(values) == 1:
        return Matcher(label, "=", values[0])
    return Matcher(label, "=~", "|".join(escaped(value) for value in values))


def label_name(text: str) -> str:
    """Return the name of a label as Prometheus has it; what it does not take becomes an underscore."""
    name = re.sub(r"[^a-zA-Z0-9_]", "_", text)
    return f"_{name}" if name[0].isdigit() else name


def selector(metric: str, matchers: Sequence[Matcher]) -> str:
    """Return a selector of series; a metric whose name PromQL would take for something else is given as a label."""
    parts = [f"{label}{operator}{quoted(value)}" for label, operator, value in matchers]
    if not _IDENTIFIER.fullmatch(metric) or not re.search("[_:]", metric) or metric.lower() in _KEYWORDS:
        return f"{{{', '.join([f'__name__={quoted(metric)}', *parts])}}}"
    return f"{metric}{{{', '.join(parts)}}}" if parts else metric


def has_known_pods(kind: str) -> bool:
    """Tell whether the pods of a kind are told from others by their names."""
    return kind in _PODS


def pods_of(namespace: str, kind: str, name: str) -> list[Matcher]:
    """Return what picks the pods of a workload by their names, as its kind makes them."""
    form = _PODS.get(kind, "{name}-.*")
    if kind in _ROOM and len(name) + _ROOM[kind] > _LONGEST_BASE:
        name, form = name[:_LONGEST_BASE], "{name}-.*" if len(name) < _LONGEST_BASE else "{name}.*"
    return [Matcher("namespace", "=", namespace), Matcher("pod", "=~", form.format(name=escaped(name)))]


def cpu_use(pods: Sequence[Matcher], container: str | None) -> str:
    """Return the cores in use by all pods, or by one container of each."""
    which = Matcher("container", "!=", "") if container is None else Matcher("container", "=", container)
    return f"sum(rate({selector('container_cpu_usage_seconds_total', [*pods, which])}[2m]))"


def cpu_request(pods: Sequence[Matcher], container: str | None) -> str:
    """Return the cores that one replica requests, or one container of it."""
    which = [] if container is None else [Matcher("container", "=", container)]
    series = selector("kube_pod_container_resource_requests", [*pods, *which, Matcher("resource", "=", "cpu")])
    return f"avg(sum by (pod) ({series}))"


def cpu_requests(pods: Sequence[Matcher], container: str | None) -> str:
    """Return the cores that all pods request, or one container of each."""
    which = [] if container is None else [Matcher("container", "=", container)]
    return f"sum({selector('kube_pod_container_resource_requests', [*pods, *which, Matcher('resource', '=', 'cpu')])})"
