"""Tabular Q-learning for Tic-Tac-Toe, against itself: the baseline of the benchmark, with a value for each move.

The same games, chances and rule of learning as the network's (`tictactoe_dqn`): what follows a move is worth the
opposite of what it is worth to the opponent.
"""

import time
from dataclasses import dataclass

import numpy as np

from rlscaler_training import tictactoe
from rlscaler_training.tictactoe import CELLS, Games

RATE, GAMMA = 0.5, 0.95
"""How far a value goes towards what was seen (the game has no chance in it), and the discount per move."""
FIRST, LAST = 1.0, 0.5
"""Share of moves by chance, at first and from half way on."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What a run came to. values: of every move in every position, (P, 9). seconds: of learning."""

    values: np.ndarray
    episodes: int
    moves: int
    seconds: float

    def player(self) -> np.ndarray:
        """Return the greedy player as a table over all positions, see `tictactoe`."""
        return tictactoe.greedy(self.values)


def learn(episodes: int, envs: int, seed: int) -> Learned:
    """Learn from so many games, `envs` of them at once. Deterministic with the seed."""
    whole, games, rng = tictactoe.game(), Games(envs), np.random.default_rng(seed)
    values = np.zeros(whole.moves.shape)
    done = moves = 0
    begun = time.monotonic()
    while done < episodes:
        epsilon = max(FIRST + (LAST - FIRST) * 2.0 * done / episodes, LAST)
        at, mask = whole.number(games.own, games.other), games.mask()
        chance = np.where(mask, rng.random((envs, CELLS)), -np.inf).argmax(axis=1)
        known = np.where(mask, values[at], -np.inf).argmax(axis=1)
        cell = np.where(rng.random(envs) < epsilon, chance, known)
        earned, over = games.step(cell)
        following = whole.after[at, cell]
        replies = np.where(whole.moves[following], values[following], -np.inf).max(axis=1)
        target = earned - GAMMA * np.where(over, 0.0, replies)
        # games in the same position that make the same move come to the same target, so that one of them counts
        values[at, cell] += RATE * (target - values[at, cell])
        done, moves = done + int(over.sum()), moves + envs
    return Learned(values, done, moves, time.monotonic() - begun)
