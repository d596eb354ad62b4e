"""Shadow's running comparison: what the live replicas and rlscaler's own would have cost and given, since when.

It is what a person decides by whether to switch on, so both sides meet the same load in the same simulated worlds
(`twin_worlds`), with the workload's own capacity, start-up and objective, and what is unknown is not scored: neither a
gap of the load nor a time when capacity or replicas were unknown or the target was switched off. rlscaler's own side is
closed over its own decisions: same policy, same history (load does not depend on who decides; a load that counts
completions does a little, which is passed over), same guard and behaviour, and only those readings that are there.

The figures are estimates. They begin anew when the policy or the objective's latency changes, and go on over a restart
(`memory`, `recall`), after which the worlds start settled, at the replicas that the target has then, and with the say
that the live policy's candidates have earned by then.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from rlscaler import Autoscaler, Settings
from rlscaler.arrays import Array, State
from rlscaler.artifact import Artifact
from rlscaler.behavior import Behavior
from rlscaler.policy import Policy, View
from rlscaler.quantities import duration_text
from rlscaler.rows import Picked, put, stacked
from rlscaler.tenured import Tenured
from rlscaler_operator import twin_worlds
from rlscaler_operator.model import Key
from rlscaler_operator.twin_worlds import LIVE, OWN

LONGEST_PAUSE = 20.0
"""Intervals without a tick through which the worlds go on unscored; after a longer pause they start settled again."""
_READINGS = ("backlog", "utilization", "latency")
_COUNTS = ("ready", "starting", "desired")


@dataclass(slots=True)
class _Group:
    """The rows of one policy. identity: tells it from every other policy, over restarts too."""

    policy: Policy
    scaler: Autoscaler
    identity: str


@dataclass(slots=True)
class _Entry:
    """One workload. row: in the comparison. group, member: its policy, and its row in that autoscaler."""

    row: int
    settings: Settings
    group: _Group | None = None
    member: int = -1
    identity: str = ""


def _sums(n: int) -> State:
    """Return sums of nothing for n workloads.

    since: seconds since the epoch, NaN = not begun. seconds: with known load. arrivals: requests, judged: of these
    where the objective can be judged. late: (n, 2) requests. billed: (n, 2) pod-seconds. rescales: (n, 2).
    """
    return {
        "since": np.full(n, np.nan),
        "seconds": np.zeros(n),
        "judged": np.zeros(n),
        "late": np.zeros((n, 2)),
        "billed": np.zeros((n, 2)),
        "rescales": np.zeros((n, 2)),
    }


def _fresh(n: int) -> State:
    """Return n rows that know nothing. time, interval, behind: of the last tick."""
    last = {"time": np.full(n, np.nan), "interval": np.zeros(n), "behind": np.zeros(n, np.int64)}
    return twin_worlds.unstarted(n) | _sums(n) | last


class Comparison:
    """The comparisons of all Shadow workloads, one world step and one decision for all that are due."""

    def __init__(self, fallback: Policy | None = None) -> None:
        """Start empty. fallback: the rule that steps in for a policy (None: SPARE_RULE)."""
        self._fallback = fallback
        self._entries: dict[Key, _Entry] = {}
        self._groups: list[_Group] = []
        self._rows = _fresh(0)
        self._free: list[int] = []

    def __len__(self) -> int:
        """Return the number of workloads."""
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        """Tell whether the workload is compared."""
        return key in self._entries

    def put(self, key: Key, settings: Settings) -> None:
        """Take in a workload, or its new settings (scalars, as of `custom_resource.to_settings`).

        The figures go on with new settings, unless it is the objective's latency that has changed.
        """
        entry = self._entries.get(key)
        if entry is None:
            self._entries[key] = _Entry(self._new_row(), settings)
            return
        if float(entry.settings.objective.latency) != float(settings.objective.latency):
            self._begin_anew(entry.row)
        entry.settings = settings
        if entry.group is not None:
            entry.group.scaler.update([entry.member], _guarded([settings]))

    def drop(self, key: Key) -> None:
        """Forget a workload; unknown ones are passed over."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._leave(entry)
            self._free.append(entry.row)

    def advance(
        self,
        keys: Sequence[Key],
        view: View,
        policy: Policy,
        *,
        at: np.ndarray | None = None,
        earned: Callable[[np.ndarray], State] = lambda which: {},
    ) -> None:
        """Take in one tick of workloads that `policy` decides, right after the live decision.

        view: of that decision. at: positions of the keys in the view (None: the keys are its rows). earned: what the
        policy remembers of some of the keys, by their positions, that our own side is to begin with; empty: nothing.
        Each key has been `put`; a second tick within half an interval is ignored.
        """
        if not keys:
            return
        entries = [self._entries[key] for key in keys]
        group = self._group_of(policy)
        self._join(keys, entries, group)
        at = np.arange(len(keys)) if at is None else np.asarray(at, np.int64)
        rows = np.array([entry.row for entry in entries], np.int64)
        options = Picked(view.settings, at)
        members = np.array([entry.member for entry in entries], np.int64)

        time, load, live = view.snapshot["time"][at], view.snapshot["load"][at], view.current[at]
        begun, elapsed, usable = self._since_last(rows, options, time, live)
        go = begun & (elapsed >= 1.0)
        start = usable & np.isfinite(load) & (self._rows["ticks"][rows] < 0)
        passed = self._pass(rows, options, time, live, load, np.where(go, elapsed, 0.0))
        if start.any():
            self._start(rows, options, time, live, load, np.flatnonzero(start))
            group.scaler.reset(members[start])
            if memory := earned(np.flatnonzero(start)):
                group.scaler.recall(members[start], {"policy": memory})
        due = np.flatnonzero(go | start)
        if len(due):
            self._decide(group.scaler, members, rows, view, options, at, due, passed)

    def _since_last(
        self, rows: np.ndarray, options: Mapping[str, Array], time: np.ndarray, live: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which worlds are under way, whole intervals since their last ticks, and which may be. Stops others."""
        mine, interval = self._rows, options["interval"]
        usable = np.isfinite(options["capacity_per_replica"]) & np.isfinite(live)
        usable &= (live > 0.0) | (options["min_replicas"] <= 0.0)
        begun = mine["ticks"][rows] >= 0
        elapsed = np.where(begun, np.rint((time - mine["time"][rows]) / interval), 0.0)
        same = (mine["interval"][rows] == interval) & (mine["behind"][rows] == twin_worlds.behind(options))
        stopped = begun & ~(usable & same & (elapsed <= LONGEST_PAUSE))
        mine["ticks"][rows[stopped]] = -1
        return begun & ~stopped, elapsed, usable

    def _pass(
        self,
        rows: np.ndarray,
        options: Mapping[str, Array],
        time: np.ndarray,
        live: np.ndarray,
        load: np.ndarray,
        elapsed: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Let so many intervals pass, add up the last one, and return our own side's readings (NaN elsewhere)."""
        own = {name: np.full(len(rows), np.nan) for name in _READINGS + _COUNTS}
        for left in range(int(elapsed.max(initial=0.0)) - 1, -1, -1):
            which = np.flatnonzero(elapsed > left)
            some, mine = rows[which], Picked(options, which)
            moment = time[which] - left * mine["interval"]
            now = load[which] if left == 0 else np.full(len(which), np.nan)
            state, passed = twin_worlds.step(mine, self._worlds(some), moment, live[which], now)
            self._keep(some, state)
            sums = self._rows
            sums["seconds"][some] += np.where(passed.scored, mine["interval"], 0.0)
            sums["judged"][some] += np.where(np.isfinite(passed.late[:, LIVE]), passed.arrivals, 0.0)
            sums["late"][some] += np.nan_to_num(passed.late)
            sums["billed"][some] += passed.billed
            sums["rescales"][some] += passed.rescaled
            for name, values in passed.own.items():
                own[name][which] = values
        moved = rows[elapsed > 0.0]
        self._rows["time"][moved] = time[elapsed > 0.0]
        return own

    def _start(
        self,
        rows: np.ndarray,
        options: Mapping[str, Array],
        time: np.ndarray,
        live: np.ndarray,
        load: np.ndarray,
        which: np.ndarray,
    ) -> None:
        """Begin the worlds of these workloads at the replicas that they have."""
        some, mine = rows[which], Picked(options, which)
        self._keep(some, twin_worlds.started(mine, live[which], load[which]))
        self._rows["time"][some] = time[which]
        self._rows["interval"][some] = mine["interval"]
        self._rows["behind"][some] = twin_worlds.behind(mine)
        first = some[np.isnan(self._rows["since"][some])]
        self._rows["since"][first] = time[which][np.isnan(self._rows["since"][some])]

    def _decide(
        self,
        scaler: Autoscaler,
        members: np.ndarray,
        rows: np.ndarray,
        view: View,
        options: Mapping[str, Array],
        at: np.ndarray,
        due: np.ndarray,
        own: Mapping[str, np.ndarray],
    ) -> None:
        """Decide for our own side, which sees its own replicas and of its readings those that the live one has."""
        places = at[due]
        snapshot = {name: array[places] for name, array in view.snapshot.items()}
        begun = np.isfinite(own["desired"][due])
        live = view.current[places]
        told = dict(zip(_COUNTS, (live, np.zeros(len(due)), live), strict=True))
        for name in _COUNTS:
            snapshot[name] = np.where(begun, own[name][due], told[name])
        for name in _READINGS:
            mine = own[name][due]
            snapshot[name] = np.where(np.isfinite(mine) & np.isfinite(snapshot[name]), mine, snapshot[name])
        part = replace(
            view,
            settings=Picked(options, due),
            snapshot=snapshot,
            features=Picked(view.features, places),
            demand=view.demand[places],
            current=snapshot["desired"],
        )
        decided = scaler.decide_on(part, members[due])
        replicas = np.where(decided.replicas < 0, snapshot["desired"], decided.replicas)
        state = self._worlds(rows[due])
        twin_worlds.ordered(state, replicas)
        self._rows["orders"][rows[due]] = state["orders"]

    def report(self, key: Key) -> dict[str, Any] | None:
        """Return the comparison as the status carries it, None before anything is scored.

        since: RFC 3339. over: time with known load, a duration. live, virtual: podHours, withinObjective (percent of
        requests; left out where there is nothing to judge) and rescales. savings: percent of the live pod-hours that
        rlscaler would have saved. estimate: True.
        """
        entry = self._entries.get(key)
        if entry is None:
            return None
        rows, row = self._rows, entry.row
        seconds, judged = float(rows["seconds"][row]), float(rows["judged"][row])
        if not seconds > 0.0:
            return None
        billed, late, rescales = (rows[name][row].tolist() for name in ("billed", "late", "rescales"))
        since = datetime.fromtimestamp(float(rows["since"][row]), UTC)
        out: dict[str, Any] = {"since": since.strftime("%Y-%m-%dT%H:%M:%SZ"), "over": duration_text(round(seconds))}
        for name, side in (("live", LIVE), ("virtual", OWN)):
            out[name] = {"podHours": round(billed[side] / 3600.0, 3)}
            if judged > 0.0:
                out[name]["withinObjective"] = round(100.0 * max(0.0, 1.0 - late[side] / judged), 3)
            out[name]["rescales"] = int(rescales[side])
        if billed[LIVE] > 0.0:
            out["savings"] = round(100.0 * (1.0 - billed[OWN] / billed[LIVE]), 1)
        out["estimate"] = True
        return out

    def replicas(self, key: Key) -> int | None:
        """Return the replicas that rlscaler's own side has ordered, None where its world has not begun."""
        entry = self._entries.get(key)
        if entry is None or self._rows["ticks"][entry.row] < 0:
            return None
        tick = int(self._rows["ticks"][entry.row])
        orders = self._rows["orders"][entry.row, OWN]
        return int(orders[tick % len(orders)])

    def memory(self, key: Key) -> dict[str, Any] | None:
        """Return what a restart needs, as plain JSON values; None where nothing has begun."""
        entry = self._entries.get(key)
        if entry is None or not entry.identity or math.isnan(self._rows["since"][entry.row]):
            return None
        sums = {name: np.asarray(self._rows[name][entry.row], np.float64).round(6).tolist() for name in _sums(0)}
        return sums | {"policy": entry.identity, "latency": float(entry.settings.objective.latency)}

    def recall(self, key: Key, memory: Mapping[str, Any]) -> bool:
        """Go on from what `memory` returned before a restart, of a workload that has been `put`.

        False, and nothing changes, where it is no such thing or of another objective; where another policy than then
        decides, the first tick begins anew.
        """
        entry = self._entries.get(key)
        if entry is None:
            return False
        try:
            values = {name: np.asarray(memory[name], np.float64) for name in _sums(0)}
            identity, latency = str(memory["policy"]), float(memory["latency"])
        except (KeyError, TypeError, ValueError):
            return False
        fits = all(values[name].shape == array.shape[1:] for name, array in _sums(1).items())
        if not (fits and all(np.isfinite(v).all() and (v >= 0.0).all() for v in values.values())):
            return False
        if latency != float(entry.settings.objective.latency):
            return False
        put(self._rows, np.array([entry.row]), {name: value[None] for name, value in values.items()})
        entry.identity = identity
        return True

    def _group_of(self, policy: Policy) -> _Group:
        for group in self._groups:
            if group.policy is policy:
                return group
        group = _Group(policy, Autoscaler(policy, fallback=self._fallback, remembers=False), identity_of(policy))
        self._groups.append(group)
        return group

    def _join(self, keys: Sequence[Key], entries: Sequence[_Entry], group: _Group) -> None:
        """Give those that another policy decided, or none yet, rows of this one."""
        new = [(key, entry) for key, entry in zip(keys, entries, strict=True) if entry.group is not group]
        if not new:
            return
        for _, entry in new:
            self._leave(entry)
            if entry.identity and entry.identity != group.identity:
                self._begin_anew(entry.row)
        members = group.scaler.add([key for key, _ in new], _guarded([entry.settings for _, entry in new]))
        for (_, entry), member in zip(new, members, strict=True):
            entry.group, entry.member, entry.identity = group, int(member), group.identity

    def _leave(self, entry: _Entry) -> None:
        group = entry.group
        if group is None:
            return
        group.scaler.remove([entry.member])
        entry.group, entry.member = None, -1
        if not len(group.scaler):
            self._groups.remove(group)

    def _new_row(self) -> int:
        if not self._free:
            have = len(self._rows["ticks"])
            more = max(16, have)
            fresh = _fresh(more)
            # a plan that is widened by zeros is of a row that has not begun, or is filled before it is used
            self._rows = stacked(self._rows, fresh) if have else fresh
            self._free = list(range(have + more - 1, have - 1, -1))
        row = self._free.pop()
        self._begin_anew(row)
        return row

    def _begin_anew(self, row: int) -> None:
        """Forget the sums of a row, and let its worlds start again at the next tick."""
        for name, array in _sums(1).items():
            self._rows[name][row] = array[0]
        self._rows["ticks"][row] = -1

    def _worlds(self, rows: np.ndarray) -> State:
        return {name: self._rows[name][rows] for name in twin_worlds.unstarted(0)}

    def _keep(self, rows: np.ndarray, state: State) -> None:
        for name in ("plan", "ahead"):
            self._rows[name] = twin_worlds.wider(self._rows[name], state[name].shape[-1])
            state[name] = twin_worlds.wider(state[name], self._rows[name].shape[-1])
        put(self._rows, rows, state)


def identity_of(policy: Policy) -> str:
    """Return what tells a policy from every other: the digest of its artifact, or a rule's name and constants."""
    artifact = getattr(policy, "artifact", None)
    text = artifact.digest if isinstance(artifact, Artifact) else f"{type(policy).__qualname__} {policy!r}"
    if isinstance(policy, Tenured):
        text += " advisory" if policy.advisory else " tenured"
    return f"{policy.name} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _guarded(settings: Sequence[Settings]) -> Settings:
    """Return what the guard's memory depends on, of several workloads; all else comes with each tick's view."""
    return Settings(
        interval=np.array([float(each.interval) for each in settings]),
        behavior=[_one_behavior(each) for each in settings],
    )


def _one_behavior(settings: Settings) -> Behavior | None:
    if isinstance(settings.behavior, Sequence):
        raise ValueError(f"behavior has {len(settings.behavior)} entries; expected that of one workload")
    return settings.behavior
