"""How often replicas change: what stands beside an evaluation is of its own draws, and the table tells it as it is."""

from pathlib import Path

import numpy as np
import pytest

from minimal_resource import MINIMAL
from recorded_minutes import written
from rlscaler.behavior import IMMEDIATE, Behavior
from rlscaler.custom_resource import parse_resources, to_settings
from rlscaler_sim import calm
from rlscaler_sim.again import Evaluation, evaluation_of
from rlscaler_sim.calm import BESIDE, DOWN, Fared
from small_evaluation import evaluated


@pytest.fixture
def draws(tmp_path: Path) -> Evaluation:
    """Return an evaluation of an hour of two recorded loads, one that is calm and one that jumps."""
    traces = written(tmp_path / "traces", 60, 1.5)
    return evaluation_of(tmp_path / "traces", evaluated(traces, BESIDE, tmp_path / "results.json"))


def test_what_is_played_is_what_a_resource_states_of_scale_down() -> None:
    (resource,) = parse_resources(
        f'{MINIMAL}  behavior: {{scaleDown: {{stabilizationWindowSeconds: 120, tolerance: "0.2"}}}}\n', "web.yaml"
    )
    assert calm.stated(120.0, 0.2) == to_settings(resource).behavior


def test_a_behavior_that_keeps_nothing_fares_as_in_the_evaluation(
    draws: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def immediate(window: float, tolerance: float) -> Behavior:
        return IMMEDIATE

    monkeypatch.setattr(calm, "stated", immediate)
    found = calm.fared(draws)
    for name in DOWN:
        mine, theirs = found[name], found["`default`"]
        for figure in ("score", "late", "pods"):
            np.testing.assert_allclose(getattr(mine, figure), getattr(theirs, figure), rtol=1e-9, err_msg=figure)
        # an evaluation tells rescales rounded, and an hour of them is told as of a day
        np.testing.assert_allclose(mine.rescales, theirs.rescales, atol=0.51 * 24.0)


def test_the_longer_replicas_are_kept_the_fewer_rescales(draws: Evaluation) -> None:
    found = calm.fared(draws)
    rescales = [found[name].rescales.sum() for name in ("`default`", *DOWN)]
    pods = [found[name].pods.sum() for name in ("`default`", *DOWN)]
    assert rescales[0] > rescales[1] > rescales[2] > 0
    assert pods[0] < pods[1] < pods[2]
    assert set(found) == {*DOWN, *(f"`{name}`" for name in BESIDE)}


def test_the_table_tells_medians_and_regrets() -> None:
    def alike(score: float, rescales: float) -> Fared:
        each = np.array([1.0, 1.0, 9.0])
        return Fared(score * each, 0.001 * each, 1.2 * each, rescales * each)

    found = {"`clairvoyant`": alike(1.0, 500.0), "`hpa-tuned`": alike(2.0, 100.0), "`hpa-own`": alike(1.8, 90.0),
             "`default`": alike(1.4, 1200.0)}  # fmt: skip
    lines = calm.table(found).splitlines()
    assert lines[2] == "| `default` | 1,200 | 0.10 % | 1.20 | 0.40 | 0.50 |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "`default`", "`clairvoyant`", "`hpa-tuned`", "`hpa-own`"
    ]  # fmt: skip
