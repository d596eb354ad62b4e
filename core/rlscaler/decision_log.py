"""A decision log read back: the lines of one workload, and the one that is meant.

A line is a JSON object as `--decisions` of `rlscaler dry-run`, `rlscaler backtest` and `rlscaler run` write it. The
lines of several workloads may stand in one log; those of a simulator say no workload and are of one.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.errors import UserError
from rlscaler.observation import NAMES, SCHEMA
from rlscaler.quantities import shown
from rlscaler.settings import Settings
from rlscaler.stated import restated

DAY = 86400.0
SMALLEST_TIME, LARGEST_TIME = -5e10, 1e11
"""Seconds since 1970 that a time may be, from the year 385 to 5138; what is beyond is in milliseconds, or no time."""
BACK = "time goes back"
"""What the note begins with that lines before another one are left out."""
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?")


@dataclass(frozen=True, slots=True)
class Line:
    """One decision. number: of the line, from 1. settings: of the workload then; None: the log does not tell.

    tenure: of `tenured.MODES`, whether the policy had to earn its say; None: as the policy has it.

    demand, recommendation, proposal: replicas, NaN = unknown. replicas: -1 = none decided. observation: (F,) float64.
    """

    number: int
    time: float
    demand: float
    recommendation: float
    proposal: float
    replicas: int
    reasons: tuple[str, ...]
    sentence: str
    policy: str
    tenure: str | None
    settings: Settings | None
    observation: np.ndarray = field(repr=False)


@dataclass(frozen=True, slots=True)
class DecisionLog:
    """The decisions of one workload in their order, as far back as the clock of their writer ran forward.

    workload: "" where the log does not say. notes: what is worth knowing about the file.
    """

    path: str
    workload: str
    lines: Sequence[Line]
    notes: tuple[str, ...] = ()

    @property
    def interval(self) -> float:
        """Seconds between decisions, as the log shows; 15 where it shows nothing."""
        steps = np.diff([line.time for line in self.lines])
        return float(np.median(steps)) if len(steps) else 15.0


def read(path: str | Path, workload: str | None = None) -> DecisionLog:
    """Return the decisions of a workload (None: the only one that the log has), those of FILE.1 beside it before them.

    A last line that is cut off is left out: its writer was stopped, or still writes. Raises UserError naming the file
    and the line.
    """
    path = Path(path)
    former = path.with_name(f"{path.name}.1")
    rows, notes = _rows(path)
    if former.is_file():
        older, more = _rows(former)
        rows, notes = [*older, *rows], [*more, *notes, f"{former.name}, which the log was before, is read too"]
    if not rows:
        raise UserError(
            f"--decision {path} holds no decision; write one by 'rlscaler dry-run --decisions FILE.jsonl' or "
            "'rlscaler run --decisions FILE.jsonl'"
        )
    there = list(dict.fromkeys(str(row.get("workload", "")) for _, _, row in rows))
    chosen = _chosen(path, there, workload)
    lines = [_line(file, number, row) for file, number, row in rows if str(row.get("workload", "")) == chosen]
    begin = max((i for i in range(1, len(lines)) if lines[i].time <= lines[i - 1].time), default=0)
    if begin:
        notes.append(f"{BACK} at line {lines[begin].number}: the log is read from there on")
    return DecisionLog(str(path), chosen, lines[begin:], tuple(notes))


def _rows(path: Path) -> tuple[list[tuple[Path, int, dict[str, Any]]], list[str]]:
    """Return the file, the number and the value of each line, and notes."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--decision {path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    rows, notes, lines = [], [], text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                notes.append(f"{path.name}: line {number} is cut off, and left out")
                continue
            raise _broken(path, number, f"it is no JSON ({error})") from error
        if not isinstance(row, dict):
            raise _broken(path, number, f"it is {type(row).__name__}, not an object")
        rows.append((path, number, row))
    return rows, notes


def _broken(path: Path, number: int, what: str) -> UserError:
    return UserError(
        f"--decision {path}: line {number} is no decision as 'rlscaler dry-run --decisions' writes it: {what[:160]}; "
        "remove it, or write the log anew"
    )


def _chosen(path: Path, there: Sequence[str], wanted: str | None) -> str:
    """Return the workload that is meant."""
    if wanted is not None and not any(there):
        raise UserError(f"--workload {shown(wanted)}: {path} names no workload, as a simulator's log; leave it out")
    names = ", ".join(name or "one that it does not name" for name in there[:10])
    names += f" and {len(there) - 10} more" if len(there) > 10 else ""
    if wanted is None:
        if len(there) > 1:
            raise UserError(f"--decision {path} holds the decisions of {names}; say whose by --workload")
        return there[0]
    found = [name for name in there if wanted in (name, name.partition("/")[2])]
    if len(found) != 1:
        what = "is of several" if found else "has no decision there"
        raise UserError(f"--workload {shown(wanted)} {what}; {path} holds those of {names}")
    return found[0]


def _line(path: Path, number: int, row: dict[str, Any]) -> Line:
    """Return a line's values; raises UserError."""
    if "observation" not in row:
        raise _broken(path, number, "it has no observation")
    schema, seen = row.get("observation_schema"), row["observation"]
    if schema != SCHEMA or not isinstance(seen, dict) or set(seen) != set(NAMES):
        raise UserError(
            f"--decision {path}: line {number} has observation schema {schema!r}; expected {SCHEMA!r} with "
            f"{len(NAMES)} fields: explain it with the version that wrote it"
        )
    try:
        found = Line(
            number=number,
            time=_number(row["time"]),
            demand=_number(row["demand"]),
            recommendation=_number(row["recommendation"]),
            proposal=_number(row["proposal"]),
            replicas=int(row["replicas"]),
            reasons=tuple(str(each) for each in row["reasons"]),
            sentence=str(row.get("sentence", "")),
            policy=str(row.get("policy", "")),
            tenure=str(row["tenure"]) if row.get("tenure") else None,
            settings=_settings(json.dumps(row["settings"])) if row.get("settings") is not None else None,
            observation=np.array([_number(seen[name]) for name in NAMES], np.float64),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _broken(path, number, f"{type(error).__name__}: {error}") from error
    if not (np.isfinite(found.observation).all() and math.isfinite(found.time)):
        raise _broken(path, number, "it holds a number that is none")
    if not _is_time(found.time):
        raise _broken(path, number, f"time is {found.time:g}, which is not in seconds since 1970")
    return found


@lru_cache(1024)
def _settings(text: str) -> Settings:
    """Return the settings of a line, the same object for the same text; raises as `restated`."""
    return restated(json.loads(text))


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, found {value!r}")
    return float(value)


def found(log: DecisionLog, at: str) -> int:
    """Return the index of the decision that was made at a time: ISO 8601, seconds since 1970, a clock time or `last`.

    A clock time is UTC, and of the last day on which the log has a decision then. Raises UserError naming the nearest.
    """
    times = np.array([line.time for line in log.lines])
    if at.strip() == "last":
        return len(times) - 1
    wanted = _moment(at, float(times[0]), float(times[-1]))
    index = int(np.abs(times - wanted).argmin())
    if abs(times[index] - wanted) <= 0.5 * log.interval + 1e-6:
        return index
    after = int(np.searchsorted(times, wanted))
    near = [when(float(times[i])) for i in (after - 1, after) if 0 <= i < len(times)]
    which = "the nearest ones are at " + " and ".join(near) if len(near) == 2 else f"the nearest one is at {near[0]}"
    left_out = "".join(f"; {note}" for note in log.notes if note.startswith(BACK))
    raise UserError(f"--at {shown(at)}: {log.path} has no decision at {when(wanted)}; {which}{left_out}")


def _moment(at: str, first: float, last: float) -> float:
    """Return seconds since 1970; raises UserError."""
    text = at.strip()
    if clock := _CLOCK.fullmatch(text):
        hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        of_day = 3600.0 * hours + 60.0 * minutes + seconds
        day = math.floor((last - of_day) / DAY)
        return max(day * DAY + of_day, math.floor(first / DAY) * DAY + of_day)
    try:
        number = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise UserError(
                f"--at {shown(at)}: expected a time such as 2026-05-01T14:32:00Z, 14:32, seconds since 1970, or last"
            ) from error
        number = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not _is_time(number):
        raise UserError(f"--at {shown(at)}: expected seconds since 1970, such as 1777645920")
    return number


def _is_time(seconds: float) -> bool:
    return SMALLEST_TIME <= seconds <= LARGEST_TIME


def when(time: float) -> str:
    """Return a moment as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
