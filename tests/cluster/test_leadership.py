"""Who leads, on a real API server: one at a time, the next one soon, and a Lease that people can read."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cluster_access import ApiError, ClusterAccess
from processes import wait_until
from rlscaler_operator.clock import SystemClock
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.leadership import Elector

DEFAULT = {"duration": 15.0, "renew_deadline": 10.0, "retry": 2.0, "look": 0.5}
BRISK = {"duration": 3.0, "renew_deadline": 2.0, "retry": 0.5, "look": 0.1}


@pytest.fixture
def cluster(control_plane: ClusterAccess) -> Iterator[Cluster]:
    cluster = Cluster.connect(str(control_plane.kubeconfig))
    yield cluster
    cluster.close()


class Replica:
    """An elector that runs, and what it told."""

    def __init__(self, cluster: Cluster, namespace: str, identity: str, **terms: float) -> None:
        self.elector = Elector(
            cluster,
            SystemClock(),
            namespace=namespace,
            identity=identity,
            duration=terms["duration"],
            renew_deadline=terms["renew_deadline"],
            retry=terms["retry"],
            look=terms["look"],
        )
        self.leads, self.lost = asyncio.Event(), asyncio.Event()
        self.gained_at = self.lost_at = 0.0
        self.told: list[str] = []
        self.task = asyncio.ensure_future(self.elector.run(self._on_gained, self._on_lost))

    def _on_gained(self) -> None:
        self.told.append("gained")
        self.gained_at = time.monotonic()
        self.lost.clear()
        self.leads.set()

    def _on_lost(self) -> None:
        assert not self.elector.valid()
        self.told.append("lost")
        self.lost_at = time.monotonic()
        self.leads.clear()
        self.lost.set()

    async def die(self) -> None:
        """Stop renewing, and say nothing to anybody."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


@asynccontextmanager
async def replicas(cluster: Cluster, namespace: str, *names: str, **terms: float) -> AsyncIterator[list[Replica]]:
    """Start electors, the first of which leads before the next one starts."""
    started: list[Replica] = []
    try:
        for name in names:
            started.append(Replica(cluster, namespace, name, **(terms or BRISK)))
            await asyncio.wait_for(started[0].leads.wait(), 30.0)
        yield started
    finally:
        for replica in started:
            await replica.die()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(120.0):
            await test()

    asyncio.run(bounded())


def lease_path(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/rlscaler"


def spec(access: ClusterAccess, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = access.request("GET", lease_path(namespace))["spec"]
    return found


async def follows(replica: Replica) -> None:
    """Return once a replica has seen who holds the Lease."""
    while not replica.elector.holder:
        await asyncio.sleep(0.01)


def test_one_leads_and_the_other_knows(control_plane: ClusterAccess, namespace: str, cluster: Cluster) -> None:
    async def test() -> None:
        async with replicas(cluster, namespace, "one", "two") as (one, two):
            await follows(two)
            await asyncio.sleep(BRISK["retry"] * 3)
            assert one.elector.valid()
            assert not two.elector.valid()
            assert (one.told, two.told) == (["gained"], [])
            assert two.elector.holder == one.elector.identity == "one"
            held = spec(control_plane, namespace)
            assert (held["holderIdentity"], held["leaseDurationSeconds"], held["leaseTransitions"]) == ("one", 3, 0)
            assert held["renewTime"] > held["acquireTime"]
        assert one.told == ["gained", "lost"]

    run(test)
    shown = control_plane.kubectl("get", "lease", "rlscaler", "-n", namespace, "-o", "json", "--show-managed-fields")
    assert json.loads(shown)["metadata"]["managedFields"][0]["manager"] == "rlscaler"


def test_one_that_dies_is_followed_after_its_time(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster
) -> None:
    async def test() -> None:
        async with replicas(cluster, namespace, "one", "two") as (one, two):
            await follows(two)
            await one.die()
            died = time.monotonic()
            await two.leads.wait()
            # The last renewal is at most a retry and a request old.
            earliest = BRISK["duration"] - BRISK["retry"] - BRISK["renew_deadline"] / 3
            assert earliest < two.gained_at - died < BRISK["duration"] + 3.0
            held = spec(control_plane, namespace)
            assert (held["holderIdentity"], held["leaseTransitions"]) == ("two", 1)

    run(test)


def test_one_that_ends_well_is_followed_at_once_under_the_default_terms(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster
) -> None:
    async def test() -> None:
        async with replicas(cluster, namespace, "one", "two", **DEFAULT) as (one, two):
            await follows(two)
            began = time.monotonic()
            release = asyncio.ensure_future(one.elector.release())
            await asyncio.sleep(0)
            assert not one.elector.valid()
            assert await release
            released = time.monotonic()
            assert released - began < 2.0
            assert one.task.done()
            assert one.told == ["gained", "lost"]
            await two.leads.wait()
            assert two.gained_at - released < 1.0
            assert spec(control_plane, namespace)["leaseTransitions"] == 1

    run(test)


def test_a_lease_that_is_given_away_names_nobody(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster
) -> None:
    async def test() -> None:
        async with replicas(cluster, namespace, "one") as (one,):
            assert await one.elector.release()
            assert spec(control_plane, namespace)["holderIdentity"] == ""
            assert await one.elector.release()
        stranger = Elector(cluster, SystemClock(), namespace=namespace, identity="stranger")
        assert await stranger.release()
        assert spec(control_plane, namespace)["holderIdentity"] == ""

    run(test)


def test_a_stolen_lease_is_lost_and_left_alone(control_plane: ClusterAccess, namespace: str, cluster: Cluster) -> None:
    async def test() -> None:
        async with replicas(cluster, namespace, "one") as (one,):
            stolen = {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}}
            control_plane.request("PATCH", lease_path(namespace), stolen)
            at = time.monotonic()
            await one.lost.wait()
            assert one.lost_at - at < BRISK["renew_deadline"]
            await asyncio.sleep(BRISK["duration"])
            assert not one.elector.valid()
            assert one.elector.holder == "thief"
            assert spec(control_plane, namespace)["holderIdentity"] == "thief"

    run(test)


def test_a_lease_that_is_deleted_goes_back_to_its_holder(
    control_plane: ClusterAccess, namespace: str, cluster: Cluster
) -> None:
    async def test() -> None:
        async with replicas(cluster, namespace, "one", "two") as (one, two):
            await follows(two)
            for _ in range(3):
                control_plane.request("DELETE", lease_path(namespace))
                while True:
                    with suppress(ApiError):
                        if spec(control_plane, namespace)["holderIdentity"] == "one":
                            break
                    await asyncio.sleep(0.05)
            while not one.elector.valid():  # it has not seen the last answer yet
                await asyncio.sleep(0.01)
            assert (one.told, two.told) == (["gained"], [])

    run(test)


def test_terms_below_a_second(control_plane: ClusterAccess, namespace: str, cluster: Cluster) -> None:
    terms = {"duration": 0.9, "renew_deadline": 0.6, "retry": 0.1, "look": 0.05}

    async def test() -> None:
        async with replicas(cluster, namespace, "one", **terms) as (one,):
            assert spec(control_plane, namespace)["leaseDurationSeconds"] == 1
            two = Replica(cluster, namespace, "two", **terms)
            await follows(two)
            await one.die()
            died = time.monotonic()
            await two.leads.wait()
            assert two.gained_at - died < 5.0
            await two.die()

    run(test)


def test_never_two_while_replicas_come_and_go(control_plane: ClusterAccess, namespace: str, cluster: Cluster) -> None:
    async def test() -> None:
        terms = BRISK | {"look": 0.05}
        async with replicas(cluster, namespace, *(f"replica-{number}" for number in range(8)), **terms) as everyone:
            alive = list(everyone)
            while len(alive) > 1:
                leaders = [replica for replica in alive if replica.elector.valid()]
                assert len(leaders) <= 1
                if leaders:
                    alive.remove(leaders[0])
                    await (leaders[0].die() if len(alive) % 4 == 3 else leaders[0].elector.release())
                await asyncio.sleep(0.02)
            await alive[0].leads.wait()
        spans = sorted((r.gained_at, r.lost_at) for r in everyone)
        assert all(lost <= gained for (_, lost), (gained, _) in pairwise(spans))
        assert all(replica.told == ["gained", "lost"] for replica in everyone)
        assert spec(control_plane, namespace)["leaseTransitions"] == len(everyone) - 1

    run(test)


def test_missing_rights_are_told_and_leadership_comes_once_they_are_granted(
    control_plane: ClusterAccess, namespace: str, tmp_path: Path
) -> None:
    control_plane.kubectl("create", "serviceaccount", "operator", "-n", namespace)
    token = control_plane.token_for(namespace, "operator")
    cluster = Cluster.connect(str(control_plane.kubeconfig_for(token, tmp_path / "operator")))

    async def test() -> None:
        replica = Replica(cluster, namespace, "one", **BRISK)
        while not replica.elector.problem:
            await asyncio.sleep(0.01)
        assert "the verb 'get' on 'leases' of API group 'coordination.k8s.io'" in replica.elector.problem
        assert not replica.elector.valid()
        verbs = "--verb=get,create,update"
        control_plane.kubectl("create", "role", "o", verbs, "--resource=leases.coordination.k8s.io", "-n", namespace)
        bound = f"--serviceaccount={namespace}:operator"
        control_plane.kubectl("create", "rolebinding", "o", "--role=o", bound, "-n", namespace)
        await replica.leads.wait()
        assert replica.elector.problem == ""
        assert await replica.elector.release()

    run(test)
    wait_until(lambda: spec(control_plane, namespace)["holderIdentity"] == "", "not given away", 1.0)
    cluster.close()
