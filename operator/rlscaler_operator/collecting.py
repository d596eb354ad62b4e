"""Readings of many workloads from Prometheus: each distinct query once, under a deadline, no source waits for another.

The client is synchronous, so each source has a few threads of its own. A source that does not answer is asked by one
probe at a time until it does again, so that its workloads cost nothing while it is down. A query that was not answered
in time is asked beside the others from then on, so that a few that are too heavy keep nobody else's waiting.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from rlscaler.prometheus import Series, SeriesRange, SourceError
from rlscaler.resource_objects import Query, Spec
from rlscaler_operator.clock import Clock
from rlscaler_operator.model import Key, Note, Readings, Workload
from rlscaler_operator.queries import Ask, Index, asked, picked

THREADS = 4
"""Requests to one source at a time."""
PATIENCE = 3
"""Rounds of THREADS failed requests, with no answer between them, after which a source is only probed."""
PAST_THREADS = 2
"""Requests to one source at a time for the past."""
LATE_THREADS = 2
"""Requests to one source at a time by queries that were not answered in time when they were last asked."""
OFFSET_FOR = 60.0
"""Seconds for which a source's time less ours is used: ours may be following a step of the wall clock."""
MOST_LATE = 10_000
"""Such queries that are remembered of a source."""
UNWELL = ("Timeout", "Unreachable", "Overloaded", "ServerError")
"""Reasons that speak of the source and not of a query. A query may bring about a server error too; no harm is done,
since any answer to another one ends the probing."""
SHARE = 0.5
"""Part of the interval for which a decision waits for its metrics other than the load."""
LARGEST_SHARE = 1.5
"""Above it, a share is taken for a percentage; rates that are divided by each other may exceed 1 by a little."""
SHARES = ("utilization", "errors")
MILLISECONDS = (100.0, 30.0)
"""Multiples of the objective's latency, and seconds, above both of which a latency is taken for milliseconds."""
GRACE = 0.5
"""Seconds after its deadline at which a call that does not keep it is given up."""
_REPLACED = "source {} is read anew from the operator's configuration"
Answer = Index | Note
T = TypeVar("T")


class Source(Protocol):
    """What is needed of `rlscaler.prometheus.Source`."""

    def instant(self, query: str, *, deadline: float | None = None) -> list[Series]:
        """Return the series of a query now."""
        ...

    def range(self, query: str, start: float, end: float, step: float, *, deadline: float | None = None) -> SeriesRange:
        """Return the series of a query over a grid of times."""
        ...

    def server_time(self) -> float:
        """Return the source's own time."""
        ...

    def close(self) -> None:
        """Give back the connections."""
        ...


class Line:
    """One source with its threads and its fuse."""

    def __init__(self, name: str, source: Source, clock: Clock, timeout: float) -> None:
        """Take the source; timeout: seconds that a request may take."""
        self.name, self.source, self.timeout = name, source, timeout
        self._clock = clock
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"source-{name}")
        self._late_threads = ThreadPoolExecutor(LATE_THREADS, thread_name_prefix=f"late-{name}")
        self._past_threads = ThreadPoolExecutor(PAST_THREADS, thread_name_prefix=f"past-{name}")
        self._closed = False
        self._failures = 0
        self._probing = False
        self._late: dict[str, Note] = {}
        self._late_asked = 0
        self._silent = False
        self._offset: asyncio.Task[float] | None = None
        self._offset_at = -math.inf
        self._last = Note("Unreachable", f"source {name} has not answered yet")

    @property
    def up(self) -> bool:
        """Whether the source is asked as usual."""
        return self._failures < THREADS * PATIENCE

    @property
    def has_past(self) -> bool:
        """Whether the source may be asked for the past now."""
        return self.up and not self._silent

    async def instant(self, query: str, deadline: float) -> Answer:
        """Return the answer to a query, or why there is none; takes at most about `deadline` seconds."""
        if query in self._late:
            if self._late_asked == LATE_THREADS:
                return self._late[query]
            self._late_asked += 1
            try:
                return await self._asked(self._late_threads, query, deadline)
            finally:
                self._late_asked -= 1
        if self.up:
            return await self._asked(self._threads, query, deadline)
        if self._probing:
            return self._last
        self._probing = True
        try:
            return await self._asked(self._threads, query, deadline)
        finally:
            self._probing = False

    async def _asked(self, threads: ThreadPoolExecutor, query: str, deadline: float) -> Answer:
        until = self._clock.monotonic() + deadline
        begun = False

        def call() -> list[Series]:
            nonlocal begun
            left = until - self._clock.monotonic()
            if left <= 0.0:
                raise SourceError("Timeout", f"source {self.name}: no free connection within {deadline:g} s")
            begun = True
            return self.source.instant(query, deadline=left)

        try:
            found = await self._run(threads, call, deadline)
        except SourceError as error:
            note = Note(error.reason, error.message)
            if note.reason in UNWELL:
                self._failed(note, query if begun else None)
            else:
                self._answered(query)
            return note
        self._answered(query)
        return Index(found)

    async def _run(self, threads: ThreadPoolExecutor, call: Callable[[], T], seconds: float) -> T:
        """Return what a call in a thread returns; it should end by itself within `seconds`. Raises SourceError."""
        if self._closed:
            raise SourceError("Unreachable", _REPLACED.format(self.name))
        future = asyncio.get_running_loop().run_in_executor(threads, call)
        try:
            return await asyncio.wait_for(future, seconds + GRACE)
        except TimeoutError:
            raise SourceError("Timeout", f"source {self.name} did not answer within {seconds:g} s") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise SourceError("Unreachable", _REPLACED.format(self.name)) from None
            raise

    def _answered(self, query: str) -> None:
        if self.up:
            self._late.pop(query, None)
        else:
            self._late.clear()  # it was the source, not the queries
        self._failures, self._silent = 0, False

    def _failed(self, note: Note, query: str | None) -> None:
        """Take in why a request failed. query: None where it has not been asked, for want of a thread."""
        self._failures += 1
        self._last = note
        if note.reason == "Timeout" and query is not None:
            if len(self._late) >= MOST_LATE:
                self._late.clear()
            self._late[query] = note

    async def range(self, query: str, start: float, end: float, step: float, deadline: float) -> SeriesRange | Note:
        """Return the series of a query over a grid of the source's own times, or why there are none."""
        if not self.has_past:
            return self._last

        def call() -> SeriesRange:
            return self.source.range(query, start, end, step, deadline=deadline)

        try:
            return await self._run(self._past_threads, call, 4.0 * deadline)  # others may come first
        except SourceError as error:
            return Note(error.reason, error.message)

    async def offset(self, deadline: float) -> float:
        """Return the source's time less decision time, 0 where it cannot be told; asked for once a minute at most.

        A source that does not even tell its time is not asked for the past until it has answered something.
        """
        task, now = self._offset, self._clock.monotonic()
        if task is None or (task.done() and now - self._offset_at > OFFSET_FOR):
            known = task.result() if task is not None else None
            self._offset_at = now
            self._offset = task = asyncio.get_running_loop().create_task(self._measured(deadline, known))
        return await asyncio.shield(task)

    async def _measured(self, deadline: float, known: float | None) -> float:
        """Return the offset as it is now, where that fails the one that was known before."""
        began = self._clock.now()
        try:
            there = await self._run(self._past_threads, self.source.server_time, deadline)
        except SourceError as error:
            if known is not None:
                return known
            self._silent, self._last = True, Note(error.reason, error.message)
            self._offset = None
            return 0.0
        self._silent = False
        return there - 0.5 * (began + self._clock.now())

    def close(self) -> None:
        """End the threads as their requests end."""
        self._closed = True
        for threads in (self._threads, self._late_threads, self._past_threads):
            threads.shutdown(wait=False, cancel_futures=True)
        self.source.close()


class Collector:
    """All sources, by name."""

    def __init__(
        self, lines: Mapping[str, Line], told: Callable[[str, float, Note | None], None] = lambda *_: None
    ) -> None:
        """Take the sources; told: hears of each request (source, seconds, what was wrong)."""
        self.lines = dict(lines)
        self._told = told

    def replace(self, lines: Mapping[str, Line]) -> None:
        """Ask these sources from now on; what is under way with the former ones ends by itself."""
        former, self.lines = self.lines, dict(lines)
        for line in former.values():
            line.close()

    async def collect(self, time: float, workloads: Sequence[Workload], clock: Clock) -> dict[Key, Readings]:
        """Return the readings of workloads that are due at `time`; asks each distinct query once."""
        wanted: dict[Key, tuple[Spec, Mapping[str, tuple[Ask, Query]]]] = {}
        waits: dict[Ask, float] = {}
        askers: dict[Ask, list[tuple[Key, str, Query]]] = {}
        for workload in workloads:
            if workload.resource is not None:
                spec = workload.resource.spec
                fields = asked(spec.metrics)
                wanted[workload.key] = spec, fields
                for name, (ask, query) in fields.items():
                    wait = math.inf if name == "load" else SHARE * spec.interval
                    waits[ask] = max(wait, waits.get(ask, 0.0))
                    askers.setdefault(ask, []).append((workload.key, name, query))
        found: dict[tuple[Key, str], tuple[float, Note | None]] = {}

        async def read(ask: Ask, wait: float) -> None:
            # At once, so that no answer is kept while others are waited for: some are a thousand times what is read.
            answer = await self._ask(ask, wait, clock)
            for key, name, query in askers[ask]:
                found[key, name] = _read(answer, query, f"spec.metrics.{name}")

        if len(waits) == 1:  # most workloads have a load and nothing else: no need for a task beside this one
            ((ask, wait),) = waits.items()
            await read(ask, wait)
        else:
            await asyncio.gather(*(read(ask, wait) for ask, wait in waits.items()))
        return {
            key: _readings(time, spec, {name: found[key, name] for name in fields})
            for key, (spec, fields) in wanted.items()
        }

    async def _ask(self, ask: Ask, wait: float, clock: Clock) -> Answer:
        """Return the answer to a query, or why there is none within `wait` seconds or the source's time-out."""
        line = self.lines.get(ask.source)
        if line is None:
            return Note("SourceUnknown", _unknown(ask.source, self.lines))
        began = clock.monotonic()
        answer = await line.instant(ask.query, min(line.timeout, wait))
        problem = answer if isinstance(answer, Note) else None
        self._told(ask.source, clock.monotonic() - began, problem)
        if problem is not None and problem.reason == "Timeout" and wait < line.timeout:
            return Note("Timeout", f"source {ask.source} gave no answer within {wait:g} s, half of spec.interval; make "
                                   f"the query cheaper, or raise spec.interval")  # fmt: skip
        return answer

    def close(self) -> None:
        """Close all sources."""
        for line in self.lines.values():
            line.close()


def _unknown(name: str, known: Iterable[str]) -> str:
    there = ", ".join(sorted(known))
    return f"spec.metrics.source: {name!r} is no source of the operator's configuration; " + (
        f"expected one of {there}" if there else "it names none: add it under sources"
    )


def _read(answer: Answer, query: Query, field: str) -> tuple[float, Note | None]:
    """Return the workload's value in an answer, NaN where it is unknown, and then why."""
    return (math.nan, _blamed(answer, field)) if isinstance(answer, Note) else picked(answer, query, field)


def _readings(time: float, spec: Spec, found: Mapping[str, tuple[float, Note | None]]) -> Readings:
    values: dict[str, float] = {}
    problems: dict[str, Note] = {}
    for name, (value, note) in found.items():
        values[name], field = value, f"spec.metrics.{name}"
        if note is None and (slip := _unit_slip(name, value, spec)):
            values[name], note = math.nan, Note("UnitSlip", f"{field}: the query returns {value:g}{slip}")
        if note is not None:
            problems[field] = note
    return Readings(time=time, problems=problems, asked=spec.metrics, **values)


def _unit_slip(name: str, value: float, spec: Spec) -> str:
    """Return the end of a sentence about a reading of another unit than expected, "" where it may be right."""
    if name in SHARES and value > LARGEST_SHARE:
        requests = ", and CPU use by what pods can use and not by their requests" if name == "utilization" else ""
        return f"; expected a share, 0 to 1: divide a percentage by 100{requests}"
    times, seconds = MILLISECONDS
    multiple = value / float(spec.objective.latency)
    if name == "latency" and multiple > times and value > seconds:
        return f", {multiple:.0f} times spec.objective.latency; expected seconds: divide milliseconds by 1000"
    return ""


def _blamed(note: Note, field: str) -> Note:
    """Return the note with the field named; the query itself where that is at fault."""
    match note.reason:
        case "SourceUnknown":
            return note
        case "BadQuery":
            return Note(note.reason, f"{field}.query: {note.message}")
        case _:
            return Note(note.reason, f"{field}: {note.message}")
