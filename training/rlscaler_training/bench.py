"""Environment steps per second, training included: ppo-fast and stable-baselines3's PPO, in one run on this machine.

Both learn in the same world from the same observation, with the same two networks, discount and passes over the data.
stable-baselines3 has its own defaults otherwise (rollouts of 2048 steps, minibatches of 64), with one environment as it
comes and with each of several `n_envs`, the best of which is named; ppo-fast has its own defaults.

    python -m rlscaler_training.bench [--seconds 20] [--threads 2] [--json]
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from rlscaler_training import ppo_fast, runs
from rlscaler_training.devices import device
from rlscaler_training.learner import Progress, StoppedError, Task
from rlscaler_training.loads import Pools, pools
from rlscaler_training.ppo_fast import Config

SCENARIO = "spike"
ACTIVATIONS = {"tanh": nn.Tanh, "silu": nn.SiLU, "relu": nn.ReLU}
N_ENVS = (1, 4, 16, 64)
"""Numbers of environments that stable-baselines3 is tried with; the first is its default."""
ROLLOUT, BATCH = 2048, 64
"""Steps of a rollout over all environments, and minibatch, of stable-baselines3's PPO by default."""


@dataclass(frozen=True, slots=True)
class Speed:
    """name: what ran. envs: at once. steps: environment steps that were taken in so many seconds of the wall."""

    name: str
    envs: int
    steps: int
    seconds: float

    @property
    def rate(self) -> float:
        """Environment steps per second."""
        return self.steps / self.seconds


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Clock:
    """Notes rollouts and the updates after them; the first is left out, as everything is set up in it."""

    def __init__(self, seconds: float) -> None:
        """Run for so many seconds after the first rollout."""
        self.seconds = seconds
        self.first: tuple[int, float] | None = None
        self.last = (0, 0.0)

    def note(self, steps: int) -> bool:
        """Take in that so many steps are done, learning included; return whether the time is over."""
        self.last = (steps, time.perf_counter())
        self.first = self.first or self.last
        return self.last[1] - self.first[1] >= self.seconds and self.last[0] > self.first[0]

    def speed(self, name: str, envs: int) -> Speed:
        """Return what was measured."""
        assert self.first is not None
        return Speed(name, envs, self.last[0] - self.first[0], self.last[1] - self.first[1])


def fast(found: Pools, config: Config, seconds: float, asked: str = "cpu") -> Speed:
    """Measure ppo-fast, evaluations and checkpoints left out as they are with the other."""
    config = replace(config, steps=10**12, evaluate_every=100_000)
    chosen = device(asked)
    clock = Clock(seconds)
    over = False

    def report(progress: Progress) -> None:
        nonlocal over
        if chosen.name == "cuda":
            torch.cuda.synchronize()
        over = clock.note(progress.step)

    with tempfile.TemporaryDirectory() as folder:
        run = runs.begin(Path(folder) / "run", "ppo-fast", config, {}, chosen.name)
        task = Task("ppo-fast", found, run, chosen, 0, {}, report=report, stop=lambda: over)
        envs, twin, judge = ppo_fast.environments(task, config)
        try:
            ppo_fast.train(envs, twin, judge, config, run=run, device=chosen.torch, seed=0, report=report,
                           stop=task.stop)  # fmt: skip
        except StoppedError:
            run.close()
    return clock.speed(f"ppo-fast on {chosen.name}", envs.n)


def reference(config: Config, n_envs: int, seconds: float) -> Speed:
    """Measure stable-baselines3's PPO with so many environments, each a `ScalerEnv` (its own `DummyVecEnv`)."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv

    from rlscaler_sim.env import ScalerEnv

    class Noting(BaseCallback):
        """Ends at the first step after the update that is over the time."""

        clock = Clock(seconds)
        over = False

        def _on_rollout_start(self) -> None:
            if self.num_timesteps:
                self.over = self.clock.note(self.num_timesteps)

        def _on_step(self) -> bool:
            return not self.over

    def made() -> ScalerEnv:
        return ScalerEnv(SCENARIO, config.actions, config.episode, loads=2, hours=1.0)

    widths = list(config.hidden)
    model = PPO(
        "MlpPolicy", DummyVecEnv([made] * n_envs), n_steps=ROLLOUT // n_envs, batch_size=BATCH, n_epochs=config.epochs,
        gamma=config.gamma, gae_lambda=config.trace, seed=0, device="cpu",
        policy_kwargs={"net_arch": {"pi": widths, "vf": widths}, "activation_fn": ACTIVATIONS[config.activation]},
    )  # fmt: skip
    callback = Noting()
    model.learn(10**9, callback=callback)
    return callback.clock.speed("stable-baselines3 PPO", n_envs)


@dataclass(frozen=True, slots=True)
class Comparison:
    """fast: ppo-fast. references: stable-baselines3 with each number of environments, its default first."""

    fast: Speed
    references: tuple[Speed, ...]

    @property
    def best(self) -> Speed:
        """The fastest of the references."""
        return max(self.references, key=lambda speed: speed.rate)

    @property
    def over_default(self) -> float:
        """How many times as fast as the reference by default."""
        return self.fast.rate / self.references[0].rate

    @property
    def over_best(self) -> float:
        """How many times as fast as the best of the references."""
        return self.fast.rate / self.best.rate

    def told(self) -> dict[str, Any]:
        """Return it as plain values."""
        speeds = [asdict(speed) | {"rate": speed.rate} for speed in (self.fast, *self.references)]
        return {"speeds": speeds, "over_default": self.over_default, "over_best": self.over_best}

    def __str__(self) -> str:
        """Return it as a table with a sentence below."""
        lines = [f"{speed.name:<24} n_envs {speed.envs:>7,}  {speed.rate:>14,.0f} environment steps/s"
                 for speed in (*self.references, self.fast)]  # fmt: skip
        lines.append(
            f"ppo-fast over stable-baselines3: {self.over_default:,.1f}x its default, {self.over_best:,.1f}x its best "
            f"(n_envs {self.best.envs}); goal 100x"
        )
        return "\n".join(lines)


def compare(config: Config, seconds: float, count: int, n_envs: tuple[int, ...] = N_ENVS) -> Comparison:
    """Measure both, each for at least so many seconds, with so many threads of torch.

    Where many processes want the processors, the threads of torch wait for each other: a single one is then faster.
    """
    found = pools((SCENARIO,), None, 1.0, 0)
    with threads(count):
        mine = fast(found, config, seconds)
        return Comparison(mine, tuple(reference(config, n, seconds) for n in n_envs))


@click.command()
@click.option("--seconds", default=20.0, show_default=True, type=click.FloatRange(0.1, 3600.0), help="Of each part.")
@click.option("--threads", "count", default=2, show_default=True, type=click.IntRange(1, 1024), help="Of torch.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(seconds: float, count: int, as_json: bool) -> None:
    """Print environment steps per second of ppo-fast and of stable-baselines3's PPO, training included."""
    result = compare(Config(), seconds, count)
    click.echo(json.dumps(result.told(), indent=2) if as_json else str(result))


if __name__ == "__main__":
    main()
