"""Alerts and dashboard: real promtool reads them, each alert fires when it should, and each metric is exported."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from helm_chart import own, rendered
from programs import program
from rlscaler.resource_status import CONDITION_TYPES
from rlscaler_operator.clock import SystemClock
from rlscaler_operator.condition_reasons import MEANINGS, Meaning
from rlscaler_operator.telemetry import Telemetry
from rlscaler_operator.writing import Result

pytestmark = pytest.mark.components("helm", "prometheus")

JOB = 'namespace="ops",job="scaler-rlscaler"'
EVERYTHING = {"prometheusRule": {"enabled": True, "alertLabels": {"team": "platform"}}, "dashboard": {"enabled": True}}


@pytest.fixture(scope="module")
def rules() -> dict[str, Any]:
    found: dict[str, Any] = own("PrometheusRule", rendered(EVERYTHING))["spec"]
    return found


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(own("ConfigMap", rendered(EVERYTHING), "-dashboard")["data"]["rlscaler.json"])
    return content


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def alerts(rules: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}


def queries(dashboard: dict[str, Any]) -> Iterator[str]:
    """Yield the dashboard's queries with its variables filled in."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield re.sub(r"\$__rate_interval", "5m", target["expr"]).replace("$", "")


# --- that they can be read


def test_promtool_takes_the_rules(rules: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rules))
    promtool("check", "rules", "--lint=all", "--lint-fatal", file)


def test_promtool_takes_every_query_of_the_dashboard(dashboard: dict[str, Any], tmp_path: Path) -> None:
    recording = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(queries(dashboard))]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recording}]}))
    promtool("check", "rules", file)


def test_every_alert_says_what_to_do(rules: dict[str, Any]) -> None:
    for name, rule in alerts(rules).items():
        assert name.startswith("RLScaler")
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["labels"]["team"] == "platform"
        assert rule["annotations"].keys() == {"summary", "description"}
        assert re.search(r"Look |`kubectl get rls -A` names|uninstall", rule["annotations"]["description"]), name
        assert JOB in rule["expr"]


def test_the_alert_of_a_fallback_knows_every_reason(rules: dict[str, Any]) -> None:
    rule = alerts(rules)["RLScalerFallback"]
    told = rule["annotations"]["description"]
    for each in MEANINGS:
        if (each.condition, each.statuses) == ("FallbackActive", "True") and each.reason not in rule["expr"]:
            word = "Server..." if each.reason.startswith("Server") else each.reason
            assert f"({word})" in told, each.reason


def test_the_selector_can_be_chosen() -> None:
    values = {"prometheusRule": {"enabled": True, "selector": 'namespace="ops",service="x"'}}
    for rule in alerts(own("PrometheusRule", rendered(values))["spec"]).values():
        assert '{namespace="ops",service="x"' in rule["expr"]
        assert "SELECTOR" not in rule["expr"]


# --- that they name what there is


def exported() -> set[str]:
    """Return the names of all series that the operator exports."""
    names = set()
    for family in Telemetry(SystemClock()).registry.collect():
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        names |= {family.name + end for end in ends}
    return names


def test_every_metric_that_is_asked_for_is_exported(rules: dict[str, Any], dashboard: dict[str, Any]) -> None:
    variables = [variable["query"]["query"] for variable in dashboard["templating"]["list"][1:]]
    asked = [rule["expr"] for rule in alerts(rules).values()] + list(queries(dashboard)) + variables
    named = {name for text in asked for name in re.findall(r"\b(?:rlscaler|process)_\w+", text)}
    assert len(named) > 20
    assert named <= exported()


def test_every_metric_of_the_operators_own_is_shown(dashboard: dict[str, Any]) -> None:
    shown = " ".join(queries(dashboard))
    left_out = {name for name in exported() if name.startswith("rlscaler_") and name not in shown}
    left_out -= {name for name in left_out if name.endswith(("_sum", "_count"))}
    assert left_out == {"rlscaler_policy_info"}


def test_every_value_that_is_picked_can_occur(rules: dict[str, Any], dashboard: dict[str, Any]) -> None:
    text = " ".join([*(rule["expr"] for rule in alerts(rules).values()), *queries(dashboard)])
    known = {
        "type": set(CONDITION_TYPES),
        "status": {"True", "False", "Unknown"},
        "reason": {meaning.reason for meaning in MEANINGS},
        "outcome": set(get_args(Result)),
    }
    for label, values in known.items():
        named = re.findall(rf'\b{label}(?:=~?|!=|!~)"([^"]+)"', text)
        picked = {value for found in named for value in found.split("|")}
        assert picked
        assert picked <= values, label


def test_the_workloads_own_namespace_survives_the_scrape() -> None:
    """Without honorLabels the operator's namespace would take the place of the workload's."""
    monitor = own("ServiceMonitor", rendered({"serviceMonitor": {"enabled": True}}))
    assert monitor["spec"]["endpoints"][0]["honorLabels"] is True


# --- that they fire


def conditions(meaning: Meaning) -> str:
    """Return the series that counts the RLScalers of which a condition says this."""
    return f'rlscaler_conditions{{{JOB},type="{meaning[0]}",status="{meaning[1]}",reason="{meaning[2]}"}}'


WELL = {
    f'rlscaler_is_leader{{{JOB},pod="a"}}': "1x60",
    f'rlscaler_is_leader{{{JOB},pod="b"}}': "0x60",
    f'rlscaler_on_time_ratio{{{JOB},pod="a"}}': "1x60",
    f'rlscaler_on_time_ratio{{{JOB},pod="b"}}': "NaN " * 60,
    f'rlscaler_query_duration_seconds_count{{{JOB},source="default"}}': "0+60x60",
    f'rlscaler_source_errors_total{{{JOB},source="default",reason="Timeout"}}': "0+1x60",
    f'rlscaler_writes_total{{{JOB},outcome="Written"}}': "0+5x60",
    f'rlscaler_writes_total{{{JOB},outcome="Stale"}}': "0+1x60",
    f'rlscaler_writes_total{{{JOB},outcome="Failed"}}': "0x60",
    **dict.fromkeys(map(conditions, MEANINGS), "0x60"),
    conditions(MEANINGS[0]): "9x60",
    f'rlscaler_watch_age_seconds{{{JOB},watch="rlscalers"}}': "20x60",
}
"""A fleet in which all is well, for an hour, a sample a minute."""


def ill(series: str, values: str) -> dict[str, str]:
    """Return WELL with other values of the series that begin so."""
    changed = {name: values for name in WELL if name.startswith(series)}
    assert changed
    return WELL | changed


def one(condition: str, status: str, *reasons: str) -> dict[str, str]:
    """Return WELL, but that for one RLScaler a condition has a status, for each of these reasons in turn."""
    told = [each for each in MEANINGS if each[:2] == (condition, status) and each.reason in reasons]
    assert len(told) == len(reasons)
    turns = ["".join("1 " if n // 5 % len(told) == i else "0 " for n in range(60)) for i in range(len(told))]
    return WELL | dict(zip(map(conditions, told), turns, strict=True))


def namesake(leads: str) -> dict[str, str]:
    """Return the leader of a release of the same name in another namespace."""
    return {'rlscaler_is_leader{namespace="other",job="scaler-rlscaler",pod="a"}': leads}


STORIES: dict[str, tuple[dict[str, str], set[str]]] = {
    "well": (WELL, set()),
    "nobody leads": (ill("rlscaler_is_leader", "1x20 0x40"), {"RLScalerNoLeader"}),
    "nothing is scraped": ({}, {"RLScalerNoLeader"}),
    "a hand-over": (ill("rlscaler_is_leader", "1x57 0 1 1"), set()),
    "two lead": (ill("rlscaler_is_leader", "1x60"), {"RLScalerTwoLeaders"}),
    "late": (ill(f'rlscaler_on_time_ratio{{{JOB},pod="a"', "0.98x60"), {"RLScalerLate"}),
    "a source is gone": (ill("rlscaler_source_errors_total", "0+40x60"), {"RLScalerSourceFailing"}),
    "writes fail": (
        ill(f'rlscaler_writes_total{{{JOB},outcome="Failed"', "0+1x60"),
        {"RLScalerWritesFailing"},
    ),
    "one is not ready": (one("Ready", "False", "InvalidSpec"), {"RLScalerNotReady"}),
    "a policy is refused": (
        one("Ready", "False", "PolicyRefused") | one("FallbackActive", "True", "PolicyRefused"),
        {"RLScalerPolicyRefused"},
    ),
    "one has no data": (one("ScalingActive", "False", "NoData"), {"RLScalerInactive"}),
    "one is switched off": (one("ScalingActive", "False", "ScalingDisabled"), set()),
    "one falls back": (one("FallbackActive", "True", "MetricLossFallback"), {"RLScalerFallback"}),
    "two owners": (
        one("Conflict", "True", "OwnedByHPA") | one("AbleToScale", "False", "OwnedByHPA"),
        {"RLScalerConflict"},
    ),
    "a quarrel": (one("AbleToScale", "False", "ReplicasRewritten", "Yielding"), {"RLScalerConflict"}),
    "in Shadow beside an HPA": (
        one("Conflict", "True", "OwnedByHPA") | one("AbleToScale", "Unknown", "Shadow"),
        set(),
    ),
    "one is at its bound": (one("ScalingLimited", "True", "TooManyReplicas"), {"RLScalerAtMaximum"}),
    "one misses its objective": (one("ScalingActive", "True", "ObjectiveMissed"), {"RLScalerObjectiveMissed"}),
    "one is at its lower bound": (one("ScalingLimited", "True", "TooFewReplicas"), set()),
    "a watch is silent": (ill("rlscaler_watch_age_seconds", "0+60x60"), {"RLScalerWatchSilent"}),
    "another release is ill": (
        WELL | {name.replace("scaler-rlscaler", "other"): "0x60" for name in WELL if "is_leader" in name},
        set(),
    ),
    "a release of that name leads in another namespace": (WELL | namesake("1x60"), set()),
    "only a release of that name leads": (
        ill("rlscaler_is_leader", "0x60") | namesake("1x60"),
        {"RLScalerNoLeader"},
    ),
}


def test_each_alert_has_a_story(rules: dict[str, Any]) -> None:
    assert set().union(*(fired for _, fired in STORIES.values())) == alerts(rules).keys()


def test_each_alert_fires_when_it_should_and_no_other(rules: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": [{"series": key, "values": values} for key, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "59m",
                    "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(fired)],
                }
            ],
        }
        for name, (series, fired) in STORIES.items()
    ]
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)
