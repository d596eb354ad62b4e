"""How long a source waits for its server, how it reaches it, and how connections are shared and kept."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from asking_prometheus import CHUNKED, GONE, ONE, asking, fault
from faulty_prometheus import (
    Answer,
    FaultyPrometheus,
    Talk,
    drip,
    hang,
    raw,
    reply,
    success,
)
from rlscaler.prometheus import SourceError

SLACK = 5.0
"""Seconds beyond its deadline that a call may take here; without a deadline these calls never end."""


@pytest.fixture
def server() -> Iterator[FaultyPrometheus]:
    with FaultyPrometheus() as server:
        yield server


SLOW: dict[str, Answer] = {
    "nothing comes": hang,
    "the status line drips": drip(b"HTTP/1.1 20", b"0"),
    "the header drips": drip(b"HTTP/1.1 200 OK\r\n", b"X"),
    "the headers drip": drip(b"HTTP/1.1 200 OK\r\nX-A: b\r\n", b"x"),
    "continue drips": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the body drips": drip(GONE),
    "the chunks drip": drip(CHUNKED, b"1\r\n \r\n"),
    "the error drips": drip(b"HTTP/1.1 500 No\r\n\r\n"),
    "half an answer": raw(GONE + b"{", close=False),
}


@pytest.mark.parametrize("answer", SLOW.values(), ids=SLOW)
def test_a_slow_server_holds_a_call_no_longer_than_its_deadline(server: FaultyPrometheus, answer: Answer) -> None:
    def answered(talk: Talk) -> None:
        answer(talk)
        talk.over.wait()

    server.answer = answered
    with asking(server.url, timeout=60.0) as source:
        began = time.monotonic()
        error = fault(source, deadline=0.3)
        assert time.monotonic() - began < 0.3 + SLACK
        assert error.reason == "Timeout"
        assert error.message.endswith("gave no whole answer within 0.3 s; make the query cheaper")
        server.answer = reply(success([ONE]))
        assert source.instant("up") == [({"a": "b"}, 2.0, 1.5)], "the connection is not used again"


def test_a_time_out_of_the_configuration_is_named_as_what_can_be_raised(server: FaultyPrometheus) -> None:
    server.answer = hang
    with asking(server.url, timeout=0.3) as source:
        for deadline in (None, 0.29):  # some of the time may have gone by
            message = fault(source, deadline=deadline).message
            assert message.endswith("gave no whole answer within 0.3 s; raise its timeout, or make the query cheaper")


def test_a_range_has_one_deadline_for_all_its_parts(server: FaultyPrometheus) -> None:
    def slow(talk: Talk) -> None:
        talk.over.wait(0.2)
        reply(success([], "matrix"))(talk)

    server.answer = slow
    with asking(server.url) as source, pytest.raises(SourceError) as caught:
        source.range("up", 0.0, 1e6, 1.0, deadline=0.5)
    assert caught.value.reason == "Timeout"
    assert len(server.requests) <= 3


def test_a_server_that_does_not_accept_is_given_up() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(8)]
        try:
            for each in waiting:  # until the queue is full, and what comes then is dropped
                each.setblocking(False)
                each.connect_ex(("127.0.0.1", port))
            with asking(f"http://127.0.0.1:{port}") as source:
                began = time.monotonic()
                assert fault(source, deadline=0.3).reason == "Timeout"
                assert time.monotonic() - began < 0.3 + SLACK
        finally:
            for each in waiting:
                each.close()


def test_a_handshake_that_drips_is_given_up(server: FaultyPrometheus) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"\x16\x03\x03\x40\x00")  # a TLS record of 16 KiB
                while not over.wait(0.02):
                    connection.sendall(b"\x02")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with asking(f"https://127.0.0.1:{listener.getsockname()[1]}") as source:
                began = time.monotonic()
                assert fault(source, deadline=0.3).reason == "Timeout"
                assert time.monotonic() - began < 0.3 + SLACK
        finally:
            over.set()
            thread.join()


def test_a_name_server_that_hangs_is_given_up(server: FaultyPrometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    over, looked_up = threading.Event(), []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *more: Any) -> Any:
        if host != "prometheus.shop":
            return real(host, port, *more)
        if socket.AI_NUMERICHOST in more:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        looked_up.append(host)
        over.wait()
        return real("127.0.0.1", port, *more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    server.answer = reply(success([ONE]))
    try:
        with asking(f"http://prometheus.shop:{server.port}") as source:
            began = time.monotonic()
            for _ in range(3):
                assert fault(source, deadline=0.1).reason == "Timeout"
            assert time.monotonic() - began < 0.3 + SLACK
            assert len(looked_up) == 1, "no thread is added while one is waiting"
            over.set()
            assert source.instant("up", deadline=20.0) == [({"a": "b"}, 2.0, 1.5)]
    finally:
        over.set()


def test_an_unknown_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*arguments: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with asking("http://prometheus.shop:9090") as source:
        error = fault(source)
    assert error.reason == "Unreachable"
    assert "has a host name that is not known" in error.message


def test_the_next_address_of_a_name_is_tried(server: FaultyPrometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    real = socket.getaddrinfo

    def getaddrinfo(host: str, number: int, *more: Any) -> Any:
        if socket.AI_NUMERICHOST in more:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        return real("127.0.0.1", port, *more) + real("127.0.0.1", number, *more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    server.answer = reply(success([ONE]))
    with asking(f"http://prometheus.shop:{server.port}") as source:
        assert len(source.instant("up")) == 1


def test_a_port_that_nobody_listens_on_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with asking(f"http://127.0.0.1:{port}") as source:
        error = fault(source)
    assert error.reason == "Unreachable"
    assert f"(http://127.0.0.1:{port}) refuses the connection" in error.message


def test_no_time_left_is_late_at_once(server: FaultyPrometheus) -> None:
    with asking(server.url) as source:
        assert fault(source, deadline=0.0).reason == "Timeout"
    assert server.requests == []


def test_half_a_character_is_no_query(server: FaultyPrometheus) -> None:
    with asking(server.url) as source:
        assert fault(source, "\ud800").reason == "BadQuery"


def test_the_server_is_told_the_deadline(server: FaultyPrometheus) -> None:
    with asking(server.url, timeout=2.5) as source:
        source.instant("up")
        source.instant("up", deadline=0.75)
    assert [request.parameters["timeout"] for request in server.requests] == ["2.500", "0.750"]


def test_a_short_query_is_a_get_and_a_long_one_a_post(server: FaultyPrometheus) -> None:
    long = " + ".join(["up{a='ä&=%'}"] * 300)
    with asking(f"{server.url}/base", query_parameters={"dedup": "true"}) as source:
        source.instant("up{a='ä&=%'}")
        source.instant(long)
    first, second = server.requests
    assert (first.method, second.method) == ("GET", "POST")
    assert first.path == second.path == "/base/api/v1/query"
    assert (first.parameters["query"], second.parameters["query"]) == ("up{a='ä&=%'}", long)
    assert first.parameters["dedup"] == second.parameters["dedup"] == "true"


def test_connections_are_kept(server: FaultyPrometheus) -> None:
    with asking(server.url) as source:
        for _ in range(10):
            source.instant("up")
    assert server.connections == 1


def test_a_kept_connection_that_the_server_closed_is_no_fault(server: FaultyPrometheus) -> None:
    server.answer = reply(success([ONE]))
    with asking(server.url) as source:
        source.instant("up")
        answers = iter([raw(b""), reply(success([ONE]))])
        server.answer = lambda talk: next(answers)(talk)
        assert len(source.instant("up")) == 1


def test_threads_share_a_source(server: FaultyPrometheus) -> None:
    def echo(talk: Talk) -> None:
        reply(success([{"metric": {"q": talk.request.parameters["query"]}, "value": [1.0, "1"]}]))(talk)

    server.answer = echo
    wrong: list[str] = []
    with asking(server.url, timeout=30.0) as source:

        def ask(number: int) -> None:
            for i in range(50):
                query = f"up{{n='{number}-{i}'}}"
                found = source.instant(query)
                if [one.labels["q"] for one in found] != [query]:
                    wrong.append(query)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(server.requests) == 300
    assert server.connections <= 6


def test_a_fault_of_one_thread_is_not_the_other_threads(server: FaultyPrometheus) -> None:
    def some(talk: Talk) -> None:
        (hang if talk.request.parameters["query"] == "slow" else reply(success([ONE])))(talk)

    server.answer = some
    with asking(server.url, timeout=20.0) as source:
        errors: list[SourceError] = []
        slow = threading.Thread(target=lambda: errors.append(fault(source, "slow", deadline=0.5)))
        slow.start()
        for _ in range(50):
            assert len(source.instant("up")) == 1
        slow.join()
    assert [error.reason for error in errors] == ["Timeout"]


def test_a_proxy_from_the_environment_is_used(server: FaultyPrometheus, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = reply(success([ONE]))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    with asking("http://prometheus.shop:9090") as source:
        assert len(source.instant("up")) == 1
    assert server.requests[0].headers["host"] == "prometheus.shop:9090"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FaultyPrometheus(reply(success([ONE]))) as direct, asking(direct.url) as source:
        assert len(source.instant("up")) == 1
        assert len(direct.requests) == 1
