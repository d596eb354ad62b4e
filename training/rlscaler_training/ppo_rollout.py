"""What PPO meets and what it is worth: actions by their probabilities, rollouts, returns and advantages.

Everything is a tensor on the device of the networks; the environments answer in arrays of their own library.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rlscaler_sim.batch import Transition
from rlscaler_training.loads import Environments, progressed
from rlscaler_training.parallel import ALONE, Parallel

FORBIDDEN = -1e8
"""Logit of a choice that is not allowed: finite, so that its share of the entropy is 0 and not NaN."""
LARGEST_REWARD = 10.0
"""Normalised rewards are cut off at this many standard deviations of the return (as CleanRL and SB3 do)."""


class Deciding(Protocol):
    """A policy and a value of the same inputs."""

    def inputs(self, observation: Tensor) -> Tensor:
        """Return the normalised inputs of observations (N, F)."""
        ...

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the policy's logits, those of all branches side by side."""
        ...

    def value(self, inputs: Tensor) -> Tensor:
        """Return the value, without its last axis."""
        ...


def log_shares(logits: Any, mask: Tensor, branches: Sequence[int]) -> list[Tensor]:
    """Return the log probabilities of each branch's choices; the mask is of the first branch."""
    parts: list[Tensor] = list(logits.split(tuple(branches), dim=-1))
    parts[0] = parts[0].masked_fill(~mask, FORBIDDEN)
    return [part.log_softmax(dim=-1) for part in parts]


def log_share(shares: Sequence[Tensor], actions: Tensor) -> Tensor:
    """Return the log probability of actions (..., branches)."""
    found = [share.gather(-1, actions[..., at : at + 1])[..., 0] for at, share in enumerate(shares)]
    return found[0] if len(found) == 1 else torch.stack(found).sum(dim=0)


def drawn(shares: Sequence[Tensor], generator: torch.Generator, parallel: Parallel = ALONE) -> Tensor:
    """Return actions (N, branches) drawn with these log probabilities: a race of exponential clocks."""

    def clocks(shape: Sequence[int]) -> Tensor:
        return shares[0].new_empty(shape).exponential_(generator=generator)

    found = []
    for share in shares:
        clock = parallel.drawn(share.shape, clocks)
        found.append((share - clock.log()).argmax(dim=-1))
    return torch.stack(found, dim=-1)


@dataclass(slots=True)
class Returns:
    """Running deviation of the discounted return, by which rewards are divided. total: (N,) return so far."""

    gamma: float
    count: float = 1e-4
    mean: float = 0.0
    spread: float = 1.0
    total: Tensor = field(default_factory=lambda: torch.zeros(0))

    def taken(self, rewards: Tensor, cut: Tensor) -> None:
        """Take in rewards (T, N) and where the episode was cut after them (T, N)."""
        if self.total.shape != rewards.shape[1:]:
            self.total = torch.zeros_like(rewards[0])
        totals = torch.empty_like(rewards)
        for at, (reward, ended) in enumerate(zip(rewards, cut, strict=True)):
            totals[at] = self.total = reward + self.gamma * self.total
            self.total = torch.where(ended, 0.0, self.total)
        variance, mean = (float(value) for value in torch.var_mean(totals.double(), correction=0))
        many, all_ = totals.numel(), self.count + totals.numel()
        off = mean - self.mean
        self.spread = (self.spread * self.count + variance * many + off * off * self.count * many / all_) / all_
        self.mean += off * many / all_
        self.count = all_

    def normalised(self, rewards: Tensor) -> Tensor:
        """Return the rewards over the deviation, cut off at LARGEST_REWARD."""
        return (rewards / math.sqrt(self.spread + 1e-8)).clamp(-LARGEST_REWARD, LARGEST_REWARD)


@dataclass(slots=True)
class Rollout:
    """What was met in T decisions of N environments, tensors (T, N, ...) on the device.

    inputs: normalised. last: value of where the step led to, wherever an episode was cut. value: (T + 1, N). trust: how
    much more or less probable the learner's policy finds the actions now than the policy that took them, 1 at most (see
    `advantages`); None where that is the learner's own.
    """

    inputs: Tensor
    mask: Tensor
    actions: Tensor
    share: Tensor
    reward: Tensor
    cut: Tensor
    last: Tensor
    value: Tensor
    trust: Tensor | None = None

    @staticmethod
    def empty(steps: int, n: int, branches: Sequence[int], inputs: int, device: torch.device) -> "Rollout":
        """Return one to be written into."""

        def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros((steps, n, *shape), dtype=dtype, device=device)

        return Rollout(
            inputs=new(inputs), mask=new(branches[0], dtype=torch.bool),
            actions=new(len(branches), dtype=torch.int64), share=new(), reward=new(), cut=new(dtype=torch.bool),
            last=new(), value=torch.zeros((steps + 1, n), device=device),
        )  # fmt: skip


def tensor(array: Any, device: torch.device) -> Tensor:
    """Return a batch's array on the device, numbers as float32."""
    found = array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
    return (found.float() if found.dtype == torch.float64 else found).to(device)


def acted(envs: Environments, actions: Tensor) -> Transition:
    """Step the environments by actions (N, branches), as arrays of their own library."""
    actions = actions[:, 0] if actions.shape[1] == 1 else actions
    return envs.step(actions if getattr(envs, "like", None) is not None else actions.cpu().numpy())


def collect(
    network: Deciding, envs: Environments, observation: Tensor, into: Rollout, generator: torch.Generator,
    parallel: Parallel = ALONE,
) -> Tensor:  # fmt: skip
    """Fill a rollout and return the observation after it. Rewards count from what twins earn, where there are any."""
    device, branches = observation.device, envs.scheme.branches
    for at in range(len(into.reward)):
        with torch.no_grad():
            inputs = network.inputs(observation)
            mask = tensor(envs.mask(), device)
            shares = log_shares(network.logits(inputs), mask, branches)
            actions = drawn(shares, generator, parallel)
            into.inputs[at], into.mask[at], into.actions[at] = inputs, mask, actions
            into.share[at], into.value[at] = log_share(shares, actions), network.value(inputs)
        done = acted(envs, actions)
        reward = tensor(done.reward, device)
        into.reward[at] = reward if done.twin is None else reward - tensor(done.twin, device)
        into.cut[at] = tensor(done.truncated, device)
        observation = tensor(done.observation, device)
        if bool(done.truncated.any()):
            ended = into.cut[at].nonzero()[:, 0]
            with torch.no_grad():
                into.last[at, ended] = network.value(network.inputs(tensor(done.last, device)[ended]))
    with torch.no_grad():
        into.value[-1] = network.value(network.inputs(observation))
    return observation


def trust(network: Deciding, met: Rollout, branches: Sequence[int]) -> Tensor:
    """Return how far a policy would have taken another's actions, (T, N): the ratio of probabilities, 1 at most."""
    with torch.no_grad():
        shares = log_shares(network.logits(met.inputs), met.mask, branches)
        return (log_share(shares, met.actions) - met.share).exp_().clamp_(max=1.0)


def advantages(
    reward: Tensor, value: Tensor, last: Tensor, cut: Tensor, gamma: float, trace: float, trust: Tensor | None = None
) -> Tensor:
    """Return generalised advantages (T, N). value: (T + 1, N). Nothing ends: a cut episode is worth `last` there.

    trust: of each action, (T, N), where another policy took them: what followed counts as far as this one would have
    come there, traces being cut as in Retrace (Munos et al. 2016, arXiv 1606.02647); None: this one took them.
    """
    following = torch.where(cut, last, value[1:])
    surprise = reward + gamma * following - value[:-1]
    kept = gamma * trace * (~cut).float()
    out, carried = torch.empty_like(reward), torch.zeros_like(reward[0])
    for at in range(len(reward) - 1, -1, -1):
        carried = surprise[at] + kept[at] * carried
        out[at] = carried
        if trust is not None:
            carried = trust[at] * carried
    return out


class Source(Protocol):
    """Where the rollouts of a training come from."""

    def begin(self, stretch: int, seed: int, share: float) -> None:
        """Begin a stretch of the training. seed: of its environments. share: of the training that is done."""
        ...

    def next(self, generator: torch.Generator) -> Rollout:
        """Return the next rollout, which may be written over by the one after it. generator: of what is drawn here."""
        ...

    def told(self) -> dict[str, float]:
        """Return what is to be said of it in the metrics."""
        ...


class Here:
    """Rollouts of environments in this process."""

    def __init__(self, envs: Environments, network: Deciding, into: Rollout, parallel: Parallel = ALONE) -> None:
        """Roll out in `envs` by the network, into one place."""
        self.envs, self.network, self.into, self.parallel = envs, network, into, parallel

    def begin(self, stretch: int, seed: int, share: float) -> None:
        """Begin with fresh environments."""
        progressed(share, self.envs)
        self.observation = tensor(self.envs.reset(seed), self.into.reward.device)

    def next(self, generator: torch.Generator) -> Rollout:
        """Return the rollout that follows on the one before."""
        self.observation = collect(self.network, self.envs, self.observation, self.into, generator, self.parallel)
        return self.into

    def told(self) -> dict[str, float]:
        """Return nothing: it is as it always is."""
        return {}
