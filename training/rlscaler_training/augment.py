"""More load from recorded load: warped in time, scaled, made noisier, mixed with another, begun elsewhere.

There are few recorded loads, and what a policy learns of them by heart is of no use on the next one. A variant keeps
what makes load real (its bursts, its days, its scatter) and changes what is an accident of one recording: how fast it
runs, how deep its nights are, how much it jumps about, where it begins. Pure functions of a load and a generator.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rlscaler_sim import patterns
from rlscaler_sim.load import PERCENTILE, Load

SPEEDS = (0.5, 2.0)
"""Range of the mean speed of a warped load."""
WANDER = 0.25
"""Standard deviation of the logarithm of the speed within a warped load, over hours."""
CONTRASTS = (0.6, 1.6)
"""Range of the power that the ratio to the mean is raised to."""
SIZES = (0.4, 2.4)
"""Range of the size of a scaled load, in its usual size."""
SPREADS = (0.01, 0.10)
"""Range of the standard deviation of added noise."""
CORRELATIONS = (30.0, 900.0)
"""Range of its correlation time, seconds."""
SHARES = (0.2, 0.8)
"""Range of the share that one load has in a mixture of two."""
_HOUR = 3600.0


def _between(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Return a number between the bounds, evenly in the logarithm."""
    return float(np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]))))


def to_size(load: Load, replicas: float, capacity: float) -> Load:
    """Return the load with the 95th percentile of its known demand at so many replicas of `capacity` requests/s."""
    level = float(np.percentile(load.rates[load.known], PERCENTILE)) if load.known.any() else 0.0
    return replace(load, rates=load.rates * np.float32(replicas * capacity / level)) if level > 0.0 else load


def begun(load: Load, ticks: int, rng: np.random.Generator, per: int) -> Load:
    """Return so many ticks of the load from a random moment on, as if it had begun there: a cold start.

    per: ticks of one decision; the moment is a multiple of it. A shorter load comes whole.
    """
    spare = (len(load.rates) - ticks) // per
    first = per * int(rng.integers(spare + 1)) if spare > 0 else 0
    part = slice(first, first + min(ticks, len(load.rates)))
    return replace(
        load, rates=load.rates[part], known=load.known[part], scored=load.scored[part],
        start=load.start + first * load.tick,
    )  # fmt: skip


def warped(load: Load, rng: np.random.Generator, per: int) -> Load:
    """Return the load at another speed, which wanders over hours; shorter or longer by it, in whole decisions."""
    ticks = len(load.rates)
    cells = max(2, round(ticks * load.tick / _HOUR))
    wander = np.exp(WANDER * patterns.ar1(rng, cells, _HOUR, 6.0 * _HOUR))
    speed = _between(rng, SPEEDS) * np.interp(np.linspace(0.0, cells - 1.0, ticks), np.arange(cells), wander)
    passed = np.concatenate([[0.0], np.cumsum(1.0 / speed)])  # ticks of the new load at each of the old one
    length = int(passed[-1]) // per * per
    if length < per:
        return load
    at = np.interp(np.arange(length) + 0.5, passed, np.arange(ticks + 1.0)) - 0.5
    nearest = np.clip(np.round(at).astype(np.int64), 0, ticks - 1)
    rates = np.interp(at, np.arange(ticks), load.rates).astype(np.float32)
    return replace(load, rates=rates, known=load.known[nearest], scored=load.scored[nearest])


def scaled(load: Load, rng: np.random.Generator, capacity: float, replicas: float) -> Load:
    """Return the load with deeper or shallower valleys, at another size. replicas, capacity: see `variant`."""
    mean = float(load.rates.mean())
    if mean <= 0.0:
        return load
    rates = mean * (load.rates / mean) ** np.float32(_between(rng, CONTRASTS))
    return to_size(replace(load, rates=rates.astype(np.float32)), replicas * _between(rng, SIZES), capacity)


def noised(load: Load, rng: np.random.Generator, per: int) -> Load:
    """Return the load times noise of mean 1, one value a decision, of random strength and memory."""
    spread, correlation = _between(rng, SPREADS), _between(rng, CORRELATIONS)
    count = -(-len(load.rates) // per)
    noise = spread * patterns.ar1(rng, count, per * load.tick, correlation)
    factor = np.exp(noise - 0.5 * spread * spread).astype(np.float32)
    return replace(load, rates=load.rates * np.repeat(factor, per)[: len(load.rates)])


def mixed(one: Load, other: Load, rng: np.random.Generator) -> Load:
    """Return the sum of two loads, each relative to its mean, over the shorter one's length; sized as the first."""
    ticks = min(len(one.rates), len(other.rates))
    share = rng.uniform(*SHARES)
    a, b = (load.rates[:ticks] / max(float(load.rates.mean()), 1e-9) for load in (one, other))
    rates = (float(one.rates.mean()) * (share * a + (1.0 - share) * b)).astype(np.float32)
    known = one.known[:ticks] & other.known[:ticks]
    return replace(one, name=f"{one.name}+{other.name}", rates=rates, known=known, scored=known.copy())


def variant(
    load: Load, others: Sequence[Load], ticks: int, rng: np.random.Generator, *, per: int, capacity: float,
    replicas: float,
) -> Load:  # fmt: skip
    """Return a variant of the load of so many ticks at most.

    others: what it may be mixed with, of families that it may be trained with. per: ticks of a decision. capacity:
    requests/s of a replica. replicas: usual size, kept unless the variant is one of another size.
    """
    whole = load
    made = begun(whole, 2 * ticks, rng, per)
    if others and rng.random() < 0.3:
        made = mixed(made, begun(others[int(rng.integers(len(others)))], 2 * ticks, rng, per), rng)
    if rng.random() < 0.6:
        made = warped(made, rng, per)
    made = to_size(begun(made, ticks, rng, per), replicas, capacity)
    if rng.random() < 0.6:
        made = scaled(made, rng, capacity, replicas)
    if rng.random() < 0.5:
        made = noised(made, rng, per)
    return made
