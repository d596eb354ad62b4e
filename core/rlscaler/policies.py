"""Policies by name or path: the built-in rules, and artifacts of learned policies."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from rlscaler.artifact import SUFFIX, Artifact, load, require
from rlscaler.branching import KIND as BRANCHING
from rlscaler.branching import BranchingPolicy
from rlscaler.container import refuse, show
from rlscaler.mlp import KIND as MLP
from rlscaler.mlp import MlpPolicy
from rlscaler.observation import SCHEMA
from rlscaler.policy import Policy
from rlscaler.rules.erlang import Erlang
from rlscaler.rules.growth import Growth
from rlscaler.rules.hpa import Hpa
from rlscaler.rules.keda import Keda
from rlscaler.rules.lcp import Lcp
from rlscaler.rules.mpc import Mpc
from rlscaler.rules.parameters import Rule
from rlscaler.rules.simple import Churn, Constant, Random, Static, Threshold
from rlscaler.rules.tenure import Tenure
from rlscaler.table import KIND as TABLE
from rlscaler.table import TablePolicy
from rlscaler.tuned import constants

RULES: dict[str, type[Rule]] = {
    "static": Static,
    "threshold": Threshold,
    "hpa": Hpa,
    "keda": Keda,
    "erlang": Erlang,
    "growth-quantile": Growth,
    "tenure": Tenure,
    "mpc": Mpc,
    "lcp": Lcp,
    "constant": Constant,
    "churn": Churn,
    "random": Random,
}
"""The rules by name; each takes its constants as keyword arguments."""

DEFAULT_RULE = "growth-quantile"
"""The rule that `default` stands for until a learned policy earns the place."""

LEARNED = "learned"
"""The learned policy that the package brings: a network, see scripts/default_policy.py."""
BUILT_IN = ("default", LEARNED, *RULES)
"""Every policy that needs no file."""

_KINDS: dict[str, Callable[[Artifact], Policy]] = {TABLE: TablePolicy, MLP: MlpPolicy, BRANCHING: BranchingPolicy}


class PolicyError(ValueError):
    """No policy of that name or path; the message says what there is."""


def from_artifact(artifact: Artifact) -> Policy:
    """Return the policy that an artifact holds.

    Raises ArtifactError where its observation schema or its kind is not this version's, or no cluster has what it sees.
    """
    from rlscaler.action import SCHEMES

    manifest = artifact.manifest
    if environment := manifest["parameters"].get("environment"):
        refuse(
            f"policy {artifact.name} belongs to the environment {show(environment)}, and no workload has what it sees",
            "a policy of workloads",
            "train one without --environment",
        )
    require(artifact, observation_schema=SCHEMA, action_schemes=tuple(SCHEMES))
    kind = manifest["kind"]
    if kind not in _KINDS:
        raise PolicyError(f"policy kind {kind!r} is unknown; this version runs {', '.join(_KINDS)}")
    return _KINDS[kind](artifact)


def artifact_path(name: str) -> Path:
    """Return where the package keeps the artifact of that name."""
    return Path(str(files("rlscaler").joinpath(f"data/{name}{SUFFIX}")))


def load_policy(policy: str | Path, digest: str | None = None) -> Policy:
    """Return the policy: a rule with its tuned constants (by name; `default` is the best of them) or an artifact.

    policy: a name of BUILT_IN, or a path. digest: what an artifact's must be (None: any); rules have none.
    Raises PolicyError or ArtifactError with a sentence.
    """
    name = DEFAULT_RULE if policy == "default" else str(policy)
    if name in RULES:
        return RULES[name](**constants(name))
    path = artifact_path(name) if name == LEARNED else Path(policy)
    try:
        there = path.exists()
    except OSError:  # a name that no file can have, such as one of over 255 characters
        there = False
    if there:
        return from_artifact(load(path, expect_digest=digest))
    if "/" in name or path.suffix:
        raise PolicyError(
            f"{name}: no such artifact; train one with 'rlscaler train', or name a rule: {', '.join(RULES)}"
        )
    raise PolicyError(f"policy {name!r} is unknown; expected {', '.join(BUILT_IN)}, or the path of an artifact")
