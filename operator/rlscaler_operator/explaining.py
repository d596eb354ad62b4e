"""What an RLScaler's status says, told as one person tells another. Pure: objects of the API server in, text out.

The words for reasons are those of `rlscaler.reasons`, those for conditions stand in the status; there is no second
copy here. A status may come from another version, or from somebody's hands: what is not there is passed over.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlscaler.quantities import duration_text
from rlscaler.reasons import SENTENCES
from rlscaler.resource_status import clean
from rlscaler_operator.condition_reasons import NOTED
from rlscaler_operator.status import in_shadow, urgent
from rlscaler_operator.timestamps import seconds_of

_MEANINGS = {str(reason.name): sentence for reason, sentence in SENTENCES.items()}
_CHOSEN = frozenset({"Paused", "Forced", "Shadow"})
"""Reasons that a person chose, and which are no trouble."""
QUIET = 1200.0
"""Seconds without a report after which it is said that there was none."""
DOUBTED = 95.0
"""Percent of the live requests within the objective below which it is doubted that a replica serves no more."""


def explained(value: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return what is to be told of an RLScaler, as plain JSON values; what is unknown is left out.

    value: the object as the API server has it. now: seconds since the epoch.
    """
    metadata, spec, status = _block(value, "metadata"), _block(value, "spec"), clean(value.get("status"))
    decision, ref = _block(status, "decision"), _block(spec, "scaleTargetRef")
    found: dict[str, Any] = {
        "namespace": metadata.get("namespace"),
        "name": metadata.get("name"),
        "target": {"kind": ref.get("kind"), "name": ref.get("name")},
        "mode": {"spec": spec.get("mode"), "inForce": status.get("mode")},
        "bounds": {"min": spec.get("minReplicas"), "max": spec.get("maxReplicas")},
        "seen": bool(status.get("conditions")),
        "outdated": _number(status, "observedGeneration") < _number(metadata, "generation"),
    }
    if window := _block(spec, "objective").get("window"):
        found["window"] = window
    replicas = {"current": "currentReplicas", "ready": "readyReplicas", "desired": "desiredReplicas"}
    found["replicas"] = {name: status[key] for name, key in replicas.items() if status.get(key) is not None}
    if decision:
        reasons = decision.get("reasons") or ()
        found["decision"] = {
            **{key: each for key, each in decision.items() if key not in ("reasons", "message")},
            **_aged(decision, "time", now),
            "reasons": [_reason(name) for name in reasons if name != "DesiredWithinRange"],
            "message": decision.get("message"),
        }
    for key in ("policy", "capacity", "history", "comparison", "lastScaleTime"):
        if status.get(key):
            found[key] = status[key]
    if known := found.get("capacity"):
        stated = _block(spec, "capacity")
        unstated = (name for name in ("perReplica", "startup") if name in known and stated.get(name) is None)
        found["learned"] = list(unstated) if known.get("learned") else []
    listed = status.get("conditions") or []
    troubles = urgent(listed)
    # What is not known yet is worth a word only where there is nothing else to say.
    troubles = [each for each in troubles if each.get("reason") != "Pending"] or troubles
    chosen = [each for each in listed if each.get("reason") in ("Forced", "Shadow", *NOTED)]
    found["conditions"] = [dict(each) | _aged(each, "lastTransitionTime", now) for each in (*troubles, *chosen)]
    return found


def _reason(name: str) -> dict[str, str]:
    return {"reason": name, "meaning": _MEANINGS.get(name, "A reason that this version does not know.")}


def _aged(value: Mapping[str, Any], key: str, now: float) -> dict[str, Any]:
    """Return how long ago the time of a field was, in seconds, where it has one."""
    at = seconds_of(value.get(key))
    return {"secondsAgo": max(0, round(now - at))} if math.isfinite(at) else {}


def _block(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def _number(value: Mapping[str, Any], key: str, otherwise: float = 0.0) -> float:
    found = value.get(key)
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else otherwise


def rough(seconds: float) -> str:
    """Return a span as people say it: 45s, 12m, 3h20m, 5d."""
    seconds = max(0.0, seconds)
    if seconds < 120.0:
        return duration_text(math.floor(seconds))
    if seconds < 3600.0:
        return duration_text(60.0 * (seconds // 60.0))
    if seconds < 48 * 3600.0:
        return duration_text(600.0 * (seconds // 600.0))
    return f"{seconds // 86400.0:.0f}d"


def told(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the explanation as lines: (label, text), a label of "" goes on with the one before.

    found: of `explained`.
    """
    target, mode, bounds = found["target"], found["mode"], found["bounds"]
    lines = [
        ("", f"{found['namespace']}/{found['name']} scales {target['kind']} {target['name']}, {_mode(mode)}, "
             f"{bounds['min']} to {bounds['max']} replicas."),
    ]  # fmt: skip
    if not found["seen"]:
        lines.append(("", "No operator has reported on it yet. Is rlscaler running, and does it watch this namespace?"))
        return lines
    if found["outdated"]:
        lines.append(("", "The spec has changed since; what follows speaks of the version before."))
    if "decision" in found:
        lines += _decision(found)
    else:
        lines.append(("", "Nothing has been decided yet."))
    lines += [("", ""), *_conditions(found["conditions"])]
    if "comparison" in found:
        stated = "perReplica" not in found.get("learned", ("perReplica",))
        lines += [("", ""), *_comparison(found["comparison"], stated)]
    return lines


def _mode(mode: Mapping[str, Any]) -> str:
    asked, force = mode["spec"], mode["inForce"]
    if force in (None, asked):
        return f"mode {asked}"
    cause = {"Forced": "rlscaler.io/force-replicas", "Paused": "rlscaler.io/paused"}.get(str(force), "")
    return f"mode {asked}, but {force}" + (f" by {cause}" if cause and asked != "Paused" else "")


def _decision(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    decision, replicas = found["decision"], found["replicas"]
    count = decision.get("replicas")
    ago = f"{rough(decision['secondsAgo'])} ago" if "secondsAgo" in decision else "at an unknown time"
    head = f"{_counted(count)} decided" if count is not None else "No count could be decided"
    lines = [("", f"{head} {ago} ({decision.get('time')}).")]
    if decision.get("secondsAgo", 0) > QUIET:
        lines.append(("", "Nothing has been reported since: either nothing has changed, or no operator runs."))
    lines += [("", ""), ("Seen", _seen(found))]
    if "recommendation" in decision:
        lines.append(("Rule", f"recommended {decision['recommendation']} replicas."))
    if "proposal" in decision:
        lines.append(("Policy", f"{_policy(found.get('policy'))} proposed {decision['proposal']} replicas."))
    elif count is not None:
        lines.append(("Policy", f"{_policy(found.get('policy'))} proposed nothing."))
    if said := _tenure(found.get("policy")):
        lines.append(("Tenure", said))
    shaped = [f"{each['reason']}: {each['meaning']}" for each in decision["reasons"]]
    lines += [("Guard" if not index else "", text) for index, text in enumerate(shaped)]
    if not shaped:
        lines.append(("Guard", str(decision.get("message") or "changed nothing.")))
    missed = any(each["reason"] == "ObjectiveMissed" for each in decision["reasons"])
    if "window" in found and "demand" in decision and not missed:
        lines.append(("Objective", f"kept over {found['window']}, so far, by the load and the ready replicas."))
    return [*lines, ("Done", _done(found, replicas))]


def _counted(count: Any) -> str:
    return f"{count} replica{'' if count == 1 else 's'}"


def _seen(found: Mapping[str, Any]) -> str:
    decision, replicas, capacity = found["decision"], found["replicas"], found.get("capacity") or {}
    parts = []
    if "demand" in decision:
        text = f"load that keeps {decision['demand']} replicas busy"
        if "perReplica" in capacity:
            unstated = found.get("learned", ())
            learned = " as learned so far" if "perReplica" in unstated else ""
            known = " as far as is known" if "startup" in unstated else ""  # learned, or what is assumed until then
            startup = f", start-up {capacity['startup']}{known}" if "startup" in capacity else ""
            text += f" ({capacity['perReplica']} requests/s each{learned}{startup})"
        parts.append(text)
    else:
        parts.append("load unknown")
    if "current" in replicas:
        parts.append(f"{replicas.get('ready', '?')} of {_counted(replicas['current'])} ready")
    if coverage := (found.get("history") or {}).get("coverage"):
        parts.append(f"{coverage} of past load")
    return "; ".join(parts) + "."


def _policy(policy: Any) -> str:
    if not isinstance(policy, Mapping):
        return "the policy"
    digest = str(policy.get("digest") or "")
    return str(policy.get("name")) + (f" ({digest[:19]})" if digest else "")


def _tenure(policy: Any) -> str:
    """Return who has which say, "" where nobody has to earn it."""
    tenure = _block(policy, "tenure") if isinstance(policy, Mapping) else {}
    if not tenure:
        return ""
    only = "only told of: " if tenure.get("mode") == "Advisory" else ""
    leader, learned = tenure.get("leader"), tenure.get("learned")
    parts = []
    if leader:
        share = f" with {_percent(tenure['share'])} of the say" if "share" in tenure else ""
        parts.append(f"{'the ' if leader == 'learned policy' else ''}{leader} leads{share}{_margin(tenure)}")
    else:
        parts.append("nobody leads yet")
    if learned is not None and leader != "learned policy":
        parts.append(f"the learned policy has {_percent(learned)}")
    return f"{only}{'; '.join(parts)}; {tenure.get('history', '0s')} of load replayed."


def _percent(share: float) -> str:
    return f"{100.0 * share:.0f} %"


def _margin(tenure: Mapping[str, Any]) -> str:
    """Return how the leader's score stands to that of the tuned rule."""
    margin = tenure.get("margin")
    if margin is None:
        return ""
    if margin == 0:
        return ", its score that of the tuned rule"
    return f", its score {abs(margin):g} {'below' if margin > 0 else 'above'} the tuned rule's"


def _done(found: Mapping[str, Any], replicas: Mapping[str, Any]) -> str:
    mode, desired = found["mode"]["inForce"], replicas.get("desired")
    last = found.get("lastScaleTime")
    before = f" It was last scaled at {last}." if last else ""
    if mode == "Shadow":
        return f"nothing: mode Shadow writes nothing to the target.{before}"
    if mode == "Paused":
        return f"nothing: the target is left at {_counted(desired)}.{before}"
    if mode == "Forced":
        return f"the target is set to {_counted(desired)} by force-replicas.{before}"
    able = next((each for each in found["conditions"] if each.get("type") == "AbleToScale"), None)
    if able is not None:
        return f"nothing: AbleToScale is {able.get('status')} ({able.get('reason')}).{before}"
    return f"the target is asked for {_counted(desired)}.{before}"


def _conditions(conditions: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    if not conditions:
        return [("", "All conditions are fine.")]
    lines, messages = [], set[str]()
    chosen = in_shadow(conditions)
    for each in conditions:
        since = f", for {rough(each['secondsAgo'])}" if "secondsAgo" in each else ""
        message = str(each.get("message") or "")
        text = f"{each.get('type')} is {each.get('status')} ({each.get('reason')}{since})"
        text += "; see above." if message in messages else f": {message}"
        messages.add(message)
        calm = each.get("reason") in _CHOSEN or (chosen and each.get("type") == "Conflict")
        lines.append(("-" if calm else "!", text))
    return lines


def _comparison(comparison: Mapping[str, Any], stated: bool) -> list[tuple[str, str]]:
    """Return what both sides of Shadow cost and gave. stated: whether spec.capacity.perReplica is."""
    over, since = comparison.get("over", "?"), comparison.get("since", "?")
    lines = [("Estimates", f"of {over} of load since {since}, both sides replayed in one simulated world:")]
    for name, who in (("live", "the live replicas"), ("virtual", "rlscaler's own")):
        side = _block(comparison, name)
        parts = [f"{side['podHours']} pod-hours"] if "podHours" in side else []
        if "withinObjective" in side:
            parts.append(f"{side['withinObjective']} % of requests within the objective")
        if "rescales" in side:
            parts.append(f"{side['rescales']} rescales")
        lines.append(("", f"{who}: {', '.join(parts) or 'nothing yet'}."))
    if isinstance(saved := comparison.get("savings"), (int, float)):
        verb = "save" if saved >= 0 else "cost"
        more = " more" if saved < 0 else ""
        lines.append(("", f"rlscaler would {verb} {abs(saved)} % of the pod-hours{more}{_given(comparison)}."))
    within = _number(_block(comparison, "live"), "withinObjective", 100.0)
    if stated and within < DOUBTED:
        lines.append(("", "If the live replicas were not that late, one serves more than spec.capacity.perReplica."))
    return lines


def _given(comparison: Mapping[str, Any]) -> str:
    """Return what of the objective the pod-hours are saved or spent for, "" where that is nothing or unknown."""
    live, own = (_number(_block(comparison, name), "withinObjective", math.nan) for name in ("live", "virtual"))
    points = float(f"{abs(own - live):.2g}")
    if not points > 0.0:
        return ""
    return f", with {points:g} points {'more' if own > live else 'fewer'} within the objective"


COLUMNS: tuple[str, ...] = ("WORKLOAD", "TARGET", "MODE", "MIN", "MAX", "NOW", "WANTED", "REASON", "FOR")
"""The columns of the table of all."""


def overview(value: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return one line of the table of all, as plain JSON values, with what it is sorted by ("urgency", 0 is first)."""
    found, status = explained(value, now), clean(value.get("status"))
    conditions = found["conditions"]
    first = conditions[0] if conditions else {}
    return {
        "namespace": found["namespace"],
        "name": found["name"],
        "target": found["target"],
        "mode": found["mode"]["inForce"] or found["mode"]["spec"],
        "min": found["bounds"]["min"],
        "max": found["bounds"]["max"],
        "current": found["replicas"].get("current"),
        "desired": found["replicas"].get("desired"),
        "policy": found.get("policy"),
        "reason": str(status.get("reason") or "NotSeen"),
        "message": first.get("message"),
        "secondsAgo": first.get("secondsAgo") if first.get("reason") == status.get("reason") else None,
        "urgency": _urgency(found),
    }


def _urgency(found: Mapping[str, Any]) -> int:
    """Return the rank of a workload among those that need somebody; 9 needs nobody."""
    if not found["seen"]:
        return 1
    ranks = {"Ready": 0, "Conflict": 2, "AbleToScale": 3, "ScalingActive": 4, "FallbackActive": 5, "ScalingLimited": 8}
    if in_shadow(found["conditions"]):
        ranks["Conflict"] = 8
    return min((_rank(each, ranks) for each in found["conditions"]), default=9)


def _rank(condition: Mapping[str, Any], ranks: Mapping[str, int]) -> int:
    if condition.get("reason") in ("Paused", "Forced"):
        return 6
    if condition.get("reason") in NOTED:
        return 7
    return 9 if condition.get("reason") == "Shadow" else ranks.get(str(condition.get("type")), 8)


def sorted_overviews(values: Sequence[Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
    """Return the table of all, those that need attention first, then by namespace and name."""
    rows = [overview(value, now) for value in values]
    return sorted(rows, key=lambda row: (row["urgency"], str(row["namespace"]), str(row["name"])))


def cells(row: Mapping[str, Any], *, namespaced: bool) -> tuple[str, ...]:
    """Return the cells of a line under COLUMNS; namespaced: whether the namespace is told."""
    where = f"{row['namespace']}/" if namespaced else ""
    target = row["target"]
    ago = rough(row["secondsAgo"]) if row["secondsAgo"] is not None else ""
    counts = (row[name] for name in ("min", "max", "current", "desired"))
    numbers = ("-" if count is None else str(count) for count in counts)
    return (f"{where}{row['name']}", f"{target['kind']}/{target['name']}", str(row["mode"]), *numbers,
            str(row["reason"]), ago)  # fmt: skip
