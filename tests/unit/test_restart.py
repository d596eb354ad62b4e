"""A restart changes no decision: in a scale-down window, in a limited scale-up, at every tick, after ticks missed."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.policies import load_policy
from rlscaler.resource_objects import Query
from rlscaler_operator import checkpoint, keeping, past_loads
from rlscaler_operator.deciding import Decider
from rlscaler_operator.keeping import Keeper
from rlscaler_operator.leading import Leader
from rlscaler_operator.model import Decision, Key, PolicyInUse, Readings, Target, TargetKey
from rlscaler_operator.older_past import OlderPast
from rlscaler_operator.past_loads import Loads, PastLoads
from rlscaler_operator.queries import Group, group_of
from rlscaler_operator.roster import Roster
from rlscaler_operator.shelf import Shelf
from rlscaler_operator.timestamps import stamp
from workload_accounts import resource, workload

INTERVAL = 15.0
BEGIN = 1.75e9 - 1.75e9 % INTERVAL
BEFORE = 30
"""Ticks of load that are known before the first decision."""

BEHAVIORS: dict[str, dict[str, Any]] = {
    "none": {},
    "written, so HPA's default": {"behavior": {}},
    "a short window": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 120}}},
    "a scale-down at a limited pace": {
        "behavior": {
            "scaleDown": {
                "stabilizationWindowSeconds": 60,
                "policies": [{"type": "Pods", "value": 2, "periodSeconds": 90}],
            }
        }
    },
    "both ways, the least of several policies": {
        "behavior": {
            "scaleUp": {
                "stabilizationWindowSeconds": 45,
                "selectPolicy": "Min",
                "policies": [
                    {"type": "Percent", "value": 50, "periodSeconds": 60},
                    {"type": "Pods", "value": 3, "periodSeconds": 120},
                ],
            },
            "scaleDown": {
                "stabilizationWindowSeconds": 200,
                "policies": [{"type": "Percent", "value": 20, "periodSeconds": 60}],
            },
        }
    },
}
POLICIES = ("default", "hpa", "erlang", "lcp", "keda", "kpa", "phpa")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no further workloads whose past could be read together."""
    monkeypatch.setattr(keeping, "GATHER", 0.0)


class World:
    """Workloads whose load is given, whose targets ask for what was decided, and whose operator can be restarted.

    loads: requests/s of each workload at each tick, (N, BEFORE + ticks); specs: of their resources. A decision is
    written before the next tick.
    """

    def __init__(self, loads: np.ndarray, specs: Iterable[Mapping[str, Any]], policy: str = "hpa") -> None:
        self.loads, self.tick, self.policy = loads, BEFORE, load_policy(policy)
        self.times = BEGIN + INTERVAL * np.arange(loads.shape[1])
        spec: dict[str, Any] = {
            "minReplicas": 1,
            "maxReplicas": 100,
            "interval": "15s",
            "capacity": {"perReplica": "10", "startup": "60s"},
        }
        self.resources = {}
        for number, own in enumerate(specs):
            name = f"w{number}"
            self.resources[Key("shop", name)] = resource(name, **(spec | dict(own)))
        self.keys = list(self.resources)
        self.counts = dict.fromkeys(self.keys, 12)
        self.turns = 0
        self.decider = self._decider()
        rows = len(self.keys)
        self.decider.fill(self.keys, np.tile(self.times[:BEFORE], (rows, 1)), loads[:, :BEFORE])

    def _decider(self) -> Decider:
        decider = Decider(timer=lambda: 0.0)
        for key, its in self.resources.items():
            decider.put(key, its, self.policy, PolicyInUse("rule"))
        return decider

    def target(self, key: Key) -> Target:
        count = self.counts[key]
        which = TargetKey(key.namespace, "apps", "Deployment", key.name)
        return Target(which, "uid", count, count, count, manager="rlscaler")

    def decide(self, write: bool = True) -> dict[Key, Decision]:
        """Decide at the next tick, and write what was decided."""
        time, load = float(self.times[self.tick]), self.loads[:, self.tick]
        due = dict.fromkeys(self.keys, time)
        readings = {key: Readings(time, float(load[row])) for row, key in enumerate(self.keys)}
        made = self.decider.decide(due, readings, {key: self.target(key) for key in self.keys})
        if write:
            self.counts = {key: decision.replicas for key, decision in made.items()}
        self.tick += 1
        return made

    def kept(self) -> bytes:
        """Return the state as a blob of a checkpoint."""
        notes = {key: {"replicas": self.counts[key]} for key in self.keys}
        return checkpoint.packed(self.decider.memory(self.keys), notes)

    def restart(self, blob: bytes, status: Mapping[str, Any] | None = None) -> None:
        """Begin anew with a blob and the last hour of load, as an operator does that takes over before the next tick.

        status: of all resources. Afterwards `turns` tells how often others had their turn meanwhile.
        """
        self.decider, self.turns = self._decider(), 0
        asyncio.run(_took_over(self, blob, status or {}))


class _Table(PastLoads):
    """The past loads where Prometheus is a table."""

    def __init__(self, world: World, leader: Leader) -> None:
        super().__init__(leader)
        self._world = world

    async def of_group(self, group: Group, members: Mapping[Key, Query], start: float, end: float) -> dict[Key, Loads]:
        asked = (self._world.times > start) & (self._world.times <= end)
        return {key: Loads(self._world.times[asked], self._world.loads[self._world.keys.index(key), asked])
                for key in members}  # fmt: skip


async def _took_over(world: World, blob: bytes, status: Mapping[str, Any]) -> None:
    now = float(world.times[world.tick]) - 1.0
    workloads = {key: workload(key.name, resource=its, status=status) for key, its in world.resources.items()}
    begun: list[Key] = []
    roster = Roster()
    for key, its in world.resources.items():
        roster.place(key, group_of(its.spec), now)
    leader = SimpleNamespace(
        decider=world.decider,
        clock=SimpleNamespace(now=lambda: now, monotonic=lambda: now),
        fleet=SimpleNamespace(workloads=workloads),
        ledgers={},
        unread=set(world.keys),
        roster=roster,
        target=world.target,
        recall_policies=lambda notes: None,
        refused=lambda keys: set(),
        recall_notes=lambda key, notes, ahead: None,
        begin=begun.extend,
    )
    shelf = SimpleNamespace(read=lambda: [("the checkpoint", blob)])
    loads = _Table(world, cast(Leader, leader))
    older = OlderPast(cast(Leader, leader), loads, lambda: 0.0)
    keeper = Keeper(cast(Leader, leader), cast(Shelf, shelf), loads, older)
    await keeper.restore()
    reading = asyncio.create_task(keeper.read_recent())
    async with asyncio.timeout(60.0):
        while not begun and not reading.done():
            world.turns += 1
            await asyncio.sleep(0.0)
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading


def alike(one: dict[Key, Decision], other: dict[Key, Decision], when: str) -> None:
    for key, decision in one.items():
        mine = (decision.replicas, decision.bits, decision.proposal, decision.recommendation, decision.coverage)
        found = other[key]
        theirs = (found.replicas, found.bits, found.proposal, found.recommendation, found.coverage)
        np.testing.assert_array_equal(mine, theirs, err_msg=f"{key} {when}")


def falls(rng: np.random.Generator, ticks: int) -> np.ndarray:
    """Return a load that rises, falls and comes back in part."""
    shape = np.concatenate([np.full(BEFORE, 120.0), np.linspace(120.0, 300.0, 6), np.full(6, 300.0),
                            np.full(ticks - 18, 60.0), np.full(6, 150.0)])  # fmt: skip
    load: np.ndarray = shape * np.exp(0.05 * rng.standard_normal(len(shape)))
    return load


@pytest.mark.parametrize("policy", POLICIES)
def test_a_restart_at_every_tick_changes_no_decision(policy: str) -> None:
    rng = np.random.default_rng(1)
    loads = np.stack([falls(rng, 40) for _ in BEHAVIORS])
    stays, restarts = (World(loads, BEHAVIORS.values(), policy) for _ in range(2))
    seen = set()
    for tick in range(40):
        if tick:
            restarts.restart(restarts.kept())
        decided = stays.decide()
        alike(decided, restarts.decide(), f"at tick {tick}")
        seen |= {decision.replicas for decision in decided.values()}
    assert max(seen) > 2 * min(seen), "nothing was scaled, so nothing was shown"


@pytest.mark.parametrize("missed", [1, 4, 13])
def test_who_takes_over_after_missed_ticks_decides_as_one_that_could_not_write_meanwhile(missed: int) -> None:
    rng = np.random.default_rng(2)
    loads = np.stack([falls(rng, 60) for _ in BEHAVIORS])
    stays, restarts = (World(loads, BEHAVIORS.values()) for _ in range(2))
    for tick in range(15):  # the load has just fallen, and windows are in progress
        alike(stays.decide(), restarts.decide(), f"at tick {tick}")
    blob = restarts.kept()
    for _ in range(missed):
        stays.decide(write=False)
    restarts.tick += missed
    restarts.restart(blob)
    for tick in range(25):
        alike(stays.decide(), restarts.decide(), f"{tick} ticks later")


def test_without_its_memory_a_restart_would_end_a_window_early() -> None:
    """The counter-example: what the tests above compare is not equal by itself."""
    loads = falls(np.random.default_rng(3), 40)[None]
    stays, restarts = (World(loads, [BEHAVIORS["written, so HPA's default"]]) for _ in range(2))
    for _ in range(15):
        stays.decide()
        restarts.decide()
    (key,) = restarts.keys
    restarts.counts[key] = stays.counts[key] = 40
    restarts.restart(checkpoint.packed([], {}))
    found = [(stays.decide()[key].replicas, restarts.decide()[key].replicas) for _ in range(24)]
    assert any(mine != theirs for mine, theirs in found)


@pytest.mark.parametrize(
    ("told", "expected"),
    [(True, [14, 14, 14, 18, 18, 18]), (False, [14, 14, 14, 14, 18, 18])],
    ids=["the status tells when", "nobody tells when"],
)
def test_a_write_that_no_checkpoint_saw_counts_for_the_scaling_policies(told: bool, expected: list[int]) -> None:
    """The leader is killed after a write that raised 10 to 14, 4 being all that the policy allows within 60 s."""
    pace = {"behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]}}}
    world = World(np.full((1, BEFORE + 20), 900.0), [pace])
    (key,) = world.keys
    world.counts[key] = 10
    before = world.kept()
    (wrote,) = world.decide().values()
    assert wrote.replicas == 14
    world.restart(before, {"desiredReplicas": 14, "lastScaleTime": stamp(wrote.time + 0.2)} if told else {})
    assert [world.decide()[key].replicas for _ in expected] == expected


@pytest.mark.parametrize("remembers", [True, False])
def test_who_takes_over_has_time_to_renew_the_lease_meanwhile(remembers: bool) -> None:
    world = World(np.full((1, BEFORE + 240), 100.0), [{}])
    world.decide()
    blob = world.kept()
    world.tick += 200
    world.restart(blob if remembers else checkpoint.packed([], {}))
    assert world.turns >= 200 / max(past_loads.SLICE, keeping.TICKS)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    policy=st.sampled_from(POLICIES),
    behavior=st.sampled_from(sorted(BEHAVIORS)),
    unknown=st.floats(0.0, 0.3),
)
def test_restarts_at_random_change_no_decision(seed: int, policy: str, behavior: str, unknown: float) -> None:
    rng = np.random.default_rng(seed)
    steps = np.exp(np.cumsum(rng.normal(0.0, 0.25, (2, BEFORE + 30)), axis=1))
    loads = np.where(rng.random(steps.shape) < unknown, np.nan, np.clip(120.0 * steps, 1.0, 2000.0))
    stays, restarts = (World(loads, [BEHAVIORS[behavior]] * 2, policy) for _ in range(2))
    for tick in range(30):
        if tick and rng.random() < 0.3:
            restarts.restart(restarts.kept())
        alike(stays.decide(), restarts.decide(), f"at tick {tick}")
