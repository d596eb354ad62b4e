"""A mistake in a spec that is mended later costs nothing of what was learned."""

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml

from minimal_resource import MINIMAL
from rlscaler.policies import SPARE_RULE, artifact_path
from rlscaler.resource_objects import Query
from rlscaler_operator import checkpoint
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.collecting import Collector
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.keeping import Keeper
from rlscaler_operator.leading import Leader
from rlscaler_operator.model import Account, Key, PolicyInUse, Readings
from rlscaler_operator.older_past import OlderPast
from rlscaler_operator.past_loads import Loads, PastLoads
from rlscaler_operator.policy_store import PolicyStore
from rlscaler_operator.queries import Group
from rlscaler_operator.reporting import Reporter
from rlscaler_operator.shelf import Shelf
from rlscaler_operator.status import status
from rlscaler_operator.telemetry import Telemetry
from rlscaler_operator.writing import Actuator
from set_clock import SetClock

WEB = Key("shop", "web")
BEGIN, INTERVAL = 1.75e9 - 1.75e9 % 15.0, 15.0
LEARNED = {"capacity": 40.0, "error": 0.02, "startup": 90.0, "usual": 90.0, "requests": 3.0, "noise": 9.0}
TYPO: dict[str, Any] = {"minReplicas": 30, "maxReplicas": 20}


class Told(Reporter):
    """Writes nothing, and keeps the newest status."""

    def __init__(self) -> None:
        self.status: Mapping[str, Any] = {}

    def report(self, account: Account) -> Mapping[str, Any]:
        self.status = status(account, {})
        return self.status

    def forget(self, key: Key) -> None:
        self.status = {}


class Table(PastLoads):
    """A source whose load is known at every tick."""

    async def of_group(self, group: Group, members: Mapping[Key, Query], start: float, end: float) -> dict[Key, Loads]:
        times = np.arange(group.interval * math.ceil(start / group.interval), end + 1.0, group.interval)
        return {key: Loads(times, load_at(times)) for key in members}


def load_at(times: np.ndarray) -> np.ndarray:
    """Return a load of 600 requests/s that is 200 after ten ticks."""
    return np.where(times < BEGIN + 10.5 * INTERVAL, 600.0, 200.0)


class Stage:
    """A leader of one workload with 16 replicas, whose past is read where it has to be."""

    def __init__(self, folder: Path | None = None) -> None:
        self.clock, self.told, self.fleet, self.folder = SetClock(BEGIN), Told(), Fleet(), folder
        self.actuator = Actuator(cast(Cluster, None), lambda: True, self.clock, random.Random(1))
        self.begin()
        self.generation = 0
        for name in ("web", "other"):
            metadata = {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1"}
            spec = {"replicas": 16, "selector": {"matchLabels": {"app": name}}}
            body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
            self.fleet.see_target("ADDED", body | {"status": {"replicas": 16, "readyReplicas": 16}})

    def begin(self, kept: Mapping[Key, checkpoint.Kept] | None = None) -> None:
        """Begin as an operator does that has just become the leader. kept: by the one before."""
        self.leader = Leader(self.fleet, cast(Collector, None), PolicyStore(self.folder), self.actuator, self.told,
                             Telemetry(self.clock), self.clock, frozenset({("apps", "Deployment")}))  # fmt: skip
        self.leader._collect = lambda *_: None  # type: ignore[method-assign]
        self.leader.decider._timer = lambda: 0.0
        loads = Table(self.leader)
        self.keeper = Keeper(self.leader, cast(Shelf, None), loads, OlderPast(self.leader, loads, lambda: 0.0))
        self.keeper._kept = dict(kept or {})

    def restart(self) -> None:
        """Begin anew by what has been kept; who was read already is read again."""
        kept, note = checkpoint.unpacked(self.keeper._packed([WEB]), "a blob")
        assert note is None
        self.begin(kept)
        self.leader.take_in(list(self.fleet.workloads))

    def apply(self, **spec: Any) -> None:
        """Let the operator see a spec, and read the past of who is new by it."""
        self.generation += 1
        body: dict[str, Any] = yaml.safe_load(MINIMAL)
        body["metadata"] = {"name": "web", "namespace": "shop", "uid": "1", "generation": self.generation}
        body["spec"] |= {"mode": "Active", "maxReplicas": 100, "capacity": {}} | spec
        body["spec"]["metrics"] = {"utilization": {"query": "busy"}} | body["spec"]["metrics"]
        self.fleet.see_workload("MODIFIED", body)
        self.leader.take_in(self.fleet.take_changed())

    async def read(self) -> None:
        for keys in self.keeper._unread({}, set()).values():
            await self.keeper._remember(keys, await self.keeper._recent(keys))

    def learn(self) -> None:
        (batch,) = self.leader.decider.memory([WEB])
        values = {name: np.array([value], np.float32) for name, value in LEARNED.items()}
        self.leader.decider.recall(batch._replace(parts={**batch.parts, "learned": values}))

    def tick(self, tick: int) -> int:
        """Return what is decided at a tick, -1 where nothing is."""
        self.clock.at = BEGIN + tick * INTERVAL
        target = self.leader.target(WEB)
        if target is None or not self.leader._is_decided(WEB):
            return -1
        readings = {WEB: Readings(self.clock.at, float(load_at(np.array(self.clock.at))))}
        return self.leader.decider.decide({WEB: self.clock.at}, readings, {WEB: target})[WEB].replicas

    @property
    def known(self) -> tuple[float, float, float]:
        """The capacity, the start-up and the seconds of tenure that decide now."""
        scaler, row = self.leader.decider.home(WEB) or pytest.fail("nothing is remembered")
        settings = scaler.settings([row])
        sure = scaler.memory([row], ("policy",))["policy"]["known"].item()
        return settings["capacity_per_replica"].item(), settings["startup"].item(), sure


def play(change: Callable[[Stage, int], None], ticks: int = 32) -> tuple[list[int], Stage]:
    """Return what is decided at each tick, where something may change before it."""

    async def scene() -> tuple[list[int], Stage]:
        stage = Stage()
        stage.apply()
        stage.learn()
        await stage.read()
        found = []
        for tick in range(ticks):
            stage.clock.at = BEGIN + tick * INTERVAL - 1.0
            change(stage, tick)
            await stage.read()
            found.append(stage.tick(tick))
        await stage.actuator.drain(0.0)
        return found, stage

    return asyncio.run(asyncio.wait_for(scene(), 60.0))


def typo(stage: Stage, tick: int) -> None:
    """Apply a mistake just after the load has fallen, and mend it two minutes later."""
    if tick == 12:
        stage.apply(**TYPO)
    elif tick == 20:
        stage.apply()


def test_a_mistake_that_is_mended_costs_its_time_and_nothing_else() -> None:
    expected, undisturbed = play(lambda stage, tick: None)
    found, stage = play(typo)
    assert found[12:20] == [-1] * 8
    assert found[:12] + found[20:] == expected[:12] + expected[20:]
    assert expected[20] > expected[-1], "the scale-down window ends later, or nothing was shown"
    assert stage.known == undisturbed.known


def test_what_is_learned_is_kept_while_nothing_is_decided() -> None:
    """Else a restart at that moment would leave nothing of it."""
    found, stage = play(typo, 15)
    assert found[-1] == -1
    assert (stage.told.status["conditions"][0]["reason"]) == "InvalidSpec"
    kept, note = checkpoint.unpacked(stage.keeper._packed([WEB]), "a blob")
    assert note is None
    assert kept[WEB].time == BEGIN + 11 * INTERVAL
    assert kept[WEB].batch.parts["learned"]["capacity"].tolist() == [40.0]
    assert kept[WEB].notes["target"] == "Deployment shop/web"


@pytest.mark.parametrize(
    ("mended", "capacity", "startup"),
    [
        ({}, 40.0, 90.0),
        ({"interval": "30s"}, 40.0, 90.0),
        ({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"}}, math.nan, 60.0),
        ({"metrics": {"load": {"query": "another"}}}, 40.0, 90.0),
    ],
    ids=["as before", "another interval", "another target", "another load of the same size"],
)
def test_who_mends_it_with_another_spec_is_treated_as_without_the_mistake(
    mended: Mapping[str, Any], capacity: float, startup: float
) -> None:
    def change(stage: Stage, tick: int) -> None:
        if tick == 20:
            stage.apply(**TYPO)
            stage.apply(**mended)

    _, stage = play(change, 21)
    assert stage.known[:2] == pytest.approx((capacity, startup), nan_ok=True)


def test_one_that_is_deleted_while_nothing_is_decided_leaves_nothing() -> None:
    _, stage = play(typo, 15)
    stage.fleet.keep_workloads(None, (), 99)
    stage.leader.take_in(stage.fleet.take_changed())
    assert WEB not in stage.leader.decider
    assert WEB not in stage.leader.ledgers


@pytest.mark.parametrize(
    "mistake", [{"name": "defualt"}, {"name": "default", "digest": f"sha256:{'0' * 64}"}, {"server": "gpu"}], ids=str
)
def test_the_policy_before_decides_while_the_one_asked_for_is_not_there(mistake: Mapping[str, Any]) -> None:
    """The rule in its place would have no memory, and the policy none of its own when it is back."""

    def change(stage: Stage, tick: int) -> None:
        if tick == 12:
            stage.apply(policy=mistake)
        elif tick == 20:
            assert stage.leader.ledgers[WEB].policy_problem is not None
            stage.apply()

    expected, undisturbed = play(lambda stage, tick: None, 24)
    found, stage = play(change, 24)
    assert stage.leader.ledgers[WEB].policy_problem is None
    assert found == expected
    assert stage.known == undisturbed.known


@pytest.mark.parametrize("mistake", [{"name": "defualt"}, {"server": "gpu"}], ids=str)
def test_a_restart_meanwhile_lets_the_policy_before_go_on(mistake: Mapping[str, Any]) -> None:
    def change(stage: Stage, tick: int) -> None:
        if tick == 12:
            stage.apply(policy=mistake)
        elif tick == 14:
            stage.restart()
            assert stage.leader.ledgers[WEB].policy_problem is not None
        elif tick == 20:
            stage.apply()

    expected, undisturbed = play(lambda stage, tick: None, 24)
    found, stage = play(change, 24)
    assert stage.leader.ledgers[WEB].policy_problem is None
    assert found == expected
    assert stage.known == pytest.approx(undisturbed.known)


def test_restarts_while_a_policy_is_gone_cost_nothing_of_what_it_had_earned(tmp_path: Path) -> None:
    path = tmp_path / "mine.rlz"
    path.write_bytes(artifact_path("default").read_bytes())

    async def scene() -> None:
        stage = Stage(tmp_path)
        stage.apply(policy={"name": "mine"})
        stage.learn()
        await stage.read()
        for tick in range(12):
            stage.tick(tick)
        earned, led = stage.known[2], stage.leader.decider._leaders[WEB]
        assert earned > 0.0
        path.unlink()
        for tick in range(12, 15):
            stage.restart()
            assert stage.leader.ledgers[WEB].in_use == PolicyInUse(SPARE_RULE)
            await stage.read()
            stage.tick(tick)
        path.write_bytes(artifact_path("default").read_bytes())
        stage.leader.policies_changed(stage.leader.store.refresh())
        assert stage.known[2] == pytest.approx(earned)
        assert stage.leader.decider._leaders[WEB] == led

    asyncio.run(asyncio.wait_for(scene(), 60.0))


def test_what_is_set_aside_is_forgotten_once_another_policy_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "mine.rlz"
    path.write_bytes(artifact_path("default").read_bytes())

    async def scene() -> None:
        stage = Stage(tmp_path)
        stage.apply(policy={"name": "mine"})
        await stage.read()
        stage.tick(0)
        path.unlink()
        stage.restart()
        await stage.read()
        (batch,) = stage.leader.decider.memory([WEB])
        assert any(part.startswith("policy mine ") for part in batch.parts)
        stage.apply(policy={"name": "hpa"})
        (batch,) = stage.leader.decider.memory([WEB])
        assert not any(part.startswith("policy mine ") for part in batch.parts)

    asyncio.run(asyncio.wait_for(scene(), 60.0))


def test_the_rule_decides_where_nothing_that_was_asked_for_was_ever_there() -> None:
    def change(stage: Stage, tick: int) -> None:
        stage.leader.ledgers.clear()
        stage.leader.decider.drop(WEB)
        stage.apply(policy={"name": "defualt"})

    _, stage = play(change, 1)
    assert stage.leader.ledgers[WEB].in_use == PolicyInUse(SPARE_RULE)
