"""The command `rlscaler report`: a page, and a picture, of training runs."""

from collections.abc import Sequence
from pathlib import Path

import click

from rlscaler.errors import UserError
from rlscaler.ranges import FiniteRange
from rlscaler_sim import drawing

OUTPUT = "report.html"


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(), metavar="RUN...")
@click.option("--output", type=click.Path(), metavar="FILE.html",
              help="Where the page goes.  [default: report.html in the run's folder; of several, beside "
              "them]")  # fmt: skip
@click.option("--png", type=click.Path(), metavar="FILE.png", help="Draw a dashboard of the same, too.")
@click.option("--draws", default=3, show_default=True, type=click.IntRange(1, 50),
              help="Draws of each classic pattern.")  # fmt: skip
@click.option("--hours", default=3.0, show_default=True, type=FiniteRange(0.25, 48.0),
              help="Load of each pattern.")  # fmt: skip
@click.option("--scenario", metavar="NAME", help="Load of the replayed episode ('rlscaler scenarios' lists them).  "
              "[default: the afternoon of a working day, with a flash crowd]")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def report(
    folders: Sequence[str], output: str | None, png: str | None, draws: int, hours: float, scenario: str | None,
    quiet: bool,
) -> None:  # fmt: skip
    """Make a page of training runs: curves, scores on the classic patterns, what is decided, an episode.

    Runs that differ in the seed alone are one curve with a band. A run that is not finished shows its curves.

    \b
    Examples:
      rlscaler report runs/ppo-1
      rlscaler report runs/q-learning-* runs/apg-1 --output runs.html --png runs.png
    """
    from rlscaler.files import require_ending, require_writable
    from rlscaler_sim.commands import known_policy, progress_bar
    from rlscaler_training import run_record

    require_ending({"--output": output}, ".html", ".htm")
    require_ending({"--png": png}, ".png")
    runs = [run_record.read(folder) for folder in folders]
    if twice := [str(run.folder) for i, run in enumerate(runs) if run.folder.resolve() in
                 {other.folder.resolve() for other in runs[:i]}]:  # fmt: skip
        raise UserError(f"{twice[0]}: is named twice; expected every run once")
    page = Path(output) if output else (runs[0].folder if len(runs) == 1 else runs[0].folder.resolve().parent) / OUTPUT
    require_writable(page)
    if png:
        require_writable(png)
    from rlscaler_sim.page import plotly_source
    from rlscaler_training.run_page import write_page
    from rlscaler_training.run_summary import summarise

    plotly_source("the report")  # before minutes are spent
    if png:
        drawing.require()
    with progress_bar(quiet) as progress, known_policy():
        found = summarise(runs, draws=draws, hours=hours, scenario=scenario, progress=progress)
    write_page(found, page)
    if png:
        from rlscaler_training.run_dashboard import write_dashboard

        write_dashboard(found, png)
    click.echo(f"page:    {page}")
    if png:
        click.echo(f"picture: {png}")
