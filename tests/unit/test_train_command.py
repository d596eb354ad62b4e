"""`rlscaler train`: mistakes are named before anything runs, and what comes out is served by its path."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from command_line import ROOT, mistakes, run, stand_in
from rlscaler.artifact import load
from rlscaler.errors import UserError
from rlscaler.policies import load_policy
from rlscaler_training import commands, hyper, loads, q_learning, runs
from rlscaler_training.commands import LEARNERS, train
from rlscaler_training.learner import Outcome, StoppedError, Task
from rlscaler_training.q_learning import Config

TINY = ["--scenario", "spike", "--hours", "1", "--steps", "12", "--envs", "4", "--episode", "30", "--lookahead", "2"]
ROOMS = [str(ROOT / room) for room in ("core", "sim", "training", "operator")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in(tmp_path, monkeypatch)
    return tmp_path


def command_of(learner: str) -> click.Command:
    found = commands.Learners().get_command(click.Context(train), learner)
    assert found is not None
    return found


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_learner_tells_its_settings_with_their_defaults(learner: str) -> None:
    """Each has a flag, with the default of its dataclass in its help; structures are the file's."""
    config = import_module(f"rlscaler_training.{LEARNERS[learner][0]}").Config
    names = [option.name for option in command_of(learner).params]
    assert len(names) == len(set(names)), "no setting has the name of a shared option"
    told = {option.name: option.help for option in command_of(learner).params if isinstance(option, click.Option)}
    assert {"scenarios", "traces", "seed", "folder", "resume", "out", "device_"} <= told.keys()
    for field in fields(config):
        if (kind := field.metadata["rlscaler"]).check is not None:
            continue
        default = getattr(config(), field.name)
        shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        assert f"[default: {shown}]" in str(told[field.name])
        assert len(kind.about) > 10
        assert hyper.read(config, None, {field.name: default}) == config(), "the default is in its own range"


def test_help_needs_no_learning_stack() -> None:
    """The list of learners, and the completion of their names, import none."""
    code = """
import sys
from click.testing import CliRunner
from rlscaler_training.commands import train
told = CliRunner().invoke(train, ["--help"])
assert told.exit_code == 0, told.output
assert "q-learning" in told.output and "ppo" in told.output
print([name for name in ("torch", "gymnasium", "stable_baselines3", "numpy") if name in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(ROOMS)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout) == ("", "[]\n")


@pytest.mark.parametrize("module", ["torch", "stable_baselines3"])
def test_a_missing_extra_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """What is missing and what installs it."""
    monkeypatch.setitem(LEARNERS, "other", ("other", "Needs something."))

    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(commands, "import_module", absent)
    (line,) = mistakes(run("train", "other"))
    assert line == f"Error: 'train' needs {module}: pip install 'rlscaler[train]'".replace("Error", "error")


def written(folder: Path, content: Any) -> str:
    path = folder / "settings.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    path = written(tmp_path, {"gamma": 0.5, "steps": 7, "bins": {"size": [1, 2]}, "margins": [0, 0.5]})
    found = hyper.read(Config, path, {"steps": 9, "gamma": None, "double": False})
    assert (found.gamma, found.steps, found.double, found.envs) == (0.5, 9, False, Config().envs)
    assert found.bins == {"size": (1.0, 2.0)}
    assert found.margins == (0.0, 0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ([1], "holds a list; expected an object"),
        ({"step": 1}, "no setting is called 'step'"),
        ({"steps": 0}, "steps is 0; expected a whole number from 1 to 10,000,000"),
        ({"steps": 1.5}, "steps is 1.5; expected a whole number"),
        ({"steps": True}, "steps is True; expected a whole number"),
        ({"gamma": 1}, "gamma is 1; expected a number from 0 to 0.9999"),
        ({"gamma": "0.5"}, "gamma is '0.5'; expected a number"),
        ({"repeat": 2.5}, "repeat is 2.5; expected a whole number from 1 to 1,000"),
        ({"margins": []}, "margins is []; expected numbers"),
        ({"margins": 0.1}, "margins is 0.1; expected numbers"),
        ({"margins": [-0.1]}, "margins is -0.1; expected a number from 0"),
        ({"double": "no"}, "double is 'no'; expected true or false"),
        ({"actions": "branching"}, "actions is 'branching'; expected one of headroom, step"),
        ({"bins": {}}, "bins is {}; expected fields of the observation"),
        ({"bins": {"colour": [1]}}, 'bins is {"colour": [1]}; expected fields of the observation'),
        ({"bins": {"size": [2, 1]}}, "expected fields of the observation with ascending cuts"),
        ({"bins": {"size": 2}}, 'bins is {"size": 2}; expected fields of the observation'),
        ({"bins": {"size": list(range(100_000))}}, "at most 100,000 states"),
    ],
)
def test_a_setting_that_nothing_can_be_learned_with_is_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        hyper.read(Config, written(tmp_path, content), {})


@pytest.mark.parametrize(
    ("names", "folder_", "message"),
    [
        (("spike",), "recorded", "--scenario and --traces are both given"),
        (("load.csv",), None, "--scenario load.csv: is recorded load"),
        (("spikes",), None, "no scenario is called 'spikes'"),
        (("ramp(duration=0)",), None, "ramp: duration is 0"),
    ],
)
def test_load_that_cannot_be_trained_on_is_named(names: tuple[str, ...], folder_: str | None, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        loads.pools(names, folder_, 1.0, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """One tiny run, its artifact at tiny.rlz too."""
    place = tmp_path_factory.mktemp("trained")
    (place / "out").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        result = CliRunner().invoke(
            train, ["q-learning", "--out", "out/tiny.rlz", "--name", "tiny", "--json", "-q", *TINY]
        )
    assert result.exit_code == 0, result.output
    return place, result


def test_what_is_trained_is_served_and_says_where_it_comes_from(trained: tuple[Path, Result]) -> None:
    place, result = trained
    told = json.loads(result.stdout)
    artifact = load(place / "out" / "tiny.rlz")
    assert told["digest"] == artifact.digest
    assert told["steps"] == 12 * 4
    assert told["device"].startswith("device: ")
    scores = artifact.manifest["scores"]
    assert (scores["validation_score"], scores["untrained_score"]) == (told["score"], told["untrained_score"])
    provenance = artifact.manifest["provenance"]
    assert (provenance["asked"]["hours"], provenance["config"]["steps"], provenance["seed"]) == (1.0, 12, 0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", provenance["date"])
    assert load_policy(str(place / "out" / "tiny.rlz")).name == "tiny"


def test_the_score_told_is_of_draws_that_nothing_was_chosen_by(trained: tuple[Path, Result]) -> None:
    """The best of many tables was lucky on the draws that it was chosen by, so these do not count."""
    place, result = trained
    told = json.loads(result.stdout)
    chosen_by = [row["score"] for row in runs.read_metrics(place / "runs" / "tiny-1")]
    assert len(chosen_by) == 2
    assert told["score"] not in chosen_by
    assert told["untrained_score"] not in chosen_by


def test_the_run_is_complete(trained: tuple[Path, Result]) -> None:
    """Its folder has what was asked for, what came of it, and the artifact."""
    place, result = trained
    run_ = runs.opened(place / "runs" / "tiny-1")
    assert run_.algorithm == "q-learning"
    assert run_.settings["steps"] == 12
    told = {"scenarios": ["spike"], "traces": None, "hours": 1.0, "seed": 0, "name": "tiny", "decisions": [],
            "environment": "standard", "validate": [], "worlds": None, "preferences": None,
            "workers": None}  # fmt: skip
    assert run_.arguments == told
    assert load(run_.policy) == load(place / "out" / "tiny.rlz")
    report = json.loads((run_.folder / runs.REPORT).read_text())
    assert {"run", "out", *report} == json.loads(result.stdout).keys()
    with pytest.raises(UserError, match="the run is complete"):
        runs.resume(run_.folder)


def test_runs_without_a_name_get_the_first_free_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is there is written over."""

    def stopped(task: Task, config: Any) -> Outcome:
        raise StoppedError

    monkeypatch.setattr(q_learning, "learn", stopped)
    for _ in range(2):
        assert run("train", "q-learning", *TINY, "-q").exit_code == 130
    assert run("train", "q-learning", *TINY, "-q", "--run", "mine").exit_code == 130
    assert [each.folder.name for each in runs.found("runs")] == ["q-learning-1", "q-learning-2"]
    assert runs.opened("mine").arguments["name"] == "q-learning"


def test_ctrl_c_keeps_a_checkpoint_and_one_command_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends with 130 and says how to go on; what comes of that is what would have come of it."""
    plain = Task.__init__

    def interrupted(self: Task, *arguments: Any, **named: Any) -> None:
        def report(progress: Any) -> None:
            if progress.step == 7:
                signal.raise_signal(signal.SIGINT)

        plain(self, *arguments, **named | {"report": report})

    assert run("train", "q-learning", *TINY, "-q", "--out", "whole.rlz").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Task, "__init__", interrupted)
        result = run("train", "q-learning", *TINY, "-q", "--out", "cut.rlz", "--run", "cut")
    assert result.exit_code == 130
    line = "stopped; go on with it by: rlscaler train q-learning --resume cut --out cut.rlz\n"
    assert result.stderr == line
    assert not Path("cut.rlz").exists()
    resumed = run(*line.split("rlscaler ", 1)[1].split(), "-q")
    assert (resumed.exit_code, resumed.stderr) == (0, "")
    assert load("cut.rlz") == load("whole.rlz")


def test_numbers_that_are_none_end_in_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which, at which step, and what is left."""

    def broken(task: Task, config: Any) -> Outcome:
        task.run.checkpoint(3, {"value": 1})
        task.run.log(4, {"loss": float("nan")})
        raise AssertionError("it goes on")

    monkeypatch.setattr(q_learning, "learn", broken)
    result = run("train", "q-learning", *TINY, "-q", "--run", "mine")
    assert result.exit_code == 2
    assert re.search(r"^error: loss is nan at step 4.*mine/checkpoints/0+3\.pt", result.stderr, re.MULTILINE)


def test_a_log_that_is_not_there_is_named(folder: Path) -> None:
    for arguments, fragment in (([], "--decisions FILE.jsonl is missing"), (["--decisions", "no.jsonl"], "no.jsonl")):
        (line,) = mistakes(run("train", "offline", "-q", *arguments))
        assert fragment in line
    assert not Path("runs").exists()


def test_a_resumption_takes_no_other_settings(folder: Path, trained: tuple[Path, Result]) -> None:
    """A run goes on as it was begun, by its own learner."""
    complete = str(trained[0] / "runs" / "tiny-1")
    runs.begin("begun", "ppo", Config(), {"scenarios": ["spike"]})
    for arguments, fragment in (
        (["--resume", complete, "--steps", "5"], "--steps is given with --resume"),
        (["--resume", complete, "--scenario", "spike"], "--scenario is given with --resume"),
        (["--resume", complete], "the run is complete"),
        (["--resume", "none"], "none: no run is here"),
        (["--resume", "begun"], "is a run of ppo; go on with it by 'rlscaler train ppo --resume begun'"),
    ):
        (line,) = mistakes(run("train", "q-learning", "-q", *arguments))
        assert fragment in line
