"""What `rlscaler explain` and `rlscaler status` make of a status: also of one from another version or another hand."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.behavior import TOLERANCE
from rlscaler.reasons import Reason
from rlscaler_operator import commands
from rlscaler_operator.commands import _fitted, _print_overview, _print_told
from rlscaler_operator.explaining import COLUMNS, cells, explained, overview, rough, sorted_overviews, told
from rlscaler_operator.model import Note, Readings
from rlscaler_operator.status import status
from rlscaler_operator.timestamps import seconds_of, stamp
from workload_accounts import NOON, account, decision, workload

NAN = float("nan")
RESOURCE: dict[str, Any] = {
    "metadata": {"name": "web", "namespace": "shop", "generation": 1},
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "mode": "Active",
        "minReplicas": 2,
        "maxReplicas": 10,
    },
}


def text_of(found_status: Any, ago: float = 20.0) -> str:
    return " ".join(" ".join(line) for line in told(explained(RESOURCE | {"status": found_status}, NOON + ago)))


def test_all_that_was_decided_is_told_with_the_sentences_of_the_reasons() -> None:
    text = text_of(status(account(decision=decision(bits=int(Reason.ReactiveFloor))), {}))
    assert "4 replicas decided 20s ago (2025-06-15T15:06:40Z)." in text
    assert "ReactiveFloor: The demand now and the backlog need more replicas than were proposed." in text
    assert text.endswith("All conditions are fine.")


def test_whose_tolerance_leaves_a_change_out_is_told() -> None:
    text = text_of(status(account(decision=decision(bits=int(Reason.WithinTolerance))), {}))
    assert f"within spec.behavior's tolerance (scaleDown: {TOLERANCE:g} if left out)" in text


def test_a_reason_of_a_later_version_is_named_all_the_same() -> None:
    found = status(account(), {})
    found["decision"]["reasons"] = ["QuantumFloor"]
    assert "QuantumFloor: A reason that this version does not know." in text_of(found)


def test_silence_is_told_after_a_while() -> None:
    found = status(account(), {})
    assert "Nothing has been reported since" not in text_of(found, 1200.0)
    assert "Nothing has been reported since" in text_of(found, 1201.0)


def test_what_is_not_known_yet_is_told_only_where_nothing_else_is() -> None:
    fresh = account(target=None, policy=None, decision=None, readings=None, wanted=None)
    assert "Ready is Unknown (Pending" in text_of(status(fresh, {}))
    gone = status(account(workload=workload(resource=None), target=None, decision=None, policy=None, wanted=None), {})
    assert "Ready is False (InvalidSpec" in text_of(gone)
    assert "Pending" not in text_of(gone)


@pytest.mark.parametrize(
    ("fields", "kept"),
    [({}, True), ({"bits": int(Reason.ObjectiveMissed), "late": 0.5, "spare": 2.0}, False), ({"demand": NAN}, False)],
    ids=["kept", "missed", "unknown"],
)
def test_an_objective_with_a_window_is_told_to_be_kept(fields: dict[str, Any], kept: bool) -> None:
    windowed = {"objective": {"target": "99.9", "window": "168h"}}
    found = status(account(workload=workload(spec=windowed), decision=decision(**fields)), {})
    resource = RESOURCE | {"spec": RESOURCE["spec"] | windowed, "status": found}
    said = [text for label, text in told(explained(resource, NOON)) if label == "Objective"]
    assert said == ["kept over 168h, so far, by the load and the ready replicas."] * kept
    without = RESOURCE | {"status": found}
    assert all(label != "Objective" for label, _ in told(explained(without, NOON)))


@pytest.mark.parametrize(
    ("live", "own", "end", "doubted"),
    [
        (100.0, 46.639, "pod-hours, with 53 points fewer within the objective.", False),
        (0.0, 100, "pod-hours, with 100 points more within the objective.", True),
        (99.2, 99.2, "pod-hours.", False),
        (None, 99.0, "pod-hours.", False),
    ],
)
def test_what_is_saved_is_told_with_what_it_is_saved_for(live: Any, own: Any, end: str, doubted: bool) -> None:
    sides = {name: {"podHours": 1.0, "withinObjective": each} for name, each in (("live", live), ("virtual", own))}
    found = FULL | {"comparison": {"since": stamp(NOON), "over": "1h", **sides, "savings": 30.0}}
    stated = RESOURCE | {"spec": RESOURCE["spec"] | {"capacity": {"perReplica": "35"}}, "status": found}
    lines = [text for _, text in told(explained(stated, NOON))]
    assert f"rlscaler would save 30.0 % of the {end}" in lines
    doubt = "If the live replicas were not that late, one serves more than spec.capacity.perReplica."
    assert (doubt in lines) == doubted
    learned = RESOURCE | {"status": found | {"capacity": {"perReplica": "35", "learned": True}}}
    assert doubt not in [text for _, text in told(explained(learned, NOON))]


@pytest.mark.parametrize(
    ("capacity", "words"),
    [
        ({"perReplica": "50", "startup": "1m"}, "(50 requests/s each, start-up 1m)"),
        ({"perReplica": "50"}, "(50 requests/s each, start-up 1m as far as is known)"),
        ({"startup": "1m"}, "(50 requests/s each as learned so far, start-up 1m)"),
    ],
)
def test_what_is_learned_is_told_apart_from_what_is_stated(capacity: dict[str, str], words: str) -> None:
    found = status(account(workload=workload(spec={"capacity": capacity})), {})
    resource = RESOURCE | {"spec": RESOURCE["spec"] | {"capacity": capacity}, "status": found}
    assert any(words in text for _, text in told(explained(resource, NOON)))


def test_the_same_cause_is_told_once() -> None:
    found = status(account(), {})
    for each in found["conditions"][:2]:
        each |= {"status": "False", "reason": "X", "message": "the very same."}
    text = text_of(found)
    assert text.count("the very same.") == 1
    assert "ScalingActive is False (X, for 20s); see above." in text


def test_the_hpa_beside_shadow_is_no_trouble_and_hides_none() -> None:
    shadow, beside = workload(spec={"mode": "Shadow"}), Note("OwnedByHPA", "an HPA")
    lost = Readings(time=NOON, problems={"spec.metrics.load": Note("NoData", "no series")})
    calm = RESOURCE | {"status": status(account(workload=shadow, conflict=beside), {})}
    dark = RESOURCE | {"status": status(account(workload=shadow, conflict=beside, readings=lost), {})}
    assert [row["reason"] for row in sorted_overviews([calm, dark], NOON)] == ["NoData", "OwnedByHPA"]
    assert overview(calm, NOON)["urgency"] >= 6, "nobody is needed"
    marks = {text.split()[0]: mark for mark, text in told(explained(dark, NOON)) if " is " in text and mark}
    assert marks == {"ScalingActive": "!", "Conflict": "-", "AbleToScale": "-"}
    active = RESOURCE | {"status": status(account(conflict=beside, wanted=None), {})}
    assert overview(active, NOON)["urgency"] < overview(dark, NOON)["urgency"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FULL = status(
    account(
        workload=workload(spec={"mode": "Shadow"}),
        comparison={"since": stamp(NOON), "over": "1h", "live": {"podHours": 1}, "virtual": {}, "savings": -3.0},
    ),
    {},
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_status_from_any_hand_is_told_without_a_fault(data: st.DataObject) -> None:
    value = json.loads(json.dumps(FULL))
    for _ in range(data.draw(st.integers(1, 4))):
        place, junk = value, data.draw(JSON)
        while True:
            key = data.draw(st.sampled_from(sorted(place)))
            if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
                place = place[key]
                continue
            place[key] = junk
            break
    resource = RESOURCE | {"status": value}
    found = explained(resource, NOON)
    json.dumps(found)
    assert all(isinstance(part, str) for line in told(found) for part in line)
    row = overview(resource, NOON)
    json.dumps(row)
    assert len(cells(row, namespaced=True)) == len(COLUMNS)
    sorted_overviews([resource, RESOURCE], NOON)


@given(JSON)
def test_no_status_at_all_is_told_without_a_fault(junk: Any) -> None:
    told(explained(RESOURCE | {"status": junk}, NOON))
    assert "No operator has reported on it yet" in text_of({})


def test_nobody_can_colour_a_terminal_through_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    _print_told([("!", "a \x1b[31mred\x07 message"), ("", ""), ("Seen", "x")])
    assert capsys.readouterr().out == "! a  [31mred  message\n\nSeen  x\n"


def test_nobody_can_steer_a_terminal_through_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    body = {"metadata": {"namespace": "shop", "name": "web"}, "spec": {}, "status": {"reason": "a\x9b\x07 b"}}
    _print_overview(sorted_overviews([body], NOON), namespaced=True)
    assert "a?? b" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_prose_keeps_to_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_width", lambda: width)
    _print_told(told(explained(RESOURCE | {"status": FULL}, NOON)))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= min(width, 100)
    labels = ("Seen", "Rule", "Policy", "Guard", "Done", "Estimates")
    assert all(any(line.startswith(label.ljust(11)) for line in lines) for label in labels), "labels stand in a column"


SIZES = dict(zip(COLUMNS, (30, 20, 6, 3, 3, 3, 6, 18, 5), strict=True))


@pytest.mark.parametrize(
    ("width", "columns", "workload_size"),
    [
        (None, list(COLUMNS), 30),
        (140, list(COLUMNS), 30),
        (90, [name for name in COLUMNS if name != "TARGET"], 30),
        (80, [name for name in COLUMNS if name not in ("TARGET", "MIN", "MAX")], 30),
        (60, ["WORKLOAD", "MODE", "NOW", "WANTED", "REASON"], 19),
        (20, ["WORKLOAD", "MODE", "NOW", "WANTED", "REASON"], 12),
    ],
)
def test_a_narrow_terminal_loses_columns_before_names(
    width: int | None, columns: list[str], workload_size: int
) -> None:
    fitted = _fitted(SIZES, width)
    assert list(fitted) == columns
    assert fitted["WORKLOAD"] == workload_size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1.0, "0s"), (0.4, "0s"), (45.0, "45s"), (119.9, "1m59s"), (120.0, "2m"), (3599.0, "59m"), (4800.0, "1h20m"),
     (172_000.0, "47h40m"), (172_800.0, "2d"), (9e7, "1041d")],
)  # fmt: skip
def test_a_span_is_told_roughly(seconds: float, text: str) -> None:
    assert rough(seconds) == text


@pytest.mark.parametrize("junk", [None, 3, "", "yesterday", "2025-06-15T15:06:40", [], {}])
def test_what_is_no_time_is_unknown(junk: Any) -> None:
    assert seconds_of(junk) != seconds_of(junk)


def test_a_stamp_is_read_back_to_the_second() -> None:
    assert seconds_of(stamp(NOON + 0.9)) == NOON
    assert seconds_of("2025-06-15T17:06:40+02:00") == NOON
