"""`rlscaler train`: mistakes are named before anything runs, and what comes out is served by its path."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from rlscaler.artifact import load
from rlscaler.errors import UserError
from rlscaler.policies import load_policy
from rlscaler_training import learner_settings, loads
from rlscaler_training.commands import q_learning, train
from rlscaler_training.q_learning import Config

TINY = ["--scenario", "spike", "--hours", "1", "--steps", "12", "--envs", "4", "--episode", "30", "--lookahead", "2"]


def written(folder: Path, content: Any) -> str:
    path = folder / "settings.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def test_the_help_tells_the_defaults_of_the_settings() -> None:
    told = {}
    for option in q_learning.params:
        if isinstance(option, click.Option) and (found := re.search(r"\[default: (\S+)\]$", option.help or "")):
            told[option.name] = float(found[1])
    assert told == {f.name: float(getattr(Config(), f.name)) for f in fields(Config) if f.name in told}
    assert len(told) >= 10


def test_every_setting_has_its_range() -> None:
    checked = [*learner_settings.WHOLE, *learner_settings.NUMBERS, *learner_settings.OTHERS]
    assert sorted(checked) == sorted(f.name for f in fields(Config))


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    path = written(tmp_path, {"gamma": 0.5, "steps": 7, "bins": {"size": [1, 2]}, "margins": [0, 0.5]})
    found = learner_settings.settings(path, {"steps": 9, "gamma": None, "double": False})
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
        ({"margins": []}, "margins is []; expected a list of numbers"),
        ({"margins": 0.1}, "margins is 0.1; expected a list of numbers"),
        ({"margins": [-0.1]}, "margins is [-0.1]; expected a list of numbers"),
        ({"double": "no"}, 'double is "no"; expected true or false'),
        ({"actions": "branching"}, 'actions is "branching"; expected headroom or step'),
        ({"bins": {}}, "bins is {}; expected fields of the observation"),
        ({"bins": {"colour": [1]}}, 'bins is {"colour": [1.0]}; expected fields of the observation'),
        ({"bins": {"size": [2, 1]}}, "expected fields of the observation with ascending cuts"),
        ({"bins": {"size": 2}}, 'bins is {"size": 2}; expected fields of the observation'),
        ({"bins": {"size": list(range(100_000))}}, "at most 100,000 states"),
    ],
)
def test_a_setting_that_nothing_can_be_learned_with_is_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        learner_settings.settings(written(tmp_path, content), {})


@pytest.mark.parametrize(
    ("names", "folder", "message"),
    [
        (("spike",), "recorded", "--scenario and --traces are both given"),
        (("spike/crashes",), None, "--scenario spike/crashes: is a variant of the world"),
        (("load.csv",), None, "--scenario load.csv: is recorded load"),
        (("spikes",), None, "no scenario is called 'spikes'"),
        (("ramp(duration=0)",), None, "ramp: duration is 0"),
    ],
)
def test_load_that_cannot_be_trained_on_is_named(names: tuple[str, ...], folder: str | None, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        loads.pools(names, folder, 1.0, 0)


def test_what_is_trained_is_served_and_says_where_it_comes_from(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "tiny.rlz"
    result = CliRunner().invoke(train, ["q-learning", "--out", str(out), "--name", "tiny", "--json", *TINY])
    assert result.exit_code == 0, result.output
    told = json.loads(result.output)
    artifact = load(out)
    assert told["digest"] == artifact.digest
    assert told["steps"] == 12 * 4
    assert artifact.manifest["scores"]["validation_score"] == told["score"]
    provenance = artifact.manifest["provenance"]
    assert (provenance["hours"], provenance["config"]["steps"], provenance["seed"]) == (1.0, 12, 0)
    assert load_policy(str(out)).name == "tiny"
    assert np.asarray(artifact.arrays["values"]).shape == (told["states"], 11)


def test_the_score_told_is_of_draws_that_nothing_was_chosen_by(tmp_path: Path) -> None:
    """The best of many tables was lucky on the draws that it was chosen by, so these do not count."""
    result = CliRunner().invoke(train, ["q-learning", "--out", str(tmp_path / "a.rlz"), "--json", *TINY])
    told = json.loads(result.output)
    chosen_by = [row[1] for row in told["curve"]]
    assert told["score"] not in chosen_by
    assert told["untrained_score"] not in chosen_by


def test_a_name_that_no_artifact_can_have_is_refused_before_anything_runs(tmp_path: Path) -> None:
    result = CliRunner().invoke(train, ["q-learning", "--out", str(tmp_path / "a.rlz"), "--name", "my policy", *TINY])
    assert isinstance(result.exception, UserError)
    assert "--name 'my policy'" in str(result.exception)
