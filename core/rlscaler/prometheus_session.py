"""HTTP for the Prometheus client under a total deadline, whatever the server does.

A time-out of requests is per read: a server that sends a byte now and then holds a call for ever, and a name server
that is gone holds it for half a minute. Here each wait (look-up, connection, TLS, header, body) ends at the call's own
deadline, and the body at a number of bytes. `request` goes to urllib3's pool directly, because what requests does
before that (cookies, netrc, proxies from the environment, anew for each call) is three quarters of the CPU of a small
query. Redirects are not followed: the credentials belong to one server.
"""

import functools
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies

from rlscaler.prometheus_config import SourceConfig
from rlscaler.prometheus_connection import Dialer
from rlscaler.prometheus_credentials import Credentials, Keys

LONGEST_GET = 2000
"""Characters of an encoded query above which it goes into the body of a POST. Proxies limit the length of a URL; below
it is a GET, since what stands before a Prometheus may let readers GET only (kube-rbac-proxy: POST is `create`)."""
CHUNK = 65536
LARGEST_ERROR = 65536
"""Bytes that are read of an answer other than 200."""
SMALL = 2**22
"""Bytes of memory up to which answers are read side by side; a larger one waits until no other such is being read."""
EACH = 64
"""Bytes of memory that a list, an object, or a value in one takes as Python reads JSON, which writes some in two."""
_NEVER = urllib3.Retry(total=False, redirect=False)
_CUT_OFF = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class AnswerTooLargeError(Exception):
    """The body is longer than is read, or takes more memory; the message says what is more."""


class Answer:
    """An answer with its body read whole, as much of requests' own as the client looks at."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Take what came."""
        self.status_code, self.headers, self.content = status, headers, body

    @functools.cached_property
    def payload(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            return None

    def json(self, **kwargs: Any) -> Any:
        """Return the body as JSON; None where it is none."""
        return self.payload


class DeadlineSession(requests.Session):
    """The session that a `PrometheusConnect` is given. Threads may share it; each call has its own deadline."""

    def __init__(
        self, config: SourceConfig, monotonic: Callable[[], float], pool_size: int, memory: int | None = None
    ) -> None:
        """Take the configuration; pool_size: connections that are kept. Nothing is opened or read yet.

        memory: bytes that reading one answer as JSON may take, about; None: as many as it takes.
        """
        super().__init__()
        self.credentials = Credentials(config)
        self._config, self._monotonic = config, monotonic
        self._turn = threading.local()
        self._memory = memory
        self._large, self._large_past = threading.Lock(), threading.Lock()  # the past is never waited for
        self._adapter = HTTPAdapter(pool_maxsize=pool_size, max_retries=urllib3.Retry(total=0))
        proxies = get_environ_proxies(config.url)
        first = requests.Request("GET", config.url).prepare()
        self._pool = self._adapter.get_connection_with_tls_context(first, verify=True, proxies=proxies)
        self._pool.ConnectionCls = cast(
            Any, Dialer(config, self.left, lambda: bool(self._turn.wary)).connection_class(str(self._pool.scheme))
        )
        whole = self._adapter.request_url(first, proxies).startswith("http")  # what a proxy of plain HTTP is told
        parts = urlsplit(config.url)
        self._origin = "" if whole else f"{parts.scheme}://{parts.netloc}"

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Give the calls of this thread, until the block ends, so many seconds in all.

        Answers are to be made use of within the block: it ends the turn of a large one.
        """
        self._turn.end = self._monotonic() + seconds
        self._turn.answer = self._turn.keys = None
        self._turn.wary, self._turn.past, self._turn.alone = False, False, None
        try:
            yield
        finally:
            del self._turn.end
            self._turn.answer = None  # a thread that rests would hold it
            if self._turn.alone is not None:
                self._turn.alone.release()

    def left(self) -> float:
        """Return the seconds that are left to this thread's block; raises TimeoutError where there are none."""
        left: float = self._turn.end - self._monotonic()
        if left <= 0.0:
            raise TimeoutError("the call's time is up")
        return left

    @property
    def answer(self) -> Answer | None:
        """The last answer that this thread got, since the client drops most of it."""
        found: Answer | None = self._turn.answer
        return found

    @property
    def keys(self) -> Keys:
        """What this thread's last call was let in with."""
        return self._turn.keys or Keys({})

    def request(self, method: Any, url: Any, params: Any = None, **_: Any) -> Answer:  # type: ignore[override]
        """Return the answer to a query, whatever its status.

        Raises TimeoutError, AnswerTooLargeError, UnreadableError, OSError, or one of urllib3's errors.
        """
        self._turn.answer = None
        self._turn.keys = keys = self.credentials.keys()
        text = urlencode({**params, **self._config.query_parameters})
        target = str(url).removeprefix(self._origin)
        self._turn.past = target.endswith("query_range")
        headers = {
            "Accept": "application/json",
            # Packing a small answer costs both sides more than sending it.
            "Accept-Encoding": "gzip" if self._turn.past else "identity",
            "User-Agent": "rlscaler",
            **keys.headers,
        }
        if len(text) <= LONGEST_GET:
            send = functools.partial(self._send, "GET", f"{target}?{text}", headers, None)
        else:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            send = functools.partial(self._send, "POST", target, headers, text.encode("ascii"))
        return self._answered(send)

    def ask(self, url: str, body: bytes, content_type: str) -> Answer:
        """Return the answer to a POST of bytes to a server that changes nothing by it; as `request` else."""
        self._turn.answer = None
        self._turn.keys = keys = self.credentials.keys()
        headers = {
            "Accept": content_type,
            "Accept-Encoding": "identity",
            "Content-Type": content_type,
            "User-Agent": "rlscaler",
            **keys.headers,
        }
        return self._answered(functools.partial(self._send, "POST", url.removeprefix(self._origin), headers, body))

    def _answered(self, send: Callable[[], urllib3.BaseHTTPResponse]) -> Answer:
        try:
            response = send()
        except (urllib3.exceptions.ProtocolError, urllib3.exceptions.SSLError) as error:
            # A connection that was kept may have been closed by the server just now; a question changes nothing, so ask
            # once more.
            if not any(isinstance(cause, _CUT_OFF) for cause in error.args):
                raise
            self._turn.wary = True
            response = send()
        self._turn.answer = answer = self._read(response)
        return answer

    def _send(self, method: str, target: str, headers: dict[str, str], body: bytes | None) -> urllib3.BaseHTTPResponse:
        return self._pool.urlopen(
            method,
            target,
            body=body,
            headers=headers,
            retries=_NEVER,
            redirect=False,
            assert_same_host=False,
            timeout=self.left(),
            preload_content=False,
        )

    def _read(self, response: urllib3.BaseHTTPResponse) -> Answer:
        """Return the answer with its body; the connection is closed where that is not read to its end."""
        good = response.status == 200
        most = self._config.max_bytes if good else LARGEST_ERROR
        parts, size, needed = [], 0, 0
        try:
            while size <= most and (part := response.read(CHUNK, decode_content=True)):
                parts.append(part)
                size += len(part)
                if self._memory is not None:
                    # the parts, the whole and its text, beside what is made of it
                    needed += 3 * len(part) + EACH * (part.count(b",") + part.count(b"[") + part.count(b"{"))
                    self._require_room(needed, self._memory)
        except BaseException:
            response.close()
            parts.clear()  # the error's traceback would hold them
            raise
        if size > most:
            response.close()
            if good:
                parts.clear()
                raise AnswerTooLargeError(f"more than {most} bytes")
        return Answer(response.status, response.headers, b"".join(parts))

    def _require_room(self, needed: int, most: int) -> None:
        """Wait until a large answer may be read on. Raises AnswerTooLargeError, TimeoutError."""
        if needed > most:
            raise AnswerTooLargeError(f"what takes more than {most} bytes of memory")
        if needed > SMALL and self._turn.alone is None:
            large = self._large_past if self._turn.past else self._large
            if not large.acquire(timeout=self.left()):
                raise TimeoutError("other large answers took the call's time")
            self._turn.alone = large

    def close(self) -> None:
        """Close the connections that no call is using."""
        super().close()
        self._pool.close()
        self._adapter.close()
