"""The keeper: when it reads and writes the checkpoint, and what it must not write."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from rlscaler.policies import load_policy
from rlscaler.resource_objects import Query
from rlscaler_operator import checkpoint, conflicts, keeping
from rlscaler_operator.api_errors import ClusterError, Failure
from rlscaler_operator.checkpoint import Batch
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.connection import Connection
from rlscaler_operator.deciding import Decider
from rlscaler_operator.keeping import Keeper
from rlscaler_operator.leading import Leader
from rlscaler_operator.ledger import Ledger
from rlscaler_operator.model import Key, PolicyInUse, Readings
from rlscaler_operator.older_past import OlderPast
from rlscaler_operator.past_loads import Loads, PastLoads
from rlscaler_operator.queries import Ask, Group, group_of, load_of
from rlscaler_operator.roster import Roster
from rlscaler_operator.shelf import Shelf
from workload_accounts import resource, target, workload

WEB, GONE, NEW = Key("shop", "web"), Key("shop", "gone"), Key("shop", "new")


class Table:
    """A shelf in memory. fails: errors of the next reads."""

    def __init__(self, blobs: Sequence[bytes] = (), fails: Sequence[ClusterError] = ()) -> None:
        self.blobs, self.fails, self.reads, self.writes = list(blobs), list(fails), 0, 0

    def read(self) -> list[tuple[str, bytes]]:
        self.reads += 1
        if self.fails:
            raise self.fails.pop(0)
        return [(f"ConfigMap {number}", blob) for number, blob in enumerate(self.blobs)]

    def write(self, blobs: Sequence[bytes]) -> None:
        self.writes += 1
        self.blobs = list(blobs)

    def keys(self) -> set[Key]:
        return {key for blob in self.blobs for key in checkpoint.unpacked(blob, "x")[0]}


class Time:
    """A clock that goes on by a tenth of a second at each look."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        self.at += 0.1
        return self.at

    now = monotonic


def leader_of(*names: Key, ready: Sequence[Key] = ()) -> Any:
    """Return what a keeper needs of a leader whose fleet has these workloads; ready: those that are decided."""
    decider = Decider()
    for key in names:
        decider.put(key, resource(key.name), load_policy("default"), PolicyInUse("default"))
    return SimpleNamespace(
        decider=decider,
        clock=Time(),
        fleet=SimpleNamespace(workloads={key: workload(key.name) for key in names}),
        ledgers={key: SimpleNamespace(ready=key in ready) for key in names},
        notes=lambda key: {"replicas": 4},
        recall_policies=lambda notes: None,
        refused=lambda keys: set(),
        unkept=asyncio.Event(),
    )


def keeper_of(leader: Any, table: Table, loads: PastLoads | None = None) -> Keeper:
    loads = PastLoads(cast(Leader, leader)) if loads is None else loads
    older = OlderPast(cast(Leader, leader), loads, lambda: 7200.0)
    return Keeper(cast(Leader, leader), cast(Shelf, table), loads, older)


def blob_of(*names: Key) -> bytes:
    """Return what an earlier process kept of workloads."""
    decider = Decider()
    for key in names:
        decider.put(key, resource(key.name), load_policy("default"), PolicyInUse("default"))
    batches = [Batch(batch.keys, np.full(len(batch.keys), 900.0), batch.parts) for batch in decider.memory(names)]
    return checkpoint.packed(batches, {})


def busy(retry: bool) -> ClusterError:
    return ClusterError("Unavailable" if retry else "Forbidden", "the API server says no")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "READ_AGAIN", 0.0)
    monkeypatch.setattr(keeping, "SOON", 0.0)


def test_nothing_is_written_before_the_state_has_been_read() -> None:
    """A process that is told to end while it takes over would else leave nothing of what it was to take over."""
    table = Table([blob_of(WEB)])
    asyncio.run(keeper_of(leader_of(WEB), table).save())
    assert table.writes == 0
    assert table.keys() == {WEB}


class Maps(Cluster):
    """ConfigMaps in memory, without those that are refused."""

    def __init__(self, reason: Failure) -> None:
        self.reason: Failure = reason
        self.there: dict[str, bytes] = {}
        self.refused: set[str] = set()
        self.asked: list[str] = []
        self.timeouts: list[float | None] = []

    def put_config_map(
        self,
        namespace: str,
        name: str,
        labels: Mapping[str, str],
        binary_data: Mapping[str, bytes],
        owner: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.asked.append(name)
        self.timeouts.append(timeout)
        if name in self.refused:
            raise ClusterError(self.reason, f"cannot write {name}")
        self.there[name] = binary_data["state"]

    def delete_config_map(self, namespace: str, name: str, timeout: float | None = None) -> None:
        self.timeouts.append(timeout)
        del self.there[name]


def test_a_chunk_that_is_refused_keeps_no_other_from_being_written() -> None:
    maps = Maps("Invalid")
    shelf = Shelf(maps, "rlscaler", "lease", lambda: True)
    maps.refused = {"lease-state-1", "lease-state-2"}
    for number in range(2):
        with pytest.raises(ClusterError, match="cannot write lease-state-1"):
            shelf.write([b"%d%d" % (number, chunk) for chunk in range(4)])
        assert maps.there == {"lease-state-0": b"%d0" % number, "lease-state-3": b"%d3" % number}
    with pytest.raises(ClusterError, match="cannot write lease-state-1"):
        shelf.write([b"all", b"all"])
    assert maps.there == {"lease-state-0": b"all", "lease-state-3": b"13"}, "nothing is lost that is put nowhere else"
    maps.refused = set()
    shelf.write([b"all", b"all"])
    assert maps.there == {"lease-state-0": b"all", "lease-state-1": b"all"}


def test_an_api_server_that_is_away_is_not_asked_for_each_chunk() -> None:
    maps = Maps("Timeout")
    maps.refused = {"lease-state-0"}
    with pytest.raises(ClusterError, match="cannot write lease-state-0"):
        Shelf(maps, "rlscaler", "lease", lambda: True).write([b"a", b"b", b"c"])
    assert maps.asked == ["lease-state-0"]


def test_a_chunk_has_no_longer_than_the_lease_is_good_for() -> None:
    maps = Maps("Timeout")
    shelf = Shelf(maps, "rlscaler", "lease", lambda: True, 1.25)
    shelf.write([b"a", b"b"])
    shelf.write([b"a"])
    assert maps.timeouts == [1.25] * 3, "two are put and one is taken away"


@pytest.mark.parametrize(("first", "left"), [(0.5, 0.75), (1.25, None)])
def test_a_new_config_map_has_one_timeout_for_both_requests(first: float, left: float | None) -> None:
    """first: seconds until it is told that there is none. left: for the second request, None: it is not begun."""
    clock, sent = Time(), list[tuple[str, float]]()

    def request(method: str, *_: object, timeout: float) -> None:
        sent.append((method, timeout))
        clock.at += first
        if method == "PUT":
            raise ClusterError("NotFound", "there is none")

    connection = SimpleNamespace(request=request, monotonic=lambda: clock.at)
    cluster = Cluster(cast(Connection, connection))
    if left is None:
        with pytest.raises(ClusterError, match=r"cannot write ConfigMap rlscaler/one: no answer within 1\.25 s"):
            cluster.put_config_map("rlscaler", "one", {}, {}, timeout=1.25)
        assert sent == [("PUT", 1.25)]
    else:
        cluster.put_config_map("rlscaler", "one", {}, {}, timeout=1.25)
        assert sent == [("PUT", 1.25), ("POST", left)]


def test_what_was_kept_of_workloads_that_wait_is_kept_on_and_of_those_that_are_gone_is_not() -> None:
    table = Table([blob_of(WEB, GONE)])

    async def scene() -> None:
        keeper = keeper_of(leader_of(WEB, NEW, ready=[NEW]), table)
        await keeper.restore()
        await keeper.save()

    asyncio.run(scene())
    assert table.keys() == {WEB, NEW}
    kept = checkpoint.newest(checkpoint.unpacked(blob, "x")[0] for blob in table.blobs)
    assert kept[WEB].time == 900.0
    assert kept[NEW].notes == {"replicas": 4}


def test_who_waits_for_the_past_of_another_load_is_kept_meanwhile() -> None:
    table, leader = Table([]), leader_of(WEB, NEW)
    leader.decider.decide({WEB: 900.0}, {WEB: Readings(900.0, 132.0)}, {WEB: target("web")})

    async def scene() -> None:
        keeper = keeper_of(leader, table)
        await keeper.restore()
        await keeper.save()

    asyncio.run(scene())
    assert table.keys() == {WEB}


def test_no_chunk_is_larger_than_a_config_map_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of an hour at an interval of a second make 4 kB a workload, and 400 workloads a chunk of 1.6 MB."""
    everyone = [Key("shop", f"web{number}") for number in range(40)]
    table, leader = Table(), leader_of(*everyone, ready=everyone)
    whole = len(checkpoint.packed(leader.decider.memory(everyone), {key: leader.notes(key) for key in everyone}))
    room = max(len(checkpoint.packed(leader.decider.memory([key]), {key: leader.notes(key)})) for key in everyone)
    monkeypatch.setattr(keeping, "ROOM", room + (whole - room) // 4)

    async def scene() -> None:
        keeper = keeper_of(leader, table)
        await keeper.restore()
        await keeper.save()

    asyncio.run(scene())
    assert max(map(len, table.blobs)) <= keeping.ROOM < whole
    assert table.keys() == set(everyone)


@pytest.mark.parametrize(("now", "until"), [(1000.0, 1290.0), (4000.0, 4290.0), (5000.0, 4890.0)])
def test_a_quarrel_has_as_long_to_go_as_ever_where_the_clock_was_set_back(now: float, until: float) -> None:
    """At 4600 s of the clock of then, an owner that rewrites the count was given way for another 290 s."""
    quarrel = conflicts.Memory("target-web", ours=8, wrote_at=4550.0, theirs=4, rewrites=1, until=4890.0)
    leader = leader_of(WEB)
    leader.ledgers[WEB] = ledger = Ledger()
    leader.target = lambda key: None
    leader.recall_notes = partial(Leader.recall_notes, leader)
    (batch,) = leader.decider.memory([WEB])
    notes = {"conflict": conflicts.saved(quarrel), "lastScale": 4550.0}
    blob = checkpoint.packed([batch._replace(time=np.array([4600.0]))], {WEB: notes})
    keeper = keeper_of(leader, Table([blob]))
    asyncio.run(keeper.restore())
    asyncio.run(keeper._give([WEB], {}, now))
    assert ledger.conflict.until == until
    assert (ledger.conflict.wrote_at, ledger.last_scale) == (until - 340.0, until - 340.0)


@pytest.mark.parametrize(
    ("notes", "believed"), [({}, True), ({"uid": ""}, True), ({"uid": "uid-web"}, True), ({"uid": "other"}, False)]
)
def test_one_that_was_made_anew_while_nobody_watched_begins_with_nothing(
    notes: Mapping[str, Any], believed: bool
) -> None:
    """A checkpoint of before did not tell of whom it is."""
    leader = leader_of(WEB)
    leader.ledgers[WEB] = ledger = Ledger()
    leader.target = lambda key: None
    leader.recall_notes = partial(Leader.recall_notes, leader)
    (batch,) = leader.decider.memory([WEB])
    blob = checkpoint.packed([batch._replace(time=np.array([900.0]))], {WEB: {"lastScale": 890.0, **notes}})
    keeper = keeper_of(leader, Table([blob]))
    asyncio.run(keeper.restore())
    asyncio.run(keeper._give([WEB], {}, 1000.0))
    assert leader.decider.has_decided(WEB) == believed
    assert (ledger.last_scale == 890.0) == believed


def test_whose_memory_it_is_is_kept_with_it() -> None:
    leader = leader_of(WEB)
    leader.ledgers[WEB] = Ledger(version=("uid-web", 1))
    leader.target = lambda key: None
    assert Leader.notes(leader, WEB)["uid"] == "uid-web"


def learned_in(decider: Decider) -> tuple[float, float]:
    """Return the capacity and the start-up that are learned of the workload, NaN = not known."""
    (batch,) = decider.memory([WEB])
    return float(batch.parts["learned"]["capacity"][0]), float(batch.parts["learned"]["startup"][0])


@pytest.mark.parametrize(
    ("now", "capacity", "startup"),
    [
        ({}, 40.0, 90.0),
        ({"query": "  up\n"}, 40.0, 90.0),
        ({"query": "60 * up"}, math.nan, 90.0),
        ({"match": {"app": "web"}}, math.nan, 90.0),
        ({"target": "other"}, math.nan, math.nan),
    ],
    ids=["nothing", "the layout", "the query", "the match", "the target"],
)
def test_what_is_learned_by_another_load_or_of_another_target_is_not_taken_over(
    caplog: pytest.LogCaptureFixture, now: Mapping[str, Any], capacity: float, startup: float
) -> None:
    """No operator ran when they were changed, so that nothing tells what one load is times the other."""
    free: dict[str, Any] = {"capacity": {}, "metrics": {"load": {"query": "up"}, "utilization": {"query": "busy"}}}
    before = resource("web", **free)
    load = {"query": now.get("query", "up")} | ({"match": now["match"]} if "match" in now else {})
    after = resource("web", **free | {"metrics": free["metrics"] | {"load": load}})
    leader = leader_of()
    leader.fleet.workloads[WEB] = workload("web", resource=after)
    leader.target = lambda key: None
    leader.recall_notes = partial(Leader.recall_notes, leader)
    leader.ledgers[WEB] = Ledger(load=load_of(after.spec), target=target(now.get("target", "web")).key)
    leader.decider.put(WEB, before, load_policy("default"), PolicyInUse("default"))
    (batch,) = leader.decider.memory([WEB])
    known = {"capacity": 40.0, "error": 0.02, "startup": 90.0, "usual": 90.0, "requests": 3.0, "noise": 9.0}
    learned = {name: np.array([value], np.float32) for name, value in known.items()}
    batch = batch._replace(time=np.array([900.0]), parts={**batch.parts, "learned": learned})
    notes = Ledger(learned_by=load_of(before.spec), learned_of=target("web").key).notes()
    keeper = keeper_of(leader, Table([checkpoint.packed([batch], {WEB: notes})]))
    leader.decider.put(WEB, after, load_policy("default"), PolicyInUse("default"))
    asyncio.run(keeper.restore())
    asyncio.run(keeper._give([WEB], {}, 1000.0))
    assert learned_in(leader.decider) == pytest.approx((capacity, startup), nan_ok=True)
    told = [message for message in caplog.messages if "what was learned of a replica is forgotten" in message]
    assert len(told) == math.isnan(capacity)


def test_a_load_that_is_changed_while_its_past_is_taken_in_is_read_again() -> None:
    """Half of what is taken in would be of the former load, and its capacity would never be measured anew."""
    leader, keeper = changing()
    ledger = leader.ledgers[WEB]

    async def fill(keys: Sequence[Key], times: np.ndarray, values: np.ndarray) -> None:
        leader.decider.fill(keys, times[:, :120], values[:, :120])
        ledger.load = SUM
        leader.unread.add(WEB)
        leader.decider.forget_past([WEB])
        leader.decider.fill(keys, times[:, 120:], values[:, 120:])

    keeper._fill = fill  # type: ignore[method-assign]
    times = np.arange(46_400.0, 50_000.0, 15.0)
    asyncio.run(keeper._remember([WEB], {WEB: Loads(times, np.full(len(times), 7.0))}))
    assert leader.begun == []
    assert leader.unread == {WEB}
    assert known(leader) == set()


def test_a_busy_api_server_is_asked_again() -> None:
    table = Table([blob_of(WEB)], [busy(True)] * 3)
    keeper = keeper_of(leader_of(WEB), table)
    asyncio.run(keeper.restore())
    asyncio.run(keeper.save())
    assert table.reads == 4
    assert table.keys() == {WEB}


def test_an_api_server_that_stays_away_does_not_keep_a_leader_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    table = Table([], [busy(True)] * 10_000)
    asyncio.run(keeper_of(leader_of(WEB), table).restore())
    assert 10 < table.reads < 20.0 * keeping.READ_FOR
    assert caplog.messages == ["no checkpoint: the API server says no"]


def test_missing_rights_are_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    table = Table([], [busy(False)] * 2)
    asyncio.run(keeper_of(leader_of(WEB), table).restore())
    assert table.reads == 1
    assert caplog.messages == ["no checkpoint: the API server says no"]


def test_a_change_is_kept_soon_and_not_again_without_another() -> None:
    table, leader = Table(), leader_of(WEB, ready=[WEB])
    leader.clock.monotonic = lambda: 0.0

    async def scene() -> None:
        keeper = keeper_of(leader, table)
        await keeper.restore()
        saving = asyncio.create_task(keeper.save_regularly())
        for written in (1, 2):
            leader.unkept.set()
            async with asyncio.timeout(30.0):
                while table.writes < written:
                    await asyncio.sleep(0.001)
            assert not leader.unkept.is_set()
        await asyncio.sleep(0.1)
        saving.cancel()

    asyncio.run(scene())
    assert table.writes == 2


class Changing(PastLoads):
    """A source that is asked for another load while it answers for the first time: 100, then 7 requests/s."""

    def __init__(self, leader: Any, ledger: Ledger) -> None:
        super().__init__(cast(Leader, leader))
        self._ledger, self.reads = ledger, 0

    async def of_group(self, group: Group, members: Mapping[Key, Query], start: float, end: float) -> dict[Key, Loads]:
        self.reads += 1
        if self.reads == 1:
            self._ledger.load = SUM
        times = np.arange(15.0 * np.ceil(start / 15.0), end, 15.0)
        return {key: Loads(times, np.full(len(times), 100.0 if self.reads == 1 else 7.0)) for key in members}


UP, SUM = [(Ask("default", query), dict[str, str]()) for query in ("up", "sum(up)")]


def changing() -> tuple[Any, Keeper]:
    """Return what a keeper needs of a leader of one new workload whose load is another one soon, and the keeper."""
    leader, its = leader_of(WEB), resource("web")
    leader.ledgers[WEB] = ledger = Ledger(load=UP)
    leader.clock = SimpleNamespace(now=lambda: 50_000.0, monotonic=lambda: 0.0)
    leader.target = lambda key: target("web")
    leader.unread, leader.begun, leader.roster = {WEB}, [], Roster()
    leader.begin = lambda keys: (leader.begun.extend(keys), leader.unread.difference_update(keys))
    leader.roster.place(WEB, group_of(its.spec), 50_000.0)
    leader.fleet = SimpleNamespace(workloads={WEB: workload("web", resource=its)})
    return leader, keeper_of(leader, Table(), Changing(leader, ledger))


def known(leader: Any) -> set[float]:
    """Return the loads that the workload's history knows."""
    scaler, row = leader.decider.home(WEB)
    _, values = scaler.samples([row], scaler.slots([row]) - 100, 100)
    return set(values[np.isfinite(values)].tolist())


def test_the_last_hour_of_a_load_that_is_not_asked_for_any_more_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "GATHER", 0.0)
    leader, keeper = changing()

    async def scene() -> None:
        reading = asyncio.create_task(keeper.read_recent())
        while not leader.begun and not reading.done():
            await asyncio.sleep(0.0)
        reading.cancel()

    asyncio.run(asyncio.wait_for(scene(), 30.0))
    assert leader.begun == [WEB]
    assert known(leader) == {7.0}


@pytest.mark.parametrize(
    ("factor", "said"), [(math.nan, "cannot be compared"), (60.0, "60 times the former"), (1.0, "")]
)
def test_what_is_learned_is_measured_by_the_past_of_the_new_load(
    caplog: pytest.LogCaptureFixture, factor: float, said: str
) -> None:
    leader, keeper = changing()
    asked: dict[Key, Any] = {}

    def measure_anew(pasts: Mapping[Key, Any]) -> dict[Key, float]:
        asked.update(pasts)
        return {WEB: factor}

    leader.decider.measure_anew = measure_anew
    times = np.arange(46_400.0, 50_000.0, 15.0)
    with caplog.at_level("INFO", "rlscaler.keeping"):
        asyncio.run(keeper._give([WEB], {WEB: Loads(times, np.full(len(times), 7.0))}, 50_000.0))
        asyncio.run(keeper._give([NEW], {}, 50_000.0))
    assert set(asked[WEB].values) == {7.0}
    assert len(asked[NEW].values) == 0, "without a past it is measured too: by nothing"
    assert all(said in message for message in caplog.messages)
    assert bool(caplog.messages) == bool(said)


def test_the_older_past_of_a_load_that_is_not_asked_for_any_more_is_left_out() -> None:
    leader, keeper = changing()
    asyncio.run(keeper.older.read([WEB]))
    assert leader.ledgers[WEB].load == SUM, "it was read"
    assert known(leader) == set()
