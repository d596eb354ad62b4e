"""Seasonal forecast with model-predictive control: the plan against brute force, and named cases."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.erlang import normal_tail
from rlscaler.policy import View
from rlscaler.rules.mpc import SLOTS, Mpc, _is_ordered, first_order

QUIET: dict[str, Any] = {"slack": 0.0, "sigma": 0.05}


def make_view(level: float = 20.0, *, current: float = 20.0, ahead: Any = 0.0, **given: float) -> View:
    """Return a view of one workload of the standard world (a reaction time of 90 s, slots of 45 s)."""
    options: dict[str, float] = {
        "interval": 15,
        "lag": 15,
        "startup": 60,
        "capacity_per_replica": 10,
        "price": 20,
    }
    options |= {key: given.pop(key) for key in list(given) if key in options}
    noise, backlog = given.pop("noise", 0.1), given.pop("backlog", np.nan)
    demand = given.pop("demand", level)
    assert not given
    features: dict[str, Any] = {name: np.array([noise], np.float32) for name in ("noise_5m", "noise_1h")}
    features |= {"level": np.array([level], np.float32)}
    features["ahead"] = np.broadcast_to(np.asarray(ahead, np.float32), (1, 8))
    return View(xp=np, settings={k: np.array([float(v)]) for k, v in options.items()},
                snapshot={"time": np.zeros(1), "backlog": np.array([backlog])}, features=features,
                demand=np.array([float(demand)]), current=np.array([float(current)]))  # fmt: skip


def order(view: View, **options: Any) -> float:
    """Return the replicas that the rule asks for."""
    return float(Mpc(**options).propose(view, {})[0].replicas[0])


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    marginal=st.lists(st.integers(-5, 5), min_size=SLOTS, max_size=SLOTS),
    stands=st.booleans(),
    restart=st.integers(0, 6),
)
def test_a_layer_is_ordered_where_enumeration_orders_it(marginal: list[int], stands: bool, restart: int) -> None:
    costs: dict[bool, float] = {True: np.inf, False: np.inf}
    for plan in product((0, 1), repeat=SLOTS):
        states = (int(stands), *plan)
        starts = [j for j in range(SLOTS) if states[j + 1] > states[j]]
        if any(j < 2 for j in starts):
            continue
        cost = sum(m * on for m, on in zip(marginal, plan, strict=True)) + restart * len(starts)
        ordered = any(plan[:3])
        costs[ordered] = min(costs[ordered], cost)
    column = np.array(marginal, float)[:, None]
    found = bool(_is_ordered(np, column, np.array([stands]), np.array([float(restart)]))[0])
    assert found == (costs[True] < costs[False])


@settings(deadline=None, derandomize=True, max_examples=25)
@given(seed=st.integers(0, 10_000), current=st.floats(-1.2, 1.2), restart=st.sampled_from([0.0, 0.5, 1.3, 6.0]))
def test_the_order_is_that_of_the_best_plan_over_whole_replica_counts(
    seed: int, current: float, restart: float
) -> None:
    rng = np.random.default_rng(seed)
    mean, sigma, lack = rng.normal(0, 0.5, SLOTS), rng.uniform(0.05, 0.6, SLOTS), 80.0
    found = first_order(np, mean[:, None], sigma[:, None], np.array([current]), np.array([lack]), np.array([restart]))[
        0
    ]

    # Dynamic programming over n_j on a grid of x = e^h, with costs and switching integrated along the grid.
    edges = np.exp(np.linspace(-4, 4, 801))
    width = np.diff(edges, prepend=0.0)
    marginal = 1.0 - lack * normal_tail(np, (np.log(edges)[None, :] - mean[:, None]) / sigma[:, None])
    stage = np.cumsum(marginal * width[None, :], axis=1)
    added = restart * np.maximum(edges[None, :] - edges[:, None], 0.0)  # [from, to]
    value = np.zeros(len(edges))
    for slot in range(SLOTS - 1, 2, -1):
        value = (added + (stage[slot] + value)[None, :]).min(axis=1)
    standing = int(np.searchsorted(edges, np.exp(current), side="right")) - 1
    best, answer = np.inf, 0.0
    for n0 in range(0, standing + 1, 1):
        n1 = np.arange(n0 + 1)
        two = stage[2] + value
        costs = stage[0][n0] + stage[1][n1][:, None] + added[n1] + two[None, :]
        k, n2 = np.unravel_index(int(np.argmin(costs)), costs.shape)
        if costs[k, n2] < best - 1e-9:
            best, answer = float(costs[k, n2]), float(edges[max(n0, int(k), int(n2))])
    assert np.exp(found) == pytest.approx(answer, rel=0.021)


def test_without_noise_the_order_is_the_forecast() -> None:
    assert order(make_view(noise=0.0), **QUIET) == pytest.approx(20, rel=0.05)
    assert order(make_view(noise=0.0, ahead=np.log(1.5)), **QUIET) == pytest.approx(30, rel=0.05)
    assert order(make_view(noise=0.0, ahead=np.log(1.5)), season=0.0, **QUIET) == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize(
    ("rise_at", "ordered"),
    [
        pytest.param(0, True, id="in-half-a-reaction-time"),
        pytest.param(1, True, id="when-an-order-of-now-serves"),
        pytest.param(2, False, id="later-can-wait"),
        pytest.param(7, False, id="at-the-end"),
    ],
)
def test_an_order_is_made_when_it_must_be_and_not_before(rise_at: int, ordered: bool) -> None:
    ahead = np.where(np.arange(8) >= rise_at, 0.7, 0.0)
    found = order(make_view(current=22, noise=0.02, ahead=ahead), **QUIET)
    assert (found > 35) == ordered, found


def test_a_coming_fall_releases_nothing_that_is_needed_now() -> None:
    found = order(make_view(current=22, noise=0.02, ahead=-0.7), **QUIET)
    assert 20 < found <= 22


@pytest.mark.parametrize(
    ("restart", "kept"),
    [pytest.param(0.5, False, id="cheap-restart"), pytest.param(8.0, True, id="dear-restart")],
)
def test_a_lull_keeps_replicas_only_where_starting_again_costs_more(restart: float, kept: bool) -> None:
    ahead = np.array([0, 0, 0, 0, 1, 1, 1, 1]) * np.log(2.0)  # back to 40 after four slots
    found = order(make_view(current=44, noise=0.02, ahead=ahead), restart=restart, **QUIET)
    assert (found > 39) == kept, found


def test_what_is_kept_does_not_drift_even_at_thousands_of_replicas() -> None:
    ahead = np.array([0, 0, 0, 0, 1, 1, 1, 1]) * np.log(2.0)
    current = 8060.0
    for _ in range(5):
        current = np.ceil(order(make_view(4000.0, current=current, noise=0.02, ahead=ahead), restart=8.0, **QUIET))
    assert current == 8060


@pytest.mark.parametrize("knob", ["noise", "price", "level"])
def test_more_noise_price_or_load_orders_more(knob: str) -> None:
    steps = {
        "noise": np.linspace(0.01, 0.5, 12),
        "price": np.geomspace(1, 500, 12),
        "level": np.linspace(0, 80, 12),
    }
    found = [order(make_view(**{knob: float(value)})) for value in steps[knob]]
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize("knob", ["bias", "sigma", "lack", "slack"])
def test_every_cautious_constant_orders_more(knob: str) -> None:
    parameter = Mpc.PARAMETERS[knob]
    low, high = (order(make_view(), **{knob: value}) for value in (parameter.low, parameter.high))
    assert low < high


def test_the_newsvendor_quantile_where_nothing_switches() -> None:
    """With free restarts and a flat forecast the order is the quantile of demand when it serves."""
    found = order(make_view(current=0, noise=0.1), restart=1e-9, sigma=1.0, lack=4.0, slack=0.0)
    sigma = 0.1 * np.sqrt((2 * 45 + 15) / 15 + 0.5)
    z = np.log((found + 0.5) / 20.5) / sigma
    assert float(normal_tail(np, np.array([z]))[0]) == pytest.approx(1 / 80, rel=1e-3)


def test_backlog_adds_the_replicas_that_drain_it() -> None:
    without, with_it = (order(make_view(current=0, backlog=b), drain=10.0) for b in (0.0, 500.0))
    assert with_it - without == pytest.approx(5.0, abs=1e-3)


def test_it_asks_for_patience() -> None:
    patience = Mpc(hold=45.0).propose(make_view(), {})[0].patience
    assert patience is not None
    assert patience.tolist() == [45.0]


def test_unknown_features_have_stand_ins() -> None:
    plain = order(make_view())
    assert order(make_view(np.nan, demand=20.0)) == pytest.approx(plain)
    assert order(make_view(noise=np.nan)) == pytest.approx(plain, rel=1e-6)
    assert order(make_view(ahead=np.nan)) == pytest.approx(plain)
    assert np.isnan(order(make_view(demand=np.nan)))
    assert np.isfinite(order(make_view(0.0, current=np.nan)))
