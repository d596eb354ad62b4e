"""The commands about policies that are there: inspect, verify, export.

`inspect` needs no learning stack, and the others import what they need when they need it.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlscaler.errors import UserError

if TYPE_CHECKING:
    from rlscaler.artifact import Artifact
    from rlscaler.inspecting import Found
    from rlscaler_training.verifying import Check, Verified

TRACES = click.option("--traces", type=click.Path(), metavar="FOLDER", help="Recorded load, where a policy was "
                      "validated on it: its scores are then measured again.")  # fmt: skip
WIDTH = 100
"""Columns that a line of values may take before it is continued below."""


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
        _print_policy(told)
        _print_behaviour(told)
        _print_checks(checks)
    if any(check.passed is False for check in checks):
        ctx.exit(1)


def _found(source: str) -> "Found":
    """Return what a name, an artifact's path or a run's folder leads to. Raises UserError."""
    from rlscaler.container import MANIFEST
    from rlscaler.inspecting import find
    from rlscaler.policies import BUILT_IN
    from rlscaler_training.run_record import CONFIG, POLICY

    path = Path(source)
    if source in BUILT_IN or len(source) > 4096 or not _is_folder(path):
        return find(source)
    if (path / CONFIG).is_file():
        if not (path / POLICY).exists():
            raise UserError(f"{source}: the run has no artifact yet; finish it by --resume, or make one of a "
                            f"checkpoint by 'rlscaler export {source}'")  # fmt: skip
        return find(str(path / POLICY))
    if not (path / MANIFEST).is_file():
        raise UserError(f"{source}: the folder is neither a run nor an artifact; 'rlscaler verify {source}' looks at "
                        "all that a folder holds")  # fmt: skip
    return find(source)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _print_policy(told: Mapping[str, Any]) -> None:
    if told["kind"] == "rule":
        _print_rule(told)
        return
    sees, acts = told["observation"], told["action"]
    provenance, agreement = told["provenance"], told["agreement"]
    lines: list[tuple[str, str]] = [
        ("policy", f"{told['policy']}, {told['kind']}"),
        ("file", f"{told['path']}, {told['bytes']:,} bytes"),
        ("digest", told["digest"]),
    ]
    if not told["served"]:
        lines.append(("not served", told["refusal"]))
    numbers = f"{told['numbers']:,} numbers"
    choices = " x ".join(map(str, acts["choices"])) if acts["choices"] else "unknown"
    of = f"of {sees['of']} " if sees["of"] else ""
    seen = f"schema {sees['schema']}, {len(sees['fields'])} {of}fields"
    if len(sees["fields"]) <= 12:
        seen += f": {', '.join(sees['fields'])}"
    ranges = (f"{len(sees['training_range'])} of them with a training range, outside of which the rule decides"
              if sees["training_range"] else "no training range: it decides wherever the load is known")  # fmt: skip
    lines += [
        ("holds", f"{told['shape']}; {numbers}" if told["shape"] else numbers),
        ("sees", seen),
        *([("", ranges)] if told["served"] else []),
        ("acts", f"{acts['scheme']}, {choices} choices"),
        ("trained", _origin(provenance)),
        ("on", _loads(provenance, "trained_on")),
        ("validated", _loads(provenance, "validated_on")),
        ("scores", ", ".join(_listed(told["scores"])) or "none stated"),
        ("agreement", _agreement(agreement) if agreement else "not stated: there was no network to compare with"
                      if told["kind"] == "q-table" else "not stated"),
    ]  # fmt: skip
    if settings := provenance.get("config", provenance.get("settings")):
        lines.append(("settings", ", ".join(f"{name} {_short(value)}" for name, value in settings.items())))
    _print_lines(lines)


def _print_rule(told: Mapping[str, Any]) -> None:
    lines = [("policy", f"{told['policy']}, a built-in rule"), ("about", told["about"])]
    for name, each in told["constants"].items():
        value = "not set" if each["value"] is None else f"{each['value']:g}"
        lines.append((name, f"{value}, {each['meaning']}{'' if each['tuned'] else ' (not tuned)'}"))
    if provenance := told["provenance"]:
        lines.append(("tuned", f"{provenance['date']} on {len(provenance['traces'])} recorded loads, seed "
                      f"{provenance['seed']}, {provenance['budget']} candidates; {provenance['world']}"))  # fmt: skip
    _print_lines(lines)


def _origin(provenance: Mapping[str, Any]) -> str:
    git = provenance.get("git")
    commit = f"commit {str(git.get('commit'))[:10]}{' with changes' if git.get('changed') else ''}" if isinstance(
        git, dict) else ""  # fmt: skip
    checkpoint = provenance.get("checkpoint")
    parts = (
        provenance.get("command", ""),
        f"checkpoint {checkpoint.get('step')}" if isinstance(checkpoint, dict) else "",
        f"seed {provenance['seed']}" if "seed" in provenance else "",
        str(provenance.get("date", "")),
        f"version {provenance['version']}" if "version" in provenance else "",
        commit,
    )
    return ", ".join(str(part) for part in parts if part) or "not stated"


def _loads(provenance: Mapping[str, Any], key: str) -> str:
    names = provenance.get(key)
    if not isinstance(names, list):
        return "not stated"
    asked = provenance.get("asked")
    asked = asked if isinstance(asked, dict) else {}
    timed = "hours" in asked and asked.get("environment", "standard") == "standard"
    hours = f" ({_short(asked['hours'])} h of each)" if timed else ""
    recorded = f" of {asked['traces']}" if asked.get("traces") else ""
    return ", ".join(map(str, names)) + recorded + hours


def _agreement(told: Mapping[str, Any]) -> str:
    rows, ties = told.get("observations"), told.get("ties")
    found = (f"NumPy decides as the trained network on {_short(rows)} observations; {_short(ties)} differ, all within "
             f"the margin of a tie; outputs differ by up to {_short(told.get('largest_difference'))}")  # fmt: skip
    if isinstance(lived := told.get("episodes"), Mapping):
        found += (f"; along whole episodes, in {_short(lived.get('decisions'))} decisions, "
                  f"{_short(lived.get('ties'))} differ, all within that margin")  # fmt: skip
    return found


def _listed(scores: Mapping[str, Any], within: str = "") -> list[str]:
    """Return each score with its name; what is nested has dots in it."""
    found = []
    for name, value in scores.items():
        if isinstance(value, Mapping):
            found += _listed(value, f"{within}{name}.")
        else:
            found.append(f"{within}{name} {_short(value)}")
    return found


def _short(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        text = json.dumps(value) if isinstance(value, (list, dict)) else str(value)
        return text if len(text) <= 60 else text[:57] + "..."
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _print_lines(lines: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns, long values continued below."""
    import textwrap

    width = max(len(name) for name, _ in lines) + 2
    for name, value in lines:
        for index, part in enumerate(textwrap.wrap(value, WIDTH - width, break_on_hyphens=False) or [""]):
            click.echo(f"{(name if index == 0 else ''):<{width}}{part}".rstrip())


def _print_behaviour(told: Mapping[str, Any]) -> None:
    from rlscaler.commands import print_table

    behaviour = told["behaviour"]
    if behaviour is None:
        return
    is_rule = told["kind"] == "rule"

    def count(value: float | None) -> str:
        return "-" if value is None else f"{value:,.1f}"

    header = (
        "situation",
        "demand",
        "ready",
        "proposes",
        "decides",
        *(() if is_rule else ("the rule",)),
        "why",
        "what it is",
    )
    rows = []
    for each in behaviour["situations"]:
        why = ", ".join(each["reasons"])
        if each["outside"] and "OutOfTrainingRange" in each["reasons"]:
            more = f" and {len(each['outside']) - 2} more" if len(each["outside"]) > 2 else ""
            why += f": {', '.join(each['outside'][:2])}{more}"
        rule = () if is_rule else (count(each["rule"]),)
        rows.append((each["situation"], count(each["demand"]), f"{each['ready']:,}", count(each["proposal"]),
                     f"{each['replicas']:,}", *rule, why, each["about"]))  # fmt: skip
    click.echo()
    print_table("What it does, in replicas", header, rows)
    click.echo(f"\nmore load gave fewer replicas in {behaviour['more_load_fewer_replicas']} of "
               f"{behaviour['comparisons']} steps of load within one decision")  # fmt: skip


def _print_checks(checks: "Sequence[Check]") -> None:
    if not checks:
        return
    click.echo()
    width = max(len(check.name) for check in checks) + 2
    for check in checks:
        verdict = {True: "ok", False: "FAILED", None: "open"}[check.passed]
        click.echo(f"{verdict:<8}{check.name:<{width}}{check.told}")


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

    from rlscaler_training.verifying import models, verified

    paths = models(folder)
    found = []
    console = Console(stderr=True, quiet=quiet or as_json or not sys.stderr.isatty())
    with console.status("") as status:
        for number, path in enumerate(paths):
            status.update(f"verifying {path} ({number + 1} of {len(paths)})")
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
        click.echo(f"{each.path}: {check.name} {'failed' if check.passed is False else 'open'}: {told}")
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
        scores = ", ".join(_listed({name: value for name, value in told["scores"].items() if name != "export"}))
        click.echo(f"checkpoint: {told['checkpoint']}, after {told['step']:,} steps")
        click.echo(f"scores:     {scores}")
        if (agreement := told["scores"].get("export")) is not None:
            click.echo(f"agreement:  {_agreement(agreement)}")
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
