"""Credentials of a source: read again when they change, sent where they belong and told to nobody."""

import base64
import html
import json
import logging
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asking_prometheus import ONE, asking, fault
from faulty_prometheus import (
    FaultyPrometheus,
    drip,
    failure,
    raw,
    reply,
    success,
)
from rlscaler.prometheus import SourceError


@pytest.fixture
def server() -> Iterator[FaultyPrometheus]:
    with FaultyPrometheus() as server:
        yield server


def test_redirects_are_not_followed_with_credentials(server: FaultyPrometheus, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("geheim-geheim-geheim")
    with FaultyPrometheus(reply(success([ONE]))) as other:
        for status in (301, 302, 303, 307, 308):
            server.answer = reply("", status, headers={"Location": f"{other.url}/api/v1/query"})
            with asking(server.url, bearer_token_file=str(token)) as source:
                assert fault(source).reason == "BadAnswer"
        assert other.requests == []


def test_a_token_is_read_again_when_it_changes(server: FaultyPrometheus, tmp_path: Path) -> None:
    token, key = tmp_path / "token", tmp_path / "key"
    token.write_text("first\n")
    key.write_text("one")
    with asking(server.url, bearer_token_file=str(token), header_files={"X-Key": str(key)}) as source:
        source.instant("up")
        stat = token.stat()
        token.write_text("other\n")
        os.utime(token, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a copy that keeps the times
        source.instant("up")
        beside = tmp_path / "beside"
        beside.write_text("third")
        beside.replace(token)
        key.write_text("two")
        source.instant("up")
    seen = [(request.headers["authorization"], request.headers["x-key"]) for request in server.requests]
    assert seen == [("Bearer first", "one"), ("Bearer other", "one"), ("Bearer third", "two")]


def test_a_token_behind_a_swapped_link_is_read_again(server: FaultyPrometheus, tmp_path: Path) -> None:
    """The kubelet swaps a link to a folder (..data) when it rotates the token of a service account."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(f"token-{name}")
    data = tmp_path / "..data"
    data.symlink_to("a")
    with asking(server.url, bearer_token_file=str(data / "token")) as source:
        source.instant("up")
        (tmp_path / "..data_tmp").symlink_to("b")
        (tmp_path / "..data_tmp").replace(data)
        source.instant("up")
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer token-a", "Bearer token-b"]


def test_basic_and_plain_headers_are_sent(server: FaultyPrometheus, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("pä:ss\n")
    config = {"username": "ü", "password_file": str(tmp_path / "password"), "headers": {"X-Scope-OrgID": "shop"}}
    with asking(server.url, **config) as source:
        source.instant("up")
    (request,) = server.requests
    assert base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode() == "ü:pä:ss"
    assert request.headers["x-scope-orgid"] == "shop"


UNUSABLE: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "No such file or directory"),
    "empty": (b" \n", "it is empty; expected one line of text"),
    "two lines": (b"geheim\ngeheim", "it holds a line break or another control character"),
    "bytes": (b"geheim\xff", "it holds bytes that are no UTF-8 text"),
    "large": (b"geheim" * 20_000, "it is larger than 65536 bytes"),
}


@pytest.mark.parametrize(("content", "said"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_token_that_cannot_be_used_is_told(
    server: FaultyPrometheus, tmp_path: Path, content: bytes | None, said: str
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    with asking(server.url, bearer_token_file=str(token)) as source:
        error = fault(source)
        assert error.reason == "Unauthorized"
        assert f"bearerTokenFile {token} cannot be used: {said}" in error.message
        assert "geheim" not in error.message
        assert server.requests == []
        token.write_text("good")
        source.instant("up")


def test_a_refused_token_is_named_by_its_file(server: FaultyPrometheus, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("geheim")
    server.answer = reply("", 401)
    with asking(server.url, bearer_token_file=str(tmp_path / "token")) as source:
        error = fault(source)
    assert f"it does not accept bearerTokenFile {tmp_path / 'token'}; is what stands there right" in error.message


SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=5, max_size=57).map("zq7".__add__)
"""Of which none is a word that our own messages use."""
SECRET_FAULTS = ["error", "page", "redirect", "warning", "isolated", "reason", "broken", "label kind", "late", "401"]
FORMS = ["plain", "quoted", "json", "html", "upper", "part", "base64"]


class Kept(logging.Handler):
    """Keeps the text of all log records."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


@settings(
    max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    secret=SECRETS,
    where=st.sampled_from(["token", "password", "header file", "header"]),
    how=st.sampled_from(SECRET_FAULTS),
    form=st.sampled_from(FORMS),
    before=st.integers(0, 320),
)
def test_no_fault_tells_a_secret(
    server: FaultyPrometheus, tmp_path: Path, secret: str, where: str, how: str, form: str, before: int
) -> None:
    """The server repeats what it was sent, in every place and form; no message, repr, traceback or log does."""
    if where == "header" and len(secret) < 12:
        secret = secret * 2  # what stands in the configuration itself is a secret only where it is long
    (tmp_path / "secret").write_text(secret)
    path = str(tmp_path / "secret")
    kinds: dict[str, dict[str, Any]] = {
        "token": {"bearer_token_file": path},
        "password": {"username": "u", "password_file": path},
        "header file": {"header_files": {"X-Key": path}},
        "header": {"headers": {"X-Key": secret}},
    }
    sent = {
        "plain": secret,
        "quoted": quote(secret, safe=""),
        "json": json.dumps(secret),
        "html": html.escape(secret),
        "upper": secret.upper(),
        "part": secret[: max(12, len(secret) - 3)],
        "base64": base64.b64encode(f"u:{secret}".encode()).decode() if where == "password" else secret,
    }[form]
    text = "x" * before + sent
    server.answer = {
        "error": reply(failure("bad_data", text), 400),
        "page": reply(f"<html>{text}</html>", 502),
        "redirect": reply("", 302, headers={"Location": f"http://h/{quote(text)}"}),
        "warning": reply(success([], warnings=[text])),
        "isolated": reply(text),
        "reason": raw(f"HTTP/1.1 500 {text}\r\n\r\n".encode()),
        "broken": raw(f"{text}\r\n".encode()),
        "label kind": reply(success([], text)),
        "late": drip(f"HTTP/1.1 200 {text}\r\n\r\n".encode()),
        "401": reply(failure("unauthorized", text), 401),
    }[how]
    kept = Kept()
    root = logging.getLogger()
    level = root.level
    root.addHandler(kept)
    root.setLevel(logging.DEBUG)
    try:
        with asking(server.url, **kinds[where]) as source:
            try:
                source.instant("up", deadline=0.1 if how == "late" else 20.0)
            except SourceError as error:
                logging.getLogger("caller").exception("it failed: %r", error)
                kept.texts += [repr(source), repr(source.config), "".join(traceback.format_exception(error))]
    finally:
        root.removeHandler(kept)
        root.setLevel(level)
    for told in (secret, sent):
        assert all(told.casefold() not in line.casefold() for line in kept.texts), kept.texts
