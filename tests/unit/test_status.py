"""The status: what it says, when it is worth a write, and which events two of them give."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.reasons import Reason
from rlscaler.resource_status import FIELDS, clean, complete, status_schema
from rlscaler_operator.events import REASONS, Budget, Event, differences, rescale
from rlscaler_operator.model import Account, Decision, Note, PolicyInUse, Readings
from rlscaler_operator.status import NUMBERS_EVERY, REASONS_EVERY, age, changed, coverage_text, rounded, status
from rlscaler_operator.timestamps import stamp
from workload_accounts import NOON, NOTHING, account, decision, later, target, workload

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
DIGEST = f"sha256:{'a' * 64}"
COMPARISON = {
    "since": stamp(NOON),
    "over": "6h30m",
    "live": {"podHours": 40.1, "withinObjective": 99.93, "rescales": 12},
    "virtual": {"podHours": 31.04, "withinObjective": 99.95, "rescales": 30},
    "savings": 22.6,
    "estimate": True,
}


def lost(reason: str = "NoData") -> dict[str, Any]:
    """Return the fields of an account whose load is unknown."""
    problems = {"spec.metrics.load": Note(reason, f"spec.metrics.load: {reason}")}
    held = decision(bits=int(Reason.MetricsUnknown), demand=NOTHING, proposal=NOTHING)
    return {"readings": Readings(time=NOON, problems=problems), "decision": held}


FULL = account(
    workload=workload(spec={"mode": "Shadow"}),
    policy=PolicyInUse("mine", DIGEST, "1"),
    comparison=COMPARISON,
    last_scale=NOON - 60.0,
)


def test_the_status_says_all_that_is_known() -> None:
    found = status(FULL, {})
    conditions = found.pop("conditions")
    assert [each["type"] for each in conditions][:3] == ["Ready", "ScalingActive", "AbleToScale"]
    assert found == {
        "observedGeneration": 1,
        "mode": "Shadow",
        "reason": "DesiredWithinRange",
        "currentReplicas": 4,
        "readyReplicas": 4,
        "desiredReplicas": 4,
        "selector": "app=web",
        "lastScaleTime": "2025-06-15T15:05:40Z",
        "policy": {"name": "mine", "digest": DIGEST, "schema": "1"},
        "capacity": {"perReplica": "50", "startup": "1m", "learned": False},
        "decision": {
            "time": "2025-06-15T15:06:40Z",
            "demand": 2.64,
            "recommendation": 3.2,
            "proposal": 3.61,
            "replicas": 4,
            "reasons": ["DesiredWithinRange"],
            "message": "The proposal stands.",
        },
        "history": {"coverage": "6h30m"},
        "comparison": COMPARISON,
    }


def strict(schema: Any) -> Any:
    """Return the schema with unknown fields refused, as the API server prunes them."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: strict(value) for key, value in schema.items()}
    return out | ({"additionalProperties": False} if "properties" in out else {})


@pytest.mark.parametrize(
    "some",
    [
        FULL,
        account(**lost()),
        account(target=None, decision=None, policy=None, readings=None, wanted=None),
        account(workload=workload(resource=None), target=None, decision=None, policy=None, wanted=None),
        account(workload=workload(force=2**31), wanted=2**31),
        account(decision=decision(replicas=-1, capacity=NOTHING, startup=NOTHING, coverage=NOTHING, demand=math.inf)),
        account(decision=decision(demand=1e9, proposal=1.23456e-7, bits=(1 << 18) - 1)),
    ],
)
def test_every_status_fits_the_schema_and_is_plain_json(some: Account) -> None:
    found = status(some, {})
    jsonschema.validate(found, strict(status_schema()))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_every_field_of_the_schema_is_described_and_used() -> None:
    def described(schema: Mapping[str, Any]) -> None:
        for name, each in schema.get("properties", {}).items():
            assert each["description"].endswith("."), name
            described(each)

    described(status_schema())
    assert status(FULL, {}).keys() == {each.name for each in FIELDS}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_of_a_status_from_another_hand_only_what_fits_the_schema_is_taken(data: st.DataObject) -> None:
    whole = status(FULL, {})
    assert clean(whole) == whole
    value = json.loads(json.dumps(whole))
    places = [value, value["decision"], value["comparison"]["live"], value["conditions"][0]]
    for place in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=4)):
        place[data.draw(st.sampled_from([*place, "other"]))] = data.draw(JSON)
    jsonschema.validate(clean(value), strict(status_schema()))


@pytest.mark.parametrize("junk", [None, 3, "x", [], {"conditions": [{"type": "Ready"}, 3]}, {"mode": "Sideways"}])
def test_of_junk_nothing_is_taken(junk: Any) -> None:
    assert clean(junk) == {}


def test_a_merge_patch_removes_what_is_no_more() -> None:
    patch = complete(status(account(decision=decision(demand=NOTHING)), {}))
    assert patch["comparison"] is None
    assert patch["decision"]["demand"] is None
    assert patch["policy"]["digest"] is None
    assert patch["decision"]["proposal"] == 3.61


def test_what_a_tick_does_not_know_stays_as_it_was() -> None:
    before = status(FULL, {})
    empty = {"target": None, "decision": None, "readings": None, "policy": None, "wanted": None, "comparison": None}
    assert status(later(FULL, 15.0, last_scale=math.nan, **empty), before) == before


def test_a_target_that_is_gone_has_no_replicas() -> None:
    gone = later(account(), 15.0, target=None, target_problem=Note("TargetNotFound", "no Deployment"))
    found = status(gone, status(account(), {}))
    assert "currentReplicas" not in found
    assert found["reason"] == "TargetNotFound"


@pytest.mark.parametrize("decided", [decision(replicas=7), None], ids=["decided before", "nothing decided"])
def test_nothing_is_asked_for_of_a_target_that_is_gone(decided: Decision | None) -> None:
    before = status(account(decision=decision(replicas=7), wanted=7), {})
    gone = {"target": None, "wanted": None, "decision": decided}
    found = status(later(account(), 15.0, target_problem=Note("TargetNotFound", "no Deployment"), **gone), before)
    assert "desiredReplicas" not in found
    assert changed(before, found, 1.0)
    unread = status(later(account(), 15.0, target_problem=Note("TargetUnreadable", "no right"), **gone), before)
    assert unread["desiredReplicas"] == 7


def test_a_comparison_ends_with_shadow() -> None:
    assert "comparison" not in status(replace(FULL, workload=workload()), status(FULL, {}))


DESIRED: tuple[tuple[str, Account, int], ...] = (
    ("the decision", account(decision=decision(replicas=7), wanted=7), 7),
    ("forced", account(workload=workload(force=50), wanted=50), 50),
    ("paused: as it is", account(workload=workload(paused=True), decision=decision(replicas=7), wanted=None), 4),
    ("shadow", account(workload=workload(spec={"mode": "Shadow"}), decision=decision(replicas=7), wanted=7), 7),
    (
        "forced in shadow: not obeyed",
        account(workload=workload(spec={"mode": "Shadow"}, force=50), decision=decision(replicas=7), wanted=50),
        7,
    ),
    ("another owner", account(decision=decision(replicas=7), wanted=None, conflict=Note("OwnedByHPA", "x")), 7),
)


@pytest.mark.parametrize(("some", "replicas"), [case[1:] for case in DESIRED], ids=[case[0] for case in DESIRED])
def test_the_desired_count_is_what_is_in_force(some: Account, replicas: int) -> None:
    assert status(some, {})["desiredReplicas"] == replicas


SHADOW = workload(spec={"mode": "Shadow"})
REASON: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("nothing to say", {}, "DesiredWithinRange"),
    ("of the decision", {"decision": decision(bits=int(Reason.ReactiveFloor))}, "ReactiveFloor"),
    ("no data", lost(), "NoData"),
    (
        "a conflict comes before no data",
        {"conflict": Note("OwnedByHPA", "x"), "wanted": None, **lost()},
        "OwnedByHPA",
    ),
    ("the HPA beside Shadow", {"workload": SHADOW, "conflict": Note("OwnedByHPA", "x")}, "OwnedByHPA"),
    ("no data in Shadow beside an HPA", {"workload": SHADOW, "conflict": Note("OwnedByHPA", "x"), **lost()}, "NoData"),
    ("a failed write", {"write_problem": Note("Forbidden", "x")}, "FailedUpdateScale"),
    ("paused", {"workload": workload(paused=True), "wanted": None}, "Paused"),
    (
        "paused and no target",
        {"workload": workload(paused=True), "target": None, "target_problem": Note("X", "y")},
        "X",
    ),
    ("forced", {"workload": workload(force=3), "wanted": 3}, "Forced"),
    ("just begun", {"target": None, "decision": None, "policy": None, "readings": None}, "Pending"),
)


@pytest.mark.parametrize(("fields", "reason"), [case[1:] for case in REASON], ids=[case[0] for case in REASON])
def test_the_printed_reason_is_the_most_urgent(fields: dict[str, Any], reason: str) -> None:
    assert status(account(**fields), {})["reason"] == reason


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.6449, 2.64), (3.0, 3), (0.004, 0), (123456.7, 123460), (999.999, 1000), (1e-9, 0)],
)
def test_numbers_have_the_digits_that_mean_something(value: float, text: float) -> None:
    assert rounded(value) == text
    assert isinstance(rounded(value), int) == float(text).is_integer()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (59.0, "0s"), (250.0, "4m"), (23_400.0, "6h30m"), (23_460.0, "6h30m"), (400_000.0, "108h"),
     (NOTHING, "0s")],
)  # fmt: skip
def test_coverage_is_told_in_steps(seconds: float, text: str) -> None:
    assert coverage_text(seconds) == text


# --- what is worth a write

PROMPT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("a count that is wanted", {"decision": decision(replicas=5), "wanted": 5}),
    ("a count that is there", {"target": target(replicas=5)}),
    ("mode", {"workload": workload(spec={"mode": "Shadow"})}),
    ("paused", {"workload": workload(paused=True), "wanted": None}),
    ("forced", {"workload": workload(force=4), "wanted": 4}),
    ("policy", {"policy": PolicyInUse("default", DIGEST)}),
    ("generation", {"workload": workload(generation=2)}),
    ("a rescale", {"last_scale": NOON}),
    ("no data", lost()),
    ("fallback", {"decision": decision(bits=int(Reason.PolicyFailed))}),
    ("conflict", {"conflict": Note("SharedTarget", "x")}),
    ("a failed write", {"write_problem": Note("Forbidden", "x")}),
    (
        "another metric",
        {"readings": Readings(time=NOON, load=132.0, problems={"spec.metrics.errors": Note("NoData", "x")})},
    ),
)
ROUTINE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("a reason of the decision", {"decision": decision(bits=int(Reason.ReactiveFloor))}),
    ("a limit", {"decision": decision(bits=int(Reason.TooFewReplicas))}),
    ("a window", {"decision": decision(bits=int(Reason.ScaleDownStabilized))}),
    ("a pod that got ready", {"target": target(ready=3)}),
)
NUMBERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("demand", {"decision": decision(demand=3.5)}),
    ("coverage", {"decision": decision(coverage=30_000.0)}),
    ("capacity", {"decision": decision(capacity=51.0)}),
)
NEVER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("nothing at all", {}),
    ("digits that nobody reads", {"decision": decision(demand=2.6401)}),
    ("the time of the decision", {"decision": decision(time=NOON + 900.0)}),
)


def worth(fields: dict[str, Any], seconds: float, old: dict[str, Any] | None = None) -> bool:
    before = status(account(), {}) if old is None else old
    return changed(before, status(later(account(), seconds, **fields), before), seconds)


def params(*tables: tuple[tuple[str, dict[str, Any]], ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fields", [pytest.param(f, id=name) for table in tables for name, f in table])


@params(PROMPT)
def test_what_people_act_on_is_written_at_once(fields: dict[str, Any]) -> None:
    assert worth(fields, 0.0)


@params(ROUTINE)
def test_what_shapes_a_decision_is_written_once_a_minute(fields: dict[str, Any]) -> None:
    assert not worth(fields, REASONS_EVERY - 1.0)
    assert worth(fields, REASONS_EVERY)


@params(NUMBERS)
def test_numbers_are_written_every_five_minutes(fields: dict[str, Any]) -> None:
    assert not worth(fields, NUMBERS_EVERY - 1.0)
    assert worth(fields, NUMBERS_EVERY)


@params(NEVER)
def test_nothing_is_written_where_nothing_changed(fields: dict[str, Any]) -> None:
    assert not worth(fields, 1e9)


@params(PROMPT, ROUTINE, NUMBERS)
def test_what_was_written_is_not_written_again(fields: dict[str, Any]) -> None:
    now = status(account(**fields), {})
    assert not changed(now, status(later(account(**fields), 900.0), now), 900.0)


def said(message: str) -> Account:
    """Return an account whose load is unknown for a reason that is told in these words."""
    some = account(**lost())
    assert some.readings is not None
    return replace(some, readings=replace(some.readings, problems={"spec.metrics.load": Note("NoData", message)}))


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("the source is not reachable, tried 3 times", 0.0),
        ("the source refuses the token, tried 3 times", REASONS_EVERY),
        ("the source is not reachable, tried 4 times", NUMBERS_EVERY),
    ],
    ids=["the same", "other words", "another number"],
)
def test_a_message_is_written_once_a_minute_and_its_numbers_less_often(message: str, seconds: float) -> None:
    before = status(said("the source is not reachable, tried 3 times"), {})

    def due(after: float) -> bool:
        return changed(before, status(later(said(message), after), before), after)

    assert due(1e9) == (seconds > 0.0)
    if seconds:
        assert not due(seconds - 1.0)
        assert due(seconds)


def mistaken(count: str) -> Account:
    note = Note("InvalidAnnotation", f"annotation rlscaler.io/force-replicas: '{count}' is no count")
    return account(workload=workload(annotation_problem=note))


def refused(digest: str) -> Account:
    note = Note("PolicyRefused", f"spec.policy.digest: mine has sha256:{digest}; expected sha256:00")
    return account(policy_problem=note, policy=PolicyInUse("growth-quantile"))


def shadowed(count: int) -> Account:
    return account(workload=workload(spec={"mode": "Shadow"}, force=count), wanted=None)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (mistaken("ten"), mistaken("-10"), "'-10' is no count"),
        (refused("a1"), refused("b2"), "sha256:b2"),
        (shadowed(40), shadowed(50), "force-replicas: 50 is not obeyed"),
    ],
    ids=["a count that is none", "another digest", "a count in Shadow"],
)
def test_what_a_person_has_changed_beside_the_spec_is_answered_at_once(old: Account, new: Account, told: str) -> None:
    """Who has just corrected an annotation or a policy is not to read for minutes of what was there before."""
    before = status(old, {})
    after = status(later(new, 5.0), before)
    assert any(told in each["message"] for each in after["conditions"])
    assert changed(before, after, 5.0)


def test_a_new_workload_is_written_at_once() -> None:
    assert changed({}, status(account(), {}), 0.0)


def test_a_restart_compares_with_what_the_api_server_has() -> None:
    written = json.loads(json.dumps(status(replace(account(), last_scale=NOON - 300.0), {})))
    after = later(account(), 100.0, last_scale=math.nan)
    assert age(written, after.time) == 100.0
    assert not changed(written, status(after, written), age(written, after.time))


@pytest.mark.parametrize("junk", [{"decision": 3}, {"conditions": "x"}, {"conditions": [None, {}]}, {"mode": []}])
def test_a_status_that_somebody_has_edited_is_written_anew(junk: dict[str, Any]) -> None:
    assert changed(junk, status(account(), junk), age(junk, NOON))


# --- events


def between(before: Account | None, after: Account) -> list[Event]:
    old = status(before, {}) if before is not None else {}
    return differences(old, status(after, old))


EVENTS: tuple[tuple[str, dict[str, Any], str, str, str], ...] = (
    ("no data", lost(), "Warning", "FailedGetMetrics", "NoData: spec.metrics.load"),
    (
        "switched off",
        {"target": target(desired=0), "decision": decision(bits=int(Reason.ScalingDisabled))},
        "Warning", "ScalingDisabled", "stands at 0",
    ),
    (
        "an overstated capacity", {"decision": decision(bits=int(Reason.CapacityOverstated), overstated=1.43)},
        "Warning", "CapacityOverstated", "carry some 70 %",
    ),
    (
        "a missed objective",
        {
            "workload": workload(spec={"objective": {"window": "24h"}}),
            "decision": decision(bits=int(Reason.ObjectiveMissed), late=0.002, spare=2.0),
        },
        "Warning",
        "ObjectiveMissed",
        "0.2 % of the requests seen in the last 24h were late",
    ),
    ("fallback", {"decision": decision(bits=int(Reason.PolicyFailed))}, "Warning", "FallbackActive", "PolicyFailed: "),
    (
        "a refused policy", {"policy_problem": Note("PolicyRefused", "spec.policy: cut")},
        "Warning", "PolicyRefused", "spec.policy: cut",
    ),
    ("conflict", {"conflict": Note("OwnedByHPA", "h"), "wanted": None}, "Warning", "Conflict", "OwnedByHPA: h"),
    ("a failed write", {"write_problem": Note("Forbidden", "no")}, "Warning", "FailedUpdateScale", "no"),
    ("paused", {"workload": workload(paused=True), "wanted": None}, "Normal", "Paused", "rlscaler.io/paused"),
    ("forced", {"workload": workload(force=50), "wanted": 50}, "Warning", "Forced", "50 is obeyed"),
    ("shadow", {"workload": workload(spec={"mode": "Shadow"})}, "Normal", "ModeChanged", "Mode Shadow from now on"),
    ("a new policy", {"policy": PolicyInUse("default", DIGEST)}, "Normal", "PolicyLoaded", "(sha256:aaaaaaaaaaaa)"),
    (
        "no target", {"target": None, "target_problem": Note("TargetNotFound", "no Deployment")},
        "Warning", "TargetNotFound", "no Deployment",
    ),
    (
        "a spec that cannot be used",
        {"workload": workload(resource=None, problem=Note("InvalidSpec", "spec.interval")), "decision": None},
        "Warning", "InvalidSpec", "spec.interval",
    ),
)  # fmt: skip
ENDS = {
    "no data": "ValidMetricFound",
    "switched off": "ValidMetricFound",
    "an overstated capacity": "ValidMetricFound",
    "a missed objective": "ValidMetricFound",
    "fallback": "FallbackEnded",
    "a refused policy": "FallbackEnded",
    "conflict": "ConflictEnded",
    "a failed write": "ReadyForNewScale",
    "paused": "Resumed",
    "forced": "ForceEnded",
    "shadow": "ModeChanged",
    "a new policy": "PolicyLoaded",
    "no target": "Ready",
    "a spec that cannot be used": "Ready",
}


@pytest.mark.parametrize(("name", "fields", "kind", "reason", "words"), EVENTS, ids=[case[0] for case in EVENTS])
def test_a_change_gives_one_event_and_its_end_another(
    name: str, fields: dict[str, Any], kind: str, reason: str, words: str
) -> None:
    trouble = later(account(), 15.0, **fields)
    (event,) = between(account(), trouble)
    assert (event.kind, event.reason) == (kind, reason)
    assert words in event.message
    assert between(trouble, later(trouble, 15.0)) == [], "it goes on"
    back = [event.reason for event in between(trouble, later(account(), 30.0))]
    assert back[-1] == ENDS[name]
    assert set(back) - {ENDS[name]} <= {"Resumed"}, "an invalid spec pauses too"


def test_a_new_workload_gives_an_event_only_where_something_is_wrong() -> None:
    assert between(None, account()) == []
    assert between(None, account(target=None, decision=None, policy=None, readings=None)) == []
    assert [event.reason for event in between(None, account(**lost()))] == ["FailedGetMetrics"]
    assert [event.reason for event in between(None, account(workload=workload(force=4), wanted=4))] == ["Forced"]


@pytest.mark.parametrize("calm", [{"spec": {"mode": "Shadow"}}, {"paused": True}], ids=["Shadow", "Paused"])
def test_another_owner_is_a_warning_only_where_rlscaler_would_write(calm: dict[str, Any]) -> None:
    def owned(seconds: float, **fields: Any) -> Account:
        return later(account(), seconds, workload=workload(**fields), conflict=Note("OwnedByHPA", "h"), wanted=None)

    def told(before: Account, after: Account) -> list[str]:
        return [event.kind for event in between(before, after) if event.reason == "Conflict"]

    assert told(later(account(), 0.0, workload=workload(**calm)), owned(15.0, **calm)) == ["Normal"]
    assert told(owned(15.0, **calm), owned(30.0, **calm)) == []
    assert told(owned(15.0, **calm), owned(30.0)) == ["Warning"], "rlscaler would write now"
    assert told(owned(15.0), owned(30.0, **calm)) == [], "it has been told"


def test_limits_and_windows_are_no_events() -> None:
    for bit in (Reason.TooManyReplicas, Reason.ScaleUpLimit, Reason.ScaleDownStabilized, Reason.ReactiveFloor):
        assert between(account(), later(account(), 15.0, decision=decision(bits=int(bit)))) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"decision": decision(replicas=7, bits=int(Reason.ReactiveFloor)), "wanted": 7},
            "New size: 7; reason: The demand now and the backlog need more replicas than were proposed.",
        ),
        ({"workload": workload(force=50), "wanted": 50}, "New size: 50; reason: rlscaler.io/force-replicas"),
    ],
)
def test_a_rescale_gives_hpas_event(fields: dict[str, Any], message: str) -> None:
    assert rescale(account(**fields)) == []
    assert rescale(account(wrote=True, **fields)) == [Event("Normal", "SuccessfulRescale", message)]


def test_every_event_of_its_own_is_documented() -> None:
    documented = {reason for _, reason, _ in REASONS}
    own = {"PolicyRefused", "ScalingDisabled", "TargetNotFound", "InvalidSpec"}
    assert {reason for _, _, _, reason, _ in EVENTS} - own <= documented
    assert set(ENDS.values()) <= documented


def test_a_storm_of_events_is_cut_and_the_cut_is_told() -> None:
    budget = Budget.fresh()
    told = [budget.allowed([Event("Normal", "Flap", str(i))], float(i)) for i in range(100)]
    assert 20 <= sum(map(len, told)) <= 22
    warned = budget.allowed([Event("Warning", "Conflict", "x")], 100.0)
    assert warned == [Event("Warning", "Conflict", "x")], "warnings have an allowance of their own"
    (late,) = budget.allowed([Event("Normal", "Flap", "late")], 1000.0)
    assert late.message.startswith("late (")
    assert "events left out" in late.message
    (after,) = budget.allowed([Event("Normal", "Flap", "after")], 1001.0)
    assert after.message == "after"


def test_the_same_event_twice_at_once_is_told_once() -> None:
    event = Event("Normal", "Flap", "x")
    assert Budget.fresh().allowed([event, event], 0.0) == [event]
