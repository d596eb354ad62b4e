"""Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779) from a log of decisions, without a world to try in.

Read from top to bottom: the settings, the fit, the run. The values are fitted to what the log's decisions earned and
what followed them, and held down for actions that the log does not have in a situation: else the maximum over actions
finds the errors of what was never tried. A log whose policy hardly deviates teaches hardly anything; logs of several
policies, or of several settings of one, teach more.

What is learned is judged by the part of the log that it was not learned from (`off_policy`), and by the simulator. The
simulator chooses nothing here: what comes last is kept, as it would have to be where there is only a log.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from rlscaler.action import CORRECTIONS, scheme
from rlscaler.artifact import Artifact
from rlscaler.errors import UserError
from rlscaler_sim.batch import Batch
from rlscaler_training import decision_log, export, off_policy, runs
from rlscaler_training.decision_log import Log
from rlscaler_training.evolve import FIELDS
from rlscaler_training.export import Mlp
from rlscaler_training.hyper import choice, setting
from rlscaler_training.learner import Outcome, Progress, StoppedError, Task, scored, untrained
from rlscaler_training.loads import VALIDATION_ENVS, VALIDATION_SEED

SCHEME = "headroom"
LEAST_BLOCKS = 5
"""Blocks without which nothing can be said of the log's luck."""


@dataclass(frozen=True, slots=True)
class Config:
    """Hyper-parameters, each with the source of its default."""

    steps: int = setting(4000, 1, 10_000_000, "Gradient steps.")
    batch: int = setting(256, 1, 65_536, "Decisions in each (256 in the paper's code).")
    rate: float = setting(1e-3, 1e-7, 1.0, "Learning rate of Adam; own choice.")
    gamma: float = setting(0.9, 0.0, 0.999, "Discount per decision: an order serves after some five, 0.9^5 = 0.59.")
    caution: float = setting(0.2, 0.0, 100.0, "Weight of what holds down actions that were not taken (alpha in the"
                             " paper), own choice; 0: fitted Q iteration.")  # fmt: skip
    target_rate: float = setting(
        0.01, 1e-5, 1.0, "Share of the network that its target takes over at each step; own choice."
    )
    hidden: tuple[int, ...] = setting((64, 64), 1, 1024, "Widths of the hidden layers; own choice.")
    activation: str = choice("silu", ("silu", "tanh", "relu"), "What stands between them; own choice.")
    held_out: float = setting(0.3, 0.05, 0.9, "Share of the log that is kept to judge by; own choice.")
    block: int = setting(20, 1, 10_000, "Decisions that are kept, and drawn anew, together: three reaction times.")
    resamples: int = setting(200, 20, 10_000, "Resamples of the interval; own choice.")
    ridge: float = setting(
        1e-3, 0.0, 1.0, "What holds the fit of the estimate, as a share of each feature's square; own choice."
    )
    least: int = setting(1000, 50, 10_000_000, "Decisions below which nothing is learned: some four hours.")
    episode: int = setting(240, 8, 5000, "Decisions of the simulator's verdict: one hour.")
    evaluate_every: int = setting(1000, 1, 10_000_000, "Steps between verdicts, and checkpoints.")


# --- the fit


@dataclass(slots=True)
class Fit:
    """What is fitted: the network, its slow target, and the optimiser."""

    network: Mlp
    target: Mlp
    optimiser: torch.optim.Optimizer


def begun(log: Log, config: Config, seed: int, device: torch.device) -> Fit:
    """Return networks that know nothing; the value of every action begins at 0, the log's mean."""
    torch.manual_seed(seed)
    network, target = (Mlp(FIELDS, config.hidden, len(CORRECTIONS), config.activation) for _ in range(2))
    network.normalise(log.observation)
    with torch.no_grad():
        network.scale.clamp_(min=0.05)
        network.head.weight.mul_(0.01)
        network.head.bias.zero_()
    target.load_state_dict(network.state_dict())
    network.to(device)
    target.to(device)
    return Fit(network, target, torch.optim.Adam(network.parameters(), lr=config.rate))


def step(fit: Fit, drawn: tuple[Tensor, ...], config: Config) -> float:
    """Take one step on decisions (observation, action, merit, following) and return the loss.

    merit: reward above the log's mean, over its deviation; so a value of 0 is what is usual.
    """
    observation, action, merit, following = drawn
    with torch.no_grad():  # chosen by the one network and valued by the other (van Hasselt et al. 2016)
        best = fit.network(following).argmax(dim=1, keepdim=True)
        wanted = merit + config.gamma * fit.target(following).gather(1, best)[:, 0]
    values = fit.network(observation)
    taken = values.gather(1, action[:, None])[:, 0]
    loss = torch.nn.functional.smooth_l1_loss(taken, wanted)
    loss = loss + config.caution * (torch.logsumexp(values, dim=1) - taken).mean()
    fit.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(fit.network.parameters(), 10.0)
    fit.optimiser.step()
    with torch.no_grad():
        for slow, fast in zip(fit.target.parameters(), fit.network.parameters(), strict=True):
            slow.lerp_(fast, config.target_rate)
    return float(loss.detach())


def tensors(log: Log, device: torch.device) -> tuple[Tensor, ...]:
    """Return what `step` draws from."""
    reward = log.reward
    merit = (reward - reward.mean()) / max(float(reward.std()), 1e-6)
    arrays = (log.observation, log.action, merit.astype(np.float32), log.following)
    return tuple(torch.as_tensor(np.ascontiguousarray(array), device=device) for array in arrays)


def chosen(network: Mlp, observations: np.ndarray) -> np.ndarray:
    """Return what the network would choose, (N,) of observations (N, F); the bounds are the guard's affair."""
    device = network.mean.device
    with torch.no_grad():
        found: np.ndarray = network(torch.as_tensor(observations, device=device)).argmax(dim=1).cpu().numpy()
    return found


def parted(log: Log, config: Config, seed: int) -> tuple[Log, Log]:
    """Return what is learned from and what is judged by: other blocks of the log.

    Raises UserError where one of them would be empty.
    """
    blocks = off_policy.blocks_of(log.part, config.block)
    count = int(blocks[-1]) + 1
    kept = round(count * config.held_out)
    if not LEAST_BLOCKS <= kept <= count - LEAST_BLOCKS:
        raise UserError(
            f"--decisions: {count} blocks of {config.block} decisions, {kept} of them to judge by; expected at least "
            f"{LEAST_BLOCKS} to learn from and {LEAST_BLOCKS} to judge by: give a longer log, or a smaller --block"
        )
    judged = np.isin(blocks, np.random.default_rng([seed, 1]).permutation(count)[:kept])
    return log.taken(~judged), log.taken(judged)


def judged(network: Mlp, log: Log, config: Config, seed: int) -> off_policy.Estimate:
    """Return the estimate of what the network would have scored on a log that it was not learned from."""
    return off_policy.evaluated(
        log, chosen(network, log.observation), chosen(network, log.following), gamma=config.gamma, block=config.block,
        resamples=config.resamples, ridge=config.ridge, seed=seed,
    )  # fmt: skip


# --- the run


def learn(task: Task, config: Config) -> Outcome:
    """Learn from the logs that `task.run.arguments["decisions"]` names, a list of files. A step is a gradient step.

    Deterministic with the seed on the CPU, resumed or not. Raises UserError for a log that nothing can be learned from.
    """
    files = task.run.arguments.get("decisions") or []
    if not files:
        raise UserError("--decisions FILE.jsonl is missing; expected a log as 'rlscaler dry-run --decisions' writes it")
    log = decision_log.read(files, config.least)
    device = task.device.torch
    learned, held = parted(log, config, task.seed)
    fit = begun(learned, config, task.seed, device)
    material = tensors(learned, device)
    rng = np.random.default_rng([task.seed, 2])
    now, resumed, loss = 0, -1, 0.0
    if (state := task.run.restore()) is not None:
        fit.network.load_state_dict(state["network"])
        fit.target.load_state_dict(state["target"])
        fit.optimiser.load_state_dict(state["optimiser"])
        runs.restore_generators(rng, state["random"])
        now = resumed = task.run.step
        loss = float(state["loss"])
    pools = task.pools
    choices = scheme(SCHEME)
    judge = Batch(pools.validation, pools.config, pools.settings, choices, VALIDATION_ENVS, config.episode, task.seed)

    def keep() -> None:
        task.run.checkpoint(now, {
            "network": fit.network.state_dict(), "target": fit.target.state_dict(), "loss": loss,
            "optimiser": fit.optimiser.state_dict(), "random": runs.generators(rng),
        })  # fmt: skip

    numbers: dict[str, float] = {}
    while True:
        ended = now == config.steps
        stopping = not ended and task.stop()
        if (now % config.evaluate_every == 0 or ended) and now > resumed:
            estimate = judged(fit.network, held, config, task.seed)
            numbers = {"off_policy": estimate.score, "off_policy_low": estimate.low, "off_policy_high": estimate.high,
                       "support": estimate.support, "loss": loss}  # fmt: skip
            task.run.log(now, numbers)
            keep()
        elif stopping:
            keep()
        if now % 100 == 0 or ended or stopping:
            task.report(Progress(now, config.steps, numbers))
        if ended:
            break
        if stopping:
            raise StoppedError
        rows = torch.as_tensor(rng.integers(len(learned), size=config.batch), device=device)
        loss = step(fit, tuple(part[rows] for part in material), config)
        now += 1

    estimate = judged(fit.network, held, config, task.seed)
    made = export.artifact(
        fit.network, name=task.name, output="choices", scheme=SCHEME, observations=learned.observation,
        provenance=task.provenance | {"algorithm": "offline", "settings": asdict(config), "decisions": len(log)},
        scores={"off_policy": estimate.told()},
    )  # fmt: skip
    found = scored(judge, made, config.episode, task.seed + VALIDATION_SEED).total
    rule = untrained(judge, config.episode, task.seed + VALIDATION_SEED).total
    manifest = {name: value for name, value in made.manifest.items() if name not in ("format", "arrays", "digest")}
    manifest["scores"] |= {"validation_score": found, "untrained_score": rule}
    return Outcome(Artifact(manifest, made.arrays), config.steps * config.batch)
