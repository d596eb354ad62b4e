"""The wire to the API server: who we are, where it is, and JSON in and out.

Credentials, TLS and proxies are those of the `kubernetes` package, and so is the request. Its generated classes stay
out: they cost more CPU a call than plain objects, and drop what they do not know.
"""

import base64
import binascii
import json
import math
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, cast

import urllib3
from kubernetes import client, config
from kubernetes.config import incluster_config, kube_config

from rlscaler.errors import UserError
from rlscaler_operator.api_errors import ClusterError, Right, from_answer, from_transport

CONNECT = 3.0
"""Seconds at most for a connection."""
POOL = 64
"""Connections that are kept open; more threads than this at once open and close their own."""
RENEWAL = 10.0
"""Seconds at least between two reads of credentials that the server refused."""
FRESH = 5.0
"""Seconds for which a token is used before the package is asked again: its answer costs a fifth of a request."""
AGENT = "rlscaler"
_DATA = {
    "cluster": {"certificate-authority-data": "a certificate"},
    "user": {"client-certificate-data": "a certificate", "client-key-data": "a key"},
}
"""Fields of a kubeconfig that hold files in base64, and what is expected there."""
JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"


class Connection:
    """Requests to one API server, from any number of threads."""

    def __init__(
        self,
        settings: Callable[[], client.Configuration],
        timeout: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what reads the credentials and the address (again, after they were refused), and seconds per request."""
        self.timeout = timeout
        self._settings, self.monotonic = settings, monotonic
        self._lock = threading.Lock()
        self._read_at = monotonic()
        self._client = _client(settings())
        self._identity: tuple[float, Mapping[str, str]] = (-math.inf, {})

    @classmethod
    def open(
        cls,
        kubeconfig: str | None,
        context: str | None,
        timeout: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Return a connection to the cluster of a kubeconfig, or of the pod that we run in.

        kubeconfig: a file; without one and without a context the pod's service account comes first, then the
        variable KUBECONFIG, then ~/.kube/config.

        Raises UserError where there is none of them, or what is there cannot be used.
        """
        return cls(lambda: credentials(kubeconfig, context), timeout, monotonic)

    def request(
        self,
        method: str,
        path: str,
        what: str,
        right: Right,
        body: Any = None,
        content: str = JSON,
        timeout: float | None = None,
    ) -> Any:
        """Return the answer as plain objects.

        what: verb and object, for a failure's sentence. right: what RBAC must allow. timeout: seconds to the first
        byte of the answer, that of a new connection and of a second try among them, and between two of its parts; the
        API server gives up after them too. Left out, a connection has CONNECT beside that of all requests.

        Raises ClusterError.
        """
        began = self.monotonic()
        status, headers, data = self._send(method, path, what, body, content, timeout)
        if status == 401 and self._renewed():
            left = timeout if timeout is None else timeout - (self.monotonic() - began)
            if left is None or left > 0.0:
                status, headers, data = self._send(method, path, what, body, content, left)
        if not 200 <= status < 300:
            raise from_answer(what, right, status, headers, data)
        try:
            return json.loads(data)
        except ValueError:
            raise ClusterError("Unavailable", f"cannot {what}: the answer is not JSON", status) from None

    def close(self) -> None:
        """Close every idle connection."""
        self._client.close()  # type: ignore[no-untyped-call]

    def _send(
        self, method: str, path: str, what: str, body: Any, content: str, timeout: float | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        kubernetes = self._client
        rest: Any = kubernetes.rest_client  # has no types
        try:
            headers = {"Accept": JSON, "Content-Type": content, "User-Agent": AGENT, **self._who()}
        except (config.ConfigException, OSError) as error:
            raise ClusterError("Unauthorized", f"cannot {what}: the credentials cannot be read: {error}") from error
        url = kubernetes.configuration.host + path
        if timeout is not None:
            url += f"{'&' if '?' in path else '?'}timeout={max(1, round(timeout * 1000))}ms"
        # Two limits would add up, and with them a write could end after the lease that it was begun under.
        limits = timeout if timeout is not None else (min(CONNECT, self.timeout), self.timeout)
        try:
            answer = rest.request(method, url, headers=headers, body=body, _request_timeout=limits)
            return answer.status, answer.headers, answer.read()
        except (urllib3.exceptions.HTTPError, client.ApiException, OSError) as error:
            raise from_transport(what, error, timeout if timeout is not None else self.timeout) from error

    def _who(self) -> Mapping[str, str]:
        """Return the headers that say who we are."""
        at, headers = self._identity
        now = self.monotonic()
        if now - at >= FRESH:
            settings = cast(Any, self._client.configuration).auth_settings()
            headers = {setting["key"]: setting["value"] for setting in settings.values() if setting["value"]}
            self._identity = (now, headers)
        return headers

    def _renewed(self) -> bool:
        """Read the credentials again, and tell whether it is worth another try."""
        with self._lock:
            now = self.monotonic()
            if now - self._read_at < RENEWAL:
                return False
            self._read_at = now
            try:
                self._client = _client(self._settings())
                self._identity = (-math.inf, {})
            except UserError:
                return False  # the file is being written; the refusal itself is what is told
            return True


def _client(settings: client.Configuration) -> client.ApiClient:
    # A retry inside of a request multiplies its deadline; who asks knows better when to ask again.
    settings.retries = urllib3.Retry(False)
    settings.connection_pool_maxsize = POOL
    return client.ApiClient(settings)


def credentials(kubeconfig: str | None, context: str | None) -> client.Configuration:
    """Return who we are and where the API server is; see `Connection.open`."""
    settings = client.Configuration()
    if kubeconfig is None and context is None and _in_cluster():
        try:
            incluster_config.load_incluster_config(settings)  # type: ignore[no-untyped-call]
        except (config.ConfigException, OSError) as error:
            raise UserError(f"the pod's service account cannot be used: {error}; is its token mounted?") from error
        return settings
    files = kubeconfig or os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    if not any(Path(file).is_file() for file in files.split(os.pathsep)):
        hint = "" if kubeconfig else "; outside of a cluster, name one with --kubeconfig or the variable KUBECONFIG"
        raise UserError(f"there is no kubeconfig at {files}{hint}")
    try:
        config.load_kube_config(files, context, settings)  # type: ignore[no-untyped-call]
        if settings.ssl_ca_cert:
            ssl.create_default_context(cafile=settings.ssl_ca_cert)
    except Exception as error:  # a broken file shows as anything from a YAML error to a missing attribute
        named = f", context {context!r}" if context else ""
        text = " ".join(str(error).split())
        if isinstance(error, binascii.Error):
            text = _no_base64(files, context) or text
        elif isinstance(error, ssl.SSLError) and settings.ssl_ca_cert:
            text = _no_certificate(files, context, settings.ssl_ca_cert)
        raise UserError(f"kubeconfig {files}{named} cannot be used: {text}") from error
    return settings


def _no_base64(files: str, context: str | None) -> str:
    """Return which data of a context of a kubeconfig are no base64; empty where all are."""
    for part, fields in _DATA.items():
        stated = _stated(files, context, part)
        for field, expected in fields.items():
            try:
                base64.standard_b64decode(str(stated.get(field, "")))
            except ValueError:  # as the package decodes it
                return f"{field} is text that is no base64; expected {expected} in PEM form, in base64"
    return ""


def _no_certificate(files: str, context: str | None, path: str) -> str:
    """Return which field of a context's cluster holds no certificate; path: the file that was read for it."""
    if "certificate-authority-data" in _stated(files, context, "cluster"):
        return "certificate-authority-data is base64 of no certificate; expected a certificate in PEM form, in base64"
    return f"certificate-authority {path} holds no certificate; expected a certificate in PEM form"


def _stated(files: str, context: str | None, part: str) -> Mapping[str, Any]:
    """Return the cluster or the user of a context of a kubeconfig that has been read before."""
    merged: Any = kube_config.KubeConfigMerger(files).config  # type: ignore[no-untyped-call]
    chosen = merged["contexts"].get_with_name(context or merged["current-context"])["context"]
    return cast(Mapping[str, Any], merged[f"{part}s"].get_with_name(chosen[part])[part].value)


def _in_cluster() -> bool:
    return bool(os.environ.get(incluster_config.SERVICE_HOST_ENV_NAME))
