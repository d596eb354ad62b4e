"""The Lease is given away when no write of ours can land any more, and runs out by itself where that is not known."""

import asyncio
import random
import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rlscaler.resource_objects import TargetRef
from rlscaler_operator import running
from rlscaler_operator.clock import SystemClock
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.keeping import Keeper
from rlscaler_operator.leading import Leader
from rlscaler_operator.model import Key
from rlscaler_operator.reporting import Reporter
from rlscaler_operator.running import Operator
from rlscaler_operator.shelf import Shelf
from rlscaler_operator.under_way import UnderWay
from rlscaler_operator.writing import Actuator
from workload_accounts import account


class Server(Cluster):
    """Answers a write when the gate is open. told: what happens, in its order."""

    def __init__(self, told: list[str]) -> None:
        self.begun, self.gate, self.told = threading.Event(), threading.Event(), told

    def _answer(self, what: str) -> None:
        self.begun.set()
        assert self.gate.wait(20.0)
        self.told.append(what)

    def locate(self, namespace: str, ref: TargetRef) -> str:
        return ""

    def resize(self, namespace: str, ref: TargetRef, seen: int, wanted: int, timeout: float | None = None) -> int:
        self._answer("count")
        return 12

    def patch_status(self, key: Key, status: Mapping[str, Any], uid: str = "", timeout: float | None = None) -> None:
        self._answer("status")

    def put_config_map(self, *_: Any, **__: Any) -> None:
        self._answer("state")


class Elector:
    """Leads until it rests. on_rest: called then."""

    def __init__(self, told: list[str], on_rest: Callable[[], None]) -> None:
        self._told, self._on_rest, self._rests = told, on_rest, False

    def valid(self) -> bool:
        return not self._rests

    def rest(self) -> None:
        self._rests = True
        self._on_rest()

    async def release(self) -> bool:
        self._told.append("given away")
        return True


async def ended(what: str, answers: bool) -> list[str]:
    """Return what happened until an operator has ended, while a write of this kind is under way as it begins to.

    answers: the API server answers it a moment later, else after the end.
    """
    told: list[str] = []
    server, writes = Server(told), UnderWay()
    elector = Elector(told, server.gate.set if answers else lambda: None)
    clock = SystemClock()
    reporter = Reporter(server, clock, elector.valid, patience=0.0, writes=writes)
    actuator = Actuator(server, elector.valid, clock, random.Random(1), writes=writes)
    shelf = Shelf(server, "rlscaler", "lease", elector.valid, writes=writes)

    async def save() -> None:
        if what == "state":
            await asyncio.to_thread(shelf.write, [b"a", b"b"])

    leader, keeper = SimpleNamespace(rest=lambda: None), SimpleNamespace(save=save)
    reign = running._Reign(cast(Leader, leader), cast(Keeper, keeper), actuator, reporter, None)

    async def nothing() -> None:
        pass

    operator = SimpleNamespace(
        _reign=reign, _lead=asyncio.create_task(reporter.run()), _writes=writes, elector=elector,
        health=SimpleNamespace(stop=nothing), cluster=SimpleNamespace(close=lambda: None),
    )  # fmt: skip
    one = account(wanted=6)
    if what == "status":
        reporter.report(one)
    elif what == "count":
        assert one.workload.resource is not None
        actuator.submit(one, one.workload.resource.spec.scale_target_ref)
    if what in ("status", "count"):
        await asyncio.to_thread(server.begun.wait, 20.0)
    await Operator._end(cast(Operator, operator), (), ())
    found = list(told)
    server.gate.set()
    assert await asyncio.to_thread(writes.ended, 20.0)
    return found


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DRAIN", "KEEP"):
        monkeypatch.setattr(running, name, 0.02)


@pytest.mark.parametrize("what", ["count", "status", "state"])
def test_a_write_under_way_ends_before_the_lease_is_given_away(what: str) -> None:
    assert asyncio.run(ended(what, answers=True)) == [what, "given away"]


@pytest.mark.parametrize("what", ["count", "status", "state"])
def test_a_lease_runs_out_where_a_write_has_no_answer(
    what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may land whenever the API server gets to it, and by then another one would lead."""
    monkeypatch.setattr(running, "LAST_WRITES", 0.02)
    assert asyncio.run(ended(what, answers=False)) == []
    assert "the Lease is not given away but runs out" in caplog.text


def test_without_a_write_the_lease_is_given_away_at_once() -> None:
    assert asyncio.run(ended("nothing", answers=False)) == ["given away"]
