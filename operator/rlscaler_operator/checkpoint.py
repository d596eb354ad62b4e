"""What must outlive a process, as few small blobs: the guard's memory of every workload, and notes beside it. Pure.

Workloads lie in numbered chunks by a hash of their name; a chunk is one entry of one ConfigMap. Arrays and JSON,
compressed; nothing is unpickled. What cannot be read (another version, truncated, foreign) is left out and told: a
memory that is lost costs a stabilisation window, one that is wrong could cost more.
"""

import hashlib
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from rlscaler.arrays import State
from rlscaler_operator.model import Key, Note

VERSION = 1
PER_CHUNK = 400
"""Workloads in a chunk, on average, at most."""
LARGEST = 64 * 2**20
"""Bytes that a chunk may unpack to."""
_TIMES = ("lost_since", "recommended_start")
"""Arrays that hold times though their name does not end in _time."""


class Batch(NamedTuple):
    """Workloads whose memory is kept in one set of arrays.

    time: (N,) when each was last decided, NaN = never. parts: of `Autoscaler.memory`, each array with N rows.
    """

    keys: Sequence[Key]
    time: np.ndarray
    parts: Mapping[str, State]


class Kept(NamedTuple):
    """What was kept of one workload: row `row` of a batch, and notes."""

    batch: Batch
    row: int
    notes: Mapping[str, Any]

    @property
    def time(self) -> float:
        """When it was last decided, NaN = never."""
        return float(self.batch.time[self.row])


def chunks(keys: Iterable[Key]) -> dict[int, list[Key]]:
    """Return the workloads of each chunk; the number of chunks is a power of two."""
    everyone = list(keys)
    count = 1
    while len(everyone) > count * PER_CHUNK:
        count *= 2
    found: dict[int, list[Key]] = {number: [] for number in range(count)}
    for key in everyone:
        digest = hashlib.blake2b(str(key).encode(), digest_size=4).digest()
        found[int.from_bytes(digest) % count].append(key)
    return found


def packed(batches: Sequence[Batch], notes: Mapping[Key, Mapping[str, Any]]) -> bytes:
    """Return the blob of one chunk. notes: JSON-ready, by workload."""
    about = {
        "version": VERSION,
        "keys": [[list(key) for key in batch.keys] for batch in batches],
        "notes": [[list(key), dict(each)] for key, each in notes.items()],
    }
    arrays: dict[str, np.ndarray] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for number, batch in enumerate(batches):
        arrays[f"{number}/time"] = np.asarray(batch.time, np.float64)
        for part, state in batch.parts.items():
            arrays |= {f"{number}/{part}/{name}": array for name, array in state.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return zlib.compress(buffer.getvalue(), 6)


def unpacked(blob: bytes, called: str) -> tuple[dict[Key, Kept], Note | None]:
    """Return what a blob holds, and what is wrong with it; called: what the note calls it."""
    try:
        unzip = zlib.decompressobj()
        raw = unzip.decompress(blob, LARGEST)
        if unzip.unconsumed_tail or not unzip.eof:
            raise ValueError("it is cut short or too large")
        with np.load(io.BytesIO(raw), allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        about = json.loads(arrays.pop("about").tobytes())
        if about["version"] != VERSION:
            raise ValueError(f"it has version {about['version']!r}, expected {VERSION}")
        notes = {Key(*key): dict(each) for key, each in about["notes"]}
        batches = [_batch(number, keys, arrays) for number, keys in enumerate(about["keys"])]
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, BadZipFile, zlib.error) as error:
        text = f"{called} cannot be read ({error}): its workloads begin with an empty memory"
        return {}, Note("CheckpointUnreadable", text)
    return {key: Kept(batch, row, notes.get(key, {})) for batch in batches for row, key in enumerate(batch.keys)}, None


def _batch(number: int, keys: Sequence[Sequence[str]], arrays: Mapping[str, np.ndarray]) -> Batch:
    parts: dict[str, State] = {}
    for name, array in arrays.items():
        owner, _, rest = name.partition("/")
        part, slash, key = rest.partition("/")
        if owner == str(number) and slash:
            parts.setdefault(part, {})[key] = array
    time = np.asarray(arrays[f"{number}/time"], np.float64)
    for array in (time, *(array for state in parts.values() for array in state.values())):
        if array.shape[:1] != (len(keys),):
            raise ValueError(f"it has {len(keys)} workloads and arrays of {array.shape[:1]}")
    return Batch([Key(*key) for key in keys], time, parts)


def newest(found: Iterable[Mapping[Key, Kept]]) -> dict[Key, Kept]:
    """Return one memory for each workload, the newest where several blobs have it."""
    best: dict[Key, Kept] = {}
    for kept in found:
        for key, one in kept.items():
            if key not in best or np.nan_to_num(best[key].time, nan=-np.inf) < one.time:
                best[key] = one
    return best


def joined(kept: Mapping[Key, Kept], now: float) -> Iterator[Batch]:
    """Yield what was kept of workloads as batches; times that lie ahead of `now` are moved back together.

    They lie ahead where the wall clock was set back between two processes. Windows last as long as ever.
    """
    by_batch: dict[int, list[tuple[Key, Kept]]] = {}
    for key, one in kept.items():
        by_batch.setdefault(id(one.batch), []).append((key, one))
    for members in by_batch.values():
        batch = members[0][1].batch
        rows = np.array([one.row for _, one in members])
        time = batch.time[rows]
        back = np.array([ahead(each, now) for each in time.tolist()])
        parts = {part: {name: _moved(name, array[rows], back) for name, array in state.items()}
                 for part, state in batch.parts.items()}  # fmt: skip
        yield Batch([key for key, _ in members], time - back, parts)


def ahead(time: float, now: float) -> float:
    """Return by how many seconds the clock that kept a memory at that time was ahead of today's; NaN = never kept."""
    return max(time - now, 0.0) if math.isfinite(time) else 0.0


def _moved(name: str, array: np.ndarray, back: np.ndarray) -> np.ndarray:
    if not (name.endswith("_time") or name in _TIMES):
        return array
    moved: np.ndarray = array - back.reshape(-1, *(1,) * (array.ndim - 1))
    return moved
