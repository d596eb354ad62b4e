"""The past before the last hour: read a little at a time, and the longer it takes, the more was lived through."""

import asyncio
import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from rlscaler.policies import load_policy
from rlscaler.prometheus import SeriesRange
from rlscaler_operator import keeping, older_past, past
from rlscaler_operator.collecting import Line
from rlscaler_operator.deciding import Admission, Decider
from rlscaler_operator.keeping import Keeper
from rlscaler_operator.leading import Leader
from rlscaler_operator.ledger import Ledger
from rlscaler_operator.model import Key, Note, PolicyInUse
from rlscaler_operator.older_past import OlderPast
from rlscaler_operator.past_loads import PastLoads
from rlscaler_operator.queries import Ask, group_of
from rlscaler_operator.roster import Roster
from rlscaler_operator.shelf import Shelf
from set_clock import SetClock
from workload_accounts import resource, workload

NOW = 1.75e9
DAY = 86_400.0
INTERVAL = "60s"
IN_USE = PolicyInUse("growth-quantile")


class Source:
    """A source that knows a day of each of some queries. takes: seconds that an answer does."""

    def __init__(self, clock: SetClock, known: set[str], takes: float) -> None:
        self.clock, self.known, self.takes = clock, known, takes
        self.largest = math.inf  # times of one answer
        self.timeout, self.has_past = 10.0, True
        self.asked, self.under_way, self.most = 0, 0, 0

    async def offset(self, deadline: float) -> float:
        return 0.0

    async def range(self, query: str, start: float, end: float, step: float, deadline: float) -> SeriesRange | Note:
        self.asked, self.under_way = self.asked + 1, self.under_way + 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.0)
        self.clock.at += self.takes
        self.under_way -= 1
        times = start + step * np.arange(round((end - start) / step) + 1)
        if len(times) > self.largest:
            return Note("TooLarge", "sends too much")
        if query not in self.known:
            return SeriesRange((), times, np.zeros((0, len(times))))
        return SeriesRange(({},), times, np.where(times > NOW - DAY, 100.0 + times % 7.0, np.nan)[None, :])


class Scene:
    """Workloads with a query each, of which `known` have a past, and their last hour."""

    def __init__(self, count: int, known: int, takes: float = 0.0) -> None:
        self.clock, self.decider, self.roster = SetClock(NOW), Decider(), Roster()
        self.keys = [Key("shop", f"w{number}") for number in range(count)]
        resources = {
            key: resource(key.name, interval=INTERVAL, metrics={"load": {"query": key.name}}) for key in self.keys
        }
        self.source = Source(self.clock, {key.name for key in self.keys[:known]}, takes)
        rule = load_policy("growth-quantile")
        self.decider.put_all([Admission(key, its, rule, IN_USE) for key, its in resources.items()])
        for key, its in resources.items():
            self.roster.place(key, group_of(its.spec), NOW)
            times = past.grid(self.roster.group(key), NOW - past.HOUR, NOW)[None, :]
            self.decider.fill([key], times, np.full(times.shape, 100.0))
        self.leader: Any = SimpleNamespace(
            decider=self.decider, roster=self.roster, clock=self.clock, unread=set(self.keys),
            fleet=SimpleNamespace(workloads={key: workload(key.name, resource=its) for key, its in resources.items()}),
            collector=SimpleNamespace(lines={"default": cast(Line, self.source)}),
            target=lambda key: key, ledgers={key: Ledger() for key in self.keys},
        )  # fmt: skip
        leader = cast(Leader, self.leader)
        self.older = OlderPast(leader, PastLoads(leader), lambda: 7.0 * DAY)
        self.keeper = Keeper(leader, cast(Shelf, None), PastLoads(leader), self.older)

    def read(self) -> np.ndarray:
        """Read the older past, and return the seconds of load that are known of each workload."""
        asyncio.run(asyncio.wait_for(self.older.read(self.keys), 60.0))
        return self.known()

    def known(self) -> np.ndarray:
        scaler, _ = self.decider.home(self.keys[0]) or (None, 0)
        assert scaler is not None
        return scaler.known_seconds(range(len(self.keys)))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(older_past, "LONGEST_REST", 0.0)


def test_the_past_of_each_is_asked_for_alone_and_only_what_is_found_counts() -> None:
    scene = Scene(4, known=2)
    before = scene.known()
    known = scene.read()
    assert scene.source.most == 1
    np.testing.assert_allclose(known[:2], DAY, rtol=0.001)
    np.testing.assert_array_equal(known[2:], before[2:])


@pytest.mark.parametrize("takes", [1.0, 200.0, 2000.0])
def test_a_source_that_takes_longer_than_an_interval_is_read_to_the_end(takes: float) -> None:
    """What was lived through meanwhile is not asked for, so that reading does not run after the time for ever."""
    scene = Scene(2, known=2, takes=takes)
    known = scene.read()
    assert scene.source.asked <= 2 * (5 + older_past.TRIES)
    assert (known > 0.97 * DAY).all()


@pytest.mark.parametrize(("largest", "known"), [(40, True), (1, False)])
def test_less_is_asked_for_at_a_time_where_an_answer_is_too_large(largest: int, known: bool) -> None:
    """A query of many series that few workloads are picked from: how many is not known before the first answer."""
    scene = Scene(1, known=1)
    scene.source.largest = largest
    before = scene.known()
    (found,) = scene.read()
    assert found == pytest.approx(DAY, rel=0.001) if known else found == before[0]
    assert scene.source.asked < 400


def test_new_workloads_are_read_a_few_queries_at_a_time_and_those_of_one_query_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "GROUPS_AT_ONCE", 2)
    scene = Scene(5, known=0)
    (first,) = scene.keeper._unread((), ()).values()
    assert len(first) == 2
    (second,) = scene.keeper._unread((), set(first)).values()
    assert len(second) == 2
    assert not set(first) & set(second)
    assert not scene.keeper._unread({"default"}, ())
    for key in scene.keys:
        scene.roster.place(key, scene.roster.group(scene.keys[0]), NOW)
    (together,) = scene.keeper._unread((), ()).values()
    assert set(together) == set(scene.keys)
    assert scene.roster.group(together[0]).load == Ask("default", "w0")
