"""A clock that a test sets."""


class SetClock:
    """Tells the time that it was set to, as the wall's and as the one that only goes on."""

    def __init__(self, at: float) -> None:
        """Take the seconds that it tells."""
        self.at = at

    def now(self) -> float:
        """Return what it was set to."""
        return self.at

    monotonic = now
