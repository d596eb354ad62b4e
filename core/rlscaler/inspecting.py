"""What a policy is, as plain values: what an artifact's manifest says and its arrays hold, or a rule's constants.

Needs nothing but NumPy, so that the machine that serves a policy can tell what it serves.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlscaler import probing
from rlscaler.action import SCHEMES
from rlscaler.artifact import Artifact, ArtifactError, dumps, load
from rlscaler.branching import BranchingPolicy
from rlscaler.errors import UserError
from rlscaler.mlp import MlpPolicy
from rlscaler.observation import NAMES, SCHEMA
from rlscaler.policies import (
    BUILT_IN,
    RULES,
    PolicyError,
    artifact_path,
    from_artifact,
    load_policy,
)
from rlscaler.policy import Policy
from rlscaler.table import TablePolicy
from rlscaler.tenured import Tenured
from rlscaler.tuned import table


@dataclass(frozen=True, slots=True)
class Found:
    """What a name or path leads to.

    source: as given. path: of the artifact (None: a rule). artifact: None for a rule. policy: None where this version
    cannot serve the artifact; refusal then says why.
    """

    source: str
    path: Path | None = None
    artifact: Artifact | None = None
    policy: Policy | None = None
    refusal: str = ""


def find(source: str) -> Found:
    """Return the rule of that name, or the artifact at that path, a file or a folder.

    Raises UserError where there is none, or the artifact is not whole.
    """
    if source in RULES:
        return Found(source, policy=load_policy(source))
    path = artifact_path(source)
    try:
        there = path.exists()
    except OSError:  # a name that no file can have, such as one of over 255 characters
        there = False
    if not there and "/" not in source and not path.suffix:
        raise UserError(f"policy {source[:80]!r} is unknown; expected {', '.join(BUILT_IN)}, or the path of an "
                        "artifact or of a run")  # fmt: skip
    artifact = load(path)
    try:
        return Found(source, path, artifact, from_artifact(artifact))
    except (ArtifactError, PolicyError) as error:
        return Found(source, path, artifact, None, str(error))


def described(found: Found) -> dict[str, Any]:
    """Return all that is to be told of it but its behaviour, JSON-ready; None where something is not stated."""
    if found.artifact is None:
        assert found.policy is not None
        return _rule(found)
    manifest = found.artifact.manifest
    scores, scheme = manifest["scores"], SCHEMES.get(manifest["action_scheme"])
    return {
        "policy": manifest["name"],
        "kind": manifest["kind"],
        "path": str(found.path),
        "bytes": len(dumps(found.artifact)),
        "digest": manifest["digest"],
        "served": found.policy is not None,
        "refusal": found.refusal or None,
        "observation": {
            "schema": manifest["observation_schema"],
            "fields": manifest["fields"],
            "of": len(NAMES) if manifest["observation_schema"] == SCHEMA else None,
            "training_range": manifest["training_range"],
        },
        "action": {
            "scheme": manifest["action_scheme"],
            "choices": list(scheme.branches) if scheme is not None else None,
        },
        "shape": None if found.policy is None else shape(found.policy),
        "numbers": int(sum(array.size for array in found.artifact.arrays.values())),
        "arrays": {name: [array.dtype.name, list(array.shape)] for name, array in found.artifact.arrays.items()},
        "parameters": manifest["parameters"],
        "provenance": manifest["provenance"],
        "scores": {name: value for name, value in scores.items() if name != "export"},
        "agreement": scores.get("export"),
    }


def _rule(found: Found) -> dict[str, Any]:
    name, rule = found.source, found.policy
    parameters = RULES[name].PARAMETERS
    stated = table()["constants"].get(name, {})
    return {
        "policy": name,
        "kind": "rule",
        "about": (RULES[name].__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " "),
        "constants": {
            key: {
                "value": None if getattr(rule, key) is None else float(getattr(rule, key)),
                "meaning": each.meaning,
                "tuned": key in stated,
            }
            for key, each in parameters.items()
        },
        "provenance": table()["provenance"] if stated else None,
    }


def shape(policy: Policy) -> str:
    """Return the shape of what decides, in words."""
    if isinstance(policy, TablePolicy):
        cuts = policy.bins.cuts
        bins = " x ".join(f"{len(each) + 1} of {name}" for name, each in cuts.items())
        return f"table of {policy.values.shape[0]:,} states ({bins}) by {policy.values.shape[1]} choices"
    if isinstance(policy, MlpPolicy):
        sizes = [len(policy.fields), *(len(bias) for bias in policy.network.biases)]
        what = "a value for each choice" if policy.output == "choices" else "the correction of the log headroom"
        return f"network {' > '.join(map(str, sizes))}, {policy.network.activation}; its output is {what}"
    if isinstance(policy, Tenured):
        rules = policy.tenure.hedge.size - 1
        return f"{shape(policy.learned)}; beside it {rules} rules, each with the say it has earned"
    if isinstance(policy, BranchingPolicy):
        parts = (
            f"{part} {' > '.join(str(size) for size in (layers[0][0].shape[0], *(len(bias) for _, bias in layers)))}"
            for part, layers in policy.network.layers.items()
        )
        return f"branching network, {policy.network.activation}: {', '.join(parts)}"
    return type(policy).__name__


def behaviour(policy: Policy) -> dict[str, Any]:
    """Return what the policy does in named situations, and how often more load gave fewer replicas, JSON-ready."""
    fewer, of = probing.monotonic(policy)
    return {
        "situations": [asdict(each) for each in probing.probe(policy)],
        "more_load_fewer_replicas": fewer,
        "comparisons": of,
    }
