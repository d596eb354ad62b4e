"""A backtest decides a past again: exactly as it was decided, from files, and with every oddity of the data said."""

import html
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from command_line import WEB, mistakes, run, stand_in
from rlscaler.custom_resource import load_resources
from rlscaler_sim import backtest, dry_run
from rlscaler_sim.dry_run import found_scenario
from rlscaler_sim.recorded import Past, _steady, checked, counts_at, from_prometheus, from_traces
from rlscaler_sim.trace import Trace

WEEK = 7 * 86400.0
INTERVAL = 15.0


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch)


def written(name: str, values: Any, begin: float = 100 * WEEK, step: float = INTERVAL) -> str:
    """Write a CSV of one value a step, empty where it is unknown."""
    lines = [f"{begin + step * i!r},{'' if value is None else repr(float(value))}" for i, value in enumerate(values)]
    Path(name).write_text("\n".join(["time,rate", *lines, ""]))
    return name


def wave(steps: int, step: float = INTERVAL) -> np.ndarray:
    """Return a load between 400 and 800 requests/s, once up and down in two hours."""
    return np.asarray(600.0 - 200.0 * np.cos(np.arange(steps) * step / 7200.0 * 2.0 * np.pi))


def told(*arguments: str) -> Any:
    result = run("backtest", "-f", WEB, "-q", "--json", "--compare", "hpa-tuned", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_what_rlscaler_did_itself_is_decided_again_exactly() -> None:
    """The past is a simulated day with a crowd and lost metrics, kept as a Prometheus would: readings and replicas."""
    (resource,) = load_resources(WEB)
    scenario = found_scenario("working-day/lossy-metrics")
    _, _, made = dry_run.dry_run(resource, scenario, compare=(), start=8 * 3600.0, duration=6 * 3600.0)
    per_replica = resource.spec.capacity.per_replica
    assert per_replica is not None
    loads = [None if d["demand"] is None else d["demand"] * per_replica for d in made]
    assert 20 < loads.count(None) < len(loads) / 4
    begin = 100 * WEEK + 8 * 3600.0
    load = written("load.csv", loads, begin - INTERVAL)
    replicas = written("replicas.csv", [d["replicas"] for d in made], begin)
    told("--trace", load, "--replicas", replicas, "--decisions", "again.jsonl")
    again = {d["time"]: d["replicas"] for d in map(json.loads, Path("again.jsonl").read_text().splitlines())}
    then = {begin + INTERVAL * i: d["replicas"] for i, d in enumerate(made)}
    assert len(again) == len(then) - 2  # what the last two would have met is not recorded
    assert {time: (count, then[time]) for time, count in again.items() if count != then[time]} == {}


@pytest.mark.parametrize("policy", ["default", "keda"])
def test_worlds_that_are_played_in_a_process_of_their_own_come_out_the_same(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, asked = written("load.csv", wave(1200)), ("--capacity-error", "0.2", "--compare", "hpa-own,keda")
    here = told("--trace", load, "--policy", policy, *asked)
    monkeypatch.setattr(dry_run, "LONG", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    there = told("--trace", load, "--policy", policy, *asked)
    assert [each["factor"] for each in here["capacity"]] == [0.8, 1.2]
    assert there["capacity"] == here["capacity"]
    assert there["contenders"] == here["contenders"]


def test_a_program_that_backtests_begins_no_process_that_it_did_not_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes in the caller's main module, which may do anything."""
    monkeypatch.setattr(dry_run, "LONG", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    began: list[int] = []

    class Counted(ProcessPoolExecutor):
        def __init__(self, workers: int, **settings: Any) -> None:
            began.append(workers)
            super().__init__(workers, **settings)

    monkeypatch.setattr("rlscaler_sim.aside.ProcessPoolExecutor", Counted)
    (resource,) = load_resources(Path(WEB))
    past = Trace("load", 100 * WEEK, INTERVAL, wave(1200))
    backtest.backtest(resource, past, compare=("keda",), capacity_error=0.2)
    assert began == []
    backtest.backtest(resource, past, compare=("keda",), capacity_error=0.2, processes=2)
    assert began == [1]


def test_recorded_replicas_are_a_contender_like_any_other() -> None:
    load = written("load.csv", wave(1000))
    found = told("--trace", load, "--replicas", written("replicas.csv", [40] * 1000), "--price", "0.5")
    by_name = {c["name"]: c for c in found["contenders"]}
    hours = 998 * INTERVAL / 3600.0
    assert by_name["recorded"]["replica_hours"] == pytest.approx(40 * hours, rel=1e-6)
    assert by_name["recorded"]["violation_share"] < 1e-9
    assert by_name["default"]["cost_ratio"] < by_name["recorded"]["cost_ratio"]
    bills = {entry["contender"]: entry for entry in found["money"]}
    assert bills["recorded"]["total"] == pytest.approx(20.0 * hours, rel=1e-6)
    assert bills["recorded"]["month"] == pytest.approx(20.0 * 720, rel=1e-6)


def test_a_gap_of_the_record_makes_no_month_cheaper() -> None:
    """Nothing in a gap is scored or billed, so a month is reckoned from the rest: 40 replicas cost what they cost."""
    load = written("load.csv", [None if 200 <= i < 700 else v for i, v in enumerate(wave(1000))])
    found = told("--trace", load, "--replicas", written("replicas.csv", [40] * 1000), "--price", "0.5")
    bills = {entry["contender"]: entry for entry in found["money"]}
    assert bills["recorded"]["total"] == pytest.approx(20.0 * 498 * INTERVAL / 3600.0, rel=1e-6)
    assert bills["recorded"]["month"] == pytest.approx(20.0 * 720, rel=1e-6)


@pytest.mark.parametrize("lost", [(True, True), (True, False)], ids=["of both", "of the load"])
def test_what_was_done_then_pays_for_nothing_that_nobody_saw(lost: tuple[bool, bool]) -> None:
    """The load rises tenfold in a gap, and replicas with it: when, nobody knows, so it is not held against them."""
    gap = range(300, 500)
    load = [None if i in gap else (100.0 if i < 300 else 1000.0) for i in range(1000)]
    counts = [None if lost[1] and i in gap else (5 if i < 480 else 40) for i in range(1000)]
    found = told("--trace", written("load.csv", load), "--replicas", written("replicas.csv", counts))
    recorded = next(c for c in found["contenders"] if c["name"] == "recorded")
    assert recorded["violation_share"] < 1e-6
    assert recorded["replica_hours"] == pytest.approx((300 * 5 + 498 * 40) * INTERVAL / 3600.0, rel=0.01)


def test_the_sentence_on_what_was_done_then_has_the_digits_of_the_table() -> None:
    """Over two hours, replica-hours differ in their decimals: 'fewer (10 for 10)' would say nothing."""
    load = written("load.csv", wave(480, INTERVAL) / 4.0)
    replicas = written("replicas.csv", [5] * 480)
    asked = ("backtest", "-f", WEB, "-q", "--compare", "hpa-tuned", "--trace", load, "--replicas", replicas)
    found = run(*asked, "--capacity-error", "0.1")
    assert found.exit_code == 0, found.output
    then = f"{5 * 478 * INTERVAL / 3600.0:.1f}"
    assert f" for {then})" in found.stdout
    assert found.stdout.count(f"in {then} replica-hours") == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--report", "load.csv"], ["--report load.csv", "--trace names the same file"]),
        (["--decisions", "./replicas.csv"], ["--decisions ./replicas.csv", "--replicas names the same file"]),
        (["--report", "one", "--decisions", "one"], ["--report one", "--decisions names the same file"]),
    ],
)
def test_no_file_of_the_past_is_written_over(options: list[str], words: list[str]) -> None:
    load, replicas = written("load.csv", wave(400)), written("replicas.csv", [30] * 400)
    before = [Path(name).read_text() for name in (load, replicas)]
    said = " ".join(mistakes(run("backtest", "-f", WEB, "-q", "--compare", "hpa-tuned", "--trace", load, "--replicas",
                                 replicas, *options)))  # fmt: skip
    for word in words:
        assert word in said
    assert [Path(name).read_text() for name in (load, replicas)] == before
    assert not Path("one").exists()


def test_a_load_below_one_request_a_second_has_a_peak() -> None:
    load = written("load.csv", np.where(np.arange(480) % 40 == 7, 0.2, 0.05))
    said = run("backtest", "-f", WEB, "-q", "--compare", "hpa-tuned", "--trace", load).stdout
    assert "peak 0.2 requests/s" in said


def test_recorded_replicas_may_lie_outside_of_the_bounds() -> None:
    load = written("load.csv", wave(1000))
    found = told("--trace", load, "--replicas", written("replicas.csv", [1] * 500 + [300] * 500))
    recorded = next(c for c in found["contenders"] if c["name"] == "recorded")
    assert recorded["max_replicas"] == 300
    assert recorded["violation_share"] > 0.3


def test_replicas_that_cannot_have_served_the_load_make_units_doubtful() -> None:
    """Requests a minute for requests a second: everyone's figures are about a workload that never was."""
    replicas = written("replicas.csv", [20] * 400)
    found = told("--trace", written("load.csv", 60.0 * wave(400)), "--replicas", replicas)
    (bounds,) = [note for note in found["notes"] if "maxReplicas is 100" in note]
    assert "--scale-to" not in bounds
    (units,) = [note for note in found["notes"] if "fewer than the load needs" in note]
    for words in ("100 % of the time", "up to 960 of them", "in requests/s", "capacity.perReplica, 50,"):
        assert words in units
    few = written("few.csv", [15] * 400)  # the load needs up to 16, for a seventh of its two hours
    assert not any(
        "fewer" in note for note in told("--trace", written("load.csv", wave(400)), "--replicas", replicas)["notes"]
    )
    assert any("up to 16 of them" in note
               for note in told("--trace", written("load.csv", wave(400)), "--replicas", few)["notes"])  # fmt: skip


@pytest.mark.parametrize(("count", "doubted"), [(16, True), (40, False)])
def test_an_autoscaler_that_seems_late_makes_the_capacity_doubtful(count: int, doubted: bool) -> None:
    """The load needs up to 16 replicas at full use: as an HPA's are, where its target is taken for the capacity."""
    asked = ("backtest", "-f", WEB, "-q", "--compare", "hpa-tuned", "--trace", written("load.csv", wave(400)))
    found = run(*asked, "--replicas", written("replicas.csv", [count] * 400))
    assert found.exit_code == 0, found.output
    line = next(line for line in found.stdout.splitlines() if line.startswith("Beside what was done then"))
    doubt = "If so many were not late then, a replica serves more than 50 requests/s."
    assert line.endswith(doubt) if doubted else doubt not in line


def test_a_replica_that_serves_less_makes_more_requests_late() -> None:
    load = written("load.csv", wave(1000))
    found = told("--trace", load, "--capacity-error", "0.2")
    low, high = found["capacity"]
    late = [entry["contenders"]["hpa-tuned"]["late"] for entry in (low, high)]
    assert [round(low["factor"], 9), round(high["factor"], 9)] == [0.8, 1.2]
    assert late[0] > late[1]


def test_longer_buckets_are_said_and_their_readings_simulated() -> None:
    load = written("load.csv", wave(200, 300.0), step=300.0)
    found = told("--trace", load, "--replicas", written("replicas.csv", [30] * 200, step=300.0))
    assert any("buckets of 5m" in note and "simulated" in note for note in found["notes"])
    assert any("a file with a value every 15s or less" in note for note in found["notes"])
    assert {"recorded", "default"} < {c["name"] for c in found["contenders"]}


def test_longer_buckets_say_as_much_of_the_data_as_short_ones() -> None:
    load = written("load.csv", [None if 60 <= i < 80 else v for i, v in enumerate(wave(200, 300.0))], step=300.0)
    found = told("--trace", load, "--replicas", written("replicas.csv", [30] * 200, begin=0.0, step=300.0))
    for words in ("15h of load are known", "unknown for 10 % of the time", "replicas do not overlap with the load"):
        assert any(words in note for note in found["notes"]), words
    assert "recorded" not in {c["name"] for c in found["contenders"]}


def past(load: Any, replicas: Any = None) -> Past:
    values = np.array([np.nan if v is None else v for v in load], np.float64)
    times = 100 * WEEK + INTERVAL * np.arange(len(values))
    return Past("shop/web", times, values, None if replicas is None else np.array(replicas, np.float64))


DAY = round(86400 / INTERVAL)
NOTED: dict[str, tuple[Past, list[str]]] = {
    "eight hours": (past([1.0] * (DAY // 3)), ["8h of load are known: no daily pattern"]),
    "two days": (past([1.0] * (2 * DAY)), ["2.0 days of load are known: weekends"]),
    "a week": (past([1.0] * (7 * DAY)), []),
    "gaps": (
        past([1.0] * (7 * DAY) + [None] * 240 + [1.0] * DAY),
        ["load is unknown for 0.52 % of the time, in one piece for 1h at most"],
    ),
    "replicas from elsewhere": (
        past([1.0] * (7 * DAY), [np.nan] * (7 * DAY)),
        ["the recorded replicas do not overlap"],
    ),
    "a counter that is scraped every minute, and reset": (
        past(np.repeat(np.arange(7.0 * DAY / 4.0) % 9000.0, 4)),
        ["the load rises nearly all the time, as a counter does"],
    ),
    "replicas with gaps": (
        past([1.0] * (7 * DAY), [3.0] * (6 * DAY) + [np.nan] * DAY),
        ["recorded replicas are missing for 14 % of the time"],
    ),
}


@pytest.mark.parametrize(("given", "expected"), NOTED.values(), ids=NOTED)
def test_what_the_data_cannot_say_is_said(given: Past, expected: list[str]) -> None:
    notes = checked(given, INTERVAL).notes
    assert len(notes) == len(expected)
    for note, words in zip(notes, expected, strict=True):
        assert words in note


def test_a_load_of_few_requests_is_no_staircase() -> None:
    rng = np.random.default_rng(0)
    assert _steady(rng.poisson(0.3, 2000).astype(float)) == 1
    assert _steady(np.repeat(rng.random(200), 4)) == 4
    assert _steady(np.ones(2000)) == 1
    assert _steady(wave(2000)) == 1


def test_finer_buckets_are_averaged_over_each_interval() -> None:
    rates = np.repeat([1.0, 3.0, np.nan, 5.0], 240)
    found = from_traces(Trace("fine", 0.0, 5.0, rates), None, INTERVAL)
    assert found is not None
    np.testing.assert_array_equal(found.load[[0, 79, 80, 159, 160, 240]], [1.0, 1.0, 3.0, 3.0, np.nan, 5.0])
    np.testing.assert_array_equal(found.times[:2], [15.0, 30.0])


def test_rows_of_replicas_that_are_averaged_are_said() -> None:
    load = Trace("load", 0.0, INTERVAL, np.full(DAY, 3.0))
    replicas = Trace("replicas", 0.0, INTERVAL, np.full(DAY, 3.0), ("7 of 99 steps are no multiple of 15 s",))
    found = from_traces(load, replicas, INTERVAL)
    assert found is not None
    assert "replicas: 7 of 99 steps are no multiple of 15 s" in found.notes
    (resource,) = load_resources(WEB)
    coarse = Trace("load", 0.0, 60.0, np.full(1500, 300.0))
    (_, notes, _), _ = backtest.backtest(resource, coarse, replicas, compare=())
    assert "replicas: 7 of 99 steps are no multiple of 15 s" in notes


@dataclass
class Remembering:
    """A Prometheus that holds one series, from a time to another."""

    begin: float
    end: float
    config: Any = None

    def range(self, query: str, start: float, end: float, step: float, *, deadline: float | None = None) -> Any:
        times = start + step * np.arange(int((end - start) / step) + 1)
        there = (times >= self.begin) & (times <= self.end)
        labels = ({"deployment": "web"},)
        return SimpleNamespace(labels=labels, times=times, values=np.where(there, 5.0, np.nan)[None])


@pytest.mark.parametrize(
    ("ends", "skew", "said"),
    [(0.0, 0.0, False), (-3600.0, 0.0, True), (-3600.0, -3600.0, False), (-3600.0, 3600.0, True)],
    ids=["as asked", "an hour early", "as its clock", "an hour early by a clock ahead"],
)
def test_data_that_end_early_are_said(ends: float, skew: float, said: bool) -> None:
    (resource,) = load_resources(WEB)
    end = 100 * WEEK
    found = from_prometheus(Remembering(end - WEEK, end + ends), resource, end - 86400.0, end, None, skew)
    assert any("the data end 1h earlier than asked" in note for note in found.notes) == said


def test_replicas_that_were_recorded_as_long_as_the_load_are_not_missing() -> None:
    load, replicas = (Trace(name, 0.0, INTERVAL, np.full(DAY, 3.0)) for name in ("load", "replicas"))
    found = from_traces(load, replicas, INTERVAL)
    assert found is not None
    assert found.replicas is not None
    assert np.isfinite(found.replicas).all()
    assert not any("missing" in note for note in found.notes)
    (later,) = counts_at(replicas, replicas.start + replicas.duration + np.array([INTERVAL]))
    assert np.isnan(later)


def test_load_arrives_before_it_is_read() -> None:
    """With a lag of one interval, what is read at a moment arrived in the interval before the last."""
    (resource,) = load_resources(WEB)
    settings, _, _ = dry_run.conditions(resource, found_scenario("steady"))
    load, seen, counts = backtest.arrived(past(np.arange(400.0), np.arange(400.0)), settings)
    assert float(settings.lag) == INTERVAL
    np.testing.assert_array_equal(load.rates.reshape(-1, 5)[:3], np.repeat([[2.0], [3.0], [4.0]], 5, axis=1))
    np.testing.assert_array_equal(seen[0, :3], [0.0, 1.0, 2.0])
    assert counts is not None
    assert load.rates.size == 5 * seen.shape[1] == 5 * counts.size == 5 * 398


MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "no past": (["-f", WEB], ["where is the past?", "--prometheus URL"]),
    "two pasts": (["-f", WEB, "--trace", "a.csv", "--prometheus", "http://127.0.0.1:1"], ["name one of"]),
    "no file": (["-f", WEB, "--trace", "none.csv"], ["none.csv"]),
    "too short": (["-f", WEB, "--trace", "short.csv"], ["10m", "1h"]),
    "too short, in long buckets": (["-f", WEB, "--trace", "minutes.csv"], ["30m", "1h"]),
    "a pod's capacity": (
        ["-f", "learned.yaml", "--trace", "long.csv"],
        ["spec.capacity.perReplica", "calibrate", "--profile", "state it"],
    ),
    "several resources": (["-f", "two.yaml", "--trace", "long.csv"], ["shop/web, shop/api", "--name"]),
    "no such name": (["-f", "two.yaml", "--trace", "long.csv", "--name", "db"], ["--name db", "shop/web, shop/api"]),
    "nobody there": (["-f", WEB, "--prometheus", "http://127.0.0.1:9"], ["127.0.0.1:9"]),
    "no url": (["-f", WEB, "--prometheus", "prometheus"], ["--prometheus"]),
    "no time": (["-f", WEB, "--prometheus", "http://127.0.0.1:9", "--until", "noon"], ["--until noon", "2026-"]),
    "an unknown policy": (
        ["-f", "policy.yaml", "--trace", "long.csv"],
        ["error: policy.yaml: spec.policy of shop/web: policy 'nobody' is unknown", "expected default"],
    ),
    "no config": (["-f", WEB, "--config", "none.yaml"], ["--config none.yaml"]),
    "a config that is no YAML": (["-f", WEB, "--config", "broken.yaml"], ["--config broken.yaml:2: not YAML: "]),
    "a config of another encoding": (["-f", WEB, "--config", "latin.yaml"], ["--config latin.yaml: not UTF-8 text"]),
    "a config of two documents": (["-f", WEB, "--config", "docs.yaml"], ["--config docs.yaml: ", "single document"]),
    "a config with a strange date": (["-f", WEB, "--config", "date.yaml"], ["--config date.yaml: ", "month"]),
    "a config nested too deeply": (["-f", WEB, "--config", "nested.yaml"], ["--config nested.yaml: nested too deeply"]),
    "a config of merges of merges": (["-f", WEB, "--config", "merges.yaml"], ["merges.yaml:1: not read: its aliases"]),
    "a config within itself": (["-f", WEB, "--config", "aliases.yaml"], ["aliases.yaml:1: not read: its aliases"]),
    "a config that is a folder": (["-f", WEB, "--config", "."], ["--config .: cannot be read: Is a directory"]),
    "no sources": (["-f", WEB, "--config", "empty.yaml"], ["empty.yaml", "sources is missing"]),
    "another source": (["-f", WEB, "--config", "other.yaml"], ["spec.metrics.source is default", "other.yaml has eu"]),
    "no number for a price": (
        ["-f", WEB, "--trace", "long.csv", "--price", "nan"],
        ["'--price': nan is no finite number; expected one in the range x>0.0"],
    ),
    "no end to a price": (["-f", WEB, "--trace", "long.csv", "--price", "inf"], ["'--price': inf is no finite number"]),
    "no number for an error": (
        ["-f", WEB, "--trace", "long.csv", "--capacity-error", "nan"],
        ["'--capacity-error': nan is no finite number; expected one in the range 0.0<=x<=0.9"],
    ),
    "looking back in a file": (
        ["-f", WEB, "--trace", "long.csv", "--last", "12h"],
        ["--last 12h: looks back in a Prometheus", "all of it"],
    ),
    "the end of a file": (
        ["-f", WEB, "--profile", "web.json", "--until", "2026-05-01"],
        ["--until 2026-05-01: looks back in a Prometheus"],
    ),
    "replicas beside a profile": (
        ["-f", WEB, "--profile", "web.json", "--replicas", "replicas.csv"],
        ["--replicas replicas.csv", "--profile"],
    ),
    "no such rule": (["-f", WEB, "--trace", "long.csv", "--compare", "magic"], ["--compare magic"]),
    "no name": (["-f", WEB, "--trace", "long.csv", "--compare", ","], ["--compare ,: no name", "such as hpa,keda"]),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(arguments: list[str], words: list[str]) -> None:
    text = Path(WEB).read_text()
    Path("learned.yaml").write_text(text.replace('    perReplica: "50"', "    # learned"))
    Path("two.yaml").write_text(text + "---\n" + text.replace("name: web\n  namespace", "name: api\n  namespace"))
    Path("policy.yaml").write_text(text.replace("name: default", "name: nobody"))
    Path("empty.yaml").write_text("targets: []\n")
    Path("other.yaml").write_text("sources: {eu: {url: 'http://127.0.0.1:9'}}\n")
    Path("broken.yaml").write_text("sources:\n\teu: {}\n")
    Path("latin.yaml").write_bytes("# Zürich\nsources: {}\n".encode("latin-1"))
    Path("docs.yaml").write_text("sources: {}\n---\nsources: {}\n")
    Path("nested.yaml").write_text("[" * 100_000)
    merges = "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))
    Path("merges.yaml").write_text("a0: &a0 {x: 1}\n" + merges)
    Path("aliases.yaml").write_text("sources: &a {default: {url: x, headers: *a}}\n")
    Path("date.yaml").write_text("sources: {}\nsince: 2024-13-45\n")
    written("short.csv", wave(40))
    written("minutes.csv", wave(30, 60.0), step=60.0)
    written("long.csv", wave(400))
    (said,) = mistakes(run("backtest", *arguments))
    for word in words:
        assert word in said


def test_a_configuration_is_read_as_utf_8_whatever_the_locale() -> None:
    Path("c.yaml").write_bytes("# Zürich\nsources: {default: {url: 'http://127.0.0.1:9'}}\n".encode())
    code = (
        "from rlscaler.custom_resource import load_resources\n"
        "from rlscaler_sim.backtest_command import source_of\n"
        f"print(source_of(load_resources({WEB!r})[0], None, 'c.yaml').url)"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | plain, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("http://127.0.0.1:9\n", "")


def test_the_page_and_the_table(tmp_path: Path) -> None:
    load, replicas = written("load.csv", wave(400)), written("replicas.csv", [30] * 400)
    result = run("backtest", "-f", WEB, "--trace", load, "--replicas", replicas, "--report", "page.html", "-q",
                 "--price", "0.1", "--capacity-error", "0.1", "--compare", "hpa-tuned")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    for words in ("recorded", "Beside what was done then", "Money for 30 days", "90 % of what is stated",
                  "note: 1h40m of load are known", "page: page.html"):  # fmt: skip
        assert words in result.stdout
    assert "recorded" in (tmp_path / "page.html").read_text()


def shown(page: str) -> str:
    """Return what a reader sees of a page without its scripts, in one line."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", "", Path(page).read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", bare)).split())


def test_the_page_says_what_the_terminal_says() -> None:
    """It is a backtest, of a file and a time; with what was done then, the money, and the ends of the capacity."""
    load = written("load.csv", [None if 200 <= i < 210 else v for i, v in enumerate(wave(400))])
    replicas = written("replicas.csv", [30] * 400)
    asked = ("--trace", load, "--replicas", replicas, "--price", "0.5", "--capacity-error", "0.1")
    result = run("backtest", "-f", WEB, "-q", "--compare", "hpa-tuned", *asked, "--report", "page.html")
    assert result.exit_code == 0, result.stderr
    when = "1.7 hours, from 1971-12-02 00:00 to 1971-12-02 01:40 UTC, a value every 15s, from load.csv and replicas.csv"
    assert result.stdout.startswith(f"past: {when}\n")
    text = shown("page.html")
    assert text.startswith("shop/web: ")
    assert "(rlscaler backtest)" in text
    assert "dry-run" not in text.lower()
    assert f"Past: {when}. Policy default: 398 decisions" in text
    beside = next(line for line in result.stdout.splitlines() if line.startswith("Beside what was done then"))
    assert beside in text
    assert "recorded what was done then" in text
    notes = [line.removeprefix("note: ") for line in result.stdout.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2
    for note in notes:
        assert note.lower() in text.lower()
    found = told(*asked)
    assert found["past"] == {"source": "load.csv and replicas.csv", "begin": 100 * WEEK, "end": 100 * WEEK + 6000.0,
                             "step": 15.0}  # fmt: skip
    money = next(entry for entry in found["money"] if entry["contender"] == "recorded")
    assert f"recorded {money['total']:,.2f} {money['month']:,.2f}" in text
    assert "Late at 90 % Replica-hours at 90 % Late at 100 %" in text
    assert "at its 95th percentile" not in text
    assert "Load as it is, not scaled" in text


def test_the_page_of_a_past_without_replicas_and_price_has_no_empty_parts() -> None:
    result = run("backtest", "-f", WEB, "-q", "--trace", written("load.csv", wave(400)), "--report", "page.html")
    assert result.exit_code == 0, result.stderr
    text = shown("page.html")
    assert "rlscaler backtest" in text
    for words in ("what was done then", "Money", "Late at"):
        assert words not in text.replace("for what was done then too", ""), words
