"""Since when Deployments have had the pods that they ask for."""

import math
import threading
import time
from typing import Any

from cluster_access import ClusterAccess

LOOK = 0.1
"""Seconds between two looks."""


class Settling:
    """Looks at all Deployments again and again, in a thread of its own, until it is closed."""

    def __init__(self, access: ClusterAccess) -> None:
        """Start to look."""
        self._access = access
        self._since: dict[tuple[str, str], float] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="settling")
        self._thread.start()

    def since(self, namespace: str, name: str) -> float:
        """Return the monotonic time since which all pods of a Deployment are ready, infinity where they are not."""
        return self._since.get((namespace, name), math.inf)

    def close(self) -> None:
        """Stop to look."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(LOOK):
            items = self._access.request("GET", "/apis/apps/v1/deployments")["items"]
            now = time.monotonic()
            names = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in items if is_settled(item)}
            self._since = {name: min(now, self._since.get(name, math.inf)) for name in names}


def is_settled(deployment: dict[str, Any]) -> bool:
    """Tell whether a Deployment has the pods that it asks for, all ready, and no more."""
    wanted, status = deployment["spec"].get("replicas", 0), deployment["status"]
    counts = {status.get(name, 0) for name in ("replicas", "readyReplicas", "availableReplicas")}
    return status.get("observedGeneration") == deployment["metadata"]["generation"] and counts == {wanted}
