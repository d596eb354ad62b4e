"""The command `rlscaler calibrate`: what a workload's own past tells of it, as a profile, a page and a manifest."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlscaler.errors import UserError
from rlscaler_sim.commands import Seconds

if TYPE_CHECKING:
    from rlscaler.custom_resource import Resource
    from rlscaler.profile import Profile
    from rlscaler_sim.calibrating import Calibration

SHOWN = "QUERY|FILE.csv"


@click.command()
@click.option("-f", "--file", "file", type=click.Path(allow_dash=True),
              help="YAML file of one RLScaler resource, whose queries are asked.")  # fmt: skip
@click.option("--name", metavar="NAMESPACE/NAME", help="Which resource, where the file holds several.")
@click.option("--prometheus", "url", metavar="URL", help="Prometheus that holds the past.")
@click.option("--config", type=click.Path(), metavar="FILE",
              help="The operator's configuration instead: its source that spec.metrics.source names, with"
              " credentials.")  # fmt: skip
@click.option("--load", metavar=SHOWN, help="Requests/s of the whole workload: a query, or a CSV file where no "
              "Prometheus is named.  [default: the resource's query]")  # fmt: skip
@click.option("--utilization", metavar=SHOWN, help="Share of the ready replicas' capacity in use, 0 to 1; the capacity "
              "needs it.")  # fmt: skip
@click.option("--latency", metavar=SHOWN, help="Latency in seconds, which the capacity is held against.")
@click.option("--replicas", metavar=SHOWN, help="Replicas that were asked for.  [default: kube-state-metrics']")
@click.option("--ready", metavar=SHOWN, help="Replicas that were ready.  [default: kube-state-metrics']")
@click.option("--interval", type=Seconds(), help="Seconds between readings.  [default: the resource's, or 15s]")
@click.option("--last", default="14d", type=Seconds(), show_default=True, help="How far to look back in a Prometheus.")
@click.option("--until", metavar="TIME", help="End of the past, such as 2026-05-01T00:00:00Z; now otherwise.")
@click.option("--output", type=click.Path(), metavar="FILE.json", help="Write the profile, and its readings beside it.")
@click.option("--report", type=click.Path(), metavar="FILE.html", help="Write a page with the fits over the data.")
@click.option("--manifest", type=click.Path(), metavar="FILE.yaml",
              help="Write the resource with capacity.perReplica and startup filled in.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def calibrate(
    file: str | None, name: str | None, url: str | None, config: str | None, load: str | None, utilization: str | None,
    latency: str | None, replicas: str | None, ready: str | None, interval: float | None, last: float,
    until: str | None, output: str | None, report: str | None, manifest: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Tell from a workload's past what a replica serves, how long it starts, and how its load behaves.

    Each figure has a 95 % interval; what the data cannot tell is said, and not guessed. The estimators are the
    operator's. The profile is read by 'dry-run --profile', 'backtest --profile' and training. Only range queries are
    made: nothing is written, in a cluster or elsewhere.

    \b
    Examples:
      rlscaler calibrate -f web.yaml --prometheus http://127.0.0.1:9090 --output web.json --report web.html
      rlscaler calibrate -f web.yaml --prometheus http://127.0.0.1:9090 --manifest web-calibrated.yaml
      rlscaler calibrate --load load.csv --utilization use.csv --replicas asked.csv --ready ready.csv
    """
    from rlscaler.custom_resource import load_resources
    from rlscaler.files import require_apart, require_ending, require_writable, write_text_atomically
    from rlscaler_sim.backtest_command import chosen_resource, take_all_of_a_file

    if url is not None and config is not None:
        raise UserError("--prometheus and --config are both given; name one of them")
    if manifest is not None and (file is None or file == "-"):
        raise UserError("--manifest writes a resource: name its file by -f")
    if interval is not None and not 1.0 <= interval <= 3600.0:
        raise UserError(f"--interval {interval:g}s: expected 1s to 1h")
    outputs = {"--output": output, "--report": report}
    inputs = {"--config": config, "--load": load, "--utilization": utilization, "--latency": latency,
              "--replicas": replicas, "--ready": ready}  # fmt: skip
    require_apart(outputs, {"-f": file, **inputs})
    require_apart({**outputs, "--manifest": manifest}, inputs)  # a resource may be filled in where it stands
    require_ending({"--report": report}, ".html", ".htm")
    for path in filter(None, (output, report, manifest)):
        require_writable(path)
    if report:
        from rlscaler_sim.page import plotly_source

        plotly_source("the report")  # before minutes are spent
    resource = chosen_resource(load_resources(file), file, name) if file is not None else None
    named = {"load": load, "utilization": utilization, "latency": latency, "replicas": replicas, "ready": ready}
    given = {key: value for key, value in named.items() if value is not None}
    if url is not None or config is not None:
        found = _asked(resource, url, config, given, interval, last, until)
    elif load is not None:
        take_all_of_a_file()
        found = _from_files(resource, given, interval)
    else:
        raise UserError("where is the past? name one of --prometheus URL, --config FILE and --load FILE.csv")
    filled = _manifest(found.profile, resource, str(file)) if manifest is not None else None
    if resource is not None:
        found = _with_stated(found, resource)
    profile = found.profile
    if report:  # first, as it is by far the largest, which a full disk refuses before anything else is there
        from rlscaler_sim.calibration_page import write_page

        write_page(found, report)
    if output:
        from rlscaler import profile as profiles

        profile = profiles.write(profile, found.recording, output)
    if manifest is not None and filled is not None:
        write_text_atomically(manifest, filled)
    if as_json:
        from rlscaler.profile import to_json

        click.echo(json.dumps(to_json(profile), indent=2))
        return
    _print(profile)
    for written, what in ((output, "profile"), (manifest, "manifest"), (report, "page")):
        if written:
            click.echo(f"{what}: {written}")


def _asked(
    resource: "Resource | None", url: str | None, config: str | None, given: Mapping[str, str], interval: float | None,
    last: float, until: str | None,
) -> "Calibration":  # fmt: skip
    """Return what a Prometheus tells; raises UserError."""
    from rlscaler_sim import calibrating
    from rlscaler_sim.backtest_command import moment, require_span, source_of
    from rlscaler_sim.recorded import averaged_over

    try:
        from rlscaler.prometheus import Source, SourceError
    except ModuleNotFoundError as error:
        raise UserError(
            f"calibration from Prometheus needs {error.name}: pip install 'rlscaler[operator]', or bring CSV files by "
            "--load and the others"
        ) from error
    queries = {key: given[key] for key in ("load", "utilization", "latency") if key in given}
    if resource is None:
        if "load" not in queries:
            raise UserError("what is the load? name its query by --load, or a resource by -f")
        resource = calibrating.nameless(queries, interval or 15.0)
    else:
        resource = _with(resource, queries, interval)
    require_span(last, resource.spec.interval)
    end = moment(until) if until else time.time()
    settings = source_of(resource, url, config)
    source = Source(settings)
    try:
        skew = source.server_time() - time.time()
        past, recording = calibrating.from_prometheus(source, resource, end - last, end, given, skew)
    except SourceError as error:
        raise UserError(f"{'--config' if url is None else '--prometheus'}: {error}") from error
    finally:
        source.close()
    window = averaged_over(resource.spec.metrics.load.query)
    return calibrating.calibrate(past, recording, str(settings.url), _version(), window=window)


def _with(resource: "Resource", queries: Mapping[str, str], interval: float | None) -> "Resource":
    """Return the resource with other queries, and another interval."""
    from rlscaler_sim import calibrating

    metrics = resource.spec.metrics
    if queries:
        others = calibrating.nameless({"load": metrics.load.query, **queries}, 15.0).spec.metrics
        metrics = replace(metrics, **{key: getattr(others, key) for key in queries})
    spec = replace(resource.spec, metrics=metrics, interval=interval or resource.spec.interval)
    return replace(resource, manifest=replace(resource.manifest, spec=spec))


def _from_files(resource: "Resource | None", given: Mapping[str, str], interval: float | None) -> "Calibration":
    """Return what CSV files tell; raises UserError."""
    from rlscaler_sim import calibrating
    from rlscaler_sim.trace import TraceError, read_trace

    try:
        traces = {key: read_trace(path) for key, path in given.items()}
    except TraceError as error:
        raise UserError(f"{error} (with --prometheus URL, a query)") from error
    stated = resource.spec.interval if resource is not None else 15.0
    load = traces.pop("load")
    past, recording = calibrating.from_traces(load, traces, interval or stated)
    if resource is not None:
        past = replace(past, name=resource.key)
    return calibrating.calibrate(past, recording, ", ".join(Path(path).name for path in given.values()), _version())


def _with_stated(found: "Calibration", resource: "Resource") -> "Calibration":
    """Return what was found, and what the resource states where the data tell nothing."""
    from rlscaler import profile as profiles

    known, profile = resource.spec.capacity, found.profile
    capacity, startup = (profiles.stated(profile.capacity, known.per_replica),
                         profiles.stated(profile.startup, known.startup))  # fmt: skip
    return replace(found, profile=replace(profile, capacity=capacity, startup=startup))


def _manifest(profile: "Profile", resource: "Resource | None", file: str) -> str:
    """Return the text of the resource with what the profile tells; raises UserError where that is nothing."""
    from rlscaler.custom_resource import ResourceError, parse_resources
    from rlscaler.manifest_edit import with_capacity
    from rlscaler.quantities import duration_text

    assert resource is not None, "a manifest is of a file"
    capacity, startup = profile.capacity, profile.startup
    if capacity.value is None and startup.value is None:
        raise UserError(f"--manifest: nothing is known to fill in: {capacity.why}; {startup.why}")
    rounded = None if capacity.value is None else f"{float(f'{capacity.value:.3g}'):.12f}".rstrip("0").rstrip(".")
    seconds = None if startup.value is None else duration_text(max(1, round(startup.value)))
    text = with_capacity(Path(file).read_text("utf-8-sig"), resource.source.document, rounded, seconds)
    try:
        parse_resources(text, file)
    except ResourceError as error:
        raise UserError(f"--manifest: with what was learned the resource would be refused: {error}") from error
    return text


def _version() -> str:
    from rlscaler.cli import version_of

    return str(version_of("rlscaler"))


def _print(profile: "Profile") -> None:
    """Print the table, and what is worth knowing of the data."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rlscaler_sim import calibration_words
    from rlscaler_sim.table import writer

    console = Console()
    write = writer(ascii_only=not console.encoding.lower().startswith("utf"))
    console.print(Text(write(f"{profile.workload}, from {profile.source}"), style="bold"))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for row in calibration_words.rows(profile):
        value = f"{row.value} ({row.interval})" if row.interval else row.value
        table.add_row(Text(write(row.name), style="dim"),
                      Text.assemble((write(value), "bold"), "\n", (write(row.why), "dim")))  # fmt: skip
    console.print(table)
    console.print()
    console.print(Text(write(calibration_words.headline(profile)[0]), style="bold"))
    for note in profile.notes:
        click.echo(write(f"note: {note}"))
