"""The checkpoint's blobs: what goes in comes out, what is broken is left out and told, the newest counts."""

import io
import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.arrays import State
from rlscaler_operator import checkpoint
from rlscaler_operator.checkpoint import PER_CHUNK, Batch, Kept
from rlscaler_operator.model import Key

NAN = float("nan")


def keys(count: int, prefix: str = "w") -> list[Key]:
    return [Key("shop", f"{prefix}{number}") for number in range(count)]


def batch(who: list[Key], time: float = 1000.0) -> Batch:
    """Return arrays of every kind that a memory has, all different."""
    n = len(who)
    guard: State = {
        "recommended_time": time - np.arange(3.0 * n).reshape(n, 3),
        "recommended_high": np.arange(3.0 * n).reshape(n, 3),
        "recommended_start": np.full(n, time - 7.0),
        "scaled_time": np.where(np.arange(4.0 * n) % 3 == 0, -np.inf, time - np.arange(4.0 * n)).reshape(n, 2, 2),
        "scaled_count": np.arange(2 * n).reshape(n, 2),
        "lost_since": np.full(n, NAN),
        "direction": np.full(n, -1, np.int8),
    }
    return Batch(who, np.full(n, time), {"guard": guard, "learned": {"capacity": np.arange(float(n))}})


def same(one: Batch, other: Batch) -> None:
    assert list(one.keys) == list(other.keys)
    np.testing.assert_array_equal(one.time, other.time)
    assert one.parts.keys() == other.parts.keys()
    for part, state in one.parts.items():
        assert state.keys() == other.parts[part].keys()
        for name, array in state.items():
            np.testing.assert_array_equal(array, other.parts[part][name], err_msg=name)
            assert array.dtype == other.parts[part][name].dtype


def test_what_is_packed_is_unpacked() -> None:
    one, other = batch(keys(3)), batch(keys(2, "other"), 2000.0)
    notes: dict[Key, dict[str, Any]] = {
        one.keys[1]: {"lastScale": 900.5, "conflict": {"uid": "ü"}},
        Key("shop", "nobody"): {"replicas": 3},
    }
    found, note = checkpoint.unpacked(checkpoint.packed([one, other], notes), "ConfigMap state")
    assert note is None
    assert list(found) == [*one.keys, *other.keys]
    same(found[one.keys[0]].batch, one)
    same(found[other.keys[0]].batch, other)
    assert [found[key].row for key in one.keys] == [0, 1, 2]
    assert [dict(found[key].notes) for key in one.keys] == [{}, {"lastScale": 900.5, "conflict": {"uid": "ü"}}, {}]
    assert found[other.keys[1]].time == 2000.0


def test_nothing_is_packed_as_nothing() -> None:
    assert checkpoint.unpacked(checkpoint.packed([], {}), "x") == ({}, None)


def archive(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return the blob of one batch with its arrays changed."""
    raw = zlib.decompress(checkpoint.packed([batch(keys(2))], {}))
    with np.load(io.BytesIO(raw)) as saved:
        arrays = {name: saved[name] for name in saved.files}
    change(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **arrays)
    return zlib.compress(buffer.getvalue())


def about(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a blob whose table of contents is changed."""

    def rewrite(arrays: dict[str, Any]) -> None:
        content = json.loads(arrays["about"].tobytes())
        change(content)
        arrays["about"] = np.frombuffer(json.dumps(content).encode(), np.uint8)

    return archive(rewrite)


WHOLE = checkpoint.packed([batch(keys(2))], {})
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut short"),
    "no archive of ours": (b"apiVersion: v1", "incorrect header"),
    "cut short": (WHOLE[:-40], "cut short"),
    "its head is missing": (WHOLE[40:], "cannot be read"),
    "compressed, but nothing inside": (zlib.compress(b"hello"), "cannot be read"),
    "a bomb": (zlib.compress(bytes(checkpoint.LARGEST + 1)), "too large"),
    "another version": (about(lambda content: content.update(version=99)), "version 99, expected 1"),
    "no version": (about(lambda content: content.pop("version")), "'version'"),
    "no table of contents": (archive(lambda arrays: arrays.pop("about")), "'about'"),
    "a list for a table of contents": (archive(lambda a: a.update(about=np.frombuffer(b"[]", np.uint8))), "list"),
    "no times": (archive(lambda arrays: arrays.pop("0/time")), "0/time"),
    "fewer rows than workloads": (
        archive(lambda a: a.update({"0/guard/direction": np.zeros(1, np.int8)})), "2 workloads and arrays of (1,)"),
    "an array without rows": (archive(lambda a: a.update({"0/guard/peak": np.array(3.0)})), "arrays of ()"),
    "keys that name nothing": (about(lambda content: content.update(keys=[[["shop"], ["shop"]]])), "missing"),
    "notes that are no objects": (about(lambda content: content.update(notes=[[["shop", "w0"], 3]])), "not iterable"),
    "an object that would be unpickled": (
        archive(lambda a: a.update({"0/guard/peak": np.array([print, print])})), "allow_pickle"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_read_is_left_out_and_told(case: str) -> None:
    blob, why = BROKEN[case]
    found, note = checkpoint.unpacked(blob, "ConfigMap rlscaler-state-3")
    assert found == {}
    assert note is not None
    assert note.reason == "CheckpointUnreadable"
    assert note.message.startswith("ConfigMap rlscaler-state-3 cannot be read (")
    assert note.message.endswith("): its workloads begin with an empty memory")
    assert why in note.message


@settings(deadline=None, derandomize=True, max_examples=300)
@given(at=st.integers(0, len(WHOLE) - 1), byte=st.integers(0, 255), length=st.integers(0, len(WHOLE)))
def test_a_blob_that_was_damaged_never_raises(at: int, byte: int, length: int) -> None:
    damaged = bytearray(WHOLE[: max(length, at + 1)])
    damaged[at] = byte
    found, note = checkpoint.unpacked(bytes(damaged), "x")
    assert (note is None) == (bytes(damaged) == WHOLE)
    assert bool(found) == (note is None)


def test_chunks_hold_every_workload_once_and_few_enough_each() -> None:
    assert checkpoint.chunks([]) == {0: []}
    assert checkpoint.chunks(keys(PER_CHUNK)).keys() == {0}
    everyone = keys(5000)
    found = checkpoint.chunks(everyone)
    assert len(found) == 16
    assert sorted(key for members in found.values() for key in members) == sorted(everyone)
    assert max(len(members) for members in found.values()) < 1.5 * PER_CHUNK


def test_a_workload_stays_in_its_chunk_while_others_come_and_go() -> None:
    few, many = keys(900), keys(1500)
    before, after = (
        {key: number for number, of in checkpoint.chunks(who).items() for key in of} for who in (few, many)
    )
    assert {key: after[key] for key in few} == before


def kept(time: float) -> Kept:
    return Kept(batch(keys(1), time), 0, {})


@pytest.mark.parametrize(
    ("times", "best"),
    [((1.0, 2.0), 2.0), ((2.0, 1.0), 2.0), ((NAN, 1.0), 1.0), ((1.0, NAN), 1.0), ((5.0,), 5.0)],
)
def test_the_newest_memory_of_a_workload_counts(times: tuple[float, ...], best: float) -> None:
    found = checkpoint.newest({keys(1)[0]: kept(time)} for time in times)
    assert {key: one.time for key, one in found.items()} == {keys(1)[0]: best}


def test_memories_of_several_blobs_are_joined_by_batch() -> None:
    one, other = batch(keys(4)), batch(keys(3, "other"), 900.0)
    found, _ = checkpoint.unpacked(checkpoint.packed([one, other], {}), "x")
    wanted = {key: found[key] for key in (one.keys[2], other.keys[0], one.keys[0])}
    first, second = checkpoint.joined(wanted, 5000.0)
    rows = [2, 0]
    parts = {part: {name: array[rows] for name, array in state.items()} for part, state in one.parts.items()}
    same(first, Batch([one.keys[2], one.keys[0]], one.time[rows], parts))
    assert list(second.keys) == [other.keys[0]]


def test_times_that_lie_ahead_are_moved_back_together() -> None:
    """The wall clock was set back by an hour between two processes: windows have as long to go as ever."""
    before, never = batch(keys(2), 4600.0), batch(keys(1, "never"), NAN)
    found, _ = checkpoint.unpacked(checkpoint.packed([before, never], {}), "x")
    moved, untouched = checkpoint.joined(found, 1000.0)
    np.testing.assert_array_equal(moved.time, [1000.0, 1000.0])
    guard, was = moved.parts["guard"], before.parts["guard"]
    for name in ("recommended_time", "recommended_start", "scaled_time"):
        np.testing.assert_array_equal(guard[name], was[name] - 3600.0, err_msg=name)
    for name in ("recommended_high", "scaled_count", "direction", "lost_since"):
        np.testing.assert_array_equal(guard[name], was[name], err_msg=name)
    same(untouched, never)


def test_times_of_the_past_stay() -> None:
    found, _ = checkpoint.unpacked(checkpoint.packed([batch(keys(2), 1000.0)], {}), "x")
    (joined,) = checkpoint.joined(found, 1000.0)
    same(joined, batch(keys(2), 1000.0))
