"""The branching dueling network in torch, and its artifact: what `rlscaler.branching` serves with NumPy alone."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlscaler.artifact import Artifact
from rlscaler.branching import ENCODED, FARTHEST, KIND, BranchingPolicy, columns, parts
from rlscaler.errors import UserError
from rlscaler.observation import NAMES, SCHEMA
from rlscaler_training import agreement
from rlscaler_training.agreement import Agreement
from rlscaler_training.export import TORCH, sampled, training_range


def _stack(sizes: Sequence[int], activation: str, last: bool) -> nn.Sequential:
    """Return layers of these sizes with the activation between them, and after the last one where `last`."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), TORCH[activation]()]
    return nn.Sequential(*(layers if last else layers[:-1]))


class Branching(nn.Module):
    """Encoders, trunk, value and branches of `rlscaler.branching`, normalised inside.

    The gradient that reaches the trunk and the encoders is divided by branches + 1, as so many heads add to it.
    mean, scale: (in,) of the inputs.
    """

    where: Tensor
    of_micro: Tensor
    of_macro: Tensor
    of_trunk: Tensor
    mean: Tensor
    scale: Tensor
    liking: Any
    """The head of preferences beside the control head (`preferences`), None without one."""

    def __init__(
        self,
        fields: Sequence[str],
        branches: Sequence[int],
        encoder: Sequence[int],
        trunk: Sequence[int],
        head: Sequence[int],
        activation: str = "relu",
    ) -> None:
        """Make the layers, initialised as torch does; the inputs pass unchanged until `normalise`.

        fields: names of observation fields. branches: choices of each. encoder, trunk, head: widths of hidden layers.
        """
        super().__init__()
        self.fields, self.branches, self.activation = tuple(fields), tuple(branches), activation
        self.register_buffer("where", torch.tensor([NAMES.index(name) for name in fields]), persistent=False)
        self.register_buffer("mean", torch.zeros(len(fields)))
        self.register_buffer("scale", torch.ones(len(fields)))
        for group in (*ENCODED, "trunk"):
            self.register_buffer(f"of_{group}", torch.from_numpy(columns(fields, group)), persistent=False)
        self.encoded = [part for part in parts(fields, len(self.branches)) if part in ENCODED]
        stacks = {group: _stack([len(columns(fields, group)), *encoder], activation, True) for group in self.encoded}
        width = len(self.encoded) * encoder[-1] + len(columns(fields, "trunk"))
        stacks["trunk"] = _stack([width, *trunk], activation, True)
        for part, outputs in zip(parts(fields, len(self.branches))[-1 - len(self.branches) :], (1, *self.branches),
                                 strict=True):  # fmt: skip
            stacks[part] = _stack([trunk[-1], *head, outputs], activation, False)
        self.stacks = nn.ModuleDict(stacks)
        self.sizes, self.width = (tuple(encoder), tuple(trunk)), trunk[-1]
        self.liking = None

    def like(self, head: Sequence[int]) -> "Branching":
        """Return a network with the same encoders and trunk, and heads of these widths, which say nothing yet."""
        encoder, trunk = self.sizes
        with torch.random.fork_rng(devices=[]):  # nothing of what it draws is kept
            made = Branching(self.fields, self.branches, encoder, trunk, head, self.activation).to(self.mean.device)
        with torch.no_grad():
            for name, stack in made.stacks.items():
                if name in (*ENCODED, "trunk"):
                    stack.load_state_dict(self.stacks[name].state_dict())
                else:
                    for weight in stack.parameters():
                        weight.zero_()
            made.mean.copy_(self.mean)
            made.scale.copy_(self.scale)
        return made

    def normalise(self, observations: Tensor) -> None:
        """Take mean and scale of the inputs from observations (N, F)."""
        inputs = observations[:, self.where]
        self.mean.copy_(inputs.mean(dim=0))
        self.scale.copy_(inputs.std(dim=0).clamp(min=1e-2))

    def features(self, observation: Tensor) -> Tensor:
        """Return what all heads share, (N, width), of observations (N, F), all fields in the order of the schema."""
        x = ((observation[:, self.where] - self.mean) / self.scale).clamp(-FARTHEST, FARTHEST)
        inputs = {"micro": self.of_micro, "macro": self.of_macro}
        encoded = [self.stacks[group](x[:, inputs[group]]) for group in self.encoded]
        trunk: Tensor = self.stacks["trunk"](torch.cat([*encoded, x[:, self.of_trunk]], dim=1))
        return trunk

    def q(self, observation: Tensor) -> list[Tensor]:
        """Return Q of each branch, (N, choices), for observations (N, F), all fields in the order of the schema."""
        trunk: Any = self.features(observation)
        if trunk.requires_grad:
            trunk.register_hook(lambda gradient: gradient / (len(self.branches) + 1))
        value = self.stacks["value"](trunk)
        advantages = [self.stacks[f"branch_{index}"](trunk) for index in range(len(self.branches))]
        return [value + a - a.mean(dim=1, keepdim=True) for a in advantages]

    def favoured(self, observation: Tensor, weight: float) -> list[Tensor]:
        """Return what decides, (N, choices) of each branch: Q, and `weight` of the preferences where there are any."""
        q = self.q(observation)
        if self.liking is None or weight == 0.0:
            return q
        liked = self.liking(self.features(observation))
        return [each + self.liking.lean(weight) * more for each, more in zip(q, liked, strict=True)]

    def advantage_spread(self, observation: Tensor) -> Tensor:
        """Return the standard deviation of Q over the choices of a branch, on average, ()."""
        return torch.stack([each.std(dim=1).mean() for each in self.q(observation)]).mean()

    def forward(self, observation: Tensor) -> Tensor:
        """Return Q of all branches side by side."""
        return torch.cat(self.q(observation), dim=1)


def _numpy(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().to(torch.float32).numpy())


def exported(
    network: Branching,
    *,
    name: str,
    scheme: str,
    ranges: dict[str, list[float]] | None = None,
    provenance: dict[str, Any] | None = None,
    scores: dict[str, Any] | None = None,
) -> Artifact:
    """Return the network as an artifact, not compared with it yet. Raises UserError where weights are not finite."""
    arrays = {"mean": _numpy(network.mean), "scale": _numpy(network.scale)}
    for part, stack in network.stacks.items():
        assert isinstance(stack, nn.Sequential)
        for index, layer in enumerate(each for each in stack if isinstance(each, nn.Linear)):
            arrays[f"{part}_weight_{index}"] = _numpy(layer.weight.T)
            arrays[f"{part}_bias_{index}"] = _numpy(layer.bias)
    if broken := [key for key, array in arrays.items() if not np.isfinite(array).all()]:
        raise UserError(f"{name}: {broken[0]} of the network is not finite; the artifact is not written")
    manifest = {
        "name": name,
        "kind": KIND,
        "observation_schema": SCHEMA,
        "action_scheme": scheme,
        "fields": list(network.fields),
        "training_range": ranges or {},
        "parameters": {"activation": network.activation},
        "provenance": provenance or {},
        "scores": scores or {},
    }
    return Artifact(manifest, arrays)


def artifact(
    network: Branching,
    *,
    name: str,
    scheme: str,
    observations: np.ndarray,
    provenance: dict[str, Any],
    scores: dict[str, Any],
) -> Artifact:
    """Return the network as an artifact, proven to decide as it does.

    observations: (N, F) of training, from which the training range is taken. Raises UserError where weights are not
    finite, or the exported network does not decide as the trained one.
    """
    told: dict[str, Any] = {"name": name, "scheme": scheme, "provenance": provenance}
    ranges = training_range(observations, network.fields)
    found = compared(network, exported(network, **told), sampled(observations))
    if not found.agree:
        raise UserError(f"{name}: the exported network does not decide as the trained one: {found}")
    return exported(network, **told, ranges=ranges, scores=scores | {"export": found.told()})


def compared(network: Branching, made: Artifact, observations: np.ndarray) -> Agreement:
    """Compare the trained network with the exported one on observations (N, F)."""
    policy = BranchingPolicy(made)
    device = network.mean.device
    with torch.no_grad():
        rows = torch.split(torch.as_tensor(observations, device=device), 8192)
        theirs = torch.cat([network(part) for part in rows]).cpu().numpy()
    return agreement.compared(policy.network(np, observations[:, policy.columns]), theirs, network.branches)
