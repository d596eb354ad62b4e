"""When to try again: growing, spread, bounded, and never before the server asked for it."""

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from rlscaler_operator.backoff import LONGEST, Backoff, Steps

STEPS = Steps(first=1.0, last=60.0)


def test_the_longest_delay_doubles_with_each_failure_up_to_the_last_step() -> None:
    rng = random.Random(1)
    longest = [max(STEPS.delay(n, None, rng) for _ in range(2000)) for n in range(1, 9)]
    for measured, step in zip(longest, (1, 2, 4, 8, 16, 32, 60, 60), strict=True):
        assert 0.98 * step < measured <= step


def test_the_jitter_is_full() -> None:
    rng = random.Random(1)
    delays = sorted(STEPS.delay(4, None, rng) for _ in range(4000))
    assert delays[0] < 0.1
    assert abs(delays[2000] - 4.0) < 0.3


@given(st.integers(1, 10_000), st.none() | st.floats(-1e9, 1e9), st.integers(0, 2**32))
def test_delays_are_bounded_and_follow_the_server(failures: int, retry_after: float | None, seed: int) -> None:
    delay = STEPS.delay(failures, retry_after, random.Random(seed))
    assert min(max(retry_after or 0.0, 0.0), LONGEST) <= delay <= LONGEST + STEPS.last


def test_one_that_fails_waits_and_one_that_succeeds_starts_over() -> None:
    one = Backoff(STEPS, random.Random(1))
    assert one.wait(100.0) == 0.0
    for _ in range(5):
        one.failed(100.0, 3.0)
    assert one.failures == 5
    assert 3.0 <= one.wait(100.0) <= 3.0 + 16.0
    assert one.wait(one.ready_at) == 0.0
    one.succeeded()
    assert (one.failures, one.ready_at) == (0, -math.inf)


def test_a_crowd_that_fails_together_does_not_come_back_together() -> None:
    rng = random.Random(1)
    crowd = [Backoff(STEPS, rng) for _ in range(1000)]
    for one in crowd:
        for _ in range(7):
            one.failed(0.0)
    seconds = [0] * 60
    for one in crowd:
        seconds[min(59, int(one.ready_at))] += 1
    assert max(seconds) < 40
