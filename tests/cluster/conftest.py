"""The cluster that the tests share, and a namespace of its own for each."""

import gc
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_access import ClusterAccess
from control_plane import ControlPlane
from processes import wait_until
from rlscaler.crd import crd

_COUNT = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterAccess]:
    """Return the session's cluster, with the CRD installed; see option --cluster.

    The local one has controllers, a scheduler, three nodes whose pods are ready at once, and an audit log.
    """
    directory = tmp_path_factory.mktemp("cluster")
    access: ClusterAccess
    match request.config.getoption("--cluster"):
        case "local":
            access = ControlPlane(directory, scheduler=True, kwok=3, audit=True, sync_period="1s")
        case "kind":
            access = _kind(directory)
        case _:
            access = _current()
    try:
        install_crd(access)
        yield access
    finally:
        access.close()


@pytest.fixture(scope="session")
def local_control_plane(control_plane: ClusterAccess) -> ControlPlane:
    """Return the session's cluster where it is one of our own, whose parts can be looked into."""
    if not isinstance(control_plane, ControlPlane):
        pytest.skip("looks into the parts of a control plane: needs --cluster local")
    return control_plane


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Collect what a module leaves, so that the warning of an open connection fails that module and none after it."""
    yield
    gc.collect()


@pytest.fixture
def namespace(control_plane: ClusterAccess, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return a fresh namespace in which pods can be made; it is deleted after the test."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())
    name = f"{words[:40].strip('-')}-{os.getpid()}-{next(_COUNT)}"
    control_plane.create_namespace(name)
    yield name
    control_plane.request("DELETE", f"/api/v1/namespaces/{name}")


def install_crd(access: ClusterAccess) -> None:
    """Install RLScaler's CRD, and return once it is served."""
    definition = crd()
    access.apply(definition)
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}"

    def established() -> bool:
        conditions: list[dict[str, Any]] = access.request("GET", path).get("status", {}).get("conditions") or []
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    wait_until(established, f"{definition['metadata']['name']} is not established", 30.0)


def _kind(directory: Path) -> ClusterAccess:
    """Make a cluster with kind; it is deleted when it is closed."""
    engines = [engine for engine in ("docker", "podman", "nerdctl") if shutil.which(engine)]
    if not shutil.which("kind") or not engines:
        missing = "kind" if engines else "a container engine (docker, podman or nerdctl)"
        pytest.skip(f"--cluster kind needs {missing} on PATH; --cluster local needs neither")
    running = any(subprocess.run([engine, "info"], capture_output=True).returncode == 0 for engine in engines)
    if not running:
        pytest.skip(f"--cluster kind: {' and '.join(engines)} cannot be reached (`{engines[0]} info`): is it running?")
    return KindCluster(directory / "kind.kubeconfig")


class KindCluster(ClusterAccess):
    """A cluster of kind's."""

    def __init__(self, kubeconfig: Path) -> None:
        """Create it; raises CalledProcessError where kind fails."""
        super().__init__(kubeconfig)
        self._name = f"rlscaler-test-{os.getpid()}"
        subprocess.run(
            ["kind", "create", "cluster", "--name", self._name, "--kubeconfig", kubeconfig, "--wait", "200s"],
            check=True,
        )

    def close(self) -> None:
        """Delete it."""
        super().close()
        subprocess.run(["kind", "delete", "cluster", "--name", self._name, "--kubeconfig", self.kubeconfig], check=True)


def _current() -> ClusterAccess:
    """Return the cluster of the current context of $KUBECONFIG or ~/.kube/config."""
    named = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    path = Path(named) if named else Path.home() / ".kube" / "config"
    if not path.is_file():
        pytest.fail(f"--cluster current: there is no kubeconfig file {path}; set KUBECONFIG or use --cluster local")
    return ClusterAccess(path)
