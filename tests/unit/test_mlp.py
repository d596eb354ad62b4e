"""A network as a policy: the same answers in any batch, and artifacts that hold no network are refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler import Autoscaler, Settings, Snapshot
from rlscaler.action import CORRECTIONS, PATIENCES, scheme
from rlscaler.artifact import Artifact, ArtifactError, dumps, loads
from rlscaler.mlp import ACTIVATIONS, BLOCK, MlpPolicy, Network, chosen
from rlscaler.observation import NAMES, SCHEMA
from rlscaler.policies import from_artifact
from rlscaler.policy import View
from rlscaler.reasons import Reason

FIELDS = ("trend", "noise_5m", "size", "backlog")
RNG = np.random.default_rng(3)


def made(output: str = "choices", actions: str = "headroom", **changes: Any) -> Artifact:
    """Return a network of two layers with random weights, changed by manifest keys, or arrays given as array_NAME."""
    outputs = 1 if output == "correction" else sum(scheme(actions).branches)
    rng = np.random.default_rng(4)
    arrays = {
        "weight_0": rng.normal(size=(len(FIELDS), 8)).astype(np.float32),
        "bias_0": rng.normal(size=8).astype(np.float32),
        "weight_1": rng.normal(size=(8, outputs)).astype(np.float32),
        "bias_1": rng.normal(size=outputs).astype(np.float32),
        "mean": np.zeros(len(FIELDS), np.float32),
        "scale": np.ones(len(FIELDS), np.float32),
    }
    manifest: dict[str, Any] = {
        "name": "net", "kind": "mlp", "observation_schema": SCHEMA, "action_scheme": actions, "fields": list(FIELDS),
        "parameters": {"activation": "silu", "output": output},
    }  # fmt: skip
    for name, value in changes.items():
        if name.startswith("array_"):
            arrays[name.removeprefix("array_")] = value
        else:
            manifest[name] = value
    return Artifact(manifest, {name: array for name, array in arrays.items() if array is not None})


def network(width: int = 24, activation: str = "silu") -> Network:
    shapes = ((len(NAMES), width), (width, width), (width, 11))
    weights = [RNG.normal(size=shape).astype(np.float32) / 5.0 for shape in shapes]
    biases = [RNG.normal(size=shape[1]).astype(np.float32) for shape in shapes]
    ones = np.ones(len(NAMES), np.float32)
    return Network(weights, biases, activation, 0.1 * ones, 1.5 * ones)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_computes_what_the_layers_say(activation: str) -> None:
    """Held against float64 arithmetic written out."""
    found = network(activation=activation)
    inputs = RNG.normal(size=(130, len(NAMES))).astype(np.float32)
    x = (inputs.astype(np.float64) - 0.1) / 1.5
    for layer, (weight, bias) in enumerate(zip(found.weights, found.biases, strict=True)):
        x = x @ weight.astype(np.float64) + bias
        if layer < 2:
            x = {"relu": np.maximum(x, 0.0), "tanh": np.tanh(x), "silu": x / (1.0 + np.exp(-x))}[activation]
    np.testing.assert_allclose(found(np, inputs), x, rtol=1e-4, atol=1e-5)


FIXED = network(96)
MANY = RNG.normal(size=(4096, len(NAMES))).astype(np.float32)
ALL = FIXED(np, MANY)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4095), min_size=0, max_size=3 * BLOCK))
def test_a_row_is_answered_alike_in_any_batch(rows: list[int]) -> None:
    """To the bit: whichever rows come with it, in whichever order, however many."""
    np.testing.assert_array_equal(FIXED(np, MANY[rows]), ALL[rows])


def test_branches_choose_for_themselves_and_the_mask_holds_the_first() -> None:
    """The best of each branch; a choice that the mask forbids is never taken."""
    branching = scheme("branching")
    values = RNG.normal(size=(5, len(CORRECTIONS) + len(PATIENCES))).astype(np.float32)
    one = view(5, load=np.full(5, 1e9))  # far above the bounds: only the nearest of the choices beyond is allowed
    found = chosen(one, branching, values)
    mask = branching.mask(one)
    for row in range(5):
        allowed = np.flatnonzero(mask[row])
        assert found[row, 0] == allowed[values[row, allowed].argmax()]
        assert found[row, 1] == values[row, len(CORRECTIONS) :].argmax()
    assert not mask.all()


def view(n: int, load: Any = 100.0) -> View:
    scaler = Autoscaler("growth-quantile", Settings(capacity_per_replica=10.0), n)
    ticks = (Snapshot(time=15.0 * tick, load=load, ready=10, starting=0, desired=10, backlog=0) for tick in range(5))
    return [scaler.view(snapshot) for snapshot in ticks][-1]


@pytest.mark.parametrize(("output", "actions"), [("choices", "headroom"), ("choices", "step"), ("choices", "branching"),
                                                 ("correction", "headroom")])  # fmt: skip
def test_it_decides_from_a_file(output: str, actions: str) -> None:
    """An artifact's bytes become a policy that answers every row."""
    policy = from_artifact(loads(dumps(made(output, actions))))
    scaler = Autoscaler(policy, Settings(capacity_per_replica=10.0), 3)
    at = [50.0, 100.0, 500.0]
    ticks = (Snapshot(time=15.0 * t, load=at, ready=10, starting=0, desired=10, backlog=0) for t in range(8))
    decisions = [scaler.decide(snapshot) for snapshot in ticks][-1]
    assert np.isfinite(decisions.proposal).all()
    assert decisions.error == ""
    assert not (decisions.reasons & Reason.PolicyFailed).any()


def test_input_out_of_the_training_range_falls_back() -> None:
    """The rule decides for that row alone, and says so."""
    policy = from_artifact(made(training_range={"size": [0.0, 3.0]}))
    scaler = Autoscaler(policy, Settings(capacity_per_replica=10.0, max_replicas=10_000), 2)
    ticks = (Snapshot(time=15.0 * t, load=[100.0, 90_000.0], ready=10, starting=0, desired=10) for t in range(4))
    decisions = [scaler.decide(snapshot) for snapshot in ticks][-1]
    assert (decisions.reasons & Reason.OutOfTrainingRange != 0).tolist() == [False, True]


def test_a_correction_is_bounded() -> None:
    """Whatever the network says, headroom is corrected by a factor of e^5 at most."""
    huge = made("correction", array_bias_1=np.array([1e6], np.float32))
    policy = from_artifact(huge)
    one = view(1)
    proposal, _ = policy.propose(one, {})
    assert np.isfinite(proposal.replicas).all()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown field": ({"fields": ["trend", "noise_5m", "size", "moon"]}, "fields names moon"),
    "no field": ({"fields": []}, "fields names nothing"),
    "an unknown activation": ({"parameters": {"activation": "sin", "output": "choices"}}, "activation is 'sin'"),
    "no output": ({"parameters": {"activation": "silu"}}, "output is None"),
    "layers that do not fit": ({"array_weight_1": np.zeros((7, 11), np.float32)}, "weight_1 and bias_1 have shapes"),
    "a missing layer": ({"array_bias_1": None}, "expected weight_0, bias_0"),
    "a foreign array": ({"array_more": np.zeros(1, np.float32)}, "expected weight_0, bias_0"),
    "too few outputs": (
        {"array_weight_1": np.zeros((8, 3), np.float32), "array_bias_1": np.zeros(3, np.float32)}, "3 outputs"
    ),
    "a mean of other fields": ({"array_mean": np.zeros(3, np.float32)}, "mean has shape (3,)"),
    "a scale of zero": ({"array_scale": np.zeros(4, np.float32)}, "scale has 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_network_is_refused(case: str) -> None:
    """Before anything is decided, with what is wrong."""
    changes, message = WRONG[case]
    with pytest.raises(ArtifactError) as refused:
        MlpPolicy(made(**changes))
    assert message in str(refused.value)


def test_a_policy_remembers_nothing() -> None:
    """A network is stateless, so that it may be swapped at any tick."""
    assert MlpPolicy(made()).state(7) == {}
    assert replace(network()).weights[0].shape == (len(NAMES), 24)
