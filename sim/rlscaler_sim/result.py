"""What a dry-run found: one typed result that the terminal table, the HTML report, the plot and JSON all
show.

Nothing here computes a score: the evaluation does, and this module only holds, orders and serialises it. A
trace's score is J = C + 20 V with C the billed over the needed pod-seconds and V the share of late
requests; regret is (J - J*) / (J_hpa - J*) with J* the clairvoyant's score, so 0 is the clairvoyant and 1
the HPA tuned on training load.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

CLAIRVOYANT = "clairvoyant"
"""Name of the contender that knows the whole trace beforehand: the limit, never a winner."""

RECORDED = "recorded"
"""Name of the contender that repeats the replicas of a recorded past."""

REFERENCE = "hpa-tuned"
"""Name of the rule whose regret is 1, and that others are compared with where it took part."""

LATE_WEIGHT = 20.0
"""Weight of the share of late requests in the score."""


@dataclass(frozen=True, slots=True)
class Contender:
    """The figures of one policy or rule over the whole trace.

    cost_ratio: billed / needed pod-seconds. violation_share: late / all requests, 0 to 1. score: J. regret,
    regret_own: distance to the clairvoyant in units of the HPA tuned on training load, and of the HPA tuned
    on this very trace; None where it is not defined. replica_hours: billed. rescales: changes of the
    replica count. wait_p95_s: 95th percentile of the wait, in seconds; it and the share are NaN where no
    request came. max_replicas: most replicas asked for at once.
    """

    name: str
    cost_ratio: float
    violation_share: float
    score: float
    regret: float | None
    replica_hours: float
    rescales: int
    wait_p95_s: float
    max_replicas: int
    regret_own: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """What happened at each of T steps, for each of C contenders (in the order of `DryRun.contenders`).

    time: (T,) seconds, rising; absolute (Unix) time or time since the start. load: (T,) requests/s. demand:
    (T,) load / capacity of a replica, in replicas. known: (T,) bool, False in gaps of the trace, which are
    not scored. replicas: (C, T) asked for. ready: (C, T) serving. violations: (C, T) share of the step's
    requests that are late. backlog: (C, T) requests waiting. cost: (C, T) pod-hours billed so far / needed
    so far, gaps left out and unknown while none were needed; its last value is the cost ratio. NaN =
    unknown. Raises ValueError where the shapes do not fit.
    """

    time: np.ndarray
    load: np.ndarray
    demand: np.ndarray
    known: np.ndarray
    replicas: np.ndarray
    ready: np.ndarray
    violations: np.ndarray
    backlog: np.ndarray
    cost: np.ndarray

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit one another."""
        steps = np.shape(self.time)
        if len(steps) != 1 or steps[0] == 0:
            raise ValueError(f"time has shape {steps}; expected (T,) with T of 1 or more")
        for name in ("load", "demand", "known"):
            if (shape := np.shape(getattr(self, name))) != steps:
                raise ValueError(f"{name} has shape {shape}; expected {steps}, as time has")
        rows = np.shape(self.replicas)
        if len(rows) != 2 or rows[1:] != steps:
            raise ValueError(f"replicas has shape {rows}; expected (C, {steps[0]})")
        for name in ("ready", "violations", "backlog", "cost"):
            if (shape := np.shape(getattr(self, name))) != rows:
                raise ValueError(f"{name} has shape {shape}; expected {rows}, as replicas has")

    @property
    def capacity_per_replica(self) -> float:
        """Requests/s that one replica serves at full use: the median of load / demand, NaN where there is
        no load.
        """
        used = np.isfinite(self.load) & np.isfinite(self.demand) & (self.demand > 0)
        return float(np.median(self.load[used] / self.demand[used])) if used.any() else math.nan


@dataclass(frozen=True, slots=True, eq=False)
class DecisionLog:
    """The D decisions of the policy under test.

    time: (D,) seconds, the clock of the series. demand, recommendation, proposal, replicas: (D,) replicas;
    NaN = unknown. reasons: D lists of names of `rlscaler.reasons.Reason`. sentence: D explanations in plain
    words.
    """

    time: np.ndarray
    demand: np.ndarray
    recommendation: np.ndarray
    proposal: np.ndarray
    replicas: np.ndarray
    reasons: Sequence[Sequence[str]]
    sentence: Sequence[str]

    def __post_init__(self) -> None:
        """Refuse columns of different lengths."""
        for name in ("demand", "recommendation", "proposal", "replicas", "reasons", "sentence"):
            if (count := len(getattr(self, name))) != len(self.time):
                raise ValueError(f"{name} has {count} entries; expected {len(self.time)}, one for each decision")


@dataclass(frozen=True, slots=True, eq=False)
class DryRun:
    """The result of one dry-run.

    resource, trace, policy: names; `policy` is the name of the contender under test. world: the parameters
    of the simulated world, plain values by name. lower_bound: a proven lower bound of any score on this
    trace, or None. decisions: number of decisions made by the policy under test. elapsed_s: seconds that
    the run took. Raises ValueError where `policy` is not among the contenders, a name comes twice, or their
    number is not that of the series.
    """

    resource: str
    trace: str
    world: Mapping[str, Any]
    policy: str
    contenders: Sequence[Contender]
    lower_bound: float | None
    decisions: int
    elapsed_s: float
    series: Series
    log: DecisionLog

    def __post_init__(self) -> None:
        """Refuse a policy that did not take part, and series of another number of contenders."""
        names = [contender.name for contender in self.contenders]
        if self.policy not in names:
            raise ValueError(f"policy is {self.policy!r}; expected one of the contenders: {', '.join(names)}")
        if len(set(names)) < len(names):
            raise ValueError(f"contenders are {', '.join(names)}; expected every name once")
        if len(names) != len(self.series.replicas):
            raise ValueError(f"the series have {len(self.series.replicas)} rows; expected {len(names)} contenders")

    @property
    def tested(self) -> Contender:
        """The policy under test."""
        return next(c for c in self.contenders if c.name == self.policy)

    @property
    def limit(self) -> Contender | None:
        """The clairvoyant, if it took part."""
        return next((c for c in self.contenders if c.name == CLAIRVOYANT), None)

    @property
    def ranked(self) -> list[Contender]:
        """Everyone but the clairvoyant, best score first; scores that are not finite come last."""
        rivals = [c for c in self.contenders if c.name != CLAIRVOYANT]
        return sorted(rivals, key=lambda c: c.score if math.isfinite(c.score) else math.inf)

    @property
    def capacity_per_replica(self) -> float:
        """Requests/s that one replica serves at full use: as the series tell, and without any load as the world does;
        NaN where neither does.
        """
        told = self.series.capacity_per_replica
        return float(self.world.get("capacity_per_replica", math.nan)) if math.isnan(told) else told

    @property
    def loaded(self) -> bool:
        """Whether any load is known, without which there is nothing to scale and no score."""
        return bool((self.series.load[self.series.known] > 0.0).any())

    @property
    def reference(self) -> Contender | None:
        """Whom the policy under test is compared with: the tuned HPA, else the best other; None if it ran
        alone.
        """
        others = [c for c in self.ranked if c.name != self.policy]
        return next((c for c in others if c.name == REFERENCE), others[0] if others else None)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values for `json.dumps`; what is not finite is None. The series stay
        out.
        """
        return {
            "resource": self.resource,
            "trace": self.trace,
            "world": plain(dict(self.world)),
            "contenders": [
                {key: value for key, value in plain(asdict(c)).items() if key != "regret_own"} for c in self.contenders
            ],
            "lower_bound": plain(self.lower_bound),
            "decisions": int(self.decisions),
            "elapsed_s": plain(self.elapsed_s),
        }


def plain(value: Any) -> Any:
    """Return `value` in JSON's own types: NumPy becomes Python, NaN and infinity become None, the rest its
    text.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
