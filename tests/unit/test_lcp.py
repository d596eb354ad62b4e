"""Lazy capacity provisioning against its definition: work functions, bounds, competitive ratio."""

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.policy import View
from rlscaler.rules.lcp import EXACT, LEVELS, Lcp, advanced, bounds, level, step_cost

PLAIN = Lcp(growth=0.0)


def make_view(demand: float, *, current: float = 10.0, top: float = 100.0, startup: float = 60.0, **more: Any) -> View:
    """Return a view of one workload with 10 requests/s a replica and decisions every 15 s."""
    options = {"min_replicas": 0, "max_replicas": top, "interval": 15, "startup": startup,
               "capacity_per_replica": 10, "price": more.pop("price", 20.0)}  # fmt: skip
    snapshot = {"time": np.zeros(1), "backlog": np.array([more.pop("backlog", np.nan)])}
    assert not more
    compiled = {k: np.array([float(v)]) for k, v in options.items()}
    return View(xp=np, settings=compiled, snapshot=snapshot, features={},
                demand=np.array([float(demand)]), current=np.array([float(current)]))  # fmt: skip


def decisions(rule: Lcp, demands: Any, **more: Any) -> np.ndarray:
    """Return the decisions of one workload for successive demands."""
    state, out = rule.state(1), []
    for demand in demands:
        proposal, state = rule.propose(make_view(demand, **more), state)
        out.append(float(proposal.replicas[0]))
    return np.array(out)


def total(costs: np.ndarray, path: Any, start: int, beta: float) -> float:
    """Return the cost of a path: costs[t, x_t] plus beta for each replica added."""
    path = [start, *(int(x) for x in path)]
    held = float(sum(costs[t, x] for t, x in enumerate(path[1:])))
    added = sum(max(b - a, 0) for a, b in pairwise(path))
    return float(held + beta * added)


def optimum(costs: np.ndarray, start: int, beta: float) -> float:
    """Return the least total cost over all paths, by dynamic programming over every pair of counts."""
    x = np.arange(costs.shape[1])
    switch = beta * np.maximum(x[None, :] - x[:, None], 0)
    value = switch[start] + costs[0]
    for row in costs[1:]:
        value = (value[:, None] + switch).min(axis=0) + row
    return float(value.min())


def convex_costs(rng: np.random.Generator, steps: int, size: int) -> np.ndarray:
    """Return random convex costs (steps, size), some of them flat in places so that minimisers tie."""
    slopes = np.sort(rng.integers(-6, 7, (steps, size - 1)), axis=1).astype(float)
    return np.concatenate([np.zeros((steps, 1)), np.cumsum(slopes, axis=1)], axis=1) + rng.integers(0, 9, (steps, 1))


@pytest.mark.parametrize("seed", range(12))
def test_the_bounds_end_the_best_courses_of_every_prefix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, size, start, beta = 5, 4, int(rng.integers(0, 4)), float(rng.integers(0, 8))
    costs, grid = convex_costs(rng, steps, size), np.arange(size, dtype=float)[None, :]
    slopes = np.where(grid[:, :-1] >= start, beta, 0.0)
    for prefix in range(1, steps + 1):
        slopes = advanced(np, slopes, costs[prefix - 1][None, :], grid, np.array([[beta]]))
        lower, upper = (int(b[0]) for b in bounds(np, slopes, np.array([[beta]])))
        paths = list(product(range(size), repeat=prefix))
        paid_up = np.array([total(costs, path, start, beta) for path in paths])
        # The same course with releases paid instead of additions: minus beta x (end - start).
        paid_down = paid_up - beta * (np.array([path[-1] for path in paths]) - start)
        first = min(path[-1] for path, cost in zip(paths, paid_up, strict=True) if cost <= paid_up.min() + 1e-9)
        last = max(path[-1] for path, cost in zip(paths, paid_down, strict=True) if cost <= paid_down.min() + 1e-9)
        assert (lower, upper) == (first, last), f"after {prefix} steps"


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    demands=st.lists(st.floats(0, 30), min_size=1, max_size=40),
    startup=st.sampled_from([0.0, 7.5, 60.0, 600.0]),
    sharpness=st.sampled_from([0.1, 1.0, 4.0]),
    price=st.sampled_from([0.2, 20.0, 200.0]),
    current=st.integers(0, 40),
)
def test_the_rule_is_the_projection_between_the_work_functions(
    demands: list[float], startup: float, sharpness: float, price: float, current: int
) -> None:
    rule = Lcp(growth=0.0, sharpness=sharpness)
    found = decisions(rule, demands, current=current, startup=startup, price=price)
    x, beta = np.arange(LEVELS, dtype=float), startup / 15.0
    switch = beta * np.maximum(x[None, :] - x[:, None], 0)
    work, last = switch[current], float(current)
    for step, demand in enumerate(demands):
        work = (work[:, None] + switch).min(axis=0) + step_cost(np, x, demand, price, sharpness)
        near = 1e-3 * max(1.0, beta)  # float32 slopes may take a count whose cost is as good as the best
        ups, downs = work - work.min(), work - beta * x
        downs = downs - downs.min()
        low = [x[ups <= 0][0], x[ups <= near][0], x[ups <= near][-1]]
        high = [x[downs <= 0][-1], x[downs <= near][-1], x[downs <= near][0]]
        expected = min(max(last, low[0]), high[0])
        loose = (min(max(last, low[1]), high[2]), min(max(last, low[2]), high[1]))
        assert found[step] == expected or loose[0] <= found[step] <= loose[1], f"step {step}"
        last = found[step]


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    demands=st.lists(st.sampled_from([0.0, 0.5, 2.0, 5.0, 12.0, 30.0]), min_size=1, max_size=60),
    startup=st.sampled_from([15.0, 60.0, 300.0]),
    price=st.sampled_from([1.0, 20.0]),
)
def test_the_cost_is_within_three_times_the_clairvoyant(demands: list[float], startup: float, price: float) -> None:
    found = decisions(PLAIN, demands, current=0, startup=startup, price=price)
    beta = startup / 15.0
    costs = np.array([step_cost(np, np.arange(60.0), demand, price, 1.0) for demand in demands])
    best = optimum(costs, 0, beta)
    assert total(costs, found, 0, beta) <= 3.0 * best + 1e-6


def test_rare_blips_cost_nearly_twice_the_optimum_so_the_bound_is_felt() -> None:
    """Each blip pays one start and the idle time that laziness grants; the start alone is enough."""
    demands = ([0.3] + [0.0] * 16) * 12
    found = decisions(Lcp(growth=0.0, sharpness=8.0, switching=2.0), demands, current=0)
    costs = np.array([step_cost(np, np.arange(60.0), demand, 20.0, 8.0) for demand in demands])
    assert 1.7 < total(costs, found, 0, 8.0) / optimum(costs, 0, 8.0) <= 3.0


def test_it_is_lazy_downward_and_quick_upward() -> None:
    demands = [10.0] * 20 + [30.0] * 3 + [10.0] * 30
    found = decisions(PLAIN, demands, current=10)
    assert found[20] > 30, "an overload is answered at once"
    after = found[23:]
    assert after[0] == found[22], "the first quiet step releases nothing"
    assert after[4] < found[22], "idle for longer than a start-up costs, replicas go"
    assert (np.diff(after) <= 0).all()


@pytest.mark.parametrize(("factor", "wait"), [(1.0, 4), (3.0, 12), (10.0, 40)])
def test_an_idle_replica_is_kept_for_as_long_as_starting_it_again_would_cost(factor: float, wait: int) -> None:
    demands = [20.0] * 100 + [0.0] * 60
    found = decisions(Lcp(growth=0.0, switching=factor), demands, current=0)[100:]
    assert int(np.argmax(found < found[0])) in (wait - 1, wait, wait + 1)


def test_growth_and_backlog_add_demand() -> None:
    plain = decisions(PLAIN, [20.0], current=0)[0]
    assert decisions(Lcp(growth=np.log(1.5)), [20.0 / 1.5], current=0)[0] == plain
    assert decisions(Lcp(growth=0.0, drain=10.0), [15.0], current=0, backlog=500.0)[0] == plain


@pytest.mark.parametrize("top", [1.0, 100.0, 127.0, 128.0, 150.0, 1000.0, 10_000.0])
def test_the_grid_rises_from_nothing_to_the_bound(top: float) -> None:
    grid = level(np, np.arange(LEVELS, dtype=float), np.full(LEVELS, max(top, LEVELS - 1.0)))
    np.testing.assert_array_equal(grid[: EXACT + 1], np.arange(EXACT + 1))
    assert (np.diff(grid) >= 1).all()
    assert (grid == np.round(grid)).all()
    assert grid[-1] == max(top, LEVELS - 1)
    if top <= LEVELS - 1:
        np.testing.assert_array_equal(grid, np.arange(LEVELS))


def test_beyond_the_exact_grid_the_answer_is_at_most_one_level_off() -> None:
    demands = np.concatenate([np.full(5, 900.0), np.full(5, 2000.0), np.full(30, 400.0)])
    found = decisions(PLAIN, demands, current=900, top=5000)
    assert 900 <= found[4] <= 900 * 1.08
    assert 2000 <= found[9] <= 2000 * 1.08
    assert 400 <= found[-1] <= 400 * 1.08


def test_a_new_bound_starts_again_from_the_present_count() -> None:
    state = PLAIN.state(1)
    _, state = PLAIN.propose(make_view(20.0, current=500, top=1000), state)
    proposal, state = PLAIN.propose(make_view(20.0, current=24, top=100), state)
    fresh, _ = PLAIN.propose(make_view(20.0, current=24, top=100), PLAIN.state(1))
    assert proposal.replicas[0] == fresh.replicas[0]
    assert state["top"][0] == LEVELS - 1


def test_the_cost_of_a_step_is_convex_and_smooth_at_the_demand() -> None:
    x = np.linspace(0, 30, 3001)
    slope = np.diff(step_cost(np, x, 12.0, 20.0, 4.0))
    assert (np.diff(slope) >= -1e-9).all()
    assert step_cost(np, 12.0, 12.0, 20.0, 4.0) == 12.0 + 20.0 * 12.0
