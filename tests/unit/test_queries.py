"""Which series is a workload's, what is said where none is, and when each query is asked."""

import math
import tracemalloc
from itertools import combinations
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimal_resource import MINIMAL
from rlscaler.custom_resource import parse_resources
from rlscaler.resource_objects import Query
from rlscaler_operator.model import Key
from rlscaler_operator.queries import Ask, Group, Index, asked, bare_counter, group_of, picked
from rlscaler_operator.roster import Roster


class One(NamedTuple):
    labels: dict[str, str]
    value: float


WEB = One({"deployment": "web", "zone": "a"}, 10.0)
SHOP = One({"deployment": "shop", "zone": "a"}, 20.0)
TWIN = One({"deployment": "web", "zone": "b"}, 30.0)

CASES = {
    "the one series, no match": ([WEB], {}, 10.0, None, ""),
    "picked among several": ([WEB, SHOP], {"deployment": "shop"}, 20.0, None, ""),
    "two labels": ([WEB, SHOP, TWIN], {"deployment": "web", "zone": "b"}, 30.0, None, ""),
    "zero is a value": ([One({}, 0.0)], {}, 0.0, None, ""),
    "a label that must be absent": ([One({}, 4.0), WEB], {"deployment": ""}, 4.0, None, ""),
    "nothing at all": ([], {"deployment": "web"}, math.nan, "NoData", "no series"),
    "not this one": ([SHOP], {"deployment": "web"}, math.nan, "NoMatch", "there as shop"),
    "no such label": ([SHOP], {"app": "web"}, math.nan, "NoMatch", "no label app, only deployment, zone"),
    "not both at once": ([WEB, SHOP], {"deployment": "shop", "zone": "a "}, math.nan, "NoMatch", "zone is there as a"),
    "ambiguous, no match": ([WEB, SHOP], {}, math.nan, "AmbiguousSeries", "2 series, which differ in deployment"),
    "ambiguous after match": ([WEB, TWIN], {"deployment": "web"}, math.nan, "AmbiguousSeries", "differ in zone"),
    "no number": ([One({}, math.nan)], {}, math.nan, "NotANumber", "finite"),
    "infinite": ([One({}, math.inf)], {}, math.nan, "NotANumber", "finite"),
    "negative": ([One({}, -1.0)], {}, math.nan, "NegativeValue", "-1"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_series_is_picked_or_the_reason_is_said(case: str) -> None:
    series, match, expected, reason, text = CASES[case]
    value, note = picked(Index(series), Query(query="q", match=match), "spec.metrics.load")
    assert value == pytest.approx(expected, nan_ok=True)
    assert (note.reason if note else None) == reason
    if note:
        assert text in note.message
        assert note.message.startswith("spec.metrics.load: ")


@pytest.mark.parametrize("name", ["load", "latency", "utilization", "errors"])
def test_of_a_metric_without_data_nothing_is_said_of_another(name: str) -> None:
    """A load that is known stands in the same message as a latency that is not."""
    _, note = picked(Index([]), Query(query="q", match={}), f"spec.metrics.{name}")
    assert note is not None
    assert "it is unknown, not 0" in note.message
    assert "load" not in note.message.removeprefix("spec.metrics.load")


class Looked(dict[str, str]):
    """Labels that count how often one of them is looked at."""

    looks = 0

    def get(self, *args: Any) -> Any:
        Looked.looks += 1
        return super().get(*args)


def test_what_is_there_instead_is_looked_for_once_for_all_workloads() -> None:
    """They share the event loop: a look at all series for each of them would hold up everybody's decisions."""
    names = [f"label{i}" for i in range(8)]
    index = Index([One(Looked({name: f"{name} {i}" for name in names}), 1.0) for i in range(100)])
    Looked.looks = 0
    for i in range(200):
        match = {name: f"{name} {i % 100}" for name in names} | {"label7": f"gone {i}"}
        note = picked(index, Query(query="q", match=match), "spec.metrics.load")[1]
        assert note is not None
        assert "label7 is there as 'label7 0', 'label7 1', 'label7 10', ..." in note.message
    assert Looked.looks <= 2 * len(names) * len(index)


def test_any_number_of_sets_of_labels_takes_bounded_memory() -> None:
    names = [f"l{i}" for i in range(10)]
    series = [One({name: f"{i} {name}" for name in names}, float(i)) for i in range(2000)]
    index = Index(series)
    tracemalloc.start()
    try:
        for chosen in combinations(names, 5):
            assert index.matching({name: f"7 {name}" for name in chosen}) == [series[7]]
            assert not index.matching({name: f"{i} {name}" for i, name in enumerate(chosen)})
        assert tracemalloc.get_traced_memory()[0] < 2**24
    finally:
        tracemalloc.stop()


def test_a_label_that_is_long_or_no_plain_text_is_shown_short_and_plain() -> None:
    index = Index([One({"app": "x" * 10_000}, 1.0), One({"app": "\x1b[2J", "\u202elabel": ""}, 1.0)])
    for match in ({"app": "web"}, {"gone": "web"}, {}):
        note = picked(index, Query(query="q", match=match), "spec.metrics.load")[1]
        assert note is not None
        assert note.message.isprintable()
        assert len(note.message) < 400


LABELS = st.dictionaries(st.sampled_from("abcd"), st.sampled_from(["x", "y", ""]), max_size=3)


@given(st.lists(LABELS, max_size=6), st.lists(LABELS, max_size=12))
def test_the_index_finds_what_a_search_finds(labels: list[dict[str, str]], matches: list[dict[str, str]]) -> None:
    series = [One(one, float(i)) for i, one in enumerate(labels)]
    index = Index(series)
    for match in matches:
        found = [one for one in series if all(one.labels.get(k, "") == v for k, v in match.items())]
        assert list(index.matching(match)) == found


GROUPS = st.builds(
    Group, st.builds(Ask, st.just("default"), st.text(max_size=8)), st.sampled_from([1.0, 5.0, 15.0, 300.0])
)


@given(GROUPS, st.floats(0, 2e9))
def test_a_group_is_due_once_in_each_interval_on_one_grid(group: Group, time: float) -> None:
    due = group.due_after(time)
    assert time < due <= time + group.interval + 1e-6
    assert (due - group.phase) / group.interval == pytest.approx(round((due - group.phase) / group.interval), abs=1e-6)


def test_phases_are_spread_and_stable() -> None:
    phases = [Group(Ask("default", f"query {i}"), 15.0).phase for i in range(2000)]
    counts = [sum(second <= phase < second + 1 for phase in phases) for second in range(15)]
    assert min(counts) > 90
    assert max(counts) < 180
    assert Group(Ask("default", "up"), 15.0).phase == pytest.approx(8.703, abs=0.001)


def test_a_resource_asks_for_what_it_names() -> None:
    (resource,) = parse_resources(MINIMAL, "minimal")
    assert set(asked(resource.spec.metrics)) == {"load"}
    assert group_of(resource.spec).interval == 15.0


A, B, C = (Key("shop", name) for name in "abc")
ONE, TWO = Group(Ask("default", "one"), 10.0), Group(Ask("default", "two"), 30.0)


def test_the_roster_gives_each_group_its_moments() -> None:
    roster = Roster()
    for key, group in ((A, ONE), (B, ONE), (C, TWO)):
        roster.place(key, group, 1000.0)
    seen: dict[Group, list[float]] = {ONE: [], TWO: []}
    now = 1000.0
    while now < 1060.0:
        now = roster.next_due()
        for due, group in roster.due(now):
            assert due == now
            seen[group].append(due)
    assert len(seen[ONE]) in (6, 7)
    assert len(seen[TWO]) in (2, 3)
    assert roster.members(ONE) == [A, B]


def test_a_roster_that_slept_is_due_once_for_each_group() -> None:
    roster = Roster()
    roster.place(A, ONE, 1000.0)
    (due,) = roster.due(5000.0)
    assert 4990.0 < due[0] <= 5000.0
    assert roster.due(5000.0) == []


def test_a_workload_that_moves_or_goes_leaves_nothing_behind() -> None:
    roster = Roster()
    roster.place(A, ONE, 0.0)
    roster.place(A, TWO, 0.0)
    assert list(roster.groups) == [TWO]
    roster.remove(A)
    roster.remove(A)
    assert roster.next_due() == math.inf
    assert len(roster) == 0
    roster.place(A, TWO, 0.0)
    assert len(roster.due(40.0)) == 1


COUNTERS = {
    "sum(http_requests_total)": "http_requests_total",
    'http_requests_total{app="web"} > 0': "http_requests_total",
    "sum(rate(http_requests_total[2m]))": "",
    "sum by (app) (increase (http_requests_total[1m])) / 60": "",
    "sum(job:http_requests_total:rate2m)": "",
    "queue_length": "",
    "total_requests": "",
}


@pytest.mark.parametrize(("query", "counter"), COUNTERS.items(), ids=COUNTERS)
def test_a_counter_that_is_taken_as_it_is_is_named(query: str, counter: str) -> None:
    assert bare_counter(query) == counter
