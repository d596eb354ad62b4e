"""Readings under deadlines: each query once, and no source waits for another."""

import asyncio
import math
import threading
import time

import numpy as np
import pytest
from minimal_resource import MINIMAL
from rlscaler.custom_resource import parse_resources
from rlscaler.prometheus import Series, SeriesRange, SourceError
from rlscaler_operator import past
from rlscaler_operator.clock import SystemClock
from rlscaler_operator.collecting import PATIENCE, THREADS, Collector, Line
from rlscaler_operator.model import Key, Readings, Workload
from rlscaler_operator.queries import Ask, Group

CLOCK = SystemClock()


class Scripted:
    """A source whose answers a test sets; `hang` blocks every call until it is set."""

    def __init__(self, answers: dict[str, list[Series] | SourceError] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[str] = []
        self.hang: threading.Event | None = None

    def instant(self, query: str, *, deadline: float | None = None) -> list[Series]:
        self.asked.append(query)
        if self.hang is not None and not self.hang.wait(deadline):
            raise SourceError("Timeout", "hangs")
        answer = self.answers.get(query, [])
        if isinstance(answer, SourceError):
            raise answer
        return answer

    def range(self, query: str, start: float, end: float, step: float, *, deadline: float | None = None) -> SeriesRange:
        times = start + step * np.arange(round((end - start) / step) + 1)
        values = np.array([times % 1000.0, times % 100.0])
        return SeriesRange(({"deployment": "web"}, {"deployment": "shop"}), times, values)

    def server_time(self) -> float:
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


PROBLEMS = {
    "no such source": ("{source: there, load: {query: q}}", "SourceUnknown", "expected one of default"),
    "bad query": ("{load: {query: bad}}", "BadQuery", "spec.metrics.load.query: parse error"),
    "refused": ("{load: {query: closed}}", "Unauthorized", "the token"),
    "nothing": ("{load: {query: none}}", "NoData", "no series"),
}
ANSWERS: dict[str, list[Series] | SourceError] = {
    "q": [Series({}, 1.0, 0.0)],
    "percent": [Series({}, 73.0, 0.0)],
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


def test_a_percentage_is_no_share() -> None:
    readings = collect(
        {"default": Scripted(ANSWERS)}, workload("web", "{load: {query: q}, utilization: {query: percent}}")
    )
    assert readings["web"].load == 1.0
    assert math.isnan(readings["web"].utilization)
    assert readings["web"].problems["spec.metrics.utilization"].reason == "UnitSlip"


def test_a_source_that_hangs_delays_no_other_and_is_then_only_probed() -> None:
    slow, quick = Scripted({"q": [Series({}, 5.0, 0.0)]}), Scripted(ANSWERS)
    slow.hang = threading.Event()
    line = Line("slow", slow, CLOCK, 0.2)
    collector = Collector({"slow": line, "default": Line("default", quick, CLOCK, 1.0)})

    async def rounds() -> tuple[float, list[float]]:
        web = workload("web", "{load: {query: q}}")
        stuck = asyncio.gather(*(line.instant(f"q{i}", 0.2) for i in range(THREADS * PATIENCE)))
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
        return waited, []

    waited, _ = asyncio.run(rounds())
    collector.close()
    assert waited < 0.2  # the time after which the slow source is given up


def test_the_past_is_read_on_the_grid_of_the_ticks() -> None:
    group = Group(Ask("default", "q"), 15.0)
    members = {w.key: w.resource.spec.metrics.load for name in ("web", "shop", "gone")
               if (w := workload(name, f"{{load: {{query: q, match: {{deployment: {name}}}}}}}")).resource}  # fmt: skip
    line = Line("default", Scripted(), CLOCK, 1.0)
    found = asyncio.run(past.loads(line, group, members, 1000.0, 2000.0, offset=7.0))
    line.close()
    assert isinstance(found, tuple)
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
    assert all(a[1] == b[0] for a, b in zip(parts, parts[1:], strict=False))
    assert max((end - start) / 5.0 * 1000 for start, end in parts) <= past.POINTS
    joined = np.concatenate([past.grid(group, start, end) for start, end in parts])
    np.testing.assert_allclose(joined, past.grid(group, 0.0, 7 * 86400.0))


def test_the_sources_own_time_is_told_apart_from_ours() -> None:
    line = Line("default", Scripted(), CLOCK, 1.0)
    assert asyncio.run(line.offset(1.0)) == pytest.approx(7.0, abs=0.1)
    line.close()
