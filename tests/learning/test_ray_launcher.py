"""Ranks that Ray Train starts train as one process does, and what they cannot do is told in one line."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rlscaler.artifact import load
from rlscaler.errors import UserError
from rlscaler_training import commands
from rlscaler_training.parallel import RankLostError

pytest.importorskip("ray", reason="Ray comes with the extra `distributed`")
SMALL = ["--steps", "1600", "--envs", "16", "--episode", "20", "--horizon", "10", "--hidden", "16", "--scenario",
         "spike", "--hours", "1", "--quiet"]  # fmt: skip


@pytest.mark.timeout(900)
# Ray's own processes are still there when their handles are collected
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
def test_two_ranks_on_ray_train_come_to_what_one_process_comes_to(tmp_path: Path) -> None:
    found = {}
    for name, more in (("one", []), ("two", ["--distributed", "ddp", "--ranks", "2", "--launcher", "ray"])):
        folder = tmp_path / name
        done = CliRunner().invoke(commands.train, ["ppo-fast", *SMALL, "--run", str(folder), *more])
        if isinstance(done.exception, UserError) and "timed out" in str(done.exception):
            pytest.skip(f"this machine is too busy to start Ray, which gives up on itself after 30 s: {done.exception}")
        assert done.exit_code == 0, (done.output, done.exception)
        found[name] = load(folder / "policy.rlz")
    assert "on 2 ranks" in done.output
    for name, array in found["one"].arrays.items():
        np.testing.assert_allclose(found["two"].arrays[name], array, atol=1e-4, err_msg=name)
    assert not (tmp_path / "two" / ".ray").exists()


def test_what_a_rank_names_is_told_and_the_rest_is_a_lost_rank() -> None:
    from rlscaler_training import ray_launcher

    class FailedError(Exception):
        worker_failures = {  # noqa: RUF012 - as Ray Train has it
            0: RuntimeError("Traceback ...\nrlscaler_training.parallel.RankLostError: rank 1 ended"),
            1: RuntimeError("Traceback ...\n  here\nrlscaler.errors.UserError: envs is 3; expected a multiple of 2\n"),
        }

    told = ray_launcher.failed(FailedError())
    assert type(told) is UserError
    assert str(told) == "envs is 3; expected a multiple of 2"
    lost = ray_launcher.failed(RuntimeError("the worker died"))
    assert isinstance(lost, RankLostError)
    assert str(lost) == "rank 0 ended (the worker died)"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--launcher", "ray"], "--launcher ray is given without --distributed"),
        (["--distributed", "ddp", "--ranks", "1", "--launcher", "ray"], "a world of one process"),
        (["--distributed", "ddp", "--ranks", "2", "--address", "127.0.0.1:9"], "--address is given without"),
        (["--distributed", "ddp", "--ranks", "2", "--launcher", "ray", "--address", "nowhere"], "expected HOST:PORT"),
    ],
    ids=["alone", "one-rank", "address-without-ray", "no-address"],
)
def test_what_cannot_be_is_refused_before_a_run_begins(tmp_path: Path, words: list[str], told: str) -> None:
    done = CliRunner().invoke(commands.train, ["ppo-fast", *SMALL, "--run", str(tmp_path / "run"), *words])
    assert isinstance(done.exception, UserError), done.output
    assert told in str(done.exception)
    assert not (tmp_path / "run").exists()
