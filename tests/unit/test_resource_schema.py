"""The CRD's schema is made of the same table that resources are read with; here the two are held together.

jsonschema plays the API server: unknown fields refused as its strict decoding does, $ as RE2 has it. It
cannot run the CEL rules, so a resource that only they refuse must pass it, and the reader must name exactly
such rules.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema.validators
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler import policies
from rlscaler.custom_resource import (
    Resource,
    ResourceError,
    openapi_schema,
    parse_resources,
    resource_from_object,
)

FUZZ = settings(deadline=None, derandomize=True, max_examples=400)
QUERY = {"query": "up", "match": {"app": "web"}}
RULES = {"stabilizationWindowSeconds": 60, "selectPolicy": "Max", "tolerance": "0.1",
         "policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}]}  # fmt: skip
FULL: dict[str, Any] = {
    "apiVersion": "rlscaler.io/v1alpha1",
    "kind": "RLScaler",
    "metadata": {"name": "web"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "mode": "Active",
        "minReplicas": 2,
        "maxReplicas": 10,
        "interval": "15s",
        "objective": {"latency": "500ms", "target": "99.9", "window": "168h"},
        "capacity": {"perReplica": "50", "startup": "60s", "concurrency": 4},
        "metrics": {
            "source": "default",
            "load": QUERY | {"counts": "Arrivals"},
            "backlog": QUERY,
            "latency": QUERY | {"quantile": "0.95"},
            "errors": QUERY,
            "utilization": QUERY,
        },
        "policy": {"name": "default", "digest": "sha256:" + "0" * 64},
        "behavior": {"scaleUp": RULES, "scaleDown": RULES},
        "onMetricLoss": {"after": "3m", "action": "Replicas", "replicas": 3},
    },
}
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 11, 100, 101, 3600, 3601, 1800, 1801, 2**31 - 1, 2**31, -1, 0.05, 99.9,
    "", " ", "\n", "0", "1", "11", "0.05", "-0.05", "99.9", "100", "100.5", "-1", "+1", "1e3", "1e-3", "500m",
    "1k", "5Ki", "2G", "0s", "0.5s", "1s", "15s", "15s\n", "59m60s", "1h", "1h1ms", "5m", "5m1s", "24h",
    "24h1s", "15", "web", "web\n", "Web", "a.b", "a-", "x" * 63, "x" * 64, "x" * 253, "x" * 254, "v1",
    "apps/v1", "/v1", "apps/v1/x", "Deployment", "Shadow", "shadow", "Hold", "ReplicasIfLower", "Replicas",
    "Max", "Disabled", "Percent", "Arrivals", "up", "sha256:" + "a" * 64, "sha256:" + "A" * 64, [], [{}],
    ["a"], [{"type": "Percent", "value": 1, "periodSeconds": 1}],
    [{"type": "Pods", "value": 1, "periodSeconds": 1}] * 101, {}, {"a": "b"}, {"a": 1}, {"a": None},
    "79ms", "80ms", "81ms", "1m30s",
    {"name": "a"}, {"server": "a"}, {"query": "up"}, {"action": "Replicas"}, {str(i): "x" for i in range(17)},
)  # fmt: skip


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from _paths(inner, (*path, key))


# Without shared parts, so that a change of one half of `behavior` leaves the other alone.
FULL = json.loads(json.dumps(FULL))
PATHS = [path for path in _paths(FULL) if path[0] == "spec"]
REMOVED = object()


def changed(changes: list[tuple[tuple[Any, ...], Any]]) -> dict[str, Any]:
    """Return FULL with values put at paths, or removed; changes below one that is gone are left out."""
    out = copy.deepcopy(FULL)
    for path, value in changes:
        parent: Any = out
        try:
            for key in path[:-1]:
                parent = parent[key]
            if value is REMOVED:
                del parent[path[-1]]
            else:
                parent[path[-1]] = copy.deepcopy(value)
        except (KeyError, IndexError, TypeError):
            continue
    return out


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with unknown fields refused, as the API server's strict decoding refuses them."""
    out = {key: _strict(value) if isinstance(value, dict) else value for key, value in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        out["additionalProperties"] = False
    return out


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[Exception]:
    if isinstance(value, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern}")


SCHEMA = openapi_schema()
_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _pattern})
VALIDATOR = _Validator(_strict(SCHEMA))


def read(value: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return the path and rule of each problem of a resource."""
    try:
        resource_from_object(value)
    except ResourceError as error:
        return [(problem.place.path, problem.rule) for problem in error.problems]
    return []


def _without_nulls(value: Any, schema: dict[str, Any]) -> Any:
    """Return the value without the known fields that are null, as PruneNonNullableNullsWithoutDefaults and the
    defaulting of the API server leave it.
    """
    if isinstance(value, list):
        return [_without_nulls(item, schema.get("items", {})) for item in value]
    if not isinstance(value, dict):
        return value
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    return {
        name: _without_nulls(inner, known.get(name, others or {}))
        for name, inner in value.items()
        if inner is not None or (name not in known and others is None)
    }


def agree(value: dict[str, Any]) -> None:
    """Assert that the reader and the schema judge a resource alike, CEL rules apart."""
    errors = [error.message for error in VALIDATOR.iter_errors(_without_nulls(value, SCHEMA))]
    problems = read(value)
    by_schema = [path for path, rule in problems if rule is None]
    assert bool(errors) == bool(by_schema), f"schema: {errors or 'valid'}; reader: {problems or 'valid'}"


def test_a_full_resource_is_valid_to_both() -> None:
    agree(FULL)
    assert read(FULL) == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: ".".join(str(key) for key in path[1:]))
def test_reader_and_schema_agree_on_every_value_of_every_field(path: tuple[Any, ...]) -> None:
    for value in (REMOVED, *VALUES):
        agree(changed([(path, value)]))
        if isinstance(path[-1], str):
            agree(changed([((*path[:-1], path[-1] + "x"), value)]))


@FUZZ
@given(st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from([REMOVED, *VALUES])), max_size=5))
def test_reader_and_schema_agree_on_several_changes(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    agree(changed(changes))


@settings(FUZZ, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from([REMOVED, *VALUES])), max_size=3))
def test_text_and_objects_read_alike(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    value = changed(changes)
    assert _outcome(lambda: [resource_from_object(value)]) == _outcome(lambda: parse_resources(json.dumps(value), "x"))


def _outcome(read_it: Callable[[], list[Resource]]) -> list[Any]:
    """Return the manifests of resources, or the problems without their lines."""
    try:
        return [resource.manifest for resource in read_it()]
    except ResourceError as error:
        return [(place.path, text, rule) for place, text, rule in error.problems]


# --- the rules that a schema cannot say

DURATION = r"string({}).matches(r'^([0-9]{{1,7}}(\.[0-9]{{1,6}})?(h|m|s|ms))+$')"
QUANTITY = r"string({}).matches(r'^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{{1,2}})?$')"
NUMBER = r"string({}).matches(r'^-?[0-9]+(\.[0-9]+)?$')"


def seconds(low: str, high: str, above: str = ">=") -> str:
    found = f"duration(string(self)) {above} duration('{low}') && duration(string(self)) <= duration('{high}')"
    return f"{DURATION.format('self')} && {found}"


def amount(form: str, rule: str) -> str:
    return f"{form.format('self')} && {rule}"


BROKEN_RULES: dict[str, list[tuple[tuple[Any, ...], Any]]] = {
    seconds("1s", "5m"): [(("spec", "interval"), "5m1s")],
    r"!string(self).matches(r'^[0-9]+(\.[0-9]+)?$')": [(("spec", "interval"), 15)],
    seconds("0s", "1h", ">"): [(("spec", "objective", "latency"), "2h")],
    seconds("1h", "2160h"): [(("spec", "objective", "window"), "30m")],
    amount(NUMBER, "double(self) > 0.0 && double(self) < 100.0"): [(("spec", "objective", "target"), 100)],
    amount(
        QUANTITY,
        "quantity(string(self)).compareTo(quantity('0')) > 0 && "
        "quantity(string(self)).compareTo(quantity('1000000000')) <= 0",
    ): [(("spec", "capacity", "perReplica"), "0")],
    seconds("0s", "1h"): [(("spec", "capacity", "startup"), "61m")],
    amount(NUMBER, "double(self) > 0.0 && double(self) < 1.0"): [(("spec", "metrics", "latency", "quantile"), "1.0")],
    "has(self.name) != has(self.server)": [(("spec", "policy", "server"), "a")],
    "!has(self.tenure) || !has(self.server)": [(("spec", "policy"), {"server": "a", "tenure": "On"})],
    "!has(self.tenure) || self.tenure == 'Off' || !has(self.name) || "
    f"!(self.name in [{', '.join(map(repr, policies.RULES))}])": [
        (("spec", "policy"), {"name": "hpa", "tenure": "Advisory"})
    ],
    amount(QUANTITY, "quantity(string(self)).compareTo(quantity('0')) >= 0"): [
        (("spec", "behavior", "scaleUp", "tolerance"), -1)
    ],
    seconds("0s", "24h"): [(("spec", "onMetricLoss", "after"), "25h")],
    "!has(self.action) || self.action == 'Hold' || has(self.replicas)": [
        (("spec", "onMetricLoss", "replicas"), REMOVED)
    ],
    "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas": [(("spec", "minReplicas"), 11)],
    f"!has(self.capacity.perReplica) || !{QUANTITY.format('self.capacity.perReplica')} || "
    f"!{DURATION.format('self.objective.latency')} || "
    "double(duration(string(self.objective.latency)).getMilliseconds()) * "
    "quantity(string(self.capacity.perReplica)).asApproximateFloat() > "
    "1000.000001 * double(self.capacity.concurrency)": [(("spec", "objective", "latency"), "80ms")],
}


def _rules(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield rule["rule"], rule["message"]
    for inner in schema.values():
        if isinstance(inner, dict):
            yield from _rules(inner)
        elif isinstance(inner, list):
            for item in inner:
                if isinstance(item, dict):
                    yield from _rules(item)


def test_every_rule_of_the_schema_is_listed_here() -> None:
    assert {rule for rule, _ in _rules(SCHEMA)} == set(BROKEN_RULES)
    assert all(message for _, message in _rules(SCHEMA))


@pytest.mark.parametrize(("rule", "changes"), BROKEN_RULES.items(), ids=[rule[-40:] for rule in BROKEN_RULES])
def test_what_breaks_a_rule_passes_the_schema_and_not_the_reader(
    rule: str, changes: list[tuple[tuple[Any, ...], Any]]
) -> None:
    value = changed(changes)
    assert VALIDATOR.is_valid(value)
    assert [found for _, found in read(value)] == [rule]


# --- structural


def _nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from _nodes(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from _nodes(schema[key], f"{path}[]")


NODES = dict(_nodes(SCHEMA))


def test_the_schema_is_structural() -> None:
    """The rules of "Specifying a structural schema" of Kubernetes' page on CustomResourceDefinitions."""
    for path, node in NODES.items():
        assert ("type" in node) != bool(node.get("x-kubernetes-int-or-string")), f"{path} needs one type"
        assert not {"$ref", "definitions", "dependencies", "patternProperties", "uniqueItems"} & node.keys(), path
        assert not ("properties" in node and "additionalProperties" in node), f"{path} may have only one of them"
        assert node.get("additionalProperties") is not False, path
        if "anyOf" in node:
            assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
            assert node["x-kubernetes-int-or-string"] is True, path
    assert NODES[".metadata"] == {"type": "object"}, "metadata is the API server's own"


def test_every_field_is_described() -> None:
    fields = {path: node for path, node in NODES.items() if not path.endswith("[]") and path != ".metadata"}
    bare = [path for path, node in fields.items() if path and not node.get("description", "").endswith(".")]
    assert bare == []


def test_every_text_is_bounded() -> None:
    """The API server refuses CEL rules whose cost it cannot bound."""
    open_ended = [
        path
        for path, node in NODES.items()
        if path.startswith(".spec")
        and (
            (node.get("type") == "string" and "maxLength" not in node and "enum" not in node)
            or (node.get("type") == "array" and "maxItems" not in node)
            or ("additionalProperties" in node and "maxProperties" not in node)
        )
    ]
    assert open_ended == []


def test_defaults_are_valid_values() -> None:
    defaults = {path: node for path, node in NODES.items() if "default" in node}
    assert ".spec.interval" in defaults
    for path, node in defaults.items():
        assert _Validator(_strict(node)).is_valid(node["default"]), path


def test_the_schema_is_made_anew_for_each_caller() -> None:
    openapi_schema()["properties"]["spec"]["properties"]["policy"]["default"].clear()
    assert openapi_schema() == SCHEMA
