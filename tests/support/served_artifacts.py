"""Small artifacts that this version serves, one of each kind, with random values from a fixed seed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlscaler.action import scheme
from rlscaler.artifact import Artifact
from rlscaler.branching import columns, parts
from rlscaler.observation import SCHEMA

FIELDS = ("trend", "noise_5m", "quarter_mean", "size", "backlog")
PROVENANCE = {
    "seed": 7,
    "version": "9.9",
    "command": "rlscaler train some",
    "date": "2026-01-02",
    "trained_on": ["spike"],
    "validated_on": ["ramp"],
    "asked": {"scenarios": ["spike"], "traces": None, "hours": 1.0, "seed": 7},
    "config": {"steps": 12},
    "git": {"commit": "0123456789abcdef", "changed": True},
}


def _manifest(kind: str, actions: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": f"small-{kind}", "kind": kind, "observation_schema": SCHEMA, "action_scheme": actions,
        "fields": list(FIELDS), "parameters": dict(parameters), "provenance": PROVENANCE,
        "scores": {"validation_score": 1.25, "export": {"observations": 100_000, "ties": 3,
                                                        "largest_difference": 2e-7}},
    }  # fmt: skip


def table(**changes: Any) -> Artifact:
    """Return a table over two fields."""
    values = np.random.default_rng(1).normal(size=(6, 11))
    manifest = _manifest("q-table", "headroom", {"bins": [["trend", [0.0]], ["size", [1.0, 2.0]]]})
    return Artifact(manifest | {"fields": ["trend", "size"]} | changes, {"values": values})


def network(output: str = "choices", actions: str = "headroom", activation: str = "silu", **changes: Any) -> Artifact:
    """Return a multi-layer perceptron."""
    rng = np.random.default_rng(2)
    sizes = (len(FIELDS), 8, 1 if output == "correction" else sum(scheme(actions).branches))
    arrays = {f"weight_{k}": rng.normal(size=sizes[k : k + 2]).astype(np.float32) for k in (0, 1)}
    arrays |= {f"bias_{k}": rng.normal(size=sizes[k + 1]).astype(np.float32) for k in (0, 1)}
    manifest = _manifest("mlp", actions, {"activation": activation, "output": output})
    return Artifact(manifest | changes, arrays | _normalised())


def branching(**changes: Any) -> Artifact:
    """Return a branching network."""
    rng = np.random.default_rng(3)
    branches = scheme("branching").branches
    encoded = {group: len(columns(FIELDS, group)) for group in ("micro", "macro")}
    inputs = encoded | {"trunk": 8 + len(columns(FIELDS, "trunk")), "value": 6}
    outputs = {"micro": 4, "macro": 4, "trunk": 6, "value": 1} | {f"branch_{k}": n for k, n in enumerate(branches)}
    arrays = {}
    for part in parts(FIELDS, len(branches)):
        arrays[f"{part}_weight_0"] = rng.normal(size=(inputs.get(part, 6), outputs[part])).astype(np.float32)
        arrays[f"{part}_bias_0"] = rng.normal(size=outputs[part]).astype(np.float32)
    manifest = _manifest("branching", "branching", {"activation": "relu"})
    return Artifact(manifest | changes, arrays | _normalised())


def _normalised() -> dict[str, np.ndarray]:
    return {"mean": np.zeros(len(FIELDS), np.float32), "scale": np.ones(len(FIELDS), np.float32)}
