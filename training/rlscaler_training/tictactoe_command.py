"""The command `rlscaler benchmark tictactoe`: how rollouts in other processes scale, and what comes of them.

The same learner, settings and number of games, with 1, 2, ... workers on Ray, beside one in this process; then the
workers alone, with nobody who learns. `tictactoe_report` says what is told of it.
"""

import json
import os
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import click

from rlscaler.errors import UserError
from rlscaler.ranges import FiniteRange
from rlscaler_sim import drawing
from rlscaler_training import hyper, tictactoe_dqn
from rlscaler_training.rollouts import Local, Rollouts
from rlscaler_training.tictactoe_dqn import Config, Learned, Making, Play

WORKERS = (1, 2, 4, 8, 12)
"""As published."""
MOST = 1024
ALONE, ALONE_TIMES = 3.0, 8
"""Seconds for which workers are measured alone, and how much longer their chunks are then."""


class Listing(click.Command):
    """A command whose --workers takes several numbers after it, as well as numbers between commas."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put numbers that follow --workers into its value."""
        if "--workers" in args:
            at = args.index("--workers") + 1
            end = at
            while end < len(args) and re.fullmatch(r"[0-9,]+", args[end]):
                end += 1
            if end > at:
                args = [*args[:at], ",".join(args[at:end]), *args[end:]]
        return super().parse_args(ctx, args)


def _workers(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    found = tuple(dict.fromkeys(int(part) if part.isdigit() else 0 for part in text.split(",") if part))
    if not found or not all(1 <= number <= MOST for number in found):
        raise UserError(f"--workers {text}: expected numbers from 1 to {MOST:,}, such as --workers 1 2 4")
    return found


def _processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@click.command(cls=Listing)
@click.option("--workers", "workers", default=",".join(map(str, WORKERS)), metavar="K ...", callback=_workers,
              help=f"Numbers of workers to try.  [default: {' '.join(map(str, WORKERS))}]")  # fmt: skip
@click.option("--address", metavar="HOST:PORT",
              help="Ray cluster for the workers; it has rlscaler installed.  [default: this machine]")  # fmt: skip
@click.option("--alone", default=ALONE, show_default=True, type=FiniteRange(0.1, 600.0), metavar="SECONDS",
              help="How long the workers are measured alone.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of everything random.")
@hyper.flags(Config)
@click.option("--config", "config_file", type=click.Path(), metavar="FILE.json",
              help="Settings from a file; flags win.")  # fmt: skip
@click.option("--output", type=click.Path(), metavar="FILE.json", help="Write the results.")
@click.option("--markdown", "page", type=click.Path(), metavar="FILE.md", help="Write the page.")
@click.option("--plot", type=click.Path(), metavar="FILE.png", help="Draw the picture.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def tictactoe(
    workers: tuple[int, ...], address: str | None, alone: float, seed: int, config_file: str | None,
    output: str | None, page: str | None, plot: str | None, as_json: bool, quiet: bool, **given: Any,
) -> None:  # fmt: skip
    """Measure rollouts on Ray by Tic-Tac-Toe, beside published figures.

    A deep Q-network plays itself for 100,000 games, which 1, 2, 4, ... workers play in processes of their own. Told are
    episodes per second, efficiency, what was stale or dropped, and how strong it became: against a player of chance and
    a perfect one, first and second, over all games that there are.

    \b
    Examples:
      rlscaler benchmark tictactoe --workers 1 2 4 8 12
      rlscaler benchmark tictactoe --workers 1 2 --episodes 20000 --plot tictactoe.png
    """
    import torch

    from rlscaler.files import require_ending, require_writable, write_bytes_atomically, write_text_atomically
    from rlscaler_training import ray_cluster, tictactoe_picture, tictactoe_report

    config = hyper.read(Config, config_file, given)
    require_ending({"--plot": plot}, ".png")
    for path in (output, page, plot):
        if path:
            require_writable(path)
    if plot:
        drawing.require()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the network is small, and the other processors are the workers'
    try:
        with ray_cluster.cluster(max(workers), address):
            found = measured(config, workers, seed, alone, address, lambda what: None if quiet else _told(what))
    finally:
        torch.set_num_threads(threads)
    told = {"command": _command(workers, seed, alone, config), **found}
    text = json.dumps(told, indent=2)
    if output:
        write_text_atomically(output, text + "\n")
    if page:
        write_text_atomically(page, tictactoe_report.markdown(told))
    if plot:
        write_bytes_atomically(plot, tictactoe_picture.png(told))
    click.echo(text if as_json else "\n".join(tictactoe_report.spoken(told)))


def _told(what: str) -> None:
    click.echo(what, err=True)


def _command(workers: tuple[int, ...], seed: int, alone: float, config: Config) -> str:
    """Return the command that makes these results."""
    words = ["rlscaler", "benchmark", "tictactoe", "--workers", *map(str, workers)]
    words += ["--seed", str(seed)] if seed else []
    words += ["--alone", f"{alone:g}"] if alone != ALONE else []
    usual = asdict(Config())
    for name, value in asdict(config).items():
        if value != usual[name]:
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{'' if value else 'no-'}{flag}")
            else:
                words += [f"--{flag}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)


def measured(
    config: Config, workers: tuple[int, ...], seed: int, alone: float, address: str | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Return everything that was measured, as plain values; to be called within a cluster."""
    from rlscaler_training import benchmark_runs, ray_cluster, rollouts_ray, tictactoe_table
    from rlscaler_training import tictactoe as game

    processors = _processors() if address is None else ray_cluster.processors()
    make = Making(config.envs, config.horizon, seed)
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    rows = []
    for count in (0, *workers):
        begun = time.monotonic()
        source: Rollouts = rollouts_ray.Remote(make, count, config.limit) if count else Local(make)
        try:
            untrained = tictactoe_dqn.Updates(config, seed)
            source.publish(Play(1.0, tictactoe_dqn.copied(untrained.network)))
            for _ in range(source.workers):
                source.next()
            start = time.monotonic() - begun
            source.counts = type(source.counts)()
            learned = tictactoe_dqn.learn(config, source, seed)
            row = _row(count, start, learned, source) | {"oversubscribed": count > processors}
            row["alone"] = _alone(config, source, learned, alone)
        finally:
            source.close()
        rows.append(row)
        where = f"{count} worker{'s' if count > 1 else ''} on Ray" if count else "in this process"
        tell(f"{where}: {row['episodes_per_s']:,.0f} episodes/s in {row['seconds']:.1f} s")
    table = tictactoe_table.learn(config.episodes, config.envs, seed)
    return {
        "machine": benchmark_runs.machine() | {"usable_processors": processors, "load": busy},
        "settings": asdict(replace(config)),
        "seed": seed,
        "alone_times": ALONE_TIMES,
        "rows": rows,
        "table": {"episodes": table.episodes, "moves": table.moves, "seconds": table.seconds,
                  "episodes_per_s": table.episodes / table.seconds, "strength": game.strength(table.player())},
        "chance": game.strength(game.uniform()),
        "perfect": game.strength(game.perfect()),
    }  # fmt: skip


def _row(count: int, start: float, learned: Learned, source: Rollouts) -> dict[str, Any]:
    """Return what one number of workers came to (0: in this process). start: seconds until all had played."""
    from rlscaler_training import tictactoe as game

    counts = asdict(source.counts) | {"staleness": source.counts.staleness}
    return {
        "workers": count,
        "start": start,
        "seconds": learned.seconds,
        "episodes": learned.episodes,
        "episodes_per_s": learned.episodes / learned.seconds,
        "moves": learned.moves,
        "updates": learned.updates,
        "counts": counts,
        "strength": game.strength(learned.player()),
    }


def _alone(config: Config, source: Rollouts, learned: Learned, seconds: float) -> dict[str, float]:
    """Return how fast the workers play what was learned while nobody learns, in long chunks: they compute, and calls
    cost next to nothing."""
    source.publish(Play(config.epsilon[-1], learned.layers, ALONE_TIMES))
    for _ in range(4 * source.workers):  # what was under way, and a first round
        source.next()
    episodes = moves = 0
    begun = now = time.monotonic()
    while now - begun < seconds:
        data = source.next().data
        episodes, moves, now = episodes + int(data["over"].sum()), moves + len(data["cell"]), time.monotonic()
    return {"seconds": now - begun, "episodes_per_s": episodes / (now - begun), "moves_per_s": moves / (now - begun)}
