"""The fleet: what is taken out of each object, in which order events may come, and whom they concern."""

import copy
import math
import random
import tracemalloc
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler_operator import objects
from rlscaler_operator.conflicts import Rival
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.model import Key, Target, TargetKey

WEB = TargetKey("shop", "apps", "Deployment", "web")
RLS = Key("shop", "web")


def rlscaler(
    name: str = "web", uid: str = "r1", version: int = 1, generation: int = 1, created: str = "2025-01-01T00:00:00Z",
    annotations: Mapping[str, str] | None = None, status: Mapping[str, Any] | None = None, namespace: str = "shop",
    **spec: Any,
) -> dict[str, Any]:  # fmt: skip
    metadata = {
        "name": name, "namespace": namespace, "uid": uid, "resourceVersion": str(version), "generation": generation,
        "creationTimestamp": created, "annotations": dict(annotations or {}), "managedFields": [{"manager": "kubectl"}],
    }  # fmt: skip
    whole = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "maxReplicas": 10,
        "mode": "Active",
        "metrics": {"load": {"query": "sum(rate(http_requests_total[1m]))"}},
    } | spec
    body = {"apiVersion": "rlscaler.io/v1alpha1", "kind": "RLScaler", "metadata": metadata, "spec": whole}
    return body | ({"status": dict(status)} if status else {})


def entry(manager: str, time: str, fields: Any, subresource: str = "", operation: str = "Update") -> dict[str, Any]:
    made = {"manager": manager, "operation": operation, "time": time, "fieldsV1": fields, "fieldsType": "FieldsV1"}
    return made | ({"subresource": subresource} if subresource else {})


def deployment(
    name: str = "web", uid: str = "d1", version: int = 1, replicas: int | None = 3, managed: Any = (),
    kind: str = "Deployment", status: Mapping[str, Any] | None = None, namespace: str = "shop",
) -> dict[str, Any]:  # fmt: skip
    metadata = {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": str(version)}
    spec = {"selector": {"matchLabels": {"app": name}}} | ({} if replicas is None else {"replicas": replicas})
    found = {"replicas": 3, "readyReplicas": 2, "updatedReplicas": 3} if status is None else dict(status)
    return {
        "apiVersion": "apps/v1", "kind": kind, "metadata": metadata | {"managedFields": list(managed)},
        "spec": spec, "status": found,
    }  # fmt: skip


def hpa(name: str = "web", target: str = "web", uid: str = "h1", version: int = 1, keda: str = "") -> dict[str, Any]:
    owners = [{"kind": "ScaledObject", "name": keda}] if keda else []
    return {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": str(version),
                     "ownerReferences": owners},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}, "maxReplicas": 5},
    }  # fmt: skip


def scaled_object(name: str = "web", uid: str = "s1", version: int = 1, **ref: str) -> dict[str, Any]:
    return {
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": str(version)},
        "spec": {"scaleTargetRef": {"name": "web"} | ref},
    }  # fmt: skip


def fleet(*bodies: Mapping[str, Any]) -> Fleet:
    made = Fleet()
    for body in bodies:
        see(made, None, body)
    return made


def see(made: Fleet, event_type: str | None, body: Mapping[str, Any]) -> None:
    if body["kind"] == "RLScaler":
        made.see_workload(event_type, body)
    elif body["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
        made.see_owner(event_type, body)
    else:
        made.see_target(event_type, body)


# Reading


def test_a_workload() -> None:
    made = fleet(rlscaler(generation=4, status={"currentReplicas": 3}))
    workload = made.workloads[RLS]
    assert (workload.uid, workload.generation, workload.created) == ("r1", 4, 1735689600.0)
    assert workload.resource is not None
    assert workload.resource.spec.max_replicas == 10
    assert (workload.problem, workload.paused, workload.force, workload.annotation_problem) == (None, False, None, None)
    assert dict(workload.status) == {"currentReplicas": 3}
    assert made.target_of(workload) == WEB
    assert made.is_named(WEB)


INVALID = {
    "a wrong number": ({"maxReplicas": "ten"}, ["spec.maxReplicas", "ten"]),
    "a unit slip": ({"interval": 15}, ["spec.interval", "15"]),
    "an unknown field": ({"replicas": 3}, ["spec.replicas", "unknown field"]),
    "bounds the wrong way": ({"minReplicas": 20}, ["spec", "minReplicas"]),
    "nothing is right": (
        {"maxReplicas": None, "metrics": 3, "mode": "On", "policy": "x"}, ["spec.maxReplicas", "and 1 more"]),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "named"), INVALID.values(), ids=INVALID)
def test_a_resource_that_cannot_be_used(spec: dict[str, Any], named: list[str]) -> None:
    made = fleet(rlscaler(**spec), rlscaler("other", uid="r2"))
    workload = made.workloads[RLS]
    assert workload.resource is None
    assert made.target_of(workload) is None
    assert made.rivals(workload) == ()
    assert workload.problem is not None
    assert workload.problem.reason == "InvalidSpec"
    assert all(word in workload.problem.message for word in named)
    assert made.workloads[Key("shop", "other")].resource is not None


@pytest.mark.parametrize("spec", [None, [], "x", 3, {"metrics": []}, {"metrics": {"load": {"query": 3}}}])
def test_no_spec_at_all(spec: Any) -> None:
    workload = fleet(rlscaler() | {"spec": spec}).workloads[RLS]
    assert workload.problem is not None


ANNOTATIONS = {
    "nothing": ({}, False, None, False),
    "paused": ({"rlscaler.io/paused": "true"}, True, None, False),
    "paused by any value": ({"rlscaler.io/paused": ""}, True, None, False),
    "not paused": ({"rlscaler.io/paused": "false"}, False, None, False),
    "forced": ({"rlscaler.io/force-replicas": "12"}, False, 12, False),
    "forced to nothing": ({"rlscaler.io/force-replicas": "0"}, False, 0, False),
    "forced to a word": ({"rlscaler.io/force-replicas": "many"}, False, None, True),
    "forced to less than nothing": ({"rlscaler.io/force-replicas": "-1"}, False, None, True),
    "forced to a fraction": ({"rlscaler.io/force-replicas": "1.5"}, False, None, True),
    "forced to what no target can have": ({"rlscaler.io/force-replicas": "9999999999"}, False, None, True),
    "forced to digits of another script": ({"rlscaler.io/force-replicas": "٣"}, False, None, True),
    "a slip of paused": ({"rlscaler.io/pause": "true"}, False, None, True),
    "a slip beside what is meant": ({"rlscaler.io/force-replica": "5", "rlscaler.io/paused": ""}, True, None, True),
    "another's": ({"example.com/pause": "true", "argo.rlscaler.io/x": "y"}, False, None, False),
}


@pytest.mark.parametrize(("annotations", "paused", "force", "wrong"), ANNOTATIONS.values(), ids=ANNOTATIONS)
def test_annotations(annotations: dict[str, str], paused: bool, force: int | None, wrong: bool) -> None:
    workload = fleet(rlscaler(annotations=annotations)).workloads[RLS]
    assert (workload.paused, workload.force, workload.annotation_problem is not None) == (paused, force, wrong)
    if workload.annotation_problem:
        assert "rlscaler.io/force-replicas" in workload.annotation_problem.message


def test_an_annotation_that_nothing_reads_is_named_beside_what_is_expected() -> None:
    (workload,) = fleet(rlscaler(annotations={"rlscaler.io/pause": "true"})).workloads.values()
    assert workload.annotation_problem is not None
    for word in ("rlscaler.io/pause:", "rlscaler.io/paused", "rlscaler.io/force-replicas", "remove it"):
        assert word in workload.annotation_problem.message


def test_a_target() -> None:
    managed = [
        entry("helm", "2025-01-01T00:00:00Z", {"f:spec": {"f:template": {}}}),
        entry("rlscaler", "2025-01-01T00:01:00Z", {"f:spec": {"f:replicas": {}}}, "scale"),
        entry("kube-controller-manager", "2025-01-01T00:02:00Z", {"f:status": {"f:replicas": {}}}, "status"),
    ]
    assert fleet(deployment(managed=managed)).targets[WEB] == Target(
        WEB, "d1", desired=3, replicas=3, ready=2, selector="app=web", manager="rlscaler", managed_at=1735689660.0
    )


def test_counts_that_are_left_out() -> None:
    found = fleet(deployment(replicas=None, status={})).targets[WEB]
    assert (found.desired, found.replicas, found.ready, found.manager) == (1, 0, 0, "")
    assert math.isnan(found.managed_at)


REPLICAS: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
MANAGERS = {
    "nobody": ([], ""),
    "the only one": ([entry("kubectl", "2025-01-01T00:00:00Z", REPLICAS)], "kubectl"),
    "the last of two that agree": (
        [entry("b", "2025-01-01T00:02:00Z", REPLICAS), entry("a", "2025-01-01T00:01:00Z", REPLICAS)], "b"),
    "through /scale, whatever the field is called": (
        [entry("kubectl", "2025-01-01T00:00:00Z", {"f:spec": {"f:size": {}}}, "scale")], "kubectl"),
    "a field of that name elsewhere": ([entry("x", "2025-01-01T00:00:00Z", {"f:status": {"f:replicas": {}}})], ""),
    "we, of two that agree": (
        [entry("rlscaler", "", REPLICAS, "scale"), entry("flux", "2025-01-01T00:02:00Z", REPLICAS)], "rlscaler"),
    "no time": ([entry("x", "", REPLICAS)], "x"),
    "nonsense": ([None, 3, {"fieldsV1": []}, {"manager": 3, "fieldsV1": REPLICAS}], ""),
}  # fmt: skip


@pytest.mark.parametrize(("entries", "manager"), MANAGERS.values(), ids=MANAGERS)
def test_who_set_the_replicas(entries: Any, manager: str) -> None:
    assert fleet(deployment(managed=entries)).targets[WEB].manager == manager


SELECTORS = {
    "nothing": ({}, ""),
    "labels": ({"matchLabels": {"tier": "a", "app": "web"}}, "app=web,tier=a"),
    "expressions": (
        {"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["b", "a"]},
            {"key": "zone", "operator": "NotIn", "values": ["x"]},
            {"key": "new", "operator": "Exists"}, {"key": "old", "operator": "DoesNotExist"}]},
        "app=web,tier in (a,b),zone notin (x),new,!old"),
}  # fmt: skip


@pytest.mark.parametrize(("selector", "text"), SELECTORS.values(), ids=SELECTORS)
def test_selectors(selector: dict[str, Any], text: str) -> None:
    assert objects.selector_text(selector) == text


# Order


def test_a_target_that_was_there_before_its_workload() -> None:
    made = fleet(deployment())
    assert made.take_changed() == set()
    made.see_workload("ADDED", rlscaler())
    assert made.targets[WEB].desired == 3
    assert made.take_changed() == {RLS}


def test_an_older_event_changes_nothing() -> None:
    made = fleet(rlscaler(version=7, generation=2, maxReplicas=20), deployment(version=9, replicas=6), hpa(version=9))
    made.take_changed()
    made.see_workload("MODIFIED", rlscaler(version=6))
    made.see_target("MODIFIED", deployment(version=8))
    made.see_owner("MODIFIED", hpa(version=8, target="other"))
    assert made.take_changed() == set()
    assert made.targets[WEB].desired == 6
    assert made.rivals(made.workloads[RLS]) == (Rival("HorizontalPodAutoscaler", "web"),)


@pytest.mark.parametrize("late", [False, True], ids=["in order", "the end of the old one comes last"])
def test_deleted_and_made_anew(late: bool) -> None:
    made = fleet(rlscaler(), deployment(), hpa())
    ends = [("DELETED", rlscaler(version=2)), ("DELETED", deployment(version=2)), ("DELETED", hpa(version=2))]
    anew = [("ADDED", rlscaler(uid="r9", version=3)), ("ADDED", deployment(uid="d9", version=3, replicas=8)),
            ("ADDED", hpa(uid="h9", version=3))]  # fmt: skip
    for event_type, body in [*anew, *ends] if late else [*ends, *anew]:
        see(made, event_type, body)
    assert (made.workloads[RLS].uid, made.targets[WEB].uid, made.targets[WEB].desired) == ("r9", "d9", 8)
    assert made.rivals(made.workloads[RLS]) == (Rival("HorizontalPodAutoscaler", "web"),)


def test_gone() -> None:
    made = fleet(rlscaler(), deployment(), hpa())
    made.take_changed()
    made.see_owner("DELETED", hpa(version=2))
    assert made.rivals(made.workloads[RLS]) == ()
    assert made.take_changed() == {RLS}
    made.see_target("DELETED", deployment(version=2))
    assert made.take_changed() == {RLS}
    made.see_workload("DELETED", rlscaler(version=2))
    assert made.take_changed() == {RLS}
    assert (len(made.workloads), len(made.targets)) == (0, 0)
    assert not made.is_named(WEB)


def test_a_workload_that_somebody_deletes_counts_as_gone() -> None:
    made = fleet(rlscaler())
    body = rlscaler(version=2)
    body["metadata"]["deletionTimestamp"] = "2025-01-01T00:00:00Z"
    made.see_workload("MODIFIED", body)
    assert not made.workloads
    assert not made.is_named(WEB)


def test_what_a_list_does_not_show_any_more_is_gone() -> None:
    """Its end came while nobody watched, so no event tells of it. What came after the list stays."""
    made = fleet(
        rlscaler(version=1), rlscaler("new", uid="r2", version=50), rlscaler("far", uid="r3", namespace="far"),
        deployment(version=1), deployment("new", uid="d2", version=50), deployment("set", uid="t", kind="StatefulSet"),
        deployment("kept", uid="d3", version=2), hpa(version=1), hpa("kept", uid="h2", version=2),
        scaled_object(version=1),
    )  # fmt: skip
    made.take_changed()
    made.keep_workloads("shop", set(), 10)
    assert set(made.workloads) == {Key("shop", "new"), Key("far", "far")}
    made.keep_targets("apps", "Deployment", None, {"d3"}, 10)
    assert {key.name for key in made.targets} == {"new", "kept", "set"}
    made.keep_owners("HorizontalPodAutoscaler", None, {"h2"}, 10)
    found = made.rivals(made.workloads[Key("shop", "new")])
    assert found == (Rival("ScaledObject", "web"), Rival("HorizontalPodAutoscaler", "kept"))
    made.keep_owners("ScaledObject", "shop", set(), 10)
    assert made.rivals(made.workloads[Key("shop", "new")]) == (Rival("HorizontalPodAutoscaler", "kept"),)
    assert made.take_changed() == {RLS, Key("shop", "new")}


# Who hears of what


def test_only_what_matters_wakes_the_loop() -> None:
    made = fleet(rlscaler(), deployment(), deployment("other", uid="d2"))
    assert made.wake.is_set()
    assert made.take_changed() == {RLS}
    assert not made.wake.is_set()
    made.see_target("MODIFIED", deployment("other", uid="d2", version=2, replicas=9))
    made.see_target("MODIFIED", deployment(version=2))
    made.see_workload("MODIFIED", rlscaler(version=2, status={"currentReplicas": 4}))
    see(made, None, rlscaler(version=2))
    assert not made.wake.is_set()
    assert made.take_changed() == set()


CHANGES: dict[str, dict[str, Any]] = {
    "desired": deployment(version=2, replicas=4),
    "ready": deployment(version=2, status={"replicas": 3, "readyReplicas": 3}),
    "spec": rlscaler(version=2, generation=2, maxReplicas=11),
    "pause": rlscaler(version=2, annotations={"rlscaler.io/paused": "true"}),
    "force": rlscaler(version=2, annotations={"rlscaler.io/force-replicas": "4"}),
    "an HPA": hpa(),
    "a ScaledObject": scaled_object(),
    "another RLScaler": rlscaler("second", uid="r2"),
}


@pytest.mark.parametrize("body", CHANGES.values(), ids=CHANGES)
def test_a_change_wakes_the_loop(body: dict[str, Any]) -> None:
    made = fleet(rlscaler(), deployment())
    made.take_changed()
    see(made, "MODIFIED", body)
    assert made.wake.is_set()
    assert RLS in made.take_changed()


def test_a_change_of_the_status_is_kept_though_it_wakes_nobody() -> None:
    made = fleet(rlscaler())
    made.see_workload("MODIFIED", rlscaler(version=2, status={"desiredReplicas": 4}))
    assert made.workloads[RLS].status["desiredReplicas"] == 4


def test_a_workload_that_turns_to_another_target() -> None:
    made = fleet(rlscaler(), rlscaler("second", uid="r2", created="2025-01-02T00:00:00Z"))
    named: list[TargetKey] = []
    made.on_reference = named.append
    made.take_changed()
    other = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db"}
    made.see_workload("MODIFIED", rlscaler(version=2, generation=2, scaleTargetRef=other))
    assert made.take_changed() == {RLS, Key("shop", "second")}
    assert named == [TargetKey("shop", "apps", "StatefulSet", "db")]
    assert made.rivals(made.workloads[Key("shop", "second")]) == ()


# Rivals


def test_an_hpa_of_kedas_own_is_its_scaled_object() -> None:
    made = fleet(rlscaler(), hpa("keda-hpa-jobs", keda="jobs"), scaled_object("jobs"))
    assert made.rivals(made.workloads[RLS]) == (Rival("ScaledObject", "jobs"),)
    made.see_owner("DELETED", scaled_object("jobs"))
    assert made.rivals(made.workloads[RLS]) == (Rival("ScaledObject", "jobs"),)


def test_an_owner_of_another_target_is_no_rival() -> None:
    elsewhere = hpa("b", target="other", uid="h2")
    made = fleet(rlscaler(), elsewhere, scaled_object("c", uid="s2", kind="StatefulSet", apiVersion="apps/v1"))
    assert made.rivals(made.workloads[RLS]) == ()
    made.see_owner("MODIFIED", hpa("b", uid="h2", version=2))
    assert made.rivals(made.workloads[RLS]) == (Rival("HorizontalPodAutoscaler", "b"),)


def test_the_older_rlscaler_wins() -> None:
    second = rlscaler("a-second", uid="r2", created="2025-01-02T00:00:00Z")
    made = fleet(rlscaler(), second, rlscaler("same-age", uid="r3", created="2025-01-02T00:00:00Z"))
    found = {key.name: made.rivals(workload) for key, workload in made.workloads.items()}
    assert found == {
        "web": (Rival("RLScaler", "a-second", False), Rival("RLScaler", "same-age", False)),
        "a-second": (Rival("RLScaler", "same-age", False), Rival("RLScaler", "web", True)),
        "same-age": (Rival("RLScaler", "a-second", True), Rival("RLScaler", "web", True)),
    }


def test_shadow_stands_in_nobodys_way() -> None:
    made = fleet(rlscaler(mode="Shadow"), rlscaler("second", uid="r2", created="2025-01-02T00:00:00Z"))
    assert made.rivals(made.workloads[Key("shop", "second")]) == ()
    assert made.rivals(made.workloads[RLS]) == (Rival("RLScaler", "second", True),)


def test_a_paused_one_still_owns() -> None:
    made = fleet(rlscaler(mode="Paused"), rlscaler("second", uid="r2", created="2025-01-02T00:00:00Z"))
    assert made.rivals(made.workloads[Key("shop", "second")]) == (Rival("RLScaler", "web", True),)


@pytest.mark.parametrize(
    ("spec", "owns"),
    [({"minReplicas": 20}, True), ({"minReplicas": 20, "mode": "Paused"}, True),
     ({"minReplicas": 20, "mode": "Shadow"}, False), ({"scaleTargetRef": {"name": 3}}, False),
     ({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "api"}, "minReplicas": 20}, False)],
    ids=str,
)  # fmt: skip
def test_one_whose_spec_cannot_be_used_still_owns_what_it_names(spec: dict[str, Any], owns: bool) -> None:
    """A slip in the older of two would hand its target to the younger one, with other bounds, until it is mended."""
    second = rlscaler("second", uid="r2", created="2025-01-02T00:00:00Z")
    made = fleet(rlscaler(), second, deployment())
    made.take_changed()
    see(made, "MODIFIED", rlscaler(version=2, generation=2, **spec))
    assert made.workloads[RLS].resource is None
    assert made.rivals(made.workloads[Key("shop", "second")]) == ((Rival("RLScaler", "web", True),) if owns else ())
    see(made, "MODIFIED", rlscaler(version=3, generation=3))
    assert made.rivals(made.workloads[Key("shop", "second")]) == (Rival("RLScaler", "web", True),)


# Any order of events

NAMES = ("a", "b")


def _history(seed: int, length: int) -> list[tuple[str, dict[str, Any]]]:
    """Return what a watch could show, in order, of objects that come, change and go."""
    rng = random.Random(seed)
    alive: dict[tuple[str, str], str] = {}
    events: list[tuple[str, dict[str, Any]]] = []
    for version in range(1, length):
        kind, name = rng.choice(("r", "d", "h")), rng.choice(NAMES)
        uid = alive.get((kind, name))
        event_type = "ADDED" if uid is None else rng.choice(("MODIFIED", "MODIFIED", "DELETED"))
        uid = uid or f"{kind}-{version}"
        if event_type == "DELETED":
            del alive[kind, name]
        else:
            alive[kind, name] = uid
        common: dict[str, Any] = {"name": name, "uid": uid, "version": version}
        ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": rng.choice(NAMES)}
        if kind == "r":
            mode = rng.choice(("Shadow", "Active", "Nonsense"))
            body = rlscaler(**common, generation=version, scaleTargetRef=ref, mode=mode)
        elif kind == "d":
            body = deployment(**common, replicas=rng.randrange(9))
        else:
            body = hpa(**common, target=rng.choice(NAMES))
        events.append((event_type, body))
    return events


def _known(made: Fleet) -> Any:
    workloads = {key: (w.uid, w.generation, w.problem) for key, w in made.workloads.items()}
    return workloads, dict(made.targets), {key: made.rivals(w) for key, w in made.workloads.items()}


@given(seed=st.integers(0, 10**6), length=st.integers(2, 40), order=st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_what_is_known_does_not_depend_on_how_objects_take_turns(seed: int, length: int, order: random.Random) -> None:
    """kopf keeps the order of each object's events, and no other: they come in any interleaving of objects."""
    events = _history(seed, length)
    plain = Fleet()
    for event_type, body in events:
        see(plain, event_type, copy.deepcopy(body))
    queues: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for event in events:
        queues.setdefault(event[1]["metadata"]["uid"], []).append(event)
    mixed = Fleet()
    while queues:
        uid = order.choice(sorted(queues))
        see(mixed, *queues[uid].pop(0))
        if not queues[uid]:
            del queues[uid]
    assert _known(mixed) == _known(plain)


def test_memory_of_each_object_is_small() -> None:
    """5,000 of both have to fit beside all else into 500 MB; bodies of 4 kB that were kept would show here."""
    count = 500
    padding: dict[str, Any] = {"f:spec": {f"f:field{n}": {} for n in range(50)}}
    status = {"conditions": [{"type": f"Type{n}", "reason": "R", "message": "m" * 80} for n in range(6)]}
    made = Fleet()
    made.see_target(None, deployment("first", uid="first"))
    made.see_workload(None, rlscaler("first", uid="first"))

    def spent(event: Any) -> float:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(count):
            event(n)
        return (tracemalloc.get_traced_memory()[0] - before) / count

    managed = entry("helm", "2025-01-01T00:00:00Z", padding | REPLICAS)
    tracemalloc.start()
    try:
        target = spent(
            lambda n: made.see_target(None, copy.deepcopy(deployment(f"web-{n}", f"uid-{n}", managed=[managed])))
        )
        workload = spent(
            lambda n: made.see_workload(None, copy.deepcopy(rlscaler(f"web-{n}", f"uid-{n}", status=status)))
        )
    finally:
        tracemalloc.stop()
    print(f"bytes: target {target:.0f}, workload {workload:.0f}")
    assert target < 1000.0
    assert workload < 5000.0
