"""A running operator lives with wrong, odd and barely right resources: each gets its conditions, and none harms others.

At first those that the API server accepts; then, under a CRD that lets everything pass as an older one might, those
that it would refuse. A workload without fault stands among them, and must follow its load all the time.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster_access import ApiError
from fault_scene import SHOP, Scene
from fuzzed_resources import fuzzed_resources
from operator_process import OperatorProcess
from processes import wait_until
from rlscaler.crd import crd
from rlscaler.custom_resource import ResourceError, resource_from_object
from shop import deployment, replicas

pytestmark = [pytest.mark.components("kubernetes", "kwok", "prometheus"), pytest.mark.timeout(600)]

SEED, SOUND, UNSOUND = 20261, 300, 150
"""Resources that can be read, and that cannot."""
SHOPS = 40
"""Deployments that the resources scale. None of them makes a pod: some are asked for 100,000."""
RLSCALERS = f"/apis/rlscaler.io/v1alpha1/namespaces/{SHOP}/rlscalers"
PATIENCE = 150.0
AT_ONCE = 8
NOTES: tuple[dict[str, str], ...] = tuple(
    {f"rlscaler.io/{name}": text}
    for name, texts in {
        "force-replicas": ("7", "0", "-1", "", "x", "1e9", "2147483647", "2147483648", "9" * 30, "7.0", " 7", "\u0667"),
        "paused": ("", "true", "false", "False", "no", "x" * 5000),
    }.items()
    for text in texts
)
"""Annotations for the person on call, right and wrong."""


def test_an_operator_lives_with_all_of_them(tmp_path: Path) -> None:
    with Scene(tmp_path) as scene:
        for number in range(SHOPS):
            target = deployment(SHOP, f"web-{number}")
            target["spec"]["paused"] = True  # from its beginning, so that it never makes a ReplicaSet
            scene.cluster.request("POST", f"/apis/apps/v1/namespaces/{SHOP}/deployments", target)
        scene.exporter.rate("http_requests_total", 30.0, app="web")  # what most of them ask for
        scene.workload("steady", 50.0)
        operator = scene.operator("one", lease=15.0).start()
        sound, unsound = fuzzed(readable=True), fuzzed(readable=False)

        create(scene, "sound", itertools.islice(sound, SOUND))
        told = ready(scene, operator, "sound")
        assert len(told) == SOUND, "some were refused"
        assert told.count("True") > SOUND / 4
        follows(scene, operator, 80.0)

        for_each(lambda name, other: put_spec(scene, name, other["spec"]), names(scene, "sound"), sound)
        assert len(ready(scene, operator, "sound")) == SOUND
        for_each(lambda name, notes: annotate(scene, name, notes), names(scene, "sound"), itertools.cycle(NOTES))
        wait_until(lambda: "False" in ready(scene, operator, "sound"), "no annotation is told to be wrong", PATIENCE)
        follows(scene, operator, 120.0)

        let_all_pass(scene)
        sees_all(scene)
        create(scene, "unsound", itertools.islice(unsound, 2 * UNSOUND))
        ready(scene, operator, "unsound")
        unusable = [item for item in listed(scene, "unsound") if not is_readable(core(item))]
        assert len(unusable) >= UNSOUND
        wrong = [item for item in unusable if ready_condition(item).get("reason") != "InvalidSpec"]
        assert not wrong, f"{len(wrong)} that cannot be used are not said to be so, such as {wrong[0]}"
        follows(scene, operator, 160.0)

        all_of_them = [*names(scene, "sound"), *names(scene, "unsound")]
        for_each(lambda name: scene.cluster.request("DELETE", f"{RLSCALERS}/{name}"), all_of_them)
        follows(scene, operator, 200.0)
        traces = [line for line in operator.log() if "traceback" in line or "Traceback" in str(line.get("text"))]
        assert not traces, traces[0]
        assert operator.process.running


def fuzzed(*, readable: bool) -> Iterator[dict[str, Any]]:
    """Yield resources that can be read, or that cannot; those that name `web` scale one of the Deployments."""
    number = 0
    for case in fuzzed_resources(SEED):
        if is_readable(case.resource) == readable:
            spec = case.resource.get("spec")
            reference = spec.get("scaleTargetRef") if isinstance(spec, dict) else None
            if isinstance(reference, dict) and reference.get("name") == "web":
                reference["name"] = f"web-{number % SHOPS}"
            number += 1
            yield case.resource


def is_readable(resource: dict[str, Any]) -> bool:
    """Tell whether a resource can be used."""
    try:
        resource_from_object(resource)
    except ResourceError:
        return False
    return True


def core(item: dict[str, Any]) -> dict[str, Any]:
    """Return what the operator reads of a resource: names were put right, and what else there may be means nothing."""
    kept = {name: item[name] for name in ("apiVersion", "kind", "spec") if name in item}
    return kept | {"metadata": {"name": item["metadata"]["name"]}}


def create(scene: Scene, prefix: str, resources: Iterable[dict[str, Any]]) -> None:
    """Create resources under names of their own; what is not even an object of this kind is refused."""

    def one(resource: dict[str, Any], number: int) -> None:
        metadata = resource.get("metadata")
        known = metadata if isinstance(metadata, dict) else {}
        with suppress(ApiError):
            scene.cluster.request("POST", RLSCALERS, {**resource, "metadata": known | {"name": f"{prefix}-{number}"}})

    for_each(one, resources, itertools.count())


def put_spec(scene: Scene, name: str, spec: dict[str, Any]) -> None:
    """Put another spec in the place of the one that a resource has."""
    patch = [{"op": "replace", "path": "/spec", "value": spec}]
    scene.cluster.request("PATCH", f"{RLSCALERS}/{name}", patch, "application/json-patch+json")


def annotate(scene: Scene, name: str, annotations: dict[str, str]) -> None:
    """Annotate a resource."""
    scene.cluster.request("PATCH", f"{RLSCALERS}/{name}", {"metadata": {"annotations": annotations}})


def let_all_pass(scene: Scene) -> None:
    """Take all that it says of the spec out of the CRD."""
    definition = crd()
    (version,) = definition["spec"]["versions"]
    version["schema"]["openAPIV3Schema"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    scene.cluster.apply(definition)
    loose = {"apiVersion": "rlscaler.io/v1alpha1", "kind": "RLScaler", "metadata": {"name": "loose"}, "spec": {}}

    def passes() -> bool:
        try:
            scene.cluster.request("POST", RLSCALERS, loose, query={"dryRun": "All"})
        except ApiError:
            return False
        return True

    wait_until(passes, "the loose CRD is not in force", PATIENCE)


def sees_all(scene: Scene) -> None:
    """Return once the operator is shown what the loose CRD lets pass: a watch from before leaves it out for a while."""
    numbers = itertools.count()
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web-0"}
    spec = {"scaleTargetRef": reference, "maxReplicas": 5, "metrics": {"load": {"query": "up", "unknown": 1}}}

    def said_of(name: str) -> str:
        (item,) = listed(scene, name)
        return str(ready_condition(item).get("reason", ""))

    def is_seen() -> bool:
        name = f"canary-{next(numbers)}"
        body = {"apiVersion": "rlscaler.io/v1alpha1", "kind": "RLScaler", "metadata": {"name": name}, "spec": spec}
        try:
            scene.cluster.request("POST", RLSCALERS, body)
            wait_until(lambda: said_of(name) != "", f"nothing is said of {name}", PATIENCE)
            found = said_of(name)
            scene.cluster.request("DELETE", f"{RLSCALERS}/{name}")
        except ApiError:  # its storage of this kind is made anew just now
            return False
        return found == "InvalidSpec"

    wait_until(is_seen, "the operator is not shown what the loose CRD lets pass", PATIENCE)


def listed(scene: Scene, prefix: str) -> list[dict[str, Any]]:
    """Return the resources whose names begin so."""
    items = scene.cluster.request("GET", RLSCALERS)["items"]
    return [item for item in items if item["metadata"]["name"].startswith(prefix)]


def names(scene: Scene, prefix: str) -> list[str]:
    """Return the names that begin so."""
    return [item["metadata"]["name"] for item in listed(scene, prefix)]


def ready(scene: Scene, operator: OperatorProcess, prefix: str) -> list[str]:
    """Return whether each is ready, "True" or "False", once the operator has said so of its present generation."""
    said: dict[str, str] = {}
    silent: dict[str, Any] = {}

    def all_said() -> bool:
        for item in listed(scene, prefix):
            name, of = item["metadata"]["name"], ready_condition(item)
            if of.get("status") in ("True", "False") and of["observedGeneration"] == item["metadata"]["generation"]:
                said[name] = of["status"]
                silent.pop(name, None)
            else:
                silent[name] = item
        return not silent

    try:
        operator.process.wait_until(all_said, f"some of {prefix} are not reported on", PATIENCE)
    except RuntimeError as error:
        raise RuntimeError(f"{error}\n{len(silent)} are left, such as {next(iter(silent.values()))}") from None
    return list(said.values())


def ready_condition(item: dict[str, Any]) -> dict[str, Any]:
    """Return the condition Ready of a resource, {} where it has none."""
    conditions = {each["type"]: each for each in (item.get("status") or {}).get("conditions", ())}
    found: dict[str, Any] = conditions.get("Ready", {})
    return found


def follows(scene: Scene, operator: OperatorProcess, load: float) -> None:
    """Check that the workload without fault follows its load of 10 requests/s a replica."""
    scene.load("steady", load)
    operator.process.wait_until(
        lambda: replicas(scene.cluster, SHOP, "steady") >= load / 10.0, "the load is not followed any more", PATIENCE
    )


def for_each(work: Callable[..., object], names: Iterable[Any], *others: Iterator[Any]) -> None:
    """Do something with each, and with one each of the others, several at once."""
    every = [(each, *map(next, others)) for each in names]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda arguments: work(*arguments), every))
