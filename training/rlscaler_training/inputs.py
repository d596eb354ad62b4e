"""What a learner's policy sees, by name: of workloads, or of another environment."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler.artifact import Artifact
from rlscaler.mlp import MlpPolicy
from rlscaler.observation import HIGH, LOAD_FIELDS, LOW, NAMES, SCHEMA
from rlscaler_sim.pool import Pool

AGING = ("experience",)
"""Fields that grow as long as a workload lives, and so leave whatever range they had in training."""
DAILY = (
    "quarter_mean", "quarter_high", "yesterday", "versus_profile",
    *(field.name for field in LOAD_FIELDS if field.name.startswith("ahead_")),
)  # fmt: skip
"""Fields that say how this time of the day usually is."""
WEEKLY = ("lastweek",)
"""Fields that say how this time of the week was."""
DAY, TWICE = 86_400.0, 2.0
"""Seconds; and the days, or weeks, of load from which on something is learned of what the one before was like."""


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """The fields of an observation.

    schema: for the artifact's manifest. names, low, high: of the F fields, (F,) float32. served: reads an artifact of a
    network that was trained on them, into what has its `network`, `columns`, `output` and `scheme`. parameters: what
    the manifest says beside.
    """

    schema: str
    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    served: Callable[[Artifact], Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def learnable(seconds: float, fields: Sequence[str] = tuple(NAMES)) -> tuple[str, ...]:
    """Return those of the fields that a network can learn from in so many seconds of load, and read on any later day.

    What hardly moves in a short training moves once a workload is older: a network that read it would be outside of its
    training range for good.
    """
    silent = {*AGING, *(DAILY if seconds < TWICE * DAY else ()), *(WEEKLY if seconds < TWICE * 7.0 * DAY else ())}
    return tuple(name for name in fields if name not in silent)


def with_extremes(observations: np.ndarray, pool: Pool) -> np.ndarray:
    """Return observations (N, F) and, as two more rows, the first with the lowest and highest that the load makes.

    A learner draws moments of the load; that all of them are its training range does not hang on which it drew.
    """
    observed, level = pool.observed(), pool.features["level"]
    known, size = np.isfinite(level), NAMES.index("size")
    rows = np.repeat(observations[:1], 2, axis=0)
    for row, extreme in zip(rows, (np.min, np.max), strict=True):
        row[: len(LOAD_FIELDS)] = extreme(observed[known], axis=0)
        row[size] = np.log(extreme(level[known]) + 0.5)
    return np.concatenate([observations, rows])


STANDARD = Inputs(SCHEMA, tuple(NAMES), LOW, HIGH, MlpPolicy)
"""What a policy of workloads sees."""
