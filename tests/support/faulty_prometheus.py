"""A loopback server with the faults that a real Prometheus cannot be made to show.

What it answers is a function `(talk) -> None`; those below are the faults that several tests need.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit


class Request(NamedTuple):
    """What was asked. path: without the query. parameters: of the query or of the body, the last of each name.

    body: as it came.
    """

    method: str
    path: str
    parameters: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""


class Talk(NamedTuple):
    """One request and the connection that it came on. over: set when the server ends."""

    request: Request
    connection: socket.socket
    over: threading.Event

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.connection.sendall(data)


Answer = Callable[[Talk], None]


class FaultyPrometheus:
    """A server whose `answer` a test sets, at any time. requests: all that were read so far."""

    def __init__(self, answer: Answer | None = None) -> None:
        """Serve at once."""
        self.answer: Answer = answer or reply(success([]))
        self.requests: list[Request] = []
        self.connections = 0
        self._over = threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """End it, whatever it is answering."""
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            _shut(connection)
        self._thread.join()

    def __enter__(self) -> Self:
        """Return the server."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it."""
        self.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:  # the other side may go
            while request := _read(stream):
                self.requests.append(request)
                self.answer(Talk(request, connection, self._over))
        self._open.discard(connection)


def success(result: Any, kind: str = "vector", **more: Any) -> dict[str, Any]:
    """Return the JSON of a result."""
    return {"status": "success", "data": {"resultType": kind, "result": result}, **more}


def failure(kind: str, text: str) -> dict[str, Any]:
    """Return the JSON of an error."""
    return {"status": "error", "errorType": kind, "error": text}


def reply(body: Any, status: int = 200, *, headers: Mapping[str, str] | None = None, kind: str = "") -> Answer:
    """Answer with a body: bytes, text, or what becomes JSON. kind: its media type."""

    def answer(talk: Talk) -> None:
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        media = kind or ("application/json" if not isinstance(body, (bytes, str)) else "text/plain")
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {media}", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        talk.send(("\r\n".join(lines) + "\r\n\r\n").encode() + data)

    return answer


def raw(data: bytes, *, close: bool = True) -> Answer:
    """Answer with bytes as they are, and close the connection."""

    def answer(talk: Talk) -> None:
        talk.send(data)
        if close:
            _shut(talk.connection)

    return answer


def hang(talk: Talk) -> None:
    """Never answer."""
    talk.over.wait()


def drip(head: bytes, each: bytes = b" ", every: float = 0.02) -> Answer:
    """Send the head, and then a little now and then for ever, so that no single read lasts long."""

    def answer(talk: Talk) -> None:
        talk.send(head)
        while not talk.over.wait(every):
            talk.send(each)

    return answer


def flood(head: bytes, each: bytes) -> Answer:
    """Send the head, and then as much as the other side takes, for ever."""

    def answer(talk: Talk) -> None:
        talk.send(head)
        while not talk.over.is_set():
            talk.send(each)

    return answer


def _read(stream: Any) -> Request | None:
    """Return the next request of a connection, None at its end."""
    first = stream.readline().decode("latin-1").split()
    if len(first) != 3:
        return None
    headers = {}
    while line := stream.readline().decode("latin-1").rstrip("\r\n"):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    body = stream.read(int(headers.get("content-length", 0)))
    parts = urlsplit(first[1])
    form = body.decode() if "urlencoded" in headers.get("content-type", "") else ""
    parameters = {name: values[-1] for name, values in parse_qs(form or parts.query, keep_blank_values=True).items()}
    return Request(first[0], parts.path, parameters, headers, body)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was first
        connection.shutdown(socket.SHUT_RDWR)
