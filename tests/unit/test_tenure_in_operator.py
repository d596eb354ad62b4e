"""Say that is earned in a cluster: who has it is told calmly, and it outlives a process, an edit and a mode."""

import math
from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from rlscaler import Settings
from rlscaler.arrays import State
from rlscaler.guard import KEPT, in_order
from rlscaler.policies import load_policy
from rlscaler.reasons import Reason
from rlscaler.rules.tenure import Tenure
from rlscaler.standing import AHEAD, KINDS, Standing, standings
from rlscaler.tenured import MODES, Tenured
from rlscaler_operator import checkpoint
from rlscaler_operator.clock import Clock
from rlscaler_operator.deciding import Decider
from rlscaler_operator.events import differences
from rlscaler_operator.explaining import explained, told
from rlscaler_operator.model import Account, Decision, Key, PolicyInUse, Readings
from rlscaler_operator.policy_store import PolicyStore
from rlscaler_operator.status import NUMBERS_EVERY, REASONS_EVERY, changed, status
from rlscaler_operator.telemetry import Telemetry
from rlscaler_sim import contenders, contest, dry_run
from workload_accounts import NOON, account, decision, resource, target

KEY = Key("shop", "web")
INTERVAL = 15.0
DIGEST = f"sha256:{'a' * 64}"
LED = Standing("On", "hpa at 70% held 300s", "hpa", 0.31, 0.12, 0.06, 23_400.0)
TUNED, LEARNED = 4, -1
"""The candidates that are the tuned rule and the learned policy."""


def shipped() -> Tenured:
    policy = load_policy("default")
    assert isinstance(policy, Tenured)
    return policy


def even() -> Tenured:
    """Return the shipped policy as if all candidates had begun with the same say."""
    policy = shipped()
    policy.tenure.hedge.prior = None
    return policy


def earned(policy: Tenured, costs: dict[int, float], known: float = 8 * 3600.0) -> State:
    """Return the memory of a workload whose candidates had a score of 1.5, but for those named."""
    state = policy.state(1)
    state["demand"][:], state["known"][:] = 1000.0, known
    state["cost"][:] = 1500.0
    for candidate, score in costs.items():
        state["cost"][0, candidate] = 1000.0 * score
    return state


def stands(policy: Tenured, costs: dict[int, float], leader: int = -1, known: float = 8 * 3600.0) -> Standing:
    return standings(policy, earned(policy, costs, known), np.array([leader]), np.array([20.0]))[0][0]


# Who leads.


def test_every_candidate_has_a_name_and_a_kind() -> None:
    for policy in (shipped().tenure, Tenure()):
        names = [name for _, name in policy.candidates]
        assert len(names) == len(set(names)) == policy.hedge.size
        assert {kind for kind, _ in policy.candidates} <= set(KINDS)
    assert shipped().tenure.candidates[TUNED] == ("growth-quantile", "growth-quantile x1 held 15s")
    assert shipped().tenure.candidates[LEARNED] == ("learned", "learned policy")
    assert shipped().tenure.hedge.spare == TUNED


def test_nobody_leads_where_all_begin_with_the_same_say() -> None:
    policy = even()
    found, leaders = standings(policy, policy.state(2), np.full(2, -1), np.full(2, 20.0))
    assert leaders.tolist() == [-1, -1]
    for each in found:
        assert (each.mode, each.leader, each.kind, each.seconds) == ("On", "", "", 0.0)
        assert (each.share, each.margin) == (None, None)
        assert each.learned == pytest.approx(1.0 / (policy.tenure.hedge.size - policy.tenure.hedge.guests))


def test_the_learned_policy_leads_before_anything_is_replayed_if_it_begins_with_the_most_say() -> None:
    policy = shipped()
    (found,), _ = standings(policy, policy.state(1), np.array([-1]), np.array([20.0]))
    assert (found.leader, found.seconds) == ("learned policy", 0.0)
    assert found.share == found.learned == pytest.approx(policy.standing(np, policy.state(1))[0].max())
    assert found.margin is None, "no score is known yet"


def test_the_leader_is_told_with_its_share_and_by_how_much_it_is_better_than_the_tuned_rule() -> None:
    policy = shipped()
    found = stands(policy, {TUNED: 1.4, LEARNED: 1.3})
    assert (found.leader, found.kind, found.seconds) == ("learned policy", "learned", 8 * 3600.0)
    assert found.share == found.learned
    assert found.learned > 0.5
    assert found.margin == pytest.approx(0.1)
    assert stands(policy, {TUNED: 1.3}).margin == 0.0
    assert stands(replace(policy, advisory=True), {}).mode == "Advisory"


def test_a_leader_gives_way_only_to_a_clear_better() -> None:
    """Candidates that are all but equal would change places at every tick."""
    policy = even()
    weights = policy.standing(np, earned(policy, {TUNED: 1.300, LEARNED: 1.301}))[0]
    assert 1.0 < weights[TUNED] / weights[LEARNED] < AHEAD
    assert stands(policy, {TUNED: 1.300, LEARNED: 1.301}, leader=10).leader == "learned policy"
    assert stands(policy, {TUNED: 1.300, LEARNED: 1.301}, leader=TUNED).leader == "growth-quantile x1 held 15s"
    assert stands(policy, {TUNED: 1.2, LEARNED: 1.301}, leader=10).leader == "growth-quantile x1 held 15s"


def test_say_is_told_at_the_price_that_the_objective_asks_for() -> None:
    """Who is cheap and late leads at a low price, and does not at a high one."""
    policy = even()
    state = earned(policy, {TUNED: 1.3})
    state["cost"][0, TUNED], state["late"][0, TUNED] = 1200.0, 3.0
    found, _ = standings(policy, {n: np.concatenate([a, a]) for n, a in state.items()}, np.full(2, -1),
                         np.array([20.0, 500.0]))  # fmt: skip
    assert found[0].leader == "growth-quantile x1 held 15s"
    assert found[1].leader != found[0].leader
    assert found[0].margin == 0.0


BOUNDS: dict[str, tuple[dict[str, Any], float, Reason]] = {
    "at the least": ({"minReplicas": 30}, 60.0, Reason.TooFewReplicas),
    "at the most": ({"minReplicas": 1, "maxReplicas": 4}, 190.0, Reason.TooManyReplicas),
    "between": ({"minReplicas": 1}, 190.0, Reason(0)),
}


@pytest.mark.parametrize(("bounds", "load", "reason"), BOUNDS.values(), ids=BOUNDS)
def test_a_bound_is_told_though_candidates_order_within_it(bounds: dict[str, Any], load: float, reason: Reason) -> None:
    who, (policy, in_use) = Decider(timer=lambda: 0.0), PolicyStore().get("default")
    spec: dict[str, Any] = {"maxReplicas": 1000}
    who.put(KEY, resource(**(spec | bounds)), policy, in_use)
    made = who.decide({KEY: NOON}, {KEY: Readings(NOON, load=load)}, {KEY: target()})[KEY]
    assert Reason(made.bits) & (Reason.TooFewReplicas | Reason.TooManyReplicas) == reason


# What is kept.


def decider(mode: str | None = None, keys: Iterable[Key] = (KEY,)) -> Decider:
    made, (policy, in_use) = Decider(timer=lambda: 0.0), PolicyStore().get("default", None, mode)
    for key in keys:
        made.put(key, resource(key.name, maxReplicas=1000), policy, in_use)
    return made


def lived(who: Decider, ticks: int, begin: int = 0, keys: Iterable[Key] = (KEY,)) -> list[Decision]:
    """Let workloads live under a load that swings and is noisy, the same for the same ticks."""
    found = []
    for tick in range(begin, begin + ticks):
        now = NOON + INTERVAL * tick
        load = 800.0 * (1.0 + 0.4 * math.sin(tick / 15.0)) * float(np.random.default_rng(tick).lognormal(0.0, 0.08))
        made = who.decide(dict.fromkeys(keys, now), {key: Readings(now, load=load) for key in keys},
                          {key: target(desired=20, replicas=20, ready=20) for key in keys})  # fmt: skip
        found.append(made[KEY])
    return found


def handed_over(old: Decider, new: Decider, keys: Iterable[Key] = (KEY,)) -> int:
    """Give what one process remembers of the guard and the policy to the next; return the bytes that it took."""
    blob = checkpoint.packed(old.memory(keys), {})
    kept, problem = checkpoint.unpacked(blob, "the checkpoint")
    assert problem is None
    for batch in checkpoint.joined(kept, math.inf):
        new.recall(batch)
    return len(blob)


def part(who: Decider, name: str) -> State:
    """Return one part of what is remembered of the workload, see `memory.PARTS`."""
    home = who.home(KEY)
    assert home is not None
    return home[0].memory([home[1]], (name,))[name]


def say(who: Decider) -> State:
    return part(who, "policy")


def test_a_restart_keeps_what_each_candidate_has_earned() -> None:
    """All but orders so old that no charge looks at them any more."""
    before, after, ticks = decider(), decider(), 240  # after which one leads by more than a hair
    lived(before, ticks)
    handed_over(before, after)
    width = 1 + 4 + 1  # metrics an interval old, a start-up of four, and the order that it ends with
    mine, theirs = say(before), say(after)
    for memory in (mine, theirs):
        memory["orders"] = memory["orders"][..., :width]
        memory["kept"], memory["kept_age"] = in_order(memory["kept"], memory["kept_age"])
    for name, array in mine.items():
        np.testing.assert_array_equal(theirs[name], array, err_msg=name)
    assert (say(after)["orders"] >= 0).all(), "orders before the oldest are taken for the oldest"
    (one,), (other,) = lived(before, 1, ticks), lived(after, 1, ticks)
    assert one.standing is not None
    assert one.standing == other.standing
    assert one.standing.seconds == pytest.approx(ticks * INTERVAL, rel=0.03)


def test_a_restart_keeps_who_leads_where_two_are_close() -> None:
    before, after = decider(), decider()
    lived(before, 1)
    leader = before._leaders[KEY]
    before._leaders[KEY] = close = next(each for each in range(shipped().tenure.hedge.size) if each != leader)
    handed_over(before, after)
    assert after._leaders == {KEY: close}


@pytest.mark.parametrize("interval", ["5s", "60s"])
def test_a_restart_with_another_interval_is_an_edit_of_the_interval(interval: str) -> None:
    """What was earned is told in intervals; those of a checkpoint are the ones at which it was kept."""
    before, after, policy = decider(), decider(), PolicyStore().get("default")
    lived(before, 120)
    after.put(KEY, resource(KEY.name, maxReplicas=1000, interval=interval), *policy)
    handed_over(before, after)
    before.put(KEY, resource(KEY.name, maxReplicas=1000, interval=interval), *policy)
    mine, theirs = say(before), say(after)
    for name in ("cost", "late", "demand", "apart", "known", "waiting", "seen_time"):
        np.testing.assert_array_equal(theirs[name], mine[name], err_msg=name)
    np.testing.assert_array_equal(theirs["orders"][..., :2], mine["orders"][..., :2])
    after.put(KEY, resource(KEY.name, maxReplicas=1000), *policy)
    handed_over(before, after)
    before.put(KEY, resource(KEY.name, maxReplicas=1000), *policy)
    np.testing.assert_allclose(say(after)["demand"], say(before)["demand"], rtol=1e-12)


@pytest.mark.parametrize("told", [None, [0.0], [math.nan], [[15.0]], [15]], ids=str)
def test_an_interval_that_is_none_changes_nothing(told: list[Any] | None) -> None:
    """A checkpoint of before has none."""
    before, after = decider(), decider()
    lived(before, 20)
    (batch,) = before.memory([KEY])
    (name,) = [name for name in batch.parts if name.startswith("interval ")]
    parts = {part: state for part, state in batch.parts.items() if part != name}
    parts |= {} if told is None else {name: {"interval": np.array(told)}}
    after.put(KEY, resource(KEY.name, maxReplicas=1000, interval="60s"), *PolicyStore().get("default"))
    after.recall(batch._replace(parts=parts))
    np.testing.assert_array_equal(say(after)["demand"], say(before)["demand"])


@pytest.mark.parametrize("leader", [[99], [-7], [0.5], [[1]]], ids=str)
def test_a_leader_that_is_none_is_nobody(leader: list[Any]) -> None:
    before, after = decider(), decider()
    lived(before, 1)
    (batch,) = before.memory([KEY])
    (name,) = [name for name in batch.parts if name.startswith("leader ")]
    after.recall(batch._replace(parts={**batch.parts, name: {"leader": np.array(leader)}}))
    assert after._leaders == {KEY: -1}


def test_what_is_kept_is_small() -> None:
    """400 workloads' with their guards and estimates go into one ConfigMap of 1 MiB, even if nothing of it shrinks."""
    keys = [KEY, *(Key("shop", f"w{number}") for number in range(49))]
    who = decider(keys=keys)
    lived(who, 40, keys=keys)
    (batch,) = who.memory(keys)
    (earned_say,) = [state for name, state in batch.parts.items() if name.startswith("policy ")]
    rest = sum(array.nbytes for state in batch.parts.values() if state is not earned_say for array in state.values())
    most = sum(array.nbytes for name, array in earned_say.items() if not name.startswith("kept"))
    most += len(keys) * earned_say["kept"].shape[2] * KEPT * 2 * earned_say["kept"].itemsize
    assert sum(array.nbytes for array in earned_say.values()) <= most
    assert 400 * (most + rest) / len(keys) < 0.8 * 2**20
    assert len(checkpoint.packed([batch], {})) < 1000 * len(keys)


def test_a_memory_of_another_version_is_left_out_and_the_guards_is_not(caplog: pytest.LogCaptureFixture) -> None:
    before, after, whole = decider(), decider(), decider()
    lived(before, 20)
    handed_over(before, whole)
    (batch,) = before.memory([KEY])
    (name,) = [name for name in batch.parts if name.startswith("policy ")]
    batch.parts[name]["cost"] = batch.parts[name]["cost"][:, :-1]
    after.recall(batch)
    assert "policy default begins with an empty memory" in caplog.text
    assert say(after)["known"] == 0.0
    assert np.isfinite(part(after, "guard")["recommended_time"]).any()
    for name, array in part(whole, "guard").items():
        np.testing.assert_array_equal(part(after, "guard")[name], array, err_msg=name)


@pytest.mark.parametrize("mode", MODES)
def test_a_change_of_mode_keeps_what_was_earned_where_say_is_earned(mode: str) -> None:
    who, (policy, in_use) = decider("On"), PolicyStore().get("default", None, mode)
    lived(who, 20)
    before = {name: array.copy() for name, array in say(who).items()}
    who.put(KEY, resource(), policy, in_use)
    if mode == "Off":
        assert say(who) == {}
        return
    for name, array in before.items():
        np.testing.assert_array_equal(say(who)[name], array, err_msg=name)


def test_advisory_decides_as_the_learned_policy_alone_and_tells_who_would_have_the_say() -> None:
    on, advisory, off = (lived(decider(mode), 40) for mode in MODES)
    assert [each.replicas for each in advisory] == [each.replicas for each in off]
    assert [each.replicas for each in advisory] != [each.replicas for each in on]
    assert [each.standing and each.standing._replace(mode="") for each in advisory[-2:]] == [
        each.standing and each.standing._replace(mode="") for each in on[-2:]
    ]
    assert {each.standing for each in off} == {None}


def test_shadows_own_side_begins_with_what_the_live_one_has_earned() -> None:
    who = decider()
    lived(who, 40)
    who.compare(KEY, True)
    lived(who, 2, 40)
    (group,) = who._comparison._groups
    entry = who._comparison._entries[KEY]
    known = group.scaler.memory([entry.member], ("policy",))["policy"]["known"]
    assert float(known[0]) > 30 * INTERVAL


# What is told.


def of(standing: Standing | None, time: float = NOON, **fields: Any) -> Account:
    mode = standing.mode if standing is not None else "On"
    policy = PolicyInUse("default", DIGEST, "1", mode)
    return account(time=time, policy=policy, decision=decision(time=time, standing=standing, **fields))


def test_the_status_says_who_leads_by_how_much_and_on_what() -> None:
    found = status(of(LED), {})["policy"]
    assert found == {
        "name": "default",
        "digest": DIGEST,
        "schema": "1",
        "tenure": {"mode": "On", "leader": "hpa at 70% held 300s", "share": 0.31, "margin": 0.12, "learned": 0.06,
                   "history": "6h30m"},
    }  # fmt: skip
    nobody = Standing("On", "", "", None, None, 0.0526, 0.0)
    assert status(of(nobody), {})["policy"]["tenure"] == {"mode": "On", "learned": 0.05, "history": "0s"}
    assert status(of(None), {})["policy"]["tenure"] == {"mode": "On"}
    rule = account(policy=PolicyInUse("hpa"))
    assert status(rule, {})["policy"] == {"name": "hpa"}
    before = status(of(LED), {})
    assert status(of(None), before)["policy"] == before["policy"], "a tick that says nothing of it"
    other = replace(of(None), policy=PolicyInUse("default", DIGEST, "1", "Advisory"))
    assert status(other, before)["policy"]["tenure"] == {"mode": "Advisory"}


CHANGES: dict[str, tuple[Standing, float]] = {
    "a little": (LED._replace(share=0.34, margin=0.135, learned=0.09), math.inf),
    "how much was replayed": (LED._replace(seconds=30_000.0), math.inf),
    "a share": (LED._replace(share=0.45), NUMBERS_EVERY),
    "a margin": (LED._replace(margin=0.2), NUMBERS_EVERY),
    "the learned policy's share": (LED._replace(learned=0.2), NUMBERS_EVERY),
    "the leader": (LED._replace(leader="learned policy", kind="learned"), REASONS_EVERY),
    "the mode": (LED._replace(mode="Advisory"), 0.0),
}
"""What may change, and after how many seconds that is written where nothing else changes."""


@pytest.mark.parametrize(("standing", "after"), CHANGES.values(), ids=CHANGES)
def test_it_is_written_seldom(standing: Standing, after: float) -> None:
    old = status(of(LED), {})
    new = status(of(standing), old)
    for since in (0.0, REASONS_EVERY - 1.0, REASONS_EVERY, NUMBERS_EVERY - 1.0, NUMBERS_EVERY, 1e6):
        assert changed(old, new, since) == (since >= after), since


def test_shares_that_creep_are_written_once_they_have_moved() -> None:
    told_before = status(of(LED), {})
    seen = told_before
    for step in range(1, 30):
        seen = status(of(LED._replace(share=0.31 + 0.002 * step)), seen)
    assert seen["policy"]["tenure"]["share"] == pytest.approx(0.36, abs=0.011)


def test_an_event_is_for_another_policy_or_mode_and_not_for_who_leads() -> None:
    old = status(of(LED), {})
    assert differences(old, status(of(LED._replace(leader="learned policy", share=0.9)), old)) == []
    (event,) = differences(old, status(of(LED._replace(mode="Advisory")), old))
    assert event.reason == "PolicyLoaded"
    assert event.message == (
        "Policy default (sha256:aaaaaaaaaaaa) with tenure Advisory decides from now on, "
        "Policy default (sha256:aaaaaaaaaaaa) with tenure On before."
    )


SENTENCES: dict[str, tuple[Standing, str]] = {
    "a rule leads": (
        LED,
        "hpa at 70% held 300s leads with 31 % of the say, its score 0.12 below the tuned rule's; the learned policy "
        "has 6 %; 6h30m of load replayed.",
    ),
    "the learned policy leads": (
        Standing("On", "learned policy", "learned", 0.7, 0.05, 0.7, 90_000.0),
        "the learned policy leads with 70 % of the say, its score 0.05 below the tuned rule's; 25h of load replayed.",
    ),
    "worse than the rule": (
        Standing("Advisory", "hpa at 80% held 60s", "hpa", 0.2, -0.01, 0.1, 60.0),
        "only told of: hpa at 80% held 60s leads with 20 % of the say, its score 0.01 above the tuned rule's; the "
        "learned policy has 10 %; 1m of load replayed.",
    ),
    "nothing yet": (
        Standing("On", "", "", None, None, 0.0526, 0.0),
        "nobody leads yet; the learned policy has 5 %; 0s of load replayed.",
    ),
}


@pytest.mark.parametrize(("standing", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_it_is_told_in_words(standing: Standing, sentence: str) -> None:
    value = {"metadata": {"name": "web", "namespace": "shop"}, "spec": {}, "status": status(of(standing), {})}
    assert ("Tenure", sentence) in told(explained(value, NOON))


def test_the_fleets_say_is_a_metric() -> None:
    telemetry = Telemetry(cast(Clock, SimpleNamespace(monotonic=lambda: 0.0, now=lambda: NOON)))
    value = telemetry.registry.get_sample_value
    assert math.isnan(value("rlscaler_tenure_learned_say") or 0.0)
    for number, standing in enumerate((LED, LED._replace(kind="learned", learned=0.5), None)):
        some = of(standing)
        some = replace(some, workload=replace(some.workload, key=Key("shop", f"w{number}")))
        telemetry.told(some, status(some, {}))
    assert value("rlscaler_tenure_learned_say") == pytest.approx(0.28)
    counts = {kind: value("rlscaler_tenure_leaders", {"leader": kind}) for kind in (*KINDS, "nobody")}
    assert counts == {"learned": 1.0, "growth-quantile": 0.0, "hpa": 1.0, "periodic": 0.0, "nobody": 0.0}


def test_a_dry_run_takes_the_mode_of_the_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    tested = contenders.tested

    def noted(policy: str, settings: Settings, *, digest: str | None, tenure: str | None) -> contest.Entrant:
        asked.append(tenure)
        return tested(policy, settings, digest=digest, tenure=tenure)

    monkeypatch.setattr(contenders, "tested", noted)
    scenario = dry_run.found_scenario("steady")
    for policy, override in (({"name": "default", "tenure": "Off"}, None), ({"name": "default"}, None),
                             ({"name": "default", "tenure": "Advisory"}, "hpa")):  # fmt: skip
        dry_run.dry_run(resource(policy=policy), scenario, policy=override, compare=(), duration=300.0)
    assert asked == ["Off", None, None]
