"""Knative's rule: equal to a plain port of its Scale on random courses, and named cases."""

import math
from typing import Any

import numpy as np
import pytest

from rlscaler.rules.kpa import SAMPLES, Kpa
from views import NAN, make_view, run


class Plain:
    """Knative's autoscaler for one revision, in its own order and words."""

    def __init__(self, rule: Kpa) -> None:
        self.rule = rule
        self.samples: list[tuple[float, float]] = []
        self.panic_time: float | None = None
        self.max_panic_pods = 0.0
        self.created = False

    def mean(self, now: float, seconds: float) -> float:
        """Return the mean load of the last seconds, and of the newest sample where there is no other."""
        found = [load for time, load in self.samples if now - time < seconds] or [self.samples[-1][1]]
        return sum(found) / len(found)

    def scale(self, now: float, load: float, ready: float) -> float:
        """Return the desired pods, NaN where Knative has no answer. load: in replicas."""
        if math.isnan(load) or math.isnan(ready):
            return NAN
        if not self.created:
            self.created = True
            if ready > 1:
                self.panic_time, self.max_panic_pods = now, ready
        rule: Any = self.rule
        self.samples.append((now, load))
        pods = max(1.0, ready)
        up, down = math.ceil(rule.rise * pods), math.floor(pods / rule.fall)
        dspc = math.ceil(self.mean(now, rule.window) / rule.target - 1e-9)
        dppc = math.ceil(self.mean(now, rule.panic * rule.window) / rule.target - 1e-9)
        desired, panicked = min(max(dspc, down), up), min(max(dppc, down), up)
        over = dppc / pods >= rule.threshold
        if over:
            self.panic_time = now
        elif self.panic_time is not None and self.panic_time + rule.window < now:
            self.panic_time, self.max_panic_pods = None, 0.0
        if self.panic_time is not None:
            self.max_panic_pods = max(self.max_panic_pods, desired, panicked)
            return self.max_panic_pods
        return float(desired)


def course(rng: np.random.Generator, n: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return loads in replicas and ready replicas (steps, n), with surges, gaps and nothing ready."""
    level = np.exp(rng.normal(2.0, 1.0, n) + np.cumsum(rng.normal(0.0, 0.25, (steps, n)), axis=0))
    level *= np.where(rng.random((steps, n)) < 0.05, 6.0, 1.0)
    level[rng.random((steps, n)) < 0.1] = NAN
    ready = np.round(np.nan_to_num(level, nan=3.0) * rng.uniform(0.0, 3.0, (steps, n)))
    ready[rng.random((steps, n)) < 0.05] = NAN
    return level, ready


@pytest.mark.parametrize("interval", [5.0, 15.0, 60.0])
def test_it_is_what_a_plain_port_of_knative_says(interval: float) -> None:
    n, steps, rng = 60, 120, np.random.default_rng(int(interval))
    loads, ready = course(rng, n, steps)
    constants: dict[str, Any] = {k: rng.uniform(p.low, p.high, n) for k, p in Kpa.PARAMETERS.items()}
    constants["window"] = rng.choice([30.0, 60.0, 120.0, SAMPLES * 5.0], n)
    constants["fall"], constants["rise"] = rng.choice([1.1, 2.0, 1000.0], n), rng.choice([1.1, 2.0, 1000.0], n)
    views = [
        make_view(n=n, load=10.0 * loads[i], ready=ready[i], time=interval * i, max_replicas=1e9) for i in range(steps)
    ]
    found = run(Kpa(**constants), views)
    for row in range(n):
        single: dict[str, Any] = {k: float(v[row]) for k, v in constants.items()}
        plain = Plain(Kpa(**single))
        expected = [plain.scale(interval * i, loads[i, row], ready[i, row]) for i in range(steps)]
        np.testing.assert_array_equal(found[:, row], expected, err_msg=f"row {row}")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([(70, 1), (70, 1), (70, 1)], [10, 10, 10], id="a-panic-of-the-first-decision"),
        pytest.param([(7, 1), (7, 1), (28, 3)], [1, 1, 2], id="the-mean-of-a-minute"),
        pytest.param([(7, 1), (140, 2), (7, 20), (7, 20)], [1, 20, 20, 20], id="a-surge-panics-and-is-kept"),
        pytest.param([(70, 10), *[(7, 10)] * 6], [10, 10, 10, 10, 10, 5, 5], id="it-begins-in-a-panic-then-halves"),
        pytest.param([(0, 0), (0, 0)], [0, 0], id="no-load-no-replica"),
        pytest.param([(7, 0), (35, 0)], [1, 5], id="from-zero"),
        pytest.param([(7, 1), (NAN, 1), (7, 1)], [1, NAN, 1], id="no-answer-without-load"),
    ],
)
def test_named_cases(steps: list[tuple[float, float]], expected: list[float]) -> None:
    """Load and ready replicas, every 15 s."""
    views = [make_view(load=load, ready=ready, time=15.0 * i) for i, (load, ready) in enumerate(steps)]
    np.testing.assert_array_equal(run(Kpa(), views)[:, 0], expected)


def test_what_hangs_on_the_present_count_says_so() -> None:
    """A count that a bound or the panic's memory gave is not corrected for another capacity."""
    rule: Any = Kpa()
    state = rule.state(3)
    _, state = rule.propose(make_view(n=3, load=[7, 7, 7], ready=[1, 1, 1]), state)
    proposal, state = rule.propose(make_view(n=3, load=[140, 7, 7], ready=[1, 1, 40], time=15), state)
    assert proposal.replicas.tolist() == [20, 1, 20]
    assert proposal.relative.tolist() == [False, False, True]
    proposal, state = rule.propose(make_view(n=3, load=[7, 7, 7], ready=[1, 1, 1], time=30), state)
    assert proposal.relative.tolist() == [True, False, False]
