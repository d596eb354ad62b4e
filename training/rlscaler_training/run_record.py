"""A run's folder as others read it: what was asked for, how far it came, what it reached. Needs no learning stack.

`runs` writes these folders, and tells what is in them.
"""

import fcntl
import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.errors import UserError
from rlscaler.files import unwritable
from rlscaler_training.own_past_command import ALGORITHM as OWN_PAST

CONFIG, ENVIRONMENT, METRICS, REPORT, POLICY, LOCK = (
    "config.json", "environment.json", "metrics.jsonl", "report.json", "policy.rlz", "lock"
)  # fmt: skip
FINISHED, RUNNING, INTERRUPTED = "finished", "running", "interrupted"
SCORE = "score"
"""The name under which every learner logs its validation score J; lower is better."""


class RecordError(UserError):
    """A folder that is no run, or a run that cannot be read."""


@contextmanager
def at_work(folder: str | Path) -> Iterator[None]:
    """Hold the run's folder while it is trained; the system lets go of it however the process ends.

    Raises UserError where another process holds it, since two would spoil each other's checkpoints, and where nothing
    can be written there.
    """
    path = Path(folder) / LOCK
    try:
        opened = path.open("a+")
    except OSError as error:
        raise unwritable(path, error) from error
    with opened as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            who = stream.read(20).strip() or "unknown"
            raise UserError(f"{folder}: is being trained by another process ({who}); wait for it or stop it") from None
        except OSError:  # a file system without locks
            yield
            return
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield


def is_held(folder: str | Path) -> bool:
    """Return whether a process trains the run at this moment (false where the file system has no locks)."""
    try:
        with (Path(folder) / LOCK).open() as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@dataclass(frozen=True)
class Record:
    """One run. report: of a finished one, else empty. rows: what was measured, in order, each with its step.

    name: of the folder. learner: that trained it. settings, arguments: what was asked for.
    """

    folder: Path
    learner: str
    settings: Mapping[str, Any]
    arguments: Mapping[str, Any]
    environment: Mapping[str, Any]
    report: Mapping[str, Any]
    rows: list[dict[str, float]]
    state: str

    @property
    def name(self) -> str:
        """What the run is called: its folder's name."""
        return self.folder.resolve().name

    @property
    def seed(self) -> int | None:
        """The seed, None where it is not told."""
        found = self.arguments.get("seed")
        return found if isinstance(found, int) else None

    @property
    def policy(self) -> Path | None:
        """The artifact, None where there is none yet."""
        path = self.folder / POLICY
        return path if path.exists() else None

    @property
    def began(self) -> datetime | None:
        """When it was begun."""
        with suppress(ValueError):
            return datetime.fromisoformat(str(self.environment.get("began")))
        return None

    @property
    def device(self) -> str:
        """The device in a word, such as cpu; empty where it is not told."""
        return str(self.environment.get("device", "")).removeprefix("device: ").split(" ")[0].rstrip(",")

    @cached_property
    def measured(self) -> dict[str, np.ndarray]:
        """What was measured: name -> (rows,) float64, NaN where a row has none; `step` among them."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return {name: np.array([row.get(name, math.nan) for row in self.rows]) for name in names}

    @property
    def step(self) -> int | None:
        """The last step of the learner's own count that was measured; None before the first."""
        return int(self.rows[-1]["step"]) if self.rows else None

    @property
    def reached(self) -> int | None:
        """The step of the newest checkpoint, or the last that was measured if that is later; None before the first."""
        kept = [int(path.stem) for path in self.folder.glob("checkpoints/[0-9]*.pt") if path.stem.isdecimal()]
        return max([*kept, *([] if self.step is None else [self.step])], default=None)

    @property
    def best(self) -> float | None:
        """The best validation score on the way, None where there is none."""
        scores = self.measured.get(SCORE, np.array([]))
        return float(np.nanmin(scores)) if np.isfinite(scores).any() else None

    @property
    def steps(self) -> int | None:
        """Steps of environments that a finished run took."""
        return _whole(self.report.get("steps"))

    @property
    def seconds(self) -> float | None:
        """Wall time: of a finished run as it told, else from its beginning to the last write."""
        if (told := number(self.report.get("seconds"))) is not None:
            return told
        path = self.folder / METRICS
        if self.began is None or not path.exists():
            return None
        return max(0.0, path.stat().st_mtime - self.began.timestamp())

    @property
    def rate(self) -> float | None:
        """Steps of environments per second of a finished run."""
        return self.steps / self.seconds if self.steps is not None and self.seconds else None

    @property
    def per_step(self) -> float | None:
        """Steps of environments for one of the learner's own, None where that cannot be told."""
        return self.steps / self.step if self.steps is not None and self.step else None

    @property
    def resumption(self) -> str:
        """The command that goes on with it; of one that keeps no checkpoint, the one that begins anew."""
        if self.learner == OWN_PAST:
            return shlex.join(["rlscaler", "train", "--for", str(self.arguments.get("profile", "PROFILE"))])
        return shlex.join(["rlscaler", "train", self.learner, "--resume", str(self.folder)])


def number(value: Any) -> float | None:
    """Return a finite number, None for anything else."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def read_metrics(folder: str | Path) -> Iterator[dict[str, float]]:
    """Yield what was measured; a line that is cut off is left out."""
    path = Path(folder) / METRICS
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with suppress(ValueError, TypeError, AttributeError, OverflowError, RecursionError):
                row = {str(name): float(value) for name, value in json.loads(line).items()}
                if math.isfinite(row.get("step", math.nan)):
                    yield row


def read(folder: str | Path) -> Record:
    """Return the run in a folder. Raises RecordError where there is none, or it cannot be read."""
    path = Path(folder)
    if not path.is_dir():
        what = "a file" if path.exists() else "not there"
        raise RecordError(f"{path}: is {what}; expected the folder of a run, as 'rlscaler runs' lists them")
    config = _object(path, CONFIG, required=True)
    report = _object(path, REPORT)
    parts = [config.get(key) for key in ("settings", "arguments")]
    if not isinstance(config.get("algorithm"), str) or not all(isinstance(part, dict) for part in parts):
        raise RecordError(f"{path / CONFIG}: tells no algorithm, settings and arguments; expected what 'rlscaler "
                          "train' writes")  # fmt: skip
    state = FINISHED if report else RUNNING if is_held(path) else INTERRUPTED
    try:
        rows = list(read_metrics(path))
    except OSError as error:
        raise RecordError(f"{path / METRICS}: cannot be read: {error.strerror or error}") from error
    environment = _object(path, ENVIRONMENT)
    return Record(path, config["algorithm"], parts[0] or {}, parts[1] or {}, environment, report, rows, state)


def _object(folder: Path, name: str, *, required: bool = False) -> dict[str, Any]:
    """Return the JSON object of a file, an empty one where there is no file. Raises RecordError."""
    path = folder / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise RecordError(f"{folder}: no run is here; expected a folder that 'rlscaler train' made") from None
        return {}
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or f"it is not whole ({error})"
        raise RecordError(f"{path}: cannot be read: {why}") from error
    if not isinstance(found, dict):
        raise RecordError(f"{path}: holds {type(found).__name__}; expected an object")
    return found


def found(root: str | Path) -> tuple[list[Record], list[str]]:
    """Return the runs in a folder, the oldest first, and what is wrong with those that cannot be read.

    A folder in which somebody looks for runs may itself be one. Raises RecordError where it is none.
    """
    path = Path(root)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise RecordError(f"{path}: the folder {what}; expected one with runs, such as 'rlscaler train' makes")
    folders = [path] if (path / CONFIG).exists() else sorted(p.parent for p in path.glob(f"*/{CONFIG}"))
    records, problems = [], []
    for folder in folders:
        try:
            records.append(read(folder))
        except RecordError as error:
            problems.append(str(error))
    return sorted(records, key=lambda r: (r.began.timestamp() if r.began else 0.0, r.name)), problems
