"""Random histories for `behavior`: irregular times, failed metrics, failed writes, changes by others."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscaler import behavior
from rlscaler.arrays import State
from rlscaler.behavior import DEFAULT, Behavior, ScalingPolicy, ScalingRules

NAN = float("nan")
FREE = ScalingRules(0.0, "Max", ())


def rules(*policies: tuple[Any, int, float], window: float = 0.0, select: Any = "Max") -> ScalingRules:
    return ScalingRules(window, select, tuple(ScalingPolicy(*policy) for policy in policies))


def compiled(behaviors: list[Behavior | None], low: Any = 1, high: Any = 100, interval: Any = 15.0) -> State:
    n = len(behaviors)
    plain = {"min_replicas": low, "max_replicas": high, "interval": interval}
    return behavior.compiled(behaviors) | {
        k: np.array(np.broadcast_to(np.asarray(v, float), (n,))) for k, v in plain.items()
    }


@dataclass
class History:
    """Rows (N) and what happens to them at each step (T, N)."""

    behaviors: list[Behavior | None]
    low: np.ndarray
    high: np.ndarray
    interval: np.ndarray
    start: np.ndarray
    time: np.ndarray
    desired: np.ndarray
    lands: np.ndarray
    foreign: np.ndarray

    def settings(self) -> State:
        return compiled(self.behaviors, self.low, self.high, self.interval)

    def moved(self, step: int, current: np.ndarray, replicas: np.ndarray) -> np.ndarray:
        """Return the counts before the next step; nobody sets a count back to what it was."""
        lands, foreign = self.lands[step], self.foreign[step]
        after = np.where(lands, replicas, current)
        return np.where(lands & ~np.isnan(foreign) & (foreign != current), foreign, after)

    def decided(self, xp: Any = np) -> tuple[np.ndarray, np.ndarray]:
        """Return replicas and reasons (T, N) of all rows at once, whatever `resized` does meanwhile."""
        options = {k: xp.asarray(v) for k, v in self.settings().items()}
        memory = behavior.state(options, len(self.behaviors))
        current, counts, why = self.start, [], []
        for step, (now, want) in enumerate(zip(self.time, self.desired, strict=True)):
            arguments = (xp.asarray(a) for a in (now, current, want))
            replicas, bits, memory = behavior.apply(xp, options, memory, *arguments)
            counts.append(np.asarray(replicas))
            if step % 20 == 7:
                memory = behavior.resized(memory, options)
            why.append(np.asarray(bits))
            current = self.moved(step, current, counts[-1])
        return np.stack(counts), np.stack(why)


def random_rules(rng: np.random.Generator) -> ScalingRules:
    policies = [
        (
            ("Pods", "Percent")[rng.integers(2)],
            int(rng.choice([1, 2, 4, 5, 10, 13, 33, 50, 100, 1000])),
            period,
        )
        for period in rng.choice([1, 7, 15, 30, 60, 90, 300, 1800], rng.integers(1, 5)).tolist()
    ]
    select = ("Max", "Max", "Min", "Disabled")[rng.integers(4)]
    return rules(*policies, window=float(rng.choice([0, 0, 15, 60, 100, 300, 3600])), select=select)


def random_history(seed: int, n: int = 40, steps: int = 60) -> History:
    rng = np.random.default_rng(seed)
    mixed = [Behavior(random_rules(rng), random_rules(rng)) for _ in range(n)]
    behaviors: list[Behavior | None] = [(None, DEFAULT)[rng.integers(2)] if rng.random() < 0.2 else b for b in mixed]
    low = rng.choice([0, 1, 1, 5], n).astype(float)
    high = low + rng.choice([1, 10, 100, 1000], n)
    interval = rng.choice([5.0, 15.0, 30.0], n)
    gaps = rng.choice([0.5, 0.75, 1.0, 1.0, 1.0, 1.5, 4.0, 20.0], (steps, n)) * interval
    level = rng.uniform(0, 1.2 * high, n) + np.cumsum(rng.normal(0, 0.1, (steps, n)) * high, axis=0)
    desired = np.floor(np.clip(level, 0, None))
    desired[rng.random((steps, n)) < 0.07] = NAN
    foreign = np.where(rng.random((steps, n)) < 0.05, np.floor(rng.uniform(0, high + 3, (steps, n))), NAN)
    return History(
        behaviors=behaviors,
        low=low,
        high=high,
        interval=interval,
        start=np.floor(rng.uniform(0, high + 2)),
        time=1.7e9 + np.cumsum(gaps, axis=0) + rng.integers(0, 1000, n),
        desired=desired,
        lands=rng.random((steps, n)) < 0.9,
        foreign=foreign,
    )
