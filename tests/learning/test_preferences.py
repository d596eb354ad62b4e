"""Answers about pairs of episodes: kept whatever happens, learned, and leaning on a policy but on no critic."""

import json
import math
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
import pytest
import torch

from command_line import install, mistakes, run, working_in
from rlscaler.action import BRANCHING
from rlscaler.branching import BranchingPolicy
from rlscaler.errors import UserError
from rlscaler.observation import HIGH, LOW, NAMES
from rlscaler_training import (
    apg,
    bdq,
    loads,
    preference_heads,
    preference_pairs,
    preference_teachers,
    preferences,
    relaxation,
    runs,
)
from rlscaler_training.branching import Branching, exported
from rlscaler_training.devices import Device
from rlscaler_training.learner import StoppedError, Task
from rlscaler_training.preference_heads import bradley_terry, served
from rlscaler_training.preference_pairs import Answer, Segments, Source
from rlscaler_training.preferences import Preferences, Settings
from rlscaler_training.replay import Step

SOURCE = Source(("spike", "random-walk"), 1.0, 0)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@lru_cache(maxsize=1)
def episodes() -> Segments:
    """The first 500 pairs."""
    return preference_pairs.player(SOURCE).play(list(range(500)))


def taught(teacher: str = "slo", error: float = 0.1, count: int = 500, **settings: Any) -> Preferences:
    """What a teacher makes of the first so many pairs, without the way through a file."""
    found = episodes().some(range(count))
    said = preference_teachers.answers(teacher, found, np.arange(count), error, 0)
    wins, meant = (np.array([preferences.WINS[each] for each in answers])
                   for answers in (said, preference_teachers.meant(teacher, found)))  # fmt: skip
    held = np.arange(count) % 5 == 4
    return Preferences(Settings(**settings), found, wins, np.ones(count), held, (), meant)


# --- the loss


def oracle(scores: list[tuple[float, float]], wins: list[float], margin: float, error: float) -> float:
    """The mean loss, sum by sum."""
    total = 0.0
    for (a, b), won in zip(scores, wins, strict=True):
        lead = a - b - margin * (2.0 * won - 1.0)
        chance = (1.0 - error) / (1.0 + math.exp(-lead)) + error / 2.0
        total -= won * math.log(chance) + (1.0 - won) * math.log(1.0 - chance)
    return total / len(wins)


@pytest.mark.parametrize(("margin", "error"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.1), (1.5, 0.3)])
def test_the_loss_is_that_of_a_plain_sum(margin: float, error: float) -> None:
    scores = [(1.0, -2.0), (0.0, 0.0), (-3.0, 4.0), (2.0, 2.5)]
    wins = [1.0, 0.5, 1.0, 0.0]
    found = bradley_terry(torch.tensor(scores), torch.tensor(wins), torch.ones(4), margin, error)
    assert float(found) == pytest.approx(oracle(scores, wins, margin, error), rel=1e-5)


def test_a_weight_of_a_pair_is_so_many_pairs() -> None:
    scores, wins = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([1.0, 1.0])
    twice = bradley_terry(scores[[0, 0, 1]], wins[[0, 0, 1]], torch.ones(3))
    assert float(bradley_terry(scores, wins, torch.tensor([2.0, 1.0]))) == pytest.approx(float(twice))


def test_calibration_is_the_gap_of_what_is_stated_and_what_is() -> None:
    lead = np.array([0.0, 2.0, 2.0, -2.0, -2.0, 9.0])
    wins = np.array([0.5, 1.0, 0.0, 0.0, 0.0, 1.0])
    found = preference_heads.judged(lead, wins, 0.0)
    stated = 1.0 / (1.0 + math.exp(-2.0))
    assert found.pairs == 5
    assert found.accuracy == pytest.approx(4 / 5)
    assert found.calibration == pytest.approx((4 * abs(stated - 3 / 4) + abs(1.0 / (1.0 + math.exp(-9.0)) - 1.0)) / 5)


# --- bdq

SMALL = bdq.Config(envs=4, batch=16, replay=64, encoder=(8,), trunk=(16,), head=(8,), lookahead=1)


def learner(told: Preferences | None) -> bdq.Learner:
    """A learner with a replay of anything."""
    torch.manual_seed(3)
    made = bdq.Learner(SMALL, NAMES, BRANCHING.branches, (5, 1), CPU, told, 0)
    rng = np.random.default_rng(0)
    for _ in range(16):
        seen = torch.as_tensor(rng.uniform(LOW, HIGH, (2, 4, len(NAMES))), dtype=torch.float32)
        action = torch.as_tensor(np.stack([rng.integers(11, size=4), rng.integers(5, size=4)], axis=1))
        reward = torch.as_tensor(rng.normal(size=4), dtype=torch.float32)
        mask = torch.ones(4, 11, dtype=torch.bool)
        made.replay.add(Step(observation=seen[0], action=action, reward=reward, last=seen[1], mask=mask,
                                 ended=torch.zeros(4, dtype=torch.bool)))  # fmt: skip
    made.begin()
    return made


def critic(made: bdq.Learner) -> dict[str, torch.Tensor]:
    return {name: value for name, value in made.network.state_dict().items() if not name.startswith("liking")}


def test_the_critic_learns_as_if_nobody_had_been_asked() -> None:
    """To the bit, at weight 0 and where the shared layers get nothing; and the head does learn meanwhile."""
    alone, asked = learner(None), learner(taught(preference_weight=0.0, count=60))
    for made in (alone, asked):
        torch.manual_seed(4)
        for _ in range(6):
            bdq.update(made, 0.4)
    for name, value in critic(alone).items():
        torch.testing.assert_close(critic(asked)[name], value, rtol=0.0, atol=0.0)
    assert asked.liking is not None
    assert any(float(weight.detach().abs().max()) > 0.0 for weight in asked.network.liking.stacks[0][-1].parameters())


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_of_the_heads_gradient_the_shared_layers_get_their_share_and_the_critic_nothing(share: float) -> None:
    made = learner(taught(preference_trunk=share, count=60))
    liking = made.liking
    assert liking is not None
    for step in range(3):  # the head begins at 0, and passes nothing on until it has learned
        made.network.zero_grad(set_to_none=True)
        liking.pull(made.network, step)
    touched = {name.split(".")[1] for name, weight in made.network.named_parameters()
               if weight.grad is not None and float(weight.grad.abs().max()) > 0.0}  # fmt: skip
    assert touched == ({"micro", "macro", "trunk"} if share else set())


def test_what_is_served_decides_as_what_was_trained() -> None:
    """One network of the ordinary kind gives the choices of Q + weight x score."""
    made = learner(taught(count=60, preference_weight=0.7))
    liking = made.liking
    assert liking is not None
    for step in range(30):
        liking.pull(made.network, step)
    rng = np.random.default_rng(1)
    seen = rng.uniform(LOW, HIGH, (500, len(NAMES))).astype(np.float32)
    policy = BranchingPolicy(exported(served(made.network, made.weight), name="net", scheme="branching"))
    found = policy.network(np, seen[:, policy.columns])
    with torch.no_grad():
        favoured = made.network.favoured(torch.from_numpy(seen), made.weight)
        plain = made.network.q(torch.from_numpy(seen))
    np.testing.assert_allclose(found, torch.cat(favoured, dim=1).numpy(), rtol=1e-4, atol=1e-4)
    assert (torch.cat(favoured, dim=1) - torch.cat(plain, dim=1)).abs().max() > 0.01


def test_held_out_pairs_are_told_by_the_choices() -> None:
    """On shared layers that learned nothing of it, of a teacher that errs in one answer of ten."""
    torch.manual_seed(0)
    network = Branching(NAMES, BRANCHING.branches, (32,), (64, 32), (32,), "relu")
    network.normalise(torch.as_tensor(episodes().observation[:, 0, ::10]).flatten(0, 1))
    liking = taught().choices(network, (32,), CPU, 0)
    for step in range(150):
        liking.pull(network, step)
    assert liking.judged(network, liking.told.meant).accuracy > 0.85


# --- apg


def test_held_out_pairs_are_told_by_the_outcomes() -> None:
    torch.manual_seed(0)
    network = apg.Net((24,), "silu")
    liking = taught().outcomes(apg.FIELDS, 24, CPU, 0)
    network.mean.copy_(liking.observation.flatten(0, 2).mean(dim=0))
    network.scale.copy_(liking.observation.flatten(0, 2).std(dim=0).clamp(min=1e-2))
    for step in range(150):
        liking.pull(network, step)
    assert liking.judged(network, liking.told.meant).accuracy > 0.85


def stretch(n: int = 3, steps: int = 40) -> tuple[relaxation.Stretch, torch.Tensor]:
    """Load of a few workloads, and orders that are too few for the second."""
    swing = 100.0 + 40.0 * torch.sin(torch.arange(steps) / 6.0)
    rates = swing[None, :, None].expand(n, -1, 5).contiguous()

    def each(value: float) -> torch.Tensor:
        return torch.full((n,), value)

    mean = float(swing.mean())
    made = relaxation.Stretch(
        rates=rates, needed=each(15.0 * mean / 10.0), arrivals=each(15.0 * mean), capacity=each(10.0),
        believed=each(10.0), startup=each(60.0), slo=each(0.4), price=each(20.0), low=each(1.0), high=each(100.0),
        interval=15.0,
    )  # fmt: skip
    return made, torch.stack([torch.full((steps,), count) for count in (16.0, 11.0, 20.0)])


def test_the_outcomes_of_a_trajectory_are_those_that_its_score_is_made_of() -> None:
    made, orders = stretch()
    found = preference_heads.outcomes(made, orders, 0.1)[:, made.lead :].mean(dim=1)
    cost, late = relaxation.score(made, orders, 0.1)
    torch.testing.assert_close(found[:, 0] * made.price, late)
    torch.testing.assert_close(found[:, 1], cost)


def test_the_score_of_a_trajectory_pulls_at_its_orders_alone_and_most_at_the_worst_served() -> None:
    """At the second workload, whose requests are late, towards more replicas; the more where fairness counts."""
    network = apg.Net((8,), "silu")
    gradients = []
    for fairness in (0.0, 2.0):
        liking = taught(count=60, preference_fairness=fairness).outcomes(apg.FIELDS, 8, CPU, 0)
        head = liking.head
        assert isinstance(head, preference_heads.OutcomeHead)
        with torch.no_grad():
            head.say.bias.copy_(torch.tensor([-1.0, 0.0, 0.0]))
        made, orders = stretch()
        orders.requires_grad_()
        seen = torch.zeros(*orders.shape, len(apg.FIELDS))
        against = liking.against(network, seen, made, orders, 0.5, torch.ones_like(orders, dtype=torch.bool))
        torch.autograd.backward(against.sum())
        assert all(weight.grad is None for weight in [*network.parameters(), *head.parameters()])
        assert orders.grad is not None
        gradients.append(orders.grad.sum(dim=1))
    assert float(gradients[0][1]) < 10.0 * float(gradients[0][2])
    assert float(gradients[0][1]) < 0.0
    share = preference_heads.outcomes(*stretch(), 0.5)[:, stretch()[0].lead :, 0].mean(dim=1)
    more = 1.0 + 2.0 * (float(share[1]) / float(share.mean()) - 1.0)
    torch.testing.assert_close(gradients[1][1], gradients[0][1] * more)


# --- runs

TINY: dict[str, Any] = {
    "apg": apg.Config(steps=4, batch=4, decisions=12, hidden=(8,), evaluate_every=2),
    "bdq": bdq.Config(steps=180, envs=4, episode=15, batch=16, replay=64, warm_up=20, lookahead=3, encoder=(8,),
                      trunk=(16,), head=(8,), evaluate_every=1, evaluation=2, checkpoint_every=1, target_every=7),
}  # fmt: skip


@lru_cache(maxsize=1)
def pools() -> loads.Pools:
    return loads.pools(("spike",), None, 1.0, 3)


@lru_cache(maxsize=1)
def materials() -> tuple[apg.Material, apg.Material]:
    return apg.material(pools().train, CPU), apg.material(pools().validation, CPU)


@pytest.mark.parametrize("name", list(TINY))
def test_a_resumed_run_with_preferences_equals_an_unbroken_one(name: str, tmp_path: Path) -> None:
    """And at weight 0 it is the run without any, but for what is said of the head."""

    def learned(folder: str, told: Preferences | None, stop: Any = lambda: False) -> Any:
        path = tmp_path / folder
        there = runs.resume(path) if path.exists() else runs.begin(path, name, TINY[name], {})
        task = Task(name, pools(), there, Device("cpu", "cpu"), 5, {}, stop=stop, preferences=told)
        return (
            bdq.learn(task, TINY[name]).artifact
            if name == "bdq"
            else apg.learn(task, TINY[name], *materials()).artifact
        )

    told = taught(count=40, preference_trunk=0.2, preference_weight=1.0, preference_rate=0.05)
    whole = learned("whole", told)
    with pytest.raises(StoppedError):
        learned("cut", told, iter([False, *[True] * 9]).__next__)
    resumed = learned("cut", told)
    assert resumed.manifest == whole.manifest
    for key, array in whole.arrays.items():
        np.testing.assert_array_equal(resumed.arrays[key], array, err_msg=key)
    weightless = Settings(preference_weight=0.0)
    nothing, plain = learned("nothing", replace(told, settings=weightless)), learned("plain", None)
    for key, array in plain.arrays.items():
        np.testing.assert_array_equal(nothing.arrays[key], array, err_msg=key)
    assert any(not np.array_equal(whole.arrays[key], array) for key, array in plain.arrays.items()
               if whole.arrays[key].shape == array.shape)  # fmt: skip
    rows = list(runs.read_metrics(tmp_path / "whole"))
    assert 0.0 <= rows[-1]["preference_accuracy"] <= 1.0


# --- teachers and pairs


def test_a_teacher_errs_as_often_as_it_says_and_on_the_same_pairs() -> None:
    found, numbers = episodes(), np.arange(500)
    meant = preference_teachers.meant("slo", found)
    said = preference_teachers.answers("slo", found, numbers, 0.2, 0)
    clear = [row for row in range(500) if meant[row] != "equal"]
    turned = sum(said[row] != meant[row] for row in clear)
    assert abs(turned - 0.2 * len(clear)) < 4.0 * math.sqrt(0.16 * len(clear))
    assert all(said[row] == "equal" for row in range(500) if meant[row] == "equal")
    assert said[100:150] == preference_teachers.answers("slo", found.some(range(100, 150)), numbers[100:150], 0.2, 0)


@pytest.mark.parametrize("teacher", list(preference_teachers.TEACHERS))
def test_a_teacher_wants_what_it_is_called_after(teacher: str) -> None:
    found = episodes()
    less = {"slo": found.late.sum(axis=2), "cost": found.cost.sum(axis=2),
            "flap": (np.diff(found.replicas, axis=2) != 0).sum(axis=2)}[teacher]  # fmt: skip
    for row, answer in enumerate(preference_teachers.meant(teacher, found)):
        if answer != "equal":
            assert less[row].argmin() == "ab".index(answer)


def test_both_episodes_of_a_pair_meet_the_same_and_a_pair_is_the_same_again() -> None:
    found = episodes()
    np.testing.assert_array_equal(found.observation[:, 0, 0], found.observation[:, 1, 0])
    assert (found.action[:, 0] != found.action[:, 1]).any(axis=(1, 2)).all()
    again = preference_pairs.Player(SOURCE).play([130, 3])
    assert [again.digest(0), again.digest(1)] == [found.digest(130), found.digest(3)]
    np.testing.assert_array_equal(again.observation[0], found.observation[130])


def test_so_many_rounds_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were played last, however many calls there were."""
    monkeypatch.setattr(preference_pairs, "KEPT", 2)
    player = preference_pairs.player(SOURCE)
    monkeypatch.setattr(player, "_rounds", {})
    made: list[int] = []
    plain = player._round

    def counted(_: preference_pairs.Player, which: int) -> preference_pairs.Segments:
        made.append(which)
        return plain(which)

    monkeypatch.setattr(preference_pairs.Player, "_round", counted)
    for pair in (0, 64, 128, 130, 64, 0):
        player.play([pair])
        assert len(player._rounds) <= 2
    assert made == [0, 1, 2, 0], "the first one was given up for the third"


# --- the file and the command


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with working_in(tmp_path_factory) as folder:
        yield folder


WHERE = ("--scenario", "spike", "--scenario", "random-walk", "--hours", "1")


def answers(path: str | Path) -> list[Answer]:
    return preference_pairs.read(path)[0]


def wrote(path: Path, count: int, **more: Any) -> list[str]:
    """Write so many true answers to a file; return its lines."""
    found = episodes()
    made = [Answer(row, SOURCE.scenarios, 1.0, 0, "ab"[row % 2], "me", found.digest(row)) for row in range(count)]
    preference_pairs.append(path, [replace(each, **more) for each in made])
    return path.read_text().splitlines(keepends=True)


def test_a_person_is_asked_each_pair_once(place: Path) -> None:
    first = run("prefer", "mine.jsonl", *WHERE, "--pairs", "4", "--page", "pair.html", text="a\nno\nB\nq\n")
    assert first.exit_code == 0, first.output
    assert "none of a, b, e, s and q" in first.output
    assert "2 pairs are answered; 2 are left" in first.output
    assert [(each.pair, each.answer, each.by) for each in answers("mine.jsonl")] == [
        (0, "a", "person"),
        (1, "b", "person"),
    ]
    page = Path("pair.html").read_text()
    assert page.count("<svg") == 6
    assert "requests that wait" in page
    second = run("prefer", "mine.jsonl", *WHERE, "--pairs", "4", "--by", "ada", text="e\nskip\n")
    assert "4 pairs are answered" in second.output
    assert [(each.pair, each.answer) for each in answers("mine.jsonl")][2:] == [(2, "equal"), (3, "skip")]
    third = run("prefer", "mine.jsonl", *WHERE, "--pairs", "4")
    assert "ask for more by --pairs" in third.output
    assert [each.digest for each in answers("mine.jsonl")] == [episodes().digest(row) for row in range(4)]


def test_a_teacher_goes_on_as_in_one_go(place: Path) -> None:
    flags = (*WHERE, "--teacher", "slo", "--error", "0.2")
    assert "slow.jsonl: 1 answer of a teacher" in run("prefer", "slow.jsonl", *flags, "--pairs", "1").output
    assert "slow.jsonl: 1 pair of" in run("prefer", "slow.jsonl", *flags, "--pairs", "1").output
    for pairs in ("10", "70"):
        assert run("prefer", "slow.jsonl", *flags, "--pairs", pairs).exit_code == 0
    assert run("prefer", "whole.jsonl", *flags, "--pairs", "70").exit_code == 0
    assert Path("slow.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_a_kill_in_the_middle_of_answering_loses_nothing(place: Path, tmp_path: Path) -> None:
    """What was acknowledged is there after SIGKILL; a line that a crash tore is cut off and its pair asked again."""
    installed = tmp_path / "installed"
    installed.mkdir()
    install(installed)
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); from rlscaler.cli import main; main()"
    process = Popen([sys.executable, "-c", code, "prefer", "mine.jsonl", *WHERE], stdin=PIPE, stdout=PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("a\nb\n")
    process.stdin.flush()
    kept = 0
    while kept < 2:
        line = process.stdout.readline()
        assert line, "it ended"
        kept += "kept:" in line
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    process.stdin.close()
    process.stdout.close()
    assert [each.answer for each in answers("mine.jsonl")] == ["a", "b"]
    with Path("mine.jsonl").open("a") as stream:
        stream.write('{"pair": 2, "scen')
    found, notes = preference_pairs.read("mine.jsonl")
    assert len(found) == 2
    assert "line 3 is torn" in notes[0]
    result = run("prefer", "mine.jsonl", *WHERE, "--pairs", "3", text="e\n")
    assert "line 3 was torn" in result.stderr
    assert [(each.pair, each.answer) for each in answers("mine.jsonl")] == [(0, "a"), (1, "b"), (2, "equal")]


def changed(line: str, **more: Any) -> str:
    return json.dumps(json.loads(line) | more) + "\n"


def test_a_line_that_is_nested_too_deep_is_no_answer() -> None:
    with pytest.raises(ValueError, match="is not JSON"):
        preference_pairs.parsed("[" * 100_000)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (None, "line 3 is no answer: 'nonsense' is not JSON"),
        ({"answer": "c"}, "line 3 is no answer: answer is 'c'; expected one of a, b, equal, skip"),
        ({"pair": -1}, "line 3 is no answer: pair -1"),
        ({"seed": "0"}, "line 3 is no answer: seed is '0'"),
        ({"digest": "0" * 16}, "line 3: pair 2 is played otherwise by this version"),
        ({"scenarios": ["the-shop"]}, "line 3: pairs of the-shop"),
    ],
)
def test_a_faulty_line_is_refused_by_its_number_or_skipped(
    tmp_path: Path, more: dict[str, Any] | None, problem: str
) -> None:
    file = tmp_path / "answers.jsonl"
    lines = wrote(file, 30)
    lines[2] = "nonsense\n" if more is None else changed(lines[2], **more)
    file.write_text("".join(lines))
    with pytest.raises(UserError, match=problem.replace("(", r"\(")):
        preferences.load(file, Settings())
    told = preferences.load(file, Settings(preference_faulty="skip"))
    assert len(told.wins) == 29
    assert any("left out" in note for note in told.notes)


def test_answers_that_contradict_each_other_are_averaged_dropped_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    lines = wrote(file, 30)
    file.write_text("".join([*lines, changed(lines[4], answer="b"), changed(lines[5], answer="b", by="other")]))
    averaged = preferences.load(file, Settings(), ("spike",))
    assert averaged.wins[4] == 0.5
    assert averaged.wins[5] == 0.0
    assert "1 pairs have answers that contradict each other; they are averaged" in averaged.notes[0]
    assert "random-walk too, which is not trained on" in averaged.notes[1]
    assert len(preferences.load(file, Settings(preference_conflicts="drop")).wins) == 29
    with pytest.raises(UserError, match="lines 5, 31 contradict each other on pair 4"):
        preferences.load(file, Settings(preference_conflicts="refuse"))


def test_too_few_answers_are_said_to_be_too_few(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    wrote(file, 15)
    wrote(file, 30, answer="equal")
    with pytest.raises(UserError, match="holds 15 pairs with a winner; expected at least 20"):
        preferences.load(file, Settings())


def test_training_by_a_file_tells_what_was_learned_and_notices_another_file(place: Path) -> None:
    wrote(Path("mine.jsonl"), 40)
    flags = ["--scenario", "spike", "--hours", "1", "--steps", "2", "--batch", "2", "--decisions", "8", "--hidden", "8",
             "--evaluate-every", "1"]  # fmt: skip
    done = run("train", "apg", *flags, "--preferences", "mine.jsonl", "--preference-weight", "0.5", "--run", "run")
    assert done.exit_code == 0, done.output
    assert "pairs that were not trained on are told right" in done.output
    asked = json.loads(Path("run", "config.json").read_text())["arguments"]["preferences"]
    assert asked["preference_weight"] == 0.5
    exported_again = run("export", "run", "--checkpoint", "latest", "--output", "again.rlz")
    assert exported_again.exit_code == 0, exported_again.output
    wrote(Path("mine.jsonl"), 1)
    with pytest.raises(UserError, match="has changed since the run was begun"):
        preferences.of(asked)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("train apg --preference-weight 1", "--preference-weight is given without --preferences"),
        ("train bdq --preferences none.jsonl --scenario spike --hours 1", "none.jsonl: cannot be read"),
        ("prefer mine.jsonl --error 0.1", "--error is given without --teacher"),
        ("prefer nowhere/mine.jsonl", "nowhere"),
        ("prefer mine.jsonl --scenario the-shop", "the-shop"),
    ],
)
def test_mistakes_are_named(place: Path, command: str, problem: str) -> None:
    assert any(problem in line for line in mistakes(run(*command.split())))
