"""The cluster as the operator speaks to it outside of the watches: every read and write that is not a watch.

Synchronous, to be called from threads. Every call ends within its deadlines and raises nothing but ClusterError.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import urlencode

from rlscaler.resource_fields import API_VERSION, KIND
from rlscaler.resource_objects import TargetRef
from rlscaler_operator import objects
from rlscaler_operator.api_errors import ClusterError, Failure, Right
from rlscaler_operator.conflicts import MANAGER
from rlscaler_operator.connection import JSON_PATCH, MERGE_PATCH, Connection
from rlscaler_operator.discovery import Discovery, part, root
from rlscaler_operator.model import Key, Workload

__all__ = ["Cluster", "ClusterError", "ConfigMap", "Failure", "Right", "ScaleRead"]

GROUP = API_VERSION.partition("/")[0]
PLURAL = "rlscalers"
PAGE = 500
"""Objects of a list that one request asks for."""
NOTE_LIMIT = 1024
"""Characters of an event's message that the API server takes."""


class ScaleRead(NamedTuple):
    """What /scale says. desired: spec.replicas. replicas: pods that exist. selector: of the pods, "" if unknown."""

    desired: int
    replicas: int
    selector: str


class ConfigMap(NamedTuple):
    """A ConfigMap. data and binary_data: by key; binary data is decoded."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    labels: Mapping[str, str]
    data: Mapping[str, str]
    binary_data: Mapping[str, bytes]


class Cluster:
    """One cluster, by a connection to its API server."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection; nothing is asked yet."""
        self._connection = connection
        self._discovery = Discovery(connection)

    @classmethod
    def connect(cls, kubeconfig: str | None = None, context: str | None = None, timeout: float = 10.0) -> Self:
        """Return the cluster of a kubeconfig, or of the pod that we run in; nothing is asked of it yet.

        Without both arguments the pod's service account comes first, then the variable KUBECONFIG, then
        ~/.kube/config. A service account's token is read anew every minute, and any credentials after a refusal.
        timeout: seconds for one request.

        Raises UserError where there is no configuration, or it cannot be used.
        """
        return cls(Connection.open(kubeconfig, context, timeout))

    def close(self) -> None:
        """Close every idle connection."""
        self._connection.close()

    # The target

    def locate(self, namespace: str, ref: TargetRef) -> str:
        """Return the path of a target's scale subresource; asks the API server the first time that it sees the kind.

        Raises ClusterError: NotFound where there is no such kind, Invalid where it cannot be scaled.
        """
        kind = self._discovery.kind(ref)
        if not kind.scalable or not kind.namespaced:
            lacks = "has no scale subresource: add it to its CRD, or name another kind of target"
            if not kind.namespaced:
                lacks = "is not namespaced: name another kind of target"
            raise ClusterError("Invalid", f"{ref.kind} of {ref.api_version} {lacks}")
        return f"{root(ref.api_version)}/namespaces/{part(namespace)}/{kind.plural}/{part(ref.name)}/scale"

    def scale(self, namespace: str, ref: TargetRef) -> ScaleRead:
        """Return what the scale subresource of a target says.

        Raises ClusterError.
        """
        value = self._scale("GET", namespace, ref, self.locate(namespace, ref), "read the scale of")
        # Zero replicas are left out of a Scale.
        spec, status = value.get("spec") or {}, value.get("status") or {}
        return ScaleRead(spec.get("replicas", 0), status.get("replicas", 0), status.get("selector") or "")

    def resize(self, namespace: str, ref: TargetRef, seen: int, wanted: int, timeout: float | None = None) -> int:
        """Set a target's replicas to `wanted` if they still are `seen`; return the version that this gave the target.

        A Scale has the resourceVersion of its object; -1 where it is none that can be compared.

        timeout: seconds after which this side gives up, and the API server too if it has begun.

        Raises ClusterError: Stale where the target asks for another count by now, and nothing was changed.
        """
        path = self.locate(namespace, ref)
        seconds = timeout if timeout is not None else self._connection.timeout
        # A Scale of zero replicas has no /spec/replicas that could be tested or replaced, only an empty spec.
        unchanged: dict[str, Any] = {"op": "test", "path": "/spec/replicas", "value": seen}
        if seen == 0:
            unchanged = {"op": "test", "path": "/spec", "value": {}}
        patch = [unchanged, {"op": "add", "path": "/spec/replicas", "value": wanted}]
        try:
            made = self._scale("PATCH", namespace, ref, f"{path}?fieldManager={MANAGER}", "resize", patch, seconds)
        except ClusterError as error:
            if error.reason == "Conflict" or _test_failed(error):
                message = f"cannot resize {_named(namespace, ref)}: it does not ask for {seen} replicas any more"
                raise ClusterError("Stale", message, error.status) from error
            raise
        return objects.identity(made).version

    def served(self, group: str, name: str) -> bool:
        """Tell whether some version of an API group (core: "") has a kind or plural (`ScaledObject`, `scaledobjects`).

        Raises ClusterError where it cannot be told.
        """
        return self._discovery.served(group, name)

    # Our own resource

    def list_rlscalers(self, namespace: str | None = None) -> list[dict[str, Any]]:
        """Return every RLScaler of a namespace, or of the whole cluster, as the API server has it.

        Raises ClusterError.
        """
        path = f"{root(API_VERSION)}{_inside(namespace)}/{PLURAL}"
        where = f"in namespace {namespace}" if namespace else "in all namespaces"
        return list(self._list(path, f"list {PLURAL} {where}", Right("list", GROUP, PLURAL, namespace or "")))

    def get_rlscaler(self, key: Key) -> dict[str, Any]:
        """Return an RLScaler as the API server has it. Raises ClusterError."""
        path = f"{root(API_VERSION)}{_inside(key.namespace)}/{PLURAL}/{part(key.name)}"
        value: dict[str, Any] = self._read(path, f"read {KIND} {key}", Right("get", GROUP, PLURAL, key.namespace))
        return value

    def patch_status(self, key: Key, status: Mapping[str, Any], uid: str = "", timeout: float | None = None) -> None:
        """Merge fields into the status of an RLScaler; a None removes its field.

        uid: of the very object that is meant, whose status then becomes just these fields; one that has been made anew
        under the same name is left alone. timeout: as of `resize`.

        Raises ClusterError: NotFound where there is no such object.
        """
        path = f"{root(API_VERSION)}{_inside(key.namespace)}/{PLURAL}/{part(key.name)}/status?fieldManager={MANAGER}"
        right = Right("patch", GROUP, f"{PLURAL}/status", key.namespace)
        what = f"write the status of {KIND} {key}"
        if not uid:
            self._connection.request("PATCH", path, what, right, {"status": dict(status)}, MERGE_PATCH, timeout)
            return
        # In a merge patch of a status the API server ignores the uid.
        whole = _whole(status)
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": whole},
        ]
        try:
            self._connection.request("PATCH", path, what, right, patch, JSON_PATCH, timeout)
        except ClusterError as error:
            if _test_failed(error):
                raise ClusterError("NotFound", f"cannot {what}: it has been made anew", error.status) from error
            raise

    def create_event(
        self,
        workload: Workload,
        kind: Literal["Normal", "Warning"],
        reason: str,
        message: str,
        when: float,
        timeout: float | None = None,
    ) -> None:
        """Record an event of an RLScaler; when: epoch seconds; timeout: as of `resize`. Raises ClusterError.

        Of the two event APIs the older one: `kubectl describe` shows both alike, but tools that sort by lastTimestamp
        or count know only this one.
        """
        (namespace, name), uid = workload.key, workload.uid
        about = {"apiVersion": API_VERSION, "kind": KIND, "namespace": namespace, "name": name, "uid": uid}
        told = hashlib.sha256(f"{uid} {when} {reason} {message}".encode()).hexdigest()[:16]
        at = datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name[:200]}.{told}", "namespace": namespace},
            "involvedObject": about,
            "type": kind,
            "reason": reason,
            "message": message if len(message) <= NOTE_LIMIT else f"{message[: NOTE_LIMIT - 3]}...",
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        path = f"/api/v1{_inside(namespace)}/events?fieldManager={MANAGER}"
        what, right = f"record an event of {KIND} {workload.key}", Right("create", "", "events", namespace)
        self._connection.request("POST", path, what, right, event, timeout=timeout)

    # What the operator keeps in the cluster

    def lease(self, namespace: str, name: str, timeout: float | None = None) -> dict[str, Any] | None:
        """Return a Lease of coordination.k8s.io/v1, None where there is none. Raises ClusterError."""
        path, right = _lease(namespace, name), Right("get", "coordination.k8s.io", "leases", namespace)
        try:
            value: dict[str, Any] = self._read(path, f"read Lease {namespace}/{name}", right, timeout)
        except ClusterError as error:
            if error.reason == "NotFound":
                return None
            raise
        return value

    def create_lease(self, lease: Mapping[str, Any], timeout: float | None = None) -> dict[str, Any]:
        """Create a Lease, and return it as it is stored. Raises ClusterError: Conflict where it exists."""
        namespace, name = lease["metadata"]["namespace"], lease["metadata"]["name"]
        right = Right("create", "coordination.k8s.io", "leases", namespace)
        what, path = f"create Lease {namespace}/{name}", f"{_lease(namespace)}?fieldManager={MANAGER}"
        value: dict[str, Any] = self._connection.request("POST", path, what, right, lease, timeout=timeout)
        return value

    def replace_lease(self, lease: Mapping[str, Any], timeout: float | None = None) -> dict[str, Any]:
        """Replace the version of a Lease that its resourceVersion names, and return it as it is stored.

        Raises ClusterError: Conflict where it has changed since.
        """
        namespace, name = lease["metadata"]["namespace"], lease["metadata"]["name"]
        right = Right("update", "coordination.k8s.io", "leases", namespace)
        what, path = f"renew Lease {namespace}/{name}", f"{_lease(namespace, name)}?fieldManager={MANAGER}"
        value: dict[str, Any] = self._connection.request("PUT", path, what, right, lease, timeout=timeout)
        return value

    def list_config_maps(self, namespace: str, selector: str) -> list[ConfigMap]:
        """Return the ConfigMaps of a namespace that have the labels of a selector (`a=b,c`). Raises ClusterError."""
        path = f"/api/v1{_inside(namespace)}/configmaps?{urlencode({'labelSelector': selector})}"
        right = Right("list", "", "configmaps", namespace)
        return [_config_map(item) for item in self._list(path, f"list ConfigMaps in namespace {namespace}", right)]

    def put_config_map(
        self,
        namespace: str,
        name: str,
        labels: Mapping[str, str],
        binary_data: Mapping[str, bytes],
        owner: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Make a ConfigMap hold this and nothing else, whether it was there before or not.

        owner: an owner reference; with its owner the ConfigMap goes too. timeout: as of `resize`, for both requests of
        a new one. Raises ClusterError: Invalid where it is too large (1 MiB in all).
        """
        metadata: dict[str, Any] = {"namespace": namespace, "name": name, "labels": dict(labels)}
        if owner is not None:
            metadata["ownerReferences"] = [dict(owner)]
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "binaryData": {key: base64.b64encode(value).decode() for key, value in binary_data.items()},
        }
        path, query = f"/api/v1{_inside(namespace)}/configmaps", f"?fieldManager={MANAGER}"
        what, began = f"write ConfigMap {namespace}/{name}", self._connection.monotonic()
        try:
            right = Right("update", "", "configmaps", namespace)
            self._connection.request("PUT", f"{path}/{part(name)}{query}", what, right, body, timeout=timeout)
        except ClusterError as error:
            if error.reason != "NotFound":
                raise
            left = timeout if timeout is None else timeout - (self._connection.monotonic() - began)
            if left is not None and left <= 0.0:
                raise ClusterError("Timeout", f"cannot {what}: no answer within {timeout:g} s") from error
            right = Right("create", "", "configmaps", namespace)
            self._connection.request("POST", f"{path}{query}", what, right, body, timeout=left)

    def delete_config_map(self, namespace: str, name: str, timeout: float | None = None) -> None:
        """Delete a ConfigMap if it is there. timeout: as of `resize`. Raises ClusterError."""
        path = f"/api/v1{_inside(namespace)}/configmaps/{part(name)}"
        right = Right("delete", "", "configmaps", namespace)
        try:
            self._connection.request("DELETE", path, f"delete ConfigMap {namespace}/{name}", right, timeout=timeout)
        except ClusterError as error:
            if error.reason != "NotFound":
                raise

    def can_i(self, verb: str, group: str, resource: str, subresource: str = "", namespace: str = "") -> bool:
        """Tell whether the operator may do something; namespace: "" is the whole cluster. Raises ClusterError."""
        asked = {"verb": verb, "group": group, "resource": resource}
        asked |= {"subresource": subresource, "namespace": namespace}
        right = Right("create", "authorization.k8s.io", "selfsubjectaccessreviews")
        path = f"/apis/{right.group}/v1/{right.resource}"
        body = {
            "apiVersion": f"{right.group}/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        answer = self._connection.request("POST", path, "ask what the operator may do", right, body)
        return bool(answer["status"]["allowed"])

    # The wire

    def _read(self, path: str, what: str, right: Right, timeout: float | None = None) -> Any:
        return self._connection.request("GET", path, what, right, timeout=timeout)

    def _list(self, path: str, what: str, right: Right) -> Iterator[dict[str, Any]]:
        """Yield the objects of a list in pages; one that grew too old while it was read is read in one piece."""
        query: dict[str, str] = {"limit": str(PAGE)}
        items: list[dict[str, Any]] = []
        while True:
            joint = "&" if "?" in path else "?"
            try:
                page = self._read(f"{path}{joint}{urlencode(query)}" if query else path, what, right)
            except ClusterError as error:
                if error.status != 410 or not query:
                    raise
                query, items = {}, []
                continue
            items += page["items"]
            rest = page["metadata"].get("continue")
            if not rest:
                return iter(items)
            query = {"limit": str(PAGE), "continue": rest}

    def _scale(
        self,
        method: Literal["GET", "PATCH"],
        namespace: str,
        ref: TargetRef,
        path: str,
        verb: str,
        body: Any = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        resource = f"{self._discovery.kind(ref).plural}/scale"
        right = Right(method.lower(), _group(ref.api_version), resource, namespace)
        what = f"{verb} {_named(namespace, ref)}"
        try:
            value: dict[str, Any] = self._connection.request(method, path, what, right, body, JSON_PATCH, timeout)
        except ClusterError as error:
            # Without the object's name it is the kind that went (or changed its plural): look for it again next time.
            if error.reason == "NotFound" and f'"{ref.name}"' not in error.message:
                self._discovery.forget(ref.api_version)
            raise
        return value


def _whole(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a merge patch of these fields makes of nothing: without those that it takes away."""
    inside = {name: _whole(value) if isinstance(value, Mapping) else value for name, value in fields.items()}
    return {name: value for name, value in inside.items() if value is not None}


def _test_failed(error: ClusterError) -> bool:
    """Tell whether the test of a JSON patch failed: told by the code alone; an invalid value has its field named."""
    return error.status == 422 and "request due to an error" in error.message


def _config_map(item: Mapping[str, Any]) -> ConfigMap:
    metadata = item["metadata"]
    return ConfigMap(
        metadata["namespace"],
        metadata["name"],
        metadata["uid"],
        metadata["resourceVersion"],
        metadata.get("labels") or {},
        item.get("data") or {},
        {key: base64.b64decode(value) for key, value in (item.get("binaryData") or {}).items()},
    )


def _lease(namespace: str, name: str = "") -> str:
    path = f"/apis/coordination.k8s.io/v1{_inside(namespace)}/leases"
    return f"{path}/{part(name)}" if name else path


def _named(namespace: str, ref: TargetRef) -> str:
    return f"{ref.kind} {namespace}/{ref.name}"


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]


def _inside(namespace: str | None) -> str:
    return f"/namespaces/{part(namespace)}" if namespace else ""
