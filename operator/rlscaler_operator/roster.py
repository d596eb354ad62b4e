"""Who is decided when: groups of workloads in the order in which they fall due. Pure; time is an argument."""

import heapq
import math
from collections.abc import Iterable

from rlscaler_operator.model import Key
from rlscaler_operator.queries import Group


class Roster:
    """The groups and their members."""

    def __init__(self) -> None:
        """Start empty."""
        self._members: dict[Group, dict[Key, None]] = {}
        self._group: dict[Key, Group] = {}
        self._heap: list[tuple[float, int, Group]] = []
        self._due: dict[Group, float] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return the number of workloads."""
        return len(self._group)

    def __contains__(self, key: Key) -> bool:
        """Tell whether the workload is decided at all."""
        return key in self._group

    @property
    def groups(self) -> Iterable[Group]:
        """The groups that have members."""
        return self._members.keys()

    def group(self, key: Key) -> Group:
        """Return a member's group."""
        return self._group[key]

    def members(self, group: Group) -> list[Key]:
        """Return the members of a group."""
        return list(self._members.get(group, ()))

    def place(self, key: Key, group: Group, now: float) -> None:
        """Put a workload into a group, out of its former one; a new group is due at its next moment."""
        if self._group.get(key) == group:
            return
        self.remove(key)
        self._group[key] = group
        members = self._members.setdefault(group, {})
        members[key] = None
        if group not in self._due:
            self._push(group, group.due_after(now))

    def remove(self, key: Key) -> None:
        """Take a workload out."""
        group = self._group.pop(key, None)
        if group is None:
            return
        members = self._members[group]
        del members[key]
        if not members:
            del self._members[group]
            self._due.pop(group, None)

    def _push(self, group: Group, due: float) -> None:
        self._due[group] = due
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, group))

    def next_due(self) -> float:
        """Return when the next group falls due, infinity where there is none."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> list[tuple[float, Group]]:
        """Return the groups that are due, each with the moment it was due at, and set their next moments.

        A group that has fallen behind by more than an interval is due once, not once for each moment it missed.
        """
        found = []
        while self.next_due() <= now:
            due, _, group = heapq.heappop(self._heap)
            found.append((max(due, group.due_after(now) - group.interval), group))
            self._push(group, group.due_after(now))
        return found
