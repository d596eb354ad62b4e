"""Say is earned on the workload's own past, in a small world that is close to the simulated one."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from rlscaler import Autoscaler, Objective, Settings, Snapshot, tuned
from rlscaler.arrays import State
from rlscaler.hedge import ORDERS, PRICES, SWAY, Family, Hedge
from rlscaler.policy import Policy, Proposal, View
from rlscaler.reasons import Reason
from rlscaler.rules.hpa import Hpa
from rlscaler.rules.tenure import Tenure
from rlscaler_sim import contenders, evaluation, patterns
from rlscaler_sim.contest import Entrant, play
from rlscaler_sim.load import generator, realise

SETTINGS = Settings(capacity_per_replica=10.0, max_replicas=1000, flap_budget=np.inf)
TARGETS = (0.4, 0.65, 0.8, 0.9, 0.97)
HOUR = 240
TUNED: dict[str, Any] = dict(tuned.constants("tenure"))


@dataclass
class Ratio:
    """Orders a fixed multiple of the demand; `after` seconds from the first call on, another one."""

    multiple: float
    later: float | None = None
    after: float = np.inf
    name: str = "ratio"

    def state(self, n: int) -> State:
        return {"began": np.full(n, np.nan)}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        time = view.snapshot["time"]
        began = np.where(np.isnan(state["began"]), time, state["began"])
        multiple = np.where(time - began >= self.after, self.later or self.multiple, self.multiple)
        return Proposal(replicas=view.demand * multiple), {"began": began}


@dataclass
class Broken:
    """Has no answer."""

    name: str = "broken"

    def state(self, n: int) -> State:
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        return Proposal(replicas=np.full(len(view.demand), np.nan)), state


@dataclass
class Patient:
    """Orders what the demand needs and asks for it to be kept; `untrained` tells that it was not trained on this."""

    hold: float
    untrained: bool = False
    name: str = "patient"

    def state(self, n: int) -> State:
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        n = len(view.demand)
        trained = np.full(n, False) if self.untrained else None
        return Proposal(replicas=np.ceil(view.demand), patience=np.full(n, self.hold), trained=trained), {}


def run(policy: Policy, load: np.ndarray, settings: Settings = SETTINGS, start: float = 1e9) -> np.ndarray:
    """Return the replicas (T, N) for a load (T, N) requests/s, NaN = unknown."""
    scaler = Autoscaler(policy, settings, load.shape[1])
    made, ready = [], np.full(load.shape[1], 30.0)
    for step, now in enumerate(load):
        time = np.full(load.shape[1], start + 15.0 * step)
        ready = np.asarray(scaler.decide(Snapshot(time=time, load=now, ready=ready, desired=ready)).replicas, float)
        made.append(ready)
    return np.array(made)


def noisy(steps: int, seed: int = 0, level: float = 200.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    swing = 1.0 + 0.3 * np.sin(np.arange(steps) / 60.0)
    return np.asarray((level * swing * np.exp(rng.normal(0.0, 0.05, steps)))[:, None])


def followed(policy: Hedge | Tenure, load: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights (T, K) and the replicas (T,) of one workload."""
    scaler = Autoscaler(policy, SETTINGS, 1)
    hedge = policy.hedge if isinstance(policy, Tenure) else policy
    told, made, ready = [], [], 30.0
    for step, now in enumerate(load[:, 0]):
        found = scaler.decide(Snapshot(time=1e9 + 15.0 * step, load=now, ready=ready, desired=ready))
        ready = float(found.replicas[0])
        made.append(ready)
        told.append(hedge.weights(np, scaler.memory([0], ["policy"])["policy"])[0])
    return np.array(told), np.array(made)


def test_nobody_has_more_say_than_the_prior_before_anything_is_known() -> None:
    policy = Hedge([], [Ratio(1.2), Ratio(2.0), Ratio(4.0)], prior=[1.0, 2.0, 1.0])
    told, made = followed(policy, np.full((1, 1), 200.0))
    np.testing.assert_allclose(told[0], [0.25, 0.5, 0.25])
    assert made[0] == np.ceil(20.0 * (1.2 + 2 * 2.0 + 4.0) / 4.0)


def test_the_candidate_that_pays_leads_within_hours() -> None:
    """Much too few replicas make requests late, twice too many cost twice as much; in between pays."""
    told, made = followed(Hedge([], [Ratio(0.9), Ratio(1.35), Ratio(2.7)]), noisy(4 * HOUR))
    assert told[-1].argmax() == 1
    assert told[-1][1] > 0.95
    assert made[-1] == pytest.approx(1.35 * noisy(4 * HOUR)[-1, 0] / 10.0, rel=0.1)


def test_a_leader_that_stops_paying_loses_its_say() -> None:
    turncoat = Ratio(1.35, later=3.0, after=5 * 3600.0)
    told, _ = followed(Hedge([], [turncoat, Ratio(1.6)], half_life=2 * 3600.0), noisy(10 * HOUR))
    assert told[5 * HOUR].argmax() == 0
    assert told[-1].argmax() == 1


@pytest.mark.parametrize("intervals", [1, 3, 40])
def test_no_single_moment_decides(intervals: int) -> None:
    """However much is known: what one interval tells is believed up to SWAY, what many tell is believed."""
    hedge = Hedge([], [Ratio(1.2), Ratio(1.3)], rate=400.0)
    lost, demand = 25.0, 25.0 * 4 * HOUR
    state = hedge.state(1) | {
        "late": np.array([[lost * intervals, 0.0]], np.float32),
        "apart": np.array([lost]),
        "demand": np.array([demand]),
        "known": np.array([1e9]),
    }
    for price in PRICES:
        weights = hedge.weights(np, state, price)[0]
        assert np.log(weights[1] / weights[0]) == pytest.approx(SWAY * intervals, rel=0.35)
        assert np.log(weights[1] / weights[0]) <= SWAY * intervals


def test_what_told_candidates_apart_most_is_remembered() -> None:
    """One burst of a minute that the cheaper one is late in; it fades as the costs do."""
    load = np.full((3 * HOUR, 1), 200.0)
    load[HOUR : HOUR + 4] = 400.0
    hedge = Hedge([], [Ratio(1.3), Ratio(2.5)], half_life=3600.0)
    scaler, ready, apart = Autoscaler(hedge, SETTINGS, 1), 50.0, []
    for step, now in enumerate(load[:, 0]):
        scaler.decide(Snapshot(time=1e9 + 15.0 * step, load=now, ready=ready, desired=ready))
        apart.append(float(scaler.memory([0], ["policy"])["policy"]["apart"][0]))
    assert max(apart[:HOUR]) < 0.1
    assert 10.0 < max(apart) <= 40.0
    since = apart[::-1].index(max(apart))
    assert apart[-1] == pytest.approx(max(apart) * 2.0 ** (-since / HOUR), rel=1e-6)


def test_replicas_are_kept_for_minutes_while_nothing_is_known() -> None:
    """The first dip lowers nothing at once, one after hours does, where that load moved: else patience was for free."""
    dip = np.full((8, 1), 60.0)
    steady = 200.0 * (1.0 + 0.03 * np.random.default_rng(1).standard_normal((3 * HOUR, 1)))
    early = run(Tenure(**TUNED), np.concatenate([steady[:4], dip]))
    late = run(Tenure(**TUNED), np.concatenate([steady, dip]))
    assert early[4:, 0].min() == early[3, 0]
    assert late[-1, 0] < 0.7 * late[3 * HOUR - 1, 0]


def test_who_leads_hangs_on_what_the_objective_allows() -> None:
    """Of three candidates each is the cheapest at one price of what is late."""
    targets, ratios = (95.0, 99.9, 99.999), (1.18, 1.28, 1.4)
    settings = replace(SETTINGS, objective=Objective(target=np.array(targets)))
    scaler = Autoscaler(Hedge([], [Ratio(each) for each in ratios]), settings, len(targets))
    load, ready, wanted = noisy(12 * HOUR), np.full(len(targets), 30.0), np.zeros(len(targets))
    for step, now in enumerate(load[:, 0]):
        seen = Snapshot(time=1e9 + 15.0 * step, load=np.full(len(targets), now), ready=ready, desired=ready)
        found = scaler.decide(seen)
        ready, wanted = np.asarray(found.replicas, float), found.proposal
    np.testing.assert_allclose(wanted / (load[-1, 0] / 10.0), ratios, rtol=0.02)


def test_a_stricter_objective_never_orders_less() -> None:
    """Though the candidate that leads by it orders less at this moment."""
    targets = (95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999)
    later = Ratio(1.35, later=0.9, after=5 * 3600.0)  # careful until now, and reckless from here on
    settings = replace(SETTINGS, objective=Objective(target=np.array(targets)))
    scaler = Autoscaler(Hedge([], [later, Ratio(1.15)], doubt=4 * 3600.0), settings, len(targets))
    load, ready, wanted = noisy(6 * HOUR), np.full(len(targets), 30.0), []
    for step, now in enumerate(load[:, 0]):
        found = scaler.decide(
            Snapshot(time=1e9 + 15.0 * step, load=np.full(len(targets), now), ready=ready, desired=ready)
        )
        ready = np.asarray(found.replicas, float)
        wanted.append(found.proposal)
    assert (np.diff(wanted, axis=1) >= -1e-9).all()
    assert np.ptp(wanted, axis=1).max() > 1.0


def test_a_candidate_without_an_answer_is_stood_in_for() -> None:
    """By the family's member that is named, so that the others go on having their say."""
    hpas = Family(Hpa, [{"target": 0.5, "tolerance": 0.0, "hold": 0.0}, {"target": 0.8, "tolerance": 0.0, "hold": 0.0}])
    load = noisy(HOUR)
    _, made = followed(Hedge([hpas], [Broken()], spare=1), load)
    _, same = followed(Hedge([hpas], [Hpa(target=0.8, tolerance=0.0, hold=0.0)]), load)
    np.testing.assert_array_equal(made, same)


@dataclass
class Guest:
    """Orders a multiple of the demand, from `begins` to `ends` seconds after 1e9, and has no answer else."""

    multiple: float
    begins: float
    ends: float = np.inf
    name: str = "guest"

    def state(self, n: int) -> State:
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        since = view.snapshot["time"] - 1e9
        there = (since >= self.begins) & (since < self.ends)
        return Proposal(replicas=np.where(there, view.demand * self.multiple, np.nan)), state


def told_of(others: list[Policy], guests: int, prior: list[float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    return followed(Hedge([Family(Hpa, _HPAS)], others, guests=guests, prior=prior), noisy(3 * HOUR))


_HPAS = [{"target": target, "tolerance": 0.05, "hold": 60.0} for target in TARGETS]


def test_a_guest_that_never_comes_changes_nothing() -> None:
    with_guest, made = told_of([Guest(1.0, np.inf), Ratio(1.3)], 1, [*[0.1] * 5, 0.3, 0.5])
    without, expected = told_of([Ratio(1.3)], 0, [*[0.1] * 5, 0.5])
    np.testing.assert_array_equal(made, expected)
    np.testing.assert_array_equal(with_guest[:, 5], 0.0)
    np.testing.assert_array_equal(np.delete(with_guest, 5, axis=1), without)


def test_a_guest_has_say_while_it_is_there_and_comes_with_the_leaders_record() -> None:
    weights, _ = told_of([Guest(1.35, 3600.0, 7200.0), Ratio(0.5)], 1)
    assert (weights[:HOUR, 5] == 0.0).all()
    assert (weights[2 * HOUR :, 5] == 0.0).all()
    first = weights[HOUR]
    leader = first[:5].max()
    assert 0.5 * leader < first[5] < 1.5 * leader
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)


def test_a_guest_that_has_lost_its_say_does_not_come_back_as_new() -> None:
    """Half the replicas that are needed cost an hour's say; what it was absent for does not give it back."""
    weights, _ = told_of([Guest(0.5, 3600.0, 5400.0), Guest(0.5, 3600.0), Ratio(1.3)], 2)
    assert weights[HOUR + 100, 5] < 1e-6
    again, _ = told_of([_Twice(0.5), Ratio(1.3)], 1)
    assert (again[HOUR + 160 :, 5] < 1e-6).all()


@dataclass
class _Twice(Guest):
    """Is there from the first to the second half-hour after an hour, and again half an hour later."""

    begins: float = 3600.0

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        since = float(view.snapshot["time"][0]) - 1e9
        there = self.begins <= since < 5400.0 or since >= 6000.0
        return Proposal(replicas=view.demand * (self.multiple if there else np.nan)), state


def test_a_candidate_outside_of_its_training_is_stood_in_for() -> None:
    hpas = Family(Hpa, [{"target": 0.5, "tolerance": 0.0, "hold": 0.0}])
    told = [followed(Hedge([hpas], [other]), noisy(40)) for other in (Patient(300.0, untrained=True), Broken())]
    for mine, theirs in zip(*told, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not np.array_equal(followed(Hedge([hpas], [Patient(300.0)]), noisy(40))[1], told[0][1])


def test_weights_are_shares() -> None:
    told, _ = followed(Tenure(**TUNED), noisy(HOUR))
    np.testing.assert_allclose(told.sum(axis=1), 1.0)
    assert (told >= 0.0).all()


def test_a_batch_decides_as_each_workload_alone() -> None:
    load = np.concatenate([noisy(HOUR, seed, level) for seed, level in enumerate((30.0, 200.0, 5000.0))], axis=1)
    load[50:70, 1] = np.nan
    together = run(Tenure(**TUNED), load)
    for row in range(3):
        alone = run(Tenure(**TUNED), load[:, row : row + 1])
        np.testing.assert_array_equal(together[:, row], alone[:, 0])


def test_a_workload_is_charged_alike_beside_others_of_another_start_up_and_lag() -> None:
    startups, lags, ticks = np.array([10.0, 300.0, 2000.0]), np.array([0.0, 45.0, 15.0]), 55
    hedge, load = Hedge([], [Ratio(0.9), Ratio(1.2), Patient(100.0)]), noisy(ticks)
    load[20:24] = np.nan

    def earned(rows: slice) -> State:
        startup, lag = startups[rows], lags[rows]
        scaler = Autoscaler(hedge, replace(SETTINGS, startup=startup, lag=lag), len(startup))
        for step, now in enumerate(load[:, 0]):
            scaler.decide(Snapshot(time=1e9 + 15.0 * step, load=now, ready=30.0, desired=30.0))
        return scaler.memory(scaler.rows, ["policy"])["policy"]

    together = earned(slice(None))
    for row in range(len(startups)):
        for name, array in earned(slice(row, row + 1)).items():
            np.testing.assert_array_equal(together[name][row], array[0], err_msg=f"{name} of {startups[row]:g} s")


@pytest.mark.parametrize(("hold", "ticks"), [(0.0, 1), (20.0, 2), (50.0, 4), (75.0, 6)])
def test_a_candidates_patience_keeps_the_most_that_it_asked_for(hold: float, ticks: int) -> None:
    """For its seconds, and no decision longer."""
    needed = np.random.default_rng(6).integers(10, 60, 80)
    scaler, found = Autoscaler(Hedge([], [Patient(hold)]), SETTINGS, 1), []
    for step, need in enumerate(needed):
        snapshot = Snapshot(time=1e9 + 15.0 * step, load=10.0 * need, ready=30.0, desired=30.0)
        found.append(float(scaler.decide(snapshot).proposal[0]))
    assert found == [max(needed[max(0, step + 1 - ticks) : step + 1]) for step in range(len(needed))]


def test_constants_may_differ_from_row_to_row() -> None:
    """As in an evaluation, where each load has the constants that were tuned without its family."""
    load = np.concatenate([noisy(HOUR, 1), noisy(HOUR, 2)], axis=1)
    plain: dict[str, Any] = {name: parameter.default for name, parameter in Tenure.PARAMETERS.items()}
    two: dict[str, Any] = plain | {"peak": 1.1, "root": 1.0}
    mixed: dict[str, Any] = {name: np.array([plain[name], two[name]]) for name in plain}
    together = run(Tenure(**mixed), load)
    np.testing.assert_array_equal(together[:, 0], run(Tenure(**plain), load[:, :1])[:, 0])
    np.testing.assert_array_equal(together[:, 1], run(Tenure(**two), load[:, 1:])[:, 0])


def test_unknown_load_holds_and_charges_nobody() -> None:
    policy = Tenure(**TUNED)
    load = noisy(2 * HOUR)
    load[HOUR : HOUR + 40] = np.nan
    told, made = followed(policy, load)
    assert (made[HOUR : HOUR + 40] == made[HOUR - 1]).all()
    np.testing.assert_array_equal(told[HOUR : HOUR + 40], np.broadcast_to(told[HOUR - 1], (40, policy.hedge.size)))


def test_without_an_answer_of_every_candidate_the_rule_decides() -> None:
    scaler = Autoscaler(Hedge([], [Broken(), Ratio(1.3)]), SETTINGS, 1)
    found = scaler.decide(Snapshot(time=1e9, load=200.0, ready=30.0, desired=30.0))
    assert Reason.PolicyFailed in Reason(int(found.reasons[0]))
    assert found.replicas[0] >= 20


def test_a_restart_changes_nothing() -> None:
    load, policy = noisy(2 * HOUR), Tenure(**TUNED)
    whole = Autoscaler(policy, SETTINGS, 1)
    parts = whole
    made: list[list[float]] = [[], []]
    for step, now in enumerate(load[:, 0]):
        if step == HOUR:
            parts = Autoscaler(policy, SETTINGS, 1)
            parts.recall([0], whole.memory([0]))
        for each, scaler in zip(made, (whole, parts) if step >= HOUR else (whole,), strict=False):
            ready = each[-1] if each else made[0][-1] if made[0] else 30.0
            found = scaler.decide(Snapshot(time=1e9 + 15.0 * step, load=now, ready=ready, desired=ready))
            each.append(float(found.replicas[0]))
    assert made[0][HOUR:] == made[1]


@pytest.mark.parametrize(("startup", "lag"), [(60.0, 15.0), (15.0, 0.0), (300.0, 30.0)], ids=str)
def test_the_replay_tells_what_the_world_does(startup: float, lag: float) -> None:
    """Over half a day: every score near the best one within 6 % of the simulated world's, and the same HPA best."""
    settings = replace(contenders.standard_settings(startup), lag=lag, flap_budget=np.inf, floor=False)
    config = replace(evaluation.standard_world(settings), fano=1.0)
    source = patterns.parse("daily*jitter")
    load = realise(source, interval=15.0, duration=43200.0, scale_to=25.0, capacity=10.0, rng=generator("day", 0))
    constants: list[dict[str, Any]] = [{"target": target, "tolerance": 0.05, "hold": 60.0} for target in TARGETS]
    policy, scores = Hedge([Family(Hpa, constants)], half_life=1e9), [np.empty(0)]

    class Watched(Hedge):
        def weights(self, xp: Any, state: State, price: float = PRICES[0]) -> Any:
            scores[0] = self.scores(xp, state, price)[0]
            return super().weights(xp, state, price)

    entrants = [Entrant(f"hpa-{c['target']}", Hpa(**c), settings) for c in constants]
    entrants.append(Entrant("tenure", Watched(policy.families, half_life=1e9), settings))
    real = play([load], entrants, config, settings, [0]).score[: len(TARGETS), 0]
    assert scores[0].argmin() == real.argmin()
    near = real < 1.3 * real.min()
    np.testing.assert_allclose(scores[0][near], real[near], rtol=0.06)


@pytest.mark.parametrize(("before", "after"), [(15.0, 60.0), (60.0, 15.0)])
def test_what_was_earned_counts_by_its_time_at_another_interval(before: float, after: float) -> None:
    """In decisions, an hour at 15 s would count for four at 60 s, and a minute after an order for four."""
    scaler = Autoscaler("tenure", Settings(capacity_per_replica=10.0, startup=60.0, interval=before), workloads=1)
    rng = np.random.default_rng(3)
    for tick in range(120):
        load = 100.0 + 60.0 * np.sin(tick / 9.0) + 20.0 * rng.random()
        scaler.decide(Snapshot(time=tick * before, load=load, ready=12.0, starting=0.0, desired=12.0))
    assert isinstance(scaler.policy, Tenure)
    hedge, then = scaler.policy.hedge, scaler.memory([0], ("policy",))["policy"]
    scaler.update([0], Settings(capacity_per_replica=10.0, startup=60.0, interval=after))
    now = scaler.memory([0], ("policy",))["policy"]
    for name in ("cost", "late", "demand", "apart"):
        np.testing.assert_allclose(now[name] * after, then[name] * before, rtol=1e-6, err_msg=name)
    for name in ("known", "waiting", "kept", "kept_age", "seen_time"):
        np.testing.assert_array_equal(now[name], then[name], err_msg=name)
    np.testing.assert_allclose(hedge.weights(np, now), hedge.weights(np, then), rtol=1e-5)
    ages = np.arange(10)
    at = np.ceil(ages * after / before).astype(int)  # the order that stood then was made then or before
    np.testing.assert_array_equal(now["orders"][0][:, ages], then["orders"][0][:, np.minimum(at, ORDERS - 1)])
    scaler.update([0], Settings(capacity_per_replica=20.0, startup=60.0, interval=after))
    again = scaler.memory([0], ("policy",))["policy"]
    assert all(np.array_equal(again[name], now[name]) for name in now), "only the interval matters"
