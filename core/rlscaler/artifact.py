"""A saved policy: a manifest and arrays, as one file or a folder, with nothing in it that can run.

An artifact crosses a boundary of trust: somebody trains it, somebody else's operator loads it. So the format
is plain (JSON, and `.npy` in a zip), every value that matters is under one digest, and everything is checked
before it is used. There is no pickle, no import and no evaluation on this path. Assumed: the digest tells
which policy it is, not who made it; who may write the file is decided elsewhere, or by `expect_digest`.

`NAME.rlz` is a zip (stored or deflated) of `manifest.json` and one `ARRAY.npy` for each array; a folder with
the same files is read alike. The manifest:

=================== ====================================================================================
format              1
name, kind          text, such as "default" and "mlp" (letters, digits, `.`, `_`, `-`)
observation_schema  version of the observation that the policy reads, text
action_scheme       name of the action scheme, text
fields              names of the observation's fields that are used, in the order of use
training_range      field -> [low, high] seen in training
parameters          anything of the policy that is not an array
provenance          seed, code version, configuration, training loads, date
scores              anything measured
arrays              array -> {dtype, shape, sha256}; `"finite": false` beside them allows NaN and infinity
digest              "sha256:" and the SHA-256 of the canonical JSON of all of the above
=================== ====================================================================================

Canonical JSON has sorted keys, no white space and only ASCII, so an object has no order (use a list where it
matters). The sha256 of an array is over its values in C order, little endian.
"""

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from rlscaler import container
from rlscaler.container import (
    AGAIN,
    DTYPES,
    MANIFEST,
    MAX_ARRAYS,
    MAX_NDIM,
    WORD,
    ArtifactError,
    refuse,
    show,
)
from rlscaler.errors import NoRoomError, UserError
from rlscaler.files import write_bytes_atomically

FORMAT = 1
SUFFIX = ".rlz"
MAX_BYTES = 16 * 2**20
MAX_MANIFEST = 2**20
MAX_DEPTH = 16

_TEXT = ("name", "kind", "observation_schema", "action_scheme")
_OBJECTS = ("training_range", "parameters", "provenance", "scores")
_KEYS = ("format", *_TEXT, "fields", *_OBJECTS, "arrays", "digest")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, eq=False, init=False, repr=False, slots=True)
class Artifact:
    """A policy as data: manifest and arrays, checked and immutable; equal where the digests are.

    manifest: see the module. Without `digest` it is a new one: `format`, `arrays` and `digest` are filled in;
    `fields`, `training_range`, `parameters`, `provenance` and `scores` default to empty; NumPy scalars and
    tuples are taken as numbers and lists. With `digest` everything must be there and agree.
    arrays: name -> array of float32, float64, int64, int32, int8, uint8 or bool.

    Raises ArtifactError where a value is missing, unknown, of another type, not finite, or contradicts the
    arrays.
    """

    name: str
    kind: str
    digest: str
    arrays: Mapping[str, np.ndarray]
    """Read-only arrays, little endian, C order."""
    _text: str

    def __init__(self, manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Check and copy both; see the class."""
        complete, frozen = _completed(_plain(dict(manifest), "manifest", 0), arrays)
        text = _canonical(complete)
        if len(text) > MAX_MANIFEST:
            refuse(
                f"the manifest has {len(text)} characters",
                f"at most {MAX_MANIFEST}",
                "move numbers into arrays",
            )
        for key in ("name", "kind", "digest"):
            object.__setattr__(self, key, complete[key])
        object.__setattr__(self, "arrays", MappingProxyType(frozen))
        object.__setattr__(self, "_text", text)

    @property
    def manifest(self) -> dict[str, Any]:
        """The whole manifest as plain JSON values with sorted keys; a fresh copy at every call."""
        manifest: dict[str, Any] = json.loads(self._text)
        return manifest

    def __eq__(self, other: object) -> bool:
        """Tell whether the other is an artifact of the same digest."""
        return isinstance(other, Artifact) and other.digest == self.digest

    def __hash__(self) -> int:
        """Return the hash of the digest."""
        return hash(self.digest)

    def __repr__(self) -> str:
        """Return name, kind and digest."""
        return f"Artifact(name={self.name!r}, kind={self.kind!r}, digest={self.digest!r})"


def require(
    artifact: Artifact,
    *,
    observation_schema: str | None = None,
    action_schemes: Collection[str] | None = None,
    kinds: Collection[str] | None = None,
) -> Artifact:
    """Return the artifact if it can be used here.

    observation_schema: the version of the observation that this side makes. action_schemes, kinds: those that
    it knows. None = any. Raises ArtifactError where one differs.
    """
    manifest = artifact.manifest
    schemas = None if observation_schema is None else (observation_schema,)
    for key, known in (("observation_schema", schemas), ("action_scheme", action_schemes), ("kind", kinds)):
        if known is not None and manifest[key] not in known:
            found = f"{key} of policy {artifact.name} is {show(manifest[key])}"
            do = "export it again with this version, or run the version that exported it"
            refuse(found, " or ".join(map(repr, sorted(known))), do)
    return artifact


def dumps(artifact: Artifact) -> bytes:
    """Return the file of an artifact; equal artifacts give equal bytes on every machine."""
    entries = {f"{name}.npy": container.npy(array) for name, array in artifact.arrays.items()}
    manifest = json.dumps(artifact.manifest, sort_keys=True, indent=1, allow_nan=False)
    entries[MANIFEST] = manifest.encode() + b"\n"
    return container.packed(entries)


def save(artifact: Artifact, path: str | Path, *, max_bytes: int = MAX_BYTES) -> str:
    """Write an artifact to `path` and return its digest; a reader sees the old file or the new one, whole.

    Raises ArtifactError where the file cannot be written or would be larger than `max_bytes`, NoRoomError where there
    is no room for it.
    """
    data = dumps(artifact)
    if len(data) > max_bytes:
        refuse(
            f"{path}: the artifact has {len(data)} bytes",
            f"at most {max_bytes}",
            "raise max_bytes here and in load",
        )
    try:
        write_bytes_atomically(path, data)
    except NoRoomError:
        raise
    except (UserError, ValueError) as error:
        raise ArtifactError(f"{path}: not saved ({error}); expected a file in a writable folder") from error
    return artifact.digest


def loads(data: bytes, *, expect_digest: str | None = None, max_bytes: int = MAX_BYTES) -> Artifact:
    """Return the artifact of a file's bytes. Parameters and errors as of `load`."""
    if len(data) > max_bytes:
        refuse(f"it has {len(data)} bytes", f"at most {max_bytes}", "raise max_bytes if that is intended")
    return _assembled(container.unpacked(data, max_bytes), expect_digest, max_bytes)


def load(path: str | Path, *, expect_digest: str | None = None, max_bytes: int = MAX_BYTES) -> Artifact:
    """Return the artifact of a file or a folder.

    path: a link is followed; inside of a folder links must stay inside (so a mounted ConfigMap can be read).
    expect_digest: "sha256:..." that the artifact must have; None = any.
    max_bytes: limit of the file, and of all that is in it when unpacked.

    Raises ArtifactError, naming the file, for anything that is not a whole, unchanged and readable artifact.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _assembled(container.folder_entries(path, max_bytes), expect_digest, max_bytes)
        return loads(container.read_file(path, max_bytes), expect_digest=expect_digest, max_bytes=max_bytes)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:
        found = f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})"
        raise ArtifactError(f"{found}; expected a file NAME{SUFFIX} or a folder; check the path") from error


def _assembled(entries: dict[str, bytes], expect_digest: str | None, max_bytes: int) -> Artifact:
    """Return the artifact made of named files, each of which must be declared by the manifest."""
    if MANIFEST not in entries:
        refuse(f"there is no {MANIFEST}", f"an artifact (NAME{SUFFIX})", "check that this is the right file")
    manifest = _parsed(entries.pop(MANIFEST))
    if missing := [key for key in _KEYS if key not in manifest]:
        refuse(f"the manifest has no {missing[0]}", f"the keys {', '.join(_KEYS)}")
    _require_format(manifest)
    arrays = {name.removesuffix(".npy"): container.from_npy(name, data, max_bytes) for name, data in entries.items()}
    artifact = Artifact(manifest, arrays)
    if expect_digest is not None and artifact.digest != expect_digest:
        refuse(
            f"the digest is {artifact.digest}",
            show(expect_digest),
            "fetch the right file, or change the digest",
        )
    return artifact


def _parsed(data: bytes) -> dict[str, Any]:
    """Return the object of a JSON text of bounded size and depth, without repeated keys, NaN or infinity."""
    if len(data) > MAX_MANIFEST:
        refuse(f"{MANIFEST} has {len(data)} bytes", f"at most {MAX_MANIFEST}")
    # Strings removed in one pass (possessive, and an open end allowed, so it is linear on any input).
    bare = np.frombuffer(re.sub(rb'"(?:[^"\\]|\\.)*+"?', b"", data, flags=re.DOTALL), np.uint8)
    opened = np.isin(bare, list(b"[{")).astype(np.int64) - np.isin(bare, list(b"]}"))
    if np.cumsum(opened).max(initial=0) > MAX_DEPTH:
        refuse(f"{MANIFEST} is nested deeper than {MAX_DEPTH}", "a flatter object")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            refuse(f"{MANIFEST} repeats a key", "each key once")
        return out

    def constant(name: str) -> NoReturn:
        refuse(f"{MANIFEST} holds {name}", "finite numbers")

    try:
        manifest = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except ArtifactError:
        raise
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{MANIFEST} is not JSON ({error}); expected an object; {AGAIN}") from error
    if not isinstance(manifest, dict):
        refuse(f"{MANIFEST} is {show(manifest)}", "an object")
    return manifest


def _plain(value: Any, path: str, depth: int) -> Any:
    """Return `value` as what JSON can hold, NumPy scalars as numbers; refuse anything else."""
    if depth > MAX_DEPTH:
        refuse(f"{path} is nested deeper than {MAX_DEPTH}", "a flatter value", "flatten it")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            refuse(f"{path} has the key {show(wrong[0])}", "text as keys", "name it")
        return {key: _plain(item, f"{path}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        refuse(f"{path} is {value}", "a finite number", "leave it out")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        refuse(f"{path} is beyond 64 bits", "a number within them", "write it as text")
    if value is not None and not isinstance(value, str | int | float):
        expected = "text, a number, true, false, null, a list or an object"
        refuse(f"{path} is of type {type(value).__name__}", expected, "convert it, or store it as an array")
    return value


def _canonical(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _completed(
    manifest: dict[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the manifest with its digest, and read-only arrays, of which all that it states must hold."""
    new = "digest" not in manifest
    if new:
        manifest = {"format": FORMAT, "fields": [], **{key: {} for key in _OBJECTS}, "arrays": {}, **manifest}
    _require_format(manifest)
    stated = manifest.get("arrays")
    if not isinstance(stated, dict) or not all(isinstance(entry, dict) for entry in stated.values()):
        refuse(
            f"arrays of the manifest is {show(stated)}",
            "an object of objects, one for each array",
            "correct it",
        )
    if len(arrays) > MAX_ARRAYS:
        refuse(f"there are {len(arrays)} arrays", f"at most {MAX_ARRAYS}", "join some of them")
    if stated.keys() - arrays.keys() or (arrays.keys() - stated.keys() and not new):
        refuse(f"the arrays are {show(sorted(arrays))}", f"{show(sorted(stated))} as in the manifest")
    entries, frozen = {}, {}
    for name, array in sorted(arrays.items()):
        claim = stated.get(name, {})
        entries[name], frozen[name] = _described(name, array, claim.get("finite") is not False)
        _hold(name, claim, entries[name], whole=not new)
    claimed = manifest.get("digest")
    content = {key: value for key, value in manifest.items() if key != "digest"} | {"arrays": entries}
    digest = "sha256:" + hashlib.sha256(_canonical(content).encode()).hexdigest()
    complete = {**content, "digest": digest if new else claimed}
    _validate(complete)
    if complete["digest"] != digest:
        refuse(
            f"the digest of the content is {digest}",
            f"{show(claimed)} as in the manifest",
            f"it was changed: {AGAIN}",
        )
    return complete, frozen


def _require_format(manifest: dict[str, Any]) -> None:
    found = manifest.get("format")
    if found != FORMAT or isinstance(found, bool):
        refuse(f"format is {show(found)}", str(FORMAT), "export the policy again with this version")


def _described(name: str, array: np.ndarray, finite: bool) -> tuple[dict[str, Any], np.ndarray]:
    """Return the manifest's entry of an array, and the array as read-only values."""
    if not (isinstance(name, str) and WORD.fullmatch(name)):
        refuse(f"an array is called {show(name)}", "up to 128 letters, digits, '.', '_' or '-'", "rename it")
    if not isinstance(array, np.ndarray) or array.dtype.name not in DTYPES or array.ndim > MAX_NDIM:
        what = f"{array.dtype}, {array.ndim} axes" if isinstance(array, np.ndarray) else type(array).__name__
        refuse(f"array {name} is {show(what)}", f"{', '.join(DTYPES)} with at most {MAX_NDIM} axes", "convert it")
    if finite and not np.isfinite(array).all():
        refuse(
            f"array {name} holds NaN or infinity",
            "finite numbers",
            'correct it, or declare it with "finite": false',
        )
    dtype = np.dtype(DTYPES[array.dtype.name])
    data = array.astype(dtype, copy=False).tobytes()
    entry: dict[str, Any] = {"dtype": array.dtype.name, "shape": list(array.shape)}
    entry["sha256"] = hashlib.sha256(data).hexdigest()
    return entry if finite else {**entry, "finite": False}, np.ndarray(array.shape, dtype, buffer=data)


def _hold(name: str, claim: dict[str, Any], actual: dict[str, Any], *, whole: bool) -> None:
    """Refuse what the manifest claims of an array where it does not hold."""
    if claim.keys() - actual.keys() or (whole and claim.keys() != actual.keys()):
        refuse(f"arrays.{name} of the manifest has {show(sorted(claim))}", f"{sorted(actual)}", "correct it")
    for key, value in claim.items():
        if _canonical({key: value}) != _canonical({key: actual[key]}):
            refuse(f"{key} of array {name} is {show(actual[key])}", f"{show(value)} as in the manifest")


def _validate(manifest: dict[str, Any]) -> None:
    """Refuse a manifest with missing or unknown keys, or with values of the wrong kind."""
    if missing := [key for key in _KEYS if key not in manifest]:
        refuse(f"the manifest has no {missing[0]}", f"the keys {', '.join(_KEYS)}", "add it")
    if unknown := sorted(manifest.keys() - set(_KEYS)):
        refuse(
            f"the manifest has the key {show(unknown[0])}",
            f"only {', '.join(_KEYS)}",
            "move it into parameters",
        )
    for key in _TEXT:
        if not (isinstance(manifest[key], str) and WORD.fullmatch(manifest[key])):
            refuse(f"{key} is {show(manifest[key])}", "up to 128 letters, digits, '.', '_' or '-'", "rename it")
    if not (isinstance(manifest["digest"], str) and _DIGEST.fullmatch(manifest["digest"])):
        refuse(f"digest is {show(manifest['digest'])}", "'sha256:' and 64 hexadecimal digits")
    names = manifest["fields"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) != len(names):
        refuse(f"fields is {show(names)}", "a list of different names", "list the fields that the policy reads")
    for key in _OBJECTS:
        if not isinstance(manifest[key], dict):
            refuse(f"{key} is {show(manifest[key])}", "an object", "correct it")
    for name, span in manifest["training_range"].items():
        pair = isinstance(span, list) and [type(end) in (int, float) for end in span] == [True, True]
        if name not in names or not pair or span[0] > span[1]:
            refuse(f"training_range.{name} is {show(span)}", "[low, high] of one of the fields", "correct it")


__all__ = [
    "FORMAT",
    "MAX_BYTES",
    "SUFFIX",
    "Artifact",
    "ArtifactError",
    "dumps",
    "load",
    "loads",
    "require",
    "save",
]
