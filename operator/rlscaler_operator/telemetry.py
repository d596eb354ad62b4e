"""The operator's own metrics for Prometheus, in a registry of their own.

Totals are counted where things happen. What belongs to a workload is kept in a table and turned into series when it
is asked for, so that the series of a deleted workload vanish with it.
"""

import math
import platform
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rlscaler.cli import version_of
from rlscaler.reasons import names
from rlscaler.resource_status import MODES
from rlscaler.standing import KINDS, Standing
from rlscaler_operator.clock import Clock
from rlscaler_operator.condition_reasons import MEANINGS
from rlscaler_operator.heartbeat import Heartbeat
from rlscaler_operator.model import Account, Key, Note
from rlscaler_operator.status import is_fine
from rlscaler_operator.writing import Result

BUCKETS: Final = tuple(0.001 * 2.0**n for n in range(15))
"""Bounds of the histograms, seconds: HPA's, 1 ms to 16 s."""
WINDOW: Final = 300.0
"""Seconds over which the share of decisions in time is taken."""
_SLOT: Final = 10.0
_MODES: Final = [(mode,) for mode in MODES]
_CONDITIONS: Final = [(each.condition, each.statuses, each.reason) for each in MEANINGS]


_CALM = ("ScalingLimited", "Conflict")
"""Conditions that ask for nobody: a bound that holds; an owner beside us, who matters where AbleToScale is False."""


@dataclass(frozen=True, slots=True)
class _Row:
    """What the series of one workload are made from.

    found: the conditions; conditions, troubled: of them. standing: who has which say, None where none is earned.
    """

    decided_at: float
    mode: str
    policy: tuple[str, str] | None
    found: Sequence[Mapping[str, Any]]
    conditions: tuple[tuple[str, str, str], ...]
    troubled: bool
    values: Mapping[str, float]
    standing: Standing | None = None


_PER_WORKLOAD: Final = {
    "demand": ("rlscaler_workload_demand_replicas", "Replicas that the load would keep fully busy."),
    "recommendation": ("rlscaler_workload_recommended_replicas", "Replicas that the rule would have."),
    "proposal": ("rlscaler_workload_proposed_replicas", "Replicas that the policy proposed, before the guard."),
    "decided": ("rlscaler_workload_decided_replicas", "Replicas that were decided, after the guard."),
    "desired": ("rlscaler_workload_desired_replicas", "Replicas that the target asks for."),
    "ready": ("rlscaler_workload_ready_replicas", "Replicas that serve."),
    "late": ("rlscaler_workload_late_ratio", "Share of requests late within spec.objective.window, as reckoned."),
    "allowed": ("rlscaler_workload_late_allowed_ratio", "Share of requests that spec.objective.target allows late."),
    "spare": ("rlscaler_workload_headroom_multiple", "Times the headroom that is held for spec.objective.window."),
}


class Telemetry:
    """All metrics. registry: to be served."""

    def __init__(self, clock: Clock, *, per_workload: bool = True) -> None:
        """Start at nothing. per_workload: whether there are series for each workload, and not for the fleet alone."""
        # Each counter would bring a second series that holds when it was made.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self.heartbeat = Heartbeat()
        self._clock = clock
        self._rows: dict[Key, _Row] = {}
        self._per_workload = per_workload
        self._ages: Callable[[], Mapping[str, float]] = dict
        self._slots: deque[list[float]] = deque(maxlen=round(WINDOW / _SLOT))

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"rlscaler_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"rlscaler_{name}", text, labels, registry=self.registry, buckets=BUCKETS)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"rlscaler_{name}", text, labels, registry=self.registry)

        self._decisions = counter("decisions_total", "Decisions made, by the mode in force.", "mode")
        self._restricted = counter(
            "restricted_total", "Decisions that something else than the proposal shaped, by reason.", "reason"
        )
        self._batch = histogram("decision_duration_seconds", "Time to decide for all that are due at once.")
        self._in_time = counter("decisions_in_time_total", "Decisions made within their interval.")
        self._late = counter("decisions_late_total", "Decisions made after their interval, or left out.")
        self._query = histogram("query_duration_seconds", "Time of a query, by source.", "source")
        self._source_errors = counter("source_errors_total", "Queries without an answer.", "source", "reason")
        self._source_up = gauge("source_up", "Whether the last query to the source was answered.", "source")
        self._sources: frozenset[str] | None = None
        self._served = histogram("server_duration_seconds", "Time of a request to an inference server.", "server")
        self._server_errors = counter(
            "server_errors_total", "Requests to inference servers without a usable answer.", "server", "reason"
        )
        self._write = histogram("write_duration_seconds", "Time of a write to a target.")
        self._writes = counter("writes_total", "Writes to targets, by outcome.", "outcome")
        self._status_writes = counter("status_writes_total", "Writes of a status, by outcome.", "outcome")
        self._events = counter("events_total", "Events, by outcome.", "outcome")
        self._lines = counter("decision_log_lines_total", "Lines of the decision log, by outcome.", "outcome")
        self._leader = gauge("is_leader", "Whether this process decides and writes.")
        build = gauge("build_info", "The version that runs.", "version", "python")
        build.labels(version_of("rlscaler"), platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)
        self.registry.register(_Fleet(self))

    # What the loop tells

    def beat(self, at: float) -> None:
        """Tell that the loop goes round; at: monotonic seconds."""
        self.heartbeat.beat(at)

    def leader(self, leads: bool) -> None:
        """Tell whether this process leads; a follower's loop rests, and it has no series of workloads and sources."""
        self._leader.set(leads)
        if leads:
            self.heartbeat.beat(self._clock.monotonic())
        else:
            self.heartbeat.rest()
            self._rows.clear()
            self._source_up.clear()

    def sources(self, names: Iterable[str]) -> None:
        """Take the sources that there are from now on: whether they are up is told after the next query to each."""
        self._sources = frozenset(names)
        self._source_up.clear()

    def watches(self, ages: Callable[[], Mapping[str, float]]) -> None:
        """Take what tells the seconds since each watch was last heard of, by the watch's name."""
        self._ages = ages

    def decided(self, count: int, seconds: float) -> None:
        """Count a batch of decisions. seconds: that it took."""
        if count:
            self._batch.observe(seconds)

    def on_time(self, in_time: bool, count: int = 1) -> None:
        """Count decisions that came within their interval, or did not."""
        (self._in_time if in_time else self._late).inc(count)
        slot = math.floor(self._clock.monotonic() / _SLOT)
        if not self._slots or self._slots[-1][0] != slot:
            self._slots.append([slot, 0.0, 0.0])
        self._slots[-1][1] += count * in_time
        self._slots[-1][2] += count

    def late(self, count: int) -> None:
        """Count decisions that were left out: the readings before were still on their way, or newer ones were there."""
        if count:
            self.on_time(False, count)

    def told(self, account: Account, status: Mapping[str, Any]) -> None:
        """Take in what was reported of a workload after a tick."""
        key, decision = account.workload.key, account.decision
        before, mode = self._rows.get(key), str(status.get("mode") or "Paused")
        at = decision.time if decision is not None else math.nan
        if decision is not None and (before is None or before.decided_at != at):
            self._decisions.labels(mode).inc()
            if decision.bits:
                for reason in names(decision.bits):
                    self._restricted.labels(reason).inc()
        policy = account.policy
        found = [each for each in status.get("conditions") or () if isinstance(each, Mapping)]
        if before is None or not _are(found, before.found):
            said, troubled = tuple(map(_said, found)), not all(map(is_fine, _calling(found)))
        else:
            said, troubled = before.conditions, before.troubled
        self._rows[key] = _Row(
            decided_at=at,
            mode=mode,
            policy=(policy.name, policy.digest) if policy is not None else None,
            found=found,
            conditions=said,
            troubled=troubled,
            values=_values(account),
            standing=decision.standing if decision is not None else None,
        )

    def forget(self, key: Key) -> None:
        """Drop the series of a workload that is gone."""
        self._rows.pop(key, None)

    def query(self, source: str, seconds: float, problem: Note | None) -> None:
        """Count a query. problem: why there was no answer."""
        self._query.labels(source).observe(seconds)
        if self._sources is None or source in self._sources:
            self._source_up.labels(source).set(problem is None)
        if problem is not None:
            self._source_errors.labels(source, problem.reason).inc()

    def served(self, server: str, seconds: float, problem: Note | None) -> None:
        """Count a request to an inference server. problem: why there was no usable answer."""
        self._served.labels(server).observe(seconds)
        if problem is not None:
            self._server_errors.labels(server, problem.reason).inc()

    def wrote(self, outcome: Result, seconds: float = math.nan) -> None:
        """Count what became of a decision that differs from what is there. seconds: that it took."""
        self._writes.labels(outcome).inc()
        if math.isfinite(seconds):
            self._write.observe(seconds)

    def reported(self, what: str, outcome: str) -> None:
        """Count a write of a "status" or an "event". outcome: "Written", or the reason of the failure."""
        (self._events if what == "event" else self._status_writes).labels(outcome).inc()

    def recorded(self, fate: str, count: int) -> None:
        """Count lines of the decision log. fate: "Written", "Failed" (no room) or "Dropped" (the disk is too slow)."""
        self._lines.labels(fate).inc(count)

    # What is read

    @property
    def on_time_ratio(self) -> float:
        """Share of the decisions of the last five minutes that came within their interval; NaN where none was due."""
        oldest = math.floor(self._clock.monotonic() / _SLOT) - WINDOW / _SLOT
        recent = [slot for slot in list(self._slots) if slot[0] > oldest]
        due = sum(slot[2] for slot in recent)
        return sum(slot[1] for slot in recent) / due if due else math.nan

    def fleet(self) -> Iterable[Metric]:
        """Yield the families that are made from what is known now; called from the thread that serves."""
        rows = dict(self._rows)
        ratio = GaugeMetricFamily("rlscaler_on_time_ratio", "Share of decisions in time, over the last five minutes.")
        ratio.add_metric((), self.on_time_ratio)
        yield ratio
        modes = Tally((row.mode,) for row in rows.values())
        yield _counted("rlscaler_workloads", "RLScalers, by the mode in force.", ("mode",), modes, _MODES)
        found = Tally(each for row in rows.values() for each in row.conditions)
        text = "RLScalers, by condition, its status and the reason of it."
        yield _counted("rlscaler_conditions", text, ("type", "status", "reason"), found, _CONDITIONS)
        policies = Tally(row.policy for row in rows.values() if row.policy)
        text = "RLScalers, by the policy that decides."
        yield _counted("rlscaler_policy_workloads", text, ("policy", "digest"), policies, ())
        info = GaugeMetricFamily("rlscaler_policy_info", "Policies in use.", labels=("policy", "digest"))
        for policy in sorted(policies):
            info.add_metric(policy, 1.0)
        yield info
        yield from _tenures([row.standing for row in rows.values() if row.standing is not None])
        ages = GaugeMetricFamily(
            "rlscaler_watch_age_seconds", "Time since a watch was last heard of.", labels=("watch",)
        )
        for name, age in sorted(self._ages().items()):
            ages.add_metric((name,), age)
        yield ages
        beat = GaugeMetricFamily("rlscaler_loop_age_seconds", "Time since the loop last went round; NaN at rest.")
        beat.add_metric((), self.heartbeat.age(self._clock.monotonic()))
        yield beat
        if self._per_workload:
            yield from _series(rows)


class _Fleet(Collector):
    """Makes the families of `Telemetry.fleet` at each scrape."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def collect(self) -> Iterable[Metric]:
        """Yield the families."""
        return self._telemetry.fleet()


def _are(found: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether these are the same objects: a condition that stays as it was is handed on, not made anew."""
    return len(found) == len(before) and all(one is other for one, other in zip(found, before, strict=True))


def _calling(found: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """Return the conditions that may ask for somebody."""
    return (each for each in found if each.get("type") not in _CALM)


def _said(condition: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(condition.get("type")), str(condition.get("status")), str(condition.get("reason"))


def _values(account: Account) -> dict[str, float]:
    decision, target = account.decision, account.target
    found: dict[str, float] = {}
    if decision is not None:
        found = {"demand": decision.demand, "recommendation": decision.recommendation, "proposal": decision.proposal}
        if decision.replicas >= 0:
            found["decided"] = float(decision.replicas)
    resource = account.workload.resource
    if decision is not None and resource is not None and math.isfinite(float(resource.spec.objective.window)):
        allowed = 1.0 - float(resource.spec.objective.target) / 100.0
        found |= {"late": decision.late, "allowed": allowed, "spare": decision.spare}
    if target is not None:
        found |= {"desired": float(target.desired), "ready": float(target.ready)}
        if account.wrote and account.wanted is not None:
            found["desired"] = float(account.wanted)
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _counted(
    name: str, text: str, labels: tuple[str, ...], counts: Mapping[Any, int], always: Iterable[tuple[str, ...]]
) -> Metric:
    """Return a gauge of counts; `always`: labels that are there though nothing has them."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values in sorted({*always, *counts}):
        family.add_metric(values, float(counts.get(values, 0)))
    return family


def _tenures(found: Sequence[Standing]) -> Iterable[Metric]:
    """Yield who has the say where it is earned: how many workloads each kind of candidate leads, and the mean."""
    leaders = Tally((each.kind or "nobody",) for each in found)
    text = "RLScalers whose policy has tenure, by the kind of the candidate with the most say."
    yield _counted("rlscaler_tenure_leaders", text, ("leader",), leaders, [(kind,) for kind in (*KINDS, "nobody")])
    say = GaugeMetricFamily("rlscaler_tenure_learned_say", "Mean share of the say that learned policies have earned.")
    say.add_metric((), sum(each.learned for each in found) / len(found) if found else math.nan)
    yield say


def _series(rows: Mapping[Key, _Row]) -> Iterable[Metric]:
    for what, (name, text) in _PER_WORKLOAD.items():
        family = GaugeMetricFamily(name, text, labels=("namespace", "name"))
        for key, row in rows.items():
            if what in row.values:
                family.add_metric(key, row.values[what])
        yield family
    troubled = GaugeMetricFamily(
        "rlscaler_workload_troubled", "Whether a condition asks for somebody.", labels=("namespace", "name")
    )
    for key, row in rows.items():
        troubled.add_metric(key, float(row.troubled))
    yield troubled
