"""A Kubernetes cluster as tests speak to it, wherever it runs: kubectl, raw requests, tokens of service accounts."""

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import urllib3
import yaml
from kubernetes import client, config

from processes import wait_until
from programs import program


class KubectlError(RuntimeError):
    """kubectl failed; the message is what it printed."""


class ApiError(RuntimeError):
    """The API server answered with an error; status: HTTP's, message: what it said."""

    def __init__(self, status: int, body: str) -> None:
        """Take the answer, whose body is a Status object or plain text."""
        self.status, self.message = status, body
        with contextlib.suppress(ValueError, LookupError, TypeError):
            self.message = str(json.loads(body)["message"])
        super().__init__(f"{status}: {self.message}")


class ClusterAccess:
    """The administrator's view of a cluster: that of the current context of a kubeconfig file."""

    def __init__(self, kubeconfig: Path) -> None:
        """Take the file; nothing is read or asked yet."""
        self.kubeconfig = kubeconfig

    @property
    def server(self) -> str:
        """The API server's address, https://host:port."""
        return str(self.api.configuration.host)

    @property
    def ca(self) -> Path:
        """The file of the certificates that the API server's own is checked against."""
        return Path(str(self.api.configuration.ssl_ca_cert))

    @cached_property
    def api(self) -> client.ApiClient:
        """The administrator's client."""
        made: client.ApiClient = config.new_client_from_config(str(self.kubeconfig))  # type: ignore[no-untyped-call]
        return made

    @cached_property
    def _http(self) -> urllib3.PoolManager:
        settings: Any = self.api.configuration
        files = {"ca_certs": settings.ssl_ca_cert, "cert_file": settings.cert_file, "key_file": settings.key_file}
        return urllib3.PoolManager(retries=False, timeout=30.0, maxsize=16, **files)

    def client_for(self, token: str) -> client.ApiClient:
        """Return a client that says who it is by a token; close it after use."""
        settings = client.Configuration()
        settings.host, settings.ssl_ca_cert = self.server, str(self.ca)
        settings.api_key = {"BearerToken": f"Bearer {token}"}
        return client.ApiClient(settings)

    def token_for(self, namespace: str, service_account: str) -> str:
        """Return a fresh token of a service account that exists."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        answer = self.request("POST", path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"})
        return str(answer["status"]["token"])

    def kubeconfig_for(self, token: str, path: Path) -> Path:
        """Write a kubeconfig of whoever has the token, and return its path."""
        path.write_text(kubeconfig(self.server, self.ca, token))
        return path

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "", query: Mapping[str, str] | None = None
    ) -> Any:
        """Return the API server's JSON answer to a request, as plain objects.

        content_type: of the body; JSON, and a JSON merge patch for PATCH, where left out.

        Raises ApiError where the answer is an error, urllib3.exceptions.HTTPError where there is none within 30 s.
        """
        default = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": content_type or default}
        for setting in cast(Any, self.api.configuration).auth_settings().values():
            headers[setting["key"]] = setting["value"]
        url = self.server + path + (f"?{urlencode(query)}" if query else "")
        answer = self._http.request(method, url, body=None if body is None else json.dumps(body), headers=headers)
        if answer.status >= 300:
            raise ApiError(answer.status, answer.data.decode(errors="replace"))
        return json.loads(answer.data)

    def create_namespace(self, name: str) -> None:
        """Create a namespace, and return once pods can be made in it."""
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        path = f"/api/v1/namespaces/{name}/serviceaccounts"

        def has_account() -> bool:
            return any(item["metadata"]["name"] == "default" for item in self.request("GET", path)["items"])

        wait_until(has_account, f"namespace {name} gets no service account", 30.0)

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002 - as subprocess.run has it
        """Return what kubectl prints; input: its standard input. Raises KubectlError where it fails."""
        command = [str(program("kubectl")), "--kubeconfig", str(self.kubeconfig), *arguments]
        cache = {"KUBECACHEDIR": str(self.kubeconfig.parent / "kubectl-cache")}
        done = subprocess.run(command, input=input, capture_output=True, text=True, env={**os.environ, **cache})
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Create objects, or change them to what is given (server-side, as manager `test`)."""
        text = yaml.safe_dump_all([dict(item) for item in objects])
        self.kubectl("apply", "--server-side", "--field-manager=test", "-f", "-", input=text)

    def quiet(self) -> "ClusterAccess":
        """Return an access for requests in masses, which no audit log that the tests read need hold."""
        return self

    def close(self) -> None:
        """Close the client's connections."""
        if "_http" in self.__dict__:
            self._http.clear()
        if "api" in self.__dict__:
            self.api.rest_client.pool_manager.clear()
            self.api.close()  # type: ignore[no-untyped-call]


def kubeconfig(server: str, ca: Path, token: str) -> str:
    """Return a kubeconfig's text: one cluster, and one user who has a token."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": str(ca)}}],
            "users": [{"name": "test", "user": {"token": token}}],
        }
    )
