"""Wrong, odd and barely right resources: `rlscaler validate` and the API server judge alike, and nothing trips.

What a running operator makes of them is in `test_fuzzed_operator`.
"""

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from cluster_access import ApiError, ClusterAccess
from fuzzed_resources import Fuzzed, fuzzed_resources
from rlscaler.custom_resource import Resource, ResourceError, resource_from_object
from rlscaler.policies import load_policy
from rlscaler_operator.deciding import Decider
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.model import Key, PolicyInUse, Readings, Target, TargetKey
from rlscaler_operator.queries import asked, group_of
from rlscaler_operator.roster import Roster

pytestmark = pytest.mark.timeout(600)

COUNT, SEED = 10_000, 20260
DECIDED = 500
"""Resources for which decisions are made, all in one batch."""
AT_ONCE = 8
SHOWN = 25
"""Disagreements that a failure lists."""


class Verdict(NamedTuple):
    """What the API server says: the object as it would be kept, or why it is refused."""

    kept: dict[str, Any] | None
    refusal: str = ""


class Reading(NamedTuple):
    """What the reader says: the resource, or all that is wrong."""

    resource: Resource | None
    problems: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def cases() -> list[Fuzzed]:
    return list(itertools.islice(fuzzed_resources(SEED), COUNT))


def read(value: dict[str, Any]) -> Reading:
    try:
        return Reading(resource_from_object(value))
    except ResourceError as error:
        return Reading(None, tuple(f"{problem.place.path}: {problem.text}" for problem in error.problems))


def ask(cluster: ClusterAccess, namespace: str, value: dict[str, Any]) -> Verdict:
    """Ask the API server to create the resource, as a trial, with unknown and repeated fields refused."""
    path = f"/apis/rlscaler.io/v1alpha1/namespaces/{namespace}/rlscalers"
    try:
        return Verdict(cluster.request("POST", path, value, query={"dryRun": "All", "fieldValidation": "Strict"}))
    except ApiError as error:
        if error.status not in (400, 422):  # not about the resource
            raise
        return Verdict(None, f"{error.status} {error.message}")


def disagreement(sent: dict[str, Any], verdict: Verdict) -> str:
    """Return where reader and API server part, "" where they do not.

    What was accepted must be readable as the API server keeps it, and mean the same as what was sent: its defaults
    are ours. 3.0 for a whole number that no rule looks at is kept as 3, and refused in a file, where 3 is meant.
    """
    ours = read(sent)
    if verdict.kept is None:
        return f"refused ({verdict.refusal}), read without a problem" if ours.resource else ""
    kept = read(verdict.kept)
    if kept.resource is None:
        return f"kept, but not readable: {kept.problems}"
    if ours.resource is None:
        fractions = all(".0 is not a plain whole number" in problem for problem in ours.problems)
        return "" if fractions else f"kept, read with problems: {ours.problems}"
    same = kept.resource.spec == ours.resource.spec
    return "" if same else f"kept as {kept.resource.spec}, read as {ours.resource.spec}"


def test_reader_and_api_server_judge_alike(control_plane: ClusterAccess, namespace: str, cases: list[Fuzzed]) -> None:
    cluster = control_plane.quiet()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts = list(pool.map(lambda case: ask(cluster, namespace, case.resource), cases))
    found = [
        f"{'; '.join(case.changes)[:300]}\n    {difference[:300]}"
        for case, verdict in zip(cases, verdicts, strict=True)
        if (difference := disagreement(case.resource, verdict))
    ]
    assert not found, f"{len(found)} of {COUNT} differ:\n" + "\n".join(found[:SHOWN])
    counts = Counter("kept" if verdict.kept else verdict.refusal[:3] for verdict in verdicts)
    assert min(counts[outcome] for outcome in ("kept", "400", "422")) > COUNT / 5, f"the trial is one-sided: {counts}"


def test_no_resource_trips_the_fleet(cases: list[Fuzzed]) -> None:
    fleet = Fleet()
    for number, case in enumerate(cases):
        kept = {"namespace": "shop", "uid": str(number), "generation": number, "resourceVersion": str(number)}
        metadata = case.resource.get("metadata")
        known = metadata if isinstance(metadata, dict) else {}
        fleet.see_workload("ADDED", case.resource)
        fleet.see_workload("MODIFIED", {**case.resource, "metadata": {**known, **kept}})
        fleet.see_workload("DELETED", case.resource)
    assert {workload.resource is not None for workload in fleet.workloads.values()} == {True, False}


def test_no_resource_trips_the_roster_or_the_decision_of_others(cases: list[Fuzzed]) -> None:
    usable = [reading.resource for case in cases if (reading := read(case.resource)).resource is not None]
    roster, now = Roster(), 1.8e9
    for number, resource in enumerate(usable):
        key = Key("shop", str(number))
        roster.place(key, group_of(resource.spec), now)
        assert "load" in asked(resource.spec.metrics)
        assert now < roster.group(key).due_after(now) <= now + resource.spec.interval
    while (due := roster.next_due()) < now + 600.0:
        assert roster.due(due)

    decider, rule = Decider(), load_policy("default")
    chosen = dict(enumerate(usable[:DECIDED]))
    for number, resource in chosen.items():
        decider.put(Key("shop", str(number)), resource, rule, PolicyInUse("default"))
        decider.compare(Key("shop", str(number)), resource.spec.mode == "Shadow")
    for tick in range(4):
        times = dict.fromkeys(decider.keys, now + 15.0 * tick)
        readings = {key: Readings(time, load=10.0**tick, backlog=0.0, utilization=0.5) for key, time in times.items()}
        targets = {key: Target(TargetKey("shop", "apps", "Deployment", key.name), "1", 3, 3, 3) for key in times}
        decisions = decider.decide(times, readings, targets)
        for key, decision in decisions.items():
            spec = chosen[int(key.name)].spec
            assert min(spec.min_replicas, 3) <= decision.replicas <= max(spec.max_replicas, 3), key
