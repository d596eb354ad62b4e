"""The decision for environments that live on a device: what `Autoscaler` does for rows without a history of their own.

The same pure functions on the same settings (`snapshot.cleaned`, `guard.settle`), with the guard's memory as tensors.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlscaler import Settings, Snapshot, behavior, guard
from rlscaler.arrays import Array, State, namespace
from rlscaler.budget import WINDOW
from rlscaler.decisions import Decisions
from rlscaler.policy import Proposal, View
from rlscaler.settings import compiled
from rlscaler.snapshot import cleaned


class DeviceScaler:
    """Views of N workloads and the guard's verdict on proposals, arrays of the library and device of `like`."""

    def __init__(self, settings: Settings, n: int, like: Array, kinds: int = 0) -> None:
        """Start with n rows that nothing is remembered of.

        kinds: 0, or how many settings are handed in, scalars or (kinds,), of which each row takes one (`become`); all
        rows begin with the first. One behaviour for all.
        """
        self._xp, self._n, self._like = namespace(like), n, like
        about = compiled(settings, kinds or n)
        if not np.isfinite(about[WINDOW]).any():  # else each decision would ask the device for it, and wait
            del about[WINDOW]
        self._kinds = self._moved(about) if kinds else {}
        about = {name: array[np.zeros(n, np.int64)] for name, array in about.items()} if kinds else about
        fresh = behavior.resized(guard.state(about, n), about)
        self._settings, self._fresh = self._moved(about), self._moved(fresh)
        self._guard = self._moved(fresh)
        self._rows = self._xp.arange(n, device=like.device)

    def _moved(self, state: State) -> State:
        return {name: self._xp.asarray(array, device=self._like.device, copy=True) for name, array in state.items()}

    def become(self, rows: Array, kinds: Array) -> None:
        """Give the rows the settings of these kinds; views that were taken before keep theirs."""
        self._settings = {name: self._xp.asarray(array, copy=True) for name, array in self._settings.items()}
        for name, array in self._kinds.items():
            self._settings[name][rows] = array[kinds]

    def reset(self, rows: Array) -> None:
        """Forget all that is remembered of the rows."""
        for name, array in self._fresh.items():
            self._guard[name][rows] = array[rows]

    def view(self, snapshot: Snapshot, *, features: Mapping[str, Array]) -> View:
        """Return what a policy may look at; see `Autoscaler.view`."""
        xp = self._xp
        snap = cleaned(xp, snapshot, self._n, self._like)
        current = xp.where(xp.isnan(snap["desired"]), snap["ready"] + snap["starting"], snap["desired"])
        return View(
            xp=xp,
            settings=self._settings,
            snapshot=snap,
            features=features,
            demand=snap["load"] / self._settings["capacity_per_replica"],
            current=current,
        )

    def settle(self, view: View, proposal: Proposal) -> Decisions:
        """Put a proposal through the guard; see `Autoscaler.settle`."""
        xp, memory = self._xp, dict(self._guard)
        replicas, bits, self._guard = guard.settle(xp, view, memory, proposal, proposal.replicas)
        whole: Any = xp.astype(xp.where(xp.isnan(replicas), -1.0, replicas), xp.int64)
        return Decisions(
            time=view.snapshot["time"],
            rows=self._rows,
            replicas=whole,
            proposal=proposal.replicas,
            recommendation=proposal.replicas,
            demand=view.demand,
            reasons=bits,
        )
