"""An API server that stands still or goes away: nobody waits for it for long, and nothing is written without a lease.

On a control plane of its own, since everybody else's would stand still too.
"""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest

from control_plane import ControlPlane
from processes import wait_until
from rlscaler_operator.backoff import Steps
from rlscaler_operator.clock import SystemClock
from rlscaler_operator.cluster import Cluster, ClusterError
from rlscaler_operator.leadership import Elector
from rlscaler_operator.writing import Actuator, Outcome
from wanted_writes import DEPLOYMENT, account

DEADLINE, RETRY = 2.0, 0.3


@pytest.fixture(scope="module")
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    if request.config.getoption("--cluster") != "local":
        pytest.skip("stops an API server: needs --cluster local")
    with ControlPlane(tmp_path_factory.mktemp("fenced"), controllers=False) as plane:
        yield plane


@pytest.fixture
def cluster(plane: ControlPlane) -> Iterator[Cluster]:
    cluster = Cluster.connect(str(plane.kubeconfig), timeout=1.0)
    yield cluster
    cluster.close()


@contextmanager
def paused(plane: ControlPlane) -> Iterator[None]:
    plane.pause_api()
    try:
        yield
    finally:
        plane.resume_api()


@asynccontextmanager
async def leader(cluster: Cluster, told: list[str]) -> AsyncIterator[Elector]:
    """Run an elector that leads; `told` takes what it tells."""
    elector = Elector(
        cluster,
        SystemClock(),
        namespace="default",
        identity=f"one-{random.random()}",
        duration=3.0,
        renew_deadline=DEADLINE,
        retry=RETRY,
        look=0.1,
    )
    task = asyncio.ensure_future(elector.run(lambda: told.append("gained"), lambda: told.append("lost")))
    await until(elector.valid)
    yield elector
    await elector.release()
    await task


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> float:
    """Return the seconds until a condition holds."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
    return time.monotonic() - began


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(120.0):
            await test()

    asyncio.run(bounded())


def web(plane: ControlPlane, name: str) -> str:
    """Make a Deployment that asks for one replica, and return its path."""
    path = "/apis/apps/v1/namespaces/default/deployments"
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "web"}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    with suppress(Exception):
        plane.request("DELETE", f"{path}/{name}")
    plane.request("POST", path, {"metadata": {"name": name}, "spec": spec})
    return f"{path}/{name}"


def replicas(plane: ControlPlane, path: str) -> int:
    return int(plane.request("GET", path)["spec"]["replicas"])


def test_every_call_ends_in_time(plane: ControlPlane, cluster: Cluster) -> None:
    web(plane, "web")
    assert cluster.scale("default", DEPLOYMENT).desired == 1
    with paused(plane):
        for _ in range(2):  # on a connection that is open, and on a new one
            began = time.monotonic()
            with pytest.raises(ClusterError) as caught:
                cluster.scale("default", DEPLOYMENT)
            assert caught.value.reason == "Timeout"
            assert "did not answer within 1 s" in caught.value.message
            assert time.monotonic() - began < 2.5
    assert cluster.scale("default", DEPLOYMENT).desired == 1


def test_a_server_that_is_away_and_comes_back(plane: ControlPlane, cluster: Cluster) -> None:
    assert cluster.can_i("get", "", "pods")
    plane.stop_api()
    for _ in range(2):
        with pytest.raises(ClusterError) as caught:
            cluster.can_i("get", "", "pods")
        assert caught.value.reason == "Unavailable"
    plane.start_api()
    assert cluster.can_i("get", "", "pods")


def test_a_short_stand_still_changes_no_leader(plane: ControlPlane, cluster: Cluster) -> None:
    async def test() -> None:
        told: list[str] = []
        async with leader(cluster, told) as elector:
            for _ in range(3):
                with paused(plane):
                    await asyncio.sleep(DEADLINE / 4)
                await until(elector.valid)
                await asyncio.sleep(RETRY * 2)
            assert elector.valid()
        assert told == ["gained", "lost"]

    run(test)


def test_the_lease_ends_by_time_alone_and_no_write_passes_the_gate(plane: ControlPlane, cluster: Cluster) -> None:
    path = web(plane, "web")

    async def test() -> None:
        told: list[str] = []
        async with leader(cluster, told) as elector:
            actuator = Actuator(cluster, elector.valid, SystemClock(), random.Random(1), steps=Steps(0.01, 0.05))
            assert await actuator.apply(account(1, 2, namespace="default"), DEPLOYMENT) == Outcome("Written")
            with paused(plane):
                assert await until(lambda: not elector.valid()) < DEADLINE + 0.5
                await until(lambda: told == ["gained", "lost"], 1.0)
                began = time.monotonic()
                for wanted in range(3, 9):
                    outcome = await actuator.apply(account(2, wanted, namespace="default"), DEPLOYMENT)
                    assert outcome == Outcome("NotLeading")
                assert time.monotonic() - began < 1.0  # nothing was sent that could hang
            await until(elector.valid)
            assert told == ["gained", "lost", "gained"]
            assert replicas(plane, path) == 2
            assert (await actuator.apply(account(2, 3, namespace="default"), DEPLOYMENT)).wrote
            assert replicas(plane, path) == 3
            assert await actuator.drain(5.0) == 0

    run(test)


def test_a_write_that_hangs_is_tried_until_the_lease_is_not_certain_any_more(
    plane: ControlPlane, cluster: Cluster
) -> None:
    path = web(plane, "web")

    async def test() -> None:
        async with leader(cluster, []) as elector:
            actuator = Actuator(
                cluster, elector.valid, SystemClock(), random.Random(1), timeout=0.3, steps=Steps(0.01, 0.05)
            )
            with paused(plane):
                outcome = await actuator.apply(account(1, 2, namespace="default"), DEPLOYMENT)
                assert outcome.result == "NotLeading"
                assert outcome.problem is not None
                assert "did not answer" in outcome.problem.message
            # What hung may be done when the server goes on; the next tick sees which.
            await until(elector.valid)
            seen = replicas(plane, path)
            assert (await actuator.apply(account(seen, 5, namespace="default"), DEPLOYMENT)).wrote
            assert replicas(plane, path) == 5
            await actuator.drain(5.0)

    run(test)


def test_a_restarted_server_finds_the_leader_still_leading(plane: ControlPlane, cluster: Cluster) -> None:
    told: list[str] = []
    elector = Elector(
        cluster,
        SystemClock(),
        namespace="default",
        name="other",
        identity="one",
        duration=90.0,  # a start may take long on a busy machine
        renew_deadline=60.0,
        retry=0.3,
    )
    # The server is started by the main thread, with which it would end; so the loop has another one.
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        running = asyncio.run_coroutine_threadsafe(
            elector.run(lambda: told.append("gained"), lambda: told.append("lost")), loop
        )
        wait_until(elector.valid, "does not lead", 30.0)
        plane.stop_api()
        wait_until(lambda: bool(elector.problem), "notices nothing", 30.0)
        assert elector.valid()
        plane.start_api()
        wait_until(lambda: elector.problem == "", "does not recover", 30.0)
        assert elector.valid()
        assert told == ["gained"]
        assert asyncio.run_coroutine_threadsafe(elector.release(), loop).result(10.0)
        running.result(10.0)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_the_end_is_not_delayed_by_a_server_that_stands_still(plane: ControlPlane, cluster: Cluster) -> None:
    async def test() -> None:
        elector = Elector(cluster, SystemClock(), namespace="default", name="end", identity="one", retry=0.2, look=0.1)
        task = asyncio.ensure_future(elector.run(lambda: None, lambda: None))
        await until(elector.valid)
        with paused(plane):
            began = time.monotonic()
            assert not await elector.release()
            assert time.monotonic() - began < 2.0
            assert not elector.valid()
            assert task.done()

    run(test)
