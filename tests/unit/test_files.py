"""Results are written whole or not at all, and a place that cannot be written is known before the work."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rlscaler.errors import UserError
from rlscaler.files import (
    require_apart,
    require_ending,
    require_writable,
    write_bytes_atomically,
    write_text_atomically,
)


def _missing_folder(folder: Path) -> Path:
    return folder / "missing" / "out.json"


def _folder(folder: Path) -> Path:
    return folder


def _below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "out.json"


def _write(path: Path) -> None:
    write_text_atomically(path, "new")


UNWRITABLE = {
    "missing-folder": (_missing_folder, r"out\.json: the folder .*missing does not exist; create it first"),
    "folder": (_folder, r"is a folder; expected the name of a file to write"),
    "below-a-file": (_below_a_file, r"out\.json cannot be written: Not a directory"),
}


@pytest.mark.parametrize(("make", "message"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_place_that_cannot_be_written_is_named_before_and_at_the_end(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    path = make(tmp_path)
    for attempt in (require_writable, _write):
        with pytest.raises(UserError, match=message) as caught:
            attempt(path)
        assert str(path) in str(caught.value)


def test_a_file_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda *_: False)
    for attempt in (require_writable, _write):
        with pytest.raises(UserError, match=r"out\.json cannot be written: Permission denied"):
            attempt(path)
    assert path.read_text() == "old"


def test_text_is_written_as_utf8_with_plain_line_ends(tmp_path: Path) -> None:
    write_text_atomically(tmp_path / "out.txt", "naïve\r\nλ\n")
    assert (tmp_path / "out.txt").read_bytes() == "naïve\r\nλ\n".encode()


def test_nothing_but_the_file_is_left(tmp_path: Path) -> None:
    require_writable(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    write_bytes_atomically(str(tmp_path / "out"), b"1")
    write_bytes_atomically(str(tmp_path / "out"), b"2")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"2"


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_failure_half_way_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "out"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, fail)
    with pytest.raises(UserError, match="out cannot be written: No space left on device"):
        write_text_atomically(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("out", "old")]


def test_modes(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write_text_atomically(tmp_path / "new", "x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o600)
    write_text_atomically(tmp_path / "new", "y")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_pipe_is_written_directly(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        require_writable(pipe)
        write_text_atomically(pipe, "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_is_no_file_is_never_the_same_one(tmp_path: Path) -> None:
    """Queries, the standard input, devices and places that cannot be."""
    query = "sum(" + "a" * 5000 + ")"
    require_apart({"--a": "/dev/null", "--b": "/dev/null", "--c": None}, {"-f": "-", "--d": query, "--e": "x\0"})
    (tmp_path / "file").touch()
    require_apart({"--a": str(tmp_path / "file" / "below")}, {"-f": str(tmp_path / "file")})


@pytest.mark.parametrize("path", ["x.png", "out/x.PNG", "x", "run.d/x", ".hidden", "/dev/stdout", None])
def test_a_name_that_says_what_is_written_or_nothing_is_left_alone(path: str | None) -> None:
    require_ending({"--png": path}, ".png")


@pytest.mark.parametrize(("path", "ending"), [("x.gif", ".gif"), ("x.png.html", ".html"), ("out/X.SVG", ".SVG")])
def test_a_name_that_says_something_else_than_is_written_is_refused(path: str, ending: str) -> None:
    with pytest.raises(UserError) as caught:
        require_ending({"--plot": None, "--png": path}, ".png")
    assert str(caught.value) == f"--png {path}: ends in {ending}; expected a name that ends in .png"


def test_links_to_one_file_are_that_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(UserError, match=r"--a .*link: -f names the same file"):
        require_apart({"--a": str(tmp_path / "link")}, {"-f": str(tmp_path / "file")})
