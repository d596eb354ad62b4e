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

from rlscaler.action import Scheme, scheme
from rlscaler.arrays import Array, State
from rlscaler.artifact import Artifact, ArtifactError
from rlscaler.mlp import ACTIVATIONS, BLOCK, chosen
from rlscaler.observation import FIELDS, NAMES, observe
from rlscaler.policy import Proposal, View

KIND = "branching"
ENCODED = ("micro", "macro")
"""Groups of fields that have an encoder of their own; the others go straight to the trunk."""
FARTHEST = 10.0
"""Normalised inputs are held within this of 0: a network says nothing of what is farther off."""
GROUPS = {field.name: field.group for field in FIELDS}

Layers = Sequence[tuple[np.ndarray, np.ndarray]]
"""Weights (in, out) and biases (out,) float32 of layers in their order."""


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

    fields: names of the inputs. mean, scale: (in,) float32; inputs are (x - mean) / scale, within FARTHEST.
    """

    fields: Sequence[str]
    layers: dict[str, Layers]
    activation: str
    mean: np.ndarray
    scale: np.ndarray

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
        padding = -n % BLOCK
        x = xp.clip((inputs - own(self.mean)) / own(self.scale), -FARTHEST, FARTHEST)
        if padding:
            x = xp.concat([x, xp.zeros((padding, x.shape[1]), dtype=x.dtype, device=device)], axis=0)
        done = [self._block(xp, x[begin : begin + BLOCK], layers, where) for begin in range(0, n + padding, BLOCK)]
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
class BranchingPolicy:
    """Serves a branching network from an artifact: in each branch the choice with the highest Q.

    The artifact's arrays are `PART_weight_0`, `PART_bias_0`, `PART_weight_1` ... for each part of `parts`, with `mean`
    and `scale`; its parameter is `activation` (of `mlp.ACTIVATIONS`).
    """

    artifact: Artifact
    name: str = field(init=False)
    scheme: Scheme = field(init=False)
    network: BranchingNetwork = field(init=False)
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
        activation = manifest["parameters"].get("activation")
        if activation not in ACTIVATIONS:
            raise ArtifactError(
                f"{self.name}: parameters.activation is {activation!r}; expected one of {', '.join(ACTIVATIONS)}"
            )
        self.network = self._network(tuple(fields), activation)

    def _network(self, fields: tuple[str, ...], activation: str) -> BranchingNetwork:
        arrays = self.artifact.arrays
        names = parts(fields, len(self.scheme.branches))
        counts = {part: sum(name.startswith(f"{part}_weight_") for name in arrays) for part in names}
        expected = {"mean", "scale"} | {
            f"{part}_{kind}_{layer}" for part in names for layer in range(counts[part]) for kind in ("weight", "bias")
        }
        if not all(counts.values()) or set(arrays) != expected:
            raise ArtifactError(f"{self.name}: the arrays are {', '.join(arrays)}; expected mean, scale, and "
                                f"PART_weight_0, PART_bias_0 and so on for each of {', '.join(names)}")  # fmt: skip
        for name in ("mean", "scale"):
            if arrays[name].shape != (len(fields),):
                raise ArtifactError(
                    f"{self.name}: the array {name} has shape {arrays[name].shape}; expected ({len(fields)},)"
                )
        scale = np.asarray(arrays["scale"], np.float32)
        if not (scale > 0.0).all():
            raise ArtifactError(f"{self.name}: the array scale has {scale.min():g}; expected numbers above 0")
        layers: dict[str, Layers] = {}
        encoded = 0
        for part in names:
            width = len(columns(fields, part)) if part in ENCODED else encoded
            if part == "trunk":
                width += len(columns(fields, part))
            layers[part], width = self._layers(part, counts[part], width)
            encoded = encoded + width if part in ENCODED else width if part == "trunk" else encoded
        for part, outputs in zip(names[-1 - len(self.scheme.branches) :], (1, *self.scheme.branches), strict=True):
            if (found := layers[part][-1][1].shape[0]) != outputs:
                raise ArtifactError(f"{self.name}: the last layer of {part} has {found} outputs; expected {outputs}")
        return BranchingNetwork(fields, layers, activation, np.asarray(arrays["mean"], np.float32), scale)

    def _layers(self, part: str, count: int, width: int) -> tuple[Layers, int]:
        """Return the layers of a part whose inputs are `width`, and how many outputs it has."""
        found = []
        for layer in range(count):
            names = f"{part}_weight_{layer}", f"{part}_bias_{layer}"
            weight, bias = (np.asarray(self.artifact.arrays[name], np.float32) for name in names)
            if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
                raise ArtifactError(f"{self.name}: {names[0]} and {names[1]} have shapes {weight.shape} and "
                                    f"{bias.shape}; expected ({width}, n) and (n,)")  # fmt: skip
            width = weight.shape[1]
            found.append((weight, bias))
        return found, width

    def state(self, n: int) -> State:
        """Return no state."""
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the proposal of the best allowed choice of each branch."""
        xp, device = view.xp, getattr(view.demand, "device", None)
        inputs = observe(view)[:, xp.asarray(self.columns, device=device)]
        low, high = (xp.asarray(bound, device=device) for bound in (self.low, self.high))
        proposal = self.scheme.propose(view, chosen(view, self.scheme, self.network(xp, inputs)))
        proposal.trained = xp.all((inputs >= low) & (inputs <= high), axis=1)
        return proposal, state
