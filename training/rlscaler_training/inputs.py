"""What a learner's policy sees, by name: of workloads, or of another environment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler.artifact import Artifact
from rlscaler.mlp import MlpPolicy
from rlscaler.observation import HIGH, LOW, NAMES, SCHEMA


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


STANDARD = Inputs(SCHEMA, tuple(NAMES), LOW, HIGH, MlpPolicy)
"""What a policy of workloads sees."""
