"""The own-history growth rule: order what the workload's own past says it may need within one reaction time.

The logarithm of the headroom is a weighted sum of what the history tells (each relative to the present level):
the five-minute maximum, the newest sample, the headroom that the growth histogram of the present trend makes
cheapest, the growth usual in this quarter-hour and yesterday's growth; a term in sqrt(level) covers the scatter of
counts, and the backlog is to be drained within a stated time. It costs nothing to run.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from rlscaler.arrays import State
from rlscaler.policy import Proposal, View
from rlscaler.rules.parameters import Parameter, backlog_replicas, check, unknown, values


@dataclass(slots=True, kw_only=True)
class Growth:
    """The own-history growth rule; each constant a float or an array of shape (N,)."""

    PARAMETERS: ClassVar[dict[str, Parameter]] = {
        "peak": Parameter(0.5, 0.0, 1.2, False, "weight of the maximum over 5 minutes"),
        "latest": Parameter(0.4, 0.0, 1.2, False, "weight of the newest sample"),
        "cheap": Parameter(0.5, 0.0, 1.2, False, "weight of the cheapest headroom in the present class of trend"),
        "quarter": Parameter(0.2, 0.0, 1.0, False, "weight of the growth usual in this quarter-hour of the day"),
        "yesterday": Parameter(0.2, 0.0, 1.0, False, "weight of yesterday's growth at this time"),
        "root": Parameter(0.3, 0.0, 1.5, False, "replicas for each square root of the level in replicas"),
        "drain": Parameter(15.0, 2.0, 120.0, True, "seconds within which the backlog is to be drained"),
        "hold": Parameter(15.0, 0.0, 120.0, False, "seconds to keep replicas before lowering them"),
    }
    BROADCASTS: ClassVar[bool] = True
    """Constants (K,) and a view of (N, 1) make proposals (N, K)."""
    peak: Any = PARAMETERS["peak"].default
    latest: Any = PARAMETERS["latest"].default
    cheap: Any = PARAMETERS["cheap"].default
    quarter: Any = PARAMETERS["quarter"].default
    yesterday: Any = PARAMETERS["yesterday"].default
    root: Any = PARAMETERS["root"].default
    drain: Any = PARAMETERS["drain"].default
    hold: Any = PARAMETERS["hold"].default
    name: str = "growth-quantile"

    def __post_init__(self) -> None:
        """Raise ValueError for a parameter that is no finite number."""
        check(self)

    def state(self, n: int) -> State:
        """Return no state."""
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return level x e^headroom + root x sqrt(level) + backlog / (capacity x drain); NaN where load is unknown."""
        xp, f, p = view.xp, view.features, values(self, view)
        level = xp.astype(f["level"], xp.float64)
        headroom = (
            p["peak"] * f["max_5m"]
            + p["latest"] * f["rel_latest"]
            + p["cheap"] * f["trend_cheap"]
            + p["quarter"] * xp.clip(f["quarter_mean"], 0.0, None)
            + p["yesterday"] * xp.clip(f["yesterday"], 0.0, None)
        )
        replicas = (level + 0.5) * xp.exp(headroom) - 0.5 + p["root"] * xp.sqrt(level)
        replicas = replicas + backlog_replicas(view, p["drain"])
        replicas = xp.where(xp.isnan(view.demand), unknown(view), replicas)
        return Proposal(replicas=replicas, patience=xp.zeros_like(replicas) + p["hold"]), state
