"""Ray itself: a cluster on this machine or at an address, whether it answers, and what is said where it does not."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from rlscaler.errors import UserError

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
ALONE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
LOCAL = {"RAY_AUTH_MODE": "disabled", ALONE: "0"}
"""The same of a local cluster: it listens on loopback alone, as Ray does elsewhere than on Linux, so it takes no token.
Ray reads them when it is first imported."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
ENDED = (
    "error: this process was ended from outside, or by Ray, as where the Ray cluster or its processes on this machine "
    "are gone; a run keeps its checkpoints: go on with --resume, and with a sweep by the same command"
)
_WATCH = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='CRITICAL')"


@contextmanager
def cluster(workers: int, address: str | None = None) -> Iterator[None]:
    """Have Ray with room for so many actors: here, or at an address (HOST:PORT, or ray://HOST:PORT, or auto).

    Goes on with a session that there is. Raises UserError where nothing answers at the address within REACH seconds, or
    it has too few processors; ModuleNotFoundError where Ray is not installed.
    """
    prepare(address)
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
        with (
            last_word(),
            redirect_stdout(sys.stderr),
        ):  # where Ray tells of processes that died; what is printed here may be JSON
            yield
    finally:
        ray.shutdown()


@contextmanager
def last_word() -> Iterator[None]:
    """Have a process that says so where this one is ended: Ray does it, without a word, where its own are gone."""
    watch = subprocess.Popen([sys.executable, "-I", "-S", "-c", _WATCH, ENDED], stdin=subprocess.PIPE,
                             stdout=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    try:
        yield
    finally:
        with suppress(OSError):  # it may have been ended itself
            watch.communicate(b"over")


def prepare(address: str | None) -> None:
    """Set what Ray reads from the environment when it is first imported, and import it.

    Raises ModuleNotFoundError where it is not installed.
    """
    for name, value in _variables(address).items():
        os.environ.setdefault(name, value)
    import ray  # noqa: F401


def _variables(address: str | None) -> dict[str, str]:
    """Return the environment variables by which Ray reaches an address, or starts here.

    Ray takes an address on loopback for one of this machine's own, and nothing answers there where a cluster listens
    on loopback alone.
    """
    if address is None:
        return QUIET | LOCAL
    host, _, port = address.rpartition(":")
    if host not in LOOPBACK or not port.isdigit():
        return QUIET
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: which of the machine's addresses it would be sent from
        own = probe.getsockname()[0]
        with suppress(OSError), socket.create_connection((own, int(port)), timeout=1.0):
            return QUIET
    return QUIET | {ALONE: LOCAL[ALONE]}


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
                    raise UserError(f"{_named(address)} cannot be used: {first_line(error)}") from error
            except SystemExit as error:
                if error.code == signal.SIGTERM and callable(before):  # Ray's own heard what is meant for that
                    before(signal.SIGTERM, None)
                raise
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


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its name where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def require_answer(address: str, within: float = REACH) -> None:
    """Raise UserError unless something takes connections at the address within so many seconds."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise UserError(f"--address {address}: expected HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=within).close()
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"--address {address}: nothing answers there: {why}; expected a Ray cluster") from error


def _reach(address: str) -> None:
    """Raise UserError unless a Ray cluster answers at the address within REACH seconds.

    Ray itself tries for minutes, and ends the process where something else answers: it is tried in a process of its
    own.
    """
    ends = time.monotonic() + REACH
    require_answer(address)
    try:
        subprocess.run([sys.executable, "-c", _PROBE, address], check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                       timeout=max(ends - time.monotonic(), 1.0))  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UserError(f"--address {address}: no Ray cluster answers there within {REACH:g} s") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"--address {address}: {_refusal(error.stderr or '')}") from None


def _refusal(said: str) -> str:
    """Return why nothing came of a connection, by what Ray said of it."""
    if "AuthenticationError" in said:
        return ("the Ray cluster there wants a token, and takes none or another; expected RAY_AUTH_MODE=token in the "
                "environment, and the cluster's token in RAY_AUTH_TOKEN or in ~/.ray/auth_token")  # fmt: skip
    if (at := said.lower().find("version mismatch")) >= 0:
        told = " ".join(said[at:].split())[:300]
        return f"the Ray cluster there is of another version of Ray or Python; expected the same as here ({told})"
    return "what is there answers as no Ray cluster of this version of Ray and Python"
