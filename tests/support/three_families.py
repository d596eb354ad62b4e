"""Recorded load of three families, made up, for what leaves whole families out."""

from pathlib import Path

import numpy as np

from rlscaler_sim.trace import Trace

FAMILIES = ("alpha", "beta", "gamma")


def trace(name: str, seed: int, minutes: int) -> Trace:
    """Return minutes of a load that swings and jumps."""
    rng = np.random.default_rng(seed)
    swing = 1.0 + 0.4 * np.sin(np.arange(minutes) / (10.0 + 7.0 * seed))
    return Trace(name, 0.0, 60.0, 100.0 * swing * np.exp(np.cumsum(rng.normal(0.0, 0.02, minutes))))


def write_traces(folder: Path, minutes: int) -> Path:
    """Write one trace of each family into a folder, which is made, and return it."""
    folder.mkdir()
    for seed, name in enumerate(FAMILIES):
        rows = [f"{60 * t},{rate:.3f}" for t, rate in enumerate(trace(name, seed, minutes).rates)]
        (folder / f"{name}_60s.csv").write_text("\n".join(["t_s,rate", *rows]) + "\n")
    return folder
