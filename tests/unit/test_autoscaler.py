"""The autoscaler's rows: they come and go, are saved and read back, and never touch each other."""

import io
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler import Autoscaler, Settings, Snapshot, archive, guard
from rlscaler.behavior import DEFAULT, Behavior, ScalingPolicy, ScalingRules
from rlscaler.settings import SettingsError

SLOW = Behavior(
    up=ScalingRules(window=60.0, select="Max", policies=(ScalingPolicy("Pods", 3, 60.0),), tolerance=0.05),
    down=ScalingRules(
        window=900.0,
        select="Min",
        policies=(
            ScalingPolicy("Pods", 2, 60.0),
            ScalingPolicy("Percent", 10, 120.0),
            ScalingPolicy("Pods", 5, 300.0),
        ),
        tolerance=0.05,
    ),
)
KINDS: list[dict[str, Any]] = [
    {"capacity_per_replica": 10.0},
    {"capacity_per_replica": 10.0, "behavior": DEFAULT},
    {"capacity_per_replica": 50.0, "behavior": SLOW, "startup": 120.0},
    {"capacity_per_replica": 3.0, "interval": 5.0, "max_replicas": 300},
    {"capacity_per_replica": 1e5, "interval": 60.0, "min_replicas": 3},
]


def load_at(key: int, step: int) -> float:
    """Return a load of about 20 replicas, the same for a key and step wherever it stands."""
    rng = np.random.default_rng([key, step])
    if rng.random() < 0.05:
        return float("nan")
    return float(KINDS[key % len(KINDS)]["capacity_per_replica"] * 20 * np.exp(0.3 * rng.standard_normal()))


def drive(scaler: Autoscaler, rows: dict[int, int], current: dict[int, int], step: int) -> dict[int, tuple[int, int]]:
    """Decide once for every key; return replicas and reasons by key."""
    keys = list(rows)
    which = np.array([rows[k] for k in keys])
    loads = np.array([load_at(k, step) for k in keys])
    now = np.array([current.get(k, 10) for k in keys])
    decided = scaler.decide(Snapshot(time=60.0 * step, load=loads, ready=now, starting=0, desired=now), which)
    found = {}
    for i, key in enumerate(keys):
        current[key] = int(decided.replicas[i])
        found[key] = (int(decided.replicas[i]), int(decided.reasons[i]))
    return found


@settings(deadline=None, derandomize=True, max_examples=15)
@given(script=st.lists(st.tuples(st.sampled_from(["add", "remove", "tick", "tick", "tick"]), st.integers(0, 9)),
                       min_size=5, max_size=40))  # fmt: skip
def test_adding_and_removing_rows_changes_no_other_decision(script: list[tuple[str, int]]) -> None:
    together = Autoscaler("growth-quantile")
    alone: dict[int, Autoscaler] = {}
    rows: dict[int, int] = {}
    current: dict[int, int] = {}
    single: dict[int, int] = {}
    for step, (what, key) in enumerate(script):
        if what == "add" and key not in rows:
            rows[key] = int(together.add([key], Settings(**KINDS[key % len(KINDS)]))[0])
            alone[key] = Autoscaler("growth-quantile", Settings(**KINDS[key % len(KINDS)]), 1)
            current[key] = single[key] = 10
        elif what == "remove" and key in rows:
            together.remove(rows.pop(key))
            del alone[key]
        elif rows:
            found = drive(together, rows, current, step)
            for k, scaler in alone.items():
                mine = {k: single[k]}
                expected = drive(scaler, {k: 0}, mine, step)[k]
                single[k] = mine[k]
                assert found[k] == expected, f"key {k} at step {step}"


@pytest.mark.parametrize("n", [7, 4096])
def test_the_same_decision_whatever_the_batch(n: int) -> None:
    about = Settings(capacity_per_replica=10.0)
    one, many = Autoscaler("default", about, 1), Autoscaler("default", about, n)
    rng = np.random.default_rng(2)
    current = 20
    for step in range(30):
        load = 200 * float(np.exp(0.3 * rng.standard_normal()))
        snap = Snapshot(time=15.0 * step, load=load, backlog=3.0, ready=current, starting=0, desired=current)
        first, rest = one.decide(snap), many.decide(snap)
        assert set(rest.replicas.tolist()) == set(first.replicas.tolist()), f"step {step}"
        np.testing.assert_array_equal(rest.proposal, np.broadcast_to(first.proposal, (n,)))
        current = int(first.replicas[0])


def test_a_restart_in_the_middle_of_a_scale_down_window_changes_no_decision(tmp_path: Path) -> None:
    about = {k: Settings(**KINDS[k % len(KINDS)]) for k in range(8)}
    whole = Autoscaler("default")
    rows = {k: int(whole.add([k], about[k])[0]) for k in about}
    whole.remove(rows.pop(3))
    current = dict.fromkeys(rows, 10)
    for step in range(40):
        drive(whole, rows, current, step)
    path = tmp_path / "state.npz"
    whole.save(path)
    restored = Autoscaler.load(path)
    assert restored.keys == whole.keys
    twin = dict(current)
    for step in range(40, 80):
        assert drive(restored, rows, twin, step) == drive(whole, rows, current, step), f"step {step}"
    row = restored.add(["new"], about[1])
    assert int(row[0]) == int(whole.add(["new"], about[1])[0]), "the freed row is used again"


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 truncated"])
def test_a_file_that_is_no_saved_state_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.npz: no saved autoscaler"):
        Autoscaler.load(path)


def _array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def _arrays(about: bytes) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, about=np.frombuffer(about, np.uint8))
    return buffer.getvalue()


@pytest.mark.parametrize("content", [_array(), _arrays(b"[1]"), _arrays(b"[" * 100_000)])
def test_a_file_of_numpy_that_is_no_saved_state_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"state\.npz: no saved autoscaler"):
        Autoscaler.load(path)


def test_a_damaged_file_is_refused_or_means_the_same(tmp_path: Path) -> None:
    """Bytes that were changed anywhere: zipfile, zlib, tokenize and NumPy raise what they like."""
    path = tmp_path / "state.npz"
    Autoscaler("growth-quantile", Settings(capacity_per_replica=1.0), 1).save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with suppress(ValueError):
            archive.read(path)


def test_an_older_file_that_kept_less_is_read(tmp_path: Path) -> None:
    """What the guard began to remember since is as of a workload that it has never seen."""
    path = tmp_path / "old.npz"
    Autoscaler("growth-quantile", Settings(capacity_per_replica=1.0), 2).save(path)
    about, parts = archive.read(path)
    fresh = {name: parts["guard"].pop(name) for name in ("kept", "kept_time")}
    assert fresh["kept"].shape == (2, guard.KEPT)
    archive.write(path, about, parts)
    scaler = Autoscaler.load(path, "growth-quantile")
    assert scaler.decide(Snapshot(time=0.0, load=5.0, ready=5, starting=0, desired=5)).replicas.shape == (2,)


def test_another_policy_cannot_take_the_state(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    Autoscaler("lcp", Settings(capacity_per_replica=1.0), 2).save(path)
    with pytest.raises(ValueError, match="saved with policy 'lcp'"):
        Autoscaler.load(path, "churn")


def test_history_read_back_equals_history_seen() -> None:
    about = Settings(capacity_per_replica=10.0)
    rng = np.random.default_rng(4)
    loads = 200 * np.exp(0.2 * rng.standard_normal((3, 300)))
    loads[1, 50:70] = np.nan
    times = 15.0 * np.arange(300)
    seen, read = Autoscaler("default", about, 3), Autoscaler("default", about, 3)
    for t, time in enumerate(times):
        seen.decide(Snapshot(time=time, load=loads[:, t], ready=20, starting=0, desired=20))
    read.fill(np.arange(3), times, loads)
    now = Snapshot(time=15.0 * 300, load=210.0, ready=20, starting=0, desired=20)
    np.testing.assert_array_equal(seen.decide(now).recommendation, read.decide(now).recommendation)


def test_features_handed_in_equal_features_made_here() -> None:
    about = Settings(capacity_per_replica=10.0)
    own, handed, memory = (Autoscaler("default", about, 2, remembers=r) for r in (True, False, True))
    rng = np.random.default_rng(9)
    for step in range(50):
        snap = Snapshot(time=15.0 * step, load=100 * np.exp(rng.standard_normal(2)), ready=9, starting=0, desired=9)
        features = memory.remember(snap)
        np.testing.assert_array_equal(own.decide(snap).proposal, handed.decide(snap, features=features).proposal)


def test_update_keeps_what_is_remembered() -> None:
    scaler = Autoscaler("default", Settings(capacity_per_replica=10.0), 2)
    for step in range(30):
        scaler.decide(Snapshot(time=15.0 * step, load=100.0, ready=12, starting=0, desired=12))
    scaler.update(0, Settings(capacity_per_replica=10.0, max_replicas=5, behavior=SLOW))
    decided = scaler.decide(Snapshot(time=450.0, load=100.0, ready=12, starting=0, desired=12))
    assert decided.replicas.tolist()[0] == 5
    assert decided.replicas[1] >= 10


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("min_replicas", -1, "min_replicas is -1"),
        ("min_replicas", 2.5, "min_replicas is 2.5 for workload 0; expected a whole number"),
        ("max_replicas", 0, "max_replicas is 0"),
        ("max_replicas", 9.5, "max_replicas is 9.5 for workload 0; expected a whole number"),
        ("max_replicas", float("inf"), "max_replicas is inf for workload 0; expected a whole number"),
        ("interval", 0, "interval is 0"),
        ("startup", float("inf"), "startup is inf"),
        ("capacity_per_replica", -3, "capacity_per_replica is -3"),
        ("concurrency", 0, "concurrency is 0"),
        ("load_counts", "Hits", "load_counts is 'Hits'"),
    ],
)
def test_bad_settings_are_named(field: str, value: Any, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Autoscaler("default", Settings(**{field: value}), 1)


@pytest.mark.parametrize("load", [np.ones(1), np.ones(4), np.ones((3, 1))])
def test_readings_of_other_workloads_are_refused(load: np.ndarray) -> None:
    scaler = Autoscaler("growth-quantile", Settings(capacity_per_replica=1.0), 3)
    with pytest.raises(ValueError, match=r"snapshot\.load has shape .*; expected a number or 3 of them"):
        scaler.decide(Snapshot(time=0.0, load=load, ready=1, desired=1))


@pytest.mark.parametrize("keys", [[None], ["a", "a"], ["here"]])
def test_keys_are_unique_and_not_none(keys: list[Hashable]) -> None:
    scaler = Autoscaler("default")
    scaler.add(["here"], Settings(capacity_per_replica=1.0))
    with pytest.raises(ValueError, match=r"is (not allowed|present already)"):
        scaler.add(keys, Settings(capacity_per_replica=1.0))


def test_rows_that_were_added_one_by_one_are_decided_as_those_added_at_once() -> None:
    """Room is made for more rows than are asked for; nobody who leaves the rows out sees them."""
    settings = Settings(capacity_per_replica=10.0)
    apart, at_once = Autoscaler("default", settings, 2), Autoscaler("default", settings, 7)
    for key in range(2, 7):
        apart.add([key], settings)
    for tick in range(6):
        snapshot = Snapshot(time=15.0 * tick, load=np.arange(7.0) * 100.0, ready=5, starting=0, desired=5, backlog=0)
        for scaler in (apart, at_once):
            assert len(scaler.view(snapshot).demand) == 7
        found, expected = (scaler.decide_on(scaler.view(snapshot)) for scaler in (apart, at_once))
        np.testing.assert_array_equal(found.replicas, expected.replicas)
