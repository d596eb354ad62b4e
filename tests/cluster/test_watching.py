"""The watches against a real API server: what they show, what they may, and how they come through its worst hours."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_access import ClusterAccess, kubeconfig
from control_plane import ControlPlane
from emptied_loop import run
from rlscaler.crd import crd
from rlscaler_operator.cluster import Cluster, ClusterError
from rlscaler_operator.conflicts import Rival
from rlscaler_operator.fleet import Fleet
from rlscaler_operator.health import watch_checks
from rlscaler_operator.listening import Kind
from rlscaler_operator.model import Key, Target, TargetKey
from rlscaler_operator.watching import SCALED_OBJECTS, Watches
from wire import Wire

pytestmark = pytest.mark.components("kubernetes")

WIDGETS = Kind("tests.example.com", "v1", "widgets", "Widget")
GADGETS = Kind("tests.example.com", "v1", "gadgets", "Gadget")
READ_ONLY = [
    {"apiGroups": ["rlscaler.io"], "resources": ["rlscalers"], "verbs": ["list", "watch"]},
    {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "replicasets"], "verbs": ["list", "watch"]},
    {"apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": ["list", "watch"]},
]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Return a control plane of this file's own, without controllers: it is shut down, and its kinds come and go."""
    with ControlPlane(tmp_path_factory.mktemp("own"), controllers=False, audit=True) as plane:
        plane.apply(crd())
        plane.kubectl("wait", "--for=condition=Established", "crd/rlscalers.rlscaler.io")
        yield plane


@pytest.fixture
def shop(own: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return a namespace in it."""
    name = f"shop-{abs(hash(request.node.name)) % 10**8}"
    own.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    for kind in ("rlscalers.v1alpha1.rlscaler.io", "deployments", "replicasets", "hpa"):
        own.kubectl("delete", kind, "--all", "-n", name)


def workload(namespace: str, name: str, kind: str = "Deployment", replicas: int = 3, **metadata: Any) -> dict[str, Any]:
    pod = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "example.com/c"}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": pod}
    whole = {"name": name, "namespace": namespace} | metadata
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": whole, "spec": spec}


def rlscaler(namespace: str, name: str, target: str = "web", kind: str = "Deployment", api: str = "apps/v1") -> Any:
    ref = {"apiVersion": api, "kind": kind, "name": target}
    spec = {"scaleTargetRef": ref, "maxReplicas": 9, "mode": "Active", "metrics": {"load": {"query": "up"}}}
    names = {"name": name, "namespace": namespace}
    return {"apiVersion": "rlscaler.io/v1alpha1", "kind": "RLScaler", "metadata": names, "spec": spec}


def hpa(namespace: str, name: str, target: str = "web") -> dict[str, Any]:
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}
    names = {"name": name, "namespace": namespace}
    spec = {"scaleTargetRef": ref, "maxReplicas": 5}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": names, "spec": spec}


def definition(kind: Kind, ready: bool = True) -> dict[str, Any]:
    """Return the CRD of a kind that counts its replicas in spec.size, and whose status takes anything."""
    loose = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    scale = {
        "specReplicasPath": ".spec.size",
        "statusReplicasPath": ".status.size",
        "labelSelectorPath": ".status.pods",
    }
    version = {
        "name": kind.version, "served": True, "storage": True, "subresources": {"status": {}, "scale": scale},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": loose, "status": loose}}},
    }  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": str(kind)},
        "spec": {"group": kind.group, "scope": "Namespaced", "names": {"kind": kind.kind, "plural": kind.plural},
                 "versions": [version]},
    }  # fmt: skip


def reader(access: ClusterAccess, path: Path, namespace: str, name: str, rules: list[Any] | None = None) -> Path:
    """Return the kubeconfig of a service account that may do what the rules say, everywhere."""
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    whole = f"{namespace}-{name}"
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": whole}
    access.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}},
        kind | {"kind": "ClusterRole", "metadata": {"name": whole}, "rules": READ_ONLY if rules is None else rules},
        kind | {"kind": "ClusterRoleBinding", "metadata": {"name": whole}, "roleRef": ref, "subjects": [subject]},
    )
    return access.kubeconfig_for(access.token_for(namespace, name), path)


class Seen:
    """Watches that run, and what they show."""

    def __init__(self, config: Path, **settings: Any) -> None:
        self.fleet = Fleet()
        self.cluster = Cluster.connect(str(config), timeout=5.0)
        self.watches = Watches(self.fleet, self.cluster, kubeconfig=str(config), **settings)

    def target(self, namespace: str, name: str = "web", kind: str = "Deployment", group: str = "apps") -> Target | None:
        return self.fleet.targets.get(TargetKey(namespace, group, kind, name))

    def desired(self, namespace: str, name: str = "web") -> int | None:
        found = self.target(namespace, name)
        return None if found is None else found.desired

    def rivals(self, namespace: str, name: str = "web") -> tuple[Rival, ...]:
        return self.fleet.rivals(self.fleet.workloads[Key(namespace, name)])


@contextlib.asynccontextmanager
async def watching(config: Path, wait: bool = True, **settings: Any) -> AsyncIterator[Seen]:
    """Run watches; with `wait`, until they are ready. They must end within a second."""
    seen = Seen(config, **settings)
    task = asyncio.create_task(seen.watches.run())
    try:
        if wait:
            await asyncio.wait_for(seen.watches.ready.wait(), 30.0)
        yield seen
    finally:
        began = time.monotonic()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        seen.cluster.close()
        assert time.monotonic() - began < 1.0
        assert not [each for each in asyncio.all_tasks() if "kopf" in str(each.get_coro())]


async def until(condition: Callable[[], Any], what: str, deadline: float = 30.0) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)


async def apply(access: ClusterAccess, *objects: Any) -> None:
    await asyncio.to_thread(access.apply, *objects)


async def kubectl(access: ClusterAccess, *arguments: str) -> None:
    await asyncio.to_thread(access.kubectl, *arguments)


# What they show


def test_what_is_there_and_what_becomes_of_it(
    local_control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """With the real controllers, and with no right but list and watch; nothing is ever written."""
    cluster, web = local_control_plane, TargetKey(namespace, "apps", "Deployment", "web")
    config = reader(cluster, tmp_path / "config", namespace, "operator")
    cluster.apply(
        workload(namespace, "web"), workload(namespace, "db", "StatefulSet"),
        workload(namespace, "old", "ReplicaSet", 2), rlscaler(namespace, "web"), hpa(namespace, "other", "db"),
    )  # fmt: skip

    async def go() -> None:
        async with watching(config, namespaces=[namespace]) as seen:
            assert set(seen.fleet.workloads) == {Key(namespace, "web")}
            kinds = {(key.kind, key.name) for key in seen.fleet.targets}
            assert kinds == {("Deployment", "web"), ("StatefulSet", "db"), ("ReplicaSet", "old")}
            assert seen.rivals(namespace) == ()
            await until(lambda: (t := seen.target(namespace)) and t.ready == 3, "pods do not become ready")
            found = seen.fleet.targets[web]
            assert (found.desired, found.replicas, found.selector, found.manager) == (3, 3, "app=web", "test")
            await kubectl(cluster, "scale", "deployment/web", "--replicas=5", "-n", namespace)
            await until(lambda: (t := seen.target(namespace)) and t.ready == 5, "the change is not seen")
            first = seen.fleet.targets[web]
            assert first.manager == "kubectl"
            await kubectl(cluster, "annotate", "rls/web", "rlscaler.io/paused=true", "-n", namespace)
            await until(lambda: seen.fleet.workloads[Key(namespace, "web")].paused, "the annotation is not seen")
            await apply(cluster, hpa(namespace, "web"))
            await until(lambda: seen.rivals(namespace), "the HPA is not seen")
            await kubectl(cluster, "delete", "hpa/web", "-n", namespace)
            await until(lambda: not seen.rivals(namespace), "the HPA's end is not seen")
            await kubectl(cluster, "delete", "deployment/web", "-n", namespace)
            await until(lambda: seen.target(namespace) is None, "the Deployment's end is not seen")
            await apply(cluster, workload(namespace, "web", replicas=2))
            await until(lambda: seen.desired(namespace) == 2, "the new Deployment is not seen")
            assert seen.fleet.targets[web].uid != first.uid
            await kubectl(cluster, "delete", "rls/web", "-n", namespace)
            await until(lambda: not seen.fleet.workloads, "the RLScaler's end is not seen")

    run(go())
    events = cluster.audit(user=f"system:serviceaccount:{namespace}:operator")
    assert {event["verb"] for event in events} == {"list", "watch"}
    assert all(event["responseStatus"]["code"] == 200 for event in events)
    assert {event["objectRef"]["namespace"] for event in events} == {namespace}
    written = cluster.request("GET", f"/apis/apps/v1/namespaces/{namespace}/deployments/web")["metadata"]
    assert not written.get("finalizers")
    assert not [name for name in written.get("annotations", {}) if "kopf" in name]


def test_a_finalizer_of_another_operator_stays(own: ControlPlane, shop: str) -> None:
    """kopf takes its default finalizer off whatever it has no use for: an operator beside us may need it."""
    theirs = ["kopf.zalando.org/KopfFinalizerMarker"]
    own.apply(rlscaler(shop, "web") | {"metadata": {"name": "web", "namespace": shop, "finalizers": theirs}})
    path = f"/apis/rlscaler.io/v1alpha1/namespaces/{shop}/rlscalers/web"

    async def go() -> None:
        async with watching(own.kubeconfig, namespaces=[shop]) as seen:
            await kubectl(own, "annotate", "rls/web", "rlscaler.io/paused=true", "-n", shop)
            await until(lambda: seen.fleet.workloads[Key(shop, "web")].paused, "the annotation is not seen")

    try:
        run(go())
        assert own.request("GET", path)["metadata"]["finalizers"] == theirs
    finally:
        own.request("PATCH", path, {"metadata": {"finalizers": None}})


def test_signals_stay_the_process_own(own: ControlPlane, shop: str) -> None:
    own.apply(workload(shop, "web"))

    async def go() -> None:
        caught = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, caught.set)
        try:
            async with watching(own.kubeconfig, namespaces=[shop]) as seen:
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.wait_for(caught.wait(), 5.0)
                await kubectl(own, "scale", "deployment/web", "--replicas=5", "-n", shop)
                await until(lambda: seen.desired(shop) == 5, "the watches ended")
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    run(go())


def test_a_task_of_somebody_else_survives_the_end_of_the_watches(own: ControlPlane, shop: str) -> None:
    async def go() -> None:
        async with watching(own.kubeconfig, namespaces=[shop]) as seen:
            others = asyncio.Event()
            task = asyncio.create_task(others.wait())
            run = asyncio.create_task(seen.watches.run())
            await asyncio.sleep(0)
            run.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await run
            assert not task.done()
            others.set()
            assert await task

    run(go())


# Rights


def test_a_right_that_is_missing_is_named_and_waited_for(
    own: ControlPlane, shop: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without HPAs nobody can tell whom a target belongs to, so there is no start; the rest is watched meanwhile."""
    config = reader(own, tmp_path / "config", shop, "half", READ_ONLY[:2])
    own.apply(rlscaler(shop, "web"), workload(shop, "web"), hpa(shop, "web"))

    async def go() -> None:
        async with watching(config, wait=False) as seen:
            await until(lambda: "horizontalpodautoscalers" in caplog.text, "nothing is said")
            await until(lambda: seen.desired(shop) == 3 and seen.fleet.workloads, "the rest is not watched")
            assert not seen.watches.ready.is_set()
            assert "horizontalpodautoscalers.autoscaling" not in seen.watches.ages()
            await asyncio.to_thread(reader, own, tmp_path / "more", shop, "half")
            await asyncio.wait_for(seen.watches.ready.wait(), 30.0)
            assert seen.rivals(shop) == (Rival("HorizontalPodAutoscaler", "web"),)

    with caplog.at_level(logging.INFO, "rlscaler"):
        run(go())
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert "grant the operator's service account the verbs list and watch on horizontalpodautoscalers" in said[0]
    assert not [record for record in caplog.records if record.exc_info]


def test_kinds_that_need_not_be_read_hold_up_no_readiness(own: ControlPlane, shop: str, tmp_path: Path) -> None:
    """KEDA and a custom kind are served, and RBAC forbids both: /readyz must not fail for ever."""
    own.apply(definition(SCALED_OBJECTS), definition(WIDGETS), workload(shop, "web"))
    for kind in (SCALED_OBJECTS, WIDGETS):
        own.kubectl("wait", "--for=condition=Established", f"crd/{kind}")
    config = reader(own, tmp_path / "config", shop, "without-keda")

    async def go() -> None:
        async with watching(config, targets=[WIDGETS]) as seen:
            checks = watch_checks(seen.watches.ages, seen.watches.names)
            refused = {f"watch-{kind}" for kind in (SCALED_OBJECTS, WIDGETS)}
            assert refused < {check.name for check in checks}
            await until(lambda: all(check.look().fine for check in checks), "it does not get ready")
            assert (WIDGETS.group, "Widget") not in seen.watches.kinds
            asked = time.monotonic()
            await until(lambda: time.monotonic() - seen.watches.ages()[str(WIDGETS)] > asked, "it is asked for once")

    try:
        run(go())
    finally:
        own.kubectl("delete", *(f"crd/{kind}" for kind in (SCALED_OBJECTS, WIDGETS)))


def test_credentials_that_are_replaced_are_read_anew(own: ControlPlane, shop: str, tmp_path: Path) -> None:
    own.apply(workload(shop, "web"))
    config = reader(own, tmp_path / "config", shop, "first")
    ours = config.read_text()

    def refused() -> bool:
        """Tell whether the first account's token is known to be void: the API server remembers a good one for 10 s."""
        old = Cluster.connect(str(tmp_path / "first"))
        try:
            old.served("keda.sh", "scaledobjects")
        except ClusterError as error:
            return error.reason == "Unauthorized"
        finally:
            old.close()
        return False

    async def go() -> None:
        host, port = own.server.removeprefix("https://").split(":")
        async with Wire(host, int(port)) as wire:
            config.write_text(ours.replace(own.server, f"https://127.0.0.1:{wire.port}"))
            async with watching(config) as seen:
                second = await asyncio.to_thread(reader, own, tmp_path / "second", shop, "second")
                config.write_text(second.read_text().replace(own.server, f"https://127.0.0.1:{wire.port}"))
                await kubectl(own, "delete", "serviceaccount/first", "-n", shop)
                (tmp_path / "first").write_text(ours)
                while not await asyncio.to_thread(refused):
                    await asyncio.sleep(0.1)
                wire.cut()
                wire.mend()
                await kubectl(own, "scale", "deployment/web", "--replicas=7", "-n", shop)
                await until(lambda: seen.desired(shop) == 7, "the watches do not come back", 60.0)

    run(go())
    used = own.audit(user=f"system:serviceaccount:{shop}:second", resource="deployments", verb="watch")
    assert used


# Kinds that come and go


def test_a_resource_whose_definition_comes_later(
    own: ControlPlane, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Our own CRD is installed after the operator, and goes again; a ScaledObject is known once KEDA is there."""
    names = {"name": "web", "namespace": "default"}
    scaled = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": names,
              "spec": {"scaleTargetRef": {"name": "web"}}}  # fmt: skip
    own.kubectl("delete", "crd/rlscalers.rlscaler.io")

    async def go() -> None:
        async with watching(own.kubeconfig, wait=False, look=0.5) as seen:
            await until(lambda: "install the chart's CRD" in caplog.text, "nothing is said")
            assert not seen.watches.ready.is_set()
            await apply(own, crd())
            await asyncio.wait_for(seen.watches.ready.wait(), 30.0)
            await until(lambda: established(own, "rlscalers.rlscaler.io"), "the CRD is not established")
            await apply(own, rlscaler("default", "web"), definition(SCALED_OBJECTS))
            await until(lambda: Key("default", "web") in seen.fleet.workloads, "the RLScaler is not seen")
            await until(lambda: established(own, "scaledobjects.keda.sh"), "the CRD is not established")
            await apply(own, scaled)
            await until(lambda: seen.rivals("default") == (Rival("ScaledObject", "web"),), "KEDA is not seen")
            await kubectl(own, "delete", "crd/scaledobjects.keda.sh")
            await until(lambda: not seen.rivals("default"), "KEDA's end is not seen")
            assert set(seen.watches.ages()) == set(seen.watches.names)

    with caplog.at_level(logging.INFO, "rlscaler"):
        run(go())
    assert not [record for record in caplog.records if record.exc_info]


def established(access: ClusterAccess, name: str) -> bool:
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    found = access.request("GET", path).get("status", {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in found)


def test_custom_targets_are_read_by_their_scale(own: ControlPlane, shop: str, tmp_path: Path) -> None:
    """Their counts are where only /scale knows; one that no workload names is never read."""
    own.apply(definition(WIDGETS))
    own.kubectl("wait", "--for=condition=Established", f"crd/{WIDGETS}")
    rules = [*READ_ONLY, {"apiGroups": [WIDGETS.group], "resources": ["widgets"], "verbs": ["list", "watch"]},
             {"apiGroups": [WIDGETS.group], "resources": ["widgets/scale"], "verbs": ["get"]}]  # fmt: skip
    config = reader(own, tmp_path / "config", shop, "custom", rules)
    api, a = f"{WIDGETS.group}/{WIDGETS.version}", TargetKey(shop, WIDGETS.group, "Widget", "a")

    def widget(name: str, size: int) -> dict[str, Any]:
        return {"apiVersion": api, "kind": "Widget", "metadata": {"name": name, "namespace": shop},
                "spec": {"size": size}}  # fmt: skip

    def status(name: str, **values: Any) -> None:
        own.request("PATCH", f"/apis/{api}/namespaces/{shop}/widgets/{name}/status", {"status": values})

    own.apply(widget("a", 4), widget("b", 5), rlscaler(shop, "a", "a", "Widget", api))
    status("a", size=3, readyReplicas=2, pods="app=a")

    async def go() -> None:
        async with watching(config, namespaces=[shop], targets=[WIDGETS, GADGETS]) as seen:

            def counts(name: str) -> tuple[int, int, int] | None:
                found = seen.target(shop, name, "Widget", WIDGETS.group)
                return None if found is None else (found.desired, found.replicas, found.ready)

            await until(lambda: counts("a") == (4, 3, 2), "the target is not read")
            found = seen.fleet.targets[a]
            assert (found.selector, found.manager) == ("app=a", "")
            await asyncio.to_thread(status, "a", readyReplicas=None)
            await until(lambda: counts("a") == (4, 3, 3), "existing replicas do not count as ready")
            await kubectl(own, "scale", "widget/a", "--replicas=8", "-n", shop)
            await until(lambda: counts("a") == (8, 3, 3), "the change is not seen")
            assert seen.fleet.targets[a].manager == "kubectl"
            assert counts("b") is None
            await apply(own, rlscaler(shop, "b", "b", "Widget", api))
            await until(lambda: counts("b") == (5, 0, 0), "a target that is named later is not read")
            await kubectl(own, "delete", "widget/a", "-n", shop)
            await until(lambda: counts("a") is None, "its end is not seen")
            assert set(seen.watches.ages()) == set(seen.watches.names)
            assert (WIDGETS.group, "Widget") in seen.watches.kinds

    try:
        run(go())
    finally:
        own.kubectl("delete", f"crd/{WIDGETS}")
    reads = own.audit(user=f"system:serviceaccount:{shop}:custom", subresource="scale")
    named = [event for event in reads if event["objectRef"]["name"] == "b"]
    assert named
    first = own.audit(user="admin", resource="rlscalers", name="b", namespace=shop)[0]
    assert all(event["requestReceivedTimestamp"] > first["requestReceivedTimestamp"] for event in named)


# The worst hours


@contextlib.asynccontextmanager
async def wired(own: ControlPlane, path: Path) -> AsyncIterator[tuple[Wire, Path]]:
    host, port = own.server.removeprefix("https://").split(":")
    async with Wire(host, int(port)) as wire:
        path.write_text(kubeconfig(f"https://127.0.0.1:{wire.port}", own.ca, own.token_of("admin")))
        yield wire, path


def test_what_went_while_the_history_was_lost(own: ControlPlane, shop: str, tmp_path: Path) -> None:
    """The watch comes back to a server that has forgotten its place (410): what went meanwhile has no event."""
    own.apply(*(rlscaler(shop, name) for name in ("kept", "gone")), workload(shop, "web"), workload(shop, "gone"))
    own.apply(hpa(shop, "web"))

    async def go() -> None:
        async with wired(own, tmp_path / "config") as (wire, config), watching(config) as seen:
            assert {key.name for key in seen.fleet.workloads if key.namespace == shop} == {"kept", "gone"}
            wire.cut()
            for name in ("rls/gone", "deployment/gone", "hpa/web"):
                await kubectl(own, "delete", name, "-n", shop)
            await kubectl(own, "delete", "deployment/web", "-n", shop)
            await apply(own, workload(shop, "web", replicas=6))
            # Its watch cache begins with what is there now; older places are answered by 410.
            own.stop_api()
            own.start_api()
            wire.mend()
            await until(lambda: seen.desired(shop) == 6, "the watches do not come back", 60.0)
            await until(lambda: Key(shop, "gone") not in seen.fleet.workloads, "the RLScaler is still there")
            await until(lambda: seen.desired(shop, "gone") is None, "the Deployment is still there")
            await until(lambda: not any(r.kind != "RLScaler" for r in seen.rivals(shop, "kept")), "the HPA is there")
            await kubectl(own, "scale", "deployment/web", "--replicas=7", "-n", shop)
            await until(lambda: seen.desired(shop) == 7, "the watches do not go on")

    run(go())


def test_an_api_server_that_is_gone_for_a_while(
    own: ControlPlane, shop: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own.apply(workload(shop, "web"))

    async def go() -> None:
        async with watching(own.kubeconfig, namespaces=[shop]) as seen:
            own.stop_api()
            await until(lambda: "cannot watch" in caplog.text, "nothing is said")
            assert seen.desired(shop) == 3
            age = max(seen.watches.ages().values())
            await until(lambda: max(seen.watches.ages().values()) > age + 0.5, "the watches seem alive")
            own.start_api()
            await kubectl(own, "scale", "deployment/web", "--replicas=4", "-n", shop)
            await until(lambda: seen.desired(shop) == 4, "the watches do not come back", 60.0)

    with caplog.at_level(logging.INFO, "rlscaler"):
        run(go())
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warned) <= len(("rlscalers", "hpas", "deployments", "statefulsets", "replicasets"))
    assert not [record for record in caplog.records if record.exc_info]


def test_a_watch_that_has_died_in_silence_is_replaced(own: ControlPlane, shop: str, tmp_path: Path) -> None:
    """The connection stays open, and nothing comes over it: only the silence tells."""
    own.apply(workload(shop, "web"))

    async def go() -> None:
        async with wired(own, tmp_path / "config") as (wire, config), watching(config, inactivity=1.5) as seen:
            wire.silence()
            await kubectl(own, "scale", "deployment/web", "--replicas=9", "-n", shop)
            await until(lambda: seen.desired(shop) == 9, "the watch is not replaced", 20.0)
            assert max(seen.watches.ages().values()) < 5.0

    run(go())


def test_a_server_that_hangs_shows_in_the_ages(own: ControlPlane, shop: str) -> None:
    own.apply(workload(shop, "web"))

    async def go() -> None:
        async with watching(own.kubeconfig, namespaces=[shop], inactivity=1.5, look=1.0) as seen:
            own.pause_api()
            try:
                await until(lambda: min(seen.watches.ages().values()) > 4.0, "the watches seem alive")
            finally:
                own.resume_api()
            await until(lambda: max(seen.watches.ages().values()) < 2.0, "the watches do not come back", 60.0)
            await kubectl(own, "scale", "deployment/web", "--replicas=9", "-n", shop)
            await until(lambda: seen.desired(shop) == 9, "the watches show nothing")

    run(go())
