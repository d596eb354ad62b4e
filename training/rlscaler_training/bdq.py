"""Branching dueling Q-network (Tavakoli, Pardo & Kormushev 2018, arXiv 1711.08946), batched over simulated workloads.

Read from top to bottom: the settings, the learner, one gradient step, one round of play, the whole of it. Two branches
choose at once how much headroom to keep and how long; each has its own advantages, and all share one value, so that
choices add up where their combinations would multiply. What is learned are differences to the rule that always takes
the cheapest headroom: load does not depend on actions, so a twin that meets the same load and follows the rule earns a
baseline that takes away the load's luck and no action's merit (Mao et al. 2019, arXiv 1807.02264).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlscaler.action import BRANCHING, CORRECTIONS, HOLD, PATIENCES
from rlscaler.errors import UserError
from rlscaler.observation import NAMES
from rlscaler_sim.batch import Batch
from rlscaler_training.branching import Branching, artifact, exported
from rlscaler_training.hyper import choice, setting, switch
from rlscaler_training.inputs import with_extremes
from rlscaler_training.learner import Outcome, Progress, StoppedError, Task, scored, untrained
from rlscaler_training.loads import batches, elsewhere, progressed
from rlscaler_training.parallel import ALONE, Parallel, Rows
from rlscaler_training.preference_heads import served
from rlscaler_training.preferences import Preferences
from rlscaler_training.replay import Replay, Step
from rlscaler_training.runs import generators, restore_generators

if TYPE_CHECKING:
    from rlscaler_training.bdq_remote import There

RULE = (CORRECTIONS.index(0.0), PATIENCES.index(HOLD))
"""What the rule that is corrected chooses of each branch."""
TAKES_PREFERENCES = True
"""`--preferences` leans on its choices, see `preferences`."""


SHARED_OUT = "envs"
"""The setting whose rows several processes share, see `parallel`."""


@dataclass(frozen=True, slots=True)
class Config:
    """Hyper-parameters, each with the source of its default."""

    steps: int = setting(600_000, 1, 10_000_000_000, "Decisions in all; not tuned.")
    envs: int = setting(128, 1, 65_536, "Workloads simulated at once; own choice.")
    episode: int = setting(
        120, 2, 5000, "Decisions of an episode; all begin and end together, and checkpoints are kept in between."
    )
    gamma: float = setting(
        0.95, 0.0, 0.9999, "Discount per decision: patience shows after up to 40 decisions, an order after some five."
    )
    lookahead: int = setting(
        6, 1, 100, "Rewards summed before the target network takes over: an order serves some five decisions later."
    )
    batch: int = setting(256, 1, 65_536, "Transitions of a gradient step (64 in the paper, which plays one game).")
    updates: int = setting(1, 1, 1000, "Gradient steps for each step of the environments (one in the paper).")
    rate: float = setting(3e-4, 1e-8, 1.0, "Learning rate of Adam (1e-4 in the paper, for batches of 64).")
    clip: float = setting(10.0, 1e-6, 1e9, "Largest norm of the gradient (the paper's code clips at 10 too).")
    target_every: int = setting(500, 1, 1_000_000, "Gradient steps between copies to the target network (paper: 1000).")
    double: bool = switch(True, "The network chooses and the target network values (van Hasselt et al. 2016; paper).")
    replay: int = setting(
        65_536, 1, 100_000_000, "Transitions kept (1e6 in the paper); they are part of each checkpoint, 0.8 kB each."
    )
    alpha: float = setting(0.6, 0.0, 1.0, "How much the error counts when transitions are drawn (Schaul et al. 2016).")
    beta: float = setting(
        0.4, 0.0, 1.0, "First share of the bias of that draw that is taken away; it rises to 1 (Schaul et al. 2016)."
    )
    warm_up: int = setting(
        10_000, 1, 100_000_000, "Transitions before the first gradient step, own choice; the rule plays them."
    )
    epsilon: float = setting(
        0.4, 0.0, 1.0, "First share of explored choices of a branch; as q-learning's, since one low order lasts long."
    )
    epsilon_end: float = setting(0.05, 0.0, 1.0, "Last share of explored choices; as q-learning's.")
    epsilon_share: float = setting(
        0.6, 0.0, 1.0, "Share of the steps over which epsilon falls, linearly (as Mnih et al. 2015 do)."
    )
    repeat: int = setting(
        8, 1, 1000, "Decisions that an explored choice is held on average (Dabney, Ostrovski & Barreto 2021)."
    )
    encoder: tuple[int, ...] = setting((64,), 1, 4096, "Widths of the micro and of the macro encoder; own choice.")
    trunk: tuple[int, ...] = setting(
        (256, 128), 1, 4096, "Widths of the shared trunk (512 and 256 in the paper, for far more branches)."
    )
    head: tuple[int, ...] = setting((64,), 1, 4096, "Widths of the value and of each branch (128 in the paper).")
    activation: str = choice("relu", ("relu", "tanh", "silu"), "What stands between the layers (paper: relu).")
    evaluate_every: int = setting(5, 1, 1_000_000, "Episodes between evaluations of the greedy policy.")
    evaluation: int = setting(240, 1, 100_000, "Decisions of an evaluation: one hour of each validation load.")
    checkpoint_every: int = setting(5, 1, 1_000_000, "Episodes between checkpoints.")


class Learner:
    """Network, target network, optimiser and replay, all on one device; `updates` counts gradient steps.

    reward_scale: rewards are divided by it, the standard deviation of those that were there at the first update.
    liking: what leans on its choices, None without preferences. weight: of these.
    """

    def __init__(
        self,
        config: Config,
        fields: Sequence[str],
        branches: Sequence[int],
        rule: Sequence[int],
        device: torch.device,
        preferences: Preferences | None = None,
        seed: int = 0,
        parallel: Parallel = ALONE,
    ) -> None:
        """Make a fresh one. fields: of the observation. rule: the choice of each branch before the first update. seed:
        of what preferences draw."""
        self.config, self.device, self.rule = config, device, np.array(rule, np.int64)
        self.parallel = parallel

        def made() -> Branching:
            return Branching(fields, branches, config.encoder, config.trunk, config.head, config.activation).to(device)

        self.network, self.target = made(), made().requires_grad_(False)
        optimiser = torch.optim.Adam(self.network.parameters(), lr=config.rate)
        self.model = parallel.model(self.network, optimiser, config.clip)
        self.replay = Replay(
            config.replay, config.envs, len(NAMES), len(branches), branches[0], config.lookahead, config.gamma,
            config.alpha, device, parallel,
        )  # fmt: skip
        self.reward_scale = torch.ones((), device=device)
        self.updates = 0
        self.liking = None if preferences is None else preferences.choices(self.network, config.head, device, seed)
        self.weight = 0.0 if self.liking is None else self.liking.strength
        self.target.liking = deepcopy(self.network.liking)

    def tensor(self, array: Any) -> Tensor:
        """Return an array of the environments on the device, floats as float32."""
        found = torch.as_tensor(np.ascontiguousarray(array))
        return found.to(self.device, torch.float32 if found.is_floating_point() else found.dtype)

    def decide(self, observation: Tensor, mask: Tensor) -> np.ndarray:
        """Return the best allowed choices (N, branches) int64; the rule's before anything was learned."""
        if not self.updates:
            return np.tile(self.rule, (len(observation), 1))
        with torch.no_grad():
            return best(self.network.favoured(observation, self.weight), mask).cpu().numpy()

    def begin(self) -> None:
        """Take the scale of inputs and rewards from the replay; called once, before the first update."""
        self.network.normalise(self.replay.seen())
        self.reward_scale = self.replay.rewards().std().clamp(min=1e-6)
        self.target.load_state_dict(self.network.state_dict())

    def state(self) -> dict[str, Any]:
        """Return what is needed to go on between two episodes."""
        return {
            "network": copied(self.network), "target": copied(self.target), "optimiser": self.model.state(),
            "replay": self.replay.state(), "reward_scale": self.reward_scale, "updates": self.updates,
            **({} if self.liking is None else {"liking": self.liking.state()}),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        self.model.restore(state["optimiser"])
        self.replay.restore(state["replay"])
        self.reward_scale = state["reward_scale"].to(self.device)
        self.updates = int(state["updates"])
        if self.liking is not None:
            self.liking.restore(state["liking"])


def copied(network: Branching) -> dict[str, Tensor]:
    """Return a copy of a network's weights."""
    return {name: value.clone() for name, value in network.state_dict().items()}


def best(q: list[Tensor], mask: Tensor) -> Tensor:
    """Return the choices (N, branches) with the highest Q; mask: (N, choices) what the first branch may choose."""
    first = q[0].masked_fill(~mask, -math.inf)
    return torch.stack([each.argmax(dim=1) for each in (first, *q[1:])], dim=1)


def taken(q: list[Tensor], action: Tensor) -> Tensor:
    """Return Q (N, branches) of the actions (N, branches)."""
    return torch.cat([each.gather(1, action[:, k : k + 1]) for k, each in enumerate(q)], dim=1)


def update(learner: Learner, beta: float) -> Tensor:
    """Make one gradient step and return its loss, (), which stays on the device; of several ranks their mean is it.

    One target for all branches: the mean over the branches of the target network's Q where the network chooses.
    """
    config, replay = learner.config, learner.replay
    drawn = replay.draw(config.batch, beta)
    with torch.no_grad():
        after = learner.target.q(drawn.then)
        # what is followed is valued, so preferences choose here as they do in play
        following = best(learner.network.favoured(drawn.then, learner.weight) if config.double else after, drawn.mask)
        target = drawn.reward / learner.reward_scale + drawn.discount * taken(after, following).mean(dim=1)
    error = taken(learner.model(Branching.q, drawn.observation), drawn.action) - target[:, None]
    loss = learner.parallel.mean(drawn.weight * error.square().mean(dim=1), config.batch)
    learner.model.backward(loss)
    if learner.liking is not None:
        learner.liking.pull(learner.network, learner.updates)
    learner.model.step()
    replay.learned(drawn.index, replay.of_all(drawn, error.detach().abs().sum(dim=1)))
    learner.updates += 1
    if learner.updates % config.target_every == 0:
        learner.target.load_state_dict(learner.network.state_dict())
    return loss.detach()


def explored(
    greedy: np.ndarray, held: np.ndarray, mask: np.ndarray, branches: Sequence[int], config: Config, epsilon: float,
    rng: np.random.Generator | Rows,
) -> np.ndarray:  # fmt: skip
    """Return the actions (N, branches) with a share of epsilon explored in each branch; -1 in `held` = none is.

    held: (N, branches) the choices that are explored, updated in place. One that the mask forbids is not taken.
    """
    random = np.stack([rng.integers(count, size=len(greedy)) for count in branches], axis=1)
    held[rng.random(held.shape) < 1.0 / config.repeat] = -1
    start = epsilon / (config.repeat * (1.0 - epsilon) + epsilon)
    starts = (held < 0) & (rng.random(held.shape) < start)
    held[starts] = random[starts]
    action = np.where(held >= 0, held, greedy)
    forbidden = ~mask[np.arange(len(action)), action[:, 0]]
    action[forbidden, 0] = greedy[forbidden, 0]
    return action


def play(
    learner: Learner, batch: Batch, twin: Batch | None, seed: int, epsilon: float, beta: float,
    rng: np.random.Generator,
) -> float:  # fmt: skip
    """Play one episode in all environments, learning on the way, and return the mean loss (0 before any update).

    twin: what the rule earns there is taken off the rewards; None: nothing is.
    """
    config, branches = learner.config, learner.network.branches
    chance = learner.parallel.generator(rng)
    observation = learner.tensor(batch.reset(seed))
    if twin is not None:
        twin.reset(seed)
    learner.replay.begin()
    held = np.full((batch.n, len(branches)), -1)
    rule = np.tile(learner.rule, (batch.n, 1))
    mask = batch.mask()
    loss, updates = torch.zeros((), device=learner.device), 0
    for _ in range(config.episode):
        greedy = learner.decide(observation, learner.tensor(mask))
        action = explored(greedy, held, mask, branches, config, epsilon, chance)
        done = batch.step(action)
        reward = done.reward - twin.step(rule).reward if twin is not None else done.reward
        following = batch.scheme.mask(batch.last_view)
        learner.replay.add(
            Step(
                observation=observation, action=learner.tensor(action), reward=learner.tensor(reward),
                last=learner.tensor(done.last), mask=learner.tensor(following), ended=learner.tensor(done.truncated),
            )
        )  # fmt: skip
        observation = learner.tensor(done.observation)
        mask = batch.mask() if done.truncated.any() else following
        if learner.replay.size >= min(config.warm_up, learner.replay.slots):
            if not learner.updates:
                learner.begin()
            for _ in range(config.updates):
                loss += update(learner, beta)
                updates += 1
    return float(learner.parallel.averaged(loss)) / max(1, updates)


def check(config: Config, rounds: int) -> None:
    """Raise UserError where nothing would be learned in so many episodes, naming the settings."""
    if config.replay < config.envs:
        raise UserError(
            f"replay is {config.replay:,}; expected at least envs, {config.envs:,}, as whole steps are kept"
        )
    complete = rounds * config.envs * (config.episode - config.lookahead + 1)
    if complete <= (needed := min(config.warm_up, config.replay // config.envs * config.envs)):
        raise UserError(
            f"steps is {config.steps:,}, of which {max(0, complete):,} transitions come (episode is {config.episode}, "
            f"lookahead {config.lookahead}); expected more than warm_up, {needed:,}: raise steps, or lower warm_up"
        )


def as_trained(config: Config, step: int, state: Mapping[str, Any]) -> Config:
    """Return the settings with as many environments as a checkpoint after so many steps was made by, and with room for
    the transitions that it holds.

    Workers round both: each has whole environments, and the replay takes whole steps of one of them.
    """
    envs, held = step // (int(state["round"]) * config.episode), int(state["learner"]["replay"]["size"])
    return replace(config, envs=envs, replay=max(config.replay, -(-held // envs) * envs))


def learn(task: Task, config: Config) -> Outcome:
    """Learn on the task's training load, and return the network that was best on its validation load; see `learned`."""
    if task.workers is None:
        return learned(task, config)
    from rlscaler_training import bdq_remote

    own = task.workers.share(config.envs)
    with bdq_remote.opened(task, config) as there:
        return learned(task, replace(config, envs=own * task.workers.count), own, there)


def learned(
    task: Task, config: Config, own: int | None = None, there: "Callable[[Learner], There] | None" = None
) -> Outcome:
    """Learn, where `there` is given by workers, each with `own` of the environments.

    Goes on from the run's newest checkpoint. Raises StoppedError after a checkpoint where the task says stop, at the
    end of the episode that is being played.
    """
    torch.manual_seed(task.seed)
    rng = np.random.default_rng(task.seed)
    parallel = task.parallel
    envs, part = config.envs // parallel.ranks, parallel.part(config.envs)
    batch, twin, judge = batches(task.pools, BRANCHING.name, envs, config.episode, task.seed, part)
    parallel.require_even(batch)
    varied = elsewhere(task.pools, BRANCHING.name, config.evaluation)
    learner = Learner(
        replace(config, envs=own or config.envs), task.pools.fields, BRANCHING.branches, RULE, task.device.torch,
        task.preferences, task.seed, parallel,
    )  # fmt: skip
    remote = None if there is None else there(learner)
    each = config.envs * config.episode
    rounds = -(-config.steps // each)
    check(config, rounds)
    bar = untrained(judge, config.evaluation, task.seed).total
    kept, numbers, lowest, begun = copied(learner.network), {"score": bar}, math.inf, 0
    if (state := task.run.restore()) is not None:
        learner.restore(state["learner"])
        restore_generators(rng, state["random"])
        kept, numbers, lowest = state["kept"], dict(state["numbers"]), float(state["lowest"])
        begun = int(state["round"])
    for played in range(begun + 1, rounds + 1):
        share = (played - 1) / rounds
        epsilon = max(
            config.epsilon_end,
            config.epsilon + (config.epsilon_end - config.epsilon) * share / max(1e-9, config.epsilon_share),
        )
        beta = config.beta + (1.0 - config.beta) * share
        seed = int(np.random.SeedSequence((task.seed, played)).generate_state(1)[0])
        progressed(share, batch, twin)
        if remote is None:
            loss = play(learner, batch, twin, seed, epsilon, beta, rng)
        else:
            loss = remote.play(played, share, epsilon, beta)
        numbers |= {"loss": loss, "epsilon": epsilon}
        if not math.isfinite(loss):
            task.run.log(played * each, numbers)  # which ends it, before a checkpoint is written
        better, last = False, played == rounds
        if learner.updates and (played % config.evaluate_every == 0 or last):
            policy = exported(served(learner.network, learner.weight), name=task.name, scheme=BRANCHING.name)
            found = scored(judge, policy, config.evaluation, task.seed)
            if varied is not None:
                numbers["score_randomised"] = scored(varied, policy, config.evaluation, task.seed).total
            better = parallel.any(found.total < lowest)
            if better:
                kept, lowest = copied(learner.network), found.total
            numbers |= {"score": found.total, "cost": found.cost, "late": found.late, "rule": bar, "best": lowest}
            numbers |= {} if learner.liking is None else learner.liking.numbers(learner.network)
        numbers |= {} if task.workers is None else task.workers.told()
        task.run.log(played * each, numbers)
        task.report(Progress(played * each, rounds * each, dict(numbers)))
        stop = task.stop() and not last
        if better or stop or last or played % config.checkpoint_every == 0:
            task.run.checkpoint(
                played * each,
                {
                    "learner": learner.state(), "random": generators(rng), "kept": kept, "numbers": dict(numbers),
                    "lowest": lowest, "round": played,
                },
                best=better,
            )  # fmt: skip
        if stop:
            raise StoppedError
    learner.network.load_state_dict(kept)
    made = artifact(
        served(learner.network, learner.weight), name=task.name, scheme=BRANCHING.name,
        observations=with_extremes(learner.replay.seen().cpu().numpy(), *task.pools.known), provenance=task.provenance,
        scores={"validation_score": lowest, "rule": bar}
        | ({} if learner.liking is None else learner.liking.report(learner.network)),
    )  # fmt: skip
    return Outcome(artifact=made, steps=rounds * each)
