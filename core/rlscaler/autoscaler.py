"""The decision with its memory: N workloads as rows, one call from what is known to what is decided.

    snapshot -> history -> observation -> policy -> proposal -> guard -> decision

The same object decides in training, dry-run, backtest and cluster; only where snapshots come from and where
decisions go differs.
"""

import io
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from rlscaler import behavior, guard, history
from rlscaler import features as _features
from rlscaler.arrays import Array, State
from rlscaler.files import write_bytes_atomically
from rlscaler.policies import load_policy
from rlscaler.policy import Policy, Proposal, View
from rlscaler.reasons import names, sentence
from rlscaler.rows import Picked, put, stacked, taken, widened
from rlscaler.rules.growth import Growth
from rlscaler.settings import Settings, compiled
from rlscaler.snapshot import Snapshot, cleaned

_SAVED = 1
_BLOCK = 512
"""Rows whose features are computed at once: few enough that the intermediate arrays stay in the cache."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided for N rows at one time, every array of shape (N,).

    rows: int64. replicas: int64, -1 where the present count is unknown and nothing can be decided.
    proposal: float64, what the policy wanted (NaN: no answer). recommendation: float64, what the fallback rule
    wanted. demand: float64 replicas, NaN = unknown. reasons: int64 bits of `Reason`. error: what the policy raised.
    """

    time: np.ndarray
    rows: np.ndarray
    replicas: np.ndarray
    proposal: np.ndarray
    recommendation: np.ndarray
    demand: np.ndarray
    reasons: np.ndarray
    error: str = ""

    def explain(self, index: int = 0) -> dict[str, Any]:
        """Return the decision at `index` as plain values: JSON-ready, unknown numbers as None."""

        def plain(value: float) -> float | None:
            return round(float(value), 6) if np.isfinite(value) else None

        bits = int(self.reasons[index])
        return {
            "time": float(self.time[index]),
            "demand": plain(self.demand[index]),
            "recommendation": plain(self.recommendation[index]),
            "proposal": plain(self.proposal[index]),
            "replicas": int(self.replicas[index]),
            "reasons": list(names(bits)),
            "sentence": sentence(bits),
        }


class Autoscaler:
    """Decides for rows of workloads and owns what it remembers of them.

    policy: the name of a built-in policy, the path of an artifact, or any object with the shape of `Policy`.
    settings: of the rows that it starts with; workloads: how many (keys 0 to workloads - 1).
    fallback: the rule that steps in for the policy, and whose recommendation stands beside it (None: `default`).
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
        self.fallback: Policy = fallback if fallback is not None else load_policy("default")
        self.remembers = remembers
        self.keys: list[Hashable | None] = []
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
        present = {key for key in self.keys if key is not None}
        for key in keys:
            if key is None or key in present:
                raise ValueError(f"key {key!r} is {'not allowed' if key is None else 'present already'}")
            present.add(key)
        arrays = compiled(settings, len(keys))
        reused = [self._free.pop() for _ in range(min(len(keys), len(self._free)))]
        extra = len(keys) - len(reused)
        rows = np.array(reused + list(range(len(self.keys), len(self.keys) + extra)), np.int64)
        if extra:
            self.keys.extend([None] * extra)
            self._extend({name: array[len(reused) :] for name, array in arrays.items()}, extra)
        for key, row in zip(keys, rows, strict=True):
            self.keys[int(row)] = key
        self._live = None
        self._set(rows, arrays)
        self.reset(rows)
        return rows

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

    def _set(self, rows: np.ndarray, arrays: State) -> None:
        """Write compiled settings into rows, widening the columns of policies where these have more of them."""
        for name, array in arrays.items():
            mine = widened(self._settings[name], array)
            mine[rows] = widened(array, mine)
            self._settings[name] = mine
        self._guard = behavior.resized(self._guard, self._settings)

    def update(self, rows: Any, settings: Settings) -> None:
        """Give the rows new settings; what is remembered of them stays."""
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        self._set(rows, compiled(settings, len(rows)))

    def reset(self, rows: Any) -> None:
        """Forget all that is remembered of the rows."""
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        fresh = self._fresh(len(rows))
        for state, new in zip((self._history, self._guard, self._policy, self._rule), fresh, strict=True):
            put(state, rows, new)
        self._guard = behavior.resized(self._guard, self._settings)

    def remove(self, rows: Any) -> None:
        """Free the rows; no other row's decisions change."""
        for row in np.atleast_1d(np.asarray(rows, np.int64)):
            if self.keys[int(row)] is None:
                raise ValueError(f"row {int(row)} is not in use")
            self.keys[int(row)] = None
            self._free.append(int(row))
        self._live = None

    def fill(self, rows: Any, times: Any, values: Any) -> None:
        """Take in load read back from a store, oldest first, as if it had been seen tick by tick.

        times: (T,) seconds, ascending. values: (N, T) requests/s, NaN = unknown.
        """
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        values = np.asarray(values, np.float64)
        times = np.asarray(times, np.float64)
        if values.shape != (len(rows), len(times)):
            raise ValueError(f"values has shape {values.shape}; expected {(len(rows), len(times))}, rows by times")
        for column, time in enumerate(times):
            self._remember(rows, np.full(len(rows), time), values[:, column])

    def _remember(self, rows: np.ndarray, time: np.ndarray, load: np.ndarray) -> None:
        load = np.where((load >= 0) & np.isfinite(load), load, np.nan)
        intervals = self._settings["interval"][rows]
        for interval in np.unique(intervals):
            mine = intervals == interval
            settings = taken(self._settings, rows[mine])
            history.record(np, self._history, rows[mine], time[mine], load[mine], settings, float(interval))

    def remember(self, snapshot: Snapshot, rows: Any = None) -> State:
        """Take in the snapshot's load and return the features of the rows (None: all live rows)."""
        which = self.rows if rows is None else np.atleast_1d(np.asarray(rows, np.int64))
        snap = cleaned(np, snapshot, len(which), self._settings["interval"])
        self._remember(which, snap["time"], snap["load"])
        return self._features(which, snap["time"])

    def _features(self, rows: np.ndarray, time: np.ndarray) -> State:
        intervals = self._settings["interval"][rows]
        out: State = {}
        for interval in np.unique(intervals):
            same = np.flatnonzero(intervals == interval)
            for begin in range(0, len(same), _BLOCK):
                mine = same[begin : begin + _BLOCK]
                settings = taken(self._settings, rows[mine])
                part = _features.features(np, self._history, rows[mine], time[mine], settings, float(interval))
                if len(mine) == len(rows):
                    return part
                for name, array in part.items():
                    out.setdefault(name, np.zeros((len(rows), *array.shape[1:]), np.float32))[mine] = array
        return out

    def view(self, snapshot: Snapshot, rows: Any = None, features: Mapping[str, Array] | None = None) -> View:
        """Take in the snapshot and return what a policy may look at.

        features: of the same rows, made by another's `remember` of the same load; None: made here.
        """
        some = self._which(rows)
        which = self.rows if some is None else some
        snap = cleaned(np, snapshot, len(which), self._settings["interval"])
        if features is None:
            self._remember(which, snap["time"], snap["load"])
            features = self._features(which, snap["time"])
        settings = taken(self._settings, some)
        current = np.where(np.isnan(snap["desired"]), snap["ready"] + snap["starting"], snap["desired"])
        return View(
            xp=np,
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
        """Decide on a view that was taken for these rows (None: all, none free)."""
        which = rows
        error = ""
        memory = taken(self._policy, which)
        try:
            proposal, memory = self.policy.propose(view, memory)
            if np.shape(proposal.replicas) != view.demand.shape:
                raise ValueError(f"the policy proposed {np.shape(proposal.replicas)}, not {view.demand.shape}")
            put(self._policy, which, memory)
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
            proposal = Proposal(replicas=np.full(view.demand.shape, np.nan))
        return replace(self.settle(view, proposal, which), error=error)

    def settle(self, view: View, proposal: Proposal, rows: np.ndarray | None = None) -> Decisions:
        """Put a proposal for the rows of `view` through the guard; for callers whose policy is elsewhere."""
        if self.policy is self.fallback or (type(self.policy) is Growth and self.policy == self.fallback):
            recommendation = proposal.replicas
        else:
            memory = taken(self._rule, rows)
            ruled, memory = self.fallback.propose(view, memory)
            put(self._rule, rows, memory)
            recommendation = ruled.replicas
        state = taken(self._guard, rows)
        replicas, bits, state = guard.settle(np, view, dict(state), proposal, recommendation)
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

    def save(self, path: str | Path) -> None:
        """Write all that is remembered, settings and keys included, to one file (arrays and JSON, no code).

        Keys must be strings or integers. The policy itself is not saved.
        """
        for key in self.keys:
            if key is not None and not isinstance(key, (str, int)):
                raise ValueError(f"key {key!r} is a {type(key).__name__}; only strings and integers can be saved")
        about = {"saved": _SAVED, "policy": self.policy.name, "keys": self.keys, "free": self._free,
                 "remembers": self.remembers}  # fmt: skip
        arrays = {f"{part}/{name}": array for part, state in self._parts().items() for name, array in state.items()}
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_bytes_atomically(Path(path), buffer.getvalue())

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
        try:
            with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in saved.files}
            about = json.loads(arrays.pop("about").tobytes())
            if about["saved"] != _SAVED:
                raise ValueError(f"saved format {about['saved']!r}; expected {_SAVED}")
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as problem:
            raise ValueError(f"{path}: no saved autoscaler ({problem})") from problem
        scaler = cls(policy, remembers=about["remembers"], fallback=fallback)
        scaler.keys, scaler._free = list(about["keys"]), list(about["free"])
        for name, array in arrays.items():
            part, _, key = name.partition("/")
            scaler._parts()[part][key] = array
        expected = {**{f"policy/{k}": v.shape[1:] for k, v in scaler.policy.state(1).items()},
                    **{f"rule/{k}": v.shape[1:] for k, v in scaler.fallback.state(1).items()}}  # fmt: skip
        found = {name: a.shape[1:] for name, a in arrays.items() if name.startswith(("policy/", "rule/"))}
        if expected != found:
            raise ValueError(f"{path}: saved with policy {about['policy']!r}, whose state another policy cannot take")
        return scaler


@dataclass(slots=True)
class Panel:
    """Several policies side by side, each for its own rows: how contenders are compared on the same draws.

    members: (policy, rows) pairs; rows are positions in the view, (n,) int64, disjoint and complete.
    """

    members: Sequence[tuple[Policy, np.ndarray]]
    name: str = "panel"
    _sizes: tuple[int, ...] = field(init=False, default=())

    def state(self, n: int) -> State:
        """Return the members' states side by side, each as long as the panel (only its own rows are used)."""
        out: State = {}
        for index, (policy, _) in enumerate(self.members):
            out |= {f"{index}/{name}": array for name, array in policy.state(n).items()}
        return out

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Ask each member about its own rows."""
        n = view.demand.shape[0]
        replicas, patience = np.full(n, np.nan), np.zeros(n)
        reasons, trained, tolerated = np.zeros(n, np.int64), np.ones(n, bool), np.zeros(n, bool)
        for index, (policy, rows) in enumerate(self.members):
            part = View(
                xp=view.xp,
                settings=Picked(view.settings, rows),
                snapshot=Picked(view.snapshot, rows),
                features=Picked(view.features, rows),
                demand=view.demand[rows],
                current=view.current[rows],
            )
            prefix = f"{index}/"
            memory = {k.removeprefix(prefix): v[rows] for k, v in state.items() if k.startswith(prefix)}
            proposal, memory = policy.propose(part, memory)
            for name, array in memory.items():
                state[prefix + name][rows] = array
            replicas[rows] = proposal.replicas
            for target, value in ((patience, proposal.patience), (reasons, proposal.reasons),
                                  (trained, proposal.trained), (tolerated, proposal.tolerated)):  # fmt: skip
                if value is not None:
                    target[rows] = value
        return Proposal(replicas=replicas, patience=patience, reasons=reasons, trained=trained,
                        tolerated=tolerated), state  # fmt: skip
