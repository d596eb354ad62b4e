"""Work that is done in a process of its own meanwhile, where there is a core for it."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def aside(work: Callable[[], T], *, long: bool) -> Iterator[Callable[[], T]]:
    """Yield what returns the answer of `work`, which can be pickled: awaited, or worked out when it is asked for.

    long: whether it is work of several seconds, as it takes one to begin a process. The answer raises what work raised;
    where the process was ended from outside, as for want of memory for two, it is worked out here.
    """
    if not long or (os.cpu_count() or 1) < 2:
        yield work
        return
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        future = pool.submit(work)

        def answer() -> T:
            try:
                return future.result()
            except BrokenProcessPool:
                return work()

        yield answer
