"""Leadership by a Lease, so that of several replicas one writes: the clock and the wire around `election`.

`Elector.valid` is the fence. Ask it in the thread that writes, immediately before the request. It turns false by time
alone, whatever the API server, the network or this process's own loop do. What it cannot see is a request that is
already under way; a write must therefore also carry a precondition of its own.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

from rlscaler_operator.api_errors import ClusterError
from rlscaler_operator.clock import Clock
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.election import Answer, Ask, Candidate, Terms

THREADS = 4
"""Requests that may hang at once before the next one has to wait for them."""
LOOK = 0.5
"""Seconds between two looks of one who waits."""
LAST_ANSWER = 0.5
"""Seconds for which a request that is under way is waited for before the Lease is given away."""
RELEASE = 1.5
"""Seconds after which giving the Lease away is given up: it then runs out by itself."""

log = logging.getLogger("rlscaler.leadership")


class Elector:
    """One replica's part in the election."""

    def __init__(
        self,
        cluster: Cluster,
        clock: Clock,
        *,
        namespace: str,
        identity: str,
        name: str = "rlscaler",
        duration: float = 15.0,
        renew_deadline: float = 10.0,
        retry: float = 2.0,
        look: float | None = None,
    ) -> None:
        """Take the Lease's name and terms (seconds; see `election.Terms`); nothing is asked yet.

        identity: of this process alone, such as the pod's name with something random. look: how often one who waits
        looks at the Lease, and so how soon one that was released is taken over; 0.5 s or `retry` where left out.

        Raises ValueError where the terms make no sense.
        """
        self._cluster, self._clock = cluster, clock
        self._namespace, self._name = namespace, name
        self._terms = Terms(duration, renew_deadline, retry, min(LOOK, retry) if look is None else look)
        self._candidate = Candidate(namespace, name, identity, self._terms)
        self._threads = ThreadPoolExecutor(THREADS, "lease")
        self._stop, self._ended = asyncio.Event(), asyncio.Event()
        self._ended.set()
        self._problem = ""

    @property
    def identity(self) -> str:
        """Who we are."""
        return self._candidate.identity

    @property
    def holder(self) -> str:
        """Who held the Lease when it was last seen, "" for nobody."""
        return self._candidate.holder

    @property
    def problem(self) -> str:
        """Why the last request for the Lease failed, in a sentence; "" where it did not."""
        return self._problem

    def valid(self) -> bool:
        """Tell whether it is certain at this moment that nobody else leads. May be called from any thread."""
        return not self._stop.is_set() and self._candidate.valid(self._clock.monotonic())

    async def run(self, gained: Callable[[], None], lost: Callable[[], None]) -> None:
        """Take part in the election until `release`, or until this is cancelled.

        gained, lost: called in the loop, in turns, when we begin and cease to lead; `lost` also where this ends.
        """
        self._ended.clear()
        leading = False

        def tell() -> None:
            nonlocal leading
            if leading == (self._candidate.leading and not self._stop.is_set()):
                return
            leading = not leading
            if leading:
                log.info("leading as %s", self.identity)
                gained()
            else:
                if self._stop.is_set():
                    log.info("not leading any more: we end")
                else:
                    log.warning("not leading any more: %s", self._candidate.why_lost)
                lost()

        try:
            while not self._stop.is_set():
                ask = self._candidate.ask(self._clock.monotonic(), self._stamp())
                tell()
                if ask is None:
                    await self._sleep()
                    continue
                asked = self._clock.monotonic()
                answer = await self._answer(ask, self._limit(asked))
                self._candidate.take(ask, answer, asked, self._clock.monotonic())
                tell()
        finally:
            self._stop.set()
            tell()
            self._ended.set()

    def rest(self) -> None:
        """Stop leading now, and end `run`; the Lease stays ours until `release`, or until it runs out."""
        self._stop.set()

    async def release(self) -> bool:
        """Stop leading now, end `run`, and give the Lease away so that another can take it at once.

        Ends in under 2 s whatever the API server does. Return whether the Lease is free of us; where it is not, it
        runs out by itself.
        """
        self.rest()
        free = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RELEASE):
                await self._ended.wait()
                free = await self._give_away()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if not free:
            log.warning("the Lease %s/%s could not be given away: %s", self._namespace, self._name, self._problem)
        return free

    async def _give_away(self) -> bool:
        while ask := self._candidate.resign(self._stamp()):
            asked = self._clock.monotonic()
            answer = await self._in_thread(ask, RELEASE / 2)
            if ask.verb == "read":
                self._candidate.take(ask, answer, asked, self._clock.monotonic())
            elif self._candidate.resigned(answer):
                return True
            if answer == "Failed":
                await asyncio.sleep(LAST_ANSWER / 5)
        return True

    def _limit(self, now: float) -> float:
        """Return the seconds that a request may take: three fit into the deadline, and none outlives it."""
        third = self._terms.deadline / 3
        return min(third, self._candidate.remaining(now)) if self._candidate.leading else third

    async def _answer(self, ask: Ask, limit: float) -> Answer:
        """Return the answer within a limit of seconds; "Failed" where there is none by then, or it all ends."""
        request = asyncio.ensure_future(self._in_thread(ask, limit))
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((request, stop), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if self._stop.is_set() and not request.done():
                await asyncio.wait((request,), timeout=LAST_ANSWER)
            if request.done():
                return request.result()
            self._tell_problem(
                f"cannot {ask.verb} Lease {self._namespace}/{self._name}: no answer within {limit:.1f} s"
            )
            return "Failed"
        finally:
            request.cancel()
            stop.cancel()

    async def _in_thread(self, ask: Ask, timeout: float) -> Answer:
        call = partial(self._call, ask, timeout)
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except ClusterError as error:
            if error.reason == "Conflict" or (error.reason == "NotFound" and ask.verb == "replace"):
                return "Conflict"
            self._tell_problem(error.message)
            return "Failed"
        self._tell_problem("")
        return answer

    def _call(self, ask: Ask, timeout: float) -> Answer:
        if ask.verb == "read":
            return self._cluster.lease(self._namespace, self._name, timeout)
        write = self._cluster.create_lease if ask.verb == "create" else self._cluster.replace_lease
        return write(ask.lease or {}, timeout)

    def _tell_problem(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem

    async def _sleep(self) -> None:
        seconds = self._candidate.wake() - self._clock.monotonic()
        if math.isfinite(seconds):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), max(0.0, seconds))

    def _stamp(self) -> str:
        return datetime.fromtimestamp(self._clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
