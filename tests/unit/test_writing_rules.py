"""What the actuator makes of decisions, where the API server fails as no real one can be made to at a wish."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import pytest

from rlscaler.resource_objects import TargetRef
from rlscaler_operator.api_errors import ClusterError, Failure
from rlscaler_operator.backoff import Steps
from rlscaler_operator.clock import SystemClock
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.model import Account, Key, Note, TargetKey
from rlscaler_operator.writing import Actuator, Outcome
from wanted_writes import DEPLOYMENT, account

Attempt = tuple[str, int, int]
QUICK = Steps(first=0.002, last=0.004)
SLOW = Steps(first=1e6, last=1e6)
VERSION = 12
"""The version that a write gives its target."""


class FaultyCluster(Cluster):
    """Resizes nothing: takes down what is asked, and fails as its script says."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.script: Callable[[Attempt], None] = lambda attempt: None
        self.under_way = 0
        self.most_under_way: dict[str, int] = {}
        self._guard = threading.Lock()
        self._running: dict[str, int] = {}

    def locate(self, namespace: str, ref: TargetRef) -> str:
        return ""

    def resize(self, namespace: str, ref: TargetRef, seen: int, wanted: int, timeout: float | None = None) -> int:
        attempt = (ref.name, seen, wanted)
        with self._guard:
            self.attempts.append(attempt)
            running = self._running[ref.name] = self._running.get(ref.name, 0) + 1
            self.most_under_way[ref.name] = max(running, self.most_under_way.get(ref.name, 0))
            self.under_way += 1
        try:
            self.script(attempt)
        finally:
            with self._guard:
                self._running[ref.name] -= 1
                self.under_way -= 1
        return VERSION

    def fail(self, *errors: ClusterError | None) -> None:
        """Fail one attempt after the other by these errors (None: not at all), and none after them."""
        left = iter(errors)

        def script(_: Attempt) -> None:
            if (error := next(left, None)) is not None:
                raise error

        self.script = script


def error(reason: Failure, retry_after: float | None = None) -> ClusterError:
    return ClusterError(reason, f"cannot resize: {reason}", 0, retry_after)


def ref(name: str) -> TargetRef:
    return replace(DEPLOYMENT, name=name)


def run(test: Callable[[FaultyCluster, Actuator], Coroutine[Any, Any, None]], **of_actuator: Any) -> FaultyCluster:
    """Run a test in a loop of its own with an actuator that is drained after it."""
    cluster = FaultyCluster()

    async def whole() -> None:
        told: dict[str, Any] = {
            "valid": lambda: True,
            "clock": SystemClock(),
            "rng": random.Random(1),
            "steps": QUICK,
        } | of_actuator
        actuator = Actuator(cluster, **told)
        try:
            await asyncio.wait_for(test(cluster, actuator), 60.0)
        finally:
            await actuator.drain(1.0)

    asyncio.run(whole())
    return cluster


@contextmanager
def held(cluster: FaultyCluster) -> Iterator[threading.Event]:
    """Let every write hang until the event is set or the block ends."""
    go_on = threading.Event()

    def script(_: Attempt) -> None:
        go_on.wait(30.0)

    cluster.script = script
    try:
        yield go_on
    finally:
        go_on.set()
        cluster.script = lambda attempt: None


async def begun(cluster: FaultyCluster, writes: int) -> None:
    while len(cluster.attempts) < writes:
        await asyncio.sleep(0.001)


def test_what_is_wanted_is_written() -> None:
    async def test(_: FaultyCluster, actuator: Actuator) -> None:
        outcome = await actuator.apply(account(1, 5), DEPLOYMENT)
        assert outcome == Outcome("Written")
        assert outcome.version == VERSION

    assert run(test).attempts == [("web", 1, 5)]


@pytest.mark.parametrize("wanted", [None, 3])
def test_what_is_there_already_is_not_written(wanted: int | None) -> None:
    async def test(_: FaultyCluster, actuator: Actuator) -> None:
        assert await actuator.apply(account(3, wanted), DEPLOYMENT) == Outcome("Unchanged")

    assert run(test).attempts == []


REFUSED: dict[str, tuple[Account, str]] = {
    "shadow": (account(1, 5, mode="Shadow"), "is Shadow: only targets of Active"),
    "shadow, forced": (account(1, 5, mode="Shadow", force=5), "is Shadow"),
    "paused mode": (account(1, 5, mode="Paused"), "is Paused"),
    "paused by annotation": (account(1, 5, paused=True), "is paused"),
    "unusable": (account(1, 5, resource=None), "is unusable"),
    "no target": (replace(account(1, 5), target=None), "no target"),
    "another target": (account(1, 5, ref=ref("other")), "scales Deployment web, not Deployment shop/other"),
    "nonsense": (account(1, -1), "wants -1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_there_is_no_way_to_the_target_of_a_workload_that_is_not_active(name: str) -> None:
    what, says = REFUSED[name]

    async def test(_: FaultyCluster, actuator: Actuator) -> None:
        with pytest.raises(ValueError, match=says):
            actuator.submit(what, DEPLOYMENT)

    assert run(test).attempts == []


def test_a_forced_count_is_written_while_paused() -> None:
    async def test(_: FaultyCluster, actuator: Actuator) -> None:
        assert (await actuator.apply(account(1, 300, paused=True, force=300), DEPLOYMENT)).wrote

    assert run(test).attempts == [("web", 1, 300)]


def test_nothing_is_written_without_the_lease() -> None:
    valid = [False]

    async def test(_: FaultyCluster, actuator: Actuator) -> None:
        assert await actuator.apply(account(1, 5), DEPLOYMENT) == Outcome("NotLeading")
        valid[0] = True
        assert (await actuator.apply(account(1, 6), DEPLOYMENT)).wrote

    assert run(test, valid=lambda: valid[0]).attempts == [("web", 1, 6)]


def test_the_lease_is_asked_in_the_writing_thread_and_after_the_wait_for_it() -> None:
    valid, asked = [True], list[str]()

    def is_valid() -> bool:
        asked.append(threading.current_thread().name)
        return valid[0]

    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        with held(cluster) as go_on:
            first = actuator.submit(account(1, 5, ref=ref("a")), ref("a"))
            await begun(cluster, 1)
            second = actuator.submit(account(1, 5, ref=ref("b")), ref("b"))  # the only thread is taken
            valid[0] = False
            go_on.set()
            assert (await first).wrote
            assert await second == Outcome("NotLeading")

    assert run(test, valid=is_valid, workers=1).attempts == [("a", 1, 5)]
    assert len(asked) == 3  # twice before the write, once for the other
    assert all(name.startswith("write") for name in asked)


def test_a_stale_decision_is_no_error_and_is_not_repeated() -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        cluster.fail(error("Stale"))
        assert await actuator.apply(account(1, 5), DEPLOYMENT) == Outcome("Stale")

    assert run(test).attempts == [("web", 1, 5)]


@pytest.mark.parametrize("reason", ["Throttled", "Unavailable", "Timeout"])
def test_what_may_pass_later_is_tried_again(reason: Failure) -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        cluster.fail(error(reason), error(reason, 0.001), error(reason))
        assert await actuator.apply(account(1, 5), DEPLOYMENT) == Outcome("Written")

    assert run(test).attempts == [("web", 1, 5)] * 4


@pytest.mark.parametrize("reason", ["Forbidden", "NotFound", "Invalid", "Unauthorized", "Conflict"])
def test_what_fails_for_good_is_told(reason: Failure) -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        cluster.fail(error(reason))
        outcome = await actuator.apply(account(1, 5), DEPLOYMENT)
        assert outcome == Outcome("Failed", Note("FailedUpdateScale", f"cannot resize: {reason}"))

    assert len(run(test).attempts) == 1


def test_a_defect_hurts_one_write_only(caplog: pytest.LogCaptureFixture) -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        def script(attempt: Attempt) -> None:
            if attempt[0] == "a":
                raise KeyError("a")

        cluster.script = script
        bad = await actuator.apply(account(1, 5, ref=ref("a")), ref("a"))
        assert bad.problem is not None
        assert "a defect of the operator: KeyError('a')" in bad.problem.message
        assert (await actuator.apply(account(1, 5, ref=ref("b")), ref("b"))).wrote

    run(test)
    assert "Deployment shop/a" in caplog.text


def test_a_target_that_failed_waits_and_no_other_does() -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        cluster.fail(error("Forbidden"))
        assert (await actuator.apply(account(1, 5, ref=ref("a")), ref("a"))).result == "Failed"
        waits = actuator.submit(account(1, 6, ref=ref("a"), interval="1s"), ref("a"))
        assert (await actuator.apply(account(1, 5, ref=ref("b")), ref("b"))).wrote
        assert not waits.done()
        # Its time runs out while it waits, and the problem is told again.
        assert await waits == Outcome("Failed", Note("FailedUpdateScale", "cannot resize: Forbidden"))

    assert run(test, steps=SLOW).attempts == [("a", 1, 5), ("b", 1, 5)]


def test_the_server_is_left_alone_for_as_long_as_it_asks() -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        cluster.fail(error("Throttled", 0.2))
        began = time.monotonic()
        assert (await actuator.apply(account(1, 5), DEPLOYMENT)).wrote
        assert time.monotonic() - began >= 0.2

    run(test)


def test_a_success_ends_the_delays() -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        cluster.fail(error("Unavailable"), None, error("Unavailable"))
        for wanted in (5, 6):
            assert await actuator.apply(account(1, wanted), DEPLOYMENT) == Outcome("Written")

    assert len(run(test).attempts) == 4


def test_a_decision_that_comes_as_a_failure_is_forgotten_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    submit: Callable[[], None] | None = None

    class Event(asyncio.Event):
        """Something happens between the end of a wait and whoever waited."""

        async def wait(self) -> Literal[True]:
            try:
                return await super().wait()
            except asyncio.CancelledError:
                if submit is not None:
                    submit()
                raise

    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        nonlocal submit
        done: asyncio.Future[asyncio.Future[Outcome]] = asyncio.get_running_loop().create_future()

        def submitted() -> None:
            nonlocal submit
            submit = None
            done.set_result(actuator.submit(account(1, 6), DEPLOYMENT))

        cluster.fail(error("Forbidden"))
        assert (await actuator.apply(account(1, 5), DEPLOYMENT)).result == "Failed"
        submit = submitted
        assert await asyncio.wait_for(await done, 20.0) == Outcome("Written")

    monkeypatch.setattr(asyncio, "Event", Event)
    assert [wanted for _, _, wanted in run(test).attempts] == [5, 6]


def test_the_newest_decision_wins_and_one_is_written_at_a_time() -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        with held(cluster) as go_on:
            first = actuator.submit(account(1, 2), DEPLOYMENT)
            await begun(cluster, 1)
            others = [actuator.submit(account(2, wanted), DEPLOYMENT) for wanted in range(3, 9)]
            assert [future.done() for future in others] == [True] * 5 + [False]
            go_on.set()
            assert (await first).wrote
            assert {(await future).result for future in others[:-1]} == {"Superseded"}
            assert (await others[-1]).wrote

    cluster = run(test)
    assert cluster.attempts == [("web", 1, 2), ("web", 2, 8)]
    assert cluster.most_under_way == {"web": 1}


def test_a_newer_decision_takes_the_place_of_one_that_fails() -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        cluster.fail(error("Unavailable"))
        first = actuator.submit(account(1, 2), DEPLOYMENT)
        await begun(cluster, 1)
        second = actuator.submit(account(1, 3), DEPLOYMENT)
        assert await first == Outcome("Superseded", Note("FailedUpdateScale", "cannot resize: Unavailable"))
        assert (await second).wrote

    assert run(test).attempts == [("web", 1, 2), ("web", 1, 3)]


@pytest.mark.parametrize("how", ["withdrawn", "nothing wanted"])
def test_what_waits_can_be_taken_back(how: str) -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        cluster.fail(error("Unavailable"))
        waits = actuator.submit(account(1, 2), DEPLOYMENT)
        await begun(cluster, 1)
        while cluster.under_way:
            await asyncio.sleep(0.001)
        if how == "withdrawn":
            actuator.withdraw(TargetKey("shop", "apps", "Deployment", "web"))
        else:
            assert (await actuator.apply(account(1, None), DEPLOYMENT)).result == "Unchanged"
        assert (await waits).result == "Superseded"

    assert len(run(test, steps=SLOW).attempts) == 1


def test_what_fails_while_it_is_taken_back_is_not_tried_again() -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        go_on = threading.Event()

        def script(_: Attempt) -> None:
            go_on.wait(30.0)
            raise error("Unavailable")

        cluster.script = script
        waits = actuator.submit(account(1, 2), DEPLOYMENT)
        await begun(cluster, 1)
        actuator.withdraw(TargetKey("shop", "apps", "Deployment", "web"), Key("shop", "web"))
        go_on.set()
        assert (await waits).result == "Superseded"

    assert len(run(test).attempts) == 1


def test_one_that_gives_way_takes_nothing_back_from_another_on_the_same_target() -> None:
    """Two workloads of one target are decided together: the younger wants nothing, and that is no withdrawal."""

    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        younger = account(1, None, key=Key("shop", "younger"))
        older = actuator.submit(account(1, 2), DEPLOYMENT)
        assert (await actuator.apply(younger, DEPLOYMENT)).result == "Unchanged"
        actuator.withdraw(TargetKey("shop", "apps", "Deployment", "web"), younger.workload.key)
        assert (await older).wrote

    assert run(test).attempts == [("web", 1, 2)]


def test_a_decision_is_not_written_after_its_interval() -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        with held(cluster) as go_on:
            first = actuator.submit(account(1, 5, ref=ref("a")), ref("a"))
            await begun(cluster, 1)
            late = actuator.submit(account(1, 5, ref=ref("b"), interval="1s"), ref("b"))
            threading.Timer(1.1, go_on.set).start()
            assert (await first).wrote
            assert await late == Outcome("Expired")

    assert run(test, workers=1).attempts == [("a", 1, 5)]


def test_draining_ends_what_is_under_way_and_begins_nothing() -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        with held(cluster) as go_on:
            writing = actuator.submit(account(1, 5, ref=ref("a")), ref("a"))
            await begun(cluster, 1)
            queued = actuator.submit(account(1, 5, ref=ref("b")), ref("b"))
            waiting = actuator.submit(account(5, 6, ref=ref("a")), ref("a"))
            draining = asyncio.ensure_future(actuator.drain(30.0))
            await asyncio.sleep(0)
            go_on.set()
            assert await draining == 0
            assert (await writing).wrote
            assert (await queued).result in ("Stopped", "Superseded")
            assert (await waiting).result == "Superseded"
            assert (await actuator.apply(account(1, 5), DEPLOYMENT)).result == "Stopped"

    assert run(test, workers=1).attempts == [("a", 1, 5)]


def test_draining_ends_in_time_though_a_write_hangs() -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        with held(cluster):
            writing = actuator.submit(account(1, 5), DEPLOYMENT)
            await begun(cluster, 1)
            began = time.monotonic()
            assert await actuator.drain(0.1) == 1
            assert time.monotonic() - began < 5.0
            assert (await writing).result == "Stopped"

    run(test)


def test_who_does_not_wait_any_more_is_no_trouble() -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        with held(cluster) as go_on:
            actuator.submit(account(1, 5), DEPLOYMENT).cancel()
            await begun(cluster, 1)
            go_on.set()
        assert (await actuator.apply(account(5, 6), DEPLOYMENT)).wrote

    assert run(test).attempts == [("web", 1, 5), ("web", 5, 6)]


def test_a_thousand_targets_are_written_by_a_few_threads_and_forgotten() -> None:
    async def test(cluster: FaultyCluster, actuator: Actuator) -> None:
        faults = random.Random(2)

        def script(_: Attempt) -> None:
            if faults.random() < 0.2:
                raise error("Unavailable")

        cluster.script = script
        names = [f"web-{number}" for number in range(1000)]
        outcomes = await asyncio.gather(*(actuator.apply(account(1, 2, ref=ref(name)), ref(name)) for name in names))
        assert {outcome.result for outcome in outcomes} == {"Written"}
        await asyncio.sleep(0)
        assert actuator._slots == {}

    cluster = run(test)
    assert set(cluster.most_under_way.values()) == {1}
    assert cluster.under_way == 0
