"""What an operator of a workload states about it: bounds, timing, capacity, objective, behaviour.

`Settings` is what people write (scalars, or one value for each workload); `compiled` turns it into arrays of
shape (N,) that every pure function of the decision takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from rlscaler import behavior as _behavior
from rlscaler.arrays import State, column
from rlscaler.behavior import Behavior

LossAction = Literal["Hold", "Replicas", "ReplicasIfHigher", "ReplicasIfLower"]
PRICED = 0.02
"""Price of late requests times the share of requests that may be late."""
LOSS_ACTIONS: tuple[LossAction, ...] = ("Hold", "Replicas", "ReplicasIfHigher", "ReplicasIfLower")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Share of requests that should be answered within a latency.

    latency: seconds from arrival to answer. target: percent of requests within it, below 100. window: seconds over
    which the target is to be kept; while it is not, more headroom is held (infinite: the target sets a price alone).
    """

    latency: Any = 0.5
    target: Any = 99.9
    window: Any = float("inf")

    @property
    def price(self) -> np.ndarray:
        """Price of the share of late requests, in multiples of the cost of the needed replicas.

        PRICED / (1 - target): 20 at 99.9 %, the price of the standard score, and rising with the target.
        """
        share = 1.0 - np.asarray(self.target, np.float64) / 100.0
        return np.clip(PRICED / np.maximum(share, 1e-9), 0.2, 2000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricLoss:
    """What to do when the load has been unknown for `after` seconds (KEDA's fallback behaviours).

    Until then, and with `Hold` for ever, the replica count is held and never lowered.
    """

    after: Any = 180.0
    action: LossAction | Sequence[LossAction] = "Hold"
    replicas: Any = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one workload, or of N at once (any field a scalar or an array of shape (N,)).

    min_replicas, max_replicas: bounds, whole numbers, 0 <= min <= max, max >= 1.
    interval: seconds between decisions. lag: age in seconds of the newest load sample when it is read.
    startup: seconds from a pod's creation until it serves.
    capacity_per_replica: requests/s that a ready replica serves at full use; NaN = unknown (the decision holds).
    concurrency: requests that a replica serves at once, each for concurrency / capacity_per_replica seconds.
    load_counts: "Arrivals", or "Completions" where the counter rises when a request ends, so that overload
    shows as saturation and a saturated value is read as "at least this much".
    behavior: autoscaling/v2 behaviour (None: the policy alone decides how long to keep replicas).
    floor: keep at least the replicas that the demand now and the backlog need.
    drain_time: seconds within which the floor would drain the backlog.
    flap_budget: changes of direction allowed in an hour before scale-down pauses; infinity = off.
    holds: hold the count while the load is unknown (off for references alone that need no metrics, as the clairvoyant).
    fallback: use the rule's recommendation where the policy fails or sees input outside its training range.
    """

    min_replicas: Any = 1
    max_replicas: Any = 100
    interval: Any = 15.0
    lag: Any = 15.0
    startup: Any = 60.0
    capacity_per_replica: Any = float("nan")
    concurrency: Any = 1
    load_counts: Any = "Arrivals"
    objective: Objective = field(default_factory=Objective)
    behavior: Behavior | Sequence[Behavior | None] | None = None
    loss: MetricLoss = field(default_factory=MetricLoss)
    floor: Any = True
    drain_time: Any = 60.0
    flap_budget: Any = 60.0
    holds: Any = True
    fallback: Any = True


class SettingsError(ValueError):
    """A setting has a value that no decision can be made with; the message names the field and the value."""


_PLAIN = ("min_replicas", "max_replicas", "interval", "lag", "startup", "capacity_per_replica", "concurrency",
          "drain_time", "flap_budget")  # fmt: skip


def _require(ok: np.ndarray, name: str, values: np.ndarray, expected: str) -> None:
    if not ok.all():
        bad = int(np.flatnonzero(~ok)[0])
        raise SettingsError(f"{name} is {values[bad]:g} for workload {bad}; expected {expected}")


def compiled(settings: Settings, n: int) -> State:
    """Return the settings of n workloads as arrays of shape (n,), float64, with the behaviour's arrays among them.

    Raises SettingsError for values outside of their range.
    """
    out: State = {}
    for name in _PLAIN:
        out[name] = column(getattr(settings, name), n)
    out["price"] = column(settings.objective.price, n)
    out["latency"] = column(settings.objective.latency, n)
    out["objective_window"] = column(settings.objective.window, n)
    for name in ("floor", "holds", "fallback"):
        out[name] = column(getattr(settings, name), n, bool)
    counts = np.broadcast_to(np.asarray(settings.load_counts, dtype=object), (n,))
    if unknown := {str(c) for c in counts} - {"Arrivals", "Completions"}:
        raise SettingsError(f"load_counts is {sorted(unknown)[0]!r}; expected Arrivals or Completions")
    out["completions"] = np.array([c == "Completions" for c in counts])
    out["loss_after"] = column(settings.loss.after, n)
    actions = np.broadcast_to(np.asarray(settings.loss.action, dtype=object), (n,))
    if unknown := {str(a) for a in actions} - set(LOSS_ACTIONS):
        raise SettingsError(f"loss.action is {sorted(unknown)[0]!r}; expected one of {', '.join(LOSS_ACTIONS)}")
    out["loss_action"] = np.array([LOSS_ACTIONS.index(a) for a in actions], dtype=np.int64)
    out["loss_replicas"] = column(settings.loss.replicas, n)

    _require(out["min_replicas"] >= 0, "min_replicas", out["min_replicas"], "0 or more")
    _require(out["max_replicas"] >= np.maximum(out["min_replicas"], 1), "max_replicas", out["max_replicas"],
             "min_replicas or more, and at least 1")  # fmt: skip
    for name in ("min_replicas", "max_replicas"):
        _require(np.isfinite(out[name]) & (out[name] == np.rint(out[name])), name, out[name], "a whole number")
    for name in ("interval", "drain_time"):
        _require(np.isfinite(out[name]) & (out[name] > 0), name, out[name], "a positive number of seconds")
    for name in ("lag", "startup", "loss_after"):
        _require(np.isfinite(out[name]) & (out[name] >= 0), name, out[name], "0 or more seconds")
    capacity = out["capacity_per_replica"]
    _require(np.isnan(capacity) | ((capacity > 0) & np.isfinite(capacity)), "capacity_per_replica", capacity,
             "requests/s above 0, or NaN where it is unknown")  # fmt: skip
    _require(out["concurrency"] >= 1, "concurrency", out["concurrency"], "1 or more")
    _require(out["latency"] > 0, "objective.latency", out["latency"], "seconds above 0")
    _require(out["objective_window"] > 0, "objective.window", out["objective_window"], "seconds above 0")
    target = column(settings.objective.target, n)
    _require((target > 0) & (target < 100), "objective.target", target, "a percentage above 0 and below 100")
    behaviors = settings.behavior if isinstance(settings.behavior, Sequence) else [settings.behavior] * n
    if len(behaviors) != n:
        raise SettingsError(f"behavior has {len(behaviors)} entries; expected {n}, one for each workload")
    out |= _behavior.compiled(behaviors)
    return out


def joined(settings: Sequence[Settings]) -> Settings:
    """Return the settings of several workloads, each given for one (scalars), as those of all of them at once."""

    def of(values: Sequence[Any], name: str) -> Any:
        return [getattr(each, name) for each in values]

    def all_of(values: Sequence[Any], kind: type[Any]) -> Any:
        return kind(**{each.name: of(values, each.name) for each in fields(kind)})

    several = {each.name: of(settings, each.name) for each in fields(Settings)}
    several["objective"] = all_of(several["objective"], Objective)
    several["loss"] = all_of(several["loss"], MetricLoss)
    return Settings(**several)
