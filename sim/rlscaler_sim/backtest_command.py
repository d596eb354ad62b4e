"""The command `rlscaler backtest`: a workload's own past, decided again."""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rlscaler.errors import UserError
from rlscaler.quantities import duration_text
from rlscaler.ranges import FiniteRange
from rlscaler_sim.commands import Seconds, compared_with, known_policy, progress_bar

if TYPE_CHECKING:
    from rlscaler.custom_resource import Resource
    from rlscaler_sim.recorded import Past
    from rlscaler_sim.trace import Trace


@click.command()
@click.option("-f", "--file", "file", type=click.Path(allow_dash=True), required=True,
              help="YAML file of one RLScaler resource, the same that is applied to a cluster.")  # fmt: skip
@click.option("--name", metavar="NAMESPACE/NAME", help="Which resource, where the file holds several.")
@click.option("--prometheus", "url", metavar="URL", help="Prometheus that holds the past of the resource's queries.")
@click.option("--config", "config", type=click.Path(), metavar="FILE",
              help="The operator's configuration instead: its source that spec.metrics.source names, with"
              " credentials.")  # fmt: skip
@click.option("--trace", metavar="FILE.csv", help="Recorded load in a CSV file instead of a Prometheus.")
@click.option("--replicas", metavar="QUERY|FILE.csv",
              help="What was asked for at the time: a PromQL query (kube-state-metrics' by default), with --trace a CSV"
              " file.")  # fmt: skip
@click.option("--last", default="7d", type=Seconds(), show_default=True, help="How far to look back in a Prometheus.")
@click.option("--until", metavar="TIME", help="End of the past, such as 2026-05-01T00:00:00Z; now otherwise.")
@click.option("--policy", metavar="NAME|PATH", help="Policy to try instead of the resource's: a rule, or an artifact.")
@click.option("--compare", default="hpa,hpa-tuned,keda", show_default=True, metavar="NAMES",
              help="Whom to compare with, separated by commas; 'all' for everyone.")  # fmt: skip
@click.option("--capacity-error", default=0.0, show_default=True, type=FiniteRange(0.0, 0.9), metavar="SHARE",
              help="How far capacity.perReplica may be off: 0.1 shows the figures for 10 % less and more.")  # fmt: skip
@click.option("--profile", "profile", type=click.Path(), metavar="FILE.json",
              help="Profile that 'rlscaler calibrate' wrote: its capacity and start-up take the place of the resource's"
              ", the figures are shown for the ends of their intervals, and its readings are the past where no "
              "other is named.")  # fmt: skip
@click.option("--price", type=FiniteRange(0.0, min_open=True), help="Price of a replica-hour, to tell money.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of what is simulated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@click.option("--decisions", type=click.Path(), metavar="FILE.jsonl", help="Write every decision of the policy.")
@click.option("--report", type=click.Path(), metavar="FILE.html", help="Write an interactive page.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def backtest(
    file: str, name: str | None, url: str | None, config: str | None, trace: str | None, replicas: str | None,
    last: float, until: str | None, policy: str | None, compare: str, capacity_error: float,
    profile: str | None, price: float | None, seed: int, as_json: bool, decisions: str | None,
    report: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Decide a workload's own past again, beside what was done then and the rules you could use instead.

    The readings are the recorded ones; what a decision would have cost and broken is told by the simulated world, for
    the recorded replicas too. Only range queries are made: nothing is written, in a cluster or elsewhere.

    \b
    Examples:
      rlscaler backtest -f web.yaml --prometheus http://127.0.0.1:9090 --last 30d
      rlscaler backtest -f web.yaml --prometheus http://127.0.0.1:9090 --report web.html --price 0.08
      rlscaler backtest -f web.yaml --trace load.csv --replicas replicas.csv
    """
    from rlscaler.custom_resource import load_resources
    from rlscaler.files import require_apart, require_ending, require_writable

    places = sum(given is not None for given in (url, config, trace))
    if places > 1 or not (places or profile):
        raise UserError("where is the past? name one of --prometheus URL, --config FILE and --trace FILE.csv")
    if url is None and config is None:
        take_all_of_a_file()
        if replicas is not None and not trace:
            raise UserError(
                f"--replicas {replicas}: the readings of --profile have replicas of their own; leave it out, or name "
                "the past by --prometheus or --trace"
            )
    require_apart({"--decisions": decisions, "--report": report},
                  {"-f": file, "--config": config, "--trace": trace, "--replicas": replicas, "--profile": profile,
                   "--policy": policy})  # fmt: skip
    require_ending({"--report": report}, ".html", ".htm")
    for path in filter(None, (decisions, report)):
        require_writable(path)
    resource = chosen_resource(load_resources(file), file, name)
    from rlscaler_sim.profiled import capacity_factors, recorded_past, startup_ends, with_profile

    factors: tuple[float, ...] = ()
    startups: tuple[float, ...] = ()
    known = None
    if profile:
        resource, known = with_profile(resource, profile)
        factors = () if capacity_error else capacity_factors(known)
        startups = startup_ends(known)
    past: Past | Trace
    if trace:
        past, beside = _from_files(resource, trace, replicas)
        source = " and ".join(filter(None, (trace, replicas)))
    elif profile and known is not None and not places:
        past, beside, source = recorded_past(known, profile, resource), None, profile
    else:
        past, beside = _asked(resource, url, config, replicas, last, until), None
        source = str(source_of(resource, url, config).url)
    from rlscaler_sim import backtest as driver
    from rlscaler_sim import backtest_words as words
    from rlscaler_sim.run_record import write_decisions

    names = compared_with(compare)
    with progress_bar(quiet) as progress, known_policy(policy, file, resource):
        outcome, brackets = driver.backtest(
            resource, past, beside, policy=policy, compare=names, seed=seed, capacity_error=capacity_error,
            factors=factors, startups=startups, processes=2, progress=progress, keep_decisions=decisions is not None,
            clock=time.perf_counter,
        )  # fmt: skip
    run, notes, made = outcome
    origin = words.origin(past, resource.spec.interval, source, asked=bool(url or config))
    if decisions:
        write_decisions(decisions, made)
    if report:
        from rlscaler_sim.report import write_report

        write_report(run, report, notes, words.frame(run, brackets, price, origin))
    if as_json:
        found = {"past": origin.to_json(), **driver.told(outcome, brackets, price)}
        click.echo(json.dumps({**run.to_json(), **found}, indent=2))
        return
    from rlscaler_sim.table import print_table

    click.echo(f"past: {words.past(origin)}")
    print_table(run)
    for line in words.lines(run, brackets, price):
        click.echo(line)
    for note in notes:
        click.echo(f"note: {note}")
    for written, what in ((report, "page"), (decisions, "decisions")):
        if written:
            click.echo(f"{what}: {written}")


def take_all_of_a_file() -> None:
    """Raise UserError where the command is told how far to look back, though it reads files."""
    context = click.get_current_context()
    for option in ("last", "until"):
        if context.get_parameter_source(option) is not ParameterSource.DEFAULT:
            given = context.params[option]
            shown = duration_text(given) if isinstance(given, float) else given
            raise UserError(
                f"--{option} {shown}: looks back in a Prometheus, and of a file all of it is taken; leave the option "
                "out, or cut the file"
            )


def require_span(last: float, interval: float) -> None:
    """Raise UserError where looking back so many seconds meets less than two readings, `interval` seconds apart."""
    if last < 2.0 * interval:
        raise UserError(f"--last {duration_text(last)}: readings are {duration_text(interval)} apart; expected a span "
                        "of many, such as 14d")  # fmt: skip


def chosen_resource(resources: "Sequence[Resource]", file: str, name: str | None) -> "Resource":
    """Return the one resource that is meant; raises UserError."""
    keys = ", ".join(resource.key for resource in resources)
    if name is None:
        if len(resources) == 1:
            return resources[0]
        raise UserError(f"{file} holds {len(resources)} resources: {keys}; say which by --name")
    found = [resource for resource in resources if name in (resource.key, resource.name)]
    if len(found) != 1:
        raise UserError(f"--name {name}: {file} holds {keys}")
    return found[0]


def _from_files(resource: "Resource", load: str, replicas: str | None) -> "tuple[Past | Trace, Trace | None]":
    """Return what two CSV files hold; raises UserError."""
    from rlscaler_sim.recorded import from_traces
    from rlscaler_sim.trace import TraceError, read_trace

    try:
        recorded = read_trace(load)
        counts = read_trace(replicas) if replicas else None
    except TraceError as error:
        raise UserError(str(error)) from error
    past = from_traces(recorded, counts, resource.spec.interval)
    return (past, None) if past is not None else (recorded, counts)


def _asked(
    resource: "Resource", url: str | None, config: str | None, replicas: str | None, last: float, until: str | None
) -> "Past":
    """Return what a Prometheus holds; raises UserError."""
    try:
        from rlscaler.prometheus import Source, SourceError
    except ModuleNotFoundError as error:
        raise UserError(
            f"a backtest from Prometheus needs {error.name}: pip install 'rlscaler[operator]', or bring a CSV file by "
            "--trace"
        ) from error
    from rlscaler_sim.recorded import from_prometheus

    require_span(last, resource.spec.interval)
    end = moment(until) if until else time.time()
    source = Source(source_of(resource, url, config))
    try:
        skew = source.server_time() - time.time()
        found = from_prometheus(source, resource, end - last, end, replicas, skew)
    except SourceError as error:
        raise UserError(f"{'--config' if url is None else '--prometheus'}: {error}") from error
    finally:
        source.close()
    return found


def source_of(resource: "Resource", url: str | None, config: str | None) -> Any:
    """Return the configuration of the source; raises UserError."""
    from rlscaler.prometheus_config import source_config, source_configs

    if url is not None:
        return source_config(url, "--prometheus")
    path, wanted = Path(str(config)), resource.spec.metrics.source
    written = _configuration(path)
    sources = written.get("sources") if isinstance(written, dict) else None
    if not isinstance(sources, dict):
        raise UserError(f"--config {path}: sources is missing; expected the operator's configuration")
    found = source_configs(sources, f"{path}: sources")
    if wanted not in found:
        raise UserError(f"spec.metrics.source is {wanted}; {path} has {', '.join(sorted(found))}")
    return found[wanted]


def _configuration(path: Path) -> Any:
    """Return what a file of the operator's configuration holds; raises UserError."""
    import yaml

    from rlscaler.yaml_nodes import YamlError, documents, require_small

    try:
        text = path.read_text(encoding="utf-8-sig")
        for root in documents(text):  # a mistake is told in one line, with its place
            require_small(root)
        return yaml.safe_load(text)
    except YamlError as error:
        raise UserError(f"--config {path}{f':{error.line}' if error.line else ''}: {error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--config {path}: not UTF-8 text; save the file as UTF-8") from error
    except OSError as error:
        raise UserError(f"--config {path}: cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError) as error:  # such as a second document, or a date that is none
        raise UserError(f"--config {path}: not usable: {' '.join(str(error).split())}") from error


def moment(text: str) -> float:
    """Return seconds since the epoch; raises UserError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"--until {text}: expected a time such as 2026-05-01T00:00:00Z") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
