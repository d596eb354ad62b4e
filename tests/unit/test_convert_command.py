"""The command `rlscaler convert`: how its mistakes end, and what is written when and where."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from command_line import stand_in
from converted import Json, made
from given_autoscalers import average, deployment, external, hpa, pods, resource, scaled, trigger
from rlscaler.cli import root
from rlscaler.convert.converting import convert
from rlscaler.convert.draft import CALMER, Options
from rlscaler.convert.promql import quoted, selector
from rlscaler.errors import UserError


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(root, ["convert", *arguments], prog_name="rlscaler", input=text)


# --- bad input


def _without(field: str) -> Json:
    value = hpa(resource())
    del value["spec"][field]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "x:1: document 1 is a list; expected Kubernetes objects"),
        ({"kind": "Service", "apiVersion": "v1"}, "x: nothing to convert; expected Kubernetes objects"),
        ({"kind": "HorizontalPodAutoscaler"}, "x:1: apiVersion: missing; expected that of a Kubernetes object"),
        (_without("maxReplicas"), "x:6: spec.maxReplicas: missing; expected a whole number, 1 or more"),
        (_without("scaleTargetRef"), "spec.scaleTargetRef: missing; expected a mapping with apiVersion, kind, name"),
        (hpa(maxReplicas="9"), 'spec.maxReplicas: "9" is text; write 9 without quotes'),
        (hpa(minReplicas=30), "spec.minReplicas: 30 is above maxReplicas 20; expected at most 20"),
        (hpa(name="Web"), "metadata.name: Web is not allowed; expected a DNS-1123 name"),
        (hpa(scaleTargetRef={"kind": "Rollout", "name": "x"}),
         "spec.scaleTargetRef.apiVersion: missing; expected the group and version of Rollout"),
        (hpa(metrics={}), "spec.metrics: a mapping; expected a list of metrics"),
        (hpa({"type": "Pod"}), "spec.metrics[0].type: Pod is not known; expected one of Resource, ContainerResource"),
        (hpa({"type": "Pods"}), "spec.metrics[0].pods: missing; expected what the Pods metric is, since type is Pods"),
        (hpa(pods("a", "ten")), "target.averageValue: ten is not a quantity; expected one such as 50, 500m, 1k"),
        (hpa(pods("a", 0)), "target.averageValue: 0 is out of bounds; expected above 0"),
        (hpa(resource(type="Utilization")),
         "target.averageUtilization: missing; expected percent of the request, since type is Utilization"),
        (hpa(pods("a", matchLabels={"__name__": "b"})), "__name__ is no label; expected the name of a label"),
        (hpa(pods("a", matchExpressions=[{"key": "a", "operator": "Is"}])),
         "operator: Is is not known; expected one of In, NotIn, Exists, DoesNotExist"),
        (hpa(behavior={"scaleDown": {"policies": [{"type": "Pods", "periodSeconds": 9}]}}),
         "spec.behavior.scaleDown.policies[0].value: missing; expected a whole number, 1 or more"),
        (hpa(behavior={"scaleDow": {}}), "spec.behavior.scaleDow: unknown field; did you mean scaleDown?"),
        (hpa() | {"apiVersion": "autoscaling/v2beta1"}, "apiVersion: autoscaling/v2beta1 is not read; expected"),
        (scaled(), "spec.triggers: empty; expected at least one trigger"),
        (scaled(trigger("prometheus", query="a")), "spec.triggers[0].metadata.threshold: missing; expected a number"),
        (scaled(trigger("prometheus", query="a", threshold="a lot")), "threshold: 'a lot' is not a quantity"),
        (scaled(trigger("prometheus", query="a" * 9000, threshold="1")), "query: 9000 characters; expected at most"),
        (scaled({"type": "cpu"}), "spec.triggers[0].metadata: missing; expected a mapping of text to text"),
        (scaled(trigger("cpu", value="1"), minReplicaCount=200), "minReplicaCount: 200 is above maxReplicaCount 100"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        made(value)
    (line,) = str(caught.value).splitlines()
    assert message in line


def test_names_cannot_steer_the_terminal(here: Path) -> None:
    nasty = "\a\x9b2J\u202e"
    given = [hpa(pods(nasty, 1), external(nasty, average(1))), scaled(trigger(nasty, **{nasty: nasty}), name="b")]
    Path("x.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": given}))
    for arguments in (["-f", "x.json"], ["-f", nasty]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert [line for line in result.output.split("\n") if not line.isprintable()] == []


def test_all_mistakes_are_told_at_once_with_the_place_in_a_list() -> None:
    items = [hpa(name="a", maxReplicas=0), hpa(name="b"), hpa(name="b")]
    with pytest.raises(UserError) as caught:
        convert([("x", json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))], Options())
    first, second = str(caught.value).splitlines()
    assert first == "x: items[0].spec.maxReplicas: 0 is out of bounds; expected 1 or more"
    assert "shop/b is made of HorizontalPodAutoscaler shop/b already; rename or drop one" in second


# --- the command


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a fresh folder with the commands installed."""
    folder = tmp_path / "place"
    folder.mkdir()
    stand_in(folder, monkeypatch)
    return folder


def test_a_pipe_from_kubectl_through_validate(here: Path) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}}
    items = [hpa(resource()), deployment("web", "500m"), service]
    result = run("-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "passed over: Service shop/web",
        "shop/web: load is CPU use; a replica serves 100 (100 % of its CPU request; state less where it is slow before "
        "that)",
        f"note: shop/web: {CALMER}",
        "note: shop/web: CPU use: its target of 60 % is not kept: the policy decides how much headroom is held",
    ]
    checked = CliRunner().invoke(root, ["validate", "-f", "-"], prog_name="rlscaler", input=result.stdout)
    assert checked.exit_code == 0
    assert checked.stdout == "ok shop/web (standard input:2)\n"


def test_others_are_written_where_one_has_no_load(here: Path) -> None:
    (here / "all.yaml").write_text(
        yaml.safe_dump_all([hpa(resource()), scaled(trigger("aws-sqs-queue", queueURL="x"))])
    )
    result = run("-f", "all.yaml", "--out", "made.yaml")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert [each["metadata"]["name"] for each in yaml.safe_load_all((here / "made.yaml").read_text())] == ["web"]
    assert result.stderr.splitlines()[-1] == (
        "error: shop/worker: nothing in the ScaledObject is a load (trigger aws-sqs-queue: what it reads is in "
        "Prometheus under no name that is known here); give this one alone, with --load QUERY, the PromQL of the "
        "requests/s or messages/s that arrive"
    )


def test_nothing_is_written_where_anything_is_wrong(here: Path) -> None:
    (here / "all.yaml").write_text(yaml.safe_dump_all([hpa(resource()), hpa(name="b", maxReplicas=0)]))
    result = run("-f", "all.yaml", "--out", "made.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert not (here / "made.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "none.yaml"], "none.yaml: no such file; expected Kubernetes objects"),
        (["-f", "."], ".: a folder; expected Kubernetes objects"),
        (["-f", "all.yaml", "--out", "all.yaml"], "--out all.yaml: -f names the same file"),
        (
            ["-f", "all.yaml", "--out", "made.json"],
            "--out made.json: ends in .json; expected a name that ends in .yaml",
        ),
        (["-f", "all.yaml", "--out", "no/made.yaml"], "no/made.yaml: the folder"),
        (["-f", "all.yaml", "--startup", "60"], "--startup: 60 has no unit; write 60s if seconds are meant"),
        (["-f", "all.yaml", "--startup", "2h"], "--startup: 2h is out of bounds"),
        (["-f", "all.yaml", "--capacity", "many"], "--capacity: many is not a quantity"),
        (["-f", "all.yaml", "--capacity", "0"], "--capacity: 0 is out of bounds"),
        (["-f", "all.yaml", "--source", "A"], "--source: A is not allowed; expected a DNS-1123 label"),
        (["-f", "all.yaml", "--load", " "], "--load: empty text; expected a PromQL query"),
        (
            ["-f", "all.yaml", "--load", "a"],
            "--load is of one workload, and 2 are given (shop/web, shop/b); expected one",
        ),
    ],
)
def test_a_mistake_in_the_options_is_one_sentence(here: Path, arguments: list[str], message: str) -> None:
    text = yaml.safe_dump_all([hpa(resource()), hpa(resource(), name="b")])
    (here / "all.yaml").write_text(text)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")
    assert (here / "all.yaml").read_text() == text


def test_names_that_mean_something_in_yaml_or_promql_stay_names() -> None:
    (found,) = made(hpa(external('x"\\y', average(5)), name="0123", namespace="on"))
    assert found["metadata"] == {"name": "0123", "namespace": "on"}
    assert found["metadata"]["name"] == found["spec"]["scaleTargetRef"]["name"]
    assert found["spec"]["metrics"]["load"]["query"] == r'sum({__name__="x\"\\y"})'
    assert selector("by", []) == '{__name__="by"}'
    assert quoted("a\nb") == r'"a\nb"'


def test_a_query_that_is_too_long_is_a_sentence(here: Path) -> None:
    result = run("-f", "-", text=json.dumps(hpa(external("a" * 9000, average(5)))))
    assert result.exit_code == 2
    assert "what becomes of shop/web:" in result.stderr
    assert result.stderr.endswith("spec.metrics.load.query: 9018 characters; expected at most 8192\n")
