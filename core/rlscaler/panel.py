"""Several policies side by side, each for its own rows: how contenders are compared on the same draws."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rlscaler.arrays import State
from rlscaler.policy import Policy, Proposal, View
from rlscaler.rows import Picked


@dataclass(slots=True)
class Panel:
    """Answers for each row by the policy whose row it is.

    members: (policy, rows) pairs; rows are positions in the view, (n,) int64, disjoint and complete. One without rows
    is not asked.
    """

    members: Sequence[tuple[Policy, np.ndarray]]
    name: str = "panel"
    _sizes: tuple[int, ...] = field(init=False, default=())

    def state(self, n: int) -> State:
        """Return the members' states side by side, each as long as the panel (only its own rows are used)."""
        out: State = {}
        for index, (policy, _) in enumerate(self.members):
            out |= {f"{index}/{name}": array for name, array in policy.state(n).items()}
        return out

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Ask each member about its own rows."""
        n = view.demand.shape[0]
        replicas, patience = np.full(n, np.nan), np.zeros(n)
        reasons, trained = np.zeros(n, np.int64), np.ones(n, bool)
        tolerated, relative = np.zeros(n, bool), np.zeros(n, bool)
        for index, (policy, rows) in enumerate(self.members):
            if not rows.size:
                continue
            part = View(
                xp=view.xp,
                settings=Picked(view.settings, rows),
                snapshot=Picked(view.snapshot, rows),
                features=Picked(view.features, rows),
                demand=view.demand[rows],
                current=view.current[rows],
            )
            prefix = f"{index}/"
            memory = {k.removeprefix(prefix): v[rows] for k, v in state.items() if k.startswith(prefix)}
            proposal, memory = policy.propose(part, memory)
            for name, array in memory.items():
                state[prefix + name][rows] = array
            replicas[rows] = proposal.replicas
            for target, value in ((patience, proposal.patience), (reasons, proposal.reasons),
                                  (trained, proposal.trained), (tolerated, proposal.tolerated),
                                  (relative, proposal.relative)):  # fmt: skip
                if value is not None:
                    target[rows] = value
        return Proposal(replicas=replicas, patience=patience, reasons=reasons, trained=trained,
                        tolerated=tolerated, relative=relative), state  # fmt: skip
