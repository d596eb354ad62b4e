"""The `hpa` rule with `behavior` takes the replica counts that the real HorizontalPodAutoscaler takes.

kube-controller-manager's HPAs and we see the same series: an adapter serves them to the HPAs and keeps each answer,
with the replicas that the HPA saw then; we replay that log, each sync at the moment at which the HPA decided. All cases
run side by side, in real time.

An HPA takes the time somewhere between the two lines that it logs of a decision, and counts a write from when it has
landed; a machine that stands still draws both out. Whether a window or a period that ends in between is over is then a
matter of milliseconds: a sync that differs and falls on such an end ends the replay of its case. So that this is rare,
the adapter lets HPAs decide on beats, which windows and periods keep away from.
"""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from control_plane import ControlPlane
from controller_log import ARGUMENT, Acts, acts
from external_metrics import MetricsAdapter, Script, Served
from hpa_cases import BEAT, CAPACITY, SYNC, SYNCS, TARGET, TOTAL, UTILIZATION, WAIT, HpaCase, cases
from processes import wait_until
from rlscaler import Autoscaler, Snapshot
from rlscaler.custom_resource import resource_from_object, to_settings
from rlscaler.policy import Policy, Proposal, View
from rlscaler.reasons import Reason
from rlscaler.rules.hpa import Hpa, Metric, desired_replicas
from rlscaler.settings import Settings

# The first test waits for all cases to play.
pytestmark = [pytest.mark.components("kubernetes", "kwok"), pytest.mark.timeout(600)]

CASES = cases(seed=11, more=16)
EARLY = 0.15
"""Seconds before a beat at which an HPA is created."""
OFF = {case.name for case in CASES if case.start == 0}
"""Cases whose HPA never asks for a metric."""
BLUR = 0.05
"""Seconds by which the moments of one decision may lie apart: it is taken several times, on a machine that is busy."""
COMPARED = 0.9
"""Share of the syncs that must be compared, the rest being those after one that is too close to call."""


class Sync(NamedTuple):
    """One sync of an HPA: what it saw, when it decided, and when it was done with it, with its write, if it wrote.

    earliest: when it may have decided at the earliest. It tells nobody of its first look, which lies between the making
    of the HPA and its first question.
    """

    served: Served
    earliest: float
    decided: float
    done: float
    theirs: int


Logs = dict[str, list[Sync]]


@dataclass(slots=True)
class Total:
    """An HPA on one External metric of type Value, which `Hpa` has no setting for."""

    name: str = "hpa-total"

    def state(self, n: int) -> dict[str, Any]:
        return {}

    def propose(self, view: View, state: dict[str, Any]) -> tuple[Proposal, dict[str, Any]]:
        metric = Metric(kind="Value", target=np.float64(1000 * TOTAL), total=np.round(1000 * view.snapshot["load"]))
        tolerances = view.settings["up_tolerance"], view.settings["down_tolerance"]
        replicas, held = desired_replicas(view.xp, view.current, view.snapshot["ready"], [metric], *tolerances)
        reasons = held.astype(np.int64) * int(Reason.WithinTolerance)
        return Proposal(replicas=replicas, reasons=reasons, tolerated=~np.isnan(replicas)), state


@dataclass(frozen=True, slots=True)
class Step:
    """One sync: what the HPA saw, what it made of it, and what we would."""

    served: Served
    theirs: int
    ours: int
    reasons: Reason

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value}" for name, value in self.served.values.items())
        saw = f"{self.served.replicas} replicas ({self.served.existing} pods, {self.served.ready} ready)"
        reasons = ", ".join(str(reason.name) for reason in self.reasons)
        return f"at {self.served.time:.3f} s with {values}, {saw}: HPA {self.theirs}, we {self.ours} ({reasons})"


@pytest.fixture(scope="module")
def logs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Logs:
    """Run all cases once, and return the syncs of each, the last of which has no outcome and is left out."""
    if request.config.getoption("--cluster") != "local":
        pytest.skip("the adapter must be within the API server's reach: needs --cluster local")
    directory = tmp_path_factory.mktemp("hpa-parity")
    # An HPA that waits for its answer occupies a worker.
    workers = f"--concurrent-horizontal-pod-autoscaler-syncs={2 * len(CASES)}"
    with (
        ControlPlane(directory, kwok=1, sync_period=f"{SYNC}s", extra_controller_args=[workers, ARGUMENT]) as plane,
        MetricsAdapter(plane, plane.serving_pair, BEAT) as adapter,
    ):
        return _run(plane, adapter)


def _run(plane: ControlPlane, adapter: MetricsAdapter) -> Logs:
    plane.create_namespace("parity")
    for number, case in enumerate(CASES):
        adapter.add(case.name, Script("parity", case.values, "load", BEAT * number / len(CASES)))
        plane.request("POST", "/apis/apps/v1/namespaces/parity/deployments", case.deployment())

    def pods() -> bool:
        deployments = plane.request("GET", "/apis/apps/v1/namespaces/parity/deployments")["items"]
        return all(item["status"].get("readyReplicas", 0) == item["spec"]["replicas"] for item in deployments)

    wait_until(pods, "the pods do not get ready", 60.0)
    created = {}
    for case in CASES:
        # It looks at once, and then had better not have to wait long.
        time.sleep(max(0.0, adapter.next_beat(case.name, time.monotonic() + EARLY) - EARLY - time.monotonic()))
        created[case.name] = time.monotonic()
        plane.request("POST", "/apis/autoscaling/v2/namespaces/parity/horizontalpodautoscalers", case.hpa())

    def done() -> bool:
        return all(adapter.given(case.name) > SYNCS for case in CASES if case.name not in OFF)

    wait_until(done, "the HPAs do not come to their last sync", 5 * BEAT * SYNCS)
    for name in OFF:
        scale = plane.request("GET", f"/apis/apps/v1/namespaces/parity/deployments/{name}/scale")
        assert scale["spec"].get("replicas", 0) == 0
    logged = acts(plane.process("kube-controller-manager").log)
    return {
        case.name: _syncs(case, created[case.name], adapter.served(case.name), logged.get(f"parity/{case.name}"))
        for case in CASES
    }


def _syncs(case: HpaCase, created: float, served: list[Served], logged: Acts | None) -> list[Sync]:
    """Join what an HPA was served with what it logged.

    An HPA remembers the replicas that it found when it first looked, which was before it got metrics, if it asked for
    them at all: a target at 0 or outside of its bounds needs none. An answer that it did not decide on is left out.
    """
    unasked = not served or not case.low <= case.start <= case.high
    first = created if unasked else served[0].asked
    found = Served(first, first, case.start, case.start, case.start, 0, {})
    syncs = []
    for now, following in itertools.pairwise((found, *served)):
        proposed, done = (
            [moment for moment in moments if now.time <= moment < following.asked] for moments in logged or Acts([], [])
        )
        # One that got no metrics takes no decision, and one that needs none logs its write alone.
        if now.values and None not in now.values.values() and not (proposed or done):
            continue  # the answer did not reach it
        decided = (*proposed, *done, now.time)[0]
        earliest = min(created, decided) if now is found else decided
        syncs.append(Sync(now, earliest, decided, (*done, decided)[0], following.replicas))
    return syncs or [Sync(found, created, first, first, case.start)]


def settings(case: HpaCase) -> Settings:
    """Return what our resource with the same behaviour asks for; the guard's own rules are off."""
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": case.name},
        "minReplicas": case.low,
        "maxReplicas": case.high,
        "interval": f"{BEAT:g}s",
        "capacity": {"perReplica": f"{CAPACITY:g}"},
        "metrics": {"load": {"query": "up"}},
        "policy": {"name": "hpa"},
        "behavior": case.behavior,
    }
    resource = {"apiVersion": "rlscaler.io/v1alpha1", "kind": "RLScaler", "metadata": {"name": case.name}, "spec": spec}
    return replace(to_settings(resource_from_object(resource)), floor=False, holds=False, flap_budget=math.inf)


def policy(case: HpaCase) -> Policy:
    """Return the rule with the case's targets."""
    if case.kind == "total":
        return Total()
    return Hpa(
        target=TARGET,
        wait=WAIT if case.kind == "backlog" else None,
        utilization=UTILIZATION if case.kind == "utilization" else None,
    )


def replayed(case: HpaCase, syncs: Sequence[Sync]) -> Iterator[Step]:
    """Yield the syncs of a case until one differs that is too close to call."""
    rule = policy(case)
    scaler = Autoscaler(rule, settings(case), workloads=1, fallback=rule)
    for number, (served, _, decided, _, theirs) in enumerate(syncs):
        known = {name: math.nan if value is None else value for name, value in served.values.items()}
        ours = scaler.decide(
            Snapshot(time=decided, desired=served.replicas, ready=served.ready, starting=served.pending, **known)
        )
        step = Step(served, theirs, int(ours.replicas[0]), Reason(int(ours.reasons[0])))
        if step.ours != theirs and too_close(case, syncs[:number], syncs[number]):
            return
        yield step


def too_close(case: HpaCase, before: Sequence[Sync], now: Sync) -> bool:
    """Tell whether a window or a period that began with an earlier sync may or may not be over."""
    return any(
        sync.earliest - BLUR <= now.done - span and now.decided - span <= sync.done + BLUR
        for sync in before
        for span in case.spans()
    )


@pytest.fixture(scope="module")
def steps(logs: Logs) -> dict[str, list[Step]]:
    """Return the syncs of each case, replayed."""
    return {case.name: list(replayed(case, logs[case.name])) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_rule_takes_the_replicas_that_the_hpa_takes(case: HpaCase, steps: dict[str, list[Step]]) -> None:
    mine = steps[case.name]
    wrong = [f"{number}. {step}" for number, step in enumerate(mine) if step.ours != step.theirs]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(mine)} syncs differ; {case.hpa()['spec']}", *wrong])


def test_the_cases_show_every_reason_and_many_changes(steps: dict[str, list[Step]]) -> None:
    every = [step for case in steps.values() for step in case]
    shown = Reason(0)
    for step in every:
        shown |= step.reasons
    wanted = (
        Reason.ScaleUpStabilized | Reason.ScaleDownStabilized | Reason.ScaleUpLimit | Reason.ScaleDownLimit
        | Reason.TooManyReplicas | Reason.TooFewReplicas | Reason.WithinTolerance | Reason.ScalingDisabled
        | Reason.MetricsUnknown
    )  # fmt: skip
    assert wanted in shown
    assert sum(step.theirs != step.served.replicas for step in every) > 150


def test_hardly_a_sync_is_too_close_to_call(logs: Logs, steps: dict[str, list[Step]]) -> None:
    compared, every = (sum(map(len, lists.values())) for lists in (steps, logs))
    assert compared >= COMPARED * every, f"{compared} of {every} syncs were compared"
