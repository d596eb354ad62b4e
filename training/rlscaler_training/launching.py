"""`rlscaler train ... --distributed`: the ranks of one training, who starts them, and what ends them.

`work(job)` trains on the rank that this process is; whoever starts processes calls it: `start` on this machine, or any
launcher that sets RANK, WORLD_SIZE, LOCAL_RANK and the address of rank 0 as torchrun does, or has made a process group
already. Rank 0 alone writes and speaks.
"""

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import torch
from torch import distributed
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from rlscaler.errors import NoRoomError, UserError
from rlscaler_training import checkpoints, devices, zero
from rlscaler_training.devices import Device
from rlscaler_training.parallel import DDP, TIMEOUT, ZERO2, Parallel, RankLostError, reached
from rlscaler_training.runs import Run, require_finite

GRACE = 10.0
"""Seconds that ranks are given to end by themselves once one has failed; then they are ended."""
HERE = "127.0.0.1"
_GROUPS: Any = distributed  # which has more than its types say
_START: Any = start_processes


@dataclass(frozen=True, slots=True)
class Job:
    """What every rank is told, in plain values.

    learner: its name. settings: of its Config. asked: what else was asked for, as the run's folder has it. folder:
    of the run, which is there. mode: DDP or ZERO2. device: as `--device` has it. out, as_json, quiet: for rank 0.
    """

    learner: str
    settings: dict[str, Any]
    asked: dict[str, Any]
    folder: str
    mode: str = DDP
    device: str = "auto"
    out: str | None = None
    as_json: bool = False
    quiet: bool = False


@dataclass(slots=True)
class SharedRun(Run):
    """A run on several ranks: rank 0 has the folder, all others are told what they need of it."""

    parallel: Parallel = Parallel()  # noqa: RUF009 - frozen

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """See `Run`; all ranks raise alike."""
        if self.parallel.leads:
            Run.log(self, step, numbers)
        else:
            require_finite(step, numbers)

    def checkpoint(self, step: int, state: Mapping[str, Any], *, best: bool = False) -> None:
        """See `Run`; all ranks wait until it is written."""
        if self.parallel.leads:
            Run.checkpoint(self, step, state, best=best)
        self.parallel.any(False)

    def restore(self, best: bool = False) -> dict[str, Any] | None:
        """See `Run`; all ranks have to ask."""
        state = Run.restore(self, best) if self.parallel.leads else None
        held = self.parallel.told(b"" if state is None else checkpoints.dumps(self.step, state))
        if held and not self.parallel.leads:
            read = torch.load(io.BytesIO(held), map_location="cpu", weights_only=True)
            self.step, state = int(read["step"]), read["state"]
        return state


def require(mode: str, ranks: int | None, learner: str) -> None:
    """Raise UserError where there is nothing to train on several ranks with."""
    if mode == ZERO2:
        zero.require()
    torchrun = f"torchrun --standalone --nproc_per_node 2 --no-python -- rlscaler train {learner} --distributed {mode}"
    if by_torchrun():
        if ranks is not None:
            raise UserError(f"--ranks {ranks} is given under torchrun, which says how many there are; leave it out")
        found = int(os.environ["WORLD_SIZE"])
    else:
        found = ranks or 1
    if found < 2:
        raise UserError(f"--distributed {mode} has a world of one process; expected two or more: add --ranks 2, or "
                        f"start it by: {torchrun} ...")  # fmt: skip


def require_shared(name: str, count: int, ranks: int) -> None:
    """Raise UserError where ranks cannot share so many rows evenly (0: a default that is a power of two)."""
    Parallel(0, ranks).mine(count, name)


def by_torchrun() -> bool:
    """Return whether this process was started as a rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(mode: str, ranks: int | None, device: str, learner: str, prepare: Callable[[int], Job]) -> None:
    """Train on so many ranks on this machine, or, under torchrun, on the one that this process is.

    prepare: makes the job for so many ranks and begins its run; called once. Raises UserError; exits with 130 after
    Ctrl-C and with 1 where a rank was lost.
    """
    require(mode, ranks, learner)
    try:
        if not by_torchrun():
            assert ranks is not None
            start(prepare(ranks), ranks)
            return
        with joined(mode, device) as parallel:
            carried(_shared(parallel, prepare), parallel)
    except RankLostError as error:
        click.echo(f"error: {error}", err=True)
        raise click.exceptions.Exit(error.exit_code) from error


def _shared(parallel: Parallel, prepare: Callable[[int], Job]) -> Job:
    """Return the job that rank 0 prepares, on every rank."""
    if not parallel.leads:
        if not (told := parallel.told(b"")):
            raise click.exceptions.Exit(UserError.exit_code)  # rank 0 says why
        return Job(**json.loads(told))
    try:
        job = prepare(parallel.ranks)
    except BaseException:
        parallel.told(b"")
        raise
    parallel.told(json.dumps(asdict(job)).encode())
    return job


def work(job: Job) -> None:
    """Train the job on the rank that this process is.

    Raises UserError, also where it is the only one; StoppedError's exit 130 after a checkpoint; RankLostError where
    another rank ended or said nothing for TIMEOUT.
    """
    with joined(job.mode, job.device) as parallel:
        carried(job, parallel)


@contextmanager
def joined(mode: str, device: str) -> Iterator[Parallel]:
    """Join the process group, or take the one that is there, and leave what was made here."""
    place = device_of(device)
    made = not distributed.is_initialized()
    with reached():
        if made:
            distributed.init_process_group(backend(place), timeout=TIMEOUT)
    try:
        rank, ranks = distributed.get_rank(), distributed.get_world_size()
        if ranks < 2 or ranks != int(os.environ.get("WORLD_SIZE", str(ranks))):
            raise UserError(f"--distributed {mode}: the process group has {ranks} rank{'s' if ranks > 1 else ''}; "
                            "expected two or more, as many as were started")  # fmt: skip
        yield Parallel(rank, ranks, mode, place.torch)
    finally:
        if made:
            distributed.destroy_process_group()


def backend(place: Device) -> str:
    """Return what carries tensors between ranks."""
    return "cpu:gloo,cuda:nccl" if place.torch.type == "cuda" else "gloo"


def device_of(asked: str) -> Device:
    """Return the device of this rank: on CUDA one of its own. Raises UserError."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    found = devices.device(asked)
    if found.torch.type == "cuda":
        if local >= (there := torch.cuda.device_count()):
            raise UserError(f"--device {asked}: {there} CUDA devices are here, none of them for rank {local} of this "
                            "machine; start fewer ranks, or use --device cpu")  # fmt: skip
        torch.cuda.set_device(local)
        return Device(f"cuda:{local}", f"device: cuda, one for each rank ({torch.cuda.get_device_name(local)})")
    if found.torch.type == "mps":
        if asked == "mps":
            raise UserError("--device mps: ranks cannot share tensors there; use --device cpu, or leave it out")
        return devices.device("cpu")
    return found


def carried(job: Job, parallel: Parallel) -> None:
    """Train the job, and finish it on rank 0."""
    from rlscaler_training import commands, hyper
    from rlscaler_training.asked import Asked, world_of
    from rlscaler_training.carrying_out import Training, carry_out

    module = import_module(f"rlscaler_training.{commands.LEARNERS[job.learner][0]}")
    run = SharedRun(Path(job.folder), job.learner, job.settings, job.asked, parallel=parallel)
    asked = Asked.of(job.asked, run.folder)
    place = Device(str(parallel.device), f"{device_of(job.device).why}; {parallel.ranks} ranks, {job.mode}")
    training = Training(
        job.learner, module, run, hyper.read(module.Config, None, job.settings), asked, world_of(asked),
        place, Path(job.out) if job.out else None, job.quiet, job.as_json, parallel=parallel,
    )  # fmt: skip
    carry_out(training)


def start(job: Job, ranks: int) -> None:
    """Train the job on so many new processes of this machine, and wait for them.

    Ctrl-C is passed on once, so that they end after a checkpoint; a second one ends them. Raises UserError for what
    they raise, RankLostError where one was killed; exits with 130 where they were stopped.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
    store = meeting()
    said = get_context("spawn").SimpleQueue()
    started = _START(_rank, (job, ranks, store.port, said), nprocs=ranks, join=False)
    try:
        with _passed_on(started.pids()):
            while not started.join(grace_period=GRACE):
                pass
    except ProcessExitedException as error:
        raise _ended(job, ranks, error, [process.exitcode for process in started.processes], said) from error


def meeting(port: int = 0) -> Any:
    """Return the place where ranks of this machine meet; 0: a new one, on a free port."""
    return _GROUPS.TCPStore(HERE, port, is_master=port == 0, wait_for_workers=False, timeout=TIMEOUT)


def met(store: Any, rank: int, ranks: int, carrier: str = "gloo") -> None:
    """Make this process one of the ranks of this machine that meet in a store."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    distributed.init_process_group(carrier, store=store, rank=rank, world_size=ranks, timeout=TIMEOUT)


def _rank(rank: int, job: Job, ranks: int, port: int, said: Any) -> None:
    """Be one of the processes of `start`. said: takes (whether another was lost, exit code, message)."""
    os.setpgrp()  # a Ctrl-C of the terminal reaches the first process alone, which passes it on
    try:
        with reached():
            met(meeting(port), rank, ranks, backend(device_of(job.device)))
        work(job)
        distributed.destroy_process_group()
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except UserError as error:
        said.put((isinstance(error, RankLostError), error.exit_code, str(error)))
        sys.exit(error.exit_code)


@contextmanager
def _passed_on(processes: Sequence[int]) -> Iterator[None]:
    """Pass Ctrl-C on to processes, and end them at the second."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def passed(number: int, _: Any) -> None:
        told.append(number)
        for process in processes:
            try:
                os.kill(process, signal.SIGINT if len(told) == 1 else signal.SIGTERM)
            except ProcessLookupError:
                continue

    before = signal.signal(signal.SIGINT, passed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _ended(job: Job, ranks: int, error: ProcessExitedException, codes: Sequence[int | None], said: Any) -> Exception:
    """Return what is to be raised where ranks ended with these exit codes, the one of the error first."""
    messages = []
    while not said.empty():
        messages.append(said.get())
    killed = [(rank, -code) for rank, code in enumerate(codes) if code is not None and code < 0]
    killed.sort(key=lambda each: each[1] == signal.SIGTERM)  # which may be how the others were ended
    own = [(code, message) for lost, code, message in messages if not lost]
    if not killed and own:
        code, message = own[0]
        return UserError(message) if code == UserError.exit_code else NoRoomError(message)
    if not killed and error.exit_code == 130:
        return click.exceptions.Exit(130)
    command = f"rlscaler train {job.learner} --resume {job.folder} --distributed {job.mode} --ranks {ranks}"
    again = f"go on with it by: {command}"
    if killed:
        rank, number = killed[0]
        name = signal.Signals(number).name
        return RankLostError(f"rank {rank} was killed ({name}), and the others were ended; {again}")
    why = messages[0][2] if messages else f"exit status {error.exit_code}"
    return RankLostError(f"rank {error.error_index} ended ({why}); {again}")
