"""Several ranks train what a single process trains: the same losses and weights, through the same checkpoints."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

import ranked_training
from command_line import install, run
from ranked_training import BY_ZERO2, CONFIGS, HANDED_ON, LEARNERS, QUARTER, state, trained
from rlscaler.action import HEADROOM
from rlscaler.artifact import load
from rlscaler.errors import UserError
from rlscaler_sim.batch import Batch
from rlscaler_training import launching, runs
from rlscaler_training.launching import Job
from rlscaler_training.parallel import DDP, ZERO2, Parallel, RankLostError

pytestmark = pytest.mark.timeout(900)  # ranks wait for each other at every step, and a busy machine for all of them
CLOSE = 1e-5
PATIENCE = 240.0
NEEDS_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


def ranked(folder: Path, program: Callable[[Path], None]) -> None:
    """Run a program on two ranks, to its end."""
    store = launching.meeting()
    start: Any = start_processes
    start(ranked_training.on_rank, (2, store.port, folder, program), nprocs=2)


def begun(folder: Path, steps: int) -> Job:
    """A job whose run is begun."""
    config = replace(CONFIGS["apg"][0], steps=steps)
    asked = {"scenarios": ["spike"], "traces": None, "hours": 1.0, "seed": 3, "name": "net", "decisions": []}
    made = runs.begin(folder, "apg", config, asked)
    return Job("apg", made.settings, made.arguments, str(folder), device="cpu", quiet=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where each was trained: in `alone` by one process, in `ddp` by two ranks."""
    folder = tmp_path_factory.mktemp("distributed")
    for learner in LEARNERS:
        trained(learner, folder / "alone" / learner)
    trained(HANDED_ON, folder / "handed on", stop_at=QUARTER)
    (folder / "job.json").write_text(json.dumps(asdict(begun(folder / "job", 20))))
    ranked(folder, ranked_training.by_ddp)
    return folder


@pytest.fixture(scope="module")
def zero2(home: Path) -> Path:
    """The same, with `zero2` by two ranks that share an optimiser."""
    ranked(home, ranked_training.by_zero2)
    return home


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a tree, with their names."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, (list, tuple)) else None
    if pairs is None:
        yield path, tree
    else:
        for name, value in pairs:
            yield from leaves(value, f"{path}/{name}")


def alike(one: Path, other: Path, priorities: float = 1e-4) -> None:
    """Hold checkpoints and metrics of two runs against each other: the same names, shapes and numbers."""
    ours, theirs = dict(leaves(state(one))), dict(leaves(state(other)))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if isinstance(value, Tensor):
            assert value.dtype == theirs[name].dtype, name
            close = priorities if name.endswith("priorities") else CLOSE
            torch.testing.assert_close({name: theirs[name]}, {name: value}, rtol=0.0, atol=close)
        else:
            assert theirs[name] == (pytest.approx(value, abs=CLOSE) if isinstance(value, float) else value), name
    measured, again = (list(runs.read_metrics(folder)) for folder in (one, other))
    assert len(measured) == len(again) > 1
    for row, same in zip(measured, again, strict=True):
        assert same == pytest.approx(row, abs=CLOSE)


@pytest.mark.parametrize("learner", LEARNERS)
def test_averaged_gradients_train_what_one_process_trains(home: Path, learner: str) -> None:
    """Over 200 updates or more."""
    alike(home / "alone" / learner, home / "ddp" / learner)


@NEEDS_DEEPSPEED
@pytest.mark.parametrize("learner", BY_ZERO2)
def test_a_shared_optimiser_trains_what_one_process_trains(zero2: Path, learner: str) -> None:
    alike(zero2 / "alone" / learner, zero2 / "zero2" / learner)


@NEEDS_DEEPSPEED
def test_a_run_is_handed_on_between_all_three(zero2: Path) -> None:
    """Begun alone, gone on with by averaged gradients, then by a shared optimiser, and ended alone."""
    trained(HANDED_ON, zero2 / "handed on", stop_at=QUARTER)
    alike(zero2 / "alone" / HANDED_ON, zero2 / "handed on")


def test_200_updates_are_compared(home: Path) -> None:
    """What the other tests take for granted."""
    steps = {
        "apg": lambda told: told["optimiser"]["state"][0]["step"],
        "bdq": lambda told: told["learner"]["updates"],
    }
    for learner in ("apg", "ppo_fast", "bdq"):
        count = steps.get(learner, steps["apg"])(state(home / "ddp" / learner))
        assert int(count) >= 200


def test_a_job_ends_as_one_process_ends_it(home: Path) -> None:
    """The first rank writes the artifact and what was reached."""
    report = json.loads((home / "job" / runs.REPORT).read_text())
    assert report["device"].endswith("; 2 ranks, ddp")
    assert report["steps"] == 20 * 4 * 12
    assert load(home / "job" / runs.POLICY).manifest["scores"]["validation_score"] == report["score"]
    assert [row["step"] for row in runs.read_metrics(home / "job")] == [0, 20]


def newest(folder: Path) -> int:
    """The step of a run's newest checkpoint."""
    return max(int(path.stem) for path in (folder / runs.CHECKPOINTS).glob("0*.pt"))


def children(process: int) -> list[int]:
    """The ranks that a process started."""
    found = []
    for thread in Path(f"/proc/{process}/task").iterdir():
        for child in (thread / "children").read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"spawn_main" in command and b"resource_tracker" not in command:
                found.append(int(child))
    return sorted(found)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")
def test_a_rank_that_is_killed_ends_the_others_and_the_run_goes_on(home: Path, tmp_path: Path) -> None:
    """With a line that says how; resumed alone it ends as an unbroken one."""
    folder = tmp_path / "broken"
    job = begun(folder, CONFIGS["apg"][0].steps)
    before = set(children(os.getpid()))
    begin = time.monotonic()

    def kill() -> None:
        while time.monotonic() < begin + PATIENCE and not (folder / runs.CHECKPOINTS / f"{100:012d}.pt").exists():
            time.sleep(0.01)
        os.kill(max(set(children(os.getpid())) - before), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RankLostError, match=r"rank \d was killed \(SIGKILL\), and the others were ended; go on with it "
                       r"by: rlscaler train apg --resume .*broken --distributed ddp --ranks 2"):  # fmt: skip
        launching.start(job, 2)
    killer.join()
    assert not set(children(os.getpid())) - before
    shutil.copytree(home / "alone" / "apg", tmp_path / "unbroken")
    goal = max(newest(folder), newest(tmp_path / "unbroken"))
    for each in (folder, tmp_path / "unbroken"):
        trained("apg", each, stop_at=goal - newest(each) + 1)
    alike(tmp_path / "unbroken", folder)


def test_each_part_of_a_batch_goes_as_in_the_whole() -> None:
    """Environments, their random numbers, their twins."""
    pool = ranked_training.pools().train

    def made(n: int, part: tuple[int, int] | None = None) -> Batch:
        return Batch(pool, pool.config, pool.settings, HEADROOM, n, 20, 1, twin=[5], part=part)

    whole, parts = made(12), [made(4, (first, 12)) for first in (0, 4, 8)]
    assert whole.even
    np.testing.assert_array_equal(whole.reset(7), np.concatenate([part.reset(7) for part in parts]))
    rng = np.random.default_rng(0)
    for _ in range(45):
        actions = rng.integers(0, 11, size=12)
        done = whole.step(actions)
        others = [part.step(actions[at : at + 4]) for part, at in zip(parts, (0, 4, 8), strict=True)]
        for name in ("observation", "reward", "twin", "truncated", "last"):
            np.testing.assert_array_equal(
                getattr(done, name), np.concatenate([getattr(each, name) for each in others]), err_msg=name
            )


def test_episodes_that_do_not_fit_are_refused() -> None:
    pool = ranked_training.pools().train
    long = Batch(pool, pool.config, pool.settings, HEADROOM, 4, pool.steps, 1)
    Parallel().require_even(long)
    with pytest.raises(UserError, match=r"lower --episode, or raise --hours"):
        Parallel(0, 2, DDP).require_even(long)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_has_its_own_columns_of_every_step(rank: int) -> None:
    parallel = Parallel(rank, 3, DDP)
    everyone = torch.arange(4 * 6).reshape(4, 6)
    own = everyone[:, parallel.mine(6, "envs")].flatten()
    rows = torch.tensor([23, 0, 7, 2, 16, 3, 4])
    held, at = parallel.owned(rows, 6)
    assert own[at].tolist() == rows[held].tolist()
    assert held.tolist() == [int(row) % 6 // 2 == rank for row in rows]


# --- the command


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    install(folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param("apg --distributed ddp", "has a world of one process; expected two or more: add --ranks 2, or "
                     "start it by: torchrun --standalone --nproc_per_node 2 --no-python -- rlscaler train apg",
                     id="nobody else"),
        pytest.param("apg --distributed ddp --ranks 1", "has a world of one process", id="one rank"),
        pytest.param("apg --ranks 2", "--ranks 2 is given without --distributed", id="ranks of nothing"),
        pytest.param("apg --distributed ddp --ranks 5", "batch is 48, which 5 ranks cannot share evenly", id="batch"),
        pytest.param("bdq --distributed ddp --ranks 3", "envs is 128, which 3 ranks cannot share evenly", id="envs"),
        pytest.param("ppo-fast --envs 10 --distributed ddp --ranks 4", "envs is 10, which 4 ranks", id="few envs"),
        pytest.param("ppo-fast --rollouts ray --distributed ddp --ranks 2",
                     "--rollouts ray is given with --distributed", id="rollouts elsewhere"),
        pytest.param("q-learning --distributed ddp", "No such option", id="a learner that cannot"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_a_line(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, told: str
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.chdir(tmp_path)
    done = run("train", *arguments.split())
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())
    assert not list(tmp_path.iterdir())


def test_without_deepspeed_it_says_what_to_install(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    done = run("train", "apg", "--distributed", ZERO2, "--ranks", "2")
    assert done.exit_code == 2
    assert "pip install 'rlscaler[deepspeed]'" in done.output


def test_under_torchrun_the_ranks_are_those_that_it_started(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.chdir(tmp_path)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    assert "has a world of one process" in run("train", "apg", "--distributed", "ddp").output
    assert "--ranks 2 is given under torchrun" in run("train", "apg", "--distributed", "ddp", "--ranks", "2").output
