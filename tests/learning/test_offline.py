"""From a log alone: the better policy is found, the estimate knows how sure it is, and a bad log is named."""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlscaler.action import CORRECTIONS, HEADROOM, scheme
from rlscaler.artifact import dumps
from rlscaler.errors import UserError
from rlscaler.observation import NAMES, observe
from rlscaler.policies import RULES, from_artifact
from rlscaler_sim.batch import Batch
from rlscaler_sim.contest import Entrant, play
from rlscaler_sim.load import generator, realise
from rlscaler_sim.run_record import write_decisions
from rlscaler_sim.scenarios import get
from rlscaler_sim.totals import Traced
from rlscaler_training import decision_log, loads, off_policy, offline, runs
from rlscaler_training.decision_log import Log
from rlscaler_training.devices import device
from rlscaler_training.learner import Progress, StoppedError, Task, scored
from rlscaler_training.loads import VALIDATION_SEED, Pools
from rlscaler_training.offline import Config
from rlscaler_training.runs import Run


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Networks as small as these are only slowed by a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- three states whose optimum is known

DOWN, STAY, UP = 0, CORRECTIONS.index(0.0), len(CORRECTIONS) - 1
ACTIONS = np.array([DOWN, STAY, UP])
MOVES = np.array([-1, 0, 1])
PRICE = np.array([0.2, 0.5, 1.0])
"""Cost of each action."""
TROUBLE = np.array([4.0, 1.0, 0.0])
"""Cost of each state."""
SLIP = 0.2
"""Chance that a move does nothing."""
LOGGED = np.array([0.3, 0.5, 0.2])
"""How often the logging policy takes each action."""
GAMMA = 0.9


def chain(policy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the transitions (3, 3) and costs (3,) of a stochastic policy (3, 3)."""
    moves, costs = np.zeros((3, 3)), TROUBLE + policy @ PRICE
    for state in range(3):
        for index, move in enumerate(MOVES):
            moves[state, np.clip(state + move, 0, 2)] += policy[state, index] * (1.0 - SLIP)
            moves[state, state] += policy[state, index] * SLIP
    return moves, costs


def worth(policy: np.ndarray) -> np.ndarray:
    """Return the discounted cost (3,), exactly."""
    moves, costs = chain(policy)
    return np.asarray(np.linalg.solve(np.eye(3) - GAMMA * moves, costs))


def best() -> np.ndarray:
    """Return the index of the best action of each state: the best of all 27 policies."""
    every = [np.eye(3)[list(index)] for index in np.ndindex(3, 3, 3)]
    return np.asarray(min(every, key=lambda policy: worth(policy).sum()).argmax(axis=1))


def seen(states: np.ndarray) -> np.ndarray:
    """Return observations of states: the trend says which it is."""
    observed = np.zeros((len(states), len(NAMES)), np.float32)
    observed[:, NAMES.index("trend")] = states - 1.0
    return observed


def state_of(observed: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(observed[:, NAMES.index("trend")]).astype(int) + 1)


def logged(count: int, seed: int) -> Log:
    """Return a log of the three states."""
    rng = np.random.default_rng(seed)
    taken, slips = rng.choice(3, count, p=LOGGED), rng.random(count) < SLIP
    states = np.zeros(count + 1, int)
    states[0] = rng.integers(3)
    for at in range(count):
        states[at + 1] = states[at] if slips[at] else np.clip(states[at] + MOVES[taken[at]], 0, 2)
    return Log(seen(states[:-1]), ACTIONS[taken], PRICE[taken], TROUBLE[states[:-1]], seen(states[1:]),
               np.zeros(count, np.int64))  # fmt: skip


def estimate(log: Log, policy: np.ndarray, resamples: int = 60, seed: int = 0) -> off_policy.Estimate:
    """Return the estimate for a deterministic policy, the index of an action for each state."""
    choose = ACTIONS[policy]
    return off_policy.evaluated(
        log, choose[state_of(log.observation)], choose[state_of(log.following)], gamma=GAMMA, block=20,
        resamples=resamples, ridge=1e-6, seed=seed,
    )  # fmt: skip


def truth(policy: np.ndarray) -> float:
    """Return what the estimate is of: (1 - gamma) x the cost from where the logging policy comes by in the long run."""
    moves, _ = chain(np.tile(LOGGED, (3, 1)))
    visits = np.linalg.matrix_power(moves, 500)[0]
    return (1.0 - GAMMA) * float(visits @ worth(np.eye(3)[policy]))


def test_the_better_policy_is_recovered_from_the_log() -> None:
    """Of all policies the best, though the log's own is far from it, and no action that was never taken."""
    log = logged(4000, 1)
    config = Config(steps=900, batch=128, hidden=(24,), rate=3e-3, target_rate=0.05, caution=0.05)
    fit = offline.begun(log, config, 0, torch.device("cpu"))
    material, rng = offline.tensors(log, torch.device("cpu")), np.random.default_rng(0)
    for _ in range(config.steps):
        rows = torch.as_tensor(rng.integers(len(log), size=config.batch))
        offline.step(fit, tuple(part[rows] for part in material), config)
    np.testing.assert_array_equal(offline.chosen(fit.network, seen(np.arange(3))), ACTIONS[best()])
    assert len(set(best())) > 1
    assert (best() != PRICE.argmin()).any(), "what is cheapest at once is not best"


@pytest.mark.parametrize("policy", [np.array([2, 1, 1]), np.array([0, 0, 0])], ids=["better", "worse"])
def test_the_interval_covers_the_truth(policy: np.ndarray) -> None:
    """Of 24 logs of 600 decisions the 95 % intervals of at least 20; and they are not wide enough to say nothing."""
    exact = truth(policy)
    found = [estimate(logged(600, seed), policy, seed=seed) for seed in range(24)]
    assert sum(each.low <= exact <= each.high for each in found) >= 20
    assert np.mean([each.score for each in found]) == pytest.approx(exact, rel=0.05)
    own = np.mean([each.logged for each in found])
    assert np.mean([each.better for each in found]) == pytest.approx(float(exact < own), abs=0.1)
    assert np.mean([each.high - each.low for each in found]) < 1.5 * abs(exact - own)


def test_support_is_told() -> None:
    """All of what the log's policy does, none of what it never did."""
    log = logged(600, 3)
    assert estimate(log, np.array([0, 1, 2])).support == 1.0
    rows = log.action != UP
    assert estimate(log.taken(rows), np.array([2, 2, 2])).support == 0.0


# --- logs as they are written


@pytest.fixture(scope="module")
def pools() -> Pools:
    return loads.pools(("spike",), None, 1.0, 0)


@pytest.fixture(scope="module")
def written(pools: Pools, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Logs of two rules on an hour of load each."""
    folder = tmp_path_factory.mktemp("logs")
    paths = []
    for index, name in enumerate(("growth-quantile", "hpa")):
        load = realise(get("spike").source, duration=3600.0, scale_to=20.0, capacity=10.0, rng=generator(name, index))
        traced = Traced(observe=True)
        play([load], [Entrant(name, RULES[name](), pools.settings)], pools.config, pools.settings, [index], watch=0,
             traced=traced)  # fmt: skip
        paths.append(folder / f"{name}.jsonl")
        write_decisions(str(paths[-1]), traced.decisions)
    return paths


def test_a_log_is_read_as_it_was_written(written: list[Path]) -> None:
    """Costs are those of the contest, what follows is the next line, and files stay apart."""
    first, both = decision_log.read(written[:1], 100), decision_log.read(written, 100)
    rows = [json.loads(text) for text in written[0].read_text().splitlines()]
    assert 200 < len(first) < len(rows) == 240
    assert len(both) > len(first)
    assert both.part[0] != both.part[-1]
    outcome = {name: np.array([row["outcome"][name] for row in rows]) for name in decision_log.OUTCOME}
    assert first.cost.mean() == pytest.approx(outcome["billed"].sum() / outcome["needed"].sum(), rel=0.05)
    assert first.late.mean() == pytest.approx(
        20.0 * outcome["late"].sum() / outcome["arrivals"].sum(), rel=0.1, abs=0.01
    )
    np.testing.assert_array_equal(first.observation[1:], first.following[:-1])
    np.testing.assert_array_equal(first.reward, -(first.cost + first.late))


def test_an_action_is_what_makes_the_proposal(pools: Pools) -> None:
    """Of every action its proposal, and of that the action again, backlog or none."""
    batch = Batch(pools.train, pools.config, pools.settings, HEADROOM, 200, 30, 0)
    for _ in range(8):
        batch.step(np.zeros(200, np.int64))
    observed = observe(batch.view)
    assert (observed[:, NAMES.index("backlog")] > 0.0).any()
    inside = observed[:, NAMES.index("backlog")] < 20.0
    for action in range(len(CORRECTIONS)):
        proposal = HEADROOM.propose(batch.view, np.full(200, action)).replicas
        assert (decision_log.corrected(observed, proposal)[inside] == action).mean() > 0.98


def test_blocks_keep_to_their_part() -> None:
    """At most so many decisions, and none of two parts."""
    part = np.array([0] * 5 + [1] * 2 + [2] * 4)
    np.testing.assert_array_equal(off_policy.blocks_of(part, 2), [0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 5])
    log = replace(logged(50, 0), part=np.repeat([0, 1], [31, 19]))
    learned, judged = offline.parted(log, Config(block=4, held_out=0.4), 0)
    assert len(learned) + len(judged) == 50
    assert 0.25 < len(judged) / 50 < 0.5


# --- the run

SMALL = Config(steps=60, batch=32, hidden=(8,), least=200, block=20, resamples=20, evaluate_every=20, episode=20)


def task(
    folder: Path, pools: Pools, files: list[Path], run: Run | None = None, stop: Callable[[], bool] = lambda: False
) -> Task:
    run = run or runs.begin(folder, "offline", SMALL, {"decisions": [str(file) for file in files]})
    return Task("learned", pools, run, device("cpu"), 3, {"seed": 3}, stop=stop)


def test_the_artifact_has_the_estimate_beside_the_verdict(pools: Pools, written: list[Path], tmp_path: Path) -> None:
    """Both are told, with what was learned from, and the score is of the artifact itself."""
    outcome = offline.learn(task(tmp_path / "run", pools, written), SMALL)
    manifest = outcome.artifact.manifest
    assert (manifest["kind"], manifest["parameters"]["output"]) == ("mlp", "choices")
    assert manifest["provenance"]["decisions"] == len(decision_log.read(written, 1))
    scores = manifest["scores"]
    told = scores["off_policy"]
    assert told["low"] < told["score"] < told["high"]
    assert 0.0 <= told["support"] <= 1.0
    assert told["decisions"] < manifest["provenance"]["decisions"]
    judge = Batch(pools.validation, pools.config, pools.settings, scheme("headroom"), loads.VALIDATION_ENVS, 20, 3)
    found = scored(judge, from_artifact(outcome.artifact), 20, 3 + VALIDATION_SEED).total
    assert scores["validation_score"] == found
    assert outcome.steps == 60 * 32


def test_a_run_that_was_stopped_goes_on_as_if_it_never_was(pools: Pools, written: list[Path], tmp_path: Path) -> None:
    """The same artifact and the same measurements, to the bit."""
    whole = task(tmp_path / "whole", pools, written)
    expected = offline.learn(whole, SMALL)
    calls: list[int] = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) > 27

    told: list[Progress] = []
    cut = task(tmp_path / "cut", pools, written, stop=stop)
    cut.report = told.append
    with pytest.raises(StoppedError):
        offline.learn(cut, SMALL)
    assert told[-1].step == 27
    again = offline.learn(task(tmp_path, pools, written, runs.resume(cut.run.folder)), SMALL)
    assert dumps(again.artifact) == dumps(expected.artifact)
    assert list(runs.read_metrics(cut.run.folder)) == list(runs.read_metrics(whole.run.folder))


# --- bad logs


def changed(lines: list[str], number: int, change: Callable[[dict[str, Any]], Any]) -> list[str]:
    row = json.loads(lines[number - 1])
    change(row)
    return [*lines[: number - 1], json.dumps(row), *lines[number:]]


BAD: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "no JSON": (lambda lines: [*lines[:2], "{junk", *lines[3:]], r"line 3: no decision.*JSONDecodeError"),
    "several": (lambda lines: ["[]"] * 7 + lines[7:], r"lines 1, 2, 3, 4, 5 and 2 more: no decision"),
    "no outcome": (lambda lines: changed(lines, 4, lambda row: row.pop("outcome")), r"line 4: .*KeyError: 'outcome'"),
    "a number that is none": (
        lambda lines: changed(lines, 5, lambda row: row["outcome"].update(late=float("nan"))),
        r"line 5: .*holds a number that is none",
    ),
    "a number that is too large": (
        lambda lines: changed(lines, 5, lambda row: row.update(time=10**400)),
        r"line 5: .*OverflowError",
    ),
    "bytes that are no text": (lambda lines: [*lines[:2], "\udcff", *lines[3:]], r"line 3: .*UnicodeDecodeError"),
    "an observation that no workload makes": (
        lambda lines: changed(lines, 5, lambda row: row["observation"].update(trend=1e300)),
        r"line 5: .*observation.trend is 1e\+300; expected -",
    ),
    "more than any workload costs": (
        lambda lines: changed(lines, 5, lambda row: row["outcome"].update(billed=1e300)),
        r"line 5: .*outcome.billed is 1e\+300; expected 0 to 1e\+12",
    ),
    "less than nothing": (
        lambda lines: changed(lines, 5, lambda row: row["outcome"].update(late=-1e6)),
        r"line 5: .*outcome.late is -1e\+06; expected 0 to",
    ),
    "no number of replicas": (
        lambda lines: changed(lines, 5, lambda row: row.update(proposal=float("inf"))),
        r"line 5: .*proposal is inf; expected 0 to",
    ),
    "a line without an end": (
        lambda lines: [*lines[:2], " " * decision_log.LONGEST + "{}", *lines[3:]],
        r"line 3 has more than 1,048,576 bytes; expected one decision a line",
    ),
    "nested too deep": (lambda lines: [*lines[:2], "[" * 100_000, *lines[3:]], r"line 3: .*RecursionError"),
    "another schema": (
        lambda lines: changed(lines, 2, lambda row: row.update(observation_schema="0")),
        r"line 2 has observation schema '0' with 96 fields; expected '1' with 96",
    ),
    "another observation": (
        lambda lines: changed(lines, 2, lambda row: row["observation"].pop("trend")),
        r"line 2 has observation schema '1' with 95 fields",
    ),
    "too few": (lambda lines: lines[:50], r"decisions can be learned from; expected 200 or more"),
    "nothing": (lambda lines: [], r"0 decisions can be learned from; expected 200"),
    "two logs in one": (lambda lines: lines + lines, r"decision 241 is not after the one before"),
}


@pytest.mark.parametrize(("spoil", "told"), BAD.values(), ids=BAD)
def test_a_bad_log_is_named(
    written: list[Path], tmp_path: Path, spoil: Callable[[list[str]], list[str]], told: str
) -> None:
    """With the file, the lines and what to do."""
    path = tmp_path / "bad.jsonl"
    text = "".join(line + "\n" for line in spoil(written[0].read_text().splitlines()))
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=f"bad.jsonl: .*{told}|bad.jsonl: {told}"):
        decision_log.read([path], 200)


def test_a_compressed_log_is_told(written: list[Path], tmp_path: Path) -> None:
    """Not line by line."""
    path = tmp_path / "old.jsonl.gz"
    path.write_bytes(gzip.compress(written[0].read_bytes()))
    with pytest.raises(UserError, match=r"old\.jsonl\.gz: is compressed; .* unpack it by gunzip first"):
        decision_log.read([path], 200)


def test_a_line_that_is_still_being_written_is_left_out(written: list[Path], tmp_path: Path) -> None:
    """The rest is read as ever."""
    path = tmp_path / "live.jsonl"
    text = written[0].read_text()
    path.write_text(text[:-40])
    assert len(decision_log.read([path], 200)) == len(decision_log.read(written[:1], 200)) - 1


@pytest.mark.parametrize(
    ("files", "config", "told"),
    [([], SMALL, "--decisions FILE.jsonl is missing"),
     (["none.jsonl"], SMALL, "none.jsonl: cannot be read: No such file"),
     ([0], replace(SMALL, block=200), "2 blocks of 200 decisions, 1 of them to judge by; expected at least 5")],
    ids=["no file", "no such file", "too long blocks"],
)  # fmt: skip
def test_a_task_without_a_log_is_refused(
    pools: Pools, written: list[Path], tmp_path: Path, files: list[Any], config: Config, told: str
) -> None:
    """In a sentence."""
    given = [written[file] if isinstance(file, int) else tmp_path / file for file in files]
    with pytest.raises(UserError, match=told):
        offline.learn(task(tmp_path / "run", pools, given), config)
