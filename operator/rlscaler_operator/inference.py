"""Decisions asked of inference servers: what is wanted of one at a time goes in one request, under a deadline.

While a request is under way, what is wanted meanwhile waits for the next one, so that a server has one request at a
time whatever the number of workloads. Whoever waits does so no longer than the server's time-out; what comes later is
dropped, and the local policy has decided. An answer counts only if it is whole: one finite number for each workload, of
the policy whose digest is asked for. The guard comes after it as after any proposal.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.client import HTTPException
from typing import Literal, NamedTuple, Protocol
from urllib.parse import urlencode

from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from rlscaler import served
from rlscaler.observation import SCHEMA
from rlscaler.prometheus_credentials import UnreadableError
from rlscaler.prometheus_faults import Faults
from rlscaler.prometheus_session import Answer, AnswerTooLargeError, DeadlineSession
from rlscaler.served import Answers, Rows, WireError
from rlscaler_operator.clock import Clock
from rlscaler_operator.inference_config import ServerConfig
from rlscaler_operator.model import Note

MOST_ROWS = 4096
"""Workloads of one request; more go in several."""
GRACE = 0.5
"""Seconds after its deadline at which a call that does not keep it is given up."""

Reason = Literal[
    "ServerUnreachable", "ServerTimeout", "ServerOverloaded", "ServerError", "ServerUnauthorized", "ServerBadAnswer",
    "ServerOtherPolicy",
]  # fmt: skip
_REASONS: Mapping[str, Reason] = {
    "Unreachable": "ServerUnreachable",
    "Timeout": "ServerTimeout",
    "Unauthorized": "ServerUnauthorized",
}


class Reply(NamedTuple):
    """What a server answered, and by which policy. answers: one for each row that was asked about."""

    answers: Answers
    policy: str
    digest: str
    schema: str


class InferenceError(Exception):
    """A server gave no usable answer; `note` says why, without secrets."""

    def __init__(self, reason: Reason, message: str) -> None:
        """Take the reason and the sentence."""
        super().__init__(message)
        self.note = Note(reason, message)


class Client:
    """One server, asked over HTTP."""

    def __init__(self, config: ServerConfig, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Take the configuration; nothing is opened or read yet."""
        self.config = config
        self._session = DeadlineSession(config.source, monotonic, pool_size=2)
        self._faults = Faults(config.source, self._session.credentials.described, "server")

    def ask(self, rows: Rows, digest: str | None, seconds: float) -> Reply:
        """Return the proposals for rows, within so many seconds. Raises InferenceError."""
        if seconds <= 0.0:
            raise self._late(seconds)
        wanted = {"schema": SCHEMA, "policy": self.config.policy, "digest": digest}
        query = urlencode({name: value for name, value in wanted.items() if value is not None})
        url = f"{self.config.source.url}{served.PATH}?{query}"
        with self._session.within(seconds):
            try:
                answer = self._session.ask(url, served.question(rows), served.CONTENT_TYPE)
            except UnreadableError as error:
                raise InferenceError("ServerUnauthorized", f"server {self.config.name}: {error}") from None
            except AnswerTooLargeError:
                raise self._error("ServerBadAnswer", "answers more than is read; is url right?") from None
            except (OSError, HTTPError, RequestException, HTTPException, UnicodeError) as error:
                found = self._faults.unsent(error, seconds)
                if found.reason == "Timeout":
                    raise self._late(seconds) from None
                raise InferenceError(_REASONS.get(found.reason, "ServerBadAnswer"), found.message) from None
        if answer.status_code != HTTPStatus.OK:
            raise self._refused(answer)
        return self._read(answer, len(rows), digest)

    def _read(self, answer: Answer, n: int, digest: str | None) -> Reply:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        policy, made_by, schema = (
            headers.get(name.lower(), "") for name in (served.POLICY, served.DIGEST, served.OBSERVED)
        )
        try:
            answers = served.answered(answer.content, n, self.config.source.max_bytes)
        except WireError as error:
            raise self._error("ServerBadAnswer", f"gives an answer that cannot be used: {error}") from None
        if not made_by or schema != SCHEMA:
            rest = f"answers by schema {schema[:20]!r} and digest {made_by[:80]!r}; expected schema {SCHEMA!r}"
            raise self._error("ServerBadAnswer", rest)
        if digest is not None and made_by != digest:
            raise self._error("ServerOtherPolicy", f"answers by {made_by[:80]}; expected {digest}")
        return Reply(answers, policy[:253], made_by[:80], schema)

    def _refused(self, answer: Answer) -> InferenceError:
        """Return the error of an answer other than 200."""
        status = answer.status_code
        if status in (401, 403):
            self._session.credentials.forget()
            return self._error("ServerUnauthorized", f"answers {status}: it does not let the operator in; see "
                               f"{self._session.credentials.described or 'bearerTokenFile or basic'}")  # fmt: skip
        payload = answer.payload
        text = str(payload["error"]) if isinstance(payload, dict) and "error" in payload else ""
        said = self._faults.said(text or answer.content[:2048].decode(errors="replace"), self._session.keys)
        told = f"answers {status}" + (f" ({said})" if said else "")
        if status == HTTPStatus.NOT_FOUND and text:
            return self._error("ServerOtherPolicy", told)
        if status in (429, 503):
            return self._error("ServerOverloaded", f"{told}; give it more replicas, or ask it less")
        if status >= 500:
            return self._error("ServerError", f"{told}; its log says more")
        return self._error("ServerBadAnswer", f"{told}; does url lead to 'rlscaler serve'?")

    def _late(self, seconds: float) -> InferenceError:
        return self._error("ServerTimeout", f"gave no whole answer within {max(seconds, 0.0):.3g} s; give it more CPU, "
                           f"or raise its timeout")  # fmt: skip

    def _error(self, reason: Reason, rest: str) -> InferenceError:
        return InferenceError(reason, self._faults.error("BadAnswer", rest).message)

    def close(self) -> None:
        """Give back the connections."""
        self._session.close()


class Asked(Protocol):
    """What is needed of `Client`."""

    config: ServerConfig

    def ask(self, rows: Rows, digest: str | None, seconds: float) -> Reply:
        """Return the proposals for rows. Raises InferenceError."""
        ...

    def close(self) -> None:
        """Give back the connections."""
        ...


class _Waiting(NamedTuple):
    rows: Rows
    digest: str | None
    until: float
    done: "asyncio.Future[Reply]"


class Line:
    """One server with its thread and those who wait for it."""

    def __init__(
        self, client: Asked, clock: Clock, told: Callable[[str, float, Note | None], None] = lambda *_: None
    ) -> None:
        """Take the server. told: hears of each request (name, seconds, what was wrong)."""
        self.client, self._clock, self._told = client, clock, told
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"server-{client.config.name}")
        self._waiting: list[_Waiting] = []
        self._asking: list[_Waiting] = []
        self._work: asyncio.Task[None] | None = None

    async def ask(self, rows: Rows, digest: str | None, seconds: float = math.inf) -> Reply | Note:
        """Return the answers to rows, or why there are none within the server's time-out and so many seconds."""
        seconds = min(seconds, self.client.config.source.timeout)
        done: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(rows, digest, self._clock.monotonic() + seconds, done))
        if self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._ask_on())
        try:
            async with asyncio.timeout(seconds):
                return await done
        except TimeoutError:
            name = self.client.config.name
            return Note("ServerTimeout", f"server {name} gave no whole answer within {seconds:.3g} s; give it more "
                                         f"CPU, or raise its timeout")  # fmt: skip
        except InferenceError as error:
            return error.note

    async def _ask_on(self) -> None:
        """Ask for as long as somebody waits."""
        try:
            while batch := self._batch():
                self._asking = batch
                await self._asked(batch)
        finally:
            self._work = None

    def _batch(self) -> list[_Waiting]:
        """Take those who wait that one request can ask for: of one digest, in their order, no more than it may hold."""
        now = self._clock.monotonic()
        self._waiting = [each for each in self._waiting if not each.done.done() and each.until > now]
        batch: list[_Waiting] = []
        rows = 0
        for each in self._waiting:
            if each.digest == self._waiting[0].digest and (not batch or rows + len(each.rows) <= MOST_ROWS):
                batch.append(each)
                rows += len(each.rows)
        self._waiting = [each for each in self._waiting if each not in batch]
        return batch

    async def _asked(self, batch: Sequence[_Waiting]) -> None:
        began = self._clock.monotonic()
        rows, until = served.joined([each.rows for each in batch]), max(each.until for each in batch)
        problem: InferenceError | None = None
        reply: Reply | None = None

        def call() -> Reply:
            return self.client.ask(rows, batch[0].digest, until - self._clock.monotonic())

        try:
            future = asyncio.get_running_loop().run_in_executor(self._thread, call)
            reply = await asyncio.wait_for(future, until - began + GRACE)
        except InferenceError as error:
            problem = error
        except (TimeoutError, RuntimeError) as error:  # it did not keep its deadline, or the line is closed
            name = self.client.config.name
            problem = InferenceError("ServerUnreachable", f"server {name} cannot be asked now ({type(error).__name__})")
        name = self.client.config.name
        self._told(name, self._clock.monotonic() - began, problem.note if problem is not None else None)
        begin = 0
        for each in batch:
            end = begin + len(each.rows)
            if not each.done.done():
                if reply is not None:
                    each.done.set_result(reply._replace(answers=reply.answers.part(begin, end)))
                elif problem is not None:
                    each.done.set_exception(problem)
            begin = end

    def close(self) -> None:
        """End the thread as its request ends."""
        if self._work is not None:
            self._work.cancel()
        name = self.client.config.name
        gone = InferenceError("ServerUnreachable", f"server {name} is read anew from the operator's configuration")
        for each in (*self._asking, *self._waiting):
            if not each.done.done():
                each.done.set_exception(gone)
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.client.close()


class Servers:
    """All servers, by name."""

    def __init__(self, lines: Mapping[str, Line] | None = None) -> None:
        """Take the servers."""
        self._lines = dict(lines or {})

    def get(self, name: str) -> Line | None:
        """Return a server, None where the configuration names none such."""
        return self._lines.get(name)

    def config(self, name: str) -> ServerConfig | None:
        """Return a server's configuration, None where there is none."""
        line = self._lines.get(name)
        return None if line is None else line.client.config

    def names(self) -> list[str]:
        """Return the servers' names in alphabetical order."""
        return sorted(self._lines)

    def replace(self, lines: Mapping[str, Line]) -> None:
        """Ask these servers from now on."""
        former, self._lines = self._lines, dict(lines)
        for line in former.values():
            line.close()

    def close(self) -> None:
        """Close all of them."""
        self.replace({})
