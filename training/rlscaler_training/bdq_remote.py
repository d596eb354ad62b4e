"""Play of `bdq` by workers: what each of them does, and how the learner takes it into its replay.

The environments are shared out among the workers, each of which explores by itself. The learner takes one chunk for
each worker, whoever made it, and makes as many gradient steps as for the same decisions in one process; the workers
play on meanwhile. It learns off its policy, so older chunks are as good. In lockstep the workers wait for the newest
weights, every episode begins with fresh environments, and a run can be repeated to the bit.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from rlscaler.action import BRANCHING
from rlscaler_sim.batch import Batch
from rlscaler_sim.pool import Pool
from rlscaler_training import remote_rollouts
from rlscaler_training.bdq import RULE, Config, Learner, best, explored, update
from rlscaler_training.branching import Branching
from rlscaler_training.learner import Task
from rlscaler_training.loads import progressed
from rlscaler_training.replay import Step
from rlscaler_training.rollouts import Chunk, Data, Rollouts, gathered

LONGEST = 24
"""Decisions of a chunk at most: some 50 ms of work for a call that costs one."""
STEP = ("observation", "action", "reward", "last", "mask", "ended")
"""What a chunk has of each decision, arrays (T, N, ...); see `replay.Step`."""


class Told(NamedTuple):
    """What workers play by. network: its weights, None before anything was learned, where the rule plays. epsilon:
    share of explored choices. share: of the training that is done."""

    network: dict[str, np.ndarray] | None
    episode: int
    epsilon: float
    share: float


def length(episode: int) -> int:
    """Return the decisions of a chunk: the most that whole chunks make an episode of."""
    return max(steps for steps in range(1, min(LONGEST, episode) + 1) if episode % steps == 0)


@dataclass(frozen=True, slots=True)
class Making:
    """Makes workers. config: of one of them, whose envs are its own. rule: what plays before anything was learned."""

    pool: Pool
    config: Config
    fields: tuple[str, ...]
    rule: tuple[int, ...]
    seed: int
    lockstep: bool

    def __call__(self, number: int, life: int) -> "Player":
        """Return a worker."""
        return Player(self, number, life)


class Player:
    """A worker: environments, their twins, and a copy of the network."""

    def __init__(self, of: Making, number: int, life: int) -> None:
        """Make them; what is random follows from seed, episode, the worker's number and its life."""
        config, pool = of.config, of.pool
        self.of, self.who, self.steps = of, (number, life), length(config.episode)

        def made() -> Batch:
            return Batch(pool, pool.config, pool.settings, BRANCHING, config.envs, config.episode, of.seed)

        self.batch, self.twin = made(), made()
        self.network = Branching(
            of.fields, BRANCHING.branches, config.encoder, config.trunk, config.head, config.activation
        )
        self.rule = np.tile(np.array(of.rule, np.int64), (config.envs, 1))
        self.weights: Told | None = None

    def load(self, weights: Told) -> None:
        """Take over the network, and begin anew where an episode does and all keep step."""
        if weights.network is not None:
            held = {name: torch.from_numpy(array.copy()) for name, array in weights.network.items()}
            self.network.load_state_dict(held)
        progressed(weights.share, self.batch, self.twin)
        if self.weights is None or (self.of.lockstep and weights.episode != self.weights.episode):
            chance, seed = np.random.SeedSequence([self.of.seed, weights.episode, *self.who]).generate_state(2)
            self.rng = np.random.default_rng(int(chance))
            self.observation = self.batch.reset(int(seed))
            self.twin.reset(int(seed))
            self.mask = self.batch.mask()
            self.held = np.full((self.batch.n, len(BRANCHING.branches)), -1)
        self.weights = weights

    def _greedy(self) -> np.ndarray:
        """Return the best allowed choices (N, branches); the rule's before anything was learned."""
        if self.weights is None or self.weights.network is None:
            return self.rule
        with torch.no_grad():
            q = self.network.q(torch.from_numpy(self.observation.astype(np.float32)))
        return best(q, torch.from_numpy(self.mask)).numpy()

    def collect(self) -> Data:
        """Return the next chunk."""
        assert self.weights is not None
        met: dict[str, list[np.ndarray]] = {name: [] for name in STEP}
        for _ in range(self.steps):
            action = explored(
                self._greedy(), self.held, self.mask, BRANCHING.branches, self.of.config, self.weights.epsilon, self.rng
            )
            done = self.batch.step(action)
            following = self.batch.scheme.mask(self.batch.last_view)
            step = (
                self.observation, action, (done.reward - self.twin.step(self.rule).reward).astype(np.float32),
                done.last, following, done.truncated,
            )  # fmt: skip
            for name, array in zip(STEP, step, strict=True):
                met[name].append(array)
            self.observation = done.observation
            self.mask = self.batch.mask() if done.truncated.any() else following
        return {name: np.stack(arrays) for name, arrays in met.items()}


class There:
    """Play by workers, wherever they are, into a learner's replay."""

    def __init__(self, learner: Learner, source: Rollouts, lockstep: bool) -> None:
        """Take chunks from the source. lockstep: whether episodes begin anew."""
        self.learner, self.source, self.lockstep = learner, source, lockstep
        self.windows: dict[int, tuple[int, int, deque[Step]]] = {}

    def play(self, played: int, share: float, epsilon: float, beta: float) -> float:
        """Play an episode's decisions, learning on the way, and return the mean loss (0 before any update).

        played: number of the episode. share: of the training that is done. epsilon: share of explored choices.
        """
        learner, config = self.learner, self.learner.config
        steps = length(config.episode)
        if self.lockstep:
            self.windows.clear()
        loss, updates = torch.zeros((), device=learner.device), 0
        for _ in range(config.episode // steps):
            network = None
            if learner.updates:
                network = {name: value.cpu().numpy().copy() for name, value in learner.network.state_dict().items()}
            self.source.publish(Told(network, played, epsilon, share))
            for chunk in gathered(self.source, self.source.workers):
                self.take(chunk)
            if learner.replay.size >= min(config.warm_up, len(learner.replay.reward)):
                if not learner.updates:
                    learner.begin()
                for _ in range(config.updates * steps):
                    loss += update(learner, beta)
                    updates += 1
        return float(loss) / max(1, updates)

    def take(self, chunk: Chunk) -> None:
        """Put the transitions of a chunk into the replay; those that span two chunks need that these follow on."""
        replay = self.learner.replay
        life, number, window = self.windows.get(chunk.worker, (-1, -1, deque[Step]()))
        if (chunk.life, chunk.number) != (life, number + 1):
            window = deque(maxlen=replay.lookahead)
        replay.window = window
        data = {name: self.learner.tensor(chunk.data[name].copy()) for name in STEP}  # Ray's own cannot be written
        for at in range(len(data["reward"])):
            replay.add(Step(**{name: array[at] for name, array in data.items()}))
        self.windows[chunk.worker] = (chunk.life, chunk.number, window)


@contextmanager
def opened(task: Task, config: Config) -> Iterator[Callable[[Learner], There]]:
    """Have the workers of a task, and what plays by them into a learner's replay, which takes the steps of one of them.

    Raises UserError where there is no such cluster.
    """
    workers = task.workers
    assert workers is not None
    own = replace(config, envs=workers.share(config.envs))
    making = Making(task.pools.train, own, tuple(task.pools.fields), RULE, task.seed, workers.lockstep)
    with remote_rollouts.opened(workers, making, task.stop) as source:
        yield lambda learner: There(learner, source, workers.lockstep)
