"""A longer history of workloads that is made while they are decided on, and then taken over."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from rlscaler import Autoscaler
from rlscaler.settings import Settings, joined
from rlscaler_operator.model import Key

Home = tuple[Autoscaler, int]
"""Who decides for a workload, and its row there."""


class Attic:
    """Rows beside those that are decided on. keys: of the workloads."""

    def __init__(self, members: Mapping[Key, Settings], home: Callable[[Key], Home | None]) -> None:
        """Take the workloads with their settings. home: where each is decided, None where it is not any more."""
        self.keys = list(members)
        self._rows = {key: row for row, key in enumerate(self.keys)}
        self._home = home
        self._filled, self._phase = np.zeros(len(self.keys), bool), np.zeros(len(self.keys))
        self._scaler = Autoscaler()
        if self.keys:
            self._scaler.add(self.keys, joined(list(members.values())))

    def fill(self, keys: Iterable[Key], times: np.ndarray, values: np.ndarray) -> None:
        """Take in load of some of them, oldest first. times: (N, T) seconds. values: (N, T) requests/s."""
        rows = np.array([self._rows[key] for key in keys], np.int64)
        self._scaler.fill(rows, times, values)
        self._filled[rows] = True
        interval = self._scaler.settings(rows)["interval"]
        self._phase[rows] = times[:, -1] - np.floor(times[:, -1] / interval + 1e-6) * interval

    @property
    def behind(self) -> int:
        """The samples that the workloads have lived through since the last that was taken in here, at most."""
        return max((int(late.max(initial=0)) for *_, late in self._homes()), default=0)

    def live_through(self, count: int) -> None:
        """Take in what the workloads have lived through since the last that was taken in, `count` samples at most."""
        for scaler, rows, live, late in self._homes():
            some = late > 0
            if some.any():
                mine, interval = rows[some], self._scaler.settings(rows[some])["interval"]
                width = min(count, int(late[some].min()))
                slots, values = scaler.samples(live[some], self._scaler.slots(mine), width)
                self._scaler.fill(mine, slots * interval[:, None] + self._phase[mine][:, None], values)

    def _homes(self) -> Iterator[tuple[Autoscaler, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield who decides for workloads whose past was found: the autoscaler, (N,) their rows here and there, and how
        many samples they are ahead there; without those whose interval has changed, or that went.
        """
        homes: dict[int, tuple[Autoscaler, list[int], list[int]]] = {}
        for key, row in self._rows.items():
            if self._filled[row] and (home := self._home(key)) is not None:
                _, rows, live = homes.setdefault(id(home[0]), (home[0], [], []))
                rows.append(row)
                live.append(home[1])
        for scaler, *both in homes.values():
            mine, theirs = (np.array(rows, np.int64) for rows in both)
            same = scaler.settings(theirs)["interval"] == self._scaler.settings(mine)["interval"]
            mine, theirs = mine[same], theirs[same]
            yield scaler, mine, theirs, scaler.slots(theirs) - self._scaler.slots(mine)

    def adopt(self) -> None:
        """Give the workloads this history in place of theirs, where any was found."""
        while self.behind:
            self.live_through(self.behind)
        for scaler, rows, live, _ in self._homes():
            if len(rows):
                scaler.recall(live, self._scaler.memory(rows, ("history",)))
