"""A recorded decision, explained: what was seen, wanted and decided, what moved it, and what would have changed it.

`explanation` puts everything together as plain values, `told` makes a page of about thirty lines of them.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler.artifact import ArtifactError
from rlscaler.counterfactuals import PAST, Answer, Explained, Next, explained, wish
from rlscaler.decision_log import DecisionLog, found, read, when
from rlscaler.errors import UserError
from rlscaler.hedge import utmost_price
from rlscaler.policies import BUILT_IN, RULES, SPARE_RULE, PolicyError, load_policy
from rlscaler.policy import Policy
from rlscaler.quantities import duration_text, shown
from rlscaler.reasons import SENTENCES, Reason
from rlscaler.rebuilt import ALIKE, Moment, rebuilt
from rlscaler.rules.tenure import Tenure
from rlscaler.settings import Settings
from rlscaler.tenured import Tenured

LEAST = 0.05
"""Replicas by which leaving an input out must move the proposal to be told of."""
WIDTH, LABEL = 100, 8
"""Columns of the page, and of the labels in it."""
CANDIDATES, LEAST_SAY = 5, 0.01
"""Candidates of a policy with tenure that are told by name, and the say that they have at least."""
_HELD = "\u00a0%"
_MEANINGS = {str(reason.name): sentence for reason, sentence in SENTENCES.items()}


def explanation(
    path: str | Path,
    at: str,
    *,
    workload: str | None = None,
    policy: str | None = None,
    settings: Callable[[str], Settings] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Return a recorded decision explained, JSON-ready; unknown numbers are None.

    at: see `decision_log.found`. workload: whose (None: the log has but one). policy: a name or path, where the log
    does not say which decided or knows it by another name. settings: makes a workload's settings, where the log does
    not tell them. Raises UserError.
    """
    log = read(path, workload)
    index = found(log, at)
    line = log.lines[index]
    made = _policy(policy or line.policy, line.tenure, log, stated=policy is not None)
    given = settings(log.workload) if settings is not None else None
    moment = rebuilt(log, index, made, given, progress)
    answers = explained(moment)
    notes = [*log.notes, *_notes(log, moment, given, policy or line.policy)]
    return {
        "workload": log.workload or None,
        "policy": policy or line.policy,
        "decided_by": line.policy or policy,
        "time": line.time,
        "at": when(line.time),
        "log": {"file": log.path, "line": line.number},
        "seen": _seen(moment),
        "recorded": {
            "demand": _plain(line.demand),
            "recommendation": _plain(line.recommendation),
            "proposal": _plain(line.proposal),
            "replicas": line.replicas,
            "reasons": list(line.reasons),
        },
        "bounds": [int(moment.settings.min_replicas), int(moment.settings.max_replicas)],
        "overstated": _plain(moment.overstated()),
        "missed": dict(zip(("late", "spare"), map(_plain, moment.missed()), strict=True)),
        "replay": _replay(moment),
        "wish": wish(line.proposal, moment.settings),
        "asked": [_answered(each, answers) for each in answers.asked],
        "inputs": sorted(
            (_answered(each, answers) for each in answers.inputs), key=lambda each: -abs(each["moved"] or 0.0)
        ),
        "next": {"up": _next(answers.up), "down": _next(answers.down), "held": list(answers.held)},
        "standing": standing(moment),
        "notes": notes,
    }


def _policy(name: str, tenure: str | None, log: DecisionLog, *, stated: bool) -> Policy:
    if not name:
        raise UserError(f"{log.path} does not say which policy decided; name it by --policy, such as --policy default")
    try:
        return load_policy(name, tenure=None if name in RULES else tenure)
    except (PolicyError, ArtifactError) as error:
        if stated:
            raise UserError(f"--policy {shown(name)}: {error}") from error
        if isinstance(error, ArtifactError) and Path(name).exists():
            raise UserError(
                f"{log.path}: policy {shown(name)} decided, and that artifact cannot be used: {error}; give the one "
                "that decided by --policy FILE.rlz"
            ) from error
        raise UserError(
            f"{log.path}: policy {shown(name)} decided, which is none of {', '.join(BUILT_IN)} and no artifact here; "
            "give its artifact by --policy FILE.rlz"
        ) from error


def _notes(log: DecisionLog, moment: Moment, given: Settings | None, policy: str) -> list[str]:
    notes = []
    replayed = moment.replayed
    assert replayed is not None
    if moment.line.settings is None and given is None:
        notes.append(
            "the log does not tell the workload's settings: they are taken from what was observed, the load is told in "
            "replicas, and the bounds are those that decisions met; -f FILE.yaml gives them"
        )
    if replayed.missing:
        notes.append(
            f"the log begins {_before(replayed.seconds)}, and what was known of the time before it "
            f"({len(replayed.missing)} inputs) is taken from what the log says was seen: answers about another load "
            "are estimates"
        )
    if replayed.decisions and replayed.alike < replayed.decisions:
        notes.append(
            f"{replayed.decisions - replayed.alike:,} of the {replayed.decisions:,} decisions before it come out "
            "otherwise when they are replayed, so what the guard remembered may differ"
        )
    if not exact(moment):
        by = f" by {policy}, which the log does not say decided" if moment.line.policy not in ("", policy) else ""
        notes.append(
            f"replayed{by}, this decision is {_count(replayed.replicas)} (wanted {_wanted(replayed.proposal)}), and "
            f"the log has {_count(moment.line.replicas)} (wanted {_wanted(moment.line.proposal)}): changes are told "
            "from the replayed one"
        )
    return notes


def _before(seconds: float) -> str:
    return f"{duration_text(round(seconds))} before" if seconds >= 0.5 else "with this decision"


def exact(moment: Moment) -> bool:
    """Tell whether the replayed decision is the recorded one."""
    replayed, line = moment.replayed, moment.line
    assert replayed is not None
    same = np.isclose(replayed.proposal, line.proposal, rtol=ALIKE, atol=ALIKE, equal_nan=True)
    return bool(same) and replayed.replicas == line.replicas


def _replay(moment: Moment) -> dict[str, Any]:
    replayed = moment.replayed
    assert replayed is not None
    return {
        "decisions": replayed.decisions,
        "alike": replayed.alike,
        "exact": exact(moment),
        "proposal": _plain(replayed.proposal),
        "replicas": replayed.replicas,
        "missing": list(replayed.missing),
    }


def _seen(moment: Moment) -> dict[str, Any]:
    names = ("load", "backlog", "ready", "starting", "desired", "utilization", "latency")
    told = {name: _plain(moment.reading[name]) for name in names}
    return told | {"capacity": _plain(float(moment.settings.capacity_per_replica))}


def _answered(answer: Answer, answers: Explained) -> dict[str, Any]:
    return {
        "key": answer.key,
        "what": answer.what,
        "replicas": answer.replicas,
        "proposal": _plain(answer.proposal),
        "change": answer.replicas - answers.base.replicas,
        "moved": _plain(answers.base.proposal - answer.proposal),
        "reasons": list(answer.reasons),
    }


def _next(found: Next | None) -> dict[str, Any] | None:
    return None if found is None else {"factor": found.factor, "load": found.load, "replicas": found.replicas}


def standing(moment: Moment) -> dict[str, Any] | None:
    """Return who has which say in a policy with tenure, most first; None where nobody has to earn it."""
    policy = moment.policy
    tenure = policy.tenure if isinstance(policy, Tenured) else policy
    if not isinstance(tenure, Tenure):
        return None
    state = moment.memory["policy"]
    price = np.reshape(utmost_price(np, np.atleast_1d(moment.settings.objective.price)), (-1, 1))
    weights = tenure.hedge.weights(np, state, price)[0]
    order = np.argsort(-weights, kind="stable")
    return {
        "seconds": float(state["known"][0]),
        "candidates": [{"name": tenure.candidates[i][1], "share": float(weights[i])} for i in order.tolist()],
    }


def _plain(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


# --- in words


def told(value: Mapping[str, Any]) -> list[str]:
    """Return the page of an explanation, line by line."""
    recorded, whose = value["recorded"], value["workload"] or "The workload"
    lines = [f"{whose} at {value['at']}: {_count(recorded['replicas'])} decided, policy {value['decided_by']} "
             f"(line {value['log']['line']:,}).", ""]  # fmt: skip
    lines += _labelled("Seen", _reading(value))
    lines += _labelled("Wanted", _wish(value))
    lines += _labelled("Guard", *_guard(recorded["reasons"], value["overstated"], value["missed"]))
    lines += _labelled("Replay", _replayed(value["replay"]))
    lines += _table(value)
    lines += _inputs(value)
    lines += ["", *_labelled("Next", *_margins(value))]
    if value["standing"] is not None:
        lines += _labelled("Say", _say(value["standing"]))
    for note in value["notes"]:
        lines += _wrapped(f"note: {note}", WIDTH, "      ")
    return lines


def _labelled(label: str, *texts: str) -> list[str]:
    lines = [line for text in texts for line in _wrapped(text, WIDTH - LABEL)]
    return [f"{label if not row else '':<{LABEL}}{line}" for row, line in enumerate(lines)]


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Return the text in lines, no number apart from its per cent."""
    held = text.replace(" %", _HELD)
    lines = textwrap.wrap(held, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
    return [line.replace(_HELD, " %") for line in lines]


def _reading(value: Mapping[str, Any]) -> str:
    seen, demand = value["seen"], value["recorded"]["demand"]
    if demand is None:
        parts = ["load unknown"]
    else:
        rate = f" ({seen['load']:,.4g} requests/s at {seen['capacity']:,.4g} each)" if seen["capacity"] != 1.0 else ""
        parts = [f"load that keeps {demand:,.1f} replicas busy{rate}"]
    if seen["desired"] is None:
        parts.append("replicas unknown")
    else:
        starting = f", {seen['starting']:,.0f} starting" if seen["starting"] else ""
        parts.append(f"{seen['ready']:,.0f} of {seen['desired']:,.0f} ready{starting}")
    if seen["backlog"]:  # what is observed tells an unknown backlog from none by nothing
        parts.append(f"{seen['backlog']:,.0f} requests waiting")
    if seen["latency"] is not None:
        parts.append(f"latency {1000.0 * seen['latency']:,.0f} ms")
    return "; ".join(parts) + "."


def _wish(value: Mapping[str, Any]) -> str:
    recorded = value["recorded"]
    proposal, demand, rule = (recorded[name] for name in ("proposal", "demand", "recommendation"))
    if proposal is None:
        return f"{value['decided_by']} had no answer."
    text = f"{value['decided_by']} wanted {proposal:,.2f} replicas"
    if demand:
        text += f", {proposal / demand:.2f} times the demand"
    if rule is not None and value["decided_by"] != SPARE_RULE:
        text += f"; the rule {SPARE_RULE} recommended {rule:,.2f}"
    if value["wish"] != recorded["replicas"] and value["wish"] >= 0:
        text += f". Alone, within the bounds, it would have had {value['wish']:,}"
    return text + "."


def _guard(reasons: Sequence[str], overstated: float | None, missed: Mapping[str, float | None]) -> list[str]:
    meanings = dict(_MEANINGS)
    if overstated is not None and overstated > 1.0:
        meanings[str(Reason.CapacityOverstated.name)] = (
            f"By their utilization replicas carry {1.0 / overstated:.2f} of the stated capacity, so "
            f"{overstated:.2f} times as many are asked for."
        )
    late, spare = missed["late"], missed["spare"]
    if late is not None and spare is not None and spare > 1.0:
        percent = float(f"{100.0 * late:.2g}")
        meanings[str(Reason.ObjectiveMissed.name)] = (
            f"{percent:g} % of the requests within the objective's window were late, by the load and the ready "
            f"replicas, so {spare:.2f} times the headroom is held."
        )
    found = [f"{name}: {meanings.get(name, 'A reason that this version does not know.')}"
             for name in reasons if name != "DesiredWithinRange"]  # fmt: skip
    return found or ["changed nothing."]


def _replayed(replay: Mapping[str, Any]) -> str:
    if not replay["decisions"]:
        return f"the first of the log, and it {'comes out alike' if replay['exact'] else 'does not come out alike'}."
    before = f"{replay['alike']:,} of the {replay['decisions']:,} before it come out alike"
    return f"{before}; this one {'does too' if replay['exact'] else 'does not'}."


def _table(value: Mapping[str, Any]) -> list[str]:
    rows = [each for each in value["asked"] if each["change"] or not each["key"].startswith("guard:")]
    width = max((len(each["what"]) for each in rows), default=0)
    lines = ["", f"{'Had ...':<{width}}  replicas  change  wanted  because of"]
    for each in rows:
        reasons = ", ".join(name for name in each["reasons"] if name != "DesiredWithinRange")
        change = f"{each['change']:+,}" if each["change"] else "="
        count = f"{each['replicas']:,}" if each["replicas"] >= 0 else "-"
        row = f"{each['what']:<{width}}  {count:>8}  {change:>6}  {_wanted(each['proposal']):>6}  {reasons}"
        lines.append(row.rstrip())
    return lines


def _inputs(value: Mapping[str, Any]) -> list[str]:
    """Return what the inputs are worth, those that move something alone."""
    if value["replay"]["proposal"] is None:
        return []
    past = [each for each in value["inputs"] if each["what"] == PAST]
    moved = [each for each in value["inputs"] if abs(each["moved"] or 0.0) >= LEAST and each["what"] != PAST]
    lines = ["", "What moved it: each input left out, as of a workload that has no past but this reading"]
    width = max((len(each["what"]) for each in [*moved, *past]), default=0)
    for each in [*moved, *(past if moved else [])]:
        by = each["moved"] or 0.0
        lines.append(f"{each['what']:<{width}}  {by:+8,.2f} replicas: without, {_wanted(each['proposal'])} wanted and "
                     f"{each['replicas']:,} decided")  # fmt: skip
    if not moved:
        lines.append(f"nothing of it: {value['policy']} goes by the present reading alone here.")
    return lines


def _margins(value: Mapping[str, Any]) -> list[str]:
    up, down = value["next"]["up"], value["next"]["down"]
    if value["seen"]["load"] is None:
        return ["while the load is unknown nothing but the fallback of onMetricLoss changes the count."]
    if not value["seen"]["load"]:
        return ["there is no load, and so nothing to change it by a share of."]

    def load(found: Mapping[str, Any]) -> str:
        return f"{found['load']:,.4g} requests/s ({100.0 * (found['factor'] - 1.0):+.0f} %)"

    most = value["bounds"][1]
    first = f"no more, up to ten times the load (maxReplicas is {most:,})"
    if up is not None:
        first = f"{_count(up['replicas'])} from {load(up)} on"
    held = [name for name in value["next"]["held"] if name != "DesiredWithinRange"]
    least = "no fewer now, down to a tenth of it" + (f" ({', '.join(held)})" if held else "")
    if down is not None:
        least = f"{_count(down['replicas'])} from {load(down)} down"
    return [f"{first}; {least}."]


def _say(standing: Mapping[str, Any]) -> str:
    best = [each for each in standing["candidates"][:CANDIDATES] if each["share"] >= LEAST_SAY]
    shares = ", ".join(f"{each['name']} {100.0 * each['share']:.0f} %" for each in best)
    rest = 1.0 - sum(each["share"] for each in best)
    minutes = round(standing["seconds"] / 60.0)
    span = duration_text(60.0 * minutes) if minutes else "less than a minute"
    return f"{best[0]['name']} leads, on {span} of past: {shares}; the other " \
           f"{len(standing['candidates']) - len(best)} have {100.0 * rest:.0f} %."  # fmt: skip


def _wanted(proposal: float | None) -> str:
    return "none" if proposal is None or not np.isfinite(proposal) else f"{proposal:,.1f}"


def _count(replicas: int) -> str:
    return "no count" if replicas < 0 else f"{replicas:,} replica{'' if replicas == 1 else 's'}"
