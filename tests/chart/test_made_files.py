"""What the chart takes from elsewhere is what was taken, and its values, schema and README tell the same."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml

from helm_chart import CHART
from rlscaler.prometheus_config import SOURCE

ROOT = Path(__file__).resolve().parents[2]
VALUES_TEXT = (CHART / "values.yaml").read_text()
VALUES: dict[str, Any] = yaml.safe_load(VALUES_TEXT)
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())


def script() -> ModuleType:
    """Return scripts/chart.py as a module."""
    spec = importlib.util.spec_from_file_location("chart_script", ROOT / "scripts" / "chart.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SCRIPT = script()


def test_made_files_are_up_to_date() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in SCRIPT.made().items() if path.read_text() != text]
    assert stale == [], "run `python scripts/chart.py`"


def leaves(value: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner and name not in {"sources", "resources", "labels"}:
            yield from leaves(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def test_every_value_is_described() -> None:
    described = [value.path for value in SCRIPT.values(VALUES_TEXT)]
    assert described == list(leaves(VALUES))
    assert all(value.meaning.endswith(".") for value in SCRIPT.values(VALUES_TEXT))


def test_the_defaults_obey_the_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(VALUES, SCHEMA)


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for name, inner in schema.items():
            yield from objects(inner, f"{path}/{name}")


def test_the_schema_knows_the_values_and_no_others() -> None:
    def compare(schema: dict[str, Any], values: dict[str, Any], path: str) -> None:
        if "properties" in schema:
            assert schema["properties"].keys() - {"global"} == values.keys(), path
            for name, inner in values.items():
                if isinstance(inner, dict) and path + name not in {"/sources", "/resources"}:
                    compare(schema["properties"][name], inner, f"{path}{name}/")

    compare(SCHEMA, VALUES, "/")


def test_the_schema_is_strict_but_for_what_is_kubernetes_own() -> None:
    free = {path for path, schema in objects(SCHEMA) if "additionalProperties" not in schema}
    assert free == {"/definitions/objects/items", "/properties/global", "/properties/policies/properties/volume",
                    "/properties/decisions/properties/volume", "/properties/affinity"}  # fmt: skip


def test_a_source_takes_what_the_operator_takes() -> None:
    known = SCHEMA["definitions"]["source"]["properties"]
    ours = SOURCE.schema()["properties"]
    assert known.keys() - {"secret"} == ours.keys()
    for block in ("basic", "tls"):
        assert known[block]["properties"].keys() == ours[block]["properties"].keys()


def test_every_commented_example_of_the_values_is_accepted() -> None:
    """What stands in comments as an example is what people will uncomment."""
    text = re.sub(r"(?m)^(    )# (?=\s*[\w]+: ?)(?!.*\.$)", r"\1", VALUES_TEXT)
    text = re.sub(r"(?m)^targets: \[\]\n  # ", "targets:\n  ", text)
    values = yaml.safe_load(text)
    assert values["targets"]
    assert set(values["sources"]["default"]) == {"url", "timeout", "headers", "basic", "secret"}
    jsonschema.validate(values, SCHEMA)


@pytest.mark.parametrize("name", ["README.md", "values.yaml", "templates/NOTES.txt"])
def test_links_and_files_that_are_named_exist(name: str) -> None:
    named = re.findall(r"\b(?:examples|scripts|docs|charts)/[\w./-]+\w", (CHART / name).read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
