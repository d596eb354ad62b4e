"""Speed of the replay on the training device, beside stable-baselines3's in the host's memory."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rlscaler.observation import NAMES
from rlscaler_training.devices import device
from rlscaler_training.replay import Replay, Step

WIDTH, BRANCHES, DRAWN, WRITTEN = len(NAMES), (11, 5), 256, 128
"""Shapes of the replay that is timed: of an observation, the branches, a draw, and what is written between draws."""


def replays(seconds: float, asked: str = "cpu", capacity: int = 65_536) -> dict[str, Any]:
    """Return transitions per second that are drawn, with half as many written, by both replays."""
    place = device(asked).torch
    rng = np.random.default_rng(0)
    observation = rng.standard_normal((WRITTEN, WIDTH)).astype(np.float32)
    action = np.stack([rng.integers(count, size=WRITTEN) for count in BRANCHES], axis=1)
    reward, ended = rng.standard_normal(WRITTEN).astype(np.float32), np.zeros(WRITTEN, bool)
    ours = Replay(capacity, WRITTEN, WIDTH, len(BRANCHES), BRANCHES[0], 6, 0.95, 0.6, place)
    seen, mask = torch.as_tensor(observation, device=place), torch.ones(WRITTEN, BRANCHES[0], dtype=torch.bool)
    step = Step(
        observation=seen, action=torch.as_tensor(action, device=place), reward=torch.as_tensor(reward, device=place),
        last=seen, mask=mask.to(place), ended=torch.as_tensor(ended, device=place),
    )  # fmt: skip

    def device_turn() -> None:
        ours.add(step)
        drawn = ours.draw(DRAWN, 0.4)
        ours.learned(drawn.index, drawn.reward.abs())

    host_turn = _host_turn(capacity, observation, action, reward, ended, asked)
    for _ in range(capacity // WRITTEN):
        ours.add(step)
    mine, theirs = _per_second(device_turn, seconds), _per_second(host_turn, seconds)
    return {
        "device": asked,
        "device_replay_per_s": mine,
        "host_replay_per_s": theirs,
        "device_over_host": mine / theirs,
    }


def _host_turn(
    capacity: int, observation: np.ndarray, action: np.ndarray, reward: np.ndarray, ended: np.ndarray, asked: str
) -> Callable[[], None]:
    """Return a turn of stable-baselines3's replay, filled."""
    import gymnasium
    from stable_baselines3.common.buffers import ReplayBuffer

    spaces = gymnasium.spaces
    theirs = ReplayBuffer(
        capacity, spaces.Box(-np.inf, np.inf, (WIDTH,), np.float32), spaces.MultiDiscrete(np.array(BRANCHES)), asked,
        n_envs=WRITTEN,
    )  # fmt: skip
    infos: list[dict[str, Any]] = [{}] * WRITTEN

    def written() -> None:
        theirs.add(observation, observation, action, reward, ended, infos)

    for _ in range(capacity // WRITTEN):
        written()

    def turn() -> None:
        written()
        theirs.sample(DRAWN)

    return turn


def _per_second(turn: Callable[[], None], seconds: float) -> float:
    """Return drawn transitions per second."""
    turn()
    turns, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or turns < 3:
        turn()
        turns += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return turns * DRAWN / spent
