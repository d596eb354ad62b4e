"""Faults of the metrics, all at once, each with a workload of its own: nothing is lost, and the right thing is said.

The story is told once for the module: all workloads follow their load; all faults begin, beside workloads whose metrics
are well; all end, and the load is another one. The tests look at what was seen of it.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
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
from recorder import Recorder, Seen
from shop import QUERY, deployment, rlscaler

pytestmark = pytest.mark.components("kubernetes", "kwok", "prometheus")

PATIENT = 10.0
"""Seconds that the source has to answer that hangs from the start."""
HEAVY_TIMEOUT = 3.0
"""Seconds that the source `mixed` has to answer."""
AT_EASE = 8
"""Workloads without a fault in mode Shadow, whose decisions are counted; one a second each."""
LOST_AFTER = 4.0
"""Seconds of onMetricLoss.after."""
HEAVY = tuple(f"heavy-{i}" for i in range(6))
"""Workloads whose queries the source `mixed` does not answer; more than it is asked at a time."""
REAL = {"stopped": ("Unreachable", "refuses the connection"), "stuck": ("Timeout", "raise its timeout")}
"""Faults of a real Prometheus: reason, and what is said."""


class Story:
    """What was done when (monotonic seconds), and what was seen of it.

    started, faults, healed, over: when it was begun. followed: when a workload without a fault had followed its load.
    decisions: those of the workloads at ease, with the seconds in which they were made. errors: counted by
    source. events: those of all workloads at the end, by name. log: of the operator.
    """

    def __init__(self, cluster: ClusterAccess, namespace: str, directory: Path, parts: ExitStack) -> None:
        """Start what the metrics come from; parts: takes what must end."""
        self.cluster, self.namespace, self.seen = cluster, namespace, Recorder(cluster, namespace)
        self.active: list[str] = []
        self.started = self.faults = self.healed = self.over = math.nan
        self.followed: dict[str, float] = {}
        self.errors: dict[str, float] = {}
        self.decisions = (0.0, math.nan)
        self.events: dict[str, list[str]] = {}
        self.log: list[dict[str, Any]] = []
        self.exporter, self.shaky = parts.enter_context(Exporter()), parts.enter_context(Exporter())
        jobs = {"shop": self.exporter.address, "shaky": self.shaky.address}
        self.prometheus = {
            name: parts.enter_context(PrometheusServer(directory / name, jobs)) for name in ("default", *REAL)
        }
        self.mixed = Mixed()
        self.scripted = {name: parts.enter_context(FaultyPrometheus(answers(BEFORE))) for name in (*FAULTS, "lost")}
        self.scripted["mixed"] = parts.enter_context(FaultyPrometheus(self.mixed))
        self.scripted["from-start"] = parts.enter_context(FaultyPrometheus(hang))
        timeouts = {"default": 3.0, "mixed": HEAVY_TIMEOUT, "from-start": PATIENT}
        sources: dict[str, dict[str, Any]] = {
            name: {"url": one.url, "timeout": f"{timeouts.get(name, TIMEOUT):g}s"}
            for name, one in (self.prometheus | self.scripted).items()
        }
        sources["too-many-series"]["maxSeries"] = 20
        configuration = {"sources": sources, "history": "1h"}
        arguments = ["--namespace", namespace, "--lease-duration=60"]
        self.operator = OperatorProcess(
            directory, cluster.kubeconfig, configuration, lease=namespace, arguments=arguments
        )
        parts.callback(self.operator.stop)

    def workload(self, name: str, mode: str = "Active", *, source: str = "default", query: str = QUERY,
                 match: bool = True, metrics: dict[str, Any] | None = None, **spec: Any) -> None:  # fmt: skip
        """Make a Deployment and its RLScaler; the rollout is paused, so that no pods are made."""
        load = {"query": query.format(name=name), "match": {"deployment": name} if match else {}}
        target = deployment(self.namespace, name, 3)
        target["spec"]["paused"] = True
        metrics = {"source": source, "load": load, **(metrics or {})}
        scaler = rlscaler(self.namespace, name, mode, metrics=metrics, **spec)
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
        backlog = {"backlog": {"query": "heavy"}}
        self.workload("light-and-heavy", source="mixed", query="light", match=False, metrics=backlog)
        for name in HEAVY:
            self.workload(name, source="mixed", query="{name}", match=False)
        self.workload("from-start", source="from-start", query="up", match=False)

    def begin(self) -> None:
        """Start the operator, and wait until everybody follows."""
        self.operator.start()
        self.started = time.monotonic()
        self._follows("follower", BEFORE, "follower at first", 60.0)
        self.seen.watch(60.0, lambda: all(self._has(name, BEFORE) for name in self.active if name != "from-start"))

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
        made, at = self._made(), time.monotonic()
        for name in ("follower", "light", "light-and-heavy"):
            self._follows(name, 2.0 * BEFORE, f"{name} beside faults")
        self.exporter.set("load_rps", BEFORE, deployment="newcomer")
        self.workload("newcomer")
        self._follows("newcomer", BEFORE, "newcomer")
        self.seen.watch(60.0, self._all_told)
        self.decisions = (self._made() - made, time.monotonic() - at)
        self.errors = {
            name: self.operator.metric("rlscaler_source_errors_total", source=name, reason=fault.reason)
            for name, fault in FAULTS.items()
        }

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
        self.seen.watch(60.0, lambda: all(self._has(name, AFTER) for name in self.active if name != "newcomer"))
        self.over = time.monotonic()
        for event in self.cluster.request("GET", f"/api/v1/namespaces/{self.namespace}/events")["items"]:
            told = self.events.setdefault(event["involvedObject"]["name"], [])
            told.append(f"{event['type']} {event['reason']} {event['message']}")
        self.log = self.operator.log()

    def replicas(self, name: str) -> list[int]:
        """Return the counts that a Deployment had during the faults, the one before them first."""
        return self.seen.counts(name, self.faults, self.healed)

    def during(self, name: str, kind: str) -> Seen:
        """Return a condition as it stood when the faults had lasted for a while."""
        return self.seen.condition(name, kind, self.healed)

    def recovered(self, name: str) -> bool:
        """Tell whether a workload follows the load after the faults."""
        return self._has(name, AFTER)

    def _has(self, name: str, load: float) -> bool:
        active = self.seen.condition(name, "ScalingActive")
        return self.seen.count(name) >= load / 10.0 and active.reason == "ValidMetricFound"

    def _all_told(self) -> bool:
        """Tell whether every fault has been told and every loss has had its consequence."""
        lost = (self.seen.condition(name, "FallbackActive") for name in LOSSES if name != "hold")
        return all(fallback.status == "True" for fallback in lost) and all(
            self.seen.condition(name, "ScalingActive").reason not in ("Pending", "ValidMetricFound")
            for name in self.active
            if name not in ("follower", "light", "newcomer")
        )

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


def is_held(story: Story, name: str, reason: str, words: Sequence[str], source: str = "") -> None:
    """Check that a load that is unknown is told of with these words, and that the replicas stay meanwhile."""
    active = story.during(name, "ScalingActive")
    assert (active.status, active.reason) == ("False", reason), active
    named = [f"source {source} "] if source else []
    for word in ("spec.metrics.load", "Meanwhile the target is held at", *named, *words):
        assert word in active.message
    assert len(set(story.replicas(name))) == 1, story.seen.replicas[name]
    assert story.during(name, "Ready").status == "True", "a gap in the metrics makes the resource no worse"
    assert any(event.startswith(f"Warning FailedGetMetrics {reason}: ") for event in story.events[name])
    assert story.recovered(name), (story.seen.replicas[name], story.seen.condition(name, "ScalingActive"))


@pytest.mark.parametrize("name", FAULTS)
def test_a_source_without_an_answer_is_told_of_and_the_count_is_held(story: Story, name: str) -> None:
    is_held(story, name, FAULTS[name].reason, FAULTS[name].words, source=name)
    assert story.errors[name] > 0.0


@pytest.mark.parametrize("name", REAL)
def test_a_prometheus_that_is_gone_or_hangs_is_told_of_and_the_count_is_held(story: Story, name: str) -> None:
    is_held(story, name, REAL[name][0], REAL[name][1:], source=name)


@pytest.mark.parametrize("name", NUMBERS)
def test_an_answer_that_is_no_load_is_told_of_and_the_count_is_held(story: Story, name: str) -> None:
    is_held(story, name, NUMBERS[name].reason, NUMBERS[name].words)


def test_a_target_whose_exporter_fails_has_an_unknown_load_and_not_none(story: Story) -> None:
    is_held(story, "shaky", "NoMatch", ('has deployment="shaky"',))


@pytest.mark.parametrize("name", LOSSES)
def test_a_load_that_is_lost_for_long_has_the_consequence_that_the_resource_states(story: Story, name: str) -> None:
    loss, after = LOSSES[name]
    counts = [(at, count) for at, count in story.seen.replicas[name] if story.faults < at < story.healed]
    before = story.seen.counts(name, story.faults)[0]
    assert ([count for _, count in counts] or [before]) == [after(before)]
    assert story.during(name, "ScalingActive").reason == "Overloaded"
    fallback = story.during(name, "FallbackActive")
    if loss["action"] == "Hold":
        assert fallback.status == "False"
    else:
        assert (fallback.status, fallback.reason) == ("True", "MetricLossFallback")
        for word in (f"{LOST_AFTER:g}s", f"spec.onMetricLoss.action {loss['action']}", f"{loss['replicas']} replicas"):
            assert word in fallback.message
        assert fallback.at - story.faults > LOST_AFTER - 2.0, "a tick may have passed before the loss"
        assert "fallback of spec.onMetricLoss applies" in story.during(name, "ScalingActive").message
    assert story.recovered(name)
    assert story.seen.condition(name, "FallbackActive").status == "False"


def test_a_percentage_in_place_of_a_share_is_told_of_and_the_load_decides(story: Story) -> None:
    active = story.during("percent", "ScalingActive")
    assert (active.status, active.reason) == ("True", "MetricMissing")
    assert "spec.metrics.utilization: the query returns 73; expected a share, 0 to 1" in active.message
    assert story.recovered("percent")


def test_workloads_without_a_fault_are_decided_on_time(story: Story) -> None:
    made, seconds = story.decisions
    assert made >= 0.8 * AT_EASE * seconds, f"{made:g} decisions of {AT_EASE} workloads in {seconds:.1f} s"


@pytest.mark.parametrize("name", ["follower beside faults", "newcomer"])
def test_workloads_without_a_fault_go_on_following_their_load(story: Story, name: str) -> None:
    assert name in story.followed


@pytest.mark.parametrize("name", ["light", "light-and-heavy"])
def test_queries_that_hang_do_not_keep_a_light_one_of_the_same_source_waiting(story: Story, name: str) -> None:
    assert f"{name} beside faults" in story.followed
    if name == "light-and-heavy":
        active = story.during(name, "ScalingActive")
        assert (active.status, active.reason) == ("True", "MetricMissing")
        assert "spec.metrics.backlog" in active.message
        assert "make the query cheaper, or raise spec.interval" in active.message


@pytest.mark.parametrize("name", HEAVY)
def test_a_query_that_is_too_heavy_is_told_of_and_the_count_is_held(story: Story, name: str) -> None:
    is_held(story, name, "Timeout", ("make the query cheaper",), source="mixed")


def test_a_source_that_hangs_from_the_start_delays_nobody_elses_first_decision(story: Story) -> None:
    """It is waited for twice, for its past and for its load; whoever waits with it would be late by the first."""
    is_held(story, "from-start", "Timeout", (f"within {PATIENT:g} s", "raise its timeout"), source="from-start")
    told = story.during("from-start", "ScalingActive").at - story.started
    assert told - story.followed["follower at first"] > 1.4 * PATIENT


def test_the_log_has_a_line_for_each_change_and_no_traceback(story: Story) -> None:
    assert not [line for line in story.log if "traceback" in line or "text" in line]
    assert not [line for line in story.log if line["level"] == "error"]
    lines = Counter(line["workload"] for line in story.log if "workload" in line)
    assert max(lines.values()) < 20, lines.most_common(3)
