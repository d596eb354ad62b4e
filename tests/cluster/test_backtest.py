"""A backtest reads a workload's past from a real Prometheus, and says whatever is odd about it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from command_line import WEB, mistakes, run, stand_in
from prometheus_server import PrometheusServer

INTERVAL = 15
STEPS = 12_000
"""More than Prometheus returns in one answer."""
END = 1_790_000_010
BEGIN = END - INTERVAL * STEPS
TIMES = BEGIN + INTERVAL * np.arange(1, STEPS + 1)
LOAD = (600.0 - 200.0 * np.cos(np.arange(STEPS) / 480.0 * 2.0 * np.pi)).round(3)
WORKERS = 'kube_deployment_spec_replicas{namespace="shop",deployment="web"}'
UNTIL = "2026-09-21T14:13:30+00:00"


def openmetrics() -> str:
    """Return a past of some odd series: each a gauge with its labels, a value every 15 s."""
    early, late = TIMES < END - 90_000, TIMES >= END - 90_000
    series: list[tuple[str, np.ndarray, np.ndarray]] = [
        ('rps{deployment="web"}', np.full(STEPS, True), LOAD),
        ('rps{deployment="other"}', np.full(STEPS, True), LOAD + 1e6),
        (WORKERS, np.full(STEPS, True), np.full(STEPS, 25.0)),
        ('gone{deployment="web"}', TIMES % 20_000 > 3_000, LOAD),
        ('young{deployment="web"}', late, LOAD),
        ('seldom{deployment="web"}', TIMES % 60 == 0, LOAD),
        ('moved{deployment="web",pod="a"}', early, LOAD),
        ('moved{deployment="web",pod="b"}', TIMES >= END - 89_000, LOAD),
        ('twice{deployment="web",pod="a"}', np.full(STEPS, True), LOAD),
        ('twice{deployment="web",pod="b"}', np.full(STEPS, True), LOAD),
        ('requests_total{deployment="web"}', np.full(STEPS, True), np.cumsum(LOAD * INTERVAL).round()),
    ]
    lines = []
    for name, there, values in series:
        lines.append(
            f"# TYPE {name.partition('{')[0]} gauge"
        ) if f"# TYPE {name.partition('{')[0]} gauge" not in lines else None
        lines += [
            f"{name} {value!r} {time}"
            for time, value in zip(TIMES[there].tolist(), values[there].tolist(), strict=True)
        ]
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    with PrometheusServer(tmp_path_factory.mktemp("prometheus"), history=openmetrics()) as server:
        yield server


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch)


def resource(query: str) -> str:
    """Write the example with another query of the load, and return its path."""
    asked = "sum by (deployment) (rate(http_requests_total{namespace='shop'}[1m]))"
    text = Path(WEB).read_text()
    assert asked in text
    Path("web.yaml").write_text(text.replace(asked, query))
    return "web.yaml"


def arguments(server: PrometheusServer, query: str, *more: str) -> list[str]:
    return ["backtest", "-f", resource(query), "--prometheus", server.url, "--until", UNTIL, "-q", "--compare",
            "hpa-tuned", "--json", *more]  # fmt: skip


def test_a_long_past_is_read_whole(prometheus: PrometheusServer) -> None:
    """In parts, as Prometheus limits an answer, and every reading as it was recorded."""
    result = run(*arguments(prometheus, "rps", "--last", f"{INTERVAL * STEPS}s", "--decisions", "made.jsonl"))
    assert result.exit_code == 0, result.output
    made = [json.loads(line) for line in Path("made.jsonl").read_text().splitlines()]
    assert len(made) == STEPS - 2
    read = {int(decision["time"]): decision["demand"] for decision in made}
    expected = dict(zip(TIMES.tolist(), (LOAD / 50.0).tolist(), strict=True))
    assert read == pytest.approx({time: expected[time] for time in read}, abs=1e-5)
    found = json.loads(result.stdout)
    recorded = next(c for c in found["contenders"] if c["name"] == "recorded")
    assert recorded["replica_hours"] == pytest.approx(25.0 * (STEPS - 2) * INTERVAL / 3600.0, rel=1e-6)
    assert [note for note in found["notes"] if "days of load" not in note] == []


ODD: dict[str, tuple[str, str, list[str]]] = {
    "gaps": ("gone", "30h", ["load is unknown for", "in one piece for 4"]),
    "a young workload": ("young", "49h", ["the data begin 24h", "later than asked"]),
    "a pod after the other": ("moved", "30h", ["2 series one after the other", 'pod="b"']),
    "a load that is scraped seldom": ("seldom", "30h", ["changes every 1m only", "read every 15s"]),
    "a counter": ("requests_total", "5h", ["as a counter does", "rate()"]),
    "a count of a window": ("increase(requests_total[1m])", "5h", ["increase()", "divided by the seconds", "rate()"]),
    "a window": ("avg_over_time(rps[5m])", "5h", ["averages over 5m"]),
}


@pytest.mark.parametrize(("query", "last", "words"), ODD.values(), ids=ODD)
def test_what_is_odd_is_said(prometheus: PrometheusServer, query: str, last: str, words: list[str]) -> None:
    result = run(*arguments(prometheus, query, "--last", last))
    assert result.exit_code == 0, result.output
    notes = " ".join(json.loads(result.stdout)["notes"])
    for word in words:
        assert word in notes


def test_replicas_that_nobody_recorded(prometheus: PrometheusServer) -> None:
    found = json.loads(run(*arguments(prometheus, "rps", "--last", "2h", "--replicas", "nothing")).stdout)
    assert any("0 series are found for the replicas" in note for note in found["notes"])
    assert "recorded" not in {c["name"] for c in found["contenders"]}


WRONG: Mapping[str, tuple[str, list[str]]] = {
    "no such metric": (
        "rpss",
        [
            "spec.metrics.load",
            "holds nothing",
            "from 2026-09-21 09:13 UTC to 2026-09-21 14:13 UTC",
            'deployment="web"',
            "rpss",
        ],
    ),
    "another workload": ("rps{deployment='other'}", ["spec.metrics.load.match", 'deployment="other"']),
    "two series": ("twice", ["2 series", "expected one", 'pod="a"', "sum them"]),
    "no query": ("rps{", ["spec.metrics.load: ", "parse error", "the query: rps{"]),
}


@pytest.mark.parametrize(("query", "words"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_read_is_named(prometheus: PrometheusServer, query: str, words: list[str]) -> None:
    said = " ".join(mistakes(run(*arguments(prometheus, query, "--last", "5h"))))
    for word in words:
        assert word in said


def test_of_two_queries_the_wrong_one_is_named(prometheus: PrometheusServer) -> None:
    said = " ".join(mistakes(run(*arguments(prometheus, "rps", "--last", "5h", "--replicas", "sum(("))))
    assert "--replicas: " in said
    assert "parse error" in said
    assert "the query: sum((" in said


def test_the_operators_configuration_names_the_source(prometheus: PrometheusServer) -> None:
    Path("config.yaml").write_text(f"sources:\n  default:\n    url: {prometheus.url}\n")
    with_config = arguments(prometheus, "rps", "--last", "2h")
    at = with_config.index("--prometheus")
    with_config[at : at + 2] = ["--config", "config.yaml"]
    assert run(*with_config).exit_code == 0
