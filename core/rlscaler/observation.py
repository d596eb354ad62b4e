"""The observation: what a learned policy sees, as named float32 columns under a schema version.

Scale-free: everything is relative to the present demand and capacity, so one policy serves one replica and ten
thousand. An artifact trained under another schema is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlscaler import growth
from rlscaler.arrays import Array
from rlscaler.features import AHEAD, EXTREMES, LAGS, SOURCES, SPANS, label
from rlscaler.lean import is_numpy
from rlscaler.policy import View

SCHEMA = "1"


@dataclass(frozen=True, slots=True)
class Field:
    """One column of the observation: its name, group (micro, macro or state), unit, bounds and meaning."""

    name: str
    group: str
    unit: str
    low: float
    high: float
    meaning: str


def _load_fields() -> list[Field]:
    """Return the fields made from the load's history, named as in `features`."""
    ratio, log = "log ratio", "log growth"
    out = [Field("rel_latest", "micro", ratio, -3, 3, "newest sample relative to the level")]
    out += [
        Field(f"lag_{label(s)}", "micro", ratio, -5, 5, f"sample of {label(s)} ago relative to the level") for s in LAGS
    ]
    out += [
        Field(f"mean_{label(s)}", "micro", ratio, -5, 5, f"mean over {label(s)} relative to the level") for s in SPANS
    ]
    for s in EXTREMES:
        out.append(Field(f"max_{label(s)}", "micro", ratio, -1, 6, f"maximum over {label(s)} relative to the level"))
        out.append(Field(f"min_{label(s)}", "micro", ratio, -6, 1, f"minimum over {label(s)} relative to the level"))
    out.append(Field("noise_5m", "micro", log, 0, 3, "root mean square of log steps over 5m"))
    out.append(Field("noise_1h", "micro", log, 0, 3, "root mean square of log steps over 1h"))
    out.append(Field("trend", "micro", ratio, -3, 3, "mean over 30s relative to the mean over 3m"))
    meanings = {"lean": "headroom that is cheapest at a quarter of the price of violations",
                "cheap": "headroom that is cheapest at the price of violations",
                "cost": "cost at that headroom, 1 = no headroom and no violation"}  # fmt: skip
    names = {"hour": "half-life 1h", "sixhours": "half-life 6h", "daylong": "half-life 1d", "weeklong": "half-life 7d",
             "trend": "present class of trend", "level": "present class of level"}  # fmt: skip
    for source in SOURCES:
        for statistic in growth.STATISTICS:
            meaning = meanings.get(statistic, f"quantile {statistic[1:]} % of growth over one reaction time")
            high = 400.0 if statistic == "cost" else 6.0
            out.append(Field(f"{source}_{statistic}", "macro", log if statistic != "cost" else "ratio", -1, high,
                             f"{meaning} ({names[source]})"))  # fmt: skip
    out.append(Field("quarter_mean", "macro", log, -2, 6, "mean growth in this quarter-hour of the day"))
    out.append(Field("quarter_high", "macro", log, -2, 6, "high growth in this quarter-hour of the day"))
    out.append(Field("yesterday", "macro", log, -5, 5, "growth over one reaction time at this time yesterday"))
    out.append(Field("lastweek", "macro", log, -5, 5, "growth over one reaction time at this time a week ago"))
    for j in range(AHEAD):
        out.append(
            Field(
                f"ahead_{j + 1}",
                "macro",
                log,
                -5,
                5,
                f"seasonal profile {(j + 1) / 2:g} reaction times ahead",
            )
        )
    out.append(Field("versus_profile", "macro", ratio, -5, 5, "level relative to the seasonal profile"))
    out.append(Field("experience", "macro", "log hours", 0, 12, "logarithm of 1 + hours of known load"))
    return out


LOAD_FIELDS = tuple(_load_fields())
STATE_FIELDS = (
    Field("size", "state", "log replicas", -1, 14, "logarithm of the level plus half a replica"),
    Field("desired", "state", "log ratio", -6, 6, "replicas asked for relative to the level"),
    Field("ready", "state", "log ratio", -6, 6, "ready replicas relative to the level"),
    Field("starting", "state", "ratio", 0, 10, "starting replicas over the level plus half a replica"),
    Field("backlog", "state", "seconds", 0, 600, "time that the ready replicas need for the backlog alone"),
    Field("busy", "state", "ratio", 0, 1, "utilisation; the demand over the ready replicas where not measured"),
    Field("delay", "state", "log ratio", -6, 6, "latency over the objective's; 0 where not measured"),
    Field("reaction", "state", "log seconds", 1, 9, "logarithm of interval + lag + start-up"),
    Field("startup_share", "state", "ratio", 0, 1, "start-up over interval + lag + start-up"),
    Field("price", "state", "log ratio", -3, 9, "logarithm of the price of violations"),
)
FIELDS = LOAD_FIELDS + STATE_FIELDS
NAMES = tuple(f.name for f in FIELDS)
_SOURCES = [(f.name, int(f.name[6:]) - 1 if f.name.startswith("ahead_") else None) for f in LOAD_FIELDS]
"""Where the value of each of LOAD_FIELDS is: its name among the features, or its place in `ahead`."""
LOW = np.array([f.low for f in FIELDS], np.float32)
HIGH = np.array([f.high for f in FIELDS], np.float32)


def observe(view: View, load: Array | None = None) -> Array:
    """Return the observation, (N, len(FIELDS)) float32 within each field's bounds; unknown values are 0.

    load: `observe_load` of the view's features, where it is there already.

    Rows whose level is unknown are all zeros but mean nothing: the guard holds those workloads.
    """
    xp, f = view.xp, view.features
    state = _bounded(xp, _state_columns(view), slice(len(LOAD_FIELDS), None))
    return xp.concat([observe_load(xp, f) if load is None else load, state], axis=1)


def observe_some(view: View, which: np.ndarray) -> Array:
    """Return those columns of `observe`, (N, len(which)) float32; which: int64, where they stand among FIELDS."""
    columns = [*_load_columns(view.features), *_state_columns(view)]
    return _bounded(view.xp, [columns[place] for place in which.tolist()], which)


def observe_load(xp: Any, features: Mapping[str, Array]) -> Array:
    """Return the columns that the load alone makes, (N, len(LOAD_FIELDS)) float32, as in `observe`."""
    return _bounded(xp, _load_columns(features), slice(0, len(LOAD_FIELDS)))


def _load_columns(features: Mapping[str, Array]) -> list[Array]:
    ahead = features["ahead"]
    return [features[name] if place is None else ahead[:, place] for name, place in _SOURCES]


def _bounded(xp: Any, columns: Sequence[Array], which: slice | np.ndarray) -> Array:
    """Return the columns side by side, (N, columns) float32 within their bounds, 0 where unknown."""
    device, n = getattr(columns[0], "device", None), columns[0].shape[0]
    if is_numpy(xp):
        flat = np.concatenate(columns, dtype=np.float32, casting="same_kind")
    else:
        flat = xp.concat([xp.astype(column, xp.float32) for column in columns])
    low, high = (xp.asarray(bound[which], device=device)[:, None] for bound in (LOW, HIGH))
    matrix = xp.reshape(xp.where(xp.isnan(flat), 0.0, flat), (len(columns), n))
    matrix = xp.minimum(xp.maximum(matrix, low), high)
    return xp.reshape(xp.reshape(matrix.T, (-1,)), (n, len(columns)))


def _state_columns(view: View) -> list[Array]:
    """Return the columns of STATE_FIELDS, before they are bounded."""
    xp, f, snap, settings = view.xp, view.features, view.snapshot, view.settings
    columns: dict[str, Array] = {}
    level = f["level"] + 0.5
    base = xp.log(level)
    columns["size"] = base
    columns["desired"] = xp.log(view.current + 0.5) - base
    ready = xp.where(xp.isnan(snap["ready"]), view.current, snap["ready"])
    columns["ready"] = xp.log(ready + 0.5) - base
    columns["starting"] = snap["starting"] / level
    serving = xp.clip(ready, 0.5, None)
    columns["backlog"] = snap["backlog"] / (serving * settings["capacity_per_replica"])
    busy = snap["utilization"]
    columns["busy"] = xp.where(xp.isnan(busy), view.demand / serving, busy)
    columns["delay"] = xp.log(xp.clip(snap["latency"], 1e-6, None) / settings["latency"])
    reaction = settings["interval"] + settings["lag"] + settings["startup"]
    columns["reaction"] = xp.log(reaction)
    columns["startup_share"] = settings["startup"] / reaction
    columns["price"] = xp.log(settings["price"])
    return [columns[field.name] for field in STATE_FIELDS]
