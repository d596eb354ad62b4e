"""A dry-run: what an RLScaler resource would have done on a load, beside the rules an SRE would use instead."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler import Settings
from rlscaler.custom_resource import Resource, to_settings
from rlscaler.errors import UserError
from rlscaler.quantities import duration_text
from rlscaler.settings import compiled
from rlscaler.stated import stated
from rlscaler.tenured import mode
from rlscaler_sim import contenders, long_plan, scenarios, stretches, world
from rlscaler_sim.aside import aside
from rlscaler_sim.contest import Entrant
from rlscaler_sim.elsewhere import elsewhere, plans
from rlscaler_sim.evaluation import (
    beating,
    figures,
    limit,
    own_constants,
    standard_world,
    telling,
    with_regrets,
)
from rlscaler_sim.load import Load, LoadError, Loads, generator, realise, realise_many
from rlscaler_sim.patterns import PatternError
from rlscaler_sim.result import CLAIRVOYANT, REFERENCE, Contender, DryRun
from rlscaler_sim.run_record import described, log, proven, series
from rlscaler_sim.scenario_file import SUFFIXES
from rlscaler_sim.scenarios import Scenario, ScenarioError
from rlscaler_sim.told import Told, beforehand, worth_it
from rlscaler_sim.totals import Traced
from rlscaler_sim.trace import Trace, TraceError, trace_name

OFTEN = 5.0
"""Times as many rescales as the tuned HPA's from which on a note tells how to have fewer."""
LONG = 40_000
"""Steps in worlds besides the one that is told of from which on these are played in a process of their own."""
DEFAULT_CAPACITY = 10.0
"""Requests/s of a replica where the resource leaves it to be learned."""
Progress = Callable[[str, int, int], None]
Outcome = tuple[DryRun, list[str], list[dict[str, Any]]]
"""What happened, notes on what was assumed, and every decision of the policy under test."""


def found_scenario(name: str) -> Scenario:
    """Return the scenario, or the trace file, of that name.

    Raises UserError.
    """
    try:
        path = Path(name)
        with suppress(OSError):  # an expression may be longer than the name of any file
            if path.is_file() and not name.endswith((".csv", ".csv.gz", *SUFFIXES)):
                return Scenario(name, f"the recorded load {trace_name(path)}", path, float("inf"))
        return scenarios.get(name)
    except (ScenarioError, PatternError) as error:
        if name.endswith(SUFFIXES):
            raise UserError(str(error)) from error
        raise UserError(f"--trace {name}: {error}; 'rlscaler scenarios' lists them") from error


def conditions(resource: Resource | None, scenario: Scenario) -> tuple[Settings, world.WorldConfig, list[str]]:
    """Return the settings that the decision is told, the world as it is, and notes on what was assumed.

    What the resource states is what the decision believes; a scenario's variant changes the world alone, except where
    the resource leaves the value to be learned.
    """
    notes: list[str] = []
    settings = to_settings(resource) if resource is not None else contenders.standard_settings()
    if np.isnan(float(settings.capacity_per_replica)):
        settings = replace(settings, capacity_per_replica=DEFAULT_CAPACITY)
        notes.append(f"spec.capacity.perReplica is left out: the simulator takes {DEFAULT_CAPACITY:g} requests/s")
    service = float(settings.concurrency) / float(settings.capacity_per_replica)
    if float(settings.objective.latency) <= service:
        raise UserError(
            f"spec.objective.latency is {float(settings.objective.latency):g} s, and a request alone takes {service:g} "
            "s (concurrency / perReplica); expected a longer latency"
        )
    config = replace(standard_world(settings), **scenario.world)
    stated = resource.spec.capacity.startup if resource is not None else None
    startup = float(settings.startup) if stated is not None else float(config.startup)
    settings = replace(settings, startup=startup, lag=float(config.lag))
    if startup != float(config.startup):
        notes.append(f"the world's pods take {float(config.startup):g} s to start, the resource states {startup:g} s")
    return settings, config, notes


def realised(
    scenario: Scenario,
    settings: Settings,
    *,
    scale_to: float | None,
    seed: int,
    start: float,
    duration: float | None,
) -> tuple[Load, Trace | None]:
    """Return the scenario's load at the wanted scale, and its trace if it is a recorded one.

    Raises UserError.
    """
    try:
        source = scenario.source
        known = source if isinstance(source, Trace) else None
        load = realise(
            source,
            interval=float(settings.interval),
            tick=float(settings.interval) / max(1, round(float(settings.interval) / 3.0)),
            duration=_span(scenario, start, duration),
            start=start,
            scale_to=scale_to,
            capacity=float(settings.capacity_per_replica),
            rng=generator(source.name, seed),
        )
    except (TraceError, LoadError, PatternError) as error:
        raise UserError(str(error)) from error
    return load, known


def _span(scenario: Scenario, start: float, duration: float | None) -> float | None:
    """Return the seconds to run for, None for the rest of a trace. Raises UserError where nothing is left."""
    if duration is not None and duration <= 0.0:
        raise UserError(f"--for {duration:g}s: expected some time, such as 6h")
    if start >= scenario.duration and duration is None:
        raise UserError(
            f"--from {duration_text(start)}: {scenario.name} ends after {duration_text(scenario.duration)}; "
            "start earlier, or say --for how long to run"
        )
    span = scenario.duration - start if duration is None else duration
    return None if span == float("inf") else span


def needed_at_once(load: Load, settings: Settings) -> int:
    """Return the most replicas at full use that a whole interval of the load needs."""
    ticks = max(1, round(float(settings.interval) / load.tick))
    steps = load.rates.reshape(-1, ticks).mean(axis=1, dtype=np.float64)
    return int(np.ceil(steps.max() / float(settings.capacity_per_replica) - 1e-9))


def beyond_bounds(load: Load, settings: Settings) -> list[str]:
    """Return a note, without a full stop, where the load needs more replicas than there may be."""
    if (most := needed_at_once(load, settings)) <= int(settings.max_replicas):
        return []
    return [f"the load needs up to {most} replicas at full use, and maxReplicas is {settings.max_replicas}: then "
            "requests are late whatever is decided"]  # fmt: skip


def entrants_for(
    names: Sequence[str], policy: str, settings: Settings, digest: str | None = None, tenure: str | None = None
) -> list[Entrant]:
    """Return the policy under test and whom it is compared with, REFERENCE always among them.

    digest, tenure: that of the policy under test, see `load_policy`.
    """
    unknown = sorted(set(names) - set(contenders.NAMES))
    if unknown:
        raise UserError(f"--compare {unknown[0]}: no such contender; expected {', '.join(contenders.NAMES)} or all")
    found = [contenders.tested(policy, settings, digest=digest, tenure=tenure)]
    for name in contenders.NAMES:
        wanted = name in names or name == REFERENCE
        if wanted and name not in (CLAIRVOYANT, contenders.OWN, found[0].name):
            found.append(contenders.entrant(name, settings))
    return found


def dry_run(
    resource: Resource | None,
    scenario: Scenario,
    *,
    policy: str | None = None,
    compare: Sequence[str] = contenders.USUAL,
    scale_to: float | None = 25.0,
    seed: int = 0,
    start: float = 0.0,
    duration: float | None = None,
    progress: Progress | None = None,
    keep_decisions: bool = False,
    clock: Callable[[], float] = lambda: 0.0,
) -> Outcome:
    """Return what happened, notes on what was assumed, and every decision of the policy under test.

    keep_decisions: with each decision's observation. clock: seconds, for `elapsed_s`. Raises UserError.
    """
    settings, config, notes = conditions(resource, scenario)
    load, trace = realised(scenario, settings, scale_to=scale_to, seed=seed, start=start, duration=duration)
    notes += trace.warnings if trace is not None else ()
    if not load.rates.any():
        scale_to = None  # 0 stays 0 at whatever scale
        notes.append(f"in the span that is run {load.name} has no load: there is nothing to scale, and no score")
    notes += [f"{said}; a smaller --scale-to avoids it" for said in beyond_bounds(load, settings)]
    own = partial(
        realise_many,
        [scenario.source],
        [seed],
        tick=load.tick,
        interval=float(settings.interval),
        duration=_span(scenario, start, duration),
        start=start,
        scale_to=scale_to,
        capacity=float(settings.capacity_per_replica),
    )
    return compared(
        resource, load, own, settings, config, notes, policy=policy, compare=compare, scale_to=scale_to, seed=seed,
        progress=progress, keep_decisions=keep_decisions, clock=clock,
    )[0]  # fmt: skip


def compared(
    resource: Resource | None,
    load: Load,
    own: Callable[[], Loads],
    settings: Settings,
    config: world.WorldConfig,
    notes: Sequence[str],
    *,
    policy: str | None,
    compare: Sequence[str],
    scale_to: float | None,
    seed: int,
    beside: Sequence[Entrant] = (),
    seen: np.ndarray | None = None,
    start: np.ndarray | None = None,
    others: Sequence[world.WorldConfig] = (),
    processes: int = 1,
    progress: Progress | None = None,
    keep_decisions: bool = False,
    clock: Callable[[], float] = lambda: 0.0,
) -> tuple[Outcome, list[list[Contender]]]:
    """Run the policy under test and everyone whom it is compared with on one load; see `dry_run`.

    own: returns the load as `hpa-own` is tuned on it. beside: further entrants. seen: (1, T) requests/s that were
    read at each step, where that is recorded. start: (1,) replicas at first, where these are. others: worlds of
    another capacity or start-up, in each of which everyone's figures are returned too. processes: with two, work that
    takes several seconds is done in another one meanwhile (see `aside`), which takes in the caller's main module.
    """
    began, notes = clock(), list(notes)
    wanted = resource.spec.policy if resource is not None else None
    chosen = policy or (wanted.name if wanted is not None and wanted.name else "default")
    if policy is None and wanted is not None and wanted.server:
        notes.append(f"spec.policy.server {wanted.server} is not asked in a dry-run: the policy default decides")
    pinned = wanted.digest if policy is None and wanted is not None else None
    if pinned and contenders.is_rule(chosen):
        notes.append(f"spec.policy.digest is not checked: {chosen} is a rule of this version, and no artifact")
    tenure = wanted.tenure if policy is None and wanted is not None else None
    entrants = entrants_for(compare, chosen, settings, pinned, tenure)
    tested = entrants[0].name
    earned = mode(entrants[0].policy)
    cut = worth_it(load, config, settings)
    steps = load.rates.size * load.tick / float(settings.interval)
    with aside(long=processes > 1 and cut and len(others) * steps >= LONG) as begin:
        planned = begin(partial(plans, load, others, settings, seed, start))
        told = beforehand(load, config, settings, seed, seen) if cut else None
        if told is not None:
            entrants = stretches.foretold(entrants, load, told, settings, start, unread(resource))

        owns: Callable[[], Sequence[Entrant]] = list
        if contenders.OWN in compare:
            tuned = partial(_own_constants, load, own, settings, seed, told, start)
            owns = begin(partial(_owns, settings, tuned, others))
            constants = tuned(config, progress)
            entrants.append(contenders.entrant(contenders.OWN, settings, constants))
            notes.append(f"hpa-own, tuned on this load: target {constants['target']:g}, scale-down window "
                         f"{constants['window']:g} s, tolerance {constants['tolerance']:g}")  # fmt: skip
        entrants += beside
        everyone = list(entrants)
        plan = long_plan.plan(load, seed, config, settings, start)
        entrants.append(limit(plan, settings))
        traced = Traced(observe=keep_decisions)
        sums = stretches.play(load, entrants, config, settings, seed, watch=0, traced=traced, seen=seen, start=start,
                              unread=unread(resource), known=told, progress=telling(progress, "running"))  # fmt: skip
        waits, column = sums.wait_quantile(), np.array([0])
        found = [figures(entrant.name, sums, waits, i, column) for i, entrant in enumerate(entrants)]
        notes += _restless(resource, found, tested)
        certain = proven(config)
        if not certain:
            notes.append("pods start or fail by chance in this world, and the clairvoyant plans as if they did not: it "
                         "is the best that was found, and no limit is proven")  # fmt: skip
        if (best := beating(found)) is not None:
            # draws are paired, so the same orders have the same outcome
            traced.repeat(len(found) - 1, best)
            found[-1] = replace(found[best], name=CLAIRVOYANT)
            notes.append(
                f"the clairvoyant found no plan as good as the decisions of {found[best].name}, and repeats them"
            )
        run = DryRun(
            resource=resource.key if resource is not None else "",
            trace=load.name,
            world=described(config, settings, scale_to, seed),
            policy=tested,
            contenders=with_regrets(found),
            lower_bound=float(plan.lower_bound[0]) if certain and sums.needed[0, 0] > 0.0 else None,
            decisions=len(traced.decisions),
            elapsed_s=round(clock() - began, 3),
            series=series(traced, float(settings.capacity_per_replica)),
            log=log(traced),
        )
        fared = elsewhere(load, everyone, others, settings, seed, planned=planned(), own=owns(), told=told, seen=seen,
                          start=start, unread=unread(resource))  # fmt: skip
    if not keep_decisions:
        return (run, notes, list(traced.decisions)), fared
    told_by: dict[str, Any] = {"policy": chosen, "settings": stated(compiled(entrants[0].settings, 1))}
    if earned:
        told_by["tenure"] = earned
    return (run, notes, [told_by | decision for decision in traced.decisions]), fared


def _own_constants(
    load: Load,
    own: Callable[[], Loads],
    settings: Settings,
    seed: int,
    told: Told | None,
    start: np.ndarray | None,
    config: world.WorldConfig,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Return the constants of `hpa-own` in a world. told: what is known of the load beforehand."""
    if told is None:
        return own_constants(own(), config, settings, progress)[contenders.OWN][0]
    return stretches.own_constants(load, config, settings, seed, told, start, telling(progress, "tuning hpa-own"))


def _owns(
    settings: Settings,
    constants: Callable[[world.WorldConfig], dict[str, float]],
    configs: Sequence[world.WorldConfig],
) -> list[Entrant]:
    """Return `hpa-own` of each world."""
    return [contenders.entrant(contenders.OWN, settings, constants(config)) for config in configs]


def _restless(resource: Resource | None, found: Sequence[Contender], tested: str) -> list[str]:
    """Return a note where the count changes far more often than a tuned HPA's, and no `behavior` says how it may."""
    by_name = {each.name: each for each in found}
    often, usual = by_name[tested].rescales, by_name[REFERENCE].rescales
    if resource is None or resource.spec.behavior is not None or often <= OFTEN * max(usual, 1):
        return []
    return [f"{tested} rescales {often:,} times, {REFERENCE} {usual:,}; spec.behavior.scaleDown "
            '{stabilizationWindowSeconds: 0, tolerance: "0.1"} leaves out most']  # fmt: skip


def unread(resource: Resource | None) -> tuple[str, ...]:
    """Return the fields of a snapshot that the resource has no query for; a cluster would not tell them either."""
    if resource is None:
        return ()
    metrics = resource.spec.metrics
    return tuple(name for name in ("backlog", "latency", "utilization") if getattr(metrics, name) is None)
