"""Dry-run and mode Shadow write nothing to any target, whatever the resources and the metrics are.

The witness is the API server's audit log. The operator speaks here with an account that may do everything, so that
only itself keeps it from writing; that the witness sees writes is shown by one workload that is made Active at last.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster_access import ApiError
from fault_scene import HOME, SHOP, Scene, who
from processes import wait_until
from rlscaler.custom_resource import ResourceError, resource_from_object
from rlscaler.resource_status import FIELDS
from shadow_world import POOL, Shadowed, Weather, hpa, resources, target
from shop import deployment, rlscaler, status

pytestmark = [pytest.mark.components("kubernetes", "kwok", "prometheus"), pytest.mark.timeout(600)]

SEED = 2025
WORKLOADS, ROUNDS = 50, 18
READS = ("get", "list", "watch")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCALERS = f"/apis/rlscaler.io/v1alpha1/namespaces/{SHOP}/rlscalers"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("writes-nothing")) as scene:
        scene.cluster.kubectl("apply", "-f", str(EXAMPLES / "workloads" / "encoderpools.yaml"))
        scene.cluster.kubectl("wait", "crd/encoderpools.media.example.com", "--for=condition=Established")
        yield scene


class Shadows:
    """The workloads after their story, and what was seen of it.

    decisions: those that were made in mode Shadow. writes: requests of the operator that were no reads. said: what
    conditions and decisions said at some time. apart: how often more or fewer replicas were decided than the target
    asked for. before, after: replicas of the targets.
    """

    def __init__(self, scene: Scene) -> None:
        """Make them, and let it happen."""
        self.scene, self.cluster = scene, scene.cluster.quiet()
        self._rng, self.decisions = random.Random(SEED), 0.0
        self.weather = Weather(self.cluster, SHOP, scene.exporter, SEED)
        self.workloads = list(islice(self._made(), WORKLOADS))
        self.weather.begin(self.workloads)
        scene.load("calm", 30.0)
        self.cluster.apply(deployment(SHOP, "calm"), rlscaler(SHOP, "calm", "Shadow"))
        self.before = {workload.name: self.replicas(workload) for workload in self.workloads}
        self.operator = scene.operator("shadow", lease=8.0, targets=[POOL])
        self.operator.start()
        self.said: set[tuple[str, str]] = set()
        self.apart: Counter[str] = Counter()
        for number in range(ROUNDS):
            self.weather.change(self.workloads)
            self._disturb(number)
            self._wait_for_decisions()
            self._look()
        scene.exporter.broken = False
        self.decisions += self._decided()
        self.after = {workload.name: self.replicas(workload) for workload in self.workloads}
        self.writes = [event for event in scene.cluster.audit() if who(event) and event["verb"] not in READS]

    def replicas(self, workload: Shadowed) -> int | None:
        """Return what a target asks for, None where the workload's target is no such thing."""
        try:
            return int(self.cluster.request("GET", f"{workload.path}/scale")["spec"].get("replicas", 0))
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def _made(self) -> Iterator[Shadowed]:
        """Make what the API server takes, each with its target; some with another owner too."""
        for resource in resources(SHOP, SEED):
            name = resource["metadata"]["name"]
            try:
                kept = self.cluster.request("POST", SCALERS, resource)
            except ApiError as error:
                if error.status not in (400, 422):
                    raise
                continue
            assert kept["spec"]["mode"] == "Shadow"
            kind = kept["spec"]["scaleTargetRef"]["kind"]
            path, made = target(SHOP, name, kind if kind in KINDS else "Deployment", self._rng)
            self.cluster.request("POST", path, made)
            if kind == "Deployment" and self._rng.random() < 0.2:
                self.cluster.request("POST", f"/apis/autoscaling/v2/namespaces/{SHOP}/horizontalpodautoscalers",
                                     hpa(SHOP, name))  # fmt: skip
            if self._rng.random() < 0.1:
                rival = rlscaler(SHOP, f"{name}-rival", "Shadow", scaleTargetRef=kept["spec"]["scaleTargetRef"])
                self.cluster.request("POST", SCALERS, rival)
            yield Shadowed(name, f"{path}/{name}")

    def _decided(self) -> float:
        return self.operator.metric("rlscaler_decisions_total", mode="Shadow")

    def _wait_for_decisions(self) -> None:
        """Let as many decisions be made as there are workloads; to be asked is work for the operator, so ask seldom."""
        made, end = self._decided() + WORKLOADS, time.monotonic() + 120.0
        while self._decided() < made:
            assert time.monotonic() < end, f"nothing is decided\n{self.operator.process.tail()}"
            time.sleep(0.5)

    def _disturb(self, number: int) -> None:
        """Let happen what concerns all of them: the operator and Prometheus come and go."""
        if number in (6, 13):
            self.decisions += self._decided()
            self.operator.stop(signal.SIGTERM if number == 6 else signal.SIGKILL)
            self.operator.start()
        elif number == 9:
            self.scene.prometheus.stop()
        elif number == 11:
            self.scene.prometheus.start()

    def _look(self) -> None:
        """Take in what is said of all of them, and how it compares with what their targets ask for."""
        folders = {workload.path.rpartition("/")[0] for workload in self.workloads}
        targets = [item for folder in folders for item in self.cluster.request("GET", folder)["items"]]
        asked = {item["metadata"]["name"]: item["spec"]["replicas"] for item in targets}
        for item in self.cluster.request("GET", SCALERS)["items"]:
            found = item.get("status") or {}
            name = item["metadata"]["name"]
            self.said |= {(each["type"], each["reason"]) for each in found.get("conditions") or ()}
            self.said |= {("Decision", reason) for reason in found.get("decision", {}).get("reasons") or ()}
            if found.get("mode") == "Shadow" and "desiredReplicas" in found and name in asked:
                more = found["desiredReplicas"] - asked[name]
                self.apart["more" if more > 0 else "fewer" if more < 0 else "as many"] += 1
            if any("is not obeyed in mode Shadow" in each["message"] for each in found.get("conditions") or ()):
                self.said.add(("AbleToScale", "NotForced"))


KINDS = ("Deployment", "StatefulSet", "ReplicaSet", "EncoderPool")


@pytest.fixture(scope="module")
def shadows(scene: Scene) -> Shadows:
    return Shadows(scene)


def harmless(event: dict[str, Any]) -> bool:
    """Tell whether a write is a report on an RLScaler, or of what the operator keeps in its own namespace.

    What was killed with the operator before the API server had read it wrote nothing.
    """
    about, verb, body = event["objectRef"], event["verb"], event.get("requestObject")
    if body is None:
        return bool(event["responseStatus"]["code"] >= 400)
    match about["resource"], about.get("subresource", ""):
        case "rlscalers", "status":
            changes = [(each["op"], each["path"]) for each in body]
            return bool(verb == "patch" and changes == [("test", "/metadata/uid"), ("add", "/status")])
        case "events", "":
            return bool(verb == "create" and body["involvedObject"]["kind"] == "RLScaler")
        case "leases" | "configmaps", "":
            return bool(about["namespace"] == HOME and about["name"].startswith("rlscaler"))
    return False


def test_shadow_writes_reports_and_nothing_else(shadows: Shadows) -> None:
    harmful = [event for event in shadows.writes if not harmless(event)]
    assert [(event["verb"], event["objectRef"], event.get("requestObject")) for event in harmful] == []
    written = {event["objectRef"]["resource"] for event in shadows.writes}
    assert written == {"rlscalers", "events", "leases", "configmaps"}


def test_no_target_has_changed_but_by_people(shadows: Shadows) -> None:
    assert shadows.after == shadows.before | shadows.weather.rewritten
    assert len(shadows.weather.rewritten) >= 5


def test_there_was_much_that_an_active_one_would_have_written(shadows: Shadows) -> None:
    """Otherwise the two tests before would say little."""
    assert shadows.decisions >= WORKLOADS * ROUNDS
    assert min(shadows.apart["more"], shadows.apart["fewer"]) >= 50, shadows.apart
    reasons = {"OwnedByHPA", "Paused", "InvalidAnnotation", "NotForced"}
    reasons |= {"MetricLossFallback", "NoData", "BadQuery", "Unreachable"}
    assert reasons <= {reason for _, reason in shadows.said}, shadows.said


def test_the_comparison_reaches_the_status_whole(shadows: Shadows) -> None:
    """It is written along with what else changes, here with a new generation."""
    cluster, bounds = shadows.cluster, iter(range(60, 1000))
    (fields,) = (each.kind for each in FIELDS if each.name == "comparison")
    assert isinstance(fields, tuple)

    def is_whole() -> bool:
        time.sleep(2.0)
        cluster.request("PATCH", f"{SCALERS}/calm", {"spec": {"maxReplicas": next(bounds)}})
        return set(status(cluster, SHOP, "calm").get("comparison", {})) == {each.name for each in fields}

    wait_until(is_whole, "the comparison is not told", 60.0, shadows.operator.process)
    told = status(cluster, SHOP, "calm")["comparison"]
    assert told["estimate"] is True
    assert told["live"].keys() == told["virtual"].keys() == {"podHours", "withinObjective", "rescales"}


def test_the_witness_sees_what_an_active_one_writes(shadows: Shadows) -> None:
    scene = shadows.scene
    scene.load("witness", 200.0)
    scene.cluster.quiet().apply(deployment(SHOP, "witness"), rlscaler(SHOP, "witness", "Active"))
    wait_until(lambda: bool(scene.resizes("witness")), "the Active one is not scaled", 60.0, shadows.operator.process)
    assert not any(harmless(event) for event in scene.resizes("witness"))


# --- dry-run


OPTIONS = (
    ("--compare", ""),
    ("--compare", "hpa", "--policy", "hpa-tuned", "--decisions", "decisions.jsonl"),
    ("--compare", "", "--trace", "daily+flash-crowd", "--report", "report.html"),
)


def random_files(count: int, size: int) -> list[list[dict[str, Any]]]:
    """Return so many files of so many resources that can be simulated, in all modes."""
    rng, found = random.Random(SEED), list[dict[str, Any]]()
    for resource in resources(SHOP, SEED):
        spec = resource["spec"]
        spec |= {"mode": rng.choice(("Shadow", "Active", "Active", "Paused")), "interval": "15s"}
        if "policy" in spec or spec.get("capacity", {}).get("concurrency") or spec.get("objective"):
            continue
        try:
            resource_from_object(resource)
        except ResourceError:
            continue
        found.append(resource)
        if len(found) == count * size:
            break
    assert {resource["spec"]["mode"] for resource in found} == {"Shadow", "Active", "Paused"}
    return [found[size * i : size * (i + 1)] for i in range(count)]


def test_dry_run_asks_nothing_of_any_cluster(scene: Scene, tmp_path: Path) -> None:
    """Not even with the rights to everything, in any mode, and with the configuration of a cluster at hand."""
    account = {"metadata": {"name": "dry-run"}}
    scene.cluster.request("POST", f"/api/v1/namespaces/{HOME}/serviceaccounts", account)
    binding = {
        "metadata": {"name": "dry-run"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "dry-run", "namespace": HOME}],
    }
    scene.cluster.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    file = scene.cluster.kubeconfig_for(scene.cluster.token_for(HOME, "dry-run"), tmp_path / "kubeconfig")
    program = str(Path(sys.executable).with_name("rlscaler"))
    command = [program, "dry-run", "--for", "10m", "--quiet", "--json", "-f", "-"]
    environment = {**os.environ, "KUBECONFIG": str(file), "HOME": str(tmp_path)}
    files = random_files(3, 4)
    for resources_of_file, options in zip(files, OPTIONS, strict=True):
        text = yaml.safe_dump_all(resources_of_file)
        done = subprocess.run(
            [*command, *options], input=text, text=True, capture_output=True, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)) == len(resources_of_file)
    user = f"system:serviceaccount:{HOME}:dry-run"
    assert scene.cluster.audit(user=user) == []
    listed = subprocess.run([program, "status", "-A", "-o", "json"], capture_output=True, env=environment)
    assert listed.returncode == 0, listed.stderr
    assert scene.cluster.audit(user=user), "it could have been seen"
