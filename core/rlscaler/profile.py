"""A workload profile: what its own past tells of one workload, as data that dry-run, backtest and training read.

`NAME.json` holds the figures, each with its interval and how it is known; the readings themselves lie beside it as
arrays (`NAME.DIGEST.npz`), which the JSON names with their digest. `write` makes both, `read` the figures, and
`read_recording` the readings. Unknown is None in a figure and NaN in a reading, never zero.

A JSON of another version, with a field that is unknown, missing or out of range, is refused by file and field.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from rlscaler import container
from rlscaler.errors import UserError
from rlscaler.files import write_bytes_atomically, write_text_atomically
from rlscaler.quantities import shown

FORMAT = "rlscaler-profile"
VERSION = 1
MOST_BYTES = 256 * 2**20
"""Bytes of readings that are read at most."""
_ARRAYS = ("load", "replicas", "ready", "utilization", "latency")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

Told = Literal["learned", "stated", "unknown"]


class ProfileError(UserError, ValueError):
    """A file is no profile that can be used; the message names file, field, value and what is expected."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One figure: value with its 95 % interval; None, all three, where nothing tells it.

    told: learned from the data, stated in the resource (low and high are the value then), or unknown. why: from what it
    is known, or why it is not; a sentence without a full stop.
    """

    value: float | None
    low: float | None
    high: float | None
    told: Told
    why: str

    @property
    def known(self) -> bool:
        """Tell whether there is a value."""
        return self.value is not None


def stated(found: Estimate, value: float | None) -> Estimate:
    """Return the estimate, or, where that is unknown, what the resource states, if it does."""
    if found.known or value is None:
        return found
    return Estimate(value, value, value, "stated", f"the resource states it; {found.why}")


def unknown(why: str) -> Estimate:
    """Return an estimate that says why there is none."""
    return Estimate(None, None, None, "unknown", why)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """How far the workload was seen in use.

    utilization: the highest mean over three minutes, 0 to 1. load_per_replica: the highest load of a ready replica
    over three minutes, requests/s. saturated: seconds at 93 % use and more. None = not known.
    """

    utilization: float | None
    load_per_replica: float | None
    saturated: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFacts:
    """The load that was read.

    begin, end: seconds since the epoch of the first and the last reading. mean, p95, peak: requests/s over the known
    readings. coverage: share of the readings that are known. gaps: how many pieces are unknown. longest_gap: seconds.
    """

    begin: float
    end: float
    mean: float
    p95: float
    peak: float
    coverage: float
    gaps: int
    longest_gap: float


@dataclass(frozen=True, slots=True)
class Kept:
    """Where the readings lie: a file's name in the folder of the JSON, and the SHA-256 of its bytes."""

    file: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What the past tells of a workload.

    workload: namespace/name, or what the file of the load is called. source: where the readings came from. made_by:
    version of rlscaler. interval: seconds between readings.
    capacity: requests/s of a ready replica at full use. startup: seconds from being asked for until a replica serves.
    lag: seconds by which the load that is read is older than the utilization is. noise: variance over mean of the
    requests that arrive in one interval (Fano factor; 1 = Poisson). day, week: share of the variance of the load's
    logarithm, 0 to 1, that the time of day, and beyond it the day of the week, explain on days that were not used to
    find them.
    notes: what is worth knowing of the data, a sentence each. readings: where they lie; None before they are written.
    """

    workload: str
    source: str
    made_by: str
    interval: float
    capacity: Estimate
    startup: Estimate
    lag: Estimate
    noise: Estimate
    day: Estimate
    week: Estimate
    saturation: Saturation
    load: LoadFacts
    notes: tuple[str, ...] = ()
    readings: Kept | None = None

    @property
    def p95_demand(self) -> float | None:
        """The 95th percentile of demand, replicas at full use; None where the capacity is unknown."""
        return None if self.capacity.value is None else self.load.p95 / self.capacity.value


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Readings of one workload, one interval after the other; all arrays (T,) float32, NaN = unknown.

    start: seconds since the epoch of the first reading. interval: seconds. load: requests/s of the workload.
    replicas: that were asked for. ready: that served. utilization: 0 to 1. latency: seconds.
    """

    start: float
    interval: float
    load: np.ndarray
    replicas: np.ndarray
    ready: np.ndarray
    utilization: np.ndarray
    latency: np.ndarray

    @property
    def times(self) -> np.ndarray:
        """Seconds since the epoch of each reading, (T,) float64."""
        return self.start + self.interval * np.arange(len(self.load))


def to_json(profile: Profile) -> dict[str, Any]:
    """Return the profile as plain JSON."""
    return {"format": FORMAT, "version": VERSION, **asdict(profile)}


def write(profile: Profile, recording: Recording, path: str | Path) -> Profile:
    """Write the profile to `path` and the readings beside it; return the profile that names them.

    The JSON is written last, so that it always names readings that are there; readings that only the profile it
    replaces has named are removed. Raises UserError where it cannot be written, and leaves no readings that none names.
    """
    path = Path(path)
    data = container.packed({
        "start.npy": container.npy(np.array(recording.start)),
        "interval.npy": container.npy(np.array(recording.interval)),
        **{f"{name}.npy": container.npy(np.ascontiguousarray(getattr(recording, name), np.float32))
           for name in _ARRAYS},
    })  # fmt: skip
    digest = hashlib.sha256(data).hexdigest()
    kept = Kept(f"{path.stem}.{digest[:8]}.npz", f"sha256:{digest}")
    before = _named_before(path)
    write_bytes_atomically(path.with_name(kept.file), data)
    profile = replace(profile, readings=kept)
    try:
        write_text_atomically(path, json.dumps(to_json(profile), indent=2, allow_nan=False) + "\n")
    except BaseException:
        if before != kept.file:
            _removed(path.with_name(kept.file))
        raise
    if before is not None and before != kept.file:
        _removed(path.with_name(before))
    return profile


def _removed(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _named_before(path: Path) -> str | None:
    """Return the file of readings that the profile at this path names, if `write` made both."""
    with suppress(UserError, OSError):
        kept = read(path).readings
        if kept is not None and re.fullmatch(re.escape(path.stem) + r"\.[0-9a-f]{8}\.npz", kept.file):
            return kept.file
    return None


def read(path: str | Path) -> Profile:
    """Return the profile of a file. Raises ProfileError naming file and field."""
    try:
        text = container.read_file(Path(path), 2**20).decode("utf-8")
        found = json.loads(text, parse_constant=_no_number)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}; expected a profile that 'rlscaler calibrate' "
                           "wrote") from error  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{path}: is no JSON ({error}); expected a profile that 'rlscaler calibrate' "
                           "wrote") from error  # fmt: skip
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ProfileError(f"{path}: is no profile; expected one that 'rlscaler calibrate' wrote")
    if found.get("version") != VERSION:
        raise ProfileError(f"{path}: version is {found.get('version')!r}; expected {VERSION}: calibrate again with "
                           "this rlscaler")  # fmt: skip
    written = {key: value for key, value in found.items() if key not in ("format", "version")}
    try:
        profile = _object(Profile, written, "")
        _require_sense(profile)
    except _FieldError as error:
        raise ProfileError(f"{path}: {error}") from None
    return profile


def read_recording(profile: Profile, path: str | Path) -> Recording:
    """Return the readings of a profile. path: the file that it was read from. Raises ProfileError."""
    if profile.readings is None:
        raise ProfileError(f"{path}: names no readings; expected readings.file, so calibrate again")
    place = Path(path).with_name(profile.readings.file)
    again = f"{path}: readings.file is {shown(profile.readings.file)}"
    try:
        data = container.read_file(place, MOST_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise ProfileError(f"{again}, which cannot be read: {why}; copy it beside the profile") from error
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != profile.readings.digest:
        raise ProfileError(f"{again}, which is not the one that the profile was written with; copy both, or calibrate "
                           "again")  # fmt: skip
    arrays = {name.removesuffix(".npy"): container.from_npy(name, entry, MOST_BYTES)
              for name, entry in container.unpacked(data, MOST_BYTES).items()}  # fmt: skip
    missing = [name for name in ("start", "interval", *_ARRAYS) if name not in arrays]
    shapes = {arrays[name].shape for name in _ARRAYS if name in arrays}
    if missing or len(shapes) != 1 or len(next(iter(shapes))) != 1 or arrays["start"].shape or arrays["interval"].shape:
        raise ProfileError(f"{again}, which holds other arrays than readings have; calibrate again")
    return Recording(float(arrays["start"]), float(arrays["interval"]), *(arrays[name] for name in _ARRAYS))


class _FieldError(ValueError):
    """A field is wrong; the message names it."""


T = TypeVar("T")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _object(kind: type[T], value: Any, where: str) -> T:
    """Return the dataclass of a JSON object; raises _FieldError."""
    if not isinstance(value, Mapping):
        raise _FieldError(f"{where} is {container.show(value)}; expected an object")
    hints = get_type_hints(kind)
    names = [each.name for each in fields(kind)]  # type: ignore[arg-type]  # kind is a dataclass
    prefix = f"{where}." if where else ""
    for name in value:
        if name not in names:
            raise _FieldError(f"{prefix}{container.show(name)[1:-1]} is unknown; expected {', '.join(names)}")
    if missing := [name for name in names if name not in value]:
        raise _FieldError(f"{prefix}{missing[0]} is missing")
    return kind(**{name: _value(hints[name], value[name], prefix + name) for name in names})


def _value(kind: Any, value: Any, where: str) -> Any:
    """Return one field's value; raises _FieldError."""
    if isinstance(kind, UnionType):
        inner = next(each for each in get_args(kind) if each is not type(None))
        return None if value is None else _value(inner, value, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return _object(kind, value, where)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise _FieldError(f"{where} is {container.show(value)}; expected one of {', '.join(get_args(kind))}")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise _FieldError(f"{where} is {container.show(value)}; expected a list")
        return tuple(_value(get_args(kind)[0], each, f"{where}[{i}]") for i, each in enumerate(value))
    if kind is str:
        if not isinstance(value, str):
            raise _FieldError(f"{where} is {container.show(value)}; expected text")
        return value
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if kind is int and whole and value >= 0:
        return value
    if kind is float and (whole or isinstance(value, float)) and math.isfinite(value):
        return float(value)
    raise _FieldError(f"{where} is {container.show(value)}; expected a {'whole ' if kind is int else ''}number")


def _require_sense(profile: Profile) -> None:
    """Raise _FieldError where a value is out of its range or contradicts another."""
    for name in ("capacity", "startup", "lag", "noise", "day", "week"):
        found: Estimate = getattr(profile, name)
        parts = {"value": found.value, "low": found.low, "high": found.high}
        there = [part for part in parts.values() if part is not None]
        if (found.told == "unknown") != (found.value is None) or (there and len(there) < 3):
            raise _FieldError(f"{name}.told is {found.told}; expected value, low and high to be numbers where it is "
                              "known, and null where it is unknown")  # fmt: skip
        if found.value is None or found.low is None or found.high is None:
            continue
        if not 0.0 <= found.low <= found.value <= found.high:
            raise _FieldError(f"{name} is {found.value:g}, from {found.low:g} to {found.high:g}; expected 0 <= low <= "
                              "value <= high")  # fmt: skip
        if name == "capacity" and found.low <= 0.0:
            raise _FieldError(f"capacity.low is {found.low:g}; expected requests/s above 0")
    load = profile.load
    for where, value, good in (
        ("interval", profile.interval, profile.interval > 0.0),
        ("load.end", load.end, load.end >= load.begin),
        ("load.coverage", load.coverage, 0.0 <= load.coverage <= 1.0),
        ("load.mean", load.mean, load.mean >= 0.0),
        ("load.p95", load.p95, load.p95 >= 0.0),
        ("load.peak", load.peak, load.peak >= load.p95),
    ):
        if not good:
            raise _FieldError(f"{where} is {value:g}, which is out of its range")
    kept = profile.readings
    if kept is not None:
        if Path(kept.file).name != kept.file or not kept.file.endswith(".npz"):
            raise _FieldError(f"readings.file is {container.show(kept.file)}; expected the name of a .npz file in the "
                              "same folder")  # fmt: skip
        if not _DIGEST.fullmatch(kept.digest):
            raise _FieldError(f"readings.digest is {container.show(kept.digest)}; expected sha256: and 64 hexadecimal "
                              "digits")  # fmt: skip
