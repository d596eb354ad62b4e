"""The cluster that the tests share does what a real one does, and the local one what tests of faults need."""

import contextlib
import json
from pathlib import Path

import pytest
import urllib3
import yaml
from kubernetes import client

from cluster_access import ApiError, ClusterAccess, KubectlError
from control_plane import ControlPlane
from minimal_resource import MINIMAL
from processes import wait_until

RLSCALERS = "/apis/rlscaler.io/v1alpha1/namespaces/{}/rlscalers"


def test_pods_of_a_deployment_get_ready(control_plane: ClusterAccess, namespace: str) -> None:
    control_plane.kubectl("create", "deployment", "web", "--image=web", "--replicas=3", "-n", namespace)
    control_plane.kubectl("rollout", "status", "deployment/web", "--timeout=60s", "-n", namespace)
    web = json.loads(control_plane.kubectl("get", "deployment", "web", "-o", "json", "-n", namespace))
    assert web["status"]["readyReplicas"] == 3


def test_our_resource_is_served_and_checked(control_plane: ClusterAccess, namespace: str) -> None:
    resource = yaml.safe_load(MINIMAL)
    created = control_plane.request("POST", RLSCALERS.format(namespace), resource)
    assert created["spec"]["minReplicas"] == 1
    resource["spec"]["minReplicas"] = 11
    with pytest.raises(ApiError, match="minReplicas"):
        control_plane.request("PUT", f"{RLSCALERS.format(namespace)}/web", created | {"spec": resource["spec"]})
    resource["spec"] |= {"minReplicas": 1, "interval": 15}
    with pytest.raises(ApiError, match=r"spec.interval: .* 15 has no unit; write 15s if seconds are meant"):
        control_plane.request("PUT", f"{RLSCALERS.format(namespace)}/web", created | {"spec": resource["spec"]})
    with pytest.raises(KubectlError, match="not found"):
        control_plane.kubectl("get", "rlscaler", "other", "-n", namespace)


def test_a_service_account_may_do_only_what_its_roles_say(
    control_plane: ClusterAccess, namespace: str, tmp_path: Path
) -> None:
    control_plane.kubectl("create", "serviceaccount", "reader", "-n", namespace)
    token = control_plane.token_for(namespace, "reader")
    with control_plane.client_for(token) as api:
        with pytest.raises(client.ApiException) as refused:
            client.CoreV1Api(api).list_namespaced_pod(namespace)
        assert refused.value.status == 403
        control_plane.kubectl("create", "role", "reader", "--verb=list", "--resource=pods", "-n", namespace)
        account = f"--serviceaccount={namespace}:reader"
        control_plane.kubectl("create", "rolebinding", "reader", "--role=reader", account, "-n", namespace)

        def listed() -> bool:
            with contextlib.suppress(client.ApiException):
                return client.CoreV1Api(api).list_namespaced_pod(namespace).items == []
            return False

        wait_until(listed, "the role is not honoured", 10.0)
    other = ClusterAccess(control_plane.kubeconfig_for(token, tmp_path / "reader.kubeconfig"))
    assert other.kubectl("get", "pods", "-n", namespace) == ""
    other.close()


def test_the_audit_log_shows_who_wrote_what(local_control_plane: ControlPlane, namespace: str) -> None:
    local_control_plane.kubectl("create", "configmap", "noted", "--from-literal=a=b", "-n", namespace)
    event, *others = local_control_plane.audit(verb="create", resource="configmaps", namespace=namespace, user="admin")
    assert not others
    assert event["requestObject"]["data"] == {"a": "b"}


def test_an_api_server_freezes_dies_and_comes_back(tmp_path: Path) -> None:
    with ControlPlane(tmp_path, controllers=False) as plane:
        plane.request("POST", "/api/v1/namespaces", {"metadata": {"name": "kept"}})
        plane.pause_api()
        http = urllib3.PoolManager(retries=False, ca_certs=str(plane.ca))
        with pytest.raises(urllib3.exceptions.TimeoutError):
            http.request("GET", f"{plane.server}/readyz", timeout=0.3)
        plane.resume_api()
        assert http.request("GET", f"{plane.server}/readyz", timeout=10.0).status == 200
        address = plane.server
        plane.stop_api()
        with pytest.raises(urllib3.exceptions.HTTPError):
            http.request("GET", f"{plane.server}/readyz", timeout=5.0)
        plane.start_api()
        assert plane.server == address
        assert plane.request("GET", "/api/v1/namespaces/kept")["metadata"]["name"] == "kept"
        http.clear()
