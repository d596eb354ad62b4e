"""Scores under other conditions: each changes what it names alone; what is shipped is scored as the folds made it."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rlscaler import tuned
from rlscaler.panel import Panel
from rlscaler.policies import load_policy
from rlscaler.tenured import Tenured
from rlscaler_sim import contenders, evaluation
from rlscaler_sim import robustness as conditions
from rlscaler_sim.robustness import CONDITIONS
from rlscaler_sim.robustness_command import robustness
from rlscaler_sim.trace import Trace

CHANGED = {
    "standard": (set(), set()),
    "seeds": (set(), set()),
    "startup-5s": ({"startup"}, {"startup"}),
    "startup-30s": ({"startup"}, {"startup"}),
    "startup-120s": ({"startup"}, {"startup"}),
    "startup-600s": ({"startup"}, {"startup"}),
    "interval-6s": ({"interval"}, {"interval", "window"}),
    "interval-60s": ({"interval"}, {"interval", "window"}),
    "capacity-0.7": (set(), {"capacity_per_replica"}),
    "capacity-1.4": (set(), {"capacity_per_replica"}),
    "lag-60s": (set(), {"lag"}),
    "completions": ({"load_counts"}, {"completions"}),
    "missing-1": (set(), {"gap_rate"}),
    "missing-10": (set(), {"gap_rate"}),
}
"""What differs from the standard world: in the settings, and in the world."""


def load(minutes: int = 90) -> Trace:
    rng = np.random.default_rng(1)
    return Trace("alpha_60s", 0.0, 60.0, 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.05, minutes))))


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_changes_what_it_names_and_nothing_else(name: str) -> None:
    told = CONDITIONS[name].told()
    standard, world = contenders.standard_settings(), CONDITIONS[name].config(told)
    usual = evaluation.standard_world(standard)
    differ = {f.name for f in fields(standard) if getattr(told, f.name) != getattr(standard, f.name)}
    elsewhere = {f.name for f in fields(usual) if getattr(world, f.name) != getattr(usual, f.name)}
    assert (differ, elsewhere) == CHANGED[name]


def test_replicas_that_serve_less_make_requests_late() -> None:
    """Of an HPA, which holds the utilisation that it believes in."""
    names = ("standard", "capacity-0.7", "capacity-1.4")
    found = conditions.table([load()], ["erlang"], names, seeds=1, duration=5400.0)
    late = [found[name][0].of("hpa-tuned").violation_share for name in names]
    assert late[1] > late[0] > late[2]
    page = conditions.markdown(found, "the command")
    assert page.count("\n| ") == 1 + len(names)
    assert "a replica serves 0.7 of what is stated" in page
    assert "each under the same condition; 1 seed." in page


def test_what_is_scored_was_not_trained_on_the_load() -> None:
    """Of a known family the policy of its fold; of others the one that is shipped."""
    fold = tuned.table()["folds"][1]
    family = fold["held_out"][0]
    entrant = contenders.tested("default", contenders.standard_settings(), ["somebody", family, "somebody"])
    assert isinstance(entrant.policy, Panel)
    members = {tuple(rows.tolist()): policy for policy, rows in entrant.policy.members}
    shipped, held_out = members[0, 2], members[1,]
    assert isinstance(shipped, Tenured)
    assert isinstance(held_out, Tenured)
    assert shipped == load_policy("default")
    assert held_out.artifact is not None
    assert family not in held_out.artifact.manifest["provenance"]["trained_on"]
    assert held_out.tenure.peak == fold["constants"]["growth-quantile"]["peak"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(("--conditions", "rain"), "--conditions rain: expected some of standard, seeds", id="condition"),
        pytest.param(("--rules", "luck"), "--rules luck: expected some of", id="rule"),
        pytest.param(("--conditions", ""), "--conditions '': no name; expected names", id="no condition"),
        pytest.param(("--rules", ","), "--rules ,: no name; expected names", id="no rule"),
        pytest.param((), "no trace is named", id="no load"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in str(CliRunner().invoke(robustness, [*arguments, "-q"]).exception)


def test_the_command_prints_the_table(tmp_path: Path) -> None:
    trace = load()
    lines = ["t_s,rate", *(f"{60 * t},{rate:.3f}" for t, rate in enumerate(trace.rates))]
    (tmp_path / "alpha_60s.csv").write_text("\n".join(lines) + "\n")
    page = tmp_path / "page.md"
    result = CliRunner().invoke(robustness, [
        "--policy", "erlang", "--trace", str(tmp_path / "alpha_60s.csv"), "--conditions", "missing-10",
        "--rules", "hpa", "--for", "1h", "-q", "--markdown", str(page), "--output", str(tmp_path / "out.json"),
    ])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert page.read_text() == result.stdout
    assert "| 10 % of the readings are missing |" in result.stdout
