"""A network of an artifact as ONNX, for those who serve models by onnxruntime or look at them in other tools.

The graph is made of the artifact's own arrays, layer by layer, so it needs no torch and says what NumPy computes. Its
input is `inputs`, (rows, fields) float32, in the order of the metadata's `fields`; its output `values`, (rows, choices
of all branches side by side), or `correction`, (rows, 1), of the log headroom before its bound. Which choices are
allowed, and what a choice means, stays with the decision (`rlscaler.action`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from rlscaler.artifact import Artifact
from rlscaler.branching import ENCODED, FARTHEST, BranchingPolicy, columns
from rlscaler.errors import UserError
from rlscaler.files import write_bytes_atomically
from rlscaler.mlp import MlpPolicy
from rlscaler.network_policy import Layers
from rlscaler.observation import HIGH, LOW
from rlscaler.policies import from_artifact
from rlscaler_training.agreement import Agreement, compared

OPSET, IR = 17, 8
"""Versions that onnxruntime has read since 1.15."""
SAMPLE = 10_000
"""Observations on which onnxruntime and NumPy are compared."""


class _Graph:
    """Nodes and constants of a graph that is being made; each method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def apply(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, list(inputs), [name], name=f"node_{len(self.nodes)}", **attributes)
        )
        return name

    def activated(self, activation: str, x: str) -> str:
        if activation == "silu":
            return self.apply("Mul", x, self.apply("Sigmoid", x))
        return self.apply({"relu": "Relu", "tanh": "Tanh"}[activation], x)

    def through(self, prefix: str, layers: Layers, activation: str, x: str, *, last: bool) -> str:
        """Apply layers; last: with the activation after the last of them too."""
        for index, (weight, bias) in enumerate(layers):
            x = self.apply("MatMul", x, self.constant(f"{prefix}weight_{index}", weight))
            x = self.apply("Add", x, self.constant(f"{prefix}bias_{index}", bias))
            if last or index < len(layers) - 1:
                x = self.activated(activation, x)
        return x

    def normalised(self, mean: np.ndarray, scale: np.ndarray) -> str:
        x = self.apply("Sub", "inputs", self.constant("mean", mean))
        return self.apply("Div", x, self.constant("scale", scale))


def model(artifact: Artifact) -> Any:
    """Return the artifact's network as an onnx.ModelProto. Raises UserError where it holds none."""
    policy = from_artifact(artifact)
    if not isinstance(policy, (MlpPolicy, BranchingPolicy)):
        raise UserError(f"{artifact.name}: is of kind {artifact.kind}, which has no network; ONNX holds networks alone")
    graph = _Graph()
    if isinstance(policy, MlpPolicy):
        network = policy.network
        layers = list(zip(network.weights, network.biases, strict=True))
        x = graph.normalised(network.mean, network.scale)
        x = graph.through("", layers, network.activation, x, last=False)
        output, width = "correction" if policy.output == "correction" else "values", len(network.biases[-1])
        graph.apply("Identity", x, output=output)
    else:
        output, width = "values", sum(policy.scheme.branches)
        _branching(graph, policy)
    made = helper.make_graph(
        graph.nodes,
        artifact.name,
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["rows", len(policy.fields)])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows", width])],
        graph.constants,
        doc_string=__doc__,
    )
    whole = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR,
                              producer_name="rlscaler")  # fmt: skip
    helper.set_model_props(whole, _metadata(artifact, policy.fields, policy.scheme.branches))
    onnx.checker.check_model(whole, full_check=True)
    return whole


def _branching(graph: _Graph, policy: BranchingPolicy) -> None:
    """Add the parts of a branching network: encoders, trunk, value, and advantages over their branch's mean."""
    network = policy.network
    x = graph.normalised(network.mean, network.scale)
    bounds = [graph.constant(name, np.array(value, np.float32)) for name, value in (("low", -FARTHEST),
                                                                                   ("high", FARTHEST))]  # fmt: skip
    x = graph.apply("Clip", x, *bounds)

    def picked(group: str) -> str:
        return graph.apply("Gather", x, graph.constant(f"{group}_columns", columns(network.fields, group)), axis=1)

    def through(part: str, y: str, last: bool) -> str:
        return graph.through(f"{part}_", network.layers[part], network.activation, y, last=last)

    encoded = [through(group, picked(group), True) for group in ENCODED if group in network.layers]
    trunk = through("trunk", graph.apply("Concat", *encoded, picked("trunk"), axis=1), True)
    value = through("value", trunk, False)
    q = []
    for part in network.layers:
        if part.startswith("branch_"):
            advantage = through(part, trunk, False)
            over = graph.apply("Sub", advantage, graph.apply("ReduceMean", advantage, axes=[1], keepdims=1))
            q.append(graph.apply("Add", value, over))
    graph.apply("Concat", *q, axis=1, output="values")


def _metadata(artifact: Artifact, fields: Sequence[str], branches: Sequence[int]) -> dict[str, str]:
    manifest = artifact.manifest
    texts = {key: str(manifest[key]) for key in ("name", "kind", "observation_schema", "action_scheme", "digest")}
    return texts | {"fields": json.dumps(list(fields)), "branches": json.dumps(list(branches)),
                    "training_range": json.dumps(manifest["training_range"])}  # fmt: skip


def checked(artifact: Artifact, whole: Any, rows: int = SAMPLE, seed: int = 0) -> Agreement:
    """Return how onnxruntime's answers compare with NumPy's on observations drawn within the schema's bounds.

    Half of them lie within the training range, where the manifest states one.
    """
    policy = from_artifact(artifact)
    assert isinstance(policy, (MlpPolicy, BranchingPolicy))
    rng = np.random.default_rng(seed)
    low, high = LOW[policy.columns], HIGH[policy.columns]
    anywhere = rng.uniform(low, high, (rows - rows // 2, len(low)))
    near = rng.uniform(np.maximum(low, policy.low), np.minimum(high, policy.high), (rows // 2, len(low)))
    inputs = np.concatenate([anywhere, near]).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"inputs": inputs})
    correction = isinstance(policy, MlpPolicy) and policy.output == "correction"
    return compared(policy.network(np, inputs), np.asarray(theirs), () if correction else policy.scheme.branches)


def save(artifact: Artifact, path: Path) -> Agreement:
    """Write the artifact's network as ONNX, whole or not at all, once onnxruntime has answered as NumPy does.

    Returns how they compare. Raises UserError where they do not agree, or there is no network.
    """
    whole = model(artifact)
    agreement = checked(artifact, whole)
    if not agreement.agree:
        raise UserError(f"{path}: not written, as onnxruntime does not answer as NumPy: {agreement}")
    write_bytes_atomically(path, whole.SerializeToString())
    return agreement
