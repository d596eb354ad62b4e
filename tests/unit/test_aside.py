"""Work in a process of its own: the same answer, the same error, and none where it is not worth one."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import doomed
import left_alone
from rlscaler_sim.aside import aside


def test_long_work_is_done_elsewhere_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with aside(long=True) as begin:
        first, second = begin(os.getpid), begin(partial(sum, (1, 2)))
    assert first() == first() != os.getpid()
    assert second() == 3


def test_what_it_raises_is_raised_where_the_answer_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with aside(long=True) as begin:
        answer = begin(partial(int, "x"))
    with pytest.raises(ValueError, match="invalid literal"):
        answer()


def test_work_whose_process_is_ended_is_done_here_with_all_that_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with aside(long=True) as begin:
        before = begin(doomed.here)
        assert before() == os.getpid()
        after = begin(os.getpid)
        assert after() == os.getpid()


@pytest.mark.parametrize(("long", "cores"), [(False, 2), (True, 1)])
def test_short_work_and_a_single_core_begin_no_process(long: bool, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    with aside(long=long) as begin:
        assert begin(os.getpid)() == os.getpid()


def ended(number: int, mark: Path, *, busy: float, group: bool) -> subprocess.CompletedProcess[str]:
    """Return how a process ended by a signal once all that have its output are gone; raises TimeoutExpired."""
    command = [sys.executable, left_alone.__file__, str(int(number)), str(busy), str(int(group)), str(mark)]
    path = os.pathsep.join(each for each in sys.path if each)
    return subprocess.run(command, capture_output=True, text=True, timeout=20, start_new_session=True,
                          env={**os.environ, "PYTHONPATH": path})  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("busy", [0.0, 60.0])
def test_nothing_goes_on_for_a_process_that_is_gone(number: int, busy: float, tmp_path: Path) -> None:
    assert ended(number, tmp_path / "begun", busy=busy, group=False).returncode == -number


@pytest.mark.parametrize("busy", [0.0, 60.0])
def test_ctrl_c_has_no_words_of_another_process(busy: float, tmp_path: Path) -> None:
    """It goes to all processes of a terminal; one that waits for work would print where it did so."""
    done = ended(signal.SIGINT, tmp_path / "begun", busy=busy, group=True)
    assert done.returncode == -signal.SIGINT
    assert "SpawnProcess" not in done.stderr
