"""The chart of rlscaler-learning on a real API server with KubeRay's definitions, and what a job does at its end there.

What is wrong is refused: the API server holds every field of a RayJob and a RayService to KubeRay's schemas. A job
publishes as the chart's account, with the chart's rights, by the very command of its script.
"""

import copy
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import kuberay
import served_artifacts
from cluster_access import ClusterAccess, KubectlError
from command_line import mistakes, run, working_in
from kuberay import NAME, RELEASE
from rlscaler.artifact import Artifact, save
from rlscaler_operator.cluster import Cluster
from rlscaler_operator.policy_store import PolicyStore

pytestmark = pytest.mark.components("kuberay", "helm")

HOME = "learning-home"
"""Namespace of the release, which takes only pods of the `restricted` standard."""
EVERYTHING: dict[str, Any] = {
    "train": {"enabled": True, "policy": "web", "workers": 2, "arguments": ["--steps=1000", "--scenario=it's"]},
    "sweep": {"enabled": True, "policy": "best", "file": {"learner": "apg", "trials": 4, "parallel": 4}},
    "serve": {
        "enabled": True,
        "policies": [
            {"name": "learned"},
            {"name": "web", "configMap": "policy-web"},
            {"name": "shop", "path": "runs/shop/policy.rlz"},
        ],
    },
    "volume": {"persistentVolumeClaim": {"claimName": "learning"}},
    "networkPolicy": {"enabled": True, "serveFrom": [{"namespaceSelector": {}}]},
    "job": {"labels": {"kueue.x-k8s.io/queue-name": "learning"}},
    "image": {"digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "affinity": {"podAntiAffinity": {}},
    "tolerations": [{"operator": "Exists"}],
    "podLabels": {"team": "platform"},
    "podAnnotations": {"a": "b"},
    "extraEnv": [{"name": "OMP_NUM_THREADS", "value": "2"}],
    "commonLabels": {"team": "platform"},
}
SMALLEST: dict[str, Any] = {
    "train": {"enabled": True, "learner": "apg"},
    "sweep": {"enabled": True, "policy": "best", "file": {"rule": "growth-quantile"}, "workers": 0},
    "serve": {"enabled": True, "replicas": 1},
    "ray": {"token": False},
}


@pytest.fixture(scope="module")
def plane(control_plane: ClusterAccess) -> Iterator[ClusterAccess]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME, "labels": labels}})
    with kuberay.installed(control_plane):
        yield control_plane
    control_plane.kubectl("delete", "namespace", HOME, "--wait=false")


@pytest.mark.parametrize("values", [EVERYTHING, SMALLEST], ids=["everything", "smallest"])
def test_the_api_server_takes_every_object_strictly(plane: ClusterAccess, values: dict[str, Any]) -> None:
    objects = kuberay.rendered(values, HOME)
    assert {"RayJob", "RayService", "ConfigMap", "Role"} <= {kind for kind, _ in objects}
    dry = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    told = plane.kubectl(*dry, input=kuberay.text(objects))
    assert told.count("(server dry run)") == len(objects)


def in_the_job(change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda job: change(kuberay.cluster_of(job))


def put(path: str, value: Any) -> Callable[[Any], None]:
    """Return what sets a field of an object, by its path with dots."""

    def change(item: Any) -> None:
        *before, last = path.split(".")
        for step in before:
            item = item[int(step) if isinstance(item, list) else step]
        item[last] = value

    return change


WRONG: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "an unknown field of a job": ("RayJob", put("spec.retries", 2), 'unknown field "spec.retries"'),
    "an unknown field of its cluster": (
        "RayJob",
        put("spec.rayClusterSpec.headGroupSpec.template.spec.volume", []),
        'unknown field "spec.rayClusterSpec.headGroupSpec.template.spec.volume"',
    ),
    "a number as text": ("RayJob", put("spec.backoffLimit", "two"), "spec.backoffLimit"),
    "no image's name but a number": (
        "RayJob",
        put("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0.image", 7),
        "spec.rayClusterSpec.workerGroupSpecs[0].template.spec.containers[0].image",
    ),
    "a token mode that is none": (
        "RayService",
        put("spec.rayClusterConfig.authOptions.mode", "password"),
        "spec.rayClusterConfig.authOptions.mode",
    ),
    "a configuration that is no text": ("RayService", put("spec.serveConfigV2", {}), "spec.serveConfigV2"),
    "a service without a cluster": ("RayService", put("spec", {"serveConfigV2": ""}), "spec.rayClusterConfig"),
}


@pytest.mark.parametrize(("kind", "change", "told"), WRONG.values(), ids=list(WRONG))
def test_what_kuberay_does_not_know_is_refused(
    plane: ClusterAccess, kind: str, change: Callable[[Any], None], told: str
) -> None:
    objects = kuberay.rendered({**EVERYTHING, "sweep": {"enabled": False}}, HOME)
    item = copy.deepcopy(kuberay.ray(kind, objects))
    change(item)
    with pytest.raises(KubectlError) as caught:
        plane.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=yaml.safe_dump(item))
    assert told in str(caught.value)


def test_its_pods_are_let_in_where_only_restricted_ones_are(plane: ClusterAccess) -> None:
    objects = kuberay.rendered({**EVERYTHING, "imagePullSecrets": []}, HOME)
    templates = [each for (kind, _), item in objects.items() if kind.startswith("Ray") for each in kuberay.pods(item)]
    assert len(templates) == 8
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": HOME}}
    plane.apply(account)
    made = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            **each,
            "metadata": {**each["metadata"], "name": f"p{k}", "namespace": HOME},
        }
        for k, each in enumerate(templates)
    ]
    told = plane.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", input=yaml.safe_dump_all(made))
    assert told.count("created (server dry run)") == len(made)


# --- what a job publishes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with working_in(tmp_path_factory) as folder:
        yield folder


@pytest.fixture
def job(plane: ClusterAccess, namespace: str, place: Path) -> list[str]:
    """Return how a kubectl and a rlscaler say that they are the account of a release, really made in `namespace`."""
    values = {**EVERYTHING, "publish": {"namespace": namespace}}
    plane.kubectl("apply", "--server-side", "-f", "-", input=kuberay.text(kuberay.rendered(values, HOME)))
    kubeconfig = plane.kubeconfig_for(plane.token_for(HOME, NAME), place / "job.kubeconfig")
    return ["--kubeconfig", str(kubeconfig)]


def last_command(plane: ClusterAccess, job: str) -> list[str]:
    """Return the command by which a job's script publishes, of the script that the API server has."""
    maps = plane.request("GET", f"/api/v1/namespaces/{HOME}/configmaps", query={"limit": "50"})["items"]
    (script,) = (each["data"]["run.sh"] for each in maps if each["metadata"]["name"].startswith(f"{NAME}-{job}-"))
    line = script.replace("\\\n", " ").strip().splitlines()[-1]
    return shlex.split(line)


def published(plane: ClusterAccess, namespace: str) -> PolicyStore:
    """Return the operator's policies, with those of the ConfigMaps that it finds."""
    cluster = Cluster.connect(str(plane.kubeconfig))
    try:
        store = PolicyStore()
        store.offer(cluster.list_config_maps(namespace, "rlscaler.io/policy=true"))
    finally:
        cluster.close()
    store.refresh()
    assert store.notes() == []
    return store


def artifact(path: Path, seed: float = 0.0, **scores: float) -> Artifact:
    """Write an artifact that a learner could have made, and return it."""
    made = served_artifacts.table(scores=scores, provenance={"seed": seed})
    save(made, path)
    return made


def test_what_a_job_trained_is_where_the_operator_reads_it(
    plane: ClusterAccess, job: list[str], namespace: str, place: Path
) -> None:
    program, publish, file, *rest = last_command(plane, "train")
    assert (program, publish, file) == ("rlscaler", "publish", "$run/policy.rlz")
    path = place / "policy.rlz"
    for seed in (1.0, 2.0):  # the second one takes the first one's place
        made = artifact(path, seed, validation_score=1.0, untrained_score=1.5)
        done = run("publish", str(path), *rest, *job)
        assert done.exit_code == 0, done.output
        policy, in_use = published(plane, namespace).get("web")
        assert in_use.digest == made.digest
        assert policy.state(1) == {}
        assert f'spec.policy: {{name: web, digest: "{made.digest}"}}' in done.output

    program, publish, file, *rest = last_command(plane, "sweep")
    assert (program, publish, file) == ("rlscaler", "publish", "$run/best.rlz")
    assert run("publish", str(path), *rest, *job).exit_code == 0
    assert published(plane, namespace).get("best")[1].digest == made.digest


def rights(plane: ClusterAccess, who: list[str], namespace: str) -> list[dict[str, Any]]:
    """Return the rules by which somebody may do something in a namespace."""
    review = {"kind": "SelfSubjectRulesReview", "apiVersion": "authorization.k8s.io/v1"}
    asked = yaml.safe_dump({**review, "spec": {"namespace": namespace}})
    answer = yaml.safe_load(plane.kubectl(*who, "create", "--validate=false", "-f", "-", "-o", "yaml", input=asked))
    rules: list[dict[str, Any]] = answer["status"]["resourceRules"]
    return rules


def test_a_job_may_write_the_config_maps_of_its_policies_and_do_nothing_else(
    plane: ClusterAccess, job: list[str], namespace: str, place: Path
) -> None:
    nobody = plane.kubeconfig_for(plane.token_for(HOME, "default"), place / "nobody.kubeconfig")
    expected = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["policy-web", "policy-best"],
                "verbs": ["create", "patch"]}  # fmt: skip
    for space in (HOME, namespace, "default"):
        own, everyone = (rights(plane, who, space) for who in (job, ["--kubeconfig", str(nobody)]))
        assert [each for each in own if each not in everyone] == ([expected] if space == namespace else []), space
    path = place / "other.rlz"
    artifact(path)
    for elsewhere in (["--name", "other", "-n", namespace], ["--name", "web", "-n", HOME]):
        (told,) = mistakes(run("publish", str(path), *elsewhere, *job))
        assert "grant this user the verb 'patch' on 'configmaps'" in told


def test_a_key_that_somebody_else_wrote_is_not_overwritten(plane: ClusterAccess, namespace: str, place: Path) -> None:
    path, mine = place / "mine.rlz", ("-n", namespace, "--kubeconfig", str(plane.kubeconfig))
    other, made = place / "theirs.rlz", artifact(path)
    other.write_bytes(b"\xff of somebody else")
    plane.kubectl("create", "configmap", "policy-mine", "-n", namespace, f"--from-file=mine.rlz={other}")
    (told,) = mistakes(run("publish", str(path), "--name", "mine", *mine))
    assert "conflict" in told
    assert "choose another --configmap, or take it over by --force" in told
    assert run("publish", str(path), "--name", "mine", "--force", *mine).exit_code == 0
    assert published(plane, namespace).get("mine")[1].digest == made.digest
    (told,) = mistakes(run("publish", str(path), "--name", "mine", "-n", "nowhere", *mine[2:]))
    assert 'namespaces "nowhere" not found' in told


def test_a_config_map_holds_several_policies(plane: ClusterAccess, namespace: str, place: Path) -> None:
    """What is applied anew takes away what the same manager applied before and does not name any more."""
    into = ("--configmap", "policies", "-n", namespace, "--kubeconfig", str(plane.kubeconfig))
    made = {}
    long = "long" * 60
    for name, seed in (("policies", 0.5), ("first", 1.0), ("second", 2.0), (long, 3.0), ("first", 4.0)):
        made[name] = artifact(place / "several.rlz", seed).digest
        done = run("publish", str(place / "several.rlz"), "--name", name, *into)
        assert done.exit_code == 0, done.output
    there = published(plane, namespace)
    assert {name: there.get(name)[1].digest for name in made} == made


def test_a_folder_that_the_operator_mounts_serves_as_well(place: Path, tmp_path: Path) -> None:
    made = artifact(place / "folder.rlz", validation_score=2.0, untrained_score=1.0)
    arguments = ("publish", str(place / "folder.rlz"), "--name", "web", "--folder", str(tmp_path))
    (told,) = mistakes(run(*arguments))
    assert "validation score 2.000 is no better than 1.000 of the rule that it corrects" in told
    assert list(tmp_path.iterdir()) == []
    assert run(*arguments, "--any-score").exit_code == 0
    assert PolicyStore(tmp_path).get("web")[1].digest == made.digest


MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no file": (("nowhere.rlz",), "nowhere.rlz: cannot be read"),
    "no artifact": (("job.kubeconfig",), "job.kubeconfig: "),
    "a built-in name": (("good.rlz", "--name", "hpa"), "--name hpa is a built-in policy; give this one another name"),
    "no name": (("good.rlz", "--name", "Web_1"), "--name Web_1: expected a DNS-1123 name"),
    "no ConfigMap": (("good.rlz", "--configmap", "-"), "--configmap -: expected a DNS-1123 name"),
    "no namespace": (("good.rlz", "-n", "a.b"), "--namespace a.b: expected a DNS-1123 label"),
    "two places": (("good.rlz", "--folder", ".", "-n", "a"), "--folder is given with a ConfigMap or its namespace"),
    "no folder": (("good.rlz", "--folder", "nowhere"), "--folder nowhere: there is no such folder"),
    "too large": (("large.rlz", "-n", "a"), "a ConfigMap holds 1,048,576 at most; put it into a volume"),
}


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_told_before_anything_is_written(
    place: Path, arguments: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact(place / "good.rlz")
    (place / "job.kubeconfig").write_text("kind: Config\n")
    if "large.rlz" in arguments:
        artifact(place / "large.rlz")
        monkeypatch.setattr("rlscaler_operator.publishing.dumps", lambda _: bytes(2**20 + 1))
    (told,) = mistakes(run("publish", *arguments))
    assert sentence in told
    assert RELEASE not in told
