"""A batch whose environments have worlds of their own: each goes on as if it were alone in its world, to the bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlscaler import Objective, Settings
from rlscaler.action import HEADROOM, SCHEMES, Scheme
from rlscaler_sim import batch as batches
from rlscaler_sim import patterns, world
from rlscaler_sim.batch import Batch
from rlscaler_sim.chance import NumpyChance
from rlscaler_sim.load import Load, realise
from rlscaler_sim.pool import Pool, prepare, settings_of
from rlscaler_sim.world import WorldConfig

SOURCES = ("sinusoidal", "spike", "random-walk", "on-off", "poisson")
COUNT, ROWS, EPISODE, STEPS = len(SOURCES), 12, 40, 100
CONFIG = WorldConfig(
    capacity_per_replica=np.array([10.0, 8.0, 14.0, 7.0, 10.0]),
    startup=np.array([60.0, 5.0, 300.0, 30.0, 600.0]),
    startup_spread=np.array([0.0, 0.3, 0.0, 0.5, 0.2]),
    startup_jitter=np.array([0.0, 0.0, 0.3, 0.1, 0.0]),
    lag=np.array([15.0, 5.0, 60.0, 30.0, 120.0]),
    window=np.array([15.0, 60.0, 15.0, 30.0, 60.0]),
    fano=np.array([2.0, 1.0, 4.0, 8.0, 1.5]),
    crash_rate=np.array([0.0, 2.0, 0.0, 1.0, 0.0]),
    gap_rate=np.array([0.0, 0.0, 4.0, 2.0, 0.0]),
    gap_duration=np.array([60.0, 60.0, 120.0, 30.0, 60.0]),
)
"""Five worlds that have hardly a constant in common."""
SETTINGS = Settings(
    capacity_per_replica=10.0,
    startup=CONFIG.startup,
    lag=CONFIG.lag,
    min_replicas=np.array([1, 2, 1, 5, 1]),
    max_replicas=np.array([100, 30, 200, 20, 400]),
    objective=Objective(target=np.array([99.9, 99.0, 99.95, 99.9, 99.5])),
)


def drawn() -> list[Load]:
    scales = (25.0, 8.0, 60.0, 12.0, 200.0)
    return [
        realise(patterns.parse(name), duration=3600.0, scale_to=scale, rng=np.random.default_rng(place))
        for place, (name, scale) in enumerate(zip(SOURCES, scales, strict=True))
    ]


def config_of(order: Any) -> WorldConfig:
    """Return the worlds of these loads; of one, as scalars."""
    told = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}
    return WorldConfig(**{name: value[order] if np.ndim(value) else value for name, value in told.items()})


def one_world(place: int) -> WorldConfig:
    """Return the world of one load, as scalars."""
    return config_of(place)


def one_settings(place: int) -> Settings:
    """Return the settings of one load, as scalars."""
    found = settings_of(SETTINGS, np.array([place]))
    parts = {name: getattr(found, name) for name in ("startup", "lag", "min_replicas", "max_replicas")}
    scalars = {name: value.item() for name, value in parts.items()}
    return replace(found, **scalars, objective=Objective(target=found.objective.target.item()))


def one_pool(pool: Pool, place: int) -> Pool:
    """Return a pool of one of the loads."""
    rows = slice(place, place + 1)
    return Pool(
        rates=pool.rates[rows], seen=pool.seen[rows], features={k: v[rows] for k, v in pool.features.items()},
        start=pool.start[rows], mean_needed=pool.mean_needed[rows], mean_arrivals=pool.mean_arrivals[rows],
        interval=pool.interval, config=one_world(place), settings=one_settings(place), levels=pool.levels[rows],
    )  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Pool:
    return prepare(drawn(), CONFIG, SETTINGS, 3)


@pytest.mark.parametrize("place", range(COUNT))
def test_a_load_is_measured_as_it_is_alone(pool: Pool, place: int) -> None:
    """What arrives, what is read and what is told of it, whatever else is in the pool."""
    order = [place, *(k for k in range(COUNT) if k != place)]  # its draws go by its number in the pool
    together = prepare([drawn()[k] for k in order], config_of(order), settings_of(SETTINGS, np.array(order)), 3)
    alone = prepare([drawn()[place]], one_world(place), one_settings(place), 3)
    for name in ("rates", "seen", "mean_needed", "mean_arrivals"):
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[0], err_msg=name)
    for name, array in alone.features.items():
        np.testing.assert_array_equal(array[0], together.features[name][0], err_msg=name)


class Recorded(NumpyChance):
    """Random numbers that are written down."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.began: list[tuple[str, Any]] = []
        self.steps: list[Any] = []

    def integers(self, low: int, high: int, size: int) -> Any:
        self.began.append(("integers", super().integers(low, high, size)))
        return self.began[-1][1].copy()

    def uniform(self, low: float, high: float, size: int) -> Any:
        self.began.append(("uniform", super().uniform(low, high, size)))
        return self.began[-1][1].copy()

    def draws(self, params: world.Params) -> Any:
        self.steps.append(super().draws(params))
        return {name: array.copy() for name, array in self.steps[-1].items()}


class Handed(NumpyChance):
    """What one environment of a batch drew, whose episodes all begin at once; its load is the only one."""

    def __init__(self, told: Recorded, row: int) -> None:
        self.began, self.steps = iter(told.began), iter(told.steps)
        self.row, self.number = row, 0

    def integers(self, low: int, high: int, size: int) -> Any:
        found = next(self.began)[1][self.row : self.row + 1]
        self.number += 1
        return np.zeros_like(found) if self.number % 2 else found.copy()

    def uniform(self, low: float, high: float, size: int) -> Any:
        return next(self.began)[1][self.row : self.row + 1].copy()

    def draws(self, params: world.Params) -> Any:
        drawn = next(self.steps)
        return {name: drawn[name][..., self.row : self.row + 1].copy() for name in world.draw_kinds(params)}


def test_an_environment_in_a_mixed_batch_is_the_same_alone(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Observations, masks, rewards and decisions, to the bit, over episodes that go from one world to another."""
    made: list[Recorded] = []

    def recorded(seed: int) -> Recorded:
        made.append(Recorded(seed))
        return made[-1]

    monkeypatch.setattr(batches, "NumpyChance", recorded)
    together = Batch(pool, CONFIG, SETTINGS, HEADROOM, ROWS, EPISODE, seed=5)
    actions = np.random.default_rng(1).integers(0, HEADROOM.branches[0], (STEPS, ROWS))
    observed, masks, loads, steps = [together._look()], [together.mask()], [together.load.copy()], []
    for action in actions:
        steps.append(together.step(action))
        masks.append(together.mask())
        loads.append(together.load.copy())
    assert {*np.concatenate(loads).tolist()} == set(range(COUNT)), "every world is met"
    assert sum(bool(step.truncated.all()) for step in steps) == STEPS // EPISODE
    told = made[-1]
    for row in range(ROWS):
        begin = 0
        while begin < STEPS:
            place = int(loads[begin][row])
            end = min(STEPS, begin + EPISODE)
            alone = one_alone(pool, place, told, row, begin // EPISODE, monkeypatch)
            if not begin:
                np.testing.assert_array_equal(alone._look()[0], observed[0][row])
            for at in range(begin, end):
                np.testing.assert_array_equal(alone.mask()[0], masks[at][row], err_msg=f"mask of row {row} at {at}")
                mine, theirs = alone.step(actions[at, row : row + 1]), steps[at]
                for name in ("last", "reward", "cost", "late", "replicas", "truncated"):
                    one, other = getattr(mine, name)[0], getattr(theirs, name)[row]
                    np.testing.assert_array_equal(one, other, err_msg=f"{name} of row {row}, load {place}, step {at}")
            begin = end


def one_alone(pool: Pool, place: int, told: Recorded, row: int, episode: int, monkeypatch: pytest.MonkeyPatch) -> Batch:
    """Return one environment in the world of one load, at the beginning of what `row` met in that episode."""
    part = Recorded(0)
    part.began = told.began[3 * episode :]
    part.steps = told.steps[EPISODE * episode :]
    monkeypatch.setattr(batches, "NumpyChance", lambda seed: Handed(part, row))
    return Batch(one_pool(pool, place), one_world(place), one_settings(place), HEADROOM, 1, EPISODE, seed=5)


def test_the_mask_of_an_ended_episode_is_of_its_own_world(pool: Pool) -> None:
    """The last view keeps the bounds of the world that the episode was in, not those of the next."""
    together = Batch(pool, CONFIG, SETTINGS, HEADROOM, 64, EPISODE, seed=9)
    rng = np.random.default_rng(2)
    for _ in range(EPISODE - 1):
        together.step(rng.integers(0, 11, 64))
    before = together.load.copy()
    done = together.step(rng.integers(0, 11, 64))
    assert done.truncated.all()
    assert (together.load != before).any()
    np.testing.assert_array_equal(together.last_view.settings["max_replicas"], SETTINGS.max_replicas[before])
    np.testing.assert_array_equal(together.view.settings["max_replicas"], SETTINGS.max_replicas[together.load])


@pytest.mark.parametrize("of", SCHEMES.values(), ids=SCHEMES)
def test_twins_are_a_batch_of_their_own_that_takes_one_choice(pool: Pool, of: Scheme) -> None:
    """And who has twins goes on as one who has none: of what they do, only what they earn is seen."""
    always = [choices - 1 for choices in of.branches]
    with_twins = Batch(pool, CONFIG, SETTINGS, of, ROWS, EPISODE, seed=9, twin=always)
    alone, other = (Batch(pool, CONFIG, SETTINGS, of, ROWS, EPISODE, seed=9) for _ in range(2))
    np.testing.assert_array_equal(with_twins.reset(4), alone.reset(4))
    other.reset(4)
    rng = np.random.default_rng(2)
    for _ in range(STEPS):
        np.testing.assert_array_equal(with_twins.mask(), alone.mask())
        actions = rng.integers(0, of.branches, (ROWS, len(of.branches)))
        theirs = np.broadcast_to(always, actions.shape)
        if len(of.branches) == 1:
            actions, theirs = actions[:, 0], theirs[:, 0]
        done, expected = with_twins.step(actions), alone.step(actions)
        np.testing.assert_array_equal(done.twin, other.step(theirs).reward)
        for name in ("observation", "last", "reward", "truncated", "cost", "late", "replicas"):
            np.testing.assert_array_equal(getattr(done, name), getattr(expected, name), err_msg=name)
        assert expected.twin is None


def test_loads_open_in_the_order_of_their_levels() -> None:
    """What is above the level that the progress has reached is met by nobody; from `rise` on everything is."""
    pool = prepare(drawn(), CONFIG, SETTINGS, 3, levels=[0.0, 0.0, 0.4, 0.8, 1.0], rise=0.5)
    assert [pool.opened(p) for p in (0.0, 0.1, 0.2, 0.39, 0.4, 0.5, 0.9, 1.0)] == [2, 2, 3, 3, 4, 5, 5, 5]
    environments = Batch(pool, CONFIG, SETTINGS, HEADROOM, 64, 10, seed=0)
    assert set(environments.load.tolist()) == set(range(COUNT)), "all are open where nobody says how far it is"
    environments.progress = 0.25
    environments.reset(0)
    assert set(environments.load.tolist()) == {0, 1, 2}
    environments.progress = 0.45
    for _ in range(10):
        environments.step(np.full(64, 5))
    assert set(environments.load.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("levels", [[0.0, 0.5], [0.0, 0.5, 0.4, 0.8, 1.0]])
def test_levels_that_do_not_ascend_are_refused(levels: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 5, ascending"):
        prepare(drawn(), CONFIG, SETTINGS, 3, levels=levels)
