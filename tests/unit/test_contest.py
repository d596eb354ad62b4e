"""Contenders meet the same draws, and what is counted of them is what the world did."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlscaler import Autoscaler, Objective, Settings
from rlscaler.arrays import State
from rlscaler.behavior import DEFAULT
from rlscaler.policy import Proposal, View
from rlscaler.rules.growth import Growth
from rlscaler.rules.hpa import Hpa
from rlscaler.rules.simple import Random, Static
from rlscaler_sim import contest, patterns, world
from rlscaler_sim.contest import Entrant, Schedule, play, start_replicas
from rlscaler_sim.load import Load, realise
from rlscaler_sim.noise import Noise
from rlscaler_sim.queueing import erlang_c_exact
from rlscaler_sim.totals import WAIT_EDGES, Totals, Traced

TOTALS = ("billed", "needed", "late", "arrivals", "rescales", "largest")
STANDARD = Settings(capacity_per_replica=10.0, objective=Objective(latency=0.5, target=99.9))
BARE = replace(STANDARD, floor=False, flap_budget=np.inf)
KNOWING = replace(BARE, holds=False)
WORLD = world.WorldConfig()
POISSON = world.WorldConfig(fano=1.0)


def load_of(pattern: str, minutes: float = 30.0, seed: int = 0) -> Load:
    return realise(patterns.parse(pattern), duration=60.0 * minutes, rng=np.random.default_rng(seed))


def steady(rate: float, steps: int, name: str = "steady") -> Load:
    known = np.ones(5 * steps, bool)
    return Load(name, 3.0, np.full(5 * steps, rate, np.float32), known, known)


def entrants() -> list[Entrant]:
    """Return one of each kind: a rule with the guard, one with state and windows, and one that draws numbers."""
    return [
        Entrant("growth", Growth(), STANDARD),
        Entrant("hpa", Hpa(), replace(BARE, behavior=DEFAULT)),
        Entrant("random", Random(seed=5, size=3.0), BARE),
    ]


def row(sums: Totals, entrant: int, load: int) -> dict[str, Any]:
    """Return all that was counted of one entrant on one load, to the bit."""
    found = {name: float(getattr(sums, name)[entrant, load]) for name in TOTALS}
    return found | {"waits": sums.waits[:, entrant, load].tolist()}


# --- paired draws


def test_the_same_entrant_twice_gets_the_same_to_the_bit() -> None:
    sums = play(
        [load_of("working-day"), load_of("spike", seed=1)], [*entrants()[:2], *entrants()[:2]], WORLD, STANDARD, [3, 4]
    )
    for entrant in (0, 1):
        for load in (0, 1):
            assert row(sums, entrant, load) == row(sums, entrant + 2, load)
    assert row(sums, 0, 0) != row(sums, 1, 0)
    assert row(sums, 0, 0) != row(sums, 0, 1)


def test_another_entrant_changes_nobody() -> None:
    load, (growth, hpa, random) = load_of("random-walk"), entrants()
    alone = play([load], [hpa], WORLD, STANDARD, [7])
    among = play([load], [random, hpa, growth], WORLD, STANDARD, [7])
    assert row(alone, 0, 0) == row(among, 1, 0)


@pytest.mark.parametrize("interval", [15.0, 30.0])
def test_another_load_changes_nobody(interval: float) -> None:
    settings = replace(STANDARD, interval=interval)
    first = realise(patterns.parse("sinusoidal"), interval=interval, duration=1200.0, rng=np.random.default_rng(0))
    longer = realise(patterns.parse("spike"), interval=interval, duration=2400.0, rng=np.random.default_rng(1))
    members = [replace(e, settings=replace(e.settings, interval=interval)) for e in entrants()[:2]]
    alone = play([first], members, WORLD, settings, [7])
    among = play([longer, first], members, WORLD, settings, [1, 7])
    for entrant in (0, 1):
        assert row(alone, entrant, 0) == row(among, entrant, 1)


@pytest.mark.parametrize("count", [1, contest.REPLAYED + 1])
def test_each_decides_by_its_own_objective(count: int) -> None:
    loads, seeds = [load_of("random-walk", 60.0, seed) for seed in range(count)], range(count)
    strict = replace(STANDARD, objective=Objective(latency=0.5, target=99.99))
    usual, careful = Entrant("usual", Growth(), STANDARD), Entrant("careful", Growth(), strict)
    among = play(loads, [usual, careful], WORLD, STANDARD, seeds)
    for entrant, (alone, settings) in enumerate([(usual, STANDARD), (careful, strict)]):
        by_itself = play(loads, [alone], WORLD, settings, seeds)
        for name in TOTALS:
            np.testing.assert_allclose(getattr(among, name)[entrant], getattr(by_itself, name)[0], 1e-6, err_msg=name)
    assert (among.billed[1] > among.billed[0]).all()


def test_a_seed_is_another_draw_of_the_same_load() -> None:
    load = load_of("working-day")
    sums = play([load, load, load], entrants()[:1], WORLD, STANDARD, [1, 2, 1])
    assert row(sums, 0, 0) == row(sums, 0, 2)
    assert sums.arrivals[0, 0] != sums.arrivals[0, 1]
    np.testing.assert_allclose(sums.needed[0, 1], sums.needed[0, 0], rtol=1e-12)


def test_copies_are_the_same_as_entrants_with_these_constants() -> None:
    loads, targets = [load_of("sinusoidal"), load_of("spike", seed=1)], [0.6, 0.9]
    settings = replace(BARE, behavior=DEFAULT)
    copies = Entrant("hpa", Hpa(target=np.repeat(targets, 2)), settings, copies=2)
    one = play(loads, [copies, entrants()[0]], WORLD, STANDARD, [0, 1])
    other = play(
        loads, [Entrant("hpa", Hpa(target=t), settings) for t in targets] + entrants()[:1], WORLD, STANDARD, [0, 1]
    )
    for entrant in range(3):
        for load in range(2):
            assert row(one, entrant, load) == row(other, entrant, load)


# --- the oracle: one workload with an autoscaler of its own, step by step


def played_alone(load: Load, entrant: Entrant, config: world.WorldConfig, seed: int) -> dict[str, Any]:
    """Return what one entrant gets from a world of its own, its history remembered by itself."""
    settings = entrant.settings
    scaler = Autoscaler(entrant.policy, settings, 1)
    params = world.compiled(replace(config, interval=float(settings.interval)), 1, wait_edges=WAIT_EDGES)
    noise = Noise(params, [(load.name, seed)], 1)
    state = world.initial(params, start_replicas([load], settings))
    sums: dict[str, Any] = dict.fromkeys(TOTALS, 0.0) | {"waits": np.zeros(len(WAIT_EDGES))}
    before = None
    for step in range(len(load.rates) // params.ticks):
        ticks = slice(step * params.ticks, (step + 1) * params.ticks)
        reading = world.readings(params, state, load.start + step * params.interval)
        orders = scaler.decide(reading).replicas.astype(np.float32)
        state, out = world.step(
            params, state, orders, load.rates[ticks][:, None], noise.step(), np.array([load.known[ticks].all()])
        )
        weight = float(load.scored[ticks].mean())
        for name in ("billed", "needed", "late", "arrivals"):
            sums[name] += float(getattr(out, name)[0]) * weight
        assert out.late_over is not None
        sums["waits"] += out.late_over[:, 0] * weight
        sums["rescales"] += float(before is not None and orders[0] != before) * (weight > 0)
        sums["largest"] = max(sums["largest"], float(orders[0]) * (weight > 0))
        before = orders[0]
    return sums


CASES = {
    "arrivals": (WORLD, "Arrivals"),
    "completions": (replace(WORLD, completions=True), "Completions"),
    "gaps, crashes, drains": (replace(WORLD, gap_rate=6.0, crash_rate=1.0, drain=20.0), "Arrivals"),
    "nodes": (replace(WORLD, node_pods=4, node_startup=60.0, startup_spread=0.3), "Arrivals"),
}


@pytest.mark.parametrize(("config", "counts"), CASES.values(), ids=CASES.keys())
def test_many_at_once_get_what_each_gets_alone(config: world.WorldConfig, counts: str) -> None:
    """What the load alone decides is told once for all entrants, and equals what each would remember itself."""
    loads = [load_of("working-day", 20.0), load_of("spike", 25.0, seed=1)]
    members = [replace(e, settings=replace(e.settings, load_counts=counts)) for e in entrants()[:2]]
    sums = play(loads, members, config, replace(STANDARD, load_counts=counts), [3, 9])
    for index, entrant in enumerate(members):
        for place, (load, seed) in enumerate(zip(loads, [3, 9], strict=True)):
            alone = played_alone(load, entrant, config, seed)
            found = row(sums, index, place)
            np.testing.assert_allclose(found.pop("waits"), alone.pop("waits"), rtol=1e-6, atol=1e-9)
            assert found == pytest.approx(alone, rel=1e-6), (entrant.name, load.name)
            assert (found["rescales"], found["largest"]) == (alone["rescales"], alone["largest"])


def test_told_beforehand_or_tick_by_tick_is_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    loads, config = [load_of("working-day"), load_of("spike", 40.0, seed=1)], replace(WORLD, gap_rate=6.0)
    found = []
    for limit in (0, 8):
        monkeypatch.setattr(contest, "REPLAYED", limit)
        found.append(play(loads, entrants(), config, STANDARD, [3, 9]))
    for entrant in range(3):
        for load in range(2):
            assert row(found[0], entrant, load) == row(found[1], entrant, load)


# --- what is counted


def pinned(replicas: int) -> Entrant:
    """Return an entrant whose bounds leave it no choice."""
    return Entrant(
        "pinned", Static(replicas=float(replicas)), replace(BARE, min_replicas=replicas, max_replicas=replicas)
    )


def test_fixed_replicas_cost_their_number_times_the_time() -> None:
    load = steady(100.0, 40)
    sums = play([load], [pinned(14)], POISSON, STANDARD, [0])
    assert sums.billed[0, 0] == 14 * 15.0 * 40
    assert sums.needed[0, 0] == pytest.approx(100.0 / 10.0 * 15.0 * 40)
    assert sums.cost_ratio[0, 0] == pytest.approx(1.4)
    assert sums.arrivals[0, 0] == pytest.approx(100.0 * 15.0 * 40)
    assert sums.score[0, 0] == sums.cost_ratio[0, 0] + 20.0 * sums.late[0, 0] / sums.arrivals[0, 0]
    assert (sums.largest[0, 0], sums.rescales[0, 0], sums.steps) == (14, 0, 40)


def test_gaps_are_not_counted() -> None:
    """The middle third is unknown: its surge, its bill and its late requests are in no sum."""
    plain = steady(50.0, 60)
    rates, known = plain.rates.copy(), plain.known.copy()
    rates[100:190], known[100:200] = 79.0, False
    gap = Load("gap", 3.0, rates, known, known)
    whole = play([replace(gap, known=plain.known, scored=plain.known)], [pinned(8)], POISSON, STANDARD, [0])
    calm, sums = (play([load], [pinned(8)], POISSON, STANDARD, [0]) for load in (plain, gap))
    assert sums.billed[0, 0] == 8 * 15.0 * 40
    assert sums.arrivals[0, 0] == pytest.approx(50.0 * 15.0 * 40)
    assert sums.needed[0, 0] == pytest.approx(5.0 * 15.0 * 40)
    assert whole.late[0, 0] > 100.0 > 2.0 * sums.late[0, 0], "the surge is late, but outside of what is scored"
    assert sums.late[0, 0] >= 0.6 * calm.late[0, 0]
    assert (sums.waits[:, 0, 0] <= sums.arrivals[0, 0]).all()


def test_changes_count_where_they_are_scored() -> None:
    load = steady(40.0, 12)
    scored = load.scored.copy()
    scored[5 * 6 : 5 * 9] = False
    orders = np.array([[6, 6, 6, 8, 7, 7, 30, 40, 7, 7, 9, 9]])
    plan = Entrant("plan", Schedule(np.repeat(orders, 2, axis=0)), KNOWING)
    sums = play([load, replace(load, scored=scored)], [plan], POISSON, STANDARD, [0, 0])
    assert sums.rescales[0].tolist() == [6, 3]
    assert sums.largest[0].tolist() == [40, 9]


def test_a_step_that_is_known_in_part_counts_in_part() -> None:
    load = steady(50.0, 10)
    scored = load.scored.copy()
    scored[10:13] = False
    sums = play([replace(load, scored=scored)], [pinned(8)], POISSON, STANDARD, [0])
    assert sums.billed[0, 0] == pytest.approx(8 * 15.0 * (9 + 2 / 5))


def test_a_load_of_nothing_has_no_score_and_warns_of_nothing() -> None:
    sums = play([steady(0.0, 8)], entrants(), WORLD, STANDARD, [0])
    assert not np.isfinite(sums.score).any()
    assert (sums.violation_share == 0.0).all()
    assert (sums.wait_quantile() == 0.0).all()


QUEUES = {
    "one server": (1, 1, 7.0),
    "three": (3, 1, 25.0),
    "twelve, busy": (12, 1, 110.0),
    "four replicas of five at once": (4, 5, 37.0),
}


@pytest.mark.parametrize(("replicas", "concurrency", "rate"), QUEUES.values(), ids=QUEUES.keys())
def test_waits_of_a_steady_poisson_load_are_those_of_queueing_theory(
    replicas: int, concurrency: int, rate: float
) -> None:
    """M/M/c: P(wait > t) = C exp(-(c mu - rate) t), with Erlang's C; here within 2 % or 0.1 points."""
    settings = replace(BARE, concurrency=concurrency, objective=Objective(latency=0.4 + concurrency / 10.0))
    config = replace(POISSON, concurrency=concurrency)
    fixed = Entrant("fixed", Schedule(np.full((1, 400), replicas)), settings)
    first, later = (play([steady(rate, n)], [fixed], config, settings, [0]) for n in (100, 400))
    share = (later.waits - first.waits)[:, 0, 0] / (later.arrivals - first.arrivals)[0, 0]
    drain = replicas * 10.0 - rate
    waiting = float(erlang_c_exact(replicas * concurrency, rate / (replicas * 10.0)))
    exact = waiting * np.exp(-drain * np.array(WAIT_EDGES))
    np.testing.assert_allclose(share, exact, rtol=0.02, atol=1e-3)
    late = (later.late - first.late)[0, 0] / (later.arrivals - first.arrivals)[0, 0]
    assert late == pytest.approx(waiting * math.exp(-drain * 0.4), rel=0.02, abs=1e-3)
    for q in (0.5, 0.95, 0.99):
        wait = math.log(waiting / (1.0 - q)) / drain if waiting > 1.0 - q else 0.0
        place = int(np.searchsorted(WAIT_EDGES, wait)) if wait else 1
        width = WAIT_EDGES[place] - WAIT_EDGES[place - 1]
        assert later.wait_quantile(q)[0, 0] == pytest.approx(wait, abs=0.25 * width + 0.02 * wait), q


def test_the_wait_quantile_of_made_up_counts() -> None:
    """Of 100 requests none waits longer than 1 s, 4 longer than 0.8 s, and 6 longer than 0.6 s: 5 longer than 0.7 s."""
    edges = np.array(WAIT_EDGES)
    waits = np.select([edges <= 0.4, edges <= 0.6, edges <= 0.8], [50.0, 6.0, 4.0], 0.0)
    none = np.zeros((1, 1))
    sums = Totals(none, none, none, none + 100.0, waits[:, None, None], none, none)
    assert sums.wait_quantile(0.95)[0, 0] == pytest.approx(0.7)
    assert sums.wait_quantile(0.4)[0, 0] == 0.0
    slow = replace(sums, waits=np.full((len(edges), 1, 1), 90.0))
    assert slow.wait_quantile(0.95)[0, 0] == WAIT_EDGES[-1], "the last edge is all that is known"


def test_the_start_serves_the_first_minute_at_a_sane_utilisation() -> None:
    loads = [steady(rate, 10) for rate in (0.0, 70.0, 1400.0, 5000.0)]
    assert start_replicas(loads, STANDARD).tolist() == [1, 10, 100, 100]
    assert start_replicas(loads[:1], replace(STANDARD, min_replicas=3)).tolist() == [3]


# --- what is traced


def test_a_schedule_replays_its_orders() -> None:
    orders = np.array([[3, 9, 4, 12, 12, 5]])
    traced = Traced()
    play(
        [steady(40.0, 9)], [Entrant("plan", Schedule(orders), KNOWING)], POISSON, STANDARD, [0], watch=0, traced=traced
    )
    assert traced.array("replicas")[0].tolist() == [3, 9, 4, 12, 12, 5, 5, 5, 5]
    assert [d["replicas"] for d in traced.decisions] == [3, 9, 4, 12, 12, 5, 5, 5, 5]
    two = np.stack([orders[0], orders[0][::-1]])
    sums = play(
        [steady(40.0, 6), steady(40.0, 6)], [Entrant("plan", Schedule(two), KNOWING)], POISSON, STANDARD, [0, 0]
    )
    assert sums.billed[0, 0] == sums.billed[0, 1] == 15.0 * orders.sum()


def test_a_schedule_needs_no_metrics() -> None:
    """A clairvoyant goes on in a gap of the trace and of the metrics, where everyone else has to hold."""
    load = steady(40.0, 12)
    known = load.known.copy()
    known[5 * 3 : 5 * 7] = False
    orders = np.arange(3, 15)[None]
    config = replace(POISSON, gap_rate=240.0, gap_duration=60.0)
    traced = Traced()
    gap, plan = replace(load, known=known, scored=known), Entrant("plan", Schedule(orders), KNOWING)
    play([gap], [plan], config, STANDARD, [0], traced=traced)
    assert traced.array("replicas")[0].tolist() == orders[0].tolist()


@pytest.mark.parametrize("observe", [False, True])
def test_the_trace_holds_every_step_of_the_first_load(observe: bool) -> None:
    loads = [load_of("working-day", 10.0), load_of("spike", 10.0)]
    traced = Traced(observe=observe)
    sums = play(loads, entrants(), WORLD, STANDARD, [0, 1], watch=1, traced=traced)
    assert sums.steps == len(traced.time) == len(traced.load) == len(traced.known) == len(traced.decisions) == 40
    np.testing.assert_array_equal(np.diff(traced.time), 15.0)
    np.testing.assert_allclose(traced.load, loads[0].rates.reshape(40, 5).mean(axis=1), rtol=1e-6)
    for name in ("replicas", "ready", "violations", "backlog", "billed", "needed"):
        assert traced.array(name).shape == (3, 40), name
    np.testing.assert_allclose(traced.array("billed").sum(axis=1), sums.billed[:, 0])
    np.testing.assert_allclose(traced.array("needed").sum(axis=1), sums.needed[:, 0])
    assert [d["replicas"] for d in traced.decisions] == traced.array("replicas")[1].tolist()
    assert all(("observation" in d) == observe for d in traced.decisions)


def test_a_gap_of_the_trace_reaches_the_decision() -> None:
    load = load_of("sinusoidal", 20.0)
    known = load.known.copy()
    known[100:200] = False
    traced = Traced()
    play([replace(load, known=known, scored=known)], entrants()[:1], WORLD, STANDARD, [0], watch=0, traced=traced)
    unknown = [step for step, d in enumerate(traced.decisions) if "MetricsUnknown" in d["reasons"]]
    assert [step for step in unknown if step > 5] == list(range(22, 42)), "15 to 30 s after the gap itself"
    held = {traced.decisions[step]["replicas"] for step in range(22, 42)}
    assert len(held) == 1
    assert [step for step, seen in enumerate(traced.known) if not seen] == list(range(20, 40))


def test_a_counter_of_completions_is_read_as_at_least_this_much() -> None:
    """The load jumps to four times the capacity: completions show the capacity, and the guard knows it for a limit."""
    load = steady(60.0, 60)
    rates = load.rates.copy()
    rates[100:] = 240.0
    surge = replace(load, rates=rates)
    settings = replace(STANDARD, load_counts="Completions")
    member = Entrant("hpa", Hpa(target=0.9), settings)
    traced = Traced()
    config = replace(POISSON, completions=True)
    sums = play([surge], [member], config, settings, [0], watch=0, traced=traced)
    saturated = [step for step, d in enumerate(traced.decisions) if "LoadSaturated" in d["reasons"]]
    assert saturated
    assert min(saturated) >= 20
    assert traced.decisions[saturated[0]]["demand"] <= traced.array("ready")[0, 20] * 1.1, "the counter saturates"
    assert traced.array("replicas")[0, -1] >= 24
    seeing = play([surge], [replace(member, settings=STANDARD)], POISSON, STANDARD, [0])
    assert seeing.late[0, 0] < sums.late[0, 0]


def test_progress_is_told_step_by_step() -> None:
    told: list[tuple[int, int]] = []
    play(
        [steady(40.0, 5)], entrants()[:1], WORLD, STANDARD, [0], progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


class Broken:
    """A policy with a defect."""

    name = "broken"

    def state(self, n: int) -> State:
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        raise ZeroDivisionError("a defect")


def test_a_defect_of_a_policy_does_not_pass_for_a_score() -> None:
    """In a cluster the rule steps in; in a comparison everyone would be the rule, and nobody would notice."""
    with pytest.raises(Exception, match="a defect"):
        play([steady(40.0, 5)], [*entrants(), Entrant("broken", Broken(), STANDARD)], WORLD, STANDARD, [0])


def test_orders_of_many_loads_stay_apart() -> None:
    def billed(order: Sequence[int]) -> list[float]:
        loads = [steady(20.0 * (k + 1), 12, f"load {k}") for k in order]
        return [float(v) for v in play(loads, entrants()[:1], WORLD, STANDARD, list(order)).billed[0]]

    assert billed([0, 1, 2]) == billed([2, 1, 0])[::-1]
