"""What can be said of few training runs: interquartile means, probability of improvement, and which beats which.

The statistics are those of rliable (Agarwal et al., "Deep reinforcement learning at the edge of the statistical
precipice", NeurIPS 2021, arXiv 2108.13264): bootstrap samples are stratified, that is runs are drawn with replacement
within each task and every task stays. The intervals are therefore about other seeds, not about other tasks. Values are
regrets: lower is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
"""Bootstrap samples, as in rliable."""
LEVEL = 0.95
"""Coverage of the intervals, as in rliable."""
LEAST_RUNS = 3
"""Runs of a task without which nothing is told: resampling one or two of them says nothing of others."""
Runs = Sequence[np.ndarray]
"""For each task the values (runs,) of one contender; tasks may have been run a different number of times."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic and its bootstrap interval."""

    value: float
    low: float
    high: float


def _resampled(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return bootstrap samples (DRAWS, runs) of the runs of one task."""
    drawn: np.ndarray = values[rng.integers(len(values), size=(DRAWS, len(values)))]
    return drawn


def _estimate(value: float, samples: np.ndarray) -> Estimate:
    low, high = np.quantile(samples, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    return Estimate(value, float(low), float(high))


def interquartile_mean(runs: Runs, rng: np.random.Generator) -> Estimate:
    """Return the mean of the middle half of all runs of all tasks. Raises ValueError where there is no run."""
    if not sum(map(len, runs)):
        raise ValueError("there are no runs; expected one at least")
    together = np.concatenate([_resampled(task, rng) for task in runs if len(task)], axis=1)
    return _estimate(float(_middle(np.concatenate(runs))), _middle(together))


def _middle(values: np.ndarray) -> np.ndarray:
    """Return `score_statistics.iqm` over the last axis."""
    n = values.shape[-1]
    place = np.arange(n)
    weight = np.clip(np.minimum(place + 1, 0.75 * n) - np.maximum(place, 0.25 * n), 0.0, 1.0)
    middle: np.ndarray = np.sort(values, axis=-1) @ weight / weight.sum()
    return middle


def improvement(ours: Runs, theirs: Runs, rng: np.random.Generator) -> Estimate:
    """Return the probability that a run of ours is better than one of theirs on the same task, averaged over tasks.

    It is the Mann-Whitney statistic of each task, ties counting half. Raises ValueError where no task was run by both.
    """
    both = [(our, their) for our, their in zip(ours, theirs, strict=True) if len(our) and len(their)]
    if not both:
        raise ValueError("no task was run by both")

    def won(our: np.ndarray, their: np.ndarray) -> np.ndarray:
        """Return the share of pairs (.., ours) x (.., theirs) that ours wins."""
        left, right = our[..., :, None], their[..., None, :]
        share: np.ndarray = ((left < right) + 0.5 * (left == right)).mean(axis=(-2, -1))
        return share

    value = float(np.mean([won(our, their) for our, their in both]))
    samples = np.mean([won(_resampled(our, rng), _resampled(their, rng)) for our, their in both], axis=0)
    return _estimate(value, samples)


HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
"""What can be said of `one is better than the other`."""


def verdict(chance: Estimate, runs: int) -> str:
    """Return whether the first of `improvement` is better: where the whole interval lies on one side of one half.

    runs: the fewest of a task.
    """
    if runs < LEAST_RUNS:
        return OPEN
    return HOLDS if chance.low > 0.5 else FAILS if chance.high < 0.5 else OPEN
