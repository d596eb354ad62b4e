"""`rlscaler inspect`: what a policy is, told without the learning stack; anything else is one line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import ROOT, mistakes, run, stand_in
from rlscaler.artifact import Artifact, load, save
from rlscaler.container import MANIFEST
from rlscaler.inspecting import described, find
from rlscaler.policies import RULES, artifact_path
from rlscaler.probing import SITUATIONS
from served_artifacts import FIELDS, branching, network, table
from small_artifact import SMALL, unpacked

ROOMS = [str(ROOT / room) for room in ("core", "sim", "training", "operator")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in(tmp_path, monkeypatch)
    return tmp_path


SHAPES: dict[str, tuple[Callable[[], Artifact], str, int, list[int]]] = {
    "table": (table, "table of 6 states (2 of trend x 3 of size) by 11 choices", 66, [11]),
    "choices": (network, "network 5 > 8 > 11, silu; its output is a value for each choice", 157, [11]),
    "correction": (
        lambda: network("correction", activation="tanh"),
        "network 5 > 8 > 1, tanh; its output is the correction of the log headroom",
        67,
        [11],
    ),
    "branching": (
        branching,
        "branching network, relu: micro 2 > 4, macro 1 > 4, trunk 10 > 6, value 6 > 1, branch_0 6 > 11, branch_1 6 > 5",
        215,
        [11, 5],
    ),
}


@pytest.mark.parametrize(("made", "shape", "numbers", "choices"), SHAPES.values(), ids=SHAPES)
def test_shape_and_size_are_those_of_the_arrays(
    made: Callable[[], Artifact], shape: str, numbers: int, choices: list[int], tmp_path: Path
) -> None:
    save(made(), path := tmp_path / "a.rlz")
    told = described(find(str(path)))
    assert (told["shape"], told["numbers"], told["action"]["choices"]) == (shape, numbers, choices)
    assert told["digest"] == made().digest
    assert told["bytes"] == path.stat().st_size
    assert told["agreement"] == {"observations": 100_000, "ties": 3, "largest_difference": 2e-7}
    assert told["scores"] == {"validation_score": 1.25}


def test_all_that_the_manifest_says_is_shown(folder: Path) -> None:
    save(network(training_range={"size": [0.5, 2.5]}), folder / "a.rlz")
    result = run("inspect", "a.rlz")
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    for words in (
        "small-mlp, mlp", network(training_range={"size": [0.5, 2.5]}).digest, "schema 1, 5 of", ", ".join(FIELDS),
        "1 of them with a training range", "headroom, 11 choices",
        "rlscaler train some, seed 7, 2026-01-02, version 9.9", "commit 0123456789 with changes",
        "on spike (1 h of each)", "validated ramp (1 h of each)",
        "validation_score 1.25", "100,000 observations; 3 differ, all within the margin", "steps 12",
        "more load gave fewer replicas in",
    ):  # fmt: skip
        assert words in text, words
    lines = {line.split("  ")[0]: line for line in result.output.splitlines()}
    assert SITUATIONS.keys() <= lines.keys()
    assert "OutOfTrainingRange: size" in lines["large"]
    assert "MetricsUnknown" in lines["unknown"]


def test_a_manifest_cannot_steer_the_terminal(folder: Path) -> None:
    nasty = "\a\x9b2J\x1b]0;title\u202e"
    stated = {"command": nasty, "date": nasty, "trained_on": [nasty], "config": {nasty: nasty}}
    save(network(provenance=stated, scores={nasty: 1.0}), folder / "a.rlz")
    result = run("inspect", "a.rlz")
    assert result.exit_code == 0, result.output
    assert [line for line in result.output.split("\n") if not line.isprintable()] == []


def test_json_holds_the_same(folder: Path) -> None:
    save(branching(), folder / "a.rlz")
    told = json.loads(run("inspect", "a.rlz", "--json").stdout)
    assert told["digest"] == branching().digest
    assert [each["situation"] for each in told["behaviour"]["situations"]] == list(SITUATIONS)
    assert told["behaviour"]["comparisons"] == 9 * 15
    assert told["served"] is True


@pytest.mark.parametrize("name", RULES)
def test_rules_are_shown_with_their_constants(folder: Path, name: str) -> None:
    told = json.loads(run("inspect", name, "--json").stdout)
    assert (told["kind"], told["policy"]) == ("rule", name)
    assert told["constants"].keys() == RULES[name].PARAMETERS.keys()
    assert all(each["meaning"] for each in told["constants"].values())
    text = run("inspect", name).output
    assert all(key in text for key in told["constants"])
    assert "the rule" not in text.splitlines(), "nothing stands beside a rule"


def test_a_run_shows_its_artifact(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "config.json").write_text("{}")
    (line,) = mistakes(run("inspect", "mine"))
    assert "the run has no artifact yet" in line
    assert "rlscaler export mine" in line
    save(table(), folder / "mine" / "policy.rlz")
    assert "small-q-table, q-table" in run("inspect", "mine").output


def test_an_unpacked_artifact_is_shown(folder: Path) -> None:
    save(table(), folder / "a.rlz")
    (folder / "a").mkdir()
    for name, data in unpacked((folder / "a.rlz").read_bytes()).items():
        (folder / "a" / name).write_bytes(data)
    assert table().digest in run("inspect", "a").output


def test_what_this_version_cannot_serve_is_shown_and_said(folder: Path) -> None:
    save(network(observation_schema="99"), folder / "new.rlz")
    save(network(kind="transformer"), folder / "kind.rlz")
    save(SMALL, folder / "arrays.rlz")
    for name, words in {
        "new": "observation_schema of policy small-mlp is '99'; expected '1'",
        "kind": "'transformer' is unknown; this version runs",
        "arrays": "parameters.output is None",
    }.items():
        result = run("inspect", f"{name}.rlz")
        assert result.exit_code == 0
        assert "not served" in result.output
        assert words in " ".join(result.output.split())
        assert "situation" not in result.output
        told = json.loads(run("inspect", f"{name}.rlz", "--json").stdout)
        assert (told["served"], told["behaviour"], told["shape"]) == (False, None, None)


def test_it_needs_no_learning_stack(tmp_path: Path) -> None:
    save(network(), tmp_path / "a.rlz")
    code = f"""
import sys
for name in ("torch", "gymnasium", "stable_baselines3", "onnx", "matplotlib"):
    sys.modules[name] = None
from click.testing import CliRunner
from rlscaler_training.model_commands import inspect
told = CliRunner().invoke(inspect, [{str(tmp_path / "a.rlz")!r}])
assert told.exit_code == 0, (told.output, told.exception)
told = CliRunner().invoke(inspect, [{str(tmp_path / "a.rlz")!r}, "--verify"])
assert told.exit_code == 0, (told.output, told.exception)
print([line for line in told.output.splitlines() if line.startswith("open")])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(ROOMS)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert "scores" in done.stdout
    assert "pip install 'rlscaler[train]'" in done.stdout


BAD = {
    "no such name": (["inspect", "defualt"], None, "policy 'defualt' is unknown; expected default"),
    "no such file": (["inspect", "a/b.rlz"], None, "a/b.rlz: cannot be read (No such file"),
    "a name beyond any file system": (["inspect", "x" * 5000], None, "is unknown; expected default"),
    "empty": (["inspect", "f.rlz"], b"", "f.rlz: it is not a readable zip"),
    "text": (["inspect", "f.rlz"], b"hello", "f.rlz: it is not a readable zip"),
    "cut short": (["inspect", "f.rlz"], 200, "f.rlz: it is not a readable zip"),
    "a model of stable-baselines3": (["inspect", "f.rlz"], {"data": b"", "policy.pth": b""}, "an entry 'data'"),
    "a checkpoint of torch": (["inspect", "f.rlz"], {"x/data.pkl": b""}, "an entry 'x/data.pkl'"),
    "too new": (["inspect", "f.rlz"], {MANIFEST: b'{"format": 2}'}, "the manifest has no name"),
    "a folder of anything": (["inspect", "."], None, "neither a run nor an artifact; 'rlscaler verify .'"),
    "a rule to verify": (["inspect", "hpa", "--verify"], None, "is a rule, which has no digest"),
    "traces alone": (["inspect", "hpa", "--traces", "x"], None, "--traces is given without --verify"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "content", "message"), BAD.values(), ids=BAD)
def test_what_is_no_policy_is_one_line(folder: Path, arguments: list[str], content: Any, message: str) -> None:
    if isinstance(content, int):
        save(table(), folder / "f.rlz")
        (folder / "f.rlz").write_bytes((folder / "f.rlz").read_bytes()[:content])
    elif isinstance(content, dict):
        import zipfile

        with zipfile.ZipFile(folder / "f.rlz", "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    elif content is not None:
        (folder / "f.rlz").write_bytes(content)
    (line,) = mistakes(run(*arguments))
    assert message in line
    assert any(word in line for word in ("expected", "rlscaler verify", "leave")), "it says what to do"


@pytest.mark.parametrize("name", ["default", "learned"])
def test_what_the_package_brings_shows_its_digest_and_what_it_is_worth_elsewhere(name: str) -> None:
    result = run("inspect", name)
    assert result.exit_code == 0, result.output
    told = " ".join(result.stdout.split())
    assert load(artifact_path("default")).digest in told
    assert "leave_family_out.default.mean_regret_own 0." in told
    assert "leave_family_out.growth-quantile.mean_regret_own " in told
