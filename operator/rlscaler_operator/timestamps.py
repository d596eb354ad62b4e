"""Times as the API server writes them."""

import math
from datetime import UTC, datetime
from functools import lru_cache


def stamp(seconds: float) -> str:
    """Return seconds since the epoch as RFC 3339 text in UTC, to the second."""
    return _stamp(math.floor(seconds))


@lru_cache(256)
def _stamp(seconds: int) -> str:
    # Thousands of workloads are decided at the same second.
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(text: object) -> float:
    """Return RFC 3339 text as seconds since the epoch, NaN for anything else."""
    return _seconds_of(text) if isinstance(text, str) else math.nan


@lru_cache(1024)
def _seconds_of(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return found.timestamp() if found.tzinfo else math.nan
