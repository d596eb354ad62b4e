"""What kinds the API server serves, under which plural, and which of them can be scaled."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import quote

from rlscaler.resource_objects import TargetRef
from rlscaler_operator.api_errors import ClusterError, Right
from rlscaler_operator.connection import Connection

REREAD = 10.0
"""Seconds at least between two looks for a kind that was not there, or could not be scaled."""


class Kind(NamedTuple):
    """What discovery says of a kind."""

    plural: str
    namespaced: bool
    scalable: bool


class Discovery:
    """Kinds by API version: asked for once, and again while one is missing or cannot be scaled."""

    def __init__(self, connection: Connection, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take the connection; nothing is asked yet."""
        self._connection, self._monotonic = connection, monotonic
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Mapping[str, Kind]]] = {}

    def kind(self, ref: TargetRef) -> Kind:
        """Return what is known of a target's kind.

        Raises ClusterError: NotFound where the API server does not serve it.
        """
        with self._lock:
            read_at, kinds = self._known.get(ref.api_version, (-REREAD, {}))
        known = kinds.get(ref.kind)
        if (known is None or not known.scalable) and self._monotonic() - read_at >= REREAD:
            kinds = self._read(ref.api_version)
            with self._lock:
                self._known[ref.api_version] = (self._monotonic(), kinds)
        if ref.kind not in kinds:
            message = f"the API server knows no kind {ref.kind} in {ref.api_version}: correct it, or install its CRD"
            raise ClusterError("NotFound", message, 404)
        return kinds[ref.kind]

    def forget(self, api_version: str) -> None:
        """Read an API version again before its kinds are used the next time."""
        with self._lock:
            self._known.pop(api_version, None)

    def served(self, group: str, name: str) -> bool:
        """Tell whether some version of an API group (core: "") has a kind or plural; never from memory.

        Raises ClusterError where it cannot be told.
        """
        if not group:
            return _has(self._read("v1"), name)
        try:
            answer = self._connection.request(
                "GET", f"/apis/{part(group)}", f"discover API group {group}", Right("get", "", "/apis")
            )
        except ClusterError as error:
            if error.reason == "NotFound":
                return False
            raise
        return any(_has(self._read(version["groupVersion"]), name) for version in answer["versions"])

    def _read(self, api_version: str) -> Mapping[str, Kind]:
        """Return the kinds of an API version by name; none where there is no such version."""
        path = root(api_version)
        try:
            answer = self._connection.request("GET", path, f"discover {api_version}", Right("get", "", path))
        except ClusterError as error:
            if error.reason == "NotFound":
                return {}
            raise
        names = {item["name"] for item in answer["resources"]}
        return {
            item["kind"]: Kind(item["name"], item["namespaced"], f"{item['name']}/scale" in names)
            for item in answer["resources"]
            if "/" not in item["name"]
        }


def root(api_version: str) -> str:
    """Return the path of an API version: `v1`, `apps/v1`."""
    group, _, version = api_version.rpartition("/")
    return f"/apis/{part(group)}/{part(version)}" if group else f"/api/{part(version)}"


def part(name: str) -> str:
    """Return a name as one part of a path."""
    return quote(name, safe="")


def _has(kinds: Mapping[str, Kind], name: str) -> bool:
    return name in kinds or any(kind.plural == name for kind in kinds.values())
