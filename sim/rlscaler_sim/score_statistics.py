"""What can be said of scores over few traces: interquartile means and bootstrap intervals over source families.

The interquartile mean and its stratified bootstrap follow Agarwal et al., "Deep reinforcement learning at the edge
of the statistical precipice" (NeurIPS 2021); here whole families of traces are drawn, since traces of one source
resemble each other.
"""

from collections.abc import Callable, Sequence

import numpy as np

DRAWS = 2000


def iqm(values: np.ndarray) -> float:
    """Return the mean of the middle half of the values (fractions of values counted at its ends); NaN if empty."""
    values = np.sort(np.asarray(values, np.float64))
    n = len(values)
    if n == 0:
        return float("nan")
    position = np.arange(n)
    weight = np.clip(np.minimum(position + 1, 0.75 * n) - np.maximum(position, 0.25 * n), 0.0, 1.0)
    return float((weight * values).sum() / weight.sum())


def interval(
    values: np.ndarray,
    families: Sequence[str],
    statistic: Callable[[np.ndarray], float],
    rng: np.random.Generator,
    level: float = 0.9,
) -> tuple[float, float]:
    """Return the bootstrap interval of a statistic over whole families, drawn with replacement.

    values: (traces,). families: of the traces. Returns the (1 - level) / 2 quantiles from below and above.
    """
    groups = [np.flatnonzero(np.asarray(families) == name) for name in dict.fromkeys(families)]
    if not groups:
        return float("nan"), float("nan")
    found = np.empty(DRAWS)
    for draw in range(DRAWS):
        picked = rng.integers(len(groups), size=len(groups))
        found[draw] = statistic(values[np.concatenate([groups[g] for g in picked])])
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
