"""What becomes of a namespace's pods and Deployments, taken down at the moment that a watch shows it."""

import http.client
import json
import socket
import ssl
import threading
import time
from types import TracebackType
from typing import Any, Self

import numpy as np

from control_plane import ControlPlane

LONGEST = 7200
"""Seconds that a watch may last."""


class TwinLog:
    """Watches from when it is entered until it is stopped; a context manager. Pods have a label app=TWIN.

    Times are monotonic seconds. orders: twin to (time, replicas that its Deployment asks for). pods, ready: twin to
    (time, +1 or -1), pods that come and go, and pods that get ready and go.
    """

    def __init__(self, cluster: ControlPlane, namespace: str) -> None:
        """Take where to look; nothing is watched yet."""
        self.orders: dict[str, list[tuple[float, int]]] = {}
        self.pods: dict[str, list[tuple[float, int]]] = {}
        self.ready: dict[str, list[tuple[float, int]]] = {}
        self._created: dict[str, float] = {}
        self._ready: dict[str, float] = {}
        self._startups: list[tuple[float, float]] = []
        host, _, port = cluster.server.rpartition("//")[2].partition(":")
        context = ssl.create_default_context(cafile=cluster.ca_file)
        self._headers = {"Authorization": f"Bearer {cluster.token_of('quiet')}"}
        self._stopped = False
        self._watches = [
            (http.client.HTTPSConnection(host, int(port), timeout=LONGEST, context=context), path, take)
            for path, take in (
                (f"/api/v1/namespaces/{namespace}/pods", self._take_pod),
                (f"/apis/apps/v1/namespaces/{namespace}/deployments", self._take_deployment),
            )
        ]
        self._threads = [
            threading.Thread(target=self._watch, args=watch, name=f"watch {watch[1]}") for watch in self._watches
        ]

    def stop(self) -> None:
        """Stop to watch. Raises RuntimeError where a watch has ended before."""
        if self._stopped:
            return
        self._stopped = True
        ended = [thread.name for thread in self._threads if not thread.is_alive()]
        for connection, _, _ in self._watches:
            if connection.sock is not None:
                connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        for connection, _, _ in self._watches:
            connection.close()
        if ended:
            raise RuntimeError(f"ended too early: {', '.join(ended)}")

    def startup(self, since: float) -> tuple[float, float]:
        """Return the middle and the 95th percentile of the seconds in which pods created since then got ready."""
        seconds = [took for created, took in self._startups if created >= since]
        middle, late = np.percentile(seconds, (50.0, 95.0)) if seconds else (np.nan, np.nan)
        return float(middle), float(late)

    def __enter__(self) -> Self:
        """Start to watch."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop to watch."""
        self.stop()

    def _watch(self, connection: http.client.HTTPSConnection, path: str, take: Any) -> None:
        connection.request("GET", f"{path}?watch=1&timeoutSeconds={LONGEST}", headers=self._headers)
        response = connection.getresponse()
        while line := self._line(response):
            event = json.loads(line)
            if event["type"] == "ERROR":
                return
            take(time.monotonic(), event["type"], event["object"])

    def _line(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.readline()
        except (OSError, ValueError, http.client.HTTPException):
            if self._stopped:
                return b""
            raise

    def _take_deployment(self, at: float, kind: str, found: dict[str, Any]) -> None:
        orders = self.orders.setdefault(found["metadata"]["name"], [])
        if not orders or orders[-1][1] != found["spec"]["replicas"]:
            orders.append((at, found["spec"]["replicas"]))

    def _take_pod(self, at: float, kind: str, found: dict[str, Any]) -> None:
        name, twin = found["metadata"]["uid"], found["metadata"]["labels"]["app"]
        pods, ready = self.pods.setdefault(twin, []), self.ready.setdefault(twin, [])
        if kind == "DELETED":
            pods.append((at, -1))
            if self._ready.pop(name, None) is not None:
                ready.append((at, -1))
            return
        if name not in self._created:
            self._created[name] = at
            pods.append((at, 1))
        if name not in self._ready and _is_ready(found):
            self._ready[name] = at
            self._startups.append((self._created[name], at - self._created[name]))
            ready.append((at, 1))


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
