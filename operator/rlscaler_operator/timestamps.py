"""Times as the API server writes them."""

import math
from datetime import UTC, datetime


def stamp(seconds: float) -> str:
    """Return seconds since the epoch as RFC 3339 text in UTC, to the second."""
    return datetime.fromtimestamp(math.floor(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(text: object) -> float:
    """Return RFC 3339 text as seconds since the epoch, NaN for anything else."""
    if not isinstance(text, str):
        return math.nan
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return found.timestamp() if found.tzinfo else math.nan
