"""ppo-fast finds the optimum where it is known, resumes as if never stopped, and exports what it trained."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from job_queue import GAMMA, JOBS, ROOM, Queue, allowed, optimum, worth
from rlscaler.action import scheme
from rlscaler.mlp import MlpPolicy, chosen
from rlscaler.observation import NAMES
from rlscaler_training import learner, loads, ppo_fast, ppo_rollout, runs
from rlscaler_training.devices import device
from rlscaler_training.learner import Outcome, Progress, StoppedError, Task
from rlscaler_training.ppo_fast import Config
from rlscaler_training.runs import NotFiniteError

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks are tiny here: where the processors are busy, threads would wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- a queue whose optimum is known

SMALL = Config(steps=98_304, episode=32, horizon=16, gamma=GAMMA, rate=3e-3, hidden=(32,), twin=False, actions="step",
               evaluate_every=4, entropy=0.001)  # fmt: skip


def begun(folder: Path, config: Config) -> runs.Run:
    return runs.begin(folder, "ppo-fast", config, {})


def learned(folder: Path, config: Config, **more: Any) -> ppo_fast.Trained:
    return ppo_fast.train(Queue(256, 32), Queue(256, 32), config, run=begun(folder, config), device=CPU, seed=1, **more)


@pytest.mark.parametrize(
    "config",
    [SMALL, replace(SMALL, value_clip=0.2, divergence=0.05, normalise_return=False, activation="silu", anneal=False)],
    ids=["defaults", "options"],
)
def test_the_optimum_of_a_queue_is_found(tmp_path: Path, config: Config) -> None:
    """The greedy policy costs at most 2 % more than the best there is, from every state."""
    trained = learned(tmp_path / "run", config)
    seen = np.zeros((ROOM + 1, len(NAMES)), np.float32)
    seen[:, NAMES.index("backlog")] = JOBS
    with torch.no_grad():
        logits = trained.network.logits(trained.network.inputs(torch.from_numpy(seen))).numpy()
    policy = np.where(allowed(JOBS), logits, -np.inf).argmax(axis=1)
    best, _ = optimum()
    assert (worth(policy) <= 1.02 * best).all(), policy
    assert (worth(np.ones(ROOM + 1, np.int64)) > 1.02 * best).any(), "always one server is no solution"


def test_advantages_are_those_of_the_definition() -> None:
    """The sum of discounted surprises up to where the episode was cut, whose state is worth what it led to."""
    rng = np.random.default_rng(2)
    steps, n, gamma, trace = 7, 5, 0.9, 0.8
    reward, last = rng.standard_normal((2, steps, n))
    value = rng.standard_normal((steps + 1, n))
    cut = rng.random((steps, n)) < 0.3
    expected = np.zeros((steps, n))
    for env in range(n):
        for begin in range(steps):
            for at in range(begin, steps):
                following = last[at, env] if cut[at, env] else value[at + 1, env]
                surprise = reward[at, env] + gamma * following - value[at, env]
                expected[begin, env] += (gamma * trace) ** (at - begin) * surprise
                if cut[at, env]:
                    break
    a, b, c = (torch.from_numpy(array.astype(np.float32)) for array in (reward, value, last))
    found = ppo_rollout.advantages(a, b, c, torch.from_numpy(cut), gamma, trace)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_actions_are_drawn_by_their_probabilities_and_never_forbidden() -> None:
    """Over two branches, whose joint log probability is the sum."""
    branches = (3, 2)
    logits = torch.tensor([[0.0, 1.0, 5.0, 0.5, -0.5]]).expand(40_000, -1)
    mask = torch.tensor([[True, True, False]]).expand(40_000, -1)
    shares = ppo_rollout.log_shares(logits, mask, branches)
    actions = ppo_rollout.drawn(shares, torch.Generator().manual_seed(3))
    first, second = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum(), np.exp([0.5, -0.5]) / np.exp([0.5, -0.5]).sum()
    counts = [np.bincount(actions[:, at].numpy(), minlength=size) / 40_000 for at, size in enumerate(branches)]
    np.testing.assert_allclose(counts[0], [*first, 0.0], atol=0.01)
    np.testing.assert_allclose(counts[1], second, atol=0.01)
    expected = np.log(first[actions[:9, 0].numpy()] * second[actions[:9, 1].numpy()])
    np.testing.assert_allclose(ppo_rollout.log_share(shares, actions)[:9].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_minibatch_of_one_decision_is_learned_from(activation: str) -> None:
    """The last one of a pass is what is left: 13 decisions in 4 minibatches of at most 4 leave one."""
    config = Config(horizon=13, minibatches=4, epochs=1, hidden=(8,), activation=activation)
    found = ppo_fast.Learner((3,), config, CPU, 0)
    before = found.network.actor.head.weight.detach().clone()
    rollout = ppo_rollout.Rollout.empty(13, 1, (3,), len(NAMES), CPU)
    rollout.mask[:] = True
    rollout.inputs.normal_(generator=torch.Generator().manual_seed(1))
    rollout.reward.normal_(generator=torch.Generator().manual_seed(2))
    rollout.share[:] = -np.log(3.0)
    told = found.update(rollout, torch.Generator().manual_seed(3), 1.0)
    assert all(np.isfinite(list(told.values())))
    after = found.network.actor.head.weight.detach()
    assert bool(torch.isfinite(after).all())
    assert not torch.equal(after, before)


@pytest.mark.parametrize("minibatches", [4, 4096])
def test_the_divergence_of_a_pass_is_that_of_the_minibatches_there_are(minibatches: int) -> None:
    """Four decisions make four of them at most, however many were asked for."""
    config = Config(horizon=4, minibatches=minibatches, epochs=50, hidden=(8,), rate=0.1, divergence=1e-3)
    found = ppo_fast.Learner((3,), config, CPU, 0)
    rollout = ppo_rollout.Rollout.empty(4, 1, (3,), len(NAMES), CPU)
    rollout.mask[:] = True
    rollout.inputs.normal_(generator=torch.Generator().manual_seed(1))
    rollout.reward.normal_(generator=torch.Generator().manual_seed(2))
    rollout.share[:] = -np.log(3.0)
    found.update(rollout, torch.Generator().manual_seed(3), 1.0)
    steps = {float(state["step"]) for state in found.optimiser.state.values()}
    assert steps == {4.0}, "the passes after the first are left out"


def test_returns_are_normalised_by_their_deviation() -> None:
    """What is taken in piece by piece has the deviation of the whole; outliers are cut off."""
    rewards = 50.0 * torch.randn((200, 64), generator=torch.Generator().manual_seed(1))
    cut = torch.zeros((200, 64), dtype=torch.bool)
    cut[99] = True
    known = ppo_rollout.Returns(0.9)
    for part in range(0, 200, 20):
        known.taken(rewards[part : part + 20], cut[part : part + 20])
    total, totals = torch.zeros(64), []
    for reward, ended in zip(rewards, cut, strict=True):
        total = reward + 0.9 * total
        totals.append(total)
        total = torch.where(ended, 0.0, total)
    assert known.spread**0.5 == pytest.approx(float(torch.stack(totals).std()), rel=1e-3)
    assert known.normalised(torch.tensor([1e9])).item() == ppo_rollout.LARGEST_REWARD


# --- in the world


@cache
def material() -> loads.Pools:
    return loads.pools(("spike",), None, 1.0, 0)


TINY = Config(steps=1600, envs=16, episode=20, horizon=10, hidden=(16,), evaluate_every=1, epochs=2, minibatches=2)


def task(folder: Path, config: Config, fresh: bool = True, **more: Any) -> Task:
    run = begun(folder, config) if fresh else runs.resume(folder)
    return Task("ppo", material(), run, device("cpu"), 3, {"seed": 3}, **more)


def same(one: Outcome, other: Outcome) -> None:
    assert one.artifact.arrays.keys() == other.artifact.arrays.keys()
    for name, array in one.artifact.arrays.items():
        np.testing.assert_array_equal(array, other.artifact.arrays[name], err_msg=name)
    assert one.artifact.manifest["scores"] == other.artifact.manifest["scores"]


def after(reports: int) -> Callable[[], bool]:
    """Return a wish to stop that comes up at the so-many-th question."""
    left = iter([False] * reports)
    return lambda: next(left, True)


@pytest.mark.parametrize("actions", ["headroom", "branching"])
def test_a_run_that_was_stopped_ends_as_an_unbroken_one(tmp_path: Path, actions: str) -> None:
    """To the bit: weights, scores, and what was measured; stopped in the middle of an episode, and again later."""
    config = replace(TINY, actions=actions)
    told: list[Progress] = []
    whole = ppo_fast.learn(task(tmp_path / "whole", config, report=told.append), config)
    assert whole.steps == told[-1].step == told[-1].steps == 1600
    with pytest.raises(StoppedError):
        ppo_fast.learn(task(tmp_path / "broken", config, stop=after(3)), config)
    with pytest.raises(StoppedError):
        ppo_fast.learn(task(tmp_path / "broken", config, fresh=False, stop=after(5)), config)
    same(whole, ppo_fast.learn(task(tmp_path / "broken", config, fresh=False), config))
    one, other = (list(runs.read_metrics(tmp_path / name)) for name in ("whole", "broken"))
    assert one == other
    assert [row["step"] for row in one] == [0, 320, 640, 960, 1280, 1600]


def test_a_run_goes_on_with_as_many_environments_wherever_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the number is left open it is the device's, and a stretch counts as many steps as it began with."""
    config = replace(TINY, envs=0)
    monkeypatch.setattr(ppo_fast, "FEW", 16)
    whole = ppo_fast.learn(task(tmp_path / "whole", config), config)
    with pytest.raises(StoppedError):
        ppo_fast.learn(task(tmp_path / "broken", config, stop=after(3)), config)
    monkeypatch.setattr(ppo_fast, "FEW", 4)
    other = ppo_fast.learn(task(tmp_path / "broken", config, fresh=False), config)
    assert other.steps == whole.steps == 1600
    same(whole, other)
    assert [row["step"] for row in runs.read_metrics(tmp_path / "broken")] == [0, 320, 640, 960, 1280, 1600]


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    """The same seed gives the same artifact, another a different one."""
    outcomes = []
    for number, seed in enumerate((3, 3, 4)):
        this = task(tmp_path / str(number), TINY)
        this.seed = seed
        outcomes.append(ppo_fast.learn(this, TINY))
    same(outcomes[0], outcomes[1])
    weights = [outcome.artifact.arrays["weight_0"] for outcome in outcomes]
    assert not np.array_equal(weights[0], weights[2])


def test_the_artifact_decides_as_the_network_along_an_episode(tmp_path: Path) -> None:
    """Choices are the same but for ties, and the score is the one that is in the manifest."""
    this = task(tmp_path / "run", TINY)
    _, judge = ppo_fast.environments(this, TINY)
    outcome = ppo_fast.learn(this, TINY)
    policy = MlpPolicy(outcome.artifact)
    score = learner.scored(judge, outcome.artifact, TINY.episode, this.seed + loads.VALIDATION_SEED)
    assert score.total == pytest.approx(outcome.artifact.manifest["scores"]["validation_score"], rel=1e-6)

    state = this.run.restore(best=True)
    assert state is not None
    network = ppo_fast.ActorCritic(scheme("headroom").branches, TINY, material().fields)
    network.load_state_dict(state["kept"])
    observation = judge.reset(9)
    for _ in range(TINY.episode):
        theirs = ppo_fast.best_choices(network, judge, torch.from_numpy(observation))[:, 0].numpy()
        ours = chosen(judge.view, policy.scheme, policy.network(np, observation[:, policy.columns]))
        np.testing.assert_array_equal(ours, theirs)
        observation = judge.step(ours).observation


def test_numbers_that_are_none_stop_training(tmp_path: Path) -> None:
    """With the checkpoint before them kept."""
    run = begun(tmp_path / "run", SMALL)
    config = replace(SMALL, normalise_return=False)
    with pytest.raises(NotFiniteError, match="is nan at step 32768"):
        ppo_fast.train(Queue(256, 32, broken=True), Queue(256, 32), config, run=run, device=CPU, seed=1)
    newest = run.newest()
    assert newest is not None
    assert newest.stem.endswith("000")
    state = run.restore()
    assert state is not None
    assert all(bool(torch.isfinite(value).all()) for value in state["network"].values())
