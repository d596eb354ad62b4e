"""A queue so small that its optimum is known: up to two servers for five places, shaped like a training batch."""

from typing import Any

import numpy as np

from rlscaler.action import STEP
from rlscaler.observation import NAMES
from rlscaler_sim.batch import Transition

ARRIVING = np.array([0.45, 0.25, 0.3])
"""Probabilities of 0, 1 and 2 jobs in a step."""
WAGES = np.array([0.0, 1.0, 2.2])
"""Cost of a step with 0, 1 and 2 servers."""
ROOM, WAITING, LOST, GAMMA = 5, 0.5, 6.0, 0.9
"""Places; cost of each job that waits, and of each without a place; discount."""
JOBS = np.arange(ROOM + 1)


def outcome(jobs: Any, servers: Any, arriving: Any) -> tuple[Any, Any]:
    """Return the jobs after a step and its cost."""
    left = np.maximum(jobs - servers, 0) + arriving
    return np.minimum(left, ROOM), WAGES[servers] + WAITING * jobs + LOST * np.maximum(left - ROOM, 0)


def allowed(jobs: Any) -> np.ndarray:
    """Return which of 0, 1, 2 servers may be had, (..., 3): the second one only where two jobs wait."""
    return np.stack([np.ones_like(jobs, bool), np.ones_like(jobs, bool), np.asarray(jobs) >= 2], axis=-1)


def worth(policy: np.ndarray) -> np.ndarray:
    """Return the discounted cost of a policy from each state, exactly."""
    chain, cost = np.zeros((ROOM + 1, ROOM + 1)), np.zeros(ROOM + 1)
    for arriving, probability in enumerate(ARRIVING):
        after, paid = outcome(JOBS, policy, arriving)
        chain[JOBS, after] += probability
        cost += probability * paid
    return np.asarray(np.linalg.solve(np.eye(ROOM + 1) - GAMMA * chain, cost))


def optimum() -> tuple[np.ndarray, np.ndarray]:
    """Return the least discounted costs and the best policy, by value iteration."""
    value, costs = np.zeros(ROOM + 1), np.zeros((ROOM + 1, 3))
    for _ in range(400):
        costs = np.full((ROOM + 1, 3), np.inf)
        for jobs in JOBS:
            for servers in np.flatnonzero(allowed(jobs)):
                costs[jobs, servers] = sum(
                    p * (paid + GAMMA * value[after])
                    for arriving, p in enumerate(ARRIVING)
                    for after, paid in [outcome(jobs, servers, arriving)]
                )
        value = costs.min(axis=1)
    return value, costs.argmin(axis=1)


class Queue:
    """The queue in the shape of a batch of environments; the observation's `backlog` is the number of jobs."""

    scheme = STEP

    def __init__(self, n: int, episode: int, broken: bool = False) -> None:
        """Take the number of queues and of steps in an episode. broken: the reward is NaN."""
        self.n, self.episode, self.broken = n, episode, broken

    def reset(self, seed: int) -> np.ndarray:
        """Draw the jobs anew, and return what is seen of them."""
        self.rng, self.age = np.random.default_rng(seed), 0
        self.jobs = self.rng.integers(0, ROOM + 1, self.n)
        return self._seen()

    def _seen(self) -> np.ndarray:
        seen = np.zeros((self.n, len(NAMES)), np.float32)
        seen[:, NAMES.index("backlog")] = self.jobs
        return seen

    def mask(self) -> np.ndarray:
        """Return which actions are allowed, (n, 3)."""
        return allowed(self.jobs)

    def step(self, actions: np.ndarray) -> Transition:
        """Take a step with 0, 1 or 2 servers, (n,)."""
        assert self.mask()[np.arange(self.n), actions].all(), "only what is allowed is done"
        self.jobs, cost = outcome(self.jobs, actions, self.rng.choice(3, self.n, p=ARRIVING))
        self.age += 1
        last, cut = self._seen(), self.age == self.episode
        if cut:
            self.jobs, self.age = self.rng.integers(0, ROOM + 1, self.n), 0
        reward = -cost * np.nan if self.broken else -cost
        return Transition(self._seen(), last, reward, np.full(self.n, cut), cost, np.zeros(self.n), actions)
