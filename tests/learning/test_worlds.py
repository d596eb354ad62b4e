"""Randomised worlds: within their ranges, narrowed by the level, the same again, and trained in by every learner."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rlscaler.action import HEADROOM
from rlscaler.errors import UserError
from rlscaler_sim import scenarios
from rlscaler_sim.batch import Batch
from rlscaler_sim.contenders import standard_settings
from rlscaler_sim.load import generator
from rlscaler_sim.scenarios import Scenario
from rlscaler_sim.trace import family
from rlscaler_sim.world import WorldConfig
from rlscaler_training import finishing, hyper, loads, runs, splits, worlds
from rlscaler_training.commands import train
from rlscaler_training.devices import Device
from rlscaler_training.learner import StoppedError, Task
from rlscaler_training.worlds import PAIRS, STANDARD, Ranges, World

CPU = Device("cpu", "the processor")
KNOWN = tuple(scenarios.get(name) for name in ("spike", "random-walk"))
SMALL = replace(Ranges(), worlds=6, startup=(5.0, 240.0), replicas=(2.0, 60.0))


@pytest.fixture(scope="module", autouse=True)
def few() -> Iterator[None]:
    """Let a few worlds be validated in, for a few decisions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loads, "ELSEWHERE", 3)
        patch.setattr(loads, "VALIDATION_ENVS", 8)
        patch.setattr(finishing, "EPISODE", 20)
        yield


def drawn(
    level: float, count: int = 200, known: tuple[Scenario, ...] = KNOWN, ranges: Ranges | None = None
) -> list[World]:
    return [worlds.drawn(np.random.default_rng([7, k]), level, known, ranges or Ranges()) for k in range(count)]


# --- what is drawn


def test_level_0_is_the_standard_world() -> None:
    """To the bit, whatever the generator; of each load one that is known."""
    for world in drawn(0.0, 20):
        assert world.told == STANDARD
        assert world.config == WorldConfig()
        assert world.scenario in KNOWN
        assert world.offset == 0.0
    config, settings = worlds.conditions(drawn(0.0, 5))
    assert (config, settings) == (WorldConfig(), standard_settings()), "numbers, as all are alike"


@pytest.mark.parametrize("name", PAIRS)
def test_level_1_fills_the_range_and_lower_levels_a_part_of_it_around_the_standard(name: str) -> None:
    low, high = getattr(Ranges(), name)
    values = {level: np.array([world.told[name] for world in drawn(level)]) for level in (0.25, 0.5, 1.0)}
    scale = np.log if low > 0.0 else np.asarray
    width = scale(high) - scale(low)
    for level, found in values.items():
        assert (found >= low - 1e-9).all()
        assert (found <= high + 1e-9).all()
        assert np.ptp(scale(found)) == pytest.approx(level * width, rel=0.1), "the level is the share of the range"
        assert scale(found).min() <= scale(STANDARD[name]) + 0.1 * width
        assert scale(found).max() >= scale(STANDARD[name]) - 0.1 * width
    below = np.mean(scale(values[1.0]) < scale(low) + 0.5 * width)
    assert 0.35 < below < 0.65, "even, in the logarithm where it begins above 0"


def test_the_same_generator_at_another_level_is_the_same_world_nearer_or_further() -> None:
    for near, middle, far in zip(drawn(0.2, 50), drawn(0.6, 50), drawn(1.0, 50), strict=True):
        for name in PAIRS:
            steps = [world.told[name] - STANDARD[name] for world in (near, middle, far)]
            assert all(abs(b) >= abs(a) - 1e-9 and a * b >= -1e-9 for a, b in pairwise(steps)), name


def test_a_standard_value_outside_of_a_range_counts_as_its_nearer_end() -> None:
    narrow = replace(Ranges(), startup=(120.0, 240.0), lag=(5.0, 10.0), crash_rate=(1.0, 1.0))
    assert {world.told["startup"] for world in drawn(0.0, 5, ranges=narrow)} == {120.0}
    for world in drawn(1.0, 50, ranges=narrow):
        assert 120.0 <= world.told["startup"] <= 240.0
        assert 5.0 <= world.told["lag"] <= 10.0
        assert world.told["crash_rate"] == 1.0


def test_the_load_is_of_the_known_families_or_of_any() -> None:
    """The share of others rises with the level."""
    foreign = [np.mean([world.scenario not in KNOWN for world in drawn(level)]) for level in (0.0, 0.5, 1.0)]
    expected = [level * 0.5 * (1.0 - len(KNOWN) / len(worlds.FAMILIES)) for level in (0.0, 0.5, 1.0)]
    assert foreign == pytest.approx(expected, abs=0.08)
    assert {world.scenario.name for world in drawn(1.0, 400)} == {scenario.name for scenario in worlds.FAMILIES}


def test_the_autoscaler_is_told_what_an_operator_would_know() -> None:
    """Start-up, lag and bounds are those of the world; the capacity is what is believed, in error by a factor."""
    for world in drawn(1.0, 50):
        assert float(world.settings.startup) == world.config.startup == world.told["startup"]
        assert float(world.settings.lag) == world.config.lag
        assert world.settings.capacity_per_replica == 10.0
        assert world.config.capacity_per_replica == 10.0 * world.told["capacity_error"]
        assert world.settings.max_replicas >= max(100, 4 * world.told["replicas"])
        assert world.config.interval == 15.0


def test_what_a_scenario_states_is_not_drawn() -> None:
    stated = Scenario("own", "", KNOWN[0].load, 7200.0, {"startup": 33.0, "node_pods": 4}, scale_to=12.0)
    for world in [worlds.stated(stated), *drawn(1.0, 20, (stated,), replace(Ranges(), foreign=0.0))]:
        assert (world.config.startup, world.settings.startup, world.config.node_pods) == (33.0, 33.0, 4)
        assert world.told["replicas"] == 12.0
    assert worlds.stated(stated).config.lag == 15.0


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_load_has_the_scale_of_its_world(level: float) -> None:
    """The 95th percentile needs the stated replicas, of the capacity that they really have; the same again."""
    for number, world in enumerate(drawn(level, 12)):
        load = worlds.load(world, 5400.0, generator("any", number))
        again = worlds.load(world, 5400.0, generator("any", number))
        np.testing.assert_array_equal(load.rates, again.rates)
        needed = np.percentile(load.rates, 95.0) / world.config.capacity_per_replica
        if needed:  # a load that is mostly off is scaled by its peak
            assert needed == pytest.approx(world.told["replicas"], rel=1e-3)
        assert len(load.rates) == 5400 / 3


def test_loads_are_shifted_mixed_and_noisy_in_their_world() -> None:
    base, other = scenarios.get("sinusoidal"), KNOWN[0]
    plain = worlds.stated(base)
    told = {**STANDARD, "mixture": 0.5, "jitter": 0.1}
    first = worlds.load(plain, 3600.0, generator("a", 0)).rates
    for changed in (World(1.0, base, STANDARD, 0.5), World(1.0, base, told, 0.0, other)):
        second = worlds.load(changed, 3600.0, generator("a", 0)).rates
        assert second.shape == first.shape
        assert not np.allclose(second, first)


def test_worlds_of_a_pool_have_columns_where_they_differ_and_numbers_where_not() -> None:
    config, settings = worlds.conditions(drawn(1.0, 9))
    assert np.shape(config.startup) == np.shape(settings.startup) == np.shape(settings.max_replicas) == (9,)
    assert np.ndim(config.slo_wait) == np.ndim(settings.capacity_per_replica) == 0
    for row, world in enumerate(drawn(1.0, 9)):
        assert config.capacity_per_replica[row] == world.config.capacity_per_replica
        assert settings.lag[row] == world.settings.lag


# --- ranges in a file


def test_ranges_come_from_a_file_and_the_rest_by_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"startup": [10, 20], "worlds": 3}))
    assert worlds.read(path) == replace(Ranges(), startup=(10.0, 20.0), worlds=3)
    again = hyper.read(Ranges, None, json.loads(json.dumps(asdict(Ranges()))))
    assert again == Ranges(), "a run's folder keeps them as JSON"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"start-up": [1, 2]}, "no setting is called 'start-up'; expected one of replicas, fano"),
        ({"startup": [1]}, "startup is [1.0]; expected two numbers, the lower one first"),
        ({"startup": [30, 20]}, "startup is [30.0, 20.0]; expected two numbers"),
        ({"capacity_error": [0, 1]}, "capacity_error is 0; expected a number from 0.1 to 10"),
        ({"fano": 3}, "fano is 3; expected numbers"),
        ({"worlds": 0}, "worlds is 0; expected a whole number from 1"),
    ],
)
def test_a_range_that_no_world_can_have_is_named_with_its_file(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as found:
        worlds.read(path)
    assert str(found.value).startswith(f"{path}: {message}")


# --- pools


@pytest.fixture(scope="module")
def pools() -> loads.Pools:
    return loads.pools(("spike", "random-walk"), None, 1.0, 3, SMALL)


def test_the_standard_worlds_are_where_training_begins(pools: loads.Pools) -> None:
    """They are those of a training in the standard world alone, to the bit, and validation is too."""
    plain = loads.pools(("spike", "random-walk"), None, 1.0, 3)
    count = plain.train.loads
    assert pools.train.levels[:count].tolist() == [0.0] * count
    assert pools.train.levels[count:] == pytest.approx([((k + 1) / 6) ** 0.5 for k in range(6)])
    np.testing.assert_array_equal(pools.train.rates[:count], plain.train.rates)
    np.testing.assert_array_equal(pools.train.seen[:count], plain.train.seen)
    for name, array in plain.train.features.items():
        np.testing.assert_array_equal(pools.train.features[name][:count], array, err_msg=name)
        np.testing.assert_array_equal(pools.validation.features[name], plain.validation.features[name])
    assert (pools.config, pools.settings, plain.elsewhere) == (plain.config, plain.settings, None)


def test_a_variant_is_trained_and_validated_in() -> None:
    """Each scenario in its own world; what is the same in all stays a number."""
    found = loads.pools(("spike/crashes", "spike/laggy-metrics"), None, 1.0, 0)
    for pool, draws in ((found.train, 2), (found.validation, 1)):
        assert np.repeat([0.1, 0.0], draws).tolist() == list(pool.config.crash_rate)
        assert np.repeat([15.0, 60.0], draws).tolist() == list(pool.config.lag) == list(pool.settings.lag)
        assert pool.config.startup == 60.0
    assert (found.elsewhere, found.told) == (None, ())


def test_the_worlds_that_are_validated_in_do_not_go_by_the_seed(pools: loads.Pools) -> None:
    other = loads.pools(("spike", "random-walk"), None, 1.0, 4, SMALL)
    assert pools.elsewhere is not None
    assert other.elsewhere is not None
    assert set(pools.elsewhere.levels.tolist()) == {1.0}
    np.testing.assert_array_equal(pools.elsewhere.rates, other.elsewhere.rates)
    np.testing.assert_array_equal(pools.elsewhere.config.startup, other.elsewhere.config.startup)
    assert not np.array_equal(pools.train.config.startup[4:], other.train.config.startup[4:])


def test_progress_opens_worlds_for_those_that_draw_them(pools: loads.Pools) -> None:
    batch, twin, judge = loads.batches(pools, "headroom", 64, 30, 0)
    met = []
    for share in (0.0, 0.3, 0.6, 1.0):
        loads.progressed(share, batch, twin, None)
        batch.reset(1)
        twin.reset(1)
        np.testing.assert_array_equal(batch.load, twin.load, err_msg="the twin meets the same worlds")
        met.append(int(batch.load.max()))
    assert met[0] == 3, "at first those of level 0 alone"
    assert met[0] < met[1] < met[2] == met[3] == pools.train.loads - 1
    assert judge.progress == 1.0


def test_environments_of_a_checkpoint_go_on_in_their_worlds(pools: loads.Pools) -> None:
    """To the bit, over the ends of episodes."""
    one, other, _ = loads.batches(pools, "headroom", 24, 25, 0)
    rng = np.random.default_rng(0)
    actions = rng.integers(0, HEADROOM.branches[0], (70, 24))
    for action in actions[:35]:
        one.step(action)
    held = loads.kept(one)
    other.reset(99)
    loads.put_back(other, held)
    for action in actions[35:]:
        mine, theirs = one.step(action), other.step(action)
        np.testing.assert_array_equal(mine.observation, theirs.observation)
        np.testing.assert_array_equal(mine.reward, theirs.reward)
    assert isinstance(other, Batch)
    assert len(set(other.load.tolist())) > 3


# --- the split of recorded load


def recording(folder: Path, name: str) -> None:
    rng = np.random.default_rng(len(name))
    rows = (f"{60 * k},{count}" for k, count in enumerate(rng.poisson(600.0, 150)))
    (folder / f"{name}_60s.csv").write_text("\n".join(["timestamp,requests", *rows]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("shop", "mail", "news", "wiki", "nab_tweets_AAPL_2015", "nab_tweets_KO_2015"):
        recording(tmp_path, name)
    return tmp_path


def test_recorded_load_is_split_by_source(folder: Path) -> None:
    """No family is on both sides, and which are where is told."""
    split = splits.recorded(str(folder))
    sides = [{family(each.name) for each in side} for side in (split.train, split.validation)]
    assert not sides[0] & sides[1]
    assert split.told == (
        f"trains on {len(sides[0])} source families: {', '.join(sorted(sides[0]))}",
        f"validates on {len(sides[1])} others: {', '.join(sorted(sides[1]))}",
    )


def test_families_to_validate_on_can_be_chosen(folder: Path) -> None:
    tweets = family("nab_tweets_KO_2015_60s")
    split = splits.recorded(str(folder), (tweets, "mail"))
    assert {each.name for each in split.validation} == {
        "nab_tweets_AAPL_2015_60s", "nab_tweets_KO_2015_60s", "mail_60s"
    }, "a family is whole"  # fmt: skip
    assert {each.name for each in split.train} == {"shop_60s", "news_60s", "wiki_60s"}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (("shops",), "--validate shops: no source family of FOLDER; expected some of mail, "),
        (("mail", "news", "shop", "wiki", "FAMILY"), "--validate: names all 5 families of FOLDER; expected one left"),
    ],
)
def test_families_that_cannot_be_validated_on_are_named(folder: Path, chosen: tuple[str, ...], message: str) -> None:
    tweets = family("nab_tweets_KO_2015_60s")
    with pytest.raises(UserError) as found:
        splits.recorded(str(folder), tuple(each.replace("FAMILY", tweets) for each in chosen))
    assert str(found.value).startswith(message.replace("FOLDER", str(folder)))


def test_recorded_load_in_randomised_worlds_keeps_its_split(folder: Path) -> None:
    """Recorded load of the one side is never met on the other, however the world is drawn."""
    found = loads.pools((), str(folder), 1.0, 0, replace(SMALL, worlds=12), ("mail", "wiki"))
    recordings = {name for name in (*found.trained_on, *found.validated_on) if name.endswith("_60s")}
    assert set(found.validated_on) == {"mail_60s", "wiki_60s"}
    assert recordings - set(found.trained_on) == set(found.validated_on)
    assert {name for name in found.trained_on if not name.endswith("_60s")}, "and made-up load beside it"
    assert found.told[-1] == "worlds: 12 randomised ones beside 4 of level 0; all are open after 60% of the training"


# --- learners

TINY: dict[str, dict[str, Any]] = {
    "q_learning": {"steps": 60, "envs": 8, "episode": 20, "lookahead": 2, "evaluate_every": 30, "checkpoint_every": 20},
    "dqn": {"steps": 480, "envs": 8, "episode": 20, "evaluate_every": 240, "checkpoint_every": 160,
            "learning_starts": 80, "hidden": (8,)},
    "ppo_fast": {"steps": 640, "envs": 8, "horizon": 10, "episode": 20, "epochs": 1, "minibatches": 1, "hidden": (8,)},
    "bdq": {"steps": 480, "envs": 8, "episode": 20, "lookahead": 2, "warm_up": 80, "replay": 800, "batch": 16,
            "updates": 1, "evaluation": 20, "evaluate_every": 1, "checkpoint_every": 1},
    "evolve": {"generations": 4, "pairs": 2, "stretches": 4, "decisions": 20, "evaluate_every": 2},
}  # fmt: skip
STOPS = {"q_learning": 25, "dqn": 6, "ppo_fast": 5, "bdq": 1, "evolve": 2}
"""How often a learner asks in vain whether to stop."""


def learned(name: str, pools: loads.Pools, folder: Path, after: int | None = None) -> Any:
    """Train a learner, and go on where it was stopped after so many questions whether to stop."""
    module = import_module(f"rlscaler_training.{name}")
    known = {field: value for field, value in TINY[name].items() if field in module.Config.__dataclass_fields__}
    config = hyper.read(module.Config, None, known)

    def once(run: runs.Run, stop: Callable[[], bool]) -> Any:
        try:
            return module.learn(Task("net", pools, run, CPU, 3, {"seed": 3}, stop=stop), config)
        finally:
            run.close()

    begun = runs.begin(folder, name, config, {}, "cpu")
    if after is None:
        return once(begun, lambda: False)
    asked = iter(range(10**9))
    with pytest.raises(StoppedError):
        once(begun, lambda: next(asked) >= after)
    return once(runs.resume(folder), lambda: False)


@pytest.mark.parametrize("name", TINY)
def test_a_learner_meets_the_worlds_and_resumes_in_them(name: str, pools: loads.Pools, tmp_path: Path) -> None:
    """A resumed run equals an unbroken one to the bit, worlds and all; both validations are in its metrics."""
    torch.set_num_threads(1)
    whole, broken = (learned(name, pools, tmp_path / str(after), after) for after in (None, STOPS[name]))
    assert whole.artifact.digest == broken.artifact.digest
    lines = (tmp_path / "None" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "score" in row and "cost" in row]
    assert rows
    assert all(np.isfinite(row["score_randomised"]) for row in rows)
    assert rows[-1]["score_randomised"] != rows[-1]["score"]


def test_what_a_command_states_is_what_is_trained_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenario's world and the ranges' file reach the run's folder, the artifact and the report."""
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text(json.dumps({"worlds": 2, "startup": [20, 40]}))
    Path("shop.yaml").write_text("load: spike\nscale_to: 8\nworld:\n  lag: 30s\n")
    flags = ["--steps", "6", "--envs", "4", "--episode", "20", "--lookahead", "2", "--hours", "1", "--json"]
    done = CliRunner().invoke(train, ["q-learning", "--scenario", "shop.yaml", "--worlds", "mine.json", *flags])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert np.isfinite(told["scores"]["randomised_score"])
    assert np.isfinite(told["scores"]["randomised_untrained_score"])
    run = runs.opened(told["run"])
    assert run.arguments["worlds"]["startup"] == [20, 40]
    assert run.arguments["worlds"]["worlds"] == 2
    found = loads.pools(("shop.yaml",), None, 1.0, 0)
    assert (found.config.lag, found.settings.lag) == (30.0, 30.0)
    assert np.percentile(found.validation.rates, 95.0) == pytest.approx(80.0, rel=0.2), "8 replicas of 10 requests/s"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["q-learning", "--worlds", "random"], "--worlds random: expected standard, randomised, or a FILE.json"),
        (["q-learning", "--worlds", "none.json"], "none.json: no such file; expected a JSON object of settings"),
        (["q-learning", "--validate", "shop"], "--validate is given without --traces"),
        (["offline", "--worlds", "randomised", "--decisions", __file__], "--worlds randomised: offline learns from a"),
    ],
)
def test_worlds_that_cannot_be_trained_in_are_named(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(train, arguments)
    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith(message)
    assert not list(tmp_path.iterdir()), "nothing is left behind"
