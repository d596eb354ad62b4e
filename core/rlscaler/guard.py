"""What stands between any proposal and the cluster, the same in training, dry-run, backtest and cluster.

In this order: a proposal that is no number, or whose input lies outside the training range, gives way to the rule; a
stated capacity that is too high; an objective that is not kept; the reactive floor; patience; unknown metrics hold,
then the stated fallback; tolerance; the flap budget; then `behavior` (stabilisation, policies) and the bounds as in
autoscaling/v2. Every change it makes is a reason.
"""

from typing import Any

import numpy as np

from rlscaler import behavior, budget, overstated
from rlscaler.arrays import Array, State
from rlscaler.policy import Proposal, View
from rlscaler.reasons import Reason

SATURATED = 0.97
"""Share of the ready capacity from which a counter of completions is read as "at least this much"."""
SATURATED_GROWTH = 1.25
"""Factor by which the floor raises the ready replicas of a saturated workload at each decision."""
KEPT = 6
"""Proposals of a workload that patience has in mind at once."""
_EARLY = 0.5
"""Seconds by which a decision may come before its interval is over."""
_HOLD, _REPLICAS, _IF_HIGHER, _IF_LOWER = range(4)


def state(settings: State, n: int) -> State:
    """Return the guard's memory of n workloads that it has never seen (settings: of all rows, for ring sizes)."""
    own = {
        "lost_since": np.full(n, np.nan),
        "direction": np.zeros(n, np.int8),
        "flaps": np.zeros(n),
        "flaps_time": np.full(n, np.nan),
    }
    return own | added_since(n) | behavior.state(settings, n)


def added_since(n: int) -> State:
    """Return those parts of the memory of n workloads that a memory kept by an older version may lack."""
    return unkept(n) | overstated.state(n) | budget.state(n)


def unkept(n: int, *more: int, dtype: Any = np.float64) -> State:
    """Return what `patient` remembers before there is any proposal: kept, kept_time (n, KEPT, *more)."""
    return {name: np.full((n, KEPT, *more), -np.inf, dtype) for name in ("kept", "kept_time")}


def patient(xp: Any, state: State, time: Array, wanted: Array, patience: Array) -> Array:
    """Return the largest proposal (N, ...) within the patience (seconds, its end included), in place on `state`.

    Remembered is what no later proposal has reached, and of that what lies a (KEPT - 1)th of the patience apart: exact
    up to a patience of KEPT - 1 intervals. In a longer one what falls steadily may be kept for that part of it less,
    and nothing is ever kept that was not proposed within the patience.
    """
    values = [state["kept"][:, slot] for slot in range(KEPT)]
    times = [state["kept_time"][:, slot] for slot in range(KEPT)]
    asked, apart = xp.astype(wanted, values[0].dtype), patience / (KEPT - 1) - _EARLY
    largest, full, live = xp.full_like(asked, -xp.inf), xp.zeros_like(asked, dtype=xp.bool), []
    # A slot at a time: on arrays of all slots NumPy takes nearly twice as long.
    for slot in range(KEPT):
        age = time - times[slot]
        live.append((values[slot] > asked) & (age <= patience))
        values[slot] = xp.where(live[slot], values[slot], -xp.inf)
        largest = xp.maximum(largest, values[slot])
        full = full | (live[slot] & (age < apart))
    for slot in range(KEPT):
        put = ~(live[slot] | full)
        values[slot], times[slot] = xp.where(put, asked, values[slot]), xp.where(put, time, times[slot])
        full = full | put
    state["kept"], state["kept_time"] = xp.stack(values, axis=1), xp.stack(times, axis=1)
    return xp.maximum(wanted, xp.astype(largest, wanted.dtype))


def in_order(values: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what `patient` remembers, or ages for times, (n, KEPT, ...), in one form for all that say the same."""
    order = np.argsort(-values, axis=1, kind="stable")
    values, times = np.take_along_axis(values, order, axis=1), np.take_along_axis(times, order, axis=1)
    return values, np.where(values == -np.inf, 0.0, times)


def _floor(xp: Any, view: View, factor: Array) -> tuple[Array, Array]:
    """Return the replicas that demand and backlog need now, and where the load is saturated; 0 where unknown.

    factor: by how much the stated capacity is too high.
    """
    settings, snap = view.settings, view.snapshot
    capacity = settings["capacity_per_replica"]
    backlog = snap["backlog"] / (capacity * settings["drain_time"])
    need = factor * (view.demand + xp.where(xp.isnan(backlog), 0.0, backlog))
    ready = snap["ready"]
    busy = view.demand / xp.clip(ready, 0.5, None)
    busy = xp.where(xp.isnan(snap["utilization"]), busy, snap["utilization"])
    saturated = settings["completions"] & (busy >= SATURATED) & (ready > 0)
    need = xp.where(saturated, xp.maximum(need, SATURATED_GROWTH * ready), need)
    return xp.where(xp.isnan(need) | ~settings["floor"], 0.0, need), saturated


def _whole(xp: Any, replicas: Array) -> Array:
    """Return the replicas rounded up, forgiving the last bits of a float32 computation."""
    return xp.ceil(replicas - 1e-6 * xp.clip(replicas, 1.0, None))


def settle(xp: Any, view: View, state: State, proposal: Proposal, recommendation: Array) -> tuple[Array, Array, State]:
    """Return the decided replicas (N,) float64, the reasons (N,) int64 and the guard's state after it.

    recommendation: (N,) the fallback rule's replicas, NaN where it has none. Replicas are NaN only where the
    present count is unknown (nothing can be decided then).
    """
    settings, current, time = view.settings, view.current, view.snapshot["time"]
    bits = proposal.reasons if proposal.reasons is not None else xp.zeros(time.shape, dtype=xp.int64)

    def flag(where: Array, reason: Reason) -> Array:
        return xp.where(where, bits | int(reason), bits)

    unsized = xp.isnan(settings["capacity_per_replica"])
    known = xp.isfinite(view.demand) & xp.isfinite(view.features["level"])
    wanted = proposal.replicas
    known = known | (~settings["holds"] & xp.isfinite(wanted))
    failed = known & ~xp.isfinite(wanted)
    bits = flag(failed, Reason.PolicyFailed)
    if proposal.trained is not None:
        foreign = known & ~proposal.trained & settings["fallback"]
        bits = flag(foreign, Reason.OutOfTrainingRange)
        failed = failed | foreign
    wanted = xp.where(failed, recommendation, wanted)
    answered = known & xp.isfinite(wanted)
    wanted = xp.where(answered, wanted, current)
    wanted = xp.clip(wanted, 0.0, None)

    overstated.recorded(xp, view, state)
    factor = xp.where(settings["floor"], overstated.factor(xp, state), 1.0)
    bits = flag(known & (factor > 1.0), Reason.CapacityOverstated)
    scaled = answered & xp.isfinite(view.demand)
    scaled = scaled if proposal.relative is None else scaled & (failed | ~proposal.relative)
    wanted = xp.where(scaled, overstated.corrected(xp, wanted, view.demand, factor), wanted)

    budget.recorded(xp, view, state, factor)
    multiple = budget.multiple(xp, state, settings)
    if multiple is not None:
        bits = flag(known & (multiple > 1.0), Reason.ObjectiveMissed)
        raised = budget.raised(xp, wanted, factor * recommendation, factor * view.demand, multiple)
        wanted = xp.where(scaled, raised, wanted)

    floor, saturated = _floor(xp, view, factor)
    bits = flag(saturated & known, Reason.LoadSaturated)
    raised = known & (_whole(xp, floor) > _whole(xp, wanted))
    bits = flag(raised, Reason.ReactiveFloor)
    wanted = xp.where(raised, floor, wanted)

    if proposal.patience is not None:
        # Where nothing is wanted because the count is unknown too, nothing is remembered of it.
        asked = xp.where(xp.isnan(wanted), -xp.inf, wanted)
        kept = patient(xp, state, time, asked, proposal.patience)
        # replicas are kept, none is asked for anew: an old proposal may be one about other bounds or another capacity
        kept = xp.maximum(wanted, xp.minimum(kept, current))
        bits = flag(known & (_whole(xp, kept) > _whole(xp, wanted)), Reason.Patience)
        wanted = xp.where(known, kept, wanted)
    desired = _whole(xp, wanted)

    ratio = wanted / xp.where(current > 0, current, 1.0)
    within = (ratio >= 1.0 - settings["down_tolerance"]) & (ratio <= 1.0 + settings["up_tolerance"])
    within = within & (settings["down_tolerance"] + settings["up_tolerance"] > 0) & (current > 0) & ~raised
    if proposal.tolerated is not None:
        within = within & ~proposal.tolerated
    bits = flag(within & known & (desired != current), Reason.WithinTolerance)
    desired = xp.where(within, current, desired)

    since = xp.where(known, float("nan"), xp.where(xp.isnan(state["lost_since"]), time, state["lost_since"]))
    state["lost_since"] = since
    bits = flag(~known & ~unsized, Reason.MetricsUnknown)
    bits = flag(unsized, Reason.CapacityUnknown)
    action, stated = settings["loss_action"], settings["loss_replicas"]
    lost = ~known & ~unsized & (time - since >= settings["loss_after"]) & (action != _HOLD)
    bits = flag(lost, Reason.MetricLossFallback)
    stated = xp.where(action == _IF_HIGHER, xp.maximum(current, stated), stated)
    stated = xp.where(action == _IF_LOWER, xp.minimum(current, stated), stated)
    desired = xp.where(lost, stated, xp.where(known, desired, current))

    spent = _flaps(xp, state, time, current, desired, settings["flap_budget"])
    bits = flag(spent & (desired < current), Reason.FlapBudgetSpent)
    desired = xp.where(spent & (desired < current), current, desired)
    bits = flag(xp.isnan(current), Reason.ReplicasUnknown)

    # Where nobody has an answer the count is held, and is no recommendation that a window would remember.
    desired = xp.where(answered | raised | lost, desired, float("nan"))
    replicas, more, state = behavior.apply(xp, settings, state, time, current, desired)
    return replicas, bits | more, state


def _flaps(xp: Any, state: State, time: Array, current: Array, desired: Array, budget: Array) -> Array:
    """Return where the flap budget is spent, and count changes of direction (a bucket that leaks budget / hour)."""
    elapsed = xp.where(xp.isnan(state["flaps_time"]), 0.0, time - state["flaps_time"])
    finite = xp.where(xp.isfinite(budget), budget, 0.0)
    level = xp.clip(state["flaps"] - elapsed * finite / 3600.0, 0.0, None)
    spent = level >= budget
    move = xp.astype(desired > current, xp.int8) - xp.astype((desired < current) & ~spent, xp.int8)
    turned = (move != 0) & (state["direction"] != 0) & (move != state["direction"])
    state["flaps"] = level + xp.astype(turned, xp.float64)
    state["flaps_time"] = time + 0.0
    state["direction"] = xp.where(move != 0, move, state["direction"])
    return spent
