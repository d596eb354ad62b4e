"""What stands between any proposal and the cluster, the same in training, dry-run, backtest and cluster.

In this order: a proposal that is no number, or whose input lies outside the training range, gives way to the rule; a
stated capacity that is too high; the reactive floor; patience; unknown metrics hold, then the stated fallback;
tolerance; the flap budget; then `behavior` (stabilisation, policies) and the bounds as in autoscaling/v2. Every change
it makes is a reason.
"""

from typing import Any

import numpy as np

from rlscaler import behavior, overstated
from rlscaler.arrays import Array, State
from rlscaler.policy import Proposal, View
from rlscaler.reasons import Reason

SATURATED = 0.97
"""Share of the ready capacity from which a counter of completions is read as "at least this much"."""
SATURATED_GROWTH = 1.25
"""Factor by which the floor raises the ready replicas of a saturated workload at each decision."""
_HOLD, _REPLICAS, _IF_HIGHER, _IF_LOWER = range(4)


def state(settings: State, n: int) -> State:
    """Return the guard's memory of n workloads that it has never seen (settings: of all rows, for ring sizes)."""
    own = {
        "lost_since": np.full(n, np.nan),
        "peak": np.full(n, -np.inf),
        "peak_time": np.full(n, -np.inf),
        "next": np.full(n, -np.inf),
        "next_time": np.full(n, -np.inf),
        "direction": np.zeros(n, np.int8),
        "flaps": np.zeros(n),
        "flaps_time": np.full(n, np.nan),
    }
    return own | overstated.state(n) | behavior.state(settings, n)


def patient(xp: Any, state: State, time: Array, wanted: Array, patience: Array) -> Array:
    """Return the largest proposal within the patience, in place on `state`.

    The largest and the largest since are remembered: exact unless more than two successively lower peaks lie
    within one patience, and then never above the true maximum.
    """
    peak, peak_time, after, after_time = (state[k] for k in ("peak", "peak_time", "next", "next_time"))
    expired = time - peak_time > patience
    peak, peak_time = xp.where(expired, after, peak), xp.where(expired, after_time, peak_time)
    after = xp.where(expired, -xp.inf, after)
    expired = time - peak_time > patience
    rise = (wanted >= peak) | expired
    peak, peak_time = xp.where(rise, wanted, peak), xp.where(rise, time, peak_time)
    second = ~rise & (wanted >= after)
    after = xp.where(rise, -xp.inf, xp.where(second, wanted, after))
    after_time = xp.where(second, time, after_time)
    state |= {"peak": peak, "peak_time": peak_time, "next": after, "next_time": after_time}
    return peak


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
