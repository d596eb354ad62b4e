"""A cluster, a Prometheus and operators that come and go: what tests of faults take place in."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluster_access import ApiError, kubeconfig
from control_plane import ControlPlane
from load_exporter import Exporter
from operator_process import OperatorProcess
from processes import wait_until
from prometheus_server import PrometheusServer
from rlscaler.crd import crd
from shop import deployment, rlscaler

SHOP = "shop"
"""Namespace of the workloads."""
HOME = "rlscaler"
"""Namespace of the Lease, the kept state and the operators' accounts."""
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases/rlscaler"


class Scene:
    """A context manager that starts and ends all of it.

    Each operator speaks with an account of its own, so that the audit log tells which process did what.
    """

    def __init__(self, directory: Path, api_args: Sequence[str] = ()) -> None:
        """Start the cluster and Prometheus; api_args: for the API server."""
        self.directory = directory
        (directory / "cluster").mkdir(parents=True)
        self.cluster = ControlPlane(
            directory / "cluster", scheduler=True, kwok=2, audit=True, sync_period="1s", extra_api_args=api_args
        )
        self.exporter = Exporter()
        self.prometheus = PrometheusServer(directory / "prometheus", {"shop": self.exporter.address})
        self._operators: list[OperatorProcess] = []

    def __enter__(self) -> Self:
        """Start the rest."""
        self.prometheus.start()
        self.cluster.apply(crd())
        for name in (SHOP, HOME):
            self.cluster.create_namespace(name)
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rlscalers.rlscaler.io"
        established = {"type": "Established", "status": "True"}

        def served() -> bool:
            conditions = self.cluster.request("GET", path).get("status", {}).get("conditions") or ()
            return any(established.items() <= condition.items() for condition in conditions)

        wait_until(served, "the CRD is not served", 30.0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End all of it."""
        for operator in self._operators:
            operator.stop(9)
        self.prometheus.stop()
        self.exporter.close()
        self.cluster.close()

    def operator(
        self,
        name: str,
        *arguments: str,
        server: str = "",
        environment: Mapping[str, str] | None = None,
        lease: float = 2.0,
        targets: Sequence[Mapping[str, str]] = (),
    ) -> OperatorProcess:
        """Return an operator that has not been started, and whose account is made here.

        server: the API server's address as this operator knows it. environment: added to the process' own. targets:
        custom ones, as the configuration names them.
        """
        account: dict[str, Any] = {"apiVersion": "v1", "kind": "ServiceAccount"}
        self.cluster.request(
            "POST", f"/api/v1/namespaces/{HOME}/serviceaccounts", account | {"metadata": {"name": name}}
        )
        subject = {"kind": "ServiceAccount", "name": name, "namespace": HOME}
        binding = {
            "metadata": {"name": f"operator-{name}"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [subject],
        }
        self.cluster.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        file = self.directory / f"{name}.kubeconfig"
        token = self.cluster.token_for(HOME, name)
        file.write_text(kubeconfig(server or self.cluster.server, self.cluster.ca, token))
        configuration = {"sources": {"default": {"url": self.prometheus.url}}, "targets": [*map(dict, targets)]}
        made = OperatorProcess(
            self.directory / name, file, configuration, lease=HOME, identity=name,
            arguments=[f"--lease-duration={lease:g}", *arguments], environment=environment,
        )  # fmt: skip
        self._operators.append(made)
        return made

    def end_operators(self) -> None:
        """Kill all operators, and take away the Lease that the last of them would hold for some time yet."""
        while self._operators:
            self._operators.pop().stop(9)
        with suppress(ApiError):
            self.cluster.request("DELETE", LEASE)

    def workload(self, name: str, load: float, replicas: int = 3, mode: str = "Active", **spec: Any) -> None:
        """Make a Deployment with this load, and its RLScaler."""
        self.load(name, load)
        self.cluster.apply(deployment(SHOP, name, replicas))
        self.cluster.apply(rlscaler(SHOP, name, mode, **spec))

    def load(self, name: str, load: float) -> None:
        """Set the load of a Deployment, requests/s."""
        self.exporter.set("load_rps", load, deployment=name)

    def holder(self) -> str:
        """Return the name of the operator that holds the Lease, "" for nobody."""
        identity = (self.cluster.request("GET", LEASE).get("spec") or {}).get("holderIdentity") or ""
        return str(identity).rpartition("-")[0]

    def resizes(self, name: str) -> list[dict[str, Any]]:
        """Return the requests of operators that changed a Deployment's replicas, in their order."""
        found = self.cluster.audit(resource="deployments", subresource="scale", verb="patch", name=name)
        return [event for event in found if who(event) and event["responseStatus"]["code"] < 300]


def who(event: Mapping[str, Any]) -> str:
    """Return the operator that made a request, "" where it was none."""
    user = str(event["user"].get("username", ""))
    prefix = f"system:serviceaccount:{HOME}:"
    return user.removeprefix(prefix) if user.startswith(prefix) else ""


def began(event: Mapping[str, Any]) -> float:
    """Return when a request arrived, epoch seconds."""
    return datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()


def ended(event: Mapping[str, Any]) -> float:
    """Return when a request was answered, epoch seconds."""
    return datetime.fromisoformat(event["stageTimestamp"]).timestamp()
