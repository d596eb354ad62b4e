"""KubeRay's definitions on a control plane, and the chart of rlscaler-learning as real helm renders it."""

import copy
import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cluster_access import ClusterAccess
from helm_chart import NAMESPACE, Objects, by_key, helm
from processes import wait_until
from programs import folder

CHART = Path(__file__).resolve().parents[2] / "charts" / "rlscaler-learning"
RELEASE = "shop"
NAME = f"{RELEASE}-rlscaler-learning"
"""Name of what belongs to the release."""
VERSION = "v1"
"""The version that the chart speaks; that of the definitions which is stored."""


def rendered(values: Mapping[str, Any] | None = None, namespace: str = NAMESPACE) -> Objects:
    """Return the objects that these values give. Raises ChartError."""
    return copy.deepcopy(_rendered(json.dumps(values or {}), namespace))


@functools.cache
def _rendered(values: str, namespace: str) -> Objects:
    return by_key(helm("template", RELEASE, CHART, "--namespace", namespace, values=json.loads(values)))


def ray(kind: str, objects: Objects, part: str = "") -> dict[str, Any]:
    """Return the one object of a kind, whose name begins with the release's and has this part."""
    (found,) = (each for (of, name), each in objects.items() if of == kind and f"/{NAME}{part}" in f"/{name}")
    return found


def cluster_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the RayCluster that a RayJob or a RayService asks for."""
    spec: dict[str, Any] = item["spec"]
    found: dict[str, Any] = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    return found


def pods(item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the templates of all pods that a RayJob or a RayService asks for, the head's first."""
    cluster = cluster_of(item)
    yield cluster["headGroupSpec"]["template"]
    yield from (group["template"] for group in cluster.get("workerGroupSpecs", ()))
    if "submitterPodTemplate" in item["spec"]:
        yield item["spec"]["submitterPodTemplate"]


@contextmanager
def installed(access: ClusterAccess) -> Iterator[None]:
    """Have the definitions of RayJob and RayService, as KubeRay's module has them, until the block ends.

    A cluster that has KubeRay's already keeps its own.
    """
    if "rayjobs.ray.io" in access.kubectl("get", "customresourcedefinitions", "-o", "name"):
        yield
        return
    files = sorted(folder("kuberay").glob("*.yaml"))
    named = [part for file in files for part in ("-f", str(file))]
    try:
        access.kubectl("create", *named)  # not apply, which would keep each once more in an annotation
        access.kubectl("wait", "--for=condition=Established", "--timeout=60s", *named)
        wait_until(lambda: _published(access), "the definitions of KubeRay in the API server's OpenAPI", 120.0)
        yield
    finally:
        access.kubectl("delete", "--ignore-not-found", "--wait=false", *named)


def _published(access: ClusterAccess) -> bool:
    """Tell whether the API server serves the schemas: kubectl checks by them, and they come after the resources."""
    return f"apis/ray.io/{VERSION}" in access.kubectl("get", "--raw", "/openapi/v3")


def text(objects: Objects) -> str:
    """Return objects as a manifest."""
    return yaml.safe_dump_all(list(objects.values()))
