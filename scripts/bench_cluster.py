"""How the operator scales: ``bench_cluster.py [--workloads N,N,...] [--seconds S]``.

Thousands of Active RLScalers against a real API server, etcd and Prometheus on the same machine, decided every 15 s,
once sharing one query and once with a query each. Loads go up and down, so that targets are really written. Printed is
what the operator's own metrics and the kernel say of a steady window; beside it, in the same run, the real HPA
controller (kube-controller-manager) with as many HPAs on external metrics, which come from the same machine too.

Targets are Deployments without a controller: their status says that all replicas are ready. CPU and memory are those of
the operator's (or the HPA controller's) own process. The HPA controller asks a metrics adapter through the API server
for one value at a time; what a real adapter (and its Prometheus) would cost is not in its row. Its decision is on time
where its value was asked for; it has the client limits of the control plane of the tests, 500 requests/s.
"""

import argparse
import contextlib
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from control_plane import ControlPlane
from external_metrics import MetricsAdapter
from load_exporter import Exporter
from operator_process import OperatorProcess
from processes import Process
from prometheus_server import PrometheusServer
from rlscaler.crd import crd
from shop import deployment, rlscaler

INTERVAL = 15.0
PERIOD = 600.0
"""Seconds in which each load goes up and down once."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one fleet; NaN: not known of this one.

    first: seconds from the start of the process until all are decided. on_time: share of the decisions that were due.
    tick_p99: seconds that a batch of decisions takes. cpu: share of one core. memory: bytes. writes, status_writes:
    requests for each decision.
    """

    who: str
    workloads: int
    first: float
    on_time: float
    cpu: float
    memory: float
    writes: float
    status_writes: float = math.nan
    tick_p99: float = math.nan

    def cells(self) -> list[str]:
        """Return the row of the table."""
        return [
            self.who, f"{self.workloads:,}", f"{self.first:.1f} s", f"{100.0 * self.on_time:.2f} %",
            _known(1000.0 * self.tick_p99, "{:.0f} ms"), f"{100.0 * self.cpu:.0f} %", f"{self.memory / 1e6:.0f} MB",
            f"{self.writes:.2f}", _known(self.status_writes, "{:.2f}"),
        ]  # fmt: skip


def _known(value: float, form: str) -> str:
    return form.format(value) if math.isfinite(value) else ""


FLEETS = ("shared", "own", "hpa")
HEAD = ("autoscaler", "workloads", "start to all decided", "on time", "tick p99", "CPU of a core", "memory",
        "scale writes / decision", "status writes / decision")  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workloads", type=_counts, default="1000,3000,5000", help="(default: 1000,3000,5000)")
    parser.add_argument("--fleets", type=_fleets, default="shared,own,hpa", help="(default: shared,own,hpa)")
    parser.add_argument("--seconds", type=float, default=90.0, help="of the steady window (default: 90)")
    options = parser.parse_args()
    rows = []
    print(machine(), flush=True)
    for count in options.workloads:
        for fleet in options.fleets:
            measured = hpas if fleet == "hpa" else rlscalers
            rows.append(measured(count, fleet, options.seconds))
            print(" | ".join(rows[-1].cells()), flush=True)
    print()
    print(table(HEAD, [row.cells() for row in rows]))


def _counts(text: str) -> list[int]:
    """Return the numbers of workloads in a list. Raises ArgumentTypeError where it holds anything else."""
    found = text.split(",")
    if not all(each.isdecimal() and int(each) for each in found):
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers above 0, such as 1000,3000")
    return [int(each) for each in found]


def _fleets(text: str) -> list[str]:
    """Return the fleets in a list. Raises ArgumentTypeError where it holds another name."""
    if set(found := text.split(",")) - set(FLEETS):
        raise argparse.ArgumentTypeError(f"{text!r}: expected some of {','.join(FLEETS)}")
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> str:
    """Return what this runs on."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown processor")  # fmt: skip
    return f"{os.cpu_count()} cores of {model}, shared by operator, API server, etcd and Prometheus"


def rlscalers(count: int, queries: str, seconds: float) -> Row:
    """Return what a fleet of RLScalers costs; queries: shared, or each its own."""
    with contextlib.ExitStack() as stack:
        directory = directories(stack)
        plane = stack.enter_context(ControlPlane(directory / "plane", controllers=False))
        plane.apply(crd())
        exporter = stack.enter_context(Exporter())
        stack.enter_context(moving(exporter, count))
        prometheus = PrometheusServer(directory / "prometheus", {"bench": exporter.address}, interval="5s")
        stack.enter_context(prometheus)
        wait(lambda: bool(plane.request("GET", "/apis/rlscaler.io/v1alpha1/rlscalers")), "the CRD")
        populate(plane, count, lambda name: scaler(name, queries))
        operator = OperatorProcess(
            directory / "operator", plane.kubeconfig, {"sources": {"default": {"url": prometheus.url}}}, lease="default"
        )
        began = time.monotonic()
        operator.start(ready=False)
        stack.callback(operator.stop)
        # Seldom, since thousands of workloads make a page of megabytes.
        decided = "every workload to be decided"
        wait(lambda: operator.metric("rlscaler_decisions_total") >= count, decided, 300.0, every=1.0)
        first = time.monotonic() - began
        time.sleep(2.0 * INTERVAL)
        before, at = figures(operator), time.monotonic()
        time.sleep(seconds)
        after, passed = figures(operator), time.monotonic() - at
        change = {name: value - before.get(name, 0.0) for name, value in after.items()}
        decisions = max(change["rlscaler_decisions_total"], 1.0)
        # those that were made or missed, and no fewer than whole intervals ask for: a stall must not hide any
        made = change["rlscaler_decisions_in_time_total"] + change.get("rlscaler_decisions_late_total", 0.0)
        due = max(made, count * math.floor(passed / INTERVAL))
        return Row(
            who=f"rlscaler, {'one query' if queries == 'shared' else 'a query each'}",
            workloads=count,
            first=first,
            on_time=change["rlscaler_decisions_in_time_total"] / due,
            tick_p99=quantile(change, "rlscaler_decision_duration_seconds", 0.99),
            cpu=change["process_cpu_seconds_total"] / passed,
            memory=after["process_resident_memory_bytes"],
            writes=change.get("rlscaler_writes_total", 0.0) / decisions,
            status_writes=change.get("rlscaler_status_writes_total", 0.0) / decisions,
        )


def hpas(count: int, _: str, seconds: float) -> Row:
    """Return what the HPA controller costs with a fleet of HPAs."""
    with contextlib.ExitStack() as stack:
        directory = directories(stack)
        exporter = stack.enter_context(Exporter())
        stack.enter_context(moving(exporter, count))
        plane = stack.enter_context(
            ControlPlane(
                directory / "plane", controllers="horizontal-pod-autoscaler-controller", sync_period=f"{INTERVAL:g}s"
            )
        )
        plane.process("kube-controller-manager").stop()
        adapter = stack.enter_context(Adapter(plane, count))
        populate(plane, count, hpa)
        began = time.monotonic()
        process = Process(plane.process("kube-controller-manager").command, directory / "controllers.log")
        stack.callback(process.stop)
        wait(lambda: len(adapter.asked) >= count, "every HPA to be decided", 300.0)
        first = time.monotonic() - began
        time.sleep(2.0 * INTERVAL)
        versions, busy, asked, at = sum_of_generations(plane), cpu_seconds(process.pid), adapter.total, time.monotonic()
        time.sleep(seconds)
        passed, used = time.monotonic() - at, cpu_seconds(process.pid) - busy
        decisions = adapter.total - asked
        return Row(
            who="HPA controller",
            workloads=count,
            first=first,
            on_time=min(1.0, decisions / (count * math.floor(passed / INTERVAL))),
            cpu=used / passed,
            memory=resident_bytes(process.pid),
            writes=(sum_of_generations(plane) - versions) / max(decisions, 1),
        )


class Adapter(MetricsAdapter):
    """Serves the loads at once, and counts who asks."""

    def __init__(self, plane: ControlPlane, count: int) -> None:
        """Start to serve the loads of so many workloads."""
        self.asked: set[str] = set()
        self.total = 0
        self._count, self._counting = count, threading.Lock()
        super().__init__(plane, plane.serving_pair, 1.0)

    def answer(self, path: str, query: Mapping[str, list[str]]) -> dict[str, Any] | None:
        """Return the load of the workload that an external metric is named after."""
        match path.strip("/").split("/"):
            case ["apis", "external.metrics.k8s.io", "v1beta1", "namespaces", _, name]:
                with self._counting:
                    self.asked.add(name)
                    self.total += 1
                return self._external(name, load_of(int(name.removeprefix("w")), self._count))
        return super().answer(path, query)


def directories(stack: contextlib.ExitStack) -> Path:
    """Return a folder for a run, with what it needs inside."""
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlscaler-bench-")))
    for name in ("plane", "operator"):
        (directory / name).mkdir()
    return directory


def sum_of_generations(plane: ControlPlane) -> int:
    """Return how often the Deployments' specs have been written."""
    items = plane.request("GET", "/apis/apps/v1/namespaces/default/deployments")["items"]
    return sum(item["metadata"]["generation"] for item in items)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process (proc(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def load_of(number: int, count: int) -> float:
    """Return the load of a workload now, requests/s."""
    return 100.0 * (1.5 + math.sin(2.0 * math.pi * (time.monotonic() / PERIOD + number / count)))


@contextlib.contextmanager
def moving(exporter: Exporter, count: int) -> Iterator[None]:
    """Let the loads go up and down, each at its own moment, until the end."""
    stop = threading.Event()

    def move() -> None:
        while True:
            for number in range(count):
                exporter.set("load_rps", load_of(number, count), deployment=f"w{number}")
            if stop.wait(5.0):
                return

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def populate(plane: ControlPlane, count: int, made: Callable[[str], tuple[str, dict[str, Any]]]) -> None:
    """Make the Deployments, ready, and what scales each; made: name to path and object."""

    def make(number: int) -> None:
        name = f"w{number}"
        path = "/apis/apps/v1/namespaces/default/deployments"
        plane.request("POST", path, deployment("default", name, 20))
        ready = {"status": {"replicas": 20, "readyReplicas": 20, "availableReplicas": 20}}
        plane.request("PATCH", f"{path}/{name}/status", ready)
        plane.request("POST", *made(name))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(make, range(count)))


def scaler(name: str, queries: str) -> tuple[str, dict[str, Any]]:
    """Return where an RLScaler goes, and the RLScaler."""
    spec: dict[str, Any] = {"interval": "15s", "capacity": {"perReplica": "10", "startup": "60s"}}
    if queries == "own":
        spec["metrics"] = {"load": {"query": f'load_rps{{deployment="{name}"}}'}}
    return "/apis/rlscaler.io/v1alpha1/namespaces/default/rlscalers", rlscaler("default", name, "Active", **spec)


def hpa(name: str) -> tuple[str, dict[str, Any]]:
    """Return where an HPA goes, and the HPA: the same bounds, at 70 % of the same capacity."""
    metric = {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": "7"}}
    body = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": 1,
            "maxReplicas": 100,
            "metrics": [{"type": "External", "external": metric}],
        },
    }
    return "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", body


def figures(operator: OperatorProcess) -> dict[str, float]:
    """Return the operator's own metrics, summed over labels; buckets as NAME_bucket/BOUND."""
    pages = [""]

    def answers() -> bool:
        pages.append(operator.get("/metrics")[1])
        return bool(pages[-1])

    wait(answers, "an answer of /metrics")
    found: dict[str, float] = {}
    for line in pages[-1].splitlines():
        if not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0]
            if name.endswith("_bucket"):
                name += "/" + series.partition('le="')[2].partition('"')[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


def quantile(change: Mapping[str, float], name: str, share: float) -> float:
    """Return the upper bound of the bucket that holds a quantile of a histogram's change."""
    prefix = f"{name}_bucket/"
    buckets = sorted((float(key.removeprefix(prefix)), seen) for key, seen in change.items() if key.startswith(prefix))
    return next(bound for bound, seen in buckets if seen >= share * buckets[-1][1])


def wait(ready: Callable[[], bool], what: str, deadline: float = 60.0, *, every: float = 0.1) -> None:
    """Return once it is there, with a look `every` so many seconds. Raises TimeoutError."""
    end = time.monotonic() + deadline
    while True:
        with contextlib.suppress(Exception):
            if ready():
                return
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline:g} s for {what}")
        time.sleep(every)


if __name__ == "__main__":
    main()
