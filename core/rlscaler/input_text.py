"""The text of a file that people name, or of the standard input, with a sentence for all that can be wrong with it."""

import sys
from pathlib import Path

from rlscaler.yaml_nodes import YamlError

LARGEST = 4 * 2**20
"""Bytes of a file that is read; a thousand resources take a quarter of it."""


def file_called(path: str | Path) -> str:
    """Return what messages call a file; `-` is the standard input."""
    return "standard input" if str(path) == "-" else str(path)


def contents(path: str | Path, expected: str) -> bytes:
    """Return the first bytes of a file, one more than are allowed at most, so that an endless one ends.

    expected: what the file should hold, for the sentence. Raises YamlError where it cannot be read.
    """
    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(LARGEST + 1)
        with Path(path).open("rb") as stream:
            return stream.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise YamlError(f"no such file; expected {expected}") from error
    except IsADirectoryError as error:
        raise YamlError(f"a folder; expected {expected}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise YamlError(f"cannot be read: {reason}") from error


def decoded(text: str | bytes) -> str:
    """Return text; raises YamlError where bytes are too many or no UTF-8."""
    if len(text) > LARGEST:
        raise YamlError(f"larger than {LARGEST // 2**20} MiB; split the file")
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise YamlError("not UTF-8 text; save the file as UTF-8", line) from error
