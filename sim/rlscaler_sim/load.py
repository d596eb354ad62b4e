"""The load that the world serves: a recorded trace or a made-up pattern, on the world's ticks and to its
scale.

The noise that is added here decides what a policy can win, so it is part of the standard world: change none
of its constants without saying so beside the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np

from rlscaler.arrays import Array
from rlscaler_sim import patterns
from rlscaler_sim.patterns import DAY, Pattern
from rlscaler_sim.trace import Trace

Source = Trace | Pattern
"""What can be realised as load."""

PERCENTILE = 95.0
"""Percentile of demand that is scaled to a stated number of replicas."""
LARGEST_RATE = 1e12
"""Requests/s beyond which a load is taken for a mistake."""
COARSE = 300.0
"""Seconds of a bucket from which on the slow jitter is added to the fast one."""
FAST_JITTER = {"spread": 0.05, "correlation": 60.0}
SLOW_JITTER = {"spread": 0.07, "correlation": 600.0}


class LoadError(ValueError):
    """A source cannot be realised as asked; the message names the source, the value and what is expected."""


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Load of one workload over time.

    name: of the source. tick: seconds. rates: (T,) float32 requests/s that arrive. known: (T,) bool, the
    source has an observation there; elsewhere the world serves interpolated load and the metrics are unknown.
    scored: (T,) bool, requests of the tick count for the score. start: time of the first tick in seconds, on
    the clock of the source. T is a whole number of decision intervals.
    """

    name: str
    tick: float
    rates: np.ndarray
    known: np.ndarray
    scored: np.ndarray
    start: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Loads:
    """Load of R workloads, padded to the longest with rates of 0 that are neither known nor scored.

    names: R names of sources. seeds: (R,) int64. source: (R,) int64 index into the sources given. tick:
    seconds. rates: (R, T) float32 requests/s. known, scored: (R, T) bool. lengths: (R,) int64 ticks. start:
    (R,) float64 seconds. Row s * len(seeds) + k holds source s with seed k.
    """

    names: tuple[str, ...]
    seeds: np.ndarray
    source: np.ndarray
    tick: float
    rates: np.ndarray
    known: np.ndarray
    scored: np.ndarray
    lengths: np.ndarray
    start: np.ndarray

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.names)

    def row(self, index: int) -> Load:
        """Return one row without its padding (views, not copies)."""
        part = (index, slice(0, int(self.lengths[index])))
        return Load(
            self.names[index],
            self.tick,
            self.rates[part],
            self.known[part],
            self.scored[part],
            float(self.start[index]),
        )


@dataclass(frozen=True, slots=True)
class _Grid:
    """Ticks, the decision intervals that they fill, and the scale; see `realise`."""

    tick: float
    interval: float
    duration: float | None
    start: float
    scale_to: float | None
    capacity: float
    noisy: bool
    per: int = field(init=False)

    def __post_init__(self) -> None:
        """Refuse values that no load can be realised with."""
        for name in ("tick", "interval", "duration", "scale_to", "capacity"):
            value = getattr(self, name)
            endless = name == "duration" and value == float("inf")
            if value is not None and not endless and not 0.0 < value < float("inf"):
                raise LoadError(f"{name} is {value:g}; expected a number above 0")
        if not 0.0 <= self.start < float("inf"):
            raise LoadError(f"start is {self.start:g}; expected 0 or more seconds into the source")
        per = round(self.interval / self.tick)
        if per < 1 or abs(per * self.tick - self.interval) > 1e-9 * self.interval:
            raise LoadError(f"interval is {self.interval:g} s; expected whole ticks of {self.tick:g} s")
        object.__setattr__(self, "per", per)

    def ticks(self, name: str, available: float | None) -> int:
        """Return the number of ticks: whole intervals within the duration and what the source holds."""
        span = DAY if available is None else available - self.start
        if self.duration is not None:
            span = self.duration if available is None else min(span, self.duration)
        if span == float("inf"):
            raise LoadError(f"{name}: duration is infinite; expected seconds, for a pattern has no end")
        whole = int(np.floor(span / self.interval + 1e-9))
        if whole < 1:
            raise LoadError(
                f"{name}: {max(span, 0.0):g} s are left from {self.start:g} s on; expected at least "
                f"one interval of {self.interval:g} s, so start earlier or run longer"
            )
        return whole * self.per


def generator(name: str, seed: int) -> np.random.Generator:
    """Return the generator of a source's noise; it depends on its name and the seed (0 or more) alone."""
    if seed < 0:
        raise LoadError(f"seed is {seed}; expected 0 or more")
    return np.random.default_rng(np.random.SeedSequence([seed, crc32(name.encode())]))


def realise(
    source: Source,
    *,
    tick: float = 3.0,
    interval: float = 15.0,
    duration: float | None = None,
    start: float = 0.0,
    scale_to: float | None = 25.0,
    capacity: float = 10.0,
    rng: np.random.Generator,
    jitter: bool = True,
) -> Load:
    """Return a source as load on ticks.

    tick: seconds. interval: seconds between decisions, a whole number of ticks. duration: seconds at most
    (None: the rest of a trace, as infinity; a day of a pattern), cut to whole intervals. start: seconds into
    the source.
    scale_to: replicas that the 95th percentile of demand (rate / capacity over the known ticks of the load
    that is returned) equals; where that percentile is 0 the largest demand takes its place, and a load of 0
    throughout stays 0. None: the source's own requests/s. capacity: requests/s of a replica.
    jitter: False leaves the noise out.

    A trace with buckets up to one interval is averaged over each tick as if constant within a bucket, so
    every average is kept exactly. Coarser buckets are joined by straight lines between their centres (which
    keeps the average over the whole trace, not that of each bucket) and multiplied by noise of mean 1, one
    value for each interval: exp(x - var/2) with x an AR(1) process of 5 % and 60 s correlation time, and for
    buckets of 300 s or more a second one of 7 % and 600 s. Gaps are filled by the same straight lines, and
    are neither known nor scored. A pattern is taken at the middle of each tick; its noise is its own.

    Raises LoadError for values out of range and for a span without any known bucket.
    """
    grid = _Grid(tick, interval, duration, start, scale_to, capacity, jitter)
    return _realised(source, grid, _seedless(source, grid), rng)


def realise_many(
    sources: Sequence[Source],
    seeds: Sequence[int],
    *,
    tick: float = 3.0,
    interval: float = 15.0,
    duration: float | None = None,
    start: float = 0.0,
    scale_to: float | None = 25.0,
    capacity: float = 10.0,
    jitter: bool = True,
) -> Loads:
    """Return every source with every seed as load; see `realise`.

    A row is the same to the bit as `realise(source, rng=generator(source.name, seed), ...)`, whatever else is
    in the batch. The part of a trace that no seed changes is computed once. Needs 6 bytes a tick and row.
    """
    grid = _Grid(tick, interval, duration, start, scale_to, capacity, jitter)
    if not sources or not len(seeds):
        raise LoadError(f"{len(sources)} sources and {len(seeds)} seeds; expected at least one of either")
    ticks = [grid.ticks(s.name, s.duration if isinstance(s, Trace) else None) for s in sources]
    shape = (len(sources) * len(seeds), max(ticks))
    rates, known, scored = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    begin = np.zeros(shape[0])
    row = 0
    for source, length in zip(sources, ticks, strict=True):
        base = _seedless(source, grid)
        for seed in seeds:
            load = _realised(source, grid, base, generator(source.name, int(seed)))
            rates[row, :length], known[row, :length] = load.rates, load.known
            scored[row, :length], begin[row] = load.scored, load.start
            row += 1
    return Loads(
        names=tuple(s.name for s in sources for _ in seeds),
        seeds=np.tile(np.asarray(seeds, np.int64), len(sources)),
        source=np.repeat(np.arange(len(sources)), len(seeds)),
        tick=tick,
        rates=rates,
        known=known,
        scored=scored,
        lengths=np.repeat(np.asarray(ticks, np.int64), len(seeds)),
        start=begin,
    )


def _from_trace(trace: Trace, grid: _Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return rates without noise (T,) float64, and what is known (T,) bool."""
    n = grid.ticks(trace.name, trace.duration)
    edges = grid.start + grid.tick * np.arange(n + 1)
    buckets = trace.step * np.arange(trace.rates.size + 1)
    seen = ~np.isnan(trace.rates)
    covered = np.diff(np.interp(edges, buckets, np.append(0.0, np.cumsum(seen * trace.step))))
    known = covered > grid.tick * (1.0 - 1e-6)
    if not known.any():
        raise LoadError(
            f"{trace.name}: nothing is known from {edges[0]:g} to {edges[-1]:g} s; expected a span with data"
        )
    centres = buckets[:-1] + 0.5 * trace.step
    if trace.step > grid.interval:
        return np.interp(edges[:-1] + 0.5 * grid.tick, centres[seen], trace.rates[seen]), known
    held = np.interp(centres, centres[seen], trace.rates[seen])
    events = np.append(0.0, np.cumsum(held * trace.step))
    return np.maximum(np.diff(np.interp(edges, buckets, events)) / grid.tick, 0.0), known


def _noisy(trace: Trace, grid: _Grid, base: np.ndarray, rng: np.random.Generator) -> Array:
    """Return the rates times the jitter that coarse buckets hide, one value for each interval."""
    if not grid.noisy or trace.step <= grid.interval:
        return base
    middles = grid.interval * (np.arange(base.size // grid.per) + 0.5)
    fast, slow = rng.spawn(2)  # both always, so that the fast one is the same with and without the slow one
    factor = patterns.jitter(**FAST_JITTER, step=grid.interval).rates(middles, fast)
    if trace.step >= COARSE:
        factor = factor * patterns.jitter(**SLOW_JITTER, step=grid.interval).rates(middles, slow)
    return base * np.repeat(factor, grid.per)


def _seedless(source: Source, grid: _Grid) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what no seed changes: rates and known of a trace; None for a pattern."""
    return _from_trace(source, grid) if isinstance(source, Trace) else None


def _realised(
    source: Source, grid: _Grid, base: tuple[np.ndarray, np.ndarray] | None, rng: np.random.Generator
) -> Load:
    if isinstance(source, Trace):
        rates, known = base or _from_trace(source, grid)
        rates, start = _noisy(source, grid, rates, rng), source.start + grid.start
    else:
        times = grid.start + grid.tick * (np.arange(grid.ticks(source.name, None)) + 0.5)
        rates, start = np.asarray(source.rates(times, rng), np.float64), grid.start
        known = np.ones(rates.size, bool)
    rates = _to_scale(grid, rates, known)
    if not (rates.max() <= LARGEST_RATE and rates.min() >= 0.0):
        raise LoadError(
            f"{source.name}: rates reach {rates.max():g} requests/s after scaling; expected at most "
            f"{LARGEST_RATE:g}, so look for a wrong value or factor in the source"
        )
    return Load(source.name, grid.tick, rates.astype(np.float32), known, known.copy(), start)


def _to_scale(grid: _Grid, rates: np.ndarray, known: np.ndarray) -> Array:
    if grid.scale_to is None:
        return rates
    seen = rates if known.all() else rates[known]
    level = float(np.percentile(seen, PERCENTILE)) or float(seen.max())
    if level == 0.0:
        return rates
    with np.errstate(over="ignore", invalid="ignore"):  # the caller refuses what is out of range
        return rates * (grid.scale_to * grid.capacity / level)
