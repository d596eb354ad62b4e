"""What the runs of the benchmark say: statistics as plain values, and the page that is made of them.

    python -m rlscaler_training.benchmark_report docs/benchmark.json docs/benchmark.md

makes the page anew from stored results.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np

from rlscaler.errors import UserError
from rlscaler.files import write_text_atomically
from rlscaler_training import benchmark_legacy as legacy
from rlscaler_training.benchmark_learners import BUDGETS
from rlscaler_training.benchmark_runs import LIMIT, SETTINGS, Plan, Row, machine, reference, seeds_of
from rlscaler_training.benchmark_statistics import (
    FAILS,
    HOLDS,
    LEAST_RUNS,
    OPEN,
    Estimate,
    improvement,
    interquartile_mean,
    verdict,
)

CLAIM = ("ppo", "dqn", "q-learning", "threshold", "random")
"""The order that is put to the test, best first."""
CORRECTED = "growth-quantile"
"""The rule that learned policies correct."""
LEAST_SPAN = 0.02
"""Least excess of the reference over the clairvoyant; tasks with less are left out, as nothing can be won there."""
TOO_LATE = 0.05
"""Tasks on which even the clairvoyant is late for more of the requests are left out, as in `evaluation`."""
MOSTLY = 0.5
"""Share of decisions outside of the training range above which that is said in words."""
Values = dict[str, dict[str, np.ndarray]]
"""Contender -> task -> regrets (runs,)."""


def summary(plan: Plan, found: Sequence[Row], command: str) -> dict[str, Any]:
    """Return everything that the page says, as plain values."""
    return {
        "command": command,
        "budget": plan.budget,
        "seeds": {name: seeds_of(name, plan.seeds) for name in (*BUDGETS, "rules")},
        "hours": plan.hours,
        "machine": machine(),
        "settings": {name: _setting(name, [row for row in found if row["setting"] == name])
                     for name in plan.settings if any(row["setting"] == name for row in found)},
        "left_out": [name for name in SETTINGS if name not in plan.settings],
    }  # fmt: skip


# --- statistics


def regrets(setting: str, found: Sequence[Row]) -> tuple[Values, list[str]]:
    """Return the regrets of every contender by task, and the tasks that were left out.

    Regret of a run is its excess over the clairvoyant on the same draw, in units of the mean excess of the reference on
    that task over all seeds.
    """
    by = {(row["contender"], row["seed"]): row for row in found if not row.get("failed")}
    names = list(dict.fromkeys(row["contender"] for row in found))
    tasks = list(dict.fromkeys(task for row in by.values() for task in row["score"]))

    def score(name: str, seed: int, task: str, what: str = "score") -> float:
        value = by[name, seed][what].get(task) if (name, seed) in by else None
        return math.nan if value is None else float(value)

    seeds = sorted({seed for _, seed in by})
    spans, left_out = {}, []
    for task in tasks:
        limits, others = (np.array([score(name, seed, task) for seed in seeds]) for name in (LIMIT, reference(setting)))
        late = np.array([score(LIMIT, seed, task, "late") for seed in seeds])
        known = np.isfinite(limits) & np.isfinite(others)
        span = float((others - limits)[known].mean()) if known.any() else 0.0
        if span < LEAST_SPAN or (setting != "legacy" and not np.nanmean(late[known]) < TOO_LATE):
            left_out.append(task)
            continue
        spans[task] = span
    values: Values = {}
    for name in names:
        each = {
            task: np.array([(score(name, seed, task) - score(LIMIT, seed, task)) / span for seed in seeds])
            for task, span in spans.items()
        }
        values[name] = {task: regret[np.isfinite(regret)] for task, regret in each.items()}
    return values, left_out


def _setting(setting: str, found: Sequence[Row]) -> dict[str, Any]:
    values, left_out = regrets(setting, found)
    tasks = list(next(iter(values.values())))
    table = {name: _contender(setting, name, [row for row in found if row["contender"] == name], values)
             for name in values}  # fmt: skip
    played = [name for name in values if table[name]["regret"] is not None]
    learners = [name for name in played if table[name]["kind"] == "learner"]
    rules = [name for name in played if table[name]["kind"] == "rule" and name != LIMIT]
    links = [_link(better, worse, values) for better, worse in pairwise(CLAIM)]
    told: dict[str, Any] = {
        "tasks": tasks, "left_out": left_out, "reference": reference(setting), "contenders": table, "links": links,
        "claim": _claim([link["verdict"] for link in links]),
    }  # fmt: skip
    if learners and rules:
        first = {kind: min(names, key=lambda name: table[name]["regret"]["value"])
                 for kind, names in (("learner", learners), ("rule", rules))}  # fmt: skip
        told["best"] = first | _link(first["learner"], first["rule"], values)
    return told


def _contender(setting: str, name: str, mine: Sequence[Row], values: Values) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    runs = list(values[name].values())
    trained = [row for row in mine if row.get("steps") is not None]
    constant = [str(row["constant"]) for row in mine if row.get("constant")]
    told: dict[str, Any] = {
        "kind": mine[0]["kind"],
        "runs": len(mine),
        "failed": [row["failed"] for row in mine if row.get("failed")],
        "constant": {what: constant.count(what) for what in sorted(set(constant))},
        "regret": None if not sum(map(len, runs)) else _plain(interquartile_mean(runs, rng), min(map(len, runs))),
    }
    for what in ("score", "cost", "late"):
        held = [value for row in mine for task, value in row.get(what, {}).items()
                if value is not None and task in values[name]]  # fmt: skip
        told[what] = float(np.mean(held)) if held else None
    for other in (reference(setting), _second(values)):
        if other in values and other != name and told["regret"] is not None:
            told[f"better_than_{other}"] = _link(name, other, values)["chance"]
    outside = [row["outside"] for row in mine if row.get("outside") is not None]
    told["outside"] = float(np.mean(outside)) if outside else None
    if trained:
        for key in ("steps", "seconds", "cpu_seconds"):
            told[key] = float(np.median([row[key] for row in trained]))
        told["steps_per_s"] = float(np.median([row["steps"] / max(row["seconds"], 1e-9) for row in trained]))
        told["steps_per_cpu_s"] = float(np.median([row["steps"] / max(row["cpu_seconds"], 1e-9) for row in trained]))
    return told


def _second(names: Collection[str]) -> str:
    """Return the rule that contenders are compared with beside the reference."""
    return CORRECTED if CORRECTED in names else legacy.TUNED


def _link(better: str, worse: str, values: Values) -> dict[str, Any]:
    """Return whether one contender is better than another, with the probability that it is."""
    told: dict[str, Any] = {"better": better, "worse": worse, "chance": None, "verdict": OPEN}
    if better in values and worse in values:
        both = [(values[better][task], values[worse][task]) for task in values[better]]
        both = [(ours, theirs) for ours, theirs in both if len(ours) and len(theirs)]
        if both:
            first, second = ([pair[side] for pair in both] for side in (0, 1))
            chance = improvement(first, second, np.random.default_rng(0))
            fewest = min(min(len(ours), len(theirs)) for ours, theirs in both)
            told |= {"chance": _plain(chance, fewest), "verdict": verdict(chance, fewest)}
    return told


def _claim(verdicts: Sequence[str]) -> str:
    """Return whether a chain holds: it does where every link does, and does not where one does not."""
    return FAILS if FAILS in verdicts else HOLDS if set(verdicts) == {HOLDS} else OPEN


def _plain(estimate: Estimate, runs: int) -> dict[str, float]:
    """Return an estimate as plain values. runs: the fewest of a task."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "runs": runs}


# --- the page


def markdown(told: Mapping[str, Any]) -> str:
    """Return the page of what `summary` returned."""
    lines = [
        "# Benchmark: what learning is worth",
        "",
        f"Made by `{told['command']}`; the page alone, from the stored results, by `make docs`.",
        "",
        *_budgets(told),
    ]
    for name, setting in told["settings"].items():
        lines += ["", f"## {name}: {SETTINGS.get(name, name)}", "", *_words(setting), "", *_table(setting)]
        if name == "legacy":
            lines += ["", *_published(setting)]
    if told["left_out"]:
        lines += ["", f"Not run: {', '.join(told['left_out'])}."]
    return "\n".join([*lines, "", *METHOD, ""])


METHOD = (
    "## How to read it",
    "",
    "Score J = cost (billed over needed pod-seconds) + 20 x share of late requests; lower is better. Regret is the"
    " excess of J over the clairvoyant on the same draw, over the mean excess of the reference on that task: 0 is the"
    " clairvoyant, 1 the reference. All contenders of a seed meet the same draws; what is scored on was never trained"
    " or validated on (but for legacy, which has one trace). IQM: interquartile mean over all runs and tasks, with a"
    " 95 % interval by stratified bootstrap; P(better): the probability that a run is better than one of the other on"
    " the same task, averaged over tasks, with its interval (Agarwal et al., NeurIPS 2021, arXiv 2108.13264). The"
    " intervals are about other seeds, not about other tasks. A link of the chain holds where the whole interval of"
    " P(better) is above one half, does not hold where it is below, and cannot be told otherwise; of under three runs"
    " nothing is told and no interval is shown.",
    "",
    "Outside: share of a learned policy's decisions on what lies outside of its training range, where the guard follows"
    " the rule instead. s: seconds of the wall, medians over runs; where they are well above those of the processor,"
    " others wanted the machine. The rules' constants were tuned once, on recorded load, with a trace's own source"
    " family held out (`rlscaler tune`); learners have the defaults of `rlscaler train`, for a shorter time, and were"
    " not tuned for these settings.",
)
MEANING = {
    "clairvoyant": "knows the load", "growth-quantile": "rule that learned policies correct", "churn": "always changes",
    "threshold": "two thresholds", "constant": "never changes", legacy.TUNED: "tuned on the very trace",
}  # fmt: skip


def _budgets(told: Mapping[str, Any]) -> list[str]:
    where = told["machine"]
    seeds = ", ".join(f"{name} {count}" for name, count in told["seeds"].items())
    hours = ", ".join(f"{name} {hours:g} h" for name, hours in told["hours"].items() if name in told["settings"])
    return [
        f"Every training run had {told['budget']:g} s on one thread, turned into steps beforehand by the pace of each"
        f" learner (`BUDGETS` in `benchmark_learners.py`); seeds: {seeds}. Load of each source:"
        f" {hours or 'as published'}."
        f" {where['processors']} processors ({where['architecture']}), Python {where['python']}, torch"
        f" {where['versions']['torch']}."
    ]


def _words(setting: Mapping[str, Any]) -> list[str]:
    """Return what the figures say, in sentences."""
    claim = " > ".join(CLAIM)
    lines = [f"**{claim}: {_said(setting['claim'])}.**", ""]
    for link in setting["links"]:
        lines.append(f"- {link['better']} > {link['worse']}: {_said(link['verdict'])}{_chance(link)}")
    best = setting.get("best")
    if best:
        table = setting["contenders"]
        ours, theirs = (table[best[kind]]["regret"]["value"] for kind in ("learner", "rule"))
        if theirs < ours:
            sure = "" if best["verdict"] == FAILS else ", though not beyond chance"
            lines += ["", f"**A rule beats every learner here: {best['rule']}**, with an IQM regret of {theirs:z.2f};"
                      f" the best learner, {best['learner']}, has {ours:z.2f}{sure}; P(learner"
                      f" better){_bare(best['chance'])}."]  # fmt: skip
        else:
            lines += ["", f"The best learner, {best['learner']}, with an IQM regret of {ours:z.2f}, is ahead of the"
                      f" best rule, {best['rule']}, with {theirs:z.2f}; P(better){_bare(best['chance'])},"
                      f" {_sure(best['verdict'])}."]  # fmt: skip
    for contender, row in setting["contenders"].items():
        if row["kind"] == "learner" and row["constant"]:
            what = ", ".join(f"{text} ({count})" for text, count in row["constant"].items())
            lines += ["", f"**{contender} is a constant** in {sum(row['constant'].values())} of {row['runs']} runs:"
                      f" {what}."]  # fmt: skip
        if (row.get("outside") or 0.0) > MOSTLY:
            lines += ["", f"**{contender} hardly decided itself**: {row['outside']:.0%} of what it met lay outside of"
                      " its training range, where the guard follows the rule instead."]  # fmt: skip
        if row["failed"]:
            lines += ["", f"{contender} failed in {len(row['failed'])} of {row['runs']} runs: {row['failed'][0]}"]
    if setting["left_out"]:
        lines += [
            "",
            "Left out, as even the clairvoyant is late there, or the reference as good as it:"
            f" {', '.join(setting['left_out'])}.",
        ]
    return lines


def _said(verdict_: str) -> str:
    return {HOLDS: "holds", FAILS: "does not hold", OPEN: "cannot be told"}[verdict_]


def _sure(verdict_: str) -> str:
    return "beyond chance" if verdict_ in (HOLDS, FAILS) else "not beyond chance"


def _bare(chance: Mapping[str, float] | None) -> str:
    return " unknown" if chance is None else f" {_interval(chance)}"


def _interval(found: Mapping[str, float]) -> str:
    """Return a value with its interval, if there are runs enough for one."""
    between = f" [{found['low']:z.2f}, {found['high']:z.2f}]" if found["runs"] >= LEAST_RUNS else ""
    return f"{found['value']:z.2f}{between}"


def _chance(link: Mapping[str, Any]) -> str:
    return " (one of them was not run)" if link["chance"] is None else f"; P(better){_bare(link['chance'])}"


def _table(setting: Mapping[str, Any]) -> list[str]:
    other, second = setting["reference"], _second(setting["contenders"])
    tasks = setting["tasks"]
    lines = [
        f"{len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}: {', '.join(tasks)}. Regret 1 is {other}.", "",
        f"| contender | runs | regret IQM [95 %] | J | cost | late | P(better than {other})"
        f" | P(better than {second}) | outside | env steps | s | processor s | env steps/s | /processor s |",
        "|---|" + "---:|" * 13,
    ]  # fmt: skip
    known = {key: row for key, row in setting["contenders"].items() if row["regret"] is not None}
    for contender in sorted(known, key=lambda key: known[key]["regret"]["value"]):
        row = known[contender]
        label = contender if row["kind"] == "learner" else f"*{contender}*"
        if contender in MEANING:
            label += f" ({MEANING[contender]})"
        cells = [
            label, str(row["runs"]), _interval(row["regret"]),
            _number(row["score"], "z.3f"), _number(row["cost"], "z.3f"),
            "-" if row["late"] is None else f"{100 * row['late']:z.2f} %",
            *(_bare(row[key]).strip() if row.get(key) else "-"
              for key in (f"better_than_{other}", f"better_than_{second}")),
            "-" if row.get("outside") is None else f"{row['outside']:.0%}",
            _number(row.get("steps"), ",.0f"), _number(row.get("seconds"), ",.0f"),
            _number(row.get("cpu_seconds"), ",.0f"), _number(row.get("steps_per_s"), ",.0f"),
            _number(row.get("steps_per_cpu_s"), ",.0f"),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", "Names in italics learn nothing."]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _published(setting: Mapping[str, Any]) -> list[str]:
    """Return the returns beside those that earlier work published."""
    table = setting["contenders"]
    lines = ["Returns (J is the return with its sign turned) beside those that earlier work published:", "",
             "| contender | here, mean | published | what it is |", "|---|---:|---:|---|"]  # fmt: skip
    said = {"dqn": "the published one is the constant always add", "threshold": "80 % and 40 %, there called HPA-like",
            LIMIT: "exact optimum", legacy.TUNED: "98 % and 91 %, the best pair on this trace",
            "constant": "does nothing", "churn": "removes and adds in turn"}  # fmt: skip
    for name in sorted(table, key=lambda key: table[key]["score"] if table[key]["score"] is not None else math.inf):
        row = table[name]
        words = [said[name]] if name in said else []
        if row["kind"] == "learner" and row["constant"]:
            words.append("here constant: " + ", ".join(f"{text} ({n})" for text, n in row["constant"].items()))
        mine = "-" if row["score"] is None else f"{-row['score']:z.2f}"
        theirs = f"{legacy.PUBLISHED[name]:.2f}" if name in legacy.PUBLISHED else "-"
        lines.append(f"| {name} | {mine} | {theirs} | {'; '.join(words)} |")
    return lines


def spoken(told: Mapping[str, Any]) -> list[str]:
    """Return what is said in the terminal: the sentences, and the regrets."""
    lines = []
    for name, setting in told["settings"].items():
        lines += [f"{name}: {SETTINGS.get(name, name)}"]
        lines += [f"  {line.replace('**', '')}" for line in _words(setting) if line]
        known = {key: row for key, row in setting["contenders"].items() if row["regret"] is not None}
        lines.append(f"  {'contender':<16} runs  regret IQM [95 %]      J        s   env steps/s")
        for contender in sorted(known, key=lambda key: known[key]["regret"]["value"]):
            row = known[contender]
            regret = _interval(row["regret"])
            spent = f"{_number(row.get('seconds'), ',.0f'):>8} {_number(row.get('steps_per_s'), ',.0f'):>13}"
            lines.append(f"  {contender:<16} {row['runs']:>4}  {regret:<20} {_number(row['score'], 'z6.2f')} {spent}")
        lines.append("")
    return lines


@click.command()
@click.argument("results", type=click.Path())
@click.argument("page", type=click.Path())
def main(results: str, page: str) -> None:
    """Make the page anew from stored results."""
    try:
        told = json.loads(Path(results).read_text(encoding="utf-8"))
        write_text_atomically(page, markdown(told))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{results}: no results of 'rlscaler benchmark' ({error}); make them by it") from error


if __name__ == "__main__":
    main()
