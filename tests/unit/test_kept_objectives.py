"""Who keeps an objective: what stands beside an evaluation is of its own draws, and the table tells it as it is."""

import sys
from pathlib import Path

import numpy as np
import pytest

from recorded_minutes import written
from rlscaler_sim import kept_objectives
from rlscaler_sim.again import evaluation_of
from rlscaler_sim.kept_objectives import BESIDE, WITH
from rlscaler_sim.trace import Trace
from small_evaluation import evaluated


@pytest.fixture
def traces(tmp_path: Path) -> list[Trace]:
    """Return recorded loads of an hour, one that is calm and one that jumps, written into a folder."""
    return written(tmp_path / "traces", 60, 1.5)


@pytest.fixture
def results(traces: list[Trace], tmp_path: Path) -> Path:
    """Return what an evaluation wrote of them."""
    return evaluated(traces, BESIDE, tmp_path / "results.json")


def test_without_a_window_it_fares_as_in_the_evaluation(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = evaluation_of(tmp_path / "traces", results)
    monkeypatch.setattr(kept_objectives, "WINDOW", float("inf"))
    found = kept_objectives.fared(draws)
    for mine, theirs in zip(found[WITH], found["`default`"], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9)


def test_a_window_has_fewer_late_and_more_pods_where_load_jumps(results: Path, tmp_path: Path) -> None:
    found = kept_objectives.fared(evaluation_of(tmp_path / "traces", results))
    (late, pods), (late_without, pods_without) = found[WITH], found["`default`"]
    assert late[1] < late_without[1]
    assert pods[1] > pods_without[1]
    assert set(found) == {WITH, *(f"`{name}`" for name in BESIDE)}


def test_the_table_counts_who_keeps_it() -> None:
    found = {
        WITH: (np.array([0.0005, 0.001, 0.01]), np.array([1.2, 1.3, 1.5])),
        "`hpa`": (np.array([0.0, 0.0012, 0.2]), np.array([1.6, 1.6, 1.6])),
    }
    lines = kept_objectives.table(found).splitlines()
    assert lines[2] == f"| {WITH} | 2 | 2 | 0.10 % | 1.30 |  |  |"
    assert lines[3] == "| `hpa` | 1 | 2 | 0.12 % | 1.60 | 1 | +25 % |"


def test_a_mistake_is_one_sentence(
    traces: list[Trace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text("{}")
    arguments = ["--traces", str(tmp_path / "traces"), "--results", str(tmp_path / "results.json")]
    monkeypatch.setattr(sys, "argv", ["kept_objectives", *arguments])
    with pytest.raises(SystemExit) as ended:
        kept_objectives.main()
    assert ended.value.code == 2
    assert "is not what `rlscaler evaluate --output FILE.json` writes" in capsys.readouterr().err
