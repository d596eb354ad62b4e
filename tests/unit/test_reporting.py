"""Status and events reach the API server on change only, newest first, at a bounded rate, whatever goes wrong.

The API server is played: its faults come when a test wants them. `tests/cluster` reports to a real one.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest

from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.model import Account, Key, Note, Readings, Workload
from rlscaler_operator.reporting import LONGEST_PAUSE, Reporter
from rlscaler_operator.status import status
from workload_accounts import NOON, account, decision, later, workload


class Time:
    """A clock that stands still; sleeping on it moves it."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return NOON + self.at - 1000.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds
        await asyncio.sleep(0)


class Server:
    """An API server that keeps what it is told, and fails as it is told."""

    def __init__(self) -> None:
        self.statuses: list[tuple[Key, Mapping[str, Any]]] = []
        self.events: list[tuple[Key, str, str, str]] = []
        self.faults: list[ClusterError] = []
        self.timeouts: set[float | None] = set()
        self.gate: threading.Event | None = None
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def patch_status(self, key: Key, status: Mapping[str, Any], uid: str = "", timeout: float | None = None) -> None:
        self.timeouts.add(timeout)
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            if self.gate is not None:
                assert self.gate.wait(20.0)
            if self.faults:
                raise self.faults.pop(0)
            self.statuses.append((key, status))
        finally:
            with self._lock:
                self.at_once -= 1

    def create_event(
        self,
        workload: Workload,
        kind: Literal["Normal", "Warning"],
        reason: str,
        message: str,
        when: float,
        timeout: float | None = None,
    ) -> None:
        self.timeouts.add(timeout)
        if self.faults:
            raise self.faults.pop(0)
        self.events.append((workload.key, kind, reason, message))

    def replicas(self) -> list[int]:
        return [status["desiredReplicas"] for _, status in self.statuses]


class Stage:
    """A reporter at work, with its server and its clock."""

    def __init__(self, **options: Any) -> None:
        self.clock, self.server, self.lease = Time(), Server(), True
        self.outcomes: list[tuple[str, str]] = []
        made: dict[str, Any] = {"patience": 0.0, "rate": 1e6, "sleep": self.clock.sleep}
        self.reporter = Reporter(
            self.server,
            self.clock,
            lambda: self.lease,
            told=lambda *what: self.outcomes.append(what),
            **(made | options),
        )

    async def tell(self, *accounts: Account) -> None:
        for some in accounts:
            self.reporter.report(some)
        assert await self.reporter.drain(20.0)

    async def wrote(self, what: Literal["status", "event"]) -> None:
        """Wait until the reporter, not the server alone, knows of a write of this kind, and nothing is under way."""
        while (what, "Written") not in self.outcomes:
            await asyncio.sleep(0.001)
        assert await self.reporter.drain(20.0)


def play(scene: Callable[[Stage], Coroutine[Any, Any, None]], **options: Any) -> Stage:
    """Run a scene beside the reporter, and return the stage as it was left."""

    async def run() -> Stage:
        stage = Stage(**options)
        work = asyncio.create_task(stage.reporter.run())
        try:
            await scene(stage)
            assert not work.done()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        return stage

    return asyncio.run(run())


def scaled(seconds: float, replicas: int, **fields: Any) -> Account:
    """Return the account of another tick, with another decision."""
    made = decision(time=NOON + seconds, replicas=replicas)
    return later(account(), seconds, decision=made, wanted=replicas, **fields)


def lost(seconds: float, **fields: Any) -> Account:
    problem = {"spec.metrics.load": Note("NoData", "spec.metrics.load: nothing")}
    return later(account(), seconds, readings=Readings(time=NOON, problems=problem), **fields)


def test_a_change_is_written_and_rest_is_not() -> None:
    async def scene(stage: Stage) -> None:
        await stage.tell(account(), *(later(account(), 15.0 * i) for i in range(1, 4)))
        await stage.tell(scaled(60.0, 7), scaled(75.0, 7))

    stage = play(scene)
    assert stage.server.replicas() == [4, 7]
    assert stage.outcomes == [("status", "Written"), ("status", "Written")]


def test_a_restart_writes_nothing_where_nothing_changed() -> None:
    stored = status(account(), {})
    known = workload(status=stored)

    async def scene(stage: Stage) -> None:
        await stage.tell(later(account(), 100.0, workload=known))
        assert len(stage.reporter) == 1

    stage = play(scene)
    assert stage.server.statuses == []
    assert stage.server.events == []


def test_a_trouble_that_was_told_before_a_restart_is_not_told_again() -> None:
    stored = status(lost(0.0), {})

    async def scene(stage: Stage) -> None:
        await stage.tell(lost(100.0, workload=workload(status=stored)))
        assert stage.server.events == []
        await stage.tell(later(account(), 115.0))

    stage = play(scene)
    assert [reason for _, _, reason, _ in stage.server.events] == ["ValidMetricFound"]


def test_the_newest_state_wins_while_a_write_is_under_way() -> None:
    async def scene(stage: Stage) -> None:
        stage.server.gate = threading.Event()
        stage.reporter.report(account())
        while not stage.server.at_once:
            await asyncio.sleep(0.001)
        for replicas in (5, 6, 7):
            stage.reporter.report(scaled(15.0, replicas))
        stage.server.gate.set()
        assert await stage.reporter.drain(20.0)

    assert play(scene).server.replicas() == [4, 7]


def test_a_rescale_and_its_decision_are_one_write() -> None:
    async def scene(stage: Stage) -> None:
        await stage.tell(account())
        tick = scaled(15.0, 7)
        await stage.tell(tick, replace(tick, wrote=True, last_scale=tick.time))

    stage = play(scene, patience=0.01)
    assert stage.server.replicas() == [4, 7]
    assert stage.server.statuses[1][1]["lastScaleTime"]
    assert [reason for _, _, reason, _ in stage.server.events] == ["SuccessfulRescale"]


def test_one_workload_is_never_written_by_two_at_once_and_many_are() -> None:
    async def scene(stage: Stage) -> None:
        stage.server.gate = threading.Event()
        for i in range(20):
            stage.reporter.report(scaled(15.0 * i, i + 2))
        await asyncio.sleep(0.05)
        assert stage.server.most_at_once == 1
        for i in range(20):
            stage.reporter.report(account(workload=workload(f"w{i}")))
        while stage.server.at_once < 3:
            await asyncio.sleep(0.001)
        stage.server.gate.set()
        assert await stage.reporter.drain(20.0)

    stage = play(scene, workers=3)
    assert stage.server.most_at_once == 3


def test_reporting_never_waits_for_the_server() -> None:
    async def scene(stage: Stage) -> None:
        stage.server.gate = threading.Event()
        accounts = [account(workload=workload(f"w{i}")) for i in range(200)]
        began = time.perf_counter()
        for some in accounts:
            stage.reporter.report(some)
        took = time.perf_counter() - began
        assert not await stage.reporter.drain(0.01), "the server still hangs"
        stage.server.gate.set()
        assert await stage.reporter.drain(20.0)
        assert took < 10.0, "the server held each write for as long as it liked"

    assert len(play(scene).server.statuses) == 200


def test_all_writes_together_keep_to_the_rate() -> None:
    async def scene(stage: Stage) -> None:
        await stage.tell(*(account(workload=workload(f"w{i}")) for i in range(100)))

    stage = play(scene, rate=50.0)
    assert stage.clock.at - 1000.0 == pytest.approx(2.0, abs=0.1), "100 writes at 50 a second"


def test_a_flapping_workload_is_written_at_a_bounded_rate_and_ends_up_right() -> None:
    async def scene(stage: Stage) -> None:
        for i in range(100):
            await stage.tell(scaled(float(i), 4 + i % 2))
            stage.clock.at += 1.0

    stage = play(scene)
    assert len(stage.server.statuses) <= 6 + 100 / 10.0 + 1


def test_without_the_lease_nothing_is_written_and_nothing_remembered() -> None:
    async def scene(stage: Stage) -> None:
        await stage.tell(account())
        stage.lease = False
        found = stage.reporter.report(scaled(15.0, 7))
        assert found["desiredReplicas"] == 7, "telemetry still hears of it"
        assert len(stage.reporter) == 0
        assert await stage.reporter.drain(20.0)
        stage.lease = True
        other = status(scaled(15.0, 9), {})
        await stage.tell(scaled(30.0, 9, workload=workload(status=other)))

    assert play(scene).server.replicas() == [4], "another leader has written the 9"


def test_a_lease_that_ends_while_a_write_waits_stops_it() -> None:
    async def scene(stage: Stage) -> None:
        stage.reporter.report(account())
        stage.lease = False
        assert await stage.reporter.drain(20.0)

    assert play(scene).server.statuses == []


def test_the_lease_is_asked_for_in_the_thread_that_writes() -> None:
    """A thread may have to wait for its turn, and what is asked before that is worth nothing after it."""

    async def scene(stage: Stage) -> None:
        stage.reporter._valid = lambda: threading.current_thread() is threading.main_thread()
        stage.reporter.report(account())
        assert await stage.reporter.drain(20.0)

    assert play(scene).server.statuses == []


def test_a_write_has_no_longer_than_the_lease_is_good_for() -> None:
    async def scene(stage: Stage) -> None:
        await stage.tell(account(), lost(15.0))
        assert stage.server.events

    assert play(scene, timeout=1.25).server.timeouts == {1.25}


def fault(reason: Any, retry_after: float | None = None) -> ClusterError:
    return ClusterError(reason, f"cannot write: {reason}", retry_after=retry_after)


def test_a_deleted_workload_is_forgotten_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(stage: Stage) -> None:
        stage.server.faults = [fault("NotFound")]
        await stage.tell(account())
        assert len(stage.reporter) == 0

    stage = play(scene)
    assert stage.outcomes == [("status", "NotFound")]
    assert caplog.records == []


def test_a_recreated_workload_is_told_though_a_write_of_the_former_was_under_way() -> None:
    """Of one that is not decided, such as one with a mistake in its spec, nothing else would ever be told."""

    async def scene(stage: Stage) -> None:
        stage.server.gate = threading.Event()
        stage.reporter.report(account())
        while not stage.server.at_once:
            await asyncio.sleep(0.001)
        stage.reporter.forget(Key("shop", "web"))
        stage.server.faults = [fault("NotFound")]
        stage.reporter.report(later(account(), 1.0, workload=workload(uid="other")))
        stage.server.gate.set()
        assert await stage.reporter.drain(20.0)
        assert stage.outcomes == [("status", "NotFound"), ("status", "Written")]
        assert len(stage.reporter) == 1

    play(scene, workers=1)


def test_a_recreated_workload_starts_anew() -> None:
    async def scene(stage: Stage) -> None:
        await stage.tell(account())
        await stage.tell(later(account(), 15.0, workload=workload(uid="other")))
        stage.reporter.forget(Key("shop", "web"))
        assert len(stage.reporter) == 0

    assert play(scene).server.replicas() == [4, 4]


def pausing(calls: list[float]) -> Callable[..., Any]:
    """Return a call_later that remembers its pauses and makes them short."""

    def call_later(loop: asyncio.AbstractEventLoop, seconds: float, *call: Any) -> Any:
        calls.append(seconds)
        return loop.call_at(loop.time() + min(seconds, 0.001), *call)

    return call_later


@pytest.mark.parametrize("reason", ["Unavailable", "Throttled", "Timeout"])
def test_a_server_in_trouble_is_asked_less_and_less_and_nothing_is_lost(
    reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(asyncio.BaseEventLoop, "call_later", pausing(pauses))
    caplog.set_level(logging.INFO, "rlscaler.report")

    async def scene(stage: Stage) -> None:
        stage.server.faults = [fault(reason) for _ in range(10)]
        stage.reporter.report(lost(0.0))
        await stage.wrote("event")

    stage = play(scene)
    assert [outcome for _, outcome in stage.outcomes] == [reason] * 10 + ["Written", "Written"]
    tries = [pause for pause in pauses if pause >= 0.5]
    assert tries == [min(0.5 * 2.0**i, LONGEST_PAUSE) for i in range(10)]
    assert sum(stage.clock.slept) >= 60.0, "the others wait too"
    said = [record.levelname for record in caplog.records if record.name == "rlscaler.report"]
    assert said == ["WARNING", "INFO"], "one line when it begins and ends"


def test_the_server_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(asyncio.BaseEventLoop, "call_later", pausing(pauses))

    async def scene(stage: Stage) -> None:
        stage.server.faults = [fault("Throttled", retry_after=7.0)]
        stage.reporter.report(account())
        await stage.wrote("status")

    assert 7.0 in play(scene).clock.slept + pauses


def test_a_conflict_is_tried_again_at_once_with_what_is_known_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(asyncio.BaseEventLoop, "call_later", pausing(pauses))

    async def scene(stage: Stage) -> None:
        stage.server.faults = [fault("Conflict"), fault("Conflict")]
        stage.reporter.report(scaled(0.0, 4))
        while stage.server.faults:
            await asyncio.sleep(0.001)
        stage.reporter.report(scaled(1.0, 7))
        await stage.wrote("status")

    stage = play(scene)
    assert stage.server.replicas()[-1] == 7
    assert [pause for pause in pauses if pause >= 0.5] == [0.5, 1.0]
    assert sum(stage.clock.slept) < 0.01, "no other workload waits"


def test_one_workload_that_is_refused_holds_up_no_other() -> None:
    async def scene(stage: Stage) -> None:
        stage.server.faults = [fault("Invalid")]
        await stage.tell(account(), account(workload=workload("other")))

    stage = play(scene, workers=1)
    assert [key.name for key, _ in stage.server.statuses] == ["other"]
    assert sum(stage.clock.slept) < 0.01


def test_an_event_that_fails_is_given_up() -> None:
    async def scene(stage: Stage) -> None:
        await stage.tell(account())
        stage.server.faults = []

        def only_events(*_: Any) -> None:
            raise fault("Forbidden")

        stage.server.create_event = only_events  # type: ignore[assignment, method-assign]
        await stage.tell(lost(15.0))
        await stage.tell(lost(30.0))

    stage = play(scene)
    assert stage.outcomes == [("status", "Written"), ("status", "Written"), ("event", "Forbidden")]


def test_a_defect_of_a_write_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(stage: Stage) -> None:
        stage.server.faults = [ZeroDivisionError("oops")]  # type: ignore[list-item]
        await stage.tell(account(), account(workload=workload("other")))

    stage = play(scene, workers=1)
    assert [key.name for key, _ in stage.server.statuses] == ["other"]
    assert "oops" in caplog.text


def test_each_change_is_one_line_with_its_context(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rlscaler")

    async def scene(stage: Stage) -> None:
        tick = scaled(15.0, 7)
        await stage.tell(account(), later(account(), 1.0), tick, replace(tick, wrote=True, last_scale=tick.time))
        await stage.tell(*(scaled(15.0 * i, 7, last_scale=tick.time) for i in range(2, 20)), lost(300.0))

    play(scene)
    assert [(record.levelname, record.context["reason"]) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("INFO", "SuccessfulRescale"),
        ("WARNING", "FailedGetMetrics"),
    ]
    context: dict[str, Any] = caplog.records[0].context  # type: ignore[attr-defined]
    assert context == {
        "workload": "shop/web",
        "target": "Deployment shop/web",
        "from": 4,
        "to": 7,
        "reason": "SuccessfulRescale",
    }


def test_what_is_no_more_is_removed_from_the_stored_status() -> None:
    async def scene(stage: Stage) -> None:
        await stage.tell(account(), later(account(), 400.0, decision=decision(demand=math.nan)))

    _, patch = play(scene).server.statuses[-1]
    assert patch["decision"]["demand"] is None


def test_running_ends_at_once_while_a_write_hangs() -> None:
    async def run() -> float:
        stage = Stage()
        stage.server.gate = threading.Event()
        work = asyncio.create_task(stage.reporter.run())
        stage.reporter.report(account())
        while not stage.server.at_once:
            await asyncio.sleep(0.001)
        began = time.perf_counter()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        took = time.perf_counter() - began
        stage.server.gate.set()
        return took

    assert asyncio.run(run()) < 5.0, "it did not wait the 20 s of the hanging write"
