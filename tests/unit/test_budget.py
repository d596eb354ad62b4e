"""Objectives that are to be kept: what counts as late, what is held for it, and what nothing may change."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explained_log import explained
from rlscaler import Autoscaler, Objective, Settings, Snapshot, budget
from rlscaler.arrays import State
from rlscaler.explained_decision import told
from rlscaler.memory import adopted
from rlscaler.policy import Proposal, View
from rlscaler.reasons import Reason
from rlscaler.settings import SettingsError, compiled
from rlscaler_sim.contenders import standard_settings
from rlscaler_sim.contest import Entrant, play
from rlscaler_sim.evaluation import standard_world
from rlscaler_sim.load import realise_many
from rlscaler_sim.patterns import parse
from rlscaler_sim.run_record import described

DAY = 86_400.0
NAN = float("nan")


class Headroom:
    """A policy that orders so many times the demand."""

    name = "headroom"

    def __init__(self, times: float) -> None:
        self.times = times

    def state(self, n: int) -> State:
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        return Proposal(replicas=self.times * view.demand), state


def asked(window: float = DAY, target: Any = 99.9, **more: Any) -> Settings:
    """Return standard settings whose objective is to be kept over a window."""
    objective = Objective(latency=0.5, target=target, window=window)
    return replace(standard_settings(), objective=objective, **more)


def decided(scaler: Autoscaler, hours: float, load: float, ready: float, begin: float = 0.0, **more: Any) -> Any:
    """Return the last decision after so many hours of the same reading."""
    found = None
    for step in range(round(hours * 240.0)):
        found = scaler.decide(Snapshot(time=begin + 15.0 * step, load=load, ready=ready, desired=ready, **more))
    return found


def guard_of(scaler: Autoscaler) -> State:
    return scaler.memory(scaler.rows, ("guard",))["guard"]


def multiple(scaler: Autoscaler) -> float:
    found = budget.multiple(np, guard_of(scaler), scaler.settings(scaler.rows))
    return 1.0 if found is None else float(found[0])


HOURS: dict[str, tuple[float, dict[str, Any], tuple[float, float]]] = {
    "replicas to spare": (20.0, {}, (1.0, 1.0)),
    "a queue that never empties": (9.9, {}, (budget.LARGEST, budget.LARGEST)),
    "hardly any to spare": (11.0, {}, (1.5, budget.LARGEST)),
    "ready replicas that nobody knows": (NAN, {}, (1.0, 1.0)),
    "an overload whose backlog is read as none": (9.9, {"backlog": 0.0}, (budget.LARGEST, budget.LARGEST)),
    "a backlog that is read": (20.0, {"backlog": 5000.0}, (budget.LARGEST, budget.LARGEST)),
}


@pytest.mark.parametrize("case", HOURS)
def test_headroom_is_multiplied_where_more_was_late_than_is_allowed(case: str) -> None:
    ready, more, (low, high) = HOURS[case]
    scaler = Autoscaler(Headroom(1.2), asked(7200.0), 1)
    decided(scaler, 2.0, 100.0, ready, **more)
    assert low <= multiple(scaler) <= high


def test_a_decision_says_so_and_holds_more() -> None:
    kept, plain = (Autoscaler(Headroom(1.3), asked(window), 1) for window in (DAY, float("inf")))
    last, without = (decided(scaler, 6.0, 400.0, 41.0) for scaler in (kept, plain))
    assert last.reasons[0] & int(Reason.ObjectiveMissed)
    assert not without.reasons[0] & int(Reason.ObjectiveMissed)
    assert without.replicas[0] == 52
    assert last.replicas[0] == np.ceil(40.0 + 12.0 * multiple(kept))


def test_it_is_paid_back_and_forgotten() -> None:
    scaler = Autoscaler(Headroom(1.3), asked(3600.0), 1)
    decided(scaler, 0.1, 100.0, 9.0)
    assert multiple(scaler) == budget.LARGEST
    spent = []
    for hour in range(5):
        decided(scaler, 1.0, 100.0, 20.0, begin=360.0 + 3600.0 * hour)
        spent.append(multiple(scaler))
    assert spent == sorted(spent, reverse=True)
    assert spent[0] > 1.0
    assert spent[-1] == 1.0
    last = decided(scaler, 0.005, 100.0, 20.0, begin=18_360.0)
    assert not last.reasons[0] & int(Reason.ObjectiveMissed)


def test_the_rule_counts_the_more_the_more_was_spent() -> None:
    wanted, rule, demand = np.array([10.2, 10.2, 10.2, 10.2]), np.array([14.0, 14.0, NAN, 9.0]), np.full(4, 10.0)
    times = np.array([1.0, budget.LARGEST, budget.LARGEST, budget.LARGEST])
    found = budget.raised(np, wanted, rule, demand, times)
    np.testing.assert_allclose(found, [10.2, 10.0 + 4.0 * budget.LARGEST, *[10.0 + 0.2 * budget.LARGEST] * 2])


def queued(lag: float, counts: dict[float, float]) -> list[float]:
    """Return the work that is reckoned to wait, in replica-seconds, after each reading of a load of 12 replicas.

    counts: by time, the ready replicas.
    """
    scaler, found = Autoscaler(Headroom(1.2), asked(lag=lag), 1), []
    for time, ready in counts.items():
        scaler.decide(Snapshot(time=time, load=120.0, ready=ready, desired=ready))
        found.append(float(guard_of(scaler)["queued"][0]))
    return found


def test_replicas_count_for_the_load_that_they_served() -> None:
    """Those that have just come were not there when the load came that is read now."""
    counts = [10.0, 10.0, 30.0, 30.0, 30.0, 30.0, 8.0, 8.0, 8.0, 8.0]
    found = queued(30.0, {15.0 * step: ready for step, ready in enumerate(counts)})
    # of the interval (t - 45, t - 30), at whose ends 10 were ready up to the fifth reading, 8 from the ninth on
    grown = [0.0, 0.0, 0.0, 30.0, 60.0, 0.0, 0.0, 0.0, 60.0, 120.0]
    np.testing.assert_allclose(found, grown)


def test_where_a_reading_is_missing_the_last_count_stood() -> None:
    counts = {0.0: 10.0, 15.0: 10.0, 30.0: 10.0, 45.0: 10.0, 90.0: 30.0, 105.0: 30.0, 120.0: 30.0, 135.0: 30.0}
    np.testing.assert_allclose(queued(30.0, counts), [0.0, 0.0, 0.0, 30.0, 60.0, 90.0, 120.0, 0.0])


def test_a_moment_with_few_replicas_counts_after_a_long_lag_too() -> None:
    """At a lag of 600 s counts are told apart by 102.5 s: the 8 replicas at 255 s count for the readings 810 to 915."""
    found = queued(600.0, {15.0 * step: 8.0 if step == 17 else 20.0 for step in range(80)})
    assert np.flatnonzero(np.diff(found) > 0.0).tolist() == list(range(53, 61))
    assert max(found) == 8 * 15.0 * (12.0 - 8.0)


@pytest.mark.parametrize("load", ["daily+0.2*random-walk", "on-off"])
def test_what_is_reckoned_late_is_near_what_is_late_in_the_simulated_world(
    load: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = asked(window=1e9)
    told: dict[str, np.ndarray] = {}
    charge = budget.recorded

    def recorded(xp: Any, view: View, state: State, correction: Any) -> None:
        charge(xp, view, state, correction)
        told["late"] = budget.late_of(xp, state)

    monkeypatch.setattr(budget, "recorded", recorded)
    loads = realise_many([parse(load)], range(2), interval=15.0, duration=0.5 * DAY, scale_to=25.0,
                         capacity=float(stated.capacity_per_replica))  # fmt: skip
    times = [1.1, 1.2, 1.3]
    entrants = [Entrant(f"{each}", Headroom(each), stated) for each in times]
    sums = play([loads.row(i) for i in range(2)], entrants, standard_world(stated), stated, [0, 1])
    true = (sums.late / sums.arrivals).reshape(-1)
    np.testing.assert_allclose(told["late"], true, rtol=0.35, atol=0.0008)
    assert true.max() > 0.005


@pytest.mark.parametrize("reading", [{"load": NAN}, {"ready": NAN, "desired": 10.0}])
def test_what_is_unknown_charges_nobody(reading: dict[str, float]) -> None:
    scaler = Autoscaler(Headroom(1.2), asked(), 1)
    decided(scaler, 1.0, 100.0, 9.0)
    before = guard_of(scaler)["spent"].copy()
    if "load" not in reading:  # counts that are gone stand as they stood
        fresh = Autoscaler(Headroom(1.2), asked(), 1)
        decided(fresh, 1.0, 100.0, NAN)
        assert not guard_of(fresh)["spent"].any()
        return
    scaler.decide(Snapshot(**({"time": 3600.0, "load": 100.0, "ready": 9.0, "desired": 9.0} | reading)))
    np.testing.assert_array_equal(guard_of(scaler)["spent"], before)


def test_without_a_window_nothing_is_remembered() -> None:
    scaler = Autoscaler("growth-quantile", standard_settings(), 1)
    decided(scaler, 1.0, 100.0, 9.0)
    for name, fresh in budget.state(1).items():
        np.testing.assert_array_equal(guard_of(scaler)[name], fresh)


def test_references_without_a_floor_are_left_alone() -> None:
    scaler = Autoscaler(Headroom(1.2), asked(floor=False), 1)
    decided(scaler, 6.0, 100.0, 9.0)
    assert multiple(scaler) == 1.0


@settings(max_examples=200, deadline=None)
@given(
    late=st.floats(0.0, 1.0),
    seen=st.floats(0.0, 2 * DAY),
    targets=st.tuples(st.floats(90, 99.999), st.floats(90, 99.999)),
    wanted=st.floats(0.0, 1e4),
    demand=st.floats(0.0, 1e4),
    rule=st.floats(0.0, 1e4),
)
def test_a_stricter_target_never_holds_less(
    late: float, seen: float, targets: tuple[float, float], wanted: float, demand: float, rule: float
) -> None:
    state = budget.state(2)
    state["spent"][:] = (late * 1e4, 1e4, seen)
    stated = compiled(asked(target=sorted(targets)), 2)
    found = budget.multiple(np, state, stated)
    assert found is not None
    assert 1.0 <= found[0] <= found[1] <= budget.LARGEST
    replicas, recommended, needed = (np.full(2, each) for each in (wanted, rule, demand))
    held = budget.raised(np, replicas, recommended, needed, found)
    assert wanted <= held[0] <= held[1]
    assert held[1] <= max(wanted, demand + (max(wanted, rule) - demand) * budget.LARGEST, rule) + 1e-6


def test_a_memory_from_before_objectives_were_kept_has_seen_nothing_late() -> None:
    scaler = Autoscaler(Headroom(1.2), asked(), 1)
    decided(scaler, 1.0, 100.0, 9.0)
    kept = {name: array for name, array in guard_of(scaler).items() if name not in budget.state(1)}
    stated = scaler.settings(scaler.rows)
    found = adopted(kept, stated, stated)
    for name, fresh in budget.state(1).items():
        np.testing.assert_array_equal(found[name], fresh)
    again = Autoscaler(Headroom(1.2), asked(), 1)
    again.recall([0], {"guard": kept})
    assert multiple(again) == 1.0


def test_a_dry_run_says_over_which_time() -> None:
    told = [described(standard_world(asked()), asked(window), 25.0, 0)["objective"] for window in (DAY, float("inf"))]
    assert told == ["99.9 % within 500 ms over 24h", "99.9 % within 500 ms"]


@pytest.mark.parametrize("window", [0.0, -1.0, NAN])
def test_a_window_that_is_none_is_refused(window: float) -> None:
    with pytest.raises(SettingsError, match=r"objective\.window is"):
        Autoscaler("growth-quantile", asked(window), 1)


def test_an_objective_is_kept_where_a_policy_alone_would_miss_it() -> None:
    loads = realise_many([parse("daily+0.2*random-walk")], range(2), interval=15.0, duration=2.0 * DAY, scale_to=25.0,
                         capacity=float(standard_settings().capacity_per_replica))  # fmt: skip
    entrants = [
        Entrant(f"window {window:g}", Headroom(1.1), asked(window, target)) for window, target in
        ((float("inf"), 99.9), (DAY, 99.9), (DAY, 99.6))
    ]  # fmt: skip
    sums = play([loads.row(i) for i in range(2)], entrants, standard_world(asked()), asked(), [0, 1])
    late, pods = (sums.late / sums.arrivals).mean(axis=1), (sums.billed / sums.needed).mean(axis=1)
    assert late[1] < late[2] < late[0], late
    assert late[0] > 0.005
    assert late[2] < 0.004
    assert late[1] < 0.0011
    assert pods[0] < pods[2] < pods[1] < 1.5, pods


def test_a_log_of_it_is_replayed_and_explained(tmp_path: Path) -> None:
    scaler = Autoscaler("growth-quantile", asked(7200.0, max_replicas=12), 1)
    rng = np.random.default_rng(3)

    def reading(step: int, replicas: int) -> dict[str, float]:
        return {"load": 90.0 * np.exp(0.03 * rng.standard_normal()) * (1.5 if step % 100 < 6 else 1.0)}

    value = explained(scaler, "growth-quantile", reading, tmp_path / "log.jsonl")
    assert value["missed"]["spare"] == pytest.approx(multiple(scaler), rel=1e-6)
    assert "times the headroom is held" in "\n".join(told(value))
