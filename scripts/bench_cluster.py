"""How the operator scales: ``bench_cluster.py [--workloads N,N,...] [--seconds S] [--hpas N]``.

Thousands of Active RLScalers against a real API server, etcd and Prometheus on the same machine, at an interval of 15 s,
once sharing one query and once with a query each. Loads go up and down, so that targets are really written. Printed is
what the operator's own metrics and the kernel say of a steady window; beside it, in the same run, the real HPA
controller (kube-controller-manager) with as many HPAs on external metrics, which come from the same machine too.

Targets are Deployments without a controller: their status says that all replicas are ready. Nothing is timed but the
operator's (and the HPA controller's) own process.
"""

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from control_plane import ControlPlane
from load_exporter import Exporter
from operator_process import OperatorProcess
from prometheus_server import PrometheusServer
from rlscaler.crd import crd
from shop import deployment, rlscaler

INTERVAL = 15.0
PERIOD = 600.0
"""Seconds in which each load goes up and down once."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one fleet."""

    workloads: int
    queries: str
    first: float
    on_time: float
    tick_p99: float
    cpu: float
    memory: float
    writes: float
    status_writes: float

    def cells(self) -> list[str]:
        """Return the row of the table."""
        return [
            f"{self.workloads:,}", self.queries, f"{self.first:.1f} s", f"{100 * self.on_time:.2f} %",
            f"{1000 * self.tick_p99:.0f} ms", f"{100 * self.cpu:.0f} %", f"{self.memory / 1e6:.0f} MB",
            f"{self.writes:.3f}", f"{self.status_writes:.3f}",
        ]  # fmt: skip


HEAD = ("workloads", "queries", "start to all decided", "on time", "tick p99", "CPU of a core", "memory",
        "scale writes / decision", "status writes / decision")  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workloads", default="1000,3000,5000")
    parser.add_argument("--queries", default="shared,own")
    parser.add_argument("--seconds", type=float, default=90.0, help="of the steady window (default: 90)")
    options = parser.parse_args()
    rows = []
    print(machine(), flush=True)
    for count in map(int, options.workloads.split(",")):
        for queries in options.queries.split(","):
            rows.append(measured(count, queries, options.seconds))
            print(" | ".join(rows[-1].cells()), flush=True)
    print()
    print(table(HEAD, [row.cells() for row in rows]))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """Return what this runs on."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown processor")  # fmt: skip
    return f"{os.cpu_count()} cores of {model}, shared by operator, API server, etcd and Prometheus"


def measured(count: int, queries: str, seconds: float) -> Row:
    """Return what a fleet of `count` workloads costs."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlscaler-bench-")))
        for name in ("plane", "operator"):
            (directory / name).mkdir()
        plane = stack.enter_context(ControlPlane(directory / "plane", controllers=False))
        plane.apply(crd())
        exporter = stack.enter_context(Exporter())
        stack.enter_context(moving(exporter, count))
        prometheus = PrometheusServer(directory / "prometheus", {"bench": exporter.address}, interval="5s")
        stack.enter_context(prometheus)
        wait(lambda: bool(plane.request("GET", "/apis/rlscaler.io/v1alpha1/rlscalers")), "the CRD")
        populate(plane, count, queries)
        operator = OperatorProcess(
            directory / "operator", plane.kubeconfig, {"sources": {"default": {"url": prometheus.url}}}, lease="default"
        )
        began = time.monotonic()
        operator.start(ready=False)
        stack.callback(operator.stop)
        wait(lambda: operator.metric("rlscaler_decisions_total") >= count, "every workload to be decided", 300.0)
        first = time.monotonic() - began
        time.sleep(2.0 * INTERVAL)
        before, at = figures(operator), time.monotonic()
        time.sleep(seconds)
        after, passed = figures(operator), time.monotonic() - at
        change = {name: after[name] - before[name] for name in after}
        decisions = change["rlscaler_decisions_total"]
        due = count * passed / INTERVAL
        return Row(
            workloads=count,
            queries=queries,
            first=first,
            on_time=min(1.0, change["rlscaler_decisions_in_time_total"] / due),
            tick_p99=quantile(operator, before_buckets=None),
            cpu=change["process_cpu_seconds_total"] / passed,
            memory=after["process_resident_memory_bytes"],
            writes=change["rlscaler_writes_total"] / max(decisions, 1.0),
            status_writes=change["rlscaler_status_writes_total"] / max(decisions, 1.0),
        )


@contextlib.contextmanager
def moving(exporter: Exporter, count: int) -> Iterator[None]:
    """Let the loads go up and down, each at its own moment, until the end."""
    stop = threading.Event()

    def move() -> None:
        while True:
            now = time.monotonic()
            for number in range(count):
                phase = 2.0 * math.pi * (now / PERIOD + number / count)
                exporter.set("load_rps", 100.0 * (1.5 + math.sin(phase)), deployment=f"w{number}")
            if stop.wait(5.0):
                return

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def populate(plane: ControlPlane, count: int, queries: str) -> None:
    """Make the Deployments, ready, and their RLScalers."""

    def make(number: int) -> None:
        name = f"w{number}"
        path = "/apis/apps/v1/namespaces/default/deployments"
        plane.request("POST", path, deployment("default", name, 20))
        ready = {"status": {"replicas": 20, "readyReplicas": 20, "availableReplicas": 20}}
        plane.request("PATCH", f"{path}/{name}/status", ready)
        spec: dict[str, Any] = {"interval": "15s", "capacity": {"perReplica": "10", "startup": "60s"}}
        if queries == "own":
            spec["metrics"] = {"load": {"query": f'load_rps{{deployment="{name}"}}'}}
        body = rlscaler("default", name, "Active", **spec)
        plane.request("POST", "/apis/rlscaler.io/v1alpha1/namespaces/default/rlscalers", body)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(make, range(count)))


NAMES = ("rlscaler_decisions_total", "rlscaler_decisions_in_time_total", "rlscaler_decisions_late_total",
         "process_cpu_seconds_total", "process_resident_memory_bytes", "rlscaler_writes_total",
         "rlscaler_status_writes_total")  # fmt: skip


def figures(operator: OperatorProcess) -> dict[str, float]:
    """Return the operator's own counters."""
    text = operator.get("/metrics")[1]
    found = dict.fromkeys(NAMES, 0.0)
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        if (name := series.partition("{")[0]) in found:
            found[name] += float(value)
    return found


def quantile(operator: OperatorProcess, before_buckets: None, share: float = 0.99) -> float:
    """Return the upper bound of the bucket that holds the quantile of a batch's duration, seconds."""
    buckets: list[tuple[float, float]] = []
    for line in operator.get("/metrics")[1].splitlines():
        if line.startswith("rlscaler_decision_duration_seconds_bucket"):
            bound = line.partition('le="')[2].partition('"')[0]
            buckets.append((float(bound), float(line.rpartition(" ")[2])))
    total = buckets[-1][1]
    return next(bound for bound, seen in buckets if seen >= share * total)


def wait(ready: Callable[[], bool], what: str, deadline: float = 60.0) -> None:
    """Return once it is there. Raises TimeoutError."""
    end = time.monotonic() + deadline
    while True:
        with contextlib.suppress(Exception):
            if ready():
                return
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline:g} s for {what}")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
