"""PPO by stable-baselines3 finds a known optimum, goes on after a stop, and exports what it learned."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
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
from rlscaler_training import export, hyper, learner, loads, ppo, runs, sb3
from rlscaler_training.devices import Device
from rlscaler_training.learner import Outcome, StoppedError, Task
from rlscaler_training.ppo import Config
from rlscaler_training.runs import NotFiniteError

SMALL = Config(
    steps=512,
    envs=8,
    rollout=16,
    batch=64,
    epochs=2,
    episode=30,
    evaluate_every=256,
    checkpoint_every=128,
    hidden=(16,),
)


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


def tasked(folder: Path, pools: loads.Pools, config: Config, **more: Any) -> Task:
    run = runs.begin(folder, "ppo", config, {})
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


def test_it_finds_the_known_optimum() -> None:
    """The network that is copied for export takes the best action in every state."""
    mean, scale = np.zeros(len(NAMES), np.float32), np.ones(len(NAMES), np.float32)
    envs = sb3.Envs(Match(8), None, mean, scale)  # type: ignore[arg-type]
    envs.begin(1)
    with sb3.own_generators():
        model = ppo.model(Config(envs=8, rollout=32, batch=64, rate=3e-3, gamma=0.0), envs, 2, "cpu")
        model.learn(4000)
    network = sb3.copied(ppo.layers(model), envs, "tanh")
    assert network(torch.from_numpy(SHOWN)).argmax(dim=1).tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def whole(pools: loads.Pools, tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Outcome]:
    task = tasked(tmp_path_factory.mktemp("whole"), pools, SMALL)
    return task, ppo.learn(task, SMALL)


def test_a_run_that_was_stopped_goes_on_as_if_it_never_was(
    pools: loads.Pools, tmp_path: Path, whole: tuple[Task, Outcome]
) -> None:
    """The same network to the bit and the same metrics, wherever Ctrl-C came."""
    reached: list[int] = []
    cut = tasked(
        tmp_path, pools, SMALL, report=lambda progress: reached.append(progress.step), stop=lambda: reached[-1] >= 300
    )
    with pytest.raises(StoppedError):
        ppo.learn(cut, SMALL)
    stopped = reached[-1]
    assert 300 <= stopped < SMALL.steps
    found = ppo.learn(replace(cut, run=runs.resume(tmp_path), stop=lambda: False), SMALL)
    assert reached[reached.index(stopped) + 1] == stopped, "it goes on from there"
    assert list(runs.read_metrics(tmp_path)) == list(runs.read_metrics(whole[0].run.folder))
    assert found.artifact == whole[1].artifact
    assert found.steps == whole[1].steps


def test_the_best_on_the_validation_load_is_exported(pools: loads.Pools, whole: tuple[Task, Outcome]) -> None:
    """What is exported scores as what was measured, through the policy that the autoscaler serves."""
    task, outcome = whole
    policy = MlpPolicy(loaded(dumps(outcome.artifact)))
    rows = list(runs.read_metrics(task.run.folder))
    best = min(row["score"] for row in rows)
    assert [row["best"] for row in rows][-1] == best
    assert outcome.artifact.manifest["scores"]["best_score"] == best
    assert outcome.artifact.manifest["scores"]["export"]["observations"] == export.SAMPLE
    _, _, judge = loads.batches(pools, SMALL.actions, 1, SMALL.episode, task.seed)
    score = learner.scored(judge, policy, SMALL.episode, task.seed + 1)
    assert score.total == pytest.approx(best, rel=1e-6)


def test_checkpoints_are_kept_in_their_time(whole: tuple[Task, Outcome]) -> None:
    """The newest few, and the best; metrics at each evaluation, with what the learner tells of itself."""
    task, _ = whole
    steps = sorted(int(path.stem) for path in (task.run.folder / "checkpoints").glob("0*.pt"))
    assert len(steps) == runs.KEPT
    assert all(later - earlier <= 2 * SMALL.checkpoint_every for earlier, later in pairwise(steps))
    rows = list(runs.read_metrics(task.run.folder))
    assert rows[0]["step"] == 0
    assert "train_loss" in rows[-1]


def test_weights_that_are_no_numbers_stop_it(
    pools: loads.Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so, and nothing of them is kept."""
    plain = ppo.model

    def broken(*arguments: Any) -> Any:
        model = plain(*arguments)
        with torch.no_grad():
            for weight in model.policy.parameters():
                weight.fill_(float("nan"))
        return model

    monkeypatch.setattr(ppo, "model", broken)
    task = tasked(tmp_path, pools, SMALL)
    with pytest.raises(NotFiniteError, match="is nan at step"):
        ppo.learn(task, SMALL)
    assert task.run.newest() is None


def test_it_stops_early_where_nothing_becomes_better(pools: loads.Pools, tmp_path: Path) -> None:
    """With a rate of next to nothing the first network stays the best."""
    config = replace(SMALL, steps=100_000, rate=1e-7, patience=2, evaluate_every=64)
    outcome = ppo.learn(tasked(tmp_path, pools, config), config)
    assert outcome.steps < 2000


def test_batches_that_do_not_divide_a_roll_out_are_refused() -> None:
    with pytest.raises(UserError, match=r"batch is 100; expected a divisor of rollout x envs = 2,048"):
        hyper.read(Config, None, {"batch": 100})


def test_both_branches_can_be_learned(pools: loads.Pools, tmp_path: Path) -> None:
    config = replace(SMALL, steps=128, actions="branching")
    artifact = ppo.learn(tasked(tmp_path, pools, config), config).artifact
    assert artifact.manifest["action_scheme"] == "branching"
    assert MlpPolicy(artifact).network.biases[-1].shape == (16,)
