"""A wire to a server that a test can cut or make silent, which a real server does only by accident."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class Wire:
    """A TCP proxy on the loopback interface, in the test's own event loop; an async context manager.

    port: where it listens. opened: connections that were accepted so far.
    """

    def __init__(self, host: str, port: int) -> None:
        """Take the server."""
        self._to = (host, port)
        self.port = 0
        self.opened = 0
        self._cut = False
        self._ends: set[asyncio.StreamWriter] = set()
        self._silent: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close everything."""
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection, and every new one at once."""
        self._cut = True
        for end in list(self._ends):
            end.transport.abort()

    def mend(self) -> None:
        """Let new connections pass again."""
        self._cut = False

    def silence(self) -> None:
        """Keep every open connection open, and let nothing through any more; new ones pass."""
        self._silent |= self._ends

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        if self._cut:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = {writer}
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._to)
            ends.add(far_writer)
            self._ends |= ends
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, far_writer))
                group.create_task(self._pass(far_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in ends:  # a silent one too, once both sides have hung up
                end.transport.abort()
            self._ends -= ends
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if writer not in self._silent:
                    writer.write(data)
                    await writer.drain()
        if writer not in self._silent:
            writer.transport.abort()
