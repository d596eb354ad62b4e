"""Log lines that another thread writes: whole, in order, and without anybody who waits for who reads them."""

import io
import json
import logging
import threading
from collections.abc import Iterator

import pytest

from rlscaler_operator import logs

log = logging.getLogger("rlscaler.test")


class Reader(io.StringIO):
    """Takes lines once it is let; writers: the threads that wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.writers = threading.Event(), set[str]()

    def write(self, text: str, /) -> int:
        assert self.free.wait(30.0)
        self.writers.add(threading.current_thread().name)
        return super().write(text)

    def told(self) -> list[str]:
        return [json.loads(line)["message"] for line in self.getvalue().splitlines()]


@pytest.fixture
def reader() -> Iterator[Reader]:
    """Send what is logged to a reader, and put the process' logging back afterwards."""
    root, own = logging.getLogger(), logging.getLogger("rlscaler")
    handlers, levels = list(root.handlers), (root.level, own.level)
    made = Reader()
    logs.configure("json", "info", made)
    yield made
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


def test_who_logs_does_not_wait_for_who_reads(reader: Reader) -> None:
    here = threading.current_thread().name
    with logs.aside():
        for number in range(100):
            log.info("line %d", number, extra={"context": {"workload": "shop/web"}})
        assert not reader.getvalue()
        reader.free.set()
    assert reader.told() == [f"line {number}" for number in range(100)]
    assert here not in reader.writers
    log.info("the end")
    assert reader.told()[-1] == "the end"
    assert here in reader.writers


def test_a_traceback_is_told_as_ever(reader: Reader) -> None:
    reader.free.set()
    with logs.aside():
        try:
            raise KeyError("web")
        except KeyError:
            log.exception("a defect")
    (line,) = map(json.loads, reader.getvalue().splitlines())
    assert line["error"] == "KeyError: 'web'"
    assert "Traceback" in line["traceback"]


def test_lines_that_nobody_takes_do_not_fill_the_memory(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_WAITING", 10)
    with logs.aside():
        for number in range(50):
            log.info("line %d", number)
        reader.free.set()
    *told, last = reader.told()
    assert told == [f"line {number}" for number in range(len(told))]
    assert 10 <= len(told) <= 11
    assert last.startswith(f"{50 - len(told)} log lines were left out")
