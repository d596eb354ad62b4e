"""The commands that need no simulator, learner or cluster.

Everything but click is imported inside the commands, so that each starts as fast as what it needs.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(as_json: bool) -> None:
    """Show the versions of rlscaler, Python and NumPy."""
    from rlscaler.cli import version_of

    python = ".".join(str(part) for part in sys.version_info[:3])
    versions = {"rlscaler": version_of("rlscaler"), "python": python, "numpy": version_of("numpy")}
    if as_json:
        click.echo(json.dumps(versions))
    else:
        for name, number in versions.items():
            click.echo(f"{name} {number}")


@click.command()
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(allow_dash=True),
    help="YAML file of RLScaler resources; - is the standard input. May be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def validate(ctx: click.Context, files: Sequence[str], as_json: bool) -> None:
    """Check RLScaler resources; exits with 2 where one is wrong.

    All that is wrong is reported at once, each with its file, line and field.

    \b
    Examples:
      rlscaler validate -f examples/web.yaml
      kubectl get rls web -o yaml | rlscaler validate -f -
    """
    from rlscaler.custom_resource import Resource, ResourceError, load_resources
    from rlscaler.quantities import printable

    found: list[Resource] = []
    errors: list[str] = []
    for file in files:
        try:
            found += load_resources(file)
        except ResourceError as error:
            errors += error.messages
    if as_json:
        resources = [
            {"namespace": r.namespace, "name": r.name, "file": r.source.file, "line": r.source.line} for r in found
        ]
        click.echo(json.dumps({"resources": resources, "errors": errors}, indent=2))
    else:
        for r in found:
            click.echo(f"ok {r.key} ({r.source.file}:{r.source.line})")
        for message in errors:
            click.echo(f"error: {printable(message)}", err=True)
    if errors:
        ctx.exit(2)


@click.command()
@click.option("--crd", is_flag=True, help="Print the CustomResourceDefinition of RLScaler instead, as YAML.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def schema(crd: bool, as_json: bool) -> None:
    """Show what a policy sees of a workload, and the reasons that a decision can give.

    Everything a policy sees is relative to the workload's own demand and capacity; unknown values read 0.

    \b
    Examples:
      rlscaler schema
      rlscaler schema --crd | kubectl apply --server-side -f -
    """
    if crd:
        from rlscaler import crd as definition

        click.echo(json.dumps(definition.crd(), indent=2) if as_json else definition.crd_yaml().rstrip("\n"))
        return
    from rlscaler.observation import FIELDS, SCHEMA
    from rlscaler.reasons import SENTENCES

    reasons = [(str(reason.name), sentence) for reason, sentence in SENTENCES.items()]
    if as_json:
        fields = [
            {
                "name": f.name,
                "group": f.group,
                "unit": f.unit,
                "low": f.low,
                "high": f.high,
                "meaning": f.meaning,
            }
            for f in FIELDS
        ]
        sentences = [{"name": name, "meaning": sentence} for name, sentence in reasons]
        click.echo(json.dumps({"schema": SCHEMA, "fields": fields, "reasons": sentences}, indent=2))
        return
    rows = [(f.name, f.group, f.unit, f"{f.low:g} to {f.high:g}", f.meaning) for f in FIELDS]
    print_table(f"Observation, schema {SCHEMA}", ("field", "group", "unit", "range", "meaning"), rows)
    click.echo()
    print_table("Reasons of a decision", ("reason", "meaning"), reasons)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      rlscaler completion bash > ~/.local/share/bash-completion/completions/rlscaler
      rlscaler completion fish > ~/.config/fish/completions/rlscaler.fish
      eval "$(rlscaler completion zsh)"
    """
    from click.shell_completion import get_completion_class

    from rlscaler.cli import root

    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"no completion for {shell}; choose bash, zsh or fish")
    click.echo(script(root, {}, "rlscaler", "_RLSCALER_COMPLETE").source())


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: fitted to the width of a terminal, one unbroken line a row for a pipe."""
    from rlscaler.quantities import printable

    rows = [[printable(str(cell)) for cell in row] for row in rows]
    if _is_terminal():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for name in header:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        Console().print(table)
        return
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    click.echo(title)
    for row in (header, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
