"""N environments at once: the world, the guard and a pool of load; actions in, observations and rewards out.

What learners train on. The environments of `env` are thin wrappers of it, and the decision path is the one of
dry-run and cluster: the same view, observation, action scheme and guard.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlscaler import Autoscaler, Settings
from rlscaler.action import Scheme
from rlscaler.observation import observe
from rlscaler.policy import View
from rlscaler_sim import world
from rlscaler_sim.pool import WARM_UP, Pool

START_TARGETS = (0.5, 0.95)
"""Range of utilisation at which an episode starts."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What one step gave, arrays (N,) unless stated.

    observation: (N, F) float32, of the new episode where `truncated`. last: (N, F) the observation that the ended
    step led to. reward: float64. cost, late: the two parts of -reward, billed over needed and price x late share.
    """

    observation: np.ndarray
    last: np.ndarray
    reward: np.ndarray
    truncated: np.ndarray
    cost: np.ndarray
    late: np.ndarray
    replicas: np.ndarray


class Batch:
    """N environments over a pool of loads. reward = -(billed / needed + price x late / arrivals), both relative to
    the load's mean, so that its mean over the whole load is -J of the score. Episodes are cut after `episode` steps (or
    where the load ends) and never end otherwise; the backlog's cost never saturates. Metrics are missing where the
    pool's are: its loads have been through the gaps already.
    """

    def __init__(
        self,
        pool: Pool,
        config: world.WorldConfig,
        settings: Settings,
        scheme: Scheme,
        n: int,
        episode: int,
        seed: int,
    ) -> None:
        """Start `n` environments with episodes of at most `episode` steps.

        config, settings: those that the pool was prepared with. Raises ValueError where no step could be made.
        """
        for name, value, least in (("n", n, 1), ("episode", episode, 1), ("steps of the pool", pool.steps, 2)):
            if value < least:
                raise ValueError(f"{name} is {value}; expected {least} or more")
        self.pool, self.scheme, self.n, self.episode = pool, scheme, n, episode
        self.config = replace(config, fano=1.0, gap_rate=0.0, interval=pool.interval)
        self.settings = settings
        self.params = world.compiled(self.config, n)
        self.price = np.broadcast_to(np.asarray(settings.objective.price, np.float64), (n,))
        self.reset(seed)

    def reset(self, seed: int) -> np.ndarray:
        """Start anew, reproducible to the bit, and return the observation (N, F)."""
        self.rng = np.random.default_rng(seed)
        self.scaler = Autoscaler("growth-quantile", self.settings, self.n, remembers=False)
        self.load = np.zeros(self.n, np.int64)
        self.at = np.zeros(self.n, np.int64)
        self.age = np.zeros(self.n, np.int64)
        self.state = world.initial(self.params, np.ones(self.n))
        self._begin(np.arange(self.n))
        observation = self._look()
        self.last_view = self.view
        return observation

    def _begin(self, rows: np.ndarray) -> None:
        """Start new episodes in these rows, each at a random moment of a random load."""
        count = len(rows)
        self.load[rows] = self.rng.integers(self.pool.loads, size=count)
        first = min(WARM_UP, self.pool.steps // 4)
        last = max(first + 1, self.pool.steps - self.episode - 1)
        self.at[rows] = self.rng.integers(first, last, size=count)
        self.age[rows] = 0
        level = self.pool.features["level"][self.load[rows], self.at[rows]]
        target = self.rng.uniform(*START_TARGETS, size=count)
        low, high = (
            np.broadcast_to(getattr(self.settings, k), (self.n,))[rows] for k in ("min_replicas", "max_replicas")
        )
        replicas = np.clip(np.ceil(np.nan_to_num(level) / target), np.maximum(low, 1), high)
        several = np.ones(self.n)
        several[rows] = replicas
        fresh = world.initial(self.params, several)
        self.state = fresh if count == self.n else world.replaced(self.params, self.state, fresh, rows)
        self.scaler.reset(rows)

    def _look(self) -> np.ndarray:
        """Read the metrics and return the observation."""
        time = self.pool.start[self.load] + self.at * self.pool.interval
        seen = self.pool.seen[self.load, self.at]
        reading = replace(world.readings(self.params, self.state, time, np.isfinite(seen)), load=seen)
        features = {name: array[self.load, self.at] for name, array in self.pool.features.items()}
        self.view: View = self.scaler.view(reading, features=features)
        observation: np.ndarray = observe(self.view)
        return observation

    def mask(self) -> np.ndarray:
        """Return the allowed actions of the present observation, (N, actions) bool."""
        mask: np.ndarray = self.scheme.mask(self.view)
        return mask

    def step(self, actions: Any) -> Transition:
        """Decide by `actions`, (N,) int64 or (N, branches), and let the world run for one interval.

        Raises ValueError for an action that the scheme does not have.
        """
        chosen = np.asarray(actions, np.int64)
        if (chosen < 0).any() or (chosen >= self.scheme.branches).any():
            raise ValueError(
                f"an action is {chosen.min()} or {chosen.max()}; expected 0 to below {self.scheme.branches}"
            )
        proposal = self.scheme.propose(self.view, chosen)
        decided = self.scaler.settle(self.view, proposal)
        rates = self.pool.rates[self.load, self.at].T
        drawn = world.draws(self.params, self.rng)
        self.state, out = world.step(self.params, self.state, decided.replicas.astype(np.float32), rates, drawn)
        cost = out.billed / self.pool.mean_needed[self.load]
        late = self.price * out.late / self.pool.mean_arrivals[self.load]
        self.at += 1
        self.age += 1
        last, self.last_view = self._look(), self.view
        truncated = (self.age >= self.episode) | (self.at >= self.pool.steps - 1)
        observation = last
        if truncated.any():
            self._begin(np.flatnonzero(truncated))
            observation = self._look()
        return Transition(
            observation=observation,
            last=last,
            reward=-(cost + late),
            truncated=truncated,
            cost=cost,
            late=late,
            replicas=decided.replicas,
        )
