"""`rlscaler runs` and `rlscaler compare`: what there is, how to go on, and who is better."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from command_line import install, mistakes, run
from rlscaler.errors import UserError
from rlscaler_training import run_record, runs
from rlscaler_training.run_compare import LOADS, Difference, difference, settings_table, student
from rlscaler_training.run_record import at_work, is_held
from rlscaler_training.run_table import COLUMNS, LEAST_TELLING, duration, fitting, large
from rlscaler_training.trials import Trials
from tiny_runs import made_up, tiny_runs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs(tmp_path_factory)


@pytest.fixture(autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("installed")
    install(folder)
    monkeypatch.syspath_prepend(str(folder))


def succeeded(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def test_runs_are_listed_with_what_matters(root: Path) -> None:
    told = succeeded(run("runs", str(root)))
    lines = [line.split() for line in told.stdout.splitlines()]
    row = next(line for line in lines if line[:1] == ["q-1"])
    assert row[1:4] == ["q-learning", "1", "finished"]
    assert next(line for line in lines if line[:1] == ["cut"])[3:6] == ["interrupted", "at", "8"]
    assert f"rlscaler train q-learning --resume {root / 'cut'}" in told.stdout


def test_a_run_stands_at_its_newest_checkpoint_though_nothing_was_measured_since(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "cut", tmp_path / "cut")
    (tmp_path / "cut" / "checkpoints" / "000000001200.pt").touch()
    assert "interrupted at 1,200" in succeeded(run("runs", str(tmp_path))).stdout


def test_an_unreadable_folder_is_named_and_no_reason_to_stop(root: Path) -> None:
    told = succeeded(run("runs", str(root)))
    assert str(root / "broken" / "config.json") in told.stderr
    assert "notes" not in told.output, "a folder that holds no run is nothing to complain of"


def test_what_is_nested_too_deep_or_too_large_is_no_reason_to_stop(tmp_path: Path) -> None:
    for name in ("deep", "fine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"algorithm": "apg", "settings": {}, "arguments": {}}')
    (tmp_path / "deep" / "config.json").write_text("[" * 100_000)
    (tmp_path / "fine" / "metrics.jsonl").write_text("[" * 100_000 + '\n{"step": 1' + "0" * 400 + '}\n{"step": 2}\n')
    records, problems = run_record.found(tmp_path)
    assert [(record.name, record.step) for record in records] == [("fine", 2)]
    assert len(problems) == 1
    assert problems[0].startswith(f"{tmp_path / 'deep' / 'config.json'}: cannot be read: it is not whole")
    with pytest.raises(UserError, match=r"config\.json is not whole: "):
        runs.opened(tmp_path / "deep")


def test_json_tells_the_same_as_the_files(root: Path) -> None:
    told = json.loads(succeeded(run("runs", str(root), "--json")).stdout)
    by_name = {each["run"]: each for each in told["runs"]}
    assert by_name.keys() == {"q-0", "q-1", "cut"}
    report = json.loads((root / "q-0" / "report.json").read_text())
    rows = [json.loads(line) for line in (root / "q-0" / "metrics.jsonl").read_text().splitlines()]
    found = by_name["q-0"]
    assert found["score"] == report["score"]
    assert found["steps"] == report["steps"] == 48
    assert found["best_score"] == min(row["score"] for row in rows)
    assert found["steps_per_second"] == pytest.approx(report["steps"] / report["seconds"])
    assert found["device"] == "cpu"
    assert by_name["cut"]["resume"].startswith("rlscaler train q-learning --resume ")
    assert by_name["cut"]["score"] is None
    assert by_name["cut"]["policy"] is None
    assert len(told["unreadable"]) == 1


def test_runs_are_sorted_by_date(tmp_path: Path) -> None:
    for seed, name in ((2, "a"), (0, "b"), (1, "c")):
        made_up(tmp_path / name, seed=seed, scores=[2.0, 1.0])
    assert [r.name for r in run_record.found(tmp_path)[0]] == ["b", "c", "a"]


def test_a_run_that_is_being_trained_is_running_and_nobody_elses(root: Path) -> None:
    with at_work(root / "cut"):
        assert run_record.read(root / "cut").state == "running"
        with (
            pytest.raises(UserError, match=rf"being trained by another process \({os.getpid()}\)"),
            at_work(root / "cut"),
        ):
            pass
    assert not is_held(root / "cut")
    assert run_record.read(root / "cut").state == "interrupted"


def test_a_run_whose_folder_cannot_be_written_is_told(tmp_path: Path) -> None:
    """As on a volume that was made read-only since: it is the first file that going on with the run opens."""
    (tmp_path / run_record.LOCK).mkdir()
    with pytest.raises(UserError, match="/lock cannot be written: "), at_work(tmp_path):
        pass


@pytest.mark.parametrize(
    ("folder", "told"),
    [("missing", "missing: the folder does not exist"), ("file", "file: the folder is a file")],
)
def test_where_no_runs_can_be_the_folder_is_named(tmp_path: Path, folder: str, told: str) -> None:
    (tmp_path / "file").write_text("")
    (line,) = mistakes(run("runs", str(tmp_path / folder)))
    assert told in line


def test_an_empty_folder_says_how_to_train(tmp_path: Path) -> None:
    assert "rlscaler train" in succeeded(run("runs", str(tmp_path))).stdout


def test_before_the_first_training_nothing_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "rlscaler train" in succeeded(run("runs")).stdout
    assert json.loads(succeeded(run("runs", "--json")).stdout) == {"runs": [], "unreadable": []}


def test_a_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    made_up(tmp_path / "evil\x1b[2J", seed=0, scores=[1.0, 2.0])
    assert "\x1b" not in succeeded(run("runs", str(tmp_path))).stdout


def test_a_narrow_terminal_loses_the_least_telling_columns() -> None:
    row = ["x" * 8] * len(COLUMNS)
    assert len(fitting([row], 200)) == len(COLUMNS)
    for width in range(40, 140, 7):
        kept = fitting([row], width)
        gone = [COLUMNS[i].heading for i in range(len(COLUMNS)) if i not in kept]
        assert sorted(gone) == sorted(LEAST_TELLING[: len(gone)])


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, "-"), (3.21, "3.2 s"), (59.4, "59 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 5 min")],
)
def test_durations_are_read_in_two_units(seconds: float | None, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, "-"), (950.0, "950"), (999.6, "1k"), (25_600.0, "25.6k"), (999_424.0, "999k"), (999_936.0, "1M"),
     (1.24e6, "1.24M"), (999_950_000.0, "1G")],
)  # fmt: skip
def test_counts_are_read_in_three_digits(value: float | None, told: str) -> None:
    assert large(value) == told


def test_a_cut_line_of_metrics_is_left_out_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = made_up(tmp_path / "run", seed=0, scores=[3.0, 2.0])
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('[1, 2]\n{"score": 1.0}\n{"step": 20, "score": "nan"}\n{"step": 30, "sc')
    found = run_record.read(folder)
    assert [row["step"] for row in found.rows] == [0, 10, 20]
    assert found.best == 2.0


# ---- compare ----


def test_runs_are_compared_on_the_same_draws(root: Path) -> None:
    arguments = ("--scenario", "steady", "--scenario", "spike", "--draws", "2", "--hours", "0.25", "-q")
    told = json.loads(succeeded(run("compare", str(root / "q-0"), str(root / "q-1"), *arguments, "--json")).stdout)
    assert [each["run"] for each in told["runs"]] == ["q-0", "q-1"]
    assert told["differs"] == {"seed": [0, 1]}
    pair = told["differences"][-1]
    assert pair["other"] == "hpa-tuned"
    assert told["differences"][0]["words"] == "q-0 and q-1 decide alike: their scores are equal on every draw."
    means = {name: np.mean(list(each.values())) for name, each in told["scores"].items()}
    assert pair["mean"] == pytest.approx(means[pair["one"]] - means[pair["other"]])
    assert pair["low"] <= pair["mean"] <= pair["high"]
    assert means["clairvoyant"] <= min(means["q-0"], means["q-1"]) + 1e-9
    text = succeeded(run("compare", str(root / "q-0"), str(root / "q-1"), *arguments)).stdout
    assert pair["words"] in text
    assert "seed" in text


def test_a_run_without_a_policy_is_still_held_beside_the_others(root: Path) -> None:
    told = succeeded(run("compare", str(root / "q-0"), str(root / "cut"), "-q")).stdout
    assert "interrupted" in told
    assert "nobody can be compared" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(("q-0",), "two runs or more", id="one"),
        pytest.param(("q-0", "q-0/../q-0"), "is named twice", id="twice"),
        pytest.param(("q-0", "notes"), "no run is here", id="no run"),
        pytest.param(("q-0", "q-1", "--scenario", "stedy"), "'steady'", id="scenario"),
        pytest.param(("q-0", "q-1", "--scenario", "zero.csv"), "zero.csv has no load within 2h", id="no load"),
        pytest.param(("q-0", "q-1", "--scenario", "crashes"), "variant of the world", id="variant"),
    ],
)
def test_mistakes_of_a_comparison_are_named(
    root: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(root)
    (root / "zero.csv").write_text("t_s,rate\n0,0\n60,0\n7200,0\n")
    assert any(told in line for line in mistakes(run("compare", *arguments)))


def trials(one: list[list[float]], other: list[list[float]]) -> Trials:
    scores = np.array([one, other])
    loads = tuple(f"load-{i}" for i in range(scores.shape[1]))
    return Trials(("one", "other"), loads, scores, scores, scores, [])


def test_a_difference_that_always_points_one_way_is_told() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(2.0, 1.0, (6, 4))
    found = difference(trials((base - 0.1 - 0.02 * rng.random((6, 4))).tolist(), base.tolist()), "one", "other")
    assert found.better == "one"
    assert found.ahead == 6
    assert -0.12 <= found.low < found.mean < found.high <= -0.1
    assert found.words().startswith("one is better than other by 0.1")


def alike(runs: int, rng: np.random.Generator) -> Trials:
    """Return trials of runs that no draw tells apart but by chance."""
    scores = 2.0 + rng.normal(0.0, 0.1, (runs, 10, 1)) + rng.normal(0.0, 0.1, (runs, 10, 2))
    return Trials(tuple(f"run-{i}" for i in range(runs)), LOADS, scores, scores, scores, [])


@pytest.mark.parametrize(
    ("n", "level", "quantile"), [(2, 0.95, 12.7062), (6, 0.95, 2.5706), (10, 0.95, 2.2622), (10, 0.999, 4.7809)]
)
def test_an_interval_is_students(n: int, level: float, quantile: float) -> None:
    """Quantiles as the tables have them."""
    values = np.arange(n) - 3.0
    mean, low, high = student(values, level)
    assert mean == values.mean()
    assert (high - mean) * np.sqrt(n) / values.std(ddof=1) == pytest.approx(quantile, rel=1e-3)
    assert mean - low == pytest.approx(high - mean)


def test_two_that_are_alike_are_seldom_told_apart() -> None:
    """In 5 % of comparisons at the most, as the interval says of itself."""
    rng = np.random.default_rng(2)
    told = [difference(alike(2, rng), "run-0", "run-1").better is not None for _ in range(400)]
    assert np.mean(told) < 0.07


def test_the_best_of_many_that_are_alike_is_seldom_called_better() -> None:
    """It was chosen by the very draws that it is judged on."""
    rng = np.random.default_rng(5)
    called = {1: 0, 45: 0}
    for _ in range(60):
        found = alike(10, rng)
        first, *others = sorted(found.names, key=found.mean)
        for pairs in called:
            called[pairs] += any(difference(found, first, other, pairs=pairs).better for other in others)
    assert called[1] > 30
    assert called[45] <= 6


@pytest.mark.parametrize("runs", [2, 3])
def test_intervals_of_several_hold_for_all_pairs_together(
    root: Path, tmp_path: Path, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the text says so."""
    folders = [shutil.copytree(root / "q-0", tmp_path / f"run-{i}") for i in range(runs)]
    found = alike(runs, np.random.default_rng(0))
    scores = np.concatenate([found.scores, np.ones((2, 10, 2))])
    reference = Trials((*found.names, "hpa-tuned", "clairvoyant"), LOADS, scores, scores, scores, [])
    monkeypatch.setattr("rlscaler_training.trials.tried", lambda *_, **__: reference)
    told = json.loads(succeeded(run("compare", *map(str, folders), "--json")).stdout)["differences"]
    for each in told:
        alone = difference(reference, each["one"], each["other"])
        assert (each["low"] < alone.low and each["high"] > alone.high) == (runs > 2)
    said = " ".join(succeeded(run("compare", *map(str, folders), "-q")).stdout.split())
    assert ("for all 3 pairs together, as the first is the best on these very draws" in said) == (runs > 2)


@pytest.mark.parametrize(("sign", "better", "worse"), [(-1.0, "one", "other"), (1.0, "other", "one")])
def test_scenarios_on_which_both_are_even_are_nobodys(sign: float, better: str, worse: str) -> None:
    """Policies that decide alike on a load score alike to the bit."""
    base = np.full((8, 3), 2.0)
    apart = np.array([0.0, 0.0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])[:, None]
    found = difference(trials((base + sign * apart).tolist(), base.tolist()), "one", "other")
    assert (found.ahead, found.behind, found.even) == ((6, 0, 2) if sign < 0 else (0, 6, 2))
    assert found.words().startswith(f"{better} is better than {worse} by 0.2")
    assert found.words().endswith("ahead on 6 of 8 scenarios.")


def test_a_difference_of_one_scenario_alone_is_not_told() -> None:
    """Whole scenarios are resampled: many draws of one in which somebody is better prove nothing of the others."""
    base = np.ones((6, 50))
    ahead = base.copy()
    ahead[0] -= 5.0
    found = difference(trials(ahead.tolist(), base.tolist()), "one", "other")
    assert found.mean < 0.0
    assert found.better is None
    assert found.words().startswith("It cannot be told whether one or other is better")


@pytest.mark.parametrize(
    ("found", "better", "words"),
    [
        (Difference("a", "b", -0.2, -0.3, -0.1, 8, 7, 8), "a", "a is better than b by 0.200 [0.100, 0.300], ahead on"),
        (Difference("a", "b", 0.2, 0.1, 0.3, 8, 1, 8), "b", "b is better than a by 0.200 [0.100, 0.300], ahead on 7"),
        (Difference("a", "b", -0.2, -0.3, -0.1, 4, 2, 2), None, "It cannot be told from 4 draws whether a or b"),
        (Difference("a", "b", -0.2, -np.inf, np.inf, 1, 1, 1), None, "It cannot be told from 1 draw whether a or b"),
        (Difference("a", "b", 0.0, 0.0, 0.0, 8, 0, 8), None, "a and b decide alike"),
    ],
)
def test_a_difference_in_words(found: Difference, better: str | None, words: str) -> None:
    assert found.better == better
    assert found.words().startswith(words)


def test_settings_that_only_one_learner_has_do_not_differ(tmp_path: Path) -> None:
    folders = [
        made_up(tmp_path / "a", seed=0, scores=[1.0, 1.0], rate=0.1, clip=0.2, envs=8),
        made_up(tmp_path / "b", seed=0, scores=[1.0, 1.0], rate=0.1, clip=0.3, envs=8),
        made_up(tmp_path / "c", seed=0, scores=[1.0, 1.0], learner="dqn", rate=0.5, buffer=100),
    ]
    found = settings_table([run_record.read(folder) for folder in folders])
    assert found == {"learner": ["ppo", "ppo", "dqn"], "rate": [0.1, 0.1, 0.5], "clip": [0.2, 0.3, None]}
