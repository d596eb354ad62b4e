"""Decisions asked of an inference server: what it may answer, what becomes of the rest, and that nobody else waits."""

import asyncio
import json
import math
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml

from faulty_prometheus import Answer, FaultyPrometheus, Talk, drip, flood, hang, raw, reply
from minimal_resource import MINIMAL
from rlscaler import Autoscaler, Settings, Snapshot, served
from rlscaler.container import npy, packed
from rlscaler.errors import UserError
from rlscaler.observation import SCHEMA
from rlscaler.policies import load_policy
from rlscaler.served import Answers, Rows
from rlscaler_operator.clock import Clock, SystemClock
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.collecting import Collector
from rlscaler_operator.condition_reasons import MEANINGS
from rlscaler_operator.configuration import parse
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.inference import Client, InferenceError, Line, Reply, Servers
from rlscaler_operator.inference_config import ServerConfig
from rlscaler_operator.leading import Leader
from rlscaler_operator.model import Account, Key, Note, Readings, Workload
from rlscaler_operator.policy_store import PolicyStore
from rlscaler_operator.reporting import Reporter
from rlscaler_operator.status import status
from rlscaler_operator.telemetry import Telemetry
from rlscaler_operator.writing import Actuator

DIGEST, OTHER = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
WAIT = 60.0
N = 3


@pytest.fixture
def server() -> Iterator[FaultyPrometheus]:
    with FaultyPrometheus() as server:
        yield server


def rows(n: int = N) -> Rows:
    scaler = Autoscaler("learned", Settings(capacity_per_replica=50.0), workloads=n)
    view = scaler.view(Snapshot(time=15.0, load=np.linspace(100.0, 900.0, n), ready=3, starting=0, desired=3))
    return served.rows_of(view)


def config(url: str, name: str = "gpu", **more: Any) -> ServerConfig:
    return parse(json.dumps({"servers": {name: {"url": url} | more}}).encode(), "f").servers[name]


def answers(replicas: Sequence[float] | np.ndarray) -> Answers:
    return Answers(np.array(replicas), np.full(len(replicas), 30.0), np.ones(len(replicas), bool))


def good(body: bytes, digest: str = DIGEST, schema: str = SCHEMA) -> Answer:
    headers = {served.DIGEST: digest, served.POLICY: "web", served.OBSERVED: schema}
    return reply(body, headers=headers, kind=served.CONTENT_TYPE)


def of(replicas: Sequence[float]) -> bytes:
    return served.reply(answers(replicas))


def body_of(replicas: np.ndarray, patience: Sequence[float] | np.ndarray) -> bytes:
    """Return an answer's body as somebody else may write it."""
    arrays = {"replicas": replicas, "patience": np.asarray(patience), "trained": np.ones(len(replicas), bool)}
    return packed({f"{name}.npy": npy(array) for name, array in arrays.items()})


def asked(server: FaultyPrometheus, digest: str | None = None, seconds: float = 30.0, **more: Any) -> Reply:
    client = Client(config(server.url, **more))
    try:
        return client.ask(rows(), digest, seconds)
    finally:
        client.close()


def test_what_a_server_proposes_is_what_is_proposed_here(server: FaultyPrometheus) -> None:
    policy = load_policy("learned")

    def propose(talk: Talk) -> None:
        assert (talk.request.method, talk.request.path) == ("POST", served.PATH)
        view = served.view_of(served.asked(talk.request.body, 10**6))
        good(served.reply(served.answers_of(policy.propose(view, {})[0])))(talk)

    server.answer = propose
    found = asked(server, DIGEST, policy="web")
    assert server.requests[0].parameters == {"schema": SCHEMA, "policy": "web", "digest": DIGEST}
    expected = served.answers_of(policy.propose(served.view_of(rows()), {})[0])
    for name in ("replicas", "patience", "trained"):
        np.testing.assert_array_equal(getattr(found.answers, name), getattr(expected, name))
    assert (found.policy, found.digest, found.schema) == ("web", DIGEST, SCHEMA)


HEAD = (
    f"HTTP/1.1 200 OK\r\n{served.DIGEST}: {DIGEST}\r\n{served.OBSERVED}: 1\r\nContent-Length: 9999999\r\n\r\n".encode()
)
FAULTS: dict[str, tuple[Answer, str, str]] = {
    "500": (reply({"error": "disk on fire"}, 500), "ServerError", "answers 500 (disk on fire)"),
    "502 of a proxy": (reply("<html>Bad Gateway", 502), "ServerError", "answers 502"),
    "503": (reply({"error": "64 questions wait"}, 503), "ServerOverloaded", "answers 503 (64 questions wait)"),
    "429": (reply("", 429), "ServerOverloaded", "answers 429; give it more replicas"),
    "401": (reply("no", 401), "ServerUnauthorized", "answers 401: it does not let the operator in"),
    "404 of ours": (reply({"error": "policy 'web' is not served"}, 404), "ServerOtherPolicy", "is not served"),
    "404": (reply("nothing here", 404), "ServerBadAnswer", "does url lead to 'rlscaler serve'?"),
    "400": (reply({"error": "schema is '1'"}, 400), "ServerBadAnswer", "answers 400 (schema is '1')"),
    "redirect": (reply("", 302, headers={"Location": "http://127.0.0.1:1/"}), "ServerBadAnswer", "answers 302"),
    "no digest": (reply(of([1, 2, 3])), "ServerBadAnswer", "digest ''"),
    "other digest": (good(of([1, 2, 3]), OTHER), "ServerOtherPolicy", f"answers by {OTHER}; expected {DIGEST}"),
    "other schema": (good(of([1, 2, 3]), schema="2"), "ServerBadAnswer", "answers by schema '2'"),
    "NaN": (good(of([1, math.nan, 3])), "ServerBadAnswer", "replicas of row 1 is nan; expected a number"),
    "infinity": (good(of([1, 2, math.inf])), "ServerBadAnswer", "replicas of row 2 is inf"),
    "negative": (good(of([1, -2, 3])), "ServerBadAnswer", "replicas of row 1 is -2"),
    "too few": (good(of([1, 2])), "ServerBadAnswer", "has the shape (2,); expected (3,)"),
    "too many": (good(of([1, 2, 3, 4])), "ServerBadAnswer", "has the shape (4,); expected (3,)"),
    "NaN patience": (good(body_of(np.ones(3), [1.0, math.nan, 1.0])), "ServerBadAnswer", "patience of row 1 is nan"),
    "float32": (good(body_of(np.ones(3, np.float32), np.ones(3))), "ServerBadAnswer", "of the type float32; expected"),
    "table": (good(body_of(np.ones((3, 1)), np.ones(3))), "ServerBadAnswer", "has the shape (3, 1); expected (3,)"),
    "question": (good(served.question(rows())), "ServerBadAnswer", "the body holds features, numbers; expected"),
    "page": (good(b"<html>"), "ServerBadAnswer", "the body is no answer"),
    "cut off": (raw(HEAD + b"PK"), "ServerBadAnswer", "broke off"),
    "closed": (raw(b""), "ServerUnreachable", "closed the connection"),
    "no HTTP": (raw(b"hello\r\n\r\n"), "ServerBadAnswer", "does not speak HTTP"),
    "flood": (flood(HEAD, b"0" * 65536), "ServerBadAnswer", "answers more than is read"),
    "hanging": (hang, "ServerTimeout", "gave no whole answer within 0.3 s"),
    "dripping": (drip(HEAD), "ServerTimeout", "gave no whole answer within 0.3 s"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_server_has_a_reason_and_a_sentence(server: FaultyPrometheus, name: str) -> None:
    server.answer, reason, sentence = FAULTS[name]
    with pytest.raises(InferenceError) as caught:
        asked(server, DIGEST, 0.3 if reason == "ServerTimeout" else 30.0)
    assert caught.value.note.reason == reason
    assert sentence in caught.value.note.message
    assert caught.value.note.message.startswith(f"server gpu ({server.url})")
    assert (reason, "FallbackActive") in {(each.reason, each.condition) for each in MEANINGS}


def test_a_server_that_is_not_there_is_told_so() -> None:
    with FaultyPrometheus() as gone:
        url = gone.url
    with pytest.raises(InferenceError) as caught:
        Client(config(url)).ask(rows(), None, 10.0)
    assert caught.value.note.reason == "ServerUnreachable"


def test_a_secret_is_read_from_its_file_again_and_stands_in_no_message(
    server: FaultyPrometheus, tmp_path: Path
) -> None:  # fmt: skip
    path = tmp_path / "token"
    path.write_text("first-secret-token")
    client = Client(config(server.url, bearerTokenFile=str(path)))
    server.answer = lambda talk: reply({"error": f"no {talk.request.headers['authorization']}"}, 500)(talk)
    for token in ("first-secret-token", "second-secret-token-2"):
        path.write_text(token)
        with pytest.raises(InferenceError) as caught:
            client.ask(rows(), None, 10.0)
        assert server.requests[-1].headers["authorization"] == f"Bearer {token}"
        assert token not in caught.value.note.message
    path.unlink()
    with pytest.raises(InferenceError) as caught:
        client.ask(rows(), None, 10.0)
    assert caught.value.note.reason == "ServerUnauthorized"
    assert str(path) in caught.value.note.message
    client.close()


WRONG = {
    "{gpu: {}}": "servers.gpu.url: missing; expected a URL such as http://decisions",
    "{gpu: {url: 'ftp://a'}}": "servers.gpu.url: ftp://a does not begin with http://",
    "{gpu: {url: 'http://a:8000/v1/decide'}}": "leads to /v1; leave that out, it is added",
    "{gpu: {url: 'http://user:hunter2@a'}}": "a user name or password",
    "{gpu: {url: 'http://a?x=1'}}": "has a part after ? or #",
    "{gpu: {url: 'http://a', timeout: 20s}}": "servers.gpu.timeout: 20s is out of bounds",
    "{gpu: {url: 'http://a', token: hunter2}}": "servers.gpu.token: unknown field",
    "{gpu: {url: 'http://a', bearerTokenFile: hunter2}}": "servers.gpu.bearerTokenFile: not a path (what stands there",
    "{gpu: {url: 'http://a', tls: {caFile: /x}}}": "servers.gpu.tls: has no effect on an http:// url",
    "{'G P U': {url: 'http://a'}}": "servers.",
    "[gpu]": "servers: not a mapping",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_in_the_configuration_takes_one_line_without_secrets(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(f"servers: {text}".encode(), "config.yaml")
    assert str(caught.value).startswith("config.yaml:1: ")
    assert WRONG[text] in str(caught.value)
    assert "hunter2" not in str(caught.value)


# One request at a time


class Scripted:
    """A server whose answers a test lets go one by one: it proposes a thousandth of each row's demand."""

    def __init__(self, timeout: float = WAIT) -> None:
        self.config = config("http://127.0.0.1:1", timeout=f"{min(timeout, 5.0) * 1000:.0f}ms")
        self.sizes: list[int] = []
        self.digests: list[str | None] = []
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def ask(self, rows: Rows, digest: str | None, seconds: float) -> Reply:
        self.sizes.append(len(rows))
        self.digests.append(digest)
        self.begun.release()
        assert self.go.acquire(timeout=WAIT)
        return Reply(answers(rows.numbers[:, 0] / 1000.0), "web", digest or DIGEST, SCHEMA)

    def close(self) -> None:
        self.go.release(1000)


async def begun(scripted: Scripted) -> None:
    assert await asyncio.to_thread(scripted.begun.acquire, timeout=WAIT)


def run(scene: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 2 * WAIT))


def test_who_comes_while_a_request_is_under_way_shares_the_next_one() -> None:
    async def scene() -> None:
        scripted = Scripted()
        line = Line(scripted, SystemClock())
        first = asyncio.create_task(line.ask(rows(2), None))
        await begun(scripted)
        others = [asyncio.create_task(line.ask(rows(n), None)) for n in (1, 3, 4)]
        pinned = asyncio.create_task(line.ask(rows(5), OTHER))
        await asyncio.sleep(0)
        scripted.go.release(3)
        for n, task in zip((2, 1, 3, 4, 5), (first, *others, pinned), strict=True):
            found = await task
            assert isinstance(found, Reply)
            np.testing.assert_array_equal(found.answers.replicas, rows(n).numbers[:, 0] / 1000.0)
        assert scripted.sizes == [2, 8, 5]
        assert scripted.digests == [None, None, OTHER]
        line.close()

    run(scene)


def test_nobody_waits_longer_than_the_time_out_and_the_late_answer_is_dropped() -> None:
    async def scene() -> None:
        scripted = Scripted(0.05)
        told: list[Note | None] = []
        line = Line(scripted, SystemClock(), lambda name, seconds, problem: told.append(problem))
        late = await line.ask(rows(), None)
        assert isinstance(late, Note)
        assert late.reason == "ServerTimeout"
        scripted.go.release()
        line.close()

    run(scene)


def test_who_waits_for_a_server_that_is_configured_anew_is_told_so() -> None:
    async def scene() -> None:
        scripted = Scripted()
        line = Line(scripted, SystemClock())
        waiting = [asyncio.create_task(line.ask(rows(), None))]
        await begun(scripted)
        waiting.append(asyncio.create_task(line.ask(rows(), None)))
        await asyncio.sleep(0)
        line.close()
        for each in waiting:
            found = await each
            assert isinstance(found, Note)
            assert found.reason == "ServerUnreachable"

    run(scene)


# In the loop


class Told(Reporter):
    """Writes nothing, and remembers what it was told."""

    def __init__(self) -> None:
        self.accounts: dict[Key, list[Account]] = {}

    def report(self, account: Account) -> Mapping[str, Any]:
        if account.decision is not None:
            self.accounts.setdefault(account.workload.key, []).append(account)
        return status(account, {})


class Steady(Collector):
    """Reads the same load of everyone."""

    def __init__(self) -> None:
        super().__init__({})

    async def collect(self, time: float, workloads: Sequence[Workload], clock: Clock) -> dict[Key, Readings]:
        return {workload.key: Readings(time, 400.0) for workload in workloads}


LOCAL, REMOTE = Key("shop", "local"), Key("shop", "remote")


def fleet(policy: dict[str, Any]) -> Fleet:
    found = Fleet()
    for key, spec in ((LOCAL, {"name": "default"}), (REMOTE, policy)):
        body: dict[str, Any] = yaml.safe_load(MINIMAL)
        body["metadata"] = {"name": key.name, "namespace": key.namespace, "uid": f"r{key.name}", "generation": 1}
        body["spec"] |= {
            "policy": spec,
            "capacity": {"perReplica": "50", "startup": "60s"},
            "maxReplicas": 40,
            "mode": "Shadow",
        }
        body["spec"]["scaleTargetRef"]["name"] = key.name
        found.see_workload(None, body)
        metadata = {"name": key.name, "namespace": key.namespace, "uid": f"d{key.name}", "resourceVersion": "1"}
        found.see_target(None, {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {"replicas": 9, "selector": {"matchLabels": {"app": "web"}}},
            "status": {"replicas": 9, "readyReplicas": 9},
        })  # fmt: skip
    return found


class Scene:
    """A leader over one workload that is decided here and one that a server is asked about."""

    def __init__(self, client: Any, policy: dict[str, Any] | None = None) -> None:
        clock = SystemClock()
        self.told = Told()
        self.servers = Servers({"gpu": Line(client, clock)} if client is not None else {})
        actuator = Actuator(cast(Cluster, None), lambda: True, clock, random.Random(1))
        self.leader = Leader(
            fleet(policy or {"server": "gpu"}), Steady(), PolicyStore(None), actuator, self.told, Telemetry(clock),
            clock, frozenset({("apps", "Deployment")}), self.servers,
        )  # fmt: skip
        self.leader.take_in([LOCAL, REMOTE])
        self.leader.unread.clear()
        for key in (LOCAL, REMOTE):
            self.leader.ledgers[key].ready = True

    def tick(self, time: float) -> None:
        """Have both read and due."""
        for key in (LOCAL, REMOTE):
            self.leader._collected[key] = (time, Readings(time, 400.0))
        self.leader._decide([LOCAL, REMOTE])

    async def decided(self, key: Key, count: int = 1) -> Account:
        """Return the account of a workload once it has been decided so often."""
        while sum(1 for _ in self.told.accounts.get(key, [])) < count:
            await asyncio.sleep(0.001)
        return self.told.accounts[key][-1]


def conditions(account: Account) -> dict[str, tuple[str, str, str]]:
    found = status(account, {})["conditions"]
    return {each["type"]: (each["status"], each["reason"], each["message"]) for each in found}


class Fixed:
    """A server that answers at once, by so many replicas or with an error."""

    def __init__(self, replicas: float, digest: str = DIGEST) -> None:
        self.config = config("http://127.0.0.1:1")
        self.replicas, self.digest = replicas, digest
        self.problem: InferenceError | None = None
        self.asked = 0

    def ask(self, rows: Rows, digest: str | None, seconds: float) -> Reply:
        self.asked += 1
        if self.problem is not None:
            raise self.problem
        return Reply(answers([self.replicas] * len(rows)), "web", self.digest, SCHEMA)

    def close(self) -> None:
        pass


def test_a_server_decides_and_its_policy_is_told() -> None:
    async def scene() -> None:
        there = Scene(fixed := Fixed(21.3))
        there.tick(NOON)
        account = await there.decided(REMOTE)
        assert account.decision is not None
        assert (account.decision.proposal, account.decision.replicas) == (21.3, 22)
        assert account.policy is not None
        assert (account.policy.name, account.policy.digest) == ("gpu", DIGEST)
        found = conditions(account)
        assert found["FallbackActive"][:2] == ("False", "NoFallback")
        assert found["Ready"][:2] == ("True", "Ready")
        assert "policy gpu (sha256:111111111111)" in found["Ready"][2]
        assert fixed.asked == 1, "the workload that is decided here is not asked about"
        compared = there.leader.decider._compared
        assert compared == {LOCAL}, "Shadow's own replicas would be those of the policy here"
        there.servers.close()

    run(scene)


NOON = 1_750_000_005.0


def test_the_guard_comes_after_what_a_server_proposes() -> None:
    async def scene() -> None:
        for replicas, decided, reason in ((1e6, 40, "TooManyReplicas"), (0.0, 8, "ReactiveFloor")):
            there = Scene(Fixed(replicas))
            there.tick(NOON)
            account = await there.decided(REMOTE)
            assert account.decision is not None
            assert account.decision.proposal == replicas
            assert reason in status(account, {})["decision"]["reasons"]
            assert account.decision.replicas == decided or account.decision.replicas >= 8
            there.servers.close()

    run(scene)


def test_a_server_that_hangs_delays_nobody_else_and_the_local_policy_decides() -> None:
    async def scene() -> None:
        scripted = Scripted(0.2)
        there = Scene(scripted)
        there.tick(NOON)
        local = there.told.accounts[LOCAL][-1]  # at once, in the same turn of the loop
        assert local.decision is not None
        assert REMOTE not in there.told.accounts
        account = await there.decided(REMOTE)
        assert account.decision is not None
        assert account.decision.proposal == local.decision.proposal, "the same load, and the same local policy"
        found = conditions(account)
        assert found["FallbackActive"][:2] == ("True", "ServerTimeout")
        assert "spec.policy.server: server gpu gave no whole answer within 0.2 s" in found["FallbackActive"][2]
        assert "Meanwhile policy default" in found["FallbackActive"][2]
        assert found["Ready"][:2] == ("True", "Ready")
        scripted.go.release(10)
        there.servers.close()

    run(scene)


@pytest.mark.parametrize(
    ("answer", "reason", "sentence"),
    [
        pytest.param(good(of([5.0]), OTHER), "ServerOtherPolicy", f"expected {DIGEST}", id="other digest"),
        pytest.param(good(of([5.0, 6.0])), "ServerBadAnswer", "(2,); expected (1,)", id="shape"),
        pytest.param(good(of([math.nan])), "ServerBadAnswer", "replicas of row 0 is nan", id="NaN"),
        pytest.param(hang, "ServerTimeout", "within 0.3 s", id="slow"),
        pytest.param(raw(b""), "ServerUnreachable", "closed the connection", id="dead"),
        pytest.param(reply("", 503), "ServerOverloaded", "answers 503", id="overloaded"),
    ],
)
def test_whatever_a_server_does_the_local_policy_decides_as_it_would_have(
    server: FaultyPrometheus, answer: Answer, reason: str, sentence: str
) -> None:
    """Over a real connection, with the digest pinned; nothing that it said is in the decision."""

    async def scene() -> None:
        server.answer = answer
        timeout = "300ms" if reason == "ServerTimeout" else "5s"
        there = Scene(Client(config(server.url, timeout=timeout)), {"server": "gpu", "digest": DIGEST})
        there.tick(NOON)
        account = await there.decided(REMOTE)
        local = there.told.accounts[LOCAL][-1]
        assert account.decision is not None
        assert local.decision is not None
        assert (account.decision.proposal, account.decision.replicas) == (local.decision.proposal,
                                                                          local.decision.replicas)  # fmt: skip
        assert account.policy is not None
        assert account.policy.digest != DIGEST
        found = conditions(account)["FallbackActive"]
        assert found[:2] == ("True", reason)
        assert sentence in found[2]
        there.servers.close()

    run(scene)


def test_a_server_that_recovers_decides_again() -> None:
    async def scene() -> None:
        there = Scene(fixed := Fixed(21.3))
        fixed.problem = InferenceError("ServerError", "server gpu answers 500")
        there.tick(NOON)
        assert conditions(await there.decided(REMOTE))["FallbackActive"][1] == "ServerError"
        fixed.problem = None
        there.tick(NOON + 15.0)
        account = await there.decided(REMOTE, 2)
        assert account.decision is not None
        assert (account.decision.time, account.decision.proposal) == (NOON + 15.0, 21.3)
        assert conditions(account)["FallbackActive"][1] == "NoFallback"
        there.servers.close()

    run(scene)


def test_a_server_that_the_configuration_does_not_name_is_told_and_the_rule_decides() -> None:
    async def scene() -> None:
        there = Scene(Fixed(5.0), {"server": "other"})
        there.tick(NOON)
        account = await there.decided(REMOTE)
        found = conditions(account)
        assert found["Ready"][:2] == ("False", "PolicyNotFound")
        assert (
            "'other' is no inference server of the operator's configuration; expected one of gpu" in found["Ready"][2]
        )
        there.servers.close()
        bare = Scene(None)
        bare.tick(NOON)
        assert "it names none: add it under servers" in conditions(await bare.decided(REMOTE))["Ready"][2]

    run(scene)


def test_a_server_that_is_configured_later_is_used_from_then_on() -> None:
    async def scene() -> None:
        there = Scene(None)
        there.tick(NOON)
        await there.decided(REMOTE)
        there.servers.replace({"gpu": Line(Fixed(21.3), SystemClock())})
        there.leader.policies_changed(())
        there.tick(NOON + 15.0)
        while (account := there.told.accounts[REMOTE][-1]).decision is None or account.decision.time < NOON + 15.0:
            await asyncio.sleep(0.001)
        assert account.decision.proposal == 21.3
        there.servers.close()

    run(scene)


def test_a_workload_is_asked_about_once_while_its_answer_is_on_its_way() -> None:
    async def scene() -> None:
        scripted = Scripted()
        there = Scene(scripted)
        there.tick(NOON)
        await begun(scripted)
        there.tick(NOON + 15.0)
        await asyncio.sleep(0.01)
        assert scripted.sizes == [1]
        scripted.go.release(10)
        account = await there.decided(REMOTE)
        assert account.decision is not None
        assert account.decision.time == NOON
        there.servers.close()

    run(scene)
