"""The workloads that one `Autoscaler` decides for: those of one policy whose guards remember about as much of each.

What a pool's policy remembers is kept under the policy's name and taken back where it fits; a policy that is slow gives
way to the rule for a while.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from rlscaler import Autoscaler, Snapshot, budget, overstated
from rlscaler.arrays import State
from rlscaler.decisions import Decisions
from rlscaler.memory import guard_bytes, require_alike
from rlscaler.policy import Policy, Proposal, Regridded, View
from rlscaler.reasons import Reason
from rlscaler.settings import Settings
from rlscaler.tenured import Tenured
from rlscaler_operator.model import Key, PolicyInUse, Readings, Target

BUDGET, EACH = 0.25, 0.001
"""Seconds that a policy may take for a batch, and for each workload of it besides."""
REST, LEAST_REST = 20.0, 60.0
"""A policy that takes longer rests for so many times as long, and at least for so many seconds: it costs the loop no
more than a twentieth."""
NARROW, WIDER = 8192, 4
"""Bytes that a guard may remember of a workload among all others, and times as many of which each further pool takes
those that ask for more: within a pool, the widest is everybody's width.
"""

_READINGS = ("load", "backlog", "latency", "errors", "utilization")

log = logging.getLogger("rlscaler.deciding")


@dataclass(slots=True)
class Pool:
    """The workloads of one policy whose guards remember about as much. breadth: how much, see `breadth_of`."""

    policy: Policy
    in_use: PolicyInUse
    breadth: int
    scaler: Autoscaler
    rows: dict[Key, int] = field(default_factory=dict)
    rests_until: float = -np.inf
    slowness: str = ""

    def called(self, part: str) -> str:
        """Return what a part of the memory is called where it is kept: "policy", "leader" in it, "rule" beside it.

        And "interval", in which that of the policy is told.
        """
        if part == "rule":
            return f"rule {self.scaler.fallback.name}"
        return f"{part} {self.in_use.name} {self.in_use.digest}"

    def kept(self, memory: State, rows: np.ndarray) -> State:
        """Return what the policy remembers of the rows in the form in which it is kept."""
        policy = self.policy
        return policy.condensed(memory, self.scaler.settings(rows)) if isinstance(policy, Tenured) else memory

    def restored(self, memory: State, rows: int) -> State | None:
        """Return what `kept` made of a memory of so many rows, None where this version cannot take it."""
        memory = self.policy.whole(memory) if isinstance(self.policy, Tenured) else memory
        try:
            require_alike("policy", memory, self.policy.state(1), rows)
        except ValueError as problem:
            log.warning("policy %s begins with an empty memory: %s", self.in_use.name, problem)
            return None
        return memory

    def paced(self, rows: np.ndarray) -> dict[str, State]:
        """Return the seconds between decisions of the rows as a part that is kept, where a memory is told in these."""
        if not isinstance(self.policy, Regridded):
            return {}
        return {"interval": {"interval": self.scaler.settings(rows)["interval"]}}

    def at_pace(self, memory: State, kept: State, rows: Sequence[int]) -> State:
        """Return what the policy remembers of the rows, told in their present intervals. kept: as of `paced`.

        What was kept before that was told is taken to be of the same interval.
        """
        new, old = self.scaler.settings(rows)["interval"], kept.get("interval", np.empty(0))
        sound = old.shape == new.shape and old.dtype == new.dtype and bool(np.all(np.isfinite(old) & (old > 0.0)))
        if not isinstance(self.policy, Regridded) or not sound or np.array_equal(old, new):
            return memory
        return self.policy.regridded(memory, old, new)

    def led(self, memory: State, rows: int) -> list[int]:
        """Return who led each of so many rows, by number of the candidate, as was kept; -1: nobody, or not known."""
        leaders = memory.get("leader", np.empty(0))
        if not isinstance(self.policy, Tenured) or leaders.shape != (rows,) or leaders.dtype != np.int64:
            return [-1] * rows
        kept: list[int] = np.where((leaders >= 0) & (leaders < self.policy.tenure.hedge.size), leaders, -1).tolist()
        return kept

    def is_of(self, policy: Policy, in_use: PolicyInUse) -> bool:
        """Tell whether the policy of the pool is this one."""
        return self.in_use == in_use and bool(in_use.digest or self.policy == policy)

    def remembers_as(self, other: "Pool") -> bool:
        """Tell whether what its policy remembers means the same to another pool's, as in On and Advisory."""
        if self.is_of(other.policy, other.in_use):
            return True
        alike = isinstance(self.policy, Tenured) and isinstance(other.policy, Tenured)
        return alike and bool(self.in_use.digest) and self.called("policy") == other.called("policy")

    def snapshot(
        self,
        keys: Sequence[Key],
        time: Mapping[Key, float],
        readings: Mapping[Key, Readings],
        targets: Mapping[Key, Target],
    ) -> tuple[np.ndarray, Snapshot]:
        """Return the rows of some of the workloads, and what is known of them now."""
        rows = np.array([self.rows[key] for key in keys], np.int64)
        read = {name: np.array([getattr(readings[key], name) for key in keys]) for name in _READINGS}
        counts = np.array([(targets[key].ready, targets[key].starting, targets[key].desired) for key in keys], float)
        snapshot = Snapshot(
            time=np.array([time[key] for key in keys]), ready=counts[:, 0], starting=counts[:, 1], desired=counts[:, 2],
            **read,
        )  # fmt: skip
        return rows, snapshot

    def proposed(self, view: View, rows: np.ndarray, timer: Callable[[], float]) -> tuple[Proposal, str]:
        """Return what the policy wants and what it raised; nothing, and why, while it rests from having been slow.

        timer: seconds, any origin.
        """
        began = timer()
        if began < self.rests_until:
            return Proposal(replicas=np.full(len(rows), np.nan)), self.slowness
        proposal, error = self.scaler.propose(view, rows)
        took, budget = timer() - began, BUDGET + EACH * len(rows)
        if took > budget and self.policy != self.scaler.fallback:
            rest = max(LEAST_REST, REST * took)
            self.rests_until = began + took + rest
            batch = f"{len(rows)} workload" + ("" if len(rows) == 1 else "s")
            self.slowness = (
                f"it took {took:.2g} s for {batch}; expected at most {budget:.2g} s, so it is not asked for "
                f"{rest:.0f} s: give the operator more CPU, or use a smaller policy"
            )
            log.warning("policy %s is slow: %s", self.policy.name, self.slowness)
        return proposal, error

    def overstated(self, rows: np.ndarray, made: Decisions) -> np.ndarray:
        """Return by how much the stated capacity of each row was taken to be too high, (N,) float64, 1 = not at all."""
        doubted = (made.reasons & int(Reason.CapacityOverstated)) != 0
        if not doubted.any():
            return np.ones(len(rows))
        found = overstated.factor(np, self.scaler.memory(rows, ("guard",))["guard"])
        return np.asarray(np.where(doubted, found, 1.0))

    def missed(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the share that was late in the objective's window (0: none) and the headroom's multiple, both (N,)."""
        late, spare = np.zeros(len(rows)), np.ones(len(rows))
        windowed = np.flatnonzero(np.isfinite(self.scaler.settings(rows)[budget.WINDOW]))
        if len(windowed):
            some = rows[windowed]
            state = self.scaler.memory(some, ("guard",))["guard"]
            found = budget.multiple(np, state, self.scaler.settings(some))
            if found is not None:
                late[windowed], spare[windowed] = budget.late_of(np, state), found
        return late, spare

    def earned(self, rows: Sequence[int], which: np.ndarray) -> State:
        """Return what the policy remembers of some of these rows, where say is earned in it; else nothing."""
        if not isinstance(self.policy, Tenured):
            return {}
        return self.scaler.memory(np.array(rows)[which], ("policy",))["policy"]


def breadth_of(settings: Settings) -> int:
    """Return the number of the pool, by how much the guard remembers of a workload: 0 is everyday's."""
    (behavior,) = settings.behavior if isinstance(settings.behavior, Sequence) else (settings.behavior,)
    needed = guard_bytes(behavior, float(settings.interval))
    return max(0, math.ceil(math.log(needed / NARROW, WIDER)))
