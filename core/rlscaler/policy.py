"""What a policy is: anything that turns a view of N workloads into a proposal.

Rules and learned policies are the same kind of thing; the guard comes after either.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rlscaler.arrays import Array, State


@dataclass(slots=True, kw_only=True)
class View:
    """What a policy may look at, for the N workloads that are due. Every array has shape (N,) unless stated.

    xp: the array namespace. settings: see `settings.compiled`. snapshot: see `snapshot.cleaned` (NaN = unknown).
    features: named float32 arrays made of the workload's own history, see `observation.FIELDS`.
    demand: load / capacity_per_replica, in replicas, NaN where either is unknown.
    current: replicas that the target asks for now (`desired` of the snapshot).
    """

    xp: Any
    settings: Mapping[str, Array]
    snapshot: Mapping[str, Array]
    features: Mapping[str, Array]
    demand: Array
    current: Array


@dataclass(slots=True, kw_only=True)
class Proposal:
    """What a policy wants. Every array has shape (N,).

    replicas: float64, need not be whole (the guard rounds up); NaN = no answer.
    reasons: int64 bits of `Reason` (None: none).
    patience: float64 seconds to keep replicas before lowering them (None: 0).
    trained: bool, the input lies within the policy's training range (None: everywhere).
    tolerated: bool, the policy has applied the tolerance of `behavior` itself, as HPA does on the ratio of its
    metric (None: nowhere; the guard then compares the proposal with the present count).
    relative: bool, the replicas follow from those that are there, from measured use or from nothing, and not from
    demand at the stated capacity (None: nowhere; the guard corrects them where that capacity proves to be too high).
    """

    replicas: Array
    reasons: Array | None = None
    patience: Array | None = None
    trained: Array | None = None
    tolerated: Array | None = None
    relative: Array | None = None


@runtime_checkable
class Policy(Protocol):
    """A rule or a learned policy.

    name: what tables and the status call it. state(n): fresh state rows for n workloads (empty for most).
    propose(view, state): the proposal, and the state after it; `state` has one row for each workload of the view.
    """

    name: str

    def state(self, n: int) -> State:
        """Return fresh state for n workloads: arrays whose first axis is n."""
        ...

    def propose(self, view: View, state: State) -> tuple[Proposal, State]:
        """Return the proposal and the new state. Pure: the same arguments give the same answer."""
        ...


@runtime_checkable
class Regridded(Protocol):
    """A policy whose memory is told in intervals, and is another one where these get longer or shorter."""

    def regridded(self, state: State, old: np.ndarray, new: np.ndarray) -> State:
        """Return the memory of N rows that are decided at another interval from now on. old, new: (N,) seconds."""
        ...
