"""The status of a workload, and which differences are worth a write to the API server. Pure.

What people and alerts act on (replicas, mode, policy, conditions) is written at once, and so is the answer to an
annotation or a policy that somebody has just changed; what shapes a decision, who has the most say in it, and new words
of other messages, at most once a minute; plain numbers, those of a message too, every five minutes. So a fleet at rest
writes next to nothing, and a restart writes nothing where nothing changed.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rlscaler.quantities import duration_text
from rlscaler.reasons import names, sentence
from rlscaler.standing import Standing
from rlscaler_operator.condition_reasons import NOTED
from rlscaler_operator.conditions import conditions, is_gone, mode_in_force
from rlscaler_operator.model import Account, Decision, PolicyInUse
from rlscaler_operator.timestamps import seconds_of, stamp

REASONS_EVERY: Final = 60.0
"""Seconds at least between two writes where only reasons of the decision, or a message's words, have changed."""
NUMBERS_EVERY: Final = 300.0
"""Seconds at least between two writes where only numbers have changed."""
_HARDLY: Final[Mapping[str, float]] = {"share": 0.05, "margin": 0.02, "learned": 0.05}
"""By how much who has which say may move, or the margin of a score above 1 in proportion, until it is told."""
_DIGITS: Final[Mapping[str, int]] = {"share": 2, "margin": 3, "learned": 2}

_NUMBER = re.compile(r"\S*\d\S*")
"""A word of a message that may change at each tick, such as a count, a duration or an address."""
_PROMPT = ("observedGeneration", "mode", "currentReplicas", "desiredReplicas", "selector")
"""Fields whose change is written at once; pods become ready one by one, so readyReplicas waits for company."""
_ANSWERS = frozenset({"InvalidAnnotation", "PolicyNotFound", "PolicyRefused", "Paused", "Shadow"})
"""Reasons whose message quotes what a person wrote without touching the spec, whose generation would tell of it."""
_FINE: Final[Mapping[str, str]] = {
    "Ready": "True",
    "ScalingActive": "True",
    "AbleToScale": "True",
    "ScalingLimited": "False",
    "FallbackActive": "False",
    "Conflict": "False",
}
"""The status of each condition that asks nothing of anybody."""
_MILD = frozenset({"Pending", "Shadow", "Forced"}) | NOTED
"""Reasons to be told though the condition is fine or unknown, after those that are not."""
_URGENCY = ("Ready", "Conflict", "AbleToScale", "ScalingActive", "FallbackActive", "ScalingLimited")
"""The conditions, in the order in which a person should hear of them."""


def status(account: Account, previous: Mapping[str, Any]) -> dict[str, Any]:
    """Return the status after a tick; unknown values are left out. previous: the status before it.

    What this tick says nothing of (no decision, no target seen yet) stays as it was.
    """
    workload, target, decision, policy = account.workload, account.target, account.decision, account.policy
    found = conditions(account, _listed(previous.get("conditions")), account.time)
    out: dict[str, Any] = {
        "observedGeneration": workload.generation,
        "mode": mode_in_force(workload),
        "reason": _reason(found, decision, previous),
        "conditions": found,
    }
    if target is not None:
        out |= {"currentReplicas": target.replicas, "readyReplicas": target.ready}
        if target.selector:
            out["selector"] = target.selector
    elif account.target_problem is None:
        out |= _kept(previous, "currentReplicas", "readyReplicas", "selector")
    if not is_gone(account):
        desired = _desired(account)
        out |= _kept(previous, "desiredReplicas") if desired is None else {"desiredReplicas": desired}
    if math.isfinite(account.last_scale):
        out["lastScaleTime"] = stamp(account.last_scale)
    else:
        out |= _kept(previous, "lastScaleTime")
    if policy is not None:
        out["policy"] = _policy(policy, decision, previous.get("policy"))
    else:
        out |= _kept(previous, "policy")
    if decision is None:
        out |= _kept(previous, "decision", "capacity", "history")
    else:
        out["decision"] = _decided(decision)
        out["history"] = {"coverage": coverage_text(decision.coverage)}
        if capacity := _capacity(account, decision):
            out["capacity"] = capacity
    if out["mode"] == "Shadow":
        out |= _kept(previous, "comparison") if account.comparison is None else {"comparison": account.comparison}
    return out


def changed(old: Mapping[str, Any], new: Mapping[str, Any], since_last: float) -> bool:
    """Tell whether a new status is worth a write now. old: as written last. since_last: seconds since then."""
    if any(old.get(name) != new.get(name) for name in _PROMPT) or _moved(old, new):
        return True
    if decides_as(old.get("policy")) != decides_as(new.get("policy")):
        return True
    before, after = _by_type(old), _by_type(new)
    if before.keys() != after.keys():
        return True
    if any(before[name].get("observedGeneration") != after[name].get("observedGeneration") for name in after):
        return True  # what was told of the former spec stood until the new one had been tried
    other = [name for name in after if after[name] is not before[name]]
    shifted = {name for name in other if _said(before[name]) != _said(after[name])}
    if any(not _routine(name, before[name], after[name]) for name in shifted):
        return True
    if any(_message(before[name]) != _message(after[name]) for name in other if after[name].get("reason") in _ANSWERS):
        return True
    if since_last >= REASONS_EVERY:
        if shifted or old.get("reason") != new.get("reason"):
            return True
        if _reasons(old) != _reasons(new) or old.get("readyReplicas") != new.get("readyReplicas"):
            return True
        if _tenure(old.get("policy")).get("leader") != _tenure(new.get("policy")).get("leader"):
            return True
        if any(_words(before[name]) != _words(after[name]) for name in other):
            return True
    if since_last < NUMBERS_EVERY:
        return False
    return _numbers(old) != _numbers(new) or any(_message(before[name]) != _message(after[name]) for name in other)


def age(old: Mapping[str, Any], now: float) -> float:
    """Return the seconds since a stored status was written, infinity where it does not tell."""
    decision = old.get("decision")
    told = seconds_of(decision.get("time")) if isinstance(decision, Mapping) else math.nan
    return max(0.0, now - told) if math.isfinite(told) else math.inf


def is_fine(condition: Mapping[str, Any]) -> bool:
    """Tell whether a condition asks nothing of anybody. A mode that a person chose (Shadow) is fine."""
    wanted = _FINE.get(str(condition.get("type")))
    return condition.get("status") == wanted or condition.get("reason") == "Shadow"


def urgent(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the conditions that are not fine, the most urgent first; last who else scales what Shadow watches."""
    known = {str(each.get("type")): each for each in found}
    names = sorted(_URGENCY, key=lambda name: name == "Conflict") if in_shadow(found) else _URGENCY
    return [known[name] for name in names if name in known and not is_fine(known[name])]


def in_shadow(found: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether conditions are those of a workload in Shadow, beside whose owner there is nothing to settle."""
    return any(each.get("type") == "AbleToScale" and each.get("reason") == "Shadow" for each in found)


def coverage_text(seconds: float) -> str:
    """Return how much past is known, in words that change rarely: minutes in the first hours, then hours, days in h."""
    unit = 60.0 if seconds < 6 * 3600.0 else 1800.0 if seconds < 48 * 3600.0 else 6 * 3600.0
    return duration_text(unit * math.floor(seconds / unit)) if math.isfinite(seconds) and seconds > 0.0 else "0s"


def rounded(value: float) -> float | int:
    """Return a number with the digits that mean something to people: two decimals, four digits at least."""
    short = round(value, 2) if abs(value) < 1000.0 else float(f"{value:.5g}")
    return int(short) if short.is_integer() else short


def _listed(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _kept(previous: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    return {name: previous[name] for name in fields if previous.get(name) is not None}


def _desired(account: Account) -> int | None:
    """Return the count that the target should have by what is in force; None where this tick says nothing of it."""
    mode = mode_in_force(account.workload)
    if account.wanted is not None and mode in ("Active", "Forced"):
        return account.wanted
    if mode == "Paused" and account.target is not None:
        return account.target.desired
    decision = account.decision
    return decision.replicas if decision is not None and decision.replicas >= 0 else None


def _decided(decision: Decision) -> dict[str, Any]:
    out: dict[str, Any] = {"time": stamp(decision.time)}
    for name in ("demand", "recommendation", "proposal"):
        value = float(getattr(decision, name))
        if math.isfinite(value):
            out[name] = rounded(value)
    if decision.replicas >= 0:
        out["replicas"] = decision.replicas
    return out | {"reasons": list(names(decision.bits)), "message": sentence(decision.bits)}


def decides_as(policy: object) -> dict[str, Any]:
    """Return what of a status' policy tells it from another one: name, digest, schema and mode of tenure."""
    found = policy if isinstance(policy, Mapping) else {}
    told = {name: found.get(name) for name in ("name", "digest", "schema")}
    return told | {"tenure": _tenure(policy).get("mode")}


def _tenure(policy: object) -> Mapping[str, Any]:
    found = policy.get("tenure") if isinstance(policy, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _policy(policy: PolicyInUse, decision: Decision | None, previous: object) -> dict[str, Any]:
    """Return what is told of the policy. previous: what was told of it, or of another one."""
    told = {"name": policy.name, "digest": policy.digest, "schema": policy.schema}
    out: dict[str, Any] = {name: value for name, value in told.items() if value}
    if not policy.tenure:
        return out
    bare = out | {"tenure": {"mode": policy.tenure}}
    before = _tenure(previous) if decides_as(previous) == decides_as(bare) else {}
    standing = decision.standing if decision is not None else None
    if standing is None or standing.mode != policy.tenure:
        return out | {"tenure": dict(before)} if before else bare
    return out | {"tenure": _stands(standing, before)}


def _stands(standing: Standing, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return who has which say; its numbers are those told before while they have hardly moved."""
    figures = {"share": standing.share, "margin": standing.margin, "learned": standing.learned}
    found = {name: round(value, _DIGITS[name]) for name, value in figures.items() if value is not None}
    told = {name: before[name] for name in figures if name in before}
    if standing.leader == before.get("leader", "") and told.keys() == found.keys():
        same = all(abs(found[name] - told[name]) < (_HARDLY[name] * max(1.0, abs(told[name]))) for name in found)
        found = told if same else found
    leader = {"leader": standing.leader} if standing.leader else {}
    return {"mode": standing.mode, **leader, **found, "history": coverage_text(standing.seconds)}


def _capacity(account: Account, decision: Decision) -> dict[str, Any]:
    resource, out = account.workload.resource, dict[str, Any]()
    if math.isfinite(decision.capacity):
        out["perReplica"] = f"{decision.capacity:.4g}" if decision.capacity < 1e4 else f"{decision.capacity:.0f}"
    if math.isfinite(decision.startup):
        out["startup"] = duration_text(round(decision.startup, 1 if decision.startup < 10.0 else 0))
    if out and resource is not None:
        stated = resource.spec.capacity
        out["learned"] = ("perReplica" in out and stated.per_replica is None) or (
            "startup" in out and stated.startup is None
        )
    return out


def _reason(found: Sequence[Mapping[str, Any]], decision: Decision | None, previous: Mapping[str, Any]) -> str:
    troubled = urgent(found)
    if troubled and troubled[0]["reason"] not in _MILD:
        return str(troubled[0]["reason"])
    for each in found:
        if each["reason"] in _MILD - {"Shadow", "Pending"}:
            return str(each["reason"])
    if decision is not None:
        return names(decision.bits)[0]
    return str(troubled[0]["reason"]) if troubled else str(previous.get("reason") or "Pending")


def _by_type(value: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(each.get("type")): each for each in _listed(value.get("conditions"))}


def _said(condition: Mapping[str, Any]) -> tuple[Any, Any]:
    return condition.get("status"), condition.get("reason")


def _message(condition: Mapping[str, Any]) -> str:
    return str(condition.get("message"))


def _words(condition: Mapping[str, Any]) -> str:
    """Return what a message says, whatever its numbers are."""
    return _NUMBER.sub("#", _message(condition))


def _routine(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Tell whether a change is part of everyday scaling: a limit met, a window entered, a rescale that is over."""
    if name == "ScalingLimited":
        return True
    fine = before.get("status") == after.get("status") == _FINE.get(name)
    return fine and not _MILD & {before.get("reason"), after.get("reason")}


def _reasons(value: Mapping[str, Any]) -> Any:
    decision = value.get("decision")
    return decision.get("reasons") if isinstance(decision, Mapping) else None


def _moved(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Tell whether the target was scaled: lastScaleTime, which a restart forgets, has advanced."""
    before, after = seconds_of(old.get("lastScaleTime")), seconds_of(new.get("lastScaleTime"))
    return math.isfinite(after) and not (math.isfinite(before) and after <= before)


_TOLD_APART = {"conditions", "reason"}


def _numbers(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is compared every five minutes beside messages: all but conditions and the time of the decision."""
    out = {name: each for name, each in value.items() if name not in _TOLD_APART}
    if tenure := _tenure(out.get("policy")):  # its history goes along with the coverage, which grows as it does
        out["policy"] = {**out["policy"], "tenure": {name: each for name, each in tenure.items() if name != "history"}}
    if isinstance(decision := out.get("decision"), Mapping):
        out["decision"] = {name: each for name, each in decision.items() if name not in ("time", "message")}
    return out
