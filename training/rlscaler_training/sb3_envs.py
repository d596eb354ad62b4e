"""A batch of environments as stable-baselines3 wants them."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from rlscaler.action import CORRECTIONS, HOLD, PATIENCES
from rlscaler_training import loads
from rlscaler_training.loads import Environments

SURVEY = 256
"""Steps of the environments, played at random, that the inputs are normalised by."""


class Envs(VecEnv):
    """A batch of environments as stable-baselines3 wants them; observations are normalised by (x - mean) / scale.

    twin: environments that meet the same load and always take the middle action; what they earn is taken from the
    reward (see `q_learning.train`). None: the reward as it is. low, high: (F,) range of all observations so far.
    """

    def __init__(
        self, batch: Environments, twin: Environments | None, mean: np.ndarray, scale: np.ndarray,
        columns: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Wrap them. mean, scale: (F,) float32. columns: (in,) of the fields that networks see (None: all)."""
        width = len(mean)
        self.columns = np.arange(width) if columns is None else columns
        self.batch, self.twin, self.mean, self.scale = batch, twin, mean[self.columns], scale[self.columns]
        self.render_mode = None
        self.observation = np.zeros((batch.n, width), np.float32)
        branches = batch.scheme.branches
        space: gymnasium.Space[Any] = (
            gymnasium.spaces.Discrete(branches[0])
            if len(branches) == 1
            else gymnasium.spaces.MultiDiscrete(np.array(branches))
        )
        seen = gymnasium.spaces.Box(-np.inf, np.inf, (len(self.columns),), np.float32)
        super().__init__(batch.n, seen, space)
        self.low, self.high = np.full(width, np.inf, np.float32), np.full(width, -np.inf, np.float32)
        self.middle = np.tile(middle(branches), (batch.n, 1)).reshape(batch.n, *(() if len(branches) == 1 else (-1,)))
        self._actions = self.middle

    def seen(self, observation: np.ndarray) -> np.ndarray:
        """Return observations (N, F) as the networks see them, and note their range."""
        np.minimum(self.low, observation.min(axis=0), out=self.low)
        np.maximum(self.high, observation.max(axis=0), out=self.high)
        normal: np.ndarray = (observation[:, self.columns] - self.mean) / self.scale
        return normal

    def begin(self, seed: int) -> None:
        """Start all anew, reproducible to the bit."""
        self.observation = self.batch.reset(seed)
        if self.twin is not None:
            self.twin.reset(seed)

    def reset(self) -> np.ndarray:
        """Return the observation at which `begin` left them."""
        return self.seen(self.observation)

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step; an episode that was cut begins anew, with its last observation in its info, to bootstrap from."""
        done = self.batch.step(self._actions)
        reward = done.reward if self.twin is None else done.reward - self.twin.step(self.middle).reward
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.truncated.any():
            last = self.seen(done.last)
            for row in np.flatnonzero(done.truncated):
                infos[row] = {"TimeLimit.truncated": True, "terminal_observation": last[row]}
        return self.seen(done.observation), reward.astype(np.float32), done.truncated, infos

    def kept(self) -> dict[str, Any]:
        """Return where they stand, for a checkpoint."""
        held = {"batch": loads.kept(self.batch), **loads.tensors({"low": self.low, "high": self.high})}
        return held | ({} if self.twin is None else {"twin": loads.kept(self.twin)})

    def put_back(self, held: Mapping[str, Any]) -> None:
        """Let them go on from a checkpoint."""
        loads.put_back(self.batch, held["batch"])
        if self.twin is not None:
            loads.put_back(self.twin, held["twin"])
        self.low, self.high = loads.arrays(held["low"]), loads.arrays(held["high"])

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute, the same for each environment."""
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: the environments are one."""
        raise NotImplementedError("attributes of single environments cannot be set")

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **named: Any) -> list[Any]:
        """Refuse: the environments are one."""
        raise NotImplementedError("methods of single environments cannot be called")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return that none is."""
        return [False] * self.num_envs


def middle(branches: Sequence[int]) -> np.ndarray:
    """Return the action of the untrained rule, (branches,): no correction, or no replica more or fewer."""
    known = {len(CORRECTIONS): CORRECTIONS.index(0.0), len(PATIENCES): PATIENCES.index(HOLD)}
    return np.array([known.get(count, count // 2) for count in branches], np.int64)


def survey(batch: Environments, seed: int, steps: int = SURVEY) -> np.ndarray:
    """Return observations (N, F) of environments that are played at random, for the normalisation of the inputs."""
    rng = np.random.default_rng(seed)
    found = [batch.reset(seed)]
    for _ in range(steps):
        action = rng.integers(0, batch.scheme.branches, size=(batch.n, len(batch.scheme.branches)))
        found.append(batch.step(action[:, 0] if action.shape[1] == 1 else action).observation)
    return np.concatenate(found)
