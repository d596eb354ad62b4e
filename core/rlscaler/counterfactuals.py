"""How a decision would have been another one: the same moment, asked again with one thing changed at a time.

Three questions, each a batch of rows of one autoscaler: other readings and settings now; an input at its neutral value;
and the next load up and down at which the count changes.

The neutral value of an input is the one of a workload that has no past but the present reading: ratios to the present
level and growth are 0, what the histograms of growth tell is the prior's. What moves a decision is told by leaving one
group of inputs out so, the others as they are; effects need not add up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rlscaler import growth
from rlscaler.arrays import State
from rlscaler.autoscaler import Autoscaler
from rlscaler.decisions import Decisions
from rlscaler.features import EXTREMES, LAGS, SOURCES, SPANS, label
from rlscaler.guard import unkept
from rlscaler.policies import SPARE_RULE, load_policy
from rlscaler.policy import Policy
from rlscaler.reasons import names
from rlscaler.rebuilt import UNBOUNDED, Moment, replaced
from rlscaler.rules.hpa import Hpa
from rlscaler.settings import Settings
from rlscaler.snapshot import Snapshot

LOADS = (0.5, 0.8, 1.25, 2.0)
"""Factors of the load that are asked for."""
WAITING = 10.0
"""Seconds of load of the backlog that is asked for."""
RECENT = 300.0
"""Seconds that are the last minutes; what is older within the hour is told apart."""
_STEPS = np.exp(0.01 * np.arange(1, 231))
"""Factors of the load among which the next count is looked for: 1 % apart, up to ten times more or less."""


def _groups() -> dict[str, tuple[str, ...]]:
    recent = ["rel_latest", "trend", "noise_5m", *(f"lag_{label(lag)}" for lag in LAGS if lag <= RECENT)]
    recent += [f"mean_{label(span)}" for span in SPANS if span <= RECENT]
    recent += [f"{kind}_{label(span)}" for span in EXTREMES if span <= RECENT for kind in ("max", "min")]
    hour = ["noise_1h", *(f"lag_{label(lag)}" for lag in LAGS if lag > RECENT)]
    hour += [f"mean_{label(span)}" for span in SPANS if span > RECENT]
    hour += [f"{kind}_{label(span)}" for span in EXTREMES if span > RECENT for kind in ("max", "min")]
    return {
        "the last five minutes": tuple(recent),
        "the hour before them": tuple(hour),
        "its own growth so far": tuple(f"{source}_{name}" for source in SOURCES for name in growth.STATISTICS),
        "the time of day and week": ("quarter_mean", "quarter_high", "ahead", "versus_profile"),
        "what came one period ago": ("again", "period"),
        "yesterday and last week": ("yesterday", "lastweek"),
        "how long it is known": ("experience",),
    }


GROUPS = _groups()
"""Inputs that the past makes, by what they are called: names of features."""
PAST = "all of its past"


@dataclass(frozen=True, slots=True)
class Answer:
    """What would have been decided. what: was changed, in words; key: for programs.

    replicas: -1 = none. proposal: NaN = no answer; replicas that were wanted.
    """

    key: str
    what: str
    replicas: int
    proposal: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Next:
    """Where the count changes. factor: of the load. load: requests/s. replicas: decided there."""

    factor: float
    load: float
    replicas: int


@dataclass(frozen=True, slots=True)
class Explained:
    """All answers about a moment. asked: other readings, settings and policies. inputs: each group left out.

    load: requests/s that the factors are of; it is the last known one where the load is unknown. up, down: where more
    load leads to more and less load to fewer; None where none does within ten times. held: why the least load of these
    leads to no fewer.
    """

    base: Answer
    asked: Sequence[Answer]
    inputs: Sequence[Answer]
    load: float
    up: Next | None
    down: Next | None
    held: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Question:
    key: str
    what: str
    reading: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    neutral: tuple[str, ...] = ()
    forgets: bool = False


def explained(moment: Moment, others: Sequence[tuple[str, Policy]] = ()) -> Explained:
    """Return what would have been decided otherwise.

    others: further policies that are asked, each with its name.
    """
    load = _load(moment)
    questions = _questions(moment, load)
    steps = np.concatenate([_STEPS, 1.0 / _STEPS]) if load > 0.0 else np.zeros(0)
    scan = [_Question("load", "", {"load": load * step}) for step in steps.tolist()]
    done = _asked(moment, [_Question("decision", "as it was"), *questions, *scan])
    answers = [_answer(done, row, each) for row, each in enumerate([_Question("decision", "as it was"), *questions])]
    counts = done.replicas[len(answers) :]
    half = len(_STEPS)
    base = answers[0].replicas
    inputs = [each for each in answers[1:] if each.key.startswith("without:")]
    return Explained(
        base=answers[0],
        asked=[*(each for each in answers[1:] if each not in inputs), *_by_others(moment, others)],
        inputs=inputs,
        load=load,
        up=_next(steps[:half], counts[:half], counts[:half] > base, load),
        down=_next(steps[half:], counts[half:], counts[half:] < base, load),
        held=names(int(done.reasons[-1])) if steps.size else (),
    )


def _next(steps: np.ndarray, counts: np.ndarray, where: np.ndarray, load: float) -> Next | None:
    """Return the first of the steps where it is so."""
    other = np.flatnonzero(where)
    if not other.size:
        return None
    first = int(other[0])
    return Next(float(steps[first]), load * float(steps[first]), int(counts[first]))


def _load(moment: Moment) -> float:
    """Return the load in requests/s; the last known one where it is unknown, NaN where none ever was."""
    load = moment.reading["load"]
    if np.isfinite(load):
        return load
    history = moment.memory["history"]
    slot = int(history["slot"][0])
    return float(history["load"][0, slot % history["load"].shape[1]]) if slot >= 0 else float("nan")


def _questions(moment: Moment, load: float) -> list[_Question]:
    reading, settings = moment.reading, moment.settings
    capacity = float(settings.capacity_per_replica)
    out = []
    if np.isfinite(load):
        if not np.isfinite(reading["load"]):
            out.append(_Question("load:known", f"the load been known, {_rate(load)} as it last was", {"load": load}))
        elif load > 0.0:
            out += [
                _Question(f"load:{factor:g}", f"the load been x{factor:g}: {_rate(factor * load)}",
                          {"load": factor * load})
                for factor in LOADS
            ]  # fmt: skip
        if reading["backlog"] > 0.0:
            out.append(_Question("backlog:0", "nobody been waiting", {"backlog": 0.0}))
        if load > 0.0:
            waits = WAITING * load
            out.append(_Question("backlog:10s", f"{WAITING:g} s of load been waiting: {waits:,.0f} requests",
                                 {"backlog": waits}))  # fmt: skip
    ready, current = reading["ready"], reading["desired"]
    if ready > 1.0:
        half = float(np.ceil(0.5 * ready))
        out.append(_Question("ready:half", f"{half:.0f} instead of {ready:.0f} replicas been ready",
                             {"ready": half, "starting": reading["starting"] + ready - half}))  # fmt: skip
    if np.isfinite(current) and ready < current:
        out.append(
            _Question("ready:all", f"all {current:.0f} replicas been ready", {"ready": current, "starting": 0.0})
        )
    if settings.floor:
        out.append(_Question("guard:floor", "the guard had no reactive floor", {}, {"floor": False}))
    if settings.behavior is not None:
        out.append(_Question("guard:behavior", "spec.behavior been left out", {}, {"behavior": None}))
    if settings.fallback:
        out.append(_Question("guard:fallback", "the rule not stepped in outside of the training range", {},
                             {"fallback": False}))  # fmt: skip
    out.append(_Question("guard:patience", "no earlier proposal been kept", forgets=True))
    wide = {"min_replicas": 0, "max_replicas": UNBOUNDED}
    out.append(_Question("guard:bounds", "minReplicas and maxReplicas not been there", {}, wide))
    out += [_Question(f"without:{name}", name, neutral=fields) for name, fields in GROUPS.items()]
    out.append(_Question(f"without:{PAST}", PAST, neutral=tuple(name for group in GROUPS.values() for name in group)))
    if reading["backlog"] > 0.0:
        out.append(_Question("without:the backlog", "the backlog", {"backlog": 0.0}))
    if ready != current or reading["starting"] > 0.0:
        out.append(_Question("without:replicas on their way", "replicas on their way",
                             {"ready": current, "starting": 0.0}))  # fmt: skip
    measured = {name: float("nan") for name in ("utilization", "latency") if np.isfinite(reading[name])}
    if measured and np.isfinite(capacity):
        out.append(_Question("without:measured", " and ".join(measured), measured))
    return out


def _rate(load: float) -> str:
    return f"{load:,.4g} requests/s" if load < 1000.0 else f"{load:,.0f} requests/s"


def _asked(moment: Moment, questions: Sequence[_Question]) -> Decisions:
    """Return the decisions, a row for each question."""
    scaler = moment.scaler([replace(moment.settings, **each.settings) for each in questions])
    forgetting = np.flatnonzero([each.forgets for each in questions])
    scaler.recall(forgetting, {"guard": _unkept(scaler.memory(forgetting, ("guard",))["guard"])})
    view = moment.view(scaler, [{**moment.reading, **each.reading} for each in questions])
    plain = _without_past(moment)
    changed = {}
    for name in {name for each in questions for name in each.neutral}:
        where = np.array([name in each.neutral for each in questions])
        array = view.features[name]
        changed[name] = np.where(where.reshape(-1, *[1] * (array.ndim - 1)), plain[name], array)
    return scaler.decide_on(replaced(view, changed))


def _unkept(guard: State) -> State:
    """Return the guard's memory without proposals that patience keeps."""
    return guard | unkept(len(guard["kept"]))


def _without_past(moment: Moment) -> Mapping[str, np.ndarray]:
    """Return the features of a workload that has no past but this reading, (1, ...)."""
    fresh = Autoscaler(SPARE_RULE, moment.settings, 1)
    return fresh.remember(Snapshot(time=moment.reading["time"], load=_load(moment)))


def _answer(done: Decisions, row: int, question: _Question) -> Answer:
    return Answer(question.key, question.what, int(done.replicas[row]), float(done.proposal[row]),
                  names(int(done.reasons[row])))  # fmt: skip


def _by_others(moment: Moment, others: Sequence[tuple[str, Policy]]) -> list[Answer]:
    """Return what other policies, without a past of their own, would have decided."""
    made = [(SPARE_RULE, load_policy(SPARE_RULE)), ("an HPA at 70 %", Hpa(target=0.7)), *others]
    out = []
    for name, policy in made:
        if policy.name != moment.policy.name:
            scaler = moment.scaler([moment.settings], policy)
            done = scaler.decide_on(moment.view(scaler, [moment.reading]))
            out.append(_answer(done, 0, _Question(f"policy:{name}", f"{name} decided")))
    return out


def wish(proposal: float, settings: Settings) -> int:
    """Return what a proposal is without the guard but for the bounds; -1 where there is none."""
    if not np.isfinite(proposal):
        return -1
    whole = np.ceil(proposal - 1e-6 * max(1.0, proposal))
    return int(np.clip(whole, float(settings.min_replicas), float(settings.max_replicas)))
