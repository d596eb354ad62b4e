"""Pods against late requests on recorded load, with everybody's knob turned: who needs fewer pods to be as seldom late.

    python -m rlscaler_sim.frontier --traces FOLDER --results docs/results.json --output docs/frontier.json

A score weighs the one against the other once, so it also tells who happened to stand at the right place. Here
`objective.target` of `default` is turned, and the target of rules that have one; each trace then has a front for each
of them, the fewest pods by the share of late requests. An HPA's target, or its window and tolerance as well, are so
chosen in hindsight on the trace itself, while the weights of `default` are of other sources than the trace. On the
first days and draws of an evaluation. `frontier_page` makes a page and a picture of what it writes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlscaler import Settings
from rlscaler.errors import UserError
from rlscaler.files import write_text_atomically
from rlscaler_sim import contenders
from rlscaler_sim.again import Evaluation, told_beside
from rlscaler_sim.contest import Entrant
from rlscaler_sim.load import Load
from rlscaler_sim.markdown import figures_table
from rlscaler_sim.trace import family

SECONDS, SEEDS = 2 * 86_400.0, 2
"""Seconds of each trace, and draws, at most."""
OBJECTIVES = (98.0, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99, 99.999)
"""Percent of `objective.target`, for `default`; the usual one is among them."""
USUAL = 99.9
TARGETS = tuple(round(float(target), 2) for target in np.arange(0.3, 0.951, 0.05))
"""Shares of a replica's capacity that rules aim at."""
DEFAULT, HPA, ANY = "`default`", "`hpa`", "`hpa`, any window and tolerance"
RULES = {"`keda`": "keda", "`kpa`": "kpa", "`phpa`": "phpa"}
"""Rules with a target beside HPA; their other constants are those tuned without the trace's source."""
LATE = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)
"""Shares of late requests at which fronts are told."""


@dataclass(frozen=True, slots=True)
class Fronts:
    """traces: their names. front: by name, of each trace the settings that are worth having, (points, 2) late share and
    pods over those that were needed, the least late first. usual: the same of `default` at 99.9 %, (traces, 2)."""

    traces: Sequence[str]
    front: Mapping[str, Sequence[np.ndarray]]
    usual: np.ndarray


def worth_having(points: np.ndarray) -> np.ndarray:
    """Return the lower convex hull of (late share, pods), as far as it falls, the least late first; (points, 2).

    Between two settings lies what one gets by changing from one to the other now and then.
    """
    out: list[np.ndarray] = []
    for point in points[np.lexsort((points[:, 1], points[:, 0]))]:
        if out and point[1] >= out[-1][1]:
            continue
        while len(out) > 1 and _turns_up(out[-2], out[-1], point):
            out.pop()
        out.append(point)
    return np.array(out)


def _turns_up(first: np.ndarray, middle: np.ndarray, last: np.ndarray) -> bool:
    (dx, dy), (ex, ey) = middle - first, last - first
    return bool(dx * ey <= dy * ex)


def pods(front: np.ndarray, late: float) -> float:
    """Return the fewest pods at a share of late requests, NaN where none of the settings is so seldom late."""
    if late < front[0, 0]:
        return float("nan")
    return float(np.interp(late, front[:, 0], front[:, 1]))


def fronts(draws: Evaluation) -> Fronts:
    """Return the front of everyone on each trace, over the first days and draws of an evaluation."""
    draws = replace(draws, seconds=min(draws.seconds, SECONDS), seeds=min(draws.seeds, SEEDS))
    found: dict[str, list[list[list[float]]]] = {}
    usual = np.zeros((len(draws.traces), 2))
    for entrants, sums, places in draws.play(_entrants):
        names = [entrant.name for entrant in entrants for _ in range(entrant.copies)]
        for trace, columns in places:
            late, cost = (each[:, columns].mean(axis=1) for each in (sums.violation_share, sums.cost_ratio))
            for name, *point in zip(names, late, cost, strict=True):
                found.setdefault(name, [[] for _ in draws.traces])[trace].append(point)
            usual[trace] = found[DEFAULT][trace][OBJECTIVES.index(USUAL)]
    front = {name: [worth_having(np.array(points)) for points in each] for name, each in found.items()}
    return Fronts([each["trace"] for each in draws.told], front, usual)


def _entrants(loads: Sequence[Load], settings: Settings) -> list[Entrant]:
    """Return everybody with every setting of the knob."""
    families, copies = [family(load.name) for load in loads], len(TARGETS)
    target = np.repeat(TARGETS, len(loads))
    out = [
        replace(contenders.tested("default", replace(settings, objective=replace(settings.objective, target=each)),
                                  families), name=DEFAULT)
        for each in OBJECTIVES
    ]  # fmt: skip
    out.append(contenders.hpa_entrant(HPA, settings, {"target": target}, copies))
    for window in contenders.WINDOWS:
        for tolerance in contenders.TOLERANCES:
            constants = {"target": target, "window": window, "tolerance": tolerance}
            out.append(contenders.hpa_entrant(ANY, settings, constants, copies))
    for name, rule in RULES.items():
        tuned = contenders.folded(rule, settings, families * copies)
        policy: Any = tuned.policy
        out.append(replace(tuned, name=name, policy=replace(policy, target=target), copies=copies))
    return out


def more_than(others: np.ndarray, mine: np.ndarray) -> np.ndarray:
    """Return by which share others need more pods; NaN where one of them cannot, or where no pod was needed."""
    with np.errstate(invalid="ignore", divide="ignore"):
        more: np.ndarray = others / mine - 1.0
    return np.where(np.isfinite(more), more, np.nan)


def as_late(found: Fronts) -> str:
    """Return a Markdown table: how many more pods each needs to be as seldom late as `default` is at 99.9 %."""
    heads = (f"as seldom late as {DEFAULT} at {USUAL} %", f"can be, of {len(found.usual)}", "more pods, median",
             "half of the traces within", "more pods on")  # fmt: skip
    rows = []
    for name, each in found.front.items():
        if name == DEFAULT:
            continue
        others = np.array([pods(front, late) for front, (late, _) in zip(each, found.usual, strict=True)])
        more = more_than(others, found.usual[:, 1])
        more = more[np.isfinite(more)]
        if not len(more):
            rows.append([name, "0", "-", "-", "0"])
            continue
        low, middle, high = 100.0 * np.percentile(more, (25.0, 50.0, 75.0))
        rows.append([name, f"{len(more)}", f"{middle:+.1f} %", f"{low:+.1f} to {high:+.1f} %", f"{(more > 0.0).sum()}"])
    return figures_table(heads, rows)


def at_shares(found: Fronts) -> str:
    """Return a Markdown table by share of late requests: the median of what each needs more pods than `default`, on so
    many traces where both can be so seldom late, and on how many one can."""
    each = {name: np.array([[pods(one, late) for late in LATE] for one in of]) for name, of in found.front.items()}
    mine = each.pop(DEFAULT)
    can = np.isfinite(mine).sum(axis=0)
    rows = [[f"{DEFAULT} can, of {len(mine)}", *(f"{count}" for count in can)]]
    for name, of in each.items():
        both = np.isfinite(of) & np.isfinite(mine)
        cells = []
        for at in range(len(LATE)):
            more = more_than(of[both[:, at], at], mine[both[:, at], at])
            middle = f"{100.0 * np.median(more):+.1f} % on {len(more)}" if len(more) else "-"
            cells.append(f"{middle}; can {np.isfinite(of[:, at]).sum()}")
        rows.append([name, *cells])
    return figures_table(("late", *(f"{100.0 * late:g} %" for late in LATE)), rows)


def tables(found: Fronts) -> str:
    """Return both tables."""
    return f"{as_late(found)}\n\n{at_shares(found)}"


def write(found: Fronts, path: Path) -> None:
    """Write fronts as JSON, to the seventh place. Raises UserError where that cannot be."""
    front = {name: [np.round(each, 7).tolist() for each in of] for name, of in found.front.items()}
    told = {"traces": list(found.traces), "usual": np.round(found.usual, 7).tolist(), "front": front}
    write_text_atomically(path, json.dumps(told) + "\n")


def read(path: Path) -> Fronts:
    """Return what `write` wrote. Raises UserError where it is no such file."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        front = {name: [np.array(each, np.float64) for each in of] for name, of in told["front"].items()}
        return Fronts(told["traces"], front, np.array(told["usual"], np.float64))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not what `python -m rlscaler_sim.frontier --output` writes: {error!r}") from None


def main() -> None:
    """Play, and print the tables."""
    told_beside("frontier", __doc__ or "", fronts, tables, write)


if __name__ == "__main__":
    main()
