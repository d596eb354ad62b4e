"""Arrays of either library: the decision and the world run on NumPy and on torch from one source.

A function takes its namespace from its arguments (``xp = namespace(x)``) and stays inside the array API
standard plus integer-array indexing, which both libraries read and write alike.
"""

from typing import Any

import array_api_compat
import numpy as np

Array = Any
"""An array of NumPy or torch; the docstrings give shape, dtype and unit."""

State = dict[str, Array]
"""Named arrays whose first axis is the workloads. Functions that step a state own it and may write in place."""


def namespace(*arrays: Array) -> Any:
    """Return the array namespace of the arguments (NumPy's own where all are NumPy arrays or scalars)."""
    for array in arrays:
        if not isinstance(array, (np.ndarray, np.generic, float, int, bool)):
            return array_api_compat.array_namespace(array)
    return np


def column(value: Any, n: int, dtype: Any = np.float64) -> np.ndarray:
    """Return `value` (scalar or (n,)) as a fresh NumPy array of shape (n,).

    Raises ValueError where the shape is neither.
    """
    array = np.asarray(value, dtype=dtype)
    if array.shape not in ((), (n,)):
        raise ValueError(f"expected a scalar or {n} values, one for each workload; got shape {array.shape}")
    return np.array(np.broadcast_to(array, (n,)))
