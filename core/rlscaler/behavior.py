"""HPA v2 `behavior` for N workloads: stabilisation windows, then scaling policies, then the bounds.

A user who knows what an autoscaling/v2 HorizontalPodAutoscaler would do with a recommendation must find the
same here to the replica, so the rules follow kubernetes/pkg/controller/podautoscaler/horizontal.go (v1.37),
whose functions are named where they are restated: cut-offs, rounding and the reuse of outdated event slots
included. Assumed: replica counts are whole numbers, time never runs backwards, and a workload is decided on
no more often than twice per interval (closer decisions share a slot, see `apply`).

Not copied: the wrap-around of int32 (a policy of 2147483647 Pods forbids to scale up there, here it allows
all), and the condition `ScaledToZero` of the HPAScaleToZero feature gate, by which a target at 0 is scaled up
again only if the HPA had scaled it down to 0: here minReplicas alone decides whether a target at 0 is left alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rlscaler.arrays import Array, State, namespace
from rlscaler.crowded import narrowed
from rlscaler.reasons import Reason

PolicyType = Literal["Pods", "Percent"]
SelectPolicy = Literal["Max", "Min", "Disabled"]

POLICY_TYPES: tuple[PolicyType, ...] = ("Pods", "Percent")
SELECT_POLICIES: tuple[SelectPolicy, ...] = ("Max", "Min", "Disabled")
LONGEST_WINDOW, LONGEST_PERIOD = 3600.0, 1800.0
"""Seconds that the API server allows for a stabilisation window and for the period of a policy."""
TOLERANCE = 0.1
"""--horizontal-pod-autoscaler-tolerance, used where a behaviour names none."""
MOST_SLOTS, MOST_EVENTS = 1800, 900
"""Recommendations and scale events of a workload that are told apart: all of the longest window and period at an
interval of 4 s. The memory of all workloads is as wide as the widest, so no single one may ask for more.
"""
_MAX, _MIN, _DISABLED, _NO_LIMIT = range(4)
"""Codes of the select policies, and of a direction without policies."""


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """How much the replica count may change within a period (HPAScalingPolicy).

    type: value counts "Pods", or "Percent" of the replicas at the start of the period. period: seconds.
    Raises ValueError for what the API server refuses.
    """

    type: PolicyType
    value: int
    period: float

    def __post_init__(self) -> None:
        """Raise ValueError where a value is out of range."""
        _require(self.type in POLICY_TYPES, "policy type", self.type, "Pods or Percent")
        _require(self.value > 0, "policy value", self.value, "a whole number above 0")
        _require(0.0 < self.period <= LONGEST_PERIOD, "policy period", self.period, "1 to 1800 seconds")


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """Rules of one direction (HPAScalingRules), every field filled in.

    window: seconds of recommendations that are looked back at. select: the policy that allows the most
    change, the least, or no change at all in this direction. policies: none = no limit (which the API server
    refuses). tolerance: share by which the metric may be off before anything changes; None = `TOLERANCE`.
    Raises ValueError for what the API server refuses otherwise.
    """

    window: float
    select: SelectPolicy
    policies: tuple[ScalingPolicy, ...]
    tolerance: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError where a value is out of range."""
        _require(0.0 <= self.window <= LONGEST_WINDOW, "window", self.window, "0 to 3600 seconds")
        _require(self.select in SELECT_POLICIES, "selectPolicy", self.select, "Max, Min or Disabled")
        share = TOLERANCE if self.tolerance is None else self.tolerance
        _require(0.0 <= share < math.inf, "tolerance", share, "0 or more, such as 0.1")


def _require(ok: bool, name: str, value: object, expected: str) -> None:
    if not ok:
        raise ValueError(f"behavior {name} is {value!r}; expected {expected}")


@dataclass(frozen=True, slots=True)
class Behavior:
    """autoscaling/v2 HorizontalPodAutoscalerBehavior with its defaults written out."""

    up: ScalingRules
    down: ScalingRules


DEFAULT = Behavior(
    up=ScalingRules(0.0, "Max", (ScalingPolicy("Pods", 4, 15.0), ScalingPolicy("Percent", 100, 15.0))),
    down=ScalingRules(300.0, "Max", (ScalingPolicy("Percent", 100, 15.0),)),
)
"""What Kubernetes fills in (pkg/apis/autoscaling/v2/defaults.go)."""

IMMEDIATE = Behavior(up=ScalingRules(0.0, "Max", (), 0.0), down=ScalingRules(0.0, "Max", (), 0.0))
"""No window, no limit, no tolerance: the policy alone decides."""

_STABILIZED_UP, _STABILIZED_DOWN = int(Reason.ScaleUpStabilized), int(Reason.ScaleDownStabilized)
_UP_LIMIT, _DOWN_LIMIT = int(Reason.ScaleUpLimit), int(Reason.ScaleDownLimit)
_TOO_MANY, _TOO_FEW = int(Reason.TooManyReplicas), int(Reason.TooFewReplicas)
_OFF = int(Reason.ScalingDisabled)


def compiled(behaviors: Sequence[Behavior | None]) -> State:
    """Return the behaviours of N workloads as arrays; None = `IMMEDIATE`.

    {up,down}_window: (N,) float64 seconds. {up,down}_tolerance: (N,) float64.
    {up,down}_select: (N,) int64 index into `SELECT_POLICIES`, or 3 where the direction has no limit.
    rate_limited: (N,) bool, some direction has a limit.
    {up,down}_{period,factor,addend}: (N, P) float64, one column a policy, which allows
    replicas at the start of the period * factor + addend; zeros = no policy, so that rows of several calls
    can be joined by padding with zeros. P is 0 where no workload is limited.
    """
    distinct = list(dict.fromkeys(behaviors))
    chosen = [IMMEDIATE if behavior is None else behavior for behavior in distinct]
    places = {behavior: place for place, behavior in enumerate(distinct)}
    index = np.array([places[behavior] for behavior in behaviors], np.int64)
    directions = (("up", 1.0, [b.up for b in chosen]), ("down", -1.0, [b.down for b in chosen]))
    limited = [[bool(r.policies) or r.select == "Disabled" for r in rules] for _, _, rules in directions]
    out: State = {"rate_limited": np.array(limited, bool).any(axis=0)}
    narrowest = int(np.any(limited))
    for name, sign, rules in directions:
        out[f"{name}_window"] = np.array([r.window for r in rules], np.float64)
        out[f"{name}_select"] = np.array([_select(r) for r in rules], np.int64)
        tolerances = [TOLERANCE if r.tolerance is None else r.tolerance for r in rules]
        out[f"{name}_tolerance"] = np.array(tolerances, np.float64)
        width = max([narrowest, *(len(r.policies) for r in rules)])
        table = np.zeros((len(rules), width, 3))
        for row, r in enumerate(rules):
            for place, policy in enumerate(r.policies):
                table[row, place] = _linear(policy, sign)
        for column, key in enumerate(("period", "factor", "addend")):
            out[f"{name}_{key}"] = table[:, :, column]
    return {key: array[index] for key, array in out.items()}


def _linear(policy: ScalingPolicy, sign: float) -> tuple[float, float, float]:
    """Return (period, factor, addend), in the controller's order of operations, so that rounding agrees."""
    if policy.type == "Percent":
        return policy.period, 1.0 + sign * (policy.value / 100.0), 0.0
    return policy.period, 1.0, sign * policy.value


def _select(rules: ScalingRules) -> int:
    return SELECT_POLICIES.index(rules.select) if rules.policies or rules.select == "Disabled" else _NO_LIMIT


def state(settings: Mapping[str, Array], n: int) -> State:
    """Return the fresh memory of n workloads, as wide as the compiled `settings` of any rows ask for.

    recommended_{time,high,low}: (n, K) float64, a ring of recommendations: when (-inf = empty), the highest
    and the lowest of that slot.
    recommended_{slot,start,size}: (n,) the newest slot; when it was begun (-inf: the workload has not been
    seen); the slots that `resized` last gave the workload.
    scaled_{time,change}: (n, 2, E) float64, events of scaling up and down: when (-inf = empty) and the change
    of replicas, negative for down. scaled_count: (n, 2) int64 slots in use.
    pending_{time,from,to}: (n,) float64, the last decision whose write is not seen yet (to is NaN: none).
    """
    xp, device = namespace(settings["up_window"]), getattr(settings["up_window"], "device", None)
    slots, events = _widths(xp, settings)

    def full(shape: tuple[int, ...], value: float) -> Array:
        return xp.full(shape, value, dtype=xp.float64, device=device)

    return {
        "recommended_time": full((n, slots), -math.inf),
        "recommended_high": full((n, slots), 0.0),
        "recommended_low": full((n, slots), 0.0),
        "recommended_slot": xp.full((n,), -1, dtype=xp.int64, device=device),
        "recommended_start": full((n,), -math.inf),
        "recommended_size": xp.zeros((n,), dtype=xp.int64, device=device),
        "scaled_time": full((n, 2, events), -math.inf),
        "scaled_change": full((n, 2, events), 0.0),
        "scaled_count": xp.zeros((n, 2), dtype=xp.int64, device=device),
        "pending_time": full((n,), math.nan),
        "pending_from": full((n,), math.nan),
        "pending_to": full((n,), math.nan),
    }


def _slots(xp: Any, settings: Mapping[str, Array]) -> Array:
    """Return (N,) int64: recommendations, begun `_apart` seconds apart, that a window can hold."""
    window = xp.maximum(settings["up_window"], settings["down_window"])
    return xp.astype(xp.ceil(xp.clip(2.0 * window / settings["interval"], None, MOST_SLOTS)), xp.int64) + 3


def _apart(xp: Any, settings: Mapping[str, Array]) -> Array:
    """Return (N,) seconds from the beginning of one recommendation's slot to that of the next."""
    window = xp.maximum(settings["up_window"], settings["down_window"])
    return xp.maximum(0.5 * settings["interval"], window / MOST_SLOTS)


def _events(xp: Any, settings: Mapping[str, Array]) -> Array:
    """Return (N,) int64: scale events of one direction that the longest period can hold, or that are told apart."""
    longest = xp.maximum(_longest(xp, settings, "up"), _longest(xp, settings, "down"))
    return xp.astype(xp.ceil(xp.clip(2.0 * longest / settings["interval"], None, MOST_EVENTS)), xp.int64) + 3


def _longest(xp: Any, settings: Mapping[str, Array], name: str) -> Array:
    """Return (N,) seconds: getLongestPolicyPeriod of one direction."""
    period = settings[f"{name}_period"]
    return xp.max(period, axis=1) if period.shape[1] else xp.zeros_like(settings["up_window"])


def _widths(xp: Any, settings: Mapping[str, Array]) -> tuple[int, int]:
    if settings["up_window"].shape[0] == 0:
        return 3, 3
    return int(xp.max(_slots(xp, settings))), int(xp.max(_events(xp, settings)))


def resized(state: State, settings: Mapping[str, Array]) -> State:
    """Return the memory as wide as the compiled `settings` ask for, with all that still matters in it.

    settings: of the rows of `state` in their order, and of any further rows behind them. Call it whenever
    settings change. A workload uses only as many slots as its own settings ask for, so the width, and with it
    the other workloads, decide nothing. Other keys of `state` are kept.
    """
    xp, n = namespace(state["recommended_time"]), state["recommended_time"].shape[0]
    slots, events = _widths(xp, settings)
    size, room = _slots(xp, settings)[:n], _events(xp, settings)[:n]
    out = dict(state)
    changed = state["recommended_size"] != size
    at = xp.nonzero(changed)
    window = xp.maximum(settings["up_window"], settings["down_window"])[:n]
    hows = (("time", -math.inf, "most"), ("high", 0.0, "most"), ("low", 0.0, "least"))
    kept = [(f"recommended_{key}", empty, how) for key, empty, how in hows]
    out |= narrowed(xp, state, kept, at, window[at], size[at], _apart(xp, settings)[at], slots)
    out["recommended_slot"] = xp.where(changed, size - 1, state["recommended_slot"])
    out["recommended_size"] = size

    count = xp.minimum(state["scaled_count"], room[:, None])
    at = xp.nonzero(state["scaled_count"] > count)
    period = xp.maximum(_longest(xp, settings, "up"), _longest(xp, settings, "down"))[at[0]]
    apart = xp.maximum(0.5 * settings["interval"][at[0]], period / MOST_EVENTS)
    kept = [("scaled_time", -math.inf, "least"), ("scaled_change", 0.0, "sum")]
    out |= narrowed(xp, state, kept, at, period, count[at], apart, events)
    out["scaled_count"] = count
    return out


def apply(
    xp: Any, settings: Mapping[str, Array], state: State, time: Array, current: Array, desired: Array
) -> tuple[Array, Array, State]:
    """Return the replicas that HPA would write for the desired ones, why, and the memory after it.

    settings: compiled settings with min_replicas, max_replicas and interval. time: (N,) float64 seconds.
    current: (N,) float64, replicas that the target asks for now; NaN = unknown: nothing is decided.
    desired: (N,) float64, whole; NaN = no recommendation: held, and nothing is remembered of it.
    Returns replicas (N,) float64 (NaN where current is), bits of `Reason` (N,) int64, and the memory, whose
    arrays are written in place.

    reconcileAutoscaler, normalizeDesiredReplicasWithBehaviors: a target at 0 with min_replicas above 0 is
    left alone; a target outside of its bounds goes to the bound at once; else stabilise, rate-limit, then the
    bounds. The first sight of a workload counts as a recommendation of its current replicas
    (recordInitialRecommendation).

    A decision becomes a scale event once the target is seen to have changed; where `current` is still what it
    was before the decision, the write did not land and there is no event (HPA stores successful rescales
    only). Decisions less than half an interval apart share a slot: of recommendations the highest and the
    lowest stay until the latest expires, events count from the first. So what is looked back at is off by
    less than half an interval there, and exact elsewhere, up to `MOST_SLOTS` recommendations in a window and
    `MOST_EVENTS` changes in a period; where there are more, slots are a `MOST_SLOTS`th of the window apart, and
    further events count from the last that is told apart.
    """
    low, high = settings["min_replicas"], settings["max_replicas"]
    known = xp.isfinite(current)
    state = dict(state)
    unseen = known & (state["recommended_start"] == -math.inf)
    if bool(xp.any(unseen)):
        _remember(xp, settings, state, unseen, time, current)
    _store_scale_events(xp, settings, state, current, known)

    off = (current == 0.0) & (low > 0.0)
    above, below = current > high, (current < low) & ~off
    steered = known & xp.isfinite(desired) & ~(off | above | below)
    stable = _stabilized(xp, settings, state, time, current, desired)
    top, bottom, over, under = high, low, _TOO_MANY, _TOO_FEW
    if settings["up_period"].shape[1]:
        most, least = _rate_limits(xp, settings, state, time, current)
        over = xp.where(high > most, _UP_LIMIT, _TOO_MANY)
        under = xp.where(low < least, _DOWN_LIMIT, _TOO_FEW)
        top, bottom = xp.minimum(high, most), xp.maximum(low, least)
    replicas = xp.minimum(xp.maximum(stable, bottom), top)
    stabilized = xp.where(desired >= current, _STABILIZED_UP, _STABILIZED_DOWN)
    reasons = xp.where(stable > top, over, 0) + xp.where(stable < bottom, under, 0)
    reasons = reasons + xp.where(stable != desired, stabilized, 0)
    if not bool(xp.all(steered)):
        replicas = xp.where(steered, replicas, xp.where(above, high, xp.where(below, low, current)))
        held = xp.where(above, _TOO_MANY, xp.where(below, _TOO_FEW, xp.where(off, _OFF, 0)))
        reasons = xp.where(steered, reasons, held)

    _remember(xp, settings, state, steered, time, desired)
    moved = known & settings["rate_limited"] & (replicas != current)
    state["pending_time"] = xp.where(moved, time, state["pending_time"])
    state["pending_from"] = xp.where(moved, current, state["pending_from"])
    state["pending_to"] = xp.where(moved, replicas, xp.where(known, math.nan, state["pending_to"]))
    return replicas, reasons, state


def _remember(xp: Any, settings: Mapping[str, Array], state: State, mask: Array, time: Array, value: Array) -> None:
    """Add a recommendation (N,) to the rings of the rows in `mask`; a young newest slot is shared."""
    rows, size = xp.arange(mask.shape[0], device=getattr(time, "device", None)), _slots(xp, settings)
    fresh = time - state["recommended_start"] >= _apart(xp, settings)
    if not bool(xp.all(mask)):
        rows = rows[mask]
        fresh, time, value, size = fresh[mask], time[mask], value[mask], size[mask]
    slot = (state["recommended_slot"][rows] + xp.astype(fresh, xp.int64)) % size
    highest, lowest, start = value, value, time
    if not bool(xp.all(fresh)):
        highest = xp.where(fresh, value, xp.maximum(value, state["recommended_high"][rows, slot]))
        lowest = xp.where(fresh, value, xp.minimum(value, state["recommended_low"][rows, slot]))
        start = xp.where(fresh, time, state["recommended_start"][rows])
    state["recommended_slot"][rows] = slot
    state["recommended_start"][rows] = start
    state["recommended_time"][rows, slot] = time
    state["recommended_high"][rows, slot] = highest
    state["recommended_low"][rows, slot] = lowest


def _stabilized(
    xp: Any, settings: Mapping[str, Array], state: State, time: Array, current: Array, desired: Array
) -> Array:
    """Return (N,) replicas: stabilizeRecommendationWithBehaviors, whose cut-offs exclude their own moment."""
    lowest, highest = desired, desired
    if bool(xp.any(settings["up_window"] > 0.0)):
        recent = state["recommended_time"] > (time - settings["up_window"])[:, None]
        lowest = xp.minimum(desired, xp.min(xp.where(recent, state["recommended_low"], math.inf), axis=1))
    if bool(xp.any(settings["down_window"] > 0.0)):
        recent = state["recommended_time"] > (time - settings["down_window"])[:, None]
        highest = xp.maximum(desired, xp.max(xp.where(recent, state["recommended_high"], -math.inf), axis=1))
    return xp.minimum(xp.maximum(current, lowest), highest)


def _rate_limits(
    xp: Any, settings: Mapping[str, Array], state: State, time: Array, current: Array
) -> tuple[Array, Array]:
    """Return (N,) the most and the least replicas that the policies allow, current always among them.

    calculateScaleUpLimitWithScalingRules, calculateScaleDownLimitWithBehaviors.
    """
    n, used = current.shape[0], 0
    if n:
        used = int(xp.max(state["scaled_count"]))
    times = xp.reshape(state["scaled_time"][:, :, :used], (n, 1, 2 * used))
    changes = xp.reshape(state["scaled_change"][:, :, :used], (n, 1, 2 * used))
    limits = []
    for name, whole, far in (("up", xp.ceil, math.inf), ("down", xp.trunc, -math.inf)):
        period, start = settings[f"{name}_period"], current[:, None]
        if used:
            recent = times > (time[:, None] - period)[:, :, None]
            start = start - xp.sum(xp.where(recent, changes, 0.0), axis=2)
        allowed = whole(start * settings[f"{name}_factor"] + settings[f"{name}_addend"])
        given = period > 0.0
        highest = xp.max(xp.where(given, allowed, -math.inf), axis=1)
        lowest = xp.min(xp.where(given, allowed, math.inf), axis=1)
        most, least = (highest, lowest) if name == "up" else (lowest, highest)
        select = settings[f"{name}_select"]
        limit = xp.where(select == _MAX, most, xp.where(select == _MIN, least, far))
        limits.append(xp.where(select == _DISABLED, current, limit))
    return xp.maximum(limits[0], current), xp.minimum(limits[1], current)


def _store_scale_events(xp: Any, settings: Mapping[str, Array], state: State, current: Array, known: Array) -> None:
    """Turn the last decisions into scale events where their writes landed: storeScaleEvent.

    As there, a new event takes the last slot whose event is older than the longest period of its own
    direction, although the other direction may look back further; else it is appended.
    """
    landed = known & ~xp.isnan(state["pending_to"]) & (current != state["pending_from"])
    if not bool(xp.any(landed)):
        return
    rows = xp.nonzero(landed)[0]
    time, change = state["pending_time"][rows], (state["pending_to"] - state["pending_from"])[rows]
    up = change > 0.0
    way = xp.where(up, 0, 1)
    longest = xp.where(up, _longest(xp, settings, "up")[rows], _longest(xp, settings, "down")[rows])
    times, count = state["scaled_time"][rows, way], state["scaled_count"][rows, way]
    index = xp.arange(times.shape[1], device=getattr(time, "device", None))
    outdated = (index < count[:, None]) & (times < (time - longest)[:, None])
    last = xp.max(xp.where(outdated, index, -1), axis=1)
    slot = xp.where(last >= 0, last, count)
    newest = xp.argmax(times, axis=1)
    full = (last < 0) & (count >= _events(xp, settings)[rows])
    shared = full | (time - xp.max(times, axis=1) < 0.5 * settings["interval"][rows])
    slot = xp.where(shared, newest, slot)
    lines = xp.arange(rows.shape[0], device=getattr(time, "device", None))
    state["scaled_time"][rows, way, slot] = xp.where(shared, times[lines, slot], time)
    before = xp.where(shared, state["scaled_change"][rows, way, slot], 0.0)
    state["scaled_change"][rows, way, slot] = before + change
    state["scaled_count"][rows, way] = xp.maximum(count, slot + 1)
