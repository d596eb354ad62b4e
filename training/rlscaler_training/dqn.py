"""Deep Q-network (Mnih et al. 2015, doi:10.1038/nature14236), by stable-baselines3.

The environments are those of rlscaler/Scaler-v0, many at once. Its targets have no double Q-learning and it knows no
masks: what a bound forbids has the effect of the nearest choice within it. The best network on the validation load is
what is exported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stable_baselines3 import DQN
from torch import nn

from rlscaler.errors import UserError
from rlscaler_training import sb3
from rlscaler_training.export import TORCH
from rlscaler_training.hyper import choice, setting, switch
from rlscaler_training.learner import Outcome, Task
from rlscaler_training.sb3_envs import Envs


@dataclass(frozen=True, slots=True)
class Config:
    """Hyper-parameters, each with the source of its default."""

    steps: int = setting(200_000, 1, 1_000_000_000, "Steps of all environments together.")
    envs: int = setting(16, 1, 4096, "Workloads simulated at once; own choice.")
    rate: float = setting(5e-4, 1e-7, 1.0, "Learning rate of Adam; five times that of stable-baselines3, as batches "
                          "are larger.")  # fmt: skip
    gamma: float = setting(0.9, 0.0, 0.9999, "Discount per decision, as in q-learning.")
    lookahead: int = setting(6, 1, 100, "Rewards summed before the network's own value takes over, as in q-learning.")
    buffer: int = setting(50_000, 100, 10_000_000, "Transitions kept for replay, as RL Zoo has it for small tasks; a "
                          "checkpoint holds them too, 0.8 kB each.")  # fmt: skip
    batch: int = setting(128, 1, 65_536, "Transitions of a gradient step (RL Zoo, CartPole: 64).")
    learning_starts: int = setting(
        2000, 0, 100_000_000, "Steps that are played at random first; own choice (stable-baselines3: 100)."
    )
    train_every: int = setting(1, 1, 10_000, "Steps of each environment between trainings (stable-baselines3: 4).")
    gradient_steps: int = setting(
        2, 1, 10_000, "Gradient steps of each training, for 16 steps (stable-baselines3: 1 for 4)."
    )
    target_every: int = setting(2000, 1, 10_000_000, "Steps after which the target network follows; own choice, "
                                "for short trainings (stable-baselines3: 10,000).")  # fmt: skip
    epsilon: float = setting(1.0, 0.0, 1.0, "First share of explored decisions (Mnih et al. 2015).")
    epsilon_end: float = setting(0.05, 0.0, 1.0, "Last share of explored decisions (stable-baselines3).")
    epsilon_share: float = setting(0.3, 1e-6, 1.0, "Share of the steps over which it falls, linearly; own choice "
                                   "(stable-baselines3: 0.1).")  # fmt: skip
    clip: float = setting(10.0, 1e-3, 1e6, "Largest norm of the gradient (stable-baselines3).")
    hidden: tuple[int, ...] = setting((64, 64), 1, 4096, "Widths of the hidden layers (stable-baselines3).")
    activation: str = choice("relu", tuple(TORCH), "What stands between them (stable-baselines3).")
    twin: bool = switch(True, "Take from the reward what the untrained rule earns on the same load, as in q-learning.")
    evaluate_every: int = setting(10_000, 1, 1_000_000_000, "Steps between evaluations on the validation load.")
    checkpoint_every: int = setting(10_000, 1, 1_000_000_000, "Steps between checkpoints.")
    patience: int = setting(0, 0, 1_000_000, "Evaluations without a better one after which it stops; 0: never.")
    episode: int = setting(240, 8, 5000, "Decisions of an episode: one hour.")
    actions: str = choice("headroom", ("headroom", "step"), "Action scheme.")


LEGACY: dict[str, Any] = {
    "steps": 100_000,
    "envs": 4,
    "gamma": 0.95,
    "lookahead": 3,
    "rate": 1e-3,
    "epsilon_end": 0.02,
    "evaluate_every": 2000,
    "episode": 200,
    "actions": "step",
}
"""Defaults in the environment of earlier work: as many steps as were published."""


def require(config: Config, names: Sequence[str]) -> None:
    """Raise UserError where nothing would be learned in so many steps; names: of the observation's fields."""
    each = config.envs * config.train_every
    if (played := -(-config.steps // each) * each) <= config.learning_starts:
        raise UserError(
            f"learning_starts is {config.learning_starts:,}; expected fewer than the {played:,} steps that are played: "
            "lower learning_starts, or raise steps"
        )


def model(config: Config, envs: Envs, seed: int, device: Any) -> DQN:
    """Return the model, not trained."""
    return DQN(
        "MlpPolicy",
        envs,
        learning_rate=config.rate,
        buffer_size=config.buffer,
        learning_starts=config.learning_starts,
        batch_size=config.batch,
        gamma=config.gamma,
        n_steps=config.lookahead,
        train_freq=config.train_every,
        gradient_steps=config.gradient_steps,
        target_update_interval=max(config.target_every, config.envs),
        exploration_fraction=config.epsilon_share,
        exploration_initial_eps=config.epsilon,
        exploration_final_eps=config.epsilon_end,
        max_grad_norm=config.clip,
        policy_kwargs={"net_arch": list(config.hidden), "activation_fn": TORCH[config.activation]},
        seed=seed,
        device=device,
    )


def layers(trained: Any) -> Sequence[nn.Module]:
    """Return the layers of the network of values."""
    return list(trained.q_net.q_net)


def learn(task: Task, config: Config) -> Outcome:
    """Learn the task, or go on with it. Raises StoppedError, NotFiniteError."""
    return sb3.learned(task, config, lambda envs: model(config, envs, task.seed, task.device.torch), layers)
