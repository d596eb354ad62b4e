"""The decision log of the operator: what its lines say, that learning can read them, and that no disk holds it up."""

import errno
import json
import logging
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.errors import UserError
from rlscaler.policies import load_policy
from rlscaler_operator import recording
from rlscaler_operator.deciding import Decider
from rlscaler_operator.decision_file import DecisionFile
from rlscaler_operator.model import Key, PolicyInUse, Readings
from rlscaler_operator.recording import Recorder
from rlscaler_sim import scenarios
from rlscaler_sim.dry_run import dry_run
from rlscaler_training.decision_log import corrected, read
from workload_accounts import resource, target

WEB, API = Key("shop", "web"), Key("shop", "api")
BEGIN = 1_750_000_000.0
INTERVAL = 15.0
CAPACITY = 50.0
IN_USE = PolicyInUse("growth-quantile")


class Shop:
    """Workloads that are decided and recorded.

    follows: whether a target gets what was decided. waits: no tick begins before the recorder has taken the one before.
    """

    def __init__(self, file: Any, *keys: Key, follows: bool = True, waits: bool = True) -> None:
        self.fates: Counter[str] = Counter()
        self.waits = waits
        self.recorder = Recorder(file, lambda fate, count: self.fates.update({fate: count}))
        self.decider, self.follows = Decider(), follows
        self.decider.recorder = self.recorder
        self.replicas = dict.fromkeys(keys, 4)
        self.now = BEGIN
        for key in keys:
            self.decider.put(key, resource(key.name, maxReplicas=50), load_policy("growth-quantile"), IN_USE)

    def tick(self, load: float, seconds: float = INTERVAL) -> dict[Key, int]:
        """Decide for all; return what was decided."""
        self.now += seconds
        keys = list(self.replicas)
        counts = {
            key: target(key.name, desired=count, replicas=count, ready=count) for key, count in self.replicas.items()
        }
        found = self.decider.decide(
            dict.fromkeys(keys, self.now), {key: Readings(self.now, load=load) for key in keys}, counts
        )
        decided = {key: decision.replicas for key, decision in found.items()}
        if self.follows:
            self.replicas |= decided
        while self.waits and not self.recorder._batches.empty():
            time.sleep(0.0001)
        return decided

    def end(self) -> None:
        self.recorder.end()
        self.recorder.join(30.0)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def log_of(tmp_path: Path, play: Callable[[Shop], None], *keys: Key, follows: bool = True) -> list[dict[str, Any]]:
    """Return the lines of a log after a play."""
    path = tmp_path / "log.jsonl"
    shop = Shop(DecisionFile(path, 10**9), *(keys or (WEB,)), follows=follows)
    play(shop)
    shop.end()
    assert shop.fates == {"Written": len(lines(path))}
    return lines(path)


def swinging(shop: Shop) -> None:
    for tick in range(240):
        shop.tick(CAPACITY * 6.0 * (1.0 + 0.5 * np.sin(tick / 20.0)))


def test_every_decision_has_a_line_in_its_order(tmp_path: Path) -> None:
    decided: list[int] = []

    def play(shop: Shop) -> None:
        for tick in range(60):
            found = shop.tick(100.0 + 10.0 * tick)
            assert len(set(found.values())) == 1
            decided.append(found[WEB])

    found = log_of(tmp_path, play, WEB, API)
    for key in (WEB, API):
        mine = [line for line in found if line["workload"] == str(key)]
        assert [line["replicas"] for line in mine] == decided
        assert np.diff([line["time"] for line in mine]) == pytest.approx(INTERVAL)
        assert {line["policy"] for line in mine} == {"growth-quantile"}


def test_a_line_is_that_of_a_dry_run_and_says_whose_it_is(tmp_path: Path) -> None:
    _, _, made = dry_run(None, scenarios.get("steady"), policy="growth-quantile", compare=(), duration=600.0,
                         keep_decisions=True)  # fmt: skip
    line = log_of(tmp_path, swinging)[10]
    assert set(line) == set(made[10]) | {"workload", "policy", "applied"}
    assert set(line["observation"]) == set(made[10]["observation"])
    assert set(line["outcome"]) == set(made[10]["outcome"]) | {"estimate"}
    assert line["outcome"]["estimate"] is True


def test_learning_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    found = log_of(tmp_path, swinging, WEB, API)
    log = read([path], least=400)
    assert len(log) >= 2 * (240 - 5)
    assert len(set(log.part.tolist())) == 2, "a part for each workload"
    assert np.isfinite(log.reward).all()
    known = [line for line in found if line["workload"] == str(API) and line["outcome"]]
    proposed = np.array([line["proposal"] for line in known])
    seen = np.array([list(line["observation"].values()) for line in known], np.float32)
    assert set(log.action.tolist()) == set(corrected(seen, proposed).tolist())


def test_what_followed_is_of_the_interval_after_the_decision(tmp_path: Path) -> None:
    """Replicas are set by hand here: 4, and 8 from the tenth decision on; the load needs 2, then 12."""

    def play(shop: Shop) -> None:
        for tick in range(30):
            if tick == 11:  # what the tenth decision asked for is seen at the next
                shop.replicas[WEB] = 8
            shop.tick(100.0 if tick < 20 else 600.0)

    found = log_of(tmp_path, play, follows=False)
    billed = [line["outcome"]["billed"] / INTERVAL for line in found if line["outcome"]]
    assert billed[:10] == pytest.approx([4.0] * 10)
    assert billed[10:] == pytest.approx([8.0] * len(billed[10:]))
    # A load is read 15 s after it was, so the one that is read at tick 20 came in the interval that ended at 19.
    arrivals = [line["outcome"]["arrivals"] / INTERVAL for line in found if line["outcome"]]
    assert arrivals[:18] == pytest.approx([100.0] * 18)
    assert arrivals[18:] == pytest.approx([600.0] * len(arrivals[18:]))
    late = [line["outcome"]["late"] for line in found if line["outcome"]]
    assert max(late[:18]) < 0.01 * 1500.0
    assert late[-1] > 0.3 * 9000.0
    needed = [line["outcome"]["needed"] / INTERVAL for line in found if line["outcome"]]
    assert needed[-1] == pytest.approx(12.0)
    assert len(late) == 28, "of the last decisions nobody knows it yet"
    assert [line["outcome"] for line in found[28:]] == [None, None]


def test_what_followed_another_count_is_nothing_to_learn_from(tmp_path: Path) -> None:
    def play(shop: Shop) -> None:
        for _ in range(20):
            shop.tick(600.0)

    found = log_of(tmp_path, play, follows=False)
    assert {line["applied"] for line in found[:-1]} == {False}
    with pytest.raises(UserError, match="0 decisions can be learned from"):
        read([tmp_path / "log.jsonl"], least=1)
    (tmp_path / "log.jsonl").unlink()
    found = log_of(tmp_path, play)
    assert {line["applied"] for line in found[:-1]} == {True}
    assert found[-1]["applied"] is None
    assert len(read([tmp_path / "log.jsonl"], least=0)) > 10


GAPS: dict[str, Callable[[Shop], Any]] = {
    "a missed tick": lambda shop: shop.tick(300.0, 2.0 * INTERVAL),
    "a decision in between": lambda shop: shop.tick(300.0, 4.0),
    "no load at all": lambda shop: [shop.tick(float("nan")) for _ in range(3)],
    "switched off": lambda shop: [shop.replicas.update({WEB: 0}), shop.tick(300.0), shop.replicas.update({WEB: 6})],
    "a clock that was set back": lambda shop: shop.tick(300.0, -3600.0),
}


@pytest.mark.parametrize("gap", GAPS.values(), ids=GAPS)
def test_after_a_gap_it_begins_anew(gap: Callable[[Shop], Any], tmp_path: Path) -> None:
    def play(shop: Shop) -> None:
        for _ in range(20):
            shop.tick(300.0)
        gap(shop)
        for _ in range(20):
            shop.tick(300.0)

    found = log_of(tmp_path, play)
    unknown = [number for number, line in enumerate(found[:-2]) if line["outcome"] is None]
    assert unknown
    assert {number for number in unknown if not 16 <= number <= 24} == set()
    log = read([tmp_path / "log.jsonl"], least=0)
    assert len(log) >= 25
    assert np.isfinite(log.reward).all()


def test_a_workload_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    def play(shop: Shop) -> None:
        for _ in range(5):
            shop.tick(300.0)
        del shop.replicas[API]
        for _ in range(round(2.5 * recording.FORGOTTEN / INTERVAL)):
            shop.tick(300.0)
        assert list(shop.recorder._lines._waiting) == [WEB]

    found = log_of(tmp_path, play, WEB, API)
    assert sum(line["workload"] == str(API) for line in found) == 5


# --- the disk


class Disk:
    """Takes lines. fails: errors of the next appends. gate: nothing is taken while it is shut."""

    def __init__(self, fails: Sequence[OSError] = ()) -> None:
        self.fails, self.gate, self.path = list(fails), threading.Event(), Path("log.jsonl")
        self.gate.set()
        self.lines = 0

    def append(self, text: bytes) -> None:
        self.gate.wait(60.0)
        if self.fails:
            raise self.fails.pop(0)
        self.lines += text.count(b"\n")


def told(shop: Shop, count: int) -> None:
    end = time.monotonic() + 30.0
    while sum(shop.fates.values()) < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_full_disk_is_told_once_and_costs_lines_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rlscaler.recording")
    disk = Disk([OSError(errno.ENOSPC, "No space left on device")] * 3)
    shop = Shop(disk, WEB)
    for tick in range(8):
        assert shop.tick(300.0)
        told(shop, tick - 1)
    shop.end()
    assert shop.fates == {"Failed": 3, "Written": 5}
    assert disk.lines == 5
    said = [record.getMessage() for record in caplog.records]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert said[0].startswith("log.jsonl: decisions cannot be recorded: No space left on device; make room")
    assert "3 were lost" in said[1]


def test_a_real_full_device(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "log.jsonl").symlink_to(full)
    shop = Shop(DecisionFile(tmp_path / "log.jsonl", 10**6), WEB)
    for _ in range(5):
        assert shop.tick(300.0)
    shop.end()
    assert shop.fates == {"Failed": 5}
    assert "No space left on device" in caplog.text


def test_a_disk_that_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "WAITING", 4)
    disk = Disk()
    disk.gate.clear()
    shop = Shop(disk, WEB, waits=False)
    began = time.monotonic()
    for _ in range(40):
        assert shop.tick(300.0)
    shop.recorder.end()
    shop.recorder.join(0.01)
    assert time.monotonic() - began < 20.0
    assert shop.fates["Dropped"] >= 30
    disk.gate.set()
    shop.recorder.join(30.0)
    assert sum(shop.fates.values()) == 40
    assert disk.lines == shop.fates["Written"]


def test_a_defect_ends_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a defect")

    disk = Disk()
    shop = Shop(disk, WEB)
    with monkeypatch.context() as patched:
        patched.setattr(recording, "observe", broken)
        assert shop.tick(300.0)
        told(shop, 1)
    assert shop.tick(300.0)
    shop.end()
    assert shop.fates == {"Failed": 1, "Written": 1}
    assert "scaling goes on" in caplog.text


# --- the file

LINES = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), max_size=30)


@settings(deadline=None)
@given(LINES, st.integers(1, 200))
def test_the_newest_lines_are_kept_whole_within_the_bound(batches: list[list[int]], most: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = DecisionFile(Path(folder) / "log.jsonl", most)
        written: list[bytes] = []
        for number, batch in enumerate(batches):
            added = [b"%d" % (number % 10) * size + b"\n" for size in batch]
            file.append(b"".join(added))
            written += added
            assert file.path.stat().st_size <= max(most, sum(map(len, added)))
        found = b"".join(path.read_bytes() for path in (file.former, file.path) if path.exists())
        assert b"".join(written).endswith(found)
        assert found == b"" or len(found) >= min(most // 2, sum(map(len, written))) - 205


def test_half_a_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"time": 1}\n{"time": 2, "obser')
    DecisionFile(path, 1000).append(b'{"time": 3}\n')
    assert path.read_bytes() == b'{"time": 1}\n{"time": 3}\n'
    path.write_bytes(b'{"time": 2, "obser')
    DecisionFile(path, 1000).append(b'{"time": 3}\n')
    assert path.read_bytes() == b'{"time": 3}\n'


def test_nothing_stays_of_what_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "log.jsonl", os.write
    file = DecisionFile(path, 1000)
    file.append(b"first\n")

    def short(handle: int, data: Any) -> int:
        if len(data) <= 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, bytes(data)[:-4])

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(OSError, match="No space"):
        file.append(b"second\n")
    monkeypatch.undo()
    assert path.read_bytes() == b"first\n"


def test_a_file_that_was_moved_away_is_made_again(tmp_path: Path) -> None:
    file = DecisionFile(tmp_path / "log.jsonl", 1000)
    file.append(b"first\n")
    file.path.rename(tmp_path / "elsewhere")
    file.append(b"second\n")
    assert file.path.read_bytes() == b"second\n"
