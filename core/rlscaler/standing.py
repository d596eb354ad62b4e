"""Who has which say in a policy with tenure, in words and numbers that change as seldom as what they tell of.

Say moves a little at every decision, and candidates beside each other on the ladder change places all the time. So a
leader stays the leader until another one has clearly more say.
"""

from typing import NamedTuple

import numpy as np

from rlscaler.arrays import State
from rlscaler.hedge import utmost_price
from rlscaler.tenured import ADVISORY, ON, Tenured

AHEAD = 1.25
"""Times the leader's say that another candidate must have to take the lead, and times an even share at first."""
KINDS = ("learned", "growth-quantile", "hpa", "periodic")
"""The kinds of candidates: the learned policy, and the rules by name."""


class Standing(NamedTuple):
    """Who has which say on one workload.

    mode: "On" or "Advisory". leader: the candidate that leads, in words, "" where nobody does yet. kind: of KINDS,
    the leader's. share: of the say, the leader's. margin: by how much its replayed score is below that of the tuned
    rule (None: unknown, as is the share of nobody). learned: share of the say that the learned policy has. seconds: of
    replayed past, old ones counting less.
    """

    mode: str
    leader: str
    kind: str
    share: float | None
    margin: float | None
    learned: float
    seconds: float


def standings(
    policy: Tenured, state: State, leaders: np.ndarray, price: np.ndarray
) -> tuple[list[Standing], np.ndarray]:
    """Return who has which say on N workloads, and who leads, by number of the candidate; -1: nobody.

    state: of the policy. leaders: (N,) int64, who led before. price: (N,) of a late request, by the objective: say is
    told at the price farthest from the standard one at which it is earned.
    """
    hedge, words = policy.tenure.hedge, policy.tenure.candidates
    at = utmost_price(np, price)[:, None]
    weights, scores = hedge.weights(np, state, at), hedge.scores(np, state, at)
    lines = np.arange(len(leaders))
    best = np.argmax(weights, axis=1)
    before = np.where(leaders >= 0, weights[lines, leaders], 1.0 / (hedge.size - hedge.guests))
    # Nobody is -1, whose figures below are those of the last one, and not told.
    leaders = np.where(weights[lines, best] > AHEAD * before, best, leaders)
    margins = scores[:, hedge.spare] - scores[lines, leaders]
    mode = ADVISORY if policy.advisory else ON
    found = []
    for leader, share, margin, learned, seconds, told in zip(
        leaders.tolist(), weights[lines, leaders].tolist(), margins.tolist(), weights[:, -1].tolist(),
        state["known"].tolist(), (state["demand"] > 0.0).tolist(), strict=True,
    ):  # fmt: skip
        if leader < 0:
            found.append(Standing(mode, "", "", None, None, learned, seconds))
        else:
            kind, name = words[leader]
            found.append(Standing(mode, name, kind, share, margin if told else None, learned, seconds))
    return found, leaders
