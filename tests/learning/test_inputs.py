"""What networks read: nothing that leaves its training range because a workload grows older."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from rlscaler.action import HEADROOM
from rlscaler.observation import LOAD_FIELDS, NAMES
from rlscaler_sim.batch import Batch
from rlscaler_sim.pool import WARM_UP
from rlscaler_training import inputs, loads
from rlscaler_training.export import MARGIN, training_range

HOURS = {8.0: False, 47.9: False, 48.0: True, 24.0 * 14: True}
"""Hours of load, and whether they show what a day is like."""


@lru_cache(maxsize=1)
def drawn() -> loads.Pools:
    return loads.pools(("spike",), None, 1.5, 0)


@pytest.mark.parametrize(("hours", "daily"), HOURS.items())
def test_what_a_day_shows_is_learned_of_two_days(hours: float, daily: bool) -> None:
    found = inputs.learnable(3600.0 * hours)
    assert "experience" not in found
    assert {name in found for name in inputs.DAILY} == {daily}
    assert ("lastweek" in found) is (hours >= 24.0 * 14)
    assert found == tuple(name for name in NAMES if name in found), "in the order of the schema"
    assert set(NAMES) - set(found) <= {*inputs.AGING, *inputs.DAILY, *inputs.WEEKLY}


def test_the_training_range_is_that_of_the_whole_load() -> None:
    """However little of it was drawn; of the state it is what was met."""
    pool = drawn().train
    observed, known = pool.observed(), np.isfinite(pool.features["level"])
    some = np.zeros((3, len(NAMES)), np.float32)
    some[:, : len(LOAD_FIELDS)] = observed[0, 100:103]
    found = training_range(inputs.with_extremes(some, pool), NAMES)
    for column, name in enumerate(NAMES[: len(LOAD_FIELDS)]):
        low, high = found[name]
        values = observed[..., column][known]
        assert low <= values.min()
        assert high >= values.max()
    low, high = found["size"]
    assert low <= np.log(np.nanmin(pool.features["level"]) + 0.5)
    assert high >= np.log(np.nanmax(pool.features["level"]) + 0.5)
    assert found["starting"][1] == pytest.approx(1e-3, rel=1e-3)


def test_a_policy_may_decide_in_every_world_that_it_was_trained_or_shown_good_in() -> None:
    """Whichever of them were met: by what is told of them, and by their load; and a stated margin further."""
    pools = drawn()
    spread = replace(pools.train, settings=replace(pools.train.settings, startup=np.array([5.0, 600.0])))
    least, most = (np.log(startup + spread.settings.lag + spread.interval) for startup in (5.0, 600.0))
    one = np.zeros((1, len(NAMES)), np.float32)
    one[0, NAMES.index("reaction")] = 0.5 * (least + most)
    found = training_range(inputs.with_extremes(one, spread), NAMES)["reaction"]
    wider = MARGIN * (most - least)
    assert found == pytest.approx([least - wider, most + wider], abs=2e-3)
    both = inputs.with_extremes(one, *pools.known)
    assert len(both) == 1 + 2 * len(pools.known)
    for pool in (pools.train, pools.validation):
        observed = pool.observed()[np.isfinite(pool.features["level"])]
        assert (both[:, : len(LOAD_FIELDS)].max(axis=0) >= observed.max(axis=0)).all()
        assert (both[:, : len(LOAD_FIELDS)].min(axis=0) <= observed.min(axis=0)).all()


@pytest.mark.parametrize("like", [None, torch.zeros(1)], ids=["numpy", "torch"])
def test_some_episodes_start_cold(like: torch.Tensor | None) -> None:
    """A tenth of them within the first hour, none before the load is known; in validation none at all."""
    pools = drawn()
    assert pools.train.cold == loads.COLD
    train, judge = (
        Batch(pool, pool.config, pool.settings, HEADROOM, 1500, 30, 3, like) for pool in (pools.train, pools.validation)
    )
    at, load = np.asarray(train.at), np.asarray(train.load)
    first = min(WARM_UP, pools.train.steps // 4)
    assert np.mean(at < first) == pytest.approx(loads.COLD, abs=0.025)
    assert np.isfinite(pools.train.features["level"][load, at]).all()
    assert np.asarray(judge.at).min() >= first
