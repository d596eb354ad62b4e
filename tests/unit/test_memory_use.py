"""What the process gives back: it must work where the C library has none of it, and change nothing but memory."""

import asyncio
import gc
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rlscaler_operator import memory_use


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Put back what the interpreter was set to."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*thresholds)


class Library:
    """A C library that notes what it is asked. lacks: it has none of it, as on other systems."""

    def __init__(self, lacks: bool) -> None:
        self._lacks = lacks
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        if self._lacks:
            raise AttributeError(name)
        return lambda *values: self.asked.append((name, *values))


@pytest.mark.parametrize("lacks", [False, True])
def test_heaps_are_few_and_large_blocks_are_given_back(monkeypatch: pytest.MonkeyPatch, lacks: bool) -> None:
    library = Library(lacks)
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    monkeypatch.setattr(sys, "platform", "linux")
    memory_use.settle()
    assert sys.getswitchinterval() == pytest.approx(memory_use.LATENCY)
    options = [("mallopt", -8, memory_use.ARENAS), ("mallopt", -3, memory_use.LARGE), ("mallopt", -1, memory_use.LARGE)]
    assert library.asked == ([] if lacks else options)


def test_what_is_free_is_given_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(lacks=False)
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory_use, "TRIM_EVERY", 0.0)

    async def scene() -> None:
        trimming = asyncio.create_task(memory_use.trim_regularly())
        while len(library.asked) < 2:
            await asyncio.sleep(0.0)
        trimming.cancel()

    asyncio.run(asyncio.wait_for(scene(), 30.0))
    assert set(library.asked) == {("malloc_trim", 0)}


def test_where_there_is_no_such_library_nothing_is_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("asked"))
    memory_use.settle()
    asyncio.run(memory_use.trim_regularly())
