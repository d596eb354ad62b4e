"""Tic-Tac-Toe over arrays, solved: rules, all positions, perfect play, and exact results of any two players.

A position is two sets of cells as 9-bit numbers, `own` of the player to move and `other` of the opponent; after a move
the two change places, so one player serves both sides. 5,478 positions can be reached. A player is a table of what it
does in each of them, so the share of games that it wins against another is summed over all games and not sampled.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

CELLS, FULL = 9, 0b111_111_111
LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
BITS: np.ndarray = np.asarray((np.arange(FULL + 1)[:, None] >> np.arange(CELLS)) & 1 > 0)
"""Set of cells -> which of the cells are in it, (512, 9) bool."""
WON: np.ndarray = np.asarray(np.stack([BITS[:, line].all(axis=1) for line in LINES]).any(axis=0))
"""Set of cells -> whether it holds a line, (512,) bool."""
TURNED: np.ndarray = np.stack([
    np.rot90(side, turn).ravel() for side in (np.arange(9).reshape(3, 3), np.arange(9).reshape(3, 3).T)
    for turn in range(4)
])  # fmt: skip
"""The eight symmetries of the board, (8, 9): which cell comes to each place."""
PLACES: np.ndarray = np.argsort(TURNED, axis=1)
"""Where each cell goes in each symmetry, (8, 9)."""
MIRRORED: np.ndarray = (BITS[:, TURNED] << np.arange(CELLS)).sum(axis=2).T.astype(np.int16)
"""What each set of cells becomes in each symmetry, (8, 512)."""


def played(own: np.ndarray, other: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the positions after moves, as the opponent sees them: its cells, the mover's, and what the mover earned.

    own, other, cell: (N,). Earned: 1 for a line, 0 for a full board, and NaN where the game goes on. Raises ValueError
    where a cell is taken or the game was over.
    """
    bit = np.left_shift(1, cell).astype(own.dtype)
    if ((own | other) & bit).any() or WON[other].any() or WON[own].any():
        raise ValueError("a move is against the rules: the cell is taken, or the game is over")
    own = own | bit
    earned = np.where(WON[own], 1.0, np.where((own | other) == FULL, 0.0, np.nan))
    return other, own, earned


@dataclass(frozen=True, slots=True)
class Game:
    """All positions that can be reached, P = 5,478 of them, those with fewer stones first.

    own, other: (P,) sets of cells. after: (P, 9) position that each move leads to, -1 where there is no such move.
    over: (P,) whether the game is over. lost: (P,) whether it is because the opponent has a line. begins: (11,) where
    the positions with 0, 1, ... 9 stones begin, and P.
    """

    own: np.ndarray
    other: np.ndarray
    after: np.ndarray
    over: np.ndarray
    lost: np.ndarray
    begins: np.ndarray

    @property
    def moves(self) -> np.ndarray:
        """Which moves there are, (P, 9) bool."""
        found: np.ndarray = self.after >= 0
        return found

    def number(self, own: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return the numbers of positions, whatever shape they come in."""
        found: np.ndarray = _numbers()[own.astype(np.int64) << CELLS | other]
        return found


@cache
def game() -> Game:
    """Return the whole game, found move by move from the empty board."""
    level, found = [(0, 0)], [(0, 0)]
    begins = [0]
    for _ in range(CELLS):
        begins.append(len(found))
        following = {
            (other, own | 1 << cell)
            for own, other in level if not WON[other]
            for cell in range(CELLS) if not (own | other) >> cell & 1
        }  # fmt: skip
        level = sorted(following)
        found += level
    at = {position: number for number, position in enumerate(found)}
    own, other = (np.array(side, np.int16) for side in zip(*found, strict=True))
    lost = WON[other]
    over = lost | ((own | other) == FULL)
    after = np.full((len(found), CELLS), -1)
    for number, (mine, yours) in enumerate(found):
        for cell in range(CELLS):
            if not over[number] and not (mine | yours) >> cell & 1:
                after[number, cell] = at[yours, mine | 1 << cell]
    return Game(own, other, after, over, lost, np.array([*begins, len(found)]))


@cache
def _numbers() -> np.ndarray:
    numbers = np.full(1 << 2 * CELLS, -1)
    whole = game()
    numbers[whole.own.astype(np.int64) << CELLS | whole.other] = np.arange(len(whole.own))
    return numbers


@cache
def values() -> np.ndarray:
    """Return what each position is worth to the player to move under perfect play, (P,): 1, 0 or -1 (minimax)."""
    whole = game()
    worth: np.ndarray = np.where(whole.lost, -1, 0)
    for low, high in zip(whole.begins[-2::-1], whole.begins[:0:-1], strict=True):
        replies = np.where(whole.moves[low:high], -worth[whole.after[low:high]], -2).max(axis=1)
        worth[low:high] = np.where(whole.over[low:high], worth[low:high], replies)
    return worth


def uniform() -> np.ndarray:
    """Return the player that draws one of the moves, each as likely: (P, 9) probabilities, rows of 0 at the end."""
    moves = game().moves
    shares: np.ndarray = moves / np.maximum(moves.sum(axis=1, keepdims=True), 1)
    return shares


def perfect() -> np.ndarray:
    """Return the minimax player, which draws one of the best moves, (P, 9)."""
    whole = game()
    return greedy(np.where(whole.moves, -values()[whole.after], -2), ties=True)


def greedy(worth: np.ndarray, ties: bool = False) -> np.ndarray:
    """Return the player of the best move by these values (P, 9), the first of several, or with `ties` any of them."""
    moves = game().moves
    known = np.where(moves, worth, -np.inf)
    best = moves & (known == known.max(axis=1, keepdims=True))
    if not ties:
        best &= best.cumsum(axis=1) == 1
    shares: np.ndarray = best / np.maximum(best.sum(axis=1, keepdims=True), 1)
    return shares


@dataclass(frozen=True, slots=True)
class Result:
    """Shares of all games that a player wins, draws and loses."""

    wins: float
    draws: float
    losses: float

    def turned(self) -> "Result":
        """Return the same, as the opponent has it."""
        return Result(self.losses, self.draws, self.wins)


def duel(first: np.ndarray, second: np.ndarray) -> Result:
    """Return what the first player comes to against the second, exactly, over all games: players as (P, 9)."""
    whole = game()
    met = np.zeros(len(whole.own))
    met[0] = 1.0
    wins = draws = losses = 0.0
    for stones, (low, high) in enumerate(pairwise(whole.begins)):
        here, over, lost = met[low:high], whole.over[low:high], whole.lost[low:high]
        ended = float(here[lost].sum())
        # the player to move is the first one where the number of stones is even
        wins, losses = (wins, losses + ended) if stones % 2 == 0 else (wins + ended, losses)
        draws += float(here[over & ~lost].sum())
        chances = (first if stones % 2 == 0 else second)[low:high] * here[:, None]
        moves = whole.moves[low:high]
        np.add.at(met, whole.after[low:high][moves], chances[moves])
    return Result(wins, draws, losses)


def strength(player: np.ndarray) -> dict[str, dict[str, float]]:
    """Return what a player comes to against the uniform and the perfect one, first and second, and against itself."""

    def told(found: Result) -> dict[str, float]:
        return {"wins": found.wins, "draws": found.draws, "losses": found.losses}

    chance, best = uniform(), perfect()
    return {
        "random_first": told(duel(player, chance)),
        "random_second": told(duel(chance, player).turned()),
        "perfect_first": told(duel(player, best)),
        "perfect_second": told(duel(best, player).turned()),
        "itself": told(duel(player, player)),
    }


class Games:
    """Many games at once, each begun anew when it is over: the environment that players learn in.

    own, other: (N,) the positions, as the player to move sees them. It has no chance in it.
    """

    def __init__(self, n: int) -> None:
        """Begin n games."""
        self.own, self.other = np.zeros((2, n), np.int16)

    def mask(self) -> np.ndarray:
        """Return which cells may be played, (N, 9) bool."""
        found: np.ndarray = ~BITS[self.own | self.other]
        return found

    def step(self, cells: Any) -> tuple[np.ndarray, np.ndarray]:
        """Play a cell in every game (N,); return what the movers earned (N,), and where a game is over (N,)."""
        own, other, earned = played(self.own, self.other, np.asarray(cells))
        over = ~np.isnan(earned)
        self.own, self.other = np.where(over, 0, own).astype(np.int16), np.where(over, 0, other).astype(np.int16)
        return np.where(over, earned, 0.0), over
