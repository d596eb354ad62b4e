"""NumPy's namespace without the Python in front of its functions, for arrays so small that a call is what costs.

`numpy.clip`, `numpy.max` and their like look for overrides and check arguments in Python before they call what does the
work: two to four microseconds of a call, and one decision is two thousand calls. Here the work is called directly. The
results are NumPy's to the bit; arguments are arrays, and those that the array standard names.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

_LARGEST: Any = np.maximum.reduce
_LEAST: Any = np.minimum.reduce
_TOTAL: Any = np.add.reduce


def _astype(x: Any, dtype: Any, *, copy: bool = True) -> Any:
    return x.astype(dtype, copy=copy)


def _clip(x: Any, min: Any = None, max: Any = None) -> Any:  # noqa: A002 (the standard's names)
    if max is None:
        return np.maximum(x, min)
    return np.minimum(x, max) if min is None else x.clip(min, max)


def _max(x: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    return _LARGEST(x, axis, None, None, keepdims)


def _min(x: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    return _LEAST(x, axis, None, None, keepdims)


def _sum(x: Any, axis: Any = None, *, dtype: Any = None, keepdims: bool = False) -> Any:
    return _TOTAL(x, axis, dtype, None, keepdims)


def _any(x: Any, axis: Any = None) -> Any:
    return np.logical_or.reduce(x, axis)


def _all(x: Any, axis: Any = None) -> Any:
    return np.logical_and.reduce(x, axis)


def _cumulative_sum(x: Any, *, axis: int) -> Any:
    return np.add.accumulate(x, axis)


def _flip(x: Any, axis: int) -> Any:
    return x[(slice(None),) * axis + (slice(None, None, -1),)]


def _stack(arrays: Any, axis: int = 0) -> Any:
    place = (..., None) if axis == -1 else (slice(None),) * axis + (None,)
    return np.concatenate([array[place] for array in arrays], axis=axis)


def _round(x: Any, decimals: int = 0) -> Any:
    return x.round(decimals)


def _reshape(x: Any, shape: Any) -> Any:
    return x.reshape(shape)


def _searchsorted(x1: Any, x2: Any, side: str = "left") -> Any:
    return x1.searchsorted(x2, side)


def _repeat(x: Any, repeats: Any, axis: Any = None) -> Any:
    return x.repeat(repeats, axis)


def _zeros_like(x: Any, dtype: Any = None) -> Any:
    return np.zeros(x.shape, x.dtype if dtype is None else dtype)


def _nonzero(x: Any) -> Any:
    return x.nonzero()


def _take(x: Any, indices: Any, axis: Any = None) -> Any:
    return x.take(indices, axis)


def _argmax(x: Any, axis: Any = None) -> Any:
    return x.argmax(axis)


NUMPY = SimpleNamespace(**{name: getattr(np, name) for name in np.__all__})
"""The namespace: all of NumPy's names, those above in its own form."""
vars(NUMPY).update(
    all=_all, any=_any, argmax=_argmax, astype=_astype, clip=_clip, cumulative_sum=_cumulative_sum, flip=_flip,
    max=_max, min=_min, nonzero=_nonzero, repeat=_repeat, reshape=_reshape, round=_round, searchsorted=_searchsorted,
    stack=_stack, sum=_sum, take=_take, zeros_like=_zeros_like,
)  # fmt: skip


def is_numpy(xp: Any) -> bool:
    """Return whether arrays of the namespace are NumPy's."""
    return xp is NUMPY or xp is np
