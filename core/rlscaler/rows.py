"""Rows of arrays that come and go: every array has the workloads as first axis, freed rows are used again."""

from collections.abc import Iterator, Mapping

import numpy as np

from rlscaler.arrays import Array, State


def widened(array: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return `array` with its trailing axes padded by zeros to those of `like`, where they are shorter."""
    if array.shape[1:] == like.shape[1:]:
        return array
    pad = [(0, 0)] + [(0, max(0, b - a)) for a, b in zip(array.shape[1:], like.shape[1:], strict=True)]
    return np.pad(array, pad) if any(after for _, after in pad) else array


def stacked(first: State, second: State) -> State:
    """Return the rows of `second` after those of `first`, padding the shorter trailing axes by zeros."""
    return {
        name: np.concatenate([widened(first[name], second[name]), widened(second[name], first[name])]) for name in first
    }


def taken(state: State, rows: np.ndarray | None) -> State:
    """Return those rows (None: all of them, the arrays themselves)."""
    return state if rows is None else {name: array[rows] for name, array in state.items()}


def put(state: State, rows: np.ndarray | None, new: State) -> None:
    """Write `new` into those rows of `state` (None: replace the arrays)."""
    if rows is None:
        state.update(new)
        return
    for name, array in new.items():
        state[name][rows] = array


class Picked(Mapping[str, Array]):
    """Some rows of named arrays, picked when they are asked for: most policies look at few of many."""

    def __init__(self, arrays: Mapping[str, Array], rows: Array) -> None:
        """Pick `rows` (indices, repetition allowed; or a single index, without its axis) of every array."""
        self._arrays: Mapping[str, Array] = arrays
        self._rows: Array = rows
        if isinstance(arrays, Picked) and _listed(rows) and _listed(arrays._rows):
            self._arrays, self._rows = arrays._arrays, arrays._rows[rows]  # one pick of each array instead of two
        self._seen: State = {}

    def __getitem__(self, name: str) -> Array:
        """Return the rows of one array."""
        if name not in self._seen:
            self._seen[name] = self._arrays[name][self._rows]
        return self._seen[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._arrays)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._arrays)


def _listed(rows: Array) -> bool:
    return isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype.kind == "i"
