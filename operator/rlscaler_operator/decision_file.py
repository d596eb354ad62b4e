"""The decision log as a file: whole lines are appended, and it never grows beyond a size.

Where it would, it is renamed to NAME.1, in place of the one that had that name, and begun anew. The file is opened for
each append, so that one which somebody has moved away or deleted is made again. Half a line, that a process which was
killed has left, is cut off; where there is no room nothing of an append stays.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

LONGEST_LINE: Final = 2**20
"""Bytes at the end of a file in which the end of a line is looked for."""


class DecisionFile:
    """A file of lines. most: bytes that it has at most, unless one append alone is larger."""

    def __init__(self, path: Path, most: int) -> None:
        """Take where it is; nothing is opened yet."""
        self.path, self.most = path, most

    @property
    def former(self) -> Path:
        """Where the lines are that were there before the last renaming."""
        return self.path.with_name(f"{self.path.name}.1")

    def append(self, lines: bytes) -> None:
        """Write whole lines to the end. Raises OSError, and then none of them is there."""
        handle = self._opened()
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):  # a pipe or a device has no size and cannot be renamed
                _written(handle, lines)
                return
            size = _mended(handle, found.st_size)
            if size and size + len(lines) > self.most:
                self.path.replace(self.former)
                os.close(handle)
                handle, size = self._opened(), 0
            try:
                _written(handle, lines)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)

    def _opened(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _written(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def _mended(handle: int, size: int) -> int:
    """Cut off what comes after the last end of a line; return the size that is left."""
    if size == 0 or os.pread(handle, 1, size - 1) == b"\n":
        return size
    begin = max(0, size - LONGEST_LINE)
    whole = begin + os.pread(handle, LONGEST_LINE, begin).rfind(b"\n") + 1
    os.ftruncate(handle, whole)
    return whole
