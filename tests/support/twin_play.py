"""The side-by-side play on real parts: one load in a real Prometheus, and twin Deployments that are scaled by it.

kube-controller-manager's HPAs are told the load by an adapter that asks Prometheus on each of their syncs, the operator
asks Prometheus itself. Nothing serves the load: what would have been served follows from which pods were ready when.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster_access import ClusterAccess
from control_plane import ControlPlane
from external_metrics import MetricsAdapter
from load_exporter import Exporter
from operator_process import OperatorProcess
from processes import wait_until
from prometheus_server import PrometheusServer
from rlscaler.crd import crd
from rlscaler.prometheus import Source, SourceConfig, SourceError
from rlscaler.quantities import duration_text
from settling import is_settled
from twin_burst import Burst
from twin_figures import Figures, counted
from twin_log import TwinLog
from twins import METRIC, NAMESPACE, QUERY, Twin

HOME = "rlscaler"
"""Namespace of the operator's Lease and state."""
GAUGE = QUERY.removeprefix("sum(").removesuffix(")")
JOB = "load"
_CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rlscalers.rlscaler.io"
_CLASSES = {
    "HorizontalPodAutoscaler": f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers",
    "RLScaler": f"/apis/rlscaler.io/v1alpha1/namespaces/{NAMESPACE}/rlscalers",
}


@dataclass(frozen=True, slots=True)
class Played:
    """What was measured. figures: by twin. startup: seconds from a pod's creation to its readiness, the middle and the
    95th percentile. syncs, decisions: mean seconds between two of an HPA, and of rlscaler. log: of what was seen.
    began: when the first interval that counts began, on the log's clock."""

    figures: Mapping[str, Figures]
    startup: tuple[float, float]
    syncs: float
    decisions: float
    log: TwinLog
    began: float


class LoadAdapter(MetricsAdapter):
    """Tells HPAs what a Prometheus knows at the moment that they ask; a context manager."""

    def __init__(self, access: ClusterAccess, pair: tuple[Path, Path], source: Source) -> None:
        """Start to serve; pair: certificate and key. The caller closes the source."""
        self._source = source
        self.asked: list[float] = []
        super().__init__(access, pair, beat=1.0)
        self._settling.close()  # HPAs are answered at once here, whatever their pods do

    def answer(self, path: str, query: Mapping[str, list[str]]) -> dict[str, Any] | None:
        """Return the answer to a request, None where there is nothing."""
        if path.strip("/").split("/")[-1] != METRIC:
            return super().answer(path, query)
        self.asked.append(time.monotonic())
        try:
            found = self._source.instant(QUERY)
        except SourceError:
            return self._external(METRIC, None)
        known = len(found) == 1 and math.isfinite(found[0].value)
        return self._external(METRIC, found[0].value if known else None)


def played(burst: Burst, contenders: Sequence[Twin], directory: Path) -> Played:
    """Play the burst to the contenders, which takes a quarter of a minute longer than the burst, and return what came.

    directory: takes data and logs; must exist.
    """
    interval = duration_text(burst.interval)
    with ExitStack() as stack:
        for name in ("cluster", "operator"):
            (directory / name).mkdir()
        cluster = stack.enter_context(ControlPlane(directory / "cluster", kwok=1, sync_period=interval))
        log = stack.enter_context(TwinLog(cluster, NAMESPACE))
        _populate(cluster, burst, contenders)
        exporter = stack.enter_context(Exporter())
        exporter.set(GAUGE, float(burst.shown[burst.past]))
        prometheus = stack.enter_context(
            PrometheusServer(
                directory / "prometheus", {JOB: exporter.address}, interval, history=_past(burst, exporter.address)
            )
        )
        source = Source(SourceConfig(name="default", url=prometheus.url, timeout=20.0))
        stack.callback(source.close)
        adapter = stack.enter_context(LoadAdapter(cluster, cluster.serving_pair, source))
        configuration = {"sources": {"default": {"url": prometheus.url}}}
        operator = stack.enter_context(
            OperatorProcess(directory / "operator", cluster.kubeconfig, configuration, lease=HOME)
        )
        wait_until(lambda: _are_settled(cluster), "the twins' pods do not get ready", 60.0 + 2.0 * burst.startup)
        for twin in contenders:
            scaler = twin.scaler(burst)
            cluster.request("POST", _CLASSES[scaler["kind"]], scaler)

        began = time.monotonic() + _until_between_scrapes(source, burst)
        counts_from = began + burst.interval * (burst.counted - burst.past)
        _play(exporter, burst, slice(burst.past, burst.counted), began)
        decided = operator.metric("rlscaler_decisions_total")
        _play(exporter, burst, slice(burst.counted, len(burst.shown)), counts_from)
        decided = operator.metric("rlscaler_decisions_total") - decided
        log.stop()
        demand = burst.demand[burst.counted :].ravel()
        seconds = burst.interval * (len(burst.shown) - burst.counted)
        asked = sum(counts_from <= at < counts_from + seconds for at in adapter.asked)
        hpas = sum(twin.constants is not None for twin in contenders)
        return Played(
            figures={
                name: counted(name, log.orders[name], log.pods[name], log.ready[name], demand, counts_from, burst.tick)
                for name in (twin.name for twin in contenders)
            },
            startup=log.startup(counts_from),
            syncs=seconds * hpas / max(asked, 1),
            decisions=seconds * (len(contenders) - hpas) / max(decided, 1.0),
            log=log,
            began=counts_from,
        )


def _populate(cluster: ClusterAccess, burst: Burst, contenders: Sequence[Twin]) -> None:
    """Make the namespaces, the CRD and the Deployments."""
    cluster.apply(crd())
    for name in (HOME, NAMESPACE):
        cluster.create_namespace(name)
    for twin in contenders:
        cluster.request("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", twin.deployment(burst))
    established = {"type": "Established", "status": "True"}

    def served() -> bool:
        conditions = cluster.request("GET", _CRD).get("status", {}).get("conditions") or ()
        return any(established.items() <= condition.items() for condition in conditions)

    wait_until(served, "the CRD is not served", 30.0)


def _are_settled(cluster: ClusterAccess) -> bool:
    return all(map(is_settled, cluster.request("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments")["items"]))


def _past(burst: Burst, instance: str) -> str:
    """Return what a Prometheus would have scraped before the play, up to now, as OpenMetrics.

    instance: that is scraped; the past is that of the same series, or both would be summed up.
    """
    now, series = time.time(), f'{GAUGE}{{instance="{instance}",job="{JOB}"}}'
    lines = [
        f"{series} {value!r} {now - burst.interval * (burst.past - step):.3f}"
        for step, value in enumerate(burst.shown[: burst.past].tolist())
        if np.isfinite(value)
    ]
    return "\n".join([f"# TYPE {GAUGE} gauge", *lines, "# EOF", ""])


def _until_between_scrapes(source: Source, burst: Burst) -> float:
    """Return the seconds until Prometheus is half-way between two scrapes.

    A gauge that changes then is scraped half an interval later, and decided on up to an interval after that: on average
    an interval after it changed, as in the simulator's world.
    """

    def scraped() -> bool:
        return len(source.instant("up")) == 1

    wait_until(scraped, "Prometheus does not scrape", 30.0 + 2.0 * burst.interval)
    age = source.instant("time() - timestamp(up)")[0].value
    return (1.5 * burst.interval - age) % burst.interval


def _play(exporter: Exporter, burst: Burst, steps: slice, began: float) -> None:
    """Show the load of these steps, interval by interval, and return at the end of the last; began: of the first."""
    for number, value in enumerate(burst.shown[steps].tolist()):
        time.sleep(max(0.0, began + burst.interval * number - time.monotonic()))
        exporter.set(GAUGE, value)
    time.sleep(max(0.0, began + burst.interval * len(burst.shown[steps]) - time.monotonic()))
