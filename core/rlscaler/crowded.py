"""The memory of `behavior`, made narrower or wider with all that is still looked back at in it.

A longer interval leaves a workload fewer slots than it has filled. To drop the oldest of them would end a stabilisation
window early and forget changes within a policy's period; so what is looked back at then shares the slots that there
are, as decisions do that come closer than half an interval.
"""

from collections.abc import Sequence
from typing import Any

from rlscaler.arrays import Array, State


def narrowed(
    xp: Any,
    state: State,
    kept: Sequence[tuple[str, float, str]],
    at: tuple[Array, ...],
    reach: Array,
    size: Array,
    apart: Array,
    width: int,
) -> State:
    """Return the arrays (..., K) that are `kept` (name, value of an empty slot, how several share one), `width` wide.

    The first of them is the times, -inf where empty; of several in a slot stays the "most", the "least" or the "sum".
    The lines `at` (M of them) then hold their `size` (M,) newest; where more than these lie within `reach` (M,) seconds
    of the newest, all of those, what comes within `apart` (M,) seconds in one slot. `reach` has no more of such spans
    than `size` less 1.
    """
    times = state[kept[0][0]][at]
    many = xp.count_nonzero(times > (xp.max(times, axis=1) - reach)[:, None], axis=1) > size
    lines, shared = tuple(each[many] for each in at), {}
    if bool(xp.any(many)):
        place = _places(xp, times[many], reach[many], size[many], apart[many])
        shared = {name: _together(xp, state[name][lines], place, width, how) for name, _, how in kept}
    columns = _newest(xp, times, size, width)
    out = {name: _relaid(xp, state[name], at, columns, empty) for name, empty, _ in kept}
    for name, empty, _ in kept:
        if name in shared:
            out[name][lines] = xp.where(xp.isnan(shared[name]), empty, shared[name])
    return out


def _places(xp: Any, times: Array, reach: Array, size: Array, apart: Array) -> Array:
    """Return (M, K) int64 each time's slot, the newest being the last of `size`; -1 = farther back than `reach`."""
    age = xp.max(times, axis=1)[:, None] - times
    place = size[:, None] - 1.0 - xp.floor(age / apart[:, None])
    return xp.astype(xp.where((age < reach[:, None]) & (place >= 0.0), place, -1.0), xp.int64)


def _together(xp: Any, values: Array, place: Array, width: int, how: str) -> Array:
    """Return (M, width) what shares each slot, of `values` (M, K) with the slots `place`; NaN = an empty slot."""
    join = {"most": xp.maximum, "least": xp.minimum, "sum": xp.add}[how]
    device = getattr(values, "device", None)
    lines = xp.arange(values.shape[0], device=device)
    found = xp.full((values.shape[0], width + 1), float("nan"), dtype=values.dtype, device=device)
    for column in range(values.shape[1]):
        at, value = place[:, column], values[:, column]
        before = found[lines, at]
        found[lines, at] = xp.where(xp.isnan(before), value, join(before, value))
    return found[:, :width]


def _newest(xp: Any, times: Array, count: Array, width: int) -> Array:
    """Return (M, width) int64 columns of the `count` newest of `times` (M, K), oldest first; -1 = none."""
    have, device = times.shape[1], getattr(times, "device", None)
    place = xp.arange(width, device=device)[None, :]
    rank = have - count[:, None] + place
    lines = xp.arange(times.shape[0], device=device)[:, None]
    columns = xp.argsort(times, axis=1)[lines, xp.clip(rank, 0, have - 1)]
    return xp.where((rank >= 0) & (place < count[:, None]), columns, -1)


def _relaid(xp: Any, old: Array, at: tuple[Array, ...], columns: Array, empty: float) -> Array:
    """Return `old` (..., K) as wide as `columns` (M, width), whose lines `at` then hold these columns."""
    device, width, array = getattr(old, "device", None), columns.shape[1], old
    if width != old.shape[-1]:
        array = xp.full((*old.shape[:-1], width), empty, dtype=old.dtype, device=device)
        kept = min(width, old.shape[-1])
        array[..., :kept] = old[..., :kept]
    lines = xp.arange(columns.shape[0], device=device)[:, None]
    array[at] = xp.where(columns >= 0, old[at][lines, columns], empty)
    return array
