"""N environments at once: the world, the guard and a pool of load; actions in, observations and rewards out.

What learners train on. The environments of `env` are thin wrappers of it, and the decision path is the one of
dry-run and cluster: the same view, observation, action scheme and guard.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlscaler import Autoscaler, Settings
from rlscaler.action import Scheme
from rlscaler.arrays import Array, namespace
from rlscaler.decisions import Decisions
from rlscaler.observation import observe
from rlscaler.policy import View
from rlscaler.rows import Picked
from rlscaler_sim import world
from rlscaler_sim.chance import Chance, NumpyChance, Part, TorchChance, Twice
from rlscaler_sim.device_scaler import DeviceScaler
from rlscaler_sim.pool import WARM_UP, Pool, settings_of, varied

START_TARGETS = (0.5, 0.95)
"""Range of utilisation at which an episode starts."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What one step gave, arrays (N,) of the batch's library unless stated.

    observation: (N, F) float32, of the new episode where `truncated`. last: (N, F) the observation that the ended
    step led to. reward: float64. cost, late: the two parts of -reward, billed over needed and price x late share.
    twin: reward of each environment's twin (see `Batch`), None where there are none.
    """

    observation: Array
    last: Array
    reward: Array
    truncated: Array
    cost: Array
    late: Array
    replicas: Array
    twin: Array | None = None


class Batch:
    """N environments over a pool of loads. reward = -(billed / needed + price x late / arrivals), both relative to
    the load's mean, so that its mean over the whole load is -J of the score. Episodes are cut after `episode` steps (or
    where the load ends) and never end otherwise; the backlog's cost never saturates. Metrics are missing where the
    pool's are: its loads have been through the gaps already.

    Each load may have a world and settings of its own (see `pool.prepare`); an environment has those of the load that
    its episode meets. progress: share of a training that is done, which the pool's curriculum opens loads by; all are
    open where nobody sets it.
    """

    progress = 1.0

    def __init__(
        self,
        pool: Pool,
        config: world.WorldConfig,
        settings: Settings,
        scheme: Scheme,
        n: int,
        episode: int,
        seed: int,
        like: Array = None,
        *,
        twin: Sequence[int] | None = None,
        part: tuple[int, int] | None = None,
    ) -> None:
        """Start `n` environments with episodes of at most `episode` steps.

        config, settings: those that the pool was prepared with, of one behaviour. like: a tensor on whose device all
        of it lives, load, world, guard and random numbers (None: NumPy); what comes out are tensors then. twin: choice
        of each branch that a second copy of every environment takes at every step, under the same load, noise and
        resets; what it earns is `Transition.twin`, and nothing else is told of it. part: (first, many), these are
        the environments from number `first` on of a batch of `many`, and go as they go there, if the batch is `even`.
        Raises ValueError where no step could be made.
        """
        for name, value, least in (("n", n, 1), ("episode", episode, 1), ("steps of the pool", pool.steps, 2)):
            if value < least:
                raise ValueError(f"{name} is {value}; expected {least} or more")
        self.pool, self.scheme, self.n, self.episode, self.like = pool, scheme, n, episode, like
        self.xp = xp = np if like is None else namespace(like)
        self._part = part
        self.config = replace(config, fano=1.0, gap_rate=0.0, interval=pool.interval)
        self.settings = settings
        self._varied = varied(self.config, settings)
        if self._varied and isinstance(settings.behavior, Sequence):
            raise ValueError("behavior is given for each load; expected one for all")
        self._rows = n if twin is None else 2 * n
        # constants of the loads where these differ, of the environments where not
        self._worlds = world.compiled(self.config, pool.loads if self._varied else self._rows, like=like)
        self.params = self._worlds
        device = getattr(like, "device", None)
        self._twin: Array | None = None
        if twin is not None:
            choices = twin[0] if len(scheme.branches) == 1 else list(twin)
            self._twin = xp.asarray(np.full((n, *np.shape(choices)), choices, np.int64), device=device)

        def own(array: Any) -> Array:
            return array if like is None else xp.asarray(np.ascontiguousarray(array), device=device)

        def rows(array: np.ndarray) -> Array:
            return own(array.reshape(-1, *array.shape[2:]))

        self._places = xp.arange(self._rows, device=device)
        self._features = {name: rows(array) for name, array in pool.features.items()}
        self._observed, self._rates, self._seen = rows(pool.observed()), rows(pool.rates), rows(pool.seen)
        self._start, self._needed, self._arrivals = own(pool.start), own(pool.mean_needed), own(pool.mean_arrivals)
        self._known = own(np.isfinite(pool.features["level"]).argmax(axis=1))
        self._price, self._low, self._high = (
            own(np.array(np.broadcast_to(np.asarray(value, np.float64), (pool.loads,))))
            for value in (settings.objective.price, settings.min_replicas, settings.max_replicas)
        )
        self.reset(seed)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Batch":
        """Return a batch on NumPy that goes on as this one would, and apart from it: for those who look ahead.

        The pool, which nothing is written to, is shared, and so are array libraries, which cannot be copied.
        """
        for shared in (self.pool, self.xp, self.view.xp, self._features, self._observed, self._rates, self._seen):
            memo[id(shared)] = shared
        found = object.__new__(type(self))
        memo[id(self)] = found
        for name, value in vars(self).items():
            setattr(found, name, deepcopy(value, memo))
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Return all of it but the array library, NumPy's, which no module can be pickled with.

        Raises TypeError on a device, whose random numbers cannot be.
        """
        if self.like is not None:
            raise TypeError("a batch on a device cannot be pickled; expected one on NumPy")
        bare = {name: replace(getattr(self, name), xp=None) for name in _WITH_LIBRARY}
        return vars(self) | bare | {"xp": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on as the one that was pickled would."""
        vars(self).update(state, xp=np)
        for name in _WITH_LIBRARY:
            setattr(self, name, replace(state[name], xp=np))

    def reset(self, seed: int) -> Array:
        """Start anew, reproducible to the bit, and return the observation (N, F)."""
        self.chance: Chance
        self.scaler: Autoscaler | DeviceScaler
        self.load, self.at, self.age = (self.xp.zeros_like(self._places) for _ in range(3))
        if self.like is None:
            self.chance = NumpyChance(seed)
            self.scaler = self.autoscaler(self.load)
        else:
            self.chance = TorchChance(seed, self.like)
            self.scaler = DeviceScaler(self.settings, self._rows, self.like, self.pool.loads if self._varied else 0)
        if self._part is not None:
            self.chance = Part(self.chance, *self._part)
        if self._twin is not None:
            self.chance = Twice(self.chance, self.xp)
        self.enter()
        self.state = world.initial(self.params, 1.0)
        self._begin(self._places)
        observation = self._look()
        self.last_view = self.seen_view
        return observation

    def autoscaler(self, loads: np.ndarray) -> Autoscaler:
        """Return what decides for one row of each of these loads, (M,) indices, without a history of its own."""
        settings = settings_of(self.settings, loads) if self._varied else self.settings
        return Autoscaler("growth-quantile", settings, len(loads), remembers=False)

    @property
    def even(self) -> bool:
        """Whether the episodes of all environments end together, wherever in a load they begin."""
        latest = max(min(WARM_UP, self.pool.steps // 4), self.pool.steps - self.episode - 2)
        if self.pool.cold:
            latest = max(latest, int(self._known.max()))
        return latest + self.episode <= self.pool.steps - 1

    @property
    def price(self) -> Array:
        """Price of the share of late requests in each environment, (N,)."""
        return self._price[self.load[: self.n]]

    def enter(self, rows: Array = None) -> None:
        """Put the environments into the worlds of their loads; rows: those whose load is new (None: all)."""
        if not self._varied:
            return
        self.params = world.selected(self._worlds, self.load)
        rows = self._places if rows is None else rows
        if isinstance(self.scaler, DeviceScaler):
            self.scaler.become(rows, self.load[rows])
        else:
            self.scaler.update(rows, settings_of(self.settings, self.load[rows]))

    def _begin(self, rows: Array) -> None:
        """Start new episodes in these rows, each at a random moment of a random load that is open."""
        xp, count = self.xp, rows.shape[0]
        self.load[rows] = self.chance.integers(0, self.pool.opened(self.progress), count)
        self.enter(rows)
        first = min(WARM_UP, self.pool.steps // 4)
        last = max(first + 1, self.pool.steps - self.episode - 1)
        at = self.chance.integers(first, last, count)
        if self.pool.cold:  # a workload has replicas by the time of its first known load
            early = xp.maximum(self.chance.integers(0, max(first, 1), count), self._known[self.load[rows]])
            at = xp.where(self.chance.uniform(0.0, 1.0, count) < self.pool.cold, early, at)
        self.at[rows] = at
        self.age[rows] = 0
        level = self._features["level"][self.load[rows] * self.pool.steps + self.at[rows]]
        target = self.chance.uniform(*START_TARGETS, count)
        replicas = xp.ceil(xp.where(xp.isnan(level), 0.0, level) / target)
        low, high = self._low[self.load[rows]], self._high[self.load[rows]]
        replicas = xp.minimum(xp.maximum(replicas, xp.clip(low, 1.0, None)), high)
        several = xp.ones_like(self.params.capacity)
        several[rows] = xp.astype(replicas, xp.float32)
        fresh = world.initial(self.params, several)
        self.state = fresh if count == self._rows else world.replaced(self.params, self.state, fresh, rows)
        self.scaler.reset(rows)

    def _look(self) -> Array:
        """Read the metrics and return the observation."""
        moment = self.load * self.pool.steps + self.at
        time = self._start[self.load] + self.at * self.pool.interval
        seen = self._seen[moment]
        reading = replace(world.readings(self.params, self.state, time, self.xp.isfinite(seen)), load=seen)
        self.view: View = self.scaler.view(reading, features=Picked(self._features, moment))
        self.seen_view = self.view
        if self._twin is not None:
            moment = moment[: self.n]
            self.seen_view = _first(self.view, self.n, Picked(self._features, moment))
        return observe(self.seen_view, self._observed[moment])

    def mask(self) -> Array:
        """Return the allowed actions of the present observation, (N, actions) bool."""
        return self.scheme.mask(self.seen_view)

    def step(self, actions: Any) -> Transition:
        """Decide by `actions`, (N,) int64 or (N, branches), and let the world run for one interval.

        Raises ValueError for an action that the scheme does not have (on a device nothing is checked, which would
        wait for it).
        """
        if self.like is None:
            actions = np.asarray(actions, np.int64)
            if (actions < 0).any() or (actions >= self.scheme.branches).any():
                raise ValueError(
                    f"an action is {actions.min()} or {actions.max()}; expected 0 to below {self.scheme.branches}"
                )
        if self._twin is not None:
            actions = self.xp.concat([actions, self._twin])
        return self.advance(self.scaler.settle(self.view, self.scheme.propose(self.view, actions)))

    def advance(self, decided: Decisions) -> Transition:
        """Let the world run for one interval on decisions that were made on `view`, whoever made them."""
        xp = self.xp
        rates = self._rates[self.load * self.pool.steps + self.at].T
        drawn = self.chance.draws(self.params)
        self.state, out = world.step(self.params, self.state, xp.astype(decided.replicas, xp.float32), rates, drawn)
        cost = out.billed / self._needed[self.load]
        late = self._price[self.load] * out.late / self._arrivals[self.load]
        self.at += 1
        self.age += 1
        last, self.last_view = self._look(), self.seen_view
        truncated = (self.age >= self.episode) | (self.at >= self.pool.steps - 1)
        observation = last
        if bool(truncated.any()):
            if self._varied and isinstance(self.scaler, Autoscaler):  # which writes its settings in place
                told = {name: array.copy() for name, array in self.seen_view.settings.items()}
                self.last_view = replace(self.seen_view, settings=told)
            self._begin(xp.nonzero(truncated)[0])
            observation = self._look()
        reward, n = -(cost + late), self.n
        return Transition(
            observation=observation,
            last=last,
            reward=reward[:n],
            truncated=truncated[:n],
            cost=cost[:n],
            late=late[:n],
            replicas=decided.replicas[:n],
            twin=None if self._twin is None else reward[n:],
        )


_WITH_LIBRARY = ("_worlds", "params", "view", "seen_view", "last_view")


def _first(view: View, n: int, features: Mapping[str, Array]) -> View:
    """Return the view of the first n rows; features: of these."""
    return replace(
        view,
        settings={name: array[:n] for name, array in view.settings.items()},
        snapshot={name: array[:n] for name, array in view.snapshot.items()},
        features=features,
        demand=view.demand[:n],
        current=view.current[:n],
    )
