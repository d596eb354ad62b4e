"""The older past: made beside what is lived through, and then taken over as if it had been known from the start."""

import numpy as np
import pytest

from rlscaler import Autoscaler, Settings
from rlscaler.history import RING
from rlscaler_operator.attic import Attic, Home
from rlscaler_operator.model import Key

INTERVAL, PHASE = 15.0, 4.25
BEGIN = 1.75e9 - 1.75e9 % INTERVAL + PHASE
TICKS, LIVED = 900, 240
"""Ticks of all that is known, and those of them that are lived through."""
KEYS = [Key("shop", name) for name in ("web", "api", "cron")]
SETTINGS = Settings(interval=INTERVAL, capacity_per_replica=50.0)
SHORT = 40


def known(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return times and loads (workloads, TICKS), with gaps."""
    loads = rng.uniform(20.0, 400.0, (len(KEYS), TICKS))
    loads[rng.random(loads.shape) < 0.05] = np.nan
    return np.tile(BEGIN + INTERVAL * np.arange(TICKS), (len(KEYS), 1)), loads


def scaler_of(settings: Settings = SETTINGS) -> Autoscaler:
    scaler = Autoscaler()
    scaler.add(KEYS, settings)
    return scaler


def attic_of(scaler: Autoscaler) -> Attic:
    def home(key: Key) -> Home | None:
        return (scaler, scaler.keys.index(key)) if key in scaler.keys else None

    return Attic(dict.fromkeys(KEYS, SETTINGS), home)


def assert_same_history(one: Autoscaler, other: Autoscaler, rows: list[int]) -> None:
    mine, theirs = (each.memory(rows, ("history",))["history"] for each in (one, other))
    for name, values in mine.items():
        np.testing.assert_array_equal(values, theirs[name], name)


@pytest.mark.parametrize("single", [False, True], ids=["as it was read", "in half the digits"])
def test_what_is_adopted_is_what_would_have_been_known_from_the_start(single: bool) -> None:
    """Nothing is lost where the older past ends and what was lived through begins, nor while the one is read."""
    times, loads = known(np.random.default_rng(1))
    whole, live = scaler_of(), scaler_of()
    rows = list(range(len(KEYS)))
    whole.fill(rows, times, loads)
    old = TICKS - LIVED
    live.fill(rows, times[:, old - 30 : TICKS - 20], loads[:, old - 30 : TICKS - 20])
    attic = attic_of(live)
    older = loads[:, :old].astype(np.float32) if single else loads[:, :old]
    attic.fill(KEYS, times[:, :old], older)
    assert attic.behind == LIVED - 20
    attic.live_through(100)
    assert attic.behind == LIVED - 120
    live.fill(rows, times[:, TICKS - 20 :], loads[:, TICKS - 20 :])  # the ticks go on meanwhile
    attic.adopt()
    assert attic.behind == 0
    assert_same_history(live, whole, rows)


def test_a_history_that_nothing_is_found_for_stays() -> None:
    times, loads = known(np.random.default_rng(2))
    live, before = scaler_of(), scaler_of()
    for scaler in (live, before):
        scaler.fill([0, 1, 2], times[:, -SHORT:], loads[:, -SHORT:])
    attic = attic_of(live)
    attic.fill(KEYS[:1], times[:1, :-SHORT], loads[:1, :-SHORT])
    attic.adopt()
    assert_same_history(live, before, [1, 2])
    assert live.known_seconds([0])[0] > live.known_seconds([1])[0]


def test_who_has_another_interval_by_now_or_went_is_left_alone() -> None:
    times, loads = known(np.random.default_rng(3))
    live = scaler_of()
    live.fill([0, 1, 2], times[:, -SHORT:], loads[:, -SHORT:])
    attic = attic_of(live)
    attic.fill(KEYS, times[:, :-SHORT], loads[:, :-SHORT])
    live.update([0], Settings(interval=30.0, capacity_per_replica=50.0))
    live.remove([1])
    before = live.known_seconds([0, 2])
    attic.adopt()
    after = live.known_seconds([0, 2])
    assert after[0] == before[0]
    assert after[1] > before[1]


def test_what_is_older_than_the_ring_is_unknown_and_not_the_newest_again() -> None:
    times, loads = known(np.random.default_rng(4))
    live = scaler_of()
    live.fill([0, 1, 2], times, np.nan_to_num(loads, nan=7.0))
    slots = live.slots([0])
    found, values = live.samples([0], slots - RING - 5, RING + 10)
    assert found[0, 0] == slots[0] - RING - 4
    assert np.isnan(values[0, :5]).all()
    assert np.isfinite(values[0, 5:-5]).all()
    assert np.isnan(values[0, -5:]).all()
    np.testing.assert_array_equal(values[0, 5:-5], np.nan_to_num(loads[0, -RING:], nan=7.0).astype(np.float32))
