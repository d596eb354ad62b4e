"""Writes that came after the last checkpoint are found in the target and counted, once, and never too early."""

import math

import numpy as np
import pytest

from rlscaler_operator.checkpoint import Batch
from rlscaler_operator.missed_writes import Sight, changed_at, counted
from rlscaler_operator.model import Key
from rlscaler_operator.timestamps import stamp
from workload_accounts import NOON, target, workload

NAN = float("nan")
KEY = Key("shop", "web")
KEPT_AT = 1000.0
NOW = 1100.0
WAITS = (990.0, 5.0, 7.0)
"""A decision at 990 from 5 to 7, whose write was not seen when the memory was kept."""
NOTHING = (NAN, NAN, NAN)
CASES: dict[str, tuple[tuple[float, float, float], Sight | None, tuple[float, float, float]]] = {
    "nothing changed": (NOTHING, Sight(5, 5), NOTHING),
    "not ours, or no target": (NOTHING, None, NOTHING),
    "a write, and nobody tells when": (NOTHING, Sight(5, 9), (NOW, 5.0, 9.0)),
    "a write, and the status tells when": (NOTHING, Sight(5, 9, 1050.0), (1050.0, 5.0, 9.0)),
    "the status tells of an older write": (NOTHING, Sight(5, 9, 940.0), (KEPT_AT, 5.0, 9.0)),
    "the status is ahead of this clock": (NOTHING, Sight(5, 9, 5000.0), (NOW, 5.0, 9.0)),
    "a write that lowers": (NOTHING, Sight(9, 3, 1050.0), (1050.0, 9.0, 3.0)),
    "what waited was written": (WAITS, Sight(5, 7), WAITS),
    "what waited was not written": (WAITS, Sight(5, 5), WAITS),
    "what waited was seen and written": (WAITS, Sight(7, 7), WAITS),
    "what waited was written, and more": (WAITS, Sight(5, 9, 1050.0), (1050.0, 5.0, 9.0)),
}


def memory(pending: tuple[float, float, float]) -> Batch:
    names = ("pending_time", "pending_from", "pending_to")
    other = {"direction": np.array([1], np.int8)}
    guard = {name: np.array([value]) for name, value in zip(names, pending, strict=True)}
    return Batch([KEY], np.array([KEPT_AT]), {"guard": other | guard, "learned": {}})


@pytest.mark.parametrize("case", CASES)
def test_named_case(case: str) -> None:
    pending, sight, expected = CASES[case]
    before = memory(pending)
    found = counted(before, {} if sight is None else {KEY: sight}, NOW)
    np.testing.assert_array_equal(list(map(float, memory_of(found))), expected)
    np.testing.assert_array_equal(list(map(float, memory_of(before))), pending)
    assert found.parts["guard"]["direction"].tolist() == [1]
    assert found.parts["learned"] == {}


def memory_of(batch: Batch) -> list[float]:
    return [batch.parts["guard"][name][0] for name in ("pending_time", "pending_from", "pending_to")]


def test_a_memory_that_is_not_whole_is_left_to_who_recalls_it() -> None:
    batch = Batch([KEY], np.array([KEPT_AT]), {"guard": {}})
    assert counted(batch, {KEY: Sight(5, 9)}, NOW) is batch


def test_the_time_of_a_change_is_the_status_where_that_tells_of_it() -> None:
    told = {"desiredReplicas": 4, "lastScaleTime": stamp(NOON + 0.9)}
    assert changed_at(workload(status=told), target()) == NOON
    assert math.isnan(changed_at(workload(status=told), target(desired=5))), "it tells of another write"
    assert math.isnan(changed_at(workload(), target()))
