"""A calibration reads a workload's past from a real Prometheus: by a resource, and by queries alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import WEB, mistakes, run, stand_in
from prometheus_server import PrometheusServer
from rlscaler import profile as profiles

INTERVAL, STEPS = 15, 12_000
"""More readings than Prometheus returns in one answer."""
END = 1_790_000_010
TIMES = END - INTERVAL * STEPS + INTERVAL * np.arange(1, STEPS + 1)
UNTIL = "2026-09-21T14:13:30+00:00"
NUMBERS = np.arange(STEPS)
LOAD = (600.0 - 200.0 * np.cos(NUMBERS / 480.0 * 2.0 * np.pi) + 20.0 * np.sin(NUMBERS / 17.0)).round(3)
ASKED = np.where(NUMBERS // 100 % 2 == 0, 20.0, 22.0)
READY = np.minimum(ASKED, np.concatenate([[20.0] * 6, ASKED[:-6]]))
CAPACITY, STARTUP = 45.0, 90.0
LABELS = '{namespace="shop",deployment="web"}'


def openmetrics() -> str:
    """Return a past: each series a gauge, a value every 15 s."""
    gap = (TIMES < END - 50_000) | (TIMES > END - 45_000)
    series: list[tuple[str, str, np.ndarray, np.ndarray]] = [
        ("rps", '{deployment="web"}', gap, LOAD),
        ("rps", '{deployment="api"}', gap, 3.0 * LOAD),
        ("busy", '{deployment="web"}', gap, (LOAD / READY / CAPACITY).round(5)),
        ("busy_percent", '{deployment="web"}', gap, (100.0 * LOAD / READY / CAPACITY).round(3)),
        ("kube_deployment_spec_replicas", LABELS, gap | ~gap, ASKED),
        ("kube_deployment_status_replicas_ready", LABELS, gap | ~gap, READY),
    ]
    lines: list[str] = []
    for name, labels, there, values in series:
        kind = f"# TYPE {name} gauge"
        lines += [] if kind in lines else [kind]
        pairs = zip(TIMES[there].tolist(), values[there].tolist(), strict=True)
        lines += [f"{name}{labels} {value!r} {time}" for time, value in pairs]
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    with PrometheusServer(tmp_path_factory.mktemp("prometheus"), history=openmetrics()) as server:
        yield server


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch)
    text = Path(WEB).read_text()
    for asked, query in (
        ("sum by (deployment) (rate(http_requests_total{namespace='shop'}[1m]))", "rps"),
        ("avg by (deployment) (http_workers_busy{namespace='shop'} / http_workers{namespace='shop'})", "busy"),
    ):
        assert asked in text
        text = text.replace(asked, query)
    Path("web.yaml").write_text(text)


def arguments(server: PrometheusServer, *more: str) -> list[str]:
    return ["calibrate", "--prometheus", server.url, "--until", UNTIL, "--last", f"{INTERVAL * STEPS}s", *more]


def known(told: dict[str, Any], name: str, truth: float) -> bool:
    return bool(told[name]["low"] <= truth <= told[name]["high"])


def test_a_resource_is_calibrated_whole(prometheus: PrometheusServer) -> None:
    result = run(*arguments(prometheus, "-f", "web.yaml", "--output", "web.json", "--json"))
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert known(told, "capacity", CAPACITY)
    assert known(told, "startup", STARTUP)
    profile = profiles.read("web.json")
    recording = profiles.read_recording(profile, "web.json")
    assert len(recording.load) == STEPS
    before = TIMES < END - 50_000
    np.testing.assert_allclose(recording.load[before], LOAD[before], rtol=1e-6)
    assert np.isnan(recording.load[(TIMES > END - 49_600) & (TIMES <= END - 45_000)]).all()
    np.testing.assert_array_equal(recording.ready, READY.astype(np.float32))
    assert (told["load"]["gaps"], told["source"]) == (1, prometheus.url)
    notes = " ".join(told["notes"])
    for words in ("load is unknown for", "left out of every fit", "days of load are known"):
        assert words in notes


def test_queries_alone_will_do(prometheus: PrometheusServer) -> None:
    queries = ["--load", "rps{deployment='web'}", "--utilization", "busy", "--ready",
               "kube_deployment_status_replicas_ready", "--replicas", "kube_deployment_spec_replicas"]  # fmt: skip
    told = json.loads(run(*arguments(prometheus, *queries, "--json")).stdout)
    assert known(told, "capacity", CAPACITY)
    assert known(told, "startup", STARTUP)


def test_what_is_odd_is_said(prometheus: PrometheusServer) -> None:
    odd = ["--utilization", "busy_percent", "--ready", "nothing", "--last", "20h"]
    told = json.loads(run(*arguments(prometheus, "-f", "web.yaml", *odd, "--json")).stdout)
    assert "divide the query by 100" in told["capacity"]["why"]
    notes = " ".join(told["notes"])
    for words in ("0 series are found for them", "ready replicas are not known", "no daily pattern"):
        assert words in notes


def test_several_series_are_refused_by_name(prometheus: PrometheusServer) -> None:
    said = " ".join(mistakes(run(*arguments(prometheus, "--load", "rps"))))
    for words in ("2 series", "expected one", 'deployment="api"', "sum them"):
        assert words in said


@pytest.mark.parametrize("option", ["load", "utilization", "latency", "replicas", "ready"])
def test_of_five_queries_the_wrong_one_is_named(prometheus: PrometheusServer, option: str) -> None:
    said = " ".join(mistakes(run(*arguments(prometheus, "-f", "web.yaml", f"--{option}", "sum(("))))
    assert f"--{option}: " in said
    assert "parse error" in said
    assert "the query: sum((" in said


def test_a_wrong_query_of_the_resource_is_named_by_its_field(prometheus: PrometheusServer) -> None:
    text = Path("web.yaml").read_text()
    assert '"busy"' in text
    Path("web.yaml").write_text(text.replace('"busy"', '"busy{"'))
    said = " ".join(mistakes(run(*arguments(prometheus, "-f", "web.yaml"))))
    assert "spec.metrics.utilization: " in said
    assert "parse error" in said
