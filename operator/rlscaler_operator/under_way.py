"""Writes that threads are making: whoever gives the Lease away waits for them, since they cannot be taken back."""

import threading


class UnderWay:
    """A count of writes, each of which is entered before its fence is asked: once that is down, none is missed."""

    def __init__(self) -> None:
        """Start with none."""
        self._count = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        """Count a write."""
        with self._changed:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        """Count it no more: it has an answer, or its connection is closed."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def ended(self, seconds: float) -> bool:
        """Wait, for so many seconds at most, until none is under way; tell whether none is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._count, seconds)
