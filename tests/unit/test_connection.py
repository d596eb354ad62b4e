"""The wire to the API server, against a server that misbehaves as no real one can be made to."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml
from kubernetes.config import incluster_config

from rlscaler.errors import UserError
from rlscaler_operator.api_errors import ClusterError, Right
from rlscaler_operator.connection import MERGE_PATCH, Connection

RIGHT = Right("get", "", "things", "ns")
Script = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers by the script of its server."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        assert isinstance(self.server, Server)
        self.server.seen.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
        self.server.script(self)

    def do_PATCH(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base has it
        pass

    def say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Listens on a free port of the loopback interface."""

    daemon_threads = True
    script: Script
    seen: list[tuple[str, str, dict[str, str], bytes]]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def kubeconfig(path: Path, port: int, user: dict[str, Any]) -> Path:
    config = {
        "current-context": "a",
        "contexts": [{"name": name, "context": {"cluster": name, "user": "u"}} for name in ("a", "b")],
        "clusters": [
            {"name": "a", "cluster": {"server": f"http://127.0.0.1:{port}"}},
            {"name": "b", "cluster": {"server": f"http://127.0.0.1:{port}/b"}},
        ],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def connection(server: Server, tmp_path: Path) -> Iterator[Connection]:
    file = kubeconfig(tmp_path / "config", server.server_port, {"token": "secret"})
    connection = Connection.open(str(file), None, 5.0)
    yield connection
    connection.close()


def failure(connection: Connection, timeout: float | None = None) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        connection.request("GET", "/things", "read things", RIGHT, timeout=timeout)
    return caught.value


def test_plain_objects_go_out_and_come_in(server: Server, connection: Connection) -> None:
    server.script = lambda handler: handler.say(200, b'{"a": [1, null]}')
    answer = connection.request("PATCH", "/things/1", "change thing 1", RIGHT, {"b": None}, MERGE_PATCH)
    assert answer == {"a": [1, None]}
    method, path, headers, body = server.seen[0]
    assert (method, path, json.loads(body)) == ("PATCH", "/things/1", {"b": None})
    assert headers["Content-Type"] == MERGE_PATCH
    assert headers["User-Agent"] == "rlscaler"
    assert headers["authorization"] == "Bearer secret"


def test_a_request_that_failed_is_not_repeated(server: Server, connection: Connection) -> None:
    server.script = lambda handler: handler.say(503, b"", Retry_After="1")
    error = failure(connection)
    assert (error.reason, error.retry_after) == ("Unavailable", 1.0)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("name", "script", "reason"),
    [
        ("html", lambda handler: handler.say(200, b"<html>"), "Unavailable"),
        ("nothing", lambda handler: handler.say(200, b""), "Unavailable"),
        ("not utf-8", lambda handler: handler.say(200, b"\xff\xfe\x00"), "Unavailable"),
        ("hang-up", lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "Unavailable"),
        ("half an answer", lambda handler: half(handler), "Unavailable"),
        ("rubbish", lambda handler: handler.connection.sendall(b"\0\0\0\r\n\r\n"), "Unavailable"),
        ("no answer", lambda handler: handler.rfile.read(1), "Timeout"),
    ],
)
def test_every_fault_of_the_wire_is_one_type(
    server: Server, connection: Connection, name: str, script: Script, reason: str
) -> None:
    server.script = script
    began = time.monotonic()
    error = failure(connection, timeout=0.3)
    assert error.reason == reason, error.message
    assert error.message.startswith("cannot read things: ")
    assert "\n" not in error.message
    assert time.monotonic() - began < 3.0


def test_the_time_for_a_connection_is_part_of_the_time_that_is_stated(
    server: Server, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write has to end before the lease that it was begun under."""
    server.script = lambda handler: handler.say(200, b"{}")
    given: list[urllib3.Timeout] = []
    send = urllib3.PoolManager.request

    def seen(pool: urllib3.PoolManager, *arguments: Any, timeout: urllib3.Timeout, **more: Any) -> Any:
        given.append(timeout.clone())
        return send(pool, *arguments, timeout=timeout, **more)

    monkeypatch.setattr(urllib3.PoolManager, "request", seen)
    connection.request("GET", "/things", "read things", RIGHT, timeout=2.0)
    (timeout,) = given
    assert timeout.connect_timeout == 2.0
    at = timeout.start_connect()
    monkeypatch.setattr("urllib3.util.timeout.time.monotonic", lambda: at + 1.5)
    assert timeout.read_timeout == pytest.approx(0.5), "what a connection that took 1.5 s leaves"


def half(handler: Handler) -> None:
    handler.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    handler.connection.shutdown(socket.SHUT_RDWR)


def test_nobody_there_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket() as freed:
        freed.bind(("127.0.0.1", 0))
        port = freed.getsockname()[1]
    connection = Connection.open(str(kubeconfig(tmp_path / "config", port, {})), None, 5.0)
    error = failure(connection)
    connection.close()
    assert error.reason == "Unavailable"
    assert "refused" in error.message


def test_a_token_that_was_refused_is_read_again_and_not_too_often(server: Server, tmp_path: Path) -> None:
    now = [100.0]
    (tmp_path / "token").write_text("old")
    file = kubeconfig(tmp_path / "config", server.server_port, {"tokenFile": str(tmp_path / "token")})
    connection = Connection.open(str(file), None, 5.0, lambda: now[0])

    def check(handler: Handler) -> None:
        fine = handler.headers["authorization"] == "Bearer new"
        handler.say(200 if fine else 401, b"{}")

    server.script = check
    now[0] += 11.0
    assert failure(connection).reason == "Unauthorized"
    assert len(server.seen) == 2
    (tmp_path / "token").write_text("new")
    now[0] += 5.0
    assert failure(connection).reason == "Unauthorized"
    assert len(server.seen) == 3
    now[0] += 6.0
    assert connection.request("GET", "/things", "read things", RIGHT) == {}
    connection.close()


@pytest.mark.parametrize(("took", "asked"), [(0.5, ["2000ms", "1500ms"]), (2.0, ["2000ms"])])
def test_a_second_try_has_what_the_first_left_of_the_time_that_is_stated(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, took: float, asked: list[str]
) -> None:
    """A write has to end before the lease that it was begun under, on the API server's side too."""
    now = [100.0]
    file = kubeconfig(tmp_path / "config", server.server_port, {})
    connection = Connection.open(str(file), None, 5.0, lambda: now[0])
    given: list[Any] = []
    send = urllib3.PoolManager.request

    def seen(pool: urllib3.PoolManager, *arguments: Any, timeout: urllib3.Timeout, **more: Any) -> Any:
        given.append(timeout.total)
        return send(pool, *arguments, timeout=timeout, **more)

    def refuse(handler: Handler) -> None:
        now[0] += took
        handler.say(401, b"{}")

    monkeypatch.setattr(urllib3.PoolManager, "request", seen)
    server.script = refuse
    now[0] += 11.0
    with pytest.raises(ClusterError, match="cannot resize it: "):
        connection.request("PATCH", "/things?a=b", "resize it", RIGHT, {}, timeout=2.0)
    connection.close()
    assert [path for _, path, *_ in server.seen] == [f"/things?a=b&timeout={each}" for each in asked]
    assert [f"{each * 1000.0:.0f}ms" for each in given] == asked


def test_a_context_can_be_named(server: Server, tmp_path: Path) -> None:
    server.script = lambda handler: handler.say(200, b"{}")
    file = kubeconfig(tmp_path / "config", server.server_port, {})
    connection = Connection.open(str(file), "b", 5.0)
    connection.request("GET", "/things", "read things", RIGHT)
    connection.close()
    assert server.seen[0][1] == "/b/things"


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a home without a kubeconfig, outside of any cluster."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    return tmp_path


def test_the_variable_and_the_home_are_looked_into(
    server: Server, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = lambda handler: handler.say(200, b"{}")
    (outside / ".kube").mkdir()
    kubeconfig(outside / ".kube" / "config", server.server_port, {"token": "home"})
    other = kubeconfig(outside / "other", server.server_port, {"token": "variable"})
    for variable, token in (("", "home"), (f"{outside / 'missing'}{os.pathsep}{other}", "variable")):
        monkeypatch.setenv("KUBECONFIG", variable)
        connection = Connection.open(None, None, 5.0)
        connection.request("GET", "/things", "read things", RIGHT)
        connection.close()
        assert server.seen[-1][2]["authorization"] == f"Bearer {token}"


def test_without_any_configuration_it_is_said_what_to_do(outside: Path) -> None:
    with pytest.raises(UserError, match=r"no kubeconfig at .*/\.kube/config; outside of a cluster, .*--kubeconfig"):
        Connection.open(None, None, 5.0)
    with pytest.raises(UserError, match=r"no kubeconfig at /no/such/file$"):
        Connection.open("/no/such/file", None, 5.0)


@pytest.mark.parametrize("text", ["", "a: [", "[]", "5", "users: []", "current-context: x\nclusters: 5\n", "\0"])
def test_a_broken_kubeconfig_is_a_users_mistake(outside: Path, text: str) -> None:
    file = outside / "config"
    file.write_text(text)
    with pytest.raises(UserError, match=f"kubeconfig {file} cannot be used: "):
        Connection.open(str(file), None, 5.0)


def test_a_context_that_is_not_there_is_named(outside: Path) -> None:
    file = kubeconfig(outside / "config", 1, {})
    with pytest.raises(UserError, match="context 'c' cannot be used: "):
        Connection.open(str(file), "c", 5.0)


def test_a_pod_without_its_token_is_told(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(outside / "missing"))
    with pytest.raises(UserError, match="service account cannot be used"):
        Connection.open(None, None, 5.0)
