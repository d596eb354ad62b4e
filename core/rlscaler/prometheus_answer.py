"""The results of Prometheus' query API (JSON) as numbers: a vector at one time, a matrix on a grid of times.

Nothing is taken on trust: a value of another type, a time off the grid or a label that is no text is refused.
Format: https://prometheus.io/docs/prometheus/latest/querying/api/
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

_TEXT = {str}
_NUMBERS = {int, float}
_NO_NUMBERS = "a value like 1_000, or a time without end"
"""What Python takes for numbers and Prometheus never writes."""
_TWICE = "two series with the same labels"


class Series(NamedTuple):
    """A series at one time. value: NaN where it is not finite. time: of the evaluation, seconds by the server."""

    labels: Mapping[str, str]
    value: float
    time: float


class Row(NamedTuple):
    """A series on a grid. places: (K,) where it has values, ascending. values: (K,), NaN where not finite."""

    labels: Mapping[str, str]
    places: np.ndarray
    values: np.ndarray


class Grid(NamedTuple):
    """Times as Prometheus counts them: `points` of them from `first`, `every` milliseconds."""

    first: int
    every: int
    points: int


class MalformedError(Exception):
    """The result is not of the documented form."""


class HistogramsError(Exception):
    """The result holds native histograms in place of numbers."""


class OffGridError(Exception):
    """The result has values at other times than were asked for."""


def vector(result: Any) -> list[Series]:
    """Return the series of a vector; raises MalformedError, HistogramsError."""
    try:
        return [_sample(item) for item in result]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _judged(error, "histogram", result) from None


def _sample(item: Mapping[str, Any]) -> Series:
    at, text = item["value"]
    value = float(text)
    if type(text) is not str or type(at) not in _NUMBERS:
        raise TypeError
    if "_" in text or not math.isfinite(at):
        raise ValueError(_NO_NUMBERS)
    return Series(_labels(item), value if math.isfinite(value) else math.nan, float(at))


def matrix(result: Any, grid: Grid) -> list[Row]:
    """Return the series of a matrix on the grid; raises MalformedError, HistogramsError, OffGridError."""
    try:
        rows = [_row(item, grid) for item in result]
        if len({frozenset(row.labels.items()) for row in rows}) < len(rows):
            raise ValueError(_TWICE)
        return rows
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _judged(error, "histograms", result) from None


def _row(item: Mapping[str, Any], grid: Grid) -> Row:
    if "histograms" in item:
        raise KeyError
    times, texts = zip(*item["values"], strict=True)
    if set(map(type, texts)) != _TEXT or not set(map(type, times)) <= _NUMBERS:
        raise TypeError
    if "_" in "".join(texts) or not all(map(math.isfinite, times)):
        raise ValueError(_NO_NUMBERS)
    places, rest = np.divmod(np.rint(np.array(times, np.float64) * 1000.0) - grid.first, grid.every)
    if rest.any():
        raise OffGridError
    if places[0] < 0 or places[-1] >= grid.points or (np.diff(places) <= 0).any():
        raise ValueError
    values = np.fromiter(map(float, texts), np.float64, len(texts))
    values[~np.isfinite(values)] = np.nan
    return Row(_labels(item), places.astype(np.int64), values)


def _labels(item: Mapping[str, Any]) -> Mapping[str, str]:
    labels: dict[str, str] = item["metric"]
    if not set(map(type, labels.values())) <= _TEXT:
        raise TypeError
    return labels


def _judged(error: Exception, key: str, result: Any) -> Exception:
    """Return what a mistake in a result means."""
    if isinstance(result, Sequence) and any(isinstance(item, Mapping) and key in item for item in result):
        return HistogramsError()
    return MalformedError(str(error))
