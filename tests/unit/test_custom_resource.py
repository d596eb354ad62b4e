"""RLScaler resources from YAML: what is read, what stands where nothing is written, and how mistakes are named."""

import io
import json
import math
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from minimal_resource import MINIMAL
from rlscaler.behavior import DEFAULT, Behavior, ScalingPolicy, ScalingRules
from rlscaler.custom_resource import (
    Resource,
    ResourceError,
    load_resources,
    parse_resources,
    resource_from_object,
    to_settings,
)
from rlscaler.input_text import LARGEST
from rlscaler.settings import MetricLoss, Objective, Settings, compiled

EXAMPLES = Path(__file__).parents[2] / "examples"


def resource(more: str = "", text: str = MINIMAL) -> Resource:
    """Return the resource of MINIMAL with more lines of its spec."""
    (only,) = parse_resources(text + textwrap.indent(textwrap.dedent(more), "  "), "web.yaml")
    return only


# --- what is read


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_examples_are_valid_and_make_settings(path: Path) -> None:
    resources = load_resources(path)
    for each in resources:
        arrays = compiled(to_settings(each), 1)
        assert arrays["max_replicas"][0] == each.spec.max_replicas
    assert len({each.key for each in resources}) == len(resources) == path.read_text().count("kind: RLScaler")


def test_defaults() -> None:
    only = resource()
    spec = only.spec
    assert (only.namespace, only.name, only.key) == ("default", "web", "default/web")
    assert (spec.mode, spec.min_replicas, spec.max_replicas, spec.interval) == ("Shadow", 1, 10, 15.0)
    assert spec.objective == Objective(latency=0.5, target=99.9)
    assert (spec.capacity.per_replica, spec.capacity.startup, spec.capacity.concurrency) == (None, None, 1)
    assert (spec.metrics.source, spec.metrics.load.query, spec.metrics.load.match) == ("default", "up", {})
    assert spec.metrics.load.counts == "Arrivals"
    assert spec.metrics.backlog is spec.metrics.latency is spec.metrics.errors is spec.metrics.utilization is None
    assert (spec.policy.name, spec.policy.server, spec.policy.digest) == ("default", None, None)
    assert spec.behavior is None
    assert spec.on_metric_loss == MetricLoss(after=180.0, action="Hold")


def test_a_field_without_a_value_counts_as_left_out() -> None:
    """So the API server has it, and charts write such fields for values that are not set."""
    empty = resource("minReplicas:\nmode: null\nobjective: ~\nbehavior:\n")
    assert empty.manifest == resource().manifest
    with pytest.raises(ResourceError, match=r"web\.yaml:6: spec\.maxReplicas: missing; expected a whole number"):
        resource(text=MINIMAL.replace("maxReplicas: 10", "maxReplicas:"))


def test_every_field_arrives() -> None:
    digest = "sha256:" + "0a" * 32
    spec = resource(f"""\
        mode: Active
        minReplicas: 0
        interval: 30s
        objective: {{latency: 1m30s, target: 99}}
        capacity: {{perReplica: 1k, startup: 2m, concurrency: 4}}
        policy: {{name: big.one, digest: "{digest}"}}
        behavior: {{scaleUp: {{selectPolicy: Disabled}}}}
        onMetricLoss: {{after: 0s, action: ReplicasIfHigher, replicas: 7}}
        """).spec
    assert (spec.mode, spec.min_replicas, spec.interval) == ("Active", 0, 30.0)
    assert spec.objective == Objective(latency=90.0, target=99.0)
    assert (spec.capacity.per_replica, spec.capacity.startup, spec.capacity.concurrency) == (1000.0, 120.0, 4)
    assert (spec.policy.name, spec.policy.digest) == ("big.one", digest)
    assert spec.behavior is not None
    assert spec.behavior.up.select == "Disabled"
    assert spec.on_metric_loss == MetricLoss(after=0.0, action="ReplicasIfHigher", replicas=7)


def test_metrics_arrive() -> None:
    metrics = resource(
        text=MINIMAL.replace(
            "{load: {query: up}}",
            "{source: thanos, load: {query: a, match: {job: w}, counts: Completions}, backlog: {query: b}, "
            'latency: {query: c, quantile: "0.95"}, errors: {query: d}, utilization: {query: e, match: {x: '
            '"1"}}}',
        )
    ).spec.metrics
    assert (metrics.source, metrics.load.match, metrics.load.counts) == (
        "thanos",
        {"job": "w"},
        "Completions",
    )
    assert metrics.latency is not None
    assert (metrics.latency.query, metrics.latency.quantile) == ("c", 0.95)
    assert [q.query for q in (metrics.backlog, metrics.errors, metrics.utilization) if q] == ["b", "d", "e"]


BEHAVIORS: dict[str, tuple[str, Behavior]] = {
    "empty": ("{}", DEFAULT),
    "empty-halves": ("{scaleUp: {}, scaleDown: {}}", DEFAULT),
    "only-a-window": (
        "{scaleDown: {stabilizationWindowSeconds: 60}}",
        Behavior(DEFAULT.up, ScalingRules(60.0, "Max", (ScalingPolicy("Percent", 100, 15.0),))),
    ),
    "policies-replace-the-default-ones": (
        "{scaleUp: {policies: [{type: Pods, value: 2, periodSeconds: 60}]}}",
        Behavior(ScalingRules(0.0, "Max", (ScalingPolicy("Pods", 2, 60.0),)), DEFAULT.down),
    ),
    "all": (
        '{scaleUp: {stabilizationWindowSeconds: 3600, selectPolicy: Min, tolerance: "0.05", policies: '
        "[{type: Percent, value: 10, periodSeconds: 1800}]}, scaleDown: {selectPolicy: Disabled, "
        "tolerance: 50m}}",
        Behavior(
            ScalingRules(3600.0, "Min", (ScalingPolicy("Percent", 10, 1800.0),), 0.05),
            ScalingRules(300.0, "Disabled", (ScalingPolicy("Percent", 100, 15.0),), 0.05),
        ),
    ),
}


@pytest.mark.parametrize(("text", "expected"), BEHAVIORS.values(), ids=BEHAVIORS)
def test_behavior_gets_the_defaults_of_hpa_once_written(text: str, expected: Behavior) -> None:
    assert resource(f"behavior: {text}").spec.behavior == expected


def test_settings_take_what_is_written_and_keep_their_defaults_for_what_is_learned() -> None:
    learned, default = to_settings(resource()), Settings()
    assert learned.startup == default.startup
    assert math.isnan(learned.capacity_per_replica), "unknown capacity must stay unknown"
    stated = to_settings(
        resource("""\
            minReplicas: 2
            interval: 20s
            objective: {latency: 2s, target: "99"}
            capacity: {perReplica: "2.5", startup: 0s, concurrency: 3}
            behavior: {scaleUp: {tolerance: "0.1"}}
            onMetricLoss: {after: 1m, action: Replicas, replicas: 4}
            """)
    )
    assert stated == Settings(
        min_replicas=2,
        max_replicas=10,
        interval=20.0,
        startup=0.0,
        capacity_per_replica=2.5,
        concurrency=3,
        load_counts="Arrivals",
        objective=Objective(latency=2.0, target=99.0),
        behavior=replace(DEFAULT, up=replace(DEFAULT.up, tolerance=0.1)),
        loss=MetricLoss(after=60.0, action="Replicas", replicas=4),
    )


@pytest.mark.parametrize(
    ("written", "up", "down"),
    [
        ("behavior: {}", 0.0, 0.1),
        ("behavior: {scaleDown: {stabilizationWindowSeconds: 60}}", 0.0, 0.1),
        ("behavior: {scaleUp: {stabilizationWindowSeconds: 60}}", 0.0, 0.1),
        ('behavior: {scaleUp: {tolerance: "0.05"}, scaleDown: {tolerance: "0"}}', 0.05, 0.0),
        ("policy: {name: keda}\nbehavior: {}", 0.0, 0.1),
        ("policy: {name: hpa}\nbehavior: {}", 0.1, 0.1),
        ("policy: {name: hpa}", 0.0, 0.0),
    ],
)
def test_a_tolerance_that_is_left_out_takes_no_headroom_from_a_policy(written: str, up: float, down: float) -> None:
    found = compiled(to_settings(resource(written)), 1)
    assert (found["up_tolerance"][0], found["down_tolerance"][0]) == (up, down)


def test_several_documents_know_where_they_stand() -> None:
    second = MINIMAL.replace("name: web}", "name: worker, namespace: shop}", 1)
    found = parse_resources(f"---\n{MINIMAL}---\n---\n# nothing\n---\n{second}", "all.yaml")
    assert [(r.key, r.source.file, r.source.line) for r in found] == [
        ("default/web", "all.yaml", 2),
        ("shop/worker", "all.yaml", 13),
    ]
    assert [r.source.document for r in found] == [1, 2]


def test_what_the_api_server_keeps_is_ignored() -> None:
    only = resource(
        text=MINIMAL.replace(
            "{name: web}",
            "{name: web, uid: 8d1, generation: 3, creationTimestamp: 2025-01-01T00:00:00Z, managedFields: [{a: b}], "
            "labels: {app: web}, annotations: {note: hello}}",
        )
        + "status: {mode: Shadow, anything: [1, 2]}\n"
    )
    assert (only.manifest.metadata.labels, only.manifest.metadata.annotations) == (
        {"app": "web"},
        {"note": "hello"},
    )


def test_objects_of_the_api_server_read_like_text() -> None:
    value = yaml.safe_load(MINIMAL)
    assert resource_from_object(value).manifest == resource().manifest
    value["spec"]["minReplicas"] = 20
    with pytest.raises(ResourceError) as caught:
        resource_from_object(value)
    assert caught.value.messages == ("default/web: spec.minReplicas: 20 is above maxReplicas 10; expected at most 10",)


def test_json_and_a_byte_order_mark_are_read() -> None:
    text = json.dumps(yaml.safe_load(MINIMAL))
    assert parse_resources(b"\xef\xbb\xbf" + text.encode(), "web.json")[0].key == "default/web"


def test_an_alias_stands_for_its_value() -> None:
    text = MINIMAL.replace("query: up", "query: up, match: &m {app: web}").replace(
        "}}\n", "}, backlog: {query: b, match: *m}}\n"
    )
    backlog = resource(text=text).spec.metrics.backlog
    assert backlog is not None
    assert backlog.match == {"app": "web"}


# --- files


def test_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(MINIMAL.encode())))
    assert load_resources("-")[0].source.file == "standard input"


def _missing(folder: Path) -> Path:
    return folder / "missing.yaml"


def _folder(folder: Path) -> Path:
    return folder


def _not_utf8(folder: Path) -> Path:
    (folder / "latin.yaml").write_bytes(b"a: b\n# caf\xe9\n")
    return folder / "latin.yaml"


def _below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "web.yaml"


def _huge(folder: Path) -> Path:
    with (folder / "huge.yaml").open("wb") as stream:
        stream.truncate(LARGEST + 1)
    return folder / "huge.yaml"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, ": no such file; expected a file of RLScaler resources"),
        (_folder, ": a folder; expected a file of RLScaler resources"),
        (_below_a_file, ": cannot be read: Not a directory"),
        (_not_utf8, ":2: not UTF-8 text; save the file as UTF-8"),
        (_huge, ": larger than 4 MiB; split the file"),
    ],
    ids=["missing", "folder", "below-a-file", "not-utf-8", "huge"],
)
def test_files_that_cannot_be_read(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    path = make(tmp_path)
    with pytest.raises(ResourceError) as caught:
        load_resources(path)
    assert caught.value.messages == (f"{path}{message}",)
