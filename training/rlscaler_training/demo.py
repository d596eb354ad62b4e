"""The command `rlscaler demo`: policies and rules scale the same load, side by side."""

import sys
import time
from typing import TYPE_CHECKING

import click

from rlscaler.errors import UserError
from rlscaler.name_lists import names_in
from rlscaler.ranges import FiniteRange
from rlscaler_sim.commands import RULES_EXAMPLE, Seconds

if TYPE_CHECKING:
    from rlscaler_training.demo_play import Play

STANDARD, LEGACY = "standard", "legacy"
PATTERN, START = "flash-crowd", 3600.0
"""What is shown where nothing is said: half an hour of calm, then a crowd within two minutes."""
DURATION, SCALE = 7200.0, 25.0
"""Seconds of it, and the 95th percentile of its demand in replicas."""


@click.command()
@click.option("--agents", "asked", metavar="A,B,...", help="Who takes part, separated by commas: rules, artifacts, or "
              "folders of runs.  [default: every policy in --runs, the built-in one, hpa-tuned, keda, "
              "threshold; for legacy: optimum, nothing, threshold]")  # fmt: skip
@click.option("--runs", "root", default="runs", show_default=True, type=click.Path(), help="Where runs are looked for.")
@click.option("--environment", type=click.Choice([STANDARD, LEGACY]), default=STANDARD, show_default=True,
              help="Where it plays. legacy: the queue of adobe/gym-scaling, with its own rules and "
              "rewards.")  # fmt: skip
@click.option("--pattern", metavar="NAME", help="Load, and world: any scenario, pattern or recorded load ('rlscaler "
              "scenarios' lists them).  [default: flash-crowd, from its second hour; for legacy: "
              "SINE_CURVE]")  # fmt: skip
@click.option("--from", "start", type=Seconds(), help="Skip this much of the load, such as 36h.")
@click.option("--for", "duration", type=Seconds(), help="How much of it is shown.  [default: 2h; for legacy: an "
              "episode, 200 steps of 300s]")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of all noise.")
@click.option("--scale-to", type=FiniteRange(0.5, 1000.0), help="95th percentile of demand, in replicas.  "
              "[default: 25]")  # fmt: skip
@click.option("--speed", type=FiniteRange(1.0, 100_000.0), help="Seconds of the load in a second.  [default: "
              "120; for legacy: 3000]")  # fmt: skip
@click.option("--record", type=click.Path(), metavar="FILE.svg|gif|cast",
              help="Write an animation, or a recording of the terminal, instead of showing it.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def demo(
    asked: str | None, root: str, environment: str, pattern: str | None, start: float | None, duration: float | None,
    seed: int, scale_to: float | None, speed: float | None, record: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Watch policies and rules scale the same load, side by side.

    Everyone meets the same load in the same simulated world. Keys: space pauses, + and - change the speed, the arrows
    move by a minute, q quits. Where the output is no terminal, lines are printed.

    \b
    Examples:
      rlscaler demo
      rlscaler demo --agents runs/ppo-1,hpa-tuned,hpa --pattern spike/slow-start --speed 300
      rlscaler demo --environment legacy
      rlscaler demo --record demo.svg
    """
    from rlscaler.files import require_writable
    from rlscaler_training import demo_play, demo_record

    if record:
        demo_record.kind_of(record)
        require_writable(record)
    names = [] if asked is None else list(names_in(asked, "--agents", RULES_EXAMPLE))
    if environment == LEGACY:
        if also := [name for name, value in (("--from", start), ("--scale-to", scale_to)) if value is not None]:
            raise UserError(f"{also[0]} is given with --environment legacy, whose episode is one and the same; leave "
                            "it out")  # fmt: skip
        play, every, usual = _legacy(names, root, pattern, duration, seed)
    else:
        play, every, usual = _world(names, root, pattern, start, duration, seed, scale_to, quiet)
    speed = usual if speed is None else speed
    if record:
        demo_record.write(play, record, speed)
        click.echo(f"recording: {record}")
        return
    if not sys.stdout.isatty():
        for line in demo_play.lines(play, every):
            click.echo(line)
        _print_ranking(play, play.steps - 1)
        return
    from rich.console import Console

    from rlscaler_training.demo_screen import pressed, watch

    with pressed() as key:
        step = watch(play, Console(), key, time.monotonic, speed)
    click.echo(f"{demo_play.clock(float(play.time[step]))} of {play.scenario}, by {play.terms.by}:")
    _print_ranking(play, step)


def _world(
    names: list[str], root: str, pattern: str | None, start: float | None, duration: float | None, seed: int,
    scale_to: float | None, quiet: bool,
) -> "tuple[Play, float, float]":  # fmt: skip
    """Return what is played in the world of this package, seconds between plain lines, and the usual speed."""
    from rlscaler_sim.commands import known_policy, progress_bar
    from rlscaler_training import demo_play

    seconds = DURATION if duration is None else duration
    if seconds < 120.0:
        raise UserError(f"--for {seconds:g}s: expected at least 2m")
    found, notes = demo_play.agents(names, root)
    _print_notes(notes)
    from rlscaler_training.trials import episode

    begin = start if start is not None else 0.0 if pattern else START
    with progress_bar(quiet) as progress, known_policy():
        made = episode(demo_play.candidates(found), (), pattern or PATTERN, seconds=seconds, start=begin, seed=seed,
                       scale_to=SCALE if scale_to is None else scale_to, clairvoyant=False,
                       progress=progress)  # fmt: skip
    return demo_play.play_of(made, found, pattern or PATTERN), 300.0, 120.0


def _legacy(
    names: list[str], root: str, pattern: str | None, duration: float | None, seed: int
) -> "tuple[Play, float, float]":  # fmt: skip
    """Return the same of the environment of earlier work."""
    from rlscaler_training import demo_legacy, demo_play

    steps = demo_legacy.steps_of(duration)
    found, notes = demo_play.agents(names, root, demo_legacy.STAGE)
    _print_notes(notes)
    play = demo_legacy.play(found, pattern or demo_legacy.PATTERN, steps, seed)
    return play, demo_legacy.EVERY, demo_legacy.SPEED


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


def _print_ranking(play: "Play", step: int) -> None:
    from rich.console import Console

    from rlscaler_training.demo_screen import ranking

    Console(highlight=False, width=None if sys.stdout.isatty() else 100).print(ranking(play, step))
