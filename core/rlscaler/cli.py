"""The root command: finds its sub-commands by entry point and turns mistakes into one line.

Rooms depend downward only, so the root must not import the commands of the simulator, the learners or the
operator; each names its commands in the entry-point group `rlscaler.commands`, and one is imported only
when it is run. The table of help lines below lets `rlscaler --help` and shell completion answer without
importing any.
"""

import difflib
import sys
from importlib import import_module, metadata
from typing import IO, Any

import click
from click.shell_completion import CompletionItem

from rlscaler.errors import NoRoomError, UserError
from rlscaler.files import FULL
from rlscaler.quantities import printable

ENTRY_POINTS = "rlscaler.commands"
SECTIONS: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "Try and compare",
        {
            "dry-run": "Drive the simulator with a resource instead of a cluster.",
            "backtest": "Decide a workload's own past again, beside what was done then.",
            "calibrate": "Tell capacity and start-up from a workload's past.",
            "evaluate": "Score policies and rules on recorded load.",
            "robustness": "Score policies where the world is not as it is told.",
            "stress": "Tell what policies lose on hard load, and search the hardest.",
            "scenarios": "List the loads and the worlds that a dry-run can run in.",
            "tune": "Find the constants of the rules that policies must beat.",
            "demo": "Watch policies and rules scale the same load, side by side.",
        },
    ),
    (
        "Train policies",
        {
            "train": "Train a policy offline.",
            "prefer": "Say which of two episodes scaled better, to train on that.",
            "sweep": "Search the settings of a learner, or a rule's, in many trials.",
            "benchmark": "Compare the learners with the rules, with intervals.",
            "runs": "List what was trained, and what waits to be gone on with.",
            "report": "Make a page of training runs.",
            "compare": "Compare training runs on the same draws.",
            "inspect": "Show what a policy is and what it does.",
            "verify": "Check every model of a folder.",
            "export": "Make an artifact of a run's checkpoint, or ONNX of an artifact.",
        },
    ),
    (
        "In a cluster",
        {
            "run": "Scale the workloads of a cluster.",
            "explain": "Tell a decision on a workload in words.",
            "status": "List all RLScalers, those that need somebody first.",
            "serve": "Serve decisions over HTTP, on a GPU where there is one.",
            "publish": "Put a policy where the operator reads it.",
        },
    ),
    (
        "Resources",
        {
            "validate": "Check RLScaler resources.",
            "convert": "Make them of HorizontalPodAutoscalers and ScaledObjects.",
            "schema": "Show what a policy sees and the reasons it can give.",
        },
    ),
    (
        "This program",
        {
            "version": "Show the version.",
            "completion": "Print the completion script of a shell.",
        },
    ),
)
EXTRAS = {
    "torch": "train",
    "gymnasium": "train",
    "stable_baselines3": "train",
    "ray": "distributed",
    "plotly": "report",
    "matplotlib": "report",
    "kopf": "operator",
    "kubernetes": "operator",
    "prometheus_api_client": "operator",
    "prometheus_client": "operator",
    "aiohttp": "operator",
    "onnx": "onnx",
    "onnxruntime": "onnx",
}
"""Module -> the extra that installs it."""


def found_commands() -> dict[str, metadata.EntryPoint]:
    """Return the sub-commands that are installed, by name."""
    return {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}


class Failure(click.ClickException):
    """A user's mistake on its way out: each line of the message as `error: ...` on the standard error, exit 2."""

    exit_code = UserError.exit_code

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message."""
        for line in self.message.splitlines():
            click.echo(f"error: {printable(line)}", file=file, err=file is None)


class FullFailure(Failure):
    """No room for a result: nobody's mistake, exit 1."""

    exit_code = NoRoomError.exit_code


class LazyGroup(click.Group):
    """A group whose commands are entry points, imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names: those of the help table in its order, then the rest."""
        found = found_commands()
        known = [name for _, helps in SECTIONS for name in helps]
        return [name for name in known if name in found] + sorted(found.keys() - set(known))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command and return it; None where no such command is installed.

        Raises Failure where it cannot be imported.
        """
        entry = found_commands().get(cmd_name)
        if entry is None:
            return None
        try:
            command = getattr(import_module(entry.module), entry.attr, None)
        except ModuleNotFoundError as error:
            missing = missing_extra(cmd_name, error)
            raise missing or Failure(f"{cmd_name!r} cannot be loaded: {error}; install rlscaler again") from error
        if not isinstance(command, click.Command):
            raise Failure(f"{cmd_name!r} cannot be loaded: {entry.value} is no command; install rlscaler again")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name.

        Raises click's UsageError with the nearest name where there is none.
        """
        name, names = args[0], self.list_commands(ctx)
        if name not in names and not name.startswith("-") and not ctx.resilient_parsing:
            if not names:
                ctx.fail("rlscaler is not installed, so it has no commands; run pip install rlscaler")
            near = difflib.get_close_matches(name, names, n=1)
            ctx.fail(f"no command {name!r}; " + (f"did you mean {near[0]!r}?" if near else "see rlscaler --help"))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, without importing any."""
        names = self.list_commands(ctx)
        found = found_commands()
        others = set(names) - {name for _, helps in SECTIONS for name in helps}
        extra = {name: _origin(found[name]) for name in names if name in others}
        for title, helps in (*SECTIONS, ("Other packages", extra)):
            rows = [(name, text) for name, text in helps.items() if name in names]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that begin with `incomplete`, without importing any."""
        helps = {name: text for _, section in SECTIONS for name, text in section.items()}
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        items = [CompletionItem(name, help=helps.get(name)) for name in names]
        return items + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a user's mistake, a missing extra and Ctrl-C end in one line."""
        try:
            return super().invoke(ctx)
        except NoRoomError as error:
            raise FullFailure(str(error)) from error
        except UserError as error:
            raise Failure(str(error)) from error
        except ModuleNotFoundError as error:
            missing = missing_extra(ctx.invoked_subcommand or "rlscaler", error)
            if missing is None:
                raise
            raise missing from error
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


def missing_extra(command: str, error: ModuleNotFoundError) -> Failure | None:
    """Return what to install where the missing module belongs to an extra."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    return Failure(f"{command!r} needs {module}: pip install 'rlscaler[{EXTRAS[module]}]'")


def _origin(entry: metadata.EntryPoint) -> str:
    return f"From {entry.dist.name}." if entry.dist else f"From {entry.module}."


def _show_version(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"rlscaler {version_of('rlscaler')}")
        ctx.exit()


def version_of(distribution: str) -> str:
    """Return the version of an installed distribution; "not installed" where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


EXAMPLES = """\b
Examples:
  rlscaler validate -f examples/web.yaml    check a resource
  rlscaler dry-run -f examples/web.yaml     see what it would do, without a cluster
"""


@click.group(
    cls=LazyGroup,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
def root() -> None:
    """Scale Kubernetes workloads by policies that were trained offline.

    COMMAND --help tells more of each command.
    """


def main() -> None:
    """Run the command line; exits with 0, 1 where there is no room, 2 for a user's mistake, 130 for Ctrl-C."""
    try:
        root(prog_name="rlscaler")
    except OSError as error:
        if error.errno not in FULL:
            raise
        click.echo(f"error: the output cannot be written: {error.strerror}; make room there, or choose another place",
                   err=True)  # fmt: skip
        sys.exit(FullFailure.exit_code)
