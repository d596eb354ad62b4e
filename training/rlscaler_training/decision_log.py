"""A log of decisions as material to learn from: what was seen, what was done, and what it cost.

A line is a JSON object, as `rlscaler dry-run --decisions FILE.jsonl` writes it: `time` in seconds, `proposal` in
replicas, `observation` by name of field under `observation_schema`, and `outcome` of the interval that followed, with
`billed` and `needed` pod-seconds, `late` and `arrivals` requests.

The log of an operator (`rlscaler run --decisions`) has the decisions of several workloads, which `workload` tells
apart. Nothing is learned from one whose `outcome` is null, as nobody knows what followed it, or which was not
`applied`: what followed was then brought about by somebody else's count.

The action is what the policy wanted, as the nearest correction of the cheapest headroom; what the guard made of it is
the world's affair. Everything else that this needs is in the observation.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.action import CORRECTIONS, DRAIN
from rlscaler.errors import UserError
from rlscaler.observation import HIGH, LOW, NAMES, SCHEMA

OUTCOME = ("billed", "needed", "late", "arrivals")
COLUMNS = ("observation", "action", "cost", "late", "following", "part")
SHOWN = 5
"""Broken lines that are named."""
LONGEST = 2**20
"""Bytes that a line may have; one has some two thousand."""
ROUNDING = 1e-3
"""How far a field of the observation may be out of its bounds, as it was rounded when it was written down."""
MOST = 1e12
"""Replicas, pod-seconds and requests of one decision that no workload has: a single such line would be all that counts
in the means that costs are told in."""
GAP = 1.5
"""Intervals without a decision after which a log begins anew."""


@dataclass(frozen=True, slots=True)
class Log:
    """N decisions, each with the one that followed it. observation, following: (N, F) float32. action: (N,) int64,
    index of CORRECTIONS. cost, late: (N,) billed over needed and price x late share, both over the log's mean; the
    reward is -(cost + late). part: (N,) which unbroken part of the log it is in, ascending."""

    observation: np.ndarray
    action: np.ndarray
    cost: np.ndarray
    late: np.ndarray
    following: np.ndarray
    part: np.ndarray

    def __len__(self) -> int:
        """Return N."""
        return len(self.action)

    @property
    def reward(self) -> np.ndarray:
        """(N,) -(cost + late)."""
        reward: np.ndarray = -(self.cost + self.late)
        return reward

    def taken(self, rows: np.ndarray) -> "Log":
        """Return those decisions, by index or mask."""
        return Log(**{name: getattr(self, name)[rows] for name in COLUMNS})


def read(paths: Sequence[str | Path], least: int) -> Log:
    """Return the decisions of all files, each a log of its own.

    A last line that is cut off is left out: its writer was stopped, or still writes. Raises UserError naming the file
    and the lines, or where fewer than `least` decisions can be learned from.
    """
    logs = [_log(path, rows) for path in map(Path, paths) for rows in _by_workload(_rows(path))]
    logs = [log for log in logs if len(log)]
    total = sum(map(len, logs))
    if total < least:
        raise UserError(
            f"{', '.join(map(str, paths)) or 'no file'}: {total} decisions can be learned from; expected {least:,} or "
            "more (a day has 5,760): give a longer log, or several"
        )
    first = np.cumsum([0] + [int(log.part[-1]) + 1 for log in logs])
    columns = {name: np.concatenate([getattr(log, name) for log in logs]) for name in COLUMNS}
    columns["part"] = np.concatenate([log.part + begin for log, begin in zip(logs, first[:-1], strict=True)])
    return Log(**columns)


def _by_workload(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["workload"], []).append(row)
    return list(found.values())


def _rows(path: Path) -> list[dict[str, Any]]:
    rows, broken = [], []
    try:
        for number, line in _lines(path):
            try:
                row = json.loads(line.decode("utf-8"))
                _require_schema(path, number, row)
                rows.append(_checked(row))
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
                if line.endswith(b"\n"):
                    broken.append((number, f"{type(error).__name__}: {error}"))
    except OSError as error:
        raise UserError(f"--decisions {path}: cannot be read: {error.strerror or error}") from error
    if broken:
        named = ", ".join(str(number) for number, _ in broken[:SHOWN])
        more = f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
        raise UserError(
            f"--decisions {path}: line{'s' * (len(broken) > 1)} {named}{more}: no decision as 'rlscaler dry-run "
            f"--decisions' writes it (line {broken[0][0]}: {broken[0][1][:120]}); remove it, or write the log anew"
        )
    return rows


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not empty, with their numbers; never holds more than one of them.

    Raises OSError where the file cannot be read, UserError where it is compressed or a line is longer than LONGEST.
    """
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(LONGEST + 1):
            number += 1
            if number == 1 and line.startswith(b"\x1f\x8b"):
                raise UserError(f"--decisions {path}: is compressed; expected plain lines: unpack it by gunzip first")
            if len(line) > LONGEST:
                raise UserError(f"--decisions {path}: line {number} has more than {LONGEST:,} bytes; expected one "
                                "decision a line: remove it, or write the log anew")  # fmt: skip
            if line.strip():
                yield number, line


def _require_schema(path: Path, number: int, row: Any) -> None:
    if not isinstance(row, dict) or "observation" not in row or "outcome" not in row:
        return
    if (found := row.get("observation_schema")) != SCHEMA or set(row["observation"]) != set(NAMES):
        raise UserError(
            f"--decisions {path}: line {number} has observation schema {found!r} with "
            f"{len(row['observation'])} fields; expected {SCHEMA!r} with {len(NAMES)}: write the log with this version"
        )


def _checked(row: Any) -> dict[str, Any]:
    """Return the line's numbers. Raises ValueError, TypeError, KeyError, AttributeError or OverflowError."""
    if not isinstance(row, dict):
        raise TypeError(f"expected an object, found {type(row).__name__}")
    seen = [float(row["observation"][name]) for name in NAMES]
    known = row["outcome"] is not None
    outcome = {name: float(row["outcome"][name]) if known else math.nan for name in OUTCOME}
    time, proposal = float(row["time"]), row["proposal"]
    if not all(map(math.isfinite, [*seen, *(outcome.values() if known else ()), time])):
        raise ValueError("holds a number that is none")
    for name, value, low, high in zip(NAMES, seen, LOW.tolist(), HIGH.tolist(), strict=True):
        if not low - ROUNDING <= value <= high + ROUNDING:
            raise ValueError(f"observation.{name} is {value:g}; expected {low:g} to {high:g}")
    counts = {f"outcome.{name}": value for name, value in outcome.items() if known}
    counts |= {} if proposal is None else {"proposal": float(proposal)}
    for name, value in counts.items():
        if not 0.0 <= value <= MOST:
            raise ValueError(f"{name} is {value:g}; expected 0 to {MOST:g}")
    made = math.nan if proposal is None or not known or not row.get("applied", True) else float(proposal)
    return {"workload": str(row.get("workload", "")), "time": time, "proposal": made, "seen": seen} | outcome


def _log(path: Path, rows: list[dict[str, Any]]) -> Log:
    """Return what can be learned of one workload: decisions that a policy made and that another one follows in time.

    An operator's log may go back in time, where the clock was set before it was started again: another part begins.
    """
    column = {name: np.array([row[name] for row in rows], np.float64) for name in ("time", "proposal", *OUTCOME)}
    seen = np.array([row["seen"] for row in rows], np.float32).reshape(len(rows), len(NAMES))
    step = np.diff(column["time"])
    if len(rows) > 1 and (step <= 0.0).any() and not rows[0]["workload"]:
        number = int(np.flatnonzero(step <= 0.0)[0]) + 2
        raise UserError(f"--decisions {path}: decision {number} is not after the one before; expected one workload's "
                        "decisions in their order, each log in a file of its own")  # fmt: skip
    on = step[step > 0.0]
    if not on.size or not (np.nansum(column["needed"]) > 0.0 and np.nansum(column["arrivals"]) > 0.0):
        none = np.zeros(0, np.int64)
        return Log(seen[:0], none, np.zeros(0), np.zeros(0), seen[:0], none)
    together = (step > 0.0) & (step < GAP * float(np.median(on)))
    made = np.isfinite(column["proposal"])
    whole = np.append(together & made[:-1] & made[1:], False)
    part = np.cumsum(np.append(True, ~(together & made[:-1])))
    action = corrected(seen, np.where(made, column["proposal"], 0.0))
    price = np.exp(seen[:, NAMES.index("price")].astype(np.float64))
    log = Log(
        observation=seen,
        action=action,
        cost=column["billed"] / np.nanmean(column["needed"]),
        late=price * column["late"] / np.nanmean(column["arrivals"]),
        following=np.roll(seen, -1, axis=0),
        part=part,
    ).taken(whole)
    return replace(log, part=np.unique(log.part, return_inverse=True)[1])


def corrected(seen: np.ndarray, proposal: np.ndarray) -> np.ndarray:
    """Return the action (N,) that comes nearest to proposals (N,) of replicas, given what was seen (N, F).

    The inverse of `rlscaler.action.headroom_proposal`; what was asked for to drain a backlog is no headroom.
    """
    field = {
        name: seen[:, NAMES.index(name)].astype(np.float64) for name in ("size", "ready", "backlog", "trend_cheap")
    }
    level = np.exp(field["size"])
    ready = np.maximum(level * np.exp(field["ready"]) - 0.5, 0.5)
    wanted = np.maximum(proposal + 0.5 - field["backlog"] * ready / DRAIN, 1e-3)
    deviation = np.log(wanted / level) - field["trend_cheap"]
    nearest: np.ndarray = np.abs(deviation[:, None] - np.array(CORRECTIONS)).argmin(axis=1)
    return nearest
