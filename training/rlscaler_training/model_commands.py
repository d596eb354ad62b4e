"""The commands about policies that are there: inspect, verify, export.

`inspect` needs no learning stack, and the others import what they need when they need it.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlscaler.errors import UserError
from rlscaler.quantities import printable
from rlscaler_training.inspect_text import in_words, listed, print_behaviour, print_policy

if TYPE_CHECKING:
    from rlscaler.artifact import Artifact
    from rlscaler.inspecting import Found
    from rlscaler_training.verifying import Check, Verified

TRACES = click.option("--traces", type=click.Path(), metavar="FOLDER", help="Recorded load, where a policy was "
                      "validated on it: its scores are then measured again.")  # fmt: skip


@click.command()
@click.argument("policy", metavar="POLICY")
@click.option("--verify", is_flag=True, help="Also recompute what can be recomputed; exits with 1 where it differs.")
@TRACES
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def inspect(ctx: click.Context, policy: str, verify: bool, traces: str | None, as_json: bool) -> None:
    """Show what a policy is: an artifact, the artifact of a run, or a built-in rule.

    What it sees and how it acts, its shape and digest, where it comes from, its scores, how it compares with the
    network that was trained, and what it does in named situations beside the rule that steps in for it. Needs no
    learning stack; only the scores that --verify measures again do.

    \b
    Examples:
      rlscaler inspect runs/ppo-1
      rlscaler inspect growth-quantile
      rlscaler inspect policy.rlz --verify --json
    """
    from rlscaler import inspecting

    if traces is not None and not verify:
        raise UserError("--traces is given without --verify; expected both, or neither")
    found = _found(policy)
    if verify and found.path is None:
        raise UserError(f"--verify {policy}: is a rule, which has no digest and no scores; leave --verify out")
    told = inspecting.described(found)
    told["behaviour"] = None if found.policy is None else inspecting.behaviour(found.policy)
    checks: list[Check] = []
    if verify and found.path is not None:
        from rlscaler_training.verifying import verified

        checks = verified(found.path, traces).checks
        told["checks"] = [{"name": each.name, "passed": each.passed, "told": each.told} for each in checks]
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        print_policy(told)
        print_behaviour(told)
        _print_checks(checks)
    if any(check.passed is False for check in checks):
        ctx.exit(1)


def _found(source: str) -> "Found":
    """Return what a name, an artifact's path or a run's folder leads to. Raises UserError."""
    from rlscaler.container import MANIFEST
    from rlscaler.inspecting import find
    from rlscaler.policies import BUILT_IN
    from rlscaler_training.run_record import CONFIG, POLICY, REPORT

    path = Path(source)
    if source in BUILT_IN or len(source) > 4096 or not _is_folder(path):
        return find(source)
    if (path / CONFIG).is_file():
        if not (path / POLICY).exists():
            if (path / REPORT).exists():
                raise UserError(f"{source}: the run is complete and made no artifact; 'rlscaler report {source}' shows "
                                "what it came to")  # fmt: skip
            raise UserError(f"{source}: the run has no artifact yet; {_how_to_end(path)}")
        return find(str(path / POLICY))
    if not (path / MANIFEST).is_file():
        raise UserError(f"{source}: the folder is neither a run nor an artifact; 'rlscaler verify {source}' looks at "
                        "all that a folder holds")  # fmt: skip
    return find(source)


def _how_to_end(run: Path) -> str:
    """Return what is to be done with a run that has not come to its end."""
    from rlscaler_training.own_past_command import ALGORITHM as OWN_PAST
    from rlscaler_training.run_record import read

    with suppress(UserError):
        if (record := read(run)).learner == OWN_PAST:
            return f"one of --for keeps no checkpoint to go on from: begin anew by '{record.resumption}'"
    return f"finish it by --resume, or make one of a checkpoint by 'rlscaler export {run}'"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _print_checks(checks: "Sequence[Check]") -> None:
    if not checks:
        return
    click.echo()
    width = max(len(check.name) for check in checks) + 2
    for check in checks:
        verdict = {True: "ok", False: "FAILED", None: "open"}[check.passed]
        click.echo(printable(f"{verdict:<8}{check.name:<{width}}{check.told}"))


@click.command()
@click.argument("folder", metavar="[FOLDER]", default="runs", type=click.Path())
@TRACES
@click.option("--no-scores", is_flag=True, help="Leave out the scores, which take some seconds for each model.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def verify(ctx: click.Context, folder: str, traces: str | None, no_scores: bool, as_json: bool, quiet: bool) -> None:
    """Check every model of a folder: its artifacts, and those of its runs.  [default: runs]

    Each is loaded and checked: the digest, the schema, the same answers each time, sane decisions on any input at all,
    and the scores of its manifest, measured again on the same load. A check that cannot be made is open, and says why.

    Exits with 1 where a model fails, and with 2 where there is none.

    \b
    Examples:
      rlscaler verify
      rlscaler verify models/ --traces recorded/ --json
    """
    from rich.console import Console
    from rich.text import Text

    from rlscaler_training.verifying import models, verified

    paths = models(folder)
    found = []
    console = Console(stderr=True, quiet=quiet or as_json or not sys.stderr.isatty())
    with console.status("") as status:
        for number, path in enumerate(paths):
            status.update(Text(printable(f"verifying {path} ({number + 1} of {len(paths)})")))
            found.append(verified(path, traces, scores=not no_scores))
    if as_json:
        click.echo(json.dumps([each.told() for each in found], indent=2))
    else:
        _print_verified(found)
    if any(each.failed for each in found):
        ctx.exit(1)


def _print_verified(found: "Sequence[Verified]") -> None:
    from rlscaler.commands import print_table

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    def said(each: "Verified", name: str) -> str:
        check = next((check for check in each.checks if check.name == name), None)
        return "-" if check is None else {True: "ok", False: "FAILED", None: "open"}[check.passed]

    names = ("digest", "schema", "repeatable", "behaviour", "agreement", "scores")
    rows = [
        (
            each.path, each.kind or "-", number(each.score), number(each.untrained),
            *(said(each, name) for name in names), "FAILED" if each.failed else "ok",
        )
        for each in found
    ]  # fmt: skip
    print_table(f"{len(found)} models", ("model", "kind", "score", "untrained", *names, "verdict"), rows)
    notes = [(each, check) for each in found for check in (*each.failed, *each.open)]
    if notes:
        click.echo()
    for each, check in notes:
        told = check.told.removeprefix(f"{each.path}: ")
        click.echo(printable(f"{each.path}: {check.name} {'failed' if check.passed is False else 'open'}: {told}"))
    failed = sum(bool(each.failed) for each in found)
    left = sum(len(each.open) for each in found)
    parts = [f"{len(found) - failed} of {len(found)} passed", f"{failed} failed" if failed else "",
             f"{left} checks open" if left else ""]  # fmt: skip
    click.echo("\n" + ", ".join(part for part in parts if part))


@click.command()
@click.argument("source", metavar="RUN|POLICY", type=click.Path())
@click.option("--checkpoint", metavar="best|latest|N", help="Which checkpoint of the run: that of the evaluation which "
              "was best, the newest, or that after N steps of the learner's own count.  [default: latest]")  # fmt: skip
@click.option("--output", type=click.Path(), metavar="FILE.rlz", help="Where the artifact goes.  [default: "
              "RUN/NAME-STEP.rlz]")  # fmt: skip
@click.option("--onnx", "onnx_file", type=click.Path(), metavar="FILE.onnx", help="Also write the network as ONNX; "
              "alone, that of the run's artifact or of POLICY.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(source: str, checkpoint: str | None, output: str | None, onnx_file: str | None, as_json: bool) -> None:
    """Make an artifact of a run's checkpoint, or ONNX of an artifact.

    The artifact is what training would have ended with, had it ended at that checkpoint: the policy that validated
    best until then, scored on draws that nothing was chosen by. Nothing else of the run changes. The ONNX file is
    written once onnxruntime has answered 10,000 observations as NumPy does.

    \b
    Examples:
      rlscaler export runs/ppo-1
      rlscaler export runs/ppo-1 --checkpoint 20000 --output early.rlz
      rlscaler export runs/ppo-1 --onnx policy.onnx
    """
    from rlscaler.files import require_writable
    from rlscaler_training.run_record import CONFIG, POLICY

    for path in (output, onnx_file):
        if path:
            require_writable(path)
    folder = Path(source)
    is_run = _is_folder(folder) and (folder / CONFIG).is_file()
    if not is_run and (checkpoint or output):
        raise UserError(f"{source}: is no run, so it has no checkpoints; expected the folder of a run, as "
                        "'rlscaler runs' lists them")  # fmt: skip
    if not is_run and not onnx_file:
        raise UserError(f"{source}: is no run; expected the folder of one, or --onnx FILE.onnx beside an artifact")
    # before anything is made, as what it needs may not be installed
    write_onnx = import_module("rlscaler_training.onnx_graph").save if onnx_file else None
    told: dict[str, Any] = {}
    if is_run and (checkpoint or output or not onnx_file or not (folder / POLICY).exists()):
        made = _export_checkpoint(folder, checkpoint or "latest", output, told)
    else:
        found = _found(source)
        if found.artifact is None:
            raise UserError(f"{source}: is a rule, which has no network; expected a run or an artifact")
        made = found.artifact
    if write_onnx is not None and onnx_file is not None:
        told |= {"onnx": onnx_file, "compared": write_onnx(made, Path(onnx_file)).told()}
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    if "artifact" in told:
        scores = ", ".join(listed({name: value for name, value in told["scores"].items() if name != "export"}))
        click.echo(f"checkpoint: {told['checkpoint']}, after {told['step']:,} steps")
        click.echo(f"scores:     {scores}")
        if (agreement := told["scores"].get("export")) is not None:
            click.echo(f"agreement:  {in_words(agreement)}")
        click.echo(f"artifact:   {told['artifact']}")
    if onnx_file:
        compared = told["compared"]
        click.echo(f"onnx:       {onnx_file}")
        click.echo(f"            onnxruntime decides as NumPy on {compared['observations']:,} observations; outputs "
                   f"differ by up to {compared['largest_difference']:.1e}")  # fmt: skip


def _export_checkpoint(folder: Path, which: str, output: str | None, told: dict[str, Any]) -> "Artifact":
    from rlscaler.artifact import SUFFIX, save
    from rlscaler_training.exporting import from_checkpoint

    made, step = from_checkpoint(folder, which)
    path = Path(output) if output else folder / f"{made.name}-{step}{SUFFIX}"
    digest = save(made, path)
    told |= {"run": str(folder), "checkpoint": which, "step": step, "artifact": str(path), "digest": digest,
             "scores": made.manifest["scores"]}  # fmt: skip
    return made
