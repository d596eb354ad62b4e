"""The commands of the simulator: dry-run, evaluate, scenarios, tune."""

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rlscaler.errors import UserError
from rlscaler.name_lists import names_in
from rlscaler.quantities import whole_text

if TYPE_CHECKING:
    from rlscaler.custom_resource import Resource
    from rlscaler_sim.dry_run import Progress
    from rlscaler_sim.trace import Trace

    FloatType = click.ParamType[float]
else:
    FloatType = click.ParamType  # not every release that serves can be subscripted


LONGEST_STARTUP = 3600.0
"""Seconds that a pod may take to start."""
STANDARD_SCALE = 25.0
"""Replicas that the 95th percentile of the load needs, where nothing else is said."""
RULES_EXAMPLE = "hpa,keda"


class Seconds(FloatType):
    """A duration with a unit, as in resources: 90s, 15m, 36h; days are allowed here: 14d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        from rlscaler.quantities import duration

        if isinstance(value, float):
            return value
        days = str(value).strip().removesuffix("d")
        if days != str(value).strip() and days.replace(".", "", 1).isdecimal():
            return 86400.0 * float(days)
        try:
            return duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _positive(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Return a finite number above 0, None where nothing is said."""
    if value is not None and not 0.0 < value < 1e6:
        raise click.BadParameter(f"{value:g} is out of range; expected a number above 0 and below 1,000,000")
    return value


def compared_with(compare: str) -> tuple[str, ...]:
    """Return the contenders that --compare names: all, or those of a list. Raises UserError."""
    from rlscaler_sim import contenders

    if compare.strip() == "all":
        return contenders.NAMES
    return names_in(compare, "--compare", RULES_EXAMPLE, or_none=True)


@contextmanager
def progress_bar(quiet: bool) -> Iterator["Progress | None"]:
    """Show a progress bar on the standard error while it is a terminal, and what was done where it is interrupted."""
    if quiet or not sys.stderr.isatty():
        state: dict[str, Any] = {}

        def silent(what: str, done: int, total: int) -> None:
            state.update(what=what, done=done, total=total)

        try:
            yield silent
        except KeyboardInterrupt:
            _interrupted(state)
            raise
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    state = {}
    with Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                  TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:  # fmt: skip
        task = bar.add_task("starting", total=None)

        def show(what: str, done: int, total: int) -> None:
            state.update(what=what, done=done, total=total)
            if done % 50 == 0 or done == total:
                bar.update(task, description=what, completed=done, total=total)

        try:
            yield show
        except KeyboardInterrupt:
            bar.stop()
            _interrupted(state)
            raise


def _interrupted(state: dict[str, Any]) -> None:
    if state:
        click.echo(f"stopped while {state['what']}, at step {state['done']} of {state['total']}; nothing was written",
                   err=True)  # fmt: skip


@click.command()
@click.option("-f", "--file", "file", type=click.Path(allow_dash=True), required=True,
              help="YAML file of RLScaler resources, the same that is applied to a cluster; - is the standard"
              " input.")  # fmt: skip
@click.option("--trace", default="working-day", show_default=True, metavar="NAME|FILE",
              help="Load: a scenario ('rlscaler scenarios' lists them), a scenario's FILE.yaml, or a CSV file of"
              " recorded load, plain or gzip.")  # fmt: skip
@click.option("--scale-to", type=float, callback=_positive, help="Scale the load so that its 95th percentile needs "
              "this many fully used replicas.  [default: the scenario's, the profile's, or 25]")  # fmt: skip
@click.option("--profile", "profile", type=click.Path(), metavar="FILE.json",
              help="Profile that 'rlscaler calibrate' wrote: its capacity and start-up take the place of the resource's"
              ", its noise that of the world, and its recorded load is run where no --trace is named.")  # fmt: skip
@click.option("--policy", metavar="NAME|PATH", help="Policy to try instead of the resource's: a rule, or an artifact.")
@click.option("--compare", default="hpa,hpa-tuned,keda", show_default=True, metavar="NAMES",
              help="Whom to compare with, separated by commas; 'all' for everyone. hpa-tuned and the clairvoyant, which"
              " regret is measured by, are always there.")  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of all noise.")
@click.option("--from", "start", default=0.0, type=Seconds(), help="Skip this much of the load, such as 36h.")
@click.option("--for", "duration", type=Seconds(), help="Run for this long; a day or the whole trace otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@click.option("--decisions", type=click.Path(), metavar="FILE.jsonl", help="Write every decision of the policy.")
@click.option("--report", type=click.Path(), metavar="FILE.html", help="Write an interactive page.")
@click.option("--plot", type=click.Path(), metavar="FILE.png", help="Write a picture.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def dry_run(
    file: str, trace: str, scale_to: float | None, profile: str | None, policy: str | None, compare: str, seed: int,
    start: float, duration: float | None, as_json: bool, decisions: str | None, report: str | None,
    plot: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Drive the simulator with a resource instead of a cluster, beside the rules you would use otherwise.

    Nothing is contacted: the decision is the cluster's, the workload is simulated. The table tells what it would have
    cost and broken; score = cost ratio + 20 x share of late requests, regret = 0 for the clairvoyant and 1 for a
    tuned HPA.

    \b
    Examples:
      rlscaler dry-run -f examples/web.yaml
      rlscaler dry-run -f examples/web.yaml --trace load.csv.gz --compare all --report out/web.html
      rlscaler dry-run -f examples/web.yaml --trace working-day/slow-start --policy lcp --json
    """
    from rlscaler.custom_resource import load_resources
    from rlscaler.files import require_apart, require_ending, require_writable

    require_apart({"--decisions": decisions, "--report": report, "--plot": plot},
                  {"-f": file, "--trace": trace, "--profile": profile, "--policy": policy})  # fmt: skip
    require_ending({"--report": report}, ".html", ".htm")
    require_ending({"--plot": plot}, ".png")
    for path in filter(None, (decisions, report, plot)):
        require_writable(path)
    resources = load_resources(file)
    for path in filter(None, (decisions, report, plot)):
        for index in range(1, len(resources)):
            require_writable(_each(path, resources, index))
    from rlscaler_sim import dry_run as driver
    from rlscaler_sim.run_record import write_decisions

    names = compared_with(compare)
    named = click.get_current_context().get_parameter_source("trace") is not ParameterSource.DEFAULT
    scale: float | None
    if profile is None:
        scenario = driver.found_scenario(trace)
        scale = scale_to or scenario.scale_to or 25.0
    else:
        from rlscaler_sim import profiled

        changed = [profiled.with_profile(resource, profile) for resource in resources]
        resources, known = [resource for resource, _ in changed], changed[0][1]
        if named:
            scenario = profiled.with_noise(driver.found_scenario(trace), known)
            scale = scale_to or scenario.scale_to or known.p95_demand or 25.0
        else:
            scenario, scale = profiled.recorded_load(known, profile), scale_to
    found = []
    for resource in resources:
        with progress_bar(quiet) as progress, known_policy(policy, file, resource):
            run, notes, made = driver.dry_run(
                resource, scenario, policy=policy, compare=names, scale_to=scale, seed=seed, start=start,
                duration=duration, progress=progress, clock=time.perf_counter, keep_decisions=decisions is not None,
            )  # fmt: skip
        found.append((run, notes, made))
    for index, (run, notes, made) in enumerate(found):  # after all have run, so that a mistake leaves no file behind
        if decisions:
            write_decisions(_each(decisions, resources, index), made)
        if report:
            from rlscaler_sim.report import write_report

            write_report(run, _each(report, resources, index), notes)
        if plot:
            from rlscaler_sim.plot import write_plot

            write_plot(run, _each(plot, resources, index))
        if not as_json:
            from rlscaler_sim.table import print_table

            if index:
                click.echo()
            print_table(run)
            for note in notes:
                click.echo(f"note: {note}")
    if as_json:
        results = [run.to_json() | {"notes": notes} for run, notes, _ in found]
        click.echo(json.dumps(results[0] if len(results) == 1 else results, indent=2))
    else:
        for written, what in ((report, "page"), (plot, "picture"), (decisions, "decisions")):
            if written:
                click.echo(f"{what}: {written}" + (" and others beside it" if len(resources) > 1 else ""))


def _each(path: str, resources: "Sequence[Resource]", index: int) -> str:
    """Return the file of one of several resources: the first keeps the name, others get theirs before the ending."""
    if index == 0:
        return path
    where, name = Path(path), resources[index].name
    if [r.name for r in resources].count(name) > 1:
        name = f"{resources[index].namespace}-{name}"
    return str(where.with_name(f"{where.stem}-{name}{where.suffix}"))


@contextmanager
def known_policy(option: str | None = None, file: str = "", resource: "Resource | None" = None) -> Iterator[None]:
    """Turn what is wrong with a policy into a user's mistake.

    option: the policy that the command was told; without one it is that of a resource of a file, which is named.
    """
    from rlscaler.policies import PolicyError

    try:
        yield
    except PolicyError as error:
        where = f"{file}: spec.policy of {resource.key}: " if resource is not None and option is None else ""
        raise UserError(f"{where}{error}") from error


def read_traces(paths: Sequence[str], folder: str | None) -> "list[Trace]":
    """Return the traces of the files, and of all files of the folder, since their first load.

    What was changed in reading them is told. Raises UserError that names what is wrong.
    """
    from rlscaler_sim.trace import TraceError, read_trace, since_first_load, trace_files

    files = [Path(p) for p in paths]
    try:
        if folder:
            files += list(trace_files(Path(folder)))
        traces = [since_first_load(read_trace(f)) for f in files]
    except TraceError as error:
        raise UserError(str(error)) from error
    if not traces:
        raise UserError("no trace is named; give --trace FILE, several times if wanted, or --traces FOLDER")
    twice = {t.name for t in traces if [u.name for u in traces].count(t.name) > 1}
    if twice:
        raise UserError(f"two traces are called {sorted(twice)[0]!r}; rename one of the files")
    for trace in traces:
        for warning in trace.warnings:
            click.echo(f"note: {trace.name}: {warning}", err=True)
    return traces


@click.command()
@click.option("--policy", "policies", multiple=True, default=("default",), show_default=True, metavar="NAME|PATH",
              help="Policy to score: a rule's name, or an artifact. May be given several times.")  # fmt: skip
@click.option(
    "--trace", "files", multiple=True, type=click.Path(), metavar="FILE", help="Recorded load; several times."
)
@click.option("--traces", "folder", type=click.Path(), metavar="FOLDER", help="All recorded loads of a folder.")
@click.option("--rules", default="all", show_default=True, metavar="NAMES",
              help="Rules to score beside, separated by commas; the clairvoyant, hpa-tuned and hpa-own, which regret is"
              " measured by, are always there.")  # fmt: skip
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(1), help="Draws of noise of each trace.")
@click.option("--for", "duration", default="14d", type=Seconds(), show_default=True, help="At most this much of each.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes at work.")
@click.option("--startup", default="60s", type=Seconds(), show_default=True, help="Start-up delay of the world.")
@click.option("--scale-to", default=STANDARD_SCALE, show_default=True, callback=_positive,
              help="95th percentile of demand, in replicas.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--output", type=click.Path(), metavar="FILE.json", help="Write the JSON to a file too.")
@click.option("--markdown", type=click.Path(), metavar="FILE.md", help="Write the tables as Markdown.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def evaluate(
    policies: Sequence[str], files: Sequence[str], folder: str | None, rules: str, seeds: int, duration: float,
    jobs: int, startup: float, scale_to: float, as_json: bool, output: str | None, markdown: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Score policies and rules on recorded load, in the standard world.

    Every rule has the constants that were tuned with the trace's source family held out; hpa-own alone is tuned on the
    very trace, and hpa-own-target beside it, whose target is all that it has to tune. Regret is 0 for the clairvoyant
    and 1 for hpa-tuned (regret_own: for hpa-own).

    \b
    Examples:
      rlscaler evaluate --trace load.csv.gz
      rlscaler evaluate --policy runs/mine/policy.rlz --traces recorded/ --seeds 3 --for 3d --json
    """
    from rlscaler.files import require_writable, write_text_atomically

    for path in (output, markdown):
        if path:
            require_writable(path)
    traces = read_traces(files, folder)
    from rlscaler_sim import contenders, evaluation, summary_table
    from rlscaler_sim.load import LoadError

    names: tuple[str, ...] = contenders.NAMES
    if rules.strip() != "all":
        asked = set(names_in(rules, "--rules", RULES_EXAMPLE, or_none=True))
        if unknown := sorted(asked - set(names)):
            raise UserError(f"--rules {unknown[0]}: no such rule; expected {', '.join(names)}")
        names = tuple(n for n in names if n in asked | {"clairvoyant", "hpa-tuned", "hpa-own"})
    if startup > LONGEST_STARTUP:
        raise UserError(f"--startup {startup:g}s: expected at most {LONGEST_STARTUP:g}s, as in a resource")
    began = time.perf_counter()
    try:
        with progress_bar(quiet) as progress, known_policy():
            scored = evaluation.evaluate(
                traces, policies, seeds=range(seeds), duration=duration, scale_to=scale_to,
                settings=contenders.standard_settings(startup), rules=names, jobs=jobs, progress=progress,
            )  # fmt: skip
    except LoadError as error:
        raise UserError(str(error)) from error
    words = " ".join([
        "rlscaler", "evaluate", *(f"--policy {p}" for p in policies),
        *(f"--trace {shlex.quote(Path(f).name)}" for f in files), *(["--traces FOLDER"] if folder else []),
        *([] if rules.strip() == "all" else [f"--rules {shlex.quote(rules)}"]), f"--seeds {seeds}",
        f"--for {whole_text(duration, 'd')}", f"--startup {startup:g}s",
        *([] if scale_to == STANDARD_SCALE else [f"--scale-to {scale_to:.12g}"]),
    ])  # fmt: skip
    result = summary_table.to_json(scored, command=words, seeds=seeds, duration=duration, startup=startup,
                                   scale_to=scale_to, elapsed=time.perf_counter() - began)  # fmt: skip
    text = json.dumps(result, indent=2)
    if output:
        write_text_atomically(output, text + "\n")
    if markdown:
        write_text_atomically(markdown, summary_table.markdown(scored, result["summary"], words))
    if as_json:
        click.echo(text)
    else:
        summary_table.print_summary(scored, result["summary"])


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def scenarios(as_json: bool) -> None:
    """List the loads and the variants of the world that a dry-run can run in.

    They combine: LOAD/VARIANT, sums and products of patterns, and patterns with parameters. A file of YAML or JSON
    states one of your own: load, description, duration, scale_to (replicas that its 95th percentile needs), and world,
    whose keys stand at the end of the list. Training takes it too.

    \b
    Examples:
      rlscaler dry-run -f examples/web.yaml --trace shop.yaml
      rlscaler dry-run -f examples/web.yaml --trace daily+flash-crowd
      rlscaler dry-run -f examples/web.yaml --trace 'spike(every=1h,height=3)/lossy-metrics'
    """
    from rlscaler_sim import patterns
    from rlscaler_sim import scenarios as known
    from rlscaler_sim.scenario_file import SECONDS, WORLD_KEYS
    from rlscaler_sim.world import WorldConfig

    if as_json:
        rows = [
            {
                "name": s.name,
                "kind": kind,
                "description": s.description,
                "seconds": s.duration,
                "world": dict(s.world),
            }
            for kind, table in (("load", known.LOADS), ("variant", known.VARIANTS))
            for s in table.values()
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(len(n) for n in known.names()) + 2
    click.echo("Loads:")
    for s in known.LOADS.values():
        click.echo(f"  {s.name:<{width}}{s.description}")
    click.echo("\nVariants of the world, after a slash (working-day/slow-start):")
    for s in known.VARIANTS.values():
        click.echo(f"  {s.name:<{width}}{s.description}")
    click.echo("\nPatterns to combine by + and *, with their parameters:")
    for name, kind in patterns.PATTERNS.items():
        click.echo(f"  {name}({', '.join(f'{p}={d:g}' for p, d in kind.parameters.items())})")
    click.echo("\nKeys of world in a file, with what the standard world has:")
    standard = WorldConfig()
    for key in WORLD_KEYS:
        click.echo(f"  {key:<22}{str(getattr(standard, key)).lower()}{' s' if key in SECONDS else ''}")


@click.command()
@click.option("--traces", "folder", type=click.Path(), required=True, metavar="FOLDER", help="Recorded training load.")
@click.option("--output", type=click.Path(), required=True, metavar="FILE.json", help="Where to write the constants.")
@click.option("--budget", default=96, show_default=True, type=click.IntRange(2), help="Candidates for each rule.")
@click.option("--rule", "only", multiple=True, metavar="NAME", help="Tune this one, and keep the others' (repeatable).")
@click.option("--for", "duration", default="3d", type=Seconds(), show_default=True, help="At most this much of each.")
@click.option("--seed", default=1000, show_default=True, type=click.IntRange(0), help="Seed of candidates and noise.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1, 64), help="Rules searched at once.")
@click.option("--date", default="", metavar="YYYY-MM-DD", help="Date to note in the provenance.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def tune(
    folder: str, output: str, budget: int, only: tuple[str, ...], duration: float, seed: int, jobs: int, date: str,
    quiet: bool,
) -> None:  # fmt: skip
    """Tune every rule by the same search, with the same budget, on training load only.

    Writes constants tuned on all traces, and for each of three folds those tuned without the fold's source families,
    which 'evaluate' uses on these families. With --rule all others keep the constants that the package has.
    """
    from rlscaler.files import require_writable, write_text_atomically

    require_writable(output)
    from rlscaler_sim import tuner
    from rlscaler_sim.load import LoadError

    for name in only:
        if name not in tuner.tunable():
            raise UserError(f"--rule {name[:80]!r} is none that is tuned; expected {', '.join(tuner.tunable())}")
    traces = read_traces((), folder)
    try:
        with progress_bar(quiet) as progress:
            data = tuner.tune(
                traces, budget=budget, duration=duration, seed=seed, date=date, only=only, jobs=jobs, progress=progress
            )
    except LoadError as error:
        raise UserError(f"{folder}: {error}") from error
    write_text_atomically(output, json.dumps(data, indent=1) + "\n")
    click.echo(f"constants: {output}")
