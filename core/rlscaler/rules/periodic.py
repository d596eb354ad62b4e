"""What load that repeats itself needs next: the most that came one period ago within the coming reaction time.

It has an answer only while the load repeats itself (see `period`), so it is a candidate beside others and no policy of
its own.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from rlscaler.arrays import State
from rlscaler.policy import Proposal, View
from rlscaler.rules.parameters import Parameter, backlog_replicas, check, unknown, values


@dataclass(slots=True, kw_only=True)
class Periodic:
    """The rule for load that repeats itself; each constant a float or an array of shape (N,)."""

    PARAMETERS: ClassVar[dict[str, Parameter]] = {
        "root": Parameter(0.5, 0.0, 1.5, False, "replicas for each square root of the coming load in replicas"),
        "drain": Parameter(15.0, 2.0, 120.0, True, "seconds within which the backlog is to be drained"),
    }
    root: Any = PARAMETERS["root"].default
    drain: Any = PARAMETERS["drain"].default
    name: str = "periodic"

    def __post_init__(self) -> None:
        """Raise ValueError for a parameter that is no finite number."""
        check(self)

    def state(self, n: int) -> State:
        """Return no state."""
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return load + root x sqrt(load) + backlog / (capacity x drain) of the larger of coming and newest load.

        NaN where the load is unknown, or does not repeat itself.
        """
        xp, f, p = view.xp, view.features, values(self, view)
        level, again = xp.astype(f["level"], xp.float64), xp.astype(f["again"], xp.float64)
        load = xp.maximum((level + 0.5) * xp.exp(again) - 0.5, xp.astype(f["latest"], xp.float64))
        load = xp.clip(load, 0.0, None)
        replicas = load + p["root"] * xp.sqrt(load) + backlog_replicas(view, p["drain"])
        answer = ~xp.isnan(view.demand) & (f["period"] > 0.0)
        return Proposal(replicas=xp.where(answer, replicas, unknown(view))), state
