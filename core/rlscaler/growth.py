"""How much a workload's own load has grown within one reaction time: histograms of it, and what they say.

Growth over a horizon is G = ln((M + o) / (L + o)): L the mean of the two newest samples at the start, M the
largest sample until the end, o half a replica's capacity, so that a trickle does not look like a flood. A rule
that orders L e^h replicas is short for the share P(G > h) of the time; that makes headroom a newsvendor problem,
answered from the workload's own past.

Histograms decay with a half-life. Decay is lazy: a sample recorded at t weighs 2^((t - ref) / half-life), so that
old samples never have to be touched; `ref` moves when the weights grow large.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlscaler.arrays import Array, State

LADDER = (30.0, 60.0, 90.0, 150.0, 330.0, 660.0)
"""Horizons in seconds for which growth is kept; the one in use is the first that covers interval + lag + start-up."""

HOUR, DAY = 3600.0, 86400.0
TREND_CUTS = (-0.15, -0.04, 0.04, 0.15)
LEVEL_CUTS = (0.5, 0.9, 1.3)
TRENDS, LEVELS = len(TREND_CUTS) + 1, len(LEVEL_CUTS) + 1
HALF_LIVES = np.array([HOUR, 6 * HOUR, DAY, 7 * DAY, *[2 * DAY] * (TRENDS + LEVELS)])
"""Half-lives in seconds of the histograms: four windows, then one for each class of trend and of level."""
WINDOWS = 4
HISTOGRAMS = len(HALF_LIVES)

EDGES = np.concatenate([
    np.arange(-0.6, -0.2, 0.1), np.arange(-0.2, 0.6, 0.025), np.arange(0.6, 1.2, 0.05),
    np.arange(1.2, 2.2, 0.125), np.linspace(2.2, 6.0, 7),
])  # fmt: skip
"""Edges of the bins in log growth; what lies outside is counted in the first or the last bin."""
BINS = len(EDGES) - 1

QUANTILES = (0.5, 0.8, 0.9, 0.97, 0.99)
KAPPAS = (0.25, 1.0)
"""Multiples of the price of violations for which the cheapest headroom is told."""
STATISTICS = (*(f"q{int(100 * q)}" for q in QUANTILES), "lean", "cheap", "cost")
"""Columns of a summary: quantiles of G, the headroom that is cheapest at each of KAPPAS, and the latter's cost."""

PRIOR_SAMPLES = 30.0
RENORMALIZE_AFTER = 40 * HOUR
PHASES = ((0, 4), (4, 7), (7, 10), (10, HISTOGRAMS))
"""Histograms whose summary is refreshed in the 1st, 2nd, 3rd and 4th quarter of each minute of absolute time."""
PHASE_SECONDS = 15.0
_FEW = 128
"""Histograms up to which one call is faster than a call for each bin."""


def _prior() -> np.ndarray:
    """Return the growth that a workload without a past is taken to have: small noise and a heavy tail upwards."""
    middle = 0.5 * (EDGES[1:] + EDGES[:-1])
    width = np.diff(EDGES)
    bulk = np.exp(-0.5 * ((middle - 0.06) / 0.08) ** 2) / 0.08
    tail = np.where(middle > 0, np.exp(-middle / 0.3) / 0.3, 0.0)
    density = width * (0.85 * bulk / np.sqrt(2 * np.pi) + 0.15 * tail)
    total: np.ndarray = density / density.sum()
    return total


PRIOR = _prior()
_HELD = (PRIOR_SAMPLES * PRIOR).astype(np.float32)[:, None]
_INNER, _UPPER = EDGES[1:-1].astype(np.float32), EDGES[1:].astype(np.float32)
_BILL = np.exp(_UPPER)[:, None]
_SHARES = np.array(QUANTILES, np.float32)[:, None]
_RANK = np.arange(BINS, 0, -1).astype(np.uint8)[:, None]
"""What every summary needs, bins first: the prior's weights, upper edges of bins, what a headroom costs without
violations, and ranks, highest at the first bin, so that of several that cost the least the first is found."""


def state(n: int) -> State:
    """Return empty histograms of n workloads: weights (n, horizons, histograms, bins) and summaries."""
    return {
        "growth": np.zeros((n, len(LADDER), HISTOGRAMS, BINS), np.float32),
        "growth_ref": np.full(n, np.nan),
        "summary": np.zeros((n, HISTOGRAMS, len(STATISTICS)), np.float32),
        "summary_slot": np.full(n, -1, np.int64),
        "summary_horizon": np.full(n, -1, np.int64),
    }


def horizon_index(xp: Any, settings: Mapping[str, Array]) -> Array:
    """Return (N,) the index in LADDER of the first horizon that covers interval + lag + start-up."""
    needed = settings["interval"] + settings["lag"] + settings["startup"]
    index = xp.zeros(needed.shape, dtype=xp.int64, device=getattr(needed, "device", None))
    for edge in LADDER[:-1]:
        index = index + xp.astype(needed > edge + 1e-6, xp.int64)
    return index


def record(xp: Any, state: State, rows: Array, time: Array, growth: Array, valid: Array, classes: Array) -> None:
    """Add completed growth to the histograms, in place.

    growth: (N, horizons). valid: (N, horizons) bool. classes: (N, horizons) int64, trend + TRENDS * level at the
    start of the span. time: (N,) seconds.
    """
    device = getattr(time, "device", None)
    ref = state["growth_ref"][rows]
    ref = xp.where(xp.isnan(ref), time, ref)
    half_lives = xp.asarray(HALF_LIVES, device=device)
    old = (time - ref) > RENORMALIZE_AFTER
    if bool(xp.any(old)):
        which = rows[old]
        shrink = xp.astype(2.0 ** (-(time - ref)[old][:, None] / half_lives[None, :]), xp.float32)
        state["growth"][which] = state["growth"][which] * shrink[:, None, :, None]
        ref = xp.where(old, time, ref)
    state["growth_ref"][rows] = ref

    # Counted, not searched: a search cannot foresee its turns.
    below = xp.reshape(growth, (-1,)) < xp.asarray(_INNER[:, None], device=device)
    bins = xp.reshape(BINS - 1 - _count(xp, below), growth.shape)
    weights = xp.astype(2.0 ** ((time - ref)[:, None] / half_lives[None, : WINDOWS + 1]), xp.float32)
    horizons = growth.shape[1]
    first = (rows[:, None] * horizons + xp.arange(horizons, device=device)[None, :]) * (HISTOGRAMS * BINS) + bins
    # The cells of each growth: one in each window, and one in its class of trend and of level.
    cells = xp.empty((*growth.shape, WINDOWS + 2), dtype=xp.int64, device=device)
    cells[:, :, :WINDOWS] = first[:, :, None] + BINS * xp.arange(WINDOWS, device=device)
    cells[:, :, WINDOWS] = first + BINS * (WINDOWS + classes % TRENDS)
    cells[:, :, WINDOWS + 1] = first + BINS * (WINDOWS + TRENDS + classes // TRENDS)
    more = xp.empty(cells.shape, dtype=xp.float32, device=device)
    mask = xp.astype(valid, xp.float32)[:, :, None]
    more[:, :, : WINDOWS + 1] = mask * weights[:, None, :]
    more[:, :, WINDOWS + 1] = more[:, :, WINDOWS]
    flat = xp.reshape(state["growth"], (-1,))
    flat[cells] += more


def summarize(xp: Any, weights: Array, age: Array, half_lives: Array, price: Array) -> Array:
    """Return (N, h, statistics) float32: what h histograms (N, h, bins) of raw weights say.

    age: (N,) seconds since the weights' reference. price: (N,) of a violation, in multiples of the needed cost.
    """
    n, many, device = age.shape[0], half_lives.shape[0], getattr(age, "device", None)
    decay = xp.astype(2.0 ** (-age[:, None] / half_lives[None, :]), xp.float32)
    prior, upper, bill, shares, rank = (
        xp.asarray(each, device=device) for each in (_HELD, _UPPER, _BILL, _SHARES, _RANK)
    )
    # Bins first from here on, in memory too: what is said of a histogram is arithmetic over all of them, bin by bin.
    raw = xp.reshape(xp.reshape(weights, (n * many, BINS)).T, (-1,))
    mass = xp.reshape(raw, (BINS, n * many)) * xp.reshape(decay, (-1,))
    mass += prior
    below = _running(xp, mass)
    total = below[-1]
    quantiles = upper[_count(xp, below < (shares * total)[:, None, :], axis=1)]
    above = 1.0 - below / total
    each = xp.repeat(xp.astype(price, xp.float32), many)
    columns = []
    least = total
    for kappa in KAPPAS:
        cost = kappa * each * above
        cost += bill
        least = xp.min(cost, axis=0)
        first = xp.max(xp.astype(cost == least, xp.uint8) * rank, axis=0)
        columns.append(upper[BINS - xp.astype(first, xp.int64)])
    return xp.reshape(xp.concat([quantiles, xp.stack([*columns, least], axis=0)]).T, (n, many, len(STATISTICS)))


def _running(xp: Any, mass: Array) -> Array:
    """Return the sums (BINS, M) of the bins so far, in place where that is faster than NumPy's."""
    if mass.shape[1] <= _FEW:
        return xp.cumulative_sum(mass, axis=0)
    for place in range(1, BINS):
        mass[place] += mass[place - 1]
    return mass


def _count(xp: Any, found: Array, axis: int = 0) -> Array:
    """Return how many are found along the axis of the bins, int64; there are fewer than 256."""
    return xp.astype(xp.sum(xp.astype(found, xp.uint8), axis=axis, dtype=xp.uint8), xp.int64)


def refresh(xp: Any, state: State, rows: Array, time: Array, settings: Mapping[str, Array]) -> None:
    """Bring the summaries of the due histograms up to date, in place.

    A quarter of the histograms is due in each 15 s of absolute time, so the work is even and a row's summaries
    depend on nothing but its own past.
    """
    device = getattr(time, "device", None)
    slot = xp.astype(xp.floor(time / PHASE_SECONDS), xp.int64)
    horizon = horizon_index(xp, settings)
    stale = state["summary_horizon"][rows] != horizon
    last = xp.where(stale, slot - len(PHASES), state["summary_slot"][rows])
    if not bool(xp.any(last < slot)):
        return
    ref = state["growth_ref"][rows]
    age = xp.where(xp.isnan(ref), 0.0, time - ref)
    for phase, (low, high) in enumerate(PHASES):
        newest = slot - (slot - phase) % len(PHASES)
        due = newest > last
        if not bool(xp.any(due)):
            continue
        some = slice(None) if bool(xp.all(due)) else due
        which = rows[some]
        weights = state["growth"][which, horizon[some], low:high]
        half_lives = xp.asarray(HALF_LIVES[low:high], device=device)
        found = summarize(xp, weights, age[some], half_lives, settings["price"][some])
        state["summary"][which, low:high] = found
    state["summary_slot"][rows] = slot
    state["summary_horizon"][rows] = horizon
