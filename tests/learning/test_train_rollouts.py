"""Trainings whose environments are stepped by workers: repeatable in lockstep, the same on Ray, and told when not."""

import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rlscaler.action import BRANCHING
from rlscaler.errors import UserError
from rlscaler.observation import NAMES
from rlscaler_training import (
    bdq,
    bdq_remote,
    commands,
    exporting,
    finishing,
    loads,
    ppo_fast,
    ppo_rollout,
    remote_rollouts,
    runs,
)
from rlscaler_training.asked import Asked
from rlscaler_training.devices import device
from rlscaler_training.learner import Outcome, Progress, StoppedError, Task
from rlscaler_training.remote_rollouts import Workers
from rlscaler_training.rollouts import Chunk, Local, Maker, Rollouts
from rlscaler_training.rollouts_ray import Remote

CONFIGS: dict[str, tuple[Any, Any]] = {
    "ppo-fast": (ppo_fast, ppo_fast.Config(
        steps=1200, envs=15, episode=20, horizon=10, hidden=(16,), epochs=2, minibatches=2)),
    "bdq": (bdq, bdq.Config(
        steps=1600, envs=15, episode=20, warm_up=100, replay=1000, batch=16, encoder=(8,), trunk=(8,), head=(8,),
        evaluation=20, evaluate_every=2, checkpoint_every=1)),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def material() -> loads.Pools:
    return loads.pools(("spike",), None, 1.0, 0)


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the workers in this process."""

    @contextmanager
    def opened(of: Workers, make: Maker, _: Callable[[], object]) -> Iterator[Rollouts]:
        with Local(make, of.count, counts=of.counts) as source:
            yield source

    monkeypatch.setattr(remote_rollouts, "opened", opened)


def task(learner: str, folder: Path, workers: Workers, fresh: bool = True, **more: Any) -> Task:
    run = runs.begin(folder, learner, CONFIGS[learner][1], {}) if fresh else runs.resume(folder)
    return Task(learner, material(), run, device("cpu"), 3, {}, workers=workers, **more)


def learned(learner: str, *given: Any, **more: Any) -> Outcome:
    module, config = CONFIGS[learner]
    found: Outcome = module.learn(task(learner, *given, **more), config)
    return found


def pair() -> Workers:
    """Two workers that keep step, and share 15 environments as 8 and 8."""
    return Workers(2, None, True, 4)


def same(one: Outcome, other: Outcome) -> None:
    assert one.artifact.arrays.keys() == other.artifact.arrays.keys()
    for name, array in one.artifact.arrays.items():
        np.testing.assert_array_equal(array, other.artifact.arrays[name], err_msg=name)
    assert one.artifact.manifest["scores"] == other.artifact.manifest["scores"]


# --- corrections


def test_what_another_policy_did_counts_as_far_as_this_one_would_have_done_it() -> None:
    """By the definition: the sum over what follows of the surprises, times the trust in each action on the way."""
    rng = np.random.default_rng(4)
    steps, n, gamma, trace = 6, 4, 0.9, 0.8
    reward, last = rng.standard_normal((2, steps, n))
    value, trust = rng.standard_normal((steps + 1, n)), rng.random((steps, n))
    cut = rng.random((steps, n)) < 0.3
    expected = np.zeros((steps, n))
    for env in range(n):
        for begin in range(steps):
            weight = 1.0
            for at in range(begin, steps):
                weight *= gamma * trace * trust[at, env] if at > begin else 1.0
                following = last[at, env] if cut[at, env] else value[at + 1, env]
                expected[begin, env] += weight * (reward[at, env] + gamma * following - value[at, env])
                if cut[at, env]:
                    break
    a, b, c, d = (torch.from_numpy(array) for array in (reward, value, last, trust))
    found = ppo_rollout.advantages(a, b, c, torch.from_numpy(cut), gamma, trace, d)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_trust_is_the_ratio_of_probabilities_and_1_at_most() -> None:
    config = CONFIGS["ppo-fast"][1]
    network = ppo_fast.ActorCritic((3,), config, NAMES[:2])
    inputs = torch.randn((5, 7, 2), generator=torch.Generator().manual_seed(1))
    met = ppo_rollout.Rollout.empty(5, 7, (3,), 2, torch.device("cpu"))
    met.inputs, met.mask[:] = inputs, True
    with torch.no_grad():
        own = network.logits(inputs).log_softmax(dim=-1)[..., 0]
    met.share = own + torch.tensor([0.5, -0.5, 0.0, 0.0, 0.0])[:, None]
    found = ppo_rollout.trust(network, met, (3,))
    torch.testing.assert_close(found[0], torch.full((7,), np.exp(-0.5), dtype=torch.float32))
    torch.testing.assert_close(found[1:], torch.ones((4, 7)))


# --- in lockstep


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("learner", list(CONFIGS))
def test_a_run_in_lockstep_that_was_stopped_ends_as_an_unbroken_one(tmp_path: Path, learner: str) -> None:
    """To the bit: weights, scores, metrics; and what the workers count is in these."""
    told: list[Progress] = []
    whole = learned(learner, tmp_path / "whole", pair(), report=told.append)
    left = iter([False] * 3)
    with pytest.raises(StoppedError):
        learned(learner, tmp_path / "broken", pair(), stop=lambda: next(left, True))
    same(whole, learned(learner, tmp_path / "broken", pair(), fresh=False))
    one, other = (list(runs.read_metrics(tmp_path / name)) for name in ("whole", "broken"))
    counted = ("chunks", "stale", "staleness", "dropped", "mismatched", "replaced", "lost")
    assert all(row[name] == 0 for row in one for name in counted[1:] if name in row)
    assert one[-1]["chunks"] > 2
    alike = [[{name: value for name, value in row.items() if name not in counted} for row in rows]
             for rows in (one, other)]  # fmt: skip
    assert alike[0] == alike[1]
    episode = 20 * 16
    assert whole.steps == told[-1].step == -(-CONFIGS[learner][1].steps // episode) * episode, "15 are shared as 8 + 8"


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("learner", list(CONFIGS))
def test_a_checkpoint_of_workers_is_exported_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learner: str
) -> None:
    """And without a step of training, though the workers had more environments than were asked for."""
    module, config = CONFIGS[learner]
    asked = Asked(("spike",), None, 1.0, 3, learner, workers={"count": 2, "lockstep": True, "limit": 4})
    run = runs.begin(tmp_path / "run", learner, config, asdict(asked))
    whole = module.learn(Task(learner, material(), run, device("cpu"), 3, {}, workers=pair()), config)
    monkeypatch.setattr(finishing, "EPISODE", 20)
    monkeypatch.setattr(bdq, "play", None)
    monkeypatch.setattr(ppo_fast.Learner, "update", None)
    made, step = exporting.from_checkpoint(tmp_path / "run")
    assert step == whole.steps
    assert made.arrays.keys() == whole.artifact.arrays.keys()
    for name, array in whole.artifact.arrays.items():
        np.testing.assert_array_equal(made.arrays[name], array, err_msg=name)


def test_transitions_span_chunks_that_follow_on_each_other_alone(tmp_path: Path) -> None:
    """Of a worker that was replaced, or whose chunk was dropped, the steps before are forgotten."""
    config = bdq.Config(envs=2, episode=6, replay=1000, lookahead=3, encoder=(8,), trunk=(8,), head=(8,))
    fields = material().fields
    branches = BRANCHING.branches
    learner = bdq.Learner(config, fields, branches, bdq.RULE, torch.device("cpu"))
    there = bdq_remote.There(learner, Local(lambda *_: None), False)  # type: ignore[arg-type]

    def chunk(life: int, number: int) -> Chunk:
        width = learner.replay.observation.shape[1]
        data: Mapping[str, np.ndarray] = {
            "observation": np.zeros((4, 2, width), np.float32), "action": np.zeros((4, 2, len(branches)), np.int64),
            "reward": np.zeros((4, 2), np.float32), "last": np.zeros((4, 2, width), np.float32),
            "mask": np.ones((4, 2, branches[0]), bool), "ended": np.zeros((4, 2), bool),
        }  # fmt: skip
        return Chunk(0, life, number, 1, 0, data)

    sizes = []
    for life, number in ((0, 0), (0, 1), (0, 3), (1, 0), (1, 1)):
        there.take(chunk(life, number))
        sizes.append(learner.replay.size)
    assert np.diff([0, *sizes]).tolist() == [4, 8, 4, 4, 8], "2 of 4 steps complete one, all 4 where they follow on"


# --- on Ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Have Ray, once for all tests of this file."""
    pytest.importorskip("ray", reason="Ray comes with the extra `distributed`")
    from rlscaler_training import ray_cluster

    with ExitStack() as stack:
        try:
            stack.enter_context(ray_cluster.cluster(2))
        except UserError as error:
            if "timed out" not in str(error):
                raise
            pytest.skip(f"this machine is too busy to start Ray, which gives up on itself after 30 s: {error}")
        yield


@pytest.mark.timeout(900)
# Ray's own processes are still there when their handles are collected
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
class TestOnRay:
    @pytest.fixture(autouse=True)
    def _patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A slow machine is not taken for a silent worker."""
        from rlscaler_training import rollouts_ray

        monkeypatch.setattr(rollouts_ray, "TIMEOUT", 800.0)

    @pytest.mark.usefixtures("cluster")
    def test_a_worker_that_is_killed_is_replaced_and_the_training_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In lockstep it cannot go on without it. Until then it equals a training by workers in this process."""
        seen: list[Remote] = []
        made = Remote.__post_init__

        def noted(remote: Remote) -> None:
            seen.append(remote)
            made(remote)

        monkeypatch.setattr(Remote, "__post_init__", noted)

        def report(_: Progress) -> None:
            if not workers.counts.replaced and len(told) == 3:
                os.kill(seen[0].processes[1], signal.SIGKILL)
            told.append(workers.counts.chunks)

        told: list[int] = []
        workers = pair()
        outcome = learned("ppo-fast", tmp_path / "run", workers, report=report)
        assert outcome.steps == 1280
        assert (workers.counts.replaced, workers.counts.lost, workers.counts.stale) == (1, 0, 0)
        assert "1 worker replaced" in workers.spoken()

        @contextmanager
        def opened(of: Workers, make: Maker, _: Callable[[], object]) -> Iterator[Rollouts]:
            yield Local(make, of.count, counts=of.counts)

        monkeypatch.setattr(remote_rollouts, "opened", opened)
        learned("ppo-fast", tmp_path / "here", pair())
        there, here = (next(row for row in runs.read_metrics(tmp_path / name) if row["step"] == 320)
                       for name in ("run", "here"))  # fmt: skip
        assert there == here

    @pytest.mark.usefixtures("cluster")
    @pytest.mark.parametrize("learner", list(CONFIGS))
    def test_without_lockstep_chunks_are_stale_and_used(self, tmp_path: Path, learner: str) -> None:
        workers = Workers(1, None, False, 4)
        outcome = learned(learner, tmp_path / "run", workers)
        assert outcome.steps == -(-CONFIGS[learner][1].steps // 300) * 300
        assert workers.counts.stale > workers.counts.chunks // 2
        assert workers.counts.dropped == workers.counts.replaced == 0


# --- what is asked for


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["q-learning", "--rollouts", "ray"], "q-learning learns in one process; expected ppo-fast or bdq"),
        (["apg", "--rollouts", "ray"], "--rollouts ray: apg learns in one process; expected ppo-fast or bdq"),
        (["ppo-fast", "--workers", "2"], "--workers is given without --rollouts ray"),
        (["bdq", "--lockstep"], "--lockstep is given without --rollouts ray"),
        (["ppo-fast", "--rollouts", "ray", "--lockstep", "--stale", "3"], "--stale is given with --lockstep"),
        (["bdq", "--rollouts", "ray", "--preferences", __file__], "--preferences is given with --rollouts ray"),
        (["ppo-fast", "--rollouts", "ray", "--address", "nowhere"], "--address nowhere: expected HOST:PORT"),
    ],
    ids=["q-learning", "apg", "workers-alone", "lockstep-alone", "stale-in-lockstep", "preferences", "no-address"],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_a_run_begins(tmp_path: Path, words: list[str], told: str) -> None:
    if "nowhere" in words:
        pytest.importorskip("ray", reason="Ray comes with the extra `distributed`")
    folder = tmp_path / "run"
    found = CliRunner().invoke(commands.train, [*words, "--run", str(folder), "--scenario", "spike", "--hours", "1"])
    assert isinstance(found.exception, UserError), found.output
    assert told in str(found.exception)
    assert "\n" not in str(found.exception)
    assert not folder.exists()


def test_an_address_where_nothing_answers_is_told_before_a_run_begins(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray comes with the extra `distributed`")
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        words = ["ppo-fast", "--rollouts", "ray", "--address", address, "--scenario", "spike", "--hours", "1"]
        found = CliRunner().invoke(commands.train, [*words, "--run", str(tmp_path / "run")])
    assert isinstance(found.exception, UserError), found.output
    assert f"--address {address}: nothing answers there" in str(found.exception)
    assert not (tmp_path / "run").exists()


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlscaler.cli import missing_extra

    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    words = ["ppo-fast", "--rollouts", "ray", "--scenario", "spike", "--hours", "1", "--run", str(tmp_path / "run")]
    found = CliRunner().invoke(commands.train, words)
    assert isinstance(found.exception, ModuleNotFoundError), found.output
    failure = missing_extra("train", found.exception)
    assert failure is not None
    assert str(failure) == "'train' needs ray: pip install 'rlscaler[distributed]'"
    assert not (tmp_path / "run").exists()
