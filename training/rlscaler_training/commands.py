"""The command `rlscaler train`: a learner by name, from load to an artifact that the autoscaler serves."""

import json
import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from rlscaler.errors import UserError

if TYPE_CHECKING:
    from rlscaler_training.learner import Progress, Score
    from rlscaler_training.runs import Run

LEARNERS: dict[str, tuple[str, str]] = {
    "q-learning": ("q_learning", "Tabular Q-learning over readable states, in a minute or so."),
    "dqn": ("dqn", "Deep Q-network, by stable-baselines3."),
    "ppo": ("ppo", "Proximal policy optimisation, by stable-baselines3."),
    "ppo-fast": ("ppo_fast", "Proximal policy optimisation on the vectorised world, with masks."),
    "bdq": ("bdq", "Branching dueling Q-network: headroom, and how long to keep replicas."),
    "apg": ("apg", "Analytic policy gradient: straight down the gradient of the score."),
    "evolve": ("evolve", "Evolution strategies straight on the score."),
    "offline": ("offline", "Conservative Q-learning from a log of decisions."),
}
"""Learner -> its module in this package, imported when it is asked for, and its line of help."""
ROOT = "runs"
"""Where runs go that no folder is named for."""
EPISODE = 240
"""Decisions of the last evaluation: one hour of each environment."""


class Learners(click.Group):
    """A group with a command for each learner; a learner's module is imported when its command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(LEARNERS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a learner."""
        return _command(cmd_name) if cmd_name in LEARNERS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the learners, without importing any."""
        with formatter.section("Learners"):
            formatter.write_dl([(name, about) for name, (_, about) in LEARNERS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the learners and options that begin with `incomplete`, without importing any."""
        found = [
            CompletionItem(name, help=about) for name, (_, about) in LEARNERS.items() if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=Learners)
def train() -> None:
    """Train a policy offline.

    \b
    Examples:
      rlscaler train q-learning --out first.rlz
      rlscaler dry-run -f examples/web.yaml --policy first.rlz
      rlscaler train ppo --resume runs/ppo-1
    """


@dataclass(frozen=True, slots=True)
class Asked:
    """What every learner is told beside its settings; it is kept in the run's folder."""

    scenarios: tuple[str, ...]
    traces: str | None
    hours: float
    seed: int
    name: str
    decisions: tuple[str, ...] = ()

    @classmethod
    def of(cls, arguments: dict[str, Any], where: Path) -> "Asked":
        """Return what a run was told. Raises UserError where its folder says nothing of it."""
        try:
            lists = {name: tuple(arguments[name]) for name in ("scenarios", "decisions")}
            return cls(**{**arguments, **lists})
        except (KeyError, TypeError) as error:
            raise UserError(f"{where}: arguments are not those of 'rlscaler train': {error}") from error


SHARED: tuple[Callable[[Any], Any], ...] = (
    click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Load to train on ('rlscaler "
                 "scenarios' lists them); several times. Without --scenario and --traces: eight patterns of different "
                 "character."),
    click.option("--traces", type=click.Path(), metavar="FOLDER", help="Recorded load to train on; a third of the "
                 "source families is kept for validation."),
    click.option("--hours", default=8.0, show_default=True, type=click.FloatRange(1.0, 24.0 * 14),
                 help="Load of each source."),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of everything random."),
    click.option("--name", help="Name of the policy.  [default: the learner's]"),
    click.option("--device", "device_", default="auto", show_default=True, metavar="NAME",
                 help="auto, cpu, cuda or mps."),
    click.option("--config", "config_file", type=click.Path(), metavar="FILE.json",
                 help="Settings from a file; flags win."),
    click.option("--run", "folder", type=click.Path(), metavar="FOLDER",
                 help=f"Folder of the run, new or empty.  [default: {ROOT}/NAME-N, the first free number]"),
    click.option("--resume", type=click.Path(), metavar="FOLDER",
                 help="Go on with the run in this folder, with the settings that it was begun with."),
    click.option("--out", type=click.Path(), metavar="FILE.rlz",
                 help="Where a copy of the artifact goes; the run's folder has it in any case."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
)  # fmt: skip
"""The options of every learner."""
LOG = click.option("--decisions", "logs", multiple=True, type=click.Path(), metavar="FILE.jsonl",
                   help="Log to learn from, as 'rlscaler dry-run --decisions' and the operator write it; several "
                   "times.")  # fmt: skip
"""The option of a learner that has no world to try in."""
FREE_TO_RESUME = ("resume", "out", "device_", "as_json", "quiet")
"""Options that may be given beside --resume."""


def _command(learner: str) -> click.Command:
    """Return the command of a learner: the shared options, and a flag for each of its settings."""
    module_name, about = LEARNERS[learner]
    module = import_module(f"rlscaler_training.{module_name}")
    from rlscaler_training import hyper

    def callback(**given: Any) -> None:
        _train(learner, module, given)

    callback.__doc__ = f"{about}\n\n{_paragraphs(module.__doc__)}"
    decorated: Any = hyper.flags(module.Config)(callback)
    if learner == "offline":
        decorated = LOG(decorated)
    for option in reversed(SHARED):
        decorated = option(decorated)
    command: click.Command = click.command(learner, short_help=about)(decorated)
    return command


def _paragraphs(docstring: str | None) -> str:
    """Return a module's docstring without its title and its words to the reader of the file."""
    about = "\n\n".join((docstring or "").strip().split("\n\n")[1:])
    return re.sub(r"Read from top to bottom:[^.]*\.\s*", "", about).replace("`", "")


def _train(learner: str, module: Any, given: dict[str, Any]) -> None:
    """Train, or go on with a run, and tell what came of it. Raises UserError; exits with 130 after Ctrl-C."""
    from rlscaler_training import devices, loads
    from rlscaler_training.learner import StoppedError, Task
    from rlscaler_training.runs import Interruption

    device = devices.device(given["device_"])
    out = Path(given["out"]) if given["out"] else None
    quiet, as_json = given["quiet"], given["as_json"]
    if given["resume"]:
        run, config, asked = _resumed(learner, module, given)
        _require_place(out)
        pools = loads.pools(asked.scenarios, asked.traces, asked.hours, asked.seed)
    else:
        config, asked = _asked(learner, module, given)
        _require_place(out)
        pools = loads.pools(asked.scenarios, asked.traces, asked.hours, asked.seed)
        run = _begun(learner, config, asked, given["folder"], device.why)
    if not as_json:
        click.echo(device.why)
    began = time.monotonic()
    try:
        with Interruption() as interruption, _progress(learner, quiet or as_json) as report:
            task = Task(
                name=asked.name,
                pools=pools,
                run=run,
                device=device,
                seed=asked.seed,
                provenance=_provenance(learner, pools, run, asked),
                report=report,
                stop=lambda: interruption.wanted,
            )
            outcome = module.learn(task, config)
            score, rule = _scores(pools, outcome.artifact, asked.seed)
    except (StoppedError, KeyboardInterrupt):
        click.echo(f"stopped; go on with it by: {_resumption(learner, run, out)}", err=True)
        raise click.exceptions.Exit(130) from None
    finally:
        run.close()
    told = {"device": device.why, "steps": outcome.steps, "seconds": round(time.monotonic() - began, 1)}
    _finish(run, outcome.artifact, score, rule, out, told, as_json)


def _asked(learner: str, module: Any, given: dict[str, Any]) -> tuple[Any, Asked]:
    """Return the settings and what else is asked for. Raises UserError."""
    from rlscaler.container import WORD
    from rlscaler_training import hyper

    name = given["name"] if given["name"] is not None else learner
    if not WORD.fullmatch(name):
        raise UserError(
            f"--name {name!r}: expected up to 128 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    config = hyper.read(module.Config, given["config_file"], _settings(module, given))
    logs = given.get("logs", ())
    if learner == "offline" and not logs:
        raise UserError("--decisions FILE.jsonl is missing; expected a log as 'rlscaler dry-run --decisions' writes it")
    for log in logs:
        if not Path(log).is_file():
            raise UserError(f"--decisions {log}: no such file")
    return config, Asked(given["scenarios"], given["traces"], given["hours"], given["seed"], name, logs)


def _settings(module: Any, given: dict[str, Any]) -> dict[str, Any]:
    return {each.name: given.get(each.name) for each in fields(module.Config)}


def _resumed(learner: str, module: Any, given: dict[str, Any]) -> tuple["Run", Any, Asked]:
    """Return the run to go on with, its settings, and what it was told. Raises UserError."""
    from rlscaler_training import hyper, runs

    context = click.get_current_context()
    source = click.core.ParameterSource.COMMANDLINE
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in FREE_TO_RESUME and context.get_parameter_source(name) is source:
            raise UserError(
                f"{parameter.opts[0]} is given with --resume; a run goes on with the settings that it was begun with"
            )
    run = runs.resume(given["resume"])
    if run.algorithm != learner:
        raise UserError(f"{run.folder}: is a run of {run.algorithm}; go on with it by "
                        f"'rlscaler train {run.algorithm} --resume {run.folder}'")  # fmt: skip
    names = _settings(module, given)
    if unknown := sorted(set(run.settings) - set(names)):
        raise UserError(f"{run.folder}: no setting of {learner} is called {unknown[0]!r}; begin a new run")
    return run, hyper.read(module.Config, None, run.settings), Asked.of(run.arguments, run.folder)


def _require_place(out: Path | None) -> None:
    """Raise UserError unless the artifact can be written there."""
    from rlscaler.files import require_writable

    if out is None:
        return
    if not out.parent.exists():
        with suppress(OSError):  # what is wrong with the folder is said below
            out.parent.mkdir(parents=True)
    require_writable(out)


def _begun(learner: str, config: Any, asked: Asked, folder: str | None, device: str) -> "Run":
    """Return a new run, in the folder or in the first free one of the policy's name."""
    from rlscaler_training import runs

    arguments = {**asdict(asked), "scenarios": list(asked.scenarios), "decisions": list(asked.decisions)}
    if folder is not None:
        return runs.begin(folder, learner, config, arguments, device)
    number = 1
    while Path(ROOT, f"{asked.name}-{number}").exists():
        number += 1
    return runs.begin(Path(ROOT, f"{asked.name}-{number}"), learner, config, arguments, device)


def _provenance(learner: str, pools: Any, run: "Run", asked: Asked) -> dict[str, Any]:
    """Return what is needed to train the same again, and the day on which it was begun."""
    from rlscaler_training import loads, runs

    environment = json.loads((run.folder / runs.ENVIRONMENT).read_text(encoding="utf-8"))
    return loads.provenance(pools, asked.seed) | {
        "command": f"rlscaler train {learner}",
        "hours": asked.hours,
        "config": run.settings,
        "date": str(environment["began"])[:10],
        "git": environment["git"],
    }


def _scores(pools: Any, artifact: Any, seed: int) -> tuple["Score", "Score"]:
    """Return the scores of the artifact and of the rule that it corrects, on draws that nothing was chosen by.

    The best of many policies was lucky on those that it was chosen by.
    """
    from rlscaler_training import learner, loads

    _, _, judge = loads.batches(pools, artifact.manifest["action_scheme"], 1, EPISODE, seed)
    return learner.scored(judge, artifact, EPISODE, seed + 2), learner.untrained(judge, EPISODE, seed + 2)


def _finish(
    run: "Run", made: Any, score: "Score", rule: "Score", out: Path | None, told: dict[str, Any], as_json: bool
) -> None:
    """Write the artifact and the report, and tell what was reached."""
    from rlscaler.artifact import Artifact, save

    scores = made.manifest["scores"] | {
        "validation_score": score.total,
        "validation_cost": score.cost,
        "validation_late": score.late,
        "untrained_score": rule.total,
    }
    manifest = {key: value for key, value in made.manifest.items() if key not in ("format", "arrays", "digest")}
    made = Artifact(manifest=manifest | {"scores": scores}, arrays=made.arrays)
    digest = save(made, run.policy)
    if out is not None:
        save(made, out)
    shown = out if out is not None else run.policy
    better = score.total < rule.total
    report = {
        "algorithm": run.algorithm,
        "name": made.manifest["name"],
        "artifact": str(run.policy),
        "digest": digest,
        "score": score.total,
        "cost": score.cost,
        "late": score.late,
        "untrained_score": rule.total,
        "better": better,
        "scores": scores,
        **told,
    }
    run.finish(report)
    if as_json:
        click.echo(json.dumps(report | {"run": str(run.folder), "out": str(shown)}, indent=2))
        return
    verdict = "" if better else ": what was learned is no better than the rule it corrects"
    click.echo(f"validation score {score.total:.3f}; the untrained rule has {rule.total:.3f}{verdict}")
    click.echo(f"{told['steps']:,} steps of environments in {told['seconds']:,.0f} s")
    click.echo(f"run:      {run.folder}")
    click.echo(f"artifact: {shown}")
    click.echo(f"try it:   rlscaler dry-run -f examples/web.yaml --policy {shlex.quote(str(shown))}")


def _resumption(learner: str, run: "Run", out: Path | None) -> str:
    """Return the command that goes on with a run."""
    return shlex.join(
        ["rlscaler", "train", learner, "--resume", str(run.folder), *(["--out", str(out)] if out else [])]
    )


@contextmanager
def _progress(learner: str, quiet: bool) -> "Iterator[Callable[[Progress], None]]":
    """Show a bar with what was measured last and the time that is left on the standard error, if it is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(learner), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"),
               TimeRemainingColumn())  # fmt: skip
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("", total=None, numbers="")

        def report(told: "Progress") -> None:
            numbers = " ".join(f"{name} {value:.3g}" for name, value in told.numbers.items() if math.isfinite(value))
            bar.update(shown, completed=told.step, total=told.steps, numbers=numbers)

        yield report
