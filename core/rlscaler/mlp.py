"""A small neural network as a policy, run by the array library alone: what every deep learner exports.

The same rows give the same answers whatever batch they come in: matrix products of other sizes differ in their last
bits, so rows are multiplied in blocks of one size, padded (`BLOCK`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler.action import HOLD, Scheme, chosen_by, headroom_proposal
from rlscaler.arrays import Array, State
from rlscaler.artifact import ArtifactError
from rlscaler.container import show
from rlscaler.network_policy import NetworkPolicy
from rlscaler.policy import Proposal, View

KIND = "mlp"
BLOCK = 64
"""Rows of a matrix product."""
LARGEST_CORRECTION = 5.0
"""Bound of a continuous correction of the log headroom; on-off load needs it wide."""


def _silu(xp: Any, x: Array) -> Array:
    return x / (1.0 + xp.exp(-xp.clip(x, -60.0, None)))


ACTIVATIONS: dict[str, Callable[[Any, Array], Array]] = {
    "relu": lambda xp, x: xp.clip(x, 0.0, None),
    "tanh": lambda xp, x: xp.tanh(x),
    "silu": _silu,
}
"""What may stand between the layers."""
OUTPUTS = ("choices", "correction")
"""What the last layer means: a value for each choice of the action scheme, the highest of each branch being taken; or
one number, the correction of the log headroom."""


@dataclass(frozen=True, slots=True)
class Network:
    """Layers of y = x W + b with an activation between them. weights: (in, out) float32. biases: (out,) float32.

    mean, scale: (in,) float32; inputs are (x - mean) / scale. block: rows of a matrix product.
    """

    weights: Sequence[np.ndarray]
    biases: Sequence[np.ndarray]
    activation: str
    mean: np.ndarray
    scale: np.ndarray
    block: int = BLOCK

    def __call__(self, xp: Any, inputs: Array) -> Array:
        """Return the outputs (N, out) float32 of the inputs (N, in) float32; a row's do not depend on the others."""
        device = getattr(inputs, "device", None)

        def own(array: np.ndarray) -> Array:
            return array if xp is np else xp.asarray(array, device=device)

        n = inputs.shape[0]
        if n == 0:
            return xp.zeros((0, self.biases[-1].shape[0]), dtype=xp.float32, device=device)
        padding = -n % self.block
        x = (inputs - own(self.mean)) / own(self.scale)
        if padding:
            x = xp.concat([x, xp.zeros((padding, x.shape[1]), dtype=x.dtype, device=device)], axis=0)
        activation = ACTIVATIONS[self.activation]
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if index:
                x = activation(xp, x)
            factor = own(weight)
            parts = [xp.matmul(x[begin : begin + self.block], factor) for begin in range(0, n + padding, self.block)]
            x = (xp.concat(parts, axis=0) if len(parts) > 1 else parts[0]) + own(bias)
        return x[:n]


@dataclass(slots=True)
class MlpPolicy(NetworkPolicy):
    """Serves a network from an artifact.

    The artifact's arrays are `weight_0`, `bias_0`, `weight_1` ... with `mean` and `scale`; its parameters
    `activation` (of ACTIVATIONS), `output` (of OUTPUTS) and, with a correction, `patience` in seconds.
    """

    network: Network = field(init=False, compare=False)
    output: str = field(init=False)
    patience: float = field(init=False)

    def read(self, parameters: dict[str, Any]) -> None:
        """Take the network from the artifact; raise ArtifactError where it is none that this version can serve."""
        self.output = self.one_of(parameters, "output", OUTPUTS)
        activation = self.one_of(parameters, "activation", ACTIVATIONS)
        patience = parameters.get("patience", HOLD)
        if isinstance(patience, bool) or not isinstance(patience, (int, float)) or patience < 0.0:
            raise ArtifactError(f"{self.name}: parameters.patience is {show(patience)}; expected seconds, 0 or more")
        self.patience = float(patience)
        count = sum(name.startswith("weight_") for name in self.artifact.arrays)
        names = {f"{part}_{layer}" for layer in range(max(1, count)) for part in ("weight", "bias")}
        self.require_arrays(names, "weight_0, bias_0 and so on, mean and scale")
        mean, scale = self.normalisation()
        layers, outputs = self.layers("", count, len(self.fields))
        expected = sum(self.scheme.branches) if self.output == "choices" else 1
        if outputs != expected:
            raise ArtifactError(f"{self.name}: the last layer has {outputs} outputs; expected {expected}")
        self.network = Network([weight for weight, _ in layers], [bias for _, bias in layers], activation, mean, scale)

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the proposal of the network: the best allowed choice, or the corrected headroom."""
        xp, device = view.xp, getattr(view.demand, "device", None)
        inputs, trained = self.inputs(view)
        outputs = self.network(xp, inputs)
        if self.output == "correction":
            correction = xp.clip(outputs[:, 0], -LARGEST_CORRECTION, LARGEST_CORRECTION)
            patience = xp.full(view.demand.shape, self.patience, dtype=xp.float64, device=device)
            proposal = headroom_proposal(view, correction, patience)
        else:
            proposal = chosen_by(view, self.scheme.propose(view, chosen(view, self.scheme, outputs)), outputs)
        proposal.trained = trained
        return proposal, state


def chosen(view: View, of: Scheme, values: Array) -> Array:
    """Return the best allowed choice of each branch, (N,) int64 with one branch, else (N, branches).

    values: (N, choices of all branches side by side). The mask is of the first branch; ties go to the first choice.
    """
    xp = view.xp
    first = xp.where(of.mask(view), values[:, : of.branches[0]], -xp.inf)
    found = [xp.argmax(first, axis=1)]
    begin = of.branches[0]
    for count in of.branches[1:]:
        found.append(xp.argmax(values[:, begin : begin + count], axis=1))
        begin += count
    return found[0] if len(found) == 1 else xp.stack(found, axis=1)
