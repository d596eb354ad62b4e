"""Values at the edge, judged as a real API server judges them (tests/cluster/test_fuzzed_resources.py asks one)."""

from typing import Any

import pytest
import yaml

from minimal_resource import MINIMAL
from rlscaler.custom_resource import ResourceError, resource_from_object


def problems(changes: dict[str, Any]) -> list[str]:
    """Return what is wrong with the shortest resource after changes of its spec, or of metadata.FIELD."""
    resource = yaml.safe_load(MINIMAL)
    for name, value in changes.items():
        parent, _, inner = name.rpartition(".")
        resource[parent or "spec"][inner] = value
    try:
        resource_from_object(resource)
    except ResourceError as error:
        return [f"{problem.place.path}: {problem.text}" for problem in error.problems]
    return []


def load(**query: Any) -> dict[str, Any]:
    return {"metrics": {"load": {"query": "up"} | query}}


def capacity(rate: Any, latency: str = "1h", concurrency: int = 1) -> dict[str, Any]:
    return {"capacity": {"perReplica": rate, "concurrency": concurrency}, "objective": {"latency": latency}}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(load(query="\u2028"), id="only ASCII's spaces are blank"),
        pytest.param(load(match={str(i): "x" for i in range(16)} | {"gone": None}), id="a null entry does not count"),
        pytest.param(capacity(10**9), id="the bound itself"),
        pytest.param(capacity("0.3", "10001ms", 3), id="just above the time of a request"),
        pytest.param({"metadata.labels": {"example.com/App_1.x": "A.b-c_9", "a": ""}}, id="labels"),
        pytest.param({"metadata.annotations": {"Example.com/a": "any text\n"}}, id="annotations with capitals"),
    ],
)
def test_allowed(changes: dict[str, Any]) -> None:
    assert problems(changes) == []


KEY = "the key is not allowed; expected a name of at most 63 letters, digits, '-', '_' and '.', after a DNS-1123 name"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"minReplicas": 3.0}, "spec.minReplicas: 3.0 is not a plain whole number", id="a whole fraction"),
        pytest.param(capacity(10.0), "spec.capacity.perReplica: 10.0 is a bare fraction", id="a fraction as quantity"),
        pytest.param(capacity(2**63), "is out of bounds; expected above 0 and at most", id="more than an int64"),
        pytest.param(capacity("1000000000.0000000001"), "is out of bounds", id="above the bound by less than a float"),
        pytest.param(capacity("0.3", "10s", 3), "10s is not above the 10 s", id="equal in decimals, not in floats"),
        pytest.param(load(match={str(i): "x" for i in range(17)}), "17 entries; expected at most 16", id="entries"),
        pytest.param({"metadata.labels": {"-a": "b"}}, f"metadata.labels.-a: {KEY}", id="label's key"),
        pytest.param({"metadata.labels": {"A/a": "b"}}, f"metadata.labels.A/a: {KEY}", id="label's prefix"),
        pytest.param({"metadata.labels": {"a" * 64: "b"}}, KEY, id="long key"),
        pytest.param({"metadata.labels": {f"{'a.' * 127}a/a": "b"}}, KEY, id="long prefix"),
        pytest.param({"metadata.labels": {"a": "b\n"}}, "'b\\n' is not allowed; expected at most 63", id="value"),
        pytest.param({"metadata.annotations": {"a/b/c": ""}}, KEY, id="annotation's key"),
    ],
)
def test_refused(changes: dict[str, Any], problem: str) -> None:
    found = problems(changes)
    assert len(found) == 1
    assert problem in found[0]
