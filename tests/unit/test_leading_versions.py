"""The leader tells apart which version of a target it saw, which one its own write made, and whose resource it is."""

import asyncio
import math
import random
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
import yaml

from minimal_resource import MINIMAL
from rlscaler.resource_objects import TargetRef
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.collecting import Collector
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.leading import Leader
from rlscaler_operator.model import Account, Key, Readings
from rlscaler_operator.policy_store import PolicyStore
from rlscaler_operator.reporting import Reporter
from rlscaler_operator.status import status
from rlscaler_operator.telemetry import Telemetry
from rlscaler_operator.writing import Actuator
from workload_accounts import NOON

WEB = Key("shop", "web")
MADE = 12
"""The version that the one write of these tests gives the target."""


class Server(Cluster):
    """Takes each write. wrote: the counts."""

    def __init__(self) -> None:
        self.wrote: list[int] = []

    def locate(self, namespace: str, ref: TargetRef) -> str:
        return ""

    def resize(self, namespace: str, ref: TargetRef, seen: int, wanted: int, timeout: float | None = None) -> int:
        self.wrote.append(wanted)
        return MADE


class Told(Reporter):
    """Writes nothing, and keeps the newest account."""

    def __init__(self) -> None:
        self.account: Account | None = None

    def report(self, account: Account) -> Mapping[str, Any]:
        self.account = account
        return status(account, {})

    def forget(self, key: Key) -> None:
        self.account = None

    @property
    def conflict(self) -> str:
        assert self.account is not None
        return self.account.conflict.reason if self.account.conflict else ""


class Time:
    """A clock that stands at noon."""

    def monotonic(self) -> float:
        return NOON

    now = monotonic


def scaler(**annotations: str) -> dict[str, Any]:
    body: dict[str, Any] = yaml.safe_load(MINIMAL)
    body["metadata"] = {"name": "web", "namespace": "shop", "uid": "1", "generation": 1, "annotations": annotations}
    body["spec"]["mode"] = "Active"
    return body


def deployment(version: int, replicas: int) -> dict[str, Any]:
    """Return a target that does not say who set its count; its status differs from version to version."""
    metadata = {"name": "web", "namespace": "shop", "uid": "2", "resourceVersion": str(version)}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec,
            "status": {"replicas": version}}  # fmt: skip


def test_only_a_view_from_before_our_write_is_late() -> None:
    async def scene() -> None:
        fleet, server, told, clock = Fleet(), Server(), Told(), Time()
        actuator = Actuator(server, lambda: True, clock, random.Random(1))
        nothing = cast(Collector, None)
        kinds = frozenset({("apps", "Deployment")})
        leader = Leader(fleet, nothing, PolicyStore(None), actuator, told, Telemetry(clock), clock, kinds)

        def look(version: int, replicas: int) -> str:
            fleet.see_target("MODIFIED", deployment(version, replicas))
            leader.take_in(fleet.take_changed())
            return told.conflict

        fleet.see_workload("ADDED", scaler(**{"rlscaler.io/force-replicas": "8"}))
        assert look(10, 5) == ""
        while told.account is None or not told.account.wrote:
            await asyncio.sleep(0.001)
        fleet.see_workload("MODIFIED", scaler())  # nothing is forced any more, so that it stays at one write
        assert look(11, 5) == "", "a pod became ready; the watch has not come to our write yet"
        assert look(13, 5) == "ReplicasRewritten", "somebody set it back before the watch ever showed our write"
        assert server.wrote == [8]
        await actuator.drain(1.0)

    asyncio.run(asyncio.wait_for(scene(), 30.0))


def test_what_is_learned_of_one_target_is_not_believed_of_another(caplog: pytest.LogCaptureFixture) -> None:
    """Its replicas may be of another program, and half as large."""
    learned = {"capacity": 40.0, "error": 0.02, "startup": 90.0, "usual": 90.0, "requests": 3.0, "noise": 9.0}

    async def scene() -> None:
        fleet, clock = Fleet(), Time()
        actuator = Actuator(Server(), lambda: True, clock, random.Random(1))
        nothing, kinds = cast(Collector, None), frozenset({("apps", "Deployment")})
        leader = Leader(fleet, nothing, PolicyStore(None), actuator, Told(), Telemetry(clock), clock, kinds)

        def look(generation: int, **spec: Any) -> tuple[float, float]:
            """Return the capacity and the start-up that decide then."""
            body = scaler()
            body["metadata"]["generation"] = generation
            body["spec"] |= {"capacity": {}} | spec
            body["spec"]["metrics"] |= {"utilization": {"query": "busy"}}
            fleet.see_workload("MODIFIED", body)
            leader.take_in(fleet.take_changed())
            found = leader.decider.home(WEB)
            assert found is not None
            settings = found[0].settings([found[1]])
            return settings["capacity_per_replica"].item(), settings["startup"].item()

        look(1)
        (batch,) = leader.decider.memory([WEB])
        values = {name: np.array([value], np.float32) for name, value in learned.items()}
        leader.decider.recall(batch._replace(parts={**batch.parts, "learned": values}))
        assert look(2, maxReplicas=20) == (40.0, 90.0)
        assert not caplog.messages
        other = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"}
        assert look(3, scaleTargetRef=other) == pytest.approx((math.nan, 60.0), nan_ok=True)
        assert len(caplog.messages) == 1
        assert "spec.scaleTargetRef names another target" in caplog.messages[0]
        assert leader.notes(WEB)["target"] == "Deployment shop/other"
        await actuator.drain(0.0)

    asyncio.run(scene())


def test_a_resource_that_was_made_anew_starts_without_a_past() -> None:
    """A watch may show its end and the new one at once, or a list the new one alone."""

    async def scene(*events: tuple[str | None, dict[str, Any]]) -> None:
        fleet, clock = Fleet(), Time()
        actuator = Actuator(Server(), lambda: True, clock, random.Random(1))
        nothing, kinds = cast(Collector, None), frozenset({("apps", "Deployment")})
        leader = Leader(fleet, nothing, PolicyStore(None), actuator, Told(), Telemetry(clock), clock, kinds)
        fleet.see_target("ADDED", deployment(10, 5))
        fleet.see_workload("ADDED", scaler())
        leader.take_in(fleet.take_changed())
        before, target = leader.ledgers[WEB], leader.target(WEB)
        assert target is not None
        before.last_scale = NOON - 60.0
        leader.unread.discard(WEB)
        leader.decider.decide({WEB: NOON}, {WEB: Readings(NOON, 132.0)}, {WEB: target})
        for event_type, body in events:
            fleet.see_workload(event_type, body)
        leader.take_in(fleet.take_changed())
        assert leader.ledgers[WEB] is not before
        assert WEB in leader.unread
        assert not leader.decider.has_decided(WEB)
        assert math.isnan(leader.ledgers[WEB].last_scale)
        await actuator.drain(0.0)

    anew = scaler()
    anew["metadata"] |= {"uid": "9", "resourceVersion": "20"}
    asyncio.run(scene(("DELETED", scaler()), ("ADDED", anew)))
    asyncio.run(scene((None, anew)))
