"""Decisions over gRPC: the messages, the same proposals, and what is refused, over a real connection on loopback.

Ray Serve's proxy hands the messages to the same method; it listens at every address, so no test starts it.
"""

import asyncio
import pickle
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from google.protobuf import descriptor_pb2

import served_artifacts
from asked_rows import cut, rows, views
from rlscaler import served
from rlscaler.artifact import dumps
from rlscaler.cli import root
from rlscaler.observation import SCHEMA
from rlscaler.policies import from_artifact
from rlscaler.served import FEATURES, NUMBERS, Answers
from rlscaler_training import serving_grpc
from rlscaler_training.serving import Offer, Question
from rlscaler_training.serving_http import Limits
from rlscaler_training.serving_server import Server

PROTO = Path(serving_grpc.__file__).with_name("decisions.proto").read_text()
OLD = served_artifacts.network()
WAIT = 60.0


class There(NamedTuple):
    """A server of policies, and the port at which it listens for gRPC."""

    server: Server
    port: int

    def ask(self, question: Any) -> Any:
        """Return the answer; raises grpc.RpcError."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            call = channel.unary_unary(
                serving_grpc.FULL,
                request_serializer=serving_grpc.Question.SerializeToString,
                response_deserializer=serving_grpc.Answer.FromString,
            )
            return call(question, timeout=WAIT)

    def refused(self, question: Any) -> tuple[str, str]:
        """Return the status and the sentence of an answer that is none."""
        with pytest.raises(grpc.RpcError) as caught:
            self.ask(question)
        error: Any = caught.value
        return error.code().name, error.details()


class Servicer:
    """Hands questions to a server as a replica does."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def Decide(self, question: Any, context: Any) -> Any:  # noqa: N802 - as gRPC calls it
        return await self._server.decide(question, context)


@pytest.fixture
def there() -> Iterator[There]:
    server = Server([Offer("web", dumps(OLD), alone=False)], Limits(rows=4096, queue=3, bytes=3_000_000))
    ready, found = threading.Event(), []
    loop, over = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        listening = grpc.aio.server()
        serving_grpc.add_to_server(Servicer(server), listening)
        found.append(listening.add_insecure_port("127.0.0.1:0"))
        await listening.start()
        ready.set()
        await over.wait()
        await listening.stop(None)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(WAIT)
        yield There(server, found[0])
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(WAIT)
        loop.close()


def test_the_messages_are_those_of_the_file_for_other_languages() -> None:
    """Names, types, numbers and the one call, as decisions.proto has them."""
    text = re.sub(r"//.*", "", PROTO)
    assert f"package {serving_grpc.PACKAGE};" in text
    for name, fields in serving_grpc.FIELDS.items():
        (body,) = re.findall(rf"message {name} {{(.*?)}}", text, re.DOTALL)
        found = re.findall(r"((?:repeated )?\w+) (\w+) = (\d+);", body)
        assert found == [(kind, field, str(at)) for at, (field, kind) in enumerate(fields.items(), start=1)]
    assert len(re.findall(r"\bmessage\b", text)) == len(serving_grpc.FIELDS)
    (service,) = re.findall(r"service (\w+) {\s*rpc (\w+)\((\w+)\) returns \((\w+)\);\s*}", text)
    assert service == (serving_grpc.SERVICE, serving_grpc.METHOD, "Question", "Answer")
    described = descriptor_pb2.FileDescriptorProto()
    serving_grpc.Question.DESCRIPTOR.file.CopyToProto(described)
    assert [each.name for each in described.message_type] == ["Question", "Answer"]


def test_a_question_travels_to_a_replica() -> None:
    """Ray Serve pickles it on the way."""
    question = serving_grpc.asking(rows(5), "web", "sha256:1")
    assert pickle.loads(pickle.dumps(question)) == question


def test_answers_are_those_of_here_to_the_bit(there: There) -> None:
    with np.errstate(invalid="ignore"):
        expected = served.answers_of(from_artifact(OLD).propose(views(3000), {})[0])
    asked = rows(3000)
    for begin, end in ((0, 3000), (7, 8), (100, 1234)):
        found = there.ask(serving_grpc.asking(cut(asked, begin, end), "web", OLD.digest))
        assert (found.policy, found.digest, found.schema) == ("web", OLD.digest, SCHEMA)
        for name in ("replicas", "patience", "trained"):
            np.testing.assert_array_equal(np.array(getattr(found, name)), getattr(expected.part(begin, end), name))
    assert there.server.tally().requests["web", 200] == 3


def wrong(**fields: Any) -> Any:
    question = serving_grpc.asking(rows(3))
    for name, value in fields.items():
        setattr(question, name, value)
    return question


def negative() -> Any:
    asked = rows(3)
    asked.numbers[1, NUMBERS.index("demand")] = -5.0
    return serving_grpc.asking(asked)


ROW = 4 * len(FEATURES)
REFUSED = {
    "policy": (wrong(policy="no"), "NOT_FOUND", "policy 'no' is not served; expected web"),
    "digest": (wrong(digest="sha256:0"), "NOT_FOUND", "digest 'sha256:0' is not served"),
    "schema": (wrong(schema="9"), "INVALID_ARGUMENT", "schema is '9'; expected '1'"),
    "shape": (wrong(features=b"abc"), "INVALID_ARGUMENT", f"features has 3 bytes; expected rows of {ROW}: 87 columns"),
    "rows": (wrong(features=b"0" * ROW), "INVALID_ARGUMENT", "features has 1 rows and numbers 3"),
    "none": (wrong(features=b"", numbers=b""), "INVALID_ARGUMENT", "there are no rows"),
    "number": (negative(), "INVALID_ARGUMENT", "numbers.demand of row 1 is -5; expected 0 or more"),
    "many rows": (serving_grpc.asking(rows(4097)), "INVALID_ARGUMENT", "there are 4097 rows; expected at most 4096"),
    "bytes": (wrong(numbers=b"0" * 3_000_001), "INVALID_ARGUMENT", "expected at most 3000000: ask in several requests"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_with_a_sentence(there: There, name: str) -> None:
    question, status, sentence = REFUSED[name]
    code, told = there.refused(question)
    assert code == status
    assert sentence in told
    assert there.ask(serving_grpc.asking(rows(2))).policy == "web"


def test_a_full_queue_is_told_at_once_and_a_failed_pass_is_internal(
    there: There, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    entered, go = threading.Semaphore(0), threading.Event()
    batcher = there.server._batcher
    answer = batcher._answer

    def slow(questions: Sequence[Question]) -> Sequence[Answers]:
        entered.release()
        assert go.wait(WAIT)
        return answer(questions)

    monkeypatch.setattr(batcher, "_answer", slow)
    question = serving_grpc.asking(rows(2))
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(there.ask, question) for _ in range(3)]
        try:
            assert entered.acquire(timeout=WAIT)
            code = told = ""
            while code != "RESOURCE_EXHAUSTED":  # until all three are in
                code, told = there.refused(wrong(features=b"abc"))
            assert "questions wait already" in told
        finally:
            go.set()
        assert [each.result(WAIT).policy for each in waiting] == ["web"] * 3

    def broken(questions: Sequence[Question]) -> Sequence[Answers]:
        raise MemoryError("secret detail")

    monkeypatch.setattr(batcher, "_answer", broken)
    code, told = there.refused(question)
    assert (code, "secret" in told) == ("INTERNAL", False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--grpc-port", "9000"], "--host 127.0.0.1: Ray Serve listens for gRPC at every address of the machine"),
        (["--address", "127.0.0.1:1", "--port", "0"], "--port 0 is given with --address"),
    ],
)
def test_mistakes_of_the_command_take_one_line(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(root, ["serve", *arguments])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert sentence in result.output
