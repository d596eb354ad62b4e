"""The queue of the world: Erlang's formula, both ends of the approximation that are exact, and conservation."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlscaler_sim.queueing import Tail, Ticks, erlang_c_exact, inverse_wait_probability, run_ticks

SERVERS = np.unique(np.geomspace(1, 10_000, 60).round().astype(int))
LOADS = np.concatenate([np.linspace(0.01, 0.9, 60), 1.0 - np.geomspace(0.1, 0.001, 30)])


def run(arrivals: float | np.ndarray, servers: np.ndarray, capacity: np.ndarray, ticks: int, dtype: type) -> Ticks:
    """Run queues that start empty, each with a constant rate."""
    shape = (ticks, len(servers))
    grids: list[np.ndarray] = [
        np.array(np.broadcast_to(value, shape), dtype) for value in (arrivals, servers, capacity)
    ]
    come, hands, room = grids
    zero = 0.0 * come[0]
    return run_ticks(np, zero, zero, zero + 1, come, come, hands, room)


@pytest.mark.parametrize(
    ("servers", "load", "expected"),
    [
        pytest.param(1, 0.37, 0.37, id="one server is busy for its load"),
        pytest.param(2, 0.5, 2 * 0.5**2 / 1.5, id="two servers"),
        pytest.param(3, 0.8, 0.6471910112359551, id="three servers, from a table"),
        pytest.param(0, 0.5, 1.0, id="without servers everything waits"),
        pytest.param(7, 1.0, 1.0, id="saturated"),
        pytest.param(7, 1.5, 1.0, id="overloaded"),
    ],
)
def test_erlang_recursion(servers: int, load: float, expected: float) -> None:
    assert erlang_c_exact(servers, load) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param(np.float64, 0.0025, id="float64"), pytest.param(np.float32, 0.003, id="float32")],
)
def test_erlang_expansion_agrees_with_the_recursion(dtype: type, tolerance: float) -> None:
    servers, loads = np.meshgrid(SERVERS, LOADS, indexing="ij")
    exact = erlang_c_exact(servers, loads)
    counts = exact > 1e-4
    fast = 1.0 / inverse_wait_probability(np, servers.astype(dtype), loads.astype(dtype))
    error = np.abs(fast[counts] / exact[counts] - 1.0)
    at = error.argmax()
    assert error[at] < tolerance, f"off by {error[at]:.2%} at c = {servers[counts][at]}, rho = {loads[counts][at]:.3f}"
    assert fast[~counts].max() < 1.1e-4, "rare waits became frequent"


def test_erlang_expansion_at_its_limits() -> None:
    servers = np.array([0.0, 1.0, 1e4, 1e4, 1.0], np.float32)
    load = np.array([1.0, 1.0, 1.0, 1e-6, 1e-6], np.float32)
    chance = 1.0 / inverse_wait_probability(np, servers, load)
    assert chance[:3] == pytest.approx([1.0, 1.0, 1.0])
    assert np.all(np.isfinite(chance))
    assert np.all(chance[3:] < 1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("load", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95])
def test_stationary_queue_is_that_of_the_formula(load: float, dtype: type) -> None:
    servers = np.array([1, 2, 4, 5, 10, 20, 25, 40, 100, 400])
    capacity = 30.0 * servers
    queue = run(load * capacity, servers, capacity, 1500, dtype)
    delayed = erlang_c_exact(servers, load)
    waiting = delayed * load / (1.0 - load)
    work = 0.13 * capacity
    np.testing.assert_allclose(queue.busy[-1], load, rtol=1e-4)
    np.testing.assert_allclose(queue.waiting, waiting, rtol=0.02, atol=1e-4)
    share = queue.tail.share_over(np, work)[-1]
    np.testing.assert_allclose(share, delayed * np.exp(-(1.0 - load) * work), rtol=0.02, atol=0.001)


@pytest.mark.parametrize("load", [1.2, 2.0, 10.0])
def test_overloaded_queue_is_a_fluid(load: float) -> None:
    servers = np.array([1, 5, 25, 400])
    capacity = 30.0 * servers
    short = run(load * capacity, servers, capacity, 200, np.float64)
    longer = run(load * capacity, servers, capacity, 201, np.float64)
    np.testing.assert_allclose(longer.waiting - short.waiting, (load - 1.0) * capacity, rtol=1e-3)
    np.testing.assert_allclose(longer.busy[-1], 1.0, rtol=1e-3)


def test_backlog_drains_like_a_fluid() -> None:
    one = np.ones(1)
    backlog, servers, capacity, come = 5000.0 * one, 10.0 * one, 300.0 * one, 150.0 * one
    grids = (np.tile(value, (20, 1)) for value in (come, come, servers, capacity))
    queue = run_ticks(np, backlog, one, one, *grids)
    assert queue.content[0] == pytest.approx(5000.0 - 20 * 150.0, rel=0.005)
    assert queue.tail.share_over(np, np.full((20, 1), 40.0))[-1, 0] == pytest.approx(1.0, abs=1e-6)


def test_without_servers_all_wait_and_nothing_is_served() -> None:
    queue = run(12.0, np.zeros(1), np.zeros(1), 5, np.float32)
    assert queue.content[0] == pytest.approx(60.0)
    assert queue.tail.share_over(np, np.zeros((5, 1), np.float32)) == pytest.approx(np.ones((5, 1)))


def test_nothing_stays_nothing() -> None:
    queue = run(0.0, np.array([0.0, 3.0]), np.array([0.0, 90.0]), 500, np.float32)
    assert queue.content == pytest.approx([0.0, 0.0], abs=1e-4)
    again = run_ticks(
        np, queue.content, queue.variance, queue.ratio, *(np.full((5, 2), v, np.float32) for v in (9, 9, 2, 60))
    )
    assert np.isfinite(again.tail.share_over(np, np.full((5, 2), 8.0, np.float32))).all()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    load=arrays(np.float64, (6, 8), elements=st.floats(0.0, 3.0)),
    servers=arrays(np.float64, (8,), elements=st.sampled_from([0.0, 1.0, 2.0, 7.0, 40.0, 1000.0])),
    backlog=arrays(np.float64, (8,), elements=st.floats(0.0, 1e4)),
    service=st.sampled_from([0.5, 3.0, 30.0]),
)
def test_arrivals_less_completions_are_the_change(
    load: np.ndarray, servers: np.ndarray, backlog: np.ndarray, service: float
) -> None:
    capacity = np.tile(service * servers, (6, 1))
    arrivals = load * np.maximum(capacity, 1.0)
    for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 2e-5)):
        grids = (np.array(grid, dtype) for grid in (arrivals, arrivals, np.tile(servers, (6, 1)), capacity))
        start = backlog.astype(dtype)
        queue = run_ticks(np, start, start, np.ones(8, dtype), *grids)
        served = sum(busy.astype(np.float64) * room for busy, room in zip(queue.busy, capacity, strict=True))
        size = backlog + arrivals.sum(axis=0) + capacity.sum(axis=0) + 1.0
        error = np.abs(arrivals.sum(axis=0) - served - (queue.content - backlog)) / size
        assert error.max() < tolerance, f"{dtype.__name__}: requests got lost, {error.max():g} of them"
        assert queue.content.dtype == dtype
        assert (queue.waiting >= 0.0).all()


def test_arguments_are_not_written_to() -> None:
    names = ("content", "variance", "ratio", "arrivals", "offered", "servers", "capacity")
    given = [np.full((3,) if i < 3 else (5, 3), 1.0 + i) for i in range(len(names))]
    kept = [array.copy() for array in given]
    run_ticks(np, *given)
    for name, before, after in zip(names, kept, given, strict=True):
        np.testing.assert_array_equal(before, after, err_msg=name)


class TestTail:
    """The distribution of the work that a request finds."""

    queue = run(np.geomspace(0.3, 1.3, 40) * 300.0, np.full(40, 10.0), np.full(40, 300.0), 8, np.float64)

    def test_shares_fall_with_the_work(self) -> None:
        shares = [self.queue.tail.share_over(np, np.full((8, 40), work)) for work in (0.0, 1.0, 10.0, 100.0, 1e4)]
        assert all((more >= less).all() for more, less in pairwise(shares))
        assert shares[0].max() <= 1.0
        assert shares[-1].min() >= 0.0

    def test_mean_is_that_of_the_queue(self) -> None:
        work = np.linspace(0.0, 20_000.0, 400_001)
        tail = self.queue.tail
        for column in (5, 20, 35, 39):
            at = Tail(*(part[-1, column] for part in (tail.delayed, tail.start, tail.scale)))
            share = at.share_over(np, work)
            mean = np.trapezoid(share, work)
            assert mean == pytest.approx(float(at.delayed * (at.start + at.scale)), rel=1e-3, abs=1e-6)

    def test_quantile_is_exceeded_by_its_share(self) -> None:
        work = self.queue.tail.exceeded_by(np, 0.05)
        share = self.queue.tail.share_over(np, work)
        some = self.queue.tail.delayed > 0.05
        assert some.any()
        assert (~some).any()
        np.testing.assert_allclose(share[some], 0.05, rtol=1e-9)
        assert (work[~some] == 0.0).all()

    def test_a_backlog_is_no_exponential(self) -> None:
        content = np.full(1, 3000.0)
        queue = run_ticks(np, content, content, np.ones(1), *(np.full((3, 1), v) for v in (100.0, 100.0, 10.0, 300.0)))
        assert queue.tail.share_over(np, np.full((3, 1), 1200.0))[0, 0] == 1.0
