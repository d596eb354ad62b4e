"""Faults of the API server before an operator that runs: nothing is lost, nobody waits for others, and it is said."""

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest

from api_proxy import ApiProxy, Asked, Fault
from fault_scene import LEASE, SHOP, Scene, began
from operator_process import OperatorProcess
from processes import wait_until
from recorder import Recorder
from scene_shop import PATIENCE, chain, clear, count, follows, make, podless, reports, says, unharmed
from shop import condition, events

pytestmark = pytest.mark.components("kubernetes", "prometheus")

LEASE_SECONDS = 20.0
"""Longer than any fault here."""
WRITE_TIMEOUT = LEASE_SECONDS / 4.0
"""Seconds that the operator gives a write to a target."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("cluster-faults")) as scene:
        yield scene


class Proxied(NamedTuple):
    """An operator whose requests go through a proxy."""

    proxy: ApiProxy
    operator: OperatorProcess


@pytest.fixture(scope="module")
def one(scene: Scene) -> Iterator[Proxied]:
    with (
        ApiProxy(scene.cluster.server, scene.cluster.ca) as proxy,
        scene.operator("proxied", server=proxy.url, lease=LEASE_SECONDS) as operator,
    ):
        yield Proxied(proxy, operator)


@pytest.fixture
def proxied(one: Proxied) -> Iterator[Proxied]:
    yield one
    one.proxy.fault = lambda asked: None


@pytest.fixture(autouse=True)
def cleared(scene: Scene) -> Iterator[None]:
    """Take away what a test made."""
    yield
    clear(scene)


# --- single requests


class Refused(NamedTuple):
    """A fault of the writes to one target. words: that AbleToScale says meanwhile, none where all is well at once."""

    fault: Fault
    words: str


WRITES = {
    "conflict": Refused(Fault(409), ""),
    "throttled": Refused(Fault(429, retry_after=2), "injected 429"),
    "failing": Refused(Fault(500), "injected 500"),
    "away": Refused(Fault(503), "injected 503"),
    "late": Refused(Fault(before=WRITE_TIMEOUT + 1.0), f"did not answer within {WRITE_TIMEOUT:g} s"),
    "unanswered": Refused(Fault(after=WRITE_TIMEOUT + 1.0), f"did not answer within {WRITE_TIMEOUT:g} s"),
    "cut": Refused(Fault(lost=True), "cannot be reached"),
}


def test_writes_that_fail_are_told_and_made_up_for_and_hold_up_nobody_else(scene: Scene, proxied: Proxied) -> None:
    """Some of them are done although they seem to have failed: that is nobody else's change."""
    proxy, operator = proxied
    names = (*WRITES, "well")
    make(scene, *names)
    for name in names:
        follows(scene, name, 50.0, "at first", operator)
    seen = Recorder(scene.cluster, SHOP)

    def fault(asked: Asked) -> Fault | None:
        return next((refused.fault for name, refused in WRITES.items() if asked.writes(name)), None)

    proxy.fault = fault
    for name in names:
        scene.load(name, 200.0)
    follows(scene, "well", 200.0, "beside writes that fail", operator)

    def told(name: str) -> bool:
        words, found = WRITES[name].words, seen.conditions[name, "AbleToScale"]
        return not words or any(each.reason == "FailedUpdateScale" and words in each.message for each in found)

    assert seen.watch(PATIENCE, lambda: all(map(told, WRITES))), [name for name in WRITES if not told(name)]
    proxy.fault = lambda asked: None

    def well(name: str) -> bool:
        return seen.condition(name, "AbleToScale").status == "True" and seen.count(name) >= 20

    assert seen.watch(PATIENCE, lambda: all(map(well, WRITES))), [name for name in WRITES if not well(name)]
    for name in names:
        chain(scene, name)
        assert condition(scene.cluster, SHOP, name, "Conflict")["reason"] == "NoConflict"
        assert not [event for event in events(scene.cluster, SHOP, name) if event["reason"] == "Conflict"]
    throttled = [asked.at for asked, fault in proxy.asked if fault == WRITES["throttled"].fault]
    assert all(after - before > 1.9 for before, after in pairwise(throttled)), "Retry-After is not kept to"
    unharmed(operator)


def test_reports_that_fail_hold_up_no_decision_and_are_made_up_for(scene: Scene, proxied: Proxied) -> None:
    proxy, operator = proxied
    names = ("first", "second")
    make(scene, *names)
    for name in names:
        reports(scene, name, lambda told: told.get("desiredReplicas", 0) >= 5, "its first decision")
    before = {name: reports(scene, name, bool, "anything")["desiredReplicas"] for name in names}
    answers = (Fault(429, retry_after=1), Fault(500))
    attempts = 0

    def fault(asked: Asked) -> Fault | None:
        nonlocal attempts
        if asked.method not in ("PATCH", "POST") or not asked.path.endswith(("/status", "/events")):
            return None
        attempts += 1
        return answers[attempts % 2]

    proxy.fault = fault
    for load in (100.0, 200.0, 300.0):
        for name in names:
            scene.load(name, load)
        for name in names:
            follows(scene, name, load, "while reports fail", operator)
    wait_until(lambda: attempts >= 4, "no report is tried again", PATIENCE)
    assert {name: reports(scene, name, bool, "anything")["desiredReplicas"] for name in names} == before
    proxy.fault = lambda asked: None
    for name in names:
        reports(scene, name, lambda told: told["desiredReplicas"] >= 30, "its decision afterwards")
    failed = [asked.at for asked, fault in proxy.asked if fault in answers]
    assert len(failed) <= 4 + 2.0 * (failed[-1] - failed[0]), "failed reports are tried too often"
    wait_until(lambda: proxy.count(_keeps) > 0, "the state is not kept", PATIENCE)
    for asked, _ in proxy.asked:
        if asked.path.endswith(("/status", "/events")) or _keeps(asked):
            assert 0.0 < _timeout(asked) <= WRITE_TIMEOUT, "it may be done after another has begun to lead"
    unharmed(operator)


def _keeps(asked: Asked) -> bool:
    return asked.method in ("PUT", "POST") and "/configmaps" in asked.path


def _timeout(asked: Asked) -> float:
    """Return the seconds after which the API server is to give up, 0 where it is not told."""
    return float(asked.query.get("timeout", "0ms").removesuffix("ms")) / 1000.0


# --- watches


def test_what_happens_while_nothing_can_be_watched_is_seen_afterwards(scene: Scene, proxied: Proxied) -> None:
    """Watches expire (410), and fail in several ways before they come back; meanwhile all that is known goes on."""
    proxy, operator = proxied
    make(scene, "stays", "goes", "loses-target", "is-renewed")
    for name in ("stays", "goes", "loses-target", "is-renewed"):
        follows(scene, name, 50.0, "at first", operator)
    refused = 0
    answers = (Fault(410), Fault(429, retry_after=1), Fault(500), Fault(lost=True))

    def fault(asked: Asked) -> Fault | None:
        nonlocal refused
        listed = asked.path.rpartition("/")[2] in ("rlscalers", "deployments", "horizontalpodautoscalers")
        if asked.method != "GET" or not listed:
            return None
        refused += 1
        return answers[refused % len(answers)]

    proxy.fault = fault
    assert proxy.expire_watches() >= 5
    wait_until(lambda: refused >= 2 * len(answers), "no watch is tried again", PATIENCE)
    scene.cluster.kubectl("delete", "rlscaler/goes", "deployment/loses-target", "deployment/is-renewed", "-n", SHOP)
    scene.cluster.apply(podless("is-renewed", 4))
    make(scene, "comes")
    for name in ("stays", "goes", "is-renewed"):
        scene.load(name, 200.0)
    follows(scene, "stays", 200.0, "while nothing can be watched", operator)
    proxy.fault = lambda asked: None
    for name, load in (("comes", 50.0), ("is-renewed", 200.0)):
        follows(scene, name, load, "after the watches came back", operator)
    says(scene, "loses-target", "Ready", "TargetNotFound")
    scene.load("stays", 300.0)
    follows(scene, "stays", 300.0, "at last", operator)
    assert len(chain(scene, "stays")) >= 2
    assert proxy.expire_watches() >= 5
    scene.load("comes", 200.0)
    follows(scene, "comes", 200.0, "after a further 410", operator)
    wait_until(operator.ready, "the operator is not ready", PATIENCE)
    unharmed(operator)


# --- the whole of it


def transitions(scene: Scene) -> tuple[str, int]:
    spec = scene.cluster.request("GET", LEASE)["spec"]
    return spec["holderIdentity"], spec.get("leaseTransitions", 0)


def test_an_api_server_that_is_slow_and_then_fails_altogether(scene: Scene, proxied: Proxied) -> None:
    """For less than the Lease lasts: the leader goes on leading, and takes up where it was."""
    proxy, operator = proxied
    make(scene, "web", "api")
    for name in ("web", "api"):
        follows(scene, name, 50.0, "at first", operator)
    held = transitions(scene)
    proxy.fault = lambda asked: Fault(before=0.5)
    for load in (100.0, 200.0):
        for name in ("web", "api"):
            scene.load(name, load)
        for name in ("web", "api"):
            follows(scene, name, load, "on a slow API server", operator)
    before = count(scene, "web")
    failed = 0

    def fault(asked: Asked) -> Fault:
        nonlocal failed
        failed += 1
        return (Fault(500), Fault(429, retry_after=1), Fault(503))[failed % 3]

    proxy.fault, since = fault, time.monotonic()
    proxy.end_watches()
    scene.load("web", 300.0)

    def tried() -> int:
        return proxy.count(lambda asked: asked.at > since and asked.writes("web"))

    wait_until(lambda: tried() >= 2 and failed >= 15, "nothing is tried", PATIENCE)
    assert count(scene, "web") == before
    proxy.fault = lambda asked: None
    follows(scene, "web", 300.0, "after all requests failed", operator)
    scene.load("api", 300.0)
    follows(scene, "api", 300.0, "after all requests failed", operator)
    chain(scene, "web")
    assert transitions(scene) == held
    unharmed(operator)


def test_an_api_server_that_is_killed_and_started_again_in_a_scale_up(scene: Scene) -> None:
    """The real one. The pace of the behavior is kept to, and no step is taken twice or left out."""
    period, step = 2, 4
    pace = {"scaleUp": {"policies": [{"type": "Pods", "value": step, "periodSeconds": period}]}}
    with scene.operator("restart", lease=4.0 * LEASE_SECONDS) as operator:  # a start may take long
        make(scene, "paced", load=20.0, behavior=pace)
        reports(scene, "paced", lambda told: "decision" in told, "a decision")
        held = transitions(scene)
        scene.load("paced", 400.0)
        wait_until(lambda: count(scene, "paced") >= 10, "the scale-up does not begin", PATIENCE)
        scene.cluster.stop_api()
        scene.cluster.start_api()
        follows(scene, "paced", 400.0, "after the restart", operator)
        assert transitions(scene) == held
        unharmed(operator)
    changes = chain(scene, "paced")
    assert all(after > before for before, after in changes), changes
    moments = [(began(event), event["requestObject"][1]["value"]) for event in scene.resizes("paced")]
    for (before, _), (at, _) in pairwise(moments):
        assert at - before > 0.2 * period, f"faster than the policy allows: {moments}"
    assert all(after - before <= step for before, after in changes), f"more than the policy allows: {changes}"
