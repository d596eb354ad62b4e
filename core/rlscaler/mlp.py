"""A small neural network as a policy, run by the array library alone: what every deep learner exports.

The same rows give the same answers whatever batch they come in: matrix products of other sizes differ in their last
bits, so rows are multiplied in blocks of one size, padded (`BLOCK`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler.action import HOLD, Scheme, headroom_proposal, scheme
from rlscaler.arrays import Array, State
from rlscaler.artifact import Artifact, ArtifactError
from rlscaler.observation import NAMES, observe
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

    mean, scale: (in,) float32; inputs are (x - mean) / scale.
    """

    weights: Sequence[np.ndarray]
    biases: Sequence[np.ndarray]
    activation: str
    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, xp: Any, inputs: Array) -> Array:
        """Return the outputs (N, out) float32 of the inputs (N, in) float32; a row's do not depend on the others."""
        device = getattr(inputs, "device", None)

        def own(array: np.ndarray) -> Array:
            return array if xp is np else xp.asarray(array, device=device)

        n = inputs.shape[0]
        padding = -n % BLOCK
        x = (inputs - own(self.mean)) / own(self.scale)
        if padding:
            x = xp.concat([x, xp.zeros((padding, x.shape[1]), dtype=x.dtype, device=device)], axis=0)
        parts = []
        last = len(self.weights) - 1
        weights, biases = [own(w) for w in self.weights], [own(b) for b in self.biases]
        activation = ACTIVATIONS[self.activation]
        for begin in range(0, n + padding, BLOCK):
            y = x[begin : begin + BLOCK]
            for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                y = xp.matmul(y, weight) + bias
                if index < last:
                    y = activation(xp, y)
            parts.append(y)
        if not parts:
            return xp.zeros((0, self.biases[-1].shape[0]), dtype=xp.float32, device=device)
        return xp.concat(parts, axis=0)[:n]


@dataclass(slots=True)
class MlpPolicy:
    """Serves a network from an artifact.

    The artifact's arrays are `weight_0`, `bias_0`, `weight_1` ... with `mean` and `scale`; its parameters
    `activation` (of ACTIVATIONS), `output` (of OUTPUTS) and, with a correction, `patience` in seconds.
    """

    artifact: Artifact
    name: str = field(init=False)
    scheme: Scheme = field(init=False)
    network: Network = field(init=False)
    output: str = field(init=False)
    patience: float = field(init=False)
    columns: np.ndarray = field(init=False)
    low: np.ndarray = field(init=False)
    high: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Read the artifact; raise ArtifactError where it holds no network that this version can serve."""
        manifest = self.artifact.manifest
        self.name = str(manifest["name"])
        self.scheme = scheme(manifest["action_scheme"])
        fields = manifest["fields"]
        unknown = [name for name in fields if name not in NAMES]
        if unknown or not fields:
            found = unknown[0] if fields else "nothing"
            raise ArtifactError(f"{self.name}: fields names {found}; expected fields of the observation")
        self.columns = np.array([NAMES.index(name) for name in fields], np.int64)
        ranges = manifest["training_range"]
        bounds = [ranges.get(name, (-np.inf, np.inf)) for name in fields]
        self.low, self.high = (np.array([bound[side] for bound in bounds], np.float32) for side in (0, 1))
        parameters = manifest["parameters"]
        self.output = self._one_of(parameters, "output", OUTPUTS)
        activation = self._one_of(parameters, "activation", ACTIVATIONS)
        self.patience = float(parameters.get("patience", HOLD))
        self.network = self._network(activation)
        expected = sum(self.scheme.branches) if self.output == "choices" else 1
        if (outputs := self.network.biases[-1].shape[0]) != expected:
            raise ArtifactError(f"{self.name}: the last layer has {outputs} outputs; expected {expected}")

    def _one_of(self, parameters: dict[str, Any], key: str, known: Any) -> str:
        if (value := parameters.get(key)) not in known:
            raise ArtifactError(f"{self.name}: parameters.{key} is {value!r}; expected one of {', '.join(known)}")
        return str(value)

    def _network(self, activation: str) -> Network:
        arrays = self.artifact.arrays
        count = sum(name.startswith("weight_") for name in arrays)
        names = {f"{part}_{layer}" for layer in range(count) for part in ("weight", "bias")} | {"mean", "scale"}
        if not count or set(arrays) != names:
            raise ArtifactError(
                f"{self.name}: the arrays are {', '.join(arrays)}; expected weight_0, bias_0 and so on, mean and scale"
            )
        weights = [np.asarray(arrays[f"weight_{layer}"], np.float32) for layer in range(count)]
        biases = [np.asarray(arrays[f"bias_{layer}"], np.float32) for layer in range(count)]
        width = len(self.columns)
        for name in ("mean", "scale"):
            if arrays[name].shape != (width,):
                raise ArtifactError(
                    f"{self.name}: the array {name} has shape {arrays[name].shape}; expected ({width},)"
                )
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
                raise ArtifactError(f"{self.name}: weight_{layer} and bias_{layer} have shapes {weight.shape} and "
                                    f"{bias.shape}; expected ({width}, n) and (n,)")  # fmt: skip
            width = weight.shape[1]
        scale = np.asarray(arrays["scale"], np.float32)
        if not (scale > 0.0).all():
            raise ArtifactError(f"{self.name}: the array scale has {scale.min():g}; expected numbers above 0")
        return Network(weights, biases, activation, np.asarray(arrays["mean"], np.float32), scale)

    def state(self, n: int) -> State:
        """Return no state."""
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the proposal of the network: the best allowed choice, or the corrected headroom."""
        xp, device = view.xp, getattr(view.demand, "device", None)
        inputs = observe(view)[:, xp.asarray(self.columns, device=device)]
        low, high = (xp.asarray(bound, device=device) for bound in (self.low, self.high))
        trained = xp.all((inputs >= low) & (inputs <= high), axis=1)
        outputs = self.network(xp, inputs)
        if self.output == "correction":
            correction = xp.clip(outputs[:, 0], -LARGEST_CORRECTION, LARGEST_CORRECTION)
            patience = xp.full(view.demand.shape, self.patience, dtype=xp.float64, device=device)
            proposal = headroom_proposal(view, correction, patience)
        else:
            proposal = self.scheme.propose(view, chosen(view, self.scheme, outputs))
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
