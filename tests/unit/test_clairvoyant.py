"""The clairvoyant plan is near the best orders of all, and nothing that the world allows is below its bound."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler_sim import clairvoyant, world
from rlscaler_sim.clairvoyant.late_bound import least_late, surely_late
from rlscaler_sim.clairvoyant.programme import Programme
from rlscaler_sim.queueing import run_ticks

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
    "a wait of a fifth of a step allowed": {"slo_wait": 3.0},
    "a wait of a step allowed": {"slo_wait": 15.0},
    "a wait of a step allowed, start-up of two steps": {"slo_wait": 15.0, "startup": 30.0},
    "a wait of a step allowed, start-up that ends within a step": {"slo_wait": 15.0, "startup": 21.0},
    "a wait of a step allowed, requests that last two steps": {"slo_wait": 15.0, "concurrency": 80},
    "a wait of three steps allowed": {"slo_wait": 40.0},
    "a wait longer than the load allowed": {"slo_wait": 120.0},
}


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL.keys())
def test_brute_force_lies_between_the_bound_and_the_plan(config: dict[str, Any]) -> None:
    gaps = []
    for seed in range(8):
        case = made(seed, steps=6, level=1.8, **config)
        optimum = float(case.scores(every(case)).min())
        plan = clairvoyant.plan(clairvoyant.Question(**case.arguments))
        found = float(case.scores(plan.orders.astype(F))[0])
        assert plan.lower_bound[0] <= optimum * (1.0 + 1e-6), f"seed {seed}: the bound is above the optimum"
        assert plan.orders.min() >= case.low, f"seed {seed}"
        assert plan.orders.max() <= case.high, f"seed {seed}"
        gaps.append(found / optimum - 1.0)
    assert np.median(gaps) < 1e-4, gaps
    assert max(gaps) < 0.08, gaps


@pytest.mark.parametrize("seed", range(4))
def test_no_orders_in_the_real_world_score_below_the_bound(seed: int) -> None:
    """A longer load as the world draws it: over-dispersed, needed from the rates before the noise, partly unscored."""
    rng = np.random.default_rng(seed)
    steps, rows = 120, 64
    config = world.WorldConfig(startup=60.0)
    params = world.compiled(config, rows)
    levels = 80.0 * np.exp(np.cumsum(0.1 * rng.standard_normal(steps)))
    known = rng.random(steps) < 0.9
    tracking = np.repeat(levels[None] / 10.0, rows, axis=0) * rng.uniform(1.0, 1.6, (rows, 1))
    orders = np.clip(np.ceil(tracking + rng.standard_normal((rows, steps))), 1, 30)
    orders[: rows // 2] = np.maximum.reduce([np.roll(orders[: rows // 2], -k, axis=1) for k in range(5)])
    drawn = [world.draws(params, rng) for _ in range(steps)]
    for one in drawn:
        one["rate"][:] = one["rate"][:, :1]  # the same noise for every row
    load = [np.full((params.ticks, rows), level, F) for level in levels]
    come = np.stack([world.modulated(params, r, d)[:, 0] * params.tick for r, d in zip(load, drawn, strict=True)])
    plan = clairvoyant.plan(
        clairvoyant.Question(
            come[None], 10.0, 1, 0.4, 15.0, 60.0, 1, 30, 10, 20.0, known[None], (levels * 1.5 * known).sum()
        )
    )
    orders[0] = plan.orders[0]
    state = world.initial(params, 10)
    billed, needed, late, arrivals = (np.zeros(rows) for _ in range(4))
    for t in range(steps):
        state, out = world.step(params, state, orders[:, t], load[t], drawn[t])
        for total, part in ((billed, out.billed), (needed, out.needed), (late, out.late), (arrivals, out.arrivals)):
            total += part * known[t]
    scores = billed / needed + 20.0 * late / arrivals
    assert scores.min() >= plan.lower_bound[0], "orders beat the bound"
    assert scores.argmin() == 0, "other orders beat the plan"
    assert scores[0] == pytest.approx(plan.scores.min(), rel=1e-4), "the plan's own replay differs from the world"
    assert plan.lower_bound[0] > 0.9 * scores[0], "the bound is loose"


def test_the_least_late_requests_hold_from_any_queue() -> None:
    """Ten thousand random queues, many of which start with less waiting than an empty one."""
    rng = np.random.default_rng(5)
    below_empty = 0
    for concurrency, capacity, slo in ((1.0, 30.0, 4.0), (8.0, 30.0, 4.0), (1.0, 3.0, 0.0), (10.0, 1.0, 1.0)):
        n = rng.integers(1, 60, 2500).astype(F)
        scale = n * capacity * 10.0 ** rng.uniform(-0.5, 0.25, n.size)
        come = (scale * np.exp(0.1 * rng.standard_normal((5, n.size)))).astype(F)
        offered = (0.5 * (come + come[::-1])).astype(F)
        bound = least_late(
            come, offered, n * F(concurrency), n * F(capacity), np.full(n.size, capacity / concurrency, F), n * F(slo)
        )
        sure = surely_late(come, offered, n * F(concurrency), n * F(capacity), n * F(slo))
        content = come[0] * 10.0 ** rng.uniform(-4.0, 1.0, n.size) * (rng.random(n.size) < 0.7)
        variance = content**2 * 10.0 ** rng.uniform(-6.0, 2.0, n.size)
        zero = np.zeros(n.size, F)
        results = []
        for start in (
            (content.astype(F), variance.astype(F), (10.0 ** rng.uniform(-3.0, 0.0, n.size)).astype(F)),
            (zero, zero, zero + F(1.0)),
        ):
            servers, served = (np.repeat((n * F(x))[None], 5, axis=0) for x in (concurrency, capacity))
            ticks = run_ticks(np, start[0], start[1], start[2], come, offered, servers, served)
            results.append((ticks.tail.share_over(np, n * F(slo)) * come).sum(axis=0))
        late, empty = results
        noise = 1e-6 * come.sum(axis=0)
        assert (bound <= late + noise).all(), f"least_late is above a run by {(bound - late).max()}"
        assert (sure <= late + noise).all(), f"surely_late is above a run by {(sure - late).max()}"
        assert (bound <= empty + noise).all()
        typical = (empty > 1e-3 * come.sum(axis=0)) & (empty < 0.2 * come.sum(axis=0))
        assert np.median(bound[typical] / empty[typical]) > 0.3, "the bound is loose"
        below_empty += int((late < 0.99 * empty - noise).sum())
    assert below_empty > 50, "an empty queue would do as a bound"


def test_what_is_surely_late_with_some_replicas_is_so_with_fewer() -> None:
    rng = np.random.default_rng(6)
    come = (30.0 * np.exp(0.5 * rng.standard_normal((5, 500)))).astype(F)
    for n in range(1, 8):
        few, more = (np.full(500, m, F) for m in (n, n + 1))
        late = [surely_late(come, come, m, m * F(10.0), m * F(1.5)) for m in (few, more)]
        assert (late[0] >= late[1] * F(0.9999)).all(), f"{n} replicas"


@given(
    delay=st.integers(0, 4),
    seed=st.integers(0, 2**16),
    weights=st.lists(st.sampled_from([0.0, 0.4, 1.0]), min_size=5, max_size=5),
    start=st.integers(0, 3),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_the_programme_finds_the_cheapest_orders_of_all(
    delay: int, seed: int, weights: list[float], start: int
) -> None:
    """Late requests that fall with the ready replicas, as in a world without backlog."""
    rng = np.random.default_rng(seed)
    late = -np.sort(-rng.exponential(2.0, (5, 4)), axis=1) * np.array(weights)[:, None]
    programme = Programme(
        delay=delay,
        weight=np.array([weights]),
        price=np.array([1.5]),
        counts=np.arange(4.0),
        low=np.array([0.0]),
        high=np.array([3.0]),
        start=np.array([float(start)]),
    )
    best = np.inf
    for orders in product(range(4), repeat=5):
        past = [start] * delay + list(orders)
        ready = [min(past[t : t + delay + 1]) for t in range(5)]
        assert programme.ready(np.array([orders]))[0].tolist() == ready
        best = min(
            best, sum(w * o + 1.5 * late[t, ready[t]] for t, (w, o) in enumerate(zip(weights, orders, strict=True)))
        )
    found = programme.orders(programme.best(late))
    ready_found = programme.ready(found)[0]
    cost = float((found[0] * np.array(weights)).sum() + 1.5 * late[np.arange(5), ready_found].sum())
    assert programme.value(late)[0] == pytest.approx(best, abs=1e-9)
    assert cost == pytest.approx(best, abs=1e-9)


def test_a_load_in_a_batch_is_planned_as_alone() -> None:
    cases = [made(seed, steps=40, level=level) for seed, level in ((1, 2.0), (2, 20.0), (3, 5.0))]
    arrivals = np.concatenate([case.arguments["arrivals"] for case in cases])
    shared: dict[str, Any] = cases[0].arguments | {
        "arrivals": arrivals,
        "high": np.array([4, 60, 20]),
        "start": np.array([2, 20, 5]),
    }
    together = clairvoyant.plan(clairvoyant.Question(**shared))
    for row, case in enumerate(cases):
        alone = clairvoyant.plan(
            clairvoyant.Question(**case.arguments | {"high": shared["high"][row], "start": shared["start"][row]})
        )
        np.testing.assert_array_equal(together.orders[row], alone.orders[0], err_msg=f"load {row}")
        np.testing.assert_allclose(together.lower_bound[row], alone.lower_bound[0], rtol=1e-9)


def test_an_overload_is_worked_off_and_not_given_up() -> None:
    rates = np.full((720, 5), 220.0, F)
    rates[60:180] = 1100.0
    case = Case(rates, world.WorldConfig(startup=60.0, fano=1.0), high=100, start=26)
    plan = clairvoyant.plan(clairvoyant.Question(**case.arguments))
    rule = np.clip(np.ceil(rates[None, :, 0] / 8.0), case.low, case.high).astype(F)
    found, simple = case.scores(np.concatenate([plan.orders.astype(F), rule]))
    assert found < 0.8 * simple, f"{simple:.2f} at 80 % utilization, planned {found:.2f}"
    assert (plan.orders[0, 60:180] == case.high).all()


EDGES = {
    "no load at all, no replicas needed": (np.zeros((8, 5)), {"low": 0, "high": 5, "start": 0}, 0),
    "late requests are free": (np.full((8, 5), 30.0), {"price": 0.0, "start": 1}, 1),
    "start-up longer than the load": (np.full((8, 5), 30.0), {"startup": 600.0, "low": 2}, 2),
    "more replicas at the start than allowed": (np.full((8, 5), 33.0), {"start": 9}, 4),
    "fewer at the start than allowed": (np.full((8, 5), 33.0), {"start": 1, "low": 4}, 4),
    "a far larger bound than the load can use": (np.full((8, 5), 1.0), {"high": 10_000, "start": 1, "price": 1.0}, 1),
}


@pytest.mark.parametrize(("rates", "changes", "expected"), EDGES.values(), ids=EDGES.keys())
def test_plans_where_the_answer_is_known(rates: np.ndarray, changes: dict[str, Any], expected: int) -> None:
    case = Case(rates.astype(F), world.WorldConfig(startup=15.0, fano=1.0))
    plan = clairvoyant.plan(clairvoyant.Question(**case.arguments | changes))
    assert (plan.orders == expected).all(), plan.orders
    assert np.isfinite(plan.lower_bound).all()
    assert (plan.lower_bound <= plan.scores.min(axis=0)).all()


BROKEN = {
    "arrivals without loads": ({"arrivals": np.ones((4, 5))}, r"arrivals have shape \(4, 5\)"),
    "weight of another length": ({"weight": np.ones((1, 3))}, r"weight has shape \(1, 3\)"),
    "bounds without room": ({"low": 5, "high": 4}, "low is 5 and high is 4"),
}


@pytest.mark.parametrize(("changes", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_arguments_that_fit_no_plan_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clairvoyant.plan(clairvoyant.Question(**made(0, steps=4, level=2.0).arguments | changes))
