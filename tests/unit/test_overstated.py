"""Stated capacities that are too high: what is learned of them, what may not be learned, and what it changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explained_log import explained
from rlscaler import Autoscaler, Snapshot, overstated
from rlscaler.explained_decision import told
from rlscaler.memory import condensed
from rlscaler.policy import Policy
from rlscaler.reasons import Reason
from rlscaler.rules.hpa import Hpa
from rlscaler.rules.kpa import Kpa
from rlscaler.rules.phpa import Phpa
from rlscaler.rules.simple import Static
from rlscaler_sim import contenders, robustness, stretches
from rlscaler_sim.contenders import standard_settings
from rlscaler_sim.evaluation import standard_world
from rlscaler_sim.load import Load
from rlscaler_sim.result import Contender
from rlscaler_sim.totals import Traced
from rlscaler_sim.trace import Trace

NAN = float("nan")
CARRIED = 7.0
"""Requests/s that a replica really serves, of 10 that are stated."""


def learned(*script: tuple[float, dict[str, Any]], **stated: Any) -> tuple[Autoscaler, float]:
    """Return an autoscaler after readings of 10 ready replicas, and its factor. script: minutes of readings each."""
    scaler = Autoscaler("growth-quantile", replace(standard_settings(), **stated), 1)
    time = 0.0
    for minutes, reading in script:
        for step in range(round(60.0 * minutes / 15.0)):
            told = {name: value(step) if callable(value) else value for name, value in reading.items()}
            scaler.decide(Snapshot(**{"time": time, "ready": 10, "starting": 0, "desired": 10} | told))
            time += 15.0
    return scaler, factor(scaler)


def factor(scaler: Autoscaler) -> float:
    return float(overstated.factor(np, scaler.memory([0], ("guard",))["guard"])[0])


def at(use: float, of: float = CARRIED, **more: Any) -> dict[str, Any]:
    """Return a reading at which 10 replicas that serve `of` requests/s each are in use as much."""
    return {"load": 10.0 * of * use, "utilization": use} | more


TRUE = 10.0 / CARRIED
CASES: dict[str, tuple[list[tuple[float, dict[str, Any]]], dict[str, Any], float]] = {
    "replicas carry what is stated": ([(10, at(0.9, 10.0))], {}, 1.0),
    "replicas carry less": ([(10, at(0.9))], {}, TRUE),
    "replicas carry more, which may be stated by latency": ([(10, at(0.9, 14.0))], {}, 1.0),
    "a little less is scatter": ([(10, at(0.9, 9.2))], {}, 1.0),
    "no more than twice is believed": ([(10, at(0.9, 2.0))], {}, 2.0),
    "two stretches have to agree": ([(3, at(0.9))], {}, 1.0),
    "low use is neither of the two": (
        [(10, at(0.9)), (2, at(0.4, 10.0)), (2, at(0.4)), (2, at(0.9)), (1, at(0.9))], {}, 1.0),
    "low use says nothing, as it may be idle work": ([(10, at(0.5))], {}, 1.0),
    "use just below the busy one says nothing": ([(10, at(0.65))], {}, 1.0),
    "use just above it does": ([(10, at(0.75))], {}, TRUE),
    "just beyond scatter it counts in part": ([(10, at(0.9, 10.0 / 1.15))], {}, (1.15 / 1.1) ** 2),
    "a stretch with less than half of its readings says nothing": (
        [(10, at(0.9, utilization=lambda step: 0.9 if step % 8 < 3 else NAN))], {}, 1.0),
    "half of the readings are enough": (
        [(10, at(0.9, utilization=lambda step: 0.9 if step % 8 < 4 else NAN))], {}, TRUE),
    "use without any load is of no request": (
        [(10, at(0.9, 10.0, load=lambda step: 90.0 if step % 8 < 4 else 0.0))], {}, 1.0),
    "use beyond the whole of a replica is no more than that": ([(10, at(1.0, 10.0, utilization=1.4))], {}, 1.0),
    "low use afterwards leaves it": ([(10, at(0.9)), (20, at(0.4))], {}, TRUE),
    "utilization that is gone leaves it": ([(10, at(0.9)), (20, at(0.9, utilization=NAN))], {}, TRUE),
    "a utilization of nothing under load leaves it": ([(10, at(0.9)), (20, at(0.9, utilization=0.0))], {}, TRUE),
    "a load that is gone leaves it": ([(10, at(0.9)), (20, at(0.9, load=NAN))], {}, TRUE),
    "a deploy that repairs it is seen": ([(10, at(0.9)), (5, at(0.8, 10.0))], {}, 1.0),
    "a deploy that repairs it is seen at low use": ([(10, at(0.9)), (5, at(0.4, 10.0))], {}, 1.0),
    "per cent are not believed": ([(10, at(0.9, utilization=90.0))], {}, 1.0),
    "a backlog that is drained is no load": (
        [(10, {"load": 70.0, "utilization": 1.0, "backlog": lambda step: 1e4 - 450.0 * step})], {}, 1.0),
    "a backlog that grows was not served": (
        [(10, {"load": 100.0, "utilization": 1.0, "backlog": lambda step: 450.0 * step})], {}, TRUE),
    "a backlog that grows by more than came says nothing": (
        [(10, {"load": 50.0, "utilization": 0.9, "backlog": lambda step: 1500.0 * step})], {}, 1.0),
    "a full load beside a backlog that stays was served": (
        [(10, at(0.9)), (10, {"load": 100.0, "utilization": 1.0, "backlog": 450.0})], {}, 1.0),
    "a backlog that nobody counts is no sign of a higher capacity": (
        [(10, at(0.9)), (10, {"load": 100.0, "utilization": 1.0})], {}, TRUE),
    "an overload whose backlog nobody counts may tell of a lower one": (
        [(10, {"load": 80.0, "utilization": 1.0})], {}, 1.25),
    "completions are what was served": (
        [(10, {"load": 70.0, "utilization": 1.0, "backlog": lambda step: 450.0 * step})],
        {"load_counts": "Completions"}, TRUE),
    "not where the guard has no floor": ([(10, at(0.9))], {"floor": False}, 1.0),
    "not where the capacity is unknown": ([(10, at(0.9))], {"capacity_per_replica": NAN}, 1.0),
    "replicas that just came have not served yet": (
        [(12, {"load": lambda step: 90.0 * 1.5 ** (max(step - 2, 0) // 6), "utilization": 0.9,
               "ready": lambda step: 10 * 1.5 ** (step // 6)})], {}, 1.0),
    "replicas that come and go have not served": (
        [(10, at(0.9, 10.0, ready=lambda step: 10 if step % 5 == 1 else 15))], {"lag": 60.0}, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_learned(case: str) -> None:
    script, stated, expected = CASES[case]
    assert learned(*script, **stated)[1] == pytest.approx(expected, abs=0.01)


def decided(scaler: Autoscaler, **reading: Any) -> tuple[int, int]:
    done = scaler.decide(Snapshot(**{"time": 9e4, "ready": 10, "starting": 0, "desired": 10} | reading))
    return int(done.replicas[0]), int(done.reasons[0])


def test_the_proposal_rises_by_the_factor_and_says_why() -> None:
    doubting, trusting = learned((10, at(0.9)))[0], learned((10, at(0.9, utilization=NAN)))[0]
    for scaler in (doubting, trusting):
        scaler.follow(Hpa(target=0.5, tolerance=0.0))
    assert decided(trusting, **at(0.9)) == (13, 0)
    replicas, reasons = decided(doubting, **at(0.9))
    assert replicas == 19
    assert reasons == Reason.CapacityOverstated


def test_a_policy_that_goes_by_measured_use_is_believed() -> None:
    """An HPA on utilisation has the true count already; the floor alone is raised."""
    scaler, _ = learned((10, at(0.9)))
    scaler.follow(Hpa(target=1.0, utilization=0.5, tolerance=0.0))
    assert decided(scaler, **at(0.9))[0] == 18


@pytest.mark.parametrize(
    "policy",
    [Hpa(target=0.63, tolerance=0.1), Phpa(target=0.63), Kpa(target=1.0), Static(replicas=13), "threshold", "constant"],
)
def test_a_count_that_is_kept_does_not_rise_with_every_decision(policy: str | Policy) -> None:
    scaler, _ = learned((10, at(0.9)))
    scaler.follow(Autoscaler(policy).policy)
    replicas, time = 13, 9e4
    for _ in range(10):
        time += 15.0
        reading = at(0.9) | {"utilization": 9.0 / replicas, "ready": replicas, "desired": replicas, "time": time}
        replicas, _ = decided(scaler, **reading)
    assert replicas <= 15


def test_the_floor_rises_too() -> None:
    scaler, _ = learned((10, at(0.9)))
    scaler.follow(Autoscaler("constant").policy)
    replicas, reasons = decided(scaler, load=140.0)
    assert replicas == 20
    assert reasons & Reason.ReactiveFloor


def test_a_proposal_of_no_relation_to_the_load_is_not_blown_up() -> None:
    scaler, _ = learned((10, at(0.9)))
    scaler.follow(Hpa(target=0.01, tolerance=0.0))
    assert decided(scaler, load=10.0)[0] == 100
    assert overstated.corrected(np, np.array([100.0]), np.array([1.0]), np.array([2.0])) == [100.0]
    assert overstated.corrected(np, np.array([9.0]), np.array([1.0]), np.array([2.0])) == [16.0]
    assert overstated.corrected(np, np.array([3.0]), np.array([1.0]), np.array([2.0])) == [6.0]


numbers = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(0.0, 2.0), st.floats(0.0, 200.0))


@settings(deadline=None, derandomize=True, max_examples=100)
@given(script=st.lists(st.tuples(*[numbers] * 4, st.sampled_from([0.0, 15.0, 15.0, 60.0, 900.0])), max_size=30))
def test_whatever_is_read_the_factor_lies_between_1_and_2(script: list[tuple[float, ...]]) -> None:
    scaler, time = Autoscaler("constant", standard_settings(), 1), 0.0
    for load, use, backlog, ready, step in script:
        time += step
        scaler.decide(Snapshot(time=time, load=load, utilization=use, backlog=backlog, ready=ready, desired=5))
        assert 1.0 <= factor(scaler) <= 2.0


@pytest.mark.parametrize("after", range(0, 12, 3))
def test_a_reading_counts_for_later_decisions_alone(after: int) -> None:
    """So that more load at otherwise the same readings never lowers what this decision asks for."""
    scaler, _ = learned((10, at(0.9)), (0.25 * after, at(0.9)))
    memory, found = scaler.memory([0], ("guard",)), set()
    for load in (1.0, 30.0, 90.0, 500.0, NAN):
        for use in (0.01, 0.7, 1.0, 1.5, NAN):
            scaler.recall([0], memory)
            decided(scaler, load=load, utilization=use, time=600.0 + 15.0 * after)
            found.add(factor(scaler))
    assert len(found) == 1


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    scaler, found = learned((10, at(0.9)))
    scaler.save(tmp_path / "saved.npz")
    assert factor(Autoscaler.load(tmp_path / "saved.npz", "growth-quantile")) == found > 1.4
    other = Autoscaler("growth-quantile", standard_settings(), 1)
    kept = condensed(scaler.memory([0], ("guard",))["guard"], scaler.settings([0]), np.array([600.0]))
    other.recall([0], {"guard": kept})
    assert factor(other) == found


def test_a_memory_of_before_there_was_this_one_doubts_nothing(tmp_path: Path) -> None:
    scaler, _ = learned((10, at(0.9)))
    older = scaler.memory([0], ("guard",))["guard"]
    for name in overstated.state(1):
        del older[name]
    scaler.recall([0], {"guard": older})
    assert factor(scaler) == 1.0
    for name in overstated.state(1):
        del scaler._guard[name]
    scaler.save(tmp_path / "saved.npz")
    assert factor(Autoscaler.load(tmp_path / "saved.npz", "growth-quantile")) == 1.0


def load() -> Trace:
    rng = np.random.default_rng(1)
    return Trace("alpha_60s", 0.0, 60.0, 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.04, 120))))


@pytest.fixture(scope="module")
def scores() -> dict[str, Contender]:
    names = ("standard", "capacity-0.7")
    found = robustness.table([load()], ["growth-quantile"], names, seeds=1, duration=7200.0)
    return {name: found[name][0].of("growth-quantile") for name in names}


def test_replicas_that_carry_less_are_better_off_than_with_an_hpa(scores: dict[str, Contender]) -> None:
    regret = scores["capacity-0.7"].regret
    assert regret is not None
    assert regret < 0.5
    assert scores["capacity-0.7"].violation_share < 0.1


def test_where_the_capacity_is_right_nothing_changes(
    scores: dict[str, Contender], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overstated, "factor", lambda _, state: np.ones(len(state["queue"])))
    without = robustness.table([load()], ["growth-quantile"], ["standard"], seeds=1, duration=7200.0)
    assert without["standard"][0].of("growth-quantile") == scores["standard"]


def stretched(monkeypatch: pytest.MonkeyPatch, least: int) -> Traced:
    monkeypatch.setattr("rlscaler_sim.told.LEAST", least)
    monkeypatch.setattr(stretches, "WARM_UP", 900.0)
    rng = np.random.default_rng(2)
    rates = np.repeat(90.0 * np.exp(np.cumsum(rng.normal(0.0, 0.02, 600))), 5).astype(np.float32)
    known = np.ones(len(rates), bool)
    load, traced = Load("drifting", 3.0, rates, known, known, 0.0), Traced()
    config = replace(standard_world(standard_settings()), capacity_per_replica=CARRIED)
    who = [contenders.entrant(name, standard_settings()) for name in ("growth-quantile", "hpa-tuned")]
    stretches.play(load, who, config, standard_settings(), 7, watch=0, traced=traced)
    return traced


def test_stretches_are_as_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = stretched(monkeypatch, 10**9), stretched(monkeypatch, 100)
    assert whole.decisions == cut.decisions
    doubted = np.array(["CapacityOverstated" in decision["reasons"] for decision in whole.decisions])
    assert 0.9 < doubted.mean() < 1.0


@pytest.mark.parametrize("policy", ["growth-quantile", "default"])
def test_a_log_of_it_is_replayed_and_explained(policy: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)

    def reading(step: int, replicas: int) -> dict[str, float]:
        load = 80.0 * np.exp(0.03 * rng.standard_normal()) * (1.5 if step % 100 < 6 else 1.0)
        return {"load": load, "utilization": min(1.0, load / (CARRIED * replicas))}

    value = explained(Autoscaler(policy, standard_settings(), 1), policy, reading, tmp_path / "log.jsonl")
    assert value["overstated"] == pytest.approx(TRUE, abs=0.03)
    assert "CapacityOverstated: By their utilization replicas carry 0.7" in "\n".join(told(value))
