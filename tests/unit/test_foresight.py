"""What more foresight would win: orders look as far as they reach, and scores are on an evaluation's own draws."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recorded_minutes import written
from rlscaler_sim import contenders, evaluation, foresight
from rlscaler_sim.contest import play
from rlscaler_sim.load import Load, generator, realise
from rlscaler_sim.summary_table import to_json
from rlscaler_sim.trace import Trace

STANDARD = contenders.standard_settings()
TICKS = 5


@pytest.fixture
def traces(tmp_path: Path) -> list[Trace]:
    """Return two recorded loads of forty minutes, one that is calm and one that jumps, written into a folder."""
    return written(tmp_path / "traces", 40, 4.0)


def load_of(trace: Trace, seed: int) -> Load:
    return realise(trace, duration=2400.0, rng=generator(trace.name, seed))


@pytest.mark.parametrize("startup", [5.0, 15.0, 60.0, 100.0])
def test_an_order_looks_as_far_as_it_reaches(traces: list[Trace], startup: float) -> None:
    load, settings = load_of(traces[1], 0), replace(STANDARD, startup=startup)
    found = foresight.peaks([load], settings, TICKS)[0]
    needed = [max(load.rates[k : k + TICKS]) / 10.0 for k in range(0, len(load.rates), TICKS)]
    reach = math.ceil(startup / 15.0)
    assert found == pytest.approx([max(needed[k : k + reach + 1]) for k in range(len(needed))])


def test_the_rate_is_served_where_it_is_known(traces: list[Trace]) -> None:
    """A jump that nobody could have seen makes requests late for a start-up, but not for who knows of it."""
    load = load_of(traces[1], 0)
    who = [*foresight.foreseeing([load], STANDARD, TICKS), contenders.entrant("hpa", STANDARD)]
    config = replace(evaluation.standard_world(STANDARD), fano=1.0)
    late = play([load], who, config, STANDARD, [0], waits=False).violation_share[:, 0]
    most = foresight.SPARES.index((0.06, 0.5))
    assert late[most] < 0.002
    assert late[-1] > 0.02


def test_the_best_spare_is_taken_and_regrets_are_to_the_references() -> None:
    told = [
        {"contenders": [{"name": name, "score": score} for name, score in scores.items()]}
        for scores in (
            {"clairvoyant": 1.0, "hpa-tuned": 3.0, "hpa-own": 2.0, "default": 1.5, "learned": 1.8},
            {"clairvoyant": 1.0, "hpa-tuned": 1.4, "hpa-own": 1.2, "default": 1.3, "learned": 1.1},
        )
    ]
    few, many = (f"{foresight.KNOWN} {share:g} {root:g}" for share, root in foresight.SPARES[:2])
    found = {few: np.array([1.1, 1.1]), many: np.array([1.2, 1.02]), "other": np.array([2.0, 1.2])}
    regrets = foresight.regrets(found, told)
    assert list(regrets) == [
        foresight.KNOWN,
        "other",
        "`default`, has met none of their sources",
        "`learned`, has met none of their sources",
    ]
    assert regrets[foresight.KNOWN]["hpa-own"] == pytest.approx([0.2, 0.1])
    assert regrets[foresight.KNOWN]["hpa-tuned"] == pytest.approx([0.1, 0.05])
    assert regrets["other"]["hpa-own"] == pytest.approx([1.0, 1.0])
    assert regrets["`default`, has met none of their sources"]["hpa-own"] == pytest.approx([0.5, 1.5])


def test_the_table_stands_beside_an_evaluation_of_the_same_draws(
    traces: list[Trace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sources that no fold held out are decided by what is shipped, so both ways to score it have to agree."""
    scored = evaluation.evaluate(
        traces, contenders.SHIPPED, seeds=range(2), duration=2400.0, settings=STANDARD,
        rules=("hpa-tuned", "hpa-own", "clairvoyant"),
    )  # fmt: skip
    results = to_json(scored, command="", seeds=2, duration=2400.0, startup=60.0, scale_to=25.0, elapsed=1.0)
    (tmp_path / "results.json").write_text(json.dumps(results))
    arguments = ["--traces", str(tmp_path / "traces"), "--results", str(tmp_path / "results.json")]
    monkeypatch.setattr(sys, "argv", ["foresight", *arguments])
    foresight.main()
    lines = capsys.readouterr().out.splitlines()
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in (line.split("|") for line in lines[2:])
    }
    assert rows["`default`, has met the very traces"] == rows["`default`, has met none of their sources"]
    assert rows["`learned`, has met the very traces"] == rows["`learned`, has met none of their sources"]
    own = results["summary"]["default"]
    assert rows["`default`, has met none of their sources"][3:] == [
        f"{own[f'{how}_regret_own']:.2f}" for how in ("median", "mean", "worst")
    ]
    assert float(rows[foresight.KNOWN][4]) < float(rows["`default`, has met none of their sources"][4])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("{", "is not what `rlscaler evaluate --output FILE.json` writes", id="no JSON"),
        pytest.param("{}", "is not what `rlscaler evaluate --output FILE.json` writes", id="another file"),
        pytest.param('{"traces": [{"trace": "gone", "headline": true}]}', "there is no gone", id="a trace is missing"),
    ],
)
def test_a_mistake_is_one_sentence(
    text: str,
    expected: str,
    traces: list[Trace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "results.json").write_text(text)
    arguments = ["--traces", str(tmp_path / "traces"), "--results", str(tmp_path / "results.json")]
    monkeypatch.setattr(sys, "argv", ["foresight", *arguments])
    with pytest.raises(SystemExit) as ended:
        foresight.main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert expected in told
    assert told.count("\n") == 1
