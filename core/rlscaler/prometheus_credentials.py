"""What lets a client in: headers, some of which come from files that are rotated while the client runs.

A service account's token is replaced every hour or so by the kubelet, which swaps a link; a file is therefore looked
at before each use (one stat) and read again when it is another one.
"""

import base64
import html
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import quote, quote_plus

from rlscaler.prometheus_config import SourceConfig

LARGEST = 65536
"""Bytes of a file; no header that a server takes is longer."""
TELLING = 12
"""Characters of a secret in a row by which a text counts as repeating it."""

Signature = tuple[int, ...]
T = TypeVar("T")


class UnreadableError(Exception):
    """A file is not there or holds no usable value; the message names the field and the file."""


class Keys(NamedTuple):
    """Headers to send, and what must not stand in a message for their sake.

    short: secrets of less than TELLING characters. parts: all runs of TELLING characters of the longer ones. Both in
    each form in which a server could repeat them, case-folded.
    """

    headers: dict[str, str]
    short: tuple[str, ...] = ()
    parts: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        """Return nothing that is secret."""
        return f"Keys({', '.join(self.headers)})"

    def repeated_in(self, text: str) -> bool:
        """Tell whether a text holds a secret, or a good part of one."""
        folded = text.casefold()
        return any(secret in folded for secret in self.short) or not self.parts.isdisjoint(_runs(folded))


def _runs(text: str) -> Iterator[str]:
    """Yield all runs of TELLING characters."""
    return (text[start : start + TELLING] for start in range(len(text) - TELLING + 1))


class Credentials:
    """The headers of a source, read from its files when they change. Threads may share it."""

    def __init__(self, config: SourceConfig) -> None:
        """Take the configuration; no file is read yet."""
        self._config = config
        files = {"bearerTokenFile": config.bearer_token_file, "basic.passwordFile": config.password_file}
        files |= {f"headerFiles.{name}": path for name, path in config.header_files.items()}
        self._files = {field: path for field, path in files.items() if path is not None}
        self._known: tuple[tuple[Signature, ...], Keys] | None = None

    @property
    def described(self) -> str:
        """The fields and files that hold the credentials, for a message; empty where there are none."""
        return " and ".join(f"{field} {path}" for field, path in self._files.items())

    def keys(self) -> Keys:
        """Return what to send now; raises UnreadableError."""
        signatures = tuple(self._of(field, path, signature) for field, path in self._files.items())
        known = self._known
        if known is not None and known[0] == signatures:
            return known[1]
        keys = self._read()
        self._known = signatures, keys
        return keys

    def forget(self) -> None:
        """Read the files again at the next call, whatever they look like."""
        self._known = None

    def _read(self) -> Keys:
        values = {field: self._of(field, path, _content) for field, path in self._files.items()}
        headers, secrets = dict(self._config.headers), set(values.values())
        for name in self._config.header_files:
            headers[name] = values[f"headerFiles.{name}"]
        if token := values.get("bearerTokenFile"):
            headers["Authorization"] = f"Bearer {token}"
        if password := values.get("basic.passwordFile"):
            pair = base64.b64encode(f"{self._config.username}:{password}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
            secrets.add(pair)
        # Plain headers stand in a configuration that people share, yet may hold what should not be passed on; short
        # ones are names of tenants and the like, and occur in texts by chance.
        secrets |= {value for value in self._config.headers.values() if len(value) >= TELLING}
        forms = {form(secret).casefold() for secret in secrets for form in _FORMS}
        short = tuple(sorted(form for form in forms if len(form) < TELLING))
        parts = frozenset(run for form in forms for run in _runs(form))
        return Keys({name: value.encode().decode("latin-1") for name, value in headers.items()}, short, parts)

    def _of(self, field: str, path: str, get: Callable[[str], T]) -> T:
        try:
            return get(path)
        except (OSError, ValueError) as error:
            why = (error.strerror or "it cannot be opened") if isinstance(error, OSError) else str(error)
            raise UnreadableError(f"{field} {path} cannot be used: {why}") from None


def signature(path: str) -> Signature:
    """Return what changes when a file does; raises OSError where there is none."""
    found = os.stat(path)  # noqa: PTH116 - at each call, and a Path takes as long to make as the look
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _content(path: str) -> str:
    """Return the one line of a file; raises OSError, or ValueError that says what is wrong and shows no part of it."""
    with Path(path).open("rb") as stream:
        raw = stream.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST} bytes; expected one line")
    try:
        text = raw.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("it holds bytes that are no UTF-8 text; expected one line of text") from None
    if not text:
        raise ValueError("it is empty; expected one line of text")
    if not text.isprintable():
        raise ValueError("it holds a line break or another control character; expected one line of text")
    return text


def _in_json(text: str) -> str:
    """Return text as it stands between quotes in JSON, and in Go's."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


_FORMS: tuple[Callable[[str], str], ...] = (str, quote, quote_plus, html.escape, _in_json, _on_one_line)
