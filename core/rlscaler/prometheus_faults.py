"""What can go wrong with a source, as one error type: each fault has a reason and a sentence that says what to do.

The client library, HTTP and the server's API have more than ten ways to fail; callers should not know them. The
server's own words are kept where they help (a parse error names the place), cut to a length, and left out wholly
where they repeat a secret.
"""

import http.client
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Literal
from urllib.parse import urlsplit

import urllib3.exceptions

from rlscaler.prometheus_config import SourceConfig
from rlscaler.prometheus_credentials import Keys

Reason = Literal[
    "Unreachable", "Timeout", "Unauthorized", "BadQuery", "BadAnswer", "Overloaded", "ServerError", "TooLarge"
]
LONGEST_SAID = 300
"""Characters of the server's own text in a message."""

_CLIENT_REFUSED = frozenset(
    f"{version}_ALERT_{why}"
    for version in ("SSLV3", "TLSV1", "TLSV13")
    for why in (
        "ACCESS_DENIED", "BAD_CERTIFICATE", "CERTIFICATE_EXPIRED", "CERTIFICATE_REQUIRED", "CERTIFICATE_REVOKED",
        "CERTIFICATE_UNKNOWN", "DECRYPT_ERROR", "UNKNOWN_CA", "UNSUPPORTED_CERTIFICATE",
    )
)  # fmt: skip
"""OpenSSL's names for a server that does not take the client's certificate."""
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}
_TOO_MUCH = (
    "too many samples", "too many chunks", "too many series", "maximum number of", "exceeded maximum resolution",
    "limit exceeded", "exceeds the limit", "exceeded the limit",
)  # fmt: skip
"""Words by which Prometheus, Thanos, Mimir and VictoriaMetrics refuse a query for what it would load."""


class SourceError(Exception):
    """A source gave no usable answer. message: one sentence for a person, without secrets."""

    def __init__(self, reason: Reason, message: str) -> None:
        """Take the reason and the sentence."""
        super().__init__(message)
        self.reason: Reason = reason
        self.message = message


class Faults:
    """Makes the errors of one source."""

    def __init__(self, config: SourceConfig, credentials: str, kind: str = "source") -> None:
        """Take the configuration; credentials: the fields and files that hold them. kind: what sentences call it."""
        parts = urlsplit(config.url)
        self._config, self._credentials = config, credentials
        self._at = f"{kind} {config.name} ({parts.scheme}://{parts.netloc})"  # the path may hold a token

    def error(self, reason: Reason, rest: str) -> SourceError:
        """Return an error whose sentence goes on after the source's name."""
        return SourceError(reason, f"{self._at} {rest}")

    def said(self, text: str, keys: Keys) -> str:
        """Return the server's words on one line, cut, or a note that they repeat a secret."""
        words = " ".join("".join(c if c.isprintable() else " " for c in text[:8192]).split())
        if keys.repeated_in(words[: 4 * LONGEST_SAID]):  # beyond what is shown, for a secret that the cut goes through
            return "(its text is left out: it repeats a credential)"
        return words if len(words) <= LONGEST_SAID else words[: LONGEST_SAID - 3] + "..."

    def late(self, seconds: float) -> SourceError:
        """Return the error of a call that did not end in time. seconds: what it was given."""
        timeout = self._config.timeout
        own = 0.9 * timeout < seconds <= timeout  # some of it may have gone by before the call began
        advice = "raise its timeout, or make the query cheaper" if own else "make the query cheaper"
        given = timeout if own else seconds
        return self.error("Timeout", f"gave no whole answer within {given:.3g} s; {advice}")

    def unsent(self, error: Exception, seconds: float) -> SourceError:
        """Return the error of a call that ended without an answer. seconds: what it was given."""
        found = list(_causes(error))
        if any(isinstance(e, (TimeoutError, urllib3.exceptions.TimeoutError)) for e in found):
            return self.late(seconds)
        for e in found:
            if isinstance(e, socket.gaierror):
                return self._unnamed(e)
            if isinstance(e, ssl.SSLError) and not isinstance(e, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
                return self._untrusted(e)
            if isinstance(e, ConnectionRefusedError):
                return self.error("Unreachable", "refuses the connection; does it run there, and is the port right?")
            if isinstance(e, (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)):
                return self.error("Unreachable", "closed the connection without an answer; is it restarting?")
            if isinstance(e, (http.client.IncompleteRead, urllib3.exceptions.IncompleteRead)):
                return self.error("BadAnswer", "broke off in the middle of its answer; is it, or a proxy, restarting?")
            if isinstance(e, urllib3.exceptions.DecodeError):
                return self.error("BadAnswer", "sent an answer that cannot be unpacked; look at the proxy before it")
            if isinstance(e, http.client.HTTPException):
                return self.error("BadAnswer", "does not speak HTTP as expected; is the port of url right?")
        for e in found:
            if isinstance(e, OSError) and e.strerror:
                return self.error("Unreachable", f"cannot be reached ({e.strerror}); is url right?")
        return self.error("Unreachable", f"cannot be reached ({type(found[-1]).__name__}); is url right?")

    @property
    def _without_certificate(self) -> bool:
        return self._config.url.startswith("https:") and self._config.cert_file is None

    def _unnamed(self, error: socket.gaierror) -> SourceError:
        if error.errno == socket.EAI_AGAIN:
            return self.error("Unreachable", "cannot be looked up: the name server does not answer; is DNS working?")
        return self.error("Unreachable", "has a host name that is not known; is url right, with the namespace?")

    def _untrusted(self, error: ssl.SSLError) -> SourceError:
        """Return the error of a TLS connection that failed."""
        if isinstance(error, ssl.SSLCertVerificationError):
            why = error.verify_message or "not valid"
            return self.error(
                "Unreachable",
                f"has a certificate that is not trusted ({why}); set tls.caFile, or the host in url that it names",
            )
        reason = error.reason or ""
        if reason in _CLIENT_REFUSED:
            if self._without_certificate:
                rest = "demands a client certificate; set tls.certFile and tls.keyFile"
            else:
                rest = (
                    f"refuses the client certificate {self._config.cert_file}; has it expired, is its CA known there?"
                )
            return self.error("Unauthorized", rest)
        if reason in _NO_TLS:
            return self.error("Unreachable", "does not speak TLS; write http:// in url if that is meant")
        return self.error("Unreachable", f"ended the TLS connection ({reason or 'no reason given'}); is url right?")

    def answered(self, status: int, headers: Mapping[str, str], body: bytes, payload: Any, keys: Keys) -> SourceError:
        """Return the error of an answer that is none. payload: the body as JSON, None where it is none."""
        if isinstance(payload, dict) and (payload.get("status") == "error" or "errorType" in payload):
            kind, text = str(payload.get("errorType", "")), str(payload.get("error", ""))
        else:
            kind, text = "", body[:8192].decode(errors="replace")
            if status == 200:
                return self._senseless(headers, text, payload)
        said = self.said(text, keys)
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
        code = f"{status} {phrase}".strip()
        if status in (401, 403, 407):
            return self._refused(status, code)
        if 300 <= status < 400:
            where = self.said(_without_query(headers.get("Location", "")), keys)
            return self.error("BadAnswer", f"redirects to {where or 'nowhere'}; write that in url if it is right")
        if status == 429 or kind == "too_many_requests":
            return self.error("Overloaded", f"takes no more queries now ({_colon(code, said)})")
        if kind in ("timeout", "canceled") or status in (408, 504):
            return self.error("Timeout", f"gave up on the query ({_colon(code, said)}); make the query cheaper")
        if any(word in text.lower() for word in _TOO_MUCH) and status < 500:
            return self.error("TooLarge", f"finds the query too large: {said}")
        if kind in ("bad_data", "execution", "not_acceptable") or status in (413, 414, 422, 431):
            return self.error("BadQuery", f"refuses the query: {said or code}")
        if status == 503:
            return self.error("Overloaded", f"is overloaded, starting or stopping ({_colon(code, said)})")
        if status >= 500 or kind:
            return self.error("ServerError", f"failed ({_colon(code, said)}); its log says more")
        if status in (404, 405, 410):
            return self.error("BadAnswer", f"has no Prometheus API there ({code}); is the path in url right?")
        if "HTTPS server" in text:
            return self.error("BadAnswer", "speaks TLS; write https:// in url")
        return self.error("BadAnswer", f"answers {_colon(code, _unless_page(said))}; does url lead to a Prometheus?")

    def _refused(self, status: int, code: str) -> SourceError:
        if not self._credentials:
            rest = "asks who is there; set bearerTokenFile, basic or headerFiles"
        elif status == 403:
            rest = f"does not let the owner of {self._credentials} query; grant it"
        else:
            rest = f"does not accept {self._credentials}; is what stands there right and not expired?"
        return self.error("Unauthorized", f"answers {code}: it {rest}")

    def _senseless(self, headers: Mapping[str, str], text: str, payload: Any) -> SourceError:
        """Return the error of a 200 that holds no answer."""
        if payload is not None:
            return self.error("BadAnswer", "answers JSON that is no query result; does url lead to a Prometheus?")
        if _is_page(text) or "html" in headers.get("Content-Type", ""):
            return self.error("BadAnswer", "answers a web page; does url lead to a log-in page, not to a Prometheus?")
        return self.error(
            "BadAnswer", "answers nothing" if not text.strip() else "answers something that is no JSON, or cut short"
        )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it was made from."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, getattr(each, "reason", None), *each.args]


def _colon(code: str, said: str) -> str:
    return f"{code}: {said}" if said else code


def _is_page(text: str) -> bool:
    return bool(re.match(r"\s*<(!doctype|html|\?xml|head|body)", text, re.IGNORECASE))


def _unless_page(said: str) -> str:
    return "a web page" if _is_page(said) else said


def _without_query(url: str) -> str:
    """Return a URL without user, query and fragment, which may hold tokens; empty where it is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else parts.path
