"""`rlscaler serve` as people start it: Ray Serve in its own processes, asked over HTTP, swapped, and ended."""

import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pytest

import served_artifacts
from asked_rows import asked, rows, views
from processes import Process
from rlscaler import served
from rlscaler.artifact import Artifact, save
from rlscaler.policies import from_artifact, load_policy
from rlscaler.policy import Policy
from rlscaler.served import PATH

START = 240.0
"""Seconds for Ray's processes to start, on a machine that does other work."""
LINE = 60.0
OLD, NEW = served_artifacts.network(), served_artifacts.network(output="correction")
ROWS = 2000

pytestmark = pytest.mark.timeout(2 * START)


class Running(NamedTuple):
    """The command, and what it prints, line by line."""

    process: "subprocess.Popen[str]"
    lines: "queue.Queue[str]"
    reader: threading.Thread
    port: int
    path: Path

    def line(self) -> str:
        """Return the next line that it prints."""
        return self.lines.get(timeout=LINE).strip()


def started(path: Path, *options: str) -> Running:
    command = [sys.executable, "-c", "from rlscaler.cli import main; main()", "serve", f"web={path}", "learned",
               "--port", "0", "--device", "cpu", *options]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    said = ""
    while not said.startswith("serving at "):
        try:
            said = lines.get(timeout=START)
        except queue.Empty:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            pytest.skip(f"Ray does not start on this machine within {START:g} s")
        if said.startswith("error: ") and ("does not start" in said or "cannot be used" in said):
            process.communicate(timeout=LINE)
            pytest.skip(f"Ray does not start on this machine now: {said.strip()}")
    return Running(process, lines, reader, int(said.partition(", device")[0].rpartition(":")[2]), path)


@contextmanager
def serving(path: Path, *options: str) -> Iterator[Running]:
    save(OLD, path)
    running = started(path, *options)
    try:
        yield running
    finally:
        running.process.send_signal(signal.SIGTERM)
        try:
            assert running.process.wait(START) == 0
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
            running.reader.join(LINE)
            assert running.process.stdout is not None
            running.process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("served") / "web.rlz") as running:
        yield running


def assert_answered_as_here(server: Running, policy: Policy, query: str, digest: str) -> None:
    got = asked(server.port, f"{PATH}?{query}", served.question(rows(ROWS)))
    assert got.status == 200, got.body
    assert got.headers["rlscaler-digest"] == digest
    with np.errstate(invalid="ignore"):
        expected = policy.propose(views(ROWS), {})[0]
    np.testing.assert_array_equal(served.answered(got.body, ROWS, 10**7).replicas, expected.replicas)


def test_ray_serve_answers_as_here(server: Running) -> None:
    assert_answered_as_here(server, from_artifact(OLD), "policy=web", OLD.digest)
    learned = load_policy("learned")
    found = getattr(learned, "artifact", None)
    assert isinstance(found, Artifact)
    assert_answered_as_here(server, learned, f"digest={found.digest}", found.digest)
    assert json.loads(asked(server.port, "/healthz").body)["status"] == "ok"
    assert asked(server.port, PATH, b"no").status == 400
    assert b"rlscaler_serve_rows_total" in asked(server.port, "/metrics").body


def test_a_new_file_is_served_and_a_broken_one_is_refused(server: Running) -> None:
    save(NEW, server.path)
    assert server.line() == f"web: {NEW.digest}"
    assert_answered_as_here(server, from_artifact(NEW), "policy=web", NEW.digest)
    server.path.write_bytes(b"broken")
    assert server.line().endswith("the policy before stays in use")
    assert_answered_as_here(server, from_artifact(NEW), "policy=web", NEW.digest)


def test_a_second_server_finds_the_port_taken(server: Running) -> None:
    command = [sys.executable, "-c", "from rlscaler.cli import main; main()", "serve", "--port", str(server.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"--port {server.port} of 127.0.0.1 is taken" in done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_server_that_is_told_to_end_while_ray_starts_never_serves(tmp_path: Path, number: int, status: int) -> None:
    """Its session is there long before it serves."""
    command = [sys.executable, "-c", "from rlscaler.cli import main; main()", "serve", "--port", "0", "--device", "cpu"]
    log = tmp_path / "log"
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as short,  # a socket's path is no longer than 107 characters
        Process(command, log, {"RAY_TMPDIR": short, "RAY_ADDRESS": ""}) as server,
    ):
        server.wait_until(lambda: any(Path(short).glob("ray/session_*/logs/gcs_server.*")), "to start Ray", START)
        server.stop(number, LINE)
        assert server.status == status
    assert log.read_text() == "interrupted\n"


def test_no_question_is_cut_off_when_the_server_is_told_to_end(tmp_path: Path) -> None:
    """The server waits a second for more to answer at once, so they are at it when it is told; one that is not is
    answered too, by 404."""
    said: list[int | str] = []

    def ask(port: int) -> None:
        try:
            said.append(asked(port, f"{PATH}?policy=web", served.question(rows(1))).status)
        except (OSError, http.client.HTTPException) as error:
            said.append(repr(error))

    with serving(tmp_path / "web.rlz", "--max-wait", "1000") as server:
        ask(server.port)
        threads = [threading.Thread(target=ask, args=(server.port,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert said == [200]
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(START)
    assert len(said) == 9
    assert set(said) <= {200, 404}, said
    assert said.count(200) > 1
