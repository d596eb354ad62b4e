"""Speed of training, printed as ratios to named peers of the same run and stored as JSON: `make bench-training`.

- Environment steps per second of every learner from end to end, its evaluations included, after its first report.
- ppo-fast against stable-baselines3's PPO: the same world, observation, two networks, discount and passes over the
  data; evaluations left out of both. stable-baselines3 has its own defaults otherwise (rollouts of 2048 steps,
  minibatches of 64), with one environment as it comes and with each of several `n_envs`; ppo-fast has its own defaults.
- Seconds from scratch to an artifact that scores better than the tuned HPA in randomised worlds that it never met.
- Where there is a GPU, ppo-fast on it: environment steps per second, how busy it was, and the scores that the same
  seeds come to on it and on the processor (`bench_gpu`).
- The replay on the training device against stable-baselines3's `ReplayBuffer` in the host's memory, which draws
  uniformly and knows neither priorities nor several steps (`bench_replay`).

Machines are noisy and differ: the absolute figures are those of one run on one machine.

    python -m rlscaler_training.bench [--seconds 10] [--threads 2] [--part NAME] [--json FILE]
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from rlscaler import tuned
from rlscaler.action import scheme
from rlscaler.files import write_text_atomically
from rlscaler.observation import NAMES
from rlscaler.rules.hpa import Hpa
from rlscaler_sim.batch import Batch
from rlscaler_sim.contenders import hpa_behavior
from rlscaler_sim.load import generator
from rlscaler_sim.pool import prepare
from rlscaler_training import (
    bench_gpu,
    benchmark_arenas,
    benchmark_learners,
    hyper,
    learner,
    loads,
    ppo_fast,
    runs,
    worlds,
)
from rlscaler_training.bench_replay import replays
from rlscaler_training.benchmark_learners import BUDGETS
from rlscaler_training.benchmark_runs import machine
from rlscaler_training.commands import LEARNERS
from rlscaler_training.devices import device
from rlscaler_training.export import TORCH
from rlscaler_training.learner import Progress, StoppedError, Task
from rlscaler_training.loads import Pools

SCENARIO = "spike"
N_ENVS = (1, 4, 16, 64)
"""Numbers of environments that stable-baselines3 is tried with; the first is its default."""
ROLLOUT, BATCH = 2048, 64
"""Steps of a rollout over all environments, and minibatch, of stable-baselines3's PPO by default."""
GOAL = 100.0
"""How many times as fast as stable-baselines3's PPO ppo-fast is to be."""
HELD_OUT, EPISODE = 32, 240
"""Randomised worlds that are scored in, and decisions of an episode there."""
FIRST = 4.0
"""Seconds of the first training that is tried against the tuned HPA; each has twice those of the one before."""
TOLD = {"q-learning": {"evaluate_every": 250}, "apg": {"evaluate_every": 25}, "evolve": {"evaluate_every": 1}}
"""Settings by which learners that report at evaluations alone do so often enough to be timed."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Speed:
    """name: what ran. envs: at once, 0 where it has no number. steps: environment steps in so many seconds of the
    wall, and in so many of the processors."""

    name: str
    envs: int
    steps: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Environment steps per second of the wall."""
        return self.steps / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Environment steps per second of a processor: what is left of the rate where others want the processors."""
        return self.steps / self.cpu


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
    """Notes what is done; the time to the first note is left out, as everything is set up in it."""

    def __init__(self, seconds: float) -> None:
        """Run for so many seconds after the first note."""
        self.seconds = seconds
        self.first: tuple[int, float, float] | None = None
        self.last = (0, 0.0, 0.0)

    def note(self, steps: int) -> bool:
        """Take in that so many steps are done, learning included; return whether the time is over."""
        self.last = (steps, time.perf_counter(), time.process_time())
        if self.first is None and steps:
            self.first = self.last
        first = self.first or self.last
        return self.last[1] - first[1] >= self.seconds and self.last[0] > first[0]

    def speed(self, name: str, envs: int) -> Speed:
        """Return what was measured."""
        assert self.first is not None
        steps, seconds, cpu = (last - first for last, first in zip(self.last, self.first, strict=True))
        return Speed(name, envs, int(steps), seconds, max(cpu, 1e-9))


def trained(name: str, config: Any, each: int, found: Pools, seconds: float, envs: int, asked: str = "cpu") -> Speed:
    """Return how fast a learner learns. each: environment steps of one that it reports."""
    chosen = device(asked)
    clock = Clock(seconds)
    over = False

    def report(progress: Progress) -> None:
        nonlocal over
        if chosen.name == "cuda":
            torch.cuda.synchronize()
        over = clock.note(progress.step * each)

    module = import_module(f"rlscaler_training.{LEARNERS[name][0]}")
    with tempfile.TemporaryDirectory() as folder:
        run = runs.begin(Path(folder) / "run", name, config, {}, chosen.name)
        try:
            with suppress(StoppedError):
                module.learn(Task(name, found, run, chosen, 0, {}, report=report, stop=lambda: over), config)
        finally:
            run.close()
    return clock.speed(f"{name} on {chosen.name}", envs)


def fast(found: Pools, config: ppo_fast.Config, seconds: float, asked: str = "cpu") -> Speed:
    """Measure ppo-fast, evaluations and checkpoints left out as they are with the other."""
    config = replace(config, steps=10**12, evaluate_every=100_000)
    count = config.envs or (ppo_fast.MANY if asked == "cuda" else ppo_fast.FEW)
    return trained("ppo-fast", config, 1, found, seconds, count, asked)


def of_fields(env: Any, fields: Sequence[str]) -> Any:
    """Return the environment with these fields of its observation alone."""
    from gymnasium.spaces import Box
    from gymnasium.wrappers import TransformObservation

    columns = np.array([NAMES.index(name) for name in fields])
    space = Box(env.observation_space.low[columns], env.observation_space.high[columns], dtype=np.float32)
    return TransformObservation(env, lambda observation: observation[columns], space)


def reference(config: ppo_fast.Config, n_envs: int, seconds: float, fields: Sequence[str]) -> Speed:
    """Measure stable-baselines3's PPO with so many environments, each a `ScalerEnv` (its own `DummyVecEnv`).

    fields: of the observation, that its networks read.
    """
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

    def made() -> Any:
        return of_fields(ScalerEnv(SCENARIO, config.actions, config.episode, loads=2, hours=1.0), fields)

    widths = list(config.hidden)
    model = PPO(
        "MlpPolicy", DummyVecEnv([made] * n_envs), n_steps=ROLLOUT // n_envs, batch_size=BATCH, n_epochs=config.epochs,
        gamma=config.gamma, gae_lambda=config.trace, seed=0, device="cpu",
        policy_kwargs={"net_arch": {"pi": widths, "vf": widths}, "activation_fn": TORCH[config.activation]},
    )  # fmt: skip
    callback = Noting()
    model.learn(10**9, callback=callback)
    return callback.clock.speed("stable-baselines3 PPO", n_envs)


def against_sb3(config: ppo_fast.Config, seconds: float, n_envs: tuple[int, ...] = N_ENVS) -> dict[str, Any]:
    """Measure ppo-fast and stable-baselines3's PPO, each for at least so many seconds."""
    found = loads.pools((SCENARIO,), None, 1.0, 0)
    mine = fast(found, config, seconds)
    others = [reference(config, n, seconds, found.fields) for n in n_envs]
    best = max(others, key=lambda speed: speed.rate)
    return {
        "ppo_fast_steps_per_s": mine.rate,
        "ppo_fast_envs": mine.envs,
        "sb3_steps_per_s": {str(speed.envs): speed.rate for speed in others},
        "sb3_best_n_envs": best.envs,
        "over_default": mine.rate / others[0].rate,
        "over_best": mine.rate / best.rate,
        "over_default_by_processor_time": mine.cpu_rate / others[0].cpu_rate,
        "over_best_by_processor_time": mine.cpu_rate / best.cpu_rate,
    }


def of_learners(seconds: float, names: tuple[str, ...] = tuple(BUDGETS)) -> dict[str, float]:
    """Return environment steps per second of learners, evaluations included."""
    found = loads.pools((SCENARIO,), None, 2.0, 0)
    rates = {}
    for name in names:
        budget = BUDGETS[name]
        module = import_module(f"rlscaler_training.{LEARNERS[name][0]}")
        long = max(budget.least, round(20.0 * budget.pace * seconds))
        config = hyper.read(module.Config, None, {budget.count: long} | TOLD.get(name, {}))
        rates[name] = trained(name, config, budget.each, found, seconds, 0).rate
    return rates


# --- until it is better than the tuned HPA


def held_out(hours: float, seed: int) -> Any:
    """Return the pool of randomised worlds that nobody trains in."""
    name = "held-out"
    drawn = [worlds.drawn(np.random.default_rng([seed, k]), 1.0, worlds.FAMILIES, worlds.Ranges())
             for k in range(HELD_OUT)]  # fmt: skip
    found = [worlds.load(world, hours * 3600.0, generator(f"{name}-{k}", seed)) for k, world in enumerate(drawn)]
    return prepare(found, *worlds.conditions(drawn), seed)


def until_better(name: str, longest: float, hours: float = 3.0, seed: int = 0) -> dict[str, Any]:
    """Train from scratch for longer and longer, until the artifact scores better than the tuned HPA.

    longest: seconds of one thread that no training is longer than. All are scored in the same environments, from the
    same moments.
    """
    pools = benchmark_arenas.randomised(seed, hours).pools
    pool, at = held_out(hours, seed + 1), seed + 2

    def batch(settings: Any) -> Batch:
        return Batch(pool, pool.config, settings, scheme("headroom"), 2 * HELD_OUT, EPISODE, at)

    constants = tuned.constants("hpa-tuned")
    behavior = hpa_behavior(constants["window"], constants["tolerance"])
    bare = replace(pool.settings, behavior=behavior, floor=False, flap_budget=np.inf)
    bar = learner.scored(batch(bare), Hpa(target=constants["target"]), EPISODE, at).total
    rule = learner.untrained(batch(pool.settings), EPISODE, at).total
    told: dict[str, Any] = {"hpa_tuned": bar, "untrained_rule": rule, "seconds": None, "tried": []}
    budget = FIRST
    while budget <= longest:
        with tempfile.TemporaryDirectory() as folder:
            found = benchmark_learners.trained(name, budget, pools, seed, Path(folder) / "run")
        score = learner.scored(batch(pool.settings), found.artifact, EPISODE, at).total
        told["tried"].append({"seconds": found.seconds, "steps": found.steps, "score": score})
        if score < bar:
            told["seconds"] = found.seconds
            break
        budget *= 2.0
    return told


# --- all of it

PARTS = ("learners", "sb3", "until", "gpu", "replay")


def measure(seconds: float, parts: tuple[str, ...], tell: Tell) -> dict[str, Any]:
    """Return the figures of the parts."""
    found: dict[str, Any] = {"machine": machine(), "threads": torch.get_num_threads()}
    if "sb3" in parts:
        tell("ppo-fast against stable-baselines3's PPO")
        found["ppo_fast"] = against_sb3(ppo_fast.Config(), seconds)
    if "learners" in parts:
        tell("environment steps per second of every learner")
        found["learners_steps_per_s"] = of_learners(seconds)
    if "until" in parts:
        found["until_better_than_hpa"] = {}
        for name in ("apg", "ppo-fast"):
            tell(f"{name}, until it is better than the tuned HPA")
            found["until_better_than_hpa"][name] = until_better(name, 8.0 * seconds)
    if "gpu" in parts and torch.cuda.is_available():
        tell("ppo-fast on the GPU, and the same seeds on the processor")
        pools = loads.pools((SCENARIO,), None, 1.0, 0)
        speed, busy = bench_gpu.watched(lambda: fast(pools, ppo_fast.Config(), seconds, "cuda"))
        found["gpu"] = {"name": torch.cuda.get_device_name(), "steps_per_s": speed.rate, "busy": busy}
        found["gpu"] |= bench_gpu.same_seeds(pools, ppo_fast.Config(), ("cuda", "cpu"))
    if "replay" in parts:
        tell("replay")
        found["replay"] = replays(seconds / 4.0, "cuda" if torch.cuda.is_available() else "cpu")
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """Return the figures in words."""
    told = []
    if "ppo_fast" in found:
        part = found["ppo_fast"]
        for count, rate in part["sb3_steps_per_s"].items():
            told.append(f"stable-baselines3 PPO, n_envs {count:>2}   {rate:>14,.0f} environment steps/s")
        told.append(f"ppo-fast, {part['ppo_fast_envs']:,} environments  {part['ppo_fast_steps_per_s']:>14,.0f}")
        told.append(f"  over stable-baselines3: {part['over_default']:,.0f}x its default, {part['over_best']:,.0f}x"
                    f" its best (n_envs {part['sb3_best_n_envs']}); by processor time"
                    f" {part['over_default_by_processor_time']:,.0f}x and {part['over_best_by_processor_time']:,.0f}x;"
                    f" goal {GOAL:g}x")  # fmt: skip
    if "gpu" in found:
        told += bench_gpu.lines(found["gpu"])
    for name, rate in found.get("learners_steps_per_s", {}).items():
        told.append(f"{name:<27} {rate:>14,.0f} environment steps/s, from end to end")
    for name, part in found.get("until_better_than_hpa", {}).items():
        when = "not reached" if part["seconds"] is None else f"after {part['seconds']:.0f} s"
        last = part["tried"][-1]["score"] if part["tried"] else float("nan")
        scores = f"{last:.3f} against {part['hpa_tuned']:.3f}; the untrained rule {part['untrained_rule']:.3f}"
        told.append(f"{name} better than the tuned HPA in randomised worlds: {when} (scores {scores}); goal 300 s")
    if "replay" in found:
        part = found["replay"]
        told.append(f"replay on {part['device']}: {part['device_replay_per_s']:,.0f} transitions/s drawn by priority, "
                    f"stable-baselines3's on the host, uniformly {part['host_replay_per_s']:,.0f}: "
                    f"{part['device_over_host']:.2f}x")  # fmt: skip
    return told


@click.command()
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(0.1, 3600.0), help="Of each figure.")
@click.option("--threads", "count", default=2, show_default=True, type=click.IntRange(1, 1024), help="Of torch.")
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Of the bench; several times.")
@click.option("--json", "path", default="out/bench-training.json", show_default=True, type=click.Path(),
              help="Where the figures go.")  # fmt: skip
def main(seconds: float, count: int, parts: tuple[str, ...], path: str) -> None:
    """Measure the speed of training, print it and store it."""
    with threads(count):
        found = measure(seconds, parts or PARTS, lambda what: click.echo(f"measuring {what}", err=True))
    click.echo("\n".join(lines(found)))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(found, indent=2) + "\n")
    click.echo(f"stored: {path}")


if __name__ == "__main__":
    main()
