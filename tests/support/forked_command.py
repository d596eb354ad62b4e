"""The command line in processes of its own that start at once.

A process that imports torch takes seconds to start. Here one does so (`multiprocessing`'s fork server), and each
command is a fork of it: a process like any other, with a number that a signal can be sent to.
"""

import multiprocessing
import os
import resource
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

PRELOADED = ["forked_command", *(f"rlscaler_training.{name}" for name in (
    "q_learning", "dqn", "commands", "events", "legacy_finish", "legacy_dashboard"))]  # fmt: skip


def started(
    arguments: Sequence[str], folder: Path, installed: Path, output: Path, largest: int | None = None
) -> ForkServerProcess:
    """Start `rlscaler` with the arguments in `folder`.

    installed: see `command_line.install`. output: the file that it prints to. largest: bytes that a file may have
    (RLIMIT_FSIZE); None: as they come.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_command, args=(list(arguments), folder, installed, output, largest))
    process.start()
    return process


def _command(arguments: list[str], folder: Path, installed: Path, output: Path, largest: int | None) -> None:
    import torch

    from rlscaler.cli import root

    os.chdir(folder)
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.path.insert(0, str(installed))
    torch.set_num_threads(1)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    root(arguments, prog_name="rlscaler")
