"""A real Prometheus on a free loopback port, for tests."""

import json
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from processes import Process
from programs import program

_ADDRESS = re.compile(r'msg="Listening on" component=web address=(\S+:(\d+))')
_READY = "Server is ready to receive web requests"


class PrometheusServer:
    """A real Prometheus with its data in `directory`; a context manager that starts and ends it.

    scrape: job -> host:port. interval: between scrapes. web_config: what its --web.config.file holds (TLS, basic
    authentication); `url` speaks https where it has a tls_server_config. history: OpenMetrics text, `# EOF` at its
    end, which lies in the database before the server starts. Remote writes are taken.
    """

    def __init__(
        self,
        directory: Path,
        scrape: Mapping[str, str] | None = None,
        interval: str = "1s",
        web_config: Mapping[str, Any] | None = None,
        history: str | None = None,
    ) -> None:
        """Take the settings; nothing runs yet."""
        self._directory, self._port = directory, 0
        self._web_config, self._interval = web_config, interval
        self._process: Process | None = None
        directory.mkdir(parents=True, exist_ok=True)
        if history is not None:
            self._load(history)
        self.scrape(scrape or {})

    @property
    def url(self) -> str:
        """Where it answers; the same after a restart."""
        scheme = "https" if self._web_config and "tls_server_config" in self._web_config else "http"
        return f"{scheme}://127.0.0.1:{self._port}"

    @property
    def process(self) -> Process:
        """The running program."""
        if self._process is None:
            raise RuntimeError("Prometheus does not run; start it first")
        return self._process

    def scrape(self, targets: Mapping[str, str]) -> None:
        """Scrape these targets (job -> host:port), and no others, from now on."""
        jobs = [{"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()]
        times = {"scrape_interval": self._interval, "scrape_timeout": self._interval}
        self._write("prometheus.yml", {"global": times, "scrape_configs": jobs})
        if self._process is not None:
            loaded = self._log().count("Completed loading of configuration file")
            self._process.send(signal.SIGHUP)
            self._process.wait_until(
                lambda: self._log().count("Completed loading of configuration file") > loaded, "to read its settings"
            )

    def start(self) -> None:
        """Start it and return once it answers queries; at the same port as before if it ran before."""
        if self._process is not None:
            raise RuntimeError("Prometheus runs already; stop it first")
        web: list[str | Path] = (
            ["--web.config.file", self._write("web.yml", self._web_config)] if self._web_config else []
        )
        (self._directory / "prometheus.log").unlink(missing_ok=True)
        command: list[str | Path] = [
            program("prometheus"),
            "--config.file", self._directory / "prometheus.yml",
            "--storage.tsdb.path", self._directory / "data",
            "--storage.tsdb.retention.time", "10y",
            "--web.listen-address", f"127.0.0.1:{self._port}",
            "--web.enable-remote-write-receiver",
            "--scrape.discovery-reload-interval", "50ms",  # hidden; without it the first scrape waits for 5 s
            *web,
        ]  # fmt: skip
        self._process = Process(command, self._directory / "prometheus.log")
        try:
            self._process.wait_until(lambda: _READY in (log := self._log()) and bool(_ADDRESS.search(log)), "to start")
        except BaseException:
            self.stop()
            raise
        found = _ADDRESS.search(self._log())
        self._port = int(found[2]) if found else 0

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; what it has stored stays."""
        if self._process is not None:
            self._process.stop(number)
            self._process = None

    def set_web_config(self, web_config: Mapping[str, Any]) -> None:
        """Replace what --web.config.file holds; Prometheus reads it again at each request."""
        self._web_config = web_config
        self._write("web.yml", web_config)

    def hang(self) -> None:
        """Let it take connections and answer nothing."""
        self.process.freeze()

    def resume(self) -> None:
        """Let it go on."""
        self.process.send(signal.SIGCONT)

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it."""
        self.stop()

    def _load(self, history: str) -> None:
        """Write samples into the database, as blocks of up to a week."""
        text = self._directory / "history.om"
        text.write_text(history)
        blocks = ["--max-block-duration", "168h", str(text), str(self._directory / "data")]
        command = [str(program("promtool")), "tsdb", "create-blocks-from", "openmetrics", *blocks]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"promtool refuses the history: {done.stdout}{done.stderr}")

    def _write(self, name: str, content: Mapping[str, Any]) -> Path:
        path = self._directory / name
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(content, indent=1))  # YAML reads JSON
        return beside.replace(path)  # whole, because Prometheus may be reading it

    def _log(self) -> str:
        return (self._directory / "prometheus.log").read_text(errors="replace")
