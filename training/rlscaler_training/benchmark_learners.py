"""The learners of the benchmark: what each may spend, how it is trained, and whether it learned to do always the same.

Every learner has the same seconds on one thread. They are turned into steps beforehand, by the pace of `BUDGETS`, so
that a run depends on its seed and its budget alone and not on how busy the machine was.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.action import DRAIN, QUANTUM, Scheme, scheme
from rlscaler.arrays import State
from rlscaler.artifact import Artifact, load, save
from rlscaler.policies import from_artifact
from rlscaler.policy import Policy, Proposal, View
from rlscaler_training import hyper, loads, runs
from rlscaler_training.commands import LEARNERS
from rlscaler_training.devices import device
from rlscaler_training.learner import Task
from rlscaler_training.loads import Pools

NEVER = 1_000_000_000
"""Steps between checkpoints where only the last one is wanted."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a learner may spend.

    count: its setting that says how long it learns. pace: of that count in a second of one thread, rounded, as measured
    once on the machine of docs/benchmark.md. least: the smallest count that it can learn with. each: environment steps
    of one of the count. dear: it is run with half as many seeds. settings: what differs from its defaults, by the
    count.
    """

    count: str
    pace: float
    least: int
    each: int
    dear: bool
    settings: Callable[[int], dict[str, Any]]


BUDGETS: dict[str, Budget] = {
    "q-learning": Budget("steps", 170, 16, 256, False, lambda n: {"evaluate_every": -(-n // 3)}),
    "dqn": Budget("steps", 1200, 1000, 1, True, lambda n: {
        "evaluate_every": -(-n // 4), "checkpoint_every": NEVER, "learning_starts": min(2000, n // 4)}),
    "ppo": Budget("steps", 5000, 2048, 1, True,
                  lambda n: {"evaluate_every": -(-n // 4), "checkpoint_every": NEVER}),
    "ppo-fast": Budget("steps", 50_000, 245_760, 1, False, lambda n: {"evaluate_every": max(1, n // 245_760 // 4)}),
    "bdq": Budget("steps", 8000, 30_720, 1, True,
                  lambda n: {"evaluate_every": max(1, n // 15_360 // 4), "checkpoint_every": 1_000_000}),
    "apg": Budget("steps", 25, 8, 5760, False, lambda n: {"evaluate_every": -(-n // 4)}),
    "evolve": Budget("generations", 2.0, 2, 245_760, True, lambda n: {"evaluate_every": -(-n // 4)}),
}  # fmt: skip
"""What each learner of the benchmark may spend, in the order of the tables."""


def count(learner: str, seconds: float) -> int:
    """Return how long a learner learns with a budget of so many seconds, in its own count."""
    budget = BUDGETS[learner]
    return max(budget.least, round(budget.pace * seconds))


def config(learner: str, seconds: float) -> Any:
    """Return the settings of a learner with a budget of so many seconds."""
    budget, many = BUDGETS[learner], count(learner, seconds)
    module = import_module(f"rlscaler_training.{LEARNERS[learner][0]}")
    return hyper.read(module.Config, None, {budget.count: many} | budget.settings(many))


@dataclass(frozen=True, slots=True)
class Training:
    """What came of training. steps: of environments. seconds: of the wall. cpu: seconds of all threads."""

    artifact: Artifact
    steps: int
    seconds: float
    cpu: float


def trained(learner: str, seconds: float, pools: Pools, seed: int, folder: Path) -> Training:
    """Train a learner and keep its artifact and its metrics in the folder, from scratch whatever is there.

    Raises UserError where the learner fails.
    """
    module = import_module(f"rlscaler_training.{LEARNERS[learner][0]}")
    settings = config(learner, seconds)
    shutil.rmtree(folder, ignore_errors=True)
    run = runs.begin(folder, learner, settings, {"benchmark": True, "seed": seed})
    task = Task(learner, pools, run, device("cpu"), seed, loads.provenance(pools, seed))
    began, used = time.perf_counter(), time.process_time()
    try:
        outcome = module.learn(task, settings)
    finally:
        run.close()
    found = Training(outcome.artifact, outcome.steps, time.perf_counter() - began, time.process_time() - used)
    save(outcome.artifact, run.policy)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return found


def kept(folder: Path) -> Artifact:
    """Return the artifact that `trained` kept in the folder."""
    return load(folder / runs.POLICY)


# --- the same action, always


class Watched:
    """A learned policy that notes what it chooses, whatever kind of policy it is.

    The choice is told from the proposal: the change of replicas (`step`), or the correction of the cheapest headroom
    and the patience (`headroom`, `branching`). Where a bound forbids a choice nothing is noted.
    """

    def __init__(self, artifact: Artifact) -> None:
        """Watch the policy of an artifact."""
        self.policy: Policy = from_artifact(artifact)
        self.name = self.policy.name
        self.scheme: Scheme = scheme(artifact.manifest["action_scheme"])
        self.low, self.high = np.full(2, np.inf), np.full(2, -np.inf)
        self.noted = self.decisions = self.strange = 0

    def state(self, n: int) -> State:
        """Return the policy's own state."""
        return self.policy.state(n)

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return what the policy proposes."""
        proposal, after = self.policy.propose(view, state)
        self.decisions += len(view.demand)
        self.strange += 0 if proposal.trained is None else int(np.sum(~np.asarray(proposal.trained)))
        if self.constant is not None or not self.noted:
            self._note(view, proposal)
        return proposal, after

    def _note(self, view: View, proposal: Proposal) -> None:
        choices = np.zeros((len(view.demand), 2))
        if self.scheme.name == "step":
            choices[:, 0] = proposal.replicas - view.current
        else:
            backlog = np.nan_to_num(view.snapshot["backlog"] / (view.settings["capacity_per_replica"] * DRAIN))
            level = view.features["level"].astype(np.float64)
            with np.errstate(invalid="ignore", divide="ignore"):
                headroom = np.log((proposal.replicas - backlog + 0.5) / (level + 0.5))
            choices[:, 0] = headroom - view.features["trend_cheap"]
            choices[:, 1] = 0.0 if proposal.patience is None else proposal.patience
        free = self.scheme.mask(view).all(axis=1) & np.isfinite(choices).all(axis=1)
        if free.any():
            self.low = np.minimum(self.low, choices[free].min(axis=0))
            self.high = np.maximum(self.high, choices[free].max(axis=0))
            self.noted += int(free.sum())

    @property
    def outside(self) -> float:
        """Share of decisions on what lies outside of the training range, where the guard follows the rule instead."""
        return self.strange / max(1, self.decisions)

    @property
    def constant(self) -> str | None:
        """What was chosen every time, in words; None where choices differed, or nothing could be noted."""
        slack = 0.0 if self.scheme.name == "step" else QUANTUM + 1e-6  # headroom is rounded to the quantum
        if not self.noted or (self.high - self.low > (slack, 0.0)).any():
            return None
        middle = round(float(self.low[0] + self.high[0]) / 2.0, 2) + 0.0  # no -0.00
        if self.scheme.name == "step":
            return ("always remove", "always hold", "always add")[round(middle) + 1]
        held = "" if self.scheme.name == "headroom" else f", kept {self.low[1]:g} s"
        return f"always a correction of {middle:+.2f}{held}" if middle else f"never a correction{held}"
