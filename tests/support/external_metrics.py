"""A metrics adapter for HorizontalPodAutoscalers that serves scripts, and keeps what each answer was and fell on.

A decision at the very end of a window depends on milliseconds, and so on the machine's load. Therefore the adapter
paces the HPAs: it holds each answer until the next beat of a clock, so that an HPA decides on beats alone, and a window
that does not end near a beat ends at the same decision every time. An HPA that comes late for a beat misses it. One
that comes while the pods of its target are still changing sees of them what chance wants: it is told at once that there
is nothing to know, which no decision follows from, and comes again.

It stands behind the API server's aggregation layer as any adapter does: TLS on the loopback interface, two APIServices
(external.metrics.k8s.io and metrics.k8s.io) and a Service of type ExternalName. A script is asked by number, not by
time: the n-th sync of an HPA gets its n-th value, however fast syncs are.
"""

import json
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, cast
from urllib.parse import parse_qs, urlsplit

from cluster_access import ClusterAccess
from processes import wait_until
from settling import Settling, is_settled

EXTERNAL, RESOURCE = "external.metrics.k8s.io/v1beta1", "metrics.k8s.io/v1beta1"
REQUEST = "1k"
"""Memory that a pod must request for `utilization` to be a share of it."""
SETTLED = 0.3
"""Seconds before an HPA asks by which its target must have settled: it has looked at the target, and its watches at
the pods, a little earlier."""

Values = Mapping[str, float | None]
"""What is true at one sync: metric to value; None = no series. load, backlog: totals; utilization: of memory."""


class Served(NamedTuple):
    """One sync of an HPA: when it asked and was answered, what it got, and the target as it was then.

    asked, time: monotonic seconds. replicas: that the target asks for; existing, ready, pending: its pods.
    values: what was served, by metric.
    """

    asked: float
    time: float
    replicas: int
    existing: int
    ready: int
    pending: int
    values: dict[str, float | None]


@dataclass(slots=True)
class Script:
    """What one workload's HPA is told. value: n -> the values of sync n. first: the metric that it asks for first.

    phase: seconds by which its beats come after those of phase 0.
    """

    namespace: str
    value: Callable[[int], Values]
    first: str
    phase: float = 0.0
    served: list[Served] = field(default_factory=list)
    given: int = 0
    now: Values = field(default_factory=dict)


class MetricsAdapter:
    """Serves scripts; a context manager.

    beat: seconds; answers are held until the next multiple of it, plus the script's phase.
    """

    def __init__(self, access: ClusterAccess, pair: tuple[Path, Path], beat: float) -> None:
        """Start to serve, and register with the API server; pair: certificate and key."""
        self._access = access
        self._beat = beat
        self._settling = Settling(access)
        self._scripts: dict[str, Script] = {}
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.adapter = self
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics adapter")
        self._thread.start()
        try:
            self._register()
        except BaseException:
            self.close()
            raise

    def add(self, workload: str, script: Script) -> None:
        """Serve a script to the HPA of a Deployment whose pods have the label app=WORKLOAD."""
        self._scripts[workload] = script

    def next_beat(self, workload: str, after: float) -> float:
        """Return the first beat of a workload after a time, monotonic seconds both."""
        return after + (self._scripts[workload].phase - after) % self._beat

    def served(self, workload: str) -> list[Served]:
        """Return what was served to the HPA of a workload so far, a sync each."""
        return list(self._scripts[workload].served)

    def given(self, workload: str) -> int:
        """Return how many syncs of the script the HPA of a workload has got."""
        return self._scripts[workload].given

    def answer(self, path: str, query: Mapping[str, list[str]]) -> dict[str, Any] | None:
        """Return the answer to a request, None where there is nothing."""
        match path.strip("/").split("/"):
            case ["apis", group, version]:
                return _resources(f"{group}/{version}")
            case ["apis", "external.metrics.k8s.io", "v1beta1", "namespaces", _, name]:
                workload, _, metric = name.rpartition(".")
                return self._external(name, self._value(workload, metric))
            case ["apis", "metrics.k8s.io", "v1beta1", "namespaces", namespace, "pods"]:
                workload = query["labelSelector"][0].removeprefix("app=")
                return self._pods(namespace, workload, self._value(workload, "utilization"))
            case _:
                return None

    def close(self) -> None:
        """Stop to serve."""
        self._settling.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        """Return the adapter."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop to serve."""
        self.close()

    def _value(self, workload: str, metric: str) -> float | None:
        """Return the value of a metric at this sync, and note that it is served."""
        script = self._scripts[workload]
        if metric == script.first:
            sync, settled = self._look(workload, script)
            script.served.append(sync)
            script.now = script.value(script.given) if settled else {}
            script.given += settled
        value = script.now.get(metric)
        script.served[-1].values[metric] = value
        return value

    def _look(self, workload: str, script: Script) -> tuple[Served, bool]:
        """Return the sync that begins now, at its beat if the target had settled when the HPA looked, and if so."""
        asked = time.monotonic()
        target = self._access.request("GET", f"/apis/apps/v1/namespaces/{script.namespace}/deployments/{workload}")
        phases = [pod["status"]["phase"] for pod in self._list_pods(script.namespace, workload)]
        replicas = target["spec"].get("replicas", 0)
        settled = is_settled(target) and self._settling.since(script.namespace, workload) < asked - SETTLED
        if script.served and script.served[-1].replicas != replicas:
            settled &= asked - script.served[-1].time > SETTLED  # it may have changed since `settling` looked
        if settled:
            time.sleep(max(0.0, self.next_beat(workload, time.monotonic()) - time.monotonic()))
        sync = Served(
            asked=asked,
            time=time.monotonic(),
            replicas=replicas,
            existing=target["status"].get("replicas", 0),
            ready=phases.count("Running"),
            pending=phases.count("Pending"),
            values={},
        )
        return sync, settled

    def _list_pods(self, namespace: str, workload: str) -> list[dict[str, Any]]:
        path = f"/api/v1/namespaces/{namespace}/pods"
        pods: list[dict[str, Any]] = self._access.request("GET", path, query={"labelSelector": f"app={workload}"})[
            "items"
        ]
        return pods

    def _external(self, name: str, value: float | None) -> dict[str, Any]:
        item = {"metricName": name, "metricLabels": {}, "timestamp": _now(), "value": _thousandths(value or 0.0)}
        return {"kind": "ExternalMetricValueList", "apiVersion": EXTERNAL, "items": [] if value is None else [item]}

    def _pods(self, namespace: str, workload: str, value: float | None) -> dict[str, Any]:
        usage = {"memory": _thousandths(1000.0 * (value or 0.0))}
        items = [
            {
                "metadata": {"name": pod["metadata"]["name"], "namespace": namespace},
                "timestamp": _now(),
                "window": "1s",
                "containers": [{"name": pod["spec"]["containers"][0]["name"], "usage": usage}],
            }
            for pod in self._list_pods(namespace, workload)
            if pod["status"]["phase"] == "Running" and value is not None
        ]
        return {"kind": "PodMetricsList", "apiVersion": RESOURCE, "items": items}

    def _register(self) -> None:
        port = self._server.server_address[1]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "metrics-adapter", "namespace": "kube-system"},
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
        }
        self._access.apply(service, *(_api_service(version, port) for version in (EXTERNAL, RESOURCE)))

        def available() -> bool:
            items = self._access.request("GET", "/apis/apiregistration.k8s.io/v1/apiservices")["items"]
            mine = [item for item in items if item["spec"].get("service", {}).get("name") == "metrics-adapter"]
            conditions = [c for item in mine for c in item.get("status", {}).get("conditions") or []]
            return [c["status"] for c in conditions if c["type"] == "Available"] == ["True", "True"]

        wait_until(available, "the metrics adapter is not taken on by the API server", 60.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    adapter: MetricsAdapter

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what breaks, but not a connection that its other end has dropped."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        answer = cast(_Server, self.server).adapter.answer(parts.path, parse_qs(parts.query))
        body = json.dumps(answer).encode()
        self.send_response(404 if answer is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


def _api_service(version: str, port: int) -> dict[str, Any]:
    group, _, short = version.partition("/")
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{short}.{group}"},
        "spec": {
            "group": group,
            "version": short,
            "service": {"name": "metrics-adapter", "namespace": "kube-system", "port": port},
            # The certificate is one for localhost, and the name that is asked for is the Service's.
            "insecureSkipTLSVerify": True,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        },
    }


def _resources(version: str) -> dict[str, Any]:
    pods = {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics", "verbs": ["get", "list"]}
    resources = [pods] if version == RESOURCE else []
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _thousandths(value: float) -> str:
    return f"{round(1000.0 * value)}m"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
