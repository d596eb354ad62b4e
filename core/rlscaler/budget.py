"""Whether the objective is kept over its window, and how much more headroom is held while it is not.

To a policy an objective of 99.9 % is a price, and what the price buys depends on the load: more than one late request
in a thousand where load jumps, fewer where it is calm. With a window stated, the objective is to be kept. The share of
late requests is reckoned from the load and the ready replicas as tenure's candidates are charged (`lateness`), and
fades so that it is as old on average as over a rolling window. What is late beyond a reserve asks for more headroom:

    spent = late / (allowed x requests) - RESERVE,   as far as the window has been seen
    replicas = demand + (proposal - demand) x min(e^(GAIN x spent), LARGEST)

and where the rule recommends more than the policy proposes, that counts the more, the more was spent. So a workload
whose objective is kept is left as it is, and what a bad hour spent is saved afterwards, at a price that is bounded.
Headroom that is multiplied keeps an objective with fewer replicas than a policy that is asked again at a higher price.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.lateness import allowed_wait, late_share
from rlscaler.policy import View
from rlscaler.settings import PRICED

WINDOW = "objective_window"
"""The setting, in seconds; infinite, or not there at all, where no objective is to be kept."""
RESERVE = 0.8
"""Share of what may be late from which on more headroom is held."""
GAIN, LARGEST = 2.0, 2.0
"""Logarithm of the headroom's multiple for each budget spent beyond the reserve, and the largest multiple."""
FANO = 2.0
"""Variance over mean of the arrivals that is reckoned with: Poisson's is 1, what people and queues send clumps more."""
SLOTS, WITHIN = 8, 6.0
"""Slots of time for which ready replicas are remembered, and how many reach back to the load of a reading."""


def state(n: int) -> State:
    """Return the memory of n workloads that nothing is known of.

    spent: (n, 3) float64, fading: late requests and requests, in replica-seconds, and seconds in which both were
    known. queued: (n,) float64 replica-seconds of work that waits. stood: (n, SLOTS) float32, the fewest ready replicas
    in each slot of time, newest first, NaN = unknown. stood_slot: (n,) float64, the number of the newest slot.
    """
    return {
        "spent": np.zeros((n, 3)),
        "queued": np.zeros(n),
        "stood": np.full((n, SLOTS), np.nan, np.float32),
        "stood_slot": np.full(n, -np.inf),
    }


def recorded(xp: Any, view: View, state: State, correction: Array) -> None:
    """Charge the interval that the newest reading tells of, in place on `state`; nothing where no window is stated.

    correction: (N,) by how much the stated capacity is too high.
    """
    settings = view.settings
    windowed = _windowed(xp, settings)
    if windowed is None:
        return
    interval, concurrency = settings["interval"], settings["concurrency"]
    capacity = settings["capacity_per_replica"] / correction
    need, ready = view.demand * correction, _ready(xp, view, state)
    told = windowed & xp.isfinite(need) & xp.isfinite(ready)
    need, ready = xp.where(told, need, 0.0), xp.where(told, ready, 1.0)
    before = state["queued"]
    queue = view.snapshot["backlog"] / capacity
    after = xp.clip(before + (need - ready) * interval, 0.0, None)
    after = xp.where(xp.isfinite(queue), xp.maximum(after, queue), after)
    # Waits are longer by (1 + Fano factor) / 2 than Poisson arrivals' (Kingman 1961); then as many are late as would be
    # of these within so much less time.
    wait = 2.0 / (1.0 + FANO) * allowed_wait(xp, settings["latency"], concurrency, capacity)
    late = need * late_share(xp, before, after, need, ready, concurrency, capacity, wait, interval)
    keep = xp.exp(-interval / _memory(settings))
    sums = keep[:, None] * state["spent"] + interval[:, None] * xp.stack([late, need, xp.ones_like(need)], axis=1)
    state["spent"] = xp.where(told[:, None], sums, state["spent"])
    state["queued"] = xp.where(told, after, before)


def late_of(xp: Any, state: State) -> Array:
    """Return the share of requests that were late, (N,) float64, NaN where there were none."""
    late, requests = state["spent"][:, 0], state["spent"][:, 1]
    return xp.where(requests > 0.0, late / xp.where(requests > 0.0, requests, 1.0), float("nan"))


def multiple(xp: Any, state: State, settings: Mapping[str, Array]) -> Array | None:
    """Return by how much headroom is multiplied, (N,) float64 from 1 to LARGEST; None where no window is stated."""
    windowed = _windowed(xp, settings)
    if windowed is None:
        return None
    late = late_of(xp, state)
    burnt = xp.where(xp.isfinite(late), late, 0.0) * settings["price"] / PRICED
    seen = xp.clip(state["spent"][:, 2] / _memory(settings), 0.0, 1.0)
    grown = xp.exp(xp.clip(GAIN * (burnt - RESERVE) * seen, 0.0, float(np.log(LARGEST))))
    return xp.where(windowed, grown, 1.0)


def raised(xp: Any, wanted: Array, recommendation: Array, demand: Array, multiple: Array) -> Array:
    """Return the replicas that are wanted with their headroom over the demand multiplied, never fewer than `wanted`.

    recommendation: (N,) the rule's, NaN where there is none.
    """
    lack = xp.clip(recommendation - wanted, 0.0, None)
    share = (multiple - 1.0) / (LARGEST - 1.0)
    basis = wanted + xp.where(xp.isfinite(lack), share * lack, 0.0)
    more = demand + (basis - demand) * multiple
    return xp.where(multiple > 1.0, xp.maximum(wanted, xp.maximum(basis, more)), wanted)


def _windowed(xp: Any, settings: Mapping[str, Array]) -> Array | None:
    """Return whose objective is to be kept, (N,) bool, None if nobody's; a reference without a floor keeps none."""
    if WINDOW not in settings:
        return None
    windowed = xp.isfinite(settings[WINDOW]) & settings["floor"]
    return windowed if bool(xp.any(windowed)) else None


def _memory(settings: Mapping[str, Array]) -> Array:
    """Return the seconds after which a share 1/e still counts: half the window, the mean age in a rolling one."""
    return 0.5 * settings[WINDOW]


def _ready(xp: Any, view: View, state: State) -> Array:
    """Return the fewest ready replicas (N,) of the interval that the newest reading of load tells of, NaN = unknown."""
    settings, time = view.settings, view.snapshot["time"]
    interval, lag = settings["interval"], settings["lag"]
    width = xp.maximum(interval, (lag + interval) / WITHIN)
    newest = xp.floor(time / width)
    passed = xp.clip(newest - state["stood_slot"], 0.0, float(SLOTS))
    place = xp.arange(SLOTS, dtype=xp.float64, device=getattr(time, "device", None))[None, :]
    stood, ready = state["stood"], xp.astype(view.snapshot["ready"], state["stood"].dtype)
    source = xp.astype(xp.clip(place - passed[:, None], 0.0, None), xp.int64)
    stood = xp.take_along_axis(stood, source, axis=1)  # in slots without a reading the last count stood
    ready = xp.where(xp.isnan(ready), stood[:, 0], ready)
    fewest = xp.where(xp.isnan(stood[:, 0]) | (passed > 0.0), ready, xp.minimum(ready, stood[:, 0]))
    stood[:, 0] = fewest
    state["stood"], state["stood_slot"] = stood, xp.maximum(newest, state["stood_slot"])
    first = xp.clip(newest - xp.floor((time - lag) / width), 0.0, SLOTS - 1.0)
    last = xp.clip(newest - xp.floor((time - lag - interval) / width), 0.0, SLOTS - 1.0)
    inside = (place >= first[:, None]) & (place <= last[:, None])
    return xp.astype(xp.min(xp.where(inside, stood, float("inf")), axis=1), xp.float64)
