"""Stands between an operator and the real API server, and shows the faults that the latter cannot be made to show."""

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp
from aiohttp import web
from yarl import URL

T = TypeVar("T")

FAREWELL = 10.0
"""Seconds at most until the connections to the server are closed."""
_OF_ONE_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


class Asked(NamedTuple):
    """A request. at: monotonic seconds at which it came."""

    at: float
    method: str
    path: str
    query: Mapping[str, str]

    @property
    def watches(self) -> bool:
        """Whether it asks for a watch."""
        return self.query.get("watch") == "true"

    def writes(self, name: str, what: str = "scale") -> bool:
        """Tell whether it changes a subresource of an object of this name."""
        return self.method in ("PATCH", "PUT") and self.path.endswith(f"/{name}/{what}")


@dataclass(frozen=True, slots=True)
class Fault:
    """What becomes of a request.

    status: answered in place of the API server, which never hears of it; retry_after: seconds, in that answer. before:
    seconds until it is passed on, whoever has given up by then. after: seconds for which the answer is held. lost: the
    connection is broken in place of the answer.
    """

    status: int = 0
    retry_after: int | None = None
    before: float = 0.0
    after: float = 0.0
    lost: bool = False


class ApiProxy:
    """A plain HTTP server on the loopback interface before an API server; a context manager.

    fault: what becomes of each request, None where it simply passes; a test sets it at any time. asked: all requests
    with their faults, in the order in which they came.
    """

    def __init__(self, server: str, ca: Path) -> None:
        """Take the API server's address (https://host:port), and what its certificate is checked against."""
        self.fault: Callable[[Asked], Fault | None] = lambda asked: None
        self.asked: list[tuple[Asked, Fault | None]] = []
        self._server, self._ca = server, ca
        self._streams: set[asyncio.Future[bytes]] = set()
        self._sockets: list[socket.socket] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-proxy")
        self._port = 0

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        """Serve."""
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Break every connection, and end."""
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def end_watches(self) -> int:
        """Let every open watch end, as an API server does that is busy; return how many there were."""
        return self._do(self._end_watches(b""))

    def expire_watches(self) -> int:
        """Let every open watch say that its place in history is gone (410), and end; return how many there were."""
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "too old resource version",
                  "reason": "Expired", "code": 410}  # fmt: skip
        return self._do(self._end_watches(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"))

    def count(self, wanted: Callable[[Asked], bool]) -> int:
        """Return how many requests there were of a sort."""
        return sum(wanted(asked) for asked, _ in list(self.asked))

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30.0)

    async def _start(self) -> None:
        context = ssl.create_default_context(cafile=self._ca)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=context, socket_factory=self._socket),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=["Content-Type", "User-Agent", "Accept-Encoding"],
        )
        self._runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._end_watches(b"")
        await self._runner.cleanup()
        if self._session.connector is not None:
            await self._session.connector.close(abort_ssl=True)
        await self._session.close()
        async with asyncio.timeout(FAREWELL):
            while any(each.fileno() >= 0 for each in self._sockets):  # TLS closes its sockets later, and tells nobody
                await asyncio.sleep(0.01)

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        self._sockets.append(made)
        return made

    async def _end_watches(self, last: bytes) -> int:
        streams = [stream for stream in self._streams if not stream.done()]
        for stream in streams:
            stream.set_result(last)
        return len(streams)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = Asked(time.monotonic(), request.method, request.path, dict(request.query))
        body = await request.read()
        fault = self.fault(asked)
        self.asked.append((asked, fault))
        fault = fault or Fault()
        await asyncio.sleep(fault.before)
        if fault.status:
            answer: web.StreamResponse = _refusal(fault)
        elif asked.watches:
            return await self._stream(request)
        else:
            answer = await self._passed(request, body)
        await asyncio.sleep(fault.after)
        if fault.lost and request.transport is not None:
            request.transport.abort()
        return answer

    async def _passed(self, request: web.BaseRequest, body: bytes) -> web.Response:
        try:
            async with self._session.request(
                request.method, self._to(request), headers=_passing(request.headers), data=body or None
            ) as found:
                return web.Response(status=found.status, headers=_passing(found.headers), body=await found.read())
        except (aiohttp.ClientError, OSError):
            return web.Response(status=502, text="bad gateway")

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        """Pass a watch on until either side ends it, or a test does."""
        end: asyncio.Future[bytes] = self._loop.create_future()
        try:
            async with self._session.get(self._to(request), headers=_passing(request.headers)) as found:
                answer = web.StreamResponse(status=found.status, headers=_passing(found.headers))
                await answer.prepare(request)
                self._streams.add(end)
                copy = asyncio.create_task(_copied(found, answer))
                await asyncio.wait((copy, end), return_when=asyncio.FIRST_COMPLETED)
                copy.cancel()
                with contextlib.suppress(asyncio.CancelledError, aiohttp.ClientError, OSError):
                    await copy
                with contextlib.suppress(OSError):
                    await answer.write(end.result() if end.done() else b"")
                    await answer.write_eof()
                return answer
        except (aiohttp.ClientError, OSError):
            return web.Response(status=502, text="bad gateway")
        finally:
            self._streams.discard(end)

    def _to(self, request: web.BaseRequest) -> URL:
        return URL(self._server + request.raw_path, encoded=True)


async def _copied(found: aiohttp.ClientResponse, answer: web.StreamResponse) -> None:
    async for chunk in found.content.iter_any():
        await answer.write(chunk)


def _passing(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _OF_ONE_HOP}


def _refusal(fault: Fault) -> web.Response:
    reasons = {409: "Conflict", 410: "Expired", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable"}
    details = {} if fault.retry_after is None else {"retryAfterSeconds": fault.retry_after}
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": f"injected {fault.status}",
              "reason": reasons.get(fault.status, ""), "details": details, "code": fault.status}  # fmt: skip
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return web.json_response(status, status=fault.status, headers=headers)
