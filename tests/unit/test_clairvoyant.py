"""The clairvoyant plan is near the best orders of all, and nothing that the world allows is below its bound."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from rlscaler_sim import clairvoyant, world

F = np.float32


@dataclass(frozen=True)
class Case:
    """One load in one world: rates (T, K) requests/s as the ticks really have them."""

    rates: np.ndarray
    config: world.WorldConfig
    low: int = 1
    high: int = 4
    start: int = 2
    price: float = 20.0
    weight: np.ndarray | None = None

    @property
    def tick(self) -> float:
        return float(self.config.interval) / int(self.rates.shape[1])

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `plan`."""
        return {
            "arrivals": (self.rates * self.tick)[None],
            "capacity_per_replica": self.config.capacity_per_replica,
            "concurrency": self.config.concurrency,
            "slo_wait": self.config.slo_wait,
            "interval": self.config.interval,
            "startup": self.config.startup,
            "low": self.low,
            "high": self.high,
            "start": self.start,
            "price": self.price,
            "weight": None if self.weight is None else self.weight[None],
        }

    def scores(self, orders: np.ndarray) -> np.ndarray:
        """Return J of each row of orders (N, T), by the world's own step."""
        steps, ticks = self.rates.shape
        params = world.compiled(replace(self.config, fano=1.0), len(orders))
        assert params.ticks == ticks
        state, rng = world.initial(params, self.start), np.random.default_rng(0)
        weight = np.ones(steps) if self.weight is None else self.weight
        billed, needed, late, come = (np.zeros(len(orders)) for _ in range(4))
        for t in range(steps):
            state, out = world.step(params, state, orders[:, t], self.rates[t][:, None], world.draws(params, rng))
            billed += out.billed * weight[t]
            needed += out.needed * weight[t]
            late += out.late * weight[t]
            come += out.arrivals * weight[t]
        return billed / needed + self.price * late / come


def every(case: Case) -> np.ndarray:
    """Return all orders within the bounds, (N, T)."""
    return np.array(list(product(range(case.low, case.high + 1), repeat=len(case.rates))), F)


def made(seed: int, steps: int, level: float, **config: Any) -> Case:
    """Return a case whose load wanders between 0.2 and 2 times `level` replicas, with noise from tick to tick."""
    rng = np.random.default_rng(seed)
    base = np.repeat(np.clip(np.exp(0.5 * rng.standard_normal(steps)), 0.2, 2.0), 5).reshape(steps, 5)
    noise = np.exp(0.15 * rng.standard_normal((steps, 5)))
    settings_of = {"startup": 15.0, "fano": 1.0, **config}
    found = world.WorldConfig(**settings_of)
    return Case((base * noise * level * 10.0).astype(F), found)


SMALL = {
    "standard queue, start-up of one step": {},
    "start-up of two steps": {"startup": 30.0},
    "no start-up": {"startup": 0.0},
    "start-up that ends within a step": {"startup": 21.0},
    "long requests": {"concurrency": 8},
    "no wait allowed": {"slo_wait": 0.0},
    "long wait allowed": {"slo_wait": 3.0},
}


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL.keys())
def test_brute_force_lies_between_the_bound_and_the_plan(config: dict[str, Any]) -> None:
    gaps = []
    for seed in range(8):
        case = made(seed, steps=6, level=1.8, **config)
        optimum = float(case.scores(every(case)).min())
        plan = clairvoyant.plan(**case.arguments)
        found = float(case.scores(plan.orders.astype(F))[0])
        assert plan.lower_bound[0] <= optimum * (1.0 + 1e-6), f"seed {seed}: the bound is above the optimum"
        assert plan.orders.min() >= case.low, f"seed {seed}"
        assert plan.orders.max() <= case.high, f"seed {seed}"
        gaps.append(found / optimum - 1.0)
    assert np.median(gaps) < 0.01, gaps
    assert max(gaps) < 0.1, gaps
