"""The CustomResourceDefinition as a whole: made of the tables of spec and status, and sound in what it adds."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from command_line import run
from rlscaler.crd import SCALE, columns, crd, crd_yaml
from rlscaler.custom_resource import openapi_schema
from rlscaler.resource_status import CONDITION_TYPES, status_schema

(VERSION,) = crd()["spec"]["versions"]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every field of a schema with its path."""
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}", inner
        yield from nodes(inner, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


FIELDS = dict(nodes(SCHEMA))


def test_names() -> None:
    spec = crd()["spec"]
    assert crd()["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}" == "rlscalers.rlscaler.io"
    assert spec["names"]["shortNames"] == ["rls"]
    assert (spec["scope"], VERSION["name"], VERSION["served"], VERSION["storage"]) == (
        "Namespaced",
        "v1alpha1",
        True,
        True,
    )


def test_spec_and_status_are_those_of_the_tables() -> None:
    def bare(schema: Any) -> Any:
        if isinstance(schema, dict):
            return {key: bare(value) for key, value in schema.items() if key != "description"}
        return schema

    assert SCHEMA["properties"]["status"] == status_schema()
    expected = openapi_schema()
    expected["properties"]["status"] = status_schema()
    assert bare(SCHEMA) == bare(expected)


def test_every_field_is_described() -> None:
    own = {path: node for path, node in FIELDS.items() if path != ".metadata"}
    assert [path for path, node in own.items() if not node.get("description", "").endswith(".")] == []


def test_every_default_is_told() -> None:
    """kubectl explain shows descriptions, and of defaults nothing else."""
    defaults = {path: node for path, node in FIELDS.items() if node.get("default") not in (None, {})}
    assert FIELDS[".spec.interval"]["description"].endswith(" Default: 15s.")
    assert FIELDS[".spec.minReplicas"]["description"].endswith(" Default: 1.")
    for path, node in defaults.items():
        told = node["description"].partition(" Default: ")[2].removesuffix(".")
        assert (told == node["default"]) or json.loads(told) == node["default"], path
    others = [node["description"] for path, node in FIELDS.items() if path not in defaults and "description" in node]
    assert not any("Default:" in text for text in others)


def test_the_status_is_structural_and_refuses_no_report() -> None:
    for path, node in nodes(status_schema()):
        assert "type" in node, path
        assert not {"pattern", "maximum", "minimum", "maxLength", "x-kubernetes-validations"} & node.keys(), path


def named(path: str) -> dict[str, Any]:
    """Return the field that a path of the definition names."""
    plain = re.sub(r"\[\?\(@\.type==\"(\w+)\"\)\]", "[]", path)
    return FIELDS[plain]


@pytest.mark.parametrize("column", columns(), ids=lambda column: column["name"])
def test_a_column_shows_a_field_that_is_there(column: dict[str, Any]) -> None:
    path = column["jsonPath"]
    if path == ".metadata.creationTimestamp":
        assert column["type"] == "date"
        return
    field = named(path)
    assert column["type"] == ("date" if field.get("format") == "date-time" else field["type"])
    assert set(re.findall(r'type=="(\w+)"', path)) <= set(CONDITION_TYPES)


def test_what_is_asked_for_in_the_columns_is_there() -> None:
    shown = {column["name"]: column.get("priority", 0) for column in columns()}
    narrow = {"Target", "Mode", "Min", "Max", "Current", "Desired", "Ready", "Active", "Reason", "Age"}
    assert {name for name, priority in shown.items() if priority == 0} == narrow
    assert {"Policy", "Last Scale"} <= {name for name, priority in shown.items() if priority == 1}


def test_the_scale_subresource_names_fields_that_are_there() -> None:
    assert VERSION["subresources"] == {"status": {}, "scale": SCALE}
    assert named(SCALE["specReplicasPath"])["type"] == named(SCALE["statusReplicasPath"])["type"] == "integer"
    assert "default" in named(SCALE["specReplicasPath"]), "a Scale without spec.replicas cannot be read"
    assert named(SCALE["labelSelectorPath"])["type"] == "string"


def test_yaml_says_the_same() -> None:
    assert yaml.safe_load(crd_yaml()) == crd()
    assert "&id" not in crd_yaml(), "no anchors, which people cannot read"


def test_it_is_made_anew_for_each_caller() -> None:
    crd()["spec"]["names"]["shortNames"].clear()
    crd()["spec"]["versions"][0]["subresources"]["scale"].clear()
    assert crd()["spec"]["versions"][0] == VERSION
    assert crd()["spec"]["names"]["shortNames"] == ["rls"]


def test_commands_print_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from command_line import install

    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path)
    assert run("schema", "--crd").stdout == crd_yaml()
    assert json.loads(run("schema", "--crd", "--json").stdout) == crd()
    printed = subprocess.run([sys.executable, "-m", "rlscaler.crd"], capture_output=True, text=True, check=True)
    assert printed.stdout == crd_yaml()
