"""The end of a run in the environment of earlier work: what it reached beside what was published, and a picture."""

import json
from pathlib import Path
from typing import Any

import click

from rlscaler.artifact import Artifact, save
from rlscaler_training import finishing
from rlscaler_training.legacy import Verdict, verdict
from rlscaler_training.run_record import read_metrics
from rlscaler_training.runs import Run

DASHBOARD = "dashboard.png"


def finish(run: Run, made: Artifact, out: Path | None, told: dict[str, Any], as_json: bool) -> None:
    """Write the artifact, the picture (where matplotlib is installed) and the report, and tell what was reached."""
    found = verdict(made)
    made = finishing.changed(made, scores=made.manifest["scores"] | found.told())
    digest = save(made, run.policy)
    if out is not None:
        save(made, out)
    shown = out if out is not None else run.policy
    picture = _drawn(run, found)
    report = {
        "algorithm": run.algorithm,
        "name": made.name,
        "environment": made.manifest["parameters"]["environment"],
        "artifact": str(run.policy),
        "digest": digest,
        "score": -found.episode.total,
        "untrained_score": -found.threshold,
        "better": found.episode.total > found.threshold,
        "scores": made.manifest["scores"],
        **found.told(),
        **told,
    }
    run.finish(report)
    if as_json:
        click.echo(json.dumps(report | {"run": str(run.folder), "out": str(shown)}, indent=2))
        return
    click.echo("return of the 200 steps, nearer to 0 is better:")
    for name, value in found.rows():
        click.echo(f"  {name:<44} {value:8.2f}")
    click.echo(f"{told['steps']:,} steps of environments in {told['seconds']:,.0f} s")
    click.echo(f"run:      {run.folder}")
    if picture is not None:
        click.echo(f"picture:  {picture}")
    click.echo(f"artifact: {shown} (of this environment alone: no workload has what it sees)")


def _drawn(run: Run, found: Verdict) -> Path | None:
    """Draw the picture into the run's folder; None where matplotlib is not installed."""
    try:
        from rlscaler_training.legacy_dashboard import write
    except ModuleNotFoundError:
        return None
    path = run.folder / DASHBOARD
    write(path, run.algorithm, list(read_metrics(run.folder)), found)
    return path
