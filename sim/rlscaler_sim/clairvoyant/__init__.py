"""The clairvoyant optimum: the best orders for a load that is known to the end, and a bound that none can beat.

Known are the rates that the ticks really have; Poisson's scatter within a tick stays unknown. The score is
J = billed / needed + price x late / arrivals over the scored steps. Every start-up takes the same time.

Orders come from two kinds of plan, each replayed in full by the world's own queue; the best is printed. `schedules`
takes every step by itself, which is exact where hardly any request may wait into the next step. `backlog` plans over
replicas and backlog together, for objectives under which requests may wait, and for loads with more work than replicas.

The bound is the higher one of two that are proven: with g_t(n) at most the late requests of step t with n ready,
whatever the queue holds (`late_bound`), the programme of `programme` has a value that bounds J from below, as it
charges ready replicas no more than their orders are billed; and nearly all of the work has to be paid (`work_bound`).
"""

from dataclasses import dataclass

import numpy as np

from rlscaler_sim.clairvoyant import backlog
from rlscaler_sim.clairvoyant.problem import Problem, Question, compiled
from rlscaler_sim.clairvoyant.schedules import empty_table, least_table, schedules
from rlscaler_sim.clairvoyant.work_bound import work_bound

__all__ = ["Plan", "Question", "lower_bound", "plan"]

SHORT = 0.06
"""Steps that requests may wait, up to which steps are planned one by one."""
LONG = 0.045
"""Steps that requests may wait, from which on backlog is planned."""
LOOSE = 1.25
"""J over its bound from which on backlog is planned too, however short the wait: there is more work than replicas."""
VACUOUS = 0.5
"""Steps that requests may wait, above which a step that can start with any queue tells nothing about its late ones."""
_SLACK = 1e-5
"""Takes rounding off the bound."""


@dataclass(frozen=True, slots=True)
class Plan:
    """orders: (L, T) int32 replicas to ask for. lower_bound: (L,) float64, J of no orders is below it.

    candidates: the schedules that `orders` are chosen from, each (L, T) int32. scores: (candidates, L) their J,
    infinite where a schedule was not made for a load.
    """

    orders: np.ndarray
    lower_bound: np.ndarray
    candidates: tuple[np.ndarray, ...]
    scores: np.ndarray


def plan(asked: Question, *, bounded: bool = True) -> Plan:
    """Return the best orders found for the loads, and the bound; a rough one where it need not be `bounded`.

    Takes O(L T N) time and memory, N about 1.25 times the largest demand in replicas. Raises ValueError where shapes
    do not fit, and for bounds without room.
    """
    problem = compiled(asked)
    wait = problem.patience
    everyone = np.arange(problem.loads)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    loads = everyone[wait <= SHORT]
    empty = None
    if loads.size:
        part = problem.only(loads)
        empty = empty_table(part)
        found += [(loads, *one) for one in schedules(part, empty)]
    best = np.full(problem.loads, np.inf)
    for loads, _, score in found:
        best[loads] = np.minimum(best[loads], score)
    bound = _rough_bound(problem)
    unsure = everyone[best > LOOSE * bound]  # others are not above the bound either, which is no lower
    if bounded:
        bound = _bound(problem, empty)
    elif unsure.size:
        bound[unsure] = _bound(problem.only(unsure))
    for load in everyone[(wait > LONG) | (best > LOOSE * bound)]:
        alone = np.array([load])
        found += [(alone, *one) for one in backlog.schedules(problem.only(alone))]

    scores = np.full((len(found), problem.loads), np.inf)
    candidates = np.zeros((len(found), problem.loads, problem.steps), np.int32)
    for index, (loads, orders, score) in enumerate(found):
        scores[index, loads] = score
        candidates[index, loads] = orders
    return Plan(
        orders=candidates[scores.argmin(axis=0), everyone],
        lower_bound=bound,
        candidates=tuple(candidates),
        scores=scores,
    )


def lower_bound(asked: Question) -> np.ndarray:
    """Return the bound of `plan` alone, (L,) float64."""
    return _bound(compiled(asked))


def _bound(problem: Problem, empty: np.ndarray | None = None) -> np.ndarray:
    """Return the bound (L,). empty: of `empty_table`, of the loads that wait SHORT, where it is there already."""
    wait, everyone = problem.patience, np.arange(problem.loads)
    bound = _rough_bound(problem)
    for loads, known in ((everyone[(wait > SHORT) & (wait <= VACUOUS)], None), (everyone[wait <= SHORT], empty)):
        if loads.size:
            part = problem.only(loads)
            least = part.programme.value(least_table(part, known)) * part.unit * (1.0 - _SLACK)
            bound[loads] = np.maximum(bound[loads], least)
    return bound


def _rough_bound(problem: Problem) -> np.ndarray:
    """Return what the bound (L,) is at least, for next to no time."""
    rough: np.ndarray = np.maximum(work_bound(problem), _idle_bound(problem)) * (1.0 - _SLACK)
    return rough


def _idle_bound(problem: Problem) -> np.ndarray:
    """Return J (L,) of the fewest replicas that may be ordered, with no request late."""
    programme = problem.programme
    fewest: np.ndarray = programme.low * programme.weight.sum(axis=1) * problem.unit
    return fewest
