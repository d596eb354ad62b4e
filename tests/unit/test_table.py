"""The dry-run in the terminal: readable at any width and in any encoding, and honest about who won."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from dry_run_example import day, quiet
from rlscaler_sim.result import Contender, DryRun, plain
from rlscaler_sim.table import ASCII_BLOCKS, BLOCKS, peaks, print_table, sparkline
from rlscaler_sim.verdict import assumptions, clock, outcome, percent, seconds, verdict


def printed(run: DryRun, width: int = 80, encoding: str = "utf-8", **console: Any) -> str:
    """Return what a pipe of that encoding gets."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    print_table(run, Console(file=stream, width=width, legacy_windows=False, **console))
    stream.flush()
    return raw.getvalue().decode(encoding)


def scored(run: DryRun, **scores: tuple[float, float, float]) -> DryRun:
    """Return the run with new (score, replica-hours, late share) for the named contenders."""
    changed = [
        replace(c, score=s[0], replica_hours=s[1], violation_share=s[2])
        if (s := scores.get(c.name.replace("-", "_")))
        else c
        for c in run.contenders
    ]
    return replace(run, contenders=changed)


def only(run: DryRun, *names: str) -> DryRun:
    """Return the run with these contenders alone."""
    rows = [i for i, c in enumerate(run.contenders) if c.name in names]
    arrays = {k: getattr(run.series, k)[rows] for k in ("replicas", "ready", "violations", "backlog", "cost")}
    return replace(run, contenders=[run.contenders[i] for i in rows], series=replace(run.series, **arrays))


def test_json_has_exactly_the_fields_of_the_contract(run: DryRun) -> None:
    found = json.loads(json.dumps(run.to_json(), allow_nan=False))
    assert list(found) == [
        "resource", "trace", "world", "contenders", "lower_bound", "decisions", "elapsed_s",
    ]  # fmt: skip
    assert all(
        list(c)
        == [
            "name", "cost_ratio", "violation_share", "score", "regret", "replica_hours", "rescales",
            "wait_p95_s", "max_replicas",
        ]
        for c in found["contenders"]
    )  # fmt: skip
    assert found["decisions"] == 5760
    assert found["contenders"][0]["score"] == run.contenders[0].score


def test_json_has_null_for_what_is_not_finite(run: DryRun) -> None:
    broken = replace(run.contenders[0], score=math.nan, regret=None, wait_p95_s=math.inf)
    world = {"lag": np.float32(15.0), "range": np.array([1, 2]), "nested": {"x": (math.nan, True)}}
    changed = replace(run, contenders=[broken, *run.contenders[1:]], world=world, lower_bound=math.nan)
    found = json.loads(json.dumps(changed.to_json(), allow_nan=False))
    first = found["contenders"][0]
    assert (first["score"], first["regret"], first["wait_p95_s"]) == (None, None, None)
    assert found["world"] == {"lag": 15.0, "range": [1, 2], "nested": {"x": [None, True]}}
    assert found["lower_bound"] is None


def test_plain_writes_what_json_lacks_as_text() -> None:
    assert plain({1: Path("a")}) == {"1": "a"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"policy": "nobody"}, "policy is 'nobody'", id="policy-did-not-take-part"),
        pytest.param({"contenders": []}, "policy is 'growth-quantile'", id="no-contenders"),
        pytest.param({"contenders": "one short"}, "series have 5 rows; expected 4", id="rows-of-series"),
        pytest.param({"contenders": "twice"}, "expected every name once", id="same-name-twice"),
    ],
)
def test_a_result_that_does_not_fit_itself_is_refused(run: DryRun, change: dict[str, Any], message: str) -> None:
    if change.get("contenders") == "one short":
        change = {"contenders": run.contenders[:-1]}
    if change.get("contenders") == "twice":
        change = {"contenders": [*run.contenders[:-1], run.contenders[0]]}
    with pytest.raises(ValueError, match=message):
        replace(run, **change)


@pytest.mark.parametrize("name", ["load", "known", "replicas", "ready", "cost"])
def test_series_of_another_length_are_refused(run: DryRun, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        replace(run.series, **{name: getattr(run.series, name)[..., :-1]})


def test_a_log_with_columns_of_different_lengths_is_refused(run: DryRun) -> None:
    with pytest.raises(ValueError, match="sentence has 3 entries; expected 5760"):
        replace(run.log, sentence=run.log.sentence[:3])


def test_capacity_of_a_replica_is_read_off_the_series(run: DryRun) -> None:
    assert run.series.capacity_per_replica == pytest.approx(10.0)
    idle = replace(run.series, load=run.series.load * 0, demand=run.series.demand * 0)
    assert math.isnan(idle.capacity_per_replica)


def test_table_shows_every_figure_at_80_columns(run: DryRun) -> None:
    text = printed(run)
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    rows = [line for line in text.splitlines() if line[3:].startswith(tuple(c.name for c in run.contenders))]
    assert [row[3:].split()[0] for row in rows] == [
        "growth-quantile", "hpa-tuned", "two-thresholds", "hpa-default", "clairvoyant",
    ], "best score first, the clairvoyant apart"  # fmt: skip
    assert [row[:2] for row in rows] == ["▸★", "  ", "  ", "  ", "  "]
    tested = run.tested
    for part in (
        f"{tested.score:.3f}", f"{tested.cost_ratio:.3f}", percent(tested.violation_share),
        f"{tested.regret:.2f}", f"{tested.replica_hours:,.0f}", f"{tested.rescales:,}",
        seconds(tested.wait_p95_s), str(tested.max_replicas),
    ):  # fmt: skip
        assert part in rows[0], f"{part} is missing from {rows[0]!r}"
    assert f"below {run.lower_bound:.3f} on this trace (proven)" in text


@pytest.mark.parametrize("width", [30, 40, 60, 72, 80, 120, 200])
def test_table_fits_every_width(run: DryRun, width: int) -> None:
    text = printed(run, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert f"{run.tested.score:.3f}" in text, "the score is never left out"
    assert ("Left out for width" in text) == (width < 80)


def test_a_pipe_gets_no_control_codes_and_a_terminal_gets_colour(run: DryRun) -> None:
    assert "\x1b" not in printed(run)
    assert "\x1b[" in printed(run, force_terminal=True, color_system="standard")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_other_encodings_get_plain_ascii(run: DryRun, encoding: str) -> None:
    text = printed(replace(run, resource="shop/wéb-日本", trace="a–b"), encoding=encoding)
    assert text.isascii()
    assert "shop/w?b-?? on a-b" in text
    assert ">* growth-quantile" in text


def test_names_are_neither_markup_nor_control_codes(run: DryRun) -> None:
    first = replace(run.contenders[0], name="[bold]x[/bold]\x1b[31m")
    changed = replace(run, policy=first.name, contenders=[first, *run.contenders[1:]], resource="[red]shop[/red]\x07\n")
    text = printed(changed)
    assert "[red]shop[/red]??" in text
    assert "[bold]x[/bold]?[31m" in text
    assert "\x1b" not in text


def test_a_long_name_is_cut_and_the_figures_stay(run: DryRun) -> None:
    first = replace(run.contenders[0], name="a-policy-with-a-name-of-more-than-forty-letters")
    text = printed(replace(run, policy=first.name, contenders=[first, *run.contenders[1:]]))
    row = next(line for line in text.splitlines() if line.startswith("▸★"))
    assert "…" in row
    assert f"{first.score:.3f}" in row
    assert cell_len(row) <= 80


@pytest.mark.parametrize(
    ("scores", "headline", "why", "tone"),
    [
        pytest.param(
            {"growth_quantile": (1.2, 88.0, 0.002), "hpa_tuned": (1.4, 100.0, 0.005)},
            "growth-quantile wins",
            "12 % fewer replica-hours than hpa-tuned at 0.3 points fewer late requests.",
            "won",
            id="policy-wins",
        ),
        pytest.param(
            {"growth_quantile": (1.2, 88.0, 0.002), "two_thresholds": (1.3, 100.0, 0.005)},
            "growth-quantile wins",
            "Next is two-thresholds, score 1.300 against 1.200.",
            "won",
            id="policy-wins-and-the-next-is-not-the-reference",
        ),
        pytest.param(
            {"growth_quantile": (1.5, 104.0, 0.006), "hpa_default": (1.2, 100.0, 0.004)},
            "hpa-default wins, growth-quantile comes 2nd of 4",
            "4 % more replica-hours than hpa-default at 0.2 points more late requests; score 1.500 against 1.200.",
            "lost",
            id="a-rule-wins",
        ),
        pytest.param(
            {"growth_quantile": (1.2, 100.0, 0.004), "hpa_default": (1.2003, 100.0, 0.004)},
            "growth-quantile and hpa-default draw",
            "As many replica-hours as hpa-default at the same share of late requests.",
            "won",
            id="draw",
        ),
        pytest.param(
            {"growth_quantile": (math.nan, math.nan, math.nan)},
            "hpa-tuned wins, growth-quantile comes 4th of 4",
            "Its figures cannot be compared with those of hpa-tuned",
            "lost",
            id="policy-without-a-score",
        ),
        pytest.param(
            dict.fromkeys(("growth_quantile", "hpa_tuned", "hpa_default", "two_thresholds"), (math.nan, 1.0, 0.0)),
            "Nobody wins",
            "Nothing in the trace could be scored, so no contender has a score.",
            "even",
            id="nothing-scored",
        ),
    ],
)
def test_verdict(
    run: DryRun, scores: dict[str, tuple[float, float, float]], headline: str, why: str, tone: str
) -> None:
    changed = scored(run, **scores)
    found = verdict(changed)
    assert found[0] == headline
    assert why in found[1]
    assert outcome(changed) == tone


def test_a_run_without_any_load_has_no_winner_and_says_why(run: DryRun) -> None:
    run = replace(quiet(run), world={**run.world, "late_allowed": 0.001})
    assert verdict(run) == ("Nobody wins", "There was no load, so nothing to scale and no score.")
    assert "Nobody wins: there was no load, so nothing to scale and no score." in printed(run)
    assert not [line for line in assumptions(run) if line.startswith("objective: ")]


def test_one_decision_is_not_told_in_the_plural() -> None:
    assert ", 1 decision\n" in printed(day(steps=1))


KEEPERS = {"none": (-1.0, "nobody"), "the limit alone": (0.0, "clairvoyant"), "all": (1.0, "all")}


@pytest.mark.parametrize(("allowed", "names"), KEEPERS.values(), ids=KEEPERS)
def test_who_keeps_the_objective_is_said(run: DryRun, allowed: float, names: str) -> None:
    ideal = replace(run.contenders[-1], violation_share=0.0)
    run = replace(run, contenders=(*run.contenders[:-1], ideal), world={**run.world, "late_allowed": allowed})
    (told,) = [line for line in assumptions(run) if line.startswith("objective: ")]
    assert told == f"objective: {percent(allowed)} may be late; kept by {names}"


def test_several_that_keep_the_objective_are_named_best_first(run: DryRun) -> None:
    shares = sorted(each.violation_share for each in run.ranked)
    run = replace(run, world={**run.world, "late_allowed": shares[1]})
    first, second = [each.name for each in run.ranked if each.violation_share <= shares[1]]
    (told,) = [line for line in assumptions(run) if line.startswith("objective: ")]
    assert told.endswith((f"kept by {first} and {second}", f"kept by {first}, {second} and clairvoyant"))


def test_nobody_keeps_or_misses_an_objective_without_requests(run: DryRun) -> None:
    idle = [replace(each, violation_share=math.nan) for each in run.contenders]
    run = replace(run, contenders=idle, world={**run.world, "late_allowed": 0.001})
    assert not [line for line in assumptions(run) if line.startswith("objective: ")]


def test_the_clairvoyant_never_wins(run: DryRun) -> None:
    assert min(run.contenders, key=lambda c: c.score).name == "clairvoyant"
    assert verdict(run)[0] == "growth-quantile wins"
    assert verdict(replace(run, policy="clairvoyant"))[0] == "clairvoyant is the limit"


def test_a_policy_that_ran_alone_wins_nothing(run: DryRun) -> None:
    alone = only(run, "growth-quantile")
    assert verdict(alone) == ("growth-quantile ran alone", "There is no rule to compare it with.")
    assert "growth-quantile" in printed(alone)


@given(
    shares=st.lists(st.floats(0.9, 60), min_size=1, max_size=5),
    tested=st.integers(0, 4),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_the_headline_names_whoever_scores_best(shares: list[float], tested: int) -> None:
    contenders = [Contender(f"p{i}", s, 0.0, s, None, 10 * s, 1, 0.1, 5) for i, s in enumerate(shares)]
    base: DryRun = day(steps=8)
    rows = {k: getattr(base.series, k)[:1].repeat(len(shares), 0) for k in
            ("replicas", "ready", "violations", "backlog", "cost")}  # fmt: skip
    run = replace(base, contenders=contenders, policy=f"p{tested % len(shares)}", series=replace(base.series, **rows))
    best = min(shares)
    winners = {c.name for c in contenders if c.score - best <= 0.0005}
    headline = verdict(run)[0]
    if len(shares) > 1:
        assert any(headline.startswith(name) for name in winners), f"{headline} but {winners} scored best"
        assert (outcome(run) == "won") == (run.policy in winners)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 ms"), (0.0854, "85 ms"), (0.9994, "999 ms"), (1.84, "1.84 s"), (42.2, "42 s"), (180.0, "3 min"),
     (None, "–"), (math.nan, "–")],
)  # fmt: skip
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00 %"), (0.0031, "0.31 %"), (0.00004, "0.004 %"), (0.0000001, "<0.001 %"), (0.123, "12.3 %"),
     (math.nan, "–")],
)  # fmt: skip
def test_percent(value: float, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(
    ("time", "start", "end", "text"),
    [
        pytest.param(3725.0, 0.0, 86400.0, "01:02:05", id="within-a-day"),
        pytest.param(90000.0, 0.0, 172800.0, "day 2 01:00:00", id="over-days"),
        pytest.param(1.76e9, 1.76e9, 1.77e9, "2025-10-09 08:53:20", id="unix-time"),
    ],
)
def test_clock(time: float, start: float, end: float, text: str) -> None:
    assert clock(time, start, end) == text


def test_sparkline_spans_the_blocks_and_leaves_the_unknown_blank() -> None:
    values = np.array([0.0, 0.4, 1.0, np.nan, 8.0, 4.0])
    assert sparkline(values, 8.0) == "▁▁▁ █▄"
    assert sparkline(values, 8.0, ASCII_BLOCKS) == "___ #-"
    assert sparkline(np.array([0.0, np.nan]), 0.0) == "▁ "
    assert len(BLOCKS) == len(ASCII_BLOCKS)


def test_peaks_keep_a_single_spike() -> None:
    values = np.ones(1000)
    values[637] = 9.0
    at = peaks(values, 40)
    assert 637 in at
    assert len(at) == 40
    assert peaks(np.array([1.0, math.nan, 3.0, math.nan, math.nan, 2.0]), 2).tolist() == [2, 5]
    assert peaks(np.array([5.0, math.nan, math.nan, math.nan]), 2).tolist() == [0, 2], (
        "nothing is known of the second half"
    )
    assert peaks(values[:7], 40).tolist() == list(range(7))


def test_a_day_in_a_column_shows_no_lack_that_there_was_not(run: DryRun) -> None:
    """The night's replicas do not stand below the day's load."""
    load = 100.0 + 90.0 * np.sin(2.0 * np.pi * np.arange(run.series.load.size) / 20.0)
    ready = np.tile(0.12 * load, (len(run.contenders), 1))
    series = replace(run.series, load=load, demand=load / 10.0, known=np.ones(load.size, bool), ready=ready)
    lines = [line for line in printed(replace(run, series=series)).splitlines() if "load  " in line or "ready " in line]
    above, below = (line.split()[1] for line in lines)
    assert len(set(above)) == 1, "every column has a whole day"
    assert all(BLOCKS.index(b) >= BLOCKS.index(a) for a, b in zip(above, below, strict=True))


def test_the_lines_say_how_long_capacity_was_below_the_load(run: DryRun) -> None:
    ready = run.series.ready.copy()
    ready[0] = 100.0
    assert "never below the load" in printed(replace(run, series=replace(run.series, ready=ready)))
    ready[0] = 0.0
    assert "below the load 100.0 % of time" in printed(replace(run, series=replace(run.series, ready=ready)))
