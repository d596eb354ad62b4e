"""The budget of an objective that is to be kept, on torch tensors, equals what NumPy makes of it."""

from typing import Any

import numpy as np
import pytest

from rlscaler import Objective, Settings, Snapshot, budget
from rlscaler.policy import View
from rlscaler.settings import compiled
from rlscaler.snapshot import cleaned

torch = pytest.importorskip("torch", reason="torch is not installed")
import array_api_compat.torch as xp_torch  # noqa: E402 - only where torch is installed

N, TICKS = 16, 80


def held(xp: Any, convert: Any) -> np.ndarray:
    """Return the replicas that are wanted after each tick, (TICKS, N), of workloads with more and less to spare."""
    windows = np.where(np.arange(N) % 5 == 0, np.inf, np.geomspace(3600.0, 604_800.0, N))
    stated = Settings(capacity_per_replica=10.0, lag=np.linspace(0.0, 90.0, N), objective=Objective(window=windows))
    settings = {name: convert(array) for name, array in compiled(stated, N).items()}
    memory = {name: convert(array) for name, array in budget.state(N).items()}
    rng, found = np.random.default_rng(4), []
    for tick in range(TICKS):
        load, ready = rng.uniform(60.0, 100.0, N), np.linspace(8.0, 16.0, N) + rng.integers(0, 2, N)
        ready, queue = (np.where(rng.random(N) < 0.1, np.nan, each) for each in (ready, rng.uniform(0.0, 50.0, N)))
        snap = cleaned(xp, Snapshot(time=15.0 * tick, load=load, backlog=queue, ready=ready), N, settings["interval"])
        view = View(xp=xp, settings=settings, snapshot=snap, features={},
                    demand=snap["load"] / settings["capacity_per_replica"], current=snap["ready"])  # fmt: skip
        budget.recorded(xp, view, memory, convert(np.ones(N)))
        times = budget.multiple(xp, memory, settings)
        found.append(np.asarray(budget.raised(xp, 1.2 * view.demand, 1.3 * view.demand, view.demand, times)))
    return np.stack(found)


def test_torch_holds_what_numpy_holds() -> None:
    one, two = held(np, np.array), held(xp_torch, lambda array: torch.from_numpy(np.array(array)))
    np.testing.assert_allclose(two, one, rtol=1e-6)
    assert np.ptp(one[-1]) > 1.0
