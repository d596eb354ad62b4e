"""What was decided for N workloads, as arrays and in words."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscaler.reasons import names, sentence


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided for N rows at one time, every array of shape (N,).

    rows: int64. replicas: int64, -1 where the present count is unknown and nothing can be decided.
    proposal: float64, what the policy wanted (NaN: no answer). recommendation: float64, what the fallback rule
    wanted. demand: float64 replicas, NaN = unknown. reasons: int64 bits of `Reason`. error: what the policy raised.
    """

    time: np.ndarray
    rows: np.ndarray
    replicas: np.ndarray
    proposal: np.ndarray
    recommendation: np.ndarray
    demand: np.ndarray
    reasons: np.ndarray
    error: str = ""

    def explain(self, index: int = 0) -> dict[str, Any]:
        """Return the decision at `index` as plain values: JSON-ready, unknown numbers as None."""

        def plain(value: float) -> float | None:
            return round(float(value), 6) if np.isfinite(value) else None

        bits = int(self.reasons[index])
        return {
            "time": float(self.time[index]),
            "demand": plain(self.demand[index]),
            "recommendation": plain(self.recommendation[index]),
            "proposal": plain(self.proposal[index]),
            "replicas": int(self.replicas[index]),
            "reasons": list(names(bits)),
            "sentence": sentence(bits),
        }
