"""The decision on torch tensors equals the decision on NumPy arrays: one source, two libraries."""

from typing import Any

import numpy as np
import pytest

from rlscaler import Settings, Snapshot, features, guard, history
from rlscaler.action import BRANCHING, HEADROOM, STEP
from rlscaler.behavior import DEFAULT
from rlscaler.observation import observe
from rlscaler.policy import View
from rlscaler.rules.growth import Growth
from rlscaler.settings import compiled
from rlscaler.snapshot import cleaned

torch = pytest.importorskip("torch", reason="torch is not installed")
import array_api_compat.torch as xp_torch  # noqa: E402 - only where torch is installed

N, TICKS = 6, 60


def decided(xp: Any, convert: Any, behavior: Any) -> list[dict[str, np.ndarray]]:
    """Run history, features, observation, schemes, rule and guard for some ticks; return what each tick gave."""
    about = compiled(Settings(capacity_per_replica=10.0, behavior=behavior), N)
    states = [history.state(N), guard.state(about, N)]
    past, memory = ({name: convert(array) for name, array in state.items()} for state in states)
    settings = {name: convert(array) for name, array in about.items()}
    rows = convert(np.arange(N))
    rng = np.random.default_rng(3)
    current = np.full(N, 12.0)
    found = []
    for tick in range(TICKS):
        load = 100 * np.exp(0.4 * rng.standard_normal(N))
        load[rng.random(N) < 0.05] = np.nan
        snap = cleaned(xp, Snapshot(time=15.0 * tick, load=load, backlog=rng.gamma(1.0, 3.0, N), ready=current - 1,
                                    starting=1, desired=current), N, rows)  # fmt: skip
        history.record(xp, past, rows, snap["time"], snap["load"], settings, 15.0)
        told = features.features(xp, past, rows, snap["time"], settings, 15.0)
        view = View(xp=xp, settings=settings, snapshot=snap, features=told,
                    demand=snap["load"] / settings["capacity_per_replica"], current=snap["desired"])  # fmt: skip
        proposal, _ = Growth().propose(view, {})
        replicas, bits, memory = guard.settle(xp, view, memory, proposal, proposal.replicas)
        both = convert(np.stack([np.arange(N) % 11, np.arange(N) % 5], axis=1))
        found.append({
            "observation": np.asarray(observe(view)),
            "proposal": np.asarray(proposal.replicas),
            "replicas": np.asarray(replicas),
            "reasons": np.asarray(bits),
            "mask": np.asarray(HEADROOM.mask(view)),
            "steps": np.asarray(STEP.mask(view)),
            "headroom": np.asarray(HEADROOM.propose(view, both[:, 0]).replicas),
            "branching": np.asarray(BRANCHING.propose(view, both).replicas),
        })  # fmt: skip
        current = np.where(np.isnan(found[-1]["replicas"]), current, found[-1]["replicas"]).astype(float)
    return found


@pytest.mark.parametrize("behavior", [None, DEFAULT], ids=["no behavior", "default behavior"])
def test_torch_decides_as_numpy_does(behavior: Any) -> None:
    one = decided(np, np.array, behavior)
    two = decided(xp_torch, lambda array: torch.from_numpy(np.array(array)), behavior)
    for tick, (a, b) in enumerate(zip(one, two, strict=True)):
        for name in a:
            np.testing.assert_allclose(b[name], a[name], rtol=2e-4, atol=2e-4, err_msg=f"{name} at tick {tick}")
