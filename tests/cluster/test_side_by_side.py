"""The real HPA and rlscaler Active beside each other on a recorded burst, and what a dry-run predicted of both.

The prediction cannot know where between two scrapes the clocks of Prometheus, of the HPA controller and of the operator
meet, which decides when a rise is first seen, nor by how much this machine delays a pod that its scaler has asked for,
nor whether it misses a beat: at this speed one is a second. So unmet demand must lie between that of the luckiest
clocks and that of the unluckiest ones with a beat missed, on a machine as slow as it was; replica-seconds hardly depend
on either. How often a count changes is not held to anything: near the edge of a tolerance, a sample more or less
decides.
"""

import time
from typing import NamedTuple

import numpy as np
import pytest

from twin_burst import Burst, burst, recorded_or_made_up
from twin_figures import Figures, counted
from twin_play import Played, played
from twin_prediction import LATEST, MISSED, predicted
from twin_report import report
from twins import RLSCALER, Twin, twins

MINUTES, SPEED = 20.0, 15.0
COST, UNMET, PEAK = 0.1, 0.15, 0.25
"""Shares by which replica-seconds, unmet demand and the peak may be outside of what was predicted."""
NAMES = ("hpa", "hpa-tuned", "hpa-own", RLSCALER)

pytestmark = [pytest.mark.components("kubernetes", "kwok", "prometheus"), pytest.mark.timeout(420)]
each_twin = pytest.mark.parametrize("name", NAMES)


class Result(NamedTuple):
    """A play, and its prediction; worst: with the unluckiest clocks and a beat missed, on a machine as slow as this."""

    load: Burst
    contenders: list[Twin]
    predictions: list[dict[str, Figures]]
    worst: dict[str, Figures]
    played: Played


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    source, start = recorded_or_made_up()
    load, contenders = burst(source, start, MINUTES, SPEED), twins(source, start, MINUTES)
    began = time.time()
    predictions = predicted(load, contenders, began)
    found = played(load, contenders, tmp_path_factory.mktemp("twins"))
    late = max(0.0, found.startup[1] - load.startup)
    (worst,) = predicted(load, contenders, began, [LATEST + MISSED], late)
    return Result(load, contenders, predictions, worst, found)


def test_what_is_counted_is_what_happened() -> None:
    """One pod from before; another is created at 11.5 and ready at 13, and goes at 14.25; demand is 1, 1, 2, 2, 3."""
    pods, ready = [(4.0, 1), (11.5, 1), (14.25, -1)], [(8.0, 1), (13.0, 1), (14.25, -1)]
    orders = [(3.0, 5), (4.0, 1), (11.4, 2), (14.2, 1), (15.5, 9)]
    found = counted("web", orders, pods, ready, np.array([1.0, 1.0, 2.0, 2.0, 3.0]), 10.0, 1.0)
    assert found.replica_seconds == pytest.approx(5.0 + 2.75)
    assert found.unmet == pytest.approx(1.0 + 0.25 * 1.0 + 0.75 * 2.0)
    assert (found.rescales, found.peak) == (2, 2)


def test_the_table_shows_all_twins_measured_and_predicted(result: Result) -> None:
    text = report(result.load, result.played, result.predictions)
    print(text)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows[2:]] == list(NAMES)
    assert len({len(row) for row in rows}) == 1
    assert not any(cell in ("", "nan", "inf") for row in rows[2:] for cell in row)


@each_twin
def test_each_follows_the_burst_up_and_down(result: Result, name: str) -> None:
    orders = [count for at, count in result.played.log.orders[name] if at >= result.played.began]
    peak = max(orders)
    assert peak >= result.load.demand[result.load.counted :].max()
    assert min(orders[orders.index(peak) :]) <= 0.75 * peak
    assert orders[0] <= 0.5 * peak


@each_twin
def test_the_figures_are_those_of_a_scaler_that_works(result: Result, name: str) -> None:
    figures, needed = result.played.figures[name], result.load.needed
    assert needed < figures.replica_seconds < 4.0 * needed
    # nobody foresees the rise, so somebody must have waited for pods to start
    assert 0.0 < figures.unmet < 0.25 * needed
    assert figures.rescales >= 3


@each_twin
def test_the_dry_run_predicted_it(result: Result, name: str) -> None:
    real = result.played.figures[name]
    told = [*(prediction[name] for prediction in result.predictions), result.worst[name]]
    seconds, unmet = sorted(each.replica_seconds for each in told), sorted(each.unmet for each in told)
    assert (1.0 - COST) * seconds[0] <= real.replica_seconds <= (1.0 + COST) * seconds[-1]
    assert (1.0 - UNMET) * unmet[0] <= real.unmet <= (1.0 + UNMET) * unmet[-1]
    peaks = sorted(each.peak for each in told)
    assert (1.0 - PEAK) * peaks[0] <= real.peak <= (1.0 + PEAK) * peaks[-1]


def test_everyone_decided_as_often_as_asked(result: Result) -> None:
    """A scaler that sleeps while the other works would make the comparison worthless."""
    assert result.played.decisions == pytest.approx(result.load.interval, rel=0.25)
    assert result.played.syncs == pytest.approx(result.load.interval, rel=0.25)
