"""A full disk ends training in a sentence; what was kept stays, and with room again training goes on from it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import install
from forked_command import started
from rlscaler_training import runs

COMMAND = ["train", "q-learning", "--environment", "legacy", "--episode", "10", "--steps", "300", "--envs", "2",
           "--evaluate-every", "10", "--checkpoint-every", "20", "-q"]  # fmt: skip
RESUME = ["train", "q-learning", "--resume", "run", "-q"]
PATIENCE = 240.0


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    install(folder)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a few checkpoints; grown by `mount -o remount,size=`."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def ended(arguments: list[str], folder: Path, installed: Path, output: Path, largest: int | None = None) -> int | None:
    process = started(arguments, folder, installed, output, largest)
    process.join(PATIENCE)
    return process.exitcode


def refused(told: str) -> None:
    """Check that it was told in a sentence: which file, why, what to do, what is kept."""
    (line,) = (line for line in told.splitlines() if line.startswith("error: "))
    assert "Traceback" not in told
    assert "cannot be written" in line
    assert "make room there" in line
    assert "rlscaler train q-learning --resume run" in line


def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path, small: Path, installed: Path) -> None:
    """Once there is room it goes on, to the artifact of a run that always had some."""
    output = tmp_path / "output.txt"
    assert ended([*COMMAND, "--run", "run"], small, installed, output) == 1, output.read_text()
    told = output.read_text()
    refused(told)
    assert "No space left on device" in told
    kept = runs.opened(small / "run").newest()
    assert kept is not None
    assert f"the last good checkpoint is {kept.relative_to(small)}" in told
    assert ended(RESUME, small, installed, output) == 1, "there is no room yet"
    assert runs.opened(small / "run").newest() == kept

    subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
    assert ended(RESUME, small, installed, output) == 0, output.read_text()
    (tmp_path / "roomy").mkdir()
    assert ended([*COMMAND, "--run", "run"], tmp_path / "roomy", installed, output) == 0
    for name in ("checkpoints/best.pt", runs.METRICS):
        assert (small / "run" / name).read_bytes() == (tmp_path / "roomy" / "run" / name).read_bytes()


@pytest.mark.parametrize("largest", [4_000, 12_000], ids=["no checkpoint fits", "the metrics become too large"])
def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path, installed: Path, largest: int) -> None:
    """As `ulimit -f` sets it; nothing half-written is left, and without the limit it goes on."""
    output = tmp_path / "output.txt"
    command = [*COMMAND, "--evaluate-every", "1", "--run", "run"]
    assert ended(command, tmp_path, installed, output, largest) == 1, output.read_text()
    told = output.read_text()
    refused(told)
    assert "File too large" in told
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert ended(RESUME, tmp_path, installed, output) == 0, output.read_text()
    steps = [row["step"] for row in runs.read_metrics(tmp_path / "run")]
    assert steps == list(range(301)), "each measured once, none broken"
