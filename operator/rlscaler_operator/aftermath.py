"""What followed each decision: the pod-seconds and late requests of the interval after it, as estimates.

A cluster tells what a workload was asked and how many pods it had, and seldom how many of its requests were late. So
the replicas that were there meet the load that was read in the workload's world (`twin_worlds`, its LIVE side), as in
Shadow's comparison. A load is read a lag after it was, so the outcome of a decision is known some ticks later. Worlds
start settled, and again after a gap: what followed the decisions before it is unknown.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.policy import View
from rlscaler.rows import put, stacked, taken
from rlscaler_operator import twin_worlds
from rlscaler_operator.twin_worlds import LIVE

OUTCOME: Final = ("billed", "needed", "late", "arrivals")
"""What is told of an interval: pod-seconds that there were and that the load needed, late requests, all requests."""


class Ticks(NamedTuple):
    """One tick of n workloads.

    number: (n,) of this decision since its worlds started, -1 where they cannot: what follows it stays unknown. told:
    (n,) number of the decision of which it is known by now what followed, -1 = of none. outcome: (n, 4) of that one,
    as OUTCOME, NaN = unknown. began: (n,) bool, the worlds have started anew: what followed former decisions stays
    unknown.
    """

    number: np.ndarray
    told: np.ndarray
    outcome: np.ndarray
    began: np.ndarray


def _fresh(n: int) -> State:
    last = {"time": np.full(n, np.nan), "interval": np.zeros(n), "behind": np.zeros(n, np.int64)}
    return twin_worlds.unstarted(n) | last


class Aftermath:
    """The worlds of all workloads whose decisions are recorded."""

    def __init__(self) -> None:
        """Start empty."""
        self._row_of: dict[Hashable, int] = {}
        self._rows = _fresh(0)
        self._free: list[int] = []

    def __len__(self) -> int:
        """Return the number of workloads."""
        return len(self._row_of)

    def forget(self, key: Hashable) -> None:
        """Drop a workload; unknown ones are passed over."""
        if (row := self._row_of.pop(key, None)) is not None:
            self._rows["ticks"][row] = -1
            self._free.append(row)

    def tick(self, keys: Sequence[Hashable], view: View) -> Ticks:
        """Take in one tick. view: of the decision that was made at it, its rows those of the keys."""
        n = len(keys)
        rows = np.array([self._row(key) for key in keys], np.int64)
        options, time, load = view.settings, view.snapshot["time"], view.snapshot["load"]
        mine, behind = self._rows, twin_worlds.behind(options)
        usable = np.isfinite(options["capacity_per_replica"]) & np.isfinite(view.current)
        usable &= (view.current > 0.0) | (options["min_replicas"] <= 0.0)  # else somebody has switched it off
        same = (mine["interval"][rows] == options["interval"]) & (mine["behind"][rows] == behind)
        elapsed = np.rint((time - np.nan_to_num(mine["time"][rows])) / options["interval"])
        goes = usable & same & (elapsed == 1.0) & (mine["ticks"][rows] >= 0)
        told, outcome = np.full(n, -1), np.full((n, len(OUTCOME)), np.nan)
        if (which := np.flatnonzero(goes)).size:
            told[which], outcome[which] = self._step(rows[which], taken(dict(options), which), time[which],
                                                     view.current[which], load[which], behind[which])  # fmt: skip
        starts = usable & ~goes & np.isfinite(load)
        mine["ticks"][rows[~goes]] = -1
        if (which := np.flatnonzero(starts)).size:
            self._keep(rows[which], twin_worlds.started(taken(dict(options), which), view.current[which], load[which]))
        mine["time"][rows], mine["interval"][rows], mine["behind"][rows] = time, options["interval"], behind
        return Ticks(mine["ticks"][rows], told, outcome, ~goes)

    def _step(
        self, rows: np.ndarray, options: Mapping[str, Array], time: np.ndarray, live: np.ndarray, load: np.ndarray,
        behind: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Let one interval pass; return of which decisions it tells (m,), and what followed these (m, 4)."""
        state, passed = twin_worlds.step(
            options, {name: self._rows[name][rows] for name in twin_worlds.unstarted(0)}, time, live, load
        )
        self._keep(rows, state)
        found = np.stack(
            [
                passed.billed[:, LIVE],
                passed.arrivals / options["capacity_per_replica"],
                passed.late[:, LIVE],
                passed.arrivals,
            ],
            axis=1,
        )
        found[~passed.scored] = np.nan
        return np.maximum(state["ticks"] - 1 - behind, -1), found

    def _row(self, key: Hashable) -> int:
        if key not in self._row_of:
            if not self._free:
                have = len(self._rows["ticks"])
                more = max(16, have)
                self._rows = stacked(self._rows, _fresh(more)) if have else _fresh(more)
                self._free = list(range(have + more - 1, have - 1, -1))
            self._row_of[key] = self._free.pop()
        return self._row_of[key]

    def _keep(self, rows: np.ndarray, state: State) -> None:
        for name in ("plan", "ahead"):
            self._rows[name] = twin_worlds.wider(self._rows[name], state[name].shape[-1])
            state[name] = twin_worlds.wider(state[name], self._rows[name].shape[-1])
        put(self._rows, rows, state)
