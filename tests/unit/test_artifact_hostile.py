"""Artifacts: whole and unchanged, or one ArtifactError; nothing else, whatever the bytes are."""

import hashlib
import io
import json
import stat
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler import artifact as module
from rlscaler.artifact import Artifact, ArtifactError, dumps, load, loads
from small_artifact import FILE, MANIFEST, SMALL, WEIGHTS, unpacked


def packed(entries: Sequence[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return out.getvalue()


def forged(
    change: Callable[[dict[str, Any]], object] = bool,
    spelled: tuple[bytes, bytes] = (b"", b""),
    **files: bytes,
) -> bytes:
    """Return SMALL's file with a changed manifest under a digest that fits, and with changed arrays."""
    manifest = SMALL.manifest
    change(manifest)
    del manifest["digest"]
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["digest"] = "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
    entries = {"w.npy": unpacked(FILE)["w.npy"], **{f"{name}.npy": data for name, data in files.items()}}
    return packed([("manifest.json", json.dumps(manifest).encode().replace(*spelled)), *entries.items()])


def saved_npy(array: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same_or_refused(read: Callable[[], Artifact]) -> bool:
    """Return whether `read` still gives SMALL; anything but that or one sentence fails the test."""
    try:
        found = read()
    except ArtifactError as error:
        message = str(error)
    else:
        assert found == SMALL
        assert found.manifest == SMALL.manifest
        np.testing.assert_array_equal(found.arrays["w"], WEIGHTS)
        return True
    assert "expected" in message
    assert "\n" not in message
    return False


def accepted(data: bytes) -> bool:
    return same_or_refused(lambda: loads(data))


# Bytes from elsewhere. `forged` has a digest that fits, so that each check is reached by itself.


def test_other_writers_of_the_same_content_give_the_same_artifact() -> None:
    assert loads(forged()) == SMALL
    assert loads(forged(w=saved_npy(np.asfortranarray(WEIGHTS)))) == SMALL
    entries = unpacked(FILE)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert loads(packed(list(entries.items())[::-1], method)) == SMALL
    assert loads(b"#!/bin/true\n" + FILE) == SMALL


def corrupt_shape(manifest: dict[str, Any]) -> None:
    manifest["arrays"]["w"]["shape"] = [4]


def forged_text(text: bytes) -> bytes:
    return packed([("manifest.json", text), ("w.npy", unpacked(FILE)["w.npy"])])


def headed(header: bytes, data: bytes = WEIGHTS.tobytes()) -> bytes:
    return forged(w=b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)


def entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


PLAIN = list(unpacked(FILE).items())
FIXED = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n"

HOSTILE = {
    "nothing": (b"", "not a readable zip"),
    "text": (b"hello", "not a readable zip"),
    "pickle": (b"\x80\x04\x95", "not a readable zip"),
    "empty zip": (packed([]), "no manifest.json"),
    "wheel": (packed([("pkg/__init__.py", b""), ("pkg-1.dist-info/RECORD", b"")]), "entry 'pkg/__init__.py'"),
    "stable-baselines3": (packed([("data", b"{}"), ("policy.pth", b"\x80\x02")]), "entry 'data'"),
    "torch": (packed([("archive/data.pkl", b"\x80\x02"), ("archive/version", b"3")]), "archive/data.pkl"),
    "numpy": (packed([("arr_0.npy", saved_npy(WEIGHTS))]), "no manifest.json"),
    "above": (packed([*PLAIN, ("../w.npy", b"")]), r"entry '../w.npy'"),
    "absolute": (packed([*PLAIN, ("/tmp/w.npy", b"")]), "entry '/tmp/w.npy'"),
    "nul": (packed([*PLAIN, ("v_.npy", b"")]).replace(b"v_.npy", b"v\0.npy"), r"entry 'v\\x00.npy'"),
    "folder entry": (packed([*PLAIN, ("sub/", b"")]), "entry 'sub/'"),
    "link": (packed([PLAIN[0], (entry("w.npy", stat.S_IFLNK), b"/etc/passwd")]), "is a link"),
    "device": (packed([PLAIN[0], (entry("w.npy", stat.S_IFCHR), b"")]), "a link or not"),
    "extra array": (forged(v=saved_npy(WEIGHTS)), "the arrays are"),
    "missing array": (packed(PLAIN[:1]), "the arrays are"),
    "bzip2": (packed(PLAIN, zipfile.ZIP_BZIP2), "compression method 12"),
    "xz": (packed(PLAIN, zipfile.ZIP_LZMA), "compression method 14"),
    "many entries": (packed([(f"a{i}.npy", b"") for i in range(600)]), "too many entries"),
    "many arrays": (packed([PLAIN[0], *((f"a{i}.npy", PLAIN[1][1]) for i in range(300))]), "300 arrays"),
    "object array": (forged(w=saved_npy(np.array([None]), allow_pickle=True)), "header of w.npy"),
    "structured": (forged(w=saved_npy(np.zeros(2, [("a", "f4")]))), "header of w.npy"),
    "big endian": (forged(w=saved_npy(WEIGHTS.astype(">f4"))), "header of w.npy"),
    "half": (headed((FIXED % ("<f2", "(2, 4)")).encode()), "has the type '<f2'"),
    "version 2": (forged(w=saved_npy(WEIGHTS).replace(b"NUMPY\x01", b"NUMPY\x02")), "version 1.0"),
    "code in the header": (headed((FIXED % ("<f4", "(exit(), 2)")).encode()), "header of w.npy"),
    "deep header": (headed(b"(" * 60000), "header of w.npy"),
    "long header": (headed((FIXED % ("<f4", "(2, 2)")).encode()[:-1] + b" " * 9000 + b"\n"), "header of w"),
    "cut header": (forged(w=saved_npy(WEIGHTS)[:40]), "header of w.npy"),
    "huge shape": (headed((FIXED % ("<f4", "(99999999999, 2)")).encode()), "has the shape"),
    "huge empty shape": (headed((FIXED % ("<f4", "(0, 99999999999)")).encode(), b""), "has the shape"),
    "many axes": (headed((FIXED % ("<f4", "(2, 2, 1, 1, 1, 1, 1, 1, 1)")).encode()), "has the shape"),
    "short values": (headed((FIXED % ("<f4", "(2, 3)")).encode()), "has 16 bytes of values; expected 24"),
    "long values": (headed((FIXED % ("<f4", "(3,)")).encode()), "has 16 bytes of values; expected 12"),
    "odd booleans": (headed((FIXED % ("|b1", "(16,)")).encode()), "other than 0 and 1"),
    "other shape": (forged(corrupt_shape), "shape of array w"),
    "other values": (forged(w=saved_npy(WEIGHTS + 1)), "sha256 of array w"),
    "not finite": (forged(w=saved_npy(WEIGHTS * np.float32("nan"))), "holds NaN"),
    "manifest of text": (forged_text(b'"x"'), "expected an object"),
    "manifest not UTF-8": (forged_text(b'{"\xff": 1}'), "is not JSON"),
    "manifest of UTF-16": (forged_text("{}".encode("utf-16")), "is not JSON"),
    "manifest cut": (forged_text(b'{"a": '), "is not JSON"),
    "manifest with NaN": (forged_text(b'{"a": NaN}'), "holds NaN"),
    "manifest with infinity": (forged_text(b'{"a": -Infinity}'), "holds -Infinity"),
    "manifest with an overflow": (
        forged(lambda manifest: manifest["scores"].update(a=1.5), spelled=(b"1.5}, ", b"1e999}, ")),
        "manifest.scores.a is inf",
    ),
    "manifest with long digits": (forged_text(b'{"a": ' + b"9" * 9999 + b"}"), "is not JSON"),
    "manifest with a key twice": (forged_text(b'{"a": 1, "a": 1}'), "repeats a key"),
    "manifest deep": (forged_text(b"[" * 500_000), "nested deeper"),
    "manifest deep and closed": (forged_text(b'{"a":' * 50 + b"1" + b"}" * 50), "nested deeper"),
    "manifest of open quotes": (forged_text(b'"\\' * 300_000), "is not JSON"),
    "manifest large": (forged_text(b" " * (2**20 + 1)), "1048577 bytes; expected at most"),
    "manifest empty": (forged_text(b"{}"), "has no format"),
    "manifest of another format": (forged(lambda m: m.update(format=2)), "format is 2; expected 1; export"),
    "manifest without digest": (forged_text(json.dumps(MANIFEST).encode()), "has no format"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_not_ours_is_refused(data: bytes, message: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=message):
            loads(data)
        assert tracemalloc.get_traced_memory()[1] < 30 * 2**20
    finally:
        tracemalloc.stop()
    assert not accepted(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["manifest.json", "w.npy"])
def test_an_entry_that_is_there_twice_is_refused(name: str) -> None:
    with pytest.raises(ArtifactError, match=f"the entry '{name}' is there twice"):
        loads(packed([*PLAIN, (name, dict(PLAIN)[name])]))


@pytest.mark.parametrize("stated", [None, 100, 2**31])
def test_a_bomb_costs_neither_memory_nor_time(stated: int | None) -> None:
    """64 MiB of zeros in 64 kB, with a true and with a lying size in the headers."""
    data = packed([PLAIN[0], ("w.npy", bytes(2**26))], zipfile.ZIP_DEFLATED)
    if stated is not None:
        data = data.replace(struct.pack("<I", 2**26), struct.pack("<I", stated))
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match="unpacks to more than" if stated != 100 else "not a readable zip"):
            loads(data)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_nothing_in_an_object_array_runs(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    data = saved_npy(np.array([Touch()]), allow_pickle=True)
    assert not accepted(forged(w=data))
    assert not accepted(packed([("manifest.json", data), ("w.npy", data)]))
    assert names(tmp_path) == []
    np.load(io.BytesIO(data), allow_pickle=True)
    assert names(tmp_path) == ["ran"], "the array above would have shown it"


def test_reading_an_artifact_imports_no_unpickler_of_its_own() -> None:
    """The two modules import no pickle, eval or exec, and no library that trains."""
    code = (
        "import ast, inspect; from rlscaler import artifact, container;"
        "trees = [ast.parse(inspect.getsource(m)) for m in (artifact, container)];"
        "names = {n.id for t in trees for n in ast.walk(t) if isinstance(n, ast.Name)};"
        "names |= {a.name for t in trees for n in ast.walk(t) if isinstance(n, ast.Import) for a in n.names};"
        "bad = names & {'pickle', 'eval', 'exec', 'compile', '__import__', 'importlib', 'marshal'};"
        "import sys; print(sorted(bad), sorted({'torch', 'gymnasium'} & set(sys.modules)))"
    )
    paths = {"PYTHONPATH": str(Path(module.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=paths, check=True)
    assert done.stdout.strip() == "[] []"


# Every small change of the bytes.


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_every_flipped_byte_is_seen_or_changes_nothing(method: int) -> None:
    data = bytearray(packed(PLAIN, method))
    same = 0
    for position in range(len(data)):
        for mask in (0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF):
            data[position] ^= mask
            same += accepted(bytes(data))
            data[position] ^= mask
    assert 0 < same < len(data) * 9 / 4, "dates and attributes of a zip are free, most bytes are not"


def test_every_truncation_is_refused() -> None:
    assert not any(accepted(FILE[:length]) for length in range(len(FILE)))
    assert not any(accepted(FILE[length:]) for length in range(1, len(FILE)) if length > 30)


@pytest.mark.parametrize("name", ["manifest.json", "w.npy"])
def test_every_flipped_byte_of_a_file_in_a_folder_is_seen_or_changes_nothing(name: str, tmp_path: Path) -> None:
    for other, content in PLAIN:
        (tmp_path / str(other)).write_bytes(content)
    data = bytearray(dict(PLAIN)[name])
    for position in range(len(data)):
        data[position] ^= 0x11
        (tmp_path / name).write_bytes(data)
        data[position] ^= 0x11
        same_or_refused(lambda: load(tmp_path))


LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e9, 1e9) | st.text(max_size=4)
JSON = st.recursive(
    LEAVES | st.sampled_from(["w", "trend", "float32", "sha256"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["w", "trend", "dtype"]), inner),
)


@settings(deadline=None, derandomize=True, max_examples=400)
@given(st.sampled_from([*SMALL.manifest, "w", "dtype", "shape", "sha256", "finite", "new"]), JSON, st.booleans())
def test_any_value_under_a_digest_that_fits_is_taken_or_refused(key: str, value: Any, remove: bool) -> None:
    def change(manifest: dict[str, Any]) -> None:
        arrays = manifest["arrays"]
        inside = arrays if key == "w" else arrays["w"] if key in ("dtype", "shape", "sha256", "finite") else manifest
        inside.pop(key, None)
        if not remove or key == "digest":
            inside[key] = value

    data = forged(change)
    try:
        found = loads(data)
    except ArtifactError as error:
        message = str(error)
    else:
        assert loads(dumps(found)) == found
        return
    assert "expected" in message


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.binary(max_size=4), st.integers(0, 4)), max_size=6))
def test_spliced_files_are_seen_or_change_nothing(edits: list[tuple[int, bytes, int]]) -> None:
    data = FILE
    for position, insert, drop in edits:
        data = data[:position] + insert + data[position + drop :]
    accepted(data)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PK\x03\x04", FILE[:60]]),
    st.sampled_from([b"", FILE[-150:]]),
)
def test_random_bytes_are_refused(middle: bytes, start: bytes, end: bytes) -> None:
    accepted(start + middle + end)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.binary(max_size=200), st.sampled_from(["manifest", "array"]))
def test_random_contents_in_a_sound_zip_are_refused(noise: bytes, where: str) -> None:
    assert not accepted(forged_text(noise) if where == "manifest" else forged(w=noise))
    assert not accepted(headed(noise) if where == "array" else forged_text(b'{"format": 1,' + noise))
