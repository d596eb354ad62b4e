"""What is remembered of a workload when it moves: to another interval, into a checkpoint, or to another autoscaler."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from rlscaler import behavior, budget, history, overstated
from rlscaler.arrays import Array, State
from rlscaler.behavior import Behavior

PARTS = ("history", "guard", "policy", "rule")
"""What there is to remember: of the load, of what was decided, of the policy, and of the rule beside it."""


@lru_cache(1024)
def guard_bytes(behavior_of: Behavior | None, interval: float) -> int:
    """Return the bytes that the guard remembers of one workload with this behaviour, decided every `interval` seconds.

    All workloads of an autoscaler take as much as the one that needs the most.
    """
    settings = behavior.compiled([behavior_of]) | {"interval": np.array([interval])}
    return sum(array.nbytes for array in behavior.state(settings, 1).values())


def regrid(xp: Any, state: State, rows: Array, old: Array, new: Array) -> None:
    """Put the last hour's samples of the rows on the multiples of another interval, in place.

    rows: (N,) int64. old, new: (N,) seconds. Samples are repeated or dropped, and what lies beyond the ring is unknown.
    Growth, profiles and means are kept by time, so they stay.
    """
    device = getattr(state["load"], "device", None)
    seen = (state["slot"][rows] >= 0) & (old != new)
    if not bool(xp.any(seen)):
        return
    rows, old, new = rows[seen], old[seen][:, None], new[seen][:, None]
    last = state["slot"][rows][:, None]
    slot = xp.astype(xp.floor(xp.astype(last, xp.float64) * old / new + 1e-6), xp.int64)
    slots = slot - xp.arange(history.RING, device=device)[None, :]
    source = xp.astype(xp.floor(xp.astype(slots, xp.float64) * new / old + 1e-6), xp.int64)
    source = xp.minimum(xp.where(slots == slot, last, source), last)
    first = last - (history.RING - 1)
    kept = source >= first
    source = xp.maximum(source, first)
    line = rows[:, None]
    load, classes = state["load"][line, source % history.RING], state["classes"][line, source % history.RING]
    state["load"][line, slots % history.RING] = load
    state["classes"][line, slots % history.RING] = xp.where(kept, classes, -1)
    state["slot"][rows] = slot[:, 0]
    # Told in samples, so looked for anew.
    state["period"][rows] = state["period_seen"][rows] = 0


def condensed(guard: State, settings: Mapping[str, Array], time: Array) -> State:
    """Return the guard's memory with all that can matter after `time` (N,), in the narrowest form.

    Recommendations that no window of the compiled `settings` reaches any more are blanked (the newest stays), the
    rings stand oldest first. `adopted` makes of it a memory that decides the same.
    """
    window = np.maximum(settings["up_window"], settings["down_window"])
    times = guard["recommended_time"]
    lines = np.arange(len(times))
    gone = times <= (time - window)[:, None]
    gone[lines, np.clip(guard["recommended_slot"], 0, None)] = False
    blanked = {
        "recommended_time": np.where(gone, -np.inf, times),
        "recommended_high": np.where(gone, 0.0, guard["recommended_high"]),
        "recommended_low": np.where(gone, 0.0, guard["recommended_low"]),
        "recommended_size": np.full(len(times), -1, np.int64),
    }
    return behavior.resized({**guard, **blanked}, settings)


def adopted(guard: State, own: Mapping[str, Array], every: Mapping[str, Array]) -> State:
    """Return the guard's memory of rows with the compiled settings `own`, as wide as those of `every` row ask for.

    A memory that was kept before stated capacities were doubted doubts none, and one from before objectives were kept
    has seen nothing late.
    """
    n = len(own["interval"])
    guard = overstated.state(n) | budget.state(n) | dict(guard)
    joined = {}
    for name in ("interval", "up_window", "down_window", "up_period", "down_period"):
        joined[name] = np.concatenate([own[name], every[name]])
    return behavior.resized(guard, joined)


def require_alike(what: str, found: State, expected: State, n: int) -> None:
    """Raise ValueError unless `found` holds the arrays of `expected`, with n rows of the same shape and type."""
    mine = {name: ((n, *array.shape[1:]), array.dtype) for name, array in expected.items()}
    theirs = {name: (array.shape, array.dtype) for name, array in found.items()}
    for name in sorted(mine.keys() | theirs.keys()):
        here, there = mine.get(name), theirs.get(name)
        if here != there:
            raise ValueError(f"the memory of the {what} has {_shown(there)} for {name}; expected {_shown(here)}")


def _shown(kind: tuple[Any, Any] | None) -> str:
    return "nothing" if kind is None else f"{kind[1]} of shape {kind[0]}"
