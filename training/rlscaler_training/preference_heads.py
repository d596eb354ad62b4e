"""Heads that score decisions by what people prefer, what they are learned by, and how well they tell.

A head stands on the representation that the control head has, and scores a decision of an episode:

- `ChoiceHead`: a score for each choice of each branch, less the mean over the branch. What the situation alone is worth
  says nothing of who did better in it, so it is left out: preferences tell of choices (Hejna et al. 2023, arXiv
  2310.13639).
- `OutcomeHead`: late requests, replicas billed and changes of the replicas at each decision, each with a say that the
  situation gives it. That is differentiable in the orders.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlscaler_training import relaxation
from rlscaler_training.branching import Branching
from rlscaler_training.export import TORCH
from rlscaler_training.preference_pairs import SEGMENT, Segments
from rlscaler_training.relaxation import Stretch

BINS = 10
"""Bins of the calibration."""


def bradley_terry(scores: Tensor, wins: Tensor, weight: Tensor, margin: float = 0.0, error: float = 0.0) -> Tensor:
    """Return the mean loss, (), of the scores (P, 2) of pairs of episodes.

    wins: (P,) 1 where the first is better, 0 where the second is, between them where it is not clear. weight: (P,).
    margin: by how much the better one is to lead. error: share of answers that are blind chance.
    """
    lead = scores[:, 0] - scores[:, 1] - margin * (2.0 * wins - 1.0)
    if error == 0.0:
        loss = nn.functional.binary_cross_entropy_with_logits(lead, wins, reduction="none")
    else:
        chance = (1.0 - error) * torch.sigmoid(lead) + 0.5 * error
        loss = -(wins * torch.log(chance) + (1.0 - wins) * torch.log1p(-chance))
    return (weight * loss).sum() / weight.sum().clamp(min=1e-9)


def partly(features: Tensor, share: float) -> Tensor:
    """Return the features (.., W), of whose gradient a share passes."""
    if share == 0.0:
        return features.detach()
    return share * features + (1.0 - share) * features.detach()


@dataclass(frozen=True, slots=True)
class Judged:
    """How well a head tells pairs that it was not trained on. accuracy: share of those with a winner that it names.

    loss: of Bradley-Terry. calibration: expected calibration error, the mean gap of stated chance and share of wins
    over BINS bins of the chance (Guo et al. 2017, arXiv 1706.04599). table: (lowest chance, mean chance, share of wins,
    pairs) of each bin that has any; chances are those of the side that is named.
    """

    accuracy: float
    loss: float
    calibration: float
    pairs: int
    table: tuple[tuple[float, float, float, int], ...]


def judged(lead: np.ndarray, wins: np.ndarray, error: float) -> Judged:
    """Return it for leads (P,) of the first episode, in logits, and wins (P,)."""
    clear = wins != 0.5
    lead, won = lead[clear], (wins > 0.5)[clear]
    chance = (1.0 - error) / (1.0 + np.exp(-np.clip(lead, -50.0, 50.0))) + 0.5 * error
    stated = np.maximum(chance, 1.0 - chance)
    right = np.where(lead == 0.0, 0.5, (lead > 0.0) == won)
    of_answer = np.where(won, chance, 1.0 - chance)
    bins = np.minimum(((stated - 0.5) * 2.0 * BINS).astype(int), BINS - 1)
    table = tuple(
        (0.5 + 0.5 * each / BINS, float(stated[bins == each].mean()), float(right[bins == each].mean()),
         int((bins == each).sum()))
        for each in np.unique(bins)
    )  # fmt: skip
    gap = sum(count * abs(said - was) for _, said, was, count in table) / max(1, len(lead))
    return Judged(
        accuracy=float(right.mean()) if len(lead) else math.nan,
        loss=float(-np.log(np.maximum(of_answer, 1e-12)).mean()) if len(lead) else math.nan,
        calibration=gap, pairs=len(lead), table=table,
    )  # fmt: skip


class ChoiceHead(nn.Module):
    """A score for each choice of each branch, (.., choices), less the mean over the branch. Begins at 0.

    spread: standard deviation of the scores of episodes. unit: standard deviation of the advantages over choices.
    """

    spread: Tensor
    unit: Tensor

    def __init__(self, width: int, hidden: Sequence[int], branches: Sequence[int], activation: str) -> None:
        """Make layers as those of the control head."""
        super().__init__()
        self.stacks = nn.ModuleList()
        for choices in branches:
            layers: list[nn.Module] = []
            for before, after in pairwise((width, *hidden)):
                layers += [nn.Linear(before, after), TORCH[activation]()]
            last = nn.Linear((width, *hidden)[-1], choices)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.stacks.append(nn.Sequential(*layers, last))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("unit", torch.ones(()))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Return the scores of each branch."""
        found = [stack(features) for stack in self.stacks]
        return [each - each.mean(dim=-1, keepdim=True) for each in found]

    def lean(self, weight: float) -> Tensor:
        """Return what a score is multiplied by before it is added to the advantages, ()."""
        return weight * self.unit * SEGMENT / self.spread.clamp(min=1.0)

    def scored(self, features: Tensor, action: Tensor, _: Tensor) -> Tensor:
        """Return the score (..) of decisions by what was chosen, (.., branches) int64."""
        return torch.stack(
            [each.gather(-1, action[..., k : k + 1])[..., 0] for k, each in enumerate(self(features))]
        ).sum(dim=0)


class OutcomeHead(nn.Module):
    """A score of what a decision led to, (.., OUTCOMES): their sum, each weighted by what the situation says of it.

    scale: (OUTCOMES,) of the outcomes. spread: standard deviation of the scores of episodes.
    """

    scale: Tensor
    spread: Tensor

    def __init__(self, width: int) -> None:
        """Make one layer; it begins at 0."""
        super().__init__()
        self.say = nn.Linear(width, OUTCOMES)
        nn.init.zeros_(self.say.weight)
        nn.init.zeros_(self.say.bias)
        self.register_buffer("scale", torch.ones(OUTCOMES))
        self.register_buffer("spread", torch.ones(()))

    def scored(self, features: Tensor, _: Tensor, outcome: Tensor) -> Tensor:
        """Return the score (..) of decisions by what they led to."""
        found: Tensor = (self.say(features) * (outcome / self.scale)).sum(dim=-1)
        return found


OUTCOMES = 3
"""Late requests over the mean arrivals, billed over needed replicas, and the change of the replicas over the needed."""


def outcomes_of(found: Segments) -> np.ndarray:
    """Return the outcomes of each decision, (P, 2, T, OUTCOMES) float32."""
    return np.stack([found.late, found.cost, found.changes], axis=-1).astype(np.float32)


def outcomes(stretch: Stretch, orders: Tensor, width: float) -> Tensor:
    """Return the outcomes of each decision of orders (N, T) in the relaxed world, (N, T, OUTCOMES), differentiable."""
    share = relaxation.late_share(stretch, relaxation.ready(stretch, orders), width)
    late = (share * stretch.rates * stretch.tick).sum(dim=2) / stretch.arrivals[:, None]
    needed = stretch.needed[:, None] / stretch.interval
    changes = torch.diff(orders, dim=1, prepend=orders[:, :1]).abs()
    return torch.stack([late, orders / needed, changes / needed], dim=-1)


def fair(share: Tensor, fairness: float) -> Tensor:
    """Return the weight (N,) of workloads by their shares of violations (N,), none below 1; see Settings."""
    weight: Tensor = 1.0 + fairness * (share / share.mean().clamp(min=1e-6) - 1.0).clamp(min=0.0)
    return weight


def served(network: Branching, weight: float) -> Branching:
    """Return the network that decides by Q + weight x score in one: control head and score side by side in each branch.

    The value's layers get as many units that say nothing, since all heads of an artifact are of one width.
    """
    if network.liking is None or weight == 0.0:
        return network
    head = network.liking
    value: Any = network.stacks["value"]
    hidden = [each.out_features for each in value if isinstance(each, nn.Linear)][:-1]
    wide = network.like([2 * width for width in hidden])
    lean = float(head.lean(weight))
    with torch.no_grad():
        for name in network.stacks:
            if name == "value" or name.startswith("branch_"):
                beside = None if name == "value" else head.stacks[int(name.removeprefix("branch_"))]
                _beside(wide.stacks[name], network.stacks[name], beside, lean)
    return wide


def _beside(wide: Any, ours: Any, theirs: Any, lean: float) -> None:
    """Write two stacks of one shape into one of twice the width: the sum of ours and lean x theirs (None: nothing)."""

    def linears(stack: Any) -> list[nn.Linear]:
        return [each for each in stack if isinstance(each, nn.Linear)]

    both = list(zip(linears(wide), linears(ours), linears(theirs or ours), strict=True))
    for place, (into, one, other) in enumerate(both):
        rows, columns = one.weight.shape
        share = 0.0 if theirs is None else 1.0
        last, first = place == len(both) - 1, place == 0
        into.weight.zero_()
        into.weight[:rows, :columns] = one.weight
        into.bias[:rows] = one.bias
        if last:
            into.weight[:, columns:] = share * lean * other.weight
            into.bias.add_(other.bias, alpha=share * lean)
        else:
            into.weight[rows:, 0 if first else columns :] = share * other.weight
            into.bias[rows:] = share * other.bias
