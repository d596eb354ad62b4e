"""Writes status and events to the API server, on change only, without the loop ever waiting for it.

`report` computes and returns at once; a few workers write, each from a thread. A workload waits in line once and is
written as it is when its turn comes, so whoever changes faster than the API server takes it loses nothing but the
states between. Events are made from the two statuses written, and a write that failed is tried again later.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from rlscaler.resource_status import clean, complete
from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.clock import Clock
from rlscaler_operator.events import Allowance, Budget, Event, differences, rescale
from rlscaler_operator.model import Account, Key, Workload
from rlscaler_operator.status import age, changed, status
from rlscaler_operator.under_way import UnderWay

FIRST_PAUSE: Final = 0.5
"""Seconds after a first failed write; doubled by each further one."""
LONGEST_PAUSE: Final = 60.0
"""Seconds at most between two tries."""
WRITES_AT_ONCE, WRITES_EVERY = 6, 10.0
"""Writes of one workload's status that may follow each other at once, and seconds between further ones."""
PATIENCE: Final = 0.2
"""Seconds that a change waits, so that what follows at once (the write to the target) goes along with it."""
MOST_EVENTS: Final = 50
"""Events of a workload that wait to be written; the oldest give way."""

log = logging.getLogger("rlscaler.workload")
_own_log = logging.getLogger("rlscaler.report")


class Writable(Protocol):
    """What is needed of `cluster.Cluster`."""

    def patch_status(self, key: Key, status: Mapping[str, Any], uid: str = "", timeout: float | None = None) -> None:
        """Merge fields into a status; None removes one."""
        ...

    def create_event(
        self,
        workload: Workload,
        kind: Literal["Normal", "Warning"],
        reason: str,
        message: str,
        when: float,
        timeout: float | None = None,
    ) -> None:
        """Record an event."""
        ...


@dataclass(slots=True)
class _Entry:
    """What is known of one workload. seen: its newest status. written: the one that the API server has.

    time, written_at: of these, in decision time. waiting: stands in line, or is being written.
    """

    workload: Workload
    seen: Mapping[str, Any]
    written: Mapping[str, Any]
    time: float
    written_at: float
    context: Mapping[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    budget: Budget = field(default_factory=Budget.fresh)
    writes: Allowance = field(default_factory=lambda: Allowance(WRITES_AT_ONCE, WRITES_EVERY))
    waiting: bool = False
    failures: int = 0

    def is_due(self) -> bool:
        """Tell whether there is anything to write."""
        return bool(self.events) or changed(self.written, self.seen, self.time - self.written_at)


class Reporter:
    """Reports on all workloads."""

    def __init__(
        self,
        cluster: Writable,
        clock: Clock,
        valid: Callable[[], bool],
        workers: int = 4,
        rate: float = 50.0,
        *,
        timeout: float = 4.0,
        patience: float = PATIENCE,
        told: Callable[[str, str], None] = lambda *_: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        writes: UnderWay | None = None,
    ) -> None:
        """Take what writes.

        valid: whether the lease allows a write now. workers: writes at a time. rate: writes/s of all together.
        timeout: seconds for a write, as of `writing.Actuator`: one that came after those of the next leader would stay.
        patience: seconds that a change waits for company. told: hears of each write ("status" or "event", and "Written"
        or the reason of the failure). writes: where those under way are counted.
        """
        self._cluster, self._clock, self._valid = cluster, clock, valid
        self._workers, self._gap, self._timeout = workers, 1.0 / rate, timeout
        self._patience, self._told, self._sleep = patience, told, sleep
        self._writes = writes or UnderWay()
        self._entries: dict[Key, _Entry] = {}
        self._line: asyncio.Queue[Key] = asyncio.Queue()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="report")
        self._next = -math.inf
        self._failures = 0
        self._complaints: dict[Key | None, str] = {}
        """What writes are failing of: of one workload, or (None) of all, as the API server is in trouble."""
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._busy = 0

    def __len__(self) -> int:
        """Return the number of workloads that are known."""
        return len(self._entries)

    def report(self, account: Account) -> Mapping[str, Any]:
        """Take in what is known of a workload after a tick, and return its status.

        Without a valid lease nothing is remembered, so that who gets it (back) compares with what the watch shows.
        """
        workload, time = account.workload, account.time
        if not self._valid():
            self.reset()
            return status(account, clean(workload.status))
        entry = self._entries.get(workload.key)
        if entry is None or entry.workload.uid != workload.uid:
            told = clean(workload.status)
            entry = _Entry(workload, told, told, time, time - age(told, time))
            self._entries[workload.key] = entry
        entry.workload, entry.time = workload, time
        entry.seen = status(account, entry.seen)
        entry.context = _context(account)
        for event in rescale(account):
            log.info(event.message, extra={"context": {**_rescaled(account), "reason": event.reason}})
            entry.events = [*entry.events[1 - MOST_EVENTS :], event]
        if not entry.waiting and entry.is_due():
            self._line_up(workload.key, entry)
        return entry.seen

    def forget(self, key: Key) -> None:
        """Drop a workload that is gone."""
        self._entries.pop(key, None)
        self._complaints.pop(key, None)

    def reset(self) -> None:
        """Forget everything: the next report of each workload is compared with what its watch shows."""
        self._entries.clear()

    async def run(self) -> None:
        """Write until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def drain(self, seconds: float) -> bool:
        """Wait until all that is in line is written, for `seconds` at most; tell whether it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._at_rest.wait()
        except TimeoutError:
            return False
        return True

    def _line_up(self, key: Key, entry: _Entry) -> None:
        entry.waiting = True
        self._busy += 1
        self._at_rest.clear()
        asyncio.get_running_loop().call_later(self._patience, self._line.put_nowait, key)

    async def _work(self) -> None:
        while True:
            key = await self._line.get()
            entry = self._entries.get(key)
            pause = 0.0
            try:
                if not self._valid():
                    self.reset()
                elif entry is not None:
                    pause = await self._write(key, entry)
            except Exception:
                _own_log.exception("the report on a workload failed", extra={"context": {"workload": str(key)}})
                pause = LONGEST_PAUSE
            finally:
                self._busy -= 1
                if entry is not None:
                    entry.waiting = False
                    self._again(key, entry, pause)
                if not self._busy:
                    self._at_rest.set()

    def _again(self, key: Key, entry: _Entry, pause: float) -> None:
        """Put a workload into the line once more where it has changed meanwhile, or after a pause."""
        if self._entries.get(key) is not entry or not entry.is_due():
            return
        if pause <= 0.0:
            self._line_up(key, entry)
            return
        entry.waiting = True  # in a queue of its own: not counted as busy, so that nobody waits for it to end

        def later() -> None:
            entry.waiting = False
            if self._entries.get(key) is entry and entry.is_due():
                self._line_up(key, entry)

        asyncio.get_running_loop().call_later(pause, later)

    async def _write(self, key: Key, entry: _Entry) -> float:
        """Write what is due of a workload; return the seconds after which to come back, 0 if all went well."""
        if changed(entry.written, entry.seen, entry.time - entry.written_at):
            if not entry.writes.take(self._clock.monotonic()):
                return WRITES_EVERY
            seen, time = entry.seen, entry.time
            uid = entry.workload.uid
            error = await self._try(
                "status", key, lambda: self._cluster.patch_status(key, complete(seen), uid, self._timeout)
            )
            if error is not None:
                return self._failed(key, entry, error)
            found = differences(entry.written, seen)
            entry.written, entry.written_at, entry.failures = seen, time, 0
            for event in found:
                level = logging.WARNING if event.kind == "Warning" else logging.INFO
                log.log(level, event.message, extra={"context": {**entry.context, "reason": event.reason}})
            entry.events = [*entry.events, *found][-MOST_EVENTS:]
        told, entry.events = entry.budget.allowed(entry.events, self._clock.monotonic()), []
        workload = entry.workload
        for kind, reason, message in told:
            # An event that is lost is no state that is wrong, so none is tried twice.
            await self._try("event", key, lambda e=(kind, reason, message): self._event(workload, *e))  # type: ignore[misc]
        return 0.0

    def _event(self, workload: Workload, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        self._cluster.create_event(workload, kind, reason, message, self._clock.now(), self._timeout)

    async def _try(self, what: str, key: Key, write: Callable[[], None]) -> ClusterError | None:
        """Make one write about a workload when it is its turn; return what went wrong."""
        await self._pace()

        def fenced() -> bool:
            """Write if we lead: asked in the thread, since nothing slow may come after the fence."""
            with self._writes:
                if may := self._valid():
                    write()
            return may

        try:
            if not await asyncio.get_running_loop().run_in_executor(self._threads, fenced):
                return ClusterError("Unavailable", "the lease is not ours any more")
        except ClusterError as error:
            self._told(what, error.reason)
            if error.reason != "NotFound":
                self._complain(key, error)
            return error
        self._told(what, "Written")
        self._failures = 0
        if self._complaints.pop(None, ""):
            _own_log.info("status and events are written again")
        if self._complaints.pop(key, ""):
            _own_log.info("%s: status and events are written again", key)
        return None

    async def _pace(self) -> None:
        now = self._clock.monotonic()
        start = max(now, self._next)
        self._next = start + self._gap
        if start > now:
            await self._sleep(start - now)

    def _failed(self, key: Key, entry: _Entry, error: ClusterError) -> float:
        """Return the pause of a workload after a failed write; where the server is in trouble all writes pause."""
        if error.reason == "NotFound":
            if self._entries.get(key) is entry:  # else another one has its name by now
                self.forget(key)
            return 0.0
        entry.failures += 1
        pause = _pause(entry.failures)
        if error.transient:
            self._failures += 1
            everyone = max(_pause(self._failures), error.retry_after or 0.0)
            self._next = max(self._next, self._clock.monotonic() + min(everyone, LONGEST_PAUSE))
            return max(pause, error.retry_after or 0.0)
        if error.reason == "Conflict":
            return pause  # somebody else changed the object at that moment; the next try holds of it as it is then
        return max(pause, LONGEST_PAUSE)

    def _complain(self, key: Key, error: ClusterError) -> None:
        about = None if error.transient else key
        if error.reason != self._complaints.get(about):
            self._complaints[about] = error.reason
            text = error.message if about is None else f"{key}: {error.message}"
            _own_log.warning(text, extra={"context": {"reason": error.reason}})


def _pause(failures: int) -> float:
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 10))


def _context(account: Account) -> dict[str, Any]:
    resource, context = account.workload.resource, {"workload": str(account.workload.key)}
    if account.target is not None:
        context["target"] = str(account.target.key)
    elif resource is not None:
        ref = resource.spec.scale_target_ref
        context["target"] = f"{ref.kind} {account.workload.key.namespace}/{ref.name}"
    return context


def _rescaled(account: Account) -> dict[str, Any]:
    found: dict[str, Any] = _context(account)
    if account.target is not None:
        found["from"] = account.target.desired
    return found | {"to": account.wanted}
