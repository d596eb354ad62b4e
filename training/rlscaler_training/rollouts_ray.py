"""Rollouts in other processes, on Ray: few fat actors, here or on a cluster, each with environments and a policy copy.

A remote call costs the better part of a millisecond, so a call makes a whole chunk, and two calls of each actor are
under way: one is worked on while the other waits, and the learner finds a chunk whenever it comes for one. Weights go
into the object store once for each version; an actor fetches them when it meets a version that it does not have.
Chunks are taken in the order in which they were asked for, of those that are there, so that a busy learner treats all
actors alike.

Whatever dies is replaced, by an actor with other random numbers, and counted; whatever does not answer within the time
limit is killed and replaced. An actor that comes to nothing LIVES times in a row ends the training with its reason.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

from rlscaler.errors import UserError
from rlscaler_training.rollouts import DROPPED, MISMATCHED, Chunk, Counts, Data, Maker, Worker

IN_FLIGHT = 2
"""Calls of each actor that are under way."""
LIVES = 3
"""Actors in a row that may come to nothing, before the training is given up."""
TIMEOUT = 120.0
"""Seconds within which an actor answers: the start of its process and the imports of torch are part of it."""
REACH = 60.0
"""Seconds within which a cluster answers."""
STARTS = 2
"""Times that Ray is started before that is given up."""
STORE = 256 * 2**20
"""Bytes of the object store of a local cluster: chunks and weights are small."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_agent_register_timeout_ms": "120000",
}
"""Environment variables of Ray, unless they are set: nobody is told of it, and a busy machine has time to start."""
LOCAL = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""The same of a local cluster: it listens on loopback alone, as Ray does elsewhere than on Linux, so it takes no token.
Ray reads them when it is first imported."""
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='CRITICAL')"


@contextmanager
def cluster(workers: int, address: str | None = None) -> Iterator[None]:
    """Have Ray with room for so many actors: here, or at an address (HOST:PORT, or ray://HOST:PORT, or auto).

    Goes on with a session that there is. Raises UserError where nothing answers at the address within REACH seconds, or
    it has too few processors; ModuleNotFoundError where Ray is not installed.
    """
    for name, value in (QUIET if address is not None else QUIET | LOCAL).items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        _require_room(workers, address)
        yield
        return
    if address is not None:
        _reach(address)
    where: dict[str, Any] = {"address": address} if address is not None else {
        "address": "local", "num_cpus": max(workers, os.cpu_count() or 1), "include_dashboard": False,
        "object_store_memory": STORE,
    }  # fmt: skip
    _start(where, address)
    try:
        _require_room(workers, address)
        yield
    finally:
        ray.shutdown()


def _start(where: dict[str, Any], address: str | None) -> None:
    """Start Ray, or connect to it, some times over: on a machine that is busy it gives up on itself after 30 s.

    Raises UserError where it does not come up.
    """
    import ray

    before = signal.getsignal(signal.SIGTERM)  # Ray puts its own in place of it
    try:
        for left in range(STARTS - 1, -1, -1):
            try:
                ray.init(**where, log_to_driver=False, logging_level=logging.CRITICAL)
            except Exception as error:  # Ray raises Exception itself where a process of its own is late
                ray.shutdown()
                if not left:
                    raise UserError(f"{_named(address)} cannot be used: {_first_line(error)}") from error
            else:
                return
    finally:
        with suppress(ValueError):  # only a main thread has handlers to put back
            signal.signal(signal.SIGTERM, before)


def processors() -> int:
    """Return how many processors the cluster has."""
    import ray

    return int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]


def _require_room(workers: int, address: str | None) -> None:
    if (room := processors()) < workers:
        raise UserError(f"{_named(address)} has {room} processors; expected one for each of {workers:,} workers")


def _named(address: str | None) -> str:
    return f"the Ray cluster at {address}" if address is not None else "a local Ray cluster"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _reach(address: str) -> None:
    """Raise UserError unless a Ray cluster answers at the address within REACH seconds.

    Ray itself tries for minutes, and ends the process where something else answers: it is tried in a process of its
    own.
    """
    place = address.removeprefix("ray://")
    host, _, port = place.rpartition(":")
    ends = time.monotonic() + REACH
    if address != "auto":
        if not host or not port.isdigit() or not 0 < int(port) < 65_536:
            raise UserError(f"--address {address}: expected HOST:PORT, ray://HOST:PORT or auto")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
        except OSError as error:
            why = error.strerror or error
            raise UserError(f"--address {address}: nothing answers there: {why}; expected a Ray cluster") from error
    try:
        subprocess.run([sys.executable, "-c", _PROBE, address], check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                       timeout=max(ends - time.monotonic(), 1.0))  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(f"--address {address}: no Ray cluster answers there within {REACH:g} s") from None
    except subprocess.CalledProcessError:
        raise UserError(f"--address {address}: no Ray cluster of this version of Ray and Python is there") from None


class _Actor:
    """What runs in the other process: a worker, and which version of the weights it has."""

    def __init__(self, make: Maker, number: int, life: int) -> None:
        self.worker: Worker = make(number, life)
        self.version = 0

    def collect(self, version: int, boxed: list[Any]) -> tuple[int, int, Data]:
        """Return the version decided by, this process, and a chunk. boxed: the weights' reference, not resolved."""
        import ray

        if version != self.version:
            self.worker.load(ray.get(boxed[0], timeout=TIMEOUT))
            self.version = version
        return self.version, os.getpid(), self.worker.collect()


@dataclass(slots=True)
class _Held:
    """An actor of ours. given: chunks that it has given. since: when it was last heard of. failures: in a row."""

    handle: Any
    life: int = 0
    given: int = 0
    since: float = 0.0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class _Call:
    worker: int
    life: int
    asked: int


@dataclass(slots=True)
class Remote:
    """Workers in processes of their own. limit: versions that a chunk may be behind. timeout: seconds of an answer.

    To be used within `cluster`. processes: of the workers, by number, as far as they have answered.
    """

    make: Maker
    workers: int
    limit: int
    timeout: float = TIMEOUT
    version: int = 0
    counts: Counts = field(default_factory=Counts)
    processes: dict[int, int] = field(default_factory=dict)
    _held: list[_Held] = field(default_factory=list)
    _calls: dict[Any, _Call] = field(default_factory=dict)
    _weights: Any = None

    def __post_init__(self) -> None:
        """Start the actors; they wait for weights."""
        self._held = [_Held(self._started(number, 0)) for number in range(self.workers)]

    def _started(self, number: int, life: int) -> Any:
        import ray

        made: Any = ray.remote(_Actor)
        return made.options(num_cpus=1, max_restarts=0, max_task_retries=0).remote(self.make, number, life)

    def publish(self, weights: Any) -> int:
        """Let workers decide by these weights from their next call on; return their version."""
        import ray

        self._weights, self.version = ray.put(weights), self.version + 1
        self.counts.broadcasts += 1
        if self.version == 1:
            for number in range(self.workers):
                self._fill(number)
        return self.version

    def _fill(self, number: int) -> None:
        """Have IN_FLIGHT calls of an actor under way."""
        held = self._held[number]
        mine = sum(call.worker == number and call.life == held.life for call in self._calls.values())
        if not mine:
            held.since = time.monotonic()
        for _ in range(mine, IN_FLIGHT):
            call = held.handle.collect.remote(self.version, [self._weights])
            self._calls[call] = _Call(number, held.life, self.version)

    def next(self) -> Chunk:
        """Return the first chunk that is there and not too old.

        Raises UserError where an actor came to nothing LIVES times in a row, whether it died or was silent.
        """
        import ray

        if not self.version:
            raise RuntimeError("chunks are made by weights: publish some first")
        begun = time.monotonic()
        try:
            while True:
                ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=self._patience())
                if not ready:
                    self._replace_silent()
                    continue
                if (found := self._taken(ready[0])) is not None:
                    return found
        finally:
            self.counts.waited += time.monotonic() - begun

    def _patience(self) -> float:
        """Return the seconds until the first actor will have been silent for too long."""
        return max(min(held.since for held in self._held) + self.timeout - time.monotonic(), 0.0)

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
            self._replace(call.worker, _first_line(error))
            return None
        held.since, held.failures = time.monotonic(), 0
        self.processes[call.worker] = process
        number, held.given = held.given, held.given + 1
        self._fill(call.worker)
        if self.counts.judge(call.asked, version, self.version, self.limit) in (DROPPED, MISMATCHED):
            return None
        return Chunk(call.worker, call.life, number, version, self.version - version, data)

    def _replace_silent(self) -> None:
        """Replace the actors that have not answered in time; a learner that was away itself finds answers first."""
        import ray

        late = time.monotonic() - self.timeout
        for number, held in enumerate(self._held):
            if held.since > late:
                continue
            mine = [reference for reference, call in self._calls.items() if call.worker == number]
            if not ray.wait(mine, num_returns=1, timeout=0)[0]:
                self.counts.silent += 1
                self._replace(number, f"no answer within {self.timeout:g} s")

    def _replace(self, number: int, why: str) -> None:
        """Put another actor in the place of one that is of no use. Raises UserError where that was tried enough."""
        import ray

        held = self._held[number]
        for reference in [each for each, call in self._calls.items() if call.worker == number]:
            del self._calls[reference]
        with suppress(Exception):  # it is dead, or will be
            ray.kill(held.handle)
        self.processes.pop(number, None)
        self.counts.replaced += 1
        if held.failures + 1 >= LIVES:
            raise UserError(f"worker {number} came to nothing {LIVES} times in a row, at last: {why}")
        life = held.life + 1
        self._held[number] = _Held(self._started(number, life), life, failures=held.failures + 1)
        self._fill(number)

    def close(self) -> None:
        """Kill the actors."""
        import ray

        for held in self._held:
            with suppress(Exception):  # the cluster may be gone
                ray.kill(held.handle)
        self._held, self._calls, self._weights = [], {}, None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the actors."""
        self.close()


def _failed(worker: int, error: Any) -> UserError:
    """Return what a mistake in a worker's own code is told as."""
    cause = error.cause
    if isinstance(cause, UserError):
        return cause
    return UserError(f"worker {worker} failed: {type(cause).__name__}: {_first_line(cause)}")
