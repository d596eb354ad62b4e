"""Capacity and start-up learned on torch tensors are those learned on NumPy arrays."""

import numpy as np
import pytest

from rlscaler import learning

torch = pytest.importorskip("torch", reason="torch is not installed")
import array_api_compat.torch as xp_torch  # noqa: E402 - only where torch is installed

N = 7


def test_torch_learns_as_numpy_does() -> None:
    rows, rng = np.arange(N), np.random.default_rng(0)
    state = learning.state(N)
    twin = {name: torch.asarray(array.copy()) for name, array in state.items()}
    orders = [np.full(N, 20.0)] * 5
    for tick in range(500):
        desired = orders[-1]
        if rng.random() < 0.1:
            desired = np.clip(desired + rng.integers(-5, 6, N), 1.0, 60.0)
        orders = [*orders[1:], desired]
        ready = np.minimum.reduce(orders)
        load = 200.0 * np.exp(0.3 * np.sin(tick / 30 + rows) + 0.05 * rng.standard_normal(N))
        use = np.where(rng.random(N) < 0.05, np.nan, load / (10.0 * ready))
        time = 1.7e9 + 15.0 * tick - np.where(rng.random(N) < 0.05, 15.0, 0.0)
        known = np.where(rng.random(N) < 0.1, np.nan, desired)
        readings = (rows, time, load, ready, desired - ready, known, use)
        learning.record(np, state, *readings)
        learning.record(xp_torch, twin, *(torch.asarray(a) for a in readings))
    assert np.isfinite(state["capacity/capacity"]).any()
    assert np.isfinite(state["startup/startup"]).all()
    for name, array in state.items():
        np.testing.assert_allclose(array, twin[name].numpy(), rtol=1e-5, err_msg=name)
