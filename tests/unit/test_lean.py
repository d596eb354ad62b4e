"""The lean namespace: what it says is what NumPy says, to the bit."""

from typing import Any

import numpy as np
import pytest

from rlscaler.lean import NUMPY, is_numpy

MATRIX = np.array([[1.5, np.nan, -0.0], [-2.5, np.inf, 0.5]], np.float32)
WHOLE = np.array([[3, 1, 2], [6, 5, 4]])
FLAGS = np.array([[True, False, True], [True, True, True]])
LINE = np.array([0.0, 1.0, 2.0])

CALLS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "all": ("all", (FLAGS,), {}),
    "all of rows": ("all", (FLAGS,), {"axis": 1}),
    "any": ("any", (FLAGS,), {}),
    "any of columns": ("any", (FLAGS,), {"axis": 0}),
    "argmax": ("argmax", (WHOLE,), {"axis": 1}),
    "astype": ("astype", (WHOLE, np.float32), {}),
    "clip below": ("clip", (MATRIX, 0.0, None), {}),
    "clip above": ("clip", (MATRIX, None, 1.0), {}),
    "clip both": ("clip", (MATRIX, -1.0, 1.0), {}),
    "cumulative sum": ("cumulative_sum", (MATRIX,), {"axis": 1}),
    "flip": ("flip", (MATRIX,), {"axis": 1}),
    "max": ("max", (MATRIX,), {"axis": 1}),
    "max of all": ("max", (WHOLE,), {}),
    "min, axis kept": ("min", (MATRIX,), {"axis": 0, "keepdims": True}),
    "nonzero": ("nonzero", (FLAGS,), {}),
    "repeat": ("repeat", (LINE, 2), {}),
    "reshape": ("reshape", (WHOLE, (-1,)), {}),
    "round halves": ("round", (np.array([0.5, 1.5, -0.5]),), {}),
    "round whole numbers": ("round", (WHOLE,), {}),
    "searchsorted": ("searchsorted", (LINE, np.array([1.0, np.nan])), {"side": "right"}),
    "stack, first axis": ("stack", ([LINE, LINE],), {"axis": 0}),
    "stack, second axis": ("stack", ([LINE, LINE],), {"axis": 1}),
    "stack, last axis": ("stack", ([MATRIX, MATRIX],), {"axis": -1}),
    "sum": ("sum", (MATRIX,), {"axis": 0}),
    "sum of small numbers": ("sum", (FLAGS.astype(np.uint8),), {"axis": 1, "dtype": np.uint8}),
    "take": ("take", (WHOLE, np.array([2, 0])), {"axis": 1}),
    "zeros like": ("zeros_like", (WHOLE,), {}),
    "zeros like, of another kind": ("zeros_like", (WHOLE,), {"dtype": np.bool}),
    "what is NumPy's own": ("where", (FLAGS, WHOLE, 0), {}),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_it_says_what_numpy_says(call: tuple[str, tuple[Any, ...], dict[str, Any]]) -> None:
    name, arguments, named = call
    found, expected = (np.asarray(getattr(xp, name)(*arguments, **named)) for xp in (NUMPY, np))
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


def test_which_namespaces_are_numpy() -> None:
    assert is_numpy(np)
    assert is_numpy(NUMPY)
    assert not is_numpy(object())
