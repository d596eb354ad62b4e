"""What is learned of a stated capacity on torch tensors equals what NumPy learns."""

from typing import Any

import numpy as np
import pytest

from rlscaler import Settings, Snapshot, overstated
from rlscaler.policy import View
from rlscaler.settings import compiled
from rlscaler.snapshot import cleaned

torch = pytest.importorskip("torch", reason="torch is not installed")
import array_api_compat.torch as xp_torch  # noqa: E402 - only where torch is installed

N, TICKS = 16, 80


def learned(xp: Any, convert: Any) -> np.ndarray:
    """Return the factor after each tick, (TICKS, N), of replicas that carry 40 to 120 % of what is stated."""
    carried = np.linspace(4.0, 12.0, N)
    counts = ["Completions" if row % 4 == 0 else "Arrivals" for row in range(N)]
    settings = {
        name: convert(array)
        for name, array in compiled(Settings(capacity_per_replica=10.0, load_counts=counts), N).items()
    }
    memory = {name: convert(array) for name, array in overstated.state(N).items()}
    rng, ready, queue, found = np.random.default_rng(4), np.full(N, 10.0), np.zeros(N), []
    for tick in range(TICKS):
        load = carried * ready * rng.uniform(0.6, 1.1, N)
        queue = np.maximum(0.0, queue + 15.0 * (load - carried * ready))
        use = np.where(rng.random(N) < 0.05, np.nan, np.minimum(1.0, load / (carried * ready)))
        snap = cleaned(xp, Snapshot(time=15.0 * tick, load=load, backlog=queue, utilization=use, ready=ready),
                       N, settings["interval"])  # fmt: skip
        view = View(xp=xp, settings=settings, snapshot=snap, features={},
                    demand=snap["load"] / settings["capacity_per_replica"], current=snap["ready"])  # fmt: skip
        overstated.recorded(xp, view, memory)
        found.append(np.asarray(overstated.factor(xp, memory)))
        ready = np.where(rng.random(N) < 0.1, ready + rng.integers(-1, 3, N), ready)
    return np.stack(found)


def test_torch_learns_as_numpy_does() -> None:
    one, two = learned(np, np.array), learned(xp_torch, lambda array: torch.from_numpy(np.array(array)))
    np.testing.assert_allclose(two, one, rtol=1e-9)
    assert one[-1, 0] == 2.0
    assert one[-1, -1] == 1.0
    assert ((one > 1.0) & (one < 2.0)).any()
