"""`rlscaler verify` and `inspect --verify`: what is as it says passes, and everything that is not is named."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import install, mistakes, run
from rlscaler.artifact import Artifact, load, save
from rlscaler.mlp import MlpPolicy
from rlscaler.policies import artifact_path
from rlscaler_training import finishing
from rlscaler_training.finishing import changed
from rlscaler_training.verifying import models, verified
from served_artifacts import PROVENANCE, network, table

EPISODE = 40
"""Decisions of the last evaluation in these tests."""
TINY = ("--scenario", "spike", "--hours", "1", "--steps", "8", "--envs", "4", "--episode", "30", "--lookahead", "2",
        "--evaluate-every", "4", "--checkpoint-every", "4")  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one finished run, runs/q-learning-1."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finishing, "EPISODE", EPISODE)
        install(folder)
        patch.syspath_prepend(str(folder))
        patch.chdir(folder)
        result = run("train", "q-learning", *TINY, "--quiet")
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder to work in, with a copy of the run."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.setattr(finishing, "EPISODE", EPISODE)
    monkeypatch.syspath_prepend(str(trained))
    monkeypatch.chdir(tmp_path)
    return tmp_path


POLICY = Path("runs/q-learning-1/policy.rlz")


def rows(text: str) -> dict[str, list[str]]:
    """Return the rows of the table by model."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split("  ")[0].endswith(".rlz")}


def test_a_trained_model_passes_and_its_scores_come_out_again(folder: Path) -> None:
    result = run("verify")
    assert result.exit_code == 0, result.output
    scores = load(POLICY).manifest["scores"]
    expected = [f"{scores[name]:.3f}" for name in ("validation_score", "untrained_score")]
    assert rows(result.output) == {str(POLICY): ["q-table", *expected, *["ok"] * 4, "-", *["ok"] * 2]}
    assert result.output.splitlines()[-1] == "1 of 1 passed"
    (told,) = json.loads(run("verify", "--json").stdout)
    assert told["passed"] is True
    assert [check["name"] for check in told["checks"]] == [
        "digest", "schema", "repeatable", "behaviour", "more load", "scores",
    ]  # fmt: skip
    assert [check["name"] for check in json.loads(run("verify", "--no-scores", "--json").stdout)[0]["checks"]][-1] == (
        "more load"
    )


def test_the_policy_that_is_shipped_passes() -> None:
    """Its network is asked alone too: outside of its training range the rule decides, within it seldom."""
    found = verified(artifact_path("default"))
    assert found.failed == []
    (told,) = [check.told for check in found.checks if check.name == "behaviour"]
    assert re.fullmatch(r"6,144 decisions on .* 0% of them by the rule; of the learned policy alone, [1-9]\d?%", told)


def test_the_network_that_stands_beside_rules_is_compared_too() -> None:
    """Though it has only a say: it is what was trained."""
    (agreement,) = [
        check for check in verified(artifact_path("default"), scores=False).checks if check.name == "agreement"
    ]
    assert agreement.passed is True
    assert "100,000 observations" in agreement.told


def test_inspect_verifies_a_run(folder: Path) -> None:
    result = run("inspect", "runs/q-learning-1", "--verify")
    assert result.exit_code == 0, result.output
    assert sum(line.startswith("ok ") for line in result.output.splitlines()) == 6


def rescored(artifact: Artifact, **scores: float) -> Artifact:
    return changed(artifact, scores=artifact.manifest["scores"] | scores)


def asked(artifact: Artifact, **parts: Any) -> Artifact:
    provenance = artifact.manifest["provenance"]
    return changed(artifact, provenance=provenance | {"asked": provenance["asked"] | parts})


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


FAILED: dict[str, tuple[Callable[[Artifact], Artifact], str, str]] = {
    "a better score than it has": (lambda a: rescored(a, validation_score=0.5), "scores",
                                   "and the manifest states 0.5000"),
    "another world": (lambda a: rescored(a, untrained_score=3.0), "scores", "the untrained rule differs too"),
    "another table": (
        lambda a: Artifact({k: v for k, v in a.manifest.items() if k not in ("format", "arrays", "digest")},
                           {"values": np.broadcast_to(np.arange(11.0), a.arrays["values"].shape).copy()}),
        "scores", "validation_score is",
    ),
    "a schema of another version": (lambda a: changed(a, observation_schema="99"), "schema",
                                    "observation_schema of policy q-learning is '99'; expected '1'"),
    "a kind of another version": (lambda a: changed(a, kind="transformer"), "schema", "'transformer' is unknown"),
    "no cuts": (lambda a: changed(a, parameters={}), "schema", "a q-table needs parameters.bins"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "check", "message"), FAILED.values(), ids=FAILED)
def test_what_is_not_as_it_says_fails_by_name(
    folder: Path, change: Callable[[Artifact], Artifact], check: str, message: str
) -> None:
    save(change(load(POLICY)), folder / "bad.rlz")
    result = run("verify", ".", *([] if check == "scores" else ["--no-scores"]))
    assert result.exit_code == 1, result.output
    assert result.output.splitlines()[-1] == "0 of 1 passed, 1 failed"
    assert rows(result.output)["bad.rlz"][-1] == "FAILED"
    assert f"bad.rlz: {check} failed: " in result.output
    assert message in result.output


def test_inspect_names_what_fails(folder: Path) -> None:
    save(changed(load(POLICY), observation_schema="99"), folder / "bad.rlz")
    result = run("inspect", "bad.rlz", "--verify")
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if line.startswith("FAILED")]
    assert line.split()[1] == "schema"


def test_a_damaged_file_fails_and_the_others_are_verified_all_the_same(folder: Path) -> None:
    (folder / "cut.rlz").write_bytes(POLICY.read_bytes()[:1000])
    (folder / "foreign.rlz").write_bytes(b"\x80\x04 a pickle")
    save(table(), folder / "good.rlz")
    save(table(), folder / "flipped.rlz")
    damaged(folder / "flipped.rlz")
    result = run("verify", ".", "--no-scores")
    assert result.exit_code == 1
    verdicts = {name: row[-1] for name, row in rows(result.output).items()}
    assert verdicts == {"cut.rlz": "FAILED", "flipped.rlz": "FAILED", "foreign.rlz": "FAILED", "good.rlz": "ok"}
    assert result.output.count("digest failed: ") == 3
    assert result.output.count("not a readable zip") >= 2


def test_an_artifact_that_took_the_place_of_the_runs_is_noticed(folder: Path) -> None:
    save(table(), POLICY)
    result = run("verify", "--no-scores")
    assert result.exit_code == 1
    assert "another artifact took the place of the run's" in result.output


def test_a_policy_that_loses_its_mind_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(network(), folder / "a.rlz")
    answers = iter(range(10**9))
    sane = MlpPolicy.propose

    def insane(self: Any, view: Any, state: Any) -> Any:
        proposal, state = sane(self, view, state)
        proposal.replicas = proposal.replicas * (np.nan if next(answers) % 3 else 1.0)
        return proposal, state

    monkeypatch.setattr(MlpPolicy, "propose", insane)
    found = verified(folder / "a.rlz", scores=False)
    assert [check.name for check in found.failed] == ["repeatable", "behaviour"]
    assert "no usable answer to a known load" in found.failed[1].told


OPEN: dict[str, tuple[Callable[[Artifact], Artifact], str]] = {
    "no load stated": (lambda a: changed(a, provenance={"seed": 0}), "provenance has no asked"),
    "recorded load": (lambda a: asked(a, traces="recorded", scenarios=[]), "recorded load (recorded); name its folder"),
    "a week of weeks": (lambda a: asked(a, hours=1e9), "asked.hours is 1000000000.0; expected 1 to 336"),
    "no number of hours": (lambda a: asked(a, hours="8"), "asked.hours is '8'"),
    "a seed beyond all": (lambda a: asked(a, seed=-1), "asked.seed is -1; expected a whole number"),
    "names of everything": (lambda a: asked(a, scenarios=["spike"] * 1000), "expected at most 64 names"),
    "no scenario of this version": (lambda a: asked(a, scenarios=["spikes"]), "no scenario is called 'spikes'"),
    "an option of another version": (lambda a: asked(a, colour="red"), "not those of 'rlscaler train'"),
    "other load": (lambda a: asked(a, scenarios=["ramp"]), "has other load than it was validated on"),
    "a score less": (lambda a: changed(a, scores={"validation_score": 1.0}), "the manifest has no validation_cost"),
}


@pytest.mark.parametrize(("change", "message"), OPEN.values(), ids=OPEN)
def test_scores_that_cannot_be_measured_again_are_left_open_and_say_why(
    folder: Path, change: Callable[[Artifact], Artifact], message: str
) -> None:
    save(change(load(POLICY)), folder / "a.rlz")
    found = verified(folder / "a.rlz")
    assert found.failed == []
    (left,) = found.open
    assert left.name == "scores"
    assert left.told.startswith("not measured again: ")
    assert message in left.told


def test_open_checks_are_told_and_do_not_fail(folder: Path) -> None:
    save(table(), folder / "a.rlz")
    result = run("verify", "a.rlz")
    assert result.exit_code == 0
    assert "a.rlz: scores open: not measured again: " in result.output
    assert result.output.splitlines()[-1] == "1 of 1 passed, 1 checks open"


def test_models_are_found_in_the_folder_its_runs_and_unpacked(folder: Path) -> None:
    save(table(), folder / "one.rlz")
    save(table(), folder / "runs" / "two.rlz")
    (folder / "runs" / ".hidden").mkdir()
    save(table(), folder / "runs" / ".hidden" / "three.rlz")
    (folder / "runs" / "unpacked").mkdir()
    (folder / "runs" / "unpacked" / "manifest.json").write_text("{}")
    (folder / "runs" / ".two.rlz.x.tmp").write_bytes(b"")
    inside = ["q-learning-1/policy.rlz", "two.rlz", "unpacked"]
    assert [str(path.relative_to("runs")) for path in models("runs")] == inside
    assert [str(path) for path in models(".")] == ["one.rlz", "runs/two.rlz"]
    assert models("runs/q-learning-1") == [POLICY]
    assert models("one.rlz") == [Path("one.rlz")]


def unfinished(folder: Path) -> None:
    (folder / "empty" / "run").mkdir(parents=True)
    (folder / "empty" / "run" / "config.json").write_text("{}")


NOTHING: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda folder: None, "empty: no such folder; expected one of artifacts or runs"),
    "an empty folder": (lambda folder: (folder / "empty").mkdir(), "empty: holds no artifact; train one by"),
    "only runs that are not done": (unfinished, "one run in it has none yet: 'rlscaler runs empty' tells"),
}


@pytest.mark.parametrize(("make", "message"), NOTHING.values(), ids=NOTHING)
def test_where_there_is_nothing_to_verify_that_is_a_mistake(
    folder: Path, make: Callable[[Path], Any], message: str
) -> None:
    make(folder)
    (line,) = mistakes(run("verify", "empty"))
    assert message in line


def test_the_provenance_names_no_place_of_the_machine(folder: Path) -> None:
    provenance = load(POLICY).manifest["provenance"]
    assert str(folder) not in json.dumps(provenance)
    assert provenance["asked"]["scenarios"] == ["spike"]
    assert PROVENANCE.keys() - {"date"} <= provenance.keys()
