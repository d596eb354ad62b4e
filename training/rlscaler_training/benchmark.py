"""The command `rlscaler benchmark`: every learner and every rule on the same draws, with intervals.

`benchmark_arenas` says what is trained and scored on, `benchmark_learners` what each may spend, `benchmark_legacy` what
earlier work's environment is, `benchmark_runs` how it is run, `benchmark_statistics` and `benchmark_report` what is
said of it.
"""

import json
import shlex
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from rlscaler.errors import UserError
from rlscaler.name_lists import names_in
from rlscaler.ranges import FiniteRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlscaler_training.benchmark_runs import Plan

RUN = "runs/benchmark"
USUAL = {"budget": 20.0, "seeds": 10}
QUICK = {"budget": 3.0, "seeds": 2}
OTHERS = {"tictactoe": ("tictactoe_command", "Rollouts in other processes, beside published figures.")}
"""Benchmark -> its module, whose command has its name, and its line of help."""


class Benchmarks(click.Group):
    """The comparison of learners, with the other benchmarks as commands; a module is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names."""
        return list(OTHERS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a benchmark."""
        if cmd_name not in OTHERS:
            return None
        command: click.Command = getattr(import_module(f"rlscaler_training.{OTHERS[cmd_name][0]}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them, without importing any."""
        with formatter.section("Other benchmarks"):
            formatter.write_dl([(name, about) for name, (_, about) in OTHERS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return those and the options that begin with `incomplete`, without importing any."""
        found = [CompletionItem(name, help=about) for name, (_, about) in OTHERS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=Benchmarks, invoke_without_command=True, subcommand_metavar="[BENCHMARK ...]")
@click.option("--budget", type=FiniteRange(0.01, 86_400.0),
              help=f"Seconds of each training on one thread, turned into steps by each learner's pace.  "
              f"[default: {USUAL['budget']:g}]")  # fmt: skip
@click.option("--seeds", type=click.IntRange(1, 1000),
              help="Seeds; dear learners (dqn, ppo, bdq, evolve) have half of them, or three.  "
              f"[default: {USUAL['seeds']}]")  # fmt: skip
@click.option("--settings", metavar="NAMES",
              help="Settings, separated by commas: classic, worlds, traces, legacy.  [default: all]")  # fmt: skip
@click.option("--only", metavar="NAMES", help="Contenders, separated by commas; the clairvoyant and what regret is "
              "measured by are always there.  [default: all]")  # fmt: skip
@click.option("--traces", type=click.Path(), metavar="FOLDER",
              help="Recorded load.  [default: the folder that RLSCALER_TRACES names; else left out]")  # fmt: skip
@click.option("--for", "hours", type=FiniteRange(1.1, 24.0 * 14), metavar="HOURS",
              help="Load of each source.  [default: 6, of recorded ones 24]")  # fmt: skip
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Processes, of one thread each.")
@click.option("--run", "folder", default=RUN, show_default=True, type=click.Path(), metavar="FOLDER",
              help="Where the runs are kept; an interrupted benchmark goes on there.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Minutes: a budget of 3 s, 2 seeds and 2 hours of load. Says little.")
@click.option("--output", type=click.Path(), metavar="FILE.json", help="Write the results.")
@click.option("--markdown", "page", type=click.Path(), metavar="FILE.md", help="Write the page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def benchmark(
    context: click.Context, /, budget: float | None, seeds: int | None, settings: str | None, only: str | None,
    traces: str | None, hours: float | None, jobs: int, folder: str, quick: bool, output: str | None, page: str | None,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Compare the learners with the rules, honestly.

    Equal seconds for every learner, many seeds, the same draws for all; interquartile means and the probability of
    being better, with intervals. It answers whether ppo > dqn > q-learning > threshold > random, link by link. All of
    it takes about an hour on two processors; --quick some minutes.

    \b
    Examples:
      rlscaler benchmark --quick
      rlscaler benchmark --output docs/benchmark.json --markdown docs/benchmark.md
      rlscaler benchmark --settings classic --only ppo,dqn,q-learning,threshold --budget 120
      rlscaler benchmark tictactoe --workers 1 2 4 8 12
    """
    if context.invoked_subcommand is not None:
        for parameter in context.command.params:
            if context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE:
                raise UserError(f"{parameter.opts[0]} stands before {context.invoked_subcommand}; "
                                "options of another benchmark go after its name")  # fmt: skip
        return
    from rlscaler.files import require_writable, write_text_atomically
    from rlscaler_training import benchmark_report as report
    from rlscaler_training import benchmark_runs as runs
    from rlscaler_training.benchmark_arenas import HOURS

    for path in (output, page):
        if path:
            require_writable(path)
    usual = QUICK if quick else USUAL
    load = dict.fromkeys(HOURS, 2.0) if quick else dict(HOURS)
    if hours is not None:
        load = dict.fromkeys(load, hours)
    known = tuple(dict.fromkeys(name for setting in runs.SETTINGS for name in runs.entrants(setting)))
    asked = _checked("--settings", settings, tuple(runs.SETTINGS), "classic,worlds")
    if "traces" in asked:
        traces = traces or _usual_traces()
        if traces is None and settings is not None:
            raise UserError("--settings traces: name a folder of recorded load by --traces")
        if traces is None:
            click.echo("recorded traces are left out; --traces FOLDER names some", err=True)
            asked = tuple(name for name in asked if name != "traces")
    elif traces is not None:
        click.echo(f"--traces {traces} is left out: --settings {settings} meets no recorded load", err=True)
    plan = runs.Plan(
        settings=asked,
        contenders=_checked("--only", only, known, "ppo,threshold"),
        seeds=seeds if seeds is not None else int(usual["seeds"]),
        budget=budget if budget is not None else usual["budget"],
        hours=load,
        traces=traces if "traces" in asked else None,
    )
    place = Path(folder if not quick or folder != RUN else f"{RUN}-quick")
    runs.begun(plan, place)
    try:
        runs.run(plan, place, jobs, lambda what: None if quiet else click.echo(what, err=True))
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on with it", err=True)
        raise click.exceptions.Exit(130) from None
    told = report.summary(plan, runs.rows(place), _command(plan, only, load != HOURS))
    text = json.dumps(told, indent=2)
    if output:
        write_text_atomically(output, text + "\n")
    if page:
        write_text_atomically(page, report.markdown(told))
    if as_json:
        click.echo(text)
    else:
        click.echo("\n".join(report.spoken(told)))


def _checked(option: str, text: str | None, known: "Sequence[str]", example: str) -> tuple[str, ...]:
    """Return the names that an option lists, all where it is left out; raises UserError."""
    from rlscaler_training.benchmark_runs import checked

    return checked(known if text is None else names_in(text, option, example), known, option)


def _command(plan: "Plan", only: str | None, load: bool) -> str:
    """Return the command that makes these results. load: whether the hours were asked for."""
    words = ["rlscaler", "benchmark", "--budget", f"{plan.budget:g}", "--seeds", str(plan.seeds)]
    words += ["--settings", ",".join(plan.settings), *(["--only", only] if only else [])]
    words += ["--traces", "FOLDER"] if plan.traces else []
    words += ["--for", f"{next(iter(plan.hours.values())):g}"] if load else []
    return shlex.join(words)


def _usual_traces() -> str | None:
    """Return the folder of recorded load where none is named; raises UserError where RLSCALER_TRACES names none."""
    from rlscaler_sim.trace import TraceError, traces_folder

    try:
        folder = traces_folder()
    except TraceError as error:
        raise UserError(str(error)) from error
    return None if folder is None else str(folder)
