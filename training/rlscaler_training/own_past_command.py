"""`rlscaler train --for PROFILE`: from a profile to an artifact that is better on its workload, or to the answer no."""

import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlscaler.errors import UserError
from rlscaler_training.asked import free_folder

if TYPE_CHECKING:
    from rlscaler_training.own_past import Verdict
    from rlscaler_training.runs import Run

ALGORITHM = "for"
"""What the folder of such a run calls it."""
REFUSED = 1
"""Exit status where the default policy is the better choice."""
OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--for", "profile", type=click.Path(), metavar="PROFILE", help="Fit the default policy to the own "
                 "past of one workload: the file that 'rlscaler calibrate' wrote. Refused, with exit status 1, where "
                 "that is no better there than the default."),
    click.option("--out", type=click.Path(), metavar="FILE.rlz", help="With --for: where a copy of the artifact goes."),
    click.option("--run", "folder", type=click.Path(), metavar="FOLDER", help="With --for: folder of the run, new or "
                 "empty.  [default: runs/WORKLOAD-N]"),
    click.option("--name", help="With --for: name of the policy.  [default: the workload's]"),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="With --for: of all that is "
                 "random."),
    click.option("--config", "config_file", type=click.Path(), metavar="FILE.json", help="With --for: settings of the "
                 "training from a file, such as {\"steps\": 2000}."),
    click.option("--json", "as_json", is_flag=True, help="With --for: print the result as JSON."),
    click.option("-q", "--quiet", is_flag=True, help="With --for: show no progress."),
)  # fmt: skip
"""The options of `rlscaler train` itself."""


def fit(
    profile: str, out: str | None, folder: str | None, name: str | None, seed: int, config_file: str | None,
    as_json: bool, progress: Callable[[str, bool], Any], quiet: bool,
) -> None:  # fmt: skip
    """Fit the default policy to a profile's past and tell what came of it. Raises UserError; exits with REFUSED.

    progress: makes a bar of a title, if it is not to be quiet.
    """
    from rlscaler import profile as profiles
    from rlscaler.container import WORD
    from rlscaler.files import require_apart, require_writable
    from rlscaler_training import hyper, own_past
    from rlscaler_training.learner import Progress, StoppedError
    from rlscaler_training.run_record import at_work
    from rlscaler_training.runs import Interruption

    told = profiles.read(profile)
    recording = profiles.read_recording(told, profile)
    name = name if name is not None else told.workload.replace("/", "-")
    if not WORD.fullmatch(name):
        raise UserError(
            f"--name {name!r}: expected up to 128 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    if out is not None:
        readings = str(Path(profile).with_name(told.readings.file)) if told.readings is not None else None
        require_apart({"--out": out}, {"--for": profile, "--for's readings": readings, "--config": config_file})
        require_writable(out)
    config = hyper.read(own_past.Config, config_file, {})
    default, begun = own_past.shipped()
    past = own_past.own_past(told, recording, seed)
    run = _begun(name, config, {"profile": Path(profile).name, "seed": seed, "name": name}, folder)
    if not as_json:
        _introduce(past)
    began = time.monotonic()
    try:
        with at_work(run.folder), Interruption() as interruption, progress("training", quiet or as_json) as report:
            network, known = own_past.fitted(past, begun, config, seed, run, report, lambda: interruption.wanted)
            made = own_past.with_network(begun, network, name=name, training_range=known)
            verdict = own_past.judged(past, own_past.served(made), default,
                                      lambda done, total: report(Progress(done, total)), seed)  # fmt: skip
    except (StoppedError, KeyboardInterrupt):
        click.echo(f"stopped; nothing is kept but {run.folder}; begin again", err=True)
        raise click.exceptions.Exit(130) from None
    finally:
        run.close()
    digest = told.readings.digest if told.readings is not None else ""
    origin = own_past.provenance(past, begun, config, seed, Path(profile).name, digest)
    made = own_past.with_network(
        begun, network, name=name, training_range=known, provenance=origin | {"judged": verdict.told()},
        scores={"own_past": verdict.told(), "default": begun.manifest["scores"]},
    )  # fmt: skip
    _finish(run, made, verdict, Path(out) if out else None, round(time.monotonic() - began, 1), config, as_json)


def _introduce(past: Any) -> None:
    from rlscaler.quantities import duration_text

    interval = float(past.settings.interval)
    seconds = (past.earlier * interval, (len(past.told.time) - past.earlier) * interval)
    earlier, later = (duration_text(60 * round(each / 60.0)) for each in seconds)
    click.echo(f"{past.name}: trains on {earlier}, and is judged on the {later} after them")
    for note in past.notes:
        click.echo(f"note: {note}")


def _finish(
    run: "Run", made: Any, verdict: "Verdict", out: Path | None, seconds: float, config: Any, as_json: bool
) -> None:
    """Write the artifact, if it is better, and the report; tell both; exit with REFUSED if it is not."""
    from rlscaler.artifact import save
    from rlscaler_training import own_past

    digest = save(made, run.policy) if verdict.better else None
    shown = str(out if out is not None else run.policy) if verdict.better else None
    report = {
        "algorithm": run.algorithm, "name": made.manifest["name"], "artifact": str(run.policy) if digest else None,
        "digest": digest, "score": verdict.fitted["score"], "cost": verdict.fitted["cost"],
        "late": verdict.fitted["late"], "untrained_score": verdict.default["score"], "better": verdict.better,
        "scores": verdict.told(), "steps": config.steps, "seconds": seconds, "device": "device: cpu",
    }  # fmt: skip
    run.finish(report)
    if verdict.better and out is not None:
        save(made, out)
    if as_json:
        click.echo(json.dumps(report | {"run": str(run.folder), "out": shown}, indent=2))
    else:
        for line in said(verdict):
            click.echo(line)
        click.echo(f"run:      {run.folder}")
        if shown is None:
            click.echo(f"refused: it is not better by more than {own_past.WORTH:g} for certain, so the default "
                       "policy is the better choice here; no artifact is written")  # fmt: skip
        else:
            click.echo(f"artifact: {shown}")
            click.echo(f"try it:   rlscaler backtest -f FILE --prometheus URL --policy {shlex.quote(shown)}")
    if not verdict.better:
        raise click.exceptions.Exit(REFUSED)


def said(verdict: "Verdict") -> list[str]:
    """Return the figures of a verdict, a line each."""
    from rlscaler_training import own_past

    def line(title: str, figures: dict[str, float]) -> str:
        return f"{title:8} score {figures['score']:.4f} = cost {figures['cost']:.4f} + late {figures['late']:.4f}"

    lost = round(verdict.gain, 4) < 0.0
    gain, *ends = (-verdict.gain, -verdict.high, -verdict.low) if lost else (verdict.gain, verdict.low, verdict.high)
    sure = f"{own_past.CONFIDENCE:.0%} interval {ends[0]:z.4f} to {ends[1]:z.4f}"
    return [
        line("fitted", verdict.fitted),
        line("default", verdict.default),
        f"{'worse' if lost else 'better'} by {gain:z.4f} ({sure})",
    ]


def _begun(name: str, config: Any, arguments: dict[str, Any], folder: str | None) -> "Run":
    """Return a new run, in the folder or in the first free one of the policy's name."""
    from rlscaler_training import runs

    if folder is not None and (Path(folder) / runs.CONFIG).exists():
        raise UserError(f"--run {folder}: holds a run, and one of --for cannot be resumed; name another folder, or "
                        "leave --run out")  # fmt: skip
    return runs.begin(free_folder(name) if folder is None else folder, ALGORITHM, config, arguments, "device: cpu")
