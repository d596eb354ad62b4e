"""A tabular policy: readable bins over a few fields of the observation, one row of values for each state."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler.action import Scheme, chosen_by, scheme
from rlscaler.arrays import Array, State
from rlscaler.artifact import Artifact, ArtifactError
from rlscaler.observation import NAMES, observe
from rlscaler.policy import Proposal, View

KIND = "q-table"


@dataclass(frozen=True, slots=True)
class Bins:
    """Cuts over named fields of the observation; a state is the mixed-radix number of the bins.

    cuts: field name -> ascending cut points; k cuts make k + 1 bins, the upper one starting at the cut. In the
    manifest of an artifact they are a list of pairs [name, cuts], since an object there has no order. names: of the
    observation's columns.
    """

    cuts: dict[str, tuple[float, ...]]
    names: Sequence[str] = NAMES

    @property
    def states(self) -> int:
        """The number of states."""
        return int(np.prod([len(c) + 1 for c in self.cuts.values()]))

    def index(self, xp: Any, observation: Array) -> Array:
        """Return the state of each row of the observation, (N,) int64."""
        device = getattr(observation, "device", None)
        state = xp.zeros((observation.shape[0],), dtype=xp.int64, device=device)
        for name, cuts in self.cuts.items():
            column = observation[:, self.names.index(name)]
            digit = xp.zeros(state.shape, dtype=xp.int64, device=device)
            for cut in cuts:
                digit = digit + xp.astype(column >= cut, xp.int64)
            state = state * (len(cuts) + 1) + digit
        return state


@dataclass(slots=True)
class TablePolicy:
    """Serves a Q-table from an artifact: the best allowed action of the present state, ties to the middle action."""

    artifact: Artifact
    name: str = field(init=False)
    bins: Bins = field(init=False, compare=False)
    values: np.ndarray = field(init=False, compare=False)
    scheme: Scheme = field(init=False)

    def __post_init__(self) -> None:
        """Read the artifact; raise ArtifactError where it holds no table that this version can serve."""
        manifest = self.artifact.manifest
        self.name = str(manifest["name"])
        self.scheme = scheme(manifest["action_scheme"])
        try:
            cuts = {str(k): tuple(float(c) for c in v) for k, v in manifest["parameters"]["bins"]}
            values = np.asarray(self.artifact.arrays["values"], np.float64)
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise ArtifactError(
                f"{self.name}: a q-table needs parameters.bins and the array values ({problem})"
            ) from problem
        unknown = sorted(set(cuts) - set(NAMES))
        ordered = all(list(c) == sorted(c) for c in cuts.values())
        if unknown or not ordered or not cuts:
            raise ArtifactError(
                f"{self.name}: parameters.bins is {json.dumps(cuts)[:200]}; expected ascending cuts over fields of the "
                f"observation{', not ' + unknown[0] if unknown else ''}"
            )
        self.bins = Bins(cuts)
        expected = (self.bins.states, self.scheme.branches[0])
        if values.shape != expected or len(self.scheme.branches) > 1:
            raise ArtifactError(f"{self.name}: the array values has shape {values.shape}; expected {expected}")
        middle = (expected[1] - 1) / 2
        self.values = values - 1e-9 * np.abs(np.arange(expected[1]) - middle)

    def state(self, n: int) -> State:
        """Return no state."""
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the proposal of the best allowed action."""
        xp = view.xp
        index = self.bins.index(xp, observe(view))
        values = xp.asarray(self.values, device=getattr(view.demand, "device", None))[index]
        best = xp.argmax(xp.where(self.scheme.mask(view), values, -xp.inf), axis=1)
        return chosen_by(view, self.scheme.propose(view, best), values), state
