"""The decision with its memory: N workloads as rows, one call from what is known to what is decided.

    snapshot -> history -> observation -> policy -> proposal -> guard -> decision

The same object decides in training, dry-run, backtest and cluster; only where snapshots come from and where
decisions go differs.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler import archive, behavior, blocks, growth, guard, history, period
from rlscaler.arrays import Array, State
from rlscaler.decisions import Decisions as Decisions
from rlscaler.lean import NUMPY
from rlscaler.memory import PARTS, adopted, regrid, require_alike
from rlscaler.panel import Panel as Panel
from rlscaler.policies import SPARE_RULE, load_policy
from rlscaler.policy import Policy, Proposal, Regridded, View
from rlscaler.rows import put, stacked, taken, widened
from rlscaler.rules.growth import Growth
from rlscaler.settings import Settings, compiled
from rlscaler.snapshot import Snapshot, cleaned

_SUMMARY_SPAN = 2 * len(growth.PHASES) * growth.PHASE_SECONDS
"""Seconds within which every summary of a history is made anew."""
_SPARE, _LEAST_SPARE = 8, 16
"""Rows are added by an eighth of those that are there, and by so many at least: to add one copies all of them, and one
that waits in vain takes as much memory as one that is used."""


class Autoscaler:
    """Decides for rows of workloads and owns what it remembers of them.

    policy: the name of a built-in policy, the path of an artifact, or any object with the shape of `Policy`.
    settings: of the rows that it starts with; workloads: how many (keys 0 to workloads - 1).
    fallback: the rule that steps in for the policy, and whose recommendation stands beside it (None: SPARE_RULE).
    remembers: keep a history of each row; without one, `decide` needs the features handed in.

    >>> settings = Settings(capacity_per_replica=50.0)
    >>> scaler = Autoscaler("default", settings, workloads=1)
    >>> int(scaler.decide(Snapshot(time=0.0, load=400.0, ready=10, desired=10)).replicas[0]) > 8
    True
    """

    def __init__(
        self,
        policy: str | Path | Policy = "default",
        settings: Settings | None = None,
        workloads: int = 0,
        *,
        fallback: Policy | None = None,
        remembers: bool = True,
    ) -> None:
        """Start with `workloads` rows; see the class."""
        self.policy: Policy = load_policy(policy) if isinstance(policy, (str, Path)) else policy
        self.fallback: Policy = fallback if fallback is not None else load_policy(SPARE_RULE)
        self.remembers = remembers
        self.keys: list[Hashable | None] = []
        self._present: set[Hashable] = set()
        self._free: list[int] = []
        self._live: np.ndarray | None = None
        self._settings: State = {}
        self._history: State = {}
        self._guard: State = {}
        self._policy: State = {}
        self._rule: State = {}
        if workloads:
            self.add(range(workloads), settings or Settings())

    def __len__(self) -> int:
        """Return the number of live rows."""
        return len(self.keys) - len(self._free)

    @property
    def spare(self) -> int:
        """The number of rows that are there and not in use."""
        return len(self._free)

    @property
    def rows(self) -> np.ndarray:
        """The live rows, ascending, int64."""
        if self._live is None:
            self._live = np.array([i for i, key in enumerate(self.keys) if key is not None], np.int64)
        return self._live

    def add(self, keys: Iterable[Hashable], settings: Settings) -> np.ndarray:
        """Add a row for each key and return the rows (int64), in the order of the keys.

        Raises ValueError where a key is None or present already, SettingsError for bad settings.
        """
        keys = list(keys)
        new: set[Hashable] = set()
        for key in keys:
            if key is None or key in self._present or key in new:
                raise ValueError(f"key {key!r} is {'not allowed' if key is None else 'present already'}")
            new.add(key)
        arrays = compiled(settings, len(keys))
        if self.keys and len(keys) > len(self._free):
            self.reserve(max(len(keys), _LEAST_SPARE, len(self.keys) // _SPARE))
        reused = [self._free.pop() for _ in range(min(len(keys), len(self._free)))]
        extra = len(keys) - len(reused)
        rows = np.array(reused + list(range(len(self.keys), len(self.keys) + extra)), np.int64)
        if extra:
            self.keys.extend([None] * extra)
            self._extend({name: array[len(reused) :] for name, array in arrays.items()}, extra)
        for key, row in zip(keys, rows, strict=True):
            self.keys[int(row)] = key
        self._present |= new
        self._live = None
        self._write(rows, arrays)
        self.reset(rows)
        return rows

    def reserve(self, rows: int) -> None:
        """Make room for so many more rows at once: to add rows one by one copies everything each time."""
        extra = rows - len(self._free)
        if extra > 0:
            begin = len(self.keys)
            self.keys.extend([None] * extra)
            self._extend(compiled(Settings(), extra), extra)
            self._free.extend(range(len(self.keys) - 1, begin - 1, -1))

    def _fresh(self, n: int) -> tuple[State, State, State, State]:
        past = history.state(n) if self.remembers else {}
        return past, guard.state(self._settings, n), self.policy.state(n), self.fallback.state(n)

    def _extend(self, settings: State, n: int) -> None:
        self._settings = stacked(self._settings, settings) if self._settings else settings
        if self._guard:
            self._guard = behavior.resized(self._guard, self._settings)
        fresh = self._fresh(n)
        for name, new in zip(("_history", "_guard", "_policy", "_rule"), fresh, strict=True):
            old = getattr(self, name)
            setattr(self, name, stacked(old, new) if old else new)

    def _write(self, rows: np.ndarray, arrays: State) -> None:
        """Write compiled settings into rows, widening the columns of policies where these have more of them."""
        for name, array in arrays.items():
            mine = widened(self._settings[name], array)
            mine[rows] = widened(array, mine)
            self._settings[name] = mine

    def _set(self, rows: np.ndarray, arrays: State) -> None:
        self._write(rows, arrays)
        self._guard = behavior.resized(self._guard, self._settings)

    def update(self, rows: Any, settings: Settings) -> None:
        """Give the rows new settings; what is remembered of them stays."""
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        arrays = compiled(settings, len(rows))
        old, new = self._settings["interval"][rows], arrays["interval"]
        if self.remembers:
            regrid(np, self._history, rows, old, new)
        other = old != new
        if isinstance(self.policy, Regridded) and other.any():
            memory = self.policy.regridded(taken(self._policy, rows[other]), old[other], new[other])
            put(self._policy, rows[other], memory)
        self._set(rows, arrays)

    def learn(self, rows: Any, *, capacity_per_replica: Any = None, startup: Any = None) -> None:
        """Give the rows the requests/s of a replica (NaN = unknown) and the seconds of its start, where not None.

        Raises SettingsError as `update`.
        """
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        given = {"capacity_per_replica": capacity_per_replica, "startup": startup}
        given = {name: value for name, value in given.items() if value is not None}
        arrays = compiled(Settings(**given), len(rows))
        for name in given:
            self._settings[name][rows] = arrays[name]

    def settings(self, rows: Any) -> State:
        """Return the compiled settings of the rows (a copy)."""
        return taken(self._settings, np.atleast_1d(np.asarray(rows, np.int64)))

    def known_seconds(self, rows: Any) -> np.ndarray:
        """Return the seconds of load that are known of the rows, float64."""
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        return self._history["known_seconds"][rows] if self.remembers else np.zeros(len(rows))

    def slots(self, rows: Any) -> np.ndarray:
        """Return the slots of the rows' newest samples (floor(time / interval)), int64; -1: none is known yet."""
        slots: np.ndarray = self._history["slot"][np.atleast_1d(np.asarray(rows, np.int64))]
        return slots

    def samples(self, rows: Any, after: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return slots (int64) and loads of the `count` samples after these slots (N,), oldest first, both (N, count).

        The load is NaN where it is unknown, in the future, or older than an hour or so (`history.RING`).
        """
        return history.samples(np, self._history, np.atleast_1d(np.asarray(rows, np.int64)), after, count)

    def reset(self, rows: Any) -> None:
        """Forget all that is remembered of the rows."""
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        fresh = self._fresh(len(rows))
        if any(new.shape[1:] != self._guard[name].shape[1:] for name, new in fresh[1].items()):
            self._guard = behavior.resized(self._guard, self._settings)
        for state, new in zip((self._history, self._guard, self._policy, self._rule), fresh, strict=True):
            put(state, rows, new)
        self._guard = behavior.resized(self._guard, self._settings)

    def remove(self, rows: Any) -> None:
        """Free the rows; no other row's decisions change."""
        for row in np.atleast_1d(np.asarray(rows, np.int64)):
            if self.keys[int(row)] is None:
                raise ValueError(f"row {int(row)} is not in use")
            self._present.discard(self.keys[int(row)])
            self.keys[int(row)] = None
            self._free.append(int(row))
        self._live = None

    def fill(self, rows: Any, times: Any, values: Any) -> None:
        """Take in load read back from a store, oldest first, as if it had been seen tick by tick.

        times: (T,) or (N, T) seconds, ascending. values: (N, T) requests/s, NaN = unknown.
        """
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        values = np.asarray(values, np.float64)
        times = np.asarray(times, np.float64)
        if values.shape != (len(rows), times.shape[-1]) or times.shape not in (values.shape, values.shape[1:]):
            raise ValueError(
                f"values has shape {values.shape}, times {times.shape}; expected {len(rows)} rows by times"
            )
        for column in range(values.shape[1]):
            now = np.broadcast_to(times[..., column], (len(rows),))
            blocks.record(self._history, self._settings, rows, now, values[:, column])
            # The summaries that `decide` would have made at these ticks; earlier ones are made over.
            if now[0] > times[..., -1].flat[0] - _SUMMARY_SPAN:
                growth.refresh(NUMPY, self._history, rows, now, taken(self._settings, rows))
            if now[0] > times[..., -1].flat[0] - period.LOOKS:
                blocks.look(self._history, self._settings, rows, now)

    def remember(self, snapshot: Snapshot, rows: Any = None) -> State:
        """Take in the snapshot's load and return the features of the rows (None: all live rows)."""
        which = self.rows if rows is None else np.atleast_1d(np.asarray(rows, np.int64))
        snap = cleaned(NUMPY, snapshot, len(which), self._settings["interval"])
        blocks.record(self._history, self._settings, which, snap["time"], snap["load"])
        return blocks.features(self._history, self._settings, which, snap["time"])

    def view(self, snapshot: Snapshot, rows: Any = None, features: Mapping[str, Array] | None = None) -> View:
        """Take in the snapshot and return what a policy may look at.

        features: of the same rows, made by another's `remember` of the same load; None: made here.
        """
        some = self._which(rows)
        which = self.rows if some is None else some
        snap = cleaned(NUMPY, snapshot, len(which), self._settings["interval"])
        if features is None:
            blocks.record(self._history, self._settings, which, snap["time"], snap["load"])
            features = blocks.features(self._history, self._settings, which, snap["time"])
        settings = taken(self._settings, some)
        current = np.where(np.isnan(snap["desired"]), snap["ready"] + snap["starting"], snap["desired"])
        return View(
            xp=NUMPY,
            settings=settings,
            snapshot=snap,
            features=features,
            demand=snap["load"] / settings["capacity_per_replica"],
            current=current,
        )

    def decide(self, snapshot: Snapshot, rows: Any = None, *, features: Mapping[str, Array] | None = None) -> Decisions:
        """Decide for the rows that are due (None: all live rows), whose readings the snapshot holds in that order."""
        which = self._which(rows)
        return self.decide_on(self.view(snapshot, which, features), which)

    def _which(self, rows: Any) -> np.ndarray | None:
        """Return the rows as int64, None where they are all rows and none is free."""
        if rows is None:
            return self.rows if self._free else None
        return np.atleast_1d(np.asarray(rows, np.int64))

    def decide_on(self, view: View, rows: np.ndarray | None = None) -> Decisions:
        """Decide on a view that was taken for these rows (None: all live rows)."""
        proposal, error = self.propose(view, rows)
        return replace(self.settle(view, proposal, rows), error=error)

    def propose(self, view: View, rows: np.ndarray | None = None) -> tuple[Proposal, str]:
        """Return what the policy wants, NaN where it raises, and what it raised ("": nothing)."""
        rows = self._which(rows)
        try:
            proposal, memory = self.policy.propose(view, taken(self._policy, rows))
            if np.shape(proposal.replicas) != view.demand.shape:
                raise ValueError(f"the policy proposed {np.shape(proposal.replicas)}, not {view.demand.shape}")
            put(self._policy, rows, memory)
        except Exception as problem:
            nothing = Proposal(replicas=np.full(view.demand.shape, np.nan))
            return nothing, f"{type(problem).__name__}: {problem}"
        return proposal, ""

    def settle(self, view: View, proposal: Proposal, rows: np.ndarray | None = None) -> Decisions:
        """Put a proposal for the rows of `view` through the guard; for callers whose policy is elsewhere."""
        rows = self._which(rows)
        if self.policy is self.fallback or (type(self.policy) is Growth and self.policy == self.fallback):
            recommendation = proposal.replicas
        else:
            memory = taken(self._rule, rows)
            ruled, memory = self.fallback.propose(view, memory)
            put(self._rule, rows, memory)
            recommendation = ruled.replicas
        state = taken(self._guard, rows)
        replicas, bits, state = guard.settle(NUMPY, view, dict(state), proposal, recommendation)
        put(self._guard, rows, state)
        return Decisions(
            time=view.snapshot["time"],
            rows=self.rows if rows is None else rows,
            replicas=np.where(np.isnan(replicas), -1, replicas).astype(np.int64),
            proposal=np.asarray(proposal.replicas, np.float64),
            recommendation=np.asarray(recommendation, np.float64),
            demand=view.demand,
            reasons=bits,
        )

    def write_failed(self, rows: Any) -> None:
        """Take note that the last decision for the rows did not reach the target: `behavior` then counts no event."""
        self._guard["pending_to"][np.atleast_1d(np.asarray(rows, np.int64))] = np.nan

    def memory(self, rows: Any, parts: Iterable[str] = PARTS) -> dict[str, State]:
        """Return a copy of what is remembered of the rows; parts: of `memory.PARTS`."""
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        return {part: taken(self._parts()[part], rows) for part in parts}

    def recall(self, rows: Any, memory: Mapping[str, State]) -> None:
        """Put back what `memory` returned, of these rows or of another autoscaler's; parts left out stay as they are.

        The rows decide from then on as those did; where the settings differ, windows and policies apply to what was
        remembered. History must be of the same interval. Raises ValueError, with nothing changed, where a part does
        not fit.
        """
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        new = dict(memory)
        if "guard" in new:
            try:
                new["guard"] = adopted(new["guard"], taken(self._settings, rows), self._settings)
            except (KeyError, IndexError, TypeError) as problem:
                raise ValueError(f"the memory of the guard is not whole: {problem!r}") from problem
        for part, state in new.items():
            require_alike(part, state, self._parts()[part], len(rows))
        for part, state in new.items():
            put(self._parts()[part], rows, state)

    def follow(self, policy: Policy) -> None:
        """Let another policy decide from now on, with a fresh state of its own; history and guard stay."""
        self._policy = policy.state(len(self.keys))
        self.policy = policy

    def save(self, path: str | Path) -> None:
        """Write all that is remembered, settings and keys included, to one file (arrays and JSON, no code).

        Keys must be strings or integers. The policy itself is not saved.
        """
        for key in self.keys:
            if key is not None and not isinstance(key, (str, int)):
                raise ValueError(f"key {key!r} is a {type(key).__name__}; only strings and integers can be saved")
        about = {"policy": self.policy.name, "keys": self.keys, "free": self._free, "remembers": self.remembers}
        archive.write(path, about, self._parts())

    def _parts(self) -> dict[str, State]:
        return {"settings": self._settings, "history": self._history, "guard": self._guard,
                "policy": self._policy, "rule": self._rule}  # fmt: skip

    @classmethod
    def load(
        cls, path: str | Path, policy: str | Path | Policy = "default", *, fallback: Policy | None = None
    ) -> "Autoscaler":
        """Return the autoscaler that was saved, with a policy that keeps the same state.

        Raises ValueError naming the file where it is no saved autoscaler or the policy's state differs.
        """
        about, parts = archive.read(path)
        scaler = cls(policy, remembers=about["remembers"], fallback=fallback)
        scaler.keys, scaler._free = list(about["keys"]), list(about["free"])
        scaler._present = {key for key in scaler.keys if key is not None}
        for part, state in parts.items():
            scaler._parts()[part].update(state)
        scaler._guard = guard.added_since(len(scaler.keys)) | scaler._guard
        if scaler.remembers:
            scaler._history = period.state(len(scaler.keys)) | scaler._history
        for part, kept in (("policy", scaler.policy.state(1)), ("rule", scaler.fallback.state(1))):
            try:
                require_alike(part, scaler._parts()[part], kept, len(scaler.keys))
            except ValueError as problem:
                text = f"saved with policy {about['policy']!r}, whose state another policy cannot take"
                raise ValueError(f"{path}: {text} ({problem})") from problem
        return scaler
