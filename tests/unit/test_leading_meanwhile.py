"""What changes while a write or a reading is under way: its end tells of what there is by then."""

import asyncio
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import prometheus_client
import pytest
import yaml

from minimal_resource import MINIMAL
from rlscaler.prometheus import Series
from rlscaler.resource_objects import TargetRef
from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.backoff import Steps
from rlscaler_operator.clock import Clock
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.collecting import Answer, Collector
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.leading import Leader
from rlscaler_operator.model import Account, Key, Readings
from rlscaler_operator.policy_store import PolicyStore
from rlscaler_operator.queries import Ask, Index
from rlscaler_operator.reporting import Reporter
from rlscaler_operator.status import status
from rlscaler_operator.telemetry import Telemetry
from rlscaler_operator.timestamps import stamp
from rlscaler_operator.writing import Actuator
from workload_accounts import NOON

WEB = Key("shop", "web")
FORCED = {"rlscaler.io/force-replicas": "8"}


class Server(Cluster):
    """Takes each write when the gate is open. wrote: the counts. faults: of the next writes."""

    def __init__(self) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()
        self.wrote: list[int] = []
        self.faults: list[ClusterError] = []

    def locate(self, namespace: str, ref: TargetRef) -> str:
        return ""

    def resize(self, namespace: str, ref: TargetRef, seen: int, wanted: int, timeout: float | None = None) -> int:
        self.begun.set()
        assert self.gate.wait(20.0)
        if self.faults:
            raise self.faults.pop(0)
        self.wrote.append(wanted)
        return 12


class Told(Reporter):
    """Writes nothing, and keeps what is known of each workload."""

    def __init__(self) -> None:
        self.statuses: dict[Key, Mapping[str, Any]] = {}
        self.rescaled = 0

    def report(self, account: Account) -> Mapping[str, Any]:
        self.rescaled += account.wrote
        self.statuses[account.workload.key] = found = status(account, {})
        return found

    def forget(self, key: Key) -> None:
        self.statuses.pop(key, None)


class Time:
    """A clock that stands at noon."""

    def monotonic(self) -> float:
        return NOON

    now = monotonic


def scaler(generation: int = 1, annotations: Mapping[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load(MINIMAL)
    body["metadata"] = {"name": "web", "namespace": "shop", "uid": "1", "generation": generation,
                        "annotations": dict(annotations or {})}  # fmt: skip
    body["spec"] |= {"mode": "Active"} | spec
    return body


def deployment(version: int, replicas: int) -> dict[str, Any]:
    metadata = {"name": "web", "namespace": "shop", "uid": "2", "resourceVersion": str(version)}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec,
            "status": {"replicas": replicas, "readyReplicas": replicas}}  # fmt: skip


class Stage:
    """A leader who writes a forced 8 replicas, in place of 5, when the server lets it."""

    def __init__(self) -> None:
        clock = Time()
        self.fleet, self.server, self.told, self.telemetry = Fleet(), Server(), Told(), Telemetry(clock)
        self.actuator = Actuator(self.server, lambda: True, clock, random.Random(1), steps=Steps(0.0, 0.0))
        self.leader = Leader(self.fleet, cast(Collector, None), PolicyStore(None), self.actuator, self.told,
                             self.telemetry, clock, frozenset({("apps", "Deployment")}))  # fmt: skip

    def take_in(self) -> None:
        self.leader.take_in(self.fleet.take_changed())

    @property
    def status(self) -> Mapping[str, Any]:
        return self.told.statuses[WEB]

    def condition(self, name: str) -> tuple[str, str]:
        (found,) = (each for each in self.status["conditions"] if each["type"] == name)
        return found["status"], found["reason"]


def meanwhile(change: Callable[[Stage], None]) -> Stage:
    """Let something change while the write is under way, and return the stage after its end."""

    async def scene() -> Stage:
        stage = Stage()
        stage.fleet.see_workload("ADDED", scaler(annotations=FORCED))
        stage.fleet.see_target("ADDED", deployment(10, 5))
        stage.take_in()
        await asyncio.to_thread(stage.server.begun.wait, 20.0)
        change(stage)
        stage.take_in()
        stage.server.gate.set()
        while stage.leader._tasks:
            await asyncio.sleep(0.001)
        await stage.actuator.drain(1.0)
        return stage

    return asyncio.run(asyncio.wait_for(scene(), 30.0))


def test_a_count_that_is_forced_before_the_past_is_read_stays_the_last_that_was_written() -> None:
    stage = meanwhile(lambda stage: None)
    stage.leader.recall_notes(WEB, {"lastScale": NOON - 3600.0})
    stage.fleet.see_target("MODIFIED", deployment(12, 8))
    stage.take_in()
    assert stage.status["desiredReplicas"] == stage.status["currentReplicas"] == 8
    assert stage.status["lastScaleTime"] == stamp(NOON)


def test_nothing_is_told_of_a_workload_that_is_gone() -> None:
    stage = meanwhile(lambda stage: stage.fleet.see_workload("DELETED", scaler()))
    assert 'name="web"' not in prometheus_client.generate_latest(stage.telemetry.registry).decode()
    assert not stage.told.statuses


def test_the_status_is_that_of_the_spec_that_is_there_by_then() -> None:
    stage = meanwhile(lambda stage: stage.fleet.see_workload("MODIFIED", scaler(2, maxReplicas=-1)))
    assert stage.status["observedGeneration"] == 2
    assert stage.condition("Ready") == ("False", "InvalidSpec")
    assert stage.told.rescaled == 1, "that it was scaled is told all the same"


def test_a_target_that_is_gone_is_not_told_to_be_there() -> None:
    stage = meanwhile(lambda stage: stage.fleet.see_target("DELETED", deployment(11, 5)))
    assert stage.condition("Ready") == ("False", "TargetNotFound")
    assert "currentReplicas" not in stage.status


def test_a_pause_that_came_meanwhile_is_told() -> None:
    def pause(stage: Stage) -> None:
        stage.fleet.see_workload("MODIFIED", scaler(annotations={"rlscaler.io/paused": "true"}))
        stage.fleet.see_target("MODIFIED", deployment(12, 8))

    stage = meanwhile(pause)
    assert stage.status["mode"] == "Paused"
    assert stage.status["desiredReplicas"] == 8
    assert stage.told.rescaled == 1


def test_a_write_that_the_watch_showed_first_says_from_where_to_where() -> None:
    def shown(stage: Stage) -> None:
        stage.fleet.see_workload("MODIFIED", scaler())  # nothing is forced any more
        stage.fleet.see_target("MODIFIED", deployment(12, 8))

    stage = meanwhile(shown)
    assert stage.condition("AbleToScale") == ("True", "SucceededRescale")
    (text,) = (each["message"] for each in stage.status["conditions"] if each["type"] == "AbleToScale")
    assert text == "Scaled from 5 to 8 replicas."


def owner() -> dict[str, Any]:
    metadata = {"name": "web", "namespace": "shop", "uid": "3", "resourceVersion": "11"}
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata,
            "spec": {"scaleTargetRef": ref}}  # fmt: skip


CHANGES: dict[str, tuple[Callable[[Stage], None], list[int]]] = {
    "another spec": (lambda stage: stage.fleet.see_workload("MODIFIED", scaler(2, maxReplicas=7)), []),
    "nothing is forced any more": (lambda stage: stage.fleet.see_workload("MODIFIED", scaler()), []),
    "nothing that matters": (lambda stage: stage.fleet.see_target("MODIFIED", deployment(11, 5)), [8]),
}


@pytest.mark.parametrize(("change", "wrote"), CHANGES.values(), ids=list(CHANGES))
def test_what_is_not_wanted_any_more_is_not_tried_again(change: Callable[[Stage], None], wrote: list[int]) -> None:
    def changes(stage: Stage) -> None:
        stage.server.faults = [ClusterError("Unavailable", "the API server is away")]
        change(stage)

    assert meanwhile(changes).server.wrote == wrote


def test_what_was_decided_before_another_owner_came_is_not_tried_again() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.fleet.see_workload("ADDED", scaler(capacity={"perReplica": "50", "startup": "60s"}))
        stage.fleet.see_target("ADDED", deployment(10, 5))
        stage.take_in()
        stage.leader.ledgers[WEB].ready = True
        stage.leader._conclude({WEB: (NOON, Readings(NOON, 5000.0))})
        await asyncio.to_thread(stage.server.begun.wait, 20.0)
        stage.server.faults = [ClusterError("Unavailable", "the API server is away")]
        stage.fleet.see_owner("ADDED", owner())
        stage.take_in()
        stage.server.gate.set()
        while stage.leader._tasks:
            await asyncio.sleep(0.001)
        assert stage.server.wrote == []
        await stage.actuator.drain(1.0)

    asyncio.run(asyncio.wait_for(scene(), 30.0))


class Slow(Collector):
    """Answers 5,000 requests/s, when it is let."""

    def __init__(self) -> None:
        super().__init__({})
        self.gate = asyncio.Event()

    async def _ask(self, ask: Ask, wait: float, clock: Clock) -> Answer:
        await self.gate.wait()
        return Index([Series({}, 5000.0, NOON)])


ASKED = {"metrics": {"load": {"query": "sum(up)"}}}
"""A load that is asked for otherwise than before."""


@pytest.mark.parametrize(("spec", "decided"), [(ASKED, False), ({"maxReplicas": 7}, True)])
def test_nobody_is_decided_by_what_another_query_returned(spec: dict[str, Any], decided: bool) -> None:
    async def scene() -> None:
        stage = Stage()
        stage.leader.collector = slow = Slow()
        mode: dict[str, Any] = {"mode": "Shadow", "capacity": {"perReplica": "50", "startup": "60s"}}
        stage.fleet.see_workload("ADDED", scaler(**mode))
        stage.fleet.see_target("ADDED", deployment(10, 5))
        stage.take_in()
        stage.leader.begin([WEB])
        await asyncio.sleep(0)
        stage.fleet.see_workload("MODIFIED", scaler(2, **(mode | spec)))
        stage.take_in()
        slow.gate.set()
        while stage.leader._tasks:
            await asyncio.sleep(0)
        stage.leader._decide([WEB])
        decision = stage.leader.ledgers[WEB].decision
        assert (decision is not None) == decided
        assert decision is None or decision.replicas == 7, "by the bounds that hold now"

    asyncio.run(asyncio.wait_for(scene(), 30.0))


OTHER_LOAD = {"load": {"query": "up", "match": {"deployment": "web"}}}
BACKLOG = {"load": {"query": "up"}, "backlog": {"query": "sum(up)"}}


@pytest.mark.parametrize(
    ("spec", "kept"),
    [(ASKED, False), ({"metrics": OTHER_LOAD}, False), ({"metrics": BACKLOG}, True), ({"maxReplicas": 7}, True)],
)
def test_the_past_of_another_load_is_forgotten_and_read_anew(spec: dict[str, Any], kept: bool) -> None:
    stage = Stage()
    stage.fleet.see_workload("ADDED", scaler())
    stage.fleet.see_target("ADDED", deployment(10, 5))
    stage.take_in()
    decider = stage.leader.decider
    decider.fill([WEB], NOON - 15.0 * np.arange(60.0, 0.0, -1.0)[None], np.full((1, 60), 5000.0))
    stage.leader.unread.clear()
    stage.leader.ledgers[WEB].ready = True
    stage.fleet.see_workload("MODIFIED", scaler(2, **spec))
    stage.take_in()
    pool, row = decider.home(WEB) or (None, 0)
    assert pool is not None
    assert (pool.known_seconds([row])[0] > 0.0) == kept
    assert (WEB not in stage.leader.unread) == stage.leader.ledgers[WEB].ready == kept
