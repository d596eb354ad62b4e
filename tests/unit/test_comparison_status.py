"""Shadow's comparison and the status that carries it have the same fields, of the same kinds."""

from typing import Any

import jsonschema
import pytest

from rlscaler import Autoscaler, Settings, Snapshot
from rlscaler.policies import load_policy
from rlscaler.resource_status import FIELDS, StatusField, clean, status_schema
from rlscaler_operator.comparison import Comparison
from rlscaler_operator.model import Key

WEB = Key("shop", "web")


@pytest.fixture
def report() -> dict[str, Any]:
    """Return the comparison of a workload with more replicas than it needs, half an hour long."""
    settings, policy = Settings(capacity_per_replica=10.0, max_replicas=100), load_policy("growth-quantile")
    scaler, comparison = Autoscaler(policy, settings, 1), Comparison()
    comparison.put(WEB, settings)
    for tick in range(120):
        told = {"load": 100.0, "ready": 30.0, "starting": 0.0, "desired": 30.0}
        view = scaler.view(Snapshot(time=1_700_000_000.0 + 15.0 * tick, **told))
        scaler.decide_on(view)
        comparison.advance([WEB], view, policy)
    found = comparison.report(WEB)
    assert found is not None
    return found


def names(fields: tuple[StatusField, ...]) -> dict[str, Any]:
    return {each.name: names(each.kind) if isinstance(each.kind, tuple) else None for each in fields}


def keys(value: Any) -> Any:
    return {name: keys(inner) for name, inner in value.items()} if isinstance(value, dict) else None


def test_every_field_of_the_report_is_one_of_the_schema_and_the_other_way_round(report: dict[str, Any]) -> None:
    assert keys(report) == names(FIELDS)["comparison"]


def test_the_report_is_as_the_schema_has_it(report: dict[str, Any]) -> None:
    jsonschema.validate({"comparison": report}, status_schema())
    assert clean({"comparison": report}) == {"comparison": report}, "nothing is lost on the way back"
