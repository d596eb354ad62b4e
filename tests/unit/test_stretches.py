"""A long load in stretches side by side: the same decisions and outcomes, to the bit, as one after the other."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlscaler import Autoscaler, Settings, hedge_over_time
from rlscaler.behavior import DEFAULT
from rlscaler.policies import load_policy
from rlscaler.policy import View
from rlscaler.replay import features_over_time
from rlscaler.settings import compiled
from rlscaler.snapshot import Snapshot, cleaned
from rlscaler_sim import contenders, contest, elsewhere, evaluation, long_plan, seams, stretches, told, world
from rlscaler_sim.contest import Entrant
from rlscaler_sim.load import Load
from rlscaler_sim.measure import gridded, measured
from rlscaler_sim.noise import Noise
from rlscaler_sim.totals import Totals, Traced

INTERVAL, TICKS, STEPS = 15.0, 5, 600
SETTINGS = contenders.standard_settings()
UNREAD = ("backlog", "latency", "utilization")


def wild(steps: int, seed: int = 3, again: int = 0) -> tuple[Load, np.ndarray]:
    """Return a load with waves, crowds and gaps, and what is read of it; again: samples after which a burst returns."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)
    rates = (120.0 - 90.0 * np.cos(t / 300.0)) * np.exp(0.1 * rng.standard_normal(steps))
    for begin in range(150, steps, 400):
        rates[begin : begin + 12] *= 2.5
    for begin in range(20, steps if again else 0, again or steps):
        rates[begin : begin + 4] += 600.0
    known = rng.random(steps) > 0.02
    known[:2], known[steps // 2 : steps // 2 + 25] = True, False
    ticks = np.repeat(known, TICKS)
    load = Load("wild", INTERVAL / TICKS, np.repeat(rates, TICKS).astype(np.float32), ticks, ticks, 100 * 604800.0)
    return load, np.where(known, np.roll(rates, 2), np.nan)[None]


def entrants(settings: Settings = SETTINGS) -> list[Entrant]:
    orders = np.random.default_rng(5).integers(10, 60, (1, 5000))
    bare = replace(settings, behavior=None, floor=False, flap_budget=np.inf)
    return [
        contenders.entrant("growth-quantile", settings),
        Entrant("limited", load_policy("growth-quantile"), replace(settings, behavior=DEFAULT, flap_budget=6.0)),
        *(contenders.entrant(name, settings) for name in ("hpa-tuned", "keda", "threshold", "churn")),
        Entrant("recorded", contest.Schedule(orders, "recorded"), bare),
    ]


def played(monkeypatch: pytest.MonkeyPatch, cut: bool, early: float = 900.0, **given: Any) -> tuple[Traced, Totals]:
    monkeypatch.setattr(told, "LEAST", 100 if cut else 10**9)
    monkeypatch.setattr(stretches, "WARM_UP", early)
    load, readings = wild(STEPS)
    config = replace(evaluation.standard_world(SETTINGS), fano=1.5, **given.pop("world", {}))
    traced = Traced(observe=given.pop("observe", False))
    seen = readings if given.pop("recorded", True) else None
    sums = stretches.play(load, given.pop("who", entrants()), config, SETTINGS, 7, watch=0, traced=traced, seen=seen,
                          unread=UNREAD, **given)  # fmt: skip
    return traced, sums


def require_equal(found: tuple[Traced, Totals], expected: tuple[Traced, Totals]) -> None:
    """All that happened is the same to the bit; only sums are added in another order."""
    for name in expected[0].columns:
        np.testing.assert_array_equal(found[0].array(name), expected[0].array(name), err_msg=name)
    assert (found[0].time, found[0].load, found[0].known) == (expected[0].time, expected[0].load, expected[0].known)
    assert found[0].decisions == expected[0].decisions
    for name in ("billed", "needed", "late", "arrivals", "waits", "rescales", "largest"):
        left, right = getattr(found[1], name), getattr(expected[1], name)
        np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-9, err_msg=name)


CASES: dict[str, dict[str, Any]] = {
    "recorded readings": {},
    "no time to forget a guess": {"early": 15.0},
    "readings of the world": {"recorded": False},
    "pods that start by chance and fail": {"world": {"startup_spread": 0.4, "crash_rate": 0.5, "drain": 20.0}},
    "observations": {"observe": True, "who": entrants()[:2]},
    "the default policy": {"who": [contenders.tested("default", SETTINGS)]},
    "the default policy on readings of the world": {
        "who": [contenders.tested("default", SETTINGS)],
        "recorded": False,
        "world": {"lag": 45.0, "window": 30.0},
    },
}


@pytest.mark.parametrize("given", CASES.values(), ids=CASES)
def test_stretches_are_as_one_piece(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = played(monkeypatch, cut=False, **dict(given))
    require_equal(played(monkeypatch, cut=True, **dict(given)), expected)
    assert len({d["replicas"] for d in expected[0].decisions}) > 10


def test_the_default_policy_is_not_played_one_by_one_where_its_first_readings_are_simulated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first windows of simulated metrics are not full; 60 days of coarse buckets would take an hour for that."""
    monkeypatch.setattr(contest, "play", None)
    given = CASES["the default policy on readings of the world"]
    traced, _ = played(monkeypatch, cut=True, **dict(given))
    assert traced.decisions[0]["demand"] is None
    assert len(traced.decisions) == STEPS


def test_progress_is_told_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int]] = []
    played(monkeypatch, cut=True, who=entrants()[:1], progress=lambda done, total: shown.append((done, total)))
    assert shown[0][0] == 1
    assert shown[-1][0] == shown[-1][1]
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)


def test_an_hpa_tuned_on_the_load_is_the_best_of_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    load, seen = wild(500)
    grid = {name: values[::9] for name, values in contenders.own_grid().items()}
    config = evaluation.standard_world(SETTINGS)
    one_by_one = contest.play([load], [contenders.entrant("hpa-own", SETTINGS, grid, len(grid["target"]))], config,
                              SETTINGS, [7], waits=False, seen=seen)  # fmt: skip
    monkeypatch.setattr(contenders, "own_grid", lambda: grid)
    known = told.beforehand(load, config, SETTINGS, 7, seen)
    found = stretches.own_constants(load, config, SETTINGS, 7, known)
    best = int(one_by_one.score[:, 0].argmin())
    assert found == {name: float(values[best]) for name, values in grid.items()}


def test_what_is_measured_in_stretches_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "LEAST", 100)
    monkeypatch.setattr(told, "LANE", 60)
    load, _ = wild(500)
    config = replace(evaluation.standard_world(SETTINGS), lag=40.0, window=30.0)
    params = world.compiled(config, 1)
    rates, known, _ = gridded([load], TICKS)
    expected = measured(params, rates, known.all(axis=2), Noise(params, [("wild", 7)], 1)).seen
    np.testing.assert_array_equal(told.beforehand(load, config, SETTINGS, 7).read, expected[0])


def test_draws_of_the_whole_load_are_those_of_its_steps() -> None:
    params = world.compiled(world.WorldConfig(crash_rate=1.0, startup_spread=0.2), 1)
    whole = Noise(params, [("wild", 7)], 1).whole(600)
    stepped = Noise(params, [("wild", 7)], 1)
    for step in range(600):
        for name, array in stepped.step().items():
            np.testing.assert_array_equal(array[..., 0], whole[name][step])


@pytest.mark.parametrize(
    ("policy", "objective", "again"),
    [("tenure", 99.9, 0), ("default", 99.9, 0), ("tenure", 95.0, 0), ("tenure", 99.999, 0), ("default", 99.9, 36)],
)
def test_a_hedge_over_time_proposes_as_tick_by_tick(
    policy: str, objective: float, again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hedge_over_time, "WARM_UP", 300.0)
    load, seen = wild(500, again=again)
    settings = replace(SETTINGS, objective=replace(SETTINGS.objective, target=objective))
    facts, time = compiled(settings, 1), load.start + INTERVAL * np.arange(500)
    features = features_over_time(time, seen[0], facts, INTERVAL)
    made = load_policy(policy)
    tenure: Any = getattr(made, "tenure", made)
    hedge = tenure.hedge
    assert hedge_over_time.blind(hedge)
    assert (features["period"] > 0.0).any() == bool(again)
    found, patience = hedge_over_time.proposals(hedge, time, seen[0], features, facts, 9.0)
    memory = made.state(1)
    for tick in range(500):
        at = slice(tick, tick + 1)
        snapshot = cleaned(np, Snapshot(time=time[at], load=seen[0, at]), 1, facts["interval"])
        view = View(xp=np, settings=facts, snapshot=snapshot, features={n: a[at] for n, a in features.items()},
                    demand=snapshot["load"] / facts["capacity_per_replica"], current=np.array([9.0]))  # fmt: skip
        proposal, memory = made.propose(view, memory)
        np.testing.assert_array_equal(found[at], proposal.replicas, err_msg=str(tick))
        kept = np.zeros(1) if proposal.patience is None else proposal.patience
        np.testing.assert_array_equal(patience[at], kept, err_msg=str(tick))


def test_a_plan_in_parts_is_as_good_and_its_bound_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    load, _ = wild(1500)
    load = replace(load, known=np.ones_like(load.known), scored=np.ones_like(load.scored))
    config = evaluation.standard_world(SETTINGS)
    whole = evaluation.clairvoyant_plan([load], [7], config, SETTINGS)
    for name, value in (("LEAST", 100), ("PART", 300), ("BOUNDED", 600)):
        monkeypatch.setattr(long_plan, name, value)
    parts = long_plan.plan(load, 7, config, SETTINGS)
    both = [evaluation.limit(plan, SETTINGS) for plan in (whole, parts)]
    score = contest.play([load], both, config, SETTINGS, [7], waits=False).score[:, 0]
    assert score[1] == pytest.approx(score[0], rel=2e-3)
    assert 0.97 * whole.lower_bound[0] < parts.lower_bound[0] < whole.lower_bound[0] * 1.001 < score.min()


def test_worlds_side_by_side_are_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capacity and start-up differ, so that the pods' plans do not even have the same length."""
    monkeypatch.setattr(told, "LEAST", 100)
    load, readings = wild(STEPS)
    config = evaluation.standard_world(SETTINGS)
    others = [replace(config, capacity_per_replica=9.0), replace(config, startup=20.0), replace(config, startup=90.0)]
    known = told.beforehand(load, config, SETTINGS, 7, readings)
    start = contest.start_replicas([load], SETTINGS)
    who = [contenders.tested("default", SETTINGS), *entrants()]
    who = stretches.foretold(who, load, known, SETTINGS, start, UNREAD)
    planned = elsewhere.plans(load, others, SETTINGS, 7, start)
    found = elsewhere.elsewhere(load, who, others, SETTINGS, 7, planned=planned, own=(), told=known,
                                seen=readings, start=start, unread=UNREAD)  # fmt: skip
    for each, plan, figures in zip(others, planned, found, strict=True):
        limit = evaluation.limit(plan, SETTINGS)
        alone = stretches.play(load, [*who, limit], each, SETTINGS, 7, seen=readings, start=start, unread=UNREAD)
        assert [c.replica_hours for c in figures[:-1]] == pytest.approx(alone.billed[:-1, 0] / 3600.0, rel=1e-12)
        assert [c.violation_share for c in figures[:-1]] == pytest.approx(alone.violation_share[:-1, 0], rel=1e-9)
        assert figures[-1].score <= alone.score[-1, 0] * (1.0 + 1e-9)


def test_a_plan_without_its_bound_is_the_same_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    load, _ = wild(1500)
    config = evaluation.standard_world(SETTINGS)
    for name, value in (("LEAST", 100), ("PART", 300), ("BOUNDED", 600), ("AT_ONCE", 2)):
        monkeypatch.setattr(long_plan, name, value)
    bounded, bare = (long_plan.plan(load, 7, config, SETTINGS, bounded=each) for each in (True, False))
    np.testing.assert_array_equal(bare.orders, bounded.orders)
    assert bounded.lower_bound > 0.0


def test_what_no_window_holds_any_more_is_no_difference() -> None:
    settings = replace(SETTINGS, behavior=DEFAULT)
    scaler = Autoscaler("hpa", settings, 2)
    for step, (first, second) in enumerate([(100.0, 400.0)] * 30 + [(200.0, 200.0)] * 60):
        counts = np.array([20.0, 20.0])
        scaler.decide(Snapshot(time=1e6 + 15.0 * step, load=np.array([first, second]), ready=counts, desired=counts))
        guard = scaler.memory([0, 1])["guard"]
        one, two = ({name: array[i : i + 1] for name, array in guard.items()} for i in (0, 1))
        after = np.array([1e6 + 15.0 * (step + 1)])
        same = seams.same_guard(one, two, compiled(settings, 1), after)
        assert same[0] == (step >= 30 + 300.0 / 15.0 - 2), step
