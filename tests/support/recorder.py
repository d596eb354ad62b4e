"""What became of a namespace's workloads over time, as somebody saw it who looked again and again."""

import time
from collections.abc import Callable
from typing import NamedTuple

from cluster_access import ClusterAccess


class Seen(NamedTuple):
    """A condition as it stood from a moment (monotonic seconds) on."""

    at: float
    status: str
    reason: str
    message: str


class Recorder:
    """Looks at the Deployments and RLScalers of a namespace, and keeps what changed.

    replicas: (seconds, count) by Deployment. conditions: by RLScaler and type. Both in the order of time.
    """

    def __init__(self, cluster: ClusterAccess, namespace: str) -> None:
        """Take where to look; nothing is looked at yet."""
        self._cluster, self._namespace = cluster.quiet(), namespace
        self.replicas: dict[str, list[tuple[float, int]]] = {}
        self.conditions: dict[tuple[str, str], list[Seen]] = {}

    def look(self) -> None:
        """Look once."""
        scalers = f"/apis/rlscaler.io/v1alpha1/namespaces/{self._namespace}/rlscalers"
        for item in self._cluster.request("GET", scalers)["items"]:
            for found in item.get("status", {}).get("conditions") or ():
                seen = Seen(time.monotonic(), found["status"], found["reason"], found["message"])
                known = self.conditions.setdefault((item["metadata"]["name"], found["type"]), [])
                if not known or known[-1][1:] != seen[1:]:
                    known.append(seen)
        for item in self._cluster.request("GET", f"/apis/apps/v1/namespaces/{self._namespace}/deployments")["items"]:
            counts = self.replicas.setdefault(item["metadata"]["name"], [])
            if not counts or counts[-1][1] != item["spec"]["replicas"]:
                counts.append((time.monotonic(), item["spec"]["replicas"]))

    def watch(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Look again and again for so long, or until it is so; tell whether it is."""
        end = time.monotonic() + seconds
        while True:
            self.look()
            if until():
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.1)

    def count(self, name: str) -> int:
        """Return the replicas of a Deployment at the last look."""
        return self.replicas[name][-1][1]

    def counts(self, name: str, since: float) -> list[int]:
        """Return the counts that a Deployment has had since a moment, the one before it first."""
        before = [count for at, count in self.replicas[name] if at <= since]
        return before[-1:] + [count for at, count in self.replicas[name] if at > since]

    def condition(self, name: str, kind: str) -> Seen:
        """Return a condition at the last look; one without a status where there is none."""
        return self.conditions.get((name, kind), [Seen(0.0, "", "", "")])[-1]

    def found(self, name: str, kind: str, since: float) -> list[Seen]:
        """Return how a condition has stood since a moment, what stood before it left out."""
        return [seen for seen in self.conditions.get((name, kind), ()) if seen.at > since]
