"""The commands that speak to a cluster.

Everything but click is imported inside the commands, so that each starts as fast as what it needs.
"""

import contextlib
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rlscaler.errors import UserError
from rlscaler.quantities import printable
from rlscaler.ranges import FiniteRange

if TYPE_CHECKING:
    from rlscaler.settings import Settings
    from rlscaler_operator.api_errors import ClusterError
    from rlscaler_operator.cluster import Cluster
    from rlscaler_operator.logs import Form

T = TypeVar("T")

WIDEST = 100
"""Columns of prose; longer lines are hard to read."""


def _cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--context", metavar="NAME", help="Context of the kubeconfig."),
        click.option("--kubeconfig", metavar="FILE", help="The kubeconfig; KUBECONFIG or ~/.kube/config by default."),
    ):
        command = option(command)
    return command


@click.command()
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The operator's configuration, YAML.")
@click.option("--policies", type=click.Path(path_type=Path), metavar="DIR", help="Folder of policies, NAME.rlz.")
@click.option("--namespace", "namespaces", multiple=True, metavar="NS", help="Watch this namespace only; repeatable.")
@click.option("--listen", default="127.0.0.1:8080", show_default=True, help="Where /metrics, /healthz, /readyz are.")
@click.option("--lease-namespace", default="default", show_default=True, metavar="NS",
              help="Namespace of the Lease, of what is kept, and of policies in ConfigMaps.")  # fmt: skip
@click.option("--lease-name", default="rlscaler", show_default=True, metavar="NAME", help="Name of the Lease.")
@click.option("--lease-duration", default=15.0, show_default=True, type=FiniteRange(1.0, 300.0), metavar="SECONDS",
              help="Time after which another replica takes over from one that is gone.")  # fmt: skip
@click.option("--identity", default="", envvar="POD_NAME", metavar="NAME", help="Who holds the Lease; the host's name.")
@click.option("--decisions", type=click.Path(path_type=Path), metavar="FILE.jsonl",
              help="Append every decision to this file, as 'rlscaler dry-run --decisions' writes it.")  # fmt: skip
@click.option("--decisions-megabytes", default=100, show_default=True, type=click.IntRange(1), metavar="N",
              help="Most of that file; it is then renamed to FILE.jsonl.1 and begun anew.")  # fmt: skip
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
              show_default=True)  # fmt: skip
@_cluster_options
def run(log_format: "Form", log_level: str, lease_duration: float, **given: Any) -> None:
    """Scale the workloads of a cluster: the operator.

    Watches RLScaler resources, reads their load from Prometheus, decides and, where mode is Active, writes replicas.
    In a pod it takes the pod's service account; elsewhere a kubeconfig.

    \b
    Examples:
      rlscaler run --config config.yaml
      rlscaler run --config config.yaml --namespace shop --kubeconfig ~/.kube/config
    """
    import asyncio

    from rlscaler_operator.logs import configure
    from rlscaler_operator.running import Options
    from rlscaler_operator.running import run as run_operator

    options = Options(lease_seconds=lease_duration, **given)
    configure(log_format, log_level)
    asyncio.run(run_operator(options))


@click.command()
@click.argument("name", required=False)
@click.option("-n", "--namespace", metavar="NS", help="Its namespace; the context's by default.")
@click.option("-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
@click.option("--decision", "log", type=click.Path(), metavar="FILE.jsonl",
              help="Explain a recorded decision instead, of a log by --decisions; no cluster is asked.")  # fmt: skip
@click.option("--at", default="last", show_default=True, metavar="TIME",
              help="Which of its decisions: 2026-05-01T14:32:00Z, 14:32 (UTC), seconds since 1970, last.")  # fmt: skip
@click.option("--workload", metavar="NAMESPACE/NAME", help="Whose decision, where the log has several workloads.")
@click.option("--policy", metavar="NAME|PATH", help="The policy that decided, where the log does not lead to it.")
@click.option("-f", "--file", "file", type=click.Path(allow_dash=True), metavar="FILE",
              help="YAML file with the RLScaler, for an older log that does not tell its settings.")  # fmt: skip
@_cluster_options
def explain(
    name: str | None, namespace: str | None, output: str, as_json: bool, log: str | None, at: str,
    workload: str | None, policy: str | None, file: str | None, kubeconfig: str | None, context: str | None,
) -> None:  # fmt: skip
    """Tell a decision on a workload in words: what was seen, wanted, allowed and done.

    NAME is that of the RLScaler, whose last decision is told. With --decision FILE it is a recorded one, of which is
    also told what moved it and what would have changed it.

    \b
    Examples:
      rlscaler explain web -n shop
      rlscaler explain web -n shop -o json | jq .decision
      rlscaler explain --decision decisions.jsonl --at 14:32
      rlscaler explain --decision decisions.jsonl --at last --workload shop/web --json
    """
    output = "json" if as_json else output
    if (name is None) == (log is None):
        raise UserError("explain what? name an RLScaler, or a log of decisions by --decision FILE.jsonl"
                        + (", not both" if name else ""))  # fmt: skip
    if log is not None:
        from rlscaler.explained_decision import explanation
        from rlscaler.explained_decision import told as page

        value = explanation(log, at, workload=workload, policy=policy, settings=_settings_of(file))
        if output == "text":
            click.echo("\n".join(map(printable, page(value))))
        else:
            _print_value(value, output)
        return
    assert name is not None
    from rlscaler_operator.explaining import explained, told
    from rlscaler_operator.model import Key

    cluster, here = _connected(kubeconfig, context)
    key = Key(namespace or here, name)
    found = explained(_asked(cluster, lambda: cluster.get_rlscaler(key)), time.time())
    if output == "text":
        _print_told(told(found))
    else:
        _print_value(found, output)


def _print_value(value: Mapping[str, Any], output: str) -> None:
    """Print plain values as JSON or YAML."""
    if output == "json":
        click.echo(json.dumps(value, indent=2))
        return
    import yaml

    click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip("\n"))


def _settings_of(file: str | None) -> "Callable[[str], Settings] | None":
    """Return what makes a workload's settings of a file of resources; None without one. Raises UserError."""
    if file is None:
        return None
    from rlscaler.custom_resource import load_resources, to_settings

    resources = load_resources(file)

    def of(workload: str) -> "Settings":
        found = [each for each in resources if each.key == workload] or (resources if len(resources) == 1 else [])
        if not found:
            keys = ", ".join(each.key for each in resources) or "none"
            raise UserError(f"{file} holds {keys}; expected {workload or 'one resource alone'}")
        return to_settings(found[0])

    return of


@click.command()
@click.option("-n", "--namespace", metavar="NS", help="Of this namespace; the context's by default.")
@click.option("-A", "--all-namespaces", is_flag=True, help="Of all namespaces.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@_cluster_options
def status(
    namespace: str | None, all_namespaces: bool, output: str, kubeconfig: str | None, context: str | None
) -> None:
    """List all RLScalers, those that need somebody first.

    \b
    Examples:
      rlscaler status -n shop
      rlscaler status -A -o json | jq '.[] | select(.urgency < 6)'
    """
    from rlscaler_operator.explaining import sorted_overviews

    if all_namespaces and namespace is not None:
        raise UserError(f"both --namespace {namespace} and --all-namespaces are given; expected one of them")
    cluster, here = _connected(kubeconfig, context)
    where = None if all_namespaces else namespace or here
    rows = sorted_overviews(_asked(cluster, lambda: cluster.list_rlscalers(where)), time.time())
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        _print_overview(rows, namespaced=all_namespaces)
    else:
        place = "any namespace" if where is None else f"namespace {where}"
        click.echo(f"There is no RLScaler in {place}.", err=True)


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path), metavar="FILE.rlz")
@click.option("--name", metavar="NAME", help="Name of the policy, as spec.policy.name has it.  [default: its own]")
@click.option("--configmap", metavar="NAME", help="The ConfigMap, made where there is none.  [default: policy-NAME]")
@click.option("-n", "--namespace", metavar="NS", help="The operator's namespace; the context's by default.")
@click.option("--folder", type=click.Path(path_type=Path), metavar="DIR",
              help="A folder that the operator mounts, instead of a ConfigMap; no cluster is asked.")  # fmt: skip
@click.option("--any-score", is_flag=True, help="Also where it says that it is no better than the rule it corrects.")
@click.option("--force", is_flag=True, help="Also where somebody else wrote that key of the ConfigMap.")
@_cluster_options
def publish(
    artifact: Path, name: str | None, configmap: str | None, namespace: str | None, folder: Path | None,
    any_score: bool, force: bool, kubeconfig: str | None, context: str | None,
) -> None:  # fmt: skip
    """Put a policy where the operator reads it: into a ConfigMap of its namespace, or into the folder that it mounts.

    It is checked as the operator checks it. Within some ten seconds it decides for every resource whose
    spec.policy.name is its name and that pins no other digest. A ConfigMap takes 1 MiB, a folder more.

    \b
    Examples:
      rlscaler publish runs/web-1/policy.rlz --name web -n rlscaler
      kubectl patch rls web -n shop --type merge -p '{"spec":{"policy":{"name":"web"}}}'
    """
    from rlscaler_operator import publishing
    from rlscaler_operator.api_errors import ClusterError
    from rlscaler_operator.connection import Connection

    if folder is not None and (configmap or namespace):
        raise UserError("--folder is given with a ConfigMap or its namespace; expected one place")
    policy = publishing.prepared(artifact, name, any_score=any_score)
    if folder is not None:
        put = str(publishing.into_folder(folder, policy))
    else:
        where, into = namespace or _namespace(kubeconfig, context), configmap or publishing.own_config_map(policy.name)
        publishing.require_place(where, into, policy)
        connection = Connection.open(kubeconfig, context, timeout=30.0)
        try:
            publishing.into_config_map(connection, where, into, policy, force=force)
        except ClusterError as error:
            raise UserError(_to_a_person(error)) from error
        finally:
            connection.close()
        put = f"ConfigMap {where}/{into}, key {policy.name}.rlz"
    click.echo(f"{put}: {len(policy.data):,} bytes")
    click.echo(f'use it by spec.policy: {{name: {policy.name}, digest: "{policy.digest}"}}')


def _connected(kubeconfig: str | None, context: str | None) -> "tuple[Cluster, str]":
    """Return the cluster, and the namespace that is meant where none is named."""
    from rlscaler_operator.cluster import Cluster

    return Cluster.connect(kubeconfig, context), _namespace(kubeconfig, context)


def _namespace(kubeconfig: str | None, context: str | None) -> str:
    """Return the namespace of the context, or of the pod that we run in; `default` where neither says one."""
    from kubernetes import config

    try:
        # What the package itself takes from KUBECONFIG it took when it was imported.
        files = kubeconfig or os.environ.get("KUBECONFIG")
        found: Any = config.list_kube_config_contexts(files)  # type: ignore[no-untyped-call]
    except Exception:  # in a pod, or the file is broken in any way, which `credentials` tells where it is needed
        with contextlib.suppress(OSError):
            return Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip() or "default"
        return "default"
    contexts, active = found
    chosen = next((each for each in contexts if each["name"] == context), active)
    return str((chosen or {}).get("context", {}).get("namespace") or "default")


def _asked(cluster: "Cluster", ask: Callable[[], T]) -> T:
    """Return the answer; raises UserError, in one line, where there is none."""
    from rlscaler_operator.api_errors import ClusterError
    from rlscaler_operator.cluster import GROUP, PLURAL

    try:
        return ask()
    except ClusterError as error:
        if error.reason == "NotFound" and not _served(cluster, GROUP, PLURAL):
            raise UserError(
                f"this cluster has no RLScalers: {PLURAL}.{GROUP} is not installed; see `helm install` in the README"
            ) from error
        raise UserError(_to_a_person(error)) from error


def _to_a_person(error: "ClusterError") -> str:
    """Return what went wrong, in one line, for somebody who asks with rights of their own."""
    message = " ".join(error.message.split())
    return message.replace("the operator's service account", "this user").replace("the operator's", "your")


def _served(cluster: "Cluster", group: str, plural: str) -> bool:
    from rlscaler_operator.api_errors import ClusterError

    try:
        return cluster.served(group, plural)
    except ClusterError:
        return True


def _width() -> int | None:
    """Return the columns of the terminal, None for a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _print_told(lines: Sequence[tuple[str, str]]) -> None:
    """Print an explanation: labels stand in a column of their own, text is wrapped to what is readable."""
    width = min(_width() or WIDEST, WIDEST)
    column = 2 + max(len(label) for label, _ in lines)
    margin = 0
    for label, text in lines:
        if label or not text:
            margin = {"": 0, "!": 2, "-": 2}.get(label, column)
        wrapped = textwrap.wrap(
            "".join(c if c.isprintable() else " " for c in text),  # it comes from anybody who may write a status
            width,
            initial_indent=label.ljust(margin),
            subsequent_indent=" " * margin,
            break_on_hyphens=False,
            break_long_words=False,
        )
        click.echo("\n".join(wrapped))


def _print_overview(rows: Sequence[Mapping[str, Any]], *, namespaced: bool) -> None:
    """Print the table of all: fitted to the terminal, whole for a pipe."""
    from rlscaler_operator.explaining import COLUMNS, cells

    lines = [COLUMNS, *(cells(row, namespaced=namespaced) for row in rows)]
    table = dict(zip(COLUMNS, zip(*lines, strict=True), strict=True))
    columns = _fitted({name: max(map(len, column)) for name, column in table.items()}, _width())
    for index in range(len(lines)):
        shown = []
        for name, size in columns.items():
            cell = printable(table[name][index])
            cell = cell if len(cell) <= size else f"{cell[: size - 1]}…"
            cell = cell.rjust(size) if name in _NUMBERS else cell.ljust(size)
            colour = _COLOUR.get(rows[index - 1]["urgency"]) if index and name == "REASON" else None
            shown.append(click.style(cell, fg=colour, bold=index == 0 or None) if colour or not index else cell)
        click.echo("  ".join(shown).rstrip())


_NUMBERS = frozenset({"MIN", "MAX", "NOW", "WANTED", "FOR"})
_COLOUR = dict.fromkeys(range(6), "red") | dict.fromkeys((6, 7), "yellow")


def _fitted(sizes: Mapping[str, int], width: int | None) -> dict[str, int]:
    """Return the columns that fit into `width` (None: all of them) and their sizes; names are shortened last."""
    kept = dict(sizes)

    def excess() -> int:
        return sum(kept.values()) + 2 * (len(kept) - 1) - (width or 0)

    if width is None:
        return kept
    for name in ("TARGET", "MIN", "MAX", "FOR"):
        if excess() > 0:
            del kept[name]
    kept["WORKLOAD"] = max(12, kept["WORKLOAD"] - max(0, excess()))
    return kept
