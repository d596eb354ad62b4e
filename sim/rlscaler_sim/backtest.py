"""A backtest: what rlscaler would have done on a workload's own past, beside what was done, and the rules.

The decisions see the readings that were recorded, moment by moment, through the function that decides in a cluster;
what they would have cost and broken is told by the simulated world. So are the figures of the replicas that were
recorded: measured and predicted are never compared with each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from rlscaler import Settings
from rlscaler.custom_resource import Resource
from rlscaler.errors import UserError
from rlscaler.quantities import duration_text
from rlscaler_sim import contenders, dry_run
from rlscaler_sim.contest import Entrant, Schedule
from rlscaler_sim.dry_run import Outcome, Progress
from rlscaler_sim.load import Load, Loads, generator, realise
from rlscaler_sim.recorded import Past, checked, counts_at, warnings_of
from rlscaler_sim.result import RECORDED, Contender, DryRun
from rlscaler_sim.scenarios import Scenario
from rlscaler_sim.trace import Trace

SHORT = 0.1
"""Share of the time for which replicas that were too few are worth a word."""
POISSON = 1.0
"""Variance over mean of the arrivals within an interval: what is beyond that is in the record itself."""


@dataclass(frozen=True, slots=True)
class Bracket:
    """What the figures are if a replica serves less or more than is thought, or starts sooner or later.

    factor: of the capacity per replica. startup: seconds that a replica takes to start; None: what is thought.
    """

    factor: float
    contenders: Sequence[Contender]
    startup: float | None = None


def backtest(
    resource: Resource,
    past: Past | Trace,
    replicas: Trace | None = None,
    *,
    policy: str | None = None,
    compare: Sequence[str] = contenders.USUAL,
    seed: int = 0,
    capacity_error: float = 0.0,
    factors: Sequence[float] = (),
    startups: Sequence[float] = (),
    processes: int = 1,
    progress: Progress | None = None,
    keep_decisions: bool = False,
    clock: Callable[[], float] = lambda: 0.0,
) -> tuple[Outcome, list[Bracket]]:
    """Return the outcome (see `dry_run.dry_run`), and what it is at the ends of what is uncertain.

    past: readings at the resource's interval, or a trace whose buckets are longer, in which readings are simulated;
    replicas: recorded beside such a trace. capacity_error: relative, 0.1 for 10 %. factors: of the capacity, that the
    outcome is told for instead. startups: seconds, that it is told for too. processes: that may work at once, 1 or 2
    (see `dry_run.compared`). Raises UserError.
    """
    if resource.spec.capacity.per_replica is None:
        raise UserError(
            "spec.capacity.perReplica is left out: a backtest needs to know how many requests/s a replica serves; "
            "let 'rlscaler calibrate' tell it from the same past and name its --profile, or state it"
        )
    if isinstance(past, Trace):
        scenario = Scenario(past.name, f"the record {past.name}", past, float("inf"))
    else:
        record = Trace(past.name, float(past.times[0]), resource.spec.interval, past.load)
        scenario = Scenario(past.name, f"the record {past.name}", record, float("inf"), {"fano": POISSON})
    settings, config, assumed = dry_run.conditions(resource, scenario)
    if isinstance(past, Trace):
        load, seen = _simulated(past, settings, seed), None
        known = _known(past, replicas, _starts(load, settings), float(settings.interval))
        counts, notes = known.replicas, [
            *known.notes, f"buckets of {duration_text(past.step)} hide what was read every "
            f"{duration_text(resource.spec.interval)}: readings are simulated; those of a file with a value every "
            f"{duration_text(resource.spec.interval)} or less are taken as they are"]  # fmt: skip
    else:
        load, seen, counts = arrived(past, settings)
        notes = list(past.notes)
    notes += [*dry_run.beyond_bounds(load, settings), *_impossible(load, counts, settings)]
    beside, start = [], None
    if counts is not None:
        there = np.asarray(load.known.reshape(len(counts), -1).all(axis=1))
        if seen is not None:
            there = there & np.isfinite(seen[0])
        beside, start = [repeated(counts, there, settings)], first_known(counts, settings)

    if not factors and capacity_error > 0.0:
        factors = (1.0 - capacity_error, 1.0 + capacity_error)
    capacity = float(config.capacity_per_replica)
    others = [replace(config, capacity_per_replica=factor * capacity) for factor in factors]
    others += [replace(config, startup=each) for each in startups]
    found, fared = dry_run.compared(
        resource, load, partial(single, load, seed), settings, config, [*notes, *assumed], policy=policy,
        compare=compare, scale_to=None, seed=seed, beside=beside, seen=seen, start=start, others=others,
        processes=processes, progress=progress, keep_decisions=keep_decisions, clock=clock,
    )  # fmt: skip
    brackets = [Bracket(factor, each) for factor, each in zip(factors, fared, strict=False)]
    return found, brackets + [
        Bracket(1.0, each, seconds) for seconds, each in zip(startups, fared[len(factors) :], strict=True)
    ]


def _impossible(load: Load, counts: np.ndarray | None, settings: Settings) -> list[str]:
    """Return a note where so few replicas (T,) can hardly have served the load: then a unit is wrong, or the capacity.

    A workload is short of replicas now and then, and not for a good part of its time.
    """
    if counts is None:
        return []
    steps = len(load.rates) // len(counts)
    known = load.known.reshape(-1, steps).all(axis=1) & np.isfinite(counts)
    needed = load.rates.reshape(-1, steps).mean(axis=1) / float(settings.capacity_per_replica)
    share = float((needed[known] > counts[known]).mean()) if known.any() else 0.0
    if share <= SHORT:
        return []
    most = int(np.ceil(needed[known].max() - 1e-6))
    return [f"the recorded replicas are fewer than the load needs at full use for {100.0 * share:.0f} % of the time, "
            f"up to {most} of them: is the load in requests/s, and is capacity.perReplica, "
            f"{float(settings.capacity_per_replica):g}, what a replica serves?"]  # fmt: skip


def arrived(past: Past, settings: Settings) -> tuple[Load, np.ndarray, np.ndarray | None]:
    """Return the load that must have arrived for these readings, the readings (1, T), and the replicas at each step.

    What is read at a moment arrived in the interval that ended one lag earlier; so the last readings only tell of
    load, and no decision is made on them. In a gap it is the lower of its two ends: a backlog that nobody saw
    begin would be late after the gap, whoever decides.
    """
    interval = float(settings.interval)
    late = 1 + round(float(settings.lag) / interval)
    steps = len(past.times) - late
    known = np.isfinite(past.load)
    filled = np.minimum(*_beside(past.load))[late:]
    per = max(1, round(interval / 3.0))
    there = np.repeat(known[late:], per)
    load = Load(past.name, interval / per, np.repeat(filled, per).astype(np.float32), there, there.copy(),
                float(past.times[0]))  # fmt: skip
    counts = None if past.replicas is None else past.replicas[:steps]
    return load, past.load[None, :steps], counts


def repeated(counts: np.ndarray, seen: np.ndarray, settings: Settings) -> Entrant:
    """Return the contender that asks for the recorded replicas: (T,), NaN = as before.

    seen: (T,) whether the load is known, and read. Where it is not, and no replicas either, nobody knows when those of
    after the gap were asked for: they are there in time.
    """
    before, after = _beside(counts)
    asked = np.where(np.isnan(counts) & ~seen, np.maximum(before, after), before)
    orders = np.rint(asked).astype(np.int32)
    bare = replace(settings, behavior=None, floor=False, flap_budget=np.inf, holds=False,
                   min_replicas=min(int(settings.min_replicas), int(orders.min())),
                   max_replicas=max(int(settings.max_replicas), int(orders.max())))  # fmt: skip
    return Entrant(RECORDED, Schedule(orders[None, :], RECORDED), bare)


def _beside(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the last and the next known value (T,) at each place, itself where it is known; one at least is."""
    known = np.flatnonzero(np.isfinite(values))
    place = np.arange(len(values))
    before = np.clip(np.searchsorted(known, place, side="right") - 1, 0, None)
    after = np.clip(np.searchsorted(known, place), None, len(known) - 1)
    return values[known[before]], values[known[after]]


def first_known(counts: np.ndarray, settings: Settings) -> np.ndarray:
    """Return (1,) the first replicas of the record (T,), within the bounds, for everyone to start with."""
    first = counts[np.isfinite(counts)][:1]
    low, high = max(1.0, float(settings.min_replicas)), float(settings.max_replicas)
    return np.asarray(np.clip(first, low, high), np.float64)


def single(load: Load, seed: int) -> Loads:
    """Return one load as a batch of one."""
    return Loads(
        names=(load.name,),
        seeds=np.array([seed]),
        source=np.zeros(1, np.int64),
        tick=load.tick,
        rates=load.rates[None],
        known=load.known[None],
        scored=load.scored[None],
        lengths=np.array([len(load.rates)]),
        start=np.array([load.start]),
    )


def _known(load: Trace, replicas: Trace | None, times: np.ndarray, interval: float) -> Past:
    """Return what was recorded from each time on, with notes. Raises UserError where it is too little."""
    counts = None if replicas is None else counts_at(replicas, times)
    return checked(Past(load.name, times, counts_at(load, times), counts, warnings_of(load, replicas)), interval)


def _simulated(trace: Trace, settings: Settings, seed: int) -> Load:
    interval = float(settings.interval)
    return realise(trace, interval=interval, tick=interval / max(1, round(interval / 3.0)), scale_to=None,
                   duration=float("inf"), capacity=float(settings.capacity_per_replica),
                   rng=generator(trace.name, seed))  # fmt: skip


def _starts(load: Load, settings: Settings) -> np.ndarray:
    interval = float(settings.interval)
    steps = round(len(load.rates) * load.tick / interval)
    return load.start + interval * np.arange(steps)


def bill(contender: Contender, price: float, seconds: float) -> dict[str, Any]:
    """Return what a contender's replicas cost: `total`, and `month` of 30 days at the same rate.

    price: of a replica-hour. seconds: of the record that are scored, which the replica-hours are of.
    """
    total = contender.replica_hours * price
    return {"contender": contender.name, "total": total, "month": total * 30.0 * 86400.0 / seconds}


def scored_seconds(run: DryRun) -> float:
    """Return the seconds of the record that are scored: all but its gaps."""
    return float(run.series.known.sum()) * float(run.world["interval"])


def told(outcome: Outcome, brackets: Sequence[Bracket], price: float | None) -> dict[str, Any]:
    """Return what a backtest adds to a dry-run's JSON: `capacity`, `startup`, `money` and `notes`."""
    run, notes, _ = outcome
    seconds = scored_seconds(run)
    found: dict[str, Any] = {"notes": list(notes)}
    for key, at, those in (
        ("capacity", "factor", [(each.factor, each) for each in brackets if each.startup is None]),
        ("startup", "seconds", [(each.startup, each) for each in brackets if each.startup is not None]),
    ):
        if those:
            found[key] = [
                {
                    at: value,
                    "contenders": {
                        c.name: {"late": c.violation_share, "score": c.score, "replica_hours": c.replica_hours}
                        for c in bracket.contenders
                    },
                }
                for value, bracket in those
            ]
    if price is not None and seconds > 0.0:
        found["money"] = [bill(c, price, seconds) for c in run.contenders]
    return found
