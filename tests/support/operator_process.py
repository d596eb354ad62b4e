"""`rlscaler run` as a process of its own, as in a cluster: killed, paused and replaced by tests."""

import json
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from processes import Process, free_ports


class OperatorProcess:
    """An operator outside of the cluster; a context manager that starts and ends it.

    kubeconfig: whom it speaks as. configuration: the operator's configuration file. lease: namespace of its Lease and
    its state. arguments: handed on to `rlscaler run`. environment: added to this process' own.
    """

    def __init__(
        self,
        directory: Path,
        kubeconfig: Path,
        configuration: Mapping[str, Any],
        *,
        lease: str,
        identity: str = "one",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Take the settings; nothing runs yet."""
        self.directory, self.identity, self._environment = directory, identity, environment
        directory.mkdir(parents=True, exist_ok=True)
        self._file = directory / "configuration.yaml"
        self._file.write_text(yaml.safe_dump(dict(configuration)))
        (self._port,) = free_ports(1)
        self._log = directory / f"{identity}.log"
        self._command: list[str | Path] = [
            Path(sys.executable).with_name("rlscaler"), "run",
            "--kubeconfig", str(kubeconfig),
            "--config", str(self._file),
            "--listen", f"127.0.0.1:{self._port}",
            "--log-format", "json",
            "--lease-namespace", lease,
            "--identity", identity,
            *arguments,
        ]  # fmt: skip
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The running program."""
        if self._process is None:
            raise RuntimeError("the operator does not run; start it first")
        return self._process

    def start(self, ready: bool = True) -> Self:
        """Start it; ready: return once it is ready."""
        self._process = Process(self._command, self._log, self._environment)
        if ready:
            self._process.wait_until(self.ready, "is not ready")
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop(number)
            self._process = None

    def ready(self) -> bool:
        """Tell whether /readyz says so."""
        return self.get("/readyz")[0] == 200

    def get(self, path: str) -> tuple[int, str]:
        """Return status and text of a page of its own server; 0 where there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series with these labels, 0 where there is none."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(f'{key}="{text}"' in series for key, text in labels.items()):
                total += float(value)
        return total

    def log(self) -> list[dict[str, Any]]:
        """Return what it has logged so far, one object a line; lines that are no JSON as {"text": line}."""
        found: list[dict[str, Any]] = []
        for line in self._log.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                found.append({"text": line})
        return found

    def __enter__(self) -> Self:
        """Start it, and return once it is ready."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it."""
        self.stop()
