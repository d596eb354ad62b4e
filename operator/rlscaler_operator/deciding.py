"""Decisions for all workloads that are due, from what is read of them: no I/O, and no clock but a timer.

One `Autoscaler` for each policy in use, and a few more where some of its workloads look back much longer than others; a
workload that changes its policy takes its history and the guard's memory along. What a resource leaves out is learned;
Shadow's comparison beside a decision can fail without harm to it.
"""

import logging
import math
import time as clocks
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rlscaler import Autoscaler
from rlscaler.arrays import State
from rlscaler.custom_resource import Resource, to_settings
from rlscaler.memory import condensed
from rlscaler.policies import SPARE_RULE, load_policy
from rlscaler.policy import Policy, View
from rlscaler.rows import taken
from rlscaler.served import Rows, rows_of
from rlscaler.served import joined as joined_rows
from rlscaler.settings import Settings, joined
from rlscaler.standing import Standing, standings
from rlscaler.tenured import Tenured
from rlscaler_operator.attic import Attic
from rlscaler_operator.checkpoint import Batch
from rlscaler_operator.comparison import Comparison
from rlscaler_operator.estimating import Estimates, moved
from rlscaler_operator.model import Decision, Key, PolicyInUse, Readings, Target
from rlscaler_operator.pools import Pool, breadth_of
from rlscaler_operator.proposals import Served, with_bounds, with_served
from rlscaler_operator.recording import Recorder
from rlscaler_operator.remeasuring import LEARNED, Former
from rlscaler_operator.set_aside import SetAside

_KEPT = ("history", "guard", "rule")
log = logging.getLogger("rlscaler.deciding")


class Admission(NamedTuple):
    """A workload to be decided: by what its resource states, and by which policy."""

    key: Key
    resource: Resource
    policy: Policy
    in_use: PolicyInUse


class Decider:
    """Decides for workloads by key."""

    def __init__(self, fallback: Policy | None = None, timer: Callable[[], float] = clocks.perf_counter) -> None:
        """Start empty. fallback: the rule that steps in for a policy (None: SPARE_RULE). timer: seconds, any origin."""
        self._timer = timer
        self.fallback = fallback if fallback is not None else load_policy(SPARE_RULE)
        self._pools: list[Pool] = []
        self._home: dict[Key, Pool] = {}
        self._settings: dict[Key, Settings] = {}
        self._time: dict[Key, float] = {}
        self._leaders: dict[Key, int] = {}
        self._former = Former()
        self._compared: set[Key] = set()
        self._comparison = Comparison(self.fallback)
        self._estimates = Estimates()
        self._aside = SetAside()
        self.recorder: Recorder | None = None
        """Who hears of each decision as it is made, None for nobody."""

    def __contains__(self, key: object) -> bool:
        """Tell whether the workload is decided here."""
        return key in self._home

    @property
    def keys(self) -> Iterable[Key]:
        """The workloads."""
        return self._home.keys()

    def has_decided(self, key: Key) -> bool:
        """Tell whether the workload has been decided, here or by whoever left its memory."""
        return key in self._time

    def decided_at(self, key: Key) -> float:
        """Return when the workload was decided last, here or by whoever left its memory; NaN = never."""
        return self._time.get(key, math.nan)

    def put(self, key: Key, resource: Resource, policy: Policy, in_use: PolicyInUse) -> None:
        """Add a workload, or give it new settings or another policy."""
        self.put_all([Admission(key, resource, policy, in_use)])

    def put_all(self, admissions: Sequence[Admission]) -> None:
        """Do as `put` with several workloads; new ones are added together, for hardly more than one of them costs."""
        new: dict[int, tuple[Pool, list[tuple[Admission, Settings]]]] = {}
        for each in admissions:
            if each.key not in self._home:
                settings = to_settings(each.resource)
                pool = self._pool(each.policy, each.in_use, settings)
                new.setdefault(id(pool), (pool, []))[1].append((each, settings))
        known = [each for each in admissions if each.key in self._home]
        for pool, members in new.values():
            keys = [each.key for each, _ in members]
            rows = pool.scaler.add(keys, joined([settings for _, settings in members]))
            pool.rows |= zip(keys, rows.tolist(), strict=True)
            for each, settings in members:
                self._took(each, settings, pool)
            self._learn(pool, keys)
        for each in known:
            self._put_again(each)

    def reserve(self, admissions: Iterable[Admission]) -> None:
        """Make room for workloads that are to be `put` bit by bit: to make it as they come would copy all each time."""
        counts: dict[int, int] = {}
        for each in admissions:
            if each.key not in self._home:
                pool = self._pool(each.policy, each.in_use, to_settings(each.resource))
                counts[id(pool)] = counts.get(id(pool), 0) + 1
        for pool in self._pools:
            pool.scaler.reserve(counts.get(id(pool), 0))

    def _put_again(self, each: Admission) -> None:
        """Give a workload that is decided here new settings, and another policy where that is not the one before."""
        settings, old = to_settings(each.resource), self._home[each.key]
        pool = self._pool(each.policy, each.in_use, settings)
        if old is pool:
            pool.scaler.update([pool.rows[each.key]], settings)
        else:
            parts = (*_KEPT, "policy") if old.remembers_as(pool) else _KEPT
            memory = old.scaler.memory([old.rows[each.key]], parts)
            (row,) = pool.scaler.add([each.key], self._settings[each.key])
            pool.rows[each.key] = int(row)
            pool.scaler.recall([row], memory)
            pool.scaler.update([row], settings)
            self._leave(each.key, old)
            if old.in_use != pool.in_use and (aside := self._aside.pop(each.key)) and "policy" not in memory:
                pool.scaler.recall([row], self._own(pool, [each.key], aside))
        self._took(each, settings, pool)
        self._learn(pool, [each.key])

    def _took(self, each: Admission, settings: Settings, pool: Pool) -> None:
        key = each.key
        self._home[key], self._settings[key] = pool, settings
        self._estimates.put(key, each.resource)
        if key in self._compared:
            self._comparison.put(key, settings)

    def _learn(self, pool: Pool, keys: Sequence[Key]) -> None:
        """Let decisions use what is known by now of these workloads of a pool, where it has moved."""
        if not (keys := [key for key in keys if key in self._estimates]):
            return
        known = self._estimates.learned(keys)
        used = pool.scaler.settings([pool.rows[key] for key in keys])
        columns = {"capacity_per_replica": known.capacity, "startup": known.startup}
        news = {name: moved(values, used[name]) for name, values in columns.items()}
        for i in np.flatnonzero(np.logical_or(*news.values())).tolist():
            key = keys[i]
            new = {name: float(columns[name][i]) for name, changed in news.items() if changed[i]}
            pool.scaler.learn([pool.rows[key]], **new)
            old = self._settings[key]
            self._settings[key] = replace(
                old,
                capacity_per_replica=new.get("capacity_per_replica", old.capacity_per_replica),
                startup=new.get("startup", old.startup),
            )
            if key in self._compared:
                self._comparison.put(key, self._settings[key])

    def _pool(self, policy: Policy, in_use: PolicyInUse, settings: Settings) -> Pool:
        breadth = breadth_of(settings)
        for pool in self._pools:
            if pool.breadth == breadth and pool.is_of(policy, in_use):
                return pool
        self._pools.append(Pool(policy, in_use, breadth, Autoscaler(policy, fallback=self.fallback)))
        return self._pools[-1]

    def _by_pool(self, keys: Iterable[Key]) -> Iterator[tuple[Pool, list[Key]]]:
        """Yield the pools of workloads, each with its own of them; those that are not decided here are passed over."""
        members: dict[int, list[Key]] = {}
        for key in keys:
            if (pool := self._home.get(key)) is not None:
                members.setdefault(id(pool), []).append(key)
        for pool in self._pools:
            if mine := members.get(id(pool)):
                yield pool, mine

    def _leave(self, key: Key, pool: Pool) -> None:
        pool.scaler.remove([pool.rows.pop(key)])
        if not pool.rows:
            self._pools.remove(pool)

    def drop(self, key: Key) -> None:
        """Forget a workload."""
        self._leave(key, self._home.pop(key))
        self.compare(key, False)
        self._estimates.drop(key)
        self._aside.pop(key)
        del self._settings[key]
        self._time.pop(key, None)
        self._leaders.pop(key, None)
        self._former.forget(key)

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
        live: bool = True,
        served: Mapping[Key, Served] | None = None,
    ) -> dict[Key, Decision]:
        """Decide for the workloads of `time`, each at its own decision time, in seconds.

        live: False for ticks that are decided again: nothing is learned or compared then. served: what an inference
        server proposes for some of them, in place of their policy, which goes on remembering all the same.
        """
        found: dict[Key, Decision] = {}
        for pool, keys in self._by_pool(time):
            found |= self._decided(pool, keys, time, readings, targets, live, served or {})
        return found

    def questions(
        self, time: Mapping[Key, float], readings: Mapping[Key, Readings], targets: Mapping[Key, Target]
    ) -> tuple[list[Key], Rows]:
        """Return what a server has to be asked to decide for the workloads of `time`, and for which of them.

        Those with nothing to decide by are left out. To look twice at one tick, here and in `decide`, changes nothing:
        a history takes in one sample for each.
        """
        found: list[Key] = []
        parts: list[Rows] = []
        for pool, keys in self._by_pool(time):
            rows, snapshot = pool.snapshot(keys, time, readings, targets)
            view = pool.scaler.view(snapshot, rows)
            asked = rows_of(view)
            known = np.flatnonzero(np.isfinite(view.demand) & np.isfinite(view.current))
            found += [keys[i] for i in known.tolist()]
            parts.append(Rows(asked.features[known], asked.numbers[known]))
        return found, joined_rows(parts)

    def _decided(
        self,
        pool: Pool,
        keys: Sequence[Key],
        time: Mapping[Key, float],
        readings: Mapping[Key, Readings],
        targets: Mapping[Key, Target],
        live: bool,
        served: Mapping[Key, Served],
    ) -> dict[Key, Decision]:
        rows, snapshot = pool.snapshot(keys, time, readings, targets)
        if live:
            self._estimates.record(keys, asdict(snapshot))
            self._learn(pool, keys)
        view = pool.scaler.view(snapshot, rows)
        proposal, error = pool.proposed(view, rows, self._timer)
        elsewhere = np.array([key in served for key in keys])
        if elsewhere.any():
            proposal = with_served(proposal, elsewhere, [served.get(key) for key in keys])
        made = pool.scaler.settle(view, proposal, rows)
        if live:
            self._compare(pool, keys, view)
        if live and self.recorder is not None:
            self.recorder.take(
                keys, pool.in_use, view, made, {key: served[key].policy for key in keys if key in served}
            )
        self._time |= zip(keys, made.time.tolist(), strict=True)
        settings, coverage = pool.scaler.settings(rows), pool.scaler.known_seconds(rows)
        learning = self._estimates.sentences(keys, settings["interval"])
        standing = self._standings(pool, keys, rows, settings["price"])
        factor, (late, spare) = pool.overstated(rows, made), pool.missed(rows)
        reasons = made.reasons
        if isinstance(pool.policy, Tenured):
            reasons = np.where(elsewhere, reasons, with_bounds(made, settings))
        return {
            key: Decision(
                time=float(made.time[i]),
                replicas=int(made.replicas[i]),
                proposal=float(made.proposal[i]),
                recommendation=float(made.recommendation[i]),
                demand=float(made.demand[i]),
                bits=int(reasons[i]),
                capacity=float(settings["capacity_per_replica"][i]),
                startup=float(settings["startup"][i]),
                coverage=float(coverage[i]),
                error="" if elsewhere[i] else error,
                learning=learning[i],
                standing=None if elsewhere[i] else standing[i],
                overstated=float(factor[i]),
                late=float(late[i]),
                spare=float(spare[i]),
            )
            for i, key in enumerate(keys)
        }

    def _standings(
        self, pool: Pool, keys: Sequence[Key], rows: np.ndarray, price: np.ndarray
    ) -> Sequence[Standing | None]:
        """Return who has which say on workloads of a pool, None where nobody has to earn it."""
        if not isinstance(pool.policy, Tenured):
            return [None] * len(keys)
        before = np.array([self._leaders.get(key, -1) for key in keys], np.int64)
        found, leaders = standings(pool.policy, pool.scaler.memory(rows, ("policy",))["policy"], before, price)
        self._leaders |= zip(keys, leaders.tolist(), strict=True)
        return found

    def _compare(self, pool: Pool, keys: Sequence[Key], view: View) -> None:
        """Go on with Shadow's comparisons; one that fails is ended, and the decision stands."""
        at = [i for i, key in enumerate(keys) if key in self._compared]
        if not at:
            return
        compared = [keys[i] for i in at]
        try:
            earned = partial(pool.earned, [pool.rows[key] for key in compared])
            self._comparison.advance(compared, view, pool.policy, at=np.array(at), earned=earned)
        except Exception:
            log.exception("the comparison of %d workloads in mode Shadow failed and is ended", len(compared))
            for key in compared:
                self.compare(key, False)

    def memory(self, keys: Iterable[Key]) -> list[Batch]:
        """Return what must outlive this process of workloads, a batch for each policy or several."""
        wanted = set(keys)
        found = []
        for pool in self._pools:
            for mine, aside in self._aside.alike(key for key in pool.rows if key in wanted):
                rows = np.array([pool.rows[key] for key in mine], np.int64)
                time = np.array([self.decided_at(key) for key in mine])
                parts = pool.scaler.memory(rows, ("guard", "policy", "rule"))
                guard = condensed(parts["guard"], pool.scaler.settings(rows), np.nan_to_num(time, nan=-np.inf))
                kept = {"guard": guard, LEARNED: self._estimates.memory(mine)}
                own = {"policy": pool.kept(parts["policy"], rows), "rule": parts["rule"]} | pool.paced(rows)
                if isinstance(pool.policy, Tenured):
                    own["leader"] = {"leader": np.array([self._leaders.get(key, -1) for key in mine], np.int64)}
                kept |= {pool.called(part): state for part, state in own.items() if state}
                found.append(Batch(mine, time, aside | kept))
        return found

    def recall(self, batch: Batch, refused: Collection[Key] = ()) -> None:
        """Put back what `memory` returned, of workloads that have been `put` since.

        What a policy remembered is for that policy alone, and left out where it does not fit; where a workload's is
        refused, it is set aside until that one decides. Raises ValueError, with nothing changed, where anything else
        does not.
        """
        for pool in self._pools:
            at = [i for i, key in enumerate(batch.keys) if key in pool.rows]
            if at:
                keys = [batch.keys[i] for i in at]
                parts = {part: taken(state, np.array(at)) for part, state in batch.parts.items()}
                rows = [pool.rows[key] for key in keys]
                pool.scaler.recall(rows, {"guard": parts["guard"], **self._own(pool, keys, parts)})
                mine = [pool.called(part) for part in ("policy", "leader", "interval")]
                for row, key in enumerate(keys):
                    if key in refused:
                        self._aside.put(key, parts, row, mine)
                if LEARNED in parts:
                    self._estimates.recall(keys, parts[LEARNED])
                    self._learn(pool, keys)
                self._time |= {batch.keys[i]: float(batch.time[i]) for i in at if np.isfinite(batch.time[i])}

    def _own(self, pool: Pool, keys: Sequence[Key], parts: Mapping[str, State]) -> dict[str, State]:
        """Return what the policy and the rule of a pool have among the parts of a memory, and take note who led."""
        rows = [pool.rows[key] for key in keys]
        own = {part: parts[name] for part in ("policy", "rule") if (name := pool.called(part)) in parts}
        if "policy" in own and (mine := pool.restored(own.pop("policy"), len(rows))) is not None:
            own["policy"] = pool.at_pace(mine, parts.get(pool.called("interval"), {}), rows)
        if (led := parts.get(pool.called("leader"))) is not None:
            self._leaders |= zip(keys, pool.led(led, len(rows)), strict=True)
        return own

    def fill(self, keys: Sequence[Key], times: np.ndarray, values: np.ndarray) -> None:
        """Take in past load, oldest first. times: (N, T) seconds. values: (N, T) requests/s, NaN = unknown."""
        at = {key: i for i, key in enumerate(keys)}
        for pool, mine in self._by_pool(keys):
            places = [at[key] for key in mine]
            pool.scaler.fill([pool.rows[key] for key in mine], times[places], values[places])

    def forget_past(self, keys: Iterable[Key]) -> None:
        """Forget the load that is known of workloads, and nothing else.

        What was learned from it is kept until `measure_anew` tells what that is worth with the load to come.
        """
        for pool, mine in self._by_pool(keys):
            for key in mine:
                if self._estimates.has_capacity(key):
                    self._former.keep(key, pool.scaler, pool.rows[key], float(self._settings[key].interval))
            fresh = Autoscaler()
            rows = fresh.add(mine, joined([self._settings[key] for key in mine]))
            pool.scaler.recall([pool.rows[key] for key in mine], fresh.memory(rows, ("history",)))

    def measure_anew(self, pasts: Mapping[Key, tuple[np.ndarray, np.ndarray]]) -> dict[Key, float]:
        """Take a learned capacity in the measure of the load that is asked for now, and return what that was times.

        pasts: times and loads (T,) of the last hour by workload, none: unknown. The two loads are compared where both
        are known; where they cannot be, the capacity is forgotten (NaN): the target is held until it is learned anew,
        while one in another unit would scale it to a bound at once. Others than after `forget_past` are left alone.
        """
        found: dict[Key, float] = {}
        for key, (times, loads) in pasts.items():
            factor = self._former.times_what_it_was(key, times, loads)
            if factor is None or not self._estimates.has_capacity(key):
                continue
            found[key] = factor
            self._estimates.remeasure(key, factor)
            pool, capacity = self._home[key], self._estimates.learned([key]).capacity.item()
            self._settings[key] = replace(self._settings[key], capacity_per_replica=capacity)
            pool.scaler.learn([pool.rows[key]], capacity_per_replica=capacity)
            if key in self._compared:
                self._comparison.put(key, self._settings[key])
        return found

    def forget_learned(self, key: Key) -> bool:
        """Forget what was learned of a workload, and return whether that was a capacity; it is `put` next."""
        self._former.forget(key)
        return self._estimates.forget(key)

    def learns_capacity(self, key: Key) -> bool:
        """Tell whether a workload's capacity is learned, be it known or not yet."""
        return self._estimates.learns_capacity(key)

    def attic(self, keys: Iterable[Key], same: Callable[[Key], bool] = lambda key: True) -> Attic:
        """Return empty rows beside those of workloads, for a past that is older than what these know.

        same: whether a workload's load still is the one whose past that is.
        """
        members = {key: self._settings[key] for key in keys if key in self._home}
        return Attic(members, lambda key: self.home(key) if same(key) else None)

    def in_use(self, key: Key) -> PolicyInUse | None:
        """Return the local policy of a workload, None where it is not decided here."""
        pool = self._home.get(key)
        return None if pool is None else pool.in_use

    def home(self, key: Key) -> tuple[Autoscaler, int] | None:
        """Return the autoscaler that decides for a workload and its row, None where there is none."""
        pool = self._home.get(key)
        return None if pool is None else (pool.scaler, pool.rows[key])

    def write_failed(self, keys: Iterable[Key]) -> None:
        """Take note that the last decision for these did not reach their targets."""
        for key in keys:
            pool = self._home[key]
            pool.scaler.write_failed([pool.rows[key]])
