"""What an autoscaler knew when it took a recorded decision, rebuilt from the log up to there.

The log's loads make the history again, and its proposals, put through the guard one by one, the guard's memory; a
policy that remembers is asked at every line. A log may begin late: what the observation of the decision says of the
past, and the replayed history does not, is then taken from the observation, so that what a policy saw it sees here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from rlscaler import budget, overstated
from rlscaler.arrays import Array, State
from rlscaler.autoscaler import Autoscaler
from rlscaler.decision_log import DecisionLog, Line
from rlscaler.decisions import Decisions
from rlscaler.features import again
from rlscaler.memory import PARTS
from rlscaler.observation import LOAD_FIELDS, NAMES, observe
from rlscaler.policy import Policy, View
from rlscaler.replay import periods_over_time
from rlscaler.rows import taken
from rlscaler.settings import Objective, Settings, compiled, joined
from rlscaler.snapshot import Snapshot

REMEMBERED, BEGINNING = 4500.0, 900.0
"""Seconds of decisions that the guard's memory is made of (the longest window, the hour of the flap budget), and at
their beginning those that are made while it is not whole, and not compared."""
UNBOUNDED = 100_000
"""maxReplicas where nothing tells it."""
ROUNDED = 2e-4
"""By so much at most the observation in a log, which is rounded, differs from the one that was seen."""
ALIKE = 1e-3
"""Relative difference of two proposals that are the same one, made of numbers that were rounded."""
_FAR = 5.999
"""Log ratio from which a count in the observation is cut off."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """How far the log led. decisions: before this one, that were decided again; alike: of them, those as in the log.

    proposal, replicas: what the policy wants and what is decided here, beside the recorded ones. missing: fields of the
    observation that the replayed history does not explain. seconds: of load in the log before the decision.
    """

    decisions: int
    alike: int
    proposal: float
    replicas: int
    missing: tuple[str, ...]
    seconds: float


@dataclass(slots=True)
class Moment:
    """One workload just before a recorded decision. memory: of an autoscaler with one row.

    reading: fields of the snapshot, load in requests/s. offset: what is added to a feature that the history makes here.
    """

    line: Line
    policy: Policy
    settings: Settings
    reading: dict[str, float]
    memory: dict[str, State]
    offset: dict[str, np.ndarray] = field(default_factory=dict)
    replayed: Replayed | None = None

    def scaler(self, settings: Sequence[Settings], policy: Policy | None = None) -> Autoscaler:
        """Return an autoscaler in whose rows this moment stands as often as there are settings.

        policy: another one, without a past.
        """
        rows = np.zeros(len(settings), np.int64)
        made = Autoscaler(self.policy if policy is None else policy, joined(settings), len(settings))
        parts = PARTS if policy is None else ("history", "guard")
        made.recall(made.rows, {part: taken(self.memory[part], rows) for part in parts})
        return made

    def overstated(self) -> float:
        """Return by how much the decision takes the stated capacity to be too high, 1 = not at all."""
        return float(overstated.factor(np, self._guard_after()[0])[0])

    def missed(self) -> tuple[float, float]:
        """Return the share that was late in the objective's window (NaN: no window), and the headroom's multiple."""
        state, settings = self._guard_after()
        spare = budget.multiple(np, state, settings)
        return (float("nan"), 1.0) if spare is None else (float(budget.late_of(np, state)[0]), float(spare[0]))

    def _guard_after(self) -> tuple[State, State]:
        """Return what the guard remembers after the decision, and the compiled settings."""
        scaler = self.scaler([self.settings])
        scaler.decide_on(self.view(scaler, [self.reading]))
        return scaler.memory(scaler.rows, ("guard",))["guard"], scaler.settings(scaler.rows)

    def view(self, scaler: Autoscaler, readings: Sequence[Mapping[str, float]]) -> View:
        """Return what a policy sees in each row for its reading."""
        view = scaler.view(Snapshot(**{name: np.array([each[name] for each in readings]) for name in self.reading}))
        return replaced(view, {name: view.features[name] + added for name, added in self.offset.items()})


def replaced(view: View, features: Mapping[str, Array]) -> View:
    """Return the view with other features."""
    return View(xp=view.xp, settings=view.settings, snapshot=view.snapshot, features={**view.features, **features},
                demand=view.demand, current=view.current)  # fmt: skip


def rebuilt(
    log: DecisionLog,
    index: int,
    policy: Policy,
    given: Settings | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Moment:
    """Return the moment of the decision at `index`.

    policy: that made the log's decisions. given: the workload's settings, where the log does not tell them (None: what
    the observations tell of them). progress: hears how many of how many lines are done.
    """
    lines = log.lines[: index + 1]
    usual = given or (assumed(lines, log.interval) if any(line.settings is None for line in lines) else None)
    settings = [line.settings or usual or Settings() for line in lines]
    readings = _readings(lines, settings)
    rows = np.zeros(1, np.int64)
    memory = {"history": _history(lines, settings, readings)}

    first = compared = 0
    if not policy.state(1):
        times = [line.time for line in lines]
        first = int(np.searchsorted(times, lines[-1].time - REMEMBERED))
        # The one is remembered for as long as nothing speaks against it, the other over its window.
        if "CapacityOverstated" in lines[first].reasons or np.isfinite(settings[-1].objective.window):
            first = 0
        compared = int(np.searchsorted(times, lines[-1].time - REMEMBERED + BEGINNING)) if first else 0
    decider = Autoscaler(policy, settings[first], 1, remembers=False)
    features = _features(lines[first:]) | {
        name: array[first:] for name, array in _returning(lines, settings, readings).items()
    }
    alike = 0
    for k in range(first, index):
        if settings[k] is not settings[max(first, k - 1)]:
            decider.update(rows, settings[k])
        step = slice(k - first, k - first + 1)
        view = decider.view(Snapshot(**readings[k]), features={name: array[step] for name, array in features.items()})
        proposal, _ = decider.propose(view)
        if np.isfinite(lines[k].proposal):
            proposal.replicas = np.array([lines[k].proposal])
        again = int(decider.settle(view, proposal).replicas[0])
        alike += k >= compared and again == lines[k].replicas
        progress(k - first + 1, index - first)
    if settings[index] is not settings[max(first, index - 1)]:
        decider.update(rows, settings[index])
    memory |= decider.memory(rows, ("guard", "policy", "rule"))

    made = Moment(lines[-1], policy, settings[-1], readings[-1], memory)
    made.offset, missing = _offset(made)
    base = _decided(made)
    made.replayed = Replayed(
        decisions=index - compared,
        alike=alike,
        proposal=float(base.proposal[0]),
        replicas=int(base.replicas[0]),
        missing=missing,
        seconds=lines[-1].time - lines[0].time,
    )
    return made


def _decided(moment: Moment) -> Decisions:
    scaler = moment.scaler([moment.settings])
    return scaler.decide_on(moment.view(scaler, [moment.reading]))


def _offset(moment: Moment) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return what the log's observation adds to the replayed features, and the fields of which it does."""
    scaler = moment.scaler([moment.settings])
    view = moment.view(scaler, [moment.reading])
    if not np.isfinite(view.demand[0]) and not np.isfinite(view.features["level"][0]):
        return {}, ()
    here = np.asarray(observe(view)[0], np.float64)
    there = moment.line.observation
    size = NAMES.index("size")
    of_load = [f.name for f in LOAD_FIELDS] + ["size"]
    apart = {name: there[i] - here[i] for i, name in enumerate(NAMES) if name in of_load}
    apart = {name: value for name, value in apart.items() if abs(value) > ROUNDED * max(1.0, abs(there[size]))}
    out: dict[str, np.ndarray] = {}
    for name, value in apart.items():
        if name == "size":
            out["level"] = np.array([np.exp(there[size]) - np.exp(here[size])], np.float32)
        elif name.startswith("ahead_"):
            out.setdefault("ahead", np.zeros((1, view.features["ahead"].shape[1]), np.float32))
            out["ahead"][0, int(name[6:]) - 1] = value
        else:
            out[name] = np.array([value], np.float32)
    return out, tuple(apart)


def _history(lines: Sequence[Line], settings: Sequence[Settings], readings: Sequence[Mapping[str, float]]) -> State:
    """Return the history of the loads before the last line."""
    scaler = Autoscaler("growth-quantile", settings[0], 1)
    rows = np.zeros(1, np.int64)
    for _, group in groupby(range(len(lines) - 1), key=lambda k: id(settings[k])):
        some = list(group)
        scaler.update(rows, settings[some[0]])
        times = np.array([lines[k].time for k in some])
        scaler.fill(rows, times, np.array([[readings[k]["load"] for k in some]]))
    scaler.update(rows, settings[-1])
    return scaler.memory(rows, ("history",))["history"]


def _features(lines: Sequence[Line]) -> State:
    """Return the features that the lines' observations tell, float32, as `features.features` names them."""
    seen = np.stack([line.observation for line in lines]).astype(np.float32)
    column = {name: seen[:, i] for i, name in enumerate(NAMES)}
    ahead = [name for name in NAMES if name.startswith("ahead_")]
    out: State = {f.name: column[f.name] for f in LOAD_FIELDS if f.name not in ahead}
    out["ahead"] = np.stack([column[name] for name in ahead], axis=1)
    level = np.maximum(np.exp(column["size"]) - np.float32(0.5), 0.0)  # rounding puts a level of 0 below it
    blank = np.array([_blank(line) for line in lines])
    out["level"] = np.where(blank, np.float32(np.nan), level)
    latest = np.exp(column["rel_latest"]) * (out["level"] + np.float32(0.5)) - np.float32(0.5)
    out["latest"] = np.maximum(latest, 0.0)
    return out


def _returning(lines: Sequence[Line], settings: Sequence[Settings], readings: Sequence[Mapping[str, float]]) -> State:
    """Return the features of load that comes again, which no observation has, from the loads of the log."""
    out: State = {name: np.zeros(len(lines), np.float32) for name in ("period", "again")}
    for _, group in groupby(range(len(lines)), key=lambda k: id(settings[k])):
        mine = list(group)
        facts = compiled(settings[mine[0]], 1)
        interval = float(settings[mine[0]].interval)
        slots = np.array([round(line.time / interval) for line in lines[: mine[-1] + 1]])
        load = np.full(int(slots[-1] - slots[0]) + 1, np.nan)
        load[slots - slots[0]] = [each["load"] for each in readings[: mine[-1] + 1]]
        known = np.isfinite(load)
        if not known.any():
            continue
        begin = int(known.argmax())
        load, known = load[begin:], known[begin:]
        last = np.maximum.accumulate(np.where(known, np.arange(len(load)), 0))
        sample = load.astype(np.float32)[last]
        time = lines[0].time + interval * (begin + np.arange(len(load)))
        periods, coming = periods_over_time(time, sample, known, facts, interval)
        level = (
            0.5 * (sample + np.concatenate([sample[:1], sample[:-1]])) / np.float32(facts["capacity_per_replica"][0])
        )
        capacity = np.full(len(load), facts["capacity_per_replica"][0], np.float32)
        found = {"period": periods, "again": again(np, coming, level, capacity)}
        at = slots[mine] - slots[0] - begin
        for name, array in found.items():
            out[name][np.array(mine)[at >= 0]] = array[at[at >= 0]]
    return out


def _blank(line: Line) -> bool:
    """Return whether no load was known yet: the observation then says nothing of counts either."""
    places = [NAMES.index(name) for name in ("size", "desired", "ready")]
    return bool(np.isnan(line.demand)) and not line.observation[places].any()


def _readings(lines: Sequence[Line], settings: Sequence[Settings]) -> list[dict[str, float]]:
    """Return the snapshots that the lines' observations tell of; what no observation tells of is unknown."""
    found: list[dict[str, float]] = []
    place = {name: i for i, name in enumerate(NAMES)}
    # Before anything is known the count is held, so what was decided first is what stood there.
    before = float(lines[0].replicas) if lines[0].replicas >= 0 else float("nan")
    plain = []
    for line, stated in zip(lines, settings, strict=True):
        capacity, latency = float(stated.capacity_per_replica), float(stated.objective.latency)
        seen = line.observation
        base = float(np.exp(seen[place["size"]]))

        def counted(name: str, seen: np.ndarray = seen, base: float = base) -> float:
            return max(0.0, round(float(np.exp(seen[place[name]])) * base - 0.5))

        hidden = _blank(line) or abs(seen[place["desired"]]) >= _FAR
        current = before if hidden else counted("desired")
        ready = current if hidden or abs(seen[place["ready"]]) >= _FAR else counted("ready")
        serving = max(ready, 0.5)
        busy, delay = float(seen[place["busy"]]), float(seen[place["delay"]])
        implied = min(1.0, line.demand / serving) if np.isfinite(line.demand) else 0.0
        plain.append(abs(busy - implied) <= ROUNDED)
        found.append({
            "time": line.time,
            "load": line.demand * capacity,
            "backlog": float(seen[place["backlog"]]) * serving * capacity if np.isfinite(capacity) else float("nan"),
            "utilization": busy,
            "latency": float("nan") if delay == 0.0 else float(np.exp(delay)) * latency,
            "ready": ready,
            "starting": 0.0 if hidden else float(round(seen[place["starting"]] * base)),
            "desired": current,
        })  # fmt: skip
        before = float(line.replicas) if line.replicas >= 0 else current
    # An observation does not tell utilization that is unknown from one that is what the demand makes of it; where it
    # was another one at some time it is read, and so it was read as that as well.
    read = not all(plain)
    for line, each, same in zip(lines, found, plain, strict=True):
        if same and not (read and np.isfinite(line.demand)):
            each["utilization"] = float("nan")
    return found


def assumed(lines: Sequence[Line], interval: float) -> Settings:
    """Return what the observations tell of the settings, in units of a replica's capacity.

    Bounds are those that decisions met, and none where they met none.
    """
    place = {name: i for i, name in enumerate(NAMES)}
    last = lines[-1].observation
    reaction = float(np.exp(last[place["reaction"]]))
    startup = round(reaction * float(last[place["startup_share"]]), 1)
    price = float(np.exp(last[place["price"]]))
    low = [line.replicas for line in lines if "TooFewReplicas" in line.reasons]
    high = [line.replicas for line in lines if "TooManyReplicas" in line.reasons]
    most = max(high) if high else UNBOUNDED
    return Settings(
        min_replicas=min([*low, most]) if low else 0,
        max_replicas=max(1, most),
        interval=interval,
        lag=max(0.0, round(reaction - startup - interval, 1)),
        startup=startup,
        capacity_per_replica=1.0,
        objective=replace(Objective(), target=round(100.0 * (1.0 - 0.02 / max(price, 0.2)), 4)),
    )
