"""Training that is killed at random moments loses a checkpoint interval at most, and ends as if it never was."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from command_line import install
from forked_command import started
from rlscaler_training import runs

SIMULATED = ["--scenario", "spike", "--hours", "1", "--episode", "8"]
SHORT = ["--environment", "legacy", "--episode", "10"]
PATIENCE = 240.0


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    install(folder)
    return folder


def awaited(what: Callable[[], bool]) -> bool:
    """Wait until it is so, at most so long; return whether it is."""
    end = time.monotonic() + PATIENCE
    while not (so := what()) and time.monotonic() < end:
        time.sleep(0.005)
    return so


def newest(run: Path) -> int:
    """The step of the newest checkpoint, 0 without one."""
    return max((int(path.stem) for path in (run / runs.CHECKPOINTS).glob("0*.pt")), default=0)


def measured(run: Path) -> list[int]:
    """The steps that were measured; a line that is cut off is none."""
    return [int(row["step"]) for row in runs.read_metrics(run)]


def progressed(process: ForkServerProcess, run: Path, since: int) -> bool:
    """Whether there is a checkpoint of a later step, or never will be."""
    return newest(run) > since or not process.is_alive()


@pytest.mark.parametrize(
    ("learner", "kills", "every", "settings"),
    [
        pytest.param("q-learning", 14, 20, [*SHORT, "--steps", "1000", "--envs", "2", "--evaluate-every", "10"]),
        pytest.param("dqn", 4, 16, [*SHORT, "--steps", "192", "--envs", "2", "--learning-starts", "8", "--batch", "8",
                                    "--hidden", "8", "--evaluate-every", "16", "--buffer", "100"]),
        pytest.param("q-learning", 2, 4, [*SIMULATED, "--steps", "24", "--envs", "4", "--lookahead", "2",
                                          "--evaluate-every", "4"]),
    ],
    ids=["table", "network", "simulated world"],
)  # fmt: skip
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(
    tmp_path: Path, installed: Path, learner: str, kills: int, every: int, settings: list[str]
) -> None:
    """The same artifact and the same metrics, byte for byte; nothing half-written is left."""
    rng = random.Random(kills)
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    cut.mkdir()
    command = ["train", learner, *settings, "--checkpoint-every", str(every), "--run", "run", "-q"]
    run = cut / "run"
    output = tmp_path / "output.txt"
    process = started(command, cut, installed, output)
    assert awaited((run / runs.CONFIG).exists), output.read_text()
    process.kill()
    process.join()
    shutil.copytree(cut, whole)

    done = 0
    for _ in range(kills):
        process = started(["train", learner, "--resume", "run", "-q"], cut, installed, output)
        # Mostly while it trains, else while it makes ready.
        if rng.random() < 0.8:
            awaited(partial(progressed, process, run, done))
        time.sleep(rng.uniform(0.0, 0.04))
        assert process.is_alive(), output.read_text()
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        at = newest(run)
        assert at >= done, "what was kept is not lost"
        assert max(measured(run), default=0) - at <= every
        done = at
    assert done > 0

    for folder in (cut, whole):
        process = started(["train", learner, "--resume", "run", "-q"], folder, installed, output)
        process.join(PATIENCE)
        assert process.exitcode == 0, output.read_text()
    for name in (runs.POLICY, runs.METRICS, "metrics.npz"):
        assert (run / name).read_bytes() == (whole / "run" / name).read_bytes(), name
    lines = [json.loads(line) for line in (run / runs.METRICS).read_text().splitlines()]
    assert len({line["step"] for line in lines}) == len(lines)
    left = {path.name for path in run.rglob("*") if path.is_file() and path.parent.name != "events"}
    assert left == {path.name for path in (whole / "run").rglob("*") if path.is_file() and path.parent.name != "events"}
