"""The world is one source for NumPy and torch: the same draws give the same steps."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from rlscaler_sim.world import WorldConfig, compiled, draws, initial, modulated, readings, replaced, step

torch = pytest.importorskip("torch")

N = 48
CONFIGS = {
    "standard": WorldConfig(),
    "everything": WorldConfig(
        concurrency=4,
        startup=45.0,
        startup_spread=0.3,
        startup_jitter=0.2,
        drain=40.0,
        lag=np.repeat([0.0, 30.0], N // 2),
        window=30.0,
        completions=np.repeat([False, True], N // 2),
        crash_rate=3.0,
        gap_rate=5.0,
        node_pods=5,
        node_startup=60.0,
        max_nodes=8,
    ),
}

TAILS = ("late", "late_over", "latency")
"""Fields that an exponential makes of others: it multiplies the last bits' difference by its exponent."""


def agree(left: Any, right: Any, size: np.ndarray, what: str) -> None:
    """Compare the fields of two outcomes or readings, to 1e-5 of the value and of the requests in play, `size` (N,)."""
    for field in fields(left):
        one, other = getattr(left, field.name), getattr(right, field.name)
        if not isinstance(one, np.ndarray):
            assert one == other or one != one
            continue
        assert isinstance(other, torch.Tensor), f"{what}: {field.name} left torch"
        assert str(other.dtype) == f"torch.{one.dtype}", f"{what}: {field.name} is of another type"
        same = np.isnan(one) == np.isnan(other.numpy())
        assert same.all(), f"{what}: {field.name} is unknown in one of them only"
        scale = 15.0 * size if field.name == "wait_seconds" else size
        off = np.nan_to_num(np.abs(other.numpy() - one)) / (np.nan_to_num(np.abs(one)) + scale)
        assert off.max() < (3e-5 if field.name in TAILS else 1e-5), f"{what}: {field.name} is off by {off.max():.1e}"


@pytest.mark.parametrize("name", CONFIGS)
def test_two_hundred_steps_agree(name: str) -> None:
    rng = np.random.default_rng(1)
    ours = compiled(CONFIGS[name], N, wait_edges=(0.1, 2.0))
    theirs = compiled(CONFIGS[name], N, like=torch.zeros(1), wait_edges=(0.1, 2.0))
    base = rng.uniform(20.0, 300.0, N)
    state = initial(ours, np.ceil(base / 8.0))
    other = initial(theirs, torch.as_tensor(np.ceil(base / 8.0)))
    for now in range(200):
        wave = 1.0 + 0.5 * np.sin(now / 10.0 + np.arange(N))
        rates = (base * wave * rng.uniform(0.95, 1.05, (ours.ticks, N))).astype(np.float32)
        orders = np.round(base * (1.0 + 0.5 * np.sin(now / 10.0 - 0.4 + np.arange(N))) / 8.0)
        known = rng.random(N) > 0.05
        drawn = draws(ours, rng)
        state, outcome = step(ours, state, orders, rates, drawn, known)
        as_torch = {key: torch.as_tensor(value) for key, value in drawn.items()}
        other, found = step(
            theirs, other, torch.as_tensor(orders), torch.as_tensor(rates), as_torch, torch.as_tensor(known)
        )
        agree(outcome, found, outcome.arrivals + outcome.backlog, f"step {now}")
        agree(readings(ours, state, 0.0, known), readings(theirs, other, 0.0, torch.as_tensor(known)),
              outcome.arrivals, f"readings {now}")  # fmt: skip
    assert set(state) == set(other)


def test_draws_are_the_same_numbers() -> None:
    ours, theirs = compiled(CONFIGS["everything"], N), compiled(CONFIGS["everything"], N, like=torch.zeros(1))
    one, other = (draws(params, np.random.default_rng(5)) for params in (ours, theirs))
    assert set(one) == set(other)
    for name, value in other.items():
        assert isinstance(value, torch.Tensor), name
        np.testing.assert_array_equal(value.numpy(), one[name], err_msg=name)
    assert isinstance(modulated(theirs, torch.ones(N), other), torch.Tensor)


def test_rows_can_be_replaced() -> None:
    params = compiled(WorldConfig(), 4, like=torch.zeros(1))
    state = initial(params, 3)
    mixed = replaced(params, state, initial(params, 8), torch.as_tensor([1, 3]))
    assert mixed["desired"].tolist() == [3, 8, 3, 8]
    assert state["desired"].tolist() == [3, 3, 3, 3]
