"""One tuner for every rule: the same search, on training load only, and in one run the same budget.

Half of the candidates are drawn over the rule's whole ranges, half around the best of the first half. A candidate's
cost on a trace is its excess J over the best candidate of any rule there, in units of the excess of the default HPA,
so that no trace outweighs the others. Folds need no further runs: the costs are kept by trace, and each fold picks
the candidate that is best on the traces outside of it.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any
from zlib import crc32

import numpy as np

from rlscaler import tuned
from rlscaler.policies import RULES
from rlscaler.quantities import whole_text
from rlscaler.rules.parameters import Parameter
from rlscaler_sim import contenders
from rlscaler_sim.contest import play
from rlscaler_sim.evaluation import standard_world
from rlscaler_sim.load import Load, LoadError, generator, realise
from rlscaler_sim.result import REFERENCE
from rlscaler_sim.trace import Trace, events_per_bucket, family

FOLDS = 3
SPREAD = 0.15
"""Standard deviation of the second half of the candidates, as a share of each range."""
SEED = 1000
"""Seed of the noise; evaluations draw from smaller ones."""
BATCH = 3000
"""Rows (candidates x loads) that run at once."""
Progress = Callable[[str, int, int], None]


def folds_of(families: Sequence[str]) -> list[list[str]]:
    """Return the source families in FOLDS groups, as even as their names in order allow."""
    names = sorted(set(families))
    return [names[i::FOLDS] for i in range(FOLDS)]


def search_space(rule: str) -> dict[str, Parameter]:
    """Return what is tuned of a rule; the HPA's window and tolerance are searched too."""
    if rule.startswith("hpa"):
        return contenders.HPA_PARAMETERS
    return RULES[rule].PARAMETERS


def candidates(
    space: dict[str, Parameter], count: int, rng: np.random.Generator, around: dict[str, float] | None = None
) -> dict[str, np.ndarray]:
    """Return `count` values of each parameter: over the whole ranges, or around given values; the first is those (or
    the defaults) themselves."""
    out: dict[str, np.ndarray] = {}
    for name, p in space.items():
        low, high = (np.log(p.low), np.log(p.high)) if p.log else (p.low, p.high)
        centre = p.default if around is None else around[name]
        centre = np.log(centre) if p.log else centre
        if around is None:
            strata = (rng.permutation(count) + rng.random(count)) / count
            values = low + strata * (high - low)
        else:
            values = np.clip(centre + SPREAD * (high - low) * rng.standard_normal(count), low, high)
        values[0] = centre
        out[name] = np.exp(values) if p.log else values
    if "window" in out and "tolerance" in out:
        for name, allowed in (("window", contenders.WINDOWS), ("tolerance", contenders.TOLERANCES)):
            grid = np.array(allowed)
            out[name] = grid[np.abs(out[name][:, None] - grid[None, :]).argmin(axis=1)]
    return out


def costs(
    rule: str, tried: dict[str, np.ndarray], loads: Sequence[Load], progress: Callable[[int, int], None] | None
) -> np.ndarray:
    """Return J of each candidate on each load, (candidates, loads)."""
    settings = contenders.standard_settings()
    config = standard_world(settings)
    rows, seeds = list(loads), [SEED] * len(loads)
    count = len(next(iter(tried.values())))
    at_once = max(1, BATCH // len(rows))
    found = np.zeros((count, len(rows)))
    for begin in range(0, count, at_once):
        part = {name: np.repeat(values[begin : begin + at_once], len(rows)) for name, values in tried.items()}
        copies = min(at_once, count - begin)
        entrant = contenders.entrant(rule, settings, part, copies)
        found[begin : begin + copies] = play(
            rows, [entrant], config, settings, seeds, waits=False, progress=progress
        ).score
    return found


@dataclass(frozen=True, slots=True)
class Search:
    """What was tried of a rule.

    tried: name -> (candidates,) values. score: (candidates, loads) J. made_for: (candidates,) index of the selection of
    training loads that a candidate was made for, -1 for all of them.
    """

    tried: dict[str, np.ndarray]
    score: np.ndarray
    made_for: np.ndarray


def searched(
    rule: str,
    loads: Sequence[Load],
    selections: np.ndarray,
    budget: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Search:
    """Search a rule's constants for each selection of training loads, (selections, loads) bool.

    Half of the budget is drawn over the whole ranges, for all selections; the rest around the best of those on each
    selection's own loads, for that selection alone, so that what a fold holds out decides nothing about its candidates.
    """
    rng = np.random.default_rng([seed, crc32(rule.encode())])
    space = search_space(rule)
    first = candidates(space, budget // 2, rng)
    score = costs(rule, first, loads, progress)
    each = max(1, (budget - budget // 2) // len(selections))
    parts, made_for = [first], [np.full(budget // 2, -1)]
    for index, mask in enumerate(selections):
        middle = int(np.median((score / score[:1])[:, mask], axis=1).argmin())
        parts.append(candidates(space, each, rng, {k: float(v[middle]) for k, v in first.items()}))
        made_for.append(np.full(each, index))
    later = {k: np.concatenate([part[k] for part in parts[1:]]) for k in first}
    score = np.concatenate([score, costs(rule, later, loads, progress)])
    tried = {k: np.concatenate([first[k], later[k]]) for k in first}
    return Search(tried, score, np.concatenate(made_for))


def tune(
    traces: Sequence[Trace],
    *,
    budget: int,
    duration: float,
    seed: int,
    date: str = "",
    only: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the constants tuned on all traces and on each fold's training load, with their provenance.

    The last `duration` seconds of each trace are used; traces with under one event a bucket take no part.
    only: rules of `tunable` that are tuned; the package's constants of the others are kept, and set the measure.
    jobs: rules that are searched at once, each in a process of its own.
    Raises LoadError where there are fewer source families than folds, a trace has no load in that time, or the folds
    are not those of the constants that are kept.
    """
    used = [t for t in traces if events_per_bucket(t) >= 1.0]
    families = [family(t.name) for t in used]
    if len(set(families)) < FOLDS:
        raise LoadError(
            f"{len(set(families))} source families have an event a bucket or more; expected {FOLDS} at least, "
            "since each fold holds some out"
        )
    loads = [
        realise(t, duration=duration, start=max(0.0, t.duration - duration), rng=generator(t.name, SEED)) for t in used
    ]
    if idle := [load.name for load in loads if not load.rates[load.scored].any()]:
        raise LoadError(
            f"{idle[0]}: no load within the last {duration:g} s; expected some, so leave it out or run longer"
        )
    rules = [rule for rule in tunable() if not only or rule in only]
    held_out = folds_of(families)
    kept = tuned.table() if only else None
    if kept is not None and [fold["held_out"] for fold in kept["folds"]] != held_out:
        raise LoadError("these are other source families than those that the constants of the other rules are tuned on")
    selections = np.array([[True] * len(used), *([f not in out for f in families] for out in held_out)])
    found = _searches(rules, loads, selections, budget, seed, jobs, progress)
    scores = [search.score for search in found.values()]
    default = found[REFERENCE].score[0] if REFERENCE in found else _score(REFERENCE, {}, loads)
    if kept is not None:
        scores += [_score(rule, own, loads)[None] for rule, own in kept["constants"].items() if rule not in found]
    best = np.min([score.min(axis=0) for score in scores], axis=0)
    span = np.maximum(default - best, 0.02)

    constants, *folded = (_picked(found, best, span, index, mask) for index, mask in enumerate(selections))
    folds = [{"held_out": out, "constants": each} for out, each in zip(held_out, folded, strict=True)]
    command = (
        f"rlscaler tune --traces FOLDER --output core/rlscaler/data/tuned.json --budget {budget}"
        f" --for {whole_text(duration, 'd')} --seed {seed}"
    )
    if kept is not None:
        command += "".join(f" --rule {rule}" for rule in rules)
        own = {rule: {"command": command, "by": "the same search", "date": date} for rule in rules}
        return {
            "provenance": kept["provenance"] | own,
            "constants": kept["constants"] | constants,
            "folds": [
                old | {"constants": old["constants"] | new["constants"]}
                for old, new in zip(kept["folds"], folds, strict=True)
            ],
        }
    return {
        "provenance": {
            "command": command,
            "budget": budget,
            "seconds": duration,
            "seed": seed,
            "date": date,
            "traces": [t.name for t in used],
            "world": "standard: 15 s interval, 60 s start-up, 95th percentile of demand 25 replicas",
        },
        "constants": constants,
        "folds": folds,
    }


def tunable() -> list[str]:
    """Return the rules that have constants to tune."""
    return [REFERENCE, *(rule for rule in RULES if rule not in ("hpa", "random", "tenure") and search_space(rule))]


def _searches(
    rules: Sequence[str],
    loads: Sequence[Load],
    selections: np.ndarray,
    budget: int,
    seed: int,
    jobs: int,
    progress: Progress | None,
) -> dict[str, Search]:
    """Return what `searched` returns of each rule."""
    found: dict[str, Search] = {}
    if jobs > 1:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            waiting = {pool.submit(searched, rule, loads, selections, budget, seed): rule for rule in rules}
            for done, future in enumerate(as_completed(waiting)):
                found[waiting[future]] = future.result()
                if progress is not None:
                    progress(f"tuned {waiting[future]}", done + 1, len(rules))
        return {rule: found[rule] for rule in rules}
    for rule in rules:

        def told(done: int, total: int, rule: str = rule) -> None:
            if progress is not None:
                progress(f"tuning {rule}", done, total)

        found[rule] = searched(rule, loads, selections, budget, seed, told)
    return found


def _picked(
    found: Mapping[str, Search], best: np.ndarray, span: np.ndarray, index: int, mask: np.ndarray
) -> dict[str, dict[str, float]]:
    """Return the constants of each rule that are best on a selection of the loads, by its index and mask (loads,).

    best: (loads,) the least J that is known. span: (loads,) J that counts as one.
    """
    chosen = {}
    for rule, search in found.items():
        excess = ((search.score - best) / span)[:, mask].mean(axis=1)
        place = int(np.where((search.made_for == -1) | (search.made_for == index), excess, np.inf).argmin())
        chosen[rule] = {k: float(f"{v[place]:.4g}") for k, v in search.tried.items()}
    return chosen


def _score(rule: str, constants: Mapping[str, float], loads: Sequence[Load]) -> np.ndarray:
    """Return J of one set of constants on each load, (loads,); the defaults stand for what is left out."""
    whole = {name: parameter.default for name, parameter in search_space(rule).items()} | dict(constants)
    return costs(rule, {name: np.array([value]) for name, value in whole.items()}, loads, None).reshape(-1)
