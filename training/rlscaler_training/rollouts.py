"""Where a learner's experience comes from: chunks made in this process, or in others (`rollouts_ray`), told alike.

A worker holds environments and a copy of the policy and gives back whole contiguous chunks of what it met. A learner
publishes its weights and takes the next chunk, whoever made it:

    with rollouts.Local(make, workers=1) as source:
        source.publish(weights)
        chunk = source.next()

A chunk says by which version of the weights it was made. Those made by an older one than the newest are stale; a
learner that learns off its policy can use them, one on its policy corrects them, and beyond a limit they are dropped.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np

Data = Mapping[str, np.ndarray]
FRESH, STALE, DROPPED, MISMATCHED = "fresh", "stale", "dropped", "mismatched"
"""What becomes of a chunk: it is of the newest version; of an older one and used; too old; not of the one asked for."""


class Worker(Protocol):
    """Environments and a copy of the policy. Deterministic with its number, its life and the weights it is given."""

    def load(self, weights: Any) -> None:
        """Take over the policy's weights."""

    def collect(self) -> Data:
        """Return the next chunk: arrays by name, which are the receiver's own."""
        ...


Maker = Callable[[int, int], Worker]
"""(number of the worker, its life: how many died before it) -> worker. Sent to other processes, so made of a module's
functions and plain values."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a worker met. number: of the chunk among the worker's. version: of the weights it decided by.

    behind: versions that have been published since.
    """

    worker: int
    life: int
    number: int
    version: int
    behind: int
    data: Data


@dataclass(slots=True)
class Counts:
    """What happened so far. chunks: given to the learner; stale ones are among them, dropped and mismatched are not.

    behind: versions that given chunks were behind, summed. replaced: workers that died, those that did not answer in
    time (silent), and those that decided by another version than they were told. lost: those of them that nobody could
    replace. waited: seconds that the learner waited for chunks. broadcasts: versions that were published.
    """

    chunks: int = 0
    stale: int = 0
    dropped: int = 0
    mismatched: int = 0
    behind: int = 0
    replaced: int = 0
    silent: int = 0
    lost: int = 0
    waited: float = 0.0
    broadcasts: int = 0

    def judge(self, asked: int, made: int, newest: int, limit: int) -> str:
        """Count a chunk and return what becomes of it.

        asked, made: version that the worker was told to decide by, and that it decided by. limit: how many versions
        a chunk may be behind.
        """
        behind = newest - made
        if made != asked:
            self.mismatched += 1
            return MISMATCHED
        if behind > limit:
            self.dropped += 1
            return DROPPED
        self.chunks += 1
        self.behind += behind
        self.stale += behind > 0
        return STALE if behind else FRESH

    @property
    def staleness(self) -> float:
        """Versions that a given chunk was behind, on average."""
        return self.behind / max(self.chunks, 1)


class Rollouts(Protocol):
    """A source of chunks. workers: how many make them. version: of the newest weights, 0 before any."""

    workers: int
    version: int
    counts: Counts

    def publish(self, weights: Any) -> int:
        """Let workers decide by these weights from their next chunk on; return their version."""
        ...

    def next(self) -> Chunk:
        """Return a chunk that has not been returned, the first that is there. Raises UserError where none comes."""
        ...

    def close(self) -> None:
        """End the workers."""


def gathered(source: Rollouts, count: int) -> list[Chunk]:
    """Return so many chunks, by worker and number; one of each worker where these keep step."""
    return sorted((source.next() for _ in range(count)), key=lambda chunk: (chunk.worker, chunk.life, chunk.number))


@dataclass(slots=True)
class Local:
    """Workers in this process, one after the other: nothing is ever stale."""

    make: Maker
    workers: int = 1
    version: int = 0
    counts: Counts = field(default_factory=Counts)
    _made: list[Worker] = field(init=False)
    _loaded: list[int] = field(init=False)
    _given: int = 0
    _weights: Any = None

    def __post_init__(self) -> None:
        """Make the workers."""
        self._made = [self.make(number, 0) for number in range(self.workers)]
        self._loaded = [0] * self.workers

    def publish(self, weights: Any) -> int:
        """Let workers decide by these weights from their next chunk on; return their version."""
        self._weights, self.version = weights, self.version + 1
        self.counts.broadcasts += 1
        return self.version

    def next(self) -> Chunk:
        """Return the next chunk of the next worker."""
        if not self.version:
            raise RuntimeError("chunks are made by weights: publish some first")
        number, worker = divmod(self._given, self.workers)
        if self._loaded[worker] != self.version:
            self._made[worker].load(self._weights)
            self._loaded[worker] = self.version
        self._given += 1
        self.counts.judge(self.version, self.version, self.version, 0)
        return Chunk(worker, 0, number, self.version, 0, self._made[worker].collect())

    def close(self) -> None:
        """Forget the workers."""
        self._made = []

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        self.close()
