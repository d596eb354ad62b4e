"""What a policy of the `legacy` environment sees, a policy of it from an artifact, and an episode of it.

The environment's observation is no Markov state: it hides the change that is pending and the way the load goes. Both
are what an agent did and saw itself a step ago, so they are among the fields here. Nothing else is added: what is to
come is not known. A policy of this environment can be served nowhere else, since no cluster has its fields.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlscaler.action import STEP, Scheme
from rlscaler.arrays import State
from rlscaler.artifact import Artifact, ArtifactError, require
from rlscaler.mlp import KIND as MLP
from rlscaler.mlp import Network
from rlscaler.table import KIND as TABLE
from rlscaler.table import Bins
from rlscaler_sim import legacy

SCHEMA = "legacy-1"
"""The observation schema of its artifacts; every other schema is one that a cluster has."""
STEPS = 200
"""Steps of a published episode."""
AHEAD = 3
"""Steps from an observation to the first work of an instance that is asked for then: the action itself is done a step
later, and a change comes after the work of its step."""
FIELDS: dict[str, tuple[float, float, str]] = {
    "instances": (0.0, 1.0, "instances, of 100; 0 once the episode has ended"),
    "load": (0.0, 1.0, "used share of the capacity of the last step"),
    "influx": (0.0, 50.0, "items of the last step, in instances that work them off"),
    "queue": (0.0, float(np.log1p(legacy.MAX_QUEUE + legacy.MAX_INFLUX)), "log(1 + items) that wait"),
    "pending": (-1.0, 1.0, "change that the next step makes: the action before"),
    "rising": (-0.3, 0.3, "change of the influx since the step before, in instances"),
    "spare": (
        -600.0,
        101.0,
        "instances beyond those needed when an action of now has its effect, at the present trend",
    ),
}
"""Name -> lowest and highest value, and what it is."""
NAMES = tuple(FIELDS)
LOW, HIGH = (np.array([bounds[side] for bounds in FIELDS.values()], np.float32) for side in (0, 1))


def look(state: State, before: np.ndarray, ended: np.ndarray | None = None) -> np.ndarray:
    """Return the fields (N, F) float32 of environments on NumPy.

    before: items of the step before the last, (N,). ended: which are over, (N,) bool; None: none.
    """
    needed = state["influx"] / legacy.CAPACITY
    rising = (state["influx"] - before) / legacy.CAPACITY
    ahead = needed + AHEAD * rising + state["queue"] / legacy.CAPACITY
    columns = [state["instances"] / legacy.MAX_INSTANCES, state["load"] / 100.0, needed, np.log1p(state["queue"]),
               state["pending"], rising, state["instances"] + state["pending"] - ahead]  # fmt: skip
    found: np.ndarray = np.clip(np.stack(columns, axis=1), LOW, HIGH).astype(np.float32)
    if ended is not None:
        found[ended] = np.where(np.array(NAMES) == "queue", HIGH, np.float32(0.0))
    return found


@dataclass(slots=True)
class LegacyPolicy:
    """A Q-table or a network over FIELDS, from an artifact: the action of the highest value, ties to the first, of a
    table to the middle one: a state that was never met holds, as it did where the table was judged.

    columns: of the fields that are read. network, bins: whichever it has. Raises ArtifactError for an artifact of
    anything else.
    """

    artifact: Artifact
    name: str = field(init=False)
    columns: np.ndarray = field(init=False)
    network: Network | None = field(init=False, default=None)
    bins: Bins | None = field(init=False, default=None)
    scheme: Scheme = field(init=False, default=STEP)
    output: str = field(init=False, default="choices")

    def __post_init__(self) -> None:
        """Read the artifact."""
        require(self.artifact, observation_schema=SCHEMA, action_schemes=(STEP.name,), kinds=(TABLE, MLP))
        manifest, arrays = self.artifact.manifest, self.artifact.arrays
        self.name = str(manifest["name"])
        try:
            self.columns = np.array([NAMES.index(name) for name in manifest["fields"]], np.int64)
            if manifest["kind"] == TABLE:
                self.bins = Bins({str(k): tuple(map(float, v)) for k, v in manifest["parameters"]["bins"]}, NAMES)
                fits = arrays["values"].shape == (self.bins.states, len(legacy.ACTIONS))
            else:
                layers = range(sum(name.startswith("weight_") for name in arrays))
                weights, biases = ([arrays[f"{part}_{at}"] for at in layers] for part in ("weight", "bias"))
                activation = str(manifest["parameters"]["activation"])
                self.network = Network(weights, biases, activation, arrays["mean"], arrays["scale"])
                fits = self.values(LOW[None]).shape == (1, len(legacy.ACTIONS))
        except (KeyError, ValueError, TypeError, IndexError) as problem:
            raise ArtifactError(f"{self.name}: holds no policy of the legacy environment ({problem})") from problem
        if not fits:
            raise ArtifactError(f"{self.name}: has not a value for each of the 3 actions of the legacy environment")

    def values(self, fields: np.ndarray) -> np.ndarray:
        """Return the values (N, 3) of the actions."""
        if self.bins is not None:
            found: np.ndarray = self.artifact.arrays["values"][self.bins.index(np, fields)]
            return found
        assert self.network is not None
        return np.asarray(self.network(np, fields[:, self.columns]))

    def __call__(self, fields: np.ndarray) -> np.ndarray:
        """Return the actions (N,)."""
        values = self.values(fields)
        if self.bins is not None:
            values = values - 1e-9 * np.abs(np.arange(values.shape[1]) - (values.shape[1] - 1) / 2)
        return np.asarray(values.argmax(axis=1))


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode, step by step: arrays (T,) of the state after each step, the action that was taken before it, and
    the reward of it. total: their sum, the return."""

    instances: np.ndarray
    load: np.ndarray
    influx: np.ndarray
    queue: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray

    @property
    def total(self) -> float:
        """The return."""
        return float(self.rewards.sum())

    @property
    def constant(self) -> int | None:
        """The action that was always taken, None where there were several."""
        return int(self.actions[0]) if len(set(self.actions.tolist())) == 1 else None


def played(act: Callable[[State, np.ndarray], Any], steps: int = STEPS, influx: np.ndarray | None = None) -> Episode:
    """Return an episode of SINE_CURVE, as published: the same at every call; or of other items (steps + 1,).

    act: returns the actions (1,) for a state and its fields (1, F).
    """
    state = legacy.start(1, legacy.MAX_INFLUX / 2 if influx is None else influx[0])
    before = state["influx"]
    rows: list[tuple[float, ...]] = []
    for step in range(steps):
        action = np.asarray(act(state, look(state, before)))
        before = state["influx"]
        state, reward, ended = legacy.step(state, action, None if influx is None else influx[step + 1 : step + 2])
        parts = (*(state[name] for name in ("instances", "load", "influx", "queue")), action, reward)
        rows.append(tuple(float(part[0]) for part in parts))
        if ended[0]:
            break
    return Episode(*np.array(rows).T)
