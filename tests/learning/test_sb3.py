"""DQN and PPO by stable-baselines3 find a known optimum, go on after a stop, and export what they learned."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from rlscaler.action import STEP
from rlscaler.artifact import dumps
from rlscaler.artifact import loads as loaded
from rlscaler.errors import UserError
from rlscaler.mlp import MlpPolicy
from rlscaler.observation import NAMES
from rlscaler_sim.batch import Transition
from rlscaler_training import checkpoints, dqn, export, hyper, loads, ppo, runs, sb3
from rlscaler_training.devices import Device
from rlscaler_training.learner import Outcome, Progress, StoppedError, Task, scored
from rlscaler_training.runs import NotFiniteError
from rlscaler_training.sb3_envs import Envs

Learner = ModuleType
"""A module with `Config`, `model`, `layers` and `learn`."""
SMALL: dict[Learner, Any] = {
    dqn: dqn.Config(
        steps=512, envs=8, buffer=400, batch=32, learning_starts=64, target_every=64, episode=30, evaluate_every=256,
        checkpoint_every=128, hidden=(16,), lookahead=3,
    ),
    ppo: ppo.Config(
        steps=512, envs=8, rollout=16, batch=64, epochs=2, episode=30, evaluate_every=256, checkpoint_every=128,
        hidden=(16,),
    ),
}  # fmt: skip
MATCHING: dict[Learner, Any] = {
    dqn: dqn.Config(envs=8, learning_starts=200, gamma=0.0, lookahead=1, rate=3e-3, target_every=200),
    ppo: ppo.Config(envs=8, rollout=32, batch=64, rate=3e-3, gamma=0.0),
}
"""Settings with which the known optimum is found in seconds."""
each_learner = pytest.mark.parametrize("learner", SMALL, ids=lambda module: module.__name__.rpartition(".")[2])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks are slower on several threads, far slower where others compute too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pools() -> loads.Pools:
    return loads.pools(("spike", "sinusoidal"), None, 1.0, 0)


def tasked(folder: Path, pools: loads.Pools, config: Any, **more: Any) -> Task:
    run = runs.begin(folder, "sb3", config, {})
    return Task("mine", pools, run, Device("cpu", "device: cpu"), 3, {"seed": 3}, **more)


SHOWN = np.eye(3, len(NAMES), dtype=np.float32)
"""What is seen before each of three actions."""


class Match:
    """Environments whose optimum is known: each step shows one of three fields, and its action earns 1."""

    def __init__(self, n: int) -> None:
        self.n, self.scheme = n, STEP
        self.reset(0)

    def reset(self, seed: int) -> np.ndarray:
        self.rng, self.age = np.random.default_rng(seed), 0
        return self.look()

    def look(self) -> np.ndarray:
        self.shown = self.rng.integers(0, 3, self.n)
        return SHOWN[self.shown]

    def step(self, actions: np.ndarray) -> Transition:
        reward = (actions == self.shown).astype(float)
        self.age += 1
        seen, zero = self.look(), np.zeros(self.n)
        return Transition(seen, seen, reward, np.full(self.n, self.age % 20 == 0), zero, zero, zero)


@each_learner
def test_it_finds_the_known_optimum(learner: Learner) -> None:
    """The network that is copied for export takes the best action in every state."""
    mean, scale = np.zeros(len(NAMES), np.float32), np.ones(len(NAMES), np.float32)
    envs = Envs(Match(8), None, mean, scale)  # type: ignore[arg-type]
    envs.begin(1)
    with sb3.own_generators():
        model = learner.model(MATCHING[learner], envs, 2, "cpu")
        model.learn(4000)
    network = sb3.copied(learner.layers(model), envs, MATCHING[learner].activation)
    assert network(torch.from_numpy(SHOWN)).argmax(dim=1).tolist() == [0, 1, 2]


Whole = tuple[Learner, Task, Outcome]


@pytest.fixture(scope="module", params=SMALL, ids=lambda module: module.__name__.rpartition(".")[2])
def whole(request: pytest.FixtureRequest, pools: loads.Pools, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """An unbroken run of each learner."""
    learner: Learner = request.param
    task = tasked(tmp_path_factory.mktemp("whole"), pools, SMALL[learner])
    return learner, task, learner.learn(task, SMALL[learner])


def test_a_run_that_was_stopped_goes_on_as_if_it_never_was(pools: loads.Pools, tmp_path: Path, whole: Whole) -> None:
    """The same network to the bit and the same metrics, wherever Ctrl-C came."""
    learner, task, outcome = whole
    config = SMALL[learner]
    reached: list[int] = []
    cut = tasked(
        tmp_path, pools, config, report=lambda progress: reached.append(progress.step), stop=lambda: reached[-1] >= 300
    )
    with pytest.raises(StoppedError):
        learner.learn(cut, config)
    stopped = reached[-1]
    assert 300 <= stopped < config.steps
    found = learner.learn(replace(cut, run=runs.resume(tmp_path), stop=lambda: False), config)
    assert reached[reached.index(stopped) + 1] == stopped, "it goes on from there"
    assert list(runs.read_metrics(tmp_path)) == list(runs.read_metrics(task.run.folder))
    assert found.artifact == outcome.artifact
    assert found.steps == outcome.steps


def test_the_best_on_the_validation_load_is_exported(pools: loads.Pools, whole: Whole) -> None:
    """What is exported scores as what was measured, through the policy that the autoscaler serves."""
    learner, task, outcome = whole
    config = SMALL[learner]
    policy = MlpPolicy(loaded(dumps(outcome.artifact)))
    rows = list(runs.read_metrics(task.run.folder))
    best = min(row["score"] for row in rows)
    assert [row["best"] for row in rows][-1] == best
    assert outcome.artifact.manifest["scores"]["best_score"] == best
    assert outcome.artifact.manifest["scores"]["export"]["observations"] == export.SAMPLE
    _, _, judge = loads.batches(pools, config.actions, 1, config.episode, task.seed)
    score = scored(judge, policy, config.episode, task.seed + 1)
    assert score.total == pytest.approx(best, rel=1e-6)


def test_checkpoints_are_kept_in_their_time(whole: Whole) -> None:
    """The newest few, and the best; metrics at each evaluation, with what the learner tells of itself."""
    learner, task, _ = whole
    steps = sorted(int(path.stem) for path in (task.run.folder / "checkpoints").glob("0*.pt"))
    assert len(steps) == runs.KEPT
    assert all(later - earlier <= 2 * SMALL[learner].checkpoint_every for earlier, later in pairwise(steps))
    rows = list(runs.read_metrics(task.run.folder))
    assert rows[0]["step"] == 0
    assert "train_loss" in rows[-1]


@each_learner
def test_the_best_checkpoint_is_of_the_best_evaluation(
    pools: loads.Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learner: Learner
) -> None:
    """Wherever it falls between the checkpoints that are due."""
    scores = iter([5.0, 4.0, 3.0, 2.0])
    monkeypatch.setattr(sb3, "evaluate", lambda *_: (next(scores, 9.0), 0.0))
    config = replace(SMALL[learner], evaluate_every=128, checkpoint_every=100_000)
    learner.learn(tasked(tmp_path, pools, config), config)
    assert [row["score"] for row in runs.read_metrics(tmp_path)] == [5.0, 4.0, 3.0, 2.0, 9.0]
    assert checkpoints.read(tmp_path / "checkpoints" / "best.pt")[0] == 384


@each_learner
def test_weights_that_are_no_numbers_stop_it(
    pools: loads.Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learner: Learner
) -> None:
    """It says so, and nothing of them is kept."""
    plain = learner.model

    def broken(*arguments: Any) -> Any:
        model = plain(*arguments)
        with torch.no_grad():
            for weight in model.policy.parameters():
                weight.fill_(float("nan"))
        return model

    monkeypatch.setattr(learner, "model", broken)
    task = tasked(tmp_path, pools, SMALL[learner])
    with pytest.raises(NotFiniteError, match="is nan at step"):
        learner.learn(task, SMALL[learner])
    assert task.run.newest() is None


@each_learner
def test_it_stops_early_where_nothing_becomes_better(pools: loads.Pools, tmp_path: Path, learner: Learner) -> None:
    """With a rate of next to nothing the first network stays the best."""
    config = replace(SMALL[learner], steps=100_000, rate=1e-7, patience=2, evaluate_every=64)
    outcome = learner.learn(tasked(tmp_path, pools, config), config)
    assert outcome.steps < 2000


def test_progress_tells_return_cost_and_late_requests(pools: loads.Pools, tmp_path: Path) -> None:
    """The return is what an episode of the validation earns: the rewards of its decisions summed."""
    told: list[Progress] = []
    config = replace(SMALL[dqn], steps=40)
    dqn.learn(tasked(tmp_path, pools, config, report=told.append), config)
    last = told[-1]
    assert (last.step, last.steps) == (40, 40)
    assert list(last.numbers) == ["return", "score", "best", "cost", "late"]
    assert last.numbers["return"] == pytest.approx(-config.episode * (last.numbers["cost"] + last.numbers["late"]))


def test_the_twin_takes_the_load_out_of_the_reward(pools: loads.Pools) -> None:
    """Whoever takes the middle action earns exactly nothing more than it."""
    batch, twin, _ = loads.batches(pools, "headroom", 4, 30, 1)
    envs = Envs(batch, twin, np.zeros(len(NAMES), np.float32), np.ones(len(NAMES), np.float32))
    envs.begin(5)
    envs.reset()
    for step in range(40):
        _, reward, done, infos = envs.step(envs.middle)
        assert (reward == 0.0).all()
        assert done.all() == (step == 29)
        assert [info.get("TimeLimit.truncated", False) for info in infos] == done.tolist()
    off = envs.step(np.zeros(4, np.int64))[1]
    assert sum((envs.step(np.zeros(4, np.int64))[1] != 0.0).any() for _ in range(20)) > 0, off


@each_learner
def test_a_checkpoint_of_another_network_is_refused(pools: loads.Pools, tmp_path: Path, learner: Learner) -> None:
    """It says what to do; nothing is trained."""
    task = tasked(tmp_path, pools, SMALL[learner], stop=lambda: True)
    with pytest.raises(StoppedError):
        learner.learn(task, SMALL[learner])
    assert task.run.newest() is not None
    with pytest.raises(UserError, match="the checkpoint is of another network"):
        learner.learn(task, replace(SMALL[learner], hidden=(8,)))


def test_batches_that_do_not_divide_a_roll_out_are_refused() -> None:
    with pytest.raises(UserError, match=r"batch is 100; expected a divisor of rollout x envs = 2,048"):
        hyper.read(ppo.Config, None, {"batch": 100})


@pytest.mark.parametrize(("steps", "envs", "train_every"), [(300, 10, 1), (299, 10, 1), (280, 10, 10), (1, 100, 3)])
def test_steps_that_are_all_played_at_random_are_refused(steps: int, envs: int, train_every: int) -> None:
    """Whole rounds of all environments are played, and one step more than `learning_starts` is learned from."""
    config = dqn.Config(steps=steps, envs=envs, train_every=train_every, learning_starts=300)
    with pytest.raises(UserError, match="learning_starts is 300; expected fewer than the 300 steps that are played"):
        dqn.require(config, NAMES)
    dqn.require(replace(config, learning_starts=299), NAMES)


def test_both_branches_can_be_learned(pools: loads.Pools, tmp_path: Path) -> None:
    config = replace(SMALL[ppo], steps=128, actions="branching")
    artifact = ppo.learn(tasked(tmp_path, pools, config), config).artifact
    assert artifact.manifest["action_scheme"] == "branching"
    assert MlpPolicy(artifact).network.biases[-1].shape == (16,)
