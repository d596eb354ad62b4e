"""Rollouts in other processes, on Ray: few fat actors, here or on a cluster, each with environments and a policy copy.

A remote call costs the better part of a millisecond, so a call makes a whole chunk, and two calls of each actor are
under way: one is worked on while the other waits, and the learner finds a chunk whenever it comes for one. Weights go
into the object store once for each version; an actor fetches them when it meets a version that it does not have.
Chunks are taken in the order in which they were asked for, of those that are there, so that a busy learner treats all
actors alike. In lockstep an actor makes one chunk of each version instead, and waits for the next.

Whatever dies is replaced, by an actor with other random numbers, and counted; whatever does not answer within the time
limit is killed and replaced, and so is what decides by another version than it was told. An actor that comes to
nothing LIVES times in a row is given up: the others go on, and the last one ends the training with its reason.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from rlscaler.errors import UserError
from rlscaler_training.ray_cluster import first_line
from rlscaler_training.rollouts import DROPPED, MISMATCHED, Chunk, Counts, Data, Maker, Worker

IN_FLIGHT = 2
"""Calls of each actor that are under way."""
LIVES = 3
"""Actors in a row that may come to nothing, before their place is given up."""
GLANCE = 1.0
"""Seconds after which a learner that waits is asked whether it still wants to."""
TIMEOUT = 120.0
"""Seconds within which an actor answers: the start of its process and the imports of torch are part of it."""
LESS = "expected fewer environments, fewer workers or more memory"


class _Actor:
    """What runs in the other process: a worker, and which version of the weights it has.

    The worker is made by the first call, so that what is wrong with it is told as what is wrong with a chunk.
    """

    def __init__(self, make: Maker, number: int, life: int) -> None:
        self.made: Callable[[], Worker] = lambda: make(number, life)
        self.worker: Worker | None = None
        self.version = 0

    def collect(self, version: int, boxed: list[Any]) -> tuple[int, int, Data]:
        """Return the version decided by, this process, and a chunk. boxed: the weights' reference, not resolved."""
        import ray

        if self.worker is None:
            self.worker = self.made()
        if version != self.version:
            self.worker.load(ray.get(boxed[0], timeout=TIMEOUT))
            self.version = version
        return self.version, os.getpid(), self.worker.collect()


@dataclass(slots=True)
class _Held:
    """An actor of ours. given: chunks that it has given. since: when it was last heard of. failures: in a row. lost:
    nobody is there any more."""

    handle: Any
    life: int = 0
    given: int = 0
    since: float = 0.0
    failures: int = 0
    lost: bool = False


@dataclass(frozen=True, slots=True)
class _Call:
    worker: int
    life: int
    asked: int


@dataclass(slots=True)
class Remote:
    """Workers in processes of their own. limit: versions that a chunk may be behind. timeout: seconds of an answer.

    To be used within `ray_cluster.cluster`. ahead: calls of each worker that are under way. lockstep: each worker makes
    one chunk of each version, so that nothing is stale and `workers` chunks are one of each. glance: called every
    GLANCE seconds that the learner waits; what it raises ends the wait. processes: of the workers, by number, as far as
    they have answered.
    """

    make: Maker
    workers: int
    limit: int
    timeout: float = TIMEOUT
    ahead: int = IN_FLIGHT
    lockstep: bool = False
    glance: Callable[[], object] = lambda: None
    version: int = 0
    counts: Counts = field(default_factory=Counts)
    processes: dict[int, int] = field(default_factory=dict)
    _held: list[_Held] = field(default_factory=list)
    _calls: dict[Any, _Call] = field(default_factory=dict)
    _weights: Any = None
    _made: Any = None

    def __post_init__(self) -> None:
        """Start the actors; they wait for weights."""
        import ray

        self._made = ray.put(self.make)  # once for all: it may hold hours of load
        self._held = [_Held(self._started(number, 0)) for number in range(self.workers)]

    def _started(self, number: int, life: int) -> Any:
        import ray

        made: Any = ray.remote(_Actor)
        return made.options(num_cpus=1, max_restarts=0, max_task_retries=0).remote(self._made, number, life)

    def publish(self, weights: Any) -> int:
        """Let workers decide by these weights from their next call on; return their version."""
        import ray

        self._weights, self.version = ray.put(weights), self.version + 1
        self.counts.broadcasts += 1
        if self.version == 1 or self.lockstep:
            for number in range(self.workers):
                self._fill(number)
        return self.version

    def _mine(self, number: int) -> list[Any]:
        """Return the calls of an actor that are under way, the first one first."""
        return [reference for reference, call in self._calls.items() if call.worker == number]

    def _fill(self, number: int) -> None:
        """Have as many calls of an actor under way as there should be."""
        held = self._held[number]
        if held.lost:
            return
        mine = len(self._mine(number))
        if not mine:
            held.since = time.monotonic()
        for _ in range(mine, 1 if self.lockstep else self.ahead):
            call = held.handle.collect.remote(self.version, [self._weights])
            self._calls[call] = _Call(number, held.life, self.version)

    def next(self) -> Chunk:
        """Return the first chunk that is there and not too old.

        Raises UserError where the last actor came to nothing LIVES times in a row, whether it died or was silent; in
        lockstep, where any did.
        """
        import ray

        if not self.version:
            raise RuntimeError("chunks are made by weights: publish some first")
        begun = time.monotonic()
        try:
            while True:
                ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=min(self._patience(), GLANCE))
                if not ready:
                    self.glance()
                    self._replace_silent()
                    continue
                # An actor works in the order of its calls, but a later answer may be seen first.
                first = self._mine(self._calls[ready[0]].worker)[0]
                if (found := self._taken(first)) is not None:
                    return found
        finally:
            self.counts.waited += time.monotonic() - begun

    def _patience(self) -> float:
        """Return the seconds until the first actor will have been silent for too long."""
        working = {call.worker for call in self._calls.values()}
        return max(min(self._held[number].since for number in working) + self.timeout - time.monotonic(), 0.0)

    def _taken(self, reference: Any) -> Chunk | None:
        """Return the chunk of a call that has come to an end; None where there is none to be used."""
        import ray
        from ray import exceptions

        call = self._calls.pop(reference)
        held = self._held[call.worker]
        try:
            version, process, data = ray.get(reference, timeout=self.timeout)
        except exceptions.RayTaskError as error:
            raise _failed(call.worker, error) from error
        except exceptions.RayError as error:
            self.glance()  # perhaps there is nothing left to have another one on
            self._replace(call.worker, _reason(error))
            return None
        judged = self.counts.judge(call.asked, version, self.version, self.limit)
        if judged == MISMATCHED:
            self._replace(call.worker, f"it decided by version {version:,} of the policy; expected {call.asked:,}")
            return None
        held.since, held.failures = time.monotonic(), 0
        self.processes[call.worker] = process
        number, held.given = held.given, held.given + 1
        if not self.lockstep:
            self._fill(call.worker)
        if judged == DROPPED:
            return None
        return Chunk(call.worker, call.life, number, version, self.version - version, data)

    def _replace_silent(self) -> None:
        """Replace the actors that have not answered in time; a learner that was away itself finds answers first."""
        import ray

        late = time.monotonic() - self.timeout
        for number, held in enumerate(self._held):
            mine = self._mine(number)
            if not mine or held.since > late:
                continue
            if not ray.wait(mine, num_returns=1, timeout=0)[0]:
                self.counts.silent += 1
                self._replace(number, f"no answer within {self.timeout:g} s")

    def _replace(self, number: int, why: str) -> None:
        """Put another actor in the place of one that is of no use, or nobody where that was tried enough.

        Raises UserError where nobody would be left, or all are needed.
        """
        import ray

        held = self._held[number]
        for reference in self._mine(number):
            del self._calls[reference]
        with suppress(Exception):  # it is dead, or will be
            ray.kill(held.handle)
        self.processes.pop(number, None)
        self.counts.replaced += 1
        if held.failures + 1 >= LIVES:
            held.lost, self.counts.lost = True, self.counts.lost + 1
            if self.lockstep or all(each.lost for each in self._held):
                raise UserError(f"worker {number} came to nothing {LIVES} times in a row, at last: {why}")
            return
        life = held.life + 1
        self._held[number] = _Held(self._started(number, life), life, failures=held.failures + 1)
        self._fill(number)

    def close(self) -> None:
        """Kill the actors."""
        import ray

        for held in self._held:
            with suppress(Exception):  # the cluster may be gone
                ray.kill(held.handle)
        self._held, self._calls, self._weights, self._made = [], {}, None, None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the actors."""
        self.close()


def _reason(error: Any) -> str:
    """Return why an actor is no more."""
    from ray import exceptions

    if isinstance(error, exceptions.OutOfMemoryError):
        return f"it was ended for want of memory; {LESS}"
    if isinstance(error, exceptions.RayActorError):
        return f"its process or its machine ended, as where it is killed for want of memory ({first_line(error)})"
    return first_line(error)


def _failed(worker: int, error: Any) -> UserError:
    """Return what a mistake in a worker's own code is told as."""
    cause = error.cause
    if isinstance(cause, UserError):
        return cause
    if isinstance(cause, MemoryError):
        return UserError(f"worker {worker} is out of memory: {first_line(cause)}; {LESS}")
    return UserError(f"worker {worker} failed: {type(cause).__name__}: {first_line(cause)}")
