"""Measure gradient steps alone, by DDP and by ZeRO-2 over the width of a network: time, and what a rank keeps.

``python -m rlscaler_training.bench_distributed`` trains the networks of ppo-fast (policy and value, two hidden layers
of each width) on one batch of made-up rows, by what learners make their steps with (`parallel.Model`); ``--markdown F``
writes the table between the markers of a document. Every line starts processes of its own, which share this machine.
"""

import os
import platform
import resource
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from rlscaler.action import HEADROOM
from rlscaler_training import bench_document, launching, zero
from rlscaler_training.parallel import ALONE, DDP, PROCESSOR, ZERO2, Parallel
from rlscaler_training.ppo_fast import ActorCritic, Config

WIDTHS = (64, 512, 2048, 4096)
BEYOND = (16_384, 32_768)
"""Widths whose memory is computed and whose time is not measured: they need more than a small machine has."""
ROWS, RANKS, LEAST, SMALL = 256, 2, 3, 1
"""Rows of the global batch, ranks, steps that are measured at least, and a width that is nothing."""
MIB = 2.0**20
ADAM, OWN_COPY = 8, 4
"""Bytes of a parameter in Adam's two moments, and in the copy of the weights that ZeRO's optimiser works on."""
_START: Any = start_processes


class Measured(NamedTuple):
    """What a rank came to. seconds: of a step, the median. kept: bytes of what its optimiser keeps. peak: bytes that
    the steps added to the process at most."""

    parameters: int
    seconds: float
    kept: int
    peak: int


def spoken(network: Any, rows: Tensor) -> Tensor:
    """Return a loss of which every weight of both networks has a gradient."""
    loss: Tensor = network.value(rows).square().mean() + network.logits(rows).square().mean()
    return loss


def steps(width: int, seconds: float, parallel: Parallel) -> Measured:
    """Make gradient steps for so many seconds, the first left out."""
    if parallel.mode == ZERO2:
        zero.require()
    if width > SMALL:
        steps(SMALL, 0.0, ALONE)  # what torch takes for itself at its first step counts for nothing
    torch.manual_seed(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    network = ActorCritic(HEADROOM.branches, Config(hidden=(width, width)))
    parameters = list(network.parameters())
    optimiser = torch.optim.Adam(parameters, lr=1e-4, fused=True)
    model = parallel.model(network, optimiser, 0.5)
    rows = torch.randn(ROWS, len(network.actor.columns))[parallel.mine(ROWS, "rows")]
    took: list[float] = []
    begin = time.perf_counter()
    while len(took) <= LEAST or not parallel.any(time.perf_counter() - begin > seconds):
        start = time.perf_counter()
        model.backward(model(spoken, rows))
        model.step()
        parallel.any(False)
        took.append(time.perf_counter() - start)
    held: list[Tensor] = [value for state in optimiser.state.values() for value in state.values()]
    if parallel.mode == ZERO2:
        held += list(optimiser.state)  # the weights' own copy, of which the rank has its part
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    kept = sum(each.numel() * each.element_size() for each in held)
    return Measured(sum(each.numel() for each in parameters), float(np.median(took[1:])), kept, peak)


def _rank(rank: int, width: int, seconds: float, mode: str, port: int, told: Any) -> None:
    torch.set_num_threads(1)
    if not mode:
        told.put(tuple(steps(width, seconds, ALONE)))
        return
    launching.met(launching.meeting(port), rank, RANKS)
    found = steps(width, seconds, Parallel(rank, RANKS, mode, PROCESSOR))
    if not rank:
        told.put(tuple(found))


def measured(width: int, seconds: float, mode: str) -> Measured:
    """Measure one line in processes of its own."""
    told, store = get_context("spawn").SimpleQueue(), launching.meeting()
    _START(_rank, (width, seconds, mode, store.port, told), nprocs=RANKS if mode else 1)
    return Measured(*told.get())


def size(count: float) -> str:
    """Return bytes in MiB."""
    return f"{count / MIB:,.1f}" if count < 100 * MIB else f"{count / MIB:,.0f}"


def table(widths: list[int], seconds: float) -> str:
    """Return the measurements as Markdown."""
    lines = ["| width | parameters | processes | ms a step | speed-up | optimiser, MiB a rank | peak, MiB a rank |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for width in widths:
        alone = measured(width, seconds, "")
        for name, mode in (("one", ""), ("2, ddp", DDP), ("2, zero2", ZERO2)):
            found = measured(width, seconds, mode) if mode else alone
            line = [f"{width:,}", f"{found.parameters:,}", name, f"{1e3 * found.seconds:,.2f}"]
            line += [f"{alone.seconds / found.seconds:.2f} x", size(found.kept), size(found.peak)]
            lines.append(f"| {' | '.join(line)} |")
            click.echo(lines[-1], err=True)
    for width in BEYOND:
        parameters = _parameters(width)
        for name, kept in (("one", ADAM), ("2, ddp", ADAM), ("2, zero2", (ADAM + OWN_COPY) / RANKS)):
            lines.append(
                f"| {width:,} | {parameters:,} | {name} | not measured | | {size(kept * parameters)} computed | |"
            )
    facts = (
        f"`make bench-distributed`: Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} "
        f"cores that all processes share, one thread each, load average {os.getloadavg()[0]:.1f} at the end, gloo on "
        f"loopback, {ROWS} rows in all, float32, the median of {seconds:g} s."
    )
    return "\n".join([facts, "", *lines, ""])


def _parameters(width: int) -> int:
    """Return the parameters of policy and value of a width."""
    small = ActorCritic(HEADROOM.branches, Config(hidden=(1, 1)))
    inputs, outputs = len(small.actor.columns), sum(HEADROOM.branches)
    return sum(inputs * width + width + width * width + width + width * out + out for out in (outputs, 1))


@click.command()
@click.option("--seconds", default=4.0, show_default=True, type=click.FloatRange(0.1, 600.0), help="Of each line.")
@click.option("--width", "widths", multiple=True, type=click.IntRange(1, 65_536), help="Widths, instead of "
              f"{', '.join(str(each) for each in WIDTHS)}.")  # fmt: skip
@click.option("--markdown", type=click.Path(path_type=Path), help="Document whose table is made anew.")
def main(seconds: float, widths: tuple[int, ...], markdown: Path | None) -> None:
    """Measure gradient steps alone, by DDP and by ZeRO-2."""
    text = table(list(widths or WIDTHS), seconds)
    click.echo(text)
    if markdown is not None:
        bench_document.rewrite(markdown, "bench-distributed", text)


if __name__ == "__main__":
    main()
