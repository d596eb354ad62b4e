"""An artifact from a checkpoint: what training would have ended with, had it ended there."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from rlscaler.artifact import Artifact
from rlscaler.errors import UserError
from rlscaler_training import checkpoints, finishing, hyper, preferences, runs
from rlscaler_training.asked import Asked, world_of
from rlscaler_training.commands import LEARNERS
from rlscaler_training.devices import Device
from rlscaler_training.learner import Task
from rlscaler_training.runs import Run


@dataclass(slots=True)
class Frozen(Run):
    """A run that stands at one of its checkpoints, and to which nothing is written."""

    at: Path = field(kw_only=True)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write nothing down."""

    def checkpoint(self, step: int, state: Mapping[str, Any], *, best: bool = False) -> None:
        """Keep nothing."""

    def restore(self, best: bool = False) -> dict[str, Any] | None:
        """Return the state of the checkpoint. Raises CheckpointError."""
        self.step, state = checkpoints.read(self.at)
        return state


def from_checkpoint(folder: str | Path, which: str = checkpoints.LATEST) -> tuple[Artifact, int]:
    """Return the artifact of a run's checkpoint (`best`, `latest` or a number of steps), and its steps.

    The learner itself makes it: it goes on from the checkpoint with no step left to do, and ends as it always ends. So
    of the policies up to then it is the one that validated best. Nothing in the folder changes. Raises UserError.
    """
    run = runs.opened(folder)
    if run.algorithm not in LEARNERS:
        raise UserError(f"{run.folder}: is a run of {run.algorithm!r}; expected one of {', '.join(LEARNERS)}")
    at = checkpoints.named(run.folder, which)
    step, state = checkpoints.read(at)
    if step == 0:
        raise UserError(f"{at}: is of step 0, before anything was learned; use a later one, which has the best policy "
                        "until then")  # fmt: skip
    module = import_module(f"rlscaler_training.{LEARNERS[run.algorithm][0]}")
    asked = Asked.of(run.arguments, run.folder)
    config = hyper.read(module.Config, None, run.settings)
    length = "steps" if hasattr(config, "steps") else "generations"
    world = world_of(asked)
    provenance = finishing.provenance(run, world)
    task = Task(
        name=asked.name,
        world=world,
        run=Frozen(run.folder, run.algorithm, run.settings, run.arguments, at=at),
        device=Device("cpu", ""),
        seed=asked.seed,
        provenance=provenance,
        preferences=preferences.of(asked.preferences),
    )
    try:
        config = module.as_trained(config, step, state) if hasattr(module, "as_trained") else config
        made = module.learn(task, replace(config, **{length: step})).artifact
    except UserError as error:
        raise UserError(f"{at}: cannot be exported: {error}") from error
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, AssertionError) as error:
        first = (str(error).strip().splitlines() or [""])[0][:160]
        raise UserError(f"{at}: does not fit a run of {run.algorithm} with the settings of {run.folder} "
                        f"({type(error).__name__}: {first}); use another checkpoint") from error  # fmt: skip
    stated = made.manifest["provenance"] | provenance | {"checkpoint": {"name": at.stem, "step": step}}
    if "settings" in stated:  # as the run was asked for, not as it was cut off here
        stated["settings"] = run.settings
    scores = made.manifest["scores"] | finishing.scores(world, made, asked.seed)
    scores |= finishing.agreed(world, made, asked.seed)
    return finishing.changed(made, provenance=stated, scores=scores), step
