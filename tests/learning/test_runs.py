"""A run's folder: whole or not there, and a run that was cut off goes on as if it never was."""

import json
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlscaler.errors import UserError
from rlscaler_training import run_record, runs
from rlscaler_training.runs import Interruption, NotFiniteError, Run


@dataclass(frozen=True)
class Config:
    rate: float = 0.5
    hidden: tuple[int, ...] = (8, 8)


def begun(folder: Path) -> Run:
    return runs.begin(folder / "run", "bdq", Config(), {"seed": 3})


def walk(run: Run, rng: np.random.Generator, value: float, begin: int, end: int) -> float:
    """A random walk with both generators, measured at every step, kept at each fifth."""
    for step in range(begin + 1, end + 1):
        value += float(rng.normal()) + float(torch.randn(()))
        run.log(step, {"value": value})
        if step % 5 == 0:
            run.checkpoint(step, {"value": value, "random": runs.generators(rng)})
    return value


def test_a_run_that_was_cut_off_goes_on_as_if_it_never_was(tmp_path: Path) -> None:
    """The same numbers to the bit, once each, whatever was measured after the last checkpoint."""
    whole = begun(tmp_path / "whole")
    torch.manual_seed(1)
    expected = walk(whole, np.random.default_rng(1), 0.0, 0, 20)

    cut = begun(tmp_path / "cut")
    torch.manual_seed(1)
    walk(cut, np.random.default_rng(1), 0.0, 0, 13)
    with (cut.folder / runs.METRICS).open("a") as stream:
        stream.write('{"step": 14, "val')  # killed while it wrote
    torch.manual_seed(77)
    again = runs.resume(cut.folder)
    state = again.restore()
    assert state is not None
    assert again.step == 10
    rng = np.random.default_rng(99)
    runs.restore_generators(rng, state["random"])
    assert walk(again, rng, state["value"], again.step, 20) == expected
    assert list(runs.read_metrics(again.folder)) == list(runs.read_metrics(whole.folder))


def test_what_was_asked_for_is_kept(tmp_path: Path) -> None:
    """Algorithm, settings and arguments come back; the environment says what the result may depend on."""
    run = begun(tmp_path)
    again = runs.opened(run.folder)
    assert (again.algorithm, again.arguments) == ("bdq", {"seed": 3})
    assert again.settings == {"rate": 0.5, "hidden": [8, 8]}
    told = json.loads((run.folder / runs.ENVIRONMENT).read_text())
    assert told["versions"]["torch"] == torch.__version__.split("+")[0] or told["versions"]["torch"]
    assert {"python", "platform", "processors", "device", "git", "command", "began"} <= told.keys()


def test_only_the_newest_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    """A long run does not fill the disk."""
    run = begun(tmp_path)
    for step in range(1, 9):
        run.checkpoint(step, {"value": step}, best=step == 2)
    names = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
    assert names == ["000000000006.pt", "000000000007.pt", "000000000008.pt", "best.pt"]
    assert run.restore(best=True) == {"value": 2}


def test_seconds_of_all_processes_are_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the newest checkpoint, as what came after it is done again; a run that keeps none of them has none."""
    now = [100.0]
    monkeypatch.setattr(runs, "now", lambda: now[0])
    run = runs.begin(tmp_path / "run", "none", Config(), {})
    now[0] += 7.0
    run.checkpoint(1, {"value": 1})
    now[0] += 1000.0
    again = runs.resume(run.folder)
    now[0] += 5.0
    assert again.seconds == pytest.approx(12.0)
    again.checkpoint(2, {"value": 2})
    (run.folder / runs.SPENT).unlink()
    assert runs.resume(run.folder).seconds == pytest.approx(0.0)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    """With all of them damaged the run says so; it never begins anew in silence."""
    run = begun(tmp_path)
    for step in (5, 10):
        run.checkpoint(step, {"value": step})
    (newest := run.newest() or tmp_path).write_bytes(b"junk")
    assert runs.resume(run.folder).restore() == {"value": 5}
    for path in (run.folder / "checkpoints").iterdir():
        path.write_bytes(b"junk")
    with pytest.raises(UserError, match="no checkpoint of rlscaler"):
        runs.resume(run.folder).restore()
    assert newest.exists()


def test_a_foreign_file_is_not_executed(tmp_path: Path) -> None:
    """A checkpoint holds data alone: one that would run code is refused."""

    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("run",))

    run = begun(tmp_path)
    run.checkpoint(1, {"value": 1})
    torch.save({"step": 1, "state": Evil()}, run.newest() or "")
    with pytest.raises(UserError, match="no checkpoint of rlscaler"):
        run.restore()


def test_numbers_that_are_none_stop_the_run(tmp_path: Path) -> None:
    """Which, at which step, and where the last good checkpoint is; the line is on record."""
    run = begun(tmp_path)
    run.checkpoint(5, {"value": 1})
    with pytest.raises(NotFiniteError, match=r"loss is nan at step 6.*000000000005\.pt"):
        run.log(6, {"loss": float("nan")})
    (row,) = runs.read_metrics(run.folder)
    assert np.isnan(row["loss"])


def test_a_line_of_no_step_is_left_out(tmp_path: Path) -> None:
    run = begun(tmp_path)
    (run.folder / "metrics.jsonl").write_text('{"step": 1e400}\n{"step": NaN}\n{"step": 3, "score": NaN}\n[1]\n')
    assert run_record.read(run.folder).step == 3


def test_mistakes_are_named(tmp_path: Path) -> None:
    """A folder that is taken, empty, or finished."""
    run = begun(tmp_path)
    with pytest.raises(UserError, match="holds a run; go on with it by --resume"):
        begun(tmp_path)
    with pytest.raises(UserError, match="no run is here"):
        runs.opened(tmp_path / "none")
    run.log(1, {"loss": 1.0})
    run.finish({"score": 1.5})
    with pytest.raises(UserError, match="the run is complete"):
        runs.resume(run.folder)
    assert json.loads((run.folder / runs.REPORT).read_text()) == {"score": 1.5}
    np.testing.assert_array_equal(np.load(run.folder / "metrics.npz")["loss"], [1.0])
    (run.folder / runs.CONFIG).write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not whole"):
        runs.opened(run.folder)


def test_runs_are_found_by_their_folder(tmp_path: Path) -> None:
    """Other folders are passed over."""
    for name in ("b", "a"):
        runs.begin(tmp_path / name, "ppo", Config(), {})
    (tmp_path / "other").mkdir()
    assert [run.folder.name for run in runs.found(tmp_path)] == ["a", "b"]


def test_ctrl_c_is_a_wish_first_and_an_end_second() -> None:
    """The loop may finish its step; whoever insists is obeyed."""
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.wanted
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_cannot_listen_and_need_not() -> None:
    """Signals belong to the main thread."""
    seen: list[bool] = []

    def work() -> None:
        with Interruption() as interruption:
            seen.append(interruption.wanted)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
