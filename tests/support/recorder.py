"""What became of a namespace's workloads over time, as somebody saw it who looked again and again."""

import math
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


NOTHING = Seen(0.0, "", "", "")


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

    def counts(self, name: str, since: float, until: float = math.inf) -> list[int]:
        """Return the counts that a Deployment had between two moments, the one before them first."""
        before = [count for at, count in self.replicas[name] if at <= since]
        return before[-1:] + [count for at, count in self.replicas[name] if since < at < until]

    def condition(self, name: str, kind: str, until: float = math.inf) -> Seen:
        """Return a condition as it stood at a moment, the last look by default; NOTHING where it was not there."""
        return next((seen for seen in reversed(self.conditions.get((name, kind), ())) if seen.at < until), NOTHING)

    def found(self, name: str, kind: str, since: float) -> list[Seen]:
        """Return how a condition has stood since a moment, what stood before it left out."""
        return [seen for seen in self.conditions.get((name, kind), ()) if seen.at > since]
