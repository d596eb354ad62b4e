"""Variants of load keep what makes it load, and change what is an accident of one recording."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from rlscaler_sim.load import Load
from rlscaler_training import augment

TICK, PER, CAPACITY = 3.0, 5, 10.0
HOURS = 6


def load(name: str = "shop", seed: int = 0, hours: int = HOURS) -> Load:
    """Return a bursty load with a gap of ten minutes."""
    rng = np.random.default_rng(seed)
    ticks = hours * 1200
    rates = 150.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, ticks))) * (1.0 + 0.4 * np.sin(np.arange(ticks) / 500.0))
    known = np.ones(ticks, bool)
    known[1000:1200] = False
    return Load(name, TICK, rates.astype(np.float32), known, known.copy(), start=900.0)


def idle() -> Load:
    return replace(load(), rates=np.zeros(HOURS * 1200, np.float32))


VARIANTS: dict[str, Callable[[Load, np.random.Generator], Load]] = {
    "begun": lambda given, rng: augment.begun(given, 2000, rng, PER),
    "warped": lambda given, rng: augment.warped(given, rng, PER),
    "scaled": lambda given, rng: augment.scaled(given, rng, CAPACITY, 25.0),
    "noised": lambda given, rng: augment.noised(given, rng, PER),
    "mixed": lambda given, rng: augment.mixed(given, load("other", 5), rng),
    "variant": lambda given, rng: augment.variant(
        given, [load("other", 5)], 2400, rng, per=PER, capacity=CAPACITY, replicas=25.0
    ),
}


@pytest.mark.parametrize("given", [load(), idle(), load(hours=1)], ids=["bursty", "idle", "short"])
@pytest.mark.parametrize("made", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("seed", range(4))
def test_every_variant_is_load(made: Callable[[Load, np.random.Generator], Load], given: Load, seed: int) -> None:
    """Finite, not negative, in whole decisions, its marks as long as its rates; and what was given is left alone."""
    before = given.rates.copy()
    found = made(given, np.random.default_rng(seed))
    assert np.isfinite(found.rates).all()
    assert (found.rates >= 0.0).all()
    assert found.rates.dtype == np.float32
    assert len(found.rates) == len(found.known) == len(found.scored)
    assert len(found.rates) % PER == 0
    assert len(found.rates) >= PER
    np.testing.assert_array_equal(given.rates, before)


@pytest.mark.parametrize("made", VARIANTS.values(), ids=VARIANTS)
def test_a_variant_follows_from_its_generator(made: Callable[[Load, np.random.Generator], Load]) -> None:
    """Alike for alike generators, another for another."""
    first, again, other = (made(load(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.rates, again.rates)
    assert len(first.rates) != len(other.rates) or not np.array_equal(first.rates, other.rates)


def test_a_window_begins_elsewhere_on_a_decision_and_keeps_its_time() -> None:
    """The rates are those of the load at that moment."""
    whole = load()
    found = augment.begun(whole, 1000, np.random.default_rng(3), PER)
    first = round((found.start - whole.start) / TICK)
    assert first % PER == 0
    assert first > 0
    np.testing.assert_array_equal(found.rates, whole.rates[first : first + 1000])
    np.testing.assert_array_equal(found.known, whole.known[first : first + 1000])


def test_a_warped_load_runs_at_another_speed_and_keeps_its_levels() -> None:
    """The same values in the same order, a gap still a gap."""
    whole = replace(load(), rates=np.linspace(1.0, 100.0, HOURS * 1200, dtype=np.float32))
    found = augment.warped(whole, np.random.default_rng(0), PER)
    assert len(found.rates) != len(whole.rates)
    assert (np.diff(found.rates) >= 0.0).all()
    assert found.rates[0] == pytest.approx(1.0, abs=0.2)
    assert found.rates[-1] == pytest.approx(100.0, abs=0.5)
    assert found.known.mean() == pytest.approx(whole.known.mean(), abs=0.05)


def test_a_scaled_load_has_the_size_of_its_range_and_other_contrast() -> None:
    """The 95th percentile of its demand is within SIZES; the order of its moments stays."""
    whole = load()
    found = augment.scaled(whole, np.random.default_rng(2), CAPACITY, 25.0)
    size = np.percentile(found.rates[found.known], 95.0) / CAPACITY
    assert 25.0 * augment.SIZES[0] <= size <= 25.0 * augment.SIZES[1]
    np.testing.assert_array_equal(
        np.argsort(found.rates, kind="stable")[::300], np.argsort(whole.rates, kind="stable")[::300]
    )
    contrast = np.std(np.log(found.rates)) / np.std(np.log(whole.rates))
    assert augment.CONTRASTS[0] <= contrast <= augment.CONTRASTS[1]
    assert contrast != pytest.approx(1.0, abs=1e-3)


def test_noise_has_mean_one_and_holds_for_a_decision() -> None:
    """So that the level is that of the load."""
    steady = replace(load(hours=200), rates=np.full(200 * 1200, 100.0, np.float32), known=np.ones(240_000, bool))
    found = augment.noised(steady, np.random.default_rng(1), PER)
    by_decision = found.rates.reshape(-1, PER)
    assert (by_decision == by_decision[:, :1]).all()
    assert found.rates.mean() == pytest.approx(100.0, rel=0.02)
    assert augment.SPREADS[0] * 0.8 <= np.std(np.log(found.rates)) <= augment.SPREADS[1] * 1.2


def test_a_mixture_has_the_size_of_the_first_and_both_gaps() -> None:
    """Over the shorter one's length."""
    other = load("other", 5, hours=2)
    other.known[:100] = False
    found = augment.mixed(load(), other, np.random.default_rng(0))
    assert len(found.rates) == len(other.rates)
    assert found.rates.mean() == pytest.approx(load().rates.mean(), rel=0.5)
    assert not found.known[:100].any()
    assert not found.known[1000:1200].any()
    assert found.name == "shop+other"
