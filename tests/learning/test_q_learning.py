"""Q-learning finds the optimum where it is known, and what it exports decides as what was trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import WEB, mistakes, run, stand_in
from job_queue import GAMMA, JOBS, ROOM, Queue, allowed, optimum, worth
from rlscaler import Autoscaler
from rlscaler.action import CORRECTIONS, HEADROOM
from rlscaler.artifact import dumps, load, loads, save
from rlscaler.observation import HIGH, LOW, NAMES, observe
from rlscaler.policies import from_artifact, load_policy
from rlscaler.policy import View
from rlscaler.table import Bins, TablePolicy
from rlscaler_sim.batch import Batch
from rlscaler_training import checkpoints, learner, q_learning, runs
from rlscaler_training import loads as training_load
from rlscaler_training.devices import Device
from rlscaler_training.learner import Progress, Score, StoppedError, Task
from rlscaler_training.q_learning import Config

# --- a queue whose optimum is known


class Nothing:
    """A twin that earns nothing, so that the table holds the values themselves."""

    def __init__(self, n: int) -> None:
        self.n = n

    def reset(self, seed: int) -> None:
        return None

    def step(self, actions: np.ndarray) -> Any:
        return type("Earned", (), {"reward": np.zeros(self.n)})


PLAIN = Config(
    steps=1500, gamma=GAMMA, lookahead=1, repeat=1, epsilon=0.4, actions="step", evaluate_every=500, episode=50,
    margins=(0.0,), bins={"backlog": (0.5, 1.5, 2.5, 3.5, 4.5)},
)  # fmt: skip


def learned(config: Config, seed: int = 0) -> q_learning.Result:
    return q_learning.train(Queue(64, 50), Nothing(64), Queue(64, 50), config, seed)  # type: ignore[arg-type]


def greedy(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.where(allowed(JOBS), values, -np.inf).argmax(axis=1))


LEARNERS = {
    "one step, one table": {"double": False},
    "one step, two tables": {"double": True},
    "three steps, actions repeated": {"lookahead": 3, "repeat": 2},
    "with margins": {"margins": (0.0, 0.05)},
}


@pytest.mark.parametrize("changed", LEARNERS.values(), ids=LEARNERS.keys())
@pytest.mark.parametrize("seed", [0, 1])
def test_it_learns_what_value_iteration_finds(changed: dict[str, Any], seed: int) -> None:
    best, policy = optimum()
    assert (worth(np.ones(ROOM + 1, int)) > 1.2 * best).all(), "doing nothing but the middle action is no answer"
    found = greedy(learned(replace(PLAIN, **changed), seed).values)
    assert (worth(found) <= 1.1 * best).all(), (found, policy)
    np.testing.assert_allclose(worth(policy), best, rtol=1e-6)


def test_the_values_are_those_of_the_optimum() -> None:
    """With its rate falling, the table itself comes near the optimal values where it has been often."""
    best, _ = optimum()
    result = learned(replace(PLAIN, steps=6000, evaluate_every=6000, rate_visits=50.0, rate_floor=0.0, double=False), 3)
    assert result.curve[-1][1] < result.curve[0][1]
    np.testing.assert_allclose(result.values.max(axis=1, where=allowed(JOBS), initial=-np.inf), -best, rtol=0.05)


def test_the_best_table_on_the_way_is_kept() -> None:
    """The judge hands out scores; whatever was learned later, the table of the best one is returned."""
    judged: list[np.ndarray] = []
    scores = iter([5.0, 3.0, 1.0, 4.0])

    def judge(batch: Any, values: np.ndarray, *_: Any) -> tuple[float, float, float]:
        judged.append(values.copy())
        score = next(scores)
        return score, score, 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(q_learning, "evaluate", judge)
        result = learned(replace(PLAIN, steps=300, evaluate_every=100))
    assert [row[:2] for row in result.curve] == [(0, 5.0), (100, 3.0), (200, 1.0), (300, 4.0)]
    assert result.score == 1.0
    np.testing.assert_array_equal(result.values, judged[2])
    assert (judged[2] != judged[3]).any()


def test_the_same_seed_learns_the_same_to_the_bit() -> None:
    one, again, other = (learned(replace(PLAIN, steps=200, evaluate_every=100), seed) for seed in (5, 5, 6))
    assert one.values.tobytes() == again.values.tobytes()
    assert one.visits.tobytes() == again.visits.tobytes()
    assert one.curve == again.curve
    assert one.visits.tobytes() != other.visits.tobytes()


def test_progress_is_told_at_every_step() -> None:
    told: list[Progress] = []
    config = replace(PLAIN, steps=100, evaluate_every=50, epsilon=0.5, epsilon_end=0.1, epsilon_share=0.5)
    q_learning.train(Queue(4, 50), Nothing(4), Queue(4, 50), config, 0, told.append)  # type: ignore[arg-type]
    assert [p.step for p in told] == list(range(101))
    assert [round(told[k].numbers["epsilon"], 6) for k in (0, 25, 50, 100)] == [0.5, 0.3, 0.1, 0.1]
    assert all(p.numbers["best"] <= p.numbers["score"] for p in told)


def test_an_update_moves_a_cell_by_its_rate_for_each_target() -> None:
    table, visits = np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[10.0, 0.0], [0.0, 0.0]])
    config = Config(rate=0.5, rate_visits=10.0, rate_floor=0.01)
    q_learning._learn(table, visits, np.array([0, 3, 0, 0]), np.array([4.0, 8.0, 1.0, 1.0]), config)
    # cell 0 was seen 10 times, so its rate is 0.5 / 2; three targets of mean 2 move it by 1 - 0.75^3 of the way
    assert table[0, 0] == pytest.approx(1.0 + (1.0 - 0.75**3) * (2.0 - 1.0))
    assert table[1, 1] == 4.0
    assert (table[0, 1], table[1, 0]) == (0.0, 0.0)
    assert visits.tolist() == [[13.0, 0.0], [0.0, 1.0]]


# --- the simulator

SMALL = Config(steps=80, envs=24, episode=60, evaluate_every=40, margins=(0.0, 0.05), epsilon=0.5)


@pytest.fixture(scope="module")
def pools() -> training_load.Pools:
    return training_load.pools(("spike", "sinusoidal"), None, 1.5, 0)


@pytest.fixture(scope="module")
def trained(pools: training_load.Pools) -> tuple[q_learning.Result, Batch]:
    batch, twin, judge = training_load.batches(pools, SMALL.actions, SMALL.envs, SMALL.episode, 3)
    return q_learning.train(batch, twin, judge, SMALL, 3), judge


def test_what_is_kept_is_not_worse_than_the_rule_on_the_validation_load(
    trained: tuple[q_learning.Result, Batch],
) -> None:
    result, judge = trained
    untrained = q_learning.evaluate(judge, np.zeros_like(result.values), result.bins, SMALL.episode, 4)
    assert result.curve[0][1:] == untrained
    assert result.score == min(row[1] for row in result.curve) <= untrained[0]
    assert q_learning.evaluate(judge, result.values, result.bins, SMALL.episode, 4)[0] == result.score
    assert result.visits.sum() == SMALL.envs * (SMALL.steps - (SMALL.lookahead - 1) * 2 - 1), "two episodes, one cut"


def test_training_on_the_simulator_is_the_same_to_the_bit(pools: training_load.Pools) -> None:
    config = replace(SMALL, steps=20, evaluate_every=10)
    one, again = (
        q_learning.train(*training_load.batches(pools, config.actions, 8, 30, 3), config, 3) for _ in range(2)
    )
    assert one.values.tobytes() == again.values.tobytes()
    assert one.curve == again.curve


def test_a_learner_that_never_deviates_finds_no_merit(pools: training_load.Pools) -> None:
    """It meets the load that its twin meets, at the same moments, so all differences are exactly nothing.

    But for cold starts, where the middle action is often masked, and the mask makes it deviate.
    """
    pools = replace(pools, train=replace(pools.train, cold=0.0))
    config = replace(SMALL, epsilon=0.0, epsilon_end=0.0, steps=70, evaluate_every=70, margins=(0.0,))
    batch, twin, judge = training_load.batches(pools, config.actions, 16, 60, 9)
    result = q_learning.train(batch, twin, judge, config, 9)
    assert result.visits[:, 5].sum() > 0.95 * result.visits.sum() > 0, "at a bound it is masked"
    assert (result.values == 0.0).all()


def tasked(folder: Path, pools: training_load.Pools, config: Config) -> Task:
    run = runs.begin(folder, "q-learning", config, {})
    return Task("mine", pools, run, Device("cpu", "device: cpu"), 3, {})


@pytest.mark.parametrize("at", [20, 33], ids=["at a checkpoint", "between two"])
def test_a_run_that_was_stopped_goes_on_as_if_it_never_was(pools: training_load.Pools, tmp_path: Path, at: int) -> None:
    """The same table to the bit and the same metrics, wherever Ctrl-C came."""
    config = replace(SMALL, steps=50, envs=6, evaluate_every=20, checkpoint_every=20, lookahead=3)
    whole = tasked(tmp_path / "whole", pools, config)
    expected = q_learning.learn(whole, config)

    cut = tasked(tmp_path / "cut", pools, config)
    reached: list[int] = []
    cut.report = lambda progress: reached.append(progress.step)
    cut.stop = lambda: reached[-1] >= at
    with pytest.raises(StoppedError):
        q_learning.learn(cut, config)
    assert reached[-1] == at
    again = replace(cut, run=runs.resume(tmp_path / "cut"), stop=lambda: False)
    found = q_learning.learn(again, config)
    assert reached[at + 1] == at, "it goes on from there"
    assert found.artifact == expected.artifact
    assert list(runs.read_metrics(tmp_path / "cut")) == list(runs.read_metrics(tmp_path / "whole"))


def test_the_best_checkpoint_is_of_the_best_evaluation(pools: training_load.Pools, tmp_path: Path) -> None:
    """Wherever it falls between the checkpoints that are due."""
    config = replace(SMALL, steps=60, envs=6, evaluate_every=5, checkpoint_every=1000)
    q_learning.learn(tasked(tmp_path, pools, config), config)
    best = min(runs.read_metrics(tmp_path), key=lambda row: row["score"])
    assert 0 < best["step"] < 60
    assert checkpoints.read(tmp_path / "checkpoints" / "best.pt")[0] == best["step"]


def test_what_was_measured_is_logged(pools: training_load.Pools, tmp_path: Path) -> None:
    config = replace(SMALL, steps=30, envs=4, evaluate_every=10)
    task = tasked(tmp_path, pools, config)
    q_learning.learn(task, config)
    rows = list(runs.read_metrics(tmp_path))
    assert [row["step"] for row in rows] == [0, 10, 20, 30]
    assert rows[0]["score"] == pytest.approx(rows[0]["cost"] + rows[0]["late"])
    assert [row["best"] for row in rows] == sorted((row["best"] for row in rows), reverse=True)


def test_training_and_validation_load_are_different_draws(pools: training_load.Pools) -> None:
    assert pools.trained_on == pools.validated_on == ("spike", "sinusoidal")
    assert (pools.train.loads, pools.validation.loads) == (4, 2)
    for one in pools.train.rates:
        for other in pools.validation.rates:
            assert (one != other).mean() > 0.99


def test_no_family_of_recorded_load_is_on_both_sides(tmp_path: Path) -> None:
    for name in ("nasa_http_a", "nasa_http_b", "shop_60s", "bank_calls_x", "zoo_15s"):
        rows = "".join(f"{60 * i},{20 + i % 7}\n" for i in range(70))
        (tmp_path / f"{name}.csv").write_text(f"t,rate\n{rows}")
    found = training_load.pools((), str(tmp_path), 1.0, 0)
    assert set(found.trained_on) == {"nasa_http_a", "nasa_http_b", "shop_60s"}
    assert set(found.validated_on) == {"bank_calls_x", "zoo_15s"}


# --- what is exported


def close_calls(states: int) -> np.ndarray:
    """Return a table with ties, near ties beyond the digits of float32, and clear answers."""
    rng = np.random.default_rng(2)
    shape = (states, len(CORRECTIONS))
    return np.asarray(np.round(rng.standard_normal(shape), 1) + rng.choice([0.0, 1e-8, -1e-8, 1e-10], shape))


def exported(values: np.ndarray, config: Config) -> TablePolicy:
    """Return the policy as it comes back from a file."""
    bins = Bins(config.bins)
    result = q_learning.Result(values, np.ones_like(values), bins, [], 1.0)
    found = from_artifact(loads(dumps(q_learning.artifact(result, config, "mine", {}))))
    assert isinstance(found, TablePolicy)
    return found


def test_the_artifact_decides_as_the_table_on_any_observation(monkeypatch: pytest.MonkeyPatch) -> None:
    n, rng, config = 10_000, np.random.default_rng(7), Config()
    bins = Bins(config.bins)
    values = close_calls(bins.states)
    seen = (LOW + (HIGH - LOW) * rng.random((n, len(NAMES)))).astype(np.float32)
    for name, cuts in config.bins.items():
        edges = rng.choice(np.array([*cuts, LOW[NAMES.index(name)], 0.0], np.float32), n)
        seen[:, NAMES.index(name)] = edges + rng.choice(np.array([0.0, 1e-3, -1e-3], np.float32), n)
    level = rng.uniform(0.0, 40.0, n)
    view = View(
        xp=np,
        settings={
            "capacity_per_replica": np.full(n, 10.0),
            "min_replicas": rng.integers(1, 10, n) * 1.0,
            "max_replicas": rng.integers(10, 60, n) * 1.0,
        },
        snapshot={"backlog": np.where(rng.random(n) < 0.2, np.nan, rng.uniform(0.0, 300.0, n))},
        features={"level": level, "trend_cheap": rng.uniform(-0.5, 1.0, n).astype(np.float32)},
        demand=np.where(rng.random(n) < 0.05, np.nan, level),
        current=np.round(level),
    )
    monkeypatch.setattr("rlscaler.table.observe", lambda _: seen)
    proposal, _ = exported(values, config).propose(view, {})
    table = np.where(HEADROOM.mask(view), q_learning._ranked(values)[bins.index(np, seen)], -np.inf)
    expected = HEADROOM.propose(view, table.argmax(axis=1))
    np.testing.assert_array_equal(proposal.replicas, expected.replicas)
    np.testing.assert_array_equal(proposal.patience, expected.patience)
    assert len(np.unique(bins.index(np, seen))) == bins.states, "every state was met"


def test_the_artifact_decides_as_the_table_along_an_episode(pools: training_load.Pools, tmp_path: Path) -> None:
    """Served by its path, with a guard and a fallback of its own, it orders what training orders, to the replica."""
    config = Config(bins={"rel_latest": (-0.05, 0.0, 0.05), "trend": (-0.02, 0.0, 0.02), "backlog": (0.05,)})
    bins = Bins(config.bins)
    values = close_calls(bins.states)
    result = q_learning.Result(values, np.ones_like(values), bins, [], 1.0)
    save(q_learning.artifact(result, config, "mine", {}), tmp_path / "mine.rlz")
    batch = Batch(pools.validation, pools.config, pools.settings, HEADROOM, 16, 10_000, seed=1)
    served = Autoscaler(tmp_path / "mine.rlz", pools.settings, 16, remembers=False)
    assert served.policy.name == "mine"
    ranked, actions = q_learning._ranked(values), set()
    for _ in range(100):
        view = batch.view
        action = np.where(batch.mask(), ranked[bins.index(np, observe(view))], -np.inf).argmax(axis=1)
        decided = served.decide_on(view)
        assert decided.error == ""
        np.testing.assert_array_equal(decided.proposal, HEADROOM.propose(view, action).replicas)
        np.testing.assert_array_equal(decided.replicas, batch.step(action).replicas)
        actions |= set(action.tolist())
    assert len(actions) > 5


def test_the_artifact_says_what_it_is(trained: tuple[q_learning.Result, Batch]) -> None:
    result, _ = trained
    manifest = q_learning.artifact(result, SMALL, "mine", {"seed": 3}).manifest
    assert (manifest["name"], manifest["kind"], manifest["action_scheme"]) == ("mine", "q-table", "headroom")
    assert manifest["fields"] == list(SMALL.bins)
    assert manifest["scores"]["best_score"] == result.score
    assert 0 < manifest["scores"]["states_seen"] <= result.bins.states
    assert manifest["provenance"] == {"seed": 3}


# --- the command

TINY = (
    "--scenario",
    "spike",
    "--hours",
    "1",
    "--steps",
    "24",
    "--envs",
    "8",
    "--episode",
    "24",
    "--evaluate-every",
    "12",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stand_in(tmp_path, monkeypatch)
    return tmp_path


@pytest.mark.parametrize("better", [False, True])
def test_the_command_names_the_artifact_and_is_honest(
    folder: Path, monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    """Every table that deviates is made to score a little better, or worse, than the rule."""
    plain, scored = q_learning.evaluate, learner.scored

    def judged(batch: Batch, values: np.ndarray, *rest: Any) -> tuple[float, float, float]:
        score, cost, late = plain(batch, values, *rest)
        return score + (-0.25 if better else 0.25) * bool(values.any()), cost, late

    def final(*arguments: Any) -> Score:
        found = scored(*arguments)
        return replace(found, late=found.late + (-0.25 if better else 0.25))

    monkeypatch.setattr(q_learning, "evaluate", judged)
    monkeypatch.setattr(learner, "scored", final)
    Path("out").mkdir()
    result = run("train", "q-learning", *TINY, "--out", "out/a.rlz", "-q")
    assert (result.exit_code, result.stderr) == (0, "")
    device, first, *_ = result.stdout.splitlines()
    assert device.startswith("device: ")
    assert first.startswith("validation score ")
    assert ("what was learned is no better than the rule it corrects" in first) == (not better)
    assert "artifact: out/a.rlz\n" in result.stdout
    assert "--policy out/a.rlz" in result.stdout
    assert np.asarray(load("out/a.rlz").arrays["values"]).any() == better
    assert load_policy("out/a.rlz").name == "q-learning"
    assert load("runs/q-learning-1/policy.rlz") == load("out/a.rlz")
    assert json.loads(Path("runs/q-learning-1/report.json").read_text())["better"] == better


def test_the_command_again_gives_the_same_artifact(folder: Path) -> None:
    for name in ("a", "b"):
        assert run("train", "q-learning", *TINY, "--out", f"{name}.rlz", "-q").exit_code == 0
    assert load("a.rlz") == load("b.rlz")
    assert Path("a.rlz").read_bytes() == Path("b.rlz").read_bytes()


def test_what_was_trained_can_be_tried_at_once(folder: Path) -> None:
    assert run("train", "q-learning", *TINY, "--out", "a.rlz", "-q").exit_code == 0
    result = run("dry-run", "-f", WEB, "--policy", "a.rlz", "--for", "5m", "--json", "-q")
    assert json.loads(result.stdout)["contenders"][0]["name"] == "q-learning"


MISTAKES = {
    "unknown setting": ({"speed": 3}, [], ["config.json: no setting is called 'speed'", "expected one of steps"]),
    "out of range in the file": ({"gamma": 1.5}, [], ["gamma is 1.5", "expected a number from 0"]),
    "out of range on the command line": ({}, ["--epsilon", "2"], ["epsilon is 2", "expected a number from 0"]),
    "no whole number": ({"steps": 2.5}, [], ["steps is 2.5", "expected a whole number"]),
    "a scheme that a table cannot hold": (
        {"actions": "branching"},
        [],
        ["actions is 'branching'", "expected one of headroom, step"],
    ),
    "rewards of more decisions than an episode sums": (
        {"lookahead": 8, "episode": 8},
        [],
        ["lookahead is 8; expected at most 7, as episode is 8"],
    ),
    "rewards of more decisions than there are": (
        {"lookahead": 6},
        ["--steps", "5"],
        ["lookahead is 6; expected at most 5"],
    ),
    "no such field": ({"bins": {"weather": [1]}}, [], ["bins", "weather", "expected fields of the observation"]),
    "no object": ([1], [], ["config.json: holds a list", "expected an object"]),
    "no such file": (None, [], ["config.json: no such file", "expected a JSON object"]),
    "no such scenario": ({}, ["--scenario", "spikes"], ["'spikes'", "did you mean 'spike'"]),
    "a folder that holds a run": ({}, ["--run", "taken"], ["taken holds a run; go on with it by --resume taken"]),
    "a device that is not there": ({}, ["--device", "gpu"], ["--device 'gpu' is unknown", "cpu, cuda, mps"]),
    "no folder of traces": ({}, ["--traces", "none"], ["none: no such folder"]),
    "a name that no artifact can have": ({}, ["--name", "a b"], ["--name 'a b'", "expected"]),
    "out onto a folder": ({}, ["--out", "."], [". is a folder", "expected the name of a file"]),
    "out in no folder": ({}, ["--out", "none/a.rlz"], ["none/a.rlz: the folder", "does not exist; create it first"]),
    "out below a file": ({}, ["--out", "config.json/a.rlz"], ["config.json/a.rlz cannot be written"]),
}


@pytest.mark.parametrize(("config", "arguments", "fragments"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_a_sentence_and_leaves_nothing_behind(
    folder: Path, config: Any, arguments: list[str], fragments: list[str]
) -> None:
    if config is not None:
        Path("config.json").write_text(json.dumps(config))
    Path("taken").mkdir()
    Path("taken", "config.json").write_text("{}")
    before = sorted(folder.rglob("*"))
    given = [] if {"--scenario", "--traces"} & set(arguments) else ["--scenario", "spike"]
    out = [] if "--out" in arguments else ["--out", "a.rlz"]
    told = "\n".join(mistakes(run("train", "q-learning", "--config", "config.json", "-q", *given, *out, *arguments)))
    for fragment in fragments:
        assert fragment in told
    assert sorted(folder.rglob("*")) == before
