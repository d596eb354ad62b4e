"""Settings as plain values beside a decision in a log, and back: a decision is explained with them, later."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlscaler.arrays import Array
from rlscaler.behavior import POLICY_TYPES, SELECT_POLICIES, Behavior, ScalingPolicy, ScalingRules
from rlscaler.settings import LOSS_ACTIONS, PRICED, MetricLoss, Objective, Settings, compiled

_NUMBERS = ("min_replicas", "max_replicas", "interval", "lag", "startup", "capacity_per_replica", "concurrency",
            "drain_time", "flap_budget", "price", "latency", "objective_window", "loss_after",
            "loss_replicas")  # fmt: skip
_FLAGS = ("floor", "holds", "fallback", "completions")
_DIRECTIONS = (("up", 1.0), ("down", -1.0))
_ALWAYS = frozenset({"min_replicas", "max_replicas", "interval", "lag", "startup", "capacity_per_replica"})
_USUAL = compiled(Settings(), 1)


def stated(settings: Mapping[str, Array], row: int = 0) -> dict[str, Any]:
    """Return the compiled settings of one row, JSON-ready: what is always worth telling, and what is not usual.

    Unknown and infinite numbers are None.
    """
    out: dict[str, Any] = {}
    for name in _NUMBERS:
        value = float(settings[name][row])
        if name in _ALWAYS or not np.array_equal(value, _USUAL[name][0], equal_nan=True):
            out[name] = (int(value) if value == int(value) else value) if np.isfinite(value) else None
    out |= {name: bool(settings[name][row]) for name in _FLAGS if settings[name][row] != _USUAL[name][0]}
    action = int(settings["loss_action"][row])
    if action != int(_USUAL["loss_action"][0]):
        out["loss_action"] = LOSS_ACTIONS[action]
    rules = {name: _rules(settings, row, name, sign) for name, sign in _DIRECTIONS}
    if any(each != {"window": 0.0, "tolerance": 0.0} for each in rules.values()):
        out["behavior"] = rules
    return out


def _rules(settings: Mapping[str, Array], row: int, name: str, sign: float) -> dict[str, Any]:
    found: dict[str, Any] = {
        "window": float(settings[f"{name}_window"][row]), "tolerance": float(settings[f"{name}_tolerance"][row])
    }  # fmt: skip
    if (select := int(settings[f"{name}_select"][row])) < len(SELECT_POLICIES):
        found["select"] = SELECT_POLICIES[select]
        columns = (settings[f"{name}_{key}"][row].tolist() for key in ("period", "factor", "addend"))
        found["policies"] = [
            [POLICY_TYPES[0], round(sign * addend), period]
            if addend
            else [POLICY_TYPES[1], round(100.0 * sign * (factor - 1.0)), period]
            for period, factor, addend in zip(*columns, strict=True)
            if period > 0.0
        ]
    return found


def restated(value: Mapping[str, Any]) -> Settings:
    """Return the settings that `stated` told.

    Raises ValueError (SettingsError among it), TypeError or KeyError for what it cannot have told.
    """
    known = {name: value[name] for name in _NUMBERS if name in value}
    plain = {name: float(number) for name, number in known.items() if number is not None}
    if known.get("capacity_per_replica", 0.0) is None:
        plain["capacity_per_replica"] = np.nan
    if known.get("flap_budget", 0.0) is None:
        plain["flap_budget"] = np.inf
    objective, loss = Objective(), MetricLoss()
    price = plain.pop("price", float(_USUAL["price"][0]))
    target = 100.0 * (1.0 - PRICED / price) if price != float(_USUAL["price"][0]) else objective.target
    made = Settings(
        objective=Objective(
            latency=plain.pop("latency", objective.latency),
            target=max(target, 1e-6),
            window=plain.pop("objective_window", objective.window),
        ),
        loss=MetricLoss(
            after=plain.pop("loss_after", loss.after),
            action=value.get("loss_action", loss.action),
            replicas=plain.pop("loss_replicas", loss.replicas),
        ),
        behavior=_behavior(value["behavior"]) if "behavior" in value else None,
        load_counts="Completions" if value.get("completions", False) else "Arrivals",
        **{name: bool(value[name]) for name in _FLAGS if name in value and name != "completions"},
        **plain,
    )
    compiled(made, 1)
    return made


def _behavior(value: Mapping[str, Any]) -> Behavior:
    return Behavior(up=_direction(value["up"]), down=_direction(value["down"]))


def _direction(value: Any) -> ScalingRules:
    if not isinstance(value, Mapping):
        raise TypeError(f"behavior is told by {value!r}, not by rules")
    policies = tuple(
        ScalingPolicy(POLICY_TYPES[POLICY_TYPES.index(kind)], int(number), float(period))
        for kind, number, period in value.get("policies", ())
    )
    return ScalingRules(float(value["window"]), value.get("select", "Max"), policies, float(value["tolerance"]))
