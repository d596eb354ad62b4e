"""Real programs as children: a log in a file, an end that is certain, and errors that show the log's last lines."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

POLL = 0.02
"""Seconds between two looks at what is waited for."""

_DIES_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
# A wrapper and not preexec_fn, which is unsafe (and warned of) in a process with threads.


class Process:
    """A running program.

    It is killed when the thread that started it ends, however that happens: start it from one that lasts.
    """

    def __init__(self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Start the program; what it prints is appended to `log`. environment: added to this process' own."""
        self.command = [str(part) for part in command]
        self.log = log
        self.name = Path(self.command[0]).name
        wrapper = [sys.executable, "-I", "-S", "-c", _DIES_WITH_PARENT, str(os.getpid())]
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [*wrapper, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    @property
    def pid(self) -> int:
        """The process' number."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """What it ended with, below zero by a signal; None while it runs."""
        return self._process.poll()

    def wait_until(self, ready: Callable[[], bool], what: str, deadline: float = 60.0) -> None:
        """Return once `ready` is true; raises RuntimeError with the log's tail if the program ends or time is up."""
        wait_until(ready, f"{self.name}: {what}", deadline, self)

    def stop(self, number: int = signal.SIGTERM, patience: float = 10.0) -> None:
        """End the program by a signal, and by SIGKILL if it is still there after `patience` seconds."""
        if self.running:
            self._process.send_signal(signal.SIGCONT)  # a stopped process would not hear of it
            self._process.send_signal(number)
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def send(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Let it keep its connections and answer nothing, until it is sent SIGCONT: all its threads stand still now."""
        self.send(signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")
        self.wait_until(lambda: all(map(_is_stopped, threads.iterdir())), "to stand still")

    def tail(self, lines: int = 25) -> str:
        """Return the last lines of the log."""
        with self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - 65536))
            text = stream.read().decode(errors="replace")
        return "\n".join(line[:400] for line in text.splitlines()[-lines:])

    def __enter__(self) -> Self:
        """Return the process."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the process."""
        self.stop()


def _is_stopped(thread: Path) -> bool:
    """Tell whether a thread is stopped by a signal; one that has ended is too."""
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        return True


def wait_until(ready: Callable[[], bool], what: str, deadline: float = 60.0, *processes: Process) -> None:
    """Return once `ready` is true.

    Raises RuntimeError that shows the logs' tails if one of the processes ends, or `deadline` seconds have passed.
    """
    end = time.monotonic() + deadline
    while not ready():
        dead = [process for process in processes if not process.running]
        late = time.monotonic() > end
        if dead or late:
            why = f"not within {deadline:g} s" if late else "ended before"
            logs = "\n".join(f"--- {process.log}\n{process.tail()}" for process in (dead or processes))
            raise RuntimeError(f"{what}: {why}\n{logs}")
        time.sleep(POLL)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that are free now, all different.

    They lie below the ports that Linux gives to outgoing connections, which otherwise could take one at any time.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = _CHANCE.randrange(20_000, 32_768)
        with socket.socket() as taken, contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports


_CHANCE = random.SystemRandom()
