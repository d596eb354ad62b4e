"""A branching network as a policy: what its parts say, alike in any batch, and what holds none is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler import Autoscaler, Settings, Snapshot
from rlscaler.action import scheme
from rlscaler.artifact import Artifact, ArtifactError, dumps, loads
from rlscaler.branching import GROUPS, BranchingNetwork, BranchingPolicy, columns, parts
from rlscaler.mlp import ACTIVATIONS, BLOCK
from rlscaler.observation import FIELDS, NAMES, SCHEMA
from rlscaler.policies import from_artifact
from rlscaler.reasons import Reason

SOME = ("trend", "size", "yesterday", "noise_5m", "backlog")
"""Fields of every group, mixed."""
STATE = ("size", "backlog")
WIDTH = 8


def arrays(fields: tuple[str, ...], branches: tuple[int, ...], width: int = WIDTH) -> dict[str, np.ndarray]:
    """Return random weights: one layer in each encoder, two in the trunk and in each head."""
    rng = np.random.default_rng(4)
    found = {"mean": np.full(len(fields), 0.1, np.float32), "scale": np.full(len(fields), 1.5, np.float32)}
    groups: list[str] = [GROUPS[name] for name in fields]
    encoders = [group for group in ("micro", "macro") if group in groups]
    sizes: dict[str, list[int]] = {group: [groups.count(group), width] for group in encoders}
    sizes["trunk"] = [width * len(encoders) + groups.count("state"), width, width]
    sizes["value"] = [width, width, 1]
    sizes |= {f"branch_{k}": [width, width, count] for k, count in enumerate(branches)}
    for part, widths in sizes.items():
        for layer in range(len(widths) - 1):
            found[f"{part}_weight_{layer}"] = rng.normal(size=widths[layer : layer + 2]).astype(np.float32) / 3.0
            found[f"{part}_bias_{layer}"] = rng.normal(size=widths[layer + 1]).astype(np.float32)
    return found


def made(of: tuple[str, ...] = SOME, actions: str = "branching", **changes: Any) -> Artifact:
    """Return an artifact, changed by manifest keys, or arrays given as array_NAME (None: left out)."""
    held: dict[str, Any] = arrays(of, scheme(actions).branches)
    manifest: dict[str, Any] = {
        "name": "net", "kind": "branching", "observation_schema": SCHEMA, "action_scheme": actions,
        "fields": list(of), "parameters": {"activation": "relu"},
    }  # fmt: skip
    for name, value in changes.items():
        if name.startswith("array_"):
            held[name.removeprefix("array_")] = value
        else:
            manifest[name] = value
    return Artifact(manifest, {name: array for name, array in held.items() if array is not None})


def test_each_field_has_its_place() -> None:
    """Every field goes to exactly one encoder or to the trunk, by its group in the observation's schema."""
    where = {part: [NAMES[k] for k in columns(NAMES, part)] for part in ("micro", "macro", "trunk")}
    for field in FIELDS:
        assert [part for part, names in where.items() if field.name in names] == [
            "trunk" if field.group == "state" else field.group
        ]
    assert parts(NAMES, 2) == ("micro", "macro", "trunk", "value", "branch_0", "branch_1")
    assert parts(STATE, 1) == ("trunk", "value", "branch_0")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("fields", [SOME, STATE, ("trend",), NAMES], ids=["some", "state", "micro", "all"])
def test_it_computes_what_its_parts_say(fields: tuple[str, ...], activation: str) -> None:
    """Held against the formula in float64: encoders, trunk, and V + A - mean A for each branch."""
    policy = BranchingPolicy(made(fields, parameters={"activation": activation}))
    weights = {name: array.astype(np.float64) for name, array in arrays(fields, (11, 5)).items()}
    inputs = np.random.default_rng(1).normal(size=(130, len(fields))).astype(np.float32)
    x = (inputs.astype(np.float64) - 0.1) / 1.5

    def f(y: np.ndarray) -> np.ndarray:
        found: dict[str, np.ndarray] = {"relu": np.maximum(y, 0.0), "tanh": np.tanh(y), "silu": y / (1.0 + np.exp(-y))}
        return found[activation]

    def layer(part: str, index: int, y: np.ndarray) -> np.ndarray:
        return np.asarray(y @ weights[f"{part}_weight_{index}"] + weights[f"{part}_bias_{index}"])

    groups = np.array([GROUPS[name] for name in fields])
    encoded = [f(layer(group, 0, x[:, groups == group])) for group in ("micro", "macro") if group in groups]
    trunk = np.concatenate([*encoded, x[:, groups == "state"]], axis=1)
    trunk = f(layer("trunk", 1, f(layer("trunk", 0, trunk))))
    heads = {part: layer(part, 1, f(layer(part, 0, trunk))) for part in ("value", "branch_0", "branch_1")}
    expected = [heads["value"] + a - a.mean(axis=1, keepdims=True) for a in (heads["branch_0"], heads["branch_1"])]
    found = policy.network(np, inputs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), rtol=1e-4, atol=1e-5)


def test_inputs_far_off_say_no_more_than_ten_deviations() -> None:
    """So that one wild metric does not drown the others."""
    network = BranchingPolicy(made()).network
    far, farther = np.full((1, len(SOME)), 50.0, np.float32), np.full((1, len(SOME)), 1e6, np.float32)
    np.testing.assert_array_equal(network(np, far), network(np, farther))
    assert (network(np, far) != network(np, np.zeros_like(far))).any()


def wide() -> BranchingNetwork:
    """A network over all fields, wide enough that products of other sizes differ in their last bits."""
    changed: dict[str, Any] = {f"array_{name}": array for name, array in arrays(NAMES, (11, 5), 96).items()}
    return BranchingPolicy(made(NAMES, **changed)).network


FIXED = wide()
MANY = np.random.default_rng(3).normal(size=(2048, len(NAMES))).astype(np.float32)
ALL = FIXED(np, MANY)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2047), min_size=0, max_size=3 * BLOCK))
def test_a_row_is_answered_alike_in_any_batch(rows: list[int]) -> None:
    """To the bit: whichever rows come with it, in whichever order, however many."""
    np.testing.assert_array_equal(FIXED(np, MANY[rows]), ALL[rows])


@pytest.mark.parametrize("actions", ["branching", "headroom", "step"])
def test_it_decides_from_a_file(actions: str) -> None:
    """An artifact's bytes become a policy that answers every row, whatever the number of branches."""
    policy = from_artifact(loads(dumps(made(actions=actions))))
    assert isinstance(policy, BranchingPolicy)
    scaler = Autoscaler(policy, Settings(capacity_per_replica=10.0), 3)
    at = [50.0, 100.0, 500.0]
    ticks = (Snapshot(time=15.0 * t, load=at, ready=10, starting=0, desired=10, backlog=0) for t in range(8))
    decisions = [scaler.decide(snapshot) for snapshot in ticks][-1]
    assert np.isfinite(decisions.proposal).all()
    assert decisions.error == ""
    assert not (decisions.reasons & Reason.PolicyFailed).any()
    assert policy.state(7) == {}


def test_input_out_of_the_training_range_falls_back() -> None:
    """The rule decides for that row alone, and says so."""
    policy = from_artifact(made(training_range={"size": [0.0, 3.0]}))
    scaler = Autoscaler(policy, Settings(capacity_per_replica=10.0, max_replicas=10_000), 2)
    ticks = (Snapshot(time=15.0 * t, load=[100.0, 90_000.0], ready=10, starting=0, desired=10) for t in range(4))
    decisions = [scaler.decide(snapshot) for snapshot in ticks][-1]
    assert (decisions.reasons & Reason.OutOfTrainingRange != 0).tolist() == [False, True]


EMPTY = np.zeros(1, np.float32)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown field": ({"fields": ["trend", "size", "yesterday", "noise_5m", "moon"]}, "fields names moon"),
    "no field": ({"fields": []}, "fields names nothing"),
    "an unknown activation": ({"parameters": {"activation": "sin"}}, "activation is 'sin'; expected one of relu"),
    "no activation": ({"parameters": {}}, "activation is None"),
    "a missing branch": ({"action_scheme": "headroom", "array_branch_0_weight_0": None}, "for each of micro, macro"),
    "a branch too many": ({"action_scheme": "headroom"}, "expected mean, scale, and PART_weight_0"),
    "a missing bias": ({"array_trunk_bias_1": None}, "expected mean, scale, and PART_weight_0"),
    "a foreign array": ({"array_more": EMPTY}, "the arrays are"),
    "a mean of other fields": ({"array_mean": EMPTY}, "mean has shape (1,); expected (5,)"),
    "a scale of zero": ({"array_scale": np.zeros(5, np.float32)}, "scale has 0"),
    "an encoder of other fields": (
        {"array_micro_weight_0": np.zeros((3, WIDTH), np.float32)}, "expected (2, n) and (n,)"
    ),
    "a trunk that does not fit": (
        {"array_trunk_weight_0": np.zeros((4, WIDTH), np.float32)}, f"expected ({2 * WIDTH + 2}, n) and (n,)"
    ),
    "two values": (
        {"array_value_weight_1": np.zeros((WIDTH, 2), np.float32), "array_value_bias_1": np.zeros(2, np.float32)},
        "the last layer of value has 2 outputs; expected 1",
    ),
    "too few choices": (
        {"array_branch_1_weight_1": np.zeros((WIDTH, 4), np.float32), "array_branch_1_bias_1": np.zeros(4, np.float32)},
        "the last layer of branch_1 has 4 outputs; expected 5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_network_is_refused(case: str) -> None:
    """Before anything is decided, with what is wrong."""
    changes, message = WRONG[case]
    with pytest.raises(ArtifactError) as refused:
        BranchingPolicy(made(**changes))
    assert message in str(refused.value)
