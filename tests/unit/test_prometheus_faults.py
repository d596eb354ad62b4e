"""What becomes of a source's faults, against a loopback server that has them. (A real Prometheus: tests/cluster.)"""

import json
import math
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from asking_prometheus import CHUNKED, GONE, ONE, asking, fault
from faulty_prometheus import (
    Answer,
    FaultyPrometheus,
    Talk,
    failure,
    flood,
    raw,
    reply,
    success,
)
from rlscaler.prometheus import SourceError
from rlscaler.prometheus_session import SMALL


@pytest.fixture
def server() -> Iterator[FaultyPrometheus]:
    with FaultyPrometheus() as server:
        yield server


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
    "value is a number of Python": [{"metric": {}, "value": [1.5, "1_000"]}],
    "no time": [{"metric": {}, "value": ["2"]}],
    "time without end": [{"metric": {}, "value": [math.inf, "2"]}],
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
    "value is a number of Python": (success([{"metric": {}, "values": [[100, "1_000"]]}], "matrix"), "BadAnswer"),
    "time without end": (success([{"metric": {}, "values": [[math.inf, "1"]]}], "matrix"), "BadAnswer"),
    "two series of the same labels": (success([{"metric": {}, "values": [[100, "1"]]}] * 2, "matrix"), "BadAnswer"),
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


def _of_nothing(count: int) -> bytes:
    """Return JSON whose lists take twenty times its bytes of memory."""
    return b'{"status": "success", "data": {"resultType": "vector", "result": [' + b"[]," * count + b"[]]}}"


def test_what_would_fill_the_memory_is_not_read_as_json(server: FaultyPrometheus) -> None:
    many = [{"metric": {"a": str(i)}, "value": [1.5, "2"]} for i in range(1000)]
    with asking(server.url, memory=2**20) as source:
        server.answer = reply(_of_nothing(20_000), kind="application/json")
        error = fault(source)
        server.answer = reply(success(many))
        assert len(source.instant("up")) == 1000
    assert error.reason == "TooLarge"
    assert "sends what takes more than 1048576 bytes of memory; make the query return fewer series" in error.message


@pytest.mark.parametrize("memory", [None, 2**27])
def test_no_answer_is_kept_when_it_has_been_read(server: FaultyPrometheus, memory: int | None) -> None:
    """A source has eight threads, each of which would hold the largest that anybody's query ever returned."""
    series = [{"metric": {"a": "x" * 1000}, "value": [1.5, "2"]}] * 4000
    server.answer = reply(success(series))
    with asking(server.url, memory=memory) as source:
        tracemalloc.start()
        try:
            assert len(source.instant("up")) == 4000
            assert tracemalloc.get_traced_memory()[0] < 2**20
        finally:
            tracemalloc.stop()


def test_large_answers_are_read_one_at_a_time_and_small_ones_beside_them(server: FaultyPrometheus) -> None:
    large = json.dumps(success([ONE])).encode() + b" " * (SMALL // 2)
    begun, done = threading.Event(), threading.Event()

    def half(talk: Talk) -> None:
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(large) + large[:-1])
        begun.set()
        done.wait()
        talk.send(large[-1:])

    def answer(talk: Talk) -> None:
        query = talk.request.parameters["query"]
        half(talk) if query == "half" else reply(success([ONE]) if query == "small" else large)(talk)

    server.answer = answer
    with asking(server.url, timeout=60.0, memory=2**27) as source, ThreadPoolExecutor(1) as thread:
        under_way = thread.submit(source.instant, "half")
        begun.wait()
        while not source._session._large.locked():
            source.instant("small")
        error = fault(source, "large", deadline=0.2)
        assert len(source.instant("small")) == 1
        done.set()
        assert under_way.result() == source.instant("large")
    assert error.reason == "Timeout"


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
