"""What the rules share: their constants as data that a tuner can search, and the reading of a view.

A rule's constants are scalars, or arrays with one value for each row of the view, so that a tuner tries many
candidates in one batch: row i then runs candidate i, and the view must hold exactly those rows.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from rlscaler.arrays import Array
from rlscaler.policy import Policy, View


@dataclass(frozen=True, slots=True)
class Parameter:
    """One constant of a rule.

    default: its value where nothing else is said. low, high: the range that a tuner searches, both inclusive;
    values outside of it are allowed. log: search on a logarithmic scale. meaning: what it is, with its unit.
    Raises ValueError unless low <= default <= high, with low above 0 on a logarithmic scale.
    """

    default: float
    low: float
    high: float
    log: bool
    meaning: str

    def __post_init__(self) -> None:
        """Raise ValueError where the range holds no search."""
        if not self.low <= self.default <= self.high or (self.log and self.low <= 0.0):
            raise ValueError(
                f"default {self.default:g} in [{self.low:g}, {self.high:g}], log {self.log}: expected "
                "low <= default <= high, and low above 0 where the scale is logarithmic"
            )


class Rule(Policy, Protocol):
    """A policy made of constants, each an attribute that `PARAMETERS` describes; made by keyword."""

    PARAMETERS: ClassVar[dict[str, Parameter]]

    def __init__(self, *none: Any, **constants: Any) -> None:
        """Raise ValueError for a constant that is no finite number; no rule takes positional arguments.

        Only together do the two mean "any arguments" to a type checker, and so admit each rule's own constants.
        """
        ...


def check(rule: Rule) -> None:
    """Raise ValueError where a parameter of `rule` is not finite, or neither a scalar nor one-dimensional."""
    for name in rule.PARAMETERS:
        value = np.asarray(getattr(rule, name), dtype=np.float64)
        if value.ndim > 1:
            raise ValueError(
                f"{rule.name}: {name} has shape {value.shape}; expected a number, or one number for each row"
            )
        if not np.isfinite(value).all():
            bad = value[~np.isfinite(value)][0] if value.ndim else value
            raise ValueError(f"{rule.name}: {name} is {bad:g}; expected a finite number")


def values(rule: Rule, view: View) -> dict[str, Array]:
    """Return the parameters of `rule` by name as float64 arrays of the view's library, shape () or (N,).

    Both shapes broadcast with (N,), and with `[..., None]` behind them with (N, any).
    """
    return {name: like(view, getattr(rule, name), view.xp.float64) for name in rule.PARAMETERS}


def like(view: View, array: Any, dtype: Any = None) -> Array:
    """Return `array` (a parameter, or state made by NumPy) as an array of the view's library and device."""
    return view.xp.asarray(array, dtype=dtype, device=getattr(view.current, "device", None))


def unknown(view: View) -> Array:
    """Return (N,) float64 NaN: no answer."""
    return view.xp.full_like(view.demand, float("nan"))


def backlog_replicas(view: View, drain: Array) -> Array:
    """Return the replicas that drain the backlog within `drain` seconds, 0 where unknown; (N,) float64."""
    replicas = view.snapshot["backlog"] / (view.settings["capacity_per_replica"] * drain)
    return view.xp.where(view.xp.isnan(replicas), 0.0, replicas)


def stabilized(view: View, window: Any) -> Array:
    """Return the patience of an HPA with this scale-down window in seconds, which forgets what is as old as that."""
    return view.xp.clip(like(view, window, view.xp.float64) - view.settings["interval"], 0.0, None)
