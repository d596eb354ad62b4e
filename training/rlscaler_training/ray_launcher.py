"""`rlscaler train ... --distributed ddp|zero2 --launcher ray`: the ranks of one training, started by Ray Train.

What the ranks do is `launching.work`, whoever starts them; Ray Train finds them processes, here or on a cluster, and
makes their process group. The run's folder has to be one that the machine of rank 0 can write.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from rlscaler.errors import UserError
from rlscaler_training import devices, launching, ray_cluster
from rlscaler_training.launching import Job
from rlscaler_training.parallel import TIMEOUT, RankLostError

STORAGE = ".ray"
"""Where Ray Train keeps what it needs during a training, within the run's folder."""


def launch(
    mode: str, ranks: int | None, address: str | None, learner: str, prepare: Callable[[int], Job], as_json: bool
) -> None:
    """Train on so many ranks of a Ray cluster, and tell what came of it.

    prepare: makes the job for so many ranks and begins its run. Raises UserError, ModuleNotFoundError where there is no
    Ray; exits with 130 after Ctrl-C and with 1 where a rank was lost.
    """
    if launching.by_torchrun():
        raise UserError("--launcher ray is given under torchrun, which starts the ranks itself; leave one out")
    launching.require(mode, ranks, learner)
    assert ranks is not None
    ray_cluster.prepare(address)
    if address is not None:
        ray_cluster.require_answer(address)
    job = prepare(ranks)
    folder = Path(job.folder).resolve()
    out = None if job.out is None else str(Path(job.out).resolve())
    try:
        with ray_cluster.cluster(ranks, address):
            fitted(replace(job, folder=str(folder), out=out, quiet=True), ranks)
    except RankLostError as error:
        click.echo(f"error: {error}; {_again(job, ranks)}", err=True)
        raise click.exceptions.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        click.echo(f"stopped; {_again(job, ranks)}", err=True)
        raise click.exceptions.Exit(130) from None
    finally:
        shutil.rmtree(folder / STORAGE, ignore_errors=True)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    if as_json:
        click.echo(json.dumps(report | {"run": job.folder, "out": job.out or report["artifact"]}, indent=2))
        return
    click.echo(f"validation score {report['score']:.3f}; the untrained rule has {report['untrained_score']:.3f}")
    click.echo(f"{report['steps']:,} steps of environments in {report['seconds']:,.0f} s on {ranks} ranks")
    click.echo(f"run:      {job.folder}")
    click.echo(f"artifact: {job.out or report['artifact']}")


def _again(job: Job, ranks: int) -> str:
    command = f"rlscaler train {job.learner} --resume {job.folder} --distributed {job.mode} --ranks {ranks}"
    return f"go on with it by: {command} --launcher ray"


def fitted(job: Job, ranks: int) -> None:
    """Train the job on so many ranks; to be called within a cluster. Raises UserError or RankLostError."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    place = devices.device(job.device)
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
    trainer: Any = TorchTrainer(
        _work,
        train_loop_config=asdict(job),
        torch_config=TorchConfig(backend=launching.backend(place), timeout_s=TIMEOUT.seconds),
        scaling_config=ScalingConfig(num_workers=ranks, use_gpu=place.torch.type == "cuda"),
        run_config=RunConfig(
            name=job.learner, storage_path=str(Path(job.folder) / STORAGE), failure_config=FailureConfig(max_failures=0)
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise failed(error) from error


def _work(told: dict[str, Any]) -> None:
    """Be a rank."""
    launching.work(Job(**told))


def failed(error: BaseException) -> UserError:
    """Return what a failed training is told as: a mistake that a rank named, or that a rank was lost."""
    causes = getattr(error, "worker_failures", None) or {0: error}
    for _, cause in sorted(causes.items()):
        for line in reversed(str(cause).splitlines()):
            if "UserError: " in line:
                return UserError(line.partition("UserError: ")[2])
    rank, cause = min(causes.items())
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    return RankLostError(f"rank {rank} ended ({lines[-1]})")
