"""When two states of a contest's rows are the same for all that is to come, whatever else they remember.

Rings of different ages, events that no window holds any more and peaks of nothing are no difference.
"""

import math
from collections.abc import Mapping

import numpy as np

from rlscaler import overstated
from rlscaler.arrays import State
from rlscaler.guard import in_order
from rlscaler.policy import Policy
from rlscaler.rules.keda import Keda
from rlscaler.tenured import Tenured
from rlscaler_sim.contest import Schedule


def same(a: State, b: State, axis: int = 0) -> np.ndarray:
    """Return where all arrays are equal, (rows,) bool; NaN equals NaN. axis: of the rows."""
    each = []
    for name, left in a.items():
        right = b[name]
        equal = np.moveaxis(np.asarray((left == right) | ((left != left) & (right != right))), axis, 0)
        each.append(equal.reshape(equal.shape[0], -1).all(axis=1))
    found: np.ndarray = np.logical_and.reduce(each)
    return found


def same_policy(policy: Policy, a: State, b: State, settings: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return where a policy remembers the same, (rows,) bool; None where it remembers nothing that counts."""
    if not a or isinstance(policy, Schedule):  # whose step follows from the time
        return None
    if isinstance(policy, Tenured) and policy.advisory:  # which tells who would have the say, and decides without
        return None
    equal = same(a, b)
    # KEDA's looks at activity decide nothing unless it scales to zero
    return equal | (settings["min_replicas"] > 0.0) if isinstance(policy, Keda) else equal


def same_guard(a: State, b: State, settings: Mapping[str, np.ndarray], time: np.ndarray) -> np.ndarray:
    """Return where the guard's memory is the same for decisions from `time` (rows,) on, (rows,) bool.

    The direction of the last change is left out: see `turned`.
    """
    return same(_guard(a, settings, time), _guard(b, settings, time))


def turned(state: State, settings: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the direction of the last change (rows,) int8 where it counts, 0 elsewhere."""
    found: np.ndarray = np.where(np.isfinite(settings["flap_budget"]), state["direction"], 0).astype(np.int8)
    return found


def _guard(state: State, settings: Mapping[str, np.ndarray], time: np.ndarray) -> State:
    """Return what the guard's memory says from `time` on, in one form for all that say the same."""
    budget = settings["flap_budget"]
    limited = np.isfinite(budget)
    elapsed = np.where(np.isnan(state["flaps_time"]), 0.0, time - state["flaps_time"])
    leaked = np.clip(state["flaps"] - elapsed * np.where(limited, budget, 0.0) / 3600.0, 0.0, None)
    kept, kept_time = in_order(state["kept"], state["kept_time"])
    out = {
        "lost_since": state["lost_since"],
        "kept": kept,
        "kept_time": kept_time,
        "flaps": np.where(limited, leaked, 0.0),
        "seen": state["recommended_start"] > -np.inf,
    }
    for name, fresh in overstated.state(1).items():
        doubted = settings["floor"].reshape(-1, *[1] * (fresh.ndim - 1))
        out[name] = np.where(doubted, state[name], fresh)
    window = np.maximum(settings["up_window"], settings["down_window"])
    recent = state["recommended_time"] > (time - window)[:, None]
    order = np.argsort(np.where(recent, state["recommended_time"], -np.inf), axis=1, kind="stable")
    for name in ("time", "high", "low"):
        values = np.where(recent, state[f"recommended_{name}"], -np.inf)
        out[f"recommended_{name}"] = np.take_along_axis(values, order, axis=1)
    out["recommended_start"] = np.where(window > 0.0, state["recommended_start"], 0.0)

    if settings["up_period"].shape[1]:
        up, down = settings["up_period"].max(axis=1), settings["down_period"].max(axis=1)
        # an event that one direction has forgotten lies where it may be overwritten, which the other would notice
        orderly = up == down
        times, changes = state["scaled_time"], state["scaled_change"]
        held = times >= (time - np.maximum(up, down))[:, None, None]
        order = np.argsort(np.where(held, times, -np.inf), axis=2, kind="stable")
        for name, values in (("time", times), ("change", changes)):
            sorted_values = np.take_along_axis(np.where(held, values, -np.inf), order, axis=2)
            out[f"scaled_{name}"] = np.where(orderly[:, None, None], sorted_values, values)
        out["scaled_count"] = np.where(orderly[:, None], 0, state["scaled_count"])
        pending = ~np.isnan(state["pending_to"])
        for name in ("time", "from", "to"):
            out[f"pending_{name}"] = np.where(pending, state[f"pending_{name}"], math.nan)
    return out
