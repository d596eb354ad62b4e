"""Named files in a zip or a folder, and arrays in `.npy`, read as if the author were hostile.

Sizes are checked before reading and while unpacking, names before opening, and an array's header is matched
against one pattern instead of being evaluated. Nothing here can run code; anything unusual is refused with
`ArtifactError`. Assumed: contents fit in memory twice, which `max_bytes` bounds.
"""

import io
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NoReturn

import numpy as np

from rlscaler.errors import UserError

MANIFEST = "manifest.json"
MAX_ARRAYS = 256
MAX_NDIM = 8
DTYPES = {
    "float32": "<f4",
    "float64": "<f8",
    "int64": "<i8",
    "int32": "<i4",
    "int8": "|i1",
    "uint8": "|u1",
    "bool": "|b1",
}
"""Types that an array may have, and how they are stored."""
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What a name may look like."""
AGAIN = "fetch or export the file again"

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': ?'([<=|][a-z][0-9])', ?'fortran_order': ?(True|False), ?"
    rb"'shape': ?\(((?:[0-9]{1,12}, ?)*(?:[0-9]{1,12})?)\),? ?\} *\n"
)
_ENTRY = b"PK\x01\x02"
# Everything that zipfile and zlib raise on damaged or unusual input; RuntimeError covers encryption.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    IndexError,
    OverflowError,
)


class ArtifactError(UserError, ValueError):
    """A file is no artifact that can be trusted or used; the message says what was found and what to do."""


def refuse(found: str, expected: str, do: str = AGAIN) -> NoReturn:
    """Raise the ArtifactError of one sentence."""
    raise ArtifactError(f"{found}; expected {expected}; {do}")


def show(value: object) -> str:
    """Return a short ASCII form of a value that somebody else wrote."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def npy(array: np.ndarray) -> bytes:
    """Return the `.npy` file (version 1.0) of an array in C order, the same whatever NumPy is installed."""
    text = f"{{'descr': '{DTYPES[array.dtype.name]}', 'fortran_order': False, 'shape': {array.shape}, }}"
    header = text.encode()
    header += b" " * (-(len(_MAGIC) + 2 + len(header) + 1) % 64) + b"\n"
    return _MAGIC + struct.pack("<H", len(header)) + header + array.tobytes()


def from_npy(name: str, data: bytes, max_bytes: int) -> np.ndarray:
    """Return the read-only array of a `.npy` file whose header has the form that `numpy.save` writes.

    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    start = len(_MAGIC) + 2
    if not data.startswith(_MAGIC) or len(data) < start:
        refuse(f"{name} begins with {show(data[: len(_MAGIC)])}", "an .npy file of version 1.0")
    end = start + int.from_bytes(data[len(_MAGIC) : start], "little")
    match = _HEADER.fullmatch(data[start:end]) if end - start <= 4096 else None
    if match is None:
        refuse(f"the header of {name} is {show(data[start : min(end, start + 64)])}", "what numpy.save writes")
    descr, fortran, axes = match.group(1).decode(), match.group(2) == b"True", match.group(3)
    if descr.replace("=", "<") not in DTYPES.values():
        refuse(f"{name} has the type {show(descr)}", f"one of {', '.join(DTYPES)}", "convert it and export again")
    dtype = np.dtype(descr)
    shape = tuple(int(axis) for axis in axes.split(b",") if axis.strip())
    size = math.prod(shape) * dtype.itemsize
    if len(shape) > MAX_NDIM or max(size, *shape, 0) > max_bytes:
        refuse(f"{name} has the shape {show(shape)}", f"at most {MAX_NDIM} axes and {max_bytes} bytes")
    if size != len(data) - end:
        refuse(f"{name} has {len(data) - end} bytes of values", f"{size} for its shape {show(shape)}")
    if dtype == np.bool_ and np.frombuffer(data, np.uint8, offset=end).max(initial=0) > 1:
        refuse(f"{name} holds bytes other than 0 and 1", "booleans")
    return np.ndarray(shape, dtype, buffer=data, offset=end, order="F" if fortran else "C")


def packed(entries: dict[str, bytes]) -> bytes:
    """Return a zip of the entries; equal entries give equal bytes on every machine.

    Stored, not deflated: what a compressor writes depends on the library that is installed.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3  # Unix, on every machine
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, entries[name])
    return out.getvalue()


def unpacked(data: bytes, max_bytes: int) -> dict[str, bytes]:
    """Return the entries of a zip, of which at most `max_bytes` bytes are ever unpacked."""
    # Counted before parsing, so that a directory of a million empty entries costs nothing.
    if data.count(_ENTRY) > 2 * MAX_ARRAYS:
        refuse("there are too many entries", f"at most {MAX_ARRAYS} arrays")
    entries: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > max_bytes:
                refuse(
                    f"it unpacks to more than {max_bytes} bytes",
                    "less",
                    "raise max_bytes if that is intended",
                )
            for info in infos:
                name = _plain_entry(info)
                if name in entries:
                    refuse(f"the entry {show(name)} is there twice", "each entry once")
                with archive.open(info) as file:
                    # zipfile unpacks no more than the stated size and then compares the checksum.
                    entries[name] = file.read(info.file_size + 1)
                if len(entries[name]) != info.file_size:
                    refuse(f"the entry {show(name)} ends early", f"{info.file_size} bytes")
    except ArtifactError:
        raise
    except _ZIP_ERRORS as error:
        raise ArtifactError(f"it is not a readable zip ({error}); expected an artifact; {AGAIN}") from error
    return entries


def _plain_entry(info: zipfile.ZipInfo) -> str:
    name = _known(info.orig_filename)
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        refuse(f"the entry {show(name)} is a link or not a plain file", "plain files")
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        refuse(f"the entry {show(name)} is encrypted or of compression method {info.compress_type}",
               "stored or deflated entries", "pack it again")  # fmt: skip
    return name


def _known(name: str) -> str:
    stem = name.removesuffix(".npy")
    if name != MANIFEST and (stem == name or not WORD.fullmatch(stem)):
        refuse(f"there is an entry {show(name)}", f"only {MANIFEST} and one NAME.npy for each array",
               "check that this is the right file")  # fmt: skip
    return name


def folder_entries(folder: Path, max_bytes: int) -> dict[str, bytes]:
    """Return the files of a folder, of which at most `max_bytes` bytes are read.

    Links must stay inside of the folder and names that begin with two dots are passed over: that is how
    Kubernetes mounts a ConfigMap. https://kubernetes.io/docs/concepts/storage/volumes/#configmap
    """
    inside = folder.resolve(strict=True)
    entries: dict[str, bytes] = {}
    for path in inside.iterdir():
        if path.name.startswith(".."):
            continue
        name = _known(path.name)
        if not path.resolve().is_relative_to(inside):
            refuse(f"{show(name)} is a link that leads out of the folder", "plain files", "copy the file instead")
        entries[name] = read_file(path, max_bytes)
        max_bytes -= len(entries[name])
        if len(entries) > MAX_ARRAYS + 1:
            refuse("there are too many files", f"at most {MAX_ARRAYS} arrays")
    return entries


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a plain file; never waits on a pipe and never reads more than `max_bytes` + 1."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            refuse(f"{show(path.name)} is not a plain file", "a file", "check the path")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        refuse(
            f"{show(path.name)} is too large",
            f"at most {max_bytes} bytes",
            "raise max_bytes if that is intended",
        )
    return data
