"""Faults of the metrics, all at once, each with a workload of its own: nothing is lost, and the right thing is said.

The story is told once for the module: all workloads follow their load; all faults begin, beside workloads whose metrics
are well; all end, and the load is another one. The tests look at what was seen of it.
"""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cluster_access import ClusterAccess
from faulty_prometheus import FaultyPrometheus, hang, reply
from load_exporter import Exporter
from metric_faults import AFTER, BEFORE, FAULTS, LOSSES, NUMBERS, TIMEOUT, Mixed, answers
from operator_process import OperatorProcess
from prometheus_server import PrometheusServer
from recorder import Recorder
from shop import QUERY, deployment, rlscaler

pytestmark = pytest.mark.components("kubernetes", "kwok", "prometheus")

LONG = 20.0
"""Seconds that a source has to answer whose silence must not hold up others: far beyond what is waited for those."""
AT_EASE = 8
"""Workloads without a fault in mode Shadow, whose decisions are counted."""
LOST_AFTER = 4.0
"""Seconds of onMetricLoss.after."""
HEAVY = ("heavy-0", "heavy-1", "heavy-2", "heavy-3", "heavy-4", "heavy-5")
"""Workloads whose queries the source `mixed` does not answer; more than it is asked at a time."""
REAL = {"stopped": ("Unreachable", "refuses the connection"), "stuck": ("Timeout", "raise its timeout")}
"""Faults of a real Prometheus: reason, and what is said."""


class Story:
    """What was done when (monotonic seconds), and what was seen of it.

    started, faults, healed, over: when it was begun. followed: when a workload without a fault had followed its load.
    decisions: those of the workloads at ease, with the seconds in which they were made.
    """

    def __init__(self, cluster: ClusterAccess, namespace: str, directory: Path, parts: ExitStack) -> None:
        """Start what the metrics come from; parts: takes what must end."""
        self.cluster, self.namespace, self.seen = cluster, namespace, Recorder(cluster, namespace)
        self.active: list[str] = []
        self.started = self.faults = self.healed = self.over = math.nan
        self.followed: dict[str, float] = {}
        self.decisions = (0.0, math.nan)
        self.exporter, self.shaky = parts.enter_context(Exporter()), parts.enter_context(Exporter())
        jobs = {"shop": self.exporter.address, "shaky": self.shaky.address}
        self.prometheus = {
            name: parts.enter_context(PrometheusServer(directory / name, jobs)) for name in ("default", *REAL)
        }
        self.mixed = Mixed()
        self.scripted = {name: parts.enter_context(FaultyPrometheus(answers(BEFORE))) for name in (*FAULTS, "lost")}
        self.scripted["mixed"] = parts.enter_context(FaultyPrometheus(self.mixed))
        self.scripted["from-start"] = parts.enter_context(FaultyPrometheus(hang))
        sources = {name: {"url": one.url, "timeout": f"{TIMEOUT}s"} for name, one in self.prometheus.items()}
        sources |= {name: {"url": one.url, "timeout": f"{TIMEOUT}s"} for name, one in self.scripted.items()}
        for name in ("mixed", "from-start"):
            sources[name]["timeout"] = f"{LONG}s"
        sources["too-many-series"]["maxSeries"] = 20  # type: ignore[assignment]
        arguments = ["--namespace", namespace]
        self.operator = OperatorProcess(
            directory, cluster.kubeconfig, {"sources": sources}, lease=namespace, arguments=arguments
        )
        parts.callback(self.operator.stop)

    def workload(self, name: str, mode: str = "Active", *, source: str = "default", query: str = QUERY,
                 match: bool = True, metrics: dict[str, Any] | None = None, **spec: Any) -> None:  # fmt: skip
        """Make a Deployment and its RLScaler; the rollout is paused, so that no pods are made."""
        load = {"query": query.format(name=name), "match": {"deployment": name} if match else {}}
        target = deployment(self.namespace, name, 3)
        target["spec"]["paused"] = True
        scaler = rlscaler(self.namespace, name, mode, metrics={"source": source, "load": load, **(metrics or {})}, **spec)
        self.cluster.request("POST", f"/apis/apps/v1/namespaces/{self.namespace}/deployments", target)
        self.cluster.request("POST", f"/apis/rlscaler.io/v1alpha1/namespaces/{self.namespace}/rlscalers", scaler)
        self.active += [name] if mode == "Active" else []

    def make(self) -> None:
        """Make all workloads but the newcomer."""
        for name in ("follower", "percent", "shaky", *NUMBERS, *(f"at-ease-{i}" for i in range(AT_EASE))):
            exporter = self.shaky if name == "shaky" else self.exporter
            exporter.set("load_rps", BEFORE, deployment=name)
        for name in REAL:
            self.exporter.set("load_rps", BEFORE, deployment=name)
            self.workload(name, source=name)
        for i in range(AT_EASE):
            self.workload(f"at-ease-{i}", "Shadow")
        self.workload("follower")
        self.workload("shaky")
        self.exporter.set("busy", 0.5)
        self.workload("percent", metrics={"utilization": {"query": "busy"}})
        for name, number in NUMBERS.items():
            self.workload(name, query=number.query, match=number.match)
        for name in FAULTS:
            self.workload(name, source=name, query="up", match=False)
        for name, (loss, _) in LOSSES.items():
            loss = {"after": f"{LOST_AFTER:g}s", **loss}
            self.workload(name, source="lost", query="up", match=False, onMetricLoss=loss)
        self.workload("light", source="mixed", query="light", match=False)
        self.workload("light-and-heavy", source="mixed", query="light", match=False, metrics={"backlog": {"query": "x"}})
        for name in HEAVY:
            self.workload(name, source="mixed", query="{name}", match=False)
        self.workload("from-start", source="from-start", query="up", match=False)

    def begin(self) -> None:
        """Start the operator, and wait until everybody follows."""
        self.operator.start()
        self.started = time.monotonic()
        for name in ("follower", "light"):
            self._follows(name, BEFORE, f"{name} at first", 60.0)
        self.seen.watch(30.0, lambda: all(self._has(name, BEFORE) for name in self.active if name != "from-start"))

    def fail(self) -> None:
        """Let all faults begin, and look until each has been told and every fallback has come."""
        self.seen.look()
        self.faults = time.monotonic()
        for name, fault in FAULTS.items():
            self.scripted[name].answer = fault.answer
        for name, number in NUMBERS.items():
            number.show(self.exporter, name)
        self.scripted["lost"].answer = reply("", 503)
        self.shaky.broken = True
        self.exporter.set("busy", 73.0)
        self.mixed.stuck, self.mixed.value = True, 2.0 * BEFORE
        self.prometheus["stuck"].hang()
        self.exporter.set("load_rps", 2.0 * BEFORE, deployment="follower")
        self.prometheus["stopped"].stop()
        self._follows("follower", 2.0 * BEFORE, "follower beside faults")
        self._follows("light", 2.0 * BEFORE, "light beside heavy")
        made, at = self._made(), time.monotonic()
        self.exporter.set("load_rps", BEFORE, deployment="newcomer")
        self.workload("newcomer")
        self._follows("newcomer", BEFORE, "newcomer")
        self.seen.watch(20.0, lambda: all(self._told(name) for name in self.active) and time.monotonic() > at + 8.0)
        self.seen.watch(3.0)
        self.decisions = (self._made() - made, time.monotonic() - at)

    def heal(self) -> None:
        """Let all faults end, and look until everybody follows another load."""
        self.healed = time.monotonic()
        self.prometheus["stuck"].resume()
        for name in (*REAL, "follower", "percent"):
            self.exporter.set("load_rps", AFTER, deployment=name)
        self.shaky.broken = False
        self.shaky.set("load_rps", AFTER, deployment="shaky")
        self.exporter.set("busy", 0.5)
        for name, number in NUMBERS.items():
            number.heal(self.exporter, name)
        for one in self.scripted.values():
            one.answer = answers(AFTER)
        self.prometheus["stopped"].start()
        self.seen.watch(30.0, lambda: all(self._has(name, AFTER) for name in self.active if name != "newcomer"))
        self.over = time.monotonic()

    def _has(self, name: str, load: float) -> bool:
        active = self.seen.condition(name, "ScalingActive")
        return self.seen.count(name) >= load / 10.0 and active.reason == "ValidMetricFound"

    def _told(self, name: str) -> bool:
        return name in ("follower", "light", "newcomer") or bool(self.seen.found(name, "ScalingActive", self.faults))

    def _follows(self, name: str, load: float, what: str, seconds: float = 15.0) -> None:
        began = time.monotonic()
        if self.seen.watch(seconds, lambda: self.seen.count(name) >= load / 10.0):
            self.followed[what] = time.monotonic() - began

    def _made(self) -> float:
        return self.operator.metric("rlscaler_decisions_total", mode="Shadow")


@pytest.fixture(scope="module")
def story(control_plane: ClusterAccess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    namespace = "metric-faults"
    control_plane.create_namespace(namespace)
    with ExitStack() as parts:
        told = Story(control_plane, namespace, tmp_path_factory.mktemp("metric-faults"), parts)
        told.make()
        told.begin()
        told.fail()
        told.heal()
        yield told
    control_plane.request("DELETE", f"/api/v1/namespaces/{namespace}")


def test_x(story):
    t0=story.started
    print("started, faults, healed, over", [round(x-t0,1) for x in (story.started, story.faults, story.healed, story.over)])
    print(story.followed, story.decisions)
    for name in [*story.active]:
        print(name, [(round(a-t0,1),c) for a,c in story.seen.replicas.get(name,[])])
        for s in story.seen.conditions.get((name,"ScalingActive"),[]):
            print("    ", round(s.at-t0,1), *s[1:])
        for s in story.seen.conditions.get((name,"FallbackActive"),[])[1:]:
            print("   F ", round(s.at-t0,1), *s[1:])
    print(story.operator.metric("rlscaler_decisions_late_total"), story.operator.metric("rlscaler_decisions_in_time_total"))
    for l in story.operator.log(): print(str(l)[:250])
