"""The operator as the chart installs it, with its pods played by processes: same arguments, files, account and rights.

No kubelet runs in the tests' cluster, so what kubelet would do is done here: the ConfigMap becomes a file, the
ServiceAccount's token a kubeconfig, and the pod's arguments those of a process on the loopback interface.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster_access import ClusterAccess
from helm_chart import CHART, helm
from operator_process import OperatorProcess

_OURS = ("--config=", "--listen=", "--lease-namespace=", "--log-format=", "--policies=")
"""Arguments of the pod that name places inside of it."""


class Release:
    """A release of the chart in a cluster, made by real helm.

    namespace: of the release; must exist or be made by helm. values: of the chart.
    """

    def __init__(
        self, cluster: ClusterAccess, directory: Path, namespace: str, values: Mapping[str, Any], name: str = "scaler"
    ) -> None:
        """Install it."""
        self.cluster, self.directory, self.namespace, self.name = cluster, directory, namespace, name
        directory.mkdir(parents=True, exist_ok=True)
        self._helm("install", self.name, CHART, "--create-namespace", values=values)
        self.account = f"{name}-rlscaler"
        self._started: list[OperatorProcess] = []

    def upgrade(self, values: Mapping[str, Any]) -> None:
        """Upgrade it to other values."""
        self._helm("upgrade", self.name, CHART, values=values)

    def uninstall(self) -> None:
        """End the pods, then uninstall the release."""
        self.close()
        self._helm("uninstall", self.name)

    def pod(self, identity: str = "one", arguments: Sequence[str] = ("--lease-duration=3",)) -> OperatorProcess:
        """Return one of its pods, not started yet. arguments: added to the Deployment's own."""
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.account}"
        template = self.cluster.request("GET", path)["spec"]["template"]["spec"]["containers"][0]
        own = [each for each in template["args"] if each.startswith("--") and not each.startswith(_OURS)]
        path = f"/api/v1/namespaces/{self.namespace}/configmaps/{self.account}"
        configuration = yaml.safe_load(self.cluster.request("GET", path)["data"]["config.yaml"])
        token = self.cluster.token_for(self.namespace, self.account)
        kubeconfig = self.cluster.kubeconfig_for(token, self.directory / f"{identity}.kubeconfig")
        process = OperatorProcess(
            self.directory, kubeconfig, configuration, lease=self.namespace, identity=identity,
            arguments=[*own, *arguments],
        )  # fmt: skip
        self._started.append(process)
        return process

    def close(self) -> None:
        """End the pods."""
        while self._started:
            self._started.pop().stop()

    def _helm(self, verb: str, *arguments: str | Path, values: Mapping[str, Any] | None = None) -> None:
        where = ("--namespace", self.namespace, "--kubeconfig", self.cluster.kubeconfig)
        helm(verb, *arguments, *where, values=values)
