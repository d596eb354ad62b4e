"""Small trainings, alone or on ranks: the same in either case, so that they can be compared."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from rlscaler_training import apg, bdq, checkpoints, devices, launching, loads, ppo_fast, runs
from rlscaler_training.learner import StoppedError, Task
from rlscaler_training.loads import Pools
from rlscaler_training.parallel import ALONE, DDP, ZERO2, Parallel

SCENARIOS, HOURS, SEED = ("spike",), 1.0, 3
BDQ = bdq.Config(
    steps=4800, envs=16, episode=20, batch=32, replay=1600, warm_up=320, lookahead=3, encoder=(8,), trunk=(16,),
    head=(8,), evaluate_every=6, evaluation=8, checkpoint_every=6, target_every=50,
)  # fmt: skip
PPO = ppo_fast.Config(steps=2304, envs=16, horizon=8, episode=16, hidden=(8,), evaluate_every=2)
CONFIGS: dict[str, tuple[Any, int]] = {
    "apg": (apg.Config(steps=3000, batch=4, decisions=12, hidden=(8,), evaluate_every=100), 201),
    "ppo_fast": (PPO, 17),
    # the first 20 steps only fill the replay, which the last ones write over; drawn evenly, as the last bit of a
    # priority may move the edge between two transitions
    "bdq": (replace(BDQ, alpha=0.0), 12),
    "bdq prioritised": (BDQ, 2),
}  # fmt: skip
"""The settings of each, and the question whether to stop that is answered by yes: after 200 updates or more (20 where
priorities count), and before the artifact, which takes longer."""
LEARNERS, BY_ZERO2 = tuple(CONFIGS), ("apg", "ppo_fast")
HANDED_ON, QUARTER = "ppo_fast", 5
"""The learner whose run is handed from one kind of training to the next, and after how many questions."""


@cache
def pools() -> Pools:
    """Load that all of them are trained on."""
    return loads.pools(SCENARIOS, None, HOURS, SEED)


def trained(learner: str, folder: Path, parallel: Parallel = ALONE, stop_at: int | None = None) -> None:
    """Train, or go on, in a run's folder; stop_at: the so-many-th question whether to stop, None: as it has it."""
    name = learner.split()[0]
    config, last = CONFIGS[learner]
    asked, stop_at = count(1), last if stop_at is None else stop_at
    if parallel.leads and not folder.exists():
        runs.begin(folder, name, config, {})
    run = launching.SharedRun(folder, name, {}, {}, parallel=parallel)
    task = Task("net", pools(), run, devices.device("cpu"), SEED, {"seed": SEED}, parallel=parallel)
    task.stop = lambda: next(asked) >= stop_at
    with suppress(StoppedError):
        import_module(f"rlscaler_training.{name}").learn(task, config)
        raise AssertionError("it went on to its end")


def on_rank(rank: int, ranks: int, port: int, folder: Path, program: Callable[[Path], None]) -> None:
    """Be one of the ranks, and run the program there."""
    torch.set_num_threads(1)
    launching.met(launching.meeting(port), rank, ranks)
    program(folder)
    distributed.destroy_process_group()


def by_ddp(folder: Path) -> None:
    """Train all of them, hand one on, and carry out a whole job."""
    with launching.joined(DDP, "cpu") as parallel:
        for learner in LEARNERS:
            trained(learner, folder / "ddp" / learner, parallel)
        trained(HANDED_ON, folder / "handed on", parallel, QUARTER)
    launching.work(launching.Job(**json.loads((folder / "job.json").read_text())))


def by_zero2(folder: Path) -> None:
    """Train all of them, and take one over from the ranks that averaged gradients."""
    with launching.joined(ZERO2, "cpu") as parallel:
        for learner in BY_ZERO2:
            trained(learner, folder / "zero2" / learner, parallel)
        trained(HANDED_ON, folder / "handed on", parallel, QUARTER)


def state(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    return checkpoints.read(checkpoints.named(folder, checkpoints.LATEST))[1]
