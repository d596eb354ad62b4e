"""What can go wrong with `rlscaler train`, through the command line: one sentence each, and nothing lost."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import mistakes, run, working_in
from rlscaler_sim.batch import Transition
from rlscaler_training import runs
from rlscaler_training.legacy import LegacyBatch

TINY = ["q-learning", "--environment", "legacy", "--episode", "10", "--steps", "40", "--envs", "2",
        "--evaluate-every", "10", "--checkpoint-every", "10", "-q"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with working_in(tmp_path_factory) as folder:
        yield folder


@pytest.fixture
def broken(place: Path, monkeypatch: pytest.MonkeyPatch) -> runs.Run:
    """A run whose environment gave no number after 25 steps; it stands at its checkpoint of the 20th."""
    plain = LegacyBatch.step

    def step(self: LegacyBatch, actions: Any) -> Transition:
        done = plain(self, actions)
        counted.append(self.n)
        late = counted.count(2) > 25
        return replace(done, reward=done.reward * float("nan"), cost=done.cost * float("nan")) if late else done

    counted: list[int] = []
    shutil.rmtree("broken", ignore_errors=True)
    with monkeypatch.context() as patch:
        patch.setattr(LegacyBatch, "step", step)
        (line,) = mistakes_beside_output(run("train", *TINY, "--run", "broken"))
    found = runs.opened("broken")
    assert "is nan at step 30" in line
    assert f"The last good checkpoint is {found.newest()}" in line
    return found


def mistakes_beside_output(result: Any) -> list[str]:
    """Return the sentences of a mistake that came after the first lines of output."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def test_numbers_that_are_none_stop_it_and_the_last_good_checkpoint_goes_on(broken: runs.Run) -> None:
    """Whatever was wrong being mended, the run ends as one that never met it."""
    assert (broken.newest() or Path()).stem.lstrip("0") == "20"
    assert run("train", "q-learning", "--resume", "broken", "-q").exit_code == 0
    assert run("train", *TINY, "--run", "sound").exit_code == 0
    assert (broken.folder / runs.METRICS).read_bytes() == Path("sound", runs.METRICS).read_bytes()
    shutil.rmtree("sound")


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ({"stepz": 3}, "settings.json: no setting is called 'stepz'; expected one of steps, envs, gamma"),
        ({"gamma": 1.5}, "settings.json: gamma is 1.5; expected a number from 0 to 0.9999"),
        ([], "settings.json: holds a list; expected an object of settings"),
    ],
)
def test_settings_that_are_none_are_named(place: Path, content: Any, fragment: str) -> None:
    Path("settings.json").write_text(json.dumps(content))
    (line,) = mistakes(run("train", *TINY, "--config", "settings.json", "--run", "never"))
    assert fragment in line
    assert not Path("never").exists()


def test_settings_that_are_nowhere_are_told_in_words(place: Path) -> None:
    told = [mistakes(run("train", *TINY, "--config", name)) for name in ("nowhere.json", ".")]
    assert told[0] == ["error: nowhere.json: no such file; expected a JSON object of settings"]
    assert told[1] == ["error: .: cannot be read (Is a directory); expected a JSON object of settings"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_named(place: Path) -> None:
    (line,) = mistakes(run("train", *TINY, "--device", "cuda", "--run", "never"))
    assert line == "error: --device cuda: torch finds no CUDA device here; use --device cpu, or leave it out"
    assert not Path("never").exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 half a zip"], ids=["empty", "foreign", "cut off"])
def test_checkpoints_that_are_none_are_named(broken: runs.Run, content: bytes) -> None:
    """As long as one can be read, it is gone on from; with none it stops, and begins nothing anew."""
    (newest := broken.newest() or Path()).write_bytes(content)
    for path in (broken.folder / runs.CHECKPOINTS).glob("0*.pt"):
        path.write_bytes(content)
    (line,) = mistakes_beside_output(run("train", "q-learning", "--resume", "broken", "-q"))
    assert "is no checkpoint of rlscaler" in line
    assert str(newest.parent) in line
    assert newest.read_bytes() == content
