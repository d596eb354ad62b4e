"""The command `rlscaler demo`: policies and rules scale the same load, side by side."""

import sys
import time
from typing import Any

import click

from rlscaler.errors import UserError
from rlscaler_sim.commands import Seconds

PATTERN, START = "flash-crowd", 3600.0
"""What is shown where nothing is said: half an hour of calm, then a crowd within two minutes."""


@click.command()
@click.option("--agents", "asked", metavar="A,B,...", help="Who takes part, separated by commas: rules, artifacts, or "
              "folders of runs.  [default: every policy in --runs, the built-in one, hpa-tuned, keda, "
              "threshold]")  # fmt: skip
@click.option("--runs", "root", default="runs", show_default=True, type=click.Path(), help="Where runs are looked for.")
@click.option("--pattern", metavar="NAME", help="Load, and world: any scenario, pattern or recorded load ('rlscaler "
              "scenarios' lists them).  [default: flash-crowd, from its second hour]")  # fmt: skip
@click.option("--from", "start", type=Seconds(), help="Skip this much of the load, such as 36h.")
@click.option("--for", "duration", default="2h", show_default=True, type=Seconds(), help="How much of it is shown.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of all noise.")
@click.option("--scale-to", default=25.0, show_default=True, type=click.FloatRange(0.5, 1000.0),
              help="95th percentile of demand, in replicas.")  # fmt: skip
@click.option("--speed", default=120.0, show_default=True, type=click.FloatRange(1.0, 100_000.0),
              help="Seconds of the load in a second.")  # fmt: skip
@click.option("--record", type=click.Path(), metavar="FILE.svg|gif|cast",
              help="Write an animation, or a recording of the terminal, instead of showing it.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def demo(
    asked: str | None, root: str, pattern: str | None, start: float | None, duration: float, seed: int, scale_to: float,
    speed: float, record: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Watch policies and rules scale the same load, side by side.

    Everyone meets the same load in the same simulated world. Keys: space pauses, + and - change the speed, the arrows
    move by a minute, q quits. Where the output is no terminal, lines are printed.

    \b
    Examples:
      rlscaler demo
      rlscaler demo --agents runs/ppo-1,hpa-tuned,hpa --pattern spike/slow-start --speed 300
      rlscaler demo --record demo.svg
    """
    from rlscaler.files import require_writable
    from rlscaler_sim.commands import known_policy, progress_bar
    from rlscaler_training import demo_play, demo_record

    if record:
        demo_record.kind_of(record)
        require_writable(record)
    if duration < 120.0:
        raise UserError(f"--for {duration:g}s: expected at least 2m")
    found, notes = demo_play.agents([name.strip() for name in asked.split(",") if name.strip()] if asked else [], root)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    from rlscaler_training.trials import episode

    begin = start if start is not None else 0.0 if pattern else START
    with progress_bar(quiet) as progress, known_policy():
        made = episode(demo_play.candidates(found), (), pattern or PATTERN, seconds=duration, start=begin, seed=seed,
                       scale_to=scale_to, clairvoyant=False, progress=progress)  # fmt: skip
    play = demo_play.play_of(made, found, pattern or PATTERN)
    if record:
        demo_record.write(play, record, speed)
        click.echo(f"recording: {record}")
        return
    if not sys.stdout.isatty():
        for line in demo_play.lines(play):
            click.echo(line)
        _print_ranking(play, play.steps - 1)
        return
    from rich.console import Console

    from rlscaler_training.demo_screen import pressed, watch

    with pressed() as key:
        step = watch(play, Console(), key, time.monotonic, speed)
    click.echo(f"{demo_play.clock(float(play.time[step]))} of {play.scenario}, by score = cost + 20 x late:")
    _print_ranking(play, step)


def _print_ranking(play: Any, step: int) -> None:
    from rich.console import Console

    from rlscaler_training.demo_screen import ranking

    Console(highlight=False, width=None if sys.stdout.isatty() else 100).print(ranking(play, step))
