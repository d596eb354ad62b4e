"""Readings under deadlines: each query once, and no source waits for another."""

import asyncio
import itertools
import math
import threading
import time
import weakref

import numpy as np
import pytest

from minimal_resource import MINIMAL
from rlscaler.custom_resource import parse_resources
from rlscaler.prometheus import Series, SeriesRange, SourceError
from rlscaler_operator import past
from rlscaler_operator.clock import SystemClock
from rlscaler_operator.collecting import LATE_THREADS, PATIENCE, THREADS, Collector, Line
from rlscaler_operator.model import Key, Note, Readings, Workload
from rlscaler_operator.queries import Ask, Group, Index

CLOCK = SystemClock()


class Scripted:
    """A source whose answers a test sets.

    hang: blocks the calls until it is set; heavy: the queries that it blocks (none: all of them).
    """

    def __init__(self, answers: dict[str, list[Series] | SourceError] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[str] = []
        self.hang: threading.Event | None = None
        self.heavy: set[str] = set()
        self.times = 0

    def _wait(self, query: str, seconds: float | None) -> None:
        blocks = self.hang is not None and (not self.heavy or query in self.heavy)
        if blocks and self.hang is not None and not self.hang.wait(seconds):
            raise SourceError("Timeout", f"{query} hangs")

    def instant(self, query: str, *, deadline: float | None = None) -> list[Series]:
        self.asked.append(query)
        self._wait(query, deadline)
        answer = self.answers.get(query, [])
        if isinstance(answer, SourceError):
            raise answer
        return answer

    def range(self, query: str, start: float, end: float, step: float, *, deadline: float | None = None) -> SeriesRange:
        times = start + step * np.arange(round((end - start) / step) + 1)
        self.asked.append(f"past of {query}")
        values = np.array([times % 1000.0, times % 100.0])
        return SeriesRange(({"deployment": "web"}, {"deployment": "shop"}), times, values)

    def server_time(self) -> float:
        self.times += 1
        self._wait("time()", 0.1)
        return CLOCK.now() + 7.0

    def close(self) -> None:
        pass


def workload(name: str, metrics: str) -> Workload:
    text = MINIMAL.replace("{load: {query: up}}", metrics).replace("name: web", f"name: {name}")
    (resource,) = parse_resources(text, name)
    return Workload(Key("shop", name), name, 1, 0.0, resource)


def collect(lines: dict[str, Scripted], *workloads: Workload, timeout: float = 1.0) -> dict[str, Readings]:
    collector = Collector({name: Line(name, source, CLOCK, timeout) for name, source in lines.items()})
    found = asyncio.run(collector.collect(100.0, workloads, CLOCK))
    collector.close()
    return {key.name: readings for key, readings in found.items()}


def test_workloads_with_one_query_share_one_request() -> None:
    series = [Series({"deployment": name}, value, 0.0) for name, value in (("web", 1.0), ("shop", 2.0))]
    source = Scripted({"q": series})
    web, shop = (workload(name, f"{{load: {{query: q, match: {{deployment: {name}}}}}}}") for name in ("web", "shop"))
    found = collect({"default": source}, web, shop)
    assert source.asked == ["q"]
    assert (found["web"].load, found["shop"].load) == (1.0, 2.0)
    assert not found["web"].problems
    assert math.isnan(found["web"].backlog)


class Labels(dict[str, str]):
    """Labels that tell when nobody has them any more."""


class Watched(Scripted):
    """A source that answers `slow` once nobody has its answer to `q`. gone: whether that came in time."""

    gone = False

    def instant(self, query: str, *, deadline: float | None = None) -> list[Series]:
        self.hang = self.hang or threading.Event()
        if query == "slow":
            self.gone = self.hang.wait(deadline)
            return [Series({}, 3.0, 0.0)]
        labels = Labels()
        weakref.finalize(labels, self.hang.set)
        return [Series(labels, 1.0, 0.0)]


def test_an_answer_is_not_kept_while_others_are_waited_for() -> None:
    """A query may return a thousand times what is read of it, and a fleet's are many at once."""
    source = Watched()
    found = collect({"default": source}, workload("web", "{load: {query: q}, backlog: {query: slow}}"), timeout=10.0)
    assert source.gone
    assert (found["web"].load, found["web"].backlog) == (1.0, 3.0)


PROBLEMS = {
    "no such source": ("{source: there, load: {query: q}}", "SourceUnknown", "expected one of default"),
    "bad query": ("{load: {query: bad}}", "BadQuery", "spec.metrics.load.query: parse error"),
    "refused": ("{load: {query: closed}}", "Unauthorized", "the token"),
    "nothing": ("{load: {query: none}}", "NoData", "no series"),
}
ONE = [Series({}, 1.0, 0.0)]
ANSWERS: dict[str, list[Series] | SourceError] = {
    "q": ONE,
    "percent": [Series({}, 73.0, 0.0)],
    "a little above 1": [Series({}, 1.02, 0.0)],
    "60": [Series({}, 60.0, 0.0)],
    "25": [Series({}, 25.0, 0.0)],
    "bad": SourceError("BadQuery", "parse error at char 3"),
    "closed": SourceError("Unauthorized", "the token is not accepted"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_is_wrong_is_said_and_the_load_is_unknown(case: str) -> None:
    metrics, reason, text = PROBLEMS[case]
    readings = collect({"default": Scripted(ANSWERS)}, workload("web", metrics))["web"]
    note = readings.problems["spec.metrics.load"]
    assert note.reason == reason
    assert text in note.message
    assert math.isnan(readings.load)


SLIPS = {
    "a utilization in percent": ("utilization: {query: percent}", "returns 73; expected a share, 0 to 1"),
    "CPU use of requests": (
        "utilization: {query: percent}",
        "returns 73; expected a share, 0 to 1: divide a percentage by 100, and CPU use by what pods can use and not by",
    ),
    "errors in percent": ("errors: {query: percent}", "returns 73; expected a share, 0 to 1"),
    "a utilization that exceeds 1": ("utilization: {query: a little above 1}", ""),
    "a latency in milliseconds": (
        'latency: {query: "60", quantile: "0.9"}', "returns 60, 120 times spec.objective.latency; expected seconds"
    ),
    "a latency of an outage": ('latency: {query: "25", quantile: "0.9"}', ""),
}  # fmt: skip


@pytest.mark.parametrize("case", SLIPS)
def test_a_reading_of_another_unit_is_unknown_and_the_load_is_known(case: str) -> None:
    metric, text = SLIPS[case]
    name = metric.partition(":")[0]
    readings = collect({"default": Scripted(ANSWERS)}, workload("web", f"{{load: {{query: q}}, {metric}}}"))["web"]
    assert readings.load == 1.0
    assert math.isnan(getattr(readings, name)) == bool(text)
    if text:
        note = readings.problems[f"spec.metrics.{name}"]
        assert note.reason == "UnitSlip"
        assert f"spec.metrics.{name}: the query {text}" in note.message
    else:
        assert not readings.problems


def test_a_source_that_hangs_delays_no_other_and_is_then_only_probed() -> None:
    slow, quick = Scripted({"q": [Series({}, 5.0, 0.0)]}), Scripted(ANSWERS)
    slow.hang = threading.Event()
    given_up = 3.0  # seconds, far more than a busy machine makes of an answer that is there
    line = Line("slow", slow, CLOCK, given_up)
    collector = Collector({"slow": line, "default": Line("default", quick, CLOCK, 1.0)})

    async def rounds() -> float:
        web = workload("web", "{load: {query: q}}")
        stuck = asyncio.gather(*(line.instant(f"q{i}", given_up) for i in range(THREADS * PATIENCE)))
        began = time.monotonic()
        found = await collector.collect(0.0, [web], CLOCK)
        waited = time.monotonic() - began
        assert found[web.key].load == 1.0
        await stuck
        assert not line.up
        before = len(slow.asked)
        answers = await asyncio.gather(*(line.instant("q", 0.2) for _ in range(50)))
        assert len(slow.asked) == before + 1
        assert not any(hasattr(answer, "matching") for answer in answers)
        assert slow.hang is not None
        slow.hang.set()
        answer = await line.instant("q", 0.2)
        assert line.up
        assert hasattr(answer, "matching")
        return waited

    waited = asyncio.run(rounds())
    collector.close()
    assert waited < given_up


FAILING = {
    "a server that fails": (SourceError("ServerError", "failed (500)"), True),
    "a server that is busy": (SourceError("Overloaded", "takes no more queries"), True),
    "nobody there": (SourceError("Unreachable", "refuses the connection"), True),
    "bad queries": (SourceError("BadQuery", "parse error"), False),
    "a token that is refused": (SourceError("Unauthorized", "answers 401"), False),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_source_that_fails_again_and_again_is_only_probed_until_it_answers(case: str) -> None:
    error, probed = FAILING[case]
    source = Scripted(dict.fromkeys(("a", "b"), error))
    line = Line("default", source, CLOCK, 1.0)

    async def rounds() -> None:
        for _ in range(THREADS * PATIENCE - 1):
            await line.instant("a", 1.0)
        assert line.up
        source.answers["b"] = ONE
        await line.instant("b", 1.0)  # any answer between them, and it is the query
        for _ in range(THREADS * PATIENCE):
            assert await line.instant("a", 1.0) == Note(error.reason, error.message)
        assert line.up != probed
        before = len(source.asked)
        await asyncio.gather(*(line.instant("a", 1.0) for _ in range(20)))
        assert len(source.asked) - before == (1 if probed else 20)
        await line.instant("b", 1.0)
        assert line.up

    asyncio.run(rounds())
    line.close()


def test_queries_that_are_too_heavy_keep_no_other_one_of_their_source_waiting() -> None:
    """They do so once, until their time is up; from then on they are asked beside the others, two at a time."""
    source, names = Scripted(ANSWERS), [f"heavy {i}" for i in range(2 * THREADS)]
    source.hang, source.heavy = threading.Event(), set(names)
    line = Line("default", source, CLOCK, 0.2)

    async def rounds() -> None:
        assert source.hang is not None
        for name in names:
            assert await line.instant(name, 0.02) == Note("Timeout", f"{name} hangs")
        assert line.up
        heavy = [asyncio.create_task(line.instant(name, 5.0)) for name in names]
        await asyncio.sleep(0)
        for _ in range(3):
            assert isinstance(await line.instant("q", 5.0), Index)
        quick = await asyncio.gather(*heavy[LATE_THREADS:])
        assert quick == [Note("Timeout", f"{name} hangs") for name in names[LATE_THREADS:]], "as they were told before"
        assert not any(task.done() for task in heavy[:LATE_THREADS])
        source.hang.set()
        assert all(isinstance(answer, Index) for answer in await asyncio.gather(*heavy[:LATE_THREADS]))
        for name in names:
            assert isinstance(await line.instant(name, 5.0), Index)

    asyncio.run(rounds())
    line.close()


def test_a_query_that_found_no_thread_is_not_taken_for_heavy() -> None:
    source = Scripted(ANSWERS)
    source.hang, source.heavy = threading.Event(), {f"heavy {i}" for i in range(THREADS)}
    line = Line("default", source, CLOCK, 0.2)

    async def rounds() -> None:
        hung = [line.instant(name, 0.3) for name in sorted(source.heavy)]
        *_, answer = await asyncio.gather(*hung, line.instant("q", 0.1))
        assert isinstance(answer, Note)
        assert "no free connection within 0.1 s" in answer.message
        again = [asyncio.create_task(line.instant(name, 5.0)) for name in sorted(source.heavy)]
        await asyncio.sleep(0)
        assert isinstance(await line.instant("q", 5.0), Index)
        assert source.hang is not None
        source.hang.set()
        await asyncio.gather(*again)

    asyncio.run(rounds())
    line.close()


def test_a_decision_waits_half_an_interval_for_what_it_can_do_without() -> None:
    source = Scripted(ANSWERS)
    source.hang, source.heavy = threading.Event(), {"heavy"}
    web = workload("web", "{load: {query: q}, backlog: {query: heavy}}\n  interval: 1s")
    began = time.monotonic()
    readings = collect({"default": source}, web, timeout=30.0)["web"]
    assert 0.4 < time.monotonic() - began < 10.0
    assert readings.load == 1.0
    assert readings.problems == {
        "spec.metrics.backlog": Note(
            "Timeout",
            "spec.metrics.backlog: source default gave no answer within 0.5 s, half of spec.interval; make the query "
            "cheaper, or raise spec.interval",
        )
    }


def test_a_source_that_does_not_tell_its_time_is_not_asked_for_the_past_until_it_answers() -> None:
    source = Scripted(ANSWERS)
    source.hang = threading.Event()
    line = Line("default", source, CLOCK, 1.0)

    async def rounds() -> None:
        assert await asyncio.gather(*(line.offset(0.1) for _ in range(50))) == [0.0] * 50
        assert source.times == 1, "those who ask at once share the answer"
        assert not line.has_past
        assert await line.range("q", 0.0, 60.0, 1.0, 1.0) == Note("Timeout", "time() hangs")
        assert source.hang is not None
        source.hang.set()
        await line.instant("q", 1.0)
        assert line.has_past
        assert await line.offset(1.0) == pytest.approx(7.0, abs=0.1)
        assert isinstance(await line.range("q", 0.0, 60.0, 1.0, 1.0), SeriesRange)

    asyncio.run(rounds())
    line.close()


def test_the_time_of_a_source_is_asked_for_again_since_ours_may_follow_a_step_of_the_clock() -> None:
    class Slewed:
        """A clock that has been behind by a minute, and catches up."""

        passed, behind = 0.0, 60.0

        def monotonic(self) -> float:
            return self.passed

        def now(self) -> float:
            return CLOCK.now() - self.behind

    clock, source = Slewed(), Scripted(ANSWERS)
    line = Line("default", source, clock, 1.0)

    async def rounds() -> None:
        assert await line.offset(1.0) == pytest.approx(67.0, abs=0.5)
        assert await line.offset(1.0) == pytest.approx(67.0, abs=0.5)
        assert source.times == 1
        clock.passed, clock.behind = 601.0, 0.0
        assert await line.offset(1.0) == pytest.approx(7.0, abs=0.5)
        clock.passed, source.hang = 700.0, threading.Event()
        assert await line.offset(0.1) == pytest.approx(7.0, abs=0.5), "what was known, where there is no answer"
        assert line.has_past

    asyncio.run(rounds())
    line.close()


def test_who_waits_for_a_source_that_is_replaced_is_told_and_goes_on() -> None:
    source = Scripted(ANSWERS)
    source.hang = threading.Event()
    line = Line("default", source, CLOCK, 1.0)

    async def rounds() -> None:
        waiting = [asyncio.create_task(line.instant(f"q{i}", 5.0)) for i in range(2 * THREADS)]
        await asyncio.sleep(0.05)
        line.close()
        assert source.hang is not None
        source.hang.set()
        answers = await asyncio.gather(*waiting)
        assert [isinstance(answer, Index) for answer in answers] == [True] * THREADS + [False] * THREADS
        told = Note("Unreachable", "source default is read anew from the operator's configuration")
        assert answers[-1] == told
        assert await line.range("q", 0.0, 60.0, 1.0, 1.0) == told
        assert await line.instant("q", 1.0) == told

    asyncio.run(rounds())


def test_the_past_is_read_on_the_grid_of_the_ticks() -> None:
    group = Group(Ask("default", "q"), 15.0)
    members = {w.key: w.resource.spec.metrics.load for name in ("web", "shop", "gone")
               if (w := workload(name, f"{{load: {{query: q, match: {{deployment: {name}}}}}}}")).resource}  # fmt: skip
    line = Line("default", Scripted(), CLOCK, 1.0)
    found = asyncio.run(past.loads(line, group, members, 1000.0, 2000.0, offset=7.0))
    line.close()
    assert not isinstance(found, Note)
    times, loads, series = found
    assert series == 2
    np.testing.assert_allclose(times, [t for t in group.phase + 15.0 * np.arange(200) if 1000.0 < t <= 2000.0])
    np.testing.assert_allclose(loads[Key("shop", "web")], (times + 7.0) % 1000.0)
    np.testing.assert_allclose(loads[Key("shop", "shop")], (times + 7.0) % 100.0)
    assert np.isnan(loads[Key("shop", "gone")]).all()


def test_a_long_past_is_read_in_parts_that_join() -> None:
    group = Group(Ask("default", "q"), 5.0)
    parts = list(past.spans(group, 0.0, 7 * 86400.0, series=1000))
    assert parts[0][0] == 0.0
    assert parts[-1][1] == 7 * 86400.0
    assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
    assert max((end - start) / 5.0 * 1000 for start, end in parts) <= past.POINTS
    joined = np.concatenate([past.grid(group, start, end) for start, end in parts])
    np.testing.assert_allclose(joined, past.grid(group, 0.0, 7 * 86400.0))


def test_the_sources_own_time_is_told_apart_from_ours() -> None:
    line = Line("default", Scripted(), CLOCK, 1.0)
    assert asyncio.run(line.offset(1.0)) == pytest.approx(7.0, abs=0.1)
    line.close()
