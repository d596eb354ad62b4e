"""A folder per run: what was asked for, what happened, and where to go on from.

    RUN/config.json        algorithm, settings, arguments
    RUN/environment.json   versions, machine, device, git state
    RUN/metrics.jsonl      a line for each time something was measured
    RUN/metrics.npz        the same as arrays, written at the end and at each checkpoint
    RUN/checkpoints/       STEP.pt, the newest few, and best.pt
    RUN/events/            TensorBoard events, where tensorboard is installed
    RUN/policy.rlz         the artifact
    RUN/spent.json         seconds of training until the newest checkpoint, of all processes together
    RUN/report.json        the outcome; with it the run is complete
    RUN/lock               held while a process trains the run

A file is written whole or not at all, so a run that was killed goes on from its newest checkpoint.
"""

import io
import json
import math
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlscaler.cli import version_of
from rlscaler.errors import UserError
from rlscaler.files import unwritable, write_bytes_atomically, write_text_atomically
from rlscaler_training import checkpoints
from rlscaler_training.checkpoints import CheckpointError
from rlscaler_training.run_record import CONFIG as CONFIG
from rlscaler_training.run_record import ENVIRONMENT as ENVIRONMENT
from rlscaler_training.run_record import METRICS as METRICS
from rlscaler_training.run_record import POLICY as POLICY
from rlscaler_training.run_record import REPORT as REPORT
from rlscaler_training.run_record import read_metrics as read_metrics

KEPT = 3
"""Checkpoints that are kept beside the best one."""
CHECKPOINTS, EVENTS, SPENT = "checkpoints", "events", "spent.json"


def now() -> float:
    """Return seconds of a clock that never goes back."""
    return time.monotonic()


class NotFiniteError(UserError):
    """Training came to numbers that are none; the last good checkpoint stays."""


@dataclass(slots=True)
class Run:
    """One run's folder while it is written. Made by `begin` or `resume`.

    step: of the checkpoint that it goes on from, 0 for a fresh one. earlier: seconds of training until then.
    """

    folder: Path
    algorithm: str
    settings: dict[str, Any]
    arguments: dict[str, Any]
    step: int = 0
    earlier: float = 0.0
    _began: float = field(default_factory=lambda: now(), repr=False)
    _events: Any = field(default=None, repr=False)

    @property
    def policy(self) -> Path:
        """Where the artifact goes."""
        return self.folder / POLICY

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those before the checkpoint that it went on from among them."""
        return self.earlier + now() - self._began

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write down what was measured after so many steps.

        Raises NotFiniteError naming the first number that is NaN or infinite, after it has been written down.
        """
        row = {"step": int(step), **{name: float(value) for name, value in numbers.items()}}
        line = {name: value if math.isfinite(value) else repr(value) for name, value in row.items()}
        path = self.folder / METRICS
        try:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            path = self.folder / EVENTS
            self._event(row)
        except OSError as error:
            raise unwritable(path, error) from error
        require_finite(step, row, self.newest())

    def _event(self, row: Mapping[str, float]) -> None:
        if self._events is None:
            try:
                from rlscaler_training.events import Events
            except ImportError:
                self._events = False
            else:
                self._events = Events(self.folder / EVENTS, self.step + 1 if self.step else 0)
        if self._events:
            self._events.add(int(row["step"]), {name: value for name, value in row.items() if name != "step"})

    def checkpoint(self, step: int, state: Mapping[str, Any], *, best: bool = False) -> None:
        """Keep what is needed to go on after so many steps: tensors, numbers, text, and lists and dicts of them.

        best: also keep it as the best so far. Raises UserError where it cannot be written, with those before intact.
        """
        data = checkpoints.dumps(step, state)
        folder = self.folder / CHECKPOINTS
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        write_bytes_atomically(folder / f"{int(step):012d}.pt", data)
        if best:
            write_bytes_atomically(folder / "best.pt", data)
        for old in self._checkpoints()[:-KEPT]:
            old.unlink(missing_ok=True)
        self._save_arrays()
        write_text_atomically(self.folder / SPENT, json.dumps({"seconds": round(self.seconds, 3)}) + "\n")

    def _checkpoints(self) -> list[Path]:
        return sorted((self.folder / CHECKPOINTS).glob("[0-9]*.pt"))

    def newest(self) -> Path | None:
        """Return the newest checkpoint, None where there is none."""
        there = self._checkpoints()
        return there[-1] if there else None

    def restore(self, best: bool = False) -> dict[str, Any] | None:
        """Return the state of the newest checkpoint that can be read (or of the best), None where there is none.

        What was measured after it is forgotten, as it will be measured again.

        Raises UserError where there are some and none can be read.
        """
        self._sweep()
        paths = [self.folder / CHECKPOINTS / "best.pt"] if best else self._checkpoints()[::-1]
        paths = [path for path in paths if path.exists()]
        problem = ""
        for path in paths:
            try:
                self.step, state = checkpoints.read(path)
            except CheckpointError as error:
                problem = str(error)
                continue
            self._forget_after(self.step)
            return state
        if problem:
            raise CheckpointError(problem)
        if not best:
            self._forget_after(-1)
        return None

    def _forget_after(self, step: int) -> None:
        """Take out of the metrics what was measured after the checkpoint: it will be measured again."""
        self.close()
        path = self.folder / METRICS
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        rows = [row for row in read_metrics(self.folder) if row["step"] <= step]
        after = "".join(json.dumps({**row, "step": int(row["step"])}) + "\n" for row in rows)
        if after != before:
            write_text_atomically(path, after)

    def _save_arrays(self) -> None:
        rows = list(read_metrics(self.folder))
        names = sorted({name for row in rows for name in row})
        arrays = {name: np.array([row.get(name, np.nan) for row in rows]) for name in names}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        write_bytes_atomically(self.folder / "metrics.npz", buffer.getvalue())

    def finish(self, report: Mapping[str, Any]) -> None:
        """Write the outcome: the run is complete."""
        self._save_arrays()
        write_text_atomically(self.folder / REPORT, json.dumps(dict(report), indent=2) + "\n")
        self.close()

    def close(self) -> None:
        """Let a file of events end here."""
        self._events = None

    def _sweep(self) -> None:
        """Remove what a process was writing when it was killed."""
        for folder in (self.folder, self.folder / CHECKPOINTS):
            for path in folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)


def require_finite(step: int, numbers: Mapping[str, float], newest: Path | None = None) -> None:
    """Raise NotFiniteError naming the first number that is NaN or infinite, and the newest checkpoint."""
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise NotFiniteError(
                f"{name} is {value} at step {step}: training was stopped. The last good checkpoint is "
                f"{newest or 'none yet'}; a lower learning rate usually helps"
            )


def begin(folder: str | Path, algorithm: str, settings: Any, arguments: Mapping[str, Any], device: str = "cpu") -> Run:
    """Start a run in a new or empty folder.

    settings: a dataclass of hyper-parameters. arguments: what else the learner was told, JSON-ready. Raises UserError
    where the folder holds a run, or cannot be written.
    """
    path = Path(folder)
    if (path / CONFIG).exists():
        raise UserError(f"{path} holds a run; go on with it by --resume {path}, or name another folder")
    told: dict[str, Any] = asdict(settings)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: the folder of the run cannot be made: {error.strerror or error}") from error
    config = {"algorithm": algorithm, "settings": told, "arguments": dict(arguments)}
    write_text_atomically(path / ENVIRONMENT, json.dumps(environment(device), indent=2) + "\n")
    write_text_atomically(path / CONFIG, json.dumps(config, indent=2) + "\n")
    return Run(path, algorithm, told, dict(arguments))


def resume(folder: str | Path) -> Run:
    """Return a run that was begun, to go on with. Raises UserError where there is none, or it is complete."""
    run = opened(folder)
    if (run.folder / REPORT).exists():
        raise UserError(f"{run.folder}: the run is complete; 'rlscaler report {run.folder}' shows it")
    with suppress(OSError, ValueError, KeyError, TypeError):  # how long it took decides nothing
        run.earlier = float(json.loads((run.folder / SPENT).read_text(encoding="utf-8"))["seconds"])
    return run


def opened(folder: str | Path) -> Run:
    """Return a run to look at. Raises UserError where there is none."""
    path = Path(folder)
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        return Run(path, str(config["algorithm"]), dict(config["settings"]), dict(config["arguments"]))
    except FileNotFoundError:
        raise UserError(f"{path}: no run is here; expected a folder that 'rlscaler train' made") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path / CONFIG} is not whole: {error}; begin a new run") from error


def found(root: str | Path) -> list[Run]:
    """Return the runs in a folder, by name."""
    return [opened(path.parent) for path in sorted(Path(root).glob(f"*/{CONFIG}"))]


def environment(device: str) -> dict[str, Any]:
    """Return what a result may depend on: versions, machine, device, and the code's state in git where it is one."""
    packages = ("rlscaler", "numpy", "torch", "gymnasium", "stable-baselines3")
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in packages},
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "device": device,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """Return commit and whether anything is changed, of the code that runs; None where it is no checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
        if done.returncode:
            raise OSError(done.stderr)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def generators(rng: np.random.Generator) -> dict[str, Any]:
    """Return the state of all that is random, for a checkpoint: this generator, torch's on CPU and CUDA."""
    state = {"numpy": json.dumps(rng.bit_generator.state), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_generators(rng: np.random.Generator, state: Mapping[str, Any]) -> None:
    """Put back what `generators` returned."""
    rng.bit_generator.state = json.loads(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class Interruption:
    """A context manager that turns the first Ctrl-C into a wish: `wanted` is true, and the loop ends at its next step.

    A second Ctrl-C ends the program as usual.
    """

    def __init__(self) -> None:
        """Take no signal yet."""
        self.wanted = False
        self._before: Any = None

    def __enter__(self) -> "Interruption":
        """Listen; only the main thread can."""

        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._noted)
        return self

    def _noted(self, number: int, frame: Any) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def __exit__(self, *_: object) -> None:
        """Let signals be as they were."""

        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
