"""Policies by name or path: the built-in rules, and artifacts of learned policies."""

from collections.abc import Callable
from dataclasses import replace
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
from rlscaler.rules.kpa import Kpa
from rlscaler.rules.lcp import Lcp
from rlscaler.rules.mpc import Mpc
from rlscaler.rules.parameters import Rule
from rlscaler.rules.phpa import Phpa
from rlscaler.rules.simple import Churn, Constant, Random, Static, Threshold
from rlscaler.rules.tenure import Tenure
from rlscaler.table import KIND as TABLE
from rlscaler.table import TablePolicy
from rlscaler.tenured import ADVISORY, MODES, OFF, Tenured, from_network, tenured
from rlscaler.tenured import KIND as TENURE
from rlscaler.tuned import constants

HPA = "hpa"
"""The rule by which a HorizontalPodAutoscaler decides."""
RULES: dict[str, type[Rule]] = {
    "static": Static,
    "threshold": Threshold,
    HPA: Hpa,
    "keda": Keda,
    "kpa": Kpa,
    "phpa": Phpa,
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

SPARE_RULE = "growth-quantile"
"""The rule that steps in for a policy, and whose recommendation stands beside it."""

DEFAULT, LEARNED = "default", "learned"
"""The policy that the package brings, with tenure, and its network alone; see scripts/default_policy.py."""
BUILT_IN = (DEFAULT, LEARNED, *RULES)
"""Every policy that needs no file."""

_KINDS: dict[str, Callable[[Artifact], Policy]] = {
    TABLE: TablePolicy,
    MLP: MlpPolicy,
    BRANCHING: BranchingPolicy,
    TENURE: from_network,
}


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
    """Return where the artifact of that name is: in the package for DEFAULT and LEARNED, else at that path."""
    own = files("rlscaler").joinpath(f"data/{DEFAULT}{SUFFIX}")
    return Path(str(own)) if name in (DEFAULT, LEARNED) else Path(name)


def load_policy(policy: str | Path, digest: str | None = None, tenure: str | None = None) -> Policy:
    """Return the policy: a rule with its tuned constants (by name) or an artifact (of the package by name, or a path).

    policy: a name of BUILT_IN, or a path. digest: what an artifact's must be (None: any); rules have none.
    tenure: of `tenured.MODES`, whether the learned policy has to earn its say; None: as the artifact has it.
    Raises PolicyError or ArtifactError with a sentence.
    """
    name = str(policy)
    if name in RULES:
        if tenure not in (None, OFF):
            raise PolicyError(f"{name} is a rule, and tenure is for learned policies; leave it out")
        return RULES[name](**constants(name))
    path = artifact_path(name)
    try:
        there = path.exists()
    except OSError:  # a name that no file can have, such as one of over 255 characters
        there = False
    if there:
        found = from_artifact(load(path, expect_digest=digest))
        made = with_tenure(found, OFF if name == LEARNED and tenure is None else tenure)
        if name == LEARNED:
            made.name = LEARNED
        return made
    if "/" in name or path.suffix:
        raise PolicyError(
            f"{name}: no such artifact; train one with 'rlscaler train', or name a rule: {', '.join(RULES)}"
        )
    raise PolicyError(f"policy {name!r} is unknown; expected {', '.join(BUILT_IN)}, or the path of an artifact")


def with_tenure(policy: Policy, mode: str | None) -> Policy:
    """Return the policy with, or without, having to earn its say; mode: of `tenured.MODES`, None: as it is.

    Raises PolicyError for another mode, or a policy that cannot.
    """
    if mode is None:
        return policy
    if mode not in MODES:
        raise PolicyError(f"tenure is {mode!r}; expected one of {', '.join(MODES)}")
    if isinstance(policy, Tenured):
        return policy.learned if mode == OFF else replace(policy, advisory=mode == ADVISORY)
    if mode == OFF:
        return policy
    try:
        return tenured(policy, constants("tenure"), advisory=mode == ADVISORY)
    except ValueError as error:
        raise PolicyError(str(error)) from error
