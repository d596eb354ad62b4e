"""/metrics, /healthz and /readyz, asked over real connections."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from rlscaler.errors import UserError
from rlscaler_operator.health import Check, Finding, HealthServer, loop_check, parsed_address, role_check, watch_checks
from rlscaler_operator.heartbeat import Heartbeat


class Time:
    """A clock that is set."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return self.at


def serve(
    scene: Callable[[HealthServer, aiohttp.ClientSession], Coroutine[Any, Any, None]],
    live: list[Check] | None = None,
    ready: list[Check] | None = None,
    registry: CollectorRegistry | None = None,
) -> None:
    """Run a scene against a server on a free port."""

    async def run() -> None:
        server = HealthServer("127.0.0.1:0", registry or CollectorRegistry(), live or [], ready or [])
        await server.start()
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
                await scene(server, session)
        finally:
            await server.stop()

    asyncio.run(run())


async def asked(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    async with session.get(path) as answer:
        return answer.status, await answer.text()


def test_a_loop_that_hangs_is_told_with_what_hangs() -> None:
    clock, heart = Time(), Heartbeat()

    async def scene(_: HealthServer, session: aiohttp.ClientSession) -> None:
        assert await asked(session, "/healthz") == (
            200, "[+]loop ok: at rest: this process does not lead\nhealthz check passed\n",
        )  # fmt: skip
        heart.beat(clock.at)
        clock.at += 0.4
        assert await asked(session, "/healthz") == (200, "[+]loop ok: went round 0.4 s ago\nhealthz check passed\n")
        clock.at += 100.0
        assert await asked(session, "/healthz?verbose") == (
            500,
            "[-]loop failed: has not gone round for 100 s, expected every 60 s at most\nhealthz check failed\n",
        )
        heart.beat(clock.at)
        assert (await asked(session, "/livez"))[0] == 200

    serve(scene, live=[loop_check(heart, clock)])


def test_watches_have_to_have_listed_and_to_live() -> None:
    ages: dict[str, float] = {"rlscalers": 3.0}
    leads = [False]

    async def scene(_: HealthServer, session: aiohttp.ClientSession) -> None:
        assert await asked(session, "/readyz") == (
            500,
            "[+]watch-rlscalers ok: was heard of 3.0 s ago\n"
            "[-]watch-deployments failed: has not listed yet\n"
            "[+]leadership ok: follower\n"
            "readyz check failed\n",
        )
        ages["deployments"] = 0.0
        status, text = await asked(session, "/readyz")
        assert status == 200, "a follower is ready"
        leads[0] = True
        assert "[+]leadership ok: leader\n" in (await asked(session, "/readyz"))[1]
        ages["rlscalers"] = 121.0
        status, text = await asked(session, "/readyz")
        assert status == 500
        assert "[-]watch-rlscalers failed: was last heard of 121 s ago, expected within 120 s\n" in text

    checks = watch_checks(lambda: ages, ["rlscalers", "deployments"])
    serve(scene, ready=[*checks, role_check(lambda: leads[0])])


def test_a_check_that_fails_itself_is_a_failed_check() -> None:
    def look() -> Finding:
        raise KeyError("oops")

    async def scene(_: HealthServer, session: aiohttp.ClientSession) -> None:
        status, text = await asked(session, "/readyz")
        assert status == 500
        assert "[-]broken failed: the check itself failed: KeyError" in text

    serve(scene, ready=[Check("broken", look)])


@pytest.mark.parametrize("accept", ["", "text/plain", "application/openmetrics-text; version=1.0.0"])
def test_metrics_come_in_the_form_that_is_asked_for(accept: str) -> None:
    registry = CollectorRegistry()
    Gauge("rlscaler_test_number", "A number.", registry=registry).set(7)

    async def scene(_: HealthServer, session: aiohttp.ClientSession) -> None:
        async with session.get("/metrics", headers={"Accept": accept}) as answer:
            kind, text = answer.headers["Content-Type"], await answer.text()
        assert "rlscaler_test_number 7.0\n" in text
        assert kind.startswith(
            "application/openmetrics-text" if "openmetrics" in accept else "text/plain; version=0.0.4"
        )
        if "openmetrics" in accept:
            found = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
            assert [family.name for family in found] == ["rlscaler_test_number"]

    serve(scene, registry=registry)


class Held(Collector):
    """Metrics that take until they are let go."""

    def __init__(self) -> None:
        self.asked, self.free = threading.Event(), threading.Event()

    def collect(self) -> Iterable[Metric]:
        self.asked.set()
        assert self.free.wait(30.0)
        yield GaugeMetricFamily("rlscaler_test_number", "A number.", value=7.0)


def test_a_page_of_metrics_that_takes_long_holds_up_nothing_else() -> None:
    """Neither the loop nor, where the common threads are all held by something else, the page itself."""
    registry, held = CollectorRegistry(), Held()
    registry.register(held)

    async def scene(_: HealthServer, session: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, held.free.wait, 30.0)
        page = asyncio.create_task(asked(session, "/metrics"))
        while not held.asked.is_set():
            await asyncio.sleep(0.0)
        assert (await asked(session, "/healthz"))[0] == 200
        assert not page.done()
        held.free.set()
        status, text = await page
        assert status == 200
        assert "rlscaler_test_number 7.0" in text
        await busy

    serve(scene, registry=registry)


def test_nothing_else_is_served() -> None:
    async def scene(_: HealthServer, session: aiohttp.ClientSession) -> None:
        assert (await asked(session, "/"))[0] == 404
        async with session.post("/metrics") as answer:
            assert answer.status == 405

    serve(scene)


def test_it_stops_soon_with_connections_open_and_starts_again() -> None:
    async def run() -> None:
        server = HealthServer("127.0.0.1:0", CollectorRegistry(), [], [])
        await server.start()
        _, idle = await asyncio.open_connection("127.0.0.1", server.port)
        reader, half = await asyncio.open_connection("127.0.0.1", server.port)
        half.write(b"GET /healthz HTTP/1.1\r\n")
        await half.drain()
        began = time.monotonic()
        await server.stop()
        assert time.monotonic() - began < 2.0, "aiohttp's own grace is 60 s"
        assert await reader.read() == b""
        for writer in (idle, half):
            writer.close()
        again = HealthServer(f"127.0.0.1:{server.port}", CollectorRegistry(), [], [])
        await again.start()
        assert again.port == server.port
        await again.stop()

    asyncio.run(run())


def test_a_taken_port_is_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"cannot listen at {address}: .*in use.*; choose another"):
            asyncio.run(HealthServer(address, CollectorRegistry(), [], []).start())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":8080", ("", 8080)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parsed_address(text) == address


@pytest.mark.parametrize("text", ["8080", "host", "host:", "host:x", "host:70000", "::1:80", ":-1"])
def test_what_is_no_address_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="expected one such as :8080"):
        parsed_address(text)
