"""A workload's past read whole, and what it tells: the readings, the fits, and the profile that is kept of them.

The load and the replicas are read as a backtest reads them (`recorded`); utilization, latency and ready replicas
beside them, at the same moments. What is odd about any of them is a note, and what is unknown is NaN.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rlscaler import calibration, calibration_load
from rlscaler.calibration import CapacityFit, StartupFit
from rlscaler.calibration_load import SeasonFit
from rlscaler.capacity import SOONEST
from rlscaler.custom_resource import Resource, resource_from_object
from rlscaler.profile import Profile, Recording
from rlscaler.quantities import duration_text
from rlscaler.resource_fields import API_VERSION, KIND
from rlscaler_sim import recorded
from rlscaler_sim.recorded import Asked, Past
from rlscaler_sim.trace import Trace

CALIBRATE = recorded.Use(
    SOONEST,
    f"{duration_text(SOONEST)} tell a capacity at the soonest, three scale-ups a start-up, three days a day profile",
    "left out of every fit",
    "start-ups are not looked for there",
)
_READY = {
    "Deployment": 'kube_deployment_status_replicas_ready{{namespace="{namespace}",deployment="{name}"}}',
    "StatefulSet": 'kube_statefulset_status_replicas_ready{{namespace="{namespace}",statefulset="{name}"}}',
    "ReplicaSet": 'kube_replicaset_status_ready_replicas{{namespace="{namespace}",replicaset="{name}"}}',
}
"""Series of kube-state-metrics that hold the ready replicas."""
OVERLAP = 0.5
"""Share of the load's readings beside which another series must be known before it is worth no word."""
SLOW = 30.0
"""Seconds of latency that no service has as a rule: what is above is in milliseconds."""
JUMP, STILL, AROUND, SMOOTH = 0.5, 0.1, 600.0, 120.0
"""Relative change of the replicas that is a jump, change of the load that is none, seconds around that are seen, and
seconds whose mean is taken of it."""

ABOVE, ABOVE_OFTEN = 1.1, 3
"""Utilization in means of three minutes, and so many of them, above which it is no share of what replicas can use."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The readings of a workload, what each fit found, and the profile (whose readings are not yet kept)."""

    profile: Profile
    recording: Recording
    capacity: CapacityFit
    startup: StartupFit
    season: SeasonFit


def nameless(queries: Mapping[str, str], interval: float) -> Resource:
    """Return a resource of queries alone: `load`, and any of `utilization` and `latency`."""
    metrics: dict[str, dict[str, str]] = {name: {"query": query} for name, query in queries.items()}
    if "latency" in metrics:
        metrics["latency"]["quantile"] = "0.95"
    spec = {
        "scaleTargetRef": {"apiVersion": "v1", "kind": "Workload", "name": "workload"},
        "maxReplicas": 1,
        "interval": duration_text(interval),
        "metrics": metrics,
    }
    found = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "workload"}, "spec": spec}
    return resource_from_object(found, "the queries")


def from_prometheus(
    source: Asked, resource: Resource, start: float, end: float, queries: Mapping[str, str], skew: float = 0.0
) -> tuple[Past, Recording]:
    """Return what a Prometheus holds of a workload from `start` to `end`, with notes, seconds since the epoch.

    queries: those that are named beside the resource, by their option: `replicas`, `ready`, and any that stands in for
    one of the resource's. Raises UserError, SourceError.
    """
    named = {name: f"--{name}" if name in queries else f"spec.metrics.{name}"
             for name in ("load", "utilization", "latency")}  # fmt: skip
    past = recorded.from_prometheus(source, resource, start, end, queries.get("replicas"), skew, CALIBRATE,
                                    named["load"])  # fmt: skip
    begin, until = float(past.times[0]), float(past.times[-1])
    notes, interval, metrics = list(past.notes), resource.spec.interval, resource.spec.metrics
    found = {}
    for name in ("utilization", "latency"):
        query = getattr(metrics, name)
        if query is None:
            if name == "utilization":
                notes.append("no query of the utilization is named, without which the capacity cannot be told")
            continue
        answer = recorded.series_of(source, named[name], query.query, begin, until, interval)
        found[name], strange = recorded.one_series(answer, query.match, named[name])
        notes += strange
    target = resource.spec.scale_target_ref
    asked = queries.get("ready")
    if asked is None and target.kind in _READY:
        asked = _READY[target.kind].format(namespace=resource.namespace, name=target.name)
    if asked is not None:
        called = "--ready" if queries.get("ready") else "ready replicas"
        answer = recorded.series_of(source, called, asked, begin, until, interval)
        if len(answer.labels) == 1:
            found["ready"] = answer.values[0]
        else:
            notes.append(f"ready replicas are not known: {len(answer.labels)} series are found for them, expected one; "
                         f"name it by --ready QUERY (asked: {asked})")  # fmt: skip
    return _together(past, notes, interval, found)


def from_traces(load: Trace, others: Mapping[str, Trace], interval: float) -> tuple[Past, Recording]:
    """Return what files hold: the load, and any of `utilization`, `latency`, `replicas` and `ready`.

    A row tells of the time from its own moment to the next row's. Raises UserError.
    """
    interval = max(interval, load.step)
    past = recorded.from_traces(load, None, interval, CALIBRATE)
    assert past is not None, "the interval is that of the load at least"
    found = {name: recorded.counts_at(trace, past.times - interval) for name, trace in others.items()}
    notes = list(past.notes)
    for name, trace in others.items():
        notes += [f"{name}: {warning}" for warning in trace.warnings]
    if "utilization" not in others:
        notes.append("no utilization is named, without which the capacity cannot be told")
    return _together(replace(past, replicas=found.pop("replicas", None)), notes, interval, found)


def _together(past: Past, notes: list[str], interval: float, found: Mapping[str, np.ndarray]) -> tuple[Past, Recording]:
    """Return the past with its notes, and the readings."""
    known = np.isfinite(past.load)
    nothing = np.full(len(past.times), np.nan)
    arrays = {"replicas": past.replicas if past.replicas is not None else nothing}
    arrays |= {name: found.get(name, nothing) for name in ("ready", "utilization", "latency")}
    arrays = {name: np.where(np.isfinite(each) & (each >= 0.0), each, np.nan) for name, each in arrays.items()}
    for name, series in found.items():
        share = float(np.isfinite(series[known]).mean())
        if share == 0.0:
            notes.append(f"{name} is known at no moment of the load: do their times overlap?")
        elif share < OVERLAP:
            notes.append(f"{name} is known for {100.0 * share:.2g} % of the load's readings: the rest is left out")
    if not np.isfinite(arrays["ready"]).any() and np.isfinite(arrays["replicas"]).any():
        notes.append("ready replicas are not known: those asked for stand in, and the start-up cannot be told")
    columns = {name: each.astype(np.float32) for name, each in arrays.items()}
    recording = Recording(float(past.times[0]), interval, past.load.astype(np.float32), **columns)
    notes += _by_hand(recording)
    return replace(past, notes=tuple(notes)), recording


def _by_hand(recording: Recording) -> list[str]:
    """Return a note where the replicas jumped without a reason in the load."""
    replicas, load = recording.replicas.astype(np.float64), recording.load.astype(np.float64)
    near = max(1, round(AROUND / recording.interval))
    before, after = replicas[:-1], replicas[1:]
    jumps = np.flatnonzero(
        (np.abs(after - before) > JUMP * np.maximum(before, after)) & (np.abs(after - before) >= 3.0)
    )
    found = []
    smooth = max(1, round(SMOOTH / recording.interval))
    for at in jumps:
        seen = load[max(0, at - near) : at + near]
        seen = seen[np.isfinite(seen)]
        # of single readings the highest and the lowest lie far apart by chance alone
        means = [part.mean() for part in np.array_split(seen, max(1, len(seen) // smooth)) if len(part)]
        if len(seen) >= near and np.ptp(means) <= STILL * seen.mean():
            found.append(at + 1)
    if not found:
        return []
    first, moment = found[0], recording.start + recording.interval * found[0]
    when = np.datetime_as_string(np.datetime64(round(moment), "s"), unit="s")
    often = "once" if len(found) == 1 else f"{len(found)} times"
    return [f"the replicas jumped {often} while the load stood still, first from {replicas[first - 1]:.0f} to "
            f"{replicas[first]:.0f} at {when}Z: changed by hand, or by a deploy?"]  # fmt: skip


def calibrate(
    past: Past, recording: Recording, source: str, made_by: str, *, window: float | None = None
) -> Calibration:
    """Return what the past tells. window: seconds that the query of the load averages over, where it says so."""
    facts = calibration_load.load_facts(recording)
    capacity, startup = calibration.capacity_fit(recording), calibration.startup_fit(recording)
    season, used = calibration_load.season_fit(recording), calibration_load.saturation(recording)
    notes = [*past.notes, *_remarks(recording, capacity, used.utilization)]
    profile = Profile(
        workload=past.name, source=source, made_by=made_by, interval=recording.interval, capacity=capacity.estimate,
        startup=startup.estimate, lag=calibration_load.lag_fit(recording),
        noise=calibration_load.noise_fit(recording, window), day=season.day, week=season.week, saturation=used,
        load=facts, notes=tuple(notes),
    )  # fmt: skip
    return Calibration(profile, recording, capacity, startup, season)


def _remarks(recording: Recording, capacity: CapacityFit, highest: float | None) -> list[str]:
    """Return what must be known of the fits themselves."""
    notes = []
    if capacity.since is not None and capacity.before is not None and capacity.estimate.value is not None:
        when = np.datetime_as_string(np.datetime64(round(capacity.since), "s"), unit="m")
        notes.append(f"a replica serves {capacity.estimate.value:.3g} requests/s since about {when}Z, and served "
                     f"{capacity.before:.3g} before: the capacity is that of the time since")  # fmt: skip
    if capacity.estimate.known and highest is not None and highest < calibration.SELDOM_USED:
        notes.append(f"utilization was never above {100.0 * highest:.0f} %: what a replica serves at full use is told "
                     "from far below it")  # fmt: skip
    means = np.sort(calibration_load.three_minutes(recording)[0])
    often = means[np.isfinite(means)][-ABOVE_OFTEN:]
    if capacity.estimate.known and len(often) == ABOVE_OFTEN and often[0] > ABOVE:
        notes.append(f"utilization goes up to {100.0 * often[-1]:.0f} %, as where it is relative to CPU requests: what "
                     "a replica serves is told of 100 % of them, and it may serve more; name a query of the share of "
                     "what replicas can use")  # fmt: skip
    if capacity.drift >= calibration.DRIFTS:
        notes.append(f"from one half-hour to another, utilization moves by {100.0 * capacity.drift:.0f} % for the same "
                     "load: is there other work beside it, or another mix of requests at another time of the day? What "
                     "a replica serves then may be less than what is told for all of the time")  # fmt: skip
    if (cap := calibration.cap(recording)) is not None:
        notes.append(f"utilization goes no higher than {100.0 * cap:.4g} % whatever the load is: its source caps it, "
                     "and readings there are left out of the capacity; name a query without clamp_max")  # fmt: skip
    knee = _knee(recording, capacity)
    if knee is not None:
        notes.append(f"latency is more than twice its usual from {100.0 * knee:.0f} % of the told capacity on: "
                     "replicas may be full before their utilization is")  # fmt: skip
    latency = recording.latency[np.isfinite(recording.latency)]
    if len(latency) and (usual := float(np.median(latency))) > SLOW:
        notes.append(f"the latency is {usual:,.0f} s as a rule: is it in seconds? divide milliseconds by 1000")
    replicas = recording.replicas[np.isfinite(recording.replicas)]
    if len(replicas) and (replicas == replicas[0]).all():
        notes.append(f"the replicas never changed from {replicas[0]:.0f}")
    return notes


def _knee(recording: Recording, capacity: CapacityFit) -> float | None:
    """Return the share of the capacity from which on latency is twice its usual, None where it is not below 80 %."""
    value = capacity.estimate.value
    _, load, latency = calibration_load.three_minutes(recording)
    both = np.isfinite(load) & np.isfinite(latency)
    if value is None or both.sum() < 40:
        return None
    share, latency = load[both] / value, latency[both]
    usual = float(np.median(latency[share <= np.quantile(share, 0.5)]))
    for low in np.arange(0.2, 0.8, 0.05):
        above = latency[(share >= low) & (share < low + 0.1)]
        if len(above) >= 8 and usual > 0.0 and np.quantile(above, 0.25) > 2.0 * usual:
            return float(low)
    return None
