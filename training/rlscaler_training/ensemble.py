"""Several networks as one: their mean, exactly, as a single network whose layers hold them side by side.

Networks from other seeds err in other places, so their mean does better than any of them (Breiman, "Bagging
predictors", 1996); side by side in block-diagonal layers it is an ordinary network to whoever serves it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlscaler.artifact import Artifact
from rlscaler.mlp import KIND

ALIKE = ("kind", "observation_schema", "action_scheme", "fields", "parameters")
"""What of their manifests networks must share to be joined."""


def joined(artifacts: Sequence[Artifact], *, name: str, provenance: dict[str, Any], scores: dict[str, Any]) -> Artifact:
    """Return the policy whose outputs are the mean of the artifacts' outputs, networks (`rlscaler.mlp`) all.

    The training range is where all of them were trained. Raises ValueError where they differ in more than weights.
    """
    first = artifacts[0]
    if first.manifest["kind"] != KIND:
        raise ValueError(f"{first.manifest['name']}: is a policy of kind {first.manifest['kind']}; expected {KIND}")
    for other in artifacts[1:]:
        if unlike := [key for key in ALIKE if other.manifest[key] != first.manifest[key]]:
            raise ValueError(f"{other.manifest['name']}: differs from {first.manifest['name']} in {unlike[0]}")
        for key in ("mean", "scale"):
            if not np.array_equal(other.arrays[key], first.arrays[key]):
                raise ValueError(f"{other.manifest['name']}: differs from {first.manifest['name']} in the array {key}")
    layers = sum(key.startswith("weight_") for key in first.arrays)
    arrays = {key: first.arrays[key] for key in ("mean", "scale")}
    for layer in range(layers):
        weights = [each.arrays[f"weight_{layer}"] for each in artifacts]
        biases = [each.arrays[f"bias_{layer}"] for each in artifacts]
        if layer == layers - 1:
            weight = np.concatenate(weights, axis=0) / len(artifacts)
            bias = np.mean(biases, axis=0)
        else:
            weight = np.concatenate(weights, axis=1) if layer == 0 else _side_by_side(weights)
            bias = np.concatenate(biases)
        arrays |= {f"weight_{layer}": _plain(weight), f"bias_{layer}": _plain(bias)}
    ranges = [each.manifest["training_range"] for each in artifacts]
    known = {field: [max(r[field][0] for r in ranges), min(r[field][1] for r in ranges)] for field in ranges[0]}
    manifest = {key: first.manifest[key] for key in ALIKE}
    manifest |= {"name": name, "training_range": known, "provenance": provenance, "scores": scores}
    return Artifact(manifest=manifest, arrays=arrays)


def _side_by_side(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the block-diagonal matrix of the blocks."""
    rows, columns = (np.cumsum([0, *(block.shape[axis] for block in blocks)]) for axis in (0, 1))
    whole = np.zeros((rows[-1], columns[-1]), np.float32)
    for index, block in enumerate(blocks):
        whole[rows[index] : rows[index + 1], columns[index] : columns[index + 1]] = block
    return whole


def _plain(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32)
