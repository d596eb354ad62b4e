"""The world: pods, metrics, conservation, and what must hold whatever the parameters are."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.arrays import State
from rlscaler_sim import pods
from rlscaler_sim.world import (
    Outcome,
    Params,
    World,
    WorldConfig,
    compiled,
    draw_kinds,
    draws,
    initial,
    modulated,
    readings,
    replaced,
    step,
)

EVERYTHING = WorldConfig(
    concurrency=4,
    startup=45.0,
    startup_spread=0.3,
    startup_jitter=0.2,
    drain=40.0,
    lag=20.0,
    window=30.0,
    completions=True,
    crash_rate=3.0,
    gap_rate=5.0,
    node_pods=5,
    node_startup=60.0,
    max_nodes=8,
)
"""All features at once."""


def silent(params: Params) -> State:
    """Return draws that change nothing: medians, no crash, no gap."""
    return {
        name: np.full(shape, 0.0 if kind == "normal" else 0.5, np.float32)
        for name, (kind, shape) in draw_kinds(params).items()
    }


def play(config: WorldConfig, orders: np.ndarray, rates: Any, start: Any = 1, seed: int = 0) -> list[Outcome]:
    """Return the outcomes of the orders (T, N)."""
    world = World(config, orders.shape[1], seed)
    world.reset(seed, start)
    return [world.step(order, rates) for order in orders]


def column(outcomes: list[Outcome], name: str) -> np.ndarray:
    """Return a field of all outcomes, (T, N) float64."""
    return np.array([getattr(outcome, name) for outcome in outcomes], np.float64)


# --- pods


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    orders=st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=1, max_size=25),
    startup=st.sampled_from([0, 1, 2, 4, 8]),
    start=st.integers(0, 20),
)
def test_ready_is_the_smallest_of_the_last_orders(orders: list[list[int]], startup: int, start: int) -> None:
    table = np.array(orders)
    found = play(WorldConfig(startup=15.0 * startup), table, 20.0, start)
    history = np.concatenate([np.full((startup + 2, 3), start), table])
    # at the end of step t the pods ordered startup - 1 steps before it have just become ready
    behind = max(startup - 1, 0)
    expected = np.array([history[t + startup + 2 - behind : t + startup + 3].min(axis=0) for t in range(len(table))])
    np.testing.assert_array_equal(column(found, "ready"), expected)
    np.testing.assert_array_equal(column(found, "starting"), table - expected)
    np.testing.assert_array_equal(column(found, "billed"), 15.0 * table)
    before = history[startup + 1 : -1]
    np.testing.assert_array_equal(column(found, "created"), np.maximum(table - before, 0))
    np.testing.assert_array_equal(column(found, "removed"), np.maximum(before - table, 0))


def test_pods_become_ready_within_a_step() -> None:
    config = WorldConfig(startup=21.0, fano=1.0)
    params = compiled(config, 1)
    state = initial(params, 2)
    state, _ = step(params, state, [6], 0.0 * np.ones(1), silent(params))
    _, moves = pods.step(np, params.pods, state, np.full(1, 6, np.float32), silent(params))
    np.testing.assert_array_equal(moves.ready[:, 0], [2, 2, 6, 6, 6])  # ready 7 ticks of 3 s after the order


def test_starting_pods_go_before_ready_ones() -> None:
    found = play(WorldConfig(startup=60.0), np.array([[10], [20], [12], [12], [12], [12], [8]]), 20.0, start=5)
    assert column(found, "ready")[:, 0].tolist() == [5, 5, 5, 10, 12, 12, 8]


def test_removed_ready_pods_drain_and_stay_billed() -> None:
    orders = np.array([[10], [10], [4], [4], [4], [4], [4]])
    found = play(WorldConfig(startup=0.0, drain=40.0), orders, 20.0, start=10)
    assert column(found, "billed")[:, 0].tolist() == [150, 150, 150, 150, 120, 60, 60]
    assert column(found, "draining")[:, 0].tolist() == [0, 0, 6, 6, 0, 0, 0]
    never_ready = play(WorldConfig(startup=60.0, drain=40.0), np.array([[10], [4], [4]]), 20.0, start=4)
    assert column(never_ready, "billed")[:, 0].tolist() == [150, 60, 60]


def test_startup_spread_is_shared_by_a_burst() -> None:
    n = 4000
    found = play(WorldConfig(startup=60.0, startup_spread=0.3), np.full((16, n), 11), 1.0)
    ready = column(found, "ready")
    assert set(np.unique(ready)) == {1.0, 11.0}
    seconds = 15.0 * (ready == 1.0).sum(axis=0) + 7.5
    assert seconds.mean() == pytest.approx(60.0, rel=0.03)
    assert seconds.std() / seconds.mean() == pytest.approx(0.3, abs=0.03)


def test_startup_jitter_splits_a_burst() -> None:
    found = play(WorldConfig(startup=60.0, startup_jitter=0.3), np.full((8, 1), 11), 1.0)
    assert column(found, "ready")[:, 0].tolist() == [1, 1, 4, 8, 8, 11, 11, 11]


def test_pods_without_room_wait_for_a_node() -> None:
    config = WorldConfig(startup=30.0, node_pods=4, node_startup=60.0, max_nodes=4)
    orders = np.repeat([10, 20, 5, 16], [2, 10, 60, 8])[:, None]
    found = play(config, orders, 20.0, start=10)
    ready, billed = column(found, "ready")[:, 0], column(found, "billed")[:, 0]
    # three nodes hold 12 pods; a fourth comes after 60 s; four of 20 pods find no room at all
    assert ready[:12].tolist() == [10, 10, 10, 12, 12, 12, 12, 16, 16, 16, 16, 16]
    assert column(found, "starting")[11, 0] == 4
    assert billed[11] == 15.0 * 16
    # 600 s later the nodes are gone, so three pods start on what is left and eight wait
    assert ready[-8:].tolist() == [5, 8, 8, 8, 8, 16, 16, 16]


def test_nodes_linger() -> None:
    config = WorldConfig(startup=15.0, node_pods=4, node_startup=60.0)
    for idle, expected in ((30, 16.0), (45, 8.0)):
        orders = np.repeat([16, 5, 16], [1, idle, 2])[:, None]
        assert column(play(config, orders, 20.0, start=16), "ready")[-1, 0] == expected, f"after {idle * 15} s"


def test_crashed_pods_start_again_and_stay_billed() -> None:
    n, hours = 400, 2.0
    found = play(WorldConfig(startup=60.0, crash_rate=6.0), np.full((int(240 * hours), n), 10), 20.0, start=10)
    ready = column(found, "ready")[20:]
    # one in 40 crashes at the beginning of a step, and is missing at the end of it and of the two after it
    assert ready.mean() == pytest.approx(10 / (1 + 3 / 40), rel=0.01)
    assert (column(found, "billed") == 150.0).all()
    np.testing.assert_array_equal(column(found, "ready") + column(found, "starting"), 10.0)


@pytest.mark.parametrize("mean", [0.01, 0.3, 1.9, 6.0, 40.0])
def test_number_of_crashes(mean: float) -> None:
    uniform = ((np.arange(200_000) + 0.5) / 200_000).astype(np.float32)
    means = np.full_like(uniform, mean)
    found = pods._crashes(np, means, uniform, np.full_like(uniform, 1000.0))
    assert found.mean() == pytest.approx(mean, rel=0.02)
    assert found.var() == pytest.approx(mean, rel=0.08)
    assert pods._crashes(np, means, uniform, np.full_like(uniform, 2.0)).max() <= 2.0


# --- load and service


@pytest.mark.parametrize("fano", [1.0, 2.0, 5.0])
def test_measured_counts_have_the_fano_factor(fano: float) -> None:
    world = World(WorldConfig(fano=fano, lag=0.0), 4000, seed=1)
    world.reset(1, 20)
    counts = []
    for _ in range(20):
        world.step(20, 120.0)
        counts.append(np.asarray(world.readings().load, np.float64) * 15.0)
    assert np.mean(counts) == pytest.approx(1800.0, rel=0.002)
    assert np.var(counts) / np.mean(counts) == pytest.approx(fano, rel=0.03)


def test_modulation_has_the_stated_variance() -> None:
    params = compiled(WorldConfig(fano=3.0), 20_000)
    rates = modulated(params, 50.0 * np.ones(20_000), draws(params, np.random.default_rng(2))).astype(np.float64)
    assert rates.mean() == pytest.approx(50.0, rel=0.002)
    assert rates.var() == pytest.approx(2.0 * 50.0 / 3.0, rel=0.03)


def test_rates_are_accepted_in_all_shapes() -> None:
    params = compiled(WorldConfig(fano=1.0), 3)
    state, none = initial(params, 4), silent(params)
    by_tick = np.array([10.0, 20.0, 30.0, 40.0, 50.0])
    for rates in (by_tick, by_tick[:, None], np.tile(by_tick[:, None], 3)):
        outcome = step(params, state, 4, rates, none)[1]
        np.testing.assert_allclose(outcome.arrivals, 450.0)
        np.testing.assert_allclose(outcome.needed, 45.0)
    outcome = step(params, state, 4, np.array([10.0, 20.0, 30.0]), none)[1]
    np.testing.assert_allclose(outcome.arrivals, [150.0, 300.0, 450.0])


@pytest.mark.parametrize("config", [WorldConfig(), EVERYTHING], ids=["standard", "everything"])
def test_requests_are_conserved(config: WorldConfig) -> None:
    n, rng = 50, np.random.default_rng(3)
    world = World(config, n, seed=3)
    world.reset(3, 10)
    come, served = np.zeros(n), np.zeros(n)
    for _ in range(300):
        outcome = world.step(rng.integers(0, 30, n), rng.uniform(0.0, 250.0, n))
        come += outcome.arrivals
        served += outcome.served
        assert (outcome.late <= outcome.arrivals * (1 + 1e-6)).all()
        assert (outcome.late >= 0.0).all()
    np.testing.assert_allclose(come - served, world.state["content"], atol=1e-5 * come.max())


def test_removed_pods_finish_what_they_serve() -> None:
    found = play(WorldConfig(startup=0.0, concurrency=20, fano=1.0), np.repeat([10, 0], [40, 1])[:, None], 50.0, 10)
    in_service = 50.0 * 2.0
    assert found[-1].served[0] == pytest.approx(in_service, rel=0.01)
    assert found[-1].backlog[0] == pytest.approx(found[-1].arrivals[0], rel=0.01)


def test_without_pods_every_request_is_late() -> None:
    found = play(WorldConfig(), np.zeros((4, 2)), 30.0, 0)
    for outcome in found:
        np.testing.assert_allclose(outcome.late, outcome.arrivals, rtol=1e-6)
        np.testing.assert_allclose(outcome.served, 0.0, atol=1e-3)


def test_later_edges_count_fewer_requests() -> None:
    edges = (0.0, 0.05, 0.4, 2.0, 60.0)
    world = World(WorldConfig(startup=0.0), 30, 0, wait_edges=edges)
    world.reset(0, 10)
    late, over = np.zeros(30), np.zeros((5, 30))
    for _ in range(40):
        outcome = world.step(10, np.linspace(50.0, 105.0, 30))
        late += outcome.late
        over += np.asarray(outcome.late_over)
    assert (np.diff(over, axis=0) <= 0.0).all()
    assert over[0, -1] > over[2, -1] > over[3, -1] > 0.0
    np.testing.assert_allclose(over[2], late, rtol=1e-5)


HARD = {
    "capacity_per_replica": (1.0, 10.0, 50.0),
    "concurrency": (1, 4, 16),
    "slo_wait": (0.05, 0.4, 2.0),
    "fano": (1.0, 2.0, 6.0),
}


@pytest.mark.parametrize("change", ["backlog", "one pod", "some pods"])
@pytest.mark.parametrize("seed", [0, 1])
def test_less_capacity_or_more_backlog_makes_no_request_punctual(change: str, seed: int) -> None:
    """The approximation is not monotone to the last request: half a percent of a step's requests is allowed for."""
    n, rng = 20_000, np.random.default_rng(seed)
    chosen = {name: rng.choice(values, n) for name, values in HARD.items()}
    config: dict[str, Any] = dict(chosen)
    params = compiled(WorldConfig(**config), n)
    replicas = np.round(np.exp(rng.uniform(0.0, np.log(200.0), n)))
    base = replicas * chosen["capacity_per_replica"]
    state = initial(params, replicas)
    for _ in range(4):
        state, _ = step(params, state, replicas, base * rng.uniform(0.2, 1.25, n), draws(params, rng))
    drawn = draws(params, rng)
    rates = base * rng.uniform(0.2, 1.3, n) * np.exp(0.1 * rng.standard_normal((5, n)))
    worse, fewer = state, replicas
    if change == "backlog":
        more = (state["waiting"] > 1.0) * rng.choice([1.0, 30.0], n).astype(np.float32)
        worse = state | {"content": state["content"] + more, "waiting": state["waiting"] + more}
    else:
        fewer = replicas - 1 if change == "one pod" else np.floor(0.9 * replicas)
    better = step(params, state, replicas, rates, drawn)[1]
    bad = step(params, worse, fewer, rates, drawn)[1]
    gained = (better.late - bad.late) / np.maximum(better.arrivals, 1e-9)
    at = gained.argmax()
    assert gained[at] < 0.005, f"{gained[at]:.2%} became punctual at { {k: v[at] for k, v in chosen.items()} }"
    assert (gained > 1e-5).mean() < 2e-4, "a loss of capacity helps too often"
    assert (bad.late - better.late).sum() > 0.001 * better.late.sum(), "the change made no difference"


# --- metrics


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    lag=st.lists(st.integers(0, 12), min_size=2, max_size=2),
    window=st.lists(st.integers(1, 12), min_size=2, max_size=2),
    rates=st.lists(st.integers(1, 9), min_size=60, max_size=60),
)
def test_load_is_the_mean_over_the_window(lag: list[int], window: list[int], rates: list[int]) -> None:
    """lag and window in ticks of 3 s, one pair for each of two environments."""
    config = WorldConfig(fano=1.0, lag=3.0 * np.array(lag), window=3.0 * np.array(window), capacity_per_replica=1e7)
    params = compiled(config, 2)
    state = initial(params, 5)
    ticks = 1e6 * np.array(rates, np.float64)
    for now in range(12):
        reading = readings(params, state, 15.0 * now)
        for i in range(2):
            first, last = 5 * now - lag[i] - window[i], 5 * now - lag[i]
            expected = ticks[first:last].mean() if first >= 0 else np.nan
            # what is left of the noise where its draw is 0 is its median, 1e-7 at such counts
            np.testing.assert_allclose(reading.load[i], expected, rtol=1e-5, err_msg=f"at {15 * now} s, row {i}")
        state, _ = step(params, state, 5, ticks[5 * now : 5 * now + 5], silent(params))


@pytest.mark.parametrize(
    ("lag", "behind"), [(0.0, 0), (15.0, 1), (20.0, 2), (np.array([0.0, 45.0]), np.array([0, 3]))], ids=str
)
def test_backlog_and_latency_are_as_old_as_the_lag(lag: Any, behind: Any) -> None:
    params = compiled(WorldConfig(lag=lag, startup=0.0), 2)
    state, rng, seen = initial(params, 1), np.random.default_rng(0), []
    for now in range(8):
        state, outcome = step(params, state, 1, 12.0 + now * np.ones(2), draws(params, rng))
        seen.append(outcome.backlog)
        reading = readings(params, state, 0.0)
        for i, steps in enumerate(np.broadcast_to(behind, 2)):
            expected = seen[now - steps][i] if now >= steps else np.nan
            np.testing.assert_array_equal(reading.backlog[i], expected)
            assert np.isnan(reading.latency[i]) == (now < steps)


def test_utilisation_and_latency_of_a_stationary_queue() -> None:
    world = World(WorldConfig(startup=0.0, concurrency=2, fano=1.0), 3)
    world.reset(0, 10)
    for _ in range(30):
        world.step(10, np.array([30.0, 80.0, 300.0]))
    reading = world.readings()
    np.testing.assert_allclose(reading.utilization, [0.3, 0.8, 1.0], atol=1e-3)
    service = -np.log(0.05) * 0.2
    assert reading.latency[0] == pytest.approx(service, rel=1e-3)
    assert service < reading.latency[1] < service + 0.2
    assert reading.latency[2] > 60.0


def test_replica_counts_are_current() -> None:
    world = World(WorldConfig(startup=60.0), 1)
    world.reset(0, 4)
    world.step(10, 20.0)
    reading = world.readings(known=False)
    assert (reading.ready[0], reading.starting[0], reading.desired[0]) == (4, 6, 10)
    assert all(np.isnan(getattr(reading, name)[0]) for name in ("load", "backlog", "utilization", "latency"))


def test_what_the_trace_does_not_know_is_not_measured() -> None:
    world = World(WorldConfig(), 2)
    known = []
    for now in range(8):
        world.step(3, 20.0, known=np.array([True, now != 3]))
        known.append(~np.isnan(world.readings().load))
    # 15 s of lag and of window: the step is what is read one step later
    assert np.array(known)[:, 0].tolist() == [False] + [True] * 7
    assert np.array(known)[:, 1].tolist() == [False, True, True, True, False, True, True, True]


def test_gaps_hide_the_metrics_for_their_time() -> None:
    n = 2000
    world = World(WorldConfig(gap_rate=6.0, gap_duration=60.0, lag=0.0), n, seed=4)
    world.step(3, 20.0)
    hidden = []
    for _ in range(400):
        world.step(3, 20.0)
        hidden.append(np.isnan(world.readings().load))
    # a gap starts with probability q = 6 x 15 / 3600 in a step and lasts 4 steps from its last start
    expected = 1.0 - (1.0 - 6.0 * 15.0 / 3600.0) ** 4
    assert np.mean(hidden[10:]) == pytest.approx(expected, rel=0.03)


def test_completions_saturate() -> None:
    config = WorldConfig(startup=0.0, fano=1.0, completions=np.array([False, True]), lag=0.0)
    world = World(config, 2)
    world.reset(0, 5)
    loads = []
    for _ in range(200):
        world.step(5, 80.0)
        loads.append(world.readings().load)
    np.testing.assert_allclose(np.mean(loads, axis=0), [80.0, 50.0], rtol=0.02)


# --- the contract


@pytest.mark.parametrize("config", [WorldConfig(), EVERYTHING], ids=["standard", "everything"])
def test_same_seed_same_bits(config: WorldConfig) -> None:
    orders = np.random.default_rng(5).integers(0, 40, (30, 7))
    first, again, other = (play(config, orders, 150.0, seed=seed) for seed in (8, 8, 9))
    for field in fields(Outcome):
        if field.name != "late_over":
            np.testing.assert_array_equal(column(first, field.name), column(again, field.name), err_msg=field.name)
    assert (column(first, "arrivals") != column(other, "arrivals")).all()


def test_a_world_can_be_reset() -> None:
    world = World(EVERYTHING, 3, seed=1)
    first = world.step(5, 20.0)
    world.reset(1)
    assert world.time == 0.0
    again = world.step(5, 20.0)
    np.testing.assert_array_equal(first.arrivals, again.arrivals)
    assert world.readings().time == 15.0


def test_environments_do_not_see_each_other() -> None:
    n, steps, rng = 6, 20, np.random.default_rng(6)
    startup = np.array([0.0, 15.0, 33.0, 60.0, 60.0, 90.0])
    rates, orders = rng.uniform(10.0, 200.0, (steps, n)), rng.integers(1, 25, (steps, n))
    both = compiled(WorldConfig(startup=startup), n)
    state, drawn, found = initial(both, 5), [], []
    for t in range(steps):
        drawn.append(draws(both, rng))
        state, outcome = step(both, state, orders[t], rates[t], drawn[-1])
        found.append(outcome)
    for i in range(n):
        params = compiled(WorldConfig(startup=startup[i]), 1)
        alone = initial(params, 5)
        for t in range(steps):
            mine = {name: value[..., i : i + 1] for name, value in drawn[t].items()}
            alone, outcome = step(params, alone, orders[t, i], rates[t, i : i + 1], mine)
            for name in ("late", "backlog", "ready", "billed"):
                np.testing.assert_allclose(
                    getattr(outcome, name)[0], getattr(found[t], name)[i], rtol=1e-4, atol=1e-3, err_msg=name
                )


@pytest.mark.parametrize("config", [WorldConfig(), EVERYTHING], ids=["standard", "everything"])
def test_state_and_draws_are_not_written_to(config: WorldConfig) -> None:
    params, rng = compiled(config, 4), np.random.default_rng(0)
    state = initial(params, 3)
    for _ in range(5):
        drawn = draws(params, rng)
        kept = {name: value.copy() for name, value in (state | drawn).items()}
        after, outcome = step(
            params, state, rng.integers(0, 9, 4), 40.0 * np.ones(4), drawn, np.array([True] * 3 + [False])
        )
        for name, value in kept.items():
            np.testing.assert_array_equal({**state, **drawn}[name], value, err_msg=name)
        assert set(after) == set(state)
        assert all(value.dtype == np.float32 for value in after.values())
        assert all(getattr(outcome, f.name) is None or getattr(outcome, f.name).shape == (4,) for f in fields(Outcome))
        state = after


def test_rows_can_be_replaced() -> None:
    params = compiled(EVERYTHING, 4)
    state, fresh = initial(params, 3), initial(params, 8)
    mixed = replaced(params, state, fresh, np.array([1, 3]))
    assert mixed["desired"].tolist() == [3, 8, 3, 8]
    assert mixed["plan"][-1].tolist() == [3, 8, 3, 8]
    assert state["desired"].tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize(("interval", "ticks"), [(1.0, 1), (5.0, 2), (15.0, 5), (60.0, 20)])
def test_ticks_of_a_step(interval: float, ticks: int) -> None:
    world = World(WorldConfig(interval=interval, startup=60.0), 2)
    outcome = world.step(3, 5.0)
    assert world.params.ticks == ticks
    assert world.time == interval
    np.testing.assert_allclose(outcome.billed, 3.0 * interval)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"capacity_per_replica": 0.0}, "capacity_per_replica of the world is 0; expected requests/s above 0"),
        ({"concurrency": 1.5}, "concurrency of the world is 1.5; expected a whole number, 1 or more"),
        ({"concurrency": 0}, "concurrency of the world is 0; expected a whole number, 1 or more"),
        ({"slo_wait": -1.0}, "slo_wait of the world is -1; expected 0 or more seconds"),
        ({"fano": 0.5}, "fano of the world is 0.5; expected 1"),
        ({"startup": np.nan}, "startup of the world is nan; expected a finite number"),
        ({"startup": 1e5}, "startup of the world is 100000; expected 7200 seconds at most"),
        ({"startup_spread": 3.0}, "startup_spread of the world is 3; expected 0 to 1"),
        ({"window": 0.0}, "window of the world is 0; expected seconds above 0"),
        ({"max_nodes": -1}, "max_nodes of the world is -1"),
        ({"interval": np.array([15.0, 30.0])}, "interval of the world is 30; expected one interval"),
        ({"lag": [1.0, 2.0, 3.0]}, "lag of the world: expected a scalar or 2 values"),
        ({"lag": "soon"}, "lag of the world: .*'soon'"),
        ({"crash_rate": [0.1, -0.1]}, "crash_rate of the world is -0.1"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_nonsense_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compiled(WorldConfig(**changed), 2)


def test_no_environments_are_refused() -> None:
    with pytest.raises(ValueError, match="0 environments"):
        compiled(WorldConfig(), 0)
