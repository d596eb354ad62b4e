"""The environment of earlier work as learners see it: N at once, and what is learned in it beside what was published.

Each of them is `rlscaler/Legacy-v0` of Gymnasium (`rlscaler_sim.legacy_env`), with an observation that has the agent's
own last action in it (`rlscaler_sim.legacy_policy`). An episode that has ended early waits for the others with nothing
more to lose, so that all begin together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscaler.action import STEP, Scheme
from rlscaler.artifact import Artifact
from rlscaler.cli import version_of
from rlscaler_sim import legacy
from rlscaler_sim.batch import Transition
from rlscaler_sim.legacy_policy import HIGH, LOW, NAMES, SCHEMA, STEPS, Episode, LegacyPolicy, look, played
from rlscaler_training.inputs import Inputs

ID = "rlscaler/Legacy-v0"
INPUTS = Inputs(SCHEMA, NAMES, LOW, HIGH, LegacyPolicy, {"environment": ID})
PUBLISHED = {"tabular Q-learning": -7.62, "PPO": -16.37, "DQN": -115.60}
"""Returns of earlier work (github.com/arshiya-salehi/CS-175-final-submition): 200 steps of SINE_CURVE."""


class LegacyBatch:
    """N environments in lockstep. cost, late: the idle share and the rest of what a step loses, times the episode's
    steps, so that the score of an episode is its return with the sign turned."""

    def __init__(self, n: int, episode: int) -> None:
        """Start them. episode: steps of it."""
        self.n, self.episode, self.scheme = n, episode, STEP
        self.reset(0)

    def reset(self, seed: int) -> np.ndarray:
        """Start anew and return the observation (N, F); there is nothing random."""
        self.state = legacy.start(self.n)
        self.before = self.state["influx"]
        self.ended = np.zeros(self.n, bool)
        self.age = 0
        return look(self.state, self.before)

    def mask(self) -> np.ndarray:
        """Return that all actions may be taken, (N, 3) bool; one beyond a bound costs 0.1, as published."""
        return np.ones((self.n, len(legacy.ACTIONS)), bool)

    def step(self, actions: Any) -> Transition:
        """Take the actions, (N,)."""
        waits = self.ended
        after, reward, over = legacy.step(self.state, np.asarray(actions, np.int64))
        reward = np.where(waits, 0.0, reward)
        idle = np.where(waits, 0.0, (1.0 - after["load"] / 100.0) * after["instances"] / legacy.MAX_INSTANCES)
        self.before = self.state["influx"]
        self.state = {name: np.where(waits, self.state[name], after[name]) for name in after}
        self.ended = waits | over
        self.age += 1
        observation = last = look(self.state, self.before, self.ended)
        if cut := self.age >= self.episode:
            observation = self.reset(0)
        replicas = self.state["instances"]
        cost, late = idle * self.episode, (-reward - idle) * self.episode
        return Transition(observation, last, reward, np.full(self.n, cut), cost, late, replicas)

    def kept(self) -> dict[str, Any]:
        """Return where they stand."""
        return {"state": self.state, "before": self.before, "ended": self.ended, "age": self.age}

    def put_back(self, held: Mapping[str, Any]) -> np.ndarray:
        """Let them go on from there, and return the observation."""
        self.state, self.before, self.ended, self.age = (held[name] for name in ("state", "before", "ended", "age"))
        return look(self.state, self.before, self.ended)


@dataclass(frozen=True, slots=True)
class Legacy:
    """What is trained on and validated on: the one sine that was published, as was done there."""

    seed: int
    inputs: Inputs = INPUTS

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that networks learn from: all."""
        return self.inputs.names

    def batches(self, envs: int, episode: int) -> tuple[LegacyBatch, None, LegacyBatch]:
        """Return environments to train in, no twin, and the one to validate in."""
        return LegacyBatch(envs, episode), None, LegacyBatch(1, episode)

    def provenance(self) -> dict[str, Any]:
        """Return what is needed to train the same again."""
        return {"seed": self.seed, "version": version_of("rlscaler"), "trained_on": [ID], "validated_on": [ID]}


def scheme() -> Scheme:
    """Return the actions: one instance fewer, as many, one more."""
    return STEP


@dataclass(frozen=True, slots=True)
class Verdict:
    """An episode of what was learned beside what it is held against.

    optimum: the best return there is where the whole load is known. threshold: that of the rule that earlier work
    called Kubernetes HPA-like.
    """

    episode: Episode
    optimum: float
    threshold: float

    def told(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "return": self.episode.total,
            "optimum": self.optimum,
            "threshold": self.threshold,
            "published": PUBLISHED,
            "constant": self.episode.constant is not None,
        }

    def rows(self) -> list[tuple[str, float]]:
        """Return all returns with their names, the best first."""
        constant = self.episode.constant
        own = "this run" if constant is None else f"this run: a constant, always {('remove', 'hold', 'add')[constant]}"
        rows = [("the best there is, exact", self.optimum), (own, self.episode.total)]
        rows += [("threshold rule 80/40, called HPA-like", self.threshold)]
        rows += [(f"earlier work: {name}", value) for name, value in PUBLISHED.items()]
        return sorted(rows, key=lambda row: -row[1])


def verdict(artifact: Artifact) -> Verdict:
    """Return what a policy of this environment is worth. Raises ArtifactError for any other policy."""
    policy = LegacyPolicy(artifact)
    load = legacy.influx("SINE_CURVE", STEPS, np.random.default_rng(0))
    return Verdict(
        episode=played(lambda _, fields: policy(fields)),
        optimum=legacy.optimum(load).value,
        threshold=played(lambda state, _: legacy.threshold(state)).total,
    )
