"""What each value of the chart of rlscaler-learning changes, rendered by real helm, and the commands that its jobs run.

`tests/cluster/test_kuberay.py` shows the same objects to a real API server.
"""

import json
import os
import re
import shlex
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import kuberay
from helm_chart import NAMESPACE, ChartError, Objects, helm, names_that_are_no_text
from kuberay import CHART, NAME, RELEASE, rendered
from rlscaler.policies import BUILT_IN
from rlscaler_operator.commands import publish
from rlscaler_training.commands import LEARNERS, train
from rlscaler_training.sweep_command import sweep
from rlscaler_training.sweeps import checked

pytestmark = pytest.mark.components("helm")

ROOT = Path(__file__).resolve().parents[2]
VALUES_TEXT = (CHART / "values.yaml").read_text()
VALUES: dict[str, Any] = yaml.safe_load(VALUES_TEXT)
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
VOLUME = {"persistentVolumeClaim": {"claimName": "learning"}}
TRAIN: dict[str, Any] = {"train": {"enabled": True}, "volume": VOLUME}
SWEEP: dict[str, Any] = {"sweep": {"enabled": True, "file": {"learner": "apg", "trials": 4}}, "volume": VOLUME}
SERVE: dict[str, Any] = {"serve": {"enabled": True}}


def test_lint_finds_nothing() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART)


def test_nothing_is_made_by_default() -> None:
    assert rendered() == {}


def test_it_is_of_the_packages_version_and_of_the_pinned_ray() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == version
    pins = (ROOT / "constraints" / "training.txt").read_text()
    assert f"\nray=={VALUES['ray']['version']} " in pins, "KubeRay is told the version that the image has"


KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "train": (TRAIN, {"RayJob", "ConfigMap", "ServiceAccount", "Role", "RoleBinding"}),
    "sweep": (SWEEP, {"RayJob", "ConfigMap", "ServiceAccount", "Role", "RoleBinding"}),
    "serve": (SERVE, {"RayService"}),
    "into a volume": (TRAIN | {"publish": {"volume": {"nfs": {}}}}, {"RayJob", "ConfigMap"}),
    "published nowhere": (TRAIN | {"publish": {"enabled": False}}, {"RayJob", "ConfigMap"}),
    "closed": (SERVE | {"networkPolicy": {"enabled": True}}, {"RayService", "NetworkPolicy"}),
}


@pytest.mark.parametrize(("values", "kinds"), KINDS.values(), ids=list(KINDS))
def test_a_switch_makes_what_it_needs(values: dict[str, Any], kinds: set[str]) -> None:
    objects = rendered(values)
    assert {kind for kind, _ in objects} == kinds
    for item in objects.values():
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE
        assert item["metadata"]["namespace"] == NAMESPACE


def test_names_of_digits_stay_text() -> None:
    """A namespace, a release or a policy may be called 42."""
    policies = [{"name": "7", "configMap": "8"}]
    values = TRAIN | SWEEP | {
        "train": {"enabled": True, "policy": "9", "workers": 1},
        "serve": {"enabled": True, "policies": policies},
        "volume": {"persistentVolumeClaim": {"claimName": "10"}},
        "publish": {"namespace": "123"},
        "networkPolicy": {"enabled": True},
        "priorityClassName": "11",
        "nameOverride": "12",
        "fullnameOverride": "learning",
    }  # fmt: skip
    manifest = helm("template", "42", CHART, "--namespace", "456", values=values)
    objects = [item for item in yaml.safe_load_all(manifest) if item is not None]
    kinds = {"RayJob", "RayService", "ConfigMap", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"}
    assert {item["kind"] for item in objects} == kinds
    assert [wrong for item in objects for wrong in names_that_are_no_text(item)] == []
    assert {item["metadata"]["namespace"] for item in objects} == {"123", "456"}


# --- the commands


def script(objects: Objects) -> list[list[str]]:
    """Return the command lines of a job's script, each as its words."""
    text = kuberay.ray("ConfigMap", objects)["data"]["run.sh"].replace("\\\n", " ")
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    return [shlex.split(line, comments=True) for line in text.splitlines()]


def commands(objects: Objects) -> list[list[str]]:
    """Return those that are rlscaler's, without its name."""
    return [words[1:] for words in script(objects) if words[:1] == ["rlscaler"]]


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_learners_command_is_understood(learner: str) -> None:
    arguments = ["--hours=2", "--seed", "3", "--scenario=it's"]
    given = {"enabled": True, "learner": learner, "policy": "web", "arguments": arguments}
    resumed, begun, last = commands(rendered({"train": given, "volume": VOLUME}))
    command = train.get_command(train.make_context("train", [learner], resilient_parsing=True), learner)
    assert command is not None
    context = command.make_context(learner, begun[2:])
    told = context.params
    assert (told["name"], told["hours"], told["seed"], told["scenarios"]) == ("web", 2.0, 3, ("it's",))
    assert told["folder"].startswith("$run")
    assert command.make_context(learner, resumed[2:]).params["resume"] == told["folder"]
    assert publish.make_context("publish", last[1:]).params["name"] == "web"


def test_workers_step_the_environments_of_the_pod_that_learns() -> None:
    objects = rendered(TRAIN | {"train": {"enabled": True, "learner": "ppo-fast", "workers": 3}})
    resumed, begun, _ = commands(objects)
    command = train.get_command(train.make_context("train", ["ppo-fast"], resilient_parsing=True), "ppo-fast")
    assert command is not None
    told = command.make_context("ppo-fast", begun[2:]).params
    assert (told["rollouts"], told["workers"], told["address"]) == ("ray", 3, "auto")
    assert command.make_context("ppo-fast", resumed[2:]).params["address"] == "auto"
    cluster = kuberay.cluster_of(kuberay.ray("RayJob", objects))
    (group,) = cluster["workerGroupSpecs"]
    assert {group[name] for name in ("replicas", "minReplicas", "maxReplicas")} == {3}
    assert cluster["enableInTreeAutoscaling"] is False
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "workerGroupSpecs" not in kuberay.cluster_of(kuberay.ray("RayJob", rendered(TRAIN)))


def test_a_sweep_reads_its_file_and_publishes_what_was_best() -> None:
    objects = rendered(SWEEP)
    asked, last = commands(objects)
    told = sweep.make_context("sweep", asked[1:]).params
    assert (told["file"], told["address"]) == ("/etc/rlscaler/sweep.yaml", "auto")
    file = yaml.safe_load(kuberay.ray("ConfigMap", objects)["data"]["sweep.yaml"])
    assert checked(file).trials == 4
    assert publish.make_context("publish", last[1:]).params["artifact"] == Path("$run/best.rlz")
    rule = rendered(SWEEP | {"sweep": {"enabled": True, "file": {"rule": "growth-quantile"}}})
    assert [words[0] for words in commands(rule)] == ["sweep"], "a rule has constants and no artifact"


def test_what_is_published_goes_where_it_is_said() -> None:
    def last(publishing: dict[str, Any]) -> dict[str, Any]:
        words = commands(rendered(TRAIN | {"publish": publishing}))[-1]
        return dict(publish.make_context("publish", words[1:]).params)

    usual = last({})
    assert (usual["namespace"], usual["configmap"], usual["folder"]) == (NAMESPACE, f"policy-{RELEASE}", None)
    assert last({"namespace": "other"})["namespace"] == "other"
    assert last({"anyScore": True})["any_score"]
    assert last({"volume": VOLUME})["folder"] == Path("/var/lib/rlscaler-policies")
    job = kuberay.ray("RayJob", rendered(TRAIN | {"publish": {"volume": {"nfs": {"path": "/p"}}}}))
    head = kuberay.cluster_of(job)["headGroupSpec"]["template"]["spec"]
    assert {"name": "policies", "nfs": {"path": "/p"}} in head["volumes"]
    assert "serviceAccountName" not in head


PROGRAM = """\
#!/bin/sh
echo "$@" >> "$SAID"
[ "$1" = train ] && mkdir -p "$FOLDER" && touch "$FOLDER/config.json"
[ "$TRAINS" = yes ] && touch "$FOLDER/report.json" && exit 0
[ "$1" = publish ]
"""


def test_a_job_that_begins_anew_goes_on_and_one_that_was_done_publishes(tmp_path: Path) -> None:
    """The very script, with a rlscaler that is cut off at first: begun, resumed, and then only published again."""
    text = kuberay.ray("ConfigMap", rendered(TRAIN))["data"]["run.sh"].replace("/var/lib/rlscaler", str(tmp_path))
    (program := tmp_path / "rlscaler").write_text(PROGRAM)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (found,) = re.findall(r"run=(\S+)", text)
    said: list[str] = []

    def ran(trains: str) -> int:
        told = tmp_path / "said"
        told.write_text("")
        variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SAID": str(told), "FOLDER": found, "TRAINS": trains}
        code = subprocess.run(["sh"], input=text, text=True, env=variables, stdout=subprocess.DEVNULL).returncode
        said[:] = [" ".join(line.split()[:4]) for line in told.read_text().splitlines()]
        return code

    assert ran("no") != 0, "a training that fails is a job that fails"
    assert said == ["train ppo-fast --quiet --run"]
    assert ran("yes") == 0
    assert said == ["train ppo-fast --quiet --resume", f"publish {found}/policy.rlz --name {RELEASE}"]
    assert ran("yes") == 0
    assert said == [f"publish {found}/policy.rlz --name {RELEASE}"]


def names(values: dict[str, Any]) -> tuple[str, str]:
    """Return what a RayJob is called, and the run's folder."""
    objects = rendered(values)
    (folder,) = re.findall(r"run=(\S+)", kuberay.ray("ConfigMap", objects)["data"]["run.sh"])
    return kuberay.ray("RayJob", objects)["metadata"]["name"], folder


def test_other_settings_are_another_run_and_another_pod_goes_on_with_the_run() -> None:
    job, run = names(TRAIN)
    assert names(TRAIN) == (job, run)
    assert len(job) <= 47, "as long as KubeRay takes"
    resized, same = names(TRAIN | {"nodeSelector": {"a": "b"}})
    assert (resized != job, same) == (True, run)
    other, elsewhere = names(TRAIN | {"train": {"enabled": True, "arguments": ["--seed=1"]}})
    assert other != job
    assert elsewhere != run
    swept, folder = names(SWEEP)
    assert names({**SWEEP, "sweep": {"enabled": True, "file": {"learner": "apg", "trials": 5}}}) != (swept, folder)


# --- the pods


def test_no_pod_may_do_more_than_it_has_to() -> None:
    objects = rendered({**TRAIN, **SWEEP, **SERVE, "sweep": SWEEP["sweep"] | {"policy": "best"}})
    items = [item for (kind, _), item in objects.items() if kind.startswith("Ray")]
    assert len(items) == 3
    for item in items:
        head, *others = kuberay.pods(item)
        for template in (head, *others):
            spec = template["spec"]
            assert spec["securityContext"]["runAsNonRoot"]
            assert spec["securityContext"]["runAsUser"] == 65532
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            (inside,) = spec["containers"]
            assert inside["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in inside["resources"]["limits"]
            assert spec["automountServiceAccountToken"] is (template is head and item["kind"] == "RayJob")
        assert kuberay.cluster_of(item)["authOptions"] == {"mode": "token"}
    (rule,) = objects["Role", f"{NAMESPACE}/{NAME}-publish"]["rules"]
    assert rule == {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "patch"],
                    "resourceNames": [f"policy-{RELEASE}", "policy-best"]}  # fmt: skip


PLACES: dict[str, tuple[dict[str, Any], str, Any]] = {
    "image": ({"image": {"repository": "r/x", "tag": "1"}}, "containers.0.image", "r/x:1"),
    "digest": ({"image": {"digest": "sha256:" + "a" * 64}}, "containers.0.image",
               "rlscaler-training:0.1.0@sha256:" + "a" * 64),
    "pull secrets": ({"imagePullSecrets": [{"name": "s"}]}, "imagePullSecrets", [{"name": "s"}]),
    "priority": ({"priorityClassName": "high"}, "priorityClassName", "high"),
    "node selector": ({"nodeSelector": {"a": "b"}}, "nodeSelector", {"a": "b"}),
    "affinity": ({"affinity": {"nodeAffinity": {}}}, "affinity", {"nodeAffinity": {}}),
    "tolerations": ({"tolerations": [{"operator": "Exists"}]}, "tolerations", [{"operator": "Exists"}]),
    "environment": ({"extraEnv": [{"name": "A", "value": "b"}]}, "containers.0.env", [{"name": "A", "value": "b"}]),
}  # fmt: skip


@pytest.mark.parametrize(("values", "path", "expected"), PLACES.values(), ids=list(PLACES))
def test_a_value_reaches_every_pod(values: dict[str, Any], path: str, expected: Any) -> None:
    for template in kuberay.pods(kuberay.ray("RayJob", rendered(SWEEP | values))):
        found = template["spec"]
        for step in path.split("."):
            found = found[int(step)] if isinstance(found, list) else found[step]
        assert found == expected


def test_resources_reach_the_pods_that_they_are_for() -> None:
    sizes = {name: {"limits": {"memory": size}} for name, size in (("resources", "5Gi"), ("workerResources", "7Gi"))}
    job = kuberay.ray("RayJob", rendered(TRAIN | {"train": {"enabled": True, "workers": 1, **sizes}}))
    found = [each["spec"]["containers"][0]["resources"]["limits"]["memory"] for each in kuberay.pods(job)]
    assert found == ["5Gi", "7Gi", "1Gi"]


def test_jobs_end_and_are_cleaned_up() -> None:
    job = kuberay.ray("RayJob", rendered(TRAIN | {"job": {"labels": {"queue": "q"}}}))
    spec = job["spec"]
    assert job["metadata"]["labels"]["queue"] == "q"
    assert spec["shutdownAfterJobFinishes"] is True
    told = (spec["ttlSecondsAfterFinished"], spec["activeDeadlineSeconds"], spec["backoffLimit"])
    assert told == (600, 86400, 2)
    head = kuberay.cluster_of(job)["headGroupSpec"]["template"]["spec"]
    assert spec["entrypoint"] == "sh /etc/rlscaler/run.sh"
    mounts = {each["mountPath"]: each["name"] for each in head["containers"][0]["volumeMounts"]}
    volumes = {each["name"]: each for each in head["volumes"]}
    assert volumes[mounts["/etc/rlscaler"]]["configMap"]["name"].startswith(f"{NAME}-train-")
    assert volumes[mounts["/var/lib/rlscaler"]]["persistentVolumeClaim"] == {"claimName": "learning"}


# --- the server


def served(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the RayService and the configuration of Ray Serve in it."""
    service = kuberay.ray("RayService", rendered(values))
    return service, yaml.safe_load(service["spec"]["serveConfigV2"])


def test_the_server_finds_each_policy_where_it_is_mounted() -> None:
    policies = [{"name": "web", "configMap": "policy-web"}, {"name": "shop", "path": "runs/x/policy.rlz"},
                {"name": "learned"}]  # fmt: skip
    service, config = served({"serve": {"enabled": True, "policies": policies, "replicas": 3}, "volume": VOLUME})
    (application,) = config["applications"]
    assert (application["name"], application["route_prefix"]) == ("rlscaler", "/")
    assert application["import_path"] == "rlscaler_training.serving_build:build"
    web, shop, learned = application["args"]["policies"]
    assert (web, shop) == ("web=/etc/rlscaler/policies/web/web.rlz", "shop=/var/lib/rlscaler/runs/x/policy.rlz")
    assert learned == "learned"
    assert application["args"]["replicas"] == 3
    for template in kuberay.pods(service):
        mounts = {each["mountPath"]: each for each in template["spec"]["containers"][0]["volumeMounts"]}
        volumes = {each["name"]: each for each in template["spec"]["volumes"]}
        assert volumes[mounts["/etc/rlscaler/policies/web"]["name"]]["configMap"] == {"name": "policy-web"}
        assert mounts["/var/lib/rlscaler"]["readOnly"]
    (group,) = kuberay.cluster_of(service)["workerGroupSpecs"]
    assert group["replicas"] == 3


def test_the_server_listens_where_the_notes_and_the_operators_chart_have_it() -> None:
    service, config = served(SERVE)
    port = config["http_options"]["port"]
    assert config["http_options"]["host"] == "0.0.0.0"
    for template in kuberay.pods(service):
        assert {"name": "serve", "containerPort": port} in template["spec"]["containers"][0]["ports"]
    head, worker = (each["spec"]["containers"][0]["readinessProbe"]["httpGet"] for each in kuberay.pods(service))
    assert (head["port"], worker) == (52365, {"path": "/-/healthz", "port": "serve"})
    (url,) = re.findall(r"servers\.ray\.url=(\S+)", notes(SERVE))
    assert url == f"http://{service['metadata']['name']}-serve-svc.{NAMESPACE}.svc:{port}"


def notes(values: dict[str, Any]) -> str:
    """Return what helm tells after an installation."""
    return helm(
        "install", RELEASE, CHART, "-n", NAMESPACE, "--dry-run=client", "--hide-secret", values=values
    ).partition("NOTES:\n")[2]


def test_a_jobs_output_is_that_of_one_pod() -> None:
    """`kubectl logs -l` fails at a pod without the container, so that no other pod has the labels."""
    templates = kuberay.pods(kuberay.ray("RayJob", rendered(SWEEP)))
    labels = [each["metadata"]["labels"]["app.kubernetes.io/component"] for each in templates]
    assert labels == ["sweep", "sweep", "sweep-submitter"]
    assert "app.kubernetes.io/component=sweep-submitter " in notes(SWEEP)


def test_the_notes_tell_what_to_do_next() -> None:
    assert "Nothing is switched on" in notes({})
    told = notes(TRAIN)
    assert f"ConfigMap policy-{RELEASE} of namespace {NAMESPACE}" in told
    assert "Its run is lost" not in told
    assert "Its run is lost" in notes({"train": {"enabled": True}})
    assert "the volume of publish.volume" in notes(TRAIN | {"publish": {"volume": VOLUME}})


# --- what is refused


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown value": ({"trains": {}}, "trains"),
    "an unknown learner": ({"train": {"enabled": True, "learner": "sarsa"}}, "learner"),
    "an argument of the chart's own": ({"train": {"enabled": True, "arguments": ["--run=/x"]}}, "arguments"),
    "quiet": ({"train": {"enabled": True, "arguments": ["-q"]}}, "arguments"),
    "a built-in name": ({"train": {"enabled": True, "policy": "hpa"}}, "train.policy: hpa is a built-in policy"),
    "no file": ({"sweep": {"enabled": True}, "volume": VOLUME}, "sweep.file: says what is searched"),
    "a sweep that shares nothing": ({"sweep": {"enabled": True, "file": {"rule": "mpc"}}}, "volume: the workers"),
    "one name twice": ({**TRAIN, **SWEEP}, f"sweep.policy: {RELEASE} is the name of what is trained"),
    "a policy from nowhere": ({"serve": {"enabled": True, "policies": [{"name": "web"}]}}, "web has neither"),
    "a policy from two places": (
        {"serve": {"enabled": True, "policies": [{"name": "web", "configMap": "a", "path": "b"}]}},
        "web has a configMap and a path",
    ),
    "a path on no volume": (
        {"serve": {"enabled": True, "policies": [{"name": "web", "path": "b"}]}},
        "volume: a policy of serve.policies has a path on it",
    ),
    "a path out of the volume": (
        {"serve": {"enabled": True, "policies": [{"name": "web", "path": "a/../../b"}]}, "volume": VOLUME},
        "path",
    ),
    "a name that begins with a digit": (TRAIN | {"fullnameOverride": "7up"}, "7up: KubeRay takes names that begin"),
}


@pytest.mark.parametrize(("values", "sentence"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_work_is_refused_before_anything_starts(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ChartError) as caught:
        rendered(values)
    assert sentence in str(caught.value)


def test_the_names_that_are_refused_are_those_that_are_built_in() -> None:
    (listed,) = re.findall(r"has \$policy \(list ([^)]*)\)", (CHART / "templates" / "_helpers.tpl").read_text())
    assert shlex.split(listed) == list(BUILT_IN)
    assert SCHEMA["properties"]["train"]["properties"]["learner"]["enum"] == list(LEARNERS)


# --- values, schema and README tell the same


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, inner in values.items():
        if isinstance(inner, dict) and inner and "esources" not in name:
            yield from leaves(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def test_every_value_is_described() -> None:
    described = re.findall(r"^\| `([\w.]+)` \|", (CHART / "README.md").read_text(), re.MULTILINE)
    assert described == list(leaves(VALUES))


def test_the_schema_knows_the_values_and_no_others() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)

    def compare(schema: dict[str, Any], values: dict[str, Any], path: str) -> None:
        assert schema["properties"].keys() - {"global"} == values.keys(), path
        assert schema["additionalProperties"] is False, path
        for name, inner in values.items():
            if isinstance(inner, dict) and "properties" in schema["properties"][name]:
                compare(schema["properties"][name], inner, f"{path}{name}.")

    compare(SCHEMA, VALUES, "")


def test_every_commented_example_of_the_values_is_accepted() -> None:
    text = re.sub(r"(?m)^(    )# (?=- )", r"\1", VALUES_TEXT).replace("arguments: []", "arguments:")
    values = yaml.safe_load(text)
    assert len(values["serve"]["policies"]) == 3
    assert len(values["train"]["arguments"]) == 2
    jsonschema.validate(values, SCHEMA)


GUIDE = ROOT / "docs" / "learning-on-kubernetes.md"


@pytest.mark.parametrize("document", [GUIDE, CHART / "README.md"], ids=["guide", "README"])
def test_what_the_documents_show_can_be_installed(document: Path) -> None:
    text = document.read_text().replace("\\\n", " ")
    shown = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("helm upgrade")]
    installed = [words for words in shown if "charts/rlscaler-learning" in words]
    assert installed
    for words in shown:
        arguments = [word for word in words[2:] if word not in ("--install", "--reuse-values")]
        arguments[1] = str(ROOT / arguments[1])
        assert "kind: " in helm("template", *arguments)
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        assert rendered({"volume": VOLUME} | yaml.safe_load(block))


@pytest.mark.parametrize("name", ["README.md", "values.yaml", "templates/NOTES.txt"])
def test_links_and_files_that_are_named_exist(name: str) -> None:
    named = re.findall(r"\b(?:examples|scripts|docs|charts|Dockerfile)[/.][\w./-]*\w", (CHART / name).read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
