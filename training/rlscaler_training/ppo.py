"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347), by stable-baselines3.

The environments are those of rlscaler/Scaler-v0, many at once. It knows no masks: what a bound forbids has the effect
of the nearest choice within it. The best network on the validation load is what is exported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stable_baselines3 import PPO
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

    steps: int = setting(500_000, 1, 1_000_000_000, "Steps of all environments together; the last roll-out is whole.")
    envs: int = setting(32, 1, 4096, "Workloads simulated at once; own choice.")
    rollout: int = setting(64, 1, 100_000, "Steps of each environment between trainings; with 32 of them 2,048 as in "
                           "stable-baselines3.")  # fmt: skip
    batch: int = setting(
        256, 2, 1_000_000, "Steps of a gradient step (stable-baselines3: 64); must divide rollout x envs."
    )
    epochs: int = setting(10, 1, 1000, "Passes over a roll-out (Schulman et al. 2017).")
    rate: float = setting(3e-4, 1e-7, 1.0, "Learning rate of Adam (Schulman et al. 2017).")
    gamma: float = setting(0.9, 0.0, 0.9999, "Discount per decision, as in q-learning.")
    smoothing: float = setting(0.95, 0.0, 1.0, "Lambda of generalised advantage estimation (Schulman et al. 2016).")
    clip_range: float = setting(0.2, 1e-3, 10.0, "Largest relative change of a probability (Schulman et al. 2017).")
    entropy: float = setting(0.003, 0.0, 10.0, "Weight of the entropy, which keeps it exploring; own choice "
                             "(stable-baselines3: 0, CleanRL: 0.01).")  # fmt: skip
    value: float = setting(0.5, 0.0, 100.0, "Weight of the value's loss (stable-baselines3).")
    clip: float = setting(0.5, 1e-3, 1e6, "Largest norm of the gradient (stable-baselines3).")
    hidden: tuple[int, ...] = setting((64, 64), 1, 4096, "Widths of the hidden layers, of policy and value each "
                                      "(Schulman et al. 2017).")  # fmt: skip
    activation: str = choice("tanh", tuple(TORCH), "What stands between them (Schulman et al. 2017).")
    twin: bool = switch(True, "Take from the reward what the untrained rule earns on the same load, as in q-learning.")
    evaluate_every: int = setting(20_000, 1, 1_000_000_000, "Steps between evaluations on the validation load.")
    checkpoint_every: int = setting(10_000, 1, 1_000_000_000, "Steps between checkpoints, the roll-out being whole.")
    patience: int = setting(0, 0, 1_000_000, "Evaluations without a better one after which it stops; 0: never.")
    episode: int = setting(240, 8, 5000, "Decisions of an episode: one hour.")
    actions: str = choice("headroom", ("headroom", "step", "branching"), "Action scheme.")

    def __post_init__(self) -> None:
        """Raise UserError where batches do not divide a roll-out."""
        if self.rollout * self.envs % self.batch:
            raise UserError(
                f"batch is {self.batch}; expected a divisor of rollout x envs = {self.rollout * self.envs:,}"
            )


LEGACY: dict[str, Any] = {
    "steps": 100_000,
    "envs": 8,
    "rollout": 200,
    "batch": 200,
    "gamma": 0.95,
    "rate": 1e-3,
    "entropy": 0.0,
    "evaluate_every": 3200,
    "episode": 200,
    "actions": "step",
}
"""Defaults in the environment of earlier work: as many steps as were published."""


def model(config: Config, envs: Envs, seed: int, device: Any) -> PPO:
    """Return the model, not trained."""
    return PPO(
        "MlpPolicy",
        envs,
        learning_rate=config.rate,
        n_steps=config.rollout,
        batch_size=config.batch,
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.smoothing,
        clip_range=config.clip_range,
        ent_coef=config.entropy,
        vf_coef=config.value,
        max_grad_norm=config.clip,
        policy_kwargs={"net_arch": list(config.hidden), "activation_fn": TORCH[config.activation]},
        seed=seed,
        device=device,
    )


def layers(trained: Any) -> Sequence[nn.Module]:
    """Return the layers of the policy."""
    return [*trained.policy.mlp_extractor.policy_net, trained.policy.action_net]


def learn(task: Task, config: Config) -> Outcome:
    """Learn the task, or go on with it. Raises StoppedError, NotFiniteError and UserError."""
    return sb3.learned(task, config, lambda envs: model(config, envs, task.seed, task.device.torch), layers)
