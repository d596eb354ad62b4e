"""What can go wrong with a request to the API server: one type with a reason to act on and a sentence to read."""

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import urllib3

Failure = Literal[
    "Conflict", "Stale", "NotFound", "Forbidden", "Throttled", "Unavailable", "Invalid", "Timeout", "Unauthorized"
]
"""Why a request failed. Conflict: somebody else changed or created the object first. Stale: the precondition of a
write does not hold any more. NotFound: no such object, or no such kind. Forbidden: RBAC or an admission rule says no.
Throttled: the server asks to come back later. Unavailable: no answer, or a fault of the server's own. Invalid: the
request will fail again as it is. Timeout: no answer in time; a write may have been done. Unauthorized: the server does
not know who asks.
"""
TRANSIENT: frozenset[Failure] = frozenset({"Throttled", "Unavailable", "Timeout"})
"""What may be gone at the next attempt though nobody does anything about it."""


class Right(NamedTuple):
    """What RBAC must allow. resource: plural, with its subresource. namespace: "" is the whole cluster."""

    verb: str
    group: str
    resource: str
    namespace: str = ""

    def __str__(self) -> str:
        """Say what to grant."""
        where = f"in namespace {self.namespace}" if self.namespace else "in the whole cluster"
        return f"verb {self.verb!r} on {self.resource!r} of API group {self.group!r} {where}"


class ClusterError(Exception):
    """A request to the API server failed.

    reason: what to act on. message: one sentence with the verb and the object. status: HTTP's, 0 where there was no
    answer. retry_after: seconds that the server asks to wait, None where it does not.
    """

    def __init__(self, reason: Failure, message: str, status: int = 0, retry_after: float | None = None) -> None:
        """Take what is known of the failure."""
        super().__init__(message)
        self.reason: Failure = reason
        self.message, self.status, self.retry_after = message, status, retry_after

    @property
    def transient(self) -> bool:
        """Whether the same request may pass later though nobody does anything about it."""
        return self.reason in TRANSIENT


def from_answer(what: str, right: Right, status: int, headers: Mapping[str, str], body: bytes) -> ClusterError:
    """Return the error of an answer outside of 2xx.

    what: verb and object (`resize Deployment shop/web`). right: what RBAC had to allow. body: a Status object, where
    the API server itself answered; a proxy's page has none and only its code is told.
    """
    details = _status(body)
    said = str(details.get("message") or "").strip() or f"HTTP status {status}"
    reason = _reason(status, said)
    message = f"cannot {what}: {_explained(reason, right, said)}"
    return ClusterError(reason, message, status, _retry_after(headers, details))


def from_transport(what: str, error: Exception, timeout: float) -> ClusterError:
    """Return the error of a request that got no whole answer. timeout: seconds that were allowed for it."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, urllib3.exceptions.NewConnectionError):  # to urllib3 a timeout too
        if isinstance(seen, (urllib3.exceptions.TimeoutError, TimeoutError)):
            return ClusterError("Timeout", f"cannot {what}: the API server did not answer within {timeout:g} s")
        seen = seen.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return ClusterError("Unavailable", f"cannot {what}: the API server cannot be reached: {text}")


def _status(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _reason(status: int, said: str) -> Failure:
    known: dict[int, Failure] = {
        401: "Unauthorized",
        403: "Forbidden",
        404: "NotFound",
        408: "Timeout",
        409: "Conflict",
        429: "Throttled",
        504: "Timeout",
    }
    if status in known:
        return known[status]
    if status == 500 and "replicas field" in said and "does not exist" in said:
        return "Invalid"  # a custom resource without a count: the server calls it an internal error
    return "Unavailable" if status >= 500 else "Invalid"


def _explained(reason: Failure, right: Right, said: str) -> str:
    if reason == "Forbidden" and " cannot " in said:  # RBAC's words; a quota or an admission rule speaks for itself
        return f"{said}: grant the operator's service account the {right}"
    if reason == "Unauthorized":
        return f"the API server does not accept the operator's credentials ({said}); check its token or kubeconfig"
    return said


def _retry_after(headers: Mapping[str, str], details: Mapping[str, Any]) -> float | None:
    told = headers.get("Retry-After")
    if told is None:
        told = (details.get("details") or {}).get("retryAfterSeconds")
    try:
        seconds = float(told) if told is not None else math.nan
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
