"""When to try again what failed: exponential steps with full jitter, and never before the server asked for it.

Full jitter (a delay drawn from zero to the step) spreads a crowd of writers that failed together best:
M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

import math
import random
from dataclasses import dataclass

LONGEST = 300.0
"""Seconds beyond which a server's wish to be left alone is not followed."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Seconds. first: the longest delay after one failure. last: the longest after any number of them."""

    first: float = 0.5
    last: float = 60.0

    def delay(self, failures: int, retry_after: float | None, rng: random.Random) -> float:
        """Return the seconds to wait after so many failures in a row (1 or more).

        retry_after: what the server asked for at the last one, None if nothing; the jitter then comes on top of it.
        """
        step = min(self.last, math.ldexp(self.first, min(failures, 64) - 1))
        return min(max(retry_after or 0.0, 0.0), LONGEST) + rng.uniform(0.0, step)


class Backoff:
    """One thing that is tried. Every `now` is of one monotonic clock."""

    __slots__ = ("_rng", "_steps", "failures", "ready_at")

    def __init__(self, steps: Steps, rng: random.Random) -> None:
        """Take the steps, and where chance comes from; it may be tried at once."""
        self._steps, self._rng = steps, rng
        self.failures = 0
        """How often it failed in a row."""
        self.ready_at = -math.inf
        """When it may be tried again."""

    def failed(self, now: float, retry_after: float | None = None) -> None:
        """Take a failure; retry_after: seconds that the server asks for, None if nothing."""
        self.failures += 1
        self.ready_at = now + self._steps.delay(self.failures, retry_after, self._rng)

    def succeeded(self) -> None:
        """Take a success: the next failure is a first one."""
        self.failures, self.ready_at = 0, -math.inf

    def wait(self, now: float) -> float:
        """Return the seconds until it may be tried again, 0 if it may now."""
        return max(0.0, self.ready_at - now)
