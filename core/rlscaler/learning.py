"""What is learned of a workload that its resource does not state: capacity and start-up, as one state. Pure.

One call a tick for all workloads that are due. What is learned is told with how sure it is, in numbers and in words,
and the little of it that is worth keeping over a restart is made and taken in here.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlscaler import capacity, startup
from rlscaler.arrays import Array, State
from rlscaler.capacity import Finding
from rlscaler.memory import require_alike
from rlscaler.quantities import duration_text
from rlscaler.settings import Settings
from rlscaler.snapshot import LARGEST

MOVE = 0.05
"""Relative change below which a learned value is not worth setting anew."""
SMALLEST = 1e-9
"""A reading below this is zero."""
_CAPACITY, _STARTUP = "capacity/", "startup/"
_SPREAD = (math.sqrt(5.0) - 1.0) / 2.0
"""Fraction of a block by which the blocks of one row are shifted from those of the row before."""


def state(n: int) -> State:
    """Return the fresh memory of n workloads: the arrays of both estimators, the workloads as first axis."""
    return {_CAPACITY + name: array for name, array in capacity.state(n).items()} | {
        _STARTUP + name: array for name, array in startup.state(n).items()
    }


def _part(state: State, prefix: str) -> State:
    """Return one estimator's arrays, which are those of the whole."""
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}


def record(
    xp: Any,
    state: State,
    rows: Array,
    time: Array,
    load: Array,
    ready: Array,
    starting: Array,
    desired: Array,
    utilization: Array,
    asked: Array | None = None,
) -> None:
    """Take in one reading for each of the rows, in place.

    rows: (N,) int64, each once. time: (N,) seconds, rising from call to call; what is not later than the row's last
    reading is left out. load: (N,) requests/s. ready, starting, desired: (N,) replicas. utilization: (N,) share, 0 to
    1. asked: (N,) seconds, when the desired count was last changed, as far as the caller knows. Missing, NaN,
    infinite, negative or absurdly large is unknown.
    """
    last = state[_CAPACITY + "time"][rows]
    later = xp.isfinite(time) & (xp.abs(time) <= LARGEST) & ~(time <= last)
    series = [load, ready, starting, desired, utilization]
    if not bool(xp.all(later)):
        rows, time, last = rows[later], time[later], last[later]
        series = [each[later] for each in series]
        asked = asked if asked is None else asked[later]
    load, ready, starting, desired, utilization = (
        xp.where((each >= 0.0) & (each <= LARGEST), xp.where(each < SMALLEST, 0.0, each), float("nan"))
        for each in series
    )
    fresh = rows[xp.isnan(last)]
    if fresh.shape[0]:
        shift = xp.astype(fresh, xp.float64) * (_SPREAD * capacity.BLOCK)
        state[_CAPACITY + "phase"][fresh] = shift % capacity.BLOCK
    capacity.record(xp, _part(state, _CAPACITY), rows, time, load, ready, utilization)
    desired = xp.where(xp.isnan(desired), ready + starting, desired)
    startup.record(xp, _part(state, _STARTUP), rows, time, desired, ready, asked)


def learned(state: State, rows: Array) -> dict[str, np.ndarray]:
    """Return what is known of the rows, each array (N,).

    capacity: requests/s of a ready replica at full use. error: its relative standard error. finding: int8,
    `capacity.Finding` of the last look. usable: seconds of readings that say something about it, so far. startup:
    seconds. within: seconds by which that may be off, as counts are only seen now and then. requests: scale-ups that
    tell it, older ones counting less. Unknown numbers are NaN.
    """
    blocks, shares = state[_CAPACITY + "blocks"][rows], state[_STARTUP + "shares"][rows]
    noise = _noise(shares, state[_STARTUP + "noises"][rows])
    return {
        "capacity": np.asarray(state[_CAPACITY + "capacity"][rows], np.float64),
        "error": np.asarray(state[_CAPACITY + "error"][rows], np.float64),
        "finding": np.asarray(state[_CAPACITY + "finding"][rows], np.int8),
        "usable": np.minimum(blocks, capacity.KEPT) * capacity.BLOCK,
        "startup": np.asarray(state[_STARTUP + "startup"][rows], np.float64),
        # The sum of two moments, each spread evenly between two readings, reaches so far at most.
        "within": np.sqrt(6.0 * noise),
        "requests": np.asarray(state[_STARTUP + "requests"][rows], np.float64),
    }


def _noise(shares: np.ndarray, noises: np.ndarray) -> np.ndarray:
    """Return the mean variance by which the remembered starts are uncertain (N,), NaN where there are none."""
    total = shares.sum(axis=1, dtype=np.float64)
    summed = (shares * noises).sum(axis=1, dtype=np.float64)
    return np.asarray(summed / np.where(total > 0.0, total, np.nan))


def moved(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Tell (N,) where a value is off by more than `MOVE` from the one in use, or only one of the two is known."""
    unknown = np.isnan(before) | np.isnan(now)
    far = np.abs(now - before) > MOVE * np.abs(before)
    return np.asarray(np.where(unknown, np.isnan(before) != np.isnan(now), far))


def sentence(
    found: Mapping[str, np.ndarray], at: int, *, capacity: bool = True, startup: bool = True, interval: float = 15.0
) -> str:
    """Return what a person should know of row `at` of `learned`: what is known, how sure, and what is missing.

    capacity, startup: whether each is learned; what the resource states is not spoken of. interval: seconds between
    readings.
    """
    one = {name: array[at].item() for name, array in found.items()}
    told = [_capacity(one, interval)] if capacity else []
    return " ".join([*told, _startup(one)] if startup else told)


def _capacity(one: Mapping[str, float], interval: float) -> str:
    value, finding = one["capacity"], Finding(int(one["finding"]))
    why = _missing(one, finding)
    if math.isnan(value):
        if interval > 0.5 * capacity.BLOCK:
            longest = duration_text(0.5 * capacity.BLOCK)
            why = f"readings every {duration_text(interval)} are too few, so let spec.interval be {longest} at most"
        return f"What a replica serves is not known yet: {why}; or state spec.capacity.perReplica."
    text = f"A replica serves {value:.4g} requests/s at full use"
    if math.isfinite(one["error"]):
        text += f", give or take {max(1.0, 100.0 * one['error']):.0f} %"
    if finding in (Finding.Known, Finding.TooFewSamples):
        return f"{text}, as load and utilization tell."
    return f"{text}, as load and utilization told earlier; of late, {why}."


def _missing(one: Mapping[str, float], finding: Finding) -> str:
    if finding is Finding.TooFewSamples and one["usable"] < capacity.SOONEST:
        there, needed = (f"{seconds / 60.0:.0f}" for seconds in (one["usable"], capacity.SOONEST))
        return (f"{there} of at least {needed} minutes of load and utilization together, at 8 % to 93 % use and of 50 "
                "requests or more in each three, are there")  # fmt: skip
    if finding is Finding.TooFewSamples:
        return "what load and utilization tell does not stay the same for long enough yet"
    return capacity.SENTENCES[finding]


def _startup(one: Mapping[str, float]) -> str:
    value, requests = one["startup"], one["requests"]
    if math.isnan(value):
        seen = {0: "none yet", 1: "one so far"}.get(round(requests), "two so far")
        assumed = duration_text(Settings().startup)
        return f"Its start-up is taken for {assumed} until three scale-ups were seen from begin to end ({seen})."
    text = f"It starts in {duration_text(round(value, 1 if value < 10.0 else 0))}"
    if math.isfinite(one["within"]):
        text += f", give or take {duration_text(max(1.0, round(one['within'])))}"
    return f"{text}, as its last scale-ups tell."


_KEPT = {
    "capacity": _CAPACITY + "capacity",
    "error": _CAPACITY + "error",
    "startup": _STARTUP + "startup",
    "usual": _STARTUP + "usual",
    "requests": _STARTUP + "requests",
}


def kept(state: State, rows: Array | None = None) -> State:
    """Return what is worth keeping of the rows (None: all) over a restart: (N,) float32 each, 24 bytes a workload."""
    which = slice(None) if rows is None else rows
    small = {name: np.array(state[place][which], np.float32) for name, place in _KEPT.items()}
    small["noise"] = _noise(state[_STARTUP + "shares"][which], state[_STARTUP + "noises"][which]).astype(np.float32)
    return small


def recalled(small: State) -> State:
    """Return the memory of workloads of which only what `kept` returned is left.

    Known values stay until newer readings tell better ones, the start-up counting for three scale-ups at most.
    Values that can be none are unknown. Raises ValueError where `small` is not what `kept` returns.
    """
    n = len(next(iter(small.values()), ()))
    require_alike("estimators", small, kept(state(0)), n)
    highest = {"startup": startup.LONGEST, "usual": startup.LONGEST, "noise": startup.LONGEST**2}
    small = {
        name: np.where((array > 0.0) & (array <= highest.get(name, LARGEST)), array, np.nan)
        for name, array in small.items()
    }
    whole = state(n)
    for name in ("capacity", "error", "startup", "usual"):
        whole[_KEPT[name]][:] = small[name]
    whole[_CAPACITY + "finding"][np.isfinite(small["capacity"])] = Finding.Known
    seen = np.isfinite(small["usual"]) & np.isfinite(small["requests"])
    requests = np.where(seen, np.minimum(small["requests"], startup.LEAST), 0.0)
    whole[_STARTUP + "requests"][:] = requests
    whole[_STARTUP + "shares"][:, 0] = requests
    whole[_STARTUP + "starts"][:, 0] = np.where(seen, small["usual"], 0.0)
    whole[_STARTUP + "noises"][:, 0] = np.where(seen, np.nan_to_num(small["noise"]), 0.0)
    return whole


def remeasured(state: State, rows: Array, factor: Array) -> State:
    """Return the memory of rows whose load is told in another measure from now on.

    factor: (N,) by which that is more than before, NaN = unknown, and so is the capacity then. What the former readings
    tell of the capacity is given up but for its value; the start-up has nothing to do with it.
    """
    small = kept(state, rows)
    small["capacity"] = (small["capacity"] * factor).astype(np.float32)
    small["error"] = np.where(np.isnan(factor), np.nan, small["error"]).astype(np.float32)
    return {name: array for name, array in recalled(small).items() if name.startswith(_CAPACITY)}
