"""Capacity and start-up learned on torch tensors are those learned on NumPy arrays."""

import numpy as np
import pytest

from rlscaler import capacity, startup

torch = pytest.importorskip("torch", reason="torch is not installed")
import array_api_compat.torch as xp_torch  # noqa: E402 - only where torch is installed

N = 7


def test_torch_learns_as_numpy_does() -> None:
    rows, rng = np.arange(N), np.random.default_rng(0)
    learned = (capacity.state(N), startup.state(N))
    twins = tuple({name: torch.asarray(array.copy()) for name, array in state.items()} for state in learned)
    orders = [np.full(N, 20.0)] * 5
    for tick in range(500):
        desired = orders[-1]
        if rng.random() < 0.1:
            desired = np.clip(desired + rng.integers(-5, 6, N), 1.0, 60.0)
        orders = [*orders[1:], desired]
        ready = np.minimum.reduce(orders)
        load = 200.0 * np.exp(0.3 * np.sin(tick / 30 + rows) + 0.05 * rng.standard_normal(N))
        use = np.where(rng.random(N) < 0.05, np.nan, load / (10.0 * ready))
        time = np.full(N, 1.7e9 + 15.0 * tick)
        capacity.record(np, learned[0], rows, time, load, ready, use)
        capacity.record(xp_torch, twins[0], *(torch.asarray(a) for a in (rows, time, load, ready, use)))
        startup.record(np, learned[1], rows, time, desired, ready)
        startup.record(xp_torch, twins[1], *(torch.asarray(a) for a in (rows, time, desired, ready)))
    assert np.isfinite(learned[0]["capacity"]).any()
    assert np.isfinite(learned[1]["startup"]).all()
    for state, twin in zip(learned, twins, strict=True):
        for name, array in state.items():
            np.testing.assert_allclose(array, twin[name].numpy(), rtol=1e-5, err_msg=name)
