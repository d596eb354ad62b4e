"""Whether two ways of computing a network decide the same: as it was trained, as NumPy serves it, as ONNX."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TIE = 1e-5
"""Margin between the two best choices, relative to 1 + the best, under which either may be taken."""
AGREE = 1e-4
"""Largest difference of an output, relative to 1 + its size, of networks that agree."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two networks compare on a sample: rows, rows whose best choices are a tie, rows that differ otherwise, and
    the largest relative difference of an output."""

    rows: int
    ties: int
    different: int
    largest: float

    @property
    def agree(self) -> bool:
        """Whether they decide the same."""
        return self.different == 0 and self.largest <= AGREE

    def and_(self, other: "Agreement") -> "Agreement":
        """Return how they compare on both samples."""
        return Agreement(self.rows + other.rows, self.ties + other.ties, self.different + other.different,
                         max(self.largest, other.largest))  # fmt: skip

    def told(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"observations": self.rows, "ties": self.ties, "largest_difference": self.largest}

    def __str__(self) -> str:
        """Return it in words."""
        return (
            f"{self.different} of {self.rows:,} situations are decided differently (beside {self.ties} ties), and "
            f"outputs differ by up to {self.largest:.1e}"
        )


def compared(
    ours: np.ndarray, theirs: np.ndarray, branches: Sequence[int], mask: np.ndarray | None = None
) -> Agreement:
    """Compare outputs (N, out) with those that they should be.

    branches: choices of each, side by side in the outputs; empty where the output is itself what is decided by. mask:
    (N, out) bool, what may be chosen (None: everything).
    """
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    largest = float((np.abs(ours - theirs) / (1.0 + np.abs(theirs))).max(initial=0.0))
    if mask is not None:
        ours, theirs = (np.where(mask, each, -np.inf) for each in (ours, theirs))
    different, ties = np.zeros(len(ours), bool), np.zeros(len(ours), bool)
    cuts = np.cumsum(branches)[:-1]
    pairs = zip(np.split(ours, cuts, axis=1), np.split(theirs, cuts, axis=1), strict=True) if len(branches) else ()
    for mine, other in pairs:
        best = np.sort(other, axis=1)
        tie = best[:, -1] - best[:, -2] < TIE * (1.0 + np.abs(best[:, -1])) if other.shape[1] > 1 else False
        apart = mine.argmax(axis=1) != other.argmax(axis=1)
        different |= apart & ~tie
        ties |= apart & tie
    return Agreement(len(ours), int(ties.sum()), int(different.sum()), largest)


def rounded(ours: np.ndarray, theirs: np.ndarray, base: np.ndarray, quantum: float) -> Agreement:
    """Compare corrections (N,) by what they come to: base (N,) and correction, rounded to multiples of the quantum.

    A tie is what lies within the margin of the middle between two multiples.
    """
    ours, theirs, base = (each.astype(np.float64) for each in (ours, theirs, base))
    mine, other = (base + ours) / quantum, (base + theirs) / quantum
    middle = np.abs(other - np.floor(other) - 0.5) * quantum
    apart = np.round(mine) != np.round(other)
    tie = middle < TIE * (1.0 + np.abs(theirs))
    largest = float((np.abs(ours - theirs) / (1.0 + np.abs(theirs))).max(initial=0.0))
    return Agreement(len(ours), int((apart & tie).sum()), int((apart & ~tie).sum()), largest)
