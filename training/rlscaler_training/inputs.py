"""What a learner's policy sees, by name: of workloads, or of another environment."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler.artifact import Artifact
from rlscaler.mlp import MlpPolicy
from rlscaler.observation import HIGH, LOAD_FIELDS, LOW, NAMES, SCHEMA, observe
from rlscaler.policy import View
from rlscaler.settings import compiled
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
TOLD = [NAMES.index(name) for name in ("reaction", "startup_share", "price")]
"""Columns that follow from what is told of a workload alone."""
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


def with_extremes(observations: np.ndarray, *pools: Pool) -> np.ndarray:
    """Return observations (N, F) and, for each pool, the first two times more with the lowest and highest that its load
    and what is told of its worlds make.

    A learner draws moments of load and worlds; where its policy may decide does not hang on which it drew.
    """
    size = NAMES.index("size")
    found = [observations]
    for pool in pools:
        observed, level = pool.observed(), pool.features["level"]
        known, told = np.isfinite(level), _told(pool)
        rows = np.repeat(observations[:1], 2, axis=0)
        for row, extreme in zip(rows, (np.min, np.max), strict=True):
            row[: len(LOAD_FIELDS)] = extreme(observed[known], axis=0)
            row[size] = np.log(extreme(level[known]) + 0.5)
            row[TOLD] = extreme(told, axis=0)
        found.append(rows)
    return np.concatenate(found)


def _told(pool: Pool) -> np.ndarray:
    """Return the columns TOLD of the observation in each load's world, (P, len(TOLD))."""
    options, nothing = compiled(pool.settings, pool.loads), np.full(pool.loads, np.nan)
    unknown = ("time", "load", "ready", "starting", "desired", "backlog", "utilization", "latency", "errors")
    view = View(
        xp=np, settings=options, snapshot=dict.fromkeys(unknown, nothing),
        features={name: array[:, -1] for name, array in pool.features.items()}, demand=nothing, current=nothing,
    )  # fmt: skip
    found: np.ndarray = observe(view)[:, TOLD]
    return found


STANDARD = Inputs(SCHEMA, tuple(NAMES), LOW, HIGH, MlpPolicy)
"""What a policy of workloads sees."""
