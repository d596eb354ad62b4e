"""Decisions for callers elsewhere: the same as here, in any batch, over real HTTP, bounded, swapped without a gap."""

import asyncio
import json
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import served_artifacts
from asked_rows import Got, Serving, cut, rows, serving, views
from rlscaler import served
from rlscaler.artifact import Artifact, dumps, save
from rlscaler.cli import root
from rlscaler.errors import UserError
from rlscaler.policies import artifact_path, from_artifact, load_policy
from rlscaler.policy import Policy
from rlscaler.served import CONTENT_TYPE, FEATURES, NUMBERS, PATH, Answers, Rows
from rlscaler_training import ray_cluster, serving_cluster
from rlscaler_training import serving as offers
from rlscaler_training.serving import Offer, Question, Shelf
from rlscaler_training.serving_http import JSON, Limits
from rlscaler_training.serving_server import Server

WAIT = 60.0
MANY = 100_000
SMALL = {
    "table": served_artifacts.table(),
    "step": served_artifacts.network(actions="step"),
    "headroom": served_artifacts.network(),
    "correction": served_artifacts.network(output="correction", activation="tanh"),
    "two branches": served_artifacts.network(actions="branching", activation="relu"),
    "branching": served_artifacts.branching(),
}
OLD, NEW = served_artifacts.network(), served_artifacts.network(output="correction")


def offer(artifact: Artifact, name: str = "web") -> Offer:
    return Offer(name, dumps(artifact), alone=False)


def local(policy: Policy, n: int, seed: int = 0) -> Answers:
    with np.errstate(invalid="ignore"):
        return served.answers_of(policy.propose(views(n, seed), {})[0])


def assert_same(found: Answers, expected: Answers) -> None:
    for name in ("replicas", "patience", "trained"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


def joined(parts: Sequence[Answers]) -> Answers:
    return Answers(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("replicas", "patience", "trained")))


def chunks(n: int, most: int, seed: int = 1) -> Iterator[tuple[int, int]]:
    rng, begin = np.random.default_rng(seed), 0
    while begin < n:
        end = min(n, begin + int(rng.integers(1, most)))
        yield begin, end
        begin = end


# The same proposals


def test_a_hundred_thousand_observations_are_answered_as_here_in_any_batch() -> None:
    shelved = offers.shelved(offers.offered(offers.wanted("learned", None)))
    asked = rows(MANY)
    passes: list[list[Question]] = [[]]
    for begin, end in chunks(MANY, 700):
        wired = served.asked(served.question(cut(asked, begin, end)), 10**7)
        passes[-1].append(Question(shelved, wired))
        if len(passes[-1]) == len(passes):
            passes.append([])
    found = [answers for each in passes for answers in offers.answer_all(each)]
    expected = local(load_policy("learned"), MANY)
    assert np.isfinite(expected.replicas).all()
    assert len(np.unique(expected.replicas)) > MANY / 2
    assert_same(joined(found), expected)


@pytest.mark.parametrize("name", SMALL)
def test_every_kind_of_policy_is_answered_as_here(name: str) -> None:
    shelf = Shelf([offer(SMALL[name])])
    asked = rows(3000, seed=4)
    found = [offers.answer_all([Question(shelf.get(), cut(asked, a, b))])[0] for a, b in chunks(3000, 200)]
    assert_same(joined(found), local(from_artifact(SMALL[name]), 3000, seed=4))


@pytest.mark.parametrize("name", ["two branches", "branching", "table"])
def test_torch_answers_alike_in_any_batch_and_as_numpy_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "CPU", "numpy")  # so that torch's own CPU stands in for a GPU
    monkeypatch.setattr(offers, "CUDA", "cpu")
    policy = offers.shelved(offer(SMALL[name]), "cpu").policy
    n = 2000
    asked = rows(n, seed=5)
    whole = offers.answer(policy, asked, "cpu")
    assert_same(joined([offers.answer(policy, cut(asked, a, b), "cpu") for a, b in chunks(n, 400)]), whole)
    expected = local(from_artifact(SMALL[name]), n, seed=5)
    np.testing.assert_array_equal(whole.trained, expected.trained)
    assert np.isclose(whole.replicas, expected.replicas, rtol=1e-9, equal_nan=True).mean() > 0.999


def test_two_policies_in_one_pass_are_kept_apart() -> None:
    shelf = Shelf([offer(OLD, "old"), offer(NEW, "new")])
    asked = rows(100)
    questions = [Question(shelf.get(name), cut(asked, i, i + 10)) for i, name in enumerate(["old", "new"] * 20)]
    expected = {name: local(from_artifact(each), 100) for name, each in (("old", OLD), ("new", NEW))}
    for i, (question, answers) in enumerate(zip(questions, offers.answer_all(questions), strict=True)):
        assert_same(answers, expected[question.shelved.name].part(i, i + 10))


# Over HTTP


@pytest.fixture(scope="module")
def http() -> Iterator[Serving]:
    with serving(Server([offer(OLD), offer(NEW, "new")], Limits(rows=2000, bytes=2_000_000))) as server:
        yield server


def test_callers_at_once_are_answered_as_here(http: Serving) -> None:
    n = 5000
    asked, expected = rows(n, seed=2), local(from_artifact(OLD), n, seed=2)

    def ask(span: tuple[int, int]) -> Answers:
        got = http.ask(f"{PATH}?schema=1", served.question(cut(asked, *span)))
        assert got.status == 200, got.body
        assert got.headers["rlscaler-digest"] == OLD.digest
        assert got.headers["rlscaler-policy"] == "web"
        return served.answered(got.body, span[1] - span[0], 10**6)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, chunks(n, 150)))
    assert_same(joined(found), expected)


def as_json(of: Rows) -> dict[str, Any]:
    def listed(values: np.ndarray) -> list[float | None]:
        return [None if np.isnan(value) else float(value) for value in values]

    return {
        "schema": "1",
        "numbers": {name: listed(of.numbers[:, i]) for i, name in enumerate(NUMBERS)},
        "features": {name: listed(of.features[:, i]) for i, name in enumerate(FEATURES)},
    }


def test_json_is_answered_as_bytes_are(http: Serving) -> None:
    asked = rows(50, seed=3)
    got = http.ask(f"{PATH}?policy=new", json.dumps(as_json(asked)).encode(), JSON)
    told = json.loads(got.body)
    assert (got.status, told["policy"], told["digest"], told["schema"]) == (200, "new", NEW.digest, "1")
    found = Answers(*(np.array(told[name]) for name in ("replicas", "patience", "trained")))
    assert_same(found, local(from_artifact(NEW), 50, seed=3))


def test_what_json_leaves_out_is_unknown_or_the_default(http: Serving) -> None:
    asked = rows(1)
    short = {"numbers": {"demand": [4.0], "current": [5], "capacity_per_replica": [50.0]}, "features": {"level": [4.0]}}
    got = http.ask(PATH, json.dumps(short).encode(), JSON)
    assert got.status == 200
    numbers = asked.numbers.copy()
    numbers[0] = [4.0, 5.0, 50.0, *[np.nan] * 5, 1.0, 100.0, 15.0, 15.0, 60.0, 20.0, 0.5]
    features = np.full_like(asked.features, np.nan)
    features[0, FEATURES.index("level")] = 4.0
    whole = offers.answer_all([Question(http.server.shelf.get(), Rows(features, numbers))])[0]
    assert json.loads(got.body)["replicas"] == [None if np.isnan(value) else value for value in whole.replicas]


def wrong(name: str, value: float) -> bytes:
    asked = rows(3)
    array, columns = (asked.numbers, NUMBERS) if name in NUMBERS else (asked.features, FEATURES)
    array[1, columns.index(name)] = value
    return served.question(asked)


ONE = rows(1)
GOOD = served.question(ONE)
OBJECT = as_json(ONE)
REFUSED: dict[str, tuple[str, bytes, str, int, str]] = {
    "unknown policy": (f"{PATH}?policy=shop", GOOD, CONTENT_TYPE, 404, "policy 'shop' is not served; expected web, n"),
    "unknown digest": (f"{PATH}?digest=sha256:1", GOOD, CONTENT_TYPE, 404, "digest 'sha256:1' is not served; expected"),
    "digest of another": (f"{PATH}?policy=web&digest={NEW.digest}", GOOD, CONTENT_TYPE, 404, "is not served"),
    "other schema": (f"{PATH}?schema=7", GOOD, CONTENT_TYPE, 400, "schema is '7'; expected '1'"),
    "no type": (PATH, GOOD, "text/plain", 415, "Content-Type is 'text/plain'; expected application/json or"),
    "no zip": (PATH, b"abc", CONTENT_TYPE, 400, "the body is no question: it is not a readable zip"),
    "answer": (PATH, served.reply(Answers(np.ones(3), np.ones(3), np.ones(3, bool))), CONTENT_TYPE, 400, "the body"),
    "columns": (
        PATH, served.question(Rows(ONE.features[:, 1:], ONE.numbers)), CONTENT_TYPE, 400,
        f"features has the shape (1, {len(FEATURES) - 1}); expected (N, {len(FEATURES)})",
    ),
    "rows": (PATH, served.question(Rows(rows(2).features, ONE.numbers)), CONTENT_TYPE, 400, "features has 2 rows and"),
    "no rows": (PATH, served.question(cut(ONE, 0, 0)), CONTENT_TYPE, 400, "there are no rows"),
    "axes": (PATH, served.question(Rows(ONE.features[0], ONE.numbers)), CONTENT_TYPE, 400, "features has the shape ("),
    "infinite": (PATH, wrong("trend", np.inf), CONTENT_TYPE, 400, "features.trend of row 1 is inf; expected a finite"),
    "unknown setting": (PATH, wrong("price", np.nan), CONTENT_TYPE, 400, "numbers.price of row 1 is nan; expected a n"),
    "negative": (PATH, wrong("backlog", -1.0), CONTENT_TYPE, 400, "numbers.backlog of row 1 is -1; expected 0 or more"),
    "bounds": (PATH, wrong("min_replicas", 1e9), CONTENT_TYPE, 400, "numbers.min_replicas of row 1 is 1e+09; expected"),
    "too many": (PATH, served.question(rows(2001)), CONTENT_TYPE, 413, "there are 2001 rows; expected at most 2000"),
    "too large": (PATH, b"0" * 2_000_001, CONTENT_TYPE, 413, "the body has more than 2000000 bytes"),
    "no JSON": (PATH, b"{", JSON, 400, "the body is no JSON"),
    "deep JSON": (PATH, b"[" * 100_000, JSON, 400, "the body is no JSON"),
    "NaN in JSON": (PATH, b'{"numbers": {"demand": [NaN]}}', JSON, 400, "the body holds NaN; expected null"),
    "huge in JSON": (
        PATH, json.dumps(OBJECT | {"features": {"level": [1e300]}}).encode(), JSON, 400,
        "features.level of row 0 is inf; expected a finite number",
    ),
    "column of JSON": (
        PATH, json.dumps(OBJECT | {"numbers": {"demands": [1]}}).encode(), JSON, 400,
        "numbers.demands is unknown; expected one of demand, current",
    ),
    "text in JSON": (
        PATH, json.dumps(OBJECT | {"features": {"level": ["4"]}}).encode(), JSON, 400, "features.level is no list of n",
    ),
    "length in JSON": (
        PATH, json.dumps(OBJECT | {"features": {"level": [4, 5]}}).encode(), JSON, 400,
        "features.level has 2 numbers; expected 1",
    ),
    "nothing in JSON": (PATH, b"{}", JSON, 400, "numbers is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_cannot_be_used_is_told_so_in_a_sentence(http: Serving, name: str) -> None:
    path, body, kind, status, sentence = REFUSED[name]
    got = http.ask(path, body, kind)
    assert (got.status, got.headers["content-type"]) == (status, JSON)
    assert json.loads(got.body)["error"].startswith(sentence) or sentence in json.loads(got.body)["error"]
    assert http.ask(PATH, GOOD).status == 200


def test_other_paths_and_methods_are_told_what_there_is(http: Serving) -> None:
    assert http.ask("/v2").status == 404
    assert http.ask(PATH).status == 405
    assert http.ask("/healthz", b"", method="POST").status == 405
    assert json.loads(http.ask("/healthz").body) == {"status": "ok", "device": "cpu"}
    told = json.loads(http.ask("/v1/policies").body)
    assert [(each["policy"], each["digest"]) for each in told["policies"]] == [("web", OLD.digest), ("new", NEW.digest)]


def test_what_was_asked_is_counted() -> None:
    with serving(Server([offer(OLD)], Limits())) as server:
        for n in (3, 5):
            assert server.ask(PATH, served.question(rows(n))).status == 200
        assert server.ask(PATH, b"no").status == 400
        lines = server.ask("/metrics").body.decode().splitlines()
    assert 'rlscaler_serve_requests_total{policy="web",status="200"} 2.0' in lines
    assert 'rlscaler_serve_requests_total{policy="",status="400"} 1.0' in lines
    assert 'rlscaler_serve_rows_total{policy="web"} 8.0' in lines
    assert f'rlscaler_serve_policy{{digest="{OLD.digest}",policy="web"}} 1.0' in lines or (
        f'rlscaler_serve_policy{{policy="web",digest="{OLD.digest}"}} 1.0' in lines
    )
    assert "rlscaler_serve_seconds_count 3.0" in lines
    assert "rlscaler_serve_batch_rows_sum 8.0" in lines


# Under load


def test_a_new_policy_is_taken_in_without_a_failed_request() -> None:
    asked = rows(20)
    expected = {each.digest: local(from_artifact(each), 20) for each in (OLD, NEW)}
    with serving(Server([offer(OLD)], Limits())) as server:
        over, swapped = threading.Event(), threading.Event()
        seen: list[list[str]] = [[] for _ in range(4)]

        def caller(number: int) -> None:
            while not over.is_set():
                got = server.ask(PATH, served.question(asked))
                assert got.status == 200, got.body
                digest = got.headers["rlscaler-digest"]
                assert_same(served.answered(got.body, 20, 10**6), expected[digest])
                seen[number].append(digest)
                if digest == NEW.digest:
                    swapped.set()

        with ThreadPoolExecutor(4) as pool:
            callers = [pool.submit(caller, number) for number in range(4)]
            try:
                assert server.server.take(offer(NEW)) == ""
                assert swapped.wait(WAIT)
                assert server.server.take(offer(OLD)) == ""
                assert server.ask(f"{PATH}?digest={NEW.digest}", GOOD).status == 200, "the one before is kept for a pin"
            finally:
                over.set()
            for each in callers:
                each.result(WAIT)
        assert NEW.digest in {digest for each in seen for digest in each}


CORRUPT = bytearray(dumps(NEW))
CORRUPT[len(CORRUPT) // 2] ^= 0xFF


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        pytest.param(bytes(CORRUPT), "", id="corrupt"),
        pytest.param(dumps(NEW)[:-30], "", id="cut"),
        pytest.param(dumps(served_artifacts.network(observation_schema="0")), "observation_schema", id="schema"),
        pytest.param(artifact_path("default").read_bytes(), "tenure", id="tenure"),
    ],
)
def test_a_policy_that_cannot_be_served_leaves_the_one_before(data: bytes, sentence: str) -> None:
    server = Server([offer(OLD)], Limits())
    refused = server.take(Offer("web", data, alone=False))
    assert refused
    assert sentence in refused
    assert server.shelf.get().digest == OLD.digest
    assert server.counts.swaps["web", "refused"] == 1


def test_a_full_queue_answers_503_at_once_and_then_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server([offer(OLD)], Limits(queue=3))
    entered, go = threading.Semaphore(0), threading.Event()
    answer = server._batcher._answer

    def slow(questions: Sequence[Question]) -> Sequence[Answers]:
        entered.release()
        assert go.wait(WAIT)
        return answer(questions)

    monkeypatch.setattr(server._batcher, "_answer", slow)
    with serving(server) as there, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(there.ask, PATH, GOOD) for _ in range(3)]
        try:
            assert entered.acquire(timeout=WAIT)
            refusals: list[Got] = []
            while not refusals:  # until all three are in
                got = there.ask(PATH, b"no zip")  # breaks off by itself where there is room for it
                if got.status == 503:
                    refusals.append(got)
            assert refusals[0].headers["retry-after"] == "1"
            assert "questions wait already" in json.loads(refusals[0].body)["error"]
            assert there.ask("/healthz").status == 200, "health is heard though the queue is full"
        finally:
            go.set()
        assert [each.result(WAIT).status for each in waiting] == [200, 200, 200]
        assert there.ask(PATH, GOOD).status == 200


def test_a_pass_that_fails_is_told_to_its_callers_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server([offer(OLD)], Limits())
    answer = server._batcher._answer

    def broken(questions: Sequence[Question]) -> Sequence[Answers]:
        raise MemoryError("secret detail")

    with serving(server) as there:
        monkeypatch.setattr(server._batcher, "_answer", broken)
        got = there.ask(PATH, GOOD)
        assert (got.status, json.loads(got.body)["error"][:31]) == (500, "the policy failed (MemoryError)")
        monkeypatch.setattr(server._batcher, "_answer", answer)
        assert there.ask(PATH, GOOD).status == 200


# What may be served, and following files


@pytest.mark.parametrize(
    ("text", "tenure", "sentence"),
    [
        ("hpa", None, "hpa is a rule: it needs no server"),
        ("default", None, "serve its network alone with --tenure Off"),
        ("nowhere.rlz", None, "nowhere.rlz: cannot be read"),
        ("a b=x.rlz", None, "'a b' is no name"),
        ("hpa=x.rlz", None, "hpa is a built-in policy; give it another name"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(text: str, tenure: str | None, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        offers.offered(offers.wanted(text, tenure))
    assert sentence in str(caught.value)


def test_the_network_of_a_policy_with_tenure_can_be_served_alone() -> None:
    alone = offers.shelved(offers.offered(offers.wanted("default", "Off")))
    learned = offers.shelved(offers.offered(offers.wanted("learned", None)))
    assert (alone.name, learned.name, alone.digest) == ("default", "learned", learned.digest)
    assert_same(offers.answer(alone.policy, rows(30)), offers.answer(learned.policy, rows(30)))


class Handle:
    """Stands for Ray's handle: all replicas take what they are offered."""

    def __init__(self) -> None:
        self.taken: queue.Queue[Offer] = queue.Queue()

    def broadcast(self, name: str, offer: Offer) -> "Handle":
        assert name == "offer"
        self.taken.put(offer)
        return self

    def results(self, timeout_s: float) -> list[str]:
        return ["", ""]


def test_a_file_that_changes_is_followed_and_a_broken_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(serving_cluster, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(serving_cluster, "COMPARE_EVERY", 1e9)
    path = tmp_path / "web.rlz"
    save(OLD, path)
    wanted = [offers.wanted(str(path), None)]
    handle, told, stop = Handle(), queue.Queue[str](), threading.Event()
    first = [offers.offered(each) for each in wanted]
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(serving_cluster.follow, handle, wanted, first, stop, told.put)
        try:
            save(NEW, path)
            assert told.get(timeout=WAIT) == f"web: {NEW.digest}"
            assert handle.taken.get(timeout=WAIT).data == dumps(NEW)
            path.write_bytes(b"broken")
            assert told.get(timeout=WAIT).endswith("the policy before stays in use")
            save(OLD, path)
            assert told.get(timeout=WAIT) == f"web: {OLD.digest}"
            assert handle.taken.get(timeout=WAIT).data == dumps(OLD)
            assert handle.taken.empty()
        finally:
            stop.set()
        following.result(WAIT)


# The command


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(root, ["serve", *arguments])
    return result.exit_code, result.output


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, output = run()
    assert (code, output.count("\n")) == (2, 1)
    assert "pip install 'rlscaler[serve]'" in output


def test_mistakes_of_the_command_take_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = {
            ("--port", str(port)): f"error: --port {port} of 127.0.0.1 is taken; choose another, or 0 for any",
            ("--host", "192.0.2.77"): "error: --host 192.0.2.77 --port 8000: ",
            ("hpa",): "error: hpa is a rule",
            ("learned", "learned"): "error: two policies have one name",
            ("nowhere.rlz",): "error: nowhere.rlz: cannot be read",
        }
        for arguments, sentence in cases.items():
            code, output = run(*arguments)
            assert code == 2, output
            assert output.startswith(sentence)
            assert output.count("\n") == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_server_that_is_told_to_end_while_it_starts_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    """Heard once only, so that what has begun is put away; Ray takes half a minute to start on a busy machine."""
    put_away = []

    @contextmanager
    def starting(*_: Any) -> Iterator[serving_cluster.Running]:
        try:
            os.kill(os.getpid(), number)
            threading.Event().wait(WAIT)
            yield serving_cluster.Running("http://127.0.0.1:1", "cpu", None)
        finally:
            os.kill(os.getpid(), number)
            put_away.append(number)

    monkeypatch.setattr(serving_cluster, "running", starting)
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    assert run("--port", "0") == (status, "interrupted\n")
    assert put_away == [number]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def test_what_ray_hears_while_it_starts_is_heard_by_whom_it_is_meant_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray puts a handler of its own in place of another, which exits with the number of the signal."""
    heard: list[int] = []

    def started(**_: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(WAIT)

    monkeypatch.setattr("ray.init", started)
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with pytest.raises(SystemExit), ray_cluster.cluster(1):
            pass
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_a_caller_that_hangs_up_is_no_failure_of_the_server() -> None:
    """Ray Serve cancels what is under way for one."""
    server = Server([offer(OLD)], Limits())

    async def hung_up() -> None:
        reading = asyncio.Event()

        async def read() -> Question:
            reading.set()
            never: asyncio.Future[Question] = asyncio.get_running_loop().create_future()
            return await never

        asked = asyncio.create_task(server.answered(read))
        await reading.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(hung_up())
    assert server.tally().requests == {("", 499): 1}
