"""Sweeps: what a file may ask for, what is searched, that nothing is lost, and that the best is what is handed on."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("ray.tune")

from command_line import mistakes, run
from rlscaler.artifact import load
from rlscaler.errors import NoRoomError, UserError
from rlscaler.policies import RULES
from rlscaler_training import ray_cluster, sweep_page, sweep_trials, sweeps
from rlscaler_training.commands import LEARNERS
from rlscaler_training.run_record import at_work, read_metrics
from rlscaler_training.sweep_trials import Best, Trial
from rlscaler_training.sweeps import Choices, Span, Sweep

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {"scenarios": ["sinusoidal"], "hours": 2}
LEARN = SMALL | {
    "learner": "q-learning",
    "settings": {"steps": 60, "envs": 8, "evaluate_every": 10, "checkpoint_every": 10},
    "search": {"gamma": {"low": 0.8, "high": 0.95}},
}


def written(path: Path, told: Any) -> Path:
    path.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("told", "said"),
    {
        "a list": (["apg"], "expected keys such as 'learner: ppo-fast'"),
        "nothing to tune": ({"trials": 3}, "expected one of 'learner: NAME' and 'rule: NAME'"),
        "both": ({"learner": "apg", "rule": "hpa"}, "expected one of 'learner: NAME' and 'rule: NAME'"),
        "no such learner": ({"learner": "sac"}, "learner is 'sac'; expected one of q-learning"),
        "a learner without a world": ({"learner": "offline"}, "learner is 'offline'"),
        "no such rule": ({"rule": "random-forest"}, "rule is 'random-forest'; expected one of"),
        "a learned policy": ({"rule": "default"}, "rule is 'default'; expected one of static"),
        "no such key": ({"learner": "apg", "trails": 3}, "no key is called 'trails'"),
        "one trial": ({"learner": "apg", "trials": 1}, "trials is 1; expected a whole number from 2"),
        "no such setting": ({"learner": "apg", "search": {"x": {"choices": [1]}}}, "apg has no setting 'x'"),
        "an end out of range": ({"learner": "apg", "search": {"rate": {"low": 1e-3, "high": 7}}}, "rate is 7.0"),
        "ends the wrong way": (
            {"learner": "apg", "search": {"rate": {"low": 2e-3, "high": 1e-3}}},
            "search.rate is {'low': 0.002, 'high': 0.001}; expected {low: NUMBER, high: NUMBER}",
        ),
        "a logarithm of zero": (
            {"learner": "apg", "search": {"decay": {"low": 0, "high": 1e-3, "log": True}}},
            "with log: true if low is above 0",
        ),
        "no choices": ({"learner": "apg", "search": {"batch": {"choices": []}}}, "search.batch is {'choices': []}"),
        "a setting out of range": ({"learner": "apg", "settings": {"steps": 0}}, "steps is 0; expected"),
        "a constant of another rule": ({"rule": "keda", "settings": {"peak": 1}}, "keda has no setting 'peak'"),
        "all fixed": (
            {"learner": "apg", "settings": {"rate": 1e-3}, "search": {"rate": {"low": 1e-3, "high": 2e-3}}},
            "settings fix all that would be searched",
        ),
        "settings that do not fit together": (
            {"learner": "ppo", "settings": {"envs": 4, "rollout": 8}},
            "batch is 256; expected a divisor of rollout x envs = 32",
        ),
        "a choice that does not fit the settings": (
            {
                "learner": "ppo",
                "settings": {"envs": 20, "rollout": 60, "batch": 100},
                "search": {"epochs": {"choices": [3]}, "clip_range": {"low": 0.1, "high": 11}},
            },
            "clip_range is 11.0",
        ),
        "no whole number": (
            {"learner": "apg", "search": {"batch": {"low": 3.2, "high": 3.8}}},
            "search.batch is 3.2 to 3.8; expected a whole number between them",
        ),
        "names that are none": ({"learner": "apg", "scenarios": "spike"}, "scenarios is 'spike'; expected a list"),
    }.values(),
    ids=lambda value: None,
)
def test_a_mistake_in_the_file_is_said(told: Any, said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "sweep.yaml", told)
    with pytest.raises(UserError) as caught:
        sweeps.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("told", "said"),
    [({"traces": "nowhere"}, "nowhere: no such folder"), ({"scenarios": ["nope"]}, "no scenario is called 'nope'"),
     ({"worlds": "moon"}, "--worlds moon: expected")],
    ids=str,
)  # fmt: skip
def test_load_that_is_not_there_is_said_before_anything_is_tried(
    told: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "sweep.yaml", {"rule": "hpa", **told})
    (line,) = mistakes(run("sweep", str(path)))
    assert said in line
    assert not (tmp_path / "runs").exists()


MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))


@pytest.mark.parametrize(
    "text",
    ["learner: [", "\xff\xfe", "[" * 100_000, MERGES],
    ids=["no YAML", "no text", "too deep", "too many aliases"],
)
def test_a_file_that_is_none_is_said(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"sweep\.yaml: "):
        sweeps.read(path)


@pytest.mark.parametrize("learner", [name for name in LEARNERS if name != "offline"])
def test_each_learner_takes_all_that_is_searched_of_it(learner: str) -> None:
    found = sweeps.checked({"learner": learner})
    ends = [each.values if isinstance(each, Choices) else (each.low, each.high) for each in found.search.values()]
    for values in itertools.product(*(each[:: len(each) - 1] for each in ends)):
        found.config(dict(zip(found.search, values, strict=True)))
    usual = sweep_trials.defaults(found)
    config = found.config(usual)
    assert config == found.config({}), "the first trial has the defaults"


@pytest.mark.parametrize("rule", [name for name, kind in RULES.items() if kind.PARAMETERS])
def test_each_rule_takes_all_that_is_searched_of_it(rule: str) -> None:
    found = sweeps.checked({"rule": rule})
    for end in ("low", "high"):
        RULES[rule](**found.constants({name: getattr(span, end) for name, span in found.search.items()}))
    assert set(found.search) == set(RULES[rule].PARAMETERS)


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_sweeps(path: Path) -> None:
    assert sweeps.read(path).tuned == path.stem


def test_settings_are_taken_that_fit_together() -> None:
    """Each beside the others, not beside the defaults: 100 divides 60 x 20, and not 64 x 32."""
    settings = {"rollout": 60, "envs": 20, "batch": 100}
    found = sweeps.checked({"learner": "ppo", "settings": settings, "search": {"epochs": {"choices": [3, 5]}}})
    assert (found.config({"epochs": 3}).batch, found.config({}).rollout) == (100, 60)


def test_whole_numbers_are_drawn_whole() -> None:
    found = sweeps.checked({"learner": "apg", "search": {"batch": {"low": 16, "high": 64}}})
    assert found.search == {"batch": Span(16.0, 64.0, whole=True)}


def test_a_folder_holds_one_sweep(tmp_path: Path) -> None:
    place = tmp_path / "runs"
    sweep_trials.prepared(sweeps.checked(LEARN), place)
    sweep_trials.prepared(sweeps.checked(LEARN), place)
    with pytest.raises(UserError, match="holds a sweep with another seed; name another folder"):
        sweep_trials.prepared(sweeps.checked(LEARN | {"seed": 4}), place)
    with pytest.raises(UserError, match="holds other files"):
        sweep_trials.prepared(sweeps.checked(LEARN), written(tmp_path / "file", 1).parent)


def test_a_sweep_begins_where_there_was_no_room_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise NoRoomError(f"{path} cannot be written")

    place, asked = tmp_path / "runs" / "sweep", sweeps.checked(LEARN)
    with monkeypatch.context() as patch:
        patch.setattr(sweep_trials, "write_text_atomically", full)
        with pytest.raises(NoRoomError):
            sweep_trials.prepared(asked, place)
    sweep_trials.prepared(asked, place)
    assert json.loads((place / sweep_trials.PLAN).read_text()) == asked.told()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").symlink_to("/nowhere/at/all")
    (line,) = mistakes(run("sweep", str(written(tmp_path / "sweep.yaml", LEARN)), "--run", "elsewhere"))
    assert "elsewhere cannot be written: " in line


def test_two_processes_are_not_at_one_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would find the other's trials taken, and count them as failed."""
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path / "sweep.yaml", LEARN)
    sweep_trials.prepared(sweeps.read(path), tmp_path / "here")
    with at_work(tmp_path / "here"):
        (line,) = mistakes(run("sweep", str(path), "--run", "here"))
    assert "here: is being trained by another process" in line


def test_what_is_handed_on_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    found, best = sweeps.checked(LEARN), Best(Trial(0, {"gamma": 0.9}, 100.0, 1.0, "finished"), 1.0, 1.0)
    policy = sweep_trials.policy_of(tmp_path, best.trial)
    policy.parent.mkdir(parents=True)
    policy.write_bytes(b"new")
    out = written(tmp_path / "out.rlz", "old")
    reader = out.open()
    sweep_trials.taken(tmp_path, found, best, out)
    assert out.read_bytes() == b"new"
    with reader:
        assert reader.read() == "old\n...\n", "it was written over while somebody read it"
    with pytest.raises(UserError, match=r"the folder .*gone does not exist"):
        sweep_trials.taken(tmp_path, found, best, tmp_path / "gone" / "out.rlz")


def test_a_trial_that_was_cut_off_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    class CutOffError(Exception):
        """Stands for a kill."""

    found = sweeps.checked(LEARN)
    whole = sweep_trials._learned(found, {"gamma": 0.9}, tmp_path / "whole", lambda _: None)

    def cut(told: dict[str, Any]) -> None:
        if told["share"] >= 50:
            raise CutOffError

    with pytest.raises(CutOffError):
        sweep_trials._learned(found, {"gamma": 0.9}, tmp_path / "cut", cut)
    heard: list[dict[str, Any]] = []
    assert sweep_trials._learned(found, {"gamma": 0.9}, tmp_path / "cut", heard.append) == whole
    assert heard[0]["share"] > 40, "it began anew"
    assert [row["step"] for row in read_metrics(tmp_path / "cut")] == [
        row["step"] for row in read_metrics(tmp_path / "whole")
    ]


# --- on Ray


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with ray_cluster.cluster(2):
        yield


def swept(told: dict[str, Any], place: Path, lines: list[str]) -> tuple[Sweep, list[Trial], Best]:
    found = sweeps.checked(told)
    sweep_trials.prepared(found, place)
    trials = sweep_trials.run(found, place, None, lines.append)
    return found, trials, sweep_trials.best(found, place, trials)


def test_a_learner_is_swept_and_its_best_is_handed_on(ray_here: None, tmp_path: Path) -> None:
    lines: list[str] = []
    told = LEARN | {"trials": 3, "grace": 1.0}
    found, trials, best = swept(told, tmp_path, lines)
    assert [(each.number, each.state) for each in trials] == [(0, "finished"), (1, "finished"), (2, "finished")]
    assert trials[0].drawn == {"gamma": 0.9}
    assert best.trial == min(trials, key=lambda each: each.score)
    assert len(lines) == 3
    path = sweep_trials.taken(tmp_path, found, best, tmp_path / "out.rlz")
    assert found.config(best.trial.drawn) == found.config(json.loads(path.read_text()))
    assert load(tmp_path / "out.rlz").digest == load(sweep_trials.policy_of(tmp_path, best.trial)).digest
    page = sweep_page.render(found, trials, best)
    assert page.count("<polyline") == 3
    _, again, _ = swept(told, tmp_path, lines)
    assert again == trials, "a sweep that is done is only told again"
    assert len(lines) == 3


def test_layers_are_searched_beside_the_default_ones(ray_here: None, tmp_path: Path) -> None:
    """As in what is shipped for most learners: a value is a list of widths."""
    settings = {"steps": 2, "batch": 2, "decisions": 8, "evaluate_every": 1}
    told = SMALL | {"learner": "apg", "trials": 2, "settings": settings, "search": {"hidden": {"choices": [[4, 4]]}}}
    found, trials, best = swept(told, tmp_path, [])
    assert [(each.state, each.drawn) for each in trials] == [
        ("finished", {"hidden": sweep_trials.defaults(found)["hidden"]}),
        ("finished", {"hidden": [4, 4]}),
    ]
    kept = json.loads(sweep_trials.taken(tmp_path, found, best, None).read_text())
    assert kept["hidden"] == best.trial.drawn["hidden"]
    assert sweep_page.render(found, trials, best).count("<polyline") == 2


def test_a_rule_is_swept_by_the_same_score_and_the_hopeless_are_stopped(ray_here: None, tmp_path: Path) -> None:
    told = SMALL | {
        "rule": "hpa",
        "trials": 6,
        "parallel": 1,
        "grace": 0.15,
        "reduction": 2,
        "search": {"target": {"choices": [0.4, 0.1]}},  # the second keeps ten times what is needed
    }
    found, trials, best = swept(told, tmp_path, [])
    assert trials[0].state == "finished", "the defaults are never stopped"
    assert best.trial.drawn["target"] != 0.1
    stopped = [each for each in trials if each.state == "stopped"]
    assert stopped, "nobody was stopped"
    assert all(each.share < 99 for each in stopped)
    assert math.isfinite(best.usual)
    assert "6 trials" in sweep_page.verdict(found, trials, best)


def test_a_sweep_that_was_killed_at_its_beginning_is_tried_whole(ray_here: None, tmp_path: Path) -> None:
    """Ray Tune keeps its state a moment after it begins."""
    told = SMALL | {"rule": "hpa", "trials": 2, "grace": 1.0, "search": {"target": {"low": 0.4, "high": 0.6}}}
    _, trials, _ = swept(told, tmp_path, [])
    for path in (tmp_path / sweep_trials.TUNE).glob(sweep_trials.STATE):
        path.unlink()
    try:
        _, again, _ = swept(told, tmp_path, [])
    except KeyboardInterrupt:
        pytest.fail("it ended before all was tried")
    assert again == trials


def test_a_trial_that_failed_is_tried_again_by_the_same_sweep(ray_here: None, tmp_path: Path) -> None:
    """As after a disk that was full, or a process that the system ended."""
    in_its_way = tmp_path / "trials" / "001"
    told, lines = LEARN | {"trials": 2, "grace": 1.0}, list[str]()
    sweep_trials.prepared(sweeps.checked(told), tmp_path)
    in_its_way.parent.mkdir()
    in_its_way.touch()
    _, trials, _ = swept(told, tmp_path, lines)
    assert [(each.number, each.state) for each in trials] == [(0, "finished"), (1, "failed")]
    assert str(in_its_way) in trials[1].why
    assert any(line.startswith("trial 1 failed") for line in lines)
    in_its_way.unlink()
    _, again, _ = swept(told, tmp_path, lines)
    assert again[0] == trials[0], "what is done is not done again"
    assert (again[1].number, again[1].state, again[1].drawn) == (1, "finished", trials[1].drawn)


@pytest.mark.parametrize(("text", "kept"), [('{"trial_da', False), ("{}", True)], ids=["cut short", "whole"])
def test_a_state_that_a_kill_cut_short_is_none(tmp_path: Path, text: str, kept: bool) -> None:
    """It is written in place."""
    (tmp_path / "tuner.pkl").touch()
    (tmp_path / "experiment_state-2026-11-23_09-36-58.json").write_text("{}")
    (tmp_path / "experiment_state-2026-11-23_09-38-15.json").write_text(text)
    assert sweep_trials._is_kept(tmp_path) is kept
