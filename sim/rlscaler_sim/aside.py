"""Work that is done in a process of its own meanwhile, where there is a core for it."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Protocol, TypeVar

T = TypeVar("T")


class Begin(Protocol):
    """What begins work."""

    def __call__(self, work: Callable[[], T], /) -> Callable[[], T]:
        """Begin work that can be pickled, and return what returns its answer, or raises what it raised."""
        ...


@contextmanager
def aside(*, long: bool) -> Iterator[Begin]:
    """Yield what begins work in a process of its own, one after the other; its answer is awaited when it is asked for.

    long: whether it is work of several seconds, as it takes one to begin a process. What is not long, what has no core
    of its own, and what does not answer because its process was ended from outside, as for want of memory for two, is
    worked out here, when its answer is asked for.
    """
    if not long or (os.cpu_count() or 1) < 2:
        yield _here
        return
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begun) as pool:

        def begin(work: Callable[[], T], /) -> Callable[[], T]:
            try:
                future = pool.submit(work)
            except BrokenProcessPool:
                return work

            def answer() -> T:
                try:
                    return future.result()
                except BrokenProcessPool:
                    return work()

            return answer

        yield begin


def _here(work: Callable[[], T], /) -> Callable[[], T]:
    return work


def _begun() -> None:
    """Have this process end with the one that began it, whatever ended that; else it would wait for work for ever.

    Ctrl-C, which goes to both, ends it without a word.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
