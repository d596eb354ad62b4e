"""What is told of a run: the world's parameters, what happened step by step, and every decision."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from rlscaler import Settings
from rlscaler.files import write_text_atomically
from rlscaler.quantities import duration_text
from rlscaler_sim import world
from rlscaler_sim.result import DecisionLog, Series
from rlscaler_sim.totals import Traced
from rlscaler_sim.verdict import seconds


def proven(config: world.WorldConfig) -> bool:
    """Return whether the bound holds in this world: it takes start-up for certain and pods for immortal."""
    return not any(np.any(np.asarray(getattr(config, name)) > 0)
                   for name in ("startup_spread", "startup_jitter", "crash_rate", "node_pods"))  # fmt: skip


def described(config: world.WorldConfig, settings: Settings, scale_to: float | None, seed: int) -> dict[str, Any]:
    """Return the world's parameters and what of the run matters for making it again, as plain values."""
    facts, window = asdict(config), float(settings.objective.window)
    over = f" over {duration_text(window)}" if np.isfinite(window) else ""
    facts |= {"min_replicas": int(settings.min_replicas), "max_replicas": int(settings.max_replicas),
              "scale_to": scale_to, "seed": seed, "price": float(settings.objective.price),
              "objective": f"{float(settings.objective.target):g} % within "
              f"{seconds(float(settings.objective.latency))}{over}",
              "late_allowed": 1.0 - float(settings.objective.target) / 100.0}  # fmt: skip
    return facts


def series(traced: Traced, capacity: float) -> Series:
    """Return what happened step by step."""
    load = np.array(traced.load)
    # as the score counts them: nothing in a gap, and no ratio to needs that there were none of yet
    billed, needed = (
        np.cumsum(np.where(traced.known, traced.array(name), 0.0), axis=1, dtype=np.float64)
        for name in ("billed", "needed")
    )
    cost = np.full(billed.shape, np.nan)
    np.divide(billed, needed, out=cost, where=needed > 0.0)
    return Series(
        time=np.array(traced.time),
        load=load,
        demand=load / capacity,
        known=np.array(traced.known),
        replicas=traced.array("replicas"),
        ready=traced.array("ready"),
        violations=traced.array("violations"),
        backlog=traced.array("backlog"),
        cost=cost,
    )


def log(traced: Traced) -> DecisionLog:
    """Return the decisions of the policy under test as columns."""

    def column(key: str) -> np.ndarray:
        return np.array([np.nan if d[key] is None else d[key] for d in traced.decisions], np.float64)

    return DecisionLog(
        time=column("time"),
        demand=column("demand"),
        recommendation=column("recommendation"),
        proposal=column("proposal"),
        replicas=column("replicas"),
        reasons=[d["reasons"] for d in traced.decisions],
        sentence=[d["sentence"] for d in traced.decisions],
    )


def write_decisions(path: str, decisions: Sequence[dict[str, Any]]) -> None:
    """Write one JSON object a line for each decision, its observation by name of field.

    Raises UserError where the file cannot be written.
    """
    write_text_atomically(path, "".join(json.dumps(d) + "\n" for d in decisions))
