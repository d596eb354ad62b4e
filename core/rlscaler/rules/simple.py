"""The plainest rules: a fixed count, the first count seen, blind churn, chance, and two thresholds.

All but the thresholds look at no metric. They stand in every table because earlier work was won by such
policies without anyone noticing: a learned policy that scores like one of them is a failure.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.policy import Proposal, View
from rlscaler.rules.parameters import Parameter, check, like, unknown, values


def _relative(view: View, replicas: Array) -> Proposal:
    """Return a proposal that no stated capacity is in."""
    return Proposal(replicas=replicas, relative=view.xp.ones_like(view.demand) > 0.0)


@dataclass(slots=True, kw_only=True, eq=False)
class Static:
    """A fixed number of replicas, whatever happens; it answers without metrics too."""

    PARAMETERS: ClassVar[dict[str, Parameter]] = {
        "replicas": Parameter(10.0, 1.0, 100.0, True, "replicas, always"),
    }
    replicas: Any = PARAMETERS["replicas"].default
    name: str = "static"

    def __post_init__(self) -> None:
        """Raise ValueError for a parameter that is no finite number."""
        check(self)

    def state(self, n: int) -> State:
        """Return no state."""
        return {}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return `replicas` in every row."""
        return _relative(view, view.xp.zeros_like(view.demand) + values(self, view)["replicas"]), state


@dataclass(slots=True, kw_only=True, eq=False)
class Constant:
    """The replica count that it first saw, for ever; it answers without metrics too."""

    PARAMETERS: ClassVar[dict[str, Parameter]] = {}
    name: str = "constant"

    def state(self, n: int) -> State:
        """Return `count`: (n,) float64, NaN until a count was seen."""
        return {"count": np.full(n, np.nan)}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the first known `view.current` of each row; NaN until there is one."""
        xp = view.xp
        count = like(view, state["count"])
        count = xp.where(xp.isnan(count), view.current, count)
        return _relative(view, count), {"count": count}


@dataclass(slots=True, kw_only=True, eq=False)
class Churn:
    """One replica fewer, one more, one fewer, without looking.

    The trap of earlier work: its bill rewarded replacing replicas, and this scored "91 % cheaper".
    """

    PARAMETERS: ClassVar[dict[str, Parameter]] = {}
    name: str = "churn"

    def state(self, n: int) -> State:
        """Return `step`: (n,) int64, decisions made."""
        return {"step": np.zeros(n, np.int64)}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return current - 1 at even steps and current + 1 at odd ones, never below 0."""
        xp = view.xp
        step = like(view, state["step"])
        change = xp.astype(2 * (step % 2) - 1, xp.float64)
        return _relative(view, xp.clip(view.current + change, 0.0, None)), {"step": step + 1}


_WORD = 0xFFFFFFFF


def hashed(seed: Array, counter: Array) -> Array:
    """Return a pseudo-random whole number from 0 to 2^32 - 1 for each pair (seed, counter), int64.

    seed, counter: int64 of one shape; their lower 32 bits count. Counter-based: no generator's state, any
    order, the same numbers from NumPy and torch. The mixing function is lowbias32 of Chris Wellons'
    hash-prospector (xor-shifts 16, 15, 16; multipliers 0x7feb352d, 0x846ca68b), applied to the seed and then
    to the sum with the counter. Products may wrap around 64 bits, which leaves the lower 32 bits, all that is
    kept, correct.
    """

    def mixed(word: Array) -> Array:
        word = word & _WORD
        word = ((word ^ (word >> 16)) * 0x7FEB352D) & _WORD
        word = ((word ^ (word >> 15)) * 0x846CA68B) & _WORD
        return word ^ (word >> 16)

    return mixed(mixed(seed + 0x9E3779B9) + counter)


@dataclass(slots=True, kw_only=True, eq=False)
class Random:
    """A step of -size, 0 or +size replicas, each with probability 1/3.

    seed: whole number, or one for each row; with one number row i draws from the stream (seed, i), so rows
    made by one call of `state` are independent and rows made one by one are alike unless each has a seed of
    its own.
    """

    PARAMETERS: ClassVar[dict[str, Parameter]] = {
        "size": Parameter(1.0, 1.0, 10.0, True, "replicas of a step"),
    }
    size: Any = PARAMETERS["size"].default
    seed: Any = 0
    name: str = "random"

    def __post_init__(self) -> None:
        """Raise ValueError for a parameter that is no finite number."""
        check(self)

    def state(self, n: int) -> State:
        """Return `seed` and `step` (decisions made), (n,) int64.

        Raises ValueError where there are seeds for another number of rows.
        """
        seed = np.asarray(self.seed, dtype=np.int64)
        if seed.ndim == 0:
            seed = hashed(np.full(n, seed), np.arange(n, dtype=np.int64))
        if seed.shape != (n,):
            raise ValueError(f"{self.name}: seed has shape {seed.shape}; expected one number, or {n}")
        return {"seed": seed.copy(), "step": np.zeros(n, np.int64)}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return current + size x {-1, 0, 1}, never below 0."""
        xp = view.xp
        seed, step = like(view, state["seed"]), like(view, state["step"])
        # The upper bits of draw x 3 are uniform over 0, 1, 2 up to one part in 2^32.
        change = xp.astype(((hashed(seed, step) * 3) >> 32) - 1, xp.float64)
        replicas = xp.clip(view.current + values(self, view)["size"] * change, 0.0, None)
        return _relative(view, replicas), {"seed": seed, "step": step + 1}


@dataclass(slots=True, kw_only=True, eq=False)
class Threshold:
    """Two thresholds on utilisation with a step and a cooldown: simple scaling as on AWS, or an 80/40 rule.

    Utilisation is the snapshot's, else demand / ready replicas, else demand / current replicas. A step is a
    fraction of the current count, rounded down but at least 1 (PercentChangeInCapacity of AWS simple
    scaling); it stays within the bounds, so that standing at a bound starts no cooldown. The answer is NaN
    where neither utilisation nor demand is known.
    """

    PARAMETERS: ClassVar[dict[str, Parameter]] = {
        "high": Parameter(0.8, 0.4, 0.98, False, "utilisation above which a step is added, share of capacity"),
        "low": Parameter(0.4, 0.05, 0.9, False, "utilisation below which a step is removed, share of capacity"),
        "step": Parameter(0.1, 0.0, 1.0, False, "size of a step, share of the current count; at least 1 replica"),
        "cooldown": Parameter(60.0, 0.0, 600.0, False, "seconds without another change after a change"),
    }
    high: Any = PARAMETERS["high"].default
    low: Any = PARAMETERS["low"].default
    step: Any = PARAMETERS["step"].default
    cooldown: Any = PARAMETERS["cooldown"].default
    name: str = "threshold"

    def __post_init__(self) -> None:
        """Raise ValueError for a parameter that is no finite number."""
        check(self)

    def state(self, n: int) -> State:
        """Return `changed`: (n,) float64 time (seconds) of the last change proposed, -inf before."""
        return {"changed": np.full(n, -np.inf)}

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return current + step, current - step or current."""
        xp, p = view.xp, values(self, view)
        snap, current, time = view.snapshot, view.current, view.snapshot["time"]
        changed = like(view, state["changed"])
        serving = xp.where(xp.isnan(snap["ready"]), current, snap["ready"])
        # No replica serves: any demand is far above the threshold, and no demand is below it.
        shown = view.demand / xp.clip(serving, 1e-9, None)
        busy = xp.where(xp.isnan(snap["utilization"]), shown, snap["utilization"])
        size = xp.clip(xp.floor(p["step"] * current + 1e-9), 1.0, None)
        up, down = busy > p["high"], busy < p["low"]
        change = xp.where(up, size, xp.where(down, -size, xp.zeros_like(size)))
        change = xp.where(time - changed < p["cooldown"], 0.0, change)
        bounded = xp.clip(current + change, view.settings["min_replicas"], view.settings["max_replicas"])
        replicas = xp.where(change == 0.0, current, bounded)
        replicas = xp.where(xp.isnan(busy), unknown(view), replicas)
        moved = ~xp.isnan(replicas) & (replicas != current)
        return _relative(view, replicas), {"changed": xp.where(moved, time, changed)}
