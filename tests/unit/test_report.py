"""The page of a dry-run as text: complete, safe to open, and honest where data are thinned."""

import json
import math
import re
import sys
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dry_run_example import day, quiet
from rlscaler.errors import UserError
from rlscaler_sim.chart_data import Thinning, chart_data, decimals_for, gaps, runs, windows
from rlscaler_sim.decision_rows import changes, decision_rows, most_telling
from rlscaler_sim.report import render, write_report
from rlscaler_sim.report_parts import world_facts
from rlscaler_sim.result import DryRun

NASTY = "<script>alert(1)</script>\"'&</script><!--"
ENTRIES = ("replicas", "ready", "violations", "backlog", "cost")


@pytest.fixture(scope="module")
def html(run: DryRun) -> str:
    """Return the page without plotly.js, for tests of what we write ourselves."""
    return render(run, "/* plotly */")


@dataclass
class Page(HTMLParser):
    """What a browser would find on a page: tags with attributes, visible text, and the data of scripts."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    scripts: list[tuple[dict[str, str], str]] = field(default_factory=list)
    inside: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    @classmethod
    def of(cls, html: str) -> "Page":
        page = cls()
        page.feed(html)
        page.close()
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        self.inside = tag
        if tag == "script":
            self.scripts.append((self.tags[-1][1], ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self.inside != "style":
            self.text.append(data)

    def having(self, name: str) -> list[dict[str, str]]:
        return [attrs for _, attrs in self.tags if name in attrs]


def expand(packed: dict[str, Any]) -> list[float | None]:
    """Undo `runs`, as the page does."""
    return [v for v, n in zip(packed["v"], packed["n"], strict=True) for _ in range(n)]


# --- the page as text ---


def test_page_shows_every_contender_and_figure(run: DryRun, html: str) -> None:
    text = " ".join(Page.of(html).text)
    for contender in run.contenders:
        for part in (contender.name, f"{contender.score:.3f}", f"{contender.cost_ratio:.3f}"):
            assert part in text, f"{part} of {contender.name} is not on the page"
    assert "growth-quantile wins" in text
    assert "20 % fewer replica-hours than hpa-tuned" in text
    for name, value in world_facts(run).items():
        assert name in text
        assert value in text


def test_every_name_is_escaped(run: DryRun) -> None:
    first = replace(run.contenders[0], name=NASTY)
    log = replace(run.log, sentence=[NASTY] * len(run.log.time), reasons=[[NASTY]] * len(run.log.time))
    nasty = replace(
        run,
        resource=NASTY,
        trace=NASTY,
        policy=NASTY,
        world={NASTY: NASTY},
        contenders=[first, *run.contenders[1:]],
        log=log,
    )
    clean, page = Page.of(render(run, "")), Page.of(render(nasty, ""))
    assert len(page.scripts) == len(clean.scripts) == 3, "a name became a script element"
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in clean.tags}, "a name became an element"
    assert {key for _, a in page.tags for key in a} == {key for _, a in clean.tags for key in a}
    assert NASTY in " ".join(page.text), "the name itself is shown"
    data = next(text for attrs, text in page.scripts if attrs.get("id") == "data")
    assert "<" not in data
    assert json.loads(data)["contenders"][0]["name"] == NASTY


def test_page_loads_nothing(html: str) -> None:
    page = Page.of(html)
    loads = [a[k] for _, a in page.tags for k in ("src", "href", "srcset", "action", "data", "poster") if k in a]
    assert loads
    assert all(re.match(r"#|data:", target) for target in loads), f"the page refers to {loads}"
    assert not re.search(r"https?://|@import|url\(", html), "an address in what we write ourselves"
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.split("style-src")[0]


def test_notes_are_sentences(run: DryRun) -> None:
    notes = {
        "load is unknown for 3 % of the time": "Load is unknown for 3 % of the time.",
        "is rate() missing in the query?": "Is rate() missing in the query?",
        "spec.metrics.load finds 2 series": "spec.metrics.load finds 2 series.",
        "hpa-own, tuned on this load": "hpa-own, tuned on this load.",
        "2.9 days of load are known": "2.9 days of load are known.",
    }
    page = render(run, "", notes=list(notes))
    for expected in notes.values():
        assert f'<p class="note">{expected}</p>' in page


def test_figures_that_are_missing_leave_a_dash(run: DryRun) -> None:
    first = replace(run.contenders[0], regret=None, score=math.nan, wait_p95_s=math.nan)
    text = render(replace(run, contenders=[first, *run.contenders[1:]], lower_bound=None), "")
    assert re.search(r"growth-quantile</span>.*?</th><td>–</td>", text)
    assert not re.search(r"\bnan\b|\binf\b", text)
    assert "proven" not in text


def test_a_run_without_any_load_says_so_where_its_scores_would_be_drawn(run: DryRun) -> None:
    text = render(quiet(run), "")
    assert "There was no load, so nothing to scale and no score." in text
    assert '<div role="listitem">No contender has a score.</div>' in text
    late = re.search(r"<dt>Late requests</dt>(.*?)</div>", text, re.DOTALL)
    assert late is not None
    assert re.sub(r"<[^>]*>", " ", late[1]).split() == ["–", "nothing", "to", "serve"]
    assert "0.00 %" not in text
    assert "0 ms" not in text


def test_regret_against_the_own_trace_has_a_column_where_it_is_known(run: DryRun, html: str) -> None:
    assert "Regret, own" not in html
    known = [replace(c, regret_own=0.125) for c in run.contenders]
    assert render(replace(run, contenders=known), "").count("<td>0.12</td>") == len(known)


def test_a_score_far_above_the_others_does_not_flatten_their_bars(run: DryRun) -> None:
    worst = replace(run.contenders[3], score=80.0, violation_share=3.9)
    text = render(replace(run, contenders=[*run.contenders[:3], worst, run.contenders[4]]), "")
    widths = [float(w) for w in re.findall(r'class="cost" style="width:([\d.]+)%"', text)]
    assert min(widths) > 20
    assert text.count('class="track cut"') == 1


def test_page_of_a_run_without_rivals(run: DryRun) -> None:
    arrays = {key: getattr(run.series, key)[:1] for key in ENTRIES}
    alone = replace(run, contenders=run.contenders[:1], series=replace(run.series, **arrays))
    assert "growth-quantile ran alone" in render(alone, "")


def test_missing_extra_is_one_line(run: DryRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UserError, match=r"needs plotly; install it with: pip install 'rlscaler\[report\]'"):
        write_report(run, tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(run: DryRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        write_report(run, tmp_path / "nowhere" / "r.html")


# --- thinning ---


@given(
    values=st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=300),
    max_points=st.integers(4, 40),
)
@settings(deadline=None, derandomize=True, max_examples=150)
def test_the_envelope_keeps_lowest_and_highest_in_order(values: list[float], max_points: int) -> None:
    array = np.array(values)
    thin = Thinning.of(len(array), max_points)
    drawn = thin.envelope(array)
    assert len(drawn) == len(thin.points)
    assert len(drawn) <= max(max_points, 2)
    if thin.stretch == 1:
        np.testing.assert_array_equal(drawn, array)
        return
    for k in range(0, len(drawn), 2):
        block = array[k // 2 * thin.stretch :][: thin.stretch]
        pair = drawn[k : k + 2]
        if np.isnan(block).all():
            assert np.isnan(pair).all()
            continue
        low, high = np.nanargmin(block), np.nanargmax(block)
        np.testing.assert_array_equal(pair, block[sorted((low, high))])
    assert (np.diff(thin.points) >= 0).all()


@given(st.lists(st.one_of(st.sampled_from([0.0, 1.0, 2.5]), st.just(math.nan)), min_size=1, max_size=80))
@settings(deadline=None, derandomize=True)
def test_runs_give_back_the_values(values: list[float]) -> None:
    packed = runs(np.array(values), 1)
    assert [math.nan if v is None else v for v in expand(packed)] == pytest.approx(values, nan_ok=True)
    assert all(n >= 1 for n in packed["n"])


@pytest.mark.parametrize(("largest", "decimals"), [(0.0, 0), (math.nan, 0), (0.004, 6), (1.0, 3), (250.0, 1), (3e6, 0)])
def test_decimals_keep_four_digits(largest: float, decimals: int) -> None:
    assert decimals_for(np.array([0.0, -largest])) == decimals


def test_a_long_run_is_thinned_and_the_page_says_so() -> None:
    long: DryRun = day(steps=20000)
    ready = long.series.ready.copy()
    ready[0, 12345] = 97.0
    spiked = replace(long, series=replace(long.series, ready=ready))
    data = chart_data(spiked)
    assert data["stretch"] == 7
    points = expand(data["contenders"][0]["ready"])
    assert len(points) <= 6000
    assert 97 in points, "the spike of one step is gone"
    text = " ".join(Page.of(render(spiked, "")).text)
    assert "The 20,000 steps are thinned: each 7 (105 s) are drawn as their lowest and highest value" in text


def test_a_short_run_is_drawn_whole(run: DryRun, html: str) -> None:
    data = chart_data(run)
    assert data["stretch"] == 1
    assert expand(data["contenders"][1]["replicas"]) == run.series.replicas[1].tolist()
    assert expand(data["load"]) == pytest.approx(run.series.load.tolist(), abs=0.051)
    late = [v / 100 for v in expand(data["contenders"][0]["late"]) if v is not None]
    assert late == pytest.approx(run.series.violations[0].tolist(), abs=6e-6)
    assert data["start"] + sum(s for s in expand(data["steps"]) if s) == run.series.time[-1] * 1000
    assert "thinned" not in html


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        pytest.param([True] * 4, [], id="none"),
        pytest.param([False, True, False, False], [[0, 15000], [30000, 60000]], id="at-both-ends"),
        pytest.param([True, False, True, True], [[15000, 30000]], id="within"),
    ],
)
def test_gaps(known: list[bool], expected: list[list[int]]) -> None:
    assert gaps(np.arange(4) * 15.0, np.array(known)) == expected


def test_worst_hour_is_the_one_with_most_late_requests(run: DryRun) -> None:
    late = np.zeros_like(run.series.violations)
    late[0, 4000:4010] = 0.5
    late[1, 100:200] = 1.0
    found = windows(replace(run, series=replace(run.series, violations=late)))
    assert found["worst"][0] <= 4000 * 15000 <= 4009 * 15000 <= found["worst"][1]
    peak = run.series.time[np.where(run.series.known, run.series.load, 0).argmax()] * 1000
    assert found["peak"][0] <= peak <= found["peak"][1]
    assert "worst" not in windows(replace(run, series=replace(run.series, violations=0 * late)))


def test_a_single_step_makes_a_page() -> None:
    one: DryRun = day(steps=1)
    assert windows(one) == {}
    page = render(one, "")
    assert "The only decision did not change the replica count." in page
    assert f"on {one.trace}: 1 decision, simulated" in page


def test_what_was_ready_is_drawn_without_any_load(run: DryRun) -> None:
    run = replace(quiet(run), world={**run.world, "capacity_per_replica": 50.0})
    assert chart_data(run)["perReplica"] == 50.0


# --- decisions ---


def test_rows_are_the_changes_with_their_reasons(run: DryRun) -> None:
    table = decision_rows(run, limit=10**6)
    replicas = run.log.replicas
    every = changes(replicas)
    assert len(table.rows) == len(every) == run.tested.rescales
    first = table.rows[0]
    i = int(every[0])
    assert f"{replicas[i - 1]:.0f} → <strong>{replicas[i]:.0f}</strong>" in first
    assert f'data-time="{run.log.time[i] * 1000:.0f}"' in first
    assert run.log.sentence[i] in first
    assert "1,394 of 5,760 decisions changed the replica count." in table.note
    assert set(table.reasons) == {"DesiredWithinRange", "Patience", "ReactiveFloor", "ScaleDownStabilized"}
    assert table.paper_note.startswith("Printed: the 40 largest")


def test_too_many_changes_leave_the_largest(run: DryRun) -> None:
    table = decision_rows(run, limit=50)
    assert len(table.rows) == 50
    assert "The 50 largest changes are shown." in table.note
    sizes = np.abs(np.diff(run.log.replicas))
    kept = [abs(int(b) - int(a)) for a, b in re.findall(r"<td>(\d+) → <strong>(\d+)<", "".join(table.rows))]
    assert sorted(kept) == sorted(sizes)[-50:]


def test_equal_changes_are_spread_over_the_trace() -> None:
    index = np.arange(1000)
    kept = most_telling(index, np.ones(1000), 10)
    assert kept.tolist() == list(range(0, 1000, 100))


def test_a_gap_in_the_log_is_no_change() -> None:
    assert changes(np.array([3.0, math.nan, 4.0, 5.0, 5.0])).tolist() == [3]
