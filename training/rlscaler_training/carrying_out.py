"""A training that was asked for, from its begun run to what is told of it: its progress, its end, how to go on."""

import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlscaler.errors import NoRoomError
from rlscaler_training.asked import Asked

if TYPE_CHECKING:
    from rlscaler_training.devices import Device
    from rlscaler_training.learner import Progress, Score
    from rlscaler_training.legacy import Legacy
    from rlscaler_training.loads import Pools
    from rlscaler_training.parallel import Parallel
    from rlscaler_training.preferences import Preferences
    from rlscaler_training.remote_rollouts import Workers
    from rlscaler_training.runs import Run


@dataclass(frozen=True, slots=True)
class Training:
    """A training that is about to run: the learner's name and module, its run, settings and what it was told, what it
    is trained on, where, where a copy of the artifact goes, how much is said, what people said, and who takes part."""

    learner: str
    module: Any
    run: "Run"
    config: Any
    asked: Asked
    world: "Pools | Legacy"
    device: "Device"
    out: Path | None
    quiet: bool
    as_json: bool
    liked: "Preferences | None" = None
    workers: "Workers | None" = None
    parallel: "Parallel | None" = None


def carry_out(training: Training) -> None:
    """Train, and tell what came of it; of several ranks the first does.

    Raises UserError; exits with 130 after Ctrl-C.
    """
    from rlscaler_training import finishing, legacy_finish
    from rlscaler_training.learner import StoppedError, Task
    from rlscaler_training.legacy import Legacy
    from rlscaler_training.parallel import ALONE
    from rlscaler_training.run_record import at_work
    from rlscaler_training.runs import Interruption

    learner, module, run, config = training.learner, training.module, training.run, training.config
    asked, pools, device, out = training.asked, training.world, training.device, training.out
    liked, workers, parallel = training.liked, training.workers, training.parallel or ALONE
    as_json = training.as_json or not parallel.leads
    for note in () if liked is None else liked.notes:
        click.echo(f"note: {note}", err=True)
    if not as_json:
        click.echo("\n".join((device.why, *(() if isinstance(pools, Legacy) else pools.told))))
    held = at_work(run.folder) if parallel.leads else nullcontext()
    try:
        with held, Interruption() as interruption, progress(learner, training.quiet or as_json) as report:
            task = Task(
                name=asked.name,
                world=pools,
                run=run,
                device=device,
                seed=asked.seed,
                provenance=finishing.provenance(run, pools) if parallel.leads else {},
                report=report,
                stop=lambda: parallel.any(interruption.wanted),
                preferences=liked,
                workers=workers,
                parallel=parallel,
            )
            outcome = module.learn(task, config)
            if not parallel.leads:
                return
            scores = None if isinstance(pools, Legacy) else finishing.judged(pools, outcome.artifact, asked.seed)
            elsewhere = finishing.elsewhere(pools, outcome.artifact)
            lived = finishing.agreed(pools, outcome.artifact, asked.seed)
    except (StoppedError, KeyboardInterrupt):
        if parallel.leads:
            click.echo(f"stopped; go on with it by: {_resumption(learner, run, out, parallel)}", err=True)
        raise click.exceptions.Exit(130) from None
    except NoRoomError as error:
        raise _without_room(error, learner, run, out) from error
    finally:
        run.close()
    told: dict[str, Any] = {"device": device.why, "steps": outcome.steps, "seconds": round(run.seconds, 1)}
    told |= (
        {} if workers is None else {"rollouts": workers.told() | {"workers": workers.count, "waited": workers.waited}}
    )
    if workers is not None and not as_json:
        click.echo(workers.spoken())
    made = finishing.changed(outcome.artifact, scores=outcome.artifact.manifest["scores"] | lived)
    try:
        if scores is None:
            legacy_finish.finish(run, made, out, told, as_json)
        else:
            _finish(run, made, *scores, elsewhere, out, told, as_json)
    except NoRoomError as error:
        raise _without_room(error, learner, run, out) from error


def _finish(
    run: "Run", made: Any, score: "Score", rule: "Score", elsewhere: dict[str, float], out: Path | None,
    told: dict[str, Any], as_json: bool,
) -> None:  # fmt: skip
    """Write the artifact and the report, and tell what was reached."""
    from rlscaler.artifact import save
    from rlscaler_training import finishing

    scores = made.manifest["scores"] | finishing.told(score, rule) | elsewhere
    made = finishing.changed(made, scores=scores)
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
    if elsewhere:
        both = (elsewhere["randomised_score"], elsewhere["randomised_untrained_score"])
        click.echo(f"in randomised worlds {both[0]:.3f}; the untrained rule has {both[1]:.3f}")
    if liked := scores.get("preferences"):
        click.echo(f"preferences: {liked['accuracy']:.0%} of {liked['pairs']} pairs that were not trained on are told "
                   f"right; calibration error {liked['calibration']:.2f}")  # fmt: skip
    if compared := finishing.as_exported(scores):
        click.echo(compared)
    click.echo(f"{told['steps']:,} steps of environments in {told['seconds']:,.0f} s")
    click.echo(f"run:      {run.folder}")
    click.echo(f"artifact: {shown}")
    click.echo(f"try it:   rlscaler dry-run -f examples/web.yaml --policy {shlex.quote(str(shown))}")


def _resumption(learner: str, run: "Run", out: Path | None, parallel: "Parallel | None" = None) -> str:
    """Return the command that goes on with a run."""
    also = ["--out", str(out)] if out else []
    if parallel is not None and not parallel.alone:
        also += ["--distributed", parallel.mode, "--ranks", str(parallel.ranks)]
    return shlex.join(["rlscaler", "train", learner, "--resume", str(run.folder), *also])


def _without_room(error: NoRoomError, learner: str, run: "Run", out: Path | None) -> NoRoomError:
    """Return the error of a full disk with what is kept and how to go on."""
    kept = f"the last good checkpoint is {newest}" if (newest := run.newest()) else "there is no checkpoint yet"
    return NoRoomError(f"{error}; {kept}; go on with it by: {_resumption(learner, run, out)}")


@contextmanager
def progress(learner: str, quiet: bool) -> "Iterator[Callable[[Progress], None]]":
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
