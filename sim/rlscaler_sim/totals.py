"""What a contest adds up, and what it keeps step by step."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler_sim.result import LATE_WEIGHT
from rlscaler_sim.world import Outcome

WAIT_EDGES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0,
              40.0, 80.0, 160.0, 320.0, 640.0)  # fmt: skip
"""Waits in seconds at which the distribution is counted, for its 95th percentile."""


@dataclass(slots=True)
class Traced:
    """What happened step by step to one load: arrays (T, entrants), and the decisions of one entrant.

    observe: keep the observation of each decision too.
    """

    observe: bool = False
    time: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    known: list[bool] = field(default_factory=list)
    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)
    decisions: list[dict[str, Any]] = field(default_factory=list)

    def add(self, time: float, load: float, known: bool, outcome: Outcome, orders: np.ndarray, loads: int) -> None:
        """Append one step of the first of `loads` loads; orders and outcome: all rows, an entrant's loads together."""
        self.time.append(time)
        self.load.append(load)
        self.known.append(known)
        first = {name: np.asarray(getattr(outcome, name))[::loads] for name in ("ready", "backlog", "billed", "needed")}
        first["replicas"] = orders[::loads]
        first["violations"] = np.asarray(outcome.late / np.maximum(outcome.arrivals, 1e-9))[::loads]
        for name, values in first.items():
            self.columns.setdefault(name, []).append(np.array(values))

    def repeat(self, entrant: int, of: int) -> None:
        """Give one entrant the columns of another."""
        for rows in self.columns.values():
            for row in rows:
                row[entrant] = row[of]

    def array(self, name: str) -> np.ndarray:
        """Return a column as (entrants, T)."""
        return np.stack(self.columns[name], axis=1)


@dataclass(slots=True)
class Totals:
    """Sums over the scored steps, arrays (entrants, loads) float64; an entrant's copies follow each other.

    billed, needed: pod-seconds. late, arrivals: requests. waits: (edges, entrants, loads) requests that waited
    longer than each of WAIT_EDGES. rescales: changes from one order to the next. largest: most replicas asked for.
    """

    billed: np.ndarray
    needed: np.ndarray
    late: np.ndarray
    arrivals: np.ndarray
    waits: np.ndarray
    rescales: np.ndarray
    largest: np.ndarray
    steps: int = 0

    @classmethod
    def empty(cls, entrants: int, loads: int) -> "Totals":
        """Return sums of nothing."""
        billed, needed, late, arrivals, rescales, largest = np.zeros((6, entrants, loads))
        waits = np.zeros((len(WAIT_EDGES), entrants, loads))
        return cls(billed, needed, late, arrivals, waits, rescales, largest)

    def add(self, outcome: Outcome, orders: np.ndarray, before: np.ndarray | None, weight: np.ndarray) -> None:
        """Add one step. orders, before: (rows,) of this and of the last step. weight: (loads,) share that is scored."""
        shape = self.billed.shape
        for name in ("billed", "needed", "late", "arrivals"):
            getattr(self, name).__iadd__(np.reshape(getattr(outcome, name), shape) * weight)
        if outcome.late_over is not None:
            self.waits += outcome.late_over.reshape(-1, *shape) * weight
        if before is not None:
            self.rescales += (orders != before).reshape(shape) * (weight > 0)
        self.largest = np.maximum(self.largest, orders.reshape(shape) * (weight > 0))
        self.steps += 1

    @property
    def cost_ratio(self) -> np.ndarray:
        """C: billed over needed pod-seconds; infinite where nothing was needed."""
        out = np.full_like(self.billed, np.inf)
        np.divide(self.billed, self.needed, out=out, where=self.needed > 0)
        return out

    @property
    def violation_share(self) -> np.ndarray:
        """V: share of requests over the SLO."""
        share: np.ndarray = self.late / np.maximum(self.arrivals, 1e-9)
        return share

    @property
    def score(self) -> np.ndarray:
        """J = C + 20 V."""
        return self.cost_ratio + LATE_WEIGHT * self.violation_share

    def wait_quantile(self, q: float = 0.95) -> np.ndarray:
        """Return the q-quantile of the wait in seconds, (entrants, loads), interpolated between WAIT_EDGES."""
        over = self.waits / np.maximum(self.arrivals, 1e-9)
        edges = np.array(WAIT_EDGES)
        out = np.zeros(over.shape[1:])
        for index in np.ndindex(*out.shape):
            share = np.minimum.accumulate(over[(slice(None), *index)])
            out[index] = float(np.interp(-(1.0 - q), -share, edges)) if share[0] > 1.0 - q else 0.0
        return out
