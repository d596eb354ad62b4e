"""Deep Q-network (Mnih et al. 2015) for Tic-Tac-Toe: one network plays both sides against itself.

Read from top to bottom: the settings, the network, a worker that plays, the replay, the loop. What follows a move is
worth the opposite of what it is worth to the opponent, so a target is r - gamma max Q'(next position, moves there),
Q' being the target network. Workers play with a copy of the network on NumPy, in this process or in others
(`rollouts`); the loop takes chunks of games, whoever played them, and makes the same number of gradient updates for
each, so that runs differ in who plays and in nothing else. DQN learns off its policy, so stale chunks are as good.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rlscaler_training import tictactoe
from rlscaler_training.hyper import setting, switch
from rlscaler_training.rollouts import Data, Rollouts
from rlscaler_training.tictactoe import BITS, CELLS, MIRRORED, PLACES, Games


@dataclass(frozen=True, slots=True)
class Config:
    """Hyper-parameters; they were chosen on seed 0 for play that nobody beats."""

    episodes: int = setting(100_000, 1, 10**9, "Games to learn from (published: 100,000).")
    envs: int = setting(256, 1, 65_536, "Games that each worker plays at once.")
    horizon: int = setting(16, 1, 10_000, "Moves in each of them that make a chunk.")
    hidden: tuple[int, ...] = setting((128, 128), 1, 4096, "Widths of the hidden layers.")
    rate: float = setting(2e-3, 1e-8, 1.0, "First learning rate of Adam; it falls linearly to 0.")
    gamma: float = setting(0.95, 0.0, 1.0, "Discount per move: an earlier win is worth more, a later loss less bad.")
    batch: int = setting(256, 1, 1_048_576, "Moves of a gradient update.")
    moves_per_update: int = setting(128, 1, 10**6, "Moves that are played for each gradient update.")
    target_every: int = setting(200, 1, 10**6, "Updates between copies to the target network.")
    replay: int = setting(200_000, 1, 10**8, "Moves that are remembered.")
    epsilon: tuple[float, ...] = setting((1.0, 0.5), 0.0, 1.0, "Share of moves by chance, at first and from half way"
                                         " on.")  # fmt: skip
    mirror: bool = switch(True, "Learn each move in one of the eight symmetries of the board, drawn anew each time.")
    limit: int = setting(1000, 0, 10**9, "Versions that a chunk may be behind before it is dropped.")


def network(hidden: tuple[int, ...]) -> nn.Sequential:
    """Return the network: 18 cells, own and other, to the values of 9 moves."""
    widths = (2 * CELLS, *hidden)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], CELLS))


def inputs(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return what the network sees of positions, (N, 18) float32."""
    return np.concatenate([BITS[own], BITS[other]], axis=1, dtype=np.float32)


Layers = list[tuple[np.ndarray, np.ndarray]]
"""Weights (in, out) and biases of the layers, by which NumPy computes what the network does."""


def copied(found: nn.Sequential) -> Layers:
    """Return a copy of a network's weights."""
    linears = [layer for layer in found if isinstance(layer, nn.Linear)]
    return [(layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy()) for layer in linears]


def worth(layers: Layers, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the values of all moves, (N, 9); those of cells that are taken mean nothing."""
    x = inputs(own, other)
    for weight, bias in layers[:-1]:
        x = x @ weight + bias
        np.maximum(x, 0.0, out=x)
    weight, bias = layers[-1]
    values: np.ndarray = x @ weight + bias
    return values


class Play(NamedTuple):
    """What workers play by. epsilon: share of moves by chance. times: how much longer than `horizon` a chunk is."""

    epsilon: float
    layers: Layers
    times: int = 1


class Player:
    """A worker: games of the network against itself, with moves by chance."""

    def __init__(self, envs: int, horizon: int, seed: int, number: int, life: int) -> None:
        """Begin the games; everything by chance follows from the seed, the worker's number and its life."""
        self.games, self.horizon = Games(envs), horizon
        self.rng = np.random.default_rng([seed, number, life])
        self.play = Play(1.0, [])

    def load(self, weights: Play) -> None:
        """Take over what to play by."""
        self.play = weights

    def collect(self) -> Data:
        """Play, and return the moves (T * N): the position before and after, the cell, what it earned, and the end."""
        shape = (self.horizon * self.play.times, len(self.games.own))
        sets: dict[str, np.ndarray] = {name: np.empty(shape, np.int16) for name in ("own", "other")}
        sets |= {name: np.empty(shape, np.int8) for name in ("cell", "earned")} | {"over": np.empty(shape, bool)}
        by_chance = self.rng.random(shape) < self.play.epsilon
        chances = self.rng.random((*shape, CELLS), dtype=np.float32)
        games, rows = self.games, np.arange(shape[1])
        for at in range(shape[0]):
            mask = games.mask()
            cell = np.where(mask, chances[at], -np.inf).argmax(axis=1)
            known = worth(self.play.layers, games.own, games.other)
            cell = np.where(by_chance[at], cell, np.where(mask, known, -np.inf).argmax(axis=1))
            assert mask[rows, cell].all(), "no move is made that the mask forbids"
            sets["own"][at], sets["other"][at], sets["cell"][at] = games.own, games.other, cell
            sets["earned"][at], sets["over"][at] = games.step(cell)
        return {name: part.reshape(-1) for name, part in sets.items()}


@dataclass(frozen=True, slots=True)
class Making:
    """Makes the workers of a run, here and in other processes."""

    envs: int
    horizon: int
    seed: int

    def __call__(self, number: int, life: int) -> Player:
        """Return a worker."""
        return Player(self.envs, self.horizon, self.seed, number, life)


@dataclass(slots=True)
class Replay:
    """The last moves, in a ring. size: how many there are."""

    capacity: int
    size: int = 0
    _next: int = 0
    _kept: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, data: Data) -> None:
        """Take in moves."""
        count = len(data["cell"])
        rows = (self._next + np.arange(count)) % self.capacity
        for name, part in data.items():
            if name not in self._kept:
                self._kept[name] = np.zeros(self.capacity, part.dtype)
            self._kept[name][rows] = part
        self._next = (self._next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, count: int, rng: np.random.Generator, mirror: bool) -> list[np.ndarray]:
        """Return so many moves, drawn anew: own, other, cell, earned, over. mirror: each in a symmetry by chance."""
        rows = rng.integers(0, self.size, count)
        own, other, cell, earned, over = (self._kept[name][rows] for name in ("own", "other", "cell", "earned", "over"))
        if mirror:
            side = rng.integers(0, len(MIRRORED), count)
            own, other, cell = MIRRORED[side, own], MIRRORED[side, other], PLACES[side, cell]
        return [own, other, cell.astype(np.int64), earned, over]


@dataclass(frozen=True, slots=True)
class Learned:
    """What a run came to. episodes, updates: how many. seconds: from the first chunk that was asked for to the end."""

    layers: Layers
    episodes: int
    moves: int
    updates: int
    seconds: float

    def player(self) -> np.ndarray:
        """Return the greedy player as a table over all positions, see `tictactoe`."""
        whole = tictactoe.game()
        return tictactoe.greedy(worth(self.layers, whole.own, whole.other))


class Updates:
    """Network, target network and optimiser."""

    def __init__(self, config: Config, seed: int) -> None:
        """Make them; the state of torch's own random numbers is left as it was."""
        self.config, self.count = config, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network, self.target = network(config.hidden), network(config.hidden)
        self.target.load_state_dict(self.network.state_dict())
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.rate, fused=True)

    def step(self, moves: list[np.ndarray], share: float) -> Tensor:
        """Make a gradient update by moves (own, other, cell, earned, over); share: of the learning rate."""
        own, other, cell, earned, over = moves
        after = own | np.left_shift(1, cell).astype(np.int16)
        reward, ended = torch.from_numpy(earned.astype(np.float32)), torch.from_numpy(over)
        with torch.no_grad():
            taken = torch.from_numpy(BITS[after | other])
            replies = self.target(torch.from_numpy(inputs(other, after))).masked_fill(taken, -torch.inf).amax(dim=1)
            target = reward - self.config.gamma * torch.where(ended, 0.0, replies)
        values = self.network(torch.from_numpy(inputs(own, other)))
        loss = nn.functional.smooth_l1_loss(values.gather(1, torch.from_numpy(cell)[:, None])[:, 0], target)
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.rate * share
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.count += 1
        if self.count % self.config.target_every == 0:
            self.target.load_state_dict(self.network.state_dict())
        return loss.detach()


def learn(
    config: Config, source: Rollouts, seed: int, report: Callable[[Mapping[str, float]], None] = lambda _: None
) -> Learned:
    """Learn from the chunks of a source until there were enough games.

    report: takes games so far, updates and loss, after each chunk. Deterministic with the seed where the source is.
    """
    updates, replay = Updates(config, seed), Replay(config.replay)
    rng = np.random.default_rng([seed, 1])
    first, last = config.epsilon[0], config.epsilon[-1]
    episodes = moves = 0
    begun = time.monotonic()
    while True:
        done = min(episodes / config.episodes, 1.0)
        epsilon = first + (last - first) * min(2.0 * done, 1.0)
        source.publish(Play(epsilon, copied(updates.network)))
        data = source.next().data
        replay.add(data)
        moves += len(data["cell"])
        episodes += int(data["over"].sum())
        done = min(episodes / config.episodes, 1.0)
        loss = torch.zeros(())
        while updates.count * config.moves_per_update < moves:
            loss = updates.step(replay.sample(config.batch, rng, config.mirror), max(1.0 - done, 0.02))
        report({"episodes": episodes, "updates": updates.count, "loss": float(loss)})
        if episodes >= config.episodes:
            return Learned(copied(updates.network), episodes, moves, updates.count, time.monotonic() - begun)
