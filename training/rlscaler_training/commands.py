"""The command `rlscaler train`: a learner by name, from load to an artifact that the autoscaler serves."""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields, replace
from math import isfinite, prod
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


def _config(path: str | None, flags: dict[str, Any]) -> Any:
    """Return the configuration of a file (JSON), with the flags that were given on top.

    Raises UserError naming the file and the key.
    """
    from rlscaler_training.q_learning import Config

    config = Config()
    known = {f.name: f.type for f in fields(Config)}
    if path:
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{path}: cannot be read as JSON: {error}") from error
        if not isinstance(values, dict):
            raise UserError(f"{path}: holds a {type(values).__name__}; expected an object of settings")
        for key, value in values.items():
            if key not in known:
                raise UserError(f"{path}: no setting is called {key!r}; expected one of {', '.join(known)}")
            try:
                if key == "bins":
                    value = {str(k): tuple(float(c) for c in v) for k, v in value.items()}
                if key == "margins":
                    value = tuple(float(m) for m in value)
            except (AttributeError, TypeError, ValueError) as error:
                raise UserError(f"{path}: {key} is {json.dumps(value)[:80]}; expected {EXPECTED[key]}") from error
            config = replace(config, **{key: value})
    return replace(config, **{key: value for key, value in flags.items() if value is not None})


LARGEST_TABLE = 100_000
"""States of a table at most."""
EXPECTED = {
    "bins": 'fields of the observation with ascending cuts, such as {"trend": [-0.04, 0.04]}, and at most'
    f" {LARGEST_TABLE:,} states",
    "margins": "a list of numbers of 0 or more",
    "double": "true or false",
    "actions": "headroom or step",
}
"""What a setting that is no plain number has to be."""


def _check(config: Any) -> None:
    """Refuse settings that nothing can be learned with."""
    from rlscaler.observation import NAMES

    ranges = {"steps": (1, 10_000_000), "envs": (1, 65_536), "gamma": (0.0, 0.9999), "rate": (1e-6, 1.0),
              "rate_visits": (1.0, 1e9), "rate_floor": (0.0, 1.0), "epsilon": (0.0, 1.0), "epsilon_end": (0.0, 1.0),
              "epsilon_share": (0.0, 1.0), "evaluate_every": (1, 10_000_000), "lookahead": (1, 100), "repeat": (1, 1000), "episode": (8, 5000)}  # fmt: skip
    for key, (low, high) in ranges.items():
        value = getattr(config, key)
        whole = key in ("steps", "envs", "evaluate_every", "lookahead", "episode")
        kinds = int if whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
            what = "whole number" if whole else "number"
            raise UserError(f"{key} is {value!r}; expected a {what} from {low:g} to {high:g}")
    fits = {
        "bins": bool(config.bins)
        and all(n in NAMES and list(cuts) == sorted(cuts) and all(map(isfinite, cuts)) for n, cuts in config.bins.items())
        and prod(len(cuts) + 1 for cuts in config.bins.values()) <= LARGEST_TABLE,
        "margins": bool(config.margins) and all(margin >= 0.0 for margin in config.margins),
        "double": isinstance(config.double, bool),
        "actions": config.actions in ("headroom", "step"),
    }
    for key, fine in fits.items():
        if not fine:
            raise UserError(f"{key} is {json.dumps(getattr(config, key))[:80]}; expected {EXPECTED[key]}")


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
    from rlscaler.container import WORD
    from rlscaler.files import require_writable
    from rlscaler_training import loads, q_learning

    config = _config(config_file, flags)
    _check(config)
    if not WORD.fullmatch(name):
        raise UserError(f"--name {name!r}: expected up to 128 letters, digits, '.', '_' or '-', a letter or digit first")
    target = Path(out)
    with suppress(OSError):  # what is wrong with the folder is said below
        target.parent.mkdir(parents=True, exist_ok=True)
    require_writable(target)
    pools = loads.pools(scenarios_, traces, hours, seed)
    with _progress(config.steps, quiet or as_json) as report:
        batch, twin, judge = loads.batches(pools, config.actions, config.envs, config.episode, seed)
        result = q_learning.train(batch, twin, judge, config, seed, report)
        untrained = q_learning.evaluate(judge, result.values * 0.0, result.bins, config.episode, seed + 1)
    provenance = loads.provenance(pools, seed) | {"command": "rlscaler train q-learning", "config": asdict(config)}
    artifact = q_learning.artifact(result, config, name, provenance)
    from rlscaler.artifact import save

    digest = save(artifact, target)
    found = {
        "artifact": str(target),
        "digest": digest,
        "score": result.score,
        "untrained_score": untrained[0],
        "steps": config.steps * config.envs,
        "states_seen": artifact.manifest["scores"]["states_seen"],
        "states": result.bins.states,
        "curve": [list(row) for row in result.curve],
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"validation score {result.score:.3f}; the untrained rule has {untrained[0]:.3f}"
               + ("" if result.score < untrained[0] else ": the table is no better than the rule it corrects"))  # fmt: skip
    click.echo(f"{found['states_seen']} of {found['states']} states seen in {found['steps']:,} steps")
    click.echo(f"artifact: {target}")
    click.echo(f"try it:   rlscaler dry-run -f examples/web.yaml --policy {target}")


class _progress:  # noqa: N801 - used as a function
    """A progress bar with the last evaluation, on the standard error while it is a terminal."""

    def __init__(self, steps: int, quiet: bool) -> None:
        self.steps, self.quiet = steps, quiet or not sys.stderr.isatty()

    def __enter__(self) -> "Callable[[Progress], None] | None":
        if self.quiet:
            return None
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        text = "epsilon {task.fields[epsilon]:.2f}  score {task.fields[score]:.3f} (best {task.fields[best]:.3f})"
        self.bar = Progress(TextColumn("training"), BarColumn(), TextColumn(text), TimeRemainingColumn(),
                            console=Console(stderr=True), transient=True)  # fmt: skip
        self.bar.start()
        task = self.bar.add_task("", total=self.steps, epsilon=1.0, score=float("nan"), best=float("nan"))

        def report(p: "Progress") -> None:
            self.bar.update(task, completed=p.step, epsilon=p.epsilon, score=p.score, best=p.best)

        return report

    def __exit__(self, *error: object) -> None:
        if not self.quiet:
            self.bar.stop()
