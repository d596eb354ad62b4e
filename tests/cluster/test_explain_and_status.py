"""Reports written to a real API server, and what `rlscaler explain`, `rlscaler status` and kubectl make of them."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster_access import ClusterAccess
from command_line import install, mistakes, run
from control_plane import ControlPlane
from minimal_resource import MINIMAL
from rlscaler.reasons import Reason
from rlscaler.resource_status import complete
from rlscaler_operator import objects
from rlscaler_operator.clock import SystemClock
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.model import Account, Key, Note, Readings
from rlscaler_operator.reporting import Reporter
from rlscaler_operator.status import status
from workload_accounts import account, decision, target, workload

RLSCALERS = "/apis/rlscaler.io/v1alpha1/namespaces/{}/rlscalers"


@pytest.fixture
def shop(
    control_plane: ClusterAccess,
    namespace: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> "Shop":
    """Return the namespace, with the command line installed and pointed at the cluster."""
    folder = tmp_path_factory.mktemp("installed")
    install(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    return Shop(control_plane, namespace)


class Shop:
    """A namespace with RLScalers, and the operator's connection to it."""

    def __init__(self, access: ClusterAccess, namespace: str) -> None:
        self.access, self.namespace = access, namespace
        self.cluster = Cluster.connect(str(access.kubeconfig))

    def create(self, name: str, **spec: Any) -> dict[str, Any]:
        """Create an RLScaler, Active, for 2 to 100 replicas."""
        value = yaml.safe_load(MINIMAL)
        value["metadata"]["name"] = name
        value["spec"] |= {"mode": "Active", "minReplicas": 2, "maxReplicas": 100} | spec
        created: dict[str, Any] = self.access.request("POST", RLSCALERS.format(self.namespace), value)
        return created

    def get(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.access.request("GET", f"{RLSCALERS.format(self.namespace)}/{name}")
        return found

    def put(self, name: str, some: Account, **spec: Any) -> None:
        """Create an RLScaler with the status that an account gives."""
        self.create(name, **spec)
        self.cluster.patch_status(Key(self.namespace, name), complete(status(some, {})))

    def explain(self, name: str) -> str:
        """Return what `rlscaler explain` prints, its lines joined."""
        result = run("explain", name, "-n", self.namespace)
        assert result.exit_code == 0, result.output
        return " ".join(result.stdout.split())


def now(ago: float = 20.0, **fields: Any) -> Account:
    at = time.time() - ago
    made: dict[str, Any] = {
        "time": at,
        "decision": decision(time=at),
        "readings": Readings(time=at, load=132.0),
    } | fields
    return account(**made)


# --- writing to a real server


async def _reported(shop: Shop, *accounts: Account) -> list[tuple[str, str]]:
    outcomes: list[tuple[str, str]] = []
    told = lambda *what: outcomes.append(what)  # noqa: E731
    reporter = Reporter(shop.cluster, SystemClock(), lambda: True, told=told)
    work = asyncio.create_task(reporter.run())
    for some in accounts:
        reporter.report(some)
        assert await reporter.drain(20.0)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return outcomes


def test_a_status_and_its_events_stand_as_they_were_reported(shop: Shop) -> None:
    shop.create("web")
    seen = objects.workload(shop.get("web"))
    where = target(namespace=shop.namespace, replicas=6, desired=7)
    some = now(workload=seen, target=where, decision=decision(time=time.time(), replicas=7, proposal=6.81), wanted=7)
    lost = {"spec.metrics.load": Note("NoData", "spec.metrics.load: the query returns no series")}
    held = decision(time=time.time(), replicas=7, bits=int(Reason.MetricsUnknown))
    gap = now(0.0, workload=seen, target=where, readings=Readings(time=time.time(), problems=lost), decision=held)
    assert asyncio.run(_reported(shop, some, gap)) == [
        ("status", "Written"),
        ("status", "Written"),
        ("event", "Written"),
    ]

    first = status(some, {})
    expected = status(gap, first)
    stored = shop.get("web")["status"]
    moments = {each["type"]: each.pop("lastTransitionTime") for each in stored["conditions"]}
    assert set(moments) == {each["type"] for each in expected["conditions"]}
    for each in expected["conditions"]:
        del each["lastTransitionTime"]
    assert stored == expected, "the schema prunes nothing that is reported"

    path = f"/api/v1/namespaces/{shop.namespace}/events"
    (event,) = shop.access.request("GET", path, query={"fieldSelector": "involvedObject.name=web"})["items"]
    assert (event["type"], event["reason"]) == ("Warning", "FailedGetMetrics")
    assert event["message"].startswith("NoData: spec.metrics.load: the query returns no series")
    described = shop.access.kubectl("describe", "rls", "web", "-n", shop.namespace)
    assert "FailedGetMetrics" in described


def test_a_restarted_operator_writes_nothing_where_nothing_changed(shop: Shop) -> None:
    shop.create("web")
    some = now(workload=objects.workload(shop.get("web")), target=target(namespace=shop.namespace))
    assert asyncio.run(_reported(shop, some)) == [("status", "Written")]
    version = shop.get("web")["metadata"]["resourceVersion"]
    again = now(0.0, workload=objects.workload(shop.get("web")), target=target(namespace=shop.namespace))
    assert asyncio.run(_reported(shop, again)) == []
    assert shop.get("web")["metadata"]["resourceVersion"] == version


def test_a_workload_that_is_gone_is_no_fault(shop: Shop) -> None:
    shop.create("web")
    seen = objects.workload(shop.get("web"))
    shop.access.request("DELETE", f"{RLSCALERS.format(shop.namespace)}/web")
    assert asyncio.run(_reported(shop, now(workload=seen))) == [("status", "NotFound")]


# --- explain


def test_a_decision_is_told_as_a_person_would(shop: Shop) -> None:
    bits = int(Reason.ReactiveFloor | Reason.ScaleUpLimit)
    made = decision(time=time.time() - 20.0, replicas=7, demand=5.31, proposal=6.81, recommendation=6.37, bits=bits)
    shop.put("web", now(decision=made, target=target(replicas=6, ready=3), wanted=7, last_scale=time.time() - 3600.0))
    text = shop.explain("web")
    for words in (
        f"{shop.namespace}/web scales Deployment web, mode Active, 2 to 100 replicas.",
        "7 replicas decided 2",
        "Seen load that keeps 5.31 replicas busy (50 requests/s each, start-up 1m); 3 of 6 replicas ready",
        "Rule recommended 6.37 replicas.",
        "Policy default proposed 6.81 replicas.",
        "Guard ReactiveFloor: The demand now and the backlog need more replicas than were proposed.",
        "ScaleUpLimit: The scale-up policies allow no faster increase.",
        "Done the target is asked for 7 replicas. It was last scaled at",
    ):
        assert words in text, text


LOST = {"spec.metrics.load": Note("NoMatch", "spec.metrics.load: none of the 12 series has deployment=webb")}
COMPARISON = {
    "since": "2026-01-01T08:00:00Z", "over": "6h30m", "estimate": True, "savings": 22.6,
    "live": {"podHours": 40.1, "withinObjective": 99.93, "rescales": 12},
    "virtual": {"podHours": 31.04, "withinObjective": 99.95, "rescales": 30},
}  # fmt: skip
TOLD: tuple[tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...]], ...] = (
    (
        "no data",
        {"readings": Readings(time=0.0, problems=LOST), "decision": decision(bits=int(Reason.MetricsUnknown))},
        {},
        ("! ScalingActive is False (NoMatch, for", "none of the 12 series has deployment=webb", "MetricsUnknown: "),
    ),
    (
        "shadow with its comparison",
        {"workload": workload(spec={"mode": "Shadow"}), "comparison": COMPARISON},
        {"mode": "Shadow"},
        (
            "Done nothing: mode Shadow writes nothing to the target.",
            "Estimates of 6h30m of load since 2026-01-01T08:00:00Z",
            "the live replicas: 40.1 pod-hours, 99.93 % of requests within the objective, 12 rescales.",
            "rlscaler would save 22.6 % of the pod-hours, with 0.02 points more within the objective.",
        ),
    ),
    (
        "paused",
        {"workload": workload(paused=True), "wanted": None},
        {},
        ("mode Active, but Paused by rlscaler.io/paused", "nothing: the target is left at 4 replicas"),
    ),
    (
        "forced",
        {"workload": workload(force=500, spec={"maxReplicas": 100}), "wanted": 500},
        {},
        ("but Forced by rlscaler.io/force-replicas", "500 is outside of minReplicas 2 to maxReplicas 100"),
    ),
    (
        "another owner",
        {"conflict": Note("OwnedByHPA", "HorizontalPodAutoscaler web scales it too"), "wanted": None},
        {},
        ("Done nothing: AbleToScale is False (OwnedByHPA).", "! Conflict is True", "AbleToScale is False (OwnedByHPA"),
    ),
    (
        "no target",
        {"target": None, "target_problem": Note("TargetNotFound", "there is no Deployment web"), "decision": None},
        {},
        ("Nothing has been decided yet.", "! Ready is False (TargetNotFound", "there is no Deployment web"),
    ),
)


@pytest.mark.parametrize(("fields", "spec", "words"), [case[1:] for case in TOLD], ids=[case[0] for case in TOLD])
def test_what_is_not_fine_is_told(
    shop: Shop, fields: dict[str, Any], spec: dict[str, Any], words: tuple[str, ...]
) -> None:
    shop.put("web", now(**fields), **spec)
    text = shop.explain("web")
    for each in words:
        assert each in text, text


def test_a_resource_that_nobody_has_seen_says_so(shop: Shop) -> None:
    shop.create("web")
    assert "No operator has reported on it yet." in shop.explain("web")


def test_a_spec_that_changed_since_is_told(shop: Shop) -> None:
    shop.put("web", now())
    patch = {"spec": {"maxReplicas": 50}}
    shop.access.request("PATCH", f"{RLSCALERS.format(shop.namespace)}/web", patch)
    assert "The spec has changed since" in shop.explain("web")


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_machines_get_the_same(shop: Shop, output: str) -> None:
    shop.put("web", now(decision=decision(time=time.time(), bits=int(Reason.ReactiveFloor)), target=target(ready=3)))
    result = run("explain", "web", "-n", shop.namespace, "-o", output)
    found = json.loads(result.stdout) if output == "json" else yaml.safe_load(result.stdout)
    assert found["replicas"] == {"current": 4, "ready": 3, "desired": 4}
    assert found["decision"]["demand"] == 2.64
    (reason,) = found["decision"]["reasons"]
    assert reason["reason"] == "ReactiveFloor"
    assert reason["meaning"].startswith("The demand now")
    assert found["conditions"] == []
    assert found["seen"] is True
    assert found["outdated"] is False


# --- status


def test_the_table_has_those_first_that_need_somebody(shop: Shop) -> None:
    shop.put("fine", now())
    shop.put("paused", now(workload=workload(paused=True), wanted=None))
    shop.put("limited", now(decision=decision(time=time.time(), bits=int(Reason.ScaleUpLimit))))
    shop.put("lost", now(600.0, readings=Readings(time=0.0, problems=LOST)))
    shop.put("owned", now(conflict=Note("OwnedByHPA", "x"), wanted=None))
    shop.put("broken", now(target=None, target_problem=Note("TargetNotFound", "x")))
    shop.create("unseen")
    result = run("status", "-n", shop.namespace)
    assert result.exit_code == 0, result.output
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["WORKLOAD", "TARGET", "MODE", "MIN", "MAX", "NOW", "WANTED", "REASON", "FOR"]
    assert [line.split()[0] for line in lines] == ["broken", "unseen", "owned", "lost", "paused", "limited", "fine"]
    assert lines[3].split() == ["lost", "Deployment/web", "Active", "2", "100", "4", "4", "NoMatch", "10m"]
    assert lines[6].split() == ["fine", "Deployment/web", "Active", "2", "100", "4", "4", "DesiredWithinRange"]


def test_all_namespaces_are_listed_with_their_names(shop: Shop) -> None:
    shop.put("web", now())
    rows = json.loads(run("status", "-A", "-o", "json").stdout)
    (row,) = [row for row in rows if row["namespace"] == shop.namespace]
    assert row["target"] == {"kind": "Deployment", "name": "web"}
    assert row["urgency"] == 9
    names = [line.split()[0] for line in run("status", "-A").stdout.splitlines()]
    assert f"{shop.namespace}/web" in names


def test_an_empty_namespace_is_said_to_be_empty(shop: Shop) -> None:
    result = run("status", "-n", shop.namespace)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"There is no RLScaler in namespace {shop.namespace}.\n"


def test_the_context_says_which_namespace_is_meant(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.put("web", now())
    found = yaml.safe_load(shop.access.kubeconfig.read_text())
    found["contexts"][0]["context"]["namespace"] = shop.namespace
    other = {"name": "elsewhere", "context": found["contexts"][0]["context"] | {"namespace": "elsewhere"}}
    found["contexts"].append(other)
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(found))
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert run("status").stdout.splitlines()[1].startswith("web ")
    assert f"{shop.namespace}/web scales" in run("explain", "web").stdout
    assert "no RLScaler in namespace elsewhere" in run("status", "--context", "elsewhere").stderr
    assert "namespace default" in run("status", "--kubeconfig", str(shop.access.kubeconfig), "-n", "default").stderr


# --- mistakes


def test_what_is_not_there_is_a_sentence(shop: Shop) -> None:
    (line,) = mistakes(run("explain", "nosuch", "-n", shop.namespace))
    assert line == f'error: cannot read RLScaler {shop.namespace}/nosuch: rlscalers.rlscaler.io "nosuch" not found'
    (line,) = mistakes(run("status", "-n", "a", "-A"))
    assert "both --namespace a and --all-namespaces are given" in line


def test_whoever_may_not_read_is_told_what_is_missing(shop: Shop, tmp_path: Path) -> None:
    shop.access.kubectl("create", "serviceaccount", "nobody", "-n", shop.namespace)
    token = shop.access.token_for(shop.namespace, "nobody")
    config = str(shop.access.kubeconfig_for(token, tmp_path / "nobody"))
    for command in (["explain", "web"], ["status"]):
        (line,) = mistakes(run(*command, "-n", shop.namespace, "--kubeconfig", config))
        assert "cannot" in line
        assert "rlscalers" in line
        assert "grant this user the verb" in line


def test_without_a_cluster_the_way_to_one_is_told(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = mistakes(run("status", "--kubeconfig", str(tmp_path / "nosuch")))
    assert line.startswith(f"error: there is no kubeconfig at {tmp_path}/nosuch")
    (line,) = mistakes(run("explain", "web", "--context", "nosuch"))
    assert "context 'nosuch' cannot be used" in line
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "neither"))
    (line,) = mistakes(run("status"))
    assert "--kubeconfig" in line
    broken = tmp_path / "broken"
    broken.write_text("{]")
    (line,) = mistakes(run("status", "--kubeconfig", str(broken)))
    assert "cannot be used" in line
    found = yaml.safe_load(shop.access.kubeconfig.read_text())
    found["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    unreachable = tmp_path / "unreachable"
    unreachable.write_text(yaml.safe_dump(found))
    (line,) = mistakes(run("status", "--kubeconfig", str(unreachable)))
    assert "cannot be reached" in line


def test_a_cluster_without_rlscalers_is_told_apart_from_one_without_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("installed")
    install(folder)
    monkeypatch.syspath_prepend(str(folder))
    with ControlPlane(tmp_path, controllers=False) as plane:
        for command in (["explain", "web"], ["status"], ["status", "-A"]):
            (line,) = mistakes(run(*command, "--kubeconfig", str(plane.kubeconfig)))
            assert line.startswith("error: this cluster has no RLScalers: rlscalers.rlscaler.io is not installed")
