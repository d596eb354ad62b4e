"""The command `rlscaler sweep`: many trials of a learner or of a rule, by one budget, the best of them as a policy.

`sweeps` says what is tried, `sweep_trials` tries it on Ray Tune, `sweep_page` shows it.
"""

import json
import math
import shlex
from pathlib import Path

import click

from rlscaler.errors import UserError
from rlscaler.quantities import printable


@click.command()
@click.argument("file", type=click.Path(), metavar="FILE")
@click.option("--run", "folder", type=click.Path(), metavar="FOLDER",
              help="Where trials are kept; a sweep that was cut off goes on.  [default: runs/sweep-NAME]")  # fmt: skip
@click.option("--address", metavar="HOST:PORT", help="A Ray cluster to try on, which has to share the folder.  "
              "[default: this machine]")  # fmt: skip
@click.option("--out", type=click.Path(), metavar="FILE.rlz", help="Where a copy of the best artifact goes.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def sweep(file: str, folder: str | None, address: str | None, out: str | None, as_json: bool, quiet: bool) -> None:
    """Search the settings of a learner, or the constants of a rule, on Ray Tune.

    FILE is YAML: 'learner: ppo-fast' or 'rule: growth-quantile', and whatever else differs from the usual: trials,
    parallel, settings, search, scenarios, traces, hours, worlds, seed, grace, reduction. Trials that fall behind are
    stopped early (ASHA); the first one has the defaults, so that it shows what searching was worth. The best is judged
    once more, on other draws.

    \b
    Examples:
      rlscaler sweep examples/sweeps/apg.yaml
      rlscaler train apg --config runs/sweep-apg/best.json
    """
    from rlscaler.files import require_writable, write_text_atomically

    try:
        import ray.tune  # noqa: F401 - said before anything is made
    except ModuleNotFoundError as error:
        raise UserError("sweeps need Ray Tune; install it with: pip install 'rlscaler[distributed]'") from error
    from rlscaler_training import sweep_page as page
    from rlscaler_training import sweep_trials as trials
    from rlscaler_training import sweeps
    from rlscaler_training.run_record import at_work

    asked = sweeps.read(file)
    if out and asked.rule:
        raise UserError(f"--out {out}: a rule has constants and no artifact; leave it out")
    if out:
        require_writable(out)
    place = Path(folder) if folder else Path("runs", f"sweep-{Path(file).stem}")
    trials.require_load(asked)
    trials.prepared(asked, place)
    try:
        with at_work(place):
            found = trials.run(asked, place, address, lambda line: None if quiet else click.echo(line, err=True))
    except KeyboardInterrupt:
        click.echo(f"stopped; go on with it by: {shlex.join(['rlscaler', 'sweep', file, '--run', str(place)])}",
                   err=True)  # fmt: skip
        raise click.exceptions.Exit(130) from None
    for each in found if not quiet else ():
        if each.state == "failed":
            click.echo(printable(f"note: trial {each.number} failed, and the same command tries it again: {each.why}"),
                       err=True)  # fmt: skip
    best = trials.best(asked, place, found)
    settings = trials.taken(place, asked, best, Path(out) if out else None)
    shown = place / "sweep.html"
    write_text_atomically(shown, page.render(asked, found, best))
    told = {
        "tuned": asked.tuned,
        "best": {"trial": best.trial.number, "values": dict(best.trial.drawn), "score": best.score},
        "defaults": {"score": None if math.isnan(best.usual) else best.usual},
        "trials": [
            {
                "trial": each.number,
                "values": dict(each.drawn),
                "share": each.share,
                "score": None if math.isnan(each.score) else each.score,
                "state": each.state,
                "why": each.why,
            }
            for each in found
        ],
    }
    text = json.dumps(told, indent=2)
    write_text_atomically(place / "trials.json", text + "\n")
    if as_json:
        click.echo(text)
        return
    click.echo(page.verdict(asked, found, best))
    for each in sorted((each for each in found if each.state == "finished"), key=lambda each: each.score)[:5]:
        words = ", ".join(f"{name} {page.shown(value)}" for name, value in each.drawn.items())
        click.echo(f"  {each.score:.4f}  trial {each.number}: {words}")
    click.echo(f"settings: {settings}")
    if asked.learner:
        click.echo(f"artifact: {out or place / 'best.rlz'}")
    click.echo(f"page:     {shown}")
