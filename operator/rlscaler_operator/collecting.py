"""Readings of many workloads from Prometheus: each distinct query once, under a deadline, no source waits for another.

The client is synchronous, so each source has a few threads of its own. A source that does not answer is asked by one
probe at a time until it does again, so that its workloads cost nothing while it is down.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from rlscaler.prometheus import Series, SeriesRange, SourceError
from rlscaler.resource_objects import Query
from rlscaler_operator.clock import Clock
from rlscaler_operator.model import Key, Note, Readings, Workload
from rlscaler_operator.queries import Ask, Index, asked, picked

THREADS = 4
"""Requests to one source at a time."""
PATIENCE = 3
"""Rounds of THREADS unanswered requests after which a source is only probed."""
UNANSWERED = ("Timeout", "Unreachable", "Overloaded")
LARGEST_UTILIZATION = 1.5
"""Above it, a utilization is taken for a percentage."""
Answer = Index | Note


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
        self._slow = ThreadPoolExecutor(1, thread_name_prefix=f"past-{name}")
        self._unanswered = 0
        self._probing = False
        self._last = Note("Unreachable", f"source {name} has not answered yet")

    @property
    def up(self) -> bool:
        """Whether the source is asked as usual."""
        return self._unanswered < THREADS * PATIENCE

    async def instant(self, query: str, deadline: float) -> Answer:
        """Return the answer to a query, or why there is none; takes at most about `deadline` seconds."""
        probe = not self.up
        if probe:
            if self._probing:
                return self._last
            self._probing = True
        until = self._clock.monotonic() + deadline

        def call() -> list[Series]:
            left = until - self._clock.monotonic()
            if left <= 0.0:
                raise SourceError("Timeout", f"source {self.name}: no free connection within {deadline:g} s")
            return self.source.instant(query, deadline=left)

        try:
            found = await asyncio.wait_for(
                asyncio.get_running_loop().run_in_executor(self._threads, call), deadline + 0.5
            )
        except TimeoutError:
            return self._failed("Timeout", f"source {self.name} did not answer within {deadline:g} s")
        except SourceError as error:
            return self._failed(error.reason, error.message)
        finally:
            if probe:
                self._probing = False
        self._unanswered = 0
        return Index(found)

    def _failed(self, reason: str, message: str) -> Note:
        note = Note(reason, message)
        if reason in UNANSWERED:
            self._unanswered += 1
            self._last = note
        else:
            self._unanswered = 0
        return note

    async def range(self, query: str, start: float, end: float, step: float, deadline: float) -> SeriesRange | Note:
        """Return the series of a query over a grid of the source's own times, or why there are none."""
        if not self.up:
            return self._last

        def call() -> SeriesRange:
            return self.source.range(query, start, end, step, deadline=deadline)

        try:
            return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(self._slow, call), 4.0 * deadline)
        except TimeoutError:
            return Note("Timeout", f"source {self.name} did not answer within {deadline:g} s")
        except SourceError as error:
            return Note(error.reason, error.message)

    async def offset(self, deadline: float) -> float:
        """Return the source's time less decision time, 0 where it cannot be told."""
        began = self._clock.now()
        try:
            there = await asyncio.wait_for(
                asyncio.get_running_loop().run_in_executor(self._slow, self.source.server_time), deadline
            )
        except (TimeoutError, SourceError):
            return 0.0
        return there - 0.5 * (began + self._clock.now())

    def close(self) -> None:
        """End the threads as their requests end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._slow.shutdown(wait=False, cancel_futures=True)
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
        wanted = {w.key: asked(w.resource.spec.metrics) for w in workloads if w.resource is not None}
        asks = {ask for fields in wanted.values() for ask, _ in fields.values()}
        answers = dict(zip(asks, await asyncio.gather(*(self._ask(ask, clock) for ask in asks)), strict=True))
        return {key: _readings(time, fields, answers) for key, fields in wanted.items()}

    async def _ask(self, ask: Ask, clock: Clock) -> Answer:
        line = self.lines.get(ask.source)
        if line is None:
            return Note("SourceUnknown", _unknown(ask.source, self.lines))
        began = clock.monotonic()
        answer = await line.instant(ask.query, line.timeout)
        self._told(ask.source, clock.monotonic() - began, answer if isinstance(answer, Note) else None)
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


def _readings(time: float, fields: Mapping[str, tuple[Ask, Query]], answers: Mapping[Ask, Answer]) -> Readings:
    values: dict[str, float] = {}
    problems: dict[str, Note] = {}
    for name, (ask, query) in fields.items():
        note: Note | None
        answer, field = answers[ask], f"spec.metrics.{name}"
        if isinstance(answer, Note):
            values[name], note = math.nan, _blamed(answer, field)
        else:
            values[name], note = picked(answer, query, field)
        if note is None and name == "utilization" and values[name] > LARGEST_UTILIZATION:
            note = Note("UnitSlip", f"{field}: the query returns {values[name]:g}; expected a share, 0 to 1: divide a "
                                    f"percentage by 100")  # fmt: skip
            values[name] = math.nan
        if note is not None:
            problems[field] = note
    return Readings(time=time, problems=problems, **values)


def _blamed(note: Note, field: str) -> Note:
    """Return the note with the field named where the query itself is at fault."""
    if note.reason == "BadQuery":
        return Note(note.reason, f"{field}.query: {note.message}")
    return note
