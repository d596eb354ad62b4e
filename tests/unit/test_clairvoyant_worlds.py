"""In a world without chance no rule scores better than the clairvoyant, and what it plans is what the world does."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from rlscaler import Settings
from rlscaler.settings import Objective
from rlscaler_sim import clairvoyant, contenders, world
from rlscaler_sim.clairvoyant.problem import compiled
from rlscaler_sim.clairvoyant.work_bound import work_bound
from rlscaler_sim.contest import play, start_replicas
from rlscaler_sim.evaluation import clairvoyant_plan, known_to_the_end, limit, standard_world
from rlscaler_sim.load import Load, generator, realise
from rlscaler_sim.queueing import erlang_c_exact, inverse_wait_probability
from rlscaler_sim.result import CLAIRVOYANT, LATE_WEIGHT
from rlscaler_sim.scenarios import LOADS
from rlscaler_sim.trace import Trace

TOLERANCE = 1e-3
"""Share of the score by which a rule may be better: the plan is the best found on a grid."""


def burst() -> Trace:
    """Return a recorded load that doubles within a minute, with noise and a gap of five minutes."""
    rng = np.random.default_rng(3)
    minutes = np.arange(240)
    rates = (
        20.0 + 8.0 * np.sin(minutes / 35.0) + 30.0 * np.exp(-np.clip(minutes - 110, 0, None) / 12.0) * (minutes >= 110)
    )
    rates *= np.exp(0.08 * rng.standard_normal(minutes.size))
    rates[80:85] = np.nan
    return Trace("burst", 0.0, 60.0, rates)


@dataclass(frozen=True)
class Case:
    """A workload and its load; `load` is a name of `scenarios.LOADS` or "burst"."""

    load: str = "working-day"
    hours: float = 1.25
    begin: float = 7.0
    more: dict[str, Any] = field(default_factory=dict)
    latency: float = 0.5
    scale_to: float = 25.0

    @property
    def settings(self) -> Settings:
        """Of the workload."""
        facts = {"min_replicas": 1, "max_replicas": 60, "interval": 15.0, "startup": 60.0, "lag": 15.0,
                 "capacity_per_replica": 10.0, "concurrency": 1} | self.more  # fmt: skip
        return Settings(objective=Objective(latency=self.latency, target=99.0), **facts)

    @property
    def realised(self) -> Load:
        """Its load."""
        settings, interval = self.settings, float(self.settings.interval)
        source = burst() if self.load == "burst" else LOADS[self.load].source
        return realise(
            source, interval=interval, tick=interval / max(1, round(interval / 3.0)), duration=3600.0 * self.hours,
            start=3600.0 * self.begin, scale_to=self.scale_to, capacity=float(settings.capacity_per_replica),
            rng=generator(source.name, 0),
        )  # fmt: skip


QUEUE = {"interval": 30.0, "capacity_per_replica": 2.5, "concurrency": 10, "startup": 90.0, "min_replicas": 0}
WORLDS = {
    "nearly no wait": Case(latency=0.2),
    "a wait of a twentieth of the interval": Case(latency=0.9),
    "a wait of a fifth of the interval": Case(latency=3.0),
    "a wait of the interval": Case(latency=15.0),
    "a wait of ten intervals": Case(latency=150.0),
    "a wait of an hour": Case(latency=3600.0),
    "no start-up": Case(latency=20.0, more={"startup": 0.0}),
    "start-up shorter than the interval": Case(latency=20.0, more={"startup": 10.0}),
    "start-up that ends within a step": Case(latency=20.0, more={"startup": 70.0}),
    "start-up of five minutes": Case(latency=20.0, more={"startup": 300.0}),
    "start-up of five minutes, hardly a wait": Case(latency=0.5, more={"startup": 300.0}),
    "workers of a queue": Case(latency=60.0, more=QUEUE),
    "workers of a queue, in batches": Case("batch", latency=60.0, hours=3.0, begin=0.0, more=QUEUE),
    "long jobs, few replicas": Case(latency=120.0, scale_to=6.0, more=QUEUE | {"capacity_per_replica": 0.5,
                                                                              "concurrency": 4}),
    "more work than replicas, for a while": Case(latency=30.0, more={"max_replicas": 22}),
    "more work than replicas, hardly a wait": Case("spike", hours=2.0, begin=0.0, more={"max_replicas": 22}),
    "far more work than replicas": Case(latency=5.0, more={"max_replicas": 8}),
    "many replicas": Case(latency=10.0, hours=0.5, scale_to=400.0, more={"max_replicas": 1000}),
    "a recorded burst with a gap": Case("burst", hours=2.0, begin=1.0),
    "a recorded burst with a gap, and a wait": Case("burst", hours=2.0, begin=1.0, latency=45.0),
    "on and off": Case("on-off", hours=1.5, begin=0.0, latency=40.0, more={"min_replicas": 0}),
}  # fmt: skip
RULES = tuple(name for name in contenders.NAMES if name not in (CLAIRVOYANT, contenders.OWN))


@pytest.mark.parametrize("case", WORLDS.values(), ids=WORLDS.keys())
def test_no_rule_is_better_than_the_clairvoyant(case: Case) -> None:
    settings, load = case.settings, case.realised
    config = standard_world(settings)
    plan = clairvoyant_plan([load], [0], config, settings)
    entrants = [contenders.entrant(name, settings) for name in RULES]
    sums = play([load], [*entrants, limit(plan, settings)], config, settings, [0], waits=False)
    scores = dict(zip((*RULES, CLAIRVOYANT), sums.score[:, 0].tolist(), strict=True))
    best = min(RULES, key=lambda name: scores[name])
    assert scores[CLAIRVOYANT] <= scores[best] * (1.0 + TOLERANCE), f"{best} is better: {scores}"
    assert min(scores.values()) >= plan.lower_bound[0], f"below the bound {plan.lower_bound[0]}: {scores}"
    assert np.all(load.scored) == (case.load != "burst")
    if np.all(load.scored):
        known = known_to_the_end([load], [0], config)
        again = clairvoyant.plan(clairvoyant.Question(
            known.arrivals, settings.capacity_per_replica, settings.concurrency, config.slo_wait,
            float(settings.interval), float(settings.startup), settings.min_replicas, settings.max_replicas,
            start_replicas([load], settings), LATE_WEIGHT, known.weight, known.needed,
        ))  # fmt: skip
        np.testing.assert_array_equal(again.orders, plan.orders)
        assert again.scores.min() == pytest.approx(scores[CLAIRVOYANT], rel=1e-3), "the world does not do as planned"


NEAR = {"a wait of ten intervals": 1.02, "workers of a queue": 1.03, "a wait of a fifth of the interval": 1.10}


@pytest.mark.parametrize(("name", "most"), NEAR.items(), ids=NEAR.keys())
def test_where_requests_may_wait_the_plan_is_near_its_bound(name: str, most: float) -> None:
    case = replace(WORLDS[name], hours=12.0)
    settings = case.settings
    problem, config = case.realised, standard_world(settings)
    known = known_to_the_end([problem], [0], config)
    plan = clairvoyant.plan(clairvoyant.Question(
        known.arrivals, settings.capacity_per_replica, settings.concurrency, config.slo_wait,
        float(settings.interval), float(settings.startup), settings.min_replicas, settings.max_replicas,
        start_replicas([problem], settings), LATE_WEIGHT,
    ))  # fmt: skip
    assert plan.lower_bound[0] > 0.95
    assert plan.scores.min() < most * plan.lower_bound[0]


# --- the work that has to be paid


PHYSICS = {
    "standard": {},
    "no start-up": {"startup": 0.0},
    "start-up below a step": {"startup": 10.0},
    "service longer than start-up": {"concurrency": 200, "startup": 15.0},
    "long service": {"concurrency": 40},
}


@pytest.mark.parametrize("case", PHYSICS.values(), ids=PHYSICS.keys())
def test_no_orders_get_work_done_for_less_than_the_bound(case: dict[str, Any]) -> None:
    """Thrifty, wild and swinging orders; the last take along what removed replicas have in service."""
    rng = np.random.default_rng(11)
    steps, rows, high = 400, 60, 12
    config = world.WorldConfig(**{"slo_wait": 20.0, "startup": 60.0, "fano": 1.0} | case)
    params = world.compiled(config, rows)
    rates = (60.0 * np.exp(0.3 * np.sin(np.arange(steps) / 40.0) + 0.1 * rng.standard_normal(steps))).astype(np.float32)
    share = np.linspace(0.0, 1.4, rows)[:, None]
    orders = np.clip(np.round(share * rates / 10.0 + rng.uniform(-1.0, 1.0, (rows, steps))), 0, high)
    orders[::3] = np.where(np.arange(steps) // rng.integers(1, 9, (rows // 3, 1)) % 2, high, orders[::3])
    orders[1::3] = np.where(np.arange(steps) > 0.95 * steps, 0, orders[1::3])
    state = world.initial(params, 6)
    billed, needed, late, come = np.zeros((4, rows))
    for t in range(steps):
        state, out = world.step(params, state, orders[:, t], float(rates[t]), world.draws(params, rng))
        for total, part in ((billed, out.billed), (needed, out.needed), (late, out.late), (come, out.arrivals)):
            total += part
    arrivals = np.repeat(rates[:, None] * params.tick, params.ticks, axis=1)[None]
    for price in (0.5, LATE_WEIGHT):
        scores = billed / needed + price * late / come
        plan = clairvoyant.plan(
            clairvoyant.Question(arrivals, 10.0, config.concurrency, 20.0, 15.0, config.startup, 0, high, 6, price)
        )
        assert plan.lower_bound[0] <= scores.min(), f"orders {scores.argmin()} beat the bound at a price of {price}"
        assert plan.lower_bound[0] <= plan.scores.min()
    assert plan.lower_bound[0] > (0.8 if config.concurrency == 1 else 0.2), "the bound is loose"


def test_late_requests_that_cost_next_to_nothing_prove_nothing() -> None:
    come = np.full((1, 50, 5), 300.0)
    problem = compiled(clairvoyant.Question(come, 10.0, 1, 20.0, 15.0, 60.0, 0, 12, 6, 0.5, None, None))
    assert work_bound(problem)[0] == 0.0
    assert (
        work_bound(replace(problem, programme=replace(problem.programme, price=problem.programme.price * 40.0))) > 0.8
    )


def test_the_chance_of_waiting_falls_from_one_no_faster_than_the_bound_says() -> None:
    """(1 - C) / (1 - load / capacity) <= 1 + 1.26 sqrt(servers), by the recursion and by what the world uses."""
    servers = np.unique(np.geomspace(1, 5000, 60).astype(int))[:, None]
    load = 1.0 - np.geomspace(1e-3, 0.999, 200)[None]
    limit_of = 1.0 + 1.26 * np.sqrt(servers)
    exact = (1.0 - erlang_c_exact(servers, load)) / (1.0 - load)
    used = 1.0 - 1.0 / inverse_wait_probability(np, np.broadcast_to(servers * 1.0, exact.shape), load + 0.0 * servers)
    assert (exact <= limit_of).all()
    assert (used / (1.0 - load) <= limit_of).all()
