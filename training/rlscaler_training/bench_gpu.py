"""What a GPU is worth to ppo-fast: how busy it is kept, and whether the same seeds come to the same scores."""

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from rlscaler_training import finishing, ppo_fast, runs
from rlscaler_training.devices import device
from rlscaler_training.learner import Task
from rlscaler_training.loads import Pools

T = TypeVar("T")
SEEDS, STEPS = 3, 500_000
"""Trainings on each device, and their environment steps."""
EVERY = 200
"""Milliseconds between two looks at how busy the device is."""


def watched(work: Callable[[], T]) -> tuple[T, float | None]:
    """Do some work; return what came of it and the share of the time, 0 to 1, in which a kernel ran on the GPU.

    By `nvidia-smi`; None where that is not there, or says nothing.
    """
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", f"--loop-ms={EVERY}"]
    if torch.cuda.is_available():
        command.append(f"--id=GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}")
    try:
        watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return work(), None
    try:
        found = work()
    finally:
        watching.terminate()
        said, _ = watching.communicate()
    shares = [float(line) / 100.0 for line in said.split() if line.isdecimal()]
    return found, float(np.mean(shares)) if shares else None


def same_seeds(pools: Pools, config: ppo_fast.Config, devices: Sequence[str]) -> dict[str, Any]:
    """Return by device the validation scores that the same seeds come to, and the untrained rule's on the same draws.

    All have as many environments, which decide how much of the data an update sees.
    """
    config = replace(config, steps=min(config.steps, STEPS), envs=config.envs or ppo_fast.FEW)
    scores: dict[str, list[float]] = {name: [] for name in devices}
    rule = []
    for seed in range(SEEDS):
        for name in devices:
            with tempfile.TemporaryDirectory() as folder:
                run = runs.begin(Path(folder) / "run", "ppo-fast", config, {}, name)
                try:
                    made = ppo_fast.learn(Task("ppo-fast", pools, run, device(name), seed, {}), config).artifact
                finally:
                    run.close()
            score, untrained = finishing.judged(pools, made, seed)
            scores[name].append(score.total)
            rule.append(untrained.total)
    return {"scores": scores, "untrained_rule": rule}


def lines(found: dict[str, Any]) -> list[str]:
    """Return the figures in words."""
    busy = "unknown" if found["busy"] is None else f"{found['busy']:.0%} of the time"
    told = [f"ppo-fast on {found['name']}: {found['steps_per_s']:,.0f} environment steps/s; the GPU is busy {busy}"]
    for name, scores in found["scores"].items():
        told.append(f"  {len(scores)} seeds on {name}: score {np.mean(scores):.3f} ({min(scores):.3f} to "
                    f"{max(scores):.3f}); the untrained rule {np.mean(found['untrained_rule']):.3f}")  # fmt: skip
    return told
