"""Tabular Q-learning (Watkins & Dayan 1992, doi:10.1007/BF00992698), batched over many simulated workloads.

Read from top to bottom: the settings, the learner, the loop. The states are readable bins over a few fields of the
observation, the actions corrections of the cheapest headroom, so the untrained policy is already a rule and the table
says in which situations to deviate from it, and how far.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler.action import scheme
from rlscaler.artifact import Artifact
from rlscaler.observation import SCHEMA
from rlscaler.table import Bins
from rlscaler_sim.batch import Batch


@dataclass(frozen=True, slots=True)
class Config:
    """Hyper-parameters, each with the source of its default."""

    steps: int = 2000
    """Steps of every environment."""
    envs: int = 256
    """Workloads simulated at once; one update takes the mean over those in the same state with the same action."""
    gamma: float = 0.9
    """Discount per decision: an order serves after some five decisions (start-up and lag), 0.9^5 = 0.59."""
    lookahead: int = 6
    """Rewards summed before the table's own value takes over (n-step Q-learning, Watkins 1989 ch. 7): an order is paid
    for at once and serves some five decisions later, which the bins do not show."""
    rate: float = 0.5
    """First learning rate; it falls with the visits n of a state and action as rate / (1 + n / rate_visits)."""
    rate_visits: float = 200.0
    """Visits after which the learning rate has halved (Robbins & Monro 1951: the rates' sum must diverge)."""
    rate_floor: float = 0.0005
    """Lowest learning rate."""
    epsilon: float = 0.4
    """First share of explored decisions; under half, because orders last: one low order costs a whole start-up."""
    epsilon_end: float = 0.05
    """Last share of explored decisions."""
    epsilon_share: float = 0.6
    """Share of the steps over which epsilon falls, linearly (Mnih et al. 2015 use a linear fall too)."""
    repeat: int = 8
    """An explored action is repeated for this many decisions on average (temporally extended epsilon-greedy, Dabney,
    Ostrovski & Barreto 2021): single deviations say little where pods take several decisions to start."""
    double: bool = True
    """Two tables, each valued by the other's choice (van Hasselt 2010), against the bias of the maximum."""
    margins: tuple[float, ...] = (0.0, 0.03, 0.1, 0.2)
    """Advantages that an action must have over the middle one to be taken; the one that validates best is kept, so
    that noise in rarely seen states does not become policy."""
    evaluate_every: int = 250
    """Steps between evaluations of the greedy policy."""
    episode: int = 240
    """Decisions of an episode: one hour."""
    actions: str = "headroom"
    """Action scheme."""
    bins: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {
            "trend": (-0.04, 0.04),
            "noise_5m": (0.06, 0.15),
            "backlog": (0.05,),
            "size": (1.0, 2.2),
        }
    )
    """Cuts over fields of the observation, chosen to be read: calm or noisy, rising or falling, queue or none, size."""


@dataclass(slots=True)
class Progress:
    """What is told during training: steps of each environment done, epsilon, and the last greedy evaluation."""

    step: int
    epsilon: float
    score: float
    cost: float
    late: float
    best: float


@dataclass(slots=True)
class Result:
    """The table that scored best, and the evaluations on the way: (step, J, cost, price x late share)."""

    values: np.ndarray
    visits: np.ndarray
    bins: Bins
    curve: list[tuple[int, float, float, float]]
    score: float


def _ranked(values: np.ndarray) -> np.ndarray:
    """Return the values with ties broken towards the middle action."""
    actions = values.shape[1]
    ranked: np.ndarray = values - 1e-9 * np.abs(np.arange(actions) - (actions - 1) / 2)
    return ranked


def evaluate(batch: Batch, values: np.ndarray, bins: Bins, steps: int, seed: int) -> tuple[float, float, float]:
    """Return J, cost and price x late share of the greedy policy on the batch's own pool."""
    observation = batch.reset(seed)
    ranked = _ranked(values)
    cost = late = 0.0
    for _ in range(steps):
        allowed = np.where(batch.mask(), ranked[bins.index(np, observation)], -np.inf)
        done = batch.step(allowed.argmax(axis=1))
        observation = done.observation
        cost += float(done.cost.mean()) / steps
        late += float(done.late.mean()) / steps
    return cost + late, cost, late


def train(
    batch: Batch, twin: Batch, judge: Batch, config: Config, seed: int, report: Callable[[Progress], None] | None = None
) -> Result:
    """Learn on `batch`, judge on `judge` (a pool of other load), and return the table that was judged best.

    twin: environments like `batch`, that meet the same load at the same moments and always take the middle action.
    Load does not depend on actions, so what the twin earns is a baseline that takes away the load's luck and no
    action's merit (input-dependent baseline, Mao et al. 2019, arXiv 1807.02264): the table holds differences to it.
    Deterministic with the seed.
    """
    rng = np.random.default_rng(seed)
    bins = Bins(config.bins)
    actions = scheme(config.actions).branches[0]
    tables = [np.zeros((bins.states, actions)) for _ in range(2 if config.double else 1)]
    visits = np.zeros((bins.states, actions))
    curve: list[tuple[int, float, float, float]] = []
    best, best_score = tables[0].copy(), np.inf

    observation = batch.reset(seed)
    twin.reset(seed)
    middle = np.full(batch.n, actions // 2)
    state = bins.index(np, observation)
    mask = batch.mask()
    explored = np.full(batch.n, -1)
    past: deque[tuple[np.ndarray, np.ndarray, np.ndarray]] = deque()
    for step in range(config.steps + 1):
        epsilon = max(
            config.epsilon_end,
            config.epsilon + (config.epsilon_end - config.epsilon) * step / max(1, config.epsilon_share * config.steps),
        )
        if step % config.evaluate_every == 0 or step == config.steps:
            greedy: np.ndarray = np.sum(tables, axis=0) / len(tables)
            tried = []
            for margin in config.margins if step else (0.0,):
                held = greedy.copy()
                held[:, actions // 2] += margin
                tried.append((*evaluate(judge, held, bins, config.episode, seed + 1), held))
            score, cost, late, held = min(tried, key=lambda found: found[0])
            curve.append((step, score, cost, late))
            if score < best_score:
                best, best_score = held, score
        if report is not None:
            report(Progress(step, epsilon, *curve[-1][1:], best_score))
        if step == config.steps:
            break

        valued = np.where(mask, _ranked(np.sum(tables, axis=0))[state], -np.inf)
        random = np.where(mask, rng.random(mask.shape), -np.inf).argmax(axis=1)
        explored = np.where(rng.random(batch.n) < 1.0 / config.repeat, -1, explored)
        starts = (explored < 0) & (rng.random(batch.n) < epsilon / (config.repeat * (1.0 - epsilon) + epsilon))
        explored = np.where(starts, random, explored)
        possible = (explored >= 0) & mask[np.arange(batch.n), np.maximum(explored, 0)]
        action = np.where(possible, explored, valued.argmax(axis=1))
        done = batch.step(action)
        merit = done.reward - twin.step(middle).reward
        after = bins.index(np, done.last)
        following = batch.mask()

        past.append((state, action, merit))
        cut = bool(done.truncated.any())
        if len(past) == config.lookahead and not cut:  # what may be done after a cut is not known
            chosen = int(rng.integers(len(tables)))
            learns, judges = tables[chosen], tables[-1 - chosen]
            then = np.where(following, _ranked(learns)[after], -np.inf).argmax(axis=1)
            target = judges[after, then]
            for _, _, earned in reversed(past):
                target = earned + config.gamma * target
            began, took, _ = past.popleft()
            _learn(learns, visits, began * actions + took, target, config)
        if cut:
            past.clear()
        state, mask = bins.index(np, done.observation), following
    return Result(values=best, visits=visits, bins=bins, curve=curve, score=best_score)


def _learn(table: np.ndarray, visits: np.ndarray, cell: np.ndarray, target: np.ndarray, config: Config) -> None:
    """Move each visited cell (flat index, (N,)) towards the mean of its targets, in place."""
    count = np.bincount(cell, minlength=visits.size)
    total = np.bincount(cell, weights=target, minlength=visits.size)
    seen = count > 0
    flat, known = table.reshape(-1), visits.reshape(-1)
    rate = np.maximum(config.rate / (1.0 + known[seen] / config.rate_visits), config.rate_floor)
    rate = 1.0 - (1.0 - rate) ** count[seen]
    flat[seen] += rate * (total[seen] / count[seen] - flat[seen])
    known += count


def artifact(result: Result, config: Config, name: str, provenance: dict[str, Any]) -> Artifact:
    """Return the trained table as an artifact that the autoscaler serves."""
    manifest = {
        "name": name,
        "kind": "q-table",
        "observation_schema": SCHEMA,
        "action_scheme": config.actions,
        "fields": list(config.bins),
        "training_range": {},
        "parameters": {"bins": [[k, list(v)] for k, v in config.bins.items()]},
        "provenance": provenance,
        "scores": {
            "validation_score": result.score,
            "states_seen": int((result.visits.sum(axis=1) > 0).sum()),
        },
    }
    return Artifact(manifest=manifest, arrays={"values": result.values})
