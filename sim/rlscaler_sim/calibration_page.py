"""A calibration as one HTML page: the figures in words, and each fit drawn over the data that it is made of.

Tables and sentences are plain HTML, so the page reads without JavaScript; every name that comes from a user is
escaped.
"""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from rlscaler import calibration_load
from rlscaler.files import write_text_atomically
from rlscaler.quantities import duration_text
from rlscaler_sim.calibrating import Calibration
from rlscaler_sim.calibration_words import days, headline, rows, share
from rlscaler_sim.page import as_read, csp_hash, inert, packaged, palette, plotly_source
from rlscaler_sim.verdict import sentence

MOST = 1500
"""Points of a cloud, and of a line, that are drawn at most."""


def write_page(found: Calibration, path: str | Path) -> None:
    """Write the page to `path`, whole or not at all. Raises UserError where plotly is missing or nothing is written."""
    write_text_atomically(path, render(found, plotly_source("the report")))


def render(found: Calibration, plotly_js: str) -> str:
    """Return the page as HTML. plotly_js: the source of plotly.js."""
    profile, load = found.profile, found.profile.load
    scripts = {"plotly": as_read(plotly_js), "script": as_read(packaged("calibration.js"))}
    said, outcome = headline(profile)
    parts = {
        "title": escape(f"{profile.workload}: {said} (rlscaler calibrate)"),
        "palette": palette(),
        "style": packaged("report.css"),
        "script_hashes": " ".join(map(csp_hash, scripts.values())),
        "workload": escape(profile.workload),
        "facts": escape(
            f"{days(load.end - load.begin)} from {_moment(load.begin)}, read every {duration_text(profile.interval)} "
            f"from {profile.source}; {share(load.coverage)} of the load is known"
        ),
        "outcome": outcome,
        "headline": escape(said),
        "notes": "".join(f'<p class="note">{escape(sentence(note))}</p>' for note in profile.notes),
        "rows": "\n".join(
            f'<tr><th scope="row">{escape(row.name)}</th><td class="value">{escape(row.value)}</td>'
            f"<td>{escape(row.interval)}</td><td>{escape(row.why)}</td></tr>"
            for row in rows(profile)
        ),
        "capacity_note": escape(_capacity_note(found)),
        "startup_note": escape(_startup_note(found)),
        "load_note": escape(
            "Each stretch of the load is drawn as its lowest and highest reading, so no peak is lost; where the line "
            "breaks, nothing is known. Times are UTC."
        ),
        "data": inert({"figures": [each for each in (*_capacity(found), *_startup(found), *_load(found)) if each]}),
    }
    return Template(packaged("calibration.html.in")).substitute(parts | scripts)


def _moment(time: float) -> str:
    return f"{np.datetime_as_string(np.datetime64(round(time), 's'), unit='m').replace('T', ' ')} UTC"


def _capacity_note(found: Calibration) -> str:
    estimate = found.capacity.estimate
    if not estimate.known:
        return f"Unknown: {estimate.why}."
    return (
        "By load: every three minutes of readings as a point, and the line that the capacity makes of them, with its "
        "interval; where the line reaches 100 %, a replica is full. Over time: what each two to three hours tell on "
        "their own."
    )


def _startup_note(found: Calibration) -> str:
    estimate = found.startup.estimate
    if not estimate.known:
        return f"Unknown: {estimate.why}."
    return (
        "From the moment when a replica was asked for until it served; the line is what decisions use, with its "
        "interval."
    )


def _figure(place: str, title: str, note: str, x: str, y: str, traces: list[dict[str, Any]], **more: Any) -> Any:
    return {"place": place, "title": title, "note": note, "x": x, "y": y, "traces": traces} | more


def _trace(kind: str, name: str, colour: int | str, x: Any, y: Any, **more: Any) -> dict[str, Any]:
    """Return one series; kind, colour: see calibration.js."""
    values: Mapping[str, Any] = {"x": x, "y": y, **more}
    plain = {key: _plain(value) if isinstance(value, np.ndarray) else value for key, value in values.items()}
    return {"kind": kind, "name": name, "colour": colour, "dash": "solid"} | plain


def _plain(values: np.ndarray) -> list[Any]:
    """Return numbers of six digits, None where unknown; times as milliseconds."""
    if np.issubdtype(values.dtype, np.integer):
        return [int(value) for value in values]
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def _milliseconds(times: np.ndarray) -> np.ndarray:
    return np.rint(1000.0 * times).astype(np.int64)


def _capacity(found: Calibration) -> list[Any]:
    fit, estimate = found.capacity, found.capacity.estimate
    figures = []
    if len(fit.loads):
        every = max(1, -(-len(fit.loads) // MOST))
        traces = [_trace("points", "three minutes", "load", fit.loads[::every], 100.0 * fit.uses[::every], faint=True)]
        if estimate.value is not None and estimate.low is not None and estimate.high is not None:
            idle = fit.idle or 0.0
            x = np.linspace(0.0, 1.05 * max(estimate.value, float(fit.loads.max())), 60)

            def line(capacity: float) -> np.ndarray:
                return np.minimum(100.0 * (idle + (1.0 - idle) * x / capacity), 105.0)

            traces += [
                _trace("band", "95 % interval", 0, x, None, low=line(estimate.high), high=line(estimate.low)),
                _trace("line", "the capacity", 0, x, line(estimate.value)),
                _trace("line", "full", 1, x[[0, -1]], np.array([100.0, 100.0]), dash="dot"),
            ]
        figures.append(_figure("capacity", "Utilization by load", "a point for every three minutes",
                               "load of a replica, requests/s", "utilization, %", traces))  # fmt: skip
    if len(fit.values):
        x = _milliseconds(fit.times)
        traces = [_trace("spread", "two to three hours", "load", x, fit.values, error=1.96 * fit.errors * fit.values)]
        traces += _levels(estimate, x)
        figures.append(_figure("capacity", "Capacity over time", "each piece on its own, with its 95 % interval", "",
                               "requests/s of a replica", traces, dates=True, near=True))  # fmt: skip
    _, load, latency = calibration_load.three_minutes(found.recording)
    both = np.flatnonzero(np.isfinite(load) & np.isfinite(latency))
    if len(both):
        some = both[:: max(1, -(-len(both) // MOST))]
        traces = [_trace("points", "three minutes", "load", load[some], 1000.0 * latency[some], faint=True)]
        if estimate.value is not None:
            top = np.array([0.0, float(1000.0 * latency[both].max())])
            traces.append(_trace("line", "the capacity", 0, np.array([estimate.value] * 2), top, dash="dash"))
        figures.append(_figure("capacity", "Latency by load", "the dashed line is the capacity",
                               "load of a replica, requests/s", "latency, ms", traces))  # fmt: skip
    return figures


def _levels(estimate: Any, x: np.ndarray) -> list[dict[str, Any]]:
    """Return a value and its interval as a line and a band over the ends of x."""
    if not estimate.known:
        return []
    ends = np.array([x.min(), x.max()])
    flat = [np.array([each, each]) for each in (estimate.low, estimate.high, estimate.value)]
    return [_trace("band", "95 % interval", 0, ends, None, low=flat[0], high=flat[1]),
            _trace("line", "what is told", 0, ends, flat[2])]  # fmt: skip


def _startup(found: Calibration) -> list[Any]:
    starts, estimate = found.startup.starts, found.startup.estimate
    if not len(starts):
        return []
    step = max(found.profile.interval, float(np.ptp(starts)) / 40.0)
    edges = np.arange(-0.5 * step, float(starts.max()) + 1.5 * step, step)
    counts, _ = np.histogram(starts, edges)
    most = float(edges[-1] if estimate.high is None else max(edges[-1], 1.05 * estimate.high))
    traces = [_trace("bars", "starts", "load", 0.5 * (edges[1:] + edges[:-1]), counts.astype(np.float64))]
    if estimate.value is not None and estimate.low is not None and estimate.high is not None:
        top = np.array([0.0, float(counts.max())])
        traces.append(_trace("band", "95 % interval", 0, np.array([estimate.low, estimate.high]), None,
                             low=np.zeros(2), high=np.full(2, top[1])))  # fmt: skip
        traces.append(_trace("line", "what is told", 0, np.full(2, estimate.value), top))
    return [_figure("startup", "Starts that were seen", f"the newest {len(starts)}",
                    "seconds from being asked for until it serves", "starts", traces,
                    range=[0.0, most])]  # fmt: skip  # no start takes less; of those at once the bar is half below


def _load(found: Calibration) -> list[Any]:
    recording, season = found.recording, found.season
    x, low, high = _stretches(recording.times, recording.load)
    zigzag = np.stack([low, high], axis=1).reshape(-1)
    figures = [_figure("load", "Load", "requests/s", "", "requests/s",
                       [_trace("area", "load", "load", np.repeat(x, 2), zigzag)], dates=True, wide=True)]  # fmt: skip
    lines = []
    for name, series, colour in (("asked for", recording.replicas, 1), ("ready", recording.ready, 0)):
        if np.isfinite(series).any():
            x, _, high = _stretches(recording.times, series)
            lines.append(_trace("line", name, colour, x, high, step=True))
    if lines:
        figures.append(_figure("load", "Replicas", "blue: ready; red: asked for; the most of each stretch", "",
                               "replicas", lines, dates=True))  # fmt: skip
    if np.isfinite(recording.utilization).any():
        x, low, high = _stretches(recording.times, recording.utilization)
        zigzag = 100.0 * np.stack([low, high], axis=1).reshape(-1)
        figures.append(_figure("load", "Utilization", "of the ready replicas", "", "%",
                               [_trace("area", "utilization", 2, np.repeat(x, 2), zigzag)], dates=True))  # fmt: skip
    hours = np.arange(96) / 4.0
    if np.isfinite(season.middle).sum() > 48:
        figures.append(_figure("load", "A day", "the middle of all days, and what eight of ten lie in; UTC",
                               "hour of the day", "requests/s",
                               [_trace("band", "eight of ten days", "load", hours, None, low=season.low,
                                       high=season.high),
                                _trace("line", "middle", 0, hours, season.middle)]))  # fmt: skip
    return figures


def _stretches(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the middles (milliseconds), lowest and highest value of at most MOST stretches, NaN where unknown."""
    per = max(1, -(-len(values) // MOST))
    count = -(-len(values) // per)
    whole = np.full(count * per, np.nan)
    whole[: len(values)] = values
    table = whole.reshape(count, per)
    there = np.isfinite(table).any(axis=1)
    low = np.where(there, np.where(np.isfinite(table), table, np.inf).min(axis=1), np.nan)
    high = np.where(there, np.where(np.isfinite(table), table, -np.inf).max(axis=1), np.nan)
    step = float(times[1] - times[0]) if len(times) > 1 else 0.0
    return _milliseconds(times[0] + step * (per * np.arange(count) + 0.5 * (per - 1))), low, high
