"""The metrics pipeline: what an autoscaler sees of the world, how late and how noisy.

Load and utilisation are means over `window` seconds that ended `lag` seconds ago. Backlog and latency are those of
the newest decision that is at least `lag` seconds old. Replica counts come from the cluster's API and are current.
Load is a count, so the scatter of a Poisson count is laid over the expected number, one draw for a step. (The queue
has that scatter in its formulas; it is not served a second time.) A reading is NaN until its window is full, while
the pipeline has a gap, and where the trace knows nothing.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscaler.arrays import Array, State
from rlscaler.snapshot import Snapshot

_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class MetricParams:
    """Constants of the metrics of N environments; arrays (N,) unless stated.

    ticks: K, ticks of a step. interval: seconds of a step. rows: ticks that are kept. span: ticks of the window where
    all environments read the `span` oldest that are kept; inside: (rows, N) bool else, True within the window.
    seconds: length of the window in whole ticks. steps: decisions that are kept of backlog and latency. behind: how
    many decisions these readings lie back; None where all read the oldest that is kept. completions: bool; None
    where all count arrivals. gap: probability that a gap starts in a step; None where none ever does.
    gap_duration: seconds.
    """

    ticks: int
    interval: float
    rows: int
    span: int
    inside: Array | None
    seconds: Array
    steps: int
    behind: Array | None
    completions: Array | None
    gap: Array | None
    gap_duration: Array


def compiled(array: Any, values: dict[str, np.ndarray], ticks: int, interval: float) -> MetricParams:
    """Return the constants; arguments as of `pods.compiled`."""
    tick = interval / ticks
    lag = np.floor(values["lag"] / tick + 0.5)
    span = np.maximum(np.floor(values["window"] / tick + 0.5), 1.0)
    rows = int((lag + span).max())
    age = rows - np.arange(rows)[:, None]
    inside = (age > lag) & (age <= lag + span)
    behind = np.ceil(values["lag"] / interval - 1e-6)
    gap = values["gap_rate"] * interval / 3600.0
    return MetricParams(
        ticks=ticks,
        interval=interval,
        rows=rows,
        span=int(span[0]),
        inside=None if (inside == inside[:, :1]).all() else array(inside) > 0.5,
        seconds=array(span * tick),
        steps=int(behind.max()) + 1,
        behind=None if (behind == behind.max()).all() else array(behind),
        completions=array(values["completions"]) > 0.5 if values["completions"].any() else None,
        gap=array(gap) if gap.any() else None,
        gap_duration=array(values["gap_duration"]),
    )


def draw_kinds(params: MetricParams) -> dict[str, str]:
    """Return which draws a step takes, each of shape (N,): name to "normal" or "uniform"."""
    return {"measured": "normal"} | ({"gap": "uniform"} if params.gap is not None else {})


def initial(xp: Any, params: MetricParams, like: Array) -> State:
    """Return the state of a pipeline that has seen nothing; like: an (N,) float32 array."""

    def unknown(rows: int) -> Array:
        return xp.stack([xp.full_like(like, _NAN)] * rows)

    return {
        "counts": unknown(params.rows),
        "busy": unknown(params.rows),
        "backlogs": unknown(params.steps),
        "latencies": unknown(params.steps),
        "gap": xp.zeros_like(like),
    }


def step(
    xp: Any,
    params: MetricParams,
    state: State,
    counted: Array,
    total: Array,
    busy: list[Array],
    backlog: Array,
    latency: Array,
    draws: State,
    known: Array | None,
) -> State:
    """Take in what happened in a step; the state handed in is not written to.

    counted: (K, N) requests, those that arrived or those that were completed; total: (N,) their sum. busy: K arrays
    (N,), share of the servers in use. backlog: (N,) requests, latency: (N,) seconds, both at the end of the step.
    known: (N,) bool, False where nothing of this step is measured (None: all is).
    """
    counted = counted * _scatter(xp, total, draws["measured"])
    busy_now = xp.stack(busy)
    if known is not None:
        nan = xp.where(known, 0.0 * backlog, 0.0 * backlog + _NAN)
        counted, busy_now, backlog, latency = counted + nan, busy_now + nan, backlog + nan, latency + nan
    after = {
        "counts": _pushed(xp, state["counts"], counted),
        "busy": _pushed(xp, state["busy"], busy_now),
        "backlogs": _pushed(xp, state["backlogs"], xp.expand_dims(backlog, axis=0)),
        "latencies": _pushed(xp, state["latencies"], xp.expand_dims(latency, axis=0)),
        "gap": state["gap"],
    }
    if params.gap is not None:
        left = xp.clip(state["gap"] - params.interval, 0.0, None)
        after["gap"] = xp.where(draws["gap"] < params.gap, params.gap_duration, left)
    return after


def readings(
    xp: Any, params: MetricParams, state: State, time: Any, ready: Array, desired: Array, known: Array | None
) -> Snapshot:
    """Return what is read at `time`, arrays (N,) float32; known: (N,) bool or a scalar, False hides the metrics."""
    load = _window(xp, params, state["counts"]) / params.seconds
    busy = _window(xp, params, state["busy"]) * ((params.interval / params.ticks) / params.seconds)
    backlog, latency = _gauge(xp, params, state["backlogs"]), _gauge(xp, params, state["latencies"])
    hidden = None
    if params.gap is not None:
        hidden = state["gap"] > 0.0
    if known is not None:
        unknown = xp.logical_not(xp.asarray(known, dtype=xp.bool, device=getattr(load, "device", None)))
        hidden = unknown if hidden is None else hidden | unknown
    if hidden is not None:
        nan = xp.where(hidden, xp.full_like(load, _NAN), xp.zeros_like(load))
        load, busy, backlog, latency = load + nan, busy + nan, backlog + nan, latency + nan
    return Snapshot(
        time=time,
        load=load,
        backlog=backlog,
        utilization=busy,
        latency=latency,
        ready=ready,
        starting=desired - ready,
        desired=desired,
    )


def _scatter(xp: Any, expected: Array, normal: Array) -> Array:
    """Return a log-normal factor of mean 1 with the relative variance of a Poisson count of this mean."""
    variance = xp.log1p(1.0 / xp.clip(expected, 0.1, None))
    return xp.exp(xp.sqrt(variance) * normal - 0.5 * variance)


def _pushed(xp: Any, ring: Array, rows: Array) -> Array:
    """Return the newest rows of `ring` with `rows` behind it, as many as `ring` has."""
    kept, new = ring.shape[0], rows.shape[0]
    return rows[new - kept :, ...] if new >= kept else xp.concat([ring[new:, ...], rows])


def _window(xp: Any, params: MetricParams, ring: Array) -> Array:
    whole = params.inside is None
    rows = ring[: params.span, ...] if whole else xp.where(params.inside, ring, xp.zeros_like(ring))
    if rows.shape[1] == 1:  # NumPy adds a single column in another order than several
        return xp.cumulative_sum(rows, axis=0)[-1, ...]
    return xp.sum(rows, axis=0)


def _gauge(xp: Any, params: MetricParams, ring: Array) -> Array:
    value = ring[0, ...]
    if params.behind is not None:
        for row in range(1, params.steps):
            value = xp.where(params.behind == params.steps - 1 - row, ring[row, ...], value)
    return value
