"""A target for a real Prometheus to scrape, whose metrics a test sets."""

import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

Labels = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Sample:
    """A value that grows by `per_second` since `at`, seconds of the monotonic clock."""

    value: float
    per_second: float
    at: float

    def now(self, at: float) -> float:
        return self.value + self.per_second * (at - self.at)


class _Server(ThreadingHTTPServer):
    """Answers each scrape in a thread. One that ends before its answer, as its Prometheus was killed, is no fault."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of a fault on the standard error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Exporter:
    """A loopback HTTP server in a thread. `broken`: answers scrapes with 500, so that the target counts as down."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Serve on a free port at once; there are no metrics yet."""
        self.broken = False
        self._monotonic = monotonic
        self._samples: dict[str, dict[Labels, _Sample]] = {}
        self._lock = threading.Lock()
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = exporter.text().encode()
                self.send_response(500 if exporter.broken else 200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """host:port, as a scrape target is written."""
        return f"127.0.0.1:{self._server.server_port}"

    def set(self, name: str, value: float, **labels: str) -> None:
        """Give a series a value; it keeps it until it is set again."""
        with self._lock:
            self._series(name)[_key(labels)] = _Sample(value, 0.0, self._monotonic())

    def rate(self, name: str, per_second: float, **labels: str) -> None:
        """Let a counter grow by wall time from now on; it starts at 0 and keeps what it has counted."""
        with self._lock:
            now, series, key = self._monotonic(), self._series(name), _key(labels)
            counted = series[key].now(now) if key in series else 0.0
            series[key] = _Sample(counted, per_second, now)

    def remove(self, name: str, **labels: str) -> None:
        """Take a series away."""
        with self._lock:
            del self._series(name)[_key(labels)]

    def clear(self) -> None:
        """Take all series away."""
        with self._lock:
            self._samples.clear()

    def text(self) -> str:
        """Return the metrics in Prometheus' text format."""
        with self._lock:
            now = self._monotonic()
            lines = [
                f"{name}{_braces(labels)} {_number(sample.now(now))}"
                for name, series in self._samples.items()
                for labels, sample in series.items()
            ]
        return "\n".join([*lines, ""])

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        """Return the exporter."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the server."""
        self.close()

    def _series(self, name: str) -> dict[Labels, _Sample]:
        return self._samples.setdefault(name, {})


def _key(labels: dict[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    escaped = [(name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels]
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"


def _number(value: float) -> str:
    """Return a float as Prometheus reads it."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
