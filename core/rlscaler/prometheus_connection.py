"""Connections each of whose waits ends at the deadline of the call that uses them: look-up, connection, TLS, reading.

The time-outs of sockets are per read, and the look-up of a name has none at all; see `prometheus_session`.
"""

import functools
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection

from rlscaler.prometheus_config import SourceConfig
from rlscaler.prometheus_credentials import UnreadableError, signature

Left = Callable[[], float]
"""Seconds that the call of this thread may still take; raises TimeoutError where there are none."""
Address = tuple[Any, ...]
ALERT = 0.25
"""Seconds to wait for what a server says against a certificate."""


class Names:
    """Looks up hosts, waiting no longer than a call may take: getaddrinfo itself knows no time-out.

    One look-up of a host is under way at a time, in a thread that nobody has to wait for.
    """

    def __init__(self) -> None:
        """Nothing is looked up yet."""
        self._lock = threading.Lock()
        self._flights: dict[tuple[str, int], Future[list[Address]]] = {}

    def addresses(self, host: str, port: int, seconds: float) -> list[Address]:
        """Return what getaddrinfo returns; raises OSError (TimeoutError after `seconds`) or UnicodeError."""
        try:
            return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
        except (socket.gaierror, UnicodeError):
            pass  # a name and not a number
        with self._lock:
            flight = self._flights.get((host, port))
            if flight is None:
                flight = self._flights[host, port] = Future()
                threading.Thread(target=self._look_up, args=(host, port, flight), daemon=True).start()
        return flight.result(seconds)

    def _look_up(self, host: str, port: int, flight: "Future[list[Address]]") -> None:
        try:
            found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
        except Exception as error:
            self._forget(host, port)
            flight.set_exception(error)
        else:
            self._forget(host, port)
            flight.set_result(list(found))

    def _forget(self, host: str, port: int) -> None:
        with self._lock:
            del self._flights[host, port]


class _Waits:
    """What makes each wait of a socket end at the deadline of the call that uses it."""

    left: Left | None = None

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self._set_timeout()
        return int(super().recv_into(*args, **kwargs))  # type: ignore[misc]

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self._set_timeout()
        super().sendall(*args, **kwargs)  # type: ignore[misc]

    def _set_timeout(self) -> None:
        if self.left is not None:
            self.settimeout(self.left())  # type: ignore[attr-defined]


class _PlainSocket(_Waits, socket.socket):
    pass


class _SecureSocket(_Waits, ssl.SSLSocket):
    """The time-out of a handshake is for the whole of it already."""


class _PlainConnection(HTTPConnection):
    def __init__(self, *args: Any, dialer: "Dialer", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dialer = dialer

    def _new_conn(self) -> socket.socket:
        return self._dialer.dial(self._dns_host, self.port)


class _SecureConnection(HTTPSConnection):
    def __init__(self, *args: Any, dialer: "Dialer", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dialer = dialer

    def _new_conn(self) -> socket.socket:
        return self._dialer.dial(self._dns_host, self.port)

    def connect(self) -> None:
        self.ssl_context = self._dialer.tls()
        self.cert_reqs = self.ssl_context.verify_mode
        self.ca_certs = self.ca_cert_dir = self.cert_file = self.key_file = None  # the context has them
        super().connect()
        if isinstance(self.sock, _SecureSocket):
            self.sock.left = self._dialer.left
            self._dialer.hear_out(self.sock)
        self.is_verified = True  # else urllib3 warns at each request of what the configuration asks for


class Dialer:
    """Opens the connections of one source. Threads may share it."""

    def __init__(self, config: SourceConfig, left: Left, wary: Callable[[], bool]) -> None:
        """Take the configuration; nothing is opened or read yet. wary: whether this thread has just been cut off."""
        self.left, self._wary = left, wary
        self._config = config
        self._names = Names()
        self._context: tuple[tuple[Any, ...], ssl.SSLContext] | None = None

    def connection_class(self, scheme: str) -> Callable[..., HTTPConnection]:
        """Return what makes the connections of an urllib3 pool."""
        return functools.partial(_SecureConnection if scheme == "https" else _PlainConnection, dialer=self)

    def dial(self, host: str, port: int) -> socket.socket:
        """Return a connected socket; the time left is shared among the host's addresses."""
        found = self._names.addresses(host.strip("[]"), port, self.left())
        error: OSError = OSError(f"{host} has no address")
        for i, (family, kind, protocol, _, address) in enumerate(found):
            made = _PlainSocket(family, kind, protocol)
            try:
                made.settimeout(self.left() / (len(found) - i))
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                made.connect(address)
                made.settimeout(self.left())
            except OSError as e:
                made.close()
                error = e
            else:
                made.left = self.left
                return made
        raise error

    def hear_out(self, made: ssl.SSLSocket) -> None:
        """Raise ssl.SSLError where the server refuses a client's certificate, if this thread is wary.

        In TLS 1.3 it does so after the handshake, and its alert is lost where the request is on its way already: all
        that is seen then is a connection that breaks. So, after that, wait a moment before sending.
        """
        if not self._wary():
            return
        made.settimeout(min(ALERT, self.left()))
        try:
            if not made.recv(1):
                raise ConnectionResetError("closed after the handshake")
        except TimeoutError:
            pass  # no alert: a server of HTTP does not speak first
        made.settimeout(self.left())

    def tls(self) -> ssl.SSLContext:
        """Return the TLS settings, made anew when one of their files changes; raises UnreadableError, OSError."""
        config = self._config
        files = {"tls.caFile": config.ca_file, "tls.certFile": config.cert_file, "tls.keyFile": config.key_file}
        state: list[Any] = []
        for field, path in files.items():
            try:
                state.append(signature(path) if path else None)
            except OSError as error:
                raise UnreadableError(f"{field} {path} cannot be used: {error.strerror}") from None
        known = self._context
        if known is None or known[0] != tuple(state):
            known = self._context = tuple(state), self._made_tls()
        return known[1]

    def _made_tls(self) -> ssl.SSLContext:
        config = self._config
        try:
            context = ssl.create_default_context(cafile=config.ca_file or DEFAULT_CA_BUNDLE_PATH)
        except ssl.SSLError:
            raise UnreadableError(f"tls.caFile {config.ca_file} holds no certificate in PEM form") from None
        # Certificates of a house's own making often lack what strict checks ask for; Go's tools, with which they are
        # tried, do not ask. (A flag of Python 3.13's default.)
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.sslsocket_class = _SecureSocket
        if config.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if config.cert_file:
            try:
                context.load_cert_chain(config.cert_file, config.key_file, password=_no_passphrase)
            except (ssl.SSLError, ValueError):
                raise UnreadableError(
                    f"tls.certFile {config.cert_file} and tls.keyFile {config.key_file or 'in it'} are no certificate "
                    "with its key; expected both in PEM form, the key without a passphrase"
                ) from None
        return context


def _no_passphrase() -> str:
    """Stand for the prompt on the terminal, which would wait for ever."""
    raise ValueError("the key is encrypted")
