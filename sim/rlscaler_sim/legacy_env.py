"""`legacy` as a Gymnasium environment. Needs the extra `gym`; `rlscaler_sim.legacy` itself does not."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlscaler_sim import legacy


class LegacyScalingEnv(gymnasium.Env[np.ndarray, np.int64]):
    """The queue-scaling environment of earlier work (adobe/gym-scaling), with its faults.

    ## Description
    Items arrive at a pool of identical instances, and an agent adds or removes one instance at a time. One
    step is 300 s; an instance works off 87 items in it. It is here so that published results can be
    reproduced and compared with what was possible; for anything else use the world of this package.
    `rlscaler_sim.legacy` lists the faults.

    ## Action space
    `Discrete(3)`. An action takes effect one step later: the boot time of an instance.

    | action | meaning                                |
    |-------:|----------------------------------------|
    |      0 | remove an instance (the oldest)        |
    |      1 | do nothing                             |
    |      2 | add an instance                        |

    ## Observation space
    `Box(5,)` of float32. The original declares the shape (1, 5) and float32 and returns (5,) and float64;
    here what is declared is returned.

    | index | observation                                           | min |    max | unit             |
    |------:|-------------------------------------------------------|----:|-------:|------------------|
    |     0 | instances / 100, after the change of this step        |   0 |      1 | share of 100     |
    |     1 | load before the change, in whole percent / 100        |   0 |      1 | share of index 2 |
    |     2 | capacity before the change                            | 174 |   8700 | items per step   |
    |     3 | influx of this step                                   |   0 |   4350 | items per step   |
    |     4 | queue                                                 |   0 | 47,850 | items            |

    ## Rewards
    `-(1 - load) * instances / 100 - queue / (1 + queue)`, with the load before the change and the instances
    after it, and 0.1 less where the change would have left 2 to 100 instances. Never above 0.

    ## Starting state
    50 instances, an empty queue, load 0, no change pending; the influx of step 0 is shown and never arrives.

    ## Episode end
    Termination: the queue is above 43,500. Truncation: never; the published episodes have 200 steps
    (`gymnasium.wrappers.TimeLimit(env, 200)`).

    ## Arguments
    pattern: how items arrive, one of `legacy.PATTERNS`:

    | pattern    | items in step t                                                       |
    |------------|-----------------------------------------------------------------------|
    | SINE_CURVE | ceil((sin(0.01 t) + 1) 4350 / 2); all published results               |
    | STEADY     | 2425                                                                  |
    | SINUSOIDAL | 500 + ceil((sin(0.01 t) + 1) 3850 / 2)                                |
    | SPIKE      | 1655; in the first 20 of every 500 steps a triangle up to 3580        |
    | POISSON    | Poisson with mean 2425, kept within 500 to 4350                       |
    | RANDOM     | uniform over 500 to 4350                                              |

    change_rate: steps for which a value stays. 1 as published; the original's own default is 10,000.

    Random patterns draw from `np_random`, seeded by `reset(seed=...)`; the original seeds global generators,
    so its very draws are not reproduced.

    ## Info
    `published_cost` and `instance_cost`: dollars so far, as earlier work reports them and as instance-hours
    cost; only where the episode has terminated. The properties of the same names give them at any time.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own declaration
    render_mode = None

    def __init__(self, pattern: str = "SINE_CURVE", change_rate: int = 1) -> None:
        """Make the environment; raises ValueError for an unknown pattern or a rate that is not 1, 2, ..."""
        if not isinstance(change_rate, int | np.integer):
            raise ValueError(f"change_rate is {change_rate!r}; expected a whole number of steps, 1 or more")
        legacy.influx(pattern, 0, np.random.default_rng(0), change_rate)
        self.pattern = pattern
        self.change_rate = change_rate
        self.action_space = spaces.Discrete(len(legacy.ACTIONS))
        low = np.array([0, 0, legacy.MIN_INSTANCES * legacy.CAPACITY, 0, 0], np.float32)
        high = [
            1,
            1,
            legacy.MAX_INSTANCES * legacy.CAPACITY,
            legacy.MAX_INFLUX,
            legacy.MAX_QUEUE + legacy.MAX_INFLUX,
        ]
        self.observation_space = spaces.Box(low, np.array(high, np.float32), dtype=np.float32)
        self._state: dict[str, Any] = {}
        self._instances: list[float] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; `options` are not used."""
        super().reset(seed=seed)
        self._state = legacy.start(1, legacy.items(self.pattern, np.zeros(1), self.np_random))
        self._instances = [legacy.START_INSTANCES]
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Run one step; raises ValueError for an action that is none of 0, 1 and 2."""
        chosen = np.asarray(action)
        if chosen.size != 1 or chosen.dtype.kind not in "biuf" or (chosen != np.rint(chosen)).any():
            raise ValueError(f"an action is {action!r}; expected 0 (remove), 1 (hold) or 2 (add)")
        time = self._state["time"] + 1
        influx = self._state["influx"]
        if time[0] % self.change_rate == 0:
            influx = legacy.items(self.pattern, time, self.np_random)
        self._state, reward, ended = legacy.step(self._state, chosen.reshape(1), influx)
        self._instances.append(float(self._state["instances"][0]))
        info = {}
        if ended[0]:
            info = {"published_cost": self.published_cost, "instance_cost": self.instance_cost}
        return self._observation(), float(reward[0]), bool(ended[0]), False, info

    def _observation(self) -> np.ndarray:
        return np.asarray(legacy.observe(self._state)[0], np.float32)

    @property
    def published_cost(self) -> float:
        """Dollars of the episode so far as earlier work reports them; see `legacy.published_cost`."""
        return float(legacy.published_cost(np.array(self._instances)))

    @property
    def instance_cost(self) -> float:
        """Dollars of the instance-hours of the episode so far."""
        return float(legacy.instance_cost(np.array(self._instances)))
