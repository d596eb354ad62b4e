"""The benchmark tells what its runs show and no more, goes on where it was cut off, and calls a constant a constant."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from rlscaler.action import CORRECTIONS, HEADROOM
from rlscaler.artifact import Artifact
from rlscaler.observation import NAMES, SCHEMA
from rlscaler_sim import trace
from rlscaler_sim.batch import Batch
from rlscaler_sim.env import ScalerEnv
from rlscaler_sim.legacy_policy import STEPS
from rlscaler_sim.score_statistics import iqm
from rlscaler_training import bench, bench_gpu, bench_replay, export, finishing, learner, loads
from rlscaler_training import benchmark_legacy as legacy
from rlscaler_training import benchmark_report as report
from rlscaler_training import benchmark_runs as runs
from rlscaler_training.benchmark import benchmark
from rlscaler_training.benchmark_arenas import RULES, split
from rlscaler_training.benchmark_learners import BUDGETS, Watched, config, count
from rlscaler_training.benchmark_runs import Plan, Row
from rlscaler_training.benchmark_statistics import (
    FAILS,
    HOLDS,
    OPEN,
    Estimate,
    improvement,
    interquartile_mean,
    verdict,
)
from rlscaler_training.commands import LEARNERS
from rlscaler_training.ppo_fast import Config as PpoFast

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In a folder of its own, with one thread: networks are tiny here, and threads would wait for each other."""
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- statistics

VALUES = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=5).map(np.array)


@settings(deadline=None, derandomize=True, max_examples=15)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=3))
def test_the_probability_of_improvement_is_that_of_counting_pairs(tasks: list[tuple[np.ndarray, np.ndarray]]) -> None:
    ours, theirs = ([task[side] for task in tasks] for side in (0, 1))
    won = [np.mean([1.0 if a < b else 0.5 if a == b else 0.0 for a in x for b in y]) for x, y in tasks]
    found = improvement(ours, theirs, rng())
    assert found.value == pytest.approx(np.mean(won))
    assert 0.0 <= found.low <= found.high <= 1.0
    turned = improvement(theirs, ours, rng())
    assert found.value + turned.value == pytest.approx(1.0)


def test_the_interquartile_mean_is_of_all_runs_and_its_interval_narrows_with_more() -> None:
    drawn = rng().normal(0.0, 1.0, (2, 400))
    few, many = list(drawn[:, :5]), list(drawn)
    small, large = interquartile_mean(few, rng()), interquartile_mean(many, rng())
    assert small.value == pytest.approx(iqm(np.concatenate(few)))
    assert small.low < small.value < small.high
    assert large.high - large.low < 0.5 * (small.high - small.low)


def test_runs_are_drawn_within_their_task() -> None:
    """Tasks that are far apart but certain leave no doubt; drawn over all together they would."""
    found = interquartile_mean([np.zeros(5), np.full(5, 100.0)], rng())
    assert (found.low, found.high) == (found.value, found.value)


@pytest.mark.parametrize(
    ("low", "high", "fewest", "expected"),
    [
        pytest.param(0.6, 0.9, 10, HOLDS, id="above"),
        pytest.param(0.1, 0.4, 10, FAILS, id="below"),
        pytest.param(0.4, 0.9, 10, OPEN, id="across"),
        pytest.param(0.5, 0.9, 10, OPEN, id="touching"),
        pytest.param(1.0, 1.0, 2, OPEN, id="too few runs"),
    ],
)
def test_a_verdict_needs_the_whole_interval_and_some_runs(low: float, high: float, fewest: int, expected: str) -> None:
    assert verdict(Estimate((low + high) / 2, low, high), fewest) == expected


def test_nothing_is_said_of_no_runs() -> None:
    with pytest.raises(ValueError, match="no runs"):
        interquartile_mean([np.zeros(0)], rng())
    with pytest.raises(ValueError, match="no task"):
        improvement([np.zeros(1)], [np.zeros(0)], rng())


# --- what is said

LEVELS = {"clairvoyant": 1.0, "hpa-tuned": 2.0, "threshold": 2.2, "random": 9.0, "growth-quantile": 1.6,
          "ppo": 1.5, "dqn": 1.7, "q-learning": 1.5}  # fmt: skip
PLAN = Plan(("classic",), tuple(LEVELS), 5, 1.0, {"classic": 1.0})


def rows(
    levels: dict[str, float] = LEVELS, seeds: int = 5, changed: dict[str, dict[str, Any]] | None = None
) -> list[Row]:
    """Return rows in which every contender has its level on two tasks, with a little noise of its own.

    changed: contender -> what its rows have instead.
    """
    found = []
    for number, (name, level) in enumerate(levels.items()):
        for seed in range(seeds):
            noise = 0.01 * np.random.default_rng([number, seed]).standard_normal(2)
            row: Row = {"setting": "classic", "seed": seed, "contender": name, "kind": "learner"
                        if name in BUDGETS else "rule", "score": {"a": level + noise[0], "b": level + 1.0 + noise[1]},
                        "cost": {"a": 1.0, "b": 1.0}, "late": {"a": 0.01, "b": 0.01}}  # fmt: skip
            if row["kind"] == "learner":
                row |= {"steps": 1000, "seconds": 2.0, "cpu_seconds": 1.0, "constant": None}
            found.append(row | (changed or {}).get(name, {}))
    return found


def told(found: list[Row]) -> dict[str, Any]:
    summary: dict[str, Any] = report.summary(PLAN, found, "rlscaler benchmark")
    json.dumps(summary, allow_nan=False)
    return summary


def test_regret_is_0_for_the_clairvoyant_and_1_for_the_reference() -> None:
    table = told(rows())["settings"]["classic"]["contenders"]
    assert table["clairvoyant"]["regret"]["value"] == 0.0
    assert table["hpa-tuned"]["regret"]["value"] == pytest.approx(1.0, abs=0.02)
    assert table["ppo"]["regret"]["value"] == pytest.approx(0.5, abs=0.02)
    assert table["ppo"]["steps_per_s"] == 500.0
    assert table["ppo"]["steps_per_cpu_s"] == 1000.0


def test_the_chain_is_judged_link_by_link() -> None:
    setting = told(rows())["settings"]["classic"]
    found = {(link["better"], link["worse"]): link["verdict"] for link in setting["links"]}
    assert found == {("ppo", "dqn"): HOLDS, ("dqn", "q-learning"): FAILS, ("q-learning", "threshold"): HOLDS,
                     ("threshold", "random"): HOLDS}  # fmt: skip
    assert setting["claim"] == FAILS
    page = report.markdown(told(rows()))
    assert "ppo > dqn > q-learning > threshold > random: does not hold" in page
    assert "- dqn > q-learning: does not hold; P(better) 0.00" in page


def test_a_small_negative_figure_is_not_a_negative_zero() -> None:
    summary = told(rows(LEVELS | {"ppo": 1.0 - 1e-9, "q-learning": -1e-9}))
    setting = summary["settings"]["classic"]
    for row in setting["contenders"].values():
        row["regret"] |= {"value": -1e-9, "low": -1e-9, "high": -1e-9}
        row |= dict.fromkeys(("score", "cost", "late"), -1e-9)
    summary["settings"]["legacy"] = setting
    said = report.markdown(summary) + "\n".join(report.spoken(summary))
    assert "0.00 [0.00, 0.00]" in said
    assert "-0.0" not in said


def test_what_was_not_run_cannot_be_told() -> None:
    levels = {name: level for name, level in LEVELS.items() if name != "dqn"}
    setting = told(rows(levels))["settings"]["classic"]
    assert [link["verdict"] for link in setting["links"]] == [OPEN, OPEN, HOLDS, HOLDS]
    assert setting["claim"] == OPEN


def test_two_seeds_tell_nothing() -> None:
    setting = told(rows(seeds=2))["settings"]["classic"]
    assert {link["verdict"] for link in setting["links"]} == {OPEN}


def test_a_rule_that_beats_every_learner_is_printed_as_such() -> None:
    page = report.markdown(told(rows(LEVELS | {"growth-quantile": 1.2})))
    assert "**A rule beats every learner here: growth-quantile**" in page
    assert "A rule beats every learner" not in report.markdown(told(rows()))


def test_constants_and_failures_are_named() -> None:
    broken = {"failed": "loss is nan", "score": {}}
    changed: dict[str, dict[str, Any]] = {"q-learning": {"outside": 0.75}, "dqn": {"constant": "always add"}}
    changed["ppo"] = broken
    page = report.markdown(told(rows(changed=changed)))
    assert "**dqn is a constant** in 5 of 5 runs: always add (5)." in page
    assert "ppo failed in 5 of 5 runs: loss is nan" in page
    assert "| ppo |" not in page
    assert "**q-learning hardly decided itself**: 75%" in page


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        pytest.param("clairvoyant", {"late": {"a": 0.2, "b": 0.01}}, id="the clairvoyant is late"),
        pytest.param("hpa-tuned", {"score": {"a": 1.0, "b": 3.0}}, id="nothing to win"),
        pytest.param("clairvoyant", {"score": {"a": None, "b": 2.0}}, id="no score"),
    ],
)
def test_tasks_that_tell_nothing_are_left_out(name: str, changed: dict[str, Any]) -> None:
    summary = told(rows(changed={name: changed}))
    assert (summary["settings"]["classic"]["tasks"], summary["settings"]["classic"]["left_out"]) == (["b"], ["a"])
    assert "Left out, as even the clairvoyant is late there" in report.markdown(summary)


def test_the_page_of_the_documents_is_made_of_the_stored_results() -> None:
    stored = json.loads((DOCS / "benchmark.json").read_text(encoding="utf-8"))
    assert report.markdown(stored) == (DOCS / "benchmark.md").read_text(encoding="utf-8"), "run `make docs`"


# --- what is trained and scored on


def test_every_source_family_is_scored_on_once_and_never_trained_on_meanwhile() -> None:
    families = [f"source {number}" for number in range(11)]
    parts = [split(families, fold) for fold in range(3)]
    assert sorted(name for _, _, scored in parts for name in scored) == sorted(families)
    for train, validate, scored in parts:
        assert sorted([*train, *validate, *scored]) == sorted(families)
        assert min(len(train), len(validate), len(scored)) > 1


@pytest.mark.parametrize("name", BUDGETS)
def test_budgets_are_settings_of_the_learner(name: str) -> None:
    assert name in LEARNERS
    small, large = (getattr(config(name, seconds), BUDGETS[name].count) for seconds in (0.01, 100.0))
    assert small == BUDGETS[name].least
    assert large == count(name, 100.0) == round(100.0 * BUDGETS[name].pace)


# --- the same action, always


def network(bias: list[float], weight: float, highest: float = 1e9) -> Artifact:
    """Return a network of the `headroom` scheme whose choice is that of the bias, moved by the newest sample.

    highest: sample that it was trained on.
    """
    last = np.zeros((1, len(CORRECTIONS)), np.float32)
    last[0, 0] = weight
    arrays = {"weight_0": last, "bias_0": np.array(bias, np.float32), "mean": np.zeros(1, np.float32),
              "scale": np.ones(1, np.float32)}  # fmt: skip
    manifest = {
        "name": "made", "kind": "mlp", "observation_schema": SCHEMA, "action_scheme": "headroom",
        "fields": ["rel_latest"], "training_range": {"rel_latest": [-1e9, highest]},
        "parameters": {"activation": "relu", "output": "choices"},
        "provenance": {}, "scores": {},
    }  # fmt: skip
    assert "rel_latest" in NAMES
    return Artifact(manifest=manifest, arrays=arrays)


@pytest.fixture(scope="module")
def batch() -> Batch:
    found = loads.pools(("steady",), None, 1.0, 0)
    return Batch(found.train, found.train.config, found.train.settings, HEADROOM, 16, 30, 0)


@pytest.mark.parametrize("choice", [3, 5, 8])
def test_a_policy_that_always_takes_one_action_is_called_constant(batch: Batch, choice: int) -> None:
    policy = Watched(network([float(at == choice) for at in range(len(CORRECTIONS))], 0.0))
    assert policy.constant is None, "nothing was seen yet"
    learner.scored(batch, policy, 30, 0)
    correction = CORRECTIONS[choice]
    assert policy.constant == (f"always a correction of {correction:+.2f}" if correction else "never a correction")


def test_decisions_outside_of_the_training_range_are_counted(batch: Batch) -> None:
    shares = []
    for highest in (1e9, 0.0, -1e8):
        policy = Watched(network([0.0] * len(CORRECTIONS), 0.0, highest))
        learner.scored(batch, policy, 30, 0)
        shares.append(policy.outside)
    assert shares[0] == 0.0
    assert 0.2 < shares[1] < 0.8
    assert shares[2] == 1.0


def test_a_policy_that_chooses_is_not(batch: Batch) -> None:
    policy = Watched(network([0.0, *([-1e9] * (len(CORRECTIONS) - 2)), 0.0], 1.0))
    learner.scored(batch, policy, 30, 0)
    assert policy.constant is None


# --- the environment of earlier work


def test_the_rules_of_earlier_work_have_its_figures() -> None:
    found = legacy.rules(0)
    values = {"clairvoyant": -3.0948, "threshold-tuned": -5.8681, "threshold": -27.9537, "constant": -14.025,
              "churn": -77.283547}  # fmt: skip
    for name, value in values.items():
        assert found[name].value == pytest.approx(value, abs=1e-4)
    assert found["constant"].constant == "always hold"
    assert found["churn"].constant is None
    assert tuple(found) == runs.LEGACY_RULES


def test_its_environments_serve_the_learners_of_workloads() -> None:
    envs = legacy.Environments(2)
    total, seen = np.zeros(2), envs.reset(0)
    for step in range(STEPS):
        assert seen.shape == (2, len(NAMES))
        assert envs.mask().all()
        done = envs.step(np.array([1, 2]))
        seen = done.observation
        total += done.reward
        assert done.truncated.all() == (step == STEPS - 1)
    assert total == pytest.approx([-14.025, -115.5955])


# --- runs


def ran(*arguments: str) -> Result:
    result = CliRunner().invoke(benchmark, [*arguments, "--jobs", "1", "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


TINY = ("--settings", "legacy", "--only", "evolve,random", "--budget", "0.01", "--run", "kept")


def test_an_interrupted_benchmark_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    trainings: list[tuple[str, int]] = []
    train: Callable[..., Any] = legacy.trained

    def counted(name: str, seconds: float, seed: int, folder: Path) -> Any:
        if seed == 1 and not trainings[1:]:
            trainings.append((name, seed))
            raise KeyboardInterrupt
        trainings.append((name, seed))
        return train(name, seconds, seed, folder)

    monkeypatch.setattr(legacy, "trained", counted)
    assert ran(*TINY, "--seeds", "2").exit_code == 130
    assert {row["seed"] for row in runs.rows(Path("kept"))} == {0}
    with Path("kept/legacy-1.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"setting": "legacy", "se')
    result = ran(*TINY, "--seeds", "2")
    assert trainings == [("evolve", 0), ("evolve", 1), ("evolve", 1)]
    table = json.loads(result.stdout)["settings"]["legacy"]["contenders"]
    assert {name: row["runs"] for name, row in table.items()} == dict.fromkeys(
        ("evolve", "clairvoyant", "threshold", "random"), 2
    )
    assert ran(*TINY, "--seeds", "2").stdout == result.stdout
    assert len(trainings) == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param((*TINY, "--budget", "7"), "was begun with budget 0.01, not 7", id="another budget"),
        pytest.param(("--settings", "classics"), "--settings classics: expected one of classic", id="setting"),
        pytest.param(("--settings", ","), "--settings ,: no name; expected names", id="no setting"),
        pytest.param(("--only", ""), "--only '': no name; expected names", id="nobody"),
        pytest.param(("--only", "pqn"), "--only pqn: expected one of q-learning", id="contender"),
        pytest.param(("--output", "no/such/place.json"), "no/such", id="no place for the results"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], sentence: str) -> None:
    Path("kept").mkdir()
    Path("kept/plan.json").write_text('{"budget": 0.01}')
    result = CliRunner().invoke(benchmark, [*arguments, "--jobs", "1"])
    assert sentence in str(result.exception)


def test_recorded_load_that_is_nowhere_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "traces_folder", lambda: None)
    result = CliRunner().invoke(benchmark, [*TINY, "--settings", "traces", "--jobs", "1"])
    assert "name a folder of recorded load by --traces" in str(result.exception)


def test_recorded_load_that_no_setting_meets_is_said_to_be_left_out() -> None:
    """Whoever names a folder wants it met, and one that is not there would otherwise pass for one that is."""
    told = ran(*TINY, "--seeds", "1", "--traces", "nowhere").stderr
    assert "--traces nowhere is left out: --settings legacy meets no recorded load" in told


def test_learners_and_rules_meet_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlscaler_training.benchmark_arenas.CLASSIC", ("steady", "spike"))
    small = {"evaluate_every": 16, "margins": (0.0,), "envs": 8, "episode": 30}
    monkeypatch.setitem(BUDGETS, "q-learning", replace(BUDGETS["q-learning"], each=8, settings=lambda _: small))
    result = ran("--settings", "classic", "--only", "q-learning,growth-quantile", "--budget", "0.01", "--seeds", "1",
                 "--for", "1.2", "--output", "found.json", "--markdown", "page.md")  # fmt: skip
    setting = json.loads(result.stdout)["settings"]["classic"]
    table = setting["contenders"]
    assert set(table) == {"q-learning", "growth-quantile", "clairvoyant", "hpa-tuned"}
    assert setting["tasks"] == ["steady", "spike"]
    assert table["q-learning"]["steps"] == BUDGETS["q-learning"].least * BUDGETS["q-learning"].each
    assert table["clairvoyant"]["score"] < table["hpa-tuned"]["score"]
    assert json.loads(Path("found.json").read_text()) == json.loads(result.stdout)
    assert Path("page.md").read_text().startswith("# Benchmark")
    assert Path("runs/benchmark/classic-0/q-learning/policy.rlz").exists()
    assert not Path("runs/benchmark/classic-0/q-learning/checkpoints").exists()


def test_who_takes_part() -> None:
    assert runs.entrants("classic") == (*BUDGETS, *RULES)
    assert set(runs.entrants("legacy")) - set(BUDGETS) == set(runs.LEGACY_RULES)
    assert [runs.seeds_of(name, 10) for name in ("q-learning", "dqn", "random")] == [10, 5, 10]


# --- speed


def test_a_clock_leaves_out_the_setting_up() -> None:
    clock = bench.Clock(0.0)
    assert not clock.note(0), "nothing is done yet"
    assert not clock.note(5), "the first is left out"
    assert clock.note(9)
    speed = clock.speed("one", 1)
    assert (speed.steps, speed.seconds > 0.0) == (4, True)


def test_both_networks_of_the_bench_read_the_same() -> None:
    """Those fields that ppo-fast reads in so little load."""
    fields = loads.pools(("spike",), None, 1.0, 0).fields
    env = ScalerEnv("spike", "headroom", 20, loads=2, hours=1.0)
    whole, _ = env.reset(seed=1)
    seen, _ = (narrow := bench.of_fields(env, fields)).reset(seed=1)
    assert narrow.observation_space.contains(seen)
    assert seen.tolist() == [whole[NAMES.index(name)] for name in fields]
    assert len(seen) < len(whole)


def test_the_bench_measures_and_tells() -> None:
    found: dict[str, Any] = {
        "ppo_fast": {"sb3_steps_per_s": {"1": 10.0, "16": 20.0}, "ppo_fast_envs": 8, "ppo_fast_steps_per_s": 2000.0,
                     "over_default": 200.0, "over_best": 100.0, "over_default_by_processor_time": 190.0,
                     "over_best_by_processor_time": 90.0, "sb3_best_n_envs": 16},
        "learners_steps_per_s": bench.of_learners(0.01, ("q-learning",)),
        "until_better_than_hpa": {"apg": {"seconds": None, "hpa_tuned": 2.0, "untrained_rule": 1.5, "tried": []}},
        "gpu": {"name": "a GPU", "steps_per_s": 2e7, "busy": 0.9, "scores": {"cuda": [1.0, 1.2], "cpu": [1.1, 1.1]},
                "untrained_rule": [1.3, 1.5]},
        "replay": bench_replay.replays(0.01, capacity=1024),
    }  # fmt: skip
    assert found["learners_steps_per_s"]["q-learning"] > 0.0
    lines = "\n".join(bench.lines(found))
    assert "over stable-baselines3: 200x its default, 100x its best (n_envs 16)" in lines
    assert "apg better than the tuned HPA in randomised worlds: not reached" in lines
    assert "ppo-fast on a GPU: 20,000,000 environment steps/s; the GPU is busy 90% of the time" in lines
    assert "2 seeds on cuda: score 1.100 (1.000 to 1.200); the untrained rule 1.400" in lines
    assert found["replay"]["device_over_host"] > 0.0


def test_the_same_seeds_come_to_the_same_scores_on_the_same_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "SEEDS", 1)
    monkeypatch.setattr(finishing, "EPISODE", 10)
    monkeypatch.setattr(export, "SAMPLE", 1000)
    pools = loads.pools(("steady",), None, 1.0, 0)
    found = bench_gpu.same_seeds(pools, PpoFast(envs=8, episode=16, steps=128, hidden=(8,)), ("cpu", "cpu"))
    once, again = found["scores"]["cpu"]
    assert once == again
    assert once > 0.0


@pytest.mark.parametrize(
    ("program", "busy"),
    [("echo 50; echo 100; echo '[N/A]'; : > heard; exec sleep 60", 0.75), (": > heard; exit 9", None), (None, None)],
    ids=["there", "without a device", "not there"],
)
def test_a_gpu_is_looked_at_meanwhile(
    program: str | None, busy: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the tool that comes with its driver; what it does not say is unknown."""
    if program is not None:
        (tool := tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{program}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if program is not None else str(tmp_path))

    def work() -> str:
        while program is not None and not Path("heard").exists():
            time.sleep(0.01)
        return "done"

    done, share = bench_gpu.watched(work)
    assert done == "done"
    assert share == (None if busy is None else pytest.approx(busy))
