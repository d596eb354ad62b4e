"""Shadow's comparison: the simulator's own answer, tick by tick; what is unknown is not scored; rows are alone."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rlscaler import Autoscaler, Objective, Settings, Snapshot
from rlscaler.arrays import State
from rlscaler.behavior import DEFAULT
from rlscaler.policies import load_policy
from rlscaler.policy import Policy, Proposal, View
from rlscaler_operator import twin_worlds
from rlscaler_operator.comparison import LONGEST_PAUSE, Comparison, identity_of
from rlscaler_operator.model import Key
from rlscaler_sim import contenders, scenarios, world
from rlscaler_sim.contest import Entrant, play, start_replicas
from rlscaler_sim.evaluation import standard_world
from rlscaler_sim.load import Load, generator, realise
from rlscaler_sim.measure import gridded
from rlscaler_sim.noise import Noise

WEB = Key("shop", "web")
SIZED = Settings(capacity_per_replica=10.0, max_replicas=100)
RULE = load_policy("growth-quantile")
NAN = math.nan


@dataclass
class Shadow:
    """One workload whose live replicas somebody else sets; each `tick` is a decision and what Shadow makes of it."""

    settings: Settings = SIZED
    policy: Policy = field(default_factory=lambda: RULE)
    comparison: Comparison = field(default_factory=Comparison)
    key: Key = WEB
    time: float = 1_700_000_000.0

    def __post_init__(self) -> None:
        self.scaler = Autoscaler(self.policy, self.settings, 1)
        self.comparison.put(self.key, self.settings)

    def tick(self, load: float, live: float, *, steps: float = 1.0, **more: float) -> None:
        self.time += steps * float(self.settings.interval)
        counts = {"ready": live, "starting": 0.0, "desired": live}
        view = self.scaler.view(Snapshot(time=self.time, load=load, **{**counts, **more}))
        self.scaler.decide_on(view)
        self.comparison.advance([self.key], view, self.policy)

    @property
    def memory(self) -> dict[str, Any]:
        found = self.comparison.memory(self.key)
        assert found is not None
        return found


# Against the simulator: the same entrants on the same load, played as a contest and fed tick by tick.


def realised(name: str, settings: Settings, hours: float) -> Load:
    source, interval = scenarios.get(name).source, float(settings.interval)
    return realise(
        source,
        interval=interval,
        tick=interval / max(1, round(interval / world.TICK)),
        duration=hours * 3600.0,
        capacity=float(settings.capacity_per_replica),
        rng=generator(source.name, 0),
    )


def fed(loads: Sequence[Load], config: world.WorldConfig, live: Entrant, own: Entrant) -> list[dict[str, Any]]:
    """Return the memories of workloads that were fed with what is read of the live entrant's worlds, drawn as `play`
    draws them.
    """  # fmt: skip
    settings, n = own.settings, len(loads)
    keys = [Key("shop", load.name) for load in loads]
    comparison, deciding = Comparison(), Autoscaler(own.policy, settings, n)
    for key in keys:
        comparison.put(key, settings)
    params = world.compiled(replace(config, interval=float(settings.interval)), n)
    rates, known, _ = gridded(loads, params.ticks)
    noise = Noise(params, [(load.name, 0) for load in loads], 1)
    scaler = Autoscaler(live.policy, live.settings, n)
    state = world.initial(params, start_replicas(loads, settings))
    start = np.array([load.start for load in loads])
    for step in range(rates.shape[1]):
        view = deciding.view(world.readings(params, state, start + step * params.interval))
        comparison.advance(keys, view, own.policy)
        shared = replace(view, settings=scaler.settings(np.arange(n)))
        orders = scaler.decide_on(shared).replicas.astype(np.float32)
        seen = np.asarray(known[:, step].all(axis=1))
        state, _ = world.step(params, state, orders, rates[:, step].T, noise.step(), seen)
    memories = [comparison.memory(key) for key in keys]
    return [memory for memory in memories if memory is not None]


CONTESTS: dict[str, tuple[tuple[str, ...], float, dict[str, Any]]] = {
    "waves, spikes, a walk": (("sine-curve", "spike", "random-walk", "working-day"), 3.0, {}),
    "behavior, metrics of 20 s": (("sine-curve", "spike", "on-off"), 2.0, {"lag": 20.0, "behavior": DEFAULT}),
    "a slow start, ticks of 10 s": (("spike", "sine-curve"), 2.0, {"startup": 130.0, "interval": 10.0}),
    "long requests, many at once": (
        ("spike", "random-walk"),
        2.0,
        {"capacity_per_replica": 2.0, "concurrency": 20, "objective": Objective(latency=15.0)},
    ),
}


@pytest.mark.parametrize(("names", "hours", "changes"), CONTESTS.values(), ids=CONTESTS)
def test_both_sides_agree_with_the_simulator(names: tuple[str, ...], hours: float, changes: dict[str, Any]) -> None:
    settings = replace(contenders.standard_settings(), **changes)
    config, interval = standard_world(settings), float(settings.interval)
    loads = [realised(name, settings, hours) for name in names]
    live, own = contenders.entrant("hpa", settings), contenders.tested("growth-quantile", settings)
    sums = play(loads, [live, own], config, settings, [0] * len(loads), waits=False)
    for index, (name, memory) in enumerate(zip(names, fed(loads, config, live, own), strict=True)):
        unseen = 2 * math.ceil(float(settings.lag) / interval + 1.0)
        assert memory["seconds"] >= hours * 3600.0 - unseen * interval, "all but the first and last are scored"
        pods = np.array(memory["billed"]) / memory["seconds"]
        np.testing.assert_allclose(pods, sums.billed[:, index] / (hours * 3600.0), rtol=0.02, err_msg=name)
        late, expected = np.array(memory["late"]) / memory["judged"], sums.violation_share[:, index]
        # 0.3 points, and of a load that is on and off 2 % of the share: its last minutes are not lived through
        np.testing.assert_allclose(late, expected, atol=0.003, rtol=0.02, err_msg=name)
        np.testing.assert_allclose(memory["rescales"], sums.rescales[:, index], rtol=0.05, atol=3, err_msg=name)


def test_who_decides_alike_gets_the_same_figures_to_the_bit() -> None:
    shadow, load = Shadow(), np.random.default_rng(1).gamma(4.0, 30.0, 300)
    live = 12.0
    for now in load:
        shadow.tick(float(now), live)
        decided = shadow.comparison.replicas(WEB)
        assert decided is not None
        live = float(decided)
    memory = shadow.memory
    assert memory["late"][0] > 0.0
    assert memory["rescales"][0] > 50
    for name in ("late", "billed", "rescales"):
        assert memory[name][0] == memory[name][1], name
    report = shadow.comparison.report(WEB)
    assert report is not None
    assert report["live"] == report["virtual"]
    assert report["savings"] == 0.0


# Figures that can be told by hand.


def test_constant_replicas_cost_what_they_are() -> None:
    shadow = Shadow(replace(SIZED, min_replicas=7, max_replicas=7))
    for _ in range(242):  # the queues run two intervals behind
        shadow.tick(10.0, 10.0)
    report = shadow.comparison.report(WEB)
    assert report is not None
    assert report["over"] == "1h"
    assert report["live"] == {"podHours": 10.0, "withinObjective": 100.0, "rescales": 0}
    assert report["virtual"] == {"podHours": 7.0, "withinObjective": 100.0, "rescales": 0}
    assert report["savings"] == 30.0
    assert report["estimate"] is True
    assert report["since"] == "2023-11-14T22:13:35Z"


def test_overload_is_late_and_idleness_is_not() -> None:
    busy, idle = Shadow(replace(SIZED, max_replicas=5)), Shadow()
    for _ in range(100):
        busy.tick(100.0, 5.0)
        idle.tick(0.0, 5.0)
    assert np.array(busy.memory["late"]) / busy.memory["judged"] == pytest.approx([1.0, 1.0], abs=0.01)
    assert idle.memory["late"] == [0.0, 0.0]
    assert idle.memory["judged"] == 0.0
    report = idle.comparison.report(WEB)
    assert report is not None
    assert "withinObjective" not in report["live"], "no request, no share of them"


def test_an_objective_that_no_request_can_meet_is_not_judged() -> None:
    shadow = Shadow(replace(SIZED, objective=Objective(latency=0.05)))
    for _ in range(20):
        shadow.tick(50.0, 10.0)
    report = shadow.comparison.report(WEB)
    assert report is not None
    assert report["live"] == {"podHours": pytest.approx(10.0 * 18 * 15 / 3600.0, abs=1e-3), "rescales": 0}


@dataclass
class Told:
    """Proposes what it is told to, and keeps the views that it was shown."""

    wanted: Callable[[int], float]
    name: str = "told"
    seen: list[dict[str, float]] = field(default_factory=list, repr=False)

    def state(self, n: int) -> State:
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        self.seen.append({name: float(array[0]) for name, array in view.snapshot.items()})
        return Proposal(replicas=np.full(view.demand.shape, self.wanted(len(self.seen)))), state


def of_own(policy: Told) -> list[dict[str, float]]:
    """Return what our own side was shown: the live decision asks the policy first at each tick."""
    return policy.seen[1::2]


def test_our_own_side_sees_its_own_pods_start() -> None:
    policy = Told(lambda call: 10.0 if call <= 6 else 14.0)
    shadow = Shadow(replace(SIZED, startup=40.0, floor=False), policy)
    for _ in range(9):
        shadow.tick(50.0, 10.0)
    counts = [(seen["desired"], seen["ready"], seen["starting"]) for seen in of_own(policy)]
    # ordered at the fourth tick, ready 40 s and so three ticks after it
    assert counts == [(10, 10, 0)] * 4 + [(14, 10, 4)] * 2 + [(14, 14, 0)] * 3


def test_our_own_side_reads_what_the_live_one_can_read() -> None:
    policy = Told(lambda call: 4.0)
    shadow = Shadow(replace(SIZED, floor=False), policy)
    for tick in range(12):
        shadow.tick(100.0, 20.0, backlog=0.0 if tick < 8 else NAN, utilization=0.5)
    seen = of_own(policy)
    assert seen[7]["utilization"] == pytest.approx(1.0, abs=1e-3), "4 replicas of 10 requests/s under 100"
    # the fall to 4 was ordered at the first tick; two intervals behind, five of 15 s with 60 too many a second are over
    assert seen[7]["backlog"] == pytest.approx(6 * 15 * 60.0, rel=0.01)
    assert math.isnan(seen[8]["backlog"])
    assert math.isnan(seen[7]["latency"])


def test_a_change_of_the_live_count_is_dated_at_the_tick_before() -> None:
    """It was made at an unknown moment in between, and the live scaler is given the benefit of it."""
    shadow = Shadow()
    for tick in range(40):
        shadow.tick(50.0, 10.0 if tick < 20 else 20.0)
    # 38 intervals are lived through, the last of them from tick 37 on; 20 replicas from tick 19 on
    assert shadow.memory["billed"][0] == 15.0 * (19 * 10.0 + 19 * 20.0)


def test_behavior_counts() -> None:
    policy = Told(lambda call: 5.0)
    shadow = Shadow(replace(SIZED, behavior=DEFAULT, floor=False), policy)
    for _ in range(30):
        shadow.tick(50.0, 10.0)
    desired = [seen["desired"] for seen in of_own(policy)]
    assert desired == [10.0] * 21 + [5.0] * 9, "kept for the window of 300 s"


# What is unknown.


def test_a_gap_of_the_load_is_not_scored() -> None:
    shadow = Shadow()
    for _ in range(20):
        shadow.tick(50.0, 10.0)
    before = shadow.memory
    for _ in range(8):
        shadow.tick(NAN, 10.0)
    assert shadow.memory == before
    shadow.tick(50.0, 10.0)
    assert shadow.memory["seconds"] == before["seconds"] + 15.0


def test_with_metrics_of_a_part_of_an_interval_both_readings_must_be_known() -> None:
    shadow = Shadow(replace(SIZED, lag=20.0))
    for load in (50.0, 50.0, 50.0, 50.0, NAN, 50.0, 50.0):
        shadow.tick(load, 10.0)
    assert shadow.memory["seconds"] == 2 * 15.0, "the fourth and the seventh; the sixth speaks of the fifth as well"


def test_missed_ticks_are_not_scored_and_the_worlds_go_on() -> None:
    shadow = Shadow(replace(SIZED, max_replicas=10))
    for _ in range(20):
        shadow.tick(120.0, 10.0)
    before = shadow.memory
    shadow.tick(120.0, 10.0, steps=5.0)
    after = shadow.memory
    assert after["seconds"] == before["seconds"] + 15.0
    assert after["late"][0] - before["late"][0] == pytest.approx(120.0 * 15.0, rel=0.01), "the backlog is still there"


def test_after_a_long_pause_the_worlds_start_settled() -> None:
    shadow = Shadow(replace(SIZED, max_replicas=10))
    for _ in range(20):
        shadow.tick(120.0, 10.0)
    before = shadow.memory
    shadow.tick(60.0, 30.0, steps=LONGEST_PAUSE + 1.0)
    assert shadow.memory == before
    for _ in range(10):
        shadow.tick(60.0, 30.0)
    after = shadow.memory
    assert after["since"] == before["since"]
    assert after["late"][0] - before["late"][0] < 1.0, "no backlog of before is left"


@pytest.mark.parametrize(
    ("capacity", "live"),
    [(NAN, 10.0), (10.0, NAN), (10.0, 0.0)],
    ids=["capacity unknown", "replicas unknown", "the target is switched off"],
)
def test_nothing_is_scored_without(capacity: float, live: float) -> None:
    shadow = Shadow()
    for _ in range(10):
        shadow.tick(50.0, 10.0)
    before = shadow.memory
    shadow.scaler.learn([0], capacity_per_replica=capacity)
    for _ in range(10):
        shadow.tick(50.0, live)
    assert shadow.memory == before
    assert shadow.comparison.replicas(WEB) is None
    shadow.scaler.learn([0], capacity_per_replica=10.0)
    for _ in range(4):
        shadow.tick(50.0, 10.0)
    assert shadow.memory["seconds"] == before["seconds"] + 2 * 15.0


def test_a_target_at_0_counts_where_0_is_allowed() -> None:
    shadow = Shadow(replace(SIZED, min_replicas=0))
    for _ in range(12):
        shadow.tick(50.0, 0.0)
    assert shadow.memory["billed"][0] == 0.0
    assert shadow.memory["late"][0] == pytest.approx(shadow.memory["judged"], rel=0.01)


def test_a_second_tick_at_once_changes_nothing() -> None:
    once, twice = Shadow(), Shadow()
    for _ in range(20):
        once.tick(50.0, 10.0)
        twice.tick(50.0, 10.0)
        twice.tick(90.0, 12.0, steps=0.0)
    assert once.memory == twice.memory


def test_before_anything_is_scored_there_is_no_report() -> None:
    shadow = Shadow()
    assert shadow.comparison.report(WEB) is None
    assert shadow.comparison.memory(WEB) is None
    assert shadow.comparison.report(Key("shop", "other")) is None
    shadow.tick(NAN, 10.0)
    assert shadow.comparison.memory(WEB) is None, "no load has been known yet"
    for _ in range(2):
        shadow.tick(50.0, 10.0)
        assert shadow.comparison.report(WEB) is None
    shadow.tick(50.0, 10.0)
    assert shadow.comparison.report(WEB) is not None


# Settings, policies, restarts.


def test_learned_settings_count_from_the_tick_that_brings_them() -> None:
    shadow = Shadow(replace(SIZED, min_replicas=10, max_replicas=10))
    for tick in range(40):
        if tick == 20:
            shadow.scaler.learn([0], capacity_per_replica=5.0, startup=200.0)
        shadow.tick(70.0, 10.0)
        if tick == 19:
            assert shadow.memory["late"][0] < 0.01 * shadow.memory["judged"]
    assert shadow.memory["seconds"] == 38 * 15.0
    assert shadow.memory["late"][0] > 0.4 * shadow.memory["judged"], "70 are more than ten times 5"


def test_another_interval_starts_the_worlds_again_and_keeps_the_figures() -> None:
    shadow = Shadow()
    for _ in range(10):
        shadow.tick(50.0, 10.0)
    before = shadow.memory
    shadow.settings = replace(SIZED, interval=30.0)
    shadow.comparison.put(WEB, shadow.settings)
    shadow.scaler.update([0], shadow.settings)
    for _ in range(6):
        shadow.tick(50.0, 10.0)
    after = shadow.memory
    assert after["since"] == before["since"]
    assert after["seconds"] == before["seconds"] + 4 * 30.0


def test_another_objective_or_policy_begins_anew() -> None:
    shadow = Shadow()
    for _ in range(10):
        shadow.tick(50.0, 10.0)
    since = shadow.memory["since"]
    shadow.settings = replace(SIZED, max_replicas=50)
    shadow.comparison.put(WEB, shadow.settings)
    shadow.tick(50.0, 10.0)
    assert shadow.memory["since"] == since, "other bounds go on"

    shadow.policy = load_policy("growth-quantile")
    shadow.tick(50.0, 10.0)
    assert shadow.memory["since"] == since, "the same rule is the same policy, whatever object it is"

    shadow.settings = replace(shadow.settings, objective=Objective(latency=1.0))
    shadow.comparison.put(WEB, shadow.settings)
    assert shadow.comparison.report(WEB) is None
    shadow.tick(50.0, 10.0)
    assert shadow.memory["since"] == shadow.time

    for _ in range(5):
        shadow.tick(50.0, 10.0)
    shadow.policy = load_policy("erlang")
    shadow.tick(50.0, 10.0)
    assert shadow.memory["since"] == shadow.time
    assert shadow.memory["seconds"] == 0.0


def walked(shadow: Shadow, loads: Sequence[float], restart_at: int = -1) -> None:
    for tick, load in enumerate(loads):
        if tick == restart_at:
            memory = json.loads(json.dumps(shadow.memory))
            shadow.comparison = Comparison()
            shadow.comparison.put(WEB, shadow.settings)
            assert shadow.comparison.recall(WEB, memory)
            assert shadow.memory == memory
        shadow.tick(load, math.ceil(load / 7.0))


def test_a_restart_goes_on() -> None:
    loads = (100.0 + 60.0 * np.sin(np.arange(240) / 20.0)).tolist()
    whole, cut = Shadow(), Shadow()
    walked(whole, loads)
    walked(cut, loads, restart_at=100)
    expected, found = whole.memory, cut.memory
    assert found["since"] == expected["since"]
    assert expected["seconds"] - found["seconds"] == 2 * 15.0, "the queues run two intervals behind"
    for name in ("billed", "rescales"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0.03, err_msg=name)
    late, before = (np.array(memory["late"]) / memory["judged"] for memory in (found, expected))
    np.testing.assert_allclose(late, before, atol=1e-3)


def test_what_was_of_another_policy_or_objective_is_not_gone_on_with() -> None:
    shadow = Shadow()
    for _ in range(20):
        shadow.tick(50.0, 10.0)
    memory = shadow.memory
    other = Shadow(policy=load_policy("erlang"))
    assert other.comparison.recall(WEB, memory), "which policy decides is known at the first tick"
    other.tick(50.0, 10.0)
    assert other.memory["since"] == other.time
    other = Shadow(replace(SIZED, objective=Objective(latency=2.0)))
    assert not other.comparison.recall(WEB, memory)
    assert other.comparison.memory(WEB) is None


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": dict.clear,
    "a part missing": lambda memory: memory.pop("late"),
    "text": lambda memory: memory.update(seconds="many"),
    "none": lambda memory: memory.update(billed=None),
    "one side": lambda memory: memory.update(billed=[1.0]),
    "not finite": lambda memory: memory.update(late=[NAN, 0.0]),
    "negative": lambda memory: memory.update(seconds=-15.0),
}


@pytest.mark.parametrize("breakage", BROKEN.values(), ids=BROKEN)
def test_a_broken_memory_is_left_aside(breakage: Callable[[dict[str, Any]], Any]) -> None:
    shadow = Shadow()
    for _ in range(5):
        shadow.tick(50.0, 10.0)
    memory = shadow.memory
    breakage(memory)
    fresh = Shadow()
    assert not fresh.comparison.recall(WEB, memory)
    assert fresh.comparison.memory(WEB) is None
    assert not Comparison().recall(WEB, shadow.memory), "it has not been put"


def test_rows_come_and_go() -> None:
    comparison = Comparison()
    first, second = Shadow(comparison=comparison), Shadow(comparison=comparison, key=Key("shop", "queue"))
    for _ in range(10):
        first.tick(50.0, 10.0)
        second.tick(90.0, 20.0)
    assert len(comparison) == 2
    comparison.drop(WEB)
    comparison.drop(WEB)
    assert WEB not in comparison
    kept = second.memory
    third = Shadow(comparison=comparison, key=Key("shop", "api"))
    assert comparison.report(third.key) is None, "a row that was used before knows nothing"
    third.tick(50.0, 5.0)
    assert third.memory["since"] == third.time
    assert second.memory == kept
    with pytest.raises(KeyError):
        comparison.advance([WEB], first.scaler.view(Snapshot(time=first.time)), RULE)


def test_a_rule_is_told_by_its_constants() -> None:
    assert identity_of(load_policy("growth-quantile")) == identity_of(load_policy("growth-quantile"))
    rule = load_policy("growth-quantile")
    assert identity_of(replace(rule, hold=99.0)) != identity_of(rule)  # type: ignore[type-var]


def test_a_learned_policy_is_told_by_its_digest_and_whether_it_earns_its_say() -> None:
    modes = [None, "On", "Advisory", "Off"]
    as_it_is, on, advisory, off = (identity_of(load_policy("default", tenure=mode)) for mode in modes)
    assert as_it_is == on
    assert len({on, advisory, off}) == 3


# Workloads beside each other.

WORKLOADS = st.fixed_dictionaries({
    "interval": st.sampled_from([15.0, 15.0, 5.0]),
    "lag": st.sampled_from([15.0, 0.0, 20.0]),
    "startup": st.sampled_from([0.0, 60.0, 45.0, 400.0]),
    "capacity_per_replica": st.sampled_from([10.0, 0.5, 200.0]),
    "concurrency": st.sampled_from([1, 10]),
    "behavior": st.sampled_from([None, DEFAULT]),
    "seed": st.integers(0, 1000),
})  # fmt: skip


@hypothesis_settings(deadline=None, derandomize=True, max_examples=12)
@given(st.lists(WORKLOADS, min_size=2, max_size=4), st.data())
def test_no_workload_changes_another(drawn: list[dict[str, Any]], data: st.DataObject) -> None:
    """All in one comparison, some of them due at each tick, give to the bit what each gives alone."""
    seeds = [each.pop("seed") for each in drawn]
    every = [Settings(max_replicas=1000, objective=Objective(latency=30.0), **each) for each in drawn]
    keys = [Key("shop", f"web-{i}") for i in range(len(drawn))]
    alone = [Shadow(settings, key=key) for settings, key in zip(every, keys, strict=True)]
    together, scaler = Comparison(), Autoscaler(RULE)
    for key, settings in zip(keys, every, strict=True):
        together.put(key, settings)
        scaler.add([key], settings)
    noise = [np.random.default_rng(seed) for seed in seeds]
    for _ in range(40):
        due = [i for i in range(len(drawn)) if noise[i].random() < 0.9]
        dropped = data.draw(st.sampled_from([None] * 20 + list(range(len(drawn)))))
        if dropped is not None:
            together.drop(keys[dropped])
            together.put(keys[dropped], every[dropped])
            alone[dropped].comparison = Comparison()
            alone[dropped].comparison.put(keys[dropped], every[dropped])
        loads, lives = [], []
        for i, shadow in enumerate(alone):
            scale = float(shadow.settings.capacity_per_replica)
            load = NAN if noise[i].random() < 0.05 else float(noise[i].gamma(3.0, 4.0)) * scale
            loads.append(load)
            lives.append(float(noise[i].integers(1, 30)))
            if i in due:
                shadow.tick(load, lives[i])
            else:
                shadow.time += float(shadow.settings.interval)
        if not due:
            continue
        read = np.array([(alone[i].time, loads[i], lives[i]) for i in due])
        snapshot = Snapshot(time=read[:, 0], load=read[:, 1], ready=read[:, 2], starting=0.0, desired=read[:, 2])
        view = scaler.view(snapshot, np.array(due))
        together.advance([keys[i] for i in due[::-1]], view, RULE, at=np.arange(len(due))[::-1])
    for key, shadow in zip(keys, alone, strict=True):
        assert together.memory(key) == shadow.comparison.memory(key)


def test_the_shape_within_an_interval_keeps_its_mean_and_has_the_spread_of_the_standard_world() -> None:
    """Quantiles whose mean is 0 and whose variance is that of normal numbers with a known mean, 1 - 1/K."""
    for ticks in (1, 2, 5, 20):
        values = twin_worlds.quantiles(ticks)
        np.testing.assert_allclose(values.mean(axis=0), 0.0, atol=1e-3)
        np.testing.assert_allclose((values**2).mean(axis=0), 1.0 - 1.0 / ticks, atol=0.1)
