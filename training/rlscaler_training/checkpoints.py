"""Checkpoints as they lie on the disk: read as if the author were hostile, refused in one line."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from rlscaler.errors import UserError

FORMAT = 1
FOLDER, BEST, LATEST = "checkpoints", "best", "latest"
"""The folder of a run that they lie in, and the names of two of them beside their numbers of steps."""


class CheckpointError(UserError):
    """A file is no checkpoint that can be gone on from; the message says what was found and what to do."""


def dumps(step: int, state: Mapping[str, Any]) -> bytes:
    """Return the file of a state after so many steps: tensors, numbers, text, and lists and dicts of them."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "step": int(step), "state": dict(state)}, buffer)
    return buffer.getvalue()


def read(path: Path) -> tuple[int, dict[str, Any]]:
    """Return steps and state of a checkpoint, on the CPU; nothing in the file is run.

    Raises CheckpointError naming the file, what was found and what to do.
    """

    def refuse(found: str, do: str = "use another checkpoint of the run, or begin a new run") -> NoReturn:
        raise CheckpointError(f"{path} is no checkpoint of rlscaler: {found}; {do}")

    try:
        data = path.read_bytes()
    except OSError as error:
        refuse(f"it cannot be read ({error.strerror or error})")
    if found := _foreign(data):
        refuse(found)
    try:
        held = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        refuse("it holds more than tensors, numbers and text, which is not loaded")
    except Exception as error:  # torch raises whatever its reader meets in damaged bytes
        first = (str(error).strip().splitlines() or [""])[0]
        refuse(f"it is damaged ({type(error).__name__}: {first[:120]})")
    if not isinstance(held, dict) or not {"step", "state"} <= held.keys():
        keys = f" with the keys {', '.join(map(str, list(held)[:4]))}" if isinstance(held, dict) else ""
        refuse(f"it holds a {type(held).__name__}{keys}, not step and state")
    if (version := held.get("format", FORMAT)) != FORMAT:
        refuse(f"its format is {version!r}, not {FORMAT}", "read it with the version that wrote it, or begin a new run")
    step, state = held["step"], held["state"]
    if not isinstance(step, int) or step < 0 or not isinstance(state, dict):
        refuse(f"its step is {step!r} and its state a {type(state).__name__}, not a number and an object")
    return step, state


def _foreign(data: bytes) -> str:
    """Return what the bytes are where they are no archive of torch, "" where they are one."""
    if not data:
        return "it is empty"
    if not data.startswith(b"PK\x03\x04"):
        return "it is a pickle" if data.startswith(b"\x80") else f"it begins with {data[:8]!r}"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except Exception as error:  # zipfile raises whatever it meets in damaged bytes
        return f"it is cut short or damaged ({error})"
    if "manifest.json" in names:
        return "it is an artifact, which serves and cannot be trained on"
    if "policy.pth" in names:
        return "it is a model of stable-baselines3"
    if any(name.endswith("/data.pkl") for name in names):
        return ""
    return f"it is a zip of {', '.join(names[:3]) or 'nothing'}"


def named(folder: Path, which: str) -> Path:
    """Return the checkpoint of a run that is meant by `best`, `latest` or a number of steps.

    Raises CheckpointError naming those that are there.
    """
    there = {str(int(path.stem)): path for path in sorted((folder / FOLDER).glob("[0-9]*.pt")) if path.stem.isdecimal()}
    best = folder / FOLDER / f"{BEST}.pt"
    if which == LATEST and there:
        return list(there.values())[-1]
    if which == BEST and best.exists():
        return best
    if which.isdecimal() and str(int(which)) in there:
        return there[str(int(which))]
    known = [*([BEST] if best.exists() else []), *([LATEST] if there else []), *there]
    if not known:
        raise CheckpointError(f"{folder}: the run has no checkpoint; 'rlscaler runs {folder}' tells how to go on")
    if which not in (BEST, LATEST) and not which.isdecimal():
        raise CheckpointError(f"--checkpoint {which!r}: expected best, latest or a number of steps; there are "
                              f"{', '.join(known)}")  # fmt: skip
    raise CheckpointError(f"--checkpoint {which}: the run has none; there are {', '.join(known)}")
