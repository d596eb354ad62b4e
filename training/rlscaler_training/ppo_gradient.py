"""The gradient of PPO's loss for tanh networks, written out: what autograd finds, in two thirds of its time.

What autograd keeps and makes anew at every step is a handful of buffers here, made once and written over; both networks
share the product of their first layers; what is done for each choice lies along the rows, so that it runs in whole
vectors; only the rows of a piece are gathered at once. Matrix products are most of what is left. Equal to autograd but
for rounding; no part of the loss is left out.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

ROWS = 4096
"""Rows of a piece: buffers of 10 MB for two networks of 64 and 64. Smaller ones spend their time on calls."""


class Network(Protocol):
    """A policy or a value: `hidden` layers of one activation, then a head."""

    head: nn.Linear

    def linears(self) -> list[nn.Linear]:
        """Return the layers in their order, the head last."""
        ...


class Weights(Protocol):
    """What the loss is weighed by; fields of `ppo_fast.Config`."""

    @property
    def clip(self) -> float:
        """How far the ratio of probabilities may go."""
        ...

    @property
    def value_clip(self) -> float:
        """How far a value may move; 0: freely."""
        ...

    @property
    def value_weight(self) -> float:
        """Weight of the value's loss."""
        ...

    @property
    def entropy(self) -> float:
        """Weight of the entropy."""
        ...


class Gradient:
    """Adds the gradient of the loss of many rows to that of the parameters, piece by piece."""

    def __init__(self, actor: Network, critic: Network, branches: Sequence[int], forbidden: float) -> None:
        """Prepare for two tanh networks on a processor with the same hidden layers.

        forbidden: logit of a choice that is not allowed. The parameters keep the gradients that they are given here.
        """
        self.branches, self.forbidden = tuple(branches), forbidden
        self.layers = [network.linears() for network in (actor, critic)]
        first = [layers[0] for layers in self.layers]
        self.wide, inputs = first[0].out_features, first[0].in_features
        # the first layers lie side by side, as copies of the weights and as parts of the gradient
        self.first, self.first_bias = torch.zeros(2 * self.wide, inputs), torch.zeros(2 * self.wide)
        parameters = [layer.weight for layer in first] + [layer.bias for layer in first]
        parameters += [p for layers in self.layers for layer in layers[1:] for p in layer.parameters()]
        sizes = [parameter.numel() for parameter in parameters]
        self.whole = torch.zeros(sum(sizes))
        for parameter, part in zip(parameters, torch.split(self.whole, sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        weights = self.first.numel()
        self.first_grad = self.whole[:weights].view_as(self.first)
        self.first_bias_grad = self.whole[weights : weights + 2 * self.wide]
        widths = [layer.out_features for layer in self.layers[0][:-1]]
        self.inputs = torch.zeros(ROWS, inputs)
        self.states = [torch.zeros(ROWS, 2 * width) for width in widths]
        self.slopes = [torch.zeros(ROWS, 2 * width) for width in widths]
        self.out = torch.zeros(sum(branches) + 1, ROWS)

    def begin(self) -> None:
        """Forget the gradient, and take the parameters as they are now."""
        with torch.no_grad():
            torch.cat([layers[0].weight for layers in self.layers], out=self.first)
            torch.cat([layers[0].bias for layers in self.layers], out=self.first_bias)
            self.whole.zero_()

    def clip(self, most: float) -> None:
        """Shorten the gradient to this norm, as `torch.nn.utils.clip_grad_norm_` does."""
        self.whole *= (most / (self.whole.norm() + 1e-6)).clamp(max=1.0)

    def add(
        self,
        weights: Weights,
        rows: Tensor,
        inputs: Tensor,
        mask: Tensor,
        actions: Tensor,
        share: Tensor,
        advantage: Tensor,
        target: Tensor,
        value: Tensor,
    ) -> Tensor:
        """Add the gradient of a minibatch's loss, and return its parts: policy, value, entropy and divergence, (4,).

        rows: (M,) places of the minibatch in the other tensors, which are of the whole rollout and as `ppo_fast.loss`
        has them; but for advantage (M,), which is of the minibatch.
        """
        told, many = torch.zeros(4), len(rows)
        with torch.no_grad():
            whole = [part.index_select(0, rows) for part in (mask, actions, share, target, value)]
            for mine, good, *parts in zip(
                *(torch.split(part, ROWS) for part in (rows, advantage, *whole)), strict=True
            ):
                x = torch.index_select(inputs, 0, mine, out=self.inputs[: len(mine)])
                states = self._forward(x)
                out = self.out[:, : len(mine)]
                told += self._outer(out, weights, many, good, *parts)
                self._back(x, states, out)
        return told / many

    def _forward(self, x: Tensor) -> list[Tensor]:
        """Send inputs (C, in) through both networks; logits and value are in `out` then. Return the hidden states."""
        count = len(x)
        states = [state[:count] for state in self.states]
        torch.addmm(self.first_bias, x, self.first.t(), out=states[0]).tanh_()
        for at, (before, after) in enumerate(pairwise(states)):
            for layers, come, gone in zip(self.layers, before.chunk(2, 1), after.chunk(2, 1), strict=True):
                torch.addmm(layers[at + 1].bias, come, layers[at + 1].weight.t(), out=gone)
            after.tanh_()
        for layers, last, part in zip(self.layers, states[-1].chunk(2, 1), self._heads(count), strict=True):
            torch.addmm(layers[-1].bias[:, None], layers[-1].weight, last.t(), out=part)
        return states

    def _heads(self, count: int) -> Iterable[Tensor]:
        return self.out[:-1, :count], self.out[-1:, :count]

    def _outer(
        self,
        out: Tensor,
        weights: Weights,
        many: int,
        advantage: Tensor,
        mask: Tensor,
        actions: Tensor,
        share: Tensor,
        target: Tensor,
        value: Tensor,
    ) -> Tensor:
        """Put the loss's gradient by logits and value in their place, and return the sums of its parts, (4,)."""
        out[: self.branches[0]].masked_fill_(~mask.t(), self.forbidden)
        parts = torch.split(out[:-1], list(self.branches))
        shares = [part.log_softmax(dim=0) for part in parts]
        chances = [part.exp() for part in shares]
        ahead = -share
        for at, part in enumerate(shares):
            ahead += part.gather(0, actions[:, at][None])[0]
        ratio = ahead.exp()
        free = -advantage * ratio
        held = -advantage * ratio.clamp(1.0 - weights.clip, 1.0 + weights.clip)
        policy = torch.maximum(free, held)
        # the ratio's derivative by its logarithm is the ratio; where the clipped one counts, nothing moves it
        slope = torch.where(free >= held, free, 0.0) / many
        entropy = torch.zeros_like(share)
        for at, (part, likely, place) in enumerate(zip(shares, chances, parts, strict=True)):
            mixed = likely * part
            own = -mixed.sum(dim=0)
            entropy += own
            torch.addcmul(mixed, likely, own, out=place).mul_(weights.entropy / many).addcmul_(likely, slope, value=-1)
            place.scatter_add_(0, actions[:, at][None], slope[None])
        now = out[-1]
        wrong = now - target
        error, pull = wrong * wrong, wrong
        if weights.value_clip:
            moved = now - value
            near = value + moved.clamp(-weights.value_clip, weights.value_clip) - target
            inside = moved.abs() <= weights.value_clip
            pull = torch.where(error >= near * near, wrong, near * inside)
            error = torch.maximum(error, near * near)
        torch.mul(pull, weights.value_weight / many, out=now)
        divergence = ratio - 1.0 - ahead
        return torch.stack([policy.sum(), 0.5 * error.sum(), entropy.sum(), divergence.sum()])

    def _back(self, x: Tensor, states: list[Tensor], out: Tensor) -> None:
        """Add to the parameters' gradients what follows from that by logits and value."""
        count = len(x)
        slopes = [slope[:count] for slope in self.slopes]
        last = zip(self.layers, states[-1].chunk(2, 1), slopes[-1].chunk(2, 1), self._heads(count), strict=True)
        for layers, state, slope, part in last:
            _grown(layers[-1], part, state)
            torch.mm(part.t(), layers[-1].weight, out=slope)
        for at in range(len(states) - 1, 0, -1):
            _through(slopes[at], states[at])
            halves = (each.chunk(2, 1) for each in (slopes[at], states[at - 1], slopes[at - 1]))
            for layers, slope, state, before in zip(self.layers, *halves, strict=True):
                _grown(layers[at], slope.t(), state)
                torch.mm(slope, layers[at].weight, out=before)
        _through(slopes[0], states[0])
        self.first_grad.addmm_(slopes[0].t(), x)
        self.first_bias_grad += slopes[0].sum(dim=0)


def _grown(layer: nn.Linear, slope: Tensor, state: Tensor) -> None:
    """Add to a layer's gradient: slope (out, C) by what it gave, state (C, in) that it took."""
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    layer.weight.grad.addmm_(slope, state)
    layer.bias.grad += slope.sum(dim=1)


def _through(slope: Tensor, state: Tensor) -> None:
    """Turn the slope by tanh's output `state` into that by its input, in place."""
    backward: Any = torch.ops.aten.tanh_backward.grad_input
    backward(slope, state, grad_input=slope)
