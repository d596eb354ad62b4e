"""What every learner is given and gives back, and the life of a run around it.

A learner is a module with `Config` (see `hyper`) and `learn(task, config) -> Outcome`. It logs to `task.run`, keeps
checkpoints there, goes on from `task.run.restore()` where there is one, and ends early, after a checkpoint, when
`task.stop()` says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rlscaler.action import CORRECTIONS, HOLD, PATIENCES
from rlscaler.artifact import Artifact
from rlscaler.errors import UserError
from rlscaler.policies import from_artifact
from rlscaler.policy import Policy
from rlscaler_sim.batch import Batch
from rlscaler_training.devices import Device
from rlscaler_training.legacy import ID, Legacy
from rlscaler_training.loads import Pools
from rlscaler_training.parallel import ALONE, Parallel
from rlscaler_training.runs import Run

if TYPE_CHECKING:
    from rlscaler_training.preferences import Preferences
    from rlscaler_training.remote_rollouts import Workers


class StoppedError(Exception):
    """The learner ended early because it was asked to; its last checkpoint says how far it came."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What is told on the way: steps done of how many (in the learner's own unit), and what was measured last.

    numbers: such as score, cost, late, loss; shown in their order.
    """

    step: int
    steps: int
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Task:
    """What a learner works on.

    world: what is trained and validated on. report: takes each Progress. stop: whether to end now. provenance: for the
    artifact. name: of the policy. preferences: what people said of pairs of episodes, None where nobody was asked.
    workers: who steps the environments, None where this process does. parallel: the processes that train together.
    """

    name: str
    world: Pools | Legacy
    run: Run
    device: Device
    seed: int
    provenance: dict[str, Any]
    report: Callable[[Progress], None] = lambda _: None
    stop: Callable[[], bool] = lambda: False
    preferences: "Preferences | None" = None
    workers: "Workers | None" = None
    parallel: Parallel = ALONE

    @property
    def pools(self) -> Pools:
        """What is trained and validated on. Raises UserError in the environment of earlier work, which has no load."""
        if isinstance(self.world, Legacy):
            raise UserError(f"{self.run.algorithm} cannot learn in the environment {ID}; expected another learner")
        return self.world


@dataclass(frozen=True, slots=True)
class Outcome:
    """artifact: what was learned, the best of it by validation. steps: environment steps that it took."""

    artifact: Artifact
    steps: int


@dataclass(frozen=True, slots=True)
class Score:
    """J = cost + late of a policy in an environment of recorded or drawn load: billed over needed, and price x late."""

    cost: float
    late: float

    @property
    def total(self) -> float:
        """J."""
        return self.cost + self.late


def scored(batch: Batch, policy: Policy | Artifact, steps: int, seed: int) -> Score:
    """Return the score of a policy over so many steps of a batch's environments, through the decision itself.

    What a learner trains and what the cluster runs are scored alike: the policy's own `propose`, then the guard.
    """
    policy = from_artifact(policy) if isinstance(policy, Artifact) else policy
    batch.reset(seed)
    memory = policy.state(batch.n)
    cost = late = 0.0
    for _ in range(steps):
        proposal, memory = policy.propose(batch.view, memory)
        done = batch.advance(batch.scaler.settle(batch.view, proposal))
        cost += float(done.cost.mean()) / steps
        late += float(done.late.mean()) / steps
    return Score(cost, late)


def untrained(batch: Batch, steps: int, seed: int) -> Score:
    """Return the score of the rule that learned policies correct: the cheapest headroom of the own growth."""
    batch.reset(seed)
    # no correction, and of several patiences the one that `headroom` has
    action = np.tile([CORRECTIONS.index(0.0), PATIENCES.index(HOLD)][: len(batch.scheme.branches)], (batch.n, 1))
    action = action if len(batch.scheme.branches) > 1 else action[:, 0]
    cost = late = 0.0
    for _ in range(steps):
        done = batch.step(action)
        cost += float(done.cost.mean()) / steps
        late += float(done.late.mean()) / steps
    return Score(cost, late)
