"""Writes to targets: what a decision wants is written once, in time, by the leader, or not at all.

A write goes out only if all of this holds at that moment: the workload is Active; we lead (`valid`, asked in the thread
that writes, immediately before the request); the decision is not older than one interval; no newer decision for the
target is there; and, checked by the API server, the target still asks for the count that the decision saw.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeGuard

from rlscaler.resource_objects import TargetRef
from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.backoff import Backoff, Steps
from rlscaler_operator.clock import Clock
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.model import Account, Key, Note, TargetKey
from rlscaler_operator.under_way import UnderWay

Result = Literal["Written", "Unchanged", "Stale", "Superseded", "Expired", "NotLeading", "Failed", "Stopped"]
"""What became of a decision. Written: the target was changed. Unchanged: nothing was wanted of it. Stale: the target
asks for another count than the decision saw; the next tick sees it. Superseded: a newer decision, or its withdrawal,
came first. Expired: an interval went by before it could be written. NotLeading: the lease was not certain any more.
Failed: it cannot be written as things are. Stopped: the operator ends.
"""
FAILED = "FailedUpdateScale"
"""The typed reason of a write that failed; the HPA's."""

log = logging.getLogger("rlscaler.writing")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one decision.

    problem: why the last attempt failed, None where none did. version: the resourceVersion that a write gave to the
    target, -1 if it is not known.
    """

    result: Result
    problem: Note | None = None
    version: int = field(default=-1, compare=False)

    @property
    def wrote(self) -> bool:
        """Whether the target was changed."""
        return self.result == "Written"


@dataclass(eq=False, slots=True)
class _Job:
    """A decision to write.

    of: the workload that was decided. expires: when it is too old, by the monotonic clock. withdrawn: it was taken back
    while it was being written, so it is not tried again.
    """

    of: Key
    namespace: str
    ref: TargetRef
    seen: int
    wanted: int
    expires: float
    done: asyncio.Future[Outcome]
    withdrawn: bool = False

    def finish(self, outcome: Outcome) -> None:
        """Tell who waits, unless nobody does any more."""
        if not self.done.done():
            self.done.set_result(outcome)


class _Slot:
    """What is going on with one target. waiting: the newest decision that is not being written yet."""

    __slots__ = ("backoff", "problem", "task", "waiting", "wake", "writing")

    def __init__(self, backoff: Backoff) -> None:
        self.backoff = backoff
        self.waiting: _Job | None = None
        self.writing: _Job | None = None
        self.problem: Note | None = None
        self.wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def put(self, job: _Job | None) -> None:
        """Let a decision wait, or none, in place of the one that does."""
        if self.waiting is not None:
            self.waiting.finish(Outcome("Superseded", self.problem))
        self.waiting = job
        self.wake.set()


class Actuator:
    """Writes replicas to the scale subresource of targets: one write at a time for each, the newest decision first.

    Belongs to one event loop. A target that fails is tried again after a growing delay; that delays no other target
    unless all `workers` hang.
    """

    def __init__(
        self,
        cluster: Cluster,
        valid: Callable[[], bool],
        clock: Clock,
        rng: random.Random,
        workers: int = 8,
        timeout: float = 4.0,
        steps: Steps | None = None,
        writes: UnderWay | None = None,
    ) -> None:
        """Take where to write, the fence, and chance for the jitter.

        timeout: seconds for a write. With less than the lease's duration minus its renewal deadline, a write that the
        fence let pass has ended before another can lead. writes: where those under way are counted.
        """
        self._cluster, self._valid, self._clock, self._rng = cluster, valid, clock, rng
        self._timeout, self._steps, self._writes = timeout, steps or Steps(), writes or UnderWay()
        self._threads = ThreadPoolExecutor(workers, "write")
        self._slots: dict[TargetKey, _Slot] = {}
        self._stopped = False

    async def apply(self, account: Account, ref: TargetRef) -> Outcome:
        """Write what an account wants of its target, and return what became of it (see `submit`)."""
        return await self.submit(account, ref)

    def submit(self, account: Account, ref: TargetRef) -> asyncio.Future[Outcome]:
        """Begin to write what an account wants of its target; the future tells what became of it, and never raises.

        It is done after one interval of the workload and one timeout at the latest. An account that wants nothing, or
        what is there, takes back what was wanted before.

        Raises ValueError for a workload that is not Active or is paused, and for an account that is not of this target.
        """
        resource, target = account.workload.resource, account.target
        if resource is None or resource.spec.mode != "Active":
            mode = "unusable" if resource is None else resource.spec.mode
            raise ValueError(f"{account.workload.key} is {mode}: only targets of Active workloads are written")
        if account.workload.paused and account.workload.force is None and account.wanted is not None:
            raise ValueError(f"{account.workload.key} is paused: nothing may be wanted of its target")
        if target is None:
            raise ValueError(f"{account.workload.key} has no target that could be written")
        namespace = account.workload.key.namespace
        if (namespace, ref.kind, ref.name) != (target.key.namespace, target.key.kind, target.key.name):
            raise ValueError(f"{account.workload.key} scales {ref.kind} {ref.name}, not {target.key}")
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if self._stopped:
            done.set_result(Outcome("Stopped"))
        elif account.wanted is None or account.wanted == target.desired:
            self.withdraw(target.key, account.workload.key)
            done.set_result(Outcome("Unchanged"))
        elif account.wanted < 0:
            raise ValueError(f"{account.workload.key} wants {account.wanted} replicas")
        else:
            expires = self._clock.monotonic() + resource.spec.interval
            key = account.workload.key
            self._put(target.key, _Job(key, namespace, ref, target.desired, account.wanted, expires, done))
        return done

    def withdraw(self, target: TargetKey, workload: Key | None = None, wanted: int | None = None) -> None:
        """Take back what waits to be written to a target (its workload is not Active any more, or gone).

        workload: that nothing is wanted for; what another one that scales the same target waits for stays. wanted: the
        count that stays as well, as it still is what the workload wants.
        """
        slot = self._slots.get(target)
        if slot is None:
            return

        def is_meant(job: _Job | None) -> TypeGuard[_Job]:
            return job is not None and workload in (None, job.of) and job.wanted != wanted

        if is_meant(slot.waiting):
            slot.put(None)
        if is_meant(slot.writing):
            slot.writing.withdrawn = True

    async def drain(self, deadline: float) -> int:
        """Begin no write any more, and wait for those that are under way; deadline: seconds.

        Return how many have no answer by then. For good: afterwards everything that is submitted is Stopped.
        """
        self._stopped = True
        for slot in self._slots.values():
            slot.put(None)
        tasks = {slot.task for slot in self._slots.values() if slot.writing is not None and slot.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=deadline)
        unanswered = list(self._under_way())
        for slot in self._slots.values():
            if slot.task is not None:
                slot.task.cancel()
        for job in unanswered:
            job.finish(Outcome("Stopped"))
        self._threads.shutdown(wait=False, cancel_futures=True)
        return len(unanswered)

    def _under_way(self) -> Iterator[_Job]:
        return (slot.writing for slot in self._slots.values() if slot.writing is not None)

    def _put(self, target: TargetKey, job: _Job) -> None:
        slot = self._slots.get(target)
        if slot is None:
            slot = self._slots[target] = _Slot(Backoff(self._steps, self._rng))
            slot.task = asyncio.ensure_future(self._serve(target, slot))
        slot.put(job)

    async def _serve(self, target: TargetKey, slot: _Slot) -> None:
        """Write what waits for one target until there is nothing, and no failure to remember."""
        while not self._stopped:
            job, now = slot.waiting, self._clock.monotonic()
            if job is None:
                # The step is remembered for as long as it could grow, so that a target that fails is not hammered.
                if slot.backoff.failures > 0 and await self._woken(slot, slot.backoff.wait(now) + self._steps.last):
                    continue
                if slot.waiting is None:  # else it came while the wait ended
                    break
            elif now >= job.expires:
                slot.waiting = None
                job.finish(_expired(slot))
            elif (wait := slot.backoff.wait(now)) > 0:
                await self._woken(slot, min(wait, job.expires - now))
            else:
                slot.waiting, slot.writing = None, job
                outcome = await self._attempt(slot, job)
                slot.writing = None
                if outcome is not None:
                    job.finish(outcome)
                elif slot.waiting is not None or job.withdrawn or self._stopped:
                    job.finish(Outcome("Stopped" if self._stopped else "Superseded", slot.problem))
                else:
                    slot.waiting = job
        if self._slots.get(target) is slot:
            del self._slots[target]

    async def _woken(self, slot: _Slot, seconds: float) -> bool:
        """Wait for a change of what waits; return whether there was one in time."""
        slot.wake.clear()
        try:
            await asyncio.wait_for(slot.wake.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def _attempt(self, slot: _Slot, job: _Job) -> Outcome | None:
        """Return what became of a decision, None where the same one may be tried again."""
        try:
            done = await asyncio.get_running_loop().run_in_executor(self._threads, partial(self._write, job))
        except ClusterError as error:
            if error.reason == "Stale":
                slot.backoff.succeeded()
                slot.problem = None
                return Outcome("Stale")
            slot.backoff.failed(self._clock.monotonic(), error.retry_after)
            slot.problem = Note(FAILED, error.message)
            return None if error.transient else Outcome("Failed", slot.problem)
        except Exception as error:
            log.exception("a defect of the operator, at %s %s/%s", job.ref.kind, job.namespace, job.ref.name)
            slot.backoff.failed(self._clock.monotonic())
            slot.problem = Note(FAILED, f"a defect of the operator: {error!r}; please report it")
            return Outcome("Failed", slot.problem)
        if done == "Expired":
            return _expired(slot)
        if not isinstance(done, int):
            return Outcome(done, slot.problem)
        slot.backoff.succeeded()
        slot.problem = None
        return Outcome("Written", version=done)

    def _write(self, job: _Job) -> Result | int:
        """Write one decision, in a thread; return the version that it made, or why it was not written.

        Raises ClusterError.
        """
        # To locate the target may take a request; nothing slow may come after the fence, nor be asked for in vain.
        if (refusal := self._refusal(job)) is None:
            self._cluster.locate(job.namespace, job.ref)
        if refusal is not None:
            return refusal
        with self._writes:
            if (refusal := self._refusal(job)) is not None:
                return refusal
            return self._cluster.resize(job.namespace, job.ref, job.seen, job.wanted, self._timeout)

    def _refusal(self, job: _Job) -> Result | None:
        """Return why a decision must not be written at this moment, None if it may be."""
        if self._stopped:
            return "Stopped"
        if self._clock.monotonic() >= job.expires:
            return "Expired"
        return None if self._valid() else "NotLeading"


def _expired(slot: _Slot) -> Outcome:
    """Return what became of a decision that is too old: it failed all the time, or had no chance."""
    return Outcome("Failed" if slot.problem else "Expired", slot.problem)
