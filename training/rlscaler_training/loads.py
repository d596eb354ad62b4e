"""Load to train and to validate on: never the same, and for recorded load never of the same source."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch

from rlscaler import Autoscaler, Settings
from rlscaler.action import Scheme, scheme
from rlscaler.cli import version_of
from rlscaler.errors import UserError
from rlscaler_sim.batch import Batch, Transition
from rlscaler_sim.chance import NumpyChance
from rlscaler_sim.load import LoadError, generator
from rlscaler_sim.patterns import PatternError
from rlscaler_sim.pool import Pool, prepare
from rlscaler_sim.scenarios import Scenario, ScenarioError
from rlscaler_sim.trace import TraceError
from rlscaler_sim.world import WorldConfig
from rlscaler_training import splits, worlds
from rlscaler_training.inputs import STANDARD, Inputs, learnable
from rlscaler_training.legacy import Legacy, LegacyBatch
from rlscaler_training.worlds import Ranges, World

SCALER_PARTS = ("guard", "policy", "rule")
"""What the autoscaler of environments remembers: all but the load's history, which the pool has."""
COLD = 0.1
"""Share of the training's episodes that start in a load's first hour: rare in a cluster, and then all the history says.
Not tuned."""
VALIDATION_ENVS = 64
VALIDATION_SEED = 7_000
ELSEWHERE, ELSEWHERE_SEED = 16, 11_000
"""Randomised worlds that are validated in, and their seed: the same whatever the seed of a training."""
_STREAM = 0x776F726C
Drawn = tuple[World, str, int]
"""A world, and the name and the seed that the noise of its load follows from."""


class Environments(Protocol):
    """What is learned in; `Batch` is one. n: environments. scheme: of the actions."""

    n: int
    scheme: Scheme

    def reset(self, seed: int) -> Any:
        """Start anew and return the observation (N, F)."""
        ...

    def mask(self) -> Any:
        """Return the allowed choices of the first branch, (N, choices) bool."""
        ...

    def step(self, actions: Any) -> Transition:
        """Take the actions, (N,) or (N, branches)."""
        ...


@dataclass(frozen=True, slots=True)
class Pools:
    """What is trained and what is validated on.

    config, settings: the world of the validation, the standard one but for what scenarios state; each pool has its own.
    elsewhere: validation load in randomised worlds, where these are trained in. ranges: what those were drawn from.
    told: lines about what was chosen.
    """

    train: Pool
    validation: Pool
    config: WorldConfig
    settings: Settings
    trained_on: tuple[str, ...]
    validated_on: tuple[str, ...]
    inputs: Inputs = STANDARD
    elsewhere: Pool | None = None
    ranges: Ranges | None = None
    told: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the observation that networks learn from (see `inputs.learnable`)."""
        return learnable(self.train.steps * self.train.interval)

    @property
    def known(self) -> tuple[Pool, ...]:
        """The load that a policy was trained on, or shown to be good on: where it may decide (`with_extremes`)."""
        return (self.train, self.validation, *(() if self.elsewhere is None else (self.elsewhere,)))


def pools(
    names: Sequence[str],
    folder: str | None,
    hours: float,
    seed: int,
    ranges: Ranges | None = None,
    validate: Sequence[str] = (),
) -> Pools:
    """Return training and validation load: other draws of the same scenarios, or other families of traces.

    ranges: of randomised worlds to train in beside the standard one (None: in that alone). validate: families of
    traces to validate on (none: every third). Deterministic with the arguments. Raises UserError.
    """
    if names and folder:
        raise UserError("--scenario and --traces are both given; expected one of them")
    if validate and not folder:
        raise UserError("--validate is given without --traces; expected the folder of traces whose families it names")
    try:
        split = splits.recorded(folder, validate) if folder else splits.named(names)
        train = [(worlds.stated(each), each.name, seed + k) for each in split.train for k in range(split.draws)]
        validation = [(worlds.stated(each), each.name, seed + VALIDATION_SEED) for each in split.validation]
        told, elsewhere = split.told, None
        if ranges is not None:
            count = ranges.worlds
            told += (f"worlds: {count} randomised ones beside {len(train)} of level 0; all are open after "
                     f"{ranges.rise:.0%} of the training",)  # fmt: skip
            train += _randomised(split.train, ranges, [((k + 1) / count) ** 0.5 for k in range(count)], seed)
            varied = _randomised(split.validation, ranges, [1.0] * ELSEWHERE, ELSEWHERE_SEED)
            elsewhere = _prepared(varied, hours, ELSEWHERE_SEED)
        trained = _prepared(train, hours, seed, ranges.rise if ranges is not None else 0.0, COLD)
        validated = _prepared(validation, hours, seed + VALIDATION_SEED)
    except (TraceError, LoadError, ScenarioError, PatternError) as error:
        raise UserError(str(error)) from error
    return Pools(
        train=trained,
        validation=validated,
        config=validated.config,
        settings=validated.settings,
        trained_on=tuple(dict.fromkeys(world.scenario.source.name for world, _, _ in train)),
        validated_on=tuple(dict.fromkeys(world.scenario.source.name for world, _, _ in validation)),
        elsewhere=elsewhere,
        ranges=ranges,
        told=told,
    )


def _randomised(known: Sequence[Scenario], ranges: Ranges, levels: Sequence[float], seed: int) -> list[Drawn]:
    """Return a world of each level, each from a generator of its own."""
    found = []
    for number, level in enumerate(levels):
        rng = np.random.default_rng([_STREAM, seed, number])
        found.append((worlds.drawn(rng, level, known, ranges), f"world {number}", seed))
    return found


def _prepared(drawn: Sequence[Drawn], hours: float, seed: int, rise: float = 0.0, cold: float = 0.0) -> Pool:
    """Return the pool of the loads of these worlds."""
    loads = [worlds.load(world, hours * 3600.0, generator(name, at)) for world, name, at in drawn]
    config, settings = worlds.conditions([world for world, _, _ in drawn])
    levels = [world.level for world, _, _ in drawn]
    return prepare(loads, config, settings, seed, levels=levels, rise=rise, cold=cold)


def batches(
    found: Pools, actions: str, envs: int, episode: int, seed: int, part: tuple[int, int] | None = None
) -> tuple[Batch, Batch, Batch]:
    """Return environments to train in, their twins (the same load at the same moments), and those to validate in.

    part: see `Batch`; of those to train in.
    """
    choice, train, validation = scheme(actions), found.train, found.validation
    judged = seed + VALIDATION_SEED
    return (
        Batch(train, train.config, train.settings, choice, envs, episode, seed, part=part),
        Batch(train, train.config, train.settings, choice, envs, episode, seed, part=part),
        Batch(validation, validation.config, validation.settings, choice, VALIDATION_ENVS, episode, judged),
    )


def elsewhere(found: Pools | Legacy, actions: str, episode: int, like: Any = None) -> Batch | None:
    """Return environments to validate in, in randomised worlds; None where these are not trained in."""
    if isinstance(found, Legacy) or (pool := found.elsewhere) is None:
        return None
    return Batch(pool, pool.config, pool.settings, scheme(actions), VALIDATION_ENVS, episode, ELSEWHERE_SEED, like)


def progressed(share: float, *told: Environments | None) -> None:
    """Tell environments how much of the training is done, which opens worlds for their next episodes (None: none)."""
    for each in told:
        if isinstance(each, Batch):
            each.progress = share


def environments(
    found: Pools | Legacy, actions: str, envs: int, episode: int, seed: int
) -> tuple[Environments, Environments | None, Environments]:
    """Return environments to train in, their twins where they have any, and those to validate in."""
    if isinstance(found, Legacy):
        return found.batches(envs, episode)
    return batches(found, actions, envs, episode, seed)


def kept(batch: Environments) -> dict[str, Any]:
    """Return all that the next steps of environments on NumPy depend on, for a checkpoint (see `put_back`)."""
    if isinstance(batch, LegacyBatch):
        stands: dict[str, Any] = tensors(batch.kept())
        return stands
    assert isinstance(batch, Batch)
    assert isinstance(batch.chance, NumpyChance)
    assert isinstance(batch.scaler, Autoscaler)
    held = {"random": json.dumps(batch.chance.rng.bit_generator.state), "world": batch.state}
    held |= {"load": batch.load, "at": batch.at, "age": batch.age}
    copied: dict[str, Any] = tensors(held | {"scaler": batch.scaler.memory(np.arange(batch.n), SCALER_PARTS)})
    return copied


def put_back(batch: Environments, held: Mapping[str, Any]) -> np.ndarray:
    """Let environments on NumPy go on from where those of a checkpoint stood, to the bit; return their observation.

    batch: made as the other was. Raises UserError where it was not.
    """
    if isinstance(batch, LegacyBatch):
        return batch.put_back(arrays(dict(held)))
    assert isinstance(batch, Batch)
    assert isinstance(batch.chance, NumpyChance)
    assert isinstance(batch.scaler, Autoscaler)
    found = arrays(dict(held))
    if found["load"].shape != (batch.n,):
        raise UserError(f"the checkpoint is of {len(found['load'])} environments; expected {batch.n}")
    batch.load, batch.at, batch.age, batch.state = (found[name] for name in ("load", "at", "age", "world"))
    batch.enter()
    batch.scaler.recall(np.arange(batch.n), found["scaler"])
    batch.chance.rng.bit_generator.state = json.loads(found["random"])
    observation: np.ndarray = batch._look()
    batch.last_view = batch.view
    return observation


def tensors(tree: Any) -> Any:
    """Return a tree of dicts and lists with its NumPy arrays as tensors, which is what a checkpoint may hold."""
    if isinstance(tree, dict):
        return {name: tensors(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [tensors(value) for value in tree]
    return torch.from_numpy(np.array(tree)) if isinstance(tree, np.ndarray) else tree


def arrays(tree: Any) -> Any:
    """Return the tree that `tensors` was given, lists for tuples."""
    if isinstance(tree, dict):
        return {name: arrays(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [arrays(value) for value in tree]
    return tree.numpy().copy() if isinstance(tree, torch.Tensor) else tree


def provenance(found: Pools | Legacy, seed: int) -> dict[str, Any]:
    """Return what is needed to train the same again."""
    if isinstance(found, Legacy):
        return found.provenance()
    return {
        "seed": seed,
        "version": version_of("rlscaler"),
        "trained_on": list(found.trained_on),
        "validated_on": list(found.validated_on),
        "worlds": "standard" if found.ranges is None else asdict(found.ranges),
    }
