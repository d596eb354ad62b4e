"""A real Kubernetes control plane on the loopback interface: etcd, API server, controllers, scheduler, kwok.

No root, no container engine, no kubelet: pods are objects that kwok makes ready. RBAC, admission, CEL, server-side
apply, aggregation, audit and token requests are those of the real API server. Ready in 4 to 5 s; some 550 MB with
everything on. Several may run side by side.
"""

import contextlib
import http.client
import json
import signal
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from cluster_access import ClusterAccess, kubeconfig
from fake_nodes import kwok_configuration, node
from processes import Process, free_ports
from programs import program

CONTROLLERS = (
    "clusterrole-aggregation-controller,deployment-controller,disruption-controller,endpoints-controller,"
    "endpointslice-controller,garbage-collector-controller,horizontal-pod-autoscaler-controller,namespace-controller,"
    "pod-garbage-collector-controller,replicaset-controller,replicationcontroller-controller,resourcequota-controller,"
    "root-ca-certificate-publisher-controller,serviceaccount-controller,serviceaccount-token-controller,"
    "statefulset-controller"
)
_PARTS = ("kube-controller-manager", "kube-scheduler", "kwok")
_MASTERS = {name: f"{name}-token" for name in ("admin", "quiet", *_PARTS)}
_AUDIT_POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "omitManagedFields": True,
    "rules": [
        {"level": "None", "users": ["quiet", "system:apiserver", *_PARTS]},
        {"level": "None", "nonResourceURLs": ["/*"]},
        {"level": "RequestResponse", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "Metadata"},
    ],
}


class ControlPlane(ClusterAccess):
    """A control plane of its own; a context manager, or `close()` it.

    directory: takes data, keys and logs; must exist. controllers: run kube-controller-manager with all of CONTROLLERS,
    or with these, joined by commas. scheduler: run kube-scheduler; without it a pod must name its node. kwok: number of
    nodes, `node-0`, `node-1` ...; 0 means that no pod gets ready. ready_after: seconds until a pod is ready (a pod's
    own: annotation `fake_nodes.READY_AFTER`).
    audit: keep a log of requests, see `audit()`. sync_period: of the HPA controller. extra_api_args and
    extra_controller_args are handed on.

    Raises RuntimeError with the logs' tails where a part does not come up.
    """

    def __init__(
        self,
        directory: Path,
        *,
        controllers: bool | str = True,
        scheduler: bool = False,
        kwok: int = 0,
        ready_after: float = 0.0,
        audit: bool = False,
        sync_period: str = "2s",
        extra_api_args: Sequence[str] = (),
        extra_controller_args: Sequence[str] = (),
    ) -> None:
        """Start everything, and wait until it serves."""
        super().__init__(directory / "admin.kubeconfig")
        self.directory = directory
        self._parts: dict[str, Process] = {}
        self._quiet: ClusterAccess | None = None
        self._events: list[dict[str, Any]] = []
        self._read = 0
        self._etcd_port, peer, self._port, controller_port, scheduler_port = free_ports(5)
        self._extra_api_args = extra_api_args
        self._audit_log = directory / "audit.log" if audit else None
        try:
            self._start_etcd(peer)
            self.start_api()
            if controllers:
                names = CONTROLLERS if controllers is True else controllers
                self._start_controllers(names, controller_port, sync_period, extra_controller_args)
            if scheduler:
                self._start_scheduler(scheduler_port)
            if kwok:
                self._start_kwok(kwok, ready_after)
            if controllers is True:
                self._parts["kube-controller-manager"].wait_until(self._has_controllers, "does not work")
            if kwok:
                self._parts["kwok"].wait_until(self._has_nodes, "does not work")
        except BaseException:
            self.close()
            raise

    def stop_api(self, number: int = signal.SIGKILL) -> None:
        """End the API server by a signal: its clients see broken and then refused connections."""
        self._parts.pop("kube-apiserver").stop(number)

    def start_api(self) -> None:
        """Start the API server, on the same port and data as before, and wait until it is ready."""
        arguments = [*self._api_arguments(), *self._extra_api_args]
        process = self._start("kube-apiserver", *arguments)
        process.wait_until(lambda: self._serves(self._port, "/readyz", self.ca_file), "is not ready")

    def pause_api(self) -> None:
        """Freeze the API server: connections stay open, and nothing answers."""
        self._parts["kube-apiserver"].freeze()

    def resume_api(self) -> None:
        """Let a frozen API server go on."""
        self._parts["kube-apiserver"].send(signal.SIGCONT)

    def audit(self, **wanted: str) -> list[dict[str, Any]]:
        """Return the finished requests in their order, as audit.k8s.io/v1 Events.

        wanted: only those with this user, verb, resource, subresource, namespace or name (`user="admin"`). Writes have
        requestObject and responseObject. Requests of the parts themselves and of user `quiet` are not in the log.
        """
        self._read_audit_log()
        return [event for event in self._events if _facts(event).items() >= wanted.items()]

    def quiet(self) -> ClusterAccess:
        """Return an access whose requests are not in the audit log; it is closed with this one."""
        if self._quiet is None:
            self._quiet = ClusterAccess(self._kubeconfig_file("quiet"))
        return self._quiet

    def token_of(self, user: str) -> str:
        """Return the token of a user who may do everything: admin; quiet, whose requests are not in the audit log."""
        return _MASTERS[user]

    @property
    def ca_file(self) -> Path:
        """The API server's certificate with that of its authority."""
        return self.directory / "certificates" / "apiserver.crt"

    @property
    def serving_pair(self) -> tuple[Path, Path]:
        """Certificate and key for `localhost` and 127.0.0.1, for servers that tests put beside the API server."""
        return self.ca_file, self.ca_file.with_suffix(".key")

    def process(self, name: str) -> Process:
        """Return a part that runs: etcd, kube-apiserver, kube-controller-manager, kube-scheduler or kwok."""
        return self._parts[name]

    def close(self) -> None:
        """End everything, the last that was started first."""
        super().close()
        if self._quiet:
            self._quiet.close()
        while self._parts:
            # Nothing is worth keeping, and a graceful end waits for open watches.
            self._parts.popitem()[1].stop(signal.SIGKILL)

    def __enter__(self) -> Self:
        """Return the control plane."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End everything."""
        self.close()

    def _start(self, name: str, *arguments: str) -> Process:
        # Garbage is collected earlier than by default: slower by little, and a quarter less memory.
        process = Process([program(name), *arguments], self.directory / f"{name}.log", {"GOGC": "50"})
        self._parts[name] = process
        return process

    def _start_etcd(self, peer_port: int) -> None:
        peer = f"https://127.0.0.1:{peer_port}"
        process = self._start(
            "etcd",
            "--unsafe-no-fsync",
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{self._etcd_port}",
            f"--advertise-client-urls=http://127.0.0.1:{self._etcd_port}",
            "--peer-auto-tls",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=warn",
        )
        process.wait_until(lambda: self._serves(self._etcd_port, "/health", None), "is not healthy")

    def _api_arguments(self) -> Iterator[str]:
        # etcd makes a key pair for its peers; it has none, so it serves as the one that signs service accounts' tokens.
        key = self.directory / "etcd" / "fixtures" / "peer" / "key.pem"
        tokens = self.directory / "tokens.csv"
        tokens.write_text("".join(f"{token},{name},{name},system:masters\n" for name, token in _MASTERS.items()))
        self.kubeconfig.write_text(self._kubeconfig("admin"))
        yield f"--etcd-servers=http://127.0.0.1:{self._etcd_port}"
        yield from ("--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none")
        yield f"--secure-port={self._port}"
        yield f"--cert-dir={self.ca_file.parent}"
        yield f"--token-auth-file={tokens}"
        yield "--authorization-mode=Node,RBAC"
        yield "--service-account-issuer=https://kubernetes.default.svc"
        yield from (f"--service-account-signing-key-file={key}", f"--service-account-key-file={key}")
        # Nodes that kwok plays have no controller that would take this taint off again.
        yield "--disable-admission-plugins=TaintNodesByCondition"
        if self._audit_log:
            policy = self.directory / "audit-policy.yaml"
            policy.write_text(yaml.safe_dump(_AUDIT_POLICY))
            yield from (f"--audit-policy-file={policy}", f"--audit-log-path={self._audit_log}", "--audit-log-maxsize=0")

    def _start_controllers(self, names: str, port: int, sync_period: str, extra: Sequence[str]) -> None:
        process = self._start(
            "kube-controller-manager",
            f"--kubeconfig={self._kubeconfig_file('kube-controller-manager')}",
            f"--controllers={names}",
            "--leader-elect=false",
            "--use-service-account-credentials",
            f"--service-account-private-key-file={self.directory / 'etcd' / 'fixtures' / 'peer' / 'key.pem'}",
            f"--root-ca-file={self.ca_file}",
            f"--horizontal-pod-autoscaler-sync-period={sync_period}",
            # Each HPA takes four requests a sync; at 20 a second a dozen of them would wait for each other.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            *self._serving("kube-controller-manager", port),
            *extra,
        )
        process.wait_until(lambda: self._serves(port, "/healthz", None, secure=True), "is not healthy")

    def _start_scheduler(self, port: int) -> None:
        file = self._kubeconfig_file("kube-scheduler")
        serving = self._serving("kube-scheduler", port)
        process = self._start("kube-scheduler", f"--kubeconfig={file}", "--leader-elect=false", *serving)
        process.wait_until(lambda: self._serves(port, "/readyz", None, secure=True), "is not ready")

    def _start_kwok(self, nodes: int, ready_after: float) -> None:
        stages = self.directory / "kwok.yaml"
        stages.write_text(kwok_configuration(ready_after))
        self._start(
            "kwok", f"--kubeconfig={self._kubeconfig_file('kwok')}", f"--config={stages}", "--manage-all-nodes=true"
        )
        for number in range(nodes):
            self.request("POST", "/api/v1/nodes", node(f"node-{number}"))

    def _serving(self, name: str, port: int) -> tuple[str, ...]:
        return ("--bind-address=127.0.0.1", f"--secure-port={port}", f"--cert-dir={self.directory / name}")

    def _kubeconfig(self, user: str) -> str:
        return kubeconfig(f"https://127.0.0.1:{self._port}", self.ca_file, _MASTERS[user])

    def _kubeconfig_file(self, user: str) -> Path:
        path = self.directory / f"{user}.kubeconfig"
        path.write_text(self._kubeconfig(user))
        return path

    def _has_controllers(self) -> bool:
        """Tell whether pods can be created in `default`: the account that they run as is the controllers' work."""
        accounts = self.request("GET", "/api/v1/namespaces/default/serviceaccounts")
        return any(account["metadata"]["name"] == "default" for account in accounts["items"])

    def _has_nodes(self) -> bool:
        nodes = self.request("GET", "/api/v1/nodes")["items"]
        return all(
            any(c["type"] == "Ready" and c["status"] == "True" for c in item["status"].get("conditions", ()))
            for item in nodes
        )

    def _serves(self, port: int, path: str, ca: Path | None, secure: bool = False) -> bool:
        """Tell whether a server of ours answers 200; ca: what its certificate is checked against."""
        connection: http.client.HTTPConnection
        try:
            if ca or secure:
                context = ssl.create_default_context(cafile=ca) if ca else ssl._create_unverified_context()
                connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
            else:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with contextlib.closing(connection):
                connection.request("GET", path, headers={"Authorization": f"Bearer {_MASTERS['admin']}"})
                return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False

    def _read_audit_log(self) -> None:
        """Take in what is new in the audit log; the last line may not be whole yet."""
        if self._audit_log is None:
            raise RuntimeError("this control plane keeps no audit log; start it with audit=True")
        with self._audit_log.open("rb") as stream:
            stream.seek(self._read)
            for line in stream:
                if line.endswith(b"\n"):
                    self._events.append(json.loads(line))
                    self._read += len(line)


def _facts(event: dict[str, Any]) -> dict[str, str]:
    facts = {"user": event["user"].get("username", ""), "verb": event["verb"]}
    for name in ("resource", "subresource", "namespace", "name"):
        facts[name] = event.get("objectRef", {}).get(name, "")
    return facts
