"""The HPA with a linear model: equal to a plain fit of its history on random courses, and named cases."""

import math

import numpy as np
import pytest

from rlscaler.reasons import Reason
from rlscaler.rules.hpa import average, desired_replicas
from rlscaler.rules.phpa import LONGEST, Phpa
from views import NAN, make_view, run


def fitted(history: list[tuple[float, float]], at: float) -> float:
    """Return where a line through the history stands, by least squares; what it is for a single entry."""
    if len(history) == 1:
        return history[0][1]
    ages = np.array([at - time for time, _ in history])
    counts = np.array([count for _, count in history])
    (intercept, _), *_ = np.linalg.lstsq(np.stack([np.ones_like(ages), ages], axis=1), counts, rcond=None)
    return float(intercept)


@pytest.mark.parametrize("size", [2, 6, LONGEST])
def test_it_is_what_a_plain_fit_says(size: int) -> None:
    n, steps, rng = 30, 3 * LONGEST, np.random.default_rng(size)
    loads = 10.0 * np.exp(rng.normal(2.5, 1.0, n) + np.cumsum(rng.normal(0.0, 0.2, (steps, n)), axis=0))
    loads[rng.random((steps, n)) < 0.1] = NAN
    current = np.round(np.nan_to_num(loads, nan=70.0) / rng.uniform(5.0, 11.0, (steps, n))) + 1.0
    views = [make_view(n=n, load=loads[i], current=current[i], ready=current[i], time=15.0 * i) for i in range(steps)]
    found = run(Phpa(size=size, ahead=45.0), views)
    tolerance = np.full(n, 0.1)
    counts = np.stack([
        desired_replicas(np, view.current, view.current, [average(np, view.snapshot["load"], np.full(n, 7.0))],
                         tolerance, tolerance)[0]
        for view in views
    ])  # fmt: skip
    for row in range(n):
        history: list[tuple[float, float]] = []
        for i, count in enumerate(counts[:, row]):
            if math.isnan(count):
                assert math.isnan(found[i, row]), (row, i)
                continue
            history.append((15.0 * i, count))
            line = fitted(history[-size - 1 :], 15.0 * i + 45.0)
            assert found[i, row] in {max(count, math.ceil(line + off)) for off in (-1e-6, 0.0, 1e-6)}, (row, i)


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        pytest.param([70, 77, 84, 91], [10, 12, 13, 14], id="a-rise-goes-on"),
        pytest.param([91, 84, 77, 70], [13, 12, 11, 10], id="a-fall-is-not-foreseen"),
        pytest.param([70, 70, 70], [10, 10, 10], id="a-level-stays"),
        pytest.param([70, NAN, 84], [10, NAN, 13], id="a-gap-is-no-entry"),
    ],
)
def test_named_cases(loads: list[float], expected: list[float]) -> None:
    """One replica more in every 15 s, read 15 s ahead; the first entry says what it is."""
    views = [make_view(load=load, time=15.0 * i) for i, load in enumerate(loads)]
    np.testing.assert_array_equal(run(Phpa(tolerance=0.0, ahead=15.0), views)[:, 0], expected)


def test_it_keeps_within_the_tolerance_and_asks_for_stabilisation() -> None:
    proposal, _ = Phpa(hold=120.0).propose(make_view(n=2, load=[72, 140], current=10), Phpa().state(2))
    assert proposal.replicas.tolist() == [10, 20]
    assert proposal.reasons is not None
    assert proposal.reasons.tolist() == [int(Reason.WithinTolerance), 0]
    np.testing.assert_array_equal(proposal.patience, 105)
    assert np.asarray(proposal.relative).tolist() == [True, False]
