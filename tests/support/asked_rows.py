"""Views of many workloads that may be anywhere an observation can be, and a server of policies on loopback."""

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import uvicorn
from starlette.requests import Request

from rlscaler import served
from rlscaler.features import AHEAD
from rlscaler.observation import LOAD_FIELDS
from rlscaler.policy import View
from rlscaler.served import Rows
from rlscaler_training.serving_server import Server

STARTED = 60.0


def views(n: int, seed: int = 0) -> View:
    """Return a view of n workloads: features within and beyond their bounds, and some of them unknown."""
    rng = np.random.default_rng(seed)

    def some(values: np.ndarray, share: float = 0.05) -> np.ndarray:
        return np.where(rng.random(n) < share, np.nan, values)

    features: dict[str, np.ndarray] = {}
    for field in LOAD_FIELDS:
        if not field.name.startswith("ahead_"):
            low, high = max(field.low, -5.0), min(field.high, 6.0)
            features[field.name] = some(rng.uniform(low - 0.5, high + 0.5, n), 0.01).astype(np.float32)
    features["ahead"] = rng.normal(0.0, 1.0, (n, AHEAD)).astype(np.float32)
    features["trend_cheap"] = rng.uniform(-0.5, 1.5, n).astype(np.float32)
    demand = np.exp(rng.uniform(-2.0, 6.0, n))
    features["level"] = (demand * rng.uniform(0.8, 1.2, n)).astype(np.float32)
    current = np.ceil(demand * rng.uniform(0.5, 2.0, n))
    least = rng.integers(0, 5, n).astype(float)
    settings = {
        "capacity_per_replica": rng.uniform(1.0, 500.0, n), "interval": np.full(n, 15.0), "lag": np.full(n, 15.0),
        "startup": rng.uniform(5.0, 300.0, n), "price": rng.uniform(0.2, 100.0, n), "latency": np.full(n, 0.5),
        "min_replicas": least, "max_replicas": least + rng.integers(1, 1000, n),
    }  # fmt: skip
    snapshot = {
        "ready": some(np.floor(current * rng.uniform(0.3, 1.0, n))), "starting": some(np.floor(current * 0.1)),
        "backlog": some(rng.exponential(50.0, n), 0.5), "utilization": some(rng.random(n), 0.5),
        "latency": some(rng.exponential(0.5, n), 0.5),
    }  # fmt: skip
    return View(xp=np, settings=settings, snapshot=snapshot, features=features, demand=demand, current=current)


def rows(n: int, seed: int = 0) -> Rows:
    """Return what has to be asked for `views`."""
    return served.rows_of(views(n, seed))


def cut(of: Rows, begin: int, end: int) -> Rows:
    """Return some of the rows."""
    return Rows(of.features[begin:end], of.numbers[begin:end])


class Got(NamedTuple):
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Serving(NamedTuple):
    """A server on loopback."""

    server: Server
    port: int

    def ask(self, path: str, body: bytes | None = None, kind: str = served.CONTENT_TYPE, method: str = "") -> Got:
        """Return the answer to one request."""
        return asked(self.port, path, body, kind, method)


def asked(port: int, path: str, body: bytes | None = None, kind: str = served.CONTENT_TYPE, method: str = "") -> Got:
    """Return the answer of a server on loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=STARTED)
    try:
        headers = {} if body is None else {"Content-Type": kind}
        connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        response = connection.getresponse()
        return Got(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Serving]:
    """Serve on a free port of loopback until the block ends."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (await server(Request(scope, receive)))(scope, receive, send)

    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none")
    runner = uvicorn.Server(config)
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    until = time.monotonic() + STARTED
    while not runner.started and time.monotonic() < until:
        thread.join(0.01)
    assert runner.started
    try:
        yield Serving(server, int(runner.servers[0].sockets[0].getsockname()[1]))
    finally:
        runner.should_exit = True
        thread.join()
