"""However many workloads there are, the leader decides them in stretches, and others have their turn in between."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
import yaml

from minimal_resource import MINIMAL
from rlscaler_operator.clock import Clock, SystemClock
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.collecting import Collector
from rlscaler_operator.deciding import Admission
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.leading import SLICE, Leader
from rlscaler_operator.model import Account, Decision, Key, Readings, Target, Workload
from rlscaler_operator.policy_store import PolicyStore
from rlscaler_operator.reporting import Reporter
from rlscaler_operator.status import status
from rlscaler_operator.telemetry import Telemetry
from rlscaler_operator.writing import Actuator

WORKLOADS = 5 * SLICE + SLICE // 2
BAD = Key("shop", "w7")


class Told(Reporter):
    """Writes nothing."""

    def __init__(self) -> None:
        pass

    def report(self, account: Account) -> Mapping[str, Any]:
        return status(account, {})


class Steady(Collector):
    """Reads the same load of everyone."""

    def __init__(self) -> None:
        super().__init__({})

    async def collect(self, time: float, workloads: Sequence[Workload], clock: Clock) -> dict[Key, Readings]:
        return {workload.key: Readings(time, 100.0) for workload in workloads}


def fleet_of(count: int) -> Fleet:
    fleet = Fleet()
    for number in range(count):
        body: dict[str, Any] = yaml.safe_load(MINIMAL.replace("name: web", f"name: w{number}"))
        body["metadata"] |= {"namespace": "shop", "uid": f"r{number}", "generation": 1}
        body["spec"]["capacity"] = {"perReplica": "50", "startup": "60s"}
        fleet.see_workload(None, body)
        metadata = {"name": f"w{number}", "namespace": "shop", "uid": f"d{number}", "resourceVersion": "1"}
        spec = {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}}
        fleet.see_target(None, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec,
                                "status": {"replicas": 3, "readyReplicas": 3}})  # fmt: skip
    return fleet


def leader_of(fleet: Fleet) -> Leader:
    clock = SystemClock()
    actuator = Actuator(cast(Cluster, None), lambda: True, clock, random.Random(1))
    kinds = frozenset({("apps", "Deployment")})
    return Leader(fleet, Steady(), PolicyStore(None), actuator, Told(), Telemetry(clock), clock, kinds)


def test_thousands_that_are_due_at_once_are_decided_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        leader = leader_of(fleet_of(WORKLOADS))
        batches: list[int] = []
        turns = [0]
        decide = leader.decider.decide

        def counted(due: Mapping[Key, float], readings: Mapping[Key, Readings], targets: Mapping[Key, Target],
                    *, live: bool = True) -> dict[Key, Decision]:  # fmt: skip
            batches.append(len(due))
            return decide(due, readings, targets, live=live)

        async def other() -> None:
            while True:
                turns[0] += 1
                await asyncio.sleep(0.0)

        monkeypatch.setattr(leader.decider, "decide", counted)
        ticking, beside = asyncio.create_task(leader.ticks()), asyncio.create_task(other())
        while len(leader.unread) < WORKLOADS:
            await asyncio.sleep(0.0)
        assert turns[0] >= WORKLOADS // SLICE  # they were taken in bit by bit too
        scaler, _ = leader.decider.home(Key("shop", "w0")) or (None, 0)
        assert scaler is not None
        assert len(scaler.keys) == WORKLOADS, "room is made once, and for no more than there are"
        leader.begin(list(leader.unread))
        while sum(batches) < WORKLOADS:
            before = len(batches)
            await asyncio.sleep(0.0)
            assert len(batches) <= before + 1, "two stretches in one turn"
        assert max(batches) <= SLICE
        while any(ledger.decision is None for ledger in leader.ledgers.values()):
            await asyncio.sleep(0.0)
        for task in (ticking, beside):
            task.cancel()

    asyncio.run(asyncio.wait_for(scene(), 60.0))


def test_who_falls_behind_decides_by_the_newest_readings_and_tells_what_was_left_out() -> None:
    async def scene() -> None:
        leader = leader_of(fleet_of(3))
        leader.take_in(leader.fleet.take_changed())
        for ledger in leader.ledgers.values():
            ledger.ready = True
        workloads = list(leader.fleet.workloads.values())
        first, *others = (workload.key for workload in workloads)
        group = leader.roster.group(first)
        now = leader.clock.now()
        await leader._read(now - 15.0, group, workloads[:1])
        await leader._read(now - 15.0, group, workloads[1:])
        await leader._read(now, group, workloads[:1])
        assert list(leader._collected) == [first, *others], "who has waited longest comes first"
        assert leader.telemetry.registry.get_sample_value("rlscaler_decisions_late_total") == 1.0
        leader._decide([first])
        decision = leader.ledgers[first].decision
        assert decision is not None
        assert decision.time == now
        assert list(leader._collected) == others

    asyncio.run(asyncio.wait_for(scene(), 60.0))


def test_one_that_cannot_be_admitted_keeps_nobody_else_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        leader = leader_of(fleet_of(20))
        put_all = leader.decider.put_all

        def broken(admissions: Sequence[Admission]) -> None:
            if any(each.key == BAD for each in admissions):
                raise FloatingPointError("a defect")
            put_all(admissions)

        monkeypatch.setattr(leader.decider, "put_all", broken)
        leader.take_in(leader.fleet.take_changed())
        assert set(leader.decider.keys) == set(leader.fleet.workloads) - {BAD}
        monkeypatch.undo()
        leader.take_in([BAD])  # at its next change it is tried again
        assert BAD in leader.decider

    asyncio.run(asyncio.wait_for(scene(), 60.0))
    assert caplog.text.count("a defect of rlscaler") == 1
