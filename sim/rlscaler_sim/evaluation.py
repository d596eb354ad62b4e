"""Scores over many traces: every rule and policy on the same draws, regret to the clairvoyant, summaries.

What is learned from load is never scored on it: the rules' constants are those of the fold that held the trace's
source family out, and `hpa-own` alone is tuned on the very trace that it is scored on, as the hardest baseline.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np

from rlscaler import Settings
from rlscaler_sim import clairvoyant, contenders, world
from rlscaler_sim.contest import Entrant, Schedule, play, start_replicas
from rlscaler_sim.load import Load, Loads, realise_many
from rlscaler_sim.measure import arriving, gridded
from rlscaler_sim.noise import Noise
from rlscaler_sim.result import CLAIRVOYANT, LATE_WEIGHT, REFERENCE, Contender
from rlscaler_sim.score_statistics import interval, iqm
from rlscaler_sim.totals import Totals
from rlscaler_sim.trace import Trace, events_per_bucket, family

HEADLINE_EVENTS, HEADLINE_LATE = 1.0, 0.05
"""Traces with at least so many events a bucket, and a clairvoyant share of late requests below this, are headline."""
GAP_WEIGHT = 0.02
"""Weight of a gap's steps in the clairvoyant's plan, which score nothing but leave their backlog to those after."""
PLANNED = 400_000
"""Loads x steps that are planned at once; the tables take some kilobytes for each."""
OWN_SEEDS = 2
"""Seeds on which `hpa-own` is tuned."""
ROWS = 4096
"""Rows (contenders x traces x seeds) that run in one batch at most; more only cost memory."""
Progress = Callable[[str, int, int], None]


def telling(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    """Return the progress (done, total) of one thing among several; None where nobody listens."""
    return None if progress is None else partial(progress, what)


@dataclass(slots=True)
class Scored:
    """One trace, scored: contenders with the means over seeds, and the proven lower bound of the score."""

    trace: str
    family: str
    headline: bool
    contenders: list[Contender]
    lower_bound: float
    seeds: int

    def of(self, name: str) -> Contender:
        """Return the contender of that name."""
        return next(c for c in self.contenders if c.name == name)

    @property
    def loaded(self) -> bool:
        """Whether any request arrived in what was run of the trace."""
        return any(np.isfinite(c.violation_share) for c in self.contenders)


def standard_world(settings: Settings) -> world.WorldConfig:
    """Return the standard world for these settings."""
    capacity, concurrency = float(settings.capacity_per_replica), float(settings.concurrency)
    return world.WorldConfig(
        capacity_per_replica=capacity,
        concurrency=concurrency,
        slo_wait=float(settings.objective.latency) - concurrency / capacity,
        startup=float(settings.startup),
        lag=float(settings.lag),
        window=float(settings.interval),
        interval=float(settings.interval),
        completions=settings.load_counts == "Completions",
    )


@dataclass(frozen=True, slots=True)
class Known:
    """What a clairvoyant knows of L loads: arrivals (L, T, K) float32 requests of each tick after over-dispersion,
    weight (L, T) the scored share of each step, needed (L,) pod-seconds over the scored steps."""

    arrivals: np.ndarray
    weight: np.ndarray
    needed: np.ndarray


@dataclass(frozen=True, slots=True)
class Limit:
    """orders: (L, T) int32 of the clairvoyant. lower_bound: (L,) float64, no orders score below it."""

    orders: np.ndarray
    lower_bound: np.ndarray


def known_to_the_end(loads: Sequence[Load], seeds: Sequence[int], config: world.WorldConfig) -> Known:
    """Return what the draws of `contest.play` make of the loads, padded with unscored zeros to the longest."""
    params = world.compiled(config, len(loads))
    rates, _, scored = gridded(loads, params.ticks)
    noise = Noise(params, [(load.name, seed) for load, seed in zip(loads, seeds, strict=True)], 1)
    arrivals = arriving(params, rates, noise) * loads[0].tick
    weight = scored.mean(axis=2)
    rate = rates.mean(axis=2, dtype=np.float64)
    needed = (weight * rate).sum(axis=1) * float(config.interval) / float(config.capacity_per_replica)
    return Known(arrivals, weight, needed)


def clairvoyant_plan(
    loads: Sequence[Load],
    seeds: Sequence[int],
    config: world.WorldConfig,
    settings: Settings,
    start: np.ndarray | None = None,
) -> Limit:
    """Return the clairvoyant's orders (L, T), and the proven lower bound of the score; start as of `contest.play`."""
    return planned(known_to_the_end(loads, seeds, config), loads, config, settings, start)


def planned(
    known: Known, loads: Sequence[Load], config: world.WorldConfig, settings: Settings, start: np.ndarray | None = None
) -> Limit:
    """Return the plan for what is known, some loads at a time."""
    first = start_replicas(loads, settings) if start is None else start
    steps = known.weight.shape[1]
    at_once = max(1, PLANNED // steps)
    parts = [slice(i, min(i + at_once, len(loads))) for i in range(0, len(loads), at_once)]

    def plan(part: slice, weight: np.ndarray) -> clairvoyant.Plan:
        asked = clairvoyant.Question(
            known.arrivals[part],
            capacity_per_replica=float(config.capacity_per_replica),
            concurrency=float(config.concurrency),
            slo_wait=float(config.slo_wait),
            interval=float(settings.interval),
            startup=float(config.startup),
            low=int(settings.min_replicas),
            high=int(settings.max_replicas),
            start=first[part],
            price=LATE_WEIGHT,
            weight=weight[part],
            needed=np.maximum(known.needed[part], 1e-9),
        )
        return clairvoyant.plan(asked)

    orders, bounds = [], []
    for part in parts:
        found = plan(part, known.weight)
        bounds.append(found.lower_bound)
        if not (known.weight[part] > 0).all():
            found = plan(part, np.maximum(known.weight, GAP_WEIGHT))
        orders.append(found.orders)
    return Limit(np.concatenate(orders), np.concatenate(bounds))


def limit(plan: Limit, settings: Settings) -> Entrant:
    """Return the clairvoyant as contender: its orders replayed in the world."""
    bare = replace(settings, behavior=None, floor=False, flap_budget=np.inf, holds=False)
    return Entrant(CLAIRVOYANT, Schedule(plan.orders), bare)


def own_constants(
    loads: Loads, config: world.WorldConfig, settings: Settings, progress: Progress | None = None
) -> dict[str, list[dict[str, float]]]:
    """Return the best target, window and tolerance of an HPA for each source, found on that source's first seeds.

    By the name of the contender, see `contenders.own_allowed`.
    """
    grid = contenders.own_grid()
    copies = len(grid["target"])
    rows = [r for r in range(len(loads.names)) if loads.seeds[r] in sorted(set(loads.seeds.tolist()))[:OWN_SEEDS]]
    group = max(1, ROWS // copies)
    scores = np.zeros((copies, len(rows)))
    for begin in range(0, len(rows), group):
        part = rows[begin : begin + group]
        constants = {key: np.repeat(values, len(part)) for key, values in grid.items()}
        own = contenders.entrant(contenders.OWN, settings, constants, copies)
        sums = play([loads.row(r) for r in part], [own], config, settings, [int(loads.seeds[r]) for r in part],
                    waits=False, progress=telling(progress, "tuning hpa-own"))  # fmt: skip
        scores[:, begin : begin + len(part)] = sums.score
    found: dict[str, list[dict[str, float]]] = {}
    for name, allowed in contenders.own_allowed().items():
        for source in range(int(loads.source.max()) + 1):
            mine = [i for i, r in enumerate(rows) if loads.source[r] == source]
            best = int(np.where(allowed, scores[:, mine].mean(axis=1), np.inf).argmin())
            found.setdefault(name, []).append({key: float(values[best]) for key, values in grid.items()})
    return found


def with_regrets(found: Sequence[Contender]) -> list[Contender]:
    """Return the contenders with their regrets, None where a reference is missing or no worse than the limit."""
    score = {c.name: c.score for c in found}

    def regret(c: Contender, reference: str) -> float | None:
        if CLAIRVOYANT not in score or reference not in score:
            return None
        span = score[reference] - score[CLAIRVOYANT]
        return (c.score - score[CLAIRVOYANT]) / span if span > 1e-9 and np.isfinite(c.score) else None

    return [replace(c, regret=regret(c, REFERENCE), regret_own=regret(c, contenders.OWN)) for c in found]


def evaluate(
    traces: Sequence[Trace],
    policies: Sequence[str],
    *,
    seeds: Sequence[int],
    duration: float,
    settings: Settings,
    config: world.WorldConfig | None = None,
    scale_to: float = 25.0,
    rules: Sequence[str] = contenders.NAMES,
    others: Sequence[Entrant] = (),
    jobs: int = 1,
    progress: Progress | None = None,
) -> list[Scored]:
    """Score policies and rules on recorded load.

    traces: with distinct names. policies: names or paths. others: who takes part besides, each with a name of its own.
    seeds: of the noise, the same for every contender. duration: seconds of each trace at most.
    settings: of the workload, usually `contenders.standard_settings()`.
    config: the world (None: the standard one for these settings).
    jobs: groups of traces that are scored at once, each in a process of its own.
    """
    order = sorted(range(len(traces)), key=lambda i: min(traces[i].duration, duration))
    per_trace = len(seeds) * (len(rules) + len(policies) + len(others) + 5)
    group = max(1, min(ROWS // per_trace, -(-len(order) // jobs)))
    parts = [order[begin : begin + group] for begin in range(0, len(order), group)]
    config = standard_world(settings) if config is None else config
    work = [([traces[i] for i in part], policies, seeds, duration, settings, config, scale_to, rules, others)
            for part in parts]  # fmt: skip
    if jobs > 1 and len(parts) > 1:
        found: list[list[Scored]] = [[] for _ in parts]
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            waiting = {pool.submit(_scored, *arguments): index for index, arguments in enumerate(work)}
            for done, future in enumerate(as_completed(waiting)):
                found[waiting[future]] = future.result()
                if progress is not None:
                    progress("scoring groups of traces", done + 1, len(parts))
    else:
        found = [_scored(*arguments, progress=progress) for arguments in work]
    by_place = {
        place: result
        for part, results in zip(parts, found, strict=True)
        for place, result in zip(part, results, strict=True)
    }
    return [by_place[i] for i in range(len(traces))]


def _scored(
    traces: Sequence[Trace],
    policies: Sequence[str],
    seeds: Sequence[int],
    duration: float,
    settings: Settings,
    config: world.WorldConfig,
    scale_to: float,
    rules: Sequence[str],
    others: Sequence[Entrant],
    progress: Progress | None = None,
) -> list[Scored]:
    """Score one group of traces in one batch."""
    loads = realise_many(
        traces, seeds, interval=float(settings.interval), duration=duration, scale_to=scale_to,
        capacity=float(settings.capacity_per_replica),
    )  # fmt: skip
    return _score(loads, traces, policies, config, settings, rules, others, progress)


def _score(
    loads: Loads,
    traces: Sequence[Trace],
    policies: Sequence[str],
    config: world.WorldConfig,
    settings: Settings,
    rules: Sequence[str],
    others: Sequence[Entrant],
    progress: Progress | None,
) -> list[Scored]:
    rows = [loads.row(r) for r in range(len(loads.names))]
    row_seeds = [int(s) for s in loads.seeds]
    families = [family(name) for name in loads.names]
    entrants = []
    for name in rules:
        if name == contenders.OWN:
            for own, best in own_constants(loads, config, settings, progress).items():
                constants = {key: np.array([best[s][key] for s in loads.source]) for key in best[0]}
                entrants.append(contenders.entrant(own, settings, constants))
        elif name != CLAIRVOYANT:
            entrants.append(contenders.folded(name, settings, families))
    for policy in dict.fromkeys(policies):
        candidate = contenders.tested(policy, settings, families)
        if candidate.name not in {e.name for e in entrants}:
            entrants.append(candidate)
        elif not contenders.is_rule(policy) and policy not in contenders.NAMES:
            entrants.append(replace(candidate, name=policy))
    entrants += others
    names = [e.name for e in entrants]
    bound = np.full(len(rows), np.nan)
    if CLAIRVOYANT in rules:
        if progress is not None:
            progress("planning the clairvoyant", 0, 1)
        plan = clairvoyant_plan(rows, row_seeds, config, settings)
        bound = plan.lower_bound
        entrants.append(limit(plan, settings))
        names.append(CLAIRVOYANT)
    sums = play(rows, entrants, config, settings, row_seeds, progress=telling(progress, "running"))
    bound = np.where(sums.needed[0] > 0.0, bound, np.nan)
    out = []
    waits = sums.wait_quantile()
    for source, trace in enumerate(traces):
        columns = np.flatnonzero(loads.source == source)
        found = with_regrets([figures(name, sums, waits, i, columns) for i, name in enumerate(names)])
        least = next((c.violation_share for c in found if c.name == CLAIRVOYANT), 0.0)
        headline = events_per_bucket(trace) >= HEADLINE_EVENTS and least < HEADLINE_LATE
        out.append(Scored(trace.name, family(trace.name), headline, found, float(bound[columns].mean()), len(columns)))
    return out


def regrets_to(scored: Sequence[Scored], reference: str) -> dict[str, np.ndarray]:
    """Return the regret of each contender over the headline traces, (H,): 0 the clairvoyant, 1 the reference.

    Traces on which the reference is no worse than the clairvoyant are left out; {} where either is missing.
    """
    spans = [(s, s.of(CLAIRVOYANT).score, s.of(reference).score) for s in scored
             if s.headline and {CLAIRVOYANT, reference} <= {c.name for c in s.contenders}]  # fmt: skip
    spans = [(s, least, most) for s, least, most in spans if most - least > 1e-9]
    names = [c.name for c in spans[0][0].contenders] if spans else []
    return {name: np.array([(s.of(name).score - least) / (most - least) for s, least, most in spans]) for name in names}


def figures(name: str, sums: Totals, waits: np.ndarray, index: int, columns: np.ndarray) -> Contender:
    """Return a contender's figures as means over the columns (the seeds of one trace); of requests, NaN without any."""
    come = bool(sums.arrivals[index, columns].any())
    return Contender(
        name=name,
        cost_ratio=float(sums.cost_ratio[index, columns].mean()),
        violation_share=float(sums.violation_share[index, columns].mean()) if come else np.nan,
        score=float(sums.score[index, columns].mean()),
        regret=None,
        replica_hours=float(sums.billed[index, columns].mean() / 3600.0),
        rescales=round(float(sums.rescales[index, columns].mean())),
        wait_p95_s=float(waits[index, columns].mean()) if come else np.nan,
        max_replicas=int(sums.largest[index, columns].max()),
    )


def beating(found: Sequence[Contender]) -> int | None:
    """Return the index of the best contender if it scores better than the clairvoyant, the last one; else None."""
    scores = [c.score if np.isfinite(c.score) else np.inf for c in found]
    best = int(np.argmin(scores))
    return best if scores[best] < scores[-1] else None


def summary(scored: Sequence[Scored], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Return, for each contender, its regrets over the headline traces, with intervals over source families."""
    headline = [s for s in scored if s.headline]
    names = list(dict.fromkeys(c.name for s in scored for c in s.contenders))
    out: dict[str, dict[str, Any]] = {}
    for name in names:
        entry: dict[str, Any] = {"traces": 0}
        for key, field in (("regret", "regret"), ("regret_own", "regret_own")):
            pairs = [(getattr(c, field), s.family) for s in headline for c in s.contenders
                     if c.name == name and getattr(c, field) is not None]  # fmt: skip
            values = np.array([v for v, _ in pairs], np.float64)
            if len(values) == 0:
                entry |= {f"{how}_{key}": None for how in ("median", "mean", "worst", "iqm")}
                continue
            low, high = interval(values, [f for _, f in pairs], iqm, np.random.default_rng(seed))
            entry |= {
                "traces": len(values),
                f"median_{key}": float(np.median(values)),
                f"mean_{key}": float(values.mean()),
                f"worst_{key}": float(values.max()),
                f"iqm_{key}": iqm(values),
                f"iqm_{key}_interval": [low, high],
            }
        own = [c.regret_own for s in headline for c in s.contenders if c.name == name and c.regret_own is not None]
        entry["traces_worse_than_hpa_own"] = int(sum(value > 1.0 + 1e-9 for value in own))
        out[name] = entry
    return out
