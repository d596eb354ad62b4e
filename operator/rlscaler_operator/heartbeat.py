"""Whether a loop still goes round. Pure; times are monotonic."""

import math
from typing import Final

SHORTEST_LIMIT: Final = 60.0
"""Seconds without a beat that are always allowed."""
LONGEST_LIMIT: Final = 300.0
"""Seconds without a beat that are never allowed, however slow the rounds have been."""
ROUNDS: Final = 3.0
"""Longest rounds that may pass without a beat."""


class Heartbeat:
    """The beat of a loop. It rests while the loop has nothing to do (a follower), which is no fault."""

    def __init__(self) -> None:
        """Rest."""
        self._at = math.nan
        self._longest = 0.0

    def beat(self, at: float) -> None:
        """Tell that the loop goes round."""
        if math.isfinite(self._at):
            # Forgotten by a thousandth at each round, so that one slow start does not widen the limit for ever.
            self._longest = max(0.999 * self._longest, at - self._at)
        self._at = at

    def rest(self) -> None:
        """Tell that no further beat is to be expected."""
        self._at, self._longest = math.nan, 0.0

    def age(self, now: float) -> float:
        """Return the seconds since the last beat, NaN at rest."""
        return now - self._at

    @property
    def limit(self) -> float:
        """Seconds without a beat after which the loop hangs."""
        return min(LONGEST_LIMIT, max(SHORTEST_LIMIT, ROUNDS * self._longest))

    def hangs(self, now: float) -> bool:
        """Tell whether the loop hangs."""
        return self.age(now) > self.limit
