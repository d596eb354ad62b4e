"""Writes to targets, on a real API server: the count goes through, nobody's newer count is lost, problems are told."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster_access import ClusterAccess
from control_plane import ControlPlane
from processes import wait_until
from rlscaler_operator.backoff import Steps
from rlscaler_operator.clock import SystemClock
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.writing import Actuator, Outcome
from wanted_writes import DEPLOYMENT, account


@pytest.fixture
def cluster(control_plane: ClusterAccess) -> Iterator[Cluster]:
    cluster = Cluster.connect(str(control_plane.kubeconfig))
    yield cluster
    cluster.close()


@asynccontextmanager
async def actuator(cluster: Cluster) -> AsyncIterator[Actuator]:
    one = Actuator(cluster, lambda: True, SystemClock(), random.Random(1), steps=Steps(0.01, 0.1))
    yield one
    assert await one.drain(10.0) == 0


def write(cluster: Cluster, *wanted: tuple[int, int], namespace: str) -> list[Outcome]:
    """Write counts one after the other: each from what was seen to what is wanted."""

    async def all_of_them() -> list[Outcome]:
        async with actuator(cluster) as one:
            counts = [account(seen, want, namespace=namespace) for seen, want in wanted]
            return [await one.apply(what, DEPLOYMENT) for what in counts]

    return asyncio.run(all_of_them())


@pytest.fixture
def web(control_plane: ClusterAccess, namespace: str) -> str:
    """Return the path of a Deployment that asks for one replica."""
    control_plane.kubectl("create", "deployment", "web", "--image=web", "-n", namespace)
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/web"


def replicas(access: ClusterAccess, web: str) -> int:
    return int(access.request("GET", web)["spec"]["replicas"])


def test_pods_follow_what_is_written(control_plane: ClusterAccess, namespace: str, cluster: Cluster, web: str) -> None:
    assert write(cluster, (1, 3), namespace=namespace) == [Outcome("Written")]
    wait_until(lambda: control_plane.request("GET", web)["status"].get("readyReplicas") == 3, "no 3 pods", 60.0)
    assert write(cluster, (3, 0), (0, 2), namespace=namespace) == [Outcome("Written")] * 2
    assert replicas(control_plane, web) == 2


def test_somebody_elses_newer_count_stays(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster, web: str
) -> None:
    control_plane.kubectl("scale", "deployment/web", "--replicas=7", "-n", namespace)
    assert write(cluster, (1, 3), namespace=namespace) == [Outcome("Stale")]
    assert replicas(control_plane, web) == 7


def test_other_changes_of_the_target_are_no_obstacle(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster, web: str
) -> None:
    control_plane.kubectl("label", "deployment/web", "a=b", "-n", namespace)
    control_plane.kubectl("set", "image", "deployment/web", "web=other", "-n", namespace)
    assert write(cluster, (1, 3), namespace=namespace) == [Outcome("Written")]


def test_a_target_that_is_gone_is_told(namespace: str, cluster: Cluster) -> None:
    (outcome,) = write(cluster, (1, 3), namespace=namespace)
    assert outcome.result == "Failed"
    assert outcome.problem is not None
    assert outcome.problem.reason == "FailedUpdateScale"
    assert outcome.problem.message == f'cannot resize Deployment {namespace}/web: deployments.apps "web" not found'


def test_a_write_that_is_not_granted_is_told_and_passes_once_it_is(
    control_plane: ClusterAccess, namespace: str, web: str, tmp_path: Path
) -> None:
    control_plane.kubectl("create", "serviceaccount", "operator", "-n", namespace)
    token = control_plane.token_for(namespace, "operator")
    cluster = Cluster.connect(str(control_plane.kubeconfig_for(token, tmp_path / "operator")))
    (outcome,) = write(cluster, (1, 3), namespace=namespace)
    assert outcome.problem is not None
    assert "grant the operator's service account the verb 'patch' on 'deployments/scale'" in outcome.problem.message
    assert replicas(control_plane, web) == 1
    control_plane.kubectl("create", "role", "o", "--verb=patch", "--resource=deployments/scale", "-n", namespace)
    bound = f"--serviceaccount={namespace}:operator"
    control_plane.kubectl("create", "rolebinding", "o", "--role=o", bound, "-n", namespace)
    wait_until(lambda: cluster.can_i("patch", "apps", "deployments", "scale", namespace), "not granted", 10.0)
    assert write(cluster, (1, 3), namespace=namespace) == [Outcome("Written")]
    cluster.close()


def test_of_a_burst_of_decisions_the_last_one_stands_and_few_are_written(
    local_control_plane: ControlPlane, namespace: str, cluster: Cluster, web: str
) -> None:
    async def burst() -> list[Outcome]:
        async with actuator(cluster) as one:
            first = one.submit(account(1, 2, namespace=namespace), DEPLOYMENT)
            await asyncio.sleep(0)  # it is under way
            rest = [one.submit(account(2, wanted, namespace=namespace), DEPLOYMENT) for wanted in range(3, 40)]
            return [await first, *[await future for future in rest]]

    outcomes = asyncio.run(burst())
    assert [outcome.result for outcome in outcomes] == ["Written", *["Superseded"] * 36, "Written"]
    assert replicas(local_control_plane, web) == 39
    writes = local_control_plane.audit(user="admin", verb="patch", namespace=namespace, subresource="scale")
    assert [event["responseObject"]["spec"]["replicas"] for event in writes] == [2, 39]
    assert all("fieldManager=rlscaler" in event["requestURI"] for event in writes)
