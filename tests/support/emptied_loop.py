"""Runs a test's coroutine in a loop that ends once its connections are closed.

TLS takes leave before a connection is closed, and asyncio waits 30 s for the other side's word. A loop that ends first
leaves the socket to the garbage collector, whose warning then fails whichever test is on.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

FAREWELL = 35.0
"""Seconds at most until the connections are closed: asyncio gives a TLS connection up after 30."""


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine; raises TimeoutError where it leaves a connection that is not about to be closed."""
    watched = selectors.DefaultSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(watched)) as runner:
        runner.get_loop()
        own = len(watched.get_map())
        runner.run(test)
        runner.run(_emptied(watched, own))


async def _emptied(watched: selectors.BaseSelector, own: int) -> None:
    async with asyncio.timeout(FAREWELL):
        while len(watched.get_map()) > own:
            await asyncio.sleep(0.01)
