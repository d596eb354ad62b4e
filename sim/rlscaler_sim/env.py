"""Gymnasium environments of the simulated world: one workload, or N at once.

import gymnasium
import rlscaler_sim.env                       # registers the ids
env = gymnasium.make("rlscaler/Scaler-v0")    # or, without the import, "rlscaler_sim.env:rlscaler/Scaler-v0"
envs = gymnasium.make_vec("rlscaler/Scaler-v0", num_envs=64, vectorization_mode="vector_entry_point")
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rlscaler import Objective, Settings
from rlscaler.action import Scheme, scheme
from rlscaler.observation import HIGH, LOW
from rlscaler_sim import scenarios
from rlscaler_sim.batch import Batch, Transition
from rlscaler_sim.load import realise
from rlscaler_sim.pool import Pool, prepare
from rlscaler_sim.world import WorldConfig

ID = "rlscaler/Scaler-v0"
LEGACY_ID = "rlscaler/Legacy-v0"
HOURS = 6.0
STANDARD_REPLICAS = 25.0
"""Replicas that the 95th percentile of a load needs where its scenario does not say."""


@lru_cache(maxsize=8)
def scenario_pool(name: str, loads: int, hours: float, seed: int) -> tuple[Pool, WorldConfig, Settings]:
    """Return a pool of `loads` draws of a scenario's first `hours`, with the world and the settings that go with it.

    Raises ValueError for a scenario that does not exist, and for less load than an episode can run in.
    """
    if loads < 1:
        raise ValueError(f"loads is {loads}; expected 1 or more draws of the scenario")
    found = scenarios.get(name)
    config = WorldConfig(**found.world)
    settings = Settings(
        capacity_per_replica=float(config.capacity_per_replica),
        startup=float(config.startup),
        lag=float(config.lag),
        concurrency=float(config.concurrency),
        interval=float(config.interval),
        objective=Objective(latency=float(config.slo_wait + config.concurrency / config.capacity_per_replica)),
        load_counts="Completions" if config.completions else "Arrivals",
    )
    duration = min(found.duration, hours * 3600.0)
    source = found.source
    draws = [
        realise(
            source,
            interval=float(config.interval),
            duration=duration,
            scale_to=found.scale_to or STANDARD_REPLICAS,
            capacity=float(config.capacity_per_replica),
            rng=np.random.default_rng(stream),
        )
        for stream in np.random.SeedSequence([seed, loads]).spawn(loads)
    ]
    return prepare(draws, config, settings, seed), config, settings


def _require(scenario: str, hours: float, **whole: int) -> None:
    """Raise ValueError, with its name, for an argument that is no text, no number, or no whole one."""
    if not isinstance(scenario, str):
        raise ValueError(f"scenario is {scenario!r}; expected a name, as 'rlscaler scenarios' lists them, or a file's "
                         "path as text")  # fmt: skip
    if not isinstance(hours, int | float | np.number) or np.isnan(hours):
        raise ValueError(f"hours is {hours!r}; expected a number of hours")
    for name, value in whole.items():
        if not isinstance(value, int | np.integer) or (name == "pool_seed" and value < 0):
            raise ValueError(f"{name} is {value!r}; expected a whole number{' from 0 on' * (name == 'pool_seed')}")


def _spaces(choice: Scheme) -> tuple[gymnasium.spaces.Box, gymnasium.Space[Any]]:
    observation = gymnasium.spaces.Box(LOW, HIGH, dtype=np.float32)
    if len(choice.branches) == 1:
        return observation, gymnasium.spaces.Discrete(choice.branches[0])
    return observation, gymnasium.spaces.MultiDiscrete(np.array(choice.branches))


def _allowed(choice: Scheme, mask: np.ndarray) -> np.ndarray:
    """Return a mask (N, choices of the first branch) as Gymnasium's spaces sample by it: int8, and of several branches
    (N,) tuples of a mask of each; as Gymnasium puts together what single environments tell."""
    first = mask.astype(np.int8)
    if len(choice.branches) == 1:
        return first
    found = np.empty(len(first), dtype=object)
    others = [np.ones(count, np.int8) for count in choice.branches[1:]]
    for row, own in enumerate(first):
        found[row] = (own, *(other.copy() for other in others))
    return found


def _chosen(actions: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    """Return actions as int64. Raises ValueError for what is no whole number, or of another shape than the space."""
    found = np.asarray(actions)
    numbers = found.shape == shape and found.dtype.kind in "iuf"
    if not numbers or not (np.isfinite(found) & (found == np.rint(found))).all():
        raise ValueError(f"an action is {actions!r}; expected {'whole numbers' if shape else 'a whole number'}"
                         f"{f' of the shape {shape}' if shape else ''}")  # fmt: skip
    return found.astype(np.int64)


class ScalerEnv(gymnasium.Env[np.ndarray, Any]):
    """One simulated workload whose replicas are to be chosen.

    ## Description
    Requests arrive at a workload whose load is a draw of a scenario. Every 15 s the autoscaler reads metrics that are
    15 to 30 s old and asks for replicas; new pods serve after a start-up delay and are billed from their creation to
    their deletion. Requests that wait too long are late. The observation, the action scheme and the guard are those
    of the cluster: a policy trained here decides there through the same code.

    ## Observation Space
    `Box(96,)` float32: the columns of `rlscaler.observation.FIELDS`, each within its bounds (`rlscaler schema` prints
    name, unit, range and meaning of each). Three groups:

    | group | columns | what |
    |---|---|---|
    | micro | `rel_latest`, `lag_*`, `mean_*`, `max_*`, `min_*`, `noise_*`, `trend` | the last hour relative to the level now |
    | macro | `hour_*` ... `level_*`, `quarter_*`, `yesterday`, `lastweek`, `ahead_*`, `versus_profile`, `experience` | the workload's own growth, day and week |
    | state | `size`, `desired`, `ready`, `starting`, `backlog`, `busy`, `delay`, `reaction`, `startup_share`, `price` | replicas, queue and what is asked for |

    ## Action Space
    By the argument `actions`:

    | scheme | space | meaning |
    |---|---|---|
    | `headroom` (default) | `Discrete(11)` | correction of the log headroom that the own growth makes cheapest: `rlscaler.action.CORRECTIONS`; 5 = none |
    | `step` | `Discrete(3)` | 0: one replica fewer, 1: as many, 2: one more |
    | `branching` | `MultiDiscrete([11, 5])` | correction, and seconds to keep replicas: `rlscaler.action.PATIENCES` |

    `info["action_mask"]` tells which actions differ in effect (bounds), as `action_space.sample(mask=...)` takes it:
    int8, and for `branching` a tuple of one for each dimension, the second of which allows all. Of many environments
    at once, each row is what `single_action_space` takes. `info["replicas"]` tells what was decided.

    ## Rewards
    -(billed / needed + price x late / arrivals): pod-seconds billed in the step over those needed on average, plus the
    price of a violation (20 at an objective of 99.9 %) times the late requests over the average arrivals. Its mean
    over the whole load is -J of the score. A backlog's cost never saturates.

    ## Starting State
    A random moment of a random draw of the scenario, with the history that the workload had by then; as many ready
    replicas as give a utilisation of 50 to 95 %, an empty queue.

    ## Episode End
    Never terminated. Truncated after `episode` steps (240 = one hour), or where the load that was prepared ends.

    ## Arguments
    `scenario`: a name as `rlscaler scenarios` lists them, or a scenario's file. `actions`: the scheme. `episode`:
    steps. `loads`: draws of the scenario that are prepared. `hours`: how much of the scenario is prepared.
    `pool_seed`: what they are drawn from.

    ## Version History
    v0: first.
    """  # noqa: E501 - the row of a table cannot be broken

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium declares it so
    render_mode = None

    def __init__(
        self,
        scenario: str = "working-day",
        actions: str = "headroom",
        episode: int = 240,
        loads: int = 4,
        hours: float = HOURS,
        pool_seed: int = 0,
    ) -> None:
        """Prepare the load, which takes seconds the first time; raises ValueError for arguments out of range."""
        _require(scenario, hours, episode=episode, loads=loads, pool_seed=pool_seed)
        pool, config, settings = scenario_pool(scenario, loads, hours, pool_seed)
        self.scheme = scheme(actions)
        self.observation_space, self.action_space = _spaces(self.scheme)
        self._batch = Batch(pool, config, settings, self.scheme, 1, episode, seed=0)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; the same seed gives the same episode to the bit."""
        super().reset(seed=seed)
        observation = self._batch.reset(int(self.np_random.integers(2**31)))
        return observation[0], {"action_mask": _allowed(self.scheme, self._batch.mask())[0]}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Decide and let the world run for one interval."""
        done = self._batch.step(_chosen(action, self.action_space.shape)[None])
        info = {
            "action_mask": _allowed(self.scheme, self.scheme.mask(self._batch.last_view))[0],
            "replicas": int(done.replicas[0]),
            "cost": float(done.cost[0]),
            "late": float(done.late[0]),
        }
        return done.last[0], float(done.reward[0]), False, bool(done.truncated[0]), info


class ScalerVectorEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """N workloads at once, as `ScalerEnv` in everything else.

    Ended episodes start anew in the same step (`AutoresetMode.SAME_STEP`): the observation is the new episode's, and
    `infos["final_obs"]` holds the last one of the old, which is the one to bootstrap from, since nothing terminates.

    Wrappers that want the start one step later (`NEXT_STEP`), such as Gymnasium's `NormalizeObservation` of many,
    refuse it. They go around Gymnasium's own vector, which steps one `ScalerEnv` after the other and is as much slower:
    `make_vec(..., vectorization_mode="sync")`. Here, scale by the bounds of `single_observation_space`,
    which are finite.
    """

    def __init__(
        self,
        num_envs: int = 1,
        scenario: str = "working-day",
        actions: str = "headroom",
        episode: int = 240,
        loads: int = 4,
        hours: float = HOURS,
        pool_seed: int = 0,
    ) -> None:
        """Make `num_envs` environments on one pool of load; raises ValueError for arguments out of range."""
        _require(scenario, hours, num_envs=num_envs, episode=episode, loads=loads, pool_seed=pool_seed)
        pool, config, settings = scenario_pool(scenario, loads, hours, pool_seed)
        self.num_envs = num_envs
        self.scheme = scheme(actions)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}
        self.single_observation_space, self.single_action_space = _spaces(self.scheme)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._batch = Batch(pool, config, settings, self.scheme, num_envs, episode, seed=0)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start N episodes; the same seed gives the same episodes to the bit, and a list counts as one seed."""
        super().reset(seed=_one_seed(seed))
        observation = self._batch.reset(int(self.np_random.integers(2**31)))
        told = {"action_mask": _allowed(self.scheme, self._batch.mask())}
        return observation, _masked(told, np.ones(self.num_envs, bool))

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Decide for all and let the world run for one interval."""
        done: Transition = self._batch.step(_chosen(actions, self.action_space.shape))
        told = {"replicas": done.replicas, "cost": done.cost, "late": done.late}
        mask = _allowed(self.scheme, self._batch.mask())
        infos = _masked({"action_mask": mask, **told}, np.ones(self.num_envs, bool))
        if done.truncated.any():
            final = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(done.truncated):
                final[row] = done.last[row]
            ended = {"action_mask": _allowed(self.scheme, self.scheme.mask(self._batch.last_view)), **told}
            infos |= _masked({"final_obs": final, "final_info": _masked(ended, done.truncated)}, done.truncated)
        return done.observation, done.reward, np.zeros(self.num_envs, bool), done.truncated, infos


def _one_seed(seed: int | Sequence[int | None] | None) -> int | None:
    """Return the seed of all environments where each may have been given its own; None for chance."""
    if not isinstance(seed, Sequence):
        return seed
    given = [s for s in seed if s is not None]
    if len(given) > 1:
        return int(np.random.SeedSequence(given).generate_state(1)[0])
    return given[0] if given else None


def _masked(infos: dict[str, Any], which: np.ndarray) -> dict[str, Any]:
    """Return infos of many environments in Gymnasium's form: beside each, as _NAME, (N,) bool which of them have it."""
    return infos | {f"_{name}": which for name in infos}


def register() -> None:
    """Register the ids with Gymnasium, unless they are."""
    if ID not in gymnasium.registry:
        gymnasium.register(
            ID,
            entry_point="rlscaler_sim.env:ScalerEnv",
            vector_entry_point="rlscaler_sim.env:ScalerVectorEnv",
        )
    if LEGACY_ID not in gymnasium.registry:
        gymnasium.register(LEGACY_ID, entry_point="rlscaler_sim.legacy_env:LegacyScalingEnv", max_episode_steps=200)


register()
