"""The command `rlscaler train`: a learner by name, from load to an artifact that the autoscaler serves."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlscaler.errors import UserError

if TYPE_CHECKING:
    from rlscaler_training.q_learning import Progress


@click.group()
def train() -> None:
    """Train a policy offline.

    \b
    Examples:
      rlscaler train q-learning --out runs/first.rlz
      rlscaler dry-run -f examples/web.yaml --policy runs/first.rlz
    """


@train.command("q-learning")
@click.option("--scenario", "scenarios_", multiple=True, metavar="NAME",
              help="Load to train on ('rlscaler scenarios' lists them); several times. Without --scenario and --traces:"
              " eight patterns of different character.")  # fmt: skip
@click.option("--traces", type=click.Path(), metavar="FOLDER", help="Recorded load to train on; a third of the source"
              " families is kept for validation.")  # fmt: skip
@click.option("--out", type=click.Path(), default="runs/q-learning.rlz", show_default=True, metavar="FILE.rlz",
              help="Where the artifact goes.")  # fmt: skip
@click.option("--name", default="q-learning", show_default=True, help="Name of the policy.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of everything random.")
@click.option(
    "--config", "config_file", type=click.Path(), metavar="FILE.json", help="Settings from a file; flags win."
)
@click.option(
    "--hours", default=8.0, show_default=True, type=click.FloatRange(1.0, 24.0 * 14), help="Load of each source."
)
@click.option("--steps", type=int, help="Steps of every environment.  [default: 2000]")
@click.option("--envs", type=int, help="Workloads simulated at once.  [default: 256]")
@click.option("--gamma", type=float, help="Discount per decision.  [default: 0.9]")
@click.option("--lookahead", type=int, help="Rewards summed before the table's value takes over.  [default: 6]")
@click.option("--rate", type=float, help="First learning rate.  [default: 0.5]")
@click.option("--rate-visits", type=float, help="Visits that halve the learning rate.  [default: 200]")
@click.option("--rate-floor", type=float, help="Lowest learning rate.  [default: 0.0005]")
@click.option("--epsilon", type=float, help="First share of explored decisions.  [default: 0.4]")
@click.option("--epsilon-end", type=float, help="Last share of explored decisions.  [default: 0.05]")
@click.option("--epsilon-share", type=float, help="Share of the steps over which it falls.  [default: 0.6]")
@click.option("--double/--single", default=None, help="Two tables that value each other's choice, or one.")
@click.option("--evaluate-every", type=int, help="Steps between evaluations.  [default: 250]")
@click.option("--episode", type=int, help="Decisions of an episode.  [default: 240]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def q_learning(
    scenarios_: tuple[str, ...], traces: str | None, out: str, name: str, seed: int, config_file: str | None,
    hours: float, as_json: bool, quiet: bool, **flags: Any,
) -> None:  # fmt: skip
    """Tabular Q-learning over readable states, in a minute or so.

    The table says in which situations to deviate from the cheapest headroom of the workload's own history, and how
    far; validated on load that it is not trained on, beside doing nothing of the kind (always the middle action).
    """
    import numpy as np

    from rlscaler.artifact import save
    from rlscaler.container import WORD
    from rlscaler.files import require_writable
    from rlscaler_training import learner_settings, loads, q_learning

    config = learner_settings.settings(config_file, flags)
    if not WORD.fullmatch(name):
        raise UserError(
            f"--name {name!r}: expected up to 128 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    target = Path(out)
    with suppress(OSError):  # what is wrong with the folder is said below
        target.parent.mkdir(parents=True, exist_ok=True)
    require_writable(target)
    pools = loads.pools(scenarios_, traces, hours, seed)
    with _progress(config.steps, quiet or as_json) as report:
        batch, twin, judge = loads.batches(pools, config.actions, config.envs, config.episode, seed)
        result = q_learning.train(batch, twin, judge, config, seed, report)
        # on draws that nothing was chosen by: the best of many tables was lucky on those that it was chosen by
        score, untrained = (
            q_learning.evaluate(judge, values, result.bins, config.episode, seed + 2)[0]
            for values in (result.values, np.zeros_like(result.values))
        )
    result = replace(result, score=score)
    provenance = loads.provenance(pools, seed)
    provenance |= {"command": "rlscaler train q-learning", "hours": hours, "config": asdict(config)}
    artifact = q_learning.artifact(result, config, name, provenance)
    digest = save(artifact, target)
    found = {
        "artifact": str(target),
        "digest": digest,
        "score": score,
        "untrained_score": untrained,
        "steps": config.steps * config.envs,
        "states_seen": artifact.manifest["scores"]["states_seen"],
        "states": result.bins.states,
        "curve": [list(row) for row in result.curve],
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    verdict = "" if score < untrained else ": the table is no better than the rule it corrects"
    click.echo(f"validation score {score:.3f}; the untrained rule has {untrained:.3f}{verdict}")
    click.echo(f"{found['states_seen']} of {found['states']} states seen in {found['steps']:,} steps")
    click.echo(f"artifact: {target}")
    click.echo(f"try it:   rlscaler dry-run -f examples/web.yaml --policy {target}")


@contextmanager
def _progress(steps: int, quiet: bool) -> "Iterator[Callable[[Progress], None]]":
    """Show a progress bar with the last evaluation on the standard error, while it is a terminal.

    Ctrl-C is told with what was done.
    """
    last: list[int] = [0]

    def note(p: "Progress") -> None:
        last[0] = p.step

    try:
        if quiet or not sys.stderr.isatty():
            yield note
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        text = "epsilon {task.fields[epsilon]:.2f}  score {task.fields[score]:.3f} (best {task.fields[best]:.3f})"
        with Bar(TextColumn("training"), BarColumn(), TextColumn(text), TimeRemainingColumn(),
                 console=Console(stderr=True), transient=True) as bar:  # fmt: skip
            task = bar.add_task("", total=steps, epsilon=1.0, score=float("nan"), best=float("nan"))

            def report(p: "Progress") -> None:
                note(p)
                bar.update(task, completed=p.step, epsilon=p.epsilon, score=p.score, best=p.best)

            yield report
    except KeyboardInterrupt:
        click.echo(f"stopped at step {last[0]} of {steps}; no artifact was written", err=True)
        raise
