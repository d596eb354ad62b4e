"""People's mistakes: refused at once, or told of in a condition within a tick; nobody else notices any of them.

Each names the field, what was found there and what to write instead. The story of those that are told of is run once:
workloads without a mistake, then all mistakes at once beside them, then all corrected.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from bad_input import REFUSED, TOLD, Refused, Told
from cluster_access import ApiError, ClusterAccess, KubectlError
from load_exporter import Exporter
from operator_process import OperatorProcess
from prometheus_server import PrometheusServer
from recorder import Recorder
from rlscaler.cli import root
from shop import deployment, rlscaler

pytestmark = pytest.mark.components("kubernetes", "kwok", "prometheus")

LOAD = 60.0
"""Requests/s of every workload; 10 a replica."""
AT_EASE = 8
"""Workloads without a mistake in mode Shadow, whose decisions are counted; one a second each."""
SOON = 15.0
"""Seconds within which a mistake is told of: a tick is one, and the machine may be busy with other things."""
SCALERS = "/apis/rlscaler.io/v1alpha1/namespaces/{}/rlscalers"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"


# --- what is refused


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_refused_by_the_api_server_and_by_validate_with_the_field_and_what_is_expected(
    control_plane: ClusterAccess, case: str
) -> None:
    mistake = REFUSED[case]
    value = mistaken(mistake)
    strict = {"dryRun": "All", "fieldValidation": "Strict"}
    with pytest.raises(ApiError) as caught:
        control_plane.request("POST", SCALERS.format("default"), value, query=strict)
    for word in mistake.by_server:
        assert word in caught.value.message
    result = CliRunner().invoke(root, ["validate", "-f", "-"], prog_name="rlscaler", input=yaml.safe_dump(value))
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    for word in mistake.by_reader:
        assert word in result.stderr


def test_kubectl_shows_what_the_api_server_says(control_plane: ClusterAccess) -> None:
    mistake = REFUSED["interval in minutes"]
    with pytest.raises(KubectlError) as caught:
        control_plane.kubectl("apply", "--dry-run=server", "-f", "-", input=yaml.safe_dump(mistaken(mistake)))
    assert mistake.by_server[0] in str(caught.value)


def mistaken(mistake: Refused) -> dict[str, Any]:
    """Return a resource with a mistake."""
    value = rlscaler("default", "web")
    value["spec"] = {name: field for name, field in (value["spec"] | mistake.spec).items() if field is not None}
    return value


# --- what is told of in a condition


class Story:
    """What was done when (monotonic seconds), and what was seen of it.

    made, corrected: when each mistake was made and when all were corrected. decisions: of the workloads at ease beside
    the mistakes, with the seconds in which they were made. repeated: when a second mistake of the same kind was made.
    log: of the operator.
    """

    def __init__(self, cluster: ClusterAccess, namespace: str, directory: Path, parts: ExitStack) -> None:
        """Start what the workloads need; parts: takes what must end."""
        self.cluster, self.namespace, self.seen = cluster, namespace, Recorder(cluster, namespace)
        self.made: dict[str, float] = {}
        self.corrected = self.repeated = math.nan
        self.decisions = (0.0, math.nan)
        self.log: list[dict[str, Any]] = []
        exporter = parts.enter_context(Exporter())
        for name in ("follower", *self.at_ease, *TOLD):
            exporter.set("load_rps", 0.5 * LOAD if name == "several-pods" else LOAD, deployment=name, pod="a")
        exporter.set("load_rps", 0.5 * LOAD, deployment="several-pods", pod="b")
        prometheus = parts.enter_context(PrometheusServer(directory / "prometheus", {"shop": exporter.address}))
        self.operator = OperatorProcess(
            directory, cluster.kubeconfig, {"sources": {"default": {"url": prometheus.url}}, "history": "1h"},
            lease=namespace, arguments=["--namespace", namespace, "--lease-duration=60"],
        )  # fmt: skip
        parts.callback(self.operator.stop)

    @property
    def at_ease(self) -> list[str]:
        """The names of the workloads at ease."""
        return [f"at-ease-{i}" for i in range(AT_EASE)]

    def workload(self, name: str, mode: str = "Active", mistake: Told | None = None) -> None:
        """Make the RLScaler of a Deployment."""
        scaler = rlscaler(self.namespace, name, mode)
        if mistake is not None:
            scaler["metadata"]["annotations"] = dict(mistake.annotations)
            scaler["spec"] |= named(mistake.spec, name)
        self.made[name] = time.monotonic()
        self.cluster.request("POST", SCALERS.format(self.namespace), scaler)

    def tell(self) -> None:
        """Run the story."""
        for name in ("follower", *self.at_ease, *TOLD):
            target = deployment(self.namespace, name, 3)
            target["spec"]["paused"] = True  # no pods are made
            self.cluster.request("POST", DEPLOYMENTS.format(self.namespace), target)
        for name in self.at_ease:
            self.workload(name, "Shadow")
        self.workload("follower")
        self.operator.start()
        self.seen.watch(60.0, lambda: self.is_fine("follower") and self.seen.count("follower") > 3)
        count, at = self._count(), time.monotonic()
        for name, mistake in TOLD.items():
            self.workload(name, mistake=mistake)
        self.seen.watch(60.0, lambda: all(self.is_told(name) for name in TOLD))
        self.seen.watch(5.0)
        self.decisions = (self._count() - count, time.monotonic() - at)
        self.repeated = time.monotonic()
        metrics = {"load": {"query": "sum(load_rps))"}}
        self._patch("unclosed", {"spec": {"metrics": metrics}})
        self.seen.watch(SOON, lambda: "unexpected right parenthesis" in self._message("unclosed"))
        self.corrected = time.monotonic()
        for name in TOLD:
            self._correct(name)
        self.seen.watch(60.0, lambda: all(self.is_fine(name) for name in TOLD))
        self.log = self.operator.log()

    def is_told(self, name: str) -> bool:
        """Tell whether the condition of a mistake is seen."""
        found, mistake = self.seen.condition(name, TOLD[name].condition), TOLD[name]
        return (found.status, found.reason) == (mistake.status, mistake.reason)

    def is_fine(self, name: str) -> bool:
        """Tell whether a workload is without a fault."""
        wanted = {"Ready": "Ready", "ScalingActive": "ValidMetricFound", "FallbackActive": "NoFallback"}
        if self.seen.condition(name, "AbleToScale").status != "True":
            return False
        return all(self.seen.condition(name, kind).reason == reason for kind, reason in wanted.items())

    def _message(self, name: str) -> str:
        return self.seen.condition(name, "ScalingActive").message

    def _correct(self, name: str) -> None:
        path = f"{SCALERS.format(self.namespace)}/{name}"
        found = self.cluster.request("GET", path)
        found["spec"] = rlscaler(self.namespace, name)["spec"]
        if name == "several-pods":
            found["spec"]["metrics"]["load"]["query"] = "sum by (deployment) (load_rps)"
        found["metadata"].pop("annotations", None)
        self.cluster.request("PUT", path, found)

    def _patch(self, name: str, change: dict[str, Any]) -> None:
        self.cluster.request("PATCH", f"{SCALERS.format(self.namespace)}/{name}", change)

    def _count(self) -> float:
        return self.operator.metric("rlscaler_decisions_total", mode="Shadow")


def named(value: Any, name: str) -> Any:
    """Return a value with {name} filled in, in all its texts that have it."""
    return json.loads(json.dumps(value).replace("{name}", name))


@pytest.fixture(scope="module")
def story(control_plane: ClusterAccess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    namespace = "bad-input"
    control_plane.create_namespace(namespace)
    with ExitStack() as parts:
        told = Story(control_plane, namespace, tmp_path_factory.mktemp("bad-input"), parts)
        told.tell()
        yield told
    control_plane.request("DELETE", f"/api/v1/namespaces/{namespace}")


@pytest.mark.parametrize("name", TOLD)
def test_a_mistake_is_told_of_at_once_with_the_field_what_was_found_and_what_to_write(story: Story, name: str) -> None:
    mistake = TOLD[name]
    seen = [each for each in story.seen.conditions[name, mistake.condition] if each.reason != "Pending"]
    first = seen[0]
    assert (first.status, first.reason) == (mistake.status, mistake.reason), "the first that is told of it"
    for word in mistake.words:
        assert word.replace("{name}", name) in first.message
    assert first.at - story.made[name] < SOON


@pytest.mark.parametrize("name", TOLD)
def test_a_mistake_that_is_corrected_is_forgotten(story: Story, name: str) -> None:
    assert story.is_fine(name), {kind: each[-1] for (of, kind), each in story.seen.conditions.items() if of == name}


def test_a_second_mistake_of_the_same_kind_is_told_of_too(story: Story) -> None:
    told = story.seen.found("unclosed", "ScalingActive", story.repeated)[0]
    assert (told.status, told.reason) == ("False", "BadQuery")
    assert "spec.metrics.load.query: " in told.message
    assert "unexpected right parenthesis" in told.message


@pytest.mark.parametrize("name", [name for name, each in TOLD.items() if each.status == "False"])
def test_nothing_is_written_to_the_target_because_of_a_mistake(story: Story, name: str) -> None:
    """Where the load is known all the same, and no annotation forbids it, the decision goes on being written."""
    known = TOLD[name].condition == "Ready" and "scaleTargetRef" not in TOLD[name].spec
    counts = story.seen.counts(name, 0.0, story.corrected)
    assert (counts[-1] >= LOAD / 10.0) if known else (set(counts) == {3})


def test_workloads_without_a_mistake_are_decided_on_time(story: Story) -> None:
    made, seconds = story.decisions
    assert made >= 0.8 * AT_EASE * seconds, f"{made:g} decisions of {AT_EASE} workloads in {seconds:.1f} s"


def test_the_log_has_a_line_for_each_change_and_no_traceback(story: Story) -> None:
    assert not [line for line in story.log if "traceback" in line or "text" in line]
    assert not [line for line in story.log if line["level"] == "error"]
    lines = Counter(line["workload"] for line in story.log if "workload" in line)
    assert set(lines) >= {f"{story.namespace}/{name}" for name in TOLD}
    assert max(lines.values()) < 20, lines.most_common(3)
