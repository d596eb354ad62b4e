"""Fronts of pods against late requests: read off the settings that are worth having, on an evaluation's own draws."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from recorded_minutes import written
from rlscaler.errors import UserError
from rlscaler_sim import frontier, frontier_page
from rlscaler_sim.again import Evaluation, evaluation_of
from rlscaler_sim.frontier import DEFAULT, HPA, OBJECTIVES, RULES, TARGETS, Fronts, pods, worth_having
from small_evaluation import evaluated

FRONTS: dict[str, tuple[Sequence[tuple[float, float]], Sequence[tuple[float, float]]]] = {
    "one setting": ([(0.1, 2.0)], [(0.1, 2.0)]),
    "the same twice": ([(0.1, 2.0), (0.1, 2.0)], [(0.1, 2.0)]),
    "later and dearer is not worth having": ([(0.1, 2.0), (0.2, 2.5)], [(0.1, 2.0)]),
    "as late and dearer is not": ([(0.1, 2.5), (0.1, 2.0)], [(0.1, 2.0)]),
    "in order of lateness": ([(0.2, 1.5), (0.1, 2.0)], [(0.1, 2.0), (0.2, 1.5)]),
    "above the line between two others is not": ([(0.1, 2.0), (0.2, 1.9), (0.3, 1.0)], [(0.1, 2.0), (0.3, 1.0)]),
    "below that line is": ([(0.1, 2.0), (0.2, 1.2), (0.3, 1.0)], [(0.1, 2.0), (0.2, 1.2), (0.3, 1.0)]),
    "what a later one makes useless": (
        [(0.0, 3.0), (0.1, 2.0), (0.2, 1.9), (0.3, 0.5)], [(0.0, 3.0), (0.1, 2.0), (0.3, 0.5)]),
}  # fmt: skip


@pytest.mark.parametrize(("given", "kept"), FRONTS.values(), ids=FRONTS)
def test_what_is_worth_having(given: Sequence[tuple[float, float]], kept: Sequence[tuple[float, float]]) -> None:
    np.testing.assert_array_equal(worth_having(np.array(given)), np.array(kept))


@pytest.mark.parametrize("seed", range(5))
def test_no_setting_lies_below_the_front(seed: int) -> None:
    points = np.random.default_rng(seed).random((40, 2))
    front = worth_having(points)
    assert all(pods(front, late) <= cost + 1e-12 for late, cost in points)
    assert (np.diff(front[:, 0]) > 0.0).all()
    assert (np.diff(np.diff(front[:, 1]) / np.diff(front[:, 0])) >= 0.0).all(), "each step saves less than the last"


def test_nobody_is_less_late_than_the_most_careful_setting() -> None:
    front = np.array([(0.01, 2.0), (0.03, 1.0)])
    assert np.isnan(pods(front, 0.009))
    assert pods(front, 0.01) == 2.0
    assert pods(front, 0.02) == 1.5
    assert pods(front, 0.5) == 1.0


@pytest.fixture
def draws(tmp_path: Path) -> Evaluation:
    """Return an evaluation of an hour of two recorded loads, one that is calm and one that jumps."""
    traces = written(tmp_path / "traces", 60, 1.5)
    beside = ("hpa", "hpa-tuned", "hpa-own", "clairvoyant")
    return evaluation_of(tmp_path / "traces", evaluated(traces, beside, tmp_path / "results.json"))


def test_the_usual_settings_fare_as_in_the_evaluation(draws: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier, "TARGETS", (0.7,))
    found = frontier.fronts(draws)
    for at, figure in enumerate(("violation_share", "cost_ratio")):
        np.testing.assert_allclose(found.usual[:, at], draws.of("default", figure), rtol=1e-6)
        np.testing.assert_allclose([front[0, at] for front in found.front[HPA]], draws.of("hpa", figure), rtol=1e-6)
    assert set(found.front) == {DEFAULT, HPA, frontier.ANY, *RULES}
    for trace, (late, cost) in enumerate(found.usual):
        assert pods(found.front[DEFAULT][trace], late) <= cost
        assert pods(found.front[frontier.ANY][trace], found.front[HPA][trace][0, 0]) <= found.front[HPA][trace][0, 1]


def test_every_knob_trades_pods_for_lateness(draws: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontier, "TARGETS", (TARGETS[0], TARGETS[-1]))
    monkeypatch.setattr(frontier, "OBJECTIVES", (OBJECTIVES[0], frontier.USUAL, OBJECTIVES[-1]))
    for name, of in frontier.fronts(draws).front.items():
        jumping = of[1]
        assert len(jumping) > 1, name
        assert jumping[0, 1] > jumping[-1, 1], name


def two() -> Fronts:
    """Return the fronts of two traces: on one an HPA needs half as much again, on the other it is always late."""
    mine = np.array([(0.001, 1.2), (0.01, 1.1)])
    dearer, reckless = mine * (1.0, 1.5), np.array([(0.02, 1.0)])
    return Fronts(["calm", "jumping"], {DEFAULT: [mine, mine], HPA: [dearer, reckless]}, np.array([mine[0], mine[0]]))


def test_the_tables_tell_who_reaches_what() -> None:
    found = two()
    assert frontier.as_late(found).splitlines()[2:] == ["| `hpa` | 1 | +50.0 % | +50.0 to +50.0 % | 1 |"]
    assert frontier.at_shares(found).splitlines()[2:] == [
        "| `default` can, of 2 | 0 | 2 | 2 | 2 | 2 | 2 |",
        f"| `hpa` | -; can 0 |{' +50.0 % on 1; can 1 |' * 4} +20.5 % on 2; can 2 |",
    ]


def test_what_was_found_is_read_as_it_was_written(tmp_path: Path) -> None:
    frontier.write(two(), path := tmp_path / "frontier.json")
    again = frontier.read(path)
    assert frontier.tables(again) == frontier.tables(two())
    assert again.traces == ["calm", "jumping"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"traces": [], "usual": [], "front": 3}'])
def test_another_file_is_told_in_one_sentence(text: str, tmp_path: Path) -> None:
    (path := tmp_path / "other.json").write_text(text)
    with pytest.raises(UserError, match=r"other\.json is not what `python -m rlscaler_sim\.frontier --output` writes"):
        frontier.read(path)
    with pytest.raises(UserError, match=r"nowhere\.json: No such file"):
        frontier.read(tmp_path / "nowhere.json")


def test_a_trace_on_which_no_pod_was_needed_tells_nothing() -> None:
    infinite, usual = np.array([(0.0, np.inf)]), np.array([(0.0, np.inf)])
    assert np.isnan(frontier.more_than(np.array([np.inf, 1.0, np.nan]), np.array([np.inf, np.inf, 1.0]))[[0, 2]]).all()
    found = Fronts(["idle"], {DEFAULT: [infinite], HPA: [infinite]}, usual)
    assert np.isnan(frontier_page.more_pods(found, HPA)).all()
    assert frontier.as_late(found).splitlines()[2:] == ["| `hpa` | 0 | - | - | 0 |"]
    assert frontier_page.png(found).startswith(b"\x89PNG")


def test_the_picture_tells_what_the_tables_tell() -> None:
    more = frontier_page.more_pods(two(), HPA)
    can = (frontier_page.SHARES >= 0.001) & (frontier_page.SHARES < 0.02)
    np.testing.assert_allclose(more[0, can], 0.5)
    assert np.isnan(more[0, ~can][0]), "default itself cannot be so seldom late"
    assert np.isnan(more[1, can]).all(), "the HPA cannot be on the other trace"


def test_a_page_and_a_picture_are_written_beside_the_file(tmp_path: Path) -> None:
    frontier.write(two(), path := tmp_path / "fronts.json")
    frontier_page.write(path)
    page = (tmp_path / "fronts.md").read_text()
    assert frontier.as_late(two()) in page
    assert "](fronts.png)" in page
    assert (tmp_path / "fronts.png").read_bytes().startswith(b"\x89PNG")


def test_a_mistake_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere, missing = tmp_path / "nowhere.json", tmp_path / "missing" / "frontier.json"
    beside = ["--traces", str(tmp_path), "--results", str(nowhere), "--output", str(missing)]
    for module, arguments, told in (
        (frontier_page, [str(nowhere)], f"frontier_page: {nowhere}: No such file or directory"),
        (frontier, beside, f"frontier: {missing}: the folder {missing.parent} does not exist"),
    ):
        monkeypatch.setattr(sys, "argv", ["", *arguments])
        with pytest.raises(SystemExit) as ended:
            module.main()
        assert ended.value.code == 2
        assert told in capsys.readouterr().err


def test_lines_of_text_are_never_over_one_another() -> None:
    places = frontier_page._apart([0.0, 0.0, 0.01, 5.0], (0.0, 10.0))
    assert (np.diff(places) >= 0.75 - 1e-9).all()
    assert places[0] == 0.0
    assert places[-1] == 5.0


def test_the_stored_page_is_that_of_the_stored_figures() -> None:
    docs = Path(__file__).parents[2] / "docs"
    found = frontier.read(docs / "frontier.json")
    assert (docs / "frontier.md").read_text(encoding="utf-8") == frontier_page.markdown(found, "frontier.png")
    headline = [each for each in json.loads((docs / "results.json").read_text())["traces"] if each["headline"]]
    assert list(found.traces) == [each["trace"] for each in headline]
