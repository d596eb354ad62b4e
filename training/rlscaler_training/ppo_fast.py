"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) over the vectorised world, on torch.

Read from top to bottom: the settings, the networks, the update, the loop; `ppo_rollout` has what is met on the way.
Thousands of environments are one batch of arrays; nothing is copied or called for each. On CUDA the world, the guard
and the random numbers live on the device beside the networks (`Batch(like=...)`), elsewhere the world runs on NumPy,
and the gradient of tanh networks is written out (`ppo_gradient`).

The details follow "The 37 implementation details of PPO" (Huang et al. 2022). Training goes in stretches of one
episode: each begins with fresh environments and random numbers that follow from the seed and its number alone, so a
checkpoint between two stretches holds all that there is to resume from.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlscaler.action import CORRECTIONS, HOLD, PATIENCES, scheme
from rlscaler.observation import NAMES
from rlscaler_sim.batch import Batch
from rlscaler_training import export, learner
from rlscaler_training.export import Mlp
from rlscaler_training.hyper import choice, setting, switch
from rlscaler_training.inputs import with_extremes
from rlscaler_training.learner import Outcome, Progress, StoppedError, Task
from rlscaler_training.loads import VALIDATION_ENVS, VALIDATION_SEED, Environments, elsewhere, progressed
from rlscaler_training.parallel import ALONE, ZERO2, Parallel
from rlscaler_training.ppo_gradient import Gradient
from rlscaler_training.ppo_rollout import (
    FORBIDDEN,
    Here,
    Returns,
    Rollout,
    Source,
    acted,
    advantages,
    drawn,
    log_share,
    log_shares,
    tensor,
)
from rlscaler_training.runs import Run

MANY, FEW = 65_536, 1024
"""Environments on CUDA, and elsewhere, where the setting leaves it open."""
WARM_UP = 24
"""Steps of chance by which the inputs' mean and scale are told."""


@dataclass(frozen=True, slots=True)
class Config:
    """Hyper-parameters, each with the source of its default."""

    steps: int = setting(5_000_000, 1, 10**12, "Environment steps in all; rounded up to whole episodes of all"
                         " environments.")  # fmt: skip
    envs: int = setting(0, 0, 1_048_576, f"Workloads simulated at once, own choice; 0: {FEW:,}, on CUDA {MANY:,}.")
    horizon: int = setting(16, 1, 10_000, "Decisions of a rollout, between two updates (Isaac Gym's PPO uses 16 to 32"
                           " with thousands of environments).")  # fmt: skip
    episode: int = setting(240, 8, 5000, "Decisions of an episode: one hour.")
    epochs: int = setting(4, 1, 100, "Passes over each rollout (CleanRL).")
    minibatches: int = setting(4, 1, 4096, "Gradient steps in each pass (CleanRL).")
    rate: float = setting(
        1e-3, 1e-8, 1.0, "First learning rate, for batches of thousands (CleanRL: 2.5e-4); not tuned."
    )
    anneal: bool = switch(True, "The learning rate falls linearly to 0 (detail 4 of the 37).")
    gamma: float = setting(0.9, 0.0, 0.9999, "Discount per decision: an order serves after some five decisions.")
    trace: float = setting(0.95, 0.0, 1.0, "Lambda of generalised advantage estimation (arXiv 1506.02438).")
    clip: float = setting(0.2, 1e-3, 10.0, "How far the ratio of probabilities may go (the paper's).")
    value_clip: float = setting(0.0, 0.0, 1e6, "How far a value may move in one update; 0: freely, which Andrychowicz"
                                " et al. 2021 found no worse.")  # fmt: skip
    value_weight: float = setting(0.5, 0.0, 100.0, "Weight of the value's loss (CleanRL).")
    entropy: float = setting(0.003, 0.0, 10.0, "Weight of the entropy (CleanRL: 0.01); not tuned.")
    gradient: float = setting(0.5, 1e-3, 1e6, "Largest norm of the gradient (CleanRL).")
    divergence: float = setting(0.0, 0.0, 10.0, "The rest of the passes is left out above this Kullback-Leibler"
                                " divergence; 0: never, as in the paper.")  # fmt: skip
    normalise_advantage: bool = switch(True, "Advantages of a minibatch to mean 0 and deviation 1 (detail 7).")
    normalise_return: bool = switch(True, "Rewards are divided by the deviation of the discounted return (detail A1).")
    twin: bool = switch(True, "Rewards are counted from what the same load would have earned without corrections"
                        " (input-dependent baseline, Mao et al. 2019, arXiv 1807.02264).")  # fmt: skip
    head_start: float = setting(1.0, 0.0, 20.0, "Logit by which the choice that corrects nothing begins ahead;"
                                " own choice.")  # fmt: skip
    hidden: tuple[int, ...] = setting((64, 64), 1, 4096, "Widths of the hidden layers of policy and value (SB3).")
    activation: str = choice("tanh", ("tanh", "silu", "relu"), "What stands between them (SB3, CleanRL).")
    actions: str = choice("headroom", ("headroom", "step", "branching"), "Action scheme.")
    evaluate_every: int = setting(1, 1, 100_000, "Episodes between evaluations, each with a checkpoint.")
    compile: str = choice("auto", ("auto", "on", "off"), "torch.compile of the loss, with CUDA graphs on CUDA; auto: on"
                          " CUDA alone.")  # fmt: skip


SHARED_OUT = "envs"
"""The setting whose rows several processes share, see `parallel`."""


class ActorCritic(nn.Module):
    """Policy and value, two networks that share only the normalisation of their inputs."""

    def __init__(self, branches: Sequence[int], config: Config, fields: Sequence[str] = NAMES) -> None:
        """Make them, orthogonal as detail 2 of the 37 has it; the policy begins close to no correction.

        fields: of the observation, that both see.
        """
        super().__init__()
        self.actor = Mlp(fields, config.hidden, sum(branches), config.activation)
        self.critic = Mlp(fields, config.hidden, 1, config.activation)
        for network, gain in ((self.actor, 0.01), (self.critic, 1.0)):
            for layer in network.linears():
                nn.init.orthogonal_(layer.weight, gain if layer is network.head else 2**0.5)
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            begin = 0
            for choices, at in zip(branches, neutral(branches), strict=True):
                self.actor.head.bias[begin + at] = config.head_start
                begin += choices

    def inputs(self, observation: Tensor) -> Tensor:
        """Return the normalised inputs of observations, which have all fields in the order of the schema."""
        found = observation.index_select(1, self.actor.columns)
        return found.sub_(self.actor.mean).div_(self.actor.scale)

    def logits(self, inputs: Tensor) -> Tensor:
        """Return the policy's logits, those of all branches side by side."""
        out: Tensor = self.actor.head(self.actor.trunk(inputs))
        return out

    def value(self, inputs: Tensor) -> Tensor:
        """Return the value, without its last axis."""
        out: Tensor = self.critic.head(self.critic.trunk(inputs))[..., 0]
        return out


def neutral(branches: Sequence[int]) -> list[int]:
    """Return the choices that change nothing of the rule: the middle one, and the patience that `headroom` has."""
    return [branches[0] // 2, PATIENCES.index(HOLD)][: len(branches)]


assert CORRECTIONS[neutral((len(CORRECTIONS),))[0]] == 0.0


def standardised(advantage: Tensor) -> Tensor:
    """Return the advantages of a minibatch with mean 0 and deviation 1; that of a single decision as it is."""
    if advantage.numel() < 2:  # of one there is no deviation, and 0 would teach nothing (as SB3 has it)
        return advantage
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def loss(
    network: ActorCritic,
    config: Config,
    branches: Sequence[int],
    inputs: Tensor,
    mask: Tensor,
    actions: Tensor,
    share: Tensor,
    advantage: Tensor,
    target: Tensor,
    value: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the loss of a minibatch (M, ...), and its parts (policy, value, entropy, divergence), detached.

    share, value: as they were when the rollout was made. advantage: as it counts. target: of the value.
    """
    shares = log_shares(network.logits(inputs), mask, branches)
    ahead = log_share(shares, actions) - share
    ratio = ahead.exp()
    policy = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1.0 - config.clip, 1.0 + config.clip)).mean()
    now = network.value(inputs)
    error = (now - target) ** 2
    if config.value_clip:
        near = value + (now - value).clamp(-config.value_clip, config.value_clip)
        error = torch.maximum(error, (near - target) ** 2)
    worth = 0.5 * error.mean()
    entropy = -sum(((part.exp() * part).sum(dim=-1).mean() for part in shares), torch.zeros((), device=inputs.device))
    divergence = (ratio - 1.0 - ahead).mean()
    whole = policy + config.value_weight * worth - config.entropy * entropy
    return whole, torch.stack([policy, worth, entropy, divergence]).detach()


PARTS = ("policy_loss", "value_loss", "entropy", "divergence")


class Learner:
    """Networks, optimiser and what is known of returns; `update` learns from one rollout."""

    def __init__(
        self, branches: Sequence[int], config: Config, device: torch.device, seed: int, fields: Sequence[str] = NAMES,
        parallel: Parallel = ALONE,
    ) -> None:  # fmt: skip
        """Make them anew; the state of torch's own random numbers is left as it was."""
        self.config, self.branches, self.device, self.parallel = config, tuple(branches), device, parallel
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = ActorCritic(self.branches, config, fields).to(device)
        fused = device.type in ("cpu", "cuda")
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.rate, eps=1e-5, fused=fused)
        self.returns = Returns(config.gamma)
        self._loss: Callable[..., tuple[Any, Tensor]] = loss
        if config.compile == "on" or (config.compile == "auto" and device.type == "cuda" and parallel.alone):
            self._loss = torch.compile(loss, mode="reduce-overhead" if device.type == "cuda" else None)
        self._gradient: Gradient | None = None
        written = config.compile != "on" and config.activation == "tanh" and config.hidden and parallel.mode != ZERO2
        if device.type == "cpu" and written:
            self._gradient = Gradient(self.network.actor, self.network.critic, self.branches, FORBIDDEN)
        self.model = parallel.model(self.network, self.optimiser, config.gradient, autograd=self._gradient is None)

    def state(self) -> dict[str, Any]:
        """Return what there is to remember between two stretches."""
        returns = {"count": self.returns.count, "mean": self.returns.mean, "spread": self.returns.spread}
        return {"network": self.network.state_dict(), "optimiser": self.model.state(), "returns": returns}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.model.restore(state["optimiser"])
        self.returns = Returns(self.config.gamma, **state["returns"])

    def _descent(self, flat: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Leave the clipped gradient of a minibatch with the parameters, and return the parts of its loss: what this
        rank adds to them.

        flat: what `loss` takes, of this rank's rollout; the advantage of all. rows: the minibatch's, of all ranks.
        """
        inputs, mask, actions, share, advantage, target, value = flat
        advantage = advantage.index_select(0, rows)
        if self.config.normalise_advantage:
            advantage = standardised(advantage)
        rows, advantage, weight = self._own(rows, advantage)
        if self._gradient is None:
            given = [part[rows] for part in (inputs, mask, actions, share)]
            given += [advantage, target[rows], value[rows]]
            whole, parts = self.model(self._loss, self.config, self.branches, *given)
            self.model.backward(whole if self.parallel.alone else whole * (weight * self.parallel.ranks))
            told: Tensor = parts if self.parallel.alone else parts * weight
            return told
        self._gradient.begin()
        parts = self._gradient.add(self.config, rows, inputs, mask, actions, share, advantage, target, value)
        if not self.parallel.alone:
            parts *= weight
            self._gradient.whole *= weight
            self.parallel.summed(self._gradient.whole)  # one buffer, where autograd's would be gathered from many
        self._gradient.clip(self.config.gradient)
        return parts

    def _own(self, rows: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return those rows of a minibatch that this rank has, their advantages, and their share of all."""
        if self.parallel.alone:
            return rows, advantage, 1.0
        held, own = self.parallel.owned(rows, self.width)
        if not len(own):  # a row that counts nothing, as a mean needs one
            return rows.new_zeros(1), advantage.new_zeros(1), 0.0
        return own, advantage[held], len(own) / len(rows)

    def update(self, rollout: Rollout, generator: torch.Generator, share: float) -> dict[str, float]:
        """Learn from a rollout; share: of the learning rate. Return the mean of each of PARTS."""
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = config.rate * share
        reward = rollout.reward
        if config.normalise_return:
            self.returns.taken(self.parallel.whole(reward, 1), self.parallel.whole(rollout.cut, 1))
            reward = self.returns.normalised(reward)
        advantage = advantages(
            reward, rollout.value, rollout.last, rollout.cut, config.gamma, config.trace, rollout.trust
        )
        value = rollout.value[:-1]
        target = value + (advantage if rollout.trust is None else rollout.trust * advantage)
        advantage = self.parallel.whole(advantage, 1)
        whole = [rollout.inputs, rollout.mask, rollout.actions, rollout.share, advantage, target, value]
        flat = [part.flatten(0, 1) for part in whole]
        self.width, total = advantage.shape[1], advantage.numel()
        size = -(-total // config.minibatches)
        told = torch.zeros(len(PARTS), device=self.device)
        count = 0
        for _ in range(config.epochs):
            before = told.clone()
            order: Any = torch.randperm(total, generator=generator, device=self.device)
            minibatches = order.split(size)  # fewer than were asked for where decisions are few
            for rows in minibatches:
                parts = self._descent(flat, rows)
                self.model.step()
                told += parts
                count += 1
            if config.divergence:
                divergence = float(self.parallel.summed((told - before)[-1]))
                if divergence / len(minibatches) > config.divergence:
                    break
        told = self.parallel.summed(told)
        return {name: float(part) / count for name, part in zip(PARTS, told, strict=True)}


def best_choices(network: ActorCritic, envs: Environments, observation: Tensor) -> Tensor:
    """Return the most probable allowed actions (N, branches)."""
    with torch.no_grad():
        logits = network.logits(network.inputs(observation))
    shares = log_shares(logits, tensor(envs.mask(), observation.device), envs.scheme.branches)
    return torch.stack([share.argmax(dim=-1) for share in shares], dim=-1)


def evaluate(network: ActorCritic, judge: Environments, steps: int, seed: int) -> learner.Score:
    """Return the score of the most probable choices over so many steps of the judge's environments."""
    device = network.actor.mean.device
    observation = tensor(judge.reset(seed), device)
    cost = late = 0.0
    for _ in range(steps):
        done = acted(judge, best_choices(network, judge, observation))
        observation = tensor(done.observation, device)
        cost += float(done.cost.mean()) / steps
        late += float(done.late.mean()) / steps
    return learner.Score(cost, late)


def met(
    envs: Environments, network: ActorCritic | None, steps: int, seed: int, device: torch.device,
    parallel: Parallel = ALONE,
) -> np.ndarray:  # fmt: skip
    """Return observations that are met in so many steps, by the best choices, or by chance without a network."""
    generator = torch.Generator(device=device).manual_seed(seed)
    observation = tensor(envs.reset(seed), device)
    found = []
    for _ in range(steps):
        found.append(parallel.whole(observation)[: max(1, 262_144 // steps)].cpu())
        if network is None:
            flat = torch.zeros((envs.n, sum(envs.scheme.branches)), device=device)
            shares = log_shares(flat, tensor(envs.mask(), device), envs.scheme.branches)
            actions = drawn(shares, generator, parallel)
        else:
            actions = best_choices(network, envs, observation)
        observation = tensor(acted(envs, actions).observation, device)
    return torch.cat(found).numpy()


def seeds(seed: int, stretch: int) -> tuple[int, int]:
    """Return the seeds of a stretch: of its environments, and of its actions and minibatches."""
    first, second = np.random.SeedSequence([seed, stretch]).generate_state(2)
    return int(first), int(second)


def rollouts_of(config: Config) -> int:
    """Return the rollouts of a stretch."""
    return max(1, -(-config.episode // config.horizon))


def as_trained(config: Config, step: int, state: Mapping[str, Any]) -> Config:
    """Return the settings with as many environments as a checkpoint after so many steps was made by.

    How many there are may hang on the device and on the workers, which may be others where a run goes on or a
    checkpoint is exported, and a stretch of fewer environments would be counted as one of more.
    """
    return replace(config, envs=step // (int(state["stretch"]) * rollouts_of(config) * config.horizon))


@dataclass(frozen=True, slots=True)
class Trained:
    """The best network by validation, its score, and the environment steps that were taken."""

    network: ActorCritic
    score: learner.Score
    steps: int


def train(
    envs: Environments,
    judge: Environments,
    config: Config,
    *,
    run: Run,
    device: torch.device,
    seed: int,
    report: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    elsewhere: Environments | None = None,
    fields: Sequence[str] = NAMES,
    source: "Callable[[Learner], Source] | None" = None,
    parallel: Parallel = ALONE,
) -> Trained:
    """Learn in `envs`, judge in `judge` (and `elsewhere`, which chooses nothing); return what was judged best.

    fields: of the observation, that the networks see. source: where rollouts of `envs.n` environments come from (None:
    from `envs`).
    Goes on from the run's newest checkpoint. Deterministic with the seed on a processor. Raises StoppedError where
    `stop` says so (the last checkpoint stays), NotFiniteError where training came to numbers that are none.
    """
    rollouts = rollouts_of(config)
    each = config.horizon * envs.n * parallel.ranks
    stretch_steps = rollouts * each
    stretches = -(-config.steps // stretch_steps)
    steps = stretches * stretch_steps
    found = Learner(envs.scheme.branches, config, device, seed, fields, parallel)
    rollout = Rollout.empty(config.horizon, envs.n, envs.scheme.branches, len(fields), device)
    rolled: Source = Here(envs, found.network, rollout, parallel) if source is None else source(found)
    state = run.restore()
    if state is None:
        sample = met(envs, None, min(WARM_UP, config.episode), seed, device, parallel)
        for part in (found.network.actor, found.network.critic):
            part.normalise(sample)
        begin, best, kept = 0, None, None
    else:
        found.restore(state)
        begin, best, kept = int(state["stretch"]), learner.Score(*state["best"]), state["kept"]
    told: dict[str, float] = {}
    for stretch in range(begin, stretches + 1):
        at = stretch * stretch_steps
        due = stretch % config.evaluate_every == 0 or stretch == stretches
        if due and (state is None or stretch > begin):
            score = evaluate(found.network, judge, config.episode, seed + VALIDATION_SEED)
            if elsewhere is not None:
                told["score_randomised"] = evaluate(found.network, elsewhere, config.episode, seed).total
            run.log(at, {"score": score.total, "cost": score.cost, "late": score.late, **told})
            better = best is None or score.total < best.total
            if best is None or better:
                best, kept = score, {name: value.clone() for name, value in found.network.state_dict().items()}
            told = {}
            whole = found.state() | {"stretch": stretch, "best": [best.cost, best.late], "kept": kept}
            run.checkpoint(at, whole, best=better)
        if stretch == stretches:
            break
        env_seed, own_seed = seeds(seed, stretch)
        generator = torch.Generator(device=device).manual_seed(own_seed)
        rolled.begin(stretch, env_seed, stretch / stretches)
        found.returns.total = torch.zeros(0)
        for number in range(rollouts):
            if stop():
                raise StoppedError(f"stopped at step {at + number * each:,}")
            rollout = rolled.next(generator)
            share = 1.0 - (stretch + number / rollouts) / stretches if config.anneal else 1.0
            told = found.update(rollout, generator, share) | rolled.told()
            done = at + (number + 1) * each
            report(Progress(done, steps, {"score": best.total, **told} if best else told))
    assert best is not None
    assert kept is not None
    found.network.load_state_dict(kept)
    return Trained(found.network, best, steps)


def environments(task: Task, config: Config) -> tuple[Batch, Batch]:
    """Return environments to train in, with twins, and those to validate in, on the device where it is CUDA's."""
    device = task.device.torch
    like = torch.zeros(1, device=device) if device.type == "cuda" else None
    count = config.envs or (FEW if like is None or task.workers else MANY)
    if task.workers is not None:
        count = task.workers.share(count) * task.workers.count
    pools, of = task.pools, scheme(config.actions)

    def made(pool: Any, n: int, twin: Sequence[int] | None = None, part: tuple[int, int] | None = None) -> Batch:
        return Batch(pool, pool.config, pool.settings, of, n, config.episode, task.seed, like, twin=twin, part=part)

    twin, part = neutral(of.branches) if config.twin else None, task.parallel.part(count)
    envs = made(pools.train, count // task.parallel.ranks, twin, part)
    task.parallel.require_even(envs)
    return envs, made(pools.validation, VALIDATION_ENVS)


def learn(task: Task, config: Config) -> Outcome:
    """Train by the task, going on from its run's checkpoint, and return the artifact of the best validation."""
    state = task.run.restore()
    if state is not None and int(state["stretch"]):
        config = as_trained(config, task.run.step, state)
    envs, judge = environments(task, config)
    device = task.device.torch
    with ExitStack() as stack:
        source = None
        if task.workers is not None:
            from rlscaler_training import ppo_remote

            source = stack.enter_context(ppo_remote.opened(task, config, envs.n))
        trained = train(
            envs, judge, config,
            run=task.run, device=device, seed=task.seed, report=task.report, stop=task.stop,
            elsewhere=elsewhere(task.pools, config.actions, config.episode, envs.like), fields=task.pools.fields,
            source=source, parallel=task.parallel,
        )  # fmt: skip
    progressed(1.0, envs)  # what is seen in all worlds is the range that the policy may decide in
    seen = [met(envs, network, config.episode, task.seed, device, task.parallel) for network in (None, trained.network)]
    made = export.artifact(
        trained.network.actor,
        name=task.name,
        output="choices",
        scheme=config.actions,
        observations=with_extremes(np.concatenate(seen), *task.pools.known),
        provenance=task.provenance,
        scores={
            "validation_score": trained.score.total,
            "validation_cost": trained.score.cost,
            "validation_late": trained.score.late,
        },
    )
    return Outcome(made, trained.steps)
