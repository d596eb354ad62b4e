"""Decisions for all workloads that are due, from what is read of them: no I/O, no clock.

One `Autoscaler` for each policy in use; a workload that changes its policy takes its history and the guard's memory
along.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler import Autoscaler, Snapshot
from rlscaler.custom_resource import Resource, to_settings
from rlscaler.memory import condensed
from rlscaler.policies import load_policy
from rlscaler.policy import Policy
from rlscaler.rows import taken
from rlscaler.settings import Settings
from rlscaler_operator.checkpoint import Batch
from rlscaler_operator.comparison import Comparison
from rlscaler_operator.model import Decision, Key, PolicyInUse, Readings, Target

_READINGS = ("load", "backlog", "latency", "errors", "utilization")
_KEPT = ("history", "guard")


@dataclass(slots=True)
class _Pool:
    """The workloads of one policy."""

    policy: Policy
    in_use: PolicyInUse
    scaler: Autoscaler
    rows: dict[Key, int] = field(default_factory=dict)


class Decider:
    """Decides for workloads by key."""

    def __init__(self, fallback: Policy | None = None) -> None:
        """Start empty. fallback: the rule that steps in for a policy (None: `default`)."""
        self.fallback = fallback if fallback is not None else load_policy("default")
        self._pools: list[_Pool] = []
        self._home: dict[Key, _Pool] = {}
        self._settings: dict[Key, Settings] = {}
        self._time: dict[Key, float] = {}
        self._compared: set[Key] = set()
        self._comparison = Comparison(self.fallback)

    def __contains__(self, key: object) -> bool:
        """Tell whether the workload is decided here."""
        return key in self._home

    @property
    def keys(self) -> Iterable[Key]:
        """The workloads."""
        return self._home.keys()

    def put(self, key: Key, resource: Resource, policy: Policy, in_use: PolicyInUse) -> None:
        """Add a workload, or give it new settings or another policy."""
        settings = to_settings(resource)
        pool, old = self._pool(policy, in_use), self._home.get(key)
        if old is None:
            (row,) = pool.scaler.add([key], settings)
            pool.rows[key] = int(row)
        elif old is pool:
            pool.scaler.update([pool.rows[key]], settings)
        else:
            memory = old.scaler.memory([old.rows[key]], _KEPT)
            (row,) = pool.scaler.add([key], self._settings[key])
            pool.rows[key] = int(row)
            pool.scaler.recall([row], memory)
            pool.scaler.update([row], settings)
            self._leave(key, old)
        self._home[key], self._settings[key] = pool, settings
        if key in self._compared:
            self._comparison.put(key, settings)

    def _pool(self, policy: Policy, in_use: PolicyInUse) -> _Pool:
        for pool in self._pools:
            if pool.in_use == in_use and (in_use.digest or pool.policy == policy):
                return pool
        self._pools.append(_Pool(policy, in_use, Autoscaler(policy, fallback=self.fallback)))
        return self._pools[-1]

    def _leave(self, key: Key, pool: _Pool) -> None:
        pool.scaler.remove([pool.rows.pop(key)])
        if not pool.rows:
            self._pools.remove(pool)

    def drop(self, key: Key) -> None:
        """Forget a workload."""
        self._leave(key, self._home.pop(key))
        self.compare(key, False)
        del self._settings[key]
        self._time.pop(key, None)

    def compare(self, key: Key, on: bool) -> None:
        """Run Shadow's comparison for a workload, or end it."""
        if on:
            self._compared.add(key)
            self._comparison.put(key, self._settings[key])
        elif key in self._compared:
            self._compared.discard(key)
            self._comparison.drop(key)

    def comparison(self, key: Key) -> dict[str, Any] | None:
        """Return Shadow's comparison so far, None where there is none."""
        return self._comparison.report(key) if key in self._compared else None

    def comparison_memory(self, key: Key) -> dict[str, Any] | None:
        """Return what a restart needs to go on with a comparison, as plain JSON; None where there is none."""
        return self._comparison.memory(key) if key in self._compared else None

    def recall_comparison(self, key: Key, memory: Mapping[str, Any]) -> None:
        """Go on with a comparison from what `comparison_memory` returned."""
        if key in self._compared:
            self._comparison.recall(key, memory)

    def decide(
        self,
        time: Mapping[Key, float],
        readings: Mapping[Key, Readings],
        targets: Mapping[Key, Target],
        *,
        compare: bool = True,
    ) -> dict[Key, Decision]:
        """Decide for the workloads of `time`, each at its own decision time, in seconds.

        compare: go on with Shadow's comparisons; not for ticks that are decided again.
        """
        due: dict[int, list[Key]] = {}
        for key in time:
            due.setdefault(id(self._home[key]), []).append(key)
        found: dict[Key, Decision] = {}
        for pool in self._pools:
            if keys := due.get(id(pool)):
                found |= self._decided(pool, keys, time, readings, targets, compare)
        return found

    def _decided(
        self,
        pool: _Pool,
        keys: Sequence[Key],
        time: Mapping[Key, float],
        readings: Mapping[Key, Readings],
        targets: Mapping[Key, Target],
        compare: bool,
    ) -> dict[Key, Decision]:
        rows = np.array([pool.rows[key] for key in keys], np.int64)
        read = {name: np.array([getattr(readings[key], name) for key in keys]) for name in _READINGS}
        counts = np.array([(targets[key].ready, targets[key].starting, targets[key].desired) for key in keys], float)
        snapshot = Snapshot(
            time=np.array([time[key] for key in keys]), ready=counts[:, 0], starting=counts[:, 1], desired=counts[:, 2],
            **read,
        )  # fmt: skip
        view = pool.scaler.view(snapshot, rows)
        made = pool.scaler.decide_on(view, rows)
        compared = [i for i, key in enumerate(keys) if key in self._compared]
        if compared and compare:
            self._comparison.advance([keys[i] for i in compared], view, pool.policy, at=np.array(compared))
        self._time |= zip(keys, made.time.tolist(), strict=True)
        settings, coverage = pool.scaler.settings(rows), pool.scaler.known_seconds(rows)
        return {
            key: Decision(
                time=float(made.time[i]),
                replicas=int(made.replicas[i]),
                proposal=float(made.proposal[i]),
                recommendation=float(made.recommendation[i]),
                demand=float(made.demand[i]),
                bits=int(made.reasons[i]),
                capacity=float(settings["capacity_per_replica"][i]),
                startup=float(settings["startup"][i]),
                coverage=float(coverage[i]),
                error=made.error,
            )
            for i, key in enumerate(keys)
        }

    def memory(self, keys: Iterable[Key]) -> list[Batch]:
        """Return what must outlive this process of workloads, one batch for each policy."""
        wanted = set(keys)
        found = []
        for pool in self._pools:
            if mine := [key for key in pool.rows if key in wanted]:
                rows = np.array([pool.rows[key] for key in mine], np.int64)
                time = np.array([self._time.get(key, np.nan) for key in mine])
                parts = pool.scaler.memory(rows, ("guard",))
                guard = condensed(parts["guard"], pool.scaler.settings(rows), np.nan_to_num(time, nan=-np.inf))
                found.append(Batch(mine, time, {"guard": guard}))
        return found

    def recall(self, batch: Batch) -> None:
        """Put back what `memory` returned, of workloads that have been `put` since.

        Raises ValueError, with nothing changed, where it does not fit.
        """
        for pool in self._pools:
            at = [i for i, key in enumerate(batch.keys) if key in pool.rows]
            if at:
                rows = [pool.rows[batch.keys[i]] for i in at]
                pool.scaler.recall(rows, {part: taken(state, np.array(at)) for part, state in batch.parts.items()})
                self._time |= {batch.keys[i]: float(batch.time[i]) for i in at if np.isfinite(batch.time[i])}

    def fill(self, keys: Sequence[Key], times: np.ndarray, values: np.ndarray) -> None:
        """Take in past load, oldest first. times: (N, T) seconds. values: (N, T) requests/s, NaN = unknown."""
        at = {key: i for i, key in enumerate(keys)}
        for pool in self._pools:
            if mine := [key for key in pool.rows if key in at]:
                rows, places = [pool.rows[key] for key in mine], [at[key] for key in mine]
                pool.scaler.fill(rows, times[places], values[places])

    def attic(self, keys: Iterable[Key]) -> "Attic":
        """Return empty rows beside those of workloads, for a past that is older than what these know."""
        return Attic({key: (self._home[key], self._settings[key]) for key in keys if key in self._home}, self)

    def home(self, key: Key) -> tuple[Autoscaler, int] | None:
        """Return the autoscaler that decides for a workload and its row, None where there is none."""
        pool = self._home.get(key)
        return None if pool is None else (pool.scaler, pool.rows[key])

    def write_failed(self, keys: Iterable[Key]) -> None:
        """Take note that the last decision for these did not reach their targets."""
        for key in keys:
            pool = self._home[key]
            pool.scaler.write_failed([pool.rows[key]])


class Attic:
    """A longer history of workloads that is made while they are decided on, and then taken over."""

    def __init__(self, members: Mapping[Key, tuple["_Pool", Settings]], decider: Decider) -> None:
        """Take the workloads with their settings."""
        self.keys = list(members)
        self._rows = {key: row for row, key in enumerate(self.keys)}
        self._decider = decider
        self._scaler = Autoscaler(decider.fallback)
        self._scaler.reserve(len(self.keys))
        for key, (pool, settings) in members.items():
            (row,) = self._scaler.add([key], settings)
            learned = pool.scaler.settings([pool.rows[key]])
            self._scaler.learn([row], capacity_per_replica=learned["capacity_per_replica"], startup=learned["startup"])

    def fill(self, keys: Iterable[Key], times: np.ndarray, values: np.ndarray) -> None:
        """Take in load of some of them, oldest first. times: (N, T) seconds. values: (N, T) requests/s."""
        self._scaler.fill([self._rows[key] for key in keys], times, values)

    def adopt(self, keys: Iterable[Key]) -> None:
        """Give workloads this history in place of theirs, but not those whose interval has changed or that went."""
        for key in keys:
            row, home = self._rows[key], self._decider.home(key)
            if home is None:
                continue
            scaler, live = home
            if scaler.settings([live])["interval"][0] == self._scaler.settings([row])["interval"][0]:
                scaler.recall([live], self._scaler.memory([row], ("history",)))
