"""What preferences do to a policy, measured: ``preferences.py [--seeds N] [--work FOLDER]``.

Scripted teachers answer 500 pairs, one answer in ten turned round. `bdq` and `apg` are trained from ten seeds each,
with preferences that weigh nothing and with the default weight; everything else is the same. Told are how well held-out
pairs are told, and what became of violations and cost on draws that nothing was chosen by. As more replicas always mean
fewer violations, the two are also compared at equal cost: the policy without preferences has all its headrooms moved by
one constant until it costs as much. What is done is kept in the work folder, so a run that was cut off goes on.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlscaler.artifact import Artifact
from rlscaler.files import write_text_atomically
from rlscaler.policies import from_artifact
from rlscaler_sim.batch import Batch
from rlscaler_training import apg, bdq, loads, preference_pairs, preference_teachers, preferences, runs
from rlscaler_training.benchmark_statistics import Estimate, interquartile_mean
from rlscaler_training.devices import Device
from rlscaler_training.learner import Task
from rlscaler_training.preference_pairs import Answer, Source

ROOT = Path(__file__).resolve().parent.parent
PAIRS, ERROR, SOURCE = 500, 0.1, Source((), 3.0, 0)
LEARNERS: dict[str, tuple[Any, Any, str]] = {
    "apg": (apg, apg.Config(steps=80, batch=12, decisions=40, evaluate_every=80), "headroom"),
    "bdq": (
        bdq,
        bdq.Config(steps=15_360, envs=64, episode=60, warm_up=3_840, evaluate_every=4, evaluation=60),
        "branching",
    ),
}
"""Budgets of seconds, the same with and without preferences."""
WEIGHT = preferences.Settings().preference_weight
DECISIONS, JUDGE_SEED = 120, 31_000
MOVED = (-0.06, 0.0, 0.08, 0.18, 0.3)
"""Constants by which headrooms are moved, in logs."""
MEASURED = ("violations", "cost", "unfairness", "changes")


@dataclass(frozen=True, slots=True)
class Lived:
    """Means over environments: late requests over arrivals, billed over needed, the worst workload's share of
    violations less the mean of all, and decisions that change the replicas."""

    violations: float
    cost: float
    unfairness: float
    changes: float


def lived(judge: Batch, made: Artifact, moved: float = 0.0) -> Lived:
    """Return what a policy comes to on draws that nothing was chosen by, its headrooms moved by a constant."""
    policy = from_artifact(made)
    judge.reset(JUDGE_SEED)
    load, memory = judge.load.copy(), policy.state(judge.n)
    late, cost, changes, before = np.zeros(judge.n), 0.0, 0.0, None
    for _ in range(DECISIONS):
        proposal, memory = policy.propose(judge.view, memory)
        proposal = replace(proposal, replicas=proposal.replicas * np.exp(moved))
        done = judge.advance(judge.scaler.settle(judge.view, proposal))
        late += done.late / judge.price / DECISIONS
        cost += float(done.cost.mean()) / DECISIONS
        changes += 0.0 if before is None else float((done.replicas != before).mean()) / (DECISIONS - 1)
        before = done.replicas.copy()
    share = np.array([late[load == each].mean() for each in np.unique(load)])
    return Lived(float(late.mean()), cost, float(share.max() - share.mean()), changes)


def taught(teacher: str, work: Path) -> preferences.Preferences:
    """Return what is learned from a teacher's answers, which go through a file as a person's do."""
    file, player, numbers = work / f"{teacher}.jsonl", preference_pairs.player(SOURCE), np.arange(PAIRS)
    found = player.play(numbers.tolist())
    said = preference_teachers.answers(teacher, found, numbers, ERROR, SOURCE.seed)
    file.unlink(missing_ok=True)
    preference_pairs.append(file, [
        Answer(int(pair), SOURCE.scenarios, SOURCE.hours, SOURCE.seed, answer, teacher, found.digest(row))
        for row, (pair, answer) in enumerate(zip(numbers, said, strict=True))
    ])  # fmt: skip
    meant = np.array([preferences.WINS[each] for each in preference_teachers.meant(teacher, found)])
    return replace(preferences.load(file, preferences.Settings()), meant=meant)


@lru_cache(maxsize=2)
def material(train: bool) -> apg.Material:
    """Return what apg trains or validates on, made once."""
    pools = trained_on()
    return apg.material(pools.train if train else pools.validation, torch.device("cpu"))


@lru_cache(maxsize=1)
def trained_on() -> loads.Pools:
    """Return the load of all trainings."""
    return loads.pools((), None, SOURCE.hours, 0)


def trained(learner: str, told: preferences.Preferences, seed: int, folder: Path) -> Artifact:
    """Return what a learner makes of it from a seed."""
    module, config, _ = LEARNERS[learner]
    run = runs.begin(folder, learner, config, {})
    more = (material(True), material(False)) if learner == "apg" else ()
    task = Task(learner, trained_on(), run, Device("cpu", "cpu"), seed, {}, preferences=told)
    made: Artifact = module.learn(task, config, *more).artifact
    return made


def at_cost(curve: list[tuple[float, float]], cost: float) -> float | None:
    """Return the value at a cost on a curve of (cost, value), linear between its points; None beyond its ends."""
    points = np.array(sorted(curve))
    if not points[0, 0] <= cost <= points[-1, 0]:
        return None
    return float(np.interp(cost, points[:, 0], points[:, 1]))


def measured(learner: str, teacher: str, seed: int, work: Path, told: preferences.Preferences) -> dict[str, Any]:
    """Return what one seed of a learner comes to without a weight and with the default one."""
    scheme = LEARNERS[learner][2]
    _, _, judge = loads.batches(trained_on(), scheme, 1, DECISIONS + 1, 0)
    row: dict[str, Any] = {"learner": learner, "teacher": teacher, "seed": seed}
    made: dict[float, Artifact] = {}
    for weight in (0.0, WEIGHT):
        settings = replace(told.settings, preference_weight=weight)
        with tempfile.TemporaryDirectory(dir=work) as folder:
            made[weight] = trained(learner, replace(told, settings=settings), seed, Path(folder, "run"))
        liked = made[weight].manifest["scores"]["preferences"]
        row[f"{weight:g}"] = asdict(lived(judge, made[weight])) | {"preferences": liked}
    if teacher == "slo":
        moves = [asdict(lived(judge, made[0.0], moved)) for moved in MOVED]
        found = row[f"{WEIGHT:g}"]
        for name in ("violations", "unfairness"):
            value = at_cost([(each["cost"], each[name]) for each in moves], found["cost"])
            row[f"{name}_at_equal_cost"] = None if value is None else found[name] - value
    return row


def estimate(values: list[float]) -> dict[str, float] | None:
    """Return the interquartile mean with its bootstrap interval, None of fewer than three values."""
    if len(values) < 3:
        return None
    found: Estimate = interquartile_mean([np.array(values)], np.random.default_rng(0))
    return {"value": found.value, "low": found.low, "high": found.high, "runs": len(values)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the statistics of all that was measured."""
    told: dict[str, Any] = {"pairs": PAIRS, "error": ERROR, "weight": WEIGHT, "learners": {}, "teachers": []}
    key = f"{WEIGHT:g}"
    for learner in LEARNERS:
        mine = [row for row in rows if row["learner"] == learner and row["teacher"] == "slo" and key in row]
        if not mine:
            continue
        part: dict[str, Any] = {
            weight: {name: estimate([row[weight][name] for row in mine]) for name in MEASURED} for weight in ("0", key)
        }
        part["difference"] = {
            name: estimate([row[key][name] - row["0"][name] for row in mine]) for name in MEASURED
        } | {
            f"{name} at equal cost": estimate(
                [row[f"{name}_at_equal_cost"] for row in mine if row[f"{name}_at_equal_cost"] is not None]
            )
            for name in ("violations", "unfairness")
        }
        for name in ("accuracy", "calibration"):
            part[name] = estimate([row[key]["preferences"][name] for row in mine])
        part["meant"] = estimate([row[key]["preferences"]["accuracy_as_meant"] for row in mine])
        bins = np.array([each for row in mine for each in row[key]["preferences"]["table"]])
        part["reliability"] = [
            [float(low), *(float(np.average(here[:, k], weights=here[:, 3])) for k in (1, 2)), int(here[:, 3].sum())]
            for low in np.unique(bins[:, 0].round(3))
            for here in [bins[bins[:, 0].round(3) == low]]
        ]
        told["learners"][learner] = part | {"seeds": len(mine)}
    for row in rows:
        if row["teacher"] != "slo":
            liked = row[key]["preferences"]
            told["teachers"].append(
                {"learner": row["learner"], "teacher": row["teacher"], "accuracy": liked["accuracy"],
                 "meant": liked["accuracy_as_meant"], "pairs": liked["pairs"]}
                | {f"{name} {weight}": row[weight][name] for name in MEASURED for weight in ("0", key)}
            )  # fmt: skip
    return told


def _words(found: dict[str, float] | None, scale: float, digits: int, sign: str = "") -> str:
    if found is None:
        return "too few runs"
    low, value, high = (scale * found[name] for name in ("low", "value", "high"))
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


SHOWN = {
    "violations": ("share of late requests, %", 100.0, 2), "cost": ("cost, billed over needed", 1.0, 3),
    "unfairness": ("worst workload's share less the mean, %", 100.0, 2),
    "changes": ("decisions that change the replicas, %", 100.0, 1),
}  # fmt: skip


def markdown(told: dict[str, Any]) -> str:
    """Return the page."""
    key = f"{told['weight']:g}"
    lines = [
        "# Preferences", "",
        "What `rlscaler train bdq|apg --preferences` does, made by `make preferences` from scripted teachers "
        f"({told['pairs']} pairs, {told['error']:.0%} of their choices turned round; \"equal\" where two episodes are "
        "within the teacher's margin). How it works: [training.md](training.md#preferences). Values are interquartile "
        "means over seeds with 95 % bootstrap intervals; budgets are a few seconds a run, so the levels are not those "
        "of whole trainings, and pairs, seeds and draws are the same with and without preferences.", "",
    ]  # fmt: skip
    for learner, part in told["learners"].items():
        gap = part["difference"]
        lines += [
            f"## {learner}: the teacher that wants fewer late requests, {part['seeds']} seeds", "",
            f"Of held-out pairs with a winner {_words(part['accuracy'], 100.0, 1)} % are told as the teacher "
            f"answered, its mistakes among them, {_words(part['meant'], 100.0, 1)} % as it meant; "
            f"calibration error {_words(part['calibration'], 1.0, 3)}.", "",
            f"| | weight 0 | weight {key} | difference |", "| --- | ---: | ---: | ---: |",
            *(f"| {text} | {_words(part['0'][name], scale, digits)} | {_words(part[key][name], scale, digits)} | "
              f"{_words(gap[name], scale, digits, '+')} |" for name, (text, scale, digits) in SHOWN.items()),
            *(f"| {SHOWN[name][0]}, at equal cost | | | "
              f"{_words(gap[f'{name} at equal cost'], SHOWN[name][1], SHOWN[name][2], '+')} |"
              for name in ("violations", "unfairness")), "",
            verdict(gap["violations at equal cost"]), "",
            "| stated chance of the side that is named | right | pairs |", "| ---: | ---: | ---: |",
            *(f"| {said:.2f} | {right:.2f} | {count} |" for _, said, right, count in part["reliability"]), "",
        ]  # fmt: skip
    if told["teachers"]:
        lines += [
            "## Other teachers, one seed each", "",
            f"| learner | teacher | told as answered | as meant | cost, weight 0 and {key} | changes | late |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
            *(f"| {each['learner']} | {each['teacher']} | {each['accuracy']:.0%} of {each['pairs']} | "
              f"{each['meant']:.0%} | "
              f"{each['cost 0']:.3f}, {each[f'cost {key}']:.3f} | "
              f"{each['changes 0']:.1%}, {each[f'changes {key}']:.1%} | "
              f"{each['violations 0']:.2%}, {each[f'violations {key}']:.2%} |" for each in told["teachers"]), "",
        ]  # fmt: skip
    return "\n".join(lines)


def verdict(found: dict[str, float] | None) -> str:
    """Return in a sentence what is shown of violations at equal cost."""
    if found is None:
        return "At equal cost nothing can be told: too few runs cost what the others can be moved to."
    of = f"At equal cost (of {found['runs']:.0f} seeds, whose cost the constants reach)"
    if found["high"] < 0.0:
        return f"{of} violations fall, by more than luck."
    if found["low"] > 0.0:
        return f"{of} violations rise: the same replicas would have been better spent by one constant."
    return f"{of} no change of violations can be told from luck: preferences do not help here."


def main() -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10, help="of each learner (default: 10)")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "preferences", help="where what is done is kept")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "preferences.json", help="figures")
    parser.add_argument("--markdown", type=Path, default=ROOT / "docs" / "preferences.md", help="page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    done = options.work / "rows.json"
    rows: list[dict[str, Any]] = json.loads(done.read_text(encoding="utf-8")) if done.exists() else []
    there = {(row["learner"], row["teacher"], row["seed"]) for row in rows}
    wanted = [(learner, "slo", seed) for seed in range(options.seeds) for learner in LEARNERS]
    wanted += [(learner, teacher, 0) for teacher in ("cost", "flap") for learner in LEARNERS]
    left = [each for each in wanted if each not in there]
    told_by = {teacher: taught(teacher, options.work) for teacher in dict.fromkeys(each for _, each, _ in left)}
    for learner, teacher, seed in left:
        began = time.process_time()
        rows.append(measured(learner, teacher, seed, options.work, told_by[teacher]))
        write_text_atomically(done, json.dumps(rows))
        print(f"{learner} {teacher} {seed}: {time.process_time() - began:.0f} s", file=sys.stderr, flush=True)
    told = summary(rows)
    write_text_atomically(options.output, json.dumps(told, indent=1) + "\n")
    write_text_atomically(options.markdown, markdown(told))


if __name__ == "__main__":
    main()
