"""kopf as one part of a process among several: it watches, and takes nothing of the process for itself.

Its usual start takes SIGINT and SIGTERM, its usual end cancels every task that came after its start, and a watcher
that fails leaves others behind. So it is begun with the signals left alone, and ended through its own tasks.
"""

import asyncio
import contextlib
import logging
import random
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import kopf

_STANDALONE = "!pod-template-hash"
"""Label selector of ReplicaSets that no Deployment made: it gives each of its own this label."""
PAGE = 250
"""Objects of a list that one request asks for."""
REQUEST = 30.0
"""Seconds for one request that is not a watch."""
CONNECT = 5.0
"""Seconds for a connection."""
PATIENCE = 0.4
"""Seconds that kopf has at each of the steps in which it is ended."""
SLOWEST = 10.0
"""Seconds at most between two attempts."""

log = logging.getLogger("rlscaler.watching")


class _Attempts:
    """Seconds between attempts, for ever: what is watched is watched until we end."""

    def __iter__(self) -> Iterator[float]:
        """Yield the next pause."""
        step = 0.5
        while True:
            yield random.uniform(0.5, 1.0) * step
            step = min(2.0 * step, SLOWEST)


class _NoDiffs(kopf.DiffBaseStorage):
    """Keeps nothing, and spares the copy of each object that a difference to the last one would need."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        raise AssertionError("nothing is ever stored in an object")


def settings(inactivity: float) -> kopf.OperatorSettings:
    """Return what kopf needs to watch and to do nothing else. inactivity: seconds without a word."""
    made = kopf.OperatorSettings()
    made.process.ultimate_exiting_timeout = None  # it would kill the process ten minutes after a restart of kopf
    made.posting.enabled = False
    made.peering.standalone = True
    made.scanning.disabled = True
    made.watching.inactivity_timeout = inactivity
    made.watching.connect_timeout = CONNECT
    made.watching.chunk_size = PAGE
    made.watching.label_selectors["apps", "v1", "replicasets"] = _STANDALONE
    made.queueing.idle_timeout = 0.5
    made.queueing.exit_timeout = 0.5
    made.networking.request_timeout = REQUEST
    made.networking.connect_timeout = CONNECT
    made.networking.error_backoffs = _Attempts()
    # kopf takes its finalizer off objects that it has no use for; another operator's, if both kept the default.
    made.persistence.finalizer = "rlscaler.io/never-set"
    made.persistence.diffbase_storage = _NoDiffs()
    return made


@contextlib.contextmanager
def signals_left_alone() -> Iterator[None]:
    """Keep kopf from taking SIGINT and SIGTERM for itself: they are the process' own."""
    loop, ours = asyncio.get_running_loop(), asyncio.current_task()
    add = loop.add_signal_handler

    def unless_ours(number: int, callback: Callable[..., object], *args: Any) -> None:
        if asyncio.current_task() is not ours:
            add(number, callback, *args)

    setattr(loop, "add_signal_handler", unless_ours)  # noqa: B010  (mypy allows no assignment to a method)
    try:
        yield
    finally:
        delattr(loop, "add_signal_handler")


@contextlib.contextmanager
def false_alarm_left_out() -> Iterator[None]:
    """Keep asyncio from logging a traceback where kopf ends while it waits for the first word of a watch.

    A callback of kopf's then cancels the task that it runs in; there is none, since a loop runs callbacks by itself.
    """
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "request_cancel_callback" in str(context.get("message")):
            return
        if before is None:
            loop.default_exception_handler(context)
        else:
            before(loop, context)

    loop.set_exception_handler(handler)
    try:
        yield
    finally:
        loop.set_exception_handler(before)


_family: ContextVar["weakref.WeakSet[asyncio.Task[Any]] | None"] = ContextVar("_family", default=None)


@contextlib.contextmanager
def descendants() -> Iterator["weakref.WeakSet[asyncio.Task[Any]]"]:
    """Collect every task that is begun within, and by any of these in turn.

    When one of kopf's watchers fails, kopf leaves the others behind; its own end then cancels all tasks of the loop.
    """
    loop, before = asyncio.get_running_loop(), asyncio.get_running_loop().get_task_factory()
    family: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()

    make: Callable[..., Any] = before or _task

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **settings: Any) -> Any:
        begun = make(loop, coroutine, **settings)
        mine = _family.get()
        if mine is not None:
            mine.add(begun)
        return begun

    loop.set_task_factory(factory)
    token = _family.set(family)
    try:
        yield family
    finally:
        _family.reset(token)
        if loop.get_task_factory() is factory:
            loop.set_task_factory(before)


def _task(loop: asyncio.AbstractEventLoop, coroutine: Any, **settings: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coroutine, loop=loop, **settings)


async def ended(tasks: Collection[asyncio.Task[Any]], descendants: Iterable[asyncio.Task[Any]]) -> None:
    """End kopf's tasks: first those that end the rest in order, then whatever is left."""
    for task in tasks:
        task.cancel()
    _, pending = await asyncio.wait(tasks, timeout=PATIENCE)
    ours = asyncio.current_task()
    for _ in range(3):
        pending |= {task for task in descendants if task is not ours and not task.done()}
        if not pending:
            break
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=PATIENCE)
    for task in (*tasks, *descendants):
        if task.done() and not task.cancelled():
            task.exception()  # was seen, or came after the end; asyncio would complain that nobody asked


def quieten() -> None:
    """Let kopf log nothing by itself, except to debug: what matters is said once, by the watches."""
    if not log.isEnabledFor(logging.DEBUG):
        logging.getLogger("kopf").setLevel(logging.CRITICAL)
