"""What a training is asked for beside its learner's settings: kept in its run's folder, and made into its world.

Said once, so that training, a sweep, an export and `rlscaler verify` mean the same by it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlscaler.errors import UserError

if TYPE_CHECKING:
    from rlscaler_training.legacy import Legacy
    from rlscaler_training.loads import Pools
    from rlscaler_training.runs import Run

STANDARD, LEGACY = "standard", "legacy"
"""The worlds that can be learned in: this package's own, and the environment of earlier work."""
RANDOMISED = "randomised"
"""The name of worlds around the standard one, see `worlds`."""
ROOT = "runs"
"""Where runs go that no folder is named for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What every learner is told beside its settings; it is kept in the run's folder."""

    scenarios: tuple[str, ...]
    traces: str | None
    hours: float
    seed: int
    name: str
    decisions: tuple[str, ...] = ()
    environment: str = STANDARD
    validate: tuple[str, ...] = ()
    worlds: dict[str, Any] | None = None
    preferences: dict[str, Any] | None = None
    workers: dict[str, Any] | None = None

    @classmethod
    def of(cls, arguments: dict[str, Any], where: Path) -> "Asked":
        """Return what a run was told. Raises UserError where its folder says nothing of it."""
        try:
            lists = {name: tuple(arguments[name]) for name in ("scenarios", "decisions")}
            lists["validate"] = tuple(arguments.get("validate", ()))
            return cls(**{**arguments, **lists})
        except (KeyError, TypeError) as error:
            raise UserError(f"{where}: arguments are not those of 'rlscaler train': {error}") from error


def world_of(asked: Asked) -> "Pools | Legacy":
    """Return what is trained and validated on. Raises UserError."""
    from rlscaler_training import hyper, loads, worlds
    from rlscaler_training.legacy import Legacy

    if asked.environment == LEGACY:
        return Legacy(asked.seed)
    ranges = None if asked.worlds is None else worlds.checked(hyper.read(worlds.Ranges, None, asked.worlds))
    return loads.pools(asked.scenarios, asked.traces, asked.hours, asked.seed, ranges, asked.validate)


def ranges(name: str) -> dict[str, Any] | None:
    """Return what randomised worlds are drawn from, None for the standard world. Raises UserError."""
    from rlscaler_training.worlds import Ranges, read

    if name == STANDARD:
        return None
    if name == RANDOMISED:
        return asdict(Ranges())
    if not name.endswith(".json"):
        raise UserError(f"--worlds {name}: expected {STANDARD}, {RANDOMISED}, or a FILE.json with ranges")
    return asdict(read(name))


def begun(learner: str, config: Any, asked: Asked, folder: str | None, device: str) -> "Run":
    """Return a new run, in the folder or in the first free one of the policy's name."""
    from rlscaler_training import runs

    lists = {name: list(getattr(asked, name)) for name in ("scenarios", "decisions", "validate")}
    arguments = {**asdict(asked), **lists}
    if folder is not None:
        return runs.begin(folder, learner, config, arguments, device)
    return runs.begin(free_folder(asked.name), learner, config, arguments, device)


def free_folder(name: str) -> Path:
    """Return the first folder of a policy's name that is not there yet."""
    number = 1
    while (path := Path(ROOT, f"{name}-{number}")).exists():
        number += 1
    return path
