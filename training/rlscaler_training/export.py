"""From a trained torch network to an artifact that NumPy alone runs, and the proof that they decide the same."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from rlscaler.action import QUANTUM
from rlscaler.artifact import Artifact
from rlscaler.errors import UserError
from rlscaler.mlp import ACTIVATIONS, KIND, LARGEST_CORRECTION
from rlscaler.observation import NAMES
from rlscaler_training import agreement
from rlscaler_training.agreement import AGREE as AGREE
from rlscaler_training.agreement import Agreement as Agreement
from rlscaler_training.inputs import STANDARD, Inputs

TORCH = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}
"""The torch modules of `rlscaler.mlp.ACTIVATIONS`."""
assert TORCH.keys() == ACTIVATIONS.keys()

SAMPLE = 100_000
"""Observations that a trained and an exported network are compared on."""
MARGIN = 0.25
"""Share of its width by which a training range reaches further at each end than what was met: other draws of the same
load have other extremes. In fresh randomised worlds 5 to 6 % of the decisions were outside at a tenth, and 0.5 to 1.5 %
at a quarter."""


class Mlp(nn.Module):
    """A multi-layer perceptron over some fields of the observation, normalised inside.

    fields: names of observation fields. mean, scale: (in,) of the inputs.
    """

    columns: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        fields: Sequence[str],
        hidden: Sequence[int],
        outputs: int,
        activation: str = "silu",
        names: Sequence[str] = NAMES,
    ) -> None:
        """Make the layers, initialised as torch does; the inputs pass unchanged until `normalise`.

        names: of all fields of the observation.
        """
        super().__init__()
        self.fields, self.activation = tuple(fields), activation
        self.register_buffer("columns", torch.tensor([names.index(name) for name in fields]), persistent=False)
        self.register_buffer("mean", torch.zeros(len(fields)))
        self.register_buffer("scale", torch.ones(len(fields)))
        sizes = [len(fields), *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), TORCH[activation]()]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], outputs)

    def normalise(self, observations: np.ndarray) -> None:
        """Take mean and scale of the inputs from observations (N, F)."""
        inputs = torch.as_tensor(observations[:, self.columns.cpu().numpy()], dtype=torch.float32)
        self.mean.copy_(inputs.mean(dim=0))
        self.scale.copy_(inputs.std(dim=0).clamp(min=1e-3))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the outputs (N, out) of observations (N, F), all fields in the order of the schema."""
        inputs = (observation[:, self.columns] - self.mean) / self.scale
        out: torch.Tensor = self.head(self.trunk(inputs))
        return out

    def linears(self) -> list[nn.Linear]:
        """Return the layers in their order."""
        return [*(layer for layer in self.trunk if isinstance(layer, nn.Linear)), self.head]


def artifact(
    network: Mlp,
    *,
    name: str,
    output: str,
    scheme: str,
    observations: np.ndarray,
    provenance: dict[str, Any],
    scores: dict[str, Any],
    parameters: dict[str, Any] | None = None,
    inputs: Inputs = STANDARD,
) -> Artifact:
    """Return the network as an artifact.

    output: of `rlscaler.mlp.OUTPUTS`. observations: (N, F) of training, from which the training range is taken,
    widened by MARGIN of itself at each side. Raises UserError where weights are not finite, or the exported network
    does not decide as the trained one.
    """
    arrays = {"mean": _numpy(network.mean), "scale": _numpy(network.scale)}
    for index, layer in enumerate(network.linears()):
        arrays |= {f"weight_{index}": _numpy(layer.weight.T), f"bias_{index}": _numpy(layer.bias)}
    if broken := [key for key, array in arrays.items() if not np.isfinite(array).all()]:
        raise UserError(f"{name}: {broken[0]} of the network is not finite; the artifact is not written")
    manifest = {
        "name": name,
        "kind": KIND,
        "observation_schema": inputs.schema,
        "action_scheme": scheme,
        "fields": list(network.fields),
        "training_range": training_range(observations, network.fields, inputs),
        "parameters": {"activation": network.activation, "output": output}
        | (parameters or {})
        | dict(inputs.parameters),
        "provenance": provenance,
        "scores": scores,
    }
    made = Artifact(manifest=manifest, arrays=arrays)
    found = compared(network, made, sampled(observations, inputs=inputs), inputs)
    if not found.agree:
        raise UserError(f"{name}: the exported network does not decide as the trained one: {found}")
    manifest["scores"] = scores | {"export": found.told()}
    return Artifact(manifest=manifest, arrays=arrays)


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().to(torch.float32).numpy())


def training_range(
    observations: np.ndarray, fields: Sequence[str], inputs: Inputs = STANDARD
) -> dict[str, list[float]]:
    """Return field -> [low, high] of observations (N, F), widened by MARGIN and held to the schema's bounds."""
    columns = [inputs.names.index(name) for name in fields]
    low, high = observations[:, columns].min(axis=0), observations[:, columns].max(axis=0)
    margin = MARGIN * (high - low) + 1e-3
    low, high = np.maximum(low - margin, inputs.low[columns]), np.minimum(high + margin, inputs.high[columns])
    return {name: [float(a), float(b)] for name, a, b in zip(fields, low, high, strict=True)}


def sampled(observations: np.ndarray, seed: int = 0, inputs: Inputs = STANDARD) -> np.ndarray:
    """Return SAMPLE observations: half drawn from those of training, half anywhere within the schema's bounds."""
    rng = np.random.default_rng(seed)
    seen = observations[rng.integers(len(observations), size=SAMPLE // 2)]
    anywhere = rng.uniform(inputs.low, inputs.high, size=(SAMPLE - len(seen), len(inputs.low)))
    return np.concatenate([seen, anywhere]).astype(np.float32)


def compared(network: nn.Module, made: Artifact, observations: np.ndarray, inputs: Inputs = STANDARD) -> Agreement:
    """Compare the trained network with the exported one on observations (N, F)."""
    policy = inputs.served(made)
    with torch.no_grad():
        theirs = network.cpu()(torch.as_tensor(observations)).numpy()
    ours = policy.network(np, observations[:, policy.columns])
    if policy.output == "correction":
        return corrected(ours, theirs, observations)
    return agreement.compared(ours, theirs, policy.scheme.branches)


def corrected(ours: np.ndarray, theirs: np.ndarray, observations: np.ndarray) -> Agreement:
    """Compare corrections (N, 1) by the headroom that they come to in observations (N, F), all fields of the schema."""
    mine, other = (np.clip(each[:, 0], -LARGEST_CORRECTION, LARGEST_CORRECTION) for each in (ours, theirs))
    return agreement.rounded(mine, other, observations[:, NAMES.index("trend_cheap")], QUANTUM)
