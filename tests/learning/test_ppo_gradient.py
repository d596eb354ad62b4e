"""The gradient that ppo-fast has written out is autograd's, whatever the networks, the branches and the pieces."""

import pytest
import torch
from torch import Tensor

from rlscaler.observation import NAMES
from rlscaler_training import ppo_fast, ppo_gradient, ppo_rollout
from rlscaler_training.ppo_fast import Config

COUNT, MINE, FIELDS = 240, 150, NAMES[:12]


def descent(learner: ppo_fast.Learner, flat: list[Tensor], rows: Tensor) -> list[Tensor]:
    """Return the parts of the loss of a minibatch and the gradient of every parameter."""
    parts = learner._descent(flat, rows)
    return [
        parts,
        *(parameter.grad.clone() for parameter in learner.network.parameters() if parameter.grad is not None),
    ]


def rollout(learner: ppo_fast.Learner, generator: torch.Generator) -> list[Tensor]:
    """Return what `loss` takes, as an older policy and value left it, some choices forbidden."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    inputs = normal(COUNT, len(FIELDS))
    mask = torch.rand((COUNT, learner.branches[0]), generator=generator) < 0.7
    mask[:, 1] = True
    with torch.no_grad():
        shares = ppo_rollout.log_shares(learner.network.logits(inputs), mask, learner.branches)
        actions = ppo_rollout.drawn(shares, generator)
        share = ppo_rollout.log_share(shares, actions) + 0.3 * normal(COUNT)
        value = learner.network.value(inputs) + 0.1 * normal(COUNT)
    return [inputs, mask, actions, share, normal(COUNT), value + 0.2 * normal(COUNT), value]


@pytest.mark.parametrize(
    ("branches", "config"),
    [
        pytest.param((11,), Config(hidden=(16, 16)), id="as it comes"),
        pytest.param((11, 5), Config(hidden=(16,), entropy=0.05), id="two branches, one layer"),
        pytest.param((3,), Config(hidden=(8, 4, 12), value_clip=0.1, gradient=0.01), id="three layers, all clipped"),
        pytest.param((3,), Config(hidden=(8,), normalise_advantage=False), id="advantage as it is"),
    ],
)
def test_it_is_what_autograd_finds(branches: tuple[int, ...], config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ppo_gradient, "ROWS", 64)
    generator = torch.Generator().manual_seed(2)
    learner = ppo_fast.Learner(branches, config, torch.device("cpu"), 3, FIELDS)
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    flat = rollout(learner, generator)
    batches = torch.split(torch.randperm(COUNT, generator=generator), MINE)
    written = [descent(learner, flat, rows) for rows in batches]  # the second has to forget the first
    learner._gradient = None
    for mine, rows in zip(written, batches, strict=True):
        for ours, theirs in zip(mine, descent(learner, flat, rows), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_other_networks_are_left_to_autograd() -> None:
    for config in (Config(activation="silu"), Config(hidden=())):
        assert ppo_fast.Learner((3,), config, torch.device("cpu"), 0, FIELDS)._gradient is None
