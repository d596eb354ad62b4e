"""A learned policy with tenure: it decides with the say that it has earned on the workload's own past, beside rules.

What the package ships as `default` is one of these in one artifact: the network, the constants of the rules beside it,
and how fast say is earned and lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.artifact import Artifact, ArtifactError
from rlscaler.container import show
from rlscaler.mlp import MlpPolicy
from rlscaler.policy import Policy, Proposal, View
from rlscaler.rules.tenure import Tenure

KIND = "tenure"
ON, ADVISORY, OFF = "On", "Advisory", "Off"
MODES = (ON, ADVISORY, OFF)
"""Whether say is earned; whether it is only told of and the learned policy decides alone; or neither."""


@dataclass(slots=True)
class Tenured:
    """Decides by the mean of the learned policy and of rules, each with the say that it has earned (`rules.tenure`).

    learned: the policy that earns its say. tenure: the rules beside it, of which `learned` is the last candidate.
    advisory: the learned policy decides alone; who would have which say is told all the same.
    """

    learned: Policy
    tenure: Tenure
    advisory: bool = False
    name: str = "tenured"
    artifact: Artifact | None = field(default=None, repr=False)

    def state(self, n: int) -> State:
        """Return the memory of n workloads, see `Hedge.state`."""
        return self.tenure.state(n)

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the weighted mean of the candidates' orders, or the learned policy's proposal where it is advisory."""
        proposal, state = self.tenure.propose(view, state)
        if not self.advisory:
            return proposal, state
        return self.learned.propose(view, {})[0], state

    def regridded(self, state: State, old: np.ndarray, new: np.ndarray) -> State:
        """Return the memory of rows at another interval, see `Hedge.regridded`."""
        return self.tenure.regridded(state, old, new)

    def condensed(self, state: State, settings: Mapping[str, Array]) -> State:
        """Return the memory in the form in which it is kept, see `Hedge.condensed`."""
        return self.tenure.hedge.condensed(state, settings)

    def whole(self, state: State) -> State:
        """Return the memory that `condensed` made smaller, see `Hedge.whole`."""
        return self.tenure.hedge.whole(state)

    def standing(self, xp: Any, state: State) -> Array:
        """Return (N, K) float64 how much say each candidate has, the learned policy being the last."""
        return self.tenure.hedge.weights(xp, state)


def mode(policy: Policy) -> str:
    """Return which of MODES a policy decides in, "" for a rule."""
    if isinstance(policy, Tenured):
        return ADVISORY if policy.advisory else ON
    return OFF if getattr(policy, "artifact", None) is not None else ""


def tenured(learned: Policy, constants: dict[str, Any], *, advisory: bool = False, name: str = "") -> Tenured:
    """Return a learned policy that earns its say. constants: of `Tenure`, those left out being its defaults.

    Raises ValueError for a policy that remembers something, or for a constant that is none.
    """
    if learned.state(1):
        raise ValueError(f"{learned.name} remembers something, and only policies that do not can earn their say")
    return Tenured(learned, Tenure(**constants, others=(learned,)), advisory, name or learned.name)


def from_network(artifact: Artifact) -> Tenured:
    """Return the policy of an artifact of this kind: an `mlp` whose parameters hold Tenure's constants too.

    Raises ArtifactError where it is none that this version can serve.
    """
    constants = artifact.manifest["parameters"].get("tenure")
    known = set(Tenure.PARAMETERS)
    if not isinstance(constants, dict) or set(constants) - known:
        raise ArtifactError(f"{artifact.name}: parameters.tenure is {show(constants)}; expected constants of "
                            f"{', '.join(sorted(known))}")  # fmt: skip
    for name, value in constants.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            raise ArtifactError(f"{artifact.name}: parameters.tenure.{name} is {show(value)}; expected a number")
    return replace(tenured(MlpPolicy(artifact), constants), artifact=artifact)
