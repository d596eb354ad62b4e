"""The history of many rows in blocks: of one interval, and few enough that what is made of them stays in the cache."""

from collections.abc import Iterator

import numpy as np

from rlscaler import features as _features
from rlscaler import history
from rlscaler.arrays import State
from rlscaler.lean import NUMPY
from rlscaler.rows import Picked

ROWS = 1280
"""Rows of a block: for fewer the calls cost more than the arithmetic, for more the intermediate arrays do not fit."""


def record(state: State, settings: State, rows: np.ndarray, time: np.ndarray, load: np.ndarray) -> None:
    """Take in one sample for each of the rows, in place on the history `state`; see `history.record`.

    settings: compiled, of all rows. Loads that are no loads are taken as unknown.
    """
    load = np.where((load >= 0) & np.isfinite(load), load, np.nan)
    for interval, some in _blocks(settings["interval"][rows]):
        mine = rows[some]
        history.record(NUMPY, state, mine, time[some], load[some], Picked(settings, mine), interval)


def look(state: State, settings: State, rows: np.ndarray, time: np.ndarray) -> None:
    """Look for the periods of the rows, in place; see `history.refresh_period`. settings: compiled, of all rows."""
    for interval, some in _blocks(settings["interval"][rows]):
        mine = rows[some]
        history.refresh_period(NUMPY, state, mine, time[some], Picked(settings, mine), interval)


def features(state: State, settings: State, rows: np.ndarray, time: np.ndarray) -> State:
    """Return the features of the rows, see `features.features`; settings: compiled, of all rows."""
    out: State = {}
    for interval, some in _blocks(settings["interval"][rows]):
        mine = rows[some]
        part = _features.features(NUMPY, state, mine, time[some], Picked(settings, mine), interval)
        if len(mine) == len(rows):
            return part
        if not out:
            out = {name: np.empty((len(rows), *array.shape[1:]), np.float32) for name, array in part.items()}
        for name, array in part.items():
            out[name][some] = array
    return out


def _blocks(intervals: np.ndarray) -> Iterator[tuple[float, np.ndarray | slice]]:
    """Yield each interval, and the positions of a block of rows that have it."""
    if len(intervals) and (intervals == intervals[0]).all():
        for begin in range(0, len(intervals), ROWS):
            yield float(intervals[0]), slice(begin, begin + ROWS)
        return
    for interval in np.unique(intervals).tolist():
        same = np.flatnonzero(intervals == interval)
        for begin in range(0, len(same), ROWS):
            yield interval, same[begin : begin + ROWS]
