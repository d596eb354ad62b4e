"""Decision time: it goes on whatever happens to the wall clock, and follows it in the end."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler_operator.clock import SLEW, SystemClock, awake_and_asleep

HOUR = 3600.0


class Times:
    """A monotonic and a wall clock that are set by hand."""

    def __init__(self) -> None:
        self.at, self.wall = 50.0, 1.75e9

    def clock(self) -> SystemClock:
        return SystemClock(lambda: self.at, lambda: self.wall)

    def go(self, seconds: float) -> None:
        self.at += seconds
        self.wall += seconds


def test_without_steps_it_is_the_wall_clock() -> None:
    times = Times()
    clock = times.clock()
    for seconds in (0.0, 0.1, 15.0, 86_400.0):
        times.go(seconds)
        assert clock.now() == pytest.approx(times.wall, abs=1e-6)
        assert clock.monotonic() == times.at


@pytest.mark.parametrize("step", [HOUR, -HOUR, 1.0, -1.0, 1e9, -1e9])
@pytest.mark.parametrize("window", [15.0, 300.0, HOUR])
def test_a_step_neither_ends_a_window_early_nor_keeps_it_open(step: float, window: float) -> None:
    """By more than the share by which a step is followed: decision time that goes by in a window's real seconds."""
    times = Times()
    clock = times.clock()
    began = clock.now()
    times.wall += step
    for _ in range(100):
        times.go(window / 100.0)
        clock.now()
    gone = clock.now() - began
    assert window * (1.0 - SLEW) - 1e-3 <= gone <= window * (1.0 + SLEW) + 1e-3


@pytest.mark.parametrize("step", [60.0, -60.0])
def test_a_step_is_followed_in_the_end(step: float) -> None:
    times = Times()
    clock = times.clock()
    times.wall += step
    for _ in range(61):
        times.go(10.0)
        clock.now()
    assert clock.now() == pytest.approx(times.wall, abs=1e-3)


def test_a_step_that_is_taken_back_has_done_nothing_that_lasts() -> None:
    times = Times()
    clock = times.clock()
    times.wall += HOUR
    times.go(30.0)
    assert clock.now() == pytest.approx(times.wall - HOUR + 3.0)
    times.wall -= HOUR
    times.go(300.0)
    assert clock.now() == pytest.approx(times.wall)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(-1e5, 1e5)), max_size=40))
def test_it_never_jumps_and_never_runs_backwards(moves: list[tuple[float, float]]) -> None:
    times = Times()
    clock = times.clock()
    seen = [clock.now()]
    for seconds, step in moves:
        times.go(seconds)
        times.wall += step
        seen.append(clock.now())
    for (seconds, _), (before, after) in zip(moves, itertools.pairwise(seen), strict=True):
        assert seconds * (1.0 - SLEW) - 1e-3 <= after - before <= seconds * (1.0 + SLEW) + 1e-3


def test_the_machines_own() -> None:
    clock = SystemClock()
    assert clock.now() == pytest.approx(time.time(), abs=5.0)
    assert clock.monotonic() == pytest.approx(awake_and_asleep(), abs=5.0)
    assert clock.monotonic() <= clock.monotonic()
