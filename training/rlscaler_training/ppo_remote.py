"""Rollouts of `ppo_fast` by workers: what each of them does, and what the learner makes of their chunks.

The environments are shared out among the workers, and an update learns from one chunk for each worker side by side,
whoever made it, so that updates are as many and as large as in one process. While the learner updates, the workers
make the next chunks by weights that are a version older; what these would not have done is corrected for (`trust`).
In lockstep they wait instead, every stretch begins with fresh environments, and a run can be repeated to the bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch

from rlscaler.action import scheme
from rlscaler_sim.batch import Batch
from rlscaler_sim.pool import Pool
from rlscaler_training import remote_rollouts
from rlscaler_training.learner import Task
from rlscaler_training.loads import progressed
from rlscaler_training.ppo_fast import ActorCritic, Config, Learner, neutral
from rlscaler_training.ppo_rollout import Rollout, Source, collect, tensor, trust
from rlscaler_training.rollouts import Chunk, Data, Rollouts, gathered

CPU = torch.device("cpu")
ARRAYS = tuple(each.name for each in fields(Rollout) if each.name != "trust")
"""What a chunk has of a rollout, arrays (T, N, ...); beside it `total`, (N,), see `Returns`."""


class Told(NamedTuple):
    """What workers decide by. network: its weights and constants. share: of the training that is done."""

    network: dict[str, np.ndarray]
    stretch: int
    share: float


@dataclass(frozen=True, slots=True)
class Making:
    """Makes workers. envs: of each."""

    pool: Pool
    config: Config
    fields: tuple[str, ...]
    envs: int
    seed: int
    lockstep: bool

    def __call__(self, number: int, life: int) -> "Collector":
        """Return a worker."""
        return Collector(self, number, life)


class Collector:
    """A worker: environments, and a copy of the networks."""

    def __init__(self, of: Making, number: int, life: int) -> None:
        """Make them; what is random follows from seed, stretch, the worker's number and its life."""
        config, pool = of.config, of.pool
        self.of, self.who = of, (number, life)
        choices = scheme(config.actions)
        twin = neutral(choices.branches) if config.twin else None
        self.envs = Batch(pool, pool.config, pool.settings, choices, of.envs, config.episode, of.seed, twin=twin)
        self.network = ActorCritic(choices.branches, config, of.fields)
        self.stretch: int | None = None

    def load(self, weights: Told) -> None:
        """Take over the networks, and begin anew where a stretch does and all keep step."""
        self.network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.network.items()})
        progressed(weights.share, self.envs)
        if self.stretch is None or (self.of.lockstep and weights.stretch != self.stretch):
            seeds = np.random.SeedSequence([self.of.seed, weights.stretch, *self.who]).generate_state(2)
            self.generator = torch.Generator().manual_seed(int(seeds[1]))
            self.observation = tensor(self.envs.reset(int(seeds[0])), CPU)
            self.total = torch.zeros(self.of.envs)
            self.stretch = weights.stretch

    def collect(self) -> Data:
        """Return the next chunk."""
        config, branches = self.of.config, self.envs.scheme.branches
        met = Rollout.empty(config.horizon, self.of.envs, branches, len(self.of.fields), CPU)
        self.observation = collect(self.network, self.envs, self.observation, met, self.generator)
        found = {name: getattr(met, name).numpy() for name in ARRAYS} | {"total": self.total.numpy()}
        for reward, cut in zip(met.reward, met.cut, strict=True):
            self.total = torch.where(cut, 0.0, reward + config.gamma * self.total)
        return found


class There:
    """Rollouts for a learner, of workers wherever they are."""

    def __init__(self, found: Learner, source: Rollouts, told: Callable[[], dict[str, float]]) -> None:
        """Take chunks from the source. told: what is said of them in the metrics."""
        self.found, self.source, self.told = found, source, told
        self.stretch, self.share = 0, 0.0

    def begin(self, stretch: int, seed: int, share: float) -> None:
        """Tell the workers with the next weights; what is random there follows from other seeds."""
        self.stretch, self.share = stretch, share

    def next(self, generator: torch.Generator) -> Rollout:
        """Return as many chunks as there are workers, side by side."""
        state = self.found.network.state_dict()
        network = {name: value.cpu().numpy().copy() for name, value in state.items()}
        self.source.publish(Told(network, self.stretch, self.share))
        chunks = gathered(self.source, self.source.workers)
        met = joined(chunks, self.found.device)
        total = np.concatenate([chunk.data["total"] for chunk in chunks])
        self.found.returns.total = torch.from_numpy(total).to(self.found.device)
        if any(chunk.behind for chunk in chunks):
            met.trust = trust(self.found.network, met, self.found.branches)
        return met


def joined(chunks: list[Chunk], device: torch.device) -> Rollout:
    """Return the rollouts of chunks side by side, on the device."""
    whole = {name: np.concatenate([chunk.data[name] for chunk in chunks], axis=1) for name in ARRAYS}
    return Rollout(**{name: torch.from_numpy(array).to(device) for name, array in whole.items()})


@contextmanager
def opened(task: Task, config: Config, envs: int) -> Iterator[Callable[[Learner], Source]]:
    """Have the workers of a task, and what a learner takes their rollouts from. envs: of all workers.

    Raises UserError where there is no such cluster.
    """
    workers, pools = task.workers, task.pools
    assert workers is not None
    making = Making(pools.train, config, tuple(pools.fields), workers.share(envs), task.seed, workers.lockstep)
    with remote_rollouts.opened(workers, making, task.stop) as source:
        yield lambda found: There(found, source, workers.told)
