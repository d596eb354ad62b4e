"""What becomes of a source's faults, against a loopback server that has them. (A real Prometheus: tests/cluster.)"""

import base64
import html
import json
import logging
import math
import os
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faulty_prometheus import (
    Answer,
    FaultyPrometheus,
    Talk,
    drip,
    failure,
    flood,
    hang,
    raw,
    reply,
    success,
)
from rlscaler.prometheus import Source, SourceConfig, SourceError

SLACK = 5.0
"""Seconds beyond its deadline that a call may take here; without a deadline these calls never end."""
ONE = {"metric": {"a": "b"}, "value": [1.5, "2"]}


@pytest.fixture
def server() -> Iterator[FaultyPrometheus]:
    with FaultyPrometheus() as server:
        yield server


@contextmanager
def asking(url: str, **config: Any) -> Iterator[Source]:
    source = Source(SourceConfig(name="shop", url=url, **config))
    try:
        yield source
    finally:
        source.close()


def fault(source: Source, query: str = "up", **options: Any) -> SourceError:
    """Return the error of a query, whose text names the source and is one line of bounded length."""
    with pytest.raises(SourceError) as caught:
        source.instant(query, **options)
    error = caught.value
    assert str(error) == error.message
    assert error.message.startswith("source shop")
    assert "\n" not in error.message
    assert len(error.message) < 600
    assert error.__context__ is None or error.__suppress_context__, "a traceback would show the client's own words"
    return error


GONE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PAGE = "<!DOCTYPE html><html><body>Please log in</body></html>"

FAULTS: dict[str, tuple[Answer, str, str]] = {
    "401": (reply("no", 401), "Unauthorized", "answers 401 Unauthorized: it asks who is there; set bearerTokenFile"),
    "403": (reply("no", 403), "Unauthorized", "answers 403 Forbidden"),
    "429": (reply("slow down", 429), "Overloaded", "takes no more queries now (429 Too Many Requests: slow down)"),
    "429 of Mimir": (reply(failure("too_many_requests", "rate limit"), 429), "Overloaded", "rate limit"),
    "500": (reply(failure("internal", "disk on fire"), 500), "ServerError", "failed (500 Internal Server Error: disk"),
    "502": (reply(PAGE, 502), "ServerError", "failed (502 Bad Gateway"),
    "503": (reply("Service Unavailable", 503), "Overloaded", "is overloaded, starting or stopping (503"),
    "503 of a slow query": (reply(failure("timeout", "query timed out"), 503), "Timeout", "gave up on the query"),
    "504": (reply("", 504), "Timeout", "gave up on the query (504 Gateway Timeout)"),
    "parse error": (
        reply(failure("bad_data", "invalid parameter \"query\": 1:5: parse error: unexpected end of input"), 400),
        "BadQuery", "refuses the query: invalid parameter \"query\": 1:5: parse error: unexpected end of input",
    ),
    "execution error": (reply(failure("execution", "many-to-many"), 422), "BadQuery", "refuses the query: many-to-m"),
    "too many samples": (
        reply(failure("execution", "query processing would load too many samples into memory"), 422),
        "TooLarge", "finds the query too large: query processing would load",
    ),
    "error with 200": (reply(failure("bad_data", "no")), "BadQuery", "refuses the query: no"),
    "internal error with 200": (reply(failure("internal", "no")), "ServerError", "failed (200 OK: no)"),
    "404": (reply("nothing here", 404), "BadAnswer", "has no Prometheus API there (404 Not Found); is the path"),
    "plain 400": (
        reply("Client sent an HTTP request to an HTTPS server.", 400),
        "BadAnswer", "speaks TLS; write https:// in url",
    ),
    "400 with a page": (reply(PAGE, 400), "BadAnswer", "answers 400 Bad Request: a web page"),
    "status without a name": (reply("no", 599), "ServerError", "failed (599: no)"),
    "redirect": (
        reply("", 302, headers={"Location": "https://u:p@sso.example/login?state=secret"}),
        "BadAnswer", "redirects to https://sso.example/login; write that in url",
    ),
    "redirect to nowhere": (reply("", 302), "BadAnswer", "redirects to nowhere"),
    "web page": (reply(PAGE, kind="text/html"), "BadAnswer", "answers a web page; does url lead to a log-in page"),
    "nothing": (reply(""), "BadAnswer", "answers nothing"),
    "no JSON": (reply("{'status': 1}"), "BadAnswer", "answers something that is no JSON"),
    "JSON cut short": (reply('{"status":"success","data":{"resu'), "BadAnswer", "no JSON, or cut short"),
    "not UTF-8": (reply(b"\xff\xfe\xfd"), "BadAnswer", "no JSON"),
    "JSON without end": (reply("[" * 100_000), "BadAnswer", "no JSON"),
    "JSON of another kind": (reply([1, 2]), "BadAnswer", "answers JSON that is no query result"),
    "JSON null": (reply("null"), "BadAnswer", "answers something that is no JSON"),
    "no data": (reply({"status": "success"}), "BadAnswer", "answers JSON that is no query result"),
    "no result": (reply({"status": "success", "data": {}}), "BadAnswer", "answers JSON that is no query result"),
    "range of values": (reply(success([], "matrix")), "BadQuery", "returns a range of values ([5m]); put rate()"),
    "text": (reply(success([1.5, "x"], "string")), "BadQuery", "returns text; expected one that returns numbers"),
    "unknown kind": (reply(success([], "surprise")), "BadAnswer", "JSON that is no query result"),
    "native histograms": (
        reply(success([{"metric": {}, "histogram": [1.5, {"count": "3"}]}])),
        "BadQuery", "returns native histograms; put histogram_quantile()",
    ),
    "incomplete": (
        reply(success([ONE], warnings=["store 10.0.0.7 does not answer"])),
        "BadAnswer", "calls its answer incomplete (store 10.0.0.7 does not answer); set acceptPartial: true",
    ),
    "incomplete by VictoriaMetrics": (reply(success([ONE], isPartial=True)), "BadAnswer", "incomplete (isPartial)"),
    "body cut short": (raw(GONE + b'{"status"'), "BadAnswer", "broke off in the middle of its answer"),
    "chunks cut short": (raw(CHUNKED + b"5\r\n{\"sta\r\n"), "BadAnswer", "broke off in the middle of its answer"),
    "chunks of no length": (raw(CHUNKED + b"zz\r\n{}\r\n"), "BadAnswer", "broke off in the middle"),
    "no gzip": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"),
        "BadAnswer", "cannot be unpacked",
    ),
    "other protocol": (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "BadAnswer", "does not speak HTTP as expected"),
    "closed": (raw(b""), "Unreachable", "closed the connection without an answer"),
    "half a header": (raw(b"HTTP/1.1 200 OK\r\nContent-Le"), "BadAnswer", "answers nothing"),
    "endless header": (flood(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), "BadAnswer", "does not speak HTTP as expected"),
    "endless body": (flood(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 4096), "TooLarge", "sends more than 1048576 bytes"),
    "endless error": (flood(b"HTTP/1.1 500 No\r\n\r\n", b"no " * 999), "ServerError", "failed (500 Internal Server Er"),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "reason", "said"), FAULTS.values(), ids=FAULTS)
def test_a_fault_has_a_reason_and_a_sentence(server: FaultyPrometheus, answer: Answer, reason: str, said: str) -> None:
    server.answer = answer
    with asking(server.url, timeout=20.0, max_bytes=2**20) as source:
        error = fault(source)
        assert error.reason == reason, error.message
        assert said in error.message
        server.answer = reply(success([ONE]))
        assert source.instant("up") == [({"a": "b"}, 2.0, 1.5)], "the next call is not hurt"


RESULTS: dict[str, Any] = {
    "no list": {"a": 1},
    "series is text": ["x"],
    "no labels": [{"value": [1.5, "2"]}],
    "labels are a list": [{"metric": [], "value": [1.5, "2"]}],
    "label is a number": [{"metric": {"a": 1}, "value": [1.5, "2"]}],
    "value is a number": [{"metric": {}, "value": [1.5, 2]}],
    "value is no number": [{"metric": {}, "value": [1.5, "many"]}],
    "no time": [{"metric": {}, "value": ["2"]}],
    "time is text": [{"metric": {}, "value": ["1.5", "2"]}],
    "time is true": [{"metric": {}, "value": [True, "2"]}],
    "time is huge": [{"metric": {}, "value": [10**400, "2"]}],
    "scalar": [1.5, "2"],
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_a_result_of_another_form_is_refused(server: FaultyPrometheus, result: Any) -> None:
    server.answer = reply(success([ONE, *result] if isinstance(result, list) else result))
    with asking(server.url) as source:
        error = fault(source)
    assert error.reason == "BadAnswer"
    assert "JSON that is no query result" in error.message


MATRICES: dict[str, tuple[Any, str]] = {
    "vector": (success([ONE]), "BadAnswer"),
    "off the grid": (success([{"metric": {}, "values": [[101.0, "1"]]}], "matrix"), "BadAnswer"),
    "before the grid": (success([{"metric": {}, "values": [[85.0, "1"]]}], "matrix"), "BadAnswer"),
    "behind the grid": (success([{"metric": {}, "values": [[145.0, "1"]]}], "matrix"), "BadAnswer"),
    "twice": (success([{"metric": {}, "values": [[100, "1"], [100, "2"]]}], "matrix"), "BadAnswer"),
    "backwards": (success([{"metric": {}, "values": [[115, "1"], [100, "2"]]}], "matrix"), "BadAnswer"),
    "value is a number": (success([{"metric": {}, "values": [[100, 1]]}], "matrix"), "BadAnswer"),
    "no values": (success([{"metric": {}, "values": []}], "matrix"), "BadAnswer"),
    "histograms": (success([{"metric": {}, "histograms": [[100, {}]]}], "matrix"), "BadQuery"),
}


@pytest.mark.parametrize(("answer", "reason"), MATRICES.values(), ids=MATRICES)
def test_a_range_of_another_form_is_refused(server: FaultyPrometheus, answer: Any, reason: str) -> None:
    server.answer = reply(answer)
    with asking(server.url) as source, pytest.raises(SourceError) as caught:
        source.range("up", 100.0, 130.0, 15.0)
    assert caught.value.reason == reason


def test_a_range_is_asked_for_exactly(server: FaultyPrometheus) -> None:
    server.answer = reply(success([{"metric": {"a": "b"}, "values": [[100.25, "1"], [101.25, "NaN"]]}], "matrix"))
    with asking(server.url) as source:
        found = source.range("up", 100.25, 102.1, 0.5)
    (request,) = server.requests
    assert request.path == "/api/v1/query_range"
    assert {name: request.parameters[name] for name in ("query", "start", "end", "step")} == {
        "query": "up", "start": "100.250", "end": "101.750", "step": "0.500",
    }  # fmt: skip
    np.testing.assert_array_equal(found.times, [100.25, 100.75, 101.25, 101.75])
    np.testing.assert_array_equal(found.values, [[1.0, math.nan, math.nan, math.nan]])
    assert found.labels == ({"a": "b"},)


@pytest.mark.parametrize(
    "grid", [(2.0, 1.0, 1.0), (0.0, 1.0, 0.0), (0.0, 1.0, -1.0), (math.nan, 1.0, 1.0), (0.0, math.inf, 1.0)]
)
def test_no_grid_is_a_mistake_of_the_program(server: FaultyPrometheus, grid: tuple[float, float, float]) -> None:
    with asking(server.url) as source, pytest.raises(ValueError, match="no grid"):
        source.range("up", *grid)
    assert server.requests == []


def test_a_table_that_would_fill_the_memory_is_refused(server: FaultyPrometheus) -> None:
    series = [{"metric": {"pod": str(i)}, "values": [[0.0, "1"]]} for i in range(1000)]
    server.answer = reply(success(series, "matrix"))
    with asking(server.url, max_bytes=2**20) as source, pytest.raises(SourceError) as caught:
        source.range("up", 0.0, 10_999.0, 1.0)  # 88 MB for 1,000 values
    assert caught.value.reason == "TooLarge"


def test_too_many_series_are_refused(server: FaultyPrometheus) -> None:
    server.answer = reply(success([{"metric": {"a": str(i)}, "value": [1.5, "2"]} for i in range(6)]))
    with asking(server.url, max_series=5) as source:
        error = fault(source)
    assert error.reason == "TooLarge"
    assert "finds more than 5 series; sum them up in the query, or raise maxSeries" in error.message
    assert server.requests[0].parameters["limit"] == "6"


def test_an_incomplete_answer_is_taken_where_it_is_wanted(server: FaultyPrometheus) -> None:
    server.answer = reply(success([ONE], warnings=["store is gone"], isPartial=True))
    with asking(server.url, accept_partial=True) as source:
        found = source.instant("up")
    assert found == [({"a": "b"}, 2.0, 1.5)]
    assert found.notes == ("store is gone",)


def test_remarks_on_the_query_are_kept(server: FaultyPrometheus) -> None:
    remark = "PromQL warning: bucket label le is missing"
    server.answer = reply(success([], warnings=[remark], infos=["PromQL info: metric might not be a counter"]))
    with asking(server.url) as source:
        found = source.instant("up")
    assert found == []
    assert found.notes == (remark, "PromQL info: metric might not be a counter")


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


def test_redirects_are_not_followed_with_credentials(server: FaultyPrometheus, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("geheim-geheim-geheim")
    with FaultyPrometheus(reply(success([ONE]))) as other:
        for status in (301, 302, 303, 307, 308):
            server.answer = reply("", status, headers={"Location": f"{other.url}/api/v1/query"})
            with asking(server.url, bearer_token_file=str(token)) as source:
                assert fault(source).reason == "BadAnswer"
        assert other.requests == []


def test_a_token_is_read_again_when_it_changes(server: FaultyPrometheus, tmp_path: Path) -> None:
    token, key = tmp_path / "token", tmp_path / "key"
    token.write_text("first\n")
    key.write_text("one")
    with asking(server.url, bearer_token_file=str(token), header_files={"X-Key": str(key)}) as source:
        source.instant("up")
        stat = token.stat()
        token.write_text("other\n")
        os.utime(token, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a copy that keeps the times
        source.instant("up")
        beside = tmp_path / "beside"
        beside.write_text("third")
        beside.replace(token)
        key.write_text("two")
        source.instant("up")
    seen = [(request.headers["authorization"], request.headers["x-key"]) for request in server.requests]
    assert seen == [("Bearer first", "one"), ("Bearer other", "one"), ("Bearer third", "two")]


def test_a_token_behind_a_swapped_link_is_read_again(server: FaultyPrometheus, tmp_path: Path) -> None:
    """The kubelet swaps a link to a folder (..data) when it rotates the token of a service account."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(f"token-{name}")
    data = tmp_path / "..data"
    data.symlink_to("a")
    with asking(server.url, bearer_token_file=str(data / "token")) as source:
        source.instant("up")
        (tmp_path / "..data_tmp").symlink_to("b")
        (tmp_path / "..data_tmp").replace(data)
        source.instant("up")
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer token-a", "Bearer token-b"]


def test_basic_and_plain_headers_are_sent(server: FaultyPrometheus, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pä:ss\n")
    config = {"username": "ü", "password_file": str(tmp_path / "password"), "headers": {"X-Scope-OrgID": "shop"}}
    with asking(server.url, **config) as source:
        source.instant("up")
    (request,) = server.requests
    assert base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode() == "ü:pä:ss"
    assert request.headers["x-scope-orgid"] == "shop"


UNUSABLE: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "No such file or directory"),
    "empty": (b" \n", "it is empty; expected one line of text"),
    "two lines": (b"geheim\ngeheim", "it holds a line break or another control character"),
    "bytes": (b"geheim\xff", "it holds bytes that are no UTF-8 text"),
    "large": (b"geheim" * 20_000, "it is larger than 65536 bytes"),
}


@pytest.mark.parametrize(("content", "said"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_token_that_cannot_be_used_is_told(
    server: FaultyPrometheus, tmp_path: Path, content: bytes | None, said: str
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    with asking(server.url, bearer_token_file=str(token)) as source:
        error = fault(source)
        assert error.reason == "Unauthorized"
        assert f"bearerTokenFile {token} cannot be used: {said}" in error.message
        assert "geheim" not in error.message
        assert server.requests == []
        token.write_text("good")
        source.instant("up")


def test_a_refused_token_is_named_by_its_file(server: FaultyPrometheus, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("geheim")
    server.answer = reply("", 401)
    with asking(server.url, bearer_token_file=str(tmp_path / "token")) as source:
        error = fault(source)
    assert f"it does not accept bearerTokenFile {tmp_path / 'token'}; is what stands there right" in error.message


SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=5, max_size=57).map("zq7".__add__)
"""Of which none is a word that our own messages use."""
SECRET_FAULTS = ["error", "page", "redirect", "warning", "isolated", "reason", "broken", "label kind", "late", "401"]
FORMS = ["plain", "quoted", "json", "html", "upper", "part", "base64"]


class Kept(logging.Handler):
    """Keeps the text of all log records."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


@settings(
    max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    secret=SECRETS,
    where=st.sampled_from(["token", "password", "header file", "header"]),
    how=st.sampled_from(SECRET_FAULTS),
    form=st.sampled_from(FORMS),
    before=st.integers(0, 320),
)
def test_no_fault_tells_a_secret(
    server: FaultyPrometheus, tmp_path: Path, secret: str, where: str, how: str, form: str, before: int
) -> None:
    """The server repeats what it was sent, in every place and form; no message, repr, traceback or log does."""
    if where == "header" and len(secret) < 12:
        secret = secret * 2  # what stands in the configuration itself is a secret only where it is long
    (tmp_path / "secret").write_text(secret)
    path = str(tmp_path / "secret")
    kinds: dict[str, dict[str, Any]] = {
        "token": {"bearer_token_file": path},
        "password": {"username": "u", "password_file": path},
        "header file": {"header_files": {"X-Key": path}},
        "header": {"headers": {"X-Key": secret}},
    }
    sent = {
        "plain": secret,
        "quoted": quote(secret, safe=""),
        "json": json.dumps(secret),
        "html": html.escape(secret),
        "upper": secret.upper(),
        "part": secret[: max(12, len(secret) - 3)],
        "base64": base64.b64encode(f"u:{secret}".encode()).decode() if where == "password" else secret,
    }[form]
    text = "x" * before + sent
    server.answer = {
        "error": reply(failure("bad_data", text), 400),
        "page": reply(f"<html>{text}</html>", 502),
        "redirect": reply("", 302, headers={"Location": f"http://h/{quote(text)}"}),
        "warning": reply(success([], warnings=[text])),
        "isolated": reply(text),
        "reason": raw(f"HTTP/1.1 500 {text}\r\n\r\n".encode()),
        "broken": raw(f"{text}\r\n".encode()),
        "label kind": reply(success([], text)),
        "late": drip(f"HTTP/1.1 200 {text}\r\n\r\n".encode()),
        "401": reply(failure("unauthorized", text), 401),
    }[how]
    kept = Kept()
    root = logging.getLogger()
    level = root.level
    root.addHandler(kept)
    root.setLevel(logging.DEBUG)
    try:
        with asking(server.url, **kinds[where]) as source:
            try:
                source.instant("up", deadline=0.1 if how == "late" else 20.0)
            except SourceError as error:
                logging.getLogger("caller").exception("it failed: %r", error)
                kept.texts += [repr(source), repr(source.config), "".join(traceback.format_exception(error))]
    finally:
        root.removeHandler(kept)
        root.setLevel(level)
    for told in (secret, sent):
        assert all(told.casefold() not in line.casefold() for line in kept.texts), kept.texts


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
