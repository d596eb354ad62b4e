"""Time as the operator takes it: an argument of everything, made in one place."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

SLEW = 0.1
"""Share by which decision time runs faster or slower than the monotonic clock while it follows the wall clock."""


class Clock(Protocol):
    """Two views of one time."""

    def monotonic(self) -> float:
        """Return seconds for measuring and for deadlines."""
        ...

    def now(self) -> float:
        """Return decision time: seconds since the epoch that neither jump nor run backwards."""
        ...


def awake_and_asleep() -> float:
    """Return monotonic seconds that go on while the machine sleeps, where the system counts them."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


class SystemClock:
    """The machine's clock. A step of the wall clock (NTP, a person) is followed slowly, so that no window of the
    guard ends early or never because of it; the wall clock is what history's day and week profile go by.
    """  # fmt: skip

    def __init__(
        self, monotonic: Callable[[], float] = awake_and_asleep, wall: Callable[[], float] = time.time
    ) -> None:
        """Start at the wall clock's time."""
        self._monotonic, self._wall = monotonic, wall
        self._at, self._now = monotonic(), wall()
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Return seconds for measuring and for deadlines."""
        return self._monotonic()

    def now(self) -> float:
        """Return decision time: seconds since the epoch that neither jump nor run backwards."""
        with self._lock:
            at = self._monotonic()
            elapsed = at - self._at
            error = self._wall() - (self._now + elapsed)
            self._at, self._now = at, self._now + elapsed + min(max(error, -SLEW * elapsed), SLEW * elapsed)
            return self._now
