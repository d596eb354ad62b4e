"""Results are written whole or not at all.

A file is written beside its final name, flushed to the disk and renamed onto it, so that a reader, a crash
or a full disk never meets half of one. Pipes and devices (`/dev/stdout`) cannot be renamed onto and are
written directly.
"""

import errno
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from rlscaler.errors import NoRoomError, UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a system answers where there is no room: a full disk, a quota, a limit on the size of files."""


def write_text_atomically(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` whole, or leave what was there.

    Raises UserError naming the path where it cannot be written.
    """
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` whole, or leave what was there; the mode of a file that is replaced is kept.

    Raises UserError naming the path where it cannot be written, NoRoomError where there is no room for it.
    """
    try:
        if _is_special(Path(path)):
            with Path(path).open("wb") as stream:
                stream.write(data)
            return
        target = Path(os.path.realpath(path))
        _require_place(target, path)
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()
        handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(beside).chmod(mode)
            Path(beside).replace(target)
        except BaseException:
            with suppress(OSError):
                Path(beside).unlink()
            raise
        _sync_folder(target.parent)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(path, error) from error


def require_writable(path: str | Path) -> None:
    """Raise UserError naming the path unless a file can be written there; leaves nothing behind.

    To be called before a long run, whose result would else be lost at its end.
    """
    try:
        if _is_special(Path(path)):
            return
        target = Path(os.path.realpath(path))
        _require_place(target, path)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def require_apart(written: Mapping[str, str | None], read: Mapping[str, str | None]) -> None:
    """Raise UserError where a file would be written over one that is read, or over another that is written.

    written, read: files by the option that names them, None where it does not; what is a query or a name is no file.
    """
    taken: dict[str, str] = {}
    for option, path in read.items():
        if path is not None and _kept(path, missing=False):
            taken.setdefault(os.path.realpath(path), option)
    for option, path in written.items():
        if path is None or not _kept(path, missing=True):
            continue
        if (other := taken.setdefault(os.path.realpath(path), option)) != option:
            raise UserError(f"{option} {path}: {other} names the same file, which would be written over; choose "
                            "another name")  # fmt: skip


def require_ending(written: Mapping[str, str | None], *endings: str) -> None:
    """Raise UserError where the name of a file promises something else than is written.

    written: files by the option that names them, None where it does not. endings: those that fit, the usual one first;
    a name without any promises nothing, and neither does that of a pipe.
    """
    for option, path in written.items():
        ending = Path(path).suffix if path is not None else ""
        if path is not None and ending and ending.lower() not in endings and not _is_special(Path(path)):
            raise UserError(f"{option} {path}: ends in {ending}; expected a name that ends in {endings[0]}")


def _kept(path: str, *, missing: bool) -> bool:
    """Tell whether the path leads to a file that keeps what is written; missing: whether one that is not there does."""
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except FileNotFoundError:
        return missing
    except (OSError, ValueError):  # such as a query, which is too long for a name
        return False


def _require_place(target: Path, path: str | Path) -> None:
    if target.is_dir():
        raise UserError(f"{path} is a folder; expected the name of a file to write")
    if not target.parent.is_dir():
        raise UserError(f"{path}: the folder {target.parent} does not exist; create it first")
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _is_special(path: Path) -> bool:
    """Tell whether the path leads to a pipe, a device or a socket."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Flush the rename itself; file systems that cannot sync a folder keep it anyway."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def unwritable(path: str | Path, error: OSError) -> UserError:
    """Return what to raise where a path cannot be written."""
    if error.errno in FULL:
        return NoRoomError(f"{path} cannot be written: {error.strerror}; make room there, or choose another place")
    return UserError(f"{path} cannot be written: {error.strerror or error}; choose another place or make it writable")
