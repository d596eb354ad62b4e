"""Action schemes: how a learned policy's discrete choice becomes a proposal.

`headroom` corrects the headroom that the workload's own growth histogram makes cheapest, so that an untrained
policy (always the middle action) is already a sane rule; `step` adds or removes one replica, as earlier work did;
`branching` chooses a correction and a patience at once.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlscaler.arrays import Array
from rlscaler.policy import Proposal, View

QUANTUM = 0.02
"""Headroom is rounded to multiples of this in the logarithm, so that the last bits of an inference do not show."""
CORRECTIONS = (-0.6, -0.4, -0.26, -0.16, -0.08, 0.0, 0.08, 0.16, 0.26, 0.4, 0.6)
"""Corrections of the log headroom that the actions of `headroom` stand for."""
PATIENCES = (0.0, 30.0, 120.0, 300.0, 600.0)
"""Seconds of patience that the second branch of `branching` stands for."""
DRAIN = 15.0
"""Seconds within which a proposal drains the backlog."""
HOLD = 30.0
"""Seconds for which a headroom is kept where the scheme has no branch for it: two decisions of the standard world."""


def headroom_proposal(view: View, correction: Array, patience: Array | None = None) -> Proposal:
    """Return level x e^(cheapest headroom + correction) + backlog / (capacity x DRAIN).

    correction: (N,) in logs, or (M, 1) for M corrections of all N at once, which gives replicas (M, N).
    """
    xp, f = view.xp, view.features
    level = xp.astype(f["level"], xp.float64)
    headroom = QUANTUM * xp.round((f["trend_cheap"] + correction) / QUANTUM)
    backlog = view.snapshot["backlog"] / (view.settings["capacity_per_replica"] * DRAIN)
    backlog = xp.where(xp.isnan(backlog), 0.0, backlog)
    replicas = (level + 0.5) * xp.exp(xp.astype(headroom, xp.float64)) - 0.5 + backlog
    return Proposal(replicas=xp.where(xp.isnan(view.demand), float("nan"), replicas), patience=patience)


@dataclass(frozen=True, slots=True)
class Scheme:
    """An action scheme: its name and the number of choices in each branch."""

    name: str
    branches: tuple[int, ...]

    def propose(self, view: View, actions: Array) -> Proposal:
        """Return the proposal for `actions`, (N,) int64 or (N, branches)."""
        xp = view.xp
        device = getattr(view.demand, "device", None)

        def look_up(table: tuple[float, ...], index: Array) -> Array:
            return xp.asarray(np.array(table), device=device)[index]

        if self.name == "step":
            replicas = view.current + xp.astype(actions - 1, xp.float64)
            return Proposal(replicas=xp.clip(replicas, 0.0, None), relative=xp.ones_like(replicas) > 0.0)
        if self.name == "headroom":
            patience = xp.full(view.demand.shape, HOLD, dtype=xp.float64, device=device)
            return headroom_proposal(view, look_up(CORRECTIONS, actions), patience)
        patience = look_up(PATIENCES, actions[:, 1])
        return headroom_proposal(view, look_up(CORRECTIONS, actions[:, 0]), patience)

    def mask(self, view: View) -> Array:
        """Return which choices differ in effect, (N, branches[0]) bool: of those beyond a bound, only the nearest."""
        xp, settings = view.xp, view.settings
        low, high = settings["min_replicas"], settings["max_replicas"]
        n = view.demand.shape[0]
        device = getattr(view.demand, "device", None)
        if self.name == "step":
            stay = xp.ones((n,), dtype=xp.bool, device=device)
            return xp.stack([view.current > low, stay, view.current < high], axis=1)
        counts = headroom_proposal(view, xp.asarray(np.array(CORRECTIONS), device=device)[:, None]).replicas
        counts = xp.where(xp.isnan(counts), 0.0, counts)
        free = xp.ones((1, n), dtype=xp.bool, device=device)
        allowed = xp.concat([free, counts[:-1, :] < high]) & xp.concat([counts[1:, :] > low, free])
        return allowed.T


def chosen_by(view: View, proposal: Proposal, values: Array) -> Proposal:
    """Return the proposal, without an answer where the values (N, choices) that it was chosen by are not all finite.

    The highest of values that are no numbers is the first of them, and so the least headroom of all.
    """
    xp = view.xp
    sound = xp.all(xp.isfinite(values), axis=1)
    return replace(proposal, replicas=xp.where(sound, proposal.replicas, float("nan")))


STEP = Scheme("step", (3,))
HEADROOM = Scheme("headroom", (len(CORRECTIONS),))
BRANCHING = Scheme("branching", (len(CORRECTIONS), len(PATIENCES)))
SCHEMES: dict[str, Scheme] = {s.name: s for s in (STEP, HEADROOM, BRANCHING)}


def scheme(name: Any) -> Scheme:
    """Return the scheme of that name.

    Raises ValueError where there is none.
    """
    if not isinstance(name, str) or name not in SCHEMES:
        raise ValueError(f"action scheme {name!r} is unknown; expected one of {', '.join(SCHEMES)}")
    return SCHEMES[name]
