"""Leaders that are told to end, and leaders that are robbed: nothing is written twice, and nothing stands still."""

import time
from collections.abc import Iterator
from statistics import median

import pytest

from fault_scene import LEASE, Scene, began, ended, who
from leader_audit import LATE, READS, kept_for, leases, nothing_is_lost, only_the_holder_wrote, settled, window
from processes import wait_until

pytestmark = pytest.mark.components("kubernetes", "kwok", "prometheus")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("handover")) as scene:
        yield scene


@pytest.fixture(autouse=True)
def _alone(scene: Scene) -> Iterator[None]:
    """Let each test have operators of its own."""
    yield
    scene.end_operators()


def test_a_stolen_lease_is_left_alone_until_it_runs_out(scene: Scene) -> None:
    """Somebody writes another holder into the Lease, with no regard for who has it."""
    stolen_for = 6
    scene.workload("stolen", 100.0, policy={"name": "hpa"})
    robbed = scene.operator("robbed", lease=6.0).start()
    before = settled(scene, "stolen", 10.0)
    theft = {"spec": {"holderIdentity": "thief-1", "leaseDurationSeconds": stolen_for}}
    scene.cluster.request("PATCH", LEASE, theft)
    stolen = leases(scene)[-1][0]
    scene.load("stolen", 200.0)
    wait_until(lambda: robbed.metric("rlscaler_is_leader") == 0.0, "it leads all the same", LATE)
    assert robbed.ready(), "a follower is ready"
    wait_until(lambda: scene.holder() == "robbed", "it never leads again", stolen_for + LATE)
    again = next(at for at, name in leases(scene) if at > stolen and name == "robbed")
    assert again - stolen >= stolen_for - 0.5
    assert settled(scene, "stolen", 20.0) > before
    wait_until(lambda: robbed.metric("rlscaler_is_leader") == 1.0, "it does not tell that it leads", LATE)

    mine = [event for event in scene.cluster.audit() if who(event) == "robbed" and ended(event) > stolen]
    renewals = [event for event in mine if event["objectRef"]["resource"] == "leases" and event["verb"] == "update"]
    refused = next(event for event in renewals if event["responseStatus"]["code"] == 409)
    assert began(refused) - stolen < LATE, "at its next renewal"
    under_way = ended(refused) + 1.0  # what was sent before the answer came
    mine = [event for event in mine if event["verb"] not in READS and event["objectRef"]["resource"] != "leases"]
    written = [event for event in mine if under_way < began(event) < again]
    assert written == [], "the robbed leader writes"
    assert mine, "it never wrote again"
    nothing_is_lost(scene, "stolen")


def test_a_leader_that_is_told_to_end_hands_over(scene: Scene) -> None:
    """With a Lease that would last for 30 s. The scale-down window that three leaders see a part of stays as long."""
    seconds = 20.0
    scene.workload("handed", 200.0, 28, policy={"name": "hpa"}, behavior=window(seconds))
    alive = {name: scene.operator(name, lease=30.0).start() for name in ("h0", "h1")}
    high = settled(scene, "handed", 20.0)
    scene.load("handed", 50.0)
    fell = time.time()
    told: list[tuple[float, str]] = []
    for number in (2, 3, 4):
        name = scene.holder()
        told.append((time.time(), name))
        alive.pop(name).stop()
        wait_until(lambda: scene.holder() in alive, "nobody takes over", 60.0)
        alive[f"h{number}"] = scene.operator(f"h{number}", lease=30.0).start()
    assert seconds - 2.0 <= kept_for(scene, "handed", high, fell, seconds) <= seconds + LATE
    nothing_is_lost(scene, "handed")
    only_the_holder_wrote(scene, fell)
    held = leases(scene)
    gaps = [next(at for at, holder in held if at > since and holder not in ("", name)) - since for since, name in told]
    assert median(gaps) < 2.0, gaps
    assert max(gaps) < 10.0, "only the end of the Lease ended it"
