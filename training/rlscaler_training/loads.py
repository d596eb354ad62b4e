"""Load to train and to validate on: never the same, and for recorded load never of the same source."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlscaler import Autoscaler, Settings
from rlscaler.action import scheme
from rlscaler.cli import version_of
from rlscaler.errors import UserError
from rlscaler_sim import scenarios
from rlscaler_sim.batch import Batch
from rlscaler_sim.chance import NumpyChance
from rlscaler_sim.contenders import standard_settings
from rlscaler_sim.evaluation import standard_world
from rlscaler_sim.load import Load, LoadError, generator, realise
from rlscaler_sim.patterns import PatternError
from rlscaler_sim.pool import Pool, prepare
from rlscaler_sim.scenarios import ScenarioError
from rlscaler_sim.trace import TraceError, events_per_bucket, family, read_trace, trace_files
from rlscaler_sim.world import WorldConfig

USUAL = ("working-day", "sinusoidal", "random-walk", "spike", "level-shift", "on-off", "ramp", "flash-crowd")
"""Scenarios that are trained on where none is named."""
SCALER_PARTS = ("guard", "policy", "rule")
"""What the autoscaler of environments remembers: all but the load's history, which the pool has."""
VALIDATION_ENVS = 64
VALIDATION_SEED = 7_000


@dataclass(frozen=True, slots=True)
class Pools:
    """What is trained and what is validated on."""

    train: Pool
    validation: Pool
    config: WorldConfig
    settings: Settings
    trained_on: tuple[str, ...]
    validated_on: tuple[str, ...]


def pools(names: Sequence[str], folder: str | None, hours: float, seed: int) -> Pools:
    """Return training and validation load: other draws of the same scenarios, or other families of traces.

    Raises UserError.
    """
    if names and folder:
        raise UserError("--scenario and --traces are both given; expected one of them")
    settings = standard_settings()
    config = standard_world(settings)
    seconds = hours * 3600.0
    try:
        if folder:
            traces = [t for t in (read_trace(f) for f in trace_files(Path(folder))) if events_per_bucket(t) >= 1.0]
            families = sorted({family(t.name) for t in traces})
            kept = set(families[::3])
            if len(families) < 2:
                raise UserError(
                    f"{folder}: holds {len(families)} source families; expected at least 2, one to validate on"
                )

            def drawn(trace: Any, at: int) -> Load:
                return realise(trace, duration=seconds, rng=generator(trace.name, at))

            train = [drawn(t, seed) for t in traces if family(t.name) not in kept]
            validation = [drawn(t, seed + VALIDATION_SEED) for t in traces if family(t.name) in kept]
        else:
            found = [scenarios.get(name) for name in (names or USUAL)]
            if varied := [s.name for s in found if s.world]:
                raise UserError(
                    f"--scenario {varied[0]}: is a variant of the world; expected a load, since policies are trained "
                    "in the standard world"
                )
            if recorded := [s.name for s in found if isinstance(s.load, Path)]:
                raise UserError(
                    f"--scenario {recorded[0]}: is recorded load; name its folder by --traces, so that whole sources "
                    "are kept for validation"
                )

            def made(s: scenarios.Scenario, at: int) -> Load:
                return realise(s.source, duration=min(seconds, s.duration), rng=generator(s.name, at))

            train = [made(s, seed + k) for s in found for k in range(2)]
            validation = [made(s, seed + VALIDATION_SEED) for s in found]
    except (TraceError, LoadError, ScenarioError, PatternError) as error:
        raise UserError(str(error)) from error
    return Pools(
        train=prepare(train, config, settings, seed),
        validation=prepare(validation, config, settings, seed + VALIDATION_SEED),
        config=config,
        settings=settings,
        trained_on=tuple(dict.fromkeys(load.name for load in train)),
        validated_on=tuple(dict.fromkeys(load.name for load in validation)),
    )


def batches(found: Pools, actions: str, envs: int, episode: int, seed: int) -> tuple[Batch, Batch, Batch]:
    """Return environments to train in, their twins (the same load at the same moments), and those to validate in."""
    choice = scheme(actions)
    return (
        Batch(found.train, found.config, found.settings, choice, envs, episode, seed),
        Batch(found.train, found.config, found.settings, choice, envs, episode, seed),
        Batch(found.validation, found.config, found.settings, choice, VALIDATION_ENVS, episode, seed + VALIDATION_SEED),
    )


def kept(batch: Batch) -> dict[str, Any]:
    """Return all that the next steps of environments on NumPy depend on, for a checkpoint (see `put_back`)."""
    assert isinstance(batch.chance, NumpyChance)
    assert isinstance(batch.scaler, Autoscaler)
    held = {"random": json.dumps(batch.chance.rng.bit_generator.state), "world": batch.state}
    held |= {"load": batch.load, "at": batch.at, "age": batch.age}
    copied: dict[str, Any] = tensors(held | {"scaler": batch.scaler.memory(np.arange(batch.n), SCALER_PARTS)})
    return copied


def put_back(batch: Batch, held: Mapping[str, Any]) -> np.ndarray:
    """Let environments on NumPy go on from where those of a checkpoint stood, to the bit; return their observation.

    batch: made as the other was. Raises UserError where it was not.
    """
    assert isinstance(batch.chance, NumpyChance)
    assert isinstance(batch.scaler, Autoscaler)
    found = arrays(dict(held))
    if found["load"].shape != (batch.n,):
        raise UserError(f"the checkpoint is of {len(found['load'])} environments; expected {batch.n}")
    batch.scaler.recall(np.arange(batch.n), found["scaler"])
    batch.chance.rng.bit_generator.state = json.loads(found["random"])
    batch.load, batch.at, batch.age, batch.state = (found[name] for name in ("load", "at", "age", "world"))
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


def provenance(found: Pools, seed: int) -> dict[str, Any]:
    """Return what is needed to train the same again."""
    return {
        "seed": seed,
        "version": version_of("rlscaler"),
        "trained_on": list(found.trained_on),
        "validated_on": list(found.validated_on),
    }
