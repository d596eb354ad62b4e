"""A dry-run tells what a resource would have done: the same figures in every form, and the same again with the seed."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import ROOT, WEB, install, run
from rlscaler.action import CORRECTIONS
from rlscaler.artifact import Artifact, save
from rlscaler.custom_resource import load_resources, parse_resources
from rlscaler.errors import UserError
from rlscaler.observation import FIELDS, NAMES, SCHEMA
from rlscaler.reasons import SENTENCES
from rlscaler_sim import contenders, dry_run, long_plan
from rlscaler_sim.contest import Entrant, Schedule, play
from rlscaler_sim.evaluation import Limit, own_constants
from rlscaler_sim.load import Load, realise_many
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE, DryRun

SHORT = ("--for", "20m", "-q")
KEYS = {"resource", "trace", "world", "contenders", "lower_bound", "decisions", "elapsed_s", "notes"}
FIGURES = {
    "name", "cost_ratio", "violation_share", "score", "regret", "replica_hours", "rescales", "wait_p95_s",
    "max_replicas",
}  # fmt: skip
TOLD = {"policy", "tenure", "settings", "time", "demand", "recommendation", "proposal", "replicas", "reasons",
        "sentence", "outcome", "observation_schema", "observation"}  # fmt: skip


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "installed"
    folder.mkdir()
    install(folder)
    monkeypatch.syspath_prepend(str(folder))


def told(*arguments: str, file: str = WEB) -> Any:
    """Return the JSON of a dry-run."""
    result = run("dry-run", "-f", file, *SHORT, "--json", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def resource(text: str, tmp_path: Path) -> Path:
    path = tmp_path / "resource.yaml"
    path.write_text(text)
    return path


def web(tmp_path: Path, *changes: tuple[str, str]) -> str:
    """Return the path of examples/web.yaml with some lines changed."""
    text = Path(WEB).read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    return str(resource(text, tmp_path))


# --- JSON


def test_json_has_the_documented_keys_and_no_others() -> None:
    found = told()
    assert set(found) == KEYS
    assert (found["resource"], found["trace"], found["decisions"]) == ("shop/web", "working-day", 80)
    assert [c["name"] for c in found["contenders"]] == ["default", "hpa", "hpa-tuned", "keda", "clairvoyant"]
    for c in found["contenders"]:
        assert set(c) == FIGURES
        assert c["score"] == pytest.approx(c["cost_ratio"] + 20.0 * c["violation_share"])
        assert all(isinstance(c[key], int) for key in ("rescales", "max_replicas"))
    assert found["elapsed_s"] > 0.0
    best = found["contenders"][-1]["score"]
    assert 0.0 < found["lower_bound"] <= best
    assert all(c["score"] >= best * 0.999 for c in found["contenders"])


def test_the_world_in_json_is_enough_to_know_what_was_run() -> None:
    world = told("--seed", "3", "--scale-to", "12", "--trace", "daily/slow-start")["world"]
    stated = {"capacity_per_replica": 50.0, "concurrency": 8, "interval": 15.0, "min_replicas": 2, "max_replicas": 100}
    assert world.items() >= (stated | {"seed": 3, "scale_to": 12.0, "startup": 300.0}).items()
    assert world["slo_wait"] == pytest.approx(0.5 - 8 / 50)
    assert world["price"] == pytest.approx(20.0)


def test_regret_is_measured_by_the_clairvoyant_and_the_tuned_hpa() -> None:
    found = {c["name"]: c for c in told("--trace", "spike", "--for", "40m", "--compare", "lcp")["contenders"]}
    assert list(found) == ["default", "hpa-tuned", "lcp", "clairvoyant"]
    span = found["hpa-tuned"]["score"] - found["clairvoyant"]["score"]
    for c in found.values():
        assert c["regret"] == pytest.approx((c["score"] - found["clairvoyant"]["score"]) / span)


def test_all_takes_everyone() -> None:
    found = told("--compare", "all")
    assert sorted(c["name"] for c in found["contenders"]) == sorted(["default", *contenders.NAMES])


def test_several_documents_give_a_list() -> None:
    found = told(file=str(ROOT / "examples" / "shop.yaml"))
    assert [run["resource"] for run in found] == ["shop/catalogue", "shop/checkout", "shop/search"]
    assert [run["world"]["capacity_per_replica"] for run in found] == [80.0, 12.0, 10.0]
    assert [run["decisions"] for run in found] == [80, 80, 120], "each at its own interval"
    assert found[1]["world"]["price"] == pytest.approx(200.0)


def test_the_same_seed_gives_the_same_and_another_does_not() -> None:
    one, again, other = (told("--seed", seed) for seed in ("4", "4", "5"))
    for found in (one, again, other):
        del found["elapsed_s"]
    assert one == again
    assert one["contenders"] != other["contenders"]


def test_the_resource_decides_the_policy_and_the_flag_wins(tmp_path: Path) -> None:
    path = web(tmp_path, ("name: default", "name: lcp"))
    assert told(file=path)["contenders"][0]["name"] == "lcp"
    assert told("--policy", "erlang", file=path)["contenders"][0]["name"] == "erlang"


@pytest.mark.parametrize("policy", ["hpa", "hpa-tuned", "keda", "static", "default"])
def test_every_rule_can_be_the_policy(policy: str) -> None:
    found = [c["name"] for c in told("--policy", policy)["contenders"]]
    assert found[0] == policy
    assert len(set(found)) == len(found)


def test_the_bounds_of_the_resource_hold(tmp_path: Path) -> None:
    path = web(tmp_path, ("maxReplicas: 100", "maxReplicas: 12"), ("minReplicas: 2", "minReplicas: 11"))
    for c in told("--compare", "all", file=path)["contenders"]:
        assert c["max_replicas"] <= 12
        assert c["replica_hours"] >= 11 / 3 - 1e-9


# --- from, for, and where a load ends


def test_from_and_for_pick_the_stretch(tmp_path: Path) -> None:
    path = tmp_path / "stairs.csv"
    path.write_text("t,rate\n" + "".join(f"{15 * i},{100 if i < 240 else 300}\n" for i in range(480)))
    options = {"scale_to": 10.0, "seed": 0}
    scenario = dry_run.found_scenario(str(path))
    settings, _, _ = dry_run.conditions(None, scenario)
    whole, _ = dry_run.realised(scenario, settings, start=0.0, duration=None, **options)  # type: ignore[arg-type]
    later, _ = dry_run.realised(scenario, settings, start=3600.0, duration=600.0, **options)  # type: ignore[arg-type]
    assert (len(whole.rates), whole.start) == (2400, 0.0)
    assert (len(later.rates), later.start) == (200, 3600.0)
    np.testing.assert_allclose(np.unique(whole.rates), [100 / 3, 100], rtol=1e-5)
    np.testing.assert_allclose(np.unique(later.rates), [100], rtol=1e-5)
    found = told("--trace", str(path), "--from", "1h", "--for", "10m")
    assert (found["trace"], found["decisions"]) == ("stairs", 40)


LENGTHS = {
    "a pattern runs as long as its scenario says": ("flash-crowd", "0s", None, 4 * 240),
    "less what is skipped": ("flash-crowd", "3h", None, 240),
    "a pattern can run beyond": ("flash-crowd", "3h", "90m", 360),
    "for is cut to whole decisions": ("steady", "0s", "100s", 6),
}


@pytest.mark.parametrize(("trace", "start", "duration", "decisions"), LENGTHS.values(), ids=LENGTHS.keys())
def test_how_long_it_runs(trace: str, start: str, duration: str | None, decisions: int) -> None:
    limit = ["--for", duration] if duration else []
    result = run("dry-run", "-f", WEB, "-q", "--json", "--trace", trace, "--from", start, *limit, "--compare", "hpa")
    assert json.loads(result.stdout)["decisions"] == decisions


def test_a_load_of_nothing_runs_and_has_no_score(tmp_path: Path) -> None:
    path = tmp_path / "nothing.csv"
    path.write_text("t,rate\n0,0\n60,0\n" + "".join(f"{60 * i},0\n" for i in range(2, 30)))
    found = told("--trace", str(path))
    assert found["lower_bound"] is None
    assert {c["score"] for c in found["contenders"]} == {None}
    for c in found["contenders"]:
        assert c["replica_hours"] == pytest.approx(2 * 20 / 60), c["name"]


# --- the HPA of the very load


def test_the_own_hpa_is_tuned_on_the_load_that_is_run(tmp_path: Path) -> None:
    """A pattern runs for its scenario's four hours; tuned on its day, the constants would be others."""
    scenario = dry_run.found_scenario("flash-crowd")
    made, notes, _ = dry_run.dry_run(None, scenario, compare=(contenders.OWN,), start=2.5 * 3600.0)
    settings, config, _ = dry_run.conditions(None, scenario)
    loads = realise_many([scenario.source], [0], start=2.5 * 3600.0, duration=1.5 * 3600.0)
    assert loads.rates.shape == (1, 1800)
    best = own_constants(loads, config, settings)[contenders.OWN][0]
    assert notes[-1] == (
        f"hpa-own, tuned on this load: target {best['target']:g}, scale-down window {best['window']:g} s, "
        f"tolerance {best['tolerance']:g}"
    )
    scores = {c.name: c.score for c in made.contenders}
    by_hand = play([loads.row(0)], [contenders.entrant(contenders.OWN, settings, best)], config, settings, [0])
    assert scores[contenders.OWN] == pytest.approx(float(by_hand.score[0, 0]), rel=1e-9)
    assert scores[contenders.OWN] <= scores[REFERENCE]


def test_what_late_means_and_what_the_load_is_scaled_to_is_said() -> None:
    text = run("dry-run", "-f", str(ROOT / "examples" / "worker.yaml"), *SHORT, "--scale-to", "12").stdout
    assert "late: waited longer than 56 s (objective: 99 % within 60 s)" in text
    assert re.search(r"^objective: 1\.0+ % may be late; kept by \w", text, re.MULTILINE)
    assert "load: scaled to need 12 replicas at its 95th percentile" in text
    assert "score: 1 % late weighs like 20 % of the needed pods, whatever the objective" in text


def test_json_has_the_notes_of_the_text(tmp_path: Path) -> None:
    small = web(tmp_path, ("maxReplicas: 100", "maxReplicas: 12"))
    command = ("dry-run", "-f", small, *SHORT, "--from", "10h")
    noted = [line.removeprefix("note: ") for line in run(*command).stdout.splitlines() if line.startswith("note: ")]
    assert any("maxReplicas is 12" in note for note in noted)
    assert json.loads(run(*command, "--json").stdout)["notes"] == noted


def test_irregular_times_of_a_trace_are_said(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("t,rate\n" + "".join(f"{60 * i + (7 if i % 10 == 3 else 0)},{20 + i}\n" for i in range(30)))
    assert told("--trace", str(path))["notes"] == [
        "6 of 29 steps are no multiple of 60 s; averaged onto buckets of 60 s"
    ]


def test_no_load_at_all_is_neither_scaled_nor_unknown(tmp_path: Path) -> None:
    path = tmp_path / "quiet.csv"
    path.write_text("t,rate\n" + "".join(f"{60 * i},0\n" for i in range(30)))
    text = run("dry-run", "-q", "-f", WEB, "--trace", str(path)).stdout
    assert "scaled to need" not in text
    assert "peak 0 requests/s" in text
    assert "never below the load" in text
    assert "note: in the span that is run quiet has no load" in text
    assert told("--trace", str(path))["world"]["scale_to"] is None


def test_a_load_beyond_the_most_replicas_is_said(tmp_path: Path) -> None:
    path = tmp_path / "web.html"
    small = web(tmp_path, ("maxReplicas: 100", "maxReplicas: 12"))
    text = " ".join(run("dry-run", "-f", small, *SHORT, "--from", "10h", "--report", str(path)).stdout.split())
    sentence = "replicas at full use, and maxReplicas is 12: then requests are late whatever is decided"
    assert sentence in text
    assert sentence in path.read_text(), "what the terminal notes is on the page too"
    assert "Start-up of a pod</dt><dd>60 s" in path.read_text(), "parameters have names and units"
    assert "whatever is decided" not in run("dry-run", "-f", WEB, *SHORT, "--from", "10h").stdout


# --- the limit


def test_where_the_clairvoyant_finds_nothing_better_it_repeats_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that is worse than a rule is not printed as the limit, in any of the forms."""

    def none(load: Load, *_: Any) -> Limit:
        steps = len(load.rates) // 5
        return Limit(np.zeros((1, steps), np.int32), np.array([0.5]))

    monkeypatch.setattr(long_plan, "plan", none)
    found, notes, _ = dry_run.dry_run(None, dry_run.found_scenario("spike"), duration=1800.0)
    best = found.ranked[0]
    assert notes == [f"the clairvoyant found no plan as good as the decisions of {best.name}, and repeats them"]
    assert found.limit == replace(best, name=CLAIRVOYANT, regret=found.limit.regret if found.limit else None)
    names = [c.name for c in found.contenders]
    for field in ("replicas", "ready", "violations", "backlog", "cost"):
        rows = getattr(found.series, field)
        np.testing.assert_array_equal(rows[names.index(best.name)], rows[-1])


def test_a_clairvoyant_that_is_best_is_left_alone() -> None:
    _, notes, _ = dry_run.dry_run(None, dry_run.found_scenario("spike"), duration=1800.0)
    assert notes == []


@pytest.mark.parametrize("file", ["web", "worker", "custom-target", "beside-hpa"])
def test_no_rule_is_better_than_the_clairvoyant_in_the_examples(file: str) -> None:
    [stated] = load_resources(str(ROOT / "examples" / f"{file}.yaml"))
    scenario = dry_run.found_scenario("working-day")
    found, notes, _ = dry_run.dry_run(stated, scenario, start=8 * 3600.0, duration=5400.0)
    assert found.limit is not None
    assert found.limit.score < found.ranked[0].score
    assert found.limit.regret == 0.0
    assert found.lower_bound is not None
    assert [note for note in notes if "rescales" not in note] == []


@pytest.mark.parametrize(
    ("policy", "more", "told"),
    [
        ("default", "", True),
        ("default", "  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}\n", False),
        ("hpa", "", False),
        ("hpa-tuned", "", False),
    ],
)
def test_many_rescales_are_told_with_how_to_have_fewer(policy: str, more: str, told: bool) -> None:
    [stated] = parse_resources((ROOT / "examples/web.yaml").read_text() + more, "web.yaml")
    scenario = dry_run.found_scenario("working-day")
    found, notes, _ = dry_run.dry_run(stated, scenario, policy=policy, compare=(), start=8 * 3600.0, duration=5400.0)
    restless = [note for note in notes if "rescales" in note]
    assert len(restless) == told
    if told:
        assert found.reference is not None
        often, usual = found.tested.rescales, found.reference.rescales
        assert restless[0].startswith(f"default rescales {often:,} times, hpa-tuned {usual:,};")


@pytest.mark.parametrize("variant", ["crashes", "slow-nodes"])
def test_no_limit_is_called_proven_where_pods_start_or_fail_by_chance(variant: str) -> None:
    result = run("dry-run", "-f", WEB, *SHORT, "--trace", variant)
    assert "proven)" not in result.stdout
    assert "it is the best that was found, and no limit is proven" in " ".join(result.stdout.split())


# --- what is assumed


def test_what_is_left_out_of_the_resource_is_said(tmp_path: Path) -> None:
    path = web(tmp_path, ('    perReplica: "50" # requests/s that a ready replica serves at full use\n', ""),
               ("concurrency: 8", "concurrency: 1"))  # fmt: skip
    result = run("dry-run", "-f", path, *SHORT)
    assert result.exit_code == 0
    assert "note: spec.capacity.perReplica is left out: the simulator takes 10 requests/s" in result.stdout


def test_a_world_that_differs_from_what_the_resource_states_is_said(tmp_path: Path) -> None:
    result = run("dry-run", "-f", WEB, *SHORT, "--trace", "slow-start")
    assert "note: the world's pods take 300 s to start, the resource states 60 s" in result.stdout
    left_out = web(tmp_path, ("    startup: 60s # from a pod's creation until it serves\n", ""))
    assert "take 300 s" not in run("dry-run", "-f", left_out, *SHORT, "--trace", "slow-start").stdout


def test_the_decision_believes_the_resource_and_the_world_is_as_it_is() -> None:
    [stated] = load_resources(WEB)
    settings, config, _ = dry_run.conditions(stated, dry_run.found_scenario("laggy-metrics/slow-start"))
    assert (settings.startup, config.startup) == (60.0, 300.0)
    assert (settings.lag, config.lag, config.window) == (60.0, 60.0, 60.0)
    assert (settings.capacity_per_replica, config.capacity_per_replica, config.concurrency) == (50.0, 50.0, 8)


# --- decisions


def test_every_decision_is_written_with_what_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    found = told("--decisions", str(path))
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    assert len(lines) == found["decisions"] == 80
    limits = {f.name: (f.low, f.high) for f in FIELDS}
    known = {str(reason.name) for reason in SENTENCES} | {"DesiredWithinRange"}
    for entry in lines:
        assert set(entry) == TOLD
        assert list(entry["observation"]) == list(NAMES)
        assert entry["observation_schema"] == SCHEMA
        assert all(limits[n][0] - 1e-5 <= v <= limits[n][1] + 1e-5 for n, v in entry["observation"].items())
        assert 2 <= entry["replicas"] <= 100
        assert entry["reasons"]
        assert set(entry["reasons"]) <= known
        assert entry["sentence"]
    assert [entry["time"] for entry in lines] == [15.0 * i for i in range(80)]
    assert lines[0]["demand"] is None
    assert "MetricsUnknown" in lines[0]["reasons"]
    assert all(entry["proposal"] is not None for entry in lines[2:])
    total = {name: sum(entry["outcome"][name] for entry in lines) for name in lines[0]["outcome"]}
    mine = found["contenders"][0]
    assert total["billed"] / total["needed"] == pytest.approx(mine["cost_ratio"], rel=1e-4)
    assert total["late"] / total["arrivals"] == pytest.approx(mine["violation_share"], rel=1e-3, abs=1e-6)


def test_the_decisions_written_are_the_decisions_scored(tmp_path: Path) -> None:
    """Replayed in the same world as fixed orders, they cost and break what the table says."""
    path = tmp_path / "decisions.jsonl"
    found = told("--decisions", str(path), "--seed", "2", "--trace", "spike/crashes")
    orders = np.array([[json.loads(text)["replicas"] for text in path.read_text().splitlines()]])
    scenario = dry_run.found_scenario("spike/crashes")
    settings, config, _ = dry_run.conditions(load_resources(WEB)[0], scenario)
    load, _ = dry_run.realised(scenario, settings, scale_to=25.0, seed=2, start=0.0, duration=1200.0)
    bare = replace(settings, behavior=None, floor=False, flap_budget=np.inf, holds=False)
    sums = play([load], [Entrant("again", Schedule(orders), bare)], config, settings, [2])
    mine = found["contenders"][0]
    for key in ("cost_ratio", "violation_share", "rescales"):
        assert getattr(sums, key)[0, 0] == pytest.approx(mine[key], rel=1e-9), key
    assert mine["max_replicas"] == orders.max()


@pytest.mark.parametrize("trace", ["idle first", "a gap in the middle", "no load"])
def test_the_cost_so_far_ends_as_the_cost_ratio_and_begins_with_the_first_need(trace: str, tmp_path: Path) -> None:
    rates = [300.0] * 240
    if trace == "a gap in the middle":
        rates[60:180] = [float("nan")] * 60 + [900.0] + [float("nan")] * 59
    elif trace == "idle first":
        rates[:100] = [0.0] * 100
    else:
        rates = [0.0] * 240
    path = tmp_path / "load.csv"
    path.write_text("t_s,rate\n" + "".join(f"{15 * i},{rate}\n" for i, rate in enumerate(rates)))
    found, _, _ = dry_run.dry_run(load_resources(WEB)[0], dry_run.found_scenario(str(path)), compare=())
    cost = found.series.cost
    if trace == "no load":
        assert np.isnan(cost).all()
        return
    np.testing.assert_allclose(cost[:, -1], [c.cost_ratio for c in found.contenders], rtol=1e-5)
    idle = int(np.flatnonzero(np.array(rates) > 0.0)[0])
    assert np.isnan(cost[:, :idle]).all()
    assert (cost[:, idle:] < 20.0).all()


def test_all_forms_of_a_run_show_the_same(tmp_path: Path) -> None:
    run_, _, made = dry_run.dry_run(
        load_resources(WEB)[0], dry_run.found_scenario("spike"), duration=1800.0, keep_decisions=True
    )
    assert isinstance(run_, DryRun)
    series, log = run_.series, run_.log
    assert series.replicas.shape == (len(run_.contenders), 120) == (5, run_.decisions)
    np.testing.assert_array_equal(log.replicas, series.replicas[0])
    np.testing.assert_array_equal(log.replicas, [d["replicas"] for d in made])
    for place, c in enumerate(run_.contenders):
        assert series.cost[place, -1] == pytest.approx(c.cost_ratio)
        assert series.replicas[place].max() == c.max_replicas
        assert np.count_nonzero(np.diff(series.replicas[place])) == c.rescales
    np.testing.assert_allclose(series.demand, series.load / 50.0)
    assert run_.limit is not None
    assert run_.limit.name == CLAIRVOYANT


# --- files and the table


def test_report_and_picture_are_written(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    pytest.importorskip("matplotlib")
    page, picture = tmp_path / "web.html", tmp_path / "web.png"
    result = run("dry-run", "-f", WEB, *SHORT, "--report", str(page), "--plot", str(picture))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith(f"page: {page}\npicture: {picture}\n")
    assert page.read_text().startswith("<!doctype html>") or page.read_text().startswith("<!DOCTYPE html>")
    assert "<dt>Policy</dt><dd>default</dd>" in page.read_text()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_files_of_several_documents_stand_beside_each_other(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    result = run("dry-run", "-f", str(ROOT / "examples" / "shop.yaml"), *SHORT, "--decisions", str(path))
    assert result.exit_code == 0
    assert result.stdout.endswith(f"decisions: {path} and others beside it\n")
    written = sorted(p.name for p in tmp_path.glob("*.jsonl"))
    assert written == ["made-checkout.jsonl", "made-search.jsonl", "made.jsonl"]
    assert [len(p.read_text().splitlines()) for p in sorted(tmp_path.glob("*.jsonl"))] == [80, 120, 80]


def test_documents_of_one_name_in_several_namespaces_keep_their_files(tmp_path: Path) -> None:
    text = Path(WEB).read_text()
    copies = [text.replace("namespace: shop", f"namespace: {name}") for name in ("one", "two", "three")]
    path = resource("---\n".join(copies), tmp_path)
    run("dry-run", "-f", str(path), *SHORT, "--decisions", str(tmp_path / "made.jsonl"))
    written = sorted(p.name for p in tmp_path.glob("*.jsonl"))
    assert written == ["made-three-web.jsonl", "made-two-web.jsonl", "made.jsonl"]


def test_the_table_names_everyone_and_a_winner() -> None:
    result = run("dry-run", "-f", WEB, *SHORT)
    assert result.exit_code == 0
    for word in ("shop/web on working-day, policy default, 80 decisions", "hpa-tuned", "keda", "wins"):
        assert word in result.stdout
    assert "No policy can score below" in result.stdout


def test_a_resource_from_the_standard_input() -> None:
    result = run("dry-run", "-f", "-", *SHORT, "--json", text=Path(WEB).read_text())
    assert json.loads(result.stdout)["resource"] == "shop/web"


# --- a learned policy


def learned(folder: Path, correction: float, name: str = "learned") -> str:
    """Save a table that always takes this correction, and return its path."""
    values = np.zeros((2, len(CORRECTIONS)))
    values[:, CORRECTIONS.index(correction)] = 1.0
    manifest = {
        "name": name,
        "kind": "q-table",
        "observation_schema": SCHEMA,
        "action_scheme": "headroom",
        "parameters": {"bins": [["trend", [0.0]]]},
    }
    path = folder / f"{name}-{correction:g}.rlz"
    save(Artifact(manifest, {"values": values}), path)
    return str(path)


def test_an_artifact_is_the_policy(tmp_path: Path) -> None:
    low, high = (told("--policy", learned(tmp_path, c))["contenders"][0] for c in (-0.26, 0.4))
    assert low["name"] == high["name"] == "learned"
    assert low["cost_ratio"] < high["cost_ratio"]
    assert low["max_replicas"] < high["max_replicas"]


@pytest.mark.parametrize("name", ["hpa-tuned", "clairvoyant", "growth-quantile"])
def test_an_artifact_that_is_called_like_a_rule_is_not_taken_for_it(tmp_path: Path, name: str) -> None:
    path = learned(tmp_path, 0.26, name)
    names = [c["name"] for c in told("--policy", path)["contenders"]]
    assert names[0] == path
    assert {"hpa-tuned", "clairvoyant"} <= set(names)
    assert len(set(names)) == len(names)


# --- the scenario of a name


def test_an_expression_longer_than_any_file_name() -> None:
    scenario = dry_run.found_scenario("+".join(["daily"] * 80))
    assert isinstance(scenario.source.rates(np.zeros(1), np.random.default_rng(0)), np.ndarray)  # type: ignore[operator]


def test_a_trace_without_the_usual_ending(tmp_path: Path) -> None:
    path = tmp_path / "load.txt"
    path.write_text("t,rate\n0,1\n60,2\n120,3\n")
    assert told("--trace", str(path), "--for", "2m")["trace"] == "load.txt"


def test_load_is_scaled_to_the_replicas_asked_for() -> None:
    scenario = dry_run.found_scenario("sinusoidal")
    settings, _, _ = dry_run.conditions(load_resources(WEB)[0], scenario)

    def realised(scale: float) -> Load:
        return dry_run.realised(scenario, settings, scale_to=scale, seed=1, start=0.0, duration=7200.0)[0]

    assert np.percentile(realised(8.0).rates, 95.0) == pytest.approx(8.0 * 50.0, rel=1e-3)
    np.testing.assert_allclose(realised(16.0).rates, 2.0 * realised(8.0).rates, rtol=1e-5)


@pytest.mark.parametrize(("start", "duration", "sentence"), [
    (90_000.0, None, "--from 25h: working-day ends after 24h"),
    (0.0, 0.0, "--for 0s: expected some time"),
])  # fmt: skip
def test_a_stretch_with_nothing_in_it(start: float, duration: float | None, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        dry_run.dry_run(None, dry_run.found_scenario("working-day"), start=start, duration=duration)


def test_only_what_the_resource_has_a_query_for_is_read(tmp_path: Path) -> None:
    """The example has none for the backlog; a cluster would not tell it, so neither does the simulator."""
    crowd = ("--trace", "flash-crowd", "--for", "2h", "--decisions", "made.jsonl")
    queue = "    utilization:\n"
    deeper = ("    backlog:\n      query: queue_length\n" + queue, queue)
    seen = {}
    for name, file in (("without", WEB), ("with", web(tmp_path, (deeper[1], deeper[0])))):
        path = tmp_path / f"{name}.jsonl"
        told(*crowd[:-1], str(path), file=file)
        seen[name] = max(json.loads(line)["observation"]["backlog"] for line in path.read_text().splitlines())
    assert seen["without"] == 0.0
    assert seen["with"] > 0.1
