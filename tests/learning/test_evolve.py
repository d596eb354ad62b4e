"""Evolution strategies: the search finds what is known to be best, and the trial is the score itself."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlscaler.action import scheme
from rlscaler.artifact import Artifact, dumps
from rlscaler.errors import UserError
from rlscaler.observation import NAMES
from rlscaler.policies import from_artifact
from rlscaler_sim.batch import Batch
from rlscaler_training import evolve, loads, runs
from rlscaler_training.devices import device
from rlscaler_training.evolve import Config, Search
from rlscaler_training.learner import Progress, StoppedError, Task, scored, untrained
from rlscaler_training.loads import VALIDATION_SEED, Pools
from rlscaler_training.runs import NotFiniteError, Run

SPAN = 40
SMALL = Config(generations=6, pairs=3, stretches=4, decisions=SPAN, hidden=(5,), evaluate_every=2)


@pytest.fixture(scope="module")
def pools() -> Pools:
    return loads.pools(("poisson", "spike"), None, 1.0, 0)


def environments(pools: Pools, n: int, seed: int = 5) -> Batch:
    return Batch(pools.train, pools.config, pools.settings, scheme("headroom"), n, SPAN, seed)


def task(
    folder: Path, pools: Pools, config: Config, run: Run | None = None, stop: Callable[[], bool] | None = None
) -> Task:
    run = run or runs.begin(folder, "evolve", config, {})
    return Task("evolved", pools, run, device("cpu"), 3, {"seed": 3}, stop=stop or (lambda: False))


# --- the search


@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_a_known_optimum(seed: int) -> None:
    """Of a valley a hundred times longer than wide, seen through noise and through a monotone distortion."""
    rng = np.random.default_rng(seed)
    target, steepness = rng.normal(0.0, 0.5, 20), np.geomspace(1.0, 100.0, 20)
    search = Search.at(np.zeros(20))
    for step in range(400):
        along = evolve.directions(search, 16, seed)
        tried = evolve.candidates(search, along, 0.05)
        height = (steepness * (tried - target) ** 2).sum(axis=1)
        scores = np.exp(0.2 * height) + 0.01 * rng.normal(size=len(tried))
        search = evolve.moved(search, along, scores, 0.05 * (1.0 - step / 400), 0.05, 0.0)
    np.testing.assert_allclose(search.centre, target, atol=0.06)
    assert search.generation == 400


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_ranks_know_the_order_alone(scores: list[float]) -> None:
    """Centred, antisymmetric, alike for ties, and the same after any growing map."""
    scores_ = np.array(scores)
    ranks = evolve.ranked(scores_)
    assert abs(ranks.sum()) < 1e-9
    assert np.abs(ranks).max() <= 0.5
    np.testing.assert_allclose(evolve.ranked(-scores_), -ranks, atol=1e-12)
    np.testing.assert_array_equal(evolve.ranked(np.searchsorted(np.unique(scores_), scores_) ** 3), ranks)


def test_candidates_are_opposite_and_a_flat_score_moves_nothing() -> None:
    """But for the decay."""
    search = Search.at(np.linspace(-1.0, 1.0, 7))
    along = evolve.directions(search, 4, 0)
    tried = evolve.candidates(search, along, 0.3)
    np.testing.assert_allclose((tried[:4] + tried[4:]) / 2.0, np.tile(search.centre, (4, 1)))
    np.testing.assert_allclose(tried[:4].std(), 0.3 * along.std(), rtol=3.0)
    flat = evolve.moved(search, along, np.ones(8), 0.1, 0.3, 0.0)
    np.testing.assert_array_equal(flat.centre, search.centre)
    np.testing.assert_allclose(evolve.moved(search, along, np.ones(8), 0.1, 0.3, 0.5).centre, 0.95 * search.centre)
    assert not np.array_equal(evolve.directions(flat, 4, 0), along)


# --- the trial


def test_candidates_meet_the_same_load_and_noise(pools: Pools) -> None:
    """Twins cost the same to the bit, wherever they stand, and others cost what they would cost alone."""
    stretches = environments(pools, 5)
    middle = np.array([0.0, 0.3, 0.0, -0.2])

    def correct(of: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda seen: np.broadcast_to(of[:, None], seen.shape[:2]).astype(np.float32)

    together = evolve.tried(stretches, correct(middle), 4, SPAN, 11)
    np.testing.assert_array_equal(together.cost[0], together.cost[2])
    np.testing.assert_array_equal(together.late[0], together.late[2])
    for index in (1, 3):
        alone = evolve.tried(stretches, correct(middle[[index]]), 1, SPAN, 11)
        np.testing.assert_array_equal(together.cost[index], alone.cost[0])
        np.testing.assert_array_equal(together.late[index], alone.late[0])
    assert (together.cost[1] > together.cost[0]).all()
    assert (together.cost[3] < together.cost[0]).all()
    other = evolve.tried(stretches, correct(middle), 4, SPAN, 12)
    assert not np.array_equal(other.cost, together.cost)


def test_a_candidate_without_weights_is_the_rule(pools: Pools) -> None:
    """Its score is that of the environments with the middle action."""
    for policy in ("network", "rule"):
        config = replace(SMALL, policy=policy)
        weights = evolve.begun(config, len(evolve.FIELDS), 0)
        seen = np.random.default_rng(0).normal(size=(1, 9, len(evolve.FIELDS))).astype(np.float32)
        np.testing.assert_array_equal(evolve.corrections(weights[None], seen, config), np.zeros((1, 9)))
    found = evolve.tried(environments(pools, 8), lambda seen: np.zeros(seen.shape[:2], np.float32), 1, SPAN, 21)
    assert found.score[0] == pytest.approx(untrained(environments(pools, 8), SPAN, 21).total, rel=0.01)


# --- learning


def deviating(pools: Pools, correction: float) -> float:
    """Return the score of a constant correction on the load that `learn` is judged by at its end."""
    judge = Batch(pools.validation, pools.config, pools.settings, scheme("headroom"), loads.VALIDATION_ENVS, SPAN, 3)

    def correct(seen: np.ndarray) -> np.ndarray:
        return np.full(seen.shape[:2], correction, np.float32)

    return float(evolve.tried(judge, correct, 1, SPAN, 3 + VALIDATION_SEED + 1).score[0])


def test_most_of_what_can_be_gained_is_found(pools: Pools, tmp_path: Path) -> None:
    """By a rule whose weights could say any constant; the best of those is found by trying them all."""
    config = Config(
        generations=24, pairs=8, stretches=8, decisions=SPAN, policy="rule", rate=0.01, sigma=0.01, evaluate_every=4
    )
    outcome = evolve.learn(task(tmp_path / "run", pools, config), config)
    scores = outcome.artifact.manifest["scores"]
    rule, best = deviating(pools, 0.0), min(deviating(pools, c) for c in np.arange(-0.4, 0.81, 0.1))
    assert scores["untrained_score"] == pytest.approx(rule)
    assert best < rule - 0.02, "there is something to learn"
    assert scores["validation_score"] < best + 0.5 * (rule - best)
    assert outcome.steps == 24 * 16 * 8 * SPAN
    curve = [row["score"] for row in runs.read_metrics(tmp_path / "run")]
    assert len(curve) == 7
    assert curve[-1] < curve[0]


@pytest.mark.parametrize("policy", ["network", "rule"])
def test_the_artifact_decides_as_the_candidate(pools: Pools, tmp_path: Path, policy: str) -> None:
    """Its score through the decision itself is the trial's, and the manifest says where it is from."""
    config = replace(SMALL, policy=policy, pairs=6, sigma=0.02, rate=0.01)
    made = evolve.learn(task(tmp_path / "run", pools, config), config).artifact
    assert isinstance(made, Artifact)
    manifest = made.manifest
    assert (manifest["kind"], manifest["parameters"]["output"]) == ("mlp", "correction")
    assert manifest["fields"] == [name for name in evolve.FIELDS if name in pools.fields]
    assert manifest["provenance"]["algorithm"] == "evolve"
    assert len(made.arrays) == {"network": 6, "rule": 4}[policy]
    judge = Batch(pools.validation, pools.config, pools.settings, scheme("headroom"), loads.VALIDATION_ENVS, SPAN, 3)
    told = scored(judge, from_artifact(made), SPAN, 3 + VALIDATION_SEED + 1)
    assert told.total == pytest.approx(manifest["scores"]["validation_score"], rel=1e-3)
    assert told.total != pytest.approx(manifest["scores"]["untrained_score"], rel=1e-6)


def test_every_field_is_one_of_the_observation() -> None:
    """And each is there once."""
    assert set(evolve.FIELDS) <= set(NAMES)
    assert len(set(evolve.FIELDS)) == len(evolve.FIELDS)


# --- runs


def test_a_run_that_was_stopped_goes_on_as_if_it_never_was(pools: Pools, tmp_path: Path) -> None:
    """The same artifact and the same measurements, to the bit; stopped where nothing is measured."""
    whole = task(tmp_path / "whole", pools, SMALL)
    expected = evolve.learn(whole, SMALL)
    told: list[Progress] = []
    cut = task(tmp_path / "cut", pools, SMALL, stop=lambda: len(told) >= 3)
    cut.report = told.append
    with pytest.raises(StoppedError):
        evolve.learn(cut, SMALL)
    assert [progress.step for progress in told] == [0, 1, 2, 3]
    again = evolve.learn(task(tmp_path, pools, SMALL, runs.resume(cut.run.folder)), SMALL)
    assert dumps(again.artifact) == dumps(expected.artifact)
    assert list(runs.read_metrics(cut.run.folder)) == list(runs.read_metrics(whole.run.folder))
    assert [row["step"] for row in runs.read_metrics(whole.run.folder)] == [0, 2, 4, 6]


def test_a_stretch_that_is_longer_than_the_load_is_refused(pools: Pools, tmp_path: Path) -> None:
    """One that begins late in the load would reach beyond it; at the last that fits all is as ever."""
    room = pools.train.steps - pools.train.steps // 4
    config = replace(SMALL, generations=1, pairs=1, stretches=2, decisions=room)
    assert evolve.learn(task(tmp_path / "fits", pools, config), config).steps == 4 * room
    config = replace(config, decisions=room + 1)
    told = rf"decisions is {room + 1}, but the load has .* expected at most {room}: lower"
    with pytest.raises(UserError, match=told):
        evolve.learn(task(tmp_path / "long", pools, config), config)


def test_a_score_that_is_none_stops_the_run(pools: Pools, tmp_path: Path) -> None:
    """With the step, and no artifact."""
    broken = replace(pools, validation=replace(pools.validation, mean_needed=np.full(pools.validation.loads, np.nan)))
    with pytest.raises(NotFiniteError, match="score is nan at step 0"):
        evolve.learn(task(tmp_path / "run", broken, SMALL), SMALL)
