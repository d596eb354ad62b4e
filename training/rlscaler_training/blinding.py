"""A workload's past taken away in parts: what a part is worth is told by a policy that was made without it.

What is taken away is as it would be of a workload that has no past. That holds for all that a policy makes of it: for
what a network sees, and for the cheapest headroom that it corrects, which comes from the workload's past too.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from rlscaler import growth
from rlscaler.arrays import State
from rlscaler.features import AHEAD, SOURCES
from rlscaler.observation import HIGH, LOAD_FIELDS, LOW, NAMES
from rlscaler.policy import Policy, Proposal, View
from rlscaler_training import apg
from rlscaler_training.inputs import DAILY, WEEKLY

HISTORY, PROFILE = "history", "profile"
PARTS: dict[str, tuple[str, ...]] = {
    HISTORY: tuple(field.name for field in LOAD_FIELDS if field.group == "macro"),
    PROFILE: (*DAILY, *WEEKLY),
}
"""Fields of the observation by the part of the past that they tell of: all that is older than the samples of the last
hour, or of that the usual load of this time of the day and of the week."""
_AHEAD = "ahead"


def pastless(price: Any) -> dict[str, np.ndarray]:
    """Return the fields of PARTS[HISTORY] as a workload without a past has them, each (N,) float32.

    price: (N,) of a violation. Values are such that half precision holds them, as training has them in that: a constant
    that it rounded would be outside of its own training range.
    """
    each = np.asarray(price, np.float64)
    nothing = np.zeros((len(each), 1, growth.BINS), np.float32)
    told = growth.summarize(np, nothing, np.zeros(len(each)), growth.HALF_LIVES[:1], each)[:, 0]
    known = {
        f"{source}_{statistic}": told[:, column]
        for source in SOURCES
        for column, statistic in enumerate(growth.STATISTICS)
    }
    empty = np.zeros(len(each), np.float32)
    return {name: known.get(name, empty).astype(np.float16).astype(np.float32) for name in PARTS[HISTORY]}


@dataclass(slots=True)
class Blinded:
    """A policy that sees no such fields. hidden: of PARTS[HISTORY]."""

    policy: Policy
    hidden: tuple[str, ...]
    name: str

    def state(self, n: int) -> State:
        """Return the policy's own state."""
        return self.policy.state(n)

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return what the policy proposes to a workload with this load and without that past. NumPy views alone."""
        told = pastless(view.settings["price"])
        features = dict(view.features)
        ahead = [j for j in range(AHEAD) if f"{_AHEAD}_{j + 1}" in self.hidden]
        if ahead:
            features[_AHEAD] = np.array(features[_AHEAD])
            features[_AHEAD][:, ahead] = 0.0
        features |= {name: told[name] for name in self.hidden if name in features}
        return self.policy.propose(replace(view, features=features), state)


def blinded(material: apg.Material, hidden: tuple[str, ...]) -> apg.Material:
    """Return load to train on without these fields, see `Blinded`; its weights stay."""
    told = pastless(material.whole.price.numpy(force=True))
    seen, device = material.seen.clone(), material.seen.device
    for name in hidden:
        if name in apg.FIELDS:
            place = NAMES.index(name)
            values = np.clip(told[name], LOW[place], HIGH[place])
            seen[:, :, apg.FIELDS.index(name)] = torch.as_tensor(values, device=device).half()[:, None]
    cheap = material.cheap
    if "trend_cheap" in hidden:
        cheap = torch.as_tensor(told["trend_cheap"], device=device)[:, None].expand_as(cheap).contiguous()
    return replace(material, seen=seen, cheap=cheap)
