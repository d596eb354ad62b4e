"""What an autoscaler remembers, as one file: arrays and JSON, nothing that is code."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.arrays import State
from rlscaler.files import write_bytes_atomically

_SAVED = 1


def write(path: str | Path, about: Mapping[str, Any], parts: Mapping[str, State]) -> None:
    """Write the parts whole or not at all; about: JSON-ready.

    Raises UserError naming the path where it cannot be written.
    """
    arrays = {f"{part}/{name}": array for part, state in parts.items() for name, array in state.items()}
    arrays["about"] = np.frombuffer(json.dumps({"saved": _SAVED, **about}).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes_atomically(Path(path), buffer.getvalue())


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, State]]:
    """Return what was written: about, and the parts that hold arrays.

    Raises ValueError naming the file where it is no saved autoscaler.
    """
    try:
        saved = np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False)
        if not isinstance(saved, np.lib.npyio.NpzFile):
            raise ValueError("one array; expected several")
        with saved:
            arrays = {name: saved[name] for name in saved.files}
        about: dict[str, Any] = json.loads(arrays.pop("about").tobytes())
        if about["saved"] != _SAVED:
            raise ValueError(f"saved format {about['saved']!r}; expected {_SAVED}")
    except Exception as problem:  # zipfile, zlib, tokenize and NumPy raise what they like on damaged input
        raise ValueError(f"{path}: no saved autoscaler ({problem})") from problem
    parts: dict[str, State] = {}
    for name, array in arrays.items():
        part, _, key = name.partition("/")
        parts.setdefault(part, {})[key] = array
    return about, parts
