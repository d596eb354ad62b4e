"""The Helm chart as real helm renders it."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from programs import program

CHART = Path(__file__).resolve().parents[2] / "charts" / "rlscaler"
RELEASE, NAMESPACE = "scaler", "ops"
NAME = f"{RELEASE}-rlscaler"
"""Name of what belongs to the release."""

Objects = dict[tuple[str, str], dict[str, Any]]
"""Objects by kind and namespace/name (the name alone of what has no namespace)."""


NAMES = frozenset({"name", "namespace", "secretName", "serviceAccountName", "priorityClassName", "claimName",
                   "app.kubernetes.io/name", "app.kubernetes.io/instance"})  # fmt: skip
"""Fields that hold the name of something."""


class ChartError(Exception):
    """helm refused the values; the message is what it printed."""


def helm(*arguments: str | Path, values: Mapping[str, Any] | None = None) -> str:
    """Return what helm prints; values: handed to it as a file. Raises ChartError where it fails."""
    command = [str(program("helm")), *map(str, arguments)]
    if values is not None:
        command += ["--values", "-"]
    text = yaml.safe_dump(dict(values)) if values is not None else None
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise ChartError(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def rendered_text(values: Mapping[str, Any] | None = None) -> str:
    """Return the manifests that these values give. Raises ChartError."""
    return helm("template", RELEASE, CHART, "--namespace", NAMESPACE, values=values or {})


def rendered(values: Mapping[str, Any] | None = None) -> Objects:
    """Return the objects that these values give. Raises ChartError."""
    return by_key(rendered_text(values))


def by_key(manifest: str) -> Objects:
    """Return the objects of a manifest."""
    found: Objects = {}
    for item in yaml.safe_load_all(manifest):
        if item is None:
            continue
        metadata = item["metadata"]
        key = item["kind"], "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))
        assert key not in found, f"{key} twice"
        found[key] = item
    return found


def own(kind: str, objects: Objects, suffix: str = "") -> dict[str, Any]:
    """Return the object of a kind that has the release's name, in its namespace."""
    return objects[kind, f"{NAMESPACE}/{NAME}{suffix}"]


def pod(objects: Objects) -> dict[str, Any]:
    """Return the spec of the operator's pods."""
    spec: dict[str, Any] = own("Deployment", objects)["spec"]["template"]["spec"]
    return spec


def container(objects: Objects) -> dict[str, Any]:
    """Return the operator's container."""
    (only,) = pod(objects)["containers"]
    found: dict[str, Any] = only
    return found


def configuration(objects: Objects) -> dict[str, Any]:
    """Return the operator's configuration file."""
    content: dict[str, Any] = yaml.safe_load(own("ConfigMap", objects)["data"]["config.yaml"])
    return content


def names_that_are_no_text(item: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield where an object has a number for a name, at whatever depth: the API server takes none."""
    for name, each in item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ():
        if name in NAMES and not isinstance(each, (str, dict)):
            yield f"{path}.{name}", each
        yield from names_that_are_no_text(each, f"{path}.{name}")
