"""Leaders that are killed: another one goes on as if nothing had happened."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from fault_scene import Scene, who
from leader_audit import LATE, kept_for, nothing_is_lost, only_the_holder_wrote, settled, window
from operator_process import OperatorProcess
from processes import wait_until

pytestmark = [pytest.mark.components("kubernetes", "kwok", "prometheus"), pytest.mark.timeout(600)]

KILLS = 20
WINDOW = 40.0
"""Seconds of the scale-down window that is in progress while leaders are killed."""
INTERVAL, PERIOD = 5.0, 10.0
"""Seconds between two decisions, and of the scale-up policy that leaders are killed under."""


def test_twenty_leaders_are_killed_in_a_scale_up(tmp_path: Path) -> None:
    """A load that rises at each kill, a scale-up at a limited pace, and a scale-down window: none of them notices."""
    rng = random.Random(20)
    numbers = iter(range(100))
    alive: dict[str, OperatorProcess] = {}
    with Scene(tmp_path) as scene:

        def start() -> None:
            name = f"k{next(numbers)}"
            alive[name] = scene.operator(name, lease=1.5).start(ready=False)

        load = 50.0
        common: dict[str, Any] = {"policy": {"name": "hpa"}, "interval": f"{INTERVAL:g}s", "maxReplicas": 200}
        pace = {"scaleUp": {"policies": [{"type": "Pods", "value": 2, "periodSeconds": round(PERIOD)}]}}
        scene.workload("rising", load, **common)
        scene.workload("paced", 1000.0, **common, behavior=pace)
        scene.workload("window", 200.0, 28, **common, behavior=window(WINDOW))
        for _ in range(3):
            start()
        high = settled(scene, "window", 20.0)
        settled(scene, "rising", 5.0)
        scene.load("window", 50.0)
        fell = time.time()
        for _ in range(KILLS):
            wait_until(lambda: scene.holder() in alive, "nobody takes over", 60.0, *(p.process for p in alive.values()))
            time.sleep(rng.uniform(0.0, 2.5))  # some die before they have decided, some in the middle of a write
            alive.pop(scene.holder()).stop(9)
            load += 25.0
            scene.load("rising", load)
            start()
        killed = time.time()

        settled(scene, "rising", load / 10.0)
        longest = max(WINDOW, killed - fell) + 3.0 * LATE
        assert WINDOW - INTERVAL <= kept_for(scene, "window", high, fell, WINDOW) <= longest
        rising, paced = nothing_is_lost(scene, "rising"), nothing_is_lost(scene, "paced")
        nothing_is_lost(scene, "window")
        only_the_holder_wrote(scene, 0.0)
        assert all(after > before for _, before, after in rising), rising
        for at, _, after in paced:
            earlier = [before for when, before, _ in paced if at - (PERIOD - INTERVAL / 2.0) <= when <= at]
            assert after - earlier[0] <= 2, f"more than the policy allows: {paced}"
        writers = {who(event) for name in ("rising", "paced") for event in scene.resizes(name)}
        assert len(writers) >= KILLS / 4, f"only {writers} lived for long enough to write"
