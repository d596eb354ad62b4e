"""Who takes part: every rule with its constants and the guard it runs under, by the names of the tables.

A rule stands for what an SRE would run instead, so it keeps its own mechanism and nothing else: HPA and KEDA have
stabilisation, tolerance and bounds but no reactive floor; the rules of this project run behind the whole guard.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler import Objective, Settings, tuned
from rlscaler.artifact import ArtifactError
from rlscaler.behavior import DEFAULT, Behavior, ScalingRules
from rlscaler.panel import Panel
from rlscaler.policies import DEFAULT as DEFAULT_POLICY
from rlscaler.policies import LEARNED, RULES, PolicyError, load_policy, with_tenure
from rlscaler.policy import Policy
from rlscaler.rules.hpa import Hpa
from rlscaler.rules.parameters import Parameter
from rlscaler.tenured import OFF
from rlscaler_sim.contest import Entrant
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE

OWN = "hpa-own"
"""The HPA tuned on the very load that it is scored on."""
OWN_TARGET = "hpa-own-target"
"""The same with its target alone tuned, without a window and with Kubernetes' tolerance: beside OWN in evaluations."""
NAMES = ("static", "threshold", "hpa", REFERENCE, OWN, "keda", "kpa", "phpa", "erlang", "growth-quantile", "tenure",
         "mpc", "lcp", CLAIRVOYANT, "constant", "churn", "random")  # fmt: skip
"""Every contender but learned policies, in the order of the tables."""
USUAL = ("hpa", REFERENCE, "keda")
"""Whom a dry-run compares with where nothing is said."""
SHIPPED = (DEFAULT_POLICY, LEARNED)
"""Policies of the package that were trained on recorded load."""
_GUARDED = {"erlang", "growth-quantile", "tenure", "mpc", "lcp"}

HPA_PARAMETERS: dict[str, Parameter] = {
    "target": Parameter(0.7, 0.4, 0.97, False, "load per replica, share of a replica's capacity"),
    "window": Parameter(300.0, 0.0, 300.0, False, "scale-down stabilisation window, seconds: 0, 60 or 300"),
    "tolerance": Parameter(0.1, 0.0, 0.1, False, "share of the target by which nothing changes: 0, 0.05 or 0.1"),
}
"""What is tuned of an HPA."""
TARGETS = tuple(round(float(t), 3) for t in np.arange(0.45, 0.951, 0.05))
WINDOWS = (0.0, 60.0, 300.0)
TOLERANCES = (0.0, 0.05, 0.1)


def standard_settings(startup: float = 60.0) -> Settings:
    """Return the settings of the standard world: 10 requests/s a replica, a wait under 0.4 s, 1 to 100 replicas."""
    return Settings(
        min_replicas=1,
        max_replicas=100,
        interval=15.0,
        lag=15.0,
        startup=startup,
        capacity_per_replica=10.0,
        objective=Objective(latency=0.5, target=99.9),
    )


def hpa_behavior(window: float, tolerance: float) -> Behavior:
    """Return the Kubernetes defaults with another scale-down window and tolerance."""
    down = DEFAULT.down
    return Behavior(
        up=ScalingRules(DEFAULT.up.window, DEFAULT.up.select, DEFAULT.up.policies, tolerance),
        down=ScalingRules(window, down.select, down.policies, tolerance),
    )


def hpa_entrant(name: str, settings: Settings, constants: Mapping[str, Any], copies: int = 1) -> Entrant:
    """Return an HPA; the constants are numbers, or arrays (copies x loads,) of target, window and tolerance."""
    window, tolerance = constants.get("window", DEFAULT.down.window), constants.get("tolerance", 0.1)
    behavior: Behavior | Sequence[Behavior]
    if np.ndim(window) or np.ndim(tolerance):
        pairs = zip(*np.broadcast_arrays(np.asarray(window, float), np.asarray(tolerance, float)), strict=True)
        made: dict[tuple[float, float], Behavior] = {}
        behavior = [made.setdefault((float(w), float(t)), hpa_behavior(float(w), float(t))) for w, t in pairs]
    else:
        behavior = hpa_behavior(float(window), float(tolerance))
    bare = replace(settings, behavior=behavior, floor=False, flap_budget=np.inf)
    return Entrant(name, Hpa(target=constants.get("target", 0.7), name=name), bare, copies)


def entrant(name: str, settings: Settings, constants: Mapping[str, Any] | None = None, copies: int = 1) -> Entrant:
    """Return a rule as contender.

    constants: what differs from the rule's defaults (None: its tuned constants), numbers or arrays
    (copies x loads,). Raises KeyError for a name that is no rule.
    """
    if constants is None:
        constants = tuned.constants(name)
    if name.startswith("hpa"):
        return hpa_entrant(name, settings, constants, copies)
    rule = RULES[name](**constants)
    if name not in _GUARDED:
        settings = replace(settings, behavior=None, floor=False, flap_budget=np.inf)
    return Entrant(name, rule, settings, copies)


def folded(name: str, settings: Settings, families: Sequence[str]) -> Entrant:
    """Return a rule whose constants, load by load, were tuned with that load's source family held out."""
    rows = [tuned.constants(name, family) for family in families]
    keys = sorted({key for row in rows for key in row})
    parameters = HPA_PARAMETERS if name.startswith("hpa") else RULES[name].PARAMETERS
    constants = {key: np.array([row.get(key, parameters[key].default) for row in rows]) for key in keys}
    return entrant(name, settings, constants)


def tested(
    policy: str,
    settings: Settings,
    families: Sequence[str] | None = None,
    digest: str | None = None,
    tenure: str | None = None,
) -> Entrant:
    """Return the policy under test behind the whole guard; an artifact called as a rule is goes by its path.

    digest: what an artifact's must be (None: any). tenure: of `tenured.MODES` (None: as the policy has it). families:
    of the loads, where a rule's constants, and the weights of what the package ships, are to be those made without them
    (see `folded`).
    Raises PolicyError or ArtifactError.
    """
    if policy in ("hpa", REFERENCE):
        return entrant(policy, settings) if families is None else folded(policy, settings, families)
    if families is not None and digest is None and policy in SHIPPED:
        return Entrant(policy, held_out(policy, families), settings)
    try:
        found = load_policy(policy, digest, tenure)
    except (PolicyError, ArtifactError) as error:
        if policy in str(error):
            raise
        raise type(error)(f"{policy}: {error}") from error
    if families is not None and is_rule(policy):
        return replace(folded(found.name, settings, families), settings=settings)
    name = policy if found.name in NAMES and not is_rule(policy) else found.name
    return Entrant(name, found, settings)


def held_out(policy: str, families: Sequence[str]) -> Policy:
    """Return one of SHIPPED as it was trained without the family of each load, in the order of the families.

    That is what a score on recorded load may be of: the policy that is shipped was trained on all of it. Load of no
    known family is decided by the shipped one.
    """
    of = np.array([_fold(name) for name in families])
    members = []
    for fold in np.unique(of):
        if fold < 0:
            made = load_policy(policy)
        else:
            made = load_policy(Path(str(files("rlscaler_sim").joinpath(f"data/default-{fold + 1}.rlz"))))
            made = with_tenure(made, OFF) if policy == LEARNED else made
        members.append((made, np.flatnonzero(of == fold)))
    return Panel(members, name=policy)


def _fold(family: str) -> int:
    """Return the fold that the family was held out in, -1: none."""
    for index, fold in enumerate(tuned.table()["folds"]):
        if family in fold["held_out"]:
            return index
    return -1


def is_rule(policy: str) -> bool:
    """Tell whether a policy's name is that of a rule, whose constants are tuned on recorded load."""
    return policy in RULES


def own_grid() -> dict[str, np.ndarray]:
    """Return every combination of TARGETS, WINDOWS and TOLERANCES: name -> (candidates,)."""
    grid = np.array([(t, w, o) for t in TARGETS for w in WINDOWS for o in TOLERANCES])
    return {"target": grid[:, 0], "window": grid[:, 1], "tolerance": grid[:, 2]}


def own_allowed() -> dict[str, np.ndarray]:
    """Return which of `own_grid` each HPA that is tuned in hindsight may have: name -> (candidates,) bool."""
    grid = own_grid()
    target_alone = (grid["window"] == 0.0) & (grid["tolerance"] == HPA_PARAMETERS["tolerance"].default)
    return {OWN: np.ones(len(target_alone), bool), OWN_TARGET: target_alone}
