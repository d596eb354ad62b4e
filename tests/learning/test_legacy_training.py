"""Learning in the environment of earlier work: the same environment, its commands, and what becomes of its policies."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import rlscaler_sim.env  # registers the ids
from command_line import ROOT, WEB, mistakes, run, working_in
from rlscaler.artifact import Artifact, load
from rlscaler.container import ArtifactError
from rlscaler.policies import load_policy
from rlscaler_sim import legacy
from rlscaler_sim.legacy_policy import NAMES, LegacyPolicy, played
from rlscaler_training import runs
from rlscaler_training.legacy import ID, PUBLISHED, LegacyBatch, verdict

PAGE = (ROOT / "docs" / "legacy.md").read_text()
SHORT = {
    "q-learning": ["--steps", "2000", "--envs", "2", "--evaluate-every", "100"],
    "dqn": ["--steps", "600", "--learning-starts", "50", "--hidden", "8", "--evaluate-every", "200", "--batch", "16"],
    "ppo": ["--steps", "800", "--envs", "2", "--epochs", "2", "--hidden", "8", "--evaluate-every", "400"],
}
"""Settings with which a command of the page is done in seconds."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks are slower on several threads, far slower where others compute too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the page's commands are run, in their order."""
    with working_in(tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="module")
def trained(place: Path) -> dict[str, str]:
    """What each command of the page that trains has printed, by its learner."""
    told = {}
    for words in commands("train"):
        done = run(*words[1:], *SHORT[words[2]], "-q")
        assert done.exit_code == 0, done.output
        told[words[2]] = done.stdout
    return told


def commands(name: str) -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(rf"^rlscaler {name} .*$|^rlscaler {name}$", PAGE, re.MULTILINE)]


def test_every_environment_of_a_batch_is_gymnasiums() -> None:
    """Observations, rewards and the end, whatever is done; the agent's own last action and the trend come on top."""
    rng = np.random.default_rng(3)
    n = 3
    batch = LegacyBatch(n, 200)
    singles = [gymnasium.make(rlscaler_sim.env.LEGACY_ID) for _ in range(n)]
    seen = [single.reset(seed=1)[0] for single in singles]
    mine, over, before = batch.reset(0), np.zeros(n, bool), np.full(n, 2175.0)
    for _ in range(199):
        shown = np.stack(seen)
        expected = np.stack([shown[:, 0], shown[:, 1], shown[:, 3] / 87, np.log1p(shown[:, 4])], axis=1)
        np.testing.assert_allclose(mine[~over][:, :4], expected[~over], rtol=1e-5)
        np.testing.assert_allclose(mine[~over][:, NAMES.index("rising")], (shown[:, 3] - before)[~over] / 87, rtol=1e-4)
        actions = np.array([0, rng.integers(3), 2])  # the first crashes, the last grows for ever
        before = shown[:, 3].astype(float)
        done = batch.step(actions)
        for row, single in enumerate(singles):
            if over[row]:
                assert done.reward[row] == 0.0
                continue
            seen[row], reward, over[row], _, _ = single.step(actions[row])
            assert done.reward[row] == pytest.approx(reward, abs=1e-12)
            assert done.last[row, NAMES.index("pending")] == (0.0 if over[row] else actions[row] - 1.0)
        mine = done.observation
    assert over.tolist() == [True, False, False]


@pytest.mark.parametrize("learner", SHORT)
def test_a_command_of_the_page_trains_and_tells_where_it_stands(trained: dict[str, str], learner: str) -> None:
    """The optimum, the rule and the published figures stand beside the result; the run's folder has the rest."""
    told = trained[learner]
    for value in ("-3.09", "-27.95", *(f"{value:.2f}" for value in PUBLISHED.values())):
        assert re.search(rf"  {value}$", told, re.MULTILINE), told
    folder = Path("runs") / {"q-learning": "legacy-table"}.get(learner, f"legacy-{learner}")
    (mine,) = re.findall(r"^  this run.* (-\d+\.\d\d)$", told, re.MULTILINE)
    report = json.loads((folder / runs.REPORT).read_text())
    assert f"{report['return']:.2f}" == mine
    assert report["score"] == -report["return"]
    assert list(runs.read_metrics(folder))[-1]["best"] == pytest.approx(report["score"])
    assert (folder / "dashboard.png").read_bytes().startswith(b"\x89PNG")
    assert runs.opened(folder).arguments["environment"] == "legacy"


def test_the_table_learns_better_than_was_published(trained: dict[str, str]) -> None:
    """With a thousandth of the steps, since it sees what the environment hides."""
    assert verdict(load("runs/legacy-table/policy.rlz")).episode.total > PUBLISHED["tabular Q-learning"]


def test_the_other_commands_of_the_page_run(trained: dict[str, str]) -> None:
    for name in ("runs", "inspect", "report"):
        (words,) = commands(name)
        done = run(*words[1:])
        assert done.exit_code == 0, done.output


def test_a_policy_of_it_is_served_nowhere(trained: dict[str, str]) -> None:
    """The artifact says where it belongs, and whoever cannot serve it says so."""
    path = "runs/legacy-ppo/policy.rlz"
    artifact = load(path)
    assert artifact.manifest["parameters"]["environment"] == ID
    with pytest.raises(ArtifactError, match=rf"belongs to the environment '{ID}'.*train one without --environment"):
        load_policy(path)
    (line,) = mistakes(run("dry-run", "-f", WEB, "--policy", path, "--for", "1h", "-q"))
    assert f"belongs to the environment '{ID}'" in line


def test_a_policy_of_workloads_is_none_of_it() -> None:
    manifest = {"name": "other", "kind": "mlp", "observation_schema": "1", "action_scheme": "step"}
    with pytest.raises(ArtifactError, match="observation_schema of policy other is '1'; expected 'legacy-1'"):
        LegacyPolicy(Artifact(manifest, {}))


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["q-learning", "--scenario", "spike"], "--scenario is given with --environment legacy"),
        (["dqn", "--hours", "3"], "--hours is given with --environment legacy"),
        (["q-learning", "--config", "bins.json"], "bins names noise_5m; expected fields of what is seen: instances"),
    ],
)
def test_what_does_not_go_with_it_is_named(place: Path, arguments: list[str], fragment: str) -> None:
    Path("bins.json").write_text(json.dumps({"bins": {"noise_5m": [0.1]}}))
    (line,) = mistakes(run("train", *arguments, "--environment", "legacy", "-q", "--run", "never"))
    assert fragment in line


def test_a_constant_is_called_one() -> None:
    """What was published as DQN is."""
    always = played(lambda *_: np.array([2]))
    assert always.constant == 2
    assert always.total == pytest.approx(PUBLISHED["DQN"], abs=0.01)
    assert played(lambda state, _: legacy.threshold(state)).constant is None


def test_one_number_is_nearly_all(place: Path) -> None:
    """As the page says: adding below 0 spare instances and removing from 1 on."""
    spare = NAMES.index("spare")
    rule = played(lambda _, seen: np.array([2 if seen[0, spare] < 0 else 0 if seen[0, spare] >= 1 else 1]))
    assert f"{rule.total:.2f}" == "-3.13"
    assert "has -3.13" in PAGE
