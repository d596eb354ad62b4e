"""The operator's own metrics: what they count, that they go with what they speak of, and that they are well named."""

import math
import subprocess
import threading
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from programs import program
from rlscaler.reasons import Reason
from rlscaler_operator.events import REASONS
from rlscaler_operator.heartbeat import LONGEST_LIMIT, SHORTEST_LIMIT, Heartbeat
from rlscaler_operator.model import Account, Key, Note, PolicyInUse
from rlscaler_operator.status import status
from rlscaler_operator.telemetry import BUCKETS, Telemetry
from workload_accounts import NOTHING, account, decision, later, target, workload


class Time:
    """A clock that is set."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at

    def now(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def telemetry(clock: Time) -> Telemetry:
    return Telemetry(clock)


def exposed(telemetry: Telemetry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the samples of the exposition, read by a parser of its own, by name and labels."""
    families = text_string_to_metric_families(generate_latest(telemetry.registry).decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(telemetry: Telemetry, metric: str, /, **labels: str) -> float | None:
    return exposed(telemetry).get((f"rlscaler_{metric}", frozenset(labels.items())))


def tell(telemetry: Telemetry, some: Account) -> None:
    telemetry.told(some, status(some, {}))


def test_a_decision_is_counted_once_however_often_it_is_told(telemetry: Telemetry) -> None:
    some = account(decision=decision(bits=int(Reason.ReactiveFloor | Reason.ScaleUpLimit)))
    tell(telemetry, some)
    tell(telemetry, later(some, 1.0))
    tell(telemetry, later(some, 15.0, decision=decision(time=some.time + 15.0)))
    tell(telemetry, account(workload=workload("b", spec={"mode": "Shadow"})))
    assert value(telemetry, "decisions_total", mode="Active") == 2.0
    assert value(telemetry, "decisions_total", mode="Shadow") == 1.0
    assert value(telemetry, "restricted_total", reason="ReactiveFloor") == 1.0
    assert value(telemetry, "restricted_total", reason="ScaleUpLimit") == 1.0
    assert value(telemetry, "restricted_total", reason="DesiredWithinRange") is None


def test_proposal_and_effect_stand_side_by_side(telemetry: Telemetry) -> None:
    where = {"namespace": "shop", "name": "web"}
    tell(telemetry, account(target=target(desired=4, ready=3), decision=decision(replicas=7), wanted=7))
    found = {name: value(telemetry, f"workload_{name}_replicas", **where) for name in
             ("demand", "recommended", "proposed", "decided", "desired", "ready")}  # fmt: skip
    assert found == {
        "demand": 2.64, "recommended": 3.2, "proposed": 3.61, "decided": 7.0, "desired": 4.0, "ready": 3.0,
    }  # fmt: skip
    tell(telemetry, account(target=target(desired=4), decision=decision(replicas=7), wanted=7, wrote=True))
    assert value(telemetry, "workload_desired_replicas", **where) == 7.0


def test_unknown_numbers_have_no_series(telemetry: Telemetry) -> None:
    tell(telemetry, account(decision=decision(replicas=-1, demand=NOTHING, proposal=NOTHING, recommendation=math.inf)))
    names = {name for name, labels in exposed(telemetry) if ("name", "web") in labels}
    assert names == {"rlscaler_workload_desired_replicas", "rlscaler_workload_ready_replicas",
                     "rlscaler_workload_troubled"}  # fmt: skip


def test_who_keeps_an_objective_within_a_window_tells_how_much_was_late(telemetry: Telemetry) -> None:
    tell(telemetry, account())
    assert value(telemetry, "workload_late_ratio", namespace="shop", name="web") is None
    objective = {"objective": {"target": "99.9", "window": "24h"}}
    tell(telemetry, account(workload=workload(spec=objective), decision=decision(late=0.0005, spare=1.25)))
    found = {name: value(telemetry, f"workload_{name}", namespace="shop", name="web")
             for name in ("late_ratio", "late_allowed_ratio", "headroom_multiple")}  # fmt: skip
    assert found == {"late_ratio": 0.0005, "late_allowed_ratio": pytest.approx(0.001), "headroom_multiple": 1.25}
    tell(telemetry, account(workload=workload(spec=objective), decision=decision(late=NOTHING)))
    assert value(telemetry, "workload_late_ratio", namespace="shop", name="web") is None


def test_the_series_of_a_deleted_workload_vanish(telemetry: Telemetry) -> None:
    tell(telemetry, account())
    tell(telemetry, account(workload=workload("other")))
    telemetry.forget(Key("shop", "web"))
    telemetry.forget(Key("shop", "never-seen"))
    labels = {pair for _, labels in exposed(telemetry) for pair in labels}
    assert ("name", "other") in labels
    assert ("name", "web") not in labels
    assert value(telemetry, "workloads", mode="Active") == 1.0


def test_a_follower_has_no_workloads(telemetry: Telemetry) -> None:
    telemetry.leader(True)
    tell(telemetry, account())
    assert value(telemetry, "is_leader") == 1.0
    telemetry.leader(False)
    assert value(telemetry, "is_leader") == 0.0
    assert value(telemetry, "workloads", mode="Active") == 0.0
    assert math.isnan(value(telemetry, "loop_age_seconds") or 0.0)


def test_the_fleet_is_counted_by_mode_policy_and_condition(telemetry: Telemetry) -> None:
    digest = f"sha256:{'a' * 64}"
    tell(telemetry, account())
    tell(telemetry, account(workload=workload("b", force=3), wanted=3))
    lost = Note("Odd", "x")
    tell(telemetry, account(workload=workload("c"), policy=PolicyInUse("mine", digest), source_problem=lost))
    assert [value(telemetry, "workloads", mode=mode) for mode in ("Active", "Forced", "Paused", "Shadow")] == [
        2,
        1,
        0,
        0,
    ]
    active = [("True", "ValidMetricFound"), ("False", "Odd"), ("False", "NoData"), ("False", "Else")]
    counted = [value(telemetry, "conditions", type="ScalingActive", status=s, reason=r) for s, r in active]
    assert counted == [2.0, 1.0, 0.0, None], "what can happen is there before it does"
    assert value(telemetry, "policy_info", policy="mine", digest=digest) == 1.0
    assert value(telemetry, "policy_info", policy="default", digest="") == 1.0
    assert value(telemetry, "policy_workloads", policy="default", digest="") == 2.0
    troubled = {name: value(telemetry, "workload_troubled", namespace="shop", name=name) for name in ("web", "b", "c")}
    assert troubled == {"web": 0.0, "b": 0.0, "c": 1.0}


def test_without_series_of_workloads_the_fleet_is_still_counted(clock: Time) -> None:
    telemetry = Telemetry(clock, per_workload=False)
    tell(telemetry, account())
    assert not [name for name, labels in exposed(telemetry) if ("name", "web") in labels]
    assert value(telemetry, "workloads", mode="Active") == 1.0


def test_the_share_in_time_is_that_of_the_last_five_minutes(telemetry: Telemetry, clock: Time) -> None:
    assert math.isnan(telemetry.on_time_ratio)
    telemetry.late(10)
    clock.at += 200.0
    for _ in range(30):
        telemetry.on_time(True)
    assert telemetry.on_time_ratio == 0.75
    clock.at += 150.0
    assert telemetry.on_time_ratio == 1.0
    clock.at += 1000.0
    assert math.isnan(telemetry.on_time_ratio)
    assert value(telemetry, "decisions_late_total") == 10.0
    assert value(telemetry, "decisions_in_time_total") == 30.0


def test_queries_and_writes_are_counted_by_outcome(telemetry: Telemetry) -> None:
    telemetry.query("main", 0.003, None)
    assert value(telemetry, "source_up", source="main") == 1.0
    telemetry.query("main", 3.0, Note("Timeout", "slow"))
    assert value(telemetry, "source_up", source="main") == 0.0
    assert value(telemetry, "source_errors_total", source="main", reason="Timeout") == 1.0
    assert value(telemetry, "query_duration_seconds_count", source="main") == 2.0
    assert value(telemetry, "query_duration_seconds_bucket", source="main", le="0.004") == 1.0
    telemetry.wrote("Written", 0.02)
    telemetry.wrote("Stale")
    assert value(telemetry, "writes_total", outcome="Stale") == 1.0
    assert value(telemetry, "write_duration_seconds_count") == 1.0
    telemetry.reported("status", "Written")
    telemetry.reported("event", "Forbidden")
    assert value(telemetry, "status_writes_total", outcome="Written") == 1.0
    assert value(telemetry, "events_total", outcome="Forbidden") == 1.0
    telemetry.decided(0, 5.0)
    telemetry.decided(3, 0.01)
    assert value(telemetry, "decision_duration_seconds_count") == 1.0
    telemetry.watches(lambda: {"rlscalers": 2.5})
    assert value(telemetry, "watch_age_seconds", watch="rlscalers") == 2.5


def test_a_source_that_is_not_there_any_more_is_neither_up_nor_down(telemetry: Telemetry) -> None:
    telemetry.sources(["main", "old"])
    telemetry.query("main", 0.003, None)
    telemetry.query("old", 3.0, Note("Timeout", "slow"))
    telemetry.sources(["main", "new"])
    telemetry.query("old", 3.0, Note("Timeout", "what was under way ends late"))
    telemetry.query("main", 0.003, None)
    telemetry.query("new", 0.003, None)
    assert [value(telemetry, "source_up", source=source) for source in ("main", "old", "new")] == [1.0, None, 1.0]
    assert value(telemetry, "source_errors_total", source="old", reason="Timeout") == 2.0
    telemetry.leader(False)
    assert value(telemetry, "source_up", source="main") is None, "a follower asks nobody"


def test_the_buckets_are_hpas() -> None:
    assert [round(bucket, 3) for bucket in BUCKETS] == [0.001 * 2**n for n in range(15)]


@pytest.mark.components("prometheus")
def test_names_and_help_pass_prometheus_own_lint(telemetry: Telemetry) -> None:
    tell(telemetry, account(decision=decision(bits=int(Reason.ReactiveFloor))))
    telemetry.query("main", 3.0, Note("Timeout", "slow"))
    for outcome in ("Written", "Stale"):
        telemetry.wrote(outcome, 0.1)
        telemetry.reported("status", outcome)
        telemetry.reported("event", outcome)
    telemetry.watches(lambda: {"rlscalers": 2.5})
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=generate_latest(telemetry.registry), capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    ours = [name for name, _ in exposed(telemetry)]
    assert all(name.startswith(("rlscaler_", "process_")) for name in ours)


def test_scraping_while_the_fleet_changes_does_no_harm(telemetry: Telemetry) -> None:
    """The exposition is made in another thread than the one that tells."""
    accounts = [account(workload=workload(f"w{i}")) for i in range(50)]
    found = status(accounts[0], {})
    stop, errors = threading.Event(), []

    def scrape() -> None:
        while not stop.is_set():
            try:
                generate_latest(telemetry.registry)
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=scrape)
    thread.start()
    for _ in range(20):
        for some in accounts:
            telemetry.told(some, found)
        for some in accounts:
            telemetry.forget(some.workload.key)
    stop.set()
    thread.join()
    assert errors == []


@pytest.mark.parametrize("entry", REASONS)
def test_the_table_of_events_is_whole(entry: Any) -> None:
    kind, reason, meaning = entry
    assert kind in ("Normal", "Warning")
    assert reason.isalnum()
    assert meaning.endswith(".")


# --- the heartbeat


def test_a_heart_that_stops_is_noticed_after_a_minute() -> None:
    heart = Heartbeat()
    heart.beat(0.0)
    heart.beat(1.0)
    assert not heart.hangs(1.0 + SHORTEST_LIMIT)
    assert heart.hangs(1.1 + SHORTEST_LIMIT)


def test_slow_rounds_are_given_three_times_their_length_but_not_for_ever() -> None:
    heart = Heartbeat()
    heart.beat(0.0)
    heart.beat(40.0)
    assert heart.limit == 120.0
    heart.beat(1000.0)
    assert heart.limit == LONGEST_LIMIT
    for i in range(5000):
        heart.beat(1001.0 + i)
    assert heart.limit == SHORTEST_LIMIT


def test_a_heart_at_rest_never_hangs() -> None:
    heart = Heartbeat()
    assert not heart.hangs(1e9)
    heart.beat(0.0)
    heart.rest()
    assert not heart.hangs(1e9)
    heart.beat(2e9)
    assert heart.limit == SHORTEST_LIMIT, "rest is no slow round"
