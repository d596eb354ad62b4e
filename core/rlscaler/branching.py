"""A branching dueling network as a policy, run by the array library alone (Tavakoli, Pardo & Kormushev 2018).

Two encoders, one over the short window (fields of the group `micro`) and one over the day, the week and the own
growth (`macro`), are joined with the workload's state in a trunk. From it come the value of the situation and, for each
branch of the action scheme, the advantage of each choice over the mean of its branch: Q = V + A - mean A.

As in `mlp`, rows are multiplied in blocks of one size, so that a row is answered alike in any batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler.action import chosen_by
from rlscaler.arrays import Array, State
from rlscaler.artifact import ArtifactError
from rlscaler.mlp import ACTIVATIONS, BLOCK, chosen
from rlscaler.network_policy import Layers, NetworkPolicy
from rlscaler.observation import FIELDS
from rlscaler.policy import Proposal, View

KIND = "branching"
ENCODED = ("micro", "macro")
"""Groups of fields that have an encoder of their own; the others go straight to the trunk."""
FARTHEST = 10.0
"""Normalised inputs are held within this of 0: a network says nothing of what is farther off."""
GROUPS = {field.name: field.group for field in FIELDS}


def parts(fields: Sequence[str], branches: int) -> tuple[str, ...]:
    """Return the names of a network's parts: an encoder for each encoded group that has fields, then the rest."""
    encoders = (group for group in ENCODED if any(GROUPS[name] == group for name in fields))
    return (*encoders, "trunk", "value", *(f"branch_{index}" for index in range(branches)))


def columns(fields: Sequence[str], group: str) -> np.ndarray:
    """Return which of the fields go into the encoder of a group, (n,) int64; `trunk`: which go to the trunk."""
    of = [GROUPS[name] if GROUPS[name] in ENCODED else "trunk" for name in fields]
    return np.flatnonzero(np.array(of) == group)


@dataclass(frozen=True, slots=True)
class BranchingNetwork:
    """The parts of `parts`, each some layers with an activation after every one but the last of value and branches.

    fields: names of the inputs. mean, scale: (in,) float32; inputs are (x - mean) / scale, within FARTHEST. block: rows
    of a matrix product.
    """

    fields: Sequence[str]
    layers: dict[str, Layers]
    activation: str
    mean: np.ndarray
    scale: np.ndarray
    block: int = BLOCK

    def __call__(self, xp: Any, inputs: Array) -> Array:
        """Return Q (N, choices of all branches side by side) float32 of the inputs (N, in) float32.

        A row's do not depend on the others.
        """
        device = getattr(inputs, "device", None)

        def own(array: np.ndarray) -> Array:
            return array if xp is np else xp.asarray(array, device=device)

        layers = {part: [(own(w), own(b)) for w, b in found] for part, found in self.layers.items()}
        where = {part: own(columns(self.fields, part)) for part in (*ENCODED, "trunk")}
        n = inputs.shape[0]
        padding = -n % self.block
        x = xp.clip((inputs - own(self.mean)) / own(self.scale), -FARTHEST, FARTHEST)
        if padding:
            x = xp.concat([x, xp.zeros((padding, x.shape[1]), dtype=x.dtype, device=device)], axis=0)
        begins = range(0, n + padding, self.block)
        done = [self._block(xp, x[begin : begin + self.block], layers, where) for begin in begins]
        if not done:
            width = sum(found[-1][1].shape[0] for part, found in self.layers.items() if part.startswith("branch_"))
            return xp.zeros((0, width), dtype=xp.float32, device=device)
        return xp.concat(done, axis=0)[:n]

    def _block(self, xp: Any, x: Array, layers: dict[str, Any], where: dict[str, Array]) -> Array:
        activation = ACTIVATIONS[self.activation]

        def through(part: str, y: Array, last: bool) -> Array:
            for index, (weight, bias) in enumerate(layers[part]):
                y = xp.matmul(y, weight) + bias
                if last or index < len(layers[part]) - 1:
                    y = activation(xp, y)
            return y

        encoded = [through(group, x[:, where[group]], True) for group in ENCODED if group in layers]
        trunk = through("trunk", xp.concat([*encoded, x[:, where["trunk"]]], axis=1), True)
        value = through("value", trunk, False)
        advantages = [through(part, trunk, False) for part in layers if part.startswith("branch_")]
        return xp.concat([value + a - xp.mean(a, axis=1, keepdims=True) for a in advantages], axis=1)


@dataclass(slots=True)
class BranchingPolicy(NetworkPolicy):
    """Serves a branching network from an artifact: in each branch the choice with the highest Q.

    The artifact's arrays are `PART_weight_0`, `PART_bias_0`, `PART_weight_1` ... for each part of `parts`, with `mean`
    and `scale`; its parameter is `activation` (of `mlp.ACTIVATIONS`).
    """

    network: BranchingNetwork = field(init=False, compare=False)

    def read(self, parameters: dict[str, Any]) -> None:
        """Take the network from the artifact; raise ArtifactError where it is none that this version can serve."""
        activation = self.one_of(parameters, "activation", ACTIVATIONS)
        fields = self.fields
        names = parts(fields, len(self.scheme.branches))
        counts = {part: sum(name.startswith(f"{part}_weight_") for name in self.artifact.arrays) for part in names}
        self.require_arrays(
            {
                f"{part}_{kind}_{layer}"
                for part in names
                for layer in range(max(1, counts[part]))
                for kind in ("weight", "bias")
            },
            f"mean, scale, and PART_weight_0, PART_bias_0 and so on for each of {', '.join(names)}",
        )
        mean, scale = self.normalisation()
        layers: dict[str, Layers] = {}
        encoded = 0
        for part in names:
            width = len(columns(fields, part)) if part in ENCODED else encoded
            if part == "trunk":
                width += len(columns(fields, part))
            layers[part], width = self.layers(f"{part}_", counts[part], width)
            encoded = encoded + width if part in ENCODED else width if part == "trunk" else encoded
        for part, outputs in zip(names[-1 - len(self.scheme.branches) :], (1, *self.scheme.branches), strict=True):
            if (found := layers[part][-1][1].shape[0]) != outputs:
                raise ArtifactError(f"{self.name}: the last layer of {part} has {found} outputs; expected {outputs}")
        self.network = BranchingNetwork(fields, layers, activation, mean, scale)

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the proposal of the best allowed choice of each branch."""
        inputs, trained = self.inputs(view)
        values = self.network(view.xp, inputs)
        proposal = chosen_by(view, self.scheme.propose(view, chosen(view, self.scheme, values)), values)
        proposal.trained = trained
        return proposal, state
