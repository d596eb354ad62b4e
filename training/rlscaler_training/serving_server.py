"""One replica of a server of policies: requests in, answers out, batched and bounded. Nothing here is Ray.

Questions that come while a pass is under way go through the next one together, in their order: a server that is idle
answers at once, and a busy one in ever larger passes. The pass runs in a thread of its own, so that health and new
questions are heard meanwhile. Where too many wait, the next is answered 503 at once. A new policy counts for questions
that come after it; what is under way ends with the policy that it began with.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from rlscaler import served
from rlscaler.artifact import ArtifactError
from rlscaler.observation import SCHEMA
from rlscaler.policies import PolicyError
from rlscaler.served import Answers, WireError
from rlscaler_training import serving_http as http
from rlscaler_training.serving import CPU, Offer, Question, Shelf, Shelved, UnknownPolicyError, answer_all
from rlscaler_training.serving_http import HttpError, Limits, Said, Tally

log = logging.getLogger("ray.serve")

Answerer = Callable[[Sequence[Question]], Sequence[Answers]]


class Batcher:
    """Answers questions in passes, one at a time."""

    def __init__(
        self, answer: Answerer, rows: int, wait: float = 0.0, told: Callable[[int], None] = lambda _: None
    ) -> None:
        """Take what answers a pass. rows: of a pass at most; wait: seconds for which one waits for more questions.

        told: hears of the rows of each pass.
        """
        self._answer, self._rows, self._wait, self._told = answer, rows, wait, told
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pass")
        self._waiting: deque[tuple[Question, asyncio.Future[Answers]]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answers:
        """Return the answers to a question; raises what the pass raised."""
        done: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, done))
        if self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._passes())
        return await done

    async def _passes(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(self._wait)
                if batch := self._batch():
                    await self._pass(batch)
        finally:
            self._work = None

    def _batch(self) -> list[tuple[Question, "asyncio.Future[Answers]"]]:
        """Take the first questions that fit into a pass, those left out whose callers have gone."""
        batch: list[tuple[Question, asyncio.Future[Answers]]] = []
        rows = 0
        while self._waiting:
            question, done = self._waiting[0]
            if batch and rows + len(question.rows) > self._rows:
                break
            self._waiting.popleft()
            if not done.done():
                batch.append((question, done))
                rows += len(question.rows)
        return batch

    async def _pass(self, batch: "list[tuple[Question, asyncio.Future[Answers]]]") -> None:
        questions = [question for question, _ in batch]
        self._told(sum(len(each.rows) for each in questions))
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, questions)
        except Exception as error:
            log.exception("a pass of %d questions failed", len(batch))
            for _, done in batch:
                if not done.done():
                    done.set_exception(
                        HttpError(500, f"the policy failed ({type(error).__name__}); the server's log says more")
                    )
            return
        for (_, done), answers in zip(batch, found, strict=True):
            if not done.done():
                done.set_result(answers)


class Server:
    """One replica."""

    def __init__(
        self,
        offers: Sequence[Offer],
        limits: Limits,
        device: str = CPU,
        together: Callable[[], Awaitable[Sequence[Tally]]] | None = None,
    ) -> None:
        """Load the policies; raises ArtifactError or PolicyError.

        together: returns what all replicas have counted; None: there is this one.
        """
        self.shelf = Shelf(offers, device)
        self.counts = Tally()
        self._limits, self._together = limits, together
        self._waiting = 0
        self._batcher = Batcher(self._passed, limits.rows, limits.wait, self.counts.passed)

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        said = await self._said(request)
        return Response(said.body, said.status, dict(said.headers), said.content_type)

    async def _said(self, request: Request) -> Said:
        method, path = request.method, request.url.path.rstrip("/")
        try:
            if path == served.PATH:
                if method != "POST":
                    raise HttpError(405, f"{path} is asked by POST")
                return await self._asked(request)
            if method not in ("GET", "HEAD"):
                raise HttpError(405, f"{path or '/'} is asked by GET")
            return await self._told(path)
        except HttpError as error:
            return http.problem(error)

    async def _told(self, path: str) -> Said:
        match path:
            case "/healthz":
                return http.told({"status": "ok", "device": self.shelf.device})
            case "/v1/policies":
                current, former = (list(map(http.about, each)) for each in (self.shelf.current(), self.shelf.former()))
                return http.told({"policies": current, "former": former})
            case "/metrics":
                whole = Tally()
                for each in [self.tally()] if self._together is None else await self._together():
                    whole.add(each)
                return http.metrics(whole)
        known = f"{served.PATH}, /v1/policies, /healthz or /metrics"
        raise HttpError(404, f"there is no {path[:80] or '/'}; expected {known}")

    async def _asked(self, request: Request) -> Said:
        """Answer a question over HTTP."""
        answers, shelved = await self.answered(lambda: self._question(request))
        return http.answer(answers, shelved, request.headers.get("content-type", ""))

    async def decide(self, question: Any, context: Any) -> Any:
        """Answer a question over gRPC. question: a message of `serving_grpc`; context: hears of what is wrong."""
        from rlscaler_training import serving_grpc

        async def read() -> Question:
            shelved = self._shelved(question.schema or SCHEMA, question.policy or None, question.digest or None)
            return Question(shelved, serving_grpc.rows_of(question, self._limits))

        try:
            return serving_grpc.answering(*await self.answered(read))
        except HttpError as error:
            return serving_grpc.refusing(error, context)

    async def answered(self, read: Callable[[], Awaitable[Question]]) -> tuple[Answers, Shelved]:
        """Return the answers to a question and who made them; counts it whatever becomes of it.

        read: returns the question, once there is room for it. Raises HttpError, also what `read` raised.
        """
        began, policy, rows, status = time.perf_counter(), "", 0, 500
        try:
            if self._waiting >= self._limits.queue:
                raise HttpError(503, f"{self._waiting} questions wait already; come back, or serve more replicas")
            self._waiting += 1
            try:
                question = await read()
                policy, rows = question.shelved.name, len(question.rows)
                answers = await self._batcher.ask(question)
            finally:
                self._waiting -= 1
            status = 200
            return answers, question.shelved
        except HttpError as error:
            status = error.status
            raise
        except asyncio.CancelledError:
            status = http.GONE
            raise
        finally:
            self.counts.asked(policy, status, rows, time.perf_counter() - began)

    async def _question(self, request: Request) -> Question:
        query = request.query_params
        body = await self._body(request)
        shelved = self._shelved(query.get("schema", SCHEMA), query.get("policy"), query.get("digest"))
        return Question(shelved, http.question(request.headers.get("content-type", ""), body, self._limits))

    def _shelved(self, schema: str, policy: str | None, digest: str | None) -> Shelved:
        """Return the policy that is asked for. Raises HttpError."""
        try:
            http.require_schema(schema)
            return self.shelf.get(policy, digest)
        except WireError as error:
            raise HttpError(400, str(error)) from error
        except UnknownPolicyError as error:
            raise HttpError(404, str(error)) from error

    async def _body(self, request: Request) -> bytes:
        """Return the body, of which never more is kept than may be."""
        most = self._limits.bytes
        large = HttpError(413, f"the body has more than {most} bytes; ask in several requests")
        stated = request.headers.get("content-length", "")
        if stated.isdigit() and int(stated) > most:
            raise large
        parts, size = [], 0
        try:
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > most:
                    raise large
        except ClientDisconnect as error:
            raise HttpError(400, "the body broke off") from error
        return b"".join(parts)

    def _passed(self, questions: Sequence[Question]) -> Sequence[Answers]:
        return answer_all(questions, self.shelf.device)

    def take(self, offer: Offer) -> str:
        """Serve another policy by a name from now on; return why not, "" where it is served."""
        try:
            changed = self.shelf.take(offer)
        except (ArtifactError, PolicyError) as error:
            self.counts.swaps[offer.name, "refused"] += 1
            return str(error)
        if changed:
            self.counts.swaps[offer.name, "taken"] += 1
        return ""

    def tally(self) -> Tally:
        """Return what this replica has counted."""
        self.counts.served = {(each.name, each.digest) for each in self.shelf.current()}
        return self.counts
