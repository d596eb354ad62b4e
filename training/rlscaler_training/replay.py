"""Prioritised replay of n-step transitions, kept where the network is trained.

Schaul et al. 2016 (arXiv 1511.05952): a transition is drawn in proportion to its priority to the power alpha, and its
loss is weighted by (N P)^-beta against the bias that this brings. The priorities are the leaves of a sum tree with
wide nodes, all of it tensors: adding, drawing and updating are a handful of kernels each and copy nothing to the host.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlscaler_training.parallel import ALONE, Parallel

FAN = 32
"""Children of a node: a million leaves are four levels."""


class SumTree:
    """Sums of priorities (float32, 0 or more), drawn from in proportion. levels: the root's children to the leaves."""

    def __init__(self, leaves: int, device: torch.device) -> None:
        """Make a tree of zeros with `leaves` leaves."""
        self.leaves = leaves
        sizes = [-(-leaves // FAN) * FAN]
        while sizes[0] > FAN:
            sizes.insert(0, -(-(sizes[0] // FAN) // FAN) * FAN)
        self.levels = [torch.zeros(size, device=device) for size in sizes]

    @property
    def priorities(self) -> Tensor:
        """The leaves, (leaves,)."""
        return self.levels[-1][: self.leaves]

    @property
    def total(self) -> Tensor:
        """The sum of all, ()."""
        return self.levels[0].sum()

    def put(self, index: Tensor, priority: Tensor) -> None:
        """Set leaves (B,) int64 to priorities (B,); of one that is named more than once the highest stays."""
        self.levels[-1].scatter_reduce_(0, index, priority, "amax", include_self=False)
        for children, parents in zip(self.levels[:0:-1], self.levels[-2::-1], strict=True):
            index = index // FAN
            # summed anew rather than corrected by the difference: rounding never adds up, and twins write the same
            parents[index] = children.view(-1, FAN)[index].sum(dim=1)

    def draw(self, uniform: Tensor) -> Tensor:
        """Return a leaf for each of (B,) numbers from 0 to below 1, (B,) int64; leaves of priority 0 never.

        The priorities must not all be 0.
        """
        node = torch.zeros_like(uniform, dtype=torch.int64)
        rest = uniform * self.total
        for level in self.levels:
            children = level.view(-1, FAN)[node]
            upto = children.cumsum(dim=1)
            # what is left may exceed the node's sum by a rounding: held below it, no empty child is ever reached
            rest = torch.minimum(rest, torch.nextafter(upto[:, -1], torch.zeros_like(rest))).clamp(min=0.0)
            chosen = (upto <= rest[:, None]).sum(dim=1)
            before = torch.where(chosen > 0, upto.gather(1, (chosen - 1).clamp(min=0)[:, None])[:, 0], 0.0)
            rest = rest - before
            node = node * FAN + chosen
        return node

    def rebuild(self, priorities: Tensor) -> None:
        """Set all leaves at once, (leaves,)."""
        self.levels[-1][: self.leaves] = priorities
        for children, parents in zip(self.levels[:0:-1], self.levels[-2::-1], strict=True):
            parents[: len(children) // FAN] = children.view(-1, FAN).sum(dim=1)


@dataclass(slots=True)
class Drawn:
    """A batch of transitions, tensors (B, ...) on the replay's device.

    index: (B,) int64 of the slots. held: (B,) bool, which of them this rank has, None: all; the rest is of those.
    weight: (B,) of the loss, 1 at most. observation, then: (B, F), and where it led after some steps. action: (B,
    branches) int64. reward: (B,) discounted and summed over these steps. discount: (B,) of what follows. mask: (B,
    choices) bool, what the first branch allowed `then`.
    """

    index: Tensor
    weight: Tensor
    observation: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    then: Tensor
    mask: Tensor
    held: Tensor | None = None


@dataclass(slots=True)
class Step:
    """One step of N environments, tensors (N, ...) on the replay's device.

    last: where the step led, before any new episode; mask: what is allowed there. ended: (N,) bool, a new episode
    begins; the value there still counts, as episodes are cut and do not end.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    last: Tensor
    mask: Tensor
    ended: Tensor


def joined(steps: list[Step], gamma: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the first step's n-step reward (N,), discount (N,), where it led (N, F) and the mask there.

    An episode that was cut on the way ends the sum: its own last observation is what follows.
    """
    reward = torch.zeros_like(steps[0].reward)
    discount = torch.ones_like(reward)
    runs = torch.ones_like(steps[0].ended)
    then, mask = steps[0].last, steps[0].mask
    for step in steps:
        reward = torch.where(runs, reward + discount * step.reward, reward)
        discount = torch.where(runs, discount * gamma, discount)
        then = torch.where(runs[:, None], step.last, then)
        mask = torch.where(runs[:, None], step.mask, mask)
        runs = runs & ~step.ended
    return reward, discount, then, mask


class Replay:
    """A ring of n-step transitions, written by whole steps of N environments.

    A new transition has the highest priority that there ever was, so that each is seen at least about once.

    Where several ranks train, each keeps the transitions of its own environments and the priorities of all: every rank
    draws the same slots, and has some of the transitions that are there.
    """

    def __init__(
        self,
        capacity: int,
        envs: int,
        width: int,
        branches: int,
        choices: int,
        lookahead: int,
        gamma: float,
        alpha: float,
        device: torch.device,
        parallel: Parallel = ALONE,
    ) -> None:
        """Make an empty one for `capacity` transitions, rounded down to whole steps of `envs` environments.

        width: of an observation. choices: of the first branch. lookahead: steps that are summed. gamma: discount of
        one. alpha: 0 draws uniformly, 1 in proportion to the error. Raises ValueError where no step has room.
        """
        slots = capacity // envs * envs
        if not slots:
            raise ValueError(f"the replay holds {capacity} transitions; expected at least one for each of {envs} envs")
        self.envs, self.lookahead, self.gamma, self.alpha = envs, lookahead, gamma, alpha
        self.parallel, self.slots = parallel, slots
        own = slots // parallel.ranks
        self.observation = torch.zeros(own, width, device=device)
        self.then = torch.zeros(own, width, device=device)
        self.action = torch.zeros(own, branches, dtype=torch.int64, device=device)
        self.reward = torch.zeros(own, device=device)
        self.discount = torch.zeros(own, device=device)
        self.mask = torch.zeros(own, choices, dtype=torch.bool, device=device)
        self.tree = SumTree(slots, device)
        self.highest = torch.ones((), device=device)
        self.at = self.size = 0
        self.window: deque[Step] = deque(maxlen=lookahead)

    def begin(self) -> None:
        """Forget the steps that no transition was made of yet: the environments start anew."""
        self.window.clear()

    def add(self, step: Step) -> None:
        """Take a step, and write the transitions that it completes."""
        self.window.append(step)
        if len(self.window) < self.lookahead:
            return
        first = self.window[0]
        slots = slice(self.at // self.parallel.ranks, (self.at + self.envs) // self.parallel.ranks)
        self.observation[slots], self.action[slots] = first.observation, first.action
        self.reward[slots], self.discount[slots], self.then[slots], self.mask[slots] = joined(
            list(self.window), self.gamma
        )
        index = torch.arange(self.at, self.at + self.envs, device=self.reward.device)
        self.tree.put(index, self.highest.expand(self.envs).contiguous())
        self.at = (self.at + self.envs) % self.slots
        self.size = min(self.size + self.envs, self.slots)

    def draw(self, count: int, beta: float) -> Drawn:
        """Return `count` transitions, one from each of as many equal parts of the priorities' sum.

        beta: 0 leaves the bias of the priorities, 1 takes it away.
        """
        device = self.reward.device
        uniform = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
        index = self.tree.draw(uniform)
        share = self.tree.priorities[index] / self.tree.total
        weight = (self.size * share) ** -beta
        weight = weight / weight.max()
        own, held = index, None
        if not self.parallel.alone:
            held, own = self.parallel.owned(index, self.envs)
            weight = weight[held]
        return Drawn(
            index=index, weight=weight, observation=self.observation[own], action=self.action[own],
            reward=self.reward[own], discount=self.discount[own], then=self.then[own], mask=self.mask[own], held=held,
        )  # fmt: skip

    def of_all(self, drawn: Drawn, error: Tensor) -> Tensor:
        """Return the errors (B,) of all that was drawn; error: of what this rank has of it."""
        if drawn.held is None:
            return error
        return self.parallel.summed(error.new_zeros(len(drawn.held)).masked_scatter_(drawn.held, error))

    def learned(self, index: Tensor, error: Tensor, floor: float = 1e-3) -> None:
        """Set priorities of slots (B,) by the size of their errors (B,), 0 or more; none falls below `floor`."""
        priority = (error + floor) ** self.alpha
        self.tree.put(index, priority)
        self.highest = torch.maximum(self.highest, priority.max())

    def seen(self) -> Tensor:
        """Return the observations that it holds, (size, F)."""
        return self._whole(self.observation)

    def rewards(self) -> Tensor:
        """Return the n-step rewards that it holds, (size,)."""
        return self._whole(self.reward)

    def _whole(self, rows: Tensor) -> Tensor:
        """Return what an array holds on all ranks, in the order of the slots, (size, ...)."""
        ranks = self.parallel.ranks
        own = rows[: self.size // ranks]
        if self.parallel.alone:
            return own
        return self.parallel.whole(own.view(-1, self.envs // ranks, *own.shape[1:]), 1).flatten(0, 1)

    def state(self) -> dict[str, Any]:
        """Return what is needed to go on, but for steps that no transition was made of: call `begin` before."""
        arrays = {name: self._whole(getattr(self, name)).clone() for name in _ARRAYS}
        return {
            **arrays, "at": self.at, "size": self.size, "highest": self.highest.clone(),
            "priorities": self.tree.priorities[: self.size].clone(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned, of a replay of the same make."""
        self.at, self.size = int(state["at"]), int(state["size"])
        held, own = self.parallel.owned(torch.arange(self.size), self.envs)
        for name in _ARRAYS:
            getattr(self, name)[: len(own)] = state[name][held].to(self.reward.device)
        self.highest = state["highest"].to(self.reward.device)
        priorities = torch.zeros_like(self.tree.priorities)
        priorities[: self.size] = state["priorities"].to(self.reward.device)
        self.tree.rebuild(priorities)
        self.window.clear()


_ARRAYS = ("observation", "then", "action", "reward", "discount", "mask")
