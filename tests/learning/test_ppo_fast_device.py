"""The loop of ppo-fast as it runs on a GPU, world and all on tensors; here they are on the processor."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlscaler.action import HEADROOM
from rlscaler_sim.batch import Batch
from rlscaler_training import loads, ppo_fast, runs
from rlscaler_training.ppo_fast import Config
from rlscaler_training.ppo_rollout import Rollout, collect

CPU = torch.device("cpu")
CONFIG = Config(steps=640, envs=16, episode=20, horizon=10, hidden=(16,))
MOST_WAITS = 10
"""Times that a decision may wait for the device: whether an episode was cut, asked by the world and by the rollout, and
whether the guard's behaviour has anything to do."""


@pytest.fixture(scope="module")
def pools() -> loads.Pools:
    return loads.pools(("spike",), None, 1.0, 0)


def batch(pools: loads.Pools, twin: Any = None) -> Batch:
    pool = pools.train
    return Batch(pool, pool.config, pool.settings, HEADROOM, 16, CONFIG.episode, 1, torch.zeros(1), twin=twin)


class Watched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the values that are read off tensors, which on a device is to wait for it."""

    waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.waits += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_it_learns_and_the_same_seed_learns_the_same(pools: loads.Pools, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        run = runs.begin(tmp_path / name, "ppo-fast", CONFIG, {})
        twin = ppo_fast.neutral(HEADROOM.branches)
        trained = ppo_fast.train(batch(pools, twin), batch(pools), CONFIG, run=run, device=CPU, seed=1)
        assert trained.steps == CONFIG.steps
        found.append((trained.score, (run.folder / runs.METRICS).read_text()))
    assert found[0] == found[1]
    assert "policy_loss" in found[0][1]


def test_nothing_is_taken_to_the_host(pools: loads.Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    """No arrays of NumPy come between, and hardly a number is read off a tensor."""
    envs = batch(pools, ppo_fast.neutral(HEADROOM.branches))
    learner = ppo_fast.Learner(envs.scheme.branches, CONFIG, CPU, 1)
    rollout = Rollout.empty(CONFIG.horizon, envs.n, envs.scheme.branches, len(learner.network.actor.fields), CPU)
    generator = torch.Generator().manual_seed(1)
    observation = envs.reset(1)

    def numpy(*_: Any, **__: Any) -> None:
        raise AssertionError("a tensor was taken to the host")

    monkeypatch.setattr(torch.Tensor, "numpy", numpy)
    monkeypatch.setattr(torch.Tensor, "__array__", numpy)
    with Watched() as watched:  # type: ignore[no-untyped-call]
        collect(learner.network, envs, observation, rollout, generator)
    assert not rollout.cut.any()
    assert watched.waits <= MOST_WAITS * CONFIG.horizon
