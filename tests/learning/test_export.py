"""What is exported decides as what was trained, and nothing else leaves."""

from typing import Any

import numpy as np
import pytest
import torch

from rlscaler.action import SCHEMES
from rlscaler.errors import UserError
from rlscaler.mlp import ACTIVATIONS, MlpPolicy
from rlscaler.observation import HIGH, LOW, NAMES
from rlscaler_training import export
from rlscaler_training.export import Mlp

OBSERVATIONS = np.random.default_rng(1).uniform(LOW, HIGH, (3000, len(NAMES))).astype(np.float32)
FIELDS = tuple(NAMES[::3])


def exported(network: Mlp, output: str = "choices", scheme: str = "headroom", **more: Any) -> Any:
    return export.artifact(
        network, name="net", output=output, scheme=scheme, observations=OBSERVATIONS, provenance={"seed": 1},
        scores={"J": 1.5}, **more,
    )  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_hundred_thousand_observations_are_decided_alike(activation: str, scheme: str) -> None:
    """Every choice is the same but for ties, and the manifest says on how many that was seen."""
    torch.manual_seed(2)
    network = Mlp(FIELDS, (64, 64), sum(SCHEMES[scheme].branches), activation)
    network.normalise(OBSERVATIONS)
    made = exported(network, scheme=scheme)
    told = made.manifest["scores"]["export"]
    assert told["observations"] == 100_000
    assert told["largest_difference"] < export.AGREE
    agreement = export.compared(network, made, export.sampled(OBSERVATIONS, seed=5))
    assert agreement.agree
    assert agreement.ties < 20


def test_a_correction_is_exported_alike() -> None:
    """One output, a patience, and the range that was trained on."""
    network = Mlp(FIELDS, (32,), 1)
    made = exported(network, "correction", parameters={"patience": 120.0})
    policy = MlpPolicy(made)
    assert policy.patience == 120.0
    inside = (OBSERVATIONS[:, policy.columns] >= policy.low) & (OBSERVATIONS[:, policy.columns] <= policy.high)
    assert inside.all()
    assert (policy.high <= HIGH[policy.columns]).all()


def test_corrections_are_compared_by_what_they_come_to() -> None:
    """A headroom within the margin of the middle between two multiples is a tie and counted; others are differences."""
    seen = np.zeros((4, len(NAMES)), np.float32)
    ours = np.array([[0.0099999], [0.0100001], [0.03], [0.029]])
    theirs = np.array([[0.0100001], [0.0099999], [0.031], [0.031]])
    found = export.corrected(ours, theirs, seen)
    assert (found.rows, found.ties, found.different) == (4, 2, 1)
    seen[:, NAMES.index("trend_cheap")] = 0.005
    assert export.corrected(ours, theirs, seen).ties == 0, "they are added to the headroom that is corrected"
    far = export.corrected(np.full((4, 1), 8.0), np.full((4, 1), 9.0), seen)
    assert far.different == 0, "both are cut off"


def test_a_network_that_decides_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the two sides to drift apart, no artifact would be written."""
    network = Mlp(FIELDS, (16,), 11, "tanh")
    monkeypatch.setitem(ACTIVATIONS, "tanh", lambda xp, x: xp.sin(x))
    with pytest.raises(UserError, match="does not decide as the trained one"):
        exported(network)


def test_weights_that_are_no_numbers_are_refused() -> None:
    """With the array's name."""
    network = Mlp(FIELDS, (16,), 11)
    with torch.no_grad():
        network.head.bias[3] = float("nan")
    with pytest.raises(UserError, match="bias_1 of the network is not finite"):
        exported(network)


def test_ties_are_counted_and_not_taken_for_differences() -> None:
    """Two choices of the same value are no disagreement."""
    network = Mlp(FIELDS, (16,), 11)
    with torch.no_grad():
        network.head.weight[4] = network.head.weight[6]
        network.head.bias[4] = network.head.bias[6] = 100.0
    assert export.compared(network, exported(network), export.sampled(OBSERVATIONS)).different == 0
