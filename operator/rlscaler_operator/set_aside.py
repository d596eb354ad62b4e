"""What policies remembered of workloads that others decide for now, as the ones asked for cannot be had: kept for them.

Without it, whoever restarts while a policy's file is gone, or refused, would earn anew for hours what it had earned.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from rlscaler.arrays import State
from rlscaler.rows import taken
from rlscaler_operator.model import Key

_OWN = ("policy", "leader", "interval")
"""The parts of a memory that are a policy's alone, each followed by its name (`pools.Pool.called`)."""


class SetAside:
    """Parts of memories by workload."""

    def __init__(self) -> None:
        """Start empty."""
        self._parts: dict[Key, dict[str, State]] = {}

    def put(self, key: Key, parts: Mapping[str, State], row: int, mine: Iterable[str]) -> None:
        """Set aside what other policies remembered in a row of a memory. mine: parts of the one that decides."""
        others = [name for name in parts if name.partition(" ")[0] in _OWN and name not in mine]
        if others:
            self._parts[key] = {name: taken(parts[name], np.array([row])) for name in others}

    def pop(self, key: Key) -> Mapping[str, State]:
        """Return what was set aside of a workload, and forget it."""
        return self._parts.pop(key, {})

    def alike(self, keys: Iterable[Key]) -> Iterator[tuple[list[Key], dict[str, State]]]:
        """Yield the workloads together of which alike parts, or none, are set aside, with these."""
        groups: dict[tuple[object, ...], list[Key]] = {}
        for key in keys:
            shape = ((name, tuple((which, array.shape, array.dtype) for which, array in state.items()))
                     for name, state in self._parts.get(key, {}).items())  # fmt: skip
            groups.setdefault(tuple(shape), []).append(key)
        for members in groups.values():
            first = self._parts.get(members[0], {})
            yield members, {name: {which: np.concatenate([self._parts[key][name][which] for key in members])
                                   for which in state} for name, state in first.items()}  # fmt: skip
