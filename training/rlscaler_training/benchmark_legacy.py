"""The learners on the environment of earlier work, beside its published figures and its exact optimum.

All learn and are scored on the one published trace (SINE_CURVE, 200 steps), as earlier work did; the best policy met on
the way is what is scored. They see the fields of `rlscaler_sim.legacy_policy`: the five published numbers, and what an
agent did and saw itself a step ago. q-learning, dqn and ppo learn there as `rlscaler train NAME --environment legacy`
does. ppo-fast, bdq and evolve know the observation of workloads alone, so here the fields are put into columns of it.
The analytic policy gradient has no part, as its relaxation is of this project's world.
"""

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlscaler.action import Scheme
from rlscaler.arrays import State
from rlscaler.observation import NAMES
from rlscaler_sim import legacy
from rlscaler_sim.batch import Transition
from rlscaler_sim.legacy_policy import NAMES as FIELDS
from rlscaler_sim.legacy_policy import STEPS, LegacyPolicy, played
from rlscaler_training import hyper, runs
from rlscaler_training import legacy as earlier
from rlscaler_training.commands import LEARNERS as MODULES
from rlscaler_training.devices import device
from rlscaler_training.learner import Task
from rlscaler_training.legacy import Legacy, LegacyBatch

INTO = ("desired", "busy", "rel_latest", "backlog", "starting", "trend", "size")
"""Columns of the observation of workloads that the fields go into, in their order."""
COLUMNS = np.array([NAMES.index(name) for name in INTO])
SCALES = np.array([1.0, 1.0, 50.0, 10.0, 1.0, 0.3, 20.0], np.float32)
"""What the fields are divided by there, so that they are of the order of 1."""
PUBLISHED = {
    "q-learning": earlier.PUBLISHED["tabular Q-learning"], "ppo": earlier.PUBLISHED["PPO"],
    "dqn": earlier.PUBLISHED["DQN"], "threshold": -27.95,
}  # fmt: skip
"""Returns that earlier work published, by contender; the threshold's is that of its rule, which is certain."""
LIMIT, TUNED = "clairvoyant", "threshold-tuned"
NAMED = ("remove", "hold", "add")
assert len(INTO) == len(FIELDS)
Act = Callable[[np.ndarray], np.ndarray]
"""A policy: observations (N, len(NAMES)) to actions (N,)."""


def embedded(fields: np.ndarray) -> np.ndarray:
    """Return the fields (N, F) in columns of an observation of workloads, (N, len(NAMES)) float32."""
    out = np.zeros((len(fields), len(NAMES)), np.float32)
    out[:, COLUMNS] = fields / SCALES
    return out


class Free(Scheme):
    """The actions of `step`, all of them allowed at any time, whatever is looked at."""

    def mask(self, view: Any) -> Any:
        """Return that all may be taken. view: whose first axis is the environments."""
        return np.ones((len(view), len(NAMED)), bool)


class Environments:
    """N environments in the form of `rlscaler_sim.batch.Batch`, for learners that know its observation alone."""

    like = None

    def __init__(self, n: int) -> None:
        """Start them."""
        self.n = n
        self.scheme: Scheme = Free("step", (len(NAMED),))
        self.batch = LegacyBatch(n, STEPS)
        self.view = self.last_view = np.zeros(n)

    def reset(self, seed: int) -> np.ndarray:
        """Start anew; nothing is random, so the seed has no effect."""
        return embedded(self.batch.reset(seed))

    def mask(self) -> np.ndarray:
        """Return that all actions may be taken, (N, 3) bool."""
        return self.batch.mask()

    def step(self, actions: Any) -> Transition:
        """Take a step, actions (N,) or (N, 1)."""
        done = self.batch.step(np.asarray(actions, np.int64).reshape(self.n))
        return Transition(embedded(done.observation), embedded(done.last), done.reward, done.truncated, done.cost,
                          done.late, done.replicas)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Episode:
    """The return of an episode as the original counts it, and the one action that was always taken, None if several."""

    value: float
    constant: str | None


def _episode(act: Callable[[State, np.ndarray], Any]) -> Episode:
    """Return the episode of a policy that is given the state and its fields (1, F)."""
    found = played(lambda state, fields: np.ravel(np.asarray(act(state, fields))))
    return Episode(found.total, None if found.constant is None else f"always {NAMED[found.constant]}")


@cache
def _optimum() -> np.ndarray:
    return legacy.optimum(legacy.influx("SINE_CURVE", STEPS, np.random.default_rng(0))).actions


def rules(seed: int) -> dict[str, Episode]:
    """Return the episodes of what learns nothing, by name. The seed is that of random."""
    rng = np.random.default_rng(seed)
    moment = _moment
    return {
        LIMIT: _episode(lambda state, _: _optimum()[moment(state)]),
        TUNED: _episode(lambda state, _: legacy.threshold(state, 98.0, 91.0, 0.0)),
        "threshold": _episode(lambda state, _: legacy.threshold(state)),
        "constant": _episode(lambda *_: 1),
        "churn": _episode(lambda state, _: 2 * (moment(state) % 2)),
        "random": _episode(lambda *_: rng.integers(3)),
    }


def _moment(state: State) -> int:
    """Return how many steps are done."""
    return int(state["time"][0])


@dataclass(frozen=True, slots=True)
class Training:
    """What came of training: the best policy's episode, the steps of environments, seconds of the wall and of the
    processors."""

    episode: Episode
    steps: int
    seconds: float
    cpu: float


class Best:
    """Keeps the policy whose episode is best; as the environment and the policies are certain, one episode tells."""

    def __init__(self) -> None:
        """Know of none yet."""
        self.episode = Episode(-math.inf, None)

    def seen(self, act: Act) -> None:
        """Play an episode and keep it if it is better than the best."""
        found = _episode(lambda _, fields: act(embedded(fields)))
        if found.value > self.episode.value:
            self.episode = found


def _network(network: Callable[[torch.Tensor], torch.Tensor]) -> Act:
    """Return the greedy policy of a network of values or logits (N, 3)."""

    def act(seen: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(seen)).argmax(dim=1).numpy()

    return act


def _ppo_fast(seconds: float, seed: int, folder: Path, best: Best) -> int:
    from rlscaler_training import ppo_fast

    episodes = max(2, round(seconds))
    config = ppo_fast.Config(
        steps=128 * 208 * episodes, envs=128, episode=STEPS, gamma=0.95, head_start=0.0, actions="step", twin=False
    )
    shutil.rmtree(folder, ignore_errors=True)
    run = runs.begin(folder, "ppo-fast", config, {"benchmark": "legacy", "seed": seed})
    envs, judge = Environments(config.envs), Environments(1)
    try:
        found = ppo_fast.train(envs, judge, config, run=run, device=torch.device("cpu"), seed=seed)
    finally:
        run.close()
    network = found.network
    best.seen(_network(lambda seen: network.logits(network.inputs(seen))))
    return found.steps


def _bdq(seconds: float, seed: int, folder: Path, best: Best) -> int:
    from rlscaler_training import bdq

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    rounds = max(3, round(0.8 * seconds))
    config = bdq.Config(envs=64, episode=STEPS, replay=32_768, warm_up=64 * 150, gamma=0.95, repeat=2)
    learner = bdq.Learner(config, INTO, (len(NAMED),), (1,), torch.device("cpu"))
    batch: Any = Environments(config.envs)
    for number in range(rounds):
        share = number / rounds
        epsilon = max(0.05, 0.4 * (1.0 - share / config.epsilon_share))
        bdq.play(learner, batch, None, seed, epsilon, config.beta + (1.0 - config.beta) * share, rng)
        if learner.updates:
            best.seen(_network(learner.network))
    return rounds * config.envs * STEPS


def _evolve(seconds: float, seed: int, folder: Path, best: Best) -> int:
    from rlscaler_training import evolve

    pairs, sigma, hidden = 32, 0.3, 16
    shapes = ((len(INTO), hidden), (1, hidden), (hidden, 3), (1, 3))
    ends = np.cumsum([a * b for a, b in shapes])
    rng = np.random.default_rng([seed, 0])

    def act(weights: np.ndarray) -> Act:
        """Return the policy of candidates (C, P), one for each environment."""
        parts = np.split(weights, ends[:-1], axis=1)
        first, offset, second, last = (part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True))

        def choose(seen: np.ndarray) -> np.ndarray:
            inner = np.tanh(2.0 * (seen[:, None, COLUMNS] @ first + offset))
            return np.asarray((inner @ second + last)[:, 0].argmax(axis=1))

        return choose

    generations = max(2, round(32 * seconds))
    search = evolve.Search.at(0.5 * rng.standard_normal(int(ends[-1])))
    for _ in range(generations):
        along = evolve.directions(search, pairs, seed)
        tried = act(evolve.candidates(search, along, sigma))
        envs = Environments(2 * pairs)
        seen, total = envs.reset(0), np.zeros(2 * pairs)
        for _ in range(STEPS):
            done = envs.step(tried(seen))
            seen = done.observation
            total -= done.reward
        search = evolve.moved(search, along, total, 0.05, sigma, 1e-3)
        best.seen(act(search.centre[None]))
    return generations * 2 * pairs * STEPS


PACES = {"q-learning": 3000.0, "dqn": 700.0, "ppo": 4000.0}
"""Learners that know the environment themselves -> `steps` in a second of one thread, rounded, as measured once. They
learn as long as earlier work did at most."""
LEAST = 2000
EMBEDDED: dict[str, Callable[[float, int, Path, Best], int]] = {"ppo-fast": _ppo_fast, "bdq": _bdq, "evolve": _evolve}
"""Learner -> trains with a budget of so many seconds (turned into steps beforehand), tells `Best` what it finds, and
returns the environment steps."""
LEARNERS = (*PACES, *EMBEDDED)


def _native(learner: str, seconds: float, seed: int, folder: Path) -> tuple[Episode, int]:
    """Return the episode of what a learner learned, and the environment steps. Raises UserError."""
    module = import_module(f"rlscaler_training.{MODULES[learner][0]}")
    steps = min(int(module.LEGACY["steps"]), max(LEAST, round(PACES[learner] * seconds)))
    config = hyper.read(module.Config, None, {"steps": steps, "checkpoint_every": steps}, module.LEGACY)
    shutil.rmtree(folder, ignore_errors=True)
    run = runs.begin(folder, learner, config, {"benchmark": "legacy", "seed": seed})
    world = Legacy(seed)
    try:
        outcome = module.learn(Task(learner, world, run, device("cpu"), seed, world.provenance()), config)
    finally:
        run.close()
    policy = LegacyPolicy(outcome.artifact)
    return _episode(lambda _, fields: policy(fields)), outcome.steps


def trained(learner: str, seconds: float, seed: int, folder: Path) -> Training:
    """Train a learner, from scratch whatever is in the folder. Raises UserError where it fails."""
    began, used = time.perf_counter(), time.process_time()
    if learner in PACES:
        episode, steps = _native(learner, seconds, seed, folder)
    else:
        best = Best()
        steps = EMBEDDED[learner](seconds, seed, folder, best)
        episode = best.episode
    return Training(episode, steps, time.perf_counter() - began, time.process_time() - used)
