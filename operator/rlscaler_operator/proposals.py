"""Proposals that come from an inference server, and the reasons that several candidates leave unsaid. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlscaler.decisions import Decisions
from rlscaler.policy import Proposal
from rlscaler.reasons import Reason


class Served(NamedTuple):
    """What an inference server proposes for one workload, and by which policy; see `rlscaler.served.Answers`."""

    replicas: float
    patience: float
    trained: bool
    policy: str


def with_served(proposal: Proposal, elsewhere: np.ndarray, served: Sequence[Served | None]) -> Proposal:
    """Return the proposal with that of a server where there is one. elsewhere: where, (N,) bool."""

    def mixed(values: Any, name: str, otherwise: Any) -> np.ndarray:
        own = np.full(len(served), otherwise) if values is None else np.asarray(values)
        theirs = [otherwise if each is None else getattr(each, name) for each in served]
        return np.where(elsewhere, np.array(theirs, own.dtype), own)

    def only_own(values: Any) -> np.ndarray | None:
        return None if values is None else np.where(elsewhere, np.zeros_like(values), values)

    return Proposal(
        replicas=mixed(proposal.replicas, "replicas", np.nan),
        patience=mixed(proposal.patience, "patience", 0.0),
        trained=mixed(proposal.trained, "trained", True),
        reasons=only_own(proposal.reasons),
        tolerated=only_own(proposal.tolerated),
        relative=proposal.relative,
    )


def with_bounds(made: Decisions, settings: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the reasons, and that a bound holds where the decision and the mean of all orders stand at it.

    Candidates order within the bounds, so that nothing is left for the guard to say of them. That more or fewer would
    be wanted is told by the rule's recommendation, which knows no bounds.
    """
    least, most = settings["min_replicas"], settings["max_replicas"]
    few = (made.replicas == least) & (made.proposal <= least * (1.0 + 1e-9)) & (np.ceil(made.recommendation) < least)
    many = (made.replicas == most) & (made.proposal >= most * (1.0 - 1e-9)) & (made.recommendation > most)
    bits = np.where(few, made.reasons | int(Reason.TooFewReplicas), made.reasons)
    return np.where(many, bits | int(Reason.TooManyReplicas), bits)
