"""Tabular Q-learning (Watkins & Dayan 1992, doi:10.1007/BF00992698), batched over many simulated workloads.

Read from top to bottom: the settings, the learner, the loop. The states are readable bins over a few fields of the
observation, the actions corrections of the cheapest headroom, so the untrained policy is already a rule and the table
says in which situations to deviate from it, and how far.
"""

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

    steps: int = 1500
    """Steps of every environment."""
    envs: int = 256
    """Workloads simulated at once; one update takes the mean over those in the same state with the same action."""
    gamma: float = 0.9
    """Discount per decision: an order serves after some five decisions (start-up and lag), 0.9^5 = 0.59."""
    rate: float = 0.5
    """First learning rate; it falls with the visits n of a state and action as rate / (1 + n / rate_visits)."""
    rate_visits: float = 200.0
    """Visits after which the learning rate has halved (Robbins & Monro 1951: the rates' sum must diverge)."""
    rate_floor: float = 0.002
    """Lowest learning rate."""
    epsilon: float = 1.0
    """First share of random actions."""
    epsilon_end: float = 0.05
    """Last share of random actions."""
    epsilon_share: float = 0.6
    """Share of the steps over which epsilon falls, linearly (Mnih et al. 2015 use a linear fall too)."""
    double: bool = True
    """Two tables, each valued by the other's choice (van Hasselt 2010), against the bias of the maximum."""
    evaluate_every: int = 250
    """Steps between evaluations of the greedy policy."""
    episode: int = 240
    """Decisions of an episode: one hour."""
    actions: str = "headroom"
    """Action scheme."""
    bins: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {
            "trend": (-0.08, -0.02, 0.02, 0.08),
            "noise_5m": (0.06, 0.12, 0.25),
            "rel_latest": (-0.03, 0.03),
            "backlog": (0.05, 0.5),
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


def evaluate(batch: Batch, values: np.ndarray, bins: Bins, steps: int, seed: int) -> tuple[float, float, float]:
    """Return J, cost and price x late share of the greedy policy on the batch's own pool."""
    observation = batch.reset(seed)
    middle = (values.shape[1] - 1) / 2
    ranked = values - 1e-9 * np.abs(np.arange(values.shape[1]) - middle)
    cost = late = 0.0
    for _ in range(steps):
        allowed = np.where(batch.mask(), ranked[bins.index(np, observation)], -np.inf)
        done = batch.step(allowed.argmax(axis=1))
        observation = done.observation
        cost += float(done.cost.mean()) / steps
        late += float(done.late.mean()) / steps
    return cost + late, cost, late


def train(
    batch: Batch, judge: Batch, config: Config, seed: int, report: Callable[[Progress], None] | None = None
) -> Result:
    """Learn on `batch`, judge on `judge` (a pool of other load), and return the table that was judged best.

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
    state = bins.index(np, observation)
    mask = batch.mask()
    for step in range(config.steps + 1):
        epsilon = max(
            config.epsilon_end,
            config.epsilon + (config.epsilon_end - config.epsilon) * step / max(1, config.epsilon_share * config.steps),
        )
        if step % config.evaluate_every == 0 or step == config.steps:
            greedy = sum(tables) / len(tables)
            score, cost, late = evaluate(judge, greedy, bins, config.episode, seed + 1)
            curve.append((step, score, cost, late))
            if score < best_score:
                best, best_score = greedy.copy(), score
        if report is not None:
            report(Progress(step, epsilon, *curve[-1][1:], best_score))
        if step == config.steps:
            break

        valued = np.where(mask, sum(tables)[state], -np.inf)
        random = np.where(mask, rng.random(mask.shape), -np.inf).argmax(axis=1)
        action = np.where(rng.random(batch.n) < epsilon, random, valued.argmax(axis=1))
        done = batch.step(action)
        after = bins.index(np, done.last)
        following = batch.mask()

        chosen = int(rng.integers(len(tables)))
        learns, judges = tables[chosen], tables[-1 - chosen]
        then = np.where(following | done.truncated[:, None], learns[after], -np.inf).argmax(axis=1)
        target = done.reward + config.gamma * judges[after, then]
        cell = state * actions + action
        count = np.bincount(cell, minlength=visits.size)
        total = np.bincount(cell, weights=target, minlength=visits.size)
        seen = count > 0
        flat, known = learns.reshape(-1), visits.reshape(-1)
        rate = np.maximum(config.rate / (1.0 + known[seen] / config.rate_visits), config.rate_floor)
        rate = 1.0 - (1.0 - rate) ** count[seen]
        flat[seen] += rate * (total[seen] / count[seen] - flat[seen])
        known += count
        state, mask = bins.index(np, done.observation), following
    return Result(values=best, visits=visits, bins=bins, curve=curve, score=best_score)


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
        "scores": {"validation_score": result.score, "states_seen": int((result.visits.sum(axis=1) > 0).sum())},
    }
    return Artifact(manifest=manifest, arrays={"values": result.values.astype(np.float32)})
