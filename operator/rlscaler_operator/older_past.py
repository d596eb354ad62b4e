"""The past before the last hour, read in the background and at leisure: nobody waits for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

import numpy as np

from rlscaler.history import RING
from rlscaler_operator import past
from rlscaler_operator.leading import Leader
from rlscaler_operator.model import Key
from rlscaler_operator.past_loads import SLICE, Loads, PastLoads, alike

EVERY = 0.2
"""Seconds between two looks at who waits."""
AT_ONCE = 256
"""Workloads whose past is taken in together: more cost memory, fewer cost time."""
PIECE = 40 * past.HOUR
"""Seconds of the older past that are read at a time."""
DUTY, LONGEST_REST = 4.0, 0.5
"""Seconds of rest for each second of work on the older past, and at most after one piece of it."""
LIVED = 0.5 * past.HOUR
"""Seconds before now that are not read again with the older past: what has been lived through since is known."""
TRIES = 3
"""Times at most that reading follows the present, from a source so slow that what was lived through is forgotten."""


class OlderPast:
    """Gives workloads the rest of their past, a few at a time."""

    def __init__(self, leader: Leader, loads: PastLoads, history: Callable[[], float]) -> None:
        """Take the leader and who reads its past. history: seconds of past load to read back."""
        self._leader, self._past, self._history = leader, loads, history
        self._waiting: list[Key] = []

    def add(self, keys: Iterable[Key]) -> None:
        """Let workloads wait for the rest of their past."""
        self._waiting += keys

    async def read_on(self) -> None:
        """Read what lies before the last hour, a few workloads at a time, until cancelled.

        Those whose source does not answer wait until it does, so that its fault costs them no history.
        """
        while True:
            await asyncio.sleep(EVERY)
            if some := [key for key in self._waiting if self._has_past(key)][:AT_ONCE]:
                taken = set(some)
                self._waiting = [key for key in self._waiting if key not in taken]
                await self.read([key for key in some if key in self._leader.decider])

    def _has_past(self, key: Key) -> bool:
        """Tell whether a workload's source can be asked for the past now; True of one that is not decided any more."""
        if key not in self._leader.roster:
            return True
        line = self._leader.collector.lines.get(self._leader.roster.group(key).load.source)
        return line is not None and line.has_past

    async def read(self, keys: Sequence[Key]) -> None:
        """Give workloads all that their sources know from before the last hour."""
        leader = self._leader
        intervals: dict[float, list[Key]] = {}
        for key in keys:
            if key in leader.roster:
                intervals.setdefault(leader.roster.group(key).interval, []).append(key)
        for members in intervals.values():
            await self._fill(members)

    async def _fill(self, keys: Sequence[Key]) -> None:
        """Make the whole history of workloads of one interval, oldest first, and let them have it."""
        leader = self._leader
        asked = {key: self._past.asked(key) for key in keys}
        attic = leader.decider.attic(keys, lambda key: self._past.asked(key) == asked[key])
        start, lives = leader.clock.now() - self._history(), RING * leader.roster.group(keys[0]).interval
        lived = min(LIVED, 0.5 * lives)
        for _ in range(TRIES):
            goal = leader.clock.now() - lived
            while start < goal:
                end = min(start + PIECE, goal)
                loads = await self._between(attic.keys, start, end)
                for members in alike(loads):
                    for times, values in _slices([loads[key] for key in members]):
                        if np.isfinite(values).any():  # else it is unknown either way
                            async with self._at_leisure():
                                attic.fill(members, times, values)
                start = end
            if start > leader.clock.now() - lives + lived:
                break  # all since then is remembered
        while attic.behind > SLICE:
            async with self._at_leisure():
                attic.live_through(SLICE)
        attic.adopt()

    async def _between(self, keys: Iterable[Key], start: float, end: float) -> dict[Key, Loads]:
        """Return what is known of the loads in (start, end]: most of a week is before a workload was born."""
        found: dict[Key, Loads] = {}
        for group, members in self._past.groups(keys).items():
            async with self._at_leisure():
                part = await self._past.of_group(group, members, start, end)
                for key, (times, values) in part.items():
                    if np.isfinite(values).any():
                        found[key] = Loads(times, values.astype(np.float32))  # as it is remembered
        return found

    @contextlib.asynccontextmanager
    async def _at_leisure(self) -> AsyncIterator[None]:
        """Rest after a piece of work that nobody waits for."""
        clock = self._leader.clock
        began = clock.monotonic()
        yield
        await asyncio.sleep(min(DUTY * (clock.monotonic() - began), LONGEST_REST))


def _slices(loads: Sequence[Loads]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield times and loads (N, SLICE), oldest first, of samples that are as many: a week of all would be large."""
    for begin in range(0, len(loads[0].times), SLICE):
        part = slice(begin, begin + SLICE)
        yield np.array([each.times[part] for each in loads]), np.array([each.values[part] for each in loads])
