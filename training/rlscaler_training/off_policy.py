"""What a policy would have scored where another one decided: fitted Q evaluation, with a bootstrap interval.

Weighted importance sampling needs the chance that the logging policy had of each action, and one that always does the
same in the same situation leaves none of the others; so the value is fitted instead (Le, Voloshin & Yue 2019, arXiv
1903.08738), by one linear system where the fitted class is linear (Bradtke & Barto 1996). It assumes:

- that FIELDS say what matters of a situation (Markov);
- that the value is about quadratic in them and in the correction;
- that the log holds actions near the policy's in situations near its own. `support` is the share of decisions where the
  log has that action at all often in situations of the kind; with little of it the estimate is extrapolation.

The interval is of the log's luck alone: whole blocks of it are drawn anew and everything is fitted again (Hao et al.
2021, arXiv 2102.03607). What the three assumptions miss is in no interval, so the simulator is asked too.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rlscaler.action import CORRECTIONS
from rlscaler.observation import NAMES
from rlscaler_training.decision_log import Log

FIELDS = ("trend", "noise_5m", "trend_cheap", "size", "desired", "ready", "starting", "backlog", "busy")
"""What the value is fitted on."""
NEIGHBOURS = 50
"""Situations of the log that are of the kind of one: the nearest in FIELDS, each over its deviation."""
FEW = 0.02
"""Share of them that must have the action, or one beside it, for the log to support it."""
ASKED = 500
"""Decisions that support is told of."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """J of a policy by the log alone, discounted as in training; low, high: 95 % interval of the log's luck.

    logged: J of the log itself. better: share of resamples in which the policy's J is lower than the log's of the same
    blocks. support: share of decisions whose action the log holds in situations of the kind. blocks: what was drawn.
    """

    score: float
    low: float
    high: float
    logged: float
    better: float
    support: float
    blocks: int
    decisions: int

    def told(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def blocks_of(part: np.ndarray, length: int) -> np.ndarray:
    """Return the block (N,) of each decision: at most `length` that follow each other in one part of the log."""
    first = np.append(True, part[1:] != part[:-1])
    place = np.arange(len(part)) - np.maximum.accumulate(np.where(first, np.arange(len(part)), 0))
    blocks: np.ndarray = np.cumsum(first | (place % length == 0)) - 1
    return blocks


def features(inputs: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Return (N, D) features of normalised inputs (N, I) and actions (N,): quadratic in both, and their products."""
    scaled = np.array(CORRECTIONS)[action] / max(CORRECTIONS)
    state = np.concatenate([np.ones((len(inputs), 1)), inputs, inputs**2], axis=1)
    return np.concatenate([state, scaled[:, None] * state, scaled[:, None] ** 2 * state], axis=1)


def evaluated(
    log: Log,
    chosen: np.ndarray,
    after: np.ndarray,
    *,
    gamma: float,
    block: int,
    resamples: int,
    ridge: float,
    seed: int,
) -> Estimate:
    """Return the estimate for a policy by what it would choose, (N,) in each situation and in what followed each.

    J = (1 - gamma) x the discounted cost from the log's situations on, if the policy decided from there.
    block: decisions that are drawn together. ridge: share of each feature's square that is added to hold the fit.
    """
    columns = [NAMES.index(name) for name in FIELDS]
    mean = log.observation[:, columns].mean(axis=0, dtype=np.float64)
    scale = np.maximum(log.observation[:, columns].std(axis=0, dtype=np.float64), 1e-2)

    def normalised(seen: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip((seen[:, columns] - mean) / scale, -5.0, 5.0))

    here = normalised(log.observation)
    was, would, then = (
        features(here, log.action), features(here, chosen), features(normalised(log.following), after)
    )  # fmt: skip
    block_of = blocks_of(log.part, block)
    count = int(block_of[-1]) + 1
    order = [np.flatnonzero(block_of == index) for index in range(count)]
    sides = np.stack([was[rows].T @ (was[rows] - gamma * then[rows]) for rows in order])
    earned = np.stack([was[rows].T @ -log.reward[rows] for rows in order])
    starts = np.stack([would[rows].sum(axis=0) for rows in order])
    paid = np.array([-log.reward[rows].sum() for rows in order])
    lengths = np.array([len(rows) for rows in order], np.float64)
    held = np.diag(ridge * (was**2).sum(axis=0) + 1e-9 * len(log))

    def both(weight: np.ndarray) -> tuple[float, float]:
        left = np.tensordot(weight, sides, axes=1) + held
        value = np.linalg.lstsq(left, weight @ earned, rcond=1e-10)[0]
        total = float(weight @ lengths)
        return (1.0 - gamma) * float((weight @ starts) @ value) / total, float(weight @ paid) / total

    score, logged = both(np.ones(count))
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [both(rng.multinomial(count, np.full(count, 1.0 / count)).astype(float)) for _ in range(resamples)]
    )
    # about the estimate: a resample repeats blocks, so its fits are biased where the log is short
    half = 0.5 * float(np.diff(np.quantile(drawn[:, 0], [0.025, 0.975]))[0])
    return Estimate(
        score=score, low=score - half, high=score + half, logged=logged,
        better=float((drawn[:, 0] < drawn[:, 1]).mean()), support=support(here, log.action, chosen),
        blocks=count, decisions=len(log),
    )  # fmt: skip


def support(inputs: np.ndarray, action: np.ndarray, chosen: np.ndarray) -> float:
    """Return the share of decisions whose chosen action (or one beside it) the log has in situations of the kind."""
    asked = np.unique(np.linspace(0, len(inputs) - 1, min(ASKED, len(inputs))).astype(int))
    near = min(NEIGHBOURS, len(inputs))
    distance = (inputs[asked] ** 2).sum(axis=1)[:, None] + (inputs**2).sum(axis=1) - 2.0 * inputs[asked] @ inputs.T
    kind = np.argpartition(distance, near - 1, axis=1)[:, :near]
    there = (np.abs(action[kind] - chosen[asked][:, None]) <= 1).mean(axis=1) >= FEW
    return float(there.mean())
