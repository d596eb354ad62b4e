"""The demo in the environment of earlier work: its policies beside its rules, under its own rewards.

An episode is what was published: 200 steps of 300 s from 50 instances, scored by the sum of rewards. What stands beside
the policies is the threshold rule that earlier work compared with, doing nothing, and the best there is.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.arrays import State
from rlscaler.artifact import load
from rlscaler.container import ArtifactError
from rlscaler.errors import UserError
from rlscaler_sim import legacy
from rlscaler_sim.legacy_policy import STEPS, Episode, LegacyPolicy, played
from rlscaler_training.demo_play import Agent, Play, Stage, Terms

PATTERN = "SINE_CURVE"
"""What policies are trained on, and what was published."""
SPEED = 3000.0
"""Seconds of the load in a second where nothing is said: ten steps."""
EVERY = 3000.0
"""Seconds between two moments of plain lines."""
OPTIMUM, NOTHING, THRESHOLD = "optimum", "nothing", "threshold"
RULES = (OPTIMUM, NOTHING, THRESHOLD)
"""What stands beside policies: the best there is, exact, with the whole load known; holding, whatever comes; and adding
above 80 % of load or 100 items that wait, removing below 40 %."""
TERMS = Terms(load="items", count="instances", ready="now", asked="next", backlog="queue", cost="idle", late="lost",
              score="return", percent=False, digits=1, sign=-1, grey="instances that the load needs", line="instances",
              red="not worked off", strip="items wait", by="highest return = -(idle + lost)")  # fmt: skip
Act = Callable[[State, np.ndarray], Any]


def _refusal(path: Path) -> str:
    try:
        LegacyPolicy(load(path))
    except ArtifactError as error:
        return f"it is no policy of the environment of earlier work: {error}"
    return ""


STAGE = Stage(RULES, RULES, _refusal, "rlscaler train q-learning --environment legacy")


def steps_of(seconds: float | None) -> int:
    """Return the steps of so many seconds, None: of the published episode. Raises UserError."""
    if seconds is None:
        return STEPS
    steps = round(seconds / legacy.STEP_SECONDS)
    if not 2 <= steps <= STEPS:
        raise UserError(f"--for {seconds:g}s: expected 10m to {STEPS * legacy.STEP_SECONDS / 60:g}m, the length of an "
                        "episode in the environment of earlier work")  # fmt: skip
    return steps


def play(found: Sequence[Agent], pattern: str, steps: int, seed: int) -> Play:
    """Return an episode of each agent under the same items. pattern: of `legacy.PATTERNS`, else raises UserError."""
    if pattern not in legacy.PATTERNS:
        raise UserError(f"--pattern {pattern}: not in the environment of earlier work; expected one of "
                        f"{', '.join(legacy.PATTERNS)}")  # fmt: skip
    influx = legacy.influx(pattern, steps, np.random.default_rng(seed))
    episodes = [played(acting(each, influx), steps, influx) for each in found]
    now = np.stack([_filled(np.append(legacy.START_INSTANCES, e.instances[:-1]), steps) for e in episodes])
    after = np.stack([_filled(e.instances, steps) for e in episodes])
    queue = np.stack([_filled(e.queue, steps) for e in episodes])
    rewards = np.stack([_padded(e.rewards, steps) for e in episodes])
    idle = np.stack([_padded((1.0 - e.load / 100.0) * e.instances / legacy.MAX_INSTANCES, steps) for e in episodes])
    lost = np.maximum(-rewards - idle, 0.0)
    return Play(
        scenario=f"environment of earlier work, {pattern}", agents=tuple(found),
        interval=float(legacy.STEP_SECONDS), capacity=float(legacy.CAPACITY),
        time=float(legacy.STEP_SECONDS) * np.arange(steps), load=influx[1:], demand=influx[1:] / legacy.CAPACITY,
        ready=now, replicas=after, backlog=queue, late=queue / (1.0 + queue), cost=np.cumsum(idle, axis=1),
        late_share=np.cumsum(lost, axis=1), score=-np.cumsum(rewards, axis=1), terms=TERMS,
        notes=tuple(_note(each) for each in episodes),
    )  # fmt: skip


def acting(agent: Agent, influx: np.ndarray) -> Act:
    """Return how an agent acts: the action (1,) for a state and its fields (1, F). influx: items (steps + 1,)."""
    if agent.learned:
        policy = LegacyPolicy(load(agent.source))
        return lambda _, fields: policy(fields)
    if agent.source == THRESHOLD:
        return lambda state, _: legacy.threshold(state)
    if agent.source == NOTHING:
        return lambda *_: np.ones(1, np.int64)
    actions = legacy.optimum(influx).actions
    return lambda state, _: actions[state["time"].astype(np.int64)]


def _note(episode: Episode) -> str:
    """Return what has to be said of an episode that ended by itself."""
    return f"crashes in step {len(episode.queue)}" if episode.queue[-1] > legacy.MAX_QUEUE else ""


def _filled(values: np.ndarray, steps: int) -> np.ndarray:
    """Return values (T,) as (steps,): the last one stays after the end."""
    return np.concatenate([values, np.full(steps - len(values), values[-1])])


def _padded(values: np.ndarray, steps: int) -> np.ndarray:
    """Return values (T,) as (steps,): nothing more after the end."""
    return np.concatenate([values, np.zeros(steps - len(values))])
