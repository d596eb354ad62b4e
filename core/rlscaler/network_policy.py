"""What policies that serve a network from an artifact have in common: the fields they read, and where they learned."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler.action import Scheme, scheme
from rlscaler.arrays import Array, State
from rlscaler.artifact import Artifact, ArtifactError
from rlscaler.container import show
from rlscaler.observation import NAMES, observe_some
from rlscaler.policy import View

Layers = Sequence[tuple[np.ndarray, np.ndarray]]
"""Weights (in, out) and biases (out,) float32 of layers in their order."""


@dataclass(slots=True)
class NetworkPolicy(ABC):
    """Base of a policy whose artifact holds a network.

    fields: of the observation, in the order of the inputs; columns: where they stand in it. low, high: (in,) float32,
    the range of each in training, infinite where the manifest states none.
    """

    artifact: Artifact
    name: str = field(init=False)
    scheme: Scheme = field(init=False)
    fields: tuple[str, ...] = field(init=False)
    columns: np.ndarray = field(init=False, compare=False)
    low: np.ndarray = field(init=False, compare=False)
    high: np.ndarray = field(init=False, compare=False)

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
        self.fields = tuple(fields)
        self.columns = np.array([NAMES.index(name) for name in fields], np.int64)
        ranges = manifest["training_range"]
        bounds = [ranges.get(name, (-np.inf, np.inf)) for name in fields]
        self.low, self.high = (np.array([bound[side] for bound in bounds], np.float32) for side in (0, 1))
        self.read(manifest["parameters"])

    @abstractmethod
    def read(self, parameters: dict[str, Any]) -> None:
        """Take the network from the artifact's arrays and the manifest's parameters; raise ArtifactError."""

    def state(self, n: int) -> State:
        """Return no state."""
        return {}

    def inputs(self, view: View) -> tuple[Array, Array]:
        """Return the inputs (N, in) float32 of the network, and whether they lie in the training range, (N,) bool."""
        xp, device = view.xp, getattr(view.demand, "device", None)
        found = observe_some(view, self.columns)
        low, high = (xp.asarray(bound, device=device) for bound in (self.low, self.high))
        return found, xp.all((found >= low) & (found <= high), axis=1)

    def one_of(self, parameters: dict[str, Any], key: str, known: Any) -> str:
        """Return a parameter that is one of the known; raise ArtifactError where it is not."""
        value = parameters.get(key)
        if not isinstance(value, str) or value not in known:
            raise ArtifactError(f"{self.name}: parameters.{key} is {show(value)}; expected one of {', '.join(known)}")
        return value

    def require_arrays(self, expected: set[str], told: str) -> None:
        """Raise ArtifactError unless the artifact's arrays are `mean`, `scale` and the expected ones."""
        arrays = self.artifact.arrays
        if set(arrays) != expected | {"mean", "scale"}:
            raise ArtifactError(f"{self.name}: the arrays are {', '.join(arrays)}; expected {told}")

    def normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and scale of the inputs, (in,) float32 each; raise ArtifactError."""
        width = len(self.fields)
        mean, scale = (np.asarray(self.artifact.arrays[name], np.float32) for name in ("mean", "scale"))
        for name, array in (("mean", mean), ("scale", scale)):
            if array.shape != (width,):
                raise ArtifactError(f"{self.name}: the array {name} has shape {array.shape}; expected ({width},)")
        if not (scale > 0.0).all():
            raise ArtifactError(f"{self.name}: the array scale has {scale.min():g}; expected numbers above 0")
        return mean, scale

    def layers(self, prefix: str, count: int, width: int) -> tuple[Layers, int]:
        """Return the layers of a part whose inputs are `width`, and how many outputs it has; raise ArtifactError.

        prefix: of the arrays' names, before `weight_0`, `bias_0` and so on.
        """
        found = []
        for layer in range(count):
            names = f"{prefix}weight_{layer}", f"{prefix}bias_{layer}"
            weight, bias = (np.asarray(self.artifact.arrays[name], np.float32) for name in names)
            if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
                raise ArtifactError(f"{self.name}: {names[0]} and {names[1]} have shapes {weight.shape} and "
                                    f"{bias.shape}; expected ({width}, n) and (n,)")  # fmt: skip
            width = weight.shape[1]
            found.append((weight, bias))
        return found, width
