"""Tabular Q-learning (Watkins & Dayan 1992, doi:10.1007/BF00992698), batched over many simulated workloads.

Read from top to bottom: the settings, the evaluation, the loop, the artifact. The states are readable bins over a few
fields of the observation, the actions corrections of the cheapest headroom, so the untrained policy is already a rule
and the table says in which situations to deviate from it, and how far.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, prod
from typing import Any

import numpy as np
import torch

from rlscaler.action import scheme
from rlscaler.artifact import Artifact
from rlscaler.errors import UserError
from rlscaler.observation import NAMES
from rlscaler.table import KIND as TABLE
from rlscaler.table import Bins
from rlscaler_sim import legacy_policy
from rlscaler_training import loads, runs
from rlscaler_training.hyper import choice, setting, structure, switch
from rlscaler_training.inputs import STANDARD, Inputs
from rlscaler_training.learner import Outcome, Progress, StoppedError, Task
from rlscaler_training.loads import Environments
from rlscaler_training.runs import Run

LARGEST_TABLE = 100_000
"""States of a table at most."""
BINS = {"trend": (-0.04, 0.04), "noise_5m": (0.06, 0.15), "backlog": (0.05,), "size": (1.0, 2.2)}
"""Cuts over fields of the observation, chosen to be read: rising or falling, calm or noisy, queue or none, size."""


def _bins(value: Any) -> dict[str, tuple[float, ...]]:
    """Return cuts over fields of an observation. Raises ValueError, TypeError or AttributeError."""
    cuts = {str(name): tuple(float(cut) for cut in cuts) for name, cuts in value.items()}
    known = bool(cuts) and any(all(name in names for name in cuts) for names in (NAMES, legacy_policy.NAMES))
    ordered = all(list(each) == sorted(each) and all(map(isfinite, each)) for each in cuts.values())
    if not known or not ordered or prod(len(each) + 1 for each in cuts.values()) > LARGEST_TABLE:
        raise ValueError("no bins")
    return cuts


@dataclass(frozen=True, slots=True)
class Config:
    """Hyper-parameters, each with the source of its default."""

    steps: int = setting(2000, 1, 10_000_000, "Steps of every environment.")
    envs: int = setting(
        256,
        1,
        65_536,
        "Workloads simulated at once, own choice; an update takes the mean over those in one state and action.",
    )
    gamma: float = setting(
        0.9, 0.0, 0.9999, "Discount per decision: an order serves after some five (start-up and lag), 0.9^5 = 0.59."
    )
    lookahead: int = setting(
        6, 1, 100, "Rewards summed before the table's own value takes over (n-step Q-learning, Watkins 1989 ch. 7): an "
        "order is paid for at once and serves some five decisions later, which the bins do not show."
    )  # fmt: skip
    rate: float = setting(
        0.5, 1e-6, 1.0, "First learning rate; it falls with the visits n of a state and action as "
        "rate / (1 + n / rate_visits), own choice."
    )  # fmt: skip
    rate_visits: float = setting(
        200.0, 1.0, 1e9, "Visits that halve the learning rate (Robbins & Monro 1951: the rates' sum must diverge)."
    )
    rate_floor: float = setting(0.0005, 0.0, 1.0, "Lowest learning rate; own choice.")
    epsilon: float = setting(
        0.4, 0.0, 1.0, "First share of explored decisions; under half, as one low order costs a whole start-up."
    )
    epsilon_end: float = setting(0.05, 0.0, 1.0, "Last share of explored decisions (0.1 in Mnih et al. 2015).")
    epsilon_share: float = setting(
        0.6, 0.0, 1.0, "Share of the steps over which it falls, linearly (as in Mnih et al. 2015)."
    )
    repeat: int = setting(
        8, 1, 1000, "Decisions that an explored action is repeated for on average (temporally extended epsilon-greedy, "
        "Dabney, Ostrovski & Barreto 2021): single deviations say little where pods take several decisions to start."
    )  # fmt: skip
    double: bool = switch(
        True, "Two tables, each valued by the other's choice (van Hasselt 2010), against the bias of the maximum."
    )
    margins: tuple[float, ...] = setting(
        (0.0, 0.03, 0.1, 0.2), 0.0, 1000.0, "Advantages that an action must have over the middle one to be taken; the "
        "one that validates best is kept, so that noise in rarely seen states does not become policy; own choice."
    )  # fmt: skip
    evaluate_every: int = setting(250, 1, 10_000_000, "Steps between evaluations of the greedy policy.")
    checkpoint_every: int = setting(250, 1, 10_000_000, "Steps between checkpoints.")
    episode: int = setting(240, 8, 5000, "Decisions of an episode: one hour.")
    actions: str = choice("headroom", ("headroom", "step"), "Action scheme.")
    bins: dict[str, tuple[float, ...]] = structure(
        lambda: dict(BINS),
        _bins,
        'fields of the observation with ascending cuts, such as {"trend": [-0.04, 0.04]}, and at most '
        f"{LARGEST_TABLE:,} states",
        "Cuts over fields of the observation, chosen to be read.",
    )

    def exploring(self, step: int) -> float:
        """Return the share of explored decisions after so many steps."""
        share = step / max(1.0, self.epsilon_share * self.steps)
        return max(self.epsilon_end, self.epsilon + (self.epsilon_end - self.epsilon) * share)


LEGACY: dict[str, Any] = {
    "steps": 40_000,
    "envs": 50,
    "gamma": 0.95,
    "lookahead": 1,
    "rate_visits": 50.0,
    "repeat": 1,
    "epsilon": 0.3,
    "margins": (0.0,),
    "evaluate_every": 1000,
    "checkpoint_every": 10_000,
    "episode": 200,
    "actions": "step",
    "bins": {"spare": (-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0), "pending": (-0.5, 0.5), "queue": (0.5, 10.7)},
}
"""Defaults in the environment of earlier work: 10,000 episodes, as many as were published, 50 at once."""


def _ranked(values: np.ndarray) -> np.ndarray:
    """Return the values with ties broken towards the middle action."""
    actions = values.shape[1]
    ranked: np.ndarray = values - 1e-9 * np.abs(np.arange(actions) - (actions - 1) / 2)
    return ranked


def evaluate(batch: Environments, values: np.ndarray, bins: Bins, steps: int, seed: int) -> tuple[float, float, float]:
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


@dataclass(slots=True)
class Result:
    """The table that scored best, and the evaluations on the way: (step, J, cost, price x late share)."""

    values: np.ndarray
    visits: np.ndarray
    bins: Bins
    curve: list[tuple[int, float, float, float]]
    score: float


@dataclass(slots=True)
class Learning:
    """What changes while it learns. past: (state, action, merit) of the last steps. explored: (N,), -1 where greedy."""

    rng: np.random.Generator
    tables: list[np.ndarray]
    visits: np.ndarray
    best: np.ndarray
    explored: np.ndarray
    best_score: float = float("inf")
    step: int = 0
    curve: list[tuple[int, float, float, float]] = field(default_factory=list)
    past: deque[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=deque)

    def kept(self) -> dict[str, Any]:
        """Return it for a checkpoint."""
        names = ("tables", "visits", "best", "explored", "best_score", "step")
        held = {name: getattr(self, name) for name in names}
        held |= {"curve": [list(row) for row in self.curve], "past": list(self.past)}
        return {**loads.tensors(held), "random": runs.generators(self.rng)}

    def put_back(self, held: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        runs.restore_generators(self.rng, held["random"])
        found = loads.arrays({name: value for name, value in held.items() if name != "random"})
        for name in ("tables", "visits", "best", "explored", "best_score", "step"):
            setattr(self, name, found[name])
        self.curve = [(int(row[0]), *row[1:]) for row in found["curve"]]
        self.past = deque(tuple(row) for row in found["past"])


def train(
    batch: Environments,
    twin: Environments | None,
    judge: Environments,
    config: Config,
    seed: int,
    report: Callable[[Progress], None] = lambda _: None,
    run: Run | None = None,
    stop: Callable[[], bool] = lambda: False,
    names: Sequence[str] = NAMES,
    elsewhere: Environments | None = None,
) -> Result:
    """Learn on `batch`, judge on `judge` (a pool of other load), and return the table that was judged best.

    twin: environments like `batch`, that meet the same load at the same moments and always take the middle action.
    Load does not depend on actions, so what the twin earns is a baseline that takes away the load's luck and no
    action's merit (input-dependent baseline, Mao et al. 2019, arXiv 1807.02264): the table holds differences to it.
    None: the table holds values. names: of the observation's fields. elsewhere: where the table is scored too, which
    chooses nothing. Deterministic with the seed. run: where it is logged, kept, and gone on from. Raises StoppedError
    after `stop`.
    """
    bins = Bins(config.bins, names)
    actions = scheme(config.actions).branches[0]
    middle = np.full(batch.n, actions // 2)
    blank = np.zeros((bins.states, actions))
    at = Learning(
        np.random.default_rng(seed), [blank.copy() for _ in range(2 if config.double else 1)], blank.copy(),
        blank.copy(), np.full(batch.n, -1),
    )  # fmt: skip
    observation = batch.reset(seed)
    if twin is not None:
        twin.reset(seed)
    resumed = -1
    if run is not None and (held := run.restore()) is not None:
        at.put_back(held["learning"])
        observation = loads.put_back(batch, held["batch"])
        if twin is not None:
            loads.put_back(twin, held["twin"])
        resumed = at.step
    state, mask = bins.index(np, observation), batch.mask()

    while True:
        last, better = at.step == config.steps, False
        loads.progressed(at.step / config.steps, batch, twin)
        if (at.step % config.evaluate_every == 0 or last) and at.step != resumed:
            before = at.best_score
            found = _judge(at, judge, bins, config, seed)
            better = at.best_score < before
            if run is not None:
                numbers = dict(zip(("score", "cost", "late"), at.curve[-1][1:], strict=True))
                seen = float((at.visits.sum(axis=1) > 0).mean())
                told = {"best": at.best_score, "epsilon": config.exploring(at.step), "states_seen": seen}
                if elsewhere is not None:
                    told["score_randomised"] = evaluate(elsewhere, found, bins, config.episode, seed + 1)[0]
                run.log(at.step, numbers | told)
        report(Progress(at.step, config.steps, _told(at, config)))
        wanted = stop() and not last
        due = at.step % config.checkpoint_every == 0 or better or wanted or last
        if run is not None and due and at.step != resumed:
            held = {"learning": at.kept(), "batch": loads.kept(batch)}
            held |= {} if twin is None else {"twin": loads.kept(twin)}
            run.checkpoint(at.step, held, best=better)
        if wanted:
            raise StoppedError
        if last:
            return Result(at.best, at.visits, bins, at.curve, at.best_score)

        action = _action(at, state, mask, config)
        done = batch.step(action)
        merit = done.reward if twin is None else done.reward - twin.step(middle).reward
        after, following = bins.index(np, done.last), batch.mask()
        at.past.append((state, action, merit))
        cut = bool(done.truncated.any())
        if len(at.past) == config.lookahead and not cut:  # what may be done after a cut is not known
            chosen = int(at.rng.integers(len(at.tables)))
            learns, judges = at.tables[chosen], at.tables[-1 - chosen]
            then = np.where(following, _ranked(learns)[after], -np.inf).argmax(axis=1)
            target = judges[after, then]
            for _, _, earned in reversed(at.past):
                target = earned + config.gamma * target
            began, took, _ = at.past.popleft()
            _learn(learns, at.visits, began * actions + took, target, config)
        if cut:
            at.past.clear()
        state, mask = bins.index(np, done.observation), following
        at.step += 1


def _told(at: Learning, config: Config) -> dict[str, float]:
    """Return the last evaluation and what is explored."""
    _, score, cost, late = at.curve[-1]
    return {"score": score, "best": at.best_score, "cost": cost, "late": late, "epsilon": config.exploring(at.step)}


def _judge(at: Learning, judge: Environments, bins: Bins, config: Config, seed: int) -> np.ndarray:
    """Evaluate the greedy policy with each margin, keep the best table of all, and return the best of now."""
    greedy: np.ndarray = np.sum(at.tables, axis=0) / len(at.tables)
    tried = []
    for margin in config.margins if at.step else (0.0,):
        held = greedy.copy()
        held[:, held.shape[1] // 2] += margin
        tried.append((*evaluate(judge, held, bins, config.episode, seed + 1), held))
    score, cost, late, held = min(tried, key=lambda found: found[0])
    at.curve.append((at.step, score, cost, late))
    if score < at.best_score:
        at.best, at.best_score = held, score
    return held


def _action(at: Learning, state: np.ndarray, mask: np.ndarray, config: Config) -> np.ndarray:
    """Return the actions (N,): the best allowed ones, or those that are being explored."""
    n, epsilon = len(state), config.exploring(at.step)
    valued = np.where(mask, _ranked(np.sum(at.tables, axis=0))[state], -np.inf)
    random = np.where(mask, at.rng.random(mask.shape), -np.inf).argmax(axis=1)
    explored = np.where(at.rng.random(n) < 1.0 / config.repeat, -1, at.explored)
    starts = (explored < 0) & (at.rng.random(n) < epsilon / (config.repeat * (1.0 - epsilon) + epsilon))
    at.explored = np.where(starts, random, explored)
    possible = (at.explored >= 0) & mask[np.arange(n), np.maximum(at.explored, 0)]
    return np.where(possible, at.explored, valued.argmax(axis=1))


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


def artifact(
    result: Result, config: Config, name: str, provenance: dict[str, Any], inputs: Inputs = STANDARD
) -> Artifact:
    """Return the trained table as an artifact."""
    manifest = {
        "name": name,
        "kind": TABLE,
        "observation_schema": inputs.schema,
        "action_scheme": config.actions,
        "fields": list(config.bins),
        "training_range": {},
        "parameters": {"bins": [[k, list(v)] for k, v in config.bins.items()], **inputs.parameters},
        "provenance": provenance,
        "scores": {
            "best_score": result.score,
            "states_seen": int((result.visits.sum(axis=1) > 0).sum()),
            "states": result.bins.states,
        },
    }
    return Artifact(manifest=manifest, arrays={"values": result.values})


def require(config: Config, names: Sequence[str]) -> None:
    """Raise UserError where a bin is over a field that is not among the names of what is seen, or where no update would
    ever be made: the step that cuts an episode completes none."""
    if config.lookahead > (most := min(config.episode - 1, config.steps)):
        raise UserError(f"lookahead is {config.lookahead}; expected at most {most:,}, as episode is {config.episode:,} "
                        f"and steps {config.steps:,}: lower lookahead, or raise them")  # fmt: skip
    if unknown := [name for name in config.bins if name not in names]:
        raise UserError(f"bins names {unknown[0]}; expected fields of what is seen: {', '.join(names)}")


def learn(task: Task, config: Config) -> Outcome:
    """Learn the task, or go on with it. Raises StoppedError, NotFiniteError."""
    batch, twin, judge = loads.environments(task.world, config.actions, config.envs, config.episode, task.seed)
    torch.manual_seed(task.seed)
    inputs = task.world.inputs
    result = train(batch, twin, judge, config, task.seed, task.report, task.run, task.stop, inputs.names,
                   loads.elsewhere(task.world, config.actions, config.episode))  # fmt: skip
    return Outcome(artifact(result, config, task.name, task.provenance, inputs), config.steps * config.envs)
