"""How much memory the process holds on to beside what it uses: the C library's part of it, and the collector's.

Thousands of workloads are read, admitted and remembered in waves, from a dozen threads. What they leave behind would
stay with the process: each thread's own heap, and every freed block below the last that is in use. Nothing here changes
what the program does, and where the C library is another than glibc nothing happens.
"""

import asyncio
import ctypes
import gc
import logging
import sys
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""
ARENAS = 2
"""Heaps that threads share; by default each of them has its own, up to eight for each core."""
LARGE = 512 * 1024
"""Bytes from which on a block is given back as soon as it is free. By default that grows with what has been freed."""
TRIM_EVERY = 30.0
"""Seconds between two returns of what is free."""
NEWEST, MIDDLE, OLDEST = 10_000, 20, 50
"""Objects that come before the collector looks for cycles among them, and rounds after which it looks further."""
LATENCY = 0.001
"""Seconds that a thread may compute while others wait: the loop comes back from each wait behind all of them."""

log = logging.getLogger("rlscaler.operator")


def settle() -> None:
    """Set up this process for many threads and many objects that stay; once, before any thread is begun."""
    sys.setswitchinterval(LATENCY)
    gc.set_threshold(NEWEST, MIDDLE, OLDEST)
    if (set_option := _function("mallopt")) is not None:
        for option, value in ((_ARENA_MAX, ARENAS), (_MMAP_THRESHOLD, LARGE), (_TRIM_THRESHOLD, LARGE)):
            set_option(option, value)


async def trim_regularly() -> None:
    """Give back what is free now and then, until cancelled."""
    trim = _function("malloc_trim")
    while trim is not None:
        await asyncio.sleep(TRIM_EVERY)
        await asyncio.to_thread(trim, 0)


def _function(name: str) -> Callable[..., int] | None:
    """Return a function of the C library, None where it has none of that name."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None
    return found
