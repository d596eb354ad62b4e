"""What a past tells, held against simulated workloads whose truth is known: close, and with honest intervals."""

from dataclasses import replace

import numpy as np
import pytest

from known_workloads import EPOCH, Truth, simulated
from rlscaler import calibration, calibration_load
from rlscaler.profile import Estimate, Recording

INTERVAL = 15.0
Workloads = list[tuple[Truth, Recording]]


@pytest.fixture(scope="module")
def workloads() -> Workloads:
    """Return forty workloads of eight hours, no two alike."""
    return simulated(40, 8.0, seed=1)


def covers(found: Estimate, truth: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= truth <= found.high


def test_the_capacity_is_within_ten_per_cent_and_its_interval_honest(workloads: Workloads) -> None:
    found = [(truth.capacity, calibration.capacity_fit(past).estimate) for truth, past in workloads]
    known = [(truth, estimate) for truth, estimate in found if estimate.value is not None]
    off = np.array([abs((estimate.value or 0.0) / truth - 1.0) for truth, estimate in known])
    assert len(known) >= 0.95 * len(found)
    assert (off < 0.1).mean() >= 0.97, np.sort(off)[-5:]
    assert np.mean([covers(estimate, truth) for truth, estimate in known]) >= 0.9
    width = np.median([(estimate.high or 0.0) / (estimate.low or 1.0) - 1.0 for _, estimate in known])
    assert width < 0.15, "an interval that says nothing is honest too"


def test_the_start_up_is_within_a_reading_and_its_interval_honest(workloads: Workloads) -> None:
    found = [(truth.startup, calibration.startup_fit(past).estimate) for truth, past in workloads]
    known = [(truth, estimate) for truth, estimate in found if estimate.value is not None]
    off = np.array([abs((estimate.value or 0.0) - truth) for truth, estimate in known])
    allowed = np.array([max(0.1 * truth, INTERVAL) for truth, _ in known])
    assert len(known) >= 0.6 * len(found), "some have replicas that nobody changes"
    assert (off <= allowed).mean() >= 0.85
    assert np.mean([covers(estimate, truth) for truth, estimate in known]) >= 0.9


def test_noise_and_age_are_told_where_they_can_be(workloads: Workloads) -> None:
    noise, ages = [], []
    for truth, past in workloads[:16]:
        found = calibration_load.noise_fit(past, truth.window)
        if found.known:
            noise.append(covers(found, truth.fano))
        found = calibration_load.lag_fit(past)
        if found.known:
            ages.append(covers(found, 15.0 + 0.5 * truth.window - 0.5 * INTERVAL))
    assert len(ages) >= 3
    assert np.mean(ages) >= 0.8
    assert np.mean([*noise, True]) >= 0.8


def course(load: np.ndarray, **series: np.ndarray) -> Recording:
    """Return a recording; what is not named is unknown."""
    nothing = np.full(len(load), np.nan, np.float32)
    names = ("replicas", "ready", "utilization", "latency")
    columns = {name: np.asarray(series.get(name, nothing), np.float32) for name in names}
    return Recording(EPOCH, INTERVAL, np.asarray(load, np.float32), **columns)


HOURS = 240
WAVE = 300.0 * (1.0 + 0.4 * np.sin(np.arange(24 * HOURS) / 90.0))
TEN = np.full(24 * HOURS, 10.0)
LOW = np.where(np.arange(24 * HOURS) < 12 * HOURS, 1.0, 0.5)

UNKNOWN: dict[str, tuple[Recording, str]] = {
    "no utilization": (course(WAVE, ready=TEN), "utilization is not known"),
    "no replicas": (course(WAVE, utilization=WAVE / 600), "replicas is not known"),
    "percent": (course(WAVE, ready=TEN, utilization=WAVE / 6), "divide the query by 100"),
    "never used": (course(WAVE, ready=TEN, utilization=WAVE / 60_000), "8 % to 93 % use"),
    "seven requests a minute": (
        course(WAVE / 2500, ready=TEN, utilization=WAVE / 500),
        "of 50 requests or more in each three",
    ),
    "use of three requests": (course(WAVE, ready=TEN, utilization=WAVE / 167), "where it is one of their requests"),
    "a load that lies still": (course(TEN * 30, ready=TEN, utilization=TEN / 20), "hardly moved"),
    "use of another workload": (
        course(
            WAVE, ready=TEN, utilization=0.5 + 0.3 * np.random.default_rng(0).standard_normal(24 * HOURS).clip(-1, 1)
        ),
        "does not follow",
    ),
    "twenty minutes": (course(WAVE[:80], ready=TEN[:80], utilization=WAVE[:80] / 600), "30 minutes"),
    "readings that are too few": (
        replace(course(WAVE, ready=TEN, utilization=WAVE / 600), interval=300.0),
        "every 5m are too few",
    ),
}


@pytest.mark.parametrize(("past", "words"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_capacity_that_cannot_be_told_is_not(past: Recording, words: str) -> None:
    found = calibration.capacity_fit(past)
    assert found.estimate.value is None
    assert words in found.estimate.why
    assert found.idle is None


NOISY = 1.2 * WAVE * np.exp(0.1 * np.random.default_rng(2).standard_normal(24 * HOURS))


@pytest.mark.parametrize(("cap", "found"), [(0.6, 0.6), (0.8, 0.8), (0.9, 0.9), (1.0, None), (9.0, None)])
def test_a_utilization_that_its_source_caps_tells_the_same_capacity(cap: float, found: float | None) -> None:
    """At 80 % of use the capacity seemed to be 18 % higher; a cap above 93 % needs no care."""
    past = course(NOISY, ready=TEN, utilization=np.minimum(NOISY / 500.0, cap))
    assert calibration.cap(past) == (None if found is None else pytest.approx(found))
    estimate = calibration.capacity_fit(past).estimate
    assert estimate.value == pytest.approx(50.0, rel=0.01)
    assert covers(estimate, 50.0)


STEPS = np.where(np.arange(24 * HOURS) % 240 < 120, 100.0, 300.0)


@pytest.mark.parametrize("past", [
    pytest.param(course(STEPS, ready=TEN, utilization=STEPS / 500), id="steps"),
    pytest.param(course(NOISY, ready=TEN, utilization=(NOISY / 900).round(1)), id="rounded"),
    pytest.param(course(NOISY, ready=TEN, utilization=TEN / 20), id="no other"),
    pytest.param(course(NOISY, utilization=NOISY / 900), id="no replicas"),
    pytest.param(course(NOISY, ready=TEN), id="unknown"),
])  # fmt: skip
def test_what_is_highest_often_is_no_cap_by_that(past: Recording) -> None:
    assert calibration.cap(past) is None


@pytest.mark.parametrize("idle", [0.0, 0.15, 0.3, 0.4, 0.5])
def test_much_idle_work_hides_no_capacity(idle: float) -> None:
    """A JVM that does half of its work without a request told 14 % to 23 % too little, and was sure of it."""
    estimate = calibration.capacity_fit(course(WAVE, ready=TEN, utilization=idle + (1.0 - idle) * WAVE / 500)).estimate
    assert estimate.value == pytest.approx(50.0, rel=0.05)
    assert covers(estimate, 50.0)


def slow(seconds: float, sigma: float, seed: int) -> np.ndarray:
    """Return noise that stays alike for so long, of that standard deviation, beside `WAVE`."""
    kept, rng = np.exp(-INTERVAL / seconds), np.random.default_rng(seed)
    noise, level = np.zeros(len(WAVE)), 0.0
    for tick, new in enumerate(rng.standard_normal(len(WAVE))):
        noise[tick] = level = kept * level + np.sqrt(1.0 - kept**2) * sigma * new
    return noise


NIGHT = np.where(np.arange(24 * HOURS) % (6 * HOURS) < 2 * HOURS, 0.7, 1.0)
MOVED: dict[str, tuple[np.ndarray, float]] = {  # use, and what a replica serves as a rule
    "a mix that changes by the hour": (WAVE / 500 / NIGHT, 50.0),
    "a mix that changes slowly": (WAVE / 425 / (1.0 + 0.18 * np.sin(np.arange(24 * HOURS) / 900.0)), 42.5),
    "a neighbour for half an hour": (WAVE / 500 * np.exp(slow(1800.0, 0.1, 1)), 50.0),
    "a neighbour for hours": (WAVE / 500 * np.exp(slow(10_000.0, 0.1, 2)), 50.0),
    "a neighbour that adds": (WAVE / 600 + np.clip(0.1 + slow(3600.0, 0.1, 3), 0.0, 0.3), 60.0),
}


@pytest.mark.parametrize(("use", "truth"), MOVED.values(), ids=MOVED)
def test_what_the_load_does_not_explain_of_the_use_widens_the_interval(use: np.ndarray, truth: float) -> None:
    """Of noise that lasts, more of the same makes nothing surer; the interval was as narrow as if there were none."""
    found = calibration.capacity_fit(course(WAVE, ready=TEN, utilization=use.clip(0.0, 1.0)))
    assert covers(found.estimate, truth)
    assert found.drift >= calibration.DRIFTS


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.15])
def test_noise_that_does_not_last_is_no_drift(sigma: float) -> None:
    use = WAVE / 500 * np.exp(sigma * np.random.default_rng(4).standard_normal(24 * HOURS))
    found = calibration.capacity_fit(course(WAVE, ready=TEN, utilization=use))
    assert found.drift < 0.5 * calibration.DRIFTS
    assert covers(found.estimate, 50.0)


def test_a_deploy_in_the_middle_is_seen_and_the_newer_capacity_told() -> None:
    past = course(WAVE, ready=TEN, utilization=WAVE / 10 / (80.0 * LOW))
    found = calibration.capacity_fit(past)
    assert covers(found.estimate, 40.0)
    assert found.before == pytest.approx(80.0, rel=0.1)
    assert found.since is not None
    assert abs(found.since - (EPOCH + 12 * 3600.0)) <= 3 * 3600.0
    steady = calibration.capacity_fit(course(WAVE, ready=TEN, utilization=WAVE / 10 / 80.0))
    assert steady.since is None
    assert covers(steady.estimate, 80.0)


def test_replicas_asked_for_stand_in_for_ready_ones() -> None:
    past = course(WAVE, replicas=TEN, utilization=WAVE / 800.0)
    assert covers(calibration.capacity_fit(past).estimate, 80.0)
    assert calibration.startup_fit(past).estimate.why.startswith("the ready replicas are not known")


def test_a_start_up_needs_three_scale_ups() -> None:
    asked = np.repeat([5.0, 6.0, 5.0, 7.0], 60)
    ready = np.concatenate([[5.0] * 4, asked[:-4]])
    found = calibration.startup_fit(course(TEN[:240], replicas=asked, ready=ready)).estimate
    assert found.value is None
    assert "two were seen" in found.why
    asked = np.repeat([5.0, 6.0, 5.0, 7.0, 6.0, 9.0, 4.0, 6.0], 60)
    ready = np.minimum(asked, np.concatenate([[5.0] * 4, asked[:-4]]))
    found = calibration.startup_fit(course(np.tile(TEN, 2)[:480], replicas=asked, ready=ready)).estimate
    assert covers(found, 60.0)
    assert found.value == pytest.approx(60.0, abs=INTERVAL)


def weeks(count: int, *, daily: float, weekly: float, scatter: float, seed: int = 0) -> tuple[Recording, float, float]:
    """Return a load of known seasons, quarter-hour by quarter-hour, and the shares that day and week explain."""
    rng = np.random.default_rng(seed)
    quarters = np.arange(count * 7 * 96)
    day = daily * np.sqrt(2.0) * np.sin(quarters * 2.0 * np.pi / 96)
    quiet = np.where(quarters // 96 % 7 >= 5, -1.0, 0.4) / np.sqrt(0.4)
    logs = day + weekly * quiet + scatter * rng.standard_normal(len(quarters))
    whole = daily**2 + weekly**2 + scatter**2
    past = course(1000.0 * np.exp(logs))
    return replace(past, interval=900.0), daily**2 / whole, weekly**2 / whole


@pytest.mark.parametrize(("daily", "weekly"), [(0.5, 0.0), (0.3, 0.3), (0.0, 0.0)])
def test_seasons_explain_what_they_explain(daily: float, weekly: float) -> None:
    found, days, week_share = [], 0.0, 0.0
    for seed in range(10):
        past, days, week_share = weeks(6, daily=daily, weekly=weekly, scatter=0.3, seed=seed)
        fit = calibration_load.season_fit(past)
        found.append((fit.day.value or 0.0, fit.week.value or 0.0))
    assert np.mean(found, axis=0) == pytest.approx((days, week_share), abs=0.06)


def test_a_short_past_has_no_seasons() -> None:
    fit = calibration_load.season_fit(course(WAVE))
    assert (fit.day.value, fit.week.value) == (None, None)
    assert "1 are there" in fit.day.why
    past, _, _ = weeks(1, daily=0.5, weekly=0.0, scatter=0.3)
    fit = calibration_load.season_fit(past)
    assert fit.day.known
    assert "three of each weekday" in fit.week.why


def test_a_load_that_hardly_changes_is_not_said_to_move() -> None:
    """Its noise is in all that is seen of it, but nothing tells it from movements that are as large at any load."""
    counts = np.random.default_rng(0).poisson(250.0 * INTERVAL, 2880)
    found = calibration_load.noise_fit(course(counts / INTERVAL))
    assert found.value is None
    assert "moves by 0 %" not in found.why
    assert "the load hardly changes" in found.why


def test_the_noise_of_no_load_is_unknown_for_want_of_load_and_not_for_gaps() -> None:
    found = calibration_load.noise_fit(course(0.0 * WAVE))
    assert found.value is None
    assert found.why == "240 readings in a row above 0 and without a gap tell it, and 0 are there"


def test_the_noise_of_counts_is_told() -> None:
    rng = np.random.default_rng(3)
    covered = []
    for fano in (1.0, 2.0, 4.0):
        for _ in range(6):
            counts = fano * rng.poisson(0.1 * WAVE * INTERVAL / fano)
            found = calibration_load.noise_fit(course(counts / INTERVAL))
            covered += [covers(found, fano)] if found.known else []
    assert len(covered) >= 12
    assert np.mean(covered) >= 0.9


def test_gaps_and_use_are_counted() -> None:
    load = WAVE[:720].copy()
    load[100:120] = np.nan
    load[300:301] = np.nan
    facts = calibration_load.load_facts(course(load))
    assert (facts.gaps, facts.longest_gap) == (2, 20 * INTERVAL)
    assert facts.coverage == pytest.approx(1.0 - 21 / 720)
    assert facts.peak == pytest.approx(np.nanmax(load), rel=1e-6)
    used = calibration_load.saturation(
        course(load, ready=TEN[:720], utilization=np.where(np.arange(720) < 40, 1.0, 0.5))
    )
    assert used.saturated == 40 * INTERVAL
    assert used.utilization == pytest.approx(1.0)
    assert used.load_per_replica == pytest.approx(np.nanmax(load) / 10, rel=0.01)


def test_percentages_are_no_use_of_a_thousand_percent() -> None:
    used = calibration_load.saturation(course(WAVE, ready=TEN, utilization=WAVE / 6))
    assert (used.utilization, used.saturated) == (None, None)
    assert used.load_per_replica == pytest.approx(WAVE.max() / 10, rel=0.01)
