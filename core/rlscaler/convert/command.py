"""The command `rlscaler convert`: a first RLScaler of the autoscaler that there is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rlscaler.convert.draft import Options


@click.command()
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(allow_dash=True),
    help="YAML or JSON file of HorizontalPodAutoscalers and ScaledObjects; - is the standard input. May be given "
    "several times.",
)
@click.option(
    "--load", metavar="QUERY", help="PromQL of the load, in place of what is measured now; for one autoscaler."
)
@click.option(
    "--capacity", metavar="RATE", help="What a replica serves at full use, in the unit of the load; for one autoscaler."
)
@click.option(
    "--startup",
    metavar="TIME",
    help="Time from a pod's creation until it serves, for one autoscaler; learned otherwise.",
)
@click.option("--source", metavar="NAME", default="default", show_default=True,
              help="Name of the Prometheus source in the operator's configuration.")  # fmt: skip
@click.option("--out", type=click.Path(), metavar="FILE.yaml", help="Write the resources there, and print none.")
@click.pass_context
def convert(
    ctx: click.Context, files: Sequence[str], load: str | None, capacity: str | None, startup: str | None, source: str,
    out: str | None,
) -> None:  # fmt: skip
    """Make RLScaler resources of HorizontalPodAutoscalers and of KEDA's ScaledObjects.

    Mode is Shadow, so that they decide beside what scales now and write nothing. A comment tells where each value comes
    from, DECIDE marks what nobody has said yet, and what is not carried over is told there and on the standard error.
    Where Deployments are given too, their CPU requests are read. An autoscaler without any load is left out, which
    ends with 2; the others are written. Cluster and Prometheus are not asked.

    \b
    Examples:
      kubectl get hpa,deployment -n shop -o yaml | rlscaler convert -f - > shop.yaml
      rlscaler convert -f hpa.yaml --out web.yaml && rlscaler validate -f web.yaml
      rlscaler convert -f worker.yaml --load 'sum(rate(jobs_created_total[2m]))' --capacity 2.5
    """
    from rlscaler.convert.converting import convert as converted
    from rlscaler.convert.page import page
    from rlscaler.custom_resource import parse_resources
    from rlscaler.files import require_apart, require_ending, require_writable, write_text_atomically
    from rlscaler.quantities import printable

    options = _options(load, capacity, startup, source)
    if out is not None:
        require_ending({"--out": out}, ".yaml", ".yml")
        for file in files:
            require_apart({"--out": out}, {"-f": None if file == "-" else file})
        require_writable(out)
    found = converted(_contents(files), options)
    pages = [page(each) for each in found.drafts]
    for each, made in zip(found.drafts, pages, strict=True):
        parse_resources(made, f"what becomes of {each.autoscaler.key}")
    text = "---\n".join(pages)
    for line in found.passed:
        click.echo(printable(line), err=True)
    for each in found.drafts:
        click.echo(printable(each.summary), err=True)
        for note in each.notes:
            click.echo(printable(f"note: {each.autoscaler.key}: {note}"), err=True)
    if found.drafts:
        if out is None:
            click.echo(text, nl=False)
        else:
            write_text_atomically(out, text)
    for line in found.refused:
        click.echo(f"error: {printable(line)}", err=True)
    if found.refused:
        ctx.exit(2)


def _contents(files: Sequence[str]) -> list[tuple[str, bytes]]:
    """Return what messages call each file, and what is in it; raises UserError for each that cannot be read."""
    from rlscaler.convert.objects import EXPECTED
    from rlscaler.errors import UserError
    from rlscaler.input_text import contents, file_called
    from rlscaler.yaml_nodes import YamlError

    out, errors = [], []
    for file in files:
        try:
            out.append((file_called(file), contents(file, EXPECTED)))
        except YamlError as error:
            errors.append(f"{file_called(file)}: {error}")
    if errors:
        raise UserError("\n".join(errors))
    return out


def _options(load: str | None, capacity: str | None, startup: str | None, source: str) -> "Options":
    """Return the options once each is what the resource takes; raises UserError naming the one that is not."""
    from rlscaler.convert.draft import LONGEST_LATENCY, MOST_CAPACITY, Options
    from rlscaler.errors import UserError
    from rlscaler.resource_fields import LABEL_NAME, PROMQL
    from rlscaler.resource_values import DURATION, QUANTITY, Amount, Kind, Place, Report
    from rlscaler.yaml_nodes import from_object

    least = 1.0 / LONGEST_LATENCY
    kinds: dict[str, tuple[str | None, Kind]] = {
        "--load": (load, PROMQL),
        "--capacity": (capacity, Amount(QUANTITY, round(1.01 * least, 6), MOST_CAPACITY)),
        "--startup": (startup, Amount(DURATION, 0, 3600)),
        "--source": (source, LABEL_NAME),
    }
    for option, (value, kind) in kinds.items():
        report = Report()
        if value is not None:
            kind.read(from_object(value), Place(option, None), report)
        if report.problems:
            raise UserError(f"{option}: {report.problems[0].text}")
    return Options(load, capacity, startup, source)
