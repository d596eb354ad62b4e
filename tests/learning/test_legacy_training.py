"""Learning in the environment of earlier work: the same environment, its commands, and what becomes of its policies."""

import io
import json
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from rich.console import Console

import rlscaler_sim.env  # registers the ids
from command_line import ROOT, WEB, mistakes, run, working_in
from rlscaler.artifact import Artifact, load, save
from rlscaler.container import ArtifactError
from rlscaler.policies import artifact_path, load_policy
from rlscaler_sim import legacy
from rlscaler_sim.legacy_policy import NAMES, LegacyPolicy, played
from rlscaler_training import demo_legacy, demo_play, demo_screen, q_learning, runs
from rlscaler_training.devices import Device
from rlscaler_training.learner import Task
from rlscaler_training.legacy import ID, PUBLISHED, Legacy, LegacyBatch, verdict

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


def commands() -> list[list[str]]:
    """Return the words of every command of the page, in its order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def walked(place: Path) -> dict[str, str]:
    """What each command of the page has printed, run in their order with small budgets, by its line."""
    told = {}
    for words in commands():
        assert words[0] == "rlscaler"
        budget = [*SHORT[words[2]], "-q"] if words[1] == "train" else []
        done = run(*words[1:], *budget)
        assert done.exit_code == 0, f"{shlex.join(words)}: {done.output}"
        told[shlex.join(words)] = done.stdout
    return told


@pytest.fixture
def trained(walked: dict[str, str]) -> dict[str, str]:
    """What the commands that train have printed, by learner."""
    return {line.split()[2]: text for line, text in walked.items() if line.startswith("rlscaler train ")}


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


def test_every_policy_of_the_page_is_verified(walked: dict[str, str]) -> None:
    lines = walked["rlscaler verify"].splitlines()
    assert lines[-1] == "3 of 3 passed"
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("runs/")}
    assert {path: row[0] for path, row in rows.items()} == {
        "runs/legacy-table/policy.rlz": "q-table",
        "runs/legacy-ppo/policy.rlz": "mlp",
        "runs/legacy-dqn/policy.rlz": "mlp",
    }
    assert rows["runs/legacy-ppo/policy.rlz"][2:] == ["27.954", *["ok"] * 7]
    assert "100,000 observations" in walked["rlscaler inspect runs/legacy-ppo --verify"]


def test_the_demo_of_the_page_ends_with_the_returns(walked: dict[str, str]) -> None:
    """Those of the reports, beside the published rule and the exact optimum, the best first."""
    lines = walked["rlscaler demo --environment legacy"].splitlines()
    at = next(i for i, line in enumerate(lines) if line.split() == ["return", "idle", "lost", "rescales"])
    returns = {line.split()[0]: float(line.split()[-4]) for line in lines[at + 1 :]}
    assert list(returns.values()) == sorted(returns.values(), reverse=True)
    assert (returns["optimum"], returns["nothing"], returns["threshold"]) == (-3.095, -14.025, -27.954)
    for name in ("legacy-table", "legacy-ppo", "legacy-dqn"):
        report = json.loads(Path("runs", name, runs.REPORT).read_text())
        assert returns[name] == pytest.approx(report["return"], abs=6e-4)
    assert ET.parse("legacy.svg").getroot().tag.endswith("svg")
    assert "None of them can scale a workload" in Path("runs/legacy.html").read_text()
    (other,) = (text for line, text in walked.items() if "--pattern RANDOM" in line)
    assert "nothing" not in other


@pytest.mark.usefixtures("walked")
@pytest.mark.parametrize(
    ("change", "check", "told"),
    [
        pytest.param({"environment": "other"}, "schema", "of the environment 'other'; expected rlscaler", id="other"),
        pytest.param({"bias_-1": [0.0, 0.0, 1e9]}, "behaviour", "a constant: always add", id="constant"),
        pytest.param({"bias_-1": [0.0, 0.0]}, "schema", "policy of the legacy environment", id="shape"),
        pytest.param({"return": -2.5}, "scores", "the manifest states -2.5000", id="score"),
    ],
)
def test_what_is_not_as_its_manifest_says_fails(
    tmp_path: Path, change: dict[str, Any], check: str, told: str
) -> None:  # fmt: skip
    """And the command exits with 1."""
    artifact = load("runs/legacy-ppo/policy.rlz")
    arrays, scores = dict(artifact.arrays), artifact.manifest["scores"]
    last = max(name for name in arrays if name.startswith("bias_"))
    if "bias_-1" in change:
        arrays[last] = np.array(change["bias_-1"], np.float32)
    parameters = artifact.manifest["parameters"] | {k: v for k, v in change.items() if k == "environment"}
    scores = scores | {k: v for k, v in change.items() if k == "return"}
    kept = {k: v for k, v in artifact.manifest.items() if k not in ("format", "arrays", "digest")}
    save(Artifact(kept | {"parameters": parameters, "scores": scores}, arrays), tmp_path / "odd.rlz")
    done = run("verify", str(tmp_path))
    assert done.exit_code == 1
    assert re.search(rf"odd.rlz: {check} failed: .*{re.escape(told)}", done.stdout), done.stdout


@pytest.mark.usefixtures("walked")
@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--agents", "hpa"], "--agents hpa: no such rule, artifact or run; expected optimum, nothing, threshold"),
        (["--agents", "optimum,optimum"], "'optimum' is named twice"),
        (["--pattern", "spike"], "--pattern spike: not in the environment of earlier work; expected one of SINE_CURVE"),
        (["--from", "1h"], "--from is given with --environment legacy"),
        (["--scale-to", "10"], "--scale-to is given with --environment legacy"),
        (["--for", "3d"], "expected 10m to 1000m"),
    ],
)
def test_mistakes_of_the_demo_are_named(arguments: list[str], fragment: str) -> None:
    (line,) = mistakes(run("demo", "--environment", "legacy", *arguments))
    assert fragment in line


@pytest.mark.usefixtures("walked")
def test_neither_world_plays_a_policy_of_the_other() -> None:
    (line,) = mistakes(run("demo", "--agents", "runs/legacy-ppo"))
    assert "'rlscaler demo --environment legacy' plays it" in line
    path = str(artifact_path("default"))
    (line,) = mistakes(run("demo", "--environment", "legacy", "--agents", path))
    assert "is no policy of the environment of earlier work" in line


@pytest.mark.parametrize("pattern", legacy.PATTERNS)
def test_a_play_is_an_episode_of_the_environment(pattern: str) -> None:
    """Rewards, and the optimum's own value, whatever the load; nobody is better than it."""
    found = [demo_play.agent(name, "", demo_legacy.STAGE) for name in demo_legacy.RULES]
    play = demo_legacy.play(found, pattern, 60, 3)
    influx = legacy.influx(pattern, 60, np.random.default_rng(3))
    assert play.score[0, -1] == pytest.approx(-legacy.optimum(influx).value)
    assert play.best(59) == 0
    np.testing.assert_allclose(play.score, play.cost + play.late_share, atol=1e-9)
    rule = played(lambda state, _: legacy.threshold(state), 60, influx)
    assert play.score[2, -1] == pytest.approx(-rule.total)
    np.testing.assert_array_equal(play.replicas[2], rule.instances)
    np.testing.assert_array_equal(play.ready[2, 1:], rule.instances[:-1])


def test_its_panels_fit_a_small_terminal() -> None:
    found = [demo_play.agent(name, "", demo_legacy.STAGE) for name in demo_legacy.RULES]
    play = demo_legacy.play(found, "SINE_CURVE", 200, 0)
    shown = Console(width=80, height=24, file=io.StringIO(), record=True)
    shown.print(demo_screen.screen(play, 199, 3000.0, demo_screen.Layout.of(3, 80, 24)))
    text = shown.export_text()
    assert max(map(len, text.split("\n"))) <= 80
    for value in ("idle  3.1 lost   0.0 return -3.09", "return -14.03", "return -27.95", "a step", "queue      0"):
        assert value in text


def test_who_crashes_is_said_to_and_loses_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_legacy, "acting", lambda *_: lambda *_: np.zeros(1, np.int64))
    (agent,) = (demo_play.agent(name, "", demo_legacy.STAGE) for name in ("nothing",))
    play = demo_legacy.play([agent], "SINE_CURVE", 200, 0)
    (note,) = re.findall(r"^nothing \(crashes in step (\d+)\)$", play.title(0))
    assert (play.score[0, int(note) - 1 :] == play.score[0, -1]).all()
    assert play.score[0, int(note) - 2] < play.score[0, -1]


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


def test_a_table_decides_as_it_was_judged(tmp_path: Path) -> None:
    """States that were never met hold: a table without a visit is no 'always remove'."""
    short: dict[str, Any] = {**q_learning.LEGACY, "steps": 300, "envs": 4, "evaluate_every": 100}
    config = q_learning.Config(**short)
    run = runs.begin(tmp_path / "run", "q-learning", config, {})
    made = q_learning.learn(Task("q", Legacy(0), run, Device("cpu", ""), 0, {}), config).artifact
    score = made.manifest["scores"]["best_score"]
    assert score == pytest.approx(14.025), "nothing that was learned in a thousand steps is better than to hold"
    episode = played(lambda _, fields: LegacyPolicy(made)(fields))
    assert -episode.total == pytest.approx(score)


def test_one_number_is_nearly_all(place: Path) -> None:
    """As the page says: adding below 0 spare instances and removing from 1 on."""
    spare = NAMES.index("spare")
    rule = played(lambda _, seen: np.array([2 if seen[0, spare] < 0 else 0 if seen[0, spare] >= 1 else 1]))
    assert f"{rule.total:.2f}" == "-3.13"
    assert "has -3.13" in PAGE
