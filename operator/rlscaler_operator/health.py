"""Serves /metrics, /healthz and /readyz.

/healthz fails when a restart would help: the loop hangs. /readyz fails while the process could not do its work if it
had to: a watch has not listed yet, or the API server is out of reach. A follower is ready: it waits and watches. Both
answer with all that was checked, one line each, as kube-apiserver does with ?verbose.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from rlscaler.errors import UserError
from rlscaler_operator.clock import Clock
from rlscaler_operator.heartbeat import Heartbeat

GRACE: Final = 0.2
"""Seconds that open requests have when the server stops."""


class Finding(NamedTuple):
    """What a check found; says: one line."""

    fine: bool
    says: str


class Check(NamedTuple):
    """One thing that is checked. look: returns at once."""

    name: str
    look: Callable[[], Finding]


def loop_check(heartbeat: Heartbeat, clock: Clock, name: str = "loop") -> Check:
    """Return the check of a loop by its heartbeat."""

    def look() -> Finding:
        now = clock.monotonic()
        age = heartbeat.age(now)
        if math.isnan(age):
            return Finding(True, "at rest: this process does not lead")
        if heartbeat.hangs(now):
            return Finding(False, f"has not gone round for {age:.0f} s, expected every {heartbeat.limit:.0f} s at most")
        return Finding(True, f"went round {age:.1f} s ago")

    return Check(name, look)


def watch_checks(ages: Callable[[], Mapping[str, float]], names: Sequence[str], limit: float = 120.0) -> list[Check]:
    """Return the checks of watches that have to have listed, and to have been heard of within `limit` seconds.

    ages: seconds since each was last heard of; one that has not listed yet is left out, or NaN.
    """

    def check(name: str) -> Check:
        def look() -> Finding:
            age = ages().get(name, math.nan)
            if math.isnan(age):
                return Finding(False, "has not listed yet")
            if age > limit:
                return Finding(False, f"was last heard of {age:.0f} s ago, expected within {limit:.0f} s")
            return Finding(True, f"was heard of {age:.1f} s ago")

        return Check(f"watch-{name}", look)

    return [check(name) for name in names]


def role_check(leads: Callable[[], bool]) -> Check:
    """Return a line that says whether this process leads; both are fine."""
    return Check("leadership", lambda: Finding(True, "leader" if leads() else "follower"))


def parsed_address(text: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT, :PORT or [IPv6]:PORT; host "" is every address.

    Raises UserError for anything else.
    """
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal() or int(port) > 65535 or (":" in bare and host == bare):
        raise UserError(f"{text!r} is no address to listen at; expected one such as :8080, 127.0.0.1:8080 or [::]:8080")
    return bare, int(port)


class HealthServer:
    """The server. port: the one that it listens at, once it is started."""

    def __init__(
        self, address: str, registry: CollectorRegistry, live: Sequence[Check], ready: Sequence[Check]
    ) -> None:
        """Take where to listen (HOST:PORT; port 0 takes a free one), the metrics, and what is checked."""
        self._host, self.port = parsed_address(address)
        self._address, self._registry = address, registry
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        for name, checks in (("healthz", live), ("livez", live), ("readyz", ready)):
            app.router.add_get(f"/{name}", _page(name, checks))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE, handle_signals=False)

    async def start(self) -> None:
        """Listen. Raises UserError where the address cannot be had."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host or None, self.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise UserError(f"cannot listen at {self._address}: {error.strerror or error}; choose another") from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close every connection, for good."""
        await self._runner.cleanup()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        # Thousands of workloads take a good part of a second, in which the loop must not stand; and in a thread of its
        # own, so that the operator is heard of even while an API server that hangs holds all the others.
        body = await asyncio.get_running_loop().run_in_executor(self._thread, encode, self._registry)
        return web.Response(body=body, headers={"Content-Type": kind})


def _page(name: str, checks: Sequence[Check]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def page(request: web.Request) -> web.Response:
        found = [(check.name, _looked(check)) for check in checks]
        lines = [f"[{'+' if fine else '-'}]{what} {'ok' if fine else 'failed'}: {says}" for what, (fine, says) in found]
        good = all(finding.fine for _, finding in found)
        lines.append(f"{name} check {'passed' if good else 'failed'}")
        return web.Response(text="\n".join(lines) + "\n", status=200 if good else 500)

    return page


def _looked(check: Check) -> Finding:
    try:
        return check.look()
    except Exception as error:
        return Finding(False, f"the check itself failed: {type(error).__name__}: {error}")
