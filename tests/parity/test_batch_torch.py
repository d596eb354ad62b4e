"""A batch of environments on torch tensors gives what one on NumPy gives: one source, two libraries."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlscaler import Settings
from rlscaler.action import BRANCHING, HEADROOM, STEP, Scheme
from rlscaler.behavior import DEFAULT
from rlscaler_sim import batch, world
from rlscaler_sim.batch import Batch
from rlscaler_sim.chance import NumpyChance, TorchChance
from rlscaler_sim.load import Load
from rlscaler_sim.pool import Pool, prepare
from rlscaler_sim.world import WorldConfig

torch = pytest.importorskip("torch", reason="torch is not installed")

N, EPISODE, STEPS = 24, 20, 50
CONFIG = WorldConfig(capacity_per_replica=10.0, crash_rate=2.0, startup_spread=0.2, drain=20.0)


class Handed(NumpyChance):
    """NumPy's random numbers as tensors, so that both libraries meet the same luck."""

    def __init__(self, seed: int, like: Any) -> None:
        super().__init__(seed)

    def integers(self, low: int, high: int, size: int) -> Any:
        return torch.from_numpy(super().integers(low, high, size))

    def uniform(self, low: float, high: float, size: int) -> Any:
        return torch.from_numpy(super().uniform(low, high, size))


def settings(behavior: Any) -> Settings:
    return Settings(capacity_per_replica=10.0, min_replicas=2, max_replicas=40, behavior=behavior)


WORLDS = replace(
    CONFIG,
    capacity_per_replica=np.array([10.0, 7.0, 14.0]),
    startup=np.array([60.0, 5.0, 240.0]),
    startup_spread=np.array([0.2, 0.0, 0.4]),
    lag=np.array([15.0, 5.0, 60.0]),
    window=np.array([15.0, 60.0, 30.0]),
    crash_rate=np.array([2.0, 0.0, 1.0]),
)
"""A world for each load."""


@pytest.fixture(
    scope="module",
    params=[(None, CONFIG), (DEFAULT, CONFIG), (DEFAULT, WORLDS)],
    ids=["no behavior", "default behavior", "worlds of their own"],
)
def pool(request: pytest.FixtureRequest) -> tuple[Pool, Settings]:
    rng = np.random.default_rng(4)
    behavior, config = request.param
    about = settings(behavior)
    if config is WORLDS:
        about = replace(about, startup=WORLDS.startup, lag=WORLDS.lag, max_replicas=np.array([40, 60, 20]))
    loads = []
    for k in range(3):
        rates = 80.0 * np.exp(np.cumsum(0.05 * rng.standard_normal(5 * 200)))
        known = rng.random(5 * 200) > 0.01
        loads.append(Load(f"walk {k}", 3.0, rates.astype(np.float32), known, known))
    return prepare(loads, config, about, 0), about


def pair(found: tuple[Pool, Settings], scheme: Scheme) -> tuple[Batch, Batch]:
    pool, about = found
    return (
        Batch(pool, pool.config, about, scheme, N, EPISODE, 3),
        Batch(pool, pool.config, about, scheme, N, EPISODE, 3, like=torch.zeros(1)),
    )


@pytest.mark.parametrize("scheme", [HEADROOM, STEP, BRANCHING], ids=lambda scheme: scheme.name)
def test_steps_agree(pool: Any, scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    """Observations, masks, rewards and decisions, over the ends of episodes too."""
    monkeypatch.setattr(batch, "TorchChance", Handed)
    ours, theirs = pair(pool, scheme)
    rng = np.random.default_rng(5)
    ended = 0
    for step in range(STEPS):
        actions = np.stack([rng.integers(0, count, N) for count in scheme.branches], axis=1)
        actions = actions if len(scheme.branches) > 1 else actions[:, 0]
        np.testing.assert_array_equal(theirs.mask().numpy(), ours.mask(), err_msg=f"mask at step {step}")
        one, other = ours.step(actions), theirs.step(torch.from_numpy(actions))
        for name in ("replicas", "truncated", "cost", "late", "reward", "last", "observation"):
            value = getattr(other, name)
            assert isinstance(value, torch.Tensor), f"{name} left torch"
            np.testing.assert_allclose(
                value.numpy(), getattr(one, name), rtol=2e-4, atol=2e-4, err_msg=f"{name} at step {step}"
            )
        ended += int(one.truncated.sum())
    assert ended >= 2 * N


def test_twins_meet_the_same_luck_on_a_device(pool: Any) -> None:
    """A whole number of vectors of environments, so that twice as many of them are rounded alike."""
    found, about = pool
    many, like = 64, torch.zeros(1)
    with_twins = Batch(found, found.config, about, HEADROOM, many, EPISODE, 3, like, twin=[4])
    alone, other = (Batch(found, found.config, about, HEADROOM, many, EPISODE, 3, like) for _ in range(2))
    generator = torch.Generator().manual_seed(5)
    for _ in range(EPISODE + 5):
        actions = torch.randint(0, 11, (many,), generator=generator)
        done, expected = with_twins.step(actions), alone.step(actions)
        torch.testing.assert_close(done.twin, other.step(torch.full((many,), 4)).reward)
        torch.testing.assert_close(done.reward, expected.reward)
        torch.testing.assert_close(done.observation, expected.observation)
        torch.testing.assert_close(with_twins.mask(), alone.mask())


def test_the_devices_own_luck_is_reproducible_and_of_the_same_kind(pool: Any) -> None:
    """The same seed gives the same episodes, another gives others, and the draws have the moments that NumPy's have."""
    found, about = pool
    runs = []
    for seed in (1, 1, 2):
        theirs = Batch(found, found.config, about, HEADROOM, N, EPISODE, seed, like=torch.zeros(1))
        runs.append(torch.stack([theirs.step(torch.full((N,), 5)).reward for _ in range(5)]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])

    params = world.compiled(CONFIG, 20_000, like=torch.zeros(1))
    drawn = TorchChance(1, torch.zeros(1)).draws(params)
    for name, (kind, shape) in world.draw_kinds(params).items():
        mean, deviation = (0.0, 1.0) if kind == "normal" else (0.5, 12**-0.5)
        assert drawn[name].shape == shape
        assert drawn[name].dtype == torch.float32
        assert abs(float(drawn[name].mean()) - mean) < 0.05
        assert abs(float(drawn[name].std()) - deviation) < 0.05
