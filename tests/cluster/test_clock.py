"""A wall clock that is set while the operator runs, and between two: windows stay as long, decisions go on."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fault_scene import Scene
from leader_audit import LATE, kept_for, leases, nothing_is_lost, settled, window
from processes import wait_until
from rlscaler_operator.clock import SLEW
from stepped_clock import SteppedClock, compiler

pytestmark = [
    pytest.mark.components("kubernetes", "kwok", "prometheus"),
    pytest.mark.skipif(
        compiler() is None or not sys.platform.startswith("linux"), reason="needs Linux and a C compiler"
    ),
]

HOUR = 3600
WINDOW = 15.0
"""Seconds of the scale-down window in which the clock is set."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("clock")) as scene:
        yield scene


@pytest.fixture(autouse=True)
def _alone(scene: Scene) -> Iterator[None]:
    """Let each test have operators of its own."""
    yield
    scene.end_operators()


def test_the_clock_of_the_tests_moves_the_wall_clock_alone(tmp_path: Path) -> None:
    clock = SteppedClock(tmp_path, HOUR)
    script = (
        "import datetime, sys, time\n"
        "for _ in sys.stdin: print(time.time(), datetime.datetime.now().timestamp(), time.monotonic(), flush=True)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clock.environment
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        for step in (0, HOUR, -5 * HOUR):
            clock.step(step)
            child.stdin.write("\n")
            child.stdin.flush()
            wall, date, monotonic = map(float, child.stdout.readline().split())
            assert wall == pytest.approx(time.time() + clock.shift, abs=LATE)
            assert date == pytest.approx(wall, abs=LATE)
            assert monotonic == pytest.approx(time.monotonic(), abs=LATE)


def test_steps_while_it_runs(scene: Scene, tmp_path: Path) -> None:
    """An hour forward in one window, and two back in the next; the Lease stays where it is, and load is followed."""
    clock = SteppedClock(tmp_path)
    scene.workload("steps", 200.0, 28, policy={"name": "hpa"}, behavior=window(WINDOW))
    operator = scene.operator("steps", environment=clock.environment, lease=15.0).start()
    for step, low in ((HOUR, 50.0), (-2 * HOUR, 60.0)):
        high = settled(scene, "steps", 20.0)
        made = operator.metric("rlscaler_decisions_total")
        scene.load("steps", low)
        fell = time.time()
        clock.step(step)
        kept = kept_for(scene, "steps", high, fell, WINDOW)
        assert WINDOW * (1.0 - SLEW) - 1.0 <= kept <= WINDOW * (1.0 + SLEW) + LATE
        assert operator.metric("rlscaler_decisions_total") > made + WINDOW / 3.0, "it stands still"
        assert settled(scene, "steps", low / 10.0) < high
        scene.load("steps", 200.0)
    settled(scene, "steps", 20.0)
    assert {name for _, name in leases(scene)} == {"steps"}, "it lost the Lease"
    nothing_is_lost(scene, "steps")
    assert [line for line in operator.log() if line.get("level") in ("error", "critical")] == []


@pytest.mark.parametrize(("name", "first", "second"), [("slow", HOUR, 0), ("fast", -HOUR, 0)])
def test_steps_between_two_operators(scene: Scene, tmp_path: Path, name: str, first: int, second: int) -> None:
    """The clock is set back, or forward, between a leader that is killed in a window and who takes over."""
    clocks = []
    for place, shift in (("first", first), ("second", second)):
        (tmp_path / place).mkdir()
        clocks.append(SteppedClock(tmp_path / place, shift))
    scene.workload(name, 200.0, 28, policy={"name": "hpa"}, behavior=window(WINDOW))
    dies = scene.operator(f"{name}-dies", environment=clocks[0].environment).start()
    high = settled(scene, name, 20.0)
    wait_until(lambda: scene.cluster.audit(resource="configmaps", verb="update") != [], "nothing is kept", LATE)
    scene.load(name, 50.0)
    fell = time.time()
    goes_on = scene.operator(f"{name}-goes-on", environment=clocks[1].environment).start()
    dies.stop(9)
    kept = kept_for(scene, name, high, fell, WINDOW)
    assert WINDOW - 1.0 <= kept <= WINDOW + LATE
    assert settled(scene, name, 5.0) < high
    assert [line for line in goes_on.log() if line.get("level") in ("error", "critical")] == []
