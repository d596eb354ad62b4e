"""The mean of several networks is one network that any version can serve."""

import numpy as np
import pytest
import torch

from rlscaler import artifact
from rlscaler.mlp import MlpPolicy
from rlscaler.observation import NAMES
from rlscaler_training import ensemble, export
from rlscaler_training.apg import FIELDS, Net

OBSERVATIONS = np.random.default_rng(0).normal(0.0, 0.5, (400, len(NAMES))).astype(np.float32)


def network(seed: int, hidden: tuple[int, ...] = (12, 9), scale: float = 2.0) -> artifact.Artifact:
    torch.manual_seed(seed)
    net = Net(hidden, "silu")
    with torch.no_grad():
        net.head.weight.mul_(100.0)
        net.scale.fill_(scale)
    return export.artifact(
        net, name=f"net-{seed}", output="correction", scheme="headroom", observations=OBSERVATIONS, provenance={},
        scores={}, parameters={"patience": 30.0},
    )  # fmt: skip


@pytest.mark.parametrize("hidden", [(12, 9), (7,), (5, 4, 3)])
def test_it_decides_as_the_mean_of_its_members(hidden: tuple[int, ...]) -> None:
    """For one layer and several; and it is written and read as any artifact."""
    members = [network(seed, hidden) for seed in range(3)]
    whole = ensemble.joined(members, name="mean", provenance={"seeds": 3}, scores={"x": 1.0})
    served = MlpPolicy(artifact.loads(artifact.dumps(whole)))
    seen = OBSERVATIONS[:, [NAMES.index(name) for name in FIELDS]]
    expected = np.mean([MlpPolicy(each).network(np, seen) for each in members], axis=0)
    np.testing.assert_allclose(served.network(np, seen), expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected) > 0.01
    assert served.name == "mean"
    assert served.patience == 30.0


def test_its_range_is_where_all_were_trained() -> None:
    """A member that never saw a value must not be trusted with it."""
    members = []
    for seed, known in enumerate(([-1.0, 0.5], [-0.5, 1.0])):
        made = network(seed)
        told = {key: value for key, value in made.manifest.items() if key != "digest"}
        told["training_range"] = {**told["training_range"], "trend": known}
        members.append(artifact.Artifact(manifest=told, arrays=made.arrays))
    whole = ensemble.joined(members, name="mean", provenance={}, scores={})
    assert whole.manifest["training_range"]["trend"] == [-0.5, 0.5]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        pytest.param(network(1, scale=3.0), "array scale", id="normalised otherwise"),
        pytest.param(
            export.artifact(Net((12, 9), "tanh"), name="t", output="correction", scheme="headroom",
                            observations=OBSERVATIONS, provenance={}, scores={}, parameters={"patience": 30.0}),
            "parameters", id="another activation",
        ),
    ],
)  # fmt: skip
def test_networks_that_differ_in_more_than_weights_are_refused(other: artifact.Artifact, named: str) -> None:
    """By name of what differs."""
    with pytest.raises(ValueError, match=named):
        ensemble.joined([network(0), other], name="mean", provenance={}, scores={})
